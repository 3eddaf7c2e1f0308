"""What comes in and goes out over HTTP, and its description: the one place that knows how JSON looks."""

import json
from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
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

from mbta_assets.serving.moment import EXAMPLE, REQUIRED, Moment
from mbta_assets.serving.predictor import Prediction

MOST_MOMENTS = 1_000
MOST_BYTES = 2_000_000
CLOCK = "^(0[0-9]|1[0-9]|2[0-3]):[0-5][0-9]$"

Name = Annotated[str, StringConstraints(min_length=1, max_length=100)]
Json = dict[str, Any]


class Strict(BaseModel):
    """Takes what is described, and nothing else or nearly so."""

    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)


def _spec(field: Any) -> tuple[Any, Any]:
    """The type of a moment's field over HTTP, with its rules, from the dataclass that says what it means."""
    optional = type(None) in get_args(field.type)
    plain = next(kind for kind in get_args(field.type) or (field.type,) if kind is not type(None))
    rules: dict[str, Any] = dict(field.metadata["rules"])
    choices = rules.pop("choices", None)
    kind: Any = Literal[choices] if choices else {datetime: AwareDatetime, str: Name}.get(plain, plain)
    if rules:
        kind = Annotated[kind, Field(**rules)]
    if plain is int:
        kind = Annotated[kind, BeforeValidator(_whole)]
    default: dict[str, Any] = {} if field.name in REQUIRED else {"default": None}
    return kind | None if optional else kind, Field(description=field.metadata["meaning"], **default)


def _whole(value: Any) -> Any:
    """JSON has but one kind of number: 1.0 is 1."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


_SPECS: dict[str, Any] = {field.name: _spec(field) for field in fields(Moment)}
MomentIn: Any = create_model("Moment", __base__=Strict, __doc__=Moment.__doc__, **_SPECS)


class PredictRequest(Strict):
    """What is to be predicted."""

    moments: list[MomentIn] = Field(min_length=1, max_length=MOST_MOMENTS, description="One for each arrival.")


class RangeOut(BaseModel):
    """Where the arrival lies as often as is promised."""

    promise: float = Field(description="The share of arrivals.")
    least_delay_seconds: float
    most_delay_seconds: float
    earliest_arrival: datetime
    latest_arrival: datetime


class PredictionOut(BaseModel):
    """What the model says of one moment."""

    vehicle_id: str | None
    trip_id: str | None
    stop_id: str
    delay_seconds: float = Field(description="Actual minus scheduled arrival; positive is late.")
    predicted_arrival: datetime
    interval: RangeOut | None = Field(description="Null where the model was stored without one.")


class PredictResponse(BaseModel):
    """The predictions, in the order of the moments."""

    model_version: str = Field(description="Digest of the bundle that made them.")
    predictions: list[PredictionOut]


class FieldProblem(BaseModel):
    """What is wrong with one field."""

    field: str = Field(description="Where, such as moments.0.stop_id.")
    problem: str


class Problem(BaseModel):
    """Why there is no answer, and what to do."""

    error: str
    fields: list[FieldProblem] = []


def read(body: bytes) -> list[Moment]:
    """The moments of a request's body. Raises pydantic's ValidationError."""
    asked = PredictRequest.model_validate_json(body)
    return [Moment(**one.__dict__) for one in asked.moments]


def problems(error: ValidationError) -> Json:
    """What is wrong with a request, field by field."""
    found = [
        {"field": ".".join(map(str, one["loc"])), "problem": one["msg"]}
        for one in error.errors(include_url=False, include_context=False, include_input=False)
    ]
    return {"error": "The request is not as /openapi.json describes it.", "fields": found}


def is_not_json(error: ValidationError) -> bool:
    """Whether a body could not be read at all."""
    return error.errors(include_url=False, include_context=False, include_input=False)[0]["type"] == "json_invalid"


def written(moments: Sequence[Moment], predictions: Sequence[Prediction]) -> Json:
    """The answer to a request."""
    return {
        "model_version": predictions[0].model_version,
        "predictions": [
            {
                "vehicle_id": moment.vehicle_id,
                "trip_id": moment.trip_id,
                "stop_id": moment.stop_id,
                "delay_seconds": round(one.delay_seconds, 3),
                "predicted_arrival": one.predicted_arrival.isoformat(),
                "interval": one.interval
                and {
                    "promise": one.interval.promise,
                    "least_delay_seconds": round(one.interval.least_delay_seconds, 3),
                    "most_delay_seconds": round(one.interval.most_delay_seconds, 3),
                    "earliest_arrival": one.interval.earliest_arrival.isoformat(),
                    "latest_arrival": one.interval.latest_arrival.isoformat(),
                },
            }
            for moment, one in zip(moments, predictions, strict=True)
        ],
    }


@cache
def openapi() -> Json:
    """The OpenAPI 3.1 description of the service."""
    schemas: Json = {}
    modes: dict[type[BaseModel], Literal["validation", "serialization"]] = {
        PredictRequest: "validation",
        PredictResponse: "serialization",
        Problem: "serialization",
    }
    for model, mode in modes.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}

    def answer(description: str, media: str, schema: Json) -> Json:
        return {"description": description, "content": {media: {"schema": schema}}}

    def ref(name: str) -> Json:
        return {"$ref": f"#/components/schemas/{name}"}

    def problem(description: str) -> Json:
        return answer(description, "application/json", ref("Problem"))

    text, some_object = {"type": "string"}, {"type": "object"}
    unavailable = {"503": problem("There is no model yet.")}
    clock = {
        "name": "time",
        "in": "query",
        "description": "The time of the service day in Boston; without, the busiest of the snapshot.",
        "schema": {"type": "string", "pattern": CLOCK},
        "example": "08:30",
    }
    wrong_clock = {"422": problem("The time is not written as HH:MM.")}
    example = json.loads(MomentIn(**_plain(EXAMPLE)).model_dump_json())
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mbta_assets",
            "version": _version(),
            "description": "How late vehicles of the MBTA will be at the stops ahead of them.",
        },
        "paths": {
            "/": {
                "get": {
                    "operationId": "page",
                    "summary": "A page with the lines, their stations and what is predicted for each",
                    "parameters": [clock],
                    "responses": {
                        "200": answer("The page.", "text/html", text),
                        "422": answer("The time is not written as HH:MM.", "text/html", text),
                        "503": answer("There is no model yet.", "text/html", text),
                    },
                }
            },
            "/predict": {
                "post": {
                    "operationId": "predict",
                    "summary": "Predict delays",
                    "requestBody": {
                        "required": True,
                        "content": {
                            "application/json": {
                                "schema": ref("PredictRequest"),
                                "example": {"moments": [example]},
                            }
                        },
                    },
                    "responses": {
                        "200": answer("The predictions.", "application/json", ref("PredictResponse")),
                        "400": problem("The body is not JSON."),
                        "413": problem(f"The body has more than {MOST_BYTES:,} bytes."),
                        "415": problem("The body is not declared as application/json."),
                        "422": problem("Fields are missing or wrong; each is named."),
                        **unavailable,
                    },
                }
            },
            "/network": {
                "get": {
                    "operationId": "network",
                    "summary": "What the page shows, as JSON",
                    "parameters": [clock],
                    "responses": {
                        "200": answer("Lines, stations, predictions.", "application/json", some_object),
                        **wrong_clock,
                        **unavailable,
                    },
                }
            },
            "/healthz": {
                "get": {
                    "operationId": "health",
                    "summary": "Whether the process is alive",
                    "responses": {"200": answer("It is.", "application/json", some_object)},
                }
            },
            "/readyz": {
                "get": {
                    "operationId": "readiness",
                    "summary": "Whether there is a model to predict with",
                    "responses": {"200": answer("There is.", "application/json", some_object), **unavailable},
                }
            },
            "/metrics": {
                "get": {
                    "operationId": "metrics",
                    "summary": "Metrics for Prometheus",
                    "responses": {"200": answer("In Prometheus's text format.", "text/plain", text)},
                }
            },
            "/openapi.json": {
                "get": {
                    "operationId": "description",
                    "summary": "This description",
                    "responses": {"200": answer("OpenAPI 3.1.", "application/json", some_object)},
                }
            },
        },
        "components": {"schemas": schemas},
    }


def _version() -> str:
    """Of this package; functions may be deployed as plain files, which have none."""
    try:
        return version("mbta_assets")
    except PackageNotFoundError:
        return "0"


def _plain(moment: Moment) -> Json:
    return {field.name: getattr(moment, field.name) for field in fields(moment)}
