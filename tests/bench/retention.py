"""`python -m tests.bench.retention`: how long the end of a month takes, and what can be read of it afterwards, as JSON.

A month of 100,000 stays that are over and 1,000 that have not ended, one where it is the other way round, and one of a
million of which a fifth is kept; 200 facilities, 2,000 legal holds elsewhere. The current database and a copy of it
from before, the current key store and a backup of it: then everything is tried against everything.
"""

from __future__ import annotations

import asyncio
import random
import shutil
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any, Literal
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from asm_daemon import embedded, retention
from asm_daemon.certificates import finish_once
from asm_daemon.crypto import KeyPurpose, Keyring, Tampered, UnknownEpoch, epoch_at, epoch_bounds
from asm_daemon.decisions import content_tag_of, tags_of
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.issuing import leaf_of
from asm_daemon.key_backups import expire_backups, list_backups, make_backup
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Beside, Contents, StayRow
from asm_daemon.receipts import sign_batch
from asm_daemon.sealing import open_contents, seal_contents
from asm_daemon.store.migrate import load_migrations, migrate
from asm_daemon.store.pool import open_pool
from asm_daemon.store.retention import Hold
from asm_daemon.store.stays import create_partitions
from tests.stack import declaration

CASES = ((100_000, 1_000), (1_000, 100_000), (800_000, 200_000))
"""(stays that are over, stays that have not ended) of the month."""
FACILITIES = 200
HOLDS = 2_000
"""Legal holds in force, on stays of other months of these facilities: each stay here is asked whether it is held."""
AGO = timedelta(days=1200)
PERIODS = retention.Periods(stay_days=1096, database_backup_days=35, key_backup_days=35)
AT_ONCE, UNSIGNED = 100, UUID(int=0)
_COLUMNS = (*StayRow.__slots__, "document_index", "person_index", "given_name_index")


def code_of(facility_id: int) -> str:
    """The code of a facility."""
    return f"HY-KS-{facility_id:04}"


@asynccontextmanager
async def database(epoch: int) -> AsyncIterator[tuple[EmbeddedPostgres, asyncpg.Connection]]:
    """A server with a migrated database `asm` that has the facilities and the partitions of a month."""
    server = await embedded.start()
    try:
        admin = await asyncpg.connect(server.dsn())
        await admin.execute("CREATE DATABASE asm")
        await admin.close()
        connection = await asyncpg.connect(server.dsn(database="asm"))
        await migrate(connection, load_migrations())
        await create_partitions(connection, epoch, *epoch_bounds(epoch))
        await connection.executemany(
            "INSERT INTO facilities (code, name, kind, province, commune, address, authority, capacity, sandbox,"
            " created_at) VALUES ($1, 'Cơ sở mẫu', 'hotel_4_star', '109', '11953', 'Mẫu', 'CA', 9, false, now())",
            [(code_of(facility_id),) for facility_id in range(1, FACILITIES + 1)],
        )
        yield server, connection
        await connection.close()
    finally:
        await server.stop()


def stays(keyring: Keyring, at: datetime, count: int, *, open_stays: bool) -> Iterator[tuple[StayRow, Contents]]:
    """Stays of one month, sealed like real ones; their receipts are still to be signed.

    In no order, as guests leave: who share a signed batch are scattered over the month.
    """
    lo = epoch_bounds(epoch_at(at))[0].int
    for index in random.Random(count).sample(range(count), count):  # noqa: S311 - an order, not a secret
        stay_id = UUID(int=lo + ((index * 2 + open_stays) << 80 | 7 << 76 | 0b10 << 62 | index))
        declared = declaration(index % 500 + 1, arrived_at=at.isoformat(), planned_departure_at=None)
        status: Literal["declared", "departed"] = "declared" if open_stays else "departed"
        left_at = None if open_stays else at
        contents = Contents(declared, bytes(16), None, "owner-1", beside=Beside(status, left_at, at))
        tag, facility_id = content_tag_of(keyring, declared, status, left_at), index % FACILITIES + 1
        yield (
            StayRow(
                stay_id, facility_id, 1, status, "declare", at, at, at, None, left_at, at, 0, tag, UNSIGNED, 0,
                seal_contents(keyring, facility_id, stay_id, 1, contents),
            ),
            contents,
        )  # fmt: skip


async def store(
    connection: asyncpg.Connection, keyring: Keyring, at: datetime, made: Iterable[tuple[StayRow, Contents]]
) -> AsyncIterator[list[StayRow]]:
    """Store stays, with as many receipts in one signed batch as a busy intake commits at once; yield each batch."""
    key, rest = keyring.signing_key(KeyPurpose.RECEIPT), iter(made)
    while some := list(islice(rest, AT_ONCE)):
        batch_id = uuid7()
        leaves = [leaf_of(code_of(row.facility_id), row, contents).hash() for row, contents in some]
        note = sign_batch(leaves, batch_id, "bench", key, at).note
        await connection.execute(
            "INSERT INTO receipt_batches VALUES ($1, $2, $3, $4)", batch_id, at, b"".join(leaves), note
        )
        rows = [replace(row, receipt_batch_id=batch_id, receipt_index=index) for index, (row, _) in enumerate(some)]
        records = [
            (*(getattr(row, name) for name in StayRow.__slots__), *tags_of(keyring, row, contents))
            for row, (_, contents) in zip(rows, some, strict=True)
        ]
        await connection.copy_records_to_table("stays", records=records, columns=_COLUMNS)
        yield rows


async def fill(connection: asyncpg.Connection, keyring: Keyring, at: datetime, over: int, still_open: int) -> None:
    """The month, with its receipts, references and confirmations."""
    for count, open_stays in ((over, False), (still_open, True)):
        async for rows in store(connection, keyring, at, stays(keyring, at, count, open_stays=open_stays)):
            await connection.copy_records_to_table(
                "source_refs",
                records=[(row.facility_id, row.id.bytes, row.id) for row in rows],
                columns=("facility_id", "ref_tag", "stay_id"),
            )
            await connection.copy_records_to_table(
                "sync_log",
                records=[(row.facility_id, row.id, 1, at, "matched") for row in rows],
                columns=("facility_id", "stay_id", "version", "confirmed_at", "verification"),
            )
    await connection.execute("ANALYZE")  # as autovacuum has by the time a month is over


async def hold(pool: asyncpg.Pool, keyring: Keyring, now: datetime) -> None:
    """Legal holds as by document, one for each stay."""
    async with pool.acquire() as connection, connection.transaction():
        for index in range(HOLDS):
            order = ("15/2026/HS-PC02", "bench", now, "bench")
            await retention.insert_hold(
                connection, keyring, Hold(uuid7(), index % FACILITIES + 1, uuid7(), None, None, *order)
            )


async def opened(url: str, keyring: Keyring) -> str:
    """How many records of a database open."""
    connection, count, rows = await asyncpg.connect(url), 0, 0
    try:
        async with connection.transaction():
            async for row in connection.cursor(f"SELECT {', '.join(StayRow.__slots__)} FROM stays", prefetch=1_000):
                rows += 1
                with suppress(Tampered, UnknownEpoch):
                    open_contents(keyring, StayRow(*row))
                    count += 1
    finally:
        await connection.close()
    return f"{count} of {rows}"


async def locked(url: str, epoch: int, done: asyncio.Event) -> float:
    """For how long nobody can change a stay of the month, in seconds."""
    first = last = 0.0
    connection = await asyncpg.connect(url)
    try:
        while not done.is_set():
            held = await connection.fetchval(
                "SELECT EXISTS (SELECT FROM pg_locks WHERE mode = 'ShareRowExclusiveLock'"
                " AND relation = (SELECT oid FROM pg_class WHERE relname = $1))",
                f"stays_{epoch}",
            )
            if held:
                last = time.perf_counter()
                first = first or last
            await asyncio.sleep(0.01)
    finally:
        await connection.close()
    return last - first


async def measure(folder: Path, over: int, still_open: int) -> dict[str, Any]:
    """Ends the month, and tries to read it."""
    now = datetime.now(UTC)
    at = (now - AGO).replace(day=15)
    keys, backups, stolen = folder / "keys", folder / "backups", folder / "stolen"
    key_store = create_store(keys, [epoch_at(at), epoch_at(now)], now)
    keyring = key_store.keyring()
    async with database(epoch_at(at)) as (server, connection):
        await fill(connection, keyring, at, over, still_open)
        copy = await copied(server)
        made = make_backup(keys, backups, now)
        shutil.copytree(made, stolen)
        stolen.chmod(0o700)
        shutil.copy(keys / "root.key", stolen)
        async with (
            await open_pool(server.dsn("{role}", "asm"), "asm_retention", min_size=0, max_size=2) as pool,
            await open_pool(server.dsn("{role}", "asm"), "asm_audit", min_size=0, max_size=2) as audit_pool,
        ):
            await hold(pool, keyring, now)
            done = asyncio.Event()
            other = asyncio.create_task(locked(server.dsn(database="asm"), epoch_at(at), done))
            started = time.perf_counter()
            counts = await retention.end_epochs_once(pool, audit_pool, key_store, keyring, PERIODS, now)
            seconds = time.perf_counter() - started
            done.set()
            await finish_once(pool, key_store, keyring, PERIODS, [now], now)
        result = {
            "counts": counts,
            "seconds": round(seconds, 2),
            "seconds_locked": round(await other, 2),
            "current_database_current_keys": await opened(server.dsn(database="asm"), KeyStore(keys).keyring()),
            "old_database_current_keys": await opened(copy, KeyStore(keys).keyring()),
            "old_database_key_backup_within_its_age": await opened(copy, KeyStore(stolen).keyring()),
        }
        expire_backups(backups, PERIODS.key_backup_days, now + timedelta(days=PERIODS.key_backup_days))
        result["key_backups_after_their_age"] = len(list_backups(backups))
    return result


async def copied(server: EmbeddedPostgres) -> str:
    """The URL of a copy of the database as it is now."""
    admin = await asyncpg.connect(server.dsn())
    await admin.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'asm'")
    await admin.execute("CREATE DATABASE old TEMPLATE asm")
    await admin.close()
    return server.dsn(database="old")


if __name__ == "__main__":
    found = []
    for case in CASES:
        with tempfile.TemporaryDirectory(prefix="asm-bench-") as directory:
            found.append(asyncio.run(measure(Path(directory), *case)))
    sys.stdout.buffer.write(orjson.dumps(found, option=orjson.OPT_INDENT_2) + b"\n")
