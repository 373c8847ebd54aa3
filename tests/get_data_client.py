"""get-data as the framework loads it, without a server, and users to ask it for."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from datetime import UTC, datetime

import pytest
from flask.testing import FlaskClient
from functions_framework import create_app
from rig import FUNCTIONS, NO_STORE, Database

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

# What browsers are told with every answer, whatever it is.
ALWAYS_SENT = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}


@contextmanager
def open_client(env: Mapping[str, str]) -> Iterator[FlaskClient]:
    """The function as the framework loads it, without a server."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**NO_STORE, **env}.items():
            patch.setenv(name, value)
        app = create_app("get_data", str(FUNCTIONS / "get-data" / "main.py"))
    with closing(sys.modules["main"].POOL):
        yield app.test_client()  # pyright: ignore[reportAttributeAccessIssue]  a function of ours is no ASGI


def insert(database: Database, user_id: str, born: datetime = EPOCH, **columns: str | None) -> None:
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate, img_path)
        values (:user_id, :first_name, :last_name, cast(:birthdate as timestamptz), :img_path)
        """,
        user_id=user_id,
        birthdate=born,
        first_name=columns.get("first_name", "Ada"),
        last_name=columns.get("last_name", "King"),
        img_path=columns.get("img_path"),
    )


def insert_many(database: Database, count: int) -> None:
    database.run(
        """
        insert into users (user_id, first_name, last_name, birthdate)
        select 100000 + n, 'First' || n, 'Last', to_timestamp(n)
        from generate_series(1, cast(:count as integer)) as n
        """,
        count=count,
    )
