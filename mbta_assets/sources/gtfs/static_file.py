"""A file of a static feed as a table of text, and those of its rows that cannot be used, with reason, file and line.

What the rows that can be used say is up to `static_feed`.
"""

import csv as text_csv
import io
import json
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

import numpy as np
import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import csv

from mbta_assets.sources.csv_files import (
    BYTE_ORDER_MARKS,
    find_open_quote,
    may_have_open_quote,
    shorten,
    split_line,
    unquote_padded,
)
from mbta_assets.sources.gtfs.editions import StaticFeedError
from mbta_assets.sources.rejection import Cause, Reason, Rejections
from mbta_assets.transit.plausibility import MAX_SCHEDULED_HOURS

WEEKDAYS = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
COLUMNS = {
    "agency": ("agency_timezone",),
    "calendar": ("service_id", *WEEKDAYS, "start_date", "end_date"),
    "calendar_dates": ("service_id", "date", "exception_type"),
    "feed_info": ("feed_start_date", "feed_end_date"),
    "frequencies": ("trip_id", "start_time", "end_time", "headway_secs", "exact_times"),
    "stop_times": ("trip_id", "arrival_time", "departure_time", "stop_id", "stop_sequence", "timepoint"),
    "stops": (
        *("stop_id", "stop_name", "platform_name", "platform_code", "stop_lat", "stop_lon"),
        *("location_type", "parent_station"),
    ),
    "trips": ("trip_id", "route_id", "service_id", "trip_short_name", "trip_headsign", "direction_id"),
}
"""Columns that are read of each file; one that is absent is missing in every row."""
REQUIRED_COLUMNS = {
    "calendar": COLUMNS["calendar"],
    "calendar_dates": COLUMNS["calendar_dates"],
    "frequencies": ("trip_id", "start_time", "end_time", "headway_secs"),
    "stop_times": ("trip_id", "stop_id", "stop_sequence", "arrival_time"),
    "stops": ("stop_id",),
    "trips": ("trip_id", "route_id", "service_id"),
}
REQUIRED_TABLES = ("stop_times", "stops", "trips")
MAX_FREQUENT_TRIPS = 2000
"""Trips that one row of frequencies.txt may stand for."""
HEADER = re.compile(rb"\s*([^\r\n]*)(?:\r\n|\r|\n|$)")
Record: TypeAlias = tuple[str, str | None, str]
"""Reason, column and JSON of a rejected row."""


class StaticFile(NamedTuple):
    """The rows of a file."""

    rows: arrow.Table
    """Rows that can be used: the columns in `COLUMNS` as text, padding removed, empty as missing."""
    rejected: list[Record]
    """Rows that cannot; the JSON has `file`, `line`, and the values by column or `text`."""


class Rule(NamedTuple):
    """What a row must satisfy; else it is rejected for a reason, which a column has."""

    reason: Reason
    column: str
    is_satisfied: Callable[[arrow.Table], arrow.Array | arrow.ChunkedArray]
    """Return a mask (n,), missing where the rule does not apply."""
    remedy: str = ""
    """How values are written, in words."""


def read_static_file(content: bytes, table: str, origin: str) -> StaticFile:
    """Read the file of a table in `COLUMNS`; empty content stands for a file that is not there.

    Raises StaticFeedError if a column is missing, a quote is not closed, or most rows or values cannot be read.
    """
    return _Reader(content, table, origin).read()


def to_seconds(times: arrow.ChunkedArray) -> arrow.Array:
    """Return the seconds (n,) int64 of times such as 8:05:00 and 25:30:00, missing where there is no such time."""
    return _map_values(times, _parse_times)


class _Reader:
    def __init__(self, content: bytes, table: str, origin: str) -> None:
        self.table, self.place = table, f"{table}.txt of {origin}"
        self.content = _to_utf8(content)
        header = HEADER.match(self.content)
        line, self.end = (header[1], header.end()) if header else (b"", 0)
        self.names = split_line(line.decode(), ",")

    def read(self) -> StaticFile:
        self._validate_header()
        body = arrow.py_buffer(self.content).slice(self.end)
        if not self.names or not body.size:
            return StaticFile(arrow.schema([(name, arrow.string()) for name in COLUMNS[self.table]]).empty_table(), [])
        invalid: list[csv.InvalidRow] = []
        try:
            rows = self._parse(body, invalid)
        except arrow.ArrowInvalid as error:
            self._require_closed_quotes()
            raise StaticFeedError(f"{self.place} cannot be read: {error}. Fetch it again.") from error
        n = len(rows) + len(invalid)
        quotes, line_feeds, returns, both = (self.content.count(end) for end in (b'"', b"\n", b"\r", b"\r\n"))
        if may_have_open_quote(quotes, line_feeds + returns - both, n + 1):
            self._require_closed_quotes()
        numbers = np.delete(np.arange(n), [row.number - 1 for row in invalid])
        return self._reject(*self._repair(rows, numbers, invalid))

    def _validate_header(self) -> None:
        missing = [name for name in REQUIRED_COLUMNS.get(self.table, ()) if name not in self.names]
        if missing and (self.names or self.table in REQUIRED_TABLES):
            raise StaticFeedError(
                f"{self.place} has no {', '.join(missing)}, but {', '.join(filter(None, self.names)) or 'nothing'}. "
                "Check that it is a GTFS schedule."
            )
        for name in COLUMNS[self.table]:
            if self.names.count(name) > 1:
                raise StaticFeedError(f"{self.place} has the column {name} {self.names.count(name)} times. Keep one.")

    def _parse(self, lines: arrow.Buffer, invalid: list[csv.InvalidRow]) -> arrow.Table:
        """Return rows with the columns in `COLUMNS`; those without as many values as the header go to `invalid`."""

        def skip(row: csv.InvalidRow) -> str:
            invalid.append(row)
            return "skip"

        types = dict.fromkeys(COLUMNS[self.table], arrow.string())
        names = [name if name in types else f"column {n}" for n, name in enumerate(self.names)]
        rows = csv.read_csv(
            arrow.BufferReader(lines),
            csv.ReadOptions(column_names=names, use_threads=False),  # threads do not count rows
            csv.ParseOptions(newlines_in_values=True, invalid_row_handler=skip),
            csv.ConvertOptions(
                column_types=types,
                include_columns=list(types),
                include_missing_columns=True,
                null_values=[""],
                strings_can_be_null=True,
            ),
        )
        trimmed = [pc.utf8_trim_whitespace(column) for column in unquote_padded(rows).columns]
        columns = [pc.if_else(pc.equal(column, ""), None, column) for column in trimmed]
        return arrow.table(dict(zip(types, columns, strict=True)))

    def _require_closed_quotes(self) -> None:
        line = find_open_quote(io.StringIO(self.content.decode(), newline=""), ",")
        if line is not None:
            raise StaticFeedError(
                f"The quote in line {line} of {self.place} is not closed. Close it, or double quotes that are part of "
                "a value."
            )

    def _repair(
        self, rows: arrow.Table, numbers: np.ndarray, invalid: list[csv.InvalidRow]
    ) -> tuple[arrow.Table, np.ndarray, list[csv.InvalidRow]]:
        """Add the rows that lack only an empty last value, or have one too many; return those that remain invalid.

        `numbers` are those of the rows (n,) in the file, from 0. Rows without any value are left out.
        """
        invalid = [row for row in invalid if any(map(str.strip, next(text_csv.reader([row.text]))))]
        repaired = {row.number - 1: text for row in invalid if (text := self._repair_text(row))}
        if repaired:
            unclosed: list[csv.InvalidRow] = []  # the last row, if it ends in a quote
            again = self._parse(arrow.py_buffer("\n".join(repaired.values()).encode()), unclosed)
            rules = (*RULES.get(self.table, ()), *RULES_OF_REPAIRED_ROWS.get(self.table, ()))
            fits = np.logical_and.reduce([np.ones(len(again), bool), *(_to_mask(rule, again) for rule in rules)])
            added = np.array(list(repaired))[: len(repaired) - len(unclosed)][fits]
            rows, numbers = arrow.concat_tables([rows, again.filter(arrow.array(fits))]), np.append(numbers, added)
            read = set(added.tolist())
            invalid = [row for row in invalid if row.number - 1 not in read]
        has_value = ~np.logical_and.reduce([column.is_null().to_numpy() for column in rows.columns])
        if not has_value.all():
            rows, numbers = rows.filter(arrow.array(has_value)), numbers[has_value]
        return rows, numbers, invalid

    def _repair_text(self, row: csv.InvalidRow) -> str | None:
        text = row.text.rstrip(" \t")
        if row.actual_columns == row.expected_columns + 1 and text.endswith(","):
            return text[:-1]
        may_be_empty = self.names[-1] not in REQUIRED_COLUMNS.get(self.table, ())
        return f"{text}," if row.actual_columns == row.expected_columns - 1 and may_be_empty else None

    def _reject(self, rows: arrow.Table, numbers: np.ndarray, invalid: list[csv.InvalidRow]) -> StaticFile:
        """Return the rows that satisfy the rules, and records of all others."""
        if len(invalid) > len(rows):
            [line] = self._find_lines([invalid[0].number - 1])
            raise StaticFeedError(
                f"{len(invalid)} of {len(invalid) + len(rows)} rows of {self.place} have not the {len(self.names)} "
                f"values of the header, such as line {line}, {shorten(invalid[0].text)!r}. Quote values with commas."
            )
        rejections = Rejections(len(rows))
        for rule in RULES.get(self.table, ()):
            self._apply(rule, rows, numbers, rejections)
        usable = rejections.usable
        n = len(invalid)
        lines = self._find_lines([*(row.number - 1 for row in invalid), *numbers[~usable]])
        file = f"{self.table}.txt"
        broken = [{"file": file, "line": line, "text": row.text} for line, row in zip(lines[:n], invalid, strict=True)]
        records: list[Record] = [("unreadable_row", None, json.dumps(row, ensure_ascii=False)) for row in broken]
        line_of_row = np.zeros(len(rows), np.int64)
        line_of_row[~usable] = lines[n:]
        located = rows.add_column(0, "line", [line_of_row]).add_column(0, "file", [arrow.repeat(file, len(rows))])
        return StaticFile(rows.filter(arrow.array(usable)), records + rejections.list_records([located]))

    def _apply(self, rule: Rule, rows: arrow.Table, numbers: np.ndarray, rejections: Rejections) -> None:
        """Reject rows by a rule. Raises StaticFeedError if most values of its column are unreadable."""
        mask = ~_to_mask(rule, rows)
        n = int(mask.sum())
        n_read = len(rows) - rows[rule.column].null_count - n
        if rule.reason == "unreadable_value" and n > n_read:
            first = int(mask.argmax())
            [line] = self._find_lines([numbers[first]])
            raise StaticFeedError(
                f"{n} of {n + n_read} values of {rule.column} in {self.place} cannot be read, such as "
                f"{rows[rule.column][first].as_py()!r} in line {line}. Write {rule.remedy}."
            )
        rejections.add(mask, Cause(rule.reason, rule.column))

    def _find_lines(self, numbers: Sequence[int]) -> list[int]:
        """Return the line on which each of some rows begins, which are counted from 0 without empty lines."""
        if not numbers:
            return []
        reader = text_csv.reader(io.StringIO(self.content[self.end :].decode(), newline=""))
        line_before = len(self.content[: self.end].splitlines())
        begins, last = [], 0
        try:
            for row in reader:
                if row:
                    begins.append(line_before + last + 1)
                last = reader.line_num
        except text_csv.Error as error:
            raise StaticFeedError(f"{self.place} cannot be read: {error}. Fetch it again.") from error
        return [begins[number] for number in numbers]


def _to_utf8(content: bytes) -> bytes:
    """Return text as UTF-8 without a byte order mark; without one, what is not UTF-8 is taken for Latin-1."""
    mark = next((mark for mark in BYTE_ORDER_MARKS if content.startswith(mark)), b"")
    encoding, content = BYTE_ORDER_MARKS.get(mark, "utf-8"), content.removeprefix(mark)
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError:
        encoding, text = "latin-1", content.decode("latin-1")
    return content if encoding == "utf-8" else text.encode()


def _to_mask(rule: Rule, rows: arrow.Table) -> np.ndarray:
    """Return whether each row (n,) satisfies a rule, as it does where that does not apply."""
    mask: np.ndarray = pc.fill_null(rule.is_satisfied(rows), True).to_numpy(zero_copy_only=False)
    return mask


def _map_values(column: arrow.ChunkedArray, function: Callable[[arrow.Array], arrow.Array]) -> arrow.Array:
    """Return a function's value of each text (n,), which it is given once."""
    encoded = column.combine_chunks().dictionary_encode()
    return function(encoded.dictionary).take(encoded.indices)


def _parse_times(times: arrow.Array) -> arrow.Array:
    hours, minutes, seconds = (
        pc.struct_field(pc.extract_regex(times, TIME), name).cast(arrow.int64())
        for name in ("hours", "minutes", "seconds")
    )
    return pc.add(pc.add(pc.multiply(hours, 3600), pc.multiply(minutes, 60)), seconds)


def _require(column: str) -> Rule:
    return Rule("missing_value", column, lambda rows: rows[column].is_valid())


def _require_match(column: str, pattern: str, remedy: str = "") -> Rule:
    def matches(rows: arrow.Table) -> arrow.Array:
        return _map_values(rows[column], lambda values: pc.match_substring_regex(values, pattern))

    return Rule("unreadable_value", column, matches, remedy)


def _require_time(column: str) -> tuple[Rule, Rule]:
    def is_possible(rows: arrow.Table) -> arrow.Array:
        return pc.less(to_seconds(rows[column]), MAX_SCHEDULED_HOURS * 3600)

    return (
        _require_match(column, TIME, "times as 8:05:00, and those after midnight as 25:30:00"),
        Rule("time_out_of_range", column, is_possible),
    )


def _ends_after_start(rows: arrow.Table) -> arrow.Array:
    return pc.greater(to_seconds(rows["end_time"]), to_seconds(rows["start_time"]))


def _has_headway(rows: arrow.Table) -> arrow.ChunkedArray:
    """Return whether the headway of each row is positive, and its trips are few enough if each has exact times."""
    headways = _map_values(
        rows["headway_secs"],
        lambda values: pc.if_else(pc.match_substring_regex(values, NUMBER), values, None).cast(arrow.float64()),
    )
    seconds = pc.subtract(to_seconds(rows["end_time"]), to_seconds(rows["start_time"]))
    is_few = pc.less_equal(seconds, pc.multiply(headways, float(MAX_FREQUENT_TRIPS)))
    is_exact = pc.fill_null(pc.equal(rows["exact_times"], "1"), False)
    return pc.and_(pc.greater(headways, 0.0), pc.or_(is_few, pc.invert(is_exact)))


TIME = r"^(?P<hours>\d{1,9})\s*:\s*(?P<minutes>[0-5]?\d)\s*:\s*(?P<seconds>[0-5]?\d)$"
NUMBER = r"^\d{1,9}(\.0*)?$"
DATE = r"^\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])$"
_DATE = DATE, "days as 20260512"
_NUMBER = NUMBER, "whole numbers"
RULES: dict[str, tuple[Rule, ...]] = {
    "calendar": (
        _require("service_id"),
        *(_require_match(day, "^[01]$", "0 or 1") for day in WEEKDAYS),
        *(rule for name in ("start_date", "end_date") for rule in (_require(name), _require_match(name, *_DATE))),
    ),
    "calendar_dates": (
        *(_require(name) for name in COLUMNS["calendar_dates"]),
        _require_match("date", *_DATE),
        _require_match("exception_type", "^[12]$", "1 or 2"),
    ),
    "frequencies": (
        *(_require(name) for name in REQUIRED_COLUMNS["frequencies"]),
        *_require_time("start_time"),
        *_require_time("end_time"),
        _require_match("headway_secs", *_NUMBER),
        Rule("value_out_of_range", "end_time", _ends_after_start),
        Rule("value_out_of_range", "headway_secs", _has_headway),
    ),
    "stop_times": (
        *(_require(name) for name in ("trip_id", "stop_id")),
        *_require_time("arrival_time"),
        *_require_time("departure_time"),
        _require_match("stop_sequence", *_NUMBER),
    ),
    "stops": (_require("stop_id"),),
    "trips": (_require("trip_id"), _require("service_id")),
}
"""What the rows of each file must satisfy; the first rule that a row breaks is the reason of its rejection."""
RULES_OF_REPAIRED_ROWS: dict[str, tuple[Rule, ...]] = {
    "frequencies": (_require_match("exact_times", "^[01]$"),),
    "stop_times": (_require_match("timepoint", "^[01]$"),),
    "stops": (
        *(_require_match(name, r"^-?\d+(\.\d*)?$") for name in ("stop_lat", "stop_lon")),
        _require_match("location_type", "^[0-4]$"),
    ),
    "trips": (_require_match("direction_id", "^[01]$"),),
}
"""What rows that are repaired must satisfy too, or else their values are in other columns than they belong to."""
