"""One function's boundary: who may ask, routes, problems, headers for browsers, a line of log a request."""

import base64
import binascii
import hmac
import json
import logging
import re
import time
from collections.abc import Callable, Iterable, Mapping, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from urllib.parse import unquote_to_bytes

from flask import Request, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map, Rule

from serving.bodies import end_unread, receive_body, refuse_body, set_body_aside
from serving.logs import log, log_error
from serving.metrics import Gauge, Look, count_request, prepare_metrics, to_text
from serving.origins import check_host, check_site
from serving.postgres import DatabaseUnavailableError
from serving.problems import ProblemError, add_problem_headers, to_response
from serving.sending import Sending

HEALTH_PATHS = ("/healthz", "/readyz")
# With every answer. Browsers then trust its type, and let no page of another site embed it or keep hold of a
# window that shows it.
SHIELD = {
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}
METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"

Handler = Callable[..., Response]
Checks = Mapping[str, Callable[[], None]]
ProblemPage = Callable[[ProblemError], Response]


@dataclass(frozen=True, slots=True)
class Route:
    """A method and a path template, and the function that answers them.

    The handler gets the request and the template's variables. `token` None leaves the route open. A body is
    refused unless `takes_body`.
    """

    method: str
    path: str
    handler: Handler
    token: str | None
    takes_body: bool = False


class Application:
    """Answers each request of a function by its routes.

    `checks` are what readiness depends on: name -> a call that raises ProblemError or
    DatabaseUnavailableError when it is away.
    `allowed_hosts` are answered beside IP addresses and localhost.
    `look` finds figures for /metrics, which takes the token `metrics_token`; `problem_page` shows a problem
    to people. `sending` limits how answers leave.
    """

    def __init__(
        self,
        routes: Iterable[Route],
        *,
        checks: Checks,
        allowed_hosts: Set[str] = frozenset(),
        look: Look | None = None,
        metrics_token: str | None = None,
        problem_page: ProblemPage | None = None,
        sending: Sending | None = None,
    ) -> None:
        self._checks = checks
        self._sending = sending or Sending(threads=1)
        self._allowed_hosts = allowed_hosts
        self._look = look
        self._problem_page = problem_page
        health = [Route("GET", "/healthz", _alive, None), Route("GET", "/readyz", self._ready, None)]
        if look is not None:
            prepare_metrics()
            health.append(Route("GET", "/metrics", self._metrics, metrics_token))
        self.routes = (*health, *routes)
        rules = [Rule(route.path, methods=[route.method], endpoint=route) for route in self.routes]
        # Bound once: no route depends on the host, and binding takes longer than the match.
        self._map = Map(rules, merge_slashes=False, strict_slashes=True).bind("")

    def __call__(self, request: Request) -> Response:
        """Answer one request; never raises."""
        started = time.perf_counter()
        template = ""
        set_body_aside(request)
        try:
            self._check_sender(request)
            route, variables = self._match(request)
            template = route.path
            _check_token(request, route.token)
            if route.takes_body:
                receive_body(request)
            else:
                refuse_body(request)
            response = route.handler(request, **variables)
        except (ProblemError, DatabaseUnavailableError) as error:
            problem = _to_problem(error)
            if problem.status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                cause = str(problem.__cause__ or problem.detail)
                log("request.failed", level=logging.WARNING, code=problem.code, cause=cause)
            response = self._answer_problem(request, problem)
            end_unread(request)
        except Exception as error:  # noqa: BLE001  the boundary: nothing of an error may leave
            log_error("request.crashed", error, route=template)
            problem = ProblemError("internal", "a defect of Rollcall; its log says more")
            response = self._answer_problem(request, problem)
        response = self._sending.send(request, response)
        response.headers.update(SHIELD)
        # The answer's status and not the answer: one that refers to itself stays in memory, and the body of
        # its request with it, until garbage is collected.
        response.call_on_close(partial(self._end, request.method, response.status_code, template, started))
        return response

    def _check_sender(self, request: Request) -> None:
        """Refuse unknown hosts and other sites, before a browser could be asked for the token."""
        if request.path not in HEALTH_PATHS:  # probes ask by whatever name they know
            check_host(request, self._allowed_hosts)
        check_site(request)

    def _match(self, request: Request) -> tuple[Route, Mapping[str, str]]:
        _check_path(request)
        try:
            # The map would take //data for /data. SCRIPT_NAME is a header that the server believes when it is
            # sent from its own machine: a gateway there that goes by paths would see another path.
            if request.environ["PATH_INFO"].startswith("//") or request.environ.get("SCRIPT_NAME"):
                raise NotFound
            return self._map.match(request.path, request.method)  # pyright: ignore[reportReturnType]
        except MethodNotAllowed as error:
            allowed = ", ".join(sorted(error.valid_methods or ()))
            raise ProblemError(
                "method_not_allowed",
                f"{request.path} accepts {allowed}, not {request.method[:20]}",
                headers={"Allow": allowed},
            ) from error
        except HTTPException as error:
            raise ProblemError("not_found", "there is nothing at this path") from error

    def _answer_problem(self, request: Request, problem: ProblemError) -> Response:
        if self._problem_page is None or not prefers_page(request):
            return to_response(problem)
        return add_problem_headers(self._problem_page(problem), problem)

    def _end(self, method: str, status: int, template: str, started: float) -> None:
        """Log and count a request whose answer has been sent."""
        seconds = time.perf_counter() - started
        method = method if method in _METHODS else "other"
        log("request", method=method, route=template, status=status, ms=round(seconds * 1000, 1))
        if self._look is not None:
            count_request(method, template, status, seconds)

    def _metrics(self, request: Request) -> Response:
        """Answer all counts; without the figures of what cannot be reached now."""
        assert self._look is not None  # noqa: S101  this route is there with it only
        try:
            gauges = [*self._look(), Gauge("rollcall_ready", "1 when the figures could be looked up", 1)]
        except (ProblemError, DatabaseUnavailableError):
            gauges = [Gauge("rollcall_ready", "1 when the figures could be looked up", 0)]
        response = Response(to_text(gauges), content_type=METRICS_TYPE)
        response.headers["Cache-Control"] = "no-store"
        return response

    def _ready(self, request: Request) -> Response:
        """Answer 200 when every dependency can be reached, else 503 naming those that cannot."""
        with ThreadPoolExecutor(len(self._checks)) as pool:  # at once: each may take as long as an answer may
            problems = dict(zip(self._checks, pool.map(_find_problem, self._checks.values()), strict=True))
        away = {name: problem for name, problem in sorted(problems.items()) if problem is not None}
        if away:
            code = "database_unavailable" if "postgres" in away else "store_unavailable"
            why = "; ".join(
                f"{name}: {problem.__cause__ or problem.detail}" for name, problem in away.items()
            )
            raise ProblemError(code, f"cannot reach {why}", members={"unavailable": list(away)})
        return to_json({"status": "ready"})


def to_json(document: object, *, status: int = 200) -> Response:
    """Render a small document, keys in the order given."""
    body = json.dumps(document, ensure_ascii=False) + "\n"
    return Response(body, status=status, headers={"Cache-Control": "no-store"}, mimetype="application/json")


def prefers_page(request: Request) -> bool:
    """True of a browser: it would rather have a page than anything that programs read."""
    best = request.accept_mimetypes.best_match(["application/json", "application/problem+json", "text/html"])
    return best == "text/html"


def _alive(request: Request) -> Response:
    return to_json({"status": "alive"})


def _find_problem(check: Callable[[], None]) -> ProblemError | None:
    try:
        check()
    except (ProblemError, DatabaseUnavailableError) as error:
        return _to_problem(error)
    return None


def _to_problem(error: ProblemError | DatabaseUnavailableError) -> ProblemError:
    """Return what the client is told; why Postgres cannot be used holds no data."""
    return error if isinstance(error, ProblemError) else ProblemError(error.code, str(error))


def _check_path(request: Request) -> None:
    """Refuse a path that is not UTF-8, or holds control characters or an encoded slash.

    A replaced character could name another user, and a decoded slash another route.
    """
    raw = request.environ.get("RAW_URI", "").partition("?")[0]
    path = unquote_to_bytes(raw) if raw.startswith("/") else request.environ["PATH_INFO"].encode("latin-1")
    try:
        text = path.decode()
    except UnicodeDecodeError as error:
        raise ProblemError("path_malformed", "the path is not percent-encoded UTF-8") from error
    if _CONTROL.search(text):
        raise ProblemError("path_malformed", "the path holds control characters")
    if "%2f" in raw.lower():
        raise ProblemError("not_found", "there is nothing at this path; no name in a path has a / in it")


def _check_token(request: Request, token: str | None) -> None:
    """Compare in constant time; accepted as Bearer or as the password of Basic."""
    if not token:
        return
    if not hmac.compare_digest(_given_token(request), token.encode()):
        raise ProblemError(
            "unauthorized",
            "this needs the token, as `Authorization: Bearer <token>` or as the password of Basic",
            headers={"WWW-Authenticate": 'Basic realm="Rollcall", charset="UTF-8", Bearer realm="Rollcall"'},
        )


def _given_token(request: Request) -> bytes:
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        return value.strip().encode()
    if scheme.lower() == "basic":
        try:
            return base64.b64decode(value.strip(), validate=True).partition(b":")[2]
        except (binascii.Error, ValueError):
            return b""
    return b""


_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"})
