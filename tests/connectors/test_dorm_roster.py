"""The roster of a dormitory: headings in any order and language, and every broken line named by its number."""

from __future__ import annotations

from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.dorm_roster import connector
from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.stay import DeclarationContext, StayDeclaration
from tests.connectors.outcomes import accepted, faults
from tests.connectors.vietnamese import cp1258

HEADING = (
    "STT;Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Mã nhân viên;Tòa nhà;Phòng;Giường;Ngày vào;"
    "Ngày ra dự kiến;Lý do"
)
WORKER = "1;Nguyễn Văn Thử;14/05/1990;Nam;Việt Nam;CCCD;000090000001;NV0001;A;203;2;23/11/2026;25/12/2026;"
OTHER = "2;Lê Thị Mẫu;01/02/2001;Nữ;VNM;Thẻ Căn Cước;000301000002;NV0002;B;101;1;23/11/2026;;19 - Lao động"


def read(*lines: str, charset: str = "utf-8") -> list[Act | Unreadable]:
    return list(connector.read("\n".join(lines).encode(charset)))


def read_worker(**changes: str) -> Act | Unreadable:
    """The one worker of a roster, with the cells under some headings changed (`Ngày_sinh="…"`)."""
    cells = dict(zip(HEADING.split(";"), WORKER.split(";"), strict=True))
    cells |= {heading.replace("_", " "): value for heading, value in changes.items()}
    [result] = read(HEADING, ";".join(cells.values()))
    assert result.row == 2
    return result


# -- documents that are refused as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("lines", [[], [""], ["", "  ", ""], [HEADING], [HEADING, ";;;", ""]])
def test_a_roster_without_workers_is_not_a_success(lines: list[str]) -> None:
    [result] = read(*lines)
    assert (result.row, faults(result)) == (0, [("no_rows", None)])


def test_every_missing_column_is_named_at_once() -> None:
    [result] = read("Họ tên,Giới tính,Phòng", "Nguyễn Văn Thử,Nam,203")
    assert result is not None
    assert result.violations
    assert [(fault.code, fault.vi) for fault in result.violations] == [
        ("missing_column", "Thiếu cột Ngày sinh."),
        ("missing_column", "Thiếu cột Số giấy tờ."),
        ("missing_column", "Thiếu cột Ngày vào."),
    ]


def test_a_column_that_stands_there_twice_is_refused_because_nobody_knows_which_one_counts() -> None:
    [result] = read(HEADING + ";Họ và tên", WORKER)
    assert (result.row, faults(result)) == (0, [("repeated_column", None)])


def test_a_utf_16_file_that_breaks_off_is_refused() -> None:
    [result] = connector.read("\n".join((HEADING, WORKER)).encode("utf-16")[:-1])
    assert (result.row, faults(result)) == (0, [("undecodable", None)])


# -- lines that are refused --------------------------------------------------------------------------------------------


def test_every_fault_of_a_line_is_named_by_line_and_heading() -> None:
    result = read_worker(Ngày_sinh="31/02/1990", Giới_tính="?", Quốc_tịch="Đâu đó", Lý_do="Đi làm")
    assert faults(result) == [
        ("wrong_date", "dòng 2, cột Ngày sinh"),
        ("unknown_code", "dòng 2, cột Giới tính"),
        ("unknown_code", "dòng 2, cột Quốc tịch"),
        ("unknown_code", "dòng 2, cột Lý do"),
    ]


def test_every_missing_cell_is_named_at_once() -> None:
    [result] = read(HEADING, "1;Nguyễn Văn Thử")
    columns = ["Ngày sinh", "Giới tính", "Số giấy tờ", "Loại giấy tờ", "Quốc tịch", "Ngày vào"]
    assert faults(result) == [("required", f"dòng 2, cột {column}") for column in columns]


def test_a_line_with_more_cells_than_headings_is_refused_because_its_cells_may_have_shifted() -> None:
    first, second = read(HEADING, WORKER + ";Xã Mẫu", WORKER + ";;")
    assert faults(first) == [("too_many_cells", "dòng 2")]
    accepted(second)


def test_a_quote_without_its_partner_spoils_its_line_and_is_not_silent() -> None:
    results = read(HEADING, OTHER, WORKER.replace("Nguyễn", '"Nguyễn'))
    accepted(results[0])
    assert faults(results[1]) == [("unreadable_row", "dòng 3")]


def test_the_same_document_on_the_same_day_is_refused_with_the_line_of_the_first() -> None:
    results = read(HEADING, WORKER, OTHER, WORKER.replace("203", "204"))
    assert [result.row for result in results] == [2, 3, 4]
    [fault] = results[2].violations
    assert fault.code == "duplicate_row"
    assert fault.vi.endswith("dòng 2.")


def test_a_refused_line_does_not_stand_in_the_way_of_its_corrected_copy() -> None:
    first, second = read(HEADING, WORKER.replace(";Nam;", ";?;"), WORKER)
    assert faults(first) == [("unknown_code", "dòng 2, cột Giới tính")]
    accepted(second)


def test_one_broken_byte_in_a_utf_8_file_spoils_its_line_and_no_other() -> None:
    document = "\n".join((HEADING, OTHER, WORKER)).encode().replace("Nguyễn".encode(), b"Nguy\xffn")
    first, second = connector.read(document)
    accepted(first)
    assert faults(second) == [("undecodable", "dòng 3, cột Họ tên")]


def test_a_byte_that_windows_1258_does_not_have_is_refused_by_line() -> None:
    heading = "Họ tên;Ngày sinh;Giới tính;Số giấy tờ;Ngày vào"
    worker = b"Ng\xf4 V\x8dn;14/05/1990;Nam;000090000001;23/11/2026"
    document = b"\n".join((cp1258(heading), worker))
    [result] = connector.read(document)
    assert faults(result) == [("undecodable", "dòng 2, cột Họ tên")]


def test_a_heading_with_a_broken_byte_is_not_understood() -> None:
    document = "\n".join((HEADING, OTHER)).encode().replace(b"Ng\xc3\xa0y sinh", b"Ng\xc3\xa0y sinh\xff")
    [result] = connector.read(document)
    assert (result.row, faults(result)) == (0, [("missing_column", None)])


def test_one_date_with_the_month_first_makes_every_swappable_date_of_the_file_ambiguous() -> None:
    swapped = OTHER.replace("01/02/2001", "02/14/2001").replace("23/11/2026", "11/23/2026")
    first, second, third = read(HEADING, WORKER.replace("14/05/1990", "05/06/1990"), swapped, OTHER)
    assert faults(first) == [("ambiguous_date", "dòng 2, cột Ngày sinh")]
    assert [code for code, _ in faults(second)] == ["wrong_date", "wrong_date"]
    assert faults(third) == [("ambiguous_date", "dòng 4, cột Ngày sinh")]


def test_a_document_that_is_no_personal_number_needs_its_type_and_nationality() -> None:
    result = read_worker(Loại_giấy_tờ="", Số_giấy_tờ="TEST00001", Quốc_tịch="")
    assert faults(result) == [
        ("required", "dòng 2, cột Loại giấy tờ"),
        ("required", "dòng 2, cột Quốc tịch"),
    ]


def test_no_fault_repeats_what_a_person_wrote() -> None:
    [result] = read(HEADING, ";".join(["ZQXJ1"] * 14))
    assert result is not None
    assert result.violations
    assert "ZQXJ" not in repr(result)


# -- lines that are taken ----------------------------------------------------------------------------------------------


def test_every_column_lands_in_its_place_and_code_and_groups_beside_what_is_declared() -> None:
    act = accepted(read_worker())
    assert act.kind is ActKind.DECLARE
    assert act.fields == {
        "guest": {
            "full_name": "Nguyễn Văn Thử", "birth_date": "1990-05-14", "gender": "M", "nationality": "VNM",
            "document": {"type": 1, "number": "000090000001"},
        },
        "arrived_at": "2026-11-23T00:00:00+07:00",
        "planned_departure_at": "2026-12-25T12:00:00+07:00",
        "room": "A-203-2", "reason": 19,
    }  # fmt: skip
    assert act.origin["/room"] == "dòng 2, cột Phòng"
    assert (act.guest_ref, act.groups) == ("NV0001", {"building": "A"})


def test_code_employer_and_shift_are_known_by_other_headings_and_may_be_missing() -> None:
    heading = "Họ tên;Ngày sinh;Giới tính;Số giấy tờ;Ngày vào;MSNV;Công ty;Ca làm việc"
    worker = "Nguyễn Văn Thử;14/05/1990;Nam;000090000001;23/11/2026"
    full, bare = read(heading, f"{worker};7;Công ty  Mẫu;1", worker.replace("000090000001", "000090000002"))
    assert accepted(full).guest_ref == "7"
    assert accepted(full).groups == {"employer": "Công ty Mẫu", "shift": "1"}
    assert (accepted(bare).guest_ref, accepted(bare).groups) == (None, {})


def test_what_is_read_is_a_valid_declaration_with_and_without_an_end() -> None:
    context = DeclarationContext(FacilityKind.INDUSTRIAL_ZONE_HOUSING, datetime(2026, 11, 23, 10, tzinfo=UTC))
    for result in read(HEADING, WORKER, OTHER):
        StayDeclaration.model_validate_json(orjson.dumps(accepted(result).fields), context=context)


ENGLISH = (
    "Document number,Date of birth (dd/MM/yyyy),Full name,Sex,Arrival date,Room,Nationality,ID type,Address,Note,Pay"
)


def test_english_headings_in_another_order_with_commas_are_understood() -> None:
    [result] = read(ENGLISH, 'TEST00001,1990-05-14,"KIM MINJUN",M,2026-11-23 08:30,203,KOR,Passport,"1, Mau",x,100')
    assert accepted(result).fields == {
        "guest": {
            "full_name": "KIM MINJUN", "birth_date": "1990-05-14", "gender": "M", "nationality": "KOR",
            "document": {"type": 4, "number": "TEST00001"}, "residence": {"address": "1, Mau"},
        },
        "arrived_at": "2026-11-23T08:30:00+07:00", "room": "203", "reason": 19, "note": "x",
    }  # fmt: skip


def test_a_place_is_the_heading_as_the_user_wrote_it() -> None:
    [result] = read(ENGLISH, "TEST00001,14/05/90,KIM MINJUN,M,2026-11-23,203,Atlantis,Passport,,,")
    assert faults(result) == [
        ("wrong_date", "dòng 2, cột Date of birth (dd/MM/yyyy)"),
        ("unknown_code", "dòng 2, cột Nationality"),
    ]


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("separator", [";", ",", "\t"])
def test_charsets_and_separators_are_recognised(charset: str, separator: str) -> None:
    lines = [line.replace(";", separator) for line in ("DANH SÁCH", HEADING, WORKER, OTHER)]
    results = read(*lines, charset=charset)
    assert [accepted(result).fields["guest"]["full_name"] for result in results] == ["Nguyễn Văn Thử", "Lê Thị Mẫu"]
    assert [result.row for result in results] == [3, 4]


def test_windows_1258_gives_composed_letters() -> None:
    results = list(connector.read(cp1258("\r\n".join((HEADING, WORKER, OTHER)))))
    assert [accepted(result).fields["guest"]["full_name"] for result in results] == ["Nguyễn Văn Thử", "Lê Thị Mẫu"]


@pytest.mark.parametrize("cell", ['="000090000001"', "'000090000001", " 000 090 000 001 "])
def test_digits_that_were_protected_from_a_spreadsheet_come_out_bare(cell: str) -> None:
    assert accepted(read_worker(Số_giấy_tờ=cell)).fields["guest"]["document"]["number"] == "000090000001"


def test_a_personal_number_tells_its_type_and_nationality() -> None:
    act = accepted(read_worker(Loại_giấy_tờ="", Quốc_tịch=""))
    assert act.fields["guest"]["document"]["type"] == 1
    assert act.fields["guest"]["nationality"] == "VNM"


def test_line_numbers_count_the_lines_inside_of_quotes() -> None:
    results = read(HEADING, WORKER.replace("Nguyễn Văn", '"Nguyễn\nVăn').replace("Thử;", 'Thử";'), "", OTHER)
    assert [result.row for result in results] == [2, 5]
    assert accepted(results[0]).fields["guest"]["full_name"] == "Nguyễn Văn Thử"


# -- anything at all ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.sampled_from(["", HEADING + "\n", HEADING.replace(";", ",") + "\r"]))
def test_any_bytes_give_acts_or_reasons(tail: bytes, heading: str) -> None:
    results = list(connector.read(heading.encode() + tail))
    assert results
    assert all(result.violations for result in results)


_CELLS = st.one_of(st.text(max_size=20), st.sampled_from(WORKER.split(";") + OTHER.split(";") + ['"', "31/12/9999"]))


@given(st.lists(st.lists(_CELLS, max_size=16), max_size=5), st.sampled_from(["utf-8", "utf-16", "utf-8-sig"]))
def test_any_cells_give_an_act_or_a_reason(rows: list[list[str]], charset: str) -> None:
    results = read(HEADING, *(";".join(cells) for cells in rows), charset=charset)
    assert results
    assert [from_json(to_json(result)) for result in results] == results
