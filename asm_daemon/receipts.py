"""Receipts (biên nhận): what a facility holds to prove that it declared, and when.

All receipts of one committed batch are leaves of one Merkle tree, signed once. A receipt carries its path to the root,
so it verifies offline with the public key alone (`docs/verify_receipt.py` does it in sixty lines), and says nothing
about the others of its batch.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

from asm_daemon.crypto import KeyPurpose, SigningKey, WrongPurpose
from asm_daemon.ledger import (
    BadNote,
    Checkpoint,
    NoteKey,
    Tree,
    canonical_json,
    instant_text,
    leaf_hash,
    open_checkpoint,
    read_checkpoint,
    sign_checkpoint,
    verify_inclusion,
)

RECEIPT_VERSION = 1
SALT_BYTES = 16


class BadReceipt(Exception):
    """The receipt proves nothing; the message says why."""


@dataclass(frozen=True, slots=True)
class ReceiptLeaf:
    """What one receipt proves: this version of this stay came from this facility at this time, with this content.

    `event` is the act that made the version. `sealed_sha256` is SHA-256 of the sealed blob (32 bytes): it ties the
    stored record to the receipt, so a rolled-back row is found. `declared_digest` is from the function of that name.
    """

    stay_id: UUID
    version: int
    facility: str
    event: str
    received_at: datetime
    deadline_at: datetime
    late_minutes: int
    sealed_sha256: bytes
    declared_digest: bytes

    def members(self) -> dict[str, Any]:
        """Return the leaf as the members it has in a receipt."""
        return {
            "receipt_version": RECEIPT_VERSION,
            "stay_id": str(self.stay_id),
            "version": self.version,
            "facility": self.facility,
            "event": self.event,
            "received_at": instant_text(self.received_at),
            "deadline_at": instant_text(self.deadline_at),
            "late_minutes": self.late_minutes,
            "sealed_sha256": self.sealed_sha256.hex(),
            "declared_digest": self.declared_digest.hex(),
        }

    def hash(self) -> bytes:
        """Return the leaf hash, SHA-256(0x00 ‖ canonical JSON of the members)."""
        return leaf_hash(canonical_json(self.members()))


@dataclass(frozen=True, slots=True)
class SignedBatch:
    """One signed batch: its tree, for taking the paths, and its checkpoint note, for storing."""

    tree: Tree
    note: str

    @property
    def root(self) -> bytes:
        """The root that the note signs."""
        return self.tree.root


@dataclass(frozen=True, slots=True)
class VerifiedReceipt:
    """What a valid receipt says. A `trial` receipt comes from a sandbox and proves nothing to anybody."""

    leaf: ReceiptLeaf
    salt: bytes = field(repr=False)
    batch_id: UUID
    signed_at: datetime
    deployment: str
    trial: bool

    def proves(self, declared: Mapping[str, Any]) -> bool:
        """Tell whether exactly these fields were declared."""
        return declared_digest(self.salt, canonical_json(declared)) == self.leaf.declared_digest


def declared_digest(salt: bytes, canonical: bytes) -> bytes:
    """Return SHA-256(salt ‖ canonical JSON of the declared fields).

    Without the 16 random bytes of salt, which only the sealed blob and the receipt hold, a document number could be
    guessed from the digest.
    """
    if len(salt) != SALT_BYTES:
        raise ValueError(f"a salt has {SALT_BYTES} bytes")
    return sha256(salt + canonical).digest()


def sign_batch(
    leaves: Sequence[bytes], batch_id: UUID, deployment: str, key: SigningKey, signed_at: datetime
) -> SignedBatch:
    """Sign the leaf hashes of one batch, in the order of their `leaf_index`.

    The note is a C2SP checkpoint: origin `<deployment>/receipts/<batch id>`, the tree size, the root, and one line
    with the time. A key for trials signs as `<deployment>/receipts/trial`. Raises WrongPurpose for any other key,
    ValueError for an empty batch.
    """
    if not leaves:
        raise ValueError("nothing to sign")
    tree = Tree(leaves)
    name = _key_name(deployment, _is_trial(key))
    checkpoint = Checkpoint(f"{name}/{batch_id}", tree.size, tree.root, (f"signed_at {instant_text(signed_at)}",))
    return SignedBatch(tree, sign_checkpoint(checkpoint, name, key))


def receipt(leaf: ReceiptLeaf, salt: bytes, leaf_index: int, tree: Tree, note: str) -> dict[str, Any]:
    """Return the receipt of one leaf as JSON members; the same arguments always give the same bytes."""
    return {
        **leaf.members(),
        "salt": salt.hex(),
        "leaf_index": leaf_index,
        "proof": [node.hex() for node in tree.inclusion_proof(leaf_index)],
        "checkpoint": note,
    }


def _is_trial(key: SigningKey) -> bool:
    if key.purpose not in (KeyPurpose.RECEIPT, KeyPurpose.RECEIPT_TRIAL):
        raise WrongPurpose(f"{key.key_id} does not sign receipts")
    return key.purpose is KeyPurpose.RECEIPT_TRIAL


def _key_name(deployment: str, trial: bool) -> str:
    return f"{deployment}/receipts/trial" if trial else f"{deployment}/receipts"


# ---------------------------------------------------------------------------------------------------------------------
# Verifying


_LEAF_TYPES: Mapping[str, type] = {
    "receipt_version": int,
    "stay_id": str,
    "version": int,
    "facility": str,
    "event": str,
    "received_at": str,
    "deadline_at": str,
    "late_minutes": int,
    "sealed_sha256": str,
    "declared_digest": str,
}
_MEMBER_TYPES: Mapping[str, type] = {**_LEAF_TYPES, "salt": str, "leaf_index": int, "proof": list, "checkpoint": str}
_HEX_32 = re.compile(r"[0-9a-f]{64}")
_HEX_16 = re.compile(r"[0-9a-f]{32}")
_ORIGIN = re.compile(r"([^\s+]+)/receipts(/trial)?/([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})")
_SIGNED_AT = "signed_at "


def verify_receipt(receipt: Mapping[str, Any], public_key: bytes) -> VerifiedReceipt:
    """Verify a receipt with nothing but the 32 bytes of the public key it should be signed by.

    Raises BadReceipt. The salt alone is not signed: what it protects is checked by `VerifiedReceipt.proves`.
    """
    _check_shape(receipt)
    checkpoint, origin = _believed_checkpoint(receipt["checkpoint"], public_key)
    try:
        content = canonical_json({name: receipt[name] for name in _LEAF_TYPES})
    except TypeError:
        raise BadReceipt("a member is not Unicode text or an integer of 64 bits") from None
    proof = [bytes.fromhex(node) for node in receipt["proof"]]
    index, size = receipt["leaf_index"], checkpoint.size
    if not verify_inclusion(leaf_hash(content), index, size, proof, checkpoint.root):
        raise BadReceipt("the content of the receipt is not what was signed")
    try:
        return VerifiedReceipt(
            leaf=_leaf(receipt),
            salt=bytes.fromhex(receipt["salt"]),
            batch_id=UUID(origin[3]),
            signed_at=datetime.fromisoformat(checkpoint.extensions[0].removeprefix(_SIGNED_AT)),
            deployment=origin[1],
            trial=origin[2] is not None,
        )
    except ValueError:
        raise BadReceipt("a signed member is not of the form of a receipt") from None


def signs_batch(note: str, batch_id: UUID, tree: Tree, signed_at: datetime, public_keys: Sequence[bytes]) -> bool:
    """Tell whether a note is the signature, by one of these keys, of exactly this batch at this time."""
    for public_key in public_keys:
        try:
            checkpoint, origin = _believed_checkpoint(note, public_key)
        except BadReceipt:
            continue
        said = (origin[3], checkpoint.size, checkpoint.root, checkpoint.extensions[0])
        return said == (str(batch_id), tree.size, tree.root, _SIGNED_AT + instant_text(signed_at))
    return False


def _check_shape(receipt: Mapping[str, Any]) -> None:
    if receipt.keys() != _MEMBER_TYPES.keys():
        raise BadReceipt("the receipt lacks members or has others than a receipt has")
    for name, expected in _MEMBER_TYPES.items():
        if type(receipt[name]) is not expected:  # True is no integer here
            raise BadReceipt(f"{name} is of the wrong type")
    if receipt["receipt_version"] != RECEIPT_VERSION:
        raise BadReceipt("the receipt is of an unknown version")
    hashes = [receipt["sealed_sha256"], receipt["declared_digest"], *receipt["proof"]]
    if not all(isinstance(text, str) and _HEX_32.fullmatch(text) for text in hashes):
        raise BadReceipt("a hash is not 64 lower-case hexadecimal digits")
    if not _HEX_16.fullmatch(receipt["salt"]):
        raise BadReceipt("salt is not 32 lower-case hexadecimal digits")


def _believed_checkpoint(note: str, public_key: bytes) -> tuple[Checkpoint, re.Match[str]]:
    try:
        origin = _ORIGIN.fullmatch(read_checkpoint(note).origin)
        if origin is None:
            raise BadReceipt("the checkpoint is not one of receipts")
        checkpoint = open_checkpoint(note, NoteKey(_key_name(origin[1], origin[2] is not None), public_key))
    except BadNote as error:
        raise BadReceipt(f"checkpoint: {error}") from None
    if len(checkpoint.extensions) != 1 or not checkpoint.extensions[0].startswith(_SIGNED_AT):
        raise BadReceipt("the checkpoint does not say when it was signed")
    return checkpoint, origin


def _leaf(receipt: Mapping[str, Any]) -> ReceiptLeaf:
    return ReceiptLeaf(
        stay_id=UUID(receipt["stay_id"]),
        version=receipt["version"],
        facility=receipt["facility"],
        event=receipt["event"],
        received_at=datetime.fromisoformat(receipt["received_at"]),
        deadline_at=datetime.fromisoformat(receipt["deadline_at"]),
        late_minutes=receipt["late_minutes"],
        sealed_sha256=bytes.fromhex(receipt["sealed_sha256"]),
        declared_digest=bytes.fromhex(receipt["declared_digest"]),
    )
