"""Statements for operators: what is not carried yet, who carries it, and setting it in motion. Nothing about a guest.

All counts are over the small tables of work, never over stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.store import Connection
from asm_daemon.store.leases import lane_name

_OLDEST_QUEUED_SAMPLE = 500
COUNTED_LIMIT = 100_000
"""Up to this it is counted what is queued, what waits, and which events are pending: more is "at least so many"."""
VERSIONS_LIMIT = 100


class Choice(NamedTuple):
    """Which stays: those that fit everything that is not None. `before` is when they were refused or began to wait."""

    stay_ids: Sequence[UUID] | None = None
    code: str | None = None
    facility: str | None = None
    before: datetime | None = None


class Refused(NamedTuple):
    """A stay that waits for a human, and whether one has settled it."""

    stay_id: UUID
    facility_code: str
    version: int
    code: str
    refused_at: datetime
    settled_at: datetime | None
    settled_by: str | None
    settled_reason: str | None

    def __repr__(self) -> str:
        return "<Refused>"


class Waiting(NamedTuple):
    """A stay that is tried again when it is due."""

    stay_id: UUID
    facility_code: str
    version: int
    reason: str
    code: str
    attempts: int
    waiting_since: datetime
    due_at: datetime


class Part(NamedTuple):
    """How many stays are in one place, for one reason and code."""

    place: str
    reason: str | None
    code: str | None
    stays: int
    oldest_at: datetime | None


class Holder(NamedTuple):
    """A worker, and its lanes; `seen_until` is None of one that is no longer listed and whose leases still run."""

    worker: UUID
    seen_until: datetime | None
    lanes: list[int]


class Identity(NamedTuple):
    """Whose a stay is."""

    facility_id: int
    facility_code: str
    sandbox: bool
    version: int


class Version(NamedTuple):
    """A version without its contents."""

    version: int
    status: str
    event: str
    received_at: datetime
    confirmed_at: datetime | None
    queued: bool


class Figures(NamedTuple):
    """What is measured of the work beside its parts; instants are None where there is nothing.

    `compared_at` is when a comparison last finished, or when the first began if none ever did.
    """

    oldest_queued_at: datetime | None
    workers: int
    lanes_held: int
    events_pending: int
    oldest_event_at: datetime | None
    compared_at: datetime | None


# -- looking -----------------------------------------------------------------------------------------------------------


async def list_refused(
    connection: Connection, choice: Choice, *, settled: bool | None, after: UUID, limit: int
) -> list[Refused]:
    """At most `limit` refused stays after `after`, by stay id; `settled` None: whether settled or not."""
    rows = await connection.fetch(
        """
        SELECT stay_id, facilities.code AS facility_code, version, sync_refused.code, refused_at,
            settled_at, settled_by, settled_reason
        FROM sync_refused JOIN facilities ON facilities.id = facility_id
        WHERE stay_id > $6 AND ($1::uuid[] IS NULL OR stay_id = ANY($1))
            AND ($2::text IS NULL OR sync_refused.code = $2) AND ($3::text IS NULL OR facilities.code = $3)
            AND ($4::timestamptz IS NULL OR refused_at < $4)
            AND ($5::boolean IS NULL OR (settled_at IS NOT NULL) = $5)
        ORDER BY stay_id LIMIT $7
        """,
        *choice,
        settled,
        after,
        limit,
    )
    return [Refused(*row) for row in rows]


async def list_waiting(
    connection: Connection, choice: Choice, *, reason: str | None, after: UUID, limit: int
) -> list[Waiting]:
    """At most `limit` waiting stays after `after`, by stay id."""
    rows = await connection.fetch(
        """
        SELECT stay_id, facilities.code AS facility_code, version, reason, sync_wait.code, attempts, waiting_since,
            due_at
        FROM sync_wait JOIN facilities ON facilities.id = facility_id
        WHERE stay_id > $6 AND ($1::uuid[] IS NULL OR stay_id = ANY($1))
            AND ($2::text IS NULL OR sync_wait.code = $2) AND ($3::text IS NULL OR facilities.code = $3)
            AND ($4::timestamptz IS NULL OR waiting_since < $4) AND ($5::text IS NULL OR reason = $5)
        ORDER BY stay_id LIMIT $7
        """,
        *choice,
        reason,
        after,
        limit,
    )
    return [Waiting(*row) for row in rows]


async def count_backlog(connection: Connection) -> list[Part]:
    """Every part of the backlog that is not empty, the queue and what waits counted up to `COUNTED_LIMIT`: beyond it,
    `oldest_at` is of those counted. Of the queue versions are counted, not stays: it is faster. What is refused is
    counted whole, for each of it is for a human to see."""
    rows = await connection.fetch(
        """
        SELECT 'queued' AS place, NULL AS reason, NULL AS code, count(*) AS stays, NULL AS oldest_at
        FROM (SELECT FROM sync_queue LIMIT $1) AS queue HAVING count(*) > 0
        UNION ALL
        SELECT 'waiting', reason, code, count(*), min(waiting_since)
        FROM (SELECT reason, code, waiting_since FROM sync_wait LIMIT $1) AS wait GROUP BY reason, code
        UNION ALL
        SELECT CASE WHEN settled_at IS NULL THEN 'refused' ELSE 'settled' END, NULL, code, count(*), min(refused_at)
        FROM sync_refused GROUP BY settled_at IS NULL, code
        ORDER BY place, reason, code
        """,
        COUNTED_LIMIT,
    )
    return [Part(*row) for row in rows]


async def list_holders(connection: Connection) -> list[Holder]:
    """Every worker that is alive or holds a lane, and its lanes whose lease runs."""
    rows = await connection.fetch(
        """
        SELECT coalesce(id, owner) AS worker, seen_until, coalesce(lanes, '{}') AS lanes
        FROM (SELECT id, seen_until FROM sync_workers WHERE seen_until >= now()) AS alive
        FULL JOIN (
            SELECT owner, array_agg(right(name, 3)::int ORDER BY name) AS lanes FROM leases
            WHERE name LIKE 'lane/%' AND expires_at >= now() GROUP BY owner
        ) AS held ON owner = id
        ORDER BY 1
        """
    )
    return [Holder(*row) for row in rows]


async def find_stay(connection: Connection, stay_id: UUID) -> Identity | None:
    """Whose the stay is, or None."""
    row = await connection.fetchrow(
        """
        SELECT facility_id, facilities.code, sandbox, version
        FROM stays JOIN facilities ON facilities.id = facility_id WHERE stays.id = $1
        """,
        stay_id,
    )
    return Identity(*row) if row is not None else None


async def list_versions(connection: Connection, facility_id: int, stay_id: UUID) -> list[Version]:
    """The newest versions of a stay, the newest first, at most 100."""
    rows = await connection.fetch(
        """
        SELECT version, status, event, received_at, confirmed_at, queue.version IS NOT NULL AS queued
        FROM (
            SELECT version, status, event, received_at FROM stays WHERE id = $2 AND facility_id = $1
            UNION ALL
            SELECT version, status, event, received_at FROM stay_versions WHERE facility_id = $1 AND stay_id = $2
        ) AS versions
        LEFT JOIN (
            SELECT version, confirmed_at FROM sync_log WHERE facility_id = $1 AND stay_id = $2 AND lost_at IS NULL
        ) AS log USING (version)
        LEFT JOIN (SELECT version FROM sync_queue WHERE facility_id = $1 AND stay_id = $2) AS queue USING (version)
        ORDER BY version DESC LIMIT $3
        """,
        facility_id,
        stay_id,
        VERSIONS_LIMIT,
    )
    return [Version(*row) for row in rows]


async def confirmed_digests(connection: Connection, facility_id: int, stay_id: UUID) -> dict[int, str]:
    """The digest, in hexadecimal, that was confirmed of each version; of the newest at most 100."""
    rows = await connection.fetch(
        """
        SELECT version, encode(digest, 'hex') FROM sync_log
        WHERE facility_id = $1 AND stay_id = $2 AND digest IS NOT NULL ORDER BY version DESC LIMIT $3
        """,
        facility_id,
        stay_id,
        VERSIONS_LIMIT,
    )
    return dict(tuple(row) for row in rows)


async def lane_holder(connection: Connection, lane: int) -> UUID | None:
    """The worker whose lease on the lane runs."""
    holder: UUID | None = await connection.fetchval(
        "SELECT owner FROM leases WHERE name = $1 AND expires_at >= now()", lane_name(lane)
    )
    return holder


async def measure(connection: Connection) -> Figures:
    """What metrics tell of the work. `oldest_queued_at` is looked for among the 500 queued stays of the lowest ids."""
    rows = await connection.fetch(
        """
        SELECT
            (SELECT min(received_at) FROM (SELECT facility_id, stay_id FROM sync_queue ORDER BY stay_id LIMIT $1) AS q
             JOIN stays ON stays.id = q.stay_id AND stays.facility_id = q.facility_id) AS oldest_queued_at,
            (SELECT count(*) FROM sync_workers WHERE seen_until >= now()) AS workers,
            (SELECT count(*) FROM leases WHERE name LIKE 'lane/%' AND expires_at >= now()) AS lanes_held,
            (SELECT count(*) FROM (SELECT FROM owner_events_pending LIMIT $2) AS pending) AS events_pending,
            (SELECT min(at) FROM owner_events_pending) AS oldest_event_at,
            (SELECT coalesce(max(finished_at), min(started_at)) FROM comparisons) AS compared_at
        """,
        _OLDEST_QUEUED_SAMPLE,
        COUNTED_LIMIT,
    )
    return Figures(*rows[0])


async def count_open_alerts(connection: Connection) -> dict[str, int]:
    """Open alerts by kind; kinds of which none is open are missing."""
    rows = await connection.fetch("SELECT kind, count(*) FROM operator_alerts WHERE closed_at IS NULL GROUP BY kind")
    return {row[0]: row[1] for row in rows}


async def measure_audit(connection: Connection) -> tuple[int, datetime | None, datetime | None]:
    """How many audit entries wait to be sealed, since when, and when the last checkpoint was signed. As asm_audit."""
    rows = await connection.fetch(
        """
        SELECT (SELECT count(*) FROM audit_pending), (SELECT min(at) FROM audit_pending),
            (SELECT signed_at FROM audit_checkpoints ORDER BY size DESC LIMIT 1)
        """
    )
    return rows[0][0], rows[0][1], rows[0][2]


# -- acting ------------------------------------------------------------------------------------------------------------
# Rows that somebody changes at the same moment are skipped: they are being confirmed, replaced or moved just then.


async def replay(connection: Connection, choice: Choice, limit: int) -> list[UUID]:
    """Queue refused stays again, and return which, at most `limit`."""
    rows = await connection.fetch(
        """
        WITH chosen AS (
            SELECT facility_id, stay_id FROM sync_refused JOIN facilities ON facilities.id = facility_id
            WHERE ($1::uuid[] IS NULL OR stay_id = ANY($1)) AND ($2::text IS NULL OR sync_refused.code = $2)
                AND ($3::text IS NULL OR facilities.code = $3) AND ($4::timestamptz IS NULL OR refused_at < $4)
            ORDER BY stay_id LIMIT $5 FOR UPDATE OF sync_refused SKIP LOCKED
        ), freed AS (
            DELETE FROM sync_refused USING chosen
            WHERE sync_refused.facility_id = chosen.facility_id AND sync_refused.stay_id = chosen.stay_id
            RETURNING sync_refused.facility_id, sync_refused.stay_id, version, lane
        ), queued AS (
            INSERT INTO sync_queue (facility_id, stay_id, version, lane)
            SELECT facility_id, stay_id, version, lane FROM freed
            ON CONFLICT DO NOTHING
        )
        SELECT stay_id FROM freed ORDER BY stay_id
        """,
        *choice,
        limit,
    )
    return [row["stay_id"] for row in rows]


async def release(connection: Connection, choice: Choice, limit: int, now: datetime) -> list[UUID]:
    """Let waiting stays be due at once, and return which, at most `limit`. The ambiguous stay so."""
    rows = await connection.fetch(
        """
        WITH chosen AS (
            SELECT facility_id, stay_id FROM sync_wait JOIN facilities ON facilities.id = facility_id
            WHERE due_at > $6 AND ($1::uuid[] IS NULL OR stay_id = ANY($1))
                AND ($2::text IS NULL OR sync_wait.code = $2) AND ($3::text IS NULL OR facilities.code = $3)
                AND ($4::timestamptz IS NULL OR waiting_since < $4)
            ORDER BY stay_id LIMIT $5 FOR UPDATE OF sync_wait SKIP LOCKED
        ), due AS (
            UPDATE sync_wait SET due_at = $6 FROM chosen
            WHERE sync_wait.facility_id = chosen.facility_id AND sync_wait.stay_id = chosen.stay_id
            RETURNING sync_wait.stay_id
        )
        SELECT stay_id FROM due ORDER BY stay_id
        """,
        *choice,
        limit,
        now,
    )
    return [row["stay_id"] for row in rows]


async def settle(connection: Connection, choice: Choice, limit: int, reason: str, by: str, now: datetime) -> list[UUID]:
    """Mark refused stays that are not settled yet, and return which, at most `limit`. They stay refused."""
    rows = await connection.fetch(
        """
        WITH chosen AS (
            SELECT facility_id, stay_id FROM sync_refused JOIN facilities ON facilities.id = facility_id
            WHERE settled_at IS NULL AND ($1::uuid[] IS NULL OR stay_id = ANY($1))
                AND ($2::text IS NULL OR sync_refused.code = $2) AND ($3::text IS NULL OR facilities.code = $3)
                AND ($4::timestamptz IS NULL OR refused_at < $4)
            ORDER BY stay_id LIMIT $5 FOR UPDATE OF sync_refused SKIP LOCKED
        ), marked AS (
            UPDATE sync_refused SET settled_at = $8, settled_by = $7, settled_reason = $6 FROM chosen
            WHERE sync_refused.facility_id = chosen.facility_id AND sync_refused.stay_id = chosen.stay_id
            RETURNING sync_refused.stay_id
        )
        SELECT stay_id FROM marked ORDER BY stay_id
        """,
        *choice,
        limit,
        reason,
        by,
        now,
    )
    return [row["stay_id"] for row in rows]
