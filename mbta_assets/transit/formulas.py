"""The formulas behind the features: NumPy over arrays, the same in training and in serving.

Times are epoch seconds in float64; what is not known is NaN, and so is all that follows from it.
"""

from collections.abc import Mapping

import numpy as np

from mbta_assets.transit import service_day

EARTH_RADIUS_MILES = 3958.7613
SECONDS_PER_DAY = 86_400.0
STATUSES = ("IN_TRANSIT_TO", "INCOMING_AT", "STOPPED_AT")
"""How a vehicle may stand to a stop."""
STOPS_AHEAD = (1, 3, 5, 10)
"""How many stops ahead the destinations are that models learn from."""
NO_TIMETABLE = ("ADDED-", "NONREV-")
"""Trips that begin so run to no timetable that means anything."""
WRONG_SLOT_SECONDS = 1800
"""So far ahead of its timetable a vehicle runs another trip's."""
RECENT_SECONDS = 1800
"""So long ago, an arrival still tells how late a route is."""
RECENT_RUNS = 3
"""So many runs over a stretch tell how long it takes of late."""
SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}

Known = Mapping[str, np.ndarray]


def features(known: Known) -> dict[str, np.ndarray]:
    """Every feature (n,) that is a number or a season, from what was known at each moment: the one way to them.

    `known` is what `calendar`, `timings` and `haversine_miles` take (`service_date`, `current_latitude`,
    `current_longitude`, `destination_latitude`, `destination_longitude`), and the features that are `OBSERVED`.
    """
    return {
        **calendar(known["service_date"], known["now"]),
        "distance_travel_miles": haversine_miles(
            known["current_latitude"],
            known["current_longitude"],
            known["destination_latitude"],
            known["destination_longitude"],
        ),
        **timings(known),
        **{name: known[name] for name in OBSERVED},
    }


OBSERVED = (
    "last_delay_seconds", "last_change_seconds", "leader_delay_seconds", "last_run_seconds", "recent_run_seconds",
    "route_delay_seconds", "route_change_seconds",
)  # fmt: skip
"""Features that are what was seen before, as it is."""


def haversine_miles(
    latitude: np.ndarray, longitude: np.ndarray, other_latitude: np.ndarray, other_longitude: np.ndarray
) -> np.ndarray:
    """Great-circle distance (n,) in miles between two sets of points in degrees."""
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    half_chord = (
        np.sin((other_phi - phi) / 2) ** 2
        + np.cos(phi) * np.cos(other_phi) * np.sin(np.radians(other_longitude - longitude) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_MILES * np.arcsin(np.sqrt(np.clip(half_chord, 0, 1)))


def calendar(service_dates: np.ndarray, now: np.ndarray) -> dict[str, np.ndarray]:
    """Where in the year, the week and the service day each moment falls.

    `service_dates` is (n,) datetime64[D]; `now` (n,) epoch seconds. Monday is day 0. The time of day is put on
    a circle, so that the end of a service day lies beside its start.
    """
    days = service_dates.astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    month = months.astype(np.int64) % 12 + 1
    angle = 2 * np.pi * (now - service_day.start_seconds(days)) / SECONDS_PER_DAY
    return {
        "month": month,
        "day_of_week": (days.astype(np.int64) + 3) % 7,
        "day_of_year": (days - days.astype("datetime64[Y]")).astype(np.int64) + 1,
        "season": _SEASON_OF_MONTH[month],
        "sin_time": np.sin(angle),
        "cos_time": np.cos(angle),
    }


def timings(known: Known) -> dict[str, np.ndarray]:
    """Features (n,) in seconds from what was known at each moment.

    `known` holds epoch seconds, each (n,), for the trip (`now`, `scheduled_arrival`, `scheduled_last_departure`,
    `state_since`, `last_arrival`), for the leader (`leader_arrival` at the target, `platform_arrival` and
    `platform_left` at the stop this vehicle stands at or goes to), and `moving` (bool). A leader is the vehicle
    that was last at a stop before now.
    """
    now = known["now"]
    departed = np.where(known["moving"], known["state_since"], now)
    since_left = now - known["platform_left"]
    return {
        "scheduled_seconds_ahead": known["scheduled_arrival"] - now,
        "seconds_late_already": np.maximum(now - known["scheduled_arrival"], 0),
        "scheduled_run_seconds": known["scheduled_arrival"] - known["scheduled_last_departure"],
        "seconds_in_state": now - known["state_since"],
        "departure_delay_seconds": departed - known["scheduled_last_departure"],
        "seconds_since_last_arrival": now - known["last_arrival"],
        "leader_headway_seconds": now - known["leader_arrival"],
        "platform_headway_seconds": now - known["platform_arrival"],
        "platform_clear_seconds": np.where(np.isnan(known["platform_left"]), np.nan, since_left),
        "platform_occupied": (~np.isnan(known["platform_arrival"]) & np.isnan(known["platform_left"])).astype(float),
    }


_SEASON_OF_MONTH = np.array(
    ["", *(next(name for name, months in SEASONS.items() if month in months) for month in range(1, 13))]
)
