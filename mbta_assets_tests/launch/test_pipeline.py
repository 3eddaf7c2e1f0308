"""A selection of the lineage as a Kubeflow pipeline has the graph of the lineage, its machines and its cache keys."""

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
    chosen = dg.AssetSelection.from_string(selection).resolve(graph)
    expected = {
        key.to_user_string(): {parent.to_user_string() for parent in graph.get(key).parent_keys & chosen}
        for key in chosen
    }
    path = tmp_path / "pipeline.yaml"
    pipeline.compile_to(lineage.steps(definitions, selection), "an/image:1", path)
    compiled = yaml.safe_load(path.read_text())
    assert pipeline.edges(compiled) == expected
    images = {one["container"]["image"] for one in compiled["deploymentSpec"]["executors"].values()}
    assert images == {"an/image:1"}


def test_each_task_takes_the_receipts_of_those_before_it_so_that_a_cache_knows_what_has_changed(
    definitions: dg.Definitions,
) -> None:
    compiled = pipeline.specification(lineage.steps(definitions, "group:models or group:training"), "an/image:1")
    tasks = {task["taskInfo"]["name"]: task for task in compiled["root"]["dag"]["tasks"].values()}
    for task in tasks.values():
        assert task["cachingOptions"] == {"enableCache": True}
        given = task["inputs"]["parameters"]
        handed_on = [one for one in given.values() if "taskOutputParameter" in one]
        assert {one["taskOutputParameter"]["producerTask"] for one in handed_on} == set(task.get("dependentTasks", []))
        assert given["environment"] == {"componentInputParameter": "environment"}
    assert tasks["training_set"]["inputs"]["parameters"]["outside"] == {"componentInputParameter": "outside"}


def test_the_partition_is_a_parameter_of_the_assets_that_have_one(definitions: dg.Definitions) -> None:
    compiled = pipeline.specification(
        lineage.steps(definitions, "key:transit_features or key:training_set"), "an/image:1"
    )
    tasks = {
        task["taskInfo"]["name"]: task["inputs"]["parameters"] for task in compiled["root"]["dag"]["tasks"].values()
    }
    assert tasks["transit_features"]["partition"] == {"componentInputParameter": "partition"}
    assert tasks["training_set"]["partition"] == {"runtimeValue": {"constant": ""}}


def test_tags_of_an_asset_say_what_it_runs_on() -> None:
    tags = {machines.MACHINE_TYPE: "n1-highmem-8", machines.ACCELERATOR: "NVIDIA_TESLA_T4", machines.ACCELERATORS: "2"}

    @dg.asset(tags=tags)
    def heavy() -> None: ...

    @dg.asset
    def light() -> None: ...

    steps = lineage.steps(dg.Definitions([heavy, light]), "*")
    assert {step.asset: step.machine for step in steps} == {
        "heavy": Machine("n1-highmem-8", "NVIDIA_TESLA_T4", 2),
        "light": Machine(),
    }
    compiled = pipeline.specification(steps, "an/image:1")
    containers = [one["container"] for one in compiled["deploymentSpec"]["executors"].values()]
    resources = next(one["resources"] for one in containers if "accelerator" in one["resources"])
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
def test_a_tag_that_is_none_is_refused(tags: dict[str, str]) -> None:
    @dg.asset(tags=tags)
    def heavy() -> None: ...

    with pytest.raises(LaunchError, match="heavy is tagged .* may be such as n1-standard-8"):
        lineage.steps(dg.Definitions([heavy]), "*")


@pytest.mark.parametrize("selection", ["key:nothing", "group:(", "kind:spark"])
def test_a_selection_without_assets_is_refused(definitions: dg.Definitions, selection: str) -> None:
    with pytest.raises(LaunchError, match=r"There are .*xgboost_model|is not understood"):
        lineage.steps(definitions, selection)


@pytest.mark.e2e
def test_a_step_that_fails_says_which_and_why(tmp_path: Path) -> None:
    variables = environment(tmp_path / "store", tmp_path)
    command = [sys.executable, "-m", "mbta_assets.launch", "here", "--select", "key:trip", "--partition", str(DAY)]
    ran = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
    assert ran.returncode == 1
    assert "trip 2024-04-01 could not be made" in ran.stdout + ran.stderr
    assert "The pipeline has failed on this machine" in ran.stderr
