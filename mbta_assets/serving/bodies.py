"""Reads the body of a request, and no more of it than it may have."""

import io

from flask import Request

CHUNK_BYTES = 64 * 1024
PATIENCE = 10
"""Of what is too large, so many times what it may have is read past, so that the sender comes to hear of it."""


class TooLarge(Exception):
    """A body is larger than it may be; the message says how large it may be."""


class Unreadable(Exception):
    """A body did not come as HTTP has it, or not at all."""


def read(request: Request, most_bytes: int) -> bytes:
    """The body of a request; afterwards there is nothing left to read. Raises TooLarge or Unreadable.

    functions-framework reads whatever is left of a request into memory once it is answered, however much that is.
    """
    stream, content = request.stream, bytearray()
    request.stream = io.BytesIO()
    passed = 0
    try:
        while passed <= most_bytes * PATIENCE and (chunk := stream.read(CHUNK_BYTES)):
            passed += len(chunk)
            if passed <= most_bytes:
                content += chunk
    except Exception as error:  # each server has its own
        raise Unreadable("The body could not be read.") from error
    if passed > most_bytes:
        raise TooLarge(f"The body has more than {most_bytes:,} bytes.")
    return bytes(content)
