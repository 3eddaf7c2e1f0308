"""Whatever an entry has, it becomes one line of JSON."""

import io
import json
import sys
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving import logs

any_text = st.text(st.characters(codec=None, exclude_categories=()), max_size=20)


@given(
    message=any_text,
    value=any_text | st.floats() | st.none() | st.datetimes() | any_text.map(OSError),
    encoding=st.sampled_from(["utf-8", "ascii", "latin-1"]),
)
def test_an_entry_is_one_line_in_any_encoding(message: str, value: object, encoding: str) -> None:
    written = io.BytesIO()
    output = io.TextIOWrapper(written, encoding=encoding, newline="\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", output)
        logs.write("INFO", message, value=value)
    [line, rest] = written.getvalue().decode(encoding).split("\n")
    entry = json.loads(line)
    assert (entry["message"], entry["severity"], rest) == (message, "INFO", "")
    assert entry["value"] == value or not isinstance(value, str)
    assert abs(datetime.fromisoformat(entry["time"]) - datetime.now(UTC)) < timedelta(minutes=1)
