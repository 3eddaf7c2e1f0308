"""The client of one Cloud Run job: executions that carry a key, begun once, found by their key, and cancelled.

Cloud Run has no request id that makes a start idempotent, and a response can be lost after an execution has begun. So
each execution carries a key in its environment, and a start whose outcome is unknown is repeated only if no execution
carries the key. A request that reaches Cloud Run after that can still begin a second execution: whoever uses this
module must allow for it, and `find` returns both.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import Any, Self, TypeVar

from google.api_core.exceptions import BadRequest, Conflict, NotFound, RetryError, from_http_response
from google.auth.transport.requests import AuthorizedSession

from mbta_assets.gcp.account import Account, is_transient
from mbta_assets.gcp.errors import CloudError

Result = TypeVar("Result")

SETTLING_SECONDS = 3.0
"""Time after a start of unknown outcome in which its execution may not be listed yet."""
PAGE_SIZE = 20
CLOCK_TOLERANCE = timedelta(minutes=10)
"""Maximum difference between Cloud Run's clock and that of the caller's database."""


@dataclass(frozen=True)
class Execution:
    """An execution of a job: its resource name, whether it has ended, and whether it then had succeeded."""

    name: str
    has_ended: bool
    has_succeeded: bool

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Return the execution that a response of Cloud Run describes."""
        has_ended = "completionTime" in content
        return cls(content["name"], has_ended, has_ended and bool(content.get("succeededCount")))


class CloudRunJob:
    """A Cloud Run job, called by an account whose `retry_seconds` limit each call.

    Transient failures are retried with exponential backoff. All methods raise CloudError.
    """

    def __init__(self, account: Account, name: str, endpoint: str, key_variable: str) -> None:
        self.account = account
        self.name = name
        self.endpoint = endpoint
        self.key_variable = key_variable
        """Environment variable of an execution that has its key."""

    def start(
        self, key: str, arguments: Sequence[str], timeout_seconds: int, since: datetime, *, may_have_begun: bool = False
    ) -> str:
        """Execute the job with a key and arguments unless such an execution has begun, and return its resource name.

        Executions created before `since` do not have the key. With `may_have_begun` it is looked for at the first
        attempt too.
        """
        container = {"args": list(arguments), "env": [{"name": self.key_variable, "value": key}]}
        overrides = {"containerOverrides": [container], "timeout": f"{timeout_seconds}s"}
        is_uncertain = may_have_begun

        def start_once() -> str:
            nonlocal is_uncertain
            if is_uncertain:
                time.sleep(SETTLING_SECONDS)
                begun = next(self._list(key, since), None)
                if begun:
                    return begun.name
            is_uncertain = True
            return self._request("POST", f"{self.name}:run", {"overrides": overrides})["metadata"]["name"]

        return self._call(f"Execute {self.name} for {key}", start_once)

    def find(self, key: str, since: datetime, tagged: str | None = None) -> list[Execution]:
        """Return every execution with a key that Cloud Run still has, and the one with the resource name `tagged`."""

        def find_once() -> list[Execution]:
            executions = list(self._list(key, since))
            if tagged and all(execution.name != tagged for execution in executions):
                execution = self._get(tagged)
                executions += [execution] if execution else []
            return executions

        return self._call(f"List the executions of {self.name} for {key}", find_once)

    def cancel(self, execution: str) -> None:
        """Cancel an execution unless it has ended."""

        def cancel_once() -> None:
            try:
                self._request("POST", f"{execution}:cancel", {})
            except NotFound:
                return
            except BadRequest:
                current = self._get(execution)
                if current and not current.has_ended:
                    raise

        self._call(f"Cancel {execution}", cancel_once)

    def _list(self, key: str, since: datetime) -> Iterator[Execution]:
        """Yield the executions with a key, the latest first, as Cloud Run lists them."""
        page_token: str | None = ""
        while page_token is not None:
            parameters = {"pageSize": PAGE_SIZE, **({"pageToken": page_token} if page_token else {})}
            page = self._request("GET", f"{self.name}/executions", parameters=parameters)
            for content in page.get("executions", ()):
                if datetime.fromisoformat(content["createTime"]) < since - CLOCK_TOLERANCE:
                    return
                if self._has_key(content, key):
                    yield Execution.from_json(content)
            page_token = page.get("nextPageToken") or None

    def _get(self, execution: str) -> Execution | None:
        """Return an execution, None if Cloud Run no longer has it."""
        try:
            return Execution.from_json(self._request("GET", execution))
        except NotFound:
            return None

    def _has_key(self, content: Mapping[str, Any], key: str) -> bool:
        """Return whether the environment of an execution has a key."""
        containers = content.get("template", {}).get("containers", ())
        variables = [variable for container in containers for variable in container.get("env", ())]
        return any(variable["name"] == self.key_variable and variable.get("value") == key for variable in variables)

    def _call(self, action: str, function: Callable[[], Result]) -> Result:
        """Call a function that may be repeated, and repeat it while its failure is transient."""
        # Two starts of a job at the same moment conflict, and one of them is to be repeated.
        retry = self.account.retry.with_predicate(lambda error: is_transient(error) or isinstance(error, Conflict))
        with self.account.translate_errors(action):
            try:
                return retry(function)()
            except RetryError as error:
                raise CloudError(
                    f"{action}: it did not work within {self.account.retry_seconds:.0f} s; the last failure: "
                    f"{error.cause}. It may have worked all the same: see the executions of {self.name}."
                ) from error.cause

    @cached_property
    def _session(self) -> AuthorizedSession:
        """Return an HTTP session with the account's credentials."""
        return self.account.session()

    def _request(
        self,
        method: str,
        name: str,
        body: Mapping[str, Any] | None = None,
        parameters: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the JSON response of Cloud Run. Raises an error of Google's or of the HTTP library."""
        response = self._session.request(method, f"{self.endpoint}/v2/{name}", json=body, params=parameters)
        if not response.ok:
            raise from_http_response(response)
        return response.json()
