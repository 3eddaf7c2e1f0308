"""What wants the cores for itself has them, whichever run it is in: two processes, one pool of `dagster.yaml`."""

import json
import os
import subprocess
import sys
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
# The asset of the program ends once a step of another run waits for its slot, if it is the one to be waited for.
PROGRAM = """
import json, sys, time
import dagster as dg

span, waits = sys.argv[1], sys.argv[2] == "waits"

@dg.asset(pool={pool!r})
def tuned(context):
    began = time.time()
    if not waits:
        print("began", flush=True)
        while not context.instance.event_log_storage.get_concurrency_info({pool!r}).pending_step_count:
            time.sleep(0.1)
    with open(span, "w") as file:
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
def test_a_step_of_the_pool_waits_until_that_of_another_run_has_ended(tmp_path: Path) -> None:
    (tmp_path / "dagster.yaml").write_text((ROOT / "dagster.yaml").read_text())
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert instance.event_log_storage.get_pool_limits() == []
    program = tmp_path / "program.py"
    program.write_text(PROGRAM.format(pool=pools(tmp_path)["dnn_teacher"]))
    environment = {**os.environ, "DAGSTER_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(program)]
    holds = [*command, str(tmp_path / "first.json"), "holds"]
    with subprocess.Popen(holds, env=environment, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None and first.stdout.readline() == "began\n"
            second = [*command, str(tmp_path / "second.json"), "waits"]
            subprocess.run(second, env=environment, check=True, timeout=600)
            assert first.wait(60) == 0
        finally:
            first.kill()
    spans = [json.loads((tmp_path / name).read_text()) for name in ("first.json", "second.json")]
    assert spans[0][1] <= spans[1][0], "the second began before the first had ended"
