"""Bodies of requests: of a known length, not too long, and there in time."""

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
_LATE_AT: dict[socket.socket, float] = {}  # by the monotonic clock, of the bodies being read


def receive_body(request: Request) -> None:
    """Take in the whole body; raises ProblemError, without reading what is too long or of no known length."""
    length = request.content_length or 0
    if "Transfer-Encoding" in request.headers:
        raise _refuse(request, "length_required", "a body is accepted with a Content-Length alone")
    if length > MAX_BODY_BYTES:
        came = f"the body has {length} bytes"
        raise _refuse(request, "body_too_large", f"{came}, accepted are at most {MAX_BODY_BYTES}")
    if not length:
        return
    body = _read(request, length)
    if len(body) < length:
        came = f"{len(body)} of the body's {length} bytes came"
        raise _refuse(request, "body_timeout", f"{came}, accepted are all of them within {BODY_S} s")
    request.environ["wsgi.input"] = io.BytesIO(body)


def _read(request: Request, length: int) -> bytes:
    stream, connection = request.environ["wsgi.input"], request.environ.get("gunicorn.socket")
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


def _refuse(request: Request, code: str, detail: str) -> ProblemError:
    # The framework reads what is left of a body after every answer: there shall be nothing left.
    request.environ["wsgi.input"] = io.BytesIO()
    return ProblemError(code, detail, headers={"Connection": "close"})
