"""get-data over a hot standby, which sees none of the primary's locks."""

from pathlib import Path

from get_data_client import insert, open_client
from rig import database_of, prepare_database, run_going_on, run_standby

from rollcall.processes import wait_until
from rollcall.servers import embedded_postgres


def test_a_run_that_is_going_on_is_shown_as_running_by_a_standby(tmp_path: Path):
    tmp_path.chmod(0o711)
    with embedded_postgres() as primary:
        database = prepare_database(primary, "rollcall")
        insert(database, "1")
        with run_standby(primary, tmp_path / "standby") as server, run_going_on(database, listed=40):
            standby = database_of(server, "rollcall")
            (end,) = database.run("select pg_current_wal_flush_lsn()::text")[0]
            replayed = "select pg_last_wal_replay_lsn() >= cast(:lsn as pg_lsn)"
            wait_until(lambda: standby.run(replayed, lsn=end)[0][0], timeout_s=60, what="the replay")
            with open_client(standby.env("get_data")) as client:
                assert list(client.get("/data").get_json()) == ["1"]
                page = client.get("/", headers={"Accept": "text/html"}).text
                assert "Run 1 is going on" in page
            assert standby.run("select shown_state(runs) from runs") == [["running"]]
