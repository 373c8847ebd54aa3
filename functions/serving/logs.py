"""Logs: one JSON object a line on stdout, an event name and its fields; never data of users or secrets."""

import json
import logging
import re
import sys
import threading
import traceback
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TextIO

_LEVELS = {name: getattr(logging, name.upper()) for name in ("debug", "info", "warning", "error")}
_NAMES = {level: name for name, level in _LEVELS.items()}
_LOCK = threading.Lock()
_encode = json.JSONEncoder(ensure_ascii=False, default=str).encode
# JSON escapes C0 alone. Terminals obey C1, some characters reorder text, and a stream takes no surrogates.
_CONTROLS = re.compile("[\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class _Target:
    """Who logs, where to, and from which level on."""

    function: str
    stream: TextIO
    least: int


_target = _Target("", sys.stdout, logging.WARNING)


def configure(function: str, level: str) -> None:
    """Send the events of this process to stdout; repeatable."""
    global _target
    _target = _Target(function, sys.stdout, _LEVELS[level])


def log(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log a dotted event name with its fields.

    Not through the logging module: its records know of threads, callers and files, which takes as long again.
    """
    target = _target
    if level < target.least:
        return
    time = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"time": time, "level": _NAMES[level], "function": target.function, "event": event, **fields}
    text = _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", _encode(line)) + "\n"
    with _LOCK, suppress(OSError, ValueError):  # nobody is to be refused an answer because of the log
        target.stream.write(text)
        target.stream.flush()


def log_error(event: str, error: BaseException, **fields: object) -> None:
    """Log an unexpected error: its kind and where it came from, but not its message, which may quote data."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-6:]]
    kind = type(error).__name__
    log(event, level=logging.ERROR, error=kind, code=getattr(error, "code", None), where=where, **fields)
