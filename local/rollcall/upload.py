"""`make upload DIR=...`: puts the records and pictures of a directory into the source bucket.

To whichever of `make run` and `make local-up` is up; STACK=run or STACK=compose chooses when both are.
"""

import argparse
import os
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import urllib3
from minio import Minio
from minio.error import MinioException

from rollcall.run_directory import read_variables
from rollcall.samples import CONTENT_TYPES
from rollcall.stack import REPOSITORY

TYPES = {**CONTENT_TYPES, "csv": "text/csv"}
UPLOADS_AT_ONCE = 8
TIMEOUT = urllib3.Timeout(connect=3, read=30)


class UploadError(Exception):
    """Nothing or not everything was uploaded; the message says why."""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Uploads and prints the count; the exit status is 1 when something was in the way."""
    parser = argparse.ArgumentParser(prog="make upload", description=__doc__)
    parser.add_argument("directory", help="its .csv, .png, .jpg and .jpeg files are uploaded")
    asked = parser.parse_args(arguments)
    try:
        files = list(list_files(asked.directory))
        variables = find_stack(environ)
        count = upload(files, variables)
    except UploadError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{count} files uploaded to {variables['SOURCE_BUCKET']}; the next run reads them")
    return 0


def list_files(directory: str) -> Iterator[Path]:
    """The records and pictures directly in the directory, in order."""
    if not directory:
        raise UploadError("which directory? make upload DIR=path/to/files")
    place = Path(directory).expanduser()
    if not place.is_dir():
        raise UploadError(f"{directory} is not a directory")
    files = [file for file in sorted(place.iterdir()) if _extension(file) in TYPES and file.is_file()]
    if not files:
        raise UploadError(f"{directory} holds no .csv, .png, .jpg or .jpeg file")
    yield from files


def find_stack(environ: Mapping[str, str]) -> Mapping[str, str]:
    """The variables of the stack that answers, or of the one that STACK names."""
    files = {
        "run": Path(environ.get("RUN_DIR") or REPOSITORY / ".run") / "env",
        "compose": Path(environ.get("ENV_FILE") or REPOSITORY / "local" / ".env"),
    }
    chosen = environ.get("STACK", "")
    if chosen and chosen not in files:
        raise UploadError(f"STACK is {chosen!r}, wanted run or compose")
    known = {name: read_variables(file) for name, file in files.items() if file.exists()}
    up = [name for name, variables in known.items() if chosen in ("", name) and _answers(variables)]
    if not up:
        raise UploadError(f"{_start_command(chosen)} first: its object store does not answer")
    if len(up) > 1:
        raise UploadError(
            "make run and make local-up are both up: choose one with STACK=run or STACK=compose"
        )
    return known[up[0]]


def upload(files: list[Path], variables: Mapping[str, str]) -> int:
    """Puts each file under its name; UploadError names the first that could not be."""
    address = urlsplit(variables["MINIO_ENDPOINT"])
    with urllib3.PoolManager(maxsize=UPLOADS_AT_ONCE, timeout=TIMEOUT, retries=urllib3.Retry(2)) as pool:
        store = Minio(
            endpoint=address.netloc,
            access_key=variables["MINIO_ACCESS_KEY"],
            secret_key=variables["MINIO_SECRET_KEY"],
            region=variables.get("MINIO_REGION", "us-east-1"),
            secure=address.scheme == "https",
            http_client=pool,
        )
        bucket, prefix = variables["SOURCE_BUCKET"], variables.get("SOURCE_PREFIX", "")

        def put(file: Path) -> None:
            try:
                store.fput_object(
                    bucket_name=bucket,
                    object_name=f"{prefix}{file.name}",
                    file_path=str(file),
                    content_type=TYPES[_extension(file)],
                )
            except (MinioException, urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                raise UploadError(f"{file} could not be uploaded: {error}") from error

        with ThreadPoolExecutor(UPLOADS_AT_ONCE) as threads:
            return sum(1 for _ in threads.map(put, files))


def _extension(file: Path) -> str:
    return file.suffix.removeprefix(".").lower()


def _answers(variables: Mapping[str, str]) -> bool:
    try:
        with urllib3.PoolManager(timeout=TIMEOUT, retries=False) as pool:
            pool.request("GET", variables["MINIO_ENDPOINT"])
    except urllib3.exceptions.HTTPError:
        return False
    return True


def _start_command(chosen: str) -> str:
    return {"run": "make run", "compose": "make local-up"}.get(chosen, "make run or make local-up")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
