"""Generated parts of the documentation: the tables of settings in Markdown files.

Each stands between two markers, so that a document is brought up to date without touching what people wrote.
"""

import re
from collections.abc import Sequence

from mbta_assets.settings import VARIABLES

TABLE = re.compile(r"(<!-- settings:begin([^>]*) -->\n).*?(<!-- settings:end -->)", re.DOTALL)


def settings_table(prefixes: Sequence[str] = ()) -> str:
    """Return a Markdown table of the variables whose names begin with one of the prefixes, by default of all."""
    rows = ["| variable | default | accepts | description |", "|---|---|---|---|"]
    for entry in VARIABLES:
        if not prefixes or entry.name.startswith(tuple(prefixes)):
            default = f"`{entry.default}`" if entry.default else ""
            accepts = entry.accepts.replace("|", "\\|")
            rows.append(f"| `{entry.name}` | {default} | {accepts} | {entry.description} |")
    return "\n".join(rows)


def update_tables(markdown: str) -> str:
    """Return a document with the tables between its markers generated anew.

    A table is between `<!-- settings:begin -->` and `<!-- settings:end -->`. Prefixes of variable names after `begin`
    select its rows, as in `<!-- settings:begin VERTEX_ RAY_ -->`.
    """
    return TABLE.sub(lambda match: f"{match[1]}{settings_table(match[2].split())}\n{match[3]}", markdown)
