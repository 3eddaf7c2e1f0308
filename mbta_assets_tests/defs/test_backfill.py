"""The backfill of a source: which service days it is of, in which runs, and what it says of days that are not there."""

from datetime import date, timedelta
from pathlib import Path

import pytest

from mbta_assets.defs import backfill
from mbta_assets.defs.backfill import DayRange, list_days, plan_ranges
from mbta_assets.defs.demo import format_leaderboard
from mbta_assets.settings import Settings
from mbta_assets.sources.contract import FetchedDay
from mbta_assets.sources.files import FilesSource
from mbta_assets.sources.synthetic import SyntheticSource
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.transit import schema
from mbta_assets_tests.support import real_day

DAY = date(2024, 3, 6)


def days(*offsets: int) -> list[date]:
    """Return days by their distance from the first one."""
    return [DAY + timedelta(days=n) for n in offsets]


@pytest.mark.parametrize(
    ("offsets", "batches"),
    [
        ([0], [[(0, 0)]]),
        (range(7), [[(0, 3), (4, 6)]]),
        ([0, 1, 2, 4, 5, 6], [[(0, 2), (4, 6)]]),
        ([0, 2, 4, 5, 6, 7, 8], [[(0, 0), (2, 2)], [(4, 6), (7, 8)]]),
    ],
)
def test_runs_are_of_days_without_gaps_and_two_at_a_time(offsets: range, batches: list[list[tuple[int, int]]]) -> None:
    planned = plan_ranges(days(*offsets), 2)
    assert planned == [[(days(first)[0], days(last)[0]) for first, last in batch] for batch in batches]


def test_the_latest_days_are_those_up_to_the_latest_that_the_source_has(tmp_path: Path) -> None:
    real_day.write_days(tmp_path, days(0, 3))
    source, settings = FilesSource(tmp_path), Settings()
    assert list_days(DayRange(latest=5), source, settings) == days(-1, 0, 1, 2, 3)
    assert list_days(DayRange(first=days(2)[0]), source, settings) == days(2, 3)
    assert list_days(DayRange(first=days(-1)[0], last=DAY), source, settings) == days(-1, 0)
    assert list_days(DayRange(latest=2, last=DAY), source, settings) == days(-1, 0)


def test_the_latest_day_of_a_source_that_has_every_day_is_the_latest_that_has_ended() -> None:
    [day] = list_days(DayRange(latest=1), SyntheticSource(), Settings())
    assert date.today() - timedelta(days=3) < day < date.today() + timedelta(days=1)


def test_days_that_there_are_not_are_an_error(tmp_path: Path) -> None:
    real_day.write_days(tmp_path, days(0))
    source, settings = FilesSource(tmp_path), Settings()
    with pytest.raises(SystemExit, match="Source files has no service day from 2024-03-07; its latest is 2024-03-06."):
        list_days(DayRange(first=days(1)[0]), source, settings)
    with pytest.raises(SystemExit, match="Service day 2124-03-06 has not ended"):
        list_days(DayRange(first=DAY, last=DAY.replace(year=2124)), source, settings)


def test_each_day_that_is_not_there_is_printed_as_what_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    backfill.print_fetched(
        [
            FetchedDay(days(0)[0], "fetched"),
            FetchedDay(days(1)[0], "cached"),
            FetchedDay(days(2)[0], "empty", "the file has no rows"),
            FetchedDay(days(3)[0], "failed", "the server answers 500"),
            FetchedDay(days(4)[0], "fetched"),
        ]
    )
    assert capsys.readouterr().out.splitlines() == [
        "2 fetched, 1 there before",
        "  2024-03-08 empty: the file has no rows",
        "  2024-03-09 failed: the server answers 500",
    ]


def test_a_store_with_other_days_that_models_would_learn_from_is_refused(tmp_path: Path) -> None:
    store = ParquetTables(tmp_path)
    for day in days(-1, 2):
        store.write("transit_features", day, schema.arrow_schema(schema.TransitFeatures).empty_table())
    backfill.require_own_store(tmp_path, days(2, 3))
    with pytest.raises(SystemExit, match=r"1 service day from 2024-03-08 .* Set MBTA_STORE to another directory"):
        backfill.require_own_store(tmp_path, days(0, 1))


def test_the_printed_leaderboard_says_how_many_arrivals_the_agency_has_predicted() -> None:
    errors = {"n": 4, "mae": 9.0, "rmse": 9.0}
    common = {"size_bytes": None, "latency_us_p50": None, "mae_beside_agency": 7.0}
    agency = {"model": "agency", "n": 2, "mae": 7.0, "by_stops_ahead": {"3": errors}, **common}
    schedule = {"model": "schedule", "n": 4, "mae": 9.0, "by_stops_ahead": {"1": errors, "3": errors}, **common}
    printed = format_leaderboard([agency, schedule])
    assert "1 ahead  3 ahead" in printed
    assert "The agency has predicted 2 of the 4 arrivals. MAE on these: agency 7.0, schedule 7.0." in printed
    assert "agency has predicted" not in format_leaderboard([schedule])
