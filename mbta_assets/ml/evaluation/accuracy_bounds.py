"""Bounds of the rule `accuracy_within_bounds`: the accuracy that an agency has published for its own predictions.

They are shares of predictions within the accuracy windows, by bin and route, or by bin and mode, of the latest year.
"""

import csv
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Self

from mbta_assets.agency import AGENCY, find_accuracy_bounds
from mbta_assets.settings import AgencySettings, SettingsError

COLUMNS = ("mode", "route_id", "bin", "year", "predictions", "share_accurate")
BY_ROUTE = "predicted_horizon, route_id"
BY_MODE = "predicted_horizon, mode"


class PublishedShare(NamedTuple):
    """A row of the file: the share of accurate predictions of a route, or of a mode if no route is named."""

    mode: str
    route_id: str
    """Empty for the whole mode."""
    bin: str
    year: int
    share: float


@dataclass(frozen=True)
class AccuracyBounds:
    """Minimum shares of accurate predictions, and the mode of each route as far as it is known."""

    shares: Mapping[tuple[str, str], float] = field(default_factory=dict)
    """By dimension and member of `prediction_accuracy`, such as `predicted_horizon, route_id` and `0-3 min, 7`."""
    modes: Mapping[str, str] = field(default_factory=dict)
    """By route that the file names."""
    numbered_mode: str | None = None
    """Mode of other routes whose id begins with a digit: the one of which the file names no route."""

    @classmethod
    def from_csv(cls, path: Path, bins: Collection[str]) -> Self:
        """Read the latest year of each route and mode. Raise ValueError that names the line which cannot be read."""
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise ValueError(f"line 1 has no column {', '.join(missing)}")
            return cls.from_rows([_parse_row(row, bins, reader.line_num) for row in reader])

    @classmethod
    def from_rows(cls, rows: Iterable[PublishedShare]) -> Self:
        """Return the bounds by the latest year of each route and mode. Raise ValueError if a mode cannot be told."""
        latest = {(row.mode, row.route_id, row.bin): row for row in sorted(rows, key=lambda row: row.year)}.values()
        modes = {row.route_id: row.mode for row in latest if row.route_id}
        ambiguous = [row.route_id for row in latest if row.route_id and modes[row.route_id] != row.mode]
        if ambiguous:
            raise ValueError(f"route {ambiguous[0]} is of two modes")
        numbered = sorted({row.mode for row in latest} - set(modes.values()))
        if len(numbered) > 1:
            raise ValueError(f"of the modes {', '.join(numbered)} no route is named, as may be of one mode only")
        shares = {
            (BY_ROUTE if row.route_id else BY_MODE, f"{row.bin}, {row.route_id or row.mode}"): row.share
            for row in latest
        }
        return cls(shares, modes, numbered[0] if numbered else None)

    @classmethod
    def from_settings(cls, agency: AgencySettings) -> Self:
        """Return the bounds of an agency, without any if it has none. Raise SettingsError if its file is wrong."""
        path = find_accuracy_bounds(agency)
        if path is None:
            return cls()
        try:
            return cls.from_csv(path, agency.accuracy_windows)
        except (OSError, ValueError) as error:
            raise SettingsError(
                f"MBTA_ACCURACY_BOUNDS is {str(path)!r}, which cannot be used: {error}. It may be the path of a CSV "
                f"file with the columns {', '.join(COLUMNS)} and the bins of MBTA_ACCURACY_WINDOWS, or none."
            ) from error

    def find_mode(self, route_id: str) -> str | None:
        """Return the mode of a route, None if it is not known."""
        return self.modes.get(route_id, self.numbered_mode if re.match("[0-9]", route_id) else None)


def _parse_row(row: Mapping[str, str | None], bins: Collection[str], line: int) -> PublishedShare:
    """Parse a line of the file. Raise ValueError that names the line and the value."""
    mode, route_id, name, year, _, share = ((row[column] or "").strip() for column in COLUMNS)
    if not mode:
        raise ValueError(f"line {line} has no mode")
    if name not in bins:
        raise ValueError(f"line {line} has the bin {name!r}, which is none of {', '.join(bins)}")
    if not re.fullmatch("[0-9]{4}", year):
        raise ValueError(f"line {line} has the year {year!r}")
    if not re.fullmatch(r"(0|1)?\.?[0-9]+", share) or not 0 <= float(share) <= 1:
        raise ValueError(f"line {line} has the share {share!r}, which is no number from 0 to 1")
    return PublishedShare(mode, route_id, name, int(year), float(share))


BOUNDS = AccuracyBounds.from_settings(AGENCY)
"""Bounds of the agency of this process."""
