"""`python -m tests.bench.retention`: how long the end of a month takes, and what can be read of it afterwards, as JSON.

A month of 100,000 stays that are over and 1,000 that have not ended; the current database and a copy of it from before;
the current key store and a backup of it. Then everything is tried against everything.
"""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from asm_daemon import embedded, retention
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch, epoch_at, epoch_bounds
from asm_daemon.decisions import tags_of
from asm_daemon.issuing import leaf_of
from asm_daemon.key_backups import expire_backups, list_backups, make_backup
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Contents, StayRow
from asm_daemon.sealing import open_contents, seal_contents
from asm_daemon.store.migrate import load_migrations, migrate
from asm_daemon.store.pool import open_pool
from asm_daemon.store.stays import create_partitions
from tests.stack import declaration

OVER, OPEN = 100_000, 1_000
AGO = timedelta(days=1200)
PERIODS = retention.Periods(stay_days=1096, database_backup_days=35, key_backup_days=35)
CODE = "HY-KS-0001"
_COLUMNS = (*StayRow.__slots__, "document_index", "person_index", "given_name_index")


def stays(keyring: Keyring, at: datetime, count: int, *, open_stays: bool) -> Iterator[tuple[StayRow, Contents]]:
    """Stays of one month, sealed like real ones, all in one batch of receipts."""
    batch = uuid7()
    lo = epoch_bounds(epoch_at(at))[0].int
    for index in range(count):
        stay_id = UUID(int=lo + ((index * 20 + 7 + open_stays) << 80 | 7 << 76 | 0b10 << 62 | index))
        contents = Contents(declaration(index % 500 + 1), bytes(16), None, "owner-1")
        yield (
            StayRow(
                stay_id, 1, 1, "declared" if open_stays else "departed", "declare", at, at, at, None,
                None if open_stays else at, at, 0, bytes(16), batch, index,
                seal_contents(keyring, 1, stay_id, 1, contents),
            ),
            contents,
        )  # fmt: skip


async def fill(connection: asyncpg.Connection, keyring: Keyring, at: datetime) -> None:
    """The month, with its receipts, references and confirmations."""
    for count, open_stays in ((OVER, False), (OPEN, True)):
        made = list(stays(keyring, at, count, open_stays=open_stays))
        records = [
            (*(getattr(row, name) for name in StayRow.__slots__), *tags_of(keyring, row, contents))
            for row, contents in made
        ]
        leaves = b"".join(leaf_of(CODE, row, contents).hash() for row, contents in made)
        await connection.copy_records_to_table("stays", records=records, columns=_COLUMNS)
        await connection.execute(
            "INSERT INTO receipt_batches VALUES ($1, $2, $3, 'bench')", made[0][0].receipt_batch_id, at, leaves
        )
        await connection.executemany(
            "INSERT INTO source_refs VALUES (1, $1, $2)", [(row.id.bytes, row.id) for row, _ in made]
        )
        await connection.executemany(
            "INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification)"
            " VALUES (1, $1, 1, $2, 'matched')",
            [(row.id, at) for row, _ in made],
        )


async def opened(url: str, keyring: Keyring) -> str:
    """How many records of a database open."""
    connection = await asyncpg.connect(url)
    try:
        rows = await connection.fetch(f"SELECT {', '.join(StayRow.__slots__)} FROM stays")
    finally:
        await connection.close()
    count = 0
    for row in rows:
        try:
            open_contents(keyring, StayRow(*row))
            count += 1
        except (Tampered, UnknownEpoch):
            pass
    return f"{count} of {len(rows)}"


async def measure(folder: Path) -> dict[str, Any]:
    """Ends the month, and tries to read it."""
    now = datetime.now(UTC)
    at = (now - AGO).replace(day=15)
    keys, backups, stolen = folder / "keys", folder / "backups", folder / "stolen"
    store = create_store(keys, [epoch_at(at), epoch_at(now)], now)
    keyring = store.keyring()
    server = await embedded.start()
    try:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("CREATE DATABASE asm")
        connection = await asyncpg.connect(server.dsn(database="asm"))
        await migrate(connection, load_migrations())
        await create_partitions(connection, epoch_at(at), *epoch_bounds(epoch_at(at)))
        await connection.execute(
            "INSERT INTO facilities (code, name, kind, province, commune, address, authority, capacity, sandbox,"
            f" created_at) VALUES ('{CODE}', 'Cơ sở mẫu', 'hotel_4_star', '109', '11953', 'Mẫu', 'CA', 9, false, now())"
        )
        await fill(connection, keyring, at)
        await connection.close()
        await admin.execute("CREATE DATABASE old TEMPLATE asm")
        made = make_backup(keys, backups, now)
        shutil.copytree(made, stolen)
        stolen.chmod(0o700)
        shutil.copy(keys / "root.key", stolen)
        async with await open_pool(server.dsn("{role}", "asm"), "asm_retention", min_size=0, max_size=2) as pool:
            started = time.perf_counter()
            counts = await retention.end_epochs_once(pool, store, keyring, PERIODS, now)
            seconds = time.perf_counter() - started
            await retention.finish_once(pool, store, PERIODS, [now], now)
        current, old = server.dsn(database="asm"), server.dsn(database="old")
        result = {
            "counts": counts,
            "seconds": round(seconds, 2),
            "current_database_current_keys": await opened(current, KeyStore(keys).keyring()),
            "old_database_current_keys": await opened(old, KeyStore(keys).keyring()),
            "old_database_key_backup_within_its_age": await opened(old, KeyStore(stolen).keyring()),
        }
        expire_backups(backups, PERIODS.key_backup_days, now + timedelta(days=PERIODS.key_backup_days))
        result["key_backups_after_their_age"] = len(list_backups(backups))
        await admin.close()
    finally:
        await server.stop()
    return result


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="asm-bench-") as directory:
        found = asyncio.run(measure(Path(directory)))
    sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
