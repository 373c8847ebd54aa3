from datetime import date
from typing import Any

import pytest

from get_data.etags import build_etag
from get_data.users import Version

GIVEN: dict[str, Any] = {
    "version": Version("8f2e", 17),
    "today": date(2026, 11, 23),
    "resource": "/data?min_age=5",
    "representation": "json",
    "release": "1",
}


def test_equal_states_have_equal_tags():
    assert build_etag(**GIVEN) == build_etag(**GIVEN)


@pytest.mark.parametrize(
    "changed",
    [
        {"version": Version("8f2f", 17)},
        {"version": Version("8f2e", 18)},
        {"today": date(2026, 11, 24)},
        {"resource": "/data?min_age=6"},
        {"resource": "/data/min_age=5"},
        {"representation": "csv"},
        {"release": "2"},
    ],
)
def test_whatever_an_answer_depends_on_changes_its_tag(changed: dict[str, Any]):
    assert build_etag(**GIVEN | changed) != build_etag(**GIVEN)
