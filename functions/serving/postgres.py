"""Connections to Postgres: time limits, what each session is set to, one place that reads driver errors."""

import secrets
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any, LiteralString, TypeVar, cast

from pg8000.native import Connection as Driver
from pg8000.native import DatabaseError, InterfaceError

from serving.prepared import Column, Prepared, build_guard, prepare, read_column, run_prepared, run_unnamed
from serving.reasons import (
    DRIVER_FAILURES,
    LOST,
    POOLED,
    explain_code,
    explain_failure,
    is_fatal,
    read_sqlstate,
)
from serving.session import GUARD_CODE, SETTINGS, build_guard_statement, build_login
from serving.settings import PostgresSettings

CONNECT_TIMEOUT_S = 3
LOGIN_TIMEOUT_S = 5  # no answer to one message of the login
ANSWER_TIMEOUT_S = 9  # no answer to one message: a frozen server, which cannot obey its own limits
# A server whose machine is gone is noticed after 25 s of silence, also by sessions that wait in the pool.
KEEPALIVE = {"TCP_KEEPIDLE": 10, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3}
# What others made Postgres roll back is done again after these pauses, unless that took too long already.
AGAIN_AFTER_S = (0.05, 0.2, 0.5)
AGAIN_WITHIN_S = 4
QUIET_S = 0.5  # without a word, after which a proxy might take a session for abandoned

# No limit at all, for the end of a statement read by read_column(). The planner, which cannot know how much
# it is, prepares for a part of the rows: it walks along an index where it would sort all before the first.
FIRST_ROWS_SOON: LiteralString = "limit (select 9223372036854775807)"

Row = list[Any]
T = TypeVar("T")


class DatabaseUnavailableError(Exception):
    """Postgres cannot be reached or cannot do its work now; nothing of the open transaction was committed.

    Only when it is raised by a commit may the commit have taken place. Its text is the reason, and may be
    shown to anybody.
    """

    code = "database_unavailable"

    def __init__(self, reason: str, *, sqlstate: str = "", is_silent: bool = False) -> None:
        super().__init__(reason)
        self.is_full = sqlstate == "53300"  # all sessions are in use: one may be free in a moment
        self.is_silent = is_silent  # there was no answer, and who asks now would wait as long in vain


class RolledBackError(DatabaseUnavailableError):
    """Postgres rolled everything back because of what others did at the same time: do it again."""


class StatementError(Exception):
    """Postgres refused a statement: a defect of ours. `code` is the SQLSTATE; the session goes on."""

    def __init__(self, code: str) -> None:
        super().__init__(f"Postgres answered {code}")
        self.code = code


class Connection:
    """One session, for one thread at a time. `broken` once it must not be used again.

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
        self.used = self._spoke = time.monotonic()
        self._why_broken = ""
        self._turn = threading.Lock()  # of whoever speaks to the server: the borrower, or keep_alive()
        self._prepared: dict[str, Prepared] = {}
        self._marker = secrets.token_hex(8)
        self._is_pooled, self._guard_sql, self._guard = False, "", b""
        with self._exchange(), ExitStack() as opened:
            connected = opened.enter_context(_open_socket(settings))
            self._watched = opened.enter_context(connected.dup())  # TLS takes over the socket itself
            self._driver = Driver(
                settings.user,
                host=settings.host,
                database=settings.database,
                password=settings.password,
                ssl_context=_ssl_context(settings),
                application_name=application_name,
                sock=connected,
            )
            opened.callback(self.close)
            self._set_up({**SETTINGS, **session})
            self._set_timeout(ANSWER_TIMEOUT_S)
            opened.pop_all()

    def run(self, sql: LiteralString, **params: object) -> list[Row]:
        """Run one statement and return its rows; parameters are sent as untyped text: cast them in SQL."""
        return self._repeat(lambda: self._run(sql, params))

    def run_prepared(self, sql: LiteralString, **params: object) -> list[Row]:
        """Run a statement that this session prepares once."""
        return self._repeat(lambda: self._run_prepared(sql, params))

    def read_column(self, sql: LiteralString, count: int, **params: object) -> Generator[Column, None, None]:
        """Yield all rows of a prepared statement of one column, up to `count` at a time; needs a transaction.

        Between the yields nothing is left unread, so the session may be used, or given back before the end.
        Once in a transaction: a second one is refused.
        """
        with self._exchange():
            columns = read_column(self._driver, self._prepare(sql), params, count)
        while True:
            with self._exchange():
                column = next(columns, None)
            if column is None:
                return
            yield column

    def copy_in(self, sql: LiteralString, chunks: Iterable[bytes]) -> None:
        """Run COPY ... FROM STDIN with the chunks, each sent as one message; needs a transaction."""
        try:
            with self._exchange():
                self._driver.run(sql, stream=chunks)
        except StatementError:
            raise
        except BaseException:
            self.broken = True  # the protocol is left in the middle of the stream
            raise

    @contextmanager
    def transaction(self, *, snapshot: bool = False, writable: bool = False) -> Iterator[None]:
        """Commit at the end of the block, roll back when it raises.

        With `snapshot` it sees a single moment, and is read-only unless it is `writable`.
        """
        access: LiteralString = ", read only" if not writable else ""
        self._begin(f"begin isolation level repeatable read{access}" if snapshot else "begin")
        try:
            yield
        except BaseException:
            self._roll_back()
            raise
        self.run("commit")

    def transact(self, work: Callable[[], T], *, snapshot: bool = False) -> T:
        """Do the work in a transaction, again when Postgres rolled it back because of others.

        So it may do nothing that is not undone by that.
        """

        def do() -> T:
            with self.transaction(snapshot=snapshot):
                return work()

        return self._repeat(do)

    def is_closed_by_server(self) -> bool:
        """True when the server has hung up while nobody used the connection; costs no round trip."""
        poll = select.poll()
        poll.register(self._watched, select.POLLIN | select.POLLERR | select.POLLHUP)
        return bool(poll.poll(0))

    def keep_alive(self) -> None:
        """Say something if nobody did for a while, so that no proxy ends the session; for another thread."""
        if self.broken or time.monotonic() - self._spoke < QUIET_S:
            return
        if not self._turn.acquire(blocking=False):
            return  # somebody is speaking
        try:
            with suppress(DatabaseUnavailableError, StatementError), self._errors():
                self._driver.execute_simple("select")
        finally:
            self._spoke = time.monotonic()
            self._turn.release()

    def close(self) -> None:
        """Close the session; never raises."""
        self.broken = True
        with suppress(InterfaceError, DatabaseError, OSError, AttributeError):
            self._driver.close()
        self._watched.close()

    def _set_up(self, settings: Mapping[str, str]) -> None:
        """Set the session up, and find out whether a pooler is in between: it has process ids of its own."""
        rows = self._driver.run(build_login(settings, self._marker)) or []
        pid, marker = rows[0][:2]
        if marker:
            raise DatabaseUnavailableError(POOLED)
        key = bytes(self._driver._backend_key_data or b"")
        if int.from_bytes(key[:4], "big") != pid:
            self._is_pooled = True
            self._guard_sql = build_guard_statement(self._marker)
            self._guard = build_guard(self._guard_sql)

    def _set_timeout(self, timeout_s: float) -> None:
        if self._driver._usock is not None:  # with TLS it is another socket than the one that was opened
            self._driver._usock.settimeout(timeout_s)

    def _run(self, sql: LiteralString, params: Mapping[str, object]) -> list[Row]:
        with self._exchange():
            if params:
                return run_unnamed(self._driver, sql, params, guard=self._find_guard())
            guard = f"{self._guard_sql}; " if self._find_guard() else ""
            return self._driver.run(cast(LiteralString, guard) + sql) or []

    def _run_prepared(self, sql: LiteralString, params: Mapping[str, object]) -> list[Row]:
        with self._exchange():
            return run_prepared(self._driver, self._prepare(sql), params, guard=self._find_guard())

    def _begin(self, sql: LiteralString) -> None:
        with self._exchange():
            self._driver.run(f"{sql}; {self._guard_sql}" if self._is_pooled else sql)

    def _prepare(self, sql: LiteralString) -> Prepared:
        statement = self._prepared.get(sql)
        if statement is None:
            statement = self._prepared[sql] = prepare(self._driver, sql, guard=self._find_guard())
        return statement

    def _find_guard(self) -> bytes:
        """Return what to send before a statement; nothing in a transaction, which a pooler keeps whole."""
        return self._guard if self._is_pooled and not self._is_in_transaction() else b""

    def _is_in_transaction(self) -> bool:
        return self._driver._transaction_status in (b"T", b"E")

    def _repeat(self, work: Callable[[], T]) -> T:
        """Do what is one transaction of its own, again when Postgres rolled it back because of others."""
        if self.broken or self._is_in_transaction():
            return work()
        started = time.monotonic()
        for pause in AGAIN_AFTER_S:
            try:
                return work()
            except RolledBackError:
                if self.broken or time.monotonic() - started > AGAIN_WITHIN_S:
                    raise
                time.sleep(pause)
        return work()

    def _roll_back(self) -> None:
        if self.broken:
            return
        try:
            self.run("rollback")
        except (DatabaseUnavailableError, StatementError):
            self.broken = True

    @contextmanager
    def _exchange(self) -> Iterator[None]:
        """Speak to the server; nobody else does meanwhile."""
        with self._turn, self._errors():
            yield
            self._spoke = time.monotonic()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        """Translate what the driver raises: the only place that knows its errors."""
        if self.broken:
            # Postgres may still be there, but it would answer for a transaction that nobody ended.
            raise DatabaseUnavailableError(self._why_broken or "the session is broken")
        try:
            yield
        except DatabaseError as error:
            raise self._translate(error) from error
        except DRIVER_FAILURES as error:
            self.broken, self._why_broken = True, explain_failure(error)
            is_silent = isinstance(error, TimeoutError) or isinstance(error.__context__, TimeoutError)
            raise DatabaseUnavailableError(self._why_broken, is_silent=is_silent) from error

    def _translate(self, error: DatabaseError) -> DatabaseUnavailableError | StatementError:
        """Return what an answer of the server means; the session goes on unless that ended it."""
        code = read_sqlstate(error)
        if code == GUARD_CODE and self._is_pooled:
            reason: str | None = POOLED
        else:
            reason = explain_code(code)
        if reason is None and is_fatal(error):
            reason = f"{LOST} ({code})"  # such as 25P03, of a time limit of the server
        if reason is None:
            return StatementError(code)
        if is_fatal(error) or reason == POOLED or code[:2] in ("08", "26", "57", "58", "XX"):
            self.broken, self._why_broken = True, reason
        # Of 40003 nobody knows whether it was completed.
        is_rolled_back = code.startswith("40") and code != "40003"
        kind = RolledBackError if is_rolled_back else DatabaseUnavailableError
        return kind(reason, sqlstate=code)


def _open_socket(settings: PostgresSettings) -> socket.socket:
    """Connect within CONNECT_TIMEOUT_S; from then on each read and write has LOGIN_TIMEOUT_S."""
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
    connection.settimeout(LOGIN_TIMEOUT_S)
    return connection


def _ssl_context(settings: PostgresSettings) -> ssl.SSLContext | bool | None:
    """Translate libpq's modes; None lets the driver try TLS first and go on without."""
    if settings.sslmode == "verify-full":
        return ssl.create_default_context(cafile=settings.sslrootcert or None)
    return {"disable": False, "prefer": None, "require": True}[settings.sslmode]
