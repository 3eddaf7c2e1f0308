"""The console command `mbta-assets`.

A command imports what it needs when it is called: Dagster takes seconds to import, and `--help` needs none of it.
"""

import json
import logging
import os
import signal
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from mbta_assets.counts import format_count
from mbta_assets.gcp import CloudError
from mbta_assets.launch import LaunchError
from mbta_assets.storage.bundle import BundleError

selection_option = click.option(
    "--select", "selection", required=True, help="Assets to materialize, as in `dg launch --assets SELECTION`."
)
partition_option = click.option(
    "--partition", default="", help="Service date, YYYY-MM-DD, or a range of them, FIRST...LAST."
)


class ErrorReportingGroup(click.Group):
    """Group of commands that prints expected errors without a traceback and exits with 1."""

    def invoke(self, context: click.Context) -> Any:
        """Run a command, and raise an expected error as one that click prints."""
        from mbta_assets.settings import SettingsError  # imports pydantic, which `--help` can do without

        try:
            return super().invoke(context)
        except (SettingsError, LaunchError, CloudError, BundleError) as error:
            raise click.ClickException(str(error)) from error


def require_dagster_home() -> None:
    """Raise click.ClickException unless DAGSTER_HOME is set."""
    if not os.environ.get("DAGSTER_HOME"):
        raise click.ClickException("DAGSTER_HOME is not set; it may be the absolute path of an existing directory.")


@click.group(cls=ErrorReportingGroup, context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Learn to predict transit arrivals, and serve the predictions.

    Assets are materialized with `dg launch` or in the Dagster UI (`dg dev`). Settings are environment variables; list
    them with `mbta-assets settings`.
    """


@main.command()
def demo() -> None:
    """Materialize ten service days, train, and print the leaderboard."""
    require_dagster_home()
    from mbta_assets.defs.demo import run_demo  # imports Dagster

    run_demo()


DAY_FORMAT = "YYYY-MM-DD"
day_type = click.DateTime(["%Y-%m-%d"])


@main.command()
@click.option("--source", help="Where the upstream tables come from, instead of MBTA_SOURCE.")
@click.option("--last", "latest", type=click.IntRange(min=1), help="Number of latest service days that there are.")
@click.option("--from", "first", type=day_type, metavar=DAY_FORMAT, help="First service day, instead of --last.")
@click.option(
    "--to", "last", type=day_type, metavar=DAY_FORMAT, help="Last service day. By default the latest that there is."
)
def backfill(source: str | None, latest: int | None, first: datetime | None, last: datetime | None) -> None:
    """Fetch service days, materialize, train, and print the leaderboard."""
    if (latest is None) == (first is None):
        raise click.UsageError("Which service days? Give either --last, such as --last 30, or --from.")
    if first and last and first > last:
        raise click.UsageError(f"--from {first:%Y-%m-%d} is after --to {last:%Y-%m-%d}.")
    require_dagster_home()
    from mbta_assets.defs.backfill import DayRange, run_backfill  # imports Dagster

    run_backfill(DayRange(latest, first and first.date(), last and last.date()), source)


@main.command()
def check() -> None:
    """Test each permission on Google Cloud that a run needs."""
    from mbta_assets.storage import permissions  # imports Google's libraries

    sys.exit(permissions.main())


@main.command()
def settings() -> None:
    """Print a Markdown table of every setting."""
    from mbta_assets.markdown import settings_table  # imports pydantic

    click.echo(settings_table())


@main.command()
@click.argument("day", metavar="DAY", type=day_type, help="Stored service day, YYYY-MM-DD.")
@click.argument("trip_id", help="Trip of that day.")
@click.argument("stop_sequence", type=int, help="Stop sequence of the stop in the trip.")
@click.option("--at", help="Time up to which reports were known, such as 2024-09-18T08:30:00-04:00. By default all.")
@click.option("--vehicle", help="Vehicle, where several ran the trip.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def explain(
    day: datetime, trip_id: str, stop_sequence: int, at: str | None, vehicle: str | None, as_json: bool
) -> None:
    """Show what the prediction for one stop of a trip was made of.

    The latest prediction is shown, or the latest one up to --at: its model, features with their values, what each group
    of them adds, the entry of the run-time lookup, and the versions of the data.
    """
    from mbta_assets.definitions import open_resources  # imports Dagster
    from mbta_assets.defs.monitoring import explanation
    from mbta_assets.settings import Settings
    from mbta_assets.sources import SourceError
    from mbta_assets.storage.tables import MissingPartition

    visit = explanation.Visit(day.date(), trip_id, stop_sequence, parse_time(at), vehicle)
    try:
        names = ("warehouse", "source", "model_registry", "reports")
        with open_resources(Settings.from_environment(), *names) as resources:
            content = explanation.explain_prediction(
                resources.warehouse, resources.source, resources.model_registry, resources.reports, visit
            )
    except (explanation.NothingToExplain, SourceError, MissingPartition) as error:
        raise click.ClickException(str(error)) from error
    click.echo(json.dumps(content, indent=1) if as_json else explanation.format_explanation(content))


def parse_time(text: str | None) -> datetime | None:
    """Return a time with its offset from UTC. Raises click.UsageError for anything else."""
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError as error:
        raise click.UsageError(f"--at {text} is no time; write it such as 2024-09-18T08:30:00-04:00.") from error
    if time.tzinfo is None:
        raise click.UsageError(f"--at {text} has no offset from UTC; write it such as {text}-04:00, or {text}Z.")
    return time


@main.command()
@click.option("--dry-run", is_flag=True, help="List what would be removed, and remove nothing.")
def prune(dry_run: bool) -> None:
    """Remove versions, refused days and plots that nothing needs."""
    from mbta_assets.defs.automation import pruning  # imports Dagster
    from mbta_assets.settings import Settings  # imports pydantic, which `--help` can do without
    from mbta_assets.storage import retention

    settings = Settings.from_environment()
    now, registry = datetime.now(UTC), retention.open_registry(settings)
    plan = retention.make_plan(registry, retention.Retention.from_settings(settings), now)
    if not dry_run:
        plan = retention.apply_plan(registry, plan)
    trainings = pruning.prune_plots_of_home(settings.keep_plots, dry_run=dry_run)
    for row in plan.to_table(now) + pruning.describe_runs(trainings, now):
        click.echo(f"{row['size_bytes']:>14,} bytes  {row['age_days']:>6} days  {row['name']}")
    verb = "would be removed" if dry_run else "removed"
    versions, files = format_count(len(plan.versions), "version"), format_count(len(plan.files), "file")
    counts = f"{versions}, {files} and {format_count(len(trainings), 'run')}"
    click.echo(f"{plan.size_bytes:>14,} bytes  in {counts} {verb}.")


@main.command()
@click.option(
    "--every", default=10.0, show_default=True, type=click.FloatRange(min=0.01), help="Seconds between two requests."
)
@click.option(
    "--write-every",
    default=60.0,
    show_default=True,
    type=click.FloatRange(0, 900),
    help="Seconds between two writes: what is lost at most if the collector is killed.",
)
@click.option(
    "--check-static-every",
    default=3600.0,
    show_default=True,
    type=click.FloatRange(min=0.01),
    help="Seconds between two checks of the GTFS schedule.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address of /metrics and /health.")
@click.option("--port", default=9464, show_default=True, help="Port of /metrics and /health; 0 to serve none.")
@click.option("--stop-after", type=click.FloatRange(min=0), help="Seconds after which to stop. By default never.")
def collect(
    every: float, write_every: float, check_static_every: float, host: str, port: int, stop_after: float | None
) -> None:
    """Keep the agency's feeds in an archive until it is stopped.

    It polls MBTA_VEHICLE_POSITIONS, MBTA_TRIP_UPDATES if that is set, and MBTA_GTFS_STATIC. The archive is
    MBTA_FEED_ARCHIVE.
    """
    from mbta_assets.realtime import places
    from mbta_assets.settings import Settings  # imports pydantic, which `--help` can do without
    from mbta_assets.sources.gtfs import collector

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stdout)
    logging.getLogger("httpx2").setLevel(logging.WARNING)  # it has a line for each request
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    if stop_after is not None:
        timer = threading.Timer(stop_after, stop.set)
        timer.daemon = True
        timer.start()
    pace = collector.Pace(every, write_every, check_static_every)
    try:
        collector.collect(Settings.from_environment(), pace, (host, port) if port else None, stop)
    except (collector.CollectorError, places.ArchiveError) as error:
        raise click.ClickException(str(error)) from error


@main.command()
@click.option(
    "--every", default=10.0, show_default=True, type=click.FloatRange(min=0.01), help="Seconds between two requests."
)
@click.option(
    "--replay", type=day_type, metavar=DAY_FORMAT, help="Replay a stored service day instead of following the feed."
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0),
    help="Speed of the replay; 0 for as fast as possible.",
)
@click.option(
    "--archive/--no-archive",
    default=True,
    show_default=True,
    help="Keep snapshots in MBTA_FEED_ARCHIVE; not beside a collector, which does it.",
)
@click.option(
    "--archive-predictions/--no-archive-predictions",
    default=None,
    show_default="unless it is a replay",
    help="Keep what is published in MBTA_FEED_ARCHIVE, once a minute.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to serve at.")
@click.option("--port", default=8090, show_default=True, help="Port to serve at; 0 for one that is free.")
def live(
    every: float,
    replay: datetime | None,
    speed: float,
    archive: bool,
    archive_predictions: bool | None,
    host: str,
    port: int,
) -> None:
    """Predict arrivals of the live feed and serve TripUpdates.

    At each update of the feed every stop ahead of every vehicle is predicted.

    It follows MBTA_VEHICLE_POSITIONS: the address of a feed, or a directory of snapshots that others fill. Timetables
    are those of MBTA_SOURCE; the model is MBTA_MODEL.
    """
    from mbta_assets.live import command  # imports pandas
    from mbta_assets.realtime import places
    from mbta_assets.settings import Settings  # imports pydantic, which `--help` can do without
    from mbta_assets.sources import SourceError

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    options = command.Options(every, replay and replay.date(), speed, archive, host, port, archive_predictions)
    try:
        command.run(Settings.from_environment(), options, stop)
    except (command.LiveError, places.ArchiveError, SourceError) as error:
        raise click.ClickException(str(error)) from error


@main.group()
def launch() -> None:
    """Run assets as a Kubeflow pipeline, here or on Vertex AI."""


@launch.command("compile")
@selection_option
@click.option(
    "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="The YAML file to write."
)
@click.option("--image", help="Container image of the steps. By default VERTEX_IMAGE.")
def compile_command(selection: str, output: Path, image: str | None) -> None:
    """Write the pipeline as YAML."""
    from mbta_assets.launch import commands  # imports Dagster

    commands.compile_selection(selection, output, image)


@launch.command()
@selection_option
@partition_option
def local(selection: str, partition: str) -> None:
    """Run the pipeline on this machine with Kubeflow's local runner."""
    require_dagster_home()
    from mbta_assets.launch import commands  # imports Dagster

    commands.run_selection_locally(selection, partition)


@launch.command()
@selection_option
@partition_option
@click.option("--follow", is_flag=True, help="Wait for the pipeline, and report its assets to Dagster.")
@click.option("--no-cache", is_flag=True, help="Execute every step, also those whose inputs have not changed.")
def submit(selection: str, partition: str, follow: bool, no_cache: bool) -> None:
    """Submit the pipeline to Vertex AI and print its name."""
    require_dagster_home()
    from mbta_assets.launch import commands  # imports Dagster

    commands.submit_selection(selection, partition, follow=follow, use_cache=not no_cache)


@launch.command()
@click.argument("name", help="Name of the pipeline, as `mbta-assets launch submit` prints it.")
@selection_option
def follow(name: str, selection: str) -> None:
    """Wait for the submitted pipeline NAME and report its assets."""
    require_dagster_home()
    from mbta_assets.launch import commands  # imports Dagster

    commands.follow_pipeline(name, selection)


@launch.command()
@selection_option
@partition_option
def job(selection: str, partition: str) -> None:
    """Run one asset as a custom job of Vertex AI, and wait for it."""
    require_dagster_home()
    from mbta_assets.launch import commands  # imports Dagster

    commands.run_job(selection, partition)


@launch.command()
@click.argument("asset", help="Key of the asset.")
@partition_option
@click.option("--upstream", default="", help="Version tokens of the inputs, as ASSET=TOKEN,...")
@click.option("--launch", "launch_name", default="", help="Name under which to store the version token.")
def step(asset: str, partition: str, upstream: str, launch_name: str) -> None:
    """Materialize one ASSET in this process, as jobs on Vertex AI do."""
    from mbta_assets.launch import commands  # imports Dagster

    commands.run_job_step(asset, partition, upstream, launch_name)
