"""One command leads from the served archive to a leaderboard, whatever days are not there."""

import json
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

from mbta_assets.storage.parquet_tables import ParquetTables
from mbta_assets_tests.support import real_day
from mbta_assets_tests.support.dagster_dev import ROOT, environment
from mbta_assets_tests.support.lamp_archive import Fault, convert_upstream, move_rows, serve_archive, to_parquet

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("lamp_backfill")]

DAYS = [real_day.DAY + timedelta(days=n) for n in range(6)]
MISSING, EMPTY, WITHDRAWN = DAYS[1], DAYS[3], DAYS[4]
USUAL_DAYS = [DAYS[0], DAYS[2], DAYS[5]]


def test_one_command_leads_from_the_archive_to_a_leaderboard(tmp_path: Path, seed_upstream: Path) -> None:
    rows, stops = convert_upstream(seed_upstream, real_day.DAY)
    with serve_archive(tmp_path / "unused") as archive:
        for day in DAYS:
            moved = move_rows(rows, day, real_day.DAY)
            archive.add_day(day, to_parquet(moved.slice(0, 0) if day == EMPTY else moved))
        archive.always[archive.path(WITHDRAWN)] = Fault.NOT_FOUND
        archive.faults[archive.path(DAYS[0])] = [Fault.UNAVAILABLE, Fault.TRUNCATED]
        del archive.index[MISSING]
        archive.write_index()
        archive.add_stops(2023, stops)
        variables = environment(tmp_path / "store", tmp_path, MBTA_LAMP_URL=archive.url, MBTA_START_DATE="2024-01-01")
        command = [sys.executable, "-m", "mbta_assets", "backfill", "--source", "lamp", "--last", "30"]
        assert shlex.join(["mbta-assets", *command[3:]]) in (ROOT / "docs/lamp.md").read_text()
        run = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True)
        assert run.returncode == 0, run.stdout[-4000:] + run.stderr[-4000:]
        downloads = [answer.path for answer in archive.answers if answer.status in (200, 206) and answer.sent_bytes]

    assert "30 service days from 2023-09-09 to 2023-10-08, source lamp" in run.stdout
    assert "3 fetched, 0 there before" in run.stdout
    for day, problem in ((MISSING, "missing"), (EMPTY, "empty"), (WITHDRAWN, "missing")):
        assert f"  {day} {problem}: " in run.stdout
    for day in USUAL_DAYS[1:]:
        assert downloads.count(archive.path(day)) == 1
    tables = ParquetTables(tmp_path / "store")
    for table in ("vehicle", "trip", "stop", "schedule", "raw_transit_data", "transit_features"):
        assert tables.days(table) == USUAL_DAYS

    leaderboard = json.loads((tmp_path / "store/reports/model_leaderboard.json").read_text())
    models = {row["model"] for row in leaderboard}
    assert {"schedule", "persistence", "runtime_lookup", "xgboost_model", "quantized_student"} <= models
    assert all(list(row["by_day"]) == [str(USUAL_DAYS[-1])] for row in leaderboard)
    _, _, comparison = run.stdout.partition("MAE minus that of runtime_lookup")
    compared = {line.split()[0] for line in comparison.splitlines() if "better on" in line}
    assert compared == models - {"runtime_lookup"}
