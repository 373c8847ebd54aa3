"""Settings of get-data, from the environment and checked all at once."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.settings import Environment, PostgresSettings, ServingSettings, StoreSettings, read_endpoint


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that get-data can be told."""

    serving: ServingSettings
    postgres: PostgresSettings
    store: StoreSettings
    public_endpoint: str  # of the store, for browsers
    export_max_s: int

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "Settings":
        """Read the settings; raises SettingsError that names each one that is missing or malformed."""
        env = Environment(mapping)
        store = StoreSettings.from_environment(env)
        settings = cls(
            serving=ServingSettings.from_environment(env),
            postgres=PostgresSettings.from_environment(env),
            store=store,
            public_endpoint=read_endpoint(env, "MINIO_PUBLIC_ENDPOINT", store.endpoint, region=store.region),
            export_max_s=env.number("EXPORT_MAX_S", 3600),
        )
        env.check()
        return settings
