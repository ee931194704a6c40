"""The Ministry's XML file for declaring foreigners (tệp XML khai báo tạm trú): `KHAI_BAO_TAM_TRU/THONG_TIN_KHACH`.

| element of a guest | field of the declaration |
|---|---|
| `so_thu_tu` | nothing: guests are counted as they stand in the file, so that a number used twice hides nobody |
| `ho_ten`, `gioi_tinh` | full name; gender M or F, and none for the X of some passports |
| `ngay_sinh`, `ngay_sinh_dung_den` | birth date, cut to the precision that is true of it: D day, M month, Y year |
| `ma_quoc_tich` | nationality, in ISO 3166-1 or as travel documents and the portal write it (`D`, `GBD`, `RKS`) |
| `so_ho_chieu` | number of the document, which is a passport (type 4) |
| `so_phong` | room |
| `ngay_den`, `ngay_di_du_kien` | arrival and planned departure |
| `ngay_tra_phong` | the guest has left: the declaration is followed by a check-out, under the same row number |
| `thoi_han_tam_tru` | permitted stay until |

The form has no reason for the stay: it is 20 with the words of `NO_REASON`, as by the portal's interface. Dates are
dd/MM/yyyy; where one date of the file can only be MM/dd/yyyy, all that could be swapped are refused. An arrival without
a time is 00:00, a departure 12:00 (`connectors.cells`). Guests without any data, and those marked `[EXAMPLE]`, are
skipped. A guest with the passport and the arrival of an earlier one is refused, naming that one. Elements that the form
does not have are ignored, with a warning, because one that was mistyped would be lost.

The file is read by `connectors.hardened_xml`: a DOCTYPE, and so entities and external files, is refused, and so are
deep nesting and more guests than a document may have.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from xml.parsers import expat

from connectors.cells import (
    DATE_FORM,
    NO_REASON,
    Cell,
    Row,
    arrival,
    birth_date,
    departure,
    gender,
    moment,
    nationality,
    text,
    writes_month_first,
)
from connectors.hardened_xml import NotTaken, decoded, parse
from schemas.act import RESULTS_LIMIT, Act, ActKind, Connector, Unreadable
from schemas.codes import DocumentType, Reason
from schemas.violations import violation

ROOT, GUEST = "KHAI_BAO_TAM_TRU", "THONG_TIN_KHACH"
DEPTH_LIMIT = 16
VALUE_CHARACTERS_LIMIT = 1_000

_ELEMENTS = frozenset(
    {
        "so_thu_tu", "ho_ten", "ngay_sinh", "ngay_sinh_dung_den", "gioi_tinh", "ma_quoc_tich", "so_ho_chieu",
        "so_phong", "ngay_den", "ngay_di_du_kien", "ngay_tra_phong", "thoi_han_tam_tru",
    }
)  # fmt: skip
_DATES = ("ngay_sinh", "ngay_den", "ngay_di_du_kien", "ngay_tra_phong", "thoi_han_tam_tru")
_EXAMPLE = re.compile(r"\[\s*(?:EXAMPLE|VÍ DỤ)\s*\]", re.IGNORECASE)


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield one or two acts, or an unreadable row, for every guest, in order (`schemas.act.Connector`).

    `row` is the place of the guest in the file from 1, a place is "THONG_TIN_KHACH[3]/ngay_den".
    """
    try:
        guests = _parsed(decoded(document))
    except NotTaken as refusal:
        yield Unreadable(0, (violation(refusal.code, "", refusal.place, **refusal.limits),))
        return
    month_first = any(writes_month_first(each.values.get(name, "")) for each in guests for name in _DATES)
    declared: dict[tuple[str, str], int] = {}
    empty = True
    for number, guest in enumerate(guests, 1):
        if guest.is_empty or guest.is_example:
            continue
        empty = False
        if guest.is_unknown:
            yield Unreadable(number, (violation("missing_element", "", f"dòng {guest.line}", expected=GUEST),))
        else:
            yield from _read_guest(number, guest, month_first, declared)
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


# -- the file ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True, repr=False)
class _Guest:
    """The values of one guest by element, and the element's fault where its form is wrong; the line where it begins.

    `is_unknown` says that the whole element has another name, `has_unknown` that one of its values has.
    """

    line: int
    is_unknown: bool = False
    has_unknown: bool = False
    values: dict[str, str] = field(default_factory=dict)
    faults: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        named = any(value.strip() for name, value in self.values.items() if name != "so_thu_tu")
        return not (named or self.faults or self.has_unknown or self.is_unknown)

    @property
    def is_example(self) -> bool:
        return any(_EXAMPLE.search(value) for value in self.values.values())


def _parsed(written: str) -> list[_Guest]:
    """The guests of the file. Raises `NotTaken`, then nothing of the file is taken."""
    parser = expat.ParserCreate()
    collector = _Collector(parser)
    parse(written, parser, collector, depth_limit=DEPTH_LIMIT)
    return collector.guests


@dataclass(slots=True)
class _Collector:
    """What expat calls. `path` holds the local names of the open elements, those of the form in their own case."""

    parser: expat.XMLParserType
    guests: list[_Guest] = field(default_factory=list)
    path: list[str] = field(default_factory=list)

    def start(self, name: str, _attributes: Mapping[str, str]) -> None:
        local, depth = name.rpartition(":")[2], len(self.path)
        if depth == 0 and local.upper() != ROOT:
            raise NotTaken("missing_element", expected=ROOT)
        if depth == 1:
            local = local.upper()
            if local == GUEST:
                self._begin_guest(is_unknown=False)
        elif depth == 2 and self.path[1] != GUEST:
            self._begin_guest(is_unknown=True)  # something with parts, as a guest has, that must not be passed over
            self.path[1] = GUEST
        if depth == 2:
            local = local.lower()
            self._begin_value(self.guests[-1], local)
        elif depth == 3 and self.path[2] in _ELEMENTS:
            self.guests[-1].faults[self.path[2]] = "wrong_type"
        self.path.append(local)

    def end(self, _name: str) -> None:
        self.path.pop()

    def characters(self, written: str) -> None:
        if len(self.path) != 3:
            return
        guest, name = self.guests[-1], self.path[2]
        if name in guest.values:
            whole = guest.values[name] + written
            guest.values[name] = whole[:VALUE_CHARACTERS_LIMIT]
            if len(whole) > VALUE_CHARACTERS_LIMIT:
                guest.faults[name] = "too_long"

    def _begin_guest(self, *, is_unknown: bool) -> None:
        if len(self.guests) == RESULTS_LIMIT:
            raise NotTaken("too_many_rows", limit=RESULTS_LIMIT)
        self.guests.append(_Guest(self.parser.CurrentLineNumber, is_unknown))

    def _begin_value(self, guest: _Guest, name: str) -> None:
        if name not in _ELEMENTS:
            guest.has_unknown = True
        elif name in guest.values:
            guest.faults[name] = "repeated_element"
        else:
            guest.values[name] = ""


# -- a guest -----------------------------------------------------------------------------------------------------------


def _read_guest(
    number: int, guest: _Guest, month_first: bool, declared: dict[tuple[str, str], int]
) -> Iterator[Act | Unreadable]:
    row, here = Row(number), f"{GUEST}[{number}]"
    _faults_of_form(row, guest, here)

    def take(name: str, pointer: str, reader: Callable[[Cell], Any], **otherwise: Any) -> Any:
        return row.read(pointer, f"{here}/{name}", guest.values.get(name), reader, **otherwise)

    take("ho_ten", "/guest/full_name", text, required=True)
    precise = _precision(row, guest, f"{here}/ngay_sinh_dung_den")
    take(
        "ngay_sinh", "/guest/birth_date", partial(_birth_date, precise=precise, month_first=month_first), required=True
    )
    if (guest.values.get("gioi_tinh") or "").strip().upper() != "X":
        take("gioi_tinh", "/guest/gender", gender, required=True)
    take("ma_quoc_tich", "/guest/nationality", nationality, required=True)
    row.origin["/guest/document"] = f"{here}/so_ho_chieu"
    row.put("/guest/document/type", int(DocumentType.PASSPORT))
    passport = take("so_ho_chieu", "/guest/document/number", _without_spaces, required=True)
    take("so_phong", "/room", text)
    arrived_at = take("ngay_den", "/arrived_at", partial(arrival, month_first=month_first), required=True)
    leaving = partial(departure, arrived_at=arrived_at, month_first=month_first)
    take("ngay_di_du_kien", "/planned_departure_at", leaving)
    take("thoi_han_tam_tru", "/guest/permitted_stay_until", partial(_day, month_first=month_first))
    row.put("/reason", int(Reason.OTHER))
    row.put("/reason_text", NO_REASON)
    departed_at = take("ngay_tra_phong", "/departed_at", leaving)
    row.fields.pop("departed_at", None)  # not part of the declaration: it becomes an act of its own
    if departed_at and arrived_at and departed_at < arrived_at:
        row.refuse("departure_before_arrival", "/departed_at", f"{here}/ngay_tra_phong")
    if first := declared.get((passport, arrived_at)):
        row.refuse("duplicate_row", "", here, limit=first)
    declaration = row.result(ActKind.DECLARE)
    yield declaration
    if isinstance(declaration, Act) and not declaration.violations:
        declared[passport, arrived_at] = number
        if departed_at:
            yield _check_out(declaration, departed_at, f"{here}/ngay_tra_phong")


def _faults_of_form(row: Row, guest: _Guest, here: str) -> None:
    for name, code in guest.faults.items():
        row.refuse(code, "", f"{here}/{name}", limit=VALUE_CHARACTERS_LIMIT, expected="văn bản / text")
    if guest.has_unknown:
        row.warn("unknown_field", "", f"{here}, dòng {guest.line}")


_PRECISIONS = {"D": 10, "M": 7, "Y": 4}
"""How much of an ISO date is true."""


def _precision(row: Row, guest: _Guest, place: str) -> int:
    stated = (guest.values.get("ngay_sinh_dung_den") or "").strip().upper() or "D"
    if stated not in _PRECISIONS:
        row.refuse("wrong_format", "/guest/birth_date", place, expected="D / M / Y")
    return _PRECISIONS.get(stated, 10)


def _birth_date(cell: Cell, *, precise: int, month_first: bool) -> str | None:
    read = birth_date(cell, month_first=month_first and precise > 4)
    return read[:precise] if read else None


def _without_spaces(cell: Cell) -> str | None:
    written = text(cell)
    return written.replace(" ", "").upper() if written else None


def _day(cell: Cell, *, month_first: bool) -> str | None:
    read = moment(cell, expected=DATE_FORM, month_first=month_first)
    return read[0].isoformat() if read else None


def _check_out(declaration: Act, departed_at: str, place: str) -> Act:
    """The departure of the guest just declared, who has no name but passport and day of arrival."""
    fields = declaration.fields
    return Act(
        ActKind.CHECK_OUT,
        {"departed_at": departed_at},
        declaration.row,
        origin={"/departed_at": place},
        match={"document": fields["guest"]["document"], "arrived_on": fields["arrived_at"][:10]},
    )


connector = Connector(name="foreigner_xml", suffixes=(".xml",), media_types=("application/xml", "text/xml"), read=read)
