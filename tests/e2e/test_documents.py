"""What the documentation says to type is typed here, and what it says is printed is compared."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import urllib3
from documents import agrees, is_for_containers, read_blocks, run_block

from rollcall.processes import wait_until
from rollcall.run_directory import read_variables
from rollcall.servers import packaged_programs
from rollcall.stack import REPOSITORY

ADDRESS = "http://127.0.0.1:8080"
START_S = 120
ANY_PORTS = {"GATEWAY_PORT": "0", "GATEWAY_PORT_2": "0", "POSTGRES_PORT": "0", "MINIO_PORT": "0"}


@pytest.fixture
def clone() -> Iterator[Path]:
    """A folder like a clone, where `make run` is at work and its `.run` is."""
    place = Path(tempfile.mkdtemp(prefix="rollcall-test-"))
    for entry in REPOSITORY.iterdir():
        if entry.name not in (".git", ".run"):
            (place / entry.name).symlink_to(entry)
    env = {**os.environ, **ANY_PORTS, "RUN_DIR": str(place / ".run")}
    with (place / "output").open("wb") as output:
        process = subprocess.Popen(
            ["make", "run", f"VENV={sys.prefix}"],
            cwd=REPOSITORY,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        wait_for_users(process, place)
        yield place
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)
        clean = [sys.executable, "-m", "rollcall.clean"]
        env |= {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / folder) for folder in ("functions", "local"))}
        subprocess.run(clean, cwd=REPOSITORY, env=env, check=True, capture_output=True)
        shutil.rmtree(place)


def wait_for_users(process: subprocess.Popen[bytes], clone: Path) -> None:
    def has_said(text: str) -> bool:
        return text in (clone / "output").read_text() or process.poll() is not None

    wait_until(lambda: has_said("Ctrl-C stops it"), timeout_s=START_S, what="ready")
    assert process.poll() is None, (clone / "output").read_text()
    url = read_variables(clone / ".run" / "env")["ROLLCALL_URL"]
    assert has_said(f"ready: {url}\n")
    # On a busy machine `make run` does not wait for the end of its first run.
    wait_until(lambda: urllib3.request("GET", f"{url}/stats").json()["last_run"], timeout_s=60, what="a run")


@pytest.mark.parametrize(
    ("page", "least"), [("README.md", 3), ("functions/get-data/ANALYSIS.md", 4), ("local/README.md", 1)]
)
def test_what_a_page_says_to_type_prints_what_it_shows(page: str, least: int, clone: Path):
    blocks = [block for block in read_blocks(page) if not is_for_containers(block)]
    if page == "README.md":
        assert blocks.pop(0).code == "make run\n"
    places = {ADDRESS: read_variables(clone / ".run" / "env")["ROLLCALL_URL"]}
    (clone / ".curlrc").write_text("fail-with-body\nno-progress-meter\n")
    path = os.pathsep.join((os.environ["PATH"], str(packaged_programs() / "bin")))
    env = {**os.environ, "PATH": path, "CURL_HOME": str(clone), "COLUMNS": "120"}
    for block in blocks:
        got = run_block(block, folder=clone, env=env, places=places)
        assert block.shown is None or agrees(got, block.shown), f"{block.code}\nprints:\n{got}"
    assert len(blocks) >= least
