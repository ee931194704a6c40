"""What an owner is told of a verification: so much a day, whatever it is; and what the police are told in any case."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import verification
from asm_daemon.crypto import Keyring
from asm_daemon.model import Facility
from asm_daemon.rules import day_bounds, local_day
from asm_daemon.settings import Settings
from asm_daemon.store import alerts, owned
from asm_daemon.store.alerts import Alert
from asm_daemon.store.sync import Confirmation
from asm_daemon.sync import SyncLimits
from asm_daemon.verification import ANSWERS_AT_LEAST, ANSWERS_PERCENT, answers_a_day, pattern_begins, question_of
from schemas.population import Verification
from tests.population.items import guest, item
from tests.stack import Clock, FacilityMaker, Pools

Record = Callable[..., Awaitable[None]]
CAPACITY = 20
LIMIT = answers_a_day(CAPACITY)


@pytest.fixture
async def facility(make_facility: FacilityMaker) -> Facility:
    made: Facility = await make_facility(capacity=CAPACITY)
    return made


@pytest.fixture
def record(pools: Pools, clock: Clock) -> Record:
    """`await record(confirmation, …)` records them as a worker does."""

    async def recorded(*confirmed: Confirmation) -> None:
        pool = await pools.get("asm_sync")
        async with pool.acquire() as connection, connection.transaction():
            await verification.record(connection, sorted(confirmed), clock())

    return recorded


def confirmation(
    facility: Facility,
    question: int | None,
    found: Verification = Verification.MATCHED,
    *,
    stay_id: UUID | None = None,
    version: int = 1,
) -> Confirmation:
    """Version `version` of a stay is confirmed. Equal numbers are the same question; without one it is cancelled."""
    tag = None if question is None else question.to_bytes(16)
    return Confirmation(facility.id, stay_id or uuid7(), version, found, question=tag, withdrawn=question is None)


async def rows(pools: Pools, statement: str, *arguments: Any) -> list[tuple[Any, ...]]:
    """What lies in the database, seen by one who may see everything."""
    return [tuple(row) for row in await (await pools.database.connect()).fetch(statement, *arguments)]


async def told(pools: Pools) -> list[bool | None]:
    """What the owners were told, version by version."""
    return [row[0] for row in await rows(pools, "SELECT check_document FROM sync_log ORDER BY stay_id, version")]


async def alerted(pools: Pools) -> list[Alert]:
    async with (await pools.get("asm_sync")).acquire() as connection:
        return await alerts.list_alerts(connection, closed=False, limit=10)


async def events(pools: Pools) -> list[tuple[Any, ...]]:
    return await rows(pools, "SELECT kind, stay_id FROM owner_events_pending")


# -- what is not told --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("found", list(Verification))
async def test_beyond_the_limit_nothing_is_told_whatever_was_found(
    record: Record, facility: Facility, pools: Pools, found: Verification
) -> None:
    await record(*(confirmation(facility, number, found) for number in range(LIMIT)))
    assert None not in await told(pools)
    beyond = confirmation(facility, LIMIT, found)
    heard = len(await events(pools))
    await record(beyond)
    assert (await told(pools)).count(None) == 1
    assert len(await events(pools)) == heard
    assert [(alert.kind, alert.subject) for alert in await alerted(pools)] == [
        ("verification_withheld", facility.code),
    ]
    assert (await alerted(pools))[0].details["withheld"] == 1


async def test_another_identity_for_the_same_stay_is_another_question(
    record: Record, facility: Facility, pools: Pools
) -> None:
    stay_id = uuid7()
    for number in range(LIMIT + 5):
        await record(confirmation(facility, number, Verification.MISMATCH, stay_id=stay_id, version=number + 1))
    assert await told(pools) == [True] * LIMIT + [None] * 5
    assert {alert.kind for alert in await alerted(pools)} == {"declare_and_cancel", "verification_withheld"}


async def test_the_same_question_gets_the_same_answer_for_nothing_even_if_the_database_has_changed_its_mind(
    record: Record, facility: Facility, pools: Pools
) -> None:
    stay_id = uuid7()
    asked = [(1, Verification.MATCHED), (1, Verification.DOCUMENT_REVOKED), (2, Verification.UNKNOWN), (1, "mismatch")]
    for version, (number, found) in enumerate(asked, 1):
        await record(confirmation(facility, number, Verification(found), stay_id=stay_id, version=version))
    assert await told(pools) == [False, False, True, False]
    assert await rows(pools, "SELECT told, asked_again FROM verification_answers") == [(2, 1)]
    assert await events(pools) == [("stay.check_document", stay_id)]


async def test_what_the_database_lost_and_confirms_again_stays_told_and_is_counted_and_alerted_once(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    stay_id = uuid7()
    await record(confirmation(facility, 1, Verification.DOCUMENT_REVOKED, stay_id=stay_id))
    await rows(pools, "UPDATE sync_log SET lost_at = $1", clock())
    await record(confirmation(facility, 1, Verification.DOCUMENT_REVOKED, stay_id=stay_id))
    assert await rows(pools, "SELECT check_document, lost_at, confirmations FROM sync_log") == [(True, None, 2)]
    assert await rows(pools, "SELECT told, withheld FROM verification_answers") == [(1, 0)]
    assert await rows(pools, "SELECT count(*) FROM police_alerts") == [(1,)]
    assert await events(pools) == [("stay.check_document", stay_id)]


async def test_what_the_owner_was_told_of_a_version_stays_told_while_it_is_lost(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    lost, changed = uuid7(), uuid7()
    await record(confirmation(facility, 1, Verification.MISMATCH, stay_id=lost))
    await record(confirmation(facility, 2, stay_id=changed))
    await record(confirmation(facility, 3, Verification.MISMATCH, stay_id=changed, version=2))
    await rows(pools, "UPDATE sync_log SET lost_at = $1 WHERE stay_id = $2 OR version = 2", clock(), lost)
    async with (await pools.get("asm_intake")).acquire() as connection:
        seen = await owned.confirmations(connection, [facility.id] * 3, [lost, changed, uuid7()])
    assert seen == {lost: owned.Confirmation(None, True), changed: owned.Confirmation(1, True)}


async def test_what_was_withheld_is_told_with_a_later_version_and_counted_then(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    await record(*(confirmation(facility, number) for number in range(LIMIT)))
    stay_id = uuid7()
    await record(confirmation(facility, 99, Verification.MISMATCH, stay_id=stay_id))
    assert await events(pools) == []
    clock.instant += timedelta(days=1)
    await record(confirmation(facility, 99, Verification.MISMATCH, stay_id=stay_id, version=2))
    found = await rows(pools, "SELECT check_document FROM sync_log WHERE stay_id = $1 ORDER BY version", stay_id)
    assert found == [(None,), (True,)]
    assert await rows(pools, "SELECT told, withheld, asked_again FROM verification_answers") == [(1, 0, 0)]


async def test_the_day_is_one_of_viet_nam_and_a_clock_that_goes_back_renews_nothing(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    _, midnight = day_bounds(local_day(clock()))
    clock.instant = midnight - timedelta(seconds=1)
    await record(*(confirmation(facility, number) for number in range(LIMIT)))
    clock.instant = midnight
    await record(*(confirmation(facility, number) for number in range(LIMIT - 1)))
    clock.instant = midnight - timedelta(seconds=1)
    await record(confirmation(facility, 1), confirmation(facility, 2))
    assert await rows(pools, "SELECT told, withheld FROM verification_answers") == [(LIMIT, 1)]


async def test_a_clock_that_was_wrong_for_a_moment_does_not_make_one_day_of_many(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    right = clock.instant
    clock.instant = right + timedelta(days=20)
    await record(*(confirmation(facility, number) for number in range(LIMIT)))
    clock.instant = right
    [(counted_on,)] = await rows(pools, "SELECT counted_on FROM verification_answers")
    assert counted_on <= local_day(right) + timedelta(days=1)
    await record(confirmation(facility, 99))
    assert await rows(pools, "SELECT told, withheld FROM verification_answers") == [(LIMIT, 1)]


async def test_a_day_that_the_database_does_not_know_yet_is_left_when_the_clocks_agree_again(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    await record(*(confirmation(facility, number) for number in range(LIMIT)))
    await rows(pools, "UPDATE verification_answers SET counted_on = counted_on + 20")
    await record(confirmation(facility, 99))
    assert await rows(pools, "SELECT counted_on, told, withheld FROM verification_answers") == [
        (local_day(clock()) + timedelta(days=1), LIMIT, 1)
    ]


async def test_facilities_of_one_key_have_a_limit_each_and_lend_nothing(
    record: Record, facility: Facility, make_facility: FacilityMaker, pools: Pools
) -> None:
    small = await make_facility("HY-NN-0002", capacity=2)
    await record(*(confirmation(small, number) for number in range(ANSWERS_AT_LEAST + 1)))
    await record(*(confirmation(facility, number) for number in range(LIMIT + 1)))
    await record(confirmation(small, 98), confirmation(facility, 99))
    assert await rows(pools, "SELECT told, withheld FROM verification_answers ORDER BY told") == [
        (ANSWERS_AT_LEAST, 2),
        (LIMIT, 2),
    ]


async def test_workers_that_record_at_once_do_not_tell_more_together(
    record: Record, facility: Facility, pools: Pools
) -> None:
    batches = [[confirmation(facility, number) for number in range(LIMIT // 2)] for _ in range(4)]
    await asyncio.gather(*(record(*batch) for batch in batches))
    assert await rows(pools, "SELECT told, withheld FROM verification_answers") == [(LIMIT, LIMIT)]
    assert (await told(pools)).count(None) == LIMIT


async def test_what_another_worker_recorded_already_tells_nothing_twice(
    record: Record, facility: Facility, pools: Pools
) -> None:
    one = confirmation(facility, 1, Verification.DOCUMENT_REVOKED)
    await record(one)
    await record(one)
    corrected = one._replace(version=2, question=(2).to_bytes(16))
    await record(corrected)
    await record(corrected)
    assert await events(pools) == [("stay.check_document", one.stay_id)] * 2
    assert await rows(pools, "SELECT version FROM police_alerts ORDER BY version") == [(1,), (2,)]


async def test_a_guest_without_a_document_is_no_question(record: Record, facility: Facility, pools: Pools) -> None:
    child = confirmation(facility, None, Verification.NOT_CHECKED)._replace(withdrawn=False)
    await record(child)
    await record(child._replace(stay_id=uuid7()), confirmation(facility, 1))
    assert await told(pools) == [False] * 3
    assert await rows(pools, "SELECT told FROM verification_answers") == [(1,)]


def test_what_is_asked_is_document_name_and_birth_date_as_the_population_database_compares_them(
    keyring: Keyring,
) -> None:
    asked = question_of(keyring, item())
    for same in (
        item(version=7),
        item(guest=guest(full_name="tran minh hung", gender=None)),
        item(guest=guest(document_number=" " + guest().document.number)),  # type: ignore[union-attr]
    ):
        assert question_of(keyring, same) == asked
    for other in (
        item(2),
        item(guest=guest(21)),
        item(guest=guest(full_name="TRẦN MINH")),
        item(guest=guest(birth_date=guest().birth_date[:4])),
        item(guest=guest(document_number="000190000001")),
        item(guest=guest(document_type=3)),
    ):
        assert question_of(keyring, other) != asked
    assert question_of(keyring, item(guest=guest(document=None))) is None


def test_the_default_of_the_setting_is_the_one_that_was_reasoned_about() -> None:
    default = Settings.model_fields["verification_answers_percent"].default
    assert default == ANSWERS_PERCENT == SyncLimits().answers_percent
    assert [answers_a_day(capacity) for capacity in (1, 20, 300)] == [10, 30, 450]


# -- what the operator is alerted of -----------------------------------------------------------------------------------


async def test_who_declares_and_cancels_again_and_again_is_shown_to_the_operator(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    for number in range(pattern_begins(CAPACITY)):
        assert await alerted(pools) == []
        one = confirmation(facility, number)
        await record(one)
        await record(confirmation(facility, None, Verification.NOT_CHECKED, stay_id=one.stay_id, version=2))
    [alert] = await alerted(pools)
    assert (alert.kind, alert.subject, alert.occurrences) == ("declare_and_cancel", facility.code, 1)
    assert alert.details == {
        "counted_on": local_day(clock()).isoformat(),
        "told": pattern_begins(CAPACITY),
        "withheld": 0,
        "asked_again": 0,
        "withdrawn": pattern_begins(CAPACITY),
        "capacity": CAPACITY,
    }


async def test_cancelling_what_was_answered_long_ago_or_never_is_no_pattern(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    old = [confirmation(facility, number) for number in range(CAPACITY)]
    await record(*old)
    clock.instant += verification.SOON
    cancelled = [
        confirmation(facility, None, Verification.NOT_CHECKED, stay_id=stay_id, version=2)
        for stay_id in [*(one.stay_id for one in old), uuid7(), uuid7()]
    ]
    await record(*cancelled)
    assert await rows(pools, "SELECT withdrawn FROM verification_answers") == [(0,)]
    assert await alerted(pools) == []


@pytest.mark.parametrize("capacity", [4, CAPACITY, 300])
async def test_a_full_house_that_mistypes_every_tenth_guest_is_told_everything_and_alerts_nobody(
    record: Record, make_facility: FacilityMaker, pools: Pools, capacity: int
) -> None:
    """All come on one day; every tenth is mistyped and corrected, every twentieth cancelled and declared again."""
    house = await make_facility("HY-KS-0300", capacity=capacity)
    mistyped = {number for number in range(capacity) if number % 10 == 0}
    arrived = [
        confirmation(house, number, Verification.MISMATCH if number in mistyped else Verification.MATCHED)
        for number in range(capacity)
    ]
    await record(*arrived)
    for number in mistyped:
        await record(confirmation(house, 1000 + number, stay_id=arrived[number].stay_id, version=2))
    for number in range(5, capacity, 20):
        await record(confirmation(house, None, Verification.NOT_CHECKED, stay_id=arrived[number].stay_id, version=2))
        await record(confirmation(house, 2000 + number))
    assert None not in await told(pools)
    assert await alerted(pools) == []
    assert len(await events(pools)) == len(mistyped)


# -- what the police are told ------------------------------------------------------------------------------------------


async def test_a_revoked_document_alerts_the_police_once_and_looks_like_a_mismatch_to_the_owner(
    record: Record, facility: Facility, pools: Pools, clock: Clock
) -> None:
    revoked = confirmation(facility, 1, Verification.DOCUMENT_REVOKED)
    await record(revoked, confirmation(facility, 2, Verification.MISMATCH))
    await record(revoked._replace(version=2))  # the guest checks out
    assert await told(pools) == [True, True, True]
    assert {kind for kind, _ in await events(pools)} == {"stay.check_document"}
    assert len(await events(pools)) == 2
    assert await rows(pools, "SELECT kind, facility_id, stay_id, version, raised_at, state FROM police_alerts") == [
        ("document_revoked", facility.id, revoked.stay_id, 1, clock(), "open")
    ]


@pytest.mark.parametrize("before", [Verification.MATCHED, Verification.MISMATCH, Verification.NOT_CHECKED])
async def test_a_document_revoked_since_alerts_the_police_when_the_version_is_confirmed_again(
    record: Record, facility: Facility, pools: Pools, clock: Clock, before: Verification
) -> None:
    stay_id = uuid7()
    await record(confirmation(facility, 1, before, stay_id=stay_id))
    heard = await events(pools)
    await rows(pools, "UPDATE sync_log SET lost_at = $1", clock())
    for _ in range(2):
        await record(confirmation(facility, 1, Verification.DOCUMENT_REVOKED, stay_id=stay_id))
    assert await rows(pools, "SELECT stay_id, version FROM police_alerts") == [(stay_id, 1)]
    assert await events(pools) == heard  # the owner learns nothing of it


async def test_the_police_are_alerted_of_what_the_owner_is_not_told(
    record: Record, facility: Facility, pools: Pools
) -> None:
    await record(*(confirmation(facility, number) for number in range(LIMIT)))
    await record(confirmation(facility, LIMIT, Verification.DOCUMENT_REVOKED))
    assert await events(pools) == []
    assert len(await rows(pools, "SELECT FROM police_alerts")) == 1


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("asm_intake", "SELECT verification FROM sync_log"),
        ("asm_intake", "SELECT question_tag FROM sync_log"),
        ("asm_intake", "SELECT FROM police_alerts"),
        ("asm_intake", "SELECT told FROM verification_answers"),
        ("asm_auth", "SELECT FROM police_alerts"),
        ("asm_guest", "SELECT FROM police_alerts"),
        ("asm_publish", "SELECT FROM police_alerts"),
        ("asm_feeds", "SELECT FROM police_alerts"),
        ("asm_sync", "SELECT FROM police_alerts"),
        ("asm_sync", "DELETE FROM police_alerts"),
        ("asm_sync", "INSERT INTO police_alerts (state) VALUES ('handled')"),
        ("asm_sync", "UPDATE police_alerts SET state = 'handled'"),
        ("asm_police", "UPDATE police_alerts SET stay_id = NULL"),
        ("asm_police", "DELETE FROM police_alerts"),
    ],
)
async def test_each_login_reaches_what_it_needs_and_the_owners_not_what_was_found(
    pools: Pools, role: str, statement: str
) -> None:
    connection = await pools.database.connect(role)
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)
