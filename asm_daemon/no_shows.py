"""Erasing what is known of guests who were expected and never came (khách không đến)."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta

import asyncpg

from asm_daemon import audit, rules
from asm_daemon.store import expected

ROWS_PER_COMMIT = 1000


async def erase_expected_once(pool: asyncpg.Pool, kept_days: int, now: datetime) -> dict[str, int]:
    """Erase expectations that ended `kept_days` days ago, and those whose day of arrival passed that long ago.

    Who is in house is never erased, however long the identity takes. `pool` connects as asm_intake. Returns the
    counts: ended, no_shows. The facilities' turns are not needed: what is changed meanwhile no longer fits and stays.
    """
    counts = Counter(ended=0, no_shows=0)
    first_kept_day, _ = rules.day_bounds(rules.local_day(now) - timedelta(days=kept_days))
    while True:
        async with pool.acquire() as connection, connection.transaction():
            ended = await expected.erase_ended(connection, now - timedelta(days=kept_days), ROWS_PER_COMMIT)
            no_shows = await expected.erase_no_shows(connection, first_kept_day, ROWS_PER_COMMIT)
            if not ended + no_shows:
                return dict(counts)
            counts.update(ended=ended, no_shows=no_shows)
            await audit.append(
                connection,
                audit.AuditEntry(
                    at=now,
                    actor_kind="daemon",
                    actor="no_shows",
                    action="expected.erase",
                    object="expected_stays",
                    details={"ended": ended, "no_shows": no_shows},
                ),
            )
