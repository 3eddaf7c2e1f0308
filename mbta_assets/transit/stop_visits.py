"""Stop visits and vehicle states of a service day, extracted from the reports that count and the stop times.

Events are arrays sorted by group and time for as-of lookups: an event is known from the time at which it was reported.
Times are epoch microseconds in int64, and `NAT` where nothing was observed. Reports are matched with stop times in
`reports`, and features of the events are in `features` and `run_times`.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from mbta_assets.transit.ids import IdCodes, combine_codes
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.reports import Reports, match_reports
from mbta_assets.transit.stop_times import StopTimes

MICROSECONDS = 1_000_000
"""Microseconds of a second."""


def to_seconds(times: np.ndarray) -> np.ndarray:
    """Convert epoch microseconds (n,) int64 to epoch seconds (n,) float64; `NAT` to NaN."""
    return np.where(times == NAT, np.nan, times / MICROSECONDS)


@dataclass(frozen=True)
class StopEvents:
    """Stop visits and vehicle states of a service day.

    A vehicle's trip is a trip as one vehicle serves it: two vehicles on one trip share no visits. Its number is in the
    order of trips and vehicles; `vehicle_trips` has the trip and vehicle of each as one code. A vehicle without a trip
    makes one for itself at each stop.

    `states` has a row for each time a vehicle on its trip began to stand at a visit or to go to it: `vehicle_trip`,
    `visit`, `moving`, `since`, and whether the beginning was `observed`.

    `visits` has a row for each visit of a vehicle's trip: its code `visit` (see `encode_visits`), `stop`, the index
    of its `stop_time` (-1 at a stop that the schedule of the trip does not have), `moved` (first update on the way
    there), `arrived` (first STOPPED_AT), `departed` (first update of the vehicle at, or on the way to, another visit),
    `delay` of the arrival, `run` and `change` of delay since the previous arrival of that vehicle's trip, and `line`
    (route and direction). These are integer microseconds, so that their sums are exact. Vehicles without a trip and
    trips without a schedule have visits too, for they determine headways.
    """

    codes: IdCodes
    stop_times: StopTimes
    vehicle_trips: np.ndarray
    states: pd.DataFrame
    visits: pd.DataFrame

    def find_vehicle_trips(self, trips: np.ndarray, vehicles: np.ndarray) -> np.ndarray:
        """Return the numbers (n,) of the vehicles' trips, given by codes; -1 of those that no update is of."""
        keys = combine_codes(trips, vehicles, len(self.codes.vehicles))
        number = np.searchsorted(self.vehicle_trips, keys)
        return np.where((keys >= 0) & (np.append(self.vehicle_trips, -1)[number] == keys), number, -1)

    def encode_visits(self, vehicle_trips: np.ndarray, stop_times: np.ndarray) -> np.ndarray:
        """Return the codes (n,) of the visits of vehicles' trips at stop times, given by their index."""
        return _encode_visits(self.stop_times, vehicle_trips, stop_times, np.array(-1))


def extract_stop_events(
    vehicle: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame, service_date: date
) -> StopEvents:
    """Extract the stop events of a service day from its upstream tables, their rows in any order and repeated."""
    reports = match_reports(vehicle, schedule, stop, service_date)
    line = reports.codes.encode_lines(vehicle["route_id"], vehicle["direction_id"])
    updates = _sort_updates(reports, line)
    return StopEvents(
        codes=reports.codes,
        stop_times=reports.stop_times,
        vehicle_trips=updates.vehicle_trips,
        states=_extract_states(updates),
        visits=_add_delays(_extract_visits(updates), reports.stop_times),
    )


@dataclass(frozen=True)
class _Updates:
    """Updates that count, arrays (n,) in order of the vehicles' trips and of time; some may be repeated.

    `vehicle_trips` (t,) has the trip and vehicle of each number in `vehicle_trip`, as one code.
    """

    vehicle_trips: np.ndarray
    vehicle_trip: np.ndarray
    vehicle: np.ndarray
    visit: np.ndarray
    stop_time: np.ndarray
    stop: np.ndarray
    time: np.ndarray
    moving: np.ndarray
    line: np.ndarray


def _sort_updates(reports: Reports, line: np.ndarray) -> _Updates:
    """Return the updates that count, sorted by vehicle's trip, time, state and stop.

    Consecutive updates of a vehicle without a trip that name one stop get a trip of their own.
    """
    index = np.flatnonzero(reports.counts)
    trip, vehicle, stop, time, moving, stop_time, line = (
        values[index]
        for values in (
            reports.trip, reports.vehicle, reports.stop, reports.time, reports.moving, reports.stop_time, line,
        )
    )  # fmt: skip
    without_trip = np.flatnonzero(trip < 0)
    order = without_trip[np.lexsort([key[without_trip] for key in (stop, moving, time, vehicle)])]
    trip[order] = len(reports.codes.trips) + np.cumsum(_differs(vehicle[order]) | _differs(stop[order]))
    keys = trip * len(reports.codes.vehicles) + vehicle
    order = np.lexsort((stop_time, stop, moving, time, keys))
    vehicle, stop, time, moving, stop_time, line, keys = (
        values[order] for values in (vehicle, stop, time, moving, stop_time, line, keys)
    )
    begins = _differs(keys)
    vehicle_trip = np.cumsum(begins) - 1
    visit = _encode_visits(reports.stop_times, vehicle_trip, stop_time, stop)
    return _Updates(keys[begins], vehicle_trip, vehicle, visit, stop_time, stop, time, moving, line)


def _encode_visits(
    stop_times: StopTimes, vehicle_trip: np.ndarray, stop_time: np.ndarray, stop: np.ndarray
) -> np.ndarray:
    """Return one code (n,) for each vehicle's trip and stop time; those without a stop time are told apart by stop."""
    n_scheduled = len(stop_times.trip)
    place = np.where(stop_time >= 0, stop_time, n_scheduled + stop)
    return vehicle_trip * (n_scheduled + len(stop_times.codes.stops)) + place


def _differs(values: np.ndarray) -> np.ndarray:
    """Return which of the values (n,) differ from the one before; the first one does."""
    differs = np.ones(len(values), dtype=bool)
    differs[1:] = values[1:] != values[:-1]
    return differs


def _extract_states(updates: _Updates) -> pd.DataFrame:
    """Return the beginning of each state of each vehicle's trip; its first state began before it was observed."""
    is_first = _differs(updates.vehicle_trip)
    begins = is_first | _differs(updates.visit) | _differs(updates.moving)
    names = {"vehicle_trip": updates.vehicle_trip, "visit": updates.visit, "moving": updates.moving}
    columns = names | {"since": updates.time, "observed": ~is_first}
    return pd.DataFrame({name: values[begins] for name, values in columns.items()})


def _extract_visits(updates: _Updates) -> pd.DataFrame:
    """Return the visits of each vehicle's trip with the times of `StopEvents.visits`, delays excluded."""
    order = np.argsort(updates.visit, kind="stable")
    first = np.flatnonzero(_differs(updates.visit[order]))
    begin = order[first]
    time, moving, latest = updates.time[order], updates.moving[order], np.iinfo(np.int64).max
    moved, arrived = (
        np.minimum.reduceat(np.where(mask, time, latest), first) if len(first) else first for mask in (moving, ~moving)
    )
    # The run to the stop at which a vehicle's trip is first seen began before it was observed.
    first_time = updates.time[_differs(updates.vehicle_trip)][updates.vehicle_trip[begin]]
    began = updates.time[begin]
    visits = pd.DataFrame(
        {
            "vehicle_trip": updates.vehicle_trip[begin],
            "visit": updates.visit[begin],
            "stop": updates.stop[begin],
            "stop_time": updates.stop_time[begin],
            "line": updates.line[begin],
            "moved": np.where((moved == latest) | (began == first_time), NAT, moved),
            "arrived": np.where(arrived == latest, NAT, arrived),
        }
    )
    vehicle = updates.vehicle[begin]
    order = np.lexsort((begin, began, vehicle))
    departed = np.full(len(visits), NAT)
    departed[order[:-1]] = np.where(_differs(vehicle[order])[1:], NAT, began[order[1:]])
    return visits.assign(departed=departed)


def _add_delays(visits: pd.DataFrame, stop_times: StopTimes) -> pd.DataFrame:
    """Add the `delay` of each arrival, its `change` and the `run` since the previous one of the vehicle's trip."""
    names = ("stop_time", "stop", "arrived", "vehicle_trip")
    stop_time, stop, arrived, vehicle_trip = (visits[name].to_numpy() for name in names)
    delay = _subtract_times(arrived, np.append(stop_times.arrival, NAT)[stop_time])
    arrivals = np.flatnonzero(arrived != NAT)
    arrivals = arrivals[np.lexsort([key[arrivals] for key in (stop_time, stop, arrived, vehicle_trip)])]
    is_first, columns = _differs(vehicle_trip[arrivals]), {"delay": delay}
    for name, values in (("change", delay[arrivals]), ("run", arrived[arrivals])):
        columns[name] = np.full(len(visits), NAT)
        columns[name][arrivals] = _subtract_times(values, np.where(is_first, NAT, np.roll(values, 1)))
    return visits.assign(**columns)


def _subtract_times(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Subtract microseconds (n,) int64; `NAT` where either is."""
    return np.where((later == NAT) | (earlier == NAT), NAT, later - earlier)
