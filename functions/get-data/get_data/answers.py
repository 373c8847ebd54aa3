"""Responses with users in them: whole or streamed, compressed, with validators, within limits."""

import errno
import logging
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from itertools import chain

from flask import Request, Response

from get_data.exports import STALL_S, to_body, to_gzip, to_pieces, to_stream
from get_data.formats import Format
from get_data.negotiation import Representation
from get_data.users import Lines, Version
from serving.logs import log, log_error
from serving.problems import ProblemError

SMALL_BYTES = 1_000  # not worth compressing

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
        chunks: Generator[Lines, None, None],
        representation: Representation,
        to_etag: ToEtag,
    ) -> Response:
        """Stream an export, or send it whole when it fits in one chunk."""
        with ExitStack() as stack:
            stack.callback(chunks.close)
            first, second = next(chunks), next(chunks, None)
            etag = to_etag(first.version)
            if second is None or not second.text:
                return self.send_whole(request, to_body(first, representation.format), representation, etag)
            _check_http_version(request)
            self._take_slot(stack)
            parts = to_stream(chain((first, second), chunks), representation.format)
            response = self._send(request, to_gzip(parts) if representation.gzip else parts, cutting=True)
            # Not in the generator's own end: one that was never begun does not run it.
            response.call_on_close(stack.pop_all().close)
            return _describe(response, representation.format, etag, gzip=representation.gzip)

    def send_whole(
        self, request: Request, body: bytes, representation: Representation, etag: str | None
    ) -> Response:
        """Send an answer that is all there; without a tag, what it shows depends on more than users."""
        gzip = representation.gzip and len(body) >= SMALL_BYTES
        if gzip:
            body = b"".join(to_gzip((body,)))
        response = self._send(request, (body,))
        response.content_length = len(body)
        return _describe(response, representation.format, etag, gzip=gzip)

    def _send(self, request: Request, parts: Iterable[bytes], *, cutting: bool = False) -> Response:
        pieces = to_pieces(parts, timeout_s=self._export_max_s)
        response = Response(_cutting(pieces) if cutting else pieces)
        _limit_stalls(request, response)
        return response

    def _take_slot(self, stack: ExitStack) -> None:
        """Take one of this worker's places for exports, until the stack is closed."""
        if not self._slots.acquire(blocking=False):
            raise ProblemError(
                "exports_busy", f"{self._exports} exports are going on; ask again, or with a limit"
            )
        stack.callback(self._slots.release)


def send_head(representation: Representation, etag: str) -> Response:
    """Answer what an export would be; no length or encoding, which only the export itself can tell."""
    return _describe(Response(iter(())), representation.format, etag, gzip=False)


def send_not_modified(etag: str) -> Response:
    """Answer that the client has what it asks for."""
    return _validate(Response(status=304), etag)


def _describe(response: Response, form: Format, etag: str | None, *, gzip: bool) -> Response:
    response.mimetype = form.media_type
    if form.file_name:
        response.headers["Content-Disposition"] = f'attachment; filename="{form.file_name}"'
    if gzip:
        response.content_encoding = "gzip"
    return _validate(response, etag)


def _validate(response: Response, etag: str | None) -> Response:
    if etag is not None:
        response.set_etag(etag)
    response.headers["Vary"] = "Accept, Accept-Encoding, Authorization"
    response.headers["Cache-Control"] = "private, no-cache"
    return response


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
    socket = request.environ.get("gunicorn.socket")
    if socket is None:
        return  # another server, such as the tests' client
    before = socket.gettimeout()
    socket.settimeout(STALL_S)
    response.call_on_close(partial(socket.settimeout, before))  # the next request on it has its own


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
