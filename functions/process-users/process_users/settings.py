"""Settings of process-users, from the environment and checked all at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from process_users.records import RULES_VERSION
from serving.settings import BucketSettings, Environment, PostgresSettings, ServingSettings, StoreSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that process-users can be told."""

    serving: ServingSettings
    postgres: PostgresSettings
    store: StoreSettings
    source_bucket: str
    source_prefix: str
    output_bucket: str
    remove_users: bool
    events_token: str = field(repr=False)

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "Settings":
        """Read the settings; raises SettingsError that names each one that is missing or malformed."""
        env = Environment(mapping)
        serving = ServingSettings.from_environment(env)
        postgres = PostgresSettings.from_environment(env)
        store = StoreSettings.from_environment(env)
        buckets = BucketSettings.from_environment(env)
        settings = cls(
            serving=serving,
            postgres=postgres,
            store=store,
            source_bucket=buckets.source,
            source_prefix=buckets.prefix,
            output_bucket=buckets.output,
            remove_users=env.text("ON_SOURCE_DELETE", "keep") == "remove",
            events_token=env.text("EVENTS_TOKEN", ""),
        )
        env.check()
        return settings

    @property
    def rules(self) -> str:
        """What the ledger was made with; when it differs, every object is read again."""
        return f"{RULES_VERSION} {self.source_bucket}/{self.source_prefix}"
