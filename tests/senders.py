"""Who asks: hosts that are answered and hosts that are not, and what browsers send along for which page."""

SETTING = "rollcall.example,Intra_net,xn--mller-kva.example"

KNOWN_HOSTS = [
    *("127.0.0.1", "127.0.0.1:8080", "127.0.0.1:", "127.0.0.1.", "10.1.2.3:1", "192.168.255.254"),
    *("[::1]", "[::1]:8080", "[2001:DB8::a]:5000", "[::ffff:127.0.0.1]"),
    *("localhost", "localhost:8080", "LocalHost", "localhost.", "LOCALHOST.:65535"),
    *("rollcall.example", "ROLLCALL.example:443", "rollcall.example.", "rollcall.example.:80"),
    *("intra_net", "Intra_Net:8080", "xn--mller-kva.example"),
]

UNKNOWN_HOSTS = [
    *("evil.example", "rebind.evil.example:8080", "www.rollcall.example", "rollcall.example.evil.example"),
    *("evil-rollcall.example", "example", "xn--mller", "rollcall_example", "rollcall.example,evil.example"),
    *("localhost.evil.example", "127.0.0.1.nip.io", "127.0.0.1.nip.io:8080", "localhost-evil", "a.localhost"),
    *("evil.example:127.0.0.1", "127.0.0.1:8080:8080", "localhost:x", "localhost:8080x", "localhost:-1"),
    *("user@localhost", "localhost@evil.example", "user:pass@127.0.0.1", "localhost..", ".localhost", "."),
    *("2130706433", "0x7f.1", "0177.0.0.1.", "127.1", "127.0.0", "127.0.0.1.1", "0x7f000001:8080"),
    *("::1", "[::1", "::1]", "[localhost]", "[evil.example]:80", "[fe80::1%25eth0]", "[v1.x]", "[]"),
    *("localhost%2eevil", "localhost%00", "http://localhost", "*", "localhost;evil", "(localhost)"),
]

# What a browser says of pages that may ask for a change, and of others. `{host}` is the host that is asked.
OWN_SENDERS: list[dict[str, str]] = [
    {},
    {"Sec-Fetch-Site": "same-origin", "Origin": "http://{host}"},
    {"Sec-Fetch-Site": "same-origin", "Origin": "null"},
    {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"},
    {"Origin": "http://{host}"},
    {"Origin": "https://{host}"},  # TLS ended before
    {"Origin": "HTTP://localhost:8080", "Host": "LOCALHOST:8080"},
    {"Origin": "https://rollcall.example", "Host": "rollcall.example:443"},
    {"Origin": "http://rollcall.example", "Host": "Rollcall.Example:80"},
    {"Origin": "http://[::1]:8080", "Host": "[::1]:8080"},
    {"Referer": "https://evil.example/"},  # says nothing that can be relied on
]

FOREIGN_SENDERS: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site", "Origin": "https://evil.example", "Content-Type": "text/plain"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site"},  # a page on another port of this machine
    {"Sec-Fetch-Site": "cross-site", "Origin": "http://{host}"},
    {"Sec-Fetch-Site": "Same-Origin"},
    {"Sec-Fetch-Site": "same-origin,cross-site"},
    {"Sec-Fetch-Site": "invented"},
    {"Origin": "null"},
    {"Origin": "https://evil.example"},
    {"Origin": "http://localhost:1"},
    {"Origin": "http://{host}.evil.example"},
    {"Origin": "http://user@{host}"},
    {"Origin": "http://{host}/"},
    {"Origin": "http://{host}, https://evil.example"},
    {"Origin": "ftp://{host}"},
    {"Origin": "{host}"},
    {"Origin": "file://"},
    {"Origin": "http://rollcall.example", "Host": "rollcall.example:443"},
    {"Origin": "http://rollcall.example", "Host": "rollcall.example:8080"},
    {"Origin": "http://rollcall.example:8080", "Host": "rollcall.example"},
]

# What an answer would be within a page of another site.
EMBEDDED: list[dict[str, str]] = [
    {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "image"},
    {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "script"},
    {"Sec-Fetch-Mode": "no-cors", "Sec-Fetch-Dest": "empty"},
    {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"},
    {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "frame"},
    {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "embed"},
    {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "object"},
]

SHIELD = {
    "x-content-type-options": "nosniff",
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "x-frame-options": "DENY",
}
