"""A service day as the page shows it: every few minutes, what was known of each vehicle and the stops ahead of it."""

import io
import json
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any, Self

import numpy as np

EVERY_SECONDS = 600
CATEGORY, NUMBER = "category_", "number_"


@dataclass(frozen=True)
class Station:
    """A stop of a line."""

    stop_id: str
    name: str


@dataclass(frozen=True)
class Line:
    """A route in one direction, its stops in the order of its trips; branches follow one another."""

    route_id: str
    direction_id: int | None
    towards: str
    """Where most of its trips end."""
    stations: tuple[Station, ...]


@dataclass(frozen=True)
class Snapshot:
    """Rows of `transit_features`, sorted by `step`, with the names that people know."""

    service_date: date
    times: np.ndarray
    """(m,) int64 epoch seconds, every `EVERY_SECONDS`."""
    step: np.ndarray
    """(n,) int32: which of the times each row is about."""
    vehicle_id: np.ndarray
    """(n,) text."""
    scheduled_arrival: np.ndarray
    """(n,) int64 epoch seconds."""
    columns: dict[str, np.ndarray]
    """Features (n,) by name, as a model reads them: float32, or objects with None where missing."""
    lines: tuple[Line, ...]

    def at(self, step: int) -> np.ndarray:
        """The rows (k,) of one of the times, as positions."""
        begin, end = np.searchsorted(self.step, [step, step + 1])
        return np.arange(begin, end)

    def to_bytes(self) -> bytes:
        """The snapshot as a deterministic NumPy archive."""
        arrays: dict[str, Any] = {}
        for name, values in self.columns.items():
            if values.dtype == object:
                texts = ["" if value is None else json.dumps(value) for value in values.tolist()]
                words, codes = np.unique(np.array(texts, dtype=np.str_), return_inverse=True)
                arrays[CATEGORY + name], arrays[f"codes_{name}"] = words, codes.astype(np.int16)
            else:
                arrays[NUMBER + name] = values
        about = {"service_date": str(self.service_date), "lines": [asdict(line) for line in self.lines]}
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            about=np.array(json.dumps(about, ensure_ascii=False)),
            times=self.times,
            step=self.step,
            vehicle_id=self.vehicle_id.astype(np.str_),
            scheduled_arrival=self.scheduled_arrival,
            **arrays,
        )
        return buffer.getvalue()

    @classmethod
    def from_bytes(cls, data: bytes) -> Self:
        """The snapshot that `to_bytes` wrote."""
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            stored = dict(archive)
        columns: dict[str, np.ndarray] = {}
        for name, values in stored.items():
            if name.startswith(NUMBER):
                columns[name.removeprefix(NUMBER)] = values
            elif name.startswith(CATEGORY):
                words = np.array([json.loads(word) if word else None for word in values.tolist()], dtype=object)
                plain = name.removeprefix(CATEGORY)
                columns[plain] = words[stored[f"codes_{plain}"]]
        about = json.loads(str(stored["about"]))
        lines = tuple(
            Line(**{**line, "stations": tuple(Station(**one) for one in line["stations"])}) for line in about["lines"]
        )
        return cls(
            date.fromisoformat(about["service_date"]),
            stored["times"],
            stored["step"],
            stored["vehicle_id"],
            stored["scheduled_arrival"],
            columns,
            lines,
        )
