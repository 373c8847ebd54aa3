"""A session of set-up with Postgres. It is patient, and a GRANT that only warns is an error to it."""

import json
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, LiteralString

from pg8000.native import Connection as Driver
from pg8000.native import DatabaseError, InterfaceError

from serving.settings import PostgresSettings

CONNECT_TIMEOUT_S = 10
ANSWER_TIMEOUT_S = 90  # longer than statement_timeout below
# The server, the database or the role may have other values, with which set-up would fail or wait for ever.
SETTINGS = {
    "statement_timeout": "60s",
    "lock_timeout": "30s",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "default_transaction_read_only": "off",
    "default_transaction_isolation": "read committed",
    "search_path": "public",
    "client_min_messages": "notice",
    "client_connection_check_interval": "500",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
}
# SQLSTATEs worth another attempt: no session is free, a lock or a statement took too long, the server starts
# or stops, or somebody else changed the same row of a catalog at the same moment.
_PASSING_CODES = re.compile(r"53300|55P03|55006|57014|57P0.|40001|40P01|08...|23505|42710|42P04")
_CHANGED_AT_ONCE = "tuple concurrently"  # updated or deleted; its SQLSTATE is XX000
_WARNS_OF_RIGHTS = (b"01006", b"01007")  # privilege_not_revoked, privilege_not_granted


class DatabaseSetupError(Exception):
    """The database cannot be prepared, and waiting would not help; the message says why."""


class DatabaseNotReadyError(Exception):
    """Postgres does not answer yet, or was disturbed; the message says what was tried."""


class RoleFullError(DatabaseNotReadyError):
    """The password was right, but the role has all the sessions that it may have."""


class Session:
    """One session as `user` with a database."""

    def __init__(self, driver: Driver, settings: PostgresSettings) -> None:
        self.user = settings.user
        self.database = settings.database
        self._driver = driver

    @property
    def version(self) -> int:
        """The server's version as a number: 150018 is 15.18."""
        return int(self.run("show server_version_num")[0][0])

    @property
    def is_superuser(self) -> bool:
        """Whether this session may do everything."""
        return self._driver.parameter_statuses.get("is_superuser") == "on"

    @property
    def is_password_checked(self) -> bool:
        """Whether the server asked for the password at login: it may trust this address."""
        return getattr(self._driver, "auth", None) is not None

    def run(self, sql: LiteralString, **params: object) -> list[list[Any]]:
        """Run one statement and return its rows; cast parameters in SQL."""
        return self._driver.run(sql, **params) or []

    def order(self, statement: str) -> None:
        """Run a statement that takes rights; DatabaseSetupError has the statement when they are missing.

        Names in the statement are quoted already.
        """
        self._driver.notices.clear()
        try:
            self._driver.run(statement)
        except DatabaseError as error:
            if sqlstate(error) != "42501":
                raise
            reason = message(error)
        else:
            warnings = [notice[b"M"] for notice in self._driver.notices if notice[b"C"] in _WARNS_OF_RIGHTS]
            if not warnings:
                return
            reason = warnings[0].decode()
        raise DatabaseSetupError(
            f"database {self.database}: {self.user} lacks the rights for a statement ({reason}); "
            f"have this run by its owner or a superuser: {statement}"
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Commit at the end of the block, roll back when it raises."""
        self.run("begin")
        try:
            yield
        except BaseException:
            with suppress(InterfaceError, DatabaseError):
                self.run("rollback")
            raise
        self.run("commit")


@contextmanager
def open_session(settings: PostgresSettings) -> Iterator[Session]:
    """Open a session for the block; errors of Postgres, in the block too, become one of the two above."""
    where = f"Postgres at {settings.host}:{settings.port}, database {settings.database}"
    try:
        driver = _connect(settings)
        try:
            driver.run(
                "set statement_timeout = 0"
            )  # one of a few milliseconds is not to stop the next statement
            driver.run(
                "select pg_catalog.set_config(known.name, wanted.value, false) "
                "from json_each_text(cast(:settings as json)) as wanted(name, value) "
                "join pg_catalog.pg_settings as known on known.name = wanted.name",
                settings=json.dumps(SETTINGS),
            )
            yield Session(driver, settings)
        finally:
            with suppress(InterfaceError, DatabaseError, OSError):
                driver.close()
    except DatabaseError as error:
        if "too many connections for role" in message(error):
            raise RoleFullError(f"{where} is not ready: {message(error)}") from error
        if _is_passing(error):
            raise DatabaseNotReadyError(f"{where} is not ready: {message(error)}") from error
        raise DatabaseSetupError(f"{where} refuses {settings.user}: {message(error)}") from error
    except (InterfaceError, OSError) as error:
        reason = _why_never(error)
        if reason:
            raise DatabaseSetupError(f"{where} cannot be used: {reason}") from error
        raise DatabaseNotReadyError(f"{where} cannot be reached: {error}") from error


def sqlstate(error: DatabaseError) -> str:
    """Return the five characters that tell what Postgres found wrong."""
    answer = error.args[0] if error.args else None
    return answer.get("C", "") if isinstance(answer, dict) else ""


def message(error: DatabaseError) -> str:
    """Say what is wrong in the words of the server."""
    answer = error.args[0] if error.args else None
    return answer.get("M", "") if isinstance(answer, dict) else str(error)


def _is_passing(error: DatabaseError) -> bool:
    return bool(_PASSING_CODES.fullmatch(sqlstate(error))) or _CHANGED_AT_ONCE in message(error)


def _why_never(error: BaseException) -> str:
    """Say why there will be no session however long one waits; empty when there may be one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({error.verify_message}); PGSSLROOTCERT is for its authority's"
        )
    if isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return ""
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason or error}"
    if isinstance(error, socket.gaierror) and error.errno != socket.EAI_AGAIN:
        return "the host in PGHOST is unknown"
    if isinstance(error, PermissionError):
        return str(error)
    return "it does not speak TLS, which PGSSLMODE asks for" if "refuses SSL" in str(error) else ""


def _connect(settings: PostgresSettings) -> Driver:
    context = _ssl_context(settings)
    connected = _open_socket(settings)
    try:
        driver = Driver(
            settings.user,
            host=settings.host,
            database=settings.database,
            password=settings.password,
            ssl_context=context,
            application_name="rollcall-setup",
            sock=connected,
        )
    except BaseException as error:
        connected.close()
        if isinstance(error, AttributeError):  # the driver's answer to a session that ends during login
            raise ConnectionResetError("the server hung up during login") from error
        raise
    return driver


def _open_socket(settings: PostgresSettings) -> socket.socket:
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
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    connection.settimeout(ANSWER_TIMEOUT_S)
    return connection


def _ssl_context(settings: PostgresSettings) -> ssl.SSLContext | bool | None:
    """Translate libpq's modes; None lets the driver try TLS first and go on without."""
    if settings.sslmode != "verify-full":
        return {"disable": False, "prefer": None, "require": True}[settings.sslmode]
    try:
        return ssl.create_default_context(cafile=settings.sslrootcert or None)
    except OSError as error:
        raise DatabaseSetupError(
            f"PGSSLROOTCERT is {settings.sslrootcert!r}, wanted a file of certificates: {error}"
        ) from error
