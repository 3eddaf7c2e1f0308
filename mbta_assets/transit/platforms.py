"""Aliases of stop ids that the stream still looks up; stations are matched by `parent_station`."""

PLATFORM_ALIASES: dict[str, str] = {}
