"""How get-data finds users: by an index, also with plans from when the tables were empty."""

from itertools import product

from get_data_client import insert_many, open_client
from rig import Database

USERS = 5_000
PATHS = (
    "/data?limit=100",
    "/data?limit=100&after=102000",
    "/data?limit=100&min_age=30&max_age=60",
    "/data?limit=100&min_age=56&is_image_exists=false",
    "/data/100001",
)
SCANS = "select relname, seq_scan from pg_stat_user_tables where relname in ('users', 'versions')"
FLUSH = "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'get-data'"


def read_scans(database: Database) -> dict[str, int]:
    """Count the scans so far; a session tells its own at the latest when it ends."""
    database.run(f"{FLUSH} and datname = current_database()")
    return dict(map(tuple, database.run(SCANS)))


def test_plans_of_empty_tables_do_not_scan_full_ones(database: Database):
    database.run("vacuum analyze")
    before = read_scans(database)
    with open_client(database.env("get_data")) as client:
        for path, _ in product(PATHS, range(8)):  # so often that Postgres keeps a plan for any values
            client.get(path)
        insert_many(database, USERS)
        database.run("insert into versions (version) select n from generate_series(1, 5000) n")
        for path in PATHS:
            response = client.get(path)
            assert response.status_code == 200
            etag = response.headers["ETag"]
            assert client.get(path, headers={"If-None-Match": etag}).status_code == 304
    assert read_scans(database) == before
