"""What the functions may log: these events and fields, of these forms. All else could be somebody's data.

Every log of the test run is held to it: of each function when it stops, of those in a test with its report.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping

from serving.problems import CODES
from serving.reasons import list_reasons
from serving.store_reasons import list_hints

FUNCTIONS = ("get-data", "process-users")
SECRETS = ("PGPASSWORD", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "API_TOKEN", "EVENTS_TOKEN")
EVENTS = {
    *("request", "request.failed", "request.crashed", "export.cut", "export.abandoned"),
    *("run.started", "run.finished", "run.failed", "event.settled", "event.ignored", "event.crashed"),
}
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "other"}
ROUTE = re.compile(r"(/(<[a-z_]+>|[a-z]+(\.json)?)?)*")  # a template
PLACE = re.compile(r"[a-z0-9_]+\.py:\d+ [\w<>]+")
WORD = re.compile(r"[A-Za-z]+")
SQLSTATE = re.compile(r"[0-9A-Z]{5}")
_POSTGRES = (
    rf"(a run could not get a session: )?(({'|'.join(map(re.escape, list_reasons()))})( \(\w+\))?"
    r"|all \d+ sessions that this process may have with Postgres are in use)"
)
_HINT = "|".join(map(re.escape, list_hints()))
_REASON = rf"(([A-Za-z][A-Za-z0-9.]*|no reason) \(\d+\)|[\w .,:'()-]{{1,250}}): ({_HINT})"
_OUTPUT = r"[a-z0-9.-]+/(output|rejects)\.csv"
_STORE = (
    rf"(the bucket [a-z0-9.-]+ cannot be listed|{_OUTPUT} cannot be (looked at|written)): {_REASON}"
    rf"|(the bucket is gone|\d+ objects in a row could not be read): {_REASON}"
    r"|the bucket [a-z0-9.-]+ cannot be listed: the answer is not one of S3, check MINIO_ENDPOINT"
    r"|the store lists the bucket [a-z0-9.-]+ without ETags"
    r"|the store does not list keys in the order of their bytes"
    r"|[a-z0-9.-]+/\S* lists no object although it did before; nothing was changed\. If that is meant, "
    r"run again with allow_empty=true"
)
_CAUSE = rf"None|Postgres is away|{_POSTGRES}|{_STORE}"
CAUSE = re.compile(rf"{_CAUSE}|cannot reach (postgres: ({_CAUSE}))?(; )?(store: ({_CAUSE}))?")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


FIELDS: Mapping[str, Callable[[object], bool]] = {
    "time": _matches(re.compile(r"[0-9T:.+-]{29}")),
    "level": _matches(re.compile("debug|info|warning|error")),
    "function": FUNCTIONS.__contains__,
    "event": EVENTS.__contains__,
    "method": METHODS.__contains__,
    "route": _matches(ROUTE),
    "code": lambda value: value is None or value in CODES or _matches(SQLSTATE)(value),
    "problem": CODES.__contains__,
    "error": _matches(WORD),
    "cause": _matches(CAUSE),
    "where": lambda value: isinstance(value, list) and all(map(_matches(PLACE), value)),
    **dict.fromkeys(("status", "ms", "seconds", "run_id", "full"), _is_number),
    **dict.fromkeys(("listed", "ignored", "unchanged", "upserted", "removed", "rejected"), _is_number),
}


def find_disclosures(log: str, env: Mapping[str, str]) -> list[str]:
    """Return what a log should not say; `env` holds the secrets of whoever wrote it."""
    secrets = {name: env.get(name, "") for name in SECRETS}
    found = [name for name, value in secrets.items() if len(value) > 5 and value in log]
    for line in log.splitlines():
        if line.startswith("{"):
            found += _find_in_line(line)
        elif "Error handling request /" in line:  # the server's own, with the address that was asked for
            found.append(line)
    return found


def _find_in_line(line: str) -> Iterator[str]:
    try:
        fields = json.loads(line)
    except ValueError:
        yield line
        return
    if fields.get("function") not in FUNCTIONS:
        return  # of a test's own
    for name, value in fields.items():
        if name not in FIELDS or not FIELDS[name](value):
            yield f"{fields['event']}: {name} is {value!r}"
