"""The simulated service days keep the upstream contract and have the delays and irregularities of real ones."""

import subprocess
import sys
from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from mbta_assets.sources.simulation.network import BERTHS
from mbta_assets.sources.simulation.process import simulate
from mbta_assets.sources.simulation.timetable import build_timetable
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import schema

WEDNESDAY, SATURDAY, SUNDAY = date(2024, 3, 6), date(2024, 3, 9), date(2024, 3, 17)
CLOCKS_FORWARD, CLOCKS_BACK = date(2024, 3, 10), date(2024, 11, 3)


@pytest.fixture(scope="module")
def vehicle() -> pd.DataFrame:
    return SyntheticSource().read("vehicle", WEDNESDAY).rows


@pytest.fixture(scope="module")
def schedule() -> pd.DataFrame:
    return SyntheticSource().read("schedule", WEDNESDAY).rows


@pytest.mark.parametrize("table", schema.UPSTREAM)
@pytest.mark.parametrize("service_date", [WEDNESDAY, CLOCKS_FORWARD, CLOCKS_BACK])
def test_every_table_keeps_the_upstream_contract(table: str, service_date: date) -> None:
    rows = SyntheticSource().read(table, service_date).rows
    assert len(rows) > 100
    assert list(rows) == list(schema.UPSTREAM[table].to_schema().columns)
    schema.UPSTREAM[table].validate(rows)


@pytest.mark.integration
def test_a_day_depends_on_its_date_and_seed_alone(vehicle: pd.DataFrame) -> None:
    script = "import sys, datetime, pandas as pd; from mbta_assets.sources.synthetic import SyntheticSource as S;"
    script += f"rows = S().read('vehicle', datetime.date.fromisoformat('{WEDNESDAY}')).rows;"
    script += "print(pd.util.hash_pandas_object(rows, index=False).sum())"
    other_process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert int(other_process.stdout) == pd.util.hash_pandas_object(vehicle, index=False).sum()
    assert not SyntheticSource(seed=1).read("vehicle", WEDNESDAY).rows.equals(vehicle)


def test_reading_the_timetable_does_not_run_the_process() -> None:
    simulate.cache_clear()
    for table in ("trip", "stop", "schedule"):
        SyntheticSource().read(table, WEDNESDAY)
    assert simulate.cache_info().misses == 0


def test_delays_are_as_large_and_as_persistent_as_observed_ones() -> None:
    delays, befores, afters = [], [], []
    for day in range(4, 14):
        simulated = simulate(date(2024, 3, day), 0)
        timetable = simulated.timetable
        delay = simulated.reported - timetable.published_seconds
        arrivals = np.flatnonzero((timetable.position > 0) & timetable.scheduled[timetable.trip])
        later = arrivals[timetable.position[arrivals] > 1]
        delays.append(delay[arrivals])
        befores.append(delay[later - 1])
        afters.append(delay[later])
    delay, before, after = map(np.concatenate, (delays, befores, afters))
    assert np.median(delay) == pytest.approx(56, abs=40)
    assert delay.mean() == pytest.approx(129, abs=50)
    assert np.percentile(delay, [5, 95]) == pytest.approx([-421, 831], abs=120)
    assert (delay > 300).mean() == pytest.approx(0.21, abs=0.05)
    assert 0.9 <= np.polyfit(before, after, 1)[0] <= 1.0
    change = np.abs(after - before)
    assert 3 < np.median(change) < 20
    assert np.percentile(change, 99) > 5 * np.median(change)


def test_weekends_have_less_service_and_sundays_start_later() -> None:
    departures = [
        SyntheticSource().read("schedule", day).rows.dropna(subset="departure_time")
        for day in (WEDNESDAY, SATURDAY, SUNDAY)
    ]
    trips = [rows["trip_id"].nunique() for rows in departures]
    first = [rows["departure_time"].min().tz_convert("America/New_York").time() for rows in departures]
    assert trips == sorted(trips, reverse=True) and len(set(trips)) == 3
    assert first[0] < first[2]


def test_the_service_day_counts_from_noon_minus_twelve_hours(schedule: pd.DataFrame) -> None:
    """Sunday's trains run by the wall clock, also on the Sundays on which the clocks change."""
    clock = [
        SyntheticSource()
        .read("schedule", day)
        .rows["departure_time"]
        .dt.tz_convert("America/New_York")
        .dt.tz_localize(None)
        - pd.Timestamp(day)
        for day in (CLOCKS_FORWARD, SUNDAY, CLOCKS_BACK)
    ]
    assert clock[0].min() == clock[1].min() == clock[2].min()
    next_midnight = datetime(2024, 3, 7, 5, tzinfo=UTC)
    assert (schedule["departure_time"] > next_midnight).any()


def test_a_trip_has_no_arrival_at_its_origin_and_no_departure_at_its_terminal(schedule: pd.DataFrame) -> None:
    times = schedule["arrival_time"].fillna(schedule["departure_time"])
    ordered = schedule.assign(time=times).sort_values("time", kind="stable").groupby("trip_id")
    assert ordered.head(1)["arrival_time"].isna().all() and ordered.head(1)["departure_time"].notna().all()
    assert ordered.tail(1)["departure_time"].isna().all() and ordered.tail(1)["arrival_time"].notna().all()
    assert schedule["arrival_time"].isna().sum() == schedule["departure_time"].isna().sum() == len(ordered)


def test_trip_ids_repeat_from_day_to_day() -> None:
    trips = [set(SyntheticSource().read("trip", date(2024, 3, day)).rows["id"]) for day in (5, 6)]
    regular = [{trip for trip in day if trip.isdigit()} for day in trips]
    assert regular[0] == regular[1]


def test_some_trips_are_added_without_a_schedule(schedule: pd.DataFrame) -> None:
    trips = SyntheticSource().read("trip", WEDNESDAY).rows["id"]
    unscheduled = trips[~trips.isin(schedule["trip_id"])]
    assert 0.04 < len(unscheduled) / len(trips) < 0.09
    assert unscheduled.str.match(r"(ADDED|NONREV)-\d+").all()


def test_a_few_trips_are_assigned_to_the_slot_of_a_later_one() -> None:
    trips = [trip for seed in range(4) for trip in build_timetable(WEDNESDAY, seed).trips]
    early = np.array([trip.published_early_seconds for trip in trips])
    assert 0 < (early > 1800).mean() < 0.01


def test_updates_have_the_irregularities_of_the_real_feed(vehicle: pd.DataFrame, schedule: pd.DataFrame) -> None:
    distinct = vehicle.drop_duplicates()
    assert 100_000 < len(vehicle) < 320_000
    assert 1.1 < len(vehicle) / len(distinct) < 1.4
    assert 0.002 < vehicle["stop_id"].isna().mean() < 0.01
    assert vehicle["trip_id"].isna().any()
    assert set(BERTHS) <= set(vehicle["stop_id"])
    assert not set(BERTHS) & set(schedule["stop_id"])
    assert (distinct["updated_at"].diff() < pd.Timedelta(0)).mean() > 0.01, "some come out of order"
    statuses = distinct.groupby(["id", "updated_at"])["current_status"].nunique()
    assert (statuses > 1).any(), "some have two statuses at the same time"
    stopped = distinct.loc[distinct["current_status"] == "STOPPED_AT", ["trip_id", "stop_id"]].replace(BERTHS)
    assert stopped.duplicated().any()
    arrivals = pd.MultiIndex.from_frame(schedule.dropna(subset="arrival_time")[["trip_id", "stop_id"]])
    assert 0.005 < 1 - arrivals.isin(pd.MultiIndex.from_frame(stopped.dropna())).mean() < 0.03


def test_a_berth_is_a_stop_in_the_station_of_its_platform() -> None:
    stop = SyntheticSource().read("stop", WEDNESDAY).rows.set_index("id")
    berths, platforms = stop.loc[list(BERTHS)], stop.loc[list(BERTHS.values())]
    assert berths.reset_index(drop=True).equals(platforms.reset_index(drop=True))
    assert berths["parent_station"].str.startswith("place-").all()


def test_updates_of_a_moving_train_come_every_ten_to_thirty_seconds(vehicle: pd.DataFrame) -> None:
    moving = vehicle[vehicle["current_status"] == "IN_TRANSIT_TO"].drop_duplicates(["id", "updated_at"])
    runs = moving.sort_values("updated_at").groupby(["id", "trip_id", "stop_id"])
    apart = runs["updated_at"].diff().dt.total_seconds()
    assert 10 < apart.median() < 30


def test_a_position_does_not_reveal_how_long_the_run_will_take(vehicle: pd.DataFrame) -> None:
    """Of trains that left a stop equally long ago, those further on do not arrive sooner."""
    simulated = simulate(WEDNESDAY, 0)
    timetable = simulated.timetable
    runs = pd.DataFrame({
        "trip_id": np.array([trip.trip_id for trip in timetable.trips])[timetable.trip],
        "stop_id": timetable.stop_ids,
        "start": np.roll(simulated.departed, 1),
        "end": simulated.approached,
    })[timetable.position > 0]  # fmt: skip
    moving = vehicle[vehicle["current_status"] == "IN_TRANSIT_TO"].drop_duplicates()
    moving = moving.merge(runs, on=["trip_id", "stop_id"])
    seconds = (moving["updated_at"] - datetime(2024, 3, 6, 5, tzinfo=UTC)).dt.total_seconds()
    moving = moving.assign(elapsed=(seconds - moving["start"]).round(-1), left=moving["end"] - seconds)
    moving = moving[moving["elapsed"].between(10, 50)]
    alike = moving.groupby(["route_id", "direction_id", "stop_id", "elapsed"])
    further = moving["latitude"] - alike["latitude"].transform("mean")
    left = moving["left"] - alike["left"].transform("mean")
    within = alike["left"].transform("size") > 20
    signed = further * np.sign(alike["latitude"].transform("mean") - moving["latitude"].mean())
    assert abs(signed[within].corr(left[within], method="spearman")) < 0.05
