"""Oracle OHIP: business events of OPERA Cloud (thin), and reservations of its Reservation API.

Events are taken one by one, as a list, under `businessEvents`, or as the streaming API gives them
(`{"data": {"newEvent": …}}`): `moduleName` RESERVATION with `primaryKey` (or the member of `detail` that names the
reservation) and `metadata.hotelId` or `hotelId`. A relay sends them here: OHIP itself streams and is polled.

| member of `reservations.reservation[]` | becomes |
|---|---|
| `reservationIdList[]` of type Reservation | name `ohip:<id>:<place>` |
| `reservationStatus` | InHouse: in house; CheckedOut: left; Cancelled, NoShow: cancellation; every other: booked |
| `roomStay.arrivalDate`, `roomStay.departureDate` | arrival, planned departure |
| `roomStay.guestCounts` | the size of the party |
| `reservationGuests[].profileInfo.profile.customer` | guests; the primary one first |
| `roomStay.currentRoomInfo.roomId`, else `roomStay.roomRates[0].roomId` | room |

Everything about payment is dropped on reading.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from connectors.json_documents import all_acts, collected, events_of, loaded, not_json
from connectors.parties import Member, Reservation, Status, full_name, listed, string, value, whole
from schemas.act import Act, Connector, Unreadable
from schemas.codes import DocumentType
from schemas.hotels import Changed, HotelEvents, HotelSystem, NotEvents

_STATUSES = {
    "inhouse": Status.IN_HOUSE,
    "dueout": Status.IN_HOUSE,
    "walkin": Status.IN_HOUSE,
    "checkedin": Status.IN_HOUSE,
    "checkedout": Status.LEFT,
    "cancelled": Status.CANCELLED,
    "canceled": Status.CANCELLED,
    "noshow": Status.CANCELLED,
}
_DOCUMENT_TYPES = {
    "PASSPORT": DocumentType.PASSPORT,
    "DRIVERLICENSE": DocumentType.DRIVING_LICENCE,
    "DRIVERSLICENSE": DocumentType.DRIVING_LICENCE,
    "NATIONALID": DocumentType.CCCD,
}
_KEYS = frozenset({"RESVNAMEID", "RESERVATIONID", "RESVID"})


def events(document: bytes) -> HotelEvents:
    """The reservations that a relayed call is about. Raises `NotEvents`."""
    call = events_of(document)
    told = call if isinstance(call, list) else listed(call, "businessEvents") or [call]
    unwrapped = [value(each, "data", "newEvent") or value(each, "newEvent") or each for each in told]
    if not unwrapped or not all(string(each, "moduleName") for each in unwrapped):
        raise NotEvents
    return collected(map(_change, unwrapped))


def _change(event: Any) -> Changed | None:
    if (string(event, "moduleName") or "").upper() != "RESERVATION":
        return None
    reservation_id = string(event, "primaryKey") or string(event, "reservationId") or _key_of_detail(event)
    if reservation_id is None:
        return None
    return Changed(reservation_id, string(event, "hotelId") or string(event, "metadata", "hotelId"))


def _key_of_detail(event: Any) -> str | None:
    for each in listed(event, "detail"):
        name = (string(each, "elementName") or "").upper().replace(" ", "").replace("_", "")
        if name in _KEYS:
            return string(each, "newValue") or string(each, "oldValue")
    return None


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield the acts of every reservation of the document (`schemas.act.Connector`)."""
    try:
        said = loaded(document)
    except ValueError:
        yield not_json()
        return
    found = listed(said, "reservations", "reservation") or listed(said, "reservations", "reservationInfo")
    yield from all_acts(
        _reservation(each, row) for row, each in enumerate(found, 1) if isinstance(each, Mapping)
    )  # fmt: skip


def _reservation(said: Any, row: int) -> Reservation:
    ids = listed(said, "reservationIdList")
    identity = next((string(each, "id") for each in ids if string(each, "type") == "Reservation"), None)
    stay = value(said, "roomStay")
    guests = sorted(
        enumerate(each for each in listed(said, "reservationGuests") if isinstance(each, Mapping)),
        key=lambda numbered: value(numbered[1], "primary") is not True,
    )
    room = string(stay, "currentRoomInfo", "roomId") or string(stay, "roomRates", 0, "roomId") or string(stay, "roomId")
    return Reservation(
        system=HotelSystem.OHIP,
        id=identity or string(ids, 0, "id") or "",
        row=row,
        place=f"reservation[{row - 1}]",
        status=_STATUSES.get((string(said, "reservationStatus") or "").replace("-", "").lower(), Status.BOOKED),
        arrival=string(stay, "arrivalDate"),
        departure=string(stay, "departureDate"),
        members=[_member(each, f"reservationGuests[{number}]", room) for number, each in guests],
        count=whole(stay, "guestCounts", "adults") + whole(stay, "guestCounts", "children"),
    )


def _member(said: Any, place: str, room: str | None) -> Member:
    customer = value(said, "profileInfo", "profile", "customer")
    names = listed(customer, "personName")
    name = next((each for each in names if string(each, "nameType") == "Primary"), names[0] if names else None)
    document = next(
        (each for each in listed(customer, "identifications", "identificationInfo")
         if string(each, "identification", "idNumber")), None,
    )  # fmt: skip
    stated = (string(document, "identification", "idType") or "").upper().replace(" ", "").replace("_", "")
    return Member(
        place=place,
        full_name=full_name(string(name, "surname"), string(name, "middleName"), string(name, "givenName")),
        birth_date=string(customer, "birthDate"),
        gender=string(customer, "gender"),
        nationality=string(customer, "nationality") or string(customer, "citizenCountry", "code"),
        phone=string(
            listed(value(said, "profileInfo", "profile"), "telephones", "telephoneInfo"), 0, "telephone", "phoneNumber"
        ),
        document_type=_DOCUMENT_TYPES.get(stated),
        document_number=string(document, "identification", "idNumber"),
        room=room,
    )


connector = Connector(name="pms_ohip", suffixes=(), media_types=(), read=read)
