"""The published feed of a simulated service day: vehicle updates with the irregularities of the real feed.

A vehicle reports its position at intervals, and usually when its status changes. Positions depend only on what is known
at that time: where a train that departed so long ago is expected to be, not how long its run will take. So neither
positions, speeds nor the times of updates reveal the future.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.sources.simulation.network import BERTHS, load_network
from mbta_assets.sources.simulation.process import SimulatedDay
from mbta_assets.sources.simulation.timetable import Timetable, random_generator
from mbta_assets.transit import schema, service_day

IN_TRANSIT_TO, INCOMING_AT, STOPPED_AT = range(len(schema.STATUSES))
METRES_PER_DEGREE = 111_195.0
"""Length of a degree of latitude."""


@dataclass(frozen=True)
class FeedParameters:
    """Parameters of the feed. The real one publishes each update about ten times; here 1.2, which keeps a day small.

    Intervals are ranges in seconds between updates; shares are probabilities.
    """

    interval_seconds: tuple[float, float] = (20.0, 30.0)
    layover_interval_seconds: tuple[float, float] = (70.0, 110.0)
    idle_interval_seconds: tuple[float, float] = (240.0, 300.0)
    terminal_seconds: float = 45.0  # time at the terminal for which a vehicle shows the trip that it has ended
    layover_shown_seconds: float = 300.0  # time before the planned departure from which it shows the next trip
    change_reported_share: float = 0.92  # departures and approaches that are reported as they happen
    approach_from: float = 0.88  # fraction of the way to the next stop at which the approach begins
    cruise_eagerness: float = 1.2
    approach_eagerness: float = 1.5
    gps_noise_metres: float = 10.0

    republished_mean: float = 0.2  # mean number of copies of an update beyond the first, geometric
    republished_within_seconds: float = 20.0
    missing_stop_share: float = 0.015  # visits without any STOPPED_AT
    flapping_share: float = 0.03  # repeated updates of a stopped train with a moving status; half have both
    two_statuses_share: float = 0.2  # first updates of an approach that are published as in transit, too
    null_trip_share: float = 0.004
    null_stop_share: float = 0.004
    berth_share: float = 0.6  # updates of vehicles at a terminal with berths that have the id of the berth
    out_of_order_share: float = 0.02
    out_of_order_seconds: float = 90.0


FEED = FeedParameters()


@dataclass(frozen=True)
class Updates:
    """Vehicle updates, arrays (n,).

    - `visit`: the visit that an update is about; `on_trip`: whether it names the trip.
    - `phase`: the status of the vehicle's phase; `status`: the status that is reported.
    - `seconds`: time of the update; `since`: time since the phase began; `first`: whether it is the phase's first.
    - `expected`: expected duration of the phase in seconds.
    """

    visit: np.ndarray
    phase: np.ndarray
    status: np.ndarray
    seconds: np.ndarray
    since: np.ndarray
    expected: np.ndarray
    first: np.ndarray
    on_trip: np.ndarray

    def take(self, rows: np.ndarray) -> "Updates":
        """Return the updates of some rows (m,), an index or a mask."""
        return Updates(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


def concatenate_updates(parts: Sequence[Updates]) -> Updates:
    """Return the updates of several parts, one part after the other."""
    return Updates(
        **{field.name: np.concatenate([getattr(part, field.name) for part in parts]) for field in fields(Updates)}
    )


@dataclass(frozen=True)
class Phase:
    """A kind of phase with arrays over its occurrences (p,): the visit, start and end, and the expected duration.

    `interval` is the range of seconds between updates, `start_reported_share` the probability that the start is
    reported, and `on_trip` whether the vehicle shows the trip.
    """

    status: int
    visit: np.ndarray
    start: np.ndarray
    end: np.ndarray
    expected: np.ndarray
    interval: tuple[float, float]
    start_reported_share: float
    on_trip: bool = True


def publish_vehicle_updates(day: SimulatedDay) -> pd.DataFrame:
    """Return the published updates of a service day, typed as `schema.Vehicle`, in the order of publication."""
    rng = random_generator(day.seed, day.service_date, "feed")
    updates = _add_irregularities(_report_phases(day, rng), day.timetable, rng)
    return _publish(updates, day, rng)


def _report_phases(day: SimulatedDay, rng: np.random.Generator) -> Updates:
    """Return the updates of all phases: at the start with some probability, and at intervals until the end."""
    phases = _list_phases(day)
    sizes = [len(phase.visit) for phase in phases]
    start, end = np.concatenate([phase.start for phase in phases]), np.concatenate([phase.end for phase in phases])
    interval = np.repeat([phase.interval for phase in phases], sizes, axis=0)
    reported_share = np.repeat([phase.start_reported_share for phase in phases], sizes)
    count = np.where(end > start, np.floor((end - start) / interval[:, 0]), -1).astype(int) + 1
    row = np.repeat(np.arange(len(start)), count)
    begins = np.concatenate([[0], np.cumsum(count)[:-1]])[row]
    first = np.arange(len(row)) == begins
    step = np.where(first, 0.0, rng.uniform(interval[row, 0], interval[row, 1]))
    elapsed = np.cumsum(step)
    since = elapsed - elapsed[begins]
    status = np.repeat([phase.status for phase in phases], sizes)[row]
    updates = Updates(
        visit=np.concatenate([phase.visit for phase in phases])[row],
        phase=status,
        status=status,
        seconds=start[row] + since,
        since=since,
        expected=np.concatenate([phase.expected for phase in phases])[row],
        first=first,
        on_trip=np.repeat([phase.on_trip for phase in phases], sizes)[row],
    )
    return updates.take(np.where(first, rng.random(len(row)) < reported_share[row], start[row] + since < end[row]))


def _list_phases(day: SimulatedDay) -> list[Phase]:
    """Return the phases of all trips: cruise, approach, dwell, layover, and idling between two trips."""
    timetable, expected = day.timetable, day.expected
    origin = timetable.origins
    stop = np.flatnonzero(timetable.position > 0)
    at_terminal = np.isin(stop, timetable.terminals)
    left = np.where(at_terminal, day.reported[stop] + FEED.terminal_seconds, day.departed[stop])
    due = timetable.planned_seconds[origin] - FEED.layover_shown_seconds
    emptied = day.arrived[timetable.terminals[timetable.previous]] + 2 * FEED.terminal_seconds
    shown = np.where(timetable.previous < 0, due, np.maximum(emptied, due))
    shown = np.minimum(shown, day.departed[origin])
    reused = np.flatnonzero(timetable.previous >= 0)
    idle = origin[reused]
    cruise, approach, dwell = expected.cruise_seconds, expected.approach_seconds, expected.dwell_seconds
    change, interval = FEED.change_reported_share, FEED.interval_seconds
    layover_interval, idle_interval = FEED.layover_interval_seconds, FEED.idle_interval_seconds
    return [
        Phase(IN_TRANSIT_TO, stop, day.departed[stop - 1], day.approached[stop], cruise[stop], interval, change),
        Phase(INCOMING_AT, stop, day.approached[stop], day.reported[stop], approach[stop], interval, change),
        Phase(STOPPED_AT, stop, day.reported[stop], left, dwell[stop], interval, 1.0),
        Phase(STOPPED_AT, origin, shown, day.departed[origin], dwell[origin], layover_interval, 1.0),
        Phase(STOPPED_AT, idle, emptied[reused], shown[reused], dwell[idle], idle_interval, 1.0, on_trip=False),
    ]


def _add_irregularities(updates: Updates, timetable: Timetable, rng: np.random.Generator) -> Updates:
    """Remove the STOPPED_AT updates of some visits and add contradicting statuses."""
    missed = (rng.random(len(timetable.trip)) < FEED.missing_stop_share) & (timetable.position > 0)
    updates = updates.take(~((updates.status == STOPPED_AT) & missed[updates.visit]))
    moving = rng.choice([IN_TRANSIT_TO, INCOMING_AT], len(updates.visit))
    chance = rng.random(len(updates.visit))
    still_stands = (updates.status == STOPPED_AT) & ~updates.first & updates.on_trip
    flaps = still_stands & (chance < FEED.flapping_share)
    has_both = flaps & (chance < FEED.flapping_share / 2)
    approaches = (updates.status == INCOMING_AT) & updates.first & (chance < FEED.two_statuses_share)
    changed = replace(updates, status=np.where(flaps, moving, updates.status))
    added = replace(updates, status=np.where(approaches, IN_TRANSIT_TO, updates.status))
    return concatenate_updates([changed, added.take(has_both | approaches)])


def _publish(updates: Updates, day: SimulatedDay, rng: np.random.Generator) -> pd.DataFrame:
    """Return the rows as published: some repeated, some late, some without trip or stop, terminals by their berths."""
    columns = _make_columns(updates, day, rng)
    copies = rng.geometric(1 / (1 + FEED.republished_mean), len(updates.visit))
    row = np.repeat(np.arange(len(copies)), copies)
    is_copy = np.append(False, row[1:] == row[:-1])
    is_late = rng.random(len(row)) < FEED.out_of_order_share
    published = updates.seconds[row]
    published += np.where(is_copy, rng.uniform(0, FEED.republished_within_seconds, len(row)), 0)
    published += np.where(is_late, rng.uniform(0, FEED.out_of_order_seconds, len(row)), 0)
    row = row[np.argsort(published, kind="stable")]
    table = arrow.table(columns, schema=schema.arrow_schema(schema.Vehicle)).take(arrow.array(row))
    return schema.to_frame(table)


def _make_columns(updates: Updates, day: SimulatedDay, rng: np.random.Generator) -> list[arrow.Array]:
    """Return the columns of `schema.Vehicle` for distinct updates."""
    timetable, size = day.timetable, len(updates.visit)
    trip = timetable.trip[updates.visit]
    pattern_index = timetable.pattern[trip]
    patterns = load_network().patterns
    latitude, longitude, bearing, speed = _expect_movement(updates, timetable, rng)
    start = np.datetime64(service_day.start_time(day.service_date).replace(tzinfo=None), "us")
    updated_at = start + (np.ceil(updates.seconds) * 1e6).astype("timedelta64[us]")
    has_trip = updates.on_trip & (rng.random(size) >= FEED.null_trip_share)
    stop, stop_ids = _report_stops(updates, timetable, rng)
    has_stop = rng.random(size) >= FEED.null_stop_share
    return [
        arrow.repeat(arrow.scalar(day.service_date, arrow.date32()), size),
        _take_text(timetable.vehicle_ids, trip),
        arrow.array(updated_at).cast(arrow.timestamp("us", tz="UTC")),
        _take_text(schema.STATUSES, updates.status),
        arrow.array(latitude),
        arrow.array(longitude),
        _take_text(stop_ids, stop, has_stop),
        _take_text([planned.trip_id for planned in timetable.trips], trip, has_trip),
        _take_text([pattern.route_id for pattern in patterns], pattern_index),
        arrow.array(np.array([pattern.direction_id for pattern in patterns])[pattern_index]),
        arrow.array(compute_stop_sequences(timetable)[updates.visit]),
        arrow.array(bearing),
        arrow.array(speed),
        arrow.nulls(size, arrow.string()),
    ]


def compute_stop_sequences(timetable: Timetable) -> np.ndarray:
    """Return the stop sequences (v,) of the feed: multiples of ten, and on some trips a 1 at the last stop."""
    sequences = 10 * (timetable.position + 1)
    last_sequence_one = np.array([trip.last_sequence_one for trip in timetable.trips])
    sequences[timetable.terminals[last_sequence_one]] = 1
    return sequences


def _report_stops(updates: Updates, timetable: Timetable, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Return the stop (n,) that each update names, as an index into the returned ids; a vehicle keeps its berth."""
    stop_ids = [*load_network().platforms, *BERTHS]
    index_of = {stop_id: index for index, stop_id in enumerate(stop_ids)}
    stop_of_visit = np.array([index_of[stop_id] for stop_id in timetable.stop_ids.tolist()])
    berth_of_stop = np.arange(len(stop_ids))[:, None].repeat(2, axis=1)
    for berth, stop_id in BERTHS.items():
        berth_of_stop[index_of[stop_id], int(berth.endswith("02"))] = index_of[berth]
    stop = stop_of_visit[updates.visit]
    berth = np.array([int(vehicle[-1]) % 2 for vehicle in timetable.vehicle_ids])[timetable.trip[updates.visit]]
    names_berth = (updates.status == STOPPED_AT) & (rng.random(len(stop)) < FEED.berth_share)
    return np.where(names_berth, berth_of_stop[stop, berth], stop), stop_ids


def _expect_movement(updates: Updates, timetable: Timetable, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Return latitude, longitude (degrees), bearing (degrees) and speed (m/s) expected from the time in the phase."""
    platforms = load_network().platforms
    position = np.array([[platforms[s].latitude, platforms[s].longitude] for s in timetable.stop_ids])
    visits = np.arange(len(position))
    origin = position[np.where(timetable.position > 0, visits - 1, visits)][updates.visit]
    way = position[updates.visit] - origin
    longitude_scale = np.cos(np.radians(position[:, 0].mean()))
    north, east = METRES_PER_DEGREE * way[:, 0], METRES_PER_DEGREE * longitude_scale * way[:, 1]
    # By phase: how fast the vehicle covers its part of the way, and where that part begins and how long it is.
    eagerness = np.array([FEED.cruise_eagerness, FEED.approach_eagerness, 0.0])[updates.phase]
    start = np.array([0.0, FEED.approach_from, 1.0])[updates.phase]
    length = np.array([FEED.approach_from, 1 - FEED.approach_from, 0.0])[updates.phase]
    rate = eagerness / np.maximum(updates.expected, 1.0)
    progress = start + length * np.tanh(rate * updates.since)
    speed = np.hypot(north, east) * length * rate / np.cosh(np.minimum(rate * updates.since, 20)) ** 2
    noise = rng.normal(0, FEED.gps_noise_metres / METRES_PER_DEGREE, (len(way), 2)) / [1.0, longitude_scale]
    reported = (origin + progress[:, None] * way + noise).round(5)
    bearing = np.degrees(np.arctan2(east, north)).round() % 360
    return reported[:, 0], reported[:, 1], bearing, speed.round(1)


def _take_text(values: Sequence[str], index: np.ndarray, valid: np.ndarray | None = None) -> arrow.Array:
    """Return the values (n,) at some positions, missing where they are not `valid`."""
    codes = arrow.array(index, arrow.int32(), mask=None if valid is None else ~valid)
    return arrow.DictionaryArray.from_arrays(codes, arrow.array(values, arrow.string())).cast(arrow.string())
