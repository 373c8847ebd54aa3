"""A small real HTTP server for what a function cannot be made to do at will: fail, break off, be slow.

python upstream.py PORT     answers by path and query, and prints each request as a line of JSON
"""

import json
import socket
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit


class Handler(BaseHTTPRequestHandler):
    """Paths: /healthz and any other (200); query: status=, sleep_s=, and break=stream|length|start."""

    protocol_version = "HTTP/1.1"

    def answer(self) -> None:
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        headers = {name.lower(): value for name, value in self.headers.items()}
        if parts.path != "/healthz":
            print(json.dumps({"method": self.command, "path": self.path, "headers": headers}), flush=True)
        self.rfile.read(int(headers.get("content-length", 0)))
        time.sleep(float(query.get("sleep_s", 0)))
        if "break" in query:
            self.break_off(query["break"])
        elif "pieces" in query:
            self.send_pieces(int(query["pieces"]))
            self.wfile.write(b"0\r\n\r\n")
        else:
            self.send_whole(int(query.get("status", 200)))

    do_GET = do_HEAD = do_POST = answer  # noqa: N815 (names that the base class calls)

    def send_whole(self, status: int) -> None:
        body = json.dumps({"run_id": 7, "state": "ok", "rejects": [{"key": "secret.csv"}]}).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_pieces(self, count: int) -> None:
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for _ in range(count):
            self.wfile.write(b"6\r\npiece\n\r\n")
            self.wfile.flush()
            time.sleep(0.2)

    def break_off(self, when: str) -> None:
        if when == "stream":
            self.send_pieces(2)
        if when == "length":
            self.send_response(200)
            self.send_header("Content-Length", "100")
            self.end_headers()
            self.wfile.write(b"half")
        self.wfile.flush()
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
        """Say nothing but what `answer` prints."""


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
