"""A query whose fields contradict each other is refused, and the fields are named."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.arrival_query import EXAMPLE_QUERY, REQUIRED_FIELDS, TIME_FIELDS, ArrivalQuery
from mbta_assets.serving.query_rules import OBSERVED_FIELDS, POSITIONS, find_broken_rules
from mbta_assets.transit.service_day import start_time

HOUR = timedelta(hours=1)
NOW, START = EXAMPLE_QUERY.time_stamp, start_time(EXAMPLE_QUERY.service_date)
times = st.datetimes(timezones=st.just(UTC)) | st.timedeltas(-200 * HOUR, 200 * HOUR).map(lambda shift: NOW + shift)


def find_fields(**changes: Any) -> set[str]:
    """Return the fields that break a rule in the example with some fields changed."""
    return {name for name, _ in find_broken_rules(replace(EXAMPLE_QUERY, **changes))}


def test_the_example_and_a_query_of_required_fields_keep_all_rules() -> None:
    absent: dict[str, Any] = dict.fromkeys(type(EXAMPLE_QUERY).__dataclass_fields__.keys() - REQUIRED_FIELDS)
    assert find_fields() == find_fields(**absent) == set()


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        *(({name: NOW + timedelta(microseconds=1)}, {name}) for name in OBSERVED_FIELDS if name != "platform_arrival"),
        *(({name: datetime(1970, 1, 1, tzinfo=UTC)}, {name}) for name in OBSERVED_FIELDS if name != "platform_left"),
        ({"platform_arrival": NOW + HOUR}, {"platform_arrival"}),
        ({"platform_left": datetime(1970, 1, 1, tzinfo=UTC)}, {"platform_left"}),
        ({"platform_left": EXAMPLE_QUERY.platform_arrival}, set()),
        ({"platform_left": NOW - HOUR}, set()),  # a feed may say so; the table has the same
        ({"scheduled_arrival": NOW + 13 * HOUR}, {"scheduled_arrival"}),
        ({"scheduled_arrival": NOW - 13 * HOUR}, {"scheduled_arrival"}),
        ({"scheduled_arrival": NOW + 12 * HOUR}, set()),
        ({"scheduled_last_departure": NOW - 25 * HOUR}, {"scheduled_last_departure"}),
        ({"scheduled_last_departure": NOW - 24 * HOUR}, set()),
        ({"current_latitude": 0.0, "current_longitude": 0.0}, {"current_latitude", "current_longitude"}),
        ({"current_latitude": 0.0}, set()),
        (dict(zip(POSITIONS[1], (-0.5, 0.9), strict=True)), set(POSITIONS[1])),
        ({"current_latitude": None}, {"current_latitude"}),
        ({"destination_longitude": None}, {"destination_longitude"}),
        ({"current_latitude": None, "current_longitude": None}, set()),
        ({"stops_ahead": 0, "stops_behind": 1}, set()),
        ({"stops_ahead": 0, "stops_behind": 2}, {"stops_behind"}),
        ({"stops_ahead": 0, "stops_behind": 0, "stop_id": "70061"}, {"stop_id"}),
        ({"stops_ahead": 80, "stops_behind": 2, "stop_id": "70061"}, set()),
    ],
)  # fmt: skip
def test_the_fields_that_break_a_rule_are_named(changes: dict[str, Any], fields: set[str]) -> None:
    assert find_fields(**changes) == fields


@given(days=st.integers(-300_000, 300_000), seconds=st.integers(-3 * 3600, 3 * 3600))
def test_a_query_that_keeps_the_rules_keeps_them_on_any_day_and_at_any_hour(days: int, seconds: int) -> None:
    shift = timedelta(days=days, seconds=seconds)
    times = {name: getattr(EXAMPLE_QUERY, name) + shift for name in (*TIME_FIELDS, "time_stamp")}
    assert find_fields(**times, service_date=EXAMPLE_QUERY.service_date + timedelta(days=days)) == set()


@pytest.mark.parametrize("hours", [-12, 84])
def test_a_report_may_be_as_far_from_the_service_day_as_the_rule_says(hours: int) -> None:
    def find_time_stamp(time: datetime) -> bool:
        names = dict.fromkeys((*OBSERVED_FIELDS, "scheduled_last_departure"))
        return "time_stamp" in find_fields(time_stamp=time, scheduled_arrival=time, **names)

    limit = START + timedelta(hours=hours)
    assert not find_time_stamp(limit)
    assert find_time_stamp(limit + timedelta(microseconds=1 if hours > 0 else -1))


@given(name=st.sampled_from(OBSERVED_FIELDS), time=times, time_stamp=times)
def test_an_observed_time_is_between_the_start_of_the_day_and_the_report(
    name: str, time: datetime, time_stamp: datetime
) -> None:
    changes: dict[str, Any] = {**dict.fromkeys(OBSERVED_FIELDS), name: time, "time_stamp": time_stamp}
    query = replace(EXAMPLE_QUERY, **changes)
    broken = {field for field, _ in find_broken_rules(query)}
    assert (name in broken) == (not START - 12 * HOUR <= time <= time_stamp)


@given(service_date=st.dates(), changes=st.dictionaries(st.sampled_from([*TIME_FIELDS, "time_stamp"]), times))
def test_any_times_give_messages_and_no_exception(service_date: date, changes: dict[str, datetime]) -> None:
    query: ArrivalQuery = replace(EXAMPLE_QUERY, service_date=service_date, **changes)  # type: ignore[arg-type]
    assert all(message for _, message in find_broken_rules(query))


@given(
    names=st.sampled_from(POSITIONS),
    latitude=st.none() | st.floats(-90, 90),
    longitude=st.none() | st.floats(-180, 180),
)
def test_a_position_is_whole_and_not_at_null_island(
    names: tuple[str, str], latitude: float | None, longitude: float | None
) -> None:
    broken = find_fields(**dict(zip(names, (latitude, longitude), strict=True)))
    if latitude is None or longitude is None:
        assert len(broken) == (latitude is not None or longitude is not None)
    else:
        assert broken == (set(names) if abs(latitude) < 1 and abs(longitude) < 1 else set())
