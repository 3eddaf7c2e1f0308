"""The serving image, built with the commands of its Dockerfile in an otherwise empty environment."""

import re
import subprocess
import tomllib

import pytest

from mbta_assets_tests.serving.conftest import ModelStore, query_json
from mbta_assets_tests.support.dagster_dev import ROOT, eventually, free_port
from mbta_assets_tests.support.function_server import FunctionServer
from mbta_assets_tests.support.image import Image, assert_pinned

MAX_SIZE_BYTES = 300_000_000
TRAINING_LIBRARIES = ("torch", "dagster", "pandas", "xgboost", "ray", "pandera", "pyarrow", "duckdb", "scipy", "wandb")


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """Build the image once; its packages are really installed."""
    return Image.build(ROOT / "deploy/Dockerfile.serving", tmp_path_factory.mktemp("image"))


def test_the_image_is_small_and_has_no_training_library(image: Image) -> None:
    assert sum(path.stat().st_size for path in image.root.rglob("*") if path.is_file()) < MAX_SIZE_BYTES
    python = str(image.root / "venv/bin/python")
    script = (
        "import sys, mbta_assets.serving, mbta_assets.serving.http_app, mbta_assets.serving.upstream_events; "
        "print(*sys.modules)"
    )
    imported = image.run([python, "-c", script])
    assert imported.returncode == 0, imported.stderr
    assert set(TRAINING_LIBRARIES).isdisjoint(imported.stdout.split())
    installed = image.run([python, "-m", "pip", "list", "--format=freeze"]).stdout
    assert "onnxruntime==" in installed
    assert not [name for name in TRAINING_LIBRARIES if re.search(rf"^{name}==", installed, re.M)]


def test_all_packages_of_the_image_are_pinned(image: Image) -> None:
    assert_pinned(image)


def test_the_command_of_the_image_serves_a_store(image: Image, full_store: ModelStore) -> None:
    port, log = free_port(), image.root / "log"
    variables = {"PORT": str(port), "HOST": "127.0.0.1", "MBTA_MODEL": str(full_store.root)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            image.command(),
            cwd=image.directory,
            env=image.environment | variables,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    server = FunctionServer(process, port, log)
    try:
        eventually("the server listens", 60, server.is_listening)
        response = server.request("/predict", {"queries": [query_json()]})
        assert response.json()["model_version"] == full_store.models[0].digest
        assert b"towards" in server.request("/").body
    finally:
        server.stop()


def test_the_image_runs_without_root_on_a_base_image_of_an_exact_version(image: Image) -> None:
    assert int(image.arguments_of("USER")[-1]) > 0
    [base] = image.arguments_of("FROM")
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base)


def test_the_image_installs_the_serving_dependencies_of_the_package() -> None:
    lines = (ROOT / "deploy/functions/requirements.txt").read_text().splitlines()
    installed = {line for line in lines if line and not line.startswith("#")}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

    def parse_names(requirements: list[str]) -> set[str]:
        return {re.split(r"[<>=\[ ;]", requirement)[0] for requirement in requirements}

    serving = parse_names(project["optional-dependencies"]["serving"])
    assert serving <= installed
    assert installed - serving <= parse_names(project["dependencies"])
