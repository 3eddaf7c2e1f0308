"""The Kubeflow pipeline of a selection has the dependencies, the machines and the cache keys of its assets."""

import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest
import yaml

from mbta_assets.definitions import build_defs
from mbta_assets.defs import machines
from mbta_assets.launch import LaunchError, lineage, pipeline
from mbta_assets.launch.lineage import Machine
from mbta_assets.settings import Settings
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, environment

SELECTIONS = (
    "*",
    "group:upstream or group:transit",
    "group:models",
    "key:dnn_teacher+",
    "+key:quantized_student",
    "key:training_set or key:production_model",
    "key:network_snapshot",
    "key:width_correction",
)
DAY = small_network.DAYS[0]


@pytest.fixture(scope="module")
def definitions(tmp_path_factory: pytest.TempPathFactory) -> dg.Definitions:
    return build_defs(Settings(store=tmp_path_factory.mktemp("store")))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_the_compiled_pipeline_has_the_edges_of_the_lineage(
    definitions: dg.Definitions, selection: str, tmp_path: Path
) -> None:
    graph = definitions.resolve_asset_graph()
    selected = dg.AssetSelection.from_string(selection).resolve(graph)
    expected = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys & selected}
        for key in selected
    }
    path = tmp_path / "pipeline.yaml"
    pipeline.compile_pipeline(lineage.select_steps(definitions, selection), "an/image:1", path)
    compiled = yaml.safe_load(path.read_text())
    assert pipeline.upstream_assets(compiled) == expected
    images = {executor["container"]["image"] for executor in compiled["deploymentSpec"]["executors"].values()}
    assert images == {"an/image:1"}


def test_each_task_takes_the_version_tokens_of_its_inputs_so_that_the_cache_misses_what_has_changed(
    definitions: dg.Definitions,
) -> None:
    steps = lineage.select_steps(definitions, "group:models or group:training")
    compiled = pipeline.pipeline_spec(steps, "an/image:1")
    tasks = {task["taskInfo"]["name"]: task for task in compiled["root"]["dag"]["tasks"].values()}
    for task in tasks.values():
        assert task["cachingOptions"] == {"enableCache": True}
        parameters = task["inputs"]["parameters"]
        outputs = [value["taskOutputParameter"] for value in parameters.values() if "taskOutputParameter" in value]
        assert {output["producerTask"] for output in outputs} == set(task.get("dependentTasks", []))
        assert parameters["environment"] == {"componentInputParameter": "environment"}
    external_inputs = tasks["training_set"]["inputs"]["parameters"]["external_inputs"]
    assert external_inputs == {"componentInputParameter": "external_inputs"}


def test_the_partition_is_a_parameter_of_the_assets_that_have_one(definitions: dg.Definitions) -> None:
    steps = lineage.select_steps(definitions, "key:transit_features or key:training_set")
    compiled = pipeline.pipeline_spec(steps, "an/image:1")
    tasks = {
        task["taskInfo"]["name"]: task["inputs"]["parameters"] for task in compiled["root"]["dag"]["tasks"].values()
    }
    assert tasks["transit_features"]["partition"] == {"componentInputParameter": "partition"}
    assert tasks["training_set"]["partition"] == {"runtimeValue": {"constant": ""}}


def test_the_tags_of_an_asset_select_its_machine() -> None:
    tags = {machines.MACHINE_TYPE: "n1-highmem-8", machines.ACCELERATOR: "NVIDIA_TESLA_T4", machines.ACCELERATORS: "2"}

    @dg.asset(tags=tags)
    def heavy() -> None: ...

    @dg.asset
    def light() -> None: ...

    steps = lineage.select_steps(dg.Definitions([heavy, light]), "*")
    assert {step.asset: step.machine for step in steps} == {
        "heavy": Machine.from_type("n1-highmem-8", "NVIDIA_TESLA_T4", 2),
        "light": Machine.from_type(lineage.DEFAULT_MACHINE_TYPE),
    }
    compiled = pipeline.pipeline_spec(steps, "an/image:1")
    containers = [executor["container"] for executor in compiled["deploymentSpec"]["executors"].values()]
    [resources] = [other["resources"] for other in containers if "accelerator" in other["resources"]]
    assert resources["resourceCpuLimit"] == "8"
    assert resources["resourceMemoryLimit"] == "52G"
    assert resources["accelerator"]["resourceType"] == "NVIDIA_TESLA_T4"
    assert resources["accelerator"]["resourceCount"] == "2"


@pytest.mark.parametrize(
    "tags",
    [
        {machines.MACHINE_TYPE: "large"},
        {machines.ACCELERATOR: "NVIDIA_TESLA_T4", machines.ACCELERATORS: "none"},
        {machines.ACCELERATOR: "NVIDIA_TESLA_T4", machines.ACCELERATORS: "0"},
    ],
)
def test_an_invalid_tag_is_refused(tags: dict[str, str]) -> None:
    @dg.asset(tags=tags)
    def heavy() -> None: ...

    with pytest.raises(LaunchError, match="heavy is tagged .* may be such as n1-standard-8"):
        lineage.select_steps(dg.Definitions([heavy]), "*")


@pytest.mark.parametrize("selection", ["key:nothing", "group:(", "kind:spark"])
def test_a_selection_without_assets_is_refused(definitions: dg.Definitions, selection: str) -> None:
    with pytest.raises(LaunchError, match=r"There are .*xgboost_model|is invalid"):
        lineage.select_steps(definitions, selection)


@pytest.mark.e2e
def test_a_failed_step_is_named_with_its_cause(tmp_path: Path) -> None:
    variables = environment(tmp_path / "store", tmp_path)
    command = [sys.executable, "-m", "mbta_assets", "launch", "local", "--select", "key:trip", "--partition", str(DAY)]
    process = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert process.returncode == 1
    assert "trip 2024-04-01 could not be materialized" in process.stdout + process.stderr
    assert "Error: The pipeline has failed on this machine" in process.stderr
