"""The people of an HL7 v2 message, patients and relatives: identity, documents, residence, and times.

Which field is which stands in `connectors.hl7_adt`. A value that cannot be taken is refused with its place; what is
unknown and not needed is left out.
"""

from __future__ import annotations

import re
from datetime import date, datetime, time
from typing import NamedTuple

from connectors.cells import VIETNAM, Cell, CellError, Row, nationality, text
from connectors.hl7_text import Part
from schemas.codes import PROVINCES, DocumentType

_TIMESTAMP = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.\d{1,4})?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
_YEARS = range(1880, 2200)
_TELEPHONE = re.compile(r"\+?\d(?:[ .-]?\d){5,14}", re.ASCII)
_PERSONAL_NUMBER = re.compile(r"\d{12}", re.ASCII)
_CARD_NUMBER = re.compile(r"\d{9}", re.ASCII)


class Fields(NamedTuple):
    """Where a segment has what there is to know of a person."""

    name: int
    birth_date: int
    gender: int
    identifiers: int
    nationality: tuple[int, int]
    telephone: int
    address: int


PATIENT = Fields(5, 7, 8, 3, (26, 28), 13, 11)
RELATIVE = Fields(2, 16, 15, 33, (19, 27), 5, 4)


def read_guest(part: Part, row: Row, fields: Fields) -> None:
    row.read("/guest/full_name", part.place(fields.name), _name(part, fields.name), text)
    born = None if part.name == "PID" and part.at(32) == "UD" else part.at(fields.birth_date)
    row.read("/guest/birth_date", part.place(fields.birth_date), born, _birth_date)
    gender = part.at(fields.gender)
    row.read("/guest/gender", part.place(fields.gender), gender, lambda cell: cell if cell in {"M", "F"} else None)
    kind, number, name = _document(part, fields.identifiers)
    place = part.place(fields.identifiers)
    row.origin |= dict.fromkeys(("/guest/document", "/guest/document/type", "/guest/document/number"), place)
    if number:
        row.put("/guest/document/type", kind)
        row.put("/guest/document/number", number)
    if name:
        row.put("/guest/document/name", name)
    first, second = (part.at(field) for field in fields.nationality)
    sent, place = first or second, part.place(fields.nationality[1 if first is None and second else 0])
    if sent is None and kind in {DocumentType.CCCD, DocumentType.CMND, DocumentType.CAN_CUOC}:
        sent = "VNM"
    row.read("/guest/nationality", place, sent, _nationality)
    telephone = _TELEPHONE.search(part.at(fields.telephone) or part.at(fields.telephone, 0, 11) or "")
    row.read("/guest/phone", part.place(fields.telephone), telephone[0] if telephone else None, text)
    _residence(part, fields.address, row)


def _name(part: Part, field: int) -> str:
    """Family, middle, given: of the legal name if several are sent; a pseudonym is no name."""
    names = [each for each in range(part.repetitions(field)) if part.at(field, each, 6) != "S"]
    if not names:
        return ""
    legal = next((each for each in names if part.at(field, each, 6) == "L"), names[0])
    return " ".join(filter(None, (part.at(field, legal, each) for each in (0, 2, 1))))


_CARDS = frozenset({"NI", "NN", "NNVN", "NNVNM", "CZ", "CCCD", "CMND", "CC"})
_OTHER_DOCUMENTS = {
    "PPN": DocumentType.PASSPORT,
    "DL": DocumentType.DRIVING_LICENCE,
    "HC": DocumentType.HEALTH_INSURANCE,
    "BHYT": DocumentType.HEALTH_INSURANCE,
    "BCT": DocumentType.BIRTH_CERTIFICATE,
}


def _document(part: Part, field: int) -> tuple[int, str | None, str | None]:
    """The best of the identifiers as (type, number, name): personal number, passport, old card, then any other."""
    found = [_ranked(number, kind) for number, kind in identifiers_of(part, field)]
    _, best, number = min((each for each in found if each), default=(0, 0, None))
    name = "National identifier" if best == DocumentType.OTHER else None
    return int(best), number, name


def _ranked(number: str, kind: str) -> tuple[int, int, str] | None:
    """(rank, document type, number); a card whose number has neither 12 nor 9 digits comes last, to be told so."""
    if kind in _CARDS and _PERSONAL_NUMBER.fullmatch(number):
        return 0, DocumentType.CAN_CUOC if kind == "CC" else DocumentType.CCCD, number
    if kind in _CARDS:
        return (2, DocumentType.CMND, number) if _CARD_NUMBER.fullmatch(number) else (5, DocumentType.CCCD, number)
    if kind in _OTHER_DOCUMENTS:
        return (1 if kind == "PPN" else 3), _OTHER_DOCUMENTS[kind], number
    return (4, DocumentType.OTHER, number) if kind.startswith("NN") else None


def identifiers_of(part: Part, field: int) -> list[tuple[str, str]]:
    """(number, type code in capitals) of each repetition that has both."""
    pairs = [(part.at(field, each, 0), part.at(field, each, 4)) for each in range(part.repetitions(field))]
    return [(number.replace(" ", ""), kind.upper()) for number, kind in pairs if number and kind]


def _residence(part: Part, field: int, row: Row) -> None:
    permanent = next((each for each in range(part.repetitions(field)) if part.at(field, each, 6) == "P"), 0)
    street, other, city, state = (part.at(field, permanent, each) for each in range(4))
    kind = {"P": 1, "C": 2}.get(part.at(field, permanent, 6) or "")
    province = state if state in PROVINCES else None
    address = ", ".join(filter(None, (street, other, city, None if province else state)))
    if not address and not province:
        return
    row.origin |= {f"/guest/residence{each}": part.place(field) for each in ("", "/kind", "/province", "/address")}
    row.put("/guest/residence", {"kind": kind, "province": province, "address": address or None})


# -- values ------------------------------------------------------------------------------------------------------------


def _nationality(cell: Cell) -> str | None:
    return nationality("VNM" if cell == "VN" else cell)


def _birth_date(cell: Cell) -> str | None:
    if not isinstance(cell, str):
        return None
    match = _TIMESTAMP.fullmatch(cell)
    day = _day(match) if match else None
    if match is None or day is None:
        raise CellError("wrong_date", expected="YYYYMMDD")
    return "-".join(part for part in match.groups()[:3] if part)


def instant(cell: Cell, if_no_time: time) -> str | None:
    if not isinstance(cell, str):
        return None
    match = _TIMESTAMP.fullmatch(cell)
    day = _day(match) if match and match[3] else None
    if match is None or day is None:
        raise CellError("wrong_date", expected="YYYYMMDDHHMM")
    try:
        clock = time(int(match[4]), int(match[5] or 0), int(match[6] or 0)) if match[4] else if_no_time
        zone = datetime.strptime(match[7], "%z").tzinfo if match[7] else VIETNAM
    except ValueError:
        raise CellError("wrong_date", expected="YYYYMMDDHHMM") from None
    return datetime.combine(day, clock, zone).astimezone(VIETNAM).isoformat()


def _day(match: re.Match[str]) -> date | None:
    try:
        day = date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
    except ValueError:
        return None
    return day if day.year in _YEARS else None


def record_number(part: Part, field: int = 3) -> str | None:
    """The medical record number (số hồ sơ bệnh án): of type MR, else the first that has no type."""
    numbers = [(part.at(field, each), part.at(field, each, 4)) for each in range(part.repetitions(field))]
    typed = next((number for number, kind in numbers if number and (kind or "").upper() == "MR"), None)
    found = typed or next((number for number, kind in numbers if number and kind is None), None)
    return found.replace(" ", "") if found else None
