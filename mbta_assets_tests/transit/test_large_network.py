"""Features equal those computed row by row from their definitions, on networks with crossing and overtaking trips."""

from datetime import date

import numpy as np
import pandas as pd
import pytest

from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import schema
from mbta_assets.transit.features import compute_transit_features
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.large_network import Size, count_differences, make_day
from mbta_assets_tests.support.plain_trips import microseconds
from mbta_assets_tests.support.row_by_row import NAMES, read_plainly

# Starts no process, but computes large days row by row.
pytestmark = pytest.mark.integration

MIN_DIFFERENT_ROWS = 100


def compute(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    """Return the features of the upstream tables."""
    raw = plain_day.join(tables)
    return compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])


@pytest.mark.parametrize("seed", [0, 1])
def test_features_of_a_network_equal_those_computed_row_by_row(seed: int) -> None:
    tables = make_day(Size(trips=600, stops=240, patterns=24), seed)
    features = compute(tables)
    assert len(features) > 20_000
    for name in NAMES:
        assert features[name].notna().mean() > 0.3, name
    sample = features.sample(1_500, random_state=seed)
    plain = read_plainly(tables)
    assert count_differences(sample, plain) == {}
    keys = features[["vehicle_id", "trip_id", "time_stamp", "stops_ahead"]]
    made = {(*names, microseconds(time), ahead) for *names, time, ahead in keys.itertuples(index=False)}
    assert made == {tuple(row) for row in plain.list_rows()} and len(made) == len(features)


def test_features_of_a_simulated_day_equal_those_computed_row_by_row() -> None:
    assert date(2024, 3, 6) == plain_day.DAY
    tables = {name: SyntheticSource(0).read(name, plain_day.DAY).rows for name in schema.UPSTREAM}
    of_line = tables["vehicle"]["route_id"].isin(["Red", "Mattapan"])
    tables["vehicle"] = tables["vehicle"][of_line].reset_index(drop=True)
    features = compute(tables)
    assert count_differences(features.sample(1_000, random_state=0), read_plainly(tables)) == {}


def test_the_comparison_finds_a_feature_that_is_wrong() -> None:
    tables = make_day(Size(trips=100, stops=60, patterns=6), 0)
    features = compute(tables).dropna(subset="leader_headway_seconds").head(MIN_DIFFERENT_ROWS)
    wrong = features.assign(leader_headway_seconds=features["leader_headway_seconds"] + np.float32(1))
    present = int(features["leader_headway_seconds"].notna().sum())
    assert count_differences(wrong, read_plainly(tables)) == {"leader_headway_seconds": present}
