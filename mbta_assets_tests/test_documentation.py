"""The generated tables in the documents are those of the code."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import click
import griffe
import pytest
from pandera.typing import Series

from mbta_assets.cli import main
from mbta_assets.definitions import build_resources
from mbta_assets.defs.automation.pruning import PruneConfig
from mbta_assets.documentation import (
    GENERATORS,
    classes_table,
    commands_table,
    config_table,
    resources_table,
    targets_table,
    update_document,
    upstream_table,
)
from mbta_assets.markdown import settings_table
from mbta_assets.settings import VARIABLES, Settings
from mbta_assets.transit import schema
from mbta_assets.transit.table import Table, Text, column, optional
from mbta_assets_tests.support.dagster_dev import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_of_a_document_are_up_to_date(document: Path) -> None:
    text = document.read_text()
    assert update_document(text) == text, "run `make docs`"
    begun, ended = re.findall(r"<!-- (\S+):begin", text), re.findall(r"<!-- (\S+):end -->", text)
    assert begun == ended
    assert {*begun} <= {*GENERATORS, "performance", "cost-curves", "real-days"}


def test_one_document_has_every_variable() -> None:
    table = settings_table()
    assert all(f"| `{entry.name}` |" in table for entry in VARIABLES)
    assert [document.name for document in DOCUMENTS if table in document.read_text()]


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("dnn_teacher", "grace_fraction", "> 0, ≤ 1"),
        ("dnn_teacher", "architecture.category_dropout", "≥ 0, < 1"),
        ("pruned_teacher", "cuts[].neurons", "≥ 0, < 1"),
        ("dnn_teacher", "space.bins", "1 or more of them"),
    ],
)
def test_the_table_of_a_configuration_has_the_values_that_are_allowed(name: str, key: str, values: str) -> None:
    row = next(line for line in config_table([name]).splitlines() if line.startswith(f"| `{key}` |"))
    assert row.split(" | ")[2] == values


def test_ops_of_jobs_are_beside_the_assets_that_have_configuration() -> None:
    table = config_table([])
    assert "### `dnn_teacher`\n\n| key" in table
    assert "### `roll_back`\n\nAn op of the job `rollback_production`.\n" in table
    assert "### `prune`\n\nAn op of the job `prune_versions`.\n" in table
    with pytest.raises(KeyError):
        config_table(["rolled_back"])


class Depot(Table):
    """Depots of the service day."""

    id: Series[Text] = column("Depot.")
    name: Series[Text] = column("Name.", nullable=True)
    tracks: Series[Text] = optional("Tracks.")


def test_the_upstream_tables_have_the_columns_that_a_source_needs_to_deliver(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "| `trip` | `id`, `name` | `route_id`, `direction_id`, `headsign` |" in upstream_table()
    assert "| `agency_predictions`, optional | `predicted_at`," in upstream_table()
    monkeypatch.setattr(schema, "SOURCE_TABLES", {"depot": Depot})
    assert upstream_table().splitlines()[2:] == ["| `depot`, optional | `id`, `name` | `tracks` |"]
    monkeypatch.setattr(schema, "UPSTREAM", {"depot": Depot})
    assert upstream_table().splitlines()[2:] == ["| `depot` | `id`, `name` | `tracks` |"]


def read_interfaces() -> dict[str, list[str] | None]:
    """Return the names that the reference of Python has, each with the members that it chooses, None if it has all."""
    pattern = r"^::: (\S+)(?:\n    options:\n      members: \[(.*)\])?"
    found = re.finditer(pattern, (ROOT / "docs/python.md").read_text(), re.MULTILINE)
    return {match[1]: None if match[2] is None else re.findall(r"\w+", match[2]) for match in found}


@pytest.fixture(scope="module")
def package() -> griffe.Object | griffe.Alias:
    """Return the package as the site reads it."""
    return griffe.load("mbta_assets", search_paths=[ROOT])


@pytest.mark.parametrize(("name", "chosen"), list(read_interfaces().items()))
def test_the_python_reference_has_a_docstring_for_each_name(
    package: griffe.Object | griffe.Alias, name: str, chosen: list[str] | None
) -> None:
    interface = package[name.removeprefix("mbta_assets.")]
    documented = [value for value in interface.members.values() if value.is_function or value.is_attribute]
    members = [value.name for value in documented if not value.name.startswith("_")] if chosen is None else chosen
    assert interface.has_docstring
    assert [member for member in members if not interface[member].has_docstring] == []


def test_the_python_reference_has_what_extending_names() -> None:
    names = {name.rsplit(".", 1)[1] for name in read_interfaces()}
    text = (ROOT / "docs/extending.md").read_text()
    extended = {"FORMULAS", "OBSERVED_FEATURES", "Bundle", "Draft", "Preprocessor", "Source", "SourceError"} | {
        "SourceRows", "conform", "make_provenance", "model_asset", "seconds_feature",
    }  # fmt: skip
    assert {name for name in extended if re.search(rf"\b{name}\b", text)} == extended
    assert extended <= names


def test_the_resources_and_classes_of_configuration_are_those_of_the_definitions() -> None:
    resources = {line.split("`")[1]: line for line in resources_table().splitlines()[2:]}
    assert set(resources) == set(build_resources(Settings()))
    assert "| `mbta_assets.defs.resources.ray_cluster.RayCluster` | One Ray session per run" in resources["cluster"]
    assert "`trial_gpus`: GPUs of the same" in resources["cluster"]
    classes = {line.split("`")[1]: line.split("`")[3] for line in classes_table().splitlines()[2:]}
    assert set(classes) == set(re.findall(r"^### `(.+)`$", config_table([]), re.MULTILINE))
    assert classes["prune"] == f"{PruneConfig.__module__}.PruneConfig"


def iter_commands(words: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    """Yield a command and those of the groups in it, each after the words that call it."""
    yield words, command
    if isinstance(command, click.Group):
        for name, member in command.commands.items():
            yield from iter_commands(f"{words} {name}", member)


@pytest.mark.parametrize(("words", "command"), list(iter_commands("mbta-assets", main))[1:])
def test_the_reference_of_a_command_has_what_it_takes(words: str, command: click.Command) -> None:
    heading = f"### `{words}`\n"
    section = (commands_table().partition(heading)[2]).split("\n### ")[0]
    assert f"```text\n{words} [OPTIONS]" in section
    assert command.get_short_help_str(200) in section
    rows = [line.split(" | ") for line in section.splitlines() if line.startswith("| `")]
    named = [re.findall(r"`(.+?)`", row[0]) for row in rows]
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert [[*option.opts, *option.secondary_opts] for option in options] == named[len(named) - len(options) :]
    assert len(named) == len(command.params)
    assert all(row[-1].removesuffix(" |") for row in rows), "each has a description"


@pytest.mark.parametrize(
    "row",
    [
        "| `--write-every` | `60.0` | a number from 0 to 900 | Seconds between two writes: what is lost at most",
        "| `--last` |  | a whole number, 1 or more | Number of latest",
        "| `--archive`, `--no-archive` | `--archive` |  | Keep snapshots",
        "| `--archive-predictions`, `--no-archive-predictions` | unless it is a replay |  | Keep what",
        "| `--select` | required | text | Assets to materialize",
        "| `--follow` |  |  | Wait for the pipeline",
        "| `DAY` | required | YYYY-MM-DD | Stored service day",
        "| `STOP_SEQUENCE` | required | a whole number | Stop sequence",
        "| `--output` | required | a path | The YAML file",
    ],
)
def test_the_reference_of_commands_has_defaults_and_what_is_accepted(row: str) -> None:
    assert any(line.startswith(row) for line in commands_table().splitlines())


def test_the_targets_of_the_makefile_are_those_of_its_help() -> None:
    rows = [line.strip("| ").split(" | ") for line in targets_table().splitlines()[2:]]
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [(row[0].strip("`"), row[2]) for row in rows] == [
        (f"make {line.split()[1]}", line.split(maxsplit=2)[2]) for line in listed
    ]
    variables = {row[0].strip("`"): row[1] for row in rows}
    assert variables["make backfill"] == "`SOURCE`; `LAST`, by default 30"
    assert variables["make live"] == "`PORT`"
    assert variables["make demo"] == ""


def test_a_table_is_generated_between_its_markers_and_the_rest_is_left() -> None:
    before, after = "Settings:\n\n<!-- settings:begin VERTEX_ RAY_ -->\n", "<!-- settings:end -->\n\nNo more.\n"
    updated = update_document(f"{before}an old table\n{after}")
    assert updated.startswith(before)
    assert updated.endswith(after)
    assert "an old table" not in updated
    rows = [line for line in updated.splitlines() if line.startswith("| `")]
    names = [entry.name for entry in VARIABLES if entry.name.startswith(("VERTEX_", "RAY_"))]
    assert [row.split("`")[1] for row in rows] == names
    assert len(names) > 3
    assert update_document(updated) == updated
