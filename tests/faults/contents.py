"""What a facility says in one act, made from numbers alone: the same numbers always say the same.

So a journal that holds ids and numbers, and nothing about anybody, is enough to make all of it again and to compare it
with what was kept. The people are those of `schemas.synthetic`.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from schemas.act import ActKind
from schemas.codes import DocumentType, FacilityKind, Reason
from schemas.synthetic import person

_START, _END = b"\x0b", b"\x1c\r"


@dataclass(frozen=True, slots=True)
class Content:
    """One act's content: about whom, from which seed, at what kind of facility, counted from when the run began."""

    kind: ActKind
    person: int
    seed: int
    facility_kind: FacilityKind
    began: datetime
    over_mllp: bool = False

    def fields(self) -> dict[str, Any]:
        """The act's fields, in the form in which the daemon keeps them."""
        match self.kind:
            case ActKind.DECLARE:
                return _declaration(self)
            case ActKind.CORRECT:
                return _correction(self)
            case ActKind.CHECK_OUT:
                return {"departed_at": said(self.departed_at)}
            case ActKind.EXTEND:
                return {"planned_departure_at": said(self.began + timedelta(days=1, seconds=self.seed % 1_500_000))}
            case ActKind.CANCEL:
                reasons = ("entered_by_mistake", "guest_did_not_stay", "duplicate", "other")
                return {"reason": "entered_by_mistake" if self.over_mllp else reasons[self.seed % 4]}
            case ActKind.UNDO_CHECK_OUT:
                return {}
        raise ValueError(self.kind)

    @property
    def arrived_at(self) -> datetime:
        """48 to 72 hours before the run began: a clock that jumps makes neither it nor the departure implausible."""
        return self.began - timedelta(hours=48, seconds=dice(self.person).randrange(86_400))

    @property
    def departed_at(self) -> datetime:
        """6 to 30 hours before the run began."""
        return self.began - timedelta(hours=6, seconds=self.seed % 86_400)


@dataclass(frozen=True, slots=True)
class State:
    """What a stay says after some acts."""

    declared: Mapping[str, Any]
    status: str
    departed_at: str | None = None


def after(before: State | None, content: Content) -> State | None:
    """What a stay says after one more act; None where the act could not have been done."""
    fields = content.fields()
    if content.kind is ActKind.DECLARE:
        return State(fields, "declared") if before is None else None
    if before is None or before.status == "cancelled":
        return None
    match content.kind:
        case ActKind.CORRECT:
            return replace(before, declared=merged(before.declared, fields))
        case ActKind.EXTEND:
            return replace(before, declared={**before.declared, **fields}) if before.status == "declared" else None
        case ActKind.CHECK_OUT:
            return replace(before, status="departed", departed_at=fields["departed_at"])
        case ActKind.UNDO_CHECK_OUT:
            return replace(before, status="declared", departed_at=None)
        case ActKind.CANCEL:
            return replace(before, status="cancelled")
    return None


def merged(target: Mapping[str, Any], patch: Mapping[str, Any]) -> dict[str, Any]:
    """JSON Merge Patch (RFC 7396) of an object by patches that remove nothing."""
    made = dict(target)
    for name, value in patch.items():
        before = made.get(name)
        made[name] = merged(before, value) if isinstance(value, dict) and isinstance(before, dict) else value
    return made


def dice(*parts: int | str) -> random.Random:
    """Choices that these parts fix."""
    return random.Random("|".join(map(str, parts)))  # noqa: S311 - repeatable, and no secret


def said(instant: datetime) -> str:
    """An instant of whole seconds in UTC, as it is sent and kept."""
    return instant.isoformat().replace("+00:00", "Z")


def _declaration(content: Content) -> dict[str, Any]:
    who, drawn = person(content.person), dice(content.seed)
    made: dict[str, Any] = {
        "guest": {
            "full_name": who.full_name,
            "birth_date": who.birth_date,
            "gender": who.gender,
            "nationality": who.nationality,
            "document": {"type": who.document_type, "number": who.document_number},
        },
        "arrived_at": said(content.arrived_at),
        "room": _room(content),
    }
    if content.over_mllp:
        made["guest"]["document"]["type"] = _document_type_over_mllp(who.document_type)
        return made | {"reason": int(Reason.MEDICAL_TREATMENT)}
    made["planned_departure_at"] = said(content.began + timedelta(days=2, seconds=drawn.randrange(86_400)))
    made["reason"] = drawn.randrange(1, 20)
    if drawn.random() < 0.3:
        made["note"] = f"Ghi chú {content.seed}"
    if drawn.random() < 0.3:
        made["guest"]["phone"] = _telephone(content)
    return made


def _correction(content: Content) -> dict[str, Any]:
    if content.over_mllp or content.seed % 3 == 0:
        return {"room": _room(content)}
    if content.seed % 3 == 1:
        return {"note": f"Đính chính {content.seed}"}
    return {"guest": {"phone": _telephone(content)}}


def _room(content: Content) -> str:
    return f"KHOA-{content.seed}-1" if content.over_mllp else f"P{content.seed}"


def _telephone(content: Content) -> str:
    return f"09{content.seed % 10**8:08d}"


# -- as a hospital says it ---------------------------------------------------------------------------------------------

EVENTS = {
    ActKind.DECLARE: "A01",
    ActKind.CORRECT: "A08",
    ActKind.CHECK_OUT: "A03",
    ActKind.CANCEL: "A11",
}


def _document_type_over_mllp(document_type: int) -> int:
    return document_type if document_type == DocumentType.PASSPORT else int(DocumentType.CCCD)


def frame(content: Content, sender: tuple[str, str], visit: str, control_id: str, room_seed: int) -> bytes:
    """The framed HL7 message of one act on the visit; `room_seed` names the room that the patient has by now."""
    who, event = person(content.person), EVENTS[content.kind]
    family, *middle, given = who.full_name.split()
    passport = who.document_type == DocumentType.PASSPORT
    sent = _hl7(content.began)
    pid = ["PID", "1", "", f"{who.document_number}^^^^{'PPN' if passport else 'NI'}~BN{content.person}^^^^MR", ""]
    pid += [f"{family}^{given}^{' '.join(middle)}", "", who.birth_date.replace("-", ""), who.gender]
    pid += [""] * 17 + [who.nationality]
    visited = {2: "I", 3: _room(replace(content, seed=room_seed)).replace("-", "^"), 19: visit}
    visited[44] = _hl7(content.arrived_at)
    if content.kind is ActKind.CHECK_OUT:
        visited[45] = _hl7(content.departed_at)
    lines = (
        rf"MSH|^~\&|{sender[0]}|{sender[1]}|ASM|HY|{sent}||ADT^{event}|{control_id}|P|2.5||||||UNICODE UTF-8",
        f"EVN||{sent}",
        "|".join(pid),
        "|".join(["PV1", *(visited.get(number, "1" if number == 1 else "") for number in range(1, 46))]),
    )
    return _START + "\r".join(lines).encode() + _END


def _hl7(instant: datetime) -> str:
    return instant.strftime("%Y%m%d%H%M%S+0000")
