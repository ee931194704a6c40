"""One guest per line: how the columns of a list become a declaration (`schemas.columns` names the columns).

* Of the columns for a document's number the first that is filled counts: the general one, the personal number's (số
  CCCD), the old card's (số CMND), the passport's. All but the first say the type of the document if no column does.
* A document type that is not given follows from a number of 12 digits (CCCD), a nationality from a Vietnamese document.
* Zeros that a spreadsheet ate are put back, with a warning: of a number cell always, of a text only if the number then
  agrees with gender and year of birth, since in a text a digit may be missing anywhere.
* A line without a number but with a guardian is a minor without a document; whether that is allowed is intake's
  question. The nationality then has to be told. The guardian's number says its type: 12 digits are a CCCD, 9 an old
  CMND, letters and digits up to 10 a passport.
* Whether a guest leads the party (trưởng đoàn) is a mark (x, có, yes), its absence (không, no), or the leader's name,
  which then is the guest's own or not.
* Building, room and bed become one name for where the guest sleeps: A, 203, 2 → "A-203-2".
* An arrival without a time is 00:00, a departure 12:00 (`connectors.cells`), unless a column of its own tells the time.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from datetime import time
from functools import partial

from connectors.cells import (
    WITH_PERSONAL_NUMBER,
    Cell,
    arrival,
    birth_date,
    day_alone,
    departure,
    document_number,
    gender,
    lost_zeros_restored,
    named_code,
    named_nationality,
    phone,
    room_of,
    text,
    time_of_day,
    whole_number,
)
from connectors.places import read_places
from connectors.tables import Line
from schemas.act import Act, ActKind, Unreadable
from schemas.codes import DocumentType
from schemas.folding import fold_name
from schemas.personal_number import disagreements

NUMBER_COLUMNS = ("document_number", "personal_number", "old_card_number", "passport_number")
GUARDIAN_COLUMNS = ("guardian", "relationship", "guardian_number")
PLACE_COLUMNS = ("province", "district", "ward")
DATE_COLUMNS = (("birth_date",), ("arrived", "departs"), ("permitted_stay_until",))

_TYPE_OF_COLUMN = {
    "personal_number": DocumentType.CCCD,
    "old_card_number": DocumentType.CMND,
    "passport_number": DocumentType.PASSPORT,
}
_OF_VIETNAMESE = frozenset(
    {DocumentType.CCCD, DocumentType.CMND, DocumentType.PERSONAL_NUMBER_NOTICE, DocumentType.CAN_CUOC}
)
_PERSONAL_NUMBER = re.compile(r"\d{12}", re.ASCII)
_WITHOUT_ZEROS = re.compile(r"[1-9]\d{8,10}", re.ASCII)


def read_guest(line: Line, *, default_reason: int | None = None) -> Act | Unreadable:
    """The declaration on one line; every fault of the line at once.

    A cell is required if its column is (`Vocabulary.required`), and what no declaration can do without always.
    """
    take, optional, dates = line.take, line.take_if_there, line.table.dates
    take("full_name", "/guest/full_name", text, required=True)
    born = take("birth_date", "/guest/birth_date", partial(birth_date, **dates("birth_date")), required=True)
    sex = take("gender", "/guest/gender", gender, required=line.table.requires("gender"))
    _read_document(line, born, sex, has_guardian=_read_guardian(line))
    optional("phone", "/guest/phone", phone)
    optional("permitted_stay_until", "/guest/permitted_stay_until", partial(day_alone, **dates("permitted_stay_until")))
    _read_residence(line)
    _read_stay(line)
    take("reason", "/reason", partial(named_code, name="reasons"), default=default_reason, required=True)
    take("reason_text", "/reason_text", text)
    _read_party(line)
    optional("note", "/note", text)
    return line.row.result(ActKind.DECLARE, optional("source_ref", "/source_ref", text))


def guest_of(act: Act) -> Hashable:
    """What tells the guest of a declaration that was read without a fault from others on the list."""
    guest = act.fields["guest"]
    if "document" in guest:
        return str(guest["document"]["number"])
    return fold_name(guest["full_name"]), guest["birth_date"], fold_name(guest["guardian"]["full_name"])


def _read_guardian(line: Line) -> bool:
    """The guardian, if a cell about one is filled; whether there is."""
    if all(line.raw(column) is None for column in GUARDIAN_COLUMNS):
        return False
    line.row.origin["/guest/guardian"] = line.place("guardian")
    line.take("guardian", "/guest/guardian/full_name", text, required=True)
    line.take("relationship", "/guest/guardian/relationship", partial(named_code, name="kinship"), required=True)
    pointer = "/guest/guardian/document/number"
    number = line.take("guardian_number", pointer, document_number, required=True)
    lost = whole_number(line.raw("guardian_number"))
    if lost is not None and 10**9 <= lost < 10**11:  # of nine digits there are old cards
        number = f"{lost:012d}"
        line.row.put(pointer, number)
        line.row.warn("leading_zeros_restored", pointer, line.place("guardian_number"))
    if number:
        digits = len(number) if number.isdecimal() else 0
        kind = {12: DocumentType.CCCD, 9: DocumentType.CMND}.get(digits, DocumentType.PASSPORT)
        line.row.put("/guest/guardian/document/type", int(kind))
    return True


def _read_party(line: Line) -> None:
    name = line.row.fields.get("guest", {}).get("full_name")
    leads = line.look("party_head", "/party/role", partial(_leads, name=name))
    if line.raw("party") is None and not leads:
        return
    line.take("party", "/party/ref", text, required=True)
    line.row.origin["/party/role"] = line.place("party_head")
    line.row.put("/party/role", "head" if leads else "member")


_LEADS = frozenset({"x", "✓", "✔", "có", "co", "yes", "y", "1", "true", "trưởng đoàn", "truong doan", "head"})
_FOLLOWS = frozenset({"không", "khong", "k", "no", "n", "0", "false", "-", "thành viên", "thanh vien", "member"})


def _leads(cell: Cell, name: str | None) -> bool:
    """Whether the cell says that this guest leads the party: by a mark, or by the guest's own name."""
    if isinstance(cell, bool):
        return cell
    written = text(cell)
    if written is None or written.lower() in _FOLLOWS:
        return False
    return written.lower() in _LEADS or (name is not None and fold_name(written) == fold_name(name))


def _read_document(line: Line, born: str | None, sex: str | None, *, has_guardian: bool) -> None:
    pointer = "/guest/document/number"
    column = next((each for each in NUMBER_COLUMNS if line.raw(each) is not None), NUMBER_COLUMNS[0])
    if line.raw(column) is None and line.raw("document_type") is None and has_guardian:
        line.row.origin["/guest/document"] = line.place(column)
        line.take("nationality", "/guest/nationality", named_nationality, required=True)
        return
    number = line.take(column, pointer, document_number, required=True)
    assumed = _TYPE_OF_COLUMN.get(column)
    if assumed in (None, DocumentType.CMND) and number and _PERSONAL_NUMBER.fullmatch(number):
        assumed = DocumentType.CCCD
    kind = line.take(
        "document_type",
        "/guest/document/type",
        partial(named_code, name="document_types"),
        default=None if assumed is None else int(assumed),
        required=True,
    )
    restored = lost_zeros_restored(line.raw(column), kind) or _supposed_number(number, kind, born, sex)
    if restored:
        line.row.put(pointer, restored)
        line.row.warn("leading_zeros_restored", pointer, line.place(column))
    line.take(
        "nationality",
        "/guest/nationality",
        named_nationality,
        default="VNM" if (kind or assumed) in _OF_VIETNAMESE else None,
        required=True,
    )
    line.row.origin["/guest/document"] = line.place("document_name")
    line.take_if_there("document_name", "/guest/document/name", text)


def _supposed_number(number: str | None, kind: int | None, born: str | None, sex: str | None) -> str | None:
    """The personal number that a text of 9-11 digits was, if zeros before it make gender and year of birth agree."""
    if not (number and _WITHOUT_ZEROS.fullmatch(number) and kind in WITH_PERSONAL_NUMBER and born and sex):
        return None
    whole = number.zfill(12)
    return None if any(disagreements(whole, sex, born, "")) else whole


def _read_residence(line: Line) -> None:
    line.take_if_there("residence_kind", "/guest/residence/kind", partial(named_code, name="residence_kinds"))
    if not line.table.columns.keys().isdisjoint(PLACE_COLUMNS):
        province, district, ward = (
            (line.look(each, "/guest/residence", text), line.place(each)) for each in PLACE_COLUMNS
        )
        read_places(line.row, province, district, ward)
    line.take_if_there("address", "/guest/residence/address", text)


def _read_stay(line: Line) -> None:
    dates = line.table.dates
    arrived_at = line.take(
        "arrived",
        "/arrived_at",
        partial(arrival, at=_time(line, "arrived_time", "/arrived_at"), **dates("arrived")),
        required=True,
    )
    leaves = _time(line, "departs_time", "/planned_departure_at")
    line.take(
        "departs", "/planned_departure_at", partial(departure, arrived_at=arrived_at, at=leaves, **dates("departs"))
    )
    parts = [line.look(each, "/room", text) for each in ("building", "room", "bed")]
    line.row.read("/room", line.place("room"), room_of(*parts), text)


def _time(line: Line, column: str, pointer: str) -> time | None:
    found: time | None = line.look(column, pointer, time_of_day)
    return found
