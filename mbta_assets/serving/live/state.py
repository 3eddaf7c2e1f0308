"""What the threads of live predictions share: the latest publication as it is served, health, and metrics.

One thread publishes, those of HTTP read. Requests are answered in `app`.
"""

import hashlib
import json
import threading
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from functools import cached_property

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from mbta_assets.serving.live.network_view import Network, build_view
from mbta_assets.serving.live.publication import Publication, StopPrediction, TripPrediction
from mbta_assets.serving.live.trip_updates import encode_json, encode_protobuf

UPDATE_BUCKETS_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
ETAG_DIGITS = 32
RECORDS = frozenset({"archive", "published"})
"""Parts whose problems lose records for a restart or an evaluation; the published feed is as good as without them."""


class Content:
    """Bytes that are served, with their strong ETag."""

    def __init__(self, body: bytes, content_type: str) -> None:
        self.body, self.content_type = body, content_type
        self.etag = hashlib.sha256(body).hexdigest()[:ETAG_DIGITS]


class Published:
    """A publication with its encodings, which are made once."""

    def __init__(self, publication: Publication, network: Network) -> None:
        self.publication, self.network = publication, network
        self._views: dict[str | None, bytes] = {}
        """JSON of each route's view, without the brace that it begins with."""
        self.protobuf = Content(encode_protobuf(publication), "application/x-protobuf")

    @cached_property
    def json(self) -> Content:
        """Return the feed as JSON, which is made when it is first requested."""
        return Content(encode_json(self.publication), "application/json")

    def view(self, route_id: str | None, problems: Sequence[str]) -> Content:
        """Return the view of a route as JSON, which is made when it is first requested, with the problems of now."""
        route_id = route_id if route_id in self.network.directions else None
        if route_id not in self._views:
            view = build_view(self.publication, self.network, route_id)
            self._views[route_id] = json.dumps(view, allow_nan=False)[1:].encode()
        return Content(b'{"problems": %s, ' % json.dumps(problems).encode() + self._views[route_id], "application/json")

    @cached_property
    def trips_by_vehicle(self) -> Mapping[str, TripPrediction]:
        """Return the trips by the id of their vehicle."""
        return {trip.vehicle_id: trip for trip in self.publication.trips}

    @cached_property
    def events_by_stop(self) -> Mapping[str, list[tuple[TripPrediction, StopPrediction]]]:
        """Return the predictions by stop, and by parent station, in order of the predicted time."""
        events: dict[str, list[tuple[TripPrediction, StopPrediction]]] = defaultdict(list)
        for trip in self.publication.trips:
            for stop in trip.stops:
                row = self.network.stops.get(stop.stop_id)
                for place in {stop.stop_id, row.parent_station if row else None} - {None}:
                    events[place or ""].append((trip, stop))
        for rows in events.values():
            rows.sort(key=lambda row: row[1].predicted)
        return events

    @cached_property
    def places(self) -> frozenset[str]:
        """Return the ids of all stops and stations."""
        stops = self.network.stops
        stations = {stop.parent_station for stop in stops.values() if stop.parent_station}
        return frozenset(stops) | stations | frozenset(self.events_by_stop)


class LiveState:
    """The latest publication, what is wrong, and metrics."""

    def __init__(self, clock: Callable[[], datetime], max_feed_age_seconds: float) -> None:
        """Begin without a publication; `clock` returns our time, or the replay's."""
        self.clock, self.max_feed_age_seconds = clock, max_feed_age_seconds
        self.published: Published | None = None
        self.feed_time: datetime | None = None
        """Time in the header of the latest snapshot that was taken in."""
        self.notice: str | None = None
        """What the page says before the problems, and is none: that it shows a replay."""
        self._problems: dict[str, str] = {}
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        self._updates = self._counter("updates", "Snapshots and answers by what they are.", ["outcome"])
        self._predictions = self._counter("predictions", "Predictions published.")
        self.requests = self._counter("requests", "Requests by path and status.", ["path", "status"])
        self._seconds = Histogram(
            "mbta_live_update_seconds",
            "Time from the content of a snapshot to the published feed.",
            buckets=UPDATE_BUCKETS_SECONDS,
            registry=self.registry,
        )
        self._vehicles = self._gauge("vehicles", "Vehicles in the published feed.")
        self._gauge("feed_age_seconds", "Age of the feed.").set_function(lambda: self.feed_age_seconds or 0.0)
        self._model = self._gauge("model", "1 for the model version.", ["version"])
        self._problem = self._gauge("problem", "1 for each part that has a problem.", ["part"])

    def _counter(self, name: str, description: str, labels: list[str] | None = None) -> Counter:
        return Counter(f"mbta_live_{name}", description, labels or [], registry=self.registry)

    def _gauge(self, name: str, description: str, labels: list[str] | None = None) -> Gauge:
        return Gauge(f"mbta_live_{name}", description, labels or [], registry=self.registry)

    @property
    def feed_age_seconds(self) -> float | None:
        """Return the age of the feed, None before the first snapshot."""
        return None if self.feed_time is None else (self.clock() - self.feed_time).total_seconds()

    def count_outcome(self, outcome: str) -> None:
        """Count a snapshot, or an answer without one, by what it is."""
        self._updates.labels(outcome).inc()

    def publish(self, published: Published, seconds: float) -> None:
        """Replace the publication; `seconds` is the time that it took to make."""
        self.published = published
        trips, version = published.publication.trips, published.publication.model_version
        self._seconds.observe(seconds)
        self._vehicles.set(len(trips))
        self._predictions.inc(sum(len(trip.stops) for trip in trips))
        self._model.clear()
        self._model.labels(version).set(1)

    def report_problem(self, part: str, message: str | None) -> None:
        """Record what is wrong with a part, None if nothing is."""
        with self._lock:
            if message is not None:
                self._problems[part] = message
                self._problem.labels(part).set(1)
            elif self._problems.pop(part, None):
                self._problem.remove(part)

    def find_problems(self) -> dict[str, str]:
        """Return what is wrong by part; the published feed can be relied on if all of these are `RECORDS`."""
        with self._lock:
            problems = dict(self._problems)
        if self.published is None:
            problems["publication"] = "Nothing has been published yet."
        age = self.feed_age_seconds
        if age is None:
            problems["feed_age"] = "No snapshot of the feed has been taken in yet."
        elif age > self.max_feed_age_seconds:
            limit = f"MBTA_LIVE_MAX_FEED_AGE_SECONDS is {self.max_feed_age_seconds:g}"
            problems["feed_age"] = f"The latest snapshot of the feed is {age:.0f} s old; {limit}."
        return problems

    def list_problems(self) -> list[str]:
        """Return what is wrong."""
        return list(self.find_problems().values())
