"""What goes with age alone: what extracts withheld, alerts that were dealt with, comparisons that are over.

None of it is of a stay, so no month ends it in time and no certificate speaks of it.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg

from asm_daemon import audit
from asm_daemon.store import expiry as store


async def expire_once(
    pool: asyncpg.Pool, now: datetime, *, withheld_days: int, operator_record_days: int
) -> dict[str, int]:
    """Empty what extracts of that age withheld, and delete closed alerts and finished comparisons; as asm_retention.

    What was published stays. That parts were emptied is in the audit: from then on nobody can check the releases of
    those days against later ones. Returns counts.
    """
    before = now - timedelta(days=operator_record_days)
    async with pool.acquire() as connection, connection.transaction():
        withheld = await store.empty_withheld(connection, now - timedelta(days=withheld_days))
        if withheld:
            entry = audit.AuditEntry(
                at=now,
                actor_kind="daemon",
                actor="expiry",
                action="extract.forget_withheld",
                object="releases",
                details={"releases": withheld, "days": withheld_days},
            )
            await audit.append(connection, entry)
        return {
            "withheld": withheld,
            "alerts": await store.delete_closed_alerts(connection, before),
            "comparisons": await store.delete_comparisons(connection, before),
        }
