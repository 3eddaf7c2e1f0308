"""The best possible predictions: the median arrival given the state of the process at the time of the prediction.

At that time the phase and elapsed time of every train, the last deviations, the day effect and the incidents that have
begun are known; the noise to come is not. The train and the trains ahead that may still be in its way are simulated
from there many times, front to back, with each wait for the train ahead. The duration of a phase under way is drawn
from its distribution beyond the elapsed time, unless the train ahead holds the train anyway; new incidents come at
their rate. The median of the draws has the least mean absolute error possible. With `DRAWS` draws its Monte Carlo
error, about 1.25 standard deviations over the root of the draws, adds less than one percent to the MAE.

One part is approximate: if a train ahead waits at its origin for a vehicle that is still on its way there, that vehicle
is expected to keep its delay, give or take `INBOUND_SIGMA` of the time that it still needs.
"""

from collections.abc import Iterator
from functools import lru_cache
from itertools import product

import numpy as np
import pandas as pd
from scipy.special import ndtr, ndtri

from mbta_assets.sources.simulation.feed import FEED
from mbta_assets.sources.simulation.network import Lane, load_network
from mbta_assets.sources.simulation.process import (
    LONG_AGO,
    PARAMETERS,
    SERVICE_SECONDS,
    Incidents,
    SimulatedDay,
    deviation_share,
    incident_weights,
)
from mbta_assets.sources.simulation.timetable import Timetable, random_generator
from mbta_assets.transit import service_day

DRAWS = 96
INBOUND_SIGMA = 0.08
BATCH_ROWS = 512
HORIZON_SECONDS = 7200
"""Incidents that begin later than this after a prediction come too late for every stop ahead."""


def predict_delays(day: SimulatedDay, rows: pd.DataFrame, draws: int = DRAWS) -> np.ndarray:
    """Return the median delay (n,) in seconds of each row's `trip_id` at its `stop_id`, predicted at its `time_stamp`.

    It is that of the arrival, at an origin that of the departure, and NaN for an unknown trip or stop or an added trip.
    """
    visit = find_visits(day.timetable, rows)
    start = service_day.start_time(day.service_date)
    now = (rows["time_stamp"] - start).dt.total_seconds().to_numpy(dtype=np.float64)
    delays = np.full(len(rows), np.nan)
    for batch, arrivals in draw_arrivals(day, visit, now, draws):
        delays[batch] = np.median(arrivals, axis=1) - day.timetable.published_seconds[visit[batch]]
    return delays


def find_visits(timetable: Timetable, rows: pd.DataFrame) -> np.ndarray:
    """Return the visit (n,) of each row's trip at its stop; -1 if none is scheduled."""
    visits = np.flatnonzero(timetable.scheduled[timetable.trip])
    trip_ids = np.array([trip.trip_id for trip in timetable.trips], dtype=object)[timetable.trip[visits]]
    scheduled = pd.MultiIndex.from_arrays([trip_ids, timetable.stop_ids[visits]])
    index = scheduled.get_indexer(pd.MultiIndex.from_frame(rows[["trip_id", "stop_id"]].astype(object)))
    return np.where(index < 0, -1, visits[index])


def draw_arrivals(
    day: SimulatedDay, visit: np.ndarray, now: np.ndarray, draws: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw when the feed reports each visit's arrival, given the state at a time (n,) in seconds of the service day.

    At an origin it is the departure: the first report on the way to the second stop. Yields batches: indices of rows
    (m,), and draws (m, draws) in whole seconds of the service day, as published. Rows without a visit (-1) are left
    out. What has been reported by then is known.
    """
    rng = random_generator(day.seed, day.service_date, "oracle")
    timetable = day.timetable
    lanes = list(load_network().lanes)
    lane_of_pattern = np.array([lanes.index(pattern.lane) for pattern in load_network().patterns])
    lane_of_row = np.where(visit >= 0, lane_of_pattern[timetable.pattern[timetable.trip[visit]]], -1)
    for lane in range(len(lanes)):
        rows = np.flatnonzero(lane_of_row == lane)
        rows = rows[np.lexsort([now[rows], visit[rows] - timetable.position[visit[rows]]])]
        for start in range(0, len(rows), BATCH_ROWS):
            batch = rows[start : start + BATCH_ROWS]
            futures = LaneFutures(day, visit[batch], now[batch], draws, rng)
            yield batch, futures.draw_reports()


class LaneFutures:
    """Simulated futures of the trains of one lane from several points in time.

    Rows (n,) with the same trip and time share a future (m,). Draws are kept by column of the lane in `arrived`,
    `departed` and `deviation` (columns, m, draws): those of the last train that passed, NaN if it passed before the
    future began. "Trains (k,)" below are one train of each of some futures, given by the index `future` (k,).
    """

    def __init__(
        self, day: SimulatedDay, target: np.ndarray, now: np.ndarray, draws: int, rng: np.random.Generator
    ) -> None:
        """Prepare the futures of target visits (n,) of one lane at times (n,)."""
        self.day, self.timetable, self.rng, self.draws = day, day.timetable, rng, draws
        self.first_visit, self.deviation_share = self.timetable.first_visit, deviation_share(self.timetable)
        self.target = target
        trip, position = self.timetable.trip[target], self.timetable.position[target]
        (trips, self.now), self.future_of_row = np.unique(np.stack([trip, now]), axis=1, return_inverse=True)
        self.trip = trips.astype(int)
        self.reach = np.zeros(len(self.trip), dtype=int)
        np.maximum.at(self.reach, self.future_of_row, position)
        self.lane = load_network().patterns[self.timetable.pattern[self.trip[0]]].lane
        self.pace, self.congestion = day.pace[self.lane[0]], day.congestion[self.lane[0]]
        self.incidents = FutureIncidents(self.lane, self.now, draws, rng)
        shape = (len(load_network().columns[self.lane]), len(self.trip), draws)
        self.arrived, self.departed, self.deviation = (np.full(shape, np.nan) for _ in range(3))

    def draw_reports(self) -> np.ndarray:
        """Return when the feed reports each row's event (n, draws), in whole seconds of the service day."""
        for future, trip, reach in reversed(list(self._list_trains())):
            self._run_train(future, trip, reach)
        column, now = self.timetable.column[self.target], self.now[self.future_of_row, None]
        lag = PARAMETERS.report_mean_seconds * self.rng.standard_exponential((len(self.target), self.draws))
        arrived = self.arrived[column, self.future_of_row]
        reported = np.maximum(arrived + PARAMETERS.min_report_seconds, now) + lag
        reported = np.minimum(reported, self.departed[column, self.future_of_row])
        actual = self.day.reported[self.target][:, None]
        departs = np.flatnonzero(self.timetable.position[self.target] == 0)
        if len(departs):
            reported[departs] = self._report_departures(self.departed[column[departs], self.future_of_row[departs]])
            actual[departs] = self.day.departed[self.target[departs], None]
        return np.ceil(np.where(actual <= now, actual, reported))

    def _report_departures(self, departed: np.ndarray) -> np.ndarray:
        """Draw when the feed first reports that trains are on their way, which leave at some times (k, draws)."""
        is_reported = self.rng.random(departed.shape) < FEED.change_reported_share
        return departed + np.where(is_reported, 0.0, self.rng.uniform(*FEED.interval_seconds, departed.shape))

    def _list_trains(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Yield the train itself, then those ahead that have not left the last stop that they share with its way.

        Each item has the index of the futures (k,), the trip of each, and the position up to which it must run.
        """
        pattern = self.timetable.pattern[self.trip]
        shared = _last_shared_positions(self.lane)
        future, trip, reach = np.arange(len(self.trip)), self.trip, self.reach
        while len(future):
            still_ahead = self.day.departed[self.first_visit[trip] + reach] > self.now[future]
            matters = (reach >= 0) & (still_ahead | (trip == self.trip[future]))
            if matters.any():
                yield future[matters], trip[matters], reach[matters]
            is_other_branch = self.timetable.pattern[trip] != pattern[future]
            trip = self.timetable.ahead[trip]
            goes_on = (matters | is_other_branch) & (trip >= 0)
            future, trip = future[goes_on], trip[goes_on]
            reach = shared[pattern[future], self.timetable.pattern[trip], self.reach[future]]

    def _run_train(self, future: np.ndarray, trip: np.ndarray, reach: np.ndarray) -> None:
        """Run trains (k,) from where they are to the position `reach`."""
        origin, now = self.first_visit[trip], self.now[future]
        positions = np.arange(reach.max() + 1)
        stops = origin[:, None] + np.minimum(positions, reach[:, None])
        has_departed = (self.day.departed[stops] <= now[:, None]) & (positions <= reach[:, None])
        begin = has_departed.sum(axis=1)
        departed = np.repeat(self.day.departed[origin + np.maximum(begin - 1, 0)][:, None], self.draws, axis=1)
        for position in range(begin.min(), reach.max() + 1):
            going = np.flatnonzero((begin <= position) & (position <= reach))
            visit = origin[going] + position
            if position == 0:
                departed[going] = self._leave_origin(future[going], visit)
            else:
                departed[going] = self._run_to_stop(future[going], visit, departed[going], begin[going] == position)

    def _leave_origin(self, future: np.ndarray, visit: np.ndarray) -> np.ndarray:
        """Draw when trains (k,) that are at their origins leave them (k, draws)."""
        p, now, column = PARAMETERS, self.now[future], self.timetable.column[visit]
        leader = self.timetable.leader[visit]
        ready = self._draw_vehicle_ready(self.timetable.trip[visit], now)
        clear = self._time_of_train_ahead(self.departed, self.day.departed, future, visit) + p.clearance_seconds
        past = np.where(leader < 0, 0.0, self.day.deviation[self.timetable.trip[leader]])[:, None]
        simulated = self.deviation[column, future]
        mean = p.deviation_persistence * np.where(np.isnan(simulated), past, simulated)
        spread = np.where(leader < 0, 1.0, np.sqrt(1 - p.deviation_persistence**2))[:, None]
        planned = self.timetable.planned_seconds[visit][:, None]
        share = self.deviation_share[self.timetable.trip[visit], None]
        # Trains that nothing holds have not left yet because of their deviation, which is therefore larger.
        due = np.flatnonzero((np.maximum(ready, clear) <= now[:, None]).all(axis=1))
        lower = (p.deviation_normal((now[due, None] - planned[due]) / share[due]) - mean[due]) / spread[due]
        deviation = mean + spread * self._draw_normals(len(future), due, lower)
        departed = np.maximum(np.maximum(planned + share * p.deviation_seconds(deviation), ready), clear)
        self.deviation[column, future], self.departed[column, future] = deviation, departed
        return departed

    def _draw_vehicle_ready(self, trip: np.ndarray, now: np.ndarray) -> np.ndarray:
        """Draw when the vehicles of trips (k,) are ready (k, draws); one still on its way roughly keeps its delay."""
        previous = self.timetable.previous[trip]
        terminal = self.timetable.terminals[previous]
        ready = np.repeat(self.day.ready[trip][:, None], self.draws, axis=1)
        for row in np.flatnonzero((previous >= 0) & (self.day.arrived[terminal] > now)):
            stops = slice(self.first_visit[previous[row]], terminal[row] + 1)
            planned, departed = self.timetable.planned_seconds[stops], self.day.departed[stops]
            passed = np.flatnonzero(departed <= now[row])
            delay = departed[passed[-1]] - planned[passed[-1]] if len(passed) else max(now[row] - planned[0], 0.0)
            remaining = max(planned[-1] + delay - now[row], 1.0)
            arrival = now[row] + remaining * np.exp(INBOUND_SIGMA * self.rng.standard_normal(self.draws))
            ready[row] = arrival + PARAMETERS.turnaround_seconds
        return ready

    def _run_to_stop(
        self, future: np.ndarray, visit: np.ndarray, departed: np.ndarray, begins: np.ndarray
    ) -> np.ndarray:
        """Run trains (k,) that left the stop before at `departed` (k, draws) to a stop; return when they leave it.

        A train whose run `begins` (k,) here is between the two departures now: the part of it in the past is known.
        """
        p, day, expected_durations = PARAMETERS, self.day, self.day.expected
        now, column, rows = self.now[future], self.timetable.column[visit], len(future)
        approached, arrived = day.approached[visit], day.arrived[visit]
        approaching, standing = begins & (approached <= now), begins & (arrived <= now)

        planned = self.timetable.planned_seconds[visit - 1][:, None]
        lateness = np.clip((departed - planned) / p.recovery_seconds, -1, 1)
        slowness = self.pace[(departed / 60).astype(int)] * (1 - p.recovery_share * lateness)
        clear = self._time_of_train_ahead(self.departed, day.departed, future, visit) + p.clearance_seconds
        free = np.flatnonzero(begins & ~approaching & (clear <= now[:, None]).all(axis=1))
        expected = expected_durations.cruise_seconds[visit][:, None] * slowness
        elapsed = now[free, None] - departed[free]
        cruise = expected * self._draw_factors(p.cruise_sigma, rows, free, elapsed, expected[free])
        approach = np.where(approaching[:, None], approached[:, None], np.maximum(departed + cruise, clear))

        near = np.flatnonzero(approaching & ~standing)
        expected = expected_durations.approach_seconds[visit][:, None] * slowness
        elapsed = now[near, None] - approach[near]
        closing = expected * self._draw_factors(p.approach_sigma, rows, near, elapsed, expected[near])
        arrival = np.where(standing[:, None], arrived[:, None], approach + closing)

        departure = self._draw_departures(future, visit, arrival, standing)
        self.arrived[column, future], self.departed[column, future] = arrival, departure
        return departure

    def _draw_departures(
        self, future: np.ndarray, visit: np.ndarray, arrival: np.ndarray, standing: np.ndarray
    ) -> np.ndarray:
        """Draw when trains (k,) that arrive at a stop at `arrival` (k, draws) leave it; `standing` ones are there."""
        p, now, column = PARAMETERS, self.now[future], self.timetable.column[visit]
        headway = arrival - self._time_of_train_ahead(self.arrived, self.day.arrived, future, visit)
        headway = np.minimum(headway, p.crowding_limit_seconds)
        crowding = p.crowding_base + p.crowding_share * headway / p.crowding_seconds
        congestion = self.congestion[(arrival / 60).astype(int)]
        expected = self.day.expected.dwell_seconds[visit][:, None] * congestion * crowding
        hold = self.incidents.hold_seconds(future, column, arrival)
        hold = hold + _past_incident_hold(self.day.incidents[self.lane], column, arrival, now)
        stands = np.flatnonzero(standing)
        elapsed = now[stands, None] - arrival[stands] - hold[stands]
        dwell = expected * self._draw_factors(p.dwell_sigma, len(future), stands, elapsed, expected[stands])
        return arrival + hold + dwell

    def _time_of_train_ahead(
        self, simulated: np.ndarray, actual: np.ndarray, future: np.ndarray, visit: np.ndarray
    ) -> np.ndarray:
        """Return the times (k, draws) of the train ahead at a stop: `simulated` if it has one, else `actual` (v,)."""
        leader = self.timetable.leader[visit]
        past = np.where(leader < 0, LONG_AGO, actual[leader])[:, None]
        ahead = simulated[self.timetable.column[visit], future]
        return np.where(np.isnan(ahead), past, ahead)

    def _draw_factors(
        self, sigma: float, rows: int, under_way: np.ndarray, elapsed: np.ndarray, expected: np.ndarray
    ) -> np.ndarray:
        """Draw lognormal factors (rows, draws) of durations; those of phases under way exceed the elapsed time."""
        with np.errstate(divide="ignore"):
            lower = np.log(np.maximum(elapsed, 0) / expected) / sigma
        return np.exp(sigma * self._draw_normals(rows, under_way, lower))

    def _draw_normals(self, rows: int, truncated: np.ndarray, lower: np.ndarray) -> np.ndarray:
        """Draw standard normals (rows, draws); those of the truncated rows (b,) exceed `lower` (b, draws)."""
        normals = self.rng.standard_normal((rows, self.draws))
        if len(truncated):
            normals[truncated] = -ndtri((1 - self.rng.random(lower.shape)) * ndtr(-lower))
        return normals


class FutureIncidents:
    """Incidents of a lane that begin after each point in time (m,); at most one in a future, as the rate is low."""

    def __init__(self, lane: Lane, now: np.ndarray, draws: int, rng: np.random.Generator) -> None:
        p, self.weights, size = PARAMETERS, incident_weights(lane), (len(now), draws)
        begin = now[:, None] + rng.standard_exponential(size) * 3600 / p.incidents_per_lane_hour
        self.n_futures = len(now)
        latest = np.minimum(now + HORIZON_SECONDS, SERVICE_SECONDS[1])[:, None]
        self.future, self.draw = np.nonzero(begin < latest)
        self.begin = begin[self.future, self.draw]
        self.amplitude = p.incident_hold_seconds * np.exp(p.incident_hold_sigma * rng.standard_normal(len(self.begin)))
        self.column = rng.integers(0, len(self.weights), len(self.begin))

    def hold_seconds(self, future: np.ndarray, column: np.ndarray, arrival: np.ndarray) -> np.ndarray:
        """Return the seconds (k, draws) for which trains (k,) that arrive at a column at `arrival` are held."""
        row_of_future = np.full(self.n_futures, -1)
        row_of_future[future] = np.arange(len(future))
        incident = np.flatnonzero(row_of_future[self.future] >= 0)
        row, draw = row_of_future[self.future[incident]], self.draw[incident]
        age = arrival[row, draw] - self.begin[incident]
        weight = self.weights[self.column[incident], column[row]] * (age >= 0)
        decay = np.exp(-np.maximum(age, 0) / PARAMETERS.incident_decay_seconds)
        hold = np.zeros_like(arrival)
        hold[row, draw] = weight * self.amplitude[incident] * decay
        return hold


def _past_incident_hold(incidents: Incidents, column: np.ndarray, arrival: np.ndarray, now: np.ndarray) -> np.ndarray:
    """Return the seconds (k, draws) for which incidents that have begun hold trains that arrive at a column (k,)."""
    hold = np.zeros_like(arrival)
    for begin, seconds, weight in zip(incidents.begin_seconds, incidents.hold_seconds, incidents.weight, strict=True):
        held = np.flatnonzero((begin <= now) & (weight[column] > 0))
        age = arrival[held] - begin
        decay = np.exp(-np.maximum(age, 0) / PARAMETERS.incident_decay_seconds) * (age >= 0)
        hold[held] += seconds * weight[column[held], None] * decay
    return hold


@lru_cache
def _last_shared_positions(lane: Lane) -> np.ndarray:
    """Return the last position of another pattern on the way of a pattern (own, other, own position); -1 for none."""
    network = load_network()
    patterns = network.patterns
    longest = max(len(pattern.stop_ids) for pattern in patterns)
    shared = np.full((len(patterns), len(patterns), longest), -1)
    for own, other in product(network.lanes[lane], repeat=2):
        for reach in range(len(patterns[own].stop_ids)):
            way = patterns[own].stop_ids[: reach + 1]
            common = [position for position, stop in enumerate(patterns[other].stop_ids) if stop in way]
            shared[own, other, reach] = max(common, default=-1)
    return shared
