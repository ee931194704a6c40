"""`python -m tests.bench.resealing`: how fast a month whose keys were renewed is sealed and tagged anew, and verified,
as JSON."""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from asm_daemon import embedded
from asm_daemon.crypto import Keyring, epoch_at, epoch_bounds
from asm_daemon.decisions import tags_of
from asm_daemon.issuing import leaf_of
from asm_daemon.keystores import create_store
from asm_daemon.model import StayRow
from asm_daemon.resealing import reencrypt_once
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store.migrate import load_migrations, migrate
from asm_daemon.store.pool import open_pool
from asm_daemon.store.stays import create_partitions
from tests.bench.retention import CODE, stays

STAYS, AT_ONCE = 50_000, 100
NOTE = "bench\n100\nno root\n"  # where a signed note stands
_COLUMNS = (*StayRow.__slots__, "document_index", "person_index", "given_name_index")


async def fill(connection: asyncpg.Connection, keyring: Keyring, at: datetime) -> None:
    """The month, with its receipts: as many in one signed batch as a busy intake commits at once."""
    month = stays(keyring, at, STAYS, open_stays=False)
    while made := list(islice(month, AT_ONCE)):
        batch = uuid7()
        rows = [
            (
                replace(
                    row,
                    receipt_batch_id=batch,
                    receipt_index=index,
                    arrived_at=datetime.fromisoformat(contents.declared["arrived_at"]),
                    planned_departure_at=datetime.fromisoformat(contents.declared["planned_departure_at"]),
                ),
                contents,
            )
            for index, (row, contents) in enumerate(made)
        ]
        leaves = b"".join(leaf_of(CODE, row, contents).hash() for row, contents in rows)
        await connection.copy_records_to_table(
            "stays",
            records=[
                (*(getattr(row, name) for name in StayRow.__slots__), *tags_of(keyring, row, contents))
                for row, contents in rows
            ],
            columns=_COLUMNS,
        )
        await connection.execute("INSERT INTO receipt_batches VALUES ($1, $2, $3, $4)", batch, at, leaves, NOTE)


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
        await fill(connection, keyring, now)
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
    assert faults <= {"receipts_changed", "receipts_not_audited"}, faults  # nobody signed these batches
    return {
        "stays": resealed,
        "sealed_and_tagged_anew_ms_each": round(sealed_ms, 3),
        "verified_ms_each": round(verified_ms, 3),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="asm-bench-") as directory:
        found = asyncio.run(measure(Path(directory)))
    sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
