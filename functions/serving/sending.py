"""How answers leave: slow clients hold at most half of the threads.

A client holds the thread that sends to it for as long as it likes, unless the kernel takes the whole answer
at once. So a large answer needs one of a few places, as many as half of the threads. A small one leaves at
once; when its client has left too much unread for that, its connection is cut.
"""

import errno
import logging
import select
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from flask import Request, Response

from serving.logs import log, log_error
from serving.problems import ProblemError

# A socket's time limit is for the whole of what is sent at once: the smaller a piece, the slower may a client
# be before it is taken for one that has stopped.
PIECE_BYTES = 16 * 1024
# The most that may be sent without a place. With a buffer of BUFFER_BYTES Linux takes 167 kB at once, even
# for the smallest window that a client can have.
SMALL_BYTES = 96 * 1024
BUFFER_BYTES = 208 * 1024  # as much as Linux grants unless told otherwise
STALL_S = 30
MAX_S = 3600
# In the environment of a request: that it has a place, and its connection.
_PLACE, _CONNECTION = "rollcall.place", "gunicorn.socket"
Environ = dict[str, Any]


class ExportTimeoutError(Exception):
    """An answer took longer than it may."""


class FullBufferError(Exception):
    """The kernel has no room for an answer without a place: its client does not read."""


class Sending:
    """Sends the answers of one worker; `max_s` is how long one may take.

    There is a place for a large answer for every second thread.
    """

    def __init__(self, *, threads: int, max_s: int = MAX_S) -> None:
        self.places = max(1, threads // 2)
        self._max_s = max_s
        self._free = threading.BoundedSemaphore(self.places)

    def take_place(self, request: Request) -> None:
        """Take a place until the request is answered; raises ProblemError when there is none."""
        if not self._has_place(request.environ):
            raise ProblemError(
                "exports_busy",
                f"{self.places} large answers are being sent; ask again, or for less by a limit",
            )

    def send(self, request: Request, response: Response) -> Response:
        """Have an answer sent within limits, its place free again at its end."""
        environ = request.environ
        response.call_on_close(partial(self._end, environ))
        connection = environ.get(_CONNECTION)
        if connection is not None:  # else another server, such as the tests' client
            _prepare(connection)
            if not self._may_send(environ, connection):
                _cut(connection, FullBufferError())
        if response.is_sequence:
            length = sum(map(len, response.response))
            if length <= PIECE_BYTES:
                if connection is None or _has_room(connection):
                    self._give_back(environ)
                return response
            response.content_length = length
        response.response = self._send(environ, connection, response.iter_encoded())
        return response

    def _send(
        self, environ: Environ, connection: socket.socket | None, parts: Iterable[bytes]
    ) -> Iterator[bytes]:
        """Yield the pieces of an answer; break its connection where it fails half-way.

        Its end would make it look complete.
        """
        deadline = time.monotonic() + self._max_s
        try:
            for piece in _to_pieces(parts):
                if time.monotonic() > deadline:
                    raise ExportTimeoutError(f"an answer took longer than {self._max_s} s")
                if connection is not None and not self._may_send(environ, connection):
                    raise FullBufferError
                yield piece
        except GeneratorExit:
            if _PLACE in environ:
                log("export.abandoned", level=logging.WARNING)
            raise
        except Exception as error:  # noqa: BLE001  the boundary again: the status line is out already
            _cut(connection, error)
            # gunicorn takes this for a client that went away: it closes the connection and says nothing.
            raise BrokenPipeError(errno.EPIPE, "the answer failed") from None
        finally:
            self._give_back(environ)

    def _may_send(self, environ: Environ, connection: socket.socket) -> bool:
        """Whether the kernel has room for a piece, or the request has a place to wait in."""
        return _PLACE in environ or _has_room(connection) or self._has_place(environ)

    def _has_place(self, environ: Environ) -> bool:
        if _PLACE not in environ and self._free.acquire(blocking=False):
            environ[_PLACE] = True
        return _PLACE in environ

    def _end(self, environ: Environ) -> None:
        if connection := environ.get(_CONNECTION):
            connection.settimeout(None)  # the next request on it has its own
        self._give_back(environ)

    def _give_back(self, environ: Environ) -> None:
        if environ.pop(_PLACE, False):
            self._free.release()


def _prepare(connection: socket.socket) -> None:
    connection.settimeout(STALL_S)
    if connection.getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < BUFFER_BYTES:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)


def _has_room(connection: socket.socket) -> bool:
    """Whether a third of the buffer is free, which a piece fits into."""
    poll = select.poll()
    poll.register(connection, select.POLLOUT)
    return bool(poll.poll(0))


def _cut(connection: socket.socket | None, error: Exception) -> None:
    log_error("export.cut", error)
    if connection is not None:
        with suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)


def _to_pieces(parts: Iterable[bytes]) -> Iterator[bytes]:
    for part in parts:
        for start in range(0, len(part), PIECE_BYTES):
            yield part[start : start + PIECE_BYTES]
