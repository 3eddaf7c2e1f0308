"""Stop visits and vehicle states of a service day, extracted from its vehicle updates and its schedule.

Events are arrays sorted by group and time for as-of lookups: an event is known from the time at which it was reported.
Times are epoch microseconds in int64, and `NAT` where nothing was observed. Features of the events are in `features`.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mbta_assets.transit.formulas import MAX_EARLY_SECONDS, UNSCHEDULED_TRIP_PREFIXES
from mbta_assets.transit.platforms import PLATFORM_ALIASES

MICROSECONDS = 1_000_000
"""Microseconds of a second."""
NAT = np.iinfo(np.int64).min
MIN_DELAY = -MAX_EARLY_SECONDS * MICROSECONDS

Side = Literal["left", "right"]
"""Side of a query's time: an event at that very time is excluded ("left") or included ("right")."""


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
        """Return the codes (n,) of stop ids, berths included."""
        return _encode(self.stops, canonical_stop_ids(stop_ids))

    def encode_lines(self, route_ids: pd.Series, direction_ids: pd.Series) -> np.ndarray:
        """Return one code (n,) for each route and direction, either of which may be missing."""
        directions = direction_ids.fillna(2).to_numpy(dtype=np.int64)
        return _encode(self.routes, route_ids.fillna("")) * 3 + directions

    def encode_visits(self, trips: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Return one code (n,) for each trip and stop; -1 where either is -1."""
        return np.where((trips < 0) | (stops < 0), -1, trips * len(self.stops) + stops)


def canonical_stop_ids(stop_ids: pd.Series) -> pd.Series:
    """Replace the berths of terminals by the stop ids of the schedule."""
    return stop_ids.replace(PLATFORM_ALIASES)


def to_microseconds(times: pd.Series) -> np.ndarray:
    """Convert UTC timestamps to epoch microseconds (n,) int64; missing ones to `NAT`."""
    return times.to_numpy(dtype="datetime64[us]").view(np.int64)


def to_seconds(times: np.ndarray) -> np.ndarray:
    """Convert epoch microseconds to epoch seconds (n,) float64; `NAT` to NaN."""
    return np.where(times == NAT, np.nan, times / MICROSECONDS)


def count_before(
    groups: np.ndarray, times: np.ndarray, query_groups: np.ndarray, query_times: np.ndarray, side: Side
) -> np.ndarray:
    """Count the events (n,) that sort before each query: those of smaller groups, and the earlier ones of its own.

    `groups` and `times` (m,) are the events, sorted by group, then time; `query_groups` and `query_times` are (n,).
    With `side` "right" an event at the time of the query counts as earlier, with "left" it does not.
    """
    bounds = np.concatenate([times, query_times])
    first, span = (bounds.min(), np.ptp(bounds) + 1) if len(bounds) else (0, 1)
    keys = groups * span + (times - first)
    return np.searchsorted(keys, query_groups * span + (query_times - first), side=side)


def find_latest(
    groups: np.ndarray, times: np.ndarray, query_groups: np.ndarray, query_times: np.ndarray, side: Side
) -> np.ndarray:
    """Return the index (n,) of the latest event of each query's group up to its time; -1 if there is none.

    Takes the arguments of `count_before`.
    """
    index = count_before(groups, times, query_groups, query_times, side) - 1
    if not len(groups):
        return index
    return np.where((query_groups >= 0) & (index >= 0) & (groups[index] == query_groups), index, -1)


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


def extract_stop_events(vehicle: pd.DataFrame, schedule: pd.DataFrame) -> StopEvents:
    """Extract the stop events of a service day from its vehicle updates (any order, duplicates) and its schedule."""
    located = vehicle[vehicle["stop_id"].notna()]
    codes = IdCodes(
        trips=_index_ids(located["trip_id"], schedule["trip_id"]),
        stops=_index_ids(canonical_stop_ids(located["stop_id"]), canonical_stop_ids(schedule["stop_id"])),
        routes=_index_ids(located["route_id"].fillna("")),
    )
    updates = _encode_updates(located, codes)
    visits = _add_delays(_extract_visits(updates), schedule, codes)
    return StopEvents(codes, _extract_states(updates), visits)


def _index_ids(*ids: pd.Series) -> pd.Index:
    return pd.Index(np.sort(pd.concat(ids).dropna().unique().to_numpy(dtype=object)))


def _encode(index: pd.Index, ids: pd.Series) -> np.ndarray:
    positions, distinct = pd.factorize(ids)
    codes_of_distinct = np.append(index.get_indexer(distinct), -1)  # position -1, a missing id, has code -1
    return codes_of_distinct[positions].astype(np.int64)


def _encode_updates(vehicle: pd.DataFrame, codes: IdCodes) -> pd.DataFrame:
    """Return the distinct updates with codes, sorted by trip and time.

    Consecutive updates of a vehicle without a trip that name one stop get a trip code of their own.
    """
    updates = pd.DataFrame(
        {
            "trip": codes.encode_trips(vehicle["trip_id"]),
            "stop": codes.encode_stops(vehicle["stop_id"]),
            "time": to_microseconds(vehicle["updated_at"]),
            "moving": (vehicle["current_status"] != "STOPPED_AT").to_numpy(dtype=bool),
            "vehicle": pd.factorize(vehicle["id"], sort=True)[0],
            "line": codes.encode_lines(vehicle["route_id"], vehicle["direction_id"]),
        }
    ).drop_duplicates(["trip", "vehicle", "time", "moving", "stop"])
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


def _add_delays(visits: pd.DataFrame, schedule: pd.DataFrame, codes: IdCodes) -> pd.DataFrame:
    """Add `delay` and `change`; an arrival more than `MAX_EARLY_SECONDS` early belongs to another trip and has none."""
    is_scheduled = schedule["arrival_time"].notna() & ~schedule["trip_id"].str.startswith(UNSCHEDULED_TRIP_PREFIXES)
    stop_times = schedule[is_scheduled]
    keys = codes.encode_visits(codes.encode_trips(stop_times["trip_id"]), codes.encode_stops(stop_times["stop_id"]))
    scheduled = pd.Series(to_microseconds(stop_times["arrival_time"]), index=keys).groupby(level=0).min()
    visit_keys = codes.encode_visits(visits["trip"].to_numpy(), visits["stop"].to_numpy())
    visit_keys = np.where(visits["trip"] < len(codes.trips), visit_keys, -1)
    delay = _subtract_times(visits["arrived"].to_numpy(), scheduled.reindex(visit_keys, fill_value=NAT).to_numpy())
    visits["delay"] = np.where(delay < MIN_DELAY, NAT, delay)
    arrivals = visits[visits["arrived"] != NAT].sort_values(["trip", "arrived", "stop"])
    previous = arrivals.groupby("trip")["delay"].shift(fill_value=NAT).to_numpy()
    change = pd.Series(_subtract_times(arrivals["delay"].to_numpy(), previous), index=arrivals.index)
    visits["change"] = change.reindex(visits.index, fill_value=NAT)
    return visits


def _subtract_times(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Subtract microseconds (n,) int64; `NAT` where either is."""
    return np.where((later == NAT) | (earlier == NAT), NAT, later - earlier)
