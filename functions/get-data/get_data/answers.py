"""Responses with users in them: whole or streamed, compressed, with validators, within limits."""

from collections.abc import Callable, Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from itertools import chain

from flask import Request, Response

from get_data.exports import to_body, to_gzip, to_stream
from get_data.formats import Format
from get_data.negotiation import Representation
from get_data.users import Chunk, Version
from serving.ahead import read_ahead
from serving.postgres import DatabaseUnavailableError
from serving.problems import ProblemError
from serving.sending import SMALL_BYTES, Sending

LEAST_GZIP_BYTES = 1_000  # fewer are not worth compressing
CHUNKS_AHEAD = 3  # read while one is sent: with one, an export takes a third longer
_VALIDATION = {"Vary": "Accept, Accept-Encoding, Authorization", "Cache-Control": "private, no-cache"}

ToEtag = Callable[[Version], str]


class Answers:
    """Makes the answers of one worker; `sending` has the places for large ones."""

    def __init__(self, sending: Sending) -> None:
        self._sending = sending

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
            self._sending.take_place(request)
            # Postgres and this worker then work at the same time, without waiting for each other's turn.
            reader = stack.enter_context(ThreadPoolExecutor(1, thread_name_prefix="read-ahead"))
            coming = stack.enter_context(closing(read_ahead(chunks, reader, CHUNKS_AHEAD)))
            parts = to_stream(chain((first, second), coming), representation.format)
            sent = to_gzip(parts) if representation.gzip else parts
            response = _build(sent, representation.format, etag, gzip=representation.gzip)
            # Not in the generator's own end: one that was never begun does not run it.
            response.call_on_close(stack.pop_all().close)
            return response

    def send_whole(
        self, request: Request, body: bytes, representation: Representation, etag: str | None
    ) -> Response:
        """Send an answer that is all there; without a tag, what it shows depends on more than users."""
        if len(body) > SMALL_BYTES:
            self._sending.take_place(request)
        gzip = representation.gzip and len(body) >= LEAST_GZIP_BYTES
        if gzip:
            body = b"".join(to_gzip((body,)))
        response = _build((body,), representation.format, etag, gzip=gzip)
        response.content_length = len(body)
        return response


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
