"""The features of one query in plain Python values, the same to the bit as those of many queries in columns.

Most of the time of a column of one value is NumPy's, whatever is computed. So single queries, as HTTP requests have
them, take this path; `predictor.feature_columns` is the other one. Where the C library rounds otherwise than NumPy, its
functions are NumPy's here too.
"""

import math
from array import array
from datetime import date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mbta_assets.serving.arrival_query import ArrivalQuery, FieldGroup
from mbta_assets.transit import formulas, service_day

NUMBERS = (
    "month", "day_of_week", "day_of_year", "sin_time", "cos_time", "stops_behind", "timepoint",
    "distance_travel_miles", "scheduled_seconds_ahead", "seconds_late_already", "scheduled_run_seconds",
    "seconds_in_state", "departure_delay_seconds", "seconds_since_last_arrival", "leader_headway_seconds",
    "platform_headway_seconds", "platform_clear_seconds", "platform_occupied", *formulas.OBSERVED_FEATURES,
)  # fmt: skip
"""Names of the features that are numbers, which the table `transit_features` has in single precision."""
OBSERVED = FieldGroup(*formulas.OBSERVED_FEATURES)
_SEASON_OF_MONTH = {month: season for season, months in formulas.SEASONS.items() for month in months}


class Calendar(NamedTuple):
    """What the features of all queries of a service day have in common."""

    start: float
    """Epoch seconds from which the times of the service day are counted."""
    month: int
    day_of_week: int
    day_of_year: int
    season: str


def compute_feature_row(query: ArrivalQuery) -> dict[str, Any]:
    """Return the features of a query, with the names that they have in the table `transit_features`."""
    now, scheduled = query.time_stamp.timestamp(), query.scheduled_arrival.timestamp()
    last_departure = _to_epoch_seconds(query.scheduled_last_departure)
    state_since = _to_epoch_seconds(query.state_since)
    platform_arrival, platform_left = _to_epoch_seconds(query.platform_arrival), _to_epoch_seconds(query.platform_left)
    calendar = _describe_day(query.service_date)
    angle = 2 * math.pi * (now - calendar.start) / formulas.SECONDS_PER_DAY
    moving = query.current_status != "STOPPED_AT"
    numbers = (
        calendar.month,
        calendar.day_of_week,
        calendar.day_of_year,
        np.sin(angle),
        np.cos(angle),
        query.stops_behind,
        query.timepoint == 1,
        _compute_miles(query),
        scheduled - now,
        max(now - scheduled, 0.0),
        scheduled - last_departure,
        now - state_since,
        (state_since if moving else now) - last_departure,
        now - _to_epoch_seconds(query.last_arrival),
        now - _to_epoch_seconds(query.leader_arrival),
        now - platform_arrival,
        now - platform_left,
        query.platform_arrival is not None and query.platform_left is None,
        *[math.nan if value is None else value for value in OBSERVED.read(query)],
    )
    return {
        "stop_id": query.stop_id,
        "current_stop_id": query.current_stop_id,
        "stops_ahead": query.stops_ahead,
        "current_status": query.current_status,
        "route_id": query.route_id,
        "direction_id": query.direction_id,
        "season": calendar.season,
        **dict(zip(NUMBERS, array("f", numbers), strict=True)),
    }


def _to_epoch_seconds(time: datetime | None) -> float:
    """Return a time in epoch seconds, NaN if it is None."""
    return math.nan if time is None else time.timestamp()


@lru_cache(maxsize=64)
def _describe_day(service_date: date) -> Calendar:
    """Return what the features of a service day have in common."""
    start = service_day.start_time(service_date).timestamp()
    month, day_of_year = service_date.month, service_date.timetuple().tm_yday
    return Calendar(start, month, service_date.weekday(), day_of_year, _SEASON_OF_MONTH[month])


def _compute_miles(query: ArrivalQuery) -> float:
    """Return the great-circle distance from the vehicle to the stop in miles, NaN where a coordinate is missing."""
    latitude, longitude = query.current_latitude, query.current_longitude
    other_latitude, other_longitude = query.destination_latitude, query.destination_longitude
    if latitude is None or longitude is None or other_latitude is None or other_longitude is None:
        return math.nan
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    half_chord = (
        np.sin((other_phi - phi) / 2) ** 2
        + np.cos(phi) * np.cos(other_phi) * np.sin(np.radians(other_longitude - longitude) / 2) ** 2
    )
    return float(2 * formulas.EARTH_RADIUS_MILES * np.arcsin(np.sqrt(min(max(half_chord, 0.0), 1.0))))
