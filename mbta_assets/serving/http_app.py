"""The HTTP function `predict`: routing, responses, errors, metrics and request logs.

functions-framework sends every path to this one function, which dispatches by `ROUTES`. The model, the page's data and
the metrics are created with the first request of a process and kept by it. Where there is no model, or the settings
are wrong, the process lives and says so: `/healthz` answers 200, whatever needs a model 503. The JSON of requests and
responses is defined in `openapi`, the reading of bodies in `request_body`.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Self

from flask import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError
from pydantic_core import to_json

from mbta_assets.gcp.errors import CloudError
from mbta_assets.ml.inference.transit_network import ForeignNetwork
from mbta_assets.serving import accuracy_history, logs, openapi, page
from mbta_assets.serving.accuracy_history import AccuracyHistory, InvalidDimension, NoHistory
from mbta_assets.serving.model_source import ModelSource, UnusableSource, configured_model_source
from mbta_assets.serving.openapi import InvalidQueries
from mbta_assets.serving.openapi_description import build_openapi
from mbta_assets.serving.page import InvalidTime, NetworkOverview, NetworkView
from mbta_assets.serving.predictor import make_predictor_cache
from mbta_assets.serving.refreshing_cache import LoadError, Unavailable
from mbta_assets.serving.request_body import (
    ACCEPTED_ENCODINGS,
    BodyTooLarge,
    UnreadableBody,
    UnsupportedEncoding,
    decode_body,
    read_body,
)
from mbta_assets.settings import Settings, SettingsError
from mbta_assets.storage.bundle import BundleError
from mbta_assets.storage.reports import ACCURACY_HISTORY, name_model_report

RETRY_AFTER_SECONDS = 5
LATENCY_BUCKETS_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
NO_REPORT = "There is no report about this model: it is made when a model is promoted by the asset production_model."
OTHER = "other"
"""Label of unknown methods and paths in metrics, which limits the number of time series."""


def predict(request: Request) -> Response:
    """Handle a request of the HTTP function; `/openapi.json` describes its paths."""
    return _app().handle(request)


class HttpApp:
    """The request handlers, and the model, page data and metrics they share."""

    def __init__(self, source: ModelSource, refresh_seconds: float) -> None:
        self._source = source
        self._predictors = make_predictor_cache(source, refresh_seconds)
        self._overview = NetworkOverview(source, refresh_seconds)
        self._metrics = RequestMetrics()

    @classmethod
    def from_environment(cls) -> Self:
        """Return the app of the environment's settings; with wrong ones, an app that has no model and says why."""
        refresh_seconds = float(Settings.model_fields["refresh_seconds"].default)
        try:
            settings = Settings.from_environment()
            refresh_seconds = settings.refresh_seconds
            source = configured_model_source(settings)
        except (SettingsError, BundleError, CloudError) as error:
            logs.write_exception("settings not usable", error)
            source = UnusableSource(str(error))
        return cls(source, refresh_seconds)

    def handle(self, request: Request) -> Response:
        """Return the response to any request, and count and log it. Unexpected errors are logged and give 500."""
        started_at = time.perf_counter()
        try:
            response = self._dispatch(request)
        except Unavailable as error:
            response = _json_response(openapi.format_error(str(error)), 503)
            response.headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
        except (BundleError, CloudError) as error:
            response = _json_response(openapi.format_error(str(error)), 503)
        except BodyTooLarge as error:
            response = _json_response(openapi.format_error(str(error)), 413)
        except UnsupportedEncoding as error:
            response = _json_response(openapi.format_error(str(error)), 415)
            response.headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
        except UnreadableBody as error:
            response = _json_response(openapi.format_error(str(error)), 400)
        except Exception as error:
            logs.write_exception("request failed", error, path=request.path)
            response = _json_response(openapi.format_error("Internal error; it has been logged."), 500)
        self._record(request, response, time.perf_counter() - started_at)
        return response

    def post_predict(self, request: Request, body: bytes) -> Response:
        """Return the predictions for the queries in the body."""
        if request.mimetype != "application/json":
            return _json_response(openapi.format_error("Send the body as Content-Type: application/json."), 415)
        encoding = request.headers.get("Content-Encoding", "")
        try:
            queries = openapi.parse_queries(decode_body(body, encoding, openapi.MAX_BODY_BYTES))
        except InvalidQueries as error:
            return _json_response(openapi.format_invalid_fields(error.field_messages), 422)
        except ValidationError as error:
            status = 400 if openapi.is_invalid_json(error) else 422
            return _json_response(openapi.format_validation_error(error), status)
        predictor = self._predictors.get()
        try:
            predictions = predictor.predict(queries)
        except ForeignNetwork as error:
            return _with_version(_json_response(openapi.format_error(str(error)), 422), predictor.version)
        self._metrics.predictions.inc(len(predictions))
        return _with_version(_json_response(openapi.format_predictions(queries, predictions)), predictor.version)

    def get_page(self, request: Request, _: bytes) -> Response:
        """Return the page for a time of the service day."""
        try:
            view = self._build_view(request)
        except InvalidTime as error:
            return _html_response(page.render_error_page(str(error)), 422)
        except Unavailable as error:
            return _html_response(page.render_error_page(str(error)), 503)
        return _with_version(_html_response(page.render_page(view)), view.model_version)

    def get_network(self, request: Request, _: bytes) -> Response:
        """Return the content of the page as JSON."""
        try:
            view = self._build_view(request)
        except InvalidTime as error:
            return _json_response(openapi.format_error(str(error), [("time", str(error))]), 422)
        return _with_version(_json_response(view.to_json()), view.model_version)

    def get_model(self, request: Request, _: bytes) -> Response:
        """Return the report of the model that predicts."""
        try:
            version = self._predictors.get().version
            report = self._source.read_report(name_model_report(version))
        except (Unavailable, BundleError) as error:
            return _html_response(page.render_error_page(str(error)), 503)
        if report is None:
            return _with_version(_html_response(page.render_error_page(NO_REPORT), 404), version)
        return _with_version(_html_response(report), version)

    def get_accuracy_page(self, request: Request, _: bytes) -> Response:
        """Return the page of errors over weeks."""
        try:
            view = accuracy_history.build_view(self._read_history(), request.args.get("by"), request.args.get("of"))
        except InvalidDimension as error:
            return _html_response(accuracy_history.render_error_page(str(error)), 422)
        except NoHistory as error:
            return _html_response(accuracy_history.render_error_page(str(error)), 404)
        except (Unavailable, BundleError) as error:
            return _html_response(accuracy_history.render_error_page(str(error)), 503)
        return _html_response(accuracy_history.render_page(view))

    def get_accuracy_json(self, request: Request, _: bytes) -> Response:
        """Return errors over weeks as JSON."""
        return self._send_history(request, "application/json", AccuracyHistory.to_json)

    def get_accuracy_csv(self, request: Request, _: bytes) -> Response:
        """Return errors over weeks as CSV."""
        return self._send_history(request, "text/csv; charset=utf-8", AccuracyHistory.to_csv)

    def _send_history(self, request: Request, content_type: str, write: Callable[[AccuracyHistory], str]) -> Response:
        """Return errors over weeks as text, all of them or those of the page. Raises Unavailable or BundleError."""
        try:
            history = self._read_history().select(request.args.get("by"), request.args.get("of"))
            return Response(write(history), content_type=content_type)
        except InvalidDimension as error:
            return _json_response(openapi.format_error(str(error), [("by", str(error))]), 422)
        except NoHistory as error:
            return _json_response(openapi.format_error(str(error)), 404)

    def _read_history(self) -> AccuracyHistory:
        """Return the errors of the latest service days. Raises NoHistory, Unavailable or BundleError."""
        content = self._source.read_report(ACCURACY_HISTORY)
        if content is None:
            raise NoHistory
        try:
            return AccuracyHistory.parse(content)
        except LoadError as error:
            raise Unavailable(str(error)) from error

    def _build_view(self, request: Request) -> NetworkView:
        """Return the content of the page for the time and the vehicle of a request. Raises InvalidTime, Unavailable."""
        return self._overview.build_view(
            self._predictors.get(), request.args.get("time"), request.args.get("vehicle") or None
        )

    def get_readiness(self, request: Request, _: bytes) -> Response:
        """Return 200 with the model version if there is a model to predict with. Raises Unavailable."""
        version = self._predictors.get().version
        return _with_version(_json_response({"status": "ready", "model_version": version}), version)

    def get_health(self, request: Request, _: bytes) -> Response:
        """Return 200, as the process is alive."""
        return _json_response({"status": "alive"})

    def get_metrics(self, request: Request, _: bytes) -> Response:
        """Return the metrics of this process in Prometheus's text format."""
        predictor = self._predictors.value
        content = self._metrics.render(None if predictor is None else predictor.version)
        return Response(content, content_type=CONTENT_TYPE_LATEST)

    def get_openapi(self, request: Request, _: bytes) -> Response:
        """Return the OpenAPI description."""
        return _json_response(build_openapi())

    def _dispatch(self, request: Request) -> Response:
        """Read the body and call the handler of the path and method, or return 404 or 405."""
        body = read_body(request, openapi.MAX_BODY_BYTES)
        route = ROUTES.get(request.path)
        if route is None:
            message = f"There is no {request.path}; the paths are {', '.join(ROUTES)}."
            return _json_response(openapi.format_error(message), 404)
        if request.method == "OPTIONS":
            return Response(status=204, headers={"Allow": route.allow})
        if request.method not in route.methods:
            message = f"{request.path} does not accept {request.method}; it accepts {route.allow}."
            response = _json_response(openapi.format_error(message), 405)
            response.headers["Allow"] = route.allow
            return response
        return route.handler(self, request, body)

    def _record(self, request: Request, response: Response, seconds: float) -> None:
        """Count a response and write its log entry."""
        path = request.path if request.path in ROUTES else OTHER
        self._metrics.observe(request.method, path, response.status_code, seconds)
        logs.write(
            "INFO" if response.status_code < 500 else "WARNING",
            "request handled",
            httpRequest={
                "requestMethod": request.method,
                "requestUrl": request.path,
                "status": response.status_code,
                "latency": f"{seconds:.6f}s",
            },
        )


class RequestMetrics:
    """The Prometheus metrics of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ["method", "path", "status"]
        self._requests = Counter("mbta_requests", "Handled requests.", labels, registry=self._registry)
        self._latency = Histogram(
            "mbta_request_seconds",
            "Time to the response.",
            ["path"],
            buckets=LATENCY_BUCKETS_SECONDS,
            registry=self._registry,
        )
        self.predictions = Counter("mbta_predictions", "Predicted arrivals.", registry=self._registry)
        self._model = Gauge("mbta_model", "1 for the loaded model version.", ["version"], registry=self._registry)
        self._find_series = cache(self._make_series)

    def observe(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count a response and its latency."""
        requests, latency = self._find_series(method if method in METHODS else OTHER, path, status)
        requests.inc()
        latency.observe(seconds)

    def _make_series(self, method: str, path: str, status: int) -> tuple[Counter, Histogram]:
        """Return the time series that count the responses of these labels, and their latency."""
        return self._requests.labels(method, path, str(status)), self._latency.labels(path)

    def render(self, version: str | None) -> bytes:
        """Return all metrics as text, with the version of the loaded model."""
        self._model.clear()
        if version:
            self._model.labels(version).set(1)
        return generate_latest(self._registry)


@dataclass(frozen=True)
class Route:
    """The handler of a path and the methods it accepts besides OPTIONS."""

    methods: tuple[str, ...]
    handler: Callable[[HttpApp, Request, bytes], Response]

    @property
    def allow(self) -> str:
        """Return the value of the Allow header."""
        return ", ".join((*self.methods, "OPTIONS"))


READ = ("GET", "HEAD")
ROUTES = {
    "/": Route(READ, HttpApp.get_page),
    "/predict": Route(("POST",), HttpApp.post_predict),
    "/model": Route(READ, HttpApp.get_model),
    "/network": Route(READ, HttpApp.get_network),
    "/accuracy": Route(READ, HttpApp.get_accuracy_page),
    "/accuracy.json": Route(READ, HttpApp.get_accuracy_json),
    "/accuracy.csv": Route(READ, HttpApp.get_accuracy_csv),
    "/healthz": Route(READ, HttpApp.get_health),
    "/readyz": Route(READ, HttpApp.get_readiness),
    "/metrics": Route(READ, HttpApp.get_metrics),
    "/openapi.json": Route(READ, HttpApp.get_openapi),
}


@cache
def _app() -> HttpApp:
    """Return the process's app, created from the environment on the first call."""
    return HttpApp.from_environment()


def _json_response(content: Any, status: int = 200) -> Response:
    """Return a JSON response, with null for a number that JSON does not have, such as NaN."""
    return Response(to_json(content, inf_nan_mode="null"), status, content_type="application/json")


def _html_response(content: str | bytes, status: int = 200) -> Response:
    """Return an HTML response that lets the browser load nothing else."""
    response = Response(content, status, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = page.CONTENT_SECURITY_POLICY
    return response


def _with_version(response: Response, version: str) -> Response:
    """Add the header with the model version to a response."""
    response.headers["X-Model-Version"] = version
    return response
