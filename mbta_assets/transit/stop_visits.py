"""Stop visits and vehicle states of a service day, extracted from the reports that count and the stop times.

Events are arrays sorted by group and time for as-of lookups: an event is known from the time at which it was reported.
Times are epoch microseconds in int64, and `NAT` where nothing was observed. Reports are matched with stop times in
`reports`, and features of the events are in `features`.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.reports import IdCodes, Reports, match_reports

MICROSECONDS = 1_000_000
"""Microseconds of a second."""


def to_seconds(times: np.ndarray) -> np.ndarray:
    """Convert epoch microseconds (n,) int64 to epoch seconds (n,) float64; `NAT` to NaN."""
    return np.where(times == NAT, np.nan, times / MICROSECONDS)


@dataclass(frozen=True)
class StopEvents:
    """Stop visits and vehicle states of a service day.

    `states` has a row for each time a trip began to stand at a stop or to go to it: trip and stop codes, `moving`,
    `since`, and whether the beginning was `observed`.

    `visits` has a row for each trip and stop: `moved` (first update on the way there), `arrived` (first STOPPED_AT),
    `departed` (first update of the vehicle on the way to another stop), `delay` of the arrival, `change` of delay since
    the trip's previous arrival, and `line` (route and direction). Delays are integer microseconds, so that their sums
    are exact. Vehicles without a trip and trips without a schedule have visits too, for they determine headways.
    """

    codes: IdCodes
    states: pd.DataFrame
    visits: pd.DataFrame


def extract_stop_events(
    vehicle: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame, service_date: date
) -> StopEvents:
    """Extract the stop events of a service day from its upstream tables, their rows in any order and repeated."""
    reports = match_reports(vehicle, schedule, stop, service_date)
    updates = _encode_updates(vehicle, reports)
    return StopEvents(reports.codes, _extract_states(updates), _add_delays(_extract_visits(updates), reports))


def _encode_updates(vehicle: pd.DataFrame, reports: Reports) -> pd.DataFrame:
    """Return the distinct updates that count, with codes, sorted by trip and time.

    Consecutive updates of a vehicle without a trip that name one stop get a trip code of their own.
    """
    codes = reports.codes
    updates = pd.DataFrame(
        {
            "trip": reports.trip,
            "stop": reports.stop,
            "time": reports.time,
            "moving": reports.moving,
            "vehicle": pd.factorize(vehicle["id"], sort=True)[0],
            "line": codes.encode_lines(vehicle["route_id"], vehicle["direction_id"]),
        }
    )
    updates = updates[reports.counts].drop_duplicates(["trip", "vehicle", "time", "moving", "stop"])
    without_trip = updates[updates["trip"] < 0].sort_values(["vehicle", "time", "moving", "stop"])
    stretch = (without_trip["vehicle"].diff().ne(0) | without_trip["stop"].diff().ne(0)).cumsum()
    updates.loc[without_trip.index, "trip"] = len(codes.trips) + stretch
    return updates.sort_values(["trip", "time", "moving", "stop", "vehicle"], ignore_index=True)


def _extract_states(updates: pd.DataFrame) -> pd.DataFrame:
    """Return the beginning of each state of each trip; a trip's first state began before it was observed."""
    same_trip = updates["trip"].diff().eq(0)
    begins = ~(same_trip & updates["stop"].diff().eq(0) & updates["moving"].eq(updates["moving"].shift()))
    states = updates.loc[begins, ["trip", "stop", "moving", "time"]].rename(columns={"time": "since"})
    states["observed"] = same_trip[begins]
    return states


def _extract_visits(updates: pd.DataFrame) -> pd.DataFrame:
    """Return the visit of each trip and stop with the times of `StopEvents.visits`, delays excluded."""
    by_visit = ["trip", "stop"]
    visits = updates.groupby(by_visit, sort=False).agg(
        first=("time", "min"), vehicle=("vehicle", "first"), line=("line", "first")
    )
    # The run to the stop at which a trip is first seen began before it was observed.
    began_unobserved = visits["first"] == visits.groupby("trip")["first"].transform("min")
    moved = updates[updates["moving"]].groupby(by_visit, sort=False)["time"].min().reindex(visits.index)
    arrived = updates[~updates["moving"]].groupby(by_visit, sort=False)["time"].min().reindex(visits.index)
    visits = visits.assign(moved=moved.mask(began_unobserved), arrived=arrived, order=np.arange(len(visits)))
    visits = visits.reset_index().sort_values(["vehicle", "first", "order"], ignore_index=True)
    visits["departed"] = visits.groupby("vehicle")["first"].shift(-1)
    times = visits[["moved", "arrived", "departed"]].fillna(NAT).astype(np.int64)
    visits = visits.assign(line=visits["line"].astype(np.int64), **times)
    return visits.drop(columns=["first", "order"])


def _add_delays(visits: pd.DataFrame, reports: Reports) -> pd.DataFrame:
    """Add the `delay` of each arrival, and its `change` since the trip's previous arrival."""
    trips = visits["trip"].to_numpy()
    trips = np.where(trips < len(reports.codes.trips), trips, -1)
    scheduled = np.append(reports.stop_times.arrival, NAT)[reports.stop_times.find(trips, visits["stop"].to_numpy())]
    visits["delay"] = _subtract_times(visits["arrived"].to_numpy(), scheduled)
    arrivals = visits[visits["arrived"] != NAT].sort_values(["trip", "arrived", "stop"])
    previous = arrivals.groupby("trip")["delay"].shift(fill_value=NAT).to_numpy()
    change = pd.Series(_subtract_times(arrivals["delay"].to_numpy(), previous), index=arrivals.index)
    visits["change"] = change.reindex(visits.index, fill_value=NAT)
    return visits


def _subtract_times(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Subtract microseconds (n,) int64; `NAT` where either is."""
    return np.where((later == NAT) | (earlier == NAT), NAT, later - earlier)
