"""Legal holds by document: everything that must stop one first, then what is held, and what is told of it."""

from __future__ import annotations

import base64
import json
import logging
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from structlog.testing import capture_logs

from asm_daemon import retention
from asm_daemon.crypto import AuditorKeys, Keyring, epoch_at, generate_auditor_keys, next_epoch, open_as_auditor
from asm_daemon.document_holds import Held, Order, hold_document
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Facility
from asm_daemon.police import Desk, terms_info
from asm_daemon.problems import Refused
from asm_daemon.store import retention as store
from schemas.act import ActKind
from schemas.police import DocumentNumber
from schemas.synthetic import person
from tests.house import PERIODS, RetentionJobs
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

GUEST, OTHER = 1, 2
ORDER = Order("15/2026/HS-PC02", "điều tra", "operator:test")


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whom a hold is about is never logged."""
    caplog.set_level(logging.DEBUG)
    with capture_logs() as events:
        yield
    assert person(GUEST).document_number not in repr(events) + caplog.text


@pytest.fixture(scope="module")
def auditor() -> AuditorKeys:
    return generate_auditor_keys()


@pytest.fixture
def keys(tmp_path: Path, clock: Clock) -> KeyStore:
    return create_store(tmp_path / "keys", [epoch_at(clock()), next_epoch(epoch_at(clock()))], clock())


@pytest.fixture
def keyring(keys: KeyStore) -> Keyring:
    return keys.keyring()


@pytest.fixture
async def desk(pools: Pools, keyring: Keyring, auditor: AuditorKeys, partitions: None) -> Desk:
    pool, audit_pool = await pools.get("asm_retention"), await pools.get("asm_audit")
    return Desk(pool, audit_pool, keyring, DEPLOYMENT, auditor.public_key, terms_required=True)


async def declare(intake: Intake, facility: Facility, clock: Clock, index: int = GUEST, **changes: Any) -> UUID:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(index, **changes), clock)])
    assert outcome.stay is not None, outcome.refusal
    return outcome.stay.id


def number(index: int = GUEST) -> DocumentNumber:
    return DocumentNumber(document_number=person(index).document_number)


async def place(desk: Desk, clock: Clock, order: Order = ORDER) -> Held:
    return await hold_document(desk, order, number(), clock())


async def holds(pools: Pools) -> list[tuple[UUID, str]]:
    superuser = await pools.database.connect()
    rows = await superuser.fetch("SELECT stay_id, warrant_ref FROM legal_holds WHERE lifted_at IS NULL ORDER BY id")
    return [tuple(row) for row in rows]


async def told(pools: Pools) -> list[dict[str, Any]]:
    """The audit entries of holds, sealed or not, in their order."""
    superuser = await pools.database.connect()
    sealed = await superuser.fetch("SELECT body FROM audit_log ORDER BY position")
    waiting = await superuser.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    bodies = [json.loads(row["body"]) for row in [*sealed, *waiting]]
    return [body for body in bodies if body["action"].startswith("hold.")]


# -- what stops one ----------------------------------------------------------------------------------------------------


async def test_without_the_auditors_key_nothing_is_read_or_held_and_the_refusal_is_on_record(
    desk: Desk, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    with pytest.raises(Refused, match="audit_unavailable"):
        await place(replace(desk, auditor_public_key=None), clock)
    [entry] = await told(pools)
    assert (entry["action"], entry["details"]["problem"]) == ("hold.search.refuse", "audit_unavailable")
    assert await holds(pools) == []


async def test_when_the_audit_cannot_be_sealed_nothing_is_held(
    desk: Desk, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    await (await pools.database.connect()).execute("REVOKE INSERT ON audit_checkpoints FROM asm_audit")
    with pytest.raises(Refused, match="audit_unavailable"):
        await place(desk, clock)
    assert [entry["action"] for entry in await told(pools)] == ["hold.search"]
    assert await holds(pools) == []


async def test_a_silent_witness_stops_it_after_the_question_is_on_record(
    desk: Desk, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)

    async def refuse(_now: datetime) -> None:
        raise Refused("audit_not_witnessed")

    with pytest.raises(Refused, match="audit_not_witnessed"):
        await place(replace(desk, guard=refuse), clock)
    question, outcome = await told(pools)
    assert (question["action"], outcome["details"]) == ("hold.search", {"problem": "audit_not_witnessed"})
    assert await holds(pools) == []


async def test_a_database_that_fails_holds_all_or_nothing(
    desk: Desk, intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> None:
    first, second = [await make_facility(code) for code in ("HY-KS-0008", "HY-KS-0009")]
    for each in (first, second):
        await declare(intake, each, clock)
    superuser = await pools.database.connect()
    await superuser.execute(f"ALTER TABLE legal_holds ADD CONSTRAINT first CHECK (facility_id = {first.id}) NOT VALID")
    with pytest.raises(Refused, match="unavailable"):
        await place(desk, clock)  # the hold that is placed second fails
    assert await holds(pools) == []
    assert [entry["action"] for entry in await told(pools)] == ["hold.search", "hold.search.outcome"]


async def test_a_number_without_a_digit_or_letter_is_none() -> None:
    for text in ("", " - ", "0" * 65):
        with pytest.raises(ValueError, match="document_number"):
            DocumentNumber(document_number=text)
    assert person(GUEST).document_number not in repr(number())


# -- what is held ------------------------------------------------------------------------------------------------------


async def test_every_stay_of_the_number_is_held_and_nobody_elses_and_the_auditor_alone_learns_whose(
    desk: Desk,
    intake: Intake,
    facility: Facility,
    make_facility: FacilityMaker,
    clock: Clock,
    pools: Pools,
    auditor: AuditorKeys,
) -> None:
    elsewhere = await make_facility("HY-KS-0009")
    mine = [await declare(intake, facility, clock), await declare(intake, elsewhere, clock)]
    await declare(intake, facility, clock, OTHER)
    await declare(intake, await make_facility("HY-KS-0008", sandbox=True), clock)  # only played
    held = await place(desk, clock)
    assert (held.placed, held.stays, held.unreadable) == (2, sorted(mine), [])
    assert await holds(pools) == [(stay, ORDER.warrant) for stay in sorted(mine)]
    question, *placed, outcome = await told(pools)
    assert [entry["action"] for entry in placed] == ["hold.place", "hold.place"]
    assert (outcome["details"]["count"], outcome["details"]["placed"]) == (2, 2)
    assert outcome["object"] == f"audit/{held.trace}"
    assert person(GUEST).document_number not in json.dumps(await told(pools))
    sealed = base64.b64decode(question["details"]["terms_sealed"])
    terms = open_as_auditor(auditor.private_key, terms_info(held.trace), sealed)
    assert json.loads(terms) == {"document_number": person(GUEST).document_number}


async def test_nobody_of_this_number_is_an_answer_too_and_on_record(desk: Desk, clock: Clock, pools: Pools) -> None:
    assert (await place(desk, clock)).stays == []
    assert [entry["action"] for entry in await told(pools)] == ["hold.search", "hold.search.outcome"]


async def test_said_again_it_holds_what_was_declared_since_and_nothing_twice(
    desk: Desk, intake: Intake, facility: Facility, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> None:
    first = await declare(intake, facility, clock, source_ref="A")
    assert (await place(desk, clock)).placed == 1
    second = await declare(intake, await make_facility("HY-KS-0009"), clock)
    again = await place(desk, clock)
    assert (again.placed, set(again.stays)) == (1, {first, second})
    assert len(await holds(pools)) == 2
    assert (await place(desk, clock, ORDER._replace(warrant="16/2026"))).placed == 2  # another warrant, lifted apart


async def test_a_stay_that_does_not_open_is_named_and_not_held(
    desk: Desk, intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    broken = await declare(intake, facility, clock)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE stays SET sealed = set_byte(sealed, 60, get_byte(sealed, 60) # 1)")
    held = await place(desk, clock)
    assert (held.stays, held.unreadable) == ([], [broken])
    assert await holds(pools) == []


async def test_what_is_held_outlives_its_month_and_is_found_again_under_the_months_two_index_keys(
    desk: Desk, intake: Intake, facility: Facility, clock: Clock, pools: Pools, keys: KeyStore, keyring: Keyring
) -> None:
    mine, other = await declare(intake, facility, clock), await declare(intake, facility, clock, OTHER)
    await place(desk, clock)
    superuser = await pools.database.connect()
    departed = {"departed_at": clock().isoformat()}
    for stay in (mine, other):
        await intake.submit([command(facility, ActKind.CHECK_OUT, departed, clock, stay_id=stay)])
    await superuser.execute("DELETE FROM sync_queue")
    over = clock() + timedelta(days=PERIODS.stay_days + 70)
    keys.create_epoch(epoch_at(over), over)
    keyring.reload()
    # between the new keys and the end of the month its stays lie under the old index key: both are searched
    keys.renew_epoch(epoch_at(clock()), over, after=1)
    keyring.reload()
    assert (await hold_document(desk, ORDER, number(), over)).stays == [mine]
    counts = await RetentionJobs(pools, keyring, keys).end_months(over)
    assert (counts["kept"], counts["forgotten"]) == (1, 1)
    again = await hold_document(desk, ORDER, number(), over)
    assert (again.stays, again.placed) == ([mine], 0)


async def test_all_holds_of_a_warrant_are_counted_then_lifted_together_each_on_record(
    desk: Desk, intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    for code in ("HY-KS-0007", "HY-KS-0008", "HY-KS-0009"):
        await declare(intake, await make_facility(code), clock)
    await place(desk, clock)
    await place(desk, clock, ORDER._replace(warrant="16/2026"))
    pool = await pools.get("asm_retention")

    async def lift(*, dry_run: bool) -> int:
        return len(
            await retention.lift_warrant(pool, keyring, ORDER.warrant, "đã xong", ORDER.by, clock(), dry_run=dry_run)
        )

    assert await lift(dry_run=True) == 3
    assert len(await holds(pools)) == 6
    async with pool.acquire() as connection:
        assert len(await store.list_holds(connection, lifted=False, warrant="16/2026")) == 3
    assert await lift(dry_run=False) == 3
    assert await lift(dry_run=False) == 0
    assert {warrant for _, warrant in await holds(pools)} == {"16/2026"}
    assert [entry["action"] for entry in await told(pools)].count("hold.lift") == 3
