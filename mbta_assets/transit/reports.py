"""Reports of vehicles of a service day in integer codes: which of them count, and at which stop visit.

The features and the account of rows read the upstream tables through this module; `raw_transit_data.sql` has the same
rules in SQL. Times are epoch microseconds in int64, `NAT` where missing. The order of stop times is in `stop_times`.
"""

from dataclasses import dataclass
from datetime import date

import numpy as np
import pandas as pd

from mbta_assets.transit import plausibility
from mbta_assets.transit.ids import IdCodes, combine_codes
from mbta_assets.transit.placement import Candidate, Progress
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.stop_times import StopTimes, order_stop_times, start_microseconds, to_integers, to_microseconds


@dataclass(frozen=True)
class Reports:
    """Reports of a service day in the codes of its ids, arrays (n,) in the order of `vehicle`.

    - `trip`, `vehicle`: codes; -1 without a trip.
    - `stop`: code of the stop at which the report counts; `named_stop`: of the stop that it names; -1 without one.
    - `time`: time of the report.
    - `stop_time`: index of the stop visit that it is about; -1 without one.
    - `moving`: whether the vehicle is on its way to the stop.
    - `is_plausible`: whether the time belongs to the trip or the service day.
    - `is_served`: whether the trip serves that stop, be it at another time.
    - `is_early`, `is_late`: whether the trip cannot have been there yet, or have arrived there so late.
    - `order_unknown`: whether the schedule does not tell in which order the trip serves that stop and others.
    """

    codes: IdCodes
    stop_times: StopTimes
    trip: np.ndarray
    vehicle: np.ndarray
    stop: np.ndarray
    named_stop: np.ndarray
    time: np.ndarray
    stop_time: np.ndarray
    moving: np.ndarray
    is_plausible: np.ndarray
    is_served: np.ndarray
    is_early: np.ndarray
    is_late: np.ndarray
    order_unknown: np.ndarray

    @property
    def counts(self) -> np.ndarray:
        """Return which reports (n,) determine stop visits: plausible ones that name a stop or a visit."""
        return self.is_plausible & ~self.is_early & ~self.is_late & ~self.order_unknown & (self.stop >= 0)


@dataclass(frozen=True)
class _Named:
    """What the reports name, arrays (n,): codes, times, states and the feed's stop sequences, `NAT` without one."""

    trip: np.ndarray
    vehicle: np.ndarray
    stop: np.ndarray
    time: np.ndarray
    moving: np.ndarray
    sequence: np.ndarray


@dataclass(frozen=True)
class _Candidates:
    """Stop visits that reports may be about, arrays (k,), those of a report in order of travel.

    `report` is the index of the report, `visit` that of the stop time.
    """

    report: np.ndarray
    visit: np.ndarray

    def select(self, mask: np.ndarray) -> "_Candidates":
        """Return some of the candidates, by a mask (k,)."""
        return _Candidates(self.report[mask], self.visit[mask])


def match_reports(vehicle: pd.DataFrame, schedule: pd.DataFrame, stop: pd.DataFrame, service_date: date) -> Reports:
    """Match the reports of a service day with the stop visits of their trips.

    A report at a stop that its trip does not serve counts for a visit of the trip in the same station. One without a
    stop counts for the visit with the stop sequence that it names.
    """
    codes = IdCodes.from_tables(vehicle, schedule)
    start = start_microseconds(service_date)
    stop_times = order_stop_times(schedule, stop, codes, start)
    named = _Named(
        trip=codes.encode_trips(vehicle["trip_id"]),
        vehicle=codes.encode_vehicles(vehicle["id"]),
        stop=codes.encode_stops(vehicle["stop_id"]),
        time=to_microseconds(vehicle["updated_at"]),
        moving=(vehicle["current_status"] != "STOPPED_AT").to_numpy(dtype=bool),
        sequence=to_integers(vehicle["current_stop_sequence"]),
    )
    is_plausible = plausibility.find_plausible_report_times(named.time, start, *stop_times.trip_times(named.trip))
    candidates = _find_candidates(named, stop_times)
    is_early, is_late = _judge_candidates(candidates, named, stop_times)
    is_served, has_early = np.zeros((2, len(vehicle)), dtype=bool)
    is_served[candidates.report], has_early[candidates.report[is_early]] = True, True
    possible = candidates.select(~is_early & ~is_late & is_plausible[candidates.report])
    stop_time = _place(possible, named, stop_times)
    cannot_be_there = is_served & is_plausible & (stop_time < 0)
    return Reports(
        codes=codes,
        stop_times=stop_times,
        trip=named.trip,
        vehicle=named.vehicle,
        stop=np.where(stop_time >= 0, np.append(stop_times.stop, -1)[stop_time], named.stop),
        named_stop=named.stop,
        time=named.time,
        stop_time=stop_time,
        moving=named.moving,
        is_plausible=is_plausible,
        is_served=is_served,
        is_early=cannot_be_there & has_early,
        is_late=cannot_be_there & ~has_early,
        order_unknown=np.append(stop_times.order_unknown, False)[stop_time],
    )


def _find_candidates(named: _Named, stop_times: StopTimes) -> _Candidates:
    """Return the stop visits that each report may be about by what it names, whatever its time."""
    at_stop, in_station = stop_times.by_stop, stop_times.by_station
    begin, count = at_stop.find(combine_codes(named.trip, named.stop, len(stop_times.codes.stops)))
    elsewhere = np.flatnonzero((count == 0) & (named.trip >= 0) & (named.stop >= 0))
    stations = stop_times.encode_stations(named.trip[elsewhere], named.stop[elsewhere])
    begin[elsewhere], count[elsewhere] = in_station.find(stations)
    begin[elsewhere] += len(at_stop.visit)
    nameless = np.flatnonzero((named.stop < 0) & (named.trip >= 0) & (named.sequence != NAT))
    visit = stop_times.find_by_sequence(named.trip[nameless], named.sequence[nameless])
    has_visit = np.append(stop_times.has_sequences, False)[visit]
    nameless, visit = nameless[has_visit], visit[has_visit]
    begin[nameless] = len(at_stop.visit) + len(in_station.visit) + np.arange(len(nameless))
    count[nameless] = 1
    report = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(report)) - np.repeat(np.cumsum(count) - count, count)
    visits = np.concatenate([at_stop.visit, in_station.visit, visit])
    return _Candidates(report, visits[np.repeat(begin, count) + number])


def _judge_candidates(candidates: _Candidates, named: _Named, stop_times: StopTimes) -> tuple[np.ndarray, np.ndarray]:
    """Return at which candidates (k,) the report's time is too early, and at which it is too late."""
    time, moving = named.time[candidates.report], named.moving[candidates.report]
    arrival = stop_times.arrival[candidates.visit]
    is_early = plausibility.find_early_reports(time, moving, arrival, stop_times.previous_departure[candidates.visit])
    return is_early, plausibility.find_late_arrivals(time, moving, arrival)


def _place(candidates: _Candidates, named: _Named, stop_times: StopTimes) -> np.ndarray:
    """Return the index (n,) of the visit that each report is about; -1 without a candidate.

    Where a report has several candidates and no stop sequence tells which is meant, the reports of that vehicle on that
    trip are followed one by one; see `placement`.
    """
    report, visit = candidates.report, candidates.visit
    placed = np.full(len(named.trip), -1)
    placed[report[::-1]] = visit[::-1]
    has_several = np.bincount(report, minlength=len(placed)) > 1
    is_named = stop_times.has_sequences[visit] & (stop_times.sequence[visit] == named.sequence[report])
    is_named &= has_several[report]
    placed[report[is_named]] = visit[is_named]
    has_several[report[is_named]] = False
    if not has_several.any():
        return placed
    vehicle_trip = combine_codes(named.trip, named.vehicle, len(stop_times.codes.vehicles))
    is_followed = np.isin(vehicle_trip, vehicle_trip[has_several]) & (placed >= 0)
    followed = np.flatnonzero(is_followed)
    keys = (named.sequence, named.stop, named.moving, named.time, vehicle_trip)
    followed = followed[np.lexsort([key[followed] for key in keys])]
    placed[followed] = _follow(followed, vehicle_trip[followed], candidates, named, stop_times)
    return placed


def _follow(
    followed: np.ndarray, vehicle_trip: np.ndarray, candidates: _Candidates, named: _Named, stop_times: StopTimes
) -> list[int]:
    """Return the index (n,) of the visit that each of some reports is about, given in order of trip, vehicle and time.

    A repeated report is placed as the one that it repeats.
    """
    begins = np.searchsorted(candidates.report, followed).tolist()
    ends = np.searchsorted(candidates.report, followed, side="right").tolist()
    expected = _ExpectedVisits(stop_times)
    columns = (values[followed].tolist() for values in (named.time, named.stop, named.moving, named.sequence))
    placed, progress, before = [], Progress(), -1
    for key, begin, end, time, stop, moving, sequence in zip(
        vehicle_trip.tolist(), begins, ends, *columns, strict=True
    ):
        if key != before:
            progress, before = Progress(), key
        visits = [expected.find(visit, moving) for visit in candidates.visit[begin:end].tolist()]
        placed.append(progress.place(time, stop, moving, None if sequence == NAT else sequence, visits))
    return placed


class _ExpectedVisits:
    """Stop visits as candidates of reports, made once for each status."""

    def __init__(self, stop_times: StopTimes) -> None:
        self._stop_times = stop_times
        self._made: dict[tuple[int, bool], Candidate] = {}

    def find(self, visit: int, moving: bool) -> Candidate:
        """Return the visit with this index, and when the schedule expects a vehicle there in that status."""
        candidate = self._made.get((visit, moving))
        if candidate is None:
            candidate = self._made[visit, moving] = self._make(visit, moving)
        return candidate

    def _make(self, visit: int, moving: bool) -> Candidate:
        times = self._stop_times
        arrival, departure = int(times.arrival[visit]), int(times.departure[visit])
        arrives, departs = departure if arrival == NAT else arrival, arrival if departure == NAT else departure
        begins, ends = (int(times.previous_departure[visit]), arrives) if moving else (arrives, departs)
        sequence = int(times.sequence[visit]) if times.has_sequences[visit] else None
        if times.position[visit] == 1:
            return Candidate(visit, None, ends, sequence)
        return Candidate(visit, begins, max(begins, ends), sequence)
