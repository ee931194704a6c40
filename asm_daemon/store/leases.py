"""Statements over leases: who owns a lane of the sync, who leads the jobs, and which sync workers are alive.

A lease is held until `expires_at` by the database's clock, the only one all processes share. Its fence grows whenever
the lease changes hands, so that what a former holder still has in hand can be told from what the present one does.
Every statement that touches several leases locks them in the order of their names: two of them never deadlock.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple
from uuid import UUID

from asm_daemon.store import Connection

JOBS = "jobs"
_LANE_PREFIX = "lane/"


class Standing(NamedTuple):
    """A worker's place among the living: its rank by id, from 0, and how many there are."""

    rank: int
    workers: int


def lane_name(lane: int) -> str:
    """The name of a lane's lease, `lane/000` to `lane/255`."""
    return f"{_LANE_PREFIX}{lane:03}"


def _lane(name: str) -> int:
    return int(name.removeprefix(_LANE_PREFIX))


async def take_lanes(connection: Connection, owner: UUID, limit: int, lease_seconds: float) -> dict[int, int]:
    """Take at most `limit` lanes that were released or whose holder fell silent; lane → new fence."""
    rows = await connection.fetch(
        """
        WITH free AS (
            SELECT name FROM leases WHERE name LIKE 'lane/%' AND expires_at < now()
            ORDER BY name LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE leases SET owner = $1, fence = fence + 1, expires_at = now() + make_interval(secs => $3)
        FROM free WHERE leases.name = free.name
        RETURNING leases.name, fence
        """,
        owner,
        limit,
        lease_seconds,
    )
    return {_lane(row["name"]): row["fence"] for row in rows}


async def renew_lanes(connection: Connection, owner: UUID, lease_seconds: float) -> dict[int, int]:
    """Extend every lane that is still this owner's, and return them: lane → fence.

    A lease that ran out and that nobody took since is extended too: its fence proves that nothing happened meanwhile.
    """
    rows = await connection.fetch(
        """
        WITH mine AS (
            SELECT name FROM leases WHERE owner = $1 AND name LIKE 'lane/%' ORDER BY name FOR NO KEY UPDATE
        )
        UPDATE leases SET expires_at = now() + make_interval(secs => $2)
        FROM mine WHERE leases.name = mine.name
        RETURNING leases.name, fence
        """,
        owner,
        lease_seconds,
    )
    return {_lane(row["name"]): row["fence"] for row in rows}


async def release_lanes(connection: Connection, owner: UUID, lanes: Collection[int]) -> None:
    """Let lanes go, so that another worker can take them at once; lanes of others are left alone."""
    await connection.execute(
        """
        WITH mine AS (
            SELECT name FROM leases WHERE owner = $1 AND name = ANY($2::text[]) ORDER BY name FOR NO KEY UPDATE
        )
        UPDATE leases SET owner = NULL, expires_at = '-infinity' FROM mine WHERE leases.name = mine.name
        """,
        owner,
        [lane_name(lane) for lane in lanes],
    )


async def announce_worker(connection: Connection, worker: UUID, lease_seconds: float) -> Standing:
    """Say that a worker is alive for another lease, forget those who fell silent, and return its standing."""
    rows = await connection.fetch(
        """
        WITH me AS (
            INSERT INTO sync_workers (id, seen_until) VALUES ($1, now() + make_interval(secs => $2))
            ON CONFLICT (id) DO UPDATE SET seen_until = EXCLUDED.seen_until
        ), silent AS (
            SELECT id FROM sync_workers WHERE seen_until < now() AND id <> $1 FOR UPDATE SKIP LOCKED
        ), forgotten AS (
            DELETE FROM sync_workers USING silent WHERE sync_workers.id = silent.id
        )
        SELECT count(*) FILTER (WHERE id < $1) AS rank, count(*) + 1 AS workers
        FROM sync_workers WHERE seen_until >= now() AND id <> $1
        """,
        worker,
        lease_seconds,
    )
    return Standing(*rows[0])


async def dismiss_worker(connection: Connection, worker: UUID) -> None:
    """Take a worker that is leaving off the list, so that the others share its lanes out."""
    await connection.execute("DELETE FROM sync_workers WHERE id = $1", worker)


async def take_lease(connection: Connection, name: str, owner: UUID, lease_seconds: float) -> int | None:
    """Take, or extend, one lease that is not a lane's; its fence, or None while somebody else holds it."""
    fence: int | None = await connection.fetchval(
        """
        UPDATE leases
        SET fence = fence + CASE WHEN owner = $2 THEN 0 ELSE 1 END, owner = $2,
            expires_at = now() + make_interval(secs => $3)
        WHERE name = $1 AND (owner = $2 OR expires_at < now())
        RETURNING fence
        """,
        name,
        owner,
        lease_seconds,
    )
    return fence


async def release_lease(connection: Connection, name: str, owner: UUID) -> None:
    """Let one lease go; nothing happens when it is no longer the owner's."""
    await connection.execute(
        "UPDATE leases SET owner = NULL, expires_at = '-infinity' WHERE name = $1 AND owner = $2", name, owner
    )
