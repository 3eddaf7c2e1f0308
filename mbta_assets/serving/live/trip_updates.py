"""A publication as GTFS-realtime 2.0 TripUpdates, in protobuf and in protobuf's JSON mapping.

https://gtfs.org/documentation/realtime/feed-entities/trip-updates/

Times are whole POSIX seconds, rounded half up. Rounding never changes the order of two times, but it makes equal ones;
as times must increase along a trip, a time that is not after that of the stop before is published one second after it.
What has not happened by the latest report may be predicted for a time that has passed since: no time is published that
is before the header's.
`delay` is the published time minus the scheduled one. `uncertainty` is half the width of the prediction interval,
rounded up to whole seconds: with the probability `confidence_level` of the publication, the vehicle comes in an
interval of twice that width. It is left out where the model has no intervals.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from operator import lt, sub
from typing import Any, NamedTuple

from google.transit.gtfs_realtime_pb2 import FeedHeader, FeedMessage, TripDescriptor

from mbta_assets.serving.live.publication import (
    PredictedStops,
    Publication,
    RoundedStops,
    StopPrediction,
    TripPrediction,
)

VERSION = "2.0"
SECOND = timedelta(seconds=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class StopTimeUpdate(NamedTuple):
    """A predicted stop visit as it is published."""

    stop_sequence: int | None
    stop_id: str
    event: str
    """`arrival` or `departure`."""
    time: int
    """POSIX seconds."""
    delay: int
    """In seconds, positive when late."""
    uncertainty: int | None
    """In seconds."""


def encode_protobuf(publication: Publication) -> bytes:
    """Return a publication as the bytes of a `FeedMessage`."""
    message = FeedMessage()
    timestamp = to_posix_seconds(publication.made_at)
    message.header.gtfs_realtime_version = VERSION
    message.header.incrementality = FeedHeader.FULL_DATASET
    message.header.timestamp = timestamp
    for trip, updates in _iter_trips(publication, timestamp):
        trip_update = message.entity.add(id=make_entity_id(trip)).trip_update
        trip_update.timestamp = min(to_posix_seconds(trip.reported_at), timestamp)
        trip_update.vehicle.id = trip.vehicle_id
        descriptor = trip_update.trip
        descriptor.trip_id, start_time = _identify_trip(trip)
        if start_time is not None:
            descriptor.start_time = start_time
        descriptor.start_date = _format_date(trip.service_date)
        descriptor.schedule_relationship = TripDescriptor.SCHEDULED
        if trip.route_id is not None:
            descriptor.route_id = trip.route_id
        if trip.direction_id is not None:
            descriptor.direction_id = trip.direction_id
        _add_updates(trip_update.stop_time_update, updates)
    content: bytes = message.SerializeToString()
    return content


def encode_json(publication: Publication) -> bytes:
    """Return a publication as UTF-8 text: the JSON mapping of the same `FeedMessage`, where int64 are strings.

    It is written by itself, as protobuf's own conversion takes several times as long.
    """
    timestamp = to_posix_seconds(publication.made_at)
    header = {"gtfsRealtimeVersion": VERSION, "incrementality": "FULL_DATASET", "timestamp": str(timestamp)}
    entities = [_make_json_entity(trip, updates, timestamp) for trip, updates in _iter_trips(publication, timestamp)]
    feed = {"header": header, "entity": entities} if entities else {"header": header}
    return json.dumps(feed, ensure_ascii=False, separators=(",", ":")).encode()


def make_entity_id(trip: TripPrediction) -> str:
    """Return the id of a trip's entity, which is the same in each feed."""
    return f"{_format_date(trip.service_date)}-{trip.trip_id}"


def make_stop_time_updates(trip: TripPrediction, timestamp: int) -> list[StopTimeUpdate]:
    """Return the stop visits of a trip as they are published in a feed with a header timestamp.

    Stop sequences are published if the schedule has them and they increase in the order of travel. Otherwise a stop id
    identifies the visit, and stops that the trip serves more than once are left out, as nothing would tell the visits
    apart.
    """
    visits = _round_stops(trip.stops)
    if trip.has_stop_sequences and _has_usable_sequences(visits.stop_sequences):
        sequences = visits.stop_sequences
    else:
        visits = visits.select([stop_id not in trip.repeated_stops for stop_id in visits.stop_ids])
        sequences = [None] * len(visits.times)
    times = _make_increasing(visits.times, timestamp)
    delays = map(sub, times, visits.scheduled)
    columns = zip(sequences, visits.stop_ids, visits.events, times, delays, visits.half_widths, strict=True)
    return list(map(StopTimeUpdate._make, columns))


def to_posix_seconds(time: datetime) -> int:
    """Return the POSIX second in which a time falls."""
    return (time - EPOCH) // SECOND


def _has_usable_sequences(sequences: Sequence[int | None]) -> bool:
    """Return whether stop sequences identify the visits and increase in the order of travel."""
    previous = -1
    for sequence in sequences:
        if sequence is None or sequence <= previous:
            return False
        previous = sequence
    return True


def _make_increasing(times: Sequence[int], earliest: int) -> Sequence[int]:
    """Return times from the earliest on, each later than the one before, moved by as little as that takes."""
    if all(map(lt, [earliest - 1, *times], times)):
        return times
    increasing, previous = [], earliest - 1
    for time in times:
        previous = max(time, previous + 1)
        increasing.append(previous)
    return increasing


def _identify_trip(trip: TripPrediction) -> tuple[str, str | None]:
    """Return the trip in GTFS, and the start time of one of frequencies.txt, which has several runs."""
    return trip.frequency_trip or (trip.trip_id, None)


def _round_stops(stops: Sequence[StopPrediction]) -> RoundedStops:
    """Return the predictions for a trip in whole seconds."""
    if isinstance(stops, PredictedStops):
        return stops.columns.rounded.slice(stops.begin, stops.end)
    return RoundedStops.from_predictions(stops)


def _iter_trips(publication: Publication, timestamp: int) -> Iterator[tuple[TripPrediction, list[StopTimeUpdate]]]:
    """Yield the trips that have a stop visit to publish."""
    for trip in publication.trips:
        updates = make_stop_time_updates(trip, timestamp)
        if updates:
            yield trip, updates


def _add_updates(container: Any, updates: Iterable[StopTimeUpdate]) -> None:
    """Add stop visits to the repeated field of a trip update."""
    add = container.add
    for stop_sequence, stop_id, event_name, time, delay, uncertainty in updates:
        added = add()
        if stop_sequence is not None:
            added.stop_sequence = stop_sequence
        added.stop_id = stop_id
        event = added.arrival if event_name == "arrival" else added.departure
        event.time = time
        event.delay = delay
        if uncertainty is not None:
            event.uncertainty = uncertainty


def _make_json_entity(trip: TripPrediction, updates: Sequence[StopTimeUpdate], timestamp: int) -> dict[str, Any]:
    """Return the entity of a trip as in protobuf's JSON mapping."""
    trip_id, start_time = _identify_trip(trip)
    descriptor = {
        "tripId": trip_id,
        "startTime": start_time,
        "startDate": _format_date(trip.service_date),
        "scheduleRelationship": "SCHEDULED",
        "routeId": trip.route_id,
        "directionId": trip.direction_id,
    }
    return {
        "id": make_entity_id(trip),
        "tripUpdate": {
            "trip": {name: value for name, value in descriptor.items() if value is not None},
            "vehicle": {"id": trip.vehicle_id},
            "stopTimeUpdate": [_make_json_update(update) for update in updates],
            "timestamp": str(min(to_posix_seconds(trip.reported_at), timestamp)),
        },
    }


def _make_json_update(update: StopTimeUpdate) -> dict[str, Any]:
    """Return a stop visit as in protobuf's JSON mapping."""
    event: dict[str, Any] = {"time": str(update.time), "delay": update.delay}
    if update.uncertainty is not None:
        event["uncertainty"] = update.uncertainty
    if update.stop_sequence is None:
        return {"stopId": update.stop_id, update.event: event}
    return {"stopSequence": update.stop_sequence, "stopId": update.stop_id, update.event: event}


@lru_cache(maxsize=16)
def _format_date(service_date: date) -> str:
    """Return a service date as GTFS writes it."""
    return service_date.strftime("%Y%m%d")
