"""A moment: all that is known when an arrival is predicted, and the features that follow from it."""

from collections.abc import Sequence
from dataclasses import MISSING, dataclass, field
from datetime import date, datetime
from typing import Any

import numpy as np

from mbta_assets.transit import formulas
from mbta_assets.transit.platforms import PLATFORM_ALIASES


def needed(meaning: str, **rules: Any) -> Any:
    """A field that must be known: what it means, and what it may be (`ge`, `le`, `choices`)."""
    return field(metadata={"meaning": meaning, "rules": rules})


def known(meaning: str, **rules: Any) -> Any:
    """A field that may be left out where it is not known."""
    return field(default=None, metadata={"meaning": meaning, "rules": rules})


LATITUDE = {"ge": -90.0, "le": 90.0}
LONGITUDE = {"ge": -180.0, "le": 180.0}
SECONDS = {"ge": -1_000_000.0, "le": 1_000_000.0}


@dataclass(frozen=True, kw_only=True, slots=True)
class Moment:
    """What is known of one vehicle and of one stop ahead of it, at the time of the vehicle's report.

    Times carry their offset to UTC; delays are seconds, positive where late. A stop may be called as the feed calls
    it, a berth of a terminal too. Of the trip itself everything up to and including the report is known, of other
    trips what was reported before it.
    """

    service_date: date = needed("The service day in Boston, which turns at 3 am.")
    time_stamp: datetime = needed("When the vehicle reported: the moment of the prediction.")
    stop_id: str = needed("The stop whose arrival is predicted.")
    stops_ahead: int = needed("Stops to it, 1 for the next one.", ge=1, le=100)
    scheduled_arrival: datetime = needed("When the vehicle is due there.")
    current_stop_id: str = needed("The stop that the vehicle stands at or goes to.")
    current_status: str = needed("How it stands to that stop.", choices=formulas.STATUSES)
    stops_behind: int = needed("Stops of the trip that it stands at or has left.", ge=0, le=1000)
    vehicle_id: str | None = known("The vehicle; no feature, it only says whose answer is whose.")
    trip_id: str | None = known("The trip; no feature either.")
    route_id: str | None = known("The route.")
    direction_id: int | None = known("The direction, 0 or 1.", ge=0, le=1)
    current_latitude: float | None = known("Where the vehicle is, in degrees.", **LATITUDE)
    current_longitude: float | None = known("Where the vehicle is, in degrees.", **LONGITUDE)
    destination_latitude: float | None = known("Where the stop is, in degrees.", **LATITUDE)
    destination_longitude: float | None = known("Where the stop is, in degrees.", **LONGITUDE)
    scheduled_last_departure: datetime | None = known(
        "When the vehicle was due to leave the stop that it stands at or has last left."
    )
    state_since: datetime | None = known("When it began to stand here, or to go there.")
    last_arrival: datetime | None = known("When the trip last arrived at a stop.")
    last_delay_seconds: float | None = known("How late that was.", **SECONDS)
    last_change_seconds: float | None = known("How much later than at the stop before.", **SECONDS)
    leader_arrival: datetime | None = known("When another vehicle last arrived at the stop ahead.")
    leader_delay_seconds: float | None = known("How late that was.", **SECONDS)
    platform_arrival: datetime | None = known("When another vehicle last arrived at the current stop.")
    platform_left: datetime | None = known("When that vehicle left; unknown while it stands there.")
    last_run_seconds: float | None = known(
        "How long the last vehicle took from the beginning of this state to the stop ahead.", **SECONDS
    )
    recent_run_seconds: float | None = known("Mean of the last three of such runs.", **SECONDS)
    route_delay_seconds: float | None = known(
        "Mean delay of the arrivals of the route and direction in the last 30 minutes.", **SECONDS
    )
    route_change_seconds: float | None = known("Mean change of delay a stop over them.", **SECONDS)


REQUIRED = frozenset(name for name, spec in Moment.__dataclass_fields__.items() if spec.default is MISSING)
"""Fields that must be known."""


def feature_columns(moments: Sequence[Moment]) -> dict[str, np.ndarray]:
    """The features (n,) of n moments, named and typed as in `transit_features`."""
    numbers = formulas.features(
        {
            "service_date": np.array([one.service_date for one in moments], dtype="datetime64[D]"),
            "now": _seconds(moments, "time_stamp"),
            "moving": np.array([one.current_status != "STOPPED_AT" for one in moments], dtype=bool),
            **{name: _seconds(moments, name) for name in TIMES},
            **{name: _numbers(moments, name) for name in (*POSITIONS, *formulas.OBSERVED)},
        }
    )
    return {
        "stop_id": _objects([canonical(one.stop_id) for one in moments]),
        "current_stop_id": _objects([canonical(one.current_stop_id) for one in moments]),
        "stops_ahead": np.array([one.stops_ahead for one in moments], dtype=np.int64),
        "current_status": _objects([one.current_status for one in moments]),
        "route_id": _objects([one.route_id for one in moments]),
        "direction_id": _objects([one.direction_id for one in moments]),
        "season": numbers.pop("season"),
        # The table keeps single precision, so whatever is computed from features starts from that.
        **{name: values.astype(np.float32) for name, values in numbers.items()},
        "stops_behind": np.array([one.stops_behind for one in moments], dtype=np.float32),
    }


TIMES = (
    "scheduled_arrival", "scheduled_last_departure", "state_since", "last_arrival", "leader_arrival",
    "platform_arrival", "platform_left",
)  # fmt: skip
POSITIONS = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")


def canonical(stop_id: str) -> str:
    """The stop as the timetable calls it."""
    return PLATFORM_ALIASES.get(stop_id, stop_id)


def _seconds(moments: Sequence[Moment], name: str) -> np.ndarray:
    times = [getattr(one, name) for one in moments]
    return np.array([np.nan if time is None else time.timestamp() for time in times], dtype=np.float64)


def _numbers(moments: Sequence[Moment], name: str) -> np.ndarray:
    return np.array([getattr(one, name) for one in moments], dtype=np.float64)  # None becomes NaN


def _objects(values: list[Any]) -> np.ndarray:
    return np.array(values, dtype=object)


def _at(clock: str) -> datetime:
    return datetime.fromisoformat(f"2024-03-06T{clock}-05:00")


EXAMPLE = Moment(
    service_date=date(2024, 3, 6),
    time_stamp=_at("08:30:12"),
    stop_id="70065",
    stops_ahead=1,
    scheduled_arrival=_at("08:31:00"),
    current_stop_id="70065",
    current_status="IN_TRANSIT_TO",
    stops_behind=2,
    vehicle_id="R-5483A1B2",
    trip_id="60311024",
    route_id="Red",
    direction_id=0,
    current_latitude=42.3929,
    current_longitude=-71.1203,
    destination_latitude=42.3884,
    destination_longitude=-71.1191,
    scheduled_last_departure=_at("08:28:00"),
    state_since=_at("08:29:03"),
    last_arrival=_at("08:28:20"),
    last_delay_seconds=35.0,
    last_change_seconds=5.0,
    leader_arrival=_at("08:25:40"),
    leader_delay_seconds=60.0,
    platform_arrival=_at("08:25:40"),
    platform_left=_at("08:26:25"),
    last_run_seconds=128.0,
    recent_run_seconds=124.0,
    route_delay_seconds=72.5,
    route_change_seconds=1.5,
)
"""A moment between two stations."""
