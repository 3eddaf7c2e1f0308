"""The oracle draws arrivals from the distribution that they come from, and no simpler prediction is as good."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from mbta_assets.sources.simulation.oracle import draw_arrivals, find_visits, predict_delays
from mbta_assets.sources.simulation.process import Incidents, SimulatedDay, simulate
from mbta_assets.sources.simulation.timetable import Timetable
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import service_day

DAYS = date(2024, 3, 5), date(2024, 3, 6)
HORIZONS = (1, 3, 5, 10)


def sample_queries(day: SimulatedDay, size: int = 6000) -> pd.DataFrame:
    """Return points in time at which trains are under way, with a stop ahead and what was known and then observed."""
    rng, timetable = np.random.default_rng(0), day.timetable
    ahead = rng.choice(HORIZONS, size)
    visit = rng.integers(0, len(timetable.trip), size)
    is_target = (timetable.position[visit] >= ahead) & timetable.scheduled[timetable.trip[visit]]
    visit = np.where(is_target, visit, -1)
    ahead, visit = ahead[visit >= 0], visit[visit >= 0]
    last = visit - ahead
    span = day.reported[last + 1] - day.departed[last]
    now = np.ceil(day.departed[last] + rng.random(len(visit)) * span)
    rows = pd.DataFrame({
        "service_date": day.service_date,
        "trip_id": trip_ids(timetable)[timetable.trip[visit]],
        "stop_id": timetable.stop_ids[visit],
        "time_stamp": service_day.start_time(day.service_date) + pd.to_timedelta(now, unit="s"),
        "ahead": ahead,
        "now": now,
        "arrival": np.ceil(day.reported[visit]),
        "departed": day.departed[last],
        "pair": timetable.stop_ids[last] + "-" + timetable.stop_ids[visit],
    })  # fmt: skip
    rows["delay"] = rows["arrival"] - timetable.published_seconds[visit]
    rows["run"] = rows["arrival"] - rows["departed"]
    rows["delay_at_departure"] = rows["departed"] - timetable.published_seconds[last]
    rows["time_stamp"] = rows["time_stamp"].astype("datetime64[us, UTC]")
    return rows[rows["arrival"] > rows["now"]].reset_index(drop=True)


def trip_ids(timetable: Timetable) -> np.ndarray:
    """Return the id (t,) of each trip."""
    return np.array([trip.trip_id for trip in timetable.trips], dtype=object)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.concat([sample_queries(simulate(day, 0)) for day in DAYS], ignore_index=True)


@pytest.fixture(scope="module")
def predictions(rows: pd.DataFrame) -> np.ndarray:
    return SyntheticSource().oracle(rows)


@pytest.mark.parametrize("ahead", HORIZONS)
def test_no_simpler_prediction_is_as_good(rows: pd.DataFrame, predictions: np.ndarray, ahead: int) -> None:
    selected = (rows["ahead"] == ahead).to_numpy()
    queries, oracle = rows[selected], predictions[selected]
    # The lookup gets its median from the very rows that it predicts, which is an advantage over any real one.
    median_run = queries.groupby("pair")["run"].transform("median")
    lookup = queries["delay"] - queries["run"] + median_run
    mae = np.abs(queries["delay"] - oracle).mean()
    assert mae < np.abs(queries["delay"]).mean()
    assert mae < np.abs(queries["delay"] - queries["delay_at_departure"]).mean()
    assert mae < np.abs(queries["delay"] - lookup).mean()


def test_predictions_are_late_as_often_as_early(rows: pd.DataFrame, predictions: np.ndarray) -> None:
    assert abs(np.median(rows["delay"] - predictions)) < 1.5


def test_arrivals_rank_evenly_among_their_draws() -> None:
    """Ranks would not be even if the oracle knew anything drawn later, or left out anything known."""
    ranks = []
    for service_date in DAYS:
        day = simulate(service_date, 0)
        queries = sample_queries(day)
        rank = np.full(len(queries), np.nan)
        arrival = queries["arrival"].to_numpy()[:, None]
        for batch, draws in draw_arrivals(day, find_visits(day.timetable, queries), queries["now"].to_numpy(), 96):
            rank[batch] = ((draws < arrival[batch]).mean(axis=1) + (draws <= arrival[batch]).mean(axis=1)) / 2
        ranks.append(rank)
    share = np.histogram(np.concatenate(ranks), bins=10, range=(0, 1))[0] / sum(map(len, ranks))
    assert share == pytest.approx(np.full(10, 0.1), abs=0.025)


def change_after(day: SimulatedDay, now: float) -> SimulatedDay:
    """Return the day as it happened until `now`, in seconds of the day, and something else entirely after it."""

    def change(times: np.ndarray) -> np.ndarray:
        return np.where(times > now, 3 * times + 1e6, times)

    left = day.departed[day.timetable.origins] <= now
    begun = {lane: incidents.begin_seconds <= now for lane, incidents in day.incidents.items()}
    return replace(
        day,
        deviation=np.where(left, day.deviation, -5.0),
        incidents={
            lane: Incidents(
                incidents.begin_seconds[begun[lane]], incidents.hold_seconds[begun[lane]], incidents.weight[begun[lane]]
            )
            for lane, incidents in day.incidents.items()
        },
        approached=change(day.approached),
        arrived=change(day.arrived),
        departed=change(day.departed),
        reported=change(day.reported),
    )


@pytest.mark.parametrize("hour", [6, 8.5, 13, 17.5, 22])
def test_no_later_event_changes_a_prediction(hour: float) -> None:
    day, now = simulate(DAYS[0], 0), 3600 * hour
    timetable = day.timetable
    trip = timetable.trip
    on_its_way = (day.departed[timetable.origins[trip]] < now + 900) & (now < day.reported[timetable.terminals[trip]])
    happens = np.where(timetable.position > 0, day.reported, day.departed)
    is_target = (happens > now) & timetable.scheduled[trip]
    visit = np.flatnonzero(on_its_way & is_target)
    queries = pd.DataFrame({
        "trip_id": trip_ids(timetable)[trip[visit]],
        "stop_id": timetable.stop_ids[visit],
        "time_stamp": service_day.start_time(day.service_date) + pd.to_timedelta(np.full(len(visit), now), unit="s"),
    })  # fmt: skip
    predicted = predict_delays(day, queries)
    assert len(queries) > 100 and not np.isnan(predicted).any() and (timetable.position[visit] == 0).any()
    assert np.array_equal(predicted, predict_delays(change_after(day, now), queries))


def sample_departures(day: SimulatedDay) -> pd.DataFrame:
    """Return points in time at which trains wait at their origins, and when they leave."""
    rng, timetable = np.random.default_rng(0), day.timetable
    origin = timetable.origins[timetable.scheduled]
    now = np.ceil(timetable.planned_seconds[origin] - rng.uniform(0, 300, len(origin)))
    rows = pd.DataFrame({
        "trip_id": trip_ids(timetable)[timetable.trip[origin]],
        "stop_id": timetable.stop_ids[origin],
        "time_stamp": service_day.start_time(day.service_date) + pd.to_timedelta(now, unit="s"),
        "delay": np.ceil(day.departed[origin]) - timetable.published_seconds[origin],
    })  # fmt: skip
    return rows[now < day.departed[origin]].reset_index(drop=True)


def test_departures_are_predicted_better_than_by_the_timetable_and_as_often_late_as_early() -> None:
    day = simulate(DAYS[0], 0)
    rows = sample_departures(day)
    error = rows["delay"] - predict_delays(day, rows)
    assert len(rows) > 1000 and error.notna().all()
    assert error.abs().mean() < 0.8 * rows["delay"].abs().mean()
    assert abs((error > 0).mean() - (error < 0).mean()) < 0.1


def test_more_draws_hardly_help(rows: pd.DataFrame) -> None:
    day = simulate(DAYS[0], 0)
    of_day = rows[rows["service_date"] == DAYS[0]].iloc[::3]
    default, many = (np.abs(of_day["delay"] - predict_delays(day, of_day, draws)).mean() for draws in (96, 384))
    assert many == pytest.approx(default, rel=0.02)


def test_an_unknown_trip_or_stop_has_no_prediction(rows: pd.DataFrame) -> None:
    unknown = rows.head(3).assign(trip_id=["no such trip", *rows["trip_id"][1:3]])
    unknown.loc[1, "stop_id"] = "no such stop"
    assert np.isnan(SyntheticSource().oracle(unknown)).tolist() == [True, True, False]


def test_predictions_are_reproducible(rows: pd.DataFrame) -> None:
    queries = rows.head(500)
    assert np.array_equal(SyntheticSource().oracle(queries), SyntheticSource().oracle(queries))
