"""SQL of what goes with age alone, as asm_retention."""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from asm_daemon.store import Connection


async def empty_withheld(connection: Connection, before: datetime) -> int:
    """Empty what releases published before this instant withheld; of how many it was. Their ids are UUIDv7."""
    return _count(
        await connection.execute(
            "UPDATE releases SET withheld_sealed = '{}' WHERE id < $1 AND withheld_sealed <> '{}'",
            UUID(int=int(before.timestamp() * 1000) << 80),
        )
    )


async def delete_closed_alerts(connection: Connection, before: datetime) -> int:
    """Delete alerts that were closed before this instant and not found again since; how many."""
    return _count(await connection.execute("DELETE FROM operator_alerts WHERE closed_at < $1 AND last_at < $1", before))


async def delete_comparisons(connection: Connection, before: datetime) -> int:
    """Delete comparisons that ended before this instant, but the newest, from which the next is reckoned; how many."""
    return _count(
        await connection.execute(
            "DELETE FROM comparisons WHERE finished_at < $1 AND id < (SELECT max(id) FROM comparisons)", before
        )
    )


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
