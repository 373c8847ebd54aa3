"""process-users under the Functions Framework: routes and status codes; nothing else here knows Flask."""

import os
from collections.abc import Callable

import functions_framework
from flask import Request, Response
from process_users.bucket import Bucket, StoreUnavailableError
from process_users.runs import RunInProgressError, fetch_run, fetch_runs
from process_users.settings import Settings
from serving.application import Application, Route, to_json
from serving.logs import configure
from serving.parameters import integer_parser, parse_boolean, parse_query
from serving.postgres import Connection, DatabaseUnavailableError, Pool
from serving.problems import ProblemError
from serving.settings import SettingsError

try:
    SETTINGS = Settings.from_env(os.environ)
except SettingsError as error:
    raise SystemExit(f"process-users: {error}") from error
configure("process-users", SETTINGS.serving.log_level)

SHOWN_RUNS = 20
RUN_PARAMETERS = {"full": parse_boolean, "dry_run": parse_boolean, "allow_empty": parse_boolean}
RUNS_PARAMETERS = {"limit": integer_parser(1, 1000)}


def connect() -> Connection:
    """Open a session of this function's role."""
    return Connection(SETTINGS.postgres, application_name="process-users")


POOL = Pool(connect)


def post_data(request: Request) -> Response:
    """Do one run over the bucket and answer its report."""
    # Imported with the first run: pandas takes longer to import than all the rest.
    from process_users.run import Options, SourceEmptyError, run_once

    options = Options(**parse_query(request.query_string, RUN_PARAMETERS))
    try:
        return to_json(run_once(SETTINGS, connect, options))
    except RunInProgressError as error:
        raise ProblemError("run_in_progress", str(error), members={"run_id": error.run_id}) from error
    except SourceEmptyError as error:
        raise ProblemError(error.code, str(error)) from error
    except StoreUnavailableError as error:
        raise ProblemError(error.code, str(error)) from error
    except DatabaseUnavailableError as error:
        raise ProblemError(error.code, "Postgres is away; what was committed stays, run again") from error


def get_runs(request: Request) -> Response:
    """Answer the last runs, the one going on first."""
    limit = parse_query(request.query_string, RUNS_PARAMETERS).get("limit", SHOWN_RUNS)
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
    """Raise ProblemError when Postgres is away or was not set up."""
    _read(lambda connection: connection.run("select rules from state"))


def check_store() -> None:
    """Raise ProblemError when the source bucket cannot be listed."""
    bucket = Bucket(SETTINGS.store, SETTINGS.source_bucket)
    try:
        bucket.check()
    except StoreUnavailableError as error:
        raise ProblemError(error.code, str(error)) from error
    finally:
        bucket.close()


def _read(query: Callable[[Connection], object]) -> object:
    try:
        with POOL.connection() as connection:
            return query(connection)
    except DatabaseUnavailableError as error:
        raise ProblemError(error.code, "Postgres is away") from error


TOKEN = SETTINGS.serving.api_token
APPLICATION = Application(
    [
        Route("POST", "/", post_data, TOKEN),
        Route("POST", "/data", post_data, TOKEN),
        Route("GET", "/runs", get_runs, TOKEN),
        Route("GET", "/runs/<run_id>", get_run, TOKEN),
    ],
    checks={"postgres": check_postgres, "store": check_store},
)


@functions_framework.http
def process_users(request: Request) -> Response:
    """Answer one HTTP request."""
    return APPLICATION(request)
