"""Call process-users at a fixed interval, from start to start; the first call comes at once.

Never two calls at a time. A run that somebody else has started (409) is as good as ours; while the function
or what it depends on is away, the call is repeated after 5 s, then after ever more, up to 60 s.
"""

import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import FrameType

import urllib3
from apscheduler.events import EVENT_JOB_ERROR, EVENT_JOB_MAX_INSTANCES, JobExecutionEvent, JobSubmissionEvent
from apscheduler.schedulers.blocking import BlockingScheduler
from apscheduler.triggers.interval import IntervalTrigger
from tenacity import RetryCallState, Retrying, retry_if_exception_type, wait_exponential

from serving.logs import configure, log, log_error
from serving.settings import Environment, SettingsError

CONNECT_TIMEOUT_S = 5
# A longer run goes on without us: the next call is answered 409 until it has ended.
ANSWER_TIMEOUT_S = 3600
FIRST_RETRY_S, LAST_RETRY_S = 5, 60
# 502 and 504 are what a gateway between us and the function may say.
UNAVAILABLE = (502, 503, 504)
REPORTED = ("run_id", "state", "code", "listed", "unchanged", "upserted", "removed", "rejected")
# A call that lasts long must notice that the other side is gone: after 30 s of silence, where Linux names it.
KEEPALIVE = [
    (socket.IPPROTO_TCP, socket.TCP_NODELAY, 1),
    (socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1),
    *(
        (socket.IPPROTO_TCP, getattr(socket, name), value)
        for name, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3))
        if hasattr(socket, name)
    ),
]


class UnavailableError(Exception):
    """The function, or what it depends on, is away; the message says how that showed."""


@dataclass(frozen=True, slots=True)
class SchedulerSettings:
    """Whom to call, and how often."""

    url: str
    interval_s: int
    api_token: str = field(repr=False)

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "SchedulerSettings":
        """Read the environment; raises SettingsError with everything that is wrong with it."""
        env = Environment(mapping)
        settings = cls(
            url=env.text("PROCESS_URL"),
            interval_s=env.number("PROCESS_INTERVAL_S", 1500),
            api_token=env.text("API_TOKEN", ""),
        )
        env.check()
        return settings


def main() -> int:
    """Run until SIGTERM or SIGINT; returns the exit status when the settings are wrong."""
    configure("scheduler", "info")
    try:
        settings = SchedulerSettings.from_env(os.environ)
    except SettingsError as error:
        log("scheduler.failed", level=logging.ERROR, detail=str(error))
        return 1
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGINT, _end)
    log("scheduler.started", interval_s=settings.interval_s)
    _build_scheduler(settings).start()
    return 0


def _build_scheduler(settings: SchedulerSettings) -> BlockingScheduler:
    scheduler = BlockingScheduler(timezone=UTC)
    scheduler.add_job(
        call_until_answered,
        IntervalTrigger(seconds=settings.interval_s, timezone=UTC),
        args=(settings,),
        next_run_time=datetime.now(UTC),
        max_instances=1,
        coalesce=True,
        misfire_grace_time=None,  # late is better than never
    )
    scheduler.add_listener(_report, EVENT_JOB_ERROR | EVENT_JOB_MAX_INSTANCES)
    # Its own lines are no JSON, and say only what the listener says.
    logging.getLogger("apscheduler").addHandler(logging.NullHandler())
    logging.getLogger("apscheduler").propagate = False
    return scheduler


def call_until_answered(settings: SchedulerSettings) -> None:
    """Start a run, again and again while the function is unavailable."""
    retrying = Retrying(
        retry=retry_if_exception_type(UnavailableError),
        wait=wait_exponential(multiplier=FIRST_RETRY_S, min=FIRST_RETRY_S, max=LAST_RETRY_S),
        before_sleep=_report_retry,
    )
    retrying(call, settings)


def call(settings: SchedulerSettings) -> None:
    """Ask for one run and log its outcome; raises UnavailableError when it is worth asking again soon."""
    headers = {"Authorization": f"Bearer {settings.api_token}"} if settings.api_token else {}
    started = time.monotonic()
    try:
        # A pool of its own for each call: the function closes idle connections after 2 s, and a POST on one
        # that is being closed would be lost or, worse, sent twice.
        with urllib3.PoolManager(socket_options=KEEPALIVE) as pool:
            answer = pool.request(
                "POST",
                settings.url,
                headers={**headers, "Connection": "close"},
                timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=ANSWER_TIMEOUT_S),
                retries=False,
                redirect=False,
            )
    except urllib3.exceptions.HTTPError as error:
        raise UnavailableError(str(error)) from error
    if answer.status in UNAVAILABLE:
        raise UnavailableError(f"answered {answer.status}")
    log(
        "scheduler.called",
        level=logging.INFO if answer.status in (200, 409) else logging.ERROR,
        status=answer.status,
        seconds=round(time.monotonic() - started, 3),
        **_read_report(answer.data),
    )


def _read_report(body: bytes) -> dict[str, object]:
    """Take the numbers out of a report or a problem, if it is one; never its rejects, which name keys."""
    try:
        report = json.loads(body)
    except ValueError:
        return {}
    return {name: report[name] for name in REPORTED if name in report} if isinstance(report, dict) else {}


def _report_retry(state: RetryCallState) -> None:
    error = state.outcome.exception() if state.outcome else None
    log("scheduler.unavailable", level=logging.WARNING, detail=str(error), again_in_s=state.upcoming_sleep)


def _report(event: JobExecutionEvent | JobSubmissionEvent) -> None:
    if isinstance(event, JobExecutionEvent) and event.exception:
        log_error("scheduler.error", event.exception)
    elif isinstance(event, JobSubmissionEvent):
        log("scheduler.skipped", detail="the last call has not ended yet")


def _end(signum: int, frame: FrameType | None) -> None:
    """End at once: the run belongs to the function, which finishes it or gives its lock up by itself."""
    del frame
    log("scheduler.stopped", signal=signal.Signals(signum).name)
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
