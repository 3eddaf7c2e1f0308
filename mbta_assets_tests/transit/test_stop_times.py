"""The order of stop times: repeats, ties, stop sequences that identify visits or do not, and interpolated times."""

from datetime import datetime, timedelta

import pytest

from mbta_assets.transit.ids import IdCodes
from mbta_assets.transit.plausibility import NAT
from mbta_assets.transit.stop_times import StopTimes, order_stop_times, start_microseconds
from mbta_assets_tests.support import plain_day
from mbta_assets_tests.support.plain_day import BEGIN, DAY, Row

EPOCH = datetime(1970, 1, 1, tzinfo=BEGIN.tzinfo)


def stop_time(
    stop: str, minutes: float | None, sequence: int | None = None, departure: float | None = None, trip: str = "1"
) -> Row:
    """Return a stop time some minutes after noon, with a departure of the same time if none is given."""
    arrival, departs = (
        None if time is None else BEGIN + timedelta(minutes=time)
        for time in (minutes, minutes if departure is None else departure)
    )
    return {
        "trip_id": trip, "stop_id": stop, "arrival_time": arrival, "departure_time": departs, "stop_sequence": sequence
    }  # fmt: skip


def order(rows: list[Row], stops: list[Row] | None = None) -> StopTimes:
    """Return the ordered stop times."""
    tables = plain_day.to_tables({"vehicle": [], "trip": [], "stop": stops or [], "schedule": rows})
    codes = IdCodes.from_tables(tables["vehicle"], tables["schedule"])
    return order_stop_times(tables["schedule"], tables["stop"], codes, start_microseconds(DAY))


def list_stops(stop_times: StopTimes) -> str:
    """Return the one-letter stops in order of travel."""
    return "".join(stop_times.codes.stops[stop_times.stop])


def list_minutes(stop_times: StopTimes) -> list[float | None]:
    """Return the departures, else the arrivals, in minutes after noon."""
    begin = round(BEGIN.timestamp()) * 1_000_000
    times = [a if d == NAT else d for a, d in zip(stop_times.arrival, stop_times.departure, strict=True)]
    return [(time - begin) / 60e6 for time in times]


def test_a_stop_may_be_served_several_times_and_each_is_a_visit() -> None:
    stop_times = order([stop_time(stop, 5 * n, 10 * n) for n, stop in enumerate("ABCDEA")])
    assert list_stops(stop_times) == "ABCDEA"
    assert stop_times.sequence.tolist() == [0, 10, 20, 30, 40, 50]
    assert stop_times.position.tolist() == [1, 2, 3, 4, 5, 6]
    assert stop_times.position_at_stop_before.tolist() == [-1, -1, -1, -1, -1, 1]
    assert stop_times.arrival[0] == NAT and stop_times.previous_departure[0] == NAT
    assert stop_times.has_sequences.all() and not stop_times.order_unknown.any()


def test_a_sequence_of_1_at_the_last_stop_does_not_come_first() -> None:
    rows = [stop_time(stop, 5 * n, 10 * n if n < 3 else 1) for n, stop in enumerate("ABCD")]
    stop_times = order(rows[::-1])
    assert list_stops(stop_times) == "ABCD"
    assert stop_times.sequence.tolist() == [0, 10, 20, 1], "it identifies the visit nevertheless"


@pytest.mark.parametrize("sequences", [(None, 1, 2), (0, 1, 1), (None, None, None)])
def test_sequences_that_are_incomplete_or_repeated_are_replaced_by_positions(sequences: tuple[int | None, ...]) -> None:
    rows = [stop_time(stop, 5 * n, sequence) for (n, stop), sequence in zip(enumerate("ABC"), sequences, strict=True)]
    other = [stop_time(stop, 5 * n, 10 * n, trip="2") for n, stop in enumerate("ABC")]
    stop_times = order([*rows, *other])
    assert stop_times.sequence.tolist() == [1, 2, 3, 0, 10, 20]
    assert stop_times.has_sequences.tolist() == [False] * 3 + [True] * 3


def test_rows_of_one_visit_count_once_the_earliest_of_them() -> None:
    rows = [stop_time("A", 0, 1), stop_time("B", 6, 2), stop_time("B", 5, 2), stop_time("B", None, 2)]
    stop_times = order(rows)
    assert list_stops(stop_times) == "AB" and list_minutes(stop_times) == [0, 5]
    assert sorted(stop_times.repeated_row) == [1, 3]


def test_without_sequences_rows_of_one_time_or_in_a_row_are_one_visit() -> None:
    rows = [stop_time("A", 0), stop_time("A", 2), stop_time("B", 5), stop_time("B", 5), stop_time("A", 10)]
    stop_times = order(rows)
    assert list_stops(stop_times) == "ABA" and list_minutes(stop_times) == [0, 5, 10]
    assert sorted(stop_times.repeated_row) == [1, 3]
    sequenced = order([stop_time("A", 0, 1), stop_time("A", 2, 2), stop_time("B", 5, 3)])
    assert list_stops(sequenced) == "AAB", "the feed says that there are two visits"


def test_ties_are_in_the_order_of_the_sequence_and_unknown_without_one() -> None:
    known = order([stop_time("A", 0, 1), stop_time("C", 5, 2), stop_time("B", 5, 3), stop_time("D", 9, 4)])
    assert list_stops(known) == "ACBD" and not known.order_unknown.any()
    unknown = order([stop_time("A", 0), stop_time("C", 5), stop_time("B", 5), stop_time("D", 9)])
    assert list_stops(unknown) == "ABCD" and unknown.order_unknown.tolist() == [False, True, True, False]
    assert unknown.position.tolist() == [1, 2, 3, 4], "they count as stops"
    half = order([stop_time("A", 0, 1), stop_time("C", 5), stop_time("B", 5, 3), stop_time("D", 9, 4)])
    assert half.order_unknown.tolist() == [False, True, True, False]
    repeated = order([stop_time("A", 0, 1), stop_time("C", 5, 3), stop_time("B", 5, 3), stop_time("E", 5, 4)])
    assert repeated.order_unknown.tolist() == [False, True, True, True]


def test_a_stop_without_arrival_ties_with_none_that_has_one() -> None:
    rows = [stop_time("A", 0), stop_time("B", 5), {**stop_time("C", 5), "arrival_time": None}]
    assert not order(rows).order_unknown.any()


def test_trips_do_not_tie_with_one_another() -> None:
    rows = [stop_time("A", 0), stop_time("B", 5, trip="2"), stop_time("C", 5), stop_time("B", 9), stop_time("C", 9)]
    assert order(rows).order_unknown.tolist() == [False, False, True, True, False]


def test_blank_times_are_interpolated_and_marked_and_those_at_the_ends_dropped() -> None:
    minutes = (None, 0, None, 10, None)
    rows = [stop_time(stop, time, n) for n, (stop, time) in enumerate(zip("ABCDE", minutes, strict=True))]
    stop_times = order(rows)
    assert list_stops(stop_times) == "BCD" and list_minutes(stop_times) == [0, 5, 10]
    assert stop_times.is_interpolated.tolist() == [False, True, False]
    assert stop_times.sequence.tolist() == [1, 2, 3] and stop_times.position.tolist() == [1, 2, 3]
    assert len(stop_times.repeated_row) == 0


def test_blank_times_follow_the_positions_of_stops() -> None:
    rows = [stop_time(stop, time, n) for n, (stop, time) in enumerate(zip("ABC", (0, None, 10), strict=True))]
    places = zip("ABC", (42.0, 42.1, 42.4), strict=True)
    stops = [{"id": stop, "latitude": latitude, "longitude": -71.0} for stop, latitude in places]
    assert list_minutes(order(rows, stops))[1] == 2.5
    stops[2] |= {"latitude": 0.0, "longitude": 0.0}
    assert list_minutes(order(rows, stops))[1] == 5, "null island is no position"


def test_a_time_of_another_year_is_as_a_blank_one() -> None:
    rows = [stop_time("A", 0, 1), {**stop_time("B", 1, 2), "arrival_time": EPOCH, "departure_time": EPOCH}]
    assert list_minutes(order([*rows, stop_time("C", 10, 3)])) == [0, 5, 10]
    assert list_stops(order(rows)) == "A"


def test_blank_times_without_trusted_sequences_are_dropped() -> None:
    rows = [stop_time("A", 0), stop_time("B", None), stop_time("C", 10)]
    assert list_stops(order(rows)) == "AC"
    assert not order(rows).is_interpolated.any()


def test_a_schedule_without_rows_has_no_stop_times() -> None:
    stop_times = order([])
    assert len(stop_times.trip) == len(stop_times.position_at_stop_before) == len(stop_times.previous_departure) == 0
