"""Recorded searches on a real database: first everything that must stop one, then what is found."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from pydantic import ValidationError
from structlog.testing import capture_logs
from uuid_utils.compat import uuid7

from asm_daemon import police
from asm_daemon.crypto import (
    AuditorKeys,
    Keyring,
    Tampered,
    generate_auditor_keys,
    open_as_auditor,
)
from asm_daemon.intake import Intake
from asm_daemon.model import Facility, Principal, PrincipalKind, StayRow
from asm_daemon.police import Desk
from asm_daemon.problems import Refused, from_validation
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.police import DocumentSearch, QueryKind, SearchResult
from schemas.synthetic import person
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

CITIZEN, FOREIGNER = 1, 9  # synthetic people: one with a personal number, one with a passport
CASE = "15/2026/HS-PC02"

Ask = Callable[..., Awaitable[SearchResult]]


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[Any]]:
    """What is logged, and that whom a search is about is never part of it."""
    with capture_logs() as events:
        yield events
    who = person(CITIZEN)
    assert who.document_number not in repr(events)
    assert who.full_name not in repr(events)


@pytest.fixture(scope="module")
def auditor() -> AuditorKeys:
    return generate_auditor_keys()


@pytest.fixture
async def desk(pools: Pools, keyring: Keyring, auditor: AuditorKeys, partitions: None) -> Desk:
    return Desk(await pools.get("asm_police"), await pools.get("asm_audit"), keyring, DEPLOYMENT, auditor.public_key)


@pytest.fixture
def officer() -> Principal:
    return Principal(uuid7(), PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC02 (mẫu)", None, {})


@pytest.fixture
def ask(desk: Desk, officer: Principal, clock: Clock) -> Ask:
    """`await ask(number=…, purpose=…, case_ref=…)` searches as the officer."""

    def search(
        number: str = person(CITIZEN).document_number, purpose: str = "criminal_investigation", case_ref: str = CASE
    ) -> Awaitable[SearchResult]:
        return police.search(desk, officer, question(number, purpose, case_ref), clock())

    return search


def question(
    number: str = person(CITIZEN).document_number, purpose: str = "criminal_investigation", case_ref: str = CASE
) -> DocumentSearch:
    return DocumentSearch(document_number=number, purpose=purpose, case_ref=case_ref)


async def declare(intake: Intake, facility: Facility, clock: Clock, index: int = CITIZEN, **changes: Any) -> StayRow:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(index, **changes), clock)])
    assert outcome.stay is not None, outcome.refusal
    return outcome.stay


async def entries(pools: Pools) -> list[dict[str, Any]]:
    """The police's audit entries, sealed or not, in the order in which they came."""
    superuser = await pools.database.connect()
    sealed = await superuser.fetch("SELECT body FROM audit_log ORDER BY position")
    waiting = await superuser.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    bodies = [json.loads(row["body"]) for row in [*sealed, *waiting]]
    return [body for body in bodies if body["action"].startswith("police.")]


async def actions(pools: Pools) -> list[str]:
    return [entry["action"] for entry in await entries(pools)]


def faults(refused: pytest.ExceptionInfo[Refused]) -> list[tuple[str, str]]:
    return [(each.code, each.pointer) for each in refused.value.violations]


# -- what stops a search -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "pointer", "code"),
    [
        ({"document_number": " - "}, "/document_number", "required"),
        ({"document_number": ""}, "/document_number", "required"),
        ({"document_number": "0" * 65}, "/document_number", "too_long"),
        ({"document_number": 1}, "/document_number", "wrong_type"),
        ({"name": "x"}, "/name", "unknown_field"),
        ({"case_ref": None}, "/case_ref", "wrong_type"),
    ],
)
def test_a_malformed_question_is_no_question(members: dict[str, Any], pointer: str, code: str) -> None:
    sound = {"document_number": "000190000001", "purpose": "wanted_person", "case_ref": CASE}
    with pytest.raises(ValidationError) as error:
        DocumentSearch.model_validate_json(json.dumps({**sound, **members}))
    assert [(each.pointer, each.code) for each in from_validation(error.value)] == [(pointer, code)]


def test_a_question_never_prints_whom_it_is_about() -> None:
    assert repr(question()) == str(question()) == "<DocumentSearch>"


async def test_only_an_officer_searches_and_another_who_tries_is_recorded(
    desk: Desk, officer: Principal, clock: Clock, pools: Pools
) -> None:
    others = [kind for kind in PrincipalKind if kind is not PrincipalKind.OFFICER]
    for kind in others:
        with pytest.raises(Refused, match="forbidden"):
            await police.search(desk, replace(officer, kind=kind), question(), clock())
    recorded = await entries(pools)
    assert {(entry["action"], entry["actor"]) for entry in recorded} == {("police.search.refuse", str(officer.id))}
    assert [entry["actor_kind"] for entry in recorded] == others


async def test_an_unknown_purpose_and_a_wrong_case_are_named_at_once_and_recorded(ask: Ask, pools: Pools) -> None:
    unknown = ("curiosity", "", "RESCUE", "rescue\x00")
    for purpose in unknown:
        with pytest.raises(Refused, match="request_invalid") as refused:
            await ask(purpose=purpose, case_ref="please")
        assert faults(refused) == [("unknown_code", "/purpose"), ("wrong_format", "/case_ref")]
    recorded = await entries(pools)
    assert len(recorded) == len(unknown)
    for entry in recorded:
        assert entry["action"] == "police.search.refuse"
        assert entry["details"]["problem"] == "request_invalid"
        assert entry["details"]["faults"] == ["unknown_code", "wrong_format"]
        assert (entry["purpose"], entry["case_ref"]) == (None, None)


NO_CASES = (
    "",
    "15",
    "15/2026",
    "15/2026/",
    "15/1926/HS-PC02",
    "1234567/2026/HS",
    "15/2026/hs-pc02",
    "15/2026/HS PC02",
    "15/2026/HS-0001",
    "000190000001",
    "15/2026/A000190000001",
    "15/2026/HS-PC02\n15",
    "\uff11\uff15/2026/HS-PC02",
)


async def test_a_case_reference_has_number_year_and_symbol_and_no_room_for_a_document_number(
    ask: Ask, pools: Pools
) -> None:
    for case_ref in NO_CASES:
        with pytest.raises(Refused, match="request_invalid") as refused:
            await ask(case_ref=case_ref)
        assert faults(refused) == [("wrong_format", "/case_ref")], case_ref
    recorded = await entries(pools)
    assert len(recorded) == len(NO_CASES)
    assert {(entry["purpose"], entry["case_ref"]) for entry in recorded} == {("criminal_investigation", None)}
    for case_ref in ("1/2026/HS", "123456/2026/ĐTTH-CSKT-PC03"):
        await ask(case_ref=case_ref)


async def test_a_purpose_allows_only_its_own_kinds_of_search(ask: Ask, pools: Pools) -> None:
    with pytest.raises(Refused, match="purpose_not_allowed"):
        await ask(purpose="rescue")
    [entry] = await entries(pools)
    assert (entry["action"], entry["purpose"], entry["case_ref"]) == ("police.search.refuse", "rescue", CASE)


async def test_a_purpose_no_longer_in_force_is_unknown(ask: Ask, desk: Desk, pools: Pools) -> None:
    await (await pools.database.connect()).execute("UPDATE police_purposes SET active = false WHERE code = 'rescue'")
    with pytest.raises(Refused, match="request_invalid") as refused:
        await ask(purpose="rescue")
    assert faults(refused) == [("unknown_code", "/purpose")]
    assert "rescue" not in [purpose.code for purpose in await police.purposes(desk.pool)]


async def test_without_a_record_there_is_no_answer_not_even_a_refusal(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    await (await pools.database.connect()).execute("REVOKE INSERT ON audit_pending FROM asm_police")
    for purpose in ("criminal_investigation", "rescue", "curiosity"):
        with pytest.raises(Refused, match="audit_unavailable"):
            await ask(purpose=purpose)


async def test_what_cannot_be_sealed_is_not_searched(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    superuser = await pools.database.connect()
    await superuser.execute("REVOKE INSERT ON audit_log FROM asm_audit")
    await superuser.execute("REVOKE SELECT ON stays FROM asm_police")  # were it read, it would say so
    with pytest.raises(Refused, match="audit_unavailable"):
        await ask()
    assert await actions(pools) == ["police.search"]


async def test_over_a_tampered_audit_nobody_searches(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    await ask()
    await (await pools.database.connect()).execute("DELETE FROM audit_checkpoints")
    with pytest.raises(Refused, match="audit_unavailable"):
        await ask()


async def test_an_answer_that_cannot_be_recorded_does_not_leave(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    await (await pools.database.connect()).execute(
        """
        CREATE FUNCTION refuse_outcome() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF convert_from(NEW.body, 'UTF8') LIKE '%police.search.outcome%' THEN
                RAISE EXCEPTION 'the disk is full';
            END IF;
            RETURN NEW;
        END $$;
        CREATE TRIGGER refuse_outcome BEFORE INSERT ON audit_pending FOR EACH ROW EXECUTE FUNCTION refuse_outcome();
        """
    )
    with pytest.raises(Refused, match="audit_unavailable"):
        await ask()
    assert await actions(pools) == ["police.search"]


async def test_a_search_that_fails_is_on_record_as_failed(ask: Ask, pools: Pools) -> None:
    await (await pools.database.connect()).execute("REVOKE SELECT ON stays FROM asm_police")
    with pytest.raises(Refused, match="unavailable"):
        await ask()
    intent, outcome = await entries(pools)
    assert outcome["action"] == "police.search.outcome"
    assert outcome["object"] == f"audit/{intent['id']}"
    assert outcome["details"] == {"problem": "unavailable"}


async def test_without_this_months_keys_a_search_says_so_instead_of_finding_nothing(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    clock.instant += timedelta(days=70)  # there are keys for this month and the next
    with pytest.raises(Refused, match="unavailable"):
        await ask()
    assert await actions(pools) == ["police.search", "police.search.outcome"]


async def test_a_database_that_is_away_is_unavailable(ask: Ask, desk: Desk) -> None:
    await desk.pool.close()
    with pytest.raises(Refused, match="unavailable"):
        await ask()
    with pytest.raises(Refused, match="unavailable"):
        await police.purposes(desk.pool)


async def test_the_polices_login_can_do_nothing_but_read_stays_and_add_to_the_audit(pools: Pools) -> None:
    connection = await pools.database.connect("asm_police")
    for statement in (
        "UPDATE stays SET status = 'cancelled'",
        "DELETE FROM stays",
        "SELECT secret_sha256 FROM api_keys",
        "SELECT body FROM audit_pending",
        "SELECT body FROM audit_log",
        "INSERT INTO police_purposes SELECT * FROM police_purposes",
        "UPDATE police_purposes SET window_days = 1830",
        "SELECT document_tag FROM in_house",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)


# -- the record --------------------------------------------------------------------------------------------------------


async def test_the_question_is_sealed_into_the_audit_before_anything_is_read(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    stay = await declare(intake, facility, clock)
    blocker = await pools.database.connect()
    watcher = await pools.database.connect("asm_audit")
    async with asyncio.timeout(10):
        async with blocker.transaction():
            await blocker.execute("LOCK TABLE stays IN ACCESS EXCLUSIVE MODE")  # nobody reads a stay before this ends
            searching = asyncio.ensure_future(ask())
            while not await watcher.fetchval("SELECT count(*) FROM audit_log WHERE body LIKE '%\"police.search\"%'"):
                await asyncio.sleep(0.01)
            signed = await watcher.fetchval("SELECT max(size) FROM audit_checkpoints")
            assert signed == await watcher.fetchval("SELECT count(*) FROM audit_log")
            assert not searching.done()
        assert [found.stay_id for found in (await searching).stays] == [str(stay.id)]


async def test_the_record_says_who_why_and_how_much_and_nothing_about_the_guest(
    ask: Ask, officer: Principal, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    stay = await declare(intake, facility, clock)
    result = await ask()
    intent, outcome = await entries(pools)
    assert intent["id"] == result.trace
    assert outcome["object"] == f"audit/{result.trace}"
    for entry in (intent, outcome):
        assert (entry["actor_kind"], entry["actor"]) == ("officer", str(officer.id))
        assert entry["organisation"] == officer.organisation
        assert (entry["purpose"], entry["case_ref"]) == ("criminal_investigation", CASE)
    assert intent["details"]["kind"] == "document"
    assert outcome["details"] == {
        "count": 1,
        "more": False,
        "returned_sha256": sha256(stay.id.bytes).hexdigest(),
        "unreadable_count": 0,
        "unreadable": [],
    }
    who = person(CITIZEN)
    recorded = json.dumps([intent, outcome], ensure_ascii=False)
    assert who.document_number not in recorded
    assert who.full_name not in recorded


async def test_what_was_searched_opens_with_the_auditors_key_and_in_its_own_entry_only(
    ask: Ask, auditor: AuditorKeys, pools: Pools
) -> None:
    await ask(number="000 190 000 001")
    with pytest.raises(Refused):
        await ask(number="TEST00001", case_ref="look at Nguyễn Văn Thử")
    intent, outcome, refusal = await entries(pools)
    assert "terms_sealed" not in outcome["details"]
    sealed = base64.b64decode(intent["details"]["terms_sealed"])
    terms = open_as_auditor(auditor.private_key, police.terms_info(UUID(intent["id"])), sealed)
    assert json.loads(terms) == {
        "document_number": "000 190 000 001",
        "purpose": "criminal_investigation",
        "case_ref": CASE,
    }
    with pytest.raises(Tampered):
        open_as_auditor(auditor.private_key, police.terms_info(UUID(refusal["id"])), sealed)
    refused = base64.b64decode(refusal["details"]["terms_sealed"])
    terms = open_as_auditor(auditor.private_key, police.terms_info(UUID(refusal["id"])), refused)
    assert json.loads(terms)["case_ref"] == "look at Nguyễn Văn Thử"


async def test_without_an_auditor_the_search_is_recorded_without_its_terms(
    desk: Desk, officer: Principal, clock: Clock, pools: Pools
) -> None:
    result = await police.search(replace(desk, auditor_public_key=None), officer, question(), clock())
    intent, _ = await entries(pools)
    assert intent["id"] == result.trace
    assert intent["details"]["terms_sealed"] is None


async def test_where_terms_are_required_nobody_searches_without_an_auditor_and_the_try_is_on_record(
    desk: Desk, officer: Principal, clock: Clock, pools: Pools
) -> None:
    strict = replace(desk, auditor_public_key=None, terms_required=True)
    with pytest.raises(Refused, match="audit_unavailable"):
        await police.search(strict, officer, question(), clock())
    [refusal] = await entries(pools)
    assert (refusal["action"], refusal["details"]["problem"]) == ("police.search.refuse", "audit_unavailable")
    assert await police.search(
        replace(strict, auditor_public_key=desk.auditor_public_key), officer, question(), clock()
    )


async def test_a_process_that_ends_between_question_and_outcome_leaves_the_question_sealed(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    blocker = await pools.database.connect()
    watcher = await pools.database.connect("asm_audit")
    async with asyncio.timeout(10), blocker.transaction():
        await blocker.execute("LOCK TABLE stays IN ACCESS EXCLUSIVE MODE")
        searching = asyncio.ensure_future(ask())
        while not await watcher.fetchval("SELECT count(*) FROM audit_log WHERE body LIKE '%\"police.search\"%'"):
            await asyncio.sleep(0.01)
        searching.cancel()
        with pytest.raises(asyncio.CancelledError):
            await searching
    assert await actions(pools) == ["police.search"]
    assert await watcher.fetchval("SELECT max(size) FROM audit_checkpoints") == await watcher.fetchval(
        "SELECT count(*) FROM audit_log"
    )


async def test_the_guard_is_asked_when_the_question_is_on_record_and_its_refusal_is_the_outcome(
    desk: Desk, officer: Principal, clock: Clock, pools: Pools
) -> None:
    async def refuse(_now: object) -> None:
        assert await actions(pools) == ["police.search"]
        raise Refused("audit_not_witnessed")

    with pytest.raises(Refused, match="audit_not_witnessed"):
        await police.search(replace(desk, guard=refuse), officer, question(), clock())
    _, outcome = await entries(pools)
    assert outcome["details"] == {"problem": "audit_not_witnessed"}


# -- what is found -----------------------------------------------------------------------------------------------------


async def test_nobody_of_this_number_is_an_answer_too(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock, index=2)
    result = await ask()
    assert (result.stays, result.more, result.unreadable) == ([], False, 0)


async def test_a_search_beyond_what_is_kept_says_of_which_kinds_of_facility(
    desk: Desk, officer: Principal, clock: Clock
) -> None:
    kept = {FacilityKind.HOTEL_4_STAR: 732, FacilityKind.MEDICAL_FACILITY: 366, FacilityKind.GUESTHOUSE: 1096}
    short = replace(desk, kept_days=kept)
    result = await police.search(short, officer, question(purpose="criminal_investigation"), clock())
    assert result.forgotten_before == {
        FacilityKind.HOTEL_4_STAR: clock() - timedelta(days=732),
        FacilityKind.MEDICAL_FACILITY: clock() - timedelta(days=366),
    }
    within = await police.search(short, officer, question(purpose="residence_check"), clock())
    assert within.forgotten_before == {}


async def test_a_stay_is_found_with_its_guest_facility_and_times(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock
) -> None:
    stay = await declare(intake, facility, clock, room="305")
    result = await ask()
    [found] = result.stays
    who = person(CITIZEN)
    assert found.stay_id == str(stay.id)
    assert (found.guest["full_name"], found.guest["document"]["number"]) == (who.full_name, who.document_number)
    assert (found.facility.code, found.facility.name) == (facility.code, facility.name)
    assert found.facility.address == facility.address
    assert (found.status, found.version, found.room, found.reason) == ("declared", 1, "305", 1)
    assert (found.arrived_at, found.planned_departure_at) == (stay.arrived_at, stay.planned_departure_at)
    assert (found.departed_at, found.cancellation, found.verification) == (None, None, None)
    assert result.searched_from == clock() - timedelta(days=1096)
    assert who.full_name not in repr(result)
    assert who.document_number not in repr(result)


async def test_a_number_is_found_however_it_is_written(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock
) -> None:
    citizen = await declare(intake, facility, clock, CITIZEN)
    foreigner = await declare(intake, facility, clock, FOREIGNER)
    number, passport = person(CITIZEN).document_number, person(FOREIGNER).document_number
    full_width = number.translate({ord(digit): ord(digit) - ord("0") + 0xFF10 for digit in "0123456789"})
    for written, stay in (
        (f" {number[:3]} {number[3:6]} {number[6:]} ", citizen),
        (f"{number[:4]}-{number[4:8]}-{number[8:]}", citizen),
        (full_width, citizen),
        (passport.lower(), foreigner),
        (f"{passport[:4].lower()} {passport[4:]}", foreigner),
    ):
        assert [found.stay_id for found in (await ask(number=written)).stays] == [str(stay.id)], written


async def test_a_stay_that_only_shares_the_tag_is_opened_and_left_out(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    stay = await declare(intake, facility, clock)
    other = await declare(intake, facility, clock, index=2)
    superuser = await pools.database.connect()
    await superuser.execute(
        "UPDATE stays SET document_index = (SELECT document_index FROM stays WHERE id = $1) WHERE id = $2",
        stay.id,
        other.id,
    )
    result = await ask()
    assert [found.stay_id for found in result.stays] == [str(stay.id)]
    assert (result.more, result.unreadable) == (False, 0)
    assert (await entries(pools))[-1]["details"]["count"] == 1


async def test_stays_that_share_a_tag_do_not_crowd_out_the_one_that_is_meant(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    stay = await declare(intake, facility, clock)
    for index in range(2, 8):
        await declare(intake, facility, clock, index=index)
    superuser = await pools.database.connect()
    await superuser.execute(
        "UPDATE stays SET document_index = (SELECT document_index FROM stays WHERE id = $1)", stay.id
    )
    await superuser.execute("UPDATE police_purposes SET max_rows = 1")
    result = await ask()
    assert [found.stay_id for found in result.stays] == [str(stay.id)]
    assert not result.more


async def test_more_collisions_than_can_be_read_make_no_answer_rather_than_half_of_one(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(police, "READ_ROUNDS", 2)
    stay = await declare(intake, facility, clock)
    for index in range(2, 8):
        await declare(intake, facility, clock, index=index)
    superuser = await pools.database.connect()
    await superuser.execute(
        "UPDATE stays SET document_index = (SELECT document_index FROM stays WHERE id = $1)", stay.id
    )
    await superuser.execute("UPDATE police_purposes SET max_rows = 1")
    with pytest.raises(Refused, match="unavailable"):
        await ask()


async def test_a_stay_whose_seal_is_broken_is_counted_and_named_in_the_audit(
    ask: Ask, intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools, logged: list[Any]
) -> None:
    sound = await declare(intake, await make_facility("HY-KS-0001"), clock)
    broken = await declare(intake, await make_facility("HY-KS-0002"), clock)
    await (await pools.database.connect()).execute(
        "UPDATE stays SET sealed = (SELECT sealed FROM stays WHERE id = $1) WHERE id = $2", sound.id, broken.id
    )
    result = await ask()
    assert [found.stay_id for found in result.stays] == [str(sound.id)]
    assert result.unreadable == 1
    assert (await entries(pools))[-1]["details"]["unreadable"] == [str(broken.id)]
    assert [event["stay_id"] for event in logged if event["event"] == "police.stay_unreadable"] == [str(broken.id)]


async def test_sandbox_facilities_do_not_exist_for_the_police(
    ask: Ask, intake: Intake, make_facility: FacilityMaker, clock: Clock
) -> None:
    real = await declare(intake, await make_facility("HY-KS-0001"), clock)
    await declare(intake, await make_facility("HY-TN-0001", sandbox=True), clock)
    assert [found.stay_id for found in (await ask()).stays] == [str(real.id)]


async def test_a_cancelled_stay_is_found_and_says_why_it_was_cancelled(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock
) -> None:
    stay = await declare(intake, facility, clock)
    reason = {"reason": "guest_did_not_stay"}
    [outcome] = await intake.submit([command(facility, ActKind.CANCEL, reason, clock, stay_id=stay.id)])
    assert outcome.outcome == "accepted", outcome.refusal
    [found] = (await ask()).stays
    assert (found.status, found.version) == ("cancelled", 2)
    assert found.cancellation is not None
    assert found.cancellation["reason"] == "guest_did_not_stay"


async def test_a_corrected_number_is_found_and_the_wrong_one_no_more(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock
) -> None:
    stay = await declare(intake, facility, clock)
    right = person(CITIZEN).document_number[:-1] + "7"
    patch = {"guest": {"document": {"number": right}}}
    [outcome] = await intake.submit(
        [command(facility, ActKind.CORRECT, patch, clock, stay_id=stay.id, expected_version=1)]
    )
    assert outcome.outcome == "accepted", outcome.refusal
    assert (await ask()).stays == []
    assert [found.version for found in (await ask(number=right)).stays] == [2]


async def test_the_newest_verification_is_shown(
    ask: Ask, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    stay = await declare(intake, facility, clock)
    await (await pools.database.connect()).executemany(
        "INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification) VALUES ($1, $2, $3, $4, $5)",
        [
            (facility.id, stay.id, version, clock(), verification)
            for version, verification in ((1, "matched"), (3, "document_revoked"), (2, "mismatch"))
        ],
    )
    assert [found.verification for found in (await ask()).stays] == ["document_revoked"]


@pytest.mark.parametrize(("stays", "more"), [(2, False), (3, True)])
async def test_an_answer_holds_the_newest_stays_up_to_the_purposes_limit_and_says_if_there_are_more(
    ask: Ask, intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools, stays: int, more: bool
) -> None:
    await (await pools.database.connect()).execute("UPDATE police_purposes SET max_rows = 2")
    declared = [
        str((await declare(intake, await make_facility(f"HY-KS-000{number}"), clock)).id) for number in range(stays)
    ]
    declared.sort()  # within one millisecond ids are in no order
    result = await ask()
    assert [found.stay_id for found in result.stays] == declared[::-1][:2]
    assert result.more is more


# -- purposes ----------------------------------------------------------------------------------------------------------


async def test_every_purpose_states_its_basis_and_its_bounds(desk: Desk) -> None:
    listed = await police.purposes(desk.pool)
    assert [purpose.code for purpose in listed] == sorted(purpose.code for purpose in listed)
    assert len(listed) == 6
    for purpose in listed:
        assert purpose.title["vi"]
        assert purpose.title["en"]
        assert purpose.legal_basis
        assert 1 <= purpose.max_rows <= 50
        assert 1 <= purpose.window_days <= 1830
        assert (purpose.release_rule == "after_days") == (purpose.release_after_days is not None)
    [rescue] = [purpose for purpose in listed if purpose.code == "rescue"]
    assert QueryKind.DOCUMENT not in rescue.query_kinds


async def test_no_purpose_can_allow_more_than_fifty_rows(pools: Pools) -> None:
    with pytest.raises(asyncpg.CheckViolationError):
        await (await pools.database.connect()).execute("UPDATE police_purposes SET max_rows = 51")
