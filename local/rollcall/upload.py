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

from rollcall.samples import CONTENT_TYPES
from rollcall.whereabouts import TIMEOUT, NotUpError, find_stack

TYPES = {**CONTENT_TYPES, "csv": "text/csv"}
UPLOADS_AT_ONCE = 8


class UploadError(Exception):
    """Nothing or not everything was uploaded; the message says why."""


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Uploads and prints the count; the exit status is 1 when something was in the way."""
    parser = argparse.ArgumentParser(prog="make upload", description=__doc__)
    parser.add_argument("directory", help="its .csv, .png, .jpg and .jpeg files are uploaded")
    asked = parser.parse_args(arguments)
    try:
        files = list(list_files(asked.directory))
        variables = find_stack(environ, "MINIO_ENDPOINT")
        count = upload(files, variables)
    except (NotUpError, UploadError) as error:
        print(error, file=sys.stderr)
        return 1
    told = "1 file" if count == 1 else f"{count:,} files"
    print(f"{told} uploaded to {variables['SOURCE_BUCKET']}; next: make process, or the next run by itself")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
