"""Messages of a hospital: what is not understood is refused by segment and field, what is not needed is not kept."""

from __future__ import annotations

import logging
import unicodedata
from datetime import UTC, datetime

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7_adt import connector, read_message
from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.stay import CheckOut, DeclarationContext, StayDeclaration

ADMISSION = (
    r"MSH|^~\&|HIS-MAU|BV-MAU-01|ASM|HY|20261123081500||ADT^A01^ADT_A01|MSG1|P|2.5|||||VNM|UNICODE UTF-8",
    r"EVN|A01|20261123081400|||U1|20261123081300",
    r"PID|1||BN77^^^BV01^MR~000190000001^^^BCA^NI||Nguyễn^Thử^Thị^^^^L||19900514|F|||"
    r"1 phố Mẫu^^Thái Bình^109^^VNM^P||0000000001",
    r"PV1|1|I|NOI^203^2||||||||||||||||VS1|||||||||||||||||||||||||202611230810",
    r"PV2|||||||||20261126",
)
DISCHARGE = (
    r"MSH|^~\&|HIS-MAU|BV-MAU-01|ASM|HY|20261125090000||ADT^A03|MSG2|P|2.5|||||VNM|UNICODE UTF-8",
    r"EVN|A03|20261125090000",
    r"PID|1||BN77^^^BV01^MR||Nguyễn^Thử^Thị",
    r"PV1|1|I|NOI^203^2||||||||||||||||VS1|||||||||||||||||||||||||202611230810|20261125085500",
)


def message(*changes: tuple[str, str], of: tuple[str, ...] = ADMISSION, charset: str = "utf-8") -> bytes:
    """A message with parts replaced; each part must be there."""
    text = "\r".join(of)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text.encode(charset)


def only(said: tuple[Act | Unreadable, ...]) -> Act | Unreadable:
    [result] = said
    return result


def read(*changes: tuple[str, str], of: tuple[str, ...] = ADMISSION) -> Act | Unreadable:
    return only(read_message(message(*changes, of=of)))


def faults(result: Act | Unreadable | None) -> list[tuple[str, str | None]]:
    assert result is not None
    assert result.violations
    return [(fault.code, fault.place) for fault in result.violations]


def accepted(result: Act | Unreadable | None) -> Act:
    assert isinstance(result, Act), result
    return result


# -- messages that are refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"\r\n",
        b"MSH",
        b"MSH|",
        b"PID|1",
        b"MSH|^~\\&",
        b"MSHA^~\\&A",
        b"MSH|^~||\rPID|1",
        b"MSH|||||ADT",
        b"GET / HTTP/1.1",
    ],
)
def test_bytes_that_are_no_message_are_refused(raw: bytes) -> None:
    assert [code for code, _ in faults(only(read_message(raw)))] in (["not_hl7"], ["unsupported_event"])


@pytest.mark.parametrize("event", ["A17", "A18", "A24", "A35", "A44", "A99", ""])
def test_an_event_that_would_have_to_be_acted_on_is_refused_not_ignored(event: str) -> None:
    result = read(("ADT^A01^ADT_A01", f"ADT^{event}"), ("EVN|A01", "EVN|"))
    assert faults(result) == [("unsupported_event", "MSH-9")]


def test_a_message_that_is_not_adt_is_refused() -> None:
    assert faults(read(("ADT^A01^ADT_A01", "ORU^R01"))) == [("unsupported_event", "MSH-9")]


def test_every_missing_segment_is_named() -> None:
    assert faults(read(of=ADMISSION[:2])) == [("missing_segment", "PID"), ("missing_segment", "PV1")]


def test_every_fault_of_a_message_is_named_by_its_field() -> None:
    result = read(("19900514", "19901414"), ("VS1", "VS 1"), ("202611230810", "2026112308x"), ("20261126", "2026"))
    assert faults(result) == [
        ("wrong_source_ref", "PV1-19"),
        ("wrong_date", "PID-7"),
        ("wrong_date", "PV1-44"),
        ("wrong_date", "PV2-9"),
    ]


def test_a_null_is_nothing() -> None:
    assert "full_name" not in accepted(read(("Nguyễn^Thử^Thị^^^^L", '""'))).fields["guest"]


@pytest.mark.parametrize(("charset", "name"), [("utf-8", "Nguyễn".encode("utf-16")), ("ASCII", b"Nguy\xffn")])
def test_bytes_that_do_not_fit_the_charset_are_refused_and_never_replaced(charset: str, name: bytes) -> None:
    raw = message(("UNICODE UTF-8", charset)).replace("Nguyễn".encode(), name)
    assert faults(only(read_message(raw))) == [("undecodable", "MSH-18")]


def test_a_charset_that_nobody_knows_is_refused() -> None:
    assert faults(read(("UNICODE UTF-8", "ISO IR87"))) == [("undecodable", "MSH-18")]


def test_a_discharge_that_does_not_say_whose_is_refused() -> None:
    result = read(("VS1", ""), ("BN77^^^BV01^MR", "BN77"), of=DISCHARGE)
    assert faults(result) == [("required", "PV1-19")]


def test_an_unknown_nationality_is_refused() -> None:
    assert faults(read(("|0000000001", "|0000000001|||||||||||||QQQ"))) == [("unknown_code", "PID-26")]


def test_no_fault_repeats_what_a_person_wrote() -> None:
    fields = "|".join(["ZQXJ^ZQXJ^^^NI"] * 50)
    result = read(of=(ADMISSION[0], f"PID|{fields}", f"PV1|{fields}", f"PV2|{fields}"))
    assert result is not None
    assert result.violations
    assert "ZQXJ" not in repr(result)


# -- events after which nobody stays -----------------------------------------------------------------------------------


@pytest.mark.parametrize("event", ["A04", "A05", "A14", "A16", "A21", "A31", "A38", "A60"])
def test_events_that_change_no_overnight_stay_yield_nothing(event: str) -> None:
    assert read_message(message(("ADT^A01^ADT_A01", f"ADT^{event}"))) == ()


@pytest.mark.parametrize("patient_class", ["O", "P", "R"])
def test_out_patients_yield_nothing(patient_class: str) -> None:
    assert read_message(message(("PV1|1|I", f"PV1|1|{patient_class}"))) == ()
    assert read_message(message(("PV1|1|I", f"PV1|1|{patient_class}"), of=DISCHARGE)) == ()


# -- admissions and discharges -----------------------------------------------------------------------------------------


def test_every_field_of_an_admission_lands_in_its_place() -> None:
    act = accepted(read())
    assert act.kind is ActKind.DECLARE
    assert act.source_ref == "VS1"
    assert act.fields == {
        "guest": {
            "full_name": "Nguyễn Thị Thử", "birth_date": "1990-05-14", "gender": "F", "nationality": "VNM",
            "document": {"type": 1, "number": "000190000001"},
            "phone": "0000000001",
            "residence": {"kind": 1, "province": "109", "address": "1 phố Mẫu, Thái Bình"},
        },
        "arrived_at": "2026-11-23T08:10:00+07:00",
        "planned_departure_at": "2026-11-26T12:00:00+07:00",
        "room": "NOI-203-2", "reason": 18,
    }  # fmt: skip
    assert act.origin["/guest/full_name"] == "PID-5"
    assert act.origin["/source_ref"] == "PV1-19"


def test_an_admission_is_a_valid_declaration_and_a_discharge_a_valid_check_out() -> None:
    context = DeclarationContext(FacilityKind.MEDICAL_FACILITY, datetime(2026, 11, 23, 10, tzinfo=UTC))
    StayDeclaration.model_validate_json(orjson.dumps(accepted(read()).fields), context=context)
    CheckOut.model_validate_json(orjson.dumps(accepted(read(of=DISCHARGE)).fields))


def test_a_discharge_ends_the_stay_of_its_visit() -> None:
    act = accepted(read(of=DISCHARGE))
    assert (act.kind, act.source_ref) == (ActKind.CHECK_OUT, "VS1")
    assert act.fields == {"departed_at": "2026-11-25T08:55:00+07:00"}


def test_diagnoses_and_relatives_are_never_kept() -> None:
    rest = ("DG1|1||Z99^Bí mật||", "NK1|1|Bí^Mật|", "AL1|1||Bí mật", "OBX|1|TX|||Bí mật")
    assert accepted(read(of=(*ADMISSION, *rest))) == accepted(read())


@pytest.mark.parametrize(
    ("changes", "ref", "place"),
    [
        ([("VS1", "")], "BN77@202611230810", "PID-3"),
        ([("VS1", ""), ("202611230810", "202611230810||||||ALT9")], "ALT9", "PV1-50"),
        ([("VS1", ""), ("0000000001", "0000000001|||||ACC5")], "ACC5", "PID-18"),
    ],
)
def test_a_visit_without_its_number_is_named_by_the_next_best_thing(
    changes: list[tuple[str, str]], ref: str, place: str
) -> None:
    act = accepted(read(*changes))
    assert act.source_ref == ref
    assert act.origin["/source_ref"] == place


@pytest.mark.parametrize(
    ("identifiers", "document"),
    [
        ("000190000001^^^^NNVNM", {"type": 1, "number": "000190000001"}),
        ("000 190 000 001^^^^cccd", {"type": 1, "number": "000190000001"}),
        ("000190000001^^^^CC", {"type": 8, "number": "000190000001"}),
        ("TEST00001^^^^PPN~000190000001^^^^NI", {"type": 1, "number": "000190000001"}),
        ("000000001^^^^NI~TEST00001^^^^PPN", {"type": 4, "number": "TEST00001"}),
        ("000000001^^^^NI~TEST9^^^^DL", {"type": 2, "number": "000000001"}),
        ("TEST9^^^^HC", {"type": 6, "number": "TEST9"}),
        ("TEST9^^^^NNKOR", {"type": 9, "number": "TEST9", "name": "National identifier"}),
        ("12345^^^^NI", {"type": 1, "number": "12345"}),  # refused by content later, under its own field
    ],
)
def test_the_best_identity_document_is_chosen(identifiers: str, document: dict[str, object]) -> None:
    act = accepted(read(("BN77^^^BV01^MR~000190000001^^^BCA^NI", identifiers), ("|0000000001", "|" * 14 + "VNM")))
    assert act.fields["guest"]["document"] == document


@pytest.mark.parametrize(
    ("sent", "meant"),
    [
        ("202611230810", "2026-11-23T08:10:00+07:00"),
        ("20261123081059.1234", "2026-11-23T08:10:59+07:00"),
        ("20261123011000+0000", "2026-11-23T08:10:00+07:00"),
        ("20261122233000-0500", "2026-11-23T11:30:00+07:00"),
        ("2026112308", "2026-11-23T08:00:00+07:00"),
        ("20261123", "2026-11-23T00:00:00+07:00"),
        ("", "2026-11-23T08:13:00+07:00"),  # EVN-6
    ],
)
def test_times_without_an_offset_are_vietnamese(sent: str, meant: str) -> None:
    assert accepted(read(("202611230810", sent))).fields["arrived_at"] == meant


@pytest.mark.parametrize(("sent", "meant"), [("1990", "1990"), ("199005", "1990-05"), ("199005140830", "1990-05-14")])
def test_birth_dates_keep_the_precision_they_are_sent_with(sent: str, meant: str) -> None:
    assert accepted(read(("19900514", sent))).fields["guest"]["birth_date"] == meant


def test_what_is_unknown_and_not_needed_is_left_out() -> None:
    act = accepted(
        read(("|F|", "|U|"), ("1 phố Mẫu^^Thái Bình^109^^VNM^P", ""), ("0000000001", "con gái"), of=ADMISSION[:4])
    )
    assert set(act.fields) == {"guest", "arrived_at", "room", "reason"}
    assert set(act.fields["guest"]) == {"full_name", "birth_date", "nationality", "document"}


def test_escaped_separators_come_back_and_nothing_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        act = accepted(read(("1 phố Mẫu", r"Ngõ \T\ \S\ \.sp999999999\\XZZ\\Q1\ Mẫu")))
    assert act.fields["guest"]["residence"]["address"] == "Ngõ & ^ Mẫu, Thái Bình"
    assert caplog.records == []


def test_other_separators_are_understood() -> None:
    swapped = message().translate(bytes.maketrans(b"|^~&", b"#!*%"))
    assert only(read_message(swapped)) == read()


@pytest.mark.parametrize(
    ("charset", "named", "name"),
    [
        ("utf-8", "", "Lê Hà"),
        ("utf-8", "UNICODE UTF-8~8859/1", "Lê Hà"),
        ("latin-1", "8859/1", "Lê Hà"),
        ("cp1258", "windows-1258", "Lê Hà\u0323"),  # a tone mark follows its letter: composed on reading
    ],
)
def test_the_charset_of_the_header_counts(charset: str, named: str, name: str) -> None:
    raw = message(
        ("UNICODE UTF-8", named), ("Nguyễn^Thử^Thị^^^^L", name.replace(" ", "^")), ("phố Mẫu^^Thái Bình", "A")
    ).decode().encode(charset)  # fmt: skip
    assert accepted(only(read_message(raw))).fields["guest"]["full_name"] == unicodedata.normalize("NFC", name)


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
def test_any_line_end_separates_segments(line_end: str) -> None:
    assert only(read_message(line_end.join(ADMISSION).encode())) == read()


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("document", [b"", b"\r\n\r\n", message(("ADT^A01^ADT_A01", "ADT^A04"))])
def test_a_file_that_declares_nothing_is_not_a_success(document: bytes) -> None:
    [result] = connector.read(document)
    assert (result.row, faults(result)) == (0, [("no_rows", None)])


def test_a_file_of_frames_yields_each_message_under_its_number() -> None:
    ignored = message(("ADT^A01^ADT_A01", "ADT^A04"))
    frames = (message(), ignored, b"garbage", message(of=DISCHARGE))
    results = list(connector.read(b"".join(b"\x0b" + frame + b"\x1c\r" for frame in frames)))
    assert [result.row for result in results] == [1, 3, 4]
    assert faults(results[1]) == [("not_hl7", "MSH")]


def test_a_frame_without_its_end_is_refused_since_it_may_be_cut_off() -> None:
    results = list(connector.read(b"\x0b" + message() + b"\x1c\r\x0b" + message(of=DISCHARGE)))
    assert [result.row for result in results] == [1, 2]
    assert faults(results[1]) == [("not_hl7", None)]


@pytest.mark.parametrize("line_end", ["\r", "\n", "\r\n"])
def test_a_file_of_bare_messages_and_batch_headers_yields_each_message(line_end: str) -> None:
    lines = (r"FHS|^~\&|", r"BHS|^~\&|", *ADMISSION, "", *DISCHARGE, "BTS|2", "FTS|1", "")
    results = list(connector.read(line_end.join(lines).encode()))
    assert [(result.row, accepted(result).kind) for result in results] == [(1, "declare"), (2, "check_out")]


def test_lines_before_the_first_message_are_not_passed_over() -> None:
    results = list(connector.read(b"PID|1||lost\r" + message()))
    assert faults(results[0]) == [("not_hl7", "MSH")]
    accepted(results[1])


# -- anything at all ---------------------------------------------------------------------------------------------------


@given(st.binary(max_size=200))
def test_any_bytes_give_a_reason_or_nothing(raw: bytes) -> None:
    for document in (raw, b"MSH|^~\\&|" + raw, message() + raw):
        for result in connector.read(document):
            assert from_json(to_json(result)) == result


@given(st.data())
def test_a_message_garbled_anywhere_gives_an_act_a_reason_or_nothing(data: st.DataObject) -> None:
    raw = bytearray(message(of=data.draw(st.sampled_from([ADMISSION, DISCHARGE]))))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(raw)))
        raw[start : start + data.draw(st.integers(0, 12))] = data.draw(st.binary(max_size=12))
    for result in read_message(bytes(raw)):
        assert from_json(to_json(result)) == result
