"""Settings of get-data, from the environment and checked all at once."""

from collections.abc import Mapping
from dataclasses import dataclass

from serving.settings import Environment, PostgresSettings, ServingSettings


@dataclass(frozen=True, slots=True)
class Settings:
    """Everything that get-data can be told."""

    serving: ServingSettings
    postgres: PostgresSettings
    export_max_s: int

    @classmethod
    def from_env(cls, mapping: Mapping[str, str]) -> "Settings":
        """Read the settings; raises SettingsError that names each one that is missing or malformed."""
        env = Environment(mapping)
        settings = cls(
            serving=ServingSettings.from_environment(env),
            postgres=PostgresSettings.from_environment(env),
            export_max_s=env.integer("EXPORT_MAX_S", 3600, minimum=1, maximum=86_400),
        )
        env.check()
        return settings

    @property
    def exports(self) -> int:
        """How many exports one worker streams at a time: the other threads stay free for short answers."""
        return max(1, self.serving.threads // 2)
