"""An event about a loaded file leads to one run of its service date, through the sensor of a running daemon."""

from pathlib import Path
from typing import Any

import pytest

from mbta_assets_tests.support.cloud_events import EVENT_TOKEN, make_object_data, post_event
from mbta_assets_tests.support.dagster_dev import DagsterDev, eventually
from mbta_assets_tests.support.function_server import FunctionServer
from mbta_assets_tests.support.real_day import DAYS

pytestmark = pytest.mark.xdist_group("trained")


def test_each_new_event_leads_to_one_run_of_its_day_and_a_repeated_or_forged_one_to_none(
    dev: DagsterDev, tmp_path: Path
) -> None:
    def new_runs() -> list[dict[str, Any]]:
        return [run for run in dev.runs() if run["runId"] not in earlier_runs]

    def finished_runs() -> list[dict[str, Any]]:
        runs = new_runs()
        return runs if runs and all(run["endTime"] for run in runs) else []

    def await_ticks(number: int) -> None:
        target = len(dev.ticks("upstream_changes")) + number
        eventually("the sensor has ticked", 60, lambda: len(dev.ticks("upstream_changes")) >= target)

    settings = {"MBTA_DAGSTER_URL": dev.address, "MBTA_EVENT_TOKEN": EVENT_TOKEN}
    server = FunctionServer.start("on_upstream_change", tmp_path / "log", **settings)
    try:
        with dev.sensors_on("upstream_changes"):
            earlier_runs = {run["runId"] for run in dev.runs()}
            event = make_object_data(day=DAYS[0])
            forged = post_event(server, event, Authorization="Bearer forged-token-of-some-length")
            assert forged.status == 401
            for _ in range(2):
                assert post_event(server, event, event_id="event-1").status == 200
            [run] = eventually("the day is materialized again", 120, finished_runs)
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            assert (run["status"], tags["dagster/partition"]) == ("SUCCESS", str(DAYS[0]))
            assert post_event(server, event, event_id="event-1").status == 200
            await_ticks(3)
            assert len(new_runs()) == 1
            next_event = make_object_data(day=DAYS[0], generation="18")
            assert post_event(server, next_event, event_id="event-2").status == 200
            eventually("the next event leads to another run", 120, lambda: len(finished_runs()) == 2)
    finally:
        server.stop()
