"""Aliases of stop ids: terminals report the id of a berth where the schedule has the id of the platform."""

PLATFORM_ALIASES = {
    "Alewife-01": "70061",
    "Alewife-02": "70061",
    "Braintree-01": "70105",
    "Braintree-02": "70105",
    "Forest Hills-01": "70001",
    "Forest Hills-02": "70001",
    "Oak Grove-01": "70036",
    "Oak Grove-02": "70036",
}
"""Scheduled stop id by reported stop id."""
