"""Pictures by address: signed links that work, for a while, and only for what they were made for."""

import json
import urllib.error
import urllib.request
from collections.abc import Iterator
from io import BytesIO
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from flask.testing import FlaskClient
from get_data_client import insert, open_client
from rig import Bucket, Database

PNG = b"\x89PNG\r\n\x1a\n picture"
NAMES = ("1000.png", "0 1+é&%41.JPG", "a#b?c.jpeg", "日本.png")


@pytest.fixture
def client(database: Database, bucket: Bucket) -> Iterator[FlaskClient]:
    with open_client({**database.env("get_data"), **bucket.env}) as client:
        yield client


def put_picture(bucket: Bucket, database: Database, name: str) -> str:
    """Store a picture under a wrong type, and return its user's id."""
    bucket.store.client().put_object(
        bucket_name=bucket.source,
        object_name=name,
        data=BytesIO(PNG),
        length=len(PNG),
        content_type="text/html",
    )
    user_id = name.rpartition(".")[0]
    insert(database, user_id, img_path=f"{bucket.source}/{name}")
    return user_id


@pytest.mark.parametrize("name", NAMES)
def test_a_picture_is_found_in_the_store(client: FlaskClient, database: Database, bucket: Bucket, name: str):
    user_id = put_picture(bucket, database, name)
    got = client.get(f"/data/{quote(user_id, safe='')}/image")
    assert (got.status_code, got.data) == (302, b"")
    assert (got.headers["Cache-Control"], got.headers["Vary"]) == ("private, max-age=60", "Authorization")
    address = got.headers["Location"]
    assert address.startswith(f"{bucket.store.endpoint}/{bucket.source}/")
    query = parse_qs(urlsplit(address).query)
    media_type = "image/png" if name.endswith(".png") else "image/jpeg"
    assert (query["X-Amz-Expires"], query["response-content-type"]) == (["300"], [media_type])
    with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310
        assert response.read() == PNG
        assert response.headers["Content-Type"] == media_type


def test_a_link_is_for_one_picture(client: FlaskClient, database: Database, bucket: Bucket):
    put_picture(bucket, database, "1.png")
    put_picture(bucket, database, "2.png")
    address = client.get("/data/1/image").headers["Location"]
    other = address.replace("/1.png?", "/2.png?")
    assert other != address
    for forged in (other, address.replace("image%2Fpng", "text%2Fhtml"), address.partition("?")[0]):
        with pytest.raises(urllib.error.HTTPError) as caught:
            urllib.request.urlopen(forged, timeout=10)  # noqa: S310
        assert caught.value.code in (400, 403)  # not signed at all: 400 by rclone
        caught.value.close()


def test_links_name_the_endpoint_that_browsers_know(database: Database, bucket: Bucket):
    public = {"MINIO_PUBLIC_ENDPOINT": "https://pictures.example:9443/"}
    insert(database, "1", img_path="src-data/1.png")
    with open_client({**database.env("get_data"), **bucket.env, **public}) as client:
        got = client.get("/data/1/image")
    assert got.headers["Location"].startswith("https://pictures.example:9443/src-data/1.png?")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/data/1/image", 404, "image_not_found"),
        ("/data/2/image", 404, "user_not_found"),
        ("/data/1/image?size=5", 400, "parameter_unknown"),
        ("/data/1/image/", 404, "not_found"),
    ],
)
def test_where_there_is_no_picture(
    client: FlaskClient, database: Database, path: str, status: int, code: str
):
    insert(database, "1")
    got = client.get(path)
    assert (got.status_code, json.loads(got.data)["code"]) == (status, code)
