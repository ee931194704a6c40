"""OpenTravel reservations: `OTA_HotelResNotifRQ`, `OTA_HotelResModifyNotifRQ`, `OTA_CancelRQ`, in SOAP or without.

| of a reservation | becomes |
|---|---|
| `UniqueID` of type 14, else `HotelReservationID` of type 14, else the first | name `ota:<id>:<place>` |
| `@ResStatus`, else the request's | Cancel, Cancelled, Ignore, No-show: cancelled; In-house; Checked-Out: left |
| `TimeSpan` of a `RoomStay`, else of `ResGlobalInfo` | arrival, planned departure |
| `GuestCounts` | the size of the party; those without a name are expected all the same |
| `ResGuest`, or the profiles in it: name, birth date, gender, telephone, citizenship, document | a guest |
| `ResGuestRPHs` of a `RoomStay`, `RoomType/@RoomID` | who sleeps in which room |

Everything about payment is dropped while the document is parsed, before any of it is kept: the elements of
`connectors.card_numbers`, and whatever else is not in the table above. A value that holds a card number is dropped with
a warning. A booking made by a firm or an agency has their profile, which is no guest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import date, timedelta
from xml.parsers import expat

from connectors.card_numbers import is_payment, without_card_numbers
from connectors.hardened_xml import NotTaken, decoded, parse
from connectors.parties import Member, Reservation, Status, acts, full_name
from schemas.act import Act, Connector, Unreadable
from schemas.codes import DocumentType
from schemas.hotels import Envelope
from schemas.violations import violation

REQUESTS = frozenset({"OTA_HotelResNotifRQ", "OTA_HotelResModifyNotifRQ", "OTA_CancelRQ"})
SYSTEM = "ota"
DEPTH_LIMIT = 32
VALUE_CHARACTERS_LIMIT = 500
RESERVATIONS_LIMIT = 200
"""With their parties they stay below the results a document may have."""
_GUESTS_LIMIT = 200
_WRAPPING = frozenset({"Envelope", "Body"})
_STATUSES = {
    **dict.fromkeys(("", "commit", "book", "booked", "reserve", "reserved", "modify", "modified", "confirmed",
                     "initiate", "hold"), Status.BOOKED),
    **dict.fromkeys(("cancel", "cancelled", "canceled", "ignore", "noshow"), Status.CANCELLED),
    **dict.fromkeys(("inhouse", "checkedin"), Status.IN_HOUSE),
    **dict.fromkeys(("checkedout",), Status.LEFT),
}  # fmt: skip
_DOCUMENT_TYPES = {
    "2": DocumentType.PASSPORT,
    "4": DocumentType.DRIVING_LICENCE,
    "5": DocumentType.CCCD,
}
_NOT_A_PERSON = frozenset({"3", "4", "5"})
"""Profile types: company, travel agent, wholesaler."""
_TEXTS = frozenset({"GivenName", "MiddleName", "SurnamePrefix", "Surname", "ResGuestRPHs"})
_NIGHTS = re.compile(r"P(?:(\d{1,3})[ND]|(\d{1,2})W)", re.ASCII)
_ECHO = re.compile(r"[\x20-\x7e]{1,128}")
_VERSION = re.compile(r"[0-9.]{1,10}")


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield an act for every guest of every reservation, in order (`schemas.act.Connector`); two for one who has left.

    `row` is the reservation's place in the document from 1, a place is "HotelReservation[1]/ResGuest[2]".
    """
    try:
        parser = expat.ParserCreate()
        collector = _Collector(parser)
        parse(decoded(document), parser, collector, depth_limit=DEPTH_LIMIT)
    except NotTaken as refusal:
        yield Unreadable(0, (violation(refusal.code, "", refusal.place, **refusal.limits),))
        return
    if not collector.reservations:
        yield Unreadable(0, (violation("no_rows"),))
    for row, found in enumerate(collector.reservations, 1):
        place = f"HotelReservation[{row}]"
        status = _STATUSES.get(re.sub(r"[\s_-]", "", found.status or collector.status).lower())
        if status is None:
            allowed = "Commit, Modify, Cancel, Reserved, In-house, Checked-Out, No-show"
            yield Unreadable(row, (violation("out_of_range", "", f"{place}/@ResStatus", expected=allowed),))
            continue
        yield from acts(_reservation(found, row, place, status))


def envelope(document: bytes) -> Envelope:
    """What the request says about itself; for a document that is none, an empty envelope."""
    parser = expat.ParserCreate()
    head = _Head()
    with suppress(NotTaken, _HeadRead):
        parse(decoded(document), parser, head, depth_limit=DEPTH_LIMIT)
    token, version = without_card_numbers(head.attributes.get("EchoToken", "")), head.attributes.get("Version", "")
    return Envelope(token if _ECHO.fullmatch(token) else None, version if _VERSION.fullmatch(version) else "1.0")


# -- the document ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, repr=False)
class _Guest:
    rph: str = ""
    is_person: bool = True
    attributes: dict[str, str] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True, repr=False)
class _Room:
    start: str = ""
    end: str = ""
    nights: str = ""
    number: str = ""
    rphs: str = ""
    count: int = 0


@dataclass(slots=True, repr=False)
class _Found:
    """A reservation as it stands there. `whole` is what `ResGlobalInfo` says of all rooms."""

    status: str
    ids: dict[str, str] = field(default_factory=dict)
    rooms: list[_Room] = field(default_factory=list)
    guests: list[_Guest] = field(default_factory=list)
    whole: _Room = field(default_factory=_Room)


class _Collector:
    """What expat calls. `_dropped` counts the open elements of a branch about payment: nothing in it is looked at."""

    def __init__(self, parser: expat.XMLParserType) -> None:
        self._parser = parser
        self._path: list[str] = []
        self._dropped = 0
        self._text: str | None = None
        self.status = ""
        self.reservations: list[_Found] = []

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition(":")[2]
        if self._dropped or is_payment(local) or local in ("Comments", "SpecialRequests", "Header"):
            self._dropped += 1
            return
        if not any(step in REQUESTS for step in self._path):
            self._open_request(local, attributes)
        elif local == "HotelReservation":
            self._begin(attributes.get("ResStatus", ""))
        elif self.reservations:
            self._take(self.reservations[-1], local, {key: text[:VALUE_CHARACTERS_LIMIT] for key, text in
                                                      attributes.items() if not is_payment(key)})  # fmt: skip
        self._path.append(local)
        self._text = "" if local in _TEXTS else None

    def end(self, name: str) -> None:
        del name
        if self._dropped:
            self._dropped -= 1
            return
        local = self._path.pop()
        if self._text is not None and self.reservations:
            self._take_text(self.reservations[-1], local, self._text.strip())
        self._text = None

    def characters(self, text: str) -> None:
        if self._text is not None and not self._dropped:
            self._text = (self._text + text)[:VALUE_CHARACTERS_LIMIT]

    def _open_request(self, local: str, attributes: Mapping[str, str]) -> None:
        if local in REQUESTS:
            self.status = "cancel" if local == "OTA_CancelRQ" else attributes.get("ResStatus", "")
            if local == "OTA_CancelRQ":
                self._begin("cancel")
        elif local not in _WRAPPING:
            raise NotTaken("missing_element", expected=", ".join(sorted(REQUESTS)))

    def _begin(self, status: str) -> None:
        if len(self.reservations) == RESERVATIONS_LIMIT:
            raise NotTaken("too_many_rows", limit=RESERVATIONS_LIMIT)
        self.reservations.append(_Found(status))

    def _take(self, found: _Found, local: str, given: Mapping[str, str]) -> None:
        inside_guest, inside_room = "ResGuest" in self._path, "RoomStay" in self._path
        room = found.rooms[-1] if inside_room and found.rooms else found.whole
        match local:
            case "UniqueID" if not inside_guest and not inside_room and "ResGlobalInfo" not in self._path:
                found.ids.setdefault("14" if given.get("Type") == "14" else "unique", given.get("ID", ""))
            case "HotelReservationID":
                kind = "global14" if given.get("ResID_Type") == "14" else "global"
                found.ids.setdefault(kind, given.get("ResID_Value", ""))
            case "RoomStay":
                found.rooms.append(_Room())
            case "TimeSpan" if not inside_guest:
                room.start, room.end = given.get("Start", ""), given.get("End", "")
                room.nights = given.get("Duration", "")
            case "GuestCount" if not inside_guest:
                count = given.get("Count", "1")
                room.count += int(count) if count.isascii() and count.isdigit() and len(count) < 4 else 0
            case "RoomType" if inside_room:
                room.number = given.get("RoomID", "")
            case "ResGuestRPH":
                room.rphs += f" {given.get('RPH', '')}"
            case "ResGuest":
                if len(found.guests) == _GUESTS_LIMIT:
                    raise NotTaken("too_many_rows", f"dòng {self._parser.CurrentLineNumber}", limit=_GUESTS_LIMIT)
                found.guests.append(_Guest(given.get("ResGuestRPH", "")))
            case _ if inside_guest and found.guests:
                _take_of_guest(found.guests[-1], local, given)

    def _take_text(self, found: _Found, local: str, text: str) -> None:
        if local == "ResGuestRPHs":
            room = found.rooms[-1] if "RoomStay" in self._path and found.rooms else found.whole
            room.rphs += f" {text}"
        elif found.guests and "ResGuest" in self._path and found.guests[-1].is_person:
            found.guests[-1].names.setdefault(local, text)


def _take_of_guest(guest: _Guest, local: str, given: Mapping[str, str]) -> None:
    known = guest.attributes
    match local:
        case "Profile" if given.get("ProfileType") in _NOT_A_PERSON:
            guest.is_person = False
        case "Profile":
            guest.is_person = True
        case _ if not guest.is_person:
            pass
        case "Customer":
            for name in ("BirthDate", "Gender"):
                known.setdefault(name, given.get(name, ""))
        case "Telephone":
            known.setdefault("phone", given.get("PhoneNumber", ""))
        case "CitizenCountryName":
            known.setdefault("nationality", given.get("Code", ""))
        case "Document" if "number" not in known and given.get("DocType", "") in ("", *_DOCUMENT_TYPES):
            known |= {"number": given.get("DocID", ""), "type": given.get("DocType", "")}
            known.setdefault("holder", given.get("DocHolderNationality", ""))


# -- a reservation -----------------------------------------------------------------------------------------------------


def _reservation(found: _Found, row: int, place: str, status: Status) -> Reservation:
    ids = (found.ids.get(kind, "").strip() for kind in ("14", "global14", "unique", "global"))
    rooms = found.rooms or [found.whole]
    members = _members(found, rooms, place)
    first = next((room for room in (*rooms, found.whole) if room.start), found.whole)
    return Reservation(
        system=SYSTEM,
        id=next(filter(None, ids), ""),
        row=row,
        place=place,
        status=status,
        arrival=first.start or None,
        departure=first.end or _end(first.start, first.nights),
        members=members,
        count=max(sum(room.count for room in rooms) or found.whole.count, len(members)),
    )


def _members(found: _Found, rooms: list[_Room], place: str) -> list[Member]:
    members = []
    for number, guest in enumerate(found.guests, 1):
        known, names = guest.attributes, guest.names
        room = next((each for each in rooms if guest.rph and guest.rph in each.rphs.split()), None)
        if room is None and len(rooms) == 1:
            room = rooms[0]
        members.append(
            Member(
                place=f"{place}/ResGuest[{number}]",
                full_name=full_name(
                    names.get("SurnamePrefix"), names.get("Surname"), names.get("MiddleName"), names.get("GivenName")
                ),
                birth_date=known.get("BirthDate"),
                gender=known.get("Gender"),
                nationality=known.get("nationality") or known.get("holder"),
                phone=known.get("phone"),
                document_type=_DOCUMENT_TYPES.get(known.get("type", "")),
                document_number=known.get("number"),
                room=room.number if room else None,
            )
        )
    return members


def _end(start: str, nights: str) -> str | None:
    """The day of departure from that of arrival and a number of nights (`P3N`, `P3D`, `P1W`)."""
    match = _NIGHTS.fullmatch(nights)
    if not match:
        return None
    try:
        return (
            date.fromisoformat(start[:10]) + timedelta(days=int(match[1] or 0) + 7 * int(match[2] or 0))
        ).isoformat()
    except (ValueError, OverflowError):
        return None


class _HeadRead(Exception):
    """Nothing behind the head is wanted."""


class _Head:
    def __init__(self) -> None:
        self.attributes: Mapping[str, str] = {}

    def start(self, name: str, attributes: Mapping[str, str]) -> None:
        local = name.rpartition(":")[2]
        if local in REQUESTS:
            self.attributes = attributes
            raise _HeadRead

    def end(self, name: str) -> None:
        """Of no interest."""

    def characters(self, text: str) -> None:
        """Of no interest."""


connector = Connector(name="pms_ota", suffixes=(), media_types=(), read=read)
