"""A store over TLS: every part that talks to it trusts the same authorities."""

import os
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import pytest
from get_data_client import insert, open_client
from pipeline import ONE_STORE, Pipeline, document
from rig import REPOSITORY, Bucket, Database

from rollcall.object_store import Credentials, ObjectStore, StoreSetupError
from rollcall.ports import HOST
from rollcall.processes import Program
from rollcall.servers import http_status, script, serving

pytestmark = ONE_STORE
CERTIFICATE = Path(__file__).parent / "tls" / "localhost.pem"
HASHED = "ce275665.0"  # the name under which OpenSSL looks for it in a directory
UNTRUSTED = "check SSL_CERT_FILE, which names the authorities to trust"


@dataclass(frozen=True)
class Front:
    """Caddy, which speaks TLS before the store."""

    port: int
    store: str
    home: Path

    @property
    def url(self) -> str:
        return f"https://{HOST}:{self.port}"

    def prepare(self) -> None:
        (self.home / "Caddyfile").write_text(
            "{\n admin off\n auto_https off\n}\n"
            f"https://:{self.port} {{\n bind {HOST}\n tls {CERTIFICATE} {CERTIFICATE}\n"
            f" reverse_proxy {self.store}\n}}\n"
        )

    def program(self) -> Program:
        argv = (script("caddy"), "run", "--config", str(self.home / "Caddyfile"), "--adapter", "caddyfile")
        return Program(name="front", argv=argv, env={"HOME": str(self.home)}, log=self.home / "front.log")

    def answers(self) -> bool:
        return http_status(self.port, "/") is not None  # that this port speaks TLS


@pytest.fixture
def front(bucket: Bucket, tmp_path: Path) -> Iterator[str]:
    """The https address of the store."""
    with serving(lambda port: Front(port, bucket.store.endpoint, tmp_path)) as front:
        yield front.url


@pytest.fixture
def authorities(tmp_path: Path) -> Path:
    """A directory of authorities."""
    directory = tmp_path / "authorities"
    directory.mkdir()
    (directory / HASHED).write_text(CERTIFICATE.read_text())
    return directory


@pytest.mark.parametrize("name", ["SSL_CERT_FILE", "SSL_CERT_DIR"])
def test_a_run_trusts_the_authorities_that_are_set(
    bucket: Bucket, database: Database, front: str, authorities: Path, name: str
):
    trusted = {name: str({"SSL_CERT_FILE": CERTIFICATE, "SSL_CERT_DIR": authorities}[name])}
    with Pipeline(bucket, database, {"MINIO_ENDPOINT": front, **trusted}) as pipeline:
        pipeline.put("1000.csv")
        assert pipeline.get("/readyz") == {"status": "ready"}
        assert pipeline.run()["upserted"] == 1
        assert "1000" in pipeline.fetch("output.csv").text


def test_a_store_that_is_not_trusted_is_told_as_that(bucket: Bucket, database: Database, front: str):
    with Pipeline(bucket, database, {"MINIO_ENDPOINT": front}) as pipeline:
        for response in (pipeline.client().post("/data"), pipeline.client().get("/readyz")):
            detail = document(response)["detail"]
            assert response.status_code == 503
            assert "certificate" in detail
            assert detail.endswith(UNTRUSTED)


def test_the_upload_of_the_outputs_does_not_trust_more_than_the_listing(
    bucket: Bucket, database: Database, front: str, authorities: Path
):
    from process_users.outputs import StoreUnavailableError, _upload
    from serving.settings import StoreSettings

    class Text:
        def read(self, size: int) -> bytes:
            return b""

    key = bucket.store.key
    settings = StoreSettings(front, "us-east-1", key.access, key.secret)
    with pytest.raises(StoreUnavailableError, match=UNTRUSTED):
        _upload(settings, bucket.output, "output.csv", Text())  # pyright: ignore[reportArgumentType]


def test_set_up_trusts_the_same_and_does_not_wait_for_another(bucket: Bucket, front: str, authorities: Path):
    key = Credentials(bucket.store.key.access, bucket.store.key.secret)
    for trusted in ((str(CERTIFICATE), ""), ("", str(authorities))):
        store = ObjectStore(front, "us-east-1", key, *trusted)
        assert bucket.source in [found.name for found in store.client(key).list_buckets()]
    store = ObjectStore(front, "us-east-1", key)
    with pytest.raises(StoreSetupError, match=UNTRUSTED), store.errors():
        store.client(key).list_buckets()


def test_make_upload_trusts_the_same(bucket: Bucket, front: str, tmp_path: Path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "1.csv").write_text("record")
    variables = {**bucket.env, "MINIO_ENDPOINT": front}
    (tmp_path / "stack.env").write_text("".join(f"{name}={value}\n" for name, value in variables.items()))
    (tmp_path / "stack.env").chmod(0o600)
    done = subprocess.run(
        [sys.executable, "-m", "rollcall.upload", str(folder)],
        env={
            "PATH": os.defpath,
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / name) for name in ("local", "functions")),
            "ENV_FILE": str(tmp_path / "stack.env"),
            "RUN_DIR": str(tmp_path / "nowhere"),
            "SSL_CERT_FILE": str(CERTIFICATE),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert bucket.store.client().stat_object(bucket_name=bucket.source, object_name="1.csv").size == 6


def test_a_link_to_a_picture_is_for_the_same_address(bucket: Bucket, database: Database, front: str):
    bucket.store.client().put_object(
        bucket_name=bucket.source, object_name="1.png", data=BytesIO(b"png"), length=3
    )
    insert(database, "1", img_path=f"{bucket.source}/1.png")
    env = {**database.env("get_data"), **bucket.env, "MINIO_ENDPOINT": front}
    with open_client({**env, "SSL_CERT_FILE": str(CERTIFICATE)}) as client:
        link = client.get("/data/1/image").headers["Location"]
    assert link.startswith(f"{front}/")
    context = ssl.create_default_context(cafile=str(CERTIFICATE))
    with urllib.request.urlopen(link, context=context, timeout=30) as response:  # noqa: S310
        assert response.read() == b"png"
