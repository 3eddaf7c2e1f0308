"""Conversion of what a source has of a table and service day to the rows of the contract.

A row that cannot be used is rejected by itself, with the reason; a table that cannot be used is an error. Spellings
and types of single columns are up to `columns`, reading to the sources.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as arrow
import pyarrow.compute as pc

from mbta_assets.sources.columns import Conversion, convert_column, lacks_zone, without_views
from mbta_assets.sources.contract import Fault, SourceRows, translate_faults
from mbta_assets.sources.rejection import REMEDIES, Cause, Reason, Rejections, take_rows
from mbta_assets.transit import schema
from mbta_assets.transit.plausibility import MAX_SCHEDULED_HOURS, MIN_SCHEDULED_HOURS, find_plausible_positions
from mbta_assets.transit.service_day import start_time

TIME_RANGES = {
    "updated_at": (-12, 96),
    "predicted_at": (-96, 96),
    "arrival_time": (MIN_SCHEDULED_HOURS, MAX_SCHEDULED_HOURS),
    "departure_time": (MIN_SCHEDULED_HOURS, MAX_SCHEDULED_HOURS),
}
"""Hours from the start time of the service day, the end excluded, outside of which no trip of the day can be."""
RULES: dict[str, Callable[[arrow.ChunkedArray, dict[str, Any]], arrow.ChunkedArray]] = {
    "isin": lambda column, limits: pc.is_in(column, arrow.array(list(limits["allowed_values"]), column.type)),
    "greater_than_or_equal_to": lambda column, limits: pc.greater_equal(column, limits["min_value"]),
    "less_than_or_equal_to": lambda column, limits: pc.less_equal(column, limits["max_value"]),
}
"""Whether each value satisfies a rule of the schema, by the rule's name; `limits` are the rule's statistics."""


@dataclass(frozen=True)
class Part:
    """Rows that a source has in one place, such as a file."""

    rows: arrow.Table
    """Columns of the contract, and possibly others."""
    columns: Sequence[str] = ()
    """Names of all columns there, if `rows` does not have all."""
    name: str = ""
    """Name of the place, such as that of the file, which errors have."""


def conform(
    table: str,
    rows: arrow.Table | Sequence[Part],
    service_date: date,
    source: str,
    *,
    parse: bool = False,
    exact_ids: bool = False,
    fill_service_date: bool = True,
) -> SourceRows:
    """Convert the rows that a source has of a table and service day to the typed table of the contract.

    `table` is a key of `schema.SOURCE_TABLES`, and `source` the name that errors give the source. Columns that are not
    in the contract are dropped. Optional columns that are absent become missing values, and so do values of nullable
    columns that the schema forbids, and positions that cannot be. A missing `service_date` is filled in, or with
    `fill_service_date=False` rejected. Types are converted within their family only, each part by itself; with `parse`
    numbers and times are read from text, and with `exact_ids` an id such as `null` is one like others.

    Raises SourceError if a required column is missing, if a column has a wrong type, or if no row can be used.
    """
    model = schema.SOURCE_TABLES[table]
    parts = [Part(rows)] if isinstance(rows, arrow.Table) else rows
    parts = [replace(part, rows=without_views(part.rows)) for part in parts]
    with translate_faults(source, table, service_date):
        converted = [_convert_part(part, model, parse, exact_ids) for part in parts]
        columns = {name: _join([columns[name] for columns in converted]) for name in converted[0]}
        rejections = Rejections(sum(len(part.rows) for part in parts))
        raw = [part.rows for part in parts]
        typed = {name: column.values for name, column in columns.items()}
        if fill_service_date and typed["service_date"].null_count:
            typed["service_date"] = pc.fill_null(typed["service_date"], service_date)
        _reject_other_days(typed["service_date"], service_date, rejections)
        _reject_unreadable(columns, model, raw, rejections)
        _reject_missing(typed, model, rejections)
        _apply_rules(typed, model, rejections)
        _apply_time_ranges(typed, model, service_date, rejections)
        _clear_positions(typed)
        rejections.require_usable_rows(raw)
        result = arrow.table(typed, schema=schema.arrow_schema(model))
        if not rejections.usable.all():
            result = result.filter(arrow.array(rejections.usable))
        return SourceRows(schema.to_frame(result), rejections.describe(table, service_date, raw))


def _convert_part(part: Part, model: type[schema.Table], parse: bool, exact_ids: bool) -> dict[str, Conversion]:
    """Return the columns of the contract, in its order and with its types. Raises Fault."""
    columns = {}
    names = list(part.columns or part.rows.column_names)
    in_part = f" in {part.name}" if part.name else ""
    for field in schema.arrow_schema(model):
        if names.count(field.name) > 1:
            raise Fault(f"the column is there {names.count(field.name)} times{in_part}", "Keep one of them", field.name)
        if field.name in names:
            try:
                columns[field.name] = convert_column(
                    part.rows[field.name], field.name, field.type, parse=parse, exact_ids=exact_ids
                )
            except arrow.ArrowInvalid as error:
                raise Fault(f"{error}{in_part}", "Correct the column", field.name) from error
        elif model.to_schema().columns[field.name].metadata["required"] and field.name != "service_date":
            remedy = f"Add it to the table, which has {', '.join(names)}"
            raise Fault(f"the required column is missing{in_part}", remedy, field.name)
        else:
            columns[field.name] = Conversion(arrow.chunked_array([arrow.nulls(len(part.rows), field.type)]))
    return columns


def _join(parts: Sequence[Conversion]) -> Conversion:
    """Return the parts of a column, one after the other."""
    if len(parts) == 1:
        return parts[0]
    chunks = [chunk for part in parts for chunk in part.values.chunks]
    values = arrow.chunked_array(chunks, parts[0].values.type)
    if all(part.unreadable is None for part in parts):
        return Conversion(values)
    masks = [_to_mask(part.unreadable, len(part.values)) for part in parts]
    return Conversion(values, arrow.chunked_array([np.concatenate(masks)]))


def _to_mask(values: arrow.ChunkedArray | None, n: int) -> np.ndarray:
    """Return a mask (n,) that is true where a value is; missing values are false."""
    if values is None:
        return np.zeros(n, dtype=bool)
    mask: np.ndarray = pc.fill_null(values, False).to_numpy()
    return mask


def _reject_other_days(service_dates: arrow.ChunkedArray, service_date: date, rejections: Rejections) -> None:
    others = sorted(set(pc.unique(service_dates.drop_null()).to_pylist()) - {service_date})
    if not others:
        return
    is_other = _to_mask(pc.not_equal(service_dates, service_date), len(service_dates))
    if is_other.all():
        problem = f"it holds rows of {', '.join(map(str, others))}"
        raise Fault(problem, REMEDIES["other_service_day"], "service_date")
    rejections.add(is_other, Cause("other_service_day", "service_date"))


def _reject_unreadable(
    columns: dict[str, Conversion], model: type[schema.Table], raw: Sequence[arrow.Table], rejections: Rejections
) -> None:
    """Reject rows with an unreadable value where the column is required; elsewhere the value is a missing one.

    Raises a Fault if most values of a column are unreadable: its type is wrong.
    """
    for name, (values, unreadable) in columns.items():
        if unreadable is None:
            continue
        mask = _to_mask(unreadable, len(values))
        read = len(values) - values.null_count
        if mask.sum() > read and name != "service_date":
            _raise_wrong_type(name, values.type, mask, read, raw)
        if model.to_schema().columns[name].metadata["required"]:
            rejections.add(mask, Cause("unreadable_value", name))


def _raise_wrong_type(
    name: str, target: arrow.DataType, unreadable: np.ndarray, read: int, raw: Sequence[arrow.Table]
) -> None:
    value = take_rows(raw, np.flatnonzero(unreadable)[:1])[0][name]
    count = f"{unreadable.sum()} of {unreadable.sum() + read} values"
    if arrow.types.is_timestamp(target) and isinstance(value, str) and lacks_zone(value):
        raise Fault(f"its times have no time zone: {count}, such as {value!r}", REMEDIES["unreadable_value"], name)
    problem = f"wrong type: {count} are not of type {target}, such as {value!r}"
    raise Fault(problem, REMEDIES["unreadable_value"], name)


def _reject_missing(typed: dict[str, arrow.ChunkedArray], model: type[schema.Table], rejections: Rejections) -> None:
    for name, spec in model.to_schema().columns.items():
        if typed[name].null_count and not spec.nullable:
            rejections.add(typed[name].is_null().to_numpy(), Cause("missing_value", name))


def _apply_rules(typed: dict[str, arrow.ChunkedArray], model: type[schema.Table], rejections: Rejections) -> None:
    """Reject rows with a value that the schema forbids; in a nullable column the value becomes a missing one."""
    for name, spec in model.to_schema().columns.items():
        for check in spec.checks:
            column = typed[name]
            forbidden = pc.and_(column.is_valid(), pc.invert(RULES[check.name](column, check.statistics)))
            if not pc.any(forbidden).as_py():
                continue
            if spec.nullable:
                typed[name] = pc.if_else(forbidden, None, column)
                continue
            reason: Reason = "unknown_value" if check.name == "isin" else "value_out_of_range"
            rejections.add(_to_mask(forbidden, len(column)), Cause(reason, name, _describe_rule(check)))


def _describe_rule(check: Any) -> str:
    if check.name == "isin":
        return ", ".join(map(str, check.statistics["allowed_values"]))
    return f"{check.name.replace('_', ' ')} {next(iter(check.statistics.values()))}"


def _apply_time_ranges(
    typed: dict[str, arrow.ChunkedArray], model: type[schema.Table], service_date: date, rejections: Rejections
) -> None:
    """Make times that no trip of the day can have missing, and reject rows that had times and have none left.

    A time that must not be missing is not made up for by the others.
    """
    specs = model.to_schema().columns
    nullable = [name for name in TIME_RANGES if name in typed and specs[name].nullable]
    for name in (name for name in TIME_RANGES if name in typed):
        start, column = start_time(service_date), typed[name]
        first, end = (arrow.scalar(start + timedelta(hours=hours), column.type) for hours in TIME_RANGES[name])
        implausible = pc.or_(pc.less(column, first), pc.greater_equal(column, end))
        if not pc.any(implausible).as_py():
            continue
        typed[name] = pc.if_else(pc.fill_null(implausible, False), None, column)
        others = nullable if specs[name].nullable else [name]
        has_none = np.logical_and.reduce([typed[other].is_null().to_numpy() for other in others])
        rejections.add(_to_mask(implausible, len(column)) & has_none, Cause("time_out_of_range", name))


def _clear_positions(typed: dict[str, arrow.ChunkedArray]) -> None:
    """Make both coordinates of positions missing that are incomplete, out of range or at null island."""
    if "latitude" not in typed:
        return
    latitude, longitude = (typed[name].to_numpy() for name in ("latitude", "longitude"))
    plausible = find_plausible_positions(latitude, longitude)
    if not plausible.all():
        for name in ("latitude", "longitude"):
            typed[name] = pc.if_else(arrow.array(plausible), typed[name], None)
