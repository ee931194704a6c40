"""Hospital messages: what comes over MLLP goes the way of every declaration, and is acknowledged for it."""

from __future__ import annotations

import hmac
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Protocol

import asyncpg
from prometheus_client import Counter

from asm_daemon.crypto import Keyring
from asm_daemon.directory import Gate
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.mllp import Header, Peer, Reply, header_of
from asm_daemon.model import Sender
from asm_daemon.problems import Refused
from asm_daemon.rules import HANOI
from asm_daemon.sealing import seal_message_header
from asm_daemon.store import hospital as store
from schemas.act import Act, ActKind, Unreadable
from schemas.hospital import HospitalProfile
from schemas.violations import Violation

_STRUCTURE = frozenset({"not_hl7", "message_too_large", "missing_segment", "unsupported_event"})
_TOGETHER_LIMIT = 20
"""How many relatives of one patient may leave with them."""
_NAME_LIMIT, _ANSWER_LIMIT, _REASONS_LIMIT = 227, 1000, 50
_ERASED_AT_ONCE, _ERASE_ROUNDS = 10_000, 1000

MESSAGES = Counter("asm_hl7_messages", "HL7 messages by what they were answered (repeated: known already)", ["answer"])


class ReadMessage(Protocol):
    """How a message becomes acts (`connectors.hl7_adt.read_message`)."""

    def __call__(
        self, message: bytes, row: int = 1, profile: HospitalProfile = ..., *, as_admission: bool = False
    ) -> tuple[Act | Unreadable, ...]: ...


class Admissions:
    """What the listener asks about each message.

    AA: durably stored, stored before, identity pending, or nothing follows from it. AE: the content is refused, with
    the places in the message and the reasons. AR: not a message we take, or its sender (MSH-3, MSH-4, and the
    certificate if one is bound to them) speaks for no facility. What intake cannot answer now raises: it stays
    unacknowledged, so that the sender sends it again.
    """

    def __init__(self, intake: Intake, gate: Gate, keyring: Keyring, pool: asyncpg.Pool, read: ReadMessage) -> None:
        """`pool` is of the login asm_intake."""
        self._intake = intake
        self._gate = gate
        self._keyring = keyring
        self._pool = pool
        self._read = read

    async def handle(self, message: bytes, received_at: datetime, peer: Peer) -> Reply:
        """Do what one message says. One that was taken before (sender, MSH-10 and content) is answered as it was."""
        header = header_of(message)
        sender = None
        if header.fields:
            sender = await self._gate.find_sender(header.component(3), header.component(4))
        if sender is not None and _is_certified(sender, peer):
            async with self._pool.acquire() as connection:
                answer = await store.find_taken(connection, self._tag(message, header))
            if answer is not None:
                MESSAGES.labels("repeated").inc()
                return Reply("AA", answer)
        reply, reasons = await self._decided(message, header, sender, received_at, peer)
        await self._keep(message, header, reply, reasons, received_at)
        return reply

    async def refused(self, beginning: bytes, text: str, received_at: datetime) -> None:
        """Keep that a frame was refused which could not be taken as a message."""
        await self._keep(beginning, header_of(beginning), Reply("AR", text), ["not_hl7 MLLP"], received_at)

    async def _decided(
        self, message: bytes, header: Header, sender: Sender | None, received_at: datetime, peer: Peer
    ) -> tuple[Reply, list[str]]:
        if not header.fields:
            return Reply("AR", "Không phải bản tin HL7 v2 / not an HL7 v2 message"), ["not_hl7 MSH"]
        if sender is None:
            text = "MSH-3/MSH-4 chưa được đăng ký cho cơ sở nào / this sender speaks for no facility"
            return Reply("AR", text), ["unknown_sender MSH-3"]
        if not _is_certified(sender, peer):
            text = "Chứng thư không phải của hệ thống gửi này / the certificate is not this sender's"
            return Reply("AR", text), ["wrong_certificate TLS"]
        said = self._read(message, profile=sender.profile)
        if not said:
            return Reply("AA", "Không phát sinh lưu trú qua đêm / no overnight stay"), []
        faults = [fault for each in said if isinstance(each, Unreadable) for fault in each.violations]
        if faults:
            return Reply("AR" if any(fault.code in _STRUCTURE for fault in faults) else "AE", _explained(faults)), [
                _reason(fault) for fault in faults
            ]
        visit = _Visit(self._intake, self._read, sender, message, f"{header.component(3)}/{header.component(4)}")
        return await visit.do([act for act in said if isinstance(act, Act)], received_at)

    def _tag(self, message: bytes, header: Header) -> bytes:
        """Names the very message: sender, MSH-10 and content. A control id that is used again makes another message."""
        named = "\x1f".join((header.component(3), header.component(4), header.field(10)))
        return self._keyring.content_tag(b"hl7\x1f" + named.encode() + b"\x1f" + sha256(message).digest())

    async def _keep(
        self, message: bytes, header: Header, reply: Reply, reasons: Sequence[str], received_at: datetime
    ) -> None:
        MESSAGES.labels(reply.code).inc()
        tag, sealed = self._tag(message, header), None
        if reply.code != "AA":
            names = (header.component(3)[:_NAME_LIMIT], header.component(4)[:_NAME_LIMIT], header.field(10))
            sealed = seal_message_header(self._keyring, tag, received_at, names)
        async with self._pool.acquire() as connection:
            await store.put_answer(
                connection,
                tag,
                reply.code,
                reply.text[:_ANSWER_LIMIT],
                sealed,
                list(reasons)[:_REASONS_LIMIT],
                received_at,
            )


def _is_certified(sender: Sender, peer: Peer) -> bool:
    if sender.certificate_sha256 is None:
        return True
    return hmac.compare_digest(sha256(peer.certificate or b"").digest(), sender.certificate_sha256)


async def erase_once(pool: asyncpg.Pool, now: datetime, *, days: int) -> dict[str, int]:
    """Forget what was answered more than `days` ago. `pool` connects as asm_retention."""
    erased = 0
    for _ in range(_ERASE_ROUNDS):
        async with pool.acquire() as connection:
            gone = await store.erase_before(connection, now - timedelta(days=days), _ERASED_AT_ONCE)
        erased += gone
        if gone < _ERASED_AT_ONCE:
            break
    return {"erased": erased}


# -- what the acts of one message come to ------------------------------------------------------------------------------


class _Visit:
    """The acts of one message on their way through intake."""

    def __init__(self, intake: Intake, read: ReadMessage, sender: Sender, message: bytes, actor: str) -> None:
        self._intake = intake
        self._read = read
        self._sender = sender
        self._message = message
        self._actor = actor

    async def do(self, acts: Sequence[Act], received_at: datetime) -> tuple[Reply, list[str]]:
        """Submit the acts together, settle what was refused, and say what became of all of them.

        Raises `Refused` for what cannot be answered now.
        """
        outcomes = await self._submit(acts, received_at)
        texts, faults, reasons = [], [], []
        for order, (act, first) in enumerate(zip(acts, outcomes, strict=True)):
            outcome = first
            if act.match is not None and act.source_ref is None and act.kind is not ActKind.CORRECT:
                outcome = await self._together(act, first, received_at)
            elif first.refusal is not None:
                outcome = await self._otherwise(act, first, received_at, is_relative=order > 0)
            done = _done(act, outcome)
            if done is not None:
                texts.append(done)
            elif outcome.refusal is not None:
                refusal = outcome.refusal
                faults.append(_explained(refusal.violations) or refusal.problem.title.vi)
                reasons += [_reason(fault) for fault in refusal.violations] or [refusal.code]
        if faults:
            return Reply("AE", "; ".join(faults)), reasons
        return Reply("AA", "; ".join(dict.fromkeys(filter(None, texts)))), []

    async def _submit(self, acts: Sequence[Act], received_at: datetime) -> list[Outcome]:
        outcomes = await self._intake.submit(
            [Command(self._sender.facility, act, received_at, actor=self._actor) for act in acts]
        )
        for outcome in outcomes:
            if outcome.refusal is not None and outcome.refusal.problem.status >= 500:
                raise outcome.refusal
        return outcomes

    async def _otherwise(self, act: Act, refused: Outcome, received_at: datetime, *, is_relative: bool) -> Outcome:
        """Another way to do what was refused, if the message leaves no doubt that it is meant."""
        code = refused.refusal.code if refused.refusal is not None else ""
        if code == "content_differs" and act.kind in {ActKind.DECLARE, ActKind.EXPECT}:
            # An admission that is sent again with other content: what it says now is a correction.
            left_out = {"present", "arrived_at"} if is_relative else {"present"}
            fields = {name: value for name, value in act.fields.items() if name not in left_out}
            [outcome] = await self._submit([replace(act, kind=ActKind.CORRECT, fields=fields)], received_at)
            return outcome
        if code == "not_found" and act.kind is ActKind.CORRECT:
            # News of somebody whose admission never came: the message tells of it as well.
            said = self._read(self._message, profile=self._sender.profile, as_admission=True)
            if said and isinstance(said[0], Act):
                [outcome] = await self._submit([said[0]], received_at)
                return outcome
        return refused

    async def _together(self, act: Act, first: Outcome, received_at: datetime) -> Outcome:
        """Do to all relatives of a patient what was done to the first of them."""
        outcome = first
        for _ in range(_TOGETHER_LIMIT):
            if outcome.refusal is not None or outcome.outcome == "duplicate":
                break
            [outcome] = await self._submit([act], received_at)
        return outcome


def _done(act: Act, outcome: Outcome) -> str | None:
    """What to tell of an act that is done, or that leaves nothing to do; None if a person has to look at it.

    Nothing of this may stop the sender's queue: what it says changes nothing that is still to be declared.
    """
    refusal = outcome.refusal
    if refusal is None:
        if outcome.outcome == "accepted" or outcome.receipt is not None:
            return str(outcome.receipt["code"]) if outcome.receipt else ""
        return _pending(outcome) if outcome.missing else ""
    return _nothing_to_do(act, refusal)


def _nothing_to_do(act: Act, refusal: Refused) -> str | None:
    if refusal.code == "already_staying":
        return f"Đã khai báo / already declared: {refusal.stay_id}"
    if refusal.code == "not_in_house" and act.match is not None:
        return "Không có ai đang lưu trú theo số hồ sơ này / nobody in house under this number" if (
            act.kind is ActKind.CORRECT
        ) else ""  # fmt: skip
    if refusal.code == "not_found" and act.kind is ActKind.CANCEL:
        return "Chưa từng khai báo lượt này / this stay was never declared"
    if refusal.code == "wrong_state" and act.kind in {ActKind.CORRECT, ActKind.CHECK_OUT}:
        return "Lượt lưu trú đã huỷ / the stay is cancelled"
    return None


def _pending(outcome: Outcome) -> str:
    places = ", ".join(dict.fromkeys(found.place or found.pointer for found in outcome.missing))
    due = outcome.expected.deadline_at if outcome.expected is not None else None
    until = f", hạn / due {due.astimezone(HANOI):%d/%m/%Y %H:%M}" if due is not None else ""
    return f"Chưa đủ thông tin để khai báo / identity pending: {places}{until}"


def _reason(fault: Violation) -> str:
    return f"{fault.code} {fault.place or fault.pointer}".strip()


def _explained(violations: Sequence[Violation]) -> str:
    return "; ".join(f"{found.place or found.pointer}: {found.vi}" for found in violations)
