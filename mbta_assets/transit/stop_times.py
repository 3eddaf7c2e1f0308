"""Stop times of a service day's trips: which of them count, in which order, and at which times.

The rules are those of `raw_transit_data.sql`. A trip may serve a stop several times; each stop time is a stop visit.
Times are epoch microseconds in int64, `NAT` where missing. Reports are matched with stop times in `reports`.
"""

from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pandas as pd

from mbta_assets.transit import plausibility, service_day
from mbta_assets.transit.ids import IdCodes, clean_ids, combine_codes
from mbta_assets.transit.interpolation import interpolate_times
from mbta_assets.transit.plausibility import MICROSECONDS_PER_SECOND, NAT


@dataclass(frozen=True)
class GroupedVisits:
    """Stop visits of a trip at each of its stops, or in each of its stations.

    - `keys`: the distinct codes of trip and stop, or trip and station.
    - `begin`, `count`: for each key its range in `visit`.
    - `visit`: indices of stop times, those of a key beside one another in order of travel.
    """

    keys: pd.Index
    begin: np.ndarray
    count: np.ndarray
    visit: np.ndarray

    @classmethod
    def from_keys(cls, keys: np.ndarray) -> "GroupedVisits":
        """Group the stop times (m,) by a key; those with key -1 belong to no group."""
        visit = np.argsort(keys, kind="stable")
        visit = visit[np.searchsorted(keys[visit], 0) :]
        ordered = keys[visit]
        begin = np.flatnonzero(np.append(np.ones(min(len(ordered), 1), dtype=bool), ordered[1:] != ordered[:-1]))
        return cls(pd.Index(ordered[begin]), begin, np.diff(begin, append=len(ordered)), visit)

    def find(self, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the begin and the number (n,) of the visits of each key; 0 where there are none."""
        group = self.keys.get_indexer(pd.Index(keys))
        return np.append(self.begin, 0)[group], np.append(self.count, 0)[group]


@dataclass(frozen=True)
class StopTimes:
    """Stop times of the scheduled trips, arrays (m,) in the order of the trips' codes and along each trip.

    - `row`: the row of `schedule`; `repeated_row`: the rows that repeat another one.
    - `trip`, `stop`: codes.
    - `position`: number of the stop along the trip, from 1.
    - `arrival`, `departure`: scheduled times. A trip has no arrival at its first stop.
    - `sequence`: stop sequence as in the feed if `has_sequences`, else the position.
    - `has_sequences`: whether the feed's stop sequences identify the visits of the trip.
    - `is_interpolated`: whether the times are interpolated.
    - `order_unknown`: whether the schedule does not tell in which order the trip serves this stop and others.
    - `station_of_stop`: code of the parent station (stops,) of every stop of the codes, -1 without one.
    """

    codes: IdCodes
    row: np.ndarray
    repeated_row: np.ndarray
    trip: np.ndarray
    stop: np.ndarray
    position: np.ndarray
    arrival: np.ndarray
    departure: np.ndarray
    sequence: np.ndarray
    has_sequences: np.ndarray
    is_interpolated: np.ndarray
    order_unknown: np.ndarray
    station_of_stop: np.ndarray

    @cached_property
    def previous_departure(self) -> np.ndarray:
        """Return the scheduled departure (m,) from the stop before, or the arrival there; `NAT` at the first stop."""
        left = np.where(self.departure == NAT, self.arrival, self.departure)
        return np.where(self.position == 1, NAT, np.roll(left, 1))

    @cached_property
    def by_stop(self) -> GroupedVisits:
        """Return the visits of each trip at each stop."""
        return GroupedVisits.from_keys(combine_codes(self.trip, self.stop, len(self.codes.stops)))

    @cached_property
    def by_station(self) -> GroupedVisits:
        """Return the visits of each trip in each station."""
        return GroupedVisits.from_keys(self.encode_stations(self.trip, self.stop))

    @cached_property
    def position_at_stop_before(self) -> np.ndarray:
        """Return the position (m,) at which the trip served the same stop before; -1 where it had not."""
        positions = np.full(len(self.trip), -1)
        visit, begin = self.by_stop.visit, self.by_stop.begin
        positions[visit[1:]] = self.position[visit[:-1]]
        positions[visit[begin]] = -1
        return positions

    @cached_property
    def _by_sequence(self) -> tuple[pd.Index, pd.Index]:
        numbers = pd.Index(np.unique(self.sequence))
        return numbers, pd.Index(combine_codes(self.trip, numbers.get_indexer(pd.Index(self.sequence)), len(numbers)))

    def encode_stations(self, trips: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return one code (n,) for each trip and the station of a stop; -1 where either is -1."""
        stations = np.append(self.station_of_stop, -1)
        return combine_codes(trips, stations[stops], stations.max() + 1)

    def find_by_sequence(self, trips: np.ndarray, sequences: np.ndarray) -> np.ndarray:
        """Return the index (n,) of the visit of each trip with a stop sequence; -1 where it has none."""
        numbers, visits = self._by_sequence
        return visits.get_indexer(
            pd.Index(combine_codes(trips, numbers.get_indexer(pd.Index(sequences)), len(numbers)))
        )

    def trip_times(self, trips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and the last scheduled time (n,) of trips; `NAT` for a trip without a schedule."""
        times = np.full((2, len(self.codes.trips) + 1), NAT)  # the code -1 of a missing trip is the last position
        first = np.flatnonzero(self.position == 1)
        if len(first):
            times[0, self.trip[first]] = self.departure[first]
            due = np.where(self.arrival == NAT, self.departure, self.arrival)
            times[1, self.trip[first]] = np.maximum.reduceat(due, first)
        return times[0, trips], times[1, trips]


@dataclass
class _Rows:
    """Rows of `schedule`, arrays (n,), with scheduled times of the service day only."""

    trip: np.ndarray
    stop: np.ndarray
    arrival: np.ndarray
    departure: np.ndarray
    sequence: np.ndarray

    @property
    def due(self) -> np.ndarray:
        """Return the arrival (n,), or the departure where there is none."""
        return np.where(self.arrival == NAT, self.departure, self.arrival)


def order_stop_times(schedule: pd.DataFrame, stop: pd.DataFrame, codes: IdCodes, start: int) -> StopTimes:
    """Return the stop times of the scheduled trips in the order of travel; `start` is that of the service day.

    Rows that repeat another one are left out, and so are rows that have no time of the service day and get none by
    interpolation.
    """
    rows = _Rows(
        trip=codes.encode_trips(schedule["trip_id"]),
        stop=codes.encode_stops(schedule["stop_id"]),
        arrival=_keep_plausible(schedule["arrival_time"], start),
        departure=_keep_plausible(schedule["departure_time"], start),
        sequence=to_integers(schedule["stop_sequence"]),
    )
    usable = np.flatnonzero((rows.trip >= 0) & (rows.stop >= 0) & ~codes.find_unscheduled(rows.trip))
    repeated = _find_repeated(rows, usable)
    distinct = usable[~repeated]
    trusted = _find_trips_with_sequences(rows, distinct, len(codes.trips))
    stations, *position = _locate_stops(stop, codes)
    interpolated = _interpolate(rows, distinct[trusted[rows.trip[distinct]]], *position)
    row = distinct[rows.due[distinct] != NAT]
    # The number in the sequence only breaks ties, since a trip's last stop may have a 1.
    order = (rows.stop, rows.sequence, rows.departure == NAT, rows.arrival != NAT, rows.due, rows.trip)
    row = row[np.lexsort([values[row] for values in order])]
    stays = _is_same(row, rows.trip, rows.stop) & (rows.sequence[row] == NAT)
    repeated_row = np.concatenate([usable[repeated], row[stays]])
    return _number_stop_times(codes, rows, row[~stays], repeated_row, trusted, interpolated, stations)


def start_microseconds(service_date: date) -> int:
    """Return the start time of a service day in epoch microseconds."""
    return round(service_day.start_time(service_date).timestamp()) * MICROSECONDS_PER_SECOND


def to_microseconds(times: pd.Series) -> np.ndarray:
    """Convert UTC timestamps to epoch microseconds (n,) int64; missing ones to `NAT`."""
    return times.to_numpy(dtype="datetime64[us]").view(np.int64)


def to_integers(values: pd.Series) -> np.ndarray:
    """Convert nullable integers to int64 (n,); missing ones to `NAT`."""
    return values.to_numpy(dtype=np.int64, na_value=NAT)


def _keep_plausible(times: pd.Series, start: int) -> np.ndarray:
    """Return scheduled times (n,) in microseconds, `NAT` where they are not of the service day."""
    microseconds = to_microseconds(times)
    return np.where(plausibility.find_plausible_scheduled_times(microseconds, start), microseconds, NAT)


def _is_same(row: np.ndarray, *columns: np.ndarray) -> np.ndarray:
    """Return which of the rows (n,) have the same values in some columns as the row before."""
    same = np.zeros(len(row), dtype=bool)
    same[1:] = np.logical_and.reduce([column[row[1:]] == column[row[:-1]] for column in columns])
    return same


def _find_repeated(rows: _Rows, usable: np.ndarray) -> np.ndarray:
    """Return which of the usable rows (n,) repeat another one of their trip.

    Those of one stop and sequence are repeats, or of one stop and time where the sequence is missing. The earliest
    counts.
    """
    n_stops = int(rows.stop.max(initial=0)) + 1
    repeated = np.zeros(len(usable), dtype=bool)
    visits = pd.Series(combine_codes(rows.trip[usable], rows.stop[usable], n_stops))
    index = np.flatnonzero(visits.duplicated(keep=False))
    due = np.where(rows.due == NAT, np.iinfo(np.int64).max, rows.due)
    keys = (rows.departure, rows.arrival, due, rows.sequence, rows.stop, rows.trip)
    index = index[np.lexsort([key[usable[index]] for key in keys])]
    row = usable[index]
    has_sequence = rows.sequence[row] != NAT
    same_time = _is_same(row, due) & (rows.due[row] != NAT)
    repeated[index] = _is_same(row, rows.trip, rows.stop, rows.sequence) & (has_sequence | same_time)
    return repeated


def _find_trips_with_sequences(rows: _Rows, distinct: np.ndarray, n_trips: int) -> np.ndarray:
    """Return of which trips (trips,) every row has a stop sequence and no two have the same."""
    trip, sequence = rows.trip[distinct], rows.sequence[distinct]
    numbers, values = pd.factorize(sequence)
    visits = pd.Series(combine_codes(trip, numbers.astype(np.int64), len(values)))
    trusted = np.ones(n_trips, dtype=bool)
    trusted[trip[(sequence == NAT) | visits.duplicated().to_numpy()]] = False
    return trusted


def _interpolate(rows: _Rows, index: np.ndarray, latitude: np.ndarray, longitude: np.ndarray) -> np.ndarray:
    """Set the times of those of some rows that have none, where they can be interpolated, and return which (n,)."""
    blank_trips = np.zeros(rows.trip.max(initial=0) + 1, dtype=bool)
    blank_trips[rows.trip[index[rows.due[index] == NAT]]] = True
    index = index[blank_trips[rows.trip[index]]]
    stop = rows.stop[index]
    trip, sequence, arrival, departure = (
        column[index] for column in (rows.trip, rows.sequence, rows.arrival, rows.departure)
    )
    times = interpolate_times(trip, sequence, arrival, departure, latitude[stop], longitude[stop])
    index, times = index[times != NAT], times[times != NAT]
    rows.arrival[index] = rows.departure[index] = times
    interpolated = np.zeros(len(rows.trip), dtype=bool)
    interpolated[index] = True
    return interpolated


def _number_stop_times(
    codes: IdCodes,
    rows: _Rows,
    row: np.ndarray,
    repeated_row: np.ndarray,
    trusted: np.ndarray,
    interpolated: np.ndarray,
    stations: np.ndarray,
) -> StopTimes:
    """Return the stop times of ordered rows (m,) with their positions along their trips."""
    trip, arrival, departure = rows.trip[row], rows.arrival[row], rows.departure[row]
    is_first = np.append(np.ones(min(len(row), 1), dtype=bool), trip[1:] != trip[:-1])
    first = np.flatnonzero(is_first)
    position = np.arange(len(row)) - first[np.cumsum(is_first) - 1] + 1
    has_sequences = trusted[trip]
    return StopTimes(
        codes=codes,
        row=row,
        repeated_row=repeated_row,
        trip=trip,
        stop=rows.stop[row],
        position=position,
        arrival=np.where(is_first, NAT, arrival),
        departure=np.where(is_first & (departure == NAT), arrival, departure),
        sequence=np.where(has_sequences, rows.sequence[row], position),
        has_sequences=has_sequences,
        is_interpolated=interpolated[row],
        order_unknown=_find_unknown_order(rows, row),
        station_of_stop=stations,
    )


def _find_unknown_order(rows: _Rows, row: np.ndarray) -> np.ndarray:
    """Return which of the ordered rows (m,) tie with others of their trip, and a stop sequence does not order them."""
    ties = _is_same(row, rows.trip, rows.due, rows.arrival == NAT, rows.departure == NAT)
    sequence = rows.sequence[row]
    unordered = ties & ((np.roll(sequence, 1) == NAT) | (np.roll(sequence, 1) == sequence))
    group = np.cumsum(~ties)
    return (np.bincount(group, weights=unordered, minlength=1) > 0)[group]


def _locate_stops(stop: pd.DataFrame, codes: IdCodes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the code of the parent station, -1 without one, and the position in degrees of each stop of the codes.

    All are (stops,). A position that is not plausible is NaN.
    """
    order = ["id", "name", "platform_name", "latitude", "longitude", "parent_station"]
    named = stop.assign(id=clean_ids(stop["id"]), parent_station=clean_ids(stop["parent_station"]))
    named = named.dropna(subset="id").sort_values(order, na_position="first").drop_duplicates("id")
    stations = pd.factorize(named["parent_station"])[0]
    latitude, longitude = (
        named[name].to_numpy(dtype=np.float64, na_value=np.nan) for name in ("latitude", "longitude")
    )
    plausible = plausibility.find_plausible_positions(latitude, longitude)
    index = pd.Index(named["id"]).get_indexer(codes.stops)
    latitude, longitude = (
        np.append(np.where(plausible, part, np.nan), np.nan)[index] for part in (latitude, longitude)
    )
    return np.append(stations, -1)[index], latitude, longitude
