"""SQL of the directory of facilities, and of the senders that speak for them over MLLP."""

from __future__ import annotations

from datetime import datetime

import asyncpg

from asm_daemon.model import Facility
from asm_daemon.store import Connection
from schemas.codes import FacilityKind
from schemas.directory import NewFacility


async def insert_facility(connection: Connection, new: NewFacility, now: datetime) -> Facility | None:
    """Enter a facility; None if its code is taken."""
    row = await connection.fetchrow(
        """
        INSERT INTO facilities
            (code, name, kind, province, commune, address, zone, authority, capacity, sandbox, created_at)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
        ON CONFLICT (code) DO NOTHING
        RETURNING id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox
        """,
        new.code,
        new.name,
        new.kind.value,
        new.province,
        new.commune,
        new.address,
        new.zone,
        new.authority,
        new.capacity,
        new.sandbox,
        now,
    )
    return None if row is None else facility(row)


async def insert_turn(connection: Connection, facility_id: int) -> None:
    """Give a new facility the row on which its acts take turns; without it intake would not know the facility."""
    await connection.execute("INSERT INTO facility_turns (facility_id) VALUES ($1)", facility_id)


async def facility_by_code(connection: Connection, code: str) -> Facility | None:
    """The facility of this code, closed ones too."""
    row = await connection.fetchrow(
        """
        SELECT id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox
        FROM facilities WHERE code = $1
        """,
        code,
    )
    return None if row is None else facility(row)


async def facility_by_id(connection: Connection, facility_id: int) -> Facility | None:
    """The facility with this id, closed ones too."""
    row = await connection.fetchrow(
        """
        SELECT id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox
        FROM facilities WHERE id = $1
        """,
        facility_id,
    )
    return None if row is None else facility(row)


async def list_facilities(connection: Connection, after_code: str, limit: int) -> list[Facility]:
    """At most `limit` facilities whose code sorts after `after_code` ("" = from the start), by code."""
    rows = await connection.fetch(
        """
        SELECT id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox
        FROM facilities WHERE code > $1 ORDER BY code LIMIT $2
        """,
        after_code,
        limit,
    )
    return [facility(row) for row in rows]


async def upsert_sender(
    connection: Connection, sending_application: str, sending_facility: str, facility_id: int
) -> None:
    """Let an HL7 sender (MSH-3, MSH-4) speak for a facility, and no longer for another."""
    await connection.execute(
        """
        INSERT INTO mllp_senders (sending_application, sending_facility, facility_id) VALUES ($1, $2, $3)
        ON CONFLICT (sending_application, sending_facility) DO UPDATE SET facility_id = EXCLUDED.facility_id
        """,
        sending_application,
        sending_facility,
        facility_id,
    )


async def facility_of_sender(
    connection: Connection, sending_application: str, sending_facility: str
) -> Facility | None:
    """The open facility for which an HL7 sender speaks; None if there is none, or it is closed."""
    row = await connection.fetchrow(
        """
        SELECT id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox
        FROM mllp_senders JOIN facilities ON id = facility_id AND active
        WHERE sending_application = $1 AND sending_facility = $2
        """,
        sending_application,
        sending_facility,
    )
    return None if row is None else facility(row)


def facility(row: asyncpg.Record, prefix: str = "") -> Facility:
    """Read a facility from a row whose columns carry `prefix`."""
    return Facility(
        id=row[prefix + "id"],
        code=row[prefix + "code"],
        name=row[prefix + "name"],
        kind=FacilityKind(row[prefix + "kind"]),
        province=row[prefix + "province"],
        commune=row[prefix + "commune"],
        address=row[prefix + "address"],
        zone=row[prefix + "zone"],
        authority=row[prefix + "authority"],
        capacity=row[prefix + "capacity"],
        sandbox=row[prefix + "sandbox"],
    )
