"""The Ministry's XML for foreigners: nobody in the file is passed over, and nothing in it can hurt its reader."""

from __future__ import annotations

import codecs
from datetime import UTC, date, datetime
from typing import Any
from xml.sax.saxutils import escape

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon import samples
from connectors.foreigner_xml import DEPTH_LIMIT, VALUE_CHARACTERS_LIMIT, connector
from schemas.act import RESULTS_LIMIT, Act, ActKind, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.stay import CheckOut, DeclarationContext, StayDeclaration, StayMatch

VALUES = {
    "so_thu_tu": "1", "ho_ten": "MARTIN CLAIRE", "ngay_sinh": "14/05/1990", "ngay_sinh_dung_den": "D",
    "gioi_tinh": "F", "ma_quoc_tich": "FRA", "so_ho_chieu": "TEST00001", "so_phong": "203",
    "ngay_den": "23/11/2026", "ngay_di_du_kien": "25/11/2026", "thoi_han_tam_tru": "20/12/2026",
}  # fmt: skip


def element(name: str, *content: str) -> str:
    return f"<{name}>{''.join(content)}</{name}>"


def guest(**changes: str | None) -> str:
    """A guest as the form writes one, with some elements changed, added, or (None) left out."""
    values = {**VALUES, **changes}
    return element(
        "THONG_TIN_KHACH", *(element(name, escape(value)) for name, value in values.items() if value is not None)
    )


def document(*guests: str, declaration: str = '<?xml version="1.0" encoding="UTF-8"?>') -> str:
    return f"{declaration}\n{element('KHAI_BAO_TAM_TRU', *guests)}\n"


def read(written: str | bytes) -> list[Act | Unreadable]:
    return list(connector.read(written.encode() if isinstance(written, str) else written))


def read_guest(**changes: str | None) -> list[Act | Unreadable]:
    return read(document(guest(**changes)))


def accepted(result: Act | Unreadable) -> Act:
    assert isinstance(result, Act), result
    return result


def faults(result: Act | Unreadable) -> list[tuple[str, str | None]]:
    assert result.violations, result
    return [(fault.code, fault.place) for fault in result.violations]


def whole(written: str | bytes) -> tuple[str, str | None]:
    """The code and the place with which a document is refused as a whole."""
    [result] = read(written)
    assert result.row == 0
    [fault] = faults(result)
    return fault


# -- documents that are refused as a whole -----------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["", " \n", "\ufeff", document(), document("<!-- none -->"), "<KHAI_BAO_TAM_TRU/>"])
def test_a_file_without_guests_is_not_a_success(written: str) -> None:
    assert whole(written) == ("no_rows", None)


def test_guests_without_anything_but_their_number_are_empty() -> None:
    assert whole(document(*[element("THONG_TIN_KHACH", element("so_thu_tu", "1"), element("ho_ten", " "))] * 3)) == (
        "no_rows",
        None,
    )


@pytest.mark.parametrize("written", ["<DANH_SACH/>", "<THONG_TIN_KHACH/>", "<html><body/></html>"])
def test_a_file_of_another_form_is_refused(written: str) -> None:
    assert whole(written) == ("missing_element", None)


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("no XML", 1),
        (document(guest())[:-20], 2),
        (document(guest()) + "<more/>", 3),
        (document(guest(), "\n&nbsp;"), 3),
        (document(guest(), "\n<so_phong>203"), 3),
        (document(guest(ho_ten="A")).replace("A<", "A\x00<"), 2),
    ],
)
def test_what_is_not_well_formed_is_refused_with_its_line_and_nothing_of_it_is_taken(written: str, line: int) -> None:
    assert whole(written) == ("not_well_formed", f"dòng {line}")


ENTITIES = "".join(f'<!ENTITY l{each} "{f"&l{each - 1};" * 10}">' for each in range(1, 10))
HOSTILE = {
    "billion laughs": f'<!DOCTYPE a [<!ENTITY l0 "ha">{ENTITIES}]>{document(guest(ho_ten="&l9;"), declaration="")}',
    "an external entity": f'<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]>{document(guest(), declaration="")}',
    "an external DTD": f'<!DOCTYPE a SYSTEM "http://127.0.0.1/a.dtd">{document(guest(), declaration="")}',
    "a parameter entity": f'<!DOCTYPE a [<!ENTITY % x SYSTEM "file:///etc/passwd"> %x;]>{document(declaration="")}',
    "an empty DTD": f"<!DOCTYPE KHAI_BAO_TAM_TRU>{document(guest(), declaration='')}",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_doctype_is_refused_before_anything_in_it_is_looked_at(name: str) -> None:
    assert whole(HOSTILE[name]) == ("doctype_refused", None)
    assert whole(HOSTILE[name].encode("utf-16")) == ("doctype_refused", None)


def test_nesting_beyond_any_form_is_refused() -> None:
    assert whole("<KHAI_BAO_TAM_TRU>" + "<a>" * 1_000_000) == ("too_deep", "dòng 1")
    within = "<a>" * (DEPTH_LIMIT - 2) + "</a>" * (DEPTH_LIMIT - 2)
    assert [result.row for result in read(document(within, guest()))] == [1, 2]


def test_more_guests_than_a_document_may_hold_are_refused() -> None:
    assert whole(document(*["<THONG_TIN_KHACH/>"] * (RESULTS_LIMIT + 1))) == ("too_many_rows", None)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (document(guest(ho_ten="MÜLLER")).encode("latin-1"), "UTF-8"),
        (document(guest(), declaration='<?xml version="1.0" encoding="UTF-7"?>').encode(), "UTF-8, UTF-16"),
        (document(guest(), declaration='<?xml version="1.0" encoding="rot13"?>').encode(), "UTF-8, UTF-16"),
        (document(guest()).encode("utf-16")[:-1], "UTF-16"),
        (codecs.BOM_UTF8 + document(guest()).encode() + b"\xff", "UTF-8"),
    ],
)
def test_bytes_that_do_not_fit_their_charset_are_refused(content: bytes, expected: str) -> None:
    [result] = read(content)
    assert result is not None
    assert result.violations
    [fault] = result.violations
    assert fault.code == "undecodable"
    assert expected in fault.en


# -- guests that are refused -------------------------------------------------------------------------------------------


def test_every_missing_value_is_named_at_once() -> None:
    [result] = read(document(element("THONG_TIN_KHACH", element("so_phong", "203"))))
    assert result.row == 1
    wanted = ("ho_ten", "ngay_sinh", "gioi_tinh", "ma_quoc_tich", "so_ho_chieu", "ngay_den")
    assert faults(result) == [("required", f"THONG_TIN_KHACH[1]/{name}") for name in wanted]


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("ngay_sinh", "31/02/1990", "wrong_date"), ("ngay_sinh", "14051990", "wrong_date"),
        ("ngay_sinh_dung_den", "N", "wrong_format"), ("gioi_tinh", "Khác", "unknown_code"),
        ("ma_quoc_tich", "UTO", "unknown_code"), ("ma_quoc_tich", "Pháp", "unknown_code"),
        ("ngay_den", "23/11", "wrong_date"), ("ngay_den", "23/11/2026 25:00", "wrong_date"),
        ("ngay_di_du_kien", "mai", "wrong_date"), ("ngay_tra_phong", "0", "wrong_date"),
        ("thoi_han_tam_tru", "2026", "wrong_date"), ("ho_ten", "A" * (VALUE_CHARACTERS_LIMIT + 1), "too_long"),
    ],
)  # fmt: skip
def test_a_value_that_cannot_be_read_is_named_by_its_element(name: str, value: str, code: str) -> None:
    [result] = read_guest(**{name: value})
    assert faults(result)[0] == (code, f"THONG_TIN_KHACH[1]/{name}")


def test_an_element_that_stands_there_twice_is_refused_rather_than_chosen_from() -> None:
    twice = guest().replace("<so_phong>", "<so_ho_chieu>TEST00002</so_ho_chieu><so_phong>")
    [result] = read(document(twice))
    assert faults(result) == [("repeated_element", "THONG_TIN_KHACH[1]/so_ho_chieu")]


def test_an_element_within_a_value_is_refused_rather_than_read_by_half() -> None:
    [result] = read(document(guest().replace("MARTIN", "<b>MARTIN</b>")))
    assert faults(result) == [("wrong_type", "THONG_TIN_KHACH[1]/ho_ten")]


def test_a_guest_under_another_name_is_not_passed_over() -> None:
    other = guest().replace("THONG_TIN_KHACH", "THONGTIN_KHACH")
    results = read(document(guest(), other, element("MA_CO_SO", "HY-KS-0001"), guest(so_ho_chieu="TEST00002")))
    assert [result.row for result in results] == [1, 2, 3]
    assert faults(results[1]) == [("missing_element", "dòng 2")]


def test_a_guest_twice_is_refused_naming_the_first() -> None:
    results = read(document(guest(), guest(so_ho_chieu="TEST 00001", so_phong="204"), guest(ngay_den="22/11/2026")))
    assert [bool(result.violations) for result in results] == [False, True, False]
    assert faults(results[1]) == [("duplicate_row", "THONG_TIN_KHACH[2]")]


def test_a_departure_before_the_arrival_is_refused_with_the_whole_guest() -> None:
    [result] = read_guest(ngay_tra_phong="22/11/2026")
    assert faults(result) == [("departure_before_arrival", "THONG_TIN_KHACH[1]/ngay_tra_phong")]


def test_dates_that_could_be_swapped_are_refused_where_the_file_was_seen_to_swap() -> None:
    results = read(document(guest(ngay_den="11/05/2026"), guest(so_ho_chieu="TEST00002", ngay_sinh="05/14/1990")))
    assert faults(results[0]) == [("ambiguous_date", "THONG_TIN_KHACH[1]/ngay_den")]
    assert faults(results[1]) == [("wrong_date", "THONG_TIN_KHACH[2]/ngay_sinh")]


def test_no_fault_repeats_what_a_person_wrote() -> None:
    secret = "ZQXJ1/2"
    [result] = read(
        document(
            element("THONG_TIN_KHACH", *(element(name, secret) for name in [*VALUES, "ngay_tra_phong", secret[:4]]))
        )
    )
    assert result is not None
    assert result.violations
    assert len(result.violations) == 8
    assert "ZQXJ" not in repr(result).upper()


# -- guests that are taken ---------------------------------------------------------------------------------------------


def test_every_element_lands_in_its_place() -> None:
    [result] = read_guest()
    act = accepted(result)
    assert (act.kind, act.row, act.source_ref, act.match, act.warnings) == (ActKind.DECLARE, 1, None, None, ())
    assert act.fields == {
        "guest": {
            "full_name": "MARTIN CLAIRE", "birth_date": "1990-05-14", "gender": "F", "nationality": "FRA",
            "document": {"type": 4, "number": "TEST00001"}, "permitted_stay_until": "2026-12-20",
        },
        "arrived_at": "2026-11-23T00:00:00+07:00", "planned_departure_at": "2026-11-25T12:00:00+07:00",
        "room": "203", "reason": 20,
        "reason_text": "Mẫu khai báo người nước ngoài không nêu lý do",
    }  # fmt: skip
    assert act.origin["/guest/document/number"] == "THONG_TIN_KHACH[1]/so_ho_chieu"
    assert act.origin["/arrived_at"] == "THONG_TIN_KHACH[1]/ngay_den"


def test_a_guest_who_has_left_is_declared_and_then_checked_out() -> None:
    declared, left = map(accepted, read_guest(ngay_tra_phong="24/11/2026 09:30"))
    assert (declared.kind, left.kind) == (ActKind.DECLARE, ActKind.CHECK_OUT)
    assert (declared.row, left.row) == (1, 1)
    assert declared == accepted(*read_guest()) or "departed_at" not in declared.fields
    assert left.fields == {"departed_at": "2026-11-24T09:30:00+07:00"}
    assert left.match == {"document": {"type": 4, "number": "TEST00001"}, "arrived_on": "2026-11-23"}
    assert left.origin == {"/departed_at": "THONG_TIN_KHACH[1]/ngay_tra_phong"}
    CheckOut.model_validate_json(orjson.dumps(left.fields))
    StayMatch.model_validate_json(orjson.dumps(left.match))


@pytest.mark.parametrize("written", ["", " ", "\n  "])
def test_an_empty_departure_is_none(written: str) -> None:
    [result] = read_guest(ngay_tra_phong=written)
    assert accepted(result).kind is ActKind.DECLARE


@pytest.mark.parametrize(
    ("arrived", "left", "departed_at"),
    [
        ("23/11/2026", "23/11/2026", "2026-11-23T12:00:00+07:00"),
        ("23/11/2026 14:00", "23/11/2026", "2026-11-23T23:59:00+07:00"),
        ("2026-11-23 14:00:00", "2026-11-24", "2026-11-24T12:00:00+07:00"),
    ],
)
def test_a_day_of_departure_without_a_time_is_noon_or_the_end_of_that_very_day(
    arrived: str, left: str, departed_at: str
) -> None:
    _, act = read_guest(ngay_den=arrived, ngay_tra_phong=left)
    assert accepted(act).fields == {"departed_at": departed_at}


@pytest.mark.parametrize(
    ("written", "precision", "meant"),
    [
        ("14/05/1990", "D", "1990-05-14"), ("14/05/1990", "M", "1990-05"), ("14/05/1990", "Y", "1990"),
        ("01/01/1990", "y", "1990"), ("05/1990", "M", "1990-05"), ("00/05/1990", "M", "1990-05"), ("1990", "Y", "1990"),
        ("1990-01-01", "Y", "1990"), ("14/05/1990", None, "1990-05-14"), ("14/05/1990", " ", "1990-05-14"),
        ("1990", "D", "1990"),
    ],
)  # fmt: skip
def test_a_birth_date_is_as_precise_as_the_form_says_it_is(written: str, precision: str | None, meant: str) -> None:
    [result] = read_guest(ngay_sinh=written, ngay_sinh_dung_den=precision)
    assert accepted(result).fields["guest"]["birth_date"] == meant


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("D", "DEU"),
        ("GBD", "GBR"),
        ("UNO", "UNO"),
        ("RKS", "RKS"),
        ("XXA", "XXA"),
        ("bra", "BRA"),
        ("FRA - Pháp", "FRA"),
    ],
)
def test_nationalities_are_read_as_the_portal_writes_them(written: str, stored: str) -> None:
    [result] = read_guest(ma_quoc_tich=written)
    assert accepted(result).fields["guest"]["nationality"] == stored


@pytest.mark.parametrize(("written", "stored"), [("M", "M"), ("f", "F"), ("Nữ", "F"), ("X", None), (" x ", None)])
def test_the_x_of_some_passports_is_no_gender(written: str, stored: str | None) -> None:
    [result] = read_guest(gioi_tinh=written)
    assert accepted(result).fields["guest"].get("gender") == stored


def test_the_example_of_the_form_is_skipped_and_guests_keep_their_places() -> None:
    results = read(document(guest(ho_ten="[EXAMPLE] MARTIN"), "<THONG_TIN_KHACH/>", guest(so_thu_tu="1")))
    assert [result.row for result in results] == [3]


def test_an_element_that_the_form_does_not_have_is_a_warning() -> None:
    [result] = read(document("\n", guest(ngay_tra_phog="24/11/2026")))
    assert [(each.code, each.place) for each in accepted(result).warnings] == [
        ("unknown_field", "THONG_TIN_KHACH[1], dòng 3")
    ]


def test_case_prefixes_comments_and_sections_of_text_make_no_difference() -> None:
    plain = read_guest()
    lower = document(guest()).replace("KHAI_BAO_TAM_TRU", "khai_bao_tam_tru").replace("THONG_TIN", "thong_tin")
    prefixed = document(guest().replace("<", "<a:").replace("<a:/", "</a:")).replace(
        "<KHAI_BAO_TAM_TRU>", '<KHAI_BAO_TAM_TRU xmlns:a="urn:x">'
    )
    noted = document("<!-- a -->", guest().replace("MARTIN", "<![CDATA[MARTIN]]><!-- b -->"), "<?c d?>")
    for written in (
        lower.upper().replace("?XML VERSION", "?xml version").replace("ENCODING", "encoding"),
        prefixed,
        noted,
    ):
        assert read(written) == plain


@pytest.mark.parametrize("charset", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("declared", ["", '<?xml version="1.0"?>', '<?xml version="1.0" encoding="utf-16"?>'])
def test_a_charset_shows_in_the_bytes_whatever_is_declared(charset: str, declared: str) -> None:
    [result] = read(document(guest(ho_ten="MÜLLER-ŁUKASZ ANNA"), declaration=declared).encode(charset))
    assert accepted(result).fields["guest"]["full_name"] == "MÜLLER-ŁUKASZ ANNA"


@pytest.mark.parametrize(
    ("charset", "name"),
    [("iso-8859-1", "MÜLLER"), ("windows-1252", "ŠKODA"), ("Windows-1258", "NGUYỄN"), ("US-ASCII", "MARTIN")],
)
def test_old_charsets_are_read_as_declared(charset: str, name: str) -> None:
    declared = f"<?xml version='1.0' encoding='{charset}' standalone='yes'?>"
    written = document(guest(ho_ten=name.replace("Ễ", "Ê\u0303")), declaration=declared)
    [result] = read(written.encode(charset))
    assert accepted(result).fields["guest"]["full_name"] == name


def test_what_is_read_is_a_valid_declaration() -> None:
    context = DeclarationContext(FacilityKind.HOTEL_4_STAR, datetime(2026, 11, 23, 10, tzinfo=UTC))
    [result] = read_guest()
    StayDeclaration.model_validate_json(orjson.dumps(accepted(result).fields), context=context)


def test_a_large_file_is_read_whole() -> None:
    results = read(document(*(guest(so_ho_chieu=f"TEST{number:05d}") for number in range(5_000))))
    assert [accepted(result).row for result in results] == list(range(1, 5_001))


# -- anything at all ---------------------------------------------------------------------------------------------------

_TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30) | st.sampled_from(
    ["31/12/9999", "00/00/1990", "2026-11-23", "X", "D", "M", "&amp;", "[EXAMPLE]", "TEST00001", "14/05/1990 23:59:59"]
)
_GUESTS = st.lists(st.dictionaries(st.sampled_from([*VALUES, "ngay_tra_phong", "other"]), _TEXTS), max_size=4)


@given(_GUESTS)
def test_any_values_give_acts_or_reasons(guests: list[dict[str, str]]) -> None:
    written = document(*(guest(**(dict.fromkeys(VALUES) | values)) for values in guests))
    results = read(written)
    assert results
    for result in results:
        assert isinstance(result, Act) or result.violations
        assert from_json(to_json(result)) == result


_PIECES: Any = st.sampled_from(
    [
        "<KHAI_BAO_TAM_TRU>", "</KHAI_BAO_TAM_TRU>", "<THONG_TIN_KHACH>", "</THONG_TIN_KHACH>", "<ho_ten>", "</ho_ten>",
        "<a b='", "'", "/>", ">", "<", "&", "&#0;", "&#x41;", "]]>", "<![CDATA[", "<!--", "-->", "<!DOCTYPE",
        "<!ENTITY x '",
        "<?xml version='1.0' encoding='utf-16'?>", "\ufeff", "\x00", "A", "é", guest(), "\n",
    ]
)  # fmt: skip


@given(st.lists(_PIECES | st.text(max_size=3), max_size=25), st.sampled_from(["utf-8", "utf-16", "utf-16-be"]))
def test_any_markup_gives_acts_or_reasons(pieces: list[str], charset: str) -> None:
    results = read("".join(pieces).encode(charset, "surrogatepass"))
    assert results
    assert all(isinstance(result, Act) or result.violations for result in results)


@given(st.binary(max_size=300))
def test_any_bytes_give_a_reason(content: bytes) -> None:
    assert all(result.violations for result in read(content))


def test_the_sample_is_taken_without_a_warning() -> None:
    acts = [accepted(result) for result in read(samples.foreigner_xml(date(2026, 11, 23), 9, seed=1))]
    assert [act.kind.value for act in acts].count("check_out") == 3
    assert [act.row for act in acts] == [1, 2, 3, 3, 4, 5, 6, 6, 7, 8, 9, 9]
    assert not any(act.warnings for act in acts)
