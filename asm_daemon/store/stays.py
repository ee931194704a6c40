"""Statements over stays, their versions, references and who is in house; the caller owns the transaction."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from datetime import datetime
from operator import attrgetter
from uuid import UUID

from asm_daemon.model import PartyHead, Presence, ReceiptBatch, StayRow, Tags
from asm_daemon.store import Connection

_COLUMNS = ", ".join(field.name for field in fields(StayRow))
_VERSION_COLUMNS = _COLUMNS.replace("id,", "stay_id,", 1)
_values = attrgetter(*(field.name for field in fields(StayRow)))  # dataclasses.astuple copies every value deeply


async def lock_turns(connection: Connection, facility_ids: Sequence[int]) -> None:
    """Wait for the turn of these facilities, in id order so that two flushes never wait for each other.

    Raises LookupError for a facility that has no row to wait on: its acts would pass each other.
    """
    rows = await connection.fetch(
        "SELECT FROM facility_turns WHERE facility_id = ANY($1::int[]) ORDER BY facility_id FOR NO KEY UPDATE",
        facility_ids,
    )
    if len(rows) != len(facility_ids):
        raise LookupError("a facility has no turn")


async def find_refs(
    connection: Connection, facility_ids: Sequence[int], ref_tags: Sequence[bytes]
) -> dict[tuple[int, bytes], UUID]:
    """The stays these references name: (facility, tag) → stay."""
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


async def find_present(
    connection: Connection, facility_ids: Sequence[int], document_tags: Sequence[int]
) -> list[Presence]:
    """Who is in house at these facilities under these document tags."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT facility_id, stay_id, document_tag, arrived_at, planned_departure_at, guest_tag
        FROM unnest($1::int[], $2::bigint[]) AS wanted (facility_id, document_tag)
        JOIN in_house USING (facility_id, document_tag)
        """,
        facility_ids,
        document_tags,
    )
    return [Presence(*row) for row in rows]


async def find_present_guests(
    connection: Connection, facility_ids: Sequence[int], guest_tags: Sequence[int]
) -> list[Presence]:
    """Who is in house at these facilities under these tags of the senders' own names of guests."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT facility_id, stay_id, document_tag, arrived_at, planned_departure_at, guest_tag
        FROM unnest($1::int[], $2::bigint[]) AS wanted (facility_id, guest_tag)
        JOIN in_house USING (facility_id, guest_tag)
        """,
        facility_ids,
        guest_tags,
    )
    return [Presence(*row) for row in rows]


async def read_stays(connection: Connection, facility_ids: Sequence[int], stay_ids: Sequence[UUID]) -> list[StayRow]:
    """The current versions of these stays; what does not exist is missing from the answer."""
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS}
        FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, id)
        JOIN stays USING (facility_id, id)
        """,  # noqa: S608 - column names of our own
        facility_ids,
        stay_ids,
    )
    return [StayRow(*row) for row in rows]


async def read_versions(connection: Connection, facility_ids: Sequence[int], stay_ids: Sequence[UUID]) -> list[StayRow]:
    """The superseded versions of these stays."""
    rows = await connection.fetch(
        f"""
        SELECT {_VERSION_COLUMNS}
        FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, stay_id)
        JOIN stay_versions USING (facility_id, stay_id)
        """,  # noqa: S608 - column names of our own
        facility_ids,
        stay_ids,
    )
    return [StayRow(*row) for row in rows]


async def find_departed(
    connection: Connection, probes: Sequence[tuple[int, int, UUID, UUID, int]], since: datetime
) -> list[tuple[StayRow, int]]:
    """The stays that ended after `since`, one probe for each index key of a month: (facility, mark, lowest id, id above
    the highest, document index) → each stay with the mark of its probe."""
    rows = await connection.fetch(
        f"""
        SELECT mark, stay.*
        FROM unnest($1::int[], $2::bigint[], $3::uuid[], $4::uuid[], $5::bigint[]) AS probe (place, mark, lo, hi, tag)
        CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM stays
            WHERE id >= lo AND id < hi AND document_index = tag AND facility_id = place
                AND status = 'departed' AND departed_at >= $6
        ) AS stay
        """,  # noqa: S608 - column names of our own
        *_by_column(probes, 5),
        since,
    )
    return [(StayRow(*rest), mark) for mark, *rest in rows]


def _by_column(rows: Iterable[tuple[object, ...]], width: int) -> list[list[object]]:
    """Rows turned into the arrays that `unnest` takes."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    return columns or [[] for _ in range(width)]


_STAY_ARRAYS = (
    "$1::uuid[], $2::int[], $3::int[], $4::text[], $5::text[], $6::timestamptz[], $7::timestamptz[], "
    "$8::timestamptz[], $9::timestamptz[], $10::timestamptz[], $11::timestamptz[], $12::int[], $13::bytea[], "
    "$14::uuid[], $15::int[], $16::bytea[]"
)
_TAG_ARRAYS = "$17::bigint[], $18::bigint[], $19::bigint[]"
_TAG_COLUMNS = "document_index, person_index, given_name_index"


async def insert_declared(
    connection: Connection,
    rows: Sequence[tuple[StayRow, Tags]],
    refs: Sequence[tuple[int, bytes, UUID]],
    present: Sequence[Presence],
    work: Sequence[tuple[int, UUID, int, int]],
) -> None:
    """Insert new stays, their names (facility, tag, stay), who of them is in house, and the work to carry them on
    (facility, stay, version, lane): one statement, for each of its own would cost a round trip of every commit."""
    await connection.execute(
        f"""
        WITH new_stays AS (
            INSERT INTO stays ({_COLUMNS}, {_TAG_COLUMNS}) SELECT * FROM unnest({_STAY_ARRAYS}, {_TAG_ARRAYS})
        ), new_refs AS (
            INSERT INTO source_refs (facility_id, ref_tag, stay_id)
            SELECT * FROM unnest($20::int[], $21::bytea[], $22::uuid[])
        ), new_work AS (
            INSERT INTO sync_queue (facility_id, stay_id, version, lane)
            SELECT * FROM unnest($23::int[], $24::uuid[], $25::int[], $26::smallint[])
        )
        INSERT INTO in_house (facility_id, stay_id, document_tag, arrived_at, planned_departure_at, guest_tag)
        SELECT * FROM unnest($27::int[], $28::uuid[], $29::bigint[], $30::timestamptz[], $31::timestamptz[],
            $32::bigint[])
        """,  # noqa: S608 - column names of our own
        *_by_column(((*_values(row), *tags) for row, tags in rows), 19),
        *_by_column(refs, 3),
        *_by_column(work, 4),
        *_by_column(present, 6),
    )


async def update_stays(connection: Connection, rows: Sequence[tuple[StayRow, Tags]]) -> None:
    """Replace the current versions of existing stays."""
    assignments = ", ".join(
        f"{name.strip()} = new.{name.strip()}" for name in (_COLUMNS + ", " + _TAG_COLUMNS).split(",")
    )
    await connection.execute(
        f"""
        UPDATE stays SET {assignments}
        FROM unnest({_STAY_ARRAYS}, {_TAG_ARRAYS}) AS new ({_COLUMNS}, {_TAG_COLUMNS})
        WHERE stays.id = new.id AND stays.facility_id = new.facility_id
        """,  # noqa: S608 - column names of our own
        *_by_column(((*_values(row), *tags) for row, tags in rows), 19),
    )


async def insert_versions(connection: Connection, rows: Sequence[StayRow]) -> None:
    """Keep superseded versions as they were."""
    await connection.execute(
        f"INSERT INTO stay_versions ({_VERSION_COLUMNS}) SELECT * FROM unnest({_STAY_ARRAYS})",  # noqa: S608
        *_by_column(map(_values, rows), 16),
    )


async def delete_refs(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> None:
    """Free the names of these stays: (facility, stay)."""
    await connection.execute(
        """
        DELETE FROM source_refs USING unnest($1::int[], $2::uuid[]) AS gone (facility_id, stay_id)
        WHERE source_refs.facility_id = gone.facility_id AND source_refs.stay_id = gone.stay_id
        """,
        *_by_column(stays, 2),
    )


async def put_present(connection: Connection, rows: Sequence[Presence]) -> None:
    """Write who is in house, new or changed."""
    await connection.execute(
        """
        INSERT INTO in_house (facility_id, stay_id, document_tag, arrived_at, planned_departure_at, guest_tag)
        SELECT * FROM unnest($1::int[], $2::uuid[], $3::bigint[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
        ON CONFLICT (facility_id, stay_id) DO UPDATE SET document_tag = EXCLUDED.document_tag,
            arrived_at = EXCLUDED.arrived_at, planned_departure_at = EXCLUDED.planned_departure_at,
            guest_tag = EXCLUDED.guest_tag
        """,
        *_by_column(rows, 6),
    )


async def remove_present(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> None:
    """Remove stays from the house: (facility, stay)."""
    await connection.execute(
        """
        DELETE FROM in_house USING unnest($1::int[], $2::uuid[]) AS gone (facility_id, stay_id)
        WHERE in_house.facility_id = gone.facility_id AND in_house.stay_id = gone.stay_id
        """,
        *_by_column(stays, 2),
    )


async def find_party_heads(
    connection: Connection, facility_ids: Sequence[int], party_tags: Sequence[int]
) -> list[PartyHead]:
    """Who leads these parties, of those in house."""
    rows = await connection.fetch(
        """
        SELECT DISTINCT facility_id, stay_id, party_tag
        FROM unnest($1::int[], $2::bigint[]) AS wanted (facility_id, party_tag)
        JOIN party_heads USING (facility_id, party_tag)
        """,
        facility_ids,
        party_tags,
    )
    return [PartyHead(*row) for row in rows]


async def insert_party_heads(connection: Connection, rows: Sequence[PartyHead]) -> None:
    """Write who leads a party."""
    await connection.execute(
        """
        INSERT INTO party_heads (facility_id, stay_id, party_tag)
        SELECT * FROM unnest($1::int[], $2::uuid[], $3::bigint[])
        """,
        *_by_column(rows, 3),
    )


async def remove_party_heads(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> None:
    """These stays lead no party (any more): (facility, stay)."""
    await connection.execute(
        """
        DELETE FROM party_heads USING unnest($1::int[], $2::uuid[]) AS gone (facility_id, stay_id)
        WHERE party_heads.facility_id = gone.facility_id AND party_heads.stay_id = gone.stay_id
        """,
        *_by_column(stays, 2),
    )


async def enqueue(connection: Connection, work: Sequence[tuple[int, UUID, int, int]]) -> None:
    """Queue versions for the population database: (facility, stay, version, lane)."""
    await connection.execute(
        """
        INSERT INTO sync_queue (facility_id, stay_id, version, lane)
        SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[], $4::smallint[])
        """,
        *_by_column(work, 4),
    )


async def supersede_work(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> None:
    """A new version replaces whatever an older one was waiting for."""
    await connection.execute(
        """
        WITH changed AS (SELECT * FROM unnest($1::int[], $2::uuid[]) AS t (facility_id, stay_id)),
        waiting AS (DELETE FROM sync_wait USING changed
            WHERE sync_wait.facility_id = changed.facility_id AND sync_wait.stay_id = changed.stay_id)
        DELETE FROM sync_refused USING changed
        WHERE sync_refused.facility_id = changed.facility_id AND sync_refused.stay_id = changed.stay_id
        """,
        *_by_column(stays, 2),
    )


async def confirm_sandbox(connection: Connection, rows: Sequence[tuple[int, UUID, int, datetime, str, bool]]) -> None:
    """The sandbox answers for the population database: (facility, stay, version, at, verification, check again)."""
    await connection.execute(
        """
        INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification, check_document)
        SELECT * FROM unnest($1::int[], $2::uuid[], $3::int[], $4::timestamptz[], $5::text[], $6::boolean[])
        """,
        *_by_column(rows, 6),
    )


async def insert_batch(connection: Connection, batch: ReceiptBatch) -> None:
    """Keep what the receipts of one batch are rebuilt from."""
    await connection.execute(
        "INSERT INTO receipt_batches (id, signed_at, leaves, checkpoint) VALUES ($1, $2, $3, $4)", *batch
    )


async def read_batches(connection: Connection, batch_ids: Sequence[UUID]) -> dict[UUID, ReceiptBatch]:
    """The signed batches with these ids."""
    rows = await connection.fetch(
        "SELECT id, signed_at, leaves, checkpoint FROM receipt_batches WHERE id = ANY($1::uuid[])", batch_ids
    )
    return {row["id"]: ReceiptBatch(*row) for row in rows}


async def clock(connection: Connection) -> datetime:
    """The database's clock, UTC."""
    instant: datetime = await connection.fetchval("SELECT clock_timestamp()")
    return instant


async def has_partition(connection: Connection, epoch: int) -> bool:
    """Whether stays of this month have a place."""
    return bool(await connection.fetchval("SELECT has_stay_partition($1)", epoch))


async def create_partitions(connection: Connection, epoch: int, lo: UUID, hi: UUID) -> bool:
    """Make the month's partitions; false when they exist. Daemons that start at once take turns."""
    made = await connection.fetchval(
        """
        WITH turn AS MATERIALIZED (SELECT pg_advisory_xact_lock(hashtext('create_stay_partitions')))
        SELECT create_stay_partitions($1, $2, $3) FROM turn
        """,
        epoch,
        lo,
        hi,
    )
    return bool(made)
