"""Mews: General Webhooks (thin events), and what its Connector API gives about a reservation.

A document here is one object with the answers of the operations that belong together: `Reservations` of
`reservations/getAll/2023-06-06`, `Companionships` and `Customers` of `companionships/getAll` and `customers/getAll`,
`Resources` of `resources/getAll` (the rooms).

| member | becomes |
|---|---|
| `Id` of a reservation | name `mews:<Id>:<place>` |
| `State` | Started: in house; Processed: left; Canceled: cancellation; every other: booked |
| `ActualStartUtc` or `ScheduledStartUtc`; `ScheduledEndUtc`; `ActualEndUtc` | arrival; planned departure; departure |
| `PersonCounts[].Count` | the size of the party |
| `AccountId` where it is a customer, and the customers of its companionships | guests |
| `AssignedResourceId`, looked up in `Resources[].Name` | room |
| `Purpose` | reason: 2 for Business, 3 for Student, else 1 |

Everything about payment is dropped on reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectors.json_documents import all_acts, collected, events_of, loaded, not_json
from connectors.parties import Member, Reservation, Status, full_name, listed, string, utc, value, whole
from schemas.act import Act, Connector, Unreadable
from schemas.codes import DocumentType, Reason
from schemas.hotels import Changed, HotelEvents, HotelSystem, NotEvents

_STATUSES = {"Started": Status.IN_HOUSE, "Processed": Status.LEFT, "Canceled": Status.CANCELLED}
_REASONS = {"Business": Reason.WORK_TRIP, "Student": Reason.STUDY}
_DOCUMENTS = (
    ("Passport", DocumentType.PASSPORT),
    ("IdentityCard", DocumentType.CCCD),
    ("DriversLicense", DocumentType.DRIVING_LICENCE),
)


def events(document: bytes) -> HotelEvents:
    """The reservations that a webhook call is about. Raises `NotEvents`."""
    call = events_of(document)
    told = value(call, "Events")
    if not isinstance(told, list):
        raise NotEvents
    return collected(_change(each, string(call, "EnterpriseId")) for each in told)


def _change(event: Any, enterprise_id: str | None) -> Changed | None:
    reservation_id = string(event, "Value", "Id")
    if string(event, "Discriminator") != "ServiceOrderUpdated" or reservation_id is None:
        return None
    return Changed(reservation_id, enterprise_id)


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield the acts of every reservation of the document (`schemas.act.Connector`)."""
    try:
        said = loaded(document)
    except ValueError:
        yield not_json()
        return
    customers = {string(each, "Id"): each for each in listed(said, "Customers")}
    rooms = {string(each, "Id"): string(each, "Name") for each in listed(said, "Resources")}
    companions = listed(said, "Companionships")
    yield from all_acts(
        _reservation(each, row, companions, customers, rooms)
        for row, each in enumerate(listed(said, "Reservations"), 1)
        if isinstance(each, Mapping)
    )


def _reservation(
    said: Any,
    row: int,
    companions: list[Any],
    customers: Mapping[str | None, Any],
    rooms: Mapping[str | None, str | None],
) -> Reservation:
    identity = string(said, "Id")
    owner = string(said, "AccountId") if string(said, "AccountType") in (None, "Customer") else None
    party = [owner, *sorted(
        string(each, "CustomerId") or "" for each in companions if string(each, "ReservationId") == identity
    )]  # fmt: skip
    room = rooms.get(string(said, "AssignedResourceId"))
    return Reservation(
        system=HotelSystem.MEWS,
        id=identity or "",
        row=row,
        place=f"Reservations[{row - 1}]",
        status=_STATUSES.get(string(said, "State") or "", Status.BOOKED),
        arrival=utc(value(said, "ActualStartUtc")) or utc(value(said, "ScheduledStartUtc"))
        or utc(value(said, "StartUtc")),
        departure=utc(value(said, "ScheduledEndUtc")) or utc(value(said, "EndUtc")),
        left_at=utc(value(said, "ActualEndUtc")),
        reason=_REASONS.get(string(said, "Purpose") or "", Reason.TOURISM),
        members=[
            _member(customers[each], f"Customers[Id of place {place}]", room)
            for place, each in enumerate(dict.fromkeys(party), 1)
            if each in customers
        ],
        count=sum(whole(each, "Count") for each in listed(said, "PersonCounts")),
    )  # fmt: skip


def _member(said: Any, place: str, room: str | None) -> Member:
    kind, number = next(
        ((kind, found) for name, kind in _DOCUMENTS if (found := string(said, name, "Number"))), (None, None)
    )
    return Member(
        place=place,
        full_name=full_name(string(said, "LastName"), string(said, "FirstName")),
        birth_date=string(said, "BirthDate"),
        gender=string(said, "Sex"),
        nationality=string(said, "NationalityCode"),
        phone=string(said, "Phone"),
        document_type=kind,
        document_number=number,
        room=room,
    )


connector = Connector(name="pms_mews", suffixes=(), media_types=(), read=read)
