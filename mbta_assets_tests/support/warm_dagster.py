"""Run `python -m dagster` in forks of a process that has imported the libraries, which saves seconds of each command.

Everything else is as in a process of its own: the environment, the arguments, the code location, the exit status.
"""

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mbta_assets_tests.support.dagster_dev import ROOT

WARM_MODULES = ("dagster", "dagster._cli", "duckdb", "pandas", "mbta_assets.defs.automation", "mbta_assets.defs.models")


class WarmDagster:
    """A process that runs commands one after the other, each in a fork of it."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", __name__]
        variables = {**os.environ, "PYTHONPATH": str(ROOT), "DAGSTER_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster` with some arguments in an environment, and return its status and all that it printed."""
        if self._process.stdin is None or self._process.stdout is None:
            raise ValueError("The process was started without pipes.")
        with tempfile.NamedTemporaryFile(mode="r", suffix=".log") as log:
            request = {"variables": dict(variables), "arguments": arguments, "log": log.name}
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            status = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(["dagster", *arguments], status, Path(log.name).read_text())

    def materialize(self, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster asset materialize` of the project's definitions."""
        return self.run(variables, "asset", "materialize", "-m", "mbta_assets.definitions", *arguments)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def serve() -> None:
    """Run the commands that are read from standard input, and print the status of each."""
    for module in WARM_MODULES:
        __import__(module)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            run_command(request)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run_command(request: Mapping[str, Any]) -> None:
    """Run a command in this process, which ends with it."""
    log = os.open(request["log"], os.O_WRONLY)
    for stream in (1, 2):
        os.dup2(log, stream)
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.argv = ["dagster", *request["arguments"]]
    status: Any = 1
    try:
        runpy.run_module("dagster", run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status if isinstance(status, int) else 0 if status is None else 1)


if __name__ == "__main__":
    serve()
