"""Leases: a lane has one holder, a dead holder is replaced, and who lost a lane can be told from who has it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from asm_daemon.model import LANES
from asm_daemon.store import leases
from asm_daemon.store import sync as store
from asm_daemon.store.sync import Postponement, Refusal, WaitReason
from tests.conftest import Database

LEASE_SECONDS = 15.0
NOW = datetime.now(UTC)
ANA, BINH, CHI = (UUID(int=number) for number in (1, 2, 3))


@pytest.fixture
async def connection(database: Database) -> asyncpg.Connection:
    return await database.connect("asm_sync")


async def lapse(database: Database, owner: UUID) -> None:
    """Let the leases of a holder run out, and its last sign of life with them."""
    superuser = await database.connect()
    await superuser.execute("UPDATE leases SET expires_at = now() - interval '1 second' WHERE owner = $1", owner)
    await superuser.execute("UPDATE sync_workers SET seen_until = now() - interval '1 second' WHERE id = $1", owner)


async def queue(connection: asyncpg.Connection, lane: int, count: int = 1) -> list[UUID]:
    """Queue new stays of facility 1 in a lane."""
    stays = [uuid7() for _ in range(count)]
    await connection.executemany(
        "INSERT INTO sync_queue (facility_id, stay_id, version, lane) VALUES (1, $1, 1, $2)",
        [(stay_id, lane) for stay_id in stays],
    )
    return stays


def postponement(stay_id: UUID, lane: int, fence: int) -> Postponement:
    return Postponement(1, stay_id, 1, lane, fence, 1, NOW, WaitReason.AMBIGUOUS, "timeout")


# -- what is refused ---------------------------------------------------------------------------------------------------


async def test_a_lane_that_is_held_cannot_be_taken(connection: asyncpg.Connection) -> None:
    assert len(await leases.take_lanes(connection, ANA, LANES, LEASE_SECONDS)) == LANES
    assert await leases.take_lanes(connection, BINH, LANES, LEASE_SECONDS) == {}


async def test_a_lane_that_was_lost_is_not_renewed(connection: asyncpg.Connection, database: Database) -> None:
    await leases.take_lanes(connection, ANA, 3, LEASE_SECONDS)
    await lapse(database, ANA)
    taken = await leases.take_lanes(connection, BINH, 2, LEASE_SECONDS)
    assert await leases.renew_lanes(connection, ANA, LEASE_SECONDS) == {2: 1}
    assert await leases.renew_lanes(connection, BINH, LEASE_SECONDS) == taken == {0: 2, 1: 2}


async def test_a_lane_that_was_lost_is_not_released(connection: asyncpg.Connection, database: Database) -> None:
    await leases.take_lanes(connection, ANA, 1, LEASE_SECONDS)
    await lapse(database, ANA)
    await leases.take_lanes(connection, BINH, 1, LEASE_SECONDS)
    await leases.release_lanes(connection, ANA, [0])
    assert await leases.renew_lanes(connection, BINH, LEASE_SECONDS) == {0: 2}


async def test_a_failure_is_not_recorded_after_the_lane_changed_hands(
    connection: asyncpg.Connection, database: Database
) -> None:
    [stay_id] = await queue(connection, 0)
    held = await leases.take_lanes(connection, ANA, 1, LEASE_SECONDS)
    await lapse(database, ANA)
    await leases.take_lanes(connection, BINH, 1, LEASE_SECONDS)
    assert await store.postpone(connection, ANA, [postponement(stay_id, 0, held[0])], NOW) == 0
    assert await store.refuse(connection, ANA, [Refusal(1, stay_id, 1, 0, held[0], "late")], NOW) == []
    assert [work.stay_id for work in await store.read_queue(connection, [0], UUID(int=0), 10)] == [stay_id]


async def test_a_failure_is_not_recorded_when_the_lane_was_lost_and_won_back(
    connection: asyncpg.Connection, database: Database
) -> None:
    [stay_id] = await queue(connection, 0)
    before = await leases.take_lanes(connection, ANA, 1, LEASE_SECONDS)
    for owner in (ANA, BINH):
        await lapse(database, owner)
        other = BINH if owner == ANA else ANA
        after = await leases.take_lanes(connection, other, 1, LEASE_SECONDS)
    assert await store.postpone(connection, ANA, [postponement(stay_id, 0, before[0])], NOW) == 0
    assert await store.postpone(connection, ANA, [postponement(stay_id, 0, after[0])], NOW) == 1


async def test_a_failure_is_not_recorded_after_the_lane_was_released(connection: asyncpg.Connection) -> None:
    [stay_id] = await queue(connection, 0)
    held = await leases.take_lanes(connection, ANA, 1, LEASE_SECONDS)
    await leases.release_lanes(connection, ANA, [0])
    assert await store.postpone(connection, ANA, [postponement(stay_id, 0, held[0])], NOW) == 0


async def test_the_leader_stays_the_only_one_until_its_lease_runs_out(
    connection: asyncpg.Connection, database: Database
) -> None:
    assert await leases.take_lease(connection, leases.JOBS, ANA, LEASE_SECONDS) == 1
    assert await leases.take_lease(connection, leases.JOBS, BINH, LEASE_SECONDS) is None
    assert await leases.take_lease(connection, leases.JOBS, ANA, LEASE_SECONDS) == 1
    await lapse(database, ANA)
    assert await leases.take_lease(connection, leases.JOBS, BINH, LEASE_SECONDS) == 2
    await leases.release_lease(connection, leases.JOBS, ANA)
    assert await leases.take_lease(connection, leases.JOBS, ANA, LEASE_SECONDS) is None
    await leases.release_lease(connection, leases.JOBS, BINH)
    assert await leases.take_lease(connection, leases.JOBS, ANA, LEASE_SECONDS) == 3


# -- what holds --------------------------------------------------------------------------------------------------------


async def test_a_lease_that_ran_out_and_that_nobody_wanted_is_renewed_under_its_fence(
    connection: asyncpg.Connection, database: Database
) -> None:
    held = await leases.take_lanes(connection, ANA, 2, LEASE_SECONDS)
    await lapse(database, ANA)
    assert await leases.renew_lanes(connection, ANA, LEASE_SECONDS) == held
    assert 0 not in await leases.take_lanes(connection, BINH, LANES, LEASE_SECONDS)


async def test_workers_that_take_at_once_never_share_a_lane(database: Database) -> None:
    connections = [await database.connect("asm_sync") for _ in range(4)]
    owners = [uuid4() for _ in connections]
    taken = await asyncio.gather(
        *(leases.take_lanes(one, owner, 100, LEASE_SECONDS) for one, owner in zip(connections, owners, strict=True))
    )
    lanes = [lane for held in taken for lane in held]
    assert len(lanes) == len(set(lanes)) <= LANES
    left = await leases.take_lanes(connections[0], owners[0], LANES, LEASE_SECONDS)  # what was locked was passed over
    assert sorted([*lanes, *left]) == list(range(LANES))


async def test_a_take_over_waits_for_a_failure_that_is_being_recorded(database: Database) -> None:
    first, second = await database.connect("asm_sync"), await database.connect("asm_sync")
    [stay_id] = await queue(first, 0)
    held = await leases.take_lanes(first, ANA, 1, LEASE_SECONDS)
    await lapse(database, ANA)
    async with first.transaction():
        assert await store.postpone(first, ANA, [postponement(stay_id, 0, held[0])], NOW) == 1
        assert 0 not in await leases.take_lanes(second, BINH, LANES, LEASE_SECONDS)
    assert await leases.take_lanes(second, BINH, LANES, LEASE_SECONDS) == {0: 2}
    assert [work.stay_id for work in await store.read_due(second, [0], NOW, NOW + timedelta(hours=1), 10)] == [stay_id]


async def test_recording_failures_and_renewing_never_wait_for_each_other_in_a_circle(database: Database) -> None:
    connections = [await database.connect("asm_sync") for _ in range(4)]
    held = await leases.take_lanes(connections[0], ANA, LANES, LEASE_SECONDS)
    stays = {lane: await queue(connections[0], lane, 2) for lane in range(0, LANES, 4)}

    async def record(one: asyncpg.Connection, which: int, lanes: list[int]) -> None:
        moved = [postponement(stays[lane][which], lane, held[lane]) for lane in lanes]
        assert await store.postpone(one, ANA, moved, NOW) == len(moved)

    async def renew(one: asyncpg.Connection) -> None:
        for _ in range(10):
            assert await leases.renew_lanes(one, ANA, LEASE_SECONDS) == held

    async with asyncio.timeout(10):
        await asyncio.gather(
            record(connections[0], 0, sorted(stays)),
            record(connections[1], 1, sorted(stays, reverse=True)),
            renew(connections[2]),
            renew(connections[3]),
        )


async def test_workers_know_their_place_among_the_living(connection: asyncpg.Connection, database: Database) -> None:
    assert await leases.announce_worker(connection, BINH, LEASE_SECONDS) == (0, 1)
    assert await leases.announce_worker(connection, CHI, LEASE_SECONDS) == (1, 2)
    assert await leases.announce_worker(connection, ANA, LEASE_SECONDS) == (0, 3)
    assert await leases.announce_worker(connection, BINH, LEASE_SECONDS) == (1, 3)
    await leases.dismiss_worker(connection, ANA)
    assert await leases.announce_worker(connection, BINH, LEASE_SECONDS) == (0, 2)
    await lapse(database, BINH)
    assert await leases.announce_worker(connection, CHI, LEASE_SECONDS) == (0, 1)
    assert await leases.announce_worker(connection, BINH, LEASE_SECONDS) == (0, 2)
