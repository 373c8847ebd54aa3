"""The commands: what reaches the programs that they run, and what they say where something is missing."""

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import pytest
from documents import read_text
from rig import REPOSITORY

TOOLS = ("make", "sh", "env", "test", "sed", "awk", "touch", "rm", "mv", "dirname", "python3")
SECRET = re.compile(r".*(TOKEN|PASSWORD|ACCESS_KEY|SECRET_KEY)")


def make(tmp_path: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run make where nothing but its own tools is installed."""
    tools = tmp_path / "bin"
    tools.mkdir(exist_ok=True)
    for name in TOOLS:
        if not (tools / name).exists():
            (tools / name).symlink_to(shutil.which(name) or f"/usr/bin/{name}")
    return subprocess.run(
        ["make", *arguments],
        cwd=REPOSITORY,
        env={"PATH": str(tools), "HOME": str(tmp_path), **environment},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "want"),
    [
        (["local-up"], "This needs Docker with its compose command (make run does not).\n"),
        (["local-down"], "This needs Docker with its compose command (make run does not).\n"),
        (
            ["run", "PYTHON=python9", "VENV=none"],
            "There is no python9 here: name another one, as in make run PYTHON=python3.13\n",
        ),
        (
            ["local-up", "PYTHON=python9"],
            "There is no python9 here: name another one, as in make run PYTHON=python3.13\n",
        ),
    ],
)
def test_what_is_missing_is_named(tmp_path: Path, arguments: list[str], want: str):
    done = make(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(want)
    assert done.stderr.count("\n") == 2  # and the one of make itself
    assert not (REPOSITORY / "none").exists()


@pytest.mark.compose
def test_docker_that_does_not_answer(tmp_path: Path):
    environment = {"DOCKER_HOST": f"unix://{tmp_path}/nobody.sock", "PATH": os.environ["PATH"]}
    done = make(tmp_path, "local-up", f"ENV_FILE={tmp_path / '.env'}", **environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Cannot connect to the Docker daemon" in done.stderr
    assert "Start Docker, or see that you may use it; make run needs none.\n" in done.stderr
    assert not (tmp_path / ".env").exists()


class Recorder:
    """A program that writes down how it was called, as the Python of a virtual environment."""

    def __init__(self, place: Path) -> None:
        self.venv = place / "venv"
        self.program = self.venv / "bin" / "python"
        self.program.parent.mkdir(parents=True)
        self.program.write_text(
            f'#!/bin/sh\nprintf "%s\\n" "$@" > "{place}/arguments"\nenv -0 > "{place}/env"\n'
        )
        self.program.chmod(0o755)
        for age, name in enumerate((".tests", ".runtime", ".python")):  # or make would make them
            (self.venv / name).touch()
            at = time.time() - age
            os.utime(self.venv / name, times=(at, at))
        (self.venv / "dlt").mkdir()
        (self.venv / "dlt" / ".peer").touch()
        self._place = place

    def arguments(self) -> list[str]:
        return (self._place / "arguments").read_text().splitlines()

    def env(self) -> dict[str, str]:
        pairs = (self._place / "env").read_text().split("\0")
        return dict(pair.split("=", 1) for pair in pairs if pair)


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    return Recorder(tmp_path)


def list_settings() -> set[str]:
    """Return the variables of the functions, and those of `make run` and `make local-up`."""
    _, _, functions = read_text("functions/README.md").partition("## Settings\n")
    _, _, stacks = read_text("local/README.md").partition("## Ports and other settings\n")
    texts = (functions.partition("\n## ")[0], stacks.partition("\n## ")[0])
    return {name for text in texts for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", text)}


OF_COMMANDS = {
    "run": list_settings() | {"PYTHON", "ENV_FILE"},
    "upload": {"DIR", "STACK", "RUN_DIR", "ENV_FILE"},
    "process": {"QUERY", "STACK", "RUN_DIR", "ENV_FILE", "ROLLCALL_URL", "API_TOKEN"},
    "clean": {"RUN_DIR"},
    "test-browser": {"CHROMIUM", "MINIO_BINARY"},
    "bench": {"MINIO_BINARY"},
    "test-faults-short": {
        *("FAULTS_HISTORIES", "FAULTS_KILLS", "FAULTS_STEPS_APART"),
        *("FAULTS_OUTAGES", "FAULTS_SOAK_S", "FAULTS_READERS", "FAULTS_SEED"),
    },
    "test-hostile": {
        *("HOSTILE_CUTS", "HOSTILE_REQUESTS", "HOSTILE_RECORDS_A_KIND"),
        *("HOSTILE_SLOW_READERS_S", "HOSTILE_SEED"),
    },
}


@pytest.mark.parametrize("is_before", [True, False], ids=["before make", "after the target"])
@pytest.mark.parametrize("target", OF_COMMANDS)
def test_every_variable_reaches_the_program_that_reads_it(
    tmp_path: Path, recorder: Recorder, target: str, is_before: bool
):
    """Whatever is in it: quotes, blanks and dollar signs too."""
    want = {name: f"{name.lower()} 'a' \"b\" `c` $(d)" for name in OF_COMMANDS[target]}
    if "PYTHON" in want or target == "clean":
        want["PYTHON"] = str(recorder.program)
    secrets = {name: value for name, value in want.items() if SECRET.fullmatch(name)}
    before: Mapping[str, str] = want if is_before else secrets
    behind = {name: value for name, value in want.items() if name not in before}
    given = [f"{name}={value.replace('$', '$$')}" for name, value in behind.items()]
    done = make(tmp_path, target, f"VENV={recorder.venv}", *given, **before)
    assert done.returncode == 0, done.stderr
    got = recorder.env()
    assert {name: got.get(name) for name in want} == want
    assert not any(value in argument for value in secrets.values() for argument in recorder.arguments())


def test_what_make_reads_itself_reaches_it(tmp_path: Path, recorder: Recorder):
    (tmp_path / "settings $x").touch()
    settings = {
        "COMPOSE": str(recorder.program),
        "COMPOSE_PROJECT": "a project",
        "ENV_FILE": str(tmp_path / "settings $x"),
        "JOBS": "3",
    }
    make(tmp_path, "bin")  # for its directory of tools
    (tmp_path / "bin" / "docker").symlink_to("/bin/true")
    for before, behind in (
        (settings, []),
        ({}, [f"{k}={v.replace('$', '$$')}" for k, v in settings.items()]),
    ):
        assert make(tmp_path, "local-down", *behind, **before).returncode == 0
        arguments = recorder.arguments()
        assert arguments[arguments.index("--project-name") + 1] == "a project"
        assert arguments[arguments.index("--env-file") + 1] == settings["ENV_FILE"]
        dump = tmp_path / "a 'dump' \"of\" $today"
        file = {"FILE": str(dump)} if before else {}
        given = [] if before else [f"FILE={str(dump).replace('$', '$$')}"]
        done = make(tmp_path, "backup", *behind, *given, **before, **file)
        assert done.returncode == 0, done.stderr
        assert dump.stat().st_mode & 0o777 == 0o600
        dump.unlink()
        assert make(tmp_path, "test", f"VENV={recorder.venv}", *behind, **before).returncode == 0
        arguments = recorder.arguments()
        assert arguments[arguments.index("-n") + 1] == "3"


@pytest.mark.parametrize(
    "name", ["API_TOKEN", "EVENTS_TOKEN", "PGPASSWORD", "MINIO_SECRET_KEY", "GET_DATA_PGPASSWORD"]
)
def test_a_secret_behind_make_is_refused(tmp_path: Path, recorder: Recorder, name: str):
    """Every account of the machine can read it there."""
    done = make(tmp_path, "process", f"VENV={recorder.venv}", f"{name}=s3cret")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"set {name} before it, as in {name}=... make process" in done.stderr
    assert "s3cret" not in done.stderr
    assert not (tmp_path / "env").exists()


@pytest.mark.parametrize("venv", ["", "two words"])
def test_a_virtual_environment_that_make_cannot_name_is_refused(tmp_path: Path, venv: str):
    done = make(tmp_path, "clean", f"VENV={venv}")
    assert (done.returncode, done.stdout) == (2, "")
    assert f"VENV is '{venv}', wanted a directory whose path has no blanks" in done.stderr


def test_make_clean_leaves_alone_what_it_did_not_make(tmp_path: Path):
    (tmp_path / "letter").touch()
    done = make(tmp_path, "clean", f"PYTHON={sys.executable}", f"VENV={tmp_path}", RUN_DIR="/nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        f"{tmp_path} holds more than a virtual environment: set VENV to another place"
    )
    assert (tmp_path / "letter").exists()
