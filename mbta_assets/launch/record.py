"""Records of materialized steps, stored beside the reports until somebody reports them to a Dagster instance.

A step that runs on another machine has no access to the instance. It stores its events as
`materialized/<asset>/<digest of the version token>.json`. Later steps report the records of their inputs to an instance
of their own, so that their events name the data versions of the inputs; whoever follows the pipeline reports every
record to the instance of the deployment.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

import dagster as dg
from dagster_shared.serdes import deserialize_value, serialize_value

from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG
from mbta_assets.defs.io_managers.pins import LAUNCH_TAG
from mbta_assets.launch import LaunchError
from mbta_assets.storage.reports import ReportStore

EVENT_POINTER_PREFIX = "dagster/input_event_pointer/"
"""Prefix of tags with positions in an event log."""
MAX_RECORDS_SEARCHED = 100
"""Number of latest materializations that are searched for a launch."""
Event = dg.AssetMaterialization | dg.AssetCheckEvaluation
VersionTokens = Mapping[str, str]
"""Version token of each asset: `<partition>@<data version>`, or `@<data version>` for an asset without partitions."""


def combine_versions(versions: Sequence[str]) -> str:
    """Return one version of the partitions of a run: that of a single one, or a digest of those of several."""
    return versions[0] if len(versions) == 1 else hashlib.sha256("".join(versions).encode()).hexdigest()


@dataclass(frozen=True)
class StepRecord:
    """Events of one materialized asset, with the version tokens of its inputs."""

    asset: str
    version_token: str
    upstream: VersionTokens
    """Inputs that are steps of the same pipeline."""
    events: tuple[Event, ...]

    @classmethod
    def from_events(
        cls, asset: str, partition: str, upstream: VersionTokens, run_events: Iterable[dg.DagsterEvent]
    ) -> Self:
        """Return the record of a run. Raise LaunchError if the run has not materialized the asset."""
        events: list[Event] = []
        versions: list[str] = []
        for event in run_events:
            if event.is_step_materialization:
                materialization = event.step_materialization_data.materialization
                version = (materialization.tags or {}).get(DATA_VERSION_TAG)
                if version and materialization.asset_key == dg.AssetKey(asset):
                    versions.append(version)
                events.append(materialization)
            elif event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
                events.append(event.asset_check_evaluation_data)
        if not versions:
            raise LaunchError(f"The run of {asset} has ended without materializing it.")
        return cls(asset, f"{partition}@{combine_versions(versions)}", dict(upstream), tuple(events))

    @classmethod
    def read(cls, reports: ReportStore, asset: str, version_token: str) -> Self:
        """Read a stored record. Raise LaunchError if there is none."""
        try:
            content = json.loads(reports.read(record_name(asset, version_token)))
        except FileNotFoundError as error:
            raise LaunchError(
                f"There is no record of {asset} {version_token}. Is the store of the steps the one that is set here "
                "(MBTA_STORE, or MBTA_DEPLOYMENT=gcp and GCS_BUCKET)?"
            ) from error
        events = [
            deserialize_value(event, (dg.AssetMaterialization, dg.AssetCheckEvaluation)) for event in content["events"]
        ]
        return cls(content["asset"], content["version_token"], content["upstream"], tuple(events))

    def write(self, reports: ReportStore) -> None:
        """Store the record where `read` looks for it."""
        content = {
            "asset": self.asset,
            "version_token": self.version_token,
            "upstream": self.upstream,
            "events": [serialize_value(event) for event in self.events],
        }
        reports.write(record_name(self.asset, self.version_token), json.dumps(content, indent=1).encode())

    def report(self, instance: dg.DagsterInstance, launch: str) -> bool:
        """Report the events to an instance once for each launch; return False if it already has them."""
        if self._is_reported(instance, launch):
            return False
        for event in self.events:
            if isinstance(event, dg.AssetMaterialization):
                event = tag_launch(event, launch)
            instance.report_runless_asset_event(event)
        return True

    def _is_reported(self, instance: dg.DagsterInstance, launch: str) -> bool:
        """Return whether an instance has a materialization that is tagged with a launch."""
        records_filter = dg.AssetRecordsFilter(asset_key=dg.AssetKey(self.asset))
        records = instance.fetch_materializations(records_filter, limit=MAX_RECORDS_SEARCHED).records
        materializations = [record.asset_materialization for record in records if record.asset_materialization]
        return any((event.tags or {}).get(LAUNCH_TAG) == launch for event in materializations)


def tag_launch(event: dg.AssetMaterialization, launch: str) -> dg.AssetMaterialization:
    """Return a materialization that is tagged with its launch.

    Positions in the event log of the step are left out: that log ended with the step.
    """
    tags = {name: value for name, value in (event.tags or {}).items() if not name.startswith(EVENT_POINTER_PREFIX)}
    return dg.AssetMaterialization(
        event.asset_key,
        event.description,
        event.metadata,
        event.partition,
        {**tags, LAUNCH_TAG: launch},
    )


def read_with_ancestors(reports: ReportStore, version_tokens: VersionTokens) -> Iterator[StepRecord]:
    """Yield the records with some version tokens and those of all their inputs, each once, inputs first.

    Raise LaunchError if a record is missing.
    """
    visited: set[str] = set()

    def visit(tokens: VersionTokens) -> Iterator[StepRecord]:
        for asset, version_token in tokens.items():
            if asset not in visited:
                visited.add(asset)
                record = StepRecord.read(reports, asset, version_token)
                yield from visit(record.upstream)
                yield record

    return visit(version_tokens)


def record_name(asset: str, version_token: str) -> str:
    """Return the name of the report that holds a record."""
    return f"materialized/{asset}/{hashlib.sha256(version_token.encode()).hexdigest()[:16]}.json"


def format_version_tokens(version_tokens: VersionTokens) -> str:
    """Return version tokens as one text, `asset=token,…`, which a task can take as a parameter."""
    return ",".join(f"{asset}={version_token}" for asset, version_token in sorted(version_tokens.items()))


def parse_version_tokens(text: str) -> dict[str, str]:
    """Convert the text of `format_version_tokens` to version tokens by asset."""
    return dict(entry.split("=", 1) for entry in text.split(",") if entry)
