"""`make run`: the whole of Rollcall on this machine, without containers, until Ctrl-C.

Servers first, then what they need set up, then the functions, the scheduler and the gateway. All state is in
one directory; what an earlier run left running there is ended before anything starts.
"""

import os
import shlex
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rollcall.log_watch import LogWatch
from rollcall.ports import HOST
from rollcall.processes import Register, StartError
from rollcall.run_directory import RunDirectory, claim, write_variables
from rollcall.servers import http_status
from rollcall.stack import USUAL_DIRECTORY, Ports, RunSettings, Stack
from rollcall.supervisor import Signals, StoppedError, Supervisor
from rollcall.terminal import say, say_error
from serving.settings import SettingsError

FIRST_RUN_S = 10
START_TIMEOUT_S = 90  # of each step; the first start on a slow machine takes a few seconds
SERVERS = ("postgres", "s3", "pictures")
LOOK_EVERY_S = 0.5


def main(environ: Mapping[str, str]) -> int:
    """Runs until it is stopped; the exit status is 1 when it could not start."""
    try:
        settings = RunSettings.from_env(environ)
        with Signals() as signals, claim(settings.directory) as directory:
            _run(settings, directory, signals)
    except (SettingsError, StartError, TimeoutError) as error:
        say_error(str(error))
        return 1
    return 0


def _run(settings: RunSettings, directory: RunDirectory, signals: Signals) -> None:
    register = Register(directory.processes)
    left = register.end_leftovers()
    if left:
        say(f"ended what the last run left behind: {', '.join(left)}")
    stack = Stack(settings, directory, Ports.choose(settings), directory.read_secrets())
    watch = LogWatch(directory.path / "logs")
    supervisor = Supervisor(register, say_of, signals)
    try:
        _start(stack, supervisor, signals)
        _keep_running(supervisor, signals, watch)
    except StoppedError:
        pass
    except StartError:
        if not signals.stops:  # a Ctrl-C also ends what was about to start
            raise
    finally:
        _stop(supervisor, asked=signals.stops > 0)


def _start(stack: Stack, supervisor: Supervisor, signals: Signals) -> None:
    """Starts everything, each as soon as what it needs is there, and returns when all of it answers."""
    begun = time.monotonic()
    write_variables(stack.directory.env, stack.for_clients())
    say(f"Rollcall starts in {shown(stack.directory.path)}")
    servers = (stack.postgres(), stack.s3(), stack.pictures())
    for server in servers:
        supervisor.start(server.program(), server.prepare)
    for program in (stack.process_users(), stack.get_data(), stack.gateway()):
        supervisor.start(program)
    _await(
        lambda: all(server.answers() for server in servers),
        "PostgreSQL and the object store",
        supervisor,
        signals,
    )
    _say_servers(stack)
    supervisor.run(stack.setup(), timeout_s=START_TIMEOUT_S)
    scheduler = stack.scheduler()
    logged = scheduler.log.stat().st_size if scheduler.log.exists() else 0
    supervisor.start(scheduler)
    _await(
        lambda: _has_said(scheduler.log, logged, b"scheduler.started"), "the scheduler", supervisor, signals
    )
    _await(lambda: _all_ready(stack.ports), "the functions and the gateway", supervisor, signals)
    # So that what is asked for first is there. A long run, or one that fails, is not waited for.
    latest = time.monotonic() + FIRST_RUN_S
    signals.wait_until(
        lambda: _has_said(scheduler.log, logged, b"scheduler.called") or time.monotonic() > latest,
        timeout_s=START_TIMEOUT_S,
        what="the first run",
    )
    _say_ready(stack, seconds=time.monotonic() - begun)


def _await(condition: Callable[[], bool], what: str, supervisor: Supervisor, signals: Signals) -> None:
    def holds() -> bool:
        supervisor.check_start()
        return condition()

    signals.wait_until(holds, timeout_s=START_TIMEOUT_S, what=what)


def _has_said(log: Path, position: int, event: bytes) -> bool:
    """Whether an event is in a log after this position: the scheduler has no address to ask."""
    with log.open("rb") as file:
        file.seek(position)
        return event in file.read()


def _all_ready(ports: Ports) -> bool:
    asked = ((ports.process_users, "/readyz"), (ports.get_data, "/readyz"), (ports.gateway, "/healthz"))
    return all(http_status(port, path) == 200 for port, path in asked)


def _keep_running(supervisor: Supervisor, signals: Signals, watch: LogWatch) -> None:
    while not signals.stops:
        supervisor.keep_running()
        for name, text in watch.read():
            say_of(name, text)
        signals.wait(LOOK_EVERY_S)


def _stop(supervisor: Supervisor, *, asked: bool) -> None:
    """Clients before servers, so that none of them meets a server that is gone."""
    if asked:
        say("stopping (Ctrl-C again: at once)")
    supervisor.stop(name for name in supervisor.names() if name not in SERVERS)
    supervisor.stop()
    if asked:
        say("stopped; all data is kept, `make run` goes on from here")


def _say_servers(stack: Stack) -> None:
    say_of("postgres", f"PostgreSQL 18 on {HOST}:{stack.ports.postgres}")
    if stack.directory.postgres.is_symlink():
        refuge = stack.directory.postgres.resolve()
        say_of(
            "", f"as root it runs as nobody, who cannot reach {shown(stack.directory.path)}: data in {refuge}"
        )
    say_of("s3", f"object store on {stack.store_url}")


def _say_ready(stack: Stack, *, seconds: float) -> None:
    settings, directory = stack.settings, stack.directory
    if stack.ports.gateway_2 is None:
        say_of("gateway", f"port {settings.gateway_port_2} is taken, so only {stack.ports.gateway} is served")
    say(f"ready: {stack.url}")
    token = ' -H @- <<< "Authorization: Bearer $API_TOKEN"' if settings.passed_on.get("API_TOKEN") else ""
    say_of("users", f"in a browser, or curl '{stack.url}/data?limit=3'{token}")
    folder = directory.buckets / settings.source_bucket / settings.source_prefix
    say_of("new files", f"into {shown(folder)}, or make upload DIR=...")
    say_of("logins, logs", f"{shown(directory.env)}, {shown(directory.path / 'logs')}")
    elsewhere = "" if directory.path == USUAL_DIRECTORY else f" RUN_DIR={shlex.quote(str(directory.path))}"
    say_of("next", f"make process{elsewhere}, in another terminal: starts a run and shows it")
    say(f"Started in {seconds:.1f} s; Ctrl-C stops it.")


def say_of(name: str, text: str) -> None:
    """Tells something about one program."""
    say(f"  {name:<14}{text}")


def shown(path: Path) -> str:
    """A path as a person at the repository's root would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


if __name__ == "__main__":
    sys.exit(main(os.environ))
