"""Clients of the store are made alike everywhere, and what it says is told without what it quotes."""

import socket
import ssl
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import urllib3
from minio.error import InvalidResponseError, MinioAdminException, S3Error, ServerError

from serving.settings import StoreSettings
from serving.store import Authorities, build_client, describe_error, find_authorities
from serving.store_reasons import HINTS, describe_answer, describe_silence, find_code

CERTIFICATE = str(Path(__file__).parents[1] / "integration" / "tls" / "localhost.pem")


def settings(endpoint: str, region: str = "us-east-1", **further: str) -> StoreSettings:
    return StoreSettings(endpoint, region, "access", "secret-key", **further)


@pytest.mark.parametrize(
    ("endpoint", "region"),
    [
        ("http://127.0.0.1:9000", "us-east-1"),
        ("http://[::1]:9000", "us-east-1"),
        ("http://my_store", "us-east-1"),
        ("https://store.example:8443", "garage"),
        ("https://s3.amazonaws.com", "us-east-1"),
        ("https://s3.eu-central-1.amazonaws.com", "eu-central-1"),
        ("https://s3.eu-central-1.amazonaws.com:8443", "eu-central-1"),
        ("https://s3-fips.us-west-2.amazonaws.com", "us-west-2"),
        ("https://s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
        ("https://bucket.vpce-0a1b-2c3d.s3.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
        ("http://store-1234.eu-west-1.elb.amazonaws.com:9000", "us-east-1"),
        ("http://ec2-1-2-3-4.eu-west-1.compute.amazonaws.com:9000", "us-east-1"),
    ],
)
@pytest.mark.parametrize("bucket", ["src-data", "src.data"])
def test_a_link_names_the_endpoint_as_it_is_set_and_the_bucket_in_the_path(
    endpoint: str, region: str, bucket: str
):
    link = build_client(settings(endpoint, region)).presigned_get_object(
        bucket_name=bucket, object_name="1.png", expires=timedelta(seconds=5)
    )
    assert link.startswith(f"{endpoint}/{bucket}/1.png?")
    assert f"%2F{region}%2Fs3%2F" in urlsplit(link).query


def test_the_authorities_are_those_that_are_set_alone_else_the_systems(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    assert find_authorities(settings("https://a", ca_file="f")) == Authorities("f", "")
    assert find_authorities(settings("https://a", ca_dir="d:e")) == Authorities("", "d:e")
    of_system = ssl.get_default_verify_paths()
    want = Authorities(of_system.cafile or "", of_system.capath or "")
    assert find_authorities(settings("https://a")) == want


@pytest.mark.parametrize(
    ("status", "code", "hint"),
    [
        (400, "AuthorizationHeaderMalformed", "check MINIO_REGION and MINIO_ENDPOINT"),
        (301, "PermanentRedirect", "check MINIO_REGION and MINIO_ENDPOINT"),
        (403, "InvalidAccessKeyId", "check MINIO_ACCESS_KEY"),
        (403, "SignatureDoesNotMatch", "check MINIO_SECRET_KEY"),
        (403, "RequestTimeTooSkewed", "set the clock of this machine"),
        (403, "AccessDenied", "check the policy of the key and the names of the buckets"),
        (404, "NoSuchBucket", "check the name of the bucket, or run set-up"),
        (503, "SlowDown", "the store cannot do it now"),
        (500, "SomethingNew", "the store cannot do it now"),
        (507, "XMinioStorageFull", "the store has no space left"),
        (418, "Teapot", "check MINIO_ENDPOINT, and that the store runs"),
    ],
)
def test_a_code_is_told_with_what_to_look_at(status: int, code: str, hint: str):
    assert describe_answer(status, code) == f"{code} ({status}): {hint}"


def test_an_answer_without_a_code_is_told_by_its_status():
    texts = [describe_answer(status, "") for status in (301, 302, 400, 401, 403, 404, 407, 503)]
    assert all(text.startswith("no reason (") for text in texts)
    assert "check MINIO_REGION" in texts[0]
    assert "policy" in texts[4]
    assert "bucket" in texts[5]


def test_a_code_has_a_form_and_nothing_else_of_the_body_is_read():
    body = b"<?xml version='1.0'?><Error><Message>%b</Message><Code> %b </Code><Key>1000.csv</Key></Error>"
    assert [find_code(body % (b"Ada", code)) for code in HINTS_AS_BYTES] == list(HINTS)
    for code in (b"", b"Ada King", b"1000.csv", b"a/b", b"<b>", b"C" * 65, b"\xff", b"K\xc3\xb6nig"):
        assert find_code(body % (b"", code)) == ""
    assert find_code(b"") == ""


HINTS_AS_BYTES = [code.encode() for code in HINTS]


@pytest.mark.parametrize(
    ("words", "setting"),
    [
        ("SSL certificate problem: unable to get local issuer certificate", "SSL_CERT_FILE"),
        ("certificate verify failed: self-signed certificate", "SSL_CERT_FILE"),
        ("SSL: no alternative certificate subject name matches target host name 'store'", "MINIO_ENDPOINT"),
        (
            "certificate verify failed: Hostname mismatch, not valid for 's'.",
            "MINIO_ENDPOINT",
        ),
        ("Could not resolve host: store", "the host in MINIO_ENDPOINT"),
        ("Name or service not known", "the host in MINIO_ENDPOINT"),
        ("TLS connect error: error:0A00010B:SSL routines::wrong version number", "http or https"),
        ("Operation timed out after 7001 milliseconds with 0 bytes received", "that the store runs"),
        ("Connection refused", "that the store runs"),
        ("", "that the store runs"),
    ],
)
def test_a_request_without_an_answer_is_told_with_what_to_look_at(words: str, setting: str):
    told = describe_silence(words)
    assert told.startswith(words.rstrip(".") or "no answer")
    assert setting in told.rpartition(": ")[2]


def s3_error(code: str | None) -> S3Error:
    response = urllib3.HTTPResponse(status=403)
    return S3Error(
        response, code, "the key of Ada King", "/src-data/1000.csv", "1", "2", object_name="1000.csv"
    )


@pytest.mark.parametrize(
    ("error", "want"),
    [
        (s3_error("SignatureDoesNotMatch"), "SignatureDoesNotMatch (403)"),
        (s3_error("1000.csv"), "no reason (403)"),
        (s3_error(None), "no reason (403)"),
        (
            InvalidResponseError(
                403, "text/xml", "<Error><Code>AccessDenied</Code><Key>1000.csv</Key></Error>"
            ),
            "AccessDenied (403)",
        ),
        (InvalidResponseError(404, None, None), "no reason (404)"),
        (ServerError("server failed with 502 for 1000.csv", 502), "no reason (502)"),
        (
            MinioAdminException("403", '{"Code": "InvalidAccessKeyId", "Message": "no Ada"}'),
            "InvalidAccessKeyId (403)",
        ),
        (MinioAdminException("400", "<html>Ada"), "no reason (400)"),
        (ConnectionRefusedError(111, "Connection refused"), "Connection refused"),
        (TimeoutError("timed out"), "timed out"),
        (socket.gaierror(-2, "Name or service not known"), "Name or service not known"),
        (
            urllib3.exceptions.ProtocolError("Connection aborted.", ConnectionResetError(104, "reset")),
            "reset",
        ),
        (urllib3.exceptions.HTTPError("/src-data/1000.csv of Ada"), "HTTPError"),
    ],
)
def test_an_error_is_told_without_what_it_quotes(error: Exception, want: str):
    told = describe_error(error)
    assert told.startswith(f"{want}: ")
    assert "Ada" not in told
    assert "1000" not in told
