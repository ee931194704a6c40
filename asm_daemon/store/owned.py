"""Statements by which owners read their own stays; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import StayRow
from asm_daemon.store import Connection

_COLUMNS = ", ".join(field.name for field in fields(StayRow))
_VERSION_COLUMNS = _COLUMNS.replace("id,", "stay_id,", 1)


class Confirmation(NamedTuple):
    """The newest version of a stay that the population database holds, None if it has lost them; and what the owner is
    told of the check of the newest that it ever confirmed: None for nothing."""

    version: int | None
    check_document: bool | None


class Today(NamedTuple):
    """One facility's day: registrations since local midnight, and how many of them were late."""

    declared: int
    late: int


class House(NamedTuple):
    """One facility's guests, how many of them have a document to check again, and of how many nothing was told."""

    guests: int
    check_document: int
    not_told: int


async def read_owned(connection: Connection, facility_ids: Sequence[int], stay_id: UUID) -> StayRow | None:
    """The current version of a stay, if one of these facilities holds it."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM stays WHERE id = $1 AND facility_id = ANY($2::int[])",  # noqa: S608 - our columns
        stay_id,
        facility_ids,
    )
    return StayRow(*row) if row else None


async def read_version(connection: Connection, facility_id: int, stay_id: UUID, version: int) -> StayRow | None:
    """A superseded version."""
    row = await connection.fetchrow(
        f"""
        SELECT {_VERSION_COLUMNS} FROM stay_versions
        WHERE facility_id = $1 AND stay_id = $2 AND version = $3
        """,  # noqa: S608 - our columns
        facility_id,
        stay_id,
        version,
    )
    return StayRow(*row) if row else None


async def list_owned(
    connection: Connection, facility_ids: Sequence[int], after: UUID, before: UUID, status: str | None, limit: int
) -> list[StayRow]:
    """Stays of these facilities with ids between the bounds (excluded), in id order."""
    rows = await connection.fetch(
        f"""
        SELECT page.* FROM unnest($1::int[]) AS wanted (facility)
        CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM stays
            WHERE facility_id = facility AND id > $2 AND id < $3 AND ($4::text IS NULL OR status = $4)
            ORDER BY id LIMIT $5
        ) AS page
        ORDER BY id LIMIT $5
        """,  # noqa: S608 - our columns
        facility_ids,
        after,
        before,
        status,
        limit,
    )
    return [StayRow(*row) for row in rows]


async def read_range(connection: Connection, lo: UUID, hi: UUID, limit: int) -> list[StayRow]:
    """Stays of any facility with lo ≤ id < hi: for the check page, which shows nothing about the guest."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM stays WHERE id >= $1 AND id < $2 ORDER BY id LIMIT $3",  # noqa: S608 - our columns
        lo,
        hi,
        limit,
    )
    return [StayRow(*row) for row in rows]


async def confirmations(
    connection: Connection, facility_ids: Sequence[int], stay_ids: Sequence[UUID]
) -> dict[UUID, Confirmation]:
    """What the population database confirmed of these stays."""
    rows = await connection.fetch(
        """
        SELECT stay_id, max(version) FILTER (WHERE lost_at IS NULL) AS version,
               (array_agg(check_document ORDER BY version DESC))[1] AS check_document
        FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, stay_id)
        JOIN sync_log USING (facility_id, stay_id)
        GROUP BY stay_id
        """,
        facility_ids,
        stay_ids,
    )
    return {row["stay_id"]: Confirmation(row["version"], row["check_document"]) for row in rows}


async def today(connection: Connection, facility_ids: Sequence[int], since: UUID) -> dict[int, Today]:
    """What each facility registered since an id."""
    rows = await connection.fetch(
        """
        SELECT facility_id, count(*) AS declared, count(*) FILTER (WHERE late_minutes > 0) AS late
        FROM stays WHERE facility_id = ANY($1::int[]) AND id >= $2 AND status <> 'cancelled'
        GROUP BY facility_id
        """,
        facility_ids,
        since,
    )
    return {row["facility_id"]: Today(row["declared"], row["late"]) for row in rows}


async def last_declared(connection: Connection, facility_ids: Sequence[int]) -> dict[int, datetime]:
    """When each facility declared last."""
    rows = await connection.fetch(
        """
        SELECT facility_id, newest.declared_at FROM unnest($1::int[]) AS wanted (facility_id)
        CROSS JOIN LATERAL (
            SELECT declared_at FROM stays WHERE stays.facility_id = wanted.facility_id ORDER BY id DESC LIMIT 1
        ) AS newest
        """,
        facility_ids,
    )
    return {row["facility_id"]: row["declared_at"] for row in rows}


async def presence(connection: Connection, facility_ids: Sequence[int], now: datetime) -> dict[int, House]:
    """Who is in house at each facility by its declarations, and what it is told of their verification."""
    rows = await connection.fetch(
        """
        SELECT in_house.facility_id, count(*) AS guests,
               count(*) FILTER (WHERE newest.check_document) AS check_document,
               count(*) FILTER (WHERE newest.version IS NOT NULL AND newest.check_document IS NULL) AS not_told
        FROM in_house LEFT JOIN LATERAL (
            SELECT version, check_document FROM sync_log
            WHERE sync_log.facility_id = in_house.facility_id AND sync_log.stay_id = in_house.stay_id
            ORDER BY version DESC LIMIT 1
        ) AS newest ON true
        WHERE in_house.facility_id = ANY($1::int[])
          AND (planned_departure_at IS NULL OR planned_departure_at > $2)
        GROUP BY in_house.facility_id
        """,
        facility_ids,
        now,
    )
    return {row["facility_id"]: House(row["guests"], row["check_document"], row["not_told"]) for row in rows}


async def facility_facts(connection: Connection, facility_id: int) -> tuple[str, str, str, bool]:
    """What the check page shows of a facility: code, name, authority, and whether it is a sandbox."""
    row = await connection.fetchrow("SELECT code, name, authority, sandbox FROM facilities WHERE id = $1", facility_id)
    if row is None:
        raise LookupError(facility_id)
    return row["code"], row["name"], row["authority"], row["sandbox"]
