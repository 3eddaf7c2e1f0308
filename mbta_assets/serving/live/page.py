"""The live page: one HTML document with its style and script inline, which asks for `/network.json` again and again.

The browser runs and styles nothing but what is in the document, and loads nothing but from where the page came from:
the content security policy has the digests of both.
"""

import hashlib
from base64 import b64encode
from functools import cache
from typing import NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined

from mbta_assets.agency import AGENCY, describe_attribution

ETAG_DIGITS = 32


class LivePage(NamedTuple):
    """The document, and the headers that belong to it."""

    html: str
    content_security_policy: str
    etag: str


@cache
def render_live_page() -> LivePage:
    """Return the page of this process's agency."""
    environment = Environment(
        loader=PackageLoader("mbta_assets.serving.live", "."), autoescape=True, undefined=StrictUndefined
    )
    script, style = (environment.loader.get_source(environment, f"page.{kind}")[0] for kind in ("js", "css"))  # type: ignore[union-attr]
    template = environment.get_template("page.html")
    html = template.render(agency=AGENCY, attribution=describe_attribution(AGENCY), script=script, style=style)
    policy = (
        f"default-src 'none'; connect-src 'self'; script-src '{_digest(script)}'; style-src '{_digest(style)}'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return LivePage(html, policy, hashlib.sha256(html.encode()).hexdigest()[:ETAG_DIGITS])


def _digest(text: str) -> str:
    """Return the digest of an inline script or style as a content security policy names it."""
    return f"sha256-{b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
