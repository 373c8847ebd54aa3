from typing import Any

import pytest
from flask import Request, Response
from senders import EMBEDDED, FOREIGN_SENDERS, KNOWN_HOSTS, OWN_SENDERS, SETTING, SHIELD, UNKNOWN_HOSTS
from werkzeug.test import Client, TestResponse

from serving.application import Application, Route, to_json
from serving.logs import configure

HOST = "127.0.0.1:8080"


def answer(request: Request) -> Response:
    return to_json({"done": request.method})


@pytest.fixture
def client() -> Client:
    configure("test", "debug")
    application = Application(
        [
            Route("GET", "/data", answer, None),
            Route("POST", "/data", answer, None),
            Route("DELETE", "/data", answer, None),
            Route("POST", "/closed", answer, "token"),
        ],
        checks={"nothing": lambda: None},
        allowed_hosts=frozenset(SETTING.lower().split(",")),
    )
    return Client(lambda environ, start: application(Request(environ))(environ, start))


def ask(client: Client, method: str, path: str, **environ: str) -> TestResponse:
    return client.open(path, method=method, environ_overrides=environ)


def send(client: Client, method: str, headers: dict[str, str], path: str = "/data") -> TestResponse:
    given = {"Host": HOST, **{name: value.format(host=HOST) for name, value in headers.items()}}
    return ask(
        client, method, path, **{f"HTTP_{name.upper().replace('-', '_')}": given[name] for name in given}
    )


def problem(response: TestResponse) -> dict[str, Any]:
    assert response.content_type == "application/problem+json"
    assert response.json is not None
    return response.json


@pytest.mark.parametrize("host", KNOWN_HOSTS)
def test_addresses_localhost_and_allowed_names_are_answered(client: Client, host: str):
    assert ask(client, "GET", "/data", HTTP_HOST=host).json == {"done": "GET"}


@pytest.mark.parametrize("host", [*UNKNOWN_HOSTS, "", "l\xf6calhost", '"><script>', "x" * 500])
def test_any_other_host_is_misdirected(client: Client, host: str):
    response = ask(client, "GET", "/data", HTTP_HOST=host)
    assert problem(response) == {
        "type": "about:blank",
        "title": "Misdirected Request",
        "status": 421,
        "code": "host_unknown",
        "detail": f"the host is {host[:80]!a}; accepted are IP addresses, localhost and the names in the "
        "setting ALLOWED_HOSTS",
    }
    assert response.status_code == 421


@pytest.mark.parametrize("path", ["/nothing", "/metrics", "/healthz/", "//healthz", "/closed", "/data/%FF"])
def test_an_unknown_host_learns_nothing_else(client: Client, path: str):
    assert ask(client, "POST", path, HTTP_HOST="evil.example").status_code == 421


@pytest.mark.parametrize("path", ["/healthz", "/readyz"])
def test_probes_ask_by_any_name(client: Client, path: str):
    assert ask(client, "GET", path, HTTP_HOST="10-1-2-3.pod.cluster.local").status_code == 200


def test_other_headers_are_no_host(client: Client):
    environ = {
        "HTTP_HOST": "evil.example",
        "HTTP_X_FORWARDED_HOST": "localhost",
        "HTTP_FORWARDED": "host=localhost",
    }
    assert ask(client, "GET", "/data", **environ).status_code == 421
    environ = {"HTTP_HOST": "localhost", "HTTP_X_FORWARDED_HOST": "evil.example"}
    assert ask(client, "GET", "/data", **environ).status_code == 200


def test_the_host_of_an_absolute_target_counts(client: Client):
    def status(target: str, host: str) -> int:
        return ask(client, "GET", "/data", RAW_URI=target, HTTP_HOST=host).status_code

    assert status("http://evil.example/data", "localhost") == 421
    assert status("HTTP://localhost@evil.example:80/data", "localhost") == 421
    assert status("http://localhost:8080/data", "evil.example") == 200


def test_no_host_at_all_is_for_clients_of_http_1_0(client: Client):
    def status(protocol: str) -> int:
        environ: dict[str, Any] = {"HTTP_HOST": None, "SERVER_PROTOCOL": protocol}
        return ask(client, "GET", "/data", **environ).status_code

    assert status("HTTP/1.1") == 421
    assert status("HTTP/1.0") == 200


@pytest.mark.parametrize("headers", OWN_SENDERS)
@pytest.mark.parametrize("method", ["POST", "DELETE", "GET"])
def test_pages_of_this_origin_and_programs_may_change_something(
    client: Client, method: str, headers: dict[str, str]
):
    assert send(client, method, headers).json == {"done": method}


@pytest.mark.parametrize("headers", FOREIGN_SENDERS)
@pytest.mark.parametrize("method", ["POST", "DELETE"])
def test_a_change_from_another_site_is_refused(client: Client, method: str, headers: dict[str, str]):
    response = send(client, method, headers)
    name = "Sec-Fetch-Site" if "Sec-Fetch-Site" in headers else "Origin"
    assert problem(response) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "code": "cross_site",
        "detail": f"{method} was sent by a page of another site ({name}: {headers[name].format(host=HOST)}); "
        "accepted are pages of this very origin and programs that send neither Sec-Fetch-Site nor Origin",
    }
    assert response.status_code == 403


@pytest.mark.parametrize("headers", FOREIGN_SENDERS)
def test_another_site_may_link_to_this_one(client: Client, headers: dict[str, str]):
    for more in (
        {},
        {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"},
        {"Sec-Fetch-Mode": "cors"},
    ):
        assert send(client, "GET", {**headers, **more}).json == {"done": "GET"}


@pytest.mark.parametrize("headers", EMBEDDED)
def test_another_site_may_not_embed_an_answer(client: Client, headers: dict[str, str]):
    for site in ("cross-site", "same-site"):
        for method in ("GET", "HEAD"):
            response = send(client, method, {**headers, "Sec-Fetch-Site": site})
            assert response.status_code == 403
    assert problem(send(client, "GET", {**headers, "Sec-Fetch-Site": "cross-site"})) == {
        "type": "about:blank",
        "title": "Forbidden",
        "status": 403,
        "code": "cross_site",
        "detail": "a page of another site (Sec-Fetch-Site: cross-site) embeds this; accepted is a link to it",
    }
    assert send(client, "GET", {**headers, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    assert send(client, "GET", headers).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "PATCH", "INVENTED", "POST"])
def test_another_site_learns_nothing_else(client: Client, method: str):
    """Not what there is, and no browser asks its person to log in."""
    for path in ("/nothing", "/closed"):
        response = send(client, method, {"Sec-Fetch-Site": "cross-site"}, path)
        assert (response.status_code, problem(response)["code"]) == (403, "cross_site")
        assert "WWW-Authenticate" not in response.headers


def test_the_token_is_no_excuse(client: Client):
    headers = {"Authorization": "Bearer token"}
    assert send(client, "POST", headers, "/closed").status_code == 200
    assert send(client, "POST", {**headers, "Sec-Fetch-Site": "same-site"}, "/closed").status_code == 403
    assert send(client, "POST", {**headers, "Host": "evil.example"}, "/closed").status_code == 421


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [("/data", HOST, 200), ("/nothing", HOST, 404), ("/data", "evil.example", 421), ("/healthz", HOST, 200)],
)
def test_every_answer_is_shielded_from_other_sites(client: Client, path: str, host: str, status: int):
    response = ask(client, "GET", path, HTTP_HOST=host)
    got = {name.lower(): value for name, value in response.headers}
    assert (response.status_code, got | SHIELD) == (status, got)
