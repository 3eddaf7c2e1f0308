"""The scheduled trips of a service day: from rows of `schedule` to the stop visits of each trip, in order of travel.

The rules are those of `transit.reports`: rows that repeat another are left out, times between timepoints are
interpolated, a trip does not arrive at its first stop, and stop times whose order the schedule does not say are known
as such. Stops, stations and trips by name belong to `timetable`.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from math import asin, cos, floor, radians, sin, sqrt
from typing import Any, NamedTuple

from mbta_assets.transit.formulas import EARTH_RADIUS_MILES
from mbta_assets.transit.placement import Candidate

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND, SECOND = timedelta(microseconds=1), timedelta(seconds=1)
METRES_PER_MILE = 1609.344

Position = tuple[float, float]
"""Latitude and longitude in degrees."""
FindPosition = Callable[[str], Position | None]
"""Returns the position of a stop, None if it has no plausible one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StopTime:
    """A row of `schedule`: the scheduled arrival and departure of a trip at one of its stops."""

    trip_id: str
    """Trip."""
    stop_id: str
    """Stop."""
    arrival_time: datetime | None = None
    """Scheduled arrival, with a time zone; None at the first stop."""
    departure_time: datetime | None = None
    """Scheduled departure, with a time zone; None at the last stop."""
    stop_sequence: int | None = None
    """Stop sequence in the trip, as in the feed."""
    timepoint: int | None = None
    """1 if a vehicle that is early waits there for its departure, 0 if its times are approximate."""

    @property
    def due(self) -> datetime | None:
        """Return the scheduled arrival, or the departure where there is none."""
        return self.arrival_time or self.departure_time

    @property
    def leaves(self) -> datetime | None:
        """Return the scheduled departure, or the arrival where there is none."""
        return self.departure_time or self.arrival_time


class StopPattern(NamedTuple):
    """The stops of a trip in order of travel, which many trips share. Indices count stop visits from 0, ascending."""

    at_stop: Mapping[str, tuple[int, ...]]
    """Indices of the visits of each stop."""
    in_station: Mapping[str, tuple[int, ...]]
    """Indices of the visits in each parent station."""
    is_repeated: bool
    """Whether a stop or a station is visited more than once."""


@dataclass(frozen=True, slots=True)
class ScheduledTrip:
    """The stop visits of a trip in order of travel."""

    trip_id: str
    stop_times: Sequence[StopTime]
    """One for each visit; the first has no arrival."""
    pattern: StopPattern
    is_sequence_trusted: bool
    """Whether the stop sequences of the schedule identify the visits."""
    unordered: frozenset[int]
    """Indices of the visits whose order the schedule does not say."""
    last_time: datetime
    """The latest scheduled time."""
    _candidates: dict[bool, list[Candidate]] = field(default_factory=dict)

    @property
    def first_time(self) -> datetime:
        """Return the scheduled departure from the first stop."""
        return _known(self.stop_times[0].departure_time)

    @property
    def repeated_stops(self) -> frozenset[str]:
        """Return the stops that are visited more than once."""
        if not self.pattern.is_repeated:
            return frozenset()
        return frozenset(stop_id for stop_id, visits in self.pattern.at_stop.items() if len(visits) > 1)

    def previous_departure(self, index: int) -> datetime | None:
        """Return the scheduled departure from the stop before a visit, or None at the first stop."""
        return self.stop_times[index - 1].leaves if index else None

    def stop_sequence(self, index: int) -> int:
        """Return the stop sequence of a visit as in the schedule, or its position where that has none to trust."""
        sequence = self.stop_times[index].stop_sequence if self.is_sequence_trusted else None
        return index + 1 if sequence is None else sequence

    def find_sequence(self, stop_sequence: int | None) -> tuple[int, ...]:
        """Return the index of the visit with a stop sequence; nothing if there is none to trust."""
        if stop_sequence is None or not self.is_sequence_trusted:
            return ()
        return tuple(index for index, row in enumerate(self.stop_times) if row.stop_sequence == stop_sequence)

    def is_served_before(self, index: int, begin: int) -> bool:
        """Return whether the stop of a visit is also served by one from `begin` on that comes before it."""
        if not self.pattern.is_repeated:
            return False
        return any(begin <= other < index for other in self.pattern.at_stop[self.stop_times[index].stop_id])

    def candidates(self, moving: bool) -> list[Candidate]:
        """Return every visit with the time at which a vehicle is expected to be on its way there, or to stand there."""
        if moving not in self._candidates:
            self._candidates[moving] = [
                _make_candidate(index, row, self.previous_departure(index), moving, self.is_sequence_trusted)
                for index, row in enumerate(self.stop_times)
            ]
        return self._candidates[moving]


def order_trip(rows: Sequence[StopTime], find_position: FindPosition) -> tuple[list[StopTime], bool, frozenset[int]]:
    """Return the stop times of a trip in order, whether to trust their sequences, and the indices without an order.

    `rows` are those of one trip with clean ids and plausible times, in any order. None may be left.
    """
    rows = _drop_repeats(rows)
    sequences = {row.stop_sequence for row in rows}
    is_trusted = None not in sequences and len(sequences) == len(rows)
    timed = [row for row in rows if row.due is not None]
    if is_trusted and timed and len(timed) < len(rows):
        timed += _interpolate(rows, timed, find_position)
    timed.sort(key=_travel_order)
    unordered: frozenset[int] = frozenset()
    if not is_trusted:
        timed = [row for index, row in enumerate(timed) if not _is_repeat(row, timed[index - 1] if index else None)]
        unordered = _find_unordered(timed)
    if timed and (timed[0].arrival_time is not None or timed[0].departure_time is None):
        timed[0] = replace(timed[0], arrival_time=None, departure_time=timed[0].leaves)
    return timed, is_trusted, unordered


def make_pattern(stop_ids: Sequence[str], find_station: Callable[[str], str | None]) -> StopPattern:
    """Return the pattern of stops in order of travel."""
    at_stop, in_station = defaultdict[str, list[int]](list), defaultdict[str, list[int]](list)
    for index, stop_id in enumerate(stop_ids):
        at_stop[stop_id].append(index)
        station = find_station(stop_id)
        if station is not None:
            in_station[station].append(index)
    places = (*at_stop.values(), *in_station.values())
    return StopPattern(
        {stop_id: tuple(indices) for stop_id, indices in at_stop.items()},
        {station: tuple(indices) for station, indices in in_station.items()},
        any(len(indices) > 1 for indices in places),
    )


def to_microseconds(time: datetime) -> int:
    """Return a time in epoch microseconds."""
    return (time - EPOCH) // MICROSECOND


def missing_first(*values: Any) -> tuple[Any, ...]:
    """Return a sort key of values in which None sorts before everything else."""
    return tuple((value is not None, 0 if value is None else value) for value in values)


def _make_candidate(index: int, row: StopTime, left: datetime | None, moving: bool, is_trusted: bool) -> Candidate:
    """Return a visit with the time at which its status is expected; `left` is the departure from the stop before."""
    begin = left if moving else row.due
    ends = to_microseconds(_known(row.due if moving else row.leaves))
    begins = None if index == 0 or begin is None else to_microseconds(begin)
    stop_sequence = row.stop_sequence if is_trusted else None
    return Candidate(index, begins, ends if begins is None else max(begins, ends), stop_sequence)


def _drop_repeats(rows: Sequence[StopTime]) -> Sequence[StopTime]:
    """Return the first row of those with one stop and stop sequence, or one stop and time where a sequence is missing.

    Rows with times come before those without; the earliest is the first.
    """
    keys = [
        (row.stop_id, row.stop_sequence, None) if row.stop_sequence is not None else (row.stop_id, None, row.due)
        for row in rows
    ]
    if len(set(keys)) == len(rows):
        return rows
    first: dict[Any, StopTime] = {}
    for key, row in zip(keys, rows, strict=True):
        if key not in first or _choice_order(row) < _choice_order(first[key]):
            first[key] = row
    return list(first.values())


def _interpolate(rows: Sequence[StopTime], timed: Sequence[StopTime], find_position: FindPosition) -> list[StopTime]:
    """Return the rows without a time that lie between two with one, each with the time at which a vehicle passes.

    The rows have stop sequences that are all different.
    """
    in_time = sorted(timed, key=_travel_order)
    following = {row.stop_sequence: after for row, after in zip(in_time, in_time[1:], strict=False)}
    gaps: dict[int | None, list[StopTime]] = {}
    previous: StopTime | None = None
    for row in sorted(rows, key=lambda row: row.stop_sequence or 0):
        if row.due is not None:
            previous = row
            gaps[row.stop_sequence] = [row]
        elif previous is not None:
            gaps[previous.stop_sequence].append(row)
    filled = []
    for sequence, (left, *blank) in gaps.items():
        if blank and sequence in following:
            filled += _fill_gap(left, blank, following[sequence], find_position)
    return filled


def _fill_gap(
    left: StopTime, blank: Sequence[StopTime], right: StopTime, find_position: FindPosition
) -> list[StopTime]:
    """Return rows without a time with one, by their distance along the way where it is known, else evenly."""
    begin = _known(left.leaves)
    duration = max((_known(right.due) - begin) // SECOND, 0)
    distances = _measure_way([find_position(row.stop_id) for row in (left, *blank, right)])
    if distances is None:
        distances = list(range(1, len(blank) + 2))
    whole = distances[-1]
    times = [
        begin + SECOND * ((2 * duration * distance + whole) // (2 * whole))
        for distance in distances[:-1]
    ]  # fmt: skip
    return [replace(row, arrival_time=time, departure_time=time) for row, time in zip(blank, times, strict=True)]


def _measure_way(positions: Sequence[Position | None]) -> list[int] | None:
    """Return the way in whole metres to each position but the first; None if one is missing or it is no way at all."""
    distances, distance = [], 0
    for origin, destination in zip(positions, positions[1:], strict=False):
        if origin is None or destination is None:
            return None
        distance += floor(_measure_metres(origin, destination) + 0.5)
        distances.append(distance)
    return distances if distance > 0 else None


def _measure_metres(origin: Position, destination: Position) -> float:
    """Return the great-circle distance in metres."""
    (latitude, longitude), (other_latitude, other_longitude) = origin, destination
    phi, other_phi = radians(latitude), radians(other_latitude)
    half_chord = (
        sin((other_phi - phi) / 2) ** 2
        + cos(phi) * cos(other_phi) * sin(radians(other_longitude - longitude) / 2) ** 2
    )  # fmt: skip
    return 2 * EARTH_RADIUS_MILES * METRES_PER_MILE * asin(sqrt(min(half_chord, 1)))


def _is_repeat(row: StopTime, before: StopTime | None) -> bool:
    """Return whether a row without a stop sequence is at the stop of the row before."""
    return before is not None and row.stop_sequence is None and row.stop_id == before.stop_id


def _find_unordered(rows: Sequence[StopTime]) -> frozenset[int]:
    """Return the indices of rows that tie in time, of which one has no stop sequence or two have the same."""
    ties: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for index, row in enumerate(rows):
        ties[row.due, row.arrival_time is None, row.departure_time is None].append(index)
    unordered: list[int] = []
    for indices in ties.values():
        if len(indices) > 1:
            counts = Counter(rows[index].stop_sequence for index in indices)
            if None in counts or max(counts.values()) > 1:
                unordered += indices
    return frozenset(unordered)


def _choice_order(row: StopTime) -> tuple[Any, ...]:
    """Return the sort key of a stop time among those that repeat one another."""
    due = row.due
    return due is None, due or EPOCH, *missing_first(row.arrival_time, row.departure_time, row.timepoint)


def _travel_order(row: StopTime) -> tuple[Any, ...]:
    """Return the sort key of a stop time in its trip: its times, and what breaks a tie."""
    arrival, departure, sequence = row.arrival_time, row.departure_time, row.stop_sequence
    return (
        arrival or departure,
        arrival is not None,
        departure is None,
        sequence is not None,
        0 if sequence is None else sequence,
        row.stop_id,
    )


def _known(time: datetime | None) -> datetime:
    """Return a time that is there, as every ordered stop time has one. Raises ValueError if it is not."""
    if time is None:
        raise ValueError("a stop time has neither an arrival nor a departure")
    return time
