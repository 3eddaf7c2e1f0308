"""Google Cloud as this package uses it: who it is there, how long a call is tried, and what a failure means.

In this room: the account and its credentials, BigQuery's queries and tables, objects of a bucket. Everything that talks
to Google goes through here. Not here: what is stored there (`storage`, `sources`), Dagster.
"""

from mbta_assets.gcp.account import Account, CloudError, Identity

__all__ = ["Account", "CloudError", "Identity"]
