"""Rules between the fields of a request's query: its times against its report and service day, positions, departures.

They are for requests, whose sender can be told what is wrong; the queries of a `Stream` come from reports that are
plausible already. Types and ranges of single fields are checked in `openapi`.
"""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from operator import attrgetter

from mbta_assets.serving.arrival_query import POSITION_FIELDS, TIME_FIELDS, ArrivalQuery
from mbta_assets.transit import service_day
from mbta_assets.transit.plausibility import NULL_ISLAND_DEGREES, is_plausible_position

MIN_HOURS, MAX_HOURS = -12, 84
"""Hours from the start time of the service day in which reports and what they have observed may lie."""
EARLIEST, LATEST, NO_TIME = timedelta(hours=MIN_HOURS), timedelta(hours=MAX_HOURS), timedelta(0)
MAX_HOURS_TO_ARRIVAL = 12
"""Hours between a report and the scheduled arrival that is predicted."""
MAX_HOURS_TO_DEPARTURE = 24
"""Hours between a report and the scheduled departure from the last stop."""
MAX_HOURS_TO_START = 84
"""Hours between a report and the scheduled start of its trip."""
SCHEDULED_LIMITS = tuple(
    (name, hours, -timedelta(hours=hours), timedelta(hours=hours))
    for name, hours in (
        ("scheduled_arrival", MAX_HOURS_TO_ARRIVAL), ("scheduled_last_departure", MAX_HOURS_TO_DEPARTURE),
        ("scheduled_start", MAX_HOURS_TO_START),
    )
)  # fmt: skip
"""Name of each scheduled time, with its limit in hours, and the earliest and latest time relative to the report."""
OBSERVED_FIELDS = tuple(name for name in TIME_FIELDS if name not in {name for name, *_ in SCHEDULED_LIMITS})
"""Times of what was known when the vehicle reported."""
POSITIONS = tuple(zip(POSITION_FIELDS[::2], POSITION_FIELDS[1::2], strict=True))
"""Names of the latitude and the longitude of each position."""
_get_observed_times: Callable[[ArrivalQuery], tuple[datetime | None, ...]] = attrgetter(*OBSERVED_FIELDS)
_get_scheduled_times: Callable[[ArrivalQuery], tuple[datetime | None, ...]] = attrgetter(
    *(name for name, *_ in SCHEDULED_LIMITS)
)
_get_coordinates: Callable[[ArrivalQuery], tuple[float | None, ...]] = attrgetter(*POSITION_FIELDS)
DESCRIPTION = f"""Besides the type and range of each field, a query must keep these rules:

- `time_stamp` lies in the hours {MIN_HOURS} to {MAX_HOURS} of its service day, counted from noon minus 12 hours.
- {", ".join(f"`{name}`" for name in OBSERVED_FIELDS)} lie in the same hours and are not later than `time_stamp`.
- `scheduled_arrival` is at most {MAX_HOURS_TO_ARRIVAL} hours, `scheduled_last_departure` at most \
{MAX_HOURS_TO_DEPARTURE} hours, `scheduled_start` at most {MAX_HOURS_TO_START} hours from `time_stamp`.
- Of a position, latitude and longitude are given or neither is, and not both are within \
{NULL_ISLAND_DEGREES:g} degree of 0.
- A departure, with `stops_ahead` 0, is from the first stop of the trip, at or on the way to which the vehicle is: \
`stop_id` is `current_stop_id` and `stops_behind` at most 1.

Leave out what is not known. A query that breaks a rule is answered with 422, which names its index and its field, \
and so are all others with it.
"""
"""The rules in words, for the description of the interface."""

FieldMessage = tuple[str, str]
"""Name of a field, and what is wrong with it."""


def find_broken_rules(query: ArrivalQuery) -> list[FieldMessage]:
    """Return the fields of a query that break a rule, each with what is wrong and what is allowed."""
    return _find_implausible_times(query) + _find_implausible_positions(query) + _find_wrong_departure(query)


def _find_implausible_times(query: ArrivalQuery) -> list[FieldMessage]:
    """Return the times that are not of the service day, too far from the report, or after what they must precede.

    Times are subtracted rather than shifted, as those at the ends of the calendar cannot be shifted.
    """
    broken = []
    now = query.time_stamp
    elapsed = now - _start_time(query.service_date)
    if not EARLIEST <= elapsed <= LATEST:
        broken.append(("time_stamp", _describe_other_day(now, query.service_date)))
    max_age = elapsed - EARLIEST
    for name, time in zip(OBSERVED_FIELDS, _get_observed_times(query), strict=True):
        if time is None:
            continue
        if time > now:
            message = f"{time.isoformat()} is later than time_stamp; it must be known when the vehicle reports."
            broken.append((name, message))
        elif now - time > max_age:
            broken.append((name, _describe_other_day(time, query.service_date)))
    for (name, hours, earliest, latest), time in zip(SCHEDULED_LIMITS, _get_scheduled_times(query), strict=True):
        if time is not None and not earliest <= time - now <= latest:
            broken.append((name, f"{time.isoformat()} is more than {hours} hours from time_stamp."))
    return broken


def _describe_other_day(time: datetime, service_date: date) -> str:
    """Return the message about a time that is not of the service day."""
    return f"{time.isoformat()} is not in the hours {MIN_HOURS} to {MAX_HOURS} of the service day {service_date}."


def _find_implausible_positions(query: ArrivalQuery) -> list[FieldMessage]:
    """Return the coordinates that are at null island, or whose other coordinate is missing."""
    coordinates = _get_coordinates(query)
    broken = []
    for names, latitude, longitude in zip(POSITIONS, coordinates[::2], coordinates[1::2], strict=True):
        if latitude is None or longitude is None:
            if latitude is not longitude:
                missing, given = names if latitude is None else names[::-1]
                broken.append((missing, f"It is missing, but {given} is given; give both or neither."))
        elif not is_plausible_position(latitude, longitude):
            broken += [(name, "The position is at null island, 0 and 0; leave it out.") for name in names]
    return broken


def _find_wrong_departure(query: ArrivalQuery) -> list[FieldMessage]:
    """Return the fields that a departure from the first stop of the trip cannot have."""
    if not query.is_departure:
        return []
    broken = []
    if query.stop_id != query.current_stop_id:
        broken.append(("stop_id", "It is not current_stop_id; a departure, with stops_ahead 0, is from there."))
    if query.stops_behind > 1:
        message = f"{query.stops_behind} stops are behind; a departure, with stops_ahead 0, is from the first stop."
        broken.append(("stops_behind", message))
    return broken


@lru_cache(maxsize=1024)
def _start_time(service_date: date) -> datetime:
    """Return the start time of a service date, in UTC as the times of most queries are, which subtracts faster."""
    return service_day.start_time(service_date).astimezone(UTC)
