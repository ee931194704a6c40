"""The roster of a dormitory in an industrial zone (danh sách người ở khu nhà ở công nhân), as CSV under headings.

Of the leading ten lines, the one with the most known headings (three at least) is the heading; lines above it are a
title. Headings are Vietnamese or English, with or without marks, in any order; columns nobody knows are ignored.
Separators are `;`, `,` or tab. The text is UTF-8, UTF-16 with a byte order mark, or Windows-1258: the last only if more
lines beyond ASCII fail as UTF-8 than succeed, so that a broken byte never turns all names of a file into other letters.

* Building, room and bed become one name for where the guest sleeps: A, 203, 2 → "A-203-2".
* A document type that is not given follows from a number of 12 digits (CCCD), a nationality from a Vietnamese document,
  the reason is 19 (Lao động).
* The employee code (mã nhân viên) and other columns of the employer are not part of a declaration and are not kept.
* A row with the document and the day of arrival of an earlier row is refused, naming that row.
* Dates are dd/MM/yyyy. If one date of the file can only be MM/dd/yyyy, every date of the file whose day and month could
  be swapped is refused as ambiguous. An arrival without a time is 00:00, a departure 12:00 (`connectors.cells`).
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from connectors.cells import (
    Cell,
    CellError,
    Row,
    arrival,
    birth_date,
    departure,
    gender,
    named_code,
    named_nationality,
    room_of,
    text,
    writes_month_first,
)
from schemas.act import Act, ActKind, Connector, Unreadable
from schemas.codes import DocumentType, Reason
from schemas.folding import fold_tokens
from schemas.violations import Violation, violation

HEADING_WITHIN_LINES = 10
KNOWN_HEADINGS_WANTED = 3
SEPARATORS = ";,\t"

_HEADINGS = {
    "full_name": "Họ tên | Họ và tên | Full name | Name",
    "birth_date": "Ngày sinh | Ngày tháng năm sinh | Năm sinh | Birth date | Date of birth | DOB",
    "gender": "Giới tính | Gender | Sex",
    "nationality": "Quốc tịch | Nationality",
    "document_type": "Loại giấy tờ | Document type | ID type",
    "document_number": "Số giấy tờ | Số CCCD | CCCD | Số căn cước | Số định danh | Document number | ID number",
    "document_name": "Tên giấy tờ | Document name",
    "phone": "Số điện thoại | Điện thoại | SĐT | Phone | Phone number",
    "address": "Địa chỉ | Nơi cư trú | Địa chỉ thường trú | Nơi thường trú | Hộ khẩu thường trú | Address",
    "building": "Tòa nhà | Tòa | Dãy | Dãy nhà | Khu | Khu nhà | Building | Block",
    "room": "Phòng | Số phòng | Room | Room number",
    "bed": "Giường | Số giường | Bed | Bed number",
    "arrived": "Ngày vào | Ngày vào ở | Ngày đến | Arrival | Arrival date | Move in date",
    "departs": "Ngày ra dự kiến | Ngày đi dự kiến | Ngày ra | Ngày đi | Planned departure | Move out date",
    "reason": "Lý do | Lý do cư trú | Lý do lưu trú | Lí do | Lí do cư trú | Lí do lưu trú | Reason",
    "reason_text": "Lý do chi tiết | Lí do chi tiết | Reason detail",
    "note": "Ghi chú | Note",
}
_COLUMN_OF_HEADING = {
    " ".join(fold_tokens(name)): column for column, names in _HEADINGS.items() for name in names.split("|")
}
_TITLES = {column: names.split("|")[0].strip() for column, names in _HEADINGS.items()}
_REQUIRED = ("full_name", "birth_date", "gender", "document_number", "arrived")
_OF_VIETNAMESE = frozenset(
    {DocumentType.CCCD, DocumentType.CMND, DocumentType.PERSONAL_NUMBER_NOTICE, DocumentType.CAN_CUOC}
)
_PERSONAL_NUMBER = re.compile(r"\d{12}", re.ASCII)
_UNDECODED = re.compile("[\ud800-\udfff]")
_FORCED_TEXT = re.compile(r"""="(.*)"|'(?=\d)(.*)""")  # how people keep a spreadsheet from eating zeros


@dataclass(frozen=True, slots=True)
class _Layout:
    """How the document is written: the index of each known column, its title, and what is known of its dates."""

    columns: Mapping[str, int]
    titles: Sequence[str]
    charset: str
    month_first: bool

    def place(self, column: str, line: int) -> str:
        """Where a user looks: under the title as they wrote it, or under ours for a column that is not there."""
        title = self.titles[self.columns[column]] if column in self.columns else _TITLES[column]
        return f"dòng {line}, cột {title}"


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield a declaration or an unreadable row for every line that is not empty (`schemas.act.Connector`).

    `row` is the number of the line as an editor counts, a place is "dòng 12, cột Ngày sinh".
    """
    written, charset = _decoded(document)
    if written is None:
        yield Unreadable(0, (violation("undecodable", expected=charset),))
        return
    lines = list(io.StringIO(written, newline=""))
    if not any(line.strip() for line in lines):
        yield Unreadable(0, (violation("no_rows"),))
        return
    at, separator = _heading(lines)
    titles = _cells(lines[at], separator)
    columns, faults = _columns(titles)
    if faults:
        yield Unreadable(0, tuple(faults))
        return
    rows = list(_rows(lines[at + 1 :], separator, at + 2))
    dates = [columns[each] for each in ("birth_date", "arrived", "departs") if each in columns]
    month_first = any(
        writes_month_first(cells[index]) for _, cells in rows if cells for index in dates if index < len(cells)
    )
    yield from _results(rows, _Layout(columns, titles, charset, month_first))


def _decoded(document: bytes) -> tuple[str | None, str]:
    """The text and the name of its charset. Bytes that do not decode become lone surrogates, found row by row later."""
    if document.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        try:
            return document.decode("utf-16"), "UTF-16"
        except UnicodeDecodeError:
            return None, "UTF-16"
    beyond_ascii = [line for line in document.splitlines() if not line.isascii()]
    in_utf8 = sum(map(_is_utf8, beyond_ascii))
    if document.startswith(codecs.BOM_UTF8) or 2 * in_utf8 >= len(beyond_ascii):
        return document.removeprefix(codecs.BOM_UTF8).decode("utf-8", "surrogateescape"), "UTF-8"
    return document.decode("cp1258", "surrogateescape"), "Windows-1258"


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _heading(lines: Sequence[str]) -> tuple[int, str]:
    """The index of the line with the most known headings, and the separator that shows them."""
    known = [
        (sum(_column_of(title) is not None for title in _cells(line, separator)), -index, separator)
        for index, line in enumerate(lines[:HEADING_WITHIN_LINES])
        for separator in SEPARATORS
    ]
    found, negative_index, separator = max(known)
    return (-negative_index, separator) if found >= KNOWN_HEADINGS_WANTED else (0, separator)


def _column_of(title: str) -> str | None:
    if _UNDECODED.search(title):
        return None
    return _COLUMN_OF_HEADING.get(" ".join(fold_tokens(title.split("(")[0])))


def _cells(line: str, separator: str) -> list[str]:
    try:
        cells = next(csv.reader([line], delimiter=separator))
        return [unicodedata.normalize("NFC", cell.strip()) for cell in cells]
    except (csv.Error, StopIteration):
        return []


def _columns(titles: Sequence[str]) -> tuple[dict[str, int], list[Violation]]:
    columns: dict[str, int] = {}
    faults = []
    for index, title in enumerate(titles):
        column = _column_of(title)
        if column in columns:
            faults.append(violation("repeated_column", expected=_TITLES[column]))
        elif column is not None:
            columns[column] = index
    faults += [violation("missing_column", expected=_TITLES[each]) for each in _REQUIRED if each not in columns]
    return columns, faults


def _rows(lines: Sequence[str], separator: str, first: int) -> Iterator[tuple[int, list[str] | None]]:
    """The cells of each row under the number of its first line; None where the quotes do not match."""
    reader = csv.reader(lines, delimiter=separator, strict=True)
    while True:
        line = first + reader.line_num
        try:
            yield line, next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield line, None


def _results(rows: Sequence[tuple[int, list[str] | None]], layout: _Layout) -> Iterator[Act | Unreadable]:
    declared: dict[tuple[str, str], int] = {}
    empty = True
    for line, cells in rows:
        if cells is not None and not any(cell.strip() for cell in cells):
            continue
        empty = False
        if cells is None:
            yield Unreadable(line, (violation("unreadable_row", place=f"dòng {line}"),))
        elif any(cell.strip() for cell in cells[len(layout.titles) :]):
            fault = violation("too_many_cells", place=f"dòng {line}", limit=len(layout.titles))
            yield Unreadable(line, (fault,))
        else:
            yield _read_row(line, cells, layout, declared)
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


def _read_row(
    line: int, cells: Sequence[str], layout: _Layout, declared: dict[tuple[str, str], int]
) -> Act | Unreadable:
    row = Row(line)

    def raw(column: str) -> str:
        index = layout.columns.get(column, len(cells))
        return cells[index].strip() if index < len(cells) else ""

    def take(column: str, pointer: str, reader: Callable[[Cell], Any], **otherwise: Any) -> Any:
        place = layout.place(column, line)
        return row.read(pointer, place, raw(column), lambda cell: reader(_plain(cell, layout.charset)), **otherwise)

    dates = {"month_first": layout.month_first}
    take("full_name", "/guest/full_name", text, required=True)
    take("birth_date", "/guest/birth_date", partial(birth_date, **dates), required=True)
    take("gender", "/guest/gender", gender, required=True)
    number = take("document_number", "/guest/document/number", _without_spaces, required=True)
    is_personal = bool(number and _PERSONAL_NUMBER.fullmatch(number))
    kind = take(
        "document_type",
        "/guest/document/type",
        partial(named_code, name="document_types"),
        default=int(DocumentType.CCCD) if is_personal else None,
        required=True,
    )
    take(
        "nationality",
        "/guest/nationality",
        named_nationality,
        default="VNM" if kind in _OF_VIETNAMESE else None,
        required=True,
    )
    row.origin["/guest/document"] = layout.place("document_name", line)
    take("document_name", "/guest/document/name", text)
    take("phone", "/guest/phone", text)
    take("address", "/guest/residence/address", text)
    arrived_at = take("arrived", "/arrived_at", partial(arrival, **dates), required=True)
    take("departs", "/planned_departure_at", partial(departure, arrived_at=arrived_at, **dates))
    room = room_of(*map(raw, ("building", "room", "bed")))
    row.read("/room", layout.place("room", line), room, lambda cell: text(_plain(cell, layout.charset)))
    take("reason", "/reason", partial(named_code, name="reasons"), default=int(Reason.LABOUR))
    take("reason_text", "/reason_text", text)
    take("note", "/note", text)
    if number and arrived_at and (first := declared.get((number, arrived_at[:10]))):
        row.refuse("duplicate_row", "", f"dòng {line}", limit=first)
    result = row.result(ActKind.DECLARE)
    if isinstance(result, Act):
        declared[number, arrived_at[:10]] = line
    return result


def _plain(cell: Cell, charset: str) -> Cell:
    """The cell without the dress that protects digits from spreadsheets: ="036…" and '036…."""
    if not isinstance(cell, str):
        return cell
    if _UNDECODED.search(cell):
        raise CellError("undecodable", expected=charset)
    forced = _FORCED_TEXT.fullmatch(cell)
    return (forced[1] or forced[2] or "") if forced else cell


def _without_spaces(cell: Cell) -> str | None:
    written = text(cell)
    return written.replace(" ", "").upper() if written else None


connector = Connector(name="dorm_roster", suffixes=(".csv",), media_types=("text/csv",), read=read)
