"""Kubeflow pipeline of a list of steps: compiled to YAML, or run on this machine by Kubeflow's local runner.

Kubeflow's libraries are imported where they are used: steps on Vertex AI import this package and need none of them.
"""

import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from mbta_assets.launch import LaunchError
from mbta_assets.launch.lineage import Step
from mbta_assets.launch.record import format_version_tokens

PIPELINE_NAME = "mbta-assets"
LOCAL_IMAGE = "local"
"""Image name of a local run, which uses no image."""


def build_pipeline(steps: Sequence[Step], image: str, *, use_cache: bool = True) -> Any:
    """Return a pipeline with a task for each step, named after its asset.

    Its parameters are the partition, the environment of all steps, and the data versions of external inputs. A task
    outputs its version token and takes those of its inputs, so that Kubeflow's cache misses exactly where the data
    version of an input has changed. Without `use_cache` every task is executed.
    """
    from kfp import dsl

    @dsl.component(base_image=image, install_kfp_package=False)
    def materialize(asset: str, partition: str, upstream: str, external_inputs: str, environment: dict) -> str:
        from mbta_assets.launch.step import run_step

        return run_step(asset, partition, upstream, environment)

    outputs = NamedTuple("VersionTokens", [(step.asset, str) for step in steps])  # type: ignore[misc]

    def materialize_selection(
        partition: str = "",
        environment: dict = {},  # noqa: B006 (Kubeflow reads defaults from the signature)
        external_inputs: str = "",
    ) -> outputs:
        tasks: dict[str, Any] = {}
        for step in steps:
            task = materialize(
                asset=step.asset,
                partition=partition if step.partitioned else "",
                upstream=format_version_tokens({name: tasks[name].output for name in step.upstream}),
                external_inputs=external_inputs if step.external_inputs or not step.upstream else "",
                environment=environment,
            )
            set_resources(task, step)
            task.set_caching_options(use_cache)
            tasks[step.asset] = task
        return outputs(**{asset: task.output for asset, task in tasks.items()})

    return dsl.pipeline(name=PIPELINE_NAME)(materialize_selection)


def set_resources(task: Any, step: Step) -> None:
    """Set the display name, CPU, memory and accelerators of a task to those of its step."""
    machine = step.machine
    task.set_display_name(step.asset)
    task.set_cpu_limit(str(machine.cores)).set_memory_limit(f"{machine.gigabytes:g}G")
    if machine.accelerator:
        task.set_accelerator_type(machine.accelerator).set_accelerator_limit(machine.accelerators)


def compile_pipeline(steps: Sequence[Step], image: str, path: Path, *, use_cache: bool = True) -> None:
    """Write the pipeline as the YAML that Kubeflow and Vertex AI accept."""
    from kfp import compiler

    compiler.Compiler().compile(build_pipeline(steps, image, use_cache=use_cache), str(path))


def pipeline_spec(steps: Sequence[Step], image: str, *, use_cache: bool = True) -> dict[str, Any]:
    """Return the compiled pipeline as the specification in a request to Vertex AI."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "pipeline.yaml"
        compile_pipeline(steps, image, path, use_cache=use_cache)
        return yaml.safe_load(path.read_text())


def upstream_assets(spec: Mapping[str, Any]) -> dict[str, set[str]]:
    """Return, for each asset of a compiled pipeline, the assets whose tasks run before it."""
    assets = task_assets(spec)
    tasks = spec["root"]["dag"]["tasks"]
    return {assets[key]: {assets[name] for name in task.get("dependentTasks", [])} for key, task in tasks.items()}


def task_assets(spec: Mapping[str, Any]) -> dict[str, str]:
    """Return the asset of each task of a compiled pipeline, by task key."""
    return {key: task["taskInfo"]["name"] for key, task in spec["root"]["dag"]["tasks"].items()}


def run_locally(steps: Sequence[Step], partition: str, environment: Mapping[str, str], root: Path) -> dict[str, str]:
    """Run the pipeline on this machine, one process for each step, and return the version token of each asset.

    Kubeflow's own files go to `root`, which is removed. Raise LaunchError if a step fails.
    """
    from kfp import local

    local.init(runner=local.SubprocessRunner(use_venv=False), pipeline_root=str(root), raise_on_error=True)
    try:
        result = build_pipeline(steps, LOCAL_IMAGE)(partition=partition, environment=dict(environment))
    except RuntimeError as error:
        raise LaunchError(f"The pipeline has failed on this machine: {error}") from error
    finally:
        shutil.rmtree(root, ignore_errors=True)
    return dict(result.outputs)
