"""The body of a request: read within a limit, and decompressed within the same limit.

Both functions use it. What the body means belongs to `openapi` and `upstream_events`.
"""

import io
import zlib

from flask import Request
from werkzeug.wsgi import get_content_length, get_input_stream

READ_CHUNK_BYTES = 64 * 1024
MAX_DRAIN_FACTOR = 10
"""An oversized body is read up to this multiple of its limit, so that its sender gets the response."""
GZIP_ENCODINGS = ("gzip", "x-gzip")
ACCEPTED_ENCODINGS = "gzip, identity"
"""Value of the Accept-Encoding header of a response that refuses an encoding."""
GZIP_WINDOW_BITS = 16 + zlib.MAX_WBITS


class BodyTooLarge(Exception):
    """A request body exceeds its limit; the message states the limit."""


class UnreadableBody(Exception):
    """A request body is not valid HTTP, is not what its encoding says, or was cut off."""


class UnsupportedEncoding(Exception):
    """A request body has another encoding than gzip; the message names it."""


def read_body(request: Request, max_bytes: int) -> bytes:
    """Return the body of a request as it was sent, and leave nothing to read. Raises BodyTooLarge or UnreadableBody.

    functions-framework reads the rest of a body into memory after the response, whatever its size, so the request's
    stream is replaced by an empty one.
    """
    stream, length = get_input_stream(request.environ), get_content_length(request.environ)
    request.stream = io.BytesIO()
    content, bytes_read = bytearray(), 0
    try:
        while (
            bytes_read != length
            and bytes_read <= max_bytes * MAX_DRAIN_FACTOR
            and (chunk := stream.read(READ_CHUNK_BYTES))
        ):
            bytes_read += len(chunk)
            if bytes_read <= max_bytes:
                content += chunk
    except Exception as error:  # every WSGI server raises its own exceptions
        raise UnreadableBody("The request body could not be read.") from error
    if bytes_read > max_bytes:
        raise BodyTooLarge(f"The request body has more than {max_bytes:,} bytes.")
    return bytes(content)


def decode_body(content: bytes, content_encoding: str, max_bytes: int) -> bytes:
    """Undo the Content-Encoding of a body. Raises BodyTooLarge, UnreadableBody or UnsupportedEncoding."""
    encodings = [name for part in content_encoding.split(",") if (name := part.strip().lower()) not in ("", "identity")]
    if not encodings:
        return content
    if len(encodings) > 1 or encodings[0] not in GZIP_ENCODINGS:
        raise UnsupportedEncoding(
            f"The Content-Encoding {content_encoding!r} is not supported; send the body as gzip, or as it is."
        )
    return _decompress(content, max_bytes)


def _decompress(content: bytes, max_bytes: int) -> bytes:
    """Decompress a gzip file of one member, and no more than one byte over the limit. Raises as `decode_body`."""
    member = zlib.decompressobj(wbits=GZIP_WINDOW_BITS)
    try:
        decompressed = member.decompress(content, max_bytes + 1)
    except zlib.error as error:
        raise UnreadableBody("The request body is not gzip, as its Content-Encoding says it is.") from error
    if len(decompressed) > max_bytes:
        raise BodyTooLarge(f"The request body has more than {max_bytes:,} bytes when it is decompressed.")
    if not member.eof:
        raise UnreadableBody("The gzip request body is cut off; send all of it.")
    if member.unused_data:
        raise UnreadableBody("The gzip request body goes on after its end; compress it as one member.")
    return decompressed
