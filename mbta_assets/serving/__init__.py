"""The predictor as a service: NumPy and ONNX Runtime, and none of what the model was made with.

In this room: what is known at a moment (`moment`), the stream that keeps it (`stream`, `timetable`), the predictor and
how it is followed from version to version (`predictor`, `store`, `production`), the HTTP function and its page (`http`,
`api`, `network`, `page`), the event function (`events`, `reporting`). Not here: Dagster, pandas, training.

The two functions, `predict` and `on_upstream_change`, are here as well; they are imported when they are asked for, as
they need Flask, pydantic and the like, and the rest does not.
"""

from typing import Any

from mbta_assets.serving.moment import Moment
from mbta_assets.serving.predictor import Prediction, Predictor, Range
from mbta_assets.serving.production import follow
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
    "follow",
]


def __getattr__(name: str) -> Any:
    if name == "predict":
        from mbta_assets.serving.http import predict

        return predict
    if name == "on_upstream_change":
        from mbta_assets.serving.events import on_upstream_change

        return on_upstream_change
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
