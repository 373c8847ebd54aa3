"""A limited number of sessions for the threads of one process; survives restarts of the server."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from serving.postgres import Connection, DatabaseUnavailableError, StatementError
from serving.reasons import SILENT

WAIT_S = 4.5  # for a session: what waits in vain is answered, with the login on top, within 10 s
AGAIN_S = 0.25  # after the server had no session left, before it is asked again
KEPT_AGAIN_S = 1  # from one try to open a kept session to the next
IDLE_S = 60  # unused, after which a session is given back to the server
BEAT_S = 0.5
RECENT_S = 0.02  # since its last use, within which a session is not asked whether it is still there
SILENT_S = 0.5  # after no answer, before anybody is made to wait for one again


class Pool:
    """Lends at most `size` sessions at a time; when all are lent, the next borrower waits up to `wait_s`.

    Sessions that are idle for `idle_s` are closed, except `kept` of them. Those are opened soon after
    start(), and again when they are lost, so that other clients cannot take their place. A thread does this.
    It also keeps lent sessions from looking abandoned to a proxy.
    """

    def __init__(
        self,
        connect: Callable[[], Connection],
        *,
        size: int,
        kept: int = 0,
        wait_s: float = WAIT_S,
        idle_s: float = IDLE_S,
    ) -> None:
        self._connect = connect
        self._size, self._kept = size, kept
        self._wait_s, self._idle_s = wait_s, idle_s
        self._changed = threading.Condition()
        self._idle: deque[Connection] = deque()  # the one used last at the right
        self._lent: set[Connection] = set()
        self._places = size  # that are left for further sessions
        self._open = 0  # sessions, lent or not; those that are being opened have a place only
        self._silent_until = 0.0
        self._keeper: threading.Thread | None = None
        self._closed = threading.Event()

    def start(self) -> None:
        """Begin to keep sessions, if that has not begun in this process; returns at once."""
        if self._keeper is not None and self._keeper.is_alive():
            return
        with self._changed:
            if self._closed.is_set() or (self._keeper is not None and self._keeper.is_alive()):
                return
            self._keeper = threading.Thread(target=self._keep, name="sessions", daemon=True)
            self._keeper.start()

    @property
    def has_session(self) -> bool:
        """True while a session is open, lent or not."""
        return self._open > 0

    def close(self) -> None:
        """Close the idle sessions, and each other one when it is given back; for the end of a process."""
        self._closed.set()
        if self._keeper is not None:
            self._keeper.join()
        self._close_idle()

    @contextmanager
    def connection(self, *, wait_s: float | None = None) -> Iterator[Connection]:
        """Lend a session for the block."""
        connection = self._take_unless_silent(self._wait_s if wait_s is None else wait_s)
        try:
            yield connection
        except BaseException as error:
            # An unfinished answer or transaction may be left behind: only refused statements are known
            # to leave the session as it was.
            connection.broken = connection.broken or not isinstance(error, StatementError)
            if isinstance(error, DatabaseUnavailableError):
                self._note(error)
                self._close_idle()  # they may have broken too; found out now, they fail nobody
            raise
        finally:
            self._give_back(connection)

    def _take_unless_silent(self, wait_s: float) -> Connection:
        """Spare the requests that wait for a thread a wait for Postgres that others have just had in vain."""
        if time.monotonic() < self._silent_until:
            raise DatabaseUnavailableError(SILENT)
        self.start()
        try:
            return self._take(time.monotonic() + wait_s)
        except DatabaseUnavailableError as error:
            self._note(error)
            raise

    def _note(self, error: DatabaseUnavailableError) -> None:
        if error.is_silent:
            self._silent_until = time.monotonic() + SILENT_S

    def _take(self, deadline: float) -> Connection:
        """Take the session used last, or open one, or wait for one."""
        while True:
            connection = self._take_idle(deadline)
            try:
                # Skip the check for a session used a moment ago: under load it costs a thread switch.
                if connection is None:
                    connection = self._open_session()
                elif time.monotonic() - connection.used >= RECENT_S and connection.is_closed_by_server():
                    self._close_session(connection)
                    continue
            except BaseException as error:
                self._leave_place()
                is_full = isinstance(error, DatabaseUnavailableError) and error.is_full
                if not is_full or not self._wait_for_idle(deadline):
                    raise
                continue
            self._lent.add(connection)
            return connection

    def _take_idle(self, deadline: float) -> Connection | None:
        """Return an idle session, or None with a place for a new one."""
        with self._changed:
            while not self._idle and not self._places:
                if not self._changed.wait(max(0.0, deadline - time.monotonic())):
                    raise DatabaseUnavailableError(
                        f"all {self._size} sessions that this process may have with Postgres are in use",
                        sqlstate="53300",
                    )
            if self._idle:
                return self._idle.pop()
            self._places -= 1
            return None

    def _wait_for_idle(self, deadline: float) -> bool:
        """Wait a moment, or until a session of ours is free; False when there is no time left."""
        with self._changed:
            remaining = deadline - time.monotonic()
            return remaining > 0 and (
                bool(self._idle) or self._changed.wait(min(AGAIN_S, remaining)) or remaining > AGAIN_S
            )

    def _open_session(self) -> Connection:
        """Open a session for a place that was taken."""
        connection = self._connect()
        with self._changed:
            self._open += 1
        return connection

    def _close_session(self, connection: Connection) -> None:
        """Close a session and leave its place to another."""
        connection.close()
        with self._changed:
            self._open -= 1
            self._leave_place()

    def _leave_place(self) -> None:
        with self._changed:
            self._places += 1
            self._changed.notify()

    def _give_back(self, connection: Connection) -> None:
        """Keep a session for the next taker, or close it when it is broken."""
        self._lent.discard(connection)
        connection.used = time.monotonic()
        with self._changed:
            is_kept = not connection.broken and not self._closed.is_set()
            if is_kept:
                self._idle.append(connection)
                self._changed.notify()
        if not is_kept:
            self._close_session(connection)

    def _close_idle(self) -> None:
        with self._changed:
            idle, self._idle = self._idle, deque()
        self._close_all(idle)

    def _close_all(self, connections: "deque[Connection] | list[Connection]") -> None:
        for connection in connections:
            self._close_session(connection)

    def _keep(self) -> None:
        """Look after the sessions until the process ends."""
        opened_at = 0.0
        while not self._closed.is_set():
            self._close_all(self._pick_unneeded())
            for connection in self._lent.copy():
                connection.keep_alive()
            if self._kept and time.monotonic() - opened_at > KEPT_AGAIN_S:
                opened_at = time.monotonic()
                self._open_kept()
            self._closed.wait(BEAT_S)

    def _pick_unneeded(self) -> list[Connection]:
        """Take idle sessions out that were unused for too long or that the server has closed."""
        now = time.monotonic()
        with self._changed:
            spare = self._size - self._places - self._kept
            picked: list[Connection] = []
            for connection in list(self._idle):
                is_unneeded = len(picked) < spare and now - connection.used > self._idle_s
                if is_unneeded or connection.is_closed_by_server():
                    self._idle.remove(connection)
                    picked.append(connection)
        return picked

    def _open_kept(self) -> None:
        """Open a session if fewer are open than are kept; who needs one and gets none is told why."""
        with self._changed:
            if self._size - self._places >= self._kept:
                return
            self._places -= 1
        try:
            connection = self._open_session()
        except (DatabaseUnavailableError, StatementError):
            self._leave_place()
        except BaseException:
            self._leave_place()
            raise
        else:
            self._give_back(connection)
