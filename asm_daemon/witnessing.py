"""What the daemon makes of its witness (nhân chứng): it takes cosignatures, and what leaves the house stops without.

A witness outside of this installation confirms that the audit only grew. While it is silent, first the releases for
departments stop, then what the police may read; declarations go on. Without a witness in the settings nothing stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import asyncpg
import orjson
import structlog
from prometheus_client import Gauge

from asm_daemon.audit import AuditBroken, NotSealed, inclusion_proof, note_key
from asm_daemon.ledger import (
    BadNote,
    Checkpoint,
    NoteKey,
    leaf_hash,
    open_checkpoint,
    open_cosignature,
    read_checkpoint,
)
from asm_daemon.problems import Refused
from asm_daemon.store import LOST, Connection, alerts
from asm_daemon.store import audit as store
from asm_daemon.store.alerts import AlertKind
from schemas.audit import AuditState, WitnessState

ACQUIRE_SECONDS = 5.0
CLOCK_DIFFERENCE = timedelta(minutes=5)
"""How far the witness's clock may be ahead of ours: a cosignature of tomorrow would cover a silence until then."""
WITNESS_AGE = Gauge(
    "asm_audit_witness_age_seconds", "Since the witness confirmed the whole audit last; 0 without one in the settings"
)

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Witness:
    """Who is believed, and how many hours it may be silent until releases and police reads stop."""

    key: NoteKey
    release_hours: int
    read_hours: int


@dataclass(frozen=True, slots=True)
class Watch:
    """The audit as others confirm it. `pool` connects as asm_audit; `log_key` signs the checkpoints."""

    pool: asyncpg.Pool
    log_key: NoteKey
    witness: Witness | None

    async def require_releases(self, now: datetime) -> None:
        """Refused `audit_not_witnessed` while the witness was silent too long for anything to be given out in bulk."""
        if self.witness is not None:
            await self._require(self.witness, self.witness.release_hours, now)

    async def require_reads(self, now: datetime) -> None:
        """Refused `audit_not_witnessed` while the witness was silent too long for the police to read."""
        if self.witness is not None:
            await self._require(self.witness, self.witness.read_hours, now)

    async def _require(self, witness: Witness, hours: int, now: datetime) -> None:
        try:
            async with self.pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
                _, silence = await _standing(connection, self.log_key, witness.key, now)
        except (asyncpg.PostgresError, *LOST):
            log.exception("audit.witness_unknown")
            raise Refused("audit_unavailable", retry_after_seconds=5) from None
        if silence > timedelta(hours=hours):
            raise Refused("audit_not_witnessed", retry_after_seconds=300)


def watch(pool: asyncpg.Pool, deployment: str, public_key: bytes, witness: Witness | None) -> Watch:
    """The watch over the audit of this deployment, whose checkpoints `public_key` signs."""
    return Watch(pool, note_key(deployment, public_key), witness)


async def _standing(
    connection: Connection, log_key: NoteKey, witness: NoteKey, now: datetime
) -> tuple[store.Cosigned, timedelta]:
    """What the witness has confirmed, and for how long the newest state has not been.

    What is signed decides, not the columns beside it: the time in the cosignature, and of the first entry that it does
    not cover the time in its body, which the tree proves. A witness that is shown yesterday's log again and again
    confirms nothing of today's.
    """
    kept = await store.read_cosignature(connection, witness.name)
    since = []
    try:
        position = 0
        if kept.note is not None and kept.line is not None:
            position = open_checkpoint(kept.note, log_key).size
            since.append(open_cosignature(kept.note, kept.line, witness))
        if kept.size > position or kept.uncovered is not None:
            since.append(await _proven_time(connection, log_key, position, kept.uncovered or b""))
    except (BadNote, AuditBroken, NotSealed):
        log.exception("audit.cosignature_forged")
        return kept, timedelta.max
    return kept, max(timedelta(), now - min(since, default=now))


async def _proven_time(connection: Connection, log_key: NoteKey, position: int, body: bytes) -> datetime:
    """When the entry at `position` was made. Raises AuditBroken if this is not its body, NotSealed, BadNote."""
    proof = await inclusion_proof(connection, position)
    open_checkpoint(proof.note, log_key)
    if leaf_hash(body) != proof.leaf:
        raise AuditBroken("an entry is not what was sealed")
    return datetime.fromisoformat(orjson.loads(body)["at"])


async def take_cosignature(watched: Watch, size: int, line: str, now: datetime) -> None:
    """Keep a witness's confirmation of the checkpoint of `size`; an older one than is kept changes nothing.

    Refused `not_found` (no witness is expected, or no checkpoint has this size), `cosignature_refused`.
    """
    if watched.witness is None:
        raise Refused("not_found")
    key = watched.witness.key
    async with watched.pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        notes = await store.checkpoints_of(connection, (size,))
        if size not in notes:
            raise Refused("not_found")
        try:
            cosigned_at = open_cosignature(notes[size], line, key)
        except BadNote:
            raise Refused("cosignature_refused") from None
        if cosigned_at > now + CLOCK_DIFFERENCE:
            raise Refused("cosignature_refused")
        await store.keep_cosignature(connection, key.name, size, cosigned_at, line)


async def cosigned_checkpoint(watched: Watch) -> str | None:
    """The newest checkpoint that the witness cosigned, as a note with both signatures; None before the first."""
    if watched.witness is None:
        return None
    async with watched.pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        kept = await store.read_cosignature(connection, watched.witness.key.name)
    return None if kept.note is None or kept.line is None else kept.note + kept.line


async def state(watched: Watch, now: datetime) -> AuditState:
    """How large the audit is, and how the witness stands to it; also what the metric tells."""
    async with watched.pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
        newest = await store.latest_checkpoint(connection)
        size = read_checkpoint(newest).size if newest else 0
        if watched.witness is None:
            WITNESS_AGE.set(0)
            return AuditState(size=size, witness=None)
        kept, silence = await _standing(connection, watched.log_key, watched.witness.key, now)
    WITNESS_AGE.set(silence.total_seconds())
    return AuditState(size=size, witness=_witness_state(watched.witness, kept, silence))


def _witness_state(witness: Witness, kept: store.Cosigned, silence: timedelta) -> WitnessState:
    held: Checkpoint | None = read_checkpoint(kept.note) if kept.note is not None else None
    return WitnessState(
        name=witness.key.name,
        confirmed_size=held.size if held else 0,
        silent_seconds=int(silence.total_seconds()),
        releases=silence <= timedelta(hours=witness.release_hours),
        police_reads=silence <= timedelta(hours=witness.read_hours),
    )


async def watch_once(watched: Watch, now: datetime) -> dict[str, int]:
    """Alert the operator once releases have stopped for want of the witness. Counts: `silent_seconds`."""
    found = await state(watched, now)
    if found.witness is None:
        return {}
    if not found.witness.releases:
        async with watched.pool.acquire(timeout=ACQUIRE_SECONDS) as connection, connection.transaction():
            details = {"silent_hours": found.witness.silent_seconds // 3600, "confirmed": found.witness.confirmed_size}
            await alerts.raise_alert(connection, AlertKind.WITNESS_SILENT, found.witness.name, details, now)
    return {"silent_seconds": found.witness.silent_seconds}
