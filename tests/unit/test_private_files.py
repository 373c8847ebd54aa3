"""State that another account may have prepared is refused; nothing is written through a link."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from rig import REPOSITORY

from rollcall import clean, env_file
from rollcall.private_files import (
    NotOursError,
    check_ours,
    check_parents,
    check_readable,
    open_log,
    open_private,
    write_private,
)
from rollcall.processes import Register, StartError
from rollcall.run_directory import PARTS, claim
from rollcall.whereabouts import NotUpError, find_stack

OTHER = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to another account")


def give_away(path: Path) -> None:
    os.chown(path, OTHER, OTHER, follow_symlinks=False)


def claimed(path: Path) -> Path:
    """Return a directory that `make run` used and left."""
    with claim(path) as directory:
        directory.read_secrets()
        write_private(directory.env, "ROLLCALL_URL=http://127.0.0.1:9\n")
        write_private(directory.processes, "[]")
        directory.log("s3").touch()
        directory.home("gateway")
        directory.buckets.mkdir()
        directory.postgres.mkdir()
    return path


def snapshot(path: Path) -> dict[str, bytes | None]:
    return {
        str(each): each.read_bytes() if each.is_file() and not each.is_symlink() else None
        for each in sorted(path.rglob("*"))
    }


@needs_root
def test_what_another_account_owns_is_refused(tmp_path: Path):
    file = tmp_path / "file"
    file.touch()
    check_ours(file)
    give_away(file)
    with pytest.raises(NotOursError, match=f"^{file} belongs to nobody, and you are root$"):
        check_ours(file)
    with pytest.raises(NotOursError):
        check_readable(file)
    with pytest.raises(NotOursError):
        open_private(file)


def test_what_others_may_write_and_what_is_no_file_is_refused(tmp_path: Path):
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    file.touch()
    file.chmod(0o602)
    link.symlink_to(file)
    os.mkfifo(pipe)
    for path, want in (
        (file, f"other accounts may write to {file} (chmod go-w {file} ends that)"),
        (link, f"{link} is a link, which can lead anywhere"),
        (pipe, f"{pipe} is neither a file nor a directory"),
    ):
        with pytest.raises(NotOursError, match=f"^{re.escape(want)}$"):
            check_ours(path)
        with pytest.raises(NotOursError):
            open_private(path)
    check_ours(tmp_path / "missing")


def test_a_directory_that_everybody_may_change_is_no_place_for_state(tmp_path: Path):
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    with pytest.raises(NotOursError, match=f"{shared} is writable by everybody"):
        check_parents(shared / "below" / "run")
    shared.chmod(0o1777)  # as /tmp
    check_parents(shared / "below" / "run")


@needs_root
def test_nor_is_one_below_a_link_of_another_account(tmp_path: Path):
    (tmp_path / "place").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "place")
    check_parents(tmp_path / "link" / "run")
    give_away(tmp_path / "link")
    with pytest.raises(NotOursError, match=f"{tmp_path / 'link'} belongs to nobody"):
        check_parents(tmp_path / "link" / "run")


def append_private(path: Path) -> None:
    with open_private(path) as file:
        file.write("new")


def append_log(path: Path) -> None:
    with open_log(path) as file:
        file.write(b"new")


def replace_private(path: Path) -> None:
    write_private(path, "new")


@pytest.mark.parametrize("write", [append_private, append_log, replace_private])
@pytest.mark.parametrize("name", ["state", "state.new"])
def test_nothing_is_written_through_a_link(tmp_path: Path, write: Callable[[Path], None], name: str):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / name).symlink_to(victim)
    try:
        write(tmp_path / "state")
    except (OSError, NotOursError):
        assert name == "state"
    assert victim.read_text() == "mine"


def test_a_run_directory_is_used_again_with_its_secrets(tmp_path: Path):
    path = claimed(tmp_path / "run")
    secrets = (path / "secrets").read_text()
    with claim(path) as directory:
        directory.read_secrets()
    assert (path / "secrets").read_text() == secrets
    assert path.stat().st_mode & 0o777 == 0o711


@pytest.mark.parametrize(
    "part", [*(name for name in PARTS if "new" not in name), "logs/s3.log", "home/gateway", "."]
)
@pytest.mark.parametrize("how", ["link", "writable", pytest.param("owner", marks=needs_root)])
def test_a_part_of_it_that_another_account_may_have_prepared_is_refused(tmp_path: Path, part: str, how: str):
    """And nothing is written then, nor is it removed by make clean."""
    path = claimed(tmp_path / "run")
    where = path if part == "." else path / part
    if how == "link":
        where.rename(tmp_path / "elsewhere")
        where.symlink_to(tmp_path / "elsewhere")
    elif how == "owner":
        give_away(where)
    else:
        where.chmod(where.stat().st_mode | 0o002)
    before = snapshot(tmp_path)
    with pytest.raises(StartError) as raised, claim(path):
        pass
    assert "Set RUN_DIR to a directory of yours, new or empty" in str(raised.value)
    assert clean.main({"RUN_DIR": str(path)}) == 1
    after = snapshot(tmp_path)
    ours = str(path / "lock")
    assert {name: text for name, text in after.items() if name != ours} == {
        name: text for name, text in before.items() if name != ours
    }


def test_secrets_that_others_could_read_are_private_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = claimed(tmp_path / "run")
    (path / "secrets").chmod(0o644)
    with claim(path):
        pass
    assert (path / "secrets").stat().st_mode & 0o777 == 0o600
    assert f"{path / 'secrets'} was readable by other accounts" in capsys.readouterr().out


def test_the_lock_of_an_earlier_release_is_known(tmp_path: Path):
    path = claimed(tmp_path / "run")
    (path / "lock").write_text("1234\n")
    with claim(path):
        pass
    assert (path / "lock").read_text().startswith("make run of Rollcall made this directory")


@pytest.mark.parametrize(
    "files",
    [
        {"lock": "", "letter": "mine"},
        {"lock": "1234\n"},
        {"lock": "1234\n", "logs": "", "letter": "mine"},
        {"letter": "mine"},
        {"lock": "somebody's\n"},
    ],
)
def test_a_directory_with_a_lock_of_another_program_stays_as_it_is(
    tmp_path: Path, files: dict[str, str], capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "mine"
    path.mkdir()
    for name, text in files.items():
        (path / name).write_text(text)
    before = snapshot(path)
    assert clean.main({"RUN_DIR": str(path)}) == 1
    assert capsys.readouterr().err == f"{path} was not made by make run, so it stays\n"
    with pytest.raises(StartError, match="holds files that make run did not make"), claim(path):
        pass
    assert snapshot(path) == before


def test_make_clean_removes_what_make_run_made_and_nothing_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path, elsewhere = claimed(tmp_path / "run"), tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "picture.png").touch()
    (path / "buckets" / "src-data").symlink_to(elsewhere)
    (path / "letter").write_text("mine")
    assert clean.main({"RUN_DIR": str(path)}) == 0
    assert capsys.readouterr().out == f"removed {path}, except what make run did not make: letter\n"
    assert snapshot(tmp_path).keys() == {
        *(str(each) for each in (path, path / "letter", elsewhere, elsewhere / "picture.png"))
    }
    again = claimed(tmp_path / "again")
    assert clean.main({"RUN_DIR": str(again)}) == 0
    assert not again.exists()


def test_make_clean_does_not_follow_a_link_to_a_run_directory(tmp_path: Path):
    path = claimed(tmp_path / "run")
    (tmp_path / "link").symlink_to(path)
    before = snapshot(tmp_path)
    assert clean.main({"RUN_DIR": str(tmp_path / "link")}) == 1
    assert snapshot(tmp_path) == before


@needs_root
def test_a_link_to_a_place_of_postgres_that_is_not_ours_is_not_followed(tmp_path: Path):
    path = claimed(tmp_path / "run")
    victim = tmp_path / "rollcall-postgres-x"
    victim.mkdir()
    (victim / "file").touch()
    (path / "postgres").rmdir()
    (path / "postgres").symlink_to(victim)
    with pytest.raises(StartError, match="postgres is a link"), claim(path):
        pass
    assert (victim / "file").exists()


@pytest.mark.parametrize("how", ["link", "writable", pytest.param("owner", marks=needs_root)])
def test_nobody_else_chooses_which_processes_are_killed(tmp_path: Path, how: str):
    register = tmp_path / "processes.json"
    real = tmp_path / "real.json"
    with subprocess.Popen(["sleep", "600"]) as sleeper:
        try:
            entry = {"name": "x", "pid": sleeper.pid, "created": 0, "arguments": ["600"]}
            real.write_text(json.dumps([entry]))
            if how == "link":
                register.symlink_to(real)
            else:
                real.rename(register)
                register.chmod(0o666) if how == "writable" else give_away(register)
            with pytest.raises(NotOursError):
                Register(register).end_leftovers()
            assert sleeper.poll() is None
        finally:
            sleeper.kill()


@pytest.mark.parametrize("text", ["", "{", "[1]", '[{"pid": 1}]', '{"a": {}}'])
def test_a_damaged_register_is_named(tmp_path: Path, text: str):
    register = tmp_path / "processes.json"
    write_private(register, text)
    with pytest.raises(StartError, match=f"^{register} is damaged"):
        Register(register).end_leftovers()


@pytest.mark.parametrize("how", ["link", "writable", pytest.param("owner", marks=needs_root)])
def test_no_address_is_taken_from_settings_that_another_account_may_have_written(tmp_path: Path, how: str):
    """Files and tokens would go there."""
    file, real = tmp_path / "env", tmp_path / "real"
    write_private(real, "ROLLCALL_URL=http://127.0.0.1:9\n")
    if how == "link":
        file.symlink_to(real)
    else:
        real.rename(file)
        file.chmod(0o606) if how == "writable" else give_away(file)
    with pytest.raises(NotUpError, match=": remove it, or set RUN_DIR or ENV_FILE to another place"):
        find_stack({"RUN_DIR": str(tmp_path), "ENV_FILE": str(tmp_path / "none")}, "ROLLCALL_URL")


@pytest.mark.parametrize(
    "how", ["link", "dangling", "writable", pytest.param("owner", marks=needs_root), "shared"]
)
def test_the_settings_of_the_containers_are_ours_or_refused(
    tmp_path: Path, how: str, capsys: pytest.CaptureFixture[str]
):
    example, real = tmp_path / "example", tmp_path / "real"
    folder = tmp_path / "folder"
    folder.mkdir()
    file = folder / ".env"
    example.write_text("PORT=1\nTOKEN=generate\n")
    write_private(real, "PORT=1\n")
    if how in ("link", "dangling"):
        file.symlink_to(real if how == "link" else tmp_path / "nothing")
    elif how != "shared":
        real.rename(file)
        file.chmod(0o602) if how == "writable" else give_away(file)
    folder.chmod(0o777 if how == "shared" else 0o755)
    before = snapshot(tmp_path)
    assert env_file.main(example, file) == 1
    assert "Remove it, or set ENV_FILE to a file of yours\n" in capsys.readouterr().err
    assert snapshot(tmp_path) == before


def test_settings_that_others_could_read_are_private_again(tmp_path: Path):
    example, file = tmp_path / "example", tmp_path / ".env"
    example.write_text("PORT=1\n")
    file.write_text("PORT=1\n")
    file.chmod(0o644)
    assert env_file.main(example, file) == 0
    assert file.stat().st_mode & 0o777 == 0o600


def venv(*arguments: str | Path, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "local" / "make_venv.py"), *map(str, arguments)],
        cwd=cwd,
        env={"PATH": os.defpath, **env},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("removal", [[], ["--remove"]])
@pytest.mark.parametrize(
    "kind", ["full", "link", "file", "here", "above", "home", pytest.param("owner", marks=needs_root)]
)
def test_a_virtual_environment_takes_no_directory_of_somebody_else(
    tmp_path: Path, kind: str, removal: list[str]
):
    """Neither to make it there nor to remove it."""
    place = tmp_path / "place"
    place.mkdir()
    (place / "letter").touch()
    if kind in ("here", "above", "home", "owner"):
        (place / ".rollcall").touch()
    (place / "below").mkdir()
    (tmp_path / "link").symlink_to(place)
    if kind == "owner":
        give_away(place)
    target = {"link": tmp_path / "link", "file": place / "letter", "here": "."}.get(kind, place)
    home = place if kind == "home" else tmp_path / "home"
    before = snapshot(tmp_path)
    done = venv(
        *removal, target, cwd={"here": place, "above": place / "below"}.get(kind, tmp_path), HOME=str(home)
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"{re.escape(str(target))} .*\n", done.stderr), done.stderr
    assert snapshot(tmp_path) == before


def test_a_virtual_environment_is_removed_with_its_sign_alone(tmp_path: Path):
    for name, signs in (("new", [".rollcall"]), ("earlier", [".python", "pyvenv.cfg"])):
        place = tmp_path / name
        place.mkdir()
        for sign in signs:
            (place / sign).touch()
        done = venv("--remove", place, cwd=tmp_path, HOME="/")
        assert (done.returncode, done.stdout) == (0, f"removed {place}\n")
        assert not place.exists()
    empty = tmp_path / "empty"
    empty.mkdir()
    assert venv("--remove", empty, cwd=tmp_path, HOME="/").returncode == 1
    assert empty.exists()
    assert venv("--remove", tmp_path / "missing", cwd=tmp_path, HOME="/").returncode == 0
