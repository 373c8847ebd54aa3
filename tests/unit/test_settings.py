import pytest

from process_users.settings import Settings
from serving.settings import Environment, SettingsError

LEAST = {
    "PGHOST": "db",
    "PGUSER": "process_users",
    "PGPASSWORD": "pg-secret",
    "PGDATABASE": "rollcall",
    "MINIO_ENDPOINT": "http://store:9000",
    "MINIO_ACCESS_KEY": "access-secret",
    "MINIO_SECRET_KEY": "store-secret",
}


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
            "PGHOST": "/var/run/postgresql",
            "PGPORT": "6432",
            "PGSSLMODE": "verify-full",
            "PGSSLROOTCERT": "/ca.pem",
            "MINIO_ENDPOINT": "https://store.example/",
            "MINIO_REGION": "eu-central-1",
            "SOURCE_BUCKET": "in",
            "SOURCE_PREFIX": "a/b/",
            "OUTPUT_BUCKET": "out",
            "ON_SOURCE_DELETE": "remove",
            "EVENTS_TOKEN": "events",
            "API_TOKEN": "api",
            "LOG_LEVEL": "debug",
            "THREADS": "4",
        }
    )
    assert settings.store.endpoint == "https://store.example"
    assert (settings.source_bucket, settings.source_prefix, settings.output_bucket) == ("in", "a/b/", "out")
    assert (settings.remove_users, settings.events_token, settings.serving.api_token) == (
        True,
        "events",
        "api",
    )
    assert (settings.postgres.host, settings.postgres.port) == ("/var/run/postgresql", 6432)
    assert (settings.postgres.sslmode, settings.postgres.sslrootcert) == ("verify-full", "/ca.pem")


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
    ("PGPORT", ["0", "65536", "x", "-1", "5432 ", "5_432", "\u0665"], "a whole number from 1 to 65535"),
    ("PGSSLMODE", ["allow", "VERIFY-FULL", "on"], "disable or prefer or require or verify-full"),
    (
        "MINIO_ENDPOINT",
        [
            *(
                "store:9000",
                "ftp://store",
                "http://",
                "http://store/path",
                "http://store?x=1",
                "http://store#x",
            ),
            *("http://store:port", "http://store:99999"),
        ],
        "an address such as http://127.0.0.1:9000",
    ),
    ("SOURCE_PREFIX", ["in", "in/x", "/in", "a\x1f/"], "a text without control characters that ends in /"),
    ("ON_SOURCE_DELETE", ["Keep", "delete"], "keep or remove"),
    ("LOG_LEVEL", ["INFO", "trace"], "debug or info or warning or error"),
    ("THREADS", ["0", "1025", "many"], "a whole number from 1 to 1024"),
]


@pytest.mark.parametrize(
    ("name", "value", "wanted"), [(name, value, wanted) for name, values, wanted in BAD for value in values]
)
def test_a_malformed_value_is_reported_with_the_accepted_form(name: str, value: str, wanted: str):
    assert problems(**{name: value}) == [f"{name} is {value!r}, wanted {wanted}"]


def test_secrets_are_not_shown():
    settings = Settings.from_env({**LEAST, "API_TOKEN": "api-secret", "EVENTS_TOKEN": "events-secret"})
    assert "secret" not in repr(settings).replace("store_secret", "")
    assert "rollcall" in repr(settings)


def test_the_rules_of_a_ledger_name_version_bucket_and_prefix():
    assert Settings.from_env(LEAST).rules == "2 src-data/"
    changed = Settings.from_env({**LEAST, "SOURCE_BUCKET": "in", "SOURCE_PREFIX": "a/"})
    assert changed.rules == "2 in/a/"


def test_an_address_with_credentials_is_refused_without_being_shown() -> None:
    env = Environment({"MINIO_ENDPOINT": "http://root:hunter2@store:9000"})
    env.url("MINIO_ENDPOINT")
    with pytest.raises(SettingsError) as error:
        env.check()
    assert str(error.value).endswith("MINIO_ENDPOINT has credentials in it, wanted an address without")
    assert "hunter2" not in str(error.value)
