"""What the population simulator keeps, in its own PostgreSQL database: people, stays, effects, violations.

The simulator stands for somebody else's system. It therefore shares nothing with the daemon but `schemas`.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from uuid import UUID

import asyncpg

from schemas.codes import DocumentType
from schemas.folding import fold_document, fold_name
from schemas.population import (
    DIGEST_LIMIT,
    HeldStay,
    IdRange,
    Outcome,
    PopulationItem,
    PopulationResult,
    PopulationState,
    RangeDigest,
    Verification,
    canonical,
)
from schemas.synthetic import PERSONS, person

REVOKED_EVERY = 997
SEED_CHUNK = 20_000
_MIGRATE_LOCK, _SEED_LOCK = (int.from_bytes(b"asm-pop" + which) for which in (b"m", b"s"))  # advisory locks
_CONNECT_SECONDS = 10.0
# Documents whose number the population database knows; of a driving licence or a birth certificate it knows nothing.
_CHECKABLE = frozenset(
    {
        DocumentType.CCCD,
        DocumentType.CMND,
        DocumentType.PASSPORT,
        DocumentType.PERSONAL_NUMBER_NOTICE,
        DocumentType.CAN_CUOC,
    }
)

Connection = asyncpg.Connection | asyncpg.pool.PoolConnectionProxy


# -- schema and people -------------------------------------------------------------------------------------------------


async def migrate(database_url: str) -> None:
    """Create what is missing in the simulator's database. Safe to repeat, and to run from several processes at once."""
    script = files("connectors.population").joinpath("migrations/0001_population.sql").read_text("utf-8")
    connection = await asyncpg.connect(database_url, timeout=_CONNECT_SECONDS)
    try:
        async with connection.transaction():
            await connection.execute("SELECT pg_advisory_xact_lock($1)", _MIGRATE_LOCK)
            await connection.execute(script)
    finally:
        await connection.close()


@dataclass(frozen=True, slots=True)
class Seeding:
    """What `seed` did: people added, people there are now, and how long the adding took."""

    added: int
    total: int
    seconds: float

    @property
    def persons_per_second(self) -> float:
        """People added per second; 0 when there was nothing to add."""
        return self.added / self.seconds if self.added else 0.0


def is_revoked(index: int) -> bool:
    """Whether the document of `schemas.synthetic.person(index)` is reported revoked: every 997th, from 0."""
    return index % REVOKED_EVERY == 0


async def seed_persons(connection: Connection, first: int, count: int) -> None:
    """Add the synthetic people `first` … `first + count - 1`, and revoke the documents of some (`is_revoked`).

    Two COPY statements; the caller owns the transaction. Raises UniqueViolationError when one of them is there already.
    """
    people = [(index, person(index)) for index in range(first, first + count)]
    await connection.copy_records_to_table(
        "persons",
        records=[
            (index, fold_document(one.document_number), fold_name(one.full_name), one.birth_date)
            for index, one in people
        ],
        columns=("index", "document_number", "name_folded", "birth_date"),
    )
    await connection.copy_records_to_table(
        "revoked_documents",
        records=[(fold_document(one.document_number),) for index, one in people if is_revoked(index)],
        columns=("document_number",),
    )


async def seed(database_url: str, count: int, on_progress: Callable[[int], None] | None = None) -> Seeding:
    """Bring the population up to the synthetic people 0 … `count` - 1; those who are there already stay.

    Commits every 20,000 people, so that a second call goes on where the first was stopped; `on_progress` then gets the
    number of people there are. Raises ValueError when `count` is not in 1 … 1,000,000.
    """
    if not 1 <= count <= PERSONS:
        raise ValueError(f"the number of persons must be in 1 … {PERSONS}")
    await migrate(database_url)
    connection = await asyncpg.connect(database_url, timeout=_CONNECT_SECONDS)
    try:
        await connection.execute("SELECT pg_advisory_lock($1)", _SEED_LOCK)
        there: int = await connection.fetchval("SELECT coalesce(max(index) + 1, 0) FROM persons")
        started = time.monotonic()
        for first in range(there, count, SEED_CHUNK):
            chunk = min(SEED_CHUNK, count - first)
            async with connection.transaction():
                await seed_persons(connection, first, chunk)
            if on_progress is not None:
                on_progress(first + chunk)
            await asyncio.sleep(0)
        await connection.execute("ANALYZE persons, revoked_documents")
        return Seeding(max(0, count - there), max(count, there), time.monotonic() - started)
    finally:
        await connection.close()


# -- stays -------------------------------------------------------------------------------------------------------------

# ON CONFLICT DO UPDATE locks the row that is there even where its WHERE refuses the update, and rows are taken in the
# order of their ids: concurrent batches with stays in common take turns, and cannot deadlock.
_APPLY = """
WITH sent AS (
    SELECT * FROM unnest($1::uuid[], $2::integer[], $3::text[], $4::text[], $5::bytea[], $6::text[], $7::text[],
                         $8::text[])
        AS s (stay_id, version, status, facility_code, item, document_number, name_folded, birth_date)
), checked AS (
    SELECT s.stay_id, s.version, s.status, s.facility_code, s.item,
           CASE WHEN s.document_number IS NULL THEN 'not_checked'
                WHEN r.document_number IS NOT NULL THEN 'document_revoked'
                WHEN p.document_number IS NULL THEN 'unknown'
                WHEN p.name_folded = s.name_folded
                     AND (starts_with(p.birth_date, s.birth_date) OR starts_with(s.birth_date, p.birth_date))
                THEN 'matched'
                ELSE 'mismatch' END AS verification
    FROM sent AS s
    LEFT JOIN persons AS p USING (document_number)
    LEFT JOIN revoked_documents AS r USING (document_number)
), applied AS (
    INSERT INTO stays AS held (stay_id, version, status, facility_code, item, verification)
    SELECT stay_id, version, status, facility_code, item, verification FROM checked ORDER BY stay_id
    ON CONFLICT (stay_id) DO UPDATE
    SET version = excluded.version, status = excluded.status, item = excluded.item,
        verification = excluded.verification
    WHERE held.version < excluded.version
      AND held.facility_code = excluded.facility_code
      AND (held.status <> 'cancelled' OR excluded.status = 'cancelled')
    RETURNING stay_id, version, status, digest, facility_code, verification
), logged AS (
    INSERT INTO effects (stay_id, version, status, digest, facility_code)
    SELECT stay_id, version, status, digest, facility_code FROM applied
)
SELECT stay_id, verification FROM applied
"""

_HELD = """
SELECT stay_id, version, status, facility_code, item, verification FROM stays WHERE stay_id = ANY($1::uuid[])
"""

_STATES = "SELECT stay_id, version, encode(digest, 'hex') AS digest, verification FROM stays WHERE stay_id = ANY($1)"


async def apply(connection: Connection, items: Sequence[PopulationItem]) -> list[PopulationResult]:
    """Let the items take effect, set-based, and say in their order what became of each. No stay may occur twice.

    The caller owns the transaction (READ COMMITTED): until it ends, every stay of the batch is locked.
    """
    rows = [_row(item) for item in items]
    applied = {
        row["stay_id"]: Verification(row["verification"])
        for row in await connection.fetch(_APPLY, *zip(*rows, strict=True))
    }
    # A second statement, hence a new snapshot: it sees what those who had the locks before us have committed.
    others = [item.stay_id for item in items if item.stay_id not in applied]
    held = {row["stay_id"]: row for row in await connection.fetch(_HELD, others)} if others else {}
    return [
        result(item, Outcome.ACCEPTED, verification=applied[item.stay_id])
        if item.stay_id in applied
        else _without_effect(item, held[item.stay_id])
        for item in items
    ]


def _row(item: PopulationItem) -> tuple[UUID, int, str, str, bytes, str | None, str | None, str | None]:
    guest = item.guest
    person_keys: tuple[str | None, str | None, str | None] = (None, None, None)
    if guest is not None and guest.document is not None and guest.document.type in _CHECKABLE:
        person_keys = (fold_document(guest.document.number), fold_name(guest.full_name), guest.birth_date)
    return (item.stay_id, item.version, item.status, item.facility.code, canonical(item), *person_keys)


def _without_effect(item: PopulationItem, held: asyncpg.Record) -> PopulationResult:
    if held["version"] > item.version:
        return result(item, Outcome.STALE)
    if held["version"] == item.version:
        if held["item"] == canonical(item):
            return result(item, Outcome.DUPLICATE, verification=Verification(held["verification"]))
        return result(item, Outcome.REFUSED, "version_conflict")
    # Newer, and yet the WHERE of _APPLY refused it: these are its other two conditions.
    return result(
        item, Outcome.REFUSED, "facility_changed" if held["facility_code"] != item.facility.code else "stay_cancelled"
    )


def result(
    item: PopulationItem,
    outcome: Outcome,
    code: str | None = None,
    *,
    verification: Verification = Verification.NOT_CHECKED,
) -> PopulationResult:
    """The answer to one item."""
    return PopulationResult(
        stay_id=item.stay_id, version=item.version, outcome=outcome, code=code, verification=verification
    )


async def states(connection: Connection, stay_ids: Sequence[UUID]) -> list[PopulationState]:
    """What is held of each stay, in the order asked."""
    held = {row["stay_id"]: row for row in await connection.fetch(_STATES, stay_ids)}
    return [
        PopulationState(
            stay_id=stay_id,
            version=row["version"] if row else None,
            digest=row["digest"] if row else None,
            verification=Verification(row["verification"]) if row else None,
        )
        for stay_id, row in ((stay_id, held.get(stay_id)) for stay_id in stay_ids)
    ]


async def held_version(connection: Connection, stay_id: UUID) -> tuple[int, str] | None:
    """Version and status of one stay, or None."""
    row = await connection.fetchrow("SELECT version, status FROM stays WHERE stay_id = $1", stay_id)
    return (row["version"], row["status"]) if row else None


async def range_digests(connection: Connection, ranges: Sequence[IdRange]) -> list[RangeDigest]:
    """How many stays are held of each range, and the digest over theirs, in the order asked."""
    rows = await connection.fetch(
        """
        SELECT held.stays, held.digest
        FROM unnest($1::uuid[], $2::uuid[]) WITH ORDINALITY AS asked (first, behind, place)
        CROSS JOIN LATERAL (
            SELECT count(*) AS stays,
                   encode(sha256(coalesce(string_agg(digest, ''::bytea ORDER BY stay_id), '')), 'hex') AS digest
            FROM (
                SELECT stay_id, digest FROM stays WHERE stay_id >= first AND stay_id < behind
                ORDER BY stay_id LIMIT $3::bigint + 1
            ) AS page
        ) AS held
        ORDER BY place
        """,
        [one.start for one in ranges],
        [one.end for one in ranges],
        DIGEST_LIMIT,
    )
    return [
        RangeDigest(
            start=one.start,
            end=one.end,
            stays=row["stays"] if row["stays"] <= DIGEST_LIMIT else None,
            digest=row["digest"] if row["stays"] <= DIGEST_LIMIT else None,
        )
        for one, row in zip(ranges, rows, strict=True)
    ]


async def held_stays(connection: Connection, one: IdRange, limit: int) -> list[HeldStay]:
    """The first stays held of a range, by id."""
    rows = await connection.fetch(
        """
        SELECT stay_id, version, encode(digest, 'hex') AS digest FROM stays
        WHERE stay_id >= $1 AND stay_id < $2 ORDER BY stay_id LIMIT $3
        """,
        one.start,
        one.end,
        limit,
    )
    return [HeldStay(**row) for row in rows]


# -- violations --------------------------------------------------------------------------------------------------------


async def count_violations(connection: Connection, codes: Iterable[str]) -> None:
    """Remember that a sender broke the contract, once per code given. Last in a transaction, for it locks counters."""
    occurrences = sorted(Counter(codes).items())
    await connection.execute(
        """
        INSERT INTO sender_violations AS known (code, occurrences)
        SELECT * FROM unnest($1::text[], $2::bigint[])
        ON CONFLICT (code) DO UPDATE SET occurrences = known.occurrences + excluded.occurrences
        """,
        [code for code, _ in occurrences],
        [count for _, count in occurrences],
    )


_EFFECTS = """
WITH ordered AS (
    SELECT stay_id, version, digest, status, facility_code,
           lag(version) OVER in_order AS before,
           lag(status) OVER in_order AS status_before,
           lag(facility_code) OVER in_order AS facility_before,
           row_number() OVER (PARTITION BY stay_id ORDER BY position DESC) AS from_last
    FROM effects
    WINDOW in_order AS (PARTITION BY stay_id ORDER BY position)
)
SELECT count(*) AS recorded,
       count(*) FILTER (WHERE before = version) AS repeated,
       count(*) FILTER (WHERE before > version) AS out_of_order,
       count(*) FILTER (WHERE status_before = 'cancelled' AND status <> 'cancelled') AS revived,
       count(*) FILTER (WHERE facility_before <> facility_code) AS moved,
       (SELECT count(*) FROM stays WHERE status = 'cancelled'
        AND convert_from(item, 'UTF8')::jsonb -> 'guest' IS DISTINCT FROM 'null') AS unerased,
       (SELECT count(*) FROM stays AS s
        FULL JOIN (SELECT * FROM ordered WHERE from_last = 1) AS e USING (stay_id)
        WHERE (s.version, s.digest) IS DISTINCT FROM (e.version, e.digest)) AS unrecorded
FROM ordered
"""


async def violations(connection: Connection) -> Mapping[str, Mapping[str, int]]:
    """What went against the contract: `sender` by code, and `effects` as the log of effects shows them.

    repeated: a version took effect twice; out_of_order: an older one after a newer; revived: a version that is not
    cancelled after one that is; moved: a stay of one facility became another's; unerased: a cancelled stay has a guest;
    unrecorded: what is held is not the last recorded effect. All are 0, or the simulator itself is wrong.
    """
    sender = await connection.fetch("SELECT code, occurrences FROM sender_violations ORDER BY code")
    (effects,) = await connection.fetch(_EFFECTS)
    return {"sender": {row["code"]: row["occurrences"] for row in sender}, "effects": dict(effects)}
