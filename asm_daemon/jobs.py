"""The clock: which background work runs when. One table of jobs, given to APScheduler; one process leads them.

A job is a plain `*_once` that may run at any time, twice or late: the schedule says only when it is worth running.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import asyncpg
import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.base import BaseTrigger

from asm_daemon.rules import HANOI
from asm_daemon.store import LOST, leases

LATE_SECONDS = 3600
"""How late a missed run may still start; APScheduler's own default of one second would drop it silently."""
_RELEASE_SECONDS = 2.0

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Job:
    """One kind of background work. `once` does it and returns counts; only the leader runs it unless `everywhere`.

    `at_start` also runs it as the daemon starts: it catches up on what its data say is missing.
    """

    name: str
    trigger: BaseTrigger
    once: Callable[[], Awaitable[Mapping[str, int]]]
    everywhere: bool = False
    at_start: bool = False


@dataclass(frozen=True, slots=True)
class Leadership:
    """How a process leads: by holding the jobs' lease row, through a pool of asm_sync."""

    pool: asyncpg.Pool
    owner: UUID
    lease_seconds: float

    async def held(self) -> bool:
        """Take or extend the lease; false while another process has it."""
        async with self.pool.acquire() as connection:
            return await leases.take_lease(connection, leases.JOBS, self.owner, self.lease_seconds) is not None

    async def release(self) -> None:
        """Let another process lead at once."""
        async with self.pool.acquire() as connection:
            await leases.release_lease(connection, leases.JOBS, self.owner)


async def run(jobs: Sequence[Job], leadership: Leadership, stop: asyncio.Event, *, grace_seconds: float) -> None:
    """Run every job by its trigger until `stop`; the running ones then get `grace_seconds` to end, or are cancelled."""
    # It warns, without naming the job, whenever a run is still under way as the next is due: no news to an operator.
    logging.getLogger("apscheduler").setLevel(logging.ERROR)
    scheduler = AsyncIOScheduler(
        timezone=HANOI,
        job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": LATE_SECONDS},
    )
    running: set[asyncio.Task[None]] = set()

    async def start(job: Job) -> None:
        task = asyncio.create_task(_attempt(job, leadership), name=f"job {job.name}")
        running.add(task)
        task.add_done_callback(running.discard)
        await task

    for job in jobs:
        first = {"next_run_time": datetime.now(HANOI)} if job.at_start else {}
        scheduler.add_job(start, job.trigger, args=[job], id=job.name, **first)
    scheduler.start()
    try:
        await stop.wait()
        scheduler.pause()
        if running:
            await asyncio.wait(running, timeout=grace_seconds)
    finally:
        scheduler.shutdown(wait=False)  # it cancels what still runs
        await asyncio.gather(*running, return_exceptions=True)
        with suppress(*LOST):  # then it runs out by itself
            async with asyncio.timeout(_RELEASE_SECONDS):
                await leadership.release()


async def _attempt(job: Job, leadership: Leadership) -> None:
    """Run a job once; its failure is recorded and the next run tries again."""
    try:
        if job.everywhere or await leadership.held():
            counts = await job.once()
            if any(counts.values()):
                log.info("job.done", job=job.name, count=sum(counts.values()))
    except Exception:  # the top of a loop: a job that fails now may succeed at its next run
        log.exception("job.failed", job=job.name)
