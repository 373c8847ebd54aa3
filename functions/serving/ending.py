"""Connections that the server closes: their last bytes get through, and nothing else waits for that."""

import socket
import threading
import time
from collections import deque
from contextlib import suppress
from functools import cache
from queue import SimpleQueue

from gunicorn import util

LINGER_S = 2  # for a client that goes on sending: closed at once, it would lose our answer
LOOK_S = 0.1  # between two looks
MOST = 200  # at a time; the oldest are closed at once when there are more
_READ_BYTES = 1 << 16

_Waiting = deque[tuple[socket.socket, float]]  # by the monotonic clock: until when
_ENDED: SimpleQueue[socket.socket] = SimpleQueue()


def end_connections_aside() -> None:
    """Have the server end its connections in a thread of their own.

    gunicorn does it in the thread that accepts all others, and waits up to 2 s for each client to close its
    end: a dozen that do not would keep everybody out for half a minute.
    """
    util.close_graceful = end_connection


def end_connection(connection: socket.socket) -> None:
    """Tell the client that nothing more comes; the connection is closed when it has closed its end, too."""
    connection.setblocking(False)
    with suppress(OSError):
        connection.shutdown(socket.SHUT_WR)
    _start()
    _ENDED.put(connection)


@cache
def _start() -> None:
    threading.Thread(target=_linger, name="ending-connections", daemon=True).start()


def _linger() -> None:
    waiting: _Waiting = deque()
    while True:
        if not waiting:
            _add(waiting, _ENDED.get())
        time.sleep(LOOK_S)
        while not _ENDED.empty():
            _add(waiting, _ENDED.get())
        waiting = _close_ended(waiting)


def _add(waiting: _Waiting, connection: socket.socket) -> None:
    waiting.append((connection, time.monotonic() + LINGER_S))


def _close_ended(waiting: _Waiting) -> _Waiting:
    """Close those whose client is done or late; returns the others."""
    now, surplus = time.monotonic(), len(waiting) - MOST
    left: _Waiting = deque()
    for place, (connection, until) in enumerate(waiting):
        if _has_ended(connection) or now > until or place < surplus:
            connection.close()
        else:
            left.append((connection, until))
    return left


def _has_ended(connection: socket.socket) -> bool:
    """Take in what came; True when there is nothing to wait for."""
    try:
        return not connection.recv(_READ_BYTES)
    except BlockingIOError:
        return False
    except OSError:
        return True
