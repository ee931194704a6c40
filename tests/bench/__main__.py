"""`make bench`: the speed of intake beside the limit of the database, measured in the same run.

PostgreSQL (fsync on), the daemon, the population simulator (discarding) and the load generator are a process each and
share the machine: figures are lower bounds, and the ratio to the limit is what can be compared between machines.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import aiohttp
import asyncpg
import orjson
from rich.console import Console
from rich.table import Table
from uuid_utils.compat import uuid7

from asm_daemon import demo, embedded, imports, rules, samples, samples_directory
from asm_daemon.crypto import epoch_at
from asm_daemon.daemon import utc_now
from asm_daemon.keystores import create_store
from asm_daemon.samples_directory import HOTEL
from asm_daemon.store.pool import open_pool
from asm_daemon.sync import conservation

SINGLE = {"connections": 64, "requests": 12_000, "rows": 1, "single": True, "path": "/v1/stays", "expected": "201"}
BATCH = {"connections": 8, "requests": 300, "rows": 100, "single": False, "path": "/v1/stays:batch", "expected": "200"}
MLLP = {"messages": 2_000, "ahead": 1, "first": 700_000}
MLLP_AHEAD = {"messages": 2_000, "ahead": 100, "first": 800_000}
WORKBOOK_ROWS, WORKBOOK_SEED = 10_000, 900
LIMIT_ROWS, LIMIT_BATCHES = 1_000, 30
LIMIT_SINGLES = 2_000
READY_SECONDS = 60.0
DRAIN_SECONDS = 300.0
CLIENT, SECRET, ADMIN = "asm-bench", "bench-secret", "bench-admin"

console = Console(stderr=True)


@dataclass(frozen=True, slots=True)
class Site:
    """What is measured: where the daemon listens, an owner's key, its database, and where it listens for hospitals."""

    port: int
    key: str
    database_url: str
    mllp_port: int = 0


async def main() -> int:
    http_limit = await _http_limit()
    with tempfile.TemporaryDirectory(prefix="asm-bench-") as folder:
        async with _site(Path(folder)) as site:
            limit = {**await _database_limit(site.database_url), "http_requests_per_second": http_limit}
            single = await _load(site, {**SINGLE, "first": 0})
            batch = await _load(site, {**BATCH, "first": 1_000_000})
            mllp = await _load_mllp(site, MLLP)
            mllp_ahead = await _load_mllp(site, MLLP_AHEAD)
            workbook = await _load_workbook(site)
            drained = await _drained(site)
    _show(limit, single, batch, mllp, mllp_ahead, workbook)
    result = {
        "limit": limit,
        "single": single,
        "batch": batch,
        "mllp": mllp,
        "mllp_ahead": mllp_ahead,
        "workbook": workbook,
        "all_confirmed_after_seconds": drained,
    }
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
    return 1 if any(each["failed"] for each in (single, batch, mllp, mllp_ahead, workbook)) else 0


async def _http_limit() -> int:
    """Requests per second of aiohttp with a handler that does nothing, under the same load generator."""
    port = demo.free_port()
    async with _process("tests.bench.http_limit", [str(port)], {}, f"http://127.0.0.1:{port}/readyz"):
        result = await _load(Site(port, "none", ""), {**SINGLE, "first": 0})
    return int(result["rows_per_second"])


@asynccontextmanager
async def _site(folder: Path) -> AsyncIterator[Site]:
    """An installation as operators run it, every part a process of its own."""
    async with AsyncExitStack() as stack:
        server = await embedded.start(folder / "postgres")
        stack.push_async_callback(server.stop)
        await demo.prepare_databases(server)
        port, population_port, mllp_port = demo.free_port(), demo.free_port(), demo.free_port()
        create_store(folder / "keys", [epoch_at(utc_now())], utc_now())
        secret, admin = folder / "secret", folder / "admin"
        secret.write_text(SECRET)
        admin.write_text(ADMIN)
        simulator = [
            *("population", "serve", "--database-url", server.dsn(database="population")),
            *("--client-id", CLIENT, "--client-secret-file", str(secret), "--admin-token-file", str(admin)),
            *("--port", str(population_port)),
        ]
        await stack.enter_async_context(
            _process("asm_daemon", simulator, {}, f"http://127.0.0.1:{population_port}/healthz")
        )
        await _discard(population_port)
        url = server.dsn("{role}", "asm")
        settings = {
            "ASM_ENVIRONMENT": "trial",
            "ASM_DEPLOYMENT": "asm.bench.example",
            "ASM_DATABASE_URL": url,
            "ASM_KEY_STORE": str(folder / "keys"),
            "ASM_LISTEN": f"127.0.0.1:{port}",
            "ASM_MLLP_LISTEN": f"127.0.0.1:{mllp_port}",
            "ASM_PUBLIC_URL": f"http://127.0.0.1:{port}",
            "ASM_POPULATION_URL": f"http://127.0.0.1:{population_port}",
            "ASM_POPULATION_CLIENT_ID": CLIENT,
            "ASM_POPULATION_CLIENT_SECRET_FILE": str(secret),
            "ASM_LOG_LEVEL": "warning",
        }
        await stack.enter_async_context(_process("asm_daemon", ["run"], settings, f"http://127.0.0.1:{port}/readyz"))
        pool = await open_pool(url, "asm_auth", min_size=0)
        stack.push_async_callback(pool.close)
        keys = await samples_directory.load(pool, utc_now())
        yield Site(port, keys.owners[HOTEL], url, mllp_port)


@asynccontextmanager
async def _process(
    module: str, arguments: Sequence[str], settings: Mapping[str, str], ready_url: str
) -> AsyncIterator[None]:
    """A module with these arguments as a process, from when it answers until it is not needed any more."""
    process = await asyncio.create_subprocess_exec(sys.executable, "-m", module, *arguments, env=os.environ | settings)
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(READY_SECONDS):
            while not await _answers(session, ready_url):
                await asyncio.sleep(0.05)
        yield
    finally:
        process.terminate()
        await process.wait()


async def _answers(session: aiohttp.ClientSession, url: str) -> bool:
    try:
        async with session.get(url) as answer:
            return answer.status == 200
    except aiohttp.ClientError:
        return False


async def _discard(port: int) -> None:
    """Let the simulator confirm without storing: what is measured is ours."""
    headers = {"Authorization": f"Bearer {ADMIN}"}
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.put(f"http://127.0.0.1:{port}/admin/mode", json={"discard": True}) as answer,
    ):
        answer.raise_for_status()


async def _load(site: Site, plan: dict[str, Any]) -> dict[str, Any]:
    now = utc_now().replace(microsecond=0)
    plan |= {
        "port": site.port,
        "key": site.key,
        "arrived_at": (now - timedelta(minutes=10)).isoformat(),
        "planned_departure_at": (now + timedelta(days=1)).isoformat(),
    }
    return await _carried_out("tests.bench.http_load", plan)


async def _load_mllp(site: Site, plan: Mapping[str, Any]) -> dict[str, Any]:
    admitted = (utc_now() + timedelta(hours=7) - timedelta(minutes=10)).strftime("%Y%m%d%H%M%S")
    return await _carried_out("tests.bench.mllp_load", {**plan, "port": site.mllp_port, "admitted": admitted})


async def _load_workbook(site: Site) -> dict[str, Any]:
    """The Ministry's workbook of `WORKBOOK_ROWS` guests: read alone in the limited child, and taken in as a job."""
    document = samples.official_xlsx(rules.local_day(utc_now()), WORKBOOK_ROWS, seed=WORKBOOK_SEED)
    started = time.perf_counter()
    read = await imports.read_document("official_xlsx", document, timeout_seconds=imports.READ_SECONDS)
    reading = time.perf_counter() - started
    form = aiohttp.FormData({"connector": "official_xlsx"})
    form.add_field("file", document, filename="list.xlsx")
    async with aiohttp.ClientSession(f"http://127.0.0.1:{site.port}") as session:
        headers = {"Authorization": f"Bearer {site.key}"}
        started = time.perf_counter()
        async with session.post("/v1/imports?wait=0", data=form, headers=headers) as sent:
            where = sent.headers["Location"]
        while True:
            async with session.get(where, headers=headers) as answer:
                state = await answer.json()
            if state["finished_at"] is not None:
                break
            await asyncio.sleep(0.05)
        taking = time.perf_counter() - started
    return {
        "rows": len(read),
        "bytes": len(document),
        "read_rows_per_second": int(len(read) / reading),
        "rows_per_second": int(state["done"] / taking),
        "failed": len(read) - state["accepted"],
    }


async def _carried_out(module: str, plan: Mapping[str, Any]) -> dict[str, Any]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", module, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(orjson.dumps(plan) + b"\n")
    result: dict[str, Any] = orjson.loads(output)
    return result


async def _drained(site: Site) -> float:
    """Seconds from the end of the load until the population database has confirmed everything."""
    started = time.perf_counter()
    pool = await open_pool(site.database_url, "asm_sync", min_size=0, max_size=1)
    try:
        async with asyncio.timeout(DRAIN_SECONDS):
            while (state := await conservation(pool)).confirmed < state.stays:
                await asyncio.sleep(0.2)
    finally:
        await pool.close()
    return round(time.perf_counter() - started, 1)


async def _database_limit(url: str) -> Mapping[str, float]:
    """Bare inserts into a table like `stays`, one connection: rows per second by 1,000 and durable commits by one."""
    connection = await asyncpg.connect(url.replace("{role}", "postgres"))
    try:
        await connection.execute("CREATE TABLE bench_limit (LIKE stays INCLUDING DEFAULTS INCLUDING CONSTRAINTS)")
        await connection.execute("ALTER TABLE bench_limit ADD PRIMARY KEY (id, facility_id)")
        for column in ("document_index", "person_index", "given_name_index"):
            await connection.execute(f"CREATE INDEX ON bench_limit ({column}, id)")
        await connection.execute("CREATE INDEX ON bench_limit (facility_id, id)")
        insert = await connection.prepare(_INSERT)
        started = time.perf_counter()
        for _ in range(LIMIT_BATCHES):
            await insert.fetch([uuid7() for _ in range(LIMIT_ROWS)])
        rows = LIMIT_ROWS * LIMIT_BATCHES / (time.perf_counter() - started)
        started = time.perf_counter()
        for _ in range(LIMIT_SINGLES):
            one: list[UUID] = [uuid7()]
            await insert.fetch(one)
        singles = LIMIT_SINGLES / (time.perf_counter() - started)
        await connection.execute("DROP TABLE bench_limit")
    finally:
        await connection.close()
    return {"rows_per_second": round(rows), "commits_per_second": round(singles)}


_INSERT = """
INSERT INTO bench_limit
SELECT id, 1, 1, 'declared', 'declare', now(), now(), now(), now() + interval '1 day', NULL, now(), 0,
       hashtextextended(id::text, 1), hashtextextended(id::text, 2), hashtextextended(id::text, 3),
       decode(repeat('00', 16), 'hex'), id, 0, decode(repeat('ab', 400), 'hex')
FROM unnest($1::uuid[]) AS id
"""


def _show(
    limit: Mapping[str, float],
    single: Mapping[str, Any],
    batch: Mapping[str, Any],
    mllp: Mapping[str, Any],
    mllp_ahead: Mapping[str, Any],
    workbook: Mapping[str, Any],
) -> None:
    table = Table("what", "per second", "of the limit", "p50 ms", "p99 ms", title="Intake, 1 daemon process")
    table.add_row("database limit: rows, 1,000 a statement", f"{limit['rows_per_second']:,}", "", "", "")
    table.add_row(
        "aiohttp limit: POST, 64 connections, does nothing", f"{limit['http_requests_per_second']:,}", "", "", ""
    )
    table.add_row("database limit: durable commits of one row", f"{limit['commits_per_second']:,}", "", "", "")
    for name, result in (("POST /v1/stays, 64 connections", single), ("POST /v1/stays:batch, 100 rows", batch)):
        table.add_row(
            name,
            f"{result['rows_per_second']:,}",
            f"{result['rows_per_second'] / limit['rows_per_second']:.2f}",
            f"{result['p50_ms']}",
            f"{result['p99_ms']}",
        )
    for name, result in (("ADT^A01, one MLLP connection", mllp), ("ADT^A01, the same, 100 sent ahead", mllp_ahead)):
        table.add_row(
            name,
            f"{result['messages_per_second']:,}",
            f"{result['messages_per_second'] / limit['commits_per_second']:.2f} of commits",
            f"{result['p50_ms']}",
            f"{result['p99_ms']}",
        )
    for name, figure in (("read in the child", "read_rows_per_second"), ("uploaded to filed", "rows_per_second")):
        table.add_row(
            f"workbook of {workbook['rows']:,} rows, {name}",
            f"{workbook[figure]:,}",
            f"{workbook[figure] / limit['rows_per_second']:.2f}",
            "",
            "",
        )
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
