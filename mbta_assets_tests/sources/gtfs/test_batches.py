"""A day that is read in batches is the same as one whose snapshots are all read at once, in plain Python."""

import random
import tempfile
from datetime import date, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as arrow
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mbta_assets.sources.gtfs import source as gtfs_source
from mbta_assets.sources.gtfs.archive import FeedArchive, FetchedSnapshot
from mbta_assets.sources.gtfs.source import GtfsSource
from mbta_assets_tests.sources.gtfs.messages import make_feed, vehicle
from mbta_assets_tests.sources.gtfs.network import local_time, make_source

DAY = date(2026, 5, 12)
START = local_time(DAY, "08:00")
SEQUENCES = {"s1": 1, "s2": 5, "s3": 9}
TIMETABLE = {"s1": START, "s3": START + 1200}
TRIPS: list[dict[str, Any]] = [
    {"trip_id": "morning", "start_date": "20260512"},
    {"trip_id": "morning"},
    {"route_id": "R", "direction_id": 0, "start_time": "08:00:00", "start_date": "20260512"},
    {"trip_id": "morning", "start_date": "20260511"},
    {"trip_id": "ADDED-1", "schedule_relationship": "ADDED"},
]
IDS = ["morning", "morning", "morning", None, "ADDED-1"]
"""Trips as feeds describe them, and their ids on the day; the fourth is of another day."""
Rows = list[tuple[Any, ...]]


def draw_stop(rng: random.Random) -> dict[str, Any]:
    """Return a stop time update at random."""
    stop_id = rng.choice(list(SEQUENCES))
    stop: dict[str, Any] = rng.choice(
        [
            {"stop_id": stop_id},
            {"stop_sequence": SEQUENCES[stop_id]},
            {"stop_id": stop_id, "stop_sequence": SEQUENCES[stop_id]},
        ]
    )
    kind = rng.choice(["time", "time", "time", "delay", "both", "SKIPPED", "NO_DATA", "nothing"])
    if kind in ("SKIPPED", "NO_DATA"):
        return {**stop, "schedule_relationship": kind}
    events = {
        "time": {"arrival": {"time": START + rng.choice([100, 160])}},
        "delay": {"arrival": {"delay": rng.choice([0, 60])}},
        "both": {"arrival": {"time": START + 100, "delay": 5, "uncertainty": 9}, "departure": {"time": START + 130}},
        "nothing": {},
    }
    return {**stop, **events[kind]}


def draw_snapshots(seed: int) -> list[tuple[int, list[dict[str, Any]] | None]]:
    """Return the times and entities of snapshots at random; one that cannot be read has no entities."""
    rng = random.Random(seed)
    memory: dict[int, dict[str, Any]] = {}
    snapshots: list[tuple[int, list[dict[str, Any]] | None]] = []
    for minute in range(rng.randint(1, 10)):
        now = START + 60 * minute
        if minute and rng.random() < 0.15:
            snapshots.append((now, None))
            continue
        entities = []
        for trip in rng.sample(range(len(TRIPS)), rng.randint(1, len(TRIPS))):
            stops = [draw_stop(rng) for _ in range(rng.randint(0, 3))]
            update: dict[str, Any] = {"trip": TRIPS[trip], "stop_time_update": stops}
            if rng.random() < 0.8:  # out of order, and several at the same time
                update["timestamp"] = now - rng.choice([0, 0, 30, 60, 150])
            if trip in memory and rng.random() < 0.5:  # comes back as it was, or with another time
                update = {**memory[trip], **({"timestamp": update.get("timestamp", now)} if rng.random() < 0.7 else {})}
            memory[trip] = update
            entities.append({"id": str(trip), "trip_update": update})
        snapshots.append((now, entities))
    return snapshots


def read_plainly(snapshots: list[tuple[int, list[dict[str, Any]] | None]]) -> Rows:
    """Return the predictions of the day: time, trip, stop, sequence, arrival, departure, uncertainty."""
    predictions: list[tuple[int, str, str | None, int | None, int | None, int | None, int | None]] = []
    last: dict[str, Any] = {}
    for now, entities in snapshots:
        for entity in entities or []:
            update = entity["trip_update"]
            trip_id = IDS[int(entity["id"])]
            if last.get(entity["id"]) == update:
                continue
            last[entity["id"]] = update
            for stop in update["stop_time_update"]:
                described = describe(stop, is_scheduled=trip_id == "morning")
                if trip_id and described:
                    predictions.append((update.get("timestamp", now), trip_id, *described))
    predictions.sort(key=lambda row: row[0])  # stable: in order of the snapshots
    kept: Rows = []
    latest: dict[tuple[Any, ...], tuple[Any, ...]] = {}
    for row in predictions:
        if latest.get(row[1:4]) != row[4:6]:
            latest[row[1:4]] = row[4:6]
            kept.append(row)
    return kept


def describe(stop: dict[str, Any], *, is_scheduled: bool) -> tuple[Any, ...] | None:
    """Return stop, sequence, arrival, departure and uncertainty; None if it predicts nothing."""
    if "schedule_relationship" in stop:
        return None
    stop_id, sequence = stop.get("stop_id"), stop.get("stop_sequence")
    if is_scheduled:
        stop_id = stop_id or {number: name for name, number in SEQUENCES.items()}[stop["stop_sequence"]]
        sequence = sequence or SEQUENCES[stop["stop_id"]]
    arrival, departure = stop.get("arrival", {}), stop.get("departure", {})
    time = arrival.get("time")
    if time is None and "delay" in arrival and is_scheduled and stop_id in TIMETABLE:
        time = TIMETABLE[stop_id] + arrival["delay"]
    if time is None and "time" not in departure:
        return None
    return stop_id, sequence, time, departure.get("time"), arrival.get("uncertainty")


def write(directory: Path, snapshots: list[tuple[int, list[dict[str, Any]] | None]], per_file: int) -> GtfsSource:
    """Return a source of an archive with some snapshots in each of its files."""
    source = make_source(directory)
    fetched = [FetchedSnapshot(now, b"<html>" if e is None else make_feed(now, e)) for now, e in snapshots]
    for first in range(0, len(fetched), per_file):
        FeedArchive(source.archive.place).append("trip_updates", fetched[first : first + per_file])
    return source


def list_rows(rows: arrow.Table) -> Rows:
    """Return the predictions as `read_plainly` does."""
    columns = ["predicted_at", "trip_id", "stop_id", "stop_sequence", "arrival_time", "departure_time", "uncertainty"]
    listed = []
    for row in rows.select(columns).to_pylist():
        values = (int(value.timestamp()) if isinstance(value, datetime) else value for value in row.values())
        listed.append(tuple(values))
    return listed


def sort(rows: Rows) -> list[str]:
    """Return rows in an order of their own: the table's says nothing about those of the same trip and time."""
    return sorted(map(repr, rows))


@settings(max_examples=25)
@given(seed=st.integers(0, 10**9), batch_rows=st.sampled_from([1, 4, 1000]), per_file=st.integers(1, 4))
def test_predictions_are_those_of_a_plain_reading(seed: int, batch_rows: int, per_file: int) -> None:
    snapshots = draw_snapshots(seed)
    with tempfile.TemporaryDirectory() as directory, pytest.MonkeyPatch.context() as patch:
        patch.setattr(gtfs_source, "BATCH_ROWS", batch_rows)
        rows, _ = write(Path(directory), snapshots, per_file)._select_predictions(DAY)
    assert sort(list_rows(rows)) == sort(read_plainly(snapshots))


@pytest.mark.parametrize("seed", range(3))
def test_batches_are_the_same_as_one(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = random.Random(seed)
    trips = [{"trip_id": "morning"}, {}, {"trip_id": "night", "start_date": "20260512"}]
    positions: dict[int, list[dict[str, Any]]] = {}
    for minute in range(12):
        now = START + 60 * minute
        reports = []
        for name in "abc":
            stop: dict[str, Any] = rng.choice([{"stop_id": "s1"}, {"current_stop_sequence": 5}])
            reports.append(vehicle(name, rng.choice([None, now, START, now - 90]), trip=rng.choice(trips), **stop))
        positions[now] = reports
    source = make_source(tmp_path, positions=positions)
    whole = source.read("vehicle", DAY)
    monkeypatch.setattr(gtfs_source, "BATCH_ROWS", 2)
    batched = source.read("vehicle", DAY)
    assert len(whole.rows) > 10
    pd.testing.assert_frame_equal(batched.rows, whole.rows)
