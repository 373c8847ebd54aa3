"""Bodies of requests: none where none is taken, else of a known length, not too long, and there in time."""

import io
import socket
import threading
import time
from contextlib import suppress
from functools import cache

from flask import Request

from serving.problems import ProblemError

MAX_BODY_BYTES = 1 << 20
BODY_S = 10  # for all of a body: its sender holds a thread
LOOK_S = 0.5  # between two looks for late ones; none ends later than BODY_S, some by so much earlier
_UNREAD = "rollcall.unread_body"
_LATE_AT: dict[socket.socket, float] = {}  # by the monotonic clock, of the bodies being read


def set_body_aside(request: Request) -> None:
    """Take the stream of the body out of a request, unread, for `receive_body`.

    The framework would read what is left of it after every answer, however much that is.
    """
    request.environ[_UNREAD] = request.environ["wsgi.input"]
    _put(request, b"")


def announces_body(request: Request) -> bool:
    """True when a body follows the headers of the request."""
    return "Transfer-Encoding" in request.headers or bool(request.content_length)


def refuse_body(request: Request) -> None:
    """Raise ProblemError when a body comes where none is taken: dropped, it would be misunderstood."""
    if announces_body(request):
        length = request.content_length
        came = f"a body of {length} bytes" if length else "a body"
        raise ProblemError(
            "body_unexpected",
            f"{came} came, accepted is none: options belong in the query, as in ?name=value",
        )


def receive_body(request: Request) -> None:
    """Put the whole body back; raises ProblemError, unread when it is too long or of no known length."""
    length = request.content_length or 0
    if "Transfer-Encoding" in request.headers:
        raise ProblemError("length_required", "a body is accepted with a Content-Length alone")
    if length > MAX_BODY_BYTES:
        came = f"the body has {length} bytes"
        raise ProblemError("body_too_large", f"{came}, accepted are at most {MAX_BODY_BYTES}")
    body = _read(request, length) if length else b""
    if len(body) < length:
        came = f"{len(body)} of the body's {length} bytes came"
        raise ProblemError("body_timeout", f"{came}, accepted are all of them within {BODY_S} s")
    del request.environ[_UNREAD]
    _put(request, body)


def end_unread(request: Request) -> None:
    """Let the connection end with the answer when a body was not read.

    The server would wait for the rest of it, in order to use the connection again. What has come already is
    still taken in, so that the sender of a short body gets to see the answer.
    """
    connection = request.environ.get("gunicorn.socket")
    if connection is not None and _UNREAD in request.environ and announces_body(request):
        _stop_reading(connection)


def _put(request: Request, body: bytes) -> None:
    # Terminated: the stream ends by itself, whatever Content-Length says.
    request.environ |= {"wsgi.input": io.BytesIO(body), "wsgi.input_terminated": True}


def _read(request: Request, length: int) -> bytes:
    stream, connection = request.environ[_UNREAD], request.environ.get("gunicorn.socket")
    if connection is None:
        return stream.read(length)  # another server, such as the tests' client
    _watch()
    _LATE_AT[connection] = time.monotonic() + BODY_S - LOOK_S
    try:
        return stream.read(length)
    except OSError:
        return b""
    finally:
        del _LATE_AT[connection]


@cache
def _watch() -> None:
    """Begin to look, from time to time, for bodies that are late.

    Not by the sockets' own time limits: those begin anew with every byte. And not by a timer for each body:
    to start its thread takes a millisecond, a third of what an event takes.
    """
    threading.Thread(target=_stop_late, name="late-bodies", daemon=True).start()


def _stop_late() -> None:
    while True:
        time.sleep(LOOK_S)
        now = time.monotonic()
        for connection, late_at in _LATE_AT.copy().items():  # requests change it meanwhile
            if now > late_at:
                _stop_reading(connection)


def _stop_reading(connection: socket.socket) -> None:
    """Make whoever reads from a connection find its end."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RD)
