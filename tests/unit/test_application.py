import base64
import gc
import hmac
import io
import json
import weakref
from typing import Any
from urllib.parse import unquote

import pytest
from flask import Request, Response
from werkzeug.test import Client, TestResponse

from serving.application import Application, Route, to_json
from serving.bodies import MAX_BODY_BYTES
from serving.logs import configure, log, log_error
from serving.problems import ProblemError


def answer(request: Request, **variables: str) -> Response:
    return to_json({"method": request.method, **variables})


UNAVAILABLE = {"unavailable": ["store"]}


def fail(request: Request) -> Response:
    raise ValueError(f"Ada King was in {request.path}")


def refuse(request: Request) -> Response:
    try:
        raise OSError("the password of Ada")
    except OSError as error:
        raise ProblemError(
            "store_unavailable", "the store is away", members={"unavailable": ["store"]}
        ) from error


def away() -> None:
    raise ProblemError("database_unavailable", "Postgres is away")


def serve(*routes: Route, checks: Any = None) -> Client:
    """Return a client of an application with some routes of its own, which logs to stdout."""
    configure("test", "debug")
    standard = (
        Route("GET", "/data", answer, None),
        Route("POST", "/data", answer, "token"),
        Route("GET", "/data/<user_id>", answer, None),
        Route("GET", "/fail", fail, None),
        Route("GET", "/refuse", refuse, None),
    )
    application = Application((*standard, *routes), checks=checks or {})
    return Client(lambda environ, start: application(Request(environ))(environ, start))


def events(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def code(response: TestResponse) -> tuple[int, str]:
    assert response.content_type == "application/problem+json"
    assert response.json is not None
    return response.status_code, response.json["code"]


def test_a_sent_answer_and_its_request_leave_memory_at_once():
    left: list[weakref.ref] = []

    def remember(request: Request) -> Response:
        left.extend((weakref.ref(request), weakref.ref(response := to_json({}))))
        request.environ["werkzeug.request"] = None  # as Flask does when a request has ended
        return response

    client = serve(Route("GET", "/remembered", remember, None))
    gc.disable()
    try:
        client.get("/remembered").close()
        assert [reference() for reference in left] == [None, None]
    finally:
        gc.enable()


def test_a_route_answers_its_method_and_path():
    client = serve()
    assert client.get("/data").json == {"method": "GET"}
    assert client.get("/data/a%20b%2Bc%C3%A9").json == {"method": "GET", "user_id": "a b+cé"}
    assert client.head("/data").status_code == 200


@pytest.mark.parametrize(
    "path", ["/", "/Data", "/data/", "/data/1/2", "//data", "/data//1", "/metrics", "/data.csv"]
)
def test_any_other_path_is_not_found(path: str):
    assert code(serve().get("/", environ_overrides={"RAW_URI": path, "PATH_INFO": path})) == (
        404,
        "not_found",
    )


@pytest.mark.parametrize("raw", ["/data/1%2Fimage", "/data/..%2f", "/data%2F1", "/%2Fdata", "/%2fhealthz"])
def test_no_slash_can_be_smuggled_into_a_name(raw: str):
    """Decoded, it would lead to what another address names."""
    response = serve().get("/", environ_overrides={"RAW_URI": raw, "PATH_INFO": unquote(raw)})
    assert code(response) == (404, "not_found")


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/data", "GET, HEAD, POST"),
        ("OPTIONS", "/data", "GET, HEAD, POST"),
        ("INVENTED", "/data", "GET, HEAD, POST"),
        ("POST", "/data/1", "GET, HEAD"),
        ("DELETE", "/healthz", "GET, HEAD"),
    ],
)
def test_any_other_method_is_told_those_allowed(method: str, path: str, allowed: str):
    response = serve().open(path, method=method)
    assert code(response) == (405, "method_not_allowed")
    assert response.headers["Allow"] == allowed
    assert response.json is not None
    assert response.json["detail"] == f"{path} accepts {allowed}, not {method}"


@pytest.mark.parametrize(
    "raw",
    ["/data/%FF", "/data/%C3", "/data/%ED%A0%80", "/data/a%00", "/data/%0A", "/data/%7F", "/data/%C2%85"],
)
def test_a_path_that_is_no_clean_text_is_malformed(raw: str):
    response = serve().get("/data/x", environ_overrides={"RAW_URI": f"{raw}?a=%FF"})
    assert code(response) == (400, "path_malformed")


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


@pytest.mark.parametrize(
    "authorization",
    ["Bearer token", "bearer token", "BEARER  token ", basic("", "token"), basic("anybody", "token")],
)
def test_the_token_opens_as_bearer_and_as_the_password_of_basic(authorization: str):
    response = serve().post("/data", headers={"Authorization": authorization})
    assert response.status_code == 200


@pytest.mark.parametrize(
    "authorization",
    [
        *(
            "",
            "token",
            "Bearer",
            "Bearer wrong",
            "Bearer token2",
            "Bearer toke",
            "Bearer Token",
            "Digest token",
        ),
        *(basic("token", ""), basic("token", "wrong"), "Basic token", "Basic %%%", "Basic dG9rZW4="),
        *("Bearer t\xf6ken", "Basic \xff"),
    ],
)
def test_without_the_token_it_stays_closed(authorization: str):
    headers = {"Authorization": authorization} if authorization else {}
    response = serve().post("/data", headers=headers)
    assert code(response) == (401, "unauthorized")
    challenge = response.headers["WWW-Authenticate"]
    assert challenge == 'Basic realm="Rollcall", charset="UTF-8", Bearer realm="Rollcall"'


def test_an_unknown_path_and_a_wrong_method_are_told_before_the_token_is_asked_for():
    assert code(serve().post("/nothing")) == (404, "not_found")
    assert code(serve().delete("/data")) == (405, "method_not_allowed")


def test_health_is_open_and_touches_nothing():
    client = serve(checks={"postgres": away})
    response = client.get("/healthz")
    assert (response.status_code, response.json) == (200, {"status": "alive"})
    assert response.headers["Cache-Control"] == "no-store"


def test_readiness_names_all_that_is_away():
    assert serve(checks={"store": lambda: None}).get("/readyz").json == {"status": "ready"}
    response = serve(checks={"store": away, "fine": lambda: None, "postgres": away}).get("/readyz")
    assert response.json == {
        "type": "about:blank",
        "title": "Service Unavailable",
        "status": 503,
        "code": "database_unavailable",
        "detail": "cannot reach postgres: Postgres is away; store: Postgres is away",
        "unavailable": ["postgres", "store"],
    }
    assert response.headers["Retry-After"] == "5"
    assert code(serve(checks={"store": away}).get("/readyz")) == (503, "store_unavailable")


def test_a_body_over_the_limit_is_refused():
    client = serve(Route("POST", "/open", answer, None, takes_body=True))
    assert client.post("/open", data=b"x" * MAX_BODY_BYTES).status_code == 200
    response = client.post("/open", data=b"x" * (MAX_BODY_BYTES + 1))
    assert code(response) == (413, "body_too_large")


class Unread(io.RawIOBase):
    """A body that must not be read."""

    def read(self, size: int = -1) -> bytes:
        raise AssertionError("the body was read")


def came(response: TestResponse) -> str:
    assert code(response) == (400, "body_unexpected")
    assert response.json is not None
    return response.json["detail"]


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_body_that_nobody_asked_for_is_refused_unread(method: str):
    client = serve(Route("POST", "/open", answer, None), Route("GET", "/open", answer, None))
    where = "accepted is none: options belong in the query, as in ?name=value"
    for length in ("1", "12", "1048577", "9" * 15):
        environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": length}
        detail = came(client.open("/open", method=method, environ_overrides=environ))
        assert detail == f"a body of {length} bytes came, {where}"
    for encoding in ("chunked", "gzip, chunked", "identity"):
        environ = {"wsgi.input": Unread(), "HTTP_TRANSFER_ENCODING": encoding}
        assert came(client.open("/open", method=method, environ_overrides=environ)) == f"a body came, {where}"
    assert client.open("/open", method=method, headers={"Content-Length": "0"}).status_code == 200


def test_a_body_is_not_read_for_a_refusal():
    """Of a path, a method or a token: its sender holds no thread."""
    client = serve(Route("POST", "/events", answer, "token", takes_body=True))
    environ = {"wsgi.input": Unread(), "CONTENT_LENGTH": "10"}
    for path, status in (("/nothing", 404), ("/fail", 405), ("/events", 401)):
        assert client.post(path, environ_overrides=environ).status_code == status


def test_a_defect_says_nothing_of_itself_to_the_client(capsys: pytest.CaptureFixture[str]):
    response = serve().get("/fail")
    response.close()
    assert response.json == {
        "type": "about:blank",
        "title": "Internal Server Error",
        "status": 500,
        "code": "internal",
        "detail": "a defect of Rollcall; its log says more",
    }
    crashed, request = events(capsys)
    assert (crashed["event"], crashed["level"], crashed["error"], crashed["route"]) == (
        "request.crashed",
        "error",
        "ValueError",
        "/fail",
    )
    assert crashed["where"][-1].startswith("test_application.py:")
    assert "Ada" not in json.dumps([crashed, request])


def test_a_request_is_one_line_with_the_template_of_its_route(capsys: pytest.CaptureFixture[str]):
    client = serve()
    client.get("/data/1000?after=Ada").close()
    client.get("/1000").close()
    client.open("/data/1000", method="ADA").close()
    lines = events(capsys)
    for line in lines:
        assert line.pop("time").endswith("+00:00")
        assert line.pop("ms") >= 0
    common = {"level": "info", "function": "test", "event": "request"}
    assert lines == [
        {**common, "method": "GET", "route": "/data/<user_id>", "status": 200},
        {**common, "method": "GET", "route": "", "status": 404},
        {**common, "method": "other", "route": "", "status": 405},
    ]


def test_a_failing_dependency_is_logged_and_answered_without_its_cause(
    capsys: pytest.CaptureFixture[str],
):
    response = serve().get("/refuse")
    response.close()
    assert response.json is not None
    assert response.json["unavailable"] == ["store"]
    assert "password" not in response.text
    failed, _ = events(capsys)
    assert (failed["event"], failed["level"]) == ("request.failed", "warning")
    assert failed["code"] == "store_unavailable"


def test_logs_keep_to_their_level_and_to_one_line(capsys: pytest.CaptureFixture[str]):
    configure("test", "warning")
    log("quiet")
    log_error("loud", ValueError("Ada"), more="a\nb")
    (line,) = capsys.readouterr().out.splitlines()
    assert (json.loads(line)["event"], json.loads(line)["more"]) == ("loud", "a\nb")
    assert "Ada" not in line


def test_the_path_is_the_whole_path_whatever_a_header_says():
    response = serve().get("/data", environ_overrides={"SCRIPT_NAME": "/runs", "RAW_URI": "/runs/data"})
    assert code(response) == (404, "not_found")


def test_the_token_is_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch):
    """By the function that is made for it: seconds measured here would tell of the machine alone."""
    compared: list[tuple[bytes, bytes]] = []
    compare = hmac.compare_digest
    monkeypatch.setattr(hmac, "compare_digest", lambda a, b: compared.append((a, b)) or compare(a, b))
    client = serve()
    for given in ("token", "toke", "", "wrong-and-longer"):
        client.post("/data", headers={"Authorization": f"Bearer {given}"})
    assert compared == [(given, b"token") for given in (b"token", b"toke", b"", b"wrong-and-longer")]
