"""Whether stays are what was signed: each record against its receipt, and each receipt against the records.

A receipt's leaf binds a version's blob and what stands beside it; the batch of leaves is signed, and its root is in the
audit. So a record that was edited, moved or forged is found at itself, and one that was removed or rolled back at the
leaf that has no record any more. What stands in clear and is not in the leaf (search tags, times, state, departure) is
sealed in the blob: what was opened tells.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import asyncpg

from asm_daemon.crypto import KeyPurpose, Keyring, Tampered, UnknownEpoch, epoch_bounds
from asm_daemon.decisions import content_tag_of, tags_of
from asm_daemon.issuing import leaf_of, tree_of
from asm_daemon.ledger import HASH_BYTES, Tree, leaf_hash
from asm_daemon.model import Contents, ReceiptBatch, StayRow
from asm_daemon.receipts import signs_batch
from asm_daemon.sealing import open_contents
from asm_daemon.store import Connection
from asm_daemon.store import retention as retention_store
from asm_daemon.store import sealed as store
from asm_daemon.store import stays as stays_store
from asm_daemon.store import told as told_store
from asm_daemon.vouching import read_vouched

_STATES_AFTER = {  # what a stay can be after the event that made its version
    "declare": {"declared"},
    "correct": {"declared", "departed"},
    "check_out": {"departed"},
    "undo_check_out": {"declared"},
    "extend": {"declared"},
    "cancel": {"cancelled"},
}
STAY_TABLES = ("stays", "stay_versions")
FAULT_LIMIT = 1_000
KEPT_LEAVES_BYTES = 128 << 20
"""How much of the signed batches of a month is kept while it is gone through: the leaves of four million versions."""
_DRAWS = (1, 10, 100, 10**9)
"""Of how many times as many blocks a sample is drawn if there were too few stays in them, which somebody may see to."""
_PAIR_BYTES = 2 * HASH_BYTES
_PAGE = 500


# -- one record --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Proofs:
    """What receipts were signed over: the codes of facilities, and the signed batches."""

    codes: dict[int, str]
    batches: dict[UUID, ReceiptBatch]

    def leaf(self, row: StayRow) -> bytes | None:
        """The signed leaf hash of a version; None if its batch has none there."""
        batch = self.batches.get(row.receipt_batch_id)
        at = row.receipt_index * HASH_BYTES
        return batch.leaves[at : at + HASH_BYTES] if batch is not None and at >= 0 else None


NO_PROOFS = Proofs({}, {})


async def read_proofs(
    connection: Connection, keyring: Keyring, rows: Iterable[StayRow], before: Proofs = NO_PROOFS
) -> Proofs:
    """What these versions' receipts were signed over; a batch that we did not sign as it stands there is left out.

    `before` are the proofs of the page before: the ends of stays lie in other batches than their beginnings, so that
    the same batch is needed for many pages of a month, and a signature costs more than all else about a stay.
    """
    rows = list(rows)
    if sum(len(batch.leaves) for batch in before.batches.values()) > KEPT_LEAVES_BYTES:
        before = NO_PROOFS
    codes = {row.facility_id for row in rows} - before.codes.keys()
    batches = {row.receipt_batch_id for row in rows} - before.batches.keys()
    found = (await stays_store.read_batches(connection, sorted(batches))).values()
    ours = await asyncio.to_thread(lambda: {batch.id: batch for batch in found if is_ours(keyring, batch)})
    return Proofs(before.codes | await store.facility_codes(connection, sorted(codes)), before.batches | ours)


def is_ours(keyring: Keyring, batch: ReceiptBatch) -> bool:
    """Whether a batch's note is our signature over its leaves and its time."""
    keys = [keyring.signing_key(each).public_key_bytes for each in (KeyPurpose.RECEIPT, KeyPurpose.RECEIPT_TRIAL)]
    return signs_batch(batch.checkpoint, batch.id, tree_of(batch), batch.signed_at, keys)


def as_signed(keyring: Keyring, row: StayRow, proofs: Proofs) -> Contents | None:
    """The opened version if it is, with all that stands beside it, what was signed and sealed; None if not.

    Whoever is about to act on the columns of a stay (to forget it, to seal it anew) asks this first.
    """
    contents = _as_receipted(keyring, row, proofs)
    sound = contents is not None and _times_agree(row, contents) and _state_agrees(keyring, row, contents)
    return contents if sound else None


def _as_receipted(keyring: Keyring, row: StayRow, proofs: Proofs) -> Contents | None:
    """The opened version if it is what its receipt was signed over."""
    try:
        contents = open_contents(keyring, row)
        leaf = leaf_of(proofs.codes.get(row.facility_id, ""), row, contents).hash()
    except (Tampered, UnknownEpoch, ValueError, TypeError, KeyError):
        return None
    return contents if leaf == proofs.leaf(row) else None


def _times_agree(row: StayRow, contents: Contents) -> bool:
    """Whether arrival and planned departure beside the blob are those that were declared."""
    planned = contents.declared.get("planned_departure_at")
    declared = (contents.declared["arrived_at"], planned)
    beside = (row.arrived_at, row.planned_departure_at)
    return beside == tuple(datetime.fromisoformat(text) if text else None for text in declared)


def _state_agrees(keyring: Keyring, row: StayRow, contents: Contents) -> bool:
    """Whether state, departure, time of the first declaration and content tag beside the blob are those sealed in it.

    In a blob from before they were sealed, the content tag answers for state and departure, and the signed event.
    """
    if row.content_tag != content_tag_of(keyring, contents.declared, row.status, row.departed_at):
        return False
    if contents.beside is not None:
        return contents.beside == (row.status, row.departed_at, row.declared_at)
    return row.status in _STATES_AFTER[row.event] and (row.version > 1 or row.declared_at == row.received_at)


async def rows_at(connection: Connection, table: str, wanted: Iterable[store.Place]) -> dict[store.Place, StayRow]:
    """Versions of stays in one of `STAY_TABLES`; a place where there is another version by now is left out."""
    places = set(wanted)
    read = stays_store.read_stays if table == "stays" else stays_store.read_versions
    stays = sorted({(place.facility_id, place.id) for place in places})
    rows = await read(connection, [facility_id for facility_id, _ in stays], [stay_id for _, stay_id in stays])
    placed = {store.Place(row.facility_id, row.id, row.version): row for row in rows}
    return {place: row for place, row in placed.items() if place in places}


def pairs_root(pairs: Iterable[bytes]) -> str:
    """The Merkle root over (SHA-256 before ‖ after) of re-encrypted blobs, as the audit has it."""
    return Tree(leaf_hash(pair) for pair in pairs).root.hex()


def forgotten_root(rows: Iterable[retention_store.Forgotten]) -> str:
    """The Merkle root over forgotten places (month ‖ batch ‖ index, in order), as the audit has it."""
    ordered = sorted(
        row.epoch.to_bytes(4, "big") + row.batch_id.bytes + index.to_bytes(4, "big")
        for row in rows
        for index in row.indexes
    )
    return Tree(map(leaf_hash, ordered)).root.hex()


# -- all of them -------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class StaysVerification:
    """What a verification of stays saw. Good only if `faults` (at most 1,000) is empty: (what is wrong, where)."""

    epochs: list[int] = field(default_factory=list)
    versions: int = 0
    reencrypted: int = 0
    batches: int = 0
    faults: list[tuple[str, str]] = field(default_factory=list)

    def fault(self, kind: str, subject: str) -> None:
        """Note a fault."""
        if len(self.faults) < FAULT_LIMIT:
            self.faults.append((kind, subject))


async def verify_stays(
    pool: asyncpg.Pool, audit_pool: asyncpg.Pool, keyring: Keyring, destroyed: Iterable[int], *, sample: int | None
) -> StaysVerification:
    """Hold stays and their versions against their receipts: `sample` of each month at random, or all of them.

    Also: a month with stays has keys; what a destroyed month still holds; for what was re-encrypted, that the audit
    signed it; and for all, that every signed leaf has its record, and every signed batch is there and in the audit.
    `pool` connects as asm_retention, `audit_pool` as asm_audit. All is read in one snapshot.
    """
    found, gone = StaysVerification(), set(destroyed)
    audited_before = await _audited_roots(audit_pool, keyring) if sample is None else {}
    seen: dict[UUID, set[int]] = {}
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        months = await store.partitioned_months(connection)
        found.epochs = await store.months_with_stays(connection, [(month, *epoch_bounds(month)) for month in months])
        for epoch in found.epochs:
            if epoch not in keyring.epochs():
                found.fault("stays_of_a_destroyed_month" if epoch in gone else "no_key", f"epoch/{epoch}")
                continue
            chains = await _chains(connection, audit_pool, keyring, epoch, found)
            pages = _every_page(connection, epoch) if sample is None else _sampled(connection, epoch, sample)
            proofs = NO_PROOFS
            async for rows in pages:
                proofs = await read_proofs(connection, keyring, rows, proofs)
                await _check_rows(connection, keyring, rows, proofs, chains, found)
                for row in rows:
                    seen.setdefault(row.receipt_batch_id, set()).add(row.receipt_index)
        if sample is None:
            for batch_id, forgotten in (await _forgotten(connection, audit_pool, keyring, found)).items():
                seen.setdefault(batch_id, set()).update(forgotten)
            batches = await _check_batches(connection, keyring, seen, found)
    if sample is None:
        audited = await _audited_roots(audit_pool, keyring)
        for batch_id, signed_root in batches.items():
            if audited.get(batch_id) != signed_root:
                found.fault("receipts_not_audited", f"receipt_batches/{batch_id}")
        for batch_id in audited_before.keys() - batches.keys():
            found.fault("receipts_missing", f"receipt_batches/{batch_id}")
    return found


async def _every_page(connection: Connection, epoch: int) -> AsyncIterator[list[StayRow]]:
    for table in STAY_TABLES:
        after = store.BEGINNING
        while page := await store.page(connection, table, epoch_bounds(epoch), after, _PAGE, 0):
            yield list((await rows_at(connection, table, [record.place for record in page])).values())
            after = page[-1].place


async def _sampled(connection: Connection, epoch: int, sample: int) -> AsyncIterator[list[StayRow]]:
    stays: list[tuple[int, UUID]] = []
    for times in _DRAWS:
        if len(stays) < sample:
            stays = await store.sampled(connection, epoch, *epoch_bounds(epoch), sample, blocks=sample * times)
    places = [facility_id for facility_id, _ in stays], [stay_id for _, stay_id in stays]
    yield await stays_store.read_stays(connection, *places) + await stays_store.read_versions(connection, *places)


async def _check_rows(
    connection: Connection,
    keyring: Keyring,
    rows: Sequence[StayRow],
    proofs: Proofs,
    chains: dict[bytes, bytes],
    found: StaysVerification,
) -> None:
    tags = await store.tags(connection, [row.facility_id for row in rows], [row.id for row in rows])
    named: dict[tuple[int, bytes], UUID] = {}
    for row in rows:
        found.versions += 1
        where = f"stays/{row.id}/{row.version}"
        contents = _as_receipted(keyring, row, proofs)
        if contents is None:
            found.fault("not_what_was_signed", where)
            continue
        if tags.get((row.id, row.version)) not in (None, tags_of(keyring, row, contents)):
            found.fault("tags_changed", where)
        if contents.source_ref is not None:
            named[row.facility_id, keyring.reference_tag(row.facility_id, contents.source_ref)] = row.id
        if not _times_agree(row, contents):
            found.fault("times_changed", where)
        if not _state_agrees(keyring, row, contents):
            found.fault("state_changed", where)
        if contents.signed_sha256 is not None:
            found.reencrypted += 1
            if not _leads(chains, contents.signed_sha256, sha256(row.sealed).digest()):
                found.fault("reencryption_not_recorded", where)
    await _check_names(connection, named, found)


async def _check_names(connection: Connection, named: dict[tuple[int, bytes], UUID], found: StaysVerification) -> None:
    """The senders' references lead to the stays that were declared under them."""
    leads_to = await store.named_stays(connection, [place for place, _ in named], [tag for _, tag in named])
    for name, stay_id in named.items():
        if leads_to.get(name) != stay_id:
            found.fault("reference_changed", f"stays/{stay_id}")


async def _check_batches(
    connection: Connection, keyring: Keyring, seen: dict[UUID, set[int]], found: StaysVerification
) -> dict[UUID, str]:
    """Every leaf of every batch has its record, and the batch's note signs its leaves; return the signed roots."""
    roots: dict[UUID, str] = {}
    after = UUID(int=0)
    while batches := await store.batches_after(connection, after, _PAGE):
        for batch in batches:
            found.batches += 1
            roots[batch.id] = base64.b64encode(tree_of(batch).root).decode("ascii")
            if not is_ours(keyring, batch):
                found.fault("receipts_changed", f"receipt_batches/{batch.id}")
            for index in set(range(len(batch.leaves) // HASH_BYTES)) - seen.get(batch.id, set()):
                found.fault("record_missing", f"receipt_batches/{batch.id}/{index}")
        after = batches[-1].id
    return roots


async def _forgotten(
    connection: Connection, audit_pool: asyncpg.Pool, keyring: Keyring, found: StaysVerification
) -> dict[UUID, set[int]]:
    """The places that were forgotten on purpose, as far as we vouch for the list; the rest is a fault, and misses."""
    lists: dict[UUID, list[retention_store.Forgotten]] = {}
    for row in await retention_store.forgotten_receipts(connection):
        if row.audit_entry_id is None:
            found.fault("forgotten_not_signed", f"receipt_batches/{row.batch_id}")
        else:
            lists.setdefault(row.audit_entry_id, []).append(row)
    entries = await _vouched(audit_pool, keyring, list(lists))
    places: dict[UUID, set[int]] = {}
    for entry_id, rows in lists.items():
        entry = entries.get(entry_id)
        if entry is None or entry["details"].get("forgotten_root") != forgotten_root(rows):
            found.fault("forgotten_not_signed", f"audit/{entry_id}")
            continue
        for row in rows:
            places.setdefault(row.batch_id, set()).update(row.indexes)
    return places


async def _audited_roots(pool: asyncpg.Pool, keyring: Keyring) -> dict[UUID, str]:
    """The batches of receipts that we named in the audit, with their roots."""
    roots: dict[UUID, str] = {}
    words = (b'"stays.commit"',)
    async with pool.acquire() as connection:
        _take_roots(keyring, await told_store.pending(connection, words), roots)
        async for entries, _ in told_store.telling(connection, 0, words):
            await asyncio.to_thread(_take_roots, keyring, entries, roots)
    return roots


def _take_roots(keyring: Keyring, entries: Iterable[told_store.Body], roots: dict[UUID, str]) -> None:
    for each in entries:
        entry = read_vouched(keyring, each.body)
        if entry is not None and entry["action"] == "stays.commit":
            roots[UUID(entry["object"])] = entry["details"]["checkpoint"]


async def _vouched(pool: asyncpg.Pool, keyring: Keyring, entry_ids: Sequence[UUID]) -> dict[UUID, Mapping[str, Any]]:
    """The audit entries of these ids that we wrote; others may have written some beside them under the same ids."""
    async with pool.acquire() as connection:
        found = [read_vouched(keyring, body) for body in await store.audited_bodies(connection, entry_ids)]
    return {UUID(entry["id"]): entry for entry in found if entry is not None}


# -- what was re-encrypted ---------------------------------------------------------------------------------------------


async def _chains(
    connection: Connection, audit_pool: asyncpg.Pool, keyring: Keyring, epoch: int, found: StaysVerification
) -> dict[bytes, bytes]:
    """Which blob came of which (SHA-256 after → before), as far as the audit signed it."""
    reseals = await store.read_reseals(connection, epoch)
    entries = await _vouched(audit_pool, keyring, [reseal.audit_entry_id for reseal in reseals])
    chains: dict[bytes, bytes] = {}
    for reseal in reseals:
        pairs = [reseal.pairs[at : at + _PAIR_BYTES] for at in range(0, len(reseal.pairs), _PAIR_BYTES)]
        entry = entries.get(reseal.audit_entry_id, {"object": None, "details": {}})
        if (entry["object"], entry["details"].get("root")) == (f"reseals/{reseal.id}", pairs_root(pairs)):
            chains |= {pair[HASH_BYTES:]: pair[:HASH_BYTES] for pair in pairs}
        else:
            found.fault("reencryption_not_signed", f"reseals/{reseal.id}")
    return chains


def _leads(chains: dict[bytes, bytes], signed: bytes, current: bytes) -> bool:
    """Whether the blob that is there came of the one that was signed."""
    for _ in range(len(chains) + 1):
        if current == signed:
            return True
        if current not in chains:
            return False
        current = chains[current]
    return False
