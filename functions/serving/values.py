"""What the values of settings look like, one form for each setting (pure).

Only the standard library, and nothing that Python 3.9 lacks: the check of local/.env runs before anything is
installed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from ipaddress import ip_address
from typing import NamedTuple

_CHARACTERS = {
    "\r": "a carriage return, as every line of a file with Windows line ends (CRLF) does",
    "\n": "a line end",
    "\t": "a tab",
    " ": "a blank",
}


class Form(NamedTuple):
    """What a setting accepts; `wanted` says so in words. The value of a secret is never shown."""

    wanted: str
    accepts: Callable[[str], bool]
    is_secret: bool = False


def find_fault(name: str, value: str) -> str:
    """Return what is wrong with the value of a setting, as one sentence; empty when nothing is."""
    fault = find_text_fault(value)
    form = FORMS.get(name)
    if fault:
        return f"{name} {fault}"
    if form is None or form.accepts(value):
        return ""
    return describe(name, value, form.wanted, is_secret=form.is_secret)


def describe(name: str, value: str, wanted: str, *, is_secret: bool = False) -> str:
    """Return the sentence about a value of the wrong form; without the value where it may hold a secret."""
    if is_secret:
        return f"{name} is not of the accepted form (its value is secret), wanted {wanted}"
    if "@" in value:
        return f"{name} has credentials in it, wanted an address without"
    return f"{name} is {value!r}, wanted {wanted}"


def find_text_fault(value: str) -> str:
    """Return what no setting may hold, without the value, which may be a secret; empty when nothing is wrong.

    Control characters and bytes that are not UTF-8 anywhere; blanks and invisible characters at the ends.
    """
    if not value:
        return ""
    if value[-1] == "\r" or _is_margin(value[-1]):
        return f"ends with {_name(value[-1])}"
    if _is_margin(value[0]):
        return f"begins with {_name(value[0])}"
    wrong = next((each for each in value if unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp")), None)
    return f"contains {_name(wrong)}" if wrong else ""


def is_host(text: str) -> bool:
    """True for a host name or an IP address."""
    if ":" in text or _NUMBER.fullmatch(text.rpartition(".")[2]):
        return is_address(text)  # 1.2 and 0x7f.1 are addresses too, which each client reads in its own way
    return len(text) <= 253 and bool(_HOST.fullmatch(text))


def is_address(text: str) -> bool:
    """True for an IP address."""
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def is_host_list(text: str) -> bool:
    """True for host names with commas between them, or none."""
    return not text or all(":" not in name and is_host(name) for name in text.split(","))


def is_bucket(text: str) -> bool:
    """True for a name that S3 and minio-py take for a bucket that is addressed by path."""
    if not _BUCKET.fullmatch(text) or is_address(text) or re.search(r"\.[.-]|-\.", text):
        return False
    return not text.startswith(("xn--", "sthree-")) and not text.endswith(
        ("-s3alias", "--ol-s3", "--x-s3", "--table-s3", ".mrap")
    )


def is_prefix(text: str) -> bool:
    """True for a path of folders in a bucket, which minio-py and stores that keep files can hold."""
    folders = text.split("/")
    return (
        len(text.encode(errors="surrogatepass")) <= 512  # a key has 1,024 bytes at most
        and folders.pop() == ""
        and not {"", ".", ".."} & set(folders)
    )


def split_endpoint(text: str) -> tuple[str, str, int | None]:
    """Return scheme, host (IPv6 in brackets) and port of a store's address; raises ValueError.

    The port is None when it is the usual one of the scheme.
    """
    found = _ENDPOINT.fullmatch(text)
    if not found:
        raise ValueError
    scheme, host = found[1].lower(), found[2].lower()
    port = int(found[3]) if found[3] else None
    is_known = ":" in host and is_host(host[1:-1]) if host.startswith("[") else is_host(host)
    if not is_known or port == 0 or (port or 0) > 65535:
        raise ValueError
    return scheme, host, None if port == {"http": 80, "https": 443}[scheme] else port


def is_endpoint(text: str) -> bool:
    """True for the address of a store."""
    try:
        split_endpoint(text)
    except ValueError:
        return False
    return True


def find_endpoint_fault(endpoint: str, region: str) -> str:
    """Return why a well-formed address cannot be used for S3 by path in this region; empty when it can."""
    host = split_endpoint(endpoint)[1]
    if not _AMAZON.search(host) or _AMAZON_COMPUTERS.search(host):
        return ""
    usual = f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
    for pattern, what in _UNSUPPORTED.items():
        if re.search(pattern, host):
            return f"is {what}, which is not supported, wanted an address such as {usual}"
    found = _S3.fullmatch(host)
    if not found:
        return f"is no endpoint of S3 that is supported, wanted an address such as {usual}"
    named = found[1] or found[2] or "us-east-1"
    if named != region:
        return f"is for the region {named} but MINIO_REGION is {region}: wanted {usual} or another region"
    return ""


def is_url(text: str) -> bool:
    """True for an http or https address with any path and query."""
    return bool(_URL.fullmatch(text)) and is_endpoint("/".join(text.split("/", 3)[:3]))


def is_role_prefix(text: str) -> bool:
    """True for what the names of Postgres roles may begin with; `process_users` may come after it."""
    return len(text.encode()) <= 50 and "$" not in text and not text.startswith("pg_")


def is_postgres_host(text: str) -> bool:
    """True for a host, or the directory of a Unix socket whose path is short enough."""
    if text.startswith("/"):
        return len(text.encode(errors="surrogatepass")) <= 85
    return is_host(text)


def is_token(text: str) -> bool:
    """True for a secret that can stand in a header."""
    return text.isascii() and text.isprintable() and " " not in text


def whole_number(minimum: int, maximum: int) -> Form:
    """Return the form of a decimal number from minimum to maximum."""
    return Form(
        f"a whole number from {minimum} to {maximum}",
        lambda text: bool(_DIGITS.fullmatch(text)) and minimum <= int(text) <= maximum,
    )


def one_of(choices: Sequence[str]) -> Form:
    """Return the form of one of a few words."""
    return Form(" or ".join(choices), lambda text: text in choices)


def _is_margin(character: str) -> bool:
    return character.isspace() or unicodedata.category(character) == "Cf"


def _name(character: str) -> str:
    if unicodedata.category(character) == "Cs":
        return "bytes that are not UTF-8"
    return _CHARACTERS.get(character, f"the character U+{ord(character):04X}")


_DIGITS = re.compile(r"[0-9]{1,18}")
_NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9])?"
_HOST = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_ENDPOINT = re.compile(r"(https?)://(\[[0-9a-f:.]+\]|[^\[\]/?#@:]+)(?::([0-9]{1,5}))?/?", re.IGNORECASE)
_URL = re.compile(r"https?://[!-~]+")
_AMAZON = re.compile(r"(^|\.)amazonaws\.com(\.cn)?$")
_AMAZON_COMPUTERS = re.compile(r"^ec2-|\.elb\.amazonaws\.com$")  # where any store may run
# The endpoints of S3 itself that take a bucket in the path; the groups are the region.
_S3 = re.compile(
    r"s3\.amazonaws\.com|s3(?:-fips)?\.([a-z0-9-]+)\.amazonaws\.com(?:\.cn)?"
    r"|bucket\.vpce-[a-z0-9-]+\.s3\.([a-z0-9-]+)\.vpce\.amazonaws\.com"
)
_UNSUPPORTED = {
    r"s3-accelerate": "an endpoint of S3 Transfer Acceleration",
    r"(^|\.)dualstack\.": "a dual-stack endpoint of S3",
    r"s3-website": "a website endpoint of S3",
    r"s3express": "an endpoint of S3 Express",
    r"accesspoint|s3-object-lambda|s3-outposts|s3-control": "an endpoint of S3 access points",
    r".\.s3[.-](?!.*\.vpce\.)": "an endpoint of S3 with a bucket in its name",
}

BUCKET = Form(
    "the name of a bucket: 3 to 63 lower-case letters, digits, dots and hyphens, letters or digits at the "
    "ends and around each dot, no IP address, no name that S3 reserves",
    is_bucket,
)
PREFIX = Form(
    "folders, each followed by one /, as in incoming/people/: not . or .., at most 512 bytes in all",
    is_prefix,
)
ENDPOINT = Form("an address such as http://127.0.0.1:9000", is_endpoint)
HOST = Form(
    "one host name, one IP address or the directory of a Unix socket (at most 85 bytes)", is_postgres_host
)
HOSTS = Form(
    "host names with commas between them, as in rollcall.example,intranet: no scheme, port, path, wildcard "
    "or blank",
    is_host_list,
)
NAME = Form("at most 63 bytes", lambda text: len(text.encode(errors="surrogatepass")) <= 63)
REGION = Form("a region such as us-east-1", lambda text: bool(re.fullmatch(_LABEL, text)))
TOKEN = Form("ASCII letters, digits and signs without blanks", is_token, is_secret=True)
ACCESS_KEY = Form(
    "ASCII letters, digits and signs other than : , and =, without blanks",
    lambda text: is_token(text) and not set(text) & set(":,="),
    is_secret=True,
)
SECRET_KEY = Form(
    "ASCII letters, digits and signs", lambda text: text.isascii() and text.isprintable(), is_secret=True
)
# Of users that MinIO is to make.
USER_KEY = Form(
    f"3 or more {ACCESS_KEY.wanted}", lambda text: len(text) >= 3 and ACCESS_KEY.accepts(text), True
)
USER_SECRET = Form(
    f"8 or more {SECRET_KEY.wanted}", lambda text: len(text) >= 8 and SECRET_KEY.accepts(text), True
)
PORT = whole_number(1, 65535)

ROLE_PREFIX = Form("at most 50 bytes that do not begin with pg_ and hold no $", is_role_prefix)
SESSIONS = whole_number(1, 262_143)
FORMS = {
    "PGHOST": HOST,
    "PGPORT": PORT,
    "PGUSER": NAME,
    "PGDATABASE": NAME,
    "PGSSLMODE": one_of(("disable", "prefer", "require", "verify-full")),
    "MINIO_ENDPOINT": ENDPOINT,
    "MINIO_PUBLIC_ENDPOINT": ENDPOINT,
    "MINIO_REGION": REGION,
    "MINIO_ACCESS_KEY": ACCESS_KEY,
    "MINIO_SECRET_KEY": SECRET_KEY,
    "SOURCE_BUCKET": BUCKET,
    "SOURCE_PREFIX": PREFIX,
    "OUTPUT_BUCKET": BUCKET,
    "ON_SOURCE_DELETE": one_of(("keep", "remove")),
    "EVENTS_TOKEN": TOKEN,
    "EXPORT_MAX_S": whole_number(1, 86_400),
    "LOG_LEVEL": one_of(("debug", "info", "warning", "error")),
    "THREADS": whole_number(1, 1024),
    "WORKERS": whole_number(1, 1024),
    "PG_SESSIONS": whole_number(2, 1024),
    "ALLOWED_HOSTS": HOSTS,
    "API_TOKEN": TOKEN,
    "PROCESS_URL": Form("an address such as http://127.0.0.1:8080/data", is_url),
    "ROLLCALL_URL": Form("an address such as http://127.0.0.1:8080", is_url),
    "PROCESS_INTERVAL_S": whole_number(1, 7 * 24 * 3600),
    "SAMPLE_DATA": one_of(("on", "off")),
    "MINIO_ADMIN": one_of(("on", "off")),
    "POSTGRES_DEDICATED": one_of(("on", "off")),
    "ROLE_PREFIX": ROLE_PREFIX,
    "PROCESS_USERS_SESSIONS": SESSIONS,
    "GET_DATA_SESSIONS": SESSIONS,
    "READER_SESSIONS": SESSIONS,
    "MINIO_ROOT_USER": ACCESS_KEY,
    "MINIO_ROOT_PASSWORD": SECRET_KEY,
    "PROCESS_USERS_ACCESS_KEY": USER_KEY,
    "PROCESS_USERS_SECRET_KEY": USER_SECRET,
    "GET_DATA_ACCESS_KEY": USER_KEY,
    "GET_DATA_SECRET_KEY": USER_SECRET,
    "UPLOADER_ACCESS_KEY": USER_KEY,
    "UPLOADER_SECRET_KEY": USER_SECRET,
}
