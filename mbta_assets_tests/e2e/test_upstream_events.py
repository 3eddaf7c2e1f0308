"""With the daemon running: an event that a file has been loaded leads to one run of its service day."""

from pathlib import Path
from typing import Any

import pytest

from mbta_assets_tests.serving.conftest import Server
from mbta_assets_tests.serving.test_events import TOKEN, finalized, send
from mbta_assets_tests.support.dagster_dev import DagsterDev, eventually
from mbta_assets_tests.support.real_day import DAYS

pytestmark = [pytest.mark.timeout(300), pytest.mark.xdist_group("trained")]


def test_a_file_that_is_finalized_leads_to_its_day_made_again_and_twice_the_same_event_to_one_run(
    dev: DagsterDev, tmp_path: Path
) -> None:
    def runs_after() -> list[dict[str, Any]]:
        return [run for run in dev.runs() if run["runId"] not in before]

    def finished() -> list[dict[str, Any]]:
        runs = runs_after()
        return runs if runs and all(run["endTime"] for run in runs) else []

    def await_ticks(number: int) -> None:
        until = len(dev.ticks("upstream_changes")) + number
        eventually("the sensor has looked again", 60, lambda: len(dev.ticks("upstream_changes")) >= until)

    server = Server.start("on_upstream_change", tmp_path / "log", MBTA_DAGSTER_URL=dev.address, MBTA_EVENT_TOKEN=TOKEN)
    try:
        with dev.sensors_on("upstream_changes"):
            before = {run["runId"] for run in dev.runs()}
            forged = send(server, finalized(day=DAYS[0]), Authorization="Bearer forged-token-of-some-length")
            assert forged.status == 401
            for _ in range(2):
                assert send(server, finalized(day=DAYS[0]), event_id="event-1").status == 200
            [run] = eventually("the day is made again", 120, finished)
            tags = {tag["key"]: tag["value"] for tag in run["tags"]}
            assert (run["status"], tags["dagster/partition"]) == ("SUCCESS", str(DAYS[0]))
            assert send(server, finalized(day=DAYS[0]), event_id="event-1").status == 200
            await_ticks(3)
            assert len(runs_after()) == 1
            assert send(server, finalized(day=DAYS[0], generation="18"), event_id="event-2").status == 200
            eventually("the next one leads to another run", 120, lambda: len(finished()) == 2)
    finally:
        server.stop()
