"""Scanned documents: what was misread is told with its place and never corrected, and no value is repeated."""

from __future__ import annotations

import string
from datetime import UTC, date, datetime, timedelta
from typing import Any

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from connectors.identity import check_digit, read
from schemas.codes import NATIONALITIES, FacilityKind
from schemas.identity import PAYLOAD_CHARACTERS_LIMIT, PayloadKind, Reading
from schemas.stay import DeclarationContext, Guest
from tests.connectors.mrz import back_of_card, digit, td1, td2, td3

TODAY = date(2026, 11, 23)
CONTEXT = DeclarationContext(FacilityKind.HOTEL_4_STAR, datetime(2026, 11, 23, 5, tzinfo=UTC))
NUMBER, NAME, BIRTH, ADDRESS = "000190000001", "NGUYỄN THỊ THỬ", "14051990", "Số 1, phố Mẫu, xã Mẫu, tỉnh Mẫu"


def qr(**changes: str) -> str:
    """The QR code of a thẻ CCCD, with some fields changed."""
    fields = {"number": NUMBER, "old": "", "name": NAME, "birth": BIRTH, "sex": "Nữ", "address": ADDRESS}
    return "|".join(({**fields, "issued": "01022021"} | changes).values())


def faults(reading: Reading) -> list[tuple[str, str, str | None]]:
    return [(each.code, each.pointer, each.place) for each in reading.violations]


def doubts(reading: Reading) -> list[str]:
    return [each.code for each in reading.warnings]


def guest(payload: str, today: date = TODAY) -> dict[str, Any]:
    """The guest of a payload in which nothing is wrong."""
    reading = read(payload, today)
    assert reading.violations == ()
    found: dict[str, Any] = reading.fields["guest"]
    return found


def altered(zone: str, line: int, character: int, other: str) -> str:
    """A zone with other characters from one place on, both counted from 1."""
    lines = zone.split("\n")
    at = character - 1
    lines[line - 1] = lines[line - 1][:at] + other + lines[line - 1][at + len(other) :]
    return "\n".join(lines)


# -- payloads that are nothing we know ---------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", ["", " \r\n", "8934567890123", "https://example.com/?a=b", "\ufeff"])
def test_what_is_neither_code_is_refused(payload: str) -> None:
    reading = read(payload, TODAY)
    assert faults(reading) == [("unknown_payload", "", "")]
    assert (reading.kind, reading.fields) == (None, {})


@pytest.mark.parametrize("kind", ["cccd_qr", "mrz", None])
def test_what_is_longer_than_any_code_is_not_looked_at(kind: PayloadKind | None) -> None:
    reading = read("|" * (PAYLOAD_CHARACTERS_LIMIT + 1), TODAY, kind)
    assert (faults(reading), reading.fields) == ([("too_long", "", "")], {})


def test_half_a_character_is_no_text() -> None:
    reading = read(qr(name="NGUYỄN \ud800"), TODAY)
    assert (faults(reading), reading.fields) == ([("undecodable", "", "")], {})


def test_the_kind_that_is_named_is_the_one_that_is_read() -> None:
    assert faults(read(td3(), TODAY, "cccd_qr")) == [("not_card_qr", "", "")]
    assert faults(read(qr(address=""), TODAY, "mrz")) == [("not_mrz", "", "")]


# -- QR codes that are refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_a_qr_code_of_too_few_fields_is_refused(count: int) -> None:
    reading = read("|".join(qr().split("|")[:count]), TODAY)
    assert (faults(reading), reading.fields) == ([("not_card_qr", "", "")], {})


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"number": "00190000001"}, ("wrong_document_number", "/guest/document/number", "trường 1")),
        ({"number": "O00190000001"}, ("wrong_document_number", "/guest/document/number", "trường 1")),
        ({"number": "٠٠٠١٩٠٠٠٠٠٠١"}, ("wrong_document_number", "/guest/document/number", "trường 1")),
        ({"number": ""}, ("required", "/guest/document/number", "trường 1")),
        ({"name": ""}, ("required", "/guest/full_name", "trường 3")),
        ({"name": "NGUY?N TH? TH?"}, ("wrong_name", "/guest/full_name", "trường 3")),
        ({"name": "THỬ " * 26}, ("too_long", "/guest/full_name", "trường 3")),
        ({"birth": "31021990"}, ("wrong_date", "/guest/birth_date", "trường 4")),
        ({"birth": "14051990123"}, ("wrong_date", "/guest/birth_date", "trường 4")),
        ({"birth": ""}, ("required", "/guest/birth_date", "trường 4")),
        ({"birth": "24112026"}, ("birth_date_out_of_range", "/guest/birth_date", "trường 4")),
        ({"birth": "01011879"}, ("wrong_date", "/guest/birth_date", "trường 4")),
        ({"sex": "Khác"}, ("unknown_code", "/guest/gender", "trường 5")),
        ({"address": "phố Mẫu " * 70}, ("too_long", "/guest/residence/address", "trường 6")),
    ],
)
def test_a_field_that_cannot_be_read_is_named_and_left_out(
    changes: dict[str, str], fault: tuple[str, str, str | None]
) -> None:
    reading = read(qr(**changes), TODAY)
    assert faults(reading) == [fault]
    found: Any = reading.fields
    for member in fault[1].strip("/").split("/"):
        found = found.get(member, {})
    assert found == {}
    assert reading.fields["guest"]["nationality"] == "VNM"


def test_every_field_that_is_wrong_is_named_at_once() -> None:
    fields = "|".join((NUMBER[:11], "x", "", "14051990", "Nữ", "", "?")), "|".join((NUMBER, "x", "", "1", "?", "", ""))
    assert [each[2] for each in faults(read(fields[0], TODAY))] == ["trường 1", "trường 3"]
    assert [each[2] for each in faults(read(fields[1], TODAY))] == ["trường 3", "trường 4", "trường 5"]


@pytest.mark.parametrize(
    "payload", ["|||||||", "DN4010000000000|4e47|01/01/1990|1|4d|01001|-|01/01/2026|-|1|-|4|-|01/01/2031|x"]
)
def test_another_card_with_bars_in_its_code_is_no_identity_card(payload: str) -> None:
    reading = read(payload, TODAY)
    assert (faults(reading), reading.fields) == ([("not_card_qr", "", "")], {})


@pytest.mark.parametrize("charset", ["latin-1", "cp1252"])
def test_a_scanner_that_sends_another_charset_is_told_so(charset: str) -> None:
    mojibake = qr(name="NGÔ THỊ THỬ", sex="Nam", address="").encode().decode(charset, "ignore")
    if charset == "cp1252":
        mojibake = qr(name="LÃ", sex="Nam", address="").encode().decode(charset)
    assert faults(read(mojibake, TODAY)) == [("wrong_scanner_charset", "", "")]


# -- QR codes that are taken -------------------------------------------------------------------------------------------


def test_a_card_gives_the_guest_and_nothing_that_a_declaration_does_not_need() -> None:
    reading = read(qr(old="090000001"), TODAY)
    assert reading.kind == "cccd_qr"
    assert reading.fields == {
        "guest": {
            "full_name": NAME, "birth_date": "1990-05-14", "gender": "F", "nationality": "VNM",
            "document": {"type": 1, "number": NUMBER}, "residence": {"kind": 1, "address": ADDRESS},
        }
    }  # fmt: skip
    assert (reading.warnings, reading.violations) == ((), ())


@pytest.mark.parametrize(
    "payload",
    [
        "|".join((NUMBER, NAME, BIRTH, "Nữ", ADDRESS, "01022021")),
        "|".join((NUMBER, "", NAME, BIRTH, "Nữ", ADDRESS)),
        qr() + "||||",
        qr() + "|NGUYỄN VĂN CHA|000060000001|TRẦN THỊ MẸ|000161000001",
        "|".join((NUMBER, NAME, BIRTH, "Nữ", ADDRESS, "01022021", "more")),
    ],
)
def test_fields_may_be_left_out_or_added(payload: str) -> None:
    found = guest(payload)
    assert (found["full_name"], found["birth_date"], found["gender"]) == (NAME, "1990-05-14", "F")
    assert found["residence"]["address"] == ADDRESS
    assert b"NGUY\xe1\xbb\x84N V" not in orjson.dumps(found)


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("14/05/1990", "1990-05-14"), ("14-05-1990", "1990-05-14"), ("14.05.1990", "1990-05-14"), ("1990", "1990"),
        ("051990", "1990-05"), ("05/1990", "1990-05"), ("00001990", "1990"), ("00051990", "1990-05"),
    ],
)  # fmt: skip
def test_dates_come_with_and_without_separators_and_with_less_precision(written: str, meant: str) -> None:
    assert guest(qr(birth=written))["birth_date"] == meant


@pytest.mark.parametrize("noise", ["\r\n", "\t", "\x03", " ", "\x00"])
def test_what_a_scanner_adds_at_the_ends_makes_no_difference(noise: str) -> None:
    assert read("\ufeff" + qr() + noise, TODAY).fields == read(qr(), TODAY).fields
    assert read("]Q3" + qr() + noise, TODAY).fields == read(qr(), TODAY).fields


def test_names_and_addresses_take_their_composed_form() -> None:
    assert guest(qr(name="NGUYE\u0302\u0303N  THI\u0323 THU\u031b\u0309"))["full_name"] == NAME


@pytest.mark.parametrize("issued", ["01072024", "02092025", "23112026"])
def test_a_later_card_may_be_of_either_type_so_the_type_stays_open(issued: str) -> None:
    reading = read(qr(issued=issued), TODAY)
    assert (faults(reading), doubts(reading)) == ([], ["document_type_open"])
    assert reading.fields["guest"]["document"] == {"number": NUMBER}
    assert reading.fields["guest"]["residence"] == {"address": ADDRESS}


def test_a_card_issued_the_day_before_the_law_of_2023_is_a_cccd() -> None:
    assert guest(qr(issued="30062024"))["document"]["type"] == 1


@pytest.mark.parametrize("issued", ["24112026", "13051990", "99999999", "yesterday", "2023", "052024"])
def test_a_date_of_issue_that_makes_no_sense_decides_nothing(issued: str) -> None:
    reading = read(qr(issued=issued), TODAY)
    assert (faults(reading), doubts(reading)) == ([], ["issue_date_doubtful", "document_type_open"])


@pytest.mark.parametrize(
    ("changes", "codes"),
    [
        ({"sex": "Nam"}, ["personal_number_sex"]),
        ({"birth": "14051991"}, ["personal_number_year"]),
        ({"birth": "14051890"}, ["personal_number_year"]),
        ({"number": "097190000001"}, ["personal_number_prefix"]),
        ({"number": "999390000001"}, ["personal_number_prefix", "personal_number_year"]),
    ],
)
def test_a_personal_number_that_disagrees_is_a_warning_and_no_refusal(
    changes: dict[str, str], codes: list[str]
) -> None:
    reading = read(qr(**changes), TODAY)
    assert (faults(reading), doubts(reading)) == ([], codes)


# -- zones that are refused --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "payload", [td3()[:-1], td3() + "<", td1()[:60], "<", "P<UTO" * 20, td3().replace("<<<<<<", "<<<<<", 1)]
)
def test_a_zone_that_is_not_whole_is_refused(payload: str) -> None:
    reading = read(payload, TODAY)
    assert (faults(reading), reading.fields) == ([("not_mrz", "", "")], {})


def test_characters_that_no_zone_has_are_told_with_their_places() -> None:
    changed_by_a_keyboard_method = altered(td3(), 1, 6, "Ê").replace("UTO", "ƯTO", 1)
    assert faults(read(changed_by_a_keyboard_method, TODAY)) == [
        ("mrz_character", "", "dòng 1, ký tự 3"),
        ("mrz_character", "", "dòng 1, ký tự 6"),
    ]
    assert len(faults(read("?<" * 44, TODAY))) == 5
    assert faults(read(altered(td3(), 1, 10, "|"), TODAY)) == [("mrz_character", "", "dòng 1, ký tự 10")]


@pytest.mark.parametrize("zone", [td3(code="V"), td2(code="V"), td3(code="D"), td3(code="1"), td1(code="<")])
def test_a_visa_is_no_identity_document(zone: str) -> None:
    reading = read(zone, TODAY)
    assert (faults(reading), reading.fields) == ([("not_identity_document", "", "dòng 1, ký tự 1-2")], {})


@pytest.mark.parametrize(
    ("zone", "place"),
    [
        (altered(td3(), 2, 14, "O"), "dòng 2, ký tự 14"),
        (altered(td3(), 2, 20, "B"), "dòng 2, ký tự 20"),
        (altered(td2(), 2, 15, "l"), "dòng 2, ký tự 15"),
        (altered(td1(), 2, 3, "S"), "dòng 2, ký tự 3"),
    ],
)
def test_a_letter_where_a_digit_belongs_is_told_and_not_read_as_one(zone: str, place: str) -> None:
    reading = read(zone, TODAY)
    assert faults(reading) == [("mrz_character", "/guest/birth_date", place)]
    assert "birth_date" not in reading.fields["guest"]


@pytest.mark.parametrize(
    ("zone", "pointer", "member"),
    [
        (altered(td3(), 1, 7, "0"), "/guest/full_name", "full_name"),
        (altered(td3(), 2, 12, "8"), "/guest/nationality", "nationality"),
        (altered(td3(), 2, 21, "H"), "/guest/gender", "gender"),
        (altered(td3(), 2, 21, "0"), "/guest/gender", "gender"),
    ],
)
def test_what_no_check_digit_covers_is_refused_where_it_cannot_be(zone: str, pointer: str, member: str) -> None:
    reading = read(zone, TODAY)
    assert [(each.code, each.pointer) for each in reading.violations] == [("mrz_character", pointer)]
    assert member not in reading.fields["guest"]


@pytest.mark.parametrize(
    ("zone", "place"),
    [
        (altered(td3(number="TEST00001"), 2, 5, "O"), "dòng 2, ký tự 5"),
        (altered(td3(number="TEST00001"), 2, 3, "5"), "dòng 2, ký tự 3"),
        (altered(td1(number="TEST00001"), 1, 14, "I"), "dòng 1, ký tự 14"),
        (altered(td2(number="B8000000000"), 2, 2, "B"), "dòng 2, ký tự 2"),
    ],
)
def test_a_look_alike_is_told_with_its_place_and_not_swapped(zone: str, place: str) -> None:
    reading = read(zone, TODAY)
    assert [each.code for each in reading.violations] == ["mrz_check_digit", "mrz_look_alike"]
    assert place in (reading.violations[1].place or "").split("; ")
    assert "number" not in reading.fields["guest"]["document"]


@pytest.mark.parametrize(
    ("zone", "fault"),
    [
        (altered(td3(), 2, 14, "9"), ("mrz_check_digit", "/guest/birth_date", "dòng 2, ký tự 14-19")),
        (altered(td3(), 2, 22, "9"), ("mrz_check_digit", "", "dòng 2, ký tự 22-27")),
        (altered(td3(optional="ZE184226B"), 2, 31, "9"), ("mrz_check_digit", "", "dòng 2, ký tự 29-42")),
        (altered(td3(optional="ZE184226B"), 2, 43, "<"), ("mrz_character", "", "dòng 2, ký tự 43")),
        (altered(td3(), 2, 44, str((int(td3()[-1]) + 1) % 10)), ("mrz_check_digit", "", "dòng 2, ký tự 44")),
        (altered(td2(optional="A1"), 2, 29, "C"), ("mrz_check_digit", "", "dòng 2, ký tự 36")),
        (altered(td1(more="A1"), 2, 19, "C"), ("mrz_check_digit", "", "dòng 2, ký tự 30")),
        (altered(td1(), 1, 15, "<"), ("mrz_character", "/guest/document/number", "dòng 1, ký tự 15")),
    ],
)
def test_each_check_digit_is_checked(zone: str, fault: tuple[str, str, str]) -> None:
    assert faults(read(zone, TODAY)) == [fault]


@pytest.mark.parametrize("line", [1, 2])
def test_a_digit_misread_anywhere_among_numbers_and_dates_is_noticed(line: int) -> None:
    for zone in (td1(number="L898902C3", optional="7123"), td1(number="D23145890734"), back_of_card()):
        text = zone.split("\n")[line - 1]
        for at, each in enumerate(text, 1):
            for other in set(string.digits) - {each} if each.isdigit() else ():
                assert read(altered(zone, line, at, other), TODAY).violations, (zone, at, other)


@pytest.mark.parametrize("birth", ["901314", "900230", "90<<14", "9<0514", "900014"])
def test_a_birth_date_that_does_not_exist_is_refused(birth: str) -> None:
    assert faults(read(td3(birth=birth), TODAY)) == [("wrong_date", "/guest/birth_date", "dòng 2, ký tự 14-19")]


def test_a_birth_date_that_is_unknown_is_left_to_the_desk() -> None:
    assert faults(read(td3(birth=""), TODAY)) == [("required", "/guest/birth_date", "dòng 2, ký tự 14-19")]


def test_an_expiry_that_does_not_exist_is_told() -> None:
    assert faults(read(td3(expiry="321304"), TODAY)) == [("wrong_date", "", "dòng 2, ký tự 22-27")]


@pytest.mark.parametrize("nationality", ["UTO", "QQQ", "X"])
def test_a_nationality_nobody_knows_is_refused(nationality: str) -> None:
    reading = read(td3(nationality=nationality), TODAY)
    assert faults(reading) == [("unknown_code", "/guest/nationality", "dòng 2, ký tự 11-13")]
    assert "nationality" not in reading.fields["guest"]


def test_a_fault_in_the_name_does_not_hide_the_composite_digit() -> None:
    zone = altered(td2(optional="A1", name="ER1KSSON"), 2, 29, "C")
    assert [each[2] for each in faults(read(zone, TODAY))] == ["dòng 1, ký tự 8", "dòng 2, ký tự 36"]


def test_what_is_empty_is_required() -> None:
    pointers = {each.pointer for each in read(td3(name="", number="", nationality=""), TODAY).violations}
    assert pointers == {"/guest/full_name", "/guest/document/number", "/guest/nationality"}


def test_a_passport_number_that_no_declaration_takes_is_told() -> None:
    reading = read(td1(code="P", number="TEST0000001"), TODAY)
    assert [(each.code, each.pointer) for each in reading.violations] == [
        ("wrong_document_number", "/guest/document/number")
    ]


# -- the specimens of ICAO Doc 9303 ------------------------------------------------------------------------------------

SPECIMENS = {
    "TD1": "I<UTOD231458907<<<<<<<<<<<<<<<\n7408122F1204159UTO<<<<<<<<<<<6\nERIKSSON<<ANNA<MARIA<<<<<<<<<<",
    "TD2": "I<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<\nD231458907UTO7408122F1204159<<<<<<<6",
    "TD3": "P<UTOERIKSSON<<ANNA<MARIA<<<<<<<<<<<<<<<<<<<\nL898902C36UTO7408122F1204159ZE184226B<<<<<10",
}
LONG_NUMBERS = {
    "TD1": "I<UTOD23145890<7349<<<<<<<<<<<\n3407127M9507122UTO<<<<<<<<<<<2\nSTEVENSON<<PETER<JOHN<<<<<<<<<",
    "TD2": "I<UTOSTEVENSON<<PETER<JOHN<<<<<<<<<<\nD23145890<UTO3407127M95071227349<<<8",
}


@pytest.mark.parametrize("size", SPECIMENS)
def test_the_specimen_is_right_but_for_utopia(size: str) -> None:
    reading = read(SPECIMENS[size], TODAY)
    assert [each.code for each in reading.violations] == ["unknown_code"]
    assert doubts(reading) == ["name_to_confirm", "document_expired"]
    found = reading.fields["guest"]
    assert (found["full_name"], found["birth_date"], found["gender"]) == ("ERIKSSON ANNA MARIA", "1974-08-12", "F")
    assert found["document"]["number"] == ("L898902C3" if size == "TD3" else "D23145890")
    assert found["document"]["type"] == (4 if size == "TD3" else 9)


@pytest.mark.parametrize("size", LONG_NUMBERS)
def test_a_number_of_more_than_nine_characters_runs_on_in_the_optional_data(size: str) -> None:
    reading = read(LONG_NUMBERS[size], TODAY)
    assert [each.code for each in reading.violations] == ["unknown_code"]
    found = reading.fields["guest"]
    assert found["document"]["number"] == "D23145890734"
    assert found["birth_date"] == "1934-07-12"


@pytest.mark.parametrize("text", ["D23145890734", "520727", "AB2134<<<", "HA672242<658142549601086", ""])
def test_the_generator_and_the_reader_agree_on_check_digits(text: str) -> None:
    assert digit(text) == str(check_digit(text))


def test_a_check_digit_of_the_standard() -> None:
    assert (check_digit("520727"), check_digit("AB2134<<<")) == (3, 5)  # the worked examples of Doc 9303-3


# -- zones that are taken ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "written",
    [
        td3().lower(), td3().replace("\n", ""), td3().replace("\n", "\r\n") + "\r\n", " " + td3().replace("\n", " \n "),
        "\x02" + td3() + "\x03", td3().replace("\n", "\t"), " ".join(td3()),
    ],
)  # fmt: skip
def test_case_lines_and_stray_spaces_make_no_difference(written: str) -> None:
    assert read(written, TODAY).fields == read(td3(), TODAY).fields


@pytest.mark.parametrize(
    ("line", "meant"),
    [
        ("ERIKSSON<<ANNA<MARIA", "ERIKSSON ANNA MARIA"),
        ("ARKFREITHEV", "ARKFREITHEV"),
        ("ARKFREITHEV<ULLA", "ARKFREITHEV ULLA"),
        ("<<RAHUL<KUMAR", "RAHUL KUMAR"),
        ("VAN<DER<MUELLEN<<PIETER", "VAN DER MUELLEN PIETER"),
        ("SMITH<JONES<<SUSIE<MARGARET", "SMITH JONES SUSIE MARGARET"),
        ("NGUYEN<<THI<THU<<<A", "NGUYEN THI THU A"),
    ],
)
def test_names_without_a_surname_or_with_several_are_read_in_their_order(line: str, meant: str) -> None:
    reading = read(td3(name=line), TODAY)
    assert reading.fields["guest"]["full_name"] == meant
    assert doubts(reading) == ["name_to_confirm"]


@pytest.mark.parametrize(("make", "width"), [(td1, 30), (td2, 31), (td3, 39)])
def test_a_name_that_fills_its_field_may_be_cut_off(make: Any, width: int) -> None:
    whole, cut = "PAPANDROPOULOUS<<" + "A" * (width - 18), "PAPANDROPOULOUS<<" + "A" * (width - 17)
    assert "name_truncated" not in doubts(read(make(name=whole), TODAY))
    assert "name_truncated" in doubts(read(make(name=cut), TODAY))


@pytest.mark.parametrize(
    ("written", "stored"),
    [
        ("D", "DEU"), ("GBD", "GBR"), ("GBN", "GBR"), ("GBO", "GBR"), ("GBP", "GBR"), ("GBS", "GBR"), ("XXA", "XXA"),
        ("XXB", "XXB"), ("XXX", "XXX"), ("RKS", "RKS"), ("UNO", "UNO"), ("UNA", "UNA"), ("XOM", "XOM"), ("EUE", "EUE"),
        ("BRA", "BRA"), ("BRN", "BRN"), ("BGR", "BGR"), ("VNM", "VNM"),
    ],
)  # fmt: skip
def test_nationalities_of_travel_documents_become_those_we_store(written: str, stored: str) -> None:
    assert guest(td3(nationality=written))["nationality"] == stored


@pytest.mark.parametrize(("written", "stored"), [("M", "M"), ("F", "F"), ("<", None), ("X", None)])
def test_a_sex_that_is_not_stated_is_left_out(written: str, stored: str | None) -> None:
    assert guest(td3(sex=written)).get("gender") == stored


@pytest.mark.parametrize(
    ("written", "today", "meant"),
    [
        ("261123", TODAY, "2026-11-23"),
        ("261124", TODAY, "1926-11-24"),
        ("270101", TODAY, "1927-01-01"),
        ("000229", TODAY, "2000-02-29"),
        ("280229", TODAY, "1928-02-29"),
        ("991231", TODAY, "1999-12-31"),
        ("000101", date(2100, 1, 1), "2100-01-01"),
        ("000102", date(2100, 1, 1), "2000-01-02"),
        ("9005<<", TODAY, "1990-05"),
        ("90<<<<", TODAY, "1990"),
        ("900500", TODAY, "1990-05"),
        ("900000", TODAY, "1990"),
        ("26<<<<", TODAY, "2026"),
        ("2612<<", TODAY, "1926-12"),
    ],
)
def test_a_birth_is_in_the_latest_year_that_is_not_in_the_future(written: str, today: date, meant: str) -> None:
    assert guest(td3(birth=written), today)["birth_date"] == meant


@pytest.mark.parametrize(
    ("written", "expired"),
    [
        ("261123", False), ("261122", True), ("160101", True), ("991231", False), ("991230", True), ("760101", False),
        ("771231", True), ("<<<<<<", False),
    ],
)  # fmt: skip
def test_an_expiry_is_the_date_nearest_to_today(written: str, expired: bool) -> None:
    reading = read(td3(expiry=written), TODAY)
    assert reading.violations == ()
    assert ("document_expired" in doubts(reading)) == expired


def test_passports_and_cards_of_other_states_have_their_types() -> None:
    assert guest(td3(code="PD"))["document"] == {"number": "TEST00001", "type": 4}
    for zone in (td1(), td2(), td1(code="AC"), td2(code="C"), td1(code="IP", state="USA")):
        document = guest(zone)["document"]
        assert document["type"] == 9
        assert document["name"]


def test_fillers_within_a_number_are_the_hyphens_and_spaces_of_the_document() -> None:
    assert guest(td3(number="AB<12<3"))["document"]["number"] == "AB123"


# -- the back of a Vietnamese card -------------------------------------------------------------------------------------


def test_the_back_of_a_card_gives_the_whole_number_and_leaves_the_type_open() -> None:
    reading = read(back_of_card(), TODAY)
    assert faults(reading) == []
    assert doubts(reading) == ["name_to_confirm", "document_type_open"]
    assert reading.fields["guest"] == {
        "full_name": "NGUYEN THI THU", "birth_date": "1990-05-14", "gender": "F", "nationality": "VNM",
        "document": {"number": NUMBER},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("number", "birth", "meant"),
    [
        ("000124000001", "240514", "1924-05-14"),
        ("000324000001", "240514", "2024-05-14"),
        ("000124000001", "250514", "2025-05-14"),
        ("000527000001", "270514", "1927-05-14"),
    ],
)
def test_the_personal_number_states_the_century_of_birth(number: str, birth: str, meant: str) -> None:
    assert guest(back_of_card(number, birth=birth))["birth_date"] == meant


def test_a_card_without_the_twelve_digits_is_told_where_they_belong() -> None:
    fault = ("wrong_document_number", "/guest/document/number", "dòng 1, ký tự 16-27")
    assert faults(read(back_of_card("", short="190000001"), TODAY)) == [fault]


def test_a_number_is_proven_by_itself_where_the_composite_digit_fails() -> None:
    zone = back_of_card()
    reading = read(altered(zone, 2, 30, str((int(zone.split("\n")[1][-1]) + 1) % 10)), TODAY)
    assert faults(reading) == [("mrz_check_digit", "", "dòng 2, ký tự 30")]
    assert reading.fields["guest"]["document"]["number"] == NUMBER


def test_a_number_that_nothing_proves_is_not_taken() -> None:
    reading = read(altered(back_of_card(), 1, 16, "9"), TODAY)
    assert faults(reading) == [("mrz_check_digit", "/guest/document/number", "dòng 2, ký tự 30")]
    assert "document" not in reading.fields["guest"]


def test_a_card_number_that_differs_from_the_personal_number_is_a_warning() -> None:
    reading = read(back_of_card(short="190000002"), TODAY)
    assert faults(reading) == []
    assert "card_number_differs" in doubts(reading)


@pytest.mark.parametrize(
    ("zone", "code"),
    [
        (back_of_card(sex="M"), "personal_number_sex"),
        (back_of_card(birth="910514"), "personal_number_year"),
        (back_of_card("099190000001"), "personal_number_prefix"),
        (td3(state="VNM", nationality="VNM", sex="M", birth="900514", optional=NUMBER), "personal_number_sex"),
        (td3(state="VNM", nationality="VNM", birth="910514", optional=NUMBER), "personal_number_year"),
    ],
)
def test_what_disagrees_with_the_personal_number_is_a_warning(zone: str, code: str) -> None:
    reading = read(zone, TODAY)
    assert faults(reading) == []
    assert [each for each in doubts(reading) if each.startswith("personal")] == [code]


def test_the_optional_data_of_other_states_are_not_compared() -> None:
    assert doubts(read(td3(state="FRA", optional=NUMBER, sex="M"), TODAY)) == ["name_to_confirm"]


# -- anything at all ---------------------------------------------------------------------------------------------------

_WORDS = st.lists(st.text(string.ascii_uppercase, min_size=1, max_size=6), min_size=1, max_size=3)
_BIRTHS = st.dates(TODAY - timedelta(days=99 * 365), TODAY)
_ZONES = {"TD1": td1, "TD2": td2, "TD3": td3}
_GLYPHS = string.ascii_uppercase + string.digits


@given(
    size=st.sampled_from(sorted(_ZONES)),
    family=_WORDS,
    given_names=_WORDS,
    number=st.text(_GLYPHS, min_size=1, max_size=9),
    nationality=st.sampled_from(sorted(NATIONALITIES)),
    birth=_BIRTHS,
    sex=st.sampled_from("MF<"),
    optional=st.text(_GLYPHS, max_size=7),
)
def test_what_is_written_into_a_zone_is_read_out_of_it(
    size: str,
    family: list[str],
    given_names: list[str],
    number: str,
    nationality: str,
    birth: date,
    sex: str,
    optional: str,
) -> None:
    name = f"{'<'.join(family)}<<{'<'.join(given_names)}"[:30]
    zone = _ZONES[size](
        name=name, number=number, nationality=nationality, birth=f"{birth:%y%m%d}", sex=sex, optional=optional
    )
    reading = read(zone, TODAY)
    assert reading.violations == ()
    found = reading.fields["guest"]
    assert found["full_name"] == " ".join(name.replace("<", " ").split())
    assert (found["birth_date"], found.get("gender")) == (birth.isoformat(), None if sex == "<" else sex)
    assert (found["nationality"], found["document"]["number"]) == (nationality, number)
    Guest.model_validate_json(orjson.dumps(found), context=CONTEXT)


@given(number=st.text(_GLYPHS, min_size=10, max_size=22), size=st.sampled_from(["TD1", "TD2"]))
def test_a_long_number_is_read_whole(number: str, size: str) -> None:
    number = number if size == "TD1" else number[:15]
    assert guest(_ZONES[size](number=number))["document"]["number"] == number


_LETTERS = "AĂÂBCDĐEÊGHIKLMNOÔƠPQRSTUƯVXYÁÀẢÃẠẤẦẨẪẬẮẰẲẴẶÉÈẺẼẸẾỀỂỄỆÍÌỈĨỊÓÒỎÕỌỐỒỔỖỘỚỜỞỠỢÚÙỦŨỤỨỪỬỮỰÝỲỶỸỴ"


@given(
    words=st.lists(st.text(_LETTERS, min_size=1, max_size=7), min_size=1, max_size=5),
    birth=_BIRTHS,
    sex=st.sampled_from("MF"),
    serial=st.integers(0, 999_999),
    slashes=st.booleans(),
    old=st.sampled_from([None, "", "090000001"]),
)
def test_what_is_written_into_a_qr_code_is_read_out_of_it(
    words: list[str], birth: date, sex: str, serial: int, slashes: bool, old: str | None
) -> None:
    number = f"000{(birth.year // 100 - 19) * 2 + (sex == 'F')}{birth:%y}{serial:06d}"
    written = f"{birth:%d/%m/%Y}" if slashes else f"{birth:%d%m%Y}"
    fields = [number, old, " ".join(words), written, "Nam" if sex == "M" else "Nữ", ADDRESS, "23112026"]
    reading = read("|".join(each for each in fields if each is not None), TODAY)
    assert (reading.violations, doubts(reading)) == ((), ["document_type_open"])
    found = reading.fields["guest"]
    assert (found["full_name"], found["birth_date"], found["gender"]) == (" ".join(words), birth.isoformat(), sex)
    assert found["document"]["number"] == number


_KINDS = st.sampled_from([None, "cccd_qr", "mrz"])
_ALMOST = st.one_of(
    st.text(),
    st.text("|/0123456789 ABCNamữ<", max_size=120),
    st.lists(st.text(max_size=8), min_size=5, max_size=12).map("|".join),
    st.sampled_from([30 * 3, 36 * 2, 44 * 2]).flatmap(
        lambda width: st.text(_GLYPHS + "<", min_size=width, max_size=width)
    ),
    st.builds(
        altered,
        st.sampled_from([td1(), td2(), td3(), back_of_card(), *SPECIMENS.values(), *LONG_NUMBERS.values()]),
        st.integers(1, 2),
        st.integers(1, 30),
        st.text(_GLYPHS + "<", min_size=1, max_size=5),
    ),
)


@given(_ALMOST, _KINDS, st.dates(date(1990, 1, 1), date(2150, 1, 1)))
@example("P" + "<" * 87, None, date(1, 1, 1))
@example("IDVNM" + "9" * 85, None, date(9999, 12, 31))
def test_any_text_gives_members_that_a_declaration_takes_or_reasons(
    payload: str, kind: PayloadKind | None, today: date
) -> None:
    reading = read(payload, today, kind)
    assert reading.fields.get("guest") or reading.violations
    found = reading.fields.get("guest", {})
    if not reading.violations:
        document = {"type": 1, **found["document"]}
        context = DeclarationContext(FacilityKind.HOTEL_4_STAR, datetime.combine(today, datetime.max.time(), UTC))
        Guest.model_validate_json(orjson.dumps({**found, "document": document}), context=context)


@given(_ALMOST.filter(lambda payload: len(payload) >= 6), _KINDS)
def test_nothing_that_was_scanned_stands_in_a_reason_or_a_repr(payload: str, kind: PayloadKind | None) -> None:
    secret = "ZQXJ"
    reading = read(payload[:3] + secret + payload[3 + len(secret) :], TODAY, kind)
    assert secret not in repr((reading.warnings, reading.violations))
    assert repr(reading).startswith("<schemas.identity.Reading object")
