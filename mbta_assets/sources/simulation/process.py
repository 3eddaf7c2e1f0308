"""The random process: when each train of a service day leaves, runs, waits and arrives.

A train's trip is a departure from its origin and then, stop by stop, three phases: cruise, approach, dwell.

- **Departure.** The dispatcher aims at the scheduled time plus a deviation. Deviations of the trains that leave one
  origin in turn are an autoregressive chain z' = rho z + sqrt(1 - rho^2) e of standard normals, bent by Johnson's SU
  curve to the skewed, heavy-tailed deviations that are observed: a whole line runs early or late for a while. Of
  trains that will merge with another branch only a share is left of it. The
  train leaves when that moment has come, its vehicle has arrived and turned round, and the train ahead has left and
  is clear: layovers absorb delay until they are used up, and then pass it on to the trip back.
- **Cruise** and **approach** are lognormal around what the pair of stops takes, times the pace of the line: congestion
  by time of day, a day effect, and drivers who make up time when late and lose it when early. A train begins its
  approach only when the train ahead has cleared the stop, so that delay propagates to those that follow.
- **Dwell** is lognormal around the stop's own, times congestion; it grows with the gap to the train ahead, as
  passengers accumulate.
- The feed **reports** an arrival a moment later: an exponential lag above a least one.
- **Incidents** begin at a stop at a random moment and hold each train that comes: by an amplitude that decays with
  time since it began and with stops along the line.

Everything that is known at an instant (the phase and the elapsed time of every train, the chains' last deviations,
incidents begun, the day effect) is a Markov state: what follows depends on nothing else that is past. Routes do not
wait for one another, though the Green Line's share a tunnel; the branches of the Red Line do.
"""

from dataclasses import dataclass, field
from datetime import date
from functools import cached_property, lru_cache

import numpy as np

from mbta_assets.sources.simulation.network import network
from mbta_assets.sources.simulation.timetable import Timetable, stream, timetable

VERSION = 1
NEVER = -1e9  # long before the service day: when the train ahead of the first one left


@dataclass(frozen=True)
class Parameters:
    """All numbers of the process, chosen so that arrivals are as late, and as stickily so, as is observed."""

    deviation_location_seconds: float = -62.0
    deviation_scale_seconds: float = 300.0
    deviation_skewness: float = -0.28
    deviation_tail: float = 1.1
    deviation_normal_limit: float = 2.5
    deviation_stickiness: float = 0.96
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

    report_least_seconds: float = 0.5
    report_mean_seconds: float = 1.5  # above the least

    incidents_per_lane_hour: float = 0.05
    incident_hold_seconds: float = 150.0
    incident_hold_sigma: float = 0.6
    incident_decay_seconds: float = 900.0
    incident_stops: int = 3
    incident_stop_decay: float = 0.5

    def deviation_seconds(self, z: np.ndarray) -> np.ndarray:
        """Departure deviation of a standard normal."""
        within = np.clip(z, -self.deviation_normal_limit, self.deviation_normal_limit)
        bent = np.sinh((within - self.deviation_skewness) / self.deviation_tail)
        return self.deviation_location_seconds + self.deviation_scale_seconds * bent

    def deviation_normal(self, seconds: np.ndarray) -> np.ndarray:
        """The standard normal of a departure deviation."""
        bent = (seconds - self.deviation_location_seconds) / self.deviation_scale_seconds
        return self.deviation_skewness + self.deviation_tail * np.arcsinh(bent)


PARAMETERS = Parameters()
SERVICE_SECONDS = (5 * 3600, 26 * 3600)  # when incidents may begin
MINUTES = 30 * 60  # of the congestion curve; no train runs later


@dataclass(frozen=True)
class Incidents:
    """Holds at the stops of one lane. Arrays over incidents (i,); `weight` (i, columns) is the share felt at a stop."""

    begin_seconds: np.ndarray
    hold_seconds: np.ndarray
    weight: np.ndarray


@dataclass(frozen=True)
class Track:
    """What each visit (v,) would take without chance: the run from the stop before, and the stay."""

    cruise_seconds: np.ndarray
    approach_seconds: np.ndarray
    dwell_seconds: np.ndarray


@dataclass(frozen=True)
class Day:
    """A service day as it happened, seconds since its start.

    Over trips (t,): `deviation` the standard normal of the departure. Over visits (v,): `approached`, `arrived`,
    `departed`, and `reported`, when the feed learns of the arrival. At the origin only `departed` means something;
    from the terminal a train departs when it is emptied.
    `pace` (route, minute) is congestion times the day effect; `crowd` (route, minute) what congestion does to dwell.
    """

    service_date: date
    seed: int
    timetable: Timetable
    track: Track
    pace: dict[str, np.ndarray]
    crowd: dict[str, np.ndarray]
    incidents: dict[tuple[str, int], Incidents]
    deviation: np.ndarray
    approached: np.ndarray
    arrived: np.ndarray
    departed: np.ndarray
    reported: np.ndarray

    @cached_property
    def ready(self) -> np.ndarray:
        """When each trip's vehicle (t,) stands ready at the origin; long ago where it comes from the yard."""
        previous, first = self.timetable.previous, self.timetable.first
        return np.where(previous < 0, NEVER, self.arrived[first[previous + 1] - 1] + PARAMETERS.turnaround_seconds)


@lru_cache(maxsize=2)
def simulate(service_date: date, seed: int) -> Day:
    """Let a service day happen. The same date and seed give the same day, whatever other days were simulated."""
    plan = timetable(service_date, seed)
    rng = stream(seed, service_date, "process")
    incidents = {lane: _incidents(lane, rng) for lane in network().lanes}
    crowd = {route: _congestion(route, service_date) for route, _ in network().lanes}
    day_effect = np.exp(PARAMETERS.day_effect_sigma * rng.standard_normal(len(crowd)))
    pace = {route: curve * effect for (route, curve), effect in zip(crowd.items(), day_effect, strict=True)}
    track = _track(plan)
    innovations = rng.standard_normal(len(plan.slots))
    noise = rng.standard_normal((3, len(plan.trip)))
    deviation, approached, arrived, departed = _run(plan, track, pace, crowd, incidents, innovations, noise)
    lag = PARAMETERS.report_least_seconds + PARAMETERS.report_mean_seconds * rng.standard_exponential(len(plan.trip))
    reported = np.minimum(arrived + lag, departed)
    return Day(
        service_date, seed, plan, track, pace, crowd, incidents, deviation, approached, arrived, departed, reported
    )


def incident_weights(lane: tuple[str, int]) -> np.ndarray:
    """What share of an incident (columns,) at a stop of the lane is felt at each stop (columns,), on every branch."""
    columns = network().columns[lane]
    weights = np.zeros((len(columns), len(columns)))
    for index in network().lanes[lane]:
        along = [columns[stop] for stop in network().patterns[index].stop_ids]
        for step in range(PARAMETERS.incident_stops):
            weights[along[: len(along) - step], along[step:]] = PARAMETERS.incident_stop_decay**step
    return weights


def deviation_share(plan: Timetable) -> np.ndarray:
    """How much of a deviation each trip (t,) is left: trains that will merge are kept closer to the timetable."""
    patterns = network().patterns
    merging = [len({patterns[index].stop_ids[0] for index in network().lanes[each.lane]}) > 1 for each in patterns]
    return np.where(merging, PARAMETERS.merging_deviation_share, 1.0)[plan.pattern]


def _incidents(lane: tuple[str, int], rng: np.random.Generator) -> Incidents:
    weights = incident_weights(lane)
    begin, end = SERVICE_SECONDS
    count = rng.poisson(PARAMETERS.incidents_per_lane_hour * (end - begin) / 3600)
    hold = PARAMETERS.incident_hold_seconds * np.exp(PARAMETERS.incident_hold_sigma * rng.standard_normal(count))
    return Incidents(rng.uniform(begin, end, count), hold, weights[rng.integers(0, len(weights), count)])


def _congestion(route_id: str, service_date: date) -> np.ndarray:
    """Congestion (minutes,) of a line by minute of the service day: 1 is the timetable's pace."""
    hours = np.arange(MINUTES) / 60
    hour, width, height = np.array(PARAMETERS.congestion_peaks).T[:, :, None]
    peaks = (height * np.exp(-0.5 * ((hours - hour) / width) ** 2)).sum(axis=0)
    share = PARAMETERS.congestion_by_line[route_id.split("-")[0]]
    if service_date.weekday() > 4:
        share *= PARAMETERS.weekend_congestion
    return PARAMETERS.congestion_base + share * peaks


def _track(plan: Timetable) -> Track:
    """Split each scheduled run into dwell, cruise and approach; each pair of stops has a lasting bias of its own."""
    bias, run = _pair_bias(), [pattern.run_seconds for pattern in network().patterns]
    at_origin = [np.array([True] * 2 + [False] * (len(seconds) - 2)) for seconds in run]
    dwell = [
        np.where(first, 0.0, np.clip(PARAMETERS.dwell_share * seconds, *PARAMETERS.dwell_seconds))
        for seconds, first in zip(run, at_origin, strict=True)
    ]  # before the run to the stop; a train does not dwell at its origin
    approach = [np.clip(PARAMETERS.approach_share * seconds, *PARAMETERS.approach_seconds) for seconds in run]
    cruise = [r - d - a + b for r, d, a, b in zip(run, dwell, approach, bias, strict=True)]
    emptied = [np.append(seconds[1:], 45.0) for seconds in dwell]
    pattern = plan.pattern
    return Track(*(np.concatenate([parts[p] for p in pattern]) for parts in (cruise, approach, emptied)))


def _pair_bias() -> list[np.ndarray]:
    """By how much each pair of stops takes longer than scheduled, the same every day and zero over a whole line."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence(VERSION)))
    biases = []
    for pattern in network().patterns:
        bias = rng.normal(0, PARAMETERS.pair_bias_seconds, len(pattern.stop_ids) - 1)
        limit = 0.12 * pattern.run_seconds[1:]
        biases.append(np.append(0.0, np.clip(bias - bias.mean(), -limit, limit)))
    return biases


def _run(
    plan: Timetable,
    track: Track,
    pace: dict[str, np.ndarray],
    crowd: dict[str, np.ndarray],
    incidents: dict[tuple[str, int], Incidents],
    innovations: np.ndarray,
    noise: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Run the trips in order, in plain floats: each waits only for trips before it."""
    p = PARAMETERS
    cruise_seconds = (track.cruise_seconds * np.exp(p.cruise_sigma * noise[0])).tolist()
    approach_seconds = (track.approach_seconds * np.exp(p.approach_sigma * noise[1])).tolist()
    dwell_seconds = (track.dwell_seconds * np.exp(p.dwell_sigma * noise[2])).tolist()
    deviation = _deviations(plan, innovations)
    aimed = (plan.planned_seconds[plan.first[:-1]] + deviation_share(plan) * p.deviation_seconds(deviation)).tolist()
    pace_of, crowd_of = ({route: curve.tolist() for route, curve in curves.items()} for curves in (pace, crowd))
    planned, leader, first = plan.planned_seconds.tolist(), plan.leader.tolist(), plan.first.tolist()
    previous, column, pattern = plan.previous.tolist(), plan.column.tolist(), plan.pattern.tolist()
    holds = {lane: _by_column(of_lane) for lane, of_lane in incidents.items()}
    approached, arrived, departed = ([0.0] * len(planned) for _ in range(3))
    for trip, origin in enumerate(first[:-1]):
        route, lane = network().patterns[pattern[trip]].route_id, network().patterns[pattern[trip]].lane
        pace_by_minute, crowd_by_minute, lane_holds = pace_of[route], crowd_of[route], holds[lane]
        ready = arrived[first[previous[trip] + 1] - 1] + p.turnaround_seconds if previous[trip] >= 0 else NEVER
        clear = departed[leader[origin]] + p.clearance_seconds if leader[origin] >= 0 else NEVER
        left = departed[origin] = max(aimed[trip], ready, clear)
        for visit in range(origin + 1, first[trip + 1]):
            ahead = leader[visit]
            late = min(max((left - planned[visit - 1]) / p.recovery_seconds, -1.0), 1.0)
            slowness = pace_by_minute[int(left / 60)] * (1 - p.recovery_share * late)
            approach = left + cruise_seconds[visit] * slowness
            if ahead >= 0:
                approach = max(approach, departed[ahead] + p.clearance_seconds)
            arrival = approach + approach_seconds[visit] * slowness
            gap = min(arrival - arrived[ahead], p.crowding_limit_seconds) if ahead >= 0 else p.crowding_limit_seconds
            crowding = p.crowding_base + p.crowding_share * gap / p.crowding_seconds
            left = arrival + dwell_seconds[visit] * crowd_by_minute[int(arrival / 60)] * crowding
            for begin, hold in lane_holds.get(column[visit], ()):
                if arrival >= begin:
                    left += hold * np.exp((begin - arrival) / p.incident_decay_seconds)
            approached[visit], arrived[visit], departed[visit] = approach, arrival, left
    return deviation, np.array(approached), np.array(arrived), np.array(departed)


def _deviations(plan: Timetable, innovations: np.ndarray) -> np.ndarray:
    """The chain of deviations (t,): each train's follows that of the last one to leave the same origin."""
    stickiness = PARAMETERS.deviation_stickiness
    deviation = innovations.copy()
    origins = plan.first[:-1]
    for trip, leader in enumerate(plan.leader[origins]):
        if leader >= 0:
            fresh = np.sqrt(1 - stickiness**2) * innovations[trip]
            deviation[trip] = stickiness * deviation[plan.trip[leader]] + fresh
    return deviation


def _by_column(incidents: Incidents) -> dict[int, list[tuple[float, float]]]:
    """Begin and hold of the incidents felt at each column."""
    holds: dict[int, list[tuple[float, float]]] = {}
    for incident, column in zip(*np.nonzero(incidents.weight), strict=True):
        hold = incidents.hold_seconds[incident] * incidents.weight[incident, column]
        holds.setdefault(int(column), []).append((float(incidents.begin_seconds[incident]), float(hold)))
    return holds
