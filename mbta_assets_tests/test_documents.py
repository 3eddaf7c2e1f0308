"""No document names a command, option, selection, configuration, setting, file or identifier that does not exist."""

import ast
import json
import re
import shlex
from collections.abc import Set
from functools import cache
from pathlib import Path

import click
import dagster as dg
import pytest
from dagster._cli import create_dagster_cli
from dagster_dg_cli.cli import create_dg_cli

from mbta_assets.cli import main
from mbta_assets.definitions import build_defs
from mbta_assets.settings import VARIABLES, Settings
from mbta_assets_tests.support.dagster_dev import ROOT
from mbta_assets_tests.support.documents import DOCUMENTS, list_commands, read_blocks, read_document, read_spans

OTHER_PROGRAMS = {
    ".", "cat", "cd", "cp", "curl", "docker", "echo", "gcloud", "git", "mkdir", "openssl", "pip", "pre-commit",
    "printf", "python3", "tail", "terraform", "umask",
}  # fmt: skip
"""Programs whose arguments are their own matter."""
SOURCES = (
    "mbta_assets/**/*",
    "mbta_assets_tests/**/*.py",
    "benchmarks/*.py",
    "deploy/**/*",
    "docs/*.py",
    ".github/**/*.yml",
)
TEXTS = {".py", ".sql", ".html", ".js", ".css", ".csv", ".yaml", ".yml", ".tf", ".txt", ".training", ".serving"}
ROOT_FILES = ("Makefile", "pyproject.toml", "dagster.yaml", "workspace.yaml", "constraints.txt")
VARIABLE = re.compile(r"\b(?:MBTA|GCP|GCS|BIGQUERY|VERTEX|RAY|WANDB)_[A-Z][A-Z_]*[A-Z]\b")
IDENTIFIER = re.compile(r"`([a-z][a-z0-9]*(?:_[a-z0-9]+)+)`")
FILE = re.compile(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|sql|md|yaml|yml|toml|json|csv|html))`")
LAUNCHERS = {"dg": create_dg_cli(), "dagster": create_dagster_cli()}
COMMAND = re.compile(r"(?:\.venv/bin/)?(?:mbta-assets|dg|dagster|make|python|pytest)(?: .*)?")
PLACEHOLDERS = {"SELECTION": "production_model"}
"""Values in place of words in upper case that a command would not take; others are taken as they are."""
COMPOSED = {"report_uri"}
"""Names that the code puts together."""
PLACES = ("", "mbta_assets/", "docs/", "deploy/")
"""Directories that documents name files from."""
all_documents = pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)


@cache
def load_repository() -> dg.RepositoryDefinition:
    return build_defs(Settings()).get_repository_def()


@cache
def load_jobs() -> set[str]:
    return {job.name for job in load_repository().get_all_jobs()}


def parse(
    program: click.Command, name: str, arguments: list[str], parent: click.Context | None = None
) -> dict[str, object]:
    """Parse arguments as a program does, without running it, and return those of the innermost command."""
    context = program.make_context(name, list(arguments), parent=parent)
    if not isinstance(program, click.Group):
        return context.params
    next_name, command, rest = program.resolve_command(context, [*context._protected_args, *context.args])
    assert command is not None and next_name is not None
    return parse(command, next_name, rest, context)


def require_assets(selection: str) -> Set[dg.AssetKey]:
    """Return the assets of a selection; fail if there are none."""
    graph = load_repository().asset_graph
    keys = dg.AssetSelection.from_string(selection).resolve(graph)
    assert keys, f"{selection} selects nothing"
    return keys


def require_valid_launch(options: dict[str, object]) -> None:
    """Fail unless assets, job and configuration of a launch exist."""
    selection, config = options.get("assets") or options.get("select"), options.get("config_json")
    job = options.get("job") or options.get("job_name")
    assert selection or job, "neither assets nor a job are launched"
    keys = require_assets(str(selection)) if selection else None
    if keys:
        partition = options.get("partition") or options.get("partition_range")
        is_partitioned = any(load_repository().asset_graph.get(key).is_partitioned for key in keys)
        assert bool(partition) == is_partitioned, f"{selection} is partitioned: {is_partitioned}"
    if "select" in options:
        assert options["module_name"], "without -m, `dagster asset materialize` finds no definitions"
    if job:
        assert job in load_jobs()
    if config:
        definition = (
            load_repository().get_implicit_job_def_for_assets(sorted(keys))
            if keys
            else load_repository().get_job(str(job))
        )
        assert definition is not None
        dg.validate_run_config(definition, json.loads(str(config)))


def check_command(command: list[str]) -> None:
    """Fail unless a command is one that there is, and its arguments are ones that it takes."""
    assigned = [word for word in command if re.match(r"[A-Z][A-Z_]*=", word)]
    if command[0] == "export" or len(assigned) == len(command):
        names = {word.split("=")[0] for word in command if "=" in word}
        assert names <= {entry.name for entry in VARIABLES} | {"DAGSTER_HOME"}, names
        return
    if re.match(r"[a-z]+=", command[0]) or command[0] in OTHER_PROGRAMS or command[0].startswith("$"):
        return
    program, arguments = command[0].removeprefix(".venv/bin/"), command[1:]
    if program == "make":
        targets = {word for word in arguments if "=" not in word}
        assert targets and targets <= set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    elif program == "mbta-assets":
        options = parse(main, program, arguments)
        if "selection" in options:
            require_assets(str(options["selection"]))
    elif program in LAUNCHERS:
        require_valid_launch(parse(LAUNCHERS[program], program, arguments))
    elif program in ("python", "pytest"):
        assert all((ROOT / word).exists() for word in arguments if word.endswith(".py"))
    else:
        assert program in OTHER_PROGRAMS, f"{program} is no command that is known here"


def check_span(span: str) -> None:
    """Fail unless an inline command is one that there is; it may be a name only, without its arguments."""
    [command] = list_commands(span)
    program, *arguments = [PLACEHOLDERS.get(word, word) for word in command]
    program = program.removeprefix(".venv/bin/")
    click_program = main if program == "mbta-assets" else LAUNCHERS.get(program)
    if click_program and all(re.fullmatch(r"[a-z][a-z-]*", word) for word in arguments):
        require_command(click_program, arguments)
    elif arguments:
        check_command([program, *arguments])


def require_command(program: click.Command, names: list[str]) -> None:
    """Fail unless a program has a command, given by the names of its groups and its own."""
    for name in names:
        assert isinstance(program, click.Group), f"{program.name} has no commands"
        command = program.get_command(click.Context(program), name)
        assert command is not None, f"{program.name} has no command {name}"
        program = command


@cache
def read_sources() -> str:
    """Return the text of the code and of what configures it."""
    paths = [ROOT / name for name in ROOT_FILES]
    for pattern in SOURCES:
        paths += (path for path in ROOT.glob(pattern) if path.suffix in TEXTS and path != Path(__file__))
    return "\n".join(path.read_text() for path in paths)


@all_documents
def test_commands_exist_and_take_their_arguments(document: Path) -> None:
    for block in read_blocks(document, "sh"):
        for command in list_commands(block.text):
            try:
                check_command(command)
            except (AssertionError, click.ClickException, dg.DagsterError) as error:
                pytest.fail(f"{document.name}: {shlex.join(command)}: {error}")


@all_documents
def test_inline_commands_exist_and_take_their_arguments(document: Path) -> None:
    for span in filter(COMMAND.fullmatch, read_spans(document)):
        try:
            check_span(span)
        except (AssertionError, click.ClickException, dg.DagsterError) as error:
            pytest.fail(f"{document.name}: {span}: {error}")


@all_documents
def test_python_is_valid_and_imports_what_there_is(document: Path) -> None:
    for block in read_blocks(document, "python"):
        for statement in ast.parse(block.text).body:
            if isinstance(statement, ast.Import | ast.ImportFrom):
                exec(compile(ast.Module([statement], []), document.name, "exec"), {})


@all_documents
def test_settings_exist(document: Path) -> None:
    names = set(VARIABLE.findall(read_document(document)))
    unknown = names - {entry.name for entry in VARIABLES}
    assert not {name for name in unknown if name not in read_sources()}


@all_documents
def test_identifiers_and_files_exist(document: Path) -> None:
    text, sources = read_document(document), read_sources()
    known = sources + "".join(block.text for block in read_blocks(document, "python"))
    names = {name.removesuffix("_total") for name in IDENTIFIER.findall(text)} - COMPOSED
    assert not {name for name in names if not re.search(rf"\b{name}\b", known)}
    # Files of a store or of an archive are named by the code.
    files = {name for name in FILE.findall(text) if name.split("/")[-1] not in sources}
    assert not {name for name in files if not any((ROOT / place / name).exists() for place in PLACES)}


@pytest.mark.parametrize(
    "command",
    [
        ["make", "coffee"],
        ["dg", "launch", "--assets", "group:buses"],
        ["dg", "launch", "--asset", "trip"],
        [
            "dg",
            "launch",
            "--assets",
            "dnn_teacher",
            "--config-json",
            '{"ops": {"dnn_teacher": {"config": {"epoch": 3}}}}',
        ],
        ["dg", "launch", "--job", "roll_back"],
        ["dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select", "trips"],
        ["dagster", "asset", "materialize", "--select", "production_model"],
        ["dagster", "asset", "materialize", "-m", "mbta_assets.definitions", "--select", "network_snapshot"],
        ["mbta-assets", "backfill", "--first", "2024-09-09"],
        ["mbta-assets", "launch", "job", "--select", "key:teacher"],
        ["export", "MBTA_COLOUR=red"],
        ["mbta", "demo"],
    ],
    ids=" ".join,
)
def test_a_command_that_there_is_not_is_found(command: list[str]) -> None:
    with pytest.raises((AssertionError, click.ClickException, dg.DagsterError)):
        check_command(command)


@pytest.mark.parametrize(
    "span",
    [
        "make coffee",
        "dg start",
        "dg launch now",
        "dg launch --assets group:buses",
        "dagster asset materialise",
        "mbta-assets prunes",
        "mbta-assets prune --dry",
        "mbta-assets launch jobs",
        "python benchmarks/coffee.py STORE",
    ],
)
def test_an_inline_command_that_there_is_not_is_found(span: str) -> None:
    assert COMMAND.fullmatch(span)
    with pytest.raises((AssertionError, click.ClickException, dg.DagsterError)):
        check_span(span)


@pytest.mark.parametrize("span", ["dg", "dg launch", "dg launch --assets SELECTION", "make", "dagster dev"])
def test_an_inline_command_may_be_a_name_or_have_a_placeholder(span: str) -> None:
    check_span(span)


def test_spans_are_read_outside_of_blocks(tmp_path: Path) -> None:
    document = tmp_path / "document.md"
    document.write_text("Run `make\n  test`:\n\n```sh\necho `make coffee`\n```\n\nor `dg`, not `dagster.yaml`.\n")
    assert read_spans(document) == ["make test", "dg", "dagster.yaml"]
    assert not COMMAND.fullmatch("dagster.yaml")


def test_of_the_changelog_its_newest_section_is_read_and_what_has_a_new_name(tmp_path: Path) -> None:
    document = tmp_path / "CHANGELOG.md"
    document.write_text(
        "# Changelog\n\n## Unreleased\n\n`kept_name`\n\n| settings | now |\n|---|---|\n| `old_name` | `new_name` |\n"
        "| | new: `make drum` |\n\n`make tea`\n\n## 0.1.0\n\n`make coffee` and `older_name`\n"
    )
    assert read_spans(document) == ["kept_name", "new_name", "make drum", "make tea"]
    other = document.rename(tmp_path / "other.md")
    assert {"old_name", "make coffee", "older_name"} < {*read_spans(other)}


def test_a_script_is_taken_apart() -> None:
    script = (
        "cd a && make b  # not c\nexport D=e F='g h'\nfor i in j; do\n    k l | m\ndone\ncat <<EOF\nn\nEOF\no \\\n  p\n"
    )
    assert list(list_commands(script)) == [
        ["cd", "a"], ["make", "b"], ["export", "D=e", "F=g h"], ["k", "l"], ["m"], ["cat"], ["o", "p"]
    ]  # fmt: skip
