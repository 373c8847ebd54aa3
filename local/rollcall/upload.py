"""`make upload DIR=...`: puts the records and pictures of a directory into the source bucket.

To whichever of `make run` and `make local-up` is up; STACK=run or STACK=compose chooses when both are.

Only regular files directly in the directory are sent. A link may lead to a file that nobody meant to send, so
links are left out; DIR itself may be one.
"""

import argparse
import errno
import os
import stat
import sys
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import BinaryIO

import urllib3
from minio.error import MinioException

from rollcall.samples import CONTENT_TYPES
from rollcall.terminal import say, say_error, visible
from rollcall.whereabouts import TIMEOUT, NotUpError, find_stack
from serving.settings import BucketSettings, Environment, SettingsError, StoreSettings
from serving.store import build_client, build_pool, describe_error

AUTHORITIES = ("SSL_CERT_FILE", "SSL_CERT_DIR")
TYPES = {**CONTENT_TYPES, "csv": "text/csv"}
UPLOADS_AT_ONCE = 8
LARGEST = 100 * 1024 * 1024  # bytes; also of a file that is mostly holes
SHOWN_NAMES = 3  # for each reason
UNREADABLE = "cannot be read"
# A link or pipe may have taken the file's place since it was looked at: neither followed nor waited for.
READ_ONLY = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class UploadError(Exception):
    """Nothing or not everything was uploaded; the message says why."""


class LeftOutError(Exception):
    """A file is not for the bucket; the message is the reason, for one file or many."""


@dataclass(slots=True)
class Folder:
    """An open directory; its files are found through its descriptor, wherever its path leads meanwhile."""

    descriptor: int
    left_out: dict[str, list[str]] = field(default_factory=dict)  # names by reason

    def list_names(self) -> list[str]:
        """The names of the records and pictures, in order; the others are noted as left out."""
        names = []
        with os.scandir(self.descriptor) as entries:
            found = sorted(entry.name for entry in entries)
        for name in found:
            try:
                _check_file(os.lstat(name, dir_fd=self.descriptor))
                _check_name(name)
            except LeftOutError as reason:
                self.note(name, str(reason))
            except FileNotFoundError:
                continue  # gone meanwhile
            else:
                names.append(name)
        return names

    @contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        """The file if it still is a regular one; LeftOutError otherwise."""
        try:
            descriptor = os.open(name, READ_ONLY, dir_fd=self.descriptor)
        except FileNotFoundError:
            raise LeftOutError("disappeared meanwhile") from None
        except OSError as error:
            raise LeftOutError("link" if error.errno == errno.ELOOP else UNREADABLE) from error
        with os.fdopen(descriptor, "rb") as file:
            _check_file(os.fstat(descriptor))
            yield file

    def note(self, name: str, reason: str) -> None:
        """Remembers a file that is not sent."""
        self.left_out.setdefault(reason, []).append(visible(name))

    def describe_left_out(self) -> str:
        """How many were left out, and why: a line for each reason."""
        lines = []
        for reason, names in sorted(self.left_out.items()):
            shown = ", ".join(names[:SHOWN_NAMES]) + (", …" if len(names) > SHOWN_NAMES else "")
            lines.append(f"  {reason}: {len(names):,} ({shown})")
        return "\n".join(["left out:", *lines])

    def close(self) -> None:
        """Gives the directory back."""
        os.close(self.descriptor)


def main(arguments: list[str], environ: Mapping[str, str]) -> int:
    """Uploads and prints the count; the exit status is 1 when something was in the way."""
    parser = argparse.ArgumentParser(prog="make upload", description=__doc__)
    parser.add_argument(
        "directory",
        nargs="?",
        default=environ.get("DIR", ""),
        help="its .csv, .png, .jpg and .jpeg files are uploaded; DIR in the environment names it as well",
    )
    asked = parser.parse_args(arguments)
    try:
        with closing(open_folder(asked.directory)) as folder:
            names = folder.list_names()
            if not names:
                raise UploadError(_describe_nothing(asked.directory, folder))
            variables = find_stack(environ, "MINIO_ENDPOINT")
            trusted = {name: environ[name] for name in AUTHORITIES if name in environ}
            store, buckets = _read_settings({**variables, **trusted})
            count = upload(folder, names, store=store, buckets=buckets)
    except (NotUpError, UploadError) as error:
        say_error(str(error))
        return 1
    return _say_outcome(folder, count, buckets.source)


def open_folder(directory: str) -> Folder:
    """The directory that was named; UploadError when there is none, or it cannot be read."""
    if not directory:
        raise UploadError("which directory? make upload DIR=path/to/files")
    try:
        return Folder(os.open(Path(directory).expanduser(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC))
    except (FileNotFoundError, NotADirectoryError):
        raise UploadError(f"{directory} is not a directory") from None
    except OSError as error:
        raise UploadError(f"{directory} cannot be read: {error.strerror}") from error


def upload(folder: Folder, names: Sequence[str], *, store: StoreSettings, buckets: BucketSettings) -> int:
    """Puts each file under its name; UploadError names the first that the store did not take."""
    with ExitStack() as stack:
        pool = stack.enter_context(
            build_pool(store, maxsize=UPLOADS_AT_ONCE, timeout=TIMEOUT, retries=urllib3.Retry(2))
        )
        client = build_client(store, pool)

        def put(name: str) -> bool:
            try:
                with folder.open(name) as file:
                    client.put_object(
                        bucket_name=buckets.source,
                        object_name=f"{buckets.prefix}{name}",
                        data=file,
                        length=os.fstat(file.fileno()).st_size,
                        content_type=TYPES[_extension(name)],
                    )
            except LeftOutError as reason:
                folder.note(name, str(reason))
                return False
            except ValueError as error:  # of the client, about the name
                raise UploadError(f"{visible(name)} could not be uploaded: {error}") from error
            except (MinioException, urllib3.exceptions.HTTPError, OSError) as error:
                why = describe_error(error)
                raise UploadError(
                    f"{visible(name)} could not be uploaded to {buckets.source}: {why}"
                ) from error
            return True

        threads = stack.enter_context(ThreadPoolExecutor(UPLOADS_AT_ONCE))
        return sum(threads.map(put, names))


def _read_settings(variables: Mapping[str, str]) -> tuple[StoreSettings, BucketSettings]:
    env = Environment(variables)
    settings = StoreSettings.from_environment(env), BucketSettings.from_environment(env)
    try:
        env.check()
    except SettingsError as error:
        raise UploadError(str(error)) from error
    return settings


def _say_outcome(folder: Folder, count: int, bucket: str) -> int:
    told = "1 file" if count == 1 else f"{count:,} files"
    say(f"{told} uploaded to {bucket}; next: make process, or the next run by itself")
    if folder.left_out:
        say(folder.describe_left_out())
    return 1 if UNREADABLE in folder.left_out else 0


def _describe_nothing(directory: str, folder: Folder) -> str:
    nothing = f"{directory} holds no .csv, .png, .jpg or .jpeg file to upload"
    return f"{nothing}\n{folder.describe_left_out()}" if folder.left_out else nothing


def _check_name(name: str) -> None:
    if name.startswith(("._", "~$")):
        raise LeftOutError("system file")
    if _extension(name) not in TYPES:
        raise LeftOutError("not .csv, .png, .jpg or .jpeg")
    if visible(name) != name:
        raise LeftOutError("name with control characters or bytes that are not UTF-8")


def _check_file(found: os.stat_result) -> None:
    if stat.S_ISLNK(found.st_mode):
        raise LeftOutError("link")
    if stat.S_ISDIR(found.st_mode):
        raise LeftOutError("directory")
    if not stat.S_ISREG(found.st_mode):
        raise LeftOutError("pipe, socket or device")
    if found.st_size > LARGEST:
        raise LeftOutError(f"larger than {LARGEST // 1024**2} MiB")


def _extension(name: str) -> str:
    return PurePath(name).suffix.removeprefix(".").lower()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], os.environ))
