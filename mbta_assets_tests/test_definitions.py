"""The definitions of a deployment: what they load, and what the UI shows about their assets and resources."""

import inspect
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
from dagster_dg_core.context import DgContext

import mbta_assets
from mbta_assets.definitions import build_defs
from mbta_assets.defs.dagster_internals import RepositorySnap, ResourceSnap, serialize_value
from mbta_assets.settings import VARIABLES, Settings
from mbta_assets.transit import schema

PACKAGE = Path(inspect.getfile(mbta_assets)).parent
HEAVY = {"torch", "torch_pruning", "onnx", "onnxruntime", "ray", "xgboost", "wandb", "matplotlib", "scipy.stats"}
GCP = {"deployment": "gcp", "gcp_project": "test-1", "bigquery_dataset": "transit", "gcs_bucket": "transit-models"}
IN_PLACE = {"source": "bigquery", "gcp_project": "test-1", "bigquery_upstream_dataset": "feed"}
SECRETS = {
    "alert_webhook": "https://chat.example.com/S3CRET",
    "promotion_webhook": "https://serving.example.com/S3CRET",
    "event_token": "S3CRET-S3CRET-S3CRET-S3CRET-S3CRET",
    "wandb_api_key": "S3CRET",
}
STORAGE_RESOURCES = {"table_store", "upstream_store", "warehouse", "model_registry", "reports"}
IO_MANAGERS = {"tables", "upstream_tables", "bundles"}


def make_settings(store: Path, **settings: Any) -> Settings:
    return Settings(store=store, **settings)


def list_assets(settings: Settings) -> dict[str, Any]:
    """Return the nodes of the asset graph of a deployment by name."""
    graph = build_defs(settings).resolve_asset_graph()
    return {key.to_user_string(): graph.get(key) for key in graph.get_all_asset_keys()}


def list_resources(settings: Settings) -> dict[str, ResourceSnap]:
    """Return what the UI shows about the resources of a deployment, by name."""
    repository = RepositorySnap.from_def(build_defs(settings).get_repository_def())
    return {resource.name: resource for resource in repository.resources or ()}


@pytest.mark.integration
def test_importing_the_definitions_imports_nothing_heavy() -> None:
    script = "import sys, mbta_assets.definitions; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "dagster" in loaded
    assert HEAVY.isdisjoint(loaded)


@pytest.mark.integration
def test_dagster_validates_the_definitions(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dagster", "definitions", "validate", "-m", "mbta_assets.definitions"]
    run = subprocess.run(
        command, capture_output=True, text=True, env={"DAGSTER_HOME": str(tmp_path), "PATH": "/usr/bin"}
    )
    assert run.returncode == 0, run.stderr


@pytest.mark.integration
def test_a_wrong_setting_stops_the_code_location_with_its_name() -> None:
    script = "import mbta_assets.definitions"
    environment = {"MBTA_SOURCE": "telepathy", "PATH": "/usr/bin"}
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment)
    assert run.returncode != 0
    assert "MBTA_SOURCE is 'telepathy'; it may be synthetic or files" in run.stderr


def test_one_module_imports_private_names_of_dagster() -> None:
    importing = {str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if "dagster._" in path.read_text()}
    assert importing == {"defs/dagster_internals.py"}


SIDE_TABLES = {"rejected_rows", "upstream_usage"}
"""Tables that other assets write while they are made."""


@pytest.mark.parametrize("deployment", [{}, GCP], ids=["local", "gcp"])
def test_every_asset_has_a_description_owners_tags_and_kinds(tmp_path: Path, deployment: dict[str, Any]) -> None:
    for name, node in list_assets(make_settings(tmp_path, **deployment)).items():
        assert node.description, name
        assert node.owners in (["team:transit-data"], ["team:machine-learning"]), name
        assert {"domain", "tier"} <= set(node.tags), name
        assert node.kinds, name
        assert name in SIDE_TABLES or node.backfill_policy == dg.BackfillPolicy.single_run(), name
        if name in schema.TABLES:
            assert node.metadata["dagster/column_schema"].columns, name


@pytest.mark.parametrize(
    "deployment", [{}, GCP, IN_PLACE, {"source": "gtfs"}], ids=["local", "gcp", "in place", "gtfs"]
)
def test_no_text_that_the_ui_shows_has_indented_lines(tmp_path: Path, deployment: dict[str, Any]) -> None:
    # Markdown takes them for code.
    defs = build_defs(make_settings(tmp_path, **deployment))
    shown = json.loads(serialize_value(RepositorySnap.from_def(defs.get_repository_def())))
    assert [text for text in list_texts(shown) if re.search(r"\n[ \t]+\S", text)] == []


def list_texts(value: Any) -> list[str]:
    """Return the texts in a value of JSON."""
    if isinstance(value, str):
        return [value]
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for part in parts for text in list_texts(part)]


def test_the_kinds_of_assets_name_where_the_deployment_stores_them(tmp_path: Path) -> None:
    local, gcp = list_assets(make_settings(tmp_path)), list_assets(make_settings(tmp_path, **GCP))
    models_and_reports = set(local) - set(schema.TABLES)
    tables = set(schema.TABLES) - set(schema.OPTIONAL_UPSTREAM)
    assert all("parquet" in local[table].kinds for table in tables)
    assert not any({"bigquery", "gcs"} & set(node.kinds) for node in local.values())
    assert all("bigquery" in gcp[table].kinds for table in tables)
    assert not any({"parquet", "duckdb"} & set(gcp[table].kinds) for table in tables)
    assert all("gcs" in gcp[name].kinds for name in models_and_reports)
    assert "duckdb" in local["raw_transit_data"].kinds


def test_tables_that_are_read_in_place_are_described_as_tables_of_bigquery(tmp_path: Path) -> None:
    assets = list_assets(make_settings(tmp_path, **IN_PLACE))
    for name in schema.UPSTREAM:
        node = assets[name]
        assert node.is_observable and not node.is_materializable, name
        assert "loaded by others" in (node.description or ""), name
        assert {"domain", "tier"} <= set(node.tags), name
        assert node.kinds == {"bigquery"}, name


@pytest.mark.parametrize(("source", "has_predictions"), [("synthetic", False), ("lamp", False), ("gtfs", True)])
def test_only_a_source_that_may_have_an_optional_table_has_its_asset(
    tmp_path: Path, source: str, has_predictions: bool
) -> None:
    assets = list_assets(make_settings(tmp_path, source=source))
    assert ("agency_predictions" in assets) == has_predictions
    parents = {key.to_user_string() for key in assets["transit_features"].parent_keys}
    assert ("agency_predictions" in parents) == has_predictions


def test_every_asset_links_to_its_own_source_line(tmp_path: Path) -> None:
    for name, node in list_assets(make_settings(tmp_path)).items():
        if name in SIDE_TABLES:
            continue
        [reference] = node.metadata["dagster/code_references"].code_references
        lines = Path(reference.file_path).read_text().splitlines()
        decorated = next(line for line in lines[reference.line_number - 1 :] if line.strip().startswith("def "))
        function = "upstream" if name in schema.UPSTREAM else name  # one function makes the four upstream tables
        assert decorated.strip().startswith(f"def {function}("), name


@pytest.mark.parametrize("deployment", [{}, GCP, IN_PLACE], ids=["local", "gcp", "in place"])
def test_resources_and_io_managers_are_configurable(tmp_path: Path, deployment: dict[str, Any]) -> None:
    resources = build_defs(make_settings(tmp_path, **deployment)).resources or {}
    assert STORAGE_RESOURCES | {"settings", "source", "tracker", "cluster"} <= set(resources)
    for name, resource in resources.items():
        base = dg.ConfigurableIOManager if name in IO_MANAGERS else dg.ConfigurableResource
        assert isinstance(resource, base), name


@pytest.mark.parametrize(
    ("deployment", "locations"),
    [
        ({}, {"table_store": "{store}", "model_registry": "{store}", "reports": "{store}"}),
        (GCP, {"table_store": "transit", "model_registry": "transit-models", "reports": "transit-models"}),
    ],
    ids=["local", "gcp"],
)
def test_the_ui_shows_where_each_resource_stores(
    tmp_path: Path, deployment: dict[str, Any], locations: dict[str, str]
) -> None:
    resources = list_resources(make_settings(tmp_path, **deployment))
    for name, location in locations.items():
        assert f'"{location.format(store=tmp_path)}"' in resources[name].configured_values.values(), name
    # Those that store through another resource name it.
    stores = {
        name: {nested.name for nested in resources[name].nested_resources.values()}
        for name in IO_MANAGERS | {"warehouse"}
    }
    assert stores["tables"] == stores["upstream_tables"] == stores["warehouse"] == {"table_store"}
    assert stores["bundles"] == {"model_registry"}


@pytest.mark.parametrize("deployment", [{}, GCP, IN_PLACE], ids=["local", "gcp", "in place"])
def test_nothing_that_dagster_stores_or_shows_contains_a_secret(tmp_path: Path, deployment: dict[str, Any]) -> None:
    assert set(SECRETS) == {variable.field for variable in VARIABLES if variable.secret}
    settings = make_settings(tmp_path, **deployment, **SECRETS)
    defs = build_defs(settings)
    assert "S3CRET" not in serialize_value(RepositorySnap.from_def(defs.get_repository_def()))
    assert "S3CRET" not in repr(defs.resources)
    assert "S3CRET" not in repr(settings)


def test_a_test_may_replace_one_resource(tmp_path: Path) -> None:
    defs = build_defs(Settings(store=tmp_path), source="another")
    assert defs.resources
    assert defs.resources["source"] == "another"
    assert defs.resources["table_store"].store == str(tmp_path)


def test_the_code_location_has_one_name_whatever_the_folder_of_the_project(tmp_path: Path) -> None:
    project = tmp_path / "another name"
    project.mkdir()
    (project / "pyproject.toml").write_bytes((PACKAGE.parent / "pyproject.toml").read_bytes())
    workspace = (PACKAGE.parent / "workspace.yaml").read_text()
    assert DgContext.for_project_environment(project, {}).code_location_name == "mbta_assets"
    assert "location_name: mbta_assets\n" in workspace
