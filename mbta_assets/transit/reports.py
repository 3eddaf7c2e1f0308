"""Reports of vehicles and stop times of a service day in integer codes: which of them count, and at which stop.

The features and the account of rows read the upstream tables through this module; `raw_transit_data.sql` has the same
rules in SQL. Times are epoch microseconds in int64, `NAT` where missing.
"""

from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import pandas as pd
import pyarrow as arrow
import pyarrow.compute as compute

from mbta_assets.transit import plausibility, service_day
from mbta_assets.transit.formulas import UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.plausibility import BLANKS, NAT


@dataclass(frozen=True)
class IdCodes:
    """Integer codes of a service day's trips, stops and routes, in the order of their ids; -1 is missing or unknown."""

    trips: pd.Index
    stops: pd.Index
    routes: pd.Index

    def encode_trips(self, trip_ids: pd.Series) -> np.ndarray:
        """Return the codes (n,) of trip ids."""
        return _encode(self.trips, trip_ids)

    def encode_stops(self, stop_ids: pd.Series) -> np.ndarray:
        """Return the codes (n,) of stop ids."""
        return _encode(self.stops, stop_ids)

    def encode_lines(self, route_ids: pd.Series, direction_ids: pd.Series) -> np.ndarray:
        """Return one code (n,) for each route and direction, either of which may be missing."""
        positions, distinct = pd.factorize(route_ids.fillna(""))
        routes = self.routes.get_indexer(pd.Index(distinct, dtype=object))[positions]
        return routes.astype(np.int64) * 3 + direction_ids.fillna(2).to_numpy(dtype=np.int64)

    def encode_visits(self, trips: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return one code (n,) for each trip and stop; -1 where either is -1."""
        return np.where((trips < 0) | (stops < 0), -1, trips * len(self.stops) + stops)

    def encode_stretches(self, stops: np.ndarray, destinations: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """Return one code (n,) for each current stop, destination and state; -1 where a stop is -1."""
        has_both = (stops >= 0) & (destinations >= 0)
        return np.where(has_both, (stops * len(self.stops) + destinations) * 2 + moving, -1)

    def decode_stretches(self, stretches: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return current stops, destinations and states (n,) of codes of `encode_stretches`."""
        n_stops = max(len(self.stops), 1)
        return stretches // 2 // n_stops, stretches // 2 % n_stops, stretches % 2 == 1


@dataclass(frozen=True)
class StopTimes:
    """Stop times of the scheduled trips, arrays (m,) in the order of the trips' codes and along each trip.

    - `row`: the row of `schedule`; `plausible_row`: the rows, of scheduled trips, that have a time of that day.
    - `trip`, `stop`: codes; a trip has each stop once.
    - `arrival`, `departure`: scheduled times. A trip has no arrival at its first stop.
    - `station`: code of the stop's parent station, -1 without one.
    - `station_of_stop`: the same (stops,) for every stop of the codes.
    """

    codes: IdCodes
    row: np.ndarray
    plausible_row: np.ndarray
    trip: np.ndarray
    stop: np.ndarray
    arrival: np.ndarray
    departure: np.ndarray
    station_of_stop: np.ndarray

    @cached_property
    def is_first(self) -> np.ndarray:
        """Return which stop times (m,) are the first of their trip."""
        return np.append(np.ones(min(len(self.trip), 1), dtype=bool), self.trip[1:] != self.trip[:-1])

    @cached_property
    def _visits(self) -> pd.Index:
        return pd.Index(self.codes.encode_visits(self.trip, self.stop))

    @cached_property
    def previous_departure(self) -> np.ndarray:
        """Return the scheduled departure (m,) from the stop before, or the arrival there; `NAT` at the first stop."""
        left = np.where(self.departure == NAT, self.arrival, self.departure)
        return np.where(self.is_first, NAT, np.roll(left, 1))

    def trip_times(self, trips: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the first and the last scheduled time (n,) of trips; `NAT` for a trip without a schedule."""
        times = np.full((2, len(self.codes.trips) + 1), NAT)  # the code -1 of a missing trip is the last position
        first = np.flatnonzero(self.is_first)
        if len(first):
            times[0, self.trip[first]] = self.departure[first]
            due = np.where(self.arrival == NAT, self.departure, self.arrival)
            times[1, self.trip[first]] = np.maximum.reduceat(due, first)
        return times[0, trips], times[1, trips]

    def find(self, trips: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return the index (n,) of each trip's stop time at a stop; -1 where it has none."""
        return self._visits.get_indexer(pd.Index(self.codes.encode_visits(trips, stops)))

    def find_in_station(self, trips: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return the index (n,) of each trip's first stop time in the station of a stop; -1 where it has none."""
        n_stations = self.station_of_stop.max(initial=-1) + 1
        keys = _pair(self.trip, self.station_of_stop[self.stop], n_stations)
        first = np.flatnonzero((keys >= 0) & ~pd.Series(keys).duplicated().to_numpy())
        queries = pd.Index(_pair(trips, self.station_of_stop[stops], n_stations))
        return np.append(first, -1)[pd.Index(keys[first]).get_indexer(queries)]


@dataclass(frozen=True)
class Reports:
    """Reports of a service day in the codes of its ids, arrays (n,) in the order of `vehicle`.

    - `trip`: code of the trip; -1 without one.
    - `stop`: code of the stop at which the report counts; `named_stop`: of the stop that it names; -1 without one.
    - `time`: time of the report.
    - `stop_time`: index of the trip's stop time there; -1 without one.
    - `moving`: whether the vehicle is on its way to the stop.
    - `is_plausible`: whether the time belongs to the trip or the service day.
    - `is_early`, `is_late`: whether the trip cannot have been at that stop yet, or have arrived there so late.
    """

    codes: IdCodes
    stop_times: StopTimes
    trip: np.ndarray
    stop: np.ndarray
    named_stop: np.ndarray
    time: np.ndarray
    stop_time: np.ndarray
    moving: np.ndarray
    is_plausible: np.ndarray
    is_early: np.ndarray
    is_late: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Return which reports (n,) determine stop visits: plausible ones that name a stop."""
        return self.is_plausible & ~self.is_early & ~self.is_late & (self.stop >= 0)


def match_reports(vehicle: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame, service_date: date) -> Reports:
    """Match the reports of a service day with the stop times of their trips.

    A report at a stop that its trip does not serve counts for the first stop of the trip in the same station.
    """
    codes = IdCodes(
        trips=_index_ids(vehicle["trip_id"], schedule["trip_id"]),
        stops=_index_ids(vehicle["stop_id"], schedule["stop_id"]),
        routes=pd.Index(vehicle["route_id"].fillna("").drop_duplicates().sort_values().to_numpy(dtype=object)),
    )
    start = start_microseconds(service_date)
    stop_times = order_stop_times(schedule, stop, codes, start)
    trips, stops = codes.encode_trips(vehicle["trip_id"]), codes.encode_stops(vehicle["stop_id"])
    time = to_microseconds(vehicle["updated_at"])
    stop_time = stop_times.find(trips, stops)
    elsewhere = np.flatnonzero((stop_time < 0) & (trips >= 0) & (stops >= 0))
    stop_time[elsewhere] = stop_times.find_in_station(trips[elsewhere], stops[elsewhere])
    moving = (vehicle["current_status"] != "STOPPED_AT").to_numpy(dtype=bool)
    arrival, previous_departure = (
        np.append(times, NAT)[stop_time] for times in (stop_times.arrival, stop_times.previous_departure)
    )
    return Reports(
        codes=codes,
        stop_times=stop_times,
        trip=trips,
        stop=np.where(stop_time >= 0, np.append(stop_times.stop, -1)[stop_time], stops),
        named_stop=stops,
        time=time,
        stop_time=stop_time,
        moving=moving,
        is_plausible=plausibility.find_plausible_report_times(time, start, *stop_times.trip_times(trips)),
        is_early=plausibility.find_early_reports(time, moving, arrival, previous_departure),
        is_late=plausibility.find_late_arrivals(time, moving, arrival),
    )


def order_stop_times(schedule: pd.DataFrame, stop: pd.DataFrame, codes: IdCodes, start: int) -> StopTimes:
    """Return the stop times of the scheduled trips in the order of travel, those at the day's plausible times only.

    `start` is the start time of the service day. Of several stop times of a trip at a stop the earliest counts.
    """
    trips, stops = codes.encode_trips(schedule["trip_id"]), codes.encode_stops(schedule["stop_id"])
    arrival, departure = (_keep_plausible(schedule[name], start) for name in ("arrival_time", "departure_time"))
    time = np.where(arrival == NAT, departure, arrival)
    sequence = schedule["stop_sequence"].to_numpy(dtype=np.int64, na_value=NAT)
    plausible_row = row = np.flatnonzero((trips >= 0) & (stops >= 0) & (time != NAT) & ~find_unscheduled(codes, trips))
    row = row[np.lexsort([values[row] for values in (departure, arrival, sequence, time, stops, trips)])]
    row = row[~pd.Series(codes.encode_visits(trips[row], stops[row])).duplicated().to_numpy()]
    # The number in the sequence only breaks ties, since a trip's last stop may have a 1.
    order = (stops, sequence, departure == NAT, arrival != NAT, time, trips)
    row = row[np.lexsort([values[row] for values in order])]
    ordered = StopTimes(
        codes, row, plausible_row, trips[row], stops[row], arrival[row], departure[row], _find_stations(stop, codes)
    )
    first, departs = ordered.is_first, ordered.departure != NAT
    ordered.departure[first & ~departs] = ordered.arrival[first & ~departs]
    ordered.arrival[first] = NAT
    return ordered


def find_unscheduled(codes: IdCodes, trips: np.ndarray) -> np.ndarray:
    """Return which trips (n,), given by their codes, are added or non-revenue trips by their ids."""
    return np.array([trip.startswith(UNSCHEDULED_TRIP_PREFIXES) for trip in codes.trips] + [False])[trips]


def clean_ids(ids: pd.Series) -> pd.Series:
    """Return ids without blanks around them; blank ones are missing."""
    trimmed = compute.utf8_trim(arrow.array(ids, arrow.string(), from_pandas=True), characters=BLANKS)
    cleaned = compute.if_else(compute.equal(trimmed, ""), None, trimmed)
    return pd.Series(cleaned.to_pylist(), index=ids.index, dtype=object)


def start_microseconds(service_date: date) -> int:
    """Return the start time of a service day in epoch microseconds."""
    return round(service_day.start_time(service_date).timestamp()) * 1_000_000


def to_microseconds(times: pd.Series) -> np.ndarray:
    """Convert UTC timestamps to epoch microseconds (n,) int64; missing ones to `NAT`."""
    return times.to_numpy(dtype="datetime64[us]").view(np.int64)


def _index_ids(*ids: pd.Series) -> pd.Index:
    distinct = pd.concat([pd.Series(part.unique()) for part in ids], ignore_index=True)
    return pd.Index(np.sort(clean_ids(distinct).dropna().unique()))


def _encode(index: pd.Index, ids: pd.Series) -> np.ndarray:
    positions, distinct = pd.factorize(ids)
    codes_of_distinct = index.get_indexer(pd.Index(clean_ids(pd.Series(distinct))))
    return np.append(codes_of_distinct, -1)[positions].astype(np.int64)  # position -1, a missing id, has code -1


def _keep_plausible(times: pd.Series, start: int) -> np.ndarray:
    """Return scheduled times (n,) in microseconds, `NAT` where they are not of the service day."""
    microseconds = to_microseconds(times)
    return np.where(plausibility.find_plausible_scheduled_times(microseconds, start), microseconds, NAT)


def _find_stations(stop: pd.DataFrame, codes: IdCodes) -> np.ndarray:
    """Return the code (stops,) of the parent station of each stop of the codes; -1 without one."""
    order = ["id", "name", "platform_name", "latitude", "longitude", "parent_station"]
    named = stop.assign(id=clean_ids(stop["id"]), parent_station=clean_ids(stop["parent_station"]))
    named = named.dropna(subset="id").sort_values(order, na_position="first").drop_duplicates("id")
    stations = pd.factorize(named["parent_station"])[0]
    return np.append(stations, -1)[pd.Index(named["id"]).get_indexer(codes.stops)]


def _pair(trips: np.ndarray, stations: np.ndarray, n_stations: int) -> np.ndarray:
    """Return one code (n,) for each trip and station; -1 where either is -1."""
    return np.where((trips < 0) | (stations < 0), -1, trips * n_stations + stations)
