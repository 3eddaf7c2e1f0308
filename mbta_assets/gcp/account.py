"""The account that calls Google Cloud: credentials, HTTP sessions, retries, and the translation of errors.

Clients of single services are in `gcp.bigquery`, `gcp.bucket` and `gcp.vertex`.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

import google.auth
import requests
from google.api_core import exceptions
from google.api_core.retry import Retry
from google.auth import impersonated_credentials
from google.auth.credentials import AnonymousCredentials, Credentials
from google.auth.exceptions import DefaultCredentialsError, GoogleAuthError, TransportError
from google.auth.transport.requests import AuthorizedSession
from google.cloud.storage.exceptions import DataCorruption, InvalidResponse
from google.oauth2 import service_account

from mbta_assets.gcp.errors import AlreadyExistsError, CloudError
from mbta_assets.settings import Settings

Result = TypeVar("Result")

SCOPE = "https://www.googleapis.com/auth/cloud-platform"
NO_PROJECT = "<none>"
"""Google's placeholder for an absent project; objects can be read without one."""
MAX_REQUEST_SECONDS = 60.0
"""Timeout of one HTTP request; shorter where calls are retried for less than three times as long."""
TRANSIENT_STATUS_CODES = frozenset({408, 429, 502, 503, 504})
TRANSIENT_REASONS = frozenset(
    {
        "backendError",
        "badGateway",
        "internalError",
        "jobBackendError",
        "jobInternalError",
        "jobRateLimitExceeded",
        "rateLimitExceeded",
        "tableUnavailable",
    }
)
TRANSACTION_CONFLICTS = ("Transaction is aborted", "Could not serialize access", "due to concurrent update")
"""Messages with which BigQuery aborts a transaction because of a concurrent one; the statement can be run again."""


@dataclass(frozen=True, kw_only=True)
class Account:
    """A Google Cloud project and the credentials used in it. Creating one reads no file and calls nothing."""

    project: str = NO_PROJECT
    location: str = "US"
    """Location of datasets and query jobs."""
    retry_seconds: float = 600.0
    """Time for which a call with transient failures is retried."""
    key_file: Path | None = None
    """Service account key, or another credentials file; None for application default credentials."""
    impersonated_account: str | None = None
    """E-mail address of a service account to impersonate."""
    bigquery_emulator: str | None = None
    """Address of a BigQuery emulator, called without credentials."""
    read_api_emulator: str | None = None
    """`host:port` of that emulator's Storage Read API; None to read an emulator's rows as JSON."""
    storage_emulator: str | None = None
    """Address of a Cloud Storage emulator, called without credentials."""

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the account that the settings describe."""
        return cls(
            project=settings.gcp_project or NO_PROJECT,
            location=settings.bigquery_location,
            retry_seconds=settings.gcp_retry_seconds,
            key_file=settings.google_application_credentials,
            impersonated_account=settings.google_impersonate_service_account,
            bigquery_emulator=settings.bigquery_emulator_host,
            read_api_emulator=settings.bigquery_storage_emulator_host,
            storage_emulator=settings.storage_emulator_host,
        )

    @property
    def principal(self) -> str:
        """Return the origin of the credentials, for messages; no secret is part of it."""
        base = f"the key file {self.key_file}" if self.key_file else "application default credentials"
        if self.impersonated_account is None:
            return base
        return f"{self.impersonated_account}, impersonated with {base}"

    def credentials(self) -> Credentials:
        """Load credentials. Raises CloudError, whose message never contains a key."""
        try:
            base = self._base_credentials()
        except (DefaultCredentialsError, OSError, ValueError) as error:
            raise CloudError(
                f"There are no credentials for Google Cloud. Tried {self.principal}: {_summarize(error)} {_LOG_IN}"
            ) from None
        if self.impersonated_account is None:
            return base
        return impersonated_credentials.Credentials(base, self.impersonated_account, [SCOPE])

    def session(self, *, anonymous: bool = False) -> AuthorizedSession:
        """Return an HTTP session with a timeout on every request, without credentials if `anonymous`.

        Raises CloudError where there are no credentials.
        """
        timeout = min(MAX_REQUEST_SECONDS, self.retry_seconds / 3)
        return _SessionWithTimeout(AnonymousCredentials() if anonymous else self.credentials(), timeout)

    @property
    def retry(self) -> Retry:
        """Return the retry policy of all calls: transient failures, with exponential backoff and jitter."""
        return Retry(predicate=is_transient, initial=0.5, maximum=20, multiplier=2, timeout=self.retry_seconds)

    def call(self, action: str, function: Callable[[], Result]) -> Result:
        """Call an idempotent function, retry it while its failure is transient, and return its result.

        `action` says in error messages what was attempted, such as "Read gs://bucket/object". Raises CloudError.
        """
        with self.translate_errors(action):
            return self.retry(function)()

    @contextmanager
    def translate_errors(self, action: str) -> Iterator[None]:
        """Raise errors of Google's libraries in the body as CloudError with `action`, the cause and a remedy.

        A conflict with an existing resource is raised as AlreadyExistsError.
        """
        try:
            yield
        except exceptions.RetryError as error:
            cause = error.cause or error
            outcome = f"it did not work within {self.retry_seconds:.0f} s (GCP_RETRY_SECONDS)"
            raise CloudError(
                f"{action}: {outcome}; the last failure: {_summarize(cause)} {_NOTHING_IS_HALF_STORED}"
            ) from cause
        except exceptions.Conflict as error:
            raise AlreadyExistsError(f"{action}: {_summarize(error)}") from error
        except (
            exceptions.GoogleAPICallError,
            GoogleAuthError,
            requests.RequestException,
            DataCorruption,
            InvalidResponse,
        ) as error:
            raise CloudError(f"{action}: {_summarize(error)} {self._remedy(error)}") from error

    def _base_credentials(self) -> Credentials:
        """Load the credentials that call directly or impersonate another account."""
        if self.key_file:
            content = json.loads(self.key_file.read_bytes())
            if content.get("type") == "service_account":
                return service_account.Credentials.from_service_account_info(content, scopes=[SCOPE])
        credentials, _ = google.auth.default(scopes=[SCOPE])
        return credentials

    def _remedy(self, error: Exception) -> str:
        """Return what to do about an error, as a sentence, or an empty string."""
        if isinstance(error, GoogleAuthError | exceptions.Unauthorized):
            return f"The credentials are {self.principal}; they are expired, revoked or not valid. {_LOG_IN}"
        if isinstance(error, exceptions.Forbidden):
            return f"{_CHECK_PERMISSIONS} The call was made as {self.principal} in project {self.project}."
        if isinstance(error, exceptions.NotFound):
            return "Check that GCP_PROJECT, BIGQUERY_DATASET and GCS_BUCKET name existing resources."
        if "bytes billed" in str(error):
            return "Ask for fewer days or columns, or raise BIGQUERY_MAXIMUM_BYTES_BILLED."
        return ""


class _SessionWithTimeout(AuthorizedSession):
    """An HTTP session whose requests time out although Google's clients set no timeout."""

    def __init__(self, credentials: Credentials, timeout: float) -> None:
        super().__init__(credentials)
        self.timeout = timeout

    def request(self, *arguments: Any, **options: Any) -> Any:
        """Send a request, with the session's timeout unless the caller sets another."""
        options["timeout"] = options.get("timeout") or self.timeout
        return super().request(*arguments, **options)


def is_transient(error: Exception) -> bool:
    """Return True if the same call may succeed later: overload, a lost connection, an aborted transaction."""
    if isinstance(error, exceptions.RetryError):
        return False
    if isinstance(error, GoogleAuthError):
        return error.retryable or isinstance(error, TransportError)
    if isinstance(error, exceptions.GoogleAPICallError):
        return _is_transient_response(error)
    connection_errors = (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError)
    return isinstance(error, (*connection_errors, ConnectionError, TimeoutError, DataCorruption))


def _is_transient_response(error: exceptions.GoogleAPICallError) -> bool:
    """Return True if a server's error response, or the error of a failed job, is transient."""
    reasons = {entry.get("reason") for entry in error.errors or () if isinstance(entry, dict)}
    if reasons & TRANSIENT_REASONS or any(message in str(error) for message in TRANSACTION_CONFLICTS):
        return True
    # Google's library gives failed jobs code 500 for any reason it does not know, so 500 counts only without a reason.
    return error.code in TRANSIENT_STATUS_CODES or (error.code == 500 and not reasons)


def _summarize(error: BaseException) -> str:
    """Return an error's message as one sentence, without the request and the rest of the server's response."""
    try:
        message = error.response.json()["error"]["message"]  # type: ignore[attr-defined]
    except (AttributeError, KeyError, TypeError, ValueError):
        message = _own_message(error)
    return " ".join(str(message).split()).rstrip(".") + "."


def _own_message(error: BaseException) -> str:
    """Return the message an exception was raised with, or the name of its class."""
    first = error.args[0] if error.args else ""
    text = first if isinstance(first, str) else str(error)
    return getattr(error, "message", None) or text or type(error).__name__


_LOG_IN = (
    "Run `gcloud auth application-default login`, or let GOOGLE_APPLICATION_CREDENTIALS name a service account's key "
    "file, or run where a service account is attached."
)
_NOTHING_IS_HALF_STORED = "Nothing is half stored. Run it again later."
_CHECK_PERMISSIONS = "See which permissions are missing with `mbta-assets check`."
