"""process-users in processes that may be killed: each request is answered by a fork of one that is ready.

python forked.py MAIN BATCH_OBJECTS     reads requests as lines of JSON, writes two lines for each

Every fork opens its own connections, as a worker of the framework's server does: nothing is open before.
"""

import gc
import json
import os
import sys

from flask import Flask
from flask.testing import FlaskClient


def serve(main: str, batch_objects: int) -> None:
    """Answer requests, one at a time, until there are no more."""
    import functions_framework

    import process_users.events
    import process_users.run

    process_users.run.BATCH_OBJECTS = batch_objects
    app = functions_framework.create_app("process_users", main)
    assert isinstance(app, Flask)
    client = app.test_client()
    gc.freeze()
    print("{}", flush=True)
    for line in sys.stdin:
        _answer_in_fork(client, json.loads(line))


def _answer_in_fork(client: FlaskClient, request: dict) -> None:
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        _answer(client, request, writing)
    os.close(writing)
    print(json.dumps({"pid": pid}), flush=True)
    with os.fdopen(reading) as answer:
        text = answer.read()
    os.waitpid(pid, 0)
    print(text or "null", flush=True)


def _answer(client: FlaskClient, request: dict, writing: int) -> None:
    os.dup2(2, 1)  # logs are not answers
    response = client.open(**request)
    with os.fdopen(writing, "w") as answer:
        json.dump({"status": response.status_code, "body": response.text}, answer)
    os._exit(0)


if __name__ == "__main__":
    serve(sys.argv[1], int(sys.argv[2]))
