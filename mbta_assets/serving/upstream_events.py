"""The event function `on_upstream_change`: it reports changes of upstream tables to Dagster.

A CloudEvent of Cloud Storage or of BigQuery's audit log is translated into changes of tables, and each change is
reported as an asset observation. An event about anything else is acknowledged; one that Dagster does not accept gives
503, so that it is delivered again. Senders are authorized by MBTA_EVENT_TOKEN, a shared secret, or by Google's identity
tokens (MBTA_EVENT_AUDIENCE, MBTA_EVENT_SENDER, MBTA_EVENT_CHECK); without these settings every event is refused.
"""

import hmac
import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from functools import cache
from typing import Any

import functions_framework
from flask import Request, Response

from mbta_assets.gcp.errors import CloudError
from mbta_assets.serving import logs
from mbta_assets.serving.formats import EVENT_ID_KEY
from mbta_assets.serving.request_body import (
    ACCEPTED_ENCODINGS,
    BodyTooLarge,
    UnreadableBody,
    UnsupportedEncoding,
    decode_body,
    read_body,
)
from mbta_assets.settings import Settings

MAX_BODY_BYTES = 1_000_000
REQUIRED_ATTRIBUTES = ("id", "source", "type")
UPSTREAM_TABLES = ("vehicle", "trip", "stop", "schedule", "agency_predictions")
"""The keys of `transit.schema.SOURCE_TABLES`; that module imports pandas, which is not installed here."""
OBJECT_FINALIZED = "google.cloud.storage.object.v1.finalized"
AUDIT_LOG_WRITTEN = "google.cloud.audit.log.v1.written"
REPORT_TIMEOUT_SECONDS = 10
MAX_LOGGED_RESPONSE_BYTES = 500
BIGQUERY_TABLE_PATTERN = re.compile(r"projects/([^/]+)/datasets/([^/]+)/tables/([^/$]+)(?:\$(\d{8}))?")
DAILY_OBJECT_PATTERN = re.compile(
    rf"(?:.*/)?({'|'.join(UPSTREAM_TABLES)})/service_date=(\d{{4}}-\d{{2}}-\d{{2}})/[^/]+"
)
TABLE_OBJECT_PATTERN = re.compile(rf"(?:.*/)?({'|'.join(UPSTREAM_TABLES)})\.(?:parquet|csv)")
"""Names of objects with one service day and with all of them, as the source `files` lays them out."""
READ_METHOD_PATTERN = re.compile(r"(?:^|\.)(?:get|list|read|create\w*read)\w*$", re.IGNORECASE)
"""Methods of an audit log entry that write nothing, such as BigQueryRead.CreateReadSession."""


class ReportFailed(Exception):
    """Dagster has not accepted a report, so the event must be delivered again; the message says why."""


@dataclass(frozen=True)
class TableChange:
    """A change of an upstream table, in one service day or in days that the event does not name."""

    table: str
    service_date: date | None
    version: str
    """Identifies the changed data: the same event gives the same version."""

    @property
    def partition(self) -> str | None:
        """Return the partition key of the service day."""
        return str(self.service_date) if self.service_date else None


@functions_framework.http
def on_upstream_change(request: Request) -> Response:
    """Handle a CloudEvent that is posted in binary or structured mode."""
    try:
        return _handle(request, _settings())
    except Exception as error:
        logs.write_exception("event failed", error)
        return _json_response(500, error="Internal error; it has been logged.")


def _handle(request: Request, settings: Settings) -> Response:
    """Authorize, parse and report an event."""
    if request.method != "POST":
        response = _json_response(405, error="Post a CloudEvent.")
        response.headers["Allow"] = "POST"
        return response
    refusal = find_refusal_reason(request.headers.get("Authorization", ""), settings)
    if refusal:
        logs.write("WARNING", "event refused", error=refusal)
        response = _json_response(401, error="The sender of this event is not authorized.")
        response.headers["WWW-Authenticate"] = "Bearer"
        return response
    try:
        event = _read_event(request)
        changes = parse_changes(event["type"], event["id"], event["data"], _map_table_names(settings))
    except BodyTooLarge as error:
        return _json_response(413, error=str(error))
    except UnsupportedEncoding as error:
        response = _json_response(415, error=str(error))
        response.headers["Accept-Encoding"] = ACCEPTED_ENCODINGS
        return response
    except UnreadableBody as error:
        return _json_response(400, error=str(error))
    except ValueError as error:
        logs.write("WARNING", "event invalid", error=str(error))
        return _json_response(400, error=str(error))
    return _report_changes(changes, event, settings)


def _report_changes(changes: list[TableChange], event: Mapping[str, Any], settings: Settings) -> Response:
    """Report the changes of an event and return the function's response."""
    if settings.dagster_url is None:
        return _json_response(503, error="MBTA_DAGSTER_URL is not set; it names the webserver to report to.")
    try:
        for change in changes:
            report_change(settings.dagster_url, change, event["id"], event["source"], settings.dagster_audience)
    except ReportFailed as error:
        logs.write("ERROR", "event not reported", error=str(error), event=event["id"])
        return _json_response(503, error="Dagster has not accepted the report; send the event again.")
    reported = [
        {"asset": change.table, "partition": change.partition, "data_version": change.version} for change in changes
    ]
    logs.write("INFO", "event reported" if reported else "event ignored", event=event["id"], reported=reported)
    return _json_response(200, reported=reported)


def _read_event(request: Request) -> dict[str, Any]:
    """Return the required attributes and the data of a CloudEvent. Raises ValueError if it is not one."""
    encoding = request.headers.get("Content-Encoding", "")
    body = decode_body(read_body(request, MAX_BODY_BYTES), encoding, MAX_BODY_BYTES)
    if request.mimetype == "application/cloudevents+json":
        event = _parse_json(body)
        if not isinstance(event, dict):
            raise ValueError("A structured CloudEvent must be a JSON object.")
        event.setdefault("data", None)
    else:
        event = {name: request.headers.get(f"ce-{name}") for name in REQUIRED_ATTRIBUTES}
        event["data"] = _parse_json(body) if body else None
    missing = [name for name in REQUIRED_ATTRIBUTES if not isinstance(event.get(name), str) or not event[name]]
    if missing:
        raise ValueError(f"The request is not a CloudEvent: it has no {', '.join(missing)}.")
    return event


def _parse_json(body: bytes) -> Any:
    """Parse JSON. Raises ValueError, also for JSON that is nested too deeply."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        raise ValueError("The event is not JSON.") from None


def find_refusal_reason(authorization: str, settings: Settings) -> str | None:
    """Return why a sender with this Authorization header is refused, or None if it is authorized."""
    scheme, _, token = authorization.partition(" ")
    if scheme.lower() != "bearer" or not token:
        return "The request has no bearer token."
    if settings.event_token and hmac.compare_digest(token.encode(), settings.event_token.encode()):
        return None
    if settings.event_check == "cloud-run":
        return _find_verified_token_refusal(token, settings.event_sender)
    if settings.event_audience:
        return _find_identity_token_refusal(token, settings.event_audience, settings.event_sender)
    if settings.event_token:
        return "The token is not MBTA_EVENT_TOKEN."
    return "Neither MBTA_EVENT_TOKEN nor MBTA_EVENT_AUDIENCE is set, so every sender is refused."


def _find_identity_token_refusal(token: str, audience: str, sender: str | None) -> str | None:
    """Return why an identity token is refused, or None if Google signed it for the audience and the sender."""
    # Google's libraries take long to import, and a deployment with a shared secret does not need them.
    from mbta_assets.gcp.identity_tokens import verify_identity_token

    try:
        claims = verify_identity_token(token, audience)
    except CloudError as error:
        return f"The identity token is not valid: {error}"
    return _find_sender_refusal(claims, sender)


def _find_verified_token_refusal(token: str, sender: str | None) -> str | None:
    """Return why an identity token is refused that Cloud Run has verified, or None if it is of the sender.

    Cloud Run removes the signature: https://cloud.google.com/run/docs/troubleshooting#signature-removed
    """
    # Google's libraries take long to import, and a deployment with a shared secret does not need them.
    from mbta_assets.gcp.identity_tokens import decode_identity_token

    try:
        claims = decode_identity_token(token)
    except CloudError as error:
        return f"The bearer token is not an identity token: {error}"
    return _find_sender_refusal(claims, sender)


def _find_sender_refusal(claims: Mapping[str, Any], sender: str | None) -> str | None:
    """Return why the claims of a verified token are refused, or None if they are of the sender."""
    if sender is None:
        return "MBTA_EVENT_SENDER is not set; it names the service account that is authorized."
    if claims.get("email") != sender or not claims.get("email_verified"):
        return f"The sender is {claims.get('email')}, not MBTA_EVENT_SENDER."
    return None


def _map_table_names(settings: Settings) -> dict[str, str]:
    """Return the name of each upstream table by its name in BigQuery."""
    dataset = settings.bigquery_upstream_dataset
    names = {}
    for table in UPSTREAM_TABLES:
        name = settings.bigquery_upstream_layout.get(table, {}).get("table", table)
        names[f"{dataset}.{name}" if dataset and "." not in name else name] = table
    return names


def parse_changes(event_type: str, event_id: str, data: Any, table_names: Mapping[str, str]) -> list[TableChange]:
    """Return the changes of upstream tables that an event describes; an unrelated event has none.

    `table_names` has the name of an upstream table by its name in BigQuery: `table`, `dataset.table` or
    `project.dataset.table`. Raises ValueError if the data lacks what Google documents for the event's type.
    """
    if event_type not in (OBJECT_FINALIZED, AUDIT_LOG_WRITTEN):
        return []
    if not isinstance(data, dict):
        raise ValueError(f"An event of type {event_type} needs an object as its data.")
    if event_type == OBJECT_FINALIZED:
        return list(_parse_object_event(data))
    return list(_parse_audit_log(event_id, data, table_names))


def _parse_object_event(data: Mapping[str, Any]) -> Iterator[TableChange]:
    """Yield the change of a finalized object whose name is that of an upstream table."""
    bucket, name, generation = (data.get(key) for key in ("bucket", "name", "generation"))
    if not (isinstance(bucket, str) and isinstance(name, str) and isinstance(generation, str | int)):
        raise ValueError("The data of an object needs bucket, name and generation.")
    version = f"gs://{bucket}/{name}#{generation}"
    if match := DAILY_OBJECT_PATTERN.fullmatch(name):
        yield TableChange(match[1], _parse_service_date(match[2]), version)
    elif match := TABLE_OBJECT_PATTERN.fullmatch(name):
        yield TableChange(match[1], None, version)


def _parse_audit_log(event_id: str, data: Mapping[str, Any], table_names: Mapping[str, str]) -> Iterator[TableChange]:
    """Yield the changes of upstream tables that an audit log entry of BigQuery describes."""
    payload = data.get("protoPayload")
    if not isinstance(payload, dict):
        raise ValueError("The data of an audit log entry needs protoPayload.")
    matches = map(BIGQUERY_TABLE_PATTERN.fullmatch, _iter_written_resources(payload))
    for project, dataset, name, day in sorted({match.groups() for match in matches if match}, key=str):
        qualified_names = (f"{project}.{dataset}.{name}", f"{dataset}.{name}", name)
        table = next((table_names[key] for key in qualified_names if key in table_names), None)
        if table:
            partition = f"${day}" if day else ""
            version = f"bigquery://{qualified_names[0]}{partition}#{data.get('insertId', event_id)}"
            service_date = _parse_service_date(f"{day[:4]}-{day[4:6]}-{day[6:]}") if day else None
            yield TableChange(table, service_date, version)


def _iter_written_resources(payload: Mapping[str, Any]) -> Iterator[str]:
    """Yield the resources that an audit log entry reports as written; entries of reads and unfinished jobs have none.

    https://cloud.google.com/bigquery/docs/reference/auditlogs/rest/Shared.Types/BigQueryAuditMetadata
    """
    metadata = _get_object(payload, "metadata")
    is_read = "tableDataRead" in metadata or READ_METHOD_PATTERN.search(str(payload.get("methodName", "")))
    if not is_read:
        yield str(payload.get("resourceName", ""))
    job = _get_object(metadata, "jobChange", "job")
    status = _get_object(job, "jobStatus")
    if status.get("jobState") == "DONE" and not status.get("errorResult"):
        for kind in ("loadConfig", "queryConfig", "tableCopyConfig"):
            yield str(_get_object(job, "jobConfig", kind).get("destinationTable", ""))


def _get_object(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """Return the JSON object at a path of keys, or an empty one if there is none."""
    for key in keys:
        value = content.get(key)
        content = value if isinstance(value, dict) else {}
    return content


def _parse_service_date(text: str) -> date:
    """Convert YYYY-MM-DD to a date. Raises ValueError."""
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is not a service date.") from None


def report_change(dagster_url: str, change: TableChange, event_id: str, source: str, audience: str | None) -> None:
    """Report a change to Dagster as an observation of the table's asset. Raises ReportFailed.

    The request carries an identity token for `audience`, which a webserver behind IAM requires, unless that is None.
    """
    observation = {
        "data_version": change.version,
        "partition": change.partition,
        "description": f"{change.version} changed upstream.",
        "metadata": {EVENT_ID_KEY: event_id, "event_source": source},
    }
    url = f"{dagster_url.rstrip('/')}/report_asset_observation/{change.table}"
    headers = {"Content-Type": "application/json"}
    if audience:
        headers["Authorization"] = f"Bearer {_fetch_identity_token(audience)}"
    request = urllib.request.Request(url, json.dumps(observation).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=REPORT_TIMEOUT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        content = error.read(MAX_LOGGED_RESPONSE_BYTES).decode(errors="replace")
        remedy = _NOT_AUTHORIZED if error.code in (401, 403) else _NOT_ACCEPTED
        raise ReportFailed(f"Dagster at {dagster_url} answered {error.code}: {content} {remedy}") from error
    except OSError as error:
        raise ReportFailed(f"Dagster at {dagster_url} does not answer: {error}. See MBTA_DAGSTER_URL.") from error


def _fetch_identity_token(audience: str) -> str:
    """Return an identity token of this process's service account. Raises ReportFailed."""
    # Google's libraries take long to import, and only a webserver behind IAM needs a token.
    from mbta_assets.gcp.identity_tokens import fetch_identity_token

    try:
        return fetch_identity_token(audience)
    except CloudError as error:
        raise ReportFailed(
            f"{error} MBTA_DAGSTER_AUDIENCE requires one: run on Google Cloud with a service account, or set "
            "GOOGLE_APPLICATION_CREDENTIALS to its key file."
        ) from error


_NOT_AUTHORIZED = (
    "Behind IAM, MBTA_DAGSTER_AUDIENCE must be the webserver's address, and this service account needs "
    "roles/run.invoker on it."
)
_NOT_ACCEPTED = "A webserver that was started with --read-only takes no reports; use one that was not."


def _json_response(status: int, **content: Any) -> Response:
    """Return a JSON response."""
    return Response(json.dumps(content), status, content_type="application/json")


@cache
def _settings() -> Settings:
    """Return the settings, read from the environment on the first call."""
    return Settings.from_environment()
