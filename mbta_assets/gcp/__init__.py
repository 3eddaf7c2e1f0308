"""Google Cloud: the account that calls it, and clients of BigQuery, Cloud Storage and Vertex AI.

No other package imports Google's libraries. Importing this package alone loads none of them: they take seconds to
import, so the code that chooses a deployment imports `gcp.account`, `gcp.bigquery` and `gcp.bucket` only where it needs
them. What is stored in Google Cloud is defined in `storage` and `sources`.
"""

from mbta_assets.gcp.errors import AlreadyExistsError, CloudError

__all__ = ["AlreadyExistsError", "CloudError"]
