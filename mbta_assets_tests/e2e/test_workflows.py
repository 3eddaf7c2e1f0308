"""The GitHub workflows: their commands run, and what they use is pinned."""

import json
import re
from pathlib import Path

import pytest

from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.workflow import WORKFLOWS, read_commands, read_job

PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$")


@pytest.mark.xdist_group("trained")
def test_the_users_workflow_makes_the_leaderboard_that_it_uploads(trained: dict[str, str]) -> None:
    workflow = read_job("materialize.yml")
    assert set(workflow["env"]) <= {*trained, "SERVICE_DAY"}
    uploaded = Path(workflow["steps"][-1]["with"]["path"])
    store = Path(workflow["env"]["MBTA_STORE"]).name
    rows = json.loads((Path(trained["MBTA_STORE"]) / uploaded.relative_to(store)).read_text())
    assert {"schedule", "runtime_lookup", "xgboost_model", "quantized_student"} <= {row["model"] for row in rows}


def test_the_projects_workflow_runs_make_test_where_nothing_may_be_skipped() -> None:
    assert [command.script for command in read_commands("test.yml")] == [".ci/run"]
    script = (ROOT / ".ci/run").read_text().splitlines()
    assert script[-1] == "make test" and "export CI=true" in script


@pytest.mark.parametrize("workflow", sorted(path.name for path in WORKFLOWS.glob("*.yml")))
def test_every_action_is_pinned_to_a_commit_and_says_its_version(workflow: str) -> None:
    lines = [line for line in (WORKFLOWS / workflow).read_text().splitlines() if "uses:" in line]
    assert lines and all(PINNED.search(line) for line in lines)


@pytest.mark.parametrize("workflow", sorted(path.name for path in WORKFLOWS.glob("*.yml")))
def test_no_workflow_may_write_to_the_repository(workflow: str) -> None:
    text = (WORKFLOWS / workflow).read_text()
    assert "permissions:\n  contents: read\n" in text and "write" not in text
