"""Snapshots in, published predictions out: what a snapshot is, the engine, and the model of the moment.

Where snapshots come from is up to `following`.
"""

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from typing import TypeAlias
from zoneinfo import ZoneInfo

from mbta_assets.live.background_writer import BackgroundWriter
from mbta_assets.live.publication_archive import PublicationArchive
from mbta_assets.live.shadow import Shadow
from mbta_assets.live.timetables import Timetables
from mbta_assets.live.updates import UpdateReader
from mbta_assets.ml.inference.transit_network import ForeignNetwork
from mbta_assets.realtime.feed import FeedError, parse_feed
from mbta_assets.realtime.fetching import Outcome
from mbta_assets.realtime.sequence import Classified, SnapshotSequence
from mbta_assets.serving import Predictor, VehicleUpdate, logs
from mbta_assets.serving.live.dead_band import DeadBand
from mbta_assets.serving.live.engine import Engine, list_running_days
from mbta_assets.serving.live.network_view import Network
from mbta_assets.serving.live.publication import Publication
from mbta_assets.serving.live.state import LiveState, Published
from mbta_assets.serving.refreshing_cache import RefreshingCache, Unavailable
from mbta_assets.transit.service_day import TIME_ZONE

READ_AHEAD = timedelta(hours=3)
"""Time before midnight, at which a service day begins, from which its timetable is read."""
MAX_CLOCK_STEP = timedelta(seconds=30)
FULL_COLLECTION_EVERY = 1000
"""Number of publications after which all garbage is collected, not only recent ones: the reports of a day stay
until it ends, so that a full collection takes longest and finds least."""
MAX_UNARCHIVED = 100
"""Number of publications that wait while the archive cannot be written."""
Keep: TypeAlias = Callable[[bytes, float, float | None], None]
"""Keeps the content of a snapshot, with the times in epoch seconds at which it was fetched and made."""


class LiveService:
    """The state of the feed and of the running service days; one thread calls it."""

    def __init__(
        self,
        timetables: Timetables,
        predictors: RefreshingCache[Predictor],
        state: LiveState,
        max_age: timedelta,
        published: PublicationArchive | None = None,
        shadow: Shadow | None = None,
        dead_band_seconds: float = 0.0,
    ) -> None:
        """Begin without snapshots; what is published is archived in `published`, if given.

        `shadow`, if given, predicts the same in a thread of its own, after it has been published.
        """
        self._shadow = shadow
        self._timetables, self._predictors, self._state = timetables, predictors, state
        self._engine, self._dead_band = Engine(timetables.read, max_age), DeadBand(dead_band_seconds)
        self._reader = UpdateReader(timetables)
        self._sequence = SnapshotSequence()
        self._published: BackgroundWriter[Publication] | None = None
        if published is not None:
            append = partial(published.append, role="production")
            self._published = BackgroundWriter(append, self._report_unarchived, lambda _: 1, MAX_UNARCHIVED)
        self._network = Network({})
        self._taken_at: datetime | None = None
        self._has_had_vehicles = False
        self._read_ahead_for: date | None = None
        self._publications = 0

    def take(
        self, content: bytes, fetched_at: float, place: str, *, keep: Keep | None = None, is_mixed: bool = True
    ) -> tuple[Outcome, str]:
        """Take in a snapshot that was fetched at a time in epoch seconds; return what it is, and the problem with it.

        Where snapshots of other feeds may be among them (`is_mixed`), one without vehicles is of another feed;
        otherwise it is empty once one had vehicles, as that of a feed which has trip updates too may be at night.
        Only one that is new changes the state. A snapshot that the archive may not have yet is given to `keep` before.
        One that fails unexpectedly is logged and left out, so that those after it are taken in.
        """
        try:
            classified = self._take(content, fetched_at, place, keep, is_mixed)
        except Exception as error:
            logs.write_exception("taking in a snapshot failed", error, place=place)
            classified = Classified(
                "failed", f"{place}: taking it in failed unexpectedly. {type(error).__name__}: {error}"
            )
        self._state.count_outcome(classified.outcome)
        if classified.problem:
            logs.write("WARNING", "snapshot not taken in", outcome=classified.outcome, problem=classified.problem)
        return classified.outcome, classified.problem

    def _take(self, content: bytes, fetched_at: float, place: str, keep: Keep | None, is_mixed: bool) -> Classified:
        try:
            snapshot = parse_feed(content, place)
        except FeedError as error:
            return Classified("truncated" if error.is_truncated else "foreign", str(error))
        vehicles = [entity for entity in snapshot.entities if entity.HasField("vehicle")]
        if snapshot.entities and not vehicles and (is_mixed or not self._has_had_vehicles):
            return Classified("foreign", f"{place or 'it'} has no vehicle positions")
        self._has_had_vehicles |= bool(vehicles)
        snapshot = replace(snapshot, entities=vehicles)
        classified = self._sequence.classify(content, snapshot, fetched_at)
        if keep is not None and not classified.is_repeated:
            keep(content, fetched_at, classified.made_at)
        if classified.outcome in ("new", "empty"):
            at = datetime.fromtimestamp(classified.made_at or fetched_at, UTC)
            feed_time = datetime.fromtimestamp(snapshot.header_time or fetched_at, UTC)
            taken_at = datetime.fromtimestamp(fetched_at, UTC)
            self.ingest(at, self._reader.read(snapshot, fetched_at, list_running_days(at)), feed_time, taken_at)
        return classified

    def ingest(
        self,
        at: datetime,
        updates: Mapping[date, Sequence[VehicleUpdate]],
        feed_time: datetime | None = None,
        taken_at: datetime | None = None,
    ) -> None:
        """Take in the vehicle updates of a time; that of the header and that of the fetch are given if they differ."""
        self._engine.ingest(at, updates)
        self._state.feed_time, self._taken_at = feed_time or at, taken_at or at
        unreadable = [message for day, message in sorted(self._timetables.problems.items()) if day in self._engine.days]
        self._state.report_problem("timetable", " ".join(unreadable) or None)
        tomorrow = (at + READ_AHEAD).astimezone(ZoneInfo(TIME_ZONE)).date()
        if tomorrow != self._read_ahead_for:
            self._read_ahead_for = tomorrow
            self._timetables.read_ahead(tomorrow)

    def publish(self, made_at: datetime, began: float | None = None, *, is_replay: bool = False) -> None:
        """Publish the predictions of now; `began` is when the update began, by the monotonic clock.

        Without a model of this network the publication stays, and health says so.
        """
        began = time.perf_counter() if began is None else began
        try:
            predictor = self._predictors.get()
        except Unavailable as error:
            self._state.report_problem("model", f"There is no model. {error}")
            return
        idle = max(made_at - (self._taken_at or made_at), timedelta(0))
        queries = self._engine.list_queries(self._find_next_time(made_at), self._state.feed_time, idle)
        try:
            publication = queries.predict(predictor, self._dead_band)
        except ForeignNetwork as error:
            self._state.report_problem("model", str(error))
            return
        self._state.report_problem("model", None)
        timetables = {day: table for day in self._engine.days if (table := self._timetables.read(day)) is not None}
        if timetables != self._network.timetables:
            self._network = Network(timetables)
        self._state.publish(Published(publication, self._network), time.perf_counter() - began)
        if self._published is not None:
            self._published.add(publication)
        if self._shadow is not None:
            self._shadow.predict(queries, is_replay=is_replay)
        self._publications += 1
        gc.collect(1 if self._publications % FULL_COLLECTION_EVERY else 2)

    def _report_unarchived(self, problem: str | None) -> None:
        """Let health say why publications cannot be archived, until they are."""
        message = problem and f"What was published cannot be archived. {problem}"
        self._state.report_problem("published", message)

    def _find_next_time(self, made_at: datetime) -> datetime:
        """Return the time of a publication, in a later second than that of the one before.

        Readers tell two feeds apart by the second of their header, which must not go back. A clock that is set back by
        more than `MAX_CLOCK_STEP` is followed, as times in the future are worse.
        """
        if self._state.published is None:
            return made_at
        earliest = self._state.published.publication.made_at.replace(microsecond=0) + timedelta(seconds=1)
        return earliest if timedelta(0) < earliest - made_at <= MAX_CLOCK_STEP else made_at
