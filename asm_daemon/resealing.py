"""Re-encryption (niêm phong lại): when the data key of a month was replaced, what the old one sealed is sealed anew.

There is no list of work: what is to be done is what is still under an older key, which every blob says in its header.
So a run that broke off has lost nothing, and running it twice changes nothing. The old key is retired when a whole
pass, begun long enough after the last find, has found nothing: then no process can still write with it.

Receipts stay what they are: a stay's new blob carries the hash of the one its receipt was signed over. The old key may
be in the wrong hands, so a stay is sealed anew only if it is what its receipt says; otherwise a forgery would pass into
the new key. What became of each blob is kept, and signed by the audit.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.crypto import KeyName, Keyring, RecordName, Tampered, UnknownEpoch, epoch_bounds
from asm_daemon.issuing import leaf_of
from asm_daemon.keystores import MESSAGE_LIMIT, KeyFacts
from asm_daemon.ledger import HASH_BYTES, Tree, leaf_hash
from asm_daemon.model import Contents, ReceiptBatch, StayRow
from asm_daemon.sealing import open_contents, reseal_contents
from asm_daemon.store import Connection
from asm_daemon.store import sealed as store
from asm_daemon.store import stays as stays_store
from asm_daemon.store.alerts import AlertKind, raise_alert

ROWS_PER_PAGE = 500
PAGES_PER_RUN = 40
SETTLE = timedelta(minutes=10)
"""How long after the last find a pass has to begin to count: longer than a process takes to notice a new key and to
commit what it had begun."""
_SCHEMA_VERSION = 1
_TABLE_NAMES = tuple(store.TABLES)
_STAY_TABLES = ("stays", "stay_versions")
_PAIR_BYTES = 2 * HASH_BYTES
_Blob = tuple[store.Place, bytes, bytes]  # before, after


async def reencrypt_once(
    pool: asyncpg.Pool,
    keyring: Keyring,
    retire: Callable[[KeyName], object],
    now: datetime,
    *,
    pages: int = PAGES_PER_RUN,
    rows: int = ROWS_PER_PAGE,
    settle: timedelta = SETTLE,
) -> dict[str, int]:
    """Go on re-encrypting every month that has replaced data keys, by at most `pages` transactions of `rows` records.

    `pool` connects as asm_retention; `retire` destroys a key that nothing is under any more. Returns counts.
    """
    counts = {"resealed": 0, "refused": 0, "retired": 0}
    months: dict[int, list[KeyName]] = {}
    for old, _ in keyring.superseded():
        months.setdefault(old.epoch or 0, []).append(old)
    for epoch, replaced in months.items():
        while pages > 0:
            pages -= 1
            async with pool.acquire() as connection, connection.transaction():
                step = await _step(connection, keyring, epoch, rows, settle, now)
            counts["resealed"] += step.resealed
            counts["refused"] += step.refused
            if step.clean:
                await _retire(pool, epoch, replaced, retire, now)
                counts["retired"] += len(replaced)
            if step.clean or step.waits:
                break
            await asyncio.sleep(0)
    return counts


@dataclass(frozen=True, slots=True)
class _Step:
    """What one transaction did. `clean`: nothing is left under an older key; `waits`: nothing more can be done now."""

    resealed: int = 0
    refused: int = 0
    clean: bool = False
    waits: bool = False


async def _step(
    connection: Connection, keyring: Keyring, epoch: int, rows: int, settle: timedelta, now: datetime
) -> _Step:
    version = keyring.sealing_version(epoch)
    progress = await store.take_progress(connection, epoch, version, _TABLE_NAMES[0], now)
    table = progress.sealed_table
    if table is None:
        return await _next_pass(connection, progress, settle, now)
    found = await store.page(connection, table, epoch_bounds(epoch), progress.after, rows, version)
    old = [record for record in found if record.sealed is not None]
    blobs: list[_Blob] = []
    refused = 0
    if old:
        blobs, refused = await _reseal(connection, keyring, table, epoch, old, now)
        await store.replace(connection, table, blobs)
        await _record(connection, epoch, version, table, blobs, now)
        progress = progress._replace(last_found_at=now, found=progress.found + len(blobs))
        progress = progress._replace(refused=progress.refused + refused, resealed=progress.resealed + len(blobs))
    if len(found) < rows:
        progress = progress._replace(sealed_table=_after(table), after=store.BEGINNING)
    else:
        progress = progress._replace(after=found[-1].place)
    await store.keep_progress(connection, progress)
    return _Step(resealed=len(blobs), refused=refused)


def _after(table: str) -> str | None:
    """The table that comes after this one; None after the last."""
    rest = _TABLE_NAMES[_TABLE_NAMES.index(table) + 1 :]
    return rest[0] if rest else None


async def _next_pass(connection: Connection, progress: store.Progress, settle: timedelta, now: datetime) -> _Step:
    """At the end of a pass: done, or once more from the beginning, now or when what was under way has settled."""
    settled_at = progress.last_found_at + settle
    if not progress.found and not progress.refused and progress.pass_started_at >= settled_at:
        return _Step(clean=True)
    if now < settled_at:
        return _Step(waits=True)
    again = progress._replace(
        pass_started_at=now, sealed_table=_TABLE_NAMES[0], after=store.BEGINNING, found=0, refused=0
    )
    await store.keep_progress(connection, again)
    return _Step()


async def _retire(
    pool: asyncpg.Pool, epoch: int, replaced: Sequence[KeyName], retire: Callable[[KeyName], object], now: datetime
) -> None:
    """Say that the keys go, and then let them go: after a crash between the two it is said and done again."""
    details = {"epoch": epoch, "keys": [str(name) for name in replaced]}
    async with pool.acquire() as connection, connection.transaction():
        await audit.append(connection, _entry("keys.retire", f"epoch/{epoch}", details, now))
        await store.end_progress(connection, epoch)
    for name in replaced:
        retire(name)


async def watch_once(pool: asyncpg.Pool, inventory: Iterable[KeyFacts], now: datetime) -> dict[str, int]:
    """Alert the operator to every data key that has sealed half of what it may. `pool` connects as asm_retention."""
    spent = [facts for facts in inventory if facts.state == "active" and (facts.messages or 0) >= MESSAGE_LIMIT // 2]
    for facts in spent:
        details = {"messages": facts.messages or 0, "limit": MESSAGE_LIMIT}
        async with pool.acquire() as connection:
            await raise_alert(connection, AlertKind.KEY_NEARLY_SPENT, str(facts.name), details, now)
    return {"alerts": len(spent)}


# -- sealing anew ------------------------------------------------------------------------------------------------------


async def _reseal(
    connection: Connection,
    keyring: Keyring,
    table: str,
    epoch: int,
    records: Sequence[store.SealedRecord],
    now: datetime,
) -> tuple[list[_Blob], int]:
    """The new blobs, and how many records were refused, for which the operator is alerted."""
    sealed: dict[store.Place, tuple[bytes, bytes] | None]
    if table in _STAY_TABLES:
        sealed = await _reseal_stays(connection, keyring, table, records)
    else:
        sealed = {record.place: _reseal_other(keyring, epoch, record) for record in records}
    blobs = []
    for place, both in sealed.items():
        if both is not None:
            blobs.append((place, *both))
        else:
            subject = f"{table}/{place.id}/{place.part}"
            await raise_alert(connection, AlertKind.NOT_REENCRYPTED, subject, {"epoch": epoch}, now)
    return blobs, len(sealed) - len(blobs)


def _reseal_other(keyring: Keyring, epoch: int, record: store.SealedRecord) -> tuple[bytes, bytes] | None:
    name = RecordName(record.kind, epoch, record.facility_id, record.place.id, _SCHEMA_VERSION, record.version)
    before = record.sealed or b""
    try:
        return before, keyring.seal(name, keyring.open(name, before))
    except Tampered:
        return None


async def _reseal_stays(
    connection: Connection, keyring: Keyring, table: str, records: Sequence[store.SealedRecord]
) -> dict[store.Place, tuple[bytes, bytes] | None]:
    """Versions of stays, as they are now: one that changed meanwhile is left to the next pass."""
    wanted = {record.place for record in records}
    rows = await _rows(connection, table, wanted)
    proofs = await _proofs(connection, rows.values())
    sealed: dict[store.Place, tuple[bytes, bytes] | None] = {}
    for place, row in rows.items():
        contents = _as_signed(keyring, row, proofs)
        sealed[place] = None if contents is None else (row.sealed, reseal_contents(keyring, row, contents))
    return sealed


async def _rows(connection: Connection, table: str, wanted: Iterable[store.Place]) -> dict[store.Place, StayRow]:
    read = stays_store.read_stays if table == "stays" else stays_store.read_versions
    stays = sorted({(place.facility_id, place.id) for place in wanted})
    rows = await read(connection, [facility_id for facility_id, _ in stays], [stay_id for _, stay_id in stays])
    placed = {store.Place(row.facility_id, row.id, row.version): row for row in rows}
    return {place: row for place, row in placed.items() if place in set(wanted)}


@dataclass(frozen=True, slots=True)
class _Proofs:
    """What receipts were signed over: the codes of facilities, and the signed batches."""

    codes: dict[int, str]
    batches: dict[UUID, ReceiptBatch]

    def leaf(self, row: StayRow) -> bytes | None:
        """The signed leaf hash of a version; None if its batch has none there."""
        batch = self.batches.get(row.receipt_batch_id)
        at = row.receipt_index * HASH_BYTES
        return batch.leaves[at : at + HASH_BYTES] if batch is not None and at >= 0 else None


async def _proofs(connection: Connection, rows: Iterable[StayRow]) -> _Proofs:
    rows = list(rows)
    codes = await store.facility_codes(connection, sorted({row.facility_id for row in rows}))
    batches = await stays_store.read_batches(connection, sorted({row.receipt_batch_id for row in rows}))
    return _Proofs(codes, batches)


def _as_signed(keyring: Keyring, row: StayRow, proofs: _Proofs) -> Contents | None:
    """The opened version if it is, with all that stands beside it, what its receipt was signed over; None if not."""
    try:
        contents = open_contents(keyring, row)
        leaf = leaf_of(proofs.codes.get(row.facility_id, ""), row, contents).hash()
    except (Tampered, UnknownEpoch, ValueError, TypeError, KeyError):
        return None
    return contents if leaf == proofs.leaf(row) else None


async def _record(
    connection: Connection, epoch: int, version: int, table: str, blobs: Sequence[_Blob], now: datetime
) -> None:
    """Keep what became of each blob, and have the audit sign it."""
    if not blobs:
        return
    pairs = [sha256(before).digest() + sha256(after).digest() for _, before, after in blobs]
    reseal_id = uuid7()
    details = {"epoch": epoch, "key_version": version, "table": table, "records": len(pairs), "root": _root(pairs)}
    entry_id = await audit.append(connection, _entry("keys.reencrypt", f"reseals/{reseal_id}", details, now))
    await store.insert_reseal(connection, store.Reseal(reseal_id, epoch, version, now, entry_id, b"".join(pairs)))


def _root(pairs: Iterable[bytes]) -> str:
    return Tree(leaf_hash(pair) for pair in pairs).root.hex()


def _entry(action: str, subject: str, details: dict[str, Any], now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now, actor_kind="daemon", actor="resealing", action=action, object=subject, details=details
    )


# -- verifying ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StaysVerification:
    """What a verification of stays saw. Good only if `faults` is empty: (what is wrong, where)."""

    epochs: tuple[int, ...]
    stays: int
    resealed: int
    faults: tuple[tuple[str, str], ...]


async def verify_stays(
    pool: asyncpg.Pool, audit_pool: asyncpg.Pool, keyring: Keyring, destroyed: Iterable[int], *, sample: int
) -> StaysVerification:
    """Open `sample` stays of each month, at random, with their older versions, and hold them against their receipts.

    Also: a month with stays has keys; what a destroyed month still holds; and for what was re-encrypted, that the audit
    signed it. `pool` connects as asm_retention, `audit_pool` as asm_audit.
    """
    faults: list[tuple[str, str]] = []
    gone, seen, resealed = set(destroyed), 0, 0
    async with pool.acquire() as connection:
        months = await store.partitioned_months(connection)
        epochs = await store.months_with_stays(connection, [(epoch, *epoch_bounds(epoch)) for epoch in months])
    for epoch in epochs:
        if epoch not in keyring.epochs():
            faults.append(("stays_of_a_destroyed_month" if epoch in gone else "no_key", f"epoch/{epoch}"))
            continue
        chains, broken = await _chains(pool, audit_pool, epoch)
        faults += [("reencryption_not_signed", f"reseals/{reseal_id}") for reseal_id in broken]
        for row, contents in await _sampled(pool, keyring, epoch, sample):
            seen += 1
            where = f"stays/{row.id}/{row.version}"
            if contents is None:
                faults.append(("not_what_was_signed", where))
            elif contents.signed_sha256 is not None:
                resealed += 1
                if not _leads(chains, contents.signed_sha256, sha256(row.sealed).digest()):
                    faults.append(("reencryption_not_recorded", where))
    return StaysVerification(tuple(epochs), seen, resealed, tuple(faults))


async def _sampled(
    pool: asyncpg.Pool, keyring: Keyring, epoch: int, sample: int
) -> list[tuple[StayRow, Contents | None]]:
    """Some versions of stays of a month, each with its contents if it is what was signed."""
    lo, hi = epoch_bounds(epoch)
    async with pool.acquire() as connection:
        first, last = await store.first_and_last(connection, lo, hi) or (lo, lo)
        width = last.int - first.int + 1
        probes = [first, last, *(UUID(int=first.int + secrets.randbelow(width)) for _ in range(sample))]
        stays = await store.near(connection, probes, hi)
        facility_ids, stay_ids = [each for each, _ in stays], [each for _, each in stays]
        rows = await stays_store.read_stays(connection, facility_ids, stay_ids)
        rows += await stays_store.read_versions(connection, facility_ids, stay_ids)
        proofs = await _proofs(connection, rows)
    return [(row, _as_signed(keyring, row, proofs)) for row in rows]


async def _chains(pool: asyncpg.Pool, audit_pool: asyncpg.Pool, epoch: int) -> tuple[dict[bytes, bytes], list[UUID]]:
    """Which blob came of which (SHA-256 after → before), and the batches that the audit did not sign like that."""
    async with pool.acquire() as connection:
        reseals = await store.read_reseals(connection, epoch)
    async with audit_pool.acquire() as connection:
        bodies = await store.audited_bodies(connection, [reseal.audit_entry_id for reseal in reseals])
    chains: dict[bytes, bytes] = {}
    broken = []
    for reseal in reseals:
        pairs = [reseal.pairs[at : at + _PAIR_BYTES] for at in range(0, len(reseal.pairs), _PAIR_BYTES)]
        body = bodies.get(reseal.audit_entry_id)
        signed = orjson.loads(body) if body else {}
        if signed.get("object") != f"reseals/{reseal.id}" or signed["details"].get("root") != _root(pairs):
            broken.append(reseal.id)
            continue
        chains |= {pair[HASH_BYTES:]: pair[:HASH_BYTES] for pair in pairs}
    return chains, broken


def _leads(chains: dict[bytes, bytes], signed: bytes, current: bytes) -> bool:
    """Whether the blob that is there came of the one that was signed."""
    for _ in range(len(chains) + 1):
        if current == signed:
            return True
        if current not in chains:
            return False
        current = chains[current]
    return False


async def stays_in_force(pool: asyncpg.Pool, epoch: int) -> int:
    """How many stays of a month have not ended: as long as there is one, its keys may not be destroyed."""
    async with pool.acquire() as connection:
        return await store.undeparted(connection, *epoch_bounds(epoch))
