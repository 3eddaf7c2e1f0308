"""From feature columns to delays: what every model shares, at training and when a stored one is opened."""

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

import numpy as np

from mbta_assets.ml.inference.arrays import Arrays, Parts
from mbta_assets.ml.inference.encoder import Columns, Encoder
from mbta_assets.ml.inference.intervals import Interval
from mbta_assets.ml.inference.run_time import COLUMNS as LOOKUP_COLUMNS
from mbta_assets.ml.inference.run_time import RuntimeLookup, cross_fitted_delay
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.storage.bundle import Bundle

if TYPE_CHECKING:
    import pandas as pd

ENCODER, LOOKUP, SCALES, ONNX, INTERVAL = "encoder.json", "lookup.npz", "scales.json", "model.onnx", "interval.json"
RESIDUALS = ("lookup", "now")
"""What a label's residual may be taken to: the run-time lookup, or the delay of an arrival right now."""
Residual = Callable[[Arrays], np.ndarray]
"""Predicts residuals (n,) in units of the scale for model inputs of n rows."""


@dataclass(frozen=True)
class Inputs:
    """Turns feature columns into a model's arrays: the encoder's, and what the run-time lookup says."""

    encoder: Encoder
    lookup: RuntimeLookup
    scales: Mapping[int, float]
    """Seconds by stops ahead: how far off the lookup typically is."""

    @classmethod
    def fit(cls, encoder: Encoder, lookup: RuntimeLookup, rows: Columns, lookup_delay: np.ndarray) -> Self:
        """Inputs whose scales are the median error of `lookup_delay` (n,), from lookups that did not see the rows."""
        error = np.abs(np.asarray(rows["delay_seconds"], dtype=np.float64) - lookup_delay)
        stops = np.asarray(rows["stops_ahead"], dtype=np.int64)
        return cls(encoder, lookup, {int(n): max(1.0, float(np.median(error[stops == n]))) for n in np.unique(stops)})

    def scale(self, columns: Columns) -> np.ndarray:
        """The scale (n,) of each row; of a number of stops ahead that was never seen, the largest."""
        stops = np.asarray(columns["stops_ahead"], dtype=np.int64)
        known = [stops == n for n in self.scales]
        return np.select(known, list(self.scales.values()), max(self.scales.values())).astype(np.float32)

    def arrays(self, columns: Columns, residual_to: str, lookup_delay: np.ndarray | None = None) -> Arrays:
        """Model inputs (n rows); `residual_to` is one of `RESIDUALS`.

        `lookup_delay` (n,) stands in for the lookup where the rows are those it was fitted on.
        """
        delay = self.lookup.delay(columns) if lookup_delay is None else lookup_delay
        ahead = np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
        label = columns["delay_seconds"] if "delay_seconds" in columns else np.full(len(ahead), np.nan)
        return Arrays(
            numeric=np.column_stack([self.encoder.numbers(columns), delay, delay + ahead]).astype(np.float32),
            codes=self.encoder.codes(columns),
            base=(delay if residual_to == "lookup" else -ahead).astype(np.float32),
            scale=self.scale(columns),
            label=np.asarray(label, dtype=np.float32),
        )

    def without(self, names: Collection[str]) -> Self:
        """Inputs that leave out some features; a bundle then neither holds nor asks for them."""
        return replace(self, encoder=self.encoder.without(names))

    @property
    def names(self) -> list[str]:
        """Names of the inputs, numbers first."""
        return [*self.encoder.numeric, "lookup_delay_seconds", "lookup_seconds_ahead", *self.encoder.vocabularies]

    def files(self) -> dict[str, bytes]:
        """What a bundle needs to make the same inputs."""
        scales = json.dumps({str(stops): seconds for stops, seconds in self.scales.items()}).encode()
        return {ENCODER: self.encoder.to_json(), LOOKUP: self.lookup.to_bytes(), SCALES: scales}

    @classmethod
    def from_bundle(cls, stored: Bundle) -> Self:
        """The inputs of a stored model."""
        scales = {int(stops): seconds for stops, seconds in json.loads(stored.file(SCALES)).items()}
        return cls(Encoder.from_json(stored.file(ENCODER)), RuntimeLookup.from_bytes(stored.file(LOOKUP)), scales)


@dataclass(frozen=True)
class Encoding:
    """How the rows of a training set become a model's arrays, as they are read, block by block."""

    inputs: Inputs
    lookup_delay: np.ndarray
    """(n,) what the lookup says of every row; of a row it was fitted on, what lookups of other days say."""

    @classmethod
    def fit(cls, encoder: Encoder, rows: "pd.DataFrame", seen: np.ndarray, lookup: RuntimeLookup | None = None) -> Self:
        """Inputs fitted to the labelled rows `seen` (n,) of all rows, of which `NEEDED` columns are enough.

        `lookup` is the one of those rows, where there is one already.
        """
        known = rows[seen]
        cross_fitted = cross_fitted_delay(known)
        inputs = Inputs.fit(encoder, lookup or RuntimeLookup.fit(known), known, cross_fitted)
        delay = inputs.lookup.delay(rows)
        delay[seen] = cross_fitted
        return cls(inputs, delay)

    def blocks(self, frames: Iterable["pd.DataFrame"], wanted: np.ndarray, residual_to: str) -> Iterator[Arrays]:
        """The arrays of the rows `wanted` (n,), of frames that together are all rows in order."""
        begin = 0
        for frame in frames:
            here = slice(begin, begin := begin + len(frame))
            chosen = wanted[here]
            yield self.inputs.arrays(frame[chosen], residual_to, self.lookup_delay[here][chosen])


NEEDED = ["part", "service_date", "trip_id", "stops_ahead", *LOOKUP_COLUMNS]
"""Columns of a training set that an encoding is fitted on."""


def learning_parts(encoder: Encoder, rows: "pd.DataFrame", seed: int) -> tuple[Inputs, Parts]:
    """What a search learns from and is judged by, of a training set's rows, with inputs fitted to the training part.

    What the lookup says of a labelled training row is cross-fitted: it comes from other days. Training rows without a
    label come last; validation rows all have one.
    """
    labelled = rows["delay_seconds"].notna().to_numpy()
    in_train = (rows["part"] == "train").to_numpy()
    encoding = Encoding.fit(encoder, rows, in_train & labelled)
    train = np.concatenate([np.flatnonzero(in_train & labelled), np.flatnonzero(in_train & ~labelled)])
    validation = np.flatnonzero((rows["part"] == "validation").to_numpy() & labelled)

    def arrays(chosen: np.ndarray) -> dict[str, Arrays]:
        delay = encoding.lookup_delay[chosen]
        return {to: encoding.inputs.arrays(rows.iloc[chosen], to, delay) for to in RESIDUALS}

    return encoding.inputs, Parts(arrays(train), arrays(validation), encoding.inputs.names, seed)


class Model:
    """A stored model, opened once to predict many times."""

    def __init__(self, stored: Bundle) -> None:
        self.inputs = Inputs.from_bundle(stored)
        self.residual_to: str = stored.manifest["residual_to"]
        self.residual = KINDS[stored.manifest["kind"]](stored)
        calibrated = INTERVAL in stored.manifest["files"]
        self.interval = Interval.from_json(stored.file(INTERVAL)) if calibrated else None
        """Around its predictions; None where the bundle has none."""

    def predict(self, columns: Columns) -> np.ndarray:
        """Predicted seconds of delay (n,) for feature columns of n rows."""
        return predict(self.inputs, self.residual_to, self.residual, columns)


def predict(inputs: Inputs, residual_to: str, residual: Residual, columns: Columns) -> np.ndarray:
    """Predicted seconds of delay (n,) for feature columns of n rows.

    A vehicle that has not arrived arrives no earlier than now.
    """
    arrays = inputs.arrays(columns, residual_to)
    earliest = -np.asarray(columns["scheduled_seconds_ahead"], dtype=np.float64)
    return np.maximum(arrays.base + arrays.scale * residual(arrays), earliest)


def _open_trees(stored: Bundle) -> Residual:
    return xgboost_trainer.open_weights(stored.file(xgboost_trainer.WEIGHTS))


def _open_network(stored: Bundle) -> Residual:
    """A network runs as it would be served, whatever it is stored as."""
    from mbta_assets.ml.training import network_weights, onnx_export

    return run_onnx(onnx_export.to_onnx(network_weights.from_bundle(stored)))


def _open_onnx(stored: Bundle) -> Residual:
    return run_onnx(stored.file(ONNX))


def run_onnx(onnx: bytes) -> Residual:
    """What an exported network predicts."""
    from mbta_assets.ml.inference import onnx_session

    session = onnx_session.session(onnx)
    return lambda arrays: onnx_session.predict(session, onnx_session.feed(arrays.numeric, arrays.codes))


KINDS: dict[str, Callable[[Bundle], Residual]] = {"xgboost": _open_trees, "network": _open_network, "onnx": _open_onnx}
"""What opens a bundle, by its kind."""
