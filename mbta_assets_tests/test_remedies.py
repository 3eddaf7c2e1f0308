"""Every command that an error message or a page tells to type is one that there is."""

import ast
import re
import shlex
from collections.abc import Iterator

import pytest

from mbta_assets.storage.materialize import ANY_DAY, materialize_command
from mbta_assets.transit import schema
from mbta_assets_tests.test_documents import check_command, load_repository
from mbta_assets_tests.test_style import PACKAGE

WRITTEN_OUT = re.compile(r"asset materialize [^`\n]*--select [^`\s]")
"""A command in the code itself; a docstring may name the option alone."""


def find_calls() -> Iterator[tuple[str, ...]]:
    """Yield the arguments of each call of `materialize_command` that are written in the code."""
    for path in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", None) == materialize_command.__name__:
                arguments = [ANY_DAY if getattr(part, "id", "") == "ANY_DAY" else part for part in node.args]
                values = [part.value if isinstance(part, ast.Constant) else part for part in arguments]
                if all(isinstance(value, str) for value in values):
                    yield tuple(map(str, values))


def test_the_command_is_put_together_in_one_place() -> None:
    paths = [path for pattern in ("*.py", "*.html") for path in sorted(PACKAGE.rglob(pattern))]
    assert [path.name for path in paths if WRITTEN_OUT.search(path.read_text())] == ["materialize.py"]
    assert WRITTEN_OUT.search(materialize_command("trip"))


@pytest.mark.parametrize("arguments", sorted(set(find_calls())), ids=" ".join)
def test_a_command_that_is_told_is_one_that_there_is(arguments: tuple[str, ...]) -> None:
    check_command(shlex.split(materialize_command(*arguments)))


def test_the_command_of_every_asset_and_table_is_one_that_there_is() -> None:
    graph = load_repository().asset_graph
    for key in graph.materializable_asset_keys:
        partition = "2024-09-18" if graph.get(key).is_partitioned else ""
        check_command(shlex.split(materialize_command(key.to_user_string(), partition)))
    for table in schema.TABLES.keys() - schema.OPTIONAL_UPSTREAM.keys():
        check_command(shlex.split(materialize_command(table, "2024-09-16...2024-09-18")))
