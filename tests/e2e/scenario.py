"""What a person does with Rollcall, from outside: HTTP, the bucket and the table; the same on every stack."""

import csv
import io
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from http.client import HTTPConnection
from typing import Any
from urllib.parse import quote, urlsplit

from minio import Minio
from pg8000.native import Connection

BIRTHTS = 612302400000
ODD_KEYS = ("0001", "a b", "a+b", "100%", "é", "v1.2", "日本", "?&=#")


@dataclass(frozen=True)
class Stack:
    """A running Rollcall as another client sees it; made from the file of settings it leaves for clients."""

    url: str
    store: Minio
    postgres: Mapping[str, str]
    source: str = "src-data"
    output: str = "processed-data"

    @classmethod
    def from_env(cls, env: Mapping[str, str], url: str) -> "Stack":
        """Read the MINIO_* of the uploader and the PG* of the reader."""
        store = Minio(
            endpoint=urlsplit(env["MINIO_ENDPOINT"]).netloc,
            access_key=env["MINIO_ACCESS_KEY"],
            secret_key=env["MINIO_SECRET_KEY"],
            secure=False,
            region=env.get("MINIO_REGION", "us-east-1"),
        )
        return cls(url, store, {name: value for name, value in env.items() if name.startswith("PG")})

    def request(self, method: str, path: str) -> tuple[int, Mapping[str, str], bytes]:
        """Send one request; returns status, headers (lower-case names) and body."""
        connection = HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()
        finally:
            connection.close()

    def get(self, path: str) -> Any:
        """Return the JSON that a path answers with 200."""
        status, _, body = self.request("GET", path)
        assert status == 200, body
        return json.loads(body)

    def run(self, query: str = "") -> dict[str, Any]:
        """Have one run done, waiting for the one that may be going on; returns its report."""
        deadline = time.monotonic() + 60
        while True:
            status, _, body = self.request("POST", f"/data{query}")
            if status != 409 or time.monotonic() > deadline:
                assert status == 200, body
                return json.loads(body)

    def put(self, key: str, body: bytes | str) -> None:
        """Drop a file into the bucket."""
        data = body.encode() if isinstance(body, str) else body
        self.store.put_object(
            bucket_name=self.source, object_name=key, data=io.BytesIO(data), length=len(data)
        )

    def remove(self, key: str) -> None:
        """Remove a file from the bucket."""
        self.store.remove_object(bucket_name=self.source, object_name=key)

    def read_output(self, key: str) -> list[dict[str, str]]:
        """Return the rows of output.csv or rejects.csv."""
        response = self.store.get_object(bucket_name=self.output, object_name=key)
        try:
            return list(csv.DictReader(io.StringIO(response.data.decode(), newline="")))
        finally:
            response.close()
            response.release_conn()

    def read_table(self) -> dict[str, dict[str, Any]]:
        """Return the rows of the table by user id, with their `id`."""
        env = self.postgres
        connection = Connection(
            env["PGUSER"],
            host=env["PGHOST"],
            port=int(env["PGPORT"]),
            database=env["PGDATABASE"],
            password=env["PGPASSWORD"],
            ssl_context=False,
        )
        try:
            rows = connection.run("select user_id, id, first_name, last_name, birthdate, img_path from users")
        finally:
            connection.close()
        epoch = datetime(1970, 1, 1, tzinfo=UTC)
        names = ("id", "first_name", "last_name", "birthts", "img_path")
        return {
            row[0]: dict(
                zip(names, (*row[1:4], (row[4] - epoch) // timedelta(milliseconds=1), row[5]), strict=True)
            )
            for row in rows or ()
        }


def wait_until(condition: Callable[[], bool], *, timeout_s: float, what: str) -> None:
    """Wait for a condition, asking for it again and again."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"after {timeout_s} s still not: {what}"
        time.sleep(0.05)


def record(first_name: str, last_name: str, birthts: int) -> str:
    """Return a record file in its usual form."""
    return f"first_name, last_name, birthts\n{first_name}, {last_name}, {birthts}"


def check_everywhere(stack: Stack, user_id: str, want: dict[str, Any] | None) -> None:
    """Compare one user in GET /data, GET /data/<id>, output.csv and the table; None: there is none."""
    rows = {row["user_id"]: row for row in stack.read_output("output.csv")}
    table = stack.read_table()
    served = stack.get("/data")
    status, _, body = stack.request("GET", f"/data/{quote(user_id, safe='')}")
    if want is None:
        assert (user_id in rows, user_id in table, user_id in served, status) == (False, False, False, 404)
        return
    assert served[user_id] == want
    assert (status, json.loads(body)) == (200, want)
    assert {name: table[user_id][name] for name in want} == want
    text = {name: "" if value is None else str(value) for name, value in want.items()}
    assert rows[user_id] == {"user_id": user_id, **text}


def check_all_agree(stack: Stack) -> int:
    """Compare all of GET /data, output.csv and the table; returns how many users there are."""
    served = stack.get("/data")
    table = stack.read_table()
    for row in table.values():
        del row["id"]
    assert served == table
    assert list(served) == sorted(served, key=str.encode)
    rows = [
        {**row, "birthts": int(row["birthts"]), "img_path": row["img_path"] or None}
        for row in stack.read_output("output.csv")
    ]
    assert rows == [{"user_id": user_id, **user} for user_id, user in served.items()]
    return len(served)


def play(stack: Stack) -> None:
    """Play the whole scenario; the stack has its sample data and is left with some more."""
    wait_until(lambda: len(stack.get("/data")) >= 50, timeout_s=60, what="the samples are served")
    stack.run()
    play_one_user(stack)
    play_ages(stack)
    play_odd_keys(stack)
    play_unchanged(stack)
    assert check_all_agree(stack) >= 50


def play_one_user(stack: Stack) -> None:
    """A record comes, gets a picture and another one, changes, breaks and is mended."""
    want: dict[str, Any] = {
        "first_name": "Ada",
        "last_name": "King",
        "birthts": BIRTHTS,
        "img_path": None,
    }
    for key in ("2000.csv", "2000.png", "2000.jpg"):  # of an earlier play
        stack.remove(key)
    stack.put("2000.csv", record("Ada", "King", BIRTHTS))
    stack.run()
    check_everywhere(stack, "2000", want)
    row_id = stack.read_table()["2000"]["id"]

    stack.put("2000.png", b"png")
    stack.run()
    want["img_path"] = "src-data/2000.png"
    check_everywhere(stack, "2000", want)
    assert "2000" in stack.get("/data?is_image_exists=True")
    assert "2000" not in stack.get("/data?is_image_exists=False")

    stack.put("2000.jpg", b"jpg")
    stack.remove("2000.png")
    stack.run()
    want["img_path"] = "src-data/2000.jpg"
    check_everywhere(stack, "2000", want)

    stack.put("2000.csv", record("Ada", "Queen", BIRTHTS))
    report = stack.run()
    want["last_name"] = "Queen"
    check_everywhere(stack, "2000", want)
    assert report["upserted"] <= 1  # 0: where the bucket tells of its changes, an event was first

    stack.put("2000.csv", record("Ada", "", BIRTHTS))
    report = stack.run()
    check_everywhere(stack, "2000", want)
    reject = {"key": "2000.csv", "reason": "name_empty", "detail": "last_name is empty"}
    assert reject in stack.read_output("rejects.csv")
    assert report["rejected"] == len(stack.read_output("rejects.csv"))

    stack.put("2000.csv", record("Ada", "Mended", BIRTHTS))
    stack.run()
    want["last_name"] = "Mended"
    check_everywhere(stack, "2000", want)
    assert "2000.csv" not in {row["key"] for row in stack.read_output("rejects.csv")}
    assert stack.read_table()["2000"]["id"] == row_id


def play_ages(stack: Stack) -> None:
    """Ages change on birthdays, and for those born on 29 February on 1 March in common years."""
    today = datetime.now(UTC).date()
    leap_day = date(today.year - 20 - today.year % 4, 2, 29)
    births = {
        "birthday-today": _years_before(today, 30),
        "birthday-tomorrow": _years_before(today + timedelta(days=1), 30),
        "birthday-yesterday": _years_before(today - timedelta(days=1), 30),
        "leap-day": leap_day,
    }
    for user_id, birth in births.items():
        noon = datetime(birth.year, birth.month, birth.day, 12, tzinfo=UTC)
        stack.put(f"{user_id}.csv", record("Leap", "Day", int(noon.timestamp()) * 1000))
    stack.run()
    for user_id, birth in births.items():
        age = _completed_years(birth, today)
        for query, is_there in (
            (f"min_age={age}&max_age={age}", True),
            (f"min_age={age + 1}", False),
            (f"max_age={age - 1}", False),
        ):
            assert (user_id in stack.get(f"/data?{query}")) == is_there, (user_id, query)


def play_odd_keys(stack: Stack) -> None:
    """User ids are text, exactly as in the key."""
    for user_id in ODD_KEYS:
        stack.put(f"{user_id}.csv", record("Odd", "Key", 1))
        stack.put(f"{user_id}.png", b"png")
    stack.run()
    for user_id in ODD_KEYS:
        want = {"first_name": "Odd", "last_name": "Key", "birthts": 1, "img_path": f"src-data/{user_id}.png"}
        check_everywhere(stack, user_id, want)


def play_events(stack: Stack) -> float:
    """Files come and go, and nobody asks for a run; returns the shortest time in s until one was served."""
    delay = min(_time_event(stack, f"event-{number}") for number in range(3))
    stack.put("event-0.png", b"png")
    want = "src-data/event-0.png"
    wait_until(lambda: stack.get("/data/event-0")["img_path"] == want, timeout_s=20, what="the picture")
    stack.remove("event-0.png")
    wait_until(lambda: stack.get("/data/event-0")["img_path"] is None, timeout_s=20, what="no picture")
    return delay


def _time_event(stack: Stack, user_id: str) -> float:
    started = time.monotonic()
    stack.put(f"{user_id}.csv", record("Told", "Soon", BIRTHTS))
    wait_until(lambda: user_id in stack.get("/data"), timeout_s=20, what=f"{user_id} is served")
    return time.monotonic() - started


def play_unchanged(stack: Stack) -> None:
    """A run with nothing changed reads and changes nothing; what somebody overwrites is put back."""

    def look() -> tuple[Any, ...]:
        outputs = [stack.store.stat_object(bucket_name=stack.output, object_name=key) for key in keys]
        return stack.get("/stats")["data_version"], [(stat.etag, stat.last_modified) for stat in outputs]

    keys = ("output.csv", "rejects.csv")
    stack.run()
    before = look()
    report = stack.run()
    assert report["listed"] == report["unchanged"] + report["ignored"]
    assert (report["upserted"], report["removed"]) == (0, 0)
    assert look() == before


def play_overwritten(stack: Stack, overwriter: Minio) -> None:
    """Somebody who may overwrites output.csv, or removes it: the next run puts it back."""
    want = stack.read_output("output.csv")
    overwriter.put_object(
        bucket_name=stack.output, object_name="output.csv", data=io.BytesIO(b"junk"), length=4
    )
    stack.run()
    assert stack.read_output("output.csv") == want
    overwriter.remove_object(bucket_name=stack.output, object_name="output.csv")
    stack.run()
    assert stack.read_output("output.csv") == want


def _years_before(day: date, years: int) -> date:
    try:
        return day.replace(year=day.year - years)
    except ValueError:  # 29 February
        return date(day.year - years, 3, 1)


def _completed_years(birth: date, today: date) -> int:
    return today.year - birth.year - ((today.month, today.day) < (birth.month, birth.day))
