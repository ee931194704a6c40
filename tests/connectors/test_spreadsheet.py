"""A guest list of the owner's own: headings as people write them, and nothing lost without a word."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import official_xlsx
from connectors.spreadsheet import connector
from connectors.tables import vocabulary
from schemas.act import Act, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.columns import HEADINGS
from schemas.stay import DeclarationContext, StayDeclaration
from tests.connectors.outcomes import accepted, faults
from tests.connectors.vietnamese import cp1258
from tests.connectors.workbooks import GUEST, sheets, workbook

HEADING = "Họ tên;Ngày sinh;Giới tính;Loại giấy tờ;Số giấy tờ;Ngày đến;Ngày đi;Phòng;Lý do"
LINE = "Nguyễn Thị Thử;14/05/1990;Nữ;1 - Thẻ CCCD;000190000001;23/11/2026 14:05;25/11/2026;203;Du lịch"
OTHER = "Trần Văn Mẫu;01/02/2001;Nam;8;000201000002;23/11/2026;24/11/2026;204;1"
TITLES = HEADING.split(";")
CELLS: list[Any] = LINE.split(";")
NINE = datetime.combine(date(2026, 12, 11), time(9))  # as a workbook holds it: without a zone


def read(*lines: str, charset: str = "utf-8") -> list[Act | Unreadable]:
    return list(connector.read("\n".join(lines).encode(charset)))


def read_sheet(*rows: list[Any]) -> list[Act | Unreadable]:
    return list(connector.read(sheets({"Khách": list(rows)})))


def read_guest(**changes: Any) -> Act | Unreadable:
    """The one guest of a sheet whose heading is row 1, with the cells under some headings changed or added."""
    cells = dict(zip(TITLES, CELLS, strict=True)) | {title.replace("_", " "): cell for title, cell in changes.items()}
    [result] = read_sheet(list(cells), list(cells.values()))
    return result


def warned(result: Act | Unreadable) -> list[tuple[str, str, str | None]]:
    return [(each.code, each.pointer, each.place) for each in accepted(result).warnings]


def guest(result: Act | Unreadable) -> dict[str, Any]:
    held: dict[str, Any] = accepted(result).fields["guest"]
    return held


# -- documents that are refused as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "document",
    [
        b"", b"\n \n", HEADING.encode(), f"{HEADING}\n;;;\n".encode(), sheets({"Trang 1": []}),
        sheets({"Khách": [TITLES]}), sheets({"Khách": [["STT", *TITLES], [1], [2]]}),
        sheets({"Khách": [TITLES, ["[VÍ DỤ] Nguyễn Văn Mẫu", *CELLS[1:]]]}),
    ],
)  # fmt: skip
def test_a_list_without_guests_is_not_a_success(document: bytes) -> None:
    [result] = connector.read(document)
    assert (result.row, faults(result)) == (0, [("no_rows", None)])


def test_an_old_workbook_and_a_locked_one_are_told_what_to_do() -> None:
    [result] = connector.read(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2_000))
    assert (result.row, faults(result)) == (0, [("old_or_locked_workbook", None)])
    assert ".xls" in connector.suffixes


def test_every_missing_column_is_named_at_once_and_one_number_of_three_is_enough() -> None:
    [result] = read("Họ tên;Giới tính;Phòng", "Nguyễn Thị Thử;Nữ;203")
    assert result is not None
    assert result.violations
    assert [fault.vi for fault in result.violations] == [
        "Thiếu cột Ngày sinh.", "Thiếu cột Số giấy tờ.", "Thiếu cột Ngày đến.", "Thiếu cột Lý do.",
    ]  # fmt: skip
    for separator in ";,\t":
        [result] = read(f"Họ tên{separator}Ngày sinh", f"X{separator}1990")
        assert [fault.vi for fault in result.violations] == [
            "Thiếu cột Số giấy tờ.", "Thiếu cột Ngày đến.", "Thiếu cột Lý do.",
        ]  # fmt: skip
    [result] = read("Họ tên;Ngày sinh;Hộ chiếu;Quốc tịch;Ngày đến;Lý do", "X;1990;TEST00001;KOR;23/11/2026;1")
    assert guest(result)["document"] == {"type": 4, "number": "TEST00001"}


def test_a_column_that_stands_there_twice_is_refused_because_nobody_knows_which_one_counts() -> None:
    [result] = read(f"{HEADING};Họ và tên (in hoa)", f"{LINE};X")
    assert (result.row, faults(result)) == (0, [("repeated_column", None)])


def test_two_sheets_with_guests_are_refused_because_neither_may_be_left_out() -> None:
    [result] = connector.read(sheets({"T10": [TITLES, CELLS], "T11": [TITLES, CELLS]}))
    assert (result.row, faults(result)) == (0, [("several_sheets", None)])
    [result] = connector.read(sheets({"Ghi chú": [["Gì đó"]], "T10": [TITLES], "T11": [TITLES]}, hidden=["T10"]))
    assert faults(result) == [("no_rows", None)]


@pytest.mark.parametrize("document", [b"PK", b"PK\x03\x04" + bytes(100), b"\xff\xfea"])
def test_a_file_that_is_none_is_refused(document: bytes) -> None:
    [result] = connector.read(document)
    assert result.row == 0
    assert faults(result)[0][0] in {"unreadable_file", "undecodable"}


# -- lines that are refused --------------------------------------------------------------------------------------------


def test_every_fault_of_a_line_is_named_by_its_cell() -> None:
    result = read_guest(Họ_tên=None, Ngày_sinh="31/02/1990", Giới_tính="?", Loại_giấy_tờ="10", Lý_do="Đi chơi")
    assert faults(result) == [
        ("required", "A2"),
        ("wrong_date", "B2"),
        ("unknown_code", "C2"),
        ("unknown_code", "D2"),
        ("unknown_code", "I2"),
    ]


def test_a_fault_in_a_column_that_is_not_there_is_named_by_our_heading() -> None:
    [result] = read("Họ tên;Ngày sinh;Số giấy tờ;Ngày đến;Lý do", "X;1990;TEST00001;23/11/2026;1")
    assert faults(result) == [("required", "dòng 2, cột Loại giấy tờ"), ("required", "dòng 2, cột Quốc tịch")]


def test_a_spreadsheet_error_or_a_number_for_a_name_is_refused() -> None:
    assert faults(read_guest(Phòng="#N/A")) == [("cell_error", "H2")]
    assert faults(read_guest(Họ_tên=True, Số_giấy_tờ=1.5)) == [("wrong_type", "A2"), ("wrong_type", "E2")]


def test_a_guest_twice_in_one_list_is_refused_and_one_who_came_back_is_not() -> None:
    back = LINE.replace("14:05", "21:30")
    first, again, later = read(HEADING, LINE, LINE, back)
    accepted(first)
    assert faults(again) == [("duplicate_row", "dòng 3")]
    accepted(later)


def test_cells_beyond_the_heading_of_a_csv_file_may_have_shifted() -> None:
    [result] = read(HEADING, f"{LINE};x")
    assert faults(result)[0] == ("too_many_cells", "dòng 2")


@pytest.mark.parametrize("cell", ["25:00", "14:60", "2pm", "14:", "trưa", 0.5, 14])
def test_a_time_that_is_none_is_refused(cell: object) -> None:
    assert faults(read_guest(Giờ_đến=cell, Ngày_đến="23/11/2026")) == [("wrong_format", "J2")]


def test_two_times_of_arrival_that_differ_are_refused() -> None:
    assert faults(read_guest(Giờ_đến="15:00")) == [("contradicts", "F2")]


# -- dates -------------------------------------------------------------------------------------------------------------


def test_a_real_date_that_could_be_swapped_is_refused_while_nothing_shows_how_it_was_typed() -> None:
    result = read_guest(Ngày_sinh=date(1990, 6, 5), Ngày_đến=NINE, Ngày_đi=date(2026, 12, 12))
    assert faults(result) == [("ambiguous_date", "B2"), ("ambiguous_date", "F2")]


def test_a_real_date_with_a_day_over_twelve_shows_that_its_column_was_read_day_first() -> None:
    other = ["Trần Văn Mẫu", date(2001, 2, 1), "Nam", "8", "000201000002", date(2026, 11, 3), date(2026, 11, 4), 1, "1"]
    shown = [*CELLS[:5], date(2026, 11, 2), date(2026, 11, 23), "203", "1"]
    first, second = read_sheet(TITLES, shown, other)
    assert accepted(first).fields["arrived_at"] == "2026-11-02T00:00:00+07:00"
    assert faults(second) == [("ambiguous_date", "B3")]
    shown[1] = date(1990, 5, 14)
    first, second = read_sheet(TITLES, shown, other)
    assert guest(second)["birth_date"] == "2001-02-01"


def test_birth_dates_pasted_from_elsewhere_say_nothing_about_arrivals_that_were_typed() -> None:
    result = read_guest(Ngày_sinh=date(1990, 5, 14), Ngày_đến=date(2026, 11, 5))
    assert faults(result) == [("ambiguous_date", "F2")]


def test_one_text_with_the_month_first_makes_every_text_that_could_be_swapped_ambiguous() -> None:
    first, second = read(HEADING, LINE.replace("14/05/1990", "05/14/1990"), OTHER)
    assert faults(first) == [("wrong_date", "dòng 2, cột Ngày sinh")]
    assert faults(second) == [("ambiguous_date", "dòng 3, cột Ngày sinh")]


@pytest.mark.parametrize("cell", ["14:05", "14h05", "14 giờ 05", time(14, 5)])
def test_a_time_may_have_a_column_of_its_own(cell: object) -> None:
    act = accepted(read_guest(Giờ_đến=cell, Ngày_đến=date(2026, 11, 23), Giờ_trả_phòng="10h"))
    assert act.fields["arrived_at"] == "2026-11-23T14:05:00+07:00"
    assert act.fields["planned_departure_at"] == "2026-11-25T10:00:00+07:00"


# -- headings ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "titles",
    [
        ["HỌ TÊN*", "Ngày sinh (dd/MM/yyyy)", " giới  tính", "LOẠI GIẤY TỜ", "Số CCCD", "NGÀY ĐẾN:", "ngay di", "PHÒNG",
         "Lí do"],
        ["Ho ten", "ngay_sinh dd/mm/yyyy", "GioiTinh", "loai giay to", "cccd", "Check-in", "Check-out", "Phong",
         "Muc dich"],
        ["Name", "Date of birth", "Sex", "ID type", "ID number", "Arrival date", "Departure", "Room no.", "Purpose"],
        ["Họ và tên / Full name", "Ngày sinh\n(Date of birth)", "Giới tính | Gender", "Loại giấy tờ",
         "CMND/CCCD/Hộ chiếu", "Ngày đến/ Arrival", "Ngày trả phòng", "Số phòng/ Khoa", "Mục đích [mã]"],
    ],
)  # fmt: skip
def test_headings_are_recognised_as_people_write_them(titles: list[str]) -> None:
    [result] = read_sheet(titles, CELLS)
    assert accepted(result).warnings == ()
    assert accepted(result).fields == accepted(read(HEADING, LINE)[0]).fields


def test_every_heading_that_is_listed_means_its_own_column() -> None:
    words = vocabulary(HEADINGS, (), ())
    for column, names in HEADINGS.items():
        for name in names.split("|"):
            assert words.column_of(name) == column, name


def test_a_heading_on_several_lines_of_a_csv_file_is_one() -> None:
    heading = HEADING.replace("Ngày sinh", '"Ngày sinh\n(dd/MM/yyyy)"')
    [result] = read("DANH SÁCH;;", "", heading, LINE)
    assert accepted(result).row == 5


def test_titles_above_translations_below_and_numbered_columns_are_no_guests() -> None:
    english = [
        "Full name",
        "Birth date",
        "Gender",
        "Document type",
        "Document no",
        "Arrival",
        "Departure",
        "Room",
        "Reason",
    ]
    above = [["Khách sạn Mẫu"], [], ["Tháng 11/2026"]]
    for numbers in ([f"({number})" for number in range(1, 10)], [*range(1, 10)], [*"ABCDEFGHI"]):
        [result] = read_sheet(*above, TITLES, english, numbers, CELLS)
        assert accepted(result).row == 7


def test_unknown_columns_are_told_once_and_not_read() -> None:
    first, second = read(f"STT;{HEADING};Tiền phòng;", f"1;{LINE};100;x", f"2;{OTHER};200;")
    assert warned(first) == [("unknown_columns", "", "cột 11, cột 12")]
    assert warned(second) == []
    assert first.row == 2
    assert "100" not in str(accepted(first).fields)


def test_a_column_without_a_heading_is_told_if_it_holds_something() -> None:
    [result] = read_sheet([*TITLES, None, None], [*CELLS, None, "gì đó"])
    assert warned(result) == [("unknown_columns", "", "K1")]


def test_unknown_columns_are_told_by_the_first_row_that_is_taken_or_else_by_the_first() -> None:
    refused, taken = ["", *CELLS[1:], 100], [*CELLS, 100]
    first, second = read_sheet([*TITLES, "Tiền"], refused, taken)
    assert faults(first) == [("required", "A2")]
    assert warned(second) == [("unknown_columns", "", "J1")]
    first, second = read_sheet([*TITLES, "Tiền"], refused, refused)
    assert faults(first) == [("required", "A2"), ("unknown_columns", "J1")]
    assert faults(second) == [("required", "A3")]


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_charsets_and_separators_are_recognised(charset: str, separator: str) -> None:
    results = read(*(line.replace(";", separator) for line in (HEADING, LINE, OTHER)), charset=charset)
    assert [guest(result)["full_name"] for result in results] == ["Nguyễn Thị Thử", "Trần Văn Mẫu"]


def test_windows_1258_gives_composed_letters() -> None:
    results = connector.read(cp1258("\r\n".join((HEADING, LINE, OTHER))))
    assert [guest(result)["full_name"] for result in results] == ["Nguyễn Thị Thử", "Trần Văn Mẫu"]


# -- families ----------------------------------------------------------------------------------------------------------

CHILD: dict[str, Any] = {
    "Họ tên": "Trần Bé Mẫu", "Ngày sinh": "05/06/2020", "Loại giấy tờ": None, "Số giấy tờ": None,
    "Quốc tịch": "Việt Nam", "Người giám hộ": "Nguyễn Thị Thử", "Quan hệ": "Mẹ",
    "Số giấy tờ người giám hộ": "000190000001",
}  # fmt: skip


def test_neither_a_number_nor_a_guardian_is_refused_at_the_cell_of_the_number() -> None:
    lonely = CHILD | {"Người giám hộ": None, "Quan hệ": None, "Số giấy tờ người giám hộ": None}
    assert faults(read_guest(**lonely)) == [("required", "E2"), ("required", "D2")]


def test_of_a_guardian_name_kinship_and_number_are_wanted_and_a_childs_nationality() -> None:
    only_name = CHILD | {"Quan hệ": None, "Số giấy tờ người giám hộ": None, "Quốc tịch": None}
    assert faults(read_guest(**only_name)) == [("required", "L2"), ("required", "M2"), ("required", "J2")]
    assert faults(read_guest(**(CHILD | {"Người giám hộ": None}))) == [("required", "K2")]


@pytest.mark.parametrize("cell", ["Ba", "Bà", "Hàng xóm", 7])
def test_a_kinship_that_nobody_knows_or_that_may_mean_two_is_refused(cell: object) -> None:
    assert faults(read_guest(**(CHILD | {"Quan hệ": cell}))) == [("unknown_code", "L2")]


def test_a_document_type_without_a_number_is_a_number_that_is_missing_and_no_child() -> None:
    assert faults(read_guest(**(CHILD | {"Loại giấy tờ": "5 - Giấy khai sinh"}))) == [("required", "E2")]


def test_a_leader_without_a_party_is_refused() -> None:
    [(code, _)] = faults(read_guest(Trưởng_đoàn="x"))
    assert code == "required"


def test_a_child_twice_in_one_list_is_refused_and_its_twin_is_not() -> None:
    titles = list(dict(zip(TITLES, CELLS, strict=True)) | CHILD)
    rows = [
        list((dict(zip(TITLES, CELLS, strict=True)) | CHILD | {"Họ tên": name}).values())
        for name in ("Trần Bé Mẫu", "Trần Em Mẫu", "TRAN BE MAU")
    ]
    first, second, third = read_sheet(titles, *rows)
    accepted(first)
    accepted(second)
    assert faults(third) == [("duplicate_row", "dòng 4")]


def test_a_child_with_a_guardian_is_a_valid_declaration() -> None:
    read_child = read_guest(**CHILD)
    assert guest(read_child)["guardian"] == {
        "full_name": "Nguyễn Thị Thử",
        "relationship": 2,
        "document": {"number": "000190000001", "type": 1},
    }
    arrived_on = date(2026, 11, 23)
    context = DeclarationContext(FacilityKind.GUESTHOUSE, datetime(2026, 11, 23, 10, tzinfo=UTC), arrived_on)
    fields = orjson.dumps(accepted(read_child).fields)
    assert StayDeclaration.model_validate_json(fields, context=context).guest.document is None


@pytest.mark.parametrize(
    ("cell", "number", "kind", "warns"),
    [
        ("000190000001", "000190000001", 1, False),
        ("012345678", "012345678", 2, False),
        ("TEST00001", "TEST00001", 4, False),
        (34190000001, "034190000001", 1, True),
        (123456789, "123456789", 2, False),
    ],
)
def test_a_guardians_number_says_its_type_and_gets_its_lost_zeros_back(
    cell: object, number: str, kind: int, warns: bool
) -> None:
    result = read_guest(**(CHILD | {"Số giấy tờ người giám hộ": cell}))
    assert guest(result)["guardian"]["document"] == {"type": kind, "number": number}
    assert [code for code, *_ in warned(result)] == ["leading_zeros_restored"] * warns


@pytest.mark.parametrize(
    ("cell", "code"),
    [("Bố", 1), ("má", 2), ("3", 3), ("Bà ngoại", 3), ("Chị gái", 4), ("5 - Người giám hộ", 5), ("Uncle", 6)],
)
def test_a_kinship_is_a_code_a_name_or_what_people_say(cell: str, code: int) -> None:
    assert guest(read_guest(**(CHILD | {"Quan hệ": cell})))["guardian"]["relationship"] == code


@pytest.mark.parametrize(
    ("cell", "role"),
    [("x", "head"), ("Có", "head"), (True, "head"), (1, "head"), ("NGUYEN THI THU", "head"), (None, "member"),
     ("Không", "member"), (False, "member"), ("Trần Văn Mẫu", "member")],
)  # fmt: skip
def test_the_leader_is_marked_or_named(cell: object, role: str) -> None:
    result = read_guest(Đoàn="Nhà Mẫu", Trưởng_đoàn=cell)
    assert accepted(result).fields["party"] == {"ref": "Nhà Mẫu", "role": role}


def test_without_a_party_there_is_none() -> None:
    assert "party" not in accepted(read_guest(Đoàn=None, Trưởng_đoàn="không")).fields


# -- cells -------------------------------------------------------------------------------------------------------------


def test_what_is_read_is_a_valid_declaration() -> None:
    context = DeclarationContext(FacilityKind.GUESTHOUSE, datetime(2026, 11, 23, 10, tzinfo=UTC))
    for result in read(HEADING, LINE, OTHER):
        StayDeclaration.model_validate_json(orjson.dumps(accepted(result).fields), context=context)


def test_every_column_lands_in_its_place() -> None:
    act = accepted(
        read_guest(
            Mã_tham_chiếu="KS-1", Quốc_tịch="VNM - Việt Nam", Tên_giấy_tờ="Thẻ", SĐT="0000000001",
            Nơi_cư_trú_hiện_nay="1 - Thường trú", Tỉnh="109 - Hưng Yên", Xã="Phường Phố Hiến", Địa_chỉ="Số 1, phố Mẫu",
            Tòa_nhà="A", Giường="2", Lý_do_chi_tiết="Thăm", Thời_hạn_tạm_trú="30/11/2026", Ghi_chú="x",
        )
    )  # fmt: skip
    assert act.source_ref == "KS-1"
    assert act.fields == {
        "source_ref": "KS-1",
        "guest": {
            "full_name": "Nguyễn Thị Thử", "birth_date": "1990-05-14", "gender": "F", "nationality": "VNM",
            "document": {"type": 1, "number": "000190000001", "name": "Thẻ"}, "phone": "0000000001",
            "residence": {"kind": 1, "province": "109", "ward": "Phường Phố Hiến", "address": "Số 1, phố Mẫu"},
            "permitted_stay_until": "2026-11-30",
        },
        "arrived_at": "2026-11-23T14:05:00+07:00", "planned_departure_at": "2026-11-25T12:00:00+07:00",
        "room": "A-203-2", "reason": 1, "reason_text": "Thăm", "note": "x",
    }  # fmt: skip
    assert act.warnings == ()


@pytest.mark.parametrize("cell", [1, "1", 1.0, "1 - Thẻ CCCD", "Thẻ CCCD", "the cccd", "CCCD", "Căn cước công dân"])
def test_a_code_is_a_number_a_code_with_its_name_or_the_name(cell: object) -> None:
    assert guest(read_guest(Loại_giấy_tờ=cell))["document"]["type"] == 1


def test_a_number_cell_gets_its_lost_zeros_back_and_the_column_may_tell_the_type() -> None:
    result = read_guest(Số_giấy_tờ=190000001)
    assert guest(result)["document"]["number"] == "000190000001"
    assert warned(result) == [("leading_zeros_restored", "/guest/document/number", "E2")]
    [result] = read_sheet(
        ["Họ tên", "Ngày sinh", "CCCD", "Ngày đến", "Lý do"], ["X", "1990", 190000001, "23/11/2026", 1]
    )
    assert guest(result)["document"] == {"type": 1, "number": "000190000001"}


@pytest.mark.parametrize(
    ("numbers", "document", "nationality"),
    [
        (["", "000190000001", "000000001", "TEST00001"], {"type": 1, "number": "000190000001"}, "VNM"),
        (["", "", "000000001", "TEST00001"], {"type": 2, "number": "000000001"}, "VNM"),
        (["", "", "000190000001", ""], {"type": 1, "number": "000190000001"}, "VNM"),
        (["", "", "", "test 00001"], {"type": 4, "number": "TEST00001"}, "KOR"),
        (["000190000001", "", "", "TEST00001"], {"type": 1, "number": "000190000001"}, "VNM"),
    ],
)
def test_the_first_number_that_is_filled_counts_and_its_column_tells_the_type(
    numbers: list[str], document: dict[str, object], nationality: str
) -> None:
    titles = ["Họ tên", "Ngày sinh", "Quốc tịch", "Số giấy tờ", "CCCD", "CMND", "Hộ chiếu", "Ngày đến", "Lý do"]
    written = "" if nationality == "VNM" else nationality
    [result] = read_sheet(titles, ["X", "1990", written, *numbers, "23/11/2026", 1])
    assert guest(result)["document"] == document
    assert guest(result)["nationality"] == nationality


def test_a_text_gets_its_zeros_back_only_if_gender_and_year_then_agree() -> None:
    stripped = LINE.replace("000190000001", "190000001")
    [result] = read(HEADING, stripped)
    assert guest(result)["document"]["number"] == "000190000001"
    assert warned(result) == [("leading_zeros_restored", "/guest/document/number", "dòng 2, cột Số giấy tờ")]
    for doubtful in (stripped.replace("Nữ", "Nam"), stripped.replace("1990", "1991"), stripped.replace("Nữ", "")):
        [result] = read(HEADING, doubtful)
        assert guest(result)["document"]["number"] == "190000001"
        assert warned(result) == []


# -- provinces and communes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell", ["109", 109, "109 - Hưng Yên", "Hưng Yên", "tỉnh Hưng Yên", "hung yen", "33 - Hưng Yên"]
)
def test_a_province_is_a_code_or_a_name(cell: object) -> None:
    result = read_guest(Tỉnh=cell)
    assert guest(result)["residence"] == {"province": "109"}
    assert warned(result) == []


@pytest.mark.parametrize("cell", ["Atlantis", "999", "33", "999 - Đâu đó", "Yên"])
def test_a_province_that_nobody_knows_is_refused(cell: str) -> None:
    assert faults(read_guest(Tỉnh=cell)) == [("unknown_code", "J2")]


def test_a_former_province_becomes_its_successor_with_a_warning() -> None:
    result = read_guest(Tỉnh="Thái Bình")
    assert guest(result)["residence"] == {"province": "109"}
    assert warned(result) == [("former_unit", "/guest/residence/province", "J2")]


def test_a_former_commune_becomes_its_successor_with_a_warning() -> None:
    result = read_guest(Tỉnh="Hưng Yên", Huyện="TP Hưng Yên", Xã="P. Hiến Nam")
    assert guest(result)["residence"] == {"province": "109", "ward": "Phường Phố Hiến"}
    assert warned(result) == [("former_unit", "/guest/residence/ward", "L2")]


def test_a_former_unit_that_was_divided_stays_as_it_is_written() -> None:
    result = read_guest(Tỉnh="Hưng Yên", Huyện="Huyện Yên Mỹ")
    assert guest(result)["residence"]["ward"] == "Huyện Yên Mỹ"
    assert warned(result) == [("former_unit_divided", "/guest/residence/ward", "K2")]


def test_a_commune_without_a_province_and_one_that_nobody_knows_stay_as_they_are_written() -> None:
    assert guest(read_guest(Huyện="Quận 1", Xã="Phường Đa Kao"))["residence"] == {"ward": "Phường Đa Kao, Quận 1"}
    result = read_guest(Tỉnh="Hưng Yên", Xã="Xã Mẫu")
    assert guest(result)["residence"] == {"province": "109", "ward": "Xã Mẫu"}
    assert warned(result) == []


def test_the_ministrys_nine_digits_are_a_commune_by_themselves() -> None:
    result = read_guest(Tỉnh="109", Huyện="Huyện Yên Mỹ", Xã="109900001 - Xã Mẫu")
    assert guest(result)["residence"]["ward"] == "109900001"
    assert warned(result) == []


@pytest.mark.parametrize("ward", ["109900001 - Xã Mẫu", "Phường Phố Hiến"])
def test_a_ward_that_is_not_of_its_province_is_kept_and_told(ward: str) -> None:
    result = read_guest(Tỉnh="101 - Hà Nội", Xã=ward)
    assert guest(result)["residence"] == {"province": "101", "ward": ward.partition(" - ")[0]}
    assert warned(result) == [("ward_of_another_province", "/guest/residence/ward", "K2")]


# -- the Ministry's form -----------------------------------------------------------------------------------------------


def test_a_workbook_in_the_ministrys_form_is_read_by_its_rules() -> None:
    document = workbook({5: GUEST, 6: {**GUEST, "D": "?"}})
    assert list(connector.read(document)) == list(official_xlsx.read(document))


# -- anything at all ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.sampled_from(["", f"{HEADING}\n", HEADING.replace(";", "\t") + "\r", "PK\x03\x04"]))
def test_any_bytes_give_acts_or_reasons(tail: bytes, heading: str) -> None:
    results = list(connector.read(heading.encode() + tail))
    assert results
    assert all(result.violations for result in results)


_TEXTS = st.one_of(
    st.text(max_size=20),
    st.sampled_from([*CELLS, *TITLES, *OTHER.split(";"), '"', "31/12/9999", "Tỉnh", "Xã", "Hưng Yên", "[VÍ DỤ]"]),
)


@given(st.lists(st.lists(_TEXTS, max_size=12), max_size=6), st.booleans(), st.sampled_from(["utf-8", "utf-16"]))
def test_any_texts_give_an_act_or_a_reason(rows: list[list[str]], headed: bool, charset: str) -> None:
    lines = [";".join(cells) for cells in rows]
    results = read(*([HEADING] if headed else []), *lines, charset=charset)
    assert results
    assert [from_json(to_json(result)) for result in results] == results


_VALUES = st.one_of(
    _TEXTS,
    st.integers(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.booleans(),
    st.dates(date(1900, 3, 1), date(9999, 12, 31)),
    st.datetimes(datetime.combine(date(1900, 3, 1), time()), datetime.combine(date(9999, 12, 31), time())),
    st.just(...),
    st.none(),
)


@given(st.lists(st.lists(_VALUES, max_size=10), max_size=4))
def test_any_cells_give_an_act_or_a_reason(rows: list[list[Any]]) -> None:
    results = read_sheet(TITLES, *rows)
    assert results
    assert [from_json(to_json(result)) for result in results] == results


def test_no_fault_repeats_what_a_person_wrote() -> None:
    results = read(f"{HEADING};Tỉnh;Xã;ZQXJ", ";".join(["ZQXJ1"] * 12))
    assert "ZQXJ" not in repr([result.violations for result in results])


# -- found by fuzzing --------------------------------------------------------------------------------------------------


def test_only_a_few_rows_continue_a_heading_so_that_no_list_is_taken_for_one() -> None:
    numbered = "\n".join("1;2;3;4;5;6" for _ in range(30))
    results = list(connector.read(f"Họ tên;Ngày sinh;Số giấy tờ;Loại giấy tờ;Ngày đến;Lý do\n{numbered}\n".encode()))
    assert [result.row for result in results] == list(range(12, 32))


def test_what_stands_in_the_brackets_of_a_heading_is_not_repeated_with_every_fault() -> None:
    heading = f"Họ tên (TRẦN THỊ BÍ MẬT);Ngày{' ' * 500}sinh (dd/MM/yyyy);Số giấy tờ;Ngày đến;Lý do;Loại giấy tờ"
    [result] = connector.read(f"{heading}\n;x;000190000001;23/11/2026;1;1\n".encode())
    assert isinstance(result, Act)
    places = [fault.place for fault in result.violations]
    assert "dòng 2, cột Họ tên" in places
    assert "dòng 2, cột Ngày sinh (dd/MM/yyyy)" in places


def test_many_unknown_columns_are_counted_and_only_the_first_are_named() -> None:
    names, values = ";".join("x" for _ in range(300)), ";".join("1" for _ in range(300))
    heading = "Họ tên;Ngày sinh;Số giấy tờ;Ngày đến;Lý do;Loại giấy tờ;Quốc tịch"
    guest = "TRẦN THỊ THỬ;14/05/1990;000190000001;23/11/2026;1;1;VNM"
    [result] = connector.read(f"{heading};{names}\n{guest};{values}\n".encode())
    assert isinstance(result, Act)
    [warning] = result.warnings
    assert warning.code == "unknown_columns"
    assert "300" in warning.en
    assert warning.place is not None
    assert warning.place.startswith("cột 8, cột 9, ")
    assert warning.place.endswith(", cột 27, …")


@pytest.mark.parametrize(
    ("document", "code"),
    [(b"a" + b";" * 2_000, "too_many_columns"), (b"a\n" * 300_000, "too_many_rows")],
    ids=["columns", "lines"],
)
def test_a_text_of_endless_columns_or_lines_is_refused_before_it_is_split(document: bytes, code: str) -> None:
    [result] = connector.read(document)
    assert isinstance(result, Unreadable)
    assert [fault.code for fault in result.violations] == [code]
