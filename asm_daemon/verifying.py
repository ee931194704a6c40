"""What the daemon verifies by itself: that stays are what was signed and rows in clear what the audit tells, each night
and by samples; and each hour that PostgreSQL still keeps values out of its log.

Whoever changes the database without our keys is found by this, or by the full verification that people run
(`asm-daemon keys verify --all`, `asm-daemon audit verify`), which is too long for a process that has guests to declare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import islice

import asyncpg
from prometheus_client import Gauge

from asm_daemon import audit
from asm_daemon.crypto import KeyPurpose, Keyring, KeyStoreForeign
from asm_daemon.database_settings import check_database_settings
from asm_daemon.ledger import BadNote, NoteKey, open_checkpoint
from asm_daemon.rules import HANOI
from asm_daemon.stay_proofs import is_ours, verify_stays
from asm_daemon.store import audit as audit_store
from asm_daemon.store import sealed as sealed_store
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.told import NOT_VOUCHED, Fault, verify_told

SAMPLE = 100
"""Stays of each month that are looked at in a night, drawn at random."""
ALERTS = 50
"""As many faults of a night are alerted one by one, the rest by their number."""
_LOOKED_AT = 5
NIGHT_HOUR = 4
"""A night's verification is owed from this hour on, in Viet Nam."""
VERIFIED_AT = Gauge(
    "asm_verified_timestamp_seconds", "When this process last verified stays and rows to the end; 0 before the first"
)


def verification_owed(verified_at: datetime | None, now: datetime) -> bool:
    """Whether a process that last verified at `verified_at` has not done so since the night began."""
    local = now.astimezone(HANOI)
    night = local.replace(hour=NIGHT_HOUR, minute=0, second=0, microsecond=0)
    if local < night:
        night -= timedelta(days=1)
    return verified_at is None or verified_at < night


async def require_ours(pool: asyncpg.Pool, audit_pool: asyncpg.Pool, keyring: Keyring, deployment: str) -> None:
    """Raise KeyStoreForeign if something is signed in the database, and nothing of it by these keys.

    The pools connect as asm_retention and asm_audit. A few receipts and checkpoints are looked at: whoever writes to
    one of the tables, or spoils some of what is there, keeps no daemon from starting.
    """
    key = audit.note_key(deployment, keyring.signing_key(KeyPurpose.CHECKPOINT).public_key_bytes)
    async with audit_pool.acquire() as connection:
        notes = await audit_store.some_checkpoints(connection, _LOOKED_AT)
    async with pool.acquire() as connection:
        batches = await sealed_store.newest_batches(connection, _LOOKED_AT)
    ours = any(_opens(note, key) for note in notes) or any(is_ours(keyring, batch) for batch in batches)
    if (notes or batches) and not ours:
        raise KeyStoreForeign("what is signed in the database was signed by other keys")


def _opens(note: str, key: NoteKey) -> bool:
    try:
        open_checkpoint(note, key)
    except BadNote:
        return False
    return True


async def verify_once(
    pools: Mapping[str, asyncpg.Pool], keyring: Keyring, destroyed: Iterable[int], now: datetime
) -> dict[str, int]:
    """Verify a sample of each month's stays, and every row of which the audit tells; alert the operator to faults.

    `pools` by login; `destroyed` are the months whose keys are gone. Counts: `versions`, `rows`, `faults`.
    """
    pool, audit_pool = pools["asm_retention"], pools["asm_audit"]
    stays = await verify_stays(pool, audit_pool, keyring, destroyed, sample=SAMPLE)
    rows, faults = await verify_told(pool, audit_pool, pools["asm_feeds"], pools["asm_auth"], keyring=keyring)
    # Few are of rows, many may be of stays, and of entries as many as somebody likes: the few come first.
    found = [*(each for each in faults if each[0] != NOT_VOUCHED), *stays.faults]
    found += [each for each in faults if each[0] == NOT_VOUCHED]
    await _alert(pool, found, now)
    VERIFIED_AT.set(now.timestamp())
    return {"versions": stays.versions, "rows": rows, "faults": len(found)}


async def _alert(pool: asyncpg.Pool, found: Sequence[Fault], now: datetime) -> None:
    """One alert for each place, so that an old one hides no new one; beyond `ALERTS` of them the number."""
    kinds: dict[str, list[str]] = {}
    for kind, where in found:
        kinds.setdefault(where, []).append(kind)
    async with pool.acquire() as connection:
        for where, there in islice(kinds.items(), ALERTS):
            alert = AlertKind.ENTRY_NOT_OURS if there == [NOT_VOUCHED] else AlertKind.REGISTER_CHANGED
            await raise_alert(connection, alert, where, {"kind": ", ".join(there)}, now)
        if len(kinds) > ALERTS:
            await raise_alert(connection, AlertKind.REGISTER_CHANGED, "register", {"faults": len(found)}, now)


async def watch_settings_once(pools: Mapping[str, asyncpg.Pool], now: datetime) -> dict[str, int]:
    """Alert the operator to what PostgreSQL is told to log since the start. Counts: `faults`."""
    found: dict[str, str] = {}
    for pool in pools.values():
        async with pool.acquire() as connection:
            found.update(await check_database_settings(connection))
    if found:
        async with pools["asm_retention"].acquire() as connection:
            await raise_alert(connection, AlertKind.VALUES_LOGGED, "postgresql", found, now)
    return {"faults": len(found)}
