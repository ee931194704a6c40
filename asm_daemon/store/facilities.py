"""SQL of the directory of facilities, and of the senders that speak for them over MLLP."""

from __future__ import annotations

from datetime import datetime
from hashlib import sha256

import asyncpg

from asm_daemon.model import Facility, Sender
from asm_daemon.store import Connection
from schemas.codes import FacilityKind
from schemas.directory import NewFacility
from schemas.hospital import HospitalProfile


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
    connection: Connection,
    sending_application: str,
    sending_facility: str,
    facility_id: int,
    profile: HospitalProfile,
    certificate_sha256: bytes | None,
) -> None:
    """Let an HL7 sender (MSH-3, MSH-4) speak for a facility, and no longer for another."""
    await connection.execute(
        """
        INSERT INTO mllp_senders (sending_application, sending_facility, facility_id, overnight_classes, charset,
            relative_role, certificate_sha256)
        VALUES ($1, $2, $3, $4, $5, $6, $7)
        ON CONFLICT (sending_application, sending_facility) DO UPDATE SET facility_id = EXCLUDED.facility_id,
            overnight_classes = EXCLUDED.overnight_classes, charset = EXCLUDED.charset,
            relative_role = EXCLUDED.relative_role, certificate_sha256 = EXCLUDED.certificate_sha256
        """,
        sending_application,
        sending_facility,
        facility_id,
        ",".join(profile.overnight_classes),
        profile.charset,
        profile.relative_role,
        certificate_sha256,
    )


async def find_sender(connection: Connection, sending_application: str, sending_facility: str) -> Sender | None:
    """An HL7 sender that speaks for an open facility; None if there is none, or its facility is closed.

    What is asked for is whatever somebody put into a message, so a log of statements gets its hash.
    There are as few senders as hospitals: all are looked at.
    """
    row = await connection.fetchrow(
        """
        SELECT id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox,
            overnight_classes, charset, relative_role, certificate_sha256
        FROM mllp_senders JOIN facilities ON id = facility_id AND active
        WHERE sha256(convert_to(sending_application || E'\x1f' || sending_facility, 'UTF8')) = $1
        """,
        sha256(f"{sending_application}\x1f{sending_facility}".encode()).digest(),
    )
    return None if row is None else _sender(row)


async def list_senders(connection: Connection, after: tuple[str, str], limit: int) -> list[tuple[str, str, Sender]]:
    """HL7 senders after these two names, in the order of their names."""
    rows = await connection.fetch(
        """
        SELECT sending_application, sending_facility, id, code, name, kind, province, commune, address, zone, authority,
            capacity, sandbox, overnight_classes, charset, relative_role, certificate_sha256
        FROM mllp_senders JOIN facilities ON id = facility_id
        WHERE (sending_application, sending_facility) > ($1, $2)
        ORDER BY sending_application, sending_facility LIMIT $3
        """,
        *after,
        limit,
    )
    return [(row["sending_application"], row["sending_facility"], _sender(row)) for row in rows]


def _sender(row: asyncpg.Record) -> Sender:
    profile = HospitalProfile(
        overnight_classes=tuple(row["overnight_classes"].split(",")),
        charset=row["charset"],
        relative_role=row["relative_role"],
    )
    return Sender(facility(row), profile, row["certificate_sha256"])


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
