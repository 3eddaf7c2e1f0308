"""The event function `on_upstream_change`: an upstream event in, an observation in Dagster out.

Who may send events is said by MBTA_EVENT_TOKEN, a secret that they carry, or by MBTA_EVENT_AUDIENCE and
MBTA_EVENT_SENDER, which Google's identity tokens must be for and from; with none set nobody may. Where Cloud Run's IAM
has verified the token it hands it on without its signature: with MBTA_EVENT_CHECK=cloud-run only its sender is looked
at here. An event that is about nothing here is acknowledged, lest it be sent again; one that Dagster could not be told
of is not, so that it is.
"""

import hmac
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

import functions_framework
from flask import Request, Response

from mbta_assets.serving import bodies, logs
from mbta_assets.serving.reporting import TABLES, NotReported, changes, report
from mbta_assets.settings import Settings

MOST_BYTES = 1_000_000
NEEDED = ("id", "source", "type")
"""What every CloudEvent has."""


@functions_framework.http
def on_upstream_change(request: Request) -> Response:
    """The event function: takes a CloudEvent by POST, binary or structured."""
    try:
        return _answer(request, _settings())
    except Exception as error:
        logs.failure("event failed", error)
        return _said(500, error="Something went wrong; it has been logged.")


def _answer(request: Request, settings: Settings) -> Response:
    if request.method != "POST":
        response = _said(405, error="Post a CloudEvent.")
        response.headers["Allow"] = "POST"
        return response
    refused = refusal(request.headers.get("Authorization", ""), settings)
    if refused:
        logs.write("WARNING", "event refused", problem=refused)
        response = _said(401, error="The sender of this event is not let in.")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    try:
        event = _event(request)
        found = changes(event["type"], event["id"], event["data"], _tables(settings))
    except bodies.TooLarge as error:
        return _said(413, error=str(error))
    except bodies.Unreadable as error:
        return _said(400, error=str(error))
    except ValueError as error:
        logs.write("WARNING", "event not understood", problem=str(error))
        return _said(400, error=str(error))
    if settings.dagster_url is None:
        return _said(503, error="MBTA_DAGSTER_URL is not set: there is nobody to report to.")
    try:
        for change in found:
            report(settings.dagster_url, change, event["id"], event["source"], settings.dagster_audience)
    except NotReported as error:
        logs.write("ERROR", "event not reported", problem=str(error), event=event["id"])
        return _said(503, error="Dagster could not be told; send the event again.")
    told = [{"asset": one.table, "partition": one.partition, "data_version": one.version} for one in found]
    logs.write("INFO", "event reported" if told else "event ignored", event=event["id"], reported=told)
    return _said(200, reported=told)


def _event(request: Request) -> dict[str, Any]:
    """The attributes and the data of a CloudEvent. Raises ValueError."""
    body = bodies.read(request, MOST_BYTES)
    if request.mimetype == "application/cloudevents+json":
        event = _json(body)
        if not isinstance(event, dict):
            raise ValueError("A structured CloudEvent is a JSON object.")
        event.setdefault("data", None)
    else:
        event = {name: request.headers.get(f"ce-{name}") for name in NEEDED}
        event["data"] = _json(body) if body else None
    lacking = [name for name in NEEDED if not isinstance(event.get(name), str) or not event[name]]
    if lacking:
        raise ValueError(f"This is no CloudEvent: it lacks {', '.join(lacking)}.")
    return event


def _json(body: bytes) -> Any:
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The event is not JSON.") from None


def refusal(authorization: str, settings: Settings) -> str | None:
    """Why whoever carries this is not let in; None where it is."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        return "It carries no bearer token."
    if settings.event_token and hmac.compare_digest(token.encode(), settings.event_token.encode()):
        return None
    if settings.event_check == "cloud-run":
        return _verified_refusal(token, settings.event_sender)
    if settings.event_audience:
        return _identity_refusal(token, settings.event_audience, settings.event_sender)
    if settings.event_token:
        return "Its token is another one."
    return "Neither MBTA_EVENT_TOKEN nor MBTA_EVENT_AUDIENCE is set: nobody is let in."


def _identity_refusal(token: str, audience: str, sender: str | None) -> str | None:
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request as Transport
    from google.oauth2 import id_token

    try:
        claims = id_token.verify_oauth2_token(token, Transport(), audience)
    except (ValueError, GoogleAuthError) as error:
        return f"Its identity token is not valid: {error}"
    return _sender_refusal(claims, sender)


def _verified_refusal(token: str, sender: str | None) -> str | None:
    from google.auth import jwt
    from google.auth.exceptions import GoogleAuthError

    try:
        claims = jwt.decode(token, verify=False)  # https://cloud.google.com/run/docs/troubleshooting#signature-removed
    except (ValueError, GoogleAuthError) as error:
        return f"It carries no identity token: {error}"
    return _sender_refusal(claims, sender)


def _sender_refusal(claims: Mapping[str, Any], sender: str | None) -> str | None:
    if sender is None:
        return "MBTA_EVENT_SENDER is not set: it is not known whose identity to let in."
    if claims.get("email") != sender or not claims.get("email_verified"):
        return f"It comes from {claims.get('email')}."
    return None


def _tables(settings: Settings) -> dict[str, str]:
    """By what a table is called in BigQuery, what it is here."""
    dataset = settings.bigquery_upstream_dataset
    tables = {}
    for table in TABLES:
        name = settings.bigquery_upstream_layout.get(table, {}).get("table", table)
        tables[f"{dataset}.{name}" if dataset and "." not in name else name] = table
    return tables


def _said(status: int, **content: Any) -> Response:
    return Response(json.dumps(content), status, content_type="application/json")


@cache
def _settings() -> Settings:
    return Settings.from_environment()
