"""Statements over what was asked of the population database, and what of its answers a facility is told (ADR 22)."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.store import Connection


class DayCount(NamedTuple):
    """One facility's day: answers told and withheld, stays asked about again as somebody else, stays withdrawn."""

    facility_id: int
    counted_on: date
    told: int
    withheld: int
    asked_again: int
    withdrawn: int


class Counted(NamedTuple):
    """A facility's day so far, and how large the facility is."""

    day: DayCount
    code: str
    capacity: int


class Earlier(NamedTuple):
    """A version of a stay that was confirmed before. `question` is None if nothing was asked about its guest,
    `check_document` if its answer was not told."""

    stay_id: UUID
    version: int
    confirmed_at: datetime
    verification: str
    question: bytes | None
    check_document: bool | None


async def lock_counts(connection: Connection, facility_ids: Collection[int], day: date) -> dict[int, Counted]:
    """Wait for the turn of these facilities, in id order so that two batches never wait for each other, and return
    their counts of `day`, or of a later one if the clock went back.

    No day counts that is later than the database's tomorrow, whatever a clock said: it would last until then.
    """
    rows = await connection.fetch(
        """
        WITH latest AS (
            SELECT (now() AT TIME ZONE 'Asia/Ho_Chi_Minh')::date + 1 AS day
        ), turn AS (
            INSERT INTO verification_answers AS held (facility_id, counted_on, told, withheld, asked_again, withdrawn)
            SELECT facility_id, least($2, (SELECT day FROM latest)), 0, 0, 0, 0
            FROM unnest($1::int[]) AS t (facility_id) ORDER BY facility_id
            ON CONFLICT (facility_id) DO UPDATE SET
                counted_on = least(greatest(held.counted_on, EXCLUDED.counted_on), (SELECT day FROM latest)),
                told = CASE WHEN held.counted_on < EXCLUDED.counted_on THEN 0 ELSE held.told END,
                withheld = CASE WHEN held.counted_on < EXCLUDED.counted_on THEN 0 ELSE held.withheld END,
                asked_again = CASE WHEN held.counted_on < EXCLUDED.counted_on THEN 0 ELSE held.asked_again END,
                withdrawn = CASE WHEN held.counted_on < EXCLUDED.counted_on THEN 0 ELSE held.withdrawn END
            RETURNING *
        )
        SELECT facility_id, counted_on, told, withheld, asked_again, withdrawn, code, capacity
        FROM turn JOIN facilities ON facilities.id = facility_id
        """,
        list(facility_ids),
        day,
    )
    return {row["facility_id"]: Counted(DayCount(*row[:6]), row["code"], row["capacity"]) for row in rows}


async def save_counts(connection: Connection, counts: Sequence[DayCount]) -> None:
    """Write the counts of facilities whose turn it is."""
    await connection.execute(
        """
        UPDATE verification_answers AS held
        SET told = new.told, withheld = new.withheld, asked_again = new.asked_again, withdrawn = new.withdrawn
        FROM unnest($1::int[], $2::int[], $3::int[], $4::int[], $5::int[])
            AS new (facility_id, told, withheld, asked_again, withdrawn)
        WHERE held.facility_id = new.facility_id
        """,
        [count.facility_id for count in counts],
        [count.told for count in counts],
        [count.withheld for count in counts],
        [count.asked_again for count in counts],
        [count.withdrawn for count in counts],
    )


async def read_earlier(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> list[Earlier]:
    """Every version of these stays (facility, stay) that was confirmed."""
    rows = await connection.fetch(
        """
        SELECT stay_id, version, confirmed_at, verification, question_tag, check_document
        FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, stay_id)
        JOIN sync_log USING (facility_id, stay_id)
        """,
        [facility_id for facility_id, _ in stays],
        [stay_id for _, stay_id in stays],
    )
    return [Earlier(*row) for row in rows]
