"""Certificates of destruction (giấy chứng nhận tiêu huỷ): they name the day after which no copy can exist.

A month that was ended, or an erasure, is certified at once with that day: when backups of what was destroyed have
expired. On that day it is looked whether they have, and the certificate is final.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import asyncpg

from asm_daemon import audit
from asm_daemon.crypto import Keyring
from asm_daemon.erasing import is_readable, renew_for, told_of
from asm_daemon.keystores import KeyStore
from asm_daemon.ledger import instant_text
from asm_daemon.retention import Periods, by_daemon
from asm_daemon.store import retention as store
from asm_daemon.store.alerts import AlertKind, raise_alert
from asm_daemon.store.retention import Erasure, Round


async def finish_once(
    pool: asyncpg.Pool,
    keys: KeyStore,
    keyring: Keyring,
    periods: Periods,
    backups: Sequence[datetime] | None,
    now: datetime,
) -> dict[str, int]:
    """Make every certificate final whose day has come. As asm_retention.

    `backups` are when the key store's known backups were made; None if the daemon does not know them. One that still
    holds a destroyed key after that day alerts the operator, and nothing is final. Returns counts.
    """
    counts = {"final": 0, "waiting": 0, "keys_gone": 0}
    async with pool.acquire() as connection:
        rounds, erasures = await store.unfinal(connection), await store.open_erasures(connection)
    for each in rounds:
        if each.ended_at is not None and each.final_at is not None and each.final_at <= now:
            done = await _finish_round(pool, keyring, each, each.ended_at, backups, now)
            counts["final" if done else "waiting"] += 1
    for erasure in erasures:
        counts.update(
            Counter(counts) + Counter(await _finish_erasure(pool, keys, keyring, erasure, periods, backups, now))
        )
    return counts


async def _finish_round(
    pool: asyncpg.Pool,
    keyring: Keyring,
    found: Round,
    gone_at: datetime,
    backups: Sequence[datetime] | None,
    now: datetime,
) -> bool:
    if await _lingers(pool, f"epoch/{found.epoch}", gone_at, backups, now):
        return False
    async with pool.acquire() as connection, connection.transaction():
        current = await store.lock_round(connection, found.epoch, found.round)
        if current is None or current.state != "ended":
            return False
        await store.keep_round(connection, current._replace(state="final"))
        details = {"round": found.round, "destroyed_at": instant_text(gone_at), **_looked(backups)}
        await audit.append_vouched(
            connection, keyring, by_daemon("retention.final", f"epoch/{found.epoch}", details, now)
        )
    return True


async def _finish_erasure(
    pool: asyncpg.Pool,
    keys: KeyStore,
    keyring: Keyring,
    erasure: Erasure,
    periods: Periods,
    backups: Sequence[datetime] | None,
    now: datetime,
) -> dict[str, int]:
    if erasure.urgent and erasure.state == "erased":
        await renew_for(keys, erasure, now)
        if not await is_readable(keys, erasure):
            final_at = min(erasure.final_at, now + timedelta(days=periods.key_backup_days))
            after = erasure._replace(state="keys_gone", keys_gone_at=now, final_at=final_at)
            await _advance(pool, keyring, erasure, after, "erasure.keys_gone", told_of(after, None), now)
            return {"keys_gone": 1}
    if erasure.final_at > now:
        return {"waiting": 1} if erasure.state == "erased" and erasure.urgent else {}
    gone_at = erasure.keys_gone_at
    if gone_at and await _lingers(pool, f"stay/{erasure.stay_id}", gone_at, backups, now):
        return {"waiting": 1}
    details = {"erased_at": instant_text(erasure.erased_at), **(_looked(backups) if gone_at else {})}
    await _advance(pool, keyring, erasure, erasure._replace(state="final"), "erasure.final", details, now)
    return {"final": 1}


async def _advance(
    pool: asyncpg.Pool,
    keyring: Keyring,
    before: Erasure,
    after: Erasure,
    action: str,
    details: Mapping[str, Any],
    now: datetime,
) -> None:
    async with pool.acquire() as connection, connection.transaction():
        if await store.advance_erasure(connection, before, after):
            await audit.append_vouched(connection, keyring, by_daemon(action, f"stay/{before.stay_id}", details, now))


async def _lingers(
    pool: asyncpg.Pool, subject: str, gone_at: datetime, backups: Sequence[datetime] | None, now: datetime
) -> bool:
    """Whether a known backup of the key store is older than a destruction; the operator is alerted to it."""
    old = [made for made in backups or () if made <= gone_at]
    if not old:
        return False
    details: dict[str, int | str] = {"backups": len(old), "oldest": instant_text(min(old))}
    async with pool.acquire() as connection:
        await raise_alert(connection, AlertKind.KEY_BACKUP_TOO_OLD, subject, details, now)
    return True


def _looked(backups: Sequence[datetime] | None) -> dict[str, int | None]:
    """How many backups were looked at; None: the daemon does not know where they are."""
    return {"key_backups": None if backups is None else len(backups)}
