"""Statements over the work of carrying stays: queued, waiting, refused, confirmed (docs/adr/0006).

Where a stay stands is decided by its current version alone; rows of older versions are harmless remains, which the next
acknowledgement or move of the stay clears away.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import StayRow
from asm_daemon.store import Connection
from asm_daemon.store.leases import lane_name
from schemas.population import Verification

_STAY_COLUMNS = ", ".join(f"stays.{field.name}" for field in fields(StayRow))
_STAY_WIDTH = len(fields(StayRow))


class WaitReason(StrEnum):
    """Why a stay waits. Of an ambiguous one it is unknown whether it took effect: ask before sending it again."""

    UNREACHABLE = "unreachable"
    AMBIGUOUS = "ambiguous"
    NO_KEY = "no_key"


class Work(NamedTuple):
    """A version to be carried. `attempts` and `reason` are of its waiting, 0 and None when it comes from the queue."""

    facility_id: int
    stay_id: UUID
    version: int
    lane: int
    attempts: int = 0
    reason: WaitReason | None = None


class CarriedStay(NamedTuple):
    """A stay's current version, with what is told about its facility."""

    row: StayRow
    facility_code: str
    facility_kind: str
    commune: str


class Confirmation(NamedTuple):
    """The population database holds this version, with the content of `digest` (32 bytes; None: not recorded).

    `question` is the tag of what it was asked about the guest, None if nothing; `withdrawn`: the stay is cancelled.
    `check_document` is what the owner is told of the answer, None for nothing (`asm_daemon.verification`).
    """

    facility_id: int
    stay_id: UUID
    version: int
    verification: Verification
    digest: bytes | None = None
    question: bytes | None = None
    withdrawn: bool = False
    check_document: bool | None = None


class Postponement(NamedTuple):
    """A version that could not be carried now. `fence` is the lane's from when the work was read."""

    facility_id: int
    stay_id: UUID
    version: int
    lane: int
    fence: int
    attempts: int
    due_at: datetime
    reason: WaitReason
    code: str


class Refusal(NamedTuple):
    """A version that a human has to look at. `fence` is the lane's from when the work was read."""

    facility_id: int
    stay_id: UUID
    version: int
    lane: int
    fence: int
    code: str


class RefusedVersion(NamedTuple):
    """A version that waits for a human now."""

    facility_id: int
    stay_id: UUID
    version: int
    code: str


class Conservation(NamedTuple):
    """Where the stays are, in one snapshot; those of sandbox facilities are not counted.

    `misplaced` stays are in none of the four places, or in more than one: it is 0, or work was lost. `remains` are rows
    of versions that are no longer current, or of stays that are gone: 0 once everything has come to rest.
    """

    stays: int
    confirmed: int
    queued: int
    waiting: int
    refused: int
    misplaced: int
    remains: int


def _columns(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows turned into the arrays that `unnest` takes."""
    return [list(column) for column in zip(*rows, strict=True)] or [[] for _ in range(width)]


# -- reading -----------------------------------------------------------------------------------------------------------


async def read_queue(connection: Connection, lanes: Collection[int], after: UUID, limit: int) -> list[Work]:
    """At most `limit` queued versions of stays after `after`, by stay id."""
    rows = await connection.fetch(
        """
        SELECT facility_id, stay_id, version, lane FROM sync_queue
        WHERE stay_id > $2 AND lane = ANY($1::smallint[])
        ORDER BY stay_id LIMIT $3
        """,
        list(lanes),
        after,
        limit,
    )
    return [Work(*row) for row in rows]


async def read_due(
    connection: Connection, lanes: Collection[int], now: datetime, latest: datetime, limit: int
) -> list[Work]:
    """At most `limit` waiting stays whose time has come, longest due first. They stay where they are.

    So has that of a stay which is due after `latest`, later than any wait lasts: the clock that said so was wrong.
    """
    rows = await connection.fetch(
        """
        (SELECT facility_id, stay_id, version, lane, attempts, reason FROM sync_wait
         WHERE due_at <= $2 AND lane = ANY($1::smallint[])
         ORDER BY due_at LIMIT $4)
        UNION ALL
        (SELECT facility_id, stay_id, version, lane, attempts, reason FROM sync_wait
         WHERE due_at > $3 AND lane = ANY($1::smallint[])
         ORDER BY due_at LIMIT $4)
        LIMIT $4
        """,
        list(lanes),
        now,
        latest,
        limit,
    )
    return [Work(*row)._replace(reason=WaitReason(row["reason"])) for row in rows]


async def read_current(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> dict[UUID, CarriedStay]:
    """The current versions of these stays (facility, stay); what does not exist is missing from the answer."""
    rows = await connection.fetch(
        f"""
        SELECT {_STAY_COLUMNS}, facilities.code, facilities.kind, facilities.commune
        FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, id)
        JOIN stays ON stays.id = wanted.id AND stays.facility_id = wanted.facility_id
        JOIN facilities ON facilities.id = wanted.facility_id
        """,  # noqa: S608 - column names of our own
        *_columns(stays, 2),
    )
    return {row["id"]: CarriedStay(StayRow(*row[:_STAY_WIDTH]), *row[_STAY_WIDTH:]) for row in rows}


# -- what became of it -------------------------------------------------------------------------------------------------


async def acknowledge(connection: Connection, confirmed: Sequence[Confirmation], now: datetime) -> set[UUID]:
    """Record what the population database holds, and take it and everything older off the queue.

    It asks for no lease, because it records what is true whoever says it. What was confirmed before is updated, not
    left alone: that locks its row against `store.compare.requeue`. Returns the stays whose version was not on record
    before. Call `clear_waiting` next in the transaction.
    """
    rows = await connection.fetch(
        """
        WITH confirmed AS (
            SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[], $4::text[], $5::bytea[], $6::bytea[], $7::boolean[])
                AS t (facility_id, stay_id, version, verification, digest, question_tag, check_document)
        ), logged AS (
            INSERT INTO sync_log
                (facility_id, stay_id, version, confirmed_at, verification, digest, question_tag, check_document)
            SELECT facility_id, stay_id, version, $8, verification, digest, question_tag, check_document FROM confirmed
            ON CONFLICT (facility_id, stay_id, version) DO UPDATE
            SET verification = EXCLUDED.verification, digest = EXCLUDED.digest, lost_at = NULL,
                confirmations = sync_log.confirmations + 1
            RETURNING stay_id, confirmations
        ), done AS (
            DELETE FROM sync_queue USING confirmed
            WHERE sync_queue.facility_id = confirmed.facility_id AND sync_queue.stay_id = confirmed.stay_id
                AND sync_queue.version <= confirmed.version
        )
        SELECT stay_id FROM logged WHERE confirmations = 1
        """,
        *_columns(((*one[:6], one.check_document) for one in confirmed), 7),
        now,
    )
    return {row["stay_id"] for row in rows}


async def clear_waiting(connection: Connection, confirmed: Sequence[Confirmation]) -> None:
    """Take what was confirmed, and everything older, from among the waiting and the refused, and off the queue again.

    A statement after `acknowledge`, hence with a newer snapshot: it also sees a row that the present owner of a lane
    moved out of the queue, or that a comparison put into it, while the acknowledgement waited for them.
    """
    await connection.execute(
        """
        WITH confirmed AS (
            SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[]) AS t (facility_id, stay_id, version)
        ), waited AS (
            DELETE FROM sync_wait USING confirmed
            WHERE sync_wait.facility_id = confirmed.facility_id AND sync_wait.stay_id = confirmed.stay_id
                AND sync_wait.version <= confirmed.version
        ), requeued AS (
            DELETE FROM sync_queue USING confirmed
            WHERE sync_queue.facility_id = confirmed.facility_id AND sync_queue.stay_id = confirmed.stay_id
                AND sync_queue.version <= confirmed.version
        )
        DELETE FROM sync_refused USING confirmed
        WHERE sync_refused.facility_id = confirmed.facility_id AND sync_refused.stay_id = confirmed.stay_id
            AND sync_refused.version <= confirmed.version
        """,
        *_columns(((one.facility_id, one.stay_id, one.version) for one in confirmed), 3),
    )


# Both moves begin alike. FOR SHARE holds off a take-over until the move commits, and after one the fence no longer
# fits; leases are locked in the order of their names, as by their renewal. A version replaced meanwhile is left queued.
_FENCED = """
        fenced AS (
            SELECT name, fence FROM leases WHERE owner = $1 AND name = ANY($2::text[]) ORDER BY name FOR SHARE
        ), ours AS (
            SELECT moved.* FROM moved JOIN fenced USING (name, fence)
            WHERE NOT EXISTS (
                SELECT FROM sync_queue AS newer
                WHERE newer.facility_id = moved.facility_id AND newer.stay_id = moved.stay_id
                    AND newer.version > moved.version)
        ), queued AS (
            DELETE FROM sync_queue USING ours
            WHERE sync_queue.facility_id = ours.facility_id AND sync_queue.stay_id = ours.stay_id
                AND sync_queue.version <= ours.version
            RETURNING sync_queue.stay_id
        )
"""


async def postpone(connection: Connection, owner: UUID, moved: Sequence[Postponement], now: datetime) -> int:
    """Let versions wait until they are due, and return how many: those whose lane is still the owner's.

    What is neither queued nor waiting any more, because somebody confirmed it, is left alone. A row that waits already
    is updated in place, so that an acknowledgement which comes at the same moment finds it whatever its snapshot.
    """
    names = [lane_name(one.lane) for one in moved]
    count: int = await connection.fetchval(
        f"""
        WITH moved AS (
            SELECT * FROM unnest($2::text[], $3::int[], $4::uuid[], $5::int[], $6::smallint[], $7::bigint[],
                                 $8::int[], $9::timestamptz[], $10::text[], $11::text[])
                AS t (name, facility_id, stay_id, version, lane, fence, attempts, due_at, reason, code)
        ), {_FENCED}, again AS (
            UPDATE sync_wait
            SET version = ours.version, attempts = ours.attempts, due_at = ours.due_at, reason = ours.reason,
                code = ours.code
            FROM ours
            WHERE sync_wait.facility_id = ours.facility_id AND sync_wait.stay_id = ours.stay_id
                AND sync_wait.version <= ours.version
            RETURNING sync_wait.stay_id
        ), unrefused AS (
            DELETE FROM sync_refused USING ours
            WHERE sync_refused.facility_id = ours.facility_id AND sync_refused.stay_id = ours.stay_id
                AND sync_refused.version <= ours.version
        ), first AS (
            INSERT INTO sync_wait AS held
                (facility_id, stay_id, version, lane, attempts, due_at, reason, code, waiting_since)
            SELECT facility_id, stay_id, version, lane, attempts, due_at, reason, code, $12 FROM ours
            WHERE stay_id IN (SELECT stay_id FROM queued) AND stay_id NOT IN (SELECT stay_id FROM again)
            ON CONFLICT (facility_id, stay_id) DO UPDATE
            SET version = EXCLUDED.version, attempts = EXCLUDED.attempts, due_at = EXCLUDED.due_at,
                reason = EXCLUDED.reason, code = EXCLUDED.code
            WHERE held.version <= EXCLUDED.version
            RETURNING stay_id
        )
        SELECT (SELECT count(*) FROM again) + (SELECT count(*) FROM first)
        """,  # noqa: S608 - text of our own
        owner,
        names,
        *_columns(moved, 9),
        now,
    )
    return count


async def refuse(connection: Connection, owner: UUID, moved: Sequence[Refusal], now: datetime) -> list[RefusedVersion]:
    """Set versions aside for a human, and return them: those whose lane is still the owner's.

    What is neither queued nor waiting any more, because somebody confirmed it, is left alone.
    """
    names = [lane_name(one.lane) for one in moved]
    rows = await connection.fetch(
        f"""
        WITH moved AS (
            SELECT * FROM unnest($2::text[], $3::int[], $4::uuid[], $5::int[], $6::smallint[], $7::bigint[], $8::text[])
                AS t (name, facility_id, stay_id, version, lane, fence, code)
        ), {_FENCED}, waited AS (
            DELETE FROM sync_wait USING ours
            WHERE sync_wait.facility_id = ours.facility_id AND sync_wait.stay_id = ours.stay_id
                AND sync_wait.version <= ours.version
            RETURNING sync_wait.stay_id
        ), first AS (
            INSERT INTO sync_refused AS held (facility_id, stay_id, version, lane, code, refused_at)
            SELECT facility_id, stay_id, version, lane, code, $9 FROM ours
            WHERE stay_id IN (SELECT stay_id FROM queued UNION SELECT stay_id FROM waited)
            ON CONFLICT (facility_id, stay_id) DO UPDATE
            SET version = EXCLUDED.version, code = EXCLUDED.code, refused_at = EXCLUDED.refused_at,
                settled_at = NULL, settled_by = NULL, settled_reason = NULL
            WHERE held.version <= EXCLUDED.version
            RETURNING facility_id, stay_id, version, code
        )
        SELECT facility_id, stay_id, version, code FROM first
        """,  # noqa: S608 - text of our own
        owner,
        names,
        *_columns(moved, 6),
        now,
    )
    return [RefusedVersion(*row) for row in rows]


# -- for operators and tests -------------------------------------------------------------------------------------------


async def conservation(connection: Connection) -> Conservation:
    """Count every stay in its place. It reads all stays: for tests, and for an operator who wants certainty."""
    rows = await connection.fetch(
        """
        WITH placed AS (
            SELECT
                EXISTS (SELECT FROM sync_log AS l WHERE l.facility_id = s.facility_id AND l.stay_id = s.id
                        AND l.version = s.version AND l.lost_at IS NULL) AS confirmed,
                EXISTS (SELECT FROM sync_queue AS q WHERE q.facility_id = s.facility_id AND q.stay_id = s.id
                        AND q.version = s.version) AS queued,
                EXISTS (SELECT FROM sync_wait AS w WHERE w.facility_id = s.facility_id AND w.stay_id = s.id
                        AND w.version = s.version) AS waiting,
                EXISTS (SELECT FROM sync_refused AS r WHERE r.facility_id = s.facility_id AND r.stay_id = s.id
                        AND r.version = s.version) AS refused
            FROM stays AS s JOIN facilities AS f ON f.id = s.facility_id AND NOT f.sandbox
        ), work AS (
            SELECT facility_id, stay_id, version FROM sync_queue
            UNION ALL SELECT facility_id, stay_id, version FROM sync_wait
            UNION ALL SELECT facility_id, stay_id, version FROM sync_refused
        )
        SELECT
            count(*) AS stays,
            count(*) FILTER (WHERE confirmed) AS confirmed,
            count(*) FILTER (WHERE queued) AS queued,
            count(*) FILTER (WHERE waiting) AS waiting,
            count(*) FILTER (WHERE refused) AS refused,
            count(*) FILTER (WHERE confirmed::int + queued::int + waiting::int + refused::int <> 1) AS misplaced,
            (SELECT count(*) FROM work WHERE NOT EXISTS (
                SELECT FROM stays AS s WHERE s.facility_id = work.facility_id AND s.id = work.stay_id
                    AND s.version = work.version)) AS remains
        FROM placed
        """
    )
    return Conservation(*rows[0])
