"""The records of what vehicles have reported: updates, the stop visits that they are about, and the state of each trip.

Nothing here decides anything: `observations` fills the records, `stream` reads them.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from mbta_assets.serving.scheduled_trip import ScheduledTrip
from mbta_assets.transit.placement import Progress


@dataclass(frozen=True, kw_only=True, slots=True)
class VehicleUpdate:
    """A row of `vehicle`: the position and status that a vehicle reported."""

    id: str
    """Vehicle."""
    updated_at: datetime
    """Time of the update, with a time zone."""
    current_status: str
    """IN_TRANSIT_TO, INCOMING_AT or STOPPED_AT, with respect to `stop_id`."""
    stop_id: str | None = None
    """Stop that it stands at or goes to."""
    trip_id: str | None = None
    """Trip that it serves."""
    latitude: float | None = None
    """In degrees."""
    longitude: float | None = None
    """In degrees."""
    route_id: str | None = None
    """Route that it serves."""
    direction_id: int | None = None
    """Direction that it serves, 0 or 1."""
    current_stop_sequence: int | None = None
    """Stop sequence of `stop_id` in the trip."""

    @property
    def is_moving(self) -> bool:
        """Return whether the vehicle is on its way to the stop."""
        return self.current_status != "STOPPED_AT"


TripKey = tuple[Any, ...]
"""(0, trip_id, vehicle_id), or (1, vehicle_id, number) for a vehicle without a trip; its trips are numbered from stop
to stop."""
Place = int | str
"""Index of a visit among those of the scheduled trip, or the stop of a visit that its trip has no schedule for."""
RouteDirection = tuple[str, int]
"""(route_id, direction_id): an empty string and 2 stand for missing values."""


@dataclass(slots=True)
class StopVisit:
    """A visit of a stop by a vehicle on its trip. Delays are whole microseconds, so that their sums are exact."""

    trip: "TripState"
    place: Place
    stop_id: str
    vehicle_id: str
    route_direction: RouteDirection
    order: tuple[Any, ...]
    """Sort key among the visits of the vehicle; it begins with the time of the first update."""
    is_first_observation: bool
    """True if the trip was first observed here, so that the start of its movement to the stop is unknown."""
    movement_started_at: datetime | None = None
    arrived_at: datetime | None = None
    delay_us: int | None = None
    delay_change_us: int | None = None
    run: tuple[int, int] | None = None
    """Microseconds since the arrival before and as scheduled, if the change of delay is known."""


class Report(NamedTuple):
    """An update with clean ids, and the indices of the visits of its trip that it may be about."""

    update: VehicleUpdate
    candidates: tuple[int, ...]


class LocatedReport(NamedTuple):
    """An update at the visit that it is about."""

    update: VehicleUpdate
    trip: "TripState"
    place: Place
    stop_id: str


@dataclass(slots=True)
class TripState:
    """The observations of one vehicle on one trip."""

    key: TripKey
    scheduled: ScheduledTrip | None
    """None for a vehicle without a trip, and for a trip without a schedule."""
    last_updated_at: datetime
    progress: Progress | None = None
    """How far the vehicle has come; None as long as no report can be about several visits."""
    first_counted_at: datetime | None = None
    """Time of the first update that counts at a stop."""
    state: tuple[Place, bool] | None = None
    """The visit of the latest update and whether the vehicle was moving."""
    state_started_at: dict[tuple[Place, bool], datetime | None] = field(default_factory=dict)
    """The start of the latest period in each state; None if the trip was first observed in it."""
    visits: dict[Place, StopVisit] = field(default_factory=dict)
    last_arrival: StopVisit | None = None
    has_left_origin: bool = False
    """Whether an update was about the second stop of the trip or one behind it."""
    located: list[LocatedReport] = field(default_factory=list)
    """The reports of the latest time at which one counts."""
    latest: list[VehicleUpdate] = field(default_factory=list)
    """The updates of the latest time, so that repeated ones are recognized."""
    reports: list[Report] = field(default_factory=list)
    """All reports that were taken in, in order of time."""
    challengers: list[Report] = field(default_factory=list)
    """The latest reports, in order of time, if they were so late that their clock or that of those before is wrong."""
    revoked: set[VehicleUpdate] = field(default_factory=set)
    """Updates that do not count, because others have shown that their time is wrong."""


def has_trip_id(key: TripKey) -> bool:
    """Return whether a key is of a trip that has an id."""
    return key[0] == 0


def to_route_direction(route_id: str | None, direction_id: int | None) -> RouteDirection:
    """Return a route and direction with missing values replaced."""
    return route_id or "", 2 if direction_id is None else direction_id
