"""`python -m tests.bench.resealing`: how fast a month whose keys were renewed is sealed and tagged anew, and verified,
as JSON."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import orjson

from asm_daemon import embedded
from asm_daemon.crypto import epoch_at, epoch_bounds
from asm_daemon.keystores import create_store
from asm_daemon.resealing import reencrypt_once
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store.migrate import load_migrations, migrate
from asm_daemon.store.pool import open_pool
from asm_daemon.store.stays import create_partitions
from tests.bench.retention import CODE, stays
from tests.bench.retention import store as store_stays

STAYS = 50_000


async def measure(folder: Path) -> dict[str, Any]:
    """Renews the month's keys once, and goes on until nothing is under the old ones."""
    now = datetime.now(UTC)
    epoch = epoch_at(now)
    store = create_store(folder / "keys", [epoch], now)
    keyring = store.keyring()
    server = await embedded.start()
    try:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("CREATE DATABASE asm")
        connection = await asyncpg.connect(server.dsn(database="asm"))
        await migrate(connection, load_migrations())
        await create_partitions(connection, epoch, *epoch_bounds(epoch))
        await connection.execute(
            "INSERT INTO facilities (code, name, kind, province, commune, address, authority, capacity, sandbox,"
            f" created_at) VALUES ('{CODE}', 'Cơ sở mẫu', 'hotel_4_star', '109', '11953', 'Mẫu', 'CA', 9, false, now())"
        )
        await store_stays(connection, keyring, now, stays(keyring, now, STAYS, open_stays=False))
        store.renew_epoch(epoch, now)
        keyring.reload()
        async with await open_pool(server.dsn("{role}", "asm"), "asm_retention", min_size=0, max_size=2) as pool:
            started, resealed = time.perf_counter(), 0
            while resealed < STAYS:
                counts = await reencrypt_once(pool, keyring, lambda _: None, now)
                assert counts["resealed"], counts
                resealed += counts["resealed"]
            sealed_ms = (time.perf_counter() - started) / resealed * 1000
            async with await open_pool(server.dsn("{role}", "asm"), "asm_audit", min_size=0, max_size=2) as auditors:
                started = time.perf_counter()
                verified = await verify_stays(pool, auditors, keyring, [], sample=None)
                verified_ms = (time.perf_counter() - started) / verified.versions * 1000
        await connection.close()
        await admin.close()
    finally:
        await server.stop()
    faults = {kind for kind, _ in verified.faults}
    assert faults <= {"receipts_not_audited"}, faults  # nobody told the audit of these batches
    return {
        "stays": resealed,
        "sealed_and_tagged_anew_ms_each": round(sealed_ms, 3),
        "verified_ms_each": round(verified_ms, 3),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="asm-bench-") as directory:
        found = asyncio.run(measure(Path(directory)))
    sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
