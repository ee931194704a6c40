"""One reservation of hotel software as acts: who is expected, who is in house, who has left, who will not come.

A reservation knows a party: some guests by name, others only as a number. Each has a place in it, from 1, and is an act
of its own, so that the owner sees how many are still missing. Dates without a time are read as everywhere: an arrival
at 00:00, a departure at 12:00. The reason of the stay is 1 (Du lịch) unless the system tells another.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import Enum, auto
from typing import Any

from connectors.card_numbers import holds_card_number
from connectors.cells import VIETNAM, CellError, Row, arrival, departure, document_number, nationality, phone, text
from schemas.act import Act, ActKind, Unreadable
from schemas.codes import DocumentType, Reason
from schemas.country_codes import ALPHA_3
from schemas.hotels import PARTY_LIMIT, RESERVATION_ID_LIMIT, source_ref
from schemas.stay import is_source_ref
from schemas.violations import violation

_GENDERS = {"m": "M", "male": "M", "mr": "M", "f": "F", "female": "F", "mrs": "F", "ms": "F", "miss": "F"}


class Status(Enum):
    """How far a reservation is."""

    BOOKED = auto()
    IN_HOUSE = auto()
    LEFT = auto()
    CANCELLED = auto()


@dataclass(frozen=True, slots=True)
class Member:
    """One guest as the system knows them; every member may be missing. `place` is where it stands in the document."""

    place: str
    full_name: str | None = field(default=None, repr=False)
    birth_date: str | None = field(default=None, repr=False)
    gender: str | None = field(default=None, repr=False)
    nationality: str | None = field(default=None, repr=False)
    phone: str | None = field(default=None, repr=False)
    document_type: DocumentType | None = None
    document_number: str | None = field(default=None, repr=False)
    room: str | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True)
class Reservation:
    """One reservation. `row` counts in the document, `count` is the size of the party, `members` those known."""

    system: str
    id: str = field(repr=False)
    row: int
    place: str
    status: Status
    arrival: str | None = None
    departure: str | None = None
    left_at: str | None = None
    reason: Reason = Reason.TOURISM
    members: Sequence[Member] = ()
    count: int = 0


def acts(reservation: Reservation) -> Iterator[Act | Unreadable]:
    """The acts of a reservation, in the order of places; a party that is too large, or without a name, is refused."""
    if not is_reservation_id(reservation.id):
        code = "wrong_source_ref" if reservation.id else "required"
        yield Unreadable(reservation.row, (violation(code, "/source_ref", reservation.place),))
        return
    party = max(reservation.count, len(reservation.members), 1)
    if party > PARTY_LIMIT:
        yield Unreadable(
            reservation.row, (violation("out_of_range", "", reservation.place, expected=f"≤ {PARTY_LIMIT}"),)
        )
        return
    for place in range(1, party + 1):
        member = reservation.members[place - 1] if place <= len(reservation.members) else Member(reservation.place)
        name = source_ref(reservation.system, reservation.id, place)
        if reservation.status is Status.CANCELLED:
            yield Act(ActKind.CANCEL, {"reason": "guest_did_not_stay"}, reservation.row, name)
            continue
        yield _expectation(reservation, member, name)
        if reservation.status is Status.LEFT:
            yield _departure(reservation, name)


def is_reservation_id(written: str) -> bool:
    """Whether a system may call a reservation so."""
    return 0 < len(written) <= RESERVATION_ID_LIMIT and is_source_ref(written)


def _expectation(reservation: Reservation, member: Member, name: str) -> Act:
    row = Row(reservation.row)
    for pointer, cell, reader in (
        ("/guest/full_name", member.full_name, text),
        ("/guest/birth_date", member.birth_date, _day),
        ("/guest/gender", member.gender, _gender),
        ("/guest/nationality", member.nationality, _nationality),
        ("/guest/phone", member.phone, phone),
        ("/room", member.room, text),
    ):
        _take(row, pointer, member.place, cell, reader)
    number = _take(row, "/guest/document/number", member.place, member.document_number, document_number)
    if number is not None:
        row.put("/guest/document/type", int(_document_type(member.document_type, number)))
    arrived_at = _take(row, "/arrived_at", reservation.place, _local(reservation.arrival), arrival)
    _take(
        row, "/planned_departure_at", reservation.place, _local(reservation.departure),
        lambda cell: departure(cell, arrived_at),
    )  # fmt: skip
    row.put("/reason", int(reservation.reason))
    if reservation.status is not Status.BOOKED:
        row.put("/present", True)
    return Act(ActKind.EXPECT, row.fields, row.number, name, row.origin, tuple(row.warnings))


def _departure(reservation: Reservation, name: str) -> Act:
    row = Row(reservation.row)
    row.read("/departed_at", reservation.place, _local(reservation.left_at or reservation.departure), _left)
    return Act(
        ActKind.CHECK_OUT, row.fields, row.number, name, row.origin, violations=tuple(row.violations)
    )  # fmt: skip


def _left(cell: Any) -> str | None:
    return departure(cell, None)


def _take(row: Row, pointer: str, place: str, cell: str | None, reader: Any) -> Any:
    """Put what is sound. What is wrong is left out with a warning: the desk has the guest's document before it."""
    if cell is None or not cell.strip():
        return None
    row.origin[pointer] = place
    if holds_card_number(cell):
        row.warn("card_number_removed", pointer, place)
        return None
    try:
        value = reader(cell)
    except CellError as error:
        row.warn(error.code, pointer, place, **error.limits)
        return None
    if value is not None:
        row.put(pointer, value)
    return value


def _day(cell: str) -> str:
    day = cell.strip()[:10]
    try:
        return datetime.strptime(day, "%Y-%m-%d").date().isoformat()  # noqa: DTZ007 - a day has no zone
    except ValueError:
        raise CellError("wrong_date", expected="YYYY-MM-DD") from None


def _gender(cell: str) -> str | None:
    return _GENDERS.get(cell.strip().rstrip(".").lower())


def _nationality(cell: str) -> str | None:
    written = cell.strip().upper()
    return nationality(ALPHA_3.get(written, written))


def _document_type(stated: DocumentType | None, number: str) -> DocumentType:
    """A personal number of 12 digits is a CCCD; what is not said otherwise is a passport, as hotels see most."""
    if stated in (None, DocumentType.CCCD):
        return DocumentType.CCCD if len(number) == 12 and number.isdigit() else stated or DocumentType.PASSPORT
    return stated


def _local(written: str | None) -> str | None:
    """An instant with an offset, or in UTC, as the local time that `cells.arrival` reads; other texts as they are."""
    if written is None or "T" not in written:
        return written
    try:
        instant = datetime.fromisoformat(written)
        if instant.tzinfo is not None:
            instant = instant.astimezone(VIETNAM)
    except (ValueError, OverflowError):  # no instant, or within a day of the last there is
        return written
    return instant.replace(tzinfo=None, microsecond=0).isoformat(sep=" ")


def utc(written: Any) -> str | None:
    """An instant that a system calls UTC, whether it writes the Z or not."""
    if not isinstance(written, str):
        return None
    try:
        instant = datetime.fromisoformat(written)
    except ValueError:
        return written
    return (instant if instant.tzinfo else instant.replace(tzinfo=UTC)).isoformat()


def full_name(*parts: Any) -> str | None:
    """The parts of a name that are there, in their order: a Vietnamese name begins with the family's."""
    return " ".join(part.strip() for part in parts if isinstance(part, str) and part.strip()) or None


def string(document: Any, *path: str | int) -> str | None:
    """The text, or the number as text, at the end of a path of members and positions; None if there is none."""
    found = value(document, *path)
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    return str(found).strip() or None


def value(document: Any, *path: str | int) -> Any:
    """What stands at the end of a path of members and positions, or None."""
    for step in path:
        if isinstance(step, str):
            document = document.get(step) if isinstance(document, Mapping) else None
        else:
            document = document[step] if isinstance(document, list) and -len(document) <= step < len(document) else None
    return document


def listed(document: Any, *path: str | int) -> list[Any]:
    """The array at the end of a path; empty if there is none. One object in the place of an array counts as one."""
    found = value(document, *path)
    if isinstance(found, Mapping):
        return [found]
    return found if isinstance(found, list) else []


def whole(document: Any, *path: str | int) -> int:
    """The number at the end of a path, 0 for anything else."""
    found = value(document, *path)
    return found if isinstance(found, int) and not isinstance(found, bool) and found > 0 else 0
