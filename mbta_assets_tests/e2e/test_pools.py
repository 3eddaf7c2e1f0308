"""What wants the cores for itself has them, whichever run it is in: two processes, one pool of `dagster.yaml`."""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import dagster as dg
import pytest

from mbta_assets.definitions import build_defs
from mbta_assets.settings import Settings
from mbta_assets_tests.support.dagster_dev import ROOT

WANTS_THE_CORES = {
    "xgboost_model", "dnn_teacher", "pruned_teacher", "distilled_student", "quantized_student", "model_leaderboard",
    "production_model",
}  # fmt: skip
PROGRAM = """
import json, sys, time
import dagster as dg

@dg.asset(pool={pool!r})
def tuned():
    began = time.time()
    time.sleep(1)
    with open(sys.argv[1], "w") as file:
        json.dump([began, time.time()], file)

defs = dg.Definitions([tuned], executor=dg.in_process_executor)
with dg.DagsterInstance.get() as instance:
    job = defs.resolve_implicit_global_asset_job_def()
    assert job.execute_in_process(instance=instance).success
"""


def pools(tmp_path: Path) -> dict[str, str | None]:
    """By asset, the pool of its step."""
    assets = build_defs(Settings(store=tmp_path)).assets or []
    made = [asset for asset in assets if isinstance(asset, dg.AssetsDefinition)]
    return {asset.key.to_user_string(): asset.op.pool for asset in made}


def test_all_that_trains_or_is_timed_shares_one_pool(tmp_path: Path) -> None:
    assert {asset for asset, pool in pools(tmp_path).items() if pool == "cores"} == WANTS_THE_CORES


@pytest.mark.integration
def test_two_steps_of_the_pool_never_run_at_once_though_their_runs_do(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        instance.get_runs()  # so that its databases are there before two processes want to make them
        assert instance.event_log_storage.get_pool_limits() == []
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(pool=pools(tmp_path)["dnn_teacher"]))
    spans = [tmp_path / "first.json", tmp_path / "second.json"]
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}

    def run(span: Path) -> None:
        subprocess.run([sys.executable, str(program), str(span)], env=environment, check=True, timeout=600)

    with ThreadPoolExecutor() as side_by_side:
        list(side_by_side.map(run, spans))
    first, second = sorted(json.loads(path.read_text()) for path in spans)
    assert first[1] <= second[0], "the second began before the first had ended"
