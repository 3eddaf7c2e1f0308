"""The agency of this process, as its settings say when this module is imported, and what follows from who it is.

Service days, accuracy windows, terminals and the page depend on it. The MBTA's values are in `mbta_assets.mbta`.
"""

from collections.abc import Mapping
from pathlib import Path

from mbta_assets import mbta
from mbta_assets.settings import AgencySettings

AGENCY = AgencySettings.from_environment()


def is_mbta(agency: AgencySettings) -> bool:
    """Return whether an agency is the MBTA, as its name and its time zone say."""
    return (agency.agency_name, agency.time_zone) == (mbta.NAME, mbta.TIME_ZONE)


def describe_attribution(agency: AgencySettings) -> str:
    """Return the sentence that says whose data are shown."""
    return mbta.ATTRIBUTION if is_mbta(agency) else f"Data: {agency.agency_name}."


def select_line_colors(agency: AgencySettings) -> Mapping[str, str]:
    """Return the CSS colors of an agency's lines by name; none if they are not known."""
    return mbta.LINE_COLORS if is_mbta(agency) else {}


def find_accuracy_bounds(agency: AgencySettings) -> Path | None:
    """Return the file of published accuracy that an agency's predictions are held to, None if there is none.

    By default it is the MBTA's, for the MBTA in its own accuracy windows.
    """
    if isinstance(agency.accuracy_bounds, Path):
        return agency.accuracy_bounds
    has_published = is_mbta(agency) and agency.accuracy_windows == mbta.ACCURACY_WINDOWS
    return mbta.PUBLISHED_ACCURACY if has_published and agency.accuracy_bounds is None else None


def worker_environment(agency: AgencySettings) -> dict[str, str]:
    """Return the environment variables with which a process on another machine has the same agency.

    The file of bounds is not among them: it is on this machine, and nothing is judged on others.
    """
    return agency.dump_environment(exclude={"accuracy_bounds"})
