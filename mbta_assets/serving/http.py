"""The HTTP function `predict`: a request in, an answer out, and nothing between them but arrays.

functions-framework sends every path to the one function; `_ROUTES` says what there is. Its state is made with the first
request and kept by the process: the model, the page's snapshot, the metrics.
"""

import json
import time
from collections.abc import Callable
from functools import cache
from typing import Any

from flask import Request, Response
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from pydantic import ValidationError

from mbta_assets.gcp import CloudError
from mbta_assets.serving import api, bodies, logs, page
from mbta_assets.serving.network import Network, WrongTime
from mbta_assets.serving.production import production
from mbta_assets.serving.refreshing_cache import Unavailable
from mbta_assets.serving.store import Store
from mbta_assets.settings import Settings

SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of the buckets that answers are counted in by how long they took."""
UNKNOWN = "other"
"""What a path that is not ours is counted as."""


def predict(request: Request) -> Response:
    """The HTTP function: `POST /predict`, and what is there to look at; see `/openapi.json`."""
    return _service().answer(request)


class Service:
    """Answers requests with the production model."""

    def __init__(self, settings: Settings) -> None:
        store = Store.of(settings)
        self._production = production(store, settings.refresh_seconds)
        self._network = Network(store, settings.refresh_seconds)
        self._metrics = Metrics()

    def answer(self, request: Request) -> Response:
        """The answer to a request, whatever it is; what goes wrong is logged and never shown."""
        begun = time.perf_counter()
        try:
            response = self._route(request)
        except Unavailable as error:
            response = _json({"error": str(error), "fields": []}, 503)
            response.headers["Retry-After"] = "5"
        except CloudError as error:
            response = _json({"error": str(error), "fields": []}, 503)
        except bodies.TooLarge as error:
            response = _json({"error": str(error), "fields": []}, 413)
        except bodies.Unreadable as error:
            response = _json({"error": str(error), "fields": []}, 400)
        except Exception as error:
            logs.failure("request failed", error, path=request.path)
            response = _json({"error": "Something went wrong; it has been logged.", "fields": []}, 500)
        seconds = time.perf_counter() - begun
        path = request.path if request.path in _ROUTES else UNKNOWN
        self._metrics.answered(request.method, path, response.status_code, seconds)
        logs.write(
            "INFO" if response.status_code < 500 else "WARNING",
            "answered",
            httpRequest={
                "requestMethod": request.method,
                "requestUrl": request.path,
                "status": response.status_code,
                "latency": f"{seconds:.6f}s",
            },
        )
        return response

    def predict(self, request: Request, body: bytes) -> Response:
        """Delays of the moments in the body."""
        if request.mimetype != "application/json":
            return _json({"error": "Send the body as Content-Type: application/json.", "fields": []}, 415)
        try:
            moments = api.read(body)
        except ValidationError as error:
            return _json(api.problems(error), 400 if api.is_not_json(error) else 422)
        predictor = self._production.get()
        predictions = predictor.predict(moments)
        self._metrics.predictions.inc(len(predictions))
        return _versioned(_json(api.written(moments, predictions)), predictor.version)

    def page(self, request: Request, _: bytes) -> Response:
        """The page, for a time of the service day."""
        try:
            view = self._network.view(self._production.get(), request.args.get("time"))
        except WrongTime as error:
            return _html(page.problem(str(error)), 422)
        except Unavailable as error:
            return _html(page.problem(str(error)), 503)
        return _versioned(_html(page.page(view)), view.model_version)

    def network(self, request: Request, _: bytes) -> Response:
        """What the page shows, as JSON."""
        try:
            view = self._network.view(self._production.get(), request.args.get("time"))
        except WrongTime as error:
            return _json({"error": str(error), "fields": [{"field": "time", "problem": str(error)}]}, 422)
        return _versioned(_json(view.as_json()), view.model_version)

    def ready(self, request: Request, _: bytes) -> Response:
        """Whether there is a model."""
        version = self._production.get().version
        return _versioned(_json({"status": "ready", "model_version": version}), version)

    def healthy(self, request: Request, _: bytes) -> Response:
        """Whether the process is alive."""
        return _json({"status": "alive"})

    def metrics(self, request: Request, _: bytes) -> Response:
        """Metrics in Prometheus's text format."""
        held = self._production.held
        return Response(self._metrics.text(held.version if held else None), content_type=CONTENT_TYPE_LATEST)

    def description(self, request: Request, _: bytes) -> Response:
        """The OpenAPI description."""
        return _json(api.openapi())

    def _route(self, request: Request) -> Response:
        body = bodies.read(request, api.MOST_BYTES)
        if request.path not in _ROUTES:
            return _json({"error": f"There is nothing here; there is {', '.join(_ROUTES)}.", "fields": []}, 404)
        method, handler = _ROUTES[request.path]
        allowed = {"GET": "GET, HEAD, OPTIONS", "POST": "POST, OPTIONS"}[method]
        if request.method == "OPTIONS":
            return Response(status=204, headers={"Allow": allowed})
        if request.method != method and (request.method, method) != ("HEAD", "GET"):
            response = _json({"error": f"{request.path} takes {allowed}.", "fields": []}, 405)
            response.headers["Allow"] = allowed
            return response
        return handler(self, request, body)


class Metrics:
    """What Prometheus is told of one process."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._answers = Counter(
            "mbta_requests", "Requests answered.", ["method", "path", "status"], registry=self._registry
        )
        self._seconds = Histogram(
            "mbta_request_seconds", "Time to an answer.", ["path"], buckets=SECONDS, registry=self._registry
        )
        self.predictions = Counter("mbta_predictions", "Arrivals predicted.", registry=self._registry)
        self._model = Gauge("mbta_model", "1 for the version that is held.", ["version"], registry=self._registry)

    def answered(self, method: str, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self._answers.labels(method if method in METHODS else UNKNOWN, path, str(status)).inc()
        self._seconds.labels(path).observe(seconds)

    def text(self, version: str | None) -> bytes:
        """All of it, with the version that is held."""
        self._model.clear()
        if version:
            self._model.labels(version).set(1)
        return generate_latest(self._registry)


METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
Handler = Callable[[Service, Request, bytes], Response]
_ROUTES: dict[str, tuple[str, Handler]] = {
    "/": ("GET", Service.page),
    "/predict": ("POST", Service.predict),
    "/network": ("GET", Service.network),
    "/healthz": ("GET", Service.healthy),
    "/readyz": ("GET", Service.ready),
    "/metrics": ("GET", Service.metrics),
    "/openapi.json": ("GET", Service.description),
}


@cache
def _service() -> Service:
    return Service(Settings.from_environment())


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, content_type="application/json")


def _html(content: str, status: int = 200) -> Response:
    response = Response(content, status, content_type="text/html; charset=utf-8")
    response.headers["Content-Security-Policy"] = page.POLICY
    return response


def _versioned(response: Response, version: str) -> Response:
    response.headers["X-Model-Version"] = version
    return response
