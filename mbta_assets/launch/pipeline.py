"""A Kubeflow pipeline of some steps: compiled to YAML, or run on this machine by Kubeflow's own local runner."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mbta_assets.launch import LaunchError
from mbta_assets.launch.lineage import Step
from mbta_assets.launch.step import write_receipts

Pipeline = Any
NAME = "mbta-assets"


def build(steps: Sequence[Step], image: str) -> Pipeline:
    """The pipeline of some steps: a task an asset, named like it, after those of the assets it is made from.

    Its parameters are the partition, the environment of all steps, and what is known of assets outside of it. Each
    task's output is its receipt, which those after it take: so a task runs again where what it is made from has another
    data version, and is taken from Kubeflow's cache where it has not.
    """
    from kfp import dsl

    @dsl.component(base_image=image, install_kfp_package=False)
    def make(asset: str, partition: str, upstream: str, outside: str, environment: dict) -> str:
        from mbta_assets.launch.step import run

        return run(asset, partition, upstream, environment)

    outputs = NamedTuple("Receipts", [(step.asset, str) for step in steps])  # type: ignore[misc]

    def receipts(partition: str = "", environment: dict = {}, outside: str = "") -> outputs:  # noqa: B006
        tasks: dict[str, Any] = {}
        for step in steps:
            task = make(
                asset=step.asset,
                partition=partition if step.partitioned else "",
                upstream=write_receipts({name: tasks[name].output for name in step.upstream}),
                outside=outside if step.outside or not step.upstream else "",
                environment=environment,
            )
            task.set_display_name(step.asset)
            task.set_cpu_limit(str(step.machine.cores)).set_memory_limit(f"{step.machine.gigabytes:g}G")
            if step.machine.accelerator:
                task.set_accelerator_type(step.machine.accelerator).set_accelerator_limit(step.machine.accelerators)
            tasks[step.asset] = task
        return outputs(**{asset: task.output for asset, task in tasks.items()})

    return dsl.pipeline(name=NAME)(receipts)


def compile_to(steps: Sequence[Step], image: str, path: Path) -> None:
    """Write the pipeline as YAML, which Kubeflow and Vertex AI take."""
    from kfp import compiler

    compiler.Compiler().compile(build(steps, image), str(path))


def specification(steps: Sequence[Step], image: str) -> dict[str, Any]:
    """The pipeline as Vertex AI takes it in a request."""
    import tempfile

    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "pipeline.yaml"
        compile_to(steps, image, path)
        return yaml.safe_load(path.read_text())


def edges(specification: Mapping[str, Any]) -> dict[str, set[str]]:
    """By asset, the assets that a compiled pipeline makes before it and hands on to it."""
    name = asset_of_each_task(specification)
    tasks = specification["root"]["dag"]["tasks"]
    return {name[key]: {name[one] for one in task.get("dependentTasks", [])} for key, task in tasks.items()}


def asset_of_each_task(specification: Mapping[str, Any]) -> dict[str, str]:
    """By the key of each task of a compiled pipeline, the asset that it makes."""
    return {key: task["taskInfo"]["name"] for key, task in specification["root"]["dag"]["tasks"].items()}


def run_here(steps: Sequence[Step], partition: str, environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """Run the pipeline on this machine, a process a step; the receipts. Raises LaunchError.

    What the runner keeps for itself goes below `root` and is removed.
    """
    from kfp import local

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        done = build(steps, image="here")(partition=partition, environment=dict(environment))
    except RuntimeError as error:
        raise LaunchError(f"The pipeline has failed on this machine: {error}") from error
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return dict(done.outputs)
