"""Counts of things as messages have them."""


def format_count(count: int, noun: str) -> str:
    """Return a count with its noun, which takes an "s" unless there is one: "1 service day", "1,000 rows"."""
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"
