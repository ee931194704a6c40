"""Workbooks in the Ministry's form, cell by cell, for the tests of their reader."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date, datetime, time
from io import BytesIO
from typing import Any

import xlsxwriter

from connectors.official_xlsx import COLUMNS, SHEET

TITLES = {
    "A": "STT", "B": " HỌ  TÊN* ", "C": "NGÀY SINH*", "D": "GIỚI TÍNH*", "E": "QUỐC TỊCH*", "F": "LOẠI GIẤY TỜ *",
    "G": "TÊN GIẤY TỜ", "H": "SỐ GIẤY TỜ*", "I": "SỐ ĐIỆN THOẠI", "N": "NGÀY ĐẾN*", "O": "NGÀY ĐI DỰ KIẾN*",
    "P": "SỐ PHÒNG/ KHOA", "Q": "LÝ DO CƯ TRÚ*",
}  # fmt: skip
EXAMPLE = {"A": "1", "B": "[EXAMPLE] NGUYỄN VĂN MẪU", "C": "01/01/1990", "H": "000090999999", "N": "01/01/2026"}
GUEST: Mapping[str, Any] = {
    "A": 1, "B": "NGUYỄN THỊ THỬ", "C": "14/05/1990", "D": "F - Nữ", "E": "VNM - Việt Nam", "F": "1 - Thẻ CCCD",
    "H": "000190000001", "N": "23/11/2026 14:05", "O": "25/11/2026", "P": "203", "Q": "1 - Du lịch",
}  # fmt: skip


def workbook(rows: Mapping[int, Mapping[str, Any]], *, sheet: str = SHEET, heading: bool = True) -> bytes:
    """A workbook with these rows (number → column → value) under the heading and example of the form.

    A date or datetime becomes a real date cell, an `Ellipsis` the error #DIV/0!, everything else what it is.
    """
    form: dict[int, Mapping[str, Any]] = {2: TITLES, 4: EXAMPLE} if heading else {}
    cells = {**form, **rows}
    return sheets(
        {sheet: [[cells.get(number, {}).get(each) for each in COLUMNS] for number in range(1, max(cells) + 1)]}
    )


def sheets(pages: Mapping[str, Sequence[Sequence[Any]]], *, hidden: Sequence[str] = ()) -> bytes:
    """A workbook with these sheets (name → rows of values, written like those of `workbook`)."""
    output = BytesIO()
    book = xlsxwriter.Workbook(output, {"in_memory": True, "strings_to_formulas": False})
    day = book.add_format({"num_format": "dd/mm/yyyy"})
    moment = book.add_format({"num_format": "dd/mm/yyyy hh:mm:ss"})
    clock = book.add_format({"num_format": "hh:mm"})
    for name, rows in pages.items():
        page = book.add_worksheet(name)
        if name in hidden:
            page.hide()
        for row, cells in enumerate(rows):
            for column, value in enumerate(cells):
                if value is ...:
                    page.write_formula(row, column, "=1/0", None, "#DIV/0!")
                elif isinstance(value, datetime):
                    page.write_datetime(row, column, value, moment)
                elif isinstance(value, date | time):
                    page.write_datetime(row, column, value, day if isinstance(value, date) else clock)
                elif value is not None:
                    page.write(row, column, value)
    book.close()
    return output.getvalue()
