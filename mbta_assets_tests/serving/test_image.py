"""The serving image: the very commands of its Dockerfile, run in an environment that has nothing else in it."""

import re
import subprocess
import tomllib

import pytest

from mbta_assets_tests.serving.conftest import Production, Server
from mbta_assets_tests.serving.test_http import plain
from mbta_assets_tests.support.dagster_dev import ROOT, eventually, free_port
from mbta_assets_tests.support.image import Image, must_be_pinned

MOST_BYTES = 300_000_000
TRAINING = ("torch", "dagster", "pandas", "xgboost", "ray", "pandera", "pyarrow", "duckdb", "scipy", "wandb")

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return Image.built(ROOT / "deploy/Dockerfile.serving", tmp_path_factory.mktemp("image"))


def test_it_is_small_and_has_nothing_that_trains(image: Image) -> None:
    assert sum(path.stat().st_size for path in image.root.rglob("*") if path.is_file()) < MOST_BYTES
    imported = "mbta_assets.serving, mbta_assets.serving.http, mbta_assets.serving.events"
    loaded = image.run([*_python(image), "-c", f"import sys, {imported}; print(*sys.modules)"])
    assert loaded.returncode == 0, loaded.stderr
    assert set(TRAINING).isdisjoint(loaded.stdout.split())
    installed = image.run([*_python(image), "-m", "pip", "list", "--format=freeze"]).stdout
    assert "onnxruntime==" in installed
    assert not [name for name in TRAINING if re.search(rf"^{name}==", installed, re.M)]


def _python(image: Image) -> list[str]:
    return [str(image.root / "venv/bin/python")]


def test_what_is_in_it_is_pinned(image: Image) -> None:
    must_be_pinned(image)


def test_its_command_serves_a_store(image: Image, whole_store: Production) -> None:
    port, log = free_port(), image.root / "log"
    variables = {"PORT": str(port), "HOST": "127.0.0.1", "MBTA_MODEL": str(whole_store.root)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.command(),
            cwd=image.directory,
            env=image.environment | variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        eventually("it answers", 60, server.answers)
        answer = server.ask("/predict", {"moments": [plain()]})
        assert answer.json()["model_version"] == whole_store.models[0].digest
        assert b"towards" in server.ask("/").body
    finally:
        server.stop()


def test_it_runs_as_nobody_in_particular_on_a_base_that_is_named(image: Image) -> None:
    assert int(image.of("USER")[-1]) > 0
    [base] = image.of("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_what_it_installs_is_what_the_package_asks_of_a_server() -> None:
    lines = (ROOT / "deploy/functions/requirements.txt").read_text().splitlines()
    needed = {line for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ;]", one)[0] for one in requirements}

    serving = names(project["optional-dependencies"]["serving"])
    assert serving <= needed
    assert needed - serving <= names(project["dependencies"])
