"""The asset `quantized_student`: the student as ONNX, computed in `ml.training.quantization`."""

from typing import TYPE_CHECKING, Any

import dagster as dg
import numpy as np
from pydantic import Field

from mbta_assets.defs.metadata import table_metadata
from mbta_assets.defs.models.common import model_asset, read_held_out, selection_metadata
from mbta_assets.defs.resources.settings import TrainingSettings
from mbta_assets.ml.evaluation.grouping import POSITIONS
from mbta_assets.ml.inference.intervals import DEFAULT_CONFIDENCE_LEVEL, IntervalCalibration
from mbta_assets.storage.bundle import Bundle, Draft
from mbta_assets.storage.model_registry import ModelRegistry
from mbta_assets.transit.formulas import STOPS_AHEAD

if TYPE_CHECKING:
    from mbta_assets.ml.training.quantization import QuantizationTraining


class QuantizationConfig(dg.Config):
    """Calibration and selection of the variant, and its prediction interval."""

    calibration_rows: int = Field(
        default=2_000, ge=100, description="Training rows that the activations of static int8 are calibrated on."
    )
    max_error_ratio: float = Field(
        default=1.005, ge=1, description="Maximum validation error of a variant as a multiple of that of fp32."
    )
    max_parity_seconds: float = Field(
        default=0.05,
        gt=0,
        description="Maximum difference between PyTorch and ONNX Runtime on any test row, in seconds.",
    )
    confidence_level: float = Field(
        default=DEFAULT_CONFIDENCE_LEVEL, gt=0, lt=1, description="Fraction of arrivals within the prediction interval."
    )

    def build_training(self, seed: int) -> "QuantizationTraining":
        """Return the hyperparameters as plain data."""
        from mbta_assets.ml.training.quantization import QuantizationTraining  # torch; see `quantized_student`

        return QuantizationTraining(
            self.calibration_rows, self.max_error_ratio, self.max_parity_seconds, self.confidence_level, seed
        )


@model_asset(
    description="The student as ONNX, in fp32 or int8: the smallest whose error is close to that of fp32.",
    kinds={"onnx"},
)
def quantized_student(
    context: dg.AssetExecutionContext,
    config: QuantizationConfig,
    settings: dg.ResourceParam[TrainingSettings],
    model_registry: dg.ResourceParam[ModelRegistry],
    training_set: Bundle,
    runtime_lookup: Bundle,
    distilled_student: Bundle,
) -> Draft:
    # Torch takes seconds to import; the code location imports this module and must load fast.
    from mbta_assets.ml.training.distillation import HELD_OUT
    from mbta_assets.ml.training.quantization import quantize_student

    held_out = read_held_out(model_registry, distilled_student, HELD_OUT)
    training = config.build_training(settings.seed)
    quantized = quantize_student(training_set, runtime_lookup, held_out, distilled_student, training)
    context.add_output_metadata(
        {
            **selection_metadata("variants", quantized.to_table(), quantized.selected.name),
            "parity_seconds": quantized.parity["max_seconds"],
            "parity_rows": quantized.parity["rows"],
            "validation_mae_seconds": quantized.selected.validation_error,
            "interval": table_metadata(tabulate_widths(quantized.interval)),
        }
    )
    return quantized.draft()


@dg.asset_check(
    asset="quantized_student",
    blocking=True,
    description="Require ONNX Runtime and PyTorch to predict the same for every row of the test part.",
)
def parity_holds(quantized_student: Bundle) -> dg.AssetCheckResult:
    parity = quantized_student.manifest["parity"]
    return dg.AssetCheckResult(passed=parity["max_seconds"] <= parity["bound_seconds"], metadata=parity)


def tabulate_widths(interval: IntervalCalibration) -> list[dict[str, Any]]:
    """Return how far intervals extend to the late side, in seconds, at average difficulty.

    A row for each route and position has columns for some distances.
    """
    mid_trip, terminal, departure = POSITIONS
    names = {None: "any", False: mid_trip, True: terminal}
    return [
        {"route": route or "any", "position": names[at_first_stop], departure: curve.departure}
        | {f"{stops} ahead": round(float(curve.evaluate(np.array(stops))), 1) for stops in STOPS_AHEAD}
        for (route, at_first_stop), curve in sorted(interval.curves.items(), key=str)
    ]
