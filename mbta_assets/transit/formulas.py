"""Feature formulas: NumPy functions over arrays, shared by the batch tables and by serving.

Times are epoch seconds in float64. A value that is not known is NaN, and so is every feature computed from it. Looking
up what was known at a point in time is up to the callers.
"""

from collections.abc import Callable, Mapping

import numpy as np

from mbta_assets.transit import service_day

EARTH_RADIUS_MILES = 3958.7613
SECONDS_PER_DAY = 86_400.0
STATUSES = ("IN_TRANSIT_TO", "INCOMING_AT", "STOPPED_AT")
"""Values of a vehicle's `current_status`, as in GTFS-realtime."""
STOPS_AHEAD = (1, 3, 5, 10)
"""Benchmark distances: the numbers of stops ahead that every report has rows about. The rule is in `distances`."""
UNSCHEDULED_TRIP_PREFIXES = ("ADDED-", "NONREV-")
"""Prefixes of trip ids without a meaningful schedule: added and non-revenue trips."""
MAX_EARLY_SECONDS = 1800
"""A vehicle that is further ahead of its schedule is assigned to another trip's slot."""
RECENT_DELAY_WINDOW_SECONDS = 1800
"""Age up to which an arrival counts towards the recent delay of its route and direction."""
NETWORK_WINDOW_SECONDS = 1800
"""Age up to which an arrival counts towards the recent run times of the whole network."""
MAX_NETWORK_RUN_SECONDS = 3600
"""A longer run from one arrival of a trip to the next does not count, as the vehicle was out of service."""
USUAL_NETWORK_RUN_SECONDS = 600
"""Run time as scheduled that is counted besides the observed ones, so that few runs say little."""
RECENT_RUN_COUNT = 3
"""Number of latest run times over a stretch that are averaged."""
SEASONS = {"winter": (12, 1, 2), "spring": (3, 4, 5), "summer": (6, 7, 8), "autumn": (9, 10, 11)}
"""Months of each season."""
OBSERVED_FEATURES = (
    "last_delay_seconds", "last_change_seconds", "leader_delay_seconds", "last_run_seconds", "recent_run_seconds",
    "route_delay_seconds", "route_change_seconds", "network_run_ratio",
)  # fmt: skip
"""Features that are observations themselves, without a formula."""

Observations = Mapping[str, np.ndarray]
"""Arrays (n,) by name of what was known at n points in time.

Times are epoch seconds in float64, durations seconds, coordinates degrees; NaN is a value that was not known.
"""


def compute_features(observations: Observations) -> dict[str, np.ndarray]:
    """Compute every numeric feature and the season (n,), by name, from what was known at each point in time.

    `observations` has what the `FORMULAS` read and the `OBSERVED_FEATURES`. Raises KeyError for one that it lacks.
    """
    features = {name: observations[name] for name in OBSERVED_FEATURES}
    for formula in FORMULAS:
        features |= formula(observations)
    return features


def compute_distance(observations: Observations) -> dict[str, np.ndarray]:
    """Compute the distance (n,) in miles from the vehicle to the destination.

    `observations` has the coordinates in degrees: `current_latitude`, `current_longitude`, `destination_latitude`,
    `destination_longitude`.
    """
    coordinates = ("current_latitude", "current_longitude", "destination_latitude", "destination_longitude")
    return {"distance_travel_miles": haversine_miles(*(observations[name] for name in coordinates))}


def haversine_miles(
    latitude: np.ndarray, longitude: np.ndarray, other_latitude: np.ndarray, other_longitude: np.ndarray
) -> np.ndarray:
    """Return the great-circle distance (n,) in miles between two sets of points in degrees."""
    phi, other_phi = np.radians(latitude), np.radians(other_latitude)
    half_chord = (
        np.sin((other_phi - phi) / 2) ** 2
        + np.cos(phi) * np.cos(other_phi) * np.sin(np.radians(other_longitude - longitude) / 2) ** 2
    )
    return 2 * EARTH_RADIUS_MILES * np.arcsin(np.sqrt(np.clip(half_chord, 0, 1)))


def compute_calendar(observations: Observations) -> dict[str, np.ndarray]:
    """Compute the features (n,) of the date and of the times of the service day.

    `observations` has `service_date`, datetime64[D], and in epoch seconds `now` and `scheduled_start`, of the trip.
    Monday is day 0. The time of day is encoded as sine and cosine, so that the end of a service day is next to its
    start.
    """
    days = observations["service_date"].astype("datetime64[D]")
    months = days.astype("datetime64[M]")
    month = months.astype(np.int64) % 12 + 1
    start = service_day.start_epoch_seconds(days)
    angle = 2 * np.pi * (observations["now"] - start) / SECONDS_PER_DAY
    return {
        "month": month,
        "day_of_week": (days.astype(np.int64) + 3) % 7,
        "day_of_year": (days - days.astype("datetime64[Y]")).astype(np.int64) + 1,
        "season": _SEASON_OF_MONTH[month],
        "sin_time": np.sin(angle),
        "cos_time": np.cos(angle),
        "trip_start_seconds": observations["scheduled_start"] - start,
    }


def compute_timepoint(observations: Observations) -> dict[str, np.ndarray]:
    """Compute whether the current stop is a timepoint (n,), from its `timepoint` in the timetable, NaN where missing.

    A vehicle that is early waits there, so that its departure will not be early.
    """
    return {"timepoint": (observations["timepoint"] == 1).astype(float)}


def compute_timings(observations: Observations) -> dict[str, np.ndarray]:
    """Compute the features (n,) in seconds from the times known at each point in time.

    `observations` has epoch seconds (n,) of the trip (`now`, `scheduled_arrival`, `scheduled_last_departure`,
    `state_since`, `last_arrival`), of the vehicle that last arrived at the destination (`leader_arrival`), of the other
    vehicle that last arrived at the current stop (`platform_arrival`, `platform_left`), and the flag `moving`.
    """
    now = observations["now"]
    departed = np.where(observations["moving"], observations["state_since"], now)
    platform_arrival, platform_left = observations["platform_arrival"], observations["platform_left"]
    occupied = ~np.isnan(platform_arrival) & np.isnan(platform_left)
    return {
        "scheduled_seconds_ahead": observations["scheduled_arrival"] - now,
        "seconds_late_already": np.maximum(now - observations["scheduled_arrival"], 0),
        "scheduled_run_seconds": observations["scheduled_arrival"] - observations["scheduled_last_departure"],
        "seconds_in_state": now - observations["state_since"],
        "departure_delay_seconds": departed - observations["scheduled_last_departure"],
        "seconds_since_last_arrival": now - observations["last_arrival"],
        "leader_headway_seconds": now - observations["leader_arrival"],
        "platform_headway_seconds": now - platform_arrival,
        "platform_clear_seconds": now - platform_left,
        "platform_occupied": occupied.astype(float),
    }


def _seasons_by_month() -> np.ndarray:
    """Return the season (13,) of each month; month 0 has none. Objects, as Arrow is slow with fixed-width text."""
    season_of_month = {month: season for season, months in SEASONS.items() for month in months}
    return np.array(["", *(season_of_month[month] for month in range(1, 13))], dtype=object)


_SEASON_OF_MONTH = _seasons_by_month()

FORMULAS: tuple[Callable[[Observations], dict[str, np.ndarray]], ...] = (
    compute_calendar,
    compute_distance,
    compute_timepoint,
    compute_timings,
)
"""Functions that compute features: each takes the `Observations` and returns arrays (n,) by name.

Batch and serving call the same ones. A feature that is not known is NaN. Each name that one returns is a column of
`transit_features`, declared in `mbta_assets.transit.schema`.
"""
