"""The Terraform files, read as Terraform reads them: no secret, no more rights than needed, no dangling reference."""

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import hcl2
import pytest
import yaml

from mbta_assets_tests.deploy import known
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.image import Image

DIRECTORY = ROOT / "deploy/terraform"
GUIDE = (ROOT / "docs/deploy.md").read_text()
TEXT = "\n".join(re.sub(r"(?m)(^|\s)#.*$", "", path.read_text()) for path in sorted(DIRECTORY.glob("*.tf")))
"""All of it without comments."""
ON_PROJECT = {
    "roles/bigquery.jobUser",
    "roles/bigquery.readSessionUser",
    "roles/cloudsql.client",
    "roles/eventarc.eventReceiver",
    "roles/pubsub.publisher",
}
"""What cannot be given on less than the project; the last to Cloud Storage's own account."""


def plain(value: Any) -> Any:
    """What the parser gives, without its quotes and marks; expressions stay text that begins with ${."""
    if isinstance(value, dict):
        return {plain(key): plain(part) for key, part in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [plain(part) for part in value]
    return value.strip('"') if isinstance(value, str) else value


FILES = [plain(hcl2.loads(path.read_text())) for path in sorted(DIRECTORY.glob("*.tf"))]


def blocks(kind: str) -> dict[str, Any]:
    """The blocks of a kind by their name, as `type.name` where they have a type."""
    found: dict[str, Any] = {}
    for file in FILES:
        for block in file.get(kind, []):
            for name, content in block.items():
                typed = kind in ("resource", "data", "ephemeral")
                found |= {f"{name}.{inner}": part for inner, part in content.items()} if typed else {name: content}
    return found


RESOURCES, VARIABLES, LOCALS = blocks("resource"), blocks("variable"), blocks("locals")


def containers() -> dict[str, Any]:
    """The container of each resource that runs one."""
    found = {}
    for name, resource in RESOURCES.items():
        if name.startswith("google_cloud_run_v2_") and "template" in resource:
            [template] = resource["template"]
            [template] = template.get("template", [template])
            [found[name]] = template["containers"]
    assert len(found) == 5
    return found


def test_no_secret_is_in_a_file_or_in_the_state() -> None:
    assert set(blocks("ephemeral")) == {"random_password.dagster"}
    assert not any(name.startswith("random_") for name in RESOURCES)
    user, version = RESOURCES["google_sql_user.dagster"], RESOURCES["google_secret_manager_secret_version.database"]
    assert user["password_wo"] == "${ephemeral.random_password.dagster.result}"
    assert "ephemeral.random_password.dagster.result" in version["secret_data_wo"]
    assert len(re.findall(r"ephemeral\.", TEXT)) == 2
    assert not re.search(r"\b(password|secret_data|private_key|root_password|credentials)\s*=", TEXT)
    assert not re.search(r"postgresql[^\s\"]*://\w+:(?!\$\{ephemeral)", TEXT)
    assert not re.search(r"BEGIN|AIza|ya29|[A-Za-z0-9+/]{40,}", TEXT)


def test_nobody_unknown_may_call_anything_unless_it_is_asked_for() -> None:
    assert re.findall(r".*all(?:Authenticated)?Users.*", TEXT) == [
        '    predictor = var.predictor_is_public ? ["allUsers"] : var.predictor_callers'
    ]
    assert VARIABLES["predictor_is_public"]["default"] is False
    assert VARIABLES["viewers"]["default"] == VARIABLES["predictor_callers"]["default"] == []
    assert "invoker_iam_disabled" not in TEXT
    assert RESOURCES["google_storage_bucket.models"]["public_access_prevention"] == "enforced"


def test_no_role_is_broader_than_its_part_needs() -> None:
    roles = set(re.findall(r"roles/[\w.]+", TEXT))
    assert len(roles) > 10
    assert not [role for role in roles if re.search(r"roles/(owner|editor|viewer)$|[aA]dmin", role)]
    on_project = {role for found in LOCALS["on_project"].values() for role in found}
    assert on_project | {RESOURCES["google_project_iam_member.storage_agent"]["role"]} == ON_PROJECT
    assert not [name for name in RESOURCES if re.match(r"google_\w+_iam_(policy|binding)", name)]
    assert LOCALS["on_bucket"]["predictor"] == ["roles/storage.objectViewer"]
    assert not {"predictor", "events"} & set(LOCALS["on_project"])
    assert all(f"`{role}`" in GUIDE for role in roles), roles
    assert all(f"`{account}`" in GUIDE for account in LOCALS["accounts"])


def test_every_reference_is_to_something_declared_and_everything_declared_is_used() -> None:
    declared = set(RESOURCES) | {f"data.{name}" for name in blocks("data")}
    named = {found[0] for found in re.findall(r"(?<![\w\"/.-])((data\.)?google_\w+\.\w+)", TEXT)}
    assert len(named) > 15
    assert named <= declared
    assert set(re.findall(r"\bvar\.(\w+)", TEXT)) == set(VARIABLES)
    assert set(re.findall(r"\blocal\.(\w+)", TEXT)) == set(LOCALS)
    accounts = re.findall(r"google_service_account\.of\[\"(\w+)\"\]", TEXT)
    assert set(accounts) <= set(LOCALS["accounts"])


def test_every_variable_is_described_and_in_the_guide() -> None:
    assert len(VARIABLES) > 10
    for name, variable in VARIABLES.items():
        assert variable["description"].endswith("."), name
        assert f"`{name}`" in GUIDE, name


def test_every_environment_variable_is_read_by_somebody() -> None:
    given = set(re.findall(r"(?m)^\s+([A-Z][A-Z_]+)\s+=", TEXT)) | {
        one["name"] for container in containers().values() for one in container.get("env", [])
    }
    assert {"DAGSTER_POSTGRES_URL", "MBTA_DEPLOYMENT", "MBTA_MODEL", "CLOUD_RUN_REGION"} <= given
    assert given <= known.variables()


def test_the_webserver_only_reads_and_the_other_is_for_the_event_function_alone() -> None:
    webservers = LOCALS["webservers"]
    assert webservers["webserver"] == '${var.ui_is_read_only ? ["--read-only"] : []}'
    assert VARIABLES["ui_is_read_only"]["default"] is True
    assert set(webservers) == {"webserver", "reports"}
    assert LOCALS["callers"]["reports"] == ['${google_service_account.of["events"].member}']
    assert LOCALS["callers"]["events"] == ['${google_service_account.of["trigger"].member}']
    events = RESOURCES["google_cloud_run_v2_service.events"]
    assert events["ingress"] == "INGRESS_TRAFFIC_INTERNAL_ONLY"


def test_commands_and_places_are_those_of_the_image(dagster_image: Image) -> None:
    commands = {name: container["command"][0] for name, container in containers().items() if "command" in container}
    assert sorted(commands.values()) == ["dagster-daemon", "dagster-webserver", "env"]
    for program in commands.values():
        assert shutil.which(program, path=f"{dagster_image.variables['PATH']}:/usr/bin:/bin"), program
    home = Path(dagster_image.here(LOCALS["environment"].split("DAGSTER_HOME", 1)[1].split('"')[1]))
    assert yaml.safe_load((home / "dagster.yaml").read_text())["run_launcher"]["config"]["job"] == "mbta-run"
    assert RESOURCES["google_cloud_run_v2_job.run"]["name"] == "mbta-run"
    assert (dagster_image.directory / "workspace.yaml").exists()


def test_there_is_one_daemon() -> None:
    assert RESOURCES["google_cloud_run_v2_worker_pool.daemon"]["scaling"] == [{"manual_instance_count": 1}]


@pytest.fixture
def terraform() -> str:
    found = shutil.which("terraform")
    if not found:
        pytest.skip("Terraform is not installed: https://developer.hashicorp.com/terraform/install")
    return found


def test_terraform_would_format_it_so(terraform: str) -> None:
    ran = subprocess.run([terraform, "fmt", "-check", "-diff", DIRECTORY], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_terraform_finds_it_valid(terraform: str, tmp_path: Path) -> None:
    shutil.copytree(DIRECTORY, tmp_path / "terraform", ignore=shutil.ignore_patterns(".terraform*"))
    environment = {**os.environ, "TF_IN_AUTOMATION": "1"}

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [terraform, f"-chdir={tmp_path / 'terraform'}", *arguments, "-no-color"]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    begun = run("init", "-backend=false", "-input=false")
    if "Failed to query available provider packages" in begun.stderr:
        pytest.skip("Terraform's registry, which has the providers, cannot be reached")
    assert begun.returncode == 0, begun.stderr
    valid = run("validate")
    assert valid.returncode == 0, valid.stderr
