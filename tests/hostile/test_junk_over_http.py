"""Requests that mean nothing: each is answered, none with a failure of ours; refusals say what is wrong."""

import json
import re
import socket
from collections import Counter, deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from http.client import HTTPResponse, RemoteDisconnected
from random import Random
from urllib.parse import unquote_plus

import pytest
from get_data_client import insert_many
from hostile.amounts import REQUESTS, SEED
from hostile.junk import JunkRequest, build_request
from pipeline import ONE_STORE, Pipeline
from rig import Count, Function, Gateway
from senders import SHIELD

from rollcall.ports import HOST
from serving.problems import CODES

pytestmark = ONE_STORE
THREADS = 3
USERS = 1_500  # some answers are streams
# Answered by the framework before Rollcall sees them: it knows no path with a line end in it.
NOT_OURS = re.compile(r"[^?]*%0[Aa]")
PROMISED = {"exports_busy", "http_version"}
INSIDES = re.compile(rb"Traceback|pg8000|werkzeug|site-packages|syntax error|SQLSTATE", re.I)
ANSWERED = {
    *("server", "date", "connection", "content-type", "content-length", "transfer-encoding", "vary"),
    *("cache-control", "etag", "link", "location", "allow", "retry-after", "www-authenticate"),
    *("content-encoding", "content-disposition", "content-security-policy", "referrer-policy", *SHIELD),
}


class Answer:
    """What came back for a request."""

    def __init__(self, response: HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()
        self.is_last = response.will_close


def ask_all(port: int, requests: list[JunkRequest]) -> Iterator[tuple[JunkRequest, Answer]]:
    """Ask one after the other, over connections that are kept for as long as the server does."""
    waiting = deque(requests)
    while waiting:
        with socket.create_connection((HOST, port), timeout=30) as connection:
            for answer in ask_over(connection, waiting):
                yield waiting.popleft(), answer


def ask_over(connection: socket.socket, waiting: deque[JunkRequest]) -> Iterator[Answer]:
    """Ask for the first that waits, again and again, until the server ends the connection."""
    yield (answer := ask(connection, waiting[0]))
    while waiting and not answer.is_last:
        try:
            answer = ask(connection, waiting[0])
        except (RemoteDisconnected, ConnectionError):
            return  # it was idle for too long; on a connection of its own this would be a failure
        yield answer


def ask(connection: socket.socket, request: JunkRequest) -> Answer:
    connection.sendall(request.to_bytes())
    with closing(HTTPResponse(connection, method=request.method)) as response:
        response.begin()
        return Answer(response)


def check(request: JunkRequest, answer: Answer) -> str:
    """Check one answer; returns what it was."""
    assert answer.headers.keys() <= ANSWERED, request
    if answer.status < 400:
        return str(answer.status)
    if NOT_OURS.match(request.target):
        return "not ours"
    if request.method == "HEAD":
        assert answer.status < 500 or answer.status in (503, 505), request
        return str(answer.status)
    assert not INSIDES.search(answer.body), request
    if answer.headers["content-type"].startswith("text/html"):
        assert ("Accept", "text/html") in request.headers
        assert b"<script>alert" not in answer.body
        assert answer.status < 500 or answer.status in (503, 505), request
        return "a page"
    assert answer.headers["content-type"] == "application/problem+json", (request, answer.body)
    problem = json.loads(answer.body)
    assert (CODES[problem["code"]], problem["status"]) == (answer.status, answer.status), request
    assert answer.status < 500 or problem["code"] in PROMISED, (request, problem)
    if problem["code"].startswith("parameter_"):
        check_name(request, problem["parameter"])
    return problem["code"]


def check_name(request: JunkRequest, named: str) -> None:
    """The parameter that is named is one that was sent."""
    query = request.target.partition("?")[2].partition("#")[0]
    names = {unquote_plus(part.partition("=")[0])[:80] for part in query.split("&")}
    # An order of two that contradicts itself is told by the first of them.
    assert named in names | {"min_age"}, request


def check_all(function: Function, requests: list[JunkRequest]) -> list[str]:
    return [check(request, answer) for request, answer in ask_all(function.port, requests)]


@pytest.mark.parametrize("name", ["get-data", "process-users"])
def test_nonsense_is_answered_and_changes_nothing(
    pipeline: Pipeline, gateway: Gateway, count: Count, name: str
):
    insert_many(pipeline.database, USERS)
    before = pipeline.users()
    function: Function = gateway.get_data if name == "get-data" else gateway.process_users
    random = Random(SEED)
    requests = [build_request(random) for _ in range(REQUESTS)]
    said: Counter[str] = Counter()
    with ThreadPoolExecutor(THREADS) as threads:
        parts = [requests[number::THREADS] for number in range(THREADS)]
        for answers in threads.map(lambda part: check_all(function, part), parts):
            said.update(answers)
    assert pipeline.users() == before
    log = function.log.read_text()
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    assert not [line for line in lines if line["event"].endswith(".crashed")], SEED
    assert "X-Injected" not in log
    assert said.total() == REQUESTS
    count(seed=SEED, requests=REQUESTS, **dict(said.most_common()))
