"""Upstream tables of a network small enough for quick tests: the Mattapan line of the simulation, in the morning."""

from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import pandas as pd

from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import TIME_ZONE

LINE = "Mattapan"
END_HOUR = 10
"""Local hour from which no trip begins."""
MONDAY = date(2024, 4, 1)


def days_from(first: date, number: int) -> list[date]:
    """Return consecutive service days."""
    return [first + timedelta(days=n) for n in range(number)]


DAYS = days_from(MONDAY, 3)
"""Service days that most tests use."""


def write(
    directory: Path, days: Iterable[date], seed: int = 0, tables: Iterable[str] = schema.UPSTREAM, every: int = 1
) -> None:
    """Write or replace service days of tables, a file for each day; see `make_day`."""
    for day in days:
        upstream = make_day(day, seed, every)
        for table in tables:
            rows = upstream[table]
            path = directory / table / f"service_date={day}" / "part.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.drop(columns="service_date").to_parquet(path, index=False)


def make_day(day: date, seed: int = 0, every: int = 1) -> dict[str, pd.DataFrame]:
    """Return the tables of a service day, with the first of `every` so many trips.

    One week is simulated, and other weeks of the same half-year are copies of it with shifted times.
    """
    simulated = MONDAY + timedelta(days=day.weekday())
    return {table: _shift(rows, day - simulated) for table, rows in _simulate(simulated, seed, every).items()}


@cache
def _simulate(day: date, seed: int, every: int) -> dict[str, pd.DataFrame]:
    source = SyntheticSource(seed)
    tables = {table: source.read(table, day).rows for table in schema.UPSTREAM}
    begins = tables["schedule"].groupby("trip_id")["departure_time"].min().sort_values()
    early = begins.index[begins.dt.tz_convert(TIME_ZONE).dt.hour < END_HOUR]
    trips = tables["trip"][tables["trip"]["route_id"] == LINE]
    selected = early[early.isin(trips["id"])][::every]
    for table, name in (("trip", "id"), ("vehicle", "trip_id"), ("schedule", "trip_id")):
        tables[table] = tables[table][tables[table][name].isin(selected)].reset_index(drop=True)
    visited = pd.concat([tables["schedule"]["stop_id"], tables["vehicle"]["stop_id"]]).unique()
    tables["stop"] = tables["stop"][tables["stop"]["id"].isin(visited)]
    return tables


def _shift(rows: pd.DataFrame, by: timedelta) -> pd.DataFrame:
    times = rows.select_dtypes("datetimetz").columns
    shifted = rows.assign(**{name: rows[name] + by for name in times})
    shifted["service_date"] = (rows["service_date"] + by).astype(rows["service_date"].dtype)
    return shifted
