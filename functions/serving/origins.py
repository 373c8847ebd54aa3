"""Which hosts are answered, and which requests another site may have made its visitor's browser send."""

import re
from collections.abc import Set
from ipaddress import IPv4Address, IPv6Address

from flask import Request

from serving.problems import ProblemError

_AUTHORITY = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+)(:[0-9]{0,5})?", re.ASCII)
_ABSOLUTE_TARGET = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://([^/?#]*)")
_SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
_OWN_SITES = frozenset({"same-origin", "none"})  # `none`: the person typed the address or chose a bookmark
_FRAMES = frozenset({"iframe", "frame", "fencedframe", "embed", "object"})
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}
_MAX_SHOWN = 80


def check_host(request: Request, allowed: Set[str]) -> None:
    """Refuse a host that is neither an IP address, nor localhost, nor allowed.

    A site can bind a name of its own to this machine. A browser then takes what is here for that site's, and
    lets its pages read it. No name can be bound to an address, nor anew to localhost.
    """
    target = _ABSOLUTE_TARGET.match(request.environ.get("RAW_URI", ""))
    host = target[1] if target else request.environ.get("HTTP_HOST")
    if host is None and request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0":
        return  # it has no Host, and no browser speaks it
    if not _is_known(host or "", allowed):
        raise ProblemError(
            "host_unknown",
            f"the host is {(host or '')[:_MAX_SHOWN]!a}; accepted are IP addresses, localhost and the "
            "names in the setting ALLOWED_HOSTS",
        )


def check_site(request: Request) -> None:
    """Refuse what a page of another site must not have a browser ask for.

    That is any change, and any answer inside that page: as a picture, script, frame or the like, where a
    redirect or an error shows through. Programs that are no browsers send none of these headers.
    """
    if request.method not in _SAFE_METHODS and not _is_from_own_site(request):
        raise ProblemError(
            "cross_site",
            f"{request.method[:20]} was sent by a page of another site ({_describe_sender(request)}); "
            "accepted are pages of this very origin and programs that send neither Sec-Fetch-Site nor Origin",
        )
    if _is_embedded(request) and not _is_from_own_site(request):
        raise ProblemError(
            "cross_site",
            f"a page of another site ({_describe_sender(request)}) embeds this; accepted is a link to it",
        )


def _is_known(authority: str, allowed: Set[str]) -> bool:
    match = _AUTHORITY.fullmatch(authority)
    if match is None:
        return False
    host = match["host"].lower().removesuffix(".")
    return host == "localhost" or host in allowed or _is_address(host)


def _is_address(host: str) -> bool:
    try:
        _ = IPv6Address(host[1:-1]) if host.startswith("[") else IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_from_own_site(request: Request) -> bool:
    if (site := request.headers.get("Sec-Fetch-Site")) is not None:
        return site in _OWN_SITES
    origin = request.headers.get("Origin")
    return origin is None or _is_origin_of(origin, request.environ.get("HTTP_HOST", ""))


def _is_origin_of(origin: str, host: str) -> bool:
    """Compare without the scheme: where TLS ends before this function, only the browser knows it."""
    scheme, _, authority = origin.lower().partition("://")
    default = _DEFAULT_PORTS.get(scheme)
    return default is not None and authority in (host.lower(), host.lower().removesuffix(default))


def _is_embedded(request: Request) -> bool:
    headers = request.headers
    return headers.get("Sec-Fetch-Mode") == "no-cors" or headers.get("Sec-Fetch-Dest") in _FRAMES


def _describe_sender(request: Request) -> str:
    for name in ("Sec-Fetch-Site", "Origin"):
        if (value := request.headers.get(name)) is not None:
            return f"{name}: {ascii(value[:_MAX_SHOWN])[1:-1]}"
    return ""
