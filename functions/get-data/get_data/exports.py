"""Answers put together of lines, and compressed."""

import zlib
from collections.abc import Iterable, Iterator

from get_data.formats import Format
from get_data.users import Chunk

# Half of level 6's time, for answers larger by a tenth.
GZIP_LEVEL = 1


def to_body(text: bytes, representation: Format) -> bytes:
    """Return a whole answer of these lines."""
    return representation.opening.encode() + text + representation.closing.encode()


def to_stream(chunks: Iterable[Chunk], representation: Format) -> Iterator[bytes]:
    """Return a whole answer, a chunk at a time."""
    before = representation.opening.encode()
    for chunk in chunks:
        if text := chunk.to_text():
            yield before + text
            before = representation.separator.encode()
    yield representation.closing.encode()


def to_gzip(parts: Iterable[bytes]) -> Iterator[bytes]:
    """Compress an answer as it comes."""
    compressor = zlib.compressobj(GZIP_LEVEL, wbits=zlib.MAX_WBITS | 16)
    for part in parts:
        if compressed := compressor.compress(part):
            yield compressed
    yield compressor.flush()
