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

import orjson

from asm_daemon.crypto import epoch_at
from asm_daemon.keystores import create_store
from asm_daemon.resealing import reencrypt_once
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store.pool import open_pool
from tests.bench.retention import database, stays, store

STAYS = 50_000


async def measure(folder: Path) -> dict[str, Any]:
    """Renews the month's keys once, and goes on until nothing is under the old ones."""
    now = datetime.now(UTC)
    epoch = epoch_at(now)
    key_store = create_store(folder / "keys", [epoch], now)
    keyring = key_store.keyring()
    async with database(epoch) as (server, connection):
        async for _ in store(connection, keyring, now, stays(keyring, now, STAYS, open_stays=False)):
            pass
        await connection.execute("ANALYZE")
        key_store.renew_epoch(epoch, now)
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
