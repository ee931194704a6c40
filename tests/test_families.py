"""Families in a house: minors without a document, their guardians, and parties, from refusal to search and sync."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import orjson
from hypothesis import given
from hypothesis import strategies as st
from uuid_utils.compat import uuid7

from asm_daemon import police, rules, sync
from asm_daemon.crypto import Keyring, document_value
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.model import Contents, Facility, Principal, PrincipalKind, StayRow
from asm_daemon.police import Desk
from asm_daemon.store.sync import CarriedStay
from schemas.act import Act, ActKind
from schemas.codes import FacilityKind
from schemas.folding import fold_name
from schemas.police import DocumentSearch, SearchResult
from schemas.population import canonical
from schemas.sandbox import TEST_PERSONS
from schemas.synthetic import person
from schemas.violations import violation
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

MOTHER = 1
CHILD_NUMBER = "000219000001"


def guardian(index: int = MOTHER, **changes: Any) -> dict[str, Any]:
    who = person(index)
    document = {"type": who.document_type, "number": who.document_number}
    return {"relationship": 2, "full_name": who.full_name, "document": document, **changes}


def child(name: str = "TRẦN BÉ MẪU", born: str = "2020-06-05", **changes: Any) -> dict[str, Any]:
    """A declaration of a child of the mother, without a document; `changes` replace members."""
    guest = {
        "full_name": name,
        "birth_date": born,
        "gender": "F",
        "nationality": "VNM",
        "guardian": changes.pop("guardian", guardian()),
        **changes.pop("guest", {}),
    }
    return declaration(MOTHER, **{"guest": guest, **changes})


async def take(
    intake: Intake, facility: Facility, clock: Clock, *declarations: dict[str, Any], kind: ActKind = ActKind.DECLARE
) -> list[Outcome]:
    return await intake.submit([command(facility, kind, fields, clock) for fields in declarations])


async def change(
    intake: Intake, facility: Facility, clock: Clock, stay: Outcome, kind: ActKind, **fields: Any
) -> Outcome:
    assert stay.stay is not None
    [outcome] = await intake.submit([command(facility, kind, fields, clock, stay_id=stay.stay.id)])
    return outcome


def code_of(outcome: Outcome) -> str:
    assert outcome.refusal is not None, outcome.outcome
    return outcome.refusal.code


def faults(outcome: Outcome) -> set[tuple[str, str]]:
    assert outcome.refusal is not None, outcome.outcome
    return {(each.pointer, each.code) for each in outcome.refusal.violations}


def warned(outcome: Outcome) -> list[str]:
    assert outcome.refusal is None, outcome.refusal.violations
    return sorted(each.code for each in outcome.warnings)


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_without_document_and_guardian_everything_else_that_is_wrong_is_told_too(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [outcome] = await take(intake, facility, clock, child(guardian=None, room=None, reason=99))
    assert faults(outcome) == {
        ("/guest/document", "document_or_guardian_required"),
        ("/room", "required"),
        ("/reason", "unknown_code"),
    }


async def test_of_a_document_whose_parts_are_missing_no_guardian_is_asked(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = child(guardian=None)
    known = tuple(violation("required", f"/guest/document/{part}") for part in ("type", "number"))
    act = Act(ActKind.DECLARE, fields, 1, violations=known)
    [outcome] = await intake.submit([Command(facility, act, clock(), actor="owner-1")])
    assert faults(outcome) == {("/guest/document/type", "required"), ("/guest/document/number", "required")}


async def test_an_adult_with_a_guardian_and_no_document_is_refused_by_the_age_on_the_day_of_arrival(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    arrived_at = clock() - timedelta(days=10)
    today, day = rules.local_day(clock()), rules.local_day(arrived_at)
    born = f"{day.year - 14}-{day:%m}-{min(day.day, 28):02}"
    too_old = child(born=born, arrived_at=arrived_at.isoformat())
    [outcome] = await take(intake, facility, clock, too_old)
    assert faults(outcome) == {("/guest/document", "document_required_from_age")}
    younger = f"{today.year - 14}-{today:%m}-{min(today.day, 28):02}"  # fourteen today, thirteen when it came
    [taken] = await take(intake, facility, clock, child(born=younger, arrived_at=arrived_at.isoformat()))
    assert "document_missing_minor" in warned(taken)


async def test_a_correction_cannot_take_the_document_from_a_grown_up(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [grown] = await take(intake, facility, clock, declaration(2))
    patch: dict[str, Any] = {"document": None, "guardian": guardian()}
    assert faults(await change(intake, facility, clock, grown, ActKind.CORRECT, guest=patch)) == {
        ("/guest/document", "document_required_from_age")
    }


async def test_a_correction_that_makes_one_child_another_is_refused(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [stay] = await take(intake, facility, clock, child())
    other = {"full_name": "LÊ CÔ KHÁC", "birth_date": "2021-01-01"}
    for guest in (other, {**other, "document": {"type": 7, "number": CHILD_NUMBER}}):
        assert code_of(await change(intake, facility, clock, stay, ActKind.CORRECT, guest=guest)) == "another_person"


async def test_a_child_in_house_is_not_declared_twice_under_another_name_of_the_stay(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [first, again] = await take(intake, facility, clock, child(source_ref="A-1"), child(source_ref="A-2", room="204"))
    assert first.outcome == "accepted"
    assert code_of(again) == "already_staying"


async def test_a_correction_does_not_make_a_child_the_double_of_another_in_house(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    _, other = await take(intake, facility, clock, child(), child("TRẦN EM MẪU"))
    correction = {"full_name": "Trần Bé Mẫu"}
    refused = await change(intake, facility, clock, other, ActKind.CORRECT, guest=correction)
    assert code_of(refused) == "already_staying"


async def test_a_departure_by_document_never_means_a_child_without_one(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await take(intake, facility, clock, child())
    match = {"document": guardian()["document"]}
    act = Act(ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, 1, match=match)
    [outcome] = await intake.submit([Command(facility, act, clock(), actor="owner-1")])
    assert code_of(outcome) == "not_in_house"


# -- what is taken -----------------------------------------------------------------------------------------------------


async def test_a_child_without_a_document_is_taken_with_a_warning_and_sending_again_is_harmless(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await take(intake, facility, clock, declaration(MOTHER))
    [first] = await take(intake, facility, clock, child())
    [again] = await take(intake, facility, clock, child())
    [other] = await take(intake, facility, clock, child(room="204"))
    assert (first.outcome, warned(first)) == ("accepted", ["document_missing_minor"])
    assert (again.outcome, again.stay) == ("duplicate", first.stay)
    assert code_of(other) == "content_differs"


async def test_children_of_one_name_and_birth_date_are_told_apart_by_their_guardians(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    outcomes = await take(intake, facility, clock, child(), child(guardian=guardian(2)), child(born="2020-06-06"))
    assert [each.outcome for each in outcomes] == ["accepted"] * 3


async def test_a_child_that_left_may_come_again_on_the_same_day(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    came = rules.day_bounds(rules.local_day(clock()))[0]
    [first] = await take(intake, facility, clock, child(arrived_at=came.isoformat()))
    left = clock().isoformat()
    assert (await change(intake, facility, clock, first, ActKind.CHECK_OUT, departed_at=left)).outcome == "accepted"
    clock.instant += timedelta(seconds=1)
    [second] = await take(intake, facility, clock, child(arrived_at=clock().isoformat()))
    assert second.outcome == "accepted"
    assert second.stay is not None
    assert first.stay is not None
    assert second.stay.id != first.stay.id


async def test_a_document_that_is_added_later_makes_the_child_a_guest_like_any_other(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [stay] = await take(intake, facility, clock, child(source_ref="A-1"))
    document = {"type": 7, "number": CHILD_NUMBER}
    corrected = await change(intake, facility, clock, stay, ActKind.CORRECT, guest={"document": document})
    assert corrected.outcome == "accepted"
    assert corrected.stay is not None
    assert corrected.stay.version == 2
    twice = child(source_ref="A-2", guest={"document": document, "full_name": "TRẦN THỊ BÉ"})
    [refused] = await take(intake, facility, clock, twice)
    assert code_of(refused) == "already_staying"
    renamed = {"full_name": "TRẦN THỊ BÉ", "guardian": None}
    assert (await change(intake, facility, clock, stay, ActKind.CORRECT, guest=renamed)).outcome == "accepted"


async def test_a_document_and_a_name_added_in_one_batch_meet_who_is_in_house_under_them(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [_, stay] = await take(intake, facility, clock, child(guest={"document": {"type": 7, "number": CHILD_NUMBER}}),
                           child("TRẦN EM MẪU"))  # fmt: skip
    patches: list[dict[str, Any]] = [{"room": "204"}, {"guest": {"document": {"type": 8, "number": CHILD_NUMBER}}}]
    assert stay.stay is not None
    corrections = [command(facility, ActKind.CORRECT, patch, clock, stay_id=stay.stay.id) for patch in patches]
    moved, refused = await intake.submit(corrections)
    assert moved.outcome == "accepted"
    assert code_of(refused) == "already_staying"


async def test_the_sandbox_checks_no_child_without_a_document(
    intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> None:
    trial = await make_facility("HY-TN-0001", sandbox=True)
    who = TEST_PERSONS[0].person
    known = {"document": {"type": who.document_type, "number": who.document_number}}
    await take(intake, trial, clock, child(), child("TRẦN EM MẪU", guest=known))
    connection = await pools.database.connect()
    answers = await connection.fetch("SELECT verification FROM sync_log ORDER BY verification")
    assert [row["verification"] for row in answers] == ["matched", "not_checked"]


# -- guardians ---------------------------------------------------------------------------------------------------------


async def test_a_guardian_may_be_declared_after_the_child_of_the_same_batch(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    by_ref = guardian(document=None, source_ref="M-1")
    mother = declaration(MOTHER, source_ref="M-1")
    first, second, _ = await take(intake, facility, clock, child(), child("TRẦN EM MẪU", guardian=by_ref), mother)
    assert warned(first) == warned(second) == ["document_missing_minor"]


async def test_a_guardian_who_is_nowhere_is_a_warning_and_never_a_refusal(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    by_ref = child("TRẦN EM MẪU", guardian=guardian(document=None, source_ref="M-1"))
    itself = child("TRẦN ÚT MẪU", source_ref="C-1", guardian=guardian(document=None, source_ref="C-1"))
    for fields in (child(), by_ref, itself):
        rehearsed = await intake.rehearse([command(facility, ActKind.DECLARE, fields, clock)])
        taken = await take(intake, facility, clock, fields)
        assert [warned(each) for each in (*rehearsed, *taken)] == [["document_missing_minor", "guardian_not_found"]] * 2


async def test_a_guardian_at_another_facility_is_not_found(
    intake: Intake, facility: Facility, make_facility: FacilityMaker, clock: Clock
) -> None:
    await take(intake, await make_facility("HY-KS-0002"), clock, declaration(MOTHER, source_ref="M-1"))
    [by_document] = await take(intake, facility, clock, child())
    [by_ref] = await take(
        intake, facility, clock, child("TRẦN EM MẪU", guardian=guardian(document=None, source_ref="M-1"))
    )
    assert warned(by_document) == warned(by_ref) == ["document_missing_minor", "guardian_not_found"]


async def test_a_guardian_who_has_left_is_told_where_the_rule_wants_one_in_house(
    intake: Intake, make_facility: FacilityMaker, clock: Clock
) -> None:
    found = {}
    for code, kind in (("HY-NN-0001", FacilityKind.GUESTHOUSE), ("HY-BV-0001", FacilityKind.MEDICAL_FACILITY)):
        house = await make_facility(code, kind)
        [mother] = await take(intake, house, clock, declaration(MOTHER, source_ref="M-1"))
        left = clock().isoformat()
        await change(intake, house, clock, mother, ActKind.CHECK_OUT, departed_at=left)
        by_ref = child("TRẦN EM MẪU", guardian=guardian(document=None, source_ref="M-1"))
        found[kind] = [warned(each) for each in await take(intake, house, clock, by_ref, child())]
    missing = "document_missing_minor"
    assert found == {
        FacilityKind.GUESTHOUSE: [[missing, "guardian_not_in_house"], [missing, "guardian_not_found"]],
        FacilityKind.MEDICAL_FACILITY: [[missing], [missing]],
    }


# -- parties -----------------------------------------------------------------------------------------------------------


def of_party(index: int, role: str, ref: str = "Đoàn Mẫu") -> dict[str, Any]:
    return declaration(index, party={"ref": ref, "role": role})


async def test_a_member_whose_party_has_no_head_is_warned_and_taken(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [alone] = await take(intake, facility, clock, of_party(2, "member"))
    [rehearsed] = await intake.rehearse([command(facility, ActKind.DECLARE, of_party(3, "member"), clock)])
    assert warned(alone) == warned(rehearsed) == ["party_without_head"]
    [other_party] = await take(intake, facility, clock, of_party(4, "head", "Đoàn khác"))
    [still] = await take(intake, facility, clock, of_party(3, "member"))
    assert (warned(other_party), warned(still)) == ([], ["party_without_head"])


async def test_the_head_may_come_first_or_last_and_its_party_is_found_however_it_is_written(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    outcomes = await take(intake, facility, clock, of_party(2, "member"), of_party(3, "head"))
    outcomes += await take(intake, facility, clock, of_party(4, "member", "doan  mẫu"))
    assert [warned(each) for each in outcomes] == [[], [], []]


async def test_a_head_who_has_left_or_is_no_head_any_more_leads_nobody(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    [head] = await take(intake, facility, clock, of_party(2, "head"))
    await change(intake, facility, clock, head, ActKind.CORRECT, party={"role": "member"})
    [second] = await take(intake, facility, clock, of_party(3, "member"))
    await change(intake, facility, clock, head, ActKind.CORRECT, party={"role": "head"})
    [third] = await take(intake, facility, clock, of_party(4, "member"))
    await change(intake, facility, clock, head, ActKind.CHECK_OUT, departed_at=clock().isoformat())
    [fourth] = await take(intake, facility, clock, of_party(5, "member"))
    await change(intake, facility, clock, head, ActKind.UNDO_CHECK_OUT)
    [fifth] = await take(intake, facility, clock, of_party(6, "member"))
    none = ["party_without_head"]
    assert [warned(each) for each in (second, third, fourth, fifth)] == [none, [], none, []]


async def test_a_second_head_is_told_of_the_first(intake: Intake, facility: Facility, clock: Clock) -> None:
    [first] = await take(intake, facility, clock, of_party(2, "head"))
    [second] = await take(intake, facility, clock, of_party(3, "head"))
    assert (warned(first), warned(second)) == ([], ["party_with_other_head"])


async def test_only_intake_reads_who_leads_a_party(pools: Pools) -> None:
    connection = await pools.database.connect()
    granted = await connection.fetch(
        "SELECT DISTINCT grantee FROM information_schema.table_privileges WHERE table_name = 'party_heads'"
    )
    assert {row["grantee"] for row in granted} <= {"asm_intake", "asm_owner"}


# -- the police and the population database ----------------------------------------------------------------------------


async def test_the_police_find_a_child_by_no_number_until_there_is_one_and_then_see_guardian_and_party(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    desk = Desk(await pools.get("asm_police"), await pools.get("asm_audit"), keyring, DEPLOYMENT, None)
    officer = Principal(uuid7(), PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC02 (mẫu)", None, {})

    async def found(number: str) -> SearchResult:
        asked = DocumentSearch(document_number=number, purpose="criminal_investigation", case_ref="15/2026/HS-PC02")
        return await police.search(desk, officer, asked, clock())

    party = {"ref": "Nhà Mẫu", "role": "member"}
    [stay] = await take(intake, facility, clock, child(party=party))
    value = rules.guest_value(child()["guest"])
    for number in (value, value.replace("|", ""), person(MOTHER).document_number, "MAU"):
        assert (await found(number)).stays == []
    document = {"type": 7, "number": CHILD_NUMBER}
    await change(intake, facility, clock, stay, ActKind.CORRECT, guest={"document": document})
    [seen] = (await found(CHILD_NUMBER)).stays
    assert seen.guest["guardian"] == guardian()
    assert seen.party == party
    assert "MẪU" not in repr(seen)


def test_the_population_database_is_told_of_a_child_by_name_and_birth_date_and_not_of_its_guardian(
    clock: Clock,
) -> None:
    now = clock().replace(microsecond=0)
    stay_id = uuid7()
    row = StayRow(stay_id, 1, 1, "declared", "declare", now, now, now, None, None, now, 0, bytes(16), stay_id, 0, b"")
    contents = Contents(child(party={"ref": "Nhà Mẫu", "role": "member"}), bytes(16), "A-1", "owner-1")
    item = sync.population_item(CarriedStay(row, "HY-KS-0001", "hotel_4_star", "12112"), contents)
    assert orjson.loads(canonical(item))["guest"] == {
        "full_name": "TRẦN BÉ MẪU",
        "birth_date": "2020-06-05",
        "gender": "F",
        "nationality": "VNM",
        "document": None,
    }


# -- who is who --------------------------------------------------------------------------------------------------------

names = st.text(st.sampled_from("AĐàéMN '-."), min_size=1, max_size=12).filter(lambda text: text[0].isalpha())
dates = st.dates().map(str)
children = st.fixed_dictionaries(
    {
        "full_name": names,
        "birth_date": dates,
        "guardian": st.fixed_dictionaries({"full_name": names}),
    }
)


@given(one=children, other=children, number=st.text(max_size=40))
def test_guests_without_a_document_never_pass_for_a_document_nor_for_each_other(
    one: dict[str, Any], other: dict[str, Any], number: str
) -> None:
    with_document = rules.guest_value({**one, "document": {"number": number}})
    assert with_document == document_value(number)
    assert rules.guest_value(one) != with_document
    same = all(
        fold_name(mine) == fold_name(theirs)
        for mine, theirs in (
            (one["full_name"], other["full_name"]),
            (one["guardian"]["full_name"], other["guardian"]["full_name"]),
        )
    ) and (one["birth_date"] == other["birth_date"])
    assert (rules.guest_value(one) == rules.guest_value(other)) is same
    assert "|" not in document_value(number)
