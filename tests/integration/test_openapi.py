"""The OpenAPI documents: whatever schemathesis thinks of, the answers are as they say."""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

import pytest
import schemathesis
from flask import Flask
from functions_framework import create_app
from get_data_client import insert
from hypothesis import HealthCheck, given, settings
from page_text import find_markup, read_text
from rig import FUNCTIONS, NO_STORE, Bucket, Database
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from senders import SHIELD

import get_data.description
import process_users.description
from serving.application import Application
from serving.problems import CODES

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
)
# What every answer has, and what a page tells a browser alone.
UNSAID_HEADERS = {
    *("content-type", "content-length", "cache-control", "connection"),
    *("content-security-policy", "referrer-policy", *SHIELD),
}
EVENTS_TOKEN = "a-token-for-events"
SLOW = (HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large)
LOCATIONS = {"get_data": "/openapi.json", "process_users": "/runs/openapi.json"}


@pytest.fixture(params=list(LOCATIONS))
def name(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def app(name: str, database: Database, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Flask]:
    insert(database, "1000", img_path="src-data/1000.png")
    store = NO_STORE if name == "get_data" else bucket.env
    for variable, value in {**database.env(name), **store, "EVENTS_TOKEN": EVENTS_TOKEN}.items():
        monkeypatch.setenv(variable, value)
    app = create_app(name, str(FUNCTIONS / name.replace("_", "-") / "main.py"))
    with ExitStack() as stack:
        for pool in ("POOL", "RUN_POOL"):  # get-data has one alone
            if hasattr(sys.modules["main"], pool):
                stack.callback(getattr(sys.modules["main"], pool).close)
        yield app  # pyright: ignore[reportReturnType]  a function of ours is no ASGI


@pytest.fixture
def application(app: Flask) -> Application:
    """The routes that the application has."""
    return sys.modules["main"].APPLICATION


def test_every_answer_is_described(name: str, app: Flask):
    schema = schemathesis.openapi.from_wsgi(LOCATIONS[name], app)
    document = json.loads(app.test_client().get(LOCATIONS[name]).data)
    operations = [result.ok() for result in schema.get_all_operations()]  # pyright: ignore[reportAttributeAccessIssue]
    assert len(operations) == 5
    for operation in operations:
        ask(operation, document["paths"][operation.path][operation.method]["responses"])


def ask(operation: Any, responses: Mapping[str, Any]) -> None:
    """Ask whatever comes to schemathesis' mind, and compare status, body and headers with the description."""
    token = {"Authorization": f"Bearer {EVENTS_TOKEN}"} if operation.path == "/events" else {}

    @settings(max_examples=25, deadline=None, database=None, suppress_health_check=SLOW)
    @given(case=operation.as_strategy())
    def check(case: Any) -> None:
        got = case.call_and_validate(checks=CHECKS, headers=token)
        told = {header.lower() for header in responses[str(got.status_code)].get("headers", {})}
        assert got.headers
        assert set(got.headers) - UNSAID_HEADERS <= told

    check()


def test_every_route_is_described(name: str, app: Flask, application: Application):
    document = json.loads(app.test_client().get(LOCATIONS[name]).data)
    own = {"/healthz", "/readyz", "/metrics", "/assets/<name>"}
    routes = {
        (route.method.lower(), route.path.replace("<", "{").replace(">", "}"))
        for route in application.routes
        if route.path not in own and not route.path.endswith(("/docs", "/openapi.json"))
    }
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    assert described == routes


def test_every_parameter_is_described(name: str, app: Flask):
    """By what an unknown one is told: that names those that are known."""
    client = app.test_client()
    document = json.loads(client.get(LOCATIONS[name]).data)
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            token = {"Authorization": f"Bearer {EVENTS_TOKEN}"} if path == "/events" else {}
            want = sorted(each["name"] for each in operation["parameters"] if each["in"] == "query")
            address = path.replace("{", "").replace("}", "")
            got = client.open(address, method=method, query_string="no=1", headers=token)
            assert f"accepted: {', '.join(want) or 'none'}" in json.loads(got.data)["detail"]


def test_documents_can_be_read_by_people(name: str, app: Flask):
    got = app.test_client().get(LOCATIONS[name].replace("openapi.json", "docs"))
    assert (got.status_code, got.mimetype) == (200, "text/html")
    assert "style-src 'sha256-" in got.headers["Content-Security-Policy"]
    document = json.loads(app.test_client().get(LOCATIONS[name]).data)
    for path in document["paths"]:
        assert f"<code>{path}</code>" in got.text
    assert find_markup(got.text) == []
    assert "Any other path is 404 (not_found)" in read_text(got.text)


def test_every_code_is_in_a_document():
    documents = (get_data.description.build_description(), process_users.description.build_description())
    codes = {
        code
        for document in documents
        for methods in document["paths"].values()
        for operation in methods.values()
        for answer in operation["responses"].values()
        for code in re.findall(r"`(\w+)`", answer["description"])
    }
    texts = "".join(document["info"]["description"] for document in documents)
    for code, status in CODES.items():
        assert code in codes or f"{status} (`{code}`)" in texts, code
