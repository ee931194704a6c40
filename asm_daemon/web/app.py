"""The HTTP application: everything a route table promises, done to every request before and after its handler.

One middleware is the only place that turns what was raised into an answer. It also gives each request its id, counts
and logs it. No log line holds a path (a code or an id could stand in it), a query string or a header.
"""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Middleware
from prometheus_client import Counter, Histogram
from pydantic import ValidationError
from structlog.contextvars import bound_contextvars

from asm_daemon.crypto import KeyExhausted, KeyStoreError
from asm_daemon.directory import Gate
from asm_daemon.problems import Refused, from_validation
from asm_daemon.store import LOST
from asm_daemon.web import bodies
from asm_daemon.web.auth import WrongKind, identify
from asm_daemon.web.openapi import document
from asm_daemon.web.rendering import language_of, page, portal_refusal, prefers_html, problem_response
from asm_daemon.web.route import OFFICER, OPERATOR, Call, Q, Route, Table, is_portal
from schemas.violations import violation

STATIC = Path(__file__).parent / "static"
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
KEEP_ALIVE_SECONDS = 75
_HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Server": "asm",
}
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}")
_FROM_STATUS = {404: "not_found", 403: "not_found", 405: "method_not_allowed", 413: "body_too_large"}
_GUARDED = (OFFICER, OPERATOR)
"""Whose routes nobody else tries unrecorded."""
_REQUEST_ID = web.RequestKey("request_id", str)
_PRINCIPAL_ID = web.RequestKey("principal_id", str)

REQUESTS = Counter("asm_http_requests", "Requests answered", ["method", "route", "status"])
SECONDS = Histogram("asm_http_request_seconds", "Time until the answer was ready", ["route"])

log = structlog.get_logger()
Clock = Callable[[], datetime]
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


def utc_now() -> datetime:
    """The clock at the edge; everything behind a route receives `received_at`."""
    return datetime.now(UTC)


def make_app(table: Table, gate: Gate, *, public_url: str, trial: bool, clock: Clock = utc_now) -> web.Application:
    """The application of one route table. `trial` marks every answer and page as without legal effect."""
    app = web.Application(middlewares=[_answered(trial=trial)])
    for route in table:
        endpoint = _endpoint(route, gate, clock)
        resource = app.router.add_resource(route.path, name=route.name)
        resource.add_route(route.method, endpoint)
        if route.method == "GET":
            resource.add_route("HEAD", endpoint)
    app.router.add_get("/openapi.json", _fixed(document(table), "application/json"), name="openapi")
    app.router.add_static("/static", STATIC, name="static")
    headers = _headers(public_url, trial=trial)

    async def add_headers(request: web.Request, response: web.StreamResponse) -> None:
        response.headers.update(headers)
        response.headers["X-Request-Id"] = request.get(_REQUEST_ID, "")
        response.headers.setdefault("Cache-Control", "no-store")

    app.on_response_prepare.append(add_headers)
    return app


def _headers(public_url: str, *, trial: bool) -> Mapping[str, str]:
    headers = dict(_HEADERS)
    if trial:
        headers["ASM-Environment"] = "trial"
    if urlsplit(public_url).scheme == "https":
        headers["Strict-Transport-Security"] = "max-age=31536000"
    return headers


def _fixed(content: bytes, content_type: str) -> Handler:
    async def fixed(_request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=content_type, headers={"Cache-Control": "no-cache"})

    return fixed


# -- one request -------------------------------------------------------------------------------------------------------


def _endpoint(route: Route[Any, Any], gate: Gate, clock: Clock) -> Handler:
    """What the table says, in order: who is asking, then the query, then the body, then the handler."""

    async def endpoint(request: web.Request) -> web.StreamResponse:
        try:
            caller = await identify(gate, route.who, request.headers, request.query, clock())
        except WrongKind as refused:
            if route.who in _GUARDED:  # no record, no answer
                await gate.record_refusal(refused.principal, f"{route.method} {route.path}", clock())
            raise
        if caller.principal is not None:
            request[_PRINCIPAL_ID] = str(caller.principal.id)
        query = _query(route.query, request)
        content = await bodies.read(request, route.body)
        call = Call(
            caller=caller.principal,
            path=request.match_info,
            query=query,
            body=route.body.decode(content, request.headers.get("Content-Type", "")),
            headers=request.headers,
            language=language_of(request.headers.get("Accept-Language", "")),
            received_at=clock(),
            session_facility=caller.facility,
        )
        response = await route.handler(call)
        response.headers.setdefault("Cache-Control", route.cache)
        return response

    return endpoint


def _query(model: type[Q], request: web.Request) -> Q:
    given = request.query
    if len(given) != len(set(given)):
        raise Refused("request_invalid", violations=[violation("given_twice")])
    try:
        return model.model_validate_strings(dict(given))
    except ValidationError as error:
        found = from_validation(error)
        unknown = [violation("unknown_parameter", each.pointer) for each in found if each.code == "unknown_field"]
        others = [each for each in found if each.code != "unknown_field"]
        raise Refused("request_invalid", violations=others + unknown) from None


# -- every request -----------------------------------------------------------------------------------------------------


def _answered(*, trial: bool) -> Middleware:
    @web.middleware
    async def answered(request: web.Request, handler: Handler) -> web.StreamResponse:
        started = time.perf_counter()
        request_id = request[_REQUEST_ID] = _request_id(request.headers.get("traceparent", ""))
        problem = None
        with bound_contextvars(request_id=request_id):
            try:
                response = await handler(request)
            except web.HTTPException as raised:
                if raised.status < 400:
                    raise
                problem = Refused(_FROM_STATUS.get(raised.status, "bad_request"))
                response = _refusal(request, problem, request_id, trial=trial)
                if "Allow" in raised.headers:
                    response.headers["Allow"] = raised.headers["Allow"]
            except Refused as refused:
                problem = refused
                response = _refusal(request, problem, request_id, trial=trial)
            except KeyExhausted as error:
                problem = Refused("key_exhausted", retry_after_seconds=600)
                log.warning("key_exhausted", route=_route(request), exc_info=error)
                response = _refusal(request, problem, request_id, trial=trial)
            except KeyStoreError:
                problem = Refused("unavailable", retry_after_seconds=60)
                log.warning("keys_away", route=_route(request), exc_info=True)
                response = _refusal(request, problem, request_id, trial=trial)
            except LOST:  # intake answers for what it took in; whatever else loses the database has recorded nothing
                problem = Refused("unavailable", retry_after_seconds=5)
                log.warning("database_lost", route=_route(request), exc_info=True)
                response = _refusal(request, problem, request_id, trial=trial)
            except Exception:  # the last place before the client: it is logged, and says nothing outside
                problem = Refused("internal")
                log.exception("request_failed", route=_route(request))
                response = _refusal(request, problem, request_id, trial=trial)
            _record(request, response.status, time.perf_counter() - started, problem)
        return response

    return answered


def _refusal(request: web.Request, refused: Refused, request_id: str, *, trial: bool) -> web.Response:
    language = language_of(request.headers.get("Accept-Language", ""))
    if is_portal(request.path):
        response = portal_refusal(refused, request_id)
    elif prefers_html(request.headers.get("Accept", "")) and not request.path.startswith("/v1/"):
        response = page("problem.html", trial=trial, problem=refused.problem, request_id=request_id)
        response.set_status(refused.problem.status)
    else:
        response = problem_response(refused, language, request_id)
    if refused.problem.status in (408, 413) and not request.content.at_eof():
        response.force_close()  # what is left of the body is not worth reading
    return response


def _request_id(traceparent: str) -> str:
    """The caller's trace id (W3C Trace Context), so that both sides name the request alike, or a new one."""
    match = _TRACEPARENT.fullmatch(traceparent)
    return match[1] if match else secrets.token_hex(16)


def _route(request: web.Request) -> str:
    """The route's pattern; never the path, in which a code or an id may stand."""
    resource = request.match_info.route.resource
    return resource.canonical if resource is not None else "unknown"


def _record(request: web.Request, status: int, seconds: float, problem: Refused | None) -> None:
    route = _route(request)
    REQUESTS.labels(request.method if route != "unknown" else "other", route, status).inc()
    SECONDS.labels(route).observe(seconds)
    log.info(
        "request",
        method=request.method,
        route=route,
        status=status,
        duration_ms=round(seconds * 1000, 1),
        principal_id=request.get(_PRINCIPAL_ID),
        problem=problem.code if problem else None,
    )


# -- serving -----------------------------------------------------------------------------------------------------------


class _Connection(web.RequestHandler):
    """What is not even HTTP gets a problem too, and no word of what was sent goes into the log or the answer."""

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        del message
        if request.writer.output_size > 0:
            raise ConnectionError("an answer is under way already")
        code = "bad_request" if status < 500 else "internal"
        if code == "internal":
            log.error("request_failed", exc_info=exc)
        response = problem_response(Refused(code), "vi", secrets.token_hex(16))
        response.headers.update(_HEADERS)
        response.force_close()
        return response


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        return _Connection(self, loop=self._loop, **self._kwargs)


class Runner(web.AppRunner):
    """Runs the application with our limits: no access log of aiohttp's, no decompression, bounded headers."""

    def __init__(self, app: web.Application, shutdown_seconds: float) -> None:
        super().__init__(
            app,
            access_log=None,
            auto_decompress=False,
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=2.0,
            max_line_size=8190,
            max_field_size=8190,
            shutdown_timeout=shutdown_seconds,
        )

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        made = {"request_factory": server.request_factory, "loop": server._loop, **server._kwargs}
        return _Server(server.request_handler, **made)
