"""Every column of a derived table has sources, and these exist."""

import dagster as dg
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets.transit import schema
from mbta_assets.transit.column_sources import PUBLISHED, SOURCES
from mbta_assets.transit.features import COPIED_COLUMNS

REPORTS = {"rejected_rows", "upstream_usage", "prediction_accuracy"}
"""Tables about rows of other tables, whose columns have no values of these."""
DERIVED = sorted(schema.TABLES.keys() - schema.SOURCE_TABLES.keys() - REPORTS)
MODELS = {"production_model"}


def list_columns(table: str) -> list[str]:
    """Return the names of the columns of a table."""
    return list(schema.TABLES[table].to_schema().columns)


def exists(source: str) -> bool:
    """Return whether there is a source: a column, a table, a model or the archive."""
    table, _, column = source.partition(".")
    if not column:
        return table in schema.TABLES or table in MODELS or source == PUBLISHED
    return table in schema.TABLES and column in list_columns(table)


def test_every_derived_table_has_sources() -> None:
    assert sorted(SOURCES) == DERIVED


@pytest.mark.parametrize("table", DERIVED)
def test_every_column_of_a_derived_table_has_sources(table: str) -> None:
    assert set(SOURCES[table]) == set(list_columns(table))
    assert all(SOURCES[table].values())


@pytest.mark.parametrize("table", DERIVED)
def test_sources_exist(table: str) -> None:
    sources = {source for of_column in SOURCES[table].values() for source in of_column}
    assert not {source for source in sources if not exists(source)}


@pytest.mark.parametrize(
    "source", ["vehicles", "vehicle.updated", "vehicles.updated_at", "dnn_teacher.layers", "teacher"]
)
def test_a_source_that_there_is_not_is_found(source: str) -> None:
    assert not exists(source)


@pytest.mark.parametrize("table", DERIVED)
def test_sources_are_of_assets_that_the_table_is_made_from(table: str) -> None:
    graph = build_defs(Settings()).get_repository_def().asset_graph
    parents = {key.to_user_string() for key in graph.get(dg.AssetKey(table)).parent_keys}
    named = {source.partition(".")[0] for of_column in SOURCES[table].values() for source in of_column}
    assert named - {table, PUBLISHED, *schema.OPTIONAL_UPSTREAM} <= parents


def test_the_source_of_a_copied_column_is_the_column() -> None:
    assert all(SOURCES["transit_features"][name] == (f"raw_transit_data.{name}",) for name in COPIED_COLUMNS)
