"""Statements over the marks of temporary residence; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import StayRow
from asm_daemon.store import Connection

_COLUMNS = ", ".join(f"stays.{field.name}" for field in fields(StayRow))


class Mark(NamedTuple):
    """A mark as it is kept; the reference is inside `sealed`."""

    facility_id: int
    stay_id: UUID
    registered_on: date
    sealed: bytes
    marked_at: datetime


async def claim_marks(connection: Connection) -> None:
    """Wait for who parts a month, and let nobody begin to until the transaction ends."""
    await connection.execute("LOCK TABLE temporary_residence IN ROW EXCLUSIVE MODE")


async def read_stays(connection: Connection, facility_ids: Sequence[int], stay_ids: Sequence[UUID]) -> list[StayRow]:
    """The current versions of those of the stays that belong to these facilities."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM stays WHERE id = ANY($1::uuid[]) AND facility_id = ANY($2::int[])",  # noqa: S608 - ours
        stay_ids,
        facility_ids,
    )
    return [StayRow(*row) for row in rows]


async def read_marks(connection: Connection, stay_ids: Sequence[UUID]) -> dict[UUID, Mark]:
    """The marks of these stays."""
    rows = await connection.fetch(
        """
        SELECT facility_id, stay_id, registered_on, sealed, marked_at FROM temporary_residence
        WHERE stay_id = ANY($1::uuid[])
        """,
        stay_ids,
    )
    return {row["stay_id"]: Mark(*row) for row in rows}


async def put_marks(connection: Connection, marks: Sequence[Mark]) -> None:
    """Write marks, in place of what was marked before."""
    await connection.execute(
        """
        INSERT INTO temporary_residence (facility_id, stay_id, registered_on, sealed, marked_at)
        SELECT * FROM unnest($1::int[], $2::uuid[], $3::date[], $4::bytea[], $5::timestamptz[])
        ON CONFLICT (facility_id, stay_id) DO UPDATE SET
            registered_on = EXCLUDED.registered_on, sealed = EXCLUDED.sealed, marked_at = EXCLUDED.marked_at
        """,
        *([mark[place] for mark in marks] for place in range(5)),
    )


async def list_unmarked(
    connection: Connection,
    facility_ids: Sequence[int],
    arrived_before: datetime,
    now: datetime,
    after: tuple[datetime, UUID],
    limit: int,
) -> list[StayRow]:
    """Stays in house at these facilities that began before, are not marked, and are not planned to end before their
    thirtieth day is over; by arrival, after a position.
    """
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM in_house JOIN stays ON stays.id = stay_id AND stays.facility_id = in_house.facility_id
        WHERE in_house.facility_id = ANY($1::int[]) AND in_house.arrived_at < $2
          AND (in_house.arrived_at, stay_id) > ($4, $5)
          AND (in_house.planned_departure_at IS NULL OR in_house.planned_departure_at <= $3
               OR in_house.planned_departure_at >= in_house.arrived_at + interval '29 days')
          AND NOT EXISTS (SELECT FROM temporary_residence AS mark
                          WHERE mark.facility_id = in_house.facility_id AND mark.stay_id = in_house.stay_id)
        ORDER BY in_house.arrived_at, stay_id LIMIT $6
        """,  # noqa: S608 - our columns
        facility_ids,
        arrived_before,
        now,
        *after,
        limit,
    )
    return [StayRow(*row) for row in rows]


async def count_marked(connection: Connection, facility_ids: Sequence[int]) -> dict[int, int]:
    """How many guests in house at each facility are marked as registered."""
    rows = await connection.fetch(
        """
        SELECT facility_id, count(*) AS marked FROM in_house JOIN temporary_residence USING (facility_id, stay_id)
        WHERE facility_id = ANY($1::int[]) GROUP BY facility_id
        """,
        facility_ids,
    )
    return {row["facility_id"]: row["marked"] for row in rows}
