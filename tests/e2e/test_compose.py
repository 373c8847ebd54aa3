"""The compose stack from outside, under a project name and ports of its own: once with each compose there is.

Needs Docker. The stack of `make local-up` is left alone.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import urllib3
from disclosure import find_disclosures
from documents import Block, read_blocks, run_block, to_command
from e2e import scenario
from minio import Minio, MinioAdmin
from minio.credentials.providers import StaticProvider
from pg8000.native import Connection
from privileges import (
    OPERATIONS,
    OTHERS,
    STATEMENTS,
    Objects,
    is_open_to_all,
    read_rights_on_postgres,
    read_rights_on_store,
)
from rig import REPOSITORY

from rollcall.env_file import SECRET_LENGTH, fill_in
from rollcall.ports import choose_port
from rollcall.private_files import write_private
from rollcall.ready import ADDRESSES, choose_builder
from rollcall.servers import http_status

pytestmark = pytest.mark.compose

COMPOSES = {"v1": ["docker-compose"], "v2": ["docker", "compose"]}
OURS = ("process-users", "get-data", "scheduler", "gateway")  # and setup, which has ended
SETTINGS = {"PROCESS_INTERVAL_S": "3600"}
PORTS = (
    "GATEWAY_PORT",
    "GATEWAY_PORT_2",
    "POSTGRES_PORT",
    "MINIO_PORT",
    "MINIO_CONSOLE_PORT",
    "PGADMIN_PORT",
)
UP_TIMEOUT_S = 1500
PROJECT = f"rollcall-test-{os.getpid()}"  # another test run has its own


def works(compose: list[str]) -> bool:
    return shutil.which(compose[0]) is not None and (
        subprocess.run([*compose, "version"], capture_output=True, check=False).returncode == 0
    )


@dataclass(frozen=True)
class Compose:
    """One compose command and one project."""

    command: list[str]
    env_file: Path

    @property
    def arguments(self) -> list[str]:
        file = str(REPOSITORY / "local" / "docker-compose.yml")
        env_file = str(self.env_file)
        return [*self.command, "--project-name", PROJECT, "--env-file", env_file, "--file", file]

    def up(self) -> str:
        """Bring it up as `make local-up` does; returns what that prints."""
        ready = [
            sys.executable,
            "-m",
            "rollcall.ready",
            "--env-file",
            str(self.env_file),
            "--",
            *self.arguments,
        ]
        env = {**clean_environment(), "PYTHONPATH": str(REPOSITORY / "local")}
        done = subprocess.run(
            ready, env=env, capture_output=True, text=True, timeout=UP_TIMEOUT_S, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [*self.arguments, *arguments],
            env=clean_environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def down(self, *options: str) -> None:
        self.run("down", "--remove-orphans", *options)

    def inspect(self) -> dict[str, dict[str, Any]]:
        """Return what docker knows of each service's container."""
        ids = self.run("ps", "--all", "--quiet").split()
        done = subprocess.run(["docker", "inspect", *ids], capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        return {each["Config"]["Labels"]["com.docker.compose.service"]: each for each in found}

    def env(self) -> dict[str, str]:
        lines = self.env_file.read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def address(self, service: str, port: int) -> str:
        return self.run("port", service, str(port)).strip()


def clean_environment() -> dict[str, str]:
    """Return this environment without what compose would take for settings: they win over the file."""
    names = Compose(["docker"], REPOSITORY / "local" / ".env.example").env()
    return {name: value for name, value in os.environ.items() if name not in names}


@pytest.fixture(
    scope="module", params=[name for name, command in COMPOSES.items() if works(command)] or ["none"]
)
def compose(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Compose]:
    """A stack that is up and healthy, with free ports; it and its data are removed afterwards."""
    assert request.param != "none", "neither docker-compose nor docker compose works here"
    env_file = tmp_path_factory.mktemp("compose") / ".env"
    text = fill_in((REPOSITORY / "local" / ".env.example").read_text())
    for name, value in {**SETTINGS, **dict.fromkeys(PORTS, "0")}.items():
        text = text.replace(f"\n{name}=", f"\n{name}={value}\n# was ")
    write_private(env_file, text)
    compose = Compose(COMPOSES[request.param], env_file)
    compose.down("--volumes")
    try:
        compose.up()
        yield compose
    finally:
        compose.down("--volumes")


def to_stack(compose: Compose) -> scenario.Stack:
    env = compose.env()
    return scenario.Stack.from_env(env, f"http://{compose.address('gateway', 8080)}")


def to_client(compose: Compose, access_key: str, secret_key: str) -> Minio:
    endpoint = compose.address("minio", 9000)
    return Minio(
        endpoint=endpoint, access_key=access_key, secret_key=secret_key, secure=False, region="us-east-1"
    )


def to_objects(compose: Compose, access_key: str, secret_key: str) -> Objects:
    client = to_client(compose, access_key, secret_key)
    provider = StaticProvider(access_key, secret_key)
    admin = MinioAdmin(endpoint=compose.address("minio", 9000), credentials=provider, secure=False)
    return Objects(client, admin, "src-data", "processed-data")


def test_the_scenario(compose: Compose) -> None:
    stack, env = to_stack(compose), compose.env()
    scenario.play(stack)
    scenario.play_overwritten(stack, to_client(compose, env["MINIO_ROOT_USER"], env["MINIO_ROOT_PASSWORD"]))


def test_a_file_is_served_soon_without_anybody_asking_for_a_run(compose: Compose) -> None:
    # The store sends its events every 3 s.
    assert scenario.play_events(to_stack(compose)) < 4


def test_both_addresses_answer_and_the_file_names_the_ports(compose: Compose) -> None:
    stack, env = to_stack(compose), compose.env()
    assert stack.request("GET", "/healthz")[0] == 200
    second = scenario.Stack.from_env(env, f"http://{compose.address('gateway', 5000)}")
    assert second.request("GET", "/healthz")[0] == 200
    assert env["MINIO_ENDPOINT"] == f"http://{compose.address('minio', 9000)}"
    assert f"127.0.0.1:{env['PGPORT']}" == compose.address("postgres", 5432)


def test_what_is_not_for_people_is_not_reachable(compose: Compose) -> None:
    stack = to_stack(compose)
    for method, path in (("POST", "/events"), ("GET", "/metrics"), ("GET", "/readyz")):
        assert stack.request(method, path)[0] == 404


def test_our_containers_have_no_rights(compose: Compose) -> None:
    found = compose.inspect()
    for service in (*OURS, "setup"):
        host = found[service]["HostConfig"]
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] in (["ALL"], ["CAP_ALL"]), service
        assert not host["CapAdd"], service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert not host["Privileged"], service
        assert not found[service]["Mounts"], service
        assert found[service]["Config"]["User"].split(":")[0].isdigit(), service
    for service in OURS:
        assert read_rights(compose, service) == {"Uid": "10001", "CapEff": "0" * 16, "NoNewPrivs": "1"}, (
            service
        )
        assert "Read-only file system" in run_in(compose, service, "touch /app/x; touch /usr/x")


def run_in(compose: Compose, service: str, command: str) -> str:
    """Run a shell command in a service's container; returns what it prints, errors too."""
    name = compose.inspect()[service]["Id"]
    command_line = ["docker", "exec", name, "sh", "-c", f"{{ {command}; }} 2>&1"]
    return subprocess.run(command_line, capture_output=True, text=True, check=False).stdout


def read_rights(compose: Compose, service: str) -> Mapping[str, str]:
    """Read what the kernel lets a service's first process do."""
    lines = run_in(compose, service, "cat /proc/1/status").splitlines()
    values = {line.split(":")[0]: line.split()[1] for line in lines if len(line.split()) > 1}
    return {name: values[name] for name in ("Uid", "CapEff", "NoNewPrivs")}


def test_ports_are_published_on_this_machine_alone(compose: Compose) -> None:
    published = {
        (service, port, binding["HostIp"])
        for service, found in compose.inspect().items()
        for port, bindings in (found["NetworkSettings"]["Ports"] or {}).items()
        for binding in bindings or ()
    }
    assert published == {(service, port, "127.0.0.1") for service, port, _ in ADDRESSES}


def test_images_hold_one_function_and_only_what_it_needs(compose: Compose) -> None:
    assert "pandas" not in run_in(compose, "get-data", "pip list")
    assert "pycurl" not in run_in(compose, "get-data", "pip list")
    assert run_in(compose, "get-data", "ls /app").replace("__pycache__", "").split() == [
        "get_data",
        "main.py",
        "requirements.txt",
        "serving",
    ]
    listed = run_in(compose, "process-users", "ls /app").replace("__pycache__", "").split()
    assert listed == ["main.py", "process_users", "requirements.txt", "serving"]


def test_functions_do_not_hold_the_servers_credentials(compose: Compose) -> None:
    env, found = compose.env(), compose.inspect()
    for service in OURS:
        values = {variable.split("=", 1)[1] for variable in found[service]["Config"]["Env"]}
        assert not values & {env["POSTGRES_PASSWORD"], env["MINIO_ROOT_USER"], env["MINIO_ROOT_PASSWORD"]}, (
            service
        )


def test_each_role_may_do_its_work_and_no_more(compose: Compose) -> None:
    env = compose.env()
    passwords = {
        "process_users": env["PROCESS_USERS_PGPASSWORD"],
        "get_data": env["GET_DATA_PGPASSWORD"],
        "reader": env["PGPASSWORD"],
    }

    def connect(role: str) -> Connection:
        return Connection(
            f"rollcall_{role}", host="127.0.0.1", port=int(env["PGPORT"]), database="rollcall",
            password=passwords[role], ssl_context=False,
        )  # fmt: skip

    assert read_rights_on_postgres(connect) == dict(STATEMENTS)


def test_each_user_may_do_its_work_and_no_more(compose: Compose) -> None:
    env = compose.env()
    root = to_objects(compose, env["MINIO_ROOT_USER"], env["MINIO_ROOT_PASSWORD"])
    for key in ("1.csv", "1.png", "1.JPG", "1.Jpeg", "notes.txt"):
        root.put("src-data", key)
    root.client.make_bucket(bucket_name=OTHERS)
    root.put(OTHERS, "1.csv")
    users = {
        "process-users": to_objects(
            compose, env["PROCESS_USERS_ACCESS_KEY"], env["PROCESS_USERS_SECRET_KEY"]
        ),
        "get-data": to_objects(compose, env["GET_DATA_ACCESS_KEY"], env["GET_DATA_SECRET_KEY"]),
        "uploader": to_objects(compose, env["MINIO_ACCESS_KEY"], env["MINIO_SECRET_KEY"]),
    }
    assert dict(read_rights_on_store(users)) == {name: allowed for name, (_, allowed) in OPERATIONS.items()}
    assert not is_open_to_all(env["MINIO_ENDPOINT"], buckets=("src-data", "processed-data"))


def test_the_uploader_may_log_in_to_the_console(compose: Compose) -> None:
    assert lists_objects(compose, log_in_to_console(compose, compose.env()))


def log_in_to_console(compose: Compose, env: Mapping[str, str]) -> str:
    """Log the uploader in; returns the cookie of the session."""
    login = json.dumps({"accessKey": env["MINIO_ACCESS_KEY"], "secretKey": env["MINIO_SECRET_KEY"]}).encode()
    answer = ask(f"http://{compose.address('minio', 9001)}/api/v1/login", login)
    assert answer.status == 204, answer.data
    return answer.headers["Set-Cookie"].split(";")[0]


def lists_objects(compose: Compose, cookie: str) -> bool:
    """True when this session of the console may see the source bucket."""
    url = f"http://{compose.address('minio', 9001)}/api/v1/buckets/src-data/objects"
    answer = ask(url, headers={"Cookie": cookie})
    return answer.status == 200 and bool(answer.json()["objects"])


def ask(
    url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
) -> urllib3.BaseHTTPResponse:
    """Send one request over a connection of its own: GET, or POST when there is a body."""
    method = "GET" if body is None else "POST"
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        return pool.request(
            method, url, body=body, headers={"Content-Type": "application/json", **(headers or {})}
        )


def test_pgadmin_lets_nobody_in_without_its_login(compose: Compose) -> None:
    pgadmin = PgAdmin(compose)
    assert pgadmin.ask("/browser/").status == 302
    assert pgadmin.ask("/browser/server/nodes/1/").status in (302, 401)
    assert pgadmin.ask("/browser/server/connect/1/1", {"X-pgA-CSRFToken": "x"}, "{}").status in (
        302,
        400,
        401,
    )
    assert pgadmin.log_in("another-password") == "/login"
    assert pgadmin.ask("/browser/").status == 302
    assert pgadmin.ask("/login", {"Host": "elsewhere.example"}).status == 403


def test_pgadmin_knows_the_server_and_asks_for_no_password(compose: Compose) -> None:
    pgadmin = PgAdmin(compose)
    assert pgadmin.log_in(compose.env()["PGADMIN_PASSWORD"]) == "/browser/"
    script = pgadmin.ask("/browser/js/utils.js").data.decode()
    found = re.search(r"csrf_token'\] = '([^']+)'", script)
    assert found, script[:500]
    answer = pgadmin.ask("/browser/server/connect/1/1", {"X-pgA-CSRFToken": found[1]}, "{}").json()
    assert answer["data"]["connected"]
    assert answer["data"]["user"]["name"] == "rollcall_reader"
    for setting in ("enable_psql", "enable_server_passexec_cmd", "enable_binary_path_browsing"):
        assert re.search(rf"{setting}'\] = +'False'", script), setting


def test_pgadmin_holds_its_login_and_the_readers_password_and_no_other(compose: Compose) -> None:
    env = compose.env()
    mine = {env["PGADMIN_PASSWORD"], env["PGPASSWORD"], env["PGUSER"]}
    example = (REPOSITORY / "local" / ".env.example").read_text()
    secrets = {env[name] for name in re.findall(r"(?m)^(\w+)=generate", example)} - mine
    found = compose.inspect()["pgadmin"]
    files = "find /tmp /var/lib/pgadmin /proc/1/environ -type f -exec cat {} + | tr -cd '[:print:]'"
    held = json.dumps(found["Config"]) + run_in(compose, "pgadmin", files)
    assert f"postgres:5432:*:*:{env['PGPASSWORD']}" in held
    assert [secret for secret in secrets if secret in held] == []
    assert read_rights(compose, "pgadmin") == {"Uid": "5050", "CapEff": "0" * 16, "NoNewPrivs": "1"}
    assert "Read-only file system" in run_in(compose, "pgadmin", "touch /pgadmin4/x")


class PgAdmin:
    """A browser at pgAdmin: it keeps cookies and follows nothing."""

    def __init__(self, compose: Compose) -> None:
        self._url = f"http://{compose.address('pgadmin', 5050)}"
        self._email = compose.env()["PGADMIN_EMAIL"]
        self._cookies: dict[str, str] = {}

    def ask(
        self, path: str, headers: Mapping[str, str] | None = None, body: str | None = None
    ) -> urllib3.BaseHTTPResponse:
        """Send one request: GET, or POST when there is a body."""
        cookies = "; ".join(f"{name}={value}" for name, value in self._cookies.items())
        sent = {"Cookie": cookies, **(headers or {})}
        method = "GET"
        if body is not None:
            method, sent = "POST", {"Content-Type": "application/json", **sent}
        with urllib3.PoolManager(retries=False, timeout=120) as pool:
            answer = pool.request(method, self._url + path, body=body, headers=sent, redirect=False)
        for each in answer.headers.getlist("Set-Cookie"):
            name, _, value = each.split(";")[0].partition("=")
            self._cookies[name] = value
        return answer

    def log_in(self, password: str) -> str:
        """Fill in the form; returns where pgAdmin sends the browser."""
        page = self.ask("/login").data.decode()
        token = re.search(r'csrfToken": "([^"]+)"', page)
        assert token, page[:500]
        form = {"email": self._email, "password": password, "csrf_token": token[1]}
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        answer = self.ask("/authenticate/login", headers, urlencode({**form, "internal_button": "Login"}))
        return urlsplit(answer.headers["Location"]).path


# service: the ports of others that it works with. It reaches no other port of any container.
LISTENING = {
    "postgres": (5432,),
    "minio": (9000, 9001),
    "process-users": (8080,),
    "get-data": (8080,),
    "gateway": (8080, 5000),
    "pgadmin": (5050,),
}
NEIGHBOURS = {
    "postgres": {"process-users", "get-data", "pgadmin"},
    "minio": {"process-users"},
    "process-users": {"postgres", "minio", "scheduler", "gateway"},
    "get-data": {"postgres", "gateway"},
    "scheduler": {"process-users"},
    "gateway": {"process-users", "get-data"},
    "pgadmin": {"postgres"},
}


def test_each_service_reaches_what_it_works_with_and_nothing_else(compose: Compose) -> None:
    addresses = {
        service: {network["IPAddress"] for network in found["NetworkSettings"]["Networks"].values()} - {""}
        for service, found in compose.inspect().items()
    }
    for service, neighbours in NEIGHBOURS.items():
        others = {name: ports for name, ports in LISTENING.items() if name != service}
        named = [(name, port) for name in others.keys() & neighbours for port in others[name]]
        assert find_reached(compose, service, named, wait_s=60) == set(named), service
        strangers = [
            (address, port)
            for name in others.keys() - neighbours
            for address in addresses[name]
            for port in others[name]
        ]
        assert find_reached(compose, service, strangers, wait_s=2) == set(), service


def find_reached(
    compose: Compose, service: str, targets: Iterable[tuple[str, int]], *, wait_s: int
) -> set[tuple[str, int]]:
    """Connect from a service's container to each target; returns those that accept."""
    tries = "\n".join(
        f"timeout {wait_s} bash -c '</dev/tcp/{host}/{port}' 2>/dev/null && echo reached {host} {port} &"
        for host, port in targets
    )
    printed = run_in(compose, service, f"{tries}\nwait").splitlines()
    reached = [line.split()[1:] for line in printed if line.startswith("reached ")]
    return {(host, int(port)) for host, port in reached}


def test_only_what_publishes_ports_is_connected_to_the_world(compose: Compose) -> None:
    for service, found in compose.inspect().items():
        names = list(found["NetworkSettings"]["Networks"])
        listed = subprocess.run(
            ["docker", "network", "inspect", *names], capture_output=True, text=True, check=True
        )
        is_outside = any(not network["Internal"] for network in json.loads(listed.stdout))
        assert is_outside == (service in {name for name, _, _ in ADDRESSES}), service


def test_every_service_has_limits(compose: Compose) -> None:
    for service, found in compose.inspect().items():
        host = found["HostConfig"]
        assert 0 < host["Memory"] <= 2 << 30, service
        assert 0 < host["PidsLimit"] <= 1024, service
        assert "no-new-privileges:true" in host["SecurityOpt"], service
        assert host["CapDrop"] in (["ALL"], ["CAP_ALL"]), service


def test_images_hold_no_secrets_and_nothing_that_is_left_out(compose: Compose) -> None:
    found = compose.inspect()
    secrets = [value for value in compose.env().values() if len(value) == SECRET_LENGTH]
    assert secrets
    for service in (*OURS, "setup"):
        image = found[service]["Image"]
        history = subprocess.run(
            ["docker", "history", "--no-trunc", image], capture_output=True, text=True, check=True
        ).stdout
        config = subprocess.run(
            ["docker", "image", "inspect", image], capture_output=True, text=True, check=True
        ).stdout
        assert [secret for secret in secrets if secret in history + config] == [], service
        if service in OURS:
            left = run_in(compose, service, "find /app -name .env -o -name .run -o -name .git -o -name tests")
            assert left == "", service


def test_log_lines_are_json(compose: Compose) -> None:
    for service in (*OURS, "setup"):
        name = compose.inspect()[service]["Id"]
        log = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=True)
        lines = (log.stdout + log.stderr).splitlines()
        assert lines, service
        assert all(isinstance(json.loads(line), dict) for line in lines), service
        assert find_disclosures(log.stdout + log.stderr, compose.env()) == []


def test_logs_are_limited_and_services_come_back(compose: Compose) -> None:
    for service, found in compose.inspect().items():
        host = found["HostConfig"]
        assert host["LogConfig"]["Config"] == {"max-size": "10m", "max-file": "3"}, service
        assert host["RestartPolicy"]["Name"] == ("no" if service == "setup" else "unless-stopped"), service


def test_a_killed_function_is_started_again(compose: Compose) -> None:
    stack = to_stack(compose)
    # From outside of its container: the first process of a container cannot be killed from within.
    pid = compose.inspect()["get-data"]["State"]["Pid"]
    os.kill(pid, signal.SIGKILL)
    scenario.wait_until(
        lambda: (
            compose.inspect()["get-data"]["State"]["Pid"] not in (0, pid)
            and stack.request("GET", "/data?limit=1")[0] == 200
        ),
        timeout_s=60,
        what="get-data is back",
    )


def test_dependencies_may_go_and_come_back(compose: Compose) -> None:
    stack = to_stack(compose)
    compose.run("stop", "--timeout", "5", "postgres")
    try:
        status, headers, body = stack.request("GET", "/data")
        assert (status, "retry-after" in headers, json.loads(body)["code"]) == (
            503,
            True,
            "database_unavailable",
        )
        assert stack.request("GET", "/healthz")[0] == 200
    finally:
        compose.up()  # at another port, which the file names then
    stack = to_stack(compose)
    scenario.wait_until(
        lambda: stack.request("GET", "/data?limit=1")[0] == 200, timeout_s=60, what="data is served again"
    )
    assert stack.run()["state"] == "ok"


def test_a_restored_backup_brings_back_what_only_the_database_knew(compose: Compose, tmp_path: Path) -> None:
    """By the documented commands; what the bucket got since then is settled by the next run."""
    stack = to_stack(compose)
    stack.put("kept.csv", scenario.record("Kept", "Once", 1))
    stack.run()
    stack.put("kept.csv", "broken since")
    stack.run()
    want, table = stack.get("/data"), stack.read_table()
    assert want["kept"]["last_name"] == "Once"
    places = {
        "make ": f"make COMPOSE='{' '.join(compose.command)}' COMPOSE_PROJECT={PROJECT} "
        f"ENV_FILE={compose.env_file} PYTHON={sys.executable} ",
        "rollcall.dump": str(tmp_path / "rollcall.dump"),
    }
    type_in(find_blocks("infra/OPERATIONS.md", "make backup")[0], places)
    stack.put("later.csv", scenario.record("Later", "Than", 2))
    lose = ["psql", "--username=postgres", "--command=truncate users, ledger", "rollcall"]
    compose.run("exec", "-T", "postgres", *lose)

    type_in(find_blocks("infra/OPERATIONS.md", "make restore")[0], places)

    stack = to_stack(compose)  # at other ports, perhaps
    stack.run()
    assert stack.get("/data") == {**want, "later": stack.get("/data/later")}
    rows = stack.read_table()
    assert rows.pop("later")["last_name"] == "Than"
    assert rows == table
    scenario.check_all_agree(stack)


def find_blocks(page: str, text: str) -> list[Block]:
    """Return the blocks of a page that hold a text; there is one at least."""
    found = [block for block in read_blocks(page) if text in block.code]
    assert found, text
    return found


def type_in(block: Block, places: Mapping[str, str]) -> str:
    """Do at the root of the repository what a page says."""
    env = {**clean_environment(), **choose_builder()}
    return run_block(block, folder=REPOSITORY, env=env, places=places, limit_s=UP_TIMEOUT_S)


def test_a_function_runs_on_the_host(compose: Compose, tmp_path: Path) -> None:
    """As the page about working on Rollcall says."""
    port = choose_port()
    places = {
        "local/.env": str(compose.env_file),
        "../../.venv": sys.prefix,
        "--port 8081": f"--port {port}",
    }
    block = find_blocks("local/README.md", "functions-framework")[0]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            to_command(block, places), cwd=REPOSITORY, env=clean_environment(),
            stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
    try:
        scenario.wait_until(lambda: http_status(port, "/readyz") == 200, timeout_s=60, what="the function")
        assert scenario.Stack.from_env(compose.env(), f"http://127.0.0.1:{port}").run()["state"] == "ok"
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(40)


def test_images_and_set_up_are_made_as_the_page_of_production_says(compose: Compose, tmp_path: Path) -> None:
    build, set_up = find_blocks("infra/PRODUCTION.md", "docker ")
    type_in(build, {})
    variables = compose.inspect()["setup"]["Config"]["Env"]
    (tmp_path / "setup.env").write_text("\n".join(line for line in variables if not line.startswith("PATH=")))
    with connect_servers(compose) as network:
        places = {"setup.env": str(tmp_path / "setup.env"), "docker run": f"docker run --network {network}"}
        lines = [json.loads(line) for line in type_in(set_up, places).splitlines()]
    assert lines[-1]["event"] == "setup.done"
    assert not any(line.get("created") or line.get("applied") or line.get("changed") for line in lines)


@contextmanager
def connect_servers(compose: Compose) -> Iterator[str]:
    """One network with both servers, as others may have it."""
    name, found = f"{PROJECT}-elsewhere", compose.inspect()
    servers = {service: found[service]["Id"] for service in ("postgres", "minio")}

    def run(*arguments: str) -> None:
        subprocess.run(["docker", "network", *arguments], capture_output=True, check=True)

    run("create", "--internal", name)  # a way outside would give the published ports other numbers
    try:
        for service, container in servers.items():
            run("connect", "--alias", service, name, container)
        yield name
    finally:
        for container in servers.values():
            run("disconnect", "--force", name, container)
        run("rm", name)


def test_everything_killed_in_a_run_is_completed_by_the_next(compose: Compose) -> None:
    stack = to_stack(compose)
    for number in range(400):
        stack.put(f"killed-{number}.csv", scenario.record("Kill", "Nine", number))
    connection = HTTPConnection(compose.address("gateway", 8080), timeout=60)
    connection.request("POST", "/data?full=true")
    time.sleep(0.3)
    compose.run("kill", "--signal", "SIGKILL")
    connection.close()

    compose.up()

    stack = to_stack(compose)
    assert stack.run()["state"] == "ok"
    served = stack.get("/data")
    assert all(f"killed-{number}" in served for number in range(400))
    scenario.check_all_agree(stack)


def test_down_keeps_the_data_and_changed_settings_are_applied(compose: Compose) -> None:
    stack, before = to_stack(compose), compose.env()
    want = stack.get("/data")
    # as a pgAdmin of before left it, with a configuration that knew no login
    run_in(compose, "pgadmin", "echo nonsense > /var/lib/pgadmin/pgadmin4.db")
    console = log_in_to_console(compose, before)
    compose.down()
    text = compose.env_file.read_text()
    for name in (
        *("PGPASSWORD", "GET_DATA_PGPASSWORD", "PROCESS_USERS_SECRET_KEY"),
        *("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "PGADMIN_PASSWORD"),
    ):
        text = text.replace(before[name], before[name][::-1])
    text = text.replace("PROCESS_INTERVAL_S=3600", "PROCESS_INTERVAL_S=2")
    text = text.replace("API_TOKEN=\n", "API_TOKEN=a-token\n")
    write_private(compose.env_file, text)

    compose.up()

    pgadmin, after = PgAdmin(compose), compose.env()
    assert pgadmin.log_in(before["PGADMIN_PASSWORD"]) == "/login"
    assert pgadmin.log_in(after["PGADMIN_PASSWORD"]) == "/browser/"
    assert not lists_objects(compose, console)
    assert lists_objects(compose, log_in_to_console(compose, after))
    url = f"http://{compose.address('gateway', 8080)}"
    token = {"Authorization": "Bearer a-token"}
    assert ask(f"{url}/data").status == 401
    assert ask(f"{url}/data", headers=token).json() == want
    # The scheduler sees by itself what the uploader puts with its new key.
    scenario.Stack.from_env(compose.env(), url).put("by-itself.csv", scenario.record("By", "Itself", 1))
    scenario.wait_until(
        lambda: "by-itself" in ask(f"{url}/data", headers=token).json(),
        timeout_s=30,
        what="the scheduler has run",
    )


def test_up_says_which_service_fails_and_why(compose: Compose) -> None:
    """Last of all: it leaves the stack broken."""
    text = compose.env_file.read_text()
    write_private(compose.env_file, text.replace("ON_SOURCE_DELETE=keep", "ON_SOURCE_DELETE=perhaps"))
    with pytest.raises(AssertionError, match="ON_SOURCE_DELETE is 'perhaps', wanted keep or remove"):
        compose.up()
