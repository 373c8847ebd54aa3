import re
import stat
from pathlib import Path

import pytest
from rig import REPOSITORY

from rollcall.env_file import fill_in, main
from rollcall.private_files import write_private
from rollcall.ready import read_variable

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


def write(tmp_path: Path, text: str) -> tuple[Path, Path]:
    example, target = tmp_path / ".env.example", tmp_path / ".env"
    example.write_text(
        "# Settings\nGATEWAY_PORT=8080\nINTERVAL_S=1500\nPOSTGRES_PASSWORD=generate\nLEVEL=info\n"
    )
    target.write_text(text)
    target.chmod(0o600)
    return example, target


def test_what_an_older_file_lacks_is_added(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example, target = write(tmp_path, "GATEWAY_PORT=1\nLEVEL=debug")
    assert main(example, target) == 0
    got = target.read_text()
    assert re.fullmatch(
        r"GATEWAY_PORT=1\nLEVEL=debug\nINTERVAL_S=1500\nPOSTGRES_PASSWORD=[A-Za-z0-9]{32}\n", got
    )
    assert capsys.readouterr().out == f"{target} has got what it lacked: INTERVAL_S, POSTGRES_PASSWORD\n"
    assert main(example, target) == 0
    assert (target.read_text(), capsys.readouterr().out) == (got, "")


def test_a_line_of_another_form_is_told_and_neither_replaced_nor_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    text = (
        "GATEWAY_PORT=1\n  POSTGRES_PASSWORD=hunter2\nPOSTGRES_PASSWORD: hunter2\n"
        "export POSTGRES_PASSWORD=hunter2\n=hunter2\n"
    )
    example, target = write(tmp_path, text)
    assert main(example, target) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{target}: line 2: begins with a blank",
        f"{target}: line 3: 'POSTGRES_PASSWORD' is not of the form NAME=value",
        f"{target}: line 4: 'export' is not of the form NAME=value",
        f"{target}: line 5: '=' is not of the form NAME=value",
    ]
    assert target.read_text() == text


def test_everything_that_is_wrong_is_named_with_its_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    text = (
        "GATEWAY_PORT=web\nGATEWAY_PORT=65536\n# so\nINTERVAL_S=0\nPOSTGRES_PASSWORD=\n"
        "LEVEL\nLEVLE=info\nLEVEL=any\n"
    )
    example, target = write(tmp_path, text)
    assert main(example, target) == 1
    assert capsys.readouterr().err.splitlines() == [
        f"{target}: line 1: GATEWAY_PORT is 'web', wanted a port from 0 to 65535",
        f"{target}: line 2: GATEWAY_PORT is '65536', wanted a port from 0 to 65535",
        f"{target}: line 4: INTERVAL_S is '0', wanted a whole number from 1 on",
        f"{target}: line 5: POSTGRES_PASSWORD has no value, wanted a password or key",
        f"{target}: line 6: 'LEVEL' is not of the form NAME=value",
        f"{target}: line 7: LEVLE is no setting: local/.env.example has all there are",
    ]
    assert target.read_text() == text


def test_windows_line_ends_are_told_for_every_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example, target = write(tmp_path, "")
    text = "GATEWAY_PORT=8080\r\nINTERVAL_S=1500\r\n\r\n# so\r\nPOSTGRES_PASSWORD=hunter2\r\nLEVEL=\r\n"
    target.write_bytes(text.encode())
    assert main(example, target) == 1
    err = capsys.readouterr().err
    ending = "ends with a carriage return, as every line of a file with Windows line ends (CRLF) does"
    assert err.splitlines() == [
        f"{target}: line {number}: {name} {ending}"
        for number, name in ((1, "GATEWAY_PORT"), (2, "INTERVAL_S"), (5, "POSTGRES_PASSWORD"), (6, "LEVEL"))
    ]
    assert target.read_bytes() == text.encode()


def test_values_that_no_program_would_accept_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    wrong = {
        "SOURCE_BUCKET": "processed_data",
        "SOURCE_PREFIX": "/in/",
        "ON_SOURCE_DELETE": "drop",
        "LOG_LEVEL": "loud",
        "API_TOKEN": "hünter2",
        "EVENTS_TOKEN": "hunter2 ",
        "MINIO_SECRET_KEY": "hunter2",
        "MINIO_ROOT_USER": "mi",
        "POSTGRES_PASSWORD": "hunter$2",
        "PGPASSWORD": "hunter2\t",
        "EXPORT_MAX_S": "86401",
        "SAMPLE_DATA": "yes",
    }
    target = tmp_path / ".env"
    target.write_text("".join(f"{name}={value}\n" for name, value in wrong.items()))
    assert main(REPOSITORY / "local" / ".env.example", target) == 1
    err = capsys.readouterr().err
    assert [line.split()[3] for line in err.splitlines()] == list(wrong)
    assert "unter" not in err


def test_quotes_around_a_value_are_no_part_of_it(tmp_path: Path):
    example, target = write(
        tmp_path, "GATEWAY_PORT=\"8080\"\nINTERVAL_S='5'\nPOSTGRES_PASSWORD='a b'\nLEVEL=x\n"
    )
    assert main(example, target) == 0


@pytest.mark.parametrize("value", ["1", "65536", "86400"])
def test_an_export_may_take_as_long_as_its_function_lets_it(tmp_path: Path, value: str):
    example, target = tmp_path / ".env.example", tmp_path / ".env"
    example.write_text("EXPORT_MAX_S=3600\n")
    write_private(target, f"EXPORT_MAX_S={value}\n")
    assert main(example, target) == 0


@pytest.mark.parametrize("name", ["GATEWAY_PORT_2", "POSTGRES_PORT"])
def test_a_port_is_in_ascii_digits(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    example, target = tmp_path / ".env.example", tmp_path / ".env"
    example.write_text(f"{name}=5000\n")
    write_private(target, f"{name}=\u0665\u0660\u0660\u0660\n")
    assert main(example, target) == 1
    assert "wanted a port from 0 to 65535" in capsys.readouterr().err


def test_a_quoted_variable_is_read_without_its_quotes(tmp_path: Path):
    target = tmp_path / ".env"
    target.write_text("""A="5000"\nB='5001'\nC=5002\n""")
    assert [read_variable(target, name) for name in ("A", "B", "C", "D")] == ["5000", "5001", "5002", ""]


def test_the_example_is_accepted(tmp_path: Path):
    example, target = REPOSITORY / "local" / ".env.example", tmp_path / ".env"
    assert (main(example, target), main(example, target)) == (0, 0)


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    example, _ = write(tmp_path, "")
    assert main(example, tmp_path / "nowhere" / ".env") == 1
    assert "No such file or directory" in capsys.readouterr().err
