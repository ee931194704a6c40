"""Blank guest lists to fill in (mẫu danh sách khách), one per kind of facility, for the connector `spreadsheet`.

Every cell below the heading is text, so that a spreadsheet neither eats leading zeros nor swaps day and month. Coded
columns offer their codes to choose from; a commune is offered once its province is chosen. What people write instead,
a former name or a code alone, is not held up here: the connector tells about it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from typing import Any

import xlsxwriter
from xlsxwriter.utility import xl_col_to_name

from schemas.codes import COMMUNES, FacilityKind, Reason, table, written_code
from schemas.columns import title
from schemas.stay import DEPARTURE_OPTIONAL, ROOM_REQUIRED

ROWS = 1_000
"""How many rows below the example offer codes and notes; a list may go on below them."""

_HEADING_ROW, _EXAMPLE_ROW = 2, 3  # from 0
_CODES_SHEET = "codes"
_MADE_ON = datetime(2025, 7, 1, tzinfo=UTC)  # else the bytes would tell the time of writing


@dataclass(frozen=True, slots=True)
class Form:
    """A workbook and its entity tag: equal tags mean equal bytes."""

    content: bytes
    tag: str


@cache
def blank_form(kind: FacilityKind) -> Form:
    """The blank list for a kind of facility, the same bytes for the same program."""
    output = BytesIO()
    book = xlsxwriter.Workbook(
        output, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    )
    book.set_properties({"created": _MADE_ON.replace(tzinfo=None)})
    columns = list(_columns(kind))
    guests, guide = book.add_worksheet("Khách lưu trú"), book.add_worksheet("Hướng dẫn")
    lists = _write_codes(book)
    _write_guests(book, guests, kind, columns, lists)
    _write_guide(book, guide, columns)
    book.close()
    content = output.getvalue()
    return Form(content, hashlib.sha256(content).hexdigest()[:16])


# -- columns -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Column:
    """One column of a form: what it is called, whether it must be filled, how, and what the example holds."""

    name: str
    heading: str
    required: bool
    vi: str
    en: str
    example: str


_ALWAYS = frozenset({"full_name", "birth_date", "document_type", "document_number", "arrived", "reason"})
_OF_DORMITORY = frozenset({FacilityKind.INDUSTRIAL_ZONE_HOUSING, FacilityKind.RENTAL_HOUSING})
_LISTS = {
    "gender": "genders",
    "nationality": "nationalities",
    "document_type": "document_types",
    "residence_kind": "residence_kinds",
    "province": "provinces",
    "reason": "reasons",
    "relationship": "kinship",
}
_NOTES = {
    "running_number": ("Số thứ tự, có thể bỏ trống.", "The number of the line; may stay empty."),
    "full_name": ("Chữ in hoa có dấu, đúng như giấy tờ.", "As the document writes it."),
    "birth_date": (
        "dd/MM/yyyy; giấy tờ chỉ ghi tháng hoặc năm thì ghi MM/yyyy hoặc yyyy.",
        "dd/MM/yyyy, or MM/yyyy or yyyy if the document says no more.",
    ),
    "gender": ("Chọn trong danh sách.", "Choose from the list."),
    "nationality": (
        "Bắt buộc với hộ chiếu và trẻ không có giấy tờ; bỏ trống với giấy tờ Việt Nam thì hiểu là Việt Nam.",
        "Required with a passport and without a document; Viet Nam if it is empty beside a Vietnamese document.",
    ),
    "document_type": ("Chọn trong danh sách.", "Choose from the list."),
    "document_number": (
        "Đủ chữ số, kể cả số 0 ở đầu. Trẻ em chưa có giấy tờ: bỏ trống cả loại và số, ghi người giám hộ.",
        "With all digits, leading zeros too. A child without a document: leave type and number empty, name a guardian.",
    ),
    "document_name": ("Chỉ khi loại giấy tờ là 9.", "Only for document type 9."),
    "phone": ("Không bắt buộc.", "May stay empty."),
    "residence_kind": ("Chọn trong danh sách.", "Choose from the list."),
    "province": ("Chọn trong danh sách 34 tỉnh, thành phố.", "Choose one of the 34 provinces."),
    "ward": (
        "Chọn tỉnh trước rồi chọn trong danh sách; có thể ghi tên cũ kèm huyện.",
        "Choose the province first; a former name with its district will do.",
    ),
    "address": ("Số nhà, đường phố, thôn.", "House, street, hamlet."),
    "building": ("Tòa nhà, dãy, khu.", "Building or block."),
    "room": ("Số phòng; với cơ sở y tế: khoa và phòng.", "The room; in a hospital the department and room."),
    "bed": ("Số giường, nếu có.", "The bed, if there are several."),
    "arrived": (
        "dd/MM/yyyy HH:mm; không ghi giờ thì hiểu là 00:00.",
        "dd/MM/yyyy HH:mm; without a time it means 00:00.",
    ),
    "departs": ("dd/MM/yyyy; không ghi giờ thì hiểu là 12:00.", "dd/MM/yyyy; without a time it means 12:00."),
    "reason": ("Chọn trong danh sách.", "Choose from the list."),
    "reason_text": ("Bắt buộc khi lý do là 20.", "Required for reason 20."),
    "permitted_stay_until": (
        "Với người nước ngoài: ngày hết hạn được phép tạm trú, không phải hạn hộ chiếu.",
        "For foreigners: until when they may stay, not the passport's expiry.",
    ),
    "guardian": ("Họ tên người giám hộ của trẻ không có giấy tờ.", "Who stands for a child that has no document."),
    "relationship": ("Chọn trong danh sách: cha, mẹ …", "Choose from the list: father, mother …"),
    "guardian_number": (
        "Số CCCD, CMND hoặc hộ chiếu của người giám hộ.",
        "The number of the guardian's card or passport.",
    ),
    "party": ("Tên hoặc mã đoàn, giống nhau cho cả đoàn.", "The party's name, the same for all of it."),
    "party_head": ("Ghi x ở dòng của trưởng đoàn.", "An x in the line of the head of the party."),
    "note": ("Không bắt buộc.", "May stay empty."),
    "source_ref": (
        "Mã riêng cho từng lượt khách, nếu phần mềm của cơ sở có; gửi lại cùng mã không tạo bản trùng.",
        "A name of the stay in your own system, if there is one; the same again makes no second declaration.",
    ),
}
_EXAMPLE = {
    "full_name": "[VÍ DỤ] NGUYỄN VĂN MẪU",
    "birth_date": "14/05/1990",
    "document_number": "000090000001",
    "phone": "0000000001",
    "ward": "Phường Phố Hiến",
    "address": "Số 1, phố Mẫu",
    "building": "A",
    "room": "203",
    "arrived": "23/11/2026 14:05",
    "departs": "25/11/2026",
}
_EXAMPLE_CODES: Mapping[str, int | str] = {
    "gender": "M",
    "nationality": "VNM",
    "document_type": 1,
    "residence_kind": 1,
    "province": "109",
}


def _columns(kind: FacilityKind) -> Iterator[_Column]:
    reason = (
        Reason.MEDICAL_TREATMENT
        if kind is FacilityKind.MEDICAL_FACILITY
        else Reason.LABOUR
        if kind in _OF_DORMITORY
        else Reason.TOURISM
    )
    headings = {"room": "Khoa/ Phòng"} if kind is FacilityKind.MEDICAL_FACILITY else {}
    required = _ALWAYS | ({"room"} if kind in ROOM_REQUIRED else set())
    required |= set() if kind in DEPARTURE_OPTIONAL else {"departs"}
    for name in _names(kind):
        heading = headings.get(name, title(name))
        code = int(reason) if name == "reason" else _EXAMPLE_CODES.get(name)
        example = _EXAMPLE.get(name, "") if code is None else written_code(_LISTS[name], code)
        yield _Column(name, heading, name in required, *_NOTES[name], example)


def _names(kind: FacilityKind) -> Iterator[str]:
    yield from ("running_number", "full_name", "birth_date", "gender", "nationality", "document_type")
    yield from ("document_number", "document_name", "phone", "residence_kind", "province", "ward", "address")
    yield from ("arrived", "departs")
    if kind in _OF_DORMITORY:
        yield "building"
    yield "room"
    if kind is FacilityKind.INDUSTRIAL_ZONE_HOUSING or kind is FacilityKind.MEDICAL_FACILITY:
        yield "bed"
    yield from ("reason", "reason_text", "permitted_stay_until")
    yield from ("guardian", "relationship", "guardian_number", "party", "party_head", "note", "source_ref")


# -- sheets ------------------------------------------------------------------------------------------------------------


def _write_codes(book: Any) -> Mapping[str, str]:
    """A hidden sheet with the codes to choose from; the formulas of the lists by column of the form."""
    sheet = book.add_worksheet(_CODES_SHEET)
    sheet.hide()
    lists = {}
    for index, (column, name) in enumerate(_LISTS.items()):
        rows = sorted(table(name).rows, key=lambda row: row.code != "VNM")  # Viet Nam first, the others as they stand
        sheet.write_column(0, index, [row.written for row in rows])
        letter = xl_col_to_name(index, col_abs=True)
        lists[column] = f"={_CODES_SHEET}!{letter}$1:{letter}${len(rows)}"
    provinces = {str(row.code): row.written for row in table("provinces").rows}
    communes = sorted(COMMUNES.values(), key=lambda row: (row.parent, row.code))
    of_province, named = (xl_col_to_name(len(_LISTS) + offset, col_abs=True) for offset in (0, 1))
    sheet.write_column(0, len(_LISTS), [provinces[row.parent or ""] for row in communes])
    sheet.write_column(0, len(_LISTS) + 1, [row.vi for row in communes])
    column = f"{_CODES_SHEET}!{of_province}:{of_province}"
    lists["ward"] = (
        f"=OFFSET({_CODES_SHEET}!{named}$1,MATCH({{province}},{column},0)-1,0,COUNTIF({column},{{province}}),1)"
    )
    return lists


def _write_guests(book: Any, sheet: Any, kind: FacilityKind, columns: list[_Column], lists: Mapping[str, str]) -> None:
    as_text = book.add_format({"num_format": "@"})
    heading = book.add_format({"bold": True, "text_wrap": True, "border": 1, "bg_color": "#DDEBF7", "valign": "top"})
    example = book.add_format({"num_format": "@", "italic": True, "font_color": "#808080"})
    name = next(row.vi for row in table("facility_kinds").rows if row.code == kind)
    sheet.write_string(0, 0, f"Danh sách khách lưu trú – {name}", book.add_format({"bold": True, "font_size": 14}))
    sheet.write_string(1, 0, "Cột có dấu * là bắt buộc. Dòng ví dụ không được khai báo. Xem trang Hướng dẫn.")
    province = next(
        xl_col_to_name(index, col_abs=True) for index, each in enumerate(columns) if each.name == "province"
    )
    for index, column in enumerate(columns):
        sheet.set_column(index, index, 6 if column.name == "running_number" else 20, as_text)
        sheet.write_string(_HEADING_ROW, index, f"{column.heading} *" if column.required else column.heading, heading)
        sheet.write_string(_EXAMPLE_ROW, index, column.example, example)
        rule = {
            "validate": "any",
            "input_title": column.heading,
            "input_message": f"{column.vi}\n{column.en}",
            "error_type": "information",
            "show_error": False,  # the connector understands more than the lists
        }
        if column.name in lists:
            source = lists[column.name].format(province=f"{province}{_EXAMPLE_ROW + 1}")
            rule |= {"validate": "list", "source": source}
        sheet.data_validation(_EXAMPLE_ROW, index, _EXAMPLE_ROW + ROWS, index, rule)
    sheet.freeze_panes(_HEADING_ROW + 1, 2)


_GUIDE = (
    "Cách ghi danh sách khách lưu trú · How to fill in the list",
    "Mỗi dòng một khách. Không đổi tên cột; có thể xoá cột không bắt buộc, đổi thứ tự cột, thêm dòng.",
    "One guest per line. Keep the headings; optional columns may go, columns may change places, lines may be added.",
    "Dòng có [VÍ DỤ] trong họ tên là ví dụ và không được khai báo: có thể xoá, hoặc ghi đè khách đầu tiên lên đó.",
    "The line with [VÍ DỤ] in the name is an example and not declared: delete it, or write your first guest over it.",
    "Trẻ em chưa có giấy tờ: bỏ trống loại và số giấy tờ, ghi người giám hộ, quan hệ và số giấy tờ người giám hộ.",
    "A child without a document: leave type and number empty; name the guardian, the kinship, the guardian's number.",
    "Ghi ngày dạng chữ dd/MM/yyyy. Ngày có thể bị đảo ngày và tháng sẽ bị từ chối, không bị đoán.",
    "Write dates as text, dd/MM/yyyy. A date whose day and month may be swapped is refused, never guessed.",
)


def _write_guide(book: Any, sheet: Any, columns: list[_Column]) -> None:
    bold, wrapped = book.add_format({"bold": True}), book.add_format({"text_wrap": True, "valign": "top"})
    sheet.set_column(0, 0, 28, wrapped)
    sheet.set_column(1, 1, 12, wrapped)
    sheet.set_column(2, 3, 60, wrapped)
    for row, line in enumerate(_GUIDE):
        sheet.write_string(row, 0, line, bold if row == 0 else None)
    start = len(_GUIDE) + 1
    sheet.write_row(start, 0, ["Tiêu đề cột", "Bắt buộc", "Cách ghi", "How"], bold)
    for row, column in enumerate(columns, start + 1):
        sheet.write_row(row, 0, [column.heading, "có" if column.required else "", column.vi, column.en], wrapped)
