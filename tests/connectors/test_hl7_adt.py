"""Messages of a hospital: what is not understood is refused by segment and field, what is not needed is not kept."""

from __future__ import annotations

import logging
import unicodedata
from datetime import UTC, datetime

import hl7
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors.hl7_adt import connector, read_message, split_batch
from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.codes import FacilityKind
from schemas.hospital import HospitalProfile
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


HEADER = rb"MSH|^~\&|a|b|c|d|e||ADT^A01|1|P|2.5" + b"\r"
HOSTILE = {
    "fields": HEADER + b"PID|" + b"|" * (9 << 20),
    "identifiers": HEADER + b"PID|1||" + b"1^^^^MR~" * (2 << 20) + b"\rPV1|1|I\r",
    "segments": HEADER + b"ZZZ|1\r" * (3 << 20),
    "segments of a short message": HEADER + b"Z|1\r" * 64_000 + b"PID|1\rPV1|1|I\r",
    "relatives": HEADER + b"PID|1\rPV1|1|I\r" + (b"NK1|" + b"|" * 190 + b"\r") * 900,
    "fields of one segment": HEADER + b"PID|1\rPV1|" + b"|" * 201,
    "repetitions": HEADER + b"PID|1||" + b"1~" * 100 + b"\rPV1|1|I",
    "components": HEADER + b"PID|1||" + b"^&" * 50 + b"\rPV1|1|I",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_more_parts_than_any_real_message_are_refused_before_the_parser_sees_them(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[int] = []
    parse = hl7.parse

    def counted(text: str) -> hl7.Message:
        seen.append(len(text))
        return parse(text)

    monkeypatch.setattr(hl7, "parse", counted)
    assert faults(only(read_message(HOSTILE[name]))) == [("message_too_large", "MSH")]
    [from_file] = connector.read(HOSTILE[name])
    assert faults(from_file) == [("message_too_large", "MSH")]
    assert not seen
    accepted(read())
    assert len(seen) == 1


def test_segments_that_nobody_needs_are_dropped_however_long(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    parse = hl7.parse

    def noted(text: str) -> hl7.Message:
        seen.append(text)
        return parse(text)

    monkeypatch.setattr(hl7, "parse", noted)
    diagnoses = ("DG1|" + "|" * 60_000, *("OBX|1||" + "^~" * 50,) * 900)
    assert accepted(only(read_message(message(of=ADMISSION + diagnoses)))) == accepted(read())
    assert seen[0] == seen[1]


def test_a_large_real_message_is_within_the_limits() -> None:
    relatives = ("NK1|1|Trần^Mẫu^Văn|" + "|" * 36,) * 100
    many = ("BN77^^^BV01^MR", "~".join(["BN77^^^BV01^MR", *(f"{n}^^^BV01^XX" for n in range(90))]))
    accepted(only(read_message(message(many, of=ADMISSION + relatives))))


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


# -- every event of a stay ---------------------------------------------------------------------------------------------

UPDATE = tuple(line.replace("ADT^A01^ADT_A01", "ADT^A08").replace("EVN|A01", "EVN|A08") for line in ADMISSION)


def as_event(event: str, *changes: tuple[str, str], of: tuple[str, ...] = ADMISSION) -> Act | Unreadable:
    return read(("ADT^A01^ADT_A01", f"ADT^{event}"), ("EVN|A01", f"EVN|{event}"), *changes, of=of)


@pytest.mark.parametrize("event", ["A02", "A03", "A07", "A08", "A11", "A12", "A13"])
def test_a_change_that_does_not_say_of_which_stay_is_refused(event: str) -> None:
    result = as_event(event, ("VS1", ""), ("BN77^^^BV01^MR~", ""))
    assert ("required", "PV1-19") in faults(result)


@pytest.mark.parametrize("event", ["A02", "A12"])
def test_a_transfer_to_nowhere_is_refused(event: str) -> None:
    assert faults(as_event(event, ("NOI^203^2", ""))) == [("required", "PV1-3")]


def test_a_visit_number_that_cannot_be_one_is_refused() -> None:
    assert faults(as_event("A13", ("VS1", "Lượt 1"))) == [("wrong_source_ref", "PV1-19")]


def test_a_merge_without_the_old_number_is_refused() -> None:
    merge = (ADMISSION[0].replace("A01^ADT_A01", "A40"), ADMISSION[2])
    assert faults(read(of=merge)) == [("missing_segment", "MRG")]
    assert faults(read(of=(*merge, "MRG||"))) == [("required", "MRG-1")]


def test_a_patient_class_that_nobody_has_explained_is_refused_rather_than_passed_over() -> None:
    assert faults(read(("PV1|1|I", "PV1|1|NT"))) == [("unknown_code", "PV1-2")]
    profile = HospitalProfile(overnight_classes=("NT",))
    assert accepted(only(read_message(message(("PV1|1|I", "PV1|1|NT")), profile=profile))).kind is ActKind.DECLARE
    assert read_message(message(), profile=profile) == ()


@pytest.mark.parametrize(
    ("patient_class", "room", "stays"),
    [("I", "NOI^203^2", True), ("B", "SAN^1", True), ("", "NOI", True), ("E", "CC^1^2", True), ("E", "CC^1", False),
     ("C", "NOI^203^2", False), ("U", "NOI", False)],
)  # fmt: skip
def test_the_class_decides_who_stays_overnight(patient_class: str, room: str, stays: bool) -> None:
    said = read_message(message(("PV1|1|I", f"PV1|1|{patient_class}"), ("NOI^203^2", room)))
    assert bool(said) is stays


@pytest.mark.parametrize(
    ("event", "kind", "fields"),
    [
        ("A02", ActKind.CORRECT, {"room": "NOI-203-2"}),
        ("A07", ActKind.CANCEL, {"reason": "guest_did_not_stay"}),
        ("A11", ActKind.CANCEL, {"reason": "entered_by_mistake"}),
        ("A12", ActKind.CORRECT, {"room": "NOI-203-2"}),
        ("A13", ActKind.UNDO_CHECK_OUT, {}),
    ],
)
def test_each_event_is_one_act_on_the_stay_of_its_visit(event: str, kind: ActKind, fields: dict[str, object]) -> None:
    act = accepted(as_event(event))
    assert (act.kind, act.source_ref, act.fields) == (kind, "VS1", fields)


def test_a07_undoes_an_admission_though_its_class_is_now_another() -> None:
    assert accepted(as_event("A07", ("PV1|1|I", "PV1|1|O"))).kind is ActKind.CANCEL


def test_a06_admits_as_a01_does() -> None:
    assert accepted(as_event("A06")) == accepted(read())


def test_an_update_corrects_what_it_knows_and_leaves_the_rest_alone() -> None:
    act = accepted(as_event("A08", ("19900514", ""), ("|0000000001", ""), ("20261126", ""), ("202611230810", "")))
    assert act.kind is ActKind.CORRECT
    assert set(act.fields) == {"guest", "room"}
    assert set(act.fields["guest"]) == {"full_name", "gender", "document", "nationality", "residence"}
    assert act.guest_ref == "BN77"


def test_an_update_is_read_as_an_admission_only_if_it_says_since_when_and_nobody_has_left() -> None:
    said = read_message(message(of=UPDATE), as_admission=True)
    assert accepted(only(said)) == accepted(read())
    assert read_message(message(("202611230810", ""), of=UPDATE), as_admission=True) == ()
    left = message(("202611230810", "202611230810|202611240810"), of=UPDATE)
    assert read_message(left, as_admission=True) == ()


@pytest.mark.parametrize("event", ["", "ADT"])
def test_the_trigger_may_stand_in_evn_alone(event: str) -> None:
    assert accepted(read(("ADT^A01^ADT_A01", event or "ADT"))).kind is ActKind.DECLARE


@pytest.mark.parametrize("version", ["2.1", "2.2", "2.3", "2.3.1", "2.4", "2.5", "2.5.1", "2.6", "2.7", "2.8", ""])
def test_every_version_is_read(version: str) -> None:
    assert accepted(read(("|2.5|", f"|{version}|"))) == accepted(read())
    truncating = message((r"|^~\&|", r"|^~\&#|"))  # MSH-2 of 2.7 has a fifth character
    assert accepted(only(read_message(truncating))) == accepted(read())


# -- patients without identity -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "lacking"),
    [
        ([("Nguyễn^Thử^Thị^^^^L", "")], "full_name"),
        ([("Nguyễn^Thử^Thị^^^^L", "Không^Rõ^^^^^S")], "full_name"),
        ([("|19900514|", "||")], "birth_date"),
        ([("0000000001", "0000000001" + "|" * 19 + "UD")], "birth_date"),
        ([("~000190000001^^^BCA^NI", "")], "document"),
    ],
)
def test_a_patient_without_identity_is_expected_as_present(changes: list[tuple[str, str]], lacking: str) -> None:
    act = accepted(read(*changes))
    assert (act.kind, act.source_ref, act.fields["present"]) == (ActKind.EXPECT, "VS1", True)
    assert lacking not in act.fields["guest"]


def test_a_patient_of_whom_nothing_is_known_but_that_they_are_there_is_expected() -> None:
    act = accepted(read(of=(*ADMISSION[:2], "PID|1", "PV1|1|E|CC^1^2" + "|" * 16 + "VS9")))
    assert act.fields == {
        "arrived_at": "2026-11-23T08:13:00+07:00", "room": "CC-1-2", "reason": 18, "present": True,
    }  # fmt: skip


def test_somebody_unknown_whose_visit_has_no_name_is_refused_for_nobody_could_complete_it() -> None:
    result = read(("VS1", ""), ("BN77^^^BV01^MR~000190000001^^^BCA^NI", ""))
    assert faults(result) == [("required", "PV1-19")]


@pytest.mark.parametrize(
    ("segments", "ref", "match"),
    [
        (("MRG|BN11^^^BV01^MR",), None, {"guest_ref": "BN11"}),
        (("MRG|TMP 9",), None, {"guest_ref": "TMP9"}),
        (("MRG|BN11^^^BV01^MR", "PV1|1|I|" + "|" * 16 + "VS1"), "VS1", None),
    ],
)
def test_a_merge_names_the_guest_by_visit_or_by_the_old_number(
    segments: tuple[str, ...], ref: str | None, match: dict[str, str] | None
) -> None:
    act = accepted(read(of=(ADMISSION[0].replace("A01^ADT_A01", "A40"), ADMISSION[2], *segments)))
    assert (act.kind, act.source_ref, act.match, act.guest_ref) == (ActKind.CORRECT, ref, match, "BN77")
    assert set(act.fields) == {"guest"}


def test_a_merge_of_several_patients_is_an_act_for_each() -> None:
    header = ADMISSION[0].replace("A01^ADT_A01", "A40")
    other = ADMISSION[2].replace("BN77", "BN78")
    said = read_message(message(of=(header, ADMISSION[2], "MRG|OLD1", other, "MRG|OLD2")))
    assert [accepted(each).match for each in said] == [{"guest_ref": "OLD1"}, {"guest_ref": "OLD2"}]


# -- relatives ---------------------------------------------------------------------------------------------------------

STAYING = HospitalProfile(relative_role="LUUTRU")
NK1 = (
    "NK1|1|Trần^Mẫu^Văn|SPO|2 phố Mẫu^^^109|0000000002||LUUTRU|20261123120000|||||||M|19880102" + "|" * 17
    + "000188000002^^^^NI"
)  # fmt: skip


def relatives(*lines: str, of: tuple[str, ...] = ADMISSION) -> list[Act]:
    patient, *rest = read_message(message(of=(*of, *lines)), profile=STAYING)
    accepted(patient)
    return [accepted(each) for each in rest]


def test_relatives_are_nobodys_guests_unless_the_facility_says_so() -> None:
    assert accepted(only(read_message(message(of=(*ADMISSION, NK1))))).source_ref == "VS1"
    assert relatives(NK1.replace("LUUTRU", "N")) == []


@pytest.mark.parametrize("of", [ADMISSION, UPDATE])
def test_a_relative_who_stays_is_a_guest_of_their_own(of: tuple[str, ...]) -> None:
    [act] = relatives(NK1, of=of)
    assert (act.kind, act.source_ref, act.guest_ref) == (ActKind.DECLARE, "VS1/NK1-1", "NK1@VS1")
    assert act.fields == {
        "guest": {
            "full_name": "Trần Văn Mẫu", "birth_date": "1988-01-02", "gender": "M", "nationality": "VNM",
            "document": {"type": 1, "number": "000188000002"}, "phone": "0000000002",
            "residence": {"kind": None, "province": "109", "address": "2 phố Mẫu"},
        },
        "arrived_at": "2026-11-23T12:00:00+07:00", "room": "NOI-203-2", "reason": 6,
    }  # fmt: skip
    assert act.origin["/guest/full_name"] == "NK1[1]-2"


def test_a_relative_without_identity_is_expected_and_comes_with_the_patient() -> None:
    [act] = relatives("NK1|2|Trần^Mẫu^^^^^L|SPO||||LUUTRU")
    assert (act.kind, act.source_ref) == (ActKind.EXPECT, "VS1/NK1-2")
    assert act.fields["arrived_at"] == "2026-11-23T08:10:00+07:00"


def test_what_is_wrong_with_a_relative_is_named_by_segment_and_number() -> None:
    [act] = relatives(NK1.replace("19880102", "19881302"))
    assert faults(act) == [("wrong_date", "NK1[1]-16")]


def test_a_relative_leaves_at_the_end_that_is_sent() -> None:
    arrival, leaving = relatives(NK1.replace("20261123120000|", "20261123120000|20261124"))
    assert (leaving.kind, leaving.source_ref) == (ActKind.CHECK_OUT, arrival.source_ref)
    assert leaving.fields == {"departed_at": "2026-11-24T12:00:00+07:00"}


@pytest.mark.parametrize(("event", "kind"), [("A03", "check_out"), ("A07", "cancel"), ("A11", "cancel")])
def test_relatives_leave_with_the_patient(event: str, kind: str) -> None:
    patient, together = read_message(message(("ADT^A03", f"ADT^{event}"), of=DISCHARGE), profile=STAYING)
    assert accepted(patient).source_ref == "VS1"
    assert (accepted(together).kind, together.source_ref, together.match) == (kind, None, {"guest_ref": "NK1@VS1"})  # type: ignore[union-attr]


def test_no_more_relatives_are_read_than_fit_a_room() -> None:
    assert len(relatives(*(NK1.replace("NK1|1", f"NK1|{each}") for each in range(1, 30)))) == 10


# -- senders' habits ---------------------------------------------------------------------------------------------------


def test_a_byte_order_mark_is_passed_over() -> None:
    assert only(read_message(b"\xef\xbb\xbf" + message())) == read()
    [result] = connector.read(b"\xef\xbb\xbf" + message())
    assert result == read()


def test_a_header_that_ends_early_is_enough() -> None:
    short = (r"MSH|^~\&|HIS|BV|||||ADT^A01|1", *ADMISSION[1:])
    assert accepted(read(of=short)) == accepted(read())


def test_the_senders_charset_counts_where_the_message_names_none() -> None:
    raw = message(("UNICODE UTF-8", "")).decode().replace("ễ", "ê").replace("ị", "i").replace("ử", "u")
    profile = HospitalProfile(charset="8859/1")
    act = accepted(only(read_message(raw.replace("phố Mẫu", "A").encode("latin-1", "ignore"), profile=profile)))
    assert act.fields["guest"]["full_name"] == "Nguyên Thi Thu"
    named = message(("Nguyễn^Thử^Thị^^^^L", "Lê^Hà^^^^^L"))  # MSH-18 comes first
    assert accepted(only(read_message(named, profile=profile))).fields["guest"]["full_name"] == "Lê Hà"


@pytest.mark.parametrize(
    "lines",
    [
        (r"BHS|^~\&|", *ADMISSION),
        (r"BHS|^~\&|", *ADMISSION, "BTS|2"),
        (r"BHS|^~\&|", *ADMISSION, r"BHS|^~\&|", *DISCHARGE, "BTS|1"),
        (*ADMISSION, "BTS|1"),
    ],
)
def test_a_batch_that_is_not_whole_is_refused_whole(lines: tuple[str, ...]) -> None:
    document = "\r".join(lines).encode()
    [result] = connector.read(document)
    assert (result.row, faults(result)) == (0, [("batch_incomplete", None)])
    assert not split_batch(document)


def test_batches_are_split_into_their_messages() -> None:
    lines = (r"FHS|^~\&|", r"BHS|^~\&|", *ADMISSION, "BTS|1", r"BHS|^~\&|", *DISCHARGE, "BTS|1", "FTS|2")
    assert split_batch("\r\n".join(lines).encode()) == [message(), message(of=DISCHARGE)]
    assert split_batch(message()) is None
    framed = b"\x0b" + "\r".join(lines).encode() + b"\x1c\r"
    assert [result.row for result in connector.read(framed)] == [1, 2]
