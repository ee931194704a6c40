"""A small real server that plays the hotel software of a test: Apaleo, Mews and OHIP, and everything they do wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson
from aiohttp import web
from aiohttp.test_utils import TestServer

TOKEN = "opened"


@dataclass
class HotelServer:
    """What it knows (`reservations` by id, in the system's own form), what it was asked, and how it fails.

    `while_asked` happens once, during the next request. `failing` is taken once for each request, first entry first: a
    response, or "hang", or "slow".
    """

    url: str = ""
    reservations: dict[str, Any] = field(default_factory=dict)
    mews: dict[str, Any] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    bodies: list[Any] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    while_asked: Callable[[], Awaitable[object]] | None = None
    failing: list[web.Response | str] = field(default_factory=list)
    released: asyncio.Event = field(default_factory=asyncio.Event)


@asynccontextmanager
async def hotel_server() -> AsyncIterator[HotelServer]:
    """Runs it."""
    hotel = HotelServer()

    async def answer(request: web.Request) -> web.StreamResponse:
        body = await request.read()
        hotel.asked.append(f"{request.method} {request.path}")
        hotel.headers.append(dict(request.headers))
        if hotel.while_asked is not None:
            happening, hotel.while_asked = hotel.while_asked, None
            await happening()
        if hotel.failing:
            failure = hotel.failing.pop(0)
            if isinstance(failure, web.Response):
                return failure
            response = web.StreamResponse(headers={"Content-Type": "application/json"})
            if failure == "slow":
                await response.prepare(request)
                await response.write(b'{"id":')
            await hotel.released.wait()
            return response
        if request.path.endswith(("/token", "/tokens")):
            return web.json_response({"access_token": TOKEN, "expires_in": 3600})
        if "/api/connector/v1/" in request.path:
            hotel.bodies.append(orjson.loads(body))
            return web.json_response(hotel.mews.get(request.path.partition("/v1/")[2], {}))
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return web.Response(status=401)
        found = hotel.reservations.get(request.path.rpartition("/")[2])
        return web.json_response(found) if found is not None else web.Response(status=404)

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    async with TestServer(app) as server:
        hotel.url = str(server.make_url("")).rstrip("/")
        try:
            yield hotel
        finally:
            hotel.released.set()
