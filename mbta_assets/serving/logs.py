"""Structured logs: a JSON object a line on standard output, as Cloud Logging reads them."""

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any


def write(severity: str, message: str, **fields: Any) -> None:
    """Log one line; `severity` is one of Cloud Logging's, such as INFO, NOTICE or ERROR."""
    entry = {"severity": severity, "message": message, "time": datetime.now(UTC).isoformat(), **fields}
    sys.stdout.write(json.dumps(entry, default=str) + "\n")
    sys.stdout.flush()


def failure(message: str, error: BaseException, **fields: Any) -> None:
    """Log an error nobody expected, with where it came from."""
    write("ERROR", message, stack_trace="".join(traceback.format_exception(error)), **fields)
