"""The point-in-time join behind `raw_transit_data`, written once in BigQuery's dialect.

The statement is in `raw_transit_data.sql`; this module renders it for an engine. Running it is up to the warehouse.
"""

from collections.abc import Mapping
from functools import cache
from importlib.resources import files

import sqlglot
from sqlglot import exp

from mbta_assets.transit.platforms import PLATFORM_ALIASES


@cache
def _parse_statement() -> exp.Select:
    text = files("mbta_assets.transit").joinpath("raw_transit_data.sql").read_text()
    return sqlglot.parse_one(text, read="bigquery", into=exp.Select)


def build_raw_transit_data_query(dialect: str, tables: Mapping[str, str] | None = None) -> str:
    """Return the SQL of `raw_transit_data` for an engine.

    `dialect` is sqlglot's name of the engine ("bigquery", "duckdb"). `tables` maps an upstream table ("vehicle",
    "trip", "stop", "schedule") to its name in the engine, or to a subquery in parentheses. The statement has one
    parameter, `service_date` (DATE), and filters every table by it.
    """
    statement = _parse_statement().copy()
    for table in statement.find_all(exp.Table):
        alias = table.alias_or_name
        if table.name == "platform_alias":
            table.replace(exp.values(list(PLATFORM_ALIASES.items()), alias=alias, columns=["alias", "stop_id"]))
        elif tables and table.name in tables:
            relation = tables[table.name]
            parse = sqlglot.parse_one if relation.startswith("(") else exp.to_table
            table.replace(exp.alias_(parse(relation, dialect=dialect), alias, table=True))
    return statement.sql(dialect, comments=False)
