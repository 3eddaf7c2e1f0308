"""deploy/docker-compose.yaml as Compose reads it: anchors merged, variables put in."""

import re
from typing import Any

import yaml

from mbta_assets_tests.support.dagster_dev import ROOT

FILE = ROOT / "deploy/docker-compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?::(-|\?)([^}]*))?\}")


def services(**variables: str) -> dict[str, Any]:
    """The services, with some variables set. Raises KeyError where one that is needed is not."""

    def filled(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: filled(part) for key, part in value.items()}
        if isinstance(value, list):
            return [filled(part) for part in value]
        return VARIABLE.sub(value_of, value) if isinstance(value, str) else value

    def value_of(found: re.Match[str]) -> str:
        name, how, rest = found.groups()
        return rest if how == "-" and not variables.get(name) else variables[name]

    return filled(raw()["services"])


def raw() -> dict[str, Any]:
    """The file with its variables as they are written."""
    return yaml.safe_load(FILE.read_text())
