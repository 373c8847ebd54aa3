"""Unknown hosts, other sites and unexpected bodies, at the gateway and at both functions."""

import json
from collections.abc import Iterator, Mapping
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest
from get_data_client import insert
from pipeline import ONE_STORE, Pipeline
from rig import Function, Gateway, StartFunction
from senders import FOREIGN_SENDERS, KNOWN_HOSTS, OWN_SENDERS, SETTING, SHIELD, UNKNOWN_HOSTS

from rollcall.ports import HOST
from rollcall.servers import serving

pytestmark = ONE_STORE
TOKEN = {"Authorization": "Bearer let-me-in"}
Answer = tuple[int, dict[str, str], dict[str, Any]]


@pytest.fixture
def gateway(pipeline: Pipeline, start_function: StartFunction, tmp_path: Path) -> Iterator[Gateway]:
    """Everything with a token and some allowed hosts."""
    guarded = {"API_TOKEN": "let-me-in", "ALLOWED_HOSTS": SETTING}
    functions = {
        "process_users": start_function("process-users", {**pipeline.env(), **guarded}),
        "get_data": start_function("get-data", {**pipeline.database.env("get_data"), **guarded}),
    }
    home = tmp_path / "gateway"
    with serving(lambda port: Gateway(port=port, home=home, allowed_hosts=SETTING, **functions)) as gateway:
        yield gateway


def ask(
    server: Function | Gateway,
    method: str,
    target: str,
    headers: Mapping[str, str],
    body: bytes = b"",
) -> Answer:
    """Send one request; `{host}` in a header is the server's own."""
    own = f"{HOST}:{server.port}"
    connection = HTTPConnection(HOST, server.port, timeout=60)
    try:
        connection.putrequest(method, target, skip_host="Host" in headers)
        if body:
            connection.putheader("Content-Length", str(len(body)))
        for name, value in headers.items():
            connection.putheader(name, value.format(host=own))
        connection.endheaders(body)
        response = connection.getresponse()
        got = {name.lower(): value for name, value in response.getheaders()}
        text = response.read()
    finally:
        connection.close()
    return response.status, got, json.loads(text) if "json" in got.get("content-type", "") else {}


def count_runs(pipeline: Pipeline) -> int:
    return pipeline.database.run("select count(*) from runs")[0][0]


def test_hosts_are_the_same_to_all(pipeline: Pipeline, gateway: Gateway):
    """What the gateway lets pass, the functions do; nobody reads a record by another site's name."""
    insert(pipeline.database, "1000")
    for server, path in (
        (gateway, "/data/1000"),
        (gateway.get_data, "/data/1000"),
        (gateway.process_users, "/runs"),
    ):
        for host in KNOWN_HOSTS:
            assert ask(server, "GET", path, {**TOKEN, "Host": host})[0] == 200, host
        for host in UNKNOWN_HOSTS:
            status, headers, document = ask(server, "GET", path, {**TOKEN, "Host": host})
            # Servers refuse what is no host by the rules of HTTP themselves.
            assert (status, document.get("code")) in ((421, "host_unknown"), (400, None)), host
            assert status == 400 or headers | SHIELD == headers
        assert ask(server, "GET", "/healthz", {"Host": "evil.example"})[0] == 200
        assert ask(server, "GET", "/metrics", {**TOKEN, "Host": "evil.example"})[0] == 421


def test_only_this_origin_and_programs_have_a_run_done(pipeline: Pipeline, gateway: Gateway):
    """With the right token, as a browser sends it along once somebody has logged in."""
    target = "/data?full=true&allow_empty=true"
    for server in (gateway, gateway.process_users):
        before = count_runs(pipeline)
        for headers in FOREIGN_SENDERS:
            for body in (b"", b"x"):
                status, got, document = ask(server, "POST", target, {**TOKEN, **headers}, body)
                assert (status, document["code"]) == (403, "cross_site"), headers
                assert got | SHIELD == got
            # Not even to be asked for the token.
            assert ask(server, "POST", target, headers)[0] == 403
        assert count_runs(pipeline) == before
        for headers in OWN_SENDERS:
            assert ask(server, "POST", target, {**TOKEN, **headers})[0] == 200, headers
        assert count_runs(pipeline) == before + len(OWN_SENDERS)


@pytest.mark.parametrize("body", [b"dry_run=true", b'{"dry_run": true}', b"x", b"x" * 50_000])
def test_a_body_is_never_dropped_without_a_word(pipeline: Pipeline, gateway: Gateway, body: bytes):
    places = [
        (gateway, "POST /", "POST /data", "GET /data", "GET /runs", "GET /healthz"),
        (gateway.process_users, "POST /", "POST /data", "GET /runs", "GET /healthz"),
        (gateway.get_data, "GET /", "GET /data", "GET /stats", "GET /healthz"),
    ]
    for server, line in [(server, line) for server, *lines in places for line in lines]:
        method, path = line.split()
        status, _, document = ask(server, method, path, TOKEN, body)
        assert (status, document["code"]) == (400, "body_unexpected"), line
        assert "options belong in the query" in document["detail"]
    assert count_runs(pipeline) == 0
    for server in (gateway, gateway.process_users):
        assert ask(server, "POST", "/data", TOKEN)[0] == 200
        assert ask(server, "POST", "/data", {**TOKEN, "Content-Length": "0"})[0] == 200


def test_no_address_answers_for_another(pipeline: Pipeline, gateway: Gateway):
    """Users of any name that the bucket can bring, and of some that it cannot."""
    odd = ["image", "openapi.json", "runs", ";x", "?limit=1", "#", "%2F", "%2e%2e", "\\", " ", "b&c=d", "..."]
    for user_id in odd:
        pipeline.put(f"{user_id}.csv")
    pipeline.put("..csv")
    pipeline.put("...csv")
    report = pipeline.run()
    assert [(reject["key"], reject["reason"]) for reject in report["rejects"]] == [
        ("...csv", "key_invalid"),
        ("..csv", "key_invalid"),
    ]
    assert pipeline.user_ids() == sorted(odd)
    insert(pipeline.database, "a", first_name="Other", img_path="src-data/a.png")
    for server in (gateway, gateway.get_data):
        for segment in ("a%2Fimage", "a%2fimage", "a%2F..%2Fa", "%2E%2E", "..", ".", "%2E", "%2Fa", "a%2F"):
            assert ask(server, "GET", f"/data/{segment}", TOKEN)[0] == 404, segment
            assert ask(server, "GET", f"/data/{segment}/image", TOKEN)[0] == 404, segment
        _, _, page = ask(server, "GET", "/data?limit=100", TOKEN)
        assert list(page) == sorted([*odd, "a"])
