"""A codespace is set up by the Makefile's own targets, and forwards the ports that they serve on."""

import json
import re

from mbta_assets.live.command import Options
from mbta_assets_tests.support.dagster_dev import ROOT

CONTAINER = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
MAKEFILE = (ROOT / "Makefile").read_text()
DAGSTER_UI_PORT = 3000
"""Default of `dg dev`."""


def test_the_container_runs_and_names_targets_that_exist() -> None:
    named = [CONTAINER["postCreateCommand"], *(port["label"] for port in CONTAINER["portsAttributes"].values())]
    targets = [target for text in named for target in re.findall(r"make (\w+)", text)]
    assert sorted(targets) == ["dev", "install", "live", "serve"]
    for target in targets:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), target


def test_the_forwarded_ports_are_those_of_the_servers() -> None:
    (serve,) = re.findall(r"--target predict .*--port \$\(or \$\(PORT\),(\d+)\)", MAKEFILE)
    live = Options.port
    assert CONTAINER["forwardPorts"] == [DAGSTER_UI_PORT, int(serve), live]
    assert [int(port) for port in CONTAINER["portsAttributes"]] == CONTAINER["forwardPorts"]


def test_the_python_of_the_container_is_one_that_the_project_takes() -> None:
    python = re.search(r"-(\d+\.\d+)-", CONTAINER["image"])
    assert python and f"command -v python{python[1]}" in MAKEFILE


def test_the_image_is_pinned_to_one_release() -> None:
    """A tag without a release, or with its first number only, is moved with each release."""
    assert re.fullmatch(r"mcr\.microsoft\.com/devcontainers/python:\d+\.\d+\.\d+-\d+\.\d+-[a-z]+", CONTAINER["image"])
