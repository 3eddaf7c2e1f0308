"""What axe-core finds wrong with a page, in light and in dark: names of controls, contrast, order, language."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
"""The success criteria of the Web Content Accessibility Guidelines up to 2.2, level AA."""
SETTLED = "Promise.all(document.getAnimations().map(animation => animation.finished.catch(() => null)))"


def find_violations(page: Page) -> list[str]:
    """Return a line for each element of the open page that breaks a rule, in either colour scheme."""
    found = []
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        page.evaluate(SETTLED)
        found += [
            f"{scheme}: {violation['id']}: {violation['help']}: {node['html'][:200]}"
            for violation in Axe().run(page, options=RULES).response["violations"]
            for node in violation["nodes"]
        ]
    page.emulate_media(color_scheme=None, reduced_motion=None)
    return found
