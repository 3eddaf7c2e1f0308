"""Checks of the group `models`."""

import dagster as dg

from mbta_assets.storage.model_registry import ModelRegistry


@dg.asset_check(
    asset="quantized_student",
    blocking=True,
    description="Require ONNX Runtime and PyTorch to predict the same for every row of the test part.",
)
def parity_holds(model_registry: dg.ResourceParam[ModelRegistry]) -> dg.AssetCheckResult:
    parity = model_registry.current("quantized_student").manifest["parity"]
    return dg.AssetCheckResult(passed=parity["max_seconds"] <= parity["bound_seconds"], metadata=parity)
