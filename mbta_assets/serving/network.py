"""What is predicted across the network at a time of the snapshot's service day, and how good the model is."""

import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np

from mbta_assets.serving import api
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.refreshing_cache import Kept
from mbta_assets.serving.snapshot import Line, Snapshot
from mbta_assets.serving.store import Store
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT
from mbta_assets.transit.service_day import TIME_ZONE, TURN_HOUR

BOSTON = ZoneInfo(TIME_ZONE)
COMPARED = ("runtime_lookup", "persistence", "schedule")
"""Baselines of the leaderboard that the model is shown beside."""


class WrongTime(Exception):
    """What was asked for is no time of the day; the message says how one is written."""


@dataclass(frozen=True)
class Arrival:
    """The next arrival that is predicted for a station."""

    vehicle_id: str
    stops_ahead: int
    scheduled: str
    predicted: str
    """Clock times in Boston."""
    delay_seconds: float
    least_delay_seconds: float | None
    most_delay_seconds: float | None


@dataclass(frozen=True)
class StationView:
    """A station of a line, and what is predicted for it; None where no vehicle is one of the distances away."""

    stop_id: str
    name: str
    arrival: Arrival | None


@dataclass(frozen=True)
class LineView:
    """A route in one direction."""

    route_id: str
    direction_id: int | None
    towards: str
    stations: tuple[StationView, ...]


@dataclass(frozen=True)
class Accuracy:
    """What the leaderboard says of the model that serves, on the rows that no model learned from."""

    test_rows: int
    mae_seconds: float
    mae_by_stops_ahead: dict[str, float]
    promise: float | None
    coverage: float | None
    baselines: dict[str, float]


@dataclass(frozen=True)
class View:
    """Everything that the page shows."""

    model_version: str
    service_date: date | None
    """None where no snapshot is stored."""
    time: str | None
    times: tuple[str, ...]
    vehicles: int
    lines: tuple[LineView, ...]
    accuracy: Accuracy | None
    """None where the leaderboard is not about this version."""
    promoted: str | None
    """Why the version came into production, as its pointer says."""

    def as_json(self) -> dict[str, Any]:
        """The same as JSON."""
        return {**asdict(self), "service_date": str(self.service_date) if self.service_date else None}


@dataclass(frozen=True)
class Told:
    """What the store tells of the network and of its models."""

    content: bytes | None
    """The snapshot as it is stored."""
    snapshot: Snapshot | None
    leaderboard: Sequence[dict[str, Any]]
    promoted: dict[str, str]
    """By version, when and why it became current."""


class Network:
    """The page's contents, looked at again after `refresh_seconds`."""

    def __init__(self, store: Store, refresh_seconds: float) -> None:
        self._store = store
        self._told = Kept("network", self._tell, refresh_seconds)

    def view(self, predictor: Predictor, clock: str | None) -> View:
        """What is predicted at a clock time, HH:MM in Boston, or else at the busiest.

        Raises WrongTime and Unavailable.
        """
        if clock is not None and not re.fullmatch(api.CLOCK, clock):
            raise WrongTime("The time must be written as HH:MM, such as 08:30.")
        told = self._told.get()
        about_model = _accuracy(told.leaderboard, predictor.version), told.promoted.get(predictor.version)
        snapshot = told.snapshot
        if snapshot is None or not len(snapshot.times):
            return View(predictor.version, None, None, (), 0, (), *about_model)
        times = tuple(_clock(moment) for moment in snapshot.times.tolist())
        step = int(np.bincount(snapshot.step).argmax()) if clock is None else _step(times, clock)
        rows = snapshot.at(step)
        lines = _lines(snapshot, rows, predictor)
        vehicles = len(set(snapshot.vehicle_id[rows].tolist()))
        return View(predictor.version, snapshot.service_date, times[step], times, vehicles, lines, *about_model)

    def _tell(self, held: Told | None) -> Told:
        content = self._store.report(NETWORK_SNAPSHOT)
        same = held is not None and held.content == content
        snapshot = held.snapshot if held and same else Snapshot.from_bytes(content) if content else None
        leaderboard = json.loads(self._store.report(LEADERBOARD) or b"[]")
        return Told(content, snapshot, leaderboard, self._store.promoted())


def _lines(snapshot: Snapshot, rows: np.ndarray, predictor: Predictor) -> tuple[LineView, ...]:
    columns = {name: values[rows] for name, values in snapshot.columns.items()}
    delay, least, most = predictor.delays(columns) if len(rows) else (np.empty(0),) * 3
    scheduled = snapshot.scheduled_arrival[rows]
    first: dict[tuple[Any, Any, Any], int] = {}
    keys = list(zip(*(columns[name].tolist() for name in ("route_id", "direction_id", "stop_id")), strict=True))
    for index in np.argsort(scheduled + delay, kind="stable").tolist():
        first.setdefault(keys[index], index)

    def arrival(line: Line, stop_id: str) -> Arrival | None:
        index = first.get((line.route_id, line.direction_id, stop_id))
        if index is None:
            return None
        late, due = float(delay[index]), int(scheduled[index])
        bounded = not np.isnan(least[index])
        return Arrival(
            str(snapshot.vehicle_id[rows[index]]),
            int(columns["stops_ahead"][index]),
            _clock(due),
            _clock(due + late, "%H:%M:%S"),
            round(late, 1),
            round(float(least[index]), 1) if bounded else None,
            round(float(most[index]), 1) if bounded else None,
        )

    return tuple(
        LineView(
            line.route_id,
            line.direction_id,
            line.towards,
            tuple(StationView(one.stop_id, one.name, arrival(line, one.stop_id)) for one in line.stations),
        )
        for line in snapshot.lines
        if line.stations
    )


def _accuracy(leaderboard: Sequence[dict[str, Any]], version: str) -> Accuracy | None:
    own = next((row for row in leaderboard if row.get("version") == version), None)
    if own is None:
        return None
    interval = own.get("interval") or {}
    return Accuracy(
        own["n"],
        own["mae"],
        {stops: part["mae"] for stops, part in own["by_stops_ahead"].items()},
        interval.get("promise"),
        interval.get("coverage"),
        {row["model"]: row["mae"] for row in leaderboard if row["model"] in COMPARED},
    )


def _clock(moment: float, form: str = "%H:%M") -> str:
    return datetime.fromtimestamp(moment, BOSTON).strftime(form)


def _step(times: Sequence[str], clock: str) -> int:
    """The last of the times that is not after a clock time, in the order of the service day; else the first."""
    wanted = _minutes(clock)
    return max((index for index, one in enumerate(times) if _minutes(one) <= wanted), default=0)


def _minutes(clock: str) -> int:
    """Minutes since the service day's turn."""
    hours, minutes = map(int, clock.split(":"))
    return (hours - TURN_HOUR) % 24 * 60 + minutes
