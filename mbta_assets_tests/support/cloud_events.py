"""CloudEvents about upstream tables, and how they are posted to the event function."""

from typing import Any

from mbta_assets.serving.upstream_events import OBJECT_FINALIZED
from mbta_assets_tests.support.function_server import FunctionServer, Response

EVENT_TOKEN = "a-token-of-thirty-two-characters"
AUTHORIZED = {"Authorization": f"Bearer {EVENT_TOKEN}"}


def make_object_data(
    table: str = "vehicle", day: object = "2024-04-01", generation: str = "17", **fields: Any
) -> dict[str, Any]:
    """Return the data of the event that an object with a service day of a table has been finalized."""
    name = f"upstream/{table}/service_date={day}/part.parquet"
    return {"bucket": "loads", "name": name, "generation": generation, **fields}


def post_event(
    server: FunctionServer, data: Any, event_type: str = OBJECT_FINALIZED, event_id: str = "id-1", **headers: str
) -> Response:
    """Post an event in the binary mode of CloudEvents, authorized unless `headers` say otherwise."""
    attributes = {
        "ce-id": event_id,
        "ce-source": "//storage.googleapis.com/projects/_/buckets/loads",
        "ce-type": event_type,
        "ce-specversion": "1.0",
    }
    return server.request("/", data, **{**attributes, **AUTHORIZED, **headers})
