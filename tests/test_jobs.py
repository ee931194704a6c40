"""The clock: what becomes of work that is under way when the daemon ends."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest
from apscheduler.triggers.interval import IntervalTrigger

from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.jobs import Job, Leadership, run
from asm_daemon.store import pool as pool_module
from asm_daemon.store.pool import open_pool
from tests.silence import silent
from tests.stack import Pools

if TYPE_CHECKING:
    from tests.conftest import Database


class Work:
    """A job that begins at once, and ends when the test lets it."""

    def __init__(self) -> None:
        self.begun, self.may_end = asyncio.Event(), asyncio.Event()
        self.ended = False
        self.job = Job("work", IntervalTrigger(hours=1), self.once, at_start=True)

    async def once(self) -> Mapping[str, int]:
        self.begun.set()
        await self.may_end.wait()
        self.ended = True
        return {}


@pytest.fixture
async def leadership(pools: Pools) -> Leadership:
    return Leadership(await pools.get("asm_sync"), uuid4(), 15)


async def test_work_that_takes_too_long_is_cancelled_and_the_lead_is_given_up(
    leadership: Leadership, pools: Pools
) -> None:
    work, stop = Work(), asyncio.Event()
    running = asyncio.create_task(run([work.job], leadership, stop, grace_seconds=0.01))
    await work.begun.wait()
    stop.set()
    await running
    assert not work.ended
    assert await Leadership(await pools.get("asm_sync"), uuid4(), 15).held()


async def test_work_under_way_is_let_end(leadership: Leadership) -> None:
    work, stop = Work(), asyncio.Event()
    running = asyncio.create_task(run([work.job], leadership, stop, grace_seconds=60))
    await work.begun.wait()
    stop.set()
    for _ in range(3):  # so that the end is under way
        await asyncio.sleep(0)
    assert not running.done()
    work.may_end.set()
    await running
    assert work.ended


async def test_a_silent_database_does_not_hold_up_the_end(
    leadership: Leadership, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "RELEASE_SECONDS", 0.1)
    await leadership.held()
    stop = asyncio.Event()
    running = asyncio.create_task(run([], leadership, stop, grace_seconds=0.01))
    with silent(server):
        stop.set()
        async with asyncio.timeout(10):  # a statement alone would last 20 s
            await running


async def test_an_end_without_the_database_is_an_end(database: Database) -> None:
    pool = await open_pool(database.url, "asm_sync", min_size=0)
    stop = asyncio.Event()
    running = asyncio.create_task(run([], Leadership(pool, uuid4(), 15), stop, grace_seconds=1))
    superuser = await database.connect()
    await superuser.execute("ALTER ROLE asm_sync CONNECTION LIMIT 0")
    try:
        stop.set()
        await running
    finally:
        await superuser.execute("ALTER ROLE asm_sync CONNECTION LIMIT -1")
        await pool.close()
