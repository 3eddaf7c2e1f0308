"""Commands of `mbta-assets launch`, each called by the command line with its parsed arguments."""

import hashlib
import os
import sys
import tempfile
import uuid
from collections.abc import Iterable, Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path

import dagster as dg

from mbta_assets.definitions import build_defs
from mbta_assets.defs.dagster_internals import DATA_VERSION_TAG
from mbta_assets.launch import LaunchError, pipeline
from mbta_assets.launch.lineage import Step, select_steps
from mbta_assets.launch.record import StepRecord
from mbta_assets.launch.step import RANGE_SEPARATOR, get_resource, run_step
from mbta_assets.settings import VARIABLES, Settings

DEFAULT_IMAGE = "mbta-training"
SOURCE_PREFIX = "source of "
"""Prefix of an asset that is made from nothing but the source, beside the source's version of it."""
PATHS_OF_THE_IMAGE = ("store", "google_application_credentials")
"""Settings with paths that steps elsewhere have of their own: the image's store, and their service account."""
OTHER_PATHS = ("files_dir", "gtfs_static", "vehicle_positions", "trip_updates", "feed_archive", "accuracy_bounds")
"""The other settings that may be paths."""


def compile_selection(selection: str, output: Path, image: str | None) -> None:
    """Write the pipeline of a selection as YAML."""
    image = image or Settings.from_environment().vertex_image or DEFAULT_IMAGE
    pipeline.compile_pipeline(select_steps(build_defs(), selection), image, output)


def run_selection_locally(selection: str, partition: str) -> None:
    """Run the pipeline of a selection on this machine, and report each step to the instance of DAGSTER_HOME."""
    definitions = build_defs()
    root = Path(tempfile.mkdtemp(prefix="mbta-pipeline-"))
    steps = select_steps(definitions, selection)
    version_tokens = pipeline.run_locally(steps, partition, public_environment(), root)
    reports = get_resource(definitions, "reports")
    launch = f"local-{uuid.uuid4().hex[:12]}"
    with dg.DagsterInstance.get() as instance:
        for asset, version_token in version_tokens.items():
            StepRecord.read(reports, asset, version_token).report(instance, launch)
            print(f"{asset} {version_token}")


def submit_selection(selection: str, partition: str, *, follow: bool, use_cache: bool) -> None:
    """Submit the pipeline of a selection to Vertex AI, print its name, and wait for it with `follow`.

    Where the same pipeline has not ended, nothing is submitted: wait for that one with `follow`, else raise
    LaunchError.
    """
    from mbta_assets.launch.vertex import VertexAI  # Google's client takes seconds to import

    definitions, settings = build_defs(), Settings.from_environment()
    vertex, environment = VertexAI.from_settings(settings), remote_environment(settings)
    steps = select_steps(definitions, selection)
    with dg.DagsterInstance.get() as instance:
        versions = external_inputs(definitions, steps, partition, instance)
        job = vertex.submit(steps, partition, environment, versions, use_cache=use_cache)
        if not job.is_new:
            message = f"The same pipeline was submitted before and is {job.state.lower()}; nothing was submitted."
            if not follow:
                command = f"mbta-assets launch follow {job.name} --select '{selection}'"
                raise LaunchError(f"{message} Wait for it with `{command}`, or cancel it and submit it again.")
            print(message, file=sys.stderr)
        print(job.name)
        if follow:
            vertex.follow(job.name, steps, get_resource(definitions, "reports"), instance, print)


def follow_pipeline(name: str, selection: str) -> None:
    """Wait for a submitted pipeline of a selection, and report each step to the instance of DAGSTER_HOME."""
    from mbta_assets.launch.vertex import VertexAI  # Google's client takes seconds to import

    definitions = build_defs()
    vertex = VertexAI.from_settings(Settings.from_environment())
    steps = select_steps(definitions, selection)
    with dg.DagsterInstance.get() as instance:
        vertex.follow(name, steps, get_resource(definitions, "reports"), instance, print)


def run_job(selection: str, partition: str) -> None:
    """Run one asset as a custom job of Vertex AI, and report it to the instance of DAGSTER_HOME."""
    from mbta_assets.launch.vertex import VertexAI  # Google's client takes seconds to import

    definitions, settings = build_defs(), Settings.from_environment()
    vertex, environment = VertexAI.from_settings(settings), remote_environment(settings)
    steps = select_steps(definitions, selection)
    if len(steps) > 1:
        raise LaunchError(
            f"A job materializes one asset; {selection!r} selects {len(steps)}. Submit them as a pipeline."
        )
    [step] = steps
    launch = f"job-{uuid.uuid4().hex[:12]}"
    name = vertex.submit_job(step, partition, environment, launch)
    print(name)
    with dg.DagsterInstance.get() as instance:
        reports = get_resource(definitions, "reports")
        print(step.asset, vertex.follow_job(name, step, reports, instance, launch))


def run_job_step(asset: str, partition: str, upstream: str, launch: str) -> None:
    """Materialize one asset in this process, as a step of a pipeline or job does."""
    print(asset, run_step(asset, partition, upstream, {}, launch))


def public_environment() -> dict[str, str]:
    """Return the variables of this process that are settings and no secrets, as the environment of steps here."""
    names = [variable.name for variable in VARIABLES if not variable.secret]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def remote_environment(settings: Settings) -> dict[str, str]:
    """Return the settings that are no secrets as the environment of steps on other machines.

    Raise LaunchError if one of them is a path of this machine, where such steps would find nothing.
    """
    paths = []
    for variable in VARIABLES:
        value = getattr(settings, variable.field) if variable.field in OTHER_PATHS else None
        if isinstance(value, Path) or (value not in (None, "none") and "://" not in value):
            paths.append(f"{variable.name} is {str(value)!r}, a path of this machine.")
    if paths:
        raise LaunchError(
            f"{' '.join(paths)} Steps on other machines cannot read it: submit without it (upstream tables with "
            "MBTA_SOURCE=bigquery, gtfs or lamp), or run these assets here with `dg launch`."
        )
    secrets = [variable.field for variable in VARIABLES if variable.secret]
    return settings.dump_environment(exclude=[*PATHS_OF_THE_IMAGE, *secrets])


def external_inputs(
    definitions: dg.Definitions, steps: Sequence[Step], partition: str, instance: dg.DagsterInstance
) -> str:
    """Return the data versions of what the steps depend on and do not materialize, as `name=version,…`.

    As a parameter of the pipeline, it makes Kubeflow's cache miss where an external input has changed. The versions
    are those of the latest materializations, of each day of a daily asset (all of its days without a partition), and,
    for assets without dependencies, the source's. Raise LaunchError if the partition is invalid.
    """
    graph, days = definitions.resolve_asset_graph(), list_days(partition)
    versions: dict[str, str] = {}
    for asset in sorted({name for step in steps for name in step.external_inputs}):
        partitions: Iterable[str | None] = [None]
        if graph.get(dg.AssetKey(asset)).is_partitioned:
            partitions = map(str, days) if days else sorted(instance.get_materialized_partitions(dg.AssetKey(asset)))
        versions[asset] = summarize_versions({key: find_data_version(instance, asset, key) for key in partitions})
    if days:
        source = get_resource(definitions, "source")
        for step in steps:
            if not (step.upstream or step.external_inputs):
                polled = source.poll(step.asset, {})
                versions[SOURCE_PREFIX + step.asset] = summarize_versions({str(day): polled.get(day) for day in days})
    return ",".join(f"{name}={version}" for name, version in sorted(versions.items()) if version)


def list_days(partition: str) -> list[date]:
    """Return the service days of a partition, YYYY-MM-DD or FIRST...LAST; none if it is empty. Raise LaunchError."""
    if not partition:
        return []
    try:
        first, *last = map(date.fromisoformat, partition.split(RANGE_SEPARATOR))
        days = (last[-1] - first).days + 1 if last else 1
    except ValueError:
        days = 0
    if days < 1 or len(last) > 1:
        raise LaunchError(
            f"The partition {partition!r} is no service date and no range of them. It may be such as 2024-09-09, or "
            "2024-09-09...2024-09-18, the earlier date first."
        )
    return [first + timedelta(days=number) for number in range(days)]


def find_data_version(instance: dg.DagsterInstance, asset: str, partition: str | None) -> str | None:
    """Return the data version of the latest materialization of an asset, or of a partition; None if there is none."""
    partitions = [partition] if partition else None
    records_filter = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=partitions)
    for record in instance.fetch_materializations(records_filter, limit=1).records:
        tags = (record.asset_materialization and record.asset_materialization.tags) or {}
        return tags.get(DATA_VERSION_TAG)
    return None


def summarize_versions(versions: Mapping[str | None, str | None]) -> str:
    """Return one version as it is, and those of several days as their digest; empty if there is none."""
    if len(versions) == 1:
        return next(iter(versions.values())) or ""
    if not any(versions.values()):
        return ""
    lines = [f"{day} {version}" for day, version in versions.items() if version]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]
