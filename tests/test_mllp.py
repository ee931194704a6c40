"""HL7 over TCP: broken frames and failing handlers first, over real sockets."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import hl7
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon.mllp import VIETNAM, Handler, Limits, Listener, Peer, Reply, acknowledgement, listen

HEADER = r"MSH|^~\&|HIS|BV01|ASM|HY|20261123081500||ADT^A01^ADT_A01|{}|T|2.5.1|||||VNM|UNICODE UTF-8"


def message(control_id: str = "MSG1") -> bytes:
    return f"{HEADER.format(control_id)}\rPID|1||||Nguyễn^Thử\r".encode()


def framed(content: bytes) -> bytes:
    return b"\x0b" + content + b"\x1c\r"


@dataclass
class Sender:
    """The other end of a connection."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def send(self, *frames: bytes) -> None:
        self.writer.write(b"".join(frames))
        await self.writer.drain()

    async def answer(self) -> hl7.Message:
        """The next acknowledgement, unframed and parsed."""
        async with asyncio.timeout(10):
            frame = await self.reader.readuntil(b"\x1c\r")
        assert frame.startswith(b"\x0b")
        return hl7.parse(frame[1:-2].decode())

    async def codes(self, count: int) -> list[tuple[str, str]]:
        """(MSA-1, MSA-2) of the next acknowledgements."""
        answers = [(await self.answer()).segment("MSA") for _ in range(count)]
        return [(str(msa[1]), str(msa[2])) for msa in answers]

    async def is_closed(self) -> bool:
        async with asyncio.timeout(10):
            try:
                return await self.reader.read(1) == b""
            except ConnectionError:
                return True


@dataclass
class Hospital:
    """A listener, what its handler got, and the senders that a test opened."""

    listener: Listener
    got: list[tuple[bytes, datetime, Peer]]
    tls: ssl.SSLContext | None = None
    senders: list[Sender] = field(default_factory=list)

    async def connect(self) -> Sender:
        name = "localhost" if self.tls else None
        self.senders.append(
            Sender(*await asyncio.open_connection("127.0.0.1", self.listener.port, ssl=self.tls, server_hostname=name))
        )
        return self.senders[-1]


@asynccontextmanager
async def listening(
    handle: Handler | None = None,
    limits: Limits | None = None,
    tls: tuple[ssl.SSLContext, ssl.SSLContext] | None = None,
) -> AsyncIterator[Hospital]:
    """A listener on a free port whose handler records what it gets and answers AA, or does `handle`."""
    got: list[tuple[bytes, datetime, Peer]] = []

    async def record(content: bytes, received_at: datetime, peer: Peer) -> Reply:
        got.append((content, received_at, peer))
        return await handle(content, received_at, peer) if handle else Reply("AA", "Đã tiếp nhận")

    listener = await listen(record, "127.0.0.1", 0, limits=limits, ssl_context=tls[0] if tls else None)
    hospital = Hospital(listener, got, tls[1] if tls else None)
    try:
        yield hospital
    finally:
        await listener.stop(grace_seconds=5)
        for sender in hospital.senders:
            sender.writer.close()


async def fail(_content: bytes, _received_at: datetime, _peer: Peer) -> Reply:
    raise RuntimeError("the database is away")


async def never(_content: bytes, _received_at: datetime, _peer: Peer) -> Reply:
    await asyncio.Event().wait()
    return Reply("AA")


def until(gate: asyncio.Event) -> Handler:
    async def wait(_content: bytes, _received_at: datetime, _peer: Peer) -> Reply:
        await gate.wait()
        return Reply("AA")

    return wait


async def reach(condition: Callable[[], object]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0)


# -- what goes wrong ---------------------------------------------------------------------------------------------------


async def test_a_message_that_fails_with_us_is_not_answered_so_that_it_is_sent_again() -> None:
    async with listening(fail) as hospital:
        sender = await hospital.connect()
        await sender.send(framed(message()))
        assert await sender.is_closed()
        assert len(hospital.got) == 1
        again = await hospital.connect()  # the listener lives on
        await again.send(framed(message()))
        assert await again.is_closed()


async def test_a_handler_that_takes_too_long_is_given_up_without_an_answer() -> None:
    async with listening(never, Limits(answer_seconds=0.01)) as hospital:
        sender = await hospital.connect()
        await sender.send(framed(message()))
        assert await sender.is_closed()


async def test_a_message_too_long_is_refused_by_its_own_id_and_the_next_one_is_taken() -> None:
    async with listening(limits=Limits(frame_bytes=1_000)) as hospital:
        sender = await hospital.connect()
        await sender.send(framed(message("LONG") + b"x" * 50_000), framed(message("NEXT")))
        assert await sender.codes(2) == [("AR", "LONG"), ("AA", "NEXT")]
        assert [content for content, _, _ in hospital.got] == [message("NEXT")]


async def test_a_message_without_end_is_given_up() -> None:
    async with listening(limits=Limits(frame_bytes=1_000, skip_bytes=10_000)) as hospital:
        sender = await hospital.connect()
        await sender.send(b"\x0b" + b"x" * 50_000)
        assert await sender.is_closed()
        assert hospital.got == []


async def test_a_sender_that_is_silent_too_long_is_disconnected() -> None:
    async with listening(limits=Limits(idle_seconds=0.01)) as hospital:
        sender = await hospital.connect()
        await sender.send(b"\x0b" + message())
        assert await sender.is_closed()
        assert hospital.got == []


async def test_a_connection_beyond_the_limit_is_closed_at_once() -> None:
    async with listening(limits=Limits(connections=1)) as hospital:
        first = await hospital.connect()
        await first.send(framed(message("A")))
        assert await first.codes(1) == [("AA", "A")]
        assert await (await hospital.connect()).is_closed()
        await first.send(framed(message("B")))
        assert await first.codes(1) == [("AA", "B")]


async def test_a_message_cut_off_by_the_end_of_the_connection_is_not_taken() -> None:
    async with listening() as hospital:
        sender = await hospital.connect()
        await sender.send(b"\x0b" + message())
        sender.writer.write_eof()
        assert await sender.is_closed()
        assert hospital.got == []


async def test_a_message_cut_off_by_a_new_start_is_dropped_for_the_new_one() -> None:
    async with listening() as hospital:
        sender = await hospital.connect()
        await sender.send(b"\x0b" + message("CUT")[:40], framed(message("WHOLE")))
        assert await sender.codes(1) == [("AA", "WHOLE")]


async def test_what_has_no_start_block_is_refused_and_the_connection_goes_on() -> None:
    async with listening() as hospital:
        sender = await hospital.connect()
        await sender.send(message("BARE") + b"\x1c\r", b"GET / HTTP/1.1\r\n\r\n\x1c\r", framed(message("NEXT")))
        assert await sender.codes(3) == [("AR", "BARE"), ("AR", ""), ("AA", "NEXT")]


async def test_a_message_that_nobody_understands_is_answered_and_the_connection_goes_on() -> None:
    async def refuse(content: bytes, _received_at: datetime, _peer: Peer) -> Reply:
        return Reply("AA") if content.startswith(b"MSH") else Reply("AR", "Không phải bản tin HL7")

    async with listening(refuse) as hospital:
        sender = await hospital.connect()
        await sender.send(framed(b"\xff\xfe\x00garbage"), framed(b""), framed(message("NEXT")))
        assert await sender.codes(3) == [("AR", ""), ("AR", ""), ("AA", "NEXT")]


# -- what goes right ---------------------------------------------------------------------------------------------------


async def test_a_message_is_handed_over_whole_with_its_time_and_sender() -> None:
    async with listening() as hospital:
        before = datetime.now(UTC)
        sender = await hospital.connect()
        await sender.send(framed(message()))
        answer = await sender.answer()
        [(content, received_at, peer)] = hospital.got
        assert content == message()
        assert before <= received_at <= datetime.now(UTC)
        assert peer == Peer("127.0.0.1", None)
        assert str(answer.segment("MSA")[3]) == "Đã tiếp nhận"


async def test_a_frame_may_arrive_byte_by_byte() -> None:
    async with listening() as hospital:
        sender = await hospital.connect()
        for byte in framed(message()):
            await sender.send(bytes([byte]))
        assert await sender.codes(1) == [("AA", "MSG1")]


@pytest.mark.parametrize("between", [b"", b"\r", b"\r\n", b"\n\n"])
async def test_line_ends_between_frames_are_tolerated(between: bytes) -> None:
    async with listening() as hospital:
        sender = await hospital.connect()
        frames = [b"\x0b" + message(name) + b"\x1c" + between for name in ("A", "B", "C")]
        await sender.send(between, *frames)
        assert await sender.codes(3) == [("AA", "A"), ("AA", "B"), ("AA", "C")]


async def test_messages_sent_at_once_are_answered_in_their_order() -> None:
    async with listening() as hospital:
        sender = await hospital.connect()
        names = [f"M{number}" for number in range(50)]
        await sender.send(*(framed(message(name)) for name in names))
        assert await sender.codes(50) == [("AA", name) for name in names]


async def test_one_slow_message_does_not_hold_up_another_connection() -> None:
    gate = asyncio.Event()

    async def slow_first(content: bytes, received_at: datetime, peer: Peer) -> Reply:
        return await until(gate)(content, received_at, peer) if b"SLOW" in content else Reply("AA")

    async with listening(slow_first) as hospital:
        slow, fast = await hospital.connect(), await hospital.connect()
        await slow.send(framed(message("SLOW")))
        await reach(lambda: hospital.got)
        await fast.send(framed(message("FAST")))
        assert await fast.codes(1) == [("AA", "FAST")]
        gate.set()
        assert await slow.codes(1) == [("AA", "SLOW")]


# -- stopping ----------------------------------------------------------------------------------------------------------


async def test_stopping_answers_the_message_in_hand_and_closes_the_rest() -> None:
    gate = asyncio.Event()
    async with listening(until(gate)) as hospital:
        busy, idle = await hospital.connect(), await hospital.connect()
        await busy.send(framed(message("IN-HAND")), framed(message("NEXT")))
        await reach(lambda: hospital.got)
        stopping = asyncio.create_task(hospital.listener.stop(grace_seconds=10))
        assert await idle.is_closed()
        assert not stopping.done()
        gate.set()
        assert await busy.codes(1) == [("AA", "IN-HAND")]
        await stopping
        assert await busy.is_closed()
        assert len(hospital.got) == 1
        with pytest.raises(ConnectionError):
            await hospital.connect()


async def test_stopping_waits_no_longer_than_its_grace() -> None:
    async with listening(never) as hospital:
        sender = await hospital.connect()
        await sender.send(framed(message()))
        await reach(lambda: hospital.got)
        async with asyncio.timeout(10):
            await hospital.listener.stop(grace_seconds=0)
        assert await sender.is_closed()


# -- TLS ---------------------------------------------------------------------------------------------------------------


def certified(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext, bytes]:
    """Server context, client context and the certificate (DER) of one self-signed name that both ends trust."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime(2026, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2126, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    chain = folder / f"{name}.pem"
    no_password = serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, no_password)
    chain.write_bytes(pem + certificate.public_bytes(serialization.Encoding.PEM))
    server, client = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    server.verify_mode = ssl.CERT_REQUIRED
    for context in (server, client):
        context.load_cert_chain(chain)
        context.load_verify_locations(chain)
    return server, client, certificate.public_bytes(serialization.Encoding.DER)


async def test_over_tls_the_certificate_names_the_sender(tmp_path: Path) -> None:
    server, client, certificate = certified(tmp_path, "localhost")
    async with listening(tls=(server, client)) as hospital:
        sender = await hospital.connect()
        await sender.send(framed(message()))
        assert await sender.codes(1) == [("AA", "MSG1")]
        assert hospital.got[0][2] == Peer("127.0.0.1", certificate)


async def test_over_tls_nobody_is_heard_without_a_certificate(tmp_path: Path) -> None:
    server, client, _ = certified(tmp_path, "localhost")
    stranger = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    stranger.load_verify_locations(tmp_path / "localhost.pem")
    async with listening(tls=(server, stranger)) as hospital:
        sender = await hospital.connect()  # TLS 1.3: the refusal comes after the handshake of the client
        await sender.send(framed(message()))
        assert await sender.is_closed()
        hospital.tls = None
        plain = await hospital.connect()
        await plain.send(framed(message()))
        assert await plain.is_closed()
        hospital.tls = client
        known = await hospital.connect()
        await known.send(framed(message("KNOWN")))
        assert await known.codes(1) == [("AA", "KNOWN")]
        assert len(hospital.got) == 1


# -- acknowledgements --------------------------------------------------------------------------------------------------

AT = datetime(2026, 11, 23, 8, 15, tzinfo=VIETNAM)


def acknowledged(content: bytes, reply: Reply = Reply("AA")) -> list[str]:  # noqa: B008 - a constant
    return acknowledgement(content, reply, AT, "ACK1").decode().split("\r")


def test_an_acknowledgement_goes_back_where_the_message_came_from() -> None:
    assert acknowledged(message(), Reply("AE", "PID-7: ngày sinh")) == [
        r"MSH|^~\&|ASM|HY|HIS|BV01|20261123081500+0700||ACK^A01^ACK|ACK1|T|2.5.1||||||UNICODE UTF-8",
        "MSA|AE|MSG1|PID-7: ngày sinh",
        "",
    ]


@pytest.mark.parametrize(
    "content", [b"", b"MSH", b"MSH|", b"MSH|||||", b"MSHAAAAA|x", b"\xff" * 20, b"PID|1\rMSH|^~\\&|"]
)
def test_a_header_that_cannot_be_read_gets_the_usual_separators(content: bytes) -> None:
    assert acknowledged(content, Reply("AR", "?"))[0].startswith(r"MSH|^~\&|||||20261123081500+0700||ACK|ACK1|P|2.5|")
    assert acknowledged(content, Reply("AR", "?"))[1] == "MSA|AR||?"


def test_the_separators_of_the_message_are_used_and_escaped_in_the_text() -> None:
    swapped = message().translate(bytes.maketrans(b"|^~\\&", b"#!*%$"))
    segments = acknowledged(swapped, Reply("AE", "a#b!c*d%e$f|g\r\nh\x07"))
    assert segments[0].startswith("MSH#!*%$#ASM#HY#HIS#BV01#")
    assert segments[1] == "MSA#AE#MSG1#a%F%b%S%c%R%d%E%e%T%f|g h"


def test_what_is_echoed_is_bounded_and_printable() -> None:
    segments = acknowledged(message("I\x07D" + "9" * 5_000), Reply("AE", "x" * 5_000))
    assert len(segments[1]) < 600
    assert segments[1].startswith("MSA|AE|ID999")


def test_a_header_in_another_charset_is_echoed_in_utf_8() -> None:
    assert acknowledged(HEADER.format("Lê").encode("latin-1"))[1] == "MSA|AA|Lê|"


@given(st.binary(max_size=300), st.text(max_size=300))
def test_whatever_was_sent_the_acknowledgement_is_a_message(content: bytes, text: str) -> None:
    for sent in (content, b"MSH|^~\\&|" + content, message() + content):
        answer = acknowledgement(sent, Reply("AE", text), AT, "ACK1").decode()
        assert answer.count("\r") == 2
        assert answer.endswith("\r")
        assert hl7.parse(answer).segment("MSA")[1] == ["AE"]
