"""The gateway over two upstreams that can be made to fail: where requests go, and that nothing is hidden."""

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPConnection, IncompleteRead
from pathlib import Path
from typing import Any

import pytest
from rig import REPOSITORY
from senders import FOREIGN_SENDERS, KNOWN_HOSTS, OWN_SENDERS, SETTING, SHIELD, UNKNOWN_HOSTS
from watch import watched

from rollcall.ports import HOST, choose_port
from rollcall.processes import Program
from rollcall.servers import http_status, script, serving


@dataclass(frozen=True, slots=True)
class Upstream:
    """tests/upstream.py in the place of a function."""

    name: str
    port: int
    log: Path

    def prepare(self) -> None:
        """Nothing to prepare."""

    def program(self) -> Program:
        argv = (sys.executable, str(REPOSITORY / "tests" / "upstream.py"), str(self.port))
        return Program(name=self.name, argv=argv, env={}, log=self.log)

    def answers(self) -> bool:
        return http_status(self.port, "/healthz") == 200

    def requests(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]


@dataclass(frozen=True, slots=True)
class Gateway:
    """Caddy with the gateway's own Caddyfile."""

    port: int
    process_users: Upstream
    get_data: Upstream
    home: Path
    allowed_hosts: str = SETTING

    def prepare(self) -> None:
        """Nothing to prepare."""

    def program(self) -> Program:
        caddyfile = str(REPOSITORY / "local" / "Caddyfile")
        return Program(
            name="gateway",
            argv=(script("caddy"), "run", "--config", caddyfile, "--adapter", "caddyfile"),
            env={
                "HOME": str(self.home),
                "GATEWAY_BIND": HOST,
                "GATEWAY_ADDRESS": f"http://:{self.port}",
                "PROCESS_USERS_ADDRESS": f"{HOST}:{self.process_users.port}",
                "GET_DATA_ADDRESS": f"{HOST}:{self.get_data.port}",
                "ALLOWED_HOSTS": self.allowed_hosts,
            },
            log=self.home / "gateway.log",
        )

    def answers(self) -> bool:
        return http_status(self.port, "/healthz") == 200

    def ask(self, method: str, target: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Send one request; returns status, headers with lower-case names, and body."""
        connection = HTTPConnection(HOST, self.port, timeout=30)
        try:
            connection.request(method, target, headers=headers)
            response = connection.getresponse()
            return (
                response.status,
                {name.lower(): value for name, value in response.getheaders()},
                response.read(),
            )
        finally:
            connection.close()


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    home = tmp_path_factory.mktemp("gateway")
    with (
        serving(lambda port: Upstream("process-users", port, home / "process-users")) as process_users,
        serving(lambda port: Upstream("get-data", port, home / "get-data")) as get_data,
        serving(lambda port: Gateway(port, process_users, get_data, home)) as gateway,
    ):
        yield gateway


@pytest.mark.parametrize(
    ("method", "target", "where"),
    [
        ("GET", "/", "get-data"),
        ("GET", "/data?min_age=18", "get-data"),
        ("HEAD", "/data", "get-data"),
        ("GET", "/data/100%25%2B1", "get-data"),
        ("GET", "/data/%E6%97%A5%E6%9C%AC/image", "get-data"),
        ("GET", "/stats", "get-data"),
        ("GET", "/healthz/else", "get-data"),
        ("GET", "/runs", "process-users"),
        ("HEAD", "/runs?limit=1", "process-users"),
        ("GET", "/runs/17", "process-users"),
        ("POST", "/data?full=true", "process-users"),
        ("POST", "/", "process-users"),
        ("GET", "/data?after=" + "x" * 20_000, "get-data"),
    ],
)
def test_requests_reach_their_function_as_they_came(
    gateway: Gateway, method: str, target: str, where: str
) -> None:
    upstreams = (gateway.process_users, gateway.get_data)
    before = [len(upstream.requests()) for upstream in upstreams]
    status, _, body = gateway.ask(method, target)
    assert (status, body == b"") == (200, method == "HEAD")
    new = [
        (upstream.name, request["method"], request["path"])
        for upstream, count in zip(upstreams, before, strict=True)
        for request in upstream.requests()[count:]
    ]
    assert new == [(where, method, target)]


@pytest.mark.parametrize(
    ("method", "target", "status", "code", "allow"),
    [
        ("GET", "/events", 404, "not_found", None),
        ("POST", "/events", 404, "not_found", None),
        ("POST", "//events", 404, "not_found", None),
        ("POST", "/%65vents", 404, "not_found", None),
        ("POST", "/%2Fevents", 404, "not_found", None),
        ("POST", "/x/../events", 404, "not_found", None),
        ("GET", "/metrics", 404, "not_found", None),
        ("GET", "/readyz", 404, "not_found", None),
        ("PUT", "/data", 405, "method_not_allowed", "GET, HEAD, POST"),
        ("OPTIONS", "/", 405, "method_not_allowed", "GET, HEAD, POST"),
        ("DELETE", "/data/1000", 405, "method_not_allowed", "GET, HEAD"),
        ("POST", "/runs", 405, "method_not_allowed", "GET, HEAD"),
        ("INVENTED", "/stats", 405, "method_not_allowed", "GET, HEAD"),
    ],
)
def test_what_it_does_not_pass_on_is_a_problem_document(
    gateway: Gateway, *, method: str, target: str, status: int, code: str, allow: str | None
) -> None:
    before = len(gateway.process_users.requests())
    got, headers, body = gateway.ask(method, target)
    problem = json.loads(body)
    assert (got, problem["status"], problem["code"], headers.get("allow")) == (status, status, code, allow)
    assert headers["content-type"] == "application/problem+json"
    assert set(problem) == {"type", "title", "status", "code", "detail"}
    assert len(gateway.process_users.requests()) == before


@pytest.mark.parametrize("when", ["stream", "length"])
def test_a_broken_answer_arrives_broken(gateway: Gateway, when: str) -> None:
    with pytest.raises(IncompleteRead):
        gateway.ask("GET", f"/data?break={when}")
    curl = subprocess.run(
        ["curl", "--silent", f"http://{HOST}:{gateway.port}/data?break={when}"],
        capture_output=True,
        check=False,
    )
    assert curl.returncode == 18  # "partial file"


def test_a_stream_arrives_piece_by_piece(gateway: Gateway) -> None:
    """The rest, 5 s of pieces, would come with the first one if they were collected."""
    connection = HTTPConnection(HOST, gateway.port, timeout=60)
    connection.request("GET", "/data?pieces=26")
    response = connection.getresponse()
    assert response.read(6) == b"piece\n"
    first_at = time.monotonic()
    assert response.read() == b"piece\n" * 25
    connection.close()
    assert time.monotonic() - first_at > 1


def test_a_function_that_dies_before_it_answers_is_a_503_and_is_not_asked_twice(gateway: Gateway) -> None:
    before = len(gateway.process_users.requests())
    status, headers, body = gateway.ask("POST", "/data?break=start")
    assert (status, headers["retry-after"], json.loads(body)["code"]) == (503, "5", "function_unavailable")
    assert len(gateway.process_users.requests()) == before + 1


def test_a_function_that_is_away_is_a_503(gateway: Gateway, tmp_path: Path) -> None:
    away = Upstream("nobody", choose_port(), tmp_path / "log")
    with serving(lambda port: Gateway(port, away, gateway.get_data, tmp_path)) as other:
        status, headers, body = other.ask("GET", "/runs")
        assert other.ask("GET", "/data")[0] == 200
    assert (status, headers["content-type"]) == (503, "application/problem+json")
    assert json.loads(body)["code"] == "function_unavailable"


def test_a_long_run_is_waited_for(gateway: Gateway) -> None:
    """Longer than any time limit of the gateway's."""
    assert gateway.ask("POST", "/data?sleep_s=12")[0] == 200


def test_each_request_has_a_connection_of_its_own(gateway: Gateway) -> None:
    """The functions close idle ones after 2 s, which is a race to lose."""
    for _ in range(2):
        assert gateway.ask("GET", "/stats")[0] == 200
    assert gateway.get_data.requests()[-1]["headers"]["connection"] == "close"


def test_the_client_cannot_say_who_it_is(gateway: Gateway) -> None:
    gateway.ask("GET", "/stats", **{"X-Forwarded-For": "6.6.6.6", "X-Forwarded-Proto": "https"})
    headers = gateway.get_data.requests()[-1]["headers"]
    assert (headers["x-forwarded-for"], headers["x-forwarded-proto"]) == (HOST, "http")


def test_clients_of_http_1_0_are_served_and_told_of(gateway: Gateway) -> None:
    with socket.create_connection((HOST, gateway.port), timeout=60) as client:
        client.sendall(b"GET /stats HTTP/1.0\r\n\r\n")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
    assert answer.startswith(b"HTTP/1.0 200 OK\r\n")
    assert gateway.get_data.requests()[-1]["headers"]["via"].startswith("1.0 ")


def test_slow_headers_are_cut_off(gateway: Gateway) -> None:
    with watched() as watch, socket.create_connection((HOST, gateway.port), timeout=120) as client:
        client.sendall(b"GET /stats HTTP/1.1\r\nHost: localhost\r\n")
        assert client.recv(1000) == b""
    assert 9 < watch.seconds < watch.allow(12)


@pytest.mark.parametrize("host", KNOWN_HOSTS)
def test_known_hosts_are_passed_on_as_they_came(gateway: Gateway, host: str) -> None:
    assert gateway.ask("GET", "/stats", Host=host)[0] == 200
    assert gateway.get_data.requests()[-1]["headers"]["host"] == host


@pytest.mark.parametrize("host", UNKNOWN_HOSTS)
@pytest.mark.parametrize(("method", "target"), [("GET", "/data"), ("POST", "/data"), ("PUT", "/events")])
def test_unknown_hosts_get_no_further(gateway: Gateway, method: str, target: str, host: str) -> None:
    before = [len(upstream.requests()) for upstream in (gateway.get_data, gateway.process_users)]
    status, headers, body = gateway.ask(method, target, Host=host)
    after = [len(upstream.requests()) for upstream in (gateway.get_data, gateway.process_users)]
    assert after == before
    if status == 400 and not body.startswith(b"{"):
        return  # no host at all by the rules of HTTP: Go's server refuses it
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Misdirected Request",
        "status": 421,
        "code": "host_unknown",
        "detail": f"The host is '{host}'; accepted are IP addresses, localhost and the names in the setting "
        "ALLOWED_HOSTS.",
    }
    assert (status, headers["content-type"]) == (421, "application/problem+json")


def test_other_headers_and_targets_are_no_host(gateway: Gateway) -> None:
    assert gateway.ask("GET", "/stats", Host="evil.example", **{"X-Forwarded-Host": "localhost"})[0] == 421
    assert gateway.ask("GET", "http://evil.example/stats", Host="localhost")[0] == 421
    assert gateway.ask("GET", "/healthz/../stats", Host="evil.example")[0] == 421
    assert gateway.ask("GET", "/healthz", Host="evil.example")[0] == 200


def test_without_allowed_hosts_none_is_allowed(gateway: Gateway, tmp_path: Path) -> None:
    with serving(
        lambda port: Gateway(port, gateway.process_users, gateway.get_data, tmp_path, allowed_hosts="")
    ) as other:
        for host in (".", ",", ",.", "rollcall.example"):
            assert other.ask("GET", "/stats", Host=host)[0] == 421
        assert other.ask("GET", "/stats")[0] == 200


@pytest.mark.parametrize("headers", OWN_SENDERS)
def test_a_run_may_be_asked_for_by_pages_of_this_origin_and_programs(
    gateway: Gateway, headers: dict[str, str]
) -> None:
    host = f"{HOST}:{gateway.port}"
    given = {name: value.format(host=host) for name, value in headers.items()}
    assert gateway.ask("POST", "/data", **given)[0] == 200
    passed_on = gateway.process_users.requests()[-1]["headers"]
    assert {name: passed_on[name.lower()] for name in given} == given


@pytest.mark.parametrize("headers", FOREIGN_SENDERS)
@pytest.mark.parametrize(("method", "length"), [("POST", "0"), ("POST", "1"), ("DELETE", "0")])
def test_no_change_of_another_site_is_passed_on(
    gateway: Gateway, method: str, length: str, headers: dict[str, str]
) -> None:
    before = len(gateway.process_users.requests())
    host = f"{HOST}:{gateway.port}"
    given = {name: value.format(host=host) for name, value in headers.items()}
    status, got, body = gateway.ask(method, "/data", **given, **{"Content-Length": length})
    assert json.loads(body) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "code": "cross_site",
        "detail": "This was sent by a page of another site; accepted are pages of this very origin and "
        "programs that send neither Sec-Fetch-Site nor Origin.",
    }
    assert (status, got["content-type"]) == (403, "application/problem+json")
    assert len(gateway.process_users.requests()) == before


@pytest.mark.parametrize(
    ("method", "target", "host", "status"),
    [
        ("PUT", "/data", "localhost", 405),
        ("GET", "/metrics", "localhost", 404),
        ("GET", "/data", "evil.example", 421),
        ("POST", "/data?break=start", "localhost", 503),
    ],
)
def test_its_own_answers_are_shielded_from_other_sites(
    gateway: Gateway, method: str, target: str, host: str, status: int
) -> None:
    got, headers, _ = gateway.ask(method, target, Host=host)
    assert (got, headers | SHIELD) == (status, headers)


def test_logs_are_json_without_user_ids(gateway: Gateway) -> None:
    gateway.ask("POST", "/data?break=start&mark=hidden", Authorization="Bearer hidden")
    with pytest.raises(IncompleteRead):
        gateway.ask("GET", "/data/hidden?break=stream")
    text = (gateway.home / "gateway.log").read_text()
    assert all(isinstance(json.loads(line), dict) for line in text.splitlines())
    assert "hidden" not in text


@pytest.mark.parametrize("request_line", ["POST /data", "GET /runs", "HEAD /"])
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ("Transfer-Encoding: chunked", b"3\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b"3\r\nab"),
        ("Transfer-Encoding: chunked", b"zz\r\nabc\r\n0\r\n\r\n"),
        ("Transfer-Encoding: chunked", b""),
        ("Content-Length: 3", b"abc"),
        ("Content-Length: 3", b"a"),
        ("Content-Length: 1000000", b"abc"),
        ("Content-Length: 1048577", b"abc"),
        ("Content-Length: 1000000000000000", b""),
        ("Content-Length: 7\r\nExpect: 100-continue", b""),
    ],
)
def test_a_body_is_refused_unread(gateway: Gateway, request_line: str, headers: str, body: bytes) -> None:
    """At once, however large or late it is, and the connection ends."""
    before = [len(upstream.requests()) for upstream in (gateway.get_data, gateway.process_users)]
    with socket.create_connection((HOST, gateway.port), timeout=20) as client:
        client.sendall(f"{request_line} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n\r\n".encode() + body)
        head, _, text = b"".join(iter(lambda: client.recv(65536), b"")).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400 ")
    assert b"\r\nConnection: close\r\n" in head
    if not request_line.startswith("HEAD"):
        assert json.loads(text) == {
            "type": "about:blank",
            "title": "Bad Request",
            "status": 400,
            "code": "body_unexpected",
            "detail": "A body came, accepted is none: options belong in the query, as in ?name=value.",
        }
    assert [len(upstream.requests()) for upstream in (gateway.get_data, gateway.process_users)] == before


def test_no_request_hides_in_another(gateway: Gateway) -> None:
    """Whatever two servers could understand differently is understood once, here."""
    hidden = b"POST /events HTTP/1.1\r\nHost: localhost\r\n\r\n"
    length = len(hidden)
    chunk = b"%x\r\n%b\r\n0\r\n\r\n" % (length, hidden)
    for headers, body in (
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + hidden),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n", chunk),
        (b"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n", hidden),
        (b"Transfer-Encoding:\tchunked\r\nContent-Length: 0\r\n", hidden),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", chunk),
        (b"Transfer-Encoding : chunked\r\nContent-Length: 0\r\n", hidden),
        (b"Content-Length: 0\r\nContent-Length: %d\r\n" % length, hidden),
        (b"Content-Length: 0, %d\r\n" % length, hidden),
        (b"Content-Length: +%d\r\n" % length, hidden),
        (b"Content-Length: 0x%x\r\n" % length, hidden),
        (b"Content-Length: -1\r\n", hidden),
        (b"X: a\rContent-Length: 0\r\n", hidden),
        (b"X: a\x00\r\n", hidden),
        (b"Content-Length: %d\r\n" % length, hidden),
    ):
        before = [len(upstream.requests()) for upstream in (gateway.get_data, gateway.process_users)]
        with socket.create_connection((HOST, gateway.port), timeout=60) as client:
            client.sendall(
                b"GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + headers + b"\r\n" + body
            )
            answer = client.recv(65536)
        assert answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 4", b"HTTP/1.1 501 ")), (headers, answer)
        after = [len(upstream.requests()) for upstream in (gateway.get_data, gateway.process_users)]
        assert after[0] - before[0] == answer.startswith(b"HTTP/1.1 200 "), (headers, answer)
        assert after[1] == before[1], headers


@pytest.mark.parametrize(
    "name", ["SCRIPT_NAME", "Script_Name", "PATH_INFO", "X_Forwarded_For", "CONTENT_LENGTH"]
)
def test_headers_that_look_like_variables_are_not_passed_on(gateway: Gateway, name: str) -> None:
    assert gateway.ask("GET", "/runs/metrics", **{name: "/runs"})[0] == 200
    assert name.lower() not in gateway.process_users.requests()[-1]["headers"]
