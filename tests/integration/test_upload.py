"""`make upload` as a process: what it sends to a store, and what it leaves out and says so."""

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from minio import Minio
from pipeline import to_csv
from rig import REPOSITORY, Bucket

from rollcall import upload
from rollcall.private_files import write_private

PYTHONPATH = os.pathsep.join(str(REPOSITORY / folder) for folder in ("local", "functions"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.csv").write_bytes(to_csv("Ada"))
    return folder


@pytest.fixture
def env_file(tmp_path: Path, bucket: Bucket) -> Path:
    file = tmp_path / "stack.env"
    write_private(file, "".join(f"{name}={value}\n" for name, value in bucket.env.items()))
    return file


def run_upload(
    env_file: Path, *arguments: str | Path, by: tuple[str, ...] = (), **settings: str
) -> subprocess.CompletedProcess[str]:
    nowhere = str(env_file.parent / "nowhere")
    return subprocess.run(
        [*by, sys.executable, "-m", "rollcall.upload", *map(str, arguments)],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": PYTHONPATH,
            "PYTHONUTF8": "1",
            "ENV_FILE": str(env_file),
            "RUN_DIR": nowhere,
            **settings,
        },
        capture_output=True,
        text=True,
        check=False,
    )


def list_keys(bucket: Bucket) -> dict[str, bytes]:
    client: Minio = bucket.store.client()
    names = [found.object_name or "" for found in client.list_objects(bucket.source, recursive=True)]
    return {name: client.get_object(bucket_name=bucket.source, object_name=name).data for name in names}


def test_only_files_of_the_folder_are_sent(folder: Path, env_file: Path, bucket: Bucket, tmp_path: Path):
    secret = tmp_path / "secrets"
    secret.write_text("MINIO_ROOT_PASSWORD=s3cret")
    (folder / "evil.png").symlink_to(secret)
    (folder / "evil.csv").symlink_to("1.csv")
    (folder / "gone.png").symlink_to(tmp_path / "missing")
    (folder / "folder.csv").mkdir()
    (folder / "notes.txt").touch()
    (folder / "._1.csv").touch()
    os.mkfifo(folder / "pipe.csv")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "s.png"))
    with (folder / "holes.png").open("wb") as sparse:
        sparse.truncate(10**12)
    for name in (b"\x1b]0;owned\x07.csv", b"fake\nline.csv", b"\xff.png", "\u202egnp.csv".encode()):
        (folder / os.fsdecode(name)).touch()
    (folder / "2.PNG").write_bytes(b"a picture")
    done = run_upload(env_file, folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.splitlines() == [
        f"2 files uploaded to {bucket.source}; next: make process, or the next run by itself",
        "left out:",
        "  directory: 1 (folder.csv)",
        "  larger than 100 MiB: 1 (holes.png)",
        "  link: 3 (evil.csv, evil.png, gone.png)",
        "  name with control characters or bytes that are not UTF-8: 4"
        r" (\x1b]0;owned\x07.csv, fake\nline.csv, \u202egnp.csv, …)",
        "  not .csv, .png, .jpg or .jpeg: 1 (notes.txt)",
        "  pipe, socket or device: 2 (pipe.csv, s.png)",
        "  system file: 1 (._1.csv)",
    ]
    assert list_keys(bucket) == {"1.csv": to_csv("Ada"), "2.PNG": b"a picture"}


def test_a_link_to_a_folder_may_be_named(folder: Path, env_file: Path, bucket: Bucket, tmp_path: Path):
    (tmp_path / "link").symlink_to(folder)
    done = run_upload(env_file, DIR=str(tmp_path / "link"), SOURCE_PREFIX="")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("1 file uploaded to ")
    assert list_keys(bucket).keys() == {"1.csv"}


def test_a_file_that_became_a_link_between_look_and_open_is_left_out(folder: Path, tmp_path: Path):
    """And so is one of the folder that another one took the place of."""
    secret = tmp_path / "secrets"
    secret.write_text("s3cret")
    opened = upload.open_folder(str(folder))
    try:
        assert opened.list_names() == ["1.csv"]
        for change, reason in (
            (lambda: (folder / "1.csv").symlink_to(secret), "link"),
            (lambda: os.mkfifo(folder / "1.csv"), "pipe, socket or device"),
            (lambda: None, "disappeared meanwhile"),
        ):
            (folder / "1.csv").unlink()
            change()
            with pytest.raises(upload.LeftOutError, match=reason), opened.open("1.csv"):
                pass
            (folder / "1.csv").touch()
        (folder / "1.csv").write_text("as named")
        folder.rename(tmp_path / "elsewhere")
        folder.mkdir()
        (folder / "1.csv").write_text("another")
        with opened.open("1.csv") as file:
            assert file.read() == b"as named"
    finally:
        opened.close()


def test_a_race_for_the_name_never_sends_another_file(folder: Path, env_file: Path, bucket: Bucket):
    """Links and files take turns while many are uploaded."""
    secret = folder.parent / "secrets"
    secret.write_text("s3cret")
    names = [f"{number}.csv" for number in range(40)]
    for name in names:
        (folder / name).write_bytes(to_csv())
    is_over = threading.Event()

    def swap() -> None:
        while not is_over.is_set():
            for name in names:
                (folder / "next").symlink_to(secret)
                (folder / "next").replace(folder / name)
                (folder / "next").write_bytes(to_csv())
                (folder / "next").replace(folder / name)

    swapper = threading.Thread(target=swap)
    swapper.start()
    try:
        done = run_upload(env_file, folder)
    finally:
        is_over.set()
        swapper.join()
    assert done.returncode in (0, 1), done.stderr
    assert set(list_keys(bucket).values()) <= {to_csv()}


@pytest.mark.skipif(os.geteuid() != 0, reason="for root, who can become an account that may not read")
def test_what_cannot_be_read_is_named_and_the_others_are_sent(folder: Path, env_file: Path, bucket: Bucket):
    (folder / "0.csv").write_text("private")
    (folder / "0.csv").chmod(0)
    by = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")  # root without its right to read everything
    done = run_upload(env_file, folder, by=by)
    assert done.returncode == 1
    assert "left out:\n  cannot be read: 1 (0.csv)\n" in done.stdout
    assert list_keys(bucket).keys() == {"1.csv"}


@pytest.mark.parametrize(
    ("directory", "want"),
    [
        ("", "which directory? make upload DIR=path/to/files\n"),
        ("/nowhere/\x1b]0;x\x07", "/nowhere/\\x1b]0;x\\x07 is not a directory\n"),
        ("1.csv", "1.csv is not a directory\n"),
        ("links", "links holds no .csv, .png, .jpg or .jpeg file to upload\nleft out:\n  link: 1 (a.csv)\n"),
    ],
)
def test_a_folder_with_nothing_to_send_is_named(tmp_path: Path, directory: str, want: str):
    (tmp_path / "links").mkdir()
    (tmp_path / "links" / "a.csv").symlink_to("b.csv")
    (tmp_path / "1.csv").touch()
    done = subprocess.run(
        [sys.executable, "-m", "rollcall.upload"],
        cwd=tmp_path,
        env={"PATH": os.defpath, "PYTHONPATH": PYTHONPATH, "DIR": directory},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (1, "", want)


@pytest.mark.parametrize(
    ("name", "value", "reason"),
    [
        ("MINIO_SECRET_KEY", "wrong-secret", "SignatureDoesNotMatch (403): check MINIO_SECRET_KEY\n"),
        ("MINIO_ACCESS_KEY", "nobody", "InvalidAccessKeyId (403): check MINIO_ACCESS_KEY\n"),
        ("SOURCE_BUCKET", "no-such", "NoSuchBucket (404): check the name of the bucket, or run set-up\n"),
    ],
)
def test_what_the_store_says_is_told(
    folder: Path, tmp_path: Path, bucket: Bucket, name: str, value: str, reason: str
):
    variables = {**bucket.env, name: value}
    file = tmp_path / "wrong.env"
    write_private(file, "".join(f"{name}={value}\n" for name, value in variables.items()))
    done = run_upload(file, folder)
    want = f"1.csv could not be uploaded to {variables['SOURCE_BUCKET']}: {reason}"
    assert (done.returncode, done.stdout, done.stderr) == (1, "", want)


def test_files_go_under_the_prefix_of_the_stack(folder: Path, tmp_path: Path, bucket: Bucket):
    file = tmp_path / "stack.env"
    variables = {**bucket.env, "SOURCE_PREFIX": "in/people/"}
    write_private(file, "".join(f"{name}={value}\n" for name, value in variables.items()))
    assert run_upload(file, folder).returncode == 0
    assert list_keys(bucket).keys() == {"in/people/1.csv"}


def test_a_stack_that_names_no_bucket_has_the_usual_one(folder: Path, tmp_path: Path, bucket: Bucket):
    """As the functions have it."""
    file = tmp_path / "stack.env"
    variables = {name: value for name, value in bucket.env.items() if name != "SOURCE_BUCKET"}
    write_private(file, "".join(f"{name}={value}\n" for name, value in variables.items()))
    done = run_upload(file, folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("1.csv could not be uploaded to src-data: NoSuchBucket (404): ")


def test_settings_that_cannot_work_are_named(folder: Path, tmp_path: Path, bucket: Bucket):
    file = tmp_path / "wrong.env"
    variables = {**bucket.env, "SOURCE_BUCKET": "pd", "MINIO_REGION": "eu west"}
    write_private(file, "".join(f"{name}='{value}'\n" for name, value in variables.items()))
    done = run_upload(file, folder, SSL_CERT_FILE="/nowhere")
    assert done.returncode == 1
    named = [line.split()[0] for line in done.stderr.splitlines()[1:]]
    assert sorted(named) == ["MINIO_REGION", "SOURCE_BUCKET", "SSL_CERT_FILE"]
