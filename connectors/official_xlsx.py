"""The Ministry's workbook for declaring citizens (tệp Excel thông báo lưu trú khách Việt Nam), 19 columns by position.

What the form leaves open is settled here, in the guest's and the owner's favour, and never by guessing:

* Rows 1-4 are the form's heading and its example, data begin in row 5. A row of the heading is skipped only if it is
  marked `[EXAMPLE]`, or holds neither a birth date, nor an arrival, nor a document number. Otherwise somebody declared
  a guest there, and it is read like any other row, with a warning.
* Dates are texts, dd/MM/yyyy. A real date cell is taken if day and month cannot have been swapped, else refused.
* An arrival without a time of day is 00:00 of that day, a departure without one is 12:00 (`connectors.cells`).
* A number cell under "số giấy tờ" gets its lost zeros back, with a warning, if the document bears a personal number.
* If a title of the heading stands over another column than its own, a column was inserted or deleted: the file is
  refused as a whole, since every row would be read askew.

Formulas count with the value that was last calculated. Rows without anything but their running number are empty.
Read it in the limited child process (`python -m connectors`): a file of 2 kB can exhaust the memory of its reader.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from typing import Any

from python_calamine import CalamineError, CalamineWorkbook

from connectors.cells import (
    Cell,
    Row,
    arrival,
    birth_date,
    departure,
    gender,
    is_example,
    lost_zeros_restored,
    nationality,
    number_code,
    phone,
    text,
)
from connectors.places import read_places
from connectors.table_files import open_workbook, sheet_rows
from schemas.act import Act, ActKind, Connector, Unreadable
from schemas.folding import fold_tokens
from schemas.violations import violation

SHEET = "DS_KHACH_VIET_NAM_LUU_TRU"
HEADING_ROWS = 4
COLUMNS = "ABCDEFGHIJKLMNOPQRS"

_TITLES = {
    "B": "HỌ TÊN",
    "C": "NGÀY SINH",
    "F": "LOẠI GIẤY TỜ",
    "H": "SỐ GIẤY TỜ",
    "N": "NGÀY ĐẾN",
    "O": "NGÀY ĐI",
}
_DATE_LIKE = re.compile(r"[\d/.:\- ]*\d[\d/.:\- ]*")
_NUMBER_LIKE = re.compile(r"[A-Z]{0,4}\d{5,}")


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield a declaration or an unreadable row for every row that is not empty, in order (`schemas.act.Connector`)."""
    workbook = open_workbook(document)
    if isinstance(workbook, Unreadable):
        yield workbook
        return
    name = _sheet_name(workbook)
    if name is None:
        yield Unreadable(0, (violation("missing_sheet", expected=SHEET),))
        return
    try:
        rows = sheet_rows(workbook.get_sheet_by_name(name))
    except (CalamineError, OSError, ValueError):
        yield Unreadable(0, (violation("unreadable_file"),))
        return
    yield from _rows(rows)


def has_sheet(workbook: CalamineWorkbook) -> bool:
    """Whether a workbook is in the Ministry's form."""
    return _sheet_name(workbook) is not None


def _sheet_name(workbook: CalamineWorkbook) -> str | None:
    return next((each for each in workbook.sheet_names if each.strip().upper() == SHEET), None)


def _rows(rows: Iterator[Sequence[Cell]]) -> Iterator[Act | Unreadable]:
    heading = list(islice(rows, HEADING_ROWS))
    if moved := _moved_titles(heading):
        yield Unreadable(
            0, tuple(violation("missing_column", place=column, expected=moved[column]) for column in moved)
        )
        return
    empty = True
    for number, cells in enumerate(chain(heading, rows), 1):
        in_heading = number <= HEADING_ROWS
        if _is_empty(cells) or (in_heading and not _is_guest(cells)):
            continue
        empty = False
        yield read_row(number, cells, in_heading=in_heading)
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


def _moved_titles(heading: Sequence[Sequence[Cell]]) -> dict[str, str]:
    """Titles that stand in the heading, but not over their own column. Titles that are absent prove nothing."""
    words = [(column, set(fold_tokens(cell))) for cells in heading for column, cell in _texts(cells)]
    moved = {}
    for column, title in _TITLES.items():
        found = {each for each, held in words if held >= set(fold_tokens(title))}
        if found and column not in found:
            moved[column] = title
    return moved


def _texts(cells: Sequence[Cell]) -> list[tuple[str, str]]:
    return [(column, cell) for column, cell in zip(COLUMNS, cells, strict=False) if isinstance(cell, str)]


def _is_empty(cells: Sequence[Cell]) -> bool:
    return all(cell is None or (isinstance(cell, str) and not cell.strip()) for cell in cells[1 : len(COLUMNS)])


def _is_guest(cells: Sequence[Cell]) -> bool:
    """Whether a row of the heading holds a guest: a date where births and arrivals stand, or a document's number."""
    if any(map(is_example, cells)):
        return False
    by_column = dict(zip(COLUMNS, cells, strict=False))
    return _looks_like(_DATE_LIKE, by_column.get("C"), by_column.get("N")) or _looks_like(
        _NUMBER_LIKE, by_column.get("H")
    )


def _looks_like(form: re.Pattern[str], *cells: Cell) -> bool:
    return any(bool(form.fullmatch(cell.strip())) if isinstance(cell, str) else cell is not None for cell in cells)


def read_row(number: int, cells: Sequence[Cell], *, in_heading: bool = False) -> Act | Unreadable:
    """One row of the form, `cells` from column A on; `number` as Excel counts. Every fault of the row at once."""
    row = Row(number)
    by_column: dict[str, Cell] = dict(zip(COLUMNS, cells, strict=False))

    def take(column: str, pointer: str, reader: Callable[[Cell], Any], *, required: bool = False) -> Any:
        return row.read(pointer, f"{column}{number}", by_column.get(column), reader, required=required)

    take("B", "/guest/full_name", text, required=True)
    take("C", "/guest/birth_date", birth_date, required=True)
    take("D", "/guest/gender", gender, required=True)
    take("E", "/guest/nationality", nationality, required=True)
    document_type = take("F", "/guest/document/type", partial(number_code, name="document_types"), required=True)
    row.origin["/guest/document"] = f"G{number}"  # what is said of the document as a whole is that its name is missing
    take("G", "/guest/document/name", text)
    restored = lost_zeros_restored(by_column.get("H"), document_type)
    if restored:
        by_column["H"] = restored
        row.warn("leading_zeros_restored", "/guest/document/number", f"H{number}")
    take("H", "/guest/document/number", text, required=True)
    take("I", "/guest/phone", phone)
    take("J", "/guest/residence/kind", partial(number_code, name="residence_kinds"))
    read_places(row, (by_column.get("K"), f"K{number}"), (None, f"L{number}"), (by_column.get("L"), f"L{number}"))
    take("M", "/guest/residence/address", text)
    arrived_at = take("N", "/arrived_at", arrival, required=True)
    take("O", "/planned_departure_at", partial(departure, arrived_at=arrived_at), required=True)
    take("P", "/room", text)
    take("Q", "/reason", partial(number_code, name="reasons"), required=True)
    take("R", "/reason_text", text)
    take("S", "/note", text)
    if in_heading:
        row.warn("heading_row_read", "", f"A{number}")
    return row.result(ActKind.DECLARE)


connector = Connector(
    name="official_xlsx",
    suffixes=(),  # whoever names no connector is served by `connectors.spreadsheet`, which knows this form
    media_types=(),
    read=read,
)
