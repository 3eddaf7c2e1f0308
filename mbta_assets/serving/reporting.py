"""What an upstream event says has changed, and how that is reported to Dagster."""

import json
import re
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

TABLES = ("vehicle", "trip", "stop", "schedule")
"""The upstream tables, as in `transit.schema`, which is not imported here for it needs pandas."""
EVENT_ID = "cloud_event"
"""The metadata of an observation that names the event it comes from."""
FINALIZED = "google.cloud.storage.object.v1.finalized"
AUDITED = "google.cloud.audit.log.v1.written"
TIMEOUT_SECONDS = 10
TABLE_NAME = re.compile(r"projects/([^/]+)/datasets/([^/]+)/tables/([^/$]+)(?:\$(\d{8}))?")
OF_ONE_DAY = re.compile(rf"(?:.*/)?({'|'.join(TABLES)})/service_date=(\d{{4}}-\d{{2}}-\d{{2}})/[^/]+")
OF_ALL_DAYS = re.compile(rf"(?:.*/)?({'|'.join(TABLES)})\.(?:parquet|csv)")
"""Names of objects, laid out as the `files` source reads them."""


class NotReported(Exception):
    """Dagster could not be told; the message says why. The event is to be sent again."""


@dataclass(frozen=True)
class Change:
    """A table that is another one now, on one service day or on days that the event does not tell."""

    table: str
    service_date: date | None
    version: str
    """Of what changed: the same event says the same, another one something else."""

    @property
    def partition(self) -> str | None:
        """Dagster's key of the service day."""
        return str(self.service_date) if self.service_date else None


def changes(event_type: str, event_id: str, data: Any, tables: Mapping[str, str]) -> list[Change]:
    """What an event says has changed; nothing where it is about something else.

    `tables` has by the name of a BigQuery table, as `table` or `dataset.table` or `project.dataset.table`, the one
    it is here. Raises ValueError where an event of these types is not as Google describes it.
    """
    if not isinstance(data, dict):
        if event_type in (FINALIZED, AUDITED):
            raise ValueError(f"An event of type {event_type} needs an object as its data.")
        return []
    if event_type == FINALIZED:
        return list(_of_object(data))
    if event_type == AUDITED:
        return list(_of_job(event_id, data, tables))
    return []


def _of_object(data: Mapping[str, Any]) -> Iterator[Change]:
    bucket, name, generation = (data.get(key) for key in ("bucket", "name", "generation"))
    if not (isinstance(bucket, str) and isinstance(name, str) and isinstance(generation, str | int)):
        raise ValueError("The data of an object needs bucket, name and generation.")
    version = f"gs://{bucket}/{name}#{generation}"
    if found := OF_ONE_DAY.fullmatch(name):
        yield Change(found[1], _day(found[2]), version)
    elif found := OF_ALL_DAYS.fullmatch(name):
        yield Change(found[1], None, version)


def _of_job(event_id: str, data: Mapping[str, Any], tables: Mapping[str, str]) -> Iterator[Change]:
    payload = data.get("protoPayload")
    if not isinstance(payload, dict):
        raise ValueError("The data of an audit log entry needs protoPayload.")
    written = {match.groups() for text in _written_to(payload) if (match := TABLE_NAME.fullmatch(text))}
    for project, dataset, name, day in sorted(written, key=str):
        named = (f"{project}.{dataset}.{name}", f"{dataset}.{name}", name)
        table = next((tables[one] for one in named if one in tables), None)
        if table:
            where = f"{project}.{dataset}.{name}" + (f"${day}" if day else "")
            version = f"bigquery://{where}#{data.get('insertId', event_id)}"
            yield Change(table, _day(f"{day[:4]}-{day[4:6]}-{day[6:]}") if day else None, version)


def _written_to(payload: Mapping[str, Any]) -> Iterator[str]:
    """The tables that an audit log entry says were written: not those that were read, nor those of a job not done.

    https://cloud.google.com/bigquery/docs/reference/auditlogs/rest/Shared.Types/BigQueryAuditMetadata
    """
    metadata = payload.get("metadata")
    metadata = metadata if isinstance(metadata, dict) else {}
    resource, method = str(payload.get("resourceName", "")), str(payload.get("methodName", ""))
    only_read = "tableDataRead" in metadata or re.search(r"(?:^|\.)(?:get|list|read|create\w*read)\w*$", method, re.I)
    if not only_read:
        yield resource
    job = _within(metadata, "jobChange", "job")
    status = _within(job, "jobStatus")
    if status.get("jobState") == "DONE" and not status.get("errorResult"):
        for kind in ("loadConfig", "queryConfig", "tableCopyConfig"):
            yield str(_within(job, "jobConfig", kind).get("destinationTable", ""))


def _within(content: Mapping[str, Any], *keys: str) -> Mapping[str, Any]:
    """What lies under some keys; nothing where it is not there, or no object."""
    for key in keys:
        found = content.get(key)
        content = found if isinstance(found, dict) else {}
    return content


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text} is no service day.") from None


def report(dagster_url: str, change: Change, event_id: str, source: str, audience: str | None = None) -> None:
    """Tell Dagster of a change, as an observation of that table's partition. Raises NotReported.

    A webserver behind IAM lets in who shows an identity token; `audience` is whom that token is for.
    """
    observation = {
        "data_version": change.version,
        "partition": change.partition,
        "description": f"{change.version} changed upstream.",
        "metadata": {EVENT_ID: event_id, "event_source": source},
    }
    address = f"{dagster_url.rstrip('/')}/report_asset_observation/{change.table}"
    headers = {"Content-Type": "application/json"}
    if audience:
        headers["Authorization"] = f"Bearer {_identity_token(audience)}"
    request = urllib.request.Request(address, json.dumps(observation).encode(), headers, method="POST")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):
            pass
    except urllib.error.HTTPError as error:
        said = error.read(500).decode(errors="replace")
        advice = _NOT_LET_IN if error.code in (401, 403) else _REFUSED
        raise NotReported(f"Dagster at {dagster_url} answered {error.code}: {said} {advice}") from error
    except OSError as error:
        raise NotReported(f"Dagster at {dagster_url} does not answer: {error}. See MBTA_DAGSTER_URL.") from error


def _identity_token(audience: str) -> str:
    """A token by which Google says who this is, from the metadata server or a key file. Raises NotReported."""
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request as Transport
    from google.oauth2 import id_token

    try:
        return id_token.fetch_id_token(Transport(), audience)
    except GoogleAuthError as error:
        raise NotReported(
            f"There is no identity token for {audience}: {error} MBTA_DAGSTER_AUDIENCE asks for one; that takes the "
            "service account of a machine on Google Cloud, or its key file in GOOGLE_APPLICATION_CREDENTIALS."
        ) from error


_NOT_LET_IN = (
    "Behind IAM, MBTA_DAGSTER_AUDIENCE has to be the webserver's address, and this service account needs "
    "roles/run.invoker on it."
)
_REFUSED = "A webserver that was started with --read-only takes no reports; give the function one that is not."
