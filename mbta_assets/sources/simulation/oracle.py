"""The best possible prediction: the median of an arrival, given all that the process knows at the moment of asking.

At that moment the phase and elapsed time of every train, the last departure deviations, the day effect and the
incidents begun are known; the noise to come is not. The train and those ahead of it that can still be in its way are
let run from there many times, front to back, each wait for the train ahead included. A phase under way is drawn
from its distribution beyond the time it has lasted, unless the train ahead holds it anyway; new incidents come at
their rate. The median of the draws has the least absolute error there can be. With `DRAWS` draws its Monte-Carlo
error, about 1.25 standard deviations over the root of the draws, adds less than one percent to the MAE.

One thing is approximate: where a train ahead cannot leave its terminal because its vehicle is still on the way
there, that vehicle is expected to keep its delay, give or take `INBOUND_SIGMA` of the time it still needs.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from mbta_assets.sources.simulation.network import network
from mbta_assets.sources.simulation.process import (
    NEVER,
    PARAMETERS,
    SERVICE_SECONDS,
    Day,
    Incidents,
    deviation_share,
    incident_weights,
)
from mbta_assets.sources.simulation.timetable import Timetable, stream
from mbta_assets.transit import service_day

DRAWS = 96
INBOUND_SIGMA = 0.08
ROWS_AT_ONCE = 512
HORIZON_SECONDS = 7200  # incidents that begin later come too late for any stop that is asked about


def best_predictions(day: Day, rows: pd.DataFrame, draws: int = DRAWS) -> np.ndarray:
    """Median delay in seconds (n,) of each row's `trip_id` at its `stop_id`, asked at its `time_stamp`.

    NaN where the day has no such scheduled arrival: an unknown trip or stop, an added trip, an origin.
    """
    visit = find_visits(day.timetable, rows)
    now = (rows["time_stamp"] - service_day.start(day.service_date)).dt.total_seconds().to_numpy(dtype=np.float64)
    best = np.full(len(rows), np.nan)
    for some, arrivals in arrival_draws(day, visit, now, draws):
        best[some] = np.median(arrivals, axis=1) - day.timetable.published_seconds[visit[some]]
    return best


def find_visits(plan: Timetable, rows: pd.DataFrame) -> np.ndarray:
    """The visit (n,) of each row's trip at its stop; -1 where it is no scheduled arrival."""
    target = plan.scheduled[plan.trip] & (plan.position > 0)
    trip_ids = np.array([slot.trip_id for slot in plan.slots], dtype=object)[plan.trip[target]]
    visits = pd.MultiIndex.from_arrays([trip_ids, plan.stop_ids[target]])
    asked = pd.MultiIndex.from_frame(rows[["trip_id", "stop_id"]].astype(object))
    found = visits.get_indexer(asked)
    return np.where(found < 0, -1, np.flatnonzero(target)[found])


def arrival_draws(day: Day, visit: np.ndarray, now: np.ndarray, draws: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draws of when the feed reports each visit's arrival, asked at a moment (n,) in seconds of the service day.

    Yields batches: indices of rows (m,) and their draws (m, draws) in whole seconds of the service day, as published.
    Rows without a visit (-1) are left out. What has been reported by the moment is known.
    """
    rng = stream(day.seed, day.service_date, "oracle")
    plan = day.timetable
    lanes = list(network().lanes)
    lane_of_pattern = np.array([lanes.index(pattern.lane) for pattern in network().patterns])
    lane = np.where(visit >= 0, lane_of_pattern[plan.pattern[plan.trip[visit]]], -1)
    for each in range(len(lanes)):
        of_lane = np.flatnonzero(lane == each)
        of_lane = of_lane[np.lexsort([now[of_lane], visit[of_lane] - plan.position[visit[of_lane]]])]
        for start in range(0, len(of_lane), ROWS_AT_ONCE):
            some = of_lane[start : start + ROWS_AT_ONCE]
            futures = Futures(day, plan.trip[visit[some]], plan.position[visit[some]], now[some], draws, rng)
            yield some, futures.reported()


class Futures:
    """Many futures of the trains of one lane, from each moment that is asked about.

    Rows (n,) that ask about one trip at one moment share their futures (m,). What is drawn is kept by column of the
    lane in `arrived`, `departed` and `deviation` (columns, m, draws): the last train that passed, NaN where it
    passed before the moment.
    """

    def __init__(
        self, day: Day, trip: np.ndarray, position: np.ndarray, now: np.ndarray, draws: int, rng: np.random.Generator
    ) -> None:
        self.day, self.plan, self.rng, self.draws = day, day.timetable, rng, draws
        self.first, self.deviation_share = self.plan.first, deviation_share(self.plan)
        (trips, self.now), self.row = np.unique(np.stack([trip, now]), axis=1, return_inverse=True)
        self.trip = trips.astype(int)
        self.target = self.first[trip] + position
        self.reach = np.zeros(len(self.trip), dtype=int)
        np.maximum.at(self.reach, self.row, position)
        self.lane = network().patterns[self.plan.pattern[self.trip[0]]].lane
        self.pace, self.crowd = day.pace[self.lane[0]], day.crowd[self.lane[0]]
        self.incidents = Incoming(self.lane, self.now, draws, rng)
        shape = (len(network().columns[self.lane]), len(self.trip), draws)
        self.arrived, self.departed, self.deviation = (np.full(shape, np.nan) for _ in range(3))

    def reported(self) -> np.ndarray:
        """When the feed reports each row's arrival (n, draws), in whole seconds of the service day."""
        for which, trip, reach in reversed(list(self._in_the_way())):
            self._run(which, trip, reach)
        column, now = self.plan.column[self.target], self.now[self.row, None]
        lag = PARAMETERS.report_mean_seconds * self.rng.standard_exponential((len(self.row), self.draws))
        reported = np.maximum(self.arrived[column, self.row] + PARAMETERS.report_least_seconds, now) + lag
        reported = np.minimum(reported, self.departed[column, self.row])
        past = self.day.reported[self.target]
        return np.ceil(np.where((past <= self.now[self.row])[:, None], past[:, None], reported))

    def _in_the_way(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The train itself, then those ahead that have not left the last stop they share with its way.

        Yields indices of futures, the trip of each, and the position it must be run to.
        """
        own = self.plan.pattern[self.trip]
        shared = _shared_reach(self.lane)
        which, trip, reach = np.arange(len(self.trip)), self.trip, self.reach
        while len(which):
            not_yet = self.day.departed[self.first[trip] + reach] > self.now[which]
            here = (reach >= 0) & (not_yet | (trip == self.trip[which]))
            if here.any():
                yield which[here], trip[here], reach[here]
            trip, onwards = self.plan.ahead[trip], here | (self.plan.pattern[trip] != own[which])
            onwards &= trip >= 0
            which, trip = which[onwards], trip[onwards]
            reach = shared[own[which], self.plan.pattern[trip], self.reach[which]]

    def _run(self, which: np.ndarray, trip: np.ndarray, reach: np.ndarray) -> None:
        """Run one train of each future (k,) from where it is to its reach."""
        origin, now = self.first[trip], self.now[which]
        stops = origin[:, None] + np.minimum(np.arange(reach.max() + 1), reach[:, None])
        begin = ((self.day.departed[stops] <= now[:, None]) & (np.arange(stops.shape[1]) <= reach[:, None])).sum(axis=1)
        left = np.repeat(self.day.departed[origin + np.maximum(begin - 1, 0)][:, None], self.draws, axis=1)
        for position in range(begin.min(), reach.max() + 1):
            going = np.flatnonzero((begin <= position) & (position <= reach))
            visit = origin[going] + position
            if position == 0:
                left[going] = self._leave_origin(which[going], visit)
            else:
                left[going] = self._next_stop(which[going], visit, left[going], begin[going] == position)

    def _leave_origin(self, which: np.ndarray, visit: np.ndarray) -> np.ndarray:
        """When trains (k,) that have not left their origins leave them (k, draws)."""
        p, now, column = PARAMETERS, self.now[which], self.plan.column[visit]
        leader = self.plan.leader[visit]
        ready = self._vehicle_ready(self.plan.trip[visit], now)
        clear = self._passed(self.departed, self.day.departed, which, visit) + p.clearance_seconds
        before = np.where(leader < 0, 0.0, self.day.deviation[self.plan.trip[leader]])[:, None]
        drawn_before = self.deviation[column, which]
        mean = p.deviation_stickiness * np.where(np.isnan(drawn_before), before, drawn_before)
        spread = np.where(leader < 0, 1.0, np.sqrt(1 - p.deviation_stickiness**2))[:, None]
        planned = self.plan.planned_seconds[visit][:, None]
        share = self.deviation_share[self.plan.trip[visit], None]
        due = np.flatnonzero((np.maximum(ready, clear) <= now[:, None]).all(axis=1))
        least = (p.deviation_normal((now[due, None] - planned[due]) / share[due]) - mean[due]) / spread[due]
        deviation = mean + spread * self._normals(len(which), due, least)
        departed = np.maximum(np.maximum(planned + share * p.deviation_seconds(deviation), ready), clear)
        self.deviation[column, which], self.departed[column, which] = deviation, departed
        return departed

    def _vehicle_ready(self, trip: np.ndarray, now: np.ndarray) -> np.ndarray:
        """When the vehicles of trips (k,) are ready (k, draws); one still on its way keeps its delay, more or less."""
        previous = self.plan.previous[trip]
        terminal = self.first[previous + 1] - 1
        ready = np.repeat(self.day.ready[trip][:, None], self.draws, axis=1)
        for row in np.flatnonzero((previous >= 0) & (self.day.arrived[terminal] > now)):
            stops = slice(self.first[previous[row]], terminal[row] + 1)
            planned, departed = self.plan.planned_seconds[stops], self.day.departed[stops]
            gone = np.flatnonzero(departed <= now[row])
            delay = departed[gone[-1]] - planned[gone[-1]] if len(gone) else max(now[row] - planned[0], 0.0)
            needed = max(planned[-1] + delay - now[row], 1.0)
            arrival = now[row] + needed * np.exp(INBOUND_SIGMA * self.rng.standard_normal(self.draws))
            ready[row] = arrival + PARAMETERS.turnaround_seconds
        return ready

    def _next_stop(self, which: np.ndarray, visit: np.ndarray, left: np.ndarray, begins: np.ndarray) -> np.ndarray:
        """Run trains (k,) that left the stop before at `left` (k, draws) to a stop; returns when they leave it.

        Where the run `begins` the train is somewhere between these two moments: what is past is as it happened.
        """
        p, day, track = PARAMETERS, self.day, self.day.track
        now, column, rows = self.now[which], self.plan.column[visit], len(which)
        approached, arrived = day.approached[visit], day.arrived[visit]
        approaching, standing = begins & (approached <= now), begins & (arrived <= now)

        late = np.clip((left - self.plan.planned_seconds[visit - 1][:, None]) / p.recovery_seconds, -1, 1)
        slowness = self.pace[(left / 60).astype(int)] * (1 - p.recovery_share * late)
        clear = self._passed(self.departed, day.departed, which, visit) + p.clearance_seconds
        free = np.flatnonzero(begins & ~approaching & (clear <= now[:, None]).all(axis=1))
        expected = track.cruise_seconds[visit][:, None] * slowness
        elapsed = now[free, None] - left[free]
        cruise = expected * self._lasting(p.cruise_sigma, rows, free, elapsed, expected[free])
        approach = np.where(approaching[:, None], approached[:, None], np.maximum(left + cruise, clear))

        near = np.flatnonzero(approaching & ~standing)
        expected = track.approach_seconds[visit][:, None] * slowness
        elapsed = now[near, None] - approach[near]
        closing = expected * self._lasting(p.approach_sigma, rows, near, elapsed, expected[near])
        arrival = np.where(standing[:, None], arrived[:, None], approach + closing)

        gap = np.minimum(arrival - self._passed(self.arrived, day.arrived, which, visit), p.crowding_limit_seconds)
        crowding = p.crowding_base + p.crowding_share * gap / p.crowding_seconds
        expected = track.dwell_seconds[visit][:, None] * self.crowd[(arrival / 60).astype(int)] * crowding
        hold = self.incidents.hold(which, column, arrival) + _known_hold(day.incidents[self.lane], column, arrival, now)
        there = np.flatnonzero(standing)
        elapsed = now[there, None] - arrival[there] - hold[there]
        departure = arrival + hold + expected * self._lasting(p.dwell_sigma, rows, there, elapsed, expected[there])
        self.arrived[column, which], self.departed[column, which] = arrival, departure
        return departure

    def _passed(self, drawn: np.ndarray, past: np.ndarray, which: np.ndarray, visit: np.ndarray) -> np.ndarray:
        """When the train ahead did at a stop what `past` (v,) says, or is drawn to do (k, draws)."""
        ahead = self.plan.leader[visit]
        known = np.where(ahead < 0, NEVER, past[ahead])[:, None]
        future = drawn[self.plan.column[visit], which]
        return np.where(np.isnan(future), known, future)

    def _lasting(
        self, sigma: float, rows: int, under_way: np.ndarray, elapsed: np.ndarray, expected: np.ndarray
    ) -> np.ndarray:
        """Lognormal factors (rows, draws) of durations; of the phases under way, beyond the time elapsed."""
        with np.errstate(divide="ignore"):
            least = np.log(np.maximum(elapsed, 0) / expected) / sigma
        return np.exp(sigma * self._normals(rows, under_way, least))

    def _normals(self, rows: int, bounded: np.ndarray, least: np.ndarray) -> np.ndarray:
        """Standard normals (rows, draws), those of the bounded rows (b,) above a least value (b, draws)."""
        normals = self.rng.standard_normal((rows, self.draws))
        if len(bounded):
            normals[bounded] = -ndtri((1 - self.rng.random(least.shape)) * ndtr(-least))
        return normals


class Incoming:
    """Incidents of a lane that begin after each moment (m,): at most one in each future, as the rate is low."""

    def __init__(self, lane: tuple[str, int], now: np.ndarray, draws: int, rng: np.random.Generator) -> None:
        p, self.weights, size = PARAMETERS, incident_weights(lane), (len(now), draws)
        begin = now[:, None] + rng.standard_exponential(size) * 3600 / p.incidents_per_lane_hour
        self.moments = len(now)
        self.which, self.draw = np.nonzero(begin < np.minimum(now + HORIZON_SECONDS, SERVICE_SECONDS[1])[:, None])
        self.begin = begin[self.which, self.draw]
        self.amplitude = p.incident_hold_seconds * np.exp(p.incident_hold_sigma * rng.standard_normal(len(self.begin)))
        self.place = rng.integers(0, len(self.weights), len(self.begin))

    def hold(self, which: np.ndarray, column: np.ndarray, arrival: np.ndarray) -> np.ndarray:
        """Seconds for which trains (k,) that arrive at a column at `arrival` (k, draws) are held."""
        row = np.full(self.moments, -1)
        row[which] = np.arange(len(which))
        met = np.flatnonzero(row[self.which] >= 0)
        at, draw = row[self.which[met]], self.draw[met]
        age = arrival[at, draw] - self.begin[met]
        weight = self.weights[self.place[met], column[at]] * (age >= 0)
        hold = np.zeros_like(arrival)
        hold[at, draw] = weight * self.amplitude[met] * np.exp(-np.maximum(age, 0) / PARAMETERS.incident_decay_seconds)
        return hold


def _known_hold(incidents: Incidents, column: np.ndarray, arrival: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Seconds (k, draws) for which the incidents begun by the moment (k,) hold trains that arrive at a column."""
    hold = np.zeros_like(arrival)
    for begin, seconds, weight in zip(incidents.begin_seconds, incidents.hold_seconds, incidents.weight, strict=True):
        felt = np.flatnonzero((begin <= now) & (weight[column] > 0))
        age = arrival[felt] - begin
        decayed = np.exp(-np.maximum(age, 0) / PARAMETERS.incident_decay_seconds) * (age >= 0)
        hold[felt] += seconds * weight[column[felt], None] * decayed
    return hold


@lru_cache
def _shared_reach(lane: tuple[str, int]) -> np.ndarray:
    """The last position (own, other, own position) at which another pattern stops on the way so far; -1 for none."""
    patterns = network().patterns
    longest = max(len(pattern.stop_ids) for pattern in patterns)
    shared = np.full((len(patterns), len(patterns), longest), -1)
    for own, other in product(network().lanes[lane], repeat=2):
        for reach in range(len(patterns[own].stop_ids)):
            way = patterns[own].stop_ids[: reach + 1]
            common = [position for position, stop in enumerate(patterns[other].stop_ids) if stop in way]
            shared[own, other, reach] = max(common, default=-1)
    return shared
