"""process-users under the Functions Framework: routes and status codes; nothing else here knows Flask."""

import logging
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, TypeVar

import functions_framework
from flask import Request, Response

from process_users.bucket import Bucket, StoreUnavailableError
from process_users.description import build_description
from process_users.ledger import create_stage
from process_users.notifications import Notification, NotificationError, parse_notification
from process_users.runs import RunInProgressError, fetch_figures, fetch_run, fetch_runs
from process_users.settings import Settings
from serving.application import Application, Route, to_json
from serving.documents import build_document_routes
from serving.ending import end_connections_aside
from serving.logs import configure, log, log_error
from serving.metrics import Gauge, count_run
from serving.parameters import integer_parser, parse_boolean, parse_query
from serving.pool import Pool
from serving.postgres import Connection, DatabaseUnavailableError
from serving.problems import ProblemError
from serving.sending import Sending
from serving.settings import SettingsError
from serving.workers import end_with_server

if TYPE_CHECKING:
    from process_users.events import Events
    from process_users.run import Options

try:
    SETTINGS = Settings.from_env(os.environ)
except SettingsError as error:
    raise SystemExit(f"process-users: {error}") from error
configure("process-users", SETTINGS.serving.log_level)
end_with_server()
end_connections_aside()
# pandas brings linear algebra along, whose threads spin although nothing here ever asks for any.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

T = TypeVar("T")
SHOWN_RUNS = 20
FURTHER_PAGES = {"All users": "/", "get-data": "/docs", "As OpenAPI": "/runs/openapi.json"}
RUN_PARAMETERS = {"full": parse_boolean, "dry_run": parse_boolean, "allow_empty": parse_boolean}
FEW_RUNS = 100  # more count as a large answer
RUNS_PARAMETERS = {"limit": integer_parser(1, 1000)}


def connect() -> Connection:
    """Open a session of this function's role, ready to commit."""
    connection = Connection(SETTINGS.postgres, application_name="process-users")
    try:
        create_stage(connection)
    except BaseException:
        connection.close()
        raise
    return connection


POOL = Pool(connect, size=SETTINGS.serving.sessions - 1)
RUN_POOL = Pool(connect, size=1, kept=1)  # so that a run always gets a session
SENDING = Sending(threads=SETTINGS.serving.threads)
_OF_THREAD = threading.local()


def post_data(request: Request) -> Response:
    """Do one run over the bucket and answer its report."""
    # Imported with the first run: pandas takes longer to import than all the rest.
    from process_users.run import Options

    options = Options(**parse_query(request.query_string, RUN_PARAMETERS))
    if options.dry_run:
        return _run(options)
    try:
        response = _run(options)
    except (ProblemError, DatabaseUnavailableError) as error:
        count_run(error.code)
        raise
    count_run("ok")
    return response


def _run(options: "Options") -> Response:
    from process_users.run import SourceEmptyError, run_once

    try:
        with _lend_session(options) as connection:
            return to_json(run_once(SETTINGS, connection, options))
    except RunInProgressError as error:
        raise ProblemError("run_in_progress", str(error), members={"run_id": error.run_id}) from error
    except SourceEmptyError as error:
        raise ProblemError(error.code, str(error)) from error
    except StoreUnavailableError as error:
        raise ProblemError(error.code, str(error)) from error


@contextmanager
def _lend_session(options: "Options") -> Iterator[Connection]:
    """Lend a run the session that is kept for it, unless another has it or it cannot be opened."""
    with ExitStack() as stack:
        try:
            pool = POOL if options.dry_run else RUN_POOL
            connection = stack.enter_context(pool.connection(wait_s=0))
        except DatabaseUnavailableError as error:
            if not error.is_full:
                raise
            connection = stack.enter_context(POOL.connection())
        yield connection


def post_events(request: Request) -> Response:
    """Settle what a bucket notification is about: 204, and 503 only when what it needs is away.

    The store sends its events one at a time and waits for each, so nothing else may hold them up.
    """
    parse_query(request.query_string, {})
    try:
        notifications = parse_notification(request.get_data(cache=False))
    except NotificationError as error:
        raise ProblemError("notification_malformed", str(error)) from error
    for notification in notifications:
        _settle(notification)
    return Response(status=204)


def get_runs(request: Request) -> Response:
    """Answer the last runs, the one going on first."""
    limit = parse_query(request.query_string, RUNS_PARAMETERS).get("limit", SHOWN_RUNS)
    if limit > FEW_RUNS:
        SENDING.take_place(request)
    return to_json({"runs": _read(lambda connection: fetch_runs(connection, limit))})


def get_run(request: Request, run_id: str) -> Response:
    """Answer one run by its number."""
    parse_query(request.query_string, {})
    number = int(run_id) if run_id.isascii() and run_id.isdigit() and len(run_id) < 19 else 0
    run = _read(lambda connection: fetch_run(connection, number))
    if run is None:
        raise ProblemError("run_not_found", "there is no run of this number; the last 1000 are kept")
    return to_json(run)


def check_postgres() -> None:
    """Raise DatabaseUnavailableError when Postgres is away or not set up, or has no session for a run."""
    _read(lambda connection: connection.run("select rules from state"))
    if RUN_POOL.has_session:  # perhaps lent to the run that is active
        return
    try:
        with RUN_POOL.connection():
            pass
    except DatabaseUnavailableError as error:
        if RUN_POOL.has_session:
            return  # a run took it first
        raise DatabaseUnavailableError(f"a run could not get a session: {error}") from error


def check_store() -> None:
    """Raise ProblemError when the source bucket cannot be listed."""
    bucket = Bucket(SETTINGS.store, SETTINGS.source_bucket)
    try:
        bucket.check()
    except StoreUnavailableError as error:
        raise ProblemError(error.code, str(error)) from error
    finally:
        bucket.close()


def look() -> list[Gauge]:
    """Return the figures for /metrics."""
    ended, seconds, listed, rejected, due = _read(fetch_figures)
    return [
        Gauge("rollcall_last_success_timestamp_seconds", "When the last good run ended, 0: never", ended),
        Gauge("rollcall_last_success_seconds", "How long the last good run took", seconds),
        Gauge("rollcall_listed_objects", "What the last good run found in the bucket", listed),
        Gauge("rollcall_rejected_objects", "Objects that are rejected now", rejected),
        Gauge("rollcall_due_objects", "Objects that the next run reads again, changed or not", due),
    ]


def _settle(notification: Notification) -> None:
    try:
        with POOL.connection() as connection:
            settled = _get_events().settle(notification, connection, _get_bucket())
    except DatabaseUnavailableError:
        raise
    except StoreUnavailableError as error:
        raise ProblemError(error.code, "the event cannot be settled now; send it again") from error
    except Exception as error:  # noqa: BLE001  left for the next run, so that it does not block all later ones
        log_error("event.crashed", error)
        return
    log("event.settled" if settled else "event.ignored", level=logging.DEBUG)


@cache
def _get_events() -> "Events":
    """Return what settles this process's events."""
    from process_users.events import Events

    return Events(SETTINGS)


def _get_bucket() -> Bucket:
    """Return this thread's connection to the source bucket."""
    if not hasattr(_OF_THREAD, "bucket"):
        _OF_THREAD.bucket = Bucket(SETTINGS.store, SETTINGS.source_bucket)
    return _OF_THREAD.bucket


def _read(query: Callable[[Connection], T]) -> T:
    with POOL.connection() as connection:
        return query(connection)


def build_routes() -> list[Route]:
    """Return the routes; without EVENTS_TOKEN there is no place for events."""
    token, events_token = SETTINGS.serving.api_token, SETTINGS.events_token
    routes = [
        Route("POST", "/", post_data, token),
        Route("POST", "/data", post_data, token),
        Route("GET", "/runs", get_runs, token),
        Route("GET", "/runs/<run_id>", get_run, token),
        *build_document_routes(build_description(), under="/runs", others=FURTHER_PAGES),
    ]
    return (
        [*routes, Route("POST", "/events", post_events, events_token, takes_body=True)]
        if events_token
        else routes
    )


APPLICATION = Application(
    build_routes(),
    checks={"postgres": check_postgres, "store": check_store},
    allowed_hosts=SETTINGS.serving.allowed_hosts,
    look=look,
    metrics_token=SETTINGS.serving.api_token,
    sending=SENDING,
)


@functions_framework.http
def process_users(request: Request) -> Response:
    """Answer one HTTP request."""
    RUN_POOL.start()  # with the first request: what is done before is done before workers are forked
    return APPLICATION(request)
