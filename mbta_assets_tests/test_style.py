"""The style of the package: docstrings, sizes, and words that a newcomer would have to learn."""

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TypeAlias

import pytest

import mbta_assets

PACKAGE = Path(inspect.getfile(mbta_assets)).parent
MODULES = {str(path.relative_to(PACKAGE)): path.read_text() for path in sorted(PACKAGE.rglob("*.py"))}
TREES = {module: ast.parse(source) for module, source in MODULES.items()}
MAX_MODULE_LINES = 400
MAX_FUNCTION_LINES = 50
MIN_IMPERATIVE_SHARE = 0.9

Function: TypeAlias = ast.FunctionDef | ast.AsyncFunctionDef

NOT_VERBS = re.findall(
    r"\w+",
    """
    A An The This That These Those Its Their His Her Our Your My It They We You He She I One Some Any All Each Every
    Both Many Much Most More Less Few Several No None Nothing Nobody Another Other Same Such
    What Which Who Whom Whose When Where Why How Whether If Unless Until While Because As Like Than
    In On At Of For From To With Without By Into Under Over Between After Before And Or But Not Only Also Then There
    Here So Too Very True False
    """,
)
VERBS_IN_S_ING_OR_ED = {
    "Pass",
    "Process",
    "Compress",
    "Discuss",
    "Address",
    "Express",
    "Bring",
    "Feed",
    "Embed",
    "Need",
}

PRIVATE_WORDS = re.findall(
    r"\w+",
    """
    Kept Told told hear settle ask Asked asked Seen rows_as_usual no_feature_from_the_future causality came_true
    Measured few drawn together alone each Growth Classroom lesson UNSTEADY steady CALENDAR promise RuntimeLookup
    what_can_be_read must_be_of _must_be_about_the_same described where_they_are _in_runs_of explained may_pass look
    lacking Moment needed known Call ScheduledStop overtaken LOST_NODES PATIENCE receipt outside here _of_first _agree
    """,
)
PRIVATE_FUNCTIONS = {"share", "grow"}
"""Words of the field as values, such as the share of rows that have a label, but not as names of functions."""


def functions(tree: ast.Module) -> Iterator[Function]:
    """Yield the functions, methods and properties of a module."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def first_words() -> dict[str, str]:
    """Return the first word of each docstring of a function, method or property, by its place."""
    return {
        f"{module}:{function.lineno} {function.name}": re.split(r"\W", docstring, maxsplit=1)[0]
        for module, tree in TREES.items()
        for function in functions(tree)
        if (docstring := ast.get_docstring(function))
    }


def is_imperative(word: str) -> bool:
    """Return whether a word can be a verb in its base form that begins a sentence."""
    if word in VERBS_IN_S_ING_OR_ED:
        return True
    is_capitalised = re.fullmatch("[A-Z][a-z]+", word) is not None
    return is_capitalised and word not in NOT_VERBS and not word.endswith(("s", "ing", "ed"))


def identifiers(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield each name that a module defines, assigns or takes as an argument, with its line."""
    for node in ast.walk(tree):
        if isinstance(node, Function | ast.ClassDef):
            yield node.lineno, node.name
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.value.lineno, node.arg
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.Attribute):
            yield node.lineno, node.attr
        elif isinstance(node, ast.alias) and node.asname:
            yield node.lineno, node.asname


@pytest.mark.parametrize(
    ("word", "imperative"),
    [("Return", True), ("Pass", True), ("Returns", False), ("The", False), ("Whether", False), ("Reading", False)]
    + [("Stored", False), ("where", False), ("N", False), ("HTTP", False)],
)
def test_the_check_of_docstrings_knows_a_verb_from_other_words(word: str, imperative: bool) -> None:
    assert is_imperative(word) == imperative


def test_docstrings_of_functions_begin_with_an_imperative_verb() -> None:
    words = first_words()
    others = [f"{place}: {word}" for place, word in words.items() if not is_imperative(word)]
    assert len(words) > 500
    assert len(others) <= (1 - MIN_IMPERATIVE_SHARE) * len(words), "\n".join(others)


def test_a_function_fits_on_a_screen() -> None:
    lengths = {
        f"{module}:{function.lineno} {function.name}": (function.end_lineno or 0) - function.lineno + 1
        for module, tree in TREES.items()
        for function in functions(tree)
    }
    assert {place: length for place, length in lengths.items() if length > MAX_FUNCTION_LINES} == {}


def test_a_module_is_read_in_one_sitting() -> None:
    lengths = {module: len(source.splitlines()) for module, source in MODULES.items()}
    assert {module: length for module, length in lengths.items() if length > MAX_MODULE_LINES} == {}


def test_conditions_at_run_time_raise_and_are_not_asserted() -> None:
    # `python -O` skips assertions.
    asserted = [
        f"{module}:{node.lineno}"
        for module, tree in TREES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Assert)
    ]
    assert asserted == []


def test_identifiers_are_words_of_the_field() -> None:
    private = [
        f"{module}:{line} {name}"
        for module, tree in TREES.items()
        for line, name in identifiers(tree)
        if name in PRIVATE_WORDS or name.startswith(("FEWEST_", "MOST_"))
    ]
    private += [
        f"{module}:{function.lineno} {function.name}"
        for module, tree in TREES.items()
        for function in functions(tree)
        if function.name in PRIVATE_FUNCTIONS
    ]
    assert private == []
