"""Fetches one reservation from the hotel software of one facility, with explicit limits on everything.

| system | credentials file | asked |
|---|---|---|
| `apaleo` | `client_id`, `client_secret` | the token URL; `GET /booking/v1/reservations/{id}` |
| `mews` | `client_token`, `access_token` | reservations, companionships, customers, resources: `getAll` |
| `ohip` | as Apaleo, `app_key`, perhaps `enterprise_id` | `POST /oauth/v1/tokens`; the Reservation API |

The operations of Mews stand below `/api/connector/v1`, that of OHIP is
`GET /rsv/v1/hotels/{property}/reservations/{id}`.

Redirects are not followed and proxy settings of the environment are not used: what is registered is called, or nothing.
No answer is ever part of an error.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeAlias
from urllib.parse import quote

import aiohttp
import orjson
from aiohttp import hdrs
from yarl import URL

from schemas.hotels import HotelSystem, NotFetched

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 20.0
ANSWER_BYTES = 2 << 20
CREDENTIALS_BYTES = 16 << 10
_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)
_SCOPE = "urn:opc:hgbu:ws:__myscopes__"
_NEEDED = {
    HotelSystem.APALEO: ("client_id", "client_secret"),
    HotelSystem.MEWS: ("client_token", "access_token"),
    HotelSystem.OHIP: ("client_id", "client_secret", "app_key"),
}
Members: TypeAlias = Mapping[str, Any]


@asynccontextmanager
async def open_client(
    system: HotelSystem,
    base_url: str,
    token_url: str | None,
    property_id: str | None,
    credentials_file: Path,
    *,
    answer_seconds: float = ANSWER_SECONDS,
) -> AsyncIterator[HotelClient]:
    """A client for a while. Raises `NotFetched`: no_credentials, wrong_credentials_file."""
    credentials = _credentials(system, credentials_file)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=2),
        timeout=aiohttp.ClientTimeout(total=answer_seconds, connect=CONNECT_SECONDS),
        cookie_jar=aiohttp.DummyCookieJar(),
        headers={hdrs.USER_AGENT: "asm-daemon", hdrs.ACCEPT: "application/json", hdrs.ACCEPT_ENCODING: "identity"},
        auto_decompress=False,
    ) as session:
        yield HotelClient(session, system, base_url, token_url, property_id, credentials)


class HotelClient:
    """One system of one facility; the token, where there is one, is asked for once."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        system: HotelSystem,
        base_url: str,
        token_url: str | None,
        property_id: str | None,
        credentials: Mapping[str, str],
    ) -> None:
        self._session = session
        self._system = system
        self._base_url = base_url
        self._token_url = token_url
        self._property_id = property_id
        self._credentials = credentials
        self._token: str | None = None

    def __repr__(self) -> str:
        return f"<HotelClient {self._system}>"

    async def fetch(self, reservation_id: str) -> bytes | None:
        """The reservation as the system's connector reads it; None if the system knows none of this id.

        Raises `NotFetched`: no_connection, timeout, connection_lost, answer_too_large, malformed_json, redirected,
        unauthorised, overloaded, status_NNN, no_property.
        """
        if self._system is HotelSystem.MEWS:
            return await self._fetch_from_mews(reservation_id)
        headers: dict[str, str] = {hdrs.AUTHORIZATION: f"Bearer {await self._current_token()}"}
        path = f"/booking/v1/reservations/{quote(reservation_id, safe='')}"
        if self._system is HotelSystem.OHIP:
            if self._property_id is None:
                raise NotFetched("no_property")
            headers |= {"x-app-key": self._credentials["app_key"], "x-hotelid": self._property_id}
            hotel = quote(self._property_id, safe="")
            path = f"/rsv/v1/hotels/{hotel}/reservations/{quote(reservation_id, safe='')}"
        answer = await self._exchange("GET", self._base_url + path, headers, None)
        return None if answer is None else orjson.dumps(answer)

    async def _fetch_from_mews(self, reservation_id: str) -> bytes | None:
        found = await self._ask_mews("reservations/getAll/2023-06-06", {"ReservationIds": [reservation_id]}, 1)
        reservations = _objects(found.get("Reservations"))
        if not reservations:
            return None
        known = await self._ask_mews("companionships/getAll", {"ReservationIds": [reservation_id]}, 100)
        companions = _objects(known.get("Companionships"))
        people = {str(each["CustomerId"]) for each in companions if "CustomerId" in each}
        people |= {str(each["AccountId"]) for each in reservations if each.get("AccountId")}
        rooms = sorted({str(each["AssignedResourceId"]) for each in reservations if each.get("AssignedResourceId")})
        wanted = {"CustomerIds": sorted(people), "Extent": {"Customers": True, "Addresses": False}}
        customers = (await self._ask_mews("customers/getAll", wanted, 100)).get("Customers") if people else None
        wanted = {"ResourceIds": rooms, "Extent": {"Resources": True}}
        resources = (await self._ask_mews("resources/getAll", wanted, 10)).get("Resources") if rooms else None
        return orjson.dumps(
            {
                "Reservations": reservations,
                "Companionships": companions,
                "Customers": _objects(customers),
                "Resources": _objects(resources),
            }
        )

    async def _ask_mews(self, operation: str, wanted: Members, count: int) -> Members:
        body = {
            "ClientToken": self._credentials["client_token"],
            "AccessToken": self._credentials["access_token"],
            "Client": "asm-daemon",
            **wanted,
            "Limitation": {"Count": count},
        }
        url = f"{self._base_url}/api/connector/v1/{operation}"
        answer = await self._exchange("POST", url, {hdrs.CONTENT_TYPE: "application/json"}, orjson.dumps(body))
        return answer or {}

    async def _current_token(self) -> str:
        """The access token (RFC 6749, 4.4)."""
        if self._token is None:
            form = "grant_type=client_credentials"
            headers: dict[str, str] = {
                hdrs.CONTENT_TYPE: "application/x-www-form-urlencoded",
                hdrs.AUTHORIZATION: aiohttp.encode_basic_auth(
                    self._credentials["client_id"], self._credentials["client_secret"]
                ),
            }
            url = self._token_url
            if self._system is HotelSystem.OHIP:
                form += f"&scope={quote(_SCOPE, safe='')}"
                headers["x-app-key"] = self._credentials["app_key"]
                if enterprise := self._credentials.get("enterprise_id"):
                    headers["enterpriseId"] = enterprise
                url = url or f"{self._base_url}/oauth/v1/tokens"
            if url is None:
                raise NotFetched("no_token_url")
            answer = await self._exchange("POST", url, headers, form.encode())
            token = (answer or {}).get("access_token")
            if not isinstance(token, str) or not token.isascii() or not token.isprintable():
                raise NotFetched("token_unreadable")
            self._token = token
        return self._token

    async def _exchange(self, method: str, url: str, headers: Mapping[str, str], body: bytes | None) -> Members | None:
        """The JSON object of a 200; None for a 404 and a 410. Raises `NotFetched`."""
        try:
            async with self._session.request(
                method, URL(url, encoded=True), data=body, headers=headers, allow_redirects=False
            ) as response:
                content = await _whole(response) if response.status == 200 else b""
                status, wait = response.status, response.headers.get(hdrs.RETRY_AFTER, "")
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError):
            raise NotFetched("no_connection") from None
        except TimeoutError:
            raise NotFetched("timeout") from None
        except (aiohttp.ClientError, OSError):
            raise NotFetched("connection_lost") from None
        if status == 200:
            return _object(content)
        if status in (404, 410):
            return None
        raise NotFetched(_code(status), float(wait) if _SECONDS.fullmatch(wait) else None)


def _code(status: int) -> str:
    if 300 <= status < 400:
        return "redirected"
    return {401: "unauthorised", 403: "unauthorised", 429: "overloaded"}.get(status, f"status_{status}")


async def _whole(response: aiohttp.ClientResponse) -> bytes:
    body = bytearray()
    async for chunk in response.content.iter_any():
        body += chunk
        if len(body) > ANSWER_BYTES:
            response.close()
            raise NotFetched("answer_too_large")
    return bytes(body)


def _object(content: bytes) -> Members:
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise NotFetched("malformed_json") from None
    if not isinstance(found, dict):
        raise NotFetched("malformed_json")
    return found


def _objects(found: Any) -> list[Members]:
    return [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []


def _credentials(system: HotelSystem, path: Path) -> Mapping[str, str]:
    try:
        with path.open("rb") as file:
            content = file.read(CREDENTIALS_BYTES)
    except OSError:
        raise NotFetched("no_credentials") from None
    try:
        found = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise NotFetched("wrong_credentials_file") from None
    if not isinstance(found, dict) or not all(isinstance(found.get(name), str) for name in _NEEDED[system]):
        raise NotFetched("wrong_credentials_file")
    return {name: text for name, text in found.items() if isinstance(text, str)}
