"""Tables in Markdown, as documents have them and the command line prints them.

Nothing here imports Dagster, pandas or pandera, which take seconds to import. Tables that are made from the code's
assets, schema or commands are in `documentation`.
"""

from collections.abc import Iterable, Sequence

from mbta_assets.settings import VARIABLES


def settings_table(prefixes: Sequence[str] = ()) -> str:
    """Return a table of the variables whose names begin with one of the prefixes, by default of all."""
    return format_table(
        ("variable", "default", "accepts", "description"),
        (
            (f"`{entry.name}`", f"`{entry.default}`" if entry.default else "", entry.accepts, entry.description)
            for entry in VARIABLES
            if not prefixes or entry.name.startswith(tuple(prefixes))
        ),
    )


def format_table(titles: Sequence[str], rows: Iterable[Sequence[str]], optional: Sequence[str] = ()) -> str:
    """Return a Markdown table, without the `optional` columns that are empty."""
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    shown = [i for i, title in enumerate(titles) if title not in optional or any(row[i] for row in cells)]
    lines = [[titles[i] for i in shown], ["---"] * len(shown), *([row[i] for i in shown] for row in cells)]
    return "\n".join("|" + "|".join(f" {cell} " if cell != "---" else cell for cell in line) + "|" for line in lines)
