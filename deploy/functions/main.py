"""What functions-framework and Cloud Functions start: the HTTP function and the event function."""

from mbta_assets.serving.events import on_upstream_change
from mbta_assets.serving.http import predict

__all__ = ["on_upstream_change", "predict"]
