"""The Postgres variant of dagster.yaml, uncommented from that very file, on a real PostgreSQL."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from mbta_assets_tests.running import small_upstream
from mbta_assets_tests.running.dagster_dev import ROOT, environment, free_port

NOBODY = "nobody"
PASSWORD = "tram"


def postgres_variant() -> str:
    """dagster.yaml with the block uncommented that begins with its storage."""
    written, commented = (ROOT / "dagster.yaml").read_text().split("# storage:\n")
    return written + "storage:\n" + "".join(f"{line.removeprefix('# ')}\n" for line in commented.splitlines())


@pytest.fixture
def postgres(postgres_programs: Path) -> Iterator[dict[str, str]]:
    """A PostgreSQL server of its own, and what dagster.yaml's variables say of it."""
    # Its server refuses to run as root, and a directory of pytest's is closed to everyone else.
    directory = Path(tempfile.mkdtemp(prefix="postgres-"))
    as_user = {"user": NOBODY, "group": pwd.getpwnam(NOBODY).pw_gid, "extra_groups": []} if os.geteuid() == 0 else {}
    if as_user:
        shutil.chown(directory, NOBODY)
    port, data, password = free_port(), directory / "data", directory / "password"
    password.write_text(PASSWORD)
    password.chmod(0o644)

    def run(program: str, *arguments: str) -> None:
        ran = subprocess.run(
            [str(postgres_programs / program), *arguments], cwd=directory, capture_output=True, text=True, **as_user
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr

    try:
        run("initdb", "-D", str(data), "-U", "dagster", "--auth=scram-sha-256", f"--pwfile={password}", "--no-sync")
        settings = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={directory} -c fsync=off"
        run("pg_ctl", "-D", str(data), "-o", settings, "-l", str(directory / "log"), "--wait", "start")
        try:
            yield {
                "DAGSTER_POSTGRES_HOST": "127.0.0.1",
                "DAGSTER_POSTGRES_PORT": str(port),
                "DAGSTER_POSTGRES_USER": "dagster",
                "DAGSTER_POSTGRES_PASSWORD": PASSWORD,
                "DAGSTER_POSTGRES_DB": "postgres",
            }
        finally:
            run("pg_ctl", "-D", str(data), "--mode=immediate", "stop")
    finally:
        shutil.rmtree(directory)


def test_the_variant_differs_from_the_file_in_its_storage_only():
    variant = yaml.safe_load(postgres_variant())
    assert list(variant.pop("storage")) == ["postgres"]
    assert variant == yaml.safe_load((ROOT / "dagster.yaml").read_text())


def test_a_run_is_kept_in_postgres(tmp_path, postgres):
    import psycopg2

    [day] = small_upstream.days_from(small_upstream.MONDAY, 1)
    small_upstream.write(tmp_path / "upstream", [day])
    variables = environment(tmp_path / "store", tmp_path / "upstream", **postgres)
    home = Path(variables["DAGSTER_HOME"])
    (home / "dagster.yaml").write_text(postgres_variant())
    command = [sys.executable, "-m", "dagster", "asset", "materialize", "-m", "mbta_assets.definitions"]
    asked = ["--select", "stop,trip", "--partition", str(day)]
    ran = subprocess.run([*command, *asked], cwd=ROOT, env=variables, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr[-4000:]

    server = {name: postgres[f"DAGSTER_POSTGRES_{name.upper()}"] for name in ("host", "port", "user", "password")}
    with closing(psycopg2.connect(dbname="postgres", **server)) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT status FROM runs")
        assert cursor.fetchall() == [("SUCCESS",)]
        cursor.execute("SELECT asset_key, partition FROM event_logs WHERE dagster_event_type = 'ASSET_MATERIALIZATION'")
        assert sorted(cursor.fetchall()) == [('["stop"]', str(day)), ('["trip"]', str(day))]
    assert not list(home.rglob("*.db"))
