"""Statements over guests who are expected, or here without an identity; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import ExpectedRow
from asm_daemon.store import Connection

_NAMES = [field.name for field in fields(ExpectedRow)]
_COLUMNS = ", ".join(_NAMES)
_values = attrgetter(*_NAMES)


class Waiting(NamedTuple):
    """One facility's guests without a declaration: expected today, here without an identity, and the nearest deadline
    among both."""

    expected_today: int
    present: int
    next_deadline_at: datetime | None


async def find_named(
    connection: Connection, facility_ids: Sequence[int], ref_tags: Sequence[bytes]
) -> tuple[dict[tuple[int, bytes], UUID], list[ExpectedRow]]:
    """What these references name: the stays, (facility, tag) → stay, and the expected guests.

    One statement for both: every declaration asks, and a second round trip would be felt.
    """
    rows = await connection.fetch(
        f"""
        SELECT place, tag, stay_id, {", ".join(f"expected.{name}" for name in _NAMES)}
        FROM unnest($1::int[], $2::bytea[]) AS wanted (place, tag)
        LEFT JOIN source_refs ON source_refs.facility_id = place AND source_refs.ref_tag = tag
        LEFT JOIN expected_stays AS expected ON expected.facility_id = place AND expected.ref_tag = tag
        WHERE stay_id IS NOT NULL OR expected.id IS NOT NULL
        """,  # noqa: S608 - column names of our own
        facility_ids,
        ref_tags,
    )
    stays = {(row["place"], row["tag"]): row["stay_id"] for row in rows if row["stay_id"] is not None}
    return stays, [ExpectedRow(*list(row)[3:]) for row in rows if row["id"] is not None]


async def read_expected(
    connection: Connection, facility_ids: Sequence[int], expected_ids: Sequence[UUID]
) -> list[ExpectedRow]:
    """The expected guests of these ids; what does not exist is missing from the answer."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, id)
        JOIN expected_stays USING (facility_id, id)
        """,  # noqa: S608 - column names of our own
        facility_ids,
        expected_ids,
    )
    return [ExpectedRow(*row) for row in rows]


async def find_guests(
    connection: Connection, facility_ids: Sequence[int], guest_tags: Sequence[int]
) -> list[ExpectedRow]:
    """The expected guests under these tags of the senders' own names, as far as they are still expected."""
    rows = await connection.fetch(
        f"""
        SELECT DISTINCT {_COLUMNS} FROM unnest($1::int[], $2::bigint[]) AS wanted (facility_id, guest_tag)
        JOIN expected_stays USING (facility_id, guest_tag)
        WHERE state = 'open'
        """,  # noqa: S608 - column names of our own
        facility_ids,
        guest_tags,
    )
    return [ExpectedRow(*row) for row in rows]


async def put_expected(connection: Connection, rows: Sequence[ExpectedRow]) -> None:
    """Write expected guests, new or changed."""
    assignments = ", ".join(f"{name} = EXCLUDED.{name}" for name in _NAMES[2:])
    columns = [list(column) for column in zip(*map(_values, rows), strict=True)]
    await connection.execute(
        f"""
        INSERT INTO expected_stays ({_COLUMNS})
        SELECT * FROM unnest($1::int[], $2::bytea[], $3::uuid[], $4::int[], $5::bigint[], $6::boolean[], $7::text[],
            $8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::timestamptz[],
            $13::timestamptz[], $14::bytea[])
        ON CONFLICT (facility_id, ref_tag) DO UPDATE SET {assignments}
        """,  # noqa: S608 - column names of our own
        *columns,
    )


async def delete_expected(connection: Connection, facility_ids: Sequence[int], ref_tags: Sequence[bytes]) -> None:
    """Delete expected guests who have been declared: (facility, tag)."""
    await connection.execute(
        """
        DELETE FROM expected_stays USING unnest($1::int[], $2::bytea[]) AS gone (facility_id, ref_tag)
        WHERE expected_stays.facility_id = gone.facility_id AND expected_stays.ref_tag = gone.ref_tag
        """,
        facility_ids,
        ref_tags,
    )


async def find_owned(connection: Connection, facility_ids: Sequence[int], expected_id: UUID) -> ExpectedRow | None:
    """An expected guest, if one of these facilities has it."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM expected_stays WHERE facility_id = ANY($1::int[]) AND id = $2",  # noqa: S608 - ours
        facility_ids,
        expected_id,
    )
    return ExpectedRow(*row) if row else None


async def list_owned(
    connection: Connection,
    facility_ids: Sequence[int],
    due_before: datetime | None,
    after: tuple[datetime | None, UUID] | None,
    limit: int,
) -> list[ExpectedRow]:
    """Who is still expected or without identity at these facilities, by deadline, then id; the unknown ones last.

    `after` is the deadline and id of the last one already seen.
    """
    due, seen = after if after is not None else (None, None)
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM expected_stays
        WHERE facility_id = ANY($1::int[]) AND state = 'open' AND ($2::timestamptz IS NULL OR deadline_at < $2)
            AND ($4::uuid IS NULL
                OR (coalesce(deadline_at, 'infinity'), id) > (coalesce($3::timestamptz, 'infinity'), $4))
        ORDER BY coalesce(deadline_at, 'infinity'), id LIMIT $5
        """,  # noqa: S608 - column names of our own
        facility_ids,
        due_before,
        due,
        seen,
        limit,
    )
    return [ExpectedRow(*row) for row in rows]


async def waiting(
    connection: Connection, facility_ids: Sequence[int], day_begins: datetime, day_ends: datetime
) -> dict[int, Waiting]:
    """Who waits for a declaration at each facility on this day."""
    rows = await connection.fetch(
        """
        SELECT facility_id, count(*) FILTER (WHERE NOT present) AS expected_today,
            count(*) FILTER (WHERE present) AS present, min(deadline_at) AS next_deadline_at
        FROM expected_stays
        WHERE facility_id = ANY($1::int[]) AND state = 'open'
            AND (present OR (arrives_at >= $2 AND arrives_at < $3))
        GROUP BY facility_id
        """,
        facility_ids,
        day_begins,
        day_ends,
    )
    return {row["facility_id"]: Waiting(*list(row)[1:]) for row in rows}


async def erase_ended(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` rows that ended before this instant; returns how many."""
    return _count(
        await connection.execute(
            """
            DELETE FROM expected_stays WHERE (facility_id, ref_tag) IN (
                SELECT facility_id, ref_tag FROM expected_stays WHERE state = 'ended' AND ended_at < $1 LIMIT $2)
                AND state = 'ended' AND ended_at < $1
            """,
            before,
            limit,
        )
    )


async def erase_no_shows(connection: Connection, before: datetime, limit: int) -> int:
    """Delete at most `limit` rows of guests who were to come before this instant and did not; returns how many.

    Where no arrival is known, the last change counts. Who is in house is no no-show, however long it takes.
    """
    return _count(
        await connection.execute(
            """
            DELETE FROM expected_stays WHERE (facility_id, ref_tag) IN (
                SELECT facility_id, ref_tag FROM expected_stays
                WHERE state = 'open' AND NOT present AND coalesce(arrives_at, changed_at) < $1 LIMIT $2)
                AND state = 'open' AND NOT present AND coalesce(arrives_at, changed_at) < $1
            """,
            before,
            limit,
        )
    )


def _count(status: str) -> int:
    return int(status.rpartition(" ")[2])
