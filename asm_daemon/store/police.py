"""SQL of the police: purposes, and the search by blind index, as the login asm_police, which can only read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg
import orjson

from asm_daemon.model import Facility, StayRow
from asm_daemon.store import Connection
from asm_daemon.store.facilities import facility
from schemas.codes import FacilityKind
from schemas.police import Purpose, QueryKind

_KINDS = frozenset(FacilityKind)


class Span(NamedTuple):
    """One month of registrations: ids in `lo <= id < hi`, and a tag that the value searched for has there."""

    lo: UUID
    hi: UUID
    tag: int


@dataclass(frozen=True, slots=True)
class Hit:
    """A stay whose tag is the one searched for. It still has to be opened and compared: 64 bits collide."""

    stay: StayRow
    facility: Facility
    verification: str | None


async def list_purposes(connection: Connection) -> list[Purpose]:
    """Every purpose in force, by code."""
    rows = await connection.fetch(
        """
        SELECT code, title_vi, title_en, legal_basis, query_kinds, window_days, max_rows,
               release_rule, release_after_days
        FROM police_purposes WHERE active ORDER BY code
        """
    )
    return [
        Purpose(
            code=row["code"],
            title={"vi": row["title_vi"], "en": row["title_en"]},
            legal_basis=row["legal_basis"],
            query_kinds=[QueryKind(kind) for kind in row["query_kinds"]],
            window_days=row["window_days"],
            max_rows=row["max_rows"],
            release_rule=row["release_rule"],
            release_after_days=row["release_after_days"],
        )
        for row in rows
    ]


class Cutoffs(NamedTuple):
    """By when those had left who were forgotten when a month was gone through; some kinds of facility have another."""

    cutoff_at: datetime
    by_kind: Mapping[FacilityKind, datetime]


async def rounds_since(connection: Connection, epoch: int) -> list[Cutoffs]:
    """What was forgotten of `epoch` and the months after it."""
    rows = await connection.fetch(
        "SELECT cutoff_at, cutoffs FROM retention_epochs WHERE epoch >= $1 AND state <> 'begun'", epoch
    )
    return [Cutoffs(row["cutoff_at"], _by_kind(row["cutoffs"])) for row in rows]


def _by_kind(cutoffs: str) -> dict[FacilityKind, datetime]:
    """What is not as we write it is left out: a search goes on, and a verification finds it (`told`)."""
    try:
        found: dict[str, str] = orjson.loads(cutoffs)
        return {FacilityKind(kind): datetime.fromisoformat(text) for kind, text in found.items() if kind in _KINDS}
    except (ValueError, TypeError, AttributeError):
        return {}


async def hits_by_document(connection: Connection, spans: Sequence[Span], before: UUID, limit: int) -> list[Hit]:
    """At most `limit` hits with ids below `before`, newest first, none of a sandbox facility.

    One probe for each index key of a month, mostly one: asking every month for every tag (`= ANY`) would cost the
    square. The limit stands inside the probe too, so that a tag that many stays share cannot make one search read them
    all.
    """
    rows = await connection.fetch(
        """
        SELECT s.*, v.verification
        FROM unnest($1::uuid[], $2::uuid[], $3::bigint[]) AS span (lo, hi, tag)
        CROSS JOIN LATERAL (
            SELECT s.id, s.facility_id, s.version, s.status, s.event, s.received_at, s.declared_at, s.arrived_at,
                   s.planned_departure_at, s.departed_at, s.deadline_at, s.late_minutes, s.content_tag,
                   s.receipt_batch_id, s.receipt_index, s.sealed,
                   f.id AS f_id, f.code AS f_code, f.name AS f_name, f.kind AS f_kind, f.province AS f_province,
                   f.commune AS f_commune, f.address AS f_address, f.zone AS f_zone, f.authority AS f_authority,
                   f.capacity AS f_capacity, f.sandbox AS f_sandbox
            FROM stays s JOIN facilities f ON f.id = s.facility_id AND NOT f.sandbox
            WHERE s.id >= span.lo AND s.id < span.hi AND s.id < $4 AND s.document_index = span.tag
            ORDER BY s.id DESC LIMIT $5
        ) AS s
        LEFT JOIN LATERAL (
            SELECT l.verification FROM sync_log l
            WHERE l.facility_id = s.facility_id AND l.stay_id = s.id ORDER BY l.version DESC LIMIT 1
        ) AS v ON true
        ORDER BY s.id DESC LIMIT $5
        """,
        [span.lo for span in spans],
        [span.hi for span in spans],
        [span.tag for span in spans],
        before,
        limit,
    )
    return [Hit(_stay(row), facility(row, "f_"), row["verification"]) for row in rows]


def _stay(row: asyncpg.Record) -> StayRow:
    return StayRow(**{name: row[name] for name in StayRow.__slots__})
