"""Read settings from a mapping such as os.environ, and report everything that is wrong with them at once."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from serving.values import (
    describe,
    find_endpoint_fault,
    find_fault,
    split_endpoint,
    whole_number,
)

AUTHORITIES = "a file with the certificates of the authorities to trust, in PEM"
AUTHORITIES_DIRECTORIES = "directories of such certificates, as `openssl rehash` leaves them"


class SettingsError(Exception):
    """Settings are missing or malformed; the message has one line for each."""


class Environment:
    """Typed access to a mapping of settings that remembers every problem until `check` is called.

    Each value has the form that `values.FORMS` has for its name.
    """

    def __init__(self, mapping: Mapping[str, str]) -> None:
        self._mapping = mapping
        self._problems: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        """Return the value as it is; without a default it is required and may not be empty."""
        value = self._mapping.get(name, "")
        if not value:
            if default is None:
                self.refuse(f"{name} is not set")
            return default or ""
        if fault := find_fault(name, value):
            self.refuse(fault)
            return default or ""
        return value

    def password(self, name: str, default: str | None = None) -> str:
        """Return a password of Postgres; pg8000 cannot log in with one that SCRAM's rules do not allow."""
        value = self.text(name, default)
        if value.isascii():
            return value
        from scramp.utils import ScramException, saslprep

        try:
            saslprep(value)
        except ScramException:
            self.refuse(f"{name} has characters that SCRAM does not allow in a password, such as an emoji")
        return value

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """Return a decimal integer from minimum to maximum."""
        value, form = self.text(name, ""), whole_number(minimum, maximum)
        if value and not form.accepts(value):
            self.refuse(describe(name, value, form.wanted))
            return default
        return int(value or default)

    def number(self, name: str, default: int) -> int:
        """Return a number whose form `values.FORMS` knows."""
        return int(self.text(name, "") or default)

    def url(self, name: str, default: str | None = None) -> str:
        """Return the address of a store in one spelling: lower case, no usual port, no final slash."""
        value = self.text(name, default)
        if not value:
            return ""
        scheme, host, port = split_endpoint(value)
        return f"{scheme}://{host}:{port}" if port else f"{scheme}://{host}"

    def file(self, name: str, check: Callable[[str], None], *, wanted: str) -> str:
        """Return the path of a file or directory that `check` takes, empty when there is none."""
        value = self.text(name, "")
        try:
            if value:
                check(value)
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "it holds none"
            self.refuse(f"{name} is {value!r}, wanted {wanted}: {reason}")
            return ""
        return value

    def refuse(self, problem: str) -> None:
        """Remember a problem, once: two settings classes may read the same variable."""
        if problem not in self._problems:
            self._problems.append(problem)

    def check(self) -> None:
        """Raise SettingsError with every problem found so far."""
        if self._problems:
            raise SettingsError("settings are wrong:\n" + "\n".join(f"  {line}" for line in self._problems))


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """Where Postgres is, by the names libpq uses; `host` may be the directory of a Unix socket."""

    host: str
    port: int
    user: str
    database: str
    sslmode: str
    sslrootcert: str
    password: str = field(repr=False)

    @classmethod
    def from_environment(cls, env: Environment) -> "PostgresSettings":
        """Read PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE, PGSSLMODE and PGSSLROOTCERT."""
        settings = cls(
            host=env.text("PGHOST"),
            port=env.number("PGPORT", 5432),
            user=env.text("PGUSER"),
            database=env.text("PGDATABASE"),
            sslmode=env.text("PGSSLMODE", "prefer"),
            sslrootcert=env.file("PGSSLROOTCERT", check_authorities, wanted=AUTHORITIES),
            password=env.password("PGPASSWORD", ""),
        )
        mode = settings.sslmode
        if settings.host.startswith("/") and mode in ("require", "verify-full"):
            env.refuse(f"PGSSLMODE is {mode} but PGHOST is a Unix socket, which has no TLS: wanted disable")
        if settings.sslrootcert and mode == "require":
            env.refuse(
                "PGSSLMODE is require, which does not look at the certificates of PGSSLROOTCERT: wanted "
                "verify-full, or no PGSSLROOTCERT"
            )
        return settings


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """What the boundary of each function is set up with; `allowed_hosts` are in lower case."""

    log_level: str
    threads: int
    sessions: int  # that one worker may have with Postgres
    allowed_hosts: frozenset[str]
    api_token: str = field(repr=False)

    @classmethod
    def from_environment(cls, env: Environment) -> "ServingSettings":
        """Read LOG_LEVEL, ALLOWED_HOSTS, API_TOKEN, PG_SESSIONS; the framework's WORKERS, THREADS."""
        env.number("WORKERS", 1)
        threads = env.number("THREADS", 8)
        return cls(
            log_level=env.text("LOG_LEVEL", "info"),
            threads=threads,
            # Half of the threads may export, each with a session for as long as that takes.
            sessions=env.number("PG_SESSIONS", threads // 2 + 2),
            allowed_hosts=frozenset(filter(None, env.text("ALLOWED_HOSTS", "").lower().split(","))),
            api_token=env.text("API_TOKEN", ""),
        )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the S3-compatible store is; `endpoint` is an http or https address without a path.

    `ca_file` and `ca_dir` hold the authorities to trust; both empty: those of the system.
    """

    endpoint: str
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)
    ca_file: str = ""
    ca_dir: str = ""

    @classmethod
    def from_environment(
        cls, env: Environment, *, keys: tuple[str, str] = ("MINIO_ACCESS_KEY", "MINIO_SECRET_KEY")
    ) -> "StoreSettings":
        """Read MINIO_ENDPOINT, MINIO_REGION, SSL_CERT_FILE, SSL_CERT_DIR and the variables of the keys."""
        region = env.text("MINIO_REGION", "us-east-1")
        ca_file, ca_dir = read_authorities(env)
        return cls(
            endpoint=read_endpoint(env, "MINIO_ENDPOINT", region=region),
            region=region,
            access_key=env.text(keys[0]),
            secret_key=env.text(keys[1]),
            ca_file=ca_file,
            ca_dir=ca_dir,
        )


@dataclass(frozen=True, slots=True)
class BucketSettings:
    """Where records and pictures are, and where the outputs go."""

    source: str
    prefix: str
    output: str

    @classmethod
    def from_environment(cls, env: Environment) -> "BucketSettings":
        """Read SOURCE_BUCKET, SOURCE_PREFIX and OUTPUT_BUCKET."""
        settings = cls(
            source=env.text("SOURCE_BUCKET", "src-data"),
            prefix=env.text("SOURCE_PREFIX", ""),
            output=env.text("OUTPUT_BUCKET", "processed-data"),
        )
        if settings.source == settings.output and not settings.prefix:
            env.refuse(
                "SOURCE_BUCKET is OUTPUT_BUCKET, whose output.csv would be a record; set a SOURCE_PREFIX"
            )
        return settings


def read_endpoint(env: Environment, name: str, default: str | None = None, *, region: str) -> str:
    """Read the address of a store that can be used by path in this region."""
    endpoint = env.url(name, default)
    if endpoint and endpoint != default and (fault := find_endpoint_fault(endpoint, region)):
        env.refuse(f"{name} {fault}")
    return endpoint


def read_authorities(env: Environment) -> tuple[str, str]:
    """Read SSL_CERT_FILE and SSL_CERT_DIR: whom to trust instead of the authorities of the system."""
    return (
        env.file("SSL_CERT_FILE", check_authorities, wanted=AUTHORITIES),
        env.file("SSL_CERT_DIR", check_authorities_directories, wanted=AUTHORITIES_DIRECTORIES),
    )


def check_authorities(path: str) -> None:
    """Raise OSError or ValueError when the file cannot be read or holds no certificate in PEM."""
    import ssl

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cafile=path)
    except ssl.SSLError as error:  # an OSError whose text is OpenSSL's own
        raise ValueError from error
    if not context.cert_store_stats()["x509"]:
        raise ValueError


def check_authorities_directories(path: str) -> None:
    """Raise OSError or ValueError unless each directory, separated by colons, has a certificate by hash."""
    for directory in path.split(":"):
        if not any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", entry.name) for entry in Path(directory).iterdir()):
            raise ValueError
