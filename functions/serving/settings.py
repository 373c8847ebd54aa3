"""Read settings from a mapping such as os.environ, and report everything that is wrong with them at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar
from urllib.parse import urlsplit

T = TypeVar("T")
SSL_MODES = ("disable", "prefer", "require", "verify-full")


class SettingsError(Exception):
    """Settings are missing or malformed; the message has one line for each."""


class Environment:
    """Typed access to a mapping of settings that remembers every problem until `check` is called."""

    def __init__(self, mapping: Mapping[str, str]) -> None:
        self._mapping = mapping
        self._problems: list[str] = []

    def text(self, name: str, default: str | None = None) -> str:
        """Return the value as it is; without a default it is required and may not be empty."""
        value = self._mapping.get(name, "")
        if value:
            return value
        if default is None:
            self._problems.append(f"{name} is not set")
            return ""
        return default

    def integer(self, name: str, default: int, *, minimum: int = 0, maximum: int = 2**31 - 1) -> int:
        """Return a decimal integer from minimum to maximum."""

        def parse(value: str) -> int:
            if not (value.isascii() and value.isdigit() and minimum <= int(value) <= maximum):
                raise ValueError
            return int(value)

        return self._parsed(name, default, parse, f"a whole number from {minimum} to {maximum}")

    def choice(self, name: str, default: str, *, choices: Sequence[str]) -> str:
        """Return one of the choices."""

        def parse(value: str) -> str:
            if value not in choices:
                raise ValueError
            return value

        return self._parsed(name, default, parse, " or ".join(choices))

    def url(self, name: str, default: str | None = None) -> str:
        """Return an http or https address without path, query or credentials, and without a final slash."""

        def parse(value: str) -> str:
            parts = urlsplit(value)
            _ = parts.port  # raises ValueError when it is no port
            if parts.scheme not in ("http", "https") or not parts.hostname:
                raise ValueError
            if parts.path not in ("", "/") or parts.query or parts.fragment:
                raise ValueError
            return value.rstrip("/")

        if default is None and not self.text(name):
            return ""
        if "@" in self._mapping.get(name, ""):
            # Said without the value, which holds a secret.
            self._problems.append(f"{name} has credentials in it, wanted an address without")
            return ""
        return self._parsed(name, default or "", parse, "an address such as http://127.0.0.1:9000")

    def matching(self, name: str, default: str, *, accepts: Callable[[str], bool], wanted: str) -> str:
        """Return a text that `accepts` is true of; `wanted` says in words what that is."""

        def parse(value: str) -> str:
            if not accepts(value):
                raise ValueError
            return value

        return self._parsed(name, default, parse, wanted)

    def token(self, name: str) -> str:
        """Return a secret that can stand in a header, empty when there is none."""
        value = self._mapping.get(name, "")
        if not (value.isascii() and value.isprintable() and " " not in value):
            # Said without the value.
            self._problems.append(f"{name} has characters other than ASCII letters, digits and signs")
        return value

    def refuse(self, problem: str) -> None:
        """Remember a problem that lies in more than one setting."""
        self._problems.append(problem)

    def check(self) -> None:
        """Raise SettingsError with every problem found so far."""
        if self._problems:
            raise SettingsError("settings are wrong:\n" + "\n".join(f"  {line}" for line in self._problems))

    def _parsed(self, name: str, default: T, parse: Callable[[str], T], wanted: str) -> T:
        value = self._mapping.get(name, "")
        if not value:
            return default
        try:
            return parse(value)
        except ValueError:
            self._problems.append(f"{name} is {value!r}, wanted {wanted}")
            return default


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
        return cls(
            host=env.text("PGHOST"),
            port=env.integer("PGPORT", 5432, minimum=1, maximum=65535),
            user=env.text("PGUSER"),
            database=env.text("PGDATABASE"),
            sslmode=env.choice("PGSSLMODE", "prefer", choices=SSL_MODES),
            sslrootcert=env.text("PGSSLROOTCERT", ""),
            password=env.text("PGPASSWORD", ""),
        )


@dataclass(frozen=True, slots=True)
class ServingSettings:
    """What the boundary of each function is set up with."""

    log_level: str
    threads: int
    api_token: str = field(repr=False)

    @classmethod
    def from_environment(cls, env: Environment) -> "ServingSettings":
        """Read LOG_LEVEL, API_TOKEN and THREADS (the framework's own: threads of one worker)."""
        return cls(
            log_level=env.choice("LOG_LEVEL", "info", choices=("debug", "info", "warning", "error")),
            threads=env.integer("THREADS", 8, minimum=1, maximum=1024),
            api_token=env.token("API_TOKEN"),
        )


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where the S3-compatible store is; `endpoint` is an http or https address without a path."""

    endpoint: str
    region: str
    access_key: str = field(repr=False)
    secret_key: str = field(repr=False)

    @classmethod
    def from_environment(cls, env: Environment) -> "StoreSettings":
        """Read MINIO_ENDPOINT, MINIO_REGION, MINIO_ACCESS_KEY and MINIO_SECRET_KEY."""
        return cls(
            endpoint=env.url("MINIO_ENDPOINT"),
            region=env.text("MINIO_REGION", "us-east-1"),
            access_key=env.text("MINIO_ACCESS_KEY"),
            secret_key=env.text("MINIO_SECRET_KEY"),
        )
