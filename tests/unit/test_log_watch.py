import json
from pathlib import Path

import pytest

from rollcall.log_watch import LONGEST, SHOWN_AT_ONCE, LogWatch, shorten


def event(level: str, name: str, **fields: object) -> str:
    common = {"time": "2026-11-23T10:00:00Z", "level": level, "function": "f", "event": name}
    return json.dumps({**common, **fields})


def called(**fields: object) -> str:
    return event("info", "scheduler.called", **fields)


@pytest.mark.parametrize(
    ("line", "want"),
    [
        (event("info", "request", status=200), None),
        (event("warning", "store.retried", attempt=2), "store.retried attempt=2"),
        (event("error", "request.failed", error="KeyError", where=["a.py"]), "request.failed error=KeyError"),
        (
            called(run_id=7, state="ok", listed=9, upserted=2, rejected=1, seconds=0.4),
            "run 7: 9 files, 2 upserted, 1 rejected, 0.4 s",
        ),
        (
            called(run_id=8, state="ok", listed=9, upserted=0, seconds=0.1),
            "run 8: 9 files, nothing new, 0.1 s",
        ),
        (called(status=409, run_id=7, seconds=0.1), None),
        ('{"level":"warn","ts":1.5,"msg":"HTTP/2 skipped because it requires TLS"}', None),
        ('{"level":"error","ts":1.5,"msg":"no upstream","status":503}', "no upstream status=503"),
        ("{not json at all", None),
        ("2026-11-23 22:29:41.420 UTC [6554] FATAL:  terminating connection", "terminating connection"),
        ("2026-11-23 22:29:41.420 UTC [6554] LOG:  checkpoint complete", None),
        ("2026/11/23 22:14:54 ERROR : 1000.csv: cannot be read", "1000.csv: cannot be read"),
        ("2026/11/23 22:14:54 NOTICE: Local file system at b: Starting s3 server", None),
        ("[2026-11-23 10:00:00 +0000] [12] [ERROR] Worker (pid:3) exited", "Worker (pid:3) exited"),
        ("Traceback (most recent call last):", None),
        ("ModuleNotFoundError: No module named 'flask'", "ModuleNotFoundError: No module named 'flask'"),
    ],
)
def test_only_what_needs_a_look_is_shown_and_in_short(line: str, want: str | None):
    assert shorten(line) == want


def test_long_lines_are_cut():
    got = shorten(f"x ERROR: {'y' * 1000}")
    assert got is not None
    assert len(got) == LONGEST


def test_a_watch_shows_what_is_new_once_and_only_whole_lines(tmp_path: Path):
    log = tmp_path / "postgres.log"
    log.write_text("x FATAL:  before\n")
    watch = LogWatch(tmp_path)
    with log.open("a") as file:
        file.write("x FATAL:  first\nx FATAL:  sec")
    assert list(watch.read()) == [("postgres", "first")]
    with log.open("a") as file:
        file.write("ond\n")
    assert list(watch.read()) == [("postgres", "second")]
    assert list(watch.read()) == []


def test_a_flood_is_counted_instead_of_shown(tmp_path: Path):
    watch = LogWatch(tmp_path)
    log = tmp_path / "s3.log"
    log.write_text("x ERROR: again\n" * (SHOWN_AT_ONCE + 7))
    got = list(watch.read())
    assert got == [("s3", "again")] * SHOWN_AT_ONCE + [("s3", f"and 7 more lines like these: {log}")]
