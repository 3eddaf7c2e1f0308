"""The commands of the project's GitHub workflows, as these files say them."""

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
"""The step that makes the virtual environment, which is the one that the tests run in."""


@dataclass(frozen=True)
class Command:
    """What one step runs."""

    name: str
    script: str

    def run(self, environment: Mapping[str, str]) -> None:
        """Run it in the project's root, as a runner would. Raises AssertionError with what it said where it fails."""
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        command = ["bash", "-e", "-o", "pipefail", "-c", self.script]
        ran = subprocess.run(command, cwd=ROOT, env={**environment, "PATH": path}, capture_output=True, text=True)
        assert ran.returncode == 0, f"{self.name}: {self.script}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"


def job_of(file: str) -> dict[str, Any]:
    """The one job of a workflow."""
    [job] = yaml.safe_load((WORKFLOWS / file).read_text())["jobs"].values()
    return job


def commands_of(file: str) -> list[Command]:
    """What the steps of a workflow run once everything is installed."""
    steps = [step for step in job_of(file)["steps"] if "run" in step and step["name"] != INSTALL]
    return [Command(step["name"], step["run"]) for step in steps]
