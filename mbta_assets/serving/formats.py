"""Formats that the Dagster code location and the serving functions share.

The asset `network_snapshot` writes a `NetworkSnapshot`, which the page reads; the event function marks the observations
it reports with `EVENT_ID_KEY`, which the sensor `upstream_changes` looks for. This module needs NumPy only, so that
either side can import it.
"""

import io
import json
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Self

import numpy as np

from mbta_assets.transit import distances, service_day
from mbta_assets.transit.plausibility import MAX_SCHEDULED_HOURS, MIN_SCHEDULED_HOURS

EVENT_ID_KEY = "cloud_event"
"""Metadata key of a reported observation; its value is the id of the CloudEvent."""
SNAPSHOT_INTERVAL_SECONDS = distances.FULL_INTERVAL_SECONDS
"""The first report of a vehicle in this time has rows about every stop ahead."""
MICROSECONDS_PER_SECOND = 1_000_000
CATEGORY_PREFIX, CODES_PREFIX, NUMBER_PREFIX = "category_", "codes_", "number_"


ROW_FIELDS = {"vehicle_id": "U", "trip_id": "U", "reported_at": "iu", "scheduled_arrival": "iu", "later_visits": "iu"}
"""Kinds of the arrays of a snapshot that have a value for each row, beside its features, by name."""


class DamagedSnapshot(ValueError):
    """The content is not a snapshot; the message says why."""


@dataclass(frozen=True)
class Station:
    """A stop of a line, with the name shown to riders. A line that serves a stop more than once has it as often."""

    stop_id: str
    name: str
    later_visits: int = 0
    """Number of times that trips serve the stop again after this visit."""


@dataclass(frozen=True)
class Line:
    """A route in one direction, with its stops in the order of travel; the stops of a branch are adjacent."""

    route_id: str
    direction_id: int | None
    towards: str
    """Names of the terminals where its trips end."""
    stations: tuple[Station, ...]


@dataclass(frozen=True)
class NetworkSnapshot:
    """Rows of `transit_features` of one service day at regular times, ordered by `time_index`.

    A time has the rows about the first report of each vehicle in the `SNAPSHOT_INTERVAL_SECONDS` from then on.
    """

    service_date: date
    times: np.ndarray
    """(m,) int64 epoch seconds, whole `SNAPSHOT_INTERVAL_SECONDS` after the start of the service day."""
    time_index: np.ndarray
    """(n,) int32 index into `times` of each row, ascending."""
    vehicle_id: np.ndarray
    """(n,) text."""
    trip_id: np.ndarray
    """(n,) text; a vehicle has one trip at a time."""
    reported_at: np.ndarray
    """(n,) int64 epoch microseconds of the report."""
    scheduled_arrival: np.ndarray
    """(n,) int64 epoch seconds; for a departure, with 0 stops ahead, the scheduled departure."""
    later_visits: np.ndarray
    """(n,) int16 number of times that the trip serves the stop again after this visit."""
    columns: dict[str, np.ndarray]
    """Features (n,) by name: float32 numbers, or objects with None for missing categories."""
    lines: tuple[Line, ...]

    def rows_at(self, time_index: int) -> np.ndarray:
        """Return the positions (k,) of the rows of one of the times."""
        begin, end = np.searchsorted(self.time_index, [time_index, time_index + 1])
        return np.arange(begin, end)

    def to_bytes(self) -> bytes:
        """Return the snapshot as a compressed NumPy archive; equal snapshots give equal bytes."""
        arrays: dict[str, Any] = {}
        for name, values in self.columns.items():
            if values.dtype == object:
                texts = ["" if value is None else json.dumps(value) for value in values.tolist()]
                categories, codes = np.unique(np.array(texts, dtype=np.str_), return_inverse=True)
                arrays[CATEGORY_PREFIX + name], arrays[CODES_PREFIX + name] = categories, codes.astype(np.int16)
            else:
                arrays[NUMBER_PREFIX + name] = values
        about = {"service_date": str(self.service_date), "lines": [asdict(line) for line in self.lines]}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            about=np.array(json.dumps(about, ensure_ascii=False)),
            times=self.times,
            step=self.time_index,
            vehicle_id=self.vehicle_id.astype(np.str_),
            trip_id=self.trip_id.astype(np.str_),
            reported_at=self.reported_at,
            scheduled_arrival=self.scheduled_arrival,
            later_visits=self.later_visits,
            **arrays,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, content: bytes) -> Self:
        """Read a snapshot from the archive that `to_bytes` made. Raises DamagedSnapshot for anything else."""
        try:
            snapshot = cls._parse(content)
            snapshot._check()
        except Exception as error:  # NumPy, zipfile and zlib have a dozen for damaged archives
            raise DamagedSnapshot(f"It is not a whole snapshot ({type(error).__name__}: {error}).") from error
        return snapshot

    @classmethod
    def _parse(cls, content: bytes) -> Self:
        """Read a snapshot from an archive. Raises whatever NumPy, json and date raise."""
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays = dict(archive)
        about = json.loads(str(arrays["about"]))
        return cls(
            service_date=date.fromisoformat(about["service_date"]),
            times=arrays["times"],
            time_index=arrays["step"],
            **{name: arrays[name] for name in ROW_FIELDS},
            columns=_read_columns(arrays),
            lines=tuple(_read_line(line) for line in about["lines"]),
        )

    def _check(self) -> None:
        """Raise ValueError unless the arrays belong together and their times to the service day."""
        rows = {**{name: getattr(self, name) for name in ROW_FIELDS}, **self.columns}
        for name, values in rows.items():
            if values.shape != self.time_index.shape or values.ndim != 1:
                raise ValueError(f"{name} has the shape {values.shape}, time_index {self.time_index.shape}")
            kinds = ROW_FIELDS.get(name, "fO")
            if values.dtype.kind not in kinds or (kinds == "fO" and values.dtype not in (np.float32, np.object_)):
                raise ValueError(f"{name} has the type {values.dtype}")
        if self.times.ndim != 1 or self.times.dtype.kind not in "iu" or self.time_index.dtype.kind not in "iu":
            raise ValueError("times or time_index are not whole numbers")
        if len(self.time_index) and not 0 <= self.time_index[0] <= self.time_index[-1] < len(self.times):
            raise ValueError("time_index names times that are not there")
        if (np.diff(self.time_index) < 0).any():
            raise ValueError("time_index is not in order")
        start = service_day.start_time(self.service_date).timestamp()
        reported_at = self.reported_at / MICROSECONDS_PER_SECOND
        of_day = {"times": self.times, "reported_at": reported_at, "scheduled_arrival": self.scheduled_arrival}
        for name, times in of_day.items():
            hours = (times - start) / 3600
            if not ((hours >= MIN_SCHEDULED_HOURS) & (hours < MAX_SCHEDULED_HOURS)).all():
                raise ValueError(f"{name} has times that are not of {self.service_date}")


def _read_columns(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the feature columns of a snapshot's arrays, with categories decoded."""
    columns: dict[str, np.ndarray] = {}
    for key, values in arrays.items():
        if key.startswith(NUMBER_PREFIX):
            columns[key.removeprefix(NUMBER_PREFIX)] = values
        elif key.startswith(CATEGORY_PREFIX):
            name = key.removeprefix(CATEGORY_PREFIX)
            categories = np.array([json.loads(text) if text else None for text in values.tolist()], dtype=object)
            columns[name] = categories[arrays[CODES_PREFIX + name]]
    return columns


def _read_line(stored: dict[str, Any]) -> Line:
    """Return a line from its JSON object. Raises ValueError if a name or an id is not text."""
    line = Line(**{**stored, "stations": tuple(Station(**station) for station in stored["stations"])})
    texts = [line.route_id, line.towards, *(text for stop in line.stations for text in (stop.stop_id, stop.name))]
    if not all(isinstance(text, str) for text in texts) or not isinstance(line.direction_id, int | None):
        raise ValueError(f"the line {stored['route_id']!r} has a name or an id that is not text")
    if not all(isinstance(station.later_visits, int) for station in line.stations):
        raise ValueError(f"the line {stored['route_id']!r} has a number of visits that is not a number")
    return line
