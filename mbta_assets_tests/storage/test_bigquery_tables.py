"""Rows written to BigQuery are read back unchanged; rows that do not fit the table are refused by column."""

import inspect
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pyarrow as arrow
import pytest

from mbta_assets.defs.daily_tables import DailyOutput
from mbta_assets.defs.io_managers import TablesIOManager
from mbta_assets.gcp.bigquery import BigQuery
from mbta_assets.storage.bigquery_tables import CLUSTERING, BigQueryTables
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import MissingPartition, TableStore, content_version, to_arrow
from mbta_assets.transit import schema
from mbta_assets.transit.table import describe_column
from mbta_assets_tests.support.google_fixtures import MAX_BYTES_BILLED

DAY, NEXT_DAY = date(2024, 3, 10), date(2024, 3, 11)

pytestmark = pytest.mark.xdist_group("google")


def read_by_query(tables: BigQueryTables) -> BigQueryTables:
    """Return the same tables, read by queries instead of the Storage Read API."""
    account = replace(tables.bigquery.account, read_api_emulator=None)
    return BigQueryTables(BigQuery(account, MAX_BYTES_BILLED), tables.dataset)


@pytest.fixture(params=["storage_read_api", "query"])
def tables_by_reader(request: pytest.FixtureRequest, tables: BigQueryTables) -> BigQueryTables:
    """Return the tables; each test reads them once through the Storage Read API and once by queries."""
    return read_by_query(tables) if request.param == "query" else tables


def make_rows(
    values: Sequence[Any], type_: arrow.DataType | None = None, name: str = "value", day: date = DAY
) -> arrow.Table:
    """Return rows of a table that has no model, with one column of values in ascending order."""
    days = arrow.array([day] * len(values), arrow.date32())
    return arrow.table({"service_date": days, name: arrow.array(values, type_)})


def make_vehicle_updates(n: int, day: date = DAY) -> pd.DataFrame:
    """Return updates out of order, some of them twice, with missing values and text in several scripts."""
    random = np.random.default_rng(n)
    seconds = random.integers(0, 30 * 3600, n)
    frame = pd.DataFrame(
        {
            "service_date": day,
            "id": random.choice(["R-1", "Ж-2", "駅-3"], n),
            "updated_at": pd.Timestamp(day, tz="America/New_York") + pd.to_timedelta(seconds, unit="s"),
            "current_status": random.choice(schema.STATUSES, n),
            "latitude": np.where(random.random(n) < 0.1, np.nan, random.uniform(42, 43, n)),
            "longitude": random.uniform(-72, -71, n),
            "stop_id": random.choice(np.array(["70061", "Côté d'“Or”\\n`x`", None], dtype=object), n),
            "trip_id": random.choice(np.array(["1", "", None], dtype=object), n),
            "direction_id": random.choice(np.array([0, 1, None], dtype=object), n),
        }
    ).reindex(columns=schema.arrow_schema(schema.Vehicle).names)
    return schema.cast_frame(pd.concat([frame, frame.head(n // 10)]), schema.Vehicle)


@pytest.mark.parametrize("n", [0, 1, 2_000])
def test_a_table_is_read_as_from_parquet_files_whatever_order_it_was_written_in(
    tables_by_reader: BigQueryTables, tmp_path: Path, n: int
) -> None:
    parquet_tables, rows = ParquetTables(tmp_path), make_vehicle_updates(n)
    shuffled = rows.sample(frac=1, random_state=1) if n else rows
    parquet_tables.write("vehicle", DAY, to_arrow("vehicle", rows))
    tables_by_reader.write("vehicle", DAY, to_arrow("vehicle", shuffled))
    assert tables_by_reader.read("vehicle", [DAY]).equals(parquet_tables.read("vehicle", [DAY]))
    assert tables_by_reader.versions("vehicle", [DAY]) == parquet_tables.versions("vehicle", [DAY])
    assert tables_by_reader.row_counts("vehicle", before=NEXT_DAY, days=9) == parquet_tables.row_counts(
        "vehicle", before=NEXT_DAY, days=9
    )


def test_a_day_is_replaced_and_no_other(tables: BigQueryTables) -> None:
    for day in (DAY, NEXT_DAY):
        tables.write("toy", day, make_rows([1, 2], day=day))
    tables.write("toy", DAY, make_rows([3]))
    assert tables.read("toy", [DAY])["value"].to_pylist() == [3]
    assert tables.read("toy", [DAY, NEXT_DAY])["value"].to_pylist() == [3, 1, 2]
    assert tables.days("toy") == [DAY, NEXT_DAY]


def test_an_empty_day_replaces_a_full_one_and_differs_from_one_that_was_never_stored(
    tables_by_reader: BigQueryTables,
) -> None:
    tables_by_reader.write("toy", DAY, make_rows([1]))
    tables_by_reader.write("toy", DAY, make_rows([], arrow.int64()))
    assert len(tables_by_reader.read("toy", [DAY])) == 0
    assert tables_by_reader.row_counts("toy", before=NEXT_DAY, days=1) == {DAY: 0}
    with pytest.raises(MissingPartition, match=rf"toy of service day {NEXT_DAY} .* nearest stored are {DAY}"):
        tables_by_reader.read("toy", [NEXT_DAY])
    with pytest.raises(MissingPartition, match="No day of it is stored"):
        tables_by_reader.read("nothing", [DAY])
    assert tables_by_reader.days("nothing") == []


def test_a_day_without_rows_is_missing_even_beside_one_with_rows(tables: BigQueryTables) -> None:
    tables.write("toy", DAY, make_rows([1]))
    with pytest.raises(MissingPartition, match=str(NEXT_DAY)):
        tables.read("toy", [DAY, NEXT_DAY])


def test_a_new_column_is_added_and_is_null_on_the_days_before(tables_by_reader: BigQueryTables) -> None:
    tables_by_reader.write("toy", DAY, make_rows([1]))
    wider = make_rows([2], day=NEXT_DAY).append_column("headsign", [["Ashmont"]])
    tables_by_reader.write("toy", NEXT_DAY, wider)
    assert tables_by_reader.read("toy", [DAY, NEXT_DAY])["headsign"].to_pylist() == [None, "Ashmont"]
    tables_by_reader.write("toy", DAY, wider.set_column(0, "service_date", arrow.array([DAY])))
    assert tables_by_reader.read("toy", [DAY], ["headsign"])["headsign"].to_pylist() == ["Ashmont"]


def test_a_column_added_to_a_model_is_null_until_it_is_written(
    tables_by_reader: BigQueryTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    trips = schema.cast_frame(
        pd.DataFrame({"service_date": [DAY], "id": ["1"], "name": None, "route_id": "Red", "direction_id": 0})
        .assign(headsign="Ashmont"),
        schema.Trip,
    )  # fmt: skip
    with monkeypatch.context() as before:
        before.delitem(schema.TABLES, "trip")
        older = arrow.Table.from_pandas(trips.drop(columns="headsign"), preserve_index=False)
        tables_by_reader.write("trip", DAY, to_arrow("trip", older))
    assert tables_by_reader.read("trip", [DAY])["headsign"].to_pylist() == [None]


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        (make_rows([1]), make_rows(["one"]), "column value is STRING, and INT64 there"),
        (make_rows([1]), make_rows([1.5]), "column value is FLOAT64, and INT64 there"),
        (make_rows([1]), make_rows([1], name="Value"), "column Value is called value there"),
        (
            make_rows([1]).append_column("more", [[1]]),
            make_rows([1]),
            "column more is there, and not in what is written",
        ),
    ],
    ids=["another type", "a wider type", "another case", "a column less"],
)
def test_any_other_change_of_columns_is_refused_by_name_and_loses_nothing(
    tables: BigQueryTables, before: arrow.Table, after: arrow.Table, message: str
) -> None:
    tables.write("toy", DAY, before)
    with pytest.raises(ValueError, match=message):
        tables.write("toy", DAY, after)
    assert tables.read("toy", [DAY]).equals(before)
    assert tables.versions("toy", [DAY]) == {DAY: content_version(before)}


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (make_rows([1]).append_column("VALUE", [[2]]), "columns value and VALUE are one to BigQuery"),
        (make_rows([1]).drop(["service_date"]), "no column service_date"),
        (make_rows([[1, 2]]), "column value: .*list<item: int64>"),
        (make_rows([1], day=NEXT_DAY), "rows of service day 2024-03-10 hold service_date .*2024-03-11"),
    ],
    ids=["names alike", "no day", "a list", "another day"],
)
def test_rows_that_a_table_cannot_hold_are_refused_by_column(
    tables: BigQueryTables, rows: arrow.Table, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        tables.write("toy", DAY, rows)
    assert tables.days("toy") == []


def test_columns_in_another_order_are_the_same_columns(tables_by_reader: BigQueryTables) -> None:
    rows = make_rows([1, 2]).append_column("name", [["a", "b"]])
    tables_by_reader.write("toy", DAY, rows)
    tables_by_reader.write(
        "toy", DAY, make_rows([3, 4]).append_column("name", [["c", "d"]]).select(["name", "value", "service_date"])
    )
    assert tables_by_reader.read("toy", [DAY], ["value", "name"]).to_pydict() == {
        "value": [3, 4],
        "name": ["c", "d"],
    }


AUTUMN = [datetime(2024, 11, 3, hour, 30, tzinfo=UTC) for hour in (4, 5, 6, 7)]  # 1:30 in Boston occurs twice
SPRING = [datetime(2024, 3, 10, 6, 59, 59, 999999, UTC), datetime(2024, 3, 10, 7, 0, tzinfo=UTC)]


@pytest.mark.parametrize(
    "rows",
    [
        make_rows(AUTUMN, arrow.timestamp("us", "UTC")),
        make_rows(SPRING, arrow.timestamp("us", "UTC")),
        make_rows([None, "", "é", "Ж", "北", "🚇"], arrow.string()),
        make_rows([1, 2], name="Mixed_Case"),
        make_rows([1, 2], name="Haltestelle_Süd"),
        make_rows([None, None], arrow.float64()),
        make_rows([None, None], arrow.int64()),
        make_rows([None, -(2**63), 2**63 - 1], arrow.int64()),
        make_rows([None, -1e300, 5e-324, 1e300], arrow.float64()),
        make_rows([None, False, True], arrow.bool_()),
        make_rows([None, date(1999, 12, 31)], arrow.date32()),
        make_rows(["it's \\ `back` \n tick"]),
    ],
    ids=[
        "autumn",
        "spring",
        "letters",
        "case",
        "ü",
        "no floats",
        "no integers",
        "int64",
        "float64",
        "bool",
        "date",
        "sql",
    ],
)
def test_values_and_names_are_read_back_unchanged(tables_by_reader: BigQueryTables, rows: arrow.Table) -> None:
    tables_by_reader.write("toy", DAY, rows)
    assert tables_by_reader.read("toy", [DAY]).equals(rows)


def test_a_column_without_any_value_or_type_is_text(tables_by_reader: BigQueryTables) -> None:
    tables_by_reader.write("toy", DAY, make_rows([None, None], arrow.null()))
    assert tables_by_reader.read("toy", [DAY])["value"].to_pylist() == [None, None]
    tables_by_reader.write("toy", DAY, make_rows(["a"]))
    tables_by_reader.write("toy", DAY, make_rows([None], arrow.null()))
    assert tables_by_reader.read("toy", [DAY])["value"].to_pylist() == [None]


@pytest.mark.parametrize("table", schema.TABLES)
def test_a_table_is_created_as_its_model_defines(tables: BigQueryTables, table: str) -> None:
    model = schema.TABLES[table]
    tables.write(table, DAY, to_arrow(table, schema.empty_frame(model)))
    created = tables.bigquery.client.get_table(tables.path(table))
    assert created.time_partitioning.field == "service_date"
    assert list(created.clustering_fields or ()) == CLUSTERING.get(table, [])
    assert created.description == inspect.getdoc(model)
    fields = {field.name: field for field in created.schema}
    assert list(fields) == schema.arrow_schema(model).names
    for name, column in model.to_schema().columns.items():
        assert fields[name].description == describe_column(column)
        assert fields[name].mode == ("NULLABLE" if column.nullable else "REQUIRED")


def record_request_bodies(tables: BigQueryTables) -> list[str]:
    """Return a list to which the body of each request from now on is added."""
    bodies: list[str] = []
    session = tables.bigquery.client._http
    send = session.request

    def record(method: str, url: str, **options: Any) -> Any:
        body = options.get("data") or b""
        bodies.append(body if isinstance(body, str) else body.decode("latin-1"))
        return send(method, url, **options)

    session.request = record
    return bodies


def test_only_the_requested_columns_and_days_are_scanned(tables: BigQueryTables) -> None:
    tables.write("vehicle", DAY, to_arrow("vehicle", make_vehicle_updates(50)))
    tables = read_by_query(tables)
    sent = record_request_bodies(tables)
    tables.read("vehicle", [DAY], ["trip_id"])
    (query,) = [body for body in sent if "SELECT" in body]
    assert f"service_date IN ('{DAY}')" in query
    assert "*" not in query
    assert f'"maximumBytesBilled": "{MAX_BYTES_BILLED}"' in query


def test_each_job_is_labelled_and_limited_in_cost(tables: BigQueryTables) -> None:
    sent = record_request_bodies(tables)
    tables.write("toy", DAY, make_rows([1]), run_id="4A-b")
    load, replacement = (next(body for body in sent if text in body) for text in ("sourceFormat", "BEGIN TRANSACTION"))
    for body in (load, replacement):
        labels = {"application": "mbta_assets", "table": "toy", "service_date": str(DAY), "run": "4a-b"}
        for label in labels.items():
            assert '"{}": "{}"'.format(*label) in body
    assert f'"maximumBytesBilled": "{MAX_BYTES_BILLED}"' in replacement
    (staging,) = [body for body in sent if "expirationTime" in body]
    assert "staging_toy_20240310" in staging


def test_no_staging_table_is_left_whether_a_write_succeeds_or_fails(
    tables: BigQueryTables, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables.write("toy", DAY, make_rows([1]))
    monkeypatch.setattr(tables, "_replace", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        tables.write("toy", DAY, make_rows([2]))
    assert {table.table_id for table in tables.bigquery.client.list_tables(tables.dataset)} == {"toy", "stored_days"}


def test_a_run_writes_many_partitions_and_describes_each(tables: BigQueryTables) -> None:
    days = [DAY + timedelta(days=n) for n in range(3)]
    partitions = dg.DailyPartitionsDefinition(str(DAY), end_date=str(days[-1] + timedelta(days=1)))

    @dg.asset(partitions_def=partitions, backfill_policy=dg.BackfillPolicy.single_run())
    def toys() -> DailyOutput:
        return DailyOutput(lambda day: make_rows([day.day] * (days.index(day) + 1), day=day))

    consumed = []

    @dg.asset
    def consumer(toys: pd.DataFrame) -> None:
        consumed.append(toys["value"].tolist())

    tags = {"dagster/asset_partition_range_start": str(days[0]), "dagster/asset_partition_range_end": str(days[-1])}
    resources = {"io_manager": TablesIOManager(tables=tables)}
    run = dg.materialize([toys], resources=resources, tags=tags)
    events = run.asset_materializations_for_node("toys")
    assert [event.metadata["dagster/row_count"].value for event in events] == [1, 2, 3]
    for event, day in zip(events, days, strict=True):
        assert event.metadata["content_version"].value == tables.versions("toys", [day])[day]
        processed = event.metadata["bytes_processed"].value
        assert isinstance(processed, int) and processed >= 0
        assert tables.bigquery.client.get_job(event.metadata["bigquery_job"].value).state == "DONE"
    dg.materialize([toys, consumer], selection=["consumer"], resources=resources)
    assert consumed == [[10, 11, 11, 12, 12, 12]]


def make_rejected(rejected_by: str, *ids: str) -> arrow.Table:
    """Return rows of `rejected_rows` that an asset has rejected."""
    columns = {"service_date": DAY, "source_table": "vehicle", "rejected_by": rejected_by, "reason": "missing_value"}
    rows = [{**columns, "column_name": "id", "row": row} for row in ids]
    return arrow.Table.from_pylist(rows, schema.arrow_schema(schema.RejectedRows))


@pytest.mark.parametrize("kind", ["bigquery", "parquet"])
def test_a_part_of_a_service_day_is_replaced_and_the_others_stay(
    tables: BigQueryTables, tmp_path: Path, kind: str
) -> None:
    stored: TableStore = tables if kind == "bigquery" else ParquetTables(tmp_path)
    stored.write_part("rejected_rows", DAY, "stop", make_rejected("stop"))
    stored.write_part("rejected_rows", DAY, "vehicle", make_rejected("vehicle", "1", "2"))
    stored.write_part("rejected_rows", DAY, "raw_transit_data", make_rejected("raw_transit_data", "3"))
    assert sorted(stored.read("rejected_rows", [DAY])["row"].to_pylist()) == ["1", "2", "3"]
    stored.write_part("rejected_rows", DAY, "vehicle", make_rejected("vehicle", "4"))
    assert sorted(stored.read("rejected_rows", [DAY])["row"].to_pylist()) == ["3", "4"]
    stored.write_part("rejected_rows", DAY, "vehicle", make_rejected("vehicle"))
    assert stored.read("rejected_rows", [DAY])["row"].to_pylist() == ["3"]


@pytest.mark.parametrize("kind", ["bigquery", "parquet"])
def test_a_refused_day_is_kept_apart_from_the_table_until_it_is_published(
    tables: BigQueryTables, tmp_path: Path, kind: str
) -> None:
    stored: TableStore = tables if kind == "bigquery" else ParquetTables(tmp_path)
    published = stored.write("trip", DAY, make_trips("1"))
    location = stored.refuse("trip", DAY, make_trips("2"), ["schema_holds: column id"])
    stored.refuse("trip", NEXT_DAY, None, ["the file is cut short"])
    assert "trip" in location
    assert stored.refused_days("trip") == [DAY, NEXT_DAY]
    assert stored.versions("trip", [DAY]) == {DAY: published.version}
    assert stored.read("trip", [DAY])["id"].to_pylist() == ["1"] and stored.days("trip") == [DAY]
    stored.write("trip", DAY, make_trips("3"))
    assert stored.refused_days("trip") == [NEXT_DAY]


def make_trips(*ids: str) -> arrow.Table:
    """Return rows of `trip`."""
    return arrow.Table.from_pylist([{"service_date": DAY, "id": id} for id in ids], schema.arrow_schema(schema.Trip))


def test_values_of_a_column_are_counted_by_service_day(tables: BigQueryTables) -> None:
    rows = make_trips("1", "2", "3").set_column(3, "route_id", arrow.array(["Red", None, None]))
    tables.write("trip", DAY, rows)
    assert tables.row_counts("trip", NEXT_DAY, 5) == {DAY: 3}
    assert tables.row_counts("trip", NEXT_DAY, 5, "route_id") == {DAY: 1}


LARGE_TABLE = """
import resource, sys
from datetime import date
import numpy as np, pyarrow as arrow
from mbta_assets.settings import Settings
from mbta_assets.storage.bigquery_tables import BigQueryTables

tables = BigQueryTables.from_settings(Settings.from_environment())
tables.prepare()

def make_rows(n):
    random = np.random.default_rng(0)
    days = arrow.array(np.full(n, np.datetime64(DAY), dtype="datetime64[D]"))
    return arrow.table({"service_date": days} | {f"x{i}": np.sort(random.integers(0, 999, n)) / 8 for i in range(8)})

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

DAY = date(2024, 3, 10)
tables.write("warm", DAY, make_rows(1000))
tables.read("warm", [DAY])
rows = make_rows(int(sys.argv[1]))
before = peak_bytes()
tables.write("large", DAY, rows)
written = peak_bytes() - before
size = rows.nbytes
del rows
before = peak_bytes()
read = tables.read("large", [DAY])
assert read.num_rows == int(sys.argv[1])
print(size, written, peak_bytes() - before)
"""


def test_a_large_table_is_streamed(google_environment: dict[str, str]) -> None:
    run = subprocess.run(
        [sys.executable, "-c", LARGE_TABLE, "1500000"],
        capture_output=True,
        text=True,
        env={**os.environ, **google_environment},
    )
    assert run.returncode == 0, run.stderr
    size, written, read = map(int, run.stdout.split())
    assert size > 90e6
    assert written < 0.6 * size  # never all of it as Parquet, nor as a request
    assert read < 1.6 * size  # the rows themselves, and one copy of a column at a time
