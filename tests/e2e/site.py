"""Both functions and the gateway over a database and a store, after a run over the sample files."""

import os
import secrets
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

from minio import Minio
from rig import REGION, Database, Gateway, prepare_database, run_function

from rollcall.ports import HOST
from rollcall.samples import samples
from rollcall.servers import Key, Postgres, rclone_s3, serving

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
KEY = Key("page-root", "page-root-secret")


@dataclass(frozen=True, slots=True)
class Site:
    """Where the page is, and the database behind it."""

    url: str
    database: Database
    token: str


@contextmanager
def open_site(
    postgres: Postgres, home: Path, *, more_files: Mapping[str, bytes], token: str = ""
) -> Iterator[Site]:
    """Serve the page until the end of the block; `more_files` are put beside the sample files."""
    with ExitStack() as stack:
        database = prepare_database(postgres, f"page_{os.getpid()}_{secrets.token_hex(4)}")
        store = stack.enter_context(rclone_s3(home, keys=[KEY]))
        _put_files(store.port, {sample.key: sample.body for sample in samples()} | dict(more_files))
        env = {
            "MINIO_ENDPOINT": f"http://{HOST}:{store.port}",
            "MINIO_ACCESS_KEY": KEY.access,
            "MINIO_SECRET_KEY": KEY.secret,
            "WORKERS": "2",
            "API_TOKEN": token,
        }
        functions = {
            name: stack.enter_context(
                run_function(name, {**database.env(name.replace("-", "_")), **env}, home=home / name)
            )
            for name in ("process-users", "get-data")
        }
        gateway = stack.enter_context(
            serving(
                lambda port: Gateway(
                    port=port,
                    process_users=functions["process-users"],
                    get_data=functions["get-data"],
                    home=home / "gateway",
                )
            )
        )
        headers = {"Authorization": f"Bearer {token}"}
        run = urllib.request.Request(f"{gateway.url}/data", method="POST", headers=headers)  # noqa: S310  our own
        with urllib.request.urlopen(run, timeout=60) as response:  # noqa: S310
            assert b'"state": "ok"' in response.read()
        yield Site(gateway.url, database, token)


def _put_files(port: int, files: Mapping[str, bytes]) -> None:
    client = Minio(
        endpoint=f"{HOST}:{port}",
        access_key=KEY.access,
        secret_key=KEY.secret,
        secure=False,
        region=REGION,
    )
    for bucket in ("src-data", "processed-data"):
        client.make_bucket(bucket_name=bucket)
    for key, content in files.items():
        client.put_object(bucket_name="src-data", object_name=key, data=BytesIO(content), length=len(content))
