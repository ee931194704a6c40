"""One run: the load and the faults of a seed together, then peace, then the auditor."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import asyncpg

from asm_daemon.compare import CompareLimits, compare_all
from asm_daemon.daemon import utc_now
from asm_daemon.pacing import DATABASE_AWAY
from asm_daemon.samples_directory import GUESTHOUSE, HOSPITAL, HOTEL
from asm_daemon.store.pool import open_pool
from connectors.population.client import PopulationClient, open_client
from tests.faults.auditor import audit_run, await_convergence
from tests.faults.environment import CREDENTIALS, Lane, Site, new_folder
from tests.faults.faults import Plan, carry_out, make_plan
from tests.faults.journal import Journal
from tests.faults.load import Doors, run_load

LOAD_SECONDS, CLIENTS = 2.0, 6
"""How long the load lasts if all goes well: a little longer than faults begin. So many clients share it."""
CALM_SECONDS = 20.0
"""How long the load may go on after that, when it is told to stop."""
FACILITIES = (HOTEL, GUESTHOUSE, HOSPITAL)
COMPARE = CompareLimits(answer_seconds=3.0)
COMPARE_PAUSE_SECONDS = 0.3

Spoil = Callable[[Site], Coroutine[Any, Any, None]]


@dataclass
class Result:
    """What became of one seed. `faults` are the findings: an empty list is what is promised."""

    seed: int
    faults: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    counts: Mapping[str, int] = field(default_factory=dict)
    converge_seconds: float | None = None
    unasked_ends: int = 0
    repaired: int = 0
    elapsed_seconds: float = 0.0
    folder: str = ""


async def run_seed(
    lane: Lane,
    seed: int,
    folder: Path,
    *,
    only: str | None = None,
    plan: Plan | None = None,
    meddle: Spoil | None = None,
    spoil: Spoil | None = None,
    bound_seconds: float | None = None,
) -> Result:
    """Run one seed in a fresh system; its journal and logs are in `folder`. `plan` is done instead of the seed's own.

    To see that defects are seen, `meddle` is done beside the load, and `spoil` once everything has come to rest and
    before the auditor looks.
    """
    started = time.monotonic()
    plan = plan or make_plan(seed, may_fill_disk=lane.small, only=only)
    result = Result(seed, folder=str(folder))
    new_folder(folder.parent, folder.name)
    (folder / "plan.txt").write_text("".join(f"{fault}\n" for fault in (f"{plan.daemons} daemons", *plan.faults)))
    journal = Journal(seed)
    try:
        async with lane.site(folder, plan.daemons, small=plan.small) as site:
            result.injected = site.injected
            await _load_and_break(site, plan, journal, result, meddle, bound_seconds or plan.bound_seconds)
            result.unasked_ends = site.unasked_ends
            result.faults += await site.end_daemons()
            if spoil is not None:
                await spoil(site)
            logs = sorted(folder.glob("*.log"))
            findings = await audit_run(site.databases, lane.folder / "keys", journal, logs=logs)
            result.faults += findings.faults
            result.counts = findings.counts
    except Exception:  # noqa: BLE001 - the top of a run: whatever breaks in the suite is a finding too
        result.faults.append(f"the suite itself failed:\n{traceback.format_exc()}")
    finally:
        journal.dump(folder / "journal.jsonl")
        result.elapsed_seconds = time.monotonic() - started
        (folder / "findings.txt").write_text("".join(f"{fault}\n" for fault in result.faults))
    return result


async def _load_and_break(
    site: Site, plan: Plan, journal: Journal, result: Result, meddle: Spoil | None, bound_seconds: float
) -> None:
    keys = site.lane.keys
    doors = Doors(site.base_urls, site.mllp, {code: keys.owners[code] for code in FACILITIES}, keys.officer)
    pace_seconds = LOAD_SECONDS * CLIENTS / plan.acts
    stop = asyncio.Event()
    load = asyncio.create_task(
        run_load(plan.seed, doors, journal, acts=plan.acts, stop=stop, pace_seconds=pace_seconds)
    )
    comparing = asyncio.create_task(_compare_beside(site))
    beside = [load, comparing] if meddle is None else [load, comparing, asyncio.ensure_future(meddle(site))]
    try:
        await carry_out(plan, site)
        await _come_to_rest(site, load, stop, result, bound_seconds)
        comparing.cancel()
        await asyncio.wait([comparing])
        if not comparing.cancelled():
            comparing.result()  # it died, and nobody compared beside the load
        await _agree(site, result, bound_seconds)
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)


async def _come_to_rest(
    site: Site, load: asyncio.Task[None], stop: asyncio.Event, result: Result, bound_seconds: float
) -> None:
    """Wait until all is answered and carried; the time is counted from the last heal."""
    done, _ = await asyncio.wait([load], timeout=bound_seconds)
    if not done:
        result.faults.append(f"stuck: the senders were not answered within {bound_seconds:g} s of the last fault")
        stop.set()
        async with asyncio.timeout(CALM_SECONDS):
            await load
    load.result()
    waited = asyncio.get_running_loop().time() - site.healed_at
    convergence = await await_convergence(site.databases, max(1.0, bound_seconds - waited))
    if convergence.stuck:
        result.faults.append(f"stuck: {bound_seconds:g} s after the last fault: {'; '.join(convergence.stuck)}")
    result.converge_seconds = asyncio.get_running_loop().time() - site.healed_at


# -- the comparison with the population database -----------------------------------------------------------------------


@asynccontextmanager
async def _both_sides(site: Site) -> AsyncIterator[tuple[asyncpg.Pool, PopulationClient]]:
    """Ours and theirs, through the same proxies as the first daemon."""
    port = {name: link.port for name, link in site.places[0].links.items()}
    url = f"postgresql://{{role}}@127.0.0.1:{port['database']}/{site.lane.database}?sslmode=disable"
    theirs = f"http://127.0.0.1:{port['population']}"
    pool = await open_pool(url, "asm_sync", min_size=0, max_size=1, statement_timeout_seconds=5)
    try:
        async with open_client(theirs, CREDENTIALS["client_id"], CREDENTIALS["client_secret"]) as client:
            yield pool, client
    finally:
        await pool.close()


async def _compare_beside(site: Site) -> None:
    """Compare while everything is in motion, a pass after the other; one that fails is gone on with at the next."""
    async with _both_sides(site) as (pool, client):
        while True:
            with suppress(*DATABASE_AWAY):
                await compare_all(pool, client, utc_now(), limits=COMPARE)
            await asyncio.sleep(COMPARE_PAUSE_SECONDS)


async def _agree(site: Site, result: Result, bound_seconds: float) -> None:
    """What the population database lost is found, carried again, and a pass more finds nothing; nobody was alarmed
    about stays that are ours."""
    async with _both_sides(site) as (pool, client):
        try:
            async with asyncio.timeout(bound_seconds):
                found = 1
                while found:
                    counts = await compare_all(pool, client, utc_now(), limits=COMPARE)
                    found = counts["missing"] + counts["stale"] + counts["failed_requests"]
                    await await_convergence(site.databases, bound_seconds)
        except (TimeoutError, *DATABASE_AWAY) as error:
            result.faults.append(f"stuck: both sides did not agree in the end: {type(error).__name__}")
            return
        false_alarms = await pool.fetchval("SELECT count(*) FROM operator_alerts WHERE kind = 'extra_stay'")
        differing = await pool.fetchval("SELECT coalesce(sum(differing), 0)::int FROM comparisons")
        result.repaired = await pool.fetchval("SELECT coalesce(sum(repaired), 0)::int FROM comparisons")
        if false_alarms or differing:
            result.faults.append(f"comparison: {false_alarms} false alarms, {differing} that differ")
    result.converge_seconds = asyncio.get_running_loop().time() - site.healed_at
