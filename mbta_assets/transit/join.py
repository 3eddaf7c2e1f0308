"""The join behind `raw_transit_data`: one SQL statement in BigQuery's dialect, transpiled for other engines."""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import sqlglot
from sqlglot import exp

from mbta_assets.transit.platforms import PLATFORM_ALIASES


@cache
def _statement() -> exp.Select:
    text = files("mbta_assets.transit").joinpath("raw_transit_data.sql").read_text()
    return sqlglot.parse_one(text, read="bigquery", into=exp.Select)


def raw_transit_data_query(dialect: str, tables: Mapping[str, str] | None = None) -> str:
    """The SQL of `raw_transit_data` for an engine.

    `dialect` is sqlglot's name of the engine ("bigquery", "duckdb"); `tables` gives for each upstream table ("vehicle",
    "trip", "stop", "schedule") what the engine calls it, or a subquery in parentheses. The statement takes one
    parameter, `service_date` (DATE), and filters every table by it.
    """
    statement = _statement().copy()
    for table in statement.find_all(exp.Table):
        alias = table.alias_or_name
        if table.name == "platform_alias":
            table.replace(exp.values(list(PLATFORM_ALIASES.items()), alias=alias, columns=["alias", "stop_id"]))
        elif tables and table.name in tables:
            there = tables[table.name]
            parse = sqlglot.parse_one if there.startswith("(") else exp.to_table
            table.replace(exp.alias_(parse(there, dialect=dialect), alias, table=True))
    return statement.sql(dialect, comments=False)
