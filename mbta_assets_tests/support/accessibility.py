"""What axe-core finds wrong with a page, in light and in dark, and what the Tab key reaches on it."""

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page

RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
"""The success criteria of the Web Content Accessibility Guidelines up to 2.2, level AA."""
SETTLED = "Promise.all(document.getAnimations().map(animation => animation.finished.catch(() => null)))"

FOCUSED = """() => {
    const element = document.activeElement
    if (!element || element === document.body || element.dataset.reached) return null
    element.dataset.reached = 'true'
    const style = getComputedStyle(element), box = element.getBoundingClientRect()
    const outlined = style.outlineStyle !== 'none' && parseFloat(style.outlineWidth) >= 2
    return {
        name: (element.getAttribute('aria-label') || element.textContent).trim(),
        isSeen: outlined && box.width > 0 && box.right > 0 && box.bottom > 0 && box.top < innerHeight,
    }
}"""
INTERACTIVE = "a[href], button, select, input, summary, [tabindex='0']"
MAX_STOPS = 200


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


def walk_by_keyboard(page: Page) -> list[str]:
    """Press Tab until nothing else is reached, and return the name of each element that got the focus.

    Raise AssertionError where a focus cannot be seen, an element has no name, or one is not reached.
    """
    page.evaluate("document.querySelectorAll('[data-reached]').forEach(element => delete element.dataset.reached)")
    names: list[str] = []
    for _ in range(MAX_STOPS):
        page.keyboard.press("Tab")
        focused = page.evaluate(FOCUSED)
        if focused is None:
            break
        assert focused["name"], f"what follows {names} has no name"
        assert focused["isSeen"], f"the focus on {focused['name']} cannot be seen"
        names.append(focused["name"])
    missed = page.locator(INTERACTIVE).and_(page.locator(":not([data-reached])")).filter(visible=True)
    assert missed.all_inner_texts() == []
    return names
