from pathlib import Path

import pytest

from process_users.settings import Settings
from rollcall.scheduler import SchedulerSettings
from rollcall.setup import SetupSettings
from rollcall.stack import RunSettings
from serving.settings import Environment, SettingsError
from serving.values import FORMS

CERTIFICATE = str(Path(__file__).parents[1] / "integration" / "tls" / "localhost.pem")

LEAST = {
    "PGHOST": "db",
    "PGUSER": "process_users",
    "PGPASSWORD": "pg-secret",
    "PGDATABASE": "rollcall",
    "MINIO_ENDPOINT": "http://store:9000",
    "MINIO_ACCESS_KEY": "access-secret",
    "MINIO_SECRET_KEY": "store-secret",
}


def read_names() -> set[str]:
    """Return the names of all variables that process-users reads."""
    names: set[str] = set()

    class Recorder(dict[str, str]):
        def get(self, key: str, default: str = "") -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
            names.add(key)
            return LEAST.get(key, default)

    Settings.from_env(Recorder())
    return names


def problems(**changes: str) -> list[str]:
    with pytest.raises(SettingsError) as error:
        Settings.from_env({**LEAST, **changes})
    first, *lines = str(error.value).splitlines()
    assert first == "settings are wrong:"
    return [line.strip() for line in lines]


def test_the_least_that_must_be_set_leaves_the_defaults():
    settings = Settings.from_env(LEAST)
    assert (settings.source_bucket, settings.source_prefix, settings.output_bucket) == (
        "src-data",
        "",
        "processed-data",
    )
    assert (settings.remove_users, settings.events_token) == (False, "")
    assert (settings.store.endpoint, settings.store.region) == ("http://store:9000", "us-east-1")
    assert (settings.postgres.port, settings.postgres.sslmode) == (5432, "prefer")
    assert (settings.serving.log_level, settings.serving.threads, settings.serving.api_token) == (
        "info",
        8,
        "",
    )


def test_everything_can_be_set():
    settings = Settings.from_env(
        {
            **LEAST,
            "PGHOST": "db.example",
            "PGPORT": "6432",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": CERTIFICATE,
            "MINIO_ENDPOINT": "https://store.example/",
            "MINIO_REGION": "eu-central-1",
            "SOURCE_BUCKET": "incoming",
            "SOURCE_PREFIX": "a/b/",
            "OUTPUT_BUCKET": "outgoing",
            "ON_SOURCE_DELETE": "remove",
            "EVENTS_TOKEN": "events",
            "API_TOKEN": "api",
            "LOG_LEVEL": "debug",
            "THREADS": "4",
        }
    )
    assert settings.store.endpoint == "https://store.example"
    assert (settings.source_bucket, settings.source_prefix, settings.output_bucket) == (
        "incoming",
        "a/b/",
        "outgoing",
    )
    assert (settings.remove_users, settings.events_token, settings.serving.api_token) == (
        True,
        "events",
        "api",
    )
    assert (settings.postgres.host, settings.postgres.port) == ("db.example", 6432)
    assert (settings.postgres.sslmode, settings.postgres.sslrootcert) == ("verify-full", CERTIFICATE)


def test_all_that_is_wrong_is_reported_at_once():
    with pytest.raises(SettingsError) as error:
        Settings.from_env(
            {"PGPORT": "0", "ON_SOURCE_DELETE": "drop", "SOURCE_PREFIX": "in", "MINIO_ENDPOINT": "store"}
        )
    assert [line.split()[0] for line in str(error.value).splitlines()[1:]] == [
        "PGHOST",
        "PGPORT",
        "PGUSER",
        "PGDATABASE",
        "MINIO_ENDPOINT",
        "MINIO_ACCESS_KEY",
        "MINIO_SECRET_KEY",
        "SOURCE_PREFIX",
        "ON_SOURCE_DELETE",
    ]


@pytest.mark.parametrize("name", sorted(set(LEAST) - {"PGPASSWORD"}))
def test_what_must_be_set_is_missed_when_it_is_empty(name: str):
    assert problems(**{name: ""}) == [f"{name} is not set"]


BAD = [
    ("PGPORT", ["0", "65536", "x", "-1", "5_432", "\u0665"]),
    ("PGSSLMODE", ["allow", "VERIFY-FULL", "on", "verify-ca"]),
    ("PGHOST", ["db:5432", "postgres://db", "db/rollcall", "a,b", "my db", '"db"', "[::1]", "0x7f.1", "-db"]),
    ("PGHOST", ["/" + "a" * 85, "d" * 64, "dö", "db?x"]),
    ("PGUSER", ["u" * 64]),
    ("PGDATABASE", ["ü" * 32]),
    ("MINIO_ENDPOINT", ["store:9000", "ftp://store", "http://", "http:///", "http://store/path", "store"]),
    (
        "MINIO_ENDPOINT",
        ["http://store?x=1", "http://store?", "http://store#x", "http://store#", "https:store"],
    ),
    (
        "MINIO_ENDPOINT",
        ["http://store:port", "http://store:99999", "http://store:0", "http://store:", "http://:9"],
    ),
    ("MINIO_ENDPOINT", ["http://a b", "http://store.", "http://-store", "http://store-", "http://_store"]),
    ("MINIO_ENDPOINT", ["http://a..b", "http://st%6Fre", "http://st\\ore", "http://störe", "http://1.2.3"]),
    (
        "MINIO_ENDPOINT",
        ["http://::1", "http://[::1", "http://[::g]", "http://[fe80::1%25eth0]", "http://[1.2.3.4]"],
    ),
    (
        "MINIO_ENDPOINT",
        ["http://256.1.1.1", "http://127.1", "http://2130706433", "http://0x7f000001", "http://010.0.0.1"],
    ),
    ("MINIO_ENDPOINT", [f"http://{'s' * 64}", f"http://{'s.' * 127}s"]),
    ("MINIO_REGION", ["eu west", "-eu", "eu-", "eu/west", "r" * 64, "ü"]),
    *(
        (name, ["pd", "processed_data", "Src-Data", "a..b", "a.-b", "a-.b", "-ab", "ab-", ".ab", "a" * 64])
        for name in ("SOURCE_BUCKET", "OUTPUT_BUCKET")
    ),
    (
        "SOURCE_BUCKET",
        ["192.168.1.1", "a b", "a/b", "xn--abc", "abc-s3alias", "abc--ol-s3", "x--use1-az4--x-s3"],
    ),
    ("SOURCE_PREFIX", ["in", "in/x", "/in", "/", "/in/", "in//", "a//b/", "./", "../", "a/../b/", "a/./b/"]),
    ("SOURCE_PREFIX", ["a" * 512 + "/"]),
    ("ON_SOURCE_DELETE", ["Keep", "delete"]),
    (
        "ALLOWED_HOSTS",
        ["http://a.example", "a.example:8080", "a.example/", "*", "*.example", ".example", "a..b"],
    ),
    (
        "ALLOWED_HOSTS",
        ["a.example.", ",", "a,,b", "a,", ",a", "a, b", "a b", "a;b", "[::1]", "::1", "m\xfcller"],
    ),
    ("ALLOWED_HOSTS", ["good.example,*", "x" * 64, "a." * 127 + "a", "0x7f.1"]),
    ("LOG_LEVEL", ["INFO", "trace"]),
    ("THREADS", ["0", "1025", "many", "9" * 5_000]),
    ("WORKERS", ["0", "two"]),
    ("PG_SESSIONS", ["0", "1", "many"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in BAD for value in values])
def test_a_malformed_value_is_reported_with_the_accepted_form(name: str, value: str):
    assert problems(**{name: value}) == [f"{name} is {value!r}, wanted {FORMS[name].wanted}"]


GOOD = [
    ("PGHOST", ["db", "my_db.internal", "10.0.0.1", "::1", "fe80::1", "/var/run/postgresql", "a1.b-c"]),
    ("ALLOWED_HOSTS", ["a", "A.example,b_c.d-e", "xn--mller-kva.example,10.0.0.1"]),
    ("MINIO_REGION", ["garage", "eu-central-1", "us_east"]),
    ("SOURCE_BUCKET", ["abc", "a.b-c.9", "a" * 63, "1.2.3.4.5"]),
    ("SOURCE_PREFIX", ["in/", "a/b/", "mit Blank/", "日本/", ".../"]),
    ("MINIO_SECRET_KEY", ["a/b+c:d=e", "with blank inside"]),
    ("PGPASSWORD", ["pä ss", "'quoted'"]),
]


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in GOOD for value in values])
def test_what_people_use_is_accepted(name: str, value: str):
    Settings.from_env({**LEAST, name: value})


MARGINS = {
    "x\r": "ends with a carriage return, as every line of a file with Windows line ends (CRLF) does",
    "x\n": "ends with a line end",
    "x ": "ends with a blank",
    "\tx": "begins with a tab",
    "\ufeffx": "begins with the character U+FEFF",
    "x\u00a0": "ends with the character U+00A0",
    "a\x00b": "contains the character U+0000",
    "a\nb": "contains a line end",
    "a\x1bb": "contains the character U+001B",
    "a\udcffb": "contains bytes that are not UTF-8",
    " ": "ends with a blank",
}
TEXTS = sorted(set(FORMS) & read_names() | {"PGPASSWORD"})


@pytest.mark.parametrize("value", MARGINS)
def test_no_setting_holds_what_nobody_sees_and_it_is_said_without_the_value(value: str):
    wrong = dict.fromkeys(TEXTS, value)
    assert sorted(problems(**wrong)) == sorted(f"{name} {MARGINS[value]}" for name in TEXTS)


def test_a_file_with_windows_line_ends_is_told_for_every_setting():
    lines = {name: f"{value}\r" for name, value in LEAST.items()}
    assert [problem.split()[0] for problem in sorted(problems(**lines))] == sorted(LEAST)


SECRETS = ["API_TOKEN", "EVENTS_TOKEN", "MINIO_ACCESS_KEY", "MINIO_SECRET_KEY", "PGPASSWORD"]


@pytest.mark.parametrize("name", SECRETS)
@pytest.mark.parametrize("value", ["hunter2\n", " hunter2", "hunter2\x7f", "hünter2 "])
def test_a_malformed_secret_is_named_and_not_shown(name: str, value: str):
    (problem,) = problems(**{name: value})
    assert problem.startswith(f"{name} ")
    assert "unter2" not in problem


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[(name, "hünter2") for name in SECRETS[:4]],
        *[(name, "hunter 2") for name in SECRETS[:3]],
        *[("MINIO_ACCESS_KEY", f"hunter{sign}2") for sign in ":,="],
    ],
)
def test_a_secret_of_the_wrong_form_is_named_and_not_shown(name: str, value: str):
    want = f"{name} is not of the accepted form (its value is secret), wanted {FORMS[name].wanted}"
    assert problems(**{name: value}) == [want]


@pytest.mark.parametrize("value", ["hunter2\U0001f600", "\ue000", "\u0221", "\u0627a"])
def test_a_password_that_no_login_can_be_made_with_is_named_and_not_shown(value: str):
    want = "PGPASSWORD has characters that SCRAM does not allow in a password, such as an emoji"
    assert problems(PGPASSWORD=value) == [want]


@pytest.mark.parametrize("name", ["PGHOST", "MINIO_ENDPOINT"])
def test_a_password_in_an_address_is_not_shown(name: str):
    (problem,) = problems(**{name: "postgres://root:hunter2@db:5432/rollcall"})
    assert problem == f"{name} has credentials in it, wanted an address without"


@pytest.mark.parametrize(
    ("given", "want"),
    [
        ("HTTP://Store.Example:9000/", "http://store.example:9000"),
        ("http://store:80", "http://store"),
        ("https://store:443/", "https://store"),
        ("http://store:443", "http://store:443"),
        ("http://[::1]:80", "http://[::1]"),
        ("https://[2001:DB8::1]:9000", "https://[2001:db8::1]:9000"),
        ("http://my_store:09000", "http://my_store:9000"),
        ("http://10.1.2.3", "http://10.1.2.3"),
    ],
)
def test_an_address_has_one_spelling(given: str, want: str):
    assert Settings.from_env({**LEAST, "MINIO_ENDPOINT": given}).store.endpoint == want


def test_allowed_hosts_are_compared_in_lower_case():
    def allowed(value: str) -> frozenset[str]:
        return Settings.from_env({**LEAST, "ALLOWED_HOSTS": value}).serving.allowed_hosts

    assert allowed("") == frozenset()
    assert allowed("Rollcall.example,a,A") == {"rollcall.example", "a"}


AMAZON = [
    ("s3.amazonaws.com", "us-east-1"),
    ("s3.eu-central-1.amazonaws.com", "eu-central-1"),
    ("s3-fips.us-west-2.amazonaws.com", "us-west-2"),
    ("s3.cn-north-1.amazonaws.com.cn", "cn-north-1"),
    ("bucket.vpce-0a1b-2c3d.s3.eu-west-1.vpce.amazonaws.com", "eu-west-1"),
    ("store-1234.eu-west-1.elb.amazonaws.com", "us-east-1"),
    ("ec2-1-2-3-4.eu-west-1.compute.amazonaws.com", "us-east-1"),
]


@pytest.mark.parametrize(("host", "region"), AMAZON)
def test_addresses_at_amazon_that_take_buckets_by_path_are_accepted(host: str, region: str):
    Settings.from_env({**LEAST, "MINIO_ENDPOINT": f"https://{host}", "MINIO_REGION": region})


@pytest.mark.parametrize(
    ("host", "what"),
    [
        ("s3-accelerate.amazonaws.com", "is an endpoint of S3 Transfer Acceleration"),
        ("s3-accelerate.dualstack.amazonaws.com", "is an endpoint of S3 Transfer Acceleration"),
        ("s3.dualstack.eu-west-1.amazonaws.com", "is a dual-stack endpoint of S3"),
        ("s3-website.eu-west-1.amazonaws.com", "is a website endpoint of S3"),
        ("people.s3-website-eu-west-1.amazonaws.com", "is a website endpoint of S3"),
        ("s3express-euw1-az1.eu-west-1.amazonaws.com", "is an endpoint of S3 Express"),
        ("people-123456789012.s3-accesspoint.eu-west-1.amazonaws.com", "is an endpoint of S3 access points"),
        ("m.accesspoint.s3-global.amazonaws.com", "is an endpoint of S3 access points"),
        ("people.s3.eu-west-1.amazonaws.com", "is an endpoint of S3 with a bucket in its name"),
        ("people.s3.amazonaws.com", "is an endpoint of S3 with a bucket in its name"),
    ],
)
def test_addresses_at_amazon_that_take_none_are_refused(host: str, what: str):
    want = f"{what}, which is not supported, wanted an address such as https://s3.eu-west-1.amazonaws.com"
    got = problems(MINIO_ENDPOINT=f"https://{host}", MINIO_REGION="eu-west-1")
    assert got == [f"MINIO_ENDPOINT {want}"]


@pytest.mark.parametrize(
    "host", ["s3-eu-west-1.amazonaws.com", "amazonaws.com", "sqs.eu-west-1.amazonaws.com"]
)
def test_other_addresses_at_amazon_are_refused(host: str):
    want = (
        "is no endpoint of S3 that is supported, wanted an address such as https://s3.eu-west-1.amazonaws.com"
    )
    got = problems(MINIO_ENDPOINT=f"https://{host}", MINIO_REGION="eu-west-1")
    assert [each.partition(" ")[2] for each in got if "amazonaws" in each] == [
        want
    ] or host == "amazonaws.com"


@pytest.mark.parametrize("host", ["s3.amazonaws.com", "s3.us-east-1.amazonaws.com"])
def test_a_region_that_contradicts_the_address_is_refused(host: str):
    assert problems(MINIO_ENDPOINT=f"https://{host}", MINIO_REGION="eu-west-1") == [
        "MINIO_ENDPOINT is for the region us-east-1 but MINIO_REGION is eu-west-1: "
        "wanted https://s3.eu-west-1.amazonaws.com or another region"
    ]


@pytest.mark.parametrize("mode", ["require", "verify-full"])
def test_tls_over_a_unix_socket_is_refused(mode: str):
    assert problems(PGHOST="/var/run/postgresql", PGSSLMODE=mode) == [
        f"PGSSLMODE is {mode} but PGHOST is a Unix socket, which has no TLS: wanted disable"
    ]
    for accepted in ("disable", "prefer"):
        Settings.from_env({**LEAST, "PGHOST": "/var/run/postgresql", "PGSSLMODE": accepted})


def test_a_certificate_that_would_not_be_looked_at_is_refused():
    (problem,) = problems(PGSSLMODE="require", PGSSLROOTCERT=CERTIFICATE)
    assert problem.startswith(
        "PGSSLMODE is require, which does not look at the certificates of PGSSLROOTCERT"
    )


@pytest.mark.parametrize("name", ["PGSSLROOTCERT", "SSL_CERT_FILE", "SSL_CERT_DIR"])
@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "No such file or directory"),
        ("directory", "it holds none"),
        ("", "it holds none"),
        ("no certificate", "it holds none"),
        ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "it holds none"),
    ],
)
def test_a_file_without_certificates_is_refused(tmp_path: Path, name: str, content: str | None, reason: str):
    path = tmp_path / "ca"
    if content == "directory":
        path.mkdir()
    elif content is not None:
        path.write_text(content)
    (problem,) = problems(**{name: str(path)})
    assert problem.startswith(f"{name} is {str(path)!r}, wanted ")
    is_wrong_kind = content is not None and (content == "directory") != (name == "SSL_CERT_DIR")
    assert is_wrong_kind or problem.endswith(f": {reason}")


def test_certificates_are_accepted(tmp_path: Path):
    (tmp_path / "0123abcd.0").write_text(Path(CERTIFICATE).read_text())
    settings = Settings.from_env({**LEAST, "SSL_CERT_FILE": CERTIFICATE, "SSL_CERT_DIR": str(tmp_path)})
    assert (settings.store.ca_file, settings.store.ca_dir) == (CERTIFICATE, str(tmp_path))


def test_the_scheduler_names_everything_that_is_wrong():
    wrong = {"PROCESS_URL": "http://store\r", "PROCESS_INTERVAL_S": "0", "API_TOKEN": "hünter2"}
    with pytest.raises(SettingsError) as error:
        SchedulerSettings.from_env(wrong)
    lines = str(error.value).splitlines()[1:]
    assert [line.split()[0] for line in lines] == ["PROCESS_URL", "PROCESS_INTERVAL_S", "API_TOKEN"]
    for url in (
        "store",
        "http://",
        "http://a b/",
        "http://store:0/data",
        "http://[::1/",
        "http://u:p@store/",
    ):
        with pytest.raises(SettingsError, match="PROCESS_URL"):
            SchedulerSettings.from_env({"PROCESS_URL": url})
    SchedulerSettings.from_env({"PROCESS_URL": "http://process-users:8080/data?full=true"})


def test_make_run_names_what_is_wrong_for_any_of_its_programs():
    wrong = {
        "SOURCE_BUCKET": "pd",
        "SOURCE_PREFIX": "in",
        "OUTPUT_BUCKET": "processed_data",
        "ON_SOURCE_DELETE": "drop",
        "EXPORT_MAX_S": "0",
        "LOG_LEVEL": "loud",
        "PROCESS_INTERVAL_S": "often",
        "API_TOKEN": "a\n",
        "EVENTS_TOKEN": "b\r",
        "THREADS": "0",
        "GATEWAY_PORT": "http",
        "SSL_CERT_FILE": "/nowhere",
        "SAMPLE_DATA": "yes",
    }
    with pytest.raises(SettingsError) as error:
        RunSettings.from_env(wrong)
    assert sorted(line.split()[0] for line in str(error.value).splitlines()[1:]) == sorted(wrong)
    RunSettings.from_env({"PGHOST": "what another program uses\n", "MINIO_ENDPOINT": "x"})


def test_set_up_names_what_is_wrong_with_its_own():
    wrong = {
        **dict.fromkeys(("PROCESS_USERS_ACCESS_KEY", "GET_DATA_ACCESS_KEY", "UPLOADER_ACCESS_KEY"), "ab"),
        **dict.fromkeys(("PROCESS_USERS_SECRET_KEY", "UPLOADER_SECRET_KEY"), "seven77"),
        "GET_DATA_SECRET_KEY": "eight888\r",
        "READER_PGPASSWORD": "x\r",
        "INFRA_DIR": "/nowhere",
        "SOURCE_BUCKET": "pd",
        "SOURCE_PREFIX": "in",
        "MINIO_ENDPOINT": "https://s3.amazonaws.com",
        "MINIO_REGION": "eu-west-1",
    }
    right = {"MINIO_ROOT_USER": "root", "MINIO_ROOT_PASSWORD": "long-enough", "GET_DATA_PGPASSWORD": "x"}
    with pytest.raises(SettingsError) as error:
        SetupSettings.from_env({**LEAST, **right, **wrong, "PROCESS_USERS_PGPASSWORD": "x"})
    named = [line.split()[0] for line in str(error.value).splitlines()[1:]]
    assert sorted(named) == sorted(set(wrong) - {"MINIO_REGION"})
    assert "eight888" not in str(error.value)
    assert "seven77" not in str(error.value)


def test_secrets_are_not_shown():
    settings = Settings.from_env({**LEAST, "API_TOKEN": "api-secret", "EVENTS_TOKEN": "events-secret"})
    assert "secret" not in repr(settings).replace("store_secret", "")
    assert "rollcall" in repr(settings)


def test_the_rules_of_a_ledger_name_version_bucket_and_prefix():
    assert Settings.from_env(LEAST).rules == "3 src-data/"
    changed = Settings.from_env({**LEAST, "SOURCE_BUCKET": "incoming", "SOURCE_PREFIX": "a/"})
    assert changed.rules == "3 incoming/a/"


def test_an_address_with_credentials_is_refused_without_being_shown() -> None:
    env = Environment({"MINIO_ENDPOINT": "http://root:hunter2@store:9000"})
    env.url("MINIO_ENDPOINT")
    with pytest.raises(SettingsError) as error:
        env.check()
    assert str(error.value).endswith("MINIO_ENDPOINT has credentials in it, wanted an address without")
    assert "hunter2" not in str(error.value)
