"""The client of the population database: sends batches, and never takes an answer for more than it says.

It implements docs/population-contract.md. It does not retry (that is the reconciler's business) except that an expired
token is renewed once per request, and it logs nothing.
"""

from __future__ import annotations

import asyncio
import re
import ssl
from collections.abc import AsyncIterator, Callable, Hashable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import quote
from uuid import UUID

import aiohttp
import orjson
from aiohttp import hdrs
from pydantic import BaseModel, ValidationError
from yarl import URL

from schemas.population import (
    BATCH_LIMIT,
    Ambiguous,
    BatchAnswer,
    DigestsRequest,
    HeldPage,
    IdRange,
    PopulationItem,
    PopulationResult,
    PopulationState,
    RangeDigest,
    Unreachable,
    canonical,
)

ANSWER_BYTES = 1024 * 1024
_RENEW_BEFORE = 0.9  # of its life: an older token is not used for a new request
_SECONDS = re.compile(r"[0-9]{1,6}")
_CODE = re.compile(r"[a-z][a-z0-9_]{0,39}")
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class _Reply:
    """A whole HTTP answer. `content` is the JSON in it, or None when there is none that can be read."""

    status: int
    asks_to_wait: bool
    retry_after_seconds: float | None
    is_html: bool
    content: Any = field(repr=False)


class PopulationClient:
    """One OAuth2 client of the population database; `open` before use, `close` after.

    `connect_seconds` covers name, TCP, TLS and waiting for one of `connections`; `answer_seconds` one request as a
    whole, and likewise the getting of a token before it. `tls` carries a private CA or a client certificate. Redirects
    are not followed and proxy settings of the environment are not used: personal data goes to `base_url` or nowhere.
    """

    def __init__(
        self,
        base_url: str,
        client_id: str,
        client_secret: str,
        *,
        connect_seconds: float = 2.0,
        answer_seconds: float = 10.0,
        connections: int = 8,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._base = URL(base_url)
        if self._base.scheme not in ("http", "https") or not self._base.host or self._base.user:
            raise ValueError("base_url must be an http or https URL without credentials")
        self._basic = aiohttp.encode_basic_auth(quote(client_id, safe=""), quote(client_secret, safe=""))
        self._answer_seconds = answer_seconds
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds, connect=connect_seconds)
        self._connections = connections
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._session: aiohttp.ClientSession | None = None
        self._token: str | None = None
        self._token_until = 0.0
        self._renewing = asyncio.Lock()

    def __repr__(self) -> str:
        return f"<PopulationClient {self._base.host}>"

    async def open(self) -> None:
        """Make the connection pool; nothing is sent yet. Raises RuntimeError when it is open already."""
        if self._session is not None:
            raise RuntimeError("the population client is open already")
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._connections, ssl=self._tls),
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={hdrs.USER_AGENT: "asm-daemon", hdrs.ACCEPT_ENCODING: "identity"},
            auto_decompress=False,
        )

    async def close(self) -> None:
        """Close the connections and forget the token. May be repeated."""
        session, self._session, self._token = self._session, None, None
        if session is not None:
            await session.close()

    async def send(self, items: Sequence[PopulationItem]) -> BatchAnswer:
        """Send 1-500 items, no stay twice, and return the results that can be believed, item by item.

        Raises Unreachable when nothing can have taken effect, and Ambiguous when it is unknown and no result came; a
        partial answer is an answer, with the stays it leaves out in `unanswered`. ValueError: not a batch.
        """
        sent = {item.stay_id: item.version for item in items}
        if not 1 <= len(items) <= BATCH_LIMIT or len(sent) < len(items):
            raise ValueError(f"a batch is 1-{BATCH_LIMIT} items with no stay twice")
        body = b'{"items":[' + b",".join(map(canonical, items)) + b"]}"
        results = _believed(
            (
                result
                for result in _rows(await self._post("v1/stays:batch", body), PopulationResult)
                if sent.get(result.stay_id) == result.version
            ),
            by=_stay,
        )
        if not results:
            raise Ambiguous("no_results")
        return BatchAnswer(results, frozenset(sent.keys() - results.keys()))

    async def status(self, stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        """Ask which version is held of 1-500 stays; a stay without a believable row is missing from the answer.

        Raises Unreachable or Ambiguous as `send` does; either way nothing has changed. ValueError: not a batch.
        """
        asked = dict.fromkeys(stay_ids)
        if not 1 <= len(stay_ids) <= BATCH_LIMIT:
            raise ValueError(f"one request asks for 1-{BATCH_LIMIT} stays")
        body = orjson.dumps({"stay_ids": [str(stay_id) for stay_id in asked]})  # asyncpg's UUID is a subclass
        states = _believed(
            (
                state
                for state in _rows(await self._post("v1/stays:status", body), PopulationState)
                if state.stay_id in asked
            ),
            by=_stay,
        )
        if not states:
            raise Ambiguous("no_results")
        return states

    async def digests(self, ranges: Sequence[IdRange]) -> Mapping[IdRange, RangeDigest]:
        """Ask for the digests of 1-500 ranges, in order and apart; one without a believable row is missing.

        Raises Unreachable or Ambiguous as `send` does; nothing has changed. ValueError: not such ranges.
        """
        request = DigestsRequest(ranges=list(ranges))
        asked = {(one.start, one.end): one for one in request.ranges}
        told = _believed(
            (
                row
                for row in _rows(await self._post("v1/stays:digests", _json(request)), RangeDigest)
                if (row.start, row.end) in asked
            ),
            by=lambda row: asked[row.start, row.end],
        )
        if not told:
            raise Ambiguous("no_results")
        return told

    async def held(self, wanted: IdRange) -> HeldPage:
        """Ask for the first stays held of a range. A page is believed as a whole or not at all.

        Raises Unreachable or Ambiguous as `send` does; nothing has changed.
        """
        try:
            page = HeldPage.model_validate_json(orjson.dumps(await self._post("v1/stays:held", _json(wanted))))
        except ValidationError:
            raise Ambiguous("unbelievable_page") from None
        if any(not wanted.start <= row.stay_id < wanted.end for row in page.results):
            raise Ambiguous("unbelievable_page")
        return page

    async def _post(self, path: str, body: bytes) -> Any:
        """The JSON of a 200. The token is renewed once if the other side no longer knows it."""
        token = await self._current_token(None)
        reply = await self._exchange(path, body, f"Bearer {token}", "application/json")
        if reply.status == 401:
            token = await self._current_token(token)
            reply = await self._exchange(path, body, f"Bearer {token}", "application/json")
        return _content(reply)

    async def _current_token(self, refused: str | None) -> str:
        """A token other than `refused`; requests that find it void together ask for one new token together.

        Raises Unreachable only: until there is a token, nothing has been sent.
        """
        try:
            async with asyncio.timeout(self._answer_seconds), self._renewing:
                now = asyncio.get_running_loop().time()
                if self._token is None or self._token == refused or now >= self._token_until:
                    self._token, seconds = await self._new_token()
                    self._token_until = now + seconds * _RENEW_BEFORE
                return self._token
        except TimeoutError:
            raise Unreachable("token_timeout") from None

    async def _new_token(self) -> tuple[str, float]:
        """Token and life in seconds (RFC 6749, 4.4 and 5.1). Raises Unreachable."""
        form = b"grant_type=client_credentials"
        try:
            reply = await self._exchange("oauth2/token", form, self._basic, "application/x-www-form-urlencoded")
        except Ambiguous as ambiguous:
            raise Unreachable(f"token_{ambiguous.code}") from None
        if reply.status != 200:
            raise Unreachable(f"token_status_{reply.status}", reply.retry_after_seconds)
        match reply.content:
            case {"access_token": str(token), "expires_in": int(seconds)} if token.isascii() and token.isprintable():
                return token, float(seconds)
        raise Unreachable("token_unreadable")

    async def _exchange(self, path: str, body: bytes, authorization: str, content_type: str) -> _Reply:
        if self._session is None:
            raise RuntimeError("the population client is not open")
        headers = {hdrs.AUTHORIZATION: authorization, hdrs.CONTENT_TYPE: content_type, hdrs.ACCEPT: "application/json"}
        try:
            async with self._session.post(
                self._base / path, data=body, headers=headers, allow_redirects=False
            ) as response:
                return await _whole(response)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise Unreachable("no_connection") from None
        except TimeoutError:
            raise Ambiguous("timeout") from None
        except (aiohttp.ClientError, OSError):
            raise Ambiguous("connection_lost") from None


@asynccontextmanager
async def open_client(base_url: str, client_id: str, client_secret: str) -> AsyncIterator[PopulationClient]:
    """The connector `http` of the group `asm_daemon.population`: an open client, closed after the block."""
    client = PopulationClient(base_url, client_id, client_secret)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


async def _whole(response: aiohttp.ClientResponse) -> _Reply:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES:
            response.close()
            raise Ambiguous("answer_too_large")
    content = None
    if response.content_type in ("application/json", "application/problem+json"):
        with suppress(orjson.JSONDecodeError):
            content = orjson.loads(body)
    wait = response.headers.get(hdrs.RETRY_AFTER)
    return _Reply(
        status=response.status,
        asks_to_wait=wait is not None,
        retry_after_seconds=float(wait) if wait is not None and _SECONDS.fullmatch(wait) else None,
        is_html=response.content_type == "text/html",
        content=content,
    )


def _content(reply: _Reply) -> Any:
    """The content of a 200. Any other answer is sorted by whether it proves that nothing happened.

    Only a status for which the contract promises that is proof; a page of some gateway on the way proves nothing.
    """
    if reply.is_html:
        raise Ambiguous("html_page")
    if reply.status == 401:
        raise Unreachable("unauthorised")
    if reply.status in (429, 503) and reply.asks_to_wait:
        raise Unreachable("overloaded", reply.retry_after_seconds)
    if 400 <= reply.status < 500 and isinstance(reply.content, dict):
        code = reply.content.get("code")
        named = isinstance(code, str) and _CODE.fullmatch(code)
        raise Unreachable(f"request_refused_{code}" if named else "request_refused")
    if reply.status != 200:
        raise Ambiguous(f"status_{reply.status}")
    if reply.content is None:
        raise Ambiguous("malformed_json")
    return reply.content


def _rows(content: Any, model: type[_Model]) -> Iterable[_Model]:
    """The rows of {"results": […]} that are what the contract says, one by one."""
    rows = content.get("results") if isinstance(content, dict) else None
    if not isinstance(rows, list):
        raise Ambiguous("no_results")
    for row in rows:
        try:
            yield model.model_validate_json(orjson.dumps(row))
        except ValidationError:
            continue


def _json(request: BaseModel) -> bytes:
    return orjson.dumps(request.model_dump(mode="json"))


_Row = TypeVar("_Row", PopulationResult, PopulationState, RangeDigest)
_Key = TypeVar("_Key", bound=Hashable)


def _stay(row: PopulationResult | PopulationState) -> UUID:
    return row.stay_id


def _believed(rows: Iterable[_Row], *, by: Callable[[_Row], _Key]) -> dict[_Key, _Row]:
    """Rows by what they are about. Two rows that disagree are both not believed."""
    believed: dict[_Key, _Row] = {}
    disputed: set[_Key] = set()
    for row in rows:
        key = by(row)
        if believed.setdefault(key, row) != row:
            disputed.add(key)
    return {key: row for key, row in believed.items() if key not in disputed}
