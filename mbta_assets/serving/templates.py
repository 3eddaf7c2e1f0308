"""The templates of the HTML pages of this package, as Jinja opens them."""

from collections.abc import Callable
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from mbta_assets.agency import AGENCY, describe_attribution


@cache
def open_template(name: str, filters: tuple[Callable[..., Any], ...] = ()) -> Template:
    """Return the compiled template of a page, which may use some functions as filters, by their names."""
    environment = Environment(
        loader=PackageLoader("mbta_assets.serving", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {function.__name__: function for function in filters}
    environment.globals |= {"agency": AGENCY, "attribution": describe_attribution(AGENCY)}
    return environment.get_template(name)
