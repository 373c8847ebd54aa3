"""Requests of a grammar that is HTTP, and means nothing: odd paths, parameters, headers and bodies."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from urllib.parse import quote

INJECTIONS = (
    *("'; drop table users; --", "' or '1'='1", '"; select pg_sleep(9); --', "1); delete from users; --"),
    *("100001' union select rolpassword from pg_authid--", "$$||version()||$$", ":limit", "%(limit)s"),
    *("../../etc/passwd", "..\\..\\main.py", "/etc/passwd", "....//....//main.py", "main.py\0.csv", "~root"),
    *("x\r\nX-Injected: 1", "x\nSet-Cookie: a=b", "x\r\n\r\n<script>", "\u560d\u560aX-Injected: 1"),
    *('x", "event": "forged', '\n{"event": "run.finished"}', "\x1b[2J", "${jndi:ldap://x}", "{{7*7}}"),
    *("<script>alert(1)</script>", "javascript:alert(1)", "=cmd|' /C calc'!A0", "\u202egnp.exe", "\uffff"),
)
NUMBERS = (
    *("0", "1", "2", "-1", "+1", "01", "1.0", "1e3", "0x10", "1_0", " 1", "150", "151", "10001", "nan", "-0"),
    *(
        "9" * 19,
        "9" * 400,
        "2147483648",
        "9223372036854775808",
        "\u0661\u0662",
        "²",
        "1,2",
        "1;2",
        "infinity",
    ),
)
WORDS = (
    *("True", "false", "TRUE", "yes", "null", "None", "NA", "json", "csv", "html", "ndjson", "JSON", "xml"),
    *("100001", "zzz", "é", "日本", "a" * 129, "a" * 4_000, "\x00", "\x7f", "\x85"),
    *("", "+", "%", "&", "=", "#", ".", ".."),
)
NAMES = (
    *("is_image_exists", "min_age", "max_age", "limit", "after", "format", "spreadsheet"),
    *("full", "dry_run", "allow_empty"),
    *("Limit", "limit ", "limit[]", "limit.x", "__class__", "self", "sql", "", "user_id", "é"),
)
PLACES = (
    *("/data",) * 8,
    *("/", "/stats", "/data/{}", "/data/{}/image", "/runs", "/runs/{}", "/events") * 3,
    *("/healthz", "/metrics", "/docs", "/openapi.json", "/runs/openapi.json", "/runs/docs", "/assets/{}"),
    *("/{}", "/data/{}/{}", "//data", "/data/", "/./data", "/data/../stats", "/DATA", "/data;x=1"),
)
METHODS = (*("GET",) * 8, *("POST",) * 4, "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE", "PROPFIND", "INVENTED")
HEADERS = {
    "Accept": (
        "*/*",
        "text/html",
        "application/json;q=nan",
        ";;,,q=",
        "text/csv;q=0, */*;q=0.1",
        "a/b",
        "*",
        "/",
    ),
    "Accept-Encoding": ("gzip", "gzip;q=x", "*;q=0", "identity;q=0", ";q=,", "br, zstd", "gzip" * 100),
    "If-None-Match": ("*", '"', 'W/"x', ',,"a', '"a","b"' * 200, "W/*", "\xff", 'x"y"z'),
    "If-Modified-Since": ("yesterday", "Thu, 99 Xyz 0000 99:99:99 GMT"),
    "Range": ("bytes=0-1", "bytes=-1", "bytes=a-b", "lines=1"),
    "Authorization": ("Bearer", "Basic %%%", "Basic \xff", "Digest x", "Bearer " + "x" * 4_000),
    "Host": ("", "a b", '"><script>', "evil.example:99999", "[::1", "\xff"),
    "Content-Type": ("multipart/form-data", "application/json; charset=nonsense", "\xff", "text/html;;;="),
    "Cookie": ("a=b; a=b", ";;=;", "session=\xff" * 50),
    "Via": ("1.1 x", "nonsense", ",,,", "1.1 " + "x" * 1_000),
    "X-Forwarded-For": ("127.0.0.1", "'; drop table users; --"),
    "X-Forwarded-Host": ("evil.example", '"><script>'),
    "X-HTTP-Method-Override": ("DELETE",),
    "Referer": ("javascript:alert(1)",),
    "Origin": ("null", "http://evil.example"),
}
BODIES = (
    *(b"", b"{}", b"[]", b"null", b"\xff\xfe", b"{", b"[" * 2_000, b"1e999", b"NaN", b"x" * 100_000),
    *(b'{"Records": []}', b'{"Records": {}}', b'{"Records": [null]}', b'{"EventName": "\\ud800"}'),
    b'{"Records": [{"s3": {"bucket": {"name": 1}, "object": {"key": []}}}]}',
    *(b"a=b&c=d", b"--x\r\nContent-Disposition: form-data\r\n\r\n"),
)


@dataclass(frozen=True, slots=True)
class JunkRequest:
    """A request, and the text of it as it goes over the wire."""

    method: str
    target: str
    headers: Sequence[tuple[str, str]]
    body: bytes

    def to_bytes(self) -> bytes:
        lines = [f"{self.method} {self.target} HTTP/1.1"]
        lines += [f"{name}: {value}" for name, value in self.headers]
        if self.body or self.method == "POST":
            lines.append(f"Content-Length: {len(self.body)}")
        return "\r\n".join((*lines, "", "")).encode("latin-1") + self.body


def build_request(random: Random) -> JunkRequest:
    path = random.choice(PLACES)
    while "{}" in path:
        path = path.replace("{}", encode(random, pick_text(random)), 1)
    count = random.choice((0, 0, 1, 1, 2, 3, 8))
    query = random.choice("&&&;").join(build_parameter(random) for _ in range(count))
    headers = [("Host", "localhost")]
    for name in random.sample(list(HEADERS), random.choice((0, 0, 1, 2, 5))):
        headers = [header for header in headers if header[0] != name]
        headers.append((name, random.choice(HEADERS[name])))
    body = random.choice(BODIES) if random.random() < 0.3 else b""
    target = f"{path}?{query}" if query else path
    if path != "/events":
        return JunkRequest(random.choice(METHODS), target, headers, body)
    headers = [header for header in headers if header[0] != "Authorization"]
    headers.append(("Authorization", "Bearer events"))
    return JunkRequest("POST", target, headers, body or build_notification(random))


def build_parameter(random: Random) -> str:
    name = encode(random, random.choice(NAMES))
    return name if random.random() < 0.05 else f"{name}={encode(random, pick_text(random))}"


def build_notification(random: Random) -> bytes:
    """A notification that is well-formed, about a key that is not."""
    key = random.choice((quote(pick_text(random)), pick_text(random)))
    key += random.choice((".csv", ".png", "", "/x.csv"))
    name = random.choice(("src-data", "processed-data", pick_text(random)))
    s3 = {"bucket": {"name": name}, "object": {"key": key}}
    records = [{"eventName": pick_text(random), "s3": s3}] * random.randint(1, 3)
    return json.dumps({"Records": records}).encode()


def pick_text(random: Random) -> str:
    if random.random() < 0.1:
        signs = random.choices((*range(0x20), *range(0x7F, 0x800)), k=random.randint(1, 20))
        return "".join(map(chr, signs))
    return random.choice(random.choice((INJECTIONS, NUMBERS, WORDS)))


def encode(random: Random, text: str) -> str:
    """Percent-encode, fully or as little as a request line allows; now and then wrongly."""
    kind = random.random()
    if kind < 0.05:
        return quote(text, safe="") + random.choice(("%", "%F", "%zz", "%FF", "%ED%A0%80", "%00", "%C0%AF"))
    if kind < 0.1:
        return quote(quote(text, safe=""), safe="")
    if kind < 0.3:
        plain = {sign for sign in text if "!" <= sign <= "~" and sign not in "#?"}
        return "".join(sign if sign in plain else quote(sign, safe="") for sign in text)
    return quote(text, safe="")
