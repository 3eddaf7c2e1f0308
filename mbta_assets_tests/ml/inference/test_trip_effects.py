"""Effects of scheduled trips: found where trips differ on every day, none where they differ by chance."""

from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.ml.inference.run_time import LOOKUP_FEATURES, MIN_DAYS, MedianRunTime
from mbta_assets.ml.inference.trip_effects import NO_TRIP, STEP, TripEffects, number_trip, number_trips
from mbta_assets.ml.training.cross_fitting import compute_out_of_fold

STOPS = "abcdefgh"
USUAL_SECONDS = 120.0
N_TRIPS, N_DAYS = 40, 8
TRIP_DEVIATION = LOOKUP_FEATURES.index("trip_deviation_seconds")
ROUTES = {"1": 0, "77": 1}


def make_days(effects: np.ndarray, noise: float, n_days: int = N_DAYS, **values: Any) -> pd.DataFrame:
    """Return a report of each trip on each day, at its first stop but one, with all stops ahead.

    Run times differ from the usual ones by the effect of the trip (t,) and by chance, by this share. Trips have ids of
    their own on each day, start every ten minutes from 8 am on and are seen an hour later.
    """
    random = np.random.default_rng(0)
    reports = []
    for day in pd.date_range("2024-03-01", periods=n_days):
        for trip, effect in enumerate(effects):
            start = 8 * 3600 + trip * 600
            angle = 2 * np.pi * (start + 3600) / 86_400
            run_seconds = USUAL_SECONDS * (1 + effect + random.normal(0, noise))
            report = {
                "service_date": day,
                "trip_id": f"{day:%d} {trip}",
                "vehicle_id": "v",
                "time_stamp": day + pd.Timedelta(seconds=start + 3600),
                "current_status": "STOPPED_AT",
                "current_stop_id": STOPS[0],
                "stop_id": list(STOPS[1:]),
                "stops_ahead": np.arange(1, len(STOPS)),
                "stops_behind": 2.0,
                "route_id": "1",
                "direction_id": 1,
                "trip_start_seconds": np.float32(start),
                "timepoint": 0.0,
                "seconds_in_state": 0.0,
                "scheduled_seconds_ahead": 0.0,
                "scheduled_run_seconds": 777.0,
                "departure_delay_seconds": 5.0,
                "last_delay_seconds": 0.0,
                "sin_time": np.float32(np.sin(angle)),
                "cos_time": np.float32(np.cos(angle)),
                "delay_seconds": run_seconds * np.arange(1, len(STOPS)),
            }
            reports.append(pd.DataFrame(report | values))
    return pd.concat(reports, ignore_index=True)


def alternate(effect: float) -> np.ndarray:
    """Return effects (t,) of trips of which each second one is slower, so that no hour is slower than another."""
    return np.where(np.arange(N_TRIPS) % 2, effect, -effect)


def find_effects(lookup: MedianRunTime, rows: pd.DataFrame) -> np.ndarray:
    """Return the effect (t,) of each trip by what it adds to the longest run of the first day."""
    features = lookup.compute_features(rows[(rows.stop_id == STOPS[-1]) & (rows.service_date == rows.service_date[0])])
    return features[:, TRIP_DEVIATION] / features[:, 1]


def test_trips_have_the_effects_that_they_have_on_every_day() -> None:
    rows = make_days(alternate(0.2), noise=0.05)
    assert find_effects(MedianRunTime.fit(rows), rows) == pytest.approx(alternate(0.2), abs=0.05)


def test_effects_are_shrunk_by_the_share_of_chance() -> None:
    sizes = []
    for noise in (0.01, 0.2, 0.4):
        rows = make_days(alternate(0.2), noise)
        sizes.append(np.abs(find_effects(MedianRunTime.fit(rows), rows)).mean())
    # The mean of eight days with noise of 0.4 has an error of 0.14, and a half of it is believed.
    assert sizes[0] == pytest.approx(0.2, abs=STEP / 2) and sizes[0] > sizes[1] > sizes[2] > 0.05


def test_trips_that_differ_by_chance_have_no_effect() -> None:
    rows = make_days(np.zeros(N_TRIPS), noise=0.2, n_days=20)
    assert not len(MedianRunTime.fit(rows).trip_effects.trips)


def test_few_service_days_tell_nothing_of_trips() -> None:
    few, enough = (make_days(alternate(0.2), 0.01, n_days) for n_days in (MIN_DAYS - 1, MIN_DAYS))
    assert not len(MedianRunTime.fit(few).trip_effects.trips)
    assert len(MedianRunTime.fit(enough).trip_effects.trips) == N_TRIPS
    assert not compute_out_of_fold(few)[:, TRIP_DEVIATION].any()
    assert compute_out_of_fold(enough)[:, TRIP_DEVIATION].all()  # though each fold has a day less


def test_a_row_does_not_see_the_effect_of_its_own_day() -> None:
    rows = make_days(alternate(0.2), noise=0.01)
    first_day = (rows.service_date == rows.service_date[0]).to_numpy()
    changed = rows.assign(delay_seconds=rows.delay_seconds.where(~first_day, rows.delay_seconds * 1.3))
    before, after = (compute_out_of_fold(days)[:, TRIP_DEVIATION] for days in (rows, changed))
    np.testing.assert_array_equal(before[first_day], after[first_day])
    assert (before[~first_day] != after[~first_day]).any()


@pytest.mark.parametrize(
    "others",
    [
        {"route_id": "another"}, {"route_id": None}, {"direction_id": 0}, {"direction_id": None},
        {"trip_start_seconds": 3600.0}, {"trip_start_seconds": np.nan},
    ],
)  # fmt: skip
def test_another_trip_has_no_effect(others: dict[str, Any]) -> None:
    rows = make_days(alternate(0.2), noise=0.01)
    assert not find_effects(MedianRunTime.fit(rows), rows.assign(**others)).any()


def test_stored_effects_are_the_same() -> None:
    rows = make_days(np.linspace(-0.3, 0.3, N_TRIPS), noise=0.01)
    lookup = MedianRunTime.fit(rows)
    stored = MedianRunTime.from_bytes(lookup.to_bytes())
    np.testing.assert_array_equal(stored.compute_features(rows), lookup.compute_features(rows))
    assert stored.trip_effects.run_ratios.any()


starts = st.one_of(st.floats(-1e6, 1e6, width=32), st.just(np.nan), st.integers(0, 30 * 3600).map(float))


@given(st.lists(st.tuples(st.sampled_from([*ROUTES, "x", None]), st.sampled_from([0, 1, None]), starts), min_size=1))
def test_one_trip_has_the_number_that_it_has_among_many(trips: list[tuple[str | None, int | None, float]]) -> None:
    rows: list[dict[str, Any]] = [
        dict(zip(("route_id", "direction_id", "trip_start_seconds"), trip, strict=True)) for trip in trips
    ]
    columns = {name: np.array([row[name] for row in rows], dtype=object) for name in rows[0]}
    codes = [ROUTES.get(row["route_id"], len(ROUTES)) for row in rows]
    numbers = number_trips(columns, np.array(codes), len(ROUTES))
    assert numbers.tolist() == [number_trip(row, code, len(ROUTES)) for row, code in zip(rows, codes, strict=True)]
    known = {trip: number for trip, number in zip(trips, numbers.tolist(), strict=True) if number != NO_TRIP}
    assert len(set(known.values())) == len({(route, direction, start // 60) for route, direction, start in known})
    with_effect = np.array(sorted(set(known.values()))[::2], dtype=np.int64)
    effects = TripEffects(with_effect, np.full(len(with_effect), STEP))
    assert effects.find(numbers).tolist() == [effects.find_one(number) for number in numbers.tolist()]
