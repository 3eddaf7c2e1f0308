"""Measure the time from a snapshot of 1,000 vehicles with 20 stops ahead each to the published feed, by part.

`performance.py` makes a table of it. Times are those of the processor, so that a busy machine counts less.
"""

import gc
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta

import numpy as np
from google.transit.gtfs_realtime_pb2 import FeedMessage, VehiclePosition

from mbta_assets.live.command import COLLECTION_THRESHOLDS
from mbta_assets.live.timetables import Timetables
from mbta_assets.live.updates import UpdateReader
from mbta_assets.realtime.feed import parse_feed
from mbta_assets.serving import Predictor, Stop, StopTime, Timetable, Trip
from mbta_assets.serving.live.engine import Engine, list_running_days
from mbta_assets.serving.live.network_view import Network
from mbta_assets.serving.live.state import Published
from mbta_assets.serving.model_source import open_model_source
from mbta_assets.serving.predictor import feature_columns
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.transit.service_day import start_time

DAY = date(2024, 3, 6)
ROUTES, VEHICLES, STOPS, RUN_SECONDS, EVERY = 25, 1000, 41, 90, 10
ROUNDS = 60
"""Snapshots that are timed; before them, vehicles have run for 20 stops."""
MODEL_ALONE = "the model alone"


def make_timetable() -> Timetable:
    """Return a timetable whose trips have 41 stops, so that 20 are ahead in the middle."""
    begin = start_time(DAY) + timedelta(hours=8)
    stops = [
        Stop(id=f"{r}-{n}", name=f"{r}-{n}", latitude=42 + r / 100, longitude=-71 + n / 100)
        for r in range(ROUTES)
        for n in range(STOPS)
    ]
    trips, schedule = [], []
    for number in range(VEHICLES):
        route = number % ROUTES
        trips.append(Trip(id=f"trip{number}", route_id=f"R{route}", direction_id=0))
        for n in range(STOPS):
            at = begin + timedelta(seconds=n * RUN_SECONDS + number // ROUTES)
            row = StopTime(
                trip_id=f"trip{number}",
                stop_id=f"{route}-{n}",
                arrival_time=at,
                departure_time=at + timedelta(seconds=20),
                stop_sequence=n + 1,
                timepoint=0,
            )
            schedule.append(row)
    return Timetable(DAY, schedule, stops, trips)


def make_snapshot(at: int, begin: int) -> bytes:
    """Return a snapshot in which every vehicle has reported since the one before."""
    message = FeedMessage()
    message.header.gtfs_realtime_version = "2.0"
    message.header.timestamp = at
    for number in range(VEHICLES):
        ran = at - begin - number // ROUTES
        index = min(max(ran // RUN_SECONDS, 0), STOPS - 1)
        report = message.entity.add(id=str(number)).vehicle
        report.vehicle.id, report.timestamp = f"vehicle{number}", at - number % EVERY
        report.trip.trip_id, report.trip.route_id, report.trip.start_date = (
            f"trip{number}",
            f"R{number % ROUTES}",
            f"{DAY:%Y%m%d}",
        )
        is_moving = ran % RUN_SECONDS > 20 and index + 1 < STOPS
        stop = index + 1 if is_moving else index
        report.stop_id, report.current_stop_sequence = f"{number % ROUTES}-{stop}", stop + 1
        report.current_status = VehiclePosition.IN_TRANSIT_TO if is_moving else VehiclePosition.STOPPED_AT
        report.position.latitude, report.position.longitude = 42.0 + number % ROUTES / 100, -71.0 + stop / 100
    content: bytes = message.SerializeToString()
    return content


class Stopwatch:
    """Seconds by part, and the number of predictions of an update."""

    def __init__(self) -> None:
        self.seconds: dict[str, list[float]] = defaultdict(list)
        self.predictions = 0

    @contextmanager
    def measure(self, part: str) -> Iterator[None]:
        """Measure a part."""
        began = time.process_time()
        yield
        self.seconds[part].append(time.process_time() - began)


class GivenTimetables(Timetables):
    """A timetable that is there already."""

    def __init__(self, timetable: Timetable) -> None:
        super().__init__(SyntheticSource(0))
        self.given = timetable

    def read(self, service_date: date) -> Timetable | None:
        """Return the timetable of the day."""
        return self.given if service_date == DAY else None


def measure_updates(store: str) -> Stopwatch:
    """Return the seconds of each part of updates with the model of a store, and of that model alone."""
    thresholds = gc.get_threshold()
    gc.set_threshold(*COLLECTION_THRESHOLDS)
    predictor = Predictor(open_model_source(store).load_bundle())
    timetables = GivenTimetables(make_timetable())
    reader = UpdateReader(timetables)
    engine = Engine(timetables.read, timedelta(seconds=300))
    begin = int((start_time(DAY) + timedelta(hours=8)).timestamp())
    middle = begin + RUN_SECONDS * 20
    watch = Stopwatch()
    counts = []
    for at in range(begin, middle + EVERY * ROUNDS, EVERY):
        content, time_of = make_snapshot(at, begin), datetime.fromtimestamp(at, UTC)
        days = list_running_days(time_of)
        if at < middle:
            engine.ingest(time_of, reader.read(parse_feed(content, ""), at, days))
            if at == middle - EVERY:  # the first publication indexes the stops of every trip
                engine.list_queries(time_of, time_of).predict(predictor)
            continue
        with watch.measure("all"):
            with watch.measure("parse"):
                snapshot = parse_feed(content, "")
            with watch.measure("resolve"):
                updates = reader.read(snapshot, at, days)
            with watch.measure("stream"):
                engine.ingest(time_of, updates)
            with watch.measure("queries, features, model"):
                publication = engine.list_queries(time_of, time_of).predict(predictor)
            with watch.measure("encode"):
                Published(publication, Network({}))
        gc.collect(1)  # as `LiveService` does once it has published
        counts.append(sum(len(trip.stops) for trip in publication.trips))
    watch.predictions = round(np.mean(counts))
    columns = feature_columns(engine.list_queries(time_of, None).queries)
    for _ in range(ROUNDS):
        with watch.measure(MODEL_ALONE):
            predictor.predict_delays(columns)
    gc.set_threshold(*thresholds)
    return watch
