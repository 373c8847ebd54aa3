"""The migrations as files; what they do is tested on real servers."""

from rig import REPOSITORY


def test_each_migration_has_a_number_of_its_own():
    files = sorted((REPOSITORY / "infra" / "postgres" / "migrations").glob("*.sql"))
    numbers = [file.name.partition("_")[0] for file in files]
    assert len(numbers) > 5
    assert sorted(set(numbers)) == numbers
