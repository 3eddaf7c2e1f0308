"""Run the commands of the project's GitHub workflows, read from the workflow files."""

import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from mbta_assets_tests.support.dagster_dev import ROOT

WORKFLOWS = ROOT / ".github/workflows"
INSTALL = "Install"
"""The step that makes the virtual environment; the tests run in that environment already."""


@dataclass(frozen=True)
class Command:
    """The shell script of one step."""

    name: str
    script: str

    def run(self, environment: Mapping[str, str]) -> None:
        """Run the script in the project's root, as a runner does. Raise AssertionError with its output if it fails."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", "-e", "-o", "pipefail", "-c", self.script]
        ran = subprocess.run(command, cwd=ROOT, env={**environment, "PATH": path}, capture_output=True, text=True)
        assert ran.returncode == 0, f"{self.name}: {self.script}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"


def read_job(file: str) -> dict[str, Any]:
    """Return the only job of a workflow file."""
    [job] = yaml.safe_load((WORKFLOWS / file).read_text())["jobs"].values()
    return job


def read_commands(file: str) -> list[Command]:
    """Return the commands of a workflow's steps after the installation."""
    steps = [step for step in read_job(file)["steps"] if "run" in step and step["name"] != INSTALL]
    return [Command(step["name"], step["run"]) for step in steps]
