"""Google's clients of Vertex AI."""

from google.auth.credentials import AnonymousCredentials
from google.cloud import aiplatform_v1

from mbta_assets.gcp.account import Account


def create_pipeline_client(
    account: Account, location: str, endpoint: str | None
) -> aiplatform_v1.PipelineServiceClient:
    """Return a client of pipelines in a region, without credentials where `endpoint` replaces Google's servers.

    Raises CloudError where there are no credentials.
    """
    return aiplatform_v1.PipelineServiceClient(**_options(account, location, endpoint))


def create_job_client(account: Account, location: str, endpoint: str | None) -> aiplatform_v1.JobServiceClient:
    """Return a client of custom jobs in a region, without credentials where `endpoint` replaces Google's servers.

    Raises CloudError where there are no credentials.
    """
    return aiplatform_v1.JobServiceClient(**_options(account, location, endpoint))


def _options(account: Account, location: str, endpoint: str | None) -> dict[str, object]:
    """Return the arguments of a client."""
    return {
        "transport": "rest",
        "credentials": AnonymousCredentials() if endpoint else account.credentials(),
        "client_options": {"api_endpoint": endpoint or f"{location}-aiplatform.googleapis.com"},
    }
