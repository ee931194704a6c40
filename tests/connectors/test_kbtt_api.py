"""Rows of the national portal: what cannot be taken is named by the portal's member, what can is translated exactly."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.cells import NO_REASON
from connectors.kbtt_api import citizen, connector, departure, foreigner
from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.stay import CheckOut, DeclarationContext, Extension, StayDeclaration, StayMatch

RECEIVED_AT = datetime(2026, 11, 23, 8, 30, 15, 999, tzinfo=UTC)
CITIZEN: dict[str, Any] = {
    "hoTen": "NGUYỄN VĂN THỬ",
    "gioiTinh": "M",
    "soDienThoai": "0000000001",
    "ngayThangNamSinhStr": "1990-05-14",
    "ghiChu": "Khách quen",
    "noiCuTru": 1,
    "maTT": "109",
    "maPX": "109900001",
    "diaChi": "Số 1 phố Mẫu",
    "ngayDenCsltStr": "2026-11-23 14:05:00",
    "ngayDiDuKienStr": "2026-11-25 12:00:00",
    "soPhong": "203",
    "lyDoCuTru": 20,
    "lyDoChiTiet": "Dự lễ",
    "loaiGiayTo": 1,
    "soGiayTo": "000090000001",
    "anhTruocB64": "/9j/4AAQ",
    "anhSauB64": "/9j/4AAQ",
}
FOREIGNER: dict[str, Any] = {
    "hoTen": "TEST GUEST",
    "quocTich": "D",
    "soHoChieu": "TEST00001",
    "gioiTinh": "F",
    "loaiNgayThangNamSinh": "D",
    "ngayThangNamSinhStr": "1990-05-14",
    "ngayDenCsltStr": "2026-11-23 21:30:00",
    "ngayDiDuKienStr": "2026-11-26 12:00:00",
    "soPhong": "305",
    "anhHoChieuB64": "/9j/4AAQ",
    "thoiHanTamTruStr": "2027-01-31 23:59:59",
}
LEAVING: dict[str, Any] = {"loai": "TS", "soGiayTo": "000090000001", "loaiGiayTo": 1}
EXTENDING: dict[str, Any] = {**LEAVING, "loai": "GH", "thoiGianStr": "2026-11-27 12:00:00"}


def faults(result: Act | Unreadable) -> list[tuple[str, str | None]]:
    return [(fault.code, fault.place) for fault in result.violations]


def validated(act: Act) -> StayDeclaration:
    assert act.violations == ()
    context = DeclarationContext(FacilityKind.HOTEL_4_STAR, RECEIVED_AT)
    return StayDeclaration.model_validate_json(orjson.dumps(act.fields), context=context)


def read(*rows: Any) -> list[Act | Unreadable]:
    return list(connector.read(orjson.dumps(rows)))


# -- documents that are refused as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("document", "code"),
    [
        (b"", "not_json"),
        (b"{}", "wrong_type"),
        (b"[", "not_json"),
        (b"[]", "no_rows"),
        (b"[" * 100_000, "not_json"),
        ('[{"hoTen": "Thử'.encode("cp1258", "replace"), "not_json"),
    ],
)
def test_a_document_that_is_no_array_of_rows_is_refused(document: bytes, code: str) -> None:
    [result] = connector.read(document)
    assert result is not None
    assert result.violations
    assert (result.row, faults(result)) == (0, [(code, None)])


# -- rows with faults --------------------------------------------------------------------------------------------------


def test_a_row_that_is_no_object_is_unreadable_and_the_others_are_not() -> None:
    first, second, third = read(7, CITIZEN, None)
    assert [first.row, second.row, third.row] == [1, 2, 3]
    assert isinstance(first, Unreadable)
    assert faults(first) == [("wrong_type", None)]
    assert isinstance(second, Act)
    assert isinstance(third, Unreadable)


def test_everything_that_is_missing_is_named() -> None:
    wanted = ["hoTen", "gioiTinh", "ngayThangNamSinhStr", "loaiGiayTo", "soGiayTo", "ngayDenCsltStr"]
    assert faults(citizen({}, 1)) == [("required", each) for each in (*wanted, "ngayDiDuKienStr", "lyDoCuTru")]
    assert [place for _, place in faults(foreigner({}, 1))] == [
        "loaiNgayThangNamSinh",
        *("hoTen", "gioiTinh", "ngayThangNamSinhStr", "quocTich", "soHoChieu", "thoiHanTamTruStr"),
        *("ngayDenCsltStr", "ngayDiDuKienStr"),
    ]
    assert faults(departure({}, 1, RECEIVED_AT)) == [
        (("required"), each) for each in ("loai", "loaiGiayTo", "soGiayTo")
    ]


@pytest.mark.parametrize("empty", ["", None, "  "])
def test_an_empty_member_is_a_missing_one(empty: object) -> None:
    act = citizen(dict.fromkeys(CITIZEN, empty), 1)
    assert {code for code, _ in faults(act)} == {"required"}
    assert act.fields == {"guest": {"document": {}, "nationality": "VNM"}}


@pytest.mark.parametrize(
    "written",
    ["23/11/2026 14:05:00", "2026-11-23T14:05:00+07:00", "2026-11-23T14:05:00Z", "20261123", "2026-13-01 00:00:00",
     "2026-11-23 24:00:00", "2026-11-23 14:05:60", "２０２６-11-23 14:05:00", 20261123, [], {}, True],
)  # fmt: skip
def test_a_time_of_another_form_is_refused(written: object) -> None:
    for act, name in (
        (citizen({**CITIZEN, "ngayDenCsltStr": written}, 1), "ngayDenCsltStr"),
        (foreigner({**FOREIGNER, "thoiHanTamTruStr": written}, 1), "thoiHanTamTruStr"),
        (departure({**EXTENDING, "thoiGianStr": written}, 1, RECEIVED_AT), "thoiGianStr"),
        (departure({**LEAVING, "thoiGianStr": written}, 1, RECEIVED_AT), "thoiGianStr"),
    ):
        [(code, place)] = faults(act)
        assert code in ("wrong_date", "wrong_type")
        assert place == name


@pytest.mark.parametrize("written", ["1990-05-14", "1990-01-02", "90", "01/01/1990"])
def test_a_year_is_written_as_its_first_day(written: str) -> None:
    act = foreigner({**FOREIGNER, "loaiNgayThangNamSinh": "Y", "ngayThangNamSinhStr": written}, 1)
    assert faults(act) == [("wrong_date", "ngayThangNamSinhStr")]


def test_a_departure_in_a_file_says_when_because_nobody_knows_when_the_file_was_written() -> None:
    [act] = read(LEAVING)
    assert faults(act) == [("required", "thoiGianStr")]


@pytest.mark.parametrize("change", ["ts", "TS ", 1, ["TS"], {"TS": 1}, True])
def test_a_change_is_one_of_two_words(change: object) -> None:
    assert faults(departure({**LEAVING, "loai": change}, 1, RECEIVED_AT)) == [("out_of_range", "loai")]


# -- rows that are taken -----------------------------------------------------------------------------------------------


def test_a_citizen_is_translated_with_every_member_and_without_photographs() -> None:
    act = citizen(CITIZEN, 3)
    assert act.fields == {
        "guest": {
            "full_name": "NGUYỄN VĂN THỬ",
            "birth_date": "1990-05-14",
            "gender": "M",
            "nationality": "VNM",
            "document": {"type": 1, "number": "000090000001"},
            "phone": "0000000001",
            "residence": {"kind": 1, "province": "109", "ward": "109900001", "address": "Số 1 phố Mẫu"},
        },
        "arrived_at": "2026-11-23T14:05:00+07:00",
        "planned_departure_at": "2026-11-25T12:00:00+07:00",
        "room": "203",
        "reason": 20,
        "reason_text": "Dự lễ",
        "note": "Khách quen",
    }
    assert (act.kind, act.row, act.source_ref, act.match, act.warnings) == (ActKind.DECLARE, 3, None, None, ())
    assert set(act.origin.values()) == set(CITIZEN) - {"anhTruocB64", "anhSauB64"}
    validated(act)


def test_a_foreigner_is_translated_with_what_the_form_has() -> None:
    act = foreigner(FOREIGNER, 1)
    assert act.fields == {
        "guest": {
            "full_name": "TEST GUEST",
            "birth_date": "1990-05-14",
            "gender": "F",
            "nationality": "DEU",
            "document": {"type": 4, "number": "TEST00001"},
            "permitted_stay_until": "2027-01-31",
        },
        "arrived_at": "2026-11-23T21:30:00+07:00",
        "planned_departure_at": "2026-11-26T12:00:00+07:00",
        "room": "305",
        "reason": 20,
        "reason_text": NO_REASON,
    }
    validated(act)


def test_a_foreigner_of_whom_only_the_year_is_known_has_only_a_year() -> None:
    for written in ("1990-01-01", "1990"):
        act = foreigner({**FOREIGNER, "loaiNgayThangNamSinh": "Y", "ngayThangNamSinhStr": written}, 1)
        assert validated(act).guest.birth_date == "1990"


def test_a_reason_that_a_foreigners_row_has_beyond_the_form_is_kept() -> None:
    act = foreigner({**FOREIGNER, "lyDoCuTru": 19}, 1)
    assert (act.fields["reason"], act.fields.get("reason_text")) == (19, None)
    assert faults(foreigner({**FOREIGNER, "lyDoCuTru": 21}, 1)) == [("unknown_code", "lyDoCuTru")]


@pytest.mark.parametrize(
    ("written", "stored"),
    [("D", "DEU"), ("DEU", "DEU"), ("GBD", "GBR"), ("RKS", "RKS"), ("VN", "VNM"), ("kor", "KOR"), ("BRA", "BRA"),
     ("UNO", "UNO")],
)  # fmt: skip
def test_nationalities_are_taken_as_the_portal_and_as_passports_write_them(written: str, stored: str) -> None:
    assert foreigner({**FOREIGNER, "quocTich": written}, 1).fields["guest"]["nationality"] == stored


def test_numbers_and_texts_stand_for_each_other_as_in_the_portals_own_reader() -> None:
    plain = citizen(CITIZEN, 1)
    loose = citizen(
        {
            **CITIZEN,
            "lyDoCuTru": "20",
            "loaiGiayTo": "1",
            "noiCuTru": "1",
            "maTT": 109,
            "maPX": 109900001,
            "soPhong": 203,
        },
        1,
    )
    assert loose == plain


def test_a_personal_number_sent_as_a_number_gets_its_zeros_back_with_a_warning() -> None:
    act = citizen({**CITIZEN, "soGiayTo": 90000000001}, 1)
    assert act.fields["guest"]["document"]["number"] == "090000000001"
    assert [(each.code, each.place) for each in act.warnings] == [("leading_zeros_restored", "soGiayTo")]
    passport = citizen({**CITIZEN, "loaiGiayTo": 4, "soGiayTo": 123456789}, 1)
    assert (passport.fields["guest"]["document"]["number"], passport.warnings) == ("123456789", ())


@pytest.mark.parametrize(
    ("written", "arrival", "leaving"),
    [
        ("2026-11-23 14:05:00", "2026-11-23T14:05:00+07:00", "2026-11-23T14:05:00+07:00"),
        ("2026-11-23 14:05", "2026-11-23T14:05:00+07:00", "2026-11-23T14:05:00+07:00"),
        ("2026-11-23T14:05:07", "2026-11-23T14:05:07+07:00", "2026-11-23T14:05:07+07:00"),
        ("2026-11-23", "2026-11-23T00:00:00+07:00", "2026-11-23T12:00:00+07:00"),
    ],
)
def test_times_without_a_zone_are_those_of_viet_nam(written: str, arrival: str, leaving: str) -> None:
    assert citizen({**CITIZEN, "ngayDenCsltStr": written}, 1).fields["arrived_at"] == arrival
    assert departure({**EXTENDING, "thoiGianStr": written}, 1, None).fields["planned_departure_at"] == leaving


def test_who_comes_in_the_afternoon_and_leaves_that_day_leaves_at_its_end() -> None:
    act = citizen({**CITIZEN, "ngayDiDuKienStr": "2026-11-23"}, 1)
    assert act.fields["planned_departure_at"] == "2026-11-23T23:59:00+07:00"


def test_a_guest_who_left_early_left_when_it_was_said_or_else_when_the_message_came() -> None:
    act = departure(LEAVING, 2, RECEIVED_AT)
    assert (act.kind, act.row, act.fields) == (ActKind.CHECK_OUT, 2, {"departed_at": "2026-11-23T08:30:15+00:00"})
    assert act.match == {"document": {"type": 1, "number": "000090000001"}}
    CheckOut.model_validate_json(orjson.dumps(act.fields))
    StayMatch.model_validate_json(orjson.dumps(act.match))
    said = departure({**LEAVING, "thoiGianStr": "2026-11-23 10:00:00"}, 1, RECEIVED_AT)
    assert said.fields == {"departed_at": "2026-11-23T10:00:00+07:00"}


def test_a_guest_who_stays_longer_has_another_planned_departure() -> None:
    act = departure(EXTENDING, 1, RECEIVED_AT)
    assert (act.kind, act.fields) == (ActKind.EXTEND, {"planned_departure_at": "2026-11-27T12:00:00+07:00"})
    Extension.model_validate_json(orjson.dumps(act.fields))


def test_a_file_may_hold_citizens_foreigners_and_changes() -> None:
    acts = read(CITIZEN, FOREIGNER, EXTENDING)
    assert acts == [citizen(CITIZEN, 1), foreigner(FOREIGNER, 2), departure(EXTENDING, 3, None)]


# -- any input ---------------------------------------------------------------------------------------------------------

_NAMES = st.sampled_from(sorted({*CITIZEN, *FOREIGNER, *EXTENDING, "facility", "guest"}))
_SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text(max_size=30)
_KNOWN = st.sampled_from([value for row in (CITIZEN, FOREIGNER, EXTENDING) for value in row.values()])
_ROWS = st.dictionaries(_NAMES, _SCALARS | _KNOWN | st.lists(_SCALARS, max_size=2), max_size=20)


@given(_ROWS, st.integers(1, 5000))
def test_any_row_is_translated_without_a_word_of_its_photographs(row: dict[str, Any], number: int) -> None:
    row["anhTruocB64"] = row["anhSauB64"] = row["anhHoChieuB64"] = "PHOTOGRAPH"
    for act in (citizen(row, number), foreigner(row, number), departure(row, number, RECEIVED_AT)):
        assert act.row == number
        assert from_json(to_json(act)) == act
        assert b"PHOTOGRAPH" not in to_json(act)


@given(st.lists(_ROWS | _SCALARS, max_size=4))
def test_any_array_gives_a_result_for_every_row(rows: list[Any]) -> None:
    results = read(*rows)
    assert [result.row for result in results] == (list(range(1, len(rows) + 1)) or [0])


@given(st.binary(max_size=300))
def test_any_bytes_give_acts_or_reasons(document: bytes) -> None:
    assert list(connector.read(document))
