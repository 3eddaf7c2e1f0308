"""Quantization: int8 variants of an exported student, of which validation selects one, with its prediction interval.

Static and dynamic int8 multiply in int8. Weight-only int8 stores the weights in int8, and ONNX Runtime converts them to
floats once, when it loads the model. How variants are made is in `int8_variants`.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from pyarrow import parquet

from mbta_assets.ml.inference.arrays import Arrays
from mbta_assets.ml.inference.intervals import IntervalCalibration
from mbta_assets.ml.inference.model import INTERVAL_FILE, ONNX_FILE, ONNX_KIND, load_onnx, predict_delay
from mbta_assets.ml.inference.monotone import correct_delays
from mbta_assets.ml.inference.onnx_session import create_session, make_feed, measure_latency_us, predict
from mbta_assets.ml.inference.preprocessing import Preprocessor
from mbta_assets.ml.training import int8_variants
from mbta_assets.ml.training.dataset import LEARNED_PARTS, make_provenance, read_labelled, read_rows, take_rows
from mbta_assets.ml.training.earlier_days import EARLIER_DAYS_FILE
from mbta_assets.ml.training.network_data import NetworkData
from mbta_assets.ml.training.network_weights import from_bundle
from mbta_assets.ml.training.onnx_export import max_difference_seconds, to_onnx
from mbta_assets.storage.bundle import Bundle, Draft, library_versions

COPIED_FIELDS = ("residual_to", "features", "parameters", "layers", "configuration", "seed")
"""Manifest fields that are copied from the student."""


@dataclass(frozen=True)
class QuantizationTraining:
    """Calibration and selection of a variant."""

    calibration_rows: int
    """Number of training rows, evenly spaced, that the activations of static int8 are calibrated on."""
    max_error_ratio: float
    """Maximum validation error of a variant over that of fp32."""
    max_parity_seconds: float
    """Maximum difference between torch and ONNX Runtime on any test row; a check of the bundle compares it."""
    confidence_level: float
    """Fraction of arrivals that should lie within the prediction interval."""
    seed: int


@dataclass(frozen=True)
class Variant:
    """One way to store and run a network."""

    name: str
    model: bytes
    """ONNX."""
    validation_error: float
    """Mean absolute error in seconds."""
    size_bytes: int
    latency_us: float
    """Median latency of one row."""
    passes: bool
    """The error is close enough to that of fp32."""

    def to_row(self) -> dict[str, Any]:
        """Return the variant as a row of a table."""
        return {
            "name": self.name,
            "validation_mae_seconds": self.validation_error,
            "size_bytes": self.size_bytes,
            "passes": self.passes,
            "latency_us": self.latency_us,
        }


@dataclass(frozen=True)
class QuantizedStudent:
    """The selected variant with its prediction interval, and all variants."""

    variants: list[Variant]
    selected: Variant
    interval: IntervalCalibration
    preprocessor: Preprocessor
    parity: dict[str, Any]
    """Maximum difference between torch and ONNX Runtime in seconds, its bound, and the number of rows."""
    training_set: Bundle
    runtime_lookup: Bundle
    student: Bundle

    def to_table(self) -> list[dict[str, Any]]:
        """Return a row of each variant."""
        return [variant.to_row() for variant in self.variants]

    def draft(self) -> Draft:
        """Return the bundle, which names its student."""
        return Draft(
            ONNX_KIND,
            {
                ONNX_FILE: self.selected.model,
                INTERVAL_FILE: self.interval.to_bytes(),
                **self.preprocessor.to_files(),
            },
            {
                **make_provenance(
                    self.training_set, runtime_lookup=self.runtime_lookup, distilled_student=self.student
                ),
                **{name: self.student.manifest[name] for name in COPIED_FIELDS},
                "student": self.student.digest,
                "variant": self.selected.name,
                # Without latencies: the same model must give the same digest.
                "variants": [
                    {name: value for name, value in row.items() if name != "latency_us"} for row in self.to_table()
                ],
                "parity": self.parity,
                "libraries": library_versions("numpy", "onnx", "onnxruntime"),
            },
        )


def quantize_student(
    training_set: Bundle,
    runtime_lookup: Bundle,
    held_out_student: Bundle,
    student: Bundle,
    training: QuantizationTraining,
) -> QuantizedStudent:
    """Export a student, select a variant of it and calibrate the prediction interval on validation.

    Both are done with the student that did not learn the validation part.
    """
    data = NetworkData.from_bundles(training_set, runtime_lookup, training.seed).select_columns_of(student)
    network, residual_to = from_bundle(student), student.manifest["residual_to"]
    model, preprocessor = to_onnx(network), Preprocessor.from_bundle(student)
    test = preprocessor.transform(read_rows(training_set, parts=["test"]), residual_to)
    parity = {
        "max_seconds": max_difference_seconds(network, model, test),
        "bound_seconds": training.max_parity_seconds,
        "rows": len(test),
    }
    calibration = sample_evenly(data.train, training.calibration_rows)
    held_out = make_models(to_onnx(from_bundle(held_out_student)), calibration)
    variants = judge_variants(held_out, make_models(model, calibration), data.validation, training.max_error_ratio)
    selected = select_variant(variants)
    validation = read_labelled(training_set, "validation")
    residual = load_onnx(held_out[selected.name])
    delay = predict_delay(Preprocessor.from_bundle(held_out_student), residual_to, residual, validation)
    interval = calibrate_interval(training_set, held_out_student, validation, delay, training.confidence_level)
    return QuantizedStudent(variants, selected, interval, preprocessor, parity, training_set, runtime_lookup, student)


def calibrate_interval(
    training_set: Bundle, held_out_student: Bundle, validation: pd.DataFrame, delay: np.ndarray, confidence_level: float
) -> IntervalCalibration:
    """Calibrate an interval on predicted delays (n,) of the validation part, and on those of service days before it."""
    stored = parquet.read_table(io.BytesIO(held_out_student.file(EARLIER_DAYS_FILE)))
    earlier = take_rows(training_set, LEARNED_PARTS, stored["place"].to_numpy())
    rows = pd.concat([validation, earlier], ignore_index=True)
    arriving_now = -rows["scheduled_seconds_ahead"].to_numpy(dtype=np.float64)
    delay = np.maximum(np.concatenate([delay, stored["delay"].to_numpy()]), arriving_now)
    error = rows["delay_seconds"].to_numpy() - correct_delays(rows, delay).delay
    error *= np.concatenate([np.ones(len(validation)), stored["error_ratio"].to_numpy()])
    return IntervalCalibration.fit(rows, error, confidence_level)


def sample_evenly(rows: Arrays, n: int) -> Arrays:
    """Return n evenly spaced rows."""
    return rows.take(np.linspace(0, len(rows) - 1, n).astype(int))


def make_models(model: bytes, calibration: Arrays) -> dict[str, bytes]:
    """Return fp32 and every int8 variant of an ONNX model, by name."""
    return {
        "fp32": model,
        "int8_weight_only": int8_variants.quantize_weights(model),
        "int8_dynamic": int8_variants.quantize_dynamically(model),
        "int8_static": int8_variants.quantize_statically(model, calibration),
    }


def judge_variants(
    held_out: Mapping[str, bytes], models: Mapping[str, bytes], validation: Arrays, max_error_ratio: float
) -> list[Variant]:
    """Return the variants of a model, each judged by that of the same name which did not learn the validation rows."""
    labelled = validation.take(~np.isnan(validation.label))
    feed = make_feed(labelled.numeric, labelled.codes)
    variants: list[Variant] = []
    for name, model in models.items():
        session = create_session(held_out[name])
        error = labelled.mean_absolute_error(predict(session, feed))
        passes = not variants or error <= max_error_ratio * variants[0].validation_error
        latency_us = measure_latency_us(session, feed)
        variants.append(Variant(name, model, error, len(model), latency_us, passes))
    return variants


def select_variant(variants: Sequence[Variant]) -> Variant:
    """Return the smallest variant that passes, the more accurate of equals; fp32 always passes."""
    passing = [variant for variant in variants if variant.passes]
    return min(passing, key=lambda variant: (variant.size_bytes, variant.validation_error))
