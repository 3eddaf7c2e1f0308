"""dagster.yaml with deploy/postgres.yaml behind it, on a real PostgreSQL."""

import subprocess
import sys
from contextlib import closing
from pathlib import Path

import yaml

from mbta_assets_tests.support import small_network
from mbta_assets_tests.support.dagster_dev import ROOT, environment


def postgres_variant() -> str:
    """dagster.yaml with its storage in PostgreSQL."""
    return (ROOT / "dagster.yaml").read_text() + (ROOT / "deploy/postgres.yaml").read_text()


def test_the_variant_differs_from_the_file_in_its_storage_only() -> None:
    variant = yaml.safe_load(postgres_variant())
    assert list(variant.pop("storage")) == ["postgres"]
    assert variant == yaml.safe_load((ROOT / "dagster.yaml").read_text())


def test_a_run_is_kept_in_postgres(tmp_path: Path, postgres: dict[str, str]) -> None:
    import psycopg2

    [day] = small_network.days_from(small_network.MONDAY, 1)
    small_network.write(tmp_path / "upstream", [day])
    variables = environment(tmp_path / "store", tmp_path / "upstream", **postgres)
    home = Path(variables["DAGSTER_HOME"])
    (home / "dagster.yaml").write_text(postgres_variant())
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    asked = ["--select", "stop,trip", "--partition", str(day)]
    ran = subprocess.run([*command, *asked], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]

    server = postgres["DAGSTER_POSTGRES_URL"].replace("+psycopg2", "")
    with closing(psycopg2.connect(server)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert cursor.fetchall() == [("SUCCESS",)]
        cursor.execute("SELECT asset_key, partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
        assert sorted(cursor.fetchall()) == [('["stop"]', str(day)), ('["trip"]', str(day))]
    assert not list(home.rglob("*.db"))
