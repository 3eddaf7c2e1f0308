"""The documents of the project, their blocks of code, and the commands in these."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from mbta_assets_tests.support.dagster_dev import ROOT

DOCUMENTS = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")),
    ROOT / ".github/PULL_REQUEST_TEMPLATE.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
CHANGELOG = "CHANGELOG.md"
RENAMED = re.compile(r"^\|[^|\n]*\| now \|\n(?:\|.*\n)+", re.MULTILINE)
"""A table of two columns, names that were and what they are `now`."""
LOOP_WORDS = {"for", "do", "done"}


class Block(NamedTuple):
    """A block of code of a document."""

    text: str
    """Without the indentation of the block."""
    need: str
    """What it needs that a test cannot have, from the comment `<!-- needs: … -->` before it; mostly empty."""


def read_document(document: Path) -> str:
    """Return the text of a document that is about the code as it is.

    Of the changelog that is its newest section, and of tables of names that have changed what they are now.
    """
    text = document.read_text()
    if document.name != CHANGELOG:
        return text
    newest = re.split(r"^## ", text, maxsplit=2, flags=re.MULTILINE)[1]
    return RENAMED.sub(lambda table: re.sub(r"^\|[^|\n]*\|", "|", table[0], flags=re.MULTILINE), newest)


def read_blocks(document: Path, language: str) -> list[Block]:
    """Return the blocks of code of a language."""
    pattern = rf"(?:^ *<!-- needs: ([^\n]+) -->\n)?^( *)```{language}\n(.*?)^\2```"
    found = re.findall(pattern, read_document(document), re.DOTALL | re.MULTILINE)
    return [Block(re.sub(rf"^{indentation}", "", text, flags=re.MULTILINE), need) for need, indentation, text in found]


def read_spans(document: Path) -> list[str]:
    """Return the spans of inline code, each as one line."""
    text = re.sub(r"^( *)```.*?^\1```", "", read_document(document), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)]


def list_commands(script: str) -> Iterator[list[str]]:
    """Yield the words of each simple command of a shell script, without those that only repeat others."""
    script = re.sub(r"<<(\w+)\n.*?\n\1\n", "\n", script, flags=re.DOTALL)
    script = re.sub(r"(^|\s)#.*", "", script.replace("\\\n", " ")).replace("<this repository>", "REPOSITORY")
    words = shlex.shlex(script, posix=True, punctuation_chars="();|&\n")
    words.whitespace, words.whitespace_split, words.commenters = " \t\r", True, ""
    command: list[str] = []
    for word in words:
        if not set(word) - set("();|&\n"):
            yield from [command] if command and command[1:2] != ["in"] else []
            command = []
        elif word not in LOOP_WORDS or command:
            command.append(word)
    yield from [command] if command else []
