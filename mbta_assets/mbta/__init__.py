"""Defaults for the MBTA: every value of the package that is about this agency, outside its archive and the simulator.

Settings default to them; what depends on the agency reads `mbta_assets.agency`. `prediction_accuracy.csv` is the
accuracy that the MBTA has published for its own predictions, by mode, route, bin and year (MassDOT).
"""

from collections.abc import Mapping
from pathlib import Path

NAME = "MBTA"
TIME_ZONE = "America/New_York"
SERVICE_DAY_START_HOUR = 3
GTFS_STATIC = "https://cdn.mbta.com/MBTA_GTFS.zip"
VEHICLE_POSITIONS = "https://cdn.mbta.com/realtime/VehiclePositions.pb"
LAMP_URL = "https://performancedata.mbta.com/lamp"
ATTRIBUTION = "MBTA data is provided by MassDOT."
"""Acknowledgement that MassDOT's licence asks of whoever shows the data; it allows no logos."""
ACCURACY_WINDOWS: Mapping[str, tuple[int, int]] = {
    "0-3 min": (-60, 60),
    "3-6 min": (-90, 120),
    "6-12 min": (-150, 210),
    "12-30 min": (-240, 360),
}
"""The MBTA's accuracy standard: errors in seconds between which predictions count as accurate, by time ahead."""
PUBLISHED_ACCURACY = Path(__file__).with_name("prediction_accuracy.csv")
LINE_COLORS = {"Red": "#c8102e", "Mattapan": "#c8102e", "Orange": "#b45309", "Blue": "#0b4a9e", "Green": "#00703c"}
"""Colors of the lines, dark enough for white text; a branch has the color of its line."""
EXAMPLE_ROUTE = "Red"
"""Route of the example query of the OpenAPI description."""
