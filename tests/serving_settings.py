"""Where a test's database is, as a function reads it."""

from rig import Database

from serving.settings import Environment, PostgresSettings


def read_settings(database: Database, role: str) -> PostgresSettings:
    return PostgresSettings.from_environment(Environment(database.env(role)))
