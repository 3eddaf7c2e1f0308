"""What a step leaves behind for Dagster to know: its events, kept beside the reports.

materialized/<asset>/<first 16 digits of a digest of the receipt>.json

A step that runs elsewhere knows no instance. It reads what the steps before it have left, so that its own events name
the data versions it was made from; whoever follows the pipeline reports all of them to the instance here.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Self

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG
from dagster_shared.serdes import deserialize_value, serialize_value

from mbta_assets.launch import LaunchError
from mbta_assets.storage.reports import ReportStore

POINTER = "dagster/input_event_pointer/"
LAUNCH_TAG = "mbta_assets/launch"
"""Which launch a reported event comes from."""
Event = dg.AssetMaterialization | dg.AssetCheckEvaluation
Receipts = Mapping[str, str]
"""By asset, which of its records is meant: `<partition>@<data version>`, without a partition `@<data version>`."""


@dataclass(frozen=True)
class Record:
    """What came of one step."""

    asset: str
    receipt: str
    upstream: Receipts
    """What it was made from, of those among the steps."""
    events: tuple[Event, ...]

    @classmethod
    def of(cls, asset: str, partition: str, upstream: Receipts, events: Iterable[dg.DagsterEvent]) -> Self:
        """The record of a run. Raises LaunchError where the run has not made the asset."""
        kept: list[Event] = []
        version = None
        for event in events:
            if event.is_step_materialization:
                made = event.step_materialization_data.materialization
                version = (made.tags or {}).get(DATA_VERSION_TAG)
                kept.append(made)
            elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                kept.append(event.asset_check_evaluation_data)
        if version is None:
            raise LaunchError(f"The run of {asset} has ended without having made it.")
        return cls(asset, f"{partition}@{version}", dict(upstream), tuple(kept))

    def keep(self, reports: ReportStore) -> None:
        """Store it."""
        content = {
            "asset": self.asset,
            "receipt": self.receipt,
            "upstream": self.upstream,
            "events": [serialize_value(event) for event in self.events],
        }
        reports.write(_name(self.asset, self.receipt), json.dumps(content, indent=1).encode())

    @classmethod
    def find(cls, reports: ReportStore, asset: str, receipt: str) -> Self:
        """A record that was kept. Raises LaunchError."""
        try:
            stored = json.loads(reports.read(_name(asset, receipt)))
        except FileNotFoundError as error:
            raise LaunchError(
                f"There is no record of {asset} {receipt}. Is the store of the steps the one that is set here "
                "(MBTA_STORE, or MBTA_DEPLOYMENT=gcp and GCS_BUCKET)?"
            ) from error
        events = [
            deserialize_value(event, (dg.AssetMaterialization, dg.AssetCheckEvaluation)) for event in stored["events"]
        ]
        return cls(stored["asset"], stored["receipt"], stored["upstream"], tuple(events))

    def report(self, instance: dg.DagsterInstance, launch: str) -> bool:
        """Tell an instance, unless it has been told of this launch. Returns whether it had to be told."""
        wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(self.asset))
        for known in instance.fetch_materializations(wanted, limit=100).records:
            made = known.asset_materialization
            if made and (made.tags or {}).get(LAUNCH_TAG) == launch:
                return False
        for event in self.events:
            if isinstance(event, dg.AssetMaterialization):
                # Pointers into the event log are into that of the step, which is gone.
                tags = {name: value for name, value in (event.tags or {}).items() if not name.startswith(POINTER)}
                event = dg.AssetMaterialization(
                    event.asset_key,
                    event.description,
                    event.metadata,
                    event.partition,
                    {**tags, LAUNCH_TAG: launch},
                )
            instance.report_runless_asset_event(event)
        return True


def with_ancestors(reports: ReportStore, receipts: Receipts) -> Iterator[Record]:
    """Some records and those of all that they were made from, each once, ancestors first."""
    seen: set[str] = set()

    def walk(wanted: Receipts) -> Iterator[Record]:
        for asset, receipt in wanted.items():
            if asset not in seen:
                seen.add(asset)
                record = Record.find(reports, asset, receipt)
                yield from walk(record.upstream)
                yield record

    return walk(receipts)


def _name(asset: str, receipt: str) -> str:
    return f"materialized/{asset}/{hashlib.sha256(receipt.encode()).hexdigest()[:16]}.json"
