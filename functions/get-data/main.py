"""get-data under the Functions Framework: routes and status codes; nothing else here knows Flask."""

import errno
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial, wraps
from itertools import chain
from pathlib import Path
from urllib.parse import quote

import functions_framework
from flask import Request, Response

from get_data import users
from get_data.etags import build_etag
from get_data.exports import STALL_S, to_body, to_pieces, to_stream
from get_data.filters import parse_filter, parse_stats_filter
from get_data.formats import JSON
from get_data.settings import Settings
from get_data.users import Lines, Version
from serving.application import Application, Route, to_json
from serving.logs import configure, log, log_error
from serving.parameters import parse_query
from serving.postgres import Connection, DatabaseUnavailableError, Pool
from serving.problems import ProblemError
from serving.settings import SettingsError

try:
    SETTINGS = Settings.from_env(os.environ)
except SettingsError as error:
    raise SystemExit(f"get-data: {error}") from error
configure("get-data", SETTINGS.serving.log_level)

EXPORT_SLOTS = threading.BoundedSemaphore(SETTINGS.exports)
PACKAGE = Path(users.__file__).parent
# This code decides what an answer looks like, so tags of another state of it are none of ours.
RELEASE = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(PACKAGE.glob("*.py")))).hexdigest()

ToEtag = Callable[[Version], str]


def connect() -> Connection:
    """Open a session of this function's role; an export may leave it idle for as long as its client takes."""
    idle_ms = (SETTINGS.export_max_s + STALL_S) * 1000
    session = {"idle_in_transaction_session_timeout": str(idle_ms)}
    return Connection(SETTINGS.postgres, application_name="get-data", session=session)


POOL = Pool(connect)


def translating(handler: Callable[..., Response]) -> Callable[..., Response]:
    """Answer 503 when Postgres is away."""

    @wraps(handler)
    def translated(*args: Request, **variables: str) -> Response:
        try:
            return handler(*args, **variables)
        except DatabaseUnavailableError as error:
            raise ProblemError(error.code, "Postgres is away") from error

    return translated


@translating
def answer_users(request: Request) -> Response:
    """Answer the users that match: a page of them when there is a limit, else all."""
    asked = parse_filter(request.query_string)
    today = datetime.now(UTC).date()
    to_etag = etag_builder(today, f"/data?{asked.to_query()}")
    if request.if_none_match and request.if_none_match.contains_weak(
        etag := to_etag(users.fetch_version(POOL))
    ):
        return not_modified(etag)
    if asked.limit is not None:
        page = users.fetch_page(POOL, asked, today)
        response = answer_whole(request, to_body(page, JSON), to_etag(page.version))
        if page.last is not None:
            response.headers["Link"] = f'</data?{replace(asked, after=page.last).to_query()}>; rel="next"'
        return response
    if request.method == "HEAD":
        # No length: to know it, the export would have to be made.
        return add_validators(Response(iter(())), to_etag(users.fetch_version(POOL)))
    return answer_all(request, users.read_chunks(POOL, asked, today), to_etag)


@translating
def answer_user(request: Request, user_id: str) -> Response:
    """Answer one user's record."""
    parse_query(request.query_string, {})
    to_etag = etag_builder(datetime.now(UTC).date(), f"/data/{quote(user_id, safe='')}")
    tags = request.if_none_match
    # `*` means any record, so it takes a look whether there is one.
    if tags and not tags.star_tag and tags.contains_weak(etag := to_etag(users.fetch_version(POOL))):
        return not_modified(etag)
    version, record = users.fetch_user(POOL, user_id)
    if record is None:
        raise ProblemError("user_not_found", "there is no user of this id")
    if tags.star_tag:
        return not_modified(to_etag(version))
    return answer_whole(request, f"{record}\n".encode(), to_etag(version))


@translating
def answer_stats(request: Request) -> Response:
    """Answer figures of the users that match."""
    asked = parse_stats_filter(request.query_string)
    return to_json(users.fetch_stats(POOL, asked, datetime.now(UTC).date()))


def answer_all(request: Request, chunks: Generator[Lines, None, None], to_etag: ToEtag) -> Response:
    """Stream an export, or send it whole when it fits in one chunk."""
    with ExitStack() as stack:
        stack.callback(chunks.close)
        first, second = next(chunks), next(chunks, None)
        etag = to_etag(first.version)
        if second is None or not second.text:
            return answer_whole(request, to_body(first, JSON), etag)
        check_http_version(request)
        take_export_slot(stack)
        parts = to_stream(chain((first, second), chunks), JSON)
        response = Response(cutting(to_pieces(parts, timeout_s=SETTINGS.export_max_s)))
        # Not in the generator's own end: one that was never begun does not run it.
        response.call_on_close(stack.pop_all().close)
        limit_stalls(request, response)
        return add_validators(response, etag)


def answer_whole(request: Request, body: bytes, etag: str) -> Response:
    """Send an answer that is all there."""
    response = Response(to_pieces((body,), timeout_s=SETTINGS.export_max_s))
    response.content_length = len(body)
    limit_stalls(request, response)
    return add_validators(response, etag)


def not_modified(etag: str) -> Response:
    """Answer that the client has what it asks for."""
    return add_validators(Response(status=304), etag)


def add_validators(response: Response, etag: str) -> Response:
    """Say what the answer is, and what it depends on."""
    response.mimetype = JSON.media_type
    response.set_etag(etag)
    response.headers["Vary"] = "Accept, Accept-Encoding, Authorization"
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def etag_builder(today: date, resource: str) -> ToEtag:
    """Return what makes the tag of this resource from the version of the data."""
    return partial(build_etag, today=today, resource=resource, representation=JSON.name, release=RELEASE)


def check_http_version(request: Request) -> None:
    """Refuse to stream to HTTP/1.0, where a cut-off answer looks complete, be it behind a gateway."""
    protocols = [request.environ["SERVER_PROTOCOL"].removeprefix("HTTP/")]
    protocols += (hop.strip().partition(" ")[0] for hop in request.headers.get("Via", "").split(","))
    if "1.0" in protocols:
        raise ProblemError(
            "http_version", "this answer is streamed, which takes HTTP/1.1; or ask with a limit"
        )


def take_export_slot(stack: ExitStack) -> None:
    """Take one of this worker's places for exports, until the stack is closed."""
    if not EXPORT_SLOTS.acquire(blocking=False):
        raise ProblemError(
            "exports_busy", f"{SETTINGS.exports} exports are going on; ask again, or with a limit"
        )
    stack.callback(EXPORT_SLOTS.release)


def limit_stalls(request: Request, response: Response) -> None:
    """End an answer that its client has stopped to read."""
    socket = request.environ.get("gunicorn.socket")
    if socket is None:
        return  # another server, such as the tests' client
    before = socket.gettimeout()
    socket.settimeout(STALL_S)
    response.call_on_close(partial(socket.settimeout, before))  # the next request on it has its own


def cutting(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Break the connection when an export fails half-way: its end would make it look complete."""
    try:
        yield from pieces
    except GeneratorExit:
        log("export.abandoned", level=logging.WARNING)
        raise
    except Exception as error:  # noqa: BLE001  the boundary again: the status line is out already
        log_error("export.cut", error)
        # gunicorn takes this for a client that went away: it closes the connection, and has nothing to say.
        raise BrokenPipeError(errno.EPIPE, "the export failed") from None


def check_postgres() -> None:
    """Raise ProblemError when Postgres is away or was not set up."""
    try:
        users.fetch_version(POOL)
    except DatabaseUnavailableError as error:
        raise ProblemError(error.code, "Postgres is away") from error


TOKEN = SETTINGS.serving.api_token
APPLICATION = Application(
    [
        Route("GET", "/", answer_users, TOKEN),
        Route("GET", "/data", answer_users, TOKEN),
        Route("GET", "/data/<user_id>", answer_user, TOKEN),
        Route("GET", "/stats", answer_stats, TOKEN),
    ],
    checks={"postgres": check_postgres},
)


@functions_framework.http
def get_data(request: Request) -> Response:
    """Answer one HTTP request."""
    return APPLICATION(request)
