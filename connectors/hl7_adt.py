"""HL7 v2 ADT messages of a hospital (bản tin nhập viện, ra viện): an admission declares a stay, a discharge ends it.

A01 becomes `declare`, A03 `check_out`. Events that change no overnight stay (A04 outpatient registration, pending and
cancelled pending events, tracking, leave of absence, person data) and out-patients in A01 and A03 (PV1-2 `O`, `P`, `R`)
yield nothing. Every other event is `Unreadable` with `unsupported_event`: its sender learns that it was not done.

| field of the declaration | source |
|---|---|
| `source_ref` | PV1-19 visit number, else PV1-50, else PID-18 account, else medical record (PID-3 type MR) `@` PV1-44 |
| document | PID-3 by its type: NI, NNVNM, CZ, CCCD → 1 (12 digits) or 2 (9 digits), CC 8, PPN 4, DL 3, HC 6, BCT 5 |
| full name | PID-5, family name first as in Viet Nam: family, middle, given |
| birth date, gender | PID-7 with the precision that is sent; PID-8 if M or F |
| residence, telephone | PID-11 (type P → 1 thường trú, C → 2 tạm trú), PID-13 if it holds a telephone number |
| nationality | PID-26, else PID-28; VNM with a personal number or an identity card |
| arrival, departure | PV1-44, else EVN-6, else EVN-2; PV2-9 if sent; PV1-45, else EVN-6, else EVN-2 |
| room | PV1-3: department, room and bed joined by `-` |
| reason | 18 (Chữa bệnh) |

Nothing else is looked at: diagnoses, allergies and relatives never leave the message. Times without an offset are
+07:00; a day alone is 00:00 for an admission, 12:00 for a departure. The charset is that of MSH-18: UTF-8 if absent,
8859/1 and Windows-1258 if named; bytes that do not fit refuse the message. The parser comes from the package `hl7`, its
unescaping does not: that one writes what it cannot unescape, a patient's data, to the log.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from typing import Any

import hl7
from hl7.exceptions import HL7Exception

from connectors.cells import NOON, VIETNAM, Cell, CellError, Row, nationality, room_of, text
from schemas.act import Act, ActKind, Connector, Unreadable
from schemas.codes import PROVINCES, DocumentType, Reason
from schemas.violations import violation

TAKEN = "ADT^A01, ADT^A03"
CHARSETS: Mapping[str, str] = {
    "": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UTF-8": "utf-8",
    "UNICODE": "utf-8",
    "ASCII": "utf-8",
    "8859/1": "latin-1",
    "WINDOWS-1258": "cp1258",
    "CP1258": "cp1258",
}
_NO_STAY = re.compile(r"A(?:04|05|09|10|14|15|16|19|20|21|22|25|26|27|28|29|31|32|33|38|52|53|54|55|60|61|62)")
"""Events after which nobody stays overnight who did not before, and nobody has left."""
_NO_STAY_CLASSES = frozenset("OPR")  # PV1-2: outpatient, pre-admission, recurring
_PARSER_FAULTS = (HL7Exception, AssertionError, AttributeError, LookupError, TypeError, ValueError)

_TIMESTAMP = re.compile(
    r"(\d{4})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:(\d{2})(?:\.\d{1,4})?)?)?)?)?)?([+-]\d{4})?", re.ASCII
)
_YEARS = range(1880, 2200)
_TELEPHONE = re.compile(r"\+?\d(?:[ .-]?\d){5,14}", re.ASCII)
_PERSONAL_NUMBER = re.compile(r"\d{12}", re.ASCII)
_CARD_NUMBER = re.compile(r"\d{9}", re.ASCII)


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield what the messages of a file say, in order (`schemas.act.Connector`); `row` is the number of the message.

    Messages are framed as over MLLP, or follow each other, each beginning with a line MSH; batch headers are skipped.
    """
    empty = True
    for number, message in enumerate(_messages(document), 1):
        result = Unreadable(number, (violation("not_hl7"),)) if message is None else read_message(message, number)
        if result is not None:
            empty = False
            yield result
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


def _messages(document: bytes) -> Iterator[bytes | None]:
    """The messages of a file, unframed; None for a frame without its end."""
    if b"\x0b" in document:
        before, *frames = document.split(b"\x0b")
        if before.strip():
            yield before
        for frame in frames:
            message, end, _ = frame.partition(b"\x1c")
            yield message if end else None
        return
    lines: list[bytes] = []
    for line in document.replace(b"\n", b"\r").split(b"\r"):
        if line.startswith(b"MSH") and lines:
            yield b"\r".join(lines)
            lines = []
        if line.strip() and not line.startswith((b"FHS", b"BHS", b"BTS", b"FTS")):
            lines.append(line)
    if lines:
        yield b"\r".join(lines)


def read_message(message: bytes, row: int = 1) -> Act | Unreadable | None:
    """What one message says, without its frame; None for an event that no declaration follows from. Never raises."""
    try:
        parsed = _parse(message)
    except CellError as error:
        place = "MSH-18" if error.code == "undecodable" else "MSH"
        return Unreadable(row, (violation(error.code, "", place, **error.limits),))
    event = _at(parsed, "MSH", 9, 0, 1) or _at(parsed, "EVN", 1) or ""
    if _at(parsed, "MSH", 9) != "ADT" or not (event in {"A01", "A03"} or _NO_STAY.fullmatch(event)):
        return Unreadable(row, (violation("unsupported_event", "", "MSH-9", expected=TAKEN),))
    if _NO_STAY.fullmatch(event) or _at(parsed, "PV1", 2) in _NO_STAY_CLASSES:
        return None
    missing = [each for each in ("PID", "PV1") if _segment(parsed, each) is None]
    if missing:
        return Unreadable(row, tuple(violation("missing_segment", "", each, expected=each) for each in missing))
    return _admission(parsed, Row(row)) if event == "A01" else _discharge(parsed, Row(row))


def _admission(message: hl7.Message, row: Row) -> Act | Unreadable:
    ref = _source_ref(message, row)
    _guest(message, row)
    place, sent = _first(message, ("PV1", 44), ("EVN", 6), ("EVN", 2))
    row.read("/arrived_at", place, sent, lambda cell: _instant(cell, time(0)), required=True)
    row.read("/planned_departure_at", "PV2-9", _at(message, "PV2", 9), lambda cell: _instant(cell, NOON))
    row.read("/room", "PV1-3", room_of(*(_at(message, "PV1", 3, 0, part) for part in range(3))), text)
    row.put("/reason", int(Reason.MEDICAL_TREATMENT))
    return row.result(ActKind.DECLARE, ref)


def _discharge(message: hl7.Message, row: Row) -> Act | Unreadable:
    ref = _source_ref(message, row)
    if ref is None:
        row.refuse("required", "/source_ref", "PV1-19")  # without it nobody knows who has left
    place, sent = _first(message, ("PV1", 45), ("EVN", 6), ("EVN", 2))
    row.read("/departed_at", place, sent, lambda cell: _instant(cell, NOON), required=True)
    return row.result(ActKind.CHECK_OUT, ref)


def _source_ref(message: hl7.Message, row: Row) -> str | None:
    place, ref = _first(message, ("PV1", 19), ("PV1", 50), ("PID", 18))
    if ref is None:
        admitted = _at(message, "PV1", 44)
        records = [number for number, kind in _identifiers(message) if kind == "MR"]
        place, ref = "PID-3", f"{records[0]}@{admitted}" if records and admitted else None
    row.origin["/source_ref"] = place
    return ref


def _guest(message: hl7.Message, row: Row) -> None:
    row.read("/guest/full_name", "PID-5", _name(message), text, required=True)
    row.read("/guest/birth_date", "PID-7", _at(message, "PID", 7), _birth_date, required=True)
    row.read("/guest/gender", "PID-8", _at(message, "PID", 8), lambda cell: cell if cell in {"M", "F"} else None)
    kind, number, name = _document(message)
    row.read("/guest/document/number", "PID-3", number, text, required=True)
    row.origin |= {"/guest/document": "PID-3", "/guest/document/type": "PID-3"}
    if number:
        row.put("/guest/document/type", kind)
    if name:
        row.put("/guest/document/name", name)
    place, sent = _first(message, ("PID", 26), ("PID", 28))
    if sent is None and kind in {DocumentType.CCCD, DocumentType.CMND, DocumentType.CAN_CUOC}:
        sent = "VNM"
    row.read("/guest/nationality", place, sent, _nationality, required=True)
    telephone = _TELEPHONE.search(_at(message, "PID", 13) or _at(message, "PID", 13, 0, 11) or "")
    row.read("/guest/phone", "PID-13", telephone[0] if telephone else None, text)
    _residence(message, row)


def _name(message: hl7.Message) -> str:
    """Family, middle, given: of the legal name if several are sent."""
    names = range(_repetitions(message, "PID", 5))
    legal = next((each for each in names if _at(message, "PID", 5, each, 6) == "L"), 0)
    return " ".join(filter(None, (_at(message, "PID", 5, legal, part) for part in (0, 2, 1))))


_CARDS = frozenset({"NI", "NN", "NNVN", "NNVNM", "CZ", "CCCD", "CMND", "CC"})
_OTHER_DOCUMENTS = {
    "PPN": DocumentType.PASSPORT,
    "DL": DocumentType.DRIVING_LICENCE,
    "HC": DocumentType.HEALTH_INSURANCE,
    "BHYT": DocumentType.HEALTH_INSURANCE,
    "BCT": DocumentType.BIRTH_CERTIFICATE,
}


def _document(message: hl7.Message) -> tuple[int, str | None, str | None]:
    """The best document of PID-3 as (type, number, name): personal number, passport, old card, then any other."""
    found = [_ranked(number, kind) for number, kind in _identifiers(message)]
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


def _identifiers(message: hl7.Message) -> list[tuple[str, str]]:
    """(number, type code in capitals) of each repetition of PID-3 that has both."""
    pairs = [
        (_at(message, "PID", 3, each, 0), _at(message, "PID", 3, each, 4))
        for each in range(_repetitions(message, "PID", 3))
    ]
    return [(number.replace(" ", ""), kind.upper()) for number, kind in pairs if number and kind]


def _residence(message: hl7.Message, row: Row) -> None:
    addresses = range(_repetitions(message, "PID", 11))
    permanent = next((each for each in addresses if _at(message, "PID", 11, each, 6) == "P"), 0)
    street, other, city, state = (_at(message, "PID", 11, permanent, part) for part in range(4))
    kind = {"P": 1, "C": 2}.get(_at(message, "PID", 11, permanent, 6) or "")
    province = state if state in PROVINCES else None
    address = ", ".join(filter(None, (street, other, city, None if province else state)))
    if not address and not province:
        return
    row.origin |= {f"/guest/residence{each}": "PID-11" for each in ("", "/kind", "/province", "/address")}
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


def _instant(cell: Cell, if_no_time: time) -> str | None:
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


# -- the message -------------------------------------------------------------------------------------------------------


def _parse(message: bytes) -> hl7.Message:
    """Decode by MSH-18 and parse. Raises CellError `not_hl7` or `undecodable`."""
    lines = [line for line in message.replace(b"\n", b"\r").split(b"\r") if line.strip()]
    header = lines[0] if lines else b""
    separators = header[3:8]
    if not header.startswith(b"MSH") or len(set(separators)) != 5 or not _SEPARATORS.fullmatch(separators):
        raise CellError("not_hl7")
    fields = header.split(separators[:1])
    named = fields[17].split(separators[2:3])[0].strip().upper() if len(fields) > 17 else b""
    charset = CHARSETS.get(named.decode("ascii", "replace"))
    try:
        if charset is None:
            raise CellError("undecodable", expected=", ".join(filter(None, CHARSETS)))
        written = b"\r".join(lines).decode(charset)
        return hl7.parse(written)
    except UnicodeDecodeError:
        raise CellError("undecodable", expected=charset) from None
    except _PARSER_FAULTS:
        raise CellError("not_hl7") from None


_SEPARATORS = re.compile(rb"[!-/:-@\[-`{-~]{5}")


def _segment(message: hl7.Message, name: str) -> Any:
    return next((segment for segment in message if str(segment[0]) == name), None)


def _repetitions(message: hl7.Message, segment: str, field: int) -> int:
    held = _segment(message, segment)
    return len(held[field]) if held is not None and field < len(held) else 0


def _at(message: hl7.Message, segment: str, field: int, repetition: int = 0, component: int = 0) -> str | None:
    """The text at `segment`-`field`, repetitions and components from 0; None if absent, empty or the null `""`."""
    node = _segment(message, segment)
    for index in (field, repetition, component, 0):
        if isinstance(node, list):
            node = node[index] if index < len(node) else None
        elif index:
            return None
    if not isinstance(node, str) or node == '""':
        return None
    return " ".join(unicodedata.normalize("NFC", _unescaped(node, message)).split()) or None


def _unescaped(value: str, message: hl7.Message) -> str:
    """HL7 v2.5.1, 2.7: separators come back; highlighting, line breaks and bytes of other charsets become a space."""
    escape = message.esc
    if escape not in value:
        return value
    _, field, repetition, component, subcomponent = message.separators
    meant = {"F": field, "R": repetition, "S": component, "T": subcomponent, "E": escape}
    return re.sub(
        f"{re.escape(escape)}([^{re.escape(escape)}]*){re.escape(escape)}", lambda m: meant.get(m[1], " "), value
    )


def _first(message: hl7.Message, *places: tuple[str, int]) -> tuple[str, str | None]:
    """The first place that holds something, and what it holds; the first place if none does."""
    for segment, field in places:
        held = _at(message, segment, field)
        if held is not None:
            return f"{segment}-{field}", held
    return f"{places[0][0]}-{places[0][1]}", None


connector = Connector(
    name="hl7_adt", suffixes=(".hl7",), media_types=("application/hl7-v2", "x-application/hl7-v2+er7"), read=read
)
