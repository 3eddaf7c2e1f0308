"""The page: plain HTML with its style inside, no script, nothing from anywhere else."""

from functools import cache
from typing import Any

from mbta_assets.serving.network import View

POLICY = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
"""Content-Security-Policy: the page can load nothing."""
COLORS = {"Red": "#c8102e", "Mattapan": "#c8102e", "Orange": "#d9730d", "Blue": "#0b4a9e", "Green": "#00703c"}
"""Of lines, as signed in Boston, dark enough for white letters; branches have that of their line."""
PLAIN = "#4a4a4a"
EARLY_SECONDS, LATE_SECONDS, VERY_LATE_SECONDS = -60, 120, 300


def page(view: View) -> str:
    """The page for a time."""
    at = view.times.index(view.time) if view.time else 0
    return _template().render(
        view=view,
        earlier=view.times[at - 1] if view.time and at > 0 else None,
        later=view.times[at + 1] if view.time and at + 1 < len(view.times) else None,
        problem=None,
    )


def problem(message: str) -> str:
    """The page where there is nothing to show, and why."""
    return _template().render(view=None, problem=message)


def color(route_id: str) -> str:
    """The colour of a line."""
    return COLORS.get(route_id.partition("-")[0], PLAIN)


def punctuality(delay_seconds: float) -> str:
    """A word for a delay, which colours it and is read out with it."""
    if delay_seconds < EARLY_SECONDS:
        return "early"
    if delay_seconds < LATE_SECONDS:
        return "on time"
    return "late" if delay_seconds < VERY_LATE_SECONDS else "very late"


def minutes(seconds: float) -> str:
    """Seconds with their sign as minutes and seconds."""
    whole = round(abs(seconds))
    return f"{'−' if seconds < 0 and whole else '+'}{whole // 60}:{whole % 60:02d}"


@cache
def _template() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("mbta_assets.serving", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"color": color, "punctuality": punctuality, "minutes": minutes}
    return environment.get_template("page.html")
