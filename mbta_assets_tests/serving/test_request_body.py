"""Bodies are decompressed within their limit, whatever their sender says that they are."""

import gzip

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mbta_assets.serving.request_body import BodyTooLarge, UnreadableBody, UnsupportedEncoding, decode_body

LIMIT = 1_000


@given(content=st.binary(max_size=LIMIT), encoding=st.sampled_from(["gzip", "GZIP", " x-gzip", "identity, gzip"]))
def test_what_was_compressed_is_read(content: bytes, encoding: str) -> None:
    assert decode_body(gzip.compress(content), encoding, LIMIT) == content


@given(content=st.binary(max_size=LIMIT), encoding=st.sampled_from(["", "identity", "Identity,identity"]))
def test_a_body_without_an_encoding_is_left_as_it_is(content: bytes, encoding: str) -> None:
    assert decode_body(content, encoding, LIMIT) == content


@given(content=st.binary(max_size=LIMIT), data=st.data())
def test_a_part_of_a_compressed_body_is_refused(content: bytes, data: st.DataObject) -> None:
    compressed = gzip.compress(content)
    end = data.draw(st.integers(0, len(compressed) - 1))
    with pytest.raises(UnreadableBody, match="cut off"):
        decode_body(compressed[:end], "gzip", LIMIT)


@given(content=st.binary(max_size=LIMIT))
def test_bytes_that_are_not_gzip_are_refused(content: bytes) -> None:
    with pytest.raises(UnreadableBody, match="gzip"):
        decode_body(b"{" + content, "gzip", LIMIT)


def test_what_follows_a_compressed_body_is_refused() -> None:
    with pytest.raises(UnreadableBody, match="after its end"):
        decode_body(gzip.compress(b"{}") + b"more", "gzip", LIMIT)


@pytest.mark.parametrize("size", [LIMIT + 1, 50_000_000])
def test_a_body_that_is_too_large_when_decompressed_is_refused(size: int) -> None:
    compressed = gzip.compress(bytes(size), compresslevel=1)
    with pytest.raises(BodyTooLarge, match="more than 1,000 bytes when it is decompressed"):
        decode_body(compressed, "gzip", LIMIT)


@pytest.mark.parametrize("encoding", ["br", "deflate", "zstd", "gzip, gzip", "br, gzip", "*"])
def test_other_encodings_are_named(encoding: str) -> None:
    with pytest.raises(UnsupportedEncoding, match="is not supported") as refused:
        decode_body(b"{}", encoding, LIMIT)
    assert encoding in str(refused.value)
