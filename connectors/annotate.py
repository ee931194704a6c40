"""A document given back to its owner with a column of errors: a workbook or a text with separators, cells as they were.

Values stay where they stood and what they were: a date a date, a text a text, and never a formula. Forms, colours and
formulas of a workbook are not kept; of a formula, the value that was last calculated is.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from datetime import date, datetime, time, timedelta
from io import BytesIO

import orjson
import xlsxwriter
from python_calamine import CalamineWorkbook, SheetTypeEnum

from connectors.cells import Cell
from connectors.table_files import SEPARATORS, decoded, open_workbook, sheet_rows
from connectors.tables import is_filled
from schemas.act import Unreadable
from schemas.columns import ERRORS_TITLE

_NOT_TABLES = (b"<", b"MSH", b"FHS", b"BHS", b"\x0b", b"{", b"[")
"""How documents begin that have no columns: XML, HL7, JSON."""
_BYTE_ORDER_MARK = "\ufeff"


def unpacked(given: bytes) -> tuple[dict[int, str], int, bytes]:
    """Notes by row, the first row that was read, and the document: 4 bytes of length, JSON of that length, the rest."""
    at = 4 + int.from_bytes(given[:4], "big")
    said = orjson.loads(given[4:at])
    return {int(row): text for row, text in said["notes"].items()}, said["first_row"], given[at:]


def annotated(document: bytes, notes: Mapping[int, str], first_row: int) -> bytes | None:
    """The document with the column; None for a format without columns.

    Rows count from 1 as in the report: of a workbook as it shows them, of a text the first line of each record.
    """
    if document.startswith(b"PK"):
        workbook = open_workbook(document)
        return None if isinstance(workbook, Unreadable) else _annotated_workbook(workbook, notes, first_row)
    if document.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(_NOT_TABLES):
        return None
    return _annotated_text(document, notes, first_row)


# -- workbooks ---------------------------------------------------------------------------------------------------------


def _annotated_workbook(workbook: CalamineWorkbook, notes: Mapping[int, str], first_row: int) -> bytes:
    sheets = [
        (each.name, [list(cells) for cells in sheet_rows(workbook.get_sheet_by_name(each.name))])
        for each in workbook.sheets_metadata
        if each.typ is SheetTypeEnum.WorkSheet
    ]
    noted = _noted_sheet(sheets, notes, first_row)
    made = BytesIO()
    options = {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    with xlsxwriter.Workbook(made, options) as book:
        faulty = book.add_format({"bg_color": "#FDE2E2", "text_wrap": True, "valign": "top"})
        formats = {
            datetime: book.add_format({"num_format": "dd/mm/yyyy hh:mm"}),
            date: book.add_format({"num_format": "dd/mm/yyyy"}),
            time: book.add_format({"num_format": "hh:mm"}),
            timedelta: book.add_format({"num_format": "[h]:mm"}),
            str: book.add_format({"num_format": "@"}),  # so that what is typed over it stays a text, zeros and all
        }
        for index, (name, rows) in enumerate(sheets):
            sheet = book.add_worksheet(name)
            for at, cells in enumerate(rows):
                for column, cell in enumerate(cells):
                    if cell is not None:
                        sheet.write(at, column, cell, formats.get(type(cell)))
            if index == noted:
                column = max((len(cells) for cells in rows), default=0)
                sheet.set_column(column, column, 60)
                sheet.write_string(_title_row(rows, first_row), column, ERRORS_TITLE)
                for row, text in notes.items():
                    sheet.write_string(row - 1, column, text, faulty)
                sheet.activate()
    return made.getvalue()


def _noted_sheet(sheets: Sequence[tuple[str, list[list[Cell]]]], notes: Mapping[int, str], first_row: int) -> int:
    """The sheet that was read: the first that has something in every row that there is a note for."""
    wanted = {*notes, first_row}
    for index, (_, rows) in enumerate(sheets):
        if all(row <= len(rows) and any(map(is_filled, rows[row - 1])) for row in wanted):
            return index
    return 0


def _title_row(rows: Sequence[Sequence[Cell]], first_row: int) -> int:
    """Where the heading is (from 0): of the rows above the first that was read, the one with the most cells."""
    above = rows[: max(first_row - 1, 1)]
    return max(range(len(above)), key=lambda at: (sum(map(is_filled, above[at])), at), default=0)


# -- texts -------------------------------------------------------------------------------------------------------------


def _annotated_text(document: bytes, notes: Mapping[int, str], first_row: int) -> bytes:
    """UTF-8 with a byte order mark, whatever the charset was: spreadsheets read it, and it holds every letter."""
    written, _ = decoded(document)
    lines = list(io.StringIO(written or "", newline=""))
    separator = max(SEPARATORS, key=lambda each: sum(line.count(each) for line in lines[:10]))
    records = _records(lines, separator)
    width = max((len(cells) for _, cells in records), default=0)
    heading = max(
        (record for record in records if record[0] < first_row),
        key=lambda record: (sum(map(is_filled, record[1])), record[0]),
        default=(0, []),
    )[0]
    made = io.StringIO()
    writer = csv.writer(made, delimiter=separator, lineterminator="\r\n")
    for number, cells in records:
        note = ERRORS_TITLE if number == heading else notes.get(number, "")
        writer.writerow([*cells, *[""] * (width - len(cells)), note])
    return (_BYTE_ORDER_MARK + made.getvalue()).encode("utf-8", "replace")


def _records(lines: Sequence[str], separator: str) -> list[tuple[int, list[str]]]:
    """The cells of each record under the number of its first line; what is not quoted as it should be stays a line."""
    reader = csv.reader(lines, delimiter=separator)
    records = []
    while True:
        number = reader.line_num + 1
        try:
            records.append((number, next(reader)))
        except StopIteration:
            return records
        except csv.Error:
            records.append((number, lines[number - 1].rstrip("\r\n").split(separator)))
