"""Stored models of every kind, opened with the training libraries.

Serving opens models of kind `onnx` by `ml.inference.model.Model` and needs none of them.
"""

from collections.abc import Callable

from mbta_assets.ml.inference.model import Model, ResidualFunction, load_onnx
from mbta_assets.ml.training import xgboost_trainer
from mbta_assets.storage.bundle import Bundle


def load_model(bundle: Bundle) -> Model:
    """Open a stored model of kind `xgboost`, `network` or `onnx`, to predict delays in seconds.

    It needs the training libraries; `mbta_assets.serving.Predictor` needs none, and opens `onnx` only. Raises
    BundleError if the bundle is of another kind or is damaged.
    """
    load_residual = _LOADERS.get(bundle.manifest["kind"])
    return Model(bundle, load_residual(bundle) if load_residual else None)


def _load_xgboost(bundle: Bundle) -> ResidualFunction:
    """Return a function that predicts residuals with the trees of a bundle."""
    return xgboost_trainer.load_trees(bundle, bundle.manifest["residual_to"])


def _load_network(bundle: Bundle) -> ResidualFunction:
    """Return a function that predicts residuals with the network of a bundle, run as ONNX as it would be served."""
    # Torch takes seconds to import; the Dagster code location imports this module and must load fast.
    from mbta_assets.ml.training import network_weights, onnx_export

    return load_onnx(onnx_export.to_onnx(network_weights.from_bundle(bundle)))


_LOADERS: dict[str, Callable[[Bundle], ResidualFunction]] = {"xgboost": _load_xgboost, "network": _load_network}
"""Loaders of the kinds that need a training library."""
