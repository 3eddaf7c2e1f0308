"""The `lamp` source: the MBTA's archive of the subway's performance, a file for each service day since 2019.

`archive` keeps copies of the archive's files, which `client` downloads; `archive_rows` and `stops` read them. This
module puts them together as a source. The data are provided by MassDOT.
"""

from mbta_assets.sources.lamp.source import LampSource

__all__ = ["SOURCE", "LampSource"]

SOURCE = LampSource
