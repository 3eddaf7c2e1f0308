"""The OpenAPI description agrees with the HTTP function."""

import subprocess
import sys
from pathlib import Path

from mbta_assets_tests.support.function_server import FunctionServer

EXAMPLES_PER_OPERATION = 30
CONFIGURATION = """
# The rules between the fields of a query are in the description's text: a schema cannot express them.
[checks.positive_data_acceptance]
expected-statuses = ["2xx", "422"]
"""


def test_schemathesis_finds_no_response_that_contradicts_the_description(
    server: FunctionServer, tmp_path: Path
) -> None:
    program = Path(sys.executable).with_name("schemathesis")
    (tmp_path / "schemathesis.toml").write_text(CONFIGURATION)
    options = ["--max-examples", str(EXAMPLES_PER_OPERATION), "--seed", "7", "--no-color"]
    command = [str(program), "run", f"{server.address}/openapi.json", *options]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert process.returncode == 0, process.stdout[-6000:]
    assert "No issues found" in process.stdout
    errors = [entry for entry in server.log_entries() if entry["severity"] == "ERROR"]
    assert not errors, errors[:3]


def test_every_described_operation_succeeds_with_its_example(server: FunctionServer) -> None:
    description = server.request("/openapi.json").json()
    assert "/predict" in description["paths"]
    for path, operations in description["paths"].items():
        for method, operation in operations.items():
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
            response = server.request(path, body, method=method.upper())
            assert response.status == 200
            [media_type] = operation["responses"]["200"]["content"]
            assert response.headers["Content-Type"].startswith(media_type)
