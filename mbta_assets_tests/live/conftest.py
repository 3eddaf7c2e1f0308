"""A trained model for tests of live predictions."""

from mbta_assets_tests.serving.conftest import empty_store, model_store, trained_models

__all__ = ["empty_store", "model_store", "trained_models"]
