"""Service days for tests: features computed as the assets compute them, and days that went differently."""

from dataclasses import dataclass, fields
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.ml.training import dataset
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.warehouse import DuckDBWarehouse
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features
from mbta_assets.transit.sampling import sample_rows

SIMULATED, REAL = date(2024, 3, 6), date(2023, 10, 3)
Tables = dict[str, pd.DataFrame]
"""Upstream tables of a service day by name."""

LINES = ["Blue", "Mattapan", "Red"]
SIMULATED_DAYS = [date(2024, 3, 4) + timedelta(days=n) for n in range(10)]
ROWS_PER_DAY = 6_000


@dataclass(frozen=True)
class Simulation:
    """Ten simulated days of three lines."""

    rows: pd.DataFrame
    """Training set: a sample of the rows of each day, with their parts."""
    last_day: pd.DataFrame
    """Features of the last day."""
    stops: pd.DataFrame
    """Upstream table of stops of the last day."""

    @classmethod
    def make(cls, directory: Path) -> "Simulation":
        """Simulate, join and sample the days in tables below `directory`."""
        stored, source, days = ParquetTables(directory), SyntheticSource(0), []
        for day in SIMULATED_DAYS:
            tables = {name: source.read(name, day).rows for name in schema.UPSTREAM}
            tables["vehicle"] = tables["vehicle"][tables["vehicle"]["route_id"].isin(LINES)].reset_index(drop=True)
            days.append(build(stored, day, tables))
        rows = pd.concat([sample_rows(day, ROWS_PER_DAY) for day in days], ignore_index=True)
        rows["part"] = dataset.assign_parts(rows, dataset.SplitConfig())
        return cls(rows[rows["part"] != ""].reset_index(drop=True), days[-1], tables["stop"])

    @classmethod
    def write(cls, directory: Path) -> None:
        """Simulate the days and store them in `directory` for `read`."""
        simulation = cls.make(directory)
        for field in fields(cls):
            getattr(simulation, field.name).to_pickle(directory / field.name)

    @classmethod
    def read(cls, directory: Path) -> "Simulation":
        """Read the days that `write` has stored."""
        return cls(*(pd.read_pickle(directory / field.name) for field in fields(cls)))


def build(stored: ParquetTables, day: date, tables: Tables) -> pd.DataFrame:
    """Return `transit_features` of a day as the assets compute them: store the upstream tables, join, derive."""
    for name, rows in tables.items():
        columns = schema.arrow_schema(schema.UPSTREAM[name])
        stored.write(name, day, arrow.Table.from_pandas(rows, columns, preserve_index=False))
    raw = schema.to_frame(DuckDBWarehouse(stored, stored).join_upstream_tables(day))
    return compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])


def changed_after(vehicle: pd.DataFrame, time: pd.Timestamp, seed: int) -> pd.DataFrame:
    """Return the updates, unchanged up to a time.

    Each later one is dropped, delayed, or has another status or another stop, at random.
    """
    rng = np.random.default_rng(seed)
    later = (vehicle["updated_at"] > time).to_numpy()
    rows = vehicle.copy()
    change = rng.integers(0, 4, len(rows))
    shifted = rows["updated_at"] + pd.to_timedelta(rng.integers(0, 3600, len(rows)), unit="s")
    rows["updated_at"] = rows["updated_at"].where(~(later & (change == 1)), shifted)
    statuses = pd.Series(rng.choice(schema.STATUSES, len(rows)), dtype=rows["current_status"].dtype)
    rows["current_status"] = rows["current_status"].where(~(later & (change == 2)), statuses)
    stops = rows["stop_id"].sample(frac=1, random_state=seed).reset_index(drop=True)
    rows["stop_id"] = rows["stop_id"].where(~(later & (change == 3)), stops)
    return rows[~(later & (change == 0))].reset_index(drop=True)
