"""Service days for tests: features made by the same road as the assets make them, and days that went otherwise."""

from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.ml.training import dataset
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import transit_features

SIMULATED, REAL = date(2024, 3, 6), date(2023, 10, 3)
Tables = dict[str, pd.DataFrame]


LINES = ["Blue", "Mattapan", "Red"]
SIMULATED_DAYS = [date(2024, 3, 4) + timedelta(days=n) for n in range(10)]
ROWS_A_DAY = 6_000


@dataclass(frozen=True)
class Simulation:
    """Ten simulated days of three lines."""

    rows: pd.DataFrame
    """A training set: some rows of each day, with their parts."""
    last_day: pd.DataFrame
    """The features of the last day."""
    stops: pd.DataFrame

    @classmethod
    def make(cls, directory: Path) -> "Simulation":
        """Simulate, join and sample the days in tables below `directory`."""
        lake, source, days = Lake(directory), SyntheticSource(0), []
        for day in SIMULATED_DAYS:
            tables = {name: source.read(name, day) for name in schema.UPSTREAM}
            tables["vehicle"] = tables["vehicle"][tables["vehicle"]["route_id"].isin(LINES)].reset_index(drop=True)
            days.append(build(lake, day, tables))
        rows = pd.concat([dataset.sample(day, ROWS_A_DAY) for day in days], ignore_index=True)
        rows["part"] = dataset.split(rows)
        return cls(rows[rows["part"] != ""].reset_index(drop=True), days[-1], tables["stop"])

    @classmethod
    def write(cls, directory: Path) -> None:
        """Make the days and store them in `directory`, for `read`."""
        made = cls.make(directory)
        for field in fields(cls):
            getattr(made, field.name).to_pickle(directory / field.name)

    @classmethod
    def read(cls, directory: Path) -> "Simulation":
        """Read what `write` has stored."""
        return cls(*(pd.read_pickle(directory / field.name) for field in fields(cls)))


def build(lake: Lake, day: date, tables: Tables) -> pd.DataFrame:
    """Features by the same road as the assets: tables in the lake, joined, then features."""
    for name, rows in tables.items():
        wanted = schema.arrow_schema(schema.UPSTREAM[name])
        lake.write(name, day, arrow.Table.from_pandas(rows, wanted, preserve_index=False))
    raw = DuckDBWarehouse(lake, lake).raw_transit_data(day)
    return transit_features(raw, tables["vehicle"], tables["schedule"])


def changed_after(vehicle: pd.DataFrame, moment: pd.Timestamp, seed: int) -> pd.DataFrame:
    """The same updates up to a moment; later ones dropped, moved, relabelled or sent elsewhere at random."""
    random = np.random.default_rng(seed)
    later = (vehicle["updated_at"] > moment).to_numpy()
    rows = vehicle.copy()
    fate = random.integers(0, 4, len(rows))
    shifted = rows["updated_at"] + pd.to_timedelta(random.integers(0, 3600, len(rows)), unit="s")
    rows["updated_at"] = rows["updated_at"].where(~(later & (fate == 1)), shifted)
    statuses = pd.Series(random.choice(schema.STATUSES, len(rows)), dtype=rows["current_status"].dtype)
    rows["current_status"] = rows["current_status"].where(~(later & (fate == 2)), statuses)
    stops = rows["stop_id"].sample(frac=1, random_state=seed).reset_index(drop=True)
    rows["stop_id"] = rows["stop_id"].where(~(later & (fate == 3)), stops)
    return rows[~(later & (fate == 0))].reset_index(drop=True)
