"""What a Dockerfile makes, without a container: its very commands, run with directories of their own as the root.

Only what needs root or the container's users is left out. Paths that a Dockerfile names are below the root here.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mbta_assets_tests.support.dagster_dev import ROOT

ONLY_IN_A_CONTAINER = ("useradd", "chown")
PATHS = re.compile(r"(?<![\w./])/(?:venv|store|home/mbta|app)\b")
"""Of the image, as far as its commands and variables name them."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    name: str
    rest: str


def instructions(dockerfile: Path) -> list[Instruction]:
    """A Dockerfile's instructions, its continued lines joined and its comments left out."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@dataclass
class Image:
    """An image that is being made below a root, and then run."""

    root: Path
    dockerfile: Path
    variables: dict[str, str] = field(default_factory=dict)
    directory: Path = field(init=False)

    def __post_init__(self) -> None:
        self.directory = self.root
        self.variables["PATH"] = f"{self.root}/venv/bin:/usr/bin:/bin"

    @classmethod
    def built(cls, dockerfile: Path, root: Path) -> "Image":
        """Build a Dockerfile. Raises AssertionError with what a command said where it fails."""
        image = cls(root, dockerfile)
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
        image.take(instructions(dockerfile))
        return image

    @classmethod
    def without_packages(cls, dockerfile: Path, root: Path) -> "Image":
        """Build the last stage of a Dockerfile; the programs and packages of this environment stand in for its own."""
        steps = instructions(dockerfile)
        [*_, last] = (number for number, step in enumerate(steps) if step.name == "FROM")
        root.mkdir(exist_ok=True)
        image = cls(root, dockerfile)
        image.take(steps[last:])
        image.variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return image

    def take(self, steps: Iterable[Instruction]) -> None:
        """Do what instructions say, except with what another stage has made."""
        for step in steps:
            if step.name == "WORKDIR":
                self.directory = Path(self.here(step.rest))
                self.directory.mkdir(parents=True, exist_ok=True)
            elif step.name == "ENV":
                for pair in shlex.split(self.here(step.rest)):
                    name, _, value = pair.partition("=")
                    self.variables[name] = value.replace("$PATH", self.variables["PATH"])
            elif step.name == "COPY" and not step.rest.startswith("--from"):
                self._copy(*shlex.split(self.here(step.rest)))
            elif step.name == "RUN":
                for command in step.rest.split("&&"):
                    self._build(self.here(command))

    def of(self, name: str) -> list[str]:
        """What follows each instruction of a name."""
        return [one.rest for one in instructions(self.dockerfile) if one.name == name]

    def command(self, *arguments: str) -> list[str]:
        """What a container runs: the entry point with arguments, or else the default command."""
        program = [json.loads(rest) for name in ("ENTRYPOINT", "CMD") for rest in self.of(name)[-1:]]
        words = [*program[0], *arguments] if arguments else [word for part in program for word in part]
        found = shutil.which(words[0], path=self.variables["PATH"])
        assert found, f"{words[0]} is not in the image"
        return [found, *words[1:]]

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run something in it."""
        environment = self.environment | variables
        return subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True)

    def resolve(self, install: str, report: Path) -> subprocess.CompletedProcess[str]:
        """Resolve what a `pip install` of the Dockerfile would install into an empty environment; see pip's --report."""
        _, *arguments = shlex.split(install)
        options = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(report)]
        return self.run([sys.executable, "-m", "pip", *arguments, *options])

    @property
    def environment(self) -> dict[str, str]:
        """That of the image; of this machine, only what a package index needs."""
        index = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
        return {**index, "PIP_NO_COMPILE": "1", **self.variables}  # compiling takes longer than installing

    def here(self, text: str) -> str:
        """A text whose paths in the image are those here."""
        return PATHS.sub(lambda found: f"{self.root}{found[0]}", text)

    def _build(self, command: str) -> None:
        program, *_ = shlex.split(command)
        if program in ONLY_IN_A_CONTAINER:
            return
        if program == "python":
            command = command.replace("python", shlex.quote(sys.executable), 1)
        ran = self.run(["/bin/sh", "-c", command])
        assert ran.returncode == 0, f"{command}\n{ran.stdout[-2000:]}\n{ran.stderr[-3000:]}"

    def _copy(self, *names: str) -> None:
        *sources, target = names
        for source in sources:
            goal = self.directory / target
            if target.endswith("/"):
                goal = goal / Path(source).name
            goal.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, goal, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, goal)


def pins(text: str) -> dict[str, str]:
    """Return the versions of packages that lines such as `name==version` name."""
    return {plain_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)}


def must_be_pinned(image: Image) -> None:
    """Raise AssertionError unless every installed package has the version of the constraints."""
    pinned = pins((ROOT / "constraints.txt").read_text())
    installed = pins(image.run([str(image.root / "venv/bin/pip"), "list", "--format=freeze"]).stdout)
    assert len(installed) > 20
    for name in installed.keys() - {"pip", "setuptools", "mbta-assets"}:
        assert pinned[name].split("+")[0] == installed[name].split("+")[0], name


def plain_name(name: str) -> str:
    """Return the name of a package in the form in which all its spellings are the same."""
    return re.sub(r"[-_.]+", "-", name).lower()
