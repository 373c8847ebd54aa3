"""Metrics of one function in the Prometheus text format, summed over the processes that serve it."""

import atexit
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from prometheus_client import Counter, Histogram

_LOCK = threading.Lock()
# Most answers take milliseconds; exports and runs take as long as they do.
_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Gauge:
    """A figure that is looked up when it is asked for."""

    name: str
    help: str
    value: float


Look = Callable[[], Iterable[Gauge]]


def prepare_metrics() -> None:
    """Make a fresh directory that the workers of this server share; to be called before they are forked."""
    directory = tempfile.mkdtemp(prefix="rollcall-metrics-")
    owner = os.getpid()
    # The library looks for it when it is imported, which is after the first answer.
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = directory

    def remove() -> None:
        if os.getpid() == owner:  # forked workers inherit this, and end before
            shutil.rmtree(directory, ignore_errors=True)

    atexit.register(remove)


def count_request(method: str, route: str, status: int, seconds: float) -> None:
    """Count an answer by the template of its route."""
    requests, latency = _find_children(method, route or "none", status)
    requests.inc()
    latency.observe(seconds)


def count_run(result: str) -> None:
    """Count a run by how it ended."""
    _instruments().runs.labels(result).inc()


def to_text(gauges: Iterable[Gauge]) -> bytes:
    """Return all counts since the start, of all workers, and these gauges."""
    from prometheus_client import CollectorRegistry, generate_latest
    from prometheus_client.core import GaugeMetricFamily
    from prometheus_client.multiprocess import MultiProcessCollector

    registry = CollectorRegistry()
    looked_up = [GaugeMetricFamily(gauge.name, gauge.help, gauge.value) for gauge in gauges]
    collected = _Collected([*MultiProcessCollector.merge(_find_counts()), *looked_up])
    registry.register(collected)  # pyright: ignore[reportArgumentType]  it has collect()
    return generate_latest(registry)


def _find_counts() -> list[str]:
    """Return the files that workers count in.

    One is empty from when it is made until it gets its size, and for good if its worker is killed between;
    the library's own collector fails on it (github.com/prometheus/client_python/issues/1199).
    """
    directory = Path(os.environ["PROMETHEUS_MULTIPROC_DIR"])
    return [str(path) for path in directory.iterdir() if path.suffix == ".db" and path.stat().st_size > 0]


@dataclass(frozen=True, slots=True, eq=False)
class _Collected:
    families: list

    def collect(self) -> list:
        return self.families


@dataclass(frozen=True, slots=True)
class _Instruments:
    requests: "Counter"
    latency: "Histogram"
    runs: "Counter"


@cache
def _make_instruments() -> _Instruments:
    from prometheus_client import Counter, Histogram

    return _Instruments(
        requests=Counter(
            "rollcall_requests",
            "Requests by the template of their route and the status",
            ("method", "route", "code"),
        ),
        latency=Histogram(
            "rollcall_request_seconds",
            "Seconds from a request to the end of its answer",
            ("method", "route"),
            buckets=_BUCKETS_S,
        ),
        runs=Counter("rollcall_runs", "Runs asked for here, by how they ended", ("result",)),
    )


@cache  # of methods, templates and statuses there are few; to look them up takes as long as to count
def _find_children(method: str, route: str, status: int) -> tuple["Counter", "Histogram"]:
    instruments = _instruments()
    return instruments.requests.labels(method, route, str(status)), instruments.latency.labels(method, route)


def _instruments() -> _Instruments:
    with _LOCK:  # made once: a name can be registered a single time
        return _make_instruments()
