"""A TCP proxy that spoils what passes through it, on demand: the network of the fault suite.

Kernel network emulation is not to be had on every machine; what a client sees of a bad network is, in one process.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import cast

Upstream = tuple[str, int] | str
"""Where a link leads: host and port, or the path of a unix socket."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: closing sends RST
_CONNECT_SECONDS = 5.0


class TroubleKind(StrEnum):
    """What a link does to its connections."""

    LATENCY = "latency"  # every piece comes `milliseconds` later, both ways
    RESET = "reset"  # connections are reset, those there are and new ones
    HALF_OPEN = "half_open"  # accepted, and nothing is carried or answered, until it is healed by a reset
    SILENCE = "silence"  # the same for good, as behind a firewall that forgot a connection: only a timeout ends it
    TRUNCATE = "truncate"  # the answer ends after `after_bytes`, then the connection is closed
    ONE_BYTE = "one_byte"  # one byte at a time, both ways
    DROP_ANSWER = "drop_answer"  # the request arrives and takes effect; its answer is swallowed, then a reset


@dataclass(frozen=True, slots=True)
class Trouble:
    """A trouble and its measure. It strikes `strikes` connections, or every one."""

    kind: TroubleKind
    milliseconds: int = 20
    after_bytes: int = 10
    strikes: int | None = None


class Proxy:
    """One link. `upstream` may change at any time; connections there are keep theirs. `struck` counts by trouble."""

    def __init__(self, name: str, upstream: Upstream | None = None) -> None:
        self.name = name
        self.upstream = upstream
        self.port = 0
        self.struck: Counter[TroubleKind] = Counter()
        self._trouble: Trouble | None = None
        self._strikes_left: int | None = None
        self._connections: set[_Connection] = set()
        self._server: asyncio.Server | None = None

    async def open(self) -> int:
        """Listen on a free port of 127.0.0.1 and return it."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(lambda: _Connection(self).client, "127.0.0.1", 0, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]
        return self.port

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
        for connection in list(self._connections):
            connection.reset()

    def spoil(self, trouble: Trouble) -> None:
        """Begin a trouble, in place of any other."""
        self._trouble, self._strikes_left = trouble, trouble.strikes
        if trouble.kind is TroubleKind.RESET:
            for connection in list(self._connections):
                if self.strikes(connection, TroubleKind.RESET):
                    connection.reset()

    def heal(self) -> None:
        """Carry everything again. What was swallowed is lost: its connections are reset."""
        self._trouble = None
        for connection in list(self._connections):
            if connection.dead and connection.hit_by is not None and connection.hit_by.kind is not TroubleKind.SILENCE:
                connection.reset()

    @contextmanager
    def spoiled(self, trouble: Trouble) -> Iterator[None]:
        """A trouble until the block ends."""
        self.spoil(trouble)
        try:
            yield
        finally:
            self.heal()

    def strikes(self, connection: _Connection, kind: TroubleKind) -> Trouble | None:
        """The trouble, when it is of this kind and (still) strikes this connection."""
        trouble = self._trouble
        if trouble is None or trouble.kind is not kind:
            return None
        if connection.hit_by is not trouble:
            if self._strikes_left == 0:
                return None
            if self._strikes_left is not None:
                self._strikes_left -= 1
            connection.hit_by, connection.answer_bytes = trouble, 0
            self.struck[kind] += 1
        return trouble

    def enter(self, connection: _Connection) -> None:
        """A client connected."""
        self._connections.add(connection)

    def forget(self, connection: _Connection) -> None:
        """A connection is over."""
        self._connections.discard(connection)


class _Connection:
    """A client's connection and the one to the upstream that belongs to it."""

    def __init__(self, link: Proxy) -> None:
        self.link = link
        self.dead = False  # nothing is carried any more
        self.hit_by: Trouble | None = None
        self.answer_bytes = 0  # since it was hit
        self.client = _End(self, answers=False)
        self.server = _End(self, answers=True)
        self.client.peer, self.server.peer = self.server, self.client
        self._connecting: asyncio.Task[None] | None = None

    def begin(self) -> None:
        self.link.enter(self)
        if self.link.strikes(self, TroubleKind.RESET):
            self.reset()
        elif self.link.strikes(self, TroubleKind.HALF_OPEN) or self.link.strikes(self, TroubleKind.SILENCE):
            self.dead = True
        else:
            self._connecting = asyncio.create_task(self._connect())

    async def _connect(self) -> None:
        loop, upstream = asyncio.get_running_loop(), self.link.upstream
        try:
            async with asyncio.timeout(_CONNECT_SECONDS):
                if upstream is None:
                    raise ConnectionRefusedError
                if isinstance(upstream, str):
                    await loop.create_unix_connection(lambda: self.server, upstream)
                else:
                    await loop.create_connection(lambda: self.server, *upstream)
        except OSError:  # TimeoutError is one
            self.reset()

    def reset(self) -> None:
        self.dead = True
        if self._connecting is not None:
            self._connecting.cancel()
        for end in (self.client, self.server):
            end.abort()
        self.link.forget(self)

    def carry(self, source: _End, data: bytes) -> None:
        """Pass `data` on from one end to the other, as the trouble has it."""
        link = self.link
        if self.dead:
            return
        if link.strikes(self, TroubleKind.HALF_OPEN) or link.strikes(self, TroubleKind.SILENCE):
            self.dead = True
            return
        if source.answers:
            if trouble := link.strikes(self, TroubleKind.DROP_ANSWER):
                self.dead = True
                asyncio.get_running_loop().call_later(trouble.milliseconds / 1000, self.reset)
                return
            if trouble := link.strikes(self, TroubleKind.TRUNCATE):
                rest = max(0, trouble.after_bytes - self.answer_bytes)
                self.answer_bytes += len(data)
                if len(data) >= rest:
                    source.pass_on([data[:rest]])
                    source.end()
                    self.dead = True
                    return
        if trouble := link.strikes(self, TroubleKind.LATENCY):
            source.pass_on([data], trouble.milliseconds / 1000)
        elif link.strikes(self, TroubleKind.ONE_BYTE):
            source.pass_on([data[place : place + 1] for place in range(len(data))])
        else:
            source.pass_on([data])


class _End(asyncio.Protocol):
    """One of the two sides; what it receives goes to its peer in order."""

    peer: _End

    def __init__(self, connection: _Connection, *, answers: bool) -> None:
        self.answers = answers
        self._connection = connection
        self._transport: asyncio.Transport | None = None
        self._backlog: deque[tuple[float, bytes | None]] = deque()
        self._pumping: asyncio.Task[None] | None = None
        self._held: list[bytes | None] = []  # what arrived for this side before it was connected

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        if not self.answers:
            self._connection.begin()
        held, self._held = self._held, []
        for piece in held:
            self.write(piece)

    def data_received(self, data: bytes) -> None:
        self._connection.carry(self, data)

    def eof_received(self) -> bool:
        if not self._connection.dead:
            self.end()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        if error is not None or self._pumping is None:
            self.peer.close()
        if self._connection.dead or self.answers:
            self._connection.link.forget(self._connection)

    def pass_on(self, pieces: list[bytes], delay_seconds: float = 0.0) -> None:
        if self._pumping is None and not delay_seconds and len(pieces) == 1:
            self.peer.write(pieces[0])
            return
        due = asyncio.get_running_loop().time() + delay_seconds
        self._backlog.extend((due, piece) for piece in pieces)
        self._pump()

    def end(self) -> None:
        """Pass on that nothing more will come."""
        self._backlog.append((0.0, None))
        self._pump()

    def _pump(self) -> None:
        if self._pumping is None:
            self._pumping = asyncio.create_task(self._send())

    async def _send(self) -> None:
        loop = asyncio.get_running_loop()
        while self._backlog:
            due, piece = self._backlog.popleft()
            if (wait := due - loop.time()) > 0:
                await asyncio.sleep(wait)
            self.peer.write(piece)
            await asyncio.sleep(0)  # so that the next piece is a segment of its own
        self._pumping = None

    def write(self, piece: bytes | None) -> None:
        if self._transport is None:
            self._held.append(piece)
        elif self._transport.is_closing():
            return
        elif piece is not None:
            self._transport.write(piece)
        elif self._connection.dead:
            self._transport.close()
        else:
            with suppress(OSError):  # it was reset this moment
                self._transport.write_eof()

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def abort(self) -> None:
        if self._transport is None or self._transport.is_closing():
            return
        connection = self._transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self._transport.abort()
