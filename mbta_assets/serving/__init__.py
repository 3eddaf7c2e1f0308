"""Predictions from a stored model: in Python, over HTTP and as a page, and reports of upstream changes to Dagster.

Importing this package needs NumPy and ONNX Runtime only. The HTTP function is `http_app.predict` and the event
function is `upstream_events.on_upstream_change`; these modules also need Flask, pydantic and Jinja.
Nothing here imports Dagster, pandas or a training library.
"""

from mbta_assets.serving.arrival_query import ArrivalQuery
from mbta_assets.serving.observations import VehicleUpdate
from mbta_assets.serving.predictor import ArrivalInterval, Prediction, Predictor, follow_model
from mbta_assets.serving.scheduled_trip import StopTime
from mbta_assets.serving.stream import Stream
from mbta_assets.serving.timetable import Stop, Timetable, Trip

__all__ = [
    "ArrivalInterval",
    "ArrivalQuery",
    "Prediction",
    "Predictor",
    "Stop",
    "StopTime",
    "Stream",
    "Timetable",
    "Trip",
    "VehicleUpdate",
    "follow_model",
]
