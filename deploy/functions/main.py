"""What functions-framework and Cloud Functions start: the HTTP function and the event function."""

from mbta_assets.serving import on_upstream_change, predict

__all__ = ["on_upstream_change", "predict"]
