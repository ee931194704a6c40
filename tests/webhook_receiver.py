"""A real HTTP server that receives webhooks as somebody would who has read the specification and nothing of ours.

With it, what the tests of webhooks share: a client that may reach it, and names that resolve as a test says.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from ipaddress import ip_network
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from connectors.webhooks.client import WebhookClient

LOOPBACK = (ip_network("127.0.0.0/8"),)


@dataclass(frozen=True)
class Message:
    """One request as it came in."""

    headers: dict[str, str]
    body: bytes

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    def signed_by(self, secret: str) -> bool:
        """Standard Webhooks 1.0.0, "Signature scheme": any of the signatures of the header may fit."""
        key = base64.b64decode(secret.removeprefix("whsec_"))
        content = f"{self.id}.{self.headers['webhook-timestamp']}.".encode() + self.body
        wanted = base64.b64encode(hmac.new(key, content, hashlib.sha256).digest()).decode()
        given = [each.partition(",") for each in self.headers["webhook-signature"].split(" ")]
        return any(version == "v1" and value == wanted for version, _, value in given)


@dataclass
class Receiver:
    """Answers with `status` and keeps what came; while `gate` is closed it does not answer."""

    url: str = ""
    status: int = 204
    headers: dict[str, str] = field(default_factory=dict)
    gate: asyncio.Event = field(default_factory=asyncio.Event)
    messages: list[Message] = field(default_factory=list)
    on_message: Callable[[], None] = lambda: None

    async def handle(self, request: web.Request) -> web.StreamResponse:
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.messages.append(Message(headers, await request.read()))
        self.on_message()
        await self.gate.wait()
        return web.Response(status=self.status, headers=self.headers)

    @property
    def ids(self) -> list[str]:
        return [message.id for message in self.messages]


@asynccontextmanager
async def receiving(tls: ssl.SSLContext | None = None) -> AsyncIterator[Receiver]:
    """A running receiver, at a loopback address."""
    receiver = Receiver()
    receiver.gate.set()
    app = web.Application()
    app.router.add_post("/{path:.*}", receiver.handle)
    server = TestServer(app, host="127.0.0.1", scheme="http" if tls is None else "https")
    await server.start_server(ssl=tls)
    receiver.url = f"{server.scheme}://127.0.0.1:{server.port}/hook"
    try:
        yield receiver
    finally:
        receiver.gate.set()
        await server.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as made:
        yield made


@pytest.fixture
async def webhook_client() -> AsyncIterator[WebhookClient]:
    """An open client that may reach this machine, and waits for an answer as long as no test takes."""
    made = WebhookClient(LOOPBACK, answer_seconds=5)
    await made.open()
    yield made
    await made.close()


def resolve_by(monkeypatch: pytest.MonkeyPatch, answer: Callable[[], str]) -> None:
    """Names below `example` have the address that `answer` gives; everything else is resolved as ever."""
    real = socket.getaddrinfo

    def answered(host: Any, *rest: Any, **options: Any) -> Any:
        if not str(host).endswith(".example"):
            return real(host, *rest, **options)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (answer(), 0))]

    monkeypatch.setattr(socket, "getaddrinfo", answered)


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds, but not for ever."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.005)


def unknown_name() -> str:
    """What a name has for an address that nobody has registered, for `resolve_by`."""
    raise socket.gaierror(socket.EAI_NONAME, "unknown")
