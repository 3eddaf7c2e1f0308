"""Conversion of one column to the type that the contract has for it, and of the spellings of a value to one of them.

A value that cannot be converted becomes a missing value that is marked as unreadable; a column whose type cannot hold
such values at all is an error. What becomes of unreadable and missing values is up to `conform`.
"""

import math
import re
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime
from typing import Any, NamedTuple

import pyarrow as arrow
import pyarrow.compute as pc

ID_COLUMNS = frozenset({"id", "trip_id", "stop_id", "route_id", "parent_station"})
CODE_COLUMNS = ID_COLUMNS | {"current_status", "occupancy_status"}
"""Text columns whose values are compared and not shown: padding, and the spelling of a missing value, mean nothing."""
MISSING_WORDS = ("", "nan", "NaN", "None", "null", "NULL", "NaT", "<NA>")
"""Text that means a missing value in every column but those with names shown to riders."""
DECIMAL, WHOLE_DECIMAL = r"^-?[0-9]+\.[0-9]+$", r"^(-?[0-9]+)\.0$"
"""Patterns of a number with a point, and of one that was a whole number before it was taken for a float."""
MAX_WHOLE_NUMBER = 2**53 - 1
"""Largest whole number up to which no other one is the same float."""

MAX_DIGITS = 18
"""Digits that every whole number of so many has room for in int64."""

_MICROSECONDS_PER_UNIT = {"s": 10**6, "ms": 10**3}
_MAX_INT64 = 2**63 - 1
_NUMBER = re.compile(r"[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?")
_TIME = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})[T ]([0-9]{2}:[0-9]{2}(?::[0-9]{2}(?:[.,][0-9]+)?)?) ?(.*)")
_OFFSET = re.compile(r"[+-][0-9]{2}(:?[0-9]{2})?")
_DAY = re.compile(
    r"([0-9]{4})(?:-([0-9]{1,2})-([0-9]{1,2})|([0-9]{2})([0-9]{2}))([T ]00:00(:00(\.0+)?)?( ?(Z|UTC|[+-]00:?00))?)?"
)
_BOOLEANS = {"true": 1.0, "false": 0.0}


class Conversion(NamedTuple):
    """A column of the contract (n,), and which of its values (n,) could not be read; None if all could."""

    values: arrow.ChunkedArray
    unreadable: arrow.ChunkedArray | None = None


def convert_column(
    column: arrow.ChunkedArray, name: str, target: arrow.DataType, *, parse: bool = False, exact_ids: bool = False
) -> Conversion:
    """Convert a column to its type in the contract if its own type is of the same family.

    Whole numbers and floats that hold them are of the family of text, as ids are often taken for numbers. Numbers and
    times are parsed from text only where the file has nothing but text (`parse`); days always are. With `exact_ids`,
    ids such as `null` and `70061.0` are what they are, and not traces of another program.

    Raises ArrowInvalid, whose text says what the column holds that it must not.
    """
    actual = column.type
    if arrow.types.is_dictionary(actual) and not is_text(actual.value_type):
        return convert_column(column.cast(actual.value_type), name, target, parse=parse, exact_ids=exact_ids)
    if arrow.types.is_binary(actual) or arrow.types.is_large_binary(actual):
        return convert_column(
            column.cast(arrow.large_string()), name, target, parse=parse, exact_ids=exact_ids
        )  # validates UTF-8
    if arrow.types.is_decimal(actual):
        # Arrow's own cast to floats is not exact, and a zero with digits after the point is 0E-9 as text.
        texts = pc.replace_substring_regex(column.cast(arrow.string()), r"^-?0E[+-]?\d+$", "0")
        if arrow.types.is_string(target) or arrow.types.is_integer(target):
            return _convert_whole_texts(texts, target)
        return convert_column(texts.cast(arrow.float64()), name, target, parse=parse)
    if arrow.types.is_null(actual):
        return Conversion(column.cast(target))
    if _holds_text(actual):
        return _convert_text(column, name, target, parse, exact_ids)
    if arrow.types.is_date(target):
        return Conversion(_convert_days(column))
    if arrow.types.is_timestamp(target) and arrow.types.is_timestamp(actual):
        return _convert_times(column, target)
    is_number = arrow.types.is_integer(actual) or arrow.types.is_floating(actual)
    if arrow.types.is_floating(target) and is_number:
        return Conversion(column.cast(target, safe=False))
    if arrow.types.is_integer(target) and arrow.types.is_boolean(actual):
        return Conversion(column.cast(target))
    if arrow.types.is_integer(target) and is_number:
        return _convert_whole_numbers(column)
    if arrow.types.is_string(target) and arrow.types.is_integer(actual):
        return Conversion(column.cast(target))
    if arrow.types.is_string(target) and is_number:
        numbers = _convert_whole_numbers(column)
        return Conversion(numbers.values.cast(target), numbers.unreadable)
    raise _wrong_type(actual, target)


def is_text(dtype: arrow.DataType) -> bool:
    """Return whether a type is one of Arrow's types for text."""
    return arrow.types.is_string(dtype) or arrow.types.is_large_string(dtype) or arrow.types.is_string_view(dtype)


def without_views(rows: arrow.Table) -> arrow.Table:
    """Return a table whose views of text are text, as Arrow has few functions of views."""
    for index, field in enumerate(rows.schema):
        if arrow.types.is_string_view(field.type):
            rows = rows.set_column(index, field.name, rows.column(index).cast(arrow.string()))
    return rows


def lacks_zone(text: str) -> bool:
    """Return whether text is a time without a time zone."""
    match = _TIME.fullmatch(text.strip())
    return match is not None and not match[3]


def _holds_text(dtype: arrow.DataType) -> bool:
    return is_text(dtype.value_type if arrow.types.is_dictionary(dtype) else dtype)


def _wrong_type(actual: arrow.DataType, target: arrow.DataType) -> arrow.ArrowInvalid:
    if arrow.types.is_date(target):
        return arrow.ArrowInvalid(f"its type is {actual}, and must be a date, or text written YYYY-MM-DD")
    return arrow.ArrowInvalid(f"its type is {actual}, and must be {target}")


def _convert_text(
    column: arrow.ChunkedArray, name: str, target: arrow.DataType, parse: bool, exact_ids: bool
) -> Conversion:
    """Convert text, each distinct value once. Raises ArrowInvalid."""
    encoded = column if arrow.types.is_dictionary(column.type) else column.dictionary_encode()
    encoded = encoded.unify_dictionaries().combine_chunks()
    texts = encoded.dictionary.cast(arrow.string())
    texts.validate(full=True)  # raises ArrowInvalid where text is not UTF-8
    if arrow.types.is_string(target):
        if exact_ids and name in ID_COLUMNS:
            texts = _trim(texts, missing=("",))
        elif name in CODE_COLUMNS:
            texts = _clean_codes(texts, name)
        return Conversion(arrow.chunked_array([texts.take(encoded.indices)]))
    if not parse and not arrow.types.is_date(target):
        raise _wrong_type(column.type, target)
    texts = _trim(texts)
    values = _parse_texts(texts, target)
    conversion = arrow.chunked_array([values.take(encoded.indices)])
    if values.null_count == texts.null_count:
        return Conversion(conversion)
    unreadable = pc.and_(texts.is_valid(), values.is_null()).take(encoded.indices)
    return Conversion(conversion, arrow.chunked_array([pc.fill_null(unreadable, False)]))


def _trim(texts: arrow.StringArray, missing: Sequence[str] = MISSING_WORDS) -> arrow.StringArray:
    """Return text without padding, and null for the words that mean a missing value."""
    trimmed = pc.utf8_trim_whitespace(texts)
    return pc.if_else(pc.is_in(trimmed, arrow.array(missing)), None, trimmed)


def _clean_codes(texts: arrow.StringArray, name: str) -> arrow.StringArray:
    """Return trimmed text; ids that were taken for floats, `70061.0`, as what they were, if all with a point are such.

    An id such as 1.5 says that a point means something in this column, which is then left as it is.
    """
    trimmed = _trim(texts)
    if name in ID_COLUMNS:
        whole = pc.sum(pc.match_substring_regex(trimmed, WHOLE_DECIMAL)).as_py()
        if whole and whole == pc.sum(pc.match_substring_regex(trimmed, DECIMAL)).as_py():
            return pc.replace_substring_regex(trimmed, WHOLE_DECIMAL, r"\1")
    return trimmed


def _parse_texts(texts: arrow.StringArray, target: arrow.DataType) -> arrow.Array:
    """Parse text to days, times or numbers; what cannot be parsed becomes null."""
    if arrow.types.is_date(target):
        return _parse_each(texts, _parse_day, target)
    if arrow.types.is_timestamp(target):
        try:
            return texts.cast(target)
        except arrow.ArrowInvalid:
            return _parse_each(texts, _parse_time, target)
    try:
        numbers = texts.cast(arrow.float64())
    except arrow.ArrowInvalid:
        numbers = _parse_each(texts, _parse_number, arrow.float64())
    if arrow.types.is_floating(target):
        return numbers
    return _convert_whole_numbers(arrow.chunked_array([numbers])).values.combine_chunks()


def _parse_each(texts: arrow.StringArray, parse: Callable[[str], Any], target: arrow.DataType) -> arrow.Array:
    return arrow.array([None if text is None else parse(text) for text in texts.to_pylist()], target)


def _parse_day(text: str) -> date | None:
    """Parse YYYY-MM-DD, also without its zeros or hyphens, and with a midnight behind it."""
    match = _DAY.fullmatch(text)
    try:
        return date(*map(int, filter(None, match.groups()[:5]))) if match else None
    except ValueError:
        return None


def _parse_time(text: str) -> datetime | None:
    """Parse an ISO 8601 time with its zone: `Z`, `UTC`, or an offset."""
    match = _TIME.fullmatch(text)
    if not match:
        return None
    day, clock, zone = match.groups()
    offset = "+00:00" if zone.upper() in ("Z", "UTC", "GMT") else zone
    if not _OFFSET.fullmatch(offset):
        return None
    try:
        return datetime.fromisoformat(f"{day}T{clock}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _parse_number(text: str) -> float | None:
    if text.lower() in _BOOLEANS:
        return _BOOLEANS[text.lower()]
    return float(text) if _NUMBER.fullmatch(text) else None


def _convert_whole_texts(texts: arrow.ChunkedArray, target: arrow.DataType) -> Conversion:
    """Convert decimals as text, `12.00`, to whole numbers in text or int64, without floats, which have fewer digits."""
    pattern = r"^-?[0-9]+(\.0*)?$" if arrow.types.is_string(target) else rf"^-?[0-9]{{1,{MAX_DIGITS}}}(\.0*)?$"
    is_whole = pc.match_substring_regex(texts, pattern)
    values = pc.replace_substring_regex(pc.if_else(is_whole, texts, None), r"\..*$", "").cast(target)
    return Conversion(
        values, None if values.null_count == texts.null_count else pc.invert(pc.fill_null(is_whole, True))
    )


def _convert_whole_numbers(column: arrow.ChunkedArray) -> Conversion:
    """Convert numbers to int64. NaN is a missing value: pandas has floats where some whole numbers are missing."""
    if arrow.types.is_uint64(column.type):
        return _convert_whole_texts(column.cast(arrow.string()), arrow.int64())
    if arrow.types.is_integer(column.type):
        return Conversion(column.cast(arrow.int64()))
    numbers = column.cast(arrow.float64(), safe=False)
    numbers = pc.if_else(pc.is_nan(numbers), None, numbers)
    is_whole = pc.and_(pc.equal(pc.floor(numbers), numbers), pc.less_equal(pc.abs(numbers), MAX_WHOLE_NUMBER))
    values = pc.if_else(is_whole, numbers, None).cast(arrow.int64())
    if values.null_count == numbers.null_count:
        return Conversion(values)
    return Conversion(values, pc.and_(numbers.is_valid(), values.is_null()))


def _convert_times(column: arrow.ChunkedArray, target: arrow.DataType) -> Conversion:
    """Convert times to UTC microseconds; finer ones are truncated. Raises ArrowInvalid for times without a zone."""
    if column.type.tz is None:
        raise arrow.ArrowInvalid("its times have no time zone")
    if column.type.unit not in _MICROSECONDS_PER_UNIT:
        return Conversion(column.cast(target, safe=False))
    limit = math.floor(_MAX_INT64 / _MICROSECONDS_PER_UNIT[column.type.unit])
    counts = column.cast(arrow.int64())
    is_far = pc.or_(pc.greater(counts, limit), pc.less(counts, -limit))
    if not pc.any(is_far).as_py():
        return Conversion(column.cast(target, safe=False))
    return Conversion(pc.if_else(is_far, None, column).cast(target, safe=False), pc.fill_null(is_far, False))


def _convert_days(column: arrow.ChunkedArray) -> arrow.ChunkedArray:
    """Convert days or midnights to days. Raises ArrowInvalid for other types and for times of day."""
    actual = column.type
    if arrow.types.is_date(actual):
        return column.cast(arrow.date32())
    if not arrow.types.is_timestamp(actual):
        raise _wrong_type(actual, arrow.date32())
    wall_clock = column if actual.tz is None else pc.local_timestamp(column)
    days = wall_clock.cast(arrow.date32())
    if pc.all(pc.equal(days.cast(wall_clock.type), wall_clock)).as_py() is False:
        raise arrow.ArrowInvalid("it holds times other than midnight, and must hold days")
    return days
