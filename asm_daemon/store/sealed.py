"""Statements over everything that is sealed, whatever table it lies in, and over its re-encryption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import ReceiptBatch, Tags
from asm_daemon.store import Connection


class Place(NamedTuple):
    """Where a sealed record lies in its table, in the order in which the table is gone through."""

    facility_id: int
    id: UUID
    part: int


BEGINNING = Place(-1, UUID(int=0), -1)


class SealedRecord(NamedTuple):
    """A sealed record with the name it is sealed under (`crypto.RecordName`, schema version 1)."""

    place: Place
    kind: str
    facility_id: int
    version: int
    sealed: bytes | None
    """None if it is under the newest key already."""


@dataclass(frozen=True, slots=True)
class SealedTable:
    """How a table is gone through, and how one of its records is replaced if it is still the same.

    `page`: ids from $1 to below $2, after the place ($3, $4, $5), at most $6 rows, blobs only of those whose key
    version is not $7 (a blob's sixth byte, if it has as many). Every row is visited: a page takes a bounded time.
    `write`: place ($1, $2, $3), the blob before ($4) and after ($5); of stays their tags too ($6, $7, $8). A row that
    somebody holds is passed over: who waits for nobody is in nobody's way, and the next pass finds it.
    """

    page: str
    write: str


TABLES: Mapping[str, SealedTable] = {
    "stays": SealedTable(
        """
        SELECT facility_id, id, version AS part, 'stay' AS kind, facility_id AS of, version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM stays WHERE id >= $1 AND id < $2 AND (id, facility_id) > ($4, $3) AND $5::int IS NOT NULL
        ORDER BY id, facility_id LIMIT $6
        """,
        """
        WITH free AS (
            SELECT id FROM stays WHERE facility_id = $1 AND id = $2 AND version = $3 AND sealed = $4
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE stays SET sealed = $5, document_index = $6, person_index = $7, given_name_index = $8
        FROM free WHERE stays.facility_id = $1 AND stays.id = $2
        """,
    ),
    "stay_versions": SealedTable(
        """
        SELECT facility_id, stay_id AS id, version AS part, 'stay' AS kind, facility_id AS of, version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM stay_versions WHERE stay_id >= $1 AND stay_id < $2 AND (facility_id, stay_id, version) > ($3, $4, $5)
        ORDER BY facility_id, stay_id, version LIMIT $6
        """,
        """
        WITH free AS (
            SELECT stay_id FROM stay_versions WHERE facility_id = $1 AND stay_id = $2 AND version = $3 AND sealed = $4
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE stay_versions SET sealed = $5 FROM free
        WHERE facility_id = $1 AND stay_versions.stay_id = $2 AND version = $3
        """,
    ),
    "expected_stays": SealedTable(
        """
        SELECT facility_id, id, version AS part, 'expected' AS kind, facility_id AS of, version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM expected_stays WHERE id >= $1 AND id < $2 AND (facility_id, id, version) > ($3, $4, $5)
        ORDER BY facility_id, id LIMIT $6
        """,
        """
        WITH free AS (
            SELECT ref_tag FROM expected_stays WHERE facility_id = $1 AND id = $2 AND version = $3 AND sealed = $4
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE expected_stays SET sealed = $5 FROM free
        WHERE facility_id = $1 AND expected_stays.ref_tag = free.ref_tag
        """,
    ),
    "temporary_residence": SealedTable(
        """
        SELECT facility_id, stay_id AS id, 1 AS part, 'temporary_residence' AS kind, facility_id AS of, 1 AS version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM temporary_residence
        WHERE stay_id >= $1 AND stay_id < $2 AND (facility_id, stay_id) > ($3, $4) AND $5::int IS NOT NULL
        ORDER BY facility_id, stay_id LIMIT $6
        """,
        """
        WITH free AS (
            SELECT stay_id FROM temporary_residence
            WHERE facility_id = $1 AND stay_id = $2 AND sealed = $4 AND $3::int IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE temporary_residence SET sealed = $5 FROM free
        WHERE facility_id = $1 AND temporary_residence.stay_id = $2
        """,
    ),
    "roster_plan_parts": SealedTable(
        """
        SELECT (kind = 'result')::int AS facility_id, plan_id AS id, number AS part, 'roster_' || kind AS kind,
            facility_id AS of, number AS version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM roster_plan_parts JOIN roster_plans ON roster_plans.id = plan_id
        WHERE plan_id >= $1 AND plan_id < $2 AND ((kind = 'result')::int, plan_id, number) > ($3, $4, $5)
        ORDER BY (kind = 'result')::int, plan_id, number LIMIT $6
        """,
        """
        WITH free AS (
            SELECT plan_id FROM roster_plan_parts
            WHERE (kind = 'result')::int = $1 AND plan_id = $2 AND number = $3 AND sealed = $4
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE roster_plan_parts SET sealed = $5 FROM free
        WHERE (kind = 'result')::int = $1 AND roster_plan_parts.plan_id = $2 AND number = $3
        """,
    ),
    "import_files": SealedTable(
        """
        SELECT facility_id, job_id AS id, part, 'import' AS kind, facility_id AS of, part AS version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM import_files WHERE job_id >= $1 AND job_id < $2 AND (facility_id, job_id, part) > ($3, $4, $5)
        ORDER BY facility_id, job_id, part LIMIT $6
        """,
        """
        WITH free AS (
            SELECT job_id FROM import_files WHERE facility_id = $1 AND job_id = $2 AND part = $3 AND sealed = $4
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE import_files SET sealed = $5 FROM free
        WHERE facility_id = $1 AND import_files.job_id = $2 AND part = $3
        """,
    ),
    "hotel_pulls": SealedTable(
        """
        SELECT system_id AS facility_id, hotel_pulls.id, 1 AS part, 'hotel_pull' AS kind, facility_id AS of,
            1 AS version,
            CASE WHEN substring(reservation_sealed FROM 6 FOR 1) <> $7 THEN reservation_sealed END AS sealed
        FROM hotel_pulls JOIN hotel_systems ON hotel_systems.id = system_id
        WHERE hotel_pulls.id >= $1 AND hotel_pulls.id < $2 AND (system_id, hotel_pulls.id) > ($3, $4)
            AND $5::int IS NOT NULL
        ORDER BY system_id, hotel_pulls.id LIMIT $6
        """,
        """
        WITH free AS (
            SELECT id FROM hotel_pulls
            WHERE system_id = $1 AND id = $2 AND reservation_sealed = $4 AND $3::int IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE hotel_pulls SET reservation_sealed = $5 FROM free WHERE system_id = $1 AND hotel_pulls.id = $2
        """,
    ),
    "releases": SealedTable(
        """
        SELECT 0 AS facility_id, id, number::int AS part, 'release' AS kind, 0 AS of, number::int AS version,
            CASE WHEN substring(blob FROM 6 FOR 1) <> $7 THEN blob END AS sealed
        FROM releases CROSS JOIN unnest(withheld_sealed) WITH ORDINALITY AS parts (blob, number)
        WHERE id >= $1 AND id < $2 AND (0, id, number) > ($3, $4, $5) ORDER BY id, number LIMIT $6
        """,
        """
        WITH free AS (
            SELECT id FROM releases WHERE id = $2 AND withheld_sealed[$3] = $4 AND $1::int IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE releases SET withheld_sealed[$3] = $5 FROM free WHERE releases.id = $2
        """,
    ),
    # Its tag has no time in it; the month is that of its arrival.
    "hl7_messages": SealedTable(
        """
        SELECT 0 AS facility_id, encode(message_tag, 'hex')::uuid AS id, 1 AS part, 'hl7_message' AS kind, 0 AS of,
            1 AS version, CASE WHEN substring(header_sealed FROM 6 FOR 1) <> $7 THEN header_sealed END AS sealed
        FROM hl7_messages
        WHERE header_sealed IS NOT NULL
            AND received_at >= to_timestamp(('x' || left(replace($1::uuid::text, '-', ''), 12))::bit(48)::bigint / 1000)
            AND received_at < to_timestamp(('x' || left(replace($2::uuid::text, '-', ''), 12))::bit(48)::bigint / 1000)
            AND (0, encode(message_tag, 'hex')::uuid) > ($3, $4) AND $5::int IS NOT NULL
        ORDER BY message_tag LIMIT $6
        """,
        """
        WITH free AS (
            SELECT message_tag FROM hl7_messages
            WHERE message_tag = decode(replace($2::uuid::text, '-', ''), 'hex') AND header_sealed = $4
                AND $1::int = 0 AND $3::int = 1
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE hl7_messages SET header_sealed = $5 FROM free WHERE hl7_messages.message_tag = free.message_tag
        """,
    ),
    # An endpoint outlives its month: under which key it is says sealed_epoch, and not its id.
    "webhook_endpoints": SealedTable(
        """
        SELECT 0 AS facility_id, id, version AS part, 'webhook' AS kind, 0 AS of, version,
            CASE WHEN substring(sealed FROM 6 FOR 1) <> $7 THEN sealed END AS sealed
        FROM webhook_endpoints
        WHERE sealed_epoch = to_char(
                to_timestamp(('x' || left(replace($1::uuid::text, '-', ''), 12))::bit(48)::bigint / 1000)
                    AT TIME ZONE 'UTC', 'YYYYMM')::int
            AND $2::uuid IS NOT NULL AND (0, id, version) > ($3, $4, $5)
        ORDER BY id LIMIT $6
        """,
        """
        WITH free AS (
            SELECT id FROM webhook_endpoints
            WHERE id = $2 AND version = $3 AND sealed = $4 AND $1::int IS NOT NULL
            FOR NO KEY UPDATE SKIP LOCKED
        )
        UPDATE webhook_endpoints SET sealed = $5 FROM free WHERE webhook_endpoints.id = $2
        """,
    ),
}
"""Every table that holds sealed records, in the order in which they are gone through."""


async def page(
    connection: Connection, table: str, bounds: tuple[UUID, UUID], after: Place, limit: int, key_version: int
) -> list[SealedRecord]:
    """The next records of a table; those under `key_version` without their blob."""
    rows = await connection.fetch(TABLES[table].page, *bounds, *after, limit, bytes([key_version]))
    return [SealedRecord(Place(*row[:3]), *row[3:]) for row in rows]


class Replacement(NamedTuple):
    """A record that was sealed anew; `tags` of a stay's current version."""

    place: Place
    before: bytes
    after: bytes
    tags: Tags | None = None


async def replace(connection: Connection, table: str, replacements: Sequence[Replacement]) -> None:
    """Replace records that are still what they were and that nobody holds."""
    rows = [(*each.place, each.before, each.after, *(each.tags or ())) for each in replacements]
    await connection.executemany(TABLES[table].write, rows)


async def facility_codes(connection: Connection, facility_ids: Sequence[int]) -> dict[int, str]:
    """The codes of facilities by id."""
    rows = await connection.fetch("SELECT id, code FROM facilities WHERE id = ANY($1::int[])", facility_ids)
    return {row["id"]: row["code"] for row in rows}


async def tags(
    connection: Connection, facility_ids: Sequence[int], stay_ids: Sequence[UUID]
) -> dict[tuple[UUID, int], Tags]:
    """The search tags of these stays' current versions: (stay, version) → tags."""
    rows = await connection.fetch(
        """
        SELECT id, version, document_index, person_index, given_name_index
        FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, id) JOIN stays USING (facility_id, id)
        """,
        facility_ids,
        stay_ids,
    )
    return {(row["id"], row["version"]): Tags(*row[2:]) for row in rows}


async def named_stays(
    connection: Connection, facility_ids: Sequence[int], ref_tags: Sequence[bytes]
) -> dict[tuple[int, bytes], UUID]:
    """The stays that these references lead to: (facility, tag) → stay."""
    rows = await connection.fetch(
        """
        SELECT facility_id, ref_tag, stay_id
        FROM unnest($1::int[], $2::bytea[]) AS wanted (facility_id, ref_tag)
        JOIN source_refs USING (facility_id, ref_tag)
        """,
        facility_ids,
        ref_tags,
    )
    return {(row["facility_id"], row["ref_tag"]): row["stay_id"] for row in rows}


async def newest_batches(connection: Connection, limit: int) -> list[ReceiptBatch]:
    """The signed batches of receipts with the highest ids."""
    rows = await connection.fetch(
        "SELECT id, signed_at, leaves, checkpoint FROM receipt_batches ORDER BY id DESC LIMIT $1", limit
    )
    return [ReceiptBatch(*row) for row in rows]


async def batches_after(connection: Connection, after: UUID, limit: int) -> list[ReceiptBatch]:
    """The next signed batches of receipts."""
    rows = await connection.fetch(
        "SELECT id, signed_at, leaves, checkpoint FROM receipt_batches WHERE id > $1 ORDER BY id LIMIT $2", after, limit
    )
    return [ReceiptBatch(*row) for row in rows]


async def months_with_stays(connection: Connection, bounds: Sequence[tuple[int, UUID, UUID]]) -> list[int]:
    """Which of these months (epoch, lowest id, id above the highest) hold a stay."""
    rows = await connection.fetch(
        """
        SELECT epoch FROM unnest($1::int[], $2::uuid[], $3::uuid[]) AS month (epoch, lo, hi)
        WHERE EXISTS (SELECT FROM stays WHERE id >= lo AND id < hi) ORDER BY epoch
        """,
        *(map(list, zip(*bounds, strict=True)) if bounds else ([], [], [])),
    )
    return [row["epoch"] for row in rows]


async def partitioned_months(connection: Connection) -> list[int]:
    """The months that have a partition of stays."""
    rows = await connection.fetch(
        """
        SELECT substring(relname FROM '^stays_([0-9]{6})$')::int AS epoch
        FROM pg_inherits JOIN pg_class ON pg_class.oid = inhrelid
        WHERE inhparent = 'stays'::regclass AND relname ~ '^stays_[0-9]{6}$' ORDER BY epoch
        """
    )
    return [row["epoch"] for row in rows]


async def undeparted(connection: Connection, lo: UUID, hi: UUID) -> int:
    """How many stays of a month have not ended: they are in force, whatever the period of retention."""
    count: int = await connection.fetchval(
        "SELECT count(*) FROM stays WHERE id >= $1 AND id < $2 AND status = 'declared'", lo, hi
    )
    return count


async def sampled(
    connection: Connection, epoch: int, lo: UUID, hi: UUID, sample: int, *, blocks: int
) -> list[tuple[int, UUID]]:
    """At most `sample` stays (facility, id) of a month at random, from some `blocks` of its table, which PostgreSQL
    draws wherever they lie, or from all if there are no more."""
    rows = await connection.fetch(
        """
        SELECT facility_id, id
        FROM stays TABLESAMPLE SYSTEM (least(100, 100.0 * $5::bigint * current_setting('block_size')::int
            / greatest(pg_relation_size(('public.stays_' || $4::int)::regclass), 1)))
        WHERE id >= $1 AND id < $2 ORDER BY random() LIMIT $3
        """,
        lo,
        hi,
        sample,
        epoch,
        blocks,
    )
    return [(row["facility_id"], row["id"]) for row in rows]


# -- how far a re-encryption is ----------------------------------------------------------------------------------------


class Progress(NamedTuple):
    """A re-encryption. `sealed_table` is None when the pass is through all tables."""

    epoch: int
    key_version: int
    started_at: datetime
    pass_started_at: datetime
    last_found_at: datetime
    sealed_table: str | None
    after: Place
    found: int
    refused: int
    resealed: int


async def take_progress(connection: Connection, epoch: int, key_version: int, first: str, now: datetime) -> Progress:
    """Hold and return how far an epoch is; from the beginning if it is new, or for another key than before."""
    [row] = await connection.fetch(
        """
        INSERT INTO reencryptions AS held VALUES ($1, $2, $4, $4, $4, $3, $5, $6, $7, 0, 0, 0)
        ON CONFLICT (epoch) DO UPDATE SET
            key_version = EXCLUDED.key_version,
            started_at = CASE WHEN held.key_version = $2 THEN held.started_at ELSE $4 END,
            pass_started_at = CASE WHEN held.key_version = $2 THEN held.pass_started_at ELSE $4 END,
            last_found_at = CASE WHEN held.key_version = $2 THEN held.last_found_at ELSE $4 END,
            sealed_table = CASE WHEN held.key_version = $2 THEN held.sealed_table ELSE $3 END,
            after_facility = CASE WHEN held.key_version = $2 THEN held.after_facility ELSE $5 END,
            after_id = CASE WHEN held.key_version = $2 THEN held.after_id ELSE $6 END,
            after_part = CASE WHEN held.key_version = $2 THEN held.after_part ELSE $7 END,
            found = CASE WHEN held.key_version = $2 THEN held.found ELSE 0 END,
            refused = CASE WHEN held.key_version = $2 THEN held.refused ELSE 0 END
        RETURNING epoch, key_version, started_at, pass_started_at, last_found_at, sealed_table,
            after_facility, after_id, after_part, found, refused, resealed
        """,
        epoch,
        key_version,
        first,
        now,
        *BEGINNING,
    )
    epoch, version, started_at, pass_started_at, last_found_at, table, facility, record, part, found, refused, done = (
        row
    )
    after = Place(facility, record, part)
    return Progress(epoch, version, started_at, pass_started_at, last_found_at, table, after, found, refused, done)


async def keep_progress(connection: Connection, progress: Progress) -> None:
    """Write how far an epoch is."""
    await connection.execute(
        """
        UPDATE reencryptions SET pass_started_at = $2, last_found_at = $3, sealed_table = $4, after_facility = $5,
            after_id = $6, after_part = $7, found = $8, refused = $9, resealed = $10
        WHERE epoch = $1
        """,
        progress.epoch,
        progress.pass_started_at,
        progress.last_found_at,
        progress.sealed_table,
        *progress.after,
        progress.found,
        progress.refused,
        progress.resealed,
    )


async def end_progress(connection: Connection, epoch: int) -> None:
    """The epoch is through."""
    await connection.execute("DELETE FROM reencryptions WHERE epoch = $1", epoch)


# -- what became of each blob ------------------------------------------------------------------------------------------


class Reseal(NamedTuple):
    """A committed batch: `pairs` are SHA-256 of the blob before and after, 64 bytes for each record."""

    id: UUID
    epoch: int
    key_version: int
    resealed_at: datetime
    audit_entry_id: UUID
    pairs: bytes


async def insert_reseal(connection: Connection, reseal: Reseal) -> None:
    """Keep what became of the blobs of one batch."""
    await connection.execute(
        """
        INSERT INTO reseals (id, epoch, key_version, resealed_at, audit_entry_id, pairs)
        VALUES ($1, $2, $3, $4, $5, $6)
        """,
        *reseal,
    )


async def read_reseals(connection: Connection, epoch: int) -> list[Reseal]:
    """Every batch of an epoch."""
    rows = await connection.fetch(
        """
        SELECT id, epoch, key_version, resealed_at, audit_entry_id, pairs FROM reseals WHERE epoch = $1 ORDER BY id
        """,
        epoch,
    )
    return [Reseal(*row) for row in rows]


async def audited_bodies(connection: Connection, entry_ids: Sequence[UUID]) -> list[bytes]:
    """The bodies of the audit entries with these ids, those that wait for their place included, as `asm_audit`.

    An id may stand beside several: whoever appends names it.
    """
    rows = await connection.fetch(
        """
        SELECT body FROM audit_pending WHERE entry_id = ANY($1::uuid[])
        UNION ALL SELECT body FROM audit_log WHERE entry_id = ANY($1::uuid[])
        """,
        entry_ids,
    )
    return [row["body"] for row in rows]
