"""Apaleo: webhooks (thin events), and reservations as `GET /booking/v1/reservations/{id}` gives them.

| member of a reservation | becomes |
|---|---|
| `id` | name `apaleo:<id>:<place>` |
| `status` | Confirmed, Tentative: booked; InHouse: in house; CheckedOut: left; Canceled, NoShow: cancellation |
| `checkInTime` or `arrival`; `departure`; `checkOutTime` | arrival; planned departure; departure |
| `adults`, `childrenAges` | the size of the party |
| `primaryGuest`, `additionalGuests` | guests: name, gender, birth date, nationality, phone, identification |
| `unit.name` | room |
| `travelPurpose` | reason: 2 for Business, else 1 |

The booker is no guest, unless they are the primary guest too. Everything about payment is dropped on reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectors.json_documents import all_acts, collected, events_of, loaded, not_json
from connectors.parties import Member, Reservation, Status, full_name, listed, string, value, whole
from schemas.act import Act, Connector, Unreadable
from schemas.codes import DocumentType, Reason
from schemas.hotels import Changed, HotelEvents, HotelSystem, NotEvents

_STATUSES = {
    "confirmed": Status.BOOKED,
    "tentative": Status.BOOKED,
    "inhouse": Status.IN_HOUSE,
    "checkedout": Status.LEFT,
    "canceled": Status.CANCELLED,
    "noshow": Status.CANCELLED,
}
_DOCUMENT_TYPES = {
    "passportnumber": DocumentType.PASSPORT,
    "passport": DocumentType.PASSPORT,
    "idnumber": DocumentType.CCCD,
    "drivinglicensenumber": DocumentType.DRIVING_LICENCE,
    "drivinglicencenumber": DocumentType.DRIVING_LICENCE,
}


def events(document: bytes) -> HotelEvents:
    """The reservations that a webhook call is about. Raises `NotEvents`. A health check is an event to ignore."""
    call = events_of(document)
    if string(call, "topic") is None:
        raise NotEvents
    reservation_id = string(call, "data", "entityId")
    if (string(call, "topic") or "").lower() != "reservation" or reservation_id is None:
        return collected([None])
    return collected([Changed(reservation_id, string(call, "propertyId"))])


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield the acts of one reservation, or of a list of them under `reservations` (`schemas.act.Connector`)."""
    try:
        said = loaded(document)
    except ValueError:
        yield not_json()
        return
    found = listed(said, "reservations") or ([said] if string(said, "id") else [])
    yield from all_acts(_reservation(each, row) for row, each in enumerate(found, 1))


def _reservation(said: Any, row: int) -> Reservation:
    guests = [("primaryGuest", value(said, "primaryGuest"))]
    guests += [(f"additionalGuests[{number}]", each) for number, each in enumerate(listed(said, "additionalGuests"))]
    return Reservation(
        system=HotelSystem.APALEO,
        id=string(said, "id") or "",
        row=row,
        place=f"reservations[{row - 1}]",
        status=_STATUSES.get((string(said, "status") or "").lower(), Status.BOOKED),
        arrival=string(said, "checkInTime") or string(said, "arrival"),
        departure=string(said, "departure"),
        left_at=string(said, "checkOutTime"),
        reason=Reason.WORK_TRIP if string(said, "travelPurpose") == "Business" else Reason.TOURISM,
        members=[_member(each, place, string(said, "unit", "name")) for place, each in guests
                 if isinstance(each, Mapping)],
        count=whole(said, "adults") + len(listed(said, "childrenAges")),
    )  # fmt: skip


def _member(said: Any, place: str, room: str | None) -> Member:
    stated = (string(said, "identificationType") or "").replace(" ", "").lower()
    return Member(
        place=place,
        full_name=full_name(string(said, "lastName"), string(said, "middleInitial"), string(said, "firstName")),
        birth_date=string(said, "birthDate"),
        gender=string(said, "gender"),
        nationality=string(said, "nationalityCountryCode"),
        phone=string(said, "phone"),
        document_type=_DOCUMENT_TYPES.get(stated),
        document_number=string(said, "identificationNumber"),
        room=room,
    )


connector = Connector(name="pms_apaleo", suffixes=(), media_types=(), read=read)
