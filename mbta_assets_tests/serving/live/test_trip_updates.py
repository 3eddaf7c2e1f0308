"""Published TripUpdates are valid, by a checker that finds each fault that is put in on purpose."""

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from google.protobuf import json_format
from google.transit.gtfs_realtime_pb2 import FeedMessage
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.live.publication import Publication, StopPrediction, TripPrediction
from mbta_assets.serving.live.trip_updates import encode_json, encode_protobuf, make_stop_time_updates
from mbta_assets.serving.timetable import FrequencyTrip
from mbta_assets_tests.support.publications import NOON, make_publication, make_stop, make_trip
from mbta_assets_tests.support.static_feed import (
    Frequency,
    StaticFeed,
    StaticStopTime,
    StaticTrip,
    start_of_service_day,
)
from mbta_assets_tests.support.trip_updates_validator import RULES, TripUpdatesValidator

ZONE = "America/New_York"
DAYS = (date(2024, 3, 6), date(2024, 3, 10), date(2024, 11, 3))
"""A day as others, and those on which the clocks change."""


def make_static(trips: list[TripPrediction]) -> StaticFeed:
    """Return a schedule with exactly the visits of trips."""
    stop_times = {}
    for trip in trips:
        start = start_of_service_day(f"{trip.service_date:%Y%m%d}", ZONE)
        stop_times[trip.trip_id] = [
            StaticStopTime(stop.stop_sequence, stop.stop_id, *[int(stop.scheduled.timestamp()) - start] * 2)
            for stop in trip.stops
        ]
    stops = {stop.stop_id for trip in trips for stop in trip.stops} | {"unserved", "station"}
    static_trips = {trip.trip_id: StaticTrip(trip.route_id, trip.direction_id, trip.trip_id) for trip in trips}
    dates = {trip.trip_id: {f"{trip.service_date:%Y%m%d}"} for trip in trips}
    return StaticFeed(ZONE, static_trips, stop_times, stops, {"Red", "Blue"}, {"station"}, {}, dates)


@st.composite
def random_trips(draw: st.DrawFn, trip_id: str) -> tuple[TripPrediction, TripPrediction]:
    """Draw a trip with all of its stops, and with those from one of them on."""
    day = draw(st.sampled_from(DAYS))
    scheduled = datetime.fromtimestamp(start_of_service_day(f"{day:%Y%m%d}", ZONE), UTC)
    scheduled += timedelta(seconds=draw(st.integers(0, 30 * 3600)))
    predicted, previous, stops = datetime.min.replace(tzinfo=UTC), "", []
    has_sequences, sequence = draw(st.booleans()), 0
    for index in range(draw(st.integers(1, 7))):
        scheduled += timedelta(seconds=draw(st.integers(0, 3)))
        delay = draw(st.sampled_from([0.0, 0.5, -0.5, 1.5, 0.499999]) | st.floats(-2000, 2000))
        predicted = max(predicted, scheduled + timedelta(seconds=delay))
        previous = draw(st.sampled_from([stop for stop in "abcd" if stop != previous]))
        sequence += draw(st.integers(1, 10))
        width = draw(st.none() | st.floats(0, 500))
        stop = make_stop(1, predicted, 0, width, stop_id=previous, event="arrival" if index else "departure")
        stops.append(
            replace(stop, scheduled=scheduled, delay_seconds=delay, stop_sequence=sequence if has_sequences else None)
        )
    visits = Counter(stop.stop_id for stop in stops)
    whole = make_trip(
        trip_id,
        f"vehicle-{trip_id}",
        tuple(stops),
        service_date=day,
        reported_at=predicted,
        repeated_stops=frozenset(stop_id for stop_id, count in visits.items() if count > 1),
    )
    begin = draw(st.integers(0, len(stops) - 1))
    return whole, replace(whole, stops=whole.stops[begin:])


@given(random_trips("1"), random_trips("2"))
def test_the_checker_finds_nothing_in_random_publications(
    first: tuple[TripPrediction, TripPrediction], second: tuple[TripPrediction, TripPrediction]
) -> None:
    made_at = max(first[1].reported_at, second[1].reported_at) + timedelta(seconds=0.7)
    validator = TripUpdatesValidator(make_static([first[0], second[0]]))
    publication = make_publication(first[1], second[1], made_at=made_at)
    assert validator.check(encode_protobuf(publication), made_at.timestamp()) == []
    later = replace(publication, made_at=made_at + timedelta(seconds=10), trips=publication.trips[:1])
    assert validator.check(encode_protobuf(later), made_at.timestamp() + 11) == []


@given(random_trips("1"))
def test_the_json_is_that_of_the_protobuf(trips: tuple[TripPrediction, TripPrediction]) -> None:
    run = replace(trips[1], frequency_trip=FrequencyTrip("1", "24:10:00"))
    publication = make_publication(trips[0], run)
    message = FeedMessage.FromString(encode_protobuf(publication))
    assert json_format.Parse(encode_json(publication), FeedMessage()) == message


@given(random_trips("1"))
def test_times_are_rounded_predictions_that_are_moved_by_ties_alone(
    trips: tuple[TripPrediction, TripPrediction],
) -> None:
    stops = [replace(stop, stop_sequence=index) for index, stop in enumerate(trips[0].stops)]
    for index, update in enumerate(make_stop_time_updates(make_trip("1", "v1", tuple(stops)), 0)):
        assert -0.5 < update.time - stops[index].predicted.timestamp() <= 0.5 + index


@given(random_trips("1"), st.floats(-3000, 3000))
def test_no_published_time_is_before_the_header(trips: tuple[TripPrediction, TripPrediction], seconds: float) -> None:
    made_at = trips[1].reported_at + timedelta(seconds=seconds)
    publication = make_publication(trips[1], made_at=made_at)
    found = TripUpdatesValidator(make_static([trips[0]])).check(encode_protobuf(publication), made_at.timestamp())
    assert found == []
    timestamp = int(made_at.timestamp() // 1)
    model = make_stop_time_updates(trips[1], 0)
    for number, (update, as_predicted) in enumerate(
        zip(make_stop_time_updates(trips[1], timestamp), model, strict=True)
    ):
        assert update.time == max(as_predicted.time, timestamp + number)


def test_stops_that_nothing_identifies_are_left_out() -> None:
    for changes in ({"stop_sequence": None}, {}):
        stops = tuple(replace(stop, **changes) for stop in _three_stops())  # type: ignore[arg-type]
        trip = make_trip("1", "v1", stops, has_stop_sequences=not changes)
        loop = replace(trip, has_stop_sequences=False, repeated_stops=frozenset({"s1", "behind"}))
        assert [update.stop_id for update in make_stop_time_updates(loop, 0)] == ["s2", "s3"]
        sequences = [update.stop_sequence for update in make_stop_time_updates(trip, 0)]
        assert sequences == ([None] * 3 if changes else [10, 20, 30])


def test_a_trip_without_stops_and_a_publication_without_trips_are_valid() -> None:
    for publication in (make_publication(), make_publication(make_trip("1", "v1", ()))):
        assert TripUpdatesValidator(make_static([])).check(encode_protobuf(publication), NOON.timestamp() + 10) == []


@pytest.mark.parametrize(("width", "uncertainty"), [(0.0, 0), (29.5, 30), (30.0, 30), (None, None)])
def test_the_uncertainty_is_half_the_width_of_the_interval(width: float | None, uncertainty: int | None) -> None:
    [update] = make_stop_time_updates(make_trip("1", "v1", (make_stop(1, NOON, 0.0, width),)), 0)
    assert update.uncertainty == uncertainty


def _three_stops() -> tuple[StopPrediction, ...]:
    return tuple(make_stop(index, NOON + timedelta(minutes=index), 20.0) for index in (1, 2, 3))


def _publication() -> Publication:
    return make_publication(make_trip("1", "v1", _three_stops()), make_trip("2", "v2", _three_stops()))


def _set(path: str, value: Any) -> Callable[[FeedMessage], None]:
    """Return a fault: a field of the feed, of its first trip, or of the second update of that, has a value."""

    def mutate(feed: FeedMessage) -> None:
        trip_update = feed.entity[0].trip_update
        target: Any = {"header": feed.header, "entity": feed.entity[0], "trip_update": trip_update}.get(
            path.split(".")[0], trip_update.stop_time_update[1]
        )
        *parents, name = path.split(".")[1:]
        for parent in parents:
            target = getattr(target, parent)
        if value is None:
            target.ClearField(name)
        else:
            setattr(target, name, value)

    return mutate


def _swap(feed: FeedMessage) -> None:
    updates = feed.entity[0].trip_update.stop_time_update
    first = type(updates[0]).FromString(updates[0].SerializeToString())
    updates[0].CopyFrom(updates[1])
    updates[1].CopyFrom(first)


def _without_sequences(feed: FeedMessage) -> None:
    _swap(feed)
    for update in feed.entity[0].trip_update.stop_time_update:
        update.ClearField("stop_sequence")


def _add_departure(feed: FeedMessage) -> None:
    update = feed.entity[0].trip_update.stop_time_update[1]
    update.departure.time = update.arrival.time - 1


def _without_times(feed: FeedMessage) -> None:
    feed.entity[0].trip_update.stop_time_update[1].arrival.ClearField("time")
    feed.entity[0].trip_update.stop_time_update[1].arrival.ClearField("delay")


def _anonymous_stop(feed: FeedMessage) -> None:
    feed.entity[0].trip_update.stop_time_update[1].ClearField("stop_id")
    feed.entity[0].trip_update.stop_time_update[1].ClearField("stop_sequence")


def _repeated_stop(feed: FeedMessage) -> None:
    feed.entity[0].trip_update.stop_time_update[1].stop_id = "s1"


SECONDS = int(NOON.timestamp())
FAULTS = [
    ("E001", _set("header.timestamp", SECONDS * 1000)),
    ("E001", _set("update.arrival.time", 43_200)),
    ("E002", _swap),
    ("E003", _set("trip_update.trip.trip_id", "unknown")),
    ("E004", _set("trip_update.trip.route_id", "unknown")),
    ("E011", _set("update.stop_id", "unknown")),
    ("E012", _set("trip_update.timestamp", SECONDS + 11)),
    ("E015", _set("update.stop_id", "station")),
    ("E016", _set("trip_update.trip.schedule_relationship", 1)),
    ("E020", _set("trip_update.trip.start_time", "noon")),
    ("E021", _set("trip_update.trip.start_date", "2024-03-06")),
    ("E021", _set("trip_update.trip.start_date", "20240231")),
    ("E022", _set("update.arrival.time", SECONDS + 60)),
    ("E022", _set("update.arrival.time", SECONDS + 59)),
    ("E023", _set("trip_update.trip.start_time", "12:00:00")),
    ("E024", _set("trip_update.trip.direction_id", 1)),
    ("E025", _add_departure),
    ("E035", _set("trip_update.trip.route_id", "Blue")),
    ("E036", _set("update.stop_sequence", 10)),
    ("E037", _repeated_stop),
    ("E038", _set("header.gtfs_realtime_version", "3.0")),
    ("E039", _set("entity.is_deleted", True)),
    ("E040", _anonymous_stop),
    ("E041", lambda feed: feed.entity[0].trip_update.ClearField("stop_time_update")),
    ("E042", _set("update.schedule_relationship", 2)),
    ("E043", _set("update.arrival", None)),
    ("E044", _without_times),
    ("E045", _set("update.stop_id", "unserved")),
    ("E048", _set("header.timestamp", None)),
    ("E049", _set("header.incrementality", None)),
    ("E050", _set("header.timestamp", SECONDS + 300)),
    ("E051", _set("update.stop_sequence", 21)),
    ("E052", _set("trip_update.vehicle.id", "v2")),
    ("W001", _set("trip_update.timestamp", None)),
    ("W002", _set("trip_update.vehicle.id", None)),
    ("W006", _set("trip_update.trip.trip_id", None)),
    ("W008", _set("header.timestamp", SECONDS - 60)),
    ("W009", _set("trip_update.trip.schedule_relationship", None)),
    ("X002", lambda feed: _set("entity.id", feed.entity[1].id)(feed)),
    ("X003", _set("trip_update.trip.trip_id", "2")),
    ("X004", _set("update.arrival.delay", 23)),
    ("X005", _set("update.schedule_relationship", 1)),
    ("X006", _set("update.arrival.uncertainty", -1)),
    ("X007", _set("entity.trip_update", None)),
    ("X008", _without_sequences),
    ("X009", _set("trip_update.trip.start_date", "20240307")),
    ("X010", _set("update.arrival.time", SECONDS + 9)),
]
ELSEWHERE = {"E006", "E009", "E013", "E017", "E018", "E019", "E046", "W005", "W007", "X001"}


@pytest.mark.parametrize(("rule", "mutate"), FAULTS, ids=[f"{rule}-{n}" for n, (rule, _) in enumerate(FAULTS)])
def test_the_checker_finds_a_fault(rule: str, mutate: Callable[[FeedMessage], None]) -> None:
    publication = _publication()
    feed = FeedMessage.FromString(encode_protobuf(publication))
    static = make_static(list(publication.trips))
    assert TripUpdatesValidator(static).check(feed.SerializeToString(), SECONDS + 12) == []
    mutate(feed)
    found = TripUpdatesValidator(static).check(feed.SerializePartialToString(), SECONDS + 12)
    assert rule in {finding.rule for finding in found}


def test_every_rule_of_the_checker_has_a_fault() -> None:
    assert {rule for rule, _ in FAULTS} | ELSEWHERE == set(RULES)


def test_the_checker_finds_a_repeated_stop_without_a_sequence() -> None:
    stops = _three_stops()
    loop = (*stops, replace(stops[0], stop_sequence=40, predicted=NOON + timedelta(minutes=9), delay_seconds=320.0))
    publication = make_publication(make_trip("1", "v1", loop))
    feed = FeedMessage.FromString(encode_protobuf(publication))
    validator = TripUpdatesValidator(make_static(list(publication.trips)))
    feed.entity[0].trip_update.stop_time_update[3].ClearField("stop_sequence")
    assert "E009" in {finding.rule for finding in validator.check(feed.SerializeToString(), SECONDS + 12)}


@pytest.mark.parametrize(
    ("rule", "seconds", "trips"), [("E017", 0, 1), ("E018", -1, 2), ("W007", 36, 2), (None, 0, 2), (None, 10, 1)]
)
def test_the_checker_compares_successive_feeds(rule: str | None, seconds: int, trips: int) -> None:
    publication = _publication()
    validator = TripUpdatesValidator(make_static(list(publication.trips)))
    assert validator.check(encode_protobuf(publication), SECONDS + 12) == []
    changed_at = publication.made_at + timedelta(seconds=seconds)
    changed = replace(publication, made_at=changed_at, trips=publication.trips[:trips])
    found = validator.check(encode_protobuf(changed), SECONDS + 12 + max(seconds, 0))
    assert {finding.rule for finding in found} == ({rule} if rule else set())


def test_the_checker_knows_what_is_no_feed() -> None:
    [finding] = TripUpdatesValidator(make_static([])).check(b"<html>", SECONDS)
    assert finding.rule == "X001"


@pytest.mark.parametrize(
    ("is_exact", "changes", "rules"),
    [
        (True, {"start_time": "11:10:00"}, set()),
        (True, {}, {"E006"}),
        (True, {"start_time": "11:11:00"}, {"E019"}),
        (True, {"start_time": "13:00:00"}, {"E019"}),
        (False, {"start_time": "11:11:00"}, {"E013"}),
        (False, {"start_time": "11:11:00", "schedule_relationship": 2}, set()),
        (False, {"start_time": "11:11:00", "schedule_relationship": 2, "vehicle": ""}, {"W002", "W005"}),
    ],
)
def test_the_checker_knows_trips_by_frequency(is_exact: bool, changes: dict[str, Any], rules: set[str]) -> None:
    publication = _publication()
    static = make_static(list(publication.trips))
    static.frequencies = {"1": [Frequency(11 * 3600, 13 * 3600, 600, is_exact)]}
    feed = FeedMessage.FromString(encode_protobuf(publication))
    update = feed.entity[0].trip_update
    for stop in update.stop_time_update:
        stop.arrival.ClearField("delay")  # it counts from the start
    for name, value in changes.items():
        if name == "vehicle":
            update.vehicle.id = value
        else:
            setattr(update.trip, name, value)
    found = TripUpdatesValidator(static).check(feed.SerializeToString(), SECONDS + 12)
    assert {finding.rule for finding in found} == rules


@pytest.mark.parametrize(("start_time", "rules"), [("12:00:40", set()), ("12:10:40", {"X004"})])
def test_the_checker_counts_delays_of_a_trip_by_frequency_from_its_start(start_time: str, rules: set[str]) -> None:
    trip = make_trip("run", "v1", _three_stops(), frequency_trip=FrequencyTrip("1", start_time))
    static = make_static([replace(trip, trip_id="1")])
    rows = [
        row._replace(arrival=seconds, departure=seconds)
        for row, seconds in zip(static.stop_times["1"], (0, 60, 120), strict=True)
    ]
    static.stop_times = {"1": rows}
    static.frequencies = {"1": [Frequency(12 * 3600 + 40, 13 * 3600, 600, True)]}
    found = TripUpdatesValidator(static).check(encode_protobuf(make_publication(trip)), SECONDS + 12)
    assert {finding.rule for finding in found} == rules


def test_the_checker_finds_a_delay_that_nothing_can_be_added_to() -> None:
    publication = _publication()
    static = make_static(list(publication.trips))
    feed = FeedMessage.FromString(encode_protobuf(publication))
    feed.entity[0].trip_update.stop_time_update[1].arrival.ClearField("time")
    assert TripUpdatesValidator(static).check(feed.SerializeToString(), SECONDS + 12) == []
    static.stop_times = {trip: [row._replace(arrival=None) for row in rows] for trip, rows in static.stop_times.items()}
    found = TripUpdatesValidator(static).check(feed.SerializeToString(), SECONDS + 12)
    assert {finding.rule for finding in found} == {"E046"}
