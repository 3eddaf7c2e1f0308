"""Read the Terraform files in deploy/terraform; an expression is text that begins with `${`, as the parser gives it."""

import re
from collections.abc import Iterator
from typing import Any

import hcl2

from mbta_assets_tests.support.dagster_dev import ROOT

DIRECTORY = ROOT / "deploy/terraform"


def parse(text: str) -> Any:
    """Return the content of a file, without the parser's quotes and without comments."""
    return strip(hcl2.loads(text))


def parse_value(text: str) -> Any:
    """Return the value of an expression."""
    return parse(f"value = {text}\n")["value"]


def strip(value: Any) -> Any:
    """Remove the quotes of strings, and the entries for comments and blocks, from what the parser returns."""
    if isinstance(value, dict):
        return {strip(key): strip(part) for key, part in value.items() if not key.startswith("__")}
    if isinstance(value, list):
        return [strip(part) for part in value]
    return value.strip('"') if isinstance(value, str) else value


def list_attributes(part: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name and the value of each attribute at any depth, and of each element of a list."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from list_attributes(value, key)
    elif isinstance(part, list):
        for value in part:
            yield from list_attributes(value, name)
    else:
        yield name, part


def find_blocks(kind: str) -> dict[str, Any]:
    """Return the blocks of a kind by name; by `type.name` if blocks of that kind have a type."""
    blocks: dict[str, Any] = {}
    for file in FILES:
        for block in file.get(kind, []):
            for name, content in block.items():
                typed = kind in ("resource", "data", "ephemeral")
                blocks |= {f"{name}.{inner}": part for inner, part in content.items()} if typed else {name: content}
    return blocks


def split_conditional(expression: str) -> tuple[str, Any, Any]:
    """Return the condition of a conditional expression, its value if that is true, and its value otherwise."""
    match = re.fullmatch(r"\$\{([^?]+) \? (.+) : (.+)\}", expression)
    assert match, expression
    condition, if_true, if_false = match.groups()
    return condition, parse_value(if_true), parse_value(if_false)


def find_objects(expression: object) -> list[dict[str, Any]]:
    """Return the objects in an expression, such as the arguments of `merge`."""
    return [parse_value(text) for text in re.findall(r"\{\w+ = [^{}]*\}", str(expression))]


FILES = [parse(path.read_text()) for path in sorted(DIRECTORY.glob("*.tf"))]
ATTRIBUTES = [(name, value) for file in FILES for name, value in list_attributes(file)]
RESOURCES, VARIABLES, LOCALS = find_blocks("resource"), find_blocks("variable"), find_blocks("locals")


def find_all(pattern: str) -> list[str]:
    """Return the matches of a pattern in the values of all attributes."""
    return [match for _, value in ATTRIBUTES for match in re.findall(pattern, str(value))]
