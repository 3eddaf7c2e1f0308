"""The predictor as a service: NumPy and ONNX Runtime, and none of what the model was made with.

In this room: what is known at a moment (`moment`), the stream that keeps it (`stream`, `timetable`), the predictor, the
HTTP function and its page, the event function. Not here: Dagster, pandas, training.
"""

from mbta_assets.serving.moment import Moment
from mbta_assets.serving.predictor import Prediction, Predictor, Range
from mbta_assets.serving.stream import Stream, VehicleUpdate
from mbta_assets.serving.timetable import ScheduledStop, Stop, Timetable, Trip

__all__ = [
    "Moment",
    "Prediction",
    "Predictor",
    "Range",
    "ScheduledStop",
    "Stop",
    "Stream",
    "Timetable",
    "Trip",
    "VehicleUpdate",
]
