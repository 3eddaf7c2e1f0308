"""The HTTP interface of live predictions, a WSGI application.

What it answers with is made in `state`; the threads that serve it are started by whoever uses it.
"""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from werkzeug.wrappers import Request, Response

from mbta_assets.serving import logs
from mbta_assets.serving.live.page import render_live_page
from mbta_assets.serving.live.publication import StopPrediction, TripPrediction
from mbta_assets.serving.live.state import RECORDS, Content, LiveState, Published

CACHE_CONTROL = "public, max-age=5"
REVALIDATED = "no-cache"
"""Value of Cache-Control with which a browser asks each time whether there is another version."""
RETRY_AFTER_SECONDS = "5"
PATHS = (
    "/", "/tripupdates.pb", "/tripupdates.json", "/vehicles", "/vehicles/<id>", "/stops/<id>", "/trips.json",
    "/network.json", "/healthz", "/readyz", "/metrics",
)  # fmt: skip


class LiveApp:
    """Answers requests from the latest publication, which is in memory."""

    def __init__(self, state: LiveState) -> None:
        self._state = state
        self._handlers: dict[str, Callable[[Request, str], Response]] = {
            "": self._get_page,
            "tripupdates.pb": self._get_protobuf,
            "tripupdates.json": self._get_json,
            "vehicles": self._get_vehicles,
            "stops": self._get_stop,
            "trips.json": self._get_trips,
            "network.json": self._get_network,
            "healthz": self._get_health,
            "readyz": self._get_readiness,
            "metrics": self._get_metrics,
        }

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        """Answer a request. Unexpected errors are logged and give 500."""
        request = Request(environ)
        name, _, rest = request.path.lstrip("/").partition("/")
        handler = self._handlers.get(name)
        if handler is None or (rest and name not in ("vehicles", "stops")):
            name, response = "other", _error(f"There is no {request.path}; the paths are {', '.join(PATHS)}.", 404)
        elif request.method not in ("GET", "HEAD"):
            response = _error(f"{request.path} does not accept {request.method}; it accepts GET, HEAD.", 405)
            response.headers["Allow"] = "GET, HEAD"
        else:
            try:
                response = handler(request, rest)
            except Exception as error:
                logs.write_exception("request failed", error, path=request.path)
                response = _error("Internal error; it has been logged.", 500)
        self._state.requests.labels(f"/{name}", str(response.status_code)).inc()
        return response(environ, start_response)

    def _get_page(self, request: Request, _: str) -> Response:
        page = render_live_page()
        response = Response(page.html, content_type="text/html; charset=utf-8")
        response.headers |= {"Content-Security-Policy": page.content_security_policy, "Cache-Control": REVALIDATED}
        response.set_etag(page.etag)
        response.make_conditional(request)
        return response

    def _get_protobuf(self, request: Request, _: str) -> Response:
        published = self._state.published
        return _unpublished() if published is None else _serve(request, published.protobuf, published)

    def _get_json(self, request: Request, _: str) -> Response:
        published = self._state.published
        return _unpublished() if published is None else _serve(request, published.json, published)

    def _get_vehicles(self, request: Request, vehicle_id: str) -> Response:
        """Return a vehicle with its stops ahead, or without an id all vehicles without them."""
        published = self._state.published
        if published is None:
            return _unpublished()
        if not vehicle_id:
            rows = [_describe_trip(trip) for trip in published.publication.trips]
            return _json({**self._describe(published), "vehicles": rows})
        trip = published.trips_by_vehicle.get(vehicle_id)
        if trip is None:
            return _error(f"There is no prediction for a vehicle {vehicle_id!r} now; /vehicles lists all.", 404)
        stops = [_describe_stop(stop) for stop in trip.stops]
        return _json({**self._describe(published), **_describe_trip(trip), "stops": stops})

    def _get_stop(self, request: Request, stop_id: str) -> Response:
        """Return the next arrivals and departures at a stop or a station."""
        published = self._state.published
        if published is None:
            return _unpublished()
        if stop_id not in published.places:
            return _error(f"There is no stop or station {stop_id!r} in the timetable.", 404)
        rows = [
            {**_describe_trip(trip), **_describe_stop(stop)} for trip, stop in published.events_by_stop.get(stop_id, ())
        ]
        return _json({**self._describe(published), "stop_id": stop_id, "predictions": rows})

    def _get_network(self, request: Request, _: str) -> Response:
        """Return the view of a route, which the page shows."""
        published = self._state.published
        if published is None:
            return _unpublished()
        notices = [self._state.notice] if self._state.notice else []
        view = published.view(request.args.get("route"), [*notices, *self._state.list_problems()])
        response = _serve(request, view, published)
        response.headers["Cache-Control"] = REVALIDATED
        age = self._state.clock() - published.publication.made_at
        response.headers["X-Age-Seconds"] = f"{max(age.total_seconds(), 0.0):.1f}"
        return response

    def _get_trips(self, request: Request, _: str) -> Response:
        """Return all trips with their stops ahead."""
        published = self._state.published
        if published is None:
            return _unpublished()
        trips = [
            {**_describe_trip(trip), "stops": [_describe_stop(stop) for stop in trip.stops]}
            for trip in published.publication.trips
        ]
        return _json({**self._describe(published), "trips": trips})

    def _get_health(self, request: Request, _: str) -> Response:
        return _json({"status": "alive"})

    def _get_readiness(self, request: Request, _: str) -> Response:
        """Return 503 if the feed should not be relied on, else 200, both with what is wrong."""
        problems = self._state.find_problems()
        is_ready = problems.keys() <= RECORDS
        reasons = {"problems": list(problems.values())} if problems else {}
        status = {"status": "ready" if is_ready else "not ready", **reasons}
        return _json(status, 200 if is_ready else 503)

    def _get_metrics(self, request: Request, _: str) -> Response:
        return Response(generate_latest(self._state.registry), content_type=CONTENT_TYPE_LATEST)

    def _describe(self, published: Published) -> dict[str, Any]:
        """Return what a publication is."""
        publication = published.publication
        return {
            "made_at": publication.made_at.isoformat(),
            "feed_time": _format(publication.feed_time),
            "feed_age_seconds": self._state.feed_age_seconds,
            "model_version": publication.model_version,
            "confidence_level": publication.confidence_level,
        }


def _serve(request: Request, content: Content, published: Published) -> Response:
    """Return prepared content, or 304 if the client has it."""
    response = Response(content.body, content_type=content.content_type)
    response.set_etag(content.etag)
    response.last_modified = published.publication.made_at
    response.headers["Cache-Control"] = CACHE_CONTROL
    response.headers["X-Model-Version"] = published.publication.model_version
    response.make_conditional(request)
    response.headers.pop("Date", None)  # the server adds its own
    return response


def _json(content: Any, status: int = 200) -> Response:
    return Response(json.dumps(content, allow_nan=False), status, content_type="application/json")


def _error(message: str, status: int) -> Response:
    return _json({"error": message}, status)


def _unpublished() -> Response:
    response = _error("Nothing has been published yet; /readyz says why.", 503)
    response.headers["Retry-After"] = RETRY_AFTER_SECONDS
    return response


def _describe_trip(trip: TripPrediction) -> dict[str, Any]:
    """Return a trip without its stops as JSON."""
    return {
        "service_date": str(trip.service_date),
        "trip_id": trip.trip_id,
        "route_id": trip.route_id,
        "direction_id": trip.direction_id,
        "vehicle_id": trip.vehicle_id,
        "reported_at": trip.reported_at.isoformat(),
        "latitude": trip.latitude,
        "longitude": trip.longitude,
        "current_status": trip.current_status,
        "current_stop_id": trip.current_stop_id,
        "current_stop_sequence": trip.current_stop_sequence,
    }


def _describe_stop(stop: StopPrediction) -> dict[str, Any]:
    """Return the prediction for a stop visit as JSON."""
    return {
        "stop_id": stop.stop_id,
        "stop_sequence": stop.stop_sequence,
        "event": stop.event,
        "scheduled": stop.scheduled.isoformat(),
        "predicted": stop.predicted.isoformat(),
        "delay_seconds": stop.delay_seconds,
        "earliest": _format(stop.earliest),
        "latest": _format(stop.latest),
    }


def _format(time: datetime | None) -> str | None:
    """Return a time in ISO 8601."""
    return None if time is None else time.isoformat()
