"""Settings of process-users, from the environment and checked all at once."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from process_users.keys import has_control_character
from process_users.records import RULES_VERSION
from serving.settings import Environment, PostgresSettings, ServingSettings, StoreSettings


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
        settings = cls(
            serving=ServingSettings.from_environment(env),
            postgres=PostgresSettings.from_environment(env),
            store=StoreSettings.from_environment(env),
            source_bucket=env.text("SOURCE_BUCKET", "src-data"),
            source_prefix=env.matching(
                "SOURCE_PREFIX",
                "",
                accepts=lambda value: value.endswith("/") and not has_control_character(value),
                wanted="a text without control characters that ends in /",
            ),
            output_bucket=env.text("OUTPUT_BUCKET", "processed-data"),
            remove_users=env.choice("ON_SOURCE_DELETE", "keep", choices=("keep", "remove")) == "remove",
            events_token=env.token("EVENTS_TOKEN"),
        )
        if settings.source_bucket == settings.output_bucket and not settings.source_prefix:
            env.refuse(
                "SOURCE_BUCKET is OUTPUT_BUCKET, whose output.csv would be a record; set a SOURCE_PREFIX"
            )
        env.check()
        return settings

    @property
    def rules(self) -> str:
        """What the ledger was made with; when it differs, every object is read again."""
        return f"{RULES_VERSION} {self.source_bucket}/{self.source_prefix}"
