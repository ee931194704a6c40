"""Identity documents as scanners give them: the QR code of a Vietnamese identity card, and machine readable zones.

`read` takes what a scanner typed and returns the members of a declaration that follow from it, warnings where a person
should look, and violations where something could not be read. A member that a violation names is left out; what is
returned is taken by `schemas.stay.Guest` once the members that documents do not carry are added. Nothing is corrected
by guess: a letter where a digit belongs, or a check digit that disagrees, is told with its place.

The payload appears nowhere else: not in a violation, not in a `repr`, not in an exception, since none is raised.

**QR code** (thẻ CCCD gắn chip, thẻ Căn cước), fields between `|`: personal number, old CMND number (may be empty or
left out altogether), name, birth, sex, permanent address, issue. More fields are ignored, with fewer than six it is
refused. Dates are ddMMyyyy, with or without `/`. The address is kept as written. A card issued before 1 July 2024,
when Law 26/2023/QH15 introduced thẻ Căn cước (type 8), is a thẻ CCCD (type 1); of a later one the code does not tell,
and the type stays open.

**Machine readable zone** (ICAO Doc 9303, parts 3-6): TD1 3 × 30, TD2 2 × 36, TD3 2 × 44 characters, in lines or run
together, in any case and with stray spaces. Passports are type 4, other cards type 9. The back of a Vietnamese card is
a TD1 with the last nine digits of the personal number as its document number, and all twelve in the optional data.
A year of birth is the latest that is not in the future; a personal number states its century. An expiry is the date
nearest to today, and 99-12-31 is how states write that there is none.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any, NamedTuple

import orjson
from pydantic import ValidationError

from connectors.cells import Cell, CellError, Row, birth_date, gender, text
from schemas.codes import DocumentType, FacilityKind, ResidenceKind, canonical_nationality
from schemas.identity import PAYLOAD_CHARACTERS_LIMIT, PayloadKind, Reading
from schemas.personal_number import birth_year, disagreements
from schemas.stay import DeclarationContext, Guest

FIRST_CAN_CUOC_ON = date(2024, 7, 1)
OTHER_CARD_NAME = "Thẻ căn cước nước ngoài / Identity card"

_NOISE = {code: " " if chr(code).isspace() else None for code in (*range(0x20), 0x7F, *range(0x80, 0xA0), 0xFEFF)}
_AIM_IDENTIFIER = re.compile(r"^\][A-Za-z][0-9]")  # a scanner may name the symbology first (ISO/IEC 15424)
_PERSONAL_NUMBER = re.compile(r"\d{12}", re.ASCII)


def read(payload: str, today: date, kind: PayloadKind | None = None) -> Reading:
    """Read what a scanner gave; without a `kind`, a payload with `|` is a QR code. Never raises for its content.

    `today` is the calendar day in Viet Nam: it decides centuries, and whether a document has expired.
    """
    row = Row(1)
    found = kind or _kind_of(payload)
    if len(payload) > PAYLOAD_CHARACTERS_LIMIT:
        row.refuse("too_long", "", "", limit=PAYLOAD_CHARACTERS_LIMIT)
    elif found == "cccd_qr":
        _read_card_qr(payload, today, row)
    elif found == "mrz":
        _read_mrz(payload, today, row)
    else:
        row.refuse("unknown_payload", "", "")
    _take_out_what_a_declaration_refuses(row, today)
    return Reading(found, row.fields, tuple(row.warnings), tuple(row.violations))


def _kind_of(payload: str) -> PayloadKind | None:
    """Fillers mean a zone, unless there are bars enough for a card; a few bars in a zone are misread letters I."""
    if "<" in payload and payload.count("|") < _QR_FIELDS_WANTED - 1:
        return "mrz"
    return "cccd_qr" if "|" in payload else None


def _take_out_what_a_declaration_refuses(row: Row, today: date) -> None:
    """Hold what was read against the rules of a declaration: each member they refuse becomes a violation."""
    guest = row.fields.get("guest", {})
    document = {"type": int(DocumentType.CCCD), **guest.get("document", {})}
    context = DeclarationContext(FacilityKind.GUESTHOUSE, datetime.combine(today, time(12), UTC))
    try:
        Guest.model_validate_json(orjson.dumps({**guest, "document": document}), context=context)
    except ValidationError as error:
        faults = error.errors(include_url=False, include_input=False)
    except TypeError:  # a lone surrogate, which no JSON can carry
        row.fields.clear()
        row.refuse("undecodable", "", "", expected="UTF-8")
        return
    else:
        return
    for fault in faults:
        *parents, member = fault["loc"]
        holder = guest
        for parent in parents:
            holder = holder.get(parent, {})
        if fault["type"] != "missing" and holder.pop(member, None) is not None:
            code, limits = _as_violation(fault)
            pointer = "/guest/" + "/".join(map(str, fault["loc"]))
            row.refuse(code, pointer, row.origin.get(pointer, ""), **limits)


def _as_violation(fault: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    context = fault.get("ctx", {})
    if fault["type"] == "violation":
        return context["code"], context["limits"]
    return "too_long", {"limit": context.get("max_length")}  # the only rule that pydantic itself applies here


# -- the QR code of an identity card -----------------------------------------------------------------------------------

_QR_FIELDS_WANTED = 6
_RUN_TOGETHER = re.compile(r"(\d\d)??(\d\d)(\d{4})", re.ASCII)


def _read_card_qr(payload: str, today: date, row: Row) -> None:
    written = _AIM_IDENTIFIER.sub("", payload.lstrip("\ufeff").lstrip())
    fields = [field.strip() for field in written.translate(_NOISE).split("|")]
    if not _is_card(fields):
        row.refuse("not_card_qr", "", "", limit=_QR_FIELDS_WANTED)
        return
    if _is_utf8_read_as_latin(payload):
        row.refuse("wrong_scanner_charset", "", "")
        return
    # Without the old number all that follows stands one field earlier; where that cannot be seen, the count tells.
    without_old_number = _are_date_and_sex(fields, 2) or len(fields) == _QR_FIELDS_WANTED
    first = 1 if without_old_number and not _are_date_and_sex(fields, 3) else 2

    def take(number: int, pointer: str, reader: Callable[[Cell], Any], *, required: bool = True) -> Any:
        field = fields[number] if number < len(fields) else None
        return row.read(pointer, f"trường {number + 1}", field, reader, required=required)

    number = take(0, "/guest/document/number", _personal_number)
    take(first, "/guest/full_name", text)
    born = take(first + 1, "/guest/birth_date", _qr_date)
    sex = take(first + 2, "/guest/gender", gender)
    row.put("/guest/nationality", "VNM")  # nobody else has such a card
    take(first + 3, "/guest/residence/address", text, required=False)
    _date_of_issue(fields[first + 4 : first + 5], f"trường {first + 5}", today, born, row)
    if number:
        row.warnings += disagreements(number, sex, born, "/guest/document/number", "trường 1")


def _is_card(fields: list[str]) -> bool:
    """Whether these are the fields of an identity card; health insurance cards have bars in their code, too."""
    return len(fields) >= _QR_FIELDS_WANTED and (
        bool(_PERSONAL_NUMBER.fullmatch(fields[0])) or _are_date_and_sex(fields, 2) or _are_date_and_sex(fields, 3)
    )


def _are_date_and_sex(fields: list[str], at: int) -> bool:
    try:
        return _qr_date(fields[at]) is not None and gender(fields[at + 1]) is not None
    except CellError:
        return False


def _personal_number(cell: Cell) -> str:
    if not isinstance(cell, str) or not _PERSONAL_NUMBER.fullmatch(cell):
        raise CellError("wrong_document_number", expected="12 × 0-9")
    return cell


def _qr_date(cell: Cell) -> str | None:
    """ddMMyyyy, or MMyyyy, or yyyy for people whose day of birth is not on record; also with separators."""
    match = _RUN_TOGETHER.fullmatch(cell) if isinstance(cell, str) else None
    return birth_date("/".join(part for part in match.groups() if part) if match else cell)


def _date_of_issue(fields: list[str], place: str, today: date, born: str | None, row: Row) -> None:
    """A card issued before thẻ Căn cước existed is a thẻ CCCD, and what it names is the permanent address."""
    try:
        issued = _qr_date(fields[0]) if fields else None
    except CellError:
        issued = ""
    if issued is not None and not (len(issued) == 10 and (born or "") <= issued <= today.isoformat()):
        row.warn("issue_date_doubtful", "", place)
    elif issued is not None and issued < FIRST_CAN_CUOC_ON.isoformat():
        row.put("/guest/document/type", int(DocumentType.CCCD))
        if "residence" in row.fields["guest"]:
            row.put("/guest/residence/kind", int(ResidenceKind.PERMANENT))
        return
    row.warn("document_type_open", "/guest/document/type", place)


def _is_utf8_read_as_latin(written: str) -> bool:
    """Whether the text is UTF-8 that a scanner sent as if it were another charset: NGUYá»„N."""
    if written.isascii():
        return False
    for charset in ("latin-1", "cp1252"):
        try:
            written.encode(charset).decode("utf-8")
        except UnicodeError:
            continue
        return True
    return False


# -- the layouts of machine readable zones -----------------------------------------------------------------------------


class _Span(NamedTuple):
    """Characters `start` to `end` (excluded) of a line, all counted from 0."""

    line: int
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything stands (ICAO Doc 9303, part 5 for TD1, part 6 for TD2, part 4 for TD3)."""

    lines: int
    width: int
    name: _Span
    number: _Span
    nationality: _Span
    birth: _Span
    sex: _Span
    expiry: _Span
    optional: _Span
    optional_check: _Span | None
    composite: _Span
    composite_of: tuple[_Span, ...]


def _check_after(span: _Span) -> _Span:
    return _Span(span.line, span.end, span.end + 1)


def _two_lines(width: int, optional: _Span, optional_check: _Span | None) -> _Layout:
    """TD2 and TD3: names in the first line, everything else in the second."""
    return _Layout(
        lines=2,
        width=width,
        name=_Span(0, 5, width),
        number=_Span(1, 0, 9),
        nationality=_Span(1, 10, 13),
        birth=_Span(1, 13, 19),
        sex=_Span(1, 20, 21),
        expiry=_Span(1, 21, 27),
        optional=optional,
        optional_check=optional_check,
        composite=_Span(1, width - 1, width),
        composite_of=(_Span(1, 0, 10), _Span(1, 13, 20), _Span(1, 21, width - 1)),
    )


TD1 = _Layout(
    lines=3,
    width=30,
    name=_Span(2, 0, 30),
    number=_Span(0, 5, 14),
    nationality=_Span(1, 15, 18),
    birth=_Span(1, 0, 6),
    sex=_Span(1, 7, 8),
    expiry=_Span(1, 8, 14),
    optional=_Span(0, 15, 30),
    optional_check=None,
    composite=_Span(1, 29, 30),
    composite_of=(_Span(0, 5, 30), _Span(1, 0, 7), _Span(1, 8, 15), _Span(1, 18, 29)),
)
TD2 = _two_lines(36, _Span(1, 28, 35), None)
TD3 = _two_lines(44, _Span(1, 28, 42), _Span(1, 42, 43))
_LAYOUTS = {each.lines * each.width: each for each in (TD1, TD2, TD3)}


@dataclass(frozen=True, slots=True, repr=False)
class _Zone:
    """A zone of nothing but A-Z, 0-9 and the filler `<`."""

    layout: _Layout
    lines: tuple[str, ...]

    def at(self, span: _Span) -> str:
        return self.lines[span.line][span.start : span.end]


def _place(span: _Span) -> str:
    """Where a person looks, counted from 1: "dòng 2, ký tự 14-19"."""
    first, last = span.start + 1, span.end
    return f"dòng {span.line + 1}, ký tự {first}" + (f"-{last}" if last > first else "")


def _single(span: _Span, index: int) -> _Span:
    return _Span(span.line, span.start + index, span.start + index + 1)


# -- check digits ------------------------------------------------------------------------------------------------------

_LOOK_ALIKE = {each: group.replace(each, "") for group in ("0OQD", "1IL", "2Z", "5S", "6G", "8B") for each in group}
_FOREIGN_CHARACTERS_TOLD = 5


def check_digit(characters: str) -> int:
    """The check digit over A-Z, 0-9 and `<` (ICAO Doc 9303-3, 4.9): weights 7, 3, 1; A counts 10, Z 35, `<` 0."""
    return sum(_value(each) * (7, 3, 1)[index % 3] for index, each in enumerate(characters)) % 10


def _value(character: str) -> int:
    return 0 if character == "<" else int(character, 36)


def _agrees(zone: _Zone, row: Row, pointer: str, span: _Span, check: _Span, also: str = "") -> bool:
    """Whether the check digit at `check` is that of the characters at `span` and `also`; a fault is told if not."""
    characters, stated = zone.at(span) + also, zone.at(check)
    if not stated.isdigit():
        row.refuse("mrz_character", pointer, _place(check), expected="0-9")
    elif check_digit(characters) != int(stated):
        row.refuse("mrz_check_digit", pointer, _place(span))
    else:
        return True
    return False


def _tell_look_alikes(zone: _Zone, row: Row, pointer: str, span: _Span, check: _Span, also: str) -> None:
    """Where one character of a number, read as another of its shape, would make the check digit agree."""
    characters, stated = zone.at(span) + also, zone.at(check)
    places = [
        _place(_single(span, index))
        for index, each in enumerate(zone.at(span))
        for other in _LOOK_ALIKE.get(each, "")
        if str(check_digit(characters[:index] + other + characters[index + 1 :])) == stated
    ]
    if places:
        row.refuse("mrz_look_alike", pointer, "; ".join(dict.fromkeys(places)))


def _is_composite_right(zone: _Zone) -> bool:
    covered = "".join(map(zone.at, zone.layout.composite_of))
    return zone.at(zone.layout.composite) == str(check_digit(covered))


# -- a machine readable zone -------------------------------------------------------------------------------------------


def _read_mrz(payload: str, today: date, row: Row) -> None:
    zone = _zone(payload, row)
    if zone is None:
        return
    code = zone.lines[0][0]
    if code not in "PACI":  # V is a visa
        row.refuse("not_identity_document", "", _place(_Span(0, 0, 2)))
        return
    _name(zone, row)
    _nationality(zone, row)
    sex = _sex(zone, row)
    card_of_vietnam = zone.layout is TD1 and zone.lines[0].startswith(("IDVNM", "I<VNM"))
    if card_of_vietnam:
        personal_number = _card_number(zone, row)
        row.warn("document_type_open", "/guest/document/type", _place(_Span(0, 0, 2)))
    else:
        _document_number(zone, row)
        personal_number = _personal_number_of_passport(zone)
        row.put("/guest/document/type", int(DocumentType.PASSPORT if code == "P" else DocumentType.OTHER))
        if code != "P":
            row.put("/guest/document/name", OTHER_CARD_NAME)
    born = _birth(zone, row, today, birth_year(personal_number) if personal_number else None)
    _expiry(zone, row, today)
    _optional_and_composite(zone, row)
    if personal_number:
        pointer = "/guest/document/number" if card_of_vietnam else ""
        row.warnings += disagreements(personal_number, sex, born, pointer, _place(zone.layout.optional))


def _zone(payload: str, row: Row) -> _Zone | None:
    characters = "".join(payload.translate(_NOISE).split())
    layout = _LAYOUTS.get(len(characters))
    if layout is None:
        row.refuse("not_mrz", "", "", expected="3 × 30, 2 × 36, 2 × 44 (A-Z 0-9 <)")
        return None
    wrong = [index for index, each in enumerate(characters) if not (each.isascii() and (each.isalnum() or each == "<"))]
    for index in wrong[:_FOREIGN_CHARACTERS_TOLD]:
        line, column = divmod(index, layout.width)
        row.refuse("mrz_character", "", _place(_Span(line, column, column + 1)), expected="A-Z 0-9 <")
    if wrong:
        return None
    upper = characters.upper()
    return _Zone(layout, tuple(upper[at : at + layout.width] for at in range(0, len(upper), layout.width)))


def _name(zone: _Zone, row: Row) -> None:
    """Primary identifier before the secondary one, as the document writes them; either may be missing (9303-3, 4.6)."""
    span = zone.layout.name
    field = zone.at(span)
    if not _has_only_letters(zone, row, "/guest/full_name", span):
        return
    if row.read("/guest/full_name", _place(span), field.replace("<", " "), text, required=True):
        row.warn("name_to_confirm", "/guest/full_name", _place(span))
    if field[-1] != "<":
        row.warn("name_truncated", "/guest/full_name", _place(_single(span, len(field) - 1)))


def _has_only_letters(zone: _Zone, row: Row, pointer: str, span: _Span) -> bool:
    digits = [index for index, each in enumerate(zone.at(span)) if each.isdigit()]
    for index in digits:
        row.refuse("mrz_character", pointer, _place(_single(span, index)), expected="A-Z <")
    return not digits


def _nationality(zone: _Zone, row: Row) -> None:
    span = zone.layout.nationality
    if _has_only_letters(zone, row, "/guest/nationality", span):
        row.read("/guest/nationality", _place(span), zone.at(span).rstrip("<"), _known_nationality, required=True)


def _known_nationality(cell: Cell) -> str:
    known = canonical_nationality(cell) if isinstance(cell, str) else None
    if known is None:
        raise CellError("unknown_code", table="nationalities")
    return known


def _sex(zone: _Zone, row: Row) -> str | None:
    """M or F; `<` is unspecified, and some states write X for it."""
    stated = zone.at(zone.layout.sex)
    if stated in "MF":
        row.put("/guest/gender", stated)
        return stated
    if stated not in "<X":
        row.refuse("mrz_character", "/guest/gender", _place(zone.layout.sex), expected="M F <")
    return None


# -- numbers -----------------------------------------------------------------------------------------------------------


def _document_number(zone: _Zone, row: Row) -> None:
    """The number; in TD1 and TD2 one of more than nine characters runs on in the optional data (9303-5, 4.2.2)."""
    layout, pointer = zone.layout, "/guest/document/number"
    number, check, rest = zone.at(layout.number), _check_after(layout.number), ""
    if zone.at(check) == "<" and layout.optional_check is None:
        rest = zone.at(layout.optional).partition("<")[0]
    if rest:
        check, rest = _single(layout.optional, len(rest) - 1), rest[:-1]
    if _agrees(zone, row, pointer, layout.number, check, rest):
        row.read(pointer, _place(layout.number), (number + rest).replace("<", ""), text, required=True)
    else:
        _tell_look_alikes(zone, row, pointer, layout.number, check, rest)


def _card_number(zone: _Zone, row: Row) -> str | None:
    """The personal number on the back of a Vietnamese card.

    The composite check digit covers it. Where that fails, it is still proven by the last nine of its digits, which
    stand in line 1 once more with a check digit of their own, together with the check digit that follows it.
    """
    pointer, span = "/guest/document/number", _Span(0, 15, 27)
    number, short, own_check = zone.at(span), zone.layout.number, zone.at(_Span(0, 29, 30))
    if not _PERSONAL_NUMBER.fullmatch(number):
        row.refuse("wrong_document_number", pointer, _place(span), expected="12 × 0-9")
        return None
    if not _agrees(zone, row, pointer, short, _check_after(short)):
        return None
    is_repeated = number[3:] == zone.at(short)
    if not _is_composite_right(zone) and not (is_repeated and own_check == str(check_digit(number))):
        row.refuse("mrz_check_digit", pointer, _place(zone.layout.composite))
        return None
    row.origin[pointer] = _place(span)
    row.put(pointer, number)
    if not is_repeated:
        row.warn("card_number_differs", pointer, _place(short))
    return number


def _personal_number_of_passport(zone: _Zone) -> str | None:
    """The personal number that a Vietnamese passport may carry in its optional data, to compare with."""
    stated, rest = zone.at(zone.layout.optional)[:12], zone.at(zone.layout.optional)[12:]
    if zone.lines[0][2:5] != "VNM" or rest.strip("<") or not _PERSONAL_NUMBER.fullmatch(stated):
        return None
    return stated if _is_composite_right(zone) else None


_NOT_COVERED = frozenset({"/guest/full_name", "/guest/nationality", "/guest/gender"})


def _optional_and_composite(zone: _Zone, row: Row) -> None:
    """The check digits that cover no member of a declaration by themselves; the composite one only if it is news."""
    layout = zone.layout
    if layout.optional_check is not None:
        empty = not zone.at(layout.optional).strip("<")
        if not (empty and zone.at(layout.optional_check) == "<"):
            _agrees(zone, row, "", layout.optional, layout.optional_check)
    covered = {each.pointer for each in row.violations if each.code.startswith("mrz_")} - _NOT_COVERED
    if not covered and not _is_composite_right(zone):
        row.refuse("mrz_check_digit", "", _place(layout.composite))


# -- dates -------------------------------------------------------------------------------------------------------------

_DATE = re.compile(r"(\d\d)(\d\d|<<)(\d\d|<<)", re.ASCII)


def _checked_date(zone: _Zone, row: Row, pointer: str, span: _Span) -> re.Match[str] | None:
    """Year, month and day at `span`, if it holds only digits and fillers and its check digit agrees."""
    letters = [index for index, each in enumerate(zone.at(span)) if each.isalpha()]
    for index in letters:
        row.refuse("mrz_character", pointer, _place(_single(span, index)), expected="0-9 <")
    if letters or not _agrees(zone, row, pointer, span, _check_after(span)):
        return None
    match = _DATE.fullmatch(zone.at(span))
    if match is None and zone.at(span).strip("<"):
        row.refuse("wrong_date", pointer, _place(span), expected="YYMMDD")
    return match


def _birth(zone: _Zone, row: Row, today: date, stated_year: int | None) -> str | None:
    """The date of birth with the precision that is stated: unknown parts are fillers (9303-3, 4.8) or zeros."""
    span, pointer, faults = zone.layout.birth, "/guest/birth_date", len(row.violations)
    match = _checked_date(zone, row, pointer, span)
    if match is None:
        if len(row.violations) == faults:
            row.refuse("required", pointer, _place(span))
        return None
    month, day = (0 if part == "<<" else int(part) for part in match.groups()[1:])
    year = next(_years_of_birth(int(match[1]), month, day, today, stated_year), None)
    if year is None or (day and not month):
        row.refuse("wrong_date", pointer, _place(span), expected="YYMMDD")
        return None
    known = [f"{year:04d}", *(f"{part:02d}" for part in (month, day) if part)]
    row.put(pointer, "-".join(known))
    return "-".join(known)


def _years_of_birth(two_digits: int, month: int, day: int, today: date, stated_year: int | None) -> Iterator[int]:
    """Years that end so, in which the day exists and is not in the future: the stated one, then the latest."""
    century = today.year - today.year % 100
    for year in (stated_year, century + two_digits, century - 100 + two_digits):
        if year is None or year % 100 != two_digits:
            continue
        born = _day(year, month or 1, day or 1)
        if born is not None and born <= today:
            yield year


def _expiry(zone: _Zone, row: Row, today: date) -> None:
    span = zone.layout.expiry
    match = _checked_date(zone, row, "", span)
    if match is None or zone.at(span) == "991231" or "<" in match[0]:
        return
    century = today.year - today.year % 100
    nearest = min(
        (century + shift + int(match[1]) for shift in (100, 0, -100)), key=lambda year: abs(year - today.year)
    )
    expires_on = _day(nearest, int(match[2]), int(match[3]))
    if expires_on is None:
        row.refuse("wrong_date", "", _place(span), expected="YYMMDD")
    elif expires_on < today:
        row.warn("document_expired", "", _place(span))


def _day(year: int, month: int, day: int) -> date | None:
    try:
        return date(year, month, day)
    except ValueError:
        return None
