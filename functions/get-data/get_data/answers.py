"""Responses with users in them: whole or streamed, compressed, with validators, within limits."""

import errno
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from functools import partial
from itertools import chain

from flask import Request, Response

from get_data.exports import STALL_S, to_body, to_gzip, to_pieces, to_stream
from get_data.formats import Format
from get_data.negotiation import Representation
from get_data.users import Chunk, Version
from serving.ahead import read_ahead
from serving.logs import log, log_error
from serving.postgres import DatabaseUnavailableError
from serving.problems import ProblemError

SMALL_BYTES = 1_000  # not worth compressing
CHUNKS_AHEAD = 3  # read while one is sent: with one, an export takes a third longer
_VALIDATION = {"Vary": "Accept, Accept-Encoding, Authorization", "Cache-Control": "private, no-cache"}

ToEtag = Callable[[Version], str]


class Answers:
    """Makes the answers of one worker; `exports` is how many of them it streams at a time."""

    def __init__(self, *, exports: int, export_max_s: int) -> None:
        self._exports = exports
        self._export_max_s = export_max_s
        self._slots = threading.BoundedSemaphore(exports)

    def stream(
        self,
        request: Request,
        chunks: Generator[Chunk, None, None],
        representation: Representation,
        to_etag: ToEtag,
    ) -> Response:
        """Stream an export, or send it whole when it fits in one chunk."""
        with ExitStack() as stack:
            stack.callback(_abandon, chunks)
            first, second = next(chunks), next(chunks, None)
            etag = to_etag(first.version)
            if second is None or second.is_empty():
                body = to_body(first.to_text(), representation.format)
                return self.send_whole(request, body, representation, etag)
            _check_http_version(request)
            self._take_slot(stack)
            # Postgres and this worker then work at the same time, without waiting for each other's turn.
            reader = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="read-ahead"))
            coming = stack.enter_context(closing(read_ahead(chunks, reader, CHUNKS_AHEAD)))
            parts = to_stream(chain((first, second), coming), representation.format)
            pieces = self._to_pieces(to_gzip(parts) if representation.gzip else parts)
            response = _build(_cutting(pieces), representation.format, etag, gzip=representation.gzip)
            _limit_stalls(request, response)
            # Not in the generator's own end: one that was never begun does not run it.
            response.call_on_close(stack.pop_all().close)
            return response

    def send_whole(
        self, request: Request, body: bytes, representation: Representation, etag: str | None
    ) -> Response:
        """Send an answer that is all there; without a tag, what it shows depends on more than users."""
        gzip = representation.gzip and len(body) >= SMALL_BYTES
        if gzip:
            body = b"".join(to_gzip((body,)))
        response = _build(self._to_pieces((body,)), representation.format, etag, gzip=gzip)
        response.content_length = len(body)
        _limit_stalls(request, response)
        return response

    def _to_pieces(self, parts: Iterable[bytes]) -> Iterator[bytes]:
        return to_pieces(parts, timeout_s=self._export_max_s)

    def _take_slot(self, stack: ExitStack) -> None:
        """Take one of this worker's places for exports, until the stack is closed."""
        if not self._slots.acquire(blocking=False):
            raise ProblemError(
                "exports_busy", f"{self._exports} exports are going on; ask again, or with a limit"
            )
        stack.callback(self._slots.release)


def send_head(representation: Representation, etag: str) -> Response:
    """Answer what an export would be; no length or encoding, which only the export itself can tell."""
    return _build((), representation.format, etag, gzip=False)


def send_not_modified(etag: str) -> Response:
    """Answer that the client has what it asks for."""
    return Response(status=304, headers={**_VALIDATION, "ETag": f'"{etag}"'})


def _abandon(chunks: Generator[Chunk, None, None]) -> None:
    """Give the session of an export back; that Postgres is gone by then is nobody's concern any more."""
    with suppress(DatabaseUnavailableError):
        chunks.close()


def _build(pieces: Iterable[bytes], form: Format, etag: str | None, *, gzip: bool) -> Response:
    # All at once: each header that is set later looks through those that are there.
    headers = dict(_VALIDATION)
    if etag is not None:
        headers["ETag"] = f'"{etag}"'
    if form.file_name:
        headers["Content-Disposition"] = f'attachment; filename="{form.file_name}"'
    if gzip:
        headers["Content-Encoding"] = "gzip"
    return Response(iter(pieces), headers=headers, mimetype=form.media_type)


def _check_http_version(request: Request) -> None:
    """Refuse to stream to HTTP/1.0, where a cut-off answer looks complete, be it behind a gateway."""
    protocols = [request.environ["SERVER_PROTOCOL"].removeprefix("HTTP/")]
    protocols += (hop.strip().partition(" ")[0] for hop in request.headers.get("Via", "").split(","))
    if "1.0" in protocols:
        raise ProblemError(
            "http_version", "this answer is streamed, which takes HTTP/1.1; or ask with a limit"
        )


def _limit_stalls(request: Request, response: Response) -> None:
    """End an answer that its client has stopped to read."""
    connection = request.environ.get("gunicorn.socket")
    if connection is None:
        return  # another server, such as the tests' client
    before = connection.gettimeout()
    connection.settimeout(STALL_S)
    response.call_on_close(partial(connection.settimeout, before))  # the next request on it has its own


def _cutting(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Break the connection when an export fails half-way: its end would make it look complete."""
    try:
        yield from pieces
    except GeneratorExit:
        log("export.abandoned", level=logging.WARNING)
        raise
    except Exception as error:  # noqa: BLE001  the boundary again: the status line is out already
        log_error("export.cut", error)
        # gunicorn takes this for a client that went away: it closes the connection, and has nothing to say.
        raise BrokenPipeError(errno.EPIPE, "the export failed") from None
