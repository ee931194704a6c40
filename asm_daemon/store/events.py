"""Statements over what owners are told of (sự kiện): written with what happened, then numbered, pulled and erased."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID, uuid5

from asm_daemon.store import Connection

_NAMESPACE = UUID("6f4f7f0e-3f0e-5c53-9d43-0a5f5bb1f0a1")


class EventKind(StrEnum):
    """What an owner wants to hear of at once. An event says which stay, never anything about the guest."""

    DECLARED_LATE = "stay.declared_late"
    DEADLINE_NEAR = "stay.deadline_near"
    """A guest in house is not declared yet, and the deadline is near."""
    REFUSED = "stay.refused"
    """The population database refused a stay; the operator is looking at it."""
    CHECK_DOCUMENT = "stay.check_document"
    """The document should be looked at again. It is never said why."""
    TEST = "webhook.test"
    """An owner tries an endpoint. It is sent there and nowhere else."""


class NewEvent(NamedTuple):
    """An event to be told; one of an id that was told before is dropped. `stay_id` is None of a guest who is not
    declared yet: then `expected_id` may say who."""

    event_id: UUID
    facility_id: int
    kind: EventKind
    stay_id: UUID | None
    at: datetime
    expected_id: UUID | None = None


class NumberedEvent(NamedTuple):
    """An event with its position, as it is told."""

    position: int
    event_id: UUID
    facility_code: str
    kind: EventKind
    stay_id: UUID | None
    expected_id: UUID | None
    at: datetime


class Head(NamedTuple):
    """How far events are numbered, and up to which position they are no longer kept."""

    position: int
    erased: int


def event_id_of(kind: EventKind, *parts: object) -> UUID:
    """An id made of what an event tells, so that the same, told again, is the same event."""
    return uuid5(_NAMESPACE, "|".join(map(str, (kind, *parts))))


async def append_events(connection: Connection, events: Sequence[NewEvent]) -> None:
    """Add events, in the transaction of what they tell of. One whose id is there already is left as it is."""
    await connection.execute(
        """
        INSERT INTO owner_events_pending (event_id, facility_id, kind, stay_id, at, expected_id)
        SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::uuid[], $5::timestamptz[], $6::uuid[])
        ON CONFLICT DO NOTHING
        """,
        *[list(column) for column in zip(*events, strict=True)] or [[] for _ in NewEvent._fields],
    )


# -- numbering ---------------------------------------------------------------------------------------------------------


async def lock_head(connection: Connection) -> int:
    """The last position given, locked until the transaction ends: only one process numbers at a time."""
    position: int = await connection.fetchval("SELECT position FROM owner_event_head FOR UPDATE")
    return position


async def number_pending(connection: Connection, position: int, limit: int, now: datetime) -> tuple[int, int, int]:
    """Give at most `limit` committed events the positions after `position`, and queue them for the endpoints of
    everybody who holds `status` at their facility; an event that was numbered before is dropped.

    Returns how many were taken, the last position given, and how many deliveries were queued. It needs the lock of
    `lock_head`, and a snapshot taken after it.
    """
    (row,) = await connection.fetch(
        """
        WITH taken AS (
            DELETE FROM owner_events_pending
            WHERE event_id IN (SELECT event_id FROM owner_events_pending ORDER BY at, event_id LIMIT $2)
            RETURNING event_id, facility_id, kind, stay_id, expected_id, at
        ), fresh AS (
            SELECT taken.*, row_number() OVER (ORDER BY at, event_id) AS place FROM taken
            WHERE NOT EXISTS (SELECT FROM owner_events AS told WHERE told.event_id = taken.event_id)
        ), numbered AS (
            INSERT INTO owner_events
                (position, event_id, facility_id, kind, stay_id, expected_id, at, numbered_at)
            SELECT $1 + place, event_id, facility_id, kind, stay_id, expected_id, at, $3 FROM fresh
            RETURNING position
        ), queued AS (
            INSERT INTO webhook_deliveries
                (endpoint_id, event_id, facility_id, kind, stay_id, expected_id, at, queued_at, due_at, attempts)
            SELECT e.id, f.event_id, f.facility_id, f.kind, f.stay_id, f.expected_id, f.at, $3, $3, 0
            FROM fresh AS f
            JOIN grants AS g ON g.facility_id = f.facility_id AND g.revoked_at IS NULL AND 'status' = ANY(g.scopes)
            JOIN principals AS p ON p.id = g.principal_id AND p.active
            JOIN webhook_endpoints AS e
                ON e.principal_id = g.principal_id AND e.disabled_at IS NULL AND f.kind = ANY(e.kinds)
            FOR SHARE OF e  -- whoever deletes or disables it comes before, or after and sees what is queued
            ON CONFLICT DO NOTHING
            RETURNING 1
        )
        SELECT (SELECT count(*) FROM taken) AS taken, $1 + (SELECT count(*) FROM numbered) AS position,
            (SELECT count(*) FROM queued) AS queued
        """,
        position,
        limit,
        now,
    )
    return row["taken"], row["position"], row["queued"]


async def update_head(connection: Connection, position: int) -> None:
    """Say how far events are numbered now, under the lock of `lock_head`."""
    await connection.execute("UPDATE owner_event_head SET position = $1", position)


# -- pulling -----------------------------------------------------------------------------------------------------------


async def read_head(connection: Connection) -> Head:
    """How far events are numbered and erased. Every event up to its position is visible to whoever reads after it."""
    (row,) = await connection.fetch("SELECT position, erased FROM owner_event_head")
    return Head(*row)


async def list_events(
    connection: Connection, facility_ids: Sequence[int], after: int, through: int, limit: int
) -> list[NumberedEvent]:
    """At most `limit` events of these facilities at positions above `after` up to `through`, in their order."""
    rows = await connection.fetch(
        """
        SELECT position, event_id, f.code AS facility_code, e.kind, stay_id, expected_id, at
        FROM (
            SELECT * FROM owner_events
            WHERE facility_id = ANY($1::int[]) AND position > $2 AND position <= $3
            ORDER BY position LIMIT $4
        ) AS e
        JOIN facilities AS f ON f.id = e.facility_id
        ORDER BY position
        """,
        facility_ids,
        after,
        through,
        limit,
    )
    return [NumberedEvent(**{**row, "kind": EventKind(row["kind"])}) for row in map(dict, rows)]


async def erase_events(connection: Connection, before: datetime, limit: int) -> int:
    """Erase at most `limit` of the events that were numbered before this instant, and remember how far; how many.

    It needs the lock of `lock_head`: positions and times grow together.
    """
    erased: int = await connection.fetchval(
        """
        WITH gone AS (
            DELETE FROM owner_events WHERE position <= (
                SELECT max(position) FROM (
                    SELECT position, numbered_at FROM owner_events ORDER BY position LIMIT $2) AS oldest
                WHERE numbered_at < $1)
            RETURNING position
        ), noted AS (
            UPDATE owner_event_head SET erased = greatest(erased, (SELECT coalesce(max(position), 0) FROM gone))
        )
        SELECT count(*) FROM gone
        """,
        before,
        limit,
    )
    return erased


# -- deadlines ---------------------------------------------------------------------------------------------------------


async def tell_deadlines(connection: Connection, before: datetime, limit: int) -> list[tuple[int, UUID, datetime]]:
    """Mark at most `limit` guests in house without a declaration that is due before this instant as told of, and
    return them: facility, id of the expectation, deadline. Whoever is being changed at this moment is left for later.
    """
    rows = await connection.fetch(
        """
        UPDATE expected_stays SET told_deadline_at = deadline_at
        WHERE (facility_id, ref_tag) IN (
            SELECT facility_id, ref_tag FROM expected_stays
            WHERE state = 'open' AND present AND told_deadline_at IS DISTINCT FROM deadline_at AND deadline_at < $1
            ORDER BY deadline_at LIMIT $2 FOR UPDATE SKIP LOCKED)
        RETURNING facility_id, id, deadline_at
        """,
        before,
        limit,
    )
    return [tuple(row) for row in rows]
