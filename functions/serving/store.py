"""Clients of the store, as StoreSettings has it, and what their errors say: the same for all that use it."""

import ssl
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from serving.settings import StoreSettings
from serving.store_reasons import describe_answer, describe_silence, find_code

if TYPE_CHECKING:
    from minio import Minio
    from urllib3 import PoolManager


class Authorities(NamedTuple):
    """Whose certificates are trusted: a file and directories as OpenSSL has them; empty: none there."""

    file: str
    directories: str


def find_authorities(settings: StoreSettings) -> Authorities:
    """Return those of SSL_CERT_FILE and SSL_CERT_DIR, else those of the system, else certifi's."""
    if settings.ca_file or settings.ca_dir:
        return Authorities(settings.ca_file, settings.ca_dir)
    paths = ssl.get_default_verify_paths()
    if paths.cafile or paths.capath:
        return Authorities(paths.cafile or "", paths.capath or "")
    import certifi  # a requirement of minio

    return Authorities(certifi.where(), "")


def build_pool(settings: StoreSettings, **options: Any) -> "PoolManager":
    """Return connections for a client, with these options of urllib3's PoolManager."""
    # Imported where it is used: functions start without it.
    from urllib3 import PoolManager

    if settings.endpoint.startswith("https:"):
        file, directories = find_authorities(settings)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if file:
            context.load_verify_locations(cafile=file)
        for directory in filter(None, directories.split(":")):
            context.load_verify_locations(capath=directory)
        options["ssl_context"] = context
    return PoolManager(**options)


def build_client(settings: StoreSettings, pool: "PoolManager | None" = None) -> "Minio":
    """Return minio-py's client; without a pool it only signs."""
    # Imported where it is used: it takes longer to import than all the rest.
    from minio import Minio

    address = urlsplit(settings.endpoint)
    client = Minio(
        endpoint=address.netloc,
        access_key=settings.access_key,
        secret_key=settings.secret_key,
        secure=address.scheme == "https",
        region=settings.region,  # else it would ask the store for it
        http_client=pool,
    )
    # minio-py writes another host than the one that is set where that one is Amazon's.
    client._base_url._aws_info = None
    client.disable_virtual_style_endpoint()
    return client


def describe_error(error: Exception) -> str:
    """Return what an error of minio-py or urllib3 says of the store, without keys, paths and secrets."""
    from minio.error import InvalidResponseError, MinioAdminException, S3Error, ServerError

    if isinstance(error, S3Error):
        code = find_code(f"<Code>{error.code or ''}</Code>".encode())
        return describe_answer(getattr(error.response, "status", 0), code)
    if isinstance(error, InvalidResponseError):
        return describe_answer(error._code, find_code((error._body or "").encode()))
    if isinstance(error, MinioAdminException):
        return describe_answer(int(error._code), _find_admin_code(error._body))
    if isinstance(error, ServerError):
        return describe_answer(error.status_code, "")
    return describe_silence(_find_words(error))


def _find_admin_code(body: str) -> str:
    import json

    try:
        code = json.loads(body)["Code"]
    except (TypeError, ValueError, KeyError):
        return ""
    return find_code(f"<Code>{code}</Code>".encode())


def _find_words(error: BaseException) -> str:
    """Return the words of the system's own error at the bottom: those above quote addresses with keys."""
    while not isinstance(error, OSError):
        causes = (getattr(error, "reason", None), error.__cause__, *error.args, error.__context__)
        below = next((cause for cause in causes if isinstance(cause, BaseException)), None)
        if below is None:
            return type(error).__name__
        error = below
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate verify failed: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"TLS failed: {error.reason}"
    if isinstance(error, TimeoutError):
        return "timed out"
    return error.strerror or type(error).__name__
