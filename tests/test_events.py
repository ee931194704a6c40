"""What owners are told: each thing once, in an order that is never filled up behind a reader, nothing about a guest."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import directory, events, rules
from asm_daemon.crypto import Keyring
from asm_daemon.directory import Gate
from asm_daemon.intake import Intake
from asm_daemon.model import Facility, Principal, PrincipalKind
from asm_daemon.problems import Refused
from asm_daemon.store import events as store
from asm_daemon.store.events import EventKind, NewEvent
from schemas.act import ActKind
from schemas.webhooks import EventPage, EventsQuery, EventType
from tests.stack import TESTER, Clock, FacilityMaker, Pools, command, declaration

PUBLIC_URL = "https://asm.test"


def event(facility: Facility, clock: Clock, kind: EventKind = EventKind.CHECK_DOCUMENT) -> NewEvent:
    return NewEvent(uuid7(), facility.id, kind, uuid7(), clock())


async def append(pools: Pools, *new: NewEvent) -> None:
    async with (await pools.get("asm_sync")).acquire() as connection:
        await store.append_events(connection, new)


async def number(pools: Pools, clock: Clock) -> dict[str, int]:
    return await events.number_once(await pools.get("asm_sync"), clock())


async def principal_of(pools: Pools, clock: Clock, *facilities: Facility) -> Principal:
    pool = await pools.get("asm_auth")
    made = await directory.add_principal(pool, TESTER, PrincipalKind.VENDOR, "Người thử", "Đơn vị thử", clock())
    for each in facilities:
        await directory.grant(pool, TESTER, made, each.code, clock())
    return await Gate(pool, 0).authenticate(await directory.create_key(pool, TESTER, made, clock()), clock())


async def told(
    pools: Pools, keyring: Keyring, principal: Principal, after: str | None = None, limit: int = 100
) -> EventPage:
    pool = await pools.get("asm_intake")
    page, more = await events.page(pool, keyring, PUBLIC_URL, principal, EventsQuery(after=after, limit=limit))
    assert more == (len(page.events) == limit)
    return page


def ids(page: EventPage) -> list[str]:
    return [each.id for each in page.events]


def test_the_kinds_of_the_contract_are_those_of_the_store() -> None:
    assert {kind.value for kind in EventKind} - {EventKind.TEST.value} == {kind.value for kind in EventType}


# -- numbering ---------------------------------------------------------------------------------------------------------


async def test_a_reader_never_misses_what_commits_after_what_came_later(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner = await principal_of(pools, clock, facility)
    slow, quick = event(facility, clock), event(facility, clock)
    one, other = await pools.database.connect("asm_intake"), await pools.database.connect("asm_sync")
    held = one.transaction()
    await held.start()
    await store.append_events(one, [slow])
    await store.append_events(other, [quick])
    assert await number(pools, clock) == {"events": 1, "deliveries": 0}
    first = await told(pools, keyring, owner)
    assert ids(first) == [str(quick.event_id)]
    await held.commit()
    await number(pools, clock)
    second = await told(pools, keyring, owner, first.next)
    assert ids(second) == [str(slow.event_id)]
    assert ids(await told(pools, keyring, owner, second.next)) == []


async def test_numbering_takes_turns_and_shows_no_position_before_all_below_it(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner = await principal_of(pools, clock, facility)
    first, second = event(facility, clock), event(facility, clock)
    await append(pools, first)
    connection = await pools.database.connect("asm_sync")
    held = connection.transaction(isolation="read_committed")
    await held.start()
    last = await store.lock_head(connection)
    taken, position, _ = await store.number_pending(connection, last, 10, clock())
    await store.update_head(connection, position)
    assert (taken, position) == (1, 1)
    await append(pools, second)
    other = asyncio.create_task(number(pools, clock))
    watcher = await pools.database.connect()
    async with asyncio.timeout(20):  # until the other one waits for its turn
        while not await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"):
            await asyncio.sleep(0.005)
    empty = await told(pools, keyring, owner)
    assert ids(empty) == []
    await held.commit()
    assert (await other)["events"] == 1
    assert ids(await told(pools, keyring, owner, empty.next)) == [str(first.event_id), str(second.event_id)]


async def test_many_writers_and_numberers_leave_no_gap_and_no_double(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner = await principal_of(pools, clock, facility)
    made = [event(facility, clock) for _ in range(60)]
    seen: list[str] = []
    writing = asyncio.Event()

    async def write(mine: Sequence[NewEvent]) -> None:
        for each in mine:
            await append(pools, each)

    async def read() -> None:
        cursor, last = None, False
        while not last:
            last = writing.is_set()
            await number(pools, clock)
            page = await told(pools, keyring, owner, cursor, limit=7)
            seen.extend(ids(page))
            cursor = page.next
            last = last and not page.events

    reader = asyncio.create_task(read())
    await asyncio.gather(*(write(made[start::4]) for start in range(4)), *(number(pools, clock) for _ in range(5)))
    writing.set()
    await reader
    assert sorted(seen) == sorted(str(each.event_id) for each in made)
    positions = [row[0] for row in await (await pools.database.connect()).fetch("SELECT position FROM owner_events")]
    assert sorted(positions) == list(range(1, 61))


async def test_what_is_told_twice_is_one_event(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner = await principal_of(pools, clock, facility)
    once = event(facility, clock)
    await append(pools, once)
    await append(pools, once)
    assert (await number(pools, clock))["events"] == 1
    await append(pools, once)
    assert (await number(pools, clock))["events"] == 0
    assert ids(await told(pools, keyring, owner)) == [str(once.event_id)]
    assert await (await pools.database.connect()).fetchval("SELECT count(*) FROM owner_events_pending") == 0


# -- pulling -----------------------------------------------------------------------------------------------------------


async def test_only_what_happened_at_granted_facilities_is_told(
    pools: Pools, keyring: Keyring, facility: Facility, make_facility: FacilityMaker, clock: Clock
) -> None:
    elsewhere = await make_facility("HY-KS-0002")
    owner, other = await principal_of(pools, clock, facility), await principal_of(pools, clock, elsewhere)
    vendor, nobody = await principal_of(pools, clock, facility, elsewhere), await principal_of(pools, clock)
    mine, theirs = event(facility, clock), event(elsewhere, clock)
    await append(pools, mine, theirs)
    await number(pools, clock)
    assert ids(await told(pools, keyring, owner)) == [str(mine.event_id)]
    assert ids(await told(pools, keyring, other)) == [str(theirs.event_id)]
    assert sorted(ids(await told(pools, keyring, vendor))) == sorted([str(mine.event_id), str(theirs.event_id)])
    assert ids(await told(pools, keyring, nobody)) == []
    pool = await pools.get("asm_intake")
    with pytest.raises(Refused, match="facility_not_granted"):
        await events.page(pool, keyring, PUBLIC_URL, owner, EventsQuery(facility=elsewhere.code))
    page, _ = await events.page(pool, keyring, PUBLIC_URL, vendor, EventsQuery(facility=elsewhere.code))
    assert ids(page) == [str(theirs.event_id)]


async def test_the_cursor_of_one_is_of_no_use_to_another(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner, other = await principal_of(pools, clock, facility), await principal_of(pools, clock, facility)
    page = await told(pools, keyring, owner)
    for wrong in (page.next, "x", ""):
        with pytest.raises(Refused, match="request_invalid") as caught:
            await told(pools, keyring, other, wrong)
        assert [found.code for found in caught.value.violations] == ["wrong_cursor"]


async def test_an_event_is_thin_and_leads_to_where_more_is(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner = await principal_of(pools, clock, facility)
    declared = event(facility, clock)
    waiting = NewEvent(uuid7(), facility.id, EventKind.DEADLINE_NEAR, None, clock(), uuid7())
    await append(pools, declared)
    await number(pools, clock)
    await append(pools, waiting)
    await number(pools, clock)
    first, second = (each.model_dump(mode="json") for each in (await told(pools, keyring, owner)).events)
    assert datetime.fromisoformat(first["timestamp"]) == clock()
    assert first == {
        "id": str(declared.event_id), "type": "stay.check_document", "timestamp": first["timestamp"],
        "data": {"facility": facility.code, "stay_id": str(declared.stay_id), "expected_id": None,
                 "link": f"{PUBLIC_URL}/v1/stays/{declared.stay_id}"},
    }  # fmt: skip
    assert second["data"] == {
        "facility": facility.code,
        "stay_id": None,
        "expected_id": str(waiting.expected_id),
        "link": f"{PUBLIC_URL}/v1/expected?facility={facility.code}",
    }


async def test_events_are_erased_page_by_page_so_that_numbering_need_not_wait_for_all(
    pools: Pools, facility: Facility, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "ERASED_LIMIT", 3)
    await append(pools, *(event(facility, clock) for _ in range(7)))
    await number(pools, clock)
    clock.instant += timedelta(days=5)
    await append(pools, event(facility, clock))
    await number(pools, clock)
    pool = await pools.get("asm_sync")
    async with pool.acquire() as connection:
        assert await store.erase_events(connection, clock(), 2) == 2
        assert (await store.read_head(connection)).erased == 2
        assert await events.erase_once(pool, 1, clock()) == {"events": 5}
        assert tuple(await store.read_head(connection)) == (8, 7)


async def test_who_comes_back_after_events_were_erased_is_told_so(
    pools: Pools, keyring: Keyring, facility: Facility, clock: Clock
) -> None:
    owner = await principal_of(pools, clock, facility)
    start = await told(pools, keyring, owner)
    await append(pools, event(facility, clock))
    await number(pools, clock)
    read = await told(pools, keyring, owner, start.next)
    clock.instant += timedelta(days=5)
    kept = event(facility, clock)
    await append(pools, kept)
    await number(pools, clock)
    pool = await pools.get("asm_sync")
    assert await events.erase_once(pool, 5, clock()) == {"events": 0}
    assert await events.erase_once(pool, 4, clock()) == {"events": 1}
    assert await events.erase_once(pool, 4, clock()) == {"events": 0}
    with pytest.raises(Refused, match="events_erased"):
        await told(pools, keyring, owner, start.next)
    assert ids(await told(pools, keyring, owner, read.next)) == [str(kept.event_id)]
    assert ids(await told(pools, keyring, owner)) == [str(kept.event_id)]


# -- what is told of ---------------------------------------------------------------------------------------------------


async def pending(pools: Pools) -> list[asyncpg.Record]:
    connection = await pools.database.connect()
    return await connection.fetch(
        "SELECT kind, facility_id, stay_id, expected_id FROM owner_events_pending ORDER BY at"
    )


async def test_a_late_declaration_is_told_with_its_commit_and_a_timely_one_is_not(
    pools: Pools, intake: Intake, facility: Facility, clock: Clock
) -> None:
    late = declaration(1, arrived_at=(datetime.now(UTC) - timedelta(days=3)).isoformat(), source_ref="late")
    timely = declaration(2, arrived_at=datetime.now(UTC).isoformat())
    outcomes = await intake.submit([command(facility, ActKind.DECLARE, each, clock) for each in (late, timely)])
    assert [each.outcome for each in outcomes] == ["accepted", "accepted"]
    stay = outcomes[0].stay
    assert stay is not None
    again, change = await intake.submit(
        [
            command(facility, ActKind.DECLARE, late, clock),
            command(facility, ActKind.CORRECT, {"room": "7"}, clock, stay_id=stay.id),
        ]
    )
    assert (again.outcome, change.outcome) == ("duplicate", "accepted")
    assert [tuple(row) for row in await pending(pools)] == [("stay.declared_late", facility.id, stay.id, None)]


async def arrives(intake: Intake, facility: Facility, clock: Clock, ref: str, at: datetime) -> UUID:
    """A guest in house of whom only the name is known."""
    fields = {
        "guest": {"full_name": "Nguyễn Văn Mẫu"},
        "arrived_at": at.isoformat(),
        "source_ref": ref,
        "present": True,
    }
    [outcome] = await intake.submit([command(facility, ActKind.EXPECT, fields, clock)])
    assert outcome.expected is not None, outcome.refusal
    return outcome.expected.id


async def test_each_deadline_of_a_guest_in_house_is_told_once_and_before_it_is_over(
    pools: Pools, intake: Intake, facility: Facility, clock: Clock
) -> None:
    arrived_at = datetime.now(UTC)
    clock.instant = arrived_at
    expected_id = await arrives(intake, facility, clock, "in-house", arrived_at)
    pool = await pools.get("asm_intake")
    due = rules.deadline(arrived_at)
    assert await events.tell_deadlines_once(pool, 60, due - timedelta(minutes=61)) == {"events": 0}
    assert await events.tell_deadlines_once(pool, 60, due - timedelta(minutes=59)) == {"events": 1}
    assert await events.tell_deadlines_once(pool, 60, due + timedelta(days=1)) == {"events": 0}
    assert [tuple(row) for row in await pending(pools)] == [("stay.deadline_near", facility.id, None, expected_id)]
    earlier = arrived_at - timedelta(days=1)
    assert await arrives(intake, facility, clock, "in-house", earlier) == expected_id, "it moved: that is news"
    assert await events.tell_deadlines_once(pool, 60, due) == {"events": 1}


async def test_a_guest_who_is_only_expected_is_no_news(
    pools: Pools, intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = {"guest": {"full_name": "Nguyễn Văn Mẫu"}, "arrived_at": clock().isoformat(), "source_ref": "booking"}
    [outcome] = await intake.submit([command(facility, ActKind.EXPECT, fields, clock)])
    assert outcome.outcome == "expected"
    pool = await pools.get("asm_intake")
    assert await events.tell_deadlines_once(pool, 60, clock() + timedelta(days=2)) == {"events": 0}
