"""The oracle draws arrivals from the distribution they come from, and no simpler prediction is as good."""

from dataclasses import replace
from datetime import date

import numpy as np
import pandas as pd
import pytest

from mbta_assets.sources.simulation.oracle import arrival_draws, best_predictions, find_visits
from mbta_assets.sources.simulation.process import Day, Incidents, simulate
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit import service_day

DAYS = date(2024, 3, 5), date(2024, 3, 6)
HORIZONS = (1, 3, 5, 10)


def ask(day: Day, size: int = 6000) -> pd.DataFrame:
    """Moments at which trains are under way, each with a stop ahead, what then happened and what was known."""
    rng, plan = np.random.default_rng(0), day.timetable
    ahead = rng.choice(HORIZONS, size)
    visit = rng.integers(0, len(plan.trip), size)
    visit = np.where((plan.position[visit] >= ahead) & plan.scheduled[plan.trip[visit]], visit, -1)
    ahead, visit = ahead[visit >= 0], visit[visit >= 0]
    last = visit - ahead
    span = day.reported[last + 1] - day.departed[last]
    now = np.ceil(day.departed[last] + rng.random(len(visit)) * span)
    rows = pd.DataFrame({
        "service_date": day.service_date,
        "trip_id": np.array([slot.trip_id for slot in plan.slots], dtype=object)[plan.trip[visit]],
        "stop_id": plan.stop_ids[visit],
        "time_stamp": service_day.start(day.service_date) + pd.to_timedelta(now, unit="s"),
        "ahead": ahead,
        "now": now,
        "arrival": np.ceil(day.reported[visit]),
        "departed": day.departed[last],
        "pair": plan.stop_ids[last] + "-" + plan.stop_ids[visit],
    })  # fmt: skip
    rows["delay"] = rows["arrival"] - plan.published_seconds[visit]
    rows["run"] = rows["arrival"] - rows["departed"]
    rows["delay_at_departure"] = rows["departed"] - plan.published_seconds[last]
    rows["time_stamp"] = rows["time_stamp"].astype("datetime64[us, UTC]")
    return rows[rows["arrival"] > rows["now"]].reset_index(drop=True)


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.concat([ask(simulate(day, 0)) for day in DAYS], ignore_index=True)


@pytest.fixture(scope="module")
def best(rows: pd.DataFrame) -> np.ndarray:
    return SyntheticSource().oracle(rows)


@pytest.mark.parametrize("ahead", HORIZONS)
def test_nothing_simpler_is_as_good(rows: pd.DataFrame, best: np.ndarray, ahead: int) -> None:
    chosen = (rows["ahead"] == ahead).to_numpy()
    asked, oracle = rows[chosen], best[chosen]
    median_run = asked.groupby("pair")["run"].transform("median")  # of the very rows it predicts: better than fair
    lookup = asked["delay"] - asked["run"] + median_run
    mae = np.abs(asked["delay"] - oracle).mean()
    assert mae < np.abs(asked["delay"]).mean()
    assert mae < np.abs(asked["delay"] - asked["delay_at_departure"]).mean()
    assert mae < np.abs(asked["delay"] - lookup).mean()


def test_it_is_late_as_often_as_early(rows: pd.DataFrame, best: np.ndarray) -> None:
    assert abs(np.median(rows["delay"] - best)) < 1.5


def test_arrivals_rank_evenly_among_their_draws() -> None:
    """Were anything drawn after the moment known to the oracle, or anything known left out, ranks would not be even."""
    ranks = []
    for service_date in DAYS:
        day = simulate(service_date, 0)
        asked = ask(day)
        rank = np.full(len(asked), np.nan)
        arrival = asked["arrival"].to_numpy()[:, None]
        for some, draws in arrival_draws(day, find_visits(day.timetable, asked), asked["now"].to_numpy(), 96):
            rank[some] = ((draws < arrival[some]).mean(axis=1) + (draws <= arrival[some]).mean(axis=1)) / 2
        ranks.append(rank)
    share = np.histogram(np.concatenate(ranks), bins=10, range=(0, 1))[0] / sum(map(len, ranks))
    assert share == pytest.approx(np.full(10, 0.1), abs=0.025)


def rewritten_after(day: Day, moment: float) -> Day:
    """The day as it happened until a moment (seconds of the day), and something else entirely after it."""

    def rewritten(times: np.ndarray) -> np.ndarray:
        return np.where(times > moment, 3 * times + 1e6, times)

    left = day.departed[day.timetable.first[:-1]] <= moment
    begun = {lane: of_lane.begin_seconds <= moment for lane, of_lane in day.incidents.items()}
    return replace(
        day,
        deviation=np.where(left, day.deviation, -5.0),
        incidents={
            lane: Incidents(each.begin_seconds[begun[lane]], each.hold_seconds[begun[lane]], each.weight[begun[lane]])
            for lane, each in day.incidents.items()
        },
        approached=rewritten(day.approached),
        arrived=rewritten(day.arrived),
        departed=rewritten(day.departed),
        reported=rewritten(day.reported),
    )


@pytest.mark.parametrize("hour", [6, 8.5, 13, 17.5, 22])
def test_nothing_that_happens_after_the_moment_moves_a_prediction(hour: float) -> None:
    day, moment = simulate(DAYS[0], 0), 3600 * hour
    plan = day.timetable
    begins, ends = plan.first[plan.trip], plan.first[plan.trip + 1] - 1
    on_its_way = (day.departed[begins] < moment + 900) & (moment < day.reported[ends])
    visit = np.flatnonzero(on_its_way & (day.reported > moment) & plan.scheduled[plan.trip] & (plan.position > 0))
    asked = pd.DataFrame({
        "trip_id": np.array([slot.trip_id for slot in plan.slots], dtype=object)[plan.trip[visit]],
        "stop_id": plan.stop_ids[visit],
        "time_stamp": service_day.start(day.service_date) + pd.to_timedelta(np.full(len(visit), moment), unit="s"),
    })  # fmt: skip
    predicted = best_predictions(day, asked)
    assert len(asked) > 100 and not np.isnan(predicted).any()
    assert np.array_equal(predicted, best_predictions(rewritten_after(day, moment), asked))


def test_more_draws_hardly_help(rows: pd.DataFrame) -> None:
    day = simulate(DAYS[0], 0)
    some = rows[rows["service_date"] == DAYS[0]]
    few, many = (np.abs(some["delay"] - best_predictions(day, some, draws)).mean() for draws in (96, 384))
    assert many == pytest.approx(few, rel=0.02)


def test_what_the_day_does_not_know_has_no_prediction(rows: pd.DataFrame) -> None:
    unknown = rows.head(3).assign(trip_id=["no such trip", *rows["trip_id"][1:3]])
    unknown.loc[1, "stop_id"] = "no such stop"
    assert np.isnan(SyntheticSource().oracle(unknown)).tolist() == [True, True, False]


def test_asking_again_gives_the_same_answer(rows: pd.DataFrame) -> None:
    some = rows.head(500)
    assert np.array_equal(SyntheticSource().oracle(some), SyntheticSource().oracle(some))
