"""The Ministry's workbook: what cannot be read is named by its cell, and nothing is guessed or passed over."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.cells import Cell
from connectors.official_xlsx import connector, read_row
from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.stay import DeclarationContext, StayDeclaration
from tests.connectors.outcomes import accepted, faults
from tests.connectors.workbooks import GUEST, TITLES, workbook


def read(document: bytes) -> list[Act | Unreadable]:
    return list(connector.read(document))


def read_guest(**changes: Any) -> Act | Unreadable:
    """The one guest of a workbook, with some cells changed."""
    [result] = read(workbook({5: {**GUEST, **changes}}))
    assert result.row == 5
    return result


def whole(document: bytes) -> list[str]:
    """The codes with which a document is refused as a whole."""
    [result] = read(document)
    assert result is not None
    assert result.violations
    assert result.row == 0
    return [fault.code for fault in result.violations]


# -- documents that are refused as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("document", [b"", b"no workbook", b"PK\x03\x04", workbook({5: GUEST})[:2000]])
def test_bytes_that_are_no_whole_workbook_are_refused(document: bytes) -> None:
    assert whole(document) == ["unreadable_file"]


def test_an_old_binary_workbook_is_refused_because_the_form_never_had_that_format() -> None:
    assert whole(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(2000)) == ["old_or_locked_workbook"]


def test_a_workbook_without_the_sheet_of_the_form_is_refused() -> None:
    assert whole(workbook({5: GUEST}, sheet="Sheet1")) == ["missing_sheet"]


def test_the_name_of_the_sheet_may_carry_stray_spaces() -> None:
    accepted(*read(workbook({5: GUEST}, sheet="DS_KHACH_VIET_NAM_LUU_TRU ")))


def test_a_form_without_guests_is_not_a_success() -> None:
    assert whole(workbook({})) == ["no_rows"]


def test_rows_with_nothing_but_their_running_number_are_empty() -> None:
    assert whole(workbook({number: {"A": number - 4, "C": "  "} for number in range(5, 30)})) == ["no_rows"]


def test_a_deleted_column_refuses_the_file_since_every_row_would_be_read_askew() -> None:
    moved = {column: TITLES[after] for column, after in pairwise("GHIJKLMNOPQ") if after in TITLES}
    titles = {column: title for column, title in TITLES.items() if column < "G"} | moved
    [result] = read(workbook({2: titles, 5: GUEST}))
    assert faults(result) == [("missing_column", "H"), ("missing_column", "N"), ("missing_column", "O")]


def test_titles_that_are_absent_prove_nothing() -> None:
    accepted(*read(workbook({5: GUEST}, heading=False)))


# -- rows that are refused ---------------------------------------------------------------------------------------------


def test_every_missing_mandatory_cell_is_named_at_once() -> None:
    [result] = read(workbook({7: {"B": "NGUYỄN THỊ THỬ"}}))
    assert result.row == 7
    assert faults(result) == [("required", f"{column}7") for column in "CDEFHNOQ"]


@pytest.mark.parametrize("column", ["C", "N", "O"])
def test_a_real_date_whose_day_and_month_could_be_swapped_is_refused(column: str) -> None:
    assert faults(read_guest(**{column: date(2026, 11, 5)})) == [("ambiguous_date", f"{column}5")]


def test_a_real_date_with_a_time_is_no_less_ambiguous() -> None:
    assert faults(read_guest(N=datetime(2026, 11, 5, 14, 5))) == [("ambiguous_date", "N5")]  # noqa: DTZ001 - a cell


@pytest.mark.parametrize(
    "cell",
    [
        "31/02/1990",
        "14/13/1990",
        "14/05/90",
        "14 tháng 5 1990",
        "1990",
        14051990,
        33007.5,
        time(14, 5),
        True,
        "14/05/0990",
    ],
)
def test_an_arrival_that_is_no_date_is_refused(cell: object) -> None:
    assert faults(read_guest(N=cell)) == [("wrong_date", "N5")]


@pytest.mark.parametrize("cell", ["23/11/2026 24:00", "23/11/2026 14:60", "23/11/2026 2pm"])
def test_an_arrival_at_no_time_of_day_is_refused(cell: str) -> None:
    assert faults(read_guest(N=cell)) == [("wrong_date", "N5")]


@pytest.mark.parametrize(
    ("column", "cell"),
    [
        ("D", "Không rõ"), ("D", "M - Nữ"), ("E", "Việt Nam"), ("E", "QQQ - Đâu đó"), ("F", "Thẻ CCCD"),
        ("F", "10 - Khác"), ("J", "Thường trú"), ("K", "Đâu đó"), ("K", "999 - Đâu đó"), ("Q", "Du lịch"),
        ("Q", "21 - Khác"),
    ],
)  # fmt: skip
def test_a_name_without_its_code_or_an_unknown_code_is_refused(column: str, cell: object) -> None:
    assert faults(read_guest(**{column: cell})) == [("unknown_code", f"{column}5")]


@pytest.mark.parametrize(("column", "cell"), [("B", True), ("P", date(2026, 1, 2)), ("S", 1.5), ("H", 1e15)])
def test_a_cell_that_is_no_text_is_refused_where_a_text_belongs(column: str, cell: object) -> None:
    assert faults(read_guest(**{column: cell})) == [("wrong_type", f"{column}5")]


def test_a_spreadsheet_error_is_not_a_value() -> None:
    assert faults(read_guest(B="#N/A")) == [("cell_error", "B5")]
    assert faults(read_guest(B=...)) == [("required", "B5")]


def test_no_fault_repeats_what_a_person_wrote() -> None:
    cells = ["ZQXJ1/2"] * 19
    result = read_row(5, cells)
    assert result is not None
    assert result.violations
    assert len(result.violations) == 9
    assert "ZQXJ" not in repr(result)


# -- rows of the heading -----------------------------------------------------------------------------------------------


def test_the_example_of_the_form_is_skipped() -> None:
    assert [result.row for result in read(workbook({5: GUEST}))] == [5]


def test_a_guest_in_the_row_of_the_example_is_read_with_a_warning() -> None:
    results = read(workbook({4: GUEST, 5: GUEST}))
    assert [result.row for result in results] == [4, 5]
    assert [warning.code for warning in accepted(results[0]).warnings] == ["heading_row_read"]


def test_a_guest_who_cannot_be_read_in_the_row_of_the_example_is_not_passed_over() -> None:
    [result] = read(workbook({4: {"B": "NGUYỄN THỊ THỬ", "H": "000190000001"}}))
    assert result.row == 4
    assert ("required", "C4") in faults(result)


def test_guests_are_read_from_the_first_row_on_if_the_heading_was_deleted() -> None:
    results = read(workbook(dict.fromkeys((1, 2, 3), GUEST), heading=False))
    assert [result.row for result in results] == [1, 2, 3]


# -- rows that are taken -----------------------------------------------------------------------------------------------


def test_every_column_lands_in_its_place() -> None:
    act = accepted(
        read_guest(
            F="9 - Giấy Tờ Khác", G="Thẻ sinh viên", H="SV-01", I="0000000001", J="2 - Tạm trú", K="109 - Hưng Yên",
            L="109900001 - Phường Mẫu", M="Số 1, phố Mẫu", Q="20 - Mục đích khác", R="Dự lễ", S="Ghi chú",
        )
    )  # fmt: skip
    assert act.kind is ActKind.DECLARE
    assert act.source_ref is None
    assert act.warnings == ()
    assert act.fields == {
        "guest": {
            "full_name": "NGUYỄN THỊ THỬ", "birth_date": "1990-05-14", "gender": "F", "nationality": "VNM",
            "document": {"type": 9, "name": "Thẻ sinh viên", "number": "SV-01"},
            "phone": "0000000001",
            "residence": {"kind": 2, "province": "109", "ward": "109900001", "address": "Số 1, phố Mẫu"},
        },
        "arrived_at": "2026-11-23T14:05:00+07:00",
        "planned_departure_at": "2026-11-25T12:00:00+07:00",
        "room": "203", "reason": 20, "reason_text": "Dự lễ", "note": "Ghi chú",
    }  # fmt: skip
    assert act.origin["/guest/document/number"] == "H5"
    assert act.origin["/arrived_at"] == "N5"


def test_what_is_read_is_a_valid_declaration() -> None:
    context = DeclarationContext(FacilityKind.HOTEL_4_STAR, datetime(2026, 11, 23, 10, tzinfo=UTC))
    StayDeclaration.model_validate_json(orjson.dumps(accepted(read_guest()).fields), context=context)


@pytest.mark.parametrize("number", [190000001, 36090000001, 1090000001])
def test_zeros_that_a_number_cell_lost_are_restored_with_a_warning(number: int) -> None:
    act = accepted(read_guest(H=number))
    assert act.fields["guest"]["document"]["number"] == f"{number:012d}"
    assert [(each.code, each.place) for each in act.warnings] == [("leading_zeros_restored", "H5")]


@pytest.mark.parametrize(
    ("cell", "document_type"),
    [("36090000001", "1 - Thẻ CCCD"), (90000001, "1 - Thẻ CCCD"), (190000001, "2 - Thẻ CMND"), (190000001, "4")],
)
def test_zeros_are_not_invented(cell: object, document_type: str) -> None:
    act = accepted(read_guest(H=cell, F=document_type))
    assert act.fields["guest"]["document"]["number"] == str(cell)
    assert act.warnings == ()


def test_a_telephone_number_in_a_number_cell_gets_its_trunk_zero_back() -> None:
    assert accepted(read_guest(I=900000001)).fields["guest"]["phone"] == "0900000001"


@pytest.mark.parametrize(
    ("cell", "meant"),
    [
        ("05/06/1990", "1990-06-05"),  # a text is dd/MM/yyyy by the form's definition, never swapped
        (" 5-6-1990 ", "1990-06-05"),
        ("1990-06-05", "1990-06-05"),
        (date(1990, 5, 14), "1990-05-14"),  # there is no 14th month to swap with
        (date(1990, 5, 5), "1990-05-05"),
        ("05/1990", "1990-05"),
        ("00/05/1990", "1990-05"),
        ("1990", "1990"),
        (1990, "1990"),
        ("00/00/1990", "1990"),
    ],
)
def test_birth_dates_keep_the_precision_they_are_written_with(cell: object, meant: str) -> None:
    assert accepted(read_guest(C=cell)).fields["guest"]["birth_date"] == meant


@pytest.mark.parametrize(
    ("arrival", "departure", "arrived_at", "leaves_at"),
    [
        ("23/11/2026", "25/11/2026", "2026-11-23T00:00:00+07:00", "2026-11-25T12:00:00+07:00"),
        ("23/11/2026", "23/11/2026", "2026-11-23T00:00:00+07:00", "2026-11-23T12:00:00+07:00"),
        ("23/11/2026 14:05", "23/11/2026", "2026-11-23T14:05:00+07:00", "2026-11-23T23:59:00+07:00"),
        ("23/11/2026 9:05:30", "24/11/2026 8:00", "2026-11-23T09:05:30+07:00", "2026-11-24T08:00:00+07:00"),
        (date(2026, 11, 23), date(2026, 11, 24), "2026-11-23T00:00:00+07:00", "2026-11-24T12:00:00+07:00"),
        ("2026-11-23 14:05:00", "2026-11-24T08:00", "2026-11-23T14:05:00+07:00", "2026-11-24T08:00:00+07:00"),
    ],
)
def test_a_day_without_a_time_begins_the_stay_at_midnight_and_ends_it_at_noon(
    arrival: object, departure: object, arrived_at: str, leaves_at: str
) -> None:
    act = accepted(read_guest(N=arrival, O=departure))
    assert act.fields["arrived_at"] == arrived_at
    assert act.fields["planned_departure_at"] == leaves_at


def test_codes_are_taken_with_or_without_their_names_as_text_or_number() -> None:
    act = accepted(read_guest(D="Nữ", E=" vnm ", F=8, J="1", K=109, L="Phường Mẫu", P=203.0, Q="1–Du lịch"))
    assert act.fields["guest"]["document"]["type"] == 8
    assert act.fields["guest"]["gender"] == "F"
    assert act.fields["guest"]["residence"] == {"kind": 1, "province": "109", "ward": "Phường Mẫu"}
    assert act.fields["room"] == "203"


def test_texts_lose_stray_spaces_and_take_their_composed_form() -> None:
    decomposed = "NGUYE\u0302\u0303N\u00a0 THI\u0323\n THU\u031b\u0309 "
    assert accepted(read_guest(B=decomposed)).fields["guest"]["full_name"] == "NGUYỄN THỊ THỬ"


def test_columns_keep_their_place_when_the_first_one_is_empty() -> None:
    cells = {column: value for column, value in GUEST.items() if column != "A"}
    [result] = read(workbook({6: cells}, heading=False))
    assert accepted(result).fields["guest"]["full_name"] == "NGUYỄN THỊ THỬ"
    assert result.row == 6


def test_gaps_between_guests_do_not_change_their_row_numbers() -> None:
    results = read(workbook(dict.fromkeys((5, 9, 40), GUEST) | {41: {"A": 36, "B": " "}}))
    assert [result.row for result in results] == [5, 9, 40]


# -- anything at all ---------------------------------------------------------------------------------------------------

_CELLS: st.SearchStrategy[Cell] = st.one_of(
    st.none(),
    st.text(),
    st.integers(),
    st.floats(),
    st.booleans(),
    st.dates(),
    st.datetimes(),
    st.times(),
    st.timedeltas(-timedelta(days=9999), timedelta(days=9999)),
    st.sampled_from([str(value) for value in GUEST.values()] + ["31/12/9999 23:59", "00/00/2026", "1" * 30]),
)


@given(st.lists(_CELLS, max_size=21), st.booleans())
def test_any_cells_give_an_act_or_a_reason(cells: Sequence[Cell], in_heading: bool) -> None:
    result = read_row(5, cells, in_heading=in_heading)
    assert isinstance(result, Act) or result.violations
    assert from_json(to_json(result)) == result


@given(st.binary(max_size=200))
def test_any_bytes_give_a_reason(document: bytes) -> None:
    assert all(result.violations for result in read(document))
