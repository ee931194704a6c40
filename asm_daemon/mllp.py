"""HL7 over TCP (MLLP, HL7 v2 Transport Specification Release 1): unframe, hand over, acknowledge.

A frame is <VT> message <FS><CR>. The answer to each message is one acknowledgement in the order of arrival: AA once the
content is durably stored, AE if its content is refused, AR if its structure or its sender is. When the handler fails or
takes too long, nothing is answered and the connection is closed: the sender sends again what was not acknowledged (an
AE would make most of them set the message aside for good, though nothing is wrong with it). A frame with a batch (FHS,
BHS … BTS, FTS) is answered by a batch with an acknowledgement of each message, in their order.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from typing import Literal, NamedTuple

import structlog

START = b"\x0b"
END = b"\x1c"
VIETNAM = timezone(timedelta(hours=7))
TEXT_LIMIT = 250

_log = structlog.get_logger()


class Reply(NamedTuple):
    """What is acknowledged: the code of MSA-1, and a text for the people who run the sending system (MSA-3)."""

    code: Literal["AA", "AE", "AR"]
    text: str = ""

    def __repr__(self) -> str:
        return "<Reply>"


class Peer(NamedTuple):
    """Who is at the other end: the network address, and the certificate (DER) if TLS asked for one."""

    address: str
    certificate: bytes | None


Handler = Callable[[bytes, datetime, Peer], Awaitable[Reply]]
"""Takes the message without its frame, when its last byte was in, and the sender. Whatever it raises leaves the message
unacknowledged."""


Refuse = Callable[[bytes, str, datetime], Awaitable[None]]
"""Told of a frame that is refused before it is a message: its beginning, why, and when."""
Split = Callable[[bytes], list[bytes] | None]
"""The messages of a batch; None for what is no batch, and an empty list for one that is incomplete."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one sender may take of us.

    `frame_bytes` is the longest message; a longer one is answered with AR, and up to `skip_bytes` of it are read to
    find its end before the connection is given up. `idle_seconds` is the longest wait for a whole frame,
    `answer_seconds` for the handler. Connections beyond `connections` are closed at once. `batch_messages` is how many
    messages a batch may have.
    """

    frame_bytes: int = 256 << 10
    skip_bytes: int = 16 << 20
    idle_seconds: float = 300
    answer_seconds: float = 30
    connections: int = 200
    batch_messages: int = 500


async def listen(
    handle: Handler,
    host: str,
    port: int,
    *,
    limits: Limits | None = None,
    ssl_context: ssl.SSLContext | None = None,
    split: Split | None = None,
    refuse: Refuse | None = None,
) -> Listener:
    """Start to accept connections on `host`:`port` (0 = any free port); end it with `Listener.stop`.

    Without `split` a batch is a message as any other.
    """
    listener = Listener(handle, limits or Limits(), split, refuse)
    await listener.start(host, port, ssl_context)
    return listener


class Listener:
    """The listening socket and its connections. Each connection has one message in hand at a time."""

    def __init__(self, handle: Handler, limits: Limits, split: Split | None, refuse: Refuse | None) -> None:
        self._handle = handle
        self._limits = limits
        self._split = split
        self._refuse = refuse
        self._connections: set[asyncio.Task[None]] = set()
        self._waiting: set[asyncio.Task[None]] = set()
        self._stopping = False
        self.port = 0

    async def start(self, host: str, port: int, ssl_context: ssl.SSLContext | None) -> None:
        self._server = await asyncio.start_server(
            self._connected, host, port, limit=self._limits.frame_bytes, ssl=ssl_context
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self, grace_seconds: float) -> None:
        """Accept nothing more, let messages in hand be answered for at most `grace_seconds`, close all connections."""
        self._stopping = True
        self._server.close()
        for waiting in list(self._waiting):
            waiting.cancel()
        if self._connections:
            _, late = await asyncio.wait(self._connections, timeout=grace_seconds)
            for connection in late:
                connection.cancel()
            if late:
                await asyncio.wait(late)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connection = asyncio.current_task()
        if connection is None or self._stopping or len(self._connections) >= self._limits.connections:
            _log.warning("mllp.connection_refused", count=len(self._connections))
            writer.close()
            return
        self._connections.add(connection)
        try:
            await self._converse(reader, writer, connection)
        except asyncio.CancelledError:
            if not self._stopping:
                raise  # only `stop` ends a connection this way; asyncio would log a traceback if it saw it
        except (asyncio.IncompleteReadError, ConnectionError, TimeoutError):
            pass  # the sender has gone, has been silent too long, or never ended a message
        finally:
            self._connections.discard(connection)
            self._waiting.discard(connection)
            writer.close()

    async def _converse(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, connection: asyncio.Task[None]
    ) -> None:
        peer = _peer(writer)
        while not self._stopping:
            self._waiting.add(connection)
            async with asyncio.timeout(self._limits.idle_seconds):
                frame = await _next_frame(reader, self._limits)
            self._waiting.discard(connection)
            answer = await self._answer(frame, datetime.now(UTC), peer)
            if answer is None:
                return
            writer.write(START + answer + END + b"\r")
            async with asyncio.timeout(self._limits.idle_seconds):
                await writer.drain()

    async def _answer(self, frame: _Frame, received_at: datetime, peer: Peer) -> bytes | None:
        """What goes back for a frame; None if it cannot be answered now."""
        messages = None if frame.fault or self._split is None else self._split(frame.message)
        fault = frame.fault or (None if messages is None else self._fault_of(messages))
        try:
            if fault is not None:
                async with asyncio.timeout(self._limits.answer_seconds):
                    if self._refuse is not None:
                        await self._refuse(frame.message, fault, received_at)
                return _acknowledged(frame.message, Reply("AR", fault))
            answers = []
            for message in [frame.message] if messages is None else messages:
                async with asyncio.timeout(self._limits.answer_seconds):
                    answers.append(_acknowledged(message, await self._handle(message, received_at, peer)))
        except Exception:  # noqa: BLE001 - the outermost frame of one message, as a middleware is of one request
            _log.error("mllp.unanswered", exc_info=True)
            return None
        if messages is None:
            return answers[0]
        return batch_acknowledgement(frame.message, answers, datetime.now(VIETNAM), uuid.uuid4().hex[:20])

    def _fault_of(self, messages: list[bytes]) -> str | None:
        if not messages:
            return "Lô bản tin không trọn vẹn hoặc rỗng / the batch is incomplete or empty"
        limit = self._limits.batch_messages
        return None if len(messages) <= limit else f"Lô có quá {limit} bản tin / a batch of more than {limit} messages"


# -- frames ------------------------------------------------------------------------------------------------------------


class _Frame(NamedTuple):
    """One message without its frame, or the beginning of what could not be taken as one, and why."""

    message: bytes
    fault: str | None

    def __repr__(self) -> str:
        return "<_Frame>"


async def _next_frame(reader: asyncio.StreamReader, limits: Limits) -> _Frame:
    """Read up to the next end block. Line ends between frames, and a message cut off by a new start block, are dropped.

    Raises IncompleteReadError when the sender closes, ConnectionError when a message is too long even to be skipped.
    """
    beginning, skipped = b"", 0
    while True:
        try:
            chunk = (await reader.readuntil(END)).removesuffix(END)
        except asyncio.LimitOverrunError as overrun:
            part = await reader.readexactly(overrun.consumed)
            beginning, skipped = beginning or part, skipped + len(part)
            if skipped > limits.skip_bytes:
                raise ConnectionError("a message without end") from None
            continue
        if beginning:
            fault = f"Bản tin dài quá {limits.frame_bytes} byte / message longer than {limits.frame_bytes} bytes"
            return _Frame(beginning.lstrip(b"\r\n" + START), fault)
        _noise, start, message = chunk.rpartition(START)
        if start:
            return _Frame(message, None)
        if chunk.strip():
            return _Frame(chunk.strip(), "Thiếu ký tự mở đầu khung (VT) / no start block (VT)")


def _peer(writer: asyncio.StreamWriter) -> Peer:
    address = writer.get_extra_info("peername")
    tls = writer.get_extra_info("ssl_object")
    return Peer(str(address[0]) if address else "", tls.getpeercert(binary_form=True) if tls else None)


# -- acknowledgements --------------------------------------------------------------------------------------------------

_SEPARATORS = re.compile(r"[!-/:-@\[-`{-~]{5}")
_HEADER_BYTES = 4096
_BOM = b"\xef\xbb\xbf"
_TRIGGER = re.compile(r"[A-Z]\d\d")


class Header(NamedTuple):
    """What can be read of a message's MSH: its separators (the usual ones if unreadable) and its fields."""

    separators: str
    fields: list[str]

    def __repr__(self) -> str:
        return "<Header>"

    def field(self, number: int) -> str:
        """MSH-`number` as it stands, printable and bounded; "" if absent. The first of MSH is its separator itself."""
        held = self.fields[number - 1] if len(self.fields) >= number else ""
        return "".join(character for character in held if character.isprintable())[:TEXT_LIMIT]

    def component(self, number: int, position: int = 0) -> str:
        """A component of MSH-`number`, from 0; "" if absent."""
        parts = self.field(number).split(self.separators[1])
        return parts[position] if len(parts) > position else ""


def header_of(message: bytes, name: str = "MSH") -> Header:
    """Read the header of a message, whatever else is wrong with it; of a batch by the `name` of its own, BHS or FHS."""
    header = _text(message.removeprefix(_BOM).lstrip().partition(b"\r")[0].partition(b"\n")[0][:_HEADER_BYTES])
    separators = header[3:8]
    if header.startswith(name) and _SEPARATORS.fullmatch(separators) and len(set(separators)) == 5:
        return Header(separators, header.split(separators[0]))
    return Header("|^~\\&", [])


def _acknowledged(message: bytes, reply: Reply) -> bytes:
    return acknowledgement(message, reply, datetime.now(VIETNAM), uuid.uuid4().hex[:20])


def batch_acknowledgement(batch: bytes, answers: list[bytes], at: datetime, control_id: str) -> bytes:
    """The batch of acknowledgements to a batch (HL7 v2.5.1, 2.10.3): BHS-12 repeats its BHS-11, and FHS likewise."""
    whole = b"".join(answers) + _trailer("BTS", len(answers))
    for name, trailer in (("BHS", b""), ("FHS", _trailer("FTS", 1))):
        header = _batch_header(batch, name)
        if header is not None:
            whole = _answered(name, header, at, control_id) + whole + trailer
    return whole


def _batch_header(batch: bytes, name: str) -> Header | None:
    lines = batch.removeprefix(_BOM).replace(b"\n", b"\r").split(b"\r")
    line = next((line for line in lines if line.startswith(name.encode())), None)
    return None if line is None else header_of(line, name)


def _answered(name: str, header: Header, at: datetime, control_id: str) -> bytes:
    field, sent = header.separators[0], header.field
    moment = at.strftime("%Y%m%d%H%M%S%z")
    parts = [name, header.separators[1:], sent(5), sent(6), sent(3), sent(4), moment, "", "", "", control_id, sent(11)]
    return f"{field.join(parts)}\r".encode()


def _trailer(name: str, count: int) -> bytes:
    return f"{name}|{count}\r".encode()


def acknowledgement(message: bytes, reply: Reply, at: datetime, control_id: str) -> bytes:
    """The ACK to `message` (HL7 v2.5.1, 2.9.2): MSA-2 repeats its MSH-10, its separators are used, text is UTF-8.

    A message whose header cannot be read gets one with the usual separators and an empty MSA-2.
    """
    header = header_of(message)
    field, component, sent = header.separators[0], header.separators[1], header.field
    trigger = header.component(9, 1)
    kind = component.join(("ACK", trigger, "ACK")) if _TRIGGER.fullmatch(trigger) else "ACK"
    moment = at.strftime("%Y%m%d%H%M%S%z")
    msh = ["MSH", header.separators[1:], sent(5), sent(6), sent(3), sent(4), moment, "", kind, control_id]
    msh += [sent(11) or "P", sent(12) or "2.5", "", "", "", "", "", "UNICODE UTF-8"]
    msa = ["MSA", reply.code, sent(10), _escaped(reply.text, header.separators)]
    return "".join(f"{field.join(segment)}\r" for segment in (msh, msa)).encode()


def _text(header: bytes) -> str:
    """The header whatever its charset: it is echoed, not understood."""
    try:
        return header.decode()
    except UnicodeDecodeError:
        return header.decode("latin-1")


def _escaped(text: str, separators: str) -> str:
    """HL7 v2.5.1, 2.7: the separators of the message as escape sequences, line ends as spaces."""
    escape = separators[3]
    names = dict(zip(separators, "FSRET", strict=True))
    plain = " ".join(text.split())[:TEXT_LIMIT]
    return "".join(f"{escape}{names[each]}{escape}" if each in names else each for each in plain if each.isprintable())
