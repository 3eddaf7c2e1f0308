"""Entry points of functions-framework and Cloud Functions: the targets `predict` and `on_upstream_change`."""

import gc

from mbta_assets.serving.http_app import predict
from mbta_assets.serving.upstream_events import on_upstream_change

__all__ = ["on_upstream_change", "predict"]

gc.freeze()  # what is imported stays: the collector need not go through it during requests
