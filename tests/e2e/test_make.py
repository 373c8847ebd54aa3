"""What the commands say where something is missing: one or two lines, and no traceback."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from rig import REPOSITORY

TOOLS = ("make", "sh", "env", "test", "sed", "awk", "touch", "rm", "dirname", "python3")


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
