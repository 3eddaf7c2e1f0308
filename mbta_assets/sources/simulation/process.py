"""The random process of the simulation: when each train of a service day departs, runs, arrives and dwells.

A trip is a departure from the origin and then, stop by stop, three phases: cruise, approach, dwell.

- **Departure.** The dispatcher aims at the scheduled time plus a deviation. The deviations of consecutive trains from
  one origin are an autoregressive chain z' = rho z + sqrt(1 - rho^2) e of standard normals, transformed by Johnson's SU
  curve to the skewed and heavy-tailed deviations that are observed: a line runs early or late for a while. Trains that
  will merge with another branch have a fraction of the deviation. A train departs when that time has come, its vehicle
  has arrived and turned round, and the train ahead is clear of the origin. So layovers absorb delay up to their length
  and pass the rest on to the trip back.
- **Cruise** and **approach** are lognormal around the expectation of the pair of stops times the pace of the line:
  congestion by time of day, a day effect, and drivers who make up time when late and lose it when early. A train begins
  its approach only when the train ahead is clear of the stop, so that delay propagates to the trains behind.
- **Dwell** is lognormal around the expectation of the stop times congestion; it grows with the headway, as passengers
  accumulate.
- **Report.** The feed reports an arrival after an exponential lag above a minimum.
- **Incidents** begin at a stop at a random time and hold each train that arrives, by an amplitude that decays with the
  time since then and with the stops along the line.

The state at a point in time (phase and elapsed time of every train, last deviation of every chain, incidents that have
begun, day effect) is Markov: what follows depends on nothing else in the past. Routes do not wait for one another,
although the Green Line's share a tunnel; the branches of the Red Line do.
"""

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache

import numpy as np

from mbta_assets.sources.simulation.network import Lane, load_network
from mbta_assets.sources.simulation.timetable import Timetable, build_timetable, random_generator

BIAS_SEED = 1
"""Seed of the lasting bias of each pair of stops, the same in every simulation."""
LONG_AGO = -1e9
"""Time at which the train ahead of the first one departed: long before the service day."""


@dataclass(frozen=True)
class Parameters:
    """Parameters of the process, chosen to match the size and persistence of observed delays.

    Shares are fractions, sigmas are of the logarithm, and congestion is relative to the scheduled run time.
    """

    deviation_location_seconds: float = -62.0
    deviation_scale_seconds: float = 300.0
    deviation_skewness: float = -0.28
    deviation_tail: float = 1.1
    deviation_normal_limit: float = 2.5
    deviation_persistence: float = 0.96
    merging_deviation_share: float = 0.3
    turnaround_seconds: float = 180.0
    clearance_seconds: float = 45.0

    dwell_share: float = 0.25
    dwell_seconds: tuple[float, float] = (15.0, 40.0)
    approach_share: float = 0.18
    approach_seconds: tuple[float, float] = (10.0, 28.0)
    pair_bias_seconds: float = 7.0
    cruise_sigma: float = 0.145
    approach_sigma: float = 0.3
    dwell_sigma: float = 0.32

    congestion_base: float = 0.93
    congestion_peaks: tuple[tuple[float, float, float], ...] = ((8.2, 1.1, 0.20), (17.3, 1.4, 0.23))
    congestion_by_line: dict[str, float] = field(
        default_factory=lambda: {"Red": 1.0, "Orange": 0.9, "Blue": 0.8, "Green": 1.15, "Mattapan": 0.6}
    )
    weekend_congestion: float = 0.35
    day_effect_sigma: float = 0.015
    recovery_share: float = 0.12
    recovery_seconds: float = 600.0

    crowding_base: float = 0.75
    crowding_share: float = 0.25
    crowding_seconds: float = 480.0
    crowding_limit_seconds: float = 900.0

    min_report_seconds: float = 0.5
    report_mean_seconds: float = 1.5  # above the minimum

    incidents_per_lane_hour: float = 0.05
    incident_hold_seconds: float = 150.0
    incident_hold_sigma: float = 0.6
    incident_decay_seconds: float = 900.0
    incident_stops: int = 3
    incident_stop_decay: float = 0.5

    def deviation_seconds(self, z: np.ndarray) -> np.ndarray:
        """Transform standard normals to departure deviations."""
        clipped = np.clip(z, -self.deviation_normal_limit, self.deviation_normal_limit)
        transformed = np.sinh((clipped - self.deviation_skewness) / self.deviation_tail)
        return self.deviation_location_seconds + self.deviation_scale_seconds * transformed

    def deviation_normal(self, seconds: np.ndarray) -> np.ndarray:
        """Transform departure deviations to standard normals."""
        standardized = (seconds - self.deviation_location_seconds) / self.deviation_scale_seconds
        return self.deviation_skewness + self.deviation_tail * np.arcsinh(standardized)


PARAMETERS = Parameters()
SERVICE_SECONDS = (5 * 3600, 26 * 3600)
"""Range of times at which incidents begin."""
MINUTES = 30 * 60
"""Length of the congestion curve; all trains have arrived before its end."""
TERMINAL_DWELL_SECONDS = 45.0
MAX_BIAS_SHARE = 0.12
"""Limit of the bias of a pair of stops, as a share of its scheduled run time."""


@dataclass(frozen=True)
class Incidents:
    """Incidents on one lane, arrays (i,); `weight` (i, columns) is the share of the hold at each stop."""

    begin_seconds: np.ndarray
    hold_seconds: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class ExpectedDurations:
    """Durations (v,) of each visit's phases without randomness: the run from the stop before, and the dwell."""

    cruise_seconds: np.ndarray
    approach_seconds: np.ndarray
    dwell_seconds: np.ndarray


@dataclass(frozen=True)
class SimulatedDay:
    """A simulated service day, in seconds since its start.

    - `deviation` (t,): standard normal of each trip's departure deviation.
    - `approached`, `arrived`, `departed` (v,): when each visit's phases began. At the origin only `departed` has a
      meaning; at the terminal it is when the train has been emptied.
    - `reported` (v,): when the feed learns of the arrival.
    - `pace`: congestion times the day effect by route, each (minutes,); `congestion`: without the day effect.
    """

    service_date: date
    seed: int
    timetable: Timetable
    expected: ExpectedDurations
    pace: dict[str, np.ndarray]
    congestion: dict[str, np.ndarray]
    incidents: dict[Lane, Incidents]
    deviation: np.ndarray
    approached: np.ndarray
    arrived: np.ndarray
    departed: np.ndarray
    reported: np.ndarray

    @cached_property
    def ready(self) -> np.ndarray:
        """Return when each trip's vehicle (t,) is ready at the origin; `LONG_AGO` if it comes from the yard."""
        previous = self.timetable.previous
        turned_round = self.arrived[self.timetable.terminals[previous]] + PARAMETERS.turnaround_seconds
        return np.where(previous < 0, LONG_AGO, turned_round)


@lru_cache(maxsize=2)
def simulate(service_date: date, seed: int) -> SimulatedDay:
    """Simulate a service day, determined by the date and the seed whatever other days are simulated."""
    timetable = build_timetable(service_date, seed)
    rng = random_generator(seed, service_date, "process")
    lanes = load_network().lanes
    incidents = {lane: _draw_incidents(lane, rng) for lane in lanes}
    congestion = {route: _congestion_curve(route, service_date) for route, _ in lanes}
    day_effect = np.exp(PARAMETERS.day_effect_sigma * rng.standard_normal(len(congestion)))
    pace = {route: curve * effect for (route, curve), effect in zip(congestion.items(), day_effect, strict=True)}
    expected = _expect_durations(timetable)
    deviation = _chain_deviations(timetable, rng.standard_normal(len(timetable.trips)))
    noise = rng.standard_normal((3, len(timetable.trip)))
    approached, arrived, departed = _run_trips(timetable, expected, pace, congestion, incidents, deviation, noise)
    lag = PARAMETERS.min_report_seconds + PARAMETERS.report_mean_seconds * rng.standard_exponential(len(timetable.trip))
    return SimulatedDay(
        service_date=service_date,
        seed=seed,
        timetable=timetable,
        expected=expected,
        pace=pace,
        congestion=congestion,
        incidents=incidents,
        deviation=deviation,
        approached=approached,
        arrived=arrived,
        departed=departed,
        reported=np.minimum(arrived + lag, departed),
    )


def incident_weights(lane: Lane) -> np.ndarray:
    """Return the share of an incident at each stop of a lane that is felt at each stop (columns, columns)."""
    network = load_network()
    columns = network.columns[lane]
    weights = np.zeros((len(columns), len(columns)))
    for index in network.lanes[lane]:
        along = [columns[stop] for stop in network.patterns[index].stop_ids]
        for step in range(PARAMETERS.incident_stops):
            weights[along[: len(along) - step], along[step:]] = PARAMETERS.incident_stop_decay**step
    return weights


def deviation_share(timetable: Timetable) -> np.ndarray:
    """Return the fraction (t,) of its deviation that each trip has; less than 1 for trains that will merge."""
    network = load_network()
    origins = [
        {network.patterns[index].stop_ids[0] for index in network.lanes[pattern.lane]} for pattern in network.patterns
    ]
    merges = np.array([len(stops) > 1 for stops in origins])
    return np.where(merges, PARAMETERS.merging_deviation_share, 1.0)[timetable.pattern]


def _draw_incidents(lane: Lane, rng: np.random.Generator) -> Incidents:
    weights = incident_weights(lane)
    begin, end = SERVICE_SECONDS
    count = rng.poisson(PARAMETERS.incidents_per_lane_hour * (end - begin) / 3600)
    hold = PARAMETERS.incident_hold_seconds * np.exp(PARAMETERS.incident_hold_sigma * rng.standard_normal(count))
    return Incidents(rng.uniform(begin, end, count), hold, weights[rng.integers(0, len(weights), count)])


def _congestion_curve(route_id: str, service_date: date) -> np.ndarray:
    """Return the congestion (minutes,) of a route by minute of the service day; 1 is the scheduled pace."""
    hours = np.arange(MINUTES) / 60
    hour, width, height = np.array(PARAMETERS.congestion_peaks).T[:, :, None]
    peaks = (height * np.exp(-0.5 * ((hours - hour) / width) ** 2)).sum(axis=0)
    share = PARAMETERS.congestion_by_line[route_id.split("-")[0]]
    if service_date.weekday() > 4:
        share *= PARAMETERS.weekend_congestion
    return PARAMETERS.congestion_base + share * peaks


def _expect_durations(timetable: Timetable) -> ExpectedDurations:
    """Split each scheduled run time into dwell, cruise and approach, and add the bias of the pair of stops."""
    cruise, approach, dwell = [], [], []
    for pattern, bias in zip(load_network().patterns, _pair_biases(), strict=True):
        run = pattern.run_seconds
        dwell_before = np.clip(PARAMETERS.dwell_share * run, *PARAMETERS.dwell_seconds)
        dwell_before[:2] = 0.0  # nothing comes before the origin, and the wait there is a layover
        approach.append(np.clip(PARAMETERS.approach_share * run, *PARAMETERS.approach_seconds))
        cruise.append(run - dwell_before - approach[-1] + bias)
        dwell.append(np.append(dwell_before[1:], TERMINAL_DWELL_SECONDS))
    cruise_seconds, approach_seconds, dwell_seconds = (
        np.concatenate([by_pattern[pattern] for pattern in timetable.pattern])
        for by_pattern in (cruise, approach, dwell)
    )
    return ExpectedDurations(cruise_seconds, approach_seconds, dwell_seconds)


def _pair_biases() -> list[np.ndarray]:
    """Return by pattern the seconds (stops,) that each run takes longer than scheduled, about zero over the pattern."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(BIAS_SEED)))
    biases = []
    for pattern in load_network().patterns:
        bias = rng.normal(0, PARAMETERS.pair_bias_seconds, len(pattern.stop_ids) - 1)
        limit = MAX_BIAS_SHARE * pattern.run_seconds[1:]
        biases.append(np.append(0.0, np.clip(bias - bias.mean(), -limit, limit)))
    return biases


def _run_trips(
    timetable: Timetable,
    expected: ExpectedDurations,
    pace: dict[str, np.ndarray],
    congestion: dict[str, np.ndarray],
    incidents: dict[Lane, Incidents],
    deviation: np.ndarray,
    noise: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Run the trips in order and return the times (v,) of approaches, arrivals and departures.

    A trip waits only for trips before it. Plain floats are several times faster here than NumPy scalars.
    """
    p = PARAMETERS
    cruise_seconds = (expected.cruise_seconds * np.exp(p.cruise_sigma * noise[0])).tolist()
    approach_seconds = (expected.approach_seconds * np.exp(p.approach_sigma * noise[1])).tolist()
    dwell_seconds = (expected.dwell_seconds * np.exp(p.dwell_sigma * noise[2])).tolist()
    planned_departure = timetable.planned_seconds[timetable.origins]
    target = (planned_departure + deviation_share(timetable) * p.deviation_seconds(deviation)).tolist()
    planned, leader, column = (
        values.tolist() for values in (timetable.planned_seconds, timetable.leader, timetable.column)
    )
    first_visit, previous = timetable.first_visit.tolist(), timetable.previous.tolist()
    pace_curves, congestion_curves = (
        {route: c.tolist() for route, c in curves.items()} for curves in (pace, congestion)
    )
    holds = {lane: _holds_by_column(on_lane) for lane, on_lane in incidents.items()}
    approached, arrived, departed = ([0.0] * len(planned) for _ in range(3))
    for trip, origin in enumerate(first_visit[:-1]):
        lane = load_network().patterns[timetable.trips[trip].pattern].lane
        pace_curve, congestion_curve, lane_holds = pace_curves[lane[0]], congestion_curves[lane[0]], holds[lane]
        ready = arrived[first_visit[previous[trip] + 1] - 1] + p.turnaround_seconds if previous[trip] >= 0 else LONG_AGO
        clear = departed[leader[origin]] + p.clearance_seconds if leader[origin] >= 0 else LONG_AGO
        departure = departed[origin] = max(target[trip], ready, clear)
        for visit in range(origin + 1, first_visit[trip + 1]):
            ahead = leader[visit]
            lateness = min(max((departure - planned[visit - 1]) / p.recovery_seconds, -1.0), 1.0)
            slowness = pace_curve[int(departure / 60)] * (1 - p.recovery_share * lateness)
            approach = departure + cruise_seconds[visit] * slowness
            if ahead >= 0:
                approach = max(approach, departed[ahead] + p.clearance_seconds)
            arrival = approach + approach_seconds[visit] * slowness
            headway = arrival - arrived[ahead] if ahead >= 0 else p.crowding_limit_seconds
            crowding = p.crowding_base + p.crowding_share * min(headway, p.crowding_limit_seconds) / p.crowding_seconds
            departure = arrival + dwell_seconds[visit] * congestion_curve[int(arrival / 60)] * crowding
            for begin, hold in lane_holds.get(column[visit], ()):
                if arrival >= begin:
                    departure += hold * np.exp((begin - arrival) / p.incident_decay_seconds)
            approached[visit], arrived[visit], departed[visit] = approach, arrival, departure
    return np.array(approached), np.array(arrived), np.array(departed)


def _chain_deviations(timetable: Timetable, innovations: np.ndarray) -> np.ndarray:
    """Return the standard normal (t,) of each deviation, which depends on the last departure from the same origin."""
    persistence = PARAMETERS.deviation_persistence
    deviation = innovations.copy()
    for trip, leader in enumerate(timetable.leader[timetable.origins]):
        if leader >= 0:
            innovation = np.sqrt(1 - persistence**2) * innovations[trip]
            deviation[trip] = persistence * deviation[timetable.trip[leader]] + innovation
    return deviation


def _holds_by_column(incidents: Incidents) -> dict[int, list[tuple[float, float]]]:
    """Return the beginning and the hold of the incidents that are felt at each column."""
    holds: dict[int, list[tuple[float, float]]] = {}
    for incident, column in zip(*np.nonzero(incidents.weight), strict=True):
        hold = incidents.hold_seconds[incident] * incidents.weight[incident, column]
        holds.setdefault(int(column), []).append((float(incidents.begin_seconds[incident]), float(hold)))
    return holds
