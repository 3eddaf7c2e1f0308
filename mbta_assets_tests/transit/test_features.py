"""The features: known at their point in time, and equal to what their descriptions say."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.sources.contract import Source
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import features, formulas, schema
from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.days import REAL, SIMULATED, Tables, build, changed_after

KEY = ["trip_id", "vehicle_id", "time_stamp", "stop_sequence"]
MODEL_INPUTS = [
    *schema.columns_with_role(schema.TransitFeatures, "numeric"),
    *schema.columns_with_role(schema.TransitFeatures, "category"),
]


@dataclass(frozen=True)
class Day:
    """Service day with its upstream tables and its features."""

    stored: ParquetTables
    service_date: date
    tables: Tables
    features: pd.DataFrame

    @classmethod
    def from_tables(cls, directory: Path, service_date: date, tables: Tables) -> "Day":
        """Compute the features of upstream tables, stored below a directory."""
        stored = ParquetTables(directory)
        return cls(stored, service_date, tables, build(stored, service_date, tables))


def read_tables(source: Source, service_date: date) -> Tables:
    """Return the upstream tables of a service day."""
    return {name: source.read(name, service_date).rows for name in schema.UPSTREAM}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Return one simulated line for a few hours, so that a property can be tried many times."""
    service_date = small_network.MONDAY
    return Day.from_tables(tmp_path_factory.mktemp("small"), service_date, small_network.make_day(service_date))


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Day:
    """Return two lines of a simulated day."""
    tables = read_tables(SyntheticSource(0), SIMULATED)
    of_lines = tables["vehicle"]["route_id"].isin(["Blue", "Mattapan"])
    tables["vehicle"] = tables["vehicle"][of_lines].reset_index(drop=True)
    return Day.from_tables(tmp_path_factory.mktemp("simulated"), SIMULATED, tables)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory, seed_upstream: Path) -> Day:
    """Return the real day."""
    tables = read_tables(FilesSource(seed_upstream), REAL)
    return Day.from_tables(tmp_path_factory.mktemp("real"), REAL, tables)


def assert_point_in_time_correct(day: Day, share: float, seed: int) -> None:
    """Raise AssertionError if updates after a share of the day's updates change a feature up to that time."""
    times = day.tables["vehicle"]["updated_at"].sort_values(ignore_index=True)
    time = times[int(share * len(times))]
    changed = day.tables | {"vehicle": changed_after(day.tables["vehicle"], time, seed)}
    columns = list(dict.fromkeys([*KEY, *MODEL_INPUTS]))
    before, after = (
        rows.loc[rows["time_stamp"] <= time, columns].sort_values(KEY).reset_index(drop=True)
        for rows in (day.features, build(day.stored, day.service_date, changed))
    )
    assert len(before) > 0
    pd.testing.assert_frame_equal(before, after, check_exact=True)


later_changes = given(share=st.floats(0.05, 0.95), seed=st.integers(0, 2**31))


@later_changes
@settings(max_examples=20, deadline=None)
def test_no_later_update_changes_a_feature_of_a_simulated_day(small: Day, share: float, seed: int) -> None:
    assert_point_in_time_correct(small, share, seed)


@later_changes
@settings(max_examples=12, deadline=None)
def test_no_later_update_changes_a_feature_of_the_real_day(real: Day, share: float, seed: int) -> None:
    assert_point_in_time_correct(real, share, seed)


def test_features_are_the_same_in_blocks_of_any_size(real: Day, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(real.features) < features.BLOCK_ROWS
    monkeypatch.setattr(features, "BLOCK_ROWS", len(real.features) // 7)
    in_blocks = build(real.stored, real.service_date, real.tables)
    pd.testing.assert_frame_equal(in_blocks, real.features, check_exact=True)


def test_the_features_meet_their_schema(simulated: Day) -> None:
    rows = simulated.features
    schema.TransitFeatures.validate(rows)
    assert rows["delay_seconds"].notna().mean() > 0.9
    assert not rows.duplicated(KEY).any()


def test_the_label_is_actual_minus_scheduled_and_missing_where_no_arrival_was_seen(simulated: Day) -> None:
    rows = simulated.features
    delay = (rows["actual_arrival_time"] - rows["scheduled_arrival"]).dt.total_seconds()
    pd.testing.assert_series_equal(rows["delay_seconds"], delay, check_names=False)
    assert rows["delay_seconds"].isna().any()


def test_the_last_delay_is_the_label_of_the_stop_reached_last(simulated: Day) -> None:
    rows = simulated.features
    visit = ["trip_id", "vehicle_id", "stop_sequence"]
    reached = rows[rows["delay_seconds"].notna() & (rows["event"] == "arrival")].drop_duplicates(visit)
    labels = reached.set_index(visit)["delay_seconds"]
    standing = rows[(rows["current_status"] == "STOPPED_AT") & (rows["stops_behind"] > 1)]
    current = standing[["trip_id", "vehicle_id", "current_stop_sequence"]]
    label_here = labels.reindex(pd.MultiIndex.from_frame(current)).to_numpy()
    both = ~np.isnan(label_here) & standing["last_delay_seconds"].notna().to_numpy()
    assert both.sum() > 1000
    np.testing.assert_allclose(standing["last_delay_seconds"].to_numpy()[both], label_here[both])


def test_a_degree_of_latitude_is_69_miles() -> None:
    miles = formulas.haversine_miles(np.array([42.0]), np.array([-71.0]), np.array([43.0]), np.array([-71.0]))
    assert miles[0] == pytest.approx(69.09, abs=0.02)


def test_a_service_day_is_counted_from_noon_minus_twelve_hours_when_the_clocks_change() -> None:
    noon = pd.Timestamp("2024-03-10 12:00", tz="America/New_York").timestamp()
    day, start = np.array(["2024-03-10"], dtype="datetime64[D]"), np.array([noon - 3600])
    columns = formulas.compute_calendar({"service_date": day, "now": np.array([noon]), "scheduled_start": start})
    assert columns["trip_start_seconds"][0] == 11 * 3600
    assert columns["cos_time"][0] == pytest.approx(-1)
    assert (columns["day_of_week"][0], columns["season"][0], columns["day_of_year"][0]) == (6, "spring", 70)
