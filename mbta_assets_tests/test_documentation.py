"""The generated tables in the documents are those of the code."""

import re
from pathlib import Path

import pytest

from mbta_assets.documentation import GENERATORS, config_table, settings_table, update_document
from mbta_assets.settings import VARIABLES
from mbta_assets_tests.support.dagster_dev import ROOT

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_the_tables_of_a_document_are_up_to_date(document: Path) -> None:
    text = document.read_text()
    assert update_document(text) == text, "run `make docs`"
    begun, ended = re.findall(r"<!-- (\S+):begin", text), re.findall(r"<!-- (\S+):end -->", text)
    assert begun == ended
    assert {*begun} <= {*GENERATORS, "performance", "real-days"}


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
