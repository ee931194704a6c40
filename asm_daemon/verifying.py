"""What the daemon verifies by itself: that stays are what was signed and rows in clear what the audit tells, each night
and by samples; and each hour that PostgreSQL still keeps values out of its log.

Whoever changes the database without our keys is found by this, or by the full verification that people run
(`asm-daemon keys verify --all`, `asm-daemon audit verify`), which is too long for a process that has guests to declare.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta

import asyncpg
from prometheus_client import Gauge

from asm_daemon.crypto import Keyring
from asm_daemon.database_settings import check_database_settings
from asm_daemon.rules import HANOI
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.told import verify_told

SAMPLE = 100
"""Stays of each month that are looked at in a night, drawn at random."""
ALERTS = 50
"""As many faults of a night are alerted one by one, the rest by their number."""
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


async def verify_once(
    pools: Mapping[str, asyncpg.Pool], keyring: Keyring, destroyed: Iterable[int], now: datetime
) -> dict[str, int]:
    """Verify a sample of each month's stays, and every row of which the audit tells; alert the operator to faults.

    `pools` by login; `destroyed` are the months whose keys are gone. Counts: `versions`, `rows`, `faults`.
    """
    pool, audit_pool = pools["asm_retention"], pools["asm_audit"]
    stays = await verify_stays(pool, audit_pool, keyring, destroyed, sample=SAMPLE)
    rows, faults = await verify_told(pool, audit_pool, pools["asm_feeds"], pools["asm_auth"], keyring=keyring)
    found = [*stays.faults, *faults]
    async with pool.acquire() as connection:
        for kind, where in found[:ALERTS]:  # each its own, so that an old one hides no new one
            await raise_alert(connection, AlertKind.REGISTER_CHANGED, where, {"kind": kind}, now)
        if len(found) > ALERTS:
            await raise_alert(connection, AlertKind.REGISTER_CHANGED, "register", {"faults": len(found)}, now)
    VERIFIED_AT.set(now.timestamp())
    return {"versions": stays.versions, "rows": rows, "faults": len(found)}


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
