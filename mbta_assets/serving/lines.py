"""The lines of a network as riders know them: the order of their stops, and the names of stops and terminals."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

from mbta_assets.agency import AGENCY, select_line_colors

MIN_TERMINAL_SHARE = 0.1
"""Share of a line's trips that must end at a station for the line to be named after it."""
LINE_COLORS = select_line_colors(AGENCY)
DEFAULT_LINE_COLOR = "#4a4a4a"
Names = Mapping[str, str]
"""Names by stop."""
Visited = TypeVar("Visited", bound=Hashable)


def merge_stop_patterns(patterns: Iterable[Sequence[Visited]]) -> list[Visited]:
    """Merge the stops of trips, in the order of travel, into one order that suits all of them, if there is one.

    A pattern has no stop twice: visits of one stop must be told apart. The first pattern keeps its order. A stop that
    another pattern adds is inserted behind the stop that precedes it there, or, if it begins that pattern, before the
    first known stop that follows it.
    """
    order: list[Visited] = []
    for pattern in patterns:
        for index, stop in enumerate(pattern):
            if stop in order:
                continue
            previous = next((order.index(other) for other in reversed(pattern[:index]) if other in order), None)
            following = next((order.index(other) for other in pattern[index + 1 :] if other in order), len(order))
            order.insert(following if previous is None else previous + 1, stop)
    return order


def name_stops(stops: Sequence[str], station_names: Names, platform_names: Names) -> dict[str, str]:
    """Return the name of each stop of a line: its station, with the platform where the station has several."""
    stations = {stop: station_names.get(stop, stop) for stop in stops}
    stops_of_station = Counter(stations.values())
    return {
        stop: platform_names.get(stop, stop) if stops_of_station[station] > 1 else station
        for stop, station in stations.items()
    }


def name_terminals(trips_by_last_stop: Mapping[str, int], station_names: Names) -> str:
    """Name the stations where at least `MIN_TERMINAL_SHARE` of a line's trips end, the most frequent first.

    Given are the numbers of trips by their last stop, the most frequent pattern first.
    """
    terminals: Counter[str] = Counter()
    for stop, trips in trips_by_last_stop.items():
        terminals[station_names.get(stop, stop)] += trips
    min_trips = MIN_TERMINAL_SHARE * terminals.total()
    return " and ".join(name for name, trips in terminals.most_common() if trips >= min_trips)


def line_color(route_id: str) -> str:
    """Return the CSS color of a route's line."""
    return LINE_COLORS.get(route_id.partition("-")[0], DEFAULT_LINE_COLOR)
