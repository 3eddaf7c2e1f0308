"""The lines: patterns of stops, scheduled run times, departures by hour. Facts, no chance.

Compiled from the MBTA's published GTFS (MassDOT): `stops.csv` has every platform, `patterns.csv` each route,
direction and branch as its stops in order with the scheduled run from the stop before, `departures.csv` the
departures of a weekday by hour of the service day (25 is one o'clock the next morning).
"""

import csv
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property, lru_cache
from importlib import resources

import numpy as np

FIRST_HOUR = 4


@dataclass(frozen=True)
class Platform:
    """A platform of a station."""

    stop_id: str
    name: str
    platform_name: str
    parent_station: str
    latitude: float
    longitude: float


@dataclass(frozen=True)
class Pattern:
    """The stops of a route, direction and branch in order.

    `reference_seconds` (stops,) counts the scheduled run from a stop that every branch of the lane serves, so
    that the trains of all branches can be put in one order.
    """

    route_id: str
    direction_id: int
    branch: str
    stop_ids: tuple[str, ...]
    run_seconds: np.ndarray
    reference_seconds: np.ndarray

    @property
    def lane(self) -> tuple[str, int]:
        """Trains of one route and direction share a lane: they follow and never overtake one another."""
        return self.route_id, self.direction_id

    @cached_property
    def start_seconds(self) -> np.ndarray:
        """Scheduled seconds (stops,) from departure to each stop."""
        return np.cumsum(self.run_seconds)


@dataclass(frozen=True)
class Network:
    """All lines. `departures` counts a weekday's departures of a lane by hour, from `FIRST_HOUR` on."""

    platforms: dict[str, Platform]
    patterns: tuple[Pattern, ...]
    departures: dict[tuple[str, int], tuple[int, ...]]

    @cached_property
    def lanes(self) -> dict[tuple[str, int], tuple[int, ...]]:
        """The patterns of each lane, as indices."""
        lanes: dict[tuple[str, int], tuple[int, ...]] = {}
        for index, pattern in enumerate(self.patterns):
            lanes[pattern.lane] = (*lanes.get(pattern.lane, ()), index)
        return lanes

    @cached_property
    def columns(self) -> dict[tuple[str, int], dict[str, int]]:
        """A number for each stop of a lane, branches included: where a train's state is kept in arrays."""
        return {
            lane: {
                stop: column
                for column, stop in enumerate(
                    dict.fromkeys(stop for index in patterns for stop in self.patterns[index].stop_ids)
                )
            }
            for lane, patterns in self.lanes.items()
        }


@lru_cache(maxsize=1)
def network() -> Network:
    """The network of the packaged tables."""
    platforms = {
        row["stop_id"]: Platform(
            row["stop_id"],
            row["name"],
            row["platform_name"],
            row["parent_station"],
            float(row["latitude"]),
            float(row["longitude"]),
        )
        for row in _table("stops.csv")
    }
    stretches = defaultdict(list)
    for row in _table("patterns.csv"):
        key = row["route_id"], int(row["direction_id"]), row["branch"]
        stretches[key].append((row["stop_id"], float(row["run_seconds"])))
    departures = {
        (row["route_id"], int(row["direction_id"])): tuple(
            int(count) for name, count in row.items() if name.startswith("hour_")
        )
        for row in _table("departures.csv")
    }
    return Network(platforms, tuple(_pattern(key, stretches) for key in stretches), departures)


def _pattern(key: tuple[str, int, str], stretches: dict[tuple[str, int, str], list[tuple[str, float]]]) -> Pattern:
    stop_ids, runs = zip(*stretches[key], strict=True)
    branches = [{stop for stop, _ in stops} for other, stops in stretches.items() if other[:2] == key[:2]]
    reference = next(position for position, stop in enumerate(stop_ids) if all(stop in branch for branch in branches))
    start = np.cumsum(runs)
    return Pattern(*key, stop_ids, np.array(runs), start - start[reference])


def _table(name: str) -> list[dict[str, str]]:
    text = resources.files(__package__).joinpath(name).read_text(encoding="utf-8")
    return list(csv.DictReader(text.splitlines()))
