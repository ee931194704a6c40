"""One run: the load and the faults of a seed together, then peace, then the auditor."""

from __future__ import annotations

import asyncio
import time
import traceback
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from asm_daemon.samples_directory import GUESTHOUSE, HOSPITAL, HOTEL
from tests.faults.auditor import Databases, audit_run
from tests.faults.environment import Lane, Site, new_folder
from tests.faults.faults import Plan, carry_out, make_plan
from tests.faults.journal import Journal
from tests.faults.load import Doors, run_load

BOUND_SECONDS = 30.0
"""After the last fault, everything sent is answered and carried within this time, or the run fails as stuck."""
CALM_SECONDS = 20.0
"""How long the load may go on after that, when it is told to stop."""
FACILITIES = (HOTEL, GUESTHOUSE, HOSPITAL)

Spoil = Callable[[Site], Awaitable[None]]


@dataclass
class Result:
    """What became of one seed. `faults` are the findings: an empty list is what is promised."""

    seed: int
    faults: list[str] = field(default_factory=list)
    injected: Counter[str] = field(default_factory=Counter)
    counts: Mapping[str, int] = field(default_factory=dict)
    converge_seconds: float | None = None
    unasked_ends: int = 0
    elapsed_seconds: float = 0.0
    folder: str = ""


async def run_seed(
    lane: Lane, seed: int, folder: Path, *, only: str | None = None, spoil: Spoil | None = None
) -> Result:
    """Run one seed in a fresh system; its journal and logs are in `folder`.

    `spoil` is done after everything has come to rest and before the auditor looks: to see that he sees.
    """
    started = time.monotonic()
    plan = make_plan(seed, may_fill_disk=lane.small, only=only)
    result = Result(seed, folder=str(folder))
    new_folder(folder.parent, folder.name)
    (folder / "plan.txt").write_text("".join(f"{fault}\n" for fault in (f"{plan.daemons} daemons", *plan.faults)))
    journal = Journal(seed)
    try:
        await _run(lane, plan, folder, journal, result, spoil)
    except Exception:  # noqa: BLE001 - the top of a run: whatever breaks in the suite is a finding too
        result.faults.append(f"the suite itself failed:\n{traceback.format_exc()}")
    finally:
        journal.dump(folder / "journal.jsonl")
        result.elapsed_seconds = time.monotonic() - started
        (folder / "findings.txt").write_text("".join(f"{fault}\n" for fault in result.faults))
    return result


async def _run(lane: Lane, plan: Plan, folder: Path, journal: Journal, result: Result, spoil: Spoil | None) -> None:
    async with lane.site(folder, plan.daemons, small=plan.small) as site:
        doors = Doors(
            base_urls=site.base_urls,
            mllp=site.mllp,
            owner_keys={code: lane.keys.owners[code] for code in FACILITIES},
            police=lane.keys.officer,
        )
        result.injected = site.injected
        stop = asyncio.Event()
        load = asyncio.create_task(run_load(plan.seed, doors, journal, acts=plan.acts, stop=stop))
        try:
            await carry_out(plan, site)
            await _come_to_rest(site, load, stop, result)
        finally:
            load.cancel()
            await asyncio.gather(load, return_exceptions=True)
        result.unasked_ends = site.unasked_ends
        result.faults += await site.end_daemons()
        if spoil is not None:
            await spoil(site)
        findings = await audit_run(Databases(site.database_url, lane.population_url), lane.folder / "keys", journal)
        result.faults += findings.faults
        result.counts = findings.counts | journal.counts()


async def _come_to_rest(site: Site, load: asyncio.Task[None], stop: asyncio.Event, result: Result) -> None:
    """Wait until all is answered and carried; the time is counted from the last heal."""
    done, _ = await asyncio.wait([load], timeout=BOUND_SECONDS)
    if not done:
        result.faults.append(f"stuck: the senders were not answered within {BOUND_SECONDS:g} s of the last fault")
        stop.set()
        async with asyncio.timeout(CALM_SECONDS):
            await load
    load.result()
    waited = asyncio.get_running_loop().time() - site.healed_at
    left = await site.until_converged(max(1.0, BOUND_SECONDS - waited))
    if left is not None:
        result.faults.append(f"stuck: after {BOUND_SECONDS:g} s {left.queued} are queued and {left.waiting} wait")
    result.converge_seconds = asyncio.get_running_loop().time() - site.healed_at
