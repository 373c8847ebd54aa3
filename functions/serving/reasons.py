"""Why Postgres cannot be used, in words for operators: they hold no data, names or secrets."""

import socket
import ssl

from pg8000.native import DatabaseError, InterfaceError

POOLED = (
    "Postgres is behind a pooler that shares sessions between transactions, or passes them on as they are; "
    "use pooling by session"
)
LOST = "the connection to Postgres was lost"
SILENT = "Postgres did not answer a moment ago"
# SQLSTATE: what it means here. Those of the classes in _CLASSES need no entry, but may have a better one.
_CODES = {
    "08P01": "the server or a proxy before it refuses this session",
    "25006": "Postgres is read-only here: it is a standby, or it was set so",
    "26000": POOLED,
    "28000": "Postgres does not let this user in from here: no such role, or no entry in pg_hba.conf",
    "28P01": "Postgres refuses the password of PGUSER",
    "3D000": "there is no database of the name PGDATABASE",
    "3F000": "Postgres is not set up for this release: a schema is missing; run set-up",
    "42501": "Postgres is not set up for this release: a right is missing; run set-up",
    "42P01": "Postgres is not set up for this release: a table is missing; run set-up",
    "53100": "the disk of Postgres is full",
    "53200": "Postgres is out of memory",
    "53300": "Postgres has no session left: all of its connections, or of this role's, are in use",
    "55P03": "a lock in Postgres was not free in time",
    "57014": "a statement took longer than it may, or was cancelled",
    "57P01": "Postgres is shutting down, or somebody ended the session",
    "57P02": "Postgres crashed and is starting again",
    "57P03": "Postgres is starting up or shutting down",
    "57P04": "the database was dropped",
    "57P05": "Postgres ended the session because it was idle",
    "58030": "Postgres cannot read or write its disk",
}
# Classes that are nobody's mistake here: connection, credentials, database, roll-back, resources, object
# state, operator, system, defect of the server.
_CLASSES = {
    "08": "the connection to Postgres failed",
    "28": "Postgres refuses the credentials",
    "3D": "there is no such database",
    "40": "Postgres rolled this back because of what others did at the same time",
    "53": "Postgres lacks resources",
    "55": "Postgres is not in a state to do this now",
    "57": "Postgres was told to stop this",
    "58": "the system below Postgres fails",
    "XX": "Postgres has a defect, or its data is damaged",
}


def read_sqlstate(error: BaseException | None) -> str:
    """Return the SQLSTATE of the driver's error, empty when the server gave none."""
    return _read_field(error, "C")


def is_fatal(error: BaseException) -> bool:
    """True when the server ended the session with its answer."""
    return _read_field(error, "V") in ("FATAL", "PANIC")


def explain_code(code: str) -> str | None:
    """Return what a SQLSTATE means; None of one that only a defect of ours explains."""
    words = _CODES.get(code) or _CLASSES.get(code[:2])
    return f"{words} ({code})" if words else None


def explain_failure(error: BaseException) -> str:
    """Return why there is no session any more, or why none came about."""
    for kind, words in _FAILURES.items():
        if isinstance(error, kind) or isinstance(error.__context__, kind):
            return words
    if "refuses SSL" in str(error):
        return "Postgres offers no TLS, which PGSSLMODE asks for"
    return f"{LOST} ({type(error).__name__})"


def list_reasons() -> list[str]:
    """Return all that there are, without what stands behind them in parentheses."""
    return [*_CODES.values(), *_CLASSES.values(), *_FAILURES.values(), POOLED, SILENT, LOST]


# The first that fits; a driver's error may have the system's as its context.
_FAILURES: dict[type[BaseException], str] = {
    ssl.SSLCertVerificationError: "the certificate of Postgres is not trusted, or is for another name",
    ssl.SSLError: "TLS with Postgres failed",
    socket.gaierror: "the name in PGHOST cannot be resolved",
    TimeoutError: "Postgres does not answer",
    ConnectionRefusedError: "nothing listens at PGHOST and PGPORT: the connection was refused",
    FileNotFoundError: "there is no socket of PGPORT in the directory PGHOST, or no file PGSSLROOTCERT",
    PermissionError: "the socket of Postgres, or the file PGSSLROOTCERT, may not be opened",
}


def _read_field(error: BaseException | None, name: str) -> str:
    answer = error.args[0] if isinstance(error, DatabaseError) and error.args else None
    return answer.get(name, "") if isinstance(answer, dict) else ""


DRIVER_FAILURES = (InterfaceError, OSError, AttributeError)  # the last: a session that ended at its login
