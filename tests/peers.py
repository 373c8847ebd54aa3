"""Others who bring a bucket's records somewhere, for what is measured; each returns the seconds it took."""

import csv
import io
import os
import subprocess
import tempfile
import time
from pathlib import Path

from crowd import connect
from minio import Minio
from minio.select import CSVInputSerialization, CSVOutputSerialization, SelectRequest
from pg8000.native import Connection as Driver
from rig import REGION, REPOSITORY, Bucket, Database
from urllib3 import PoolManager

from rollcall.servers import script

DLT_PYTHON = REPOSITORY / ".venv" / "dlt" / "bin" / "python"  # made by `make bench`
DLT_PROGRAM = Path(__file__).with_name("dlt_load.py")
UPSERT = """
insert into original (user_id, first_name, last_name, birthdate, img_path)
values (:user_id, :first_name, :last_name,
        timestamptz 'epoch' + cast(:birthts as bigint) * interval '1 ms',
        :img_path)
on conflict (user_id) do update
set first_name = excluded.first_name,
    last_name = excluded.last_name,
    birthdate = excluded.birthdate,
    img_path = excluded.img_path
"""
CELLS = "user_id, first_name, last_name, birthdate, img_path"


def time_rclone(bucket: Bucket, count: int, copies: Path) -> float:
    """Copy the records, and nothing else, to a new folder in `copies`, which must stay meanwhile.

    For minutes after files were deleted, an ext4 without a journal passes their inodes by one by one when it
    makes others, which takes rclone up to half as long again.
    """
    key = bucket.store.key
    env = {
        "PATH": os.defpath,
        "RCLONE_CONFIG_STORE_TYPE": "s3",
        "RCLONE_CONFIG_STORE_PROVIDER": "Minio",
        "RCLONE_CONFIG_STORE_ENDPOINT": bucket.store.endpoint,
        "RCLONE_CONFIG_STORE_REGION": REGION,
        "RCLONE_CONFIG_STORE_ACCESS_KEY_ID": key.access,
        "RCLONE_CONFIG_STORE_SECRET_ACCESS_KEY": key.secret,
    }
    folder = tempfile.mkdtemp(dir=copies)
    options = ("--config=", "--transfers=32", "--include=*.csv")
    command = [script("rclone"), "copy", *options, f"store:{bucket.source}", folder]
    started = time.perf_counter()
    subprocess.run(command, env={**env, "HOME": folder}, check=True)
    taken = time.perf_counter() - started
    assert sum(1 for _ in Path(folder).glob("*.csv")) == count
    return taken


def time_original(bucket: Bucket, database: Database) -> float:
    """Select and upsert one record after the other; the table must come out as ours did."""
    database.run("create table original (like users including all)")
    connection = database.connect()
    try:
        with PoolManager() as http:
            started = time.perf_counter()
            do_original(connect(bucket, http), bucket.source, connection)
            taken = time.perf_counter() - started
        difference = f"select {CELLS} from users except select {CELLS} from original"  # noqa: S608  constants
        assert connection.run(difference) == []
        return taken
    finally:
        connection.close()


def time_dlt(bucket: Bucket, database: Database, count: int) -> float:
    """Merge the records into a table of dlt's own, by a process that says itself how long that took."""
    key, owner = bucket.store.key, database.settings
    with tempfile.TemporaryDirectory() as home:
        env = {
            "PATH": os.defpath,
            "HOME": home,
            "BUCKET_URL": f"s3://{bucket.source}",
            "SOURCES__FILESYSTEM__CREDENTIALS__AWS_ACCESS_KEY_ID": key.access,
            "SOURCES__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY": key.secret,
            "SOURCES__FILESYSTEM__CREDENTIALS__ENDPOINT_URL": bucket.store.endpoint,
            "SOURCES__FILESYSTEM__CREDENTIALS__REGION_NAME": REGION,
            "DESTINATION__POSTGRES__CREDENTIALS": (
                f"postgresql://{owner.user}:{owner.password}@{owner.host}:{owner.port}/{owner.database}"
            ),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
        }
        done = subprocess.run(
            [DLT_PYTHON, DLT_PROGRAM], env=env, cwd=home, stdout=subprocess.PIPE, check=True
        )
    assert database.run("select count(*) from dlt.users") == [[count]]
    return float(done.stdout)


def do_original(client: Minio, bucket: str, connection: Driver) -> None:
    keys = {listed.object_name or "" for listed in client.list_objects(bucket, recursive=True)}
    for key in sorted(keys):
        user_id, _, extension = key.rpartition(".")
        if extension == "csv":
            picture = f"{user_id}.png"
            row = select_record(client, bucket, key)
            img_path = f"{bucket}/{picture}" if picture in keys else None
            connection.run(UPSERT, user_id=user_id, img_path=img_path, **row)


def select_record(client: Minio, bucket: str, key: str) -> dict[str, str]:
    request = SelectRequest(
        "select * from S3Object", CSVInputSerialization(file_header_info="USE"), CSVOutputSerialization()
    )
    with client.select_object_content(bucket, key, request) as result:
        text = b"".join(result.stream()).decode()
    cells = [cell.strip() for cell in next(csv.reader(io.StringIO(text)))]
    return dict(zip(("first_name", "last_name", "birthts"), cells, strict=True))
