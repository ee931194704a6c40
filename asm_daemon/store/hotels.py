"""SQL of hotel software: which systems are registered, and which reservations are to be fetched."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from asm_daemon.model import Facility
from asm_daemon.store import Connection
from asm_daemon.store.facilities import facility
from schemas.hotels import HotelSystem

_COLUMNS = """
    h.id AS system_id, h.system, h.base_url, h.token_url, h.property_id, h.credentials_file,
    f.id, f.code, f.name, f.kind, f.province, f.commune, f.address, f.zone, f.authority, f.capacity, f.sandbox
"""


@dataclass(frozen=True, slots=True)
class Registered:
    """Hotel software of one facility: where it is, and the file with what it wants to see."""

    id: int
    facility: Facility
    system: HotelSystem
    base_url: str
    token_url: str | None
    property_id: str | None
    credentials_file: str


class Ring(NamedTuple):
    """One reservation to fetch."""

    system_id: int
    reservation_tag: bytes
    id: UUID
    reservation_sealed: bytes


@dataclass(frozen=True, slots=True)
class Pull:
    """One reservation whose time has come."""

    system_id: int
    reservation_tag: bytes
    id: UUID
    reservation_sealed: bytes = field(repr=False)
    rung_at: datetime
    rings: int
    attempts: int


class SystemFacts(NamedTuple):
    """One registered system as an operator sees it, with what waits and the last failure."""

    facility: str
    system: str
    base_url: str
    property_id: str | None
    waiting: int
    last_code: str | None


async def upsert_system(
    connection: Connection,
    facility_id: int,
    system: HotelSystem,
    base_url: str,
    token_url: str | None,
    property_id: str | None,
    credentials_file: str,
    webhook_sha256: bytes,
    now: datetime,
) -> None:
    """Enter the system of a facility, in place of what was entered before."""
    await connection.execute(
        """
        INSERT INTO hotel_systems
            (facility_id, system, base_url, token_url, property_id, credentials_file, webhook_sha256, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
        ON CONFLICT (facility_id, system) DO UPDATE SET base_url = EXCLUDED.base_url, token_url = EXCLUDED.token_url,
            property_id = EXCLUDED.property_id, credentials_file = EXCLUDED.credentials_file,
            webhook_sha256 = EXCLUDED.webhook_sha256
        """,
        facility_id,
        system.value,
        base_url,
        token_url,
        property_id,
        credentials_file,
        webhook_sha256,
        now,
    )


async def delete_system(connection: Connection, facility_id: int, system: HotelSystem) -> bool:
    """Delete the system of a facility and what waits for it; False if there is none."""
    found = await connection.fetchval(
        """
        WITH gone AS (DELETE FROM hotel_systems WHERE facility_id = $1 AND system = $2 RETURNING id),
        pulls AS (DELETE FROM hotel_pulls USING gone WHERE system_id = gone.id)
        SELECT id FROM gone
        """,
        facility_id,
        system.value,
    )
    return found is not None


async def list_systems(connection: Connection) -> list[SystemFacts]:
    """Every registered system, by facility and name."""
    rows = await connection.fetch(
        """
        SELECT f.code, h.system, h.base_url, h.property_id, count(p.system_id)::int,
            (array_agg(p.last_code ORDER BY p.attempts DESC) FILTER (WHERE p.last_code IS NOT NULL))[1]
        FROM hotel_systems h JOIN facilities f ON f.id = h.facility_id LEFT JOIN hotel_pulls p ON p.system_id = h.id
        GROUP BY f.code, h.system, h.base_url, h.property_id ORDER BY f.code, h.system
        """
    )
    return [SystemFacts(*row) for row in rows]


async def system_of_webhook(connection: Connection, system: HotelSystem, webhook_sha256: bytes) -> Registered | None:
    """The system that this webhook token belongs to, at an open facility."""
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS} FROM hotel_systems h JOIN facilities f ON f.id = h.facility_id AND f.active
        WHERE h.webhook_sha256 = $1 AND h.system = $2
        """,  # noqa: S608 - column names of our own
        webhook_sha256,
        system.value,
    )
    return None if row is None else _registered(row)


async def systems_at(connection: Connection, system: HotelSystem, facility_ids: Sequence[int]) -> list[Registered]:
    """The systems of this kind at these facilities, as far as they are open."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM hotel_systems h JOIN facilities f ON f.id = h.facility_id AND f.active
        WHERE h.system = $1 AND h.facility_id = ANY($2::int[]) ORDER BY h.id
        """,  # noqa: S608 - column names of our own
        system.value,
        facility_ids,
    )
    return [_registered(row) for row in rows]


async def systems_of(connection: Connection, system_ids: Sequence[int]) -> list[Registered]:
    """The systems of these ids, as far as their facilities are open."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM hotel_systems h JOIN facilities f ON f.id = h.facility_id AND f.active
        WHERE h.id = ANY($1::int[]) ORDER BY h.id
        """,  # noqa: S608 - column names of our own
        system_ids,
    )
    return [_registered(row) for row in rows]


async def ring(connection: Connection, rings: Sequence[Ring], now: datetime) -> None:
    """Ask for reservations to be fetched; one that waits already is due at once."""
    await connection.execute(
        """
        INSERT INTO hotel_pulls
            (system_id, reservation_tag, id, reservation_sealed, rung_at, rings, due_at, attempts)
        SELECT system_id, tag, id, sealed, $5, 1, $5, 0
        FROM unnest($1::int[], $2::bytea[], $3::uuid[], $4::bytea[]) AS rung (system_id, tag, id, sealed)
        ORDER BY system_id, tag
        ON CONFLICT (system_id, reservation_tag) DO UPDATE SET rings = hotel_pulls.rings + 1,
            rung_at = EXCLUDED.rung_at, due_at = least(hotel_pulls.due_at, EXCLUDED.due_at)
        """,
        *([row[place] for row in rings] for place in range(4)),
        now,
    )


async def due_pulls(connection: Connection, now: datetime, latest: datetime, per_system: int, limit: int) -> list[Pull]:
    """At most `limit` reservations that are due at open facilities, the longest due first, no more than `per_system` of
    one system.

    What was never tried is due whatever its time is, and so is what would wait beyond `latest`: the clock that said so
    was wrong.
    """
    rows = await connection.fetch(
        """
        SELECT system_id, reservation_tag, id, reservation_sealed, rung_at, rings, attempts FROM (
            SELECT p.*, row_number() OVER (PARTITION BY system_id ORDER BY due_at) AS place
            FROM hotel_pulls p JOIN hotel_systems h ON h.id = p.system_id
            JOIN facilities f ON f.id = h.facility_id AND f.active
            WHERE due_at <= $1 OR attempts = 0 OR due_at > $4
        ) AS due WHERE place <= $2 ORDER BY due_at LIMIT $3
        """,
        now,
        per_system,
        limit,
        latest,
    )
    return [Pull(*row) for row in rows]


async def finish_pull(connection: Connection, pull: Pull) -> bool:
    """It was fetched. False if it changed again meanwhile: then it stays, and is due."""
    found = await connection.fetchval(
        """
        DELETE FROM hotel_pulls WHERE system_id = $1 AND reservation_tag = $2 AND rings = $3 RETURNING system_id
        """,
        pull.system_id,
        pull.reservation_tag,
        pull.rings,
    )
    return found is not None


async def postpone_pull(connection: Connection, pull: Pull, due_at: datetime, code: str) -> None:
    """It was not fetched: try again later, whatever rings until then."""
    await connection.execute(
        """
        UPDATE hotel_pulls SET due_at = $3, attempts = attempts + 1, last_code = $4
        WHERE system_id = $1 AND reservation_tag = $2
        """,
        pull.system_id,
        pull.reservation_tag,
        due_at,
        code,
    )


def _registered(row: asyncpg.Record) -> Registered:
    return Registered(
        id=row["system_id"],
        facility=facility(row),
        system=HotelSystem(row["system"]),
        base_url=row["base_url"],
        token_url=row["token_url"],
        property_id=row["property_id"],
        credentials_file=row["credentials_file"],
    )
