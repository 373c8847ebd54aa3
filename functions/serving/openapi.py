"""OpenAPI 3.1 documents from data: what the functions' descriptions share, and a page to read them."""

import base64
import hashlib
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment

from serving.pages import open_templates
from serving.problems import CODES

Json = dict[str, Any]
# What any request can meet.
EVERYWHERE = ("path_malformed", "cross_site", "host_unknown", "internal")
WITHOUT_BODY = ("body_unexpected",)
WITH_BODY = ("body_timeout", "length_required", "body_too_large")
PARAMETERS = (
    "query_malformed",
    "parameter_unknown",
    "parameter_repeated",
    "parameter_empty",
    "parameter_malformed",
)
RETRY_AFTER: Json = {"description": "Seconds until it is worth asking again", "schema": {"type": "integer"}}
_ELSEWHERE = "Any other path is 404 (`not_found`), any other method 405 (`method_not_allowed`)."
_FOLDER = Path(__file__).parent / "templates"


def build_document(title: str, description: str, paths: Json, schemas: Json) -> Json:
    """Return a whole document."""
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": "1", "description": f"{description} {_ELSEWHERE}"},
        "paths": paths,
        "components": {
            "schemas": {**schemas, "Problem": _PROBLEM},
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "basic": {"type": "http", "scheme": "basic"},
            },
        },
    }


def build_operation(
    summary: str,
    answers: Mapping[str, Json],
    *,
    parameters: Iterable[Json] = (),
    problems: Iterable[str] = (),
    needs_token: bool = True,
    **more: Json,
) -> Json:
    """Return an operation: its good answers by status, and the codes of its problems beside those of all."""
    of_body = WITH_BODY if "requestBody" in more else WITHOUT_BODY
    codes = [*EVERYWHERE, *of_body, *PARAMETERS, *problems, *(["unauthorized"] if needs_token else [])]
    security: list[Json] = [{}, {"bearer": []}, {"basic": []}] if needs_token else [{}]
    operation: Json = {"summary": summary, "parameters": list(parameters), "security": security, **more}
    return {**operation, "responses": {**answers, **_build_problems(codes)}}


def build_parameter(name: str, schema: Json, description: str, *, place: str = "query") -> Json:
    """Return a parameter; those of the path are required."""
    required = {"required": True} if place == "path" else {}
    return {"name": name, "in": place, "description": description, "schema": schema, **required}


def build_answer(description: str, content: Mapping[str, Json], headers: Mapping[str, Json] = {}) -> Json:
    """Return an answer: media type -> schema, header -> what it says."""
    answer: Json = {"description": description}
    if content:
        answer["content"] = {media_type: {"schema": schema} for media_type, schema in content.items()}
    if headers:
        answer["headers"] = dict(headers)
    return answer


def build_header(description: str, **schema: object) -> Json:
    """Return a header that holds text, unless the schema says otherwise."""
    return {"description": description, "schema": {"type": "string", **schema}}


def refer(name: str) -> Json:
    """Return a reference to a schema of the document."""
    return {"$ref": f"#/components/schemas/{name}"}


def _build_problems(codes: Iterable[str]) -> Json:
    by_status: dict[int, list[str]] = {}
    for code in codes:
        by_status.setdefault(CODES[code], []).append(code)
    return {str(status): _build_problem(status, by_status[status]) for status in sorted(by_status)}


def _build_problem(status: int, codes: list[str]) -> Json:
    schema = {"allOf": [refer("Problem"), {"properties": {"code": {"enum": codes}}}]}
    headers = {"Retry-After": RETRY_AFTER} if status in (409, 503) else {}
    if status == CODES["unauthorized"]:
        headers = {"WWW-Authenticate": build_header("How the token can be given")}
    content = {"application/problem+json": schema, "text/html": {"type": "string"}}
    return build_answer(", ".join(f"`{code}`" for code in codes), content, headers)


_PROBLEM: Json = {
    "type": "object",
    "description": "RFC 9457; `code` is stable, `detail` is for people",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"const": "about:blank"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string", "enum": sorted(CODES)},
        "detail": {"type": "string"},
        "parameter": {"type": "string", "description": "the parameter that is wrong"},
    },
}


def render_docs(document: Json, others: Mapping[str, str]) -> str:
    """Return a page that tells what a document says; `others` are further pages, title -> address."""
    return _open_environment().get_template("docs.html").render(document=document, others=others)


@cache
def build_docs_policy() -> str:
    """Return the content security policy of that page: its own style and nothing else."""
    digest = base64.b64encode(hashlib.sha256(_read_style().encode()).digest()).decode()
    return f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; frame-ancestors 'none'"


@cache
def _read_style() -> str:
    return (_FOLDER / "docs.css").read_text()


@cache
def _open_environment() -> Environment:
    environment = open_templates(_FOLDER)
    environment.globals["style"] = _read_style
    environment.filters["form"] = _to_form
    return environment


def _to_form(schema: Json) -> str:
    """Say in words what a value looks like."""
    if "enum" in schema:
        return " or ".join(schema["enum"])
    if "minimum" in schema:
        return f"{schema['minimum']} to {schema['maximum']}"
    return "text"
