"""Real days of other agencies through the join and the features: a bus route whose feeds are GTFS and GTFS-realtime."""

import pandas as pd
import pytest

from mbta_assets.storage.tables import to_arrow
from mbta_assets.transit import schema
from mbta_assets.transit.accounting import account_for_rows
from mbta_assets.transit.checks import inputs_used, labels_cover
from mbta_assets.transit.features import compute_transit_features
from mbta_assets_tests.support import gtfs_day, plain_day
from mbta_assets_tests.support.gtfs_day import WMATA_DAY
from mbta_assets_tests.support.plain_day import Tables

# Starts no process, but joins a day of buses.
pytestmark = pytest.mark.integration

TWO_VEHICLES = "5516100"
"""Trip that two vehicles serve at once."""


@pytest.fixture(scope="module")
def tables() -> Tables:
    return gtfs_day.read_day()


@pytest.fixture(scope="module")
def raw(tables: Tables) -> pd.DataFrame:
    return plain_day.join(tables, WMATA_DAY)


@pytest.fixture(scope="module")
def features(tables: Tables, raw: pd.DataFrame) -> pd.DataFrame:
    return compute_transit_features(raw, tables["vehicle"], tables["schedule"], tables["stop"])


def test_every_report_is_used_and_most_rows_have_a_label(tables: Tables, features: pd.DataFrame) -> None:
    usage = account_for_rows(**tables, service_date=WMATA_DAY).usage
    dropped = usage[usage["outcome"] == "dropped"]
    assert set(dropped["source_table"]) <= {"schedule", "trip", "stop"}, dropped
    schema.TransitFeatures.validate(features)
    assert inputs_used(usage, 0.05).problem is None
    assert labels_cover(to_arrow("transit_features", features), 0.05).problem is None
    labelled = features["delay_seconds"].notna().groupby(features["event"]).mean()
    assert labelled["arrival"] > 0.6 and labelled["departure"] > 0.4
    assert features["delay_seconds"].median() == pytest.approx(120, abs=120)


def test_every_distance_of_a_long_route_has_rows(features: pd.DataFrame) -> None:
    counts = features.groupby("stops_ahead").size()
    assert counts.index.tolist() == list(range(counts.index.max() + 1)) and len(counts) > 50
    at_benchmark = counts[[1, 3, 5, 10]]
    assert at_benchmark.min() > 3 * counts.drop([0, 1, 3, 5, 10]).max()


def test_reports_are_placed_by_their_stop_sequence_and_as_well_without_it(tables: Tables, raw: pd.DataFrame) -> None:
    named = tables["vehicle"].set_index(["id", "trip_id", "updated_at"])["current_stop_sequence"]
    reports = raw.drop_duplicates(["vehicle_id", "trip_id", "time_stamp"])
    keys = pd.MultiIndex.from_frame(reports[["vehicle_id", "trip_id", "time_stamp"]])
    latest = named.groupby(level=[0, 1, 2]).max()
    assert (latest.reindex(keys).to_numpy() == reports["current_stop_sequence"].to_numpy()).all()
    without = tables | {"vehicle": tables["vehicle"].assign(current_stop_sequence=None)}
    nameless = plain_day.join(without, WMATA_DAY)
    pd.testing.assert_frame_equal(nameless, raw)


def test_two_vehicles_of_a_trip_have_rows_and_labels_of_their_own(tables: Tables, raw: pd.DataFrame) -> None:
    of_trip = raw[raw["trip_id"] == TWO_VEHICLES]
    assert of_trip["vehicle_id"].nunique() == 2
    reports = tables["vehicle"]
    arrivals = reports[(reports["current_status"] == "STOPPED_AT") & (reports["trip_id"] == TWO_VEHICLES)]
    first = arrivals.groupby(["id", "current_stop_sequence"])["updated_at"].min()
    labelled = of_trip[of_trip["actual_arrival_time"].notna() & (of_trip["event"] == "arrival")]
    own = first.reindex(pd.MultiIndex.from_frame(labelled[["vehicle_id", "stop_sequence"]]))
    assert labelled["vehicle_id"].nunique() == 2
    assert (own.to_numpy() == labelled["actual_arrival_time"].to_numpy()).all()
