"""Run `python -m dagster` in forks of a process that has imported the libraries, which saves seconds of each command.

Everything else is as in a process of its own: the environment, the arguments, the code location, the exit status.
"""

import contextlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mbta_assets_tests.support.dagster_dev import ROOT

WARM_MODULES = ("dagster", "dagster._cli", "duckdb", "pandas", "mbta_assets.defs.automation", "mbta_assets.defs.models")


class WarmDagster:
    """A process that runs commands one after the other, each in a fork of it and a process group of its own.

    `modules` are imported besides those that every command needs, with the values of `variables`.
    """

    def __init__(self, modules: Sequence[str] = (), variables: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, "-m", __name__, *modules]
        environment = {**os.environ, **(variables or {}), "PYTHONPATH": str(ROOT), "DAGSTER_DISABLE_TELEMETRY": "1"}
        self._process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def start(self, variables: Mapping[str, str], log: Path, *arguments: str) -> int:
        """Start `dagster` with some arguments in an environment, and return the id of its process group.

        What it prints goes to a file that exists. `wait` must be called before another command is started.
        """
        if self._process.stdin is None:
            raise ValueError("The process was started without pipes.")
        request = {"variables": dict(variables), "arguments": arguments, "log": str(log)}
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._read_number()

    def wait(self) -> int:
        """Return the exit status of the command that was started, negative if a signal has ended it."""
        return self._read_number()

    def run(self, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster` with some arguments in an environment, and return its status and all that it printed."""
        with tempfile.NamedTemporaryFile(mode="r", suffix=".log") as log:
            self.start(variables, Path(log.name), *arguments)
            return subprocess.CompletedProcess(["dagster", *arguments], self.wait(), Path(log.name).read_text())

    def materialize(self, variables: Mapping[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `dagster asset materialize` of the project's definitions."""
        return self.run(variables, "asset", "materialize", "-m", "mbta_assets.definitions", *arguments)

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _read_number(self) -> int:
        if self._process.stdout is None:
            raise ValueError("The process was started without pipes.")
        return int(self._process.stdout.readline())


def serve() -> None:
    """Run the commands that are read from standard input, and print the process group and the status of each."""
    for module in (*WARM_MODULES, *sys.argv[1:]):
        __import__(module)
    for line in sys.stdin:
        request = json.loads(line)
        child = os.fork()
        if child == 0:
            os.setpgid(0, 0)
            run_command(request)
        with contextlib.suppress(PermissionError):  # it has already done so
            os.setpgid(child, child)
        print(child, flush=True)
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
