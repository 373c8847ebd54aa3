import pytest
from disclosure import find_disclosures

START = '{"time": "2026-11-25T01:05:55.084+00:00", "level": "info", "function": "get-data", "event": '
ENV = {"PGPASSWORD": "a-long-password"}


@pytest.mark.parametrize(
    "line",
    [
        '"request", "method": "GET", "route": "/data/<user_id>/image", "status": 200, "ms": 0.6}',
        '"request", "method": "GET", "route": "", "status": 404, "ms": 7}',
        '"request.failed", "code": "database_unavailable", "cause": "the disk of Postgres is full (53100)"}',
        '"request.failed", "code": "store_unavailable", "cause": "the bucket src-data cannot be listed: '
        'SlowDown (503): the store cannot do it now"}',
        '"export.cut", "error": "OSError", "code": null, "where": ["users.py:98 read_chunks"]}',
    ],
)
def test_what_the_functions_log_is_no_disclosure(line: str):
    assert find_disclosures(START + line, ENV) == []


@pytest.mark.parametrize(
    "line",
    [
        '"request", "method": "GET", "route": "/data/1000", "status": 200, "ms": 0.6}',
        '"request", "method": "GET", "route": "/data/<user_id>", "path": "/data"}',
        '"request.failed", "code": "internal", "cause": "no user Ada"}',
        '"request.failed", "code": "internal", "cause": "storing 1000.csv failed: OSError"}',
        '"request.failed", "code": "internal", "cause": "a/1000.csv cannot be read: SlowDown (503)"}',
        '"export.cut", "error": "King, Ada"}',
        '"user.changed"}',
        '"request"',
    ],
)
def test_all_else_is(line: str):
    assert len(find_disclosures(START + line, ENV)) == 1


def test_secrets_and_addresses_are_found_in_any_line():
    assert find_disclosures("connecting with a-long-password", ENV) == ["PGPASSWORD"]
    assert len(find_disclosures("[ERROR] Error handling request /data/1000", ENV)) == 1
