"""`make bench`: the speed of intake beside the limit of the database, measured in the same run.

The daemon, its PostgreSQL (fsync on), the population simulator (discarding) and the load generator share the machine;
figures are lower bounds, and the ratio to the limit is what can be compared between machines.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from rich.console import Console
from rich.table import Table
from uuid_utils.compat import uuid7

from asm_daemon import demo
from asm_daemon.daemon import utc_now
from asm_daemon.samples_directory import HOTEL

SINGLE = {"connections": 64, "requests": 12_000, "rows": 1, "single": True, "path": "/v1/stays", "expected": "201"}
BATCH = {"connections": 8, "requests": 300, "rows": 100, "single": False, "path": "/v1/stays:batch", "expected": "200"}
LIMIT_ROWS, LIMIT_BATCHES = 1_000, 30
LIMIT_SINGLES = 2_000

console = Console()


async def main() -> int:
    with tempfile.TemporaryDirectory(prefix="asm-bench-") as folder:
        summary = demo.Summary()
        async with demo.running(Path(folder), demo.free_port(), demo.free_port(), summary, discard=True) as site:
            url = site.daemon.settings.database_url
            limit = await _database_limit(url)
            single = await _load(site, {**SINGLE, "first": 0})
            batch = await _load(site, {**BATCH, "first": 1_000_000})
    _show(limit, single, batch)
    sys.stdout.buffer.write(orjson.dumps({"limit": limit, "single": single, "batch": batch}) + b"\n")
    return 1 if single["failed"] or batch["failed"] else 0


async def _load(site: Any, plan: dict[str, Any]) -> dict[str, Any]:
    now = utc_now().replace(microsecond=0)
    plan |= {
        "port": site.ports.http,
        "key": site.keys.owners[HOTEL],
        "arrived_at": (now - timedelta(minutes=10)).isoformat(),
        "planned_departure_at": (now + timedelta(days=1)).isoformat(),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.bench.http_load", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    output, _ = await process.communicate(orjson.dumps(plan) + b"\n")
    result: dict[str, Any] = orjson.loads(output)
    return result


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


def _show(limit: Mapping[str, float], single: Mapping[str, Any], batch: Mapping[str, Any]) -> None:
    table = Table("what", "per second", "of the limit", "p50 ms", "p99 ms", title="Intake, 1 daemon process")
    table.add_row("database limit: rows, 1,000 a statement", f"{limit['rows_per_second']:,}", "", "", "")
    table.add_row("database limit: durable commits of one row", f"{limit['commits_per_second']:,}", "", "", "")
    for name, result in (("POST /v1/stays, 64 connections", single), ("POST /v1/stays:batch, 100 rows", batch)):
        table.add_row(
            name,
            f"{result['rows_per_second']:,}",
            f"{result['rows_per_second'] / limit['rows_per_second']:.2f}",
            f"{result['p50_ms']}",
            f"{result['p99_ms']}",
        )
    console.print(table)


if __name__ == "__main__":
    raise SystemExit(asyncio.run(main()))
