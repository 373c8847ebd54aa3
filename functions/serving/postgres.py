"""Connections to Postgres: time limits, a pool that survives restarts, one place that reads driver errors."""

import select
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, LiteralString

from pg8000.native import Connection as Driver
from pg8000.native import DatabaseError, InterfaceError, PreparedStatement

from serving.prepared import Column, read_column, run_prepared
from serving.settings import PostgresSettings

CONNECT_TIMEOUT_S = 3
RECENT_S = 0.02  # since its last use, within which a session is not asked whether it is still there
SILENT_S = 0.5  # after no answer, before anybody is made to wait for one again
ANSWER_TIMEOUT_S = 9  # no answer to one message: a frozen server, which cannot obey its own limits
# A server whose machine is gone is noticed after 25 s of silence, also by sessions that wait in the pool.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
# Session settings. The server gives a lock up soon after its client is killed (it looks every 0.5 s while
# busy) or cut off (keepalives, unacknowledged data), and cancels what takes longer than we would wait.
SESSION = {
    "statement_timeout": "8s",
    "lock_timeout": "7s",
    "idle_in_transaction_session_timeout": "60s",
    "client_connection_check_interval": "500",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
    "timezone": "UTC",
    "client_encoding": "UTF8",
    "default_transaction_isolation": "read committed",
}
# SQLSTATE classes that are nobody's mistake here: connection, resources, operator, system; then what a
# missing or half-done set-up and changed credentials look like.
_UNAVAILABLE_CLASSES = ("08", "28", "3D", "53", "55", "57", "58", "XX")
_UNAVAILABLE_CODES = ("25006", "3F000", "42501", "42P01")

# No limit at all, for the end of a statement read by read_column(). The planner, which cannot know how much
# it is, prepares for a part of the rows: it walks along an index where it would sort all before the first.
FIRST_ROWS_SOON: LiteralString = "limit (select 9223372036854775807)"

Row = list[Any]


class DatabaseUnavailableError(Exception):
    """Postgres cannot be reached or cannot do its work now; nothing of the open transaction was committed.

    Only when it is raised by a commit may the commit have taken place.
    """

    code = "database_unavailable"

    def __init__(self, detail: str, *, is_silent: bool = False) -> None:
        super().__init__(detail)
        self.is_silent = is_silent  # there was no answer, and who asks now would wait as long in vain


class StatementError(Exception):
    """Postgres refused a statement: a defect of ours. `code` is the SQLSTATE; the session goes on."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Postgres answered {code}")
        self.code = code


class Connection:
    """One session; not to be shared between threads. `broken` once it must not be used again.

    `used` is when it was given back last, in seconds of the monotonic clock.
    """

    def __init__(
        self,
        settings: PostgresSettings,
        *,
        application_name: str,
        session: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self.broken = False
        self.used = time.monotonic()
        self._prepared: dict[str, PreparedStatement] = {}
        with self._errors(), ExitStack() as opened:
            connected = opened.enter_context(_open_socket(settings))
            self._watched = opened.enter_context(connected.dup())  # TLS takes over the socket itself
            self._driver = Driver(
                settings.user,
                host=settings.host,
                database=settings.database,
                password=settings.password,
                ssl_context=_ssl_context(settings),
                application_name=application_name,
                startup_params={**SESSION, **session},
                sock=connected,
            )
            opened.pop_all()

    def run(self, sql: LiteralString, **params: object) -> list[Row]:
        """Run one statement and return its rows; parameters are sent as untyped text: cast them in SQL."""
        with self._errors():
            return self._driver.run(sql, **params) or []

    def run_prepared(self, sql: LiteralString, **params: object) -> list[Row]:
        """Run a statement that this session prepares once: one round trip instead of three."""
        with self._errors():
            return run_prepared(self._driver, self._prepare(sql), params)

    def read_column(self, sql: LiteralString, count: int, **params: object) -> Generator[Column, None, None]:
        """Yield all rows of a prepared statement of one column, up to `count` at a time; needs a transaction.

        Between the yields nothing is left unread, so the session may be used, or given back before the end.
        Once in a transaction: a second one is refused.
        """
        with self._errors():
            yield from read_column(self._driver, self._prepare(sql), params, count)

    def copy_in(self, sql: LiteralString, chunks: Iterable[bytes]) -> None:
        """Run COPY ... FROM STDIN with the chunks, each sent as one message."""
        try:
            with self._errors():
                self._driver.run(sql, stream=chunks)
        except StatementError:
            raise
        except BaseException:
            self.broken = True  # the protocol is left in the middle of the stream
            raise

    @contextmanager
    def transaction(self, *, snapshot: bool = False) -> Iterator[None]:
        """Commit at the end of the block, roll back when it raises; `snapshot`: read-only, one moment."""
        self.run("begin isolation level repeatable read, read only" if snapshot else "begin")
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        self.run("commit")

    def is_closed_by_server(self) -> bool:
        """True when the server has hung up while nobody used the connection; costs no round trip."""
        poll = select.poll()
        poll.register(self._watched, select.POLLIN | select.POLLERR | select.POLLHUP)
        return bool(poll.poll(0))

    def close(self) -> None:
        """Close the session; never raises."""
        self.broken = True
        with suppress(InterfaceError, DatabaseError, OSError, AttributeError):
            self._driver.close()
        self._watched.close()

    def _prepare(self, sql: LiteralString) -> PreparedStatement:
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = self._driver.prepare(sql)
        return statement

    def _roll_back(self) -> None:
        if self.broken:
            return
        try:
            self.run("rollback")
        except (DatabaseUnavailableError, StatementError):
            self.broken = True

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate what the driver raises: the only place that knows its errors."""
        if self.broken:
            # Postgres may still be there, but it would answer for a transaction that nobody ended.
            raise DatabaseUnavailableError("the session is broken")
        try:
            yield
        except DatabaseError as error:
            code = _sqlstate(error)
            if not code.startswith(_UNAVAILABLE_CLASSES) and code not in _UNAVAILABLE_CODES:
                raise StatementError(code) from error
            self.broken = self.broken or code[:2] in ("08", "57", "58", "XX")
            raise DatabaseUnavailableError(f"Postgres answered {code}") from error
        except (InterfaceError, OSError, AttributeError) as error:
            # AttributeError: the driver's answer to a session that ended while it was logging in.
            self.broken = True
            detail = f"the connection to Postgres failed: {type(error).__name__}"
            is_silent = isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)
            raise DatabaseUnavailableError(detail, is_silent=is_silent) from error


class Pool:
    """Keeps idle connections for the threads of this process; opens one when there is none.

    The callers' threads bound how many there are, so it has no limit of its own.
    """

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self.connect = connect
        self._idle: deque[Connection] = deque()
        self._lock = threading.Lock()
        self._silent_until = 0.0

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """Lend a connection for the block."""
        connection = self._take_unless_silent()
        try:
            yield connection
        except BaseException as error:
            # An unfinished answer or transaction may be left behind: only refused statements are known
            # to leave the session as it was.
            connection.broken = connection.broken or not isinstance(error, StatementError)
            if isinstance(error, DatabaseUnavailableError):
                self._note(error)
                self.close()  # the idle sessions broke too; found out now, they fail nobody
            raise
        finally:
            self.give_back(connection)

    def _take_unless_silent(self) -> Connection:
        """Spare the requests that wait for a thread a wait for Postgres that others have just had in vain."""
        if time.monotonic() < self._silent_until:
            raise DatabaseUnavailableError("Postgres did not answer a moment ago")
        try:
            return self.take()
        except DatabaseUnavailableError as error:
            self._note(error)
            raise

    def _note(self, error: DatabaseUnavailableError) -> None:
        if error.is_silent:
            self._silent_until = time.monotonic() + SILENT_S

    def take(self) -> Connection:
        """Take the connection used last, or open one; must be given back."""
        while True:
            with self._lock:
                connection = self._idle.pop() if self._idle else None
            if connection is None:
                return self.connect()
            # Under load the question would cost a change of threads, for what was true a moment ago.
            if time.monotonic() - connection.used < RECENT_S or not connection.is_closed_by_server():
                return connection
            connection.close()

    def give_back(self, connection: Connection) -> None:
        """Keep a connection for the next taker, or close it when it is broken."""
        if connection.broken:
            connection.close()
            return
        connection.used = time.monotonic()
        with self._lock:
            self._idle.append(connection)

    def close(self) -> None:
        """Close the idle connections."""
        with self._lock:
            idle, self._idle = self._idle, deque()
        for connection in idle:
            connection.close()


def _sqlstate(error: DatabaseError) -> str:
    answer = error.args[0] if error.args else None
    return answer.get("C", "") if isinstance(answer, dict) else ""


def _open_socket(settings: PostgresSettings) -> socket.socket:
    """Connect within CONNECT_TIMEOUT_S; from then on each read and write has ANSWER_TIMEOUT_S."""
    if settings.host.startswith("/"):
        connection = socket.socket(socket.AF_UNIX)
        connection.settimeout(CONNECT_TIMEOUT_S)
        try:
            connection.connect(str(Path(settings.host) / f".s.PGSQL.{settings.port}"))
        except OSError:
            connection.close()
            raise
    else:
        connection = socket.create_connection((settings.host, settings.port), CONNECT_TIMEOUT_S)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for name, value in KEEPALIVE.items():
            if hasattr(socket, name):  # not all systems have all of them
                connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    connection.settimeout(ANSWER_TIMEOUT_S)
    return connection


def _ssl_context(settings: PostgresSettings) -> ssl.SSLContext | bool | None:
    """Translate libpq's modes; None lets the driver try TLS first and go on without."""
    if settings.sslmode == "verify-full":
        return ssl.create_default_context(cafile=settings.sslrootcert or None)
    return {"disable": False, "prefer": None, "require": True}[settings.sslmode]
