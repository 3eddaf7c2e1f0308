"""The point-in-time join behind `raw_transit_data`, written once in BigQuery's dialect.

The statement is in `raw_transit_data.sql`; this module renders it for an engine. Running it is up to the warehouse.
"""

from collections.abc import Collection, Mapping
from functools import cache, lru_cache
from importlib.resources import files
from typing import TYPE_CHECKING

from mbta_assets.transit import distances, formulas, placement, plausibility, service_day

if TYPE_CHECKING:  # takes a quarter of a second to import; the code location imports this module and must load fast
    from sqlglot import exp

DUCKDB = "duckdb"
METRES_PER_MILE = 1609.344

CONSTANTS = {
    "time_zone": service_day.TIME_ZONE,
    "blanks": plausibility.BLANKS,
    "min_scheduled_hours": plausibility.MIN_SCHEDULED_HOURS,
    "max_scheduled_hours": plausibility.MAX_SCHEDULED_HOURS,
    "max_hours_from_trip": plausibility.MAX_HOURS_FROM_TRIP,
    "max_early_seconds": formulas.MAX_EARLY_SECONDS,
    "max_late_seconds": plausibility.MAX_LATE_SECONDS,
    "max_latitude": plausibility.MAX_LATITUDE,
    "max_longitude": plausibility.MAX_LONGITUDE,
    "null_island_degrees": plausibility.NULL_ISLAND_DEGREES,
    "max_degrees_from_stops": plausibility.MAX_DEGREES_FROM_STOPS,
    "earth_radius_miles": formulas.EARTH_RADIUS_MILES,
    "metres_per_mile": METRES_PER_MILE,
    "max_gap_microseconds": placement.MAX_GAP_SECONDS * plausibility.MICROSECONDS_PER_SECOND,
    "max_stretches": placement.MAX_STRETCHES,
    "earliness_weight": placement.EARLINESS_WEIGHT,
    "on_time_microseconds": placement.ON_TIME_SECONDS * plausibility.MICROSECONDS_PER_SECOND,
    "latest_start_microseconds": placement.LATE_START_SECONDS * plausibility.MICROSECONDS_PER_SECOND,
    "return_microseconds": placement.RETURN_SECONDS * plausibility.MICROSECONDS_PER_SECOND,
    "max_return_microseconds": placement.MAX_RETURN_SECONDS * plausibility.MICROSECONDS_PER_SECOND,
    "benchmark_distances": list(formulas.STOPS_AHEAD),
    "full_interval_seconds": distances.FULL_INTERVAL_SECONDS,
    "multiplier": distances.MULTIPLIER,
    "modulus": distances.MODULUS,
}
"""Parameters of the statement that are the same for every service day."""


@cache
def _parse_statement() -> "exp.Select":
    import sqlglot
    from sqlglot import exp

    text = files("mbta_assets.transit").joinpath("raw_transit_data.sql").read_text()
    statement = sqlglot.parse_one(text, read="bigquery", into=exp.Select)
    for parameter in list(statement.find_all(exp.Parameter)):
        if parameter.name in CONSTANTS:
            parameter.replace(exp.convert(CONSTANTS[parameter.name]))
    return statement


def build_raw_transit_data_query(
    dialect: str,
    tables: Mapping[str, str] | None = None,
    every_stop_ahead: bool = False,
    trips: Collection[str] | None = None,
) -> str:
    """Return the SQL of `raw_transit_data` for an engine.

    `dialect` is sqlglot's name of the engine ("bigquery", "duckdb"). `tables` maps an upstream table ("vehicle",
    "trip", "stop", "schedule") to its name in the engine, or to a subquery in parentheses. With `every_stop_ahead` each
    update has rows about every stop ahead, not only about those that `distances` chooses. With `trips` there are rows
    about these trips only, the same as otherwise, as no row depends on another trip. The statement has one parameter,
    `service_date` (DATE), and filters every table by it.
    """
    names = tuple(sorted((tables or {}).items()))
    return _render(dialect, names, every_stop_ahead, None if trips is None else tuple(sorted(trips)))


@lru_cache(maxsize=4)  # it is the same for most service days, and rendering it takes 0.15 s
def _render(
    dialect: str, names: tuple[tuple[str, str], ...], every_stop_ahead: bool, trips: tuple[str, ...] | None
) -> str:
    import sqlglot
    from sqlglot import exp

    tables = dict(names)
    statement = _parse_statement().copy()
    for parameter in list(statement.find_all(exp.Parameter)):
        if parameter.name == "every_stop_ahead":
            parameter.replace(exp.convert(every_stop_ahead))
    if trips is not None:
        _select_trips(statement, trips)
    if dialect == DUCKDB:
        _drop_time_zone(statement)
    for table in statement.find_all(exp.Table):
        if table.name in tables:
            relation = tables[table.name]
            parse = sqlglot.parse_one if relation.startswith("(") else exp.to_table
            table.replace(exp.alias_(parse(relation, dialect=dialect), table.alias_or_name, table=True))
    return statement.sql(dialect, comments=False)


def _drop_time_zone(statement: "exp.Select") -> None:
    """Make the start of the service day a time without a zone, in UTC, in place; times of the tables have none."""
    from sqlglot import exp

    [start_time] = [select for cte in statement.ctes if cte.alias == "service_day" for select in cte.this.selects]
    start_time.set("this", exp.AtTimeZone(this=exp.paren(start_time.this), zone=exp.Literal.string("UTC")))


def _select_trips(statement: "exp.Select", trips: Collection[str]) -> None:
    """Restrict the reports of a statement to those of some trips, in place."""
    from sqlglot import exp

    [report] = [cte.this for cte in statement.ctes if cte.alias == "report"]
    [trip_id] = [column.this for column in report.selects if column.alias == "trip_id"]
    report.where(trip_id.copy().isin(*sorted(trips)) if trips else exp.false(), copy=False)
