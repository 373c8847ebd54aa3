"""The lines of the programs' logs that are worth a look, in short."""

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from rollcall.terminal import visible

LONGEST = 200  # characters of a line that is shown
SHOWN_AT_ONCE = 5  # lines of one log
ROTATED_AT = 20 * 1024 * 1024  # bytes
LEVELS_SHOWN = ("warn", "warning", "error", "critical", "fatal", "panic")
LEVELS_OF_CADDY = ("error", "fatal", "panic")  # it warns of the encryption that is not wanted here
# what PostgreSQL, rclone and gunicorn write
PLAIN = re.compile(r"\b(?:WARNING|ERROR|FATAL|PANIC|CRITICAL)\b\s*[]:]\s*(.*)")
LAST_LINE_OF_TRACEBACK = re.compile(r"[\w.]*(?:Error|Exception)\b(?::.*)?")
NOT_SHOWN_FIELDS = ("time", "ts", "level", "function", "event", "msg", "logger", "where")


def shorten(line: str) -> str | None:
    """What to show of a log line; None for the many that only the log needs."""
    told = _shorten_json(line) if line.startswith("{") else _shorten_plain(line)
    text = None if told is None else visible(told)
    return text if text is None or len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def _shorten_plain(line: str) -> str | None:
    found = PLAIN.search(line)
    if found:
        return found[1]
    return line if LAST_LINE_OF_TRACEBACK.fullmatch(line) else None


def _shorten_json(line: str) -> str | None:
    try:
        fields = json.loads(line)
    except ValueError:
        return None
    event = fields.get("event") or fields.get("msg", "")
    if event == "scheduler.called" and fields.get("state") == "ok":
        return _describe_run(fields)
    levels = LEVELS_OF_CADDY if "ts" in fields else LEVELS_SHOWN
    if str(fields.get("level", "")).lower() not in levels:
        return None
    return " ".join(
        [str(event), *(f"{name}={value}" for name, value in fields.items() if _is_telling(name, value))]
    )


def _describe_run(fields: Mapping[str, object]) -> str:
    changes = [f"{fields[name]} {name}" for name in ("upserted", "removed", "rejected") if fields.get(name)]
    told = ", ".join(changes) or "nothing new"
    return f"run {fields.get('run_id')}: {fields.get('listed')} files, {told}, {fields.get('seconds')} s"


def _is_telling(name: str, value: object) -> bool:
    return name not in NOT_SHOWN_FIELDS and value not in (None, "")


class LogWatch:
    """Reads what is new in the logs of a directory, beginning where they end now."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._read_to: dict[Path, int] = {}
        for log in directory.glob("*.log"):
            if log.stat().st_size > ROTATED_AT:
                log.replace(log.with_suffix(".log.1"))
            else:
                self._read_to[log] = log.stat().st_size

    def read(self) -> Iterator[tuple[str, str]]:
        """Name of the log and short form of each new line worth showing."""
        for log in sorted(self._directory.glob("*.log")):
            told = [text for line in self._read_lines(log) if (text := shorten(line))]
            for text in told[:SHOWN_AT_ONCE]:
                yield log.stem, text
            if len(told) > SHOWN_AT_ONCE:
                yield log.stem, f"and {len(told) - SHOWN_AT_ONCE} more lines like these: {log}"

    def _read_lines(self, log: Path) -> list[str]:
        position = self._read_to.get(log, 0)
        if log.stat().st_size <= position:
            return []
        with log.open("rb") as file:
            file.seek(position)
            # what has no end yet is read the next time
            whole, ended, _ = file.read().rpartition(b"\n")
        self._read_to[log] = position + len(whole) + len(ended)
        # Only at line feeds: other line ends may come from a key, and what follows must not pass for a line.
        return whole.decode(errors="replace").split("\n")
