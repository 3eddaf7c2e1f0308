"""IO managers: how assets receive their inputs and how their outputs are stored."""

from mbta_assets.defs.io_managers.bundles import BundleIOManager
from mbta_assets.defs.io_managers.tables import StoredTable, TablesIOManager, UpstreamIOManager

__all__ = ["BundleIOManager", "StoredTable", "TablesIOManager", "UpstreamIOManager"]
