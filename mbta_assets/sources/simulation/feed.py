"""What is published of a service day: vehicle updates, with everything that makes the real feed hard.

A vehicle reports where it is every so often, and mostly when its status changes. Positions follow what can be known
at that moment: where a train that left so many seconds ago is expected to be, never how long its run will turn out
to take. So neither position nor speed tells the future, and no time of an update does.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as arrow

from mbta_assets.sources.simulation.network import network
from mbta_assets.sources.simulation.process import Day
from mbta_assets.sources.simulation.timetable import Timetable, stream
from mbta_assets.transit import schema, service_day
from mbta_assets.transit.platforms import PLATFORM_ALIASES

IN_TRANSIT_TO, INCOMING_AT, STOPPED_AT = range(len(schema.STATUSES))
METRES_PER_DEGREE = 111_195.0


@dataclass(frozen=True)
class FeedParameters:
    """All numbers of the feed. The real one publishes an update about ten times; here 1.2, to keep a day small."""

    interval_seconds: tuple[float, float] = (20.0, 30.0)
    layover_interval_seconds: tuple[float, float] = (70.0, 110.0)
    idle_interval_seconds: tuple[float, float] = (240.0, 300.0)
    terminal_seconds: float = 45.0  # how long a vehicle shows the trip it has ended
    layover_shown_seconds: float = 300.0  # how long before it is due to leave it shows the next one
    change_reported_share: float = 0.92  # of the departures and approaches that are reported as they happen
    approach_from: float = 0.88  # share of the way to the next stop where the approach begins
    cruise_eagerness: float = 1.2
    approach_eagerness: float = 1.5
    gps_noise_metres: float = 10.0

    republished_mean: float = 0.2  # copies of an update beyond the first, geometric
    republished_within_seconds: float = 20.0
    missing_stop_share: float = 0.015  # visits without any STOPPED_AT
    flapping_share: float = 0.03  # repeated updates of a stopped train that say it moves; half say both
    two_statuses_share: float = 0.2  # first approaching updates that are published as in transit, too
    null_trip_share: float = 0.004
    null_stop_share: float = 0.004
    berth_share: float = 0.6  # updates of vehicles at a terminal with berths that name the berth
    out_of_order_share: float = 0.02
    out_of_order_seconds: float = 90.0


FEED = FeedParameters()


@dataclass(frozen=True)
class Updates:
    """Vehicle updates (n,): the visit they concern, the status of the phase they are in and the one they tell, when.

    `since` and `expected` are how long the phase has lasted and is expected to last, in seconds; `first` marks its
    first update, and `on_trip` those that name their trip.
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
        """Some of the updates, by index or mask (m,), in that order."""
        return Updates(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))

    def changed(self, **columns: np.ndarray) -> "Updates":
        """The updates with other columns."""
        return Updates(**(self.__dict__ | columns))


def vehicle_table(day: Day) -> pd.DataFrame:
    """The published updates of a service day, typed as `schema.Vehicle`, in the order of publication."""
    rng = stream(day.seed, day.service_date, "feed")
    updates = _disturbed(_updates(day, rng), day.timetable, rng)
    return _publish(updates, day, rng)


def _updates(day: Day, rng: np.random.Generator) -> Updates:
    """What vehicles report: at the start of a phase, more or less surely, and every so often until it ends."""
    start, end, interval, reported, phase = _phases(day)
    count = np.where(end > start, np.floor((end - start) / interval[:, 0]), -1).astype(int) + 1
    row = np.repeat(np.arange(len(start)), count)
    begins = np.concatenate([[0], np.cumsum(count)[:-1]])[row]
    first = np.arange(len(row)) == begins
    step = np.where(first, 0.0, rng.uniform(interval[row, 0], interval[row, 1]))
    elapsed = np.cumsum(step)
    since = elapsed - elapsed[begins]
    keep = np.where(first, rng.random(len(row)) < reported[row], start[row] + since < end[row])
    updates = phase.take(row).changed(seconds=start[row] + since, since=since, first=first)
    return updates.take(keep)


def _phases(day: Day) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, Updates]:
    """All phases (p,) of all trips: start, end, update interval (p, 2), chance that the start is reported, template."""
    plan = day.timetable
    origin = plan.first[:-1]
    between = np.flatnonzero(plan.position > 0)
    terminal = np.isin(between, plan.first[1:] - 1)
    left = np.where(terminal, day.reported[between] + FEED.terminal_seconds, day.departed[between])
    due = plan.planned_seconds[origin] - FEED.layover_shown_seconds
    emptied = day.arrived[plan.first[plan.previous + 1] - 1] + 2 * FEED.terminal_seconds
    shown = np.minimum(np.where(plan.previous < 0, due, np.maximum(emptied, due)), day.departed[origin])
    brought = np.flatnonzero(plan.previous >= 0)
    cruise, approach, dwell = day.track.cruise_seconds, day.track.approach_seconds, day.track.dwell_seconds
    sure, mostly = 1.0, FEED.change_reported_share
    usual, layover, idle = FEED.interval_seconds, FEED.layover_interval_seconds, FEED.idle_interval_seconds
    phases = [
        (between, IN_TRANSIT_TO, day.departed[between - 1], day.approached[between], usual, mostly, cruise),
        (between, INCOMING_AT, day.approached[between], day.reported[between], usual, mostly, approach),
        (between, STOPPED_AT, day.reported[between], left, usual, sure, dwell),
        (origin, STOPPED_AT, shown, day.departed[origin], layover, sure, dwell),
        (origin[brought], STOPPED_AT, emptied[brought], shown[brought], idle, sure, dwell),
    ]
    sizes = [len(visit) for visit, *_ in phases]
    template = Updates(
        visit=np.concatenate([visit for visit, *_ in phases]),
        phase=np.repeat([status for _, status, *_ in phases], sizes),
        status=np.repeat([status for _, status, *_ in phases], sizes),
        seconds=np.zeros(sum(sizes)),
        since=np.zeros(sum(sizes)),
        expected=np.concatenate([expected[visit] for visit, *_, expected in phases]),
        first=np.zeros(sum(sizes), dtype=bool),
        on_trip=np.repeat([True, True, True, True, False], sizes),
    )
    start, end = (np.concatenate([phase[which] for phase in phases]) for which in (2, 3))
    interval, reported = (np.repeat([phase[which] for phase in phases], sizes, axis=0) for which in (4, 5))
    return start, end, interval, reported, template


def _disturbed(updates: Updates, plan: Timetable, rng: np.random.Generator) -> Updates:
    """Updates without those of stops that were missed, and with the statuses that contradict one another."""
    missed = (rng.random(len(plan.trip)) < FEED.missing_stop_share) & (plan.position > 0)
    updates = updates.take(~((updates.status == STOPPED_AT) & missed[updates.visit]))
    moving = rng.choice([IN_TRANSIT_TO, INCOMING_AT], len(updates.visit))
    chance = rng.random(len(updates.visit))
    stands_again = (updates.status == STOPPED_AT) & ~updates.first & updates.on_trip
    flaps = stands_again & (chance < FEED.flapping_share)
    says_both = flaps & (chance < FEED.flapping_share / 2)
    approaches = (updates.status == INCOMING_AT) & updates.first & (chance < FEED.two_statuses_share)
    disturbed = updates.changed(status=np.where(flaps, moving, updates.status))
    also = updates.changed(status=np.where(approaches, IN_TRANSIT_TO, updates.status)).take(says_both | approaches)
    return Updates(
        *(np.concatenate([getattr(part, name) for part in (disturbed, also)]) for name in Updates.__dataclass_fields__)
    )


def _publish(updates: Updates, day: Day, rng: np.random.Generator) -> pd.DataFrame:
    """Rows as published: some again, some late, some without trip or stop, terminals by their berths."""
    columns = _columns(updates, day, rng)
    copies = rng.geometric(1 / (1 + FEED.republished_mean), len(updates.visit))
    row = np.repeat(np.arange(len(copies)), copies)
    again = np.append(False, row[1:] == row[:-1])
    late = rng.random(len(row)) < FEED.out_of_order_share
    published = updates.seconds[row]
    published += np.where(again, rng.uniform(0, FEED.republished_within_seconds, len(row)), 0)
    published += np.where(late, rng.uniform(0, FEED.out_of_order_seconds, len(row)), 0)
    row = row[np.argsort(published, kind="stable")]
    table = arrow.table(columns, schema=schema.arrow_schema(schema.Vehicle)).take(arrow.array(row))
    return schema.to_frame(table)


def _columns(updates: Updates, day: Day, rng: np.random.Generator) -> list[arrow.Array]:
    """The columns of `schema.Vehicle` of distinct updates."""
    plan, size = day.timetable, len(updates.visit)
    trip = plan.trip[updates.visit]
    pattern = plan.pattern[trip]
    patterns = network().patterns
    latitude, longitude, bearing, speed = _movement(updates, plan, rng)
    start = np.datetime64(service_day.start(day.service_date).replace(tzinfo=None), "us")
    updated_at = start + (np.ceil(updates.seconds) * 1e6).astype("timedelta64[us]")
    trip_known = updates.on_trip & (rng.random(size) >= FEED.null_trip_share)
    stop, stop_names = _reported_stops(updates, plan, rng)
    stop_known = rng.random(size) >= FEED.null_stop_share
    return [
        arrow.repeat(arrow.scalar(day.service_date, arrow.date32()), size),
        _text(plan.vehicle_ids, trip),
        arrow.array(updated_at).cast(arrow.timestamp("us", tz="UTC")),
        _text(schema.STATUSES, updates.status),
        arrow.array(latitude),
        arrow.array(longitude),
        _text(stop_names, stop, stop_known),
        _text([slot.trip_id for slot in plan.slots], trip, trip_known),
        _text([each.route_id for each in patterns], pattern),
        arrow.array(np.array([each.direction_id for each in patterns])[pattern]),
        arrow.array(stop_sequences(plan)[updates.visit]),
        arrow.array(bearing),
        arrow.array(speed),
        arrow.nulls(size, arrow.string()),
    ]


def stop_sequences(plan: Timetable) -> np.ndarray:
    """Positions (v,) as the feed counts them: in tens, and on some trips a 1 at the last stop."""
    sequences = 10 * (plan.position + 1)
    last_one = np.array([slot.last_sequence_one for slot in plan.slots])
    sequences[plan.first[1:][last_one] - 1] = 1
    return sequences


def _reported_stops(updates: Updates, plan: Timetable, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """Which stop (n,) each update names, as an index into the names; vehicles keep to their berth."""
    names = [*network().platforms, *PLATFORM_ALIASES]
    number = {name: index for index, name in enumerate(names)}
    stop_of_visit = np.array([number[stop] for stop in plan.stop_ids.tolist()])
    berth_of_stop = np.arange(len(names))[:, None].repeat(2, axis=1)
    for alias, stop in PLATFORM_ALIASES.items():
        berth_of_stop[number[stop], int(alias.endswith("02"))] = number[alias]
    stop = stop_of_visit[updates.visit]
    berth = np.array([int(vehicle[-1]) % 2 for vehicle in plan.vehicle_ids])[plan.trip[updates.visit]]
    names_berth = (updates.status == STOPPED_AT) & (rng.random(len(stop)) < FEED.berth_share)
    return np.where(names_berth, berth_of_stop[stop, berth], stop), names


def _movement(updates: Updates, plan: Timetable, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """Latitude, longitude (degrees), bearing (degrees) and speed (m/s) that can be expected since the phase began."""
    where = np.array([[network().platforms[s].latitude, network().platforms[s].longitude] for s in plan.stop_ids])
    before = np.where(plan.position > 0, np.arange(len(where)) - 1, np.arange(len(where)))
    origin = where[before][updates.visit]
    way = where[updates.visit] - origin
    squeeze = np.cos(np.radians(where[:, 0].mean()))
    north, east = METRES_PER_DEGREE * way[:, 0], METRES_PER_DEGREE * squeeze * way[:, 1]
    eagerness, start, length = (
        np.array(by_phase)[updates.phase]
        for by_phase in (
            (FEED.cruise_eagerness, FEED.approach_eagerness, 0.0),
            (0.0, FEED.approach_from, 1.0),
            (FEED.approach_from, 1 - FEED.approach_from, 0.0),
        )
    )
    rate = eagerness / np.maximum(updates.expected, 1.0)
    progress = start + length * np.tanh(rate * updates.since)
    speed = np.hypot(north, east) * length * rate / np.cosh(np.minimum(rate * updates.since, 20)) ** 2
    noise = rng.normal(0, FEED.gps_noise_metres / METRES_PER_DEGREE, (len(way), 2)) / [1.0, squeeze]
    position = (origin + progress[:, None] * way + noise).round(5)
    bearing = np.degrees(np.arctan2(east, north)).round() % 360
    return position[:, 0], position[:, 1], bearing, speed.round(1)


def _text(names: list[str] | tuple[str, ...], index: np.ndarray, known: np.ndarray | None = None) -> arrow.Array:
    codes = arrow.array(index, arrow.int32(), mask=None if known is None else ~known)
    return arrow.DictionaryArray.from_arrays(codes, arrow.array(names, arrow.string())).cast(arrow.string())
