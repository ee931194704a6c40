"""SQL of the audit: entries that wait, the sealed log, its checkpoints and the nodes from which proofs are made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.ledger import Subtree
from asm_daemon.store import Connection


@dataclass(frozen=True, slots=True)
class PendingEntry:
    """An entry that waits for its position. `body` is canonical JSON, taken as it is."""

    entry_id: UUID
    at: datetime
    body: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class LogEntry:
    """A sealed entry. `leaf` should be the leaf hash of `body`; that is what verification finds out."""

    position: int
    entry_id: UUID
    at: datetime
    body: bytes = field(repr=False)
    leaf: bytes


async def insert_pending(connection: Connection, entry: PendingEntry) -> None:
    """Add one entry to those that wait. Needs no right to read."""
    await connection.execute(
        "INSERT INTO audit_pending (entry_id, at, body) VALUES ($1, $2, $3)", entry.entry_id, entry.at, entry.body
    )


async def lock_head(connection: Connection) -> bytes:
    """The frontier of the tree, locked until the transaction ends: only one process seals at a time."""
    frontier: bytes = await connection.fetchval("SELECT frontier FROM audit_head FOR UPDATE")
    return frontier


async def read_head(connection: Connection) -> bytes:
    """The frontier of the tree."""
    frontier: bytes = await connection.fetchval("SELECT frontier FROM audit_head")
    return frontier


async def take_pending(connection: Connection, limit: int) -> list[PendingEntry]:
    """Remove and return the entries that have waited longest, at most `limit`, in the order of their arrival."""
    rows = await connection.fetch(
        """
        WITH taken AS (
            DELETE FROM audit_pending
            WHERE arrival IN (SELECT arrival FROM audit_pending ORDER BY arrival LIMIT $1)
            RETURNING arrival, entry_id, at, body)
        SELECT entry_id, at, body FROM taken ORDER BY arrival
        """,
        limit,
    )
    return [PendingEntry(*row) for row in rows]


async def insert_log(
    connection: Connection, first_position: int, entries: Sequence[PendingEntry], leaves: Sequence[bytes]
) -> None:
    """Append entries with their leaf hashes at consecutive positions."""
    await connection.execute(
        """
        INSERT INTO audit_log (position, entry_id, at, body, leaf)
        SELECT $1 + place - 1, entry_id, at, body, leaf
        FROM unnest($2::uuid[], $3::timestamptz[], $4::bytea[], $5::bytea[])
            WITH ORDINALITY AS entry (entry_id, at, body, leaf, place)
        """,
        first_position,
        [entry.entry_id for entry in entries],
        [entry.at for entry in entries],
        [entry.body for entry in entries],
        leaves,
    )


async def insert_nodes(connection: Connection, subtrees: Sequence[Subtree]) -> None:
    """Keep the hashes of subtrees that became complete."""
    await connection.execute(
        """
        INSERT INTO audit_nodes (height, index, hash)
        SELECT * FROM unnest($1::smallint[], $2::bigint[], $3::bytea[])
        """,
        [subtree.height for subtree in subtrees],
        [subtree.index for subtree in subtrees],
        [subtree.hash for subtree in subtrees],
    )


async def insert_checkpoint(connection: Connection, size: int, signed_at: datetime, note: str) -> None:
    """Keep the signed state of the tree at `size`."""
    await connection.execute(
        "INSERT INTO audit_checkpoints (size, signed_at, note) VALUES ($1, $2, $3)", size, signed_at, note
    )


async def update_head(connection: Connection, frontier: bytes) -> None:
    """Replace the tree head, which `lock_head` locked."""
    await connection.execute("UPDATE audit_head SET frontier = $1", frontier)


async def position_of(connection: Connection, entry_id: UUID) -> int | None:
    """The position of a sealed entry; None while it is not sealed."""
    position: int | None = await connection.fetchval(
        "SELECT position FROM audit_log WHERE entry_id = $1 ORDER BY position LIMIT 1", entry_id
    )
    return position


async def some_checkpoints(connection: Connection, limit: int) -> list[str]:
    """The first and the last checkpoints of the audit, `limit` each."""
    rows = await connection.fetch(
        """
        (SELECT note FROM audit_checkpoints ORDER BY size LIMIT $1)
        UNION (SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT $1)
        """,
        limit,
    )
    return [row["note"] for row in rows]


async def latest_checkpoint(connection: Connection) -> str | None:
    """The note of the largest tree that was signed; None before the first."""
    note: str | None = await connection.fetchval("SELECT note FROM audit_checkpoints ORDER BY size DESC LIMIT 1")
    return note


async def log_from(connection: Connection, position: int, limit: int) -> list[LogEntry]:
    """At most `limit` sealed entries from `position` on, in order."""
    rows = await connection.fetch(
        """
        SELECT position, entry_id, at, body, leaf FROM audit_log WHERE position >= $1 ORDER BY position LIMIT $2
        """,
        position,
        limit,
    )
    return [LogEntry(*row) for row in rows]


async def checkpoints_between(connection: Connection, over: int, up_to: int) -> dict[int, str]:
    """The notes of the checkpoints with `over < size <= up_to`, by size."""
    rows = await connection.fetch(
        "SELECT size, note FROM audit_checkpoints WHERE size > $1 AND size <= $2 ORDER BY size", over, up_to
    )
    return {row["size"]: row["note"] for row in rows}


async def checkpoints_of(connection: Connection, sizes: Sequence[int]) -> dict[int, str]:
    """The notes of the checkpoints of exactly these sizes, as far as there are any."""
    rows = await connection.fetch("SELECT size, note FROM audit_checkpoints WHERE size = ANY($1::bigint[])", sizes)
    return {row["size"]: row["note"] for row in rows}


class Cosigned(NamedTuple):
    """The newest cosignature of a witness, the checkpoint it is for, and the first entry that this does not cover.

    `note`, `line` are None before the first cosignature; `uncovered` (a body) while every entry is covered. `size` is
    that of the newest checkpoint.
    """

    note: str | None
    line: str | None
    uncovered: bytes | None
    size: int

    def __repr__(self) -> str:
        return "<Cosigned>"


async def read_cosignature(connection: Connection, witness: str) -> Cosigned:
    """What the witness of this name has confirmed."""
    [row] = await connection.fetch(
        """
        SELECT held.note, witnessed.line, (SELECT body FROM audit_log WHERE position = coalesce(held.size, 0)),
            (SELECT coalesce(max(size), 0) FROM audit_checkpoints)
        FROM (VALUES ($1::text)) AS asked (witness)
        LEFT JOIN audit_cosignatures AS witnessed ON witnessed.witness = asked.witness
        LEFT JOIN audit_checkpoints AS held ON held.size = witnessed.size
        """,
        witness,
    )
    return Cosigned(*row)


async def keep_cosignature(connection: Connection, witness: str, size: int, cosigned_at: datetime, line: str) -> bool:
    """Keep the newest cosignature of a witness; false if a newer one is kept already."""
    status = await connection.execute(
        """
        INSERT INTO audit_cosignatures AS held (witness, size, cosigned_at, line) VALUES ($1, $2, $3, $4)
        ON CONFLICT (witness) DO UPDATE
        SET size = EXCLUDED.size, cosigned_at = EXCLUDED.cosigned_at, line = EXCLUDED.line
        WHERE (held.size, held.cosigned_at) < (EXCLUDED.size, EXCLUDED.cosigned_at)
        """,
        witness,
        size,
        cosigned_at,
        line,
    )
    return bool(status == "INSERT 0 1")


async def nodes(connection: Connection, wanted: Sequence[tuple[int, int]]) -> Mapping[tuple[int, int], bytes]:
    """The hashes of the nodes `(height, index)` that are kept; leaves have height 0. What is missing is left out."""
    rows = await connection.fetch(
        """
        SELECT 0 AS height, position AS index, leaf AS hash FROM audit_log
        WHERE position = ANY($1::bigint[])
        UNION ALL
        SELECT n.height, n.index, n.hash
        FROM unnest($2::smallint[], $3::bigint[]) AS wanted (height, index)
        JOIN audit_nodes n ON n.height = wanted.height AND n.index = wanted.index
        """,
        [index for height, index in wanted if height == 0],
        [height for height, _ in wanted if height > 0],
        [index for height, index in wanted if height > 0],
    )
    return {(row["height"], row["index"]): row["hash"] for row in rows}
