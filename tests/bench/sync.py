"""The speed of the sync: how long a declaration waits to be confirmed, how fast a backlog drains, and whether intake
notices when the population database is gone. Beside it, what PostgreSQL alone and two job queues do in the same run.

PostgreSQL (fsync on), daemons, simulator and load share the machine: figures are lower bounds, the processor shares say
who used it, and the ratios are what can be compared between machines.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
from rich.table import Table

from asm_daemon import operating, sync
from asm_daemon.daemon import utc_now
from asm_daemon.keystores import open_keyring
from asm_daemon.model import LANES
from asm_daemon.store.pool import open_pool
from connectors.population import simulator
from schemas.operating import Move
from tests.bench.backlog import store_stays
from tests.bench.site import (
    Premises,
    Site,
    carry_out,
    console,
    discard,
    guest_times,
    load_http,
    open_premises,
    processor_seconds,
    run_daemon,
    run_simulator,
)

BACKLOG = int(os.environ.get("BENCH_BACKLOG", "200000"))
PERSONS = 40_000
"""How many people the simulator knows: as many as the guests of the load that it verifies."""
STEADY = (
    {"rate": 200, "rows": 1},
    {"rate": 1_000, "rows": 1},
    {"rate": 3_000, "rows": 10},  # as vendors send who declare for many: ten stays a request
)
STEADY_SECONDS, STEADY_CONNECTIONS = 8, 64
PRESSURE = {"connections": 64, "requests": 6_000, "rows": 1, "single": True, "path": "/v1/stays", "expected": "201"}
PGQUEUER = {"engine": "pgqueuer", "jobs": BACKLOG, "seconds": 40}
PROCRASTINATE = {"engine": "procrastinate", "jobs": 50_000, "seconds": 20}
REST_SECONDS = 240.0
DATABASE = "PostgreSQL"


async def measure(folder: Path) -> dict[str, Any]:
    """The figures, printed as tables and returned; `failed` counts wrong answers and stays that are out of place."""
    async with open_premises(folder, {"track_commit_timestamp": "on"}) as premises, _superuser(premises) as superuser:
        console.print(f"[dim]{BACKLOG:,} stays are sealed and stored …[/dim]")
        await simulator.seed(premises.server.dsn(database="population"), PERSONS, None)
        await store_stays(premises.database_url, open_keyring(folder / "keys"), BACKLOG)
        await superuser.execute("VACUUM ANALYZE")
        async with run_simulator(premises) as population:
            await discard(premises)
            drain = await _measure_drains(premises, superuser, population)
            async with run_daemon(premises) as site:
                await _until_shared(superuser, 1)
                lag = await _measure_lags(premises, superuser, site, population)
        pressure = await _measure_pressure(premises, superuser)
        async with await open_pool(premises.database_url, "asm_sync", min_size=0) as pool:
            at_rest = await sync.conservation(pool)
        limit = await _measure_limit(premises, superuser)
        queues = {plan["engine"]: await _measure_queue(premises, superuser, plan) for plan in (PGQUEUER, PROCRASTINATE)}
    figures = {"drain": drain, "limit": limit, "queues": queues, "lag": lag, "pressure": pressure}
    _show(figures)
    lost = at_rest.misplaced + at_rest.remains + at_rest.stays - at_rest.confirmed
    wrong = sum(stage["failed"] for stages in lag.values() for stage in stages) + pressure["failed"]
    return {**figures, "stays": at_rest.stays, "not_confirmed": lost, "failed": lost + wrong}


@asynccontextmanager
async def _superuser(premises: Premises, database: str = "asm") -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(premises.server.dsn(database=database), command_timeout=120)
    try:
        yield connection
    finally:
        await connection.close()


# -- a backlog ---------------------------------------------------------------------------------------------------------


async def _measure_drains(premises: Premises, superuser: asyncpg.Connection, population: int) -> dict[str, Any]:
    """The same backlog carried by one worker process and by two, each working and idle when it becomes visible."""
    drains = {}
    async with AsyncExitStack() as daemons:
        pids: list[int] = []
        for workers in (1, 2):
            site = await daemons.enter_async_context(run_daemon(premises))
            pids.append(site.pid)
            await _until_shared(superuser, workers)
            parts = {"daemons": pids, "simulator": [population], DATABASE: [premises.server.process.pid]}
            drains[f"workers_{workers}"] = await _drain(superuser, parts)
    return drains


async def _drain(superuser: asyncpg.Connection, parts: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Queue every stay in one transaction and see it through. Timed by PostgreSQL: from that commit to the last."""
    await superuser.execute("TRUNCATE sync_log, sync_queue")
    await superuser.execute("CHECKPOINT")
    before = _used(parts)
    await superuser.execute(_QUEUE_ALL)
    queued_at = await superuser.fetchval(_QUEUED_AT)
    await _until_empty(superuser)
    used = _used(parts, before)
    (row,) = await superuser.fetch(_CONFIRMED_AT)
    seconds = row["last"] - queued_at
    return {
        "stays": row["stays"],
        "seconds": round(seconds, 2),
        "stays_per_second": round(row["stays"] / seconds),
        "first_confirmed_after_seconds": round(row["first"] - queued_at, 2),
        "processor_seconds": used,
    }


# A stay's lane is the first byte of SHA-256 over the facility's number in digits, as in `model.lane_of`.
_QUEUE_ALL = """
INSERT INTO sync_queue (facility_id, stay_id, version, lane)
SELECT facility_id, id, version, get_byte(sha256(facility_id::text::bytea), 0) FROM stays
"""
_QUEUED_AT = """
SELECT extract(epoch FROM timestamp)::float8 FROM pg_last_committed_xact()
"""
_CONFIRMED_AT = """
SELECT count(*) AS stays, extract(epoch FROM min(pg_xact_commit_timestamp(xmin)))::float8 AS first,
    extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float8 AS last
FROM sync_log
"""


async def _until_shared(superuser: asyncpg.Connection, workers: int) -> None:
    """Until so many workers hold the lanes in equal parts, and the queue is empty."""
    async with asyncio.timeout(REST_SECONDS):
        while await superuser.fetchval(_SHARED, LANES // workers) != workers:
            await asyncio.sleep(0.1)
    await _until_empty(superuser)


_SHARED = """
SELECT count(*) FROM (
    SELECT owner FROM leases WHERE name LIKE 'lane/%' AND expires_at > clock_timestamp()
    GROUP BY owner HAVING count(*) = $1
) AS fair
"""


async def _until_empty(superuser: asyncpg.Connection) -> None:
    async with asyncio.timeout(REST_SECONDS):
        while await superuser.fetchval("SELECT EXISTS (TABLE sync_queue) OR EXISTS (TABLE sync_wait)"):
            await asyncio.sleep(0.2)


def _used(parts: Mapping[str, Sequence[int]], before: Mapping[str, float] | None = None) -> dict[str, float]:
    """Processor seconds of each part, since `before` if given."""
    since = before or {}
    return {name: round(processor_seconds(pids) - since.get(name, 0.0), 1) for name, pids in parts.items()}


# -- the limit, and what others do -------------------------------------------------------------------------------------


async def _measure_limit(premises: Premises, superuser: asyncpg.Connection) -> dict[str, Any]:
    """The bare statement: take 500 off a queue and write them into a log. No key, no HTTP, no order, no lanes."""
    figures = {}
    await superuser.execute("CREATE TABLE bench_queue (LIKE sync_queue INCLUDING ALL)")
    await superuser.execute(
        "CREATE TABLE bench_log (LIKE sync_log INCLUDING DEFAULTS, PRIMARY KEY (facility_id, stay_id, version))"
    )
    for connections in (1, 2):
        await superuser.execute("TRUNCATE bench_queue, bench_log")
        await superuser.execute(f"{_QUEUE_ALL.replace('sync_queue', 'bench_queue')} LIMIT {BACKLOG}")
        await superuser.execute("VACUUM ANALYZE bench_queue")
        await superuser.execute("CHECKPOINT")
        started = time.perf_counter()
        await asyncio.gather(*(_drain_bare(premises) for _ in range(connections)))
        figures[f"connections_{connections}"] = round(BACKLOG / (time.perf_counter() - started))
    await superuser.execute("DROP TABLE bench_queue, bench_log")
    return {"rows_per_second": figures}


async def _drain_bare(premises: Premises) -> None:
    async with _superuser(premises) as connection:
        statement = await connection.prepare(_BARE)
        while await statement.fetchval():
            pass


_BARE = """
WITH chosen AS (
    SELECT facility_id, stay_id, version FROM bench_queue ORDER BY stay_id LIMIT 500 FOR UPDATE SKIP LOCKED
), taken AS (
    DELETE FROM bench_queue USING chosen
    WHERE bench_queue.facility_id = chosen.facility_id AND bench_queue.stay_id = chosen.stay_id
        AND bench_queue.version = chosen.version
    RETURNING bench_queue.facility_id, bench_queue.stay_id, bench_queue.version
), logged AS (
    INSERT INTO bench_log (facility_id, stay_id, version, confirmed_at, verification)
    SELECT facility_id, stay_id, version, now(), 'not_checked' FROM taken RETURNING 1
)
SELECT count(*) FROM logged
"""


async def _measure_queue(premises: Premises, superuser: asyncpg.Connection, plan: Mapping[str, Any]) -> dict[str, Any]:
    """A job queue on a database of its own on the same server, one process, jobs that do nothing."""
    name = f"bench_{plan['engine']}"
    await superuser.execute(f"CREATE DATABASE {name}")
    await superuser.execute("CHECKPOINT")
    postgres = {DATABASE: [premises.server.process.pid]}
    before = _used(postgres)
    result = await carry_out("tests.bench.queues", {**plan, "database_url": premises.server.dsn(database=name)})
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")
    return {**result, "database_processor_seconds": _used(postgres, before)[DATABASE]}


# -- lag ---------------------------------------------------------------------------------------------------------------


async def _measure_lags(
    premises: Premises, superuser: asyncpg.Connection, site: Site, population: int
) -> dict[str, list[dict[str, Any]]]:
    """From an owner's 201 to the commit of the confirmation, at each rate: the simulator verifying, and discarding."""
    parts = {"daemon": [site.pid], "simulator": [population], DATABASE: [premises.server.process.pid]}
    lags: dict[str, list[dict[str, Any]]] = {}
    first = 0
    for mode in ("verifying", "discarding"):
        await discard(premises, wanted=mode == "discarding")
        lags[mode] = []
        for steady in STEADY:
            lags[mode].append(await _measure_lag(superuser, site, steady, first, parts))
            first += steady["rate"] * STEADY_SECONDS
    return lags


async def _measure_lag(
    superuser: asyncpg.Connection, site: Site, steady: Mapping[str, int], first: int, parts: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    plan = {**steady, **guest_times(), "seconds": STEADY_SECONDS, "connections": STEADY_CONNECTIONS, "first": first}
    before = _used(parts)
    load = await carry_out("tests.bench.steady_load", {**plan, "port": site.port, "key": site.key})
    await _until_empty(superuser)
    used = {**_used(parts, before), "load": round(load["processor_seconds"], 1)}
    accepted_at = {UUID(stay_id): instant for stay_id, instant in load["accepted_at"].items()}
    confirmed = await superuser.fetch(_CONFIRMED, list(accepted_at))
    return {
        "wanted_per_second": steady["rate"],
        "stays_per_request": steady["rows"],
        "stays_per_second": load["stays_per_second"],
        "failed": load["failed"] + len(accepted_at) - len(confirmed),
        "answered_ms": _spread(load["answered"]),
        "sent_late_ms": _spread(load["late"]),
        "confirmed_ms": _spread([row["instant"] - accepted_at[row["stay_id"]] for row in confirmed]),
        "processor_seconds": used,
    }


_CONFIRMED = """
SELECT stay_id, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float8 AS instant
FROM sync_log WHERE stay_id = ANY($1::uuid[]) AND version = 1
"""


def _spread(seconds: Sequence[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    points = {"p50": len(ordered) // 2, "p99": len(ordered) * 99 // 100, "max": len(ordered) - 1}
    return {name: round(ordered[place] * 1000, 1) for name, place in points.items()}


# -- back-pressure -----------------------------------------------------------------------------------------------------


async def _measure_pressure(premises: Premises, superuser: asyncpg.Connection) -> dict[str, Any]:
    """How fast owners are answered while the population database answers, is gone, and is silent."""
    async with run_daemon(premises) as site:
        await _until_shared(superuser, 1)
        async with run_simulator(premises) as population:
            await discard(premises)
            await _load_pressure(site, 0)  # makes both warm; not counted
            await _until_empty(superuser)
            alive = [await _load_pressure(site, 1)]
            await _until_empty(superuser)
            os.kill(population, signal.SIGSTOP)
            try:
                silent = await _load_pressure(site, 2)
            finally:
                os.kill(population, signal.SIGCONT)
        gone = await _load_pressure(site, 3)
        async with run_simulator(premises):
            await discard(premises)
            await _release(premises, superuser)
            alive.append(await _load_pressure(site, 4))
            await _until_empty(superuser)
    usual = sum(each["rows_per_second"] for each in alive) / len(alive)
    return {
        "alive_per_second": [each["rows_per_second"] for each in alive],
        "silent_per_second": silent["rows_per_second"],
        "gone_per_second": gone["rows_per_second"],
        "silent_ratio": round(silent["rows_per_second"] / usual, 2),
        "gone_ratio": round(gone["rows_per_second"] / usual, 2),
        "p99_ms": {"alive": [each["p99_ms"] for each in alive], "silent": silent["p99_ms"], "gone": gone["p99_ms"]},
        "failed": sum(bool(each["failed"]) for each in (*alive, silent, gone)),
    }


async def _load_pressure(site: Site, round_: int) -> dict[str, Any]:
    return await load_http(site.port, site.key, {**PRESSURE, "first": round_ * 100_000})


async def _release(premises: Premises, superuser: asyncpg.Connection) -> None:
    """As an operator would once the other side is back: what waits is tried at once, until nothing waits."""
    async with await open_pool(premises.database_url, "asm_sync", min_size=0) as pool, asyncio.timeout(REST_SECONDS):
        while await superuser.fetchval("SELECT EXISTS (TABLE sync_queue) OR EXISTS (TABLE sync_wait)"):
            now = utc_now()
            await operating.release(pool, lambda: None, "bench", Move(before=now), now)
            await asyncio.sleep(0.5)


# -- as a table --------------------------------------------------------------------------------------------------------


def _show(figures: Mapping[str, Any]) -> None:
    drain, limit, queues = figures["drain"], figures["limit"]["rows_per_second"], figures["queues"]
    floor = limit["connections_1"]
    table = Table("a backlog", "per second", "of the limit", "processor seconds", title=f"{BACKLOG:,} stays")
    for name, rate in limit.items():
        table.add_row(f"bare DELETE and INSERT, {name.replace('_', ' ')}", f"{rate:,}", f"{rate / floor:.2f}", "")
    for name, one in drain.items():
        used = ", ".join(f"{part} {seconds}" for part, seconds in one["processor_seconds"].items())
        rate = one["stays_per_second"]
        table.add_row(f"stays carried, {name.replace('_', ' ')}", f"{rate:,}", f"{rate / floor:.2f}", used)
    for name, one in queues.items():
        if "missing" in one:
            table.add_row(f"{name}: not installed", "", "", "")
            continue
        rate = one["jobs_per_second"]
        what = f"{name}, no-op jobs ({one['jobs']:,} of {one['of']:,} in {one['seconds']} s)"
        used = f"worker {one['processor_seconds']}, {DATABASE} {one['database_processor_seconds']}"
        table.add_row(what, f"{rate:,}", f"{rate / floor:.2f}", used)
    console.print(table)
    table = Table("from the 201 to the confirmation", "stays/s", "p50 ms", "p99 ms", "max ms", "201: p99 ms")
    for mode, stages in figures["lag"].items():
        for one in stages:
            lag = one["confirmed_ms"]
            name = f"simulator {mode}, {one['stays_per_request']} a request"
            cells = (f"{one['stays_per_second']:,} of {one['wanted_per_second']:,}", lag["p50"], lag["p99"], lag["max"])
            table.add_row(name, *map(str, cells), str(one["answered_ms"]["p99"]))
    console.print(table)
    pressure = figures["pressure"]
    table = Table("POST /v1/stays while the population database", "per second", "ratio")
    table.add_row("answers (before and after)", ", ".join(map(str, pressure["alive_per_second"])), "")
    for name in ("silent", "gone"):
        table.add_row(f"is {name}", f"{pressure[f'{name}_per_second']:,}", f"{pressure[f'{name}_ratio']:.2f}")
    console.print(table)
