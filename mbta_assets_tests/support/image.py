"""Build the image of a Dockerfile without a container: its commands are run with a directory as their root.

Commands that need root or the container's users are left out. Paths that a Dockerfile names are translated to paths
below that directory.
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
"""Paths in the image that commands and variables of the Dockerfiles name."""


@dataclass(frozen=True)
class Instruction:
    """One instruction of a Dockerfile."""

    name: str
    arguments: str


def read_instructions(dockerfile: Path) -> list[Instruction]:
    """Return the instructions of a Dockerfile, with continued lines joined and without comments."""
    text = re.sub(r"^#.*\n", "", dockerfile.read_text(), flags=re.M).replace("\\\n", " ")
    return [Instruction(*line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


@dataclass
class Image:
    """An image that is built and run below a root directory."""

    root: Path
    dockerfile: Path
    variables: dict[str, str] = field(default_factory=dict)
    """Environment variables that the image sets."""
    directory: Path = field(init=False)
    """Working directory."""

    def __post_init__(self) -> None:
        self.directory = self.root
        self.variables["PATH"] = f"{self.root}/venv/bin:/usr/bin:/bin"

    @classmethod
    def build(cls, dockerfile: Path, root: Path) -> "Image":
        """Build a Dockerfile. Raises AssertionError with the output of a command that fails."""
        image = cls(root, dockerfile)
        subprocess.run([sys.executable, "-m", "venv", root / "venv"], check=True)
        image.execute(read_instructions(dockerfile))
        return image

    @classmethod
    def build_last_stage(cls, dockerfile: Path, root: Path) -> "Image":
        """Build the last stage of a Dockerfile; programs and packages of this environment replace its own."""
        instructions = read_instructions(dockerfile)
        last_stage = max(index for index, instruction in enumerate(instructions) if instruction.name == "FROM")
        root.mkdir(exist_ok=True)
        image = cls(root, dockerfile)
        image.execute(instructions[last_stage:])
        image.variables["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        return image

    def execute(self, instructions: Iterable[Instruction]) -> None:
        """Execute instructions, except copies from another stage."""
        for instruction in instructions:
            arguments = self.translate_paths(instruction.arguments)
            if instruction.name == "WORKDIR":
                self.directory = Path(arguments)
                self.directory.mkdir(parents=True, exist_ok=True)
            elif instruction.name == "ENV":
                for pair in shlex.split(arguments):
                    name, _, value = pair.partition("=")
                    self.variables[name] = value.replace("$PATH", self.variables["PATH"])
            elif instruction.name == "COPY" and not arguments.startswith("--from"):
                self._copy(*shlex.split(arguments))
            elif instruction.name == "RUN":
                for command in instruction.arguments.split("&&"):
                    self._run_build_command(self.translate_paths(command))

    def arguments_of(self, name: str) -> list[str]:
        """Return the arguments of each instruction with a name."""
        return [instruction.arguments for instruction in read_instructions(self.dockerfile) if instruction.name == name]

    def command(self, *arguments: str) -> list[str]:
        """Return the command of a container: the entry point with `arguments`, by default with those of CMD."""
        parts = [json.loads(text) for name in ("ENTRYPOINT", "CMD") for text in self.arguments_of(name)[-1:]]
        words = [*parts[0], *arguments] if arguments else [word for part in parts for word in part]
        program = shutil.which(words[0], path=self.variables["PATH"])
        assert program, f"{words[0]} is not in the image"
        return [program, *words[1:]]

    def run(self, command: list[str], **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a command in the image's environment and working directory."""
        environment = self.environment | variables
        return subprocess.run(command, cwd=self.directory, env=environment, capture_output=True, text=True)

    def resolve(self, install: str, report: Path) -> subprocess.CompletedProcess[str]:
        """Resolve a `pip install` of the Dockerfile in this environment, and report what is not installed in it yet."""
        _, *arguments = shlex.split(install)
        options = ["--dry-run", "--quiet", "--report", str(report)]
        return self.run([sys.executable, "-m", "pip", *arguments, *options])

    @property
    def environment(self) -> dict[str, str]:
        """Return the environment of the image, with those variables of this machine that a package index needs."""
        index = {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name == "HOME"}
        return {**index, "PIP_NO_COMPILE": "1", **self.variables}  # compiling takes longer than installing

    def translate_paths(self, text: str) -> str:
        """Replace the paths in the image that a text names by those below the root."""
        return PATHS.sub(lambda match: f"{self.root}{match[0]}", text)

    def _run_build_command(self, command: str) -> None:
        """Run a command of the build. Raises AssertionError with its output if it fails."""
        program, *_ = shlex.split(command)
        if program in ONLY_IN_A_CONTAINER:
            return
        if program == "python":
            command = command.replace("python", shlex.quote(sys.executable), 1)
        process = self.run(["/bin/sh", "-c", command])
        assert process.returncode == 0, f"{command}\n{process.stdout[-2000:]}\n{process.stderr[-3000:]}"

    def _copy(self, *names: str) -> None:
        """Copy files and directories of the project to the last of the names."""
        *sources, target = names
        for source in sources:
            destination = self.directory / target
            if target.endswith("/"):
                destination = destination / Path(source).name
            destination.parent.mkdir(parents=True, exist_ok=True)
            if (ROOT / source).is_dir():
                shutil.copytree(ROOT / source, destination, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(ROOT / source, destination)


def parse_pins(text: str) -> dict[str, str]:
    """Return the version of each package in lines such as `name==version`."""
    return {normalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==(\S+)$", text, re.M)}


def assert_pinned(image: Image) -> None:
    """Raise AssertionError unless every installed package has the version of constraints.txt."""
    pinned = parse_pins((ROOT / "constraints.txt").read_text())
    installed = parse_pins(image.run([str(image.root / "venv/bin/pip"), "list", "--format=freeze"]).stdout)
    assert len(installed) > 20
    for name in installed.keys() - {"pip", "setuptools", "mbta-assets"}:
        assert pinned[name].split("+")[0] == installed[name].split("+")[0], name


def normalize_name(name: str) -> str:
    """Return the normalized name of a package, which is the same for all spellings."""
    return re.sub(r"[-_.]+", "-", name).lower()
