"""The population simulator: a real HTTP service with its own database that stands in for the population database.

It keeps to docs/population-contract.md, checks that its senders do, and fails on demand (`simulator_faults`).
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import logging
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar
from urllib.parse import unquote
from uuid import UUID

import asyncpg
import orjson
from aiohttp import hdrs, web
from aiohttp.typedefs import Handler
from pydantic import BaseModel, ConfigDict, ValidationError

from connectors.population import simulator_store as store
from connectors.population.simulator_faults import (
    Fault,
    FaultKind,
    FaultPlan,
    Operation,
    Schedule,
    drip,
    misbehave,
    takes_effect,
)
from connectors.population.simulator_store import migrate, seed, seed_persons
from schemas.population import (
    BATCH_LIMIT,
    BatchRequest,
    DigestsRequest,
    HeldRequest,
    IdRange,
    Outcome,
    PopulationItem,
    PopulationResult,
    StatusRequest,
    Verification,
)

__all__ = ["Credentials", "create_application", "migrate", "seed", "seed_persons", "serve"]

BODY_BYTES = 2 * 1024 * 1024
POOL_SIZE = 8
_TOKENS_LIMIT = 10_000
_ACQUIRE_SECONDS = 10.0
_COMMAND_SECONDS = 30.0
_HEALTH_SECONDS = 2.0
_SHUTDOWN_SECONDS = 2.0

_log = logging.getLogger(__name__)
_Model = TypeVar("_Model", bound=BaseModel)
_Work = Callable[[Sequence[Any]], Awaitable[Sequence[Mapping[str, Any]]]]


@dataclass(frozen=True, slots=True)
class Credentials:
    """Who may speak to the simulator: one OAuth2 client, and the holder of the admin token."""

    client_id: str
    client_secret: str = field(repr=False)
    admin_token: str = field(repr=False)
    token_seconds: int = 300

    def __post_init__(self) -> None:
        if not (self.client_id and self.client_secret and self.admin_token):
            raise ValueError("client_id, client_secret and admin_token must not be empty")


class _Tokens:
    """Access tokens by the loop's clock. They live in memory: a restart voids them, and clients ask for new ones."""

    def __init__(self, seconds: int) -> None:
        self.seconds = seconds
        self._expiry: dict[str, float] = {}

    def issue(self) -> str:
        now = asyncio.get_running_loop().time()
        self._expiry = {token: until for token, until in self._expiry.items() if until > now}
        if len(self._expiry) >= _TOKENS_LIMIT:
            raise _Refusal(429, "too_many_tokens")
        token = secrets.token_urlsafe(32)
        self._expiry[token] = now + self.seconds
        return token

    def is_live(self, token: str) -> bool:
        return self._expiry.get(token, 0.0) > asyncio.get_running_loop().time()

    def void(self) -> None:
        self._expiry.clear()


class Mode(BaseModel):
    """`PUT /admin/mode`. With `discard` every batch is answered `accepted` and nothing is kept: for benchmarks."""

    model_config = ConfigDict(strict=True, extra="forbid")

    discard: bool = False


class _Refusal(Exception):
    """The request as a whole is refused, and nothing of it took effect."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(code)
        self.status = status
        self.code = code


def create_application(pool: asyncpg.Pool, credentials: Credentials) -> web.Application:
    """The simulator on a pool of its migrated database. The caller closes the pool after the application."""
    tokens = _Tokens(credentials.token_seconds)
    faults = FaultPlan()
    mode = Mode()
    application = web.Application(
        client_max_size=BODY_BYTES,
        middlewares=[_failures, _refusals(pool), _authorise(tokens, credentials.admin_token)],
    )
    application.router.add_get("/healthz", partial(_health, pool))
    application.router.add_post("/oauth2/token", partial(_issue_token, credentials, tokens, faults))
    application.add_routes(_stay_routes(pool, tokens, faults, mode))
    application.add_routes(_admin_routes(pool, faults, mode))
    return application


async def serve(
    database_url: str,
    host: str,
    port: int,
    *,
    client_id: str,
    client_secret: str,
    admin_token: str,
    ready: Callable[[int], None] | None = None,
) -> None:
    """Migrate, then serve until cancelled. `ready` gets the port once it is open, which matters when `port` is 0."""
    credentials = Credentials(client_id, client_secret, admin_token)
    await migrate(database_url)
    async with asyncpg.create_pool(
        database_url, min_size=1, max_size=POOL_SIZE, command_timeout=_COMMAND_SECONDS
    ) as pool:
        runner = web.AppRunner(
            create_application(pool, credentials), access_log=None, shutdown_timeout=_SHUTDOWN_SECONDS
        )
        await runner.setup()
        try:
            await web.TCPSite(runner, host, port).start()
            if ready is not None:
                ready(runner.addresses[0][1])
            await asyncio.Event().wait()
        finally:
            await runner.cleanup()


# -- who may, and what failures look like ------------------------------------------------------------------------------


def _authorise(tokens: _Tokens, admin_token: str) -> Any:
    expected = admin_token.encode()

    @web.middleware
    async def authorise(request: web.Request, handler: Handler) -> web.StreamResponse:
        scheme, _, token = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
        bearer = token if scheme.lower() == "bearer" else ""
        if request.path.startswith("/admin/") and not hmac.compare_digest(bearer.encode(), expected):
            raise _Refusal(401, "invalid_token")
        if request.path.startswith("/v1/") and not tokens.is_live(bearer):
            raise _Refusal(401, "invalid_token")
        return await handler(request)

    return authorise


def _refusals(pool: asyncpg.Pool) -> Any:
    """Render refusals as problem+json (RFC 9457), and remember those by which a sender broke the contract."""

    @web.middleware
    async def refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except _Refusal as refusal:
            status, code = refusal.status, refusal.code
        except web.HTTPClientError as error:
            status, code = error.status, "too_large" if error.status == 413 else "no_such_operation"
        if request.path.startswith("/v1/") and status not in (401, 409):
            async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
                await store.count_violations(connection, [code])
        return _problem(status, code)

    return refusals


@web.middleware
async def _failures(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except Exception as error:  # noqa: BLE001 - the request middleware
        _log.error("request failed: %s", type(error).__name__)  # the name alone: a traceback may show the guest
        return _problem(500, "internal_error")


def _problem(status: int, code: str) -> web.Response:
    headers = {hdrs.WWW_AUTHENTICATE: "Bearer"} if status == 401 else None
    body = {"type": "about:blank", "title": code.replace("_", " "), "status": status, "code": code}
    return web.Response(
        status=status, headers=headers, body=orjson.dumps(body), content_type="application/problem+json"
    )


def _json(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    return web.Response(status=status, headers=headers, body=orjson.dumps(body), content_type="application/json")


async def _read(request: web.Request, model: type[_Model]) -> _Model:
    if request.query_string:  # URLs are written into the logs of everything on the way
        raise _Refusal(400, "query_in_url")
    if request.content_type != "application/json":
        raise _Refusal(415, "json_wanted")
    try:
        return model.model_validate_json(await request.read())
    except ValidationError as error:
        kinds = {entry["type"] for entry in error.errors(include_url=False, include_input=False)}
    if "json_invalid" in kinds:
        raise _Refusal(400, "malformed")
    raise _Refusal(422, "too_many_items" if "too_long" in kinds else "invalid_request")


async def _health(pool: asyncpg.Pool, request: web.Request) -> web.Response:
    del request
    try:
        await pool.fetchval("SELECT 1", timeout=_HEALTH_SECONDS)
    except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return _json({"status": "database unavailable"}, 503)
    return _json({"status": "ok"})


async def _issue_token(
    credentials: Credentials, tokens: _Tokens, faults: FaultPlan, request: web.Request
) -> web.StreamResponse:
    """OAuth2 client credentials (RFC 6749, 4.4), the client authenticated by HTTP Basic (2.3.1)."""
    form = await request.post()
    fault = faults.draw(Operation.TOKEN)
    if fault is not None and fault.kind is FaultKind.LATENCY:
        await asyncio.sleep(fault.milliseconds / 1000)
    elif fault is not None and fault.kind is not FaultKind.SLOW_BODY:
        return await misbehave(request, fault)
    no_store: dict[str, str] = {hdrs.CACHE_CONTROL: "no-store"}
    client_id, client_secret = _basic(request.headers.get(hdrs.AUTHORIZATION, ""))
    known = hmac.compare_digest(client_id.encode(), credentials.client_id.encode())
    if not hmac.compare_digest(client_secret.encode(), credentials.client_secret.encode()) or not known:
        return _json({"error": "invalid_client"}, 401, no_store | {hdrs.WWW_AUTHENTICATE: "Basic"})
    if form.get("grant_type") != "client_credentials":
        return _json({"error": "unsupported_grant_type"}, 400, no_store)
    answer = {"access_token": tokens.issue(), "token_type": "Bearer", "expires_in": tokens.seconds}
    if fault is not None and fault.kind is FaultKind.SLOW_BODY:
        return await drip(request, orjson.dumps(answer), fault.milliseconds / 1000)
    return _json(answer, headers=no_store)


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        client_id, _, client_secret = base64.b64decode(encoded, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return "", ""
    return (unquote(client_id), unquote(client_secret)) if scheme.lower() == "basic" else ("", "")


# -- the contract ------------------------------------------------------------------------------------------------------


def _stay_routes(pool: asyncpg.Pool, tokens: _Tokens, faults: FaultPlan, mode: Mode) -> list[web.RouteDef]:
    async def batch(request: web.Request) -> web.StreamResponse:
        items = (await _read(request, BatchRequest)).items
        work: _Work = _discard if mode.discard else partial(_take_in, pool)
        return await _answer(request, faults.draw(Operation.BATCH), items, work, tokens)

    async def status(request: web.Request) -> web.StreamResponse:
        stay_ids = (await _read(request, StatusRequest)).stay_ids
        return await _answer(request, faults.draw(Operation.STATUS), stay_ids, partial(_look_up, pool), tokens)

    async def digests(request: web.Request) -> web.StreamResponse:
        ranges = (await _read(request, DigestsRequest)).ranges
        _refuse_to_compare(mode)
        return await _answer(request, faults.draw(Operation.DIGESTS), ranges, partial(_digest, pool), tokens)

    async def held(request: web.Request) -> web.StreamResponse:
        wanted = await _read(request, HeldRequest)
        _refuse_to_compare(mode)
        rows, complete = await _list(pool, wanted)
        about = {"count": len(rows), "complete": complete}
        return await _answer(request, faults.draw(Operation.HELD), rows, _as_it_is, tokens, about)

    return [
        web.post("/v1/stays:batch", batch),
        web.post("/v1/stays:status", status),
        web.post("/v1/stays:digests", digests),
        web.post("/v1/stays:held", held),
    ]


async def _answer(
    request: web.Request,
    fault: Fault | None,
    asked: Sequence[Any],
    work: _Work,
    tokens: _Tokens,
    about: Mapping[str, Any] | None = None,
) -> web.StreamResponse:
    """Do the work, or what `fault` leaves of it, and answer as the fault has it; `about` stands beside the results."""
    if fault is not None and fault.kind is FaultKind.LATENCY:
        await asyncio.sleep(fault.milliseconds / 1000)
    effective = takes_effect(fault, asked)
    results = list(await work(effective)) if effective else []
    about = about or {}
    if fault is None or fault.kind is FaultKind.LATENCY:
        return _json({"results": results, **about})
    match fault.kind:
        case FaultKind.SLOW_BODY:
            return await drip(request, orjson.dumps({"results": results, **about}), fault.milliseconds / 1000)
        case FaultKind.PARTIAL:
            return _json({"results": results[: len(asked) // 2], **about})
        case FaultKind.ZERO_ROWS:
            return _json({"results": [], **about})
        case FaultKind.TOKEN_EXPIRED:
            tokens.void()
            return _problem(401, "invalid_token")
    return await misbehave(request, fault)


async def _take_in(pool: asyncpg.Pool, raw_items: Sequence[Any]) -> list[Mapping[str, Any]]:
    """One batch, one transaction. An item that breaks the contract is refused alone and holds up no other."""
    read = [_read_item(raw) for raw in raw_items]
    if len({entry.stay_id for entry in read}) < len(read):
        raise _Refusal(422, "repeated_stay")
    items = [entry for entry in read if isinstance(entry, PopulationItem)]
    async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection, connection.transaction():
        applied = iter(await store.apply(connection, items) if items else [])
        results = [entry if isinstance(entry, PopulationResult) else next(applied) for entry in read]
        broken = [result.code for result in results if result.code is not None]
        if broken:
            await store.count_violations(connection, broken)
    return [result.model_dump(mode="json") for result in results]


async def _look_up(pool: asyncpg.Pool, stay_ids: Sequence[UUID]) -> list[Mapping[str, Any]]:
    async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
        return [state.model_dump(mode="json") for state in await store.states(connection, stay_ids)]


async def _digest(pool: asyncpg.Pool, ranges: Sequence[IdRange]) -> list[Mapping[str, Any]]:
    async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
        return [row.model_dump(mode="json") for row in await store.range_digests(connection, ranges)]


async def _list(pool: asyncpg.Pool, wanted: HeldRequest) -> tuple[list[Mapping[str, Any]], bool]:
    async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
        rows = await store.held_stays(connection, wanted, BATCH_LIMIT + 1)
    return [row.model_dump(mode="json") for row in rows[:BATCH_LIMIT]], len(rows) <= BATCH_LIMIT


async def _as_it_is(rows: Sequence[Any]) -> Sequence[Mapping[str, Any]]:
    return rows


def _refuse_to_compare(mode: Mode) -> None:
    """Who keeps nothing has nothing to compare, and must not make the sender send everything again."""
    if mode.discard:
        raise _Refusal(409, "discarding")


async def _discard(raw_items: Sequence[Any]) -> list[Mapping[str, Any]]:
    answer = {"outcome": Outcome.ACCEPTED, "code": None, "verification": Verification.NOT_CHECKED}
    return [{"stay_id": str(stay_id), "version": version, **answer} for stay_id, version in map(_identify, raw_items)]


def _read_item(raw: Any) -> PopulationItem | PopulationResult:
    """The item, or its refusal. Raises _Refusal of the whole request when it does not even say which stay it is."""
    stay_id, version = _identify(raw)
    try:
        return PopulationItem.model_validate_json(orjson.dumps(raw))
    except orjson.JSONEncodeError:  # a number beyond 64 bits
        code = "invalid_item"
    except ValidationError as error:
        kinds = {entry["type"] for entry in error.errors(include_url=False, include_input=False)}
        code = "unknown_field" if "extra_forbidden" in kinds else "invalid_item"
    return PopulationResult(
        stay_id=stay_id, version=version, outcome=Outcome.REFUSED, code=code, verification=Verification.NOT_CHECKED
    )


def _identify(raw: Any) -> tuple[UUID, int]:
    try:
        stay_id, version = UUID(raw["stay_id"]), raw["version"]
    except (TypeError, KeyError, ValueError, AttributeError):
        raise _Refusal(422, "unidentifiable_item") from None
    if type(version) is not int or not 1 <= version < 2**31:
        raise _Refusal(422, "unidentifiable_item")
    return stay_id, version


# -- for tests and operators -------------------------------------------------------------------------------------------


def _admin_routes(pool: asyncpg.Pool, faults: FaultPlan, mode: Mode) -> list[web.RouteDef]:
    async def arm(request: web.Request) -> web.Response:
        faults.arm(await _read(request, Fault))
        return _json(faults.report(), 201)

    async def armed(request: web.Request) -> web.Response:
        del request
        return _json(faults.report())

    async def disarm(request: web.Request) -> web.Response:
        del request
        faults.disarm()
        return _json(faults.report())

    async def follow(request: web.Request) -> web.Response:
        faults.follow(await _read(request, Schedule))
        return _json(faults.schedule_report(), 201)

    async def followed(request: web.Request) -> web.Response:
        del request
        return _json(faults.schedule_report())

    async def unschedule(request: web.Request) -> web.Response:
        del request
        faults.unschedule()
        return _json(faults.schedule_report())

    async def set_mode(request: web.Request) -> web.Response:
        mode.discard = (await _read(request, Mode)).discard
        return _json(mode.model_dump())

    async def violations(request: web.Request) -> web.Response:
        del request
        async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
            return _json(await store.violations(connection))

    async def stay(request: web.Request) -> web.Response:
        try:
            stay_id = UUID(request.match_info["id"])
        except ValueError:
            raise _Refusal(404, "no_such_stay") from None
        async with pool.acquire(timeout=_ACQUIRE_SECONDS) as connection:
            held = await store.held_version(connection, stay_id)
        if held is None:
            raise _Refusal(404, "no_such_stay")
        return _json({"version": held[0], "status": held[1]})

    return [
        web.post("/admin/faults", arm),
        web.get("/admin/faults", armed),
        web.delete("/admin/faults", disarm),
        web.post("/admin/schedule", follow),
        web.get("/admin/schedule", followed),
        web.delete("/admin/schedule", unschedule),
        web.put("/admin/mode", set_mode),
        web.get("/admin/violations", violations),
        web.get("/admin/stays/{id}", stay),
    ]
