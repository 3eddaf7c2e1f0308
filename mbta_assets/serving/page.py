"""The page: predicted delays of every line, station and vehicle at a time of the latest service day, and the accuracy.

`NetworkOverview` builds a `NetworkView` from the stored snapshot and leaderboard; `page.html` shows it as one HTML page
with its style inline, no script and nothing to load. The snapshot's format is defined in `formats`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import date, datetime
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
from jinja2 import Template

from mbta_assets.serving.formats import MICROSECONDS_PER_SECOND, DamagedSnapshot, Line, NetworkSnapshot, Station
from mbta_assets.serving.lines import line_color
from mbta_assets.serving.model_accuracy import ModelAccuracy, parse_leaderboard
from mbta_assets.serving.model_source import ModelSource
from mbta_assets.serving.openapi import CLOCK_TIME_PATTERN
from mbta_assets.serving.predictor import Predictor
from mbta_assets.serving.refreshing_cache import LoadError, RefreshingCache, Unavailable
from mbta_assets.serving.templates import open_template
from mbta_assets.storage.materialize import ANY_DAY, materialize_command
from mbta_assets.storage.reports import LEADERBOARD, NETWORK_SNAPSHOT
from mbta_assets.transit.distances import DEPARTURE
from mbta_assets.transit.formulas import STOPS_AHEAD
from mbta_assets.transit.service_day import SERVICE_DAY_START_HOUR, TIME_ZONE

LOCAL_TIME_ZONE = ZoneInfo(TIME_ZONE)
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
"""Response header with which the browser loads nothing but the page itself."""
SHOWN_DISTANCES = tuple(str(stops) for stops in (DEPARTURE, *STOPS_AHEAD))
"""Numbers of stops ahead whose errors are shown."""
MAKE_A_SNAPSHOT = materialize_command("network_snapshot", ANY_DAY)
EARLY_SECONDS, LATE_SECONDS, VERY_LATE_SECONDS = -60, 120, 300


class InvalidTime(Exception):
    """A time is not written as HH:MM."""


@dataclass(frozen=True)
class PredictedEvent:
    """A predicted arrival at a stop, or departure from the first stop of a trip."""

    vehicle_id: str
    stops_ahead: int
    """0 for a departure."""
    scheduled: str
    """Local time as HH:MM."""
    predicted: str
    """Local time as HH:MM:SS."""
    delay_seconds: float
    lower_delay_seconds: float | None
    upper_delay_seconds: float | None


@dataclass(frozen=True)
class StationView:
    """A station of a line with its next predicted arrival, None if no vehicle is on its way there.

    A first stop also has the next predicted departure of a vehicle that has not left it yet.
    """

    stop_id: str
    name: str
    arrival: PredictedEvent | None
    departure: PredictedEvent | None


@dataclass(frozen=True)
class VehicleStop:
    """A stop ahead of a vehicle, or the first stop that it has yet to leave."""

    stop_id: str
    name: str
    event: PredictedEvent


@dataclass(frozen=True)
class VehicleView:
    """A vehicle with all its stops ahead."""

    vehicle_id: str
    trip_id: str | None
    """None if the vehicle has no stops ahead at the time."""
    route_id: str | None
    direction_id: int | None
    reported: str | None
    """Local time of its report as HH:MM:SS."""
    current_status: str | None
    current_stop: str | None
    stops: tuple[VehicleStop, ...]


@dataclass(frozen=True)
class LineView:
    """A route in one direction with its stations in order of travel."""

    route_id: str
    direction_id: int | None
    towards: str
    stations: tuple[StationView, ...]


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
    vehicle: VehicleView | None
    """The chosen vehicle; None if none is."""
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

    def build_view(self, predictor: Predictor, clock_time: str | None, vehicle_id: str | None = None) -> NetworkView:
        """Predict all arrivals at a local time, HH:MM, by default the time with the most predictions.

        `vehicle_id` chooses a vehicle whose stops ahead are shown. A time between two times of the snapshot gives the
        earlier one. Raises InvalidTime and Unavailable.
        """
        if clock_time is not None and not re.fullmatch(CLOCK_TIME_PATTERN, clock_time):
            raise InvalidTime("The time must be written as HH:MM, such as 08:30.")
        reports = self._reports.get()
        accuracy = reports.accuracies.get(predictor.version)
        promotion = reports.promotions.get(predictor.version)
        snapshot = reports.snapshot
        if snapshot is None or not len(snapshot.times):
            return NetworkView(predictor.version, None, None, (), 0, (), None, accuracy, promotion)
        times = tuple(_format_clock_time(time) for time in snapshot.times.tolist())
        if clock_time is None:
            time_index = int(np.bincount(snapshot.time_index).argmax())
        else:
            time_index = _find_time(times, clock_time)
        rows = snapshot.rows_at(time_index)
        predicted = _predict_rows(snapshot, rows, predictor)
        return NetworkView(
            model_version=predictor.version,
            service_date=snapshot.service_date,
            time=times[time_index],
            times=times,
            vehicles=len(set(snapshot.vehicle_id[rows].tolist())),
            lines=_build_lines(snapshot, predicted),
            vehicle=None if vehicle_id is None else _build_vehicle(snapshot, predicted, vehicle_id),
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
        accuracies = {} if leaderboard is None else parse_leaderboard(leaderboard)
        return NetworkReports(content, snapshot, accuracies, self._source.read_promotions())


def _parse_snapshot(content: bytes) -> NetworkSnapshot:
    """Return the stored snapshot. Raises LoadError."""
    try:
        return NetworkSnapshot.from_bytes(content)
    except DamagedSnapshot as error:
        raise LoadError(
            f"The report {NETWORK_SNAPSHOT} is damaged. {error} Make it again with: {MAKE_A_SNAPSHOT}"
        ) from error


@dataclass(frozen=True)
class _Predicted:
    """Predictions for rows of the snapshot, arrays (k,)."""

    rows: np.ndarray
    """Positions in the snapshot."""
    events: list[PredictedEvent]
    times: np.ndarray
    """Predicted times in epoch seconds."""


def _predict_rows(snapshot: NetworkSnapshot, rows: np.ndarray, predictor: Predictor) -> _Predicted:
    """Predict rows (k,) of the snapshot; the predictions for a vehicle never run backwards.

    Raises Unavailable if the snapshot does not have what the model reads, as one that is older than a feature.
    """
    if not len(rows):
        return _Predicted(rows, [], np.empty(0))
    columns = {name: values[rows] for name, values in snapshot.columns.items()}
    scheduled = snapshot.scheduled_arrival[rows]
    scheduled_ahead = scheduled - snapshot.reported_at[rows] / MICROSECONDS_PER_SECOND
    vehicle_ids = snapshot.vehicle_id[rows]
    try:
        reports = np.unique(vehicle_ids, return_inverse=True)[1]
        delay, lower, upper = predictor.predict_delays(columns, scheduled_ahead, reports)
        stops_ahead = columns["stops_ahead"].astype(np.int64).tolist()
        values = zip(vehicle_ids.tolist(), stops_ahead, scheduled.tolist(), delay, lower, upper, strict=True)
        return _Predicted(rows, [_make_event(*of_row) for of_row in values], scheduled + delay)
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise Unavailable(
            f"The report {NETWORK_SNAPSHOT} of {snapshot.service_date} does not fit the model {predictor.version[:16]} "
            f"({type(error).__name__}: {error}). Make it again with: {MAKE_A_SNAPSHOT}"
        ) from error


def _make_event(
    vehicle_id: str, stops_ahead: int, scheduled: int, delay: float, lower: np.floating, upper: np.floating
) -> PredictedEvent:
    """Return a predicted event from its scheduled epoch seconds and its delay with bounds."""
    return PredictedEvent(
        vehicle_id=vehicle_id,
        stops_ahead=stops_ahead,
        scheduled=_format_clock_time(scheduled),
        predicted=_format_clock_time(scheduled + float(delay), "%H:%M:%S"),
        delay_seconds=round(float(delay), 1),
        lower_delay_seconds=_round_bound(lower),
        upper_delay_seconds=_round_bound(upper),
    )


def _build_lines(snapshot: NetworkSnapshot, predicted: _Predicted) -> tuple[LineView, ...]:
    """Return the lines with the earliest predicted arrival at each station, and departure from it."""
    names = ("route_id", "direction_id", "stop_id")
    keys = list(zip(*(snapshot.columns[name][predicted.rows].tolist() for name in names), strict=True))
    later_visits = snapshot.later_visits[predicted.rows].tolist()
    earliest: dict[tuple[Any, ...], PredictedEvent] = {}
    for index in np.argsort(predicted.times, kind="stable").tolist():
        event = predicted.events[index]
        earliest.setdefault((*keys[index], later_visits[index], event.stops_ahead == DEPARTURE), event)
    return tuple(
        LineView(
            line.route_id,
            line.direction_id,
            line.towards,
            tuple(_build_station(line, station, earliest) for station in line.stations),
        )
        for line in snapshot.lines
        if line.stations
    )


def _build_station(line: Line, station: Station, earliest: Mapping[tuple[Any, ...], PredictedEvent]) -> StationView:
    """Return a station with its earliest arrival and departure, which are given by line, visit and kind."""
    key = (line.route_id, line.direction_id, station.stop_id, station.later_visits)
    return StationView(station.stop_id, station.name, earliest.get((*key, False)), earliest.get((*key, True)))


def _build_vehicle(snapshot: NetworkSnapshot, predicted: _Predicted, vehicle_id: str) -> VehicleView:
    """Return a vehicle with its stops ahead in order."""
    indices = np.flatnonzero(snapshot.vehicle_id[predicted.rows] == vehicle_id)
    if not len(indices):
        return VehicleView(vehicle_id, None, None, None, None, None, None, ())
    indices = indices[np.argsort([predicted.events[index].stops_ahead for index in indices], kind="stable")]
    row = predicted.rows[indices[0]]
    route_id, direction_id, current_status, current_stop_id = (
        snapshot.columns[name][row] for name in ("route_id", "direction_id", "current_status", "current_stop_id")
    )
    names = _name_stops(snapshot, route_id, direction_id)
    stop_ids = snapshot.columns["stop_id"][predicted.rows]
    return VehicleView(
        vehicle_id=vehicle_id,
        trip_id=str(snapshot.trip_id[row]),
        route_id=route_id,
        direction_id=direction_id,
        reported=_format_clock_time(int(snapshot.reported_at[row]) / MICROSECONDS_PER_SECOND, "%H:%M:%S"),
        current_status=current_status,
        current_stop=names.get(current_stop_id, current_stop_id),
        stops=tuple(
            VehicleStop(stop_ids[index], names.get(stop_ids[index], stop_ids[index]), predicted.events[index])
            for index in indices
        ),
    )


def _name_stops(snapshot: NetworkSnapshot, route_id: str | None, direction_id: int | None) -> dict[str, str]:
    """Return the names of stops by id; those of a line come before those that other lines have for the same stops."""
    names: dict[str, str] = {}
    for line in sorted(snapshot.lines, key=lambda line: (line.route_id, line.direction_id) == (route_id, direction_id)):
        names |= {station.stop_id: station.name for station in line.stations}
    return names


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
    return _template().render(
        view=view,
        earlier=earlier,
        later=later,
        error=None,
        shown_distances=SHOWN_DISTANCES,
        make_a_snapshot=MAKE_A_SNAPSHOT,
    )


def render_error_page(message: str) -> str:
    """Return the HTML of a page that shows only an error message."""
    return _template().render(view=None, error=message)


def classify_delay(delay_seconds: float) -> str:
    """Return the word for a delay: early, on time, late or very late."""
    if delay_seconds < EARLY_SECONDS:
        return "early"
    if delay_seconds < LATE_SECONDS:
        return "on time"
    return "late" if delay_seconds < VERY_LATE_SECONDS else "very late"


def describe_status(current_status: str) -> str:
    """Return a vehicle's status with respect to its current stop in words."""
    return "at" if current_status == "STOPPED_AT" else "on the way to"


def format_minutes(seconds: float) -> str:
    """Return seconds as signed minutes and seconds, such as +2:05."""
    whole_seconds = round(abs(seconds))
    sign = "−" if seconds < 0 and whole_seconds else "+"
    return f"{sign}{whole_seconds // 60}:{whole_seconds % 60:02d}"


def _template() -> Template:
    """Return the template of the page."""
    return open_template("page.html", (line_color, classify_delay, format_minutes, describe_status))
