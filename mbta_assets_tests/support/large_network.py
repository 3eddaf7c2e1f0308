"""Upstream tables of a network of any size, made at random, and a comparison with features computed plainly."""

from dataclasses import dataclass
from datetime import UTC, date
from typing import Any

import numpy as np
import pandas as pd

from mbta_assets.transit import schema, service_day
from mbta_assets_tests.support.plain_features import PlainDay
from mbta_assets_tests.support.plain_trips import microseconds
from mbta_assets_tests.support.row_by_row import NAMES, is_same

DAY = date(2024, 3, 6)
FIRST_DEPARTURE_SECONDS, LAST_DEPARTURE_SECONDS = 5 * 3600, 25 * 3600
STOPS_OF_TRIP = 20
STOPS_OF_BRANCH = 5
"""First stops of a pattern that the other one of its pair does not share."""
REPORTS_OF_STOP = 2
STOPS_IN_STATION = 4
SHARE_WITHOUT_TRIP = 0.01
SHARE_AT_OTHER_PLATFORM = 0.02
SHARE_AT_WRONG_TIME = 0.01
MAX_HOURS_WRONG = 14
Tables = dict[str, pd.DataFrame]


@dataclass(frozen=True)
class Size:
    """Size of a network: trips, stops, and patterns, the sequences of stops that trips serve, an even number."""

    trips: int
    stops: int
    patterns: int


def make_day(size: Size, seed: int) -> Tables:
    """Return the upstream tables: every trip serves `STOPS_OF_TRIP` stops and has two reports about each.

    Pairs of patterns share all stops but the first few. Delays change from stop to stop, so that vehicles overtake one
    another. A few reports name no trip, or another platform of the station, or have a time that is wrong by hours.
    """
    rng = np.random.default_rng(seed)
    pairs = [rng.choice(size.stops, STOPS_OF_TRIP + STOPS_OF_BRANCH, replace=False) for _ in range(size.patterns // 2)]
    branch = slice(STOPS_OF_BRANCH, 2 * STOPS_OF_BRANCH)
    patterns = np.array([stops for pair in pairs for stops in (pair[STOPS_OF_BRANCH:], np.delete(pair, branch))])
    pattern = rng.integers(0, size.patterns, size.trips)
    begin = rng.integers(FIRST_DEPARTURE_SECONDS, LAST_DEPARTURE_SECONDS, size.trips)
    run = rng.integers(60, 300, (size.patterns, STOPS_OF_TRIP))
    run[:, 0] = 0
    due = begin[:, None] + np.cumsum(run, axis=1)[pattern]
    arrival = due + np.cumsum(rng.integers(-50, 60, due.shape), axis=1)
    stop_ids = np.array([f"stop {n}" for n in range(size.stops)], dtype=object)
    trip_ids = np.array([f"trip {n}" for n in range(size.trips)], dtype=object)
    stops = patterns[pattern]
    tables = {
        "vehicle": _make_reports(rng, trip_ids, stop_ids, stops, pattern, arrival),
        "trip": {"id": trip_ids, "name": None, "route_id": [f"route {n // 2}" for n in pattern]}
        | {"direction_id": pattern % 2, "headsign": None},
        "stop": {
            "id": stop_ids, "name": stop_ids, "platform_name": None, "latitude": rng.uniform(42, 43, size.stops),
            "longitude": rng.uniform(-72, -71, size.stops),
            "parent_station": [f"station {n // STOPS_IN_STATION}" for n in range(size.stops)],
        },
        "schedule": _make_stop_times(trip_ids, stop_ids, stops, due),
    }  # fmt: skip
    return {
        name: schema.cast_frame(pd.DataFrame({"service_date": DAY} | columns), schema.UPSTREAM[name])
        for name, columns in tables.items()
    }


def _make_reports(
    rng: np.random.Generator,
    trip_ids: np.ndarray,
    stop_ids: np.ndarray,
    stops: np.ndarray,
    pattern: np.ndarray,
    arrival: np.ndarray,
) -> dict[str, Any]:
    """Return a report on the way to each stop and one of the arrival, in random order."""
    before = rng.integers(5, 40, arrival.shape)
    seconds = np.stack([arrival - before, arrival], axis=2).ravel()
    wrong = rng.integers(-3600 * MAX_HOURS_WRONG, 3600 * MAX_HOURS_WRONG, len(seconds))
    seconds = seconds + np.where(rng.random(len(seconds)) < SHARE_AT_WRONG_TIME, wrong, 0)
    named = np.where(rng.random(arrival.shape) < SHARE_AT_OTHER_PLATFORM, stops // STOPS_IN_STATION, -1)
    named = np.where(named >= 0, np.minimum(named * STOPS_IN_STATION, len(stop_ids) - 1), stops)
    trip = np.repeat(np.arange(len(trip_ids)), STOPS_OF_TRIP * REPORTS_OF_STOP)
    trip_of_report = pd.Series(trip_ids).mask(rng.random(len(trip_ids)) < SHARE_WITHOUT_TRIP).to_numpy()[trip]
    order = rng.permutation(len(trip))
    columns = {
        "id": np.array([f"vehicle {n}" for n in range(len(trip_ids))], dtype=object)[trip],
        "updated_at": _to_times(seconds),
        "current_status": np.tile(["IN_TRANSIT_TO", "STOPPED_AT"], arrival.size),
        "latitude": rng.uniform(42, 43, len(trip)),
        "longitude": rng.uniform(-72, -71, len(trip)),
        "stop_id": np.repeat(stop_ids[named].ravel(), REPORTS_OF_STOP),
        "trip_id": trip_of_report,
        "route_id": np.array([f"route {n // 2}" for n in range(pattern.max() + 1)], dtype=object)[pattern[trip]],
        "direction_id": (pattern % 2)[trip],
    }
    missing = {"current_stop_sequence": None, "bearing": np.nan, "speed": np.nan, "occupancy_status": None}
    return {name: values[order] for name, values in columns.items()} | missing


def _make_stop_times(trip_ids: np.ndarray, stop_ids: np.ndarray, stops: np.ndarray, due: np.ndarray) -> dict[str, Any]:
    """Return the stop times of all trips: no arrival at the origin and no departure at the terminal."""
    position = np.tile(np.arange(STOPS_OF_TRIP), len(trip_ids))
    times = pd.Series(_to_times(due.ravel()))
    return {
        "trip_id": np.repeat(trip_ids, STOPS_OF_TRIP),
        "stop_id": stop_ids[stops].ravel(),
        "arrival_time": times.where(position > 0),
        "departure_time": times.where(position < STOPS_OF_TRIP - 1),
        "stop_sequence": position + 1,
        "timepoint": (position % STOPS_OF_BRANCH == 0).astype(int),
    }


def _to_times(seconds: np.ndarray) -> pd.DatetimeIndex:
    """Return UTC timestamps of seconds of the service day."""
    start = pd.Timestamp(service_day.start_time(DAY)).as_unit("us")
    return start + pd.to_timedelta(seconds, unit="s").as_unit("us")


def count_differences(features: pd.DataFrame, plain_day: PlainDay) -> dict[str, int]:
    """Return in how many rows each column differs from the plain computation, those columns in which any does."""
    differences: dict[str, int] = {}
    for row in features.to_dict("records"):
        time = microseconds(row["time_stamp"].to_pydatetime().astimezone(UTC))
        plain = plain_day.compute(row["vehicle_id"], row["trip_id"], time or 0, row["stops_ahead"])
        if plain is None or plain["stop_id"] != row["stop_id"]:
            differences["row"] = differences.get("row", 0) + 1
            continue
        for name in NAMES:
            if not is_same(row[name], plain[name]):
                differences[name] = differences.get(name, 0) + 1
    return differences
