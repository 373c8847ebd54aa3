"""What a session is set to after its login, whatever the server, the database or the role have set.

Not by parameters of the login: poolers refuse them.
"""

from collections.abc import Mapping
from typing import LiteralString

# The server gives a lock up soon after its client is killed (it looks every 0.5 s while busy) or cut off
# (keepalives, unacknowledged data), and cancels what takes longer than we would wait.
SETTINGS: Mapping[str, str] = {
    # limits: ours, and none that others set
    "statement_timeout": "8s",
    "lock_timeout": "7s",
    "idle_in_transaction_session_timeout": "60s",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",
    "client_connection_check_interval": "500",
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "30000",
    # transactions
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    # how text is read and written
    "client_encoding": "UTF8",
    "TimeZone": "UTC",
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "xmloption": "content",
    # what statements mean
    "transform_null_equals": "off",
    "row_security": "on",
    "gin_fuzzy_search_limit": "0",
    "restrict_nonsystem_relation_kind": "",
    "check_function_bodies": "on",
    "default_tablespace": "",
    "temp_tablespaces": "",
    "default_table_access_method": "heap",
    "exit_on_error": "off",
    "client_min_messages": "warning",
    # plans: our statements are short, or are wanted row by row
    "plan_cache_mode": "auto",
    "jit": "off",
}
MARKER = "rollcall.login"  # a setting of the session that nobody else has the value of


def build_login(settings: Mapping[str, str], marker: str) -> str:
    """Return statements that set a session up, as one text; the rows are a single one.

    Its first columns are the server's process id and the marker that the session had before, empty when it is
    new. The isolation level is named because a standby would refuse the server's default, if that is
    serializable.
    """
    values = ", ".join(f"('{name}', '{value}')" for name, value in settings.items())
    return _LOGIN.format(values=values, name=MARKER, marker=marker)


def build_guard_statement(marker: str) -> str:
    """Return a statement without rows that fails, by GUARD_CODE, in any other session."""
    is_ours = f"pg_catalog.current_setting('{MARKER}', true) is not distinct from '{marker}'"
    return f"select where 1 / cast({is_ours} as integer) = 0"


GUARD_CODE = "22012"  # division by zero: no other statement here divides

# Settings that this server does not know, or lets only its administrator change, are left out. Kinds of plans
# that somebody turned off are turned on again.
_LOGIN: LiteralString = """
begin isolation level read committed;
set role none;
set search_path to public;
set plpgsql.extra_errors to 'none';
select pg_backend_pid(), current_setting('{name}', true), (
    select count(set_config(name, value, false))
    from (values {values}) wanted (name, value)
    join pg_settings using (name)
    where context = 'user'
), (
    select count(set_config(name, boot_val, false))
    from pg_settings
    where name like 'enable%' and setting <> boot_val and context = 'user'
);
set {name} to '{marker}';
commit
"""
