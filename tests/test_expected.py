"""Guests who are expected, or here without an identity: kept apart, told what is missing, and declared once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import asyncpg
import pytest

from asm_daemon import rules
from asm_daemon.intake import Command, Intake, Outcome, batch_result, row_result
from asm_daemon.model import Facility
from schemas.act import Act, ActKind
from schemas.codes import FacilityKind
from schemas.synthetic import person
from schemas.violations import violation
from tests.stack import Clock, FacilityMaker, Pools, command, declaration

PATIENT = {"arrived_at", "room", "reason"}


def booking(index: int = 1, **changes: Any) -> dict[str, Any]:
    """What a hotel knows before the guest comes: all but the document and the birth date."""
    fields = declaration(index, **changes)
    fields["guest"] = {"full_name": fields["guest"]["full_name"], "nationality": "VNM"}
    return fields


def at_the_desk(index: int = 1) -> dict[str, Any]:
    """What the desk adds to `booking`."""
    guest = declaration(index)["guest"]
    return {"guest": {"birth_date": guest["birth_date"], "document": guest["document"]}}


async def act(
    intake: Intake,
    facility: Facility,
    clock: Clock,
    kind: ActKind,
    fields: dict[str, Any],
    ref: str | None = "B-1",
    **members: Any,
) -> Outcome:
    said = {name: members.pop(name) for name in ("match", "guest_ref", "groups", "violations") if name in members}
    made = Act(kind, fields, 1, ref, **said)
    [outcome] = await intake.submit([Command(facility, made, clock(), "owner-1", **members)])
    return outcome


def code_of(outcome: Outcome) -> str:
    assert outcome.refusal is not None, outcome.outcome
    return outcome.refusal.code


def faults_of(outcome: Outcome) -> list[tuple[str, str]]:
    assert outcome.refusal is not None, outcome.outcome
    return [(found.code, found.pointer) for found in outcome.refusal.violations]


def missing(outcome: Outcome) -> set[str]:
    return {found.pointer for found in outcome.missing}


async def count(pools: Pools, table: str) -> int:
    connection = await pools.database.connect()
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return found


@pytest.fixture
async def hospital(make_facility: FacilityMaker) -> Facility:
    made: Facility = await make_facility("HY-YT-0001", FacilityKind.MEDICAL_FACILITY)
    return made


# -- who may not see them ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "role",
    # asm_retention seals blobs anew and sees nothing else: tests/test_resealing.py
    ["asm_police", "asm_sync", "asm_publish", "asm_feeds", "asm_guest", "asm_audit", "asm_auth"],
)
async def test_nobody_but_intake_may_read_who_is_expected(pools: Pools, role: str) -> None:
    connection = await pools.database.connect(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.fetch("SELECT id FROM expected_stays")


async def test_who_is_expected_is_neither_in_house_nor_carried_on_nor_receipted(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True))
    for table in ("stays", "stay_versions", "in_house", "source_refs", "sync_queue", "receipt_batches"):
        assert (table, await count(pools, table)) == (table, 0)
    assert await count(pools, "expected_stays") == 1


async def test_nothing_of_the_person_lies_in_the_clear(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, declaration(1), ref="REF-00090001", guest_ref="MRN-77")
    connection = await pools.database.connect()
    row = bytes(str(await connection.fetchrow("SELECT * FROM expected_stays")), "utf-8")
    who = person(1)
    for secret in (who.full_name, who.document_number, "REF-00090001", "MRN-77"):
        assert secret.encode() not in row


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_an_expectation_without_a_name_or_without_content_is_refused(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    assert faults_of(await act(intake, facility, clock, ActKind.EXPECT, booking(), ref=None)) == [
        ("required", "/source_ref")
    ]
    assert faults_of(await act(intake, facility, clock, ActKind.EXPECT, {})) == [("required", "")]
    wrong = {"guest": {"phone": "no"}}
    assert faults_of(await act(intake, facility, clock, ActKind.EXPECT, wrong)) == [("wrong_format", "/guest/phone")]
    assert await count(pools, "expected_stays") == 0


async def test_an_expectation_that_names_another_facility_is_refused(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    outcome = await act(intake, facility, clock, ActKind.EXPECT, booking(facility="HY-KS-9999"))
    assert code_of(outcome) == "facility_not_granted"


async def test_the_desk_is_told_everything_that_is_still_missing(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking(room=None))
    outcome = await act(intake, facility, clock, ActKind.DECLARE, {"guest": {"birth_date": "1990-02-30"}})
    assert {pointer for _, pointer in faults_of(outcome)} == {"/guest/document", "/room", "/guest/birth_date"}
    assert ("wrong_date", "/guest/birth_date") in faults_of(outcome)
    assert (await count(pools, "stays"), await count(pools, "expected_stays")) == (0, 1)


async def test_an_incomplete_declaration_of_nobody_expected_is_refused_as_ever(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    outcome = await act(intake, facility, clock, ActKind.DECLARE, {"guest": at_the_desk()["guest"]})
    assert ("required", "/arrived_at") in faults_of(outcome)


async def test_what_has_ended_or_not_begun_refuses_what_does_not_fit(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    left = {"departed_at": clock().isoformat()}
    assert code_of(await act(intake, facility, clock, ActKind.CHECK_OUT, left)) == "wrong_state"
    await act(intake, facility, clock, ActKind.CANCEL, {"reason": "guest_did_not_stay"})
    assert code_of(await act(intake, facility, clock, ActKind.CORRECT, {"room": "9"})) == "wrong_state"


async def test_a_booking_that_was_declared_with_other_content_changes_nothing(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    declared = await act(intake, facility, clock, ActKind.DECLARE, at_the_desk())
    late = await act(intake, facility, clock, ActKind.EXPECT, booking(room="999"))
    assert (code_of(late), late.refusal.stay_id) == ("content_differs", str(declared.stay.id))  # type: ignore[union-attr]


async def test_an_unknown_guest_ref_is_nobody_in_house(intake: Intake, hospital: Facility, clock: Clock) -> None:
    match = {"guest_ref": "MRN-1"}
    outcome = await act(intake, hospital, clock, ActKind.CORRECT, {"room": "9"}, ref=None, match=match)
    assert code_of(outcome) == "not_in_house"


@pytest.mark.parametrize(
    ("match", "fault"),
    [
        ({}, ("required", "/document")),
        ({"guest_ref": "M", "document": {"type": 1, "number": "000090000001"}}, ("contradicts", "/document")),
        ({"guest_ref": "M", "arrived_on": "2026-11-23"}, ("contradicts", "/arrived_on")),
        ({"guest_ref": ""}, ("required", "/guest_ref")),
    ],
)
async def test_a_match_names_its_guest_in_one_way(
    intake: Intake, hospital: Facility, clock: Clock, match: dict[str, Any], fault: tuple[str, str]
) -> None:
    outcome = await act(intake, hospital, clock, ActKind.CORRECT, {"room": "9"}, ref=None, match=match)
    assert faults_of(outcome) == [fault]


async def test_what_nobody_could_write_down_is_refused_and_stops_nobody_else(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    deep: dict[str, Any] = {}
    for _ in range(900):
        deep = {"guest": deep}
    for kind in (ActKind.EXPECT, ActKind.DECLARE, ActKind.CORRECT):
        assert faults_of(await act(intake, facility, clock, kind, deep)) == [("not_json", "")]
    many = {f"x{place}": 1 for place in range(20_000)}
    outcome = await act(intake, facility, clock, ActKind.EXPECT, {**booking(), **many})
    assert (outcome.outcome, len(outcome.warnings)) == ("expected", 20_000)


async def test_completing_a_guest_who_is_in_house_already_is_refused_and_keeps_the_expectation(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    first = await act(intake, hospital, clock, ActKind.DECLARE, declaration(1), ref="V-1")
    await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True), ref="V-2")
    outcome = await act(intake, hospital, clock, ActKind.CORRECT, at_the_desk(), ref="V-2")
    assert (code_of(outcome), outcome.refusal.stay_id) == ("already_staying", str(first.stay.id))  # type: ignore[union-attr]
    assert (await count(pools, "stays"), await count(pools, "expected_stays")) == (1, 1)


# -- what is kept ------------------------------------------------------------------------------------------------------


async def test_a_booking_is_kept_with_what_it_lacks_and_is_not_filed(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    sent = command(facility, ActKind.EXPECT, booking(), clock, source_ref="B-1")
    [outcome] = await intake.submit([sent])
    assert (outcome.outcome, outcome.stay, outcome.receipt) == ("expected", None, None)
    assert missing(outcome) == {"/guest/birth_date", "/guest/document"}
    result = row_result(sent, outcome)
    assert result.expected_id is not None
    counted = batch_result([result])
    assert (counted.received, counted.accepted, counted.expected) == (1, 0, 1)


async def test_what_is_wrong_in_a_booking_is_left_out_and_told(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = booking(surprise=1, reason=99)
    fields["guest"] |= {"phone": "no", "document": {"type": 1, "number": "12"}}
    known = (violation("wrong_date", "/guest/birth_date", "B7", expected="dd/MM/yyyy"),)
    outcome = await act(intake, facility, clock, ActKind.EXPECT, fields, violations=known)
    assert outcome.outcome == "expected"
    assert {(found.code, found.pointer) for found in outcome.warnings} == {
        ("wrong_date", "/guest/birth_date"),
        ("wrong_format", "/guest/phone"),
        ("wrong_document_number", "/guest/document/number"),
        ("unknown_code", "/reason"),
        ("unknown_field", "/surprise"),
    }
    assert missing(outcome) == {"/guest/birth_date", "/guest/document/number", "/reason"}


async def test_a_wrong_correction_does_not_take_away_what_was_known(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    outcome = await act(intake, facility, clock, ActKind.CORRECT, {"guest": {"full_name": "7"}, "reason": None})
    assert [found.code for found in outcome.warnings] == ["wrong_name"]
    assert missing(outcome) == {"/guest/birth_date", "/guest/document", "/reason"}


async def test_a_booking_may_be_for_next_year_but_not_for_ever(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    def arriving(days: int) -> dict[str, Any]:
        arrival = clock() + timedelta(days=days)
        departure = arrival + timedelta(days=1)
        return booking(arrived_at=arrival.isoformat(), planned_departure_at=departure.isoformat())

    near = await act(intake, facility, clock, ActKind.EXPECT, arriving(365))
    assert ("/arrived_at" in missing(near), near.warnings) == (False, ())
    far = await act(intake, facility, clock, ActKind.EXPECT, arriving(900), ref="B-2")
    assert [found.code for found in far.warnings] == ["arrival_too_far_ahead"]


async def test_the_same_again_is_a_duplicate(intake: Intake, facility: Facility, clock: Clock, pools: Pools) -> None:
    fields = booking()
    first = await act(intake, facility, clock, ActKind.EXPECT, fields)
    again = await act(intake, facility, clock, ActKind.EXPECT, fields)
    assert (again.outcome, again.expected) == ("duplicate", first.expected)
    assert await count(pools, "expected_stays") == 1


async def test_a_rehearsal_of_an_expectation_stores_nothing(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    [outcome] = await intake.rehearse([command(facility, ActKind.EXPECT, booking(), clock, source_ref="B-1")])
    assert (outcome.outcome, outcome.expected) == ("expected", None)
    assert await count(pools, "expected_stays") == 0


# -- how it becomes a stay ---------------------------------------------------------------------------------------------


async def test_the_desk_declares_a_booking_with_what_it_adds(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking(), guest_ref="G-7")
    corrected = await act(intake, facility, clock, ActKind.CORRECT, at_the_desk())
    assert (corrected.outcome, missing(corrected)) == ("expected", set())  # never by itself
    declared = await act(intake, facility, clock, ActKind.DECLARE, {"room": "301"})
    again = await act(intake, facility, clock, ActKind.DECLARE, {"room": "301"})
    assert (declared.outcome, again.outcome) == ("accepted", "duplicate")
    assert declared.receipt is not None
    assert declared.warnings == ()
    assert (await count(pools, "stays"), await count(pools, "expected_stays")) == (1, 0)
    assert await count(pools, "in_house WHERE guest_tag IS NOT NULL") == 1


async def test_a_whole_declaration_sent_again_after_a_booking_is_a_duplicate(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = declaration(1)
    await act(intake, facility, clock, ActKind.EXPECT, booking(note="late arrival"))
    first = await act(intake, facility, clock, ActKind.DECLARE, fields)
    again = await act(intake, facility, clock, ActKind.DECLARE, fields)
    booked_again = await act(intake, facility, clock, ActKind.EXPECT, {"note": "late arrival"})
    assert [first.outcome, again.outcome, booked_again.outcome] == ["accepted", "duplicate", "duplicate"]
    assert again.stay == booked_again.stay == first.stay


async def test_a_present_guest_is_declared_as_soon_as_nothing_is_missing(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    arrival = clock() - timedelta(days=3)
    first = await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True, arrived_at=arrival.isoformat()))
    assert first.outcome == "expected"
    assert first.expected is not None
    assert first.expected.deadline_at == rules.deadline(arrival)
    done = await act(intake, hospital, clock, ActKind.CORRECT, at_the_desk())
    assert (done.outcome, await count(pools, "expected_stays")) == ("accepted", 0)
    assert done.stay is not None
    assert done.stay.deadline_at == rules.deadline(arrival)
    assert done.stay.late_minutes == rules.late_minutes(clock(), rules.deadline(arrival)) > 0  # it was not filed before


async def test_one_batch_may_expect_complete_and_check_out(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    sent = [
        command(hospital, ActKind.EXPECT, booking(present=True), clock, source_ref="V-1"),
        command(hospital, ActKind.CORRECT, at_the_desk(), clock, source_ref="V-1"),
        command(hospital, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, clock, source_ref="V-1"),
    ]
    outcomes = await intake.submit(sent)
    assert [outcome.outcome for outcome in outcomes] == ["expected", "accepted", "accepted"]
    assert (await count(pools, "expected_stays"), await count(pools, "in_house")) == (0, 0)


async def test_who_left_before_the_identity_was_known_is_declared_and_checked_out(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True))
    left = {"departed_at": clock().isoformat()}
    assert (await act(intake, hospital, clock, ActKind.CHECK_OUT, left)).outcome == "expected"
    assert (await act(intake, hospital, clock, ActKind.CHECK_OUT, left)).outcome == "duplicate"
    readmitted = await act(
        intake, hospital, clock, ActKind.DECLARE, declaration(1, arrived_at=clock().isoformat()), ref="V-2"
    )
    done = await act(intake, hospital, clock, ActKind.CORRECT, at_the_desk())
    assert (readmitted.outcome, done.outcome) == ("accepted", "accepted")
    assert done.stay is not None
    assert (done.stay.status, done.stay.departed_at, done.stay.version) == ("departed", clock(), 2)
    assert await count(pools, "in_house") == 1


async def test_a_cancelled_booking_ends_and_a_guest_who_comes_after_all_is_declared(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    ended = await act(intake, facility, clock, ActKind.CANCEL, {"reason": "guest_did_not_stay"})
    again = await act(intake, facility, clock, ActKind.CANCEL, {"reason": "guest_did_not_stay"})
    assert (ended.outcome, again.outcome) == ("expected", "duplicate")
    assert ended.expected is not None
    assert (ended.expected.state, ended.expected.ended_at) == ("ended", clock())
    assert (await act(intake, facility, clock, ActKind.DECLARE, at_the_desk())).outcome == "accepted"
    assert await count(pools, "expected_stays") == 0


async def test_the_hospital_names_its_patient_by_record_number(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True), ref="V-1", guest_ref="MRN-1")
    match = {"guest_ref": "MRN-1"}
    done = await act(intake, hospital, clock, ActKind.CORRECT, at_the_desk(), ref=None, match=match)
    moved = await act(intake, hospital, clock, ActKind.CORRECT, {"room": "ICU"}, ref=None, match=match)
    left = await act(
        intake, hospital, clock, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, ref=None, match=match
    )
    assert [done.outcome, moved.outcome, left.outcome] == ["accepted", "accepted", "accepted"]
    assert (await count(pools, "expected_stays"), await count(pools, "in_house")) == (0, 0)


async def test_who_is_in_house_comes_before_who_is_booked(intake: Intake, hospital: Facility, clock: Clock) -> None:
    later = (clock() + timedelta(days=30)).isoformat()
    await act(intake, hospital, clock, ActKind.DECLARE, declaration(1), ref="V-1", guest_ref="MRN-1")
    booked = booking(arrived_at=later, planned_departure_at=None)
    await act(intake, hospital, clock, ActKind.EXPECT, booked, ref="V-2", guest_ref="MRN-1")
    match = {"guest_ref": "MRN-1"}
    outcome = await act(intake, hospital, clock, ActKind.CORRECT, {"room": "9"}, ref=None, match=match)
    assert (outcome.outcome, outcome.stay is not None) == ("accepted", True)


async def test_a_foreigners_declaration_warns_once_whether_expected_or_not(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = declaration(1)
    fields["guest"] |= {"nationality": "DEU", "document": {"type": 4, "number": "TEST12345"}}
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    outcome = await act(intake, facility, clock, ActKind.DECLARE, fields)
    assert (outcome.outcome, [found.code for found in outcome.warnings]) == ("accepted", ["foreigner_duty"])


async def test_a_patient_admitted_again_under_a_cancelled_name_has_not_left(
    intake: Intake, hospital: Facility, clock: Clock
) -> None:
    await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True))
    await act(intake, hospital, clock, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()})
    await act(intake, hospital, clock, ActKind.CANCEL, {"reason": "entered_by_mistake"})
    again = await act(intake, hospital, clock, ActKind.EXPECT, booking(present=True))
    assert again.expected is not None
    assert (again.expected.state, again.expected.departed_at) == ("open", None)
    done = await act(intake, hospital, clock, ActKind.CORRECT, at_the_desk())
    assert done.stay is not None
    assert done.stay.status == "declared"


async def test_a_rehearsed_completion_says_what_would_be_and_leaves_the_expectation(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    sent = [command(facility, ActKind.DECLARE, fields, clock, source_ref="B-1") for fields in (at_the_desk(), {})]
    first, second = await intake.rehearse(sent)
    assert (first.outcome, first.stay, second.outcome) == ("accepted", None, "duplicate")
    assert (await count(pools, "stays"), await count(pools, "expected_stays")) == (0, 1)


async def test_one_facilitys_names_mean_nothing_at_another(
    intake: Intake, facility: Facility, hospital: Facility, clock: Clock
) -> None:
    kept = await act(intake, facility, clock, ActKind.EXPECT, booking(), guest_ref="MRN-1")
    assert kept.expected is not None
    by_ref = await act(intake, hospital, clock, ActKind.CANCEL, {"reason": "other"})
    by_id = await act(
        intake, hospital, clock, ActKind.CANCEL, {"reason": "other"}, ref=None, expected_id=kept.expected.id
    )
    match = {"guest_ref": "MRN-1"}
    by_guest = await act(intake, hospital, clock, ActKind.CANCEL, {"reason": "other"}, ref=None, match=match)
    assert [code_of(each) for each in (by_ref, by_id, by_guest)] == ["not_found", "not_found", "not_in_house"]


async def test_a_changed_blob_is_told_and_stops_nobody_else(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking())
    connection = await pools.database.connect()
    await connection.execute("UPDATE expected_stays SET version = version + 1")
    outcomes = await intake.submit(
        [
            command(facility, ActKind.DECLARE, at_the_desk(), clock, source_ref="B-1"),
            command(facility, ActKind.EXPECT, booking(2), clock, source_ref="B-2"),
        ]
    )
    assert [outcome.outcome for outcome in outcomes] == ["refused", "expected"]
    assert code_of(outcomes[0]) == "record_unreadable"


async def test_a_newborn_without_a_document_is_declared_once(
    intake: Intake, hospital: Facility, clock: Clock, pools: Pools
) -> None:
    born = clock() - timedelta(hours=1)
    mother = declaration(1)["guest"]
    child = {
        "full_name": "Nguyễn Sơ Sinh",
        "birth_date": rules.local_day(born).isoformat(),
        "nationality": "VNM",
        "guardian": {"full_name": mother["full_name"], "relationship": 2, "document": mother["document"]},
    }
    fields = {**declaration(1), "arrived_at": born.isoformat()}
    for ref in ("N-1", "N-2"):
        guest = {"full_name": child["full_name"], "nationality": "VNM"}
        first = await act(intake, hospital, clock, ActKind.EXPECT, {**fields, "guest": guest, "present": True}, ref=ref)
        assert first.outcome == "expected"
    done = await act(intake, hospital, clock, ActKind.CORRECT, {"guest": child}, ref="N-1")
    again = await act(intake, hospital, clock, ActKind.CORRECT, {"guest": child}, ref="N-2")
    assert done.outcome == "accepted", [found.code for found in done.missing]
    assert code_of(again) == "already_staying"
