"""Bring the compose stack up, wait until all of it is healthy, and say where it is.

    python -m rollcall.ready --env-file local/.env -- docker compose --project-name rollcall ...

Run by the machine's own Python, so it needs nothing but the standard library and the docker command. For
docker-compose 1.29, whose `up` does not wait, and Compose v2 alike.
"""

import argparse
import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rollcall.private_files import write_private
from rollcall.terminal import say, say_error

DOCKER = "docker"
USUAL_ENV_FILE = Path("local/.env")
TIMEOUT_S = 600
POLL_S = 1
SHOWN_LINES = 15
SECOND_PORT = "GATEWAY_PORT_2"
FOR_OTHERS = re.compile(r"PG[A-Z]+|MINIO_(ENDPOINT|REGION|ACCESS_KEY|SECRET_KEY|ROOT_USER|ROOT_PASSWORD)")
# What to tell: service, port in its container, and how it is called.
ADDRESSES = (
    ("gateway", "8080/tcp", "Rollcall       http://{}"),
    ("gateway", "5000/tcp", "  the same     http://{}"),
    (
        "minio",
        "9001/tcp",
        "MinIO console  http://{}   (login: MINIO_ACCESS_KEY and MINIO_SECRET_KEY of {env})",
    ),
    ("minio", "9000/tcp", "MinIO S3       http://{}"),
    (
        "pgadmin",
        "5050/tcp",
        "pgAdmin        http://{}   (login: PGADMIN_EMAIL and PGADMIN_PASSWORD of {env})",
    ),
    ("postgres", "5432/tcp", "Postgres       {}"),
)


class StackError(Exception):
    """The stack does not come up; the message says which part and why."""


@dataclass(frozen=True)
class Container:
    """One service's container, as docker sees it now."""

    service: str
    id: str
    status: str  # created, running, restarting, exited, ...
    health: str  # "" where there is no health check
    exit_code: int
    restarts: int
    ports: Mapping[str, str]  # "8080/tcp": "127.0.0.1:8080"

    @property
    def is_ready(self) -> bool:
        """True when it is healthy, runs without a health check, or has done what it had to do once."""
        if self.status == "running":
            return self.health in ("", "healthy")
        return self.has_ended and self.exit_code == 0

    @property
    def has_ended(self) -> bool:
        """True of a container that will not be started again."""
        return self.status in ("exited", "dead")

    @property
    def has_failed(self) -> bool:
        """True when waiting longer would not help."""
        return (self.has_ended and self.exit_code != 0) or self.restarts >= 3 or self.health == "unhealthy"

    @property
    def is_troubled(self) -> bool:
        """True when it has failed at least once: on its way up again, perhaps."""
        return self.exit_code != 0 or self.restarts > 0

    @property
    def state(self) -> str:
        """Its state in a word or two."""
        if self.has_ended:
            return f"ended with status {self.exit_code}"
        return self.health or self.status


def main(arguments: Sequence[str]) -> int:
    """Bring the stack up; returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="rollcall.ready", description="Bring the compose stack up and wait for it."
    )
    parser.add_argument("--env-file", type=Path, required=True)
    parser.add_argument("compose", nargs="+", help="the compose command with its global options")
    options = parser.parse_args(arguments)
    try:
        second_port = choose_second_port(options.compose, options.env_file)
        environment = {**clean_environment(), **choose_builder(), **second_port}
        up = subprocess.run([*options.compose, "up", "--build", "--detach"], env=environment, check=False)
        containers = wait_until_ready(options.compose, is_complete=up.returncode == 0)
        if keep_env_file_true(options.env_file, containers):
            # Links to pictures name the store's port on this machine, which is known only now.
            again = ["up", "--detach", "--no-deps", "get-data"]
            up = subprocess.run([*options.compose, *again], env=environment, check=False)
            containers = wait_until_ready(options.compose, is_complete=up.returncode == 0)
    except StackError as error:
        say_error(f"\n{error}")
        return 1
    print_addresses(options.env_file, containers)
    return 0


def clean_environment() -> dict[str, str]:
    """Return the environment without what its owner has set for other servers: it would win over the file."""
    return {name: value for name, value in os.environ.items() if not FOR_OTHERS.fullmatch(name)}


def choose_builder() -> dict[str, str]:
    """Return the variables that make compose build with BuildKit where there is one.

    The classic builder is sent the whole repository, with the virtual environment and all data of `make run`.
    """
    has_plugin = (
        subprocess.run([DOCKER, "buildx", "version"], capture_output=True, check=False).returncode == 0
    )
    version = run([DOCKER, "version", "--format", "{{.Client.Version}}"])
    is_built_in = int(version.split(".")[0]) < 23
    return {"DOCKER_BUILDKIT": "1", "COMPOSE_DOCKER_CLI_BUILD": "1"} if has_plugin or is_built_in else {}


def choose_second_port(compose: Sequence[str], env_file: Path) -> dict[str, str]:
    """Return the variable of another second port when somebody else has the wanted one (macOS does)."""
    wanted = os.environ.get(SECOND_PORT) or read_variable(env_file, SECOND_PORT) or "5000"
    if not (wanted.isdecimal() and int(wanted) <= 65535):
        raise StackError(f"{SECOND_PORT} is {wanted!r}, wanted a port from 0 to 65535")
    ours = any(container.ports.get("5000/tcp", "").endswith(f":{wanted}") for container in inspect(compose))
    if wanted != "0" and not ours and is_taken(int(wanted)):
        say(
            f"warning: port {wanted} is taken by another program; Rollcall's second address gets another port"
        )
        return {SECOND_PORT: "0"}
    return {}


def wait_until_ready(compose: Sequence[str], *, is_complete: bool) -> list[Container]:
    """Wait until every container is ready; raises StackError as soon as one fails, or after TIMEOUT_S."""
    deadline = time.monotonic() + TIMEOUT_S
    waited_for = ""
    while True:
        containers = inspect(compose)
        failed = [each for each in containers if each.has_failed or (each.is_troubled and not is_complete)]
        if failed:
            raise StackError("\n".join(map(describe_failure, failed)))
        if not is_complete:
            raise StackError(
                "The stack did not start: the reason is above. A taken port has a variable in ENV_FILE, "
                f"which is {USUAL_ENV_FILE} unless you say otherwise."
            )
        waiting = [
            f"{container.service} ({container.state})" for container in containers if not container.is_ready
        ]
        if not waiting:
            return containers
        if time.monotonic() > deadline:
            raise StackError(f"Not ready after {TIMEOUT_S} s: {', '.join(waiting)}. See: make local-logs")
        if ", ".join(waiting) != waited_for:
            waited_for = ", ".join(waiting)
            say(f"waiting for {waited_for}")
        time.sleep(POLL_S)


def inspect(compose: Sequence[str]) -> list[Container]:
    """Ask for the state of each container of the project, in the order of their services."""
    ids = run([*compose, "ps", "--all", "--quiet"]).split()
    found = json.loads(run([DOCKER, "inspect", *ids])) if ids else []
    return sorted((to_container(each) for each in found), key=lambda container: container.service)


def to_container(found: Mapping) -> Container:
    """Read what `docker inspect` says of one container."""
    state = found["State"]
    bindings = found["NetworkSettings"]["Ports"] or {}
    return Container(
        service=found["Config"]["Labels"].get("com.docker.compose.service", found["Name"]),
        id=found["Id"],
        status=state["Status"],
        health=state.get("Health", {}).get("Status", ""),
        exit_code=state["ExitCode"],
        restarts=found["RestartCount"],
        ports={port: f"{to[0]['HostIp']}:{to[0]['HostPort']}" for port, to in bindings.items() if to},
    )


def describe_failure(container: Container) -> str:
    """Say which service failed, with the last lines of its log."""
    command = [DOCKER, "logs", "--tail", str(SHOWN_LINES), container.id]
    log = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
    ).stdout
    lines = "\n".join(f"  {line}" for line in log.splitlines())
    return f"{container.service}: {container.state}, restarted {container.restarts} times. It said:\n{lines}"


def keep_env_file_true(env_file: Path, containers: Sequence[Container]) -> bool:
    """Let the settings file name the ports and the role that others can use now; True when it did not."""
    ports = {port: address for container in containers for port, address in container.ports.items()}
    text = env_file.read_text(encoding="utf-8")
    new = set_variable(text, "ROLLCALL_URL", f"http://{ports['8080/tcp']}")
    new = set_variable(new, "MINIO_ENDPOINT", f"http://{ports['9000/tcp']}")
    new = set_variable(new, "PGPORT", ports["5432/tcp"].rpartition(":")[2])
    new = set_variable(new, "PGUSER", "rollcall_reader")  # a file of an earlier release has another name
    if new != text:
        write_private(env_file, new)
    return new != text


def set_variable(text: str, name: str, value: str) -> str:
    """Give a variable of the settings file another value; a file from before it was thought of gets it."""
    new, found = re.subn(rf"(?m)^{name}=.*$", f"{name}={value}", text)
    return new if found else f"{text.rstrip()}\n{name}={value}\n"


def print_addresses(env_file: Path, containers: Sequence[Container]) -> None:
    """Say where everything is."""
    ports = {(c.service, port): address for c in containers for port, address in c.ports.items()}
    say("\nAll is healthy:")
    for service, port, line in ADDRESSES:
        say("  " + line.format(ports[service, port], env=env_file))
    say(f"Logins, keys and passwords are in {env_file}.")
    elsewhere = "" if env_file == USUAL_ENV_FILE else f" ENV_FILE={env_file}"
    say(f"Next: make process{elsewhere} starts a run and shows it; the page is at the first address.")


def read_variable(env_file: Path, name: str) -> str:
    """Read one variable of the settings file; empty when it is not there."""
    found = re.search(rf"""(?m)^{name}=(["']?)(.*)\1$""", env_file.read_text(encoding="utf-8"))
    return found[2] if found else ""


def is_taken(port: int) -> bool:
    """True when something listens on the port of this machine."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return True
    return False


def run(command: Sequence[str]) -> str:
    """Return what a command prints; raises StackError with its own words when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        raise StackError(f"{' '.join(command[:4])} ... failed: {done.stderr.strip()}")
    return done.stdout


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
