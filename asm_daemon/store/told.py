"""SQL of what the audit also tells of: each table as it stands, to be held against that. Reads only."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from asm_daemon.store import Connection

PART_ENTRIES = 50_000
"""How many entries of the audit one statement goes through: some tenths of a second."""


_NO_POSITION = 2**63  # beyond a bigint


class Body(NamedTuple):
    """An audit entry, and the id beside it."""

    entry_id: UUID
    body: bytes

    def __repr__(self) -> str:
        return "<Body>"


async def pending(connection: Connection, words: Sequence[bytes]) -> list[Body]:
    """The audit entries that wait for their place and in which one of `words` stands, by arrival, as asm_audit."""
    rows = await connection.fetch(
        """
        SELECT entry_id, body FROM audit_pending AS entry
        WHERE EXISTS (SELECT FROM unnest($1::bytea[]) AS word WHERE position(word IN body) > 0)
        ORDER BY arrival
        """,
        words,
    )
    return [Body(*row) for row in rows]


async def telling(connection: Connection, first: int, words: Sequence[bytes]) -> AsyncIterator[tuple[list[Body], int]]:
    """The sealed entries from position `first` on in which one of `words` stands, a part of the log at a time, each
    with the position to go on from; as asm_audit.

    A part is `PART_ENTRIES` entries, wherever they lie: each statement takes a bounded time, however long the log is.
    """
    while first < _NO_POSITION and (
        rows := await connection.fetch(
            """
        WITH part AS MATERIALIZED (
            SELECT log.position AS place, entry_id, body FROM audit_log AS log
            WHERE log.position >= $1 ORDER BY log.position LIMIT $3
        )
        SELECT place, entry_id, body FROM part
        WHERE EXISTS (SELECT FROM unnest($2::bytea[]) AS word WHERE position(word IN body) > 0)
            OR place = (SELECT max(place) FROM part)
        ORDER BY place
        """,
            first,
            words,
            PART_ENTRIES,
        )
    ):
        first = rows[-1]["place"] + 1
        yield [Body(row["entry_id"], row["body"]) for row in rows], first


async def holds(connection: Connection) -> list[asyncpg.Record]:
    """Every legal hold, as asm_retention."""
    return list(
        await connection.fetch(
            """
            SELECT id, facility_id, stay_id, present_from, present_until, warrant_ref, reason, placed_at, placed_by,
                lifted_at, lifted_by, lifted_reason
            FROM legal_holds
            """
        )
    )


async def rounds(connection: Connection) -> list[asyncpg.Record]:
    """Every round of every month that was gone through, as asm_retention."""
    return list(
        await connection.fetch(
            """
            SELECT epoch, round, state, cutoff_at, cutoffs, index_version, begun_at, kept, counts, ended_at, final_at
            FROM retention_epochs
            """
        )
    )


async def erasures(connection: Connection) -> list[asyncpg.Record]:
    """Every erasure of a single stay, as asm_retention."""
    return list(
        await connection.fetch(
            """
            SELECT stay_id, facility_id, epoch, state, urgent, key_version, erased_at, final_at, keys_gone_at
            FROM erasures
            """
        )
    )


class ReleaseFacts(NamedTuple):
    """A release, and whether the hash beside its body is the body's."""

    id: UUID
    department: str
    template: str
    period: str
    release_no: int
    published_at: datetime
    sha256: bytes
    sound: bool


async def releases(connection: Connection, limit: int) -> AsyncIterator[ReleaseFacts]:
    """Every release, the bodies hashed by the database and not fetched, as asm_feeds."""
    after = UUID(int=0)
    while rows := await connection.fetch(
        """
        SELECT id, department, template, period::text, release_no, published_at, sha256(body), sha256(body) = sha256
        FROM releases WHERE id > $1 ORDER BY id LIMIT $2
        """,
        after,
        limit,
    ):
        for row in rows:
            yield ReleaseFacts(*row)
        after = rows[-1]["id"]


async def facilities(connection: Connection) -> list[asyncpg.Record]:
    """Every facility (the columns of `model.Facility`), and whether it is open, as asm_auth."""
    return list(
        await connection.fetch(
            """
            SELECT id, code, name, kind, province, commune, address, zone, authority, capacity, sandbox, active
            FROM facilities
            """
        )
    )


async def senders(connection: Connection) -> list[asyncpg.Record]:
    """Every HL7 sender with the code of the facility it speaks for, as asm_auth."""
    return list(
        await connection.fetch(
            """
            SELECT sending_application, sending_facility, code, overnight_classes, charset, relative_role,
                encode(certificate_sha256, 'hex') AS certificate
            FROM mllp_senders JOIN facilities ON facilities.id = facility_id
            """
        )
    )


async def principals(connection: Connection) -> list[asyncpg.Record]:
    """What the audit tells of every principal, as asm_auth."""
    return list(await connection.fetch("SELECT id, kind, department, active FROM principals"))


async def keys(connection: Connection) -> list[asyncpg.Record]:
    """Every API key, as asm_auth."""
    return list(
        await connection.fetch(
            "SELECT id, principal_id, secret_sha256, expires_at, revoked_at IS NOT NULL AS revoked FROM api_keys"
        )
    )


async def grants(connection: Connection) -> list[asyncpg.Record]:
    """Every grant with the code of its facility, as asm_auth."""
    return list(
        await connection.fetch(
            """
            SELECT principal_id, code, scopes, revoked_at IS NOT NULL AS revoked
            FROM grants JOIN facilities ON facilities.id = facility_id
            """
        )
    )
