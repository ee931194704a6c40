"""The audit (nhật ký kiểm toán): who did what, in an order that nobody can change afterwards without being seen.

Entries commit with what they are about (`append`) and get their place in an RFC 6962 tree a moment later (`seal_once`),
so writers never wait for each other. Every seal signs a checkpoint. `verify` finds an entry that was edited, removed,
moved or inserted; that the end was cut off shows against a checkpoint which somebody else kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from asm_daemon import vouching
from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey, WrongPurpose
from asm_daemon.ledger import (
    TILE_HEIGHT,
    BadNote,
    Checkpoint,
    Frontier,
    NoteKey,
    Subtree,
    canonical_json,
    complete_subtrees,
    consistency_ranges,
    fold_subtrees,
    inclusion_ranges,
    instant_text,
    leaf_hash,
    open_checkpoint,
    read_checkpoint,
    root,
    sign_checkpoint,
    verify_consistency,
    verify_inclusion,
)
from asm_daemon.store import Connection
from asm_daemon.store import audit as store
from schemas.violations import Text

SEAL_LIMIT = 10_000  # entries in one transaction of sealing
DETAIL_TEXT_LIMIT = 4_096  # characters; search terms sealed to the auditor are the longest
BODY_LIMIT_BYTES = 16_384
FAULT_LIMIT = 100
_PAGE = 2_000


class AuditBroken(Exception):
    """The stored tree is not the one that was signed: nothing may be appended to it before somebody has looked."""


class NotSealed(Exception):
    """There is no such sealed entry."""


@dataclass(frozen=True, slots=True, repr=False)
class AuditEntry:
    """One thing that happened, or was refused.

    `actor` is the id of who did it and `actor_kind` what that is (officer, owner, vendor, guest, operator, system …),
    `action` a dotted verb ("stay.read", "key.revoke"), `object` what it was done to ("stay/<id>").
    `purpose` and `case_ref` are those of a police search. `details` holds ids, counts and hashes (str, int, bool,
    None, lists of them): never a name, a document number or anything else about a person.
    """

    at: datetime
    actor_kind: str
    actor: str
    action: str
    object: str | None = None
    organisation: str | None = None
    purpose: str | None = None
    case_ref: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    id: UUID = field(default_factory=uuid7)

    def body(self) -> bytes:
        """Return the canonical JSON that is stored and hashed. Raises TypeError or ValueError for unfit details."""
        _check_details(self.details.values())
        body = canonical_json(self.members())
        if len(body) > BODY_LIMIT_BYTES:
            raise ValueError(f"an audit entry is longer than {BODY_LIMIT_BYTES} bytes")
        return body

    def members(self) -> dict[str, Any]:
        """Return what the body is made of."""
        return {
            "format": 1,
            "id": str(self.id),
            "at": instant_text(self.at),
            "actor_kind": self.actor_kind,
            "actor": self.actor,
            "organisation": self.organisation,
            "action": self.action,
            "object": self.object,
            "purpose": self.purpose,
            "case_ref": self.case_ref,
            "details": dict(self.details),
        }


def _check_details(values: Iterable[Any]) -> None:
    for value in values:
        if isinstance(value, list | tuple):
            _check_details(value)
        elif not isinstance(value, str | int | None):
            raise TypeError(f"an audit detail cannot be a {type(value).__name__}")
        elif isinstance(value, str) and len(value) > DETAIL_TEXT_LIMIT:
            raise ValueError(f"an audit detail is longer than {DETAIL_TEXT_LIMIT} characters")


@dataclass(frozen=True, slots=True)
class SealCounts:
    """What one seal did: how many entries it placed, and the size of the tree since."""

    entries: int
    size: int


async def append(connection: Connection, entry: AuditEntry) -> UUID:
    """Add `entry` in the caller's transaction, which it commits or rolls back with; return its id.

    Every login that writes may do this, and none of them can read or change what was added.
    """
    await store.insert_pending(connection, store.PendingEntry(entry.id, entry.at, entry.body()))
    return entry.id


async def append_vouched(connection: Connection, keyring: Keyring, entry: AuditEntry) -> UUID:
    """Add an entry that carries the tag by which a reader knows that we wrote it (`vouching`)."""
    details = {**entry.details, vouching.MEMBER: vouching.tag_of(keyring, entry.members())}
    return await append(connection, replace(entry, details=details))


def note_key(deployment: str, public_key: bytes) -> NoteKey:
    """Return whose signature makes a checkpoint of this deployment's audit believable."""
    return NoteKey(f"{deployment}/audit", public_key)


async def seal_once(connection: Connection, key: SigningKey, deployment: str, now: datetime) -> SealCounts:
    """Give every committed entry that waits (at most 10,000) its position, and sign the new state of the tree.

    Any process may call this at any time as `asm_audit`; calls take turns, and who finds nothing waiting signs
    nothing. Raises AuditBroken, changing nothing, if the tree head is not what the last checkpoint signed.
    """
    if key.purpose is not KeyPurpose.CHECKPOINT:
        raise WrongPurpose(f"{key.key_id} does not sign checkpoints")
    believed = note_key(deployment, key.public_key_bytes)
    # Read committed: what the calls before this one sealed must be seen once the lock is ours.
    async with connection.transaction(isolation="read_committed"):
        frontier = Frontier.from_bytes(await store.lock_head(connection))
        entries = await store.take_pending(connection, SEAL_LIMIT)
        if entries:
            _check_head(frontier, await store.latest_checkpoint(connection), believed)
            await _extend(connection, frontier, entries)
            checkpoint = Checkpoint(believed.name, frontier.size, frontier.root)
            note = sign_checkpoint(checkpoint, believed.name, key)
            await store.insert_checkpoint(connection, frontier.size, now, note)
            await store.update_head(connection, frontier.to_bytes())
    return SealCounts(len(entries), frontier.size)


async def _extend(connection: Connection, frontier: Frontier, entries: Sequence[store.PendingEntry]) -> None:
    leaves = [leaf_hash(entry.body) for entry in entries]
    try:
        await store.insert_log(connection, frontier.size, entries, leaves)
        if completed := frontier.extend(leaves):
            await store.insert_nodes(connection, completed)
    except asyncpg.UniqueViolationError:
        raise AuditBroken("there are entries beyond the tree head") from None


def _check_head(frontier: Frontier, last_note: str | None, key: NoteKey) -> None:
    """A key must never sign a tree that does not extend what it signed before (tlog-checkpoint)."""
    if last_note is None:
        if frontier.size:
            raise AuditBroken("the checkpoints are gone")
        return
    try:
        last = open_checkpoint(last_note, key)
    except BadNote as error:
        raise AuditBroken(f"last checkpoint: {error}") from None
    if (last.origin, last.size, last.root) != (key.name, frontier.size, frontier.root):
        raise AuditBroken("the tree head is not what the last checkpoint signed")


async def seal_through(connection: Connection, entry_id: UUID, key: SigningKey, deployment: str, now: datetime) -> int:
    """Return the position of a committed entry, sealing first if it waits: after this it cannot be hidden any more.

    Raises NotSealed if no such entry was committed, and as `seal_once` does.
    """
    position = await store.position_of(connection, entry_id)
    while position is None:
        counts = await seal_once(connection, key, deployment, now)
        position = await store.position_of(connection, entry_id)
        if position is None and counts.entries == 0:
            raise NotSealed(f"audit entry {entry_id} was never committed")
    return position


# ---------------------------------------------------------------------------------------------------------------------
# Proofs


@dataclass(frozen=True, slots=True)
class InclusionProof:
    """That the entry at `position` is in the log whose state `note` signs: its leaf hash and the path to the root."""

    position: int
    leaf: bytes
    path: tuple[bytes, ...]
    note: str


async def inclusion_proof(connection: Connection, position: int) -> InclusionProof:
    """Return the proof for one entry against the latest checkpoint, reading some hundred hashes at any log size.

    Raises NotSealed, or AuditBroken if the stored hashes do not lead to the signed root.
    """
    note = await store.latest_checkpoint(connection)
    checkpoint = read_checkpoint(note) if note else None
    if note is None or checkpoint is None or not 0 <= position < checkpoint.size:
        raise NotSealed(f"no sealed audit entry at {position}")
    ranges = inclusion_ranges(position, checkpoint.size)
    parts = [complete_subtrees(lo, hi) for lo, hi in ranges]
    kept = [node for subtrees in parts for subtree in subtrees for node in _kept_nodes(*subtree)]
    hashes = await store.nodes(connection, [(0, position), *kept])
    try:
        leaf = hashes[0, position]
        path = tuple(fold_subtrees([_subtree_root(hashes, *part) for part in subtrees]) for subtrees in parts)
    except KeyError:
        raise AuditBroken("hashes of the audit log are missing") from None
    if not verify_inclusion(leaf, position, checkpoint.size, path, checkpoint.root):
        raise AuditBroken("the stored hashes do not lead to the signed root")
    return InclusionProof(position, leaf, path, note)


@dataclass(frozen=True, slots=True)
class ConsistencyProof:
    """That the log of `size` entries, a size that was signed, extends the log of `old_size`: RFC 9162, 2.1.4."""

    old_size: int
    size: int
    path: tuple[bytes, ...]


async def consistency_proof(connection: Connection, old_size: int, size: int) -> ConsistencyProof:
    """Return the proof between two sizes, reading some hundred hashes at any log size.

    Raises NotSealed unless `size` was signed and is not the smaller one, AuditBroken if the stored hashes do not lead
    to the roots that were signed. Of an `old_size` that was never signed only its reader can tell whether it holds.
    """
    notes = await store.checkpoints_of(connection, (old_size, size))
    if size not in notes or not 0 <= old_size <= size:
        raise NotSealed(f"no checkpoint of {size} entries after one of {old_size}")
    parts = [complete_subtrees(lo, hi) for lo, hi in consistency_ranges(old_size, size)]
    kept = [node for subtrees in parts for subtree in subtrees for node in _kept_nodes(*subtree)]
    hashes = await store.nodes(connection, kept)
    try:
        path = tuple(fold_subtrees([_subtree_root(hashes, *part) for part in subtrees]) for subtrees in parts)
    except KeyError:
        raise AuditBroken("hashes of the audit log are missing") from None
    if old_size in notes:
        old, new = read_checkpoint(notes[old_size]), read_checkpoint(notes[size])
        if not verify_consistency(old_size, old.root, size, new.root, path):
            raise AuditBroken("the stored hashes do not lead from one signed root to the other")
    return ConsistencyProof(old_size, size, path)


def _kept_nodes(height: int, index: int) -> Iterator[tuple[int, int]]:
    """Yield the nodes kept in the database (heights 0, 8, 16 …) that make up one complete subtree."""
    below = height % TILE_HEIGHT
    for child in range(index << below, (index + 1) << below):
        yield height - below, child


def _subtree_root(hashes: Mapping[tuple[int, int], bytes], height: int, index: int) -> bytes:
    return root(hashes[node] for node in _kept_nodes(height, index))


# ---------------------------------------------------------------------------------------------------------------------
# Verification


class FaultKind(StrEnum):
    """What can be wrong with a stored log."""

    MISSING = "missing"
    EDITED = "edited"
    LABEL = "label"
    REWRITTEN = "rewritten"
    SIGNATURE = "signature"
    CUT_OFF = "cut_off"
    UNSIGNED = "unsigned"
    HEAD = "head"
    NODE = "node"


FAULT_TEXTS: Mapping[FaultKind, Text] = {
    FaultKind.MISSING: Text("Thiếu bản ghi.", "An entry is missing."),
    FaultKind.EDITED: Text(
        "Nội dung bản ghi không khớp với giá trị băm.", "The body of the entry is not what was hashed."
    ),
    FaultKind.LABEL: Text(
        "Mã hoặc thời điểm lưu cạnh bản ghi khác với nội dung.", "The id or time beside the entry is not the body's."
    ),
    FaultKind.REWRITTEN: Text(
        "Các bản ghi từ vị trí này đến điểm kiểm tra kế tiếp không phải là những gì đã ký.",
        "The entries from here to the next checkpoint are not those that were signed.",
    ),
    FaultKind.SIGNATURE: Text(
        "Điểm kiểm tra không hợp lệ hoặc không do khoá này ký.",
        "The checkpoint is malformed or not signed by this key.",
    ),
    FaultKind.CUT_OFF: Text(
        "Nhật ký kết thúc ở đây, trước kích thước đã ký.", "The log ends here, short of a size that was signed."
    ),
    FaultKind.UNSIGNED: Text(
        "Các bản ghi từ vị trí này không thuộc điểm kiểm tra nào.", "No checkpoint covers the entries from here on."
    ),
    FaultKind.HEAD: Text("Đỉnh cây lưu trữ không khớp với nhật ký.", "The stored tree head does not fit the log."),
    FaultKind.NODE: Text(
        "Một giá trị băm lưu để lập chứng minh bị sai hoặc thiếu.", "A hash kept for proofs is wrong or missing."
    ),
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing found: `position` is an entry's place in the log, for a checkpoint its size."""

    kind: FaultKind
    position: int


@dataclass(frozen=True, slots=True)
class AuditVerification:
    """What a verification saw. Good only if `faults` (at most 100) is empty; `root` is over all entries read."""

    entries: int
    checkpoints: int
    root: bytes
    faults: tuple[Fault, ...]


async def verify(connection: Connection, key: NoteKey, earlier: Sequence[str] = ()) -> AuditVerification:
    """Recompute the whole log and compare it with every checkpoint, in one snapshot, as `asm_audit`.

    `earlier` are checkpoint notes kept outside the database; against them it shows that the end was cut off and the
    checkpoints with it. Raises BadNote if one of those was not signed by `key`.
    """
    outside: dict[int, list[Checkpoint]] = {}
    for note in earlier:
        checkpoint = open_checkpoint(note, key)
        outside.setdefault(checkpoint.size, []).append(checkpoint)
    walk = _Walk(key, outside)
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        while page := await store.log_from(connection, walk.position, _PAGE):
            end = page[-1].position + 1
            walk.take(page, await store.checkpoints_between(connection, walk.position, end))
            await _check_nodes(connection, walk)
        beyond = await store.checkpoints_between(connection, walk.position, 2**63 - 1)
        walk.finish(beyond, await store.read_head(connection))
    return AuditVerification(walk.position, walk.checkpoints, walk.frontier.root, tuple(walk.faults))


async def _check_nodes(connection: Connection, walk: _Walk) -> None:
    completed, walk.completed = walk.completed, []
    if not completed or walk.diverged:
        return
    kept = await store.nodes(connection, [(subtree.height, subtree.index) for subtree in completed])
    for subtree in completed:
        if kept.get((subtree.height, subtree.index)) != subtree.hash:
            walk.fault(FaultKind.NODE, subtree.index << subtree.height)


@dataclass(slots=True)
class _Walk:
    """The state of one verification.

    The tree is computed over the stored leaf hashes, and each of those is compared with its body: together this
    proves the bodies, and an edit is pinned to its entry.
    """

    key: NoteKey
    outside: Mapping[int, Sequence[Checkpoint]]  # kept by others, by size
    frontier: Frontier = field(default_factory=Frontier)
    completed: list[Subtree] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    position: int = 0  # of the next entry
    signed_size: int = 0  # of the last checkpoint that held
    checkpoints: int = 0
    diverged: bool = False  # from the first wrong root on, every root is wrong

    def take(self, page: Sequence[store.LogEntry], notes: Mapping[int, str]) -> None:
        for entry in page:
            if entry.position != self.position:
                self.fault(FaultKind.MISSING, self.position)
                self.diverged = True
            self.position = entry.position + 1
            self._check_entry(entry)
            self.completed += self.frontier.extend((entry.leaf,))
            if self.position in notes:
                self._check_note(self.position, notes[self.position])
            for checkpoint in self.outside.get(self.position, ()):
                self._check_root(checkpoint)

    def finish(self, beyond: Mapping[int, str], head: bytes) -> None:
        self.checkpoints += len(beyond)
        if beyond or any(size > self.position for size in self.outside):
            self.fault(FaultKind.CUT_OFF, self.position)
        if not self.diverged and self.signed_size < self.position:
            self.fault(FaultKind.UNSIGNED, self.signed_size)
        if not self.diverged and head != self.frontier.to_bytes():
            self.fault(FaultKind.HEAD, self.position)

    def _check_entry(self, entry: store.LogEntry) -> None:
        if leaf_hash(entry.body) != entry.leaf:
            self.fault(FaultKind.EDITED, entry.position)
        try:
            body = orjson.loads(entry.body)
            labelled = body["id"] == str(entry.entry_id) and body["at"] == instant_text(entry.at)
        except (orjson.JSONDecodeError, KeyError, TypeError):
            labelled = False
        if not labelled:
            self.fault(FaultKind.LABEL, entry.position)

    def _check_note(self, size: int, note: str) -> None:
        self.checkpoints += 1
        try:
            checkpoint = open_checkpoint(note, self.key)
        except BadNote:
            self.fault(FaultKind.SIGNATURE, size)
            return
        if checkpoint.size != size or checkpoint.origin != self.key.name:
            self.fault(FaultKind.SIGNATURE, size)
        else:
            self._check_root(checkpoint)

    def _check_root(self, checkpoint: Checkpoint) -> None:
        if self.diverged:
            return
        if checkpoint.root == self.frontier.root:
            self.signed_size = checkpoint.size
        else:
            self.fault(FaultKind.REWRITTEN, self.signed_size)
            self.diverged = True

    def fault(self, kind: FaultKind, position: int) -> None:
        if len(self.faults) < FAULT_LIMIT:
            self.faults.append(Fault(kind, position))
