"""A partition is replaced whole or not at all, also by concurrent and by killed writers."""

import subprocess
import sys
from datetime import date
from pathlib import Path

import pyarrow as arrow
import pytest
from pyarrow import parquet

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets.storage.tables import MissingPartition, content_version
from mbta_assets_tests.support.dagster_dev import ROOT

DAY, NEXT_DAY = date(2023, 10, 3), date(2023, 10, 4)


def make_rows(value: int, n: int = 1000, day: date = DAY) -> arrow.Table:
    """Return n rows of a service day that all have the same value."""
    return arrow.table(
        {"service_date": arrow.array([day] * n, arrow.date32()), "value": arrow.array([value] * n, arrow.int64())}
    )


def test_rows_are_read_as_they_were_written(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    version = tables.write("toy", DAY, make_rows(1)).version
    tables.write("toy", NEXT_DAY, make_rows(2, day=NEXT_DAY))
    assert tables.read("toy", [DAY, NEXT_DAY]) == arrow.concat_tables([make_rows(1), make_rows(2, day=NEXT_DAY)])
    assert tables.read("toy", [DAY], ["value"]).column_names == ["value"]
    assert tables.days("toy") == [DAY, NEXT_DAY]
    assert tables.versions("toy", [DAY]) == {DAY: version}
    assert tables.row_counts("toy", before=NEXT_DAY, days=5) == {DAY: 1000}


@pytest.mark.parametrize("columns", [None, ["speed"]])
def test_a_column_is_null_on_days_that_do_not_have_it(tmp_path: Path, columns: list[str] | None) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1, n=1))
    tables.write("toy", NEXT_DAY, make_rows(2, n=1, day=NEXT_DAY).append_column("speed", [[5.0]]))
    assert tables.read("toy", [DAY, NEXT_DAY], columns)["speed"].to_pylist() == [None, 5.0]
    with pytest.raises(KeyError, match="colour"):
        tables.read("toy", [DAY, NEXT_DAY], ["colour"])


def test_an_empty_partition_replaces_a_full_one(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    tables.write("toy", DAY, make_rows(1, n=0))
    assert tables.row_counts("toy", before=NEXT_DAY, days=5) == {DAY: 0}


def test_rows_of_another_day_leave_the_partition_as_it_was(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    with pytest.raises(ValueError, match="2023-10-04"):
        tables.write("toy", DAY, make_rows(2, day=NEXT_DAY))
    assert tables.read("toy", [DAY]) == make_rows(1)


def test_a_refused_day_has_the_rows_of_its_own_reasons_or_none(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    directory = Path(tables.refuse("toy", DAY, make_rows(2), ["keys_unique: a row repeats"]))
    assert parquet.read_table(directory / "data.parquet") == make_rows(2)
    assert tables.refuse("toy", DAY, None, ["the file is cut short"]) == str(directory)
    assert [path.name for path in directory.iterdir() if not path.name.startswith(".")] == ["reasons.txt"]
    assert (directory / "reasons.txt").read_text() == "the file is cut short\n"
    assert tables.refused_days("toy") == [DAY]
    assert tables.read("toy", [DAY]) == make_rows(1), "the published version stays"


def test_the_error_of_a_missing_partition_names_the_nearest_days_and_the_command_that_makes_it(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    with pytest.raises(MissingPartition) as error:
        tables.read("toy", [DAY, NEXT_DAY])
    assert "The nearest stored are 2023-10-03." in str(error.value)
    assert "-m mbta_assets.definitions --select toy --partition 2023-10-04" in str(error.value)


def test_the_content_version_depends_on_values_and_not_on_their_encoding() -> None:
    table = arrow.table({"text": ["a", None, "bc"], "number": [1, None, 3], "flag": [True, None, False]})
    version = content_version(table)
    assert content_version(arrow.concat_tables([table.slice(0, 1), table.slice(1)])) == version
    assert content_version(arrow.concat_tables([table.slice(2), table]).slice(1)) == version
    changed = [
        table.take([1, 0, 2]),
        table.rename_columns(["text", "number", "other"]),
        table.set_column(0, "text", [["ab", None, "c"]]),
        table.set_column(0, "text", [["a", "", "bc"]]),
        table.set_column(1, "number", [[1, 0, 3]]),
        table.set_column(1, "number", table["number"].cast(arrow.int32())),
    ]
    assert len({version, *map(content_version, changed)}) == 1 + len(changed)


def test_a_part_without_rows_leaves_no_file_not_even_that_of_a_killed_writer(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    directory = tables.path("toy", DAY).parent
    tables.write_part("toy", DAY, "vehicle", make_rows(1))
    (directory / ".incoming").write_bytes(b"half")
    tables.write_part("toy", DAY, "vehicle", make_rows(1, n=0))
    assert list(directory.iterdir()) == []
    tables.write_part("toy", NEXT_DAY, "vehicle", make_rows(1, n=0))
    assert not tables.path("toy", NEXT_DAY).parent.exists()


WRITE_AND_DIE = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[3])
from mbta_assets.storage import parquet_tables
from mbta_assets_tests.storage.test_parquet_tables import DAY, make_rows

def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)

def then_die(function):
    def call(*arguments, **keywords):
        function(*arguments, **keywords)
        die()
    return call

module = {"write_table": parquet_tables.parquet, "sync": parquet_tables, "replace": parquet_tables.os}[sys.argv[1]]
function = getattr(module, sys.argv[1])
setattr(module, sys.argv[1], then_die(function) if sys.argv[2] == "after" else die)
parquet_tables.ParquetTables(Path.cwd()).write("toy", DAY, make_rows(2))
"""


@pytest.mark.integration
@pytest.mark.parametrize("step", ["write_table", "sync", "replace"])
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_killed_writer_leaves_the_old_partition_or_the_new(tmp_path: Path, step: str, when: str) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    root = str(ROOT)
    killed = subprocess.run([sys.executable, "-c", WRITE_AND_DIE, step, when, root], cwd=tmp_path, check=False)
    assert killed.returncode == -9
    assert tables.read("toy", [DAY]) == make_rows(2 if (step, when) == ("replace", "after") else 1)

    tables.write("toy", DAY, make_rows(3))
    assert tables.read("toy", [DAY]) == make_rows(3)
    assert [path.name for path in tables.path("toy", DAY).parent.iterdir()] == ["data.parquet"]


WRITE_REPEATEDLY = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.storage.test_parquet_tables import DAY, make_rows
for _ in range(50):
    ParquetTables(Path.cwd()).write("toy", DAY, make_rows(int(sys.argv[1])))
"""


@pytest.mark.integration
def test_the_rows_of_two_concurrent_writers_never_mix(tmp_path: Path) -> None:
    tables = ParquetTables(tmp_path)
    tables.write("toy", DAY, make_rows(1))
    root = str(ROOT)
    writers = [subprocess.Popen([sys.executable, "-c", WRITE_REPEATEDLY, value, root], cwd=tmp_path) for value in "12"]
    while any(writer.poll() is None for writer in writers):
        assert tables.read("toy", [DAY]) in (make_rows(1), make_rows(2))
    assert [writer.returncode for writer in writers] == [0, 0]
