"""Generated parts of the documentation: tables of settings, columns, assets, checks, configuration, commands.

Each stands between two markers, so that a document is brought up to date without touching what people wrote:

    python -m mbta_assets.documentation README.md docs/*.md

Functions import what they need: Dagster and pandas take seconds to import, and few documents have tables of both.
"""

import inspect
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, get_args

from mbta_assets.markdown import format_table, settings_table
from mbta_assets.settings import Settings

MAX_DEFAULT = 60
"""Maximum number of characters of a default value that is shown."""
MAKEFILE = Path(__file__).parents[1] / "Makefile"
TARGET = r"^([a-z-]+):.*?## (.*)\n((?:[\t#].*\n)*)"
"""A target of the Makefile that has a description, this, and the lines of its recipe."""
VARIABLES_OF_MAKE = ("CURDIR", "MAKEFILE_LIST")
"""Variables that make itself assigns."""


def update_document(markdown: str) -> str:
    """Return a document with the tables between its markers generated anew.

    A table is between `<!-- settings:begin -->` and `<!-- settings:end -->`, where `settings` is one of `GENERATORS`.
    Words after `begin` are its arguments, as in `<!-- settings:begin VERTEX_ RAY_ -->`. Blocks of other kinds are left
    as they are. Raises KeyError for an asset or a table that there is not.
    """

    def replace(match: re.Match[str]) -> str:
        begin, kind, arguments, end = match.groups()
        return f"{begin}{GENERATORS[kind](arguments.split())}\n{end}"

    return BLOCK.sub(replace, markdown)


def columns_table(tables: Sequence[str]) -> str:
    """Return a table of the columns of each of some tables, under a heading and the meaning of its rows."""
    from mbta_assets.transit import schema

    return "\n\n".join(_describe_table(name, schema.TABLES[name]) for name in tables or schema.TABLES)


def upstream_table(_: Sequence[str] = ()) -> str:
    """Return a table of the columns that a source needs to deliver of each upstream table, and of those that it may."""
    from mbta_assets.transit import schema

    rows = []
    for name, table in schema.SOURCE_TABLES.items():
        columns: dict[bool, list[str]] = {True: [], False: []}
        for column, spec in table.to_schema().columns.items():
            if column != "service_date":
                columns[spec.metadata["required"]].append(f"`{column}`")
        title = f"`{name}`" if name in schema.UPSTREAM else f"`{name}`, optional"
        rows.append((title, ", ".join(columns[True]), ", ".join(columns[False])))
    return format_table(("table", "required columns", "optional columns"), rows)


def assets_table(_: Sequence[str] = ()) -> str:
    """Return a table of all assets with what they are made from."""
    graph = _build_repository().asset_graph
    rows = []
    for key in sorted(graph.get_all_asset_keys(), key=lambda key: (graph.get(key).group_name, key.to_user_string())):
        node = graph.get(key)
        parents = ", ".join(f"`{parent.to_user_string()}`" for parent in sorted(node.parent_keys))
        days = "each service day" if node.partitions_def else ""
        rows.append((f"`{key.to_user_string()}`", node.group_name, days, parents, _first_line(node.description)))
    return format_table(("asset", "group", "made for", "made from", "what it is"), rows)


def checks_table(_: Sequence[str] = ()) -> str:
    """Return a table of all asset checks, each with the assets that have it."""
    graph = _build_repository().asset_graph
    assets: dict[tuple[str, str, str], list[str]] = {}
    for key in graph.asset_check_keys:
        spec = graph.get_check_spec(key)
        check = key.name, "stops" if spec.blocking else "warns", _first_line(spec.description)
        assets.setdefault(check, []).append(f"`{key.asset_key.to_user_string()}`")
    rows = ((f"`{check[0]}`", ", ".join(sorted(assets[check])), *check[1:]) for check in sorted(assets))
    return format_table(("check", "assets", "if it fails", "what it requires"), rows)


def config_table(names: Sequence[str]) -> str:
    """Return a table of the run configuration of each of some assets and ops, by default of all, under headings.

    Raises KeyError for one that there is not.
    """
    configs = {config.name: config for config in _list_configs()}
    return "\n\n".join(_describe_config(configs[name]) for name in names or sorted(configs))


def classes_table(_: Sequence[str] = ()) -> str:
    """Return a table of the class of run configuration of each asset, and of each op of a job, that has one."""
    rows = (
        (f"`{config.name}`", f"`{config.model.__module__}.{config.model.__name__}`", _first_line(config.model.__doc__))
        for config in sorted(_list_configs(), key=lambda config: config.name)
    )
    return format_table(("asset or op", "class", "what it is"), rows)


def resources_table(_: Sequence[str] = ()) -> str:
    """Return a table of the resources of a deployment on one machine, with their classes and fields."""
    from mbta_assets.definitions import build_resources

    rows = []
    for name, resource in sorted(build_resources(Settings()).items()):
        kind = type(resource)
        texts = {field: about.description for field, about in kind.model_fields.items() if about.description}
        fields = " ".join(f"`{field}`: {_first_line(text)}" for field, text in texts.items())
        rows.append((f"`{name}`", f"`{kind.__module__}.{kind.__name__}`", _first_line(kind.__doc__), fields))
    return format_table(("resource", "class", "what it is", "fields"), rows)


def query_table(_: Sequence[str] = ()) -> str:
    """Return a table of the fields of an arrival query."""
    from mbta_assets.serving.arrival_query import REQUIRED_FIELDS, ArrivalQuery

    return format_table(
        ("field", "type", "needed", "meaning"),
        (
            (
                f"`{field.name}`",
                " or ".join(kind.__name__ for kind in get_args(field.type) or (field.type,)).replace(
                    "NoneType", "None"
                ),
                "yes" if field.name in REQUIRED_FIELDS else "",
                field.metadata["description"],
            )
            for field in fields(ArrivalQuery)
        ),
    )


def commands_table(_: Sequence[str] = ()) -> str:
    """Return usage, help, arguments and options of each command of `mbta-assets`, under headings."""
    import click

    from mbta_assets.cli import main

    root = click.Context(main, **main.context_settings)
    return "\n\n".join(
        _describe_command(words, click.Context(command, parent=root))
        for words, command in _list_commands("mbta-assets", main)
    )


def targets_table(_: Sequence[str] = ()) -> str:
    """Return a table of the Makefile's targets that have a description, with the variables that they take."""
    makefile = MAKEFILE.read_text()
    assigned = {*re.findall(r"^(?:export )?([A-Z_]+) *[?:]?=", makefile, re.MULTILINE), *VARIABLES_OF_MAKE}
    rows = []
    for target, description, recipe in re.findall(TARGET, makefile, re.MULTILINE):
        defaults = dict(re.findall(r"\$\(or \$\(([A-Z_]+)\),([^)]+)\)", recipe))
        names = [name for name in dict.fromkeys(re.findall(r"\$\(([A-Z_]+)\)", recipe)) if name not in assigned]
        variables = (f"`{name}`" + (f", by default {defaults[name]}" if name in defaults else "") for name in names)
        rows.append((f"`make {target}`", "; ".join(variables), description))
    return format_table(("target", "variables", "what it does"), rows)


GENERATORS: Mapping[str, Callable[[Sequence[str]], str]] = {
    "settings": settings_table,
    "columns": columns_table,
    "upstream": upstream_table,
    "assets": assets_table,
    "checks": checks_table,
    "config": config_table,
    "classes": classes_table,
    "resources": resources_table,
    "query": query_table,
    "commands": commands_table,
    "targets": targets_table,
}
BLOCK = re.compile(rf"(<!-- ({'|'.join(GENERATORS)}):begin([^>]*) -->\n).*?(<!-- \2:end -->)", re.DOTALL)


@cache
def _build_repository() -> Any:
    """Return the definitions of a deployment without any settings."""
    from mbta_assets.definitions import build_defs

    return build_defs(Settings()).get_repository_def()


def _describe_table(name: str, table: Any) -> str:
    """Return heading, meaning and columns of a table."""
    from mbta_assets.transit import schema
    from mbta_assets.transit.column_sources import SOURCES
    from mbta_assets.transit.table import to_arrow_type

    rows = []
    for column, spec in table.to_schema().columns.items():
        about = spec.metadata
        missing = "may be missing" if spec.nullable else ""
        if name in schema.SOURCE_TABLES and not about["required"]:
            missing = "may be left out"
        values = ", ".join(filter(None, (_format_rules(spec.checks), missing)))
        use = " ".join(filter(None, (about["role"], f"({about['group']})" if about["group"] else "")))
        kind = str(to_arrow_type(spec.dtype.type))
        source = ", ".join(f"`{source}`" for source in SOURCES.get(name, {}).get(column, ()))
        rows.append((f"`{column}`", kind, about["unit"] or "", values, use, source, spec.description))
    order = ", ".join(f"`{column}`" for column in table.Config.metadata["order"])
    titles = ("column", "type", "unit", "values", "model input", "source", "meaning")
    columns = format_table(titles, rows, optional=("unit", "values", "model input", "source"))
    return f"### `{name}`\n\n{inspect.getdoc(table)}\n\n{columns}\n\nRows are ordered by {order}."


def _format_rules(checks: Iterable[Any]) -> str:
    """Return the values that pandera's checks accept."""
    signs = {"greater_than_or_equal_to": "≥", "less_than_or_equal_to": "≤", "greater_than": ">", "less_than": "<"}
    texts = []
    for check in checks:
        statistics = check.statistics or {}
        if check.name == "isin":
            texts.append("one of " + ", ".join(f"`{value}`" for value in statistics["allowed_values"]))
        elif check.name in signs:
            texts.append(f"{signs[check.name]} {next(iter(statistics.values())):g}")
        else:
            texts.append(check.name)
    return ", ".join(texts)


class _Config(NamedTuple):
    """Run configuration of an asset, or of an op of a job."""

    name: str
    job: str
    """Empty for an asset."""
    fields: Mapping[str, Any]
    """As Dagster has them, with plain defaults."""
    model: Any
    """As pydantic has them, with the values that are allowed."""


def _list_configs() -> Iterator[_Config]:
    """Yield the run configuration of each asset, and of each op of a job, that has one."""
    repository = _build_repository()
    assets = repository.assets_defs_by_key.items()
    ops = {key.to_user_string(): ("", asset.op) for key, asset in assets if asset.is_executable}
    for job in repository.get_all_jobs():
        for node in job.nodes:
            ops.setdefault(node.name, (job.name, node.definition))
    for name, (job, op) in ops.items():
        fields = getattr(op.config_schema.config_type, "fields", None)
        if fields:
            yield _Config(name, job, fields, op.compute_fn.get_config_arg().annotation)


def _describe_config(config: _Config) -> str:
    """Return heading and keys of a run configuration."""
    of_job = f"An op of the job `{config.job}`.\n\n" if config.job else ""
    rows = _flatten("", config.fields, config.model)
    return f"### `{config.name}`\n\n{of_job}" + format_table(
        ("key", "default", "values", "description"), rows, optional=("values",)
    )


def _flatten(prefix: str, fields: Mapping[str, Any], model: Any) -> Iterator[tuple[str, str, str, str]]:
    """Yield key, default, allowed values and description of each field; those of nested fields with the path to them.

    The path to a field of the items of a list has brackets, as in `cuts[].neurons`.
    """
    for name, field in sorted(fields.items()):
        about, items = model.model_fields[name], field.config_type
        while hasattr(items, "inner_type"):
            items = items.inner_type
        if nested := getattr(field.config_type, "fields", None):
            yield from _flatten(f"{prefix}{name}.", nested, about.annotation)
            continue
        default = _format_default(field.default_value) if field.default_provided else "required"
        yield f"`{prefix}{name}`", default, _format_bounds(about.metadata), _first_line(field.description)
        if nested := getattr(items, "fields", None):
            yield from _flatten(f"{prefix}{name}[].", nested, get_args(about.annotation)[0])


def _format_bounds(constraints: Iterable[Any]) -> str:
    """Return the values that pydantic's constraints of a field accept."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    texts = []
    for constraint in constraints:
        if getattr(constraint, "min_length", None):
            texts.append(f"{constraint.min_length} or more of them")
        texts += [f"{sign} {getattr(constraint, key)}" for key, sign in signs.items() if hasattr(constraint, key)]
    return ", ".join(texts)


def _list_commands(path: str, group: Any) -> Iterator[tuple[str, Any]]:
    """Yield the commands of a group of click, and those of the groups in it, each after the words that call it."""
    for name, command in sorted(group.commands.items()):
        yield f"{path} {name}", command
        yield from _list_commands(f"{path} {name}", command) if hasattr(command, "commands") else ()


def _describe_command(words: str, context: Any) -> str:
    """Return heading, usage, help, arguments and options of a command of click."""
    command = context.command
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    parts = [f"### `{words}`", f"```text\n{usage}\n```", inspect.cleandoc(command.help)]
    rows = []
    for parameter in command.params:
        is_argument = parameter.param_type_name == "argument"
        names = [parameter.make_metavar(context)] if is_argument else [*parameter.opts, *parameter.secondary_opts]
        name = ", ".join(f"`{name}`" for name in names)
        rows.append((name, _format_option_default(parameter), _format_type(parameter.type), parameter.help))
    if rows:
        parts.append(format_table(("argument or option", "default", "accepts", "description"), rows, ("accepts",)))
    return "\n\n".join(parts)


def _format_option_default(parameter: Any) -> str:
    """Return what holds without an option of click, or that it is required."""
    about = parameter.to_info_dict()
    shown = getattr(parameter, "show_default", None)
    if about["required"]:
        return "required"
    if isinstance(shown, str):
        return shown
    if parameter.secondary_opts:
        return f"`{(parameter.opts if about['default'] else parameter.secondary_opts)[0]}`"
    return "" if about.get("is_flag") or about["default"] in (None, "") else f"`{about['default']}`"


def _format_type(kind: Any) -> str:
    """Return what an argument or option of click accepts."""
    about = kind.to_info_dict()
    names = {"DateTime": "YYYY-MM-DD", "Int": "a whole number", "Float": "a number", "Path": "a path", "String": "text"}
    name = names.get(about["param_type"].removesuffix("Range"), "")
    least, most = about.get("min"), about.get("max")
    if most is not None:
        return f"{name} from {least:g} to {most:g}"
    return name if least is None else f"{name}, {least:g} or more"


def _format_default(value: Any) -> str:
    """Return a default value, or how many there are where a list is long."""
    text = f"`{value}`" if value != "" else ""
    return text if len(text) <= MAX_DEFAULT else f"{len(value)} of them"


def _first_line(description: str | None) -> str:
    """Return the first paragraph of a description as one line."""
    return " ".join((description or "").split("\n\n")[0].split())


if __name__ == "__main__":
    for path in map(Path, sys.argv[1:]):
        path.write_text(update_document(path.read_text()))
