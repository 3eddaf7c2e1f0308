"""A real service day, the MBTA's Red Line on 2023-10-03 (see data/README.md), on its own date or on others."""

from collections.abc import Iterable
from datetime import date, timedelta
from pathlib import Path

import pandas as pd

from mbta_assets.transit import schema

SEED_UPSTREAM = Path(__file__).parents[1] / "data/seed_upstream"
DAY = date(2023, 10, 3)
DAYS = [DAY + timedelta(days=n) for n in range(3)]


def write_days(directory: Path, days: Iterable[date], keep_share: float = 1.0) -> None:
    """Write the day with its times shifted to each of `days`, a file for each table and service day.

    `keep_share` is the share of the vehicle updates that are written, the earliest ones.
    """
    for table in schema.UPSTREAM:
        rows = pd.read_parquet(SEED_UPSTREAM / f"{table}.parquet").drop(columns="service_date")
        if table == "vehicle":
            rows = rows.sort_values("updated_at", kind="stable").head(int(len(rows) * keep_share))
        times = rows.select_dtypes("datetimetz").columns
        for day in days:
            path = directory / table / f"service_date={day}" / "part.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            rows.assign(**{name: rows[name] + (day - DAY) for name in times}).to_parquet(path, index=False)
