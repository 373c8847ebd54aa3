"""How people fetch an export: each returns the whole answer, or raises CutError on any error."""

import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from gzip import decompress
from http.client import HTTPException
from pathlib import Path

import urllib3
from playwright.sync_api import Error as BrowserError
from playwright.sync_api import Page

TIMEOUT_S = 30

Fetch = Callable[[str, bool], bytes]


class CutError(Exception):
    """The client said that the answer is an error, or not whole."""


def fetch_with_curl(url: str, gzip: bool) -> bytes:
    """As a shell script does it."""
    options = ["--silent", "--fail", "--max-time", str(TIMEOUT_S), *(["--compressed"] if gzip else [])]
    curl = subprocess.run(["curl", *options, url], capture_output=True, check=False)
    if curl.returncode:
        raise CutError(f"curl: {curl.returncode}")
    return curl.stdout


def fetch_with_urllib(url: str, gzip: bool) -> bytes:
    """As Python's own library does it; it leaves compression to its caller."""
    request = urllib.request.Request(url, headers={"Accept-Encoding": "gzip"} if gzip else {})  # noqa: S310
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:  # noqa: S310
            body = response.read()
    except urllib.error.HTTPError as error:
        error.close()
        raise CutError(f"urllib: {error.code}") from error
    except (HTTPException, OSError) as error:
        raise CutError(f"urllib: {type(error).__name__}") from error
    return decompress(body) if gzip else body


def fetch_with_urllib3(url: str, gzip: bool) -> bytes:
    """As requests and pandas users have it."""
    headers = {"Accept-Encoding": "gzip"} if gzip else {}
    with urllib3.PoolManager(retries=False, timeout=TIMEOUT_S) as pool:
        response = pool.request("GET", url, headers=headers, preload_content=False)
        try:
            body = response.read()
        except urllib3.exceptions.HTTPError as error:
            raise CutError(f"urllib3: {type(error).__name__}") from error
        finally:
            response.close()
    if response.status != 200:
        raise CutError(f"urllib3: {response.status}")
    return body


def fetch_with_script(page: Page, url: str) -> bytes:
    """As a page's script does it; Chromium always asks for compression."""
    got = page.evaluate(
        """url => fetch(url, {cache: "no-store"}).then(
            answer => answer.ok ? answer.text() : Promise.reject(answer.status)
        ).then(text => ({text}), error => ({error: String(error)}))""",
        url,
    )
    if "error" in got:
        raise CutError(f"fetch: {got['error']}")
    return got["text"].encode()


def download(page: Page, url: str) -> bytes:
    """As somebody does it who clicks on a link to a file."""
    try:
        with page.expect_download(timeout=TIMEOUT_S * 1000) as started:
            page.evaluate(
                "url => Object.assign(document.createElement('a'), {href: url, download: ''}).click()", url
            )
        failure = started.value.failure()
    except BrowserError as error:
        raise CutError(f"download: {error.message}") from error
    if failure:
        raise CutError(f"download: {failure}")
    return Path(started.value.path()).read_bytes()
