"""Errors as a designed surface: RFC 9457 problem documents, each with a stable code of this table."""

import json
from collections.abc import Mapping
from http import HTTPStatus

from flask import Response

# code: HTTP status. functions/README.md has a row for each.
CODES: dict[str, int] = {
    # the request
    "path_malformed": 400,
    "query_malformed": 400,
    "parameter_unknown": 400,
    "parameter_repeated": 400,
    "parameter_empty": 400,
    "parameter_malformed": 400,
    "parameter_conflict": 400,
    "body_unexpected": 400,
    "notification_malformed": 400,
    "unauthorized": 401,
    "cross_site": 403,
    "not_found": 404,
    "user_not_found": 404,
    "run_not_found": 404,
    "image_not_found": 404,
    "method_not_allowed": 405,
    "not_acceptable": 406,
    "body_timeout": 408,
    "length_required": 411,
    "body_too_large": 413,
    "host_unknown": 421,
    "http_version": 505,
    # the run
    "run_in_progress": 409,
    "source_empty": 422,
    # what the functions depend on
    "database_unavailable": 503,
    "store_unavailable": 503,
    "exports_busy": 503,
    # ourselves
    "internal": 500,
}
RETRY_AFTER_S = 5


class ProblemError(Exception):
    """A request cannot be answered as asked; becomes the problem document of its code.

    `detail` is read by the client: it says what came and what is accepted, and holds no data of users.
    `members` are added to the document, `headers` to the response.
    """

    def __init__(
        self,
        code: str,
        detail: str,
        *,
        members: Mapping[str, object] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.status = CODES[code]
        self.detail = detail
        self.members = dict(members or {})
        self.headers = dict(headers or {})
        if self.status == HTTPStatus.SERVICE_UNAVAILABLE or code == "run_in_progress":
            self.headers.setdefault("Retry-After", str(RETRY_AFTER_S))


def to_response(problem: ProblemError) -> Response:
    """Render a problem as application/problem+json."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        **problem.members,
    }
    response = Response(json.dumps(document, ensure_ascii=False) + "\n", mimetype="application/problem+json")
    return add_problem_headers(response, problem)


def add_problem_headers(response: Response, problem: ProblemError) -> Response:
    """Give a response the status and the headers of a problem."""
    response.status_code = problem.status
    response.headers.update(problem.headers)
    response.headers["Cache-Control"] = "no-store"
    return response
