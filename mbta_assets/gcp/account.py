"""Who calls Google Cloud, with which clients, how long a call is tried, and what its failure means."""

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar

from mbta_assets.settings import Settings

if TYPE_CHECKING:
    from google.auth.credentials import Credentials
    from google.cloud import bigquery, bigquery_storage, storage

Result = TypeVar("Result")

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
NO_PROJECT = "<none>"
"""What Google's library calls the lack of one; objects are read without."""
LONGEST_SILENCE_SECONDS = 60.0
"""After which a server that says nothing is taken for dead; less where calls are not tried that long."""
PASSING_REASONS = {"rateLimitExceeded", "jobRateLimitExceeded", "backendError", "internalError", "jobBackendError"}
PASSING_REASONS |= {"badGateway", "tableUnavailable", "jobInternalError"}
ABORTED = ("Transaction is aborted", "Could not serialize access", "due to concurrent update")
"""What BigQuery says to a transaction that lost to another one; the loser starts again."""


class CloudError(Exception):
    """Google Cloud refused something or did not answer; the message says what, where and what to do."""


@dataclass(frozen=True)
class Identity:
    """Who calls: the way that credentials are come by. The default is application default credentials."""

    key_file: Path | None = None
    """What GOOGLE_APPLICATION_CREDENTIALS names."""
    impersonate: str | None = None
    """The e-mail address of a service account that is acted as."""

    def __str__(self) -> str:
        own = f"the key file {self.key_file}" if self.key_file else "application default credentials"
        return f"{self.impersonate}, impersonated with {own}" if self.impersonate else own

    def credentials(self) -> "Credentials":
        """Credentials for Google Cloud. Raises CloudError, which never shows a key."""
        from google.auth import impersonated_credentials
        from google.auth.exceptions import DefaultCredentialsError

        try:
            own = self._own()
        except (DefaultCredentialsError, OSError, ValueError) as error:
            raise CloudError(
                f"There are no credentials for Google Cloud. Tried {self}: {_why(error)} {_LOG_IN}"
            ) from None
        if self.impersonate is None:
            return own
        return impersonated_credentials.Credentials(own, self.impersonate, [SCOPE])

    def _own(self) -> "Credentials":
        import google.auth
        from google.oauth2 import service_account

        if self.key_file:
            content = json.loads(self.key_file.read_bytes())
            if content.get("type") == "service_account":
                return service_account.Credentials.from_service_account_info(content, scopes=[SCOPE])
        credentials, _ = google.auth.default([SCOPE])
        return credentials


@dataclass(frozen=True)
class Account:
    """A project of Google Cloud, as somebody, for whom each call is tried so many seconds."""

    project: str
    identity: Identity
    location: str
    """Where datasets are made and jobs run."""
    retry_seconds: float
    bigquery_emulator: str | None = None
    """Address of an emulator, which needs no credentials."""
    storage_emulator: str | None = None
    reader_emulator: str | None = None
    """Host and port of BigQuery's Storage Read API in its emulator; without, rows of an emulator come as JSON."""

    @classmethod
    def of(cls, settings: Settings) -> Self:
        """What the environment says; nothing is read or called yet."""
        return cls(
            settings.gcp_project or NO_PROJECT,
            Identity(settings.google_application_credentials, settings.google_impersonate_service_account),
            settings.bigquery_location,
            settings.gcp_retry_seconds,
            settings.bigquery_emulator_host,
            settings.storage_emulator_host,
            settings.bigquery_storage_emulator_host,
        )

    @cached_property
    def bigquery(self) -> "bigquery.Client":
        """A client of BigQuery. Raises CloudError."""
        from google.cloud import bigquery

        options = {"api_endpoint": self.bigquery_emulator} if self.bigquery_emulator else None
        credentials, session = self._connection(anonymous=self.bigquery_emulator is not None)
        return bigquery.Client(
            self.project, credentials=credentials, _http=session, location=self.location, client_options=options
        )

    @cached_property
    def storage(self) -> "storage.Client":
        """A client of Cloud Storage. Raises CloudError."""
        from google.cloud import storage

        # Else the library looks at each bucket in the background, for which one needs a permission of its own.
        os.environ.setdefault("DISABLE_GCS_PYTHON_CLIENT_OTEL_BUCKET_METADATA", "true")
        options = {"api_endpoint": self.storage_emulator} if self.storage_emulator else None
        credentials, session = self._connection(anonymous=self.storage_emulator is not None)
        return storage.Client(self.project, credentials=credentials, _http=session, client_options=options)

    @cached_property
    def reader(self) -> "bigquery_storage.BigQueryReadClient | None":
        """A client of BigQuery's Storage Read API; None for an emulator without one. Raises CloudError."""
        from google.cloud import bigquery_storage

        if self.bigquery_emulator is None:
            return bigquery_storage.BigQueryReadClient(credentials=self.identity.credentials())
        if self.reader_emulator is None:
            return None
        import grpc
        from google.cloud.bigquery_storage_v1.services.big_query_read.transports import BigQueryReadGrpcTransport

        channel = grpc.insecure_channel(self.reader_emulator, [("grpc.max_receive_message_length", -1)])
        return bigquery_storage.BigQueryReadClient(transport=BigQueryReadGrpcTransport(channel=channel))

    @property
    def retry(self) -> Any:
        """For calls of Google's libraries: what may pass is tried again, with backoff and jitter."""
        from google.api_core.retry import Retry

        return Retry(predicate=may_pass, initial=0.5, maximum=20, multiplier=2, timeout=self.retry_seconds)

    def call(self, wanted: str, what: Callable[[], Result]) -> Result:
        """The result of a call, tried again while its failure may pass; it must do no harm to make it twice.

        `wanted` says in the error what the call was for. Raises CloudError.
        """
        with self.explained(wanted):
            return self.retry(what)()

    @contextmanager
    def explained(self, wanted: str) -> Iterator[None]:
        """Turn what Google's libraries raise inside into a CloudError."""
        from google.api_core.exceptions import GoogleAPICallError, RetryError
        from google.auth.exceptions import GoogleAuthError
        from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
        from requests import RequestException

        try:
            yield
        except RetryError as error:
            cause = error.cause or error
            tried = f"it did not work within {self.retry_seconds:.0f} s (GCP_RETRY_SECONDS)"
            raise CloudError(f"{wanted}: {tried}; the last failure: {_why(cause)} {_KEPT}") from cause
        except (GoogleAPICallError, GoogleAuthError, RequestException, DataCorruption, InvalidResponse) as error:
            raise CloudError(f"{wanted}: {_why(error)} {self._remedy(error)}") from error

    def _remedy(self, error: Exception) -> str:
        from google.api_core import exceptions
        from google.auth.exceptions import GoogleAuthError

        if isinstance(error, GoogleAuthError | exceptions.Unauthorized):
            return f"The credentials are {self.identity}; they are expired, revoked or not valid. {_LOG_IN}"
        if isinstance(error, exceptions.Forbidden):
            return f"{_CHECK} It calls as {self.identity} in project {self.project}."
        if isinstance(error, exceptions.NotFound):
            return "See whether GCP_PROJECT, BIGQUERY_DATASET and GCS_BUCKET name what exists."
        if "bytes billed" in str(error):
            return "Ask for fewer days or columns, or raise BIGQUERY_MAXIMUM_BYTES_BILLED."
        return ""

    def _connection(self, *, anonymous: bool) -> tuple["Credentials", Any]:
        """Credentials, and a session that gives up on a server which says nothing."""
        from google.auth.credentials import AnonymousCredentials
        from google.auth.transport.requests import AuthorizedSession

        longest = min(LONGEST_SILENCE_SECONDS, self.retry_seconds / 3)

        class Session(AuthorizedSession):
            def request(self, *arguments: Any, **options: Any) -> Any:
                options["timeout"] = options.get("timeout") or longest
                return super().request(*arguments, **options)

        credentials = AnonymousCredentials() if anonymous else self.identity.credentials()
        return credentials, Session(credentials)


def may_pass(error: Exception) -> bool:
    """Whether the same call may succeed a little later: overload, a lost connection, a transaction that lost."""
    import requests
    from google.api_core import exceptions
    from google.auth.exceptions import GoogleAuthError, TransportError
    from google.cloud.storage.exceptions import DataCorruption

    if isinstance(error, exceptions.RetryError):
        return False
    if isinstance(error, GoogleAuthError):
        return error.retryable or isinstance(error, TransportError)
    if isinstance(error, exceptions.GoogleAPICallError):
        reasons = {entry.get("reason") for entry in error.errors or () if isinstance(entry, dict)}
        lost = any(said in str(error) for said in ABORTED)
        # For a job that failed, Google's library makes 500 of reasons that it does not know.
        passing_code = error.code in (408, 429, 502, 503, 504) or (error.code == 500 and not reasons)
        return lost or bool(reasons & PASSING_REASONS) or passing_code
    passing = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, (*passing, ConnectionError, TimeoutError, DataCorruption))


def _why(error: BaseException) -> str:
    """What an error says, as one sentence: what the server said, without the request and the rest of its answer."""
    try:
        said = error.response.json()["error"]["message"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError):
        first = error.args[0] if error.args else ""
        said = getattr(error, "message", None) or (first if isinstance(first, str) else str(error))
        said = said or type(error).__name__
    return " ".join(str(said).split()).rstrip(".") + "."


_LOG_IN = (
    "Run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a service account's key "
    "file, or run where a service account is attached."
)
_KEPT = "Nothing is half stored. Run it again later."
_CHECK = "See which permission is lacking with `python -m mbta_assets.storage.permissions`."
