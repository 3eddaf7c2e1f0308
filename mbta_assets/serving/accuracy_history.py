"""The accuracy page: errors of many service days by route, distance, hour and stop, ours beside the agency's.

It shows the report that the asset `prediction_accuracy` writes. The page is one HTML document whose form and links work
without a script; the same figures are JSON and CSV.
"""

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from operator import itemgetter
from typing import Any, NamedTuple, Self

from mbta_assets.serving.refreshing_cache import LoadError
from mbta_assets.serving.templates import open_template
from mbta_assets.storage.materialize import ANY_DAY, materialize_command
from mbta_assets.storage.reports import ACCURACY_HISTORY

TEMPLATE = "accuracy.html"
DIMENSIONS = {"route_id": "route", "stops_ahead": "stops ahead", "hour": "hour", "stop_id": "stop"}
"""Names on the page of what errors are shown by."""
CSV_COLUMNS = ("day", "dimension", "member", "series", "n", "mae_seconds")
WIDTH, HEIGHT, LEFT, BOTTOM, TOP = 760, 240, 44, 26, 10
"""Size of the plot, and the space for its axes, in units of the picture."""
STEPS = (5, 10, 20, 50, 100, 200, 500, 1000, 10_000)
"""Seconds between two marks of the vertical axis, of which the first is taken that needs few."""
MAX_TICKS, MAX_LABELS = 5, 8
MAX_ROWS = 200
"""Maximum number of rows of the table, those with most predictions."""


class InvalidDimension(Exception):
    """A request asks for errors by something else; the message says what there is."""


class NoHistory(Exception):
    """There is no report yet; the message says how it is made."""

    def __init__(self) -> None:
        super().__init__(
            "There are no figures yet: they are made with the predictions of a service day. Make them with: "
            f"{materialize_command('group:monitoring', ANY_DAY)}"
        )


class Errors(NamedTuple):
    """Errors of one group: whose, over how many predictions, and the mean absolute error in seconds."""

    n: int
    ours: float | None
    n_agency: int
    """Number of predictions that the agency has made too."""
    ours_beside_agency: float | None
    agency: float | None


@dataclass(frozen=True)
class AccuracyHistory:
    """The errors of service days."""

    days: list[str]
    by_day: dict[tuple[str, str], dict[str, Errors]]
    """By dimension and member, the errors of each day."""
    over_all_days: dict[str, dict[str, Errors]]
    """By dimension, the errors of each member."""

    @classmethod
    def parse(cls, content: bytes) -> Self:
        """Read the report. Raises LoadError if it is damaged."""
        try:
            report = json.loads(content)
            by_day: dict[tuple[str, str], dict[str, Errors]] = {}
            for day, dimension, member, *values in report["by_day"]:
                by_day.setdefault((str(dimension), str(member)), {})[str(day)] = _make_errors(values)
            over_all_days: dict[str, dict[str, Errors]] = {}
            for dimension, member, *values in report["over_all_days"]:
                over_all_days.setdefault(str(dimension), {})[str(member)] = _make_errors(values)
            return cls([str(day) for day in report["days"]], by_day, over_all_days)
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise LoadError(
                f"The report {ACCURACY_HISTORY} is damaged ({type(error).__name__}: {error}). Make it again with: "
                f"{materialize_command('prediction_accuracy', ANY_DAY)}"
            ) from error

    def list_members(self, dimension: str) -> list[tuple[str, Errors]]:
        """Return the members of a dimension with their errors over all days, those with most predictions."""
        members = self.over_all_days.get(dimension, {})
        most = sorted(members, key=lambda member: (-members[member].n, member))[:MAX_ROWS]
        return [(member, members[member]) for member in sorted(most, key=_sort_key)]

    def list_days(self, dimension: str, member: str) -> list[tuple[str, Errors]]:
        """Return the errors of each day that has some; an empty list for a stop with few predictions."""
        errors = self.by_day.get((dimension, member), {})
        return [(day, errors[day]) for day in self.days if day in errors]

    def select(self, dimension: str | None, member: str | None) -> Self:
        """Return what the page shows: errors by a dimension and over all, or of one member; without a dimension all.

        Raises InvalidDimension.
        """
        if dimension is None:
            return self
        require_dimension(dimension)

        def is_shown(of_dimension: str, of_member: str) -> bool:
            if member:
                return (of_dimension, of_member) == (dimension, member)
            return of_dimension in (dimension, "all")

        return replace(
            self,
            by_day={key: days for key, days in self.by_day.items() if is_shown(*key)},
            over_all_days={
                of_dimension: {name: errors for name, errors in members.items() if is_shown(of_dimension, name)}
                for of_dimension, members in self.over_all_days.items()
            },
        )

    def to_json(self) -> str:
        """Return all figures as JSON: a list of objects with `CSV_COLUMNS`, whose day is null over all days."""
        rows = [dict(zip(CSV_COLUMNS, row, strict=True)) for row in self._list_rows()]
        return json.dumps([{**row, "day": row["day"] or None} for row in rows])

    def to_csv(self) -> str:
        """Return all figures as CSV; the day is empty over all days."""
        output = io.StringIO()
        writer = csv.writer(output, lineterminator="\n")
        writer.writerow(CSV_COLUMNS)
        writer.writerows(self._list_rows())
        return output.getvalue()

    def _list_rows(self) -> Iterator[tuple[Any, ...]]:
        """Yield the values of `CSV_COLUMNS` for each figure."""
        rows = [(day, *key, errors) for key, days in self.by_day.items() for day, errors in days.items()]
        for dimension, members in self.over_all_days.items():
            rows += [("", dimension, member, errors) for member, errors in members.items()]
        for day, dimension, member, errors in rows:
            for series, n, error in (
                ("ours", errors.n, errors.ours),
                ("ours_beside_agency", errors.n_agency, errors.ours_beside_agency),
                ("agency", errors.n_agency, errors.agency),
            ):
                if error is not None:
                    yield day, dimension, member, series, n, error


class AccuracyView(NamedTuple):
    """Content of the page: errors by one dimension, and of each day for one member of it or for all."""

    dimension: str
    member: str
    """Empty for all."""
    members: list[tuple[str, Errors]]
    days: list[tuple[str, Errors]]
    worst: tuple[str, float] | None
    """The day with our largest error, and that error."""
    plot: "Plot"


class Plot(NamedTuple):
    """Lines of errors by day, in units of the picture."""

    lines: dict[str, str]
    """Points by whose errors they are, as SVG has them."""
    ticks: list[tuple[float, str]]
    """Heights, and the seconds there."""
    labels: list[tuple[float, str]]
    """Places of some days, and their dates."""


def build_view(history: AccuracyHistory, dimension: str | None, member: str | None) -> AccuracyView:
    """Return what the page shows for the parameters of a request. Raises InvalidDimension."""
    dimension = "route_id" if dimension is None else dimension
    require_dimension(dimension)
    days = history.list_days(dimension, member) if member else history.list_days("all", "all")
    ours = [(day, errors.ours) for day, errors in days if errors.ours is not None]
    worst = max(ours, key=itemgetter(1), default=None)
    return AccuracyView(dimension, member or "", history.list_members(dimension), days, worst, _draw(days))


def require_dimension(dimension: str) -> None:
    """Raise InvalidDimension unless errors are shown by a dimension."""
    if dimension not in DIMENSIONS:
        raise InvalidDimension(f"by is {dimension!r}; it may be {', '.join(DIMENSIONS)}.")


def render_page(view: AccuracyView) -> str:
    """Return the HTML of a view."""
    return open_template(TEMPLATE).render(
        view=view, dimensions=DIMENSIONS, error=None, width=WIDTH, height=HEIGHT, left=LEFT
    )


def render_error_page(message: str) -> str:
    """Return the HTML of a page that shows only an error message."""
    return open_template(TEMPLATE).render(view=None, error=message)


def _make_errors(values: list[Any]) -> Errors:
    """Return the errors of a row of the report. Raises ValueError or TypeError unless it has two for each series."""
    n, ours, _, beside, n_agency, agency = values
    numbers = [None if value is None else float(value) for value in (ours, beside, agency)]
    return Errors(int(n), numbers[0], int(n_agency), numbers[1], numbers[2])


def _sort_key(member: str) -> tuple[int, str]:
    """Return what members are sorted by: numbers by their value, before names."""
    first = member.split("-")[0].removeprefix(">")
    return (int(first), member) if first.isdigit() else (1_000_000, member)


def _draw(days: list[tuple[str, Errors]]) -> Plot:
    """Return the plot of errors by day, where the agency has predicted some of it on what it has predicted."""
    has_agency = any(errors.agency is not None for _, errors in days)
    ours = [errors.ours_beside_agency if has_agency else errors.ours for _, errors in days]
    of_series = {"ours": ours, "agency": [errors.agency for _, errors in days]}
    highest = max((value for values in of_series.values() for value in values if value is not None), default=0.0)
    step = next((step for step in STEPS if highest <= MAX_TICKS * step), STEPS[-1])
    top = step * max(1, math.ceil(highest / step))

    def height(value: float) -> float:
        return round(HEIGHT - BOTTOM - (HEIGHT - BOTTOM - TOP) * value / top, 1)

    def place(index: int) -> float:
        return round(LEFT + (WIDTH - LEFT - 8) * (index + 0.5) / len(days), 1)

    lines = {
        series: " ".join(f"{place(i)},{height(value)}" for i, value in enumerate(values) if value is not None)
        for series, values in of_series.items()
    }
    every = math.ceil(len(days) / MAX_LABELS) if days else 1
    return Plot(
        {series: points for series, points in lines.items() if points},
        [(height(value), str(value)) for value in range(0, top + 1, step)],
        [(place(i), day[5:]) for i, (day, _) in enumerate(days) if i % every == 0],
    )
