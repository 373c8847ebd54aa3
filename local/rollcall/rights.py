"""What the roles may do: granted anew by each set-up, and found out afterwards."""

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import LiteralString

from pg8000.native import identifier

from rollcall.roles import PROCESS_USERS, Roles
from rollcall.session import DatabaseSetupError, RoleFullError, Session, open_session
from serving.settings import PostgresSettings

_NAME = re.compile(r':"(\w+)"')


def apply_grants(session: Session, grants_sql: Path, roles: Roles) -> None:
    """Run grants.sql, after the migrations: the rights that it names are then the only ones."""
    names = {"database": session.database} | {kind: role.name for kind, role in roles.items()}
    with session.transaction():
        for statement in _split(grants_sql.read_text(encoding="utf-8")):
            session.order(_NAME.sub(lambda found: identifier(names[found[1]]), statement))


def keep_to_this_database(session: Session, roles: Roles) -> None:
    """Keep the roles out of the other databases, on a server that is Rollcall's alone."""
    others = session.run(
        "select datname from pg_database where datallowconn and datname <> current_database()"
    )
    for (name,) in others:
        session.order(f"revoke connect, temporary on database {identifier(name)} from public")
        for role in roles.values():
            session.order(f"revoke all on database {identifier(name)} from {identifier(role.name)}")


def check_rights(session: Session, roles: Roles, settings: PostgresSettings) -> None:
    """Log in as each role, and find out what it may do; DatabaseSetupError names all that is wrong."""
    wrong = [
        *_find_foreign(session, roles),
        *(problem for kind in roles for problem in _find_missing(session, roles, kind)),
        *(problem for kind in roles for problem in _find_superfluous(session, roles, kind)),
    ]
    if wrong:
        raise DatabaseSetupError(f"database {session.database}: rights are wrong:\n  " + "\n  ".join(wrong))
    for kind in roles:
        _log_in(roles, kind, settings)


def _split(sql: str) -> Iterator[str]:
    """Yield the statements of a file, whose lines end where a statement does; a do block is one."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if line.split("--")[0].rstrip().endswith(";") and statement.count("$$") % 2 == 0:
            yield statement
            statement = ""


_FOREIGN_RIGHTS: LiteralString = """
with rights as (
    select 'database' as kind, quote_ident(datname) as name, datdba as owner,
           (aclexplode(coalesce(datacl, acldefault('d', datdba)))).*
    from pg_database where datname = current_database()
    union all
    select 'schema', quote_ident(nspname), nspowner,
           (aclexplode(coalesce(nspacl, acldefault('n', nspowner)))).*
    from pg_namespace where nspname = 'public'
    union all
    select case relkind when 'S' then 'sequence' else 'table' end, oid::regclass::text, relowner,
           (aclexplode(relacl)).*
    from pg_class where relnamespace = 'public'::regnamespace
)
select format('%s may use %s on %s %s; have this run as %s: revoke %s on %s %s from %s cascade',
              case grantee when 0 then 'everybody' else grantee::regrole::text end,
              privilege_type, kind, name,
              grantor::regrole, privilege_type, kind, name,
              case grantee when 0 then 'public' else grantee::regrole::text end)
from rights
where grantee = 0 and (kind, privilege_type) <> ('schema', 'USAGE')
   or grantor <> owner and pg_get_userbyid(grantee) = any(cast(:roles as text[]))
"""

# What a role must have, by kind: others follow from it in grants.sql.
_NEEDS: Mapping[str, Mapping[str, str]] = {
    "process_users": {"users": "select, insert, update, delete", "ledger": "select, insert, update, delete"},
    "get_data": {"users": "select", "versions": "select", "runs": "select"},
    "reader": {"users": "select", "ledger": "select", "runs": "select"},
}

_SUPERFLUOUS: LiteralString = """
with who as (select cast(:role as name) as role, cast(:writes as boolean) as writes),
found as (
    select 'create' as privilege, 'database ' || quote_ident(current_database()) as name
    from who where has_database_privilege(role, current_database(), 'create')
    union all
    select 'temporary', 'database ' || quote_ident(current_database())
    from who where not writes and has_database_privilege(role, current_database(), 'temporary')
    union all
    select 'create', 'schema ' || oid::regnamespace
    from who, pg_namespace
    where nspname !~ '^pg_(temp|toast)' and has_schema_privilege(role, oid, 'create')
    union all
    select privilege, 'table ' || pg_class.oid::regclass
    from who, pg_class,
         unnest(array['truncate', 'trigger']
                || case when writes then '{}' else array['insert', 'update', 'delete', 'references'] end
               ) as privilege
    where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm', 'f')
      and (has_table_privilege(role, pg_class.oid, privilege)
           or privilege in ('insert', 'update') and has_any_column_privilege(role, pg_class.oid, privilege))
)
select format('%I may use %s on %s; have this run by its owner: revoke %s on %s from %I',
              role, privilege, name, privilege, name, role)
from who, found
"""


def _find_foreign(session: Session, roles: Roles) -> list[str]:
    """Find rights that everybody has, or that somebody else than the owner has granted."""
    names = [role.name for role in roles.values()]
    return [problem for (problem,) in session.run(_FOREIGN_RIGHTS, roles=names)]


def _find_missing(session: Session, roles: Roles, kind: str) -> list[str]:
    name = roles[kind].name
    return [
        f"{identifier(name)} may not use {privilege} on {table}"
        for table, privileges in _NEEDS[kind].items()
        for privilege in privileges.split(", ")
        if not session.run(
            "select has_schema_privilege(cast(:role as name), 'public', 'usage') "
            "and has_table_privilege(cast(:role as name), 'public.' || cast(:table as text), :privilege)",
            role=name,
            table=table,
            privilege=privilege,
        )[0][0]
    ]


def _find_superfluous(session: Session, roles: Roles, kind: str) -> list[str]:
    writes = kind == PROCESS_USERS
    return [problem for (problem,) in session.run(_SUPERFLUOUS, role=roles[kind].name, writes=writes)]


def _log_in(roles: Roles, kind: str, settings: PostgresSettings) -> None:
    """Do a little of what the role is for; a role whose sessions are all in use has logged in before."""
    role = roles[kind]
    with (
        suppress(RoleFullError),
        open_session(replace(settings, user=role.name, password=role.password)) as session,
    ):
        session.run("select from public.users limit 1")
        if kind == PROCESS_USERS:
            with session.transaction():
                session.run("create temporary table rollcall_check (a int) on commit drop")
                session.run("update public.users set last_name = last_name where false")
