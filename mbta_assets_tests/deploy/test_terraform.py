"""The Terraform files as Terraform reads them: no secret, no more permissions than needed, no dangling reference."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from mbta_assets_tests.deploy.terraform import (
    ATTRIBUTES,
    DIRECTORY,
    LOCALS,
    RESOURCES,
    VARIABLES,
    find_all,
    find_blocks,
    find_objects,
    split_conditional,
)
from mbta_assets_tests.deploy.variables import PREDICTOR_VARIABLES, list_variables
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image

GUIDE = (ROOT / "docs/deploy.md").read_text()
PROJECT_ROLES = {
    "roles/bigquery.jobUser",
    "roles/bigquery.readSessionUser",
    "roles/cloudsql.client",
    "roles/eventarc.eventReceiver",
    "roles/pubsub.publisher",
}
"""Roles that can be granted on nothing smaller than the project; the last one to Cloud Storage's own account."""
SECRET_ATTRIBUTES = {"password", "secret_data", "private_key", "root_password", "credentials"}
"""Attributes whose values Terraform would store in its state."""


def find_containers() -> dict[str, Any]:
    """Return the container of each resource that runs one."""
    containers = {}
    for name, resource in RESOURCES.items():
        if name.startswith("google_cloud_run_v2_") and "template" in resource:
            [template] = resource["template"]
            [template] = template.get("template", [template])
            [containers[name]] = template["containers"]
    assert len(containers) == 7
    return containers


def test_no_secret_is_in_a_file_or_in_the_state() -> None:
    assert set(find_blocks("ephemeral")) == {"random_password.dagster"}
    assert not any(name.startswith("random_") for name in RESOURCES)
    user, version = RESOURCES["google_sql_user.dagster"], RESOURCES["google_secret_manager_secret_version.database"]
    assert user["password_wo"] == "${ephemeral.random_password.dagster.result}"
    assert "ephemeral.random_password.dagster.result" in version["secret_data_wo"]
    uses = [name for name, value in ATTRIBUTES if "ephemeral." in str(value)]
    assert sorted(uses) == ["password_wo", "secret_data_wo"]
    assert SECRET_ATTRIBUTES.isdisjoint(name for name, _ in ATTRIBUTES)
    assert find_all(rf"\b(?:{'|'.join(SECRET_ATTRIBUTES)})\s*=") == []
    assert find_all(r"postgresql[^\s\"]*://\w+:(?!\$\{ephemeral)") == []
    assert find_all(r"BEGIN|AIza|ya29|[A-Za-z0-9+/]{40,}") == []


def test_anonymous_callers_are_allowed_only_by_the_variable_that_is_off_by_default() -> None:
    public = [(name, value) for name, value in ATTRIBUTES if re.search("all(Authenticated)?Users", str(value))]
    assert sorted(public) == [(name, LOCALS["callers"][name]) for name in ("live", "predictor")]
    for name in ("live", "predictor"):
        condition, if_public, otherwise = split_conditional(LOCALS["callers"][name])
        assert condition == f"var.{name}_is_public"
        assert (if_public, otherwise) == (["allUsers"], f"${{var.{name}_callers}}")
        assert VARIABLES[f"{name}_is_public"]["default"] is False
        assert VARIABLES[f"{name}_callers"]["default"] == []
    assert LOCALS["callers"]["webserver"] == "${var.viewers}"
    assert VARIABLES["viewers"]["default"] == []
    assert "invoker_iam_disabled" not in {name for name, _ in ATTRIBUTES}
    assert RESOURCES["google_storage_bucket.models"]["public_access_prevention"] == "enforced"


def test_no_role_is_broader_than_its_part_needs() -> None:
    roles = set(find_all(r"roles/[\w.]+"))
    assert len(roles) > 10
    assert not [role for role in roles if re.search(r"roles/(owner|editor|viewer)$|[aA]dmin", role)]
    on_project = {role for of_account in LOCALS["on_project"].values() for role in of_account}
    assert on_project | {RESOURCES["google_project_iam_member.storage_agent"]["role"]} == PROJECT_ROLES
    assert not [name for name in RESOURCES if re.match(r"google_\w+_iam_(policy|binding)", name)]
    assert LOCALS["on_bucket"]["predictor"] == ["roles/storage.objectViewer"]
    assert not {"predictor", "events"} & set(LOCALS["on_project"])
    assert [role for role in roles if f"`{role}`" not in GUIDE] == []
    assert [account for account in LOCALS["accounts"] if f"`{account}`" not in GUIDE] == []


def test_every_reference_is_to_something_declared_and_everything_declared_is_used() -> None:
    declared = set(RESOURCES) | {f"data.{name}" for name in find_blocks("data")}
    references = set(find_all(r"(?<![\w\"/.-])((?:data\.)?google_\w+\.\w+)"))
    assert len(references) > 15
    assert references <= declared
    assert set(find_all(r"\bvar\.(\w+)")) == set(VARIABLES)
    assert set(find_all(r"\blocal\.(\w+)")) == set(LOCALS)
    assert set(find_all(r"google_service_account\.of\[\"(\w+)\"\]")) <= set(LOCALS["accounts"])


def test_every_variable_is_described_and_in_the_guide() -> None:
    assert len(VARIABLES) > 10
    for name, variable in VARIABLES.items():
        assert variable["description"].endswith("."), name
        assert f"`{name}`" in GUIDE, name


def test_something_reads_every_environment_variable() -> None:
    in_objects = {key for _, value in ATTRIBUTES for keys in find_objects(value) for key in keys if key.isupper()}
    in_containers = {entry["name"] for container in find_containers().values() for entry in container.get("env", [])}
    names = in_objects | in_containers
    assert {"DAGSTER_POSTGRES_URL", "FUNCTION_TARGET", "MBTA_DEPLOYMENT", "MBTA_MODEL", "CLOUD_RUN_REGION"} <= names
    assert names <= list_variables()


def test_the_predictor_gets_the_settings_that_it_reads_and_no_others() -> None:
    """Without those of the agency, it would refuse the model that the runs have trained."""
    container = find_containers()["google_cloud_run_v2_service.predictor"]
    assert [entry["name"] for entry in container["env"]] == ["MBTA_MODEL"]
    [dynamic] = container["dynamic"]
    assert "var.settings : name => value if contains(local.predictor_settings, name)" in dynamic["env"]["for_each"]
    assert set(LOCALS["predictor_settings"]) == PREDICTOR_VARIABLES


def test_the_webserver_is_read_only_and_the_other_is_for_the_event_function_alone() -> None:
    webservers = LOCALS["webservers"]
    assert set(webservers) == {"webserver", "reports"}
    condition, if_read_only, otherwise = split_conditional(webservers["webserver"])
    assert (condition, if_read_only, otherwise) == ("var.ui_is_read_only", ["--read-only"], [])
    assert VARIABLES["ui_is_read_only"]["default"] is True
    service = RESOURCES["google_cloud_run_v2_service.webserver"]
    assert service["for_each"] == "${local.webservers}"
    assert "each.value" in find_containers()["google_cloud_run_v2_service.webserver"]["args"]
    assert LOCALS["callers"]["reports"] == ['${google_service_account.of["events"].member}']
    assert LOCALS["callers"]["events"] == ['${google_service_account.of["trigger"].member}']
    events = RESOURCES["google_cloud_run_v2_service.events"]
    assert events["ingress"] == "INGRESS_TRAFFIC_INTERNAL_ONLY"


@pytest.mark.integration
def test_commands_and_paths_are_those_of_the_image(dagster_image: Image) -> None:
    containers = find_containers().values()
    programs = [container["command"][0] for container in containers if "command" in container]
    assert sorted(programs) == ["dagster-daemon", "dagster-webserver", "env", "mbta-assets", "mbta-assets"]
    for program in programs:
        assert shutil.which(program, path=f"{dagster_image.variables['PATH']}:/usr/bin:/bin"), program
    [environment] = find_objects(LOCALS["environment"])
    home = Path(dagster_image.translate_paths(environment["DAGSTER_HOME"]))
    assert yaml.safe_load((home / "dagster.yaml").read_text())["run_launcher"]["config"]["job"] == "mbta-run"
    assert RESOURCES["google_cloud_run_v2_job.run"]["name"] == "mbta-run"
    assert (dagster_image.directory / "workspace.yaml").exists()


def test_there_is_one_daemon_and_at_most_one_collector() -> None:
    for name in ("daemon", "collector"):
        assert RESOURCES[f"google_cloud_run_v2_worker_pool.{name}"]["scaling"] == [{"manual_instance_count": 1}]
    assert VARIABLES["collects_feeds"]["default"] is False


def test_the_collector_writes_feeds_and_nothing_else() -> None:
    assert LOCALS["on_bucket"]["collector"] == ["roles/storage.objectViewer"]
    [condition] = RESOURCES["google_storage_bucket_iam_member.feeds"]["condition"]
    assert "/objects/feeds/')" in condition["expression"]
    [environment] = find_objects(LOCALS["environment"])
    assert environment["MBTA_FEED_ARCHIVE"] == "${local.feeds}"
    assert LOCALS["feeds"].endswith(".name}/feeds")


def test_live_predictions_are_one_instance_that_works_between_requests_and_is_watched() -> None:
    live = RESOURCES["google_cloud_run_v2_service.live"]
    [template] = live["template"]
    assert template["scaling"] == [{"min_instance_count": 1, "max_instance_count": 1}]
    [container] = template["containers"]
    [resources] = container["resources"]
    assert resources["cpu_idle"] is False
    [port] = [ports["container_port"] for ports in container["ports"]]
    for probe in ("startup_probe", "liveness_probe"):
        assert container[probe][0]["http_get"] == [{"path": "/healthz", "port": port}]
    assert container["args"] == ["live", "--no-archive", "--host", "0.0.0.0", "--port", str(port)]
    assert VARIABLES["predicts_live"]["default"] is False
    [precondition] = live["lifecycle"][0]["precondition"]
    assert precondition["condition"] == "${var.collects_feeds}"


def test_live_predictions_write_what_was_published_and_nothing_else() -> None:
    assert LOCALS["on_bucket"]["live"] == ["roles/storage.objectViewer"]
    assert not {"live", "collector"} & (set(LOCALS["on_project"]) | set(LOCALS["on_dataset"]))
    [condition] = RESOURCES["google_storage_bucket_iam_member.published"]["condition"]
    assert "/objects/feeds/published/')" in condition["expression"]
    granted = [name for name, resource in RESOURCES.items() if '.of["live"]' in str(resource.get("member"))]
    assert granted == ["google_storage_bucket_iam_member.published"]


@pytest.fixture
def terraform() -> str:
    """Return the path of Terraform; skip the test if it is not installed."""
    program = shutil.which("terraform")
    if not program:
        pytest.skip("Terraform is not installed: https://developer.hashicorp.com/terraform/install")
    return program


@pytest.mark.integration
def test_terraform_would_format_it_so(terraform: str) -> None:
    process = subprocess.run([terraform, "fmt", "-check", "-diff", DIRECTORY], capture_output=True, text=True)
    assert process.returncode == 0, process.stdout + process.stderr


@pytest.mark.integration
def test_terraform_finds_it_valid(terraform: str, tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "terraform", ignore=shutil.ignore_patterns(".terraform*"))
    environment = {**os.environ, "TF_IN_AUTOMATION": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [terraform, f"-chdir={tmp_path / 'terraform'}", *arguments, "-no-color"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    initialized = run("init", "-backend=false", "-input=false")
    if "Failed to query available provider packages" in initialized.stderr:
        pytest.skip("Terraform's registry, which has the providers, cannot be reached")
    assert initialized.returncode == 0, initialized.stderr
    validated = run("validate")
    assert validated.returncode == 0, validated.stderr
