"""The commands of `mbta-assets launch` that submit: what they submit, and what they say when nothing is submitted."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
from click.testing import CliRunner, Result

from mbta_assets.cli import main
from mbta_assets.definitions import build_defs
from mbta_assets.launch import LaunchError
from mbta_assets.launch.commands import OTHER_PATHS, PATHS_OF_THE_IMAGE, external_inputs, list_days
from mbta_assets.launch.lineage import select_steps
from mbta_assets.settings import VARIABLES, Settings
from mbta_assets_tests.defs.automation.conftest import day, write_upstream
from mbta_assets_tests.launch.conftest import FakeVertexAI

pytestmark = pytest.mark.integration

RANGE = f"{day(0)}...{day(2)}"


@pytest.fixture
def vertex(tmp_path: Path, server: FakeVertexAI, monkeypatch: pytest.MonkeyPatch) -> FakeVertexAI:
    """Set the environment of somebody who submits, and return the server."""
    variables = {
        "DAGSTER_HOME": str(tmp_path),
        "MBTA_STORE": str(tmp_path / "store"),
        "GCP_PROJECT": "transit-1",
        "VERTEX_IMAGE": "an/image:1",
        "VERTEX_LOCATION": "us-east4",
        "VERTEX_PIPELINE_ROOT": "gs://b/pipelines",
        "VERTEX_ENDPOINT": server.address,
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return server


def launch_submit(*options: str) -> Result:
    """Run `mbta-assets launch submit` for the range of days."""
    return CliRunner().invoke(main, ["launch", "submit", "--select", "group:upstream", "--partition", RANGE, *options])


@pytest.mark.usefixtures("vertex")
def test_a_range_that_is_submitted_again_is_a_new_job_once_it_has_ended(server: FakeVertexAI) -> None:
    first = launch_submit()
    assert first.exit_code == 0, first.output
    server.states = [("PIPELINE_STATE_SUCCEEDED", {})]
    again = launch_submit()
    assert again.exit_code == 0, again.output
    assert again.stdout != first.stdout
    assert len(server.created) == 2


@pytest.mark.usefixtures("vertex")
def test_a_range_that_is_submitted_again_while_it_runs_is_said_and_fails(server: FakeVertexAI) -> None:
    name = launch_submit().stdout.strip()
    server.states = [("PIPELINE_STATE_RUNNING", {})]
    again = launch_submit()
    assert again.exit_code == 1
    assert "is running; nothing was submitted" in again.output
    assert f"mbta-assets launch follow {name} --select 'group:upstream'" in again.output
    assert len(server.created) == 1


@pytest.mark.usefixtures("vertex")
def test_a_range_that_is_submitted_again_while_it_runs_is_followed(server: FakeVertexAI) -> None:
    name = launch_submit().stdout.strip()
    server.states = [("PIPELINE_STATE_RUNNING", {}), ("PIPELINE_STATE_SUCCEEDED", {})]
    again = launch_submit("--follow")
    assert again.exit_code == 0, again.output
    assert again.stdout.strip() == name
    assert "is running; nothing was submitted" in again.stderr
    assert len(server.created) == 1


@pytest.mark.usefixtures("vertex")
def test_every_step_is_executed_without_the_cache(server: FakeVertexAI) -> None:
    assert launch_submit("--no-cache").exit_code == 0
    assert launch_submit().exit_code == 0
    caching = [
        {
            task["cachingOptions"].get("enableCache", False)
            for task in job["pipelineSpec"]["root"]["dag"]["tasks"].values()
        }
        for _, job in server.created
    ]
    assert caching == [{False}, {True}]


def test_a_step_elsewhere_gets_the_settings_but_no_path_of_this_machine_and_no_secret(
    vertex: FakeVertexAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layout = tmp_path / "layout.json"
    layout.write_text('{"trip": {"table": "trip.df"}}')
    given = {
        "MBTA_TIME_ZONE": "Europe/Berlin",
        "MBTA_TUNE_TRIALS": "3",
        "MBTA_VEHICLE_POSITIONS": "https://example.org/positions.pb",
        "MBTA_FEED_ARCHIVE": "gs://bucket/feeds",
        "MBTA_ACCURACY_BOUNDS": "none",
    }
    here = {
        "GOOGLE_APPLICATION_CREDENTIALS": str(tmp_path / "key.json"),
        "MBTA_ALERT_WEBHOOK": "https://example.org/secret",
        "BIGQUERY_UPSTREAM_LAYOUT": str(layout),
    }
    for name, value in {**given, **here}.items():
        monkeypatch.setenv(name, value)
    submitted = launch_submit()
    assert submitted.exit_code == 0, submitted.output
    [(_, job)] = vertex.created
    environment = job["runtimeConfig"]["parameterValues"]["environment"]
    assert environment.items() >= given.items()
    assert not {"MBTA_STORE", "GOOGLE_APPLICATION_CREDENTIALS", "MBTA_ALERT_WEBHOOK"} & set(environment)
    assert json.loads(environment["BIGQUERY_UPSTREAM_LAYOUT"]) == {"trip": {"table": "trip.df"}}
    assert str(tmp_path) not in str(environment)
    assert Settings.from_environment(environment).time_zone == "Europe/Berlin"


@pytest.mark.parametrize("field", OTHER_PATHS)
@pytest.mark.parametrize("command", ["submit", "job"])
def test_a_path_of_this_machine_is_refused_by_name_before_anything_is_submitted(
    vertex: FakeVertexAI, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str, field: str
) -> None:
    path = tmp_path / "files"
    path.mkdir() if field == "files_dir" else path.write_text("mode,route_id,bin,year,predictions,share_accurate\n")
    [variable] = [entry.name for entry in VARIABLES if entry.field == field]
    monkeypatch.setenv(variable, str(path))
    refused = CliRunner().invoke(main, ["launch", command, "--select", "key:trip", "--partition", str(day(0))])
    assert refused.exit_code == 1
    assert f"{variable} is {str(path)!r}, a path of this machine." in refused.output
    assert vertex.created == []


def test_every_setting_that_may_be_a_path_is_known() -> None:
    paths = {entry.field for entry in VARIABLES if re.search("path|directory", entry.accepts)}
    assert paths == {*PATHS_OF_THE_IMAGE, *OTHER_PATHS, "bigquery_upstream_layout"}, "steps get the last one's content"


@pytest.mark.parametrize("number", range(3))
def test_the_external_inputs_of_a_range_change_with_any_day_of_the_source(
    tmp_path: Path, instance: dg.DagsterInstance, number: int
) -> None:
    files = tmp_path / "files"
    write_upstream(files, day(0), day(1), day(2))
    definitions = build_defs(Settings(store=tmp_path / "store", source="files", files_dir=files))
    steps = select_steps(definitions, "group:upstream")

    def inputs() -> dict[str, str]:
        return dict(entry.split("=") for entry in external_inputs(definitions, steps, RANGE, instance).split(","))

    before = inputs()
    write_upstream(files, day(number), tables=("vehicle",), late_seconds=90)
    after = inputs()
    assert {name for name in before if before[name] != after[name]} == {"source of vehicle"}


@pytest.fixture
def definitions(tmp_path: Path) -> dg.Definitions:
    return build_defs(Settings(store=tmp_path))


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as instance:
        yield instance


def report(instance: dg.DagsterInstance, asset: str, version: str, partition: str | None = None) -> None:
    """Report a materialization with a data version."""
    tags = {"dagster/data_version": version}
    instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=partition, tags=tags))


def test_the_external_inputs_of_a_training_change_with_any_day_of_the_features(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    steps = select_steps(definitions, "key:training_set")

    def inputs() -> str:
        return external_inputs(definitions, steps, "", instance)

    assert inputs() == ""
    report(instance, "transit_features", "a1", "2024-03-04")
    report(instance, "transit_features", "b1", "2024-03-05")
    first = inputs()
    report(instance, "transit_features", "a2", "2024-03-04")
    report(instance, "transit_features", "b1", "2024-03-05")
    assert inputs() != first, "although the latest materialization is the same"
    report(instance, "transit_features", "a1", "2024-03-04")
    assert inputs() == first


def test_the_external_inputs_of_a_day_are_its_own_and_those_without_days(
    definitions: dg.Definitions, instance: dg.DagsterInstance
) -> None:
    report(instance, "production_model", "m1")
    report(instance, "transit_features", "a1", "2024-03-04")
    report(instance, "transit_features", "b1", "2024-03-05")
    steps = select_steps(definitions, "key:delay_predictions")
    inputs = external_inputs(definitions, steps, "2024-03-04", instance)
    assert inputs == "production_model=m1,transit_features=a1"


@pytest.mark.parametrize(
    "partition",
    ["today", "2024-3-4", "2024-03-05...2024-03-04", "2024-03-04...", "2024-03-04..2024-03-05", "a...b...c"],
)
def test_a_partition_that_is_no_date_or_range_is_refused_by_name(partition: str) -> None:
    with pytest.raises(LaunchError, match="The partition .* is no service date .*2024-09-09...2024-09-18"):
        list_days(partition)


def test_the_days_of_a_range_include_both_ends() -> None:
    assert [str(day) for day in list_days("2024-02-28...2024-03-01")] == ["2024-02-28", "2024-02-29", "2024-03-01"]
