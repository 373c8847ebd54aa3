"""Answers as pieces that a client can take its time for, within limits."""

import time
import zlib
from collections.abc import Iterable, Iterator

from get_data.formats import Format
from get_data.users import Chunk

# A socket's time limit is for the whole of what is sent at once: the smaller a piece, the slower may a client
# be before it is taken for one that has stopped.
PIECE_BYTES = 16 * 1024
STALL_S = 30
# Half of level 6's time, for answers larger by a tenth.
GZIP_LEVEL = 1


class ExportTimeoutError(Exception):
    """An answer took longer than it may."""


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


def to_pieces(parts: Iterable[bytes], *, timeout_s: float) -> Iterator[bytes]:
    """Cut an answer into pieces; raises ExportTimeoutError when the time is up before its end."""
    deadline = time.monotonic() + timeout_s
    for part in parts:
        for start in range(0, len(part), PIECE_BYTES):
            if time.monotonic() > deadline:
                raise ExportTimeoutError(f"an answer took longer than {timeout_s} s")
            yield part[start : start + PIECE_BYTES]
