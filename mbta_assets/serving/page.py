"""The page: predicted delays of every line and station at a time of the latest service day, and the model's accuracy.

`NetworkOverview` builds a `NetworkView` from the stored snapshot and leaderboard; `page.html` shows it as one HTML page
with its style inline, no script and nothing to load. The snapshot's format is defined in `formats`.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mbta_assets.serving.formats import DamagedSnapshot, Line, NetworkSnapshot
from mbta_assets.serving.model_source import ModelSource
from mbta_assets.serving.openapi import CLOCK_TIME_PATTERN
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.refreshing_cache import LoadError, RefreshingCache, Unavailable
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT
from mbta_assets.transit.service_day import SERVICE_DAY_START_HOUR, TIME_ZONE

LOCAL_TIME_ZONE = ZoneInfo(TIME_ZONE)
SHOWN_BASELINES = ("runtime_lookup", "persistence", "schedule")
"""Baselines of the leaderboard whose errors are shown beside the model's."""
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""Response header with which the browser loads nothing but the page itself."""
MAKE_A_SNAPSHOT = "Make it again with: dagster asset materialize --select network_snapshot"
LINE_COLORS = {"Red": "#c8102e", "Mattapan": "#c8102e", "Orange": "#d9730d", "Blue": "#0b4a9e", "Green": "#00703c"}
"""Colors of the MBTA's lines, dark enough for white text; a branch has the color of its line."""
DEFAULT_LINE_COLOR = "#4a4a4a"
EARLY_SECONDS, LATE_SECONDS, VERY_LATE_SECONDS = -60, 120, 300


class InvalidTime(Exception):
    """A time is not written as HH:MM."""


@dataclass(frozen=True)
class StationArrival:
    """The next predicted arrival at a station."""

    vehicle_id: str
    stops_ahead: int
    scheduled: str
    """Local time as HH:MM."""
    predicted: str
    """Local time as HH:MM:SS."""
    delay_seconds: float
    lower_delay_seconds: float | None
    upper_delay_seconds: float | None


@dataclass(frozen=True)
class StationView:
    """A station of a line with its next predicted arrival; None if no vehicle is at a predicted distance."""

    stop_id: str
    name: str
    arrival: StationArrival | None


@dataclass(frozen=True)
class LineView:
    """A route in one direction with its stations in order of travel."""

    route_id: str
    direction_id: int | None
    towards: str
    stations: tuple[StationView, ...]


@dataclass(frozen=True)
class ModelAccuracy:
    """The leaderboard's figures of the served model, on the test part of the training set."""

    test_rows: int
    mae_seconds: float
    mae_by_stops_ahead: dict[str, float]
    confidence_level: float | None
    coverage: float | None
    baselines: dict[str, float]
    """Mean absolute error of each baseline in seconds."""


@dataclass(frozen=True)
class NetworkView:
    """The content of the page."""

    model_version: str
    service_date: date | None
    """None if no snapshot is stored."""
    time: str | None
    times: tuple[str, ...]
    vehicles: int
    lines: tuple[LineView, ...]
    accuracy: ModelAccuracy | None
    """None if the leaderboard is about another version."""
    promotion: str | None
    """When and why the version was promoted."""

    def to_json(self) -> dict[str, Any]:
        """Return the view as a JSON object."""
        return {**asdict(self), "service_date": str(self.service_date) if self.service_date else None}


@dataclass(frozen=True)
class NetworkReports:
    """The stored reports that a view is built from."""

    snapshot_content: bytes | None
    """The snapshot as stored, by which a change is recognized."""
    snapshot: NetworkSnapshot | None
    accuracies: Mapping[str, ModelAccuracy]
    """The leaderboard's figures of each version, by digest."""
    promotions: Mapping[str, str]
    """When and why each version was last promoted, by digest."""


class NetworkOverview:
    """Views of the network, built from reports that are read again every `refresh_seconds`."""

    def __init__(self, source: ModelSource, refresh_seconds: float) -> None:
        self._source = source
        self._reports = RefreshingCache("network", self._load_reports, refresh_seconds)

    def build_view(self, predictor: Predictor, clock_time: str | None) -> NetworkView:
        """Predict all arrivals at a local time, HH:MM, by default the time with the most predictions.

        A time between two times of the snapshot gives the earlier one. Raises InvalidTime and Unavailable.
        """
        if clock_time is not None and not re.fullmatch(CLOCK_TIME_PATTERN, clock_time):
            raise InvalidTime("The time must be written as HH:MM, such as 08:30.")
        reports = self._reports.get()
        accuracy = reports.accuracies.get(predictor.version)
        promotion = reports.promotions.get(predictor.version)
        snapshot = reports.snapshot
        if snapshot is None or not len(snapshot.times):
            return NetworkView(predictor.version, None, None, (), 0, (), accuracy, promotion)
        times = tuple(_format_clock_time(time) for time in snapshot.times.tolist())
        if clock_time is None:
            time_index = int(np.bincount(snapshot.time_index).argmax())
        else:
            time_index = _find_time(times, clock_time)
        rows = snapshot.rows_at(time_index)
        return NetworkView(
            model_version=predictor.version,
            service_date=snapshot.service_date,
            time=times[time_index],
            times=times,
            vehicles=len(set(snapshot.vehicle_id[rows].tolist())),
            lines=_predict_lines(snapshot, rows, predictor),
            accuracy=accuracy,
            promotion=promotion,
        )

    def _load_reports(self, cached: NetworkReports | None) -> NetworkReports:
        """Read the reports; an unchanged snapshot is not parsed again. Raises LoadError if one is damaged."""
        content = self._source.read_report(NETWORK_SNAPSHOT)
        if cached is not None and cached.snapshot_content == content:
            snapshot = cached.snapshot
        else:
            snapshot = None if content is None else _parse_snapshot(content)
        leaderboard = self._source.read_report(LEADERBOARD)
        accuracies = {} if leaderboard is None else _parse_leaderboard(leaderboard)
        return NetworkReports(content, snapshot, accuracies, self._source.read_promotions())


def _parse_snapshot(content: bytes) -> NetworkSnapshot:
    """Return the stored snapshot. Raises LoadError."""
    try:
        return NetworkSnapshot.from_bytes(content)
    except DamagedSnapshot as error:
        raise LoadError(f"The report {NETWORK_SNAPSHOT} is damaged. {error} {MAKE_A_SNAPSHOT}") from error


def _parse_leaderboard(content: bytes) -> dict[str, ModelAccuracy]:
    """Return the figures of each version of the stored leaderboard, by digest. Raises LoadError."""
    try:
        leaderboard = json.loads(content)
        baselines = {row["model"]: _read_number(row["mae"]) for row in leaderboard if row["model"] in SHOWN_BASELINES}
        return {row["version"]: _parse_accuracy(row, baselines) for row in leaderboard if row.get("version")}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise LoadError(
            f"The report {LEADERBOARD} is damaged ({type(error).__name__}: {error}). "
            "Make it again with: dagster asset materialize --select model_leaderboard"
        ) from error


def _parse_accuracy(row: Mapping[str, Any], baselines: dict[str, float]) -> ModelAccuracy:
    """Return the figures of a row of the leaderboard. Raises ValueError, KeyError or TypeError if it has others."""
    interval = row.get("interval") or {}
    level, coverage = interval.get("confidence_level"), interval.get("coverage")
    return ModelAccuracy(
        test_rows=int(row["n"]),
        mae_seconds=_read_number(row["mae"]),
        mae_by_stops_ahead={stops: _read_number(metrics["mae"]) for stops, metrics in row["by_stops_ahead"].items()},
        confidence_level=None if level is None else _read_number(level),
        coverage=None if coverage is None else _read_number(coverage),
        baselines=baselines,
    )


def _read_number(value: Any) -> float:
    """Return a number as a float. Raises ValueError or TypeError unless it is one and finite."""
    number = float(value)
    if not np.isfinite(number):
        raise ValueError(f"{number} is not a finite number")
    return number


def _predict_lines(snapshot: NetworkSnapshot, rows: np.ndarray, predictor: Predictor) -> tuple[LineView, ...]:
    """Return the lines with the earliest predicted arrival at each station, from rows (k,) of the snapshot.

    Raises Unavailable if the snapshot does not have what the model reads, as one that is older than a feature.
    """
    try:
        arrivals = _predict_arrivals(snapshot, rows, predictor) if len(rows) else {}
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unavailable(
            f"The report {NETWORK_SNAPSHOT} of {snapshot.service_date} does not fit the model {predictor.version[:16]} "
            f"({type(error).__name__}: {error}). {MAKE_A_SNAPSHOT}"
        ) from error
    return tuple(_build_line(line, arrivals) for line in snapshot.lines if line.stations)


def _build_line(line: Line, arrivals: Mapping[tuple[Any, Any, Any], StationArrival]) -> LineView:
    """Return a line with the arrivals at its stations, which are given by route, direction and stop."""
    stations = tuple(
        StationView(station.stop_id, station.name, arrivals.get((line.route_id, line.direction_id, station.stop_id)))
        for station in line.stations
    )
    return LineView(line.route_id, line.direction_id, line.towards, stations)


def _predict_arrivals(
    snapshot: NetworkSnapshot, rows: np.ndarray, predictor: Predictor
) -> dict[tuple[Any, Any, Any], StationArrival]:
    """Return the earliest predicted arrival by (route_id, direction_id, stop_id), from rows (k,) of the snapshot."""
    columns = {name: values[rows] for name, values in snapshot.columns.items()}
    delay, lower, upper = predictor.predict_delays(columns)
    scheduled = snapshot.scheduled_arrival[rows]
    keys = list(zip(*(columns[name].tolist() for name in ("route_id", "direction_id", "stop_id")), strict=True))
    arrivals: dict[tuple[Any, Any, Any], StationArrival] = {}
    for index in np.argsort(scheduled + delay, kind="stable").tolist():
        if keys[index] not in arrivals:
            delay_seconds, scheduled_time = float(delay[index]), int(scheduled[index])
            arrivals[keys[index]] = StationArrival(
                vehicle_id=str(snapshot.vehicle_id[rows[index]]),
                stops_ahead=int(columns["stops_ahead"][index]),
                scheduled=_format_clock_time(scheduled_time),
                predicted=_format_clock_time(scheduled_time + delay_seconds, "%H:%M:%S"),
                delay_seconds=round(delay_seconds, 1),
                lower_delay_seconds=_round_bound(lower[index]),
                upper_delay_seconds=_round_bound(upper[index]),
            )
    return arrivals


def _round_bound(seconds: np.floating) -> float | None:
    """Return a bound of an interval rounded to a tenth of a second, or None for NaN."""
    return None if np.isnan(seconds) else round(float(seconds), 1)


def _format_clock_time(epoch_seconds: float, time_format: str = "%H:%M") -> str:
    """Return an instant as local time."""
    return datetime.fromtimestamp(epoch_seconds, LOCAL_TIME_ZONE).strftime(time_format)


def _find_time(times: Sequence[str], clock_time: str) -> int:
    """Return the index of the last of the times that is not after a clock time of the service day, otherwise 0."""
    limit = _minutes_of_service_day(clock_time)
    return max((index for index, time in enumerate(times) if _minutes_of_service_day(time) <= limit), default=0)


def _minutes_of_service_day(clock_time: str) -> int:
    """Convert HH:MM to minutes since the service day began."""
    hours, minutes = map(int, clock_time.split(":"))
    return (hours - SERVICE_DAY_START_HOUR) % 24 * 60 + minutes


def render_page(view: NetworkView) -> str:
    """Return the HTML of a view."""
    earlier = later = None
    if view.time is not None:
        index = view.times.index(view.time)
        earlier = view.times[index - 1] if index > 0 else None
        later = view.times[index + 1] if index + 1 < len(view.times) else None
    return _template().render(view=view, earlier=earlier, later=later, error=None)


def render_error_page(message: str) -> str:
    """Return the HTML of a page that shows only an error message."""
    return _template().render(view=None, error=message)


def line_color(route_id: str) -> str:
    """Return the CSS color of a route's line."""
    return LINE_COLORS.get(route_id.partition("-")[0], DEFAULT_LINE_COLOR)


def classify_delay(delay_seconds: float) -> str:
    """Return the word for a delay: early, on time, late or very late."""
    if delay_seconds < EARLY_SECONDS:
        return "early"
    if delay_seconds < LATE_SECONDS:
        return "on time"
    return "late" if delay_seconds < VERY_LATE_SECONDS else "very late"


def format_minutes(seconds: float) -> str:
    """Return seconds as signed minutes and seconds, such as +2:05."""
    whole_seconds = round(abs(seconds))
    sign = "−" if seconds < 0 and whole_seconds else "+"
    return f"{sign}{whole_seconds // 60}:{whole_seconds % 60:02d}"


@cache
def _template() -> Template:
    """Return the compiled template of the page."""
    environment = Environment(
        loader=PackageLoader("mbta_assets.serving", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "line_color": line_color,
        "classify_delay": classify_delay,
        "format_minutes": format_minutes,
    }
    return environment.get_template("page.html")
