"""Posts one event to an address that somebody outside has chosen, with explicit limits on everything.

Whoever registers an address could mean to reach what only the daemon can: so each address is looked at as the socket
for it is made, after its name was resolved. Only addresses of the public internet are connected to, and those of the
networks that the operator allows; http only to the latter. Redirects are not followed, proxy settings of the
environment are not used, and of the answer nothing is taken but its status and Retry-After.
"""

from __future__ import annotations

import asyncio
import re
import socket
import ssl
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address

import aiohttp
from aiohttp import hdrs
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.connector import AddrInfoType
from yarl import URL

from schemas.addresses import Address, Network, is_public
from schemas.webhooks import NotDelivered

CONNECT_SECONDS, ANSWER_SECONDS = 5.0, 15.0
RESOLVERS, RESOLVED_LIMIT = 8, 64
"""How many names are asked for at a time, and how many at most are asked for or wait for it."""
_SECONDS = re.compile(r"[0-9]{1,6}", re.ASCII)


class AddressRefused(OSError):
    """The address is none that may be connected to."""


class NamesBusy(OSError):
    """Too many names are being asked for already."""


class _Names(AbstractResolver):
    """Asks the system for addresses in threads of its own: a name whose server never answers holds a thread long after
    whoever asked has given up, and the threads of the process are there for everything else. A name that is asked for
    already is not asked for again."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, "webhook-names")
        self._asked: dict[tuple[str, int], asyncio.Future[list[AddrInfoType]]] = {}

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """The addresses of `host`. Raises OSError if there are none, `NamesBusy` if too many are asked for."""
        key = (host, family)
        asked = self._asked.get(key)
        if asked is None:
            if len(self._asked) >= RESOLVED_LIMIT:
                raise NamesBusy("too many names are asked for")
            asked = asyncio.get_running_loop().run_in_executor(self._threads, _addresses, host, family)
            self._asked[key] = asked
            asked.add_done_callback(lambda done: self._answered(key, done))
        return [
            ResolveResult(
                hostname=host,
                host=str(info[4][0]),
                port=port,
                family=info[0],
                proto=info[2],
                flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
            )
            for info in await asyncio.shield(asked)  # whoever gives up takes nobody else with them
        ]

    def _answered(self, key: tuple[str, int], done: asyncio.Future[list[AddrInfoType]]) -> None:
        del self._asked[key]
        if not done.cancelled():
            done.exception()  # seen, also where everybody has given up

    async def close(self) -> None:
        """What waits is not asked any more; what is asked ends by itself."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def _addresses(host: str, family: int) -> list[AddrInfoType]:
    return list(socket.getaddrinfo(host, None, family, socket.SOCK_STREAM, flags=socket.AI_ADDRCONFIG))


class WebhookClient:
    """`open` before use, `close` after. `allowed` are networks that may be connected to although they are not public.

    `answer_seconds` covers one attempt as a whole; `tls` carries a private CA.
    """

    def __init__(
        self,
        allowed: Iterable[Network] = (),
        *,
        connect_seconds: float = CONNECT_SECONDS,
        answer_seconds: float = ANSWER_SECONDS,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._allowed = tuple(allowed)
        self._timeout = aiohttp.ClientTimeout(total=answer_seconds, connect=connect_seconds)
        self._tls: ssl.SSLContext | bool = tls if tls is not None else True
        self._sessions: dict[str, aiohttp.ClientSession] = {}
        self._names: _Names | None = None

    async def open(self) -> None:
        """Make the sessions; nothing is sent yet."""
        self._names = _Names()
        for scheme, factory in (("https", self._https_socket), ("http", self._http_socket)):
            self._sessions[scheme] = aiohttp.ClientSession(
                # The courier has the limits of how many there are at a time. No connection is kept: the address of
                # each is looked at, and a name that was given to another host is not served by the old one.
                connector=aiohttp.TCPConnector(
                    limit=0,
                    ssl=self._tls,
                    force_close=True,
                    use_dns_cache=False,
                    resolver=self._names,
                    socket_factory=factory,
                ),
                timeout=self._timeout,
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={hdrs.USER_AGENT: "asm-daemon", hdrs.ACCEPT_ENCODING: "identity"},
                auto_decompress=False,
            )

    async def close(self) -> None:
        """Close the connections."""
        sessions, self._sessions = self._sessions, {}
        for session in sessions.values():
            await session.close()
        if self._names is not None:
            await self._names.close()
            self._names = None

    async def post(self, url: str, headers: Mapping[str, str], body: bytes) -> None:
        """Post once, and return if it was answered with a 2xx.

        Raises `NotDelivered`: address_refused, name_unknown, names_busy, no_connection, tls_failed, timeout,
        connection_lost, redirected, status_NNN.
        """
        try:
            address = URL(url)
            session = self._sessions[address.scheme]
        except (ValueError, KeyError):
            raise NotDelivered("address_refused") from None
        try:
            async with session.post(address, data=body, headers=headers, allow_redirects=False) as response:
                status, wait = response.status, response.headers.get(hdrs.RETRY_AFTER, "")
        except aiohttp.ClientConnectorDNSError as error:
            busy = isinstance(error.os_error, NamesBusy)
            raise NotDelivered("names_busy" if busy else "name_unknown") from None
        except (aiohttp.ClientConnectorCertificateError, aiohttp.ClientConnectorSSLError):
            raise NotDelivered("tls_failed") from None
        except aiohttp.InvalidURL:
            raise NotDelivered("address_refused") from None
        except aiohttp.ClientConnectorError as error:
            refused = isinstance(error.os_error, AddressRefused)
            raise NotDelivered("address_refused" if refused else "no_connection") from None
        except TimeoutError:
            raise NotDelivered("timeout") from None
        except (aiohttp.ClientError, OSError):
            raise NotDelivered("connection_lost") from None
        if 200 <= status < 300:
            return
        raise NotDelivered(
            "redirected" if 300 <= status < 400 else f"status_{status}",
            float(wait) if _SECONDS.fullmatch(wait) else None,
        )

    def _https_socket(self, info: AddrInfoType) -> socket.socket:
        address = _address(info)
        if not is_public(address) and not self._is_allowed(address):
            raise AddressRefused("not a public address")
        return _socket(info)

    def _http_socket(self, info: AddrInfoType) -> socket.socket:
        if not self._is_allowed(_address(info)):
            raise AddressRefused("http is for allowed networks only")
        return _socket(info)

    def _is_allowed(self, address: Address) -> bool:
        return any(address in network for network in self._allowed)


def _address(info: AddrInfoType) -> Address:
    text = str(info[4][0]).partition("%")[0]
    try:
        return ip_address(text)
    except ValueError:
        raise AddressRefused("not an address") from None


def _socket(info: AddrInfoType) -> socket.socket:
    return socket.socket(info[0], info[1], info[2])
