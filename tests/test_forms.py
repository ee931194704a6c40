"""The blank lists: what is filled in is read back without a word, by the connector and by the declaration."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping
from datetime import UTC, datetime
from io import BytesIO
from typing import Any

import openpyxl
import orjson
import pytest

from asm_daemon.forms import ROWS, blank_form
from connectors.spreadsheet import read
from schemas.act import Act, Unreadable
from schemas.codes import COMMUNES, FacilityKind, table
from schemas.stay import DEPARTURE_OPTIONAL, ROOM_REQUIRED, DeclarationContext, StayDeclaration

HEADING, EXAMPLE, FIRST = 3, 4, 5
GUEST: Mapping[str, Any] = {
    "STT": 1, "Họ tên": "NGUYỄN THỊ THỬ", "Ngày sinh": "05/06/1990", "Giới tính": "F - Nữ",
    "Quốc tịch": "VNM - Việt Nam", "Loại giấy tờ": "1 - Thẻ CCCD", "Số giấy tờ": "000190000001",
    "Số điện thoại": "0000000001", "Nơi cư trú hiện nay": "1 - Thường trú", "Tỉnh/ Thành phố": "109 - Hưng Yên",
    "Phường/ Xã/ Đặc khu": "Phường Phố Hiến", "Địa chỉ chi tiết": "Số 1, phố Mẫu", "Ngày đến": "23/11/2026 14:05",
    "Ngày đi dự kiến": "25/11/2026", "Tòa nhà": "A", "Số phòng": "203", "Khoa/ Phòng": "Nội 203", "Giường": "2",
    "Lý do": "1 - Du lịch", "Ghi chú": "x",
}  # fmt: skip


def opened(kind: FacilityKind) -> Any:
    """The form for `kind` as a spreadsheet program holds it."""
    return openpyxl.load_workbook(BytesIO(blank_form(kind).content))


def headings(book: Any) -> list[str]:
    """What stands over the columns, with the stars of the required ones."""
    return [str(cell.value) for cell in book.worksheets[0][HEADING]]


def filled(book: Any, *guests: Mapping[str, Any]) -> list[Act | Unreadable]:
    """What the connector reads of a form with these guests (heading → value) below its example."""
    columns = {heading.removesuffix(" *"): column for column, heading in enumerate(headings(book), 1)}
    for row, guest in enumerate(guests, FIRST):
        for heading, value in guest.items():
            if heading in columns:
                book.worksheets[0].cell(row, columns[heading], value)
    output = BytesIO()
    book.save(output)
    return list(read(output.getvalue()))


def is_declared(result: Act | Unreadable, kind: FacilityKind) -> bool:
    """Whether a row becomes a valid declaration of a facility of `kind`."""
    if isinstance(result, Unreadable):
        return False
    context = DeclarationContext(kind, datetime(2026, 11, 23, 10, tzinfo=UTC))
    try:
        StayDeclaration.model_validate_json(orjson.dumps(result.fields), context=context)
    except ValueError:
        return False
    return True


@pytest.mark.parametrize("kind", FacilityKind)
def test_an_empty_form_is_no_success_and_has_no_formula(kind: FacilityKind) -> None:
    content = blank_form(kind).content
    [result] = read(content)
    assert isinstance(result, Unreadable)
    assert (result.row, [fault.code for fault in result.violations]) == (0, ["no_rows"])
    with zipfile.ZipFile(BytesIO(content)) as parts:
        assert not any(b"<f>" in parts.read(name) for name in parts.namelist())


@pytest.mark.parametrize("kind", FacilityKind)
def test_exactly_the_columns_with_a_star_have_to_be_filled(kind: FacilityKind) -> None:
    book = opened(kind)
    starred = [heading.removesuffix(" *") for heading in headings(book) if heading.endswith(" *")]
    assert ("Ngày đi dự kiến" in starred) == (kind not in DEPARTURE_OPTIONAL)
    assert bool({"Số phòng", "Khoa/ Phòng"} & set(starred)) == (kind in ROOM_REQUIRED)
    whole = {heading: GUEST[heading] for heading in starred}
    lacking = [{**whole, heading: None} for heading in starred]
    first, *others = filled(book, whole, *lacking)
    assert is_declared(first, kind)
    refused = [heading for heading, result in zip(starred, others, strict=True) if not is_declared(result, kind)]
    # Twelve digits say their type themselves, and the row is then a second one of the first guest.
    assert refused == starred
    [fault] = others[starred.index("Loại giấy tờ")].violations
    assert fault.code == "duplicate_row"


@pytest.mark.parametrize("kind", FacilityKind)
def test_what_is_filled_in_is_read_back_without_a_violation(kind: FacilityKind) -> None:
    book = opened(kind)
    name = book.worksheets[0].cell(EXAMPLE, 2)
    name.value = str(name.value).removeprefix("[VÍ DỤ] ")  # the example is a guest like any other without its mark
    other = {**GUEST, "Họ tên": "TRẦN VĂN MẪU", "Giới tính": "M - Nam", "Số giấy tờ": "000090000002"}
    results = filled(book, GUEST, other)
    assert [result.row for result in results] == [EXAMPLE, FIRST, FIRST + 1]
    assert all(isinstance(result, Act) and result.warnings == () for result in results)
    assert all(is_declared(result, kind) for result in results)
    guest = results[1]
    assert isinstance(guest, Act)
    assert guest.fields["guest"]["birth_date"] == "1990-06-05"
    assert guest.fields["guest"]["residence"]["ward"] == "Phường Phố Hiến"
    assert guest.fields["room"]


def test_the_cells_are_texts_and_the_coded_ones_offer_codes_that_are_understood() -> None:
    book = opened(FacilityKind.HOTEL_4_STAR)
    sheet, codes = book.worksheets[0], book["codes"]
    assert codes.sheet_state == "hidden"
    titles = [heading.removesuffix(" *") for heading in headings(book)]
    styles = sheet.column_dimensions.values()
    assert {style.number_format for style in styles} == {"@"}
    assert sum(style.max - style.min + 1 for style in styles) == len(titles)
    offered = {}
    for rule in sheet.data_validations.dataValidation:
        [cells] = rule.sqref.ranges
        assert (cells.min_row, cells.max_row, bool(rule.showErrorMessage)) == (EXAMPLE, EXAMPLE + ROWS, False)
        assert rule.prompt
        if rule.type == "list":
            offered[titles[cells.min_col - 1]] = rule.formula1
    assert offered.pop("Phường/ Xã/ Đặc khu").startswith("OFFSET(codes!")
    assert set(offered) == {
        "Giới tính", "Quốc tịch", "Loại giấy tờ", "Nơi cư trú hiện nay", "Tỉnh/ Thành phố", "Lý do", "Quan hệ",
    }  # fmt: skip
    values = [(heading, value) for heading, area in offered.items() for (value,) in codes[area.partition("!")[2]]]
    guardian = {"Người giám hộ": "TRẦN THỊ MẪU", "Quan hệ": "2 - Mẹ", "Số giấy tờ người giám hộ": "000190000009"}
    anywhere = {**GUEST, "Phường/ Xã/ Đặc khu": None}  # the ward of one province would be wrong in the 33 others
    guests = [
        {**anywhere, **guardian, heading: cell.value, "Số giấy tờ": f"{number:012}"}
        for number, (heading, cell) in enumerate(values)
    ]
    results = filled(book, *guests)
    assert len(results) == len(values) > 300
    assert all(isinstance(result, Act) and result.warnings == result.violations == () for result in results)


@pytest.mark.parametrize("kind", FacilityKind)
def test_a_child_without_a_document_and_the_party_can_be_filled_in(kind: FacilityKind) -> None:
    mother = {**GUEST, "Họ tên": "TRẦN THỊ MẪU", "Số giấy tờ": "000190000009", "Đoàn": "Nhà Mẫu", "Trưởng đoàn": "x"}
    child = {
        **GUEST, "Họ tên": "TRẦN BÉ MẪU", "Ngày sinh": "05/06/2020", "Loại giấy tờ": None, "Số giấy tờ": None,
        "Quốc tịch": "VNM - Việt Nam", "Người giám hộ": "TRẦN THỊ MẪU", "Quan hệ": "2 - Mẹ",
        "Số giấy tờ người giám hộ": "000190000009", "Đoàn": "Nhà Mẫu",
    }  # fmt: skip
    results = filled(opened(kind), mother, child)
    assert all(is_declared(result, kind) for result in results)
    [_, read] = results
    assert isinstance(read, Act)
    assert read.fields["guest"]["guardian"]["relationship"] == 2
    assert read.fields["party"] == {"ref": "Nhà Mẫu", "role": "member"}


def test_the_communes_of_a_province_stand_together_as_their_list_expects() -> None:
    codes = opened(FacilityKind.GUESTHOUSE)["codes"]
    pairs = [(province, name) for *_, province, name in codes.iter_rows(values_only=True)]
    assert len(pairs) == len(COMMUNES)
    provinces = [province for province, _ in pairs]
    assert sorted(provinces, key=provinces.index) == provinces  # OFFSET and COUNTIF take one run of rows
    assert set(provinces) == {row.written for row in table("provinces").rows}
    assert ("109 - Hưng Yên", "Phường Phố Hiến") in pairs


def test_a_form_is_made_the_same_again() -> None:
    form = blank_form(FacilityKind.GUESTHOUSE)
    blank_form.cache_clear()
    assert blank_form(FacilityKind.GUESTHOUSE) == form
    assert len({blank_form(kind).tag for kind in FacilityKind}) == len(FacilityKind)
