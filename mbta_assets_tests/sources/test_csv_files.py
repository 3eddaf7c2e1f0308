"""CSV files are read as what they mean, whoever wrote them, or refused with what is wrong with the file."""

import codecs
import csv
import io
import json
from datetime import date
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.sources import SourceError, SourceRows
from mbta_assets.sources.files import FilesSource

DAY, NEXT_DAY = date(2024, 3, 6), date(2024, 3, 7)
HEADER = ["service_date", "id", "name", "platform_name", "latitude", "longitude", "parent_station"]
STOPS = [
    ["2024-03-06", "70061", "Café", "Alewife", "42.39", "-71.12", "place-a"],
    ["2024-03-06", "70063", "Davis, outbound", "Braintree", "42.38", "-71.12", ""],
    ["2024-03-06", "70065", 'The "T"', "", "42.37", "-71.12", "place-b"],
    ["2024-03-07", "70061", "Café", "Alewife", "42.39", "-71.12", "place-a"],
]
ENCODINGS = {
    "utf-8": b"",
    "utf-8 with mark": codecs.BOM_UTF8,
    "utf-16-le": codecs.BOM_UTF16_LE,
    "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}
"""Byte order mark by encoding."""


def format_rows(rows: list[list[str]], separator: str = ",", line_end: str = "\n", *, quote_all: bool = False) -> str:
    """Format rows as CSV, with the header."""
    text = io.StringIO()
    dialect = "unix" if quote_all else "excel"  # unix quotes all values
    csv.writer(text, dialect, delimiter=separator, lineterminator=line_end).writerows([HEADER, *rows])
    return text.getvalue()


def read_stops(directory: Path, content: str | bytes, day: date = DAY) -> SourceRows:
    """Write a file of stops and read a day of it."""
    (directory / "stop.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return FilesSource(directory).read("stop", day)


def refusal(directory: Path, content: str | bytes) -> str:
    """Return the message with which a file of stops is refused, which names table and day."""
    with pytest.raises(SourceError) as error:
        read_stops(directory, content)
    message = str(error.value)
    assert message.startswith("source files, table stop")
    assert f"service day {DAY}" in message
    return message


@pytest.fixture(scope="session")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory that examples of a property replace the file in."""
    return tmp_path_factory.mktemp("csv")


@given(
    st.sampled_from(sorted(ENCODINGS)),
    st.sampled_from(",;\t|"),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    st.sampled_from(["", "\n", "\r\n \r\n"]),
    st.sampled_from(["{}", " {}", "{} ", '"{}"']),
)
def test_every_way_to_write_rows_gives_the_same_rows(
    directory: Path, encoding: str, separator: str, line_end: str, quote_all: bool, before: str, name: str
) -> None:
    text = before + format_rows(STOPS, separator, line_end, quote_all=quote_all)
    header = text.splitlines()[before.count("\n")]
    text = text.replace(header, separator.join(name.format(column) for column in HEADER), 1)
    content = ENCODINGS[encoding] + text.encode(encoding.split(" ")[0])
    rows, rejected = read_stops(directory, content)
    pd.testing.assert_frame_equal(rows, read_stops(directory, format_rows(STOPS)).rows)
    assert rows["name"].tolist() == ["Café", "Davis, outbound", 'The "T"']
    assert rejected.empty
    (directory / "stop.csv").write_bytes(content)
    assert set(FilesSource(directory).poll("stop", {})) == {DAY, NEXT_DAY}


any_name = st.text(st.characters(codec="utf-8", exclude_characters="\x00"), min_size=1).filter(
    lambda text: "\ufeff" not in text and not text.lstrip().startswith('"')
)


@given(st.lists(any_name, min_size=1, max_size=4), st.sampled_from(["utf-8", "utf-16-le"]), st.sampled_from(",;"))
def test_names_are_neither_cut_short_nor_damaged(
    directory: Path, names: list[str], encoding: str, separator: str
) -> None:
    rows = [["2024-03-06", str(index), name, "", "42", "-71", ""] for index, name in enumerate(names)]
    content = ENCODINGS[encoding] + format_rows(rows, separator, quote_all=True).encode(encoding)
    assert read_stops(directory, content).rows["name"].tolist() == names


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252"])
@pytest.mark.parametrize("header", [HEADER, [*HEADER[:-1], "Gleis für Fahrgäste"]])
def test_an_encoding_that_is_not_certain_is_refused(tmp_path: Path, encoding: str, header: list[str]) -> None:
    text = format_rows(STOPS).replace(",".join(HEADER), ",".join(header))
    message = refusal(tmp_path, text.encode(encoding))
    assert "the encoding of stop.csv is not UTF-8, at byte 0x" in message
    assert "it may be Latin-1 or Windows-1252. Write it as UTF-8" in message
    with pytest.raises(SourceError, match=r"table stop: the encoding of stop\.csv"):
        FilesSource(tmp_path).poll("stop", {})


def test_utf_16_without_its_mark_or_cut_short_is_refused(tmp_path: Path) -> None:
    content = format_rows(STOPS).encode("utf-16-le")
    assert "as UTF-16 without a byte order mark. Write it as UTF-8" in refusal(tmp_path, content)
    cut_short = codecs.BOM_UTF16_LE + content[:-1]
    assert "the encoding of stop.csv is not UTF-16-LE; its byte order mark says so" in refusal(tmp_path, cut_short)


@pytest.mark.parametrize(
    "line",
    [
        "2024-03-06,70067,Porter,Alewife",
        "2024-03-06,70067,Porter, inbound,Alewife,42.4,-71.1,place-p",
        "a note",
        '2024-03-06,70067,"Porter\ninbound",Alewife',
    ],
)
@pytest.mark.parametrize("index", range(4))
def test_a_line_with_too_few_or_too_many_values_costs_itself(tmp_path: Path, line: str, index: int) -> None:
    lines = format_rows(STOPS).splitlines()
    lines.insert(index + 1, line)
    rows, rejected = read_stops(tmp_path, "\n".join(lines) + "\n")
    pd.testing.assert_frame_equal(rows, read_stops(tmp_path, format_rows(STOPS)).rows)
    assert rejected["reason"].tolist() == ["unreadable_row"]
    assert rejected["column_name"].isna().all()
    assert json.loads(rejected["row"][0]) == line


def test_a_file_that_is_cut_short_is_refused(tmp_path: Path) -> None:
    content = format_rows(STOPS).encode()
    assert "is cut short or damaged: its last row is 2024-03-07,70061" in refusal(tmp_path, content[:-20])
    assert len(read_stops(tmp_path, content[:-1]).rows) == 3, "a last row without a line end is a row"


def test_lines_that_are_mostly_of_another_length_are_refused(tmp_path: Path) -> None:
    rows = [[*row, "one more"] for row in STOPS[:3]]
    message = refusal(tmp_path, format_rows([*rows, STOPS[3]]))
    assert "3 of 4 rows of stop.csv have not the 7 values of the header" in message


@pytest.mark.parametrize(
    "broken",
    [
        '2024-03-06,70067,"Porter,Alewife,42.4,-71.1,place-p\n',
        '2024-03-06,70067,"Porter,Alewife,42.4,-71.1,\n2024-03-06,70069,"Central,Alewife,42.3,-71.1,\n',
    ],
)
@pytest.mark.parametrize("index", range(5))
def test_a_quote_that_is_not_closed_is_refused_as_it_swallows_rows(tmp_path: Path, broken: str, index: int) -> None:
    lines = format_rows(STOPS).splitlines(keepends=True)
    content = "".join([*lines[: index + 1], broken, *lines[index + 1 :]])
    assert "not closed" in refusal(tmp_path, content)


def test_a_line_break_in_quotes_is_part_of_a_name(tmp_path: Path) -> None:
    rows = [[*STOPS[0][:2], "Café\r\n70061", *STOPS[0][3:]], *STOPS[1:]]
    assert read_stops(tmp_path, format_rows(rows)).rows["name"][0] == "Café\r\n70061"


@pytest.mark.parametrize("text", ["", "\n\n", "service_date,id", "service_date,id\n"])
def test_a_file_without_rows_is_refused(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, text)
    assert "0 bytes" in message or "the required column is missing" in message or "it holds no rows at all" in message


@pytest.mark.parametrize("header", ["stop code,stop name", "service_date/id/name", '{"rows": []}'])
def test_a_header_that_is_not_of_the_table_is_named(tmp_path: Path, header: str) -> None:
    message = refusal(tmp_path, f"{header}\n1,2\n")
    assert "column service_date" in message
    assert f"the file has {', '.join(header.split(','))}".replace('"', "") in message.replace('"', "")


def test_days_that_cannot_be_read_are_named(tmp_path: Path) -> None:
    assert "its days cannot be read, such as '06.03.2024'. Write them as YYYY-MM-DD" in refusal(
        tmp_path, format_rows(STOPS).replace("2024-03-06", "06.03.2024").replace("2024-03-07", "07.03.2024")
    )


@pytest.mark.parametrize("day", [" 2024-03-06", "2024-03-06 00:00:00", "2024-03-06T00:00:00Z"])
def test_a_day_with_its_midnight_or_padding_is_the_day(tmp_path: Path, day: str) -> None:
    rows = read_stops(tmp_path, format_rows(STOPS).replace("2024-03-06", day)).rows
    assert rows["service_date"].tolist() == [DAY] * 3


def test_a_blank_before_a_quote_is_no_part_of_a_value(tmp_path: Path) -> None:
    text = format_rows([[*row[:2], row[2].replace(",", ""), *row[3:]] for row in STOPS], quote_all=True)
    spaced = read_stops(tmp_path, text.replace('","', '", "')).rows
    pd.testing.assert_frame_equal(spaced, read_stops(tmp_path, text).rows)


def test_quotes_that_are_part_of_a_name_stay(tmp_path: Path) -> None:
    names = ['"T"', 'The "T"', '5" pipe', ' "']
    rows = [["2024-03-06", str(index), name, "", "42", "-71", ""] for index, name in enumerate(names)]
    assert read_stops(tmp_path, format_rows(rows)).rows["name"].tolist() == names
