"""Set-up on databases and servers as people have them: shared, restored, half-owned, changed by hand."""

import os
import re
import secrets
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from pg8000.native import Connection, DatabaseError, identifier, literal
from rig import REPOSITORY

from rollcall import database
from rollcall.database import Changes, Wanted, find_server_problem
from rollcall.ports import HOST
from rollcall.roles import GET_DATA, KINDS, PROCESS_USERS, READER, make_roles
from rollcall.servers import Postgres, embedded_postgres, packaged_programs
from rollcall.session import DatabaseNotReadyError, DatabaseSetupError, open_session
from serving.settings import PostgresSettings

CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"  # of no authority that the server has
NOTHING = Changes([], [], [], {"removed": [], "left": []})


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with embedded_postgres() as postgres:
        yield postgres


@dataclass(frozen=True)
class Installation:
    """One database of a server, set up in this process."""

    settings: PostgresSettings  # of who sets it up
    superuser: PostgresSettings
    prefix: str
    passwords: dict[str, str] = field(default_factory=dict)

    @property
    def wanted(self) -> Wanted:
        return Wanted(self.settings, make_roles(self.prefix, self.passwords), REPOSITORY / "infra/postgres")

    def set_up(self) -> Changes:
        with database.lock_setup(self.wanted) as maintenance:
            database.create_database(maintenance, self.settings.database)
            return database.prepare(self.wanted)

    def connect(self, kind: str) -> Connection:
        return connect(replace(self.settings, user=self.name(kind), password=self.passwords[kind]))

    def name(self, kind: str) -> str:
        return self.prefix + kind

    def run(self, *statements: str, as_user: PostgresSettings | None = None) -> list[list]:
        """Run statements in its database, by default as a superuser; returns the rows of the last.

        {process_users}, {get_data}, {reader} and {database} stand for the names.
        """
        names = {kind: identifier(self.name(kind)) for kind in KINDS}
        names["database"] = identifier(self.settings.database)
        rows = []
        with closing(connect(replace(as_user or self.superuser, database=self.settings.database))) as driver:
            for statement in statements:
                rows = driver.run(statement.format_map(names)) or []
        return rows


def connect(settings: PostgresSettings) -> Connection:
    return Connection(
        settings.user,
        host=settings.host,
        port=settings.port,
        database=settings.database,
        password=settings.password,
        ssl_context=False,
    )


MakeInstallation = Callable[..., Installation]


@pytest.fixture
def install(server: Postgres) -> Iterator[MakeInstallation]:
    """Make an installation with names of its own; nothing is on the server yet."""
    made: list[Installation] = []
    root = PostgresSettings(HOST, server.port, server.owner, "postgres", "disable", "", server.password)

    def make(user: str = "", password: str = "", name: str = "") -> Installation:
        name = name or f"t{secrets.token_hex(4)}"
        settings = replace(root, database=name)
        if user:
            settings = replace(settings, user=user, password=password)
        installation = Installation(
            settings, root, f"{name}_", {kind: f"{kind}-{secrets.token_hex(4)}" for kind in KINDS}
        )
        made.append(installation)
        return installation

    yield make
    with closing(connect(root)) as driver:
        for installation in made:
            driver.run(f"drop database if exists {identifier(installation.settings.database)} with (force)")
            for kind in KINDS:
                driver.run(f"drop role if exists {identifier(installation.name(kind))}")


@pytest.fixture
def administrator(server: Postgres) -> Iterator[tuple[str, str]]:
    """A role as managed services give it: it may create databases and roles, and is no superuser."""
    name, password = f"admin-{secrets.token_hex(4)}", secrets.token_hex(8)
    root = PostgresSettings(HOST, server.port, server.owner, "postgres", "disable", "", server.password)
    with closing(connect(root)) as driver:
        driver.run(f"create role {identifier(name)} login createdb createrole password {literal(password)}")
        yield name, password


def test_two_installations_on_one_server_keep_out_of_each_others_way(install: MakeInstallation) -> None:
    first, second = install(), install()
    for installation in (first, second, first):
        installation.set_up()
    changed = replace(first, passwords=dict.fromkeys(KINDS, "another"))
    assert changed.set_up().passwords == [changed.name(kind) for kind in KINDS]
    for installation in (changed, second):
        for kind in KINDS:
            with closing(installation.connect(kind)) as driver:
                driver.run("select from users")
    with pytest.raises(DatabaseError, match="permission denied for database"):
        connect(replace(first.settings, user=second.name(READER), password=second.passwords[READER]))


def test_the_roles_of_an_earlier_release_go(install: MakeInstallation) -> None:
    first, second = install(), install()
    for installation in (first, second):
        installation.set_up()
    old = ("create role process_users login", "create role get_data login", "create role reader login")
    first.run(*old)
    for installation in (first, second):
        installation.run(
            "grant connect on database {database} to process_users, get_data, reader",
            "grant select, update on users to process_users",
            "grant select on users to get_data, reader",
        )
    assert first.set_up().former == {"removed": [], "left": list(KINDS)}
    assert first.run("select has_table_privilege('process_users', 'users', 'select')") == [[False]]
    assert second.run("select has_table_privilege('process_users', 'users', 'update')") == [[True]]
    assert second.set_up().former == {"removed": list(KINDS), "left": []}
    assert first.set_up() == second.set_up() == NOTHING


def test_a_dump_of_an_earlier_release_gets_its_rights(install: MakeInstallation, tmp_path: Path) -> None:
    """With the options of `make restore`: the roles that the dump names are not on the server any more."""
    first, second = install(), install()
    first.set_up()
    first.run("insert into users (user_id, first_name, last_name, birthdate) values ('1', 'A', 'B', now())")
    dump = str(tmp_path / "rollcall.dump")
    run_program("pg_dump", first.settings, "--format=custom", f"--file={dump}")
    with closing(connect(second.superuser)) as driver:
        driver.run(f"create database {identifier(second.settings.database)} template template0")
        driver.run(f"drop database {identifier(first.settings.database)}")
        for kind in KINDS:
            driver.run(f"drop role {identifier(first.name(kind))}")
    (options,) = re.findall(
        r"pg_restore --username=postgres (.*) --create", (REPOSITORY / "Makefile").read_text()
    )
    run_program("pg_restore", second.settings, *options.split(), f"--dbname={second.settings.database}", dump)
    second.set_up()
    with closing(second.connect(READER)) as driver:
        assert driver.run("select user_id from users") == [["1"]]
    assert second.set_up() == NOTHING


def run_program(name: str, settings: PostgresSettings, *arguments: str) -> None:
    """Run a client program of Postgres to its good end."""
    env = {
        "PGHOST": settings.host,
        "PGPORT": str(settings.port),
        "PGUSER": settings.user,
        "PGPASSWORD": settings.password,
        **({"PGDATABASE": settings.database} if name == "pg_dump" else {}),
    }
    command = [str(packaged_programs() / "bin" / name), *arguments]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_role_of_the_same_name_that_is_not_of_an_earlier_release_stays(install: MakeInstallation) -> None:
    installation = install()
    installation.set_up()
    installation.run("create role reader")
    assert installation.set_up() == NOTHING
    installation.run("drop role reader")


@pytest.mark.parametrize(
    "statement",
    [
        "alter role {reader} superuser",
        "alter role {reader} createdb createrole replication bypassrls noinherit",
        "alter role {get_data} nologin",
        "alter role {get_data} valid until '2020-01-01'",
        "alter role {get_data} connection limit 0",
        "alter role {get_data} set search_path = pg_catalog",
        "alter role {get_data} in database {database} set default_transaction_read_only = on",
        "alter role {process_users} in database postgres set statement_timeout = '1ms'",
        "alter role {reader} reset all",
        "grant pg_read_all_data, pg_execute_server_program to {get_data}",
        "grant {process_users} to {reader} with admin option",
    ],
)
def test_what_was_done_to_a_role_is_undone(install: MakeInstallation, statement: str) -> None:
    look = """
        select to_jsonb(pg_roles) - 'oid', array(select setconfig::text || setdatabase from pg_db_role_setting
                                         where setrole = pg_roles.oid order by 1),
               array(select roleid from pg_auth_members where member = pg_roles.oid)
        from pg_roles where oid in ('{process_users}'::regrole, '{get_data}'::regrole, '{reader}'::regrole)
        order by rolname
    """
    installation = install()
    installation.set_up()
    want = installation.run(look)
    installation.run(statement)
    assert installation.run(look) != want
    assert len(installation.set_up().roles) == 1
    assert installation.run(look) == want
    assert installation.set_up() == NOTHING


@pytest.mark.parametrize(
    "statement",
    [
        "alter database {database} set search_path = pg_catalog",
        "alter database {database} set default_transaction_read_only = on",
        "alter database {database} set statement_timeout = '100ms'",
        "drop schema public cascade",
        "create schema {owner}",
    ],
)
def test_set_up_needs_no_usual_settings(install: MakeInstallation, server: Postgres, statement: str) -> None:
    installation = install()
    root = replace(installation.superuser, database="postgres")
    with closing(connect(root)) as driver:
        driver.run(f"create database {identifier(installation.settings.database)} template template0")
    installation.run(statement.replace("{owner}", identifier(server.owner)))
    installation.set_up()
    with closing(installation.connect(READER)) as driver:
        driver.run("set statement_timeout = 0")
        driver.run("select from users")


def test_a_reader_leaves_sessions_and_large_objects_to_others(install: MakeInstallation) -> None:
    installation = install()
    installation.set_up()
    with ExitStack() as stack:
        for _ in range(10):
            stack.enter_context(closing(installation.connect(READER)))
        with pytest.raises(DatabaseError, match="too many connections for role"):
            installation.connect(READER)
        assert installation.set_up() == NOTHING  # and set-up does not need a session of the role
    for kind in KINDS:
        with (
            closing(installation.connect(kind)) as driver,
            pytest.raises(DatabaseError, match="permission denied for function lo_from_bytea"),
        ):
            driver.run("select lo_from_bytea(0, 'x')")


def test_a_reader_cannot_keep_set_up_waiting(install: MakeInstallation) -> None:
    installation = install()
    installation.set_up()
    reader = installation.name(READER)
    settings = replace(
        installation.superuser, user=reader, password=installation.passwords[READER], database="postgres"
    )
    with closing(connect(settings)) as driver:
        driver.run(f"select pg_advisory_lock({database.LOCK})")
        assert installation.set_up() == NOTHING


def test_without_a_superuser_all_is_the_same(
    install: MakeInstallation, administrator: tuple[str, str]
) -> None:
    installation = install(*administrator)
    first = installation.set_up()
    assert first.passwords == [installation.name(kind) for kind in KINDS]
    assert installation.set_up() == NOTHING
    installation.passwords[READER] = "another"
    assert installation.set_up().passwords == [installation.name(READER)]
    assert installation.set_up() == NOTHING


def refuse(installation: Installation) -> str:
    """Set up, which must be refused; returns the reason."""
    with pytest.raises(DatabaseSetupError) as refused:
        installation.set_up()
    return str(refused.value)


def test_what_somebody_else_has_to_run_is_told(
    install: MakeInstallation, administrator: tuple[str, str]
) -> None:
    theirs = install(*administrator)
    ours = replace(theirs, settings=replace(theirs.superuser, database=theirs.settings.database))
    ours.set_up()
    name, user = theirs.settings.database, identifier(theirs.settings.user)
    statements = [f"alter database {name} owner to {user}"]
    assert statements[0] in refuse(theirs)
    ours.run(statements[0])
    reason = refuse(theirs)
    tables = [line.split(": ")[-1] for line in reason.splitlines() if "alter table" in line]
    assert f"alter table users owner to {user}" in tables
    ours.run(*tables)
    # The roles are another's too.
    ours.run("alter role {reader} connection limit 3")
    assert f"database {name}: {theirs.settings.user} lacks the rights" in refuse(theirs)


@pytest.mark.parametrize(
    ("statements", "want"),
    [
        (
            ["create role somebody", "grant select on users to somebody with grant option",
             "set role somebody", "grant select on users to public"],
            "everybody may use SELECT on table users; have this run as somebody: "
            "revoke SELECT on table users from public cascade",
        ),
        (
            ["create role somebody", "grant all on ledger to somebody with grant option",
             "set role somebody", "grant update on ledger to {get_data}"],
            "revoke UPDATE on table ledger from {get_data} cascade",
        ),
        (["create role somebody", "alter table users owner to {get_data}"],
         "table users belongs to {get_data}"),
        (["create role somebody", "alter table users enable row level security"],
         "alter table users disable row level security"),
        (["create role somebody", "create schema theirs authorization {reader}"],
         "may use create on schema theirs"),
    ],
)  # fmt: skip
def test_rights_that_set_up_cannot_put_right_are_named(
    install: MakeInstallation, statements: list[str], want: str
) -> None:
    installation = install()
    installation.set_up()
    try:
        installation.run(*statements)
        reason = refuse(installation)
        assert want.format_map({kind: installation.name(kind) for kind in KINDS}) in reason
        assert f"database {installation.settings.database}" in reason
    finally:
        installation.run("reassign owned by {get_data} to rollcall", "drop owned by somebody cascade")
        installation.run("drop role somebody")


@pytest.mark.parametrize(
    ("options", "statement", "want"),
    [
        ("encoding 'LATIN1' locale 'C'", "select 1",
         "its encoding is LATIN1: make it anew with encoding 'UTF8' template template0"),
        ("encoding 'SQL_ASCII' locale 'C'", "select 1", "its encoding is SQL_ASCII"),
        ("", "create table invoices (id int)", "it holds tables that are not Rollcall's (invoices)"),
        ("", "create table schema_migrations as select '1'::text as version",
         "not Rollcall's (schema_migrations)"),
    ],
)  # fmt: skip
def test_a_database_that_would_not_work_is_refused_as_it_is(
    install: MakeInstallation, options: str, statement: str, want: str
) -> None:
    installation = install()
    with closing(connect(installation.superuser)) as driver:
        driver.run(f"create database {installation.settings.database} template template0 {options}")
    installation.run(statement)
    before = installation.run("select relname from pg_class where relnamespace = 'public'::regnamespace")
    assert want in refuse(installation)
    assert before == installation.run(
        "select relname from pg_class where relnamespace = 'public'::regnamespace"
    )
    assert installation.run("select from pg_roles where rolname = '{reader}'") == []


def test_servers_that_cannot_be_used_are_named() -> None:
    assert (
        find_server_problem(130022, is_standby=False) == "the server is PostgreSQL 13.22, wanted 14 or later"
    )
    assert find_server_problem(140001, is_standby=False) == ""
    assert "standby" in find_server_problem(180004, is_standby=True)


@pytest.mark.parametrize(
    ("changes", "want"),
    [
        ({"password": "wrong"}, "password authentication failed"),
        ({"host": "no-such-host.invalid"}, "the host in PGHOST is unknown"),
        ({"sslmode": "require"}, "it does not speak TLS, which PGSSLMODE asks for"),
        ({"sslmode": "verify-full", "sslrootcert": str(CERTIFICATE)}, "it does not speak TLS"),
        ({"sslmode": "verify-full", "sslrootcert": os.devnull + "/none"}, "wanted a file of certificates"),
    ],
)
def test_what_waiting_does_not_mend_is_told_at_once(
    install: MakeInstallation, changes: dict[str, str], want: str
) -> None:
    settings = replace(install().superuser, **changes)
    with pytest.raises(DatabaseSetupError, match=want), open_session(settings):
        pass


def test_a_server_that_may_come_is_worth_waiting_for(install: MakeInstallation) -> None:
    with (
        pytest.raises(DatabaseNotReadyError, match="cannot be reached"),
        open_session(replace(install().superuser, port=9)),
    ):
        pass


def test_the_checks_go_on_to_log_in(install: MakeInstallation) -> None:
    """Here somebody forbids temporary tables, which no right tells."""
    installation = install()
    installation.set_up()
    installation.run(
        "create function forbid() returns event_trigger language plpgsql as "
        "$$ begin if current_user like '%process_users' then raise 'no tables here'; end if; end $$",
        "create event trigger forbid on ddl_command_start execute function forbid()",
    )
    reason = refuse(installation)
    assert f"refuses {installation.name(PROCESS_USERS)}: no tables here" in reason
    assert GET_DATA not in reason
