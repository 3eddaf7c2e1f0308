"""Read deploy/docker-compose.yaml as Compose does, with anchors merged and variables replaced by their values."""

import re
from typing import Any

import yaml

from mbta_assets_tests.support.dagster_dev import ROOT

FILE = ROOT / "deploy/docker-compose.yaml"
VARIABLE = re.compile(r"\$\{(\w+)(?::(-|\?)([^}]*))?\}")


def read_services(**variables: str) -> dict[str, Any]:
    """Return the services for some variables. Raise KeyError for a required variable that is not set."""

    def replace(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: replace(part) for key, part in value.items()}
        if isinstance(value, list):
            return [replace(part) for part in value]
        return VARIABLE.sub(get_value, value) if isinstance(value, str) else value

    def get_value(match: re.Match[str]) -> str:
        name, operator, default = match.groups()
        return default if operator == "-" and not variables.get(name) else variables[name]

    services: dict[str, Any] = replace(read_file()["services"])
    return services


def read_file() -> dict[str, Any]:
    """Return the content of the file, with its variables as they are written."""
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content
