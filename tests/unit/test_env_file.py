import re
import stat
from pathlib import Path

from rollcall.env_file import fill_in, main

EXAMPLE = """# Passwords: generate
POSTGRES_PASSWORD=generate
UPLOADER_ACCESS_KEY=generate  \nGATEWAY_PORT=8080
API_TOKEN=
NOTE=generated elsewhere
"""


def test_each_marker_becomes_a_secret_of_its_own_and_all_else_stays():
    got = fill_in(EXAMPLE).splitlines()
    secrets = [line.partition("=")[2] for line in got[1:3]]
    assert all(re.fullmatch(r"[A-Za-z0-9]{32}", secret) for secret in secrets)
    assert len(set(secrets)) == 2
    assert [got[0], *got[3:]] == [EXAMPLE.splitlines()[0], *EXAMPLE.splitlines()[3:]]


def test_the_file_is_private_and_written_once(tmp_path: Path):
    example, target = tmp_path / ".env.example", tmp_path / ".env"
    example.write_text(EXAMPLE)
    main(example, target)
    first = target.read_text()
    main(example, target)
    assert target.read_text() == first
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
