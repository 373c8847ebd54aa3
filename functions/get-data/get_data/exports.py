"""Answers as pieces that a client can take its time for, within limits."""

import time
import zlib
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

from get_data.formats import Format
from get_data.users import Lines

# A socket's time limit is for the whole of what is sent at once: the smaller a piece, the slower may a client
# be before it is taken for one that has stopped.
PIECE_BYTES = 16 * 1024
STALL_S = 30
# Half of level 6's time, for answers larger by a tenth.
GZIP_LEVEL = 1


class ExportTimeoutError(Exception):
    """An answer took longer than it may."""


def to_body(lines: Lines, representation: Format) -> bytes:
    """Return a whole answer."""
    return f"{representation.opening}{lines.text}{representation.closing}".encode()


def to_stream(chunks: Iterable[Lines], representation: Format) -> Iterator[bytes]:
    """Return a whole answer, a chunk at a time."""
    before = representation.opening
    for chunk in chunks:
        if chunk.text:
            yield f"{before}{chunk.text}".encode()
            before = representation.separator
    yield representation.closing.encode()


def read_ahead(chunks: Iterator[Lines]) -> Generator[Lines, None, None]:
    """Have the next chunk read by a thread of its own while one is being sent.

    Postgres and this worker then work at the same time.
    """
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as reader:
        coming = reader.submit(next, chunks, None)
        while (chunk := coming.result()) is not None:
            coming = reader.submit(next, chunks, None)
            yield chunk


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
