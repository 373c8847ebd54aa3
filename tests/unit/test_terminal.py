"""Nothing that is printed is obeyed by a terminal, wherever it came from."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from rig import REPOSITORY

from rollcall.log_watch import LogWatch, shorten
from rollcall.terminal import say, say_error, visible
from serving import logs

OBEYED = "".join(map(chr, [*range(32), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F, *range(0x2028, 0x202F)]))
OBEYED += "".join(map(chr, range(0x2066, 0x206A)))
TITLE = "\x1b]0;owned\x07"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("Zoë 日本 [red]x[/red] \\n", "Zoë 日本 [red]x[/red] \\n"),
        (TITLE, r"\x1b]0;owned\x07"),
        ("a\nb\tc\rd", r"a\nb\tc\rd"),
        ("\x7f\x9b31m", r"\x7f\x9b31m"),
        ("\u202egnp.exe\u2066", r"\u202egnp.exe\u2066"),
        (b"\xff.csv".decode(errors="surrogateescape"), r"\udcff.csv"),
    ],
)
def test_control_characters_become_escapes(text: str, want: str):
    assert visible(text) == want


def test_none_of_them_is_printed(capsys: pytest.CaptureFixture[str]):
    say(f"one\n{OBEYED}")
    say_error(OBEYED)
    captured = capsys.readouterr()
    printed = (captured.out + captured.err).replace("\n", "")
    assert captured.out.startswith("one\n")
    assert not set(OBEYED) & set(printed)


@pytest.mark.parametrize(
    "line",
    [
        f"2026/11/23 22:14:54 ERROR : {TITLE}1000.csv: cannot be read",
        "2026/11/23 22:14:54 ERROR : \x9b31m1000.csv: cannot be read",
        json.dumps({"level": "error", "event": "store.retried", "detail": TITLE + "\u202e"}),
        json.dumps({"level": "error", "event": TITLE}),
        json.dumps({"level": "error", "event": ["x"]}),
        f"KeyError: {TITLE}",
    ],
)
def test_a_line_of_a_log_is_shown_without_them(line: str):
    got = shorten(line)
    assert got
    assert not set(OBEYED) & set(got)


def test_a_key_in_a_log_does_not_begin_a_line(tmp_path: Path):
    watch = LogWatch(tmp_path)
    (tmp_path / "s3.log").write_text("x ERROR: 1\x85x FATAL: 2\u2028x FATAL: 3.csv\n", encoding="utf-8")
    assert list(watch.read()) == [("s3", r"1\x85x FATAL: 2\u2028x FATAL: 3.csv")]


def test_lines_of_our_own_logs_hold_none_and_are_whole(capsys: pytest.CaptureFixture[str]):
    """Text with surrogates, which no stream takes, is logged too."""
    text = f"{OBEYED}\udcff"
    logs.configure("f", "info")
    logs.log("store.retried", detail=text)
    line = capsys.readouterr().out
    assert json.loads(line)["detail"] == text
    assert not set(OBEYED) & set(line[:-1])


def test_what_another_command_prints_is_passed_on_with_its_exit_status():
    code = "import sys; sys.stdout.buffer.write(b'\\x1b]0;x\\x07\\xff\\nlast'); sys.exit(3)"
    done = subprocess.run(
        [sys.executable, "-m", "rollcall.terminal", sys.executable, "-c", code],
        env={"PYTHONPATH": str(REPOSITORY / "local"), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (3, "\\x1b]0;x\\x07\\xff\nlast\n")


def test_a_command_ends_when_nobody_reads_what_it_prints():
    """As that of `make local-logs | head` does."""
    code = "import itertools\nfor number in itertools.count(): print(number, flush=True)"
    with subprocess.Popen(
        [sys.executable, "-m", "rollcall.terminal", sys.executable, "-c", code],
        env={"PYTHONPATH": str(REPOSITORY / "local")},
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        process.stdout.close()
        try:
            assert process.wait(60) != 0
        finally:
            process.kill()
