"""A backlog for what operators see of it: stays set aside, or put off, as a worker would have done."""

from __future__ import annotations

from uuid import UUID

import asyncpg


async def refuse(connection: asyncpg.Connection, stay_id: UUID, code: str = "unknown_facility", hours: int = 0) -> None:
    """The stay was refused so many hours ago. `connection` may do everything."""
    await connection.execute(
        """
        WITH queued AS (DELETE FROM sync_queue WHERE stay_id = $1 RETURNING *)
        INSERT INTO sync_refused (facility_id, stay_id, version, lane, code, refused_at)
        SELECT facility_id, stay_id, version, lane, $2, now() - make_interval(hours => $3) FROM queued
        """,
        stay_id,
        code,
        hours,
    )


async def put_off(connection: asyncpg.Connection, stay_id: UUID, reason: str = "unreachable", hours: int = 0) -> None:
    """The stay has waited for so many hours, and is to wait for an hour more."""
    await connection.execute(
        """
        WITH queued AS (DELETE FROM sync_queue WHERE stay_id = $1 RETURNING *)
        INSERT INTO sync_wait (facility_id, stay_id, version, lane, attempts, due_at, reason, code, waiting_since)
        SELECT facility_id, stay_id, version, lane, 3, now() + interval '1 hour', $2, 'no_connection',
            now() - make_interval(hours => $3)
        FROM queued
        """,
        stay_id,
        reason,
        hours,
    )
