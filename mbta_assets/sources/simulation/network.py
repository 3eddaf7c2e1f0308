"""The simulated network: platforms, patterns of stops with scheduled run times, and departures by hour.

The tables are compiled from the MBTA's published GTFS (MassDOT): `stops.csv` has every platform, `patterns.csv` the
stops of each route, direction and branch in order with the scheduled run time from the stop before, and
`departures.csv` the departures of a weekday by hour of the service day (25 is one o'clock the next morning). Nothing
here is random.
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np

FIRST_HOUR = 4
"""Hour of the service day of the first column of `departures.csv`."""

BERTHS = {
    "Alewife-01": "70061",
    "Alewife-02": "70061",
    "Braintree-01": "70105",
    "Braintree-02": "70105",
    "Forest Hills-01": "70001",
    "Forest Hills-02": "70001",
    "Oak Grove-01": "70036",
    "Oak Grove-02": "70036",
}
"""Platform of the timetable by berth: at four terminals vehicles report the berth, which no timetable names."""

Lane = tuple[str, int]
"""Route and direction whose trains follow and never overtake one another."""


@dataclass(frozen=True)
class Platform:
    """Platform of a station."""

    stop_id: str
    name: str
    platform_name: str
    parent_station: str
    latitude: float
    longitude: float


@dataclass(frozen=True)
class Pattern:
    """Stops of a route, direction and branch in order.

    `run_seconds` (stops,) is the scheduled run time from the stop before; `reference_seconds` (stops,) is the scheduled
    time since a stop that every branch of the lane serves, by which the trains of all branches are put in one order.
    """

    route_id: str
    direction_id: int
    branch: str
    stop_ids: tuple[str, ...]
    run_seconds: np.ndarray
    reference_seconds: np.ndarray

    @property
    def lane(self) -> Lane:
        """Return the route and direction."""
        return self.route_id, self.direction_id

    @cached_property
    def start_seconds(self) -> np.ndarray:
        """Return the scheduled seconds (stops,) from the departure at the origin to each stop."""
        return np.cumsum(self.run_seconds)


@dataclass(frozen=True)
class Network:
    """Platforms, patterns, and the departures of a weekday on each lane by hour, from `FIRST_HOUR` on."""

    platforms: dict[str, Platform]
    patterns: tuple[Pattern, ...]
    departures: dict[Lane, tuple[int, ...]]

    @cached_property
    def lanes(self) -> dict[Lane, tuple[int, ...]]:
        """Return the indices of each lane's patterns."""
        lanes: dict[Lane, tuple[int, ...]] = {}
        for index, pattern in enumerate(self.patterns):
            lanes[pattern.lane] = (*lanes.get(pattern.lane, ()), index)
        return lanes

    @cached_property
    def columns(self) -> dict[Lane, dict[str, int]]:
        """Return the column of each stop of a lane, branches included, in arrays over the stops of the lane."""
        columns = {}
        for lane, patterns in self.lanes.items():
            stops = dict.fromkeys(stop for index in patterns for stop in self.patterns[index].stop_ids)
            columns[lane] = {stop: column for column, stop in enumerate(stops)}
        return columns


@lru_cache(maxsize=1)
def load_network() -> Network:
    """Load the network from the packaged tables."""
    platforms = {
        row["stop_id"]: Platform(
            row["stop_id"],
            row["name"],
            row["platform_name"],
            row["parent_station"],
            float(row["latitude"]),
            float(row["longitude"]),
        )
        for row in _read_rows("stops.csv")
    }
    runs = defaultdict(list)
    for row in _read_rows("patterns.csv"):
        key = row["route_id"], int(row["direction_id"]), row["branch"]
        runs[key].append((row["stop_id"], float(row["run_seconds"])))
    departures = {
        (row["route_id"], int(row["direction_id"])): tuple(
            int(count) for name, count in row.items() if name.startswith("hour_")
        )
        for row in _read_rows("departures.csv")
    }
    return Network(platforms, tuple(_make_pattern(key, runs) for key in runs), departures)


def _make_pattern(key: tuple[str, int, str], runs: dict[tuple[str, int, str], list[tuple[str, float]]]) -> Pattern:
    stop_ids, run_seconds = zip(*runs[key], strict=True)
    branches = [{stop for stop, _ in stops} for other, stops in runs.items() if other[:2] == key[:2]]
    reference = next(position for position, stop in enumerate(stop_ids) if all(stop in branch for branch in branches))
    start = np.cumsum(run_seconds)
    return Pattern(*key, stop_ids, np.array(run_seconds), start - start[reference])


def _read_rows(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
