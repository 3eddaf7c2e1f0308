"""The features: known at their moment, and what they say."""

from datetime import date

import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.resources.warehouse import DuckDBWarehouse
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.lake import Lake
from mbta_assets.transit import formulas, schema
from mbta_assets.transit.features import transit_features

SIMULATED, REAL = date(2024, 3, 6), date(2023, 10, 3)
KEY = ["trip_id", "vehicle_id", "time_stamp", "stop_id"]
KNOWN = [*schema.columns(schema.TransitFeatures, "numeric"), *schema.columns(schema.TransitFeatures, "category")]


def build(lake: Lake, day: date, tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Features by the same road as the assets: tables in the lake, joined, then features."""
    for name, rows in tables.items():
        wanted = schema.arrow_schema(schema.UPSTREAM[name])
        lake.write(name, day, arrow.Table.from_pandas(rows, wanted, preserve_index=False))
    raw = DuckDBWarehouse(lake, lake).raw_transit_data(day)
    return transit_features(raw, tables["vehicle"], tables["schedule"])


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    """One line of a simulated day, so that a property can be tried many times."""
    source = SyntheticSource(0)
    tables = {name: source.read(name, SIMULATED) for name in schema.UPSTREAM}
    tables["vehicle"] = tables["vehicle"][tables["vehicle"]["route_id"].isin(["Blue", "Mattapan"])]
    tables["vehicle"] = tables["vehicle"].reset_index(drop=True)
    lake = Lake(tmp_path_factory.mktemp("simulated"))
    return lake, SIMULATED, tables, build(lake, SIMULATED, tables)


@pytest.fixture(scope="module")
def real(tmp_path_factory, seed_upstream):
    source = FilesSource(seed_upstream)
    tables = {name: source.read(name, REAL) for name in schema.UPSTREAM}
    lake = Lake(tmp_path_factory.mktemp("real"))
    return lake, REAL, tables, build(lake, REAL, tables)


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


def assert_the_past_stands(day_of, share: float, seed: int) -> None:
    lake, day, tables, expected = day_of
    moment = tables["vehicle"]["updated_at"].quantile(share)
    other = build(lake, day, tables | {"vehicle": changed_after(tables["vehicle"], moment, seed)})
    columns = list(dict.fromkeys([*KEY, *KNOWN]))
    before, after = (
        rows.loc[rows["time_stamp"] <= moment, columns].sort_values(KEY).reset_index(drop=True)
        for rows in (expected, other)
    )
    assert len(before) > 0
    pd.testing.assert_frame_equal(before, after, check_exact=True)


cuts = given(share=st.floats(0.05, 0.95), seed=st.integers(0, 2**31))


@cuts
@settings(max_examples=12, deadline=None)
def test_nothing_after_a_moment_changes_a_feature_of_a_simulated_day(simulated, share, seed):
    assert_the_past_stands(simulated, share, seed)


@cuts
@settings(max_examples=12, deadline=None)
def test_nothing_after_a_moment_changes_a_feature_of_the_real_day(real, share, seed):
    assert_the_past_stands(real, share, seed)


def test_the_features_meet_their_schema(simulated):
    rows = simulated[3]
    schema.TransitFeatures.validate(rows)
    assert rows["delay_seconds"].notna().mean() > 0.9
    assert not rows.duplicated(KEY).any()


def test_the_label_is_actual_minus_scheduled_and_missing_where_no_arrival_was_seen(simulated):
    rows = simulated[3]
    delay = (rows["actual_arrival_time"] - rows["scheduled_arrival"]).dt.total_seconds()
    pd.testing.assert_series_equal(rows["delay_seconds"], delay, check_names=False)
    assert rows["delay_seconds"].isna().any()


def test_the_last_delay_is_the_label_of_the_stop_reached_last(simulated):
    rows = simulated[3]
    reached = rows[rows["delay_seconds"].notna()].drop_duplicates(["trip_id", "stop_id"])
    known = reached.set_index(["trip_id", "stop_id"])["delay_seconds"]
    standing = rows[(rows["current_status"] == "STOPPED_AT") & (rows["stops_behind"] > 1)]
    here = known.reindex(pd.MultiIndex.from_frame(standing[["trip_id", "current_stop_id"]])).to_numpy()
    both = ~np.isnan(here) & standing["last_delay_seconds"].notna().to_numpy()
    assert both.sum() > 1000
    np.testing.assert_allclose(standing["last_delay_seconds"].to_numpy()[both], here[both])


def test_a_degree_of_latitude_is_69_miles():
    assert formulas.haversine_miles(*np.array([[42.0], [-71.0], [43.0], [-71.0]]))[0] == pytest.approx(69.09, abs=0.02)


def test_a_service_day_is_counted_from_noon_minus_twelve_hours_when_the_clocks_change():
    noon = pd.Timestamp("2024-03-10 12:00", tz="America/New_York").timestamp()
    found = formulas.calendar(np.array(["2024-03-10"], dtype="datetime64[D]"), np.array([noon]))
    assert found["cos_time"][0] == pytest.approx(-1)
    assert (found["day_of_week"][0], found["season"][0], found["day_of_year"][0]) == (6, "spring", 70)
