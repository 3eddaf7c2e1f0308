"""The serving image: the very commands of its Dockerfile, run in an environment that has nothing else in it."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

import pytest

from mbta_assets_tests.running.dagster_dev import ROOT, eventually, free_port
from mbta_assets_tests.serving.conftest import Production, Server
from mbta_assets_tests.serving.test_http import plain

DOCKERFILE = ROOT / "deploy/Dockerfile.serving"
MOST_BYTES = 300_000_000
ONLY_IN_A_CONTAINER = "useradd"
TRAINING = ("torch", "dagster", "pandas", "xgboost", "ray", "pandera", "pyarrow", "duckdb", "scipy", "wandb")


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    name: str
    rest: str


def instructions() -> list[Instruction]:
    """The Dockerfile, its continued lines joined and its comments left out."""
    text = re.sub(r"^#.*\n", "", DOCKERFILE.read_text(), flags=re.M).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def of(name: str) -> list[str]:
    return [one.rest for one in instructions() if one.name == name]


@dataclass(frozen=True)
class Image:
    """What the Dockerfile makes, in directories of their own."""

    app: Path
    venv: Path

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=self.app, env=self.environment | variables, capture_output=True, text=True)

    @property
    def environment(self) -> dict[str, str]:
        """That of the image; of this machine, only what a package index needs."""
        own = dict(pair.split("=", 1) for pair in shlex.split(" ".join(of("ENV"))))
        index = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
        return {**index, "PATH": f"{self.venv}/bin:/usr/bin:/bin", "VIRTUAL_ENV": str(self.venv), **own}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    """The image, built in a clean virtual environment."""
    root = tmp_path_factory.mktemp("image")
    subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
    built = Image(root / "app", root / "venv")
    built.app.mkdir()
    for step in instructions():
        if step.name == "COPY":
            *sources, target = step.rest.split()
            for source in sources:
                _copy(ROOT / source, built.app / target / (source if target == "./" else ""))
        elif step.name == "RUN":
            for command in step.rest.split("&&"):
                words = shlex.split(command)
                if words[0] != ONLY_IN_A_CONTAINER:
                    ran = built.run(words)
                    assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"
    return built


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        shutil.copy(source, target)


@pytest.mark.timeout(600)
def test_it_is_small_and_has_nothing_that_trains(image: Image) -> None:
    size = sum(path.stat().st_size for path in (*image.venv.rglob("*"), *image.app.rglob("*")) if path.is_file())
    assert size < MOST_BYTES
    script = (
        "import sys, mbta_assets.serving, mbta_assets.serving.http, mbta_assets.serving.events; print(*sys.modules)"
    )
    loaded = image.run(["python", "-c", script])
    assert loaded.returncode == 0, loaded.stderr
    assert set(TRAINING).isdisjoint(loaded.stdout.split())
    installed = image.run(["pip", "list", "--format=freeze"]).stdout
    assert not [name for name in TRAINING if re.search(rf"^{name}==", installed, re.M)]


@pytest.mark.timeout(600)
def test_what_is_in_it_is_pinned(image: Image) -> None:
    pinned = {
        re.sub(r"[-_.]+", "-", name).lower(): version
        for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.M)
    }
    installed = re.findall(r"^([\w.-]+)==(\S+)$", image.run(["pip", "list", "--format=freeze"]).stdout, re.M)
    assert len(installed) > 20
    for name, version in installed:
        plain_name = re.sub(r"[-_.]+", "-", name).lower()
        if plain_name not in ("pip", "setuptools", "mbta-assets"):
            assert pinned.get(plain_name) == version, name


@pytest.mark.timeout(600)
def test_its_command_serves_a_store(image: Image, whole_store: Production) -> None:
    program, *arguments = json.loads(of("CMD")[0])
    port, log = free_port(), image.app.parent / "log"
    variables = {"PORT": str(port), "HOST": "127.0.0.1", "MBTA_MODEL": str(whole_store.root)}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(image.venv / "bin" / program), *arguments],
            cwd=image.app,
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


def test_it_runs_as_nobody_in_particular_and_says_what_it_is_made_from() -> None:
    names = [one.name for one in instructions()]
    assert names.index("USER") < names.index("CMD")
    [user] = of("USER")
    assert int(user) > 0
    [base] = of("FROM")
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
