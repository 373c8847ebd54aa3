"""get-data under the Functions Framework: routes and status codes."""

import os
import threading
from contextlib import nullcontext
from dataclasses import replace
from datetime import UTC, date, datetime
from functools import partial
from http import HTTPStatus
from urllib.parse import quote

import functions_framework
from flask import Request, Response

from get_data import users
from get_data.answers import Answers, ToEtag, send_head, send_not_modified
from get_data.assets import ASSETS
from get_data.description import build_description
from get_data.etags import build_etag
from get_data.exports import to_body
from get_data.filters import Filter, parse_filter, parse_stats_filter
from get_data.formats import HTML, JSON
from get_data.negotiation import Representation, accepts_gzip, choose_representation
from get_data.overview import fetch_overview
from get_data.page import USERS_A_PAGE, build_policy, render_problem, render_users
from get_data.pictures import LINK_S, Pictures
from get_data.release import read_release
from get_data.settings import Settings
from serving.application import Application, Route, prefers_page, to_json
from serving.documents import build_document_routes
from serving.ending import end_connections_aside
from serving.logs import configure
from serving.metrics import Gauge
from serving.parameters import parse_query
from serving.pool import Pool
from serving.postgres import Connection
from serving.problems import ProblemError
from serving.sending import STALL_S, Sending
from serving.settings import SettingsError
from serving.workers import end_with_server

try:
    SETTINGS = Settings.from_env(os.environ)
except SettingsError as error:
    raise SystemExit(f"get-data: {error}") from error
configure("get-data", SETTINGS.serving.log_level)
end_with_server()
end_connections_aside()

# An export holds a session for as long as it is sent, so one is left for short answers.
SENDERS = min(SETTINGS.serving.threads, 2 * (SETTINGS.serving.sessions - 1))
SENDING = Sending(threads=SENDERS, max_s=SETTINGS.export_max_s)
ANSWERS = Answers(SENDING)
POLICY = build_policy(SETTINGS.public_endpoint)
# Made one at a time: side by side they would be done no sooner, and delay everybody else.
LARGE_PAGES = threading.Lock()
PICTURES = Pictures(SETTINGS.store, SETTINGS.public_endpoint)
RELEASE = read_release()


def connect() -> Connection:
    """Open a session of this function's role; an export may leave it idle for as long as its client takes."""
    idle_ms = (SETTINGS.export_max_s + STALL_S) * 1000
    session = {"idle_in_transaction_session_timeout": str(idle_ms)}
    connection = Connection(SETTINGS.postgres, application_name="get-data", session=session)
    try:
        # A session keeps its plans while the tables grow: it must not scan one for what an index finds.
        connection.run("set enable_seqscan = off")
    except BaseException:
        connection.close()
        raise
    return connection


POOL = Pool(connect, size=SETTINGS.serving.sessions)


def answer_users(request: Request) -> Response:
    """Answer the users that match: a page of them when there is a limit, else all."""
    if (given := without_empty(request)) is not None:
        return redirect(given)
    asked = parse_filter(request.query_string)
    representation = choose_representation(
        asked, request.headers.get("Accept"), request.headers.get("Accept-Encoding")
    )
    today = datetime.now(UTC).date()
    if representation.format is HTML:
        return answer_page(request, asked, representation, today)
    to_etag = etag_builder(today, f"/data?{asked.to_query()}", representation)
    if request.if_none_match and request.if_none_match.contains_weak(
        etag := to_etag(users.fetch_version(POOL))
    ):
        return send_not_modified(etag)
    if asked.limit is not None:
        if asked.limit > representation.format.few_users:
            SENDING.take_place(request)
        page = users.fetch_page(POOL, asked, today, representation.format)
        body = to_body(page.text, representation.format)
        response = ANSWERS.send_whole(request, body, representation, to_etag(page.version))
        if page.last is not None:
            response.headers["Link"] = f'</data?{replace(asked, after=page.last).to_query()}>; rel="next"'
        return response
    if request.method == "HEAD":
        return send_head(representation, to_etag(users.fetch_version(POOL)))
    chunks = users.read_chunks(POOL, asked, today, representation.format)
    return ANSWERS.stream(request, chunks, representation, to_etag)


def answer_page(request: Request, asked: Filter, representation: Representation, today: date) -> Response:
    """Answer the page for people."""
    shown = asked if asked.limit is not None else replace(asked, limit=USERS_A_PAGE)
    is_large = (shown.limit or 0) > HTML.few_users
    if is_large:
        SENDING.take_place(request)
    with LARGE_PAGES if is_large else nullcontext():
        text = render_users(
            fetch_overview(POOL, shown, today),
            asked,
            host=request.host_url.rstrip("/"),
            needs_token=bool(TOKEN),
        )
    return guard(ANSWERS.send_whole(request, text, representation, etag=None))


def without_empty(request: Request) -> str | None:
    """Return the page's address without the fields that its form left empty, None when there are none.

    Browsers send them; what is empty is refused everywhere else.
    """
    if request.path != "/":
        return None
    parts = request.query_string.decode("latin-1").split("&")
    filled = [part for part in parts if not part.endswith("=")]
    if len(filled) == len(parts) or not prefers_page(request):
        return None
    return f"/?{'&'.join(filled)}" if filled else "/"


def redirect(address: str) -> Response:
    """Send a browser to another address of ours."""
    response = Response(status=302)
    response.location = address
    response.headers["Cache-Control"] = "no-store"
    return response


def answer_asset(request: Request, name: str) -> Response:
    """Answer a file of the page; its name changes with its content."""
    parse_query(request.query_string, {})
    if name not in ASSETS:
        raise ProblemError("not_found", "there is nothing at this path")
    response = Response(ASSETS[name].body, mimetype=ASSETS[name].media_type)
    response.headers["Cache-Control"] = "public, max-age=31536000, immutable"
    return response


def answer_problem(problem: ProblemError) -> Response:
    """Answer a browser that something cannot be done as asked."""
    title = HTTPStatus(problem.status).phrase
    return guard(Response(render_problem(problem, title), mimetype="text/html"))


def guard(response: Response) -> Response:
    """Limit what a browser does with a page of ours."""
    response.headers["Content-Security-Policy"] = POLICY
    response.headers["Referrer-Policy"] = "no-referrer"
    return response


def answer_user(request: Request, user_id: str) -> Response:
    """Answer one user's record."""
    parse_query(request.query_string, {})
    representation = Representation(JSON, gzip=accepts_gzip(request.headers.get("Accept-Encoding")))
    resource = f"/data/{quote(user_id, safe='')}"
    to_etag = etag_builder(datetime.now(UTC).date(), resource, representation)
    tags = request.if_none_match
    # `*` means any record, so it takes a look whether there is one.
    if tags and not tags.star_tag and tags.contains_weak(etag := to_etag(users.fetch_version(POOL))):
        return send_not_modified(etag)
    version, record = users.fetch_user(POOL, user_id)
    if record is None:
        raise ProblemError("user_not_found", "there is no user of this id")
    if tags.star_tag:
        return send_not_modified(to_etag(version))
    return ANSWERS.send_whole(request, f"{record}\n".encode(), representation, to_etag(version))


def answer_image(request: Request, user_id: str) -> Response:
    """Send the client to the picture of a user."""
    parse_query(request.query_string, {})
    try:
        path = users.fetch_picture(POOL, user_id)
    except KeyError as error:
        raise ProblemError("user_not_found", "there is no user of this id") from error
    if path is None:
        raise ProblemError("image_not_found", "this user has no picture")
    response = Response(status=302)
    response.location = PICTURES.build_address(path)
    # A while less than the address is good for.
    response.headers["Cache-Control"] = f"private, max-age={LINK_S // 5}"
    response.headers["Vary"] = "Authorization"
    return response


def answer_stats(request: Request) -> Response:
    """Answer figures of the users that match."""
    asked = parse_stats_filter(request.query_string)
    return to_json(users.fetch_stats(POOL, asked, datetime.now(UTC).date()))


def etag_builder(today: date, resource: str, representation: Representation) -> ToEtag:
    """Return what makes the tag of this resource from the version of the data."""
    return partial(
        build_etag, today=today, resource=resource, representation=representation.name, release=RELEASE
    )


def check_postgres() -> None:
    """Raise DatabaseUnavailableError when Postgres is away or was not set up."""
    users.fetch_version(POOL)


def look() -> list[Gauge]:
    """Return the figures for /metrics."""
    version, count = users.fetch_figures(POOL)
    return [
        Gauge("rollcall_data_version", "Changes exactly when what is served changes", version),
        Gauge("rollcall_users", "Users that are served", count),
    ]


FURTHER_PAGES = {"All users": "/", "process-users": "/runs/docs", "As OpenAPI": "/openapi.json"}
TOKEN = SETTINGS.serving.api_token
APPLICATION = Application(
    [
        Route("GET", "/", answer_users, TOKEN),
        Route("GET", "/data", answer_users, TOKEN),
        Route("GET", "/data/<user_id>", answer_user, TOKEN),
        Route("GET", "/data/<user_id>/image", answer_image, TOKEN),
        Route("GET", "/stats", answer_stats, TOKEN),
        Route("GET", "/assets/<name>", answer_asset, None),
        *build_document_routes(build_description(), under="", others=FURTHER_PAGES),
    ],
    checks={"postgres": check_postgres},
    allowed_hosts=SETTINGS.serving.allowed_hosts,
    look=look,
    metrics_token=TOKEN,
    problem_page=answer_problem,
    sending=SENDING,
)


@functions_framework.http
def get_data(request: Request) -> Response:
    """Answer one HTTP request."""
    return APPLICATION(request)
