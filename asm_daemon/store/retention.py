"""SQL of retention, as asm_retention: legal holds, the end of months, erasures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from asm_daemon.model import StayRow, Tags
from asm_daemon.store import Connection
from asm_daemon.store.police import Span
from asm_daemon.store.pool import ANSWER_MARGIN_SECONDS

_COLUMNS = ", ".join(field.name for field in fields(StayRow))
_TAG_COLUMNS = "document_index, person_index, given_name_index"

# A hold on the stay itself, or on everybody who was at the facility within a time: two questions, each with an index of
# its own. One with an OR would go through every hold for each stay.
_THERE_MEANWHILE = """hold.facility_id = stays.facility_id AND hold.stay_id IS NULL
    AND stays.arrived_at < hold.present_until AND coalesce(stays.departed_at, 'infinity') >= hold.present_from"""
_HELD = f"""(EXISTS (SELECT FROM legal_holds AS hold WHERE hold.lifted_at IS NULL AND hold.stay_id = stays.id)
    OR EXISTS (SELECT FROM legal_holds AS hold WHERE hold.lifted_at IS NULL AND {_THERE_MEANWHILE}))"""  # noqa: S608 - SQL of our own
_ENDED_AT = "coalesce(stays.departed_at, stays.received_at)"  # of a cancelled one: when it was cancelled
# The stays of a month with the kind of their facility as it is now, and whether their period is over: $3 is the cutoff
# of most kinds, $4 maps those that have one of their own.
_MONTH = "stays LEFT JOIN (SELECT id AS facility_id, kind FROM facilities) AS place USING (facility_id)"
_OVER = f"(status <> 'declared' AND {_ENDED_AT} <= coalesce(($4::jsonb ->> kind)::timestamptz, $3))"


# -- legal holds -------------------------------------------------------------------------------------------------------


class Hold(NamedTuple):
    """A legal hold (lệnh giữ dữ liệu): on `stay_id`, or on whoever was at the facility within [from, until)."""

    id: UUID
    facility_id: int
    stay_id: UUID | None
    present_from: datetime | None
    present_until: datetime | None
    warrant_ref: str
    reason: str
    placed_at: datetime
    placed_by: str

    def __repr__(self) -> str:
        return "<Hold>"


async def facility_of(connection: Connection, stay_id: UUID) -> int | None:
    """The facility of a stay."""
    found: int | None = await connection.fetchval("SELECT facility_id FROM stays WHERE id = $1", stay_id)
    return found


async def facility_by_code(connection: Connection, code: str) -> int | None:
    """The id of a facility."""
    found: int | None = await connection.fetchval("SELECT id FROM facilities WHERE code = $1", code)
    return found


async def stop_holds(connection: Connection) -> None:
    """Wait for holds that are being placed or lifted, and let none be until the transaction ends: what is decided by
    those in force stays true, and who places one meanwhile counts what is left."""
    await connection.execute("LOCK TABLE legal_holds IN SHARE MODE")


async def use_holds(connection: Connection) -> None:
    """Wait until nobody forgets anything, before reading what a hold shall be on."""
    await connection.execute("LOCK TABLE legal_holds IN ROW EXCLUSIVE MODE")


async def insert_hold(connection: Connection, hold: Hold) -> None:
    """Place a hold."""
    await connection.execute(
        """
        INSERT INTO legal_holds (id, facility_id, stay_id, present_from, present_until, warrant_ref, reason, placed_at,
            placed_by)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        """,
        *hold,
    )


async def lift_hold(connection: Connection, hold_id: UUID, reason: str, by: str, now: datetime) -> str | None:
    """Lift a hold; its warrant reference, None if there is none in force of this id."""
    found: str | None = await connection.fetchval(
        """
        UPDATE legal_holds SET lifted_at = $2, lifted_by = $3, lifted_reason = $4
        WHERE id = $1 AND lifted_at IS NULL RETURNING warrant_ref
        """,
        hold_id,
        now,
        by,
        reason,
    )
    return found


async def restore_hold(connection: Connection, hold_id: UUID, state: Mapping[str, Any]) -> None:
    """Write a hold as it is told: the columns of the table as text, but `facility_id`."""
    await connection.execute(
        """
        INSERT INTO legal_holds (id, facility_id, stay_id, present_from, present_until, warrant_ref, reason, placed_at,
            placed_by, lifted_at, lifted_by, lifted_reason)
        VALUES ($1, $2, $3::text::uuid, $4::text::timestamptz, $5::text::timestamptz, $6, $7, $8::text::timestamptz,
            $9, $10::text::timestamptz, $11, $12)
        ON CONFLICT (id) DO UPDATE SET facility_id = $2, stay_id = $3::text::uuid,
            present_from = $4::text::timestamptz, present_until = $5::text::timestamptz, warrant_ref = $6,
            reason = $7, placed_at = $8::text::timestamptz, placed_by = $9, lifted_at = $10::text::timestamptz,
            lifted_by = $11, lifted_reason = $12
        """,
        hold_id,
        *(
            state[name]
            for name in (
                "facility_id", "stay_id", "present_from", "present_until", "warrant_ref", "reason", "placed_at",
                "placed_by", "lifted_at", "lifted_by", "lifted_reason",
            )
        ),
    )  # fmt: skip


async def restore_end(connection: Connection, hold_id: UUID, state: Mapping[str, Any]) -> None:
    """Write that a hold was lifted, as it is told."""
    await connection.execute(
        "UPDATE legal_holds SET lifted_at = $2::text::timestamptz, lifted_by = $3, lifted_reason = $4 WHERE id = $1",
        hold_id,
        state["lifted_at"],
        state["lifted_by"],
        state["lifted_reason"],
    )


async def lock_holds_of(connection: Connection, warrant: str) -> list[UUID]:
    """Hold and return the holds in force of a warrant, the oldest first."""
    rows = await connection.fetch(
        "SELECT id FROM legal_holds WHERE warrant_ref = $1 AND lifted_at IS NULL ORDER BY placed_at, id FOR UPDATE",
        warrant,
    )
    return [row["id"] for row in rows]


async def stays_by_document(connection: Connection, spans: Sequence[Span], limit: int) -> list[StayRow]:
    """At most `limit` stays whose tag is the one searched for in their month, by id, none of a sandbox facility."""
    rows = await connection.fetch(
        f"""
        SELECT found.* FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS span (lo, hi, tag)
        CROSS JOIN LATERAL (
            SELECT {_COLUMNS} FROM stays
            WHERE id >= span.lo AND id < span.hi AND document_index = span.tag
                AND NOT EXISTS (SELECT FROM facilities WHERE facilities.id = stays.facility_id AND sandbox)
            ORDER BY id LIMIT $4
        ) AS found
        ORDER BY id LIMIT $4
        """,  # noqa: S608 - SQL of our own
        [span.lo for span in spans],
        [span.hi for span in spans],
        [span.tag for span in spans],
        limit,
    )
    return [StayRow(*row) for row in rows]


async def held_by_warrant(connection: Connection, warrant: str, stays: Sequence[UUID]) -> list[tuple[UUID, UUID]]:
    """Each hold in force of the warrant that names one of these stays: (hold, stay)."""
    rows = await connection.fetch(
        "SELECT id, stay_id FROM legal_holds WHERE warrant_ref = $1 AND lifted_at IS NULL AND stay_id = ANY($2)",
        warrant,
        stays,
    )
    return [(row["id"], row["stay_id"]) for row in rows]


async def same_hold(connection: Connection, hold: Hold) -> UUID | None:
    """The hold in force that is on the same, by the same warrant."""
    found: UUID | None = await connection.fetchval(
        """
        SELECT id FROM legal_holds
        WHERE lifted_at IS NULL AND facility_id = $1 AND stay_id IS NOT DISTINCT FROM $2
            AND present_from IS NOT DISTINCT FROM $3 AND present_until IS NOT DISTINCT FROM $4 AND warrant_ref = $5
        ORDER BY placed_at LIMIT 1
        """,
        hold.facility_id,
        hold.stay_id,
        hold.present_from,
        hold.present_until,
        hold.warrant_ref,
    )
    return found


async def list_holds(
    connection: Connection, *, lifted: bool, warrant: str | None = None, stay_id: UUID | None = None
) -> list[tuple[Hold, str]]:
    """Holds in force, or those that were lifted, each with the code of its facility; the oldest first.

    `warrant`: only those of it; `stay_id`: only those that the stay is under.
    """
    rows = await connection.fetch(
        f"""
        SELECT hold.id, facility_id, stay_id, present_from, present_until, warrant_ref, reason, placed_at,
            placed_by, code
        FROM legal_holds AS hold JOIN facilities ON facilities.id = facility_id
        WHERE (lifted_at IS NOT NULL) = $1 AND ($2::text IS NULL OR warrant_ref = $2)
            AND ($3::uuid IS NULL OR stay_id = $3 OR EXISTS (SELECT FROM stays WHERE id = $3 AND {_THERE_MEANWHILE}))
        ORDER BY placed_at, hold.id
        """,  # noqa: S608 - SQL of our own
        lifted,
        warrant,
        stay_id,
    )
    return [(Hold(*row[:9]), row["code"]) for row in rows]


async def under_hold(connection: Connection, hold_id: UUID) -> int:
    """How many stays that are here a hold concerns."""
    count: int = await connection.fetchval(
        f"""
        SELECT (SELECT count(*) FROM stays JOIN legal_holds AS hold ON hold.stay_id = stays.id WHERE hold.id = $1)
            + (SELECT count(*) FROM stays JOIN legal_holds AS hold ON {_THERE_MEANWHILE} WHERE hold.id = $1)
        """,  # noqa: S608 - SQL of our own
        hold_id,
    )
    return count


async def held_among(connection: Connection, stay_ids: Sequence[UUID]) -> list[UUID]:
    """Which of these stays are under a hold."""
    rows = await connection.fetch(
        f"SELECT id FROM stays WHERE id = ANY($1::uuid[]) AND {_HELD}",  # noqa: S608 - SQL of our own
        stay_ids,
    )
    return [row["id"] for row in rows]


# -- the end of a month ------------------------------------------------------------------------------------------------


class Round(NamedTuple):
    """One going through a month, and the step it is at: new (nowhere written yet), begun, parted (kept from forgotten),
    ended, final.

    Who left by `cutoff_at` is forgotten; `cutoffs` is a JSON object of the kinds of facility that have another one.
    """

    epoch: int
    round: int
    state: str
    cutoff_at: datetime
    index_version: int
    begun_at: datetime
    cutoffs: str = "{}"
    kept: int | None = None
    counts: str | None = None
    ended_at: datetime | None = None
    final_at: datetime | None = None


_ROUND = ", ".join(Round._fields)


async def rounds(connection: Connection) -> list[Round]:
    """The last round of every month that had one."""
    rows = await connection.fetch(
        f"SELECT DISTINCT ON (epoch) {_ROUND} FROM retention_epochs ORDER BY epoch, round DESC"  # noqa: S608
    )
    return [Round(*row) for row in rows]


async def unfinal(connection: Connection) -> list[Round]:
    """Rounds whose keys are destroyed and whose certificate is not final, the oldest first."""
    rows = await connection.fetch(
        f"SELECT {_ROUND} FROM retention_epochs WHERE state = 'ended' ORDER BY ended_at, epoch, round"  # noqa: S608
    )
    return [Round(*row) for row in rows]


async def begin_round(connection: Connection, found: Round) -> bool:
    """Begin a round; false if another process did."""
    begun = await connection.fetchval(
        """
        INSERT INTO retention_epochs (epoch, round, state, cutoff_at, index_version, begun_at, cutoffs)
        VALUES ($1, $2, 'begun', $3, $4, $5, $6) ON CONFLICT DO NOTHING RETURNING epoch
        """,
        found.epoch,
        found.round,
        found.cutoff_at,
        found.index_version,
        found.begun_at,
        found.cutoffs,
    )
    return begun is not None


async def lock_round(connection: Connection, epoch: int, number: int) -> Round | None:
    """Hold and return a round."""
    row = await connection.fetchrow(
        f"SELECT {_ROUND} FROM retention_epochs WHERE epoch = $1 AND round = $2 FOR UPDATE",  # noqa: S608
        epoch,
        number,
    )
    return Round(*row) if row else None


async def keep_round(connection: Connection, found: Round) -> None:
    """Write how far a round is."""
    await connection.execute(
        """
        UPDATE retention_epochs SET state = $3, kept = $4, counts = $5, ended_at = $6, final_at = $7
        WHERE epoch = $1 AND round = $2
        """,
        found.epoch,
        found.round,
        found.state,
        found.kept,
        found.counts,
        found.ended_at,
        found.final_at,
    )


async def is_ending(connection: Connection, epoch: int) -> bool:
    """Whether a month is being ended: nothing of it may be sealed anew but what is kept."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM retention_epochs WHERE epoch = $1 AND state IN ('begun', 'parted'))", epoch
    )
    return found


async def forgettable(connection: Connection, lo: UUID, hi: UUID, cutoff: datetime, cutoffs: str) -> tuple[int, int]:
    """(stays of a month, how many of them are to be forgotten), by the cutoffs of a Round."""
    [row] = await connection.fetch(
        f"""
        SELECT count(*) AS stays, count(*) FILTER (WHERE {_OVER} AND NOT {_HELD}) AS forgettable
        FROM {_MONTH} WHERE id >= $1 AND id < $2
        """,  # noqa: S608 - SQL of our own
        lo,
        hi,
        cutoff,
        cutoffs,
    )
    return row["stays"], row["forgettable"]


async def endpoints_of(connection: Connection, epoch: int) -> int:
    """How many webhook endpoints are sealed under a month."""
    count: int = await connection.fetchval("SELECT count(*) FROM webhook_endpoints WHERE sealed_epoch = $1", epoch)
    return count


async def lock_month(connection: Connection, epoch: int) -> bool:
    """Let nobody change a stay of the month, or mark any, until the transaction ends; false if it has no partition."""
    locked: bool = await connection.fetchval("SELECT lock_stay_month($1)", epoch)
    return locked


async def set_timeouts(connection: Connection, *, lock_seconds: float, statement_seconds: float) -> None:
    """How long a statement of this transaction waits for a lock, and how long the server lets it take, or lets the
    transaction rest while we reckon."""
    await connection.execute(
        """
        SELECT set_config('lock_timeout', $1, true), set_config('statement_timeout', $2, true),
            set_config('idle_in_transaction_session_timeout', $2, true)
        """,
        str(round(lock_seconds * 1_000)),
        str(round(statement_seconds * 1_000)),
    )


class Kept(NamedTuple):
    """A stay that is not to be forgotten, as it is now, and why: open, recent or held."""

    facility_id: int
    id: UUID
    version: int
    why: str


async def kept_stays(
    connection: Connection, lo: UUID, hi: UUID, cutoff: datetime, cutoffs: str, *, seconds: float
) -> set[Kept]:
    """The stays of a month that are not to be forgotten by the cutoffs of a Round, within `seconds`."""
    rows = await connection.fetch(
        f"""
        SELECT facility_id, id, version,
            CASE WHEN held THEN 'held' WHEN status = 'declared' THEN 'open' ELSE 'recent' END AS why
        FROM (
            SELECT facility_id, id, version, status, {_HELD} AS held, {_OVER} AS past
            FROM {_MONTH} WHERE id >= $1 AND id < $2
        ) AS found
        WHERE held OR NOT past
        """,  # noqa: S608 - SQL of our own
        lo,
        hi,
        cutoff,
        cutoffs,
        timeout=seconds + ANSWER_MARGIN_SECONDS,
    )
    return {Kept(*row) for row in rows}


async def insert_held(connection: Connection, rows: Sequence[tuple[StayRow, Tags]]) -> None:
    """Put stays that are kept, sealed anew, where the month's new partition takes them from."""
    await connection.executemany(
        f"INSERT INTO held_stays ({_COLUMNS}, {_TAG_COLUMNS}) VALUES ({_places(19)})",  # noqa: S608
        [(*_values(row), *tags) for row, tags in rows],
    )


async def insert_held_versions(connection: Connection, rows: Sequence[StayRow]) -> None:
    """The same for their superseded versions."""
    columns = _COLUMNS.replace("id,", "stay_id,", 1)
    await connection.executemany(
        f"INSERT INTO held_stay_versions ({columns}) VALUES ({_places(16)})",  # noqa: S608
        [_values(row) for row in rows],
    )


async def delete_held(connection: Connection, stay_ids: Sequence[UUID]) -> None:
    """Take stays back from where kept ones wait: they are not kept after all, or are others by now."""
    await connection.execute(
        """
        WITH versions AS (DELETE FROM held_stay_versions WHERE stay_id = ANY($1::uuid[]))
        DELETE FROM held_stays WHERE id = ANY($1::uuid[])
        """,
        stay_ids,
    )


async def marks_of(connection: Connection, stays: Sequence[tuple[int, UUID]]) -> list[tuple[int, UUID, bytes]]:
    """The sealed marks of temporary residence of these stays: (facility, stay, blob)."""
    rows = await connection.fetch(
        """
        SELECT facility_id, stay_id, sealed FROM unnest($1::int[], $2::uuid[]) AS wanted (facility_id, stay_id)
        JOIN temporary_residence USING (facility_id, stay_id)
        """,
        [facility_id for facility_id, _ in stays],
        [stay_id for _, stay_id in stays],
    )
    return [tuple(row) for row in rows]


async def replace_marks(connection: Connection, marks: Sequence[tuple[int, UUID, bytes]]) -> None:
    """Write marks of temporary residence that were sealed anew."""
    await connection.executemany(
        "UPDATE temporary_residence SET sealed = $3 WHERE facility_id = $1 AND stay_id = $2", marks
    )


async def end_month(connection: Connection, epoch: int, lo: UUID, hi: UUID, *, seconds: float) -> dict[str, int]:
    """Forget every stay of a month that was not put into `held_stays`, within `seconds`; how many rows of each."""
    rows = await connection.fetch(
        "SELECT name, forgotten FROM end_stay_month($1, $2, $3)", epoch, lo, hi, timeout=seconds + ANSWER_MARGIN_SECONDS
    )
    return {row["name"]: row["forgotten"] for row in rows}


# -- erasures of single stays ------------------------------------------------------------------------------------------


class Erasure(NamedTuple):
    """The erasure of one stay. `key_version` (urgent): keys up to it are to be destroyed, and are since `keys_gone_at`.
    `final_at`: after that no copy can be read, as far as is known yet."""

    stay_id: UUID
    facility_id: int
    epoch: int
    state: str
    urgent: bool
    key_version: int | None
    erased_at: datetime
    final_at: datetime
    keys_gone_at: datetime | None = None


class Erasable(NamedTuple):
    """What decides whether a stay may be erased."""

    facility_id: int
    status: str
    held: bool
    on_its_way: bool


async def erasable(connection: Connection, stay_id: UUID) -> Erasable | None:
    """Whether there is such a stay, and what stands against erasing it. The row is held."""
    row = await connection.fetchrow(
        f"""
        SELECT facility_id, status, {_HELD} AS held,
            EXISTS (SELECT FROM sync_queue AS q WHERE q.facility_id = stays.facility_id AND q.stay_id = stays.id)
            OR EXISTS (SELECT FROM sync_wait AS w WHERE w.facility_id = stays.facility_id AND w.stay_id = stays.id)
                AS on_its_way
        FROM stays WHERE id = $1 FOR NO KEY UPDATE OF stays
        """,  # noqa: S608 - SQL of our own
        stay_id,
    )
    return Erasable(*row) if row else None


async def forget_stay(connection: Connection, facility_id: int, stay_id: UUID, epoch: int) -> bool:
    """Delete a stay with all that names it."""
    gone: bool = await connection.fetchval("SELECT forget_stay($1, $2, $3)", facility_id, stay_id, epoch)
    return gone


async def insert_erasure(connection: Connection, erasure: Erasure) -> None:
    """Note an erasure."""
    await connection.execute("INSERT INTO erasures VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)", *erasure)


async def find_erasure(connection: Connection, stay_id: UUID) -> Erasure | None:
    """The erasure of a stay."""
    row = await connection.fetchrow("SELECT * FROM erasures WHERE stay_id = $1", stay_id)
    return Erasure(*row) if row else None


async def open_erasures(connection: Connection) -> list[Erasure]:
    """Erasures whose certificate is not final, the oldest first."""
    rows = await connection.fetch("SELECT * FROM erasures WHERE state <> 'final' ORDER BY erased_at, stay_id")
    return [Erasure(*row) for row in rows]


async def advance_erasure(connection: Connection, before: Erasure, after: Erasure) -> bool:
    """Write how far an erasure is; false if another process did."""
    changed = await connection.fetchval(
        """
        UPDATE erasures SET state = $3, urgent = $4, key_version = $5, final_at = $6, keys_gone_at = $7
        WHERE stay_id = $1 AND state = $2 RETURNING stay_id
        """,
        before.stay_id,
        before.state,
        after.state,
        after.urgent,
        after.key_version,
        after.final_at,
        after.keys_gone_at,
    )
    return changed is not None


class Forgotten(NamedTuple):
    """Places in a signed batch whose records were forgotten on purpose, and the audit entry that signs the list."""

    batch_id: UUID
    epoch: int
    indexes: Sequence[int]
    audit_entry_id: UUID | None


async def forgotten_receipts(connection: Connection) -> list[Forgotten]:
    """Every list of forgotten places."""
    rows = await connection.fetch("SELECT batch_id, epoch, indexes, audit_entry_id FROM forgotten_receipts")
    return [Forgotten(*row) for row in rows]


async def claim_forgotten(
    connection: Connection, epoch: int, audit_entry_id: UUID, *, seconds: float
) -> list[Forgotten]:
    """Name the audit entry that signs what of a month nobody signed yet, within `seconds`; return it."""
    rows = await connection.fetch(
        """
        UPDATE forgotten_receipts SET audit_entry_id = $2 WHERE epoch = $1 AND audit_entry_id IS NULL
        RETURNING batch_id, epoch, indexes, audit_entry_id
        """,
        epoch,
        audit_entry_id,
        timeout=seconds + ANSWER_MARGIN_SECONDS,
    )
    return [Forgotten(*row) for row in rows]


async def horizon(connection: Connection) -> str:
    """The oldest transaction that may still change something from now on: what `stays_after` takes as `since`."""
    found: str = await connection.fetchval("SELECT pg_snapshot_xmin(pg_current_snapshot())::text")
    return found


async def stays_after(connection: Connection, after: UUID, hi: UUID, since: str | None, limit: int) -> list[StayRow]:
    """At most `limit` stays of a month in order of their ids: those above `after` and below `hi`.

    With `since` (of `horizon`) only those of which the version that is there was written by that transaction or a
    later one.
    """
    rows = await connection.fetch(
        f"""
        SELECT {_COLUMNS} FROM stays
        WHERE id > $1 AND id < $2 AND ($3::text IS NULL OR age(xmin) <= age($3::text::xid8::xid)) ORDER BY id LIMIT $4
        """,  # noqa: S608 - SQL of our own
        after,
        hi,
        since,
        limit,
    )
    return [StayRow(*row) for row in rows]


def _values(row: StayRow) -> tuple[object, ...]:
    return tuple(getattr(row, field.name) for field in fields(StayRow))


def _places(count: int) -> str:
    return ", ".join(f"${number}" for number in range(1, count + 1))
