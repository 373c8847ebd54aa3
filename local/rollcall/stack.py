"""What `make run` runs: each program with its settings, and the addresses between them."""

import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rollcall.ports import HOST, choose_port, is_free
from rollcall.processes import Program, StartError
from rollcall.run_directory import RunDirectory
from rollcall.servers import OWNER, Key, Postgres, Rclone, find_home, script
from serving.settings import BucketSettings, Environment, read_authorities
from serving.values import FORMS

REPOSITORY = Path(__file__).resolve().parents[2]
USUAL_DIRECTORY = REPOSITORY / ".run"
REGION = "us-east-1"
DATABASE = "rollcall"
# Keep sessions for the functions, and soon end logins that are never finished: neither is to shut them out.
DEDICATED = {"reserved_connections": "50", "authentication_timeout": "10s"}
# What a user's environment may say about other programs, and must not say about ours.
NOT_PASSED_ON = re.compile(
    r"(PG|MINIO_|AWS_|RCLONE_|DBMATE_|DATABASE_URL|PYTHON|FUNCTION_|GUNICORN_|XDG_|GATEWAY_|LC_|LANG)\w*"
    r"|HOME|HOST|PORT|DEBUG|ENTRY_POINT|LOG_EXECUTION_ID|VIRTUAL_ENV"
)


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What can be said about a run in its environment; port 0 takes any free one."""

    directory: Path
    gateway_port: int
    gateway_port_2: int
    postgres_port: int
    minio_port: int
    pictures_port: int
    source_bucket: str
    source_prefix: str
    output_bucket: str
    sample_data: str
    passed_on: Mapping[str, str]

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "RunSettings":
        """Reads the environment; SettingsError names everything that is wrong with it."""
        env = Environment(mapping)
        passed_on = {name: value for name, value in mapping.items() if not NOT_PASSED_ON.fullmatch(name)}
        buckets = BucketSettings.from_environment(env)
        settings = cls(
            directory=Path(env.text("RUN_DIR", str(USUAL_DIRECTORY))).expanduser().absolute(),
            gateway_port=env.integer("GATEWAY_PORT", 8080, minimum=0, maximum=65535),
            gateway_port_2=env.integer("GATEWAY_PORT_2", 5000, minimum=0, maximum=65535),
            postgres_port=env.integer("POSTGRES_PORT", 5432, minimum=0, maximum=65535),
            minio_port=env.integer("MINIO_PORT", 9000, minimum=0, maximum=65535),
            pictures_port=env.integer("PICTURES_PORT", 0, minimum=0, maximum=65535),
            source_bucket=buckets.source,
            source_prefix=buckets.prefix,
            output_bucket=buckets.output,
            sample_data=env.text("SAMPLE_DATA", "on"),
            passed_on=passed_on,
        )
        # Those of the functions and of the scheduler, before anything starts.
        for name in FORMS.keys() & passed_on.keys():
            env.text(name, "")
        read_authorities(env)
        env.check()
        return settings


@dataclass(frozen=True, slots=True)
class Ports:
    """Where everything listens, on 127.0.0.1; `gateway_2` is None when another program has that port."""

    gateway: int
    gateway_2: int | None
    postgres: int
    minio: int
    pictures: int
    process_users: int
    get_data: int

    @classmethod
    def choose(cls, settings: RunSettings) -> "Ports":
        """Takes the ports that were asked for; StartError names each one that is taken, and its variable."""
        wanted = {
            "GATEWAY_PORT": settings.gateway_port,
            "POSTGRES_PORT": settings.postgres_port,
            "MINIO_PORT": settings.minio_port,
            "PICTURES_PORT": settings.pictures_port,
        }
        taken = {name: port for name, port in wanted.items() if port and not is_free(port)}
        if taken:
            ports = ", ".join(f"{port} ({name})" for name, port in taken.items())
            others = " ".join(f"{name}=0" for name in taken)
            raise StartError(f"Taken by another program: port {ports}. For any free one: make run {others}")
        gateway_2 = settings.gateway_port_2 or choose_port()
        return cls(
            gateway=settings.gateway_port or choose_port(),
            gateway_2=gateway_2 if is_free(gateway_2) else None,
            postgres=settings.postgres_port or choose_port(),
            minio=settings.minio_port or choose_port(),
            pictures=settings.pictures_port or choose_port(),
            process_users=choose_port(),
            get_data=choose_port(),
        )


@dataclass(frozen=True, slots=True)
class Stack:
    """The programs of one run."""

    settings: RunSettings
    directory: RunDirectory
    ports: Ports
    secrets: Mapping[str, str]

    @property
    def url(self) -> str:
        """Where people and programs find Rollcall."""
        return f"http://{HOST}:{self.ports.gateway}"

    @property
    def store_url(self) -> str:
        """Where the buckets are."""
        return f"http://{HOST}:{self.ports.minio}"

    def postgres(self) -> Postgres:
        """The database server."""
        return Postgres(
            home=find_home(self.directory.postgres),
            port=self.ports.postgres,
            password=self.secrets["POSTGRES_PASSWORD"],
            log=self.directory.log("postgres"),
            options=DEDICATED,
        )

    def s3(self) -> Rclone:
        """The object store for everybody but get-data; every key may do everything in it."""
        return Rclone(
            directory=self.directory.buckets,
            port=self.ports.minio,
            keys=[self._key("PROCESS_USERS"), self._key("UPLOADER"), self._root_key()],
            log=self.directory.log("s3"),
        )

    def pictures(self) -> Rclone:
        """The same buckets for get-data's key, which can only read pictures of the source bucket."""
        return Rclone(
            name="pictures",
            directory=self.directory.buckets,
            port=self.ports.pictures,
            keys=[self._key("GET_DATA")],
            log=self.directory.log("pictures"),
            limits=(
                "--read-only",
                "--ignore-case",
                f"--include=/{self.settings.source_bucket}/**.{{png,jpg,jpeg}}",
            ),
        )

    def setup(self) -> Program:
        """Makes what the functions need, and ends."""
        root = self._root_key()
        return self._python(
            "setup",
            {
                **self._database(OWNER, "POSTGRES_PASSWORD"),
                **self._store_address(),
                "MINIO_ROOT_USER": root.access,
                "MINIO_ROOT_PASSWORD": root.secret,
                "MINIO_ADMIN": "off",
                "POSTGRES_DEDICATED": "on",
                "SAMPLE_DATA": self.settings.sample_data,
                **{
                    name: value
                    for name, value in self.secrets.items()
                    if name.endswith(("_PGPASSWORD", "_KEY"))
                },
            },
        )

    def scheduler(self) -> Program:
        """Calls process-users."""
        return self._python("scheduler", {"PROCESS_URL": f"http://{HOST}:{self.ports.process_users}/data"})

    def process_users(self) -> Program:
        """The function that reads the bucket."""
        settings = {
            **self._database(f"{DATABASE}_process_users", "PROCESS_USERS_PGPASSWORD"),
            **self._store(self._key("PROCESS_USERS")),
        }
        return self._function("process-users", self.ports.process_users, settings)

    def get_data(self) -> Program:
        """The function that answers people."""
        settings = {
            **self._database(f"{DATABASE}_get_data", "GET_DATA_PGPASSWORD"),
            **self._store(self._key("GET_DATA")),
            "MINIO_ENDPOINT": f"http://{HOST}:{self.ports.pictures}",
        }
        return self._function("get-data", self.ports.get_data, settings)

    def gateway(self) -> Program:
        """The one address of both functions."""
        second = self.ports.gateway_2
        settings = {
            "GATEWAY_BIND": HOST,
            "GATEWAY_ADDRESS": f"http://:{self.ports.gateway}",
            "GATEWAY_ADDRESS_2": f"http://:{second}" if second else "",
            "PROCESS_USERS_ADDRESS": f"{HOST}:{self.ports.process_users}",
            "GET_DATA_ADDRESS": f"{HOST}:{self.ports.get_data}",
        }
        config = str(REPOSITORY / "local" / "Caddyfile")
        return self._program(
            "gateway", (script("caddy"), "run", "--adapter", "caddyfile", "--config", config), settings
        )

    def for_clients(self) -> dict[str, str]:
        """What another client needs: the uploader's access to the buckets, the reader's to the table."""
        return {
            "ROLLCALL_URL": self.url,
            "API_TOKEN": self.settings.passed_on.get("API_TOKEN", ""),
            **self._store(self._key("UPLOADER")),
            "SOURCE_BUCKET": self.settings.source_bucket,
            "SOURCE_PREFIX": self.settings.source_prefix,
            "OUTPUT_BUCKET": self.settings.output_bucket,
            **self._database(f"{DATABASE}_reader", "READER_PGPASSWORD"),
        }

    def _function(self, name: str, port: int, settings: Mapping[str, str]) -> Program:
        folder = REPOSITORY / "functions" / name
        # through this Python: the script's first line may be too long for the system, or from before a move
        argv = (sys.executable, script("functions-framework"), "--target", name.replace("-", "_"))
        return self._program(
            name,
            (*argv, "--source", "main.py", "--host", HOST, "--port", str(port)),
            {"WORKERS": "2", "THREADS": "8", **self.settings.passed_on, **settings},
            cwd=folder,
        )

    def _python(self, module: str, settings: Mapping[str, str]) -> Program:
        return self._program(module, (sys.executable, "-m", f"rollcall.{module}"), settings, cwd=REPOSITORY)

    def _program(
        self, name: str, argv: tuple[str, ...], settings: Mapping[str, str], *, cwd: Path | None = None
    ) -> Program:
        home = str(self.directory.home(name))
        passed_on = self.settings.passed_on
        without_proxy = ",".join(filter(None, (passed_on.get("no_proxy", passed_on.get("NO_PROXY")), HOST)))
        env = {
            **passed_on,
            "HOME": home,
            "XDG_CONFIG_HOME": home,
            "XDG_DATA_HOME": home,
            "PYTHONPATH": os.pathsep.join(str(REPOSITORY / folder) for folder in ("functions", "local")),
            "PYTHONUNBUFFERED": "1",
            "PYTHONUTF8": "1",
            "NO_PROXY": without_proxy,
            "no_proxy": without_proxy,
            **settings,
        }
        return Program(name=name, argv=argv, env=env, log=self.directory.log(name), cwd=cwd)

    def _database(self, user: str, password: str) -> dict[str, str]:
        return {
            "PGHOST": HOST,
            "PGPORT": str(self.ports.postgres),
            "PGUSER": user,
            "PGPASSWORD": self.secrets[password],
            "PGDATABASE": DATABASE,
            "PGSSLMODE": "disable",  # the packaged PostgreSQL is built without TLS
        }

    def _store_address(self) -> dict[str, str]:
        return {"MINIO_ENDPOINT": self.store_url, "MINIO_REGION": REGION}

    def _store(self, key: Key) -> dict[str, str]:
        return {**self._store_address(), "MINIO_ACCESS_KEY": key.access, "MINIO_SECRET_KEY": key.secret}

    def _key(self, user: str) -> Key:
        return Key(self.secrets[f"{user}_ACCESS_KEY"], self.secrets[f"{user}_SECRET_KEY"])

    def _root_key(self) -> Key:
        return Key(self.secrets["MINIO_ROOT_USER"], self.secrets["MINIO_ROOT_PASSWORD"])
