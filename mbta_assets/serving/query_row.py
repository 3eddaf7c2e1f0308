"""The features of one query in plain Python values, the same to the bit as those of many queries in columns.

Most of the time of a column of few values is NumPy's, whatever is computed. So few queries, as HTTP requests have them,
take this path; `predictor.feature_columns` is the other one. Where the C library rounds otherwise than NumPy, its
functions are NumPy's here too.
"""

import math
from array import array
from collections.abc import Iterable
from datetime import date, datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np

from mbta_assets.serving.arrival_query import ArrivalQuery
from mbta_assets.transit import formulas, service_day

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
    """Return the features of a query, with the names that they have in the table `transit_features`.

    Numbers are rounded as the table stores them, in single precision.
    """
    calendar = _describe_day(query.service_date)
    (
        sin_time, cos_time, distance, ahead, late_already, scheduled_run, in_state, departure_delay, since_arrival,
        leader_headway, platform_headway, platform_clear, last_delay, last_change, leader_delay, last_run, recent_run,
        route_delay, route_change, network_run_ratio, trip_start,
    ) = _compute_numbers(query, calendar)  # fmt: skip
    return {
        "stop_id": query.stop_id,
        "current_stop_id": query.current_stop_id,
        "stops_ahead": query.stops_ahead,
        "current_status": query.current_status,
        "route_id": query.route_id,
        "direction_id": query.direction_id,
        "season": calendar.season,
        "month": calendar.month,
        "day_of_week": calendar.day_of_week,
        "day_of_year": calendar.day_of_year,
        "sin_time": sin_time,
        "cos_time": cos_time,
        "stops_behind": query.stops_behind,
        "timepoint": 1.0 if query.timepoint == 1 else 0.0,
        "distance_travel_miles": distance,
        "scheduled_seconds_ahead": ahead,
        "seconds_late_already": late_already,
        "scheduled_run_seconds": scheduled_run,
        "trip_start_seconds": trip_start,
        "seconds_in_state": in_state,
        "departure_delay_seconds": departure_delay,
        "last_delay_seconds": last_delay,
        "last_change_seconds": last_change,
        "seconds_since_last_arrival": since_arrival,
        "leader_headway_seconds": leader_headway,
        "leader_delay_seconds": leader_delay,
        "platform_headway_seconds": platform_headway,
        "platform_clear_seconds": platform_clear,
        "platform_occupied": 1.0 if query.platform_arrival is not None and query.platform_left is None else 0.0,
        "last_run_seconds": last_run,
        "recent_run_seconds": recent_run,
        "route_delay_seconds": route_delay,
        "route_change_seconds": route_change,
        "network_run_ratio": network_run_ratio,
    }


def _compute_numbers(query: ArrivalQuery, calendar: Calendar) -> Iterable[float]:
    """Return the features of a query that are times, distances and observations, in single precision."""
    now, scheduled = query.time_stamp.timestamp(), query.scheduled_arrival.timestamp()
    last_departure = _to_epoch_seconds(query.scheduled_last_departure)
    state_since = _to_epoch_seconds(query.state_since)
    angle = 2 * math.pi * (now - calendar.start) / formulas.SECONDS_PER_DAY
    moving = query.current_status != "STOPPED_AT"
    return array(
        "f",
        (
            np.sin(angle),
            np.cos(angle),
            _compute_miles(query),
            scheduled - now,
            max(now - scheduled, 0.0),
            scheduled - last_departure,
            now - state_since,
            (state_since if moving else now) - last_departure,
            now - _to_epoch_seconds(query.last_arrival),
            now - _to_epoch_seconds(query.leader_arrival),
            now - _to_epoch_seconds(query.platform_arrival),
            now - _to_epoch_seconds(query.platform_left),
            _to_float(query.last_delay_seconds),
            _to_float(query.last_change_seconds),
            _to_float(query.leader_delay_seconds),
            _to_float(query.last_run_seconds),
            _to_float(query.recent_run_seconds),
            _to_float(query.route_delay_seconds),
            _to_float(query.route_change_seconds),
            _to_float(query.network_run_ratio),
            _to_epoch_seconds(query.scheduled_start) - calendar.start,
        ),
    )


def _to_float(value: float | None) -> float:
    """Return a number, NaN if it is None."""
    return math.nan if value is None else value


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
    phi, other_phi = math.radians(latitude), math.radians(other_latitude)
    half_chord = (
        np.sin((other_phi - phi) / 2) ** 2
        + np.cos(phi) * np.cos(other_phi) * np.sin(math.radians(other_longitude - longitude) / 2) ** 2
    )
    return float(2 * formulas.EARTH_RADIUS_MILES * np.arcsin(math.sqrt(min(max(half_chord, 0.0), 1.0))))
