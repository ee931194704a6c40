"""What a superuser changes by plain SQL, column by column as the catalogue lists them, and what finds it.

A table or a column that is new stands in no list here, and fails: whoever adds one says what finds a change of it, or
why nothing has to.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import audit, directory, feeds, retention
from asm_daemon.crypto import KeyPurpose, Keyring, Tampered, UnknownEpoch, epoch_at, next_epoch
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.ledger import NoteKey
from asm_daemon.model import Facility, PrincipalKind, StayRow
from asm_daemon.resealing import reencrypt_once
from asm_daemon.retention import Periods
from asm_daemon.rules import local_day
from asm_daemon.sealing import open_contents
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store.retention import Hold
from asm_daemon.told import verify_told
from schemas.act import ActKind
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

OLD = 202001  # a month that had keys and no stays
PERIODS = Periods(stay_days=1096, database_backup_days=35, key_backup_days=30)

OPENING, VERIFY, ALL, AUDIT, NOTHING = "opening", "keys verify", "keys verify --all", "audit verify", "nothing"
"""Who finds a change, the first of them. `nothing`: no verification; the list below says why."""
ROW_GONE, ROW_ADDED = "(row removed)", "(row added)"

FOUND: dict[str, dict[str, str]] = {}
"""Table → column → what finds a change of it."""

UNFOUND: dict[str, str] = {}
"""Table or table.column → why nothing has to find a change, or what is open."""


@dataclass
class Register:
    """A database in which everything happened that leaves rows, by the daemon's own use cases."""

    superuser: asyncpg.Connection
    pools: Pools
    keyring: Keyring
    key: NoteKey
    kept_elsewhere: str  # a checkpoint

    async def found_by(self) -> str:
        """Who finds that something was changed."""
        if await self._unreadable():
            return OPENING
        retention_pool, auditors = await self.pools.get("asm_retention"), await self.pools.get("asm_audit")
        if (await verify_stays(retention_pool, auditors, self.keyring, [], sample=100)).faults:
            return VERIFY
        async with auditors.acquire() as connection:
            if (await audit.verify(connection, self.key, [self.kept_elsewhere])).faults:
                return AUDIT
        if (await verify_stays(retention_pool, auditors, self.keyring, [], sample=None)).faults:
            return ALL
        _, told = await verify_told(
            retention_pool, auditors, await self.pools.get("asm_feeds"), await self.pools.get("asm_auth")
        )
        return ALL if told else NOTHING

    async def _unreadable(self) -> bool:
        columns = ", ".join(StayRow.__slots__)
        rows = await self.superuser.fetch(f"SELECT {columns} FROM stays")
        rows += await self.superuser.fetch(f"SELECT {columns.replace('id,', 'stay_id AS id,', 1)} FROM stay_versions")
        for row in rows:
            try:
                open_contents(self.keyring, StayRow(*row))
            except (Tampered, UnknownEpoch):
                return True
        return False

    async def columns(self) -> dict[str, dict[str, str]]:
        """The tables of the catalogue with their columns and types; partitions are part of their table."""
        rows = await self.superuser.fetch(
            """
            SELECT relname, attname, format_type(atttypid, NULL) AS type
            FROM pg_class JOIN pg_attribute ON attrelid = pg_class.oid AND attnum > 0 AND NOT attisdropped
            WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
            ORDER BY relname, attnum
            """
        )
        tables: dict[str, dict[str, str]] = {}
        for row in rows:
            tables.setdefault(row["relname"], {})[row["attname"]] = row["type"]
        return tables

    @asynccontextmanager
    async def put_back(self, table: str) -> AsyncIterator[None]:
        """Whatever is done to a table within, it is as before afterwards."""
        await self.superuser.execute(f"CREATE TEMP TABLE before AS TABLE {table}")
        yield
        await self.superuser.execute(
            f"DELETE FROM {table}; INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE before; DROP TABLE before"
        )


CHANGED = {
    "integer": "coalesce({0}, 0) + 1000",
    "smallint": "coalesce({0}, 0) + 1000",
    "bigint": "coalesce({0}, 0) + 1000",
    "text": "coalesce({0}, '') || 'x'",
    "boolean": "NOT {0}",
    "date": "{0} - 1",
    "timestamp with time zone": "coalesce({0} - interval '400 days', now())",
    "uuid": "coalesce(overlay({0}::text PLACING left(md5({0}::text), 8) FROM 29 FOR 8)::uuid, gen_random_uuid())",
    "bytea": "set_byte({0}, length({0}) / 2, get_byte({0}, length({0}) / 2) # 1)",
    "text[]": "{0} || ARRAY['x']",
    "integer[]": "{0}[2:] || ARRAY[77]",
    "bytea[]": "{0}[2:]",
}
"""How a value of each type is changed to another that the column takes."""
LEADS_ELSEWHERE = {"stays.status": "CASE status WHEN 'declared' THEN 'cancelled' ELSE 'declared' END"}
LEADS_ELSEWHERE["stay_versions.status"] = LEADS_ELSEWHERE["stays.status"]


async def change(superuser: asyncpg.Connection, table: str, column: str, kind: str) -> None:
    """Change one value of the first row."""
    value = LEADS_ELSEWHERE.get(f"{table}.{column}", CHANGED[kind].format(f'"{column}"'))
    done = await superuser.execute(
        f'UPDATE {table} SET "{column}" = {value} WHERE (tableoid, ctid) = '
        f"(SELECT tableoid, ctid FROM {table} ORDER BY 1, 2 LIMIT 1)"
    )
    assert done == "UPDATE 1", (table, column, done)


async def remove(superuser: asyncpg.Connection, table: str) -> None:
    """Remove the first row."""
    await superuser.execute(
        f"DELETE FROM {table} WHERE (tableoid, ctid) = (SELECT tableoid, ctid FROM {table} ORDER BY 1, 2 LIMIT 1)"
    )


async def add(superuser: asyncpg.Connection, table: str, column: str, kind: str) -> None:
    """Add a copy of the first row under another key."""
    await superuser.execute(f"CREATE TEMP TABLE copy AS SELECT * FROM {table} ORDER BY 1 LIMIT 1")
    await superuser.execute(f'UPDATE copy SET "{column}" = {CHANGED[kind].format(column)}')
    await superuser.execute(f"INSERT INTO {table} OVERRIDING SYSTEM VALUE TABLE copy; DROP TABLE copy")


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    epoch = epoch_at(clock())
    return create_store(tmp_path / "keys", [OLD, epoch, next_epoch(epoch)], clock())


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.fixture
async def register(
    intake: Intake,
    facility: Facility,
    make_facility: FacilityMaker,
    clock: Clock,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
) -> Register:
    async def act(place: Facility, kind: ActKind, fields: dict[str, object], ref: str) -> Facility:
        [outcome] = await intake.submit([command(place, kind, fields, clock, source_ref=ref)])
        assert outcome.outcome == "accepted", outcome.refusal and outcome.refusal.violations
        return outcome.stay  # type: ignore[return-value]

    second = await make_facility("HY-KS-0002")
    first = await act(facility, ActKind.DECLARE, declaration(1), "A")
    for room in ("301", "302"):
        await act(facility, ActKind.CORRECT, {"room": room}, "A")
    await act(facility, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, "A")
    await act(second, ActKind.DECLARE, declaration(2), "B")
    await act(facility, ActKind.DECLARE, declaration(3), "C")
    await act(facility, ActKind.CANCEL, {"reason": "duplicate"}, "C")
    erased = await act(facility, ActKind.DECLARE, declaration(4), "D")
    await act(facility, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, "D")
    superuser = await pools.database.connect()
    await superuser.execute("DELETE FROM sync_queue")  # as if all were carried
    pool, now = await pools.get("asm_retention"), clock()
    await _hold(pool, facility, first.id, clock)  # type: ignore[arg-type]
    await retention.erase_stay(pool, store, erased.id, "yêu cầu", "operator:test", PERIODS, now, urgent=False)  # type: ignore[arg-type]
    await retention.end_epochs_once(pool, store, keyring, PERIODS, now)
    await _seal_anew(pool, store, keyring, clock)
    await _directory(await pools.get("asm_auth"), facility, clock)
    await feeds.publish_once(await pools.get("asm_publish"), keyring, local_day(now), now)
    for _ in range(256):  # so many entries that hashes are kept for proofs
        await audit.append(superuser, audit.AuditEntry(now, "daemon", "test", "access.refuse"))
    signer = keyring.signing_key(KeyPurpose.CHECKPOINT)
    auditor = await pools.database.connect("asm_audit")
    await audit.seal_once(auditor, signer, DEPLOYMENT, now)
    kept = await auditor.fetchval("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
    await _hold(pool, facility, first.id, clock)  # an entry that still waits for its place
    return Register(superuser, pools, keyring, audit.note_key(DEPLOYMENT, signer.public_key_bytes), kept)


async def _hold(pool: asyncpg.Pool, facility: Facility, stay_id: object, clock: Clock) -> None:
    await retention.place_hold(
        pool,
        Hold(
            uuid7(), facility.id, stay_id, None, None, "15/2026/HS-PC02", "điều tra", clock(), "operator:test"  # type: ignore[arg-type]
        ),
    )  # fmt: skip


async def _seal_anew(pool: asyncpg.Pool, store: KeyStore, keyring: Keyring, clock: Clock) -> None:
    store.renew_data_key(epoch_at(clock()), clock())
    keyring.reload()
    await reencrypt_once(pool, keyring, lambda name: None, clock())


async def _directory(pool: asyncpg.Pool, facility: Facility, clock: Clock) -> None:
    owner = await directory.add_principal(pool, "operator:test", PrincipalKind.OWNER, "Chủ", "Cơ sở mẫu", clock())
    await directory.create_key(pool, "operator:test", owner, clock())
    await directory.grant(pool, "operator:test", owner, facility.code, clock())


async def test_every_change_of_every_column_is_found_by_what_the_list_says(register: Register) -> None:
    assert await register.found_by() == NOTHING
    outcomes: dict[str, dict[str, str]] = {}
    superuser = register.superuser
    await superuser.execute("SET session_replication_role = replica")  # foreign keys hold no superuser up
    for table, columns in (await register.columns()).items():
        if table in UNFOUND:
            continue
        for constraint in await superuser.fetch(
            "SELECT conname FROM pg_constraint WHERE conrelid = $1::regclass AND contype IN ('c', 'u')", table
        ):
            await superuser.execute(f'ALTER TABLE {table} DROP CONSTRAINT "{constraint["conname"]}"')
        outcomes[table] = {}
        for column, kind in columns.items():
            async with register.put_back(table):
                await change(superuser, table, column, kind)
                outcomes[table][column] = await register.found_by()
        async with register.put_back(table):
            await remove(superuser, table)
            outcomes[table][ROW_GONE] = await register.found_by()
        first, kind = next(iter(columns.items()))
        async with register.put_back(table):
            await add(superuser, table, first, kind)
            outcomes[table][ROW_ADDED] = await register.found_by()
    assert await register.found_by() == NOTHING
    import pprint

    pprint.pprint(outcomes)
    assert outcomes == FOUND
