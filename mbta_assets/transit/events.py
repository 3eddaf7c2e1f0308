"""What happened at the stops, read from the stream of vehicle updates: states, visits, runs.

Events are arrays sorted by group and time, made for as-of look-ups: an event counts from the moment it was
reported, never before. Times are epoch microseconds in int64, or NaT where nothing was observed.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from mbta_assets.transit.formulas import NO_TIMETABLE, WRONG_SLOT_SECONDS
from mbta_assets.transit.platforms import PLATFORM_ALIASES

MICROSECONDS = 1_000_000
WRONG_SLOT = -WRONG_SLOT_SECONDS * MICROSECONDS
NAT = np.iinfo(np.int64).min

Side = Literal["left", "right"]


@dataclass(frozen=True)
class Codes:
    """Integer codes of the day's trips and stops, in the order of their ids; -1 is missing or unheard of."""

    trips: pd.Index
    stops: pd.Index
    routes: pd.Index

    def trip(self, ids: pd.Series) -> np.ndarray:
        return _codes(self.trips, ids)

    def stop(self, ids: pd.Series) -> np.ndarray:
        return _codes(self.stops, canonical(ids))

    def line(self, route_id: pd.Series, direction_id: pd.Series) -> np.ndarray:
        """One code for a route and direction, either of which may be missing."""
        return _codes(self.routes, route_id.fillna("")) * 3 + direction_id.fillna(2).to_numpy(dtype=np.int64)

    def visit(self, trip: np.ndarray, stop: np.ndarray) -> np.ndarray:
        """One code for a trip at a stop; -1 where either is."""
        return np.where((trip < 0) | (stop < 0), -1, trip * len(self.stops) + stop)


def canonical(stop_ids: pd.Series) -> pd.Series:
    """Stop ids with the berths of terminals named as the timetable names them."""
    return stop_ids.replace(PLATFORM_ALIASES)


def microseconds(times: pd.Series) -> np.ndarray:
    """Epoch microseconds (n,) int64 of UTC timestamps; `NAT` where missing."""
    return times.to_numpy(dtype="datetime64[us]").view(np.int64)


def seconds(times: np.ndarray) -> np.ndarray:
    """Epoch seconds (n,) float64 of epoch microseconds; NaN for `NAT`."""
    return np.where(times == NAT, np.nan, times / MICROSECONDS)


def count_before(
    groups: np.ndarray, times: np.ndarray, group: np.ndarray, moment: np.ndarray, side: Side
) -> np.ndarray:
    """How many events (n,) sort before each question: all of smaller groups, and of its own those in time.

    `groups` and `times` (m,) are the events, sorted by group, then time; `group` and `moment` (n,) the questions.
    `side` is "left" for events strictly before the moment, "right" for those at it too.
    """
    bounds = np.concatenate([times, moment])
    first, span = (bounds.min(), np.ptp(bounds) + 1) if len(bounds) else (0, 1)
    return np.searchsorted(groups * span + (times - first), group * span + (moment - first), side=side)


def latest(groups: np.ndarray, times: np.ndarray, group: np.ndarray, moment: np.ndarray, side: Side) -> np.ndarray:
    """Index (n,) of each group's last event up to a moment, as `count_before` takes them; -1 where there is none."""
    found = count_before(groups, times, group, moment, side) - 1
    return np.where((group >= 0) & (found >= 0) & (groups[found] == group), found, -1) if len(groups) else found


@dataclass(frozen=True)
class Events:
    """A day's events.

    `states`: trip and stop codes, `moving`, and `since`: each time a trip began to stand at a stop or to go to it.
    `visits`: one row for each trip and stop: `moved` (first seen going there), `arrived` (first seen standing),
    `left` (first seen going on), `delay` against the timetable, `change` of delay since the trip's arrival before,
    and `line` (route and direction). Delays are microseconds like times, so that sums of them are exact. Vehicles
    without a trip, and trips without a timetable, are here too: they are nobody's target, but they lead.
    """

    codes: Codes
    states: pd.DataFrame
    visits: pd.DataFrame


def read_events(vehicle: pd.DataFrame, schedule: pd.DataFrame) -> Events:
    """The events of one service day from its vehicle updates (any order, repeated or not) and its timetable."""
    known = vehicle[vehicle["stop_id"].notna()]
    codes = Codes(
        trips=_index(known["trip_id"], schedule["trip_id"]),
        stops=_index(canonical(known["stop_id"]), canonical(schedule["stop_id"])),
        routes=_index(known["route_id"].fillna("")),
    )
    updates = _updates(known, codes)
    visits = _visits(updates)
    return Events(codes, _states(updates), _against_timetable(visits, schedule, codes))


def _index(*ids: pd.Series) -> pd.Index:
    return pd.Index(np.sort(pd.concat(ids).dropna().unique().to_numpy(dtype=object)))


def _codes(index: pd.Index, ids: pd.Series) -> np.ndarray:
    found, distinct = pd.factorize(ids)
    return np.append(index.get_indexer(distinct), -1)[found].astype(np.int64)


def _updates(vehicle: pd.DataFrame, codes: Codes) -> pd.DataFrame:
    """Updates in the order of each trip's time; a vehicle without a trip makes a trip of each stretch to one stop."""
    updates = pd.DataFrame(
        {
            "trip": codes.trip(vehicle["trip_id"]),
            "stop": codes.stop(vehicle["stop_id"]),
            "time": microseconds(vehicle["updated_at"]),
            "moving": (vehicle["current_status"] != "STOPPED_AT").to_numpy(dtype=bool),
            "vehicle": pd.factorize(vehicle["id"], sort=True)[0],
            "line": codes.line(vehicle["route_id"], vehicle["direction_id"]),
        }
    ).drop_duplicates(["trip", "vehicle", "time", "moving", "stop"])
    nameless = updates[updates["trip"] < 0].sort_values(["vehicle", "time", "moving", "stop"])
    stretch = (nameless["vehicle"].diff().ne(0) | nameless["stop"].diff().ne(0)).cumsum()
    updates.loc[nameless.index, "trip"] = len(codes.trips) + stretch
    return updates.sort_values(["trip", "time", "moving", "stop", "vehicle"], ignore_index=True)


def _states(updates: pd.DataFrame) -> pd.DataFrame:
    """The start of each unbroken state of each trip. A trip's first one began unseen: its start is not known."""
    same_trip = updates["trip"].diff().eq(0)
    begins = ~(same_trip & updates["stop"].diff().eq(0) & updates["moving"].eq(updates["moving"].shift()))
    states = updates.loc[begins, ["trip", "stop", "moving", "time"]].rename(columns={"time": "since"})
    states["seen"] = same_trip[begins]
    return states


def _visits(updates: pd.DataFrame) -> pd.DataFrame:
    by_visit = ["trip", "stop"]
    visits = updates.groupby(by_visit, sort=False).agg(
        first=("time", "min"), vehicle=("vehicle", "first"), line=("line", "first")
    )
    # What a trip was doing when it was first seen began unseen, and so did the run it was on.
    begun_unseen = visits["first"] == visits.groupby("trip")["first"].transform("min")
    moved = updates[updates["moving"]].groupby(by_visit, sort=False)["time"].min().reindex(visits.index)
    arrived = updates[~updates["moving"]].groupby(by_visit, sort=False)["time"].min().reindex(visits.index)
    visits = visits.assign(moved=moved.mask(begun_unseen), arrived=arrived, order=np.arange(len(visits))).reset_index()
    visits = visits.sort_values(["vehicle", "first", "order"], ignore_index=True)
    visits["left"] = visits.groupby("vehicle")["first"].shift(-1)
    times = ["moved", "arrived", "left"]
    visits = visits.assign(line=visits["line"].astype(np.int64), **visits[times].fillna(NAT).astype(np.int64))
    return visits.drop(columns=["first", "order"])


def _against_timetable(visits: pd.DataFrame, schedule: pd.DataFrame, codes: Codes) -> pd.DataFrame:
    """Visits with their delay; an arrival more than 30 minutes early is another trip's and has none."""
    means_something = schedule["arrival_time"].notna() & ~schedule["trip_id"].str.startswith(NO_TIMETABLE)
    timetable = schedule[means_something]
    keys = codes.visit(codes.trip(timetable["trip_id"]), codes.stop(timetable["stop_id"]))
    scheduled = pd.Series(microseconds(timetable["arrival_time"]), index=keys).groupby(level=0).min()
    due = codes.visit(visits["trip"].to_numpy(), visits["stop"].to_numpy())
    due = np.where(visits["trip"] < len(codes.trips), due, -1)
    delay = _difference(visits["arrived"].to_numpy(), scheduled.reindex(due, fill_value=NAT).to_numpy())
    visits["delay"] = np.where(delay < WRONG_SLOT, NAT, delay)
    arrivals = visits[visits["arrived"] != NAT].sort_values(["trip", "arrived", "stop"])
    before = arrivals.groupby("trip")["delay"].shift(fill_value=NAT).to_numpy()
    change = pd.Series(_difference(arrivals["delay"].to_numpy(), before), index=arrivals.index)
    visits["change"] = change.reindex(visits.index, fill_value=NAT)
    return visits


def _difference(later: np.ndarray, earlier: np.ndarray) -> np.ndarray:
    """Microseconds (n,) int64 between two sets of times; NAT where either is."""
    return np.where((later == NAT) | (earlier == NAT), NAT, later - earlier)
