"""The roles of one installation: their names, attributes, settings and passwords; repeatable."""

from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import LiteralString

from pg8000.native import DatabaseError, identifier, literal
from scramp import ScramMechanism

from rollcall.session import DatabaseSetupError, RoleFullError, Session, open_session, sqlstate
from serving.settings import Environment, PostgresSettings
from serving.values import ROLE_PREFIX, is_role_prefix

PROCESS_USERS, GET_DATA, READER = KINDS = ("process_users", "get_data", "reader")
USES_RESERVED = "pg_use_reserved_connections"  # a role of Postgres 16 and later
# How many sessions a role may have at once: the functions enough for several replicas, the reader few enough
# to leave the server to them.
SESSIONS = {PROCESS_USERS: 40, GET_DATA: 40, READER: 10}
# Values for all sessions of a role. A superuser alone may give the second ones.
_SETTINGS = {
    PROCESS_USERS: {"search_path": "public"},
    GET_DATA: {"search_path": "public"},
    READER: {
        "search_path": "public",
        "statement_timeout": "10min",
        "idle_in_transaction_session_timeout": "5min",
    },
}
_SUPERUSERS_SETTINGS = {READER: {"temp_file_limit": "1GB"}}
_NO_ATTRIBUTES = {
    "rolsuper": "nosuperuser",
    "rolcreatedb": "nocreatedb",
    "rolcreaterole": "nocreaterole",
    "rolreplication": "noreplication",
    "rolbypassrls": "nobypassrls",
}


@dataclass(frozen=True, slots=True)
class Role:
    """A login of this installation: which of the three it is, and its name in the cluster."""

    kind: str
    name: str
    password: str = field(repr=False)
    sessions: int


Roles = Mapping[str, Role]


def read_roles(env: Environment, database: str) -> Roles:
    """Read ROLE_PREFIX, and the password and number of sessions of each role."""
    prefix = env.text("ROLE_PREFIX", f"{database}_")
    if not is_role_prefix(prefix):
        env.refuse(
            f"ROLE_PREFIX is not set, and {prefix!r} (of PGDATABASE) is none, wanted {ROLE_PREFIX.wanted}"
        )
    return make_roles(
        prefix,
        {kind: env.password(f"{kind.upper()}_PGPASSWORD") for kind in KINDS},
        {kind: env.number(f"{kind.upper()}_SESSIONS", SESSIONS[kind]) for kind in KINDS},
    )


def make_roles(
    prefix: str, passwords: Mapping[str, str], sessions: Mapping[str, int] = MappingProxyType(SESSIONS)
) -> Roles:
    """Name the roles of an installation, by kind."""
    return {kind: Role(kind, prefix + kind, passwords[kind], sessions[kind]) for kind in KINDS}


def put_roles(session: Session, roles: Roles) -> list[str]:
    """Make the roles, or put right what they are; returns the names of those that were not."""
    return [role.name for role in roles.values() if _put_role(session, role)]


def put_passwords(session: Session, roles: Roles, settings: PostgresSettings) -> list[str]:
    """Give the roles their passwords where they have others; returns the names of those changed."""
    stored = _stored_verifiers(session)
    changed = [
        role
        for role in roles.values()
        if not (
            _verifies(stored.get(role.name), role.password)
            if session.is_superuser
            else _logs_in(settings, role)
        )
    ]
    for role in changed:
        # The verifier, so that the password itself never reaches the server or its logs.
        verifier = literal(_build_verifier(role.password))
        try:
            session.order(f"alter role {identifier(role.name)} password {verifier}")
        except DatabaseSetupError as error:
            raise DatabaseSetupError(str(error).replace(verifier, "'...'")) from None
    return [role.name for role in changed]


def reserve_sessions(session: Session, roles: Roles) -> None:
    """Let the functions have the sessions that the server reserves, where it does."""
    if session.version < 160000:
        return
    for kind in (PROCESS_USERS, GET_DATA):
        if USES_RESERVED not in _memberships(session, roles[kind]):
            session.order(f"grant {USES_RESERVED} to {identifier(roles[kind].name)}")


def remove_former_roles(session: Session, roles: Roles) -> dict[str, list[str]]:
    """Remove the roles that earlier releases shared between all installations of a server.

    They are told by their rights on this database's tables. Returns those removed, and those left behind
    because something else depends on them: they have no rights here any more.
    """
    former = [
        kind
        for kind in KINDS
        if kind != roles[kind].name
        and session.run(
            "select from pg_class, aclexplode(relacl) where oid = to_regclass('public.users') "
            "and grantee = (select oid from pg_roles where rolname = :name)",
            name=kind,
        )
    ]
    found: dict[str, list[str]] = {"removed": [], "left": []}
    for kind in former:
        name = identifier(kind)
        for objects in ("all tables in schema public", "all sequences in schema public", "schema public"):
            session.order(f"revoke all on {objects} from {name}")
        session.order(f"revoke all on database {identifier(session.database)} from {name}")
        found["removed" if _drop_role(session, name) else "left"].append(kind)
    return found


def _drop_role(session: Session, name: str) -> bool:
    try:
        session.order(f"drop role {name}")
    except DatabaseSetupError:
        return False
    except DatabaseError as error:
        if sqlstate(error) not in ("2BP01", "55006"):  # something depends on it
            raise
        return False
    return True


def _put_role(session: Session, role: Role) -> bool:
    rows = session.run(_ROLE, name=role.name)
    statements = _list_statements(role, dict(rows[0][0])) if rows else [_create(role)]
    statements += _leave_groups(session, role)
    with session.transaction():
        for statement in statements:
            session.order(statement)
        are_settings_put = _put_settings(session, role)
    return bool(statements) or are_settings_put


_ROLE: LiteralString = "select to_jsonb(pg_roles) from pg_roles where rolname = :name"


def _create(role: Role) -> str:
    return (
        f"create role {identifier(role.name)} login valid until 'infinity' connection limit {role.sessions}"
    )


def _list_statements(role: Role, found: Mapping[str, object]) -> list[str]:
    """List what makes the role found what it should be: no more, as some attributes take a superuser."""
    clauses = [clause for column, clause in _NO_ATTRIBUTES.items() if found[column]]
    if not found["rolcanlogin"]:
        clauses.append("login")
    if not found["rolinherit"]:
        clauses.append("inherit")
    if found["rolconnlimit"] != role.sessions:
        clauses.append(f"connection limit {role.sessions}")
    if found["rolvaliduntil"] not in (None, "infinity"):
        clauses.append("valid until 'infinity'")
    return [f"alter role {identifier(role.name)} {' '.join(clauses)}"] if clauses else []


def _memberships(session: Session, role: Role) -> dict[str, str]:
    """Return the roles that this one is a member of, with who made it so."""
    rows = session.run(
        "select granted.rolname, grantor.rolname from pg_auth_members as membership "
        "join pg_roles as granted on granted.oid = membership.roleid "
        "join pg_roles as grantor on grantor.oid = membership.grantor "
        "join pg_roles as member on member.oid = membership.member where member.rolname = :name",
        name=role.name,
    )
    return dict(rows)


def _leave_groups(session: Session, role: Role) -> list[str]:
    """List what ends memberships: they bring rights that nobody meant this role to have."""
    kept = () if role.kind == READER else (USES_RESERVED,)
    has_grantors = session.version >= 160000  # only then is it asked whose grant is to end
    return [
        f"revoke {identifier(granted)} from {identifier(role.name)}"
        + (f" granted by {identifier(grantor)}" if has_grantors else "")
        for granted, grantor in _memberships(session, role).items()
        if granted not in kept
    ]


def _put_settings(session: Session, role: Role) -> bool:
    """Take all settings of the role away, in all databases, and give it its own; true when they differed."""
    wanted = {
        **_SETTINGS[role.kind],
        **(_SUPERUSERS_SETTINGS.get(role.kind, {}) if session.is_superuser else {}),
    }
    rows = session.run(
        "select datname, setconfig from pg_db_role_setting "
        "left join pg_database on pg_database.oid = setdatabase "
        "where setrole = (select oid from pg_roles where rolname = :name)",
        name=role.name,
    )
    found = {database: set(settings) for database, settings in rows}
    if found == {None: {f"{name}={value}" for name, value in wanted.items()}}:
        return False
    name = identifier(role.name)
    for database in found:
        place = f"in database {identifier(database)} " if database else ""
        session.order(f"alter role {name} {place}reset all")
    for setting, value in wanted.items():
        session.order(f"alter role {name} set {setting} = {literal(value)}")
    return True


def _logs_in(settings: PostgresSettings, role: Role) -> bool:
    """Try the password; false too when the server did not ask for it."""
    try:
        with open_session(replace(settings, user=role.name, password=role.password)) as session:
            return session.is_password_checked
    except RoleFullError:
        return True
    except DatabaseSetupError:
        return False


def _stored_verifiers(session: Session) -> dict[str, str]:
    """Read what the server keeps of each password; empty where only a superuser may."""
    if not session.is_superuser:
        return {}
    rows = session.run("select rolname, rolpassword from pg_authid where rolpassword is not null")
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
