"""Hospital messages: what comes over MLLP goes the way of every declaration, and is acknowledged for it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from asm_daemon.directory import Gate
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.mllp import Handler, Peer, Reply, header_of
from schemas.act import Act, Unreadable
from schemas.violations import Violation

ReadMessage = Callable[[bytes], Act | Unreadable | None]
_STRUCTURE = frozenset({"not_hl7", "undecodable", "missing_segment", "unsupported_event"})


def handler(intake: Intake, gate: Gate, read_message: ReadMessage) -> Handler:
    """What the listener calls for each message.

    AA: durably stored, stored before, or an event that no declaration follows from. AE: the content is refused, with
    the places in the message and the reasons. AR: not a message we take, or its sender (MSH-3, MSH-4) speaks for no
    facility. What intake cannot answer now stays unacknowledged, so that the sender sends it again.
    """

    async def handle(message: bytes, received_at: datetime, _peer: Peer) -> Reply:
        header = header_of(message)
        if not header.fields:
            return Reply("AR", "Không phải bản tin HL7 v2 / not an HL7 v2 message")
        application, facility_name = header.component(3), header.component(4)
        facility = await gate.facility_of_sender(application, facility_name)
        if facility is None:
            return Reply("AR", "MSH-3/MSH-4 chưa được đăng ký cho cơ sở nào / this sender speaks for no facility")
        read = read_message(message)
        if read is None:
            return Reply("AA", "Không phát sinh lưu trú qua đêm / no overnight stay")
        if isinstance(read, Unreadable):
            structural = any(found.code in _STRUCTURE for found in read.violations)
            return Reply("AR" if structural else "AE", _explained(read.violations))
        [outcome] = await intake.submit([Command(facility, read, received_at, actor=f"{application}/{facility_name}")])
        return _reply(outcome)

    return handle


def _reply(outcome: Outcome) -> Reply:
    refusal = outcome.refusal
    if refusal is None:
        return Reply("AA", str(outcome.receipt["code"]) if outcome.receipt else "")
    if refusal.code == "already_staying":
        # The patient is declared; the sender's queue must not stop at a message that changes nothing.
        return Reply("AA", f"Đã khai báo / already declared: {refusal.stay_id}")
    return Reply("AE", _explained(refusal.violations) or refusal.problem.title.vi)


def _explained(violations: tuple[Violation, ...]) -> str:
    return "; ".join(f"{found.place or found.pointer}: {found.vi}" for found in violations)
