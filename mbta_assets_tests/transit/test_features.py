"""The features: known at their moment, and what they say."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import Lake
from mbta_assets.transit import formulas, schema
from mbta_assets_tests.support.days import REAL, SIMULATED, build, changed_after

KEY = ["trip_id", "vehicle_id", "time_stamp", "stop_id"]
KNOWN = [*schema.columns(schema.TransitFeatures, "numeric"), *schema.columns(schema.TransitFeatures, "category")]


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
