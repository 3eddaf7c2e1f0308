"""The OpenAPI description of the HTTP function: its paths, and the schemas of the models in `openapi`."""

import json
from dataclasses import fields
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Literal

from pydantic import BaseModel

from mbta_assets.serving import query_rules
from mbta_assets.serving.accuracy_history import DIMENSIONS
from mbta_assets.serving.arrival_query import EXAMPLE_QUERY
from mbta_assets.serving.openapi import (
    CLOCK_TIME_PATTERN,
    MAX_BODY_BYTES,
    ErrorResponse,
    JSONObject,
    PredictRequest,
    PredictResponse,
    QueryModel,
)


def _response(description: str, media_type: str, schema: JSONObject) -> JSONObject:
    """Return the description of a response."""
    return {"description": description, "content": {media_type: {"schema": schema}}}


def _json_response(description: str, schema_name: str | None = None) -> JSONObject:
    """Return the description of a JSON response, of one of the models or any object."""
    schema = {"$ref": f"#/components/schemas/{schema_name}"} if schema_name else {"type": "object"}
    return _response(description, "application/json", schema)


def _text_response(description: str, media_type: str) -> JSONObject:
    """Return the description of a response that is text."""
    return _response(description, media_type, {"type": "string"})


def _error(description: str) -> JSONObject:
    """Return the description of an error response."""
    return _json_response(description, "ErrorResponse")


NO_MODEL = "There is no model yet."
NO_HISTORY = "No service day has been scored yet."
DAMAGED = "The figures cannot be read."
INVALID_TIME = "The time is not written as HH:MM."
TIME_PARAMETER: JSONObject = {
    "name": "time",
    "in": "query",
    "description": "Local time of the service day; by default the time of the snapshot with the most predictions.",
    "schema": {"type": "string", "pattern": CLOCK_TIME_PATTERN},
    "example": "08:30",
}
VEHICLE_PARAMETER: JSONObject = {
    "name": "vehicle",
    "in": "query",
    "description": "Vehicle whose stops ahead are shown, each with its predicted time.",
    "schema": {"type": "string"},
    "example": "R-5483A1B2",
}
EXAMPLE_JSON: JSONObject = json.loads(
    QueryModel(**{spec.name: getattr(EXAMPLE_QUERY, spec.name) for spec in fields(EXAMPLE_QUERY)}).model_dump_json()
)
ENCODING_DESCRIPTION = "The body may be compressed: send it with `Content-Encoding: gzip`."
STORY_DESCRIPTION = """Queries of one request that have the same `service_date`, `trip_id`, `vehicle_id` and \
`time_stamp` are about one report of a vehicle. Their predicted times never run backwards with `stops_ahead`: where \
the model's would, the arrivals are replaced by the nearest ones, by least squares, that do not, and a departure is \
brought forward to the first arrival. Intervals are around the result. So send the queries about a vehicle together. A \
query without a `trip_id` is predicted by itself; no prediction is before `time_stamp`."""
PREDICT_BODY: JSONObject = {
    "required": True,
    "content": {
        "application/json": {
            "schema": {"$ref": "#/components/schemas/PredictRequest"},
            "example": {"queries": [EXAMPLE_JSON]},
        }
    },
}
HISTORY_PARAMETERS: list[JSONObject] = [
    {"name": "by", "in": "query", "schema": {"enum": list(DIMENSIONS)}, "example": "route_id"},
    {"name": "of", "in": "query", "schema": {"type": "string"}, "description": "Member shown by day."},
]
PATHS: dict[str, dict[str, JSONObject]] = {
    "/": {
        "get": {
            "operationId": "page",
            "summary": "Page with the predicted delays of every line and station",
            "parameters": [TIME_PARAMETER, VEHICLE_PARAMETER],
            "responses": {
                "200": _text_response("The page.", "text/html"),
                "422": _text_response(INVALID_TIME, "text/html"),
                "503": _text_response(NO_MODEL, "text/html"),
            },
        }
    },
    "/predict": {
        "post": {
            "operationId": "predict",
            "summary": "Predict delays",
            "description": f"{ENCODING_DESCRIPTION}\n\n{STORY_DESCRIPTION}\n\n{query_rules.DESCRIPTION}",
            "requestBody": PREDICT_BODY,
            "responses": {
                "200": _json_response("The predictions.", "PredictResponse"),
                "400": _error("The body is not JSON, or not what its Content-Encoding says."),
                "413": _error(f"The body has more than {MAX_BODY_BYTES:,} bytes, as sent or decompressed."),
                "415": _error("The content type is not application/json, or the content encoding is not gzip."),
                "422": _error(
                    "Fields are missing or invalid, or break a rule; each is named. Or the stops are of another "
                    "network than the model's."
                ),
                "503": _error(NO_MODEL),
            },
        }
    },
    "/model": {
        "get": {
            "operationId": "model",
            "summary": "Report of the model that predicts: data, results, decisions and limits",
            "responses": {
                "200": _text_response("The report, one page with all that it needs.", "text/html"),
                "404": _text_response("There is no report about the model.", "text/html"),
                "503": _text_response(NO_MODEL, "text/html"),
            },
        }
    },
    "/accuracy": {
        "get": {
            "operationId": "accuracy",
            "summary": "Page of errors over weeks, ours beside the agency's",
            "parameters": HISTORY_PARAMETERS,
            "responses": {
                "200": _text_response("The page.", "text/html"),
                "404": _text_response(NO_HISTORY, "text/html"),
                "422": _text_response("There are no errors by that.", "text/html"),
                "503": _text_response(DAMAGED, "text/html"),
            },
        }
    },
    "/accuracy.json": {
        "get": {
            "operationId": "accuracyAsJson",
            "summary": "Errors over weeks as JSON",
            "parameters": HISTORY_PARAMETERS,
            "responses": {
                "200": _response("Each figure.", "application/json", {"type": "array", "items": {"type": "object"}}),
                "404": _error(NO_HISTORY),
                "422": _error("There are no errors by that."),
                "503": _error(DAMAGED),
            },
        }
    },
    "/accuracy.csv": {
        "get": {
            "operationId": "accuracyAsCsv",
            "summary": "Errors over weeks as CSV",
            "parameters": HISTORY_PARAMETERS,
            "responses": {
                "200": _text_response("Each figure.", "text/csv"),
                "404": _error(NO_HISTORY),
                "422": _error("There are no errors by that."),
                "503": _error(DAMAGED),
            },
        }
    },
    "/network": {
        "get": {
            "operationId": "network",
            "summary": "Content of the page as JSON",
            "parameters": [TIME_PARAMETER, VEHICLE_PARAMETER],
            "responses": {
                "200": _json_response("Lines, stations and predictions."),
                "422": _error(INVALID_TIME),
                "503": _error(NO_MODEL),
            },
        }
    },
    "/healthz": {
        "get": {
            "operationId": "health",
            "summary": "Liveness of the process",
            "responses": {"200": _json_response("The process is alive.")},
        }
    },
    "/readyz": {
        "get": {
            "operationId": "readiness",
            "summary": "Readiness to predict",
            "responses": {"200": _json_response("A model is loaded."), "503": _error(NO_MODEL)},
        }
    },
    "/metrics": {
        "get": {
            "operationId": "metrics",
            "summary": "Metrics for Prometheus",
            "responses": {"200": _text_response("Metrics in Prometheus's text format.", "text/plain")},
        }
    },
    "/openapi.json": {
        "get": {
            "operationId": "description",
            "summary": "This description",
            "responses": {"200": _json_response("OpenAPI 3.1.")},
        }
    },
}


@cache
def build_openapi() -> JSONObject:
    """Return the OpenAPI 3.1 description of the HTTP function."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mbta_assets",
            "version": _package_version(),
            "description": "Predicted delays of transit vehicles at the stops ahead of them.",
        },
        "paths": PATHS,
        "components": {"schemas": _build_schemas()},
    }


def _build_schemas() -> JSONObject:
    """Return the JSON schemas of requests and responses by name."""
    modes: dict[type[BaseModel], Literal["validation", "serialization"]] = {
        PredictRequest: "validation",
        PredictResponse: "serialization",
        ErrorResponse: "serialization",
    }
    schemas: JSONObject = {}
    for model, mode in modes.items():
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}", mode=mode)
        schemas |= schema.pop("$defs", {}) | {model.__name__: schema}
    return schemas


def _package_version() -> str:
    """Return the version of this package, or "0" where it is deployed as plain files without metadata."""
    try:
        return version("mbta_assets")
    except PackageNotFoundError:
        return "0"
