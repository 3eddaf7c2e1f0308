"""Structured logs of the serving functions.

Each entry is one line of JSON on standard output, with the fields that Cloud Logging reads (`severity`, `message`,
`time`, `httpRequest`, `stack_trace`).
"""

import json
import sys
import traceback
from datetime import UTC, datetime
from typing import Any

from pydantic_core import PydanticSerializationError, to_json


def write(severity: str, message: str, **fields: Any) -> None:
    """Write one log entry; `severity` is a level of Cloud Logging, such as INFO, NOTICE, WARNING or ERROR."""
    entry = {"severity": severity, "message": message, "time": datetime.now(UTC), **fields}
    try:
        sys.stdout.write(to_json(entry, inf_nan_mode="null", serialize_unknown=True).decode() + "\n")
    except (PydanticSerializationError, UnicodeEncodeError):  # not Unicode, or not in standard output's encoding
        sys.stdout.write(json.dumps(entry, default=str) + "\n")
    sys.stdout.flush()


def write_exception(message: str, error: BaseException, **fields: Any) -> None:
    """Write a log entry of severity ERROR with the stack trace of an unexpected exception."""
    write("ERROR", message, stack_trace="".join(traceback.format_exception(error)), **fields)
