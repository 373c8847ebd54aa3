"""Logs: one JSON object a line on stdout, an event name and its fields; never data of users or secrets."""

import json
import logging
import sys
import traceback
from datetime import UTC, datetime

_logger = logging.getLogger("rollcall")


class _JsonFormatter(logging.Formatter):
    def __init__(self, function: str) -> None:
        super().__init__()
        self._function = function

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "function": self._function,
            "event": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        return json.dumps(line, ensure_ascii=False, default=str)


def configure(function: str, level: str) -> None:
    """Send the events of this process to stdout; repeatable."""
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(_JsonFormatter(function))
    _logger.handlers = [handler]
    _logger.setLevel(level.upper())
    _logger.propagate = False


def log(event: str, *, level: int = logging.INFO, **fields: object) -> None:
    """Log a dotted event name with its fields."""
    _logger.log(level, event, extra={"fields": fields})


def log_error(event: str, error: BaseException, **fields: object) -> None:
    """Log an unexpected error: its kind and where it came from, but not its message, which may quote data."""
    frames = traceback.extract_tb(error.__traceback__)
    where = [f"{frame.filename.rpartition('/')[2]}:{frame.lineno} {frame.name}" for frame in frames[-6:]]
    kind = type(error).__name__
    log(event, level=logging.ERROR, error=kind, code=getattr(error, "code", None), where=where, **fields)
