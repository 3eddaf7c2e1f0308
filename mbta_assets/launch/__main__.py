"""`python -m mbta_assets.launch`: a selection of the lineage as a Kubeflow pipeline.

compile --select S --output FILE               the pipeline as YAML
here    --select S [--partition P]             on this machine, by Kubeflow's local runner
submit  --select S [--partition P] [--follow]  to Vertex AI
follow  NAME --select S                        wait for a submitted one
job     --select ASSET [--partition P]         one asset as a custom job of Vertex AI, followed
step    ASSET [--partition P] [--launch ID]    what such a job runs
"""

import argparse
import os
import sys
import tempfile
import uuid
from collections.abc import Sequence
from datetime import date
from pathlib import Path

import dagster as dg
from dagster._core.definitions.data_version import DATA_VERSION_TAG

from mbta_assets.gcp import CloudError
from mbta_assets.launch import LaunchError
from mbta_assets.launch.lineage import Step, steps
from mbta_assets.launch.step import RANGE, resource
from mbta_assets.settings import VARIABLES, Settings, SettingsError

SOURCE = "source of "


def main(arguments: Sequence[str] | None = None) -> int:
    """Do what the command line says; the exit code."""
    asked = _parser().parse_args(arguments)
    try:
        return _COMMANDS[asked.command](asked)
    except (LaunchError, CloudError, SettingsError) as error:
        print(error, file=sys.stderr)
        return 1


def environment() -> dict[str, str]:
    """The settings of this process, to be those of the steps; no secrets."""
    names = [variable.name for variable in VARIABLES if not variable.secret]
    return {name: os.environ[name] for name in names if os.environ.get(name)}


def outside(definitions: dg.Definitions, chosen: Sequence[Step], partition: str, instance: dg.DagsterInstance) -> str:
    """The data versions of what the steps are made from and do not make, so that a cache knows of their changes."""
    found: dict[str, str] = {}
    for asset in sorted({name for step in chosen for name in step.outside}):
        wanted = dg.AssetRecordsFilter(dg.AssetKey(asset), asset_partitions=[partition] if partition else None)
        for record in instance.fetch_materializations(wanted, limit=1).records:
            made = record.asset_materialization
            found[asset] = (made.tags or {}).get(DATA_VERSION_TAG, "") if made else ""
    if partition and RANGE not in partition:
        source = resource(definitions, "source")
        for step in chosen:
            if not (step.upstream or step.outside):
                version = source.poll(step.asset, {}).get(date.fromisoformat(partition))
                found |= {SOURCE + step.asset: version} if version else {}
    return ",".join(f"{name}={version}" for name, version in sorted(found.items()))


def _compile(asked: argparse.Namespace) -> int:
    from mbta_assets.launch import pipeline

    image = asked.image or Settings.from_environment().vertex_image or "mbta-training"
    pipeline.compile_to(steps(_definitions(), asked.select), image, asked.output)
    return 0


def _here(asked: argparse.Namespace) -> int:
    from mbta_assets.launch import pipeline
    from mbta_assets.launch.record import Record

    definitions = _definitions()
    root = Path(tempfile.mkdtemp(prefix="mbta-pipeline-"))
    receipts = pipeline.run_here(steps(definitions, asked.select), asked.partition, environment(), root)
    reports, launch = resource(definitions, "reports"), f"here-{uuid.uuid4().hex[:12]}"
    with dg.DagsterInstance.get() as instance:
        for asset, receipt in receipts.items():
            Record.find(reports, asset, receipt).report(instance, launch)
            print(f"{asset} {receipt}")
    return 0


def _submit(asked: argparse.Namespace) -> int:
    from mbta_assets.launch.vertex import Vertex

    definitions, vertex = _definitions(), Vertex.of(Settings.from_environment())
    chosen = steps(definitions, asked.select)
    with dg.DagsterInstance.get() as instance:
        seen = outside(definitions, chosen, asked.partition, instance)
        name = vertex.submit(chosen, asked.partition, environment(), seen)
        print(name)
        if asked.follow:
            vertex.follow(name, chosen, resource(definitions, "reports"), instance, print)
    return 0


def _follow(asked: argparse.Namespace) -> int:
    from mbta_assets.launch.vertex import Vertex

    definitions = _definitions()
    with dg.DagsterInstance.get() as instance:
        reports = resource(definitions, "reports")
        Vertex.of(Settings.from_environment()).follow(
            asked.name, steps(definitions, asked.select), reports, instance, print
        )
    return 0


def _job(asked: argparse.Namespace) -> int:
    from mbta_assets.launch.vertex import Vertex

    definitions, vertex = _definitions(), Vertex.of(Settings.from_environment())
    step, *more = steps(definitions, asked.select)
    if more:
        raise LaunchError(
            f"A job makes one asset; {asked.select!r} selects {len(more) + 1}. Submit them as a pipeline."
        )
    launch = f"job-{uuid.uuid4().hex[:12]}"
    name = vertex.submit_one(step, asked.partition, environment(), launch)
    print(name)
    with dg.DagsterInstance.get() as instance:
        reports = resource(definitions, "reports")
        print(step.asset, vertex.follow_one(name, step, reports, instance, launch))
    return 0


def _step(asked: argparse.Namespace) -> int:
    from mbta_assets.launch.step import run

    print(asked.asset, run(asked.asset, asked.partition, asked.upstream, {}, asked.launch))
    return 0


def _definitions() -> dg.Definitions:
    from mbta_assets.definitions import build_defs

    return build_defs()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mbta_assets.launch", description="The lineage somewhere else.")
    commands = parser.add_subparsers(dest="command", required=True)
    made = {name: commands.add_parser(name) for name in _COMMANDS}
    for name in ("compile", "here", "submit", "follow", "job"):
        made[name].add_argument("--select", required=True, help="as for dagster asset materialize")
    for name in ("here", "submit", "job", "step"):
        made[name].add_argument("--partition", default="", help="YYYY-MM-DD, or the first...the last")
    made["compile"].add_argument("--output", type=Path, required=True, help="the YAML file to write")
    made["compile"].add_argument("--image", help="what steps run in; by default VERTEX_IMAGE")
    made["submit"].add_argument("--follow", action="store_true", help="wait, and tell Dagster what was made")
    made["follow"].add_argument("name", help="what submit has printed")
    made["step"].add_argument("asset")
    made["step"].add_argument("--upstream", default="", help="receipts of what it is made from")
    made["step"].add_argument("--launch", default="", help="the name to keep the receipt under")
    return parser


_COMMANDS = {"compile": _compile, "here": _here, "submit": _submit, "follow": _follow, "job": _job, "step": _step}

if __name__ == "__main__":
    sys.exit(main())
