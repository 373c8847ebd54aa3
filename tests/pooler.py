"""PgBouncer in front of a Postgres, for the tests (Debian's package pgbouncer)."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from pg8000.exceptions import DatabaseError, InterfaceError
from rig import ROLE_PREFIX, Database

from rollcall.ports import HOST
from rollcall.processes import Account, Program, StartError
from rollcall.servers import serving

UNPRIVILEGED = "nobody"  # it refuses to run as root


@dataclass(frozen=True, slots=True, kw_only=True)
class Pooler:
    """PgBouncer on a port of its own; `mode` is session or transaction."""

    database: Database
    mode: str
    port: int
    home: Path

    @property
    def pooled(self) -> Database:
        """The database as it is reached through the pooler."""
        return replace(self.database, settings=replace(self.database.settings, port=self.port))

    @property
    def _account(self) -> Account | None:
        return Account.named(UNPRIVILEGED) if os.geteuid() == 0 else None

    def prepare(self) -> None:
        settings = self.database.settings
        passwords = {ROLE_PREFIX + role: password for role, password in self.database.passwords.items()}
        passwords[settings.user] = settings.password
        users = self.home / "users.txt"
        users.write_text("".join(f'"{name}" "{password}"\n' for name, password in passwords.items()))
        config = {
            "listen_addr": HOST,
            "listen_port": self.port,
            "unix_socket_dir": "",
            "auth_type": "scram-sha-256",
            "auth_file": users,
            "pool_mode": self.mode,
            "default_pool_size": 10,
            "max_client_conn": 200,
        }
        lines = [f"{name} = {value}" for name, value in config.items()]
        to = f"* = host={settings.host} port={settings.port}"
        (self.home / "pgbouncer.ini").write_text("\n".join(["[databases]", to, "[pgbouncer]", *lines, ""]))
        if account := self._account:
            for path in (self.home, *self.home.iterdir()):
                os.chown(path, account.uid, account.gid)

    def program(self) -> Program:
        binary = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if binary is None:
            raise StartError("pgbouncer is not installed: it is a package of Debian's")
        return Program(
            name="pgbouncer",
            argv=(binary, str(self.home / "pgbouncer.ini")),
            env={"PATH": os.defpath},
            log=self.home.with_suffix(".log"),
            cwd=Path("/"),
            account=self._account,
        )

    def answers(self) -> bool:
        try:
            self.pooled.run("select")
        except (DatabaseError, InterfaceError, OSError):
            return False
        return True


@contextmanager
def pooling(database: Database, mode: str) -> Iterator[Pooler]:
    """Run a pooler until the end of the block."""
    home = Path(tempfile.mkdtemp(prefix="rollcall-pooler-"))
    home.chmod(0o700)
    try:
        with serving(lambda port: Pooler(database=database, mode=mode, port=port, home=home)) as pooler:
            yield pooler
    finally:
        home.with_suffix(".log").unlink(missing_ok=True)
        shutil.rmtree(home)
