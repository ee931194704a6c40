"""Statements over rosters: who is in house, who stood on which list, and the plans; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import StayRow
from asm_daemon.store import Connection

_COLUMNS = ", ".join(f"stays.{field.name}" for field in fields(StayRow))


class PlanRow(NamedTuple):
    """A plan as it is kept, without what is sealed. `decisions` is JSON: row number → decision."""

    id: UUID
    facility_id: int
    created_at: datetime
    expires_at: datetime
    plan_sha256: bytes
    started_at: datetime | None
    decisions: str
    finished_at: datetime | None


async def list_house(connection: Connection, facility_id: int, limit: int) -> list[StayRow]:
    """The stays in house at a facility, in id order."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM in_house JOIN stays ON stays.id = stay_id AND stays.facility_id = in_house.facility_id
        WHERE in_house.facility_id = $1 ORDER BY stay_id LIMIT $2
        """,  # noqa: S608 - our columns
        facility_id,
        limit,
    )
    return [StayRow(*row) for row in rows]


async def last_seen(connection: Connection, facility_id: int) -> dict[UUID, date]:
    """The day on which each stay of a facility stood on an applied roster last."""
    rows = await connection.fetch("SELECT stay_id, seen_on FROM roster_seen WHERE facility_id = $1", facility_id)
    return {row["stay_id"]: row["seen_on"] for row in rows}


async def put_seen(connection: Connection, facility_id: int, stay_ids: Sequence[UUID], seen_on: date) -> None:
    """These stays stood on a roster of that day; an older list does not make them seen earlier."""
    await connection.execute(
        """
        INSERT INTO roster_seen (facility_id, stay_id, seen_on)
        SELECT $1, stay_id, $3 FROM unnest($2::uuid[]) AS stay_id
        ON CONFLICT (facility_id, stay_id) DO UPDATE SET seen_on = greatest(roster_seen.seen_on, EXCLUDED.seen_on)
        """,
        facility_id,
        stay_ids,
        seen_on,
    )


async def forget_seen(connection: Connection) -> int:
    """Forget when stays were seen that are not in house any more; how many."""
    rows = await connection.fetch(
        """
        DELETE FROM roster_seen WHERE NOT EXISTS (
            SELECT FROM in_house
            WHERE in_house.facility_id = roster_seen.facility_id AND in_house.stay_id = roster_seen.stay_id
        ) RETURNING stay_id
        """
    )
    return len(rows)


async def insert_plan(
    connection: Connection, plan_id: UUID, facility_id: int, created_at: datetime, expires_at: datetime, digest: bytes
) -> None:
    """Keep a new plan; its parts follow."""
    await connection.execute(
        """
        INSERT INTO roster_plans (id, facility_id, created_at, expires_at, plan_sha256) VALUES ($1, $2, $3, $4, $5)
        """,
        plan_id,
        facility_id,
        created_at,
        expires_at,
        digest,
    )


async def insert_parts(connection: Connection, plan_id: UUID, kind: str, parts: Sequence[bytes]) -> None:
    """Keep what was sealed of a plan or its result, in order."""
    await connection.execute(
        """
        INSERT INTO roster_plan_parts (plan_id, kind, number, sealed)
        SELECT $1, $2, number, sealed FROM unnest($3::bytea[]) WITH ORDINALITY AS part (sealed, number)
        """,
        plan_id,
        kind,
        parts,
    )


async def read_plan(
    connection: Connection, plan_id: UUID, facility_ids: Sequence[int], now: datetime
) -> PlanRow | None:
    """A plan of one of these facilities that has not expired."""
    row = await connection.fetchrow(
        """
        SELECT id, facility_id, created_at, expires_at, plan_sha256, started_at, decisions, finished_at
        FROM roster_plans WHERE id = $1 AND facility_id = ANY($2::int[]) AND expires_at > $3
        """,
        plan_id,
        facility_ids,
        now,
    )
    return PlanRow(*row) if row else None


async def read_parts(connection: Connection, plan_id: UUID, kind: str) -> list[bytes]:
    """What was sealed of a plan or its result, in order."""
    rows = await connection.fetch(
        "SELECT sealed FROM roster_plan_parts WHERE plan_id = $1 AND kind = $2 ORDER BY number", plan_id, kind
    )
    return [row["sealed"] for row in rows]


async def start_plan(connection: Connection, plan_id: UUID, now: datetime, decisions: str) -> bool:
    """From now on the plan is executed, with these decisions; false if somebody else has started it."""
    row = await connection.fetchrow(
        """
        UPDATE roster_plans SET started_at = $2, decisions = $3 WHERE id = $1 AND started_at IS NULL RETURNING id
        """,
        plan_id,
        now,
        decisions,
    )
    return row is not None


async def finish_plan(connection: Connection, plan_id: UUID, now: datetime) -> bool:
    """The plan is done; false if somebody else has said so."""
    row = await connection.fetchrow(
        "UPDATE roster_plans SET finished_at = $2 WHERE id = $1 AND finished_at IS NULL RETURNING id", plan_id, now
    )
    return row is not None


async def erase_expired(connection: Connection, now: datetime) -> int:
    """Erase the plans that have expired, with what was sealed of them; how many."""
    rows = await connection.fetch(
        """
        WITH expired AS (DELETE FROM roster_plans WHERE expires_at <= $1 RETURNING id),
        parts AS (DELETE FROM roster_plan_parts USING expired WHERE plan_id = expired.id)
        SELECT id FROM expired
        """,
        now,
    )
    return len(rows)
