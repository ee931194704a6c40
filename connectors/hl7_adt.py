"""HL7 v2 ADT messages of a hospital (bản tin nhập, chuyển, ra viện): what they say about who stays overnight.

| event | act |
|---|---|
| A01 admission, A06 out-patient becomes in-patient | `declare`; `expect`, present, while the identity is incomplete |
| A02 transfer, A12 transfer cancelled | `correct` of the room, to PV1-3 |
| A03 discharge | `check_out` |
| A08 update | `correct` of everything that the message knows |
| A07 in-patient becomes out-patient | `cancel`, guest did not stay |
| A11 admission cancelled | `cancel`, entered by mistake |
| A13 discharge cancelled | `undo_check_out` |
| A40 patients merged | `correct` of the guest, by PV1-19 or the old medical record number (MRG-1) |
| A04 and others that change no overnight stay | nothing |

Every other event is `Unreadable` with `unsupported_event`: its sender learns that it was not done. Patients whose class
(PV1-2) does not stay overnight yield nothing, except for A07, after which the class is another.

| field of the declaration | source |
|---|---|
| `source_ref` | PV1-19 visit number, else PV1-50, else PID-18 account, else medical record `@` PV1-44 |
| `guest_ref` | PID-3 of type MR, else the first without a type |
| document | PID-3 by its type: NI, NNVNM, CZ, CCCD → 1 (12 digits) or 2 (9 digits), CC 8, PPN 4, DL 3, HC 6, BCT 5 |
| full name | PID-5, family name first as in Viet Nam: family, middle, given; a pseudonym (type S) is none |
| birth date, gender | PID-7 with the precision that is sent, unless PID-32 says `UD` (a default); PID-8 if M or F |
| residence, telephone | PID-11 (type P → 1 thường trú, C → 2 tạm trú), PID-13 if it holds a telephone number |
| nationality | PID-26, else PID-28; VNM with a personal number or an identity card |
| arrival, departure | PV1-44, else EVN-6, else EVN-2; PV2-9 if sent; PV1-45, else EVN-6, else EVN-2 |
| room | PV1-3: department, room and bed joined by `-` |
| reason | 18 (Chữa bệnh) |

Where the sender's profile has a `relative_role`, each NK1 of A01, A06 and A08 with that contact role (NK1-7) is a guest
of their own: name NK1-2, address 4, telephone 5, arrival 8 (else the patient's), end 9, gender 15, birth date 16,
nationality 19 or 27, documents 33, room and stay of the patient, reason 6 (Thăm thân). They leave with the patient.

Nothing else is looked at: diagnoses and allergies never leave the message. Times without an offset are +07:00; a day
alone is 00:00 for an admission, 12:00 for a departure.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import time
from functools import partial

from connectors.cells import NOON, CellError, Row, room_of, text
from connectors.hl7_person import PATIENT, RELATIVE, identifiers_of, instant, read_guest, record_number
from connectors.hl7_text import Message, Part, batch, is_batch, messages, parse
from schemas.act import Act, ActKind, Connector, Unreadable
from schemas.codes import Reason
from schemas.hospital import HospitalProfile
from schemas.violations import violation

_DEFAULT = HospitalProfile()
_NO_STAY = re.compile(r"A(?:04|05|09|10|14|15|16|19|20|21|22|25|26|27|28|29|31|32|33|38|52|53|54|55|60|61|62)")
"""Events after which nobody stays overnight who did not before, and nobody has left."""
_REF_FORM = re.compile(r"[\x21-\x7e]{1,128}")
RELATIVES_LIMIT = 10

Said = tuple[Act | Unreadable, ...]
"""What one message says: nothing, or the patient's act and those of relatives; of A40 one for each merged patient."""


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield what the messages of a file say, in order (`schemas.act.Connector`); `row` is the number of the message.

    Messages are framed as over MLLP, or follow each other, each beginning with a line MSH; batches are taken whole or
    not at all. It is read as the default profile says: relatives are not declared.
    """
    empty = True
    try:
        found = list(messages(document))
    except CellError as error:
        yield Unreadable(0, (violation(error.code),))
        return
    for number, message in enumerate(found, 1):
        said: Said = (
            (Unreadable(number, (violation("not_hl7"),)),) if message is None else read_message(message, number)
        )
        for result in said:
            empty = False
            yield result
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


def split_batch(document: bytes) -> list[bytes] | None:
    """The messages of a batch; None if it is no batch, and none at all if it is incomplete."""
    if not is_batch(document):
        return None
    try:
        return batch(document)
    except CellError:
        return []


def read_message(
    message: bytes, row: int = 1, profile: HospitalProfile = _DEFAULT, *, as_admission: bool = False
) -> Said:
    """What one message says, without its frame; empty for one that no act follows from. Never raises.

    With `as_admission` any event is read as the admission that it also tells of, if it says since when the patient
    is there, and not that they have left.
    """
    try:
        parsed = parse(message, profile.charset)
    except CellError as error:
        place = "MSH-18" if error.code == "undecodable" else "MSH"
        return (Unreadable(row, (violation(error.code, "", place, **error.limits),)),)
    header = parsed.part("MSH")
    event = header.at(9, 0, 1) or parsed.part("EVN").at(1) or ""
    if header.at(9) != "ADT" or not (event in _EVENTS or _NO_STAY.fullmatch(event)):
        return (Unreadable(row, (violation("unsupported_event", "", "MSH-9", expected=TAKEN),)),)
    if _NO_STAY.fullmatch(event):
        return ()
    if event == "A40":
        return _merges(parsed, row)
    missing = [each for each in ("PID", "PV1") if not parsed.part(each)]
    if missing:
        return (Unreadable(row, tuple(violation("missing_segment", "", each, expected=each) for each in missing)),)
    visit = parsed.part("PV1")
    if as_admission and (visit.at(44) is None or visit.at(45) is not None):
        return ()  # it does not say since when, or the patient has left
    if event != "A07":
        stays = profile.stays(visit.at(2), visit.at(3, 0, 2))
        if stays is None:
            return (Unreadable(row, (violation("unknown_code", "", "PV1-2", table="patient_classes"),)),)
        if not stays:
            return ()
    return (_admission if as_admission else _EVENTS[event])(parsed, row, profile)


# -- events ------------------------------------------------------------------------------------------------------------


def _admission(message: Message, number: int, profile: HospitalProfile) -> Said:
    row, patient = Row(number), message.part("PID")
    ref = _source_ref(message, row)
    read_guest(patient, row, PATIENT)
    place, sent = message.first(("PV1", 44), ("EVN", 6), ("EVN", 2))
    arrived_at = row.read("/arrived_at", place, sent, lambda cell: instant(cell, time(0)), required=True)
    row.read("/planned_departure_at", "PV2-9", message.part("PV2").at(9), lambda cell: instant(cell, NOON))
    _room(message, row)
    row.put("/reason", int(Reason.MEDICAL_TREATMENT))
    return (_arrival(row, ref, record_number(patient)), *_relatives(message, number, profile, ref, arrived_at))


def _arrival(row: Row, ref: str | None, guest_ref: str | None) -> Act:
    """A declaration; of somebody whose identity is incomplete, that they are here. What is wrong stays wrong."""
    if row.violations or _is_complete(row):
        return _act(row, ActKind.DECLARE, ref, guest_ref)
    if ref is None:
        row.refuse("required", "/source_ref", "PV1-19")  # under which name to complete it later
        return _act(row, ActKind.DECLARE, ref, guest_ref)
    row.put("/present", True)
    return _act(row, ActKind.EXPECT, ref, guest_ref)


def _is_complete(row: Row) -> bool:
    guest = row.fields.get("guest", {})
    return "room" in row.fields and {"full_name", "birth_date", "nationality", "document"} <= guest.keys()


def _update(message: Message, number: int, profile: HospitalProfile) -> Said:
    row, patient = Row(number), message.part("PID")
    ref = _named(message, row)
    read_guest(patient, row, PATIENT)
    arrived_at = row.read("/arrived_at", "PV1-44", message.part("PV1").at(44), lambda cell: instant(cell, time(0)))
    row.read("/planned_departure_at", "PV2-9", message.part("PV2").at(9), lambda cell: instant(cell, NOON))
    _room(message, row)
    changed = _act(row, ActKind.CORRECT, ref, record_number(patient))
    if arrived_at is None:
        place, sent = message.first(("EVN", 6), ("EVN", 2))
        arrived_at = Row(number).look("", place, sent, lambda cell: instant(cell, time(0)))
    return (changed, *_relatives(message, number, profile, ref, arrived_at))


def _transfer(message: Message, number: int, _profile: HospitalProfile) -> Said:
    row = Row(number)
    ref = _named(message, row)
    if _room(message, row) is None:
        row.refuse("required", "/room", "PV1-3")
    return (_act(row, ActKind.CORRECT, ref),)


def _discharge(message: Message, number: int, profile: HospitalProfile) -> Said:
    row = Row(number)
    ref = _named(message, row)
    place, sent = message.first(("PV1", 45), ("EVN", 6), ("EVN", 2))
    row.read("/departed_at", place, sent, lambda cell: instant(cell, NOON), required=True)
    return _with_relatives(_act(row, ActKind.CHECK_OUT, ref), profile)


def _undo_discharge(message: Message, number: int, _profile: HospitalProfile) -> Said:
    row = Row(number)
    return (_act(row, ActKind.UNDO_CHECK_OUT, _named(message, row)),)


def _cancellation(reason: str, message: Message, number: int, profile: HospitalProfile) -> Said:
    row = Row(number)
    ref = _named(message, row)
    row.put("/reason", reason)
    return _with_relatives(_act(row, ActKind.CANCEL, ref), profile)


def _merges(message: Message, number: int) -> Said:
    """An act for each group of PID and MRG. Where no visit is named, the guest is the one of the old number."""
    groups: list[dict[str, Part]] = []
    for part in message.parts("PID", "MRG", "PV1"):
        if part.name == "PID" or not groups:
            groups.append({})
        groups[-1][part.name] = part
    faults = [
        violation("missing_segment", "", name, expected=name)
        for name in ("PID", "MRG") if not groups or any(name not in group for group in groups)
    ]  # fmt: skip
    if faults:
        return (Unreadable(number, tuple(faults)),)
    return tuple(_merge(group, number) for group in groups)


def _merge(group: dict[str, Part], number: int) -> Act:
    row, patient = Row(number), group["PID"]
    read_guest(patient, row, PATIENT)
    ref = group["PV1"].at(19) if "PV1" in group else None
    row.origin["/source_ref"] = "PV1-19"
    old = record_number(group["MRG"], 1)
    row.origin["/guest_ref"] = "MRG-1"
    if ref is None and old is None:
        row.refuse("required", "/guest_ref", "MRG-1")
    act = _act(row, ActKind.CORRECT, ref, record_number(patient))
    return act if ref is not None or old is None else replace(act, match={"guest_ref": old})


_EVENTS: dict[str, Callable[[Message, int, HospitalProfile], Said]] = {
    "A01": _admission,
    "A02": _transfer,
    "A03": _discharge,
    "A06": _admission,
    "A07": partial(_cancellation, "guest_did_not_stay"),
    "A08": _update,
    "A11": partial(_cancellation, "entered_by_mistake"),
    "A12": _transfer,
    "A13": _undo_discharge,
    "A40": lambda message, number, _profile: _merges(message, number),
}
TAKEN = ", ".join(sorted({*_EVENTS, "A04"}))


# -- relatives ---------------------------------------------------------------------------------------------------------


def _relatives(
    message: Message, number: int, profile: HospitalProfile, patient_ref: str | None, arrived_at: str | None
) -> Said:
    """An act for each relative who stays with the patient, under a name made of the patient's."""
    if profile.relative_role is None or patient_ref is None:
        return ()
    relatives = [
        (order, each) for order, each in enumerate(message.parts("NK1"), 1)
        if profile.relative_role in {each.at(7, 0, 0), each.at(7, 0, 3)}
    ]  # fmt: skip
    return tuple(
        act
        for order, relative in relatives[:RELATIVES_LIMIT]
        for act in _relative(relative, relative.at(1) or str(order), message, Row(number), patient_ref, arrived_at)
    )


def _relative(
    relative: Part, number: str, message: Message, row: Row, patient_ref: str, arrived_at: str | None
) -> Said:
    relative.name = f"NK1[{number}]"
    ref, together = f"{patient_ref}/NK1-{number}", _together(patient_ref)
    row.origin["/source_ref"] = relative.place(1)
    read_guest(relative, row, RELATIVE)
    row.read(
        "/arrived_at",
        relative.place(8),
        relative.at(8),
        lambda cell: instant(cell, time(0)),
        default=arrived_at,
        required=True,
    )
    _room(message, row)
    row.put("/reason", int(Reason.FAMILY_VISIT))
    arrival = _arrival(row, ref, together)
    end = relative.at(9)
    if end is None:
        return (arrival,)
    leaving = Row(row.number)
    leaving.origin["/source_ref"] = relative.place(1)
    leaving.read("/departed_at", relative.place(9), end, lambda cell: instant(cell, NOON), required=True)
    return arrival, _act(leaving, ActKind.CHECK_OUT, ref, together)


def _with_relatives(act: Act, profile: HospitalProfile) -> Said:
    """The patient's act, and the same for whoever stays with them: nobody else will say that they have left."""
    if profile.relative_role is None or act.source_ref is None or act.violations:
        return (act,)
    return act, replace(act, source_ref=None, match={"guest_ref": _together(act.source_ref)})


def _together(patient_ref: str) -> str:
    """What all relatives of one patient are called together, as `guest_ref`."""
    return f"NK1@{patient_ref}"[:128]


# -- what the parts say ------------------------------------------------------------------------------------------------


def _act(row: Row, kind: ActKind, ref: str | None, guest_ref: str | None = None) -> Act:
    return Act(
        kind,
        row.fields,
        row.number,
        ref,
        row.origin,
        tuple(row.warnings),
        violations=tuple(row.violations),
        guest_ref=guest_ref if guest_ref and len(guest_ref) <= 128 else None,
    )


def _named(message: Message, row: Row) -> str | None:
    """The name of a stay that must have one: without it nobody knows who is meant."""
    ref = _source_ref(message, row)
    if ref is None:
        row.refuse("required", "/source_ref", "PV1-19")
    return ref


def _source_ref(message: Message, row: Row) -> str | None:
    place, ref = message.first(("PV1", 19), ("PV1", 50), ("PID", 18))
    if ref is None:
        admitted, patient = message.part("PV1").at(44), message.part("PID")
        records = [number for number, kind in identifiers_of(patient, 3) if kind == "MR"]
        place, ref = "PID-3", f"{records[0]}@{admitted}" if records and admitted else None
    row.origin["/source_ref"] = place
    if ref is not None and not _REF_FORM.fullmatch(ref):
        row.refuse("wrong_source_ref", "/source_ref", place)
    return ref


def _room(message: Message, row: Row) -> str | None:
    visit = message.part("PV1")
    room: str | None = row.read("/room", "PV1-3", room_of(*(visit.at(3, 0, part) for part in range(3))), text)
    return room


connector = Connector(
    name="hl7_adt", suffixes=(".hl7",), media_types=("application/hl7-v2", "x-application/hl7-v2+er7"), read=read
)
