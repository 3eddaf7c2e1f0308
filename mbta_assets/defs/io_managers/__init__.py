"""IO managers: how assets receive their inputs and how their outputs are stored."""

from mbta_assets.defs.io_managers.bundles import BundleIOManager
from mbta_assets.defs.io_managers.tables import DailyOutput, StoredTable, TablesIOManager, UpstreamIOManager

__all__ = ["BundleIOManager", "DailyOutput", "StoredTable", "TablesIOManager", "UpstreamIOManager"]
