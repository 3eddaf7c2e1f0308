"""Executions of a Cloud Run job: one start is one execution, whatever becomes of its response."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import google.auth
import pytest
from google.auth.credentials import AnonymousCredentials
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mbta_assets.gcp import CloudError, cloud_run
from mbta_assets.gcp.account import Account
from mbta_assets.gcp.cloud_run import PAGE_SIZE, CloudRunJob
from mbta_assets_tests.support.cloud_run import CloudRunServer, cloud_run_server
from mbta_assets_tests.support.dagster_dev import BUSY_FACTOR, eventually
from mbta_assets_tests.support.fault_proxy import FaultProxy, Rule, fault_proxy

pytestmark = pytest.mark.integration

NAME = "projects/transit-1/locations/us-central1/jobs/mbta-run"
KEY = "run-1"
START: dict[str, Any] = {"method": "POST", "path": ":run$"}
LIST: dict[str, Any] = {"method": "GET", "path": "/executions"}
CANCEL: dict[str, Any] = {"method": "POST", "path": ":cancel$"}
RETRY_SECONDS = 3.0 * BUSY_FACTOR
LATE = RETRY_SECONDS / 3 + 0.2
"""Seconds after which a client no longer waits for a response."""
BEGUN = {
    "connection dropped": {"cut": True, "when": "after"},
    "503": {"status": 503, "when": "after"},
    "answers late": {"hang": LATE, "when": "after"},
    "half a response": {"truncate": 20},
}
"""Faults after which an execution has begun although its response is lost."""
NOT_BEGUN = {
    "connection dropped": {"cut": True},
    "429 twice": {"status": 429, "times": 2},
    "503": {"status": 503},
    "500": {"status": 500},
}


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retry calls almost without delay."""
    original: Any = Account.retry
    monkeypatch.setattr(Account, "retry", property(lambda account: original.fget(account).with_delay(0.02, 0.2)))
    monkeypatch.setattr(cloud_run, "SETTLING_SECONDS", 0.01)
    monkeypatch.setattr(google.auth, "default", lambda **_: (AnonymousCredentials(), "transit-1"))


@pytest.fixture
def server() -> Iterator[CloudRunServer]:
    with cloud_run_server(NAME) as server:
        yield server


@pytest.fixture
def proxy(server: CloudRunServer) -> Iterator[FaultProxy]:
    with fault_proxy(server.url) as proxy:
        yield proxy


@pytest.fixture
def job(proxy: FaultProxy) -> CloudRunJob:
    return CloudRunJob(Account(project="transit-1", retry_seconds=RETRY_SECONDS), NAME, proxy.url, "RUN")


def start(job: CloudRunJob, key: str = KEY, **options: bool) -> str:
    """Start an execution with a key."""
    return job.start(key, ["dagster", "api"], 60, datetime.now(UTC), **options)


def find(job: CloudRunJob, known: str | None = None) -> list[str]:
    """Return the last digit of each execution with the key."""
    return [execution.name[-1] for execution in job.find(KEY, datetime.now(UTC), known)]


@pytest.mark.parametrize("fault", BEGUN.values(), ids=list(BEGUN))
@pytest.mark.parametrize("others", [0, 2 * PAGE_SIZE], ids=["alone", "among others"])
def test_an_execution_that_has_begun_is_found_and_not_begun_again(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy, fault: dict[str, Any], others: int
) -> None:
    def begin_others() -> None:
        for number in range(others):
            server.add_execution([{"name": "RUN", "value": f"other-{number}"}])

    start(job, "earlier")
    proxy.inject(Rule(**START, **fault), Rule(**LIST, call=begin_others))
    name = start(job)
    carrying = [execution for execution in server.executions if {"name": "RUN", "value": KEY} in environment(execution)]
    assert [execution["name"] for execution in carrying] == [name]


def environment(execution: dict[str, Any]) -> list[dict[str, str]]:
    """Return the environment of an execution."""
    return execution["template"]["containers"][0]["env"]


@pytest.mark.parametrize("fault", NOT_BEGUN.values(), ids=list(NOT_BEGUN))
def test_a_start_that_has_not_arrived_is_repeated(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy, fault: dict[str, Any]
) -> None:
    proxy.inject(Rule(**START, **fault))
    assert start(job) == server.executions[0]["name"]
    assert len(server.executions) == 1


@pytest.mark.parametrize("fault", [{"status": 503}, {"cut": True}, {"hang": LATE}], ids=str)
def test_nothing_is_begun_again_while_executions_cannot_be_listed(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy, fault: dict[str, Any]
) -> None:
    proxy.inject(Rule(**START, cut=True, when="after"), Rule(**LIST, **fault, times=2))
    start(job)
    assert len(server.executions) == 1


def test_a_conflict_with_another_start_is_repeated(job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy) -> None:
    proxy.inject(Rule(**START, status=409))
    start(job)
    assert len(server.executions) == 1


def test_a_caller_that_may_have_begun_one_before_it_died_gets_that_one(
    job: CloudRunJob, server: CloudRunServer
) -> None:
    assert start(job) == start(job, may_have_begun=True)
    assert len(server.executions) == 1


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    faults=st.lists(
        st.tuples(
            st.sampled_from([START, LIST]),
            st.sampled_from([{"cut": True}, {"status": 429}, {"status": 503}]),
            st.sampled_from(["before", "after"]),
        ),
        max_size=5,
    )
)
def test_any_faults_of_start_and_list_lead_to_one_execution(
    server: CloudRunServer, proxy: FaultProxy, faults: list[tuple[Any, Any, Any]]
) -> None:
    job = CloudRunJob(Account(project="transit-1", retry_seconds=RETRY_SECONDS), NAME, proxy.url, "RUN")
    server.executions.clear()
    proxy.clear()
    proxy.inject(*(Rule(**request, **fault, when=when) for request, fault, when in faults))
    assert start(job) == server.executions[0]["name"]
    assert len(server.executions) == 1


@pytest.mark.parametrize("status", [429, 503])
def test_a_service_that_stays_broken_is_an_error_that_says_that_it_may_have_begun(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy, status: int
) -> None:
    proxy.inject(Rule(**START, status=status, times=None))
    job.account = replace(job.account, retry_seconds=1)
    with pytest.raises(
        CloudError, match=rf"{KEY}: it did not work within 1 s; .*{status}.*see the executions of {NAME}"
    ):
        start(job)
    assert server.executions == []


def test_a_refusal_is_not_repeated(job: CloudRunJob, proxy: FaultProxy) -> None:
    proxy.inject(Rule(**START, status=403, message="not now", times=None))
    with pytest.raises(CloudError, match=f"Execute {NAME} for {KEY}: .*not now"):
        start(job)
    assert len(proxy.requests) == 1


def test_a_request_that_arrives_late_begins_a_second_execution_which_is_found_too(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy
) -> None:
    proxy.inject(Rule(**START, hang=LATE, when="before"))
    start(job)
    eventually("the late request has arrived", 5, lambda: len(server.executions) == 2, every=0.05)
    assert find(job) == ["1", "0"]


def test_executions_are_found_on_all_pages_that_are_young_enough(job: CloudRunJob, server: CloudRunServer) -> None:
    mine = [{"name": "RUN", "value": KEY}]
    long_ago = datetime.now(UTC) - timedelta(days=1)
    server.add_execution(mine, long_ago)
    server.add_execution(mine)
    for _ in range(3 * PAGE_SIZE):
        server.add_execution([{"name": "RUN", "value": "other"}])
    for _ in range(PAGE_SIZE):
        server.executions.insert(0, {**server.executions[0], "template": {}})
    assert find(job) == ["1"]
    assert sum(path.endswith("/executions") for _, path, _ in server.requests) == 4


def test_a_known_execution_is_found_although_it_carries_no_key(job: CloudRunJob, server: CloudRunServer) -> None:
    known = server.add_execution([])["name"]
    assert find(job, known) == ["0"]
    server.executions.clear()
    assert find(job, known) == []


@pytest.mark.parametrize("fault", [{"status": 503}, {"cut": True}, {"cut": True, "when": "after"}], ids=str)
def test_a_cancellation_overcomes_a_fault(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy, fault: dict[str, Any]
) -> None:
    name = start(job)
    proxy.inject(Rule(**CANCEL, **fault))
    job.cancel(name)
    assert server.has_ended(0)


def test_what_has_ended_or_is_gone_needs_no_cancellation_and_a_refused_one_is_an_error(
    job: CloudRunJob, server: CloudRunServer, proxy: FaultProxy
) -> None:
    name = start(job)
    proxy.inject(Rule(**CANCEL, status=400))
    with pytest.raises(CloudError, match=f"Cancel {name}: "):
        job.cancel(name)
    server.finish(0, "succeeded")
    job.cancel(name)
    server.executions.clear()
    job.cancel(name)
