"""Upstream tables as files, so small that a service day takes no time: the simulator's Mattapan line in the morning."""

from collections.abc import Iterable
from datetime import date, timedelta
from functools import cache
from pathlib import Path

import pandas as pd

from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import schema
from mbta_assets.transit.service_day import TIME_ZONE

LINE = "Mattapan"
LAST_HOUR = 10
"""Trips that begin later, in Boston, are left out."""
MONDAY = date(2024, 4, 1)


def days_from(first: date, number: int) -> list[date]:
    """So many service days in a row."""
    return [first + timedelta(days=n) for n in range(number)]


DAYS = days_from(MONDAY, 3)
"""What most tests take."""


def write(directory: Path, days: Iterable[date], seed: int = 0, tables: Iterable[str] = schema.UPSTREAM) -> None:
    """Write or replace service days of tables, in the layout of a file a day."""
    for day in days:
        of_tables = of_day(day, seed)
        for table in tables:
            rows = of_tables[table]
            path = directory / table / f"service_date={day}" / "part.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.drop(columns="service_date").to_parquet(path, index=False)


def of_day(day: date, seed: int = 0) -> dict[str, pd.DataFrame]:
    """The tables of a service day: a week is simulated, other weeks of the same half-year are moved from it."""
    simulated = MONDAY + timedelta(days=day.weekday())
    return {table: _moved(rows, day - simulated) for table, rows in _simulated(simulated, seed).items()}


@cache
def _simulated(day: date, seed: int) -> dict[str, pd.DataFrame]:
    source = SyntheticSource(seed)
    tables = {table: source.read(table, day) for table in schema.UPSTREAM}
    begins = tables["schedule"].groupby("trip_id")["departure_time"].min().dt.tz_convert(TIME_ZONE).dt.hour
    trips = tables["trip"][tables["trip"]["route_id"] == LINE]
    kept = set(trips["id"]) & set(begins.index[begins < LAST_HOUR])
    for table, name in (("trip", "id"), ("vehicle", "trip_id"), ("schedule", "trip_id")):
        tables[table] = tables[table][tables[table][name].isin(kept)]
    visited = pd.concat([tables["schedule"]["stop_id"], tables["vehicle"]["stop_id"]]).unique()
    tables["stop"] = tables["stop"][tables["stop"]["id"].isin(visited)]
    return tables


def _moved(rows: pd.DataFrame, by: timedelta) -> pd.DataFrame:
    times = rows.select_dtypes("datetimetz").columns
    return rows.assign(**{name: rows[name] + by for name in times})
