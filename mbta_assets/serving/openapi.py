"""Requests and responses of the HTTP function: their JSON, and their validation.

With the paths in `openapi_description`, the models are the only definition of what the function accepts and returns.
Request handling belongs to `http_app`; the meaning of a query's fields comes from `ArrivalQuery`, the rules between
them from `query_rules`.
"""

from collections.abc import Sequence
from dataclasses import Field as DataclassField
from dataclasses import fields
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, get_args

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StringConstraints,
    ValidationError,
    create_model,
)

from mbta_assets.serving import query_rules
from mbta_assets.serving.arrival_query import REQUIRED_FIELDS, TIME_FIELDS, ArrivalQuery, FieldGroup
from mbta_assets.serving.predictor import ArrivalInterval, Prediction

MAX_QUERIES = 1_000
MAX_BODY_BYTES = 2_000_000
CLOCK_TIME_PATTERN = "^(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]$"

Identifier = Annotated[str, StringConstraints(min_length=1, max_length=100)]
JSONObject = dict[str, Any]


class RequestModel(BaseModel):
    """Base of request models: no type coercion, no additional fields, no infinite numbers."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _convert_whole_number(value: Any) -> Any:
    """Convert a float without a fraction to an int, as JSON has one type for both."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _declare_field(spec: DataclassField) -> tuple[Any, Any]:
    """Return the pydantic type and field of a field of `ArrivalQuery`, with its description and constraints."""
    types = get_args(spec.type) or (spec.type,)
    [plain_type] = [kind for kind in types if kind is not type(None)]
    constraints = dict(spec.metadata["constraints"])
    choices = constraints.pop("choices", None)
    field_type: Any = {datetime: AwareDatetime, str: Identifier}.get(plain_type, plain_type)
    if choices:
        field_type = Literal[choices]
    if constraints:
        field_type = Annotated[field_type, Field(**constraints)]
    if plain_type is int:
        field_type = Annotated[field_type, BeforeValidator(_convert_whole_number)]
    if spec.name in REQUIRED_FIELDS:
        return field_type, Field(description=spec.metadata["description"])
    return field_type | None, Field(default=None, description=spec.metadata["description"])


_QUERY_FIELDS: dict[str, Any] = {spec.name: _declare_field(spec) for spec in fields(ArrivalQuery)}
QueryModel: Any = create_model("ArrivalQuery", __base__=RequestModel, __doc__=ArrivalQuery.__doc__, **_QUERY_FIELDS)


_ALL_FIELDS = FieldGroup(*(spec.name for spec in fields(ArrivalQuery)))
_PLACES_IN_UTC = [
    index
    for index, name in enumerate(_ALL_FIELDS.names)
    if name == "time_stamp" or (name in TIME_FIELDS and name != "scheduled_arrival")
]


class PredictRequest(RequestModel):
    """Queries to answer."""

    queries: list[QueryModel] = Field(min_length=1, max_length=MAX_QUERIES, description="One for each arrival.")


class IntervalModel(BaseModel):
    """The range in which the arrival lies with the given confidence level."""

    confidence_level: float = Field(description="Share of arrivals that lie in their interval.")
    lower_delay_seconds: float
    upper_delay_seconds: float
    earliest_arrival: datetime
    latest_arrival: datetime


class PredictionModel(BaseModel):
    """The predicted delay and arrival for one query."""

    vehicle_id: str | None
    trip_id: str | None
    stop_id: str
    stop_sequence: int | None = Field(description="As in the query, like the ids.")
    current_stop_sequence: int | None
    event: Literal["arrival", "departure"] = Field(description="A departure if `stops_ahead` is 0.")
    delay_seconds: float = Field(description="Actual minus scheduled time of the event; positive is late.")
    predicted_arrival: datetime = Field(description="Time of the event: the scheduled one plus the delay.")
    interval: IntervalModel | None = Field(description="Null if the model has no calibrated interval.")


class PredictResponse(BaseModel):
    """Predictions in the order of the queries."""

    model_version: str = Field(description="Digest of the model bundle.")
    predictions: list[PredictionModel]


class FieldError(BaseModel):
    """An error in one field of a request."""

    field: str = Field(description="Path of the field, such as queries.0.stop_id.")
    message: str


class ErrorResponse(BaseModel):
    """Why a request failed, and what to do."""

    error: str
    fields: list[FieldError] = []


class InvalidQueries(Exception):
    """Queries break rules between their fields; `field_messages` has the path of each field and what is wrong."""

    def __init__(self, field_messages: Sequence[tuple[str, str]]) -> None:
        super().__init__(f"{len(field_messages)} fields break a rule")
        self.field_messages = field_messages


def parse_queries(body: bytes) -> list[ArrivalQuery]:
    """Return the queries of a request's body. Raises pydantic's ValidationError, or InvalidQueries."""
    request = PredictRequest.model_validate_json(body)
    queries, broken = [], []
    for index, model in enumerate(request.queries):
        query = _make_query(model.__dict__)
        queries.append(query)
        if query_rules.find_broken_rules(query):
            as_given = ArrivalQuery(**model.__dict__)
            messages = query_rules.find_broken_rules(as_given)
            broken += [(f"queries.{index}.{name}", message) for name, message in messages]
    if broken:
        raise InvalidQueries(broken)
    return queries


def _make_query(values: JSONObject) -> ArrivalQuery:
    """Return the query with validated values, its times in UTC but for the scheduled arrival, which is answered.

    Times in one time zone of the standard library are compared and subtracted ten times as fast as in pydantic's, which
    pays for the rules.
    """
    arranged = list(_ALL_FIELDS.arrange(values))
    try:
        for index in _PLACES_IN_UTC:
            if (time := arranged[index]) is not None:
                arranged[index] = time.astimezone(UTC)
    except OverflowError:
        arranged = list(_ALL_FIELDS.arrange(values))  # with a time at an end of the calendar all stay as they are
    return _ALL_FIELDS.make_query(arranged)


def format_predictions(queries: Sequence[ArrivalQuery], predictions: Sequence[Prediction]) -> JSONObject:
    """Return the JSON of a response to queries, which must not be empty."""
    return {
        "model_version": predictions[0].model_version,
        "predictions": [
            {
                "vehicle_id": query.vehicle_id,
                "trip_id": query.trip_id,
                "stop_id": query.stop_id,
                "stop_sequence": query.stop_sequence,
                "current_stop_sequence": query.current_stop_sequence,
                "event": "departure" if query.is_departure else "arrival",
                "delay_seconds": round(prediction.delay_seconds, 3),
                "predicted_arrival": prediction.predicted_arrival.isoformat(),
                "interval": prediction.interval and _format_interval(prediction.interval),
            }
            for query, prediction in zip(queries, predictions, strict=True)
        ],
    }


def _format_interval(interval: ArrivalInterval) -> JSONObject:
    """Return the JSON of an interval."""
    return {
        "confidence_level": interval.confidence_level,
        "lower_delay_seconds": round(interval.lower_delay_seconds, 3),
        "upper_delay_seconds": round(interval.upper_delay_seconds, 3),
        "earliest_arrival": interval.earliest_arrival.isoformat(),
        "latest_arrival": interval.latest_arrival.isoformat(),
    }


def format_error(message: str, field_messages: Sequence[tuple[str, str]] = ()) -> JSONObject:
    """Return the JSON of an error, with a message for each field that is wrong."""
    return {"error": message, "fields": [{"field": field, "message": text} for field, text in field_messages]}


def format_validation_error(error: ValidationError) -> JSONObject:
    """Return the JSON of a request's validation error, which names every field that is wrong."""
    details = error.errors(include_url=False, include_context=False, include_input=False)
    return format_invalid_fields([(".".join(map(str, detail["loc"])), detail["msg"]) for detail in details])


def format_invalid_fields(field_messages: Sequence[tuple[str, str]]) -> JSONObject:
    """Return the JSON of an error of a request, with a message for each field that is wrong."""
    return format_error("The request does not match its description in /openapi.json.", field_messages)


def is_invalid_json(error: ValidationError) -> bool:
    """Return whether a validation error means that the body is not JSON at all."""
    return error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid"
