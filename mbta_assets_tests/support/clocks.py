"""Upstream tables in another agency's clock: the same wall-clock times, read in another time zone."""

from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd

from mbta_assets.transit import schema

BOSTON = "America/New_York"
AUCKLAND = "Pacific/Auckland"


def move_clock(rows: pd.DataFrame, zone: str) -> pd.DataFrame:
    """Return rows whose times (UTC) read in a time zone as they read in Boston."""
    moved = {
        name: rows[name].dt.tz_convert(ZoneInfo(BOSTON)).dt.tz_localize(None).dt.tz_localize(ZoneInfo(zone))
        for name in rows.select_dtypes("datetimetz").columns
    }
    return rows.assign(**{name: times.dt.tz_convert("UTC") for name, times in moved.items()})


def write_in_clock(directory: Path, source: Path, zone: str) -> None:
    """Write the upstream tables that are files in `source` to a directory, their times moved to a time zone."""
    directory.mkdir(parents=True, exist_ok=True)
    for table in schema.UPSTREAM:
        move_clock(pd.read_parquet(source / f"{table}.parquet"), zone).to_parquet(directory / f"{table}.parquet")
