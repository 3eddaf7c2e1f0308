"""The tables of the benchmark on real days: errors over the seeds, and differences on the same rows."""

from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from benchmarks import real_days
from benchmarks.real_days import SEED_UPSTREAM, TrainedSeed, join_predictions
from mbta_assets.transit.schema import UPSTREAM
from mbta_assets_tests.support.dagster_dev import ROOT

DAYS = pd.to_datetime(["2022-01-22", "2022-01-23"])


def make_predictions(n: int = 40, **errors: float) -> pd.DataFrame:
    """Return predictions of n rows, of two service days and four trips, that are wrong by so many seconds by model."""
    number = np.arange(n)
    label = np.linspace(-100, 200, n)
    return pd.DataFrame(
        {
            "service_date": DAYS[number % 2],
            "trip_id": [f"trip {k}" for k in number % 4],
            "vehicle_id": "bus",
            "time_stamp": pd.Timestamp("2022-01-22", tz="UTC") + pd.to_timedelta(number, "min"),
            "stop_sequence": number,
            "stops_ahead": np.where(number < n // 2, 1, 7),
            "delay_seconds": label,
            **{model: label + error for model, error in errors.items()},
        }
    )


def read_table(text: str) -> dict[str, dict[str, str]]:
    """Return the cells of a Markdown table by row and column."""
    lines = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines()]
    header, rule, *rows = lines
    assert all(len(row) == len(header) == len(rule) for row in rows)
    return {row[0]: dict(zip(header, row, strict=True)) for row in rows}


def test_errors_have_mean_and_spread_over_the_seeds() -> None:
    rows = join_predictions(
        [make_predictions(trees=9, runtime_lookup=20), make_predictions(trees=11, runtime_lookup=20)]
    )
    table = read_table(real_days.tabulate_errors(rows))
    assert [*table] == ["`trees`", "`runtime_lookup`"], "the best first"
    assert table["`trees`"] == {"MAE": "`trees`", "1": "10.0 ± 1.4", "all": "10.0 ± 1.4"}


def test_versions_are_compared_on_the_rows_that_both_have_whatever_their_order() -> None:
    after, before = make_predictions(trees=10, runtime_lookup=20), make_predictions(trees=12, runtime_lookup=20)
    before.loc[30:, "trees"] += 1000
    shuffled = before[:30].sample(frac=1, random_state=0)
    rows = join_predictions([after], [shuffled])
    assert len(rows.key) == 30
    assert read_table(real_days.tabulate_differences(rows))["`trees`"]["all"] == "-10.00"
    to_before = read_table(real_days.tabulate_differences(rows, to_before=True))["`trees`"]
    assert to_before["1"] == to_before["all"] == "-2.00" and to_before["in %"] == "-16.7"
    lines = real_days.tabulate_errors(rows).splitlines()
    assert [line.split("|")[1].strip() for line in lines[2:4]] == ["`trees`", "– before"]
    assert lines[3].split("|")[3].strip() == "12.0"


def test_a_difference_that_varies_from_day_to_day_has_a_wider_interval_by_day_than_by_trip() -> None:
    after, before = make_predictions(trees=10, runtime_lookup=20), make_predictions(trees=10, runtime_lookup=20)
    before.loc[before["service_date"] == DAYS[0], "trees"] += 6
    table = read_table(real_days.tabulate_differences(join_predictions([after], [before]), to_before=True))
    assert table["`trees`"]["all"] == "-3.00" and table["`runtime_lookup`"]["all"] == "+0.00"
    assert 3 < float(table["`trees`"]["± by trip"]) < float(table["`trees`"]["± by day"])
    assert float(table["`runtime_lookup`"]["± by day"]) == 0


def test_a_single_day_has_no_interval_by_day() -> None:
    one_day = make_predictions(trees=10, runtime_lookup=20).assign(service_date=DAYS[0])
    assert read_table(real_days.tabulate_differences(join_predictions([one_day])))["`trees`"]["± by day"] == "–"


def test_a_model_that_the_earlier_version_lacks_is_compared_with_the_lookup_alone() -> None:
    rows = join_predictions([make_predictions(new=10, runtime_lookup=20)], [make_predictions(runtime_lookup=20)])
    assert [*read_table(real_days.tabulate_differences(rows))] == ["`new`"]
    assert [*read_table(real_days.tabulate_differences(rows, to_before=True))] == ["`runtime_lookup`"]
    assert real_days.tabulate_differences(join_predictions([make_predictions(runtime_lookup=1)]), to_before=True) == ""


def test_coverage_is_the_mean_over_the_seeds_and_a_version_without_days_has_dashes() -> None:
    def make_leaderboard(coverage: float, **fields: object) -> list[dict[str, object]]:
        part = {"coverage": coverage, "mean_width_seconds": 200.0}
        return [
            {"model": "student", "interval": {**part, "confidence_level": 0.9, **fields}},
            {"model": "schedule", "interval": None},
        ]

    parts = {
        "by_day": {"2022-01-23": {"coverage": 0.8, "mean_width_seconds": 100.0}},
        "by_stops_ahead": {"3": {"coverage": 0.7, "mean_width_seconds": 50.0}, "4": {}},
    }
    after = [make_leaderboard(0.89, **parts), make_leaderboard(0.91, **parts)]
    table = read_table(real_days.tabulate_intervals({"": after, "before": [make_leaderboard(0.85)]}))
    assert table["`student`"]["all"] == "90.0%, 200 s" and table["`student`"]["2022-01-23"] == "80.0%, 100 s"
    assert table["`student`"]["3"] == "70.0%, 50 s" and "4" not in table["`student`"]
    assert table["`student`, before"]["all"] == "85.0%, 200 s" and table["`student`, before"]["2022-01-23"] == "–"


def test_a_data_set_has_a_table_of_each_kind_and_says_which_rows_are_scored() -> None:
    def make_seed(error: float) -> TrainedSeed:
        interval = {"confidence_level": 0.9, "coverage": 0.9, "mean_width_seconds": 200.0}
        parts = [{"part": "train", "rows": 1234, "from": "2022-01-01 05:00:00"}]
        leaderboard: list[dict[str, Any]] = [{"model": "trees", "interval": interval}]
        return TrainedSeed(make_predictions(trees=error, runtime_lookup=20), leaderboard, parts)

    alone = real_days.describe_data_set("buses", [make_seed(10)], [])
    compared = real_days.describe_data_set("buses", [make_seed(10), make_seed(11)], [make_seed(12)])
    assert alone.startswith("### buses\n\n1 seed, 40 of 40 labelled test rows.")
    assert "train 1,234 from 2022-01-01 05:00." in alone
    titles = ["| MAE |", "| difference to the lookup |", "| difference to before |", "| coverage, mean width |"]
    assert [title in alone for title in titles] == [True, True, False, True]
    assert all(title in compared for title in titles)


def test_days_are_made_in_ranges_without_gaps() -> None:
    days = [date(2022, 1, 1), date(2022, 1, 2), date(2022, 1, 8), date(2022, 1, 31), date(2022, 2, 1)]
    assert [*real_days.find_ranges(days)] == [(days[0], days[1]), (days[2], days[2]), (days[3], days[4])]


def test_data_sets_are_the_shipped_day_and_directories_with_all_tables(tmp_path: Path) -> None:
    for name in UPSTREAM:
        (tmp_path / "buses" / f"{name}.parquet").mkdir(parents=True)
        (tmp_path / "unfinished").mkdir(exist_ok=True)
    assert real_days.find_data_sets(tmp_path) == {SEED_UPSTREAM.name: SEED_UPSTREAM, "buses": tmp_path / "buses"}
    assert real_days.list_days(SEED_UPSTREAM) == [date(2023, 10, 3)]


def test_the_tables_replace_what_is_between_their_markers() -> None:
    document = "# Results\n<!-- real-days:begin -->\nold\n<!-- real-days:end -->\nrest\n"
    replaced = real_days.replace_block(document, "new")
    assert replaced == "# Results\n<!-- real-days:begin -->\n\nnew\n\n<!-- real-days:end -->\nrest\n"
    with pytest.raises(SystemExit, match="real-days:begin"):
        real_days.replace_block("# Results\n", "new")
    assert real_days.BLOCK.search((ROOT / "docs/results.md").read_text())
