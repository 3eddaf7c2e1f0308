"""Structured logs of the serving functions.

Each entry is one line of JSON on standard output, with the fields that Cloud Logging reads (`severity`, `message`,
`time`, `httpRequest`, `stack_trace`).
"""

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

_encode = json.JSONEncoder(default=str).encode
"""Encodes an entry: `json.dumps` with an option makes an encoder in each call, which takes as long as encoding."""


def write(severity: str, message: str, **fields: Any) -> None:
    """Write one log entry; `severity` is a level of Cloud Logging, such as INFO, NOTICE, WARNING or ERROR."""
    entry = {"severity": severity, "message": message, "time": datetime.now(UTC).isoformat(), **fields}
    sys.stdout.write(_encode(entry) + "\n")
    sys.stdout.flush()


def write_exception(message: str, error: BaseException, **fields: Any) -> None:
    """Write a log entry of severity ERROR with the stack trace of an unexpected exception."""
    write("ERROR", message, stack_trace="".join(traceback.format_exception(error)), **fields)
