"""output.csv and rejects.csv: exact, replaced whole, put back, and otherwise left alone."""

import csv
import io

import pytest
from pipeline import OUTPUT_HEADER, REJECTS_HEADER, Pipeline, to_csv

from process_users.outputs import USERS


def test_both_files_are_exact(pipeline: Pipeline):
    pipeline.put("1000.csv", to_csv('"King, ""Ada"""', "NA", 612_302_400_000))
    pipeline.put("1000.png")
    pipeline.put("0001.csv", to_csv("=1+1", "@null", -1))
    pipeline.put("é,.csv", to_csv("Žofie", "日本", 0))
    pipeline.put("é,.jpeg")
    pipeline.put("B.csv", b"")
    pipeline.put("a,b.csv", to_csv(birthts="x"))
    report = pipeline.run()
    source = pipeline.bucket.source
    users, rejects = pipeline.outputs()
    assert users.text == (
        OUTPUT_HEADER + "0001,=1+1,@null,-1,\n"
        f'1000,"King, ""Ada""",NA,612302400000,{source}/1000.png\n'
        f'"é,",Žofie,日本,0,"{source}/é,.jpeg"\n'
    )
    assert rejects.text == (
        REJECTS_HEADER + 'B.csv,row_count,"wanted a header and exactly one row, found no header"\n'
        '"a,b.csv",birthts_malformed,birthts: wanted milliseconds since 1970-01-01 UTC as a whole number of '
        "up to 15 digits\n"
    )
    assert report["output"] == {"bucket": pipeline.bucket.output, "key": "output.csv", "rows": 3}


def test_lines_are_in_the_order_of_the_bytes_of_user_ids_and_keys(pipeline: Pipeline):
    # UTF-16 and most languages order these otherwise.
    user_ids = ["a", "B", "10", "9", "é", "\uff5e", "\U0001d4b3", "a b", "a-b", "ab"]
    for user_id in user_ids:
        pipeline.put(f"{user_id}.csv")
        pipeline.put(f"{user_id}.CSV")
    pipeline.run()
    users, rejects = pipeline.outputs()
    want = sorted(user_ids, key=str.encode)
    assert [row[0] for row in csv.reader(io.StringIO(users.text))][1:] == want
    want = sorted((f"{user_id}.csv" for user_id in user_ids), key=str.encode)
    assert [row[0] for row in csv.reader(io.StringIO(rejects.text))][1:] == want


def test_both_files_are_left_alone_while_nothing_changes(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.put("bad.csv", b"")
    pipeline.run()
    before = pipeline.outputs()
    pipeline.run()
    pipeline.run("full=true")
    pipeline.put("1000.csv", to_csv() + b"\n")  # other bytes, the same record
    pipeline.put("bad.csv", b"\n")  # other bytes, the same reason
    pipeline.put("notes.txt")
    pipeline.run()
    assert pipeline.outputs() == before


def test_each_file_follows_its_own_changes(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.put("bad.csv", b"")
    pipeline.run()
    users, rejects = pipeline.outputs()
    pipeline.put("1000.png")
    pipeline.run()
    now = pipeline.outputs()
    assert (now[0].text != users.text, now[1]) == (True, rejects)
    pipeline.put("bad.csv", b"bad")
    pipeline.run()
    assert pipeline.outputs()[0] == now[0]
    assert pipeline.outputs()[1].text != rejects.text
    pipeline.remove("bad.csv")
    pipeline.run()
    assert pipeline.outputs()[1].text == REJECTS_HEADER


@pytest.mark.parametrize("key", ["output.csv", "rejects.csv"])
def test_a_file_that_somebody_deletes_or_overwrites_is_put_back(pipeline: Pipeline, key: str):
    pipeline.put("1000.csv")
    pipeline.put("bad.csv", b"")
    pipeline.run()
    text = pipeline.fetch(key).text
    pipeline.put_output(key, b"spoiled")
    pipeline.run()
    assert pipeline.fetch(key).text == text
    pipeline.remove_output(key)
    pipeline.run()
    assert pipeline.fetch(key).text == text
    pipeline.put_output(key, b"")
    pipeline.run()
    assert pipeline.fetch(key).text == text


def test_an_event_reaches_the_files_with_the_next_run(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.run()
    pipeline.put("1001.csv")
    pipeline.notify("1001.csv")
    assert pipeline.user_ids() == ["1000", "1001"]
    assert "1001" not in pipeline.fetch("output.csv").text
    report = pipeline.run()
    assert (report["unchanged"], report["upserted"], report["output"]["rows"]) == (2, 0, 2)
    assert pipeline.fetch("output.csv").text.splitlines()[2].startswith("1001,")


def test_a_long_file_is_uploaded_in_parts(pipeline: Pipeline):
    """Over 5 MiB, the smallest part of an upload; the rows are made in the database to be quick."""
    pipeline.put("1000.csv")
    pipeline.run()
    pipeline.database.run(
        "insert into users (user_id, first_name, last_name, birthdate) "
        "select 'x' || n, repeat('é', 200), repeat('y', 200), 'epoch' from generate_series(1, 9000) n"
    )
    pipeline.database.run("insert into versions select max(version) + 1 from versions")
    pipeline.database.run("analyze users")
    plan = pipeline.database.run(f"explain {USERS.query}")  # pyright: ignore[reportArgumentType]
    assert not any("Sort" in line for (line,) in plan), plan  # of millions, longer than a statement may take
    report = pipeline.run()
    text = pipeline.fetch("output.csv").text
    assert report["output"]["rows"] == 9001
    assert len(text.encode()) > 5 << 20
    want = sorted(["1000", *(f"x{number}" for number in range(1, 9001))])
    assert [row[0] for row in csv.reader(io.StringIO(text))][1:] == want
    before = pipeline.fetch("output.csv")
    pipeline.run()
    assert pipeline.fetch("output.csv") == before


def test_a_separator_that_somebody_else_wrote_into_users_stops_the_run_and_full_mends_it(pipeline: Pipeline):
    pipeline.put("1000.csv")
    pipeline.run()
    before = pipeline.outputs()
    pipeline.database.run(r"update users set first_name = e'Eve\x1fX\x1f0\x1f\x1e666\x1fMallory'")
    pipeline.put("2000.csv")
    response = pipeline.client().post("/data")
    assert (response.status_code, response.json and response.json["code"]) == (500, "internal")
    assert pipeline.outputs() == before
    assert pipeline.run("full=true")["upserted"] == 1
    assert pipeline.outputs()[0].text == (
        OUTPUT_HEADER + "1000,Ada,King,612302400000,\n2000,Ada,King,612302400000,\n"
    )
