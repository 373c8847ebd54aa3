import json
from http import HTTPStatus

import pytest

from serving.problems import CODES, ProblemError, to_response

AGAIN_LATER = {"run_in_progress", "database_unavailable", "store_unavailable", "exports_busy"}


@pytest.mark.parametrize(("code", "status"), CODES.items())
def test_every_code_is_a_document_of_its_own(code: str, status: int):
    response = to_response(ProblemError(code, "what came: é", members={"more": [1]}, headers={"X-More": "1"}))
    assert json.loads(response.data) == {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "code": code,
        "detail": "what came: é",
        "more": [1],
    }
    assert (response.status_code, response.headers["Content-Type"]) == (status, "application/problem+json")
    assert (response.headers["Cache-Control"], response.headers["X-More"]) == ("no-store", "1")
    assert response.headers.get("Retry-After") == ("5" if code in AGAIN_LATER else None)


def test_a_code_that_is_not_in_the_table_is_a_mistake():
    with pytest.raises(KeyError):
        ProblemError("invented", "")
