"""The versions that a run has made or was given, which its steps read instead of the current ones.

A version is known by Dagster's event log: a materialization is tagged with the digest of its bundle.
"""

import re
from collections.abc import Collection, Iterator

import dagster as dg

from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG

LAUNCH_TAG = "mbta_assets/launch"
"""Tag of a materialization that was reported to an instance: the launch that it comes from."""
INPUTS_LAUNCH = "inputs"
"""Launch under which the instance of a single step knows the records of its inputs."""
DIGEST_PATTERN = re.compile(r"[0-9a-f]{64}")


def find_pinned_versions(instance: dg.DagsterInstance, run: dg.DagsterRun, assets: Collection[str]) -> dict[str, str]:
    """Return the digests by which a run reads some assets; an asset that it neither made nor was given is left out.

    A version of this run comes before those of the runs that it re-executes, the latest first, and they come before
    the records that a pipeline has reported as the inputs of its step.
    """
    pinned: dict[str, str] = {}
    for event in _iterate_materializations(instance, run):
        asset, digest = event.asset_key.path[-1], _get_digest(event)
        if digest and asset in assets:
            pinned.setdefault(asset, digest)
    for asset in sorted(set(assets) - pinned.keys()):
        for record in instance.fetch_materializations(dg.AssetKey(asset), limit=1).records:
            reported = record.asset_materialization
            if reported and (reported.tags or {}).get(LAUNCH_TAG) == INPUTS_LAUNCH and _get_digest(reported):
                pinned[asset] = _get_digest(reported)
    return pinned


def _iterate_materializations(instance: dg.DagsterInstance, run: dg.DagsterRun) -> Iterator[dg.AssetMaterialization]:
    """Yield the materializations of a run, then of the run that it re-executes, and so on, the latest first."""
    ancestor: dg.DagsterRun | None = run
    while ancestor:
        for entry in reversed(instance.all_logs(ancestor.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)):
            if entry.asset_materialization:
                yield entry.asset_materialization
        ancestor = instance.get_run_by_id(ancestor.parent_run_id) if ancestor.parent_run_id else None


def _get_digest(materialization: dg.AssetMaterialization) -> str:
    """Return the digest of a materialized bundle; empty where the data version is none, as of a refused promotion."""
    version = (materialization.tags or {}).get(DATA_VERSION_TAG, "")
    return version if DIGEST_PATTERN.fullmatch(version) else ""
