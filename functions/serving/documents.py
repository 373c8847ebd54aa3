"""The routes that tell what a function answers: as an OpenAPI document, and as a page."""

from collections.abc import Mapping

from flask import Request, Response

from serving.application import Route, to_json
from serving.openapi import Json, build_docs_policy, render_docs
from serving.parameters import parse_query


def build_document_routes(document: Json, *, under: str, others: Mapping[str, str]) -> list[Route]:
    """Return the routes `under`/openapi.json and `under`/docs; open to all, as they hold no data."""

    def answer_document(request: Request) -> Response:
        parse_query(request.query_string, {})
        response = to_json(document)
        response.headers["Cache-Control"] = "no-cache"
        return response

    def answer_docs(request: Request) -> Response:
        parse_query(request.query_string, {})
        response = Response(render_docs(document, others), mimetype="text/html")
        response.headers["Cache-Control"] = "no-cache"
        response.headers["Content-Security-Policy"] = build_docs_policy()
        return response

    return [
        Route("GET", f"{under}/openapi.json", answer_document, None),
        Route("GET", f"{under}/docs", answer_docs, None),
    ]
