"""CSV files as people have them: encoding, separator and header are found out where they are certain, else refused.

All columns are text, which `conform` parses, so that a wrong value is one of a row and a column.
"""

import csv
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

import pyarrow as arrow
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from mbta_assets.sources.contract import Fault
from mbta_assets.transit import schema

BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8",
    b"\xff\xfe\x00\x00": "utf-32-le",
    b"\x00\x00\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
"""Encoding by the mark at the beginning of a file; the first that fits is the one."""
SEPARATORS = ",;\t|"
PADDED_QUOTES = r'(?s)^\s+"(.*)"\s*$'
MAX_HEADER_BYTES = 1 << 16
BLOCK_BYTES = 1 << 20
UNDECODABLE = "\ufffd"
"""Character that stands for bytes that are not in an encoding."""


class Header(NamedTuple):
    """How the rows of a CSV file are written."""

    encoding: str
    separator: str
    columns: list[str]
    """Names of all columns, without padding."""
    lines: int
    """Number of lines up to the first row; 0 if there is no row."""


class CsvTable:
    """An upstream table in a CSV file. Raises a Fault if its encoding is not certain."""

    def __init__(self, path: Path, table: str) -> None:
        self.path = path
        self.contract = schema.arrow_schema(schema.SOURCE_TABLES[table]).names
        self.header = _read_header(path, self.contract)
        self.unreadable: list[str] = []
        """Lines of those rows read so far that have not as many values as the header; they are in no batch."""

    @property
    def columns(self) -> list[str]:
        """Return the names of all columns."""
        return self.header.columns

    def batches(self) -> Iterator[arrow.Table]:
        """Yield the rows, a batch at a time, as text: the columns of the contract that the file has. Raises Fault."""
        included = [name for name in self.contract if name in self.columns]
        if duplicate := next((name for name in included if self.columns.count(name) > 1), None):
            raise Fault(f"{self.path.name} has the column {self.columns.count(duplicate)} times", "Keep one", duplicate)
        names = [name if name in included else f"column {n}" for n, name in enumerate(self.columns)]
        self.unreadable, n = [], 0
        if not self.header.lines:
            return
        try:
            reader = arrow_csv.open_csv(
                self.path,
                arrow_csv.ReadOptions(
                    encoding=self.header.encoding, column_names=names, skip_rows=self.header.lines, use_threads=False
                ),
                arrow_csv.ParseOptions(
                    delimiter=self.header.separator, newlines_in_values=True, invalid_row_handler=self._skip_row
                ),
                arrow_csv.ConvertOptions(
                    column_types={name: arrow.string() for name in included},
                    include_columns=included,
                    null_values=[""],
                    strings_can_be_null=True,
                ),
            )
            for batch in reader:
                n += len(batch)
                yield unquote_padded(arrow.Table.from_batches([batch]))
        except (arrow.ArrowInvalid, UnicodeError) as error:
            if isinstance(error, UnicodeError) or "UTF8" in str(error):
                _raise_wrong_encoding(self.path, self.header.encoding)
            raise
        self._validate_unreadable_rows(n)
        self._validate_quotes(n)

    def _skip_row(self, row: arrow_csv.InvalidRow) -> str:
        if row.text.strip():
            self.unreadable.append(row.text)
        return "skip"

    def _validate_unreadable_rows(self, rows: int) -> None:
        """Raise a Fault where lines that cannot be split say that the file as a whole cannot be read."""
        if not self.unreadable:
            return
        n, expected = len(self.unreadable), len(self.columns)
        if n > rows:
            problem = f"{n} of {n + rows} rows of {self.path.name} have not the {expected} values of the header"
            raise Fault(f"{problem}, such as {shorten(self.unreadable[0])}", "Quote values with the separator in them")
        last_line = self.unreadable[-1].encode(self.header.encoding)
        with self.path.open("rb") as file:
            file.seek(max(0, self.path.stat().st_size - len(last_line)))
            if file.read() == last_line:  # neither all of its values nor a line end
                problem = f"{self.path} is cut short or damaged: its last row is {shorten(self.unreadable[-1])}"
                raise Fault(problem, "Export it again")

    def _validate_quotes(self, rows: int) -> None:
        """Raise a Fault where a quote is not closed: the rows up to the next quote would be part of one value."""
        lines = quotes = 0
        with self.path.open("rb") as file:
            while block := file.read(BLOCK_BYTES):
                lines, quotes = lines + block.count(b"\n"), quotes + block.count(b'"')
        if not may_have_open_quote(quotes, lines, self.header.lines + rows + len(self.unreadable)):
            return
        with self.path.open(encoding=self.header.encoding, newline="") as text:
            line = find_open_quote(text, self.header.separator)
        if line is not None:
            problem = f"the quote in line {line} of {self.path.name} is not closed"
            raise Fault(problem, "Close it, or double quotes that are part of a value")


def may_have_open_quote(quotes: int, lines: int, records: int) -> bool:
    """Return whether text with some numbers of quotes, line ends and records may have a quote that is not closed."""
    return quotes % 2 == 1 or (quotes > 0 and lines not in (records - 1, records))


def find_open_quote(text: Iterable[str], separator: str) -> int | None:
    """Return the line of a quote that is not closed, or None; the lines of the text have their ends."""
    reader = csv.reader(text, delimiter=separator, strict=True)
    line = 0
    while True:
        try:
            next(reader)
        except StopIteration:
            return None
        except csv.Error as error:
            if reader.line_num > line + 1 or "end of data" in str(error):
                return line + 1
        line = reader.line_num


def unquote_padded(rows: arrow.Table) -> arrow.Table:
    """Return rows without the quotes of values that have a blank before them, which the reader takes for text."""
    for index, column in enumerate(rows.columns):
        if pc.any(pc.match_substring(column, ' "')).as_py():
            is_quoted = pc.match_substring_regex(column, PADDED_QUOTES)
            unquoted = pc.replace_substring(pc.replace_substring_regex(column, PADDED_QUOTES, r"\1"), '""', '"')
            unquoted = pc.if_else(pc.equal(unquoted, ""), None, unquoted)
            rows = rows.set_column(index, rows.column_names[index], pc.if_else(is_quoted, unquoted, column))
    return rows


def _read_header(path: Path, contract: Sequence[str]) -> Header:
    """Read the first line that is not blank. Raises Fault."""
    with path.open("rb") as file:
        start = file.read(MAX_HEADER_BYTES)
    mark = next((mark for mark in BYTE_ORDER_MARKS if start.startswith(mark)), b"")
    encoding = BYTE_ORDER_MARKS.get(mark, "utf-8")
    if not mark and b"\x00" in start[:100]:
        problem = f"{path.name} is not encoded in UTF-8: it has null bytes, as UTF-16 without a byte order mark"
        raise Fault(problem, "Write it as UTF-8")
    lines = re.split(r"\r\n|\r|\n", start[len(mark) :].decode(encoding, "replace"))
    number = next((number for number, line in enumerate(lines) if line.strip()), 0)
    line = lines[number]
    if UNDECODABLE in line:
        _raise_wrong_encoding(path, encoding)
    has_rows = len(start) == MAX_HEADER_BYTES or any(line.strip() for line in lines[number + 1 :])
    separators = {separator: split_line(line, separator) for separator in SEPARATORS}
    best = max(SEPARATORS, key=lambda separator: len(set(contract) & set(separators[separator])))
    return Header(encoding, best, separators[best], number + 1 if has_rows else 0)


def split_line(line: str, separator: str) -> list[str]:
    """Return the values of a line, without padding."""
    names = next(csv.reader([line], delimiter=separator, skipinitialspace=True), [])
    return [name.strip() for name in names]


def _raise_wrong_encoding(path: Path, encoding: str) -> NoReturn:
    """Raise a Fault with the first line that is not in the encoding."""
    place = ""
    mark = next((mark for mark, name in BYTE_ORDER_MARKS.items() if name == encoding), b"")
    with path.open("rb") as file:
        if encoding == "utf-8":
            for number, line in enumerate(file, start=1):
                try:
                    line.removeprefix(mark if number == 1 else b"").decode(encoding)
                except UnicodeDecodeError as invalid:
                    place = f", at byte 0x{line[invalid.start]:02x} of line {number}, {shorten(repr(line)[1:])}"
                    break
    hint = "it may be Latin-1 or Windows-1252" if encoding == "utf-8" else "its byte order mark says so"
    problem = f"the encoding of {path.name} is not {encoding.upper()}{place}; {hint}"
    raise Fault(problem, "Write it as UTF-8")


def shorten(text: str, length: int = 80) -> str:
    """Return the beginning of a text, for messages."""
    return text if len(text) <= length else f"{text[:length]}…"
