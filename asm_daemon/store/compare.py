"""Statements over the comparison with the population database: ranges and their digests, passes, what is queued again.

Here too only `stays` says which stays there are, and `sync_log` what the other side confirmed; nothing is opened.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.store import Connection
from schemas.population import range_digest


class OurRange(NamedTuple):
    """Our side of a range, `start` ≤ id < `end`: how many stays were confirmed, and the digest over their digests.

    `stays` counts the confirmed ones in their newest confirmed version. One that was confirmed without a digest counts
    and is not digested, so that its range never agrees.
    """

    start: UUID
    end: UUID
    stays: int
    digest: str


class ConfirmedStay(NamedTuple):
    """A stay whose current version the population database confirmed; `digest` is None where none was kept."""

    facility_id: int
    stay_id: UUID
    version: int
    digest: str | None


class Requeued(NamedTuple):
    """A version that is to be carried again."""

    facility_id: int
    stay_id: UUID
    version: int
    lane: int


class Pass(NamedTuple):
    """A comparison of everything (một lượt đối soát): all before `next_id` has been compared."""

    id: int
    started_at: datetime
    next_id: UUID
    finished_at: datetime | None


class Found(NamedTuple):
    """What a part of a pass found, in the order of the columns of `comparisons`."""

    ranges: int = 0
    stays: int = 0
    missing: int = 0
    stale: int = 0
    differing: int = 0
    unrecorded: int = 0
    extra: int = 0
    repaired: int = 0


# -- what was confirmed ------------------------------------------------------------------------------------------------


async def oldest_month(connection: Connection) -> int | None:
    """The oldest epoch (yyyymm) whose stays are still here, by the names of the partitions; None without any."""
    name: str | None = await connection.fetchval(
        """
        SELECT min(relname::text) FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'stays'::regclass AND relname ~ '^stays_[0-9]{6}$'
        """
    )
    return None if name is None else int(name.removeprefix("stays_"))


async def digest_ranges(
    connection: Connection, start: UUID, end: UUID, stays_per_range: int, limit: int
) -> list[OurRange]:
    """Cut the stays with `start` ≤ id < `end` into at most `limit` ranges of `stays_per_range`, without gaps.

    The first begins at `start`; the last ends at `end`, unless there were more than `limit`. Sandboxes do not count.
    """
    rows = await connection.fetch(
        """
        WITH page AS (
            SELECT stays.id, facility_id, row_number() OVER (ORDER BY stays.id) - 1 AS place
            FROM stays JOIN facilities ON facilities.id = facility_id AND NOT sandbox
            WHERE stays.id >= $1 AND stays.id < $2
            ORDER BY stays.id LIMIT $3::bigint * $4 + 1
        )
        SELECT (array_agg(id) FILTER (WHERE place % $3 = 0))[1] AS first, count(confirmed.version) AS stays,
               encode(sha256(coalesce(string_agg(confirmed.digest, ''::bytea ORDER BY id), '')), 'hex') AS digest
        FROM page LEFT JOIN LATERAL (
            SELECT version, digest FROM sync_log
            WHERE sync_log.facility_id = page.facility_id AND sync_log.stay_id = page.id AND lost_at IS NULL
            ORDER BY version DESC LIMIT 1
        ) AS confirmed ON true
        GROUP BY place / $3 ORDER BY place / $3
        """,
        start,
        end,
        stays_per_range,
        limit,
    )
    if not rows:
        return [OurRange(start, end, 0, range_digest(()))]
    starts = [start, *(row["first"] for row in rows[1:]), end]
    ranges = [
        OurRange(first, following, row["stays"], row["digest"])
        for first, following, row in zip(starts, starts[1:], rows, strict=False)
    ]
    return ranges[:limit]


async def confirmed_stays(connection: Connection, start: UUID, end: UUID) -> list[ConfirmedStay]:
    """The stays with `start` ≤ id < `end` that rest: their current version is confirmed. By id, without sandboxes."""
    rows = await connection.fetch(
        """
        SELECT stays.facility_id, stays.id, stays.version, encode(digest, 'hex')
        FROM stays JOIN facilities ON facilities.id = stays.facility_id AND NOT sandbox
        JOIN sync_log ON sync_log.facility_id = stays.facility_id AND stay_id = stays.id
            AND sync_log.version = stays.version AND lost_at IS NULL
        WHERE stays.id >= $1 AND stays.id < $2
        ORDER BY stays.id
        """,
        start,
        end,
    )
    return [ConfirmedStay(*row) for row in rows]


async def known_versions(connection: Connection, stay_ids: Collection[UUID]) -> dict[UUID, int]:
    """The newest version that there is of each of these stays, wherever it stands; a sandbox's are not known."""
    rows = await connection.fetch(
        """
        SELECT stays.id, version FROM stays JOIN facilities ON facilities.id = facility_id AND NOT sandbox
        WHERE stays.id = ANY($1::uuid[])
        """,
        list(stay_ids),
    )
    return {row["id"]: row["version"] for row in rows}


async def forgotten(connection: Connection, stay_ids: Collection[UUID]) -> set[UUID]:
    """Which of these stays were erased here, or are of a month that was ended: they may still be held there."""
    rows = await connection.fetch(
        """
        SELECT id FROM unnest($1::uuid[]) AS asked (id)
        WHERE EXISTS (SELECT FROM erasures WHERE stay_id = id)
            OR EXISTS (SELECT FROM retention_epochs WHERE state <> 'begun' AND epoch = to_char(
                to_timestamp(('x' || left(replace(id::text, '-', ''), 12))::bit(48)::bigint / 1000)
                    AT TIME ZONE 'UTC', 'YYYYMM')::int)
        """,
        list(stay_ids),
    )
    return {row["id"] for row in rows}


async def requeue(connection: Connection, stays: Sequence[Requeued], now: datetime) -> int:
    """Let the confirmations of these versions not count any more, queue them again, and return how many.

    Only of versions that are still confirmed and current: whatever has happened to the others is being carried already.
    """
    status = await connection.execute(
        """
        WITH found AS (
            SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[], $4::smallint[])
                AS t (facility_id, stay_id, version, lane)
        ), lost AS (
            UPDATE sync_log SET lost_at = $5 FROM found JOIN stays
                ON stays.id = found.stay_id AND stays.facility_id = found.facility_id AND stays.version = found.version
            WHERE sync_log.facility_id = found.facility_id AND sync_log.stay_id = found.stay_id
                AND sync_log.version = found.version AND lost_at IS NULL
            RETURNING sync_log.facility_id, sync_log.stay_id, sync_log.version, found.lane
        )
        INSERT INTO sync_queue (facility_id, stay_id, version, lane)
        SELECT facility_id, stay_id, version, lane FROM lost ORDER BY facility_id, stay_id
        ON CONFLICT DO NOTHING
        """,
        *([list(column) for column in zip(*sorted(stays), strict=True)] or [[], [], [], []]),
        now,
    )
    return int(status.removeprefix("INSERT 0 "))


async def keep_digests(connection: Connection, stays: Sequence[ConfirmedStay]) -> None:
    """Keep these digests beside confirmations that count and have none."""
    await connection.execute(
        """
        UPDATE sync_log SET digest = decode(told.digest, 'hex')
        FROM unnest($1::int[], $2::uuid[], $3::int[], $4::text[]) AS told (facility_id, stay_id, version, digest)
        WHERE sync_log.facility_id = told.facility_id AND sync_log.stay_id = told.stay_id
            AND sync_log.version = told.version AND sync_log.digest IS NULL AND lost_at IS NULL
        """,
        *([list(column) for column in zip(*stays, strict=True)] or [[], [], [], []]),
    )


# -- passes ------------------------------------------------------------------------------------------------------------


async def newest_pass(connection: Connection) -> Pass | None:
    """The pass that is under way, else the one that began last."""
    row = await connection.fetchrow(
        """
        SELECT id, started_at, next_id, finished_at FROM comparisons
        ORDER BY (finished_at IS NULL) DESC, id DESC LIMIT 1
        """
    )
    return None if row is None else Pass(*row)


async def begin_pass(connection: Connection, start: UUID, now: datetime) -> None:
    """Begin a pass at `start`, unless one is under way."""
    await connection.execute(
        "INSERT INTO comparisons (started_at, next_id) VALUES ($1, $2) ON CONFLICT DO NOTHING", now, start
    )


async def advance_pass(
    connection: Connection, current: Pass, next_id: UUID, found: Found, finished_at: datetime | None
) -> bool:
    """Add what was found up to `next_id`; false, and nothing changes, when another process has come past `current`."""
    status = await connection.execute(
        """
        UPDATE comparisons SET next_id = $3, finished_at = $4, ranges = ranges + $5, stays = stays + $6,
            missing = missing + $7, stale = stale + $8, differing = differing + $9, unrecorded = unrecorded + $10,
            extra = extra + $11, repaired = repaired + $12
        WHERE id = $1 AND next_id = $2 AND finished_at IS NULL
        """,
        current.id,
        current.next_id,
        next_id,
        finished_at,
        *found,
    )
    return bool(status == "UPDATE 1")
