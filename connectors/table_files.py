"""From the bytes of a CSV file or a workbook to the table in it.

* Of the leading rows, the one with the most known headings is the heading; rows above it are a title. A row below it
  that repeats headings in another language, or numbers the columns, belongs to it.
* Separators are `;`, `,` or tab. The text is UTF-8, UTF-16 with a byte order mark, or Windows-1258: the last only if
  more lines beyond ASCII fail as UTF-8 than succeed, so that a broken byte never turns all names of a file into other
  letters.
* If one text of the file can only be MM/dd/yyyy, every date text whose day and month could be swapped is ambiguous. A
  real date of a workbook is ambiguous likewise, unless a real date of the same column has a day over 12 (days of
  arrival and departure count as one column): a spreadsheet set to English leaves those as text, so it cannot have been
  what read the others.
* Of a workbook, the one visible sheet with such a heading is read; two of them are refused, since neither may be left
  out in silence.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from io import BytesIO
from itertools import islice, takewhile
from typing import NamedTuple

from python_calamine import CalamineError, CalamineSheet, CalamineWorkbook, SheetTypeEnum, SheetVisibleEnum

from connectors.cells import Cell, whole_number, writes_month_first
from connectors.tables import Table, Vocabulary, is_filled, letters
from schemas.act import RESULTS_LIMIT, Unreadable
from schemas.columns import ERRORS_TITLE
from schemas.violations import Violation, violation

HEADING_WITHIN_ROWS = 10
KNOWN_HEADINGS_WANTED = 3
SEPARATORS = ";,\t"
COLUMNS_LIMIT = 1_000
"""How many cells a line of text may have: of a line of 20 MB of separators nothing else would come to an end."""
LINES_LIMIT = 10 * RESULTS_LIMIT
"""How many lines a text may have, those within quotes and empty ones included."""

_COLUMN_NUMBER = re.compile(r"\(?(?:\d{1,2}|[A-Za-z])\)?")


@dataclass(frozen=True, slots=True, repr=False)
class _Leading:
    """The heading that was found: its row's number, its cells, how many are known, and what stands below it."""

    number: int
    cells: Sequence[Cell]
    known: int
    rows: Sequence[tuple[int, Sequence[Cell] | None]]


def read_table(document: bytes, words: Vocabulary) -> Table | Unreadable:
    """The table in a CSV file or a workbook, or why there is none (`row` 0, every reason at once)."""
    if is_workbook(document):
        workbook = open_workbook(document)
        return workbook if isinstance(workbook, Unreadable) else table_of_workbook(workbook, words)
    return table_of_text(document, words)


def _table(found: _Leading, words: Vocabulary, charset: str | None) -> Table | Unreadable:
    titles = [unicodedata.normalize("NFC", cell.strip()) if isinstance(cell, str) else "" for cell in found.cells]
    columns, faults = _columns(titles, words)
    if faults:
        return Unreadable(0, faults)
    below = takewhile(lambda row: row[1] is not None and _continues_heading(row[1], words), found.rows)
    rows = found.rows[len(list(islice(below, HEADING_WITHIN_ROWS))) :]
    groups = [(group, list(_cells_under(group, columns, rows))) for group in words.dates]
    return Table(
        words,
        titles,
        columns,
        rows,
        charset,
        _unknown(titles, columns, rows, found.number, charset),
        month_first=any(isinstance(cell, str) and writes_month_first(cell) for _, cells in groups for cell in cells),
        believed=frozenset(column for group, cells in groups if any(map(_is_unambiguous, cells)) for column in group),
    )


def _cells_under(
    group: Sequence[str], columns: Mapping[str, int], rows: Sequence[tuple[int, Sequence[Cell] | None]]
) -> Iterator[Cell]:
    indexes = [columns[column] for column in group if column in columns]
    for _, cells in rows:
        yield from (cells[index] for index in indexes if cells and index < len(cells))


def _is_unambiguous(cell: Cell) -> bool:
    return isinstance(cell, date) and cell.day > 12


def _columns(titles: Sequence[str], words: Vocabulary) -> tuple[dict[str, int], tuple[Violation, ...]]:
    columns: dict[str, int] = {}
    faults = []
    for index, title in enumerate(titles):
        column = words.column_of(title)
        if column in columns:
            faults.append(violation("repeated_column", expected=words.titles[column]))
        elif column is not None:
            columns[column] = index
    faults += [
        violation("missing_column", expected=words.titles[alternatives[0]])
        for alternatives in words.required
        if not columns.keys() & set(alternatives)
    ]
    return columns, tuple(faults)


def _continues_heading(cells: Sequence[Cell], words: Vocabulary) -> bool:
    if words.known(cells) >= KNOWN_HEADINGS_WANTED:
        return True
    filled = [cell for cell in cells if is_filled(cell)]
    return len(filled) >= KNOWN_HEADINGS_WANTED and all(map(_is_column_number, filled))


def _is_column_number(cell: Cell) -> bool:
    number = whole_number(cell)
    return bool(_COLUMN_NUMBER.fullmatch(str(cell).strip() if number is None else str(number)))


def _unknown(
    titles: Sequence[str],
    columns: Mapping[str, int],
    rows: Sequence[tuple[int, Sequence[Cell] | None]],
    number: int,
    charset: str | None,
) -> tuple[str, ...]:
    known = set(columns.values())
    known |= {index for index, title in enumerate(titles) if title == ERRORS_TITLE}  # a file that we gave back
    indexes = {index for index, title in enumerate(titles) if title and index not in known}
    for _, cells in rows:
        indexes.update(index for index, cell in enumerate(cells or ()) if index not in known and is_filled(cell))
    return tuple(f"{letters(each)}{number}" if charset is None else f"cột {each + 1}" for each in sorted(indexes))


# -- workbooks ---------------------------------------------------------------------------------------------------------


_COMPOUND_FILE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
"""How workbooks of Excel 97-2003 begin, and those of today that are locked with a password."""


def is_workbook(document: bytes) -> bool:
    """Whether a file is a workbook by how it begins, also one that `open_workbook` does not take."""
    return document.startswith((b"PK", _COMPOUND_FILE))


def open_workbook(document: bytes) -> CalamineWorkbook | Unreadable:
    """The workbook in an XLSX file. Only in the limited child process: 2 kB can exhaust the memory of its reader."""
    if document.startswith(_COMPOUND_FILE):
        return Unreadable(0, (violation("old_or_locked_workbook"),))
    if not document.startswith(b"PK"):  # the library would also take older formats
        return Unreadable(0, (violation("unreadable_file"),))
    try:
        return CalamineWorkbook.from_filelike(BytesIO(document))
    except (CalamineError, OSError, ValueError):
        return Unreadable(0, (violation("unreadable_file"),))


def sheet_rows(sheet: CalamineSheet) -> Iterator[Sequence[Cell]]:
    """Every row from the first on, every cell from column A on."""
    left: list[Cell] = [None] * (sheet.start[1] if sheet.start else 0)  # the library leaves out empty columns there
    return ([*left, *(None if cell == "" else cell for cell in cells)] for cells in sheet.iter_rows())


def table_of_workbook(workbook: CalamineWorkbook, words: Vocabulary) -> Table | Unreadable:
    """The table on the one visible sheet that has a heading; on the first sheet if none has."""
    names = [
        each.name
        for each in workbook.sheets_metadata
        if each.typ is SheetTypeEnum.WorkSheet and each.visible is SheetVisibleEnum.Visible
    ]
    try:
        leading = [_leading_of_sheet(workbook.get_sheet_by_name(name), words) for name in names]
    except (CalamineError, OSError, ValueError):
        return Unreadable(0, (violation("unreadable_file"),))
    found = [each for each in leading if each.known >= KNOWN_HEADINGS_WANTED]
    if len(found) > 1:
        return Unreadable(0, (violation("several_sheets"),))
    if not found and not any(each.rows or each.cells for each in leading):
        return Unreadable(0, (violation("no_rows"),))
    return _table((found or leading)[0], words, None)


def _leading_of_sheet(sheet: CalamineSheet, words: Vocabulary) -> _Leading:
    rows = list(enumerate(sheet_rows(sheet), 1))
    known = [words.known(cells) for _, cells in rows[:HEADING_WITHIN_ROWS]]
    if max(known, default=0) < KNOWN_HEADINGS_WANTED:
        return _Leading(1, rows[0][1] if rows else (), 0, rows[1:])
    at = known.index(max(known))
    return _Leading(at + 1, rows[at][1], known[at], rows[at + 1 :])


# -- texts -------------------------------------------------------------------------------------------------------------


def table_of_text(document: bytes, words: Vocabulary) -> Table | Unreadable:
    """The table in a text with separators."""
    written, charset = decoded(document)
    if written is None:
        return Unreadable(0, (violation("undecodable", expected=charset),))
    if written.count("\n") + written.count("\r") > LINES_LIMIT:
        return Unreadable(0, (violation("too_many_rows", limit=RESULTS_LIMIT),))
    lines = list(io.StringIO(written, newline=""))
    if not any(line.strip() for line in lines):
        return Unreadable(0, (violation("no_rows"),))
    wide = next((at for at, line in enumerate(lines, 1) if max(map(line.count, SEPARATORS)) >= COLUMNS_LIMIT), None)
    if wide is not None:
        return Unreadable(0, (violation("too_many_columns", place=f"dòng {wide}", limit=COLUMNS_LIMIT),))
    found = max(
        (_heading_of_text(lines, separator, words) for separator in SEPARATORS), key=lambda heading: heading.known
    )
    rows = list(_rows(lines[found.after :], found.separator, found.after + 1))
    return _table(_Leading(found.start + 1, found.cells, found.known, rows), words, charset)


def decoded(document: bytes) -> tuple[str | None, str]:
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


class _TextHeading(NamedTuple):
    """A heading in a text: how many of its cells are known, its cells, its lines from `start` until before `after`."""

    known: int
    separator: str
    start: int
    after: int
    cells: list[str]

    def __repr__(self) -> str:
        return "<_TextHeading>"


def _heading_of_text(lines: Sequence[str], separator: str, words: Vocabulary) -> _TextHeading:
    """The leading record with the most known headings, which may fill several lines; else the first line."""
    best = _TextHeading(KNOWN_HEADINGS_WANTED - 1, separator, 0, 1, [])
    reader = csv.reader(lines, delimiter=separator)
    with suppress(csv.Error, StopIteration):
        for _ in range(HEADING_WITHIN_ROWS):
            start = reader.line_num
            cells = next(reader)
            known = words.known(cells)
            if known > best.known:
                best = _TextHeading(known, separator, start, reader.line_num, cells)
    if best.cells:
        return best
    first = lines[0].strip().split(separator)  # with the separator that finds most in it, so that what is there counts
    return best._replace(known=words.known(first), cells=first)


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
