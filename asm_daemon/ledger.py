"""One Merkle tree (RFC 6962, 2.1; RFC 9162, 2.1) and one signed form of its root, for receipts and for the audit.

A checkpoint is a C2SP tlog-checkpoint inside a C2SP signed note with an Ed25519 signature: text that a person can read,
a witness can store and a program in any language can verify. Pure functions; hashes are 32 bytes.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any

import orjson

from asm_daemon.crypto import SigningKey, verify_signature

EMPTY_ROOT = sha256(b"").digest()
HASH_BYTES = 32
TILE_HEIGHT = 8  # complete subtrees of every eighth height are kept, so that a proof reads hundreds of hashes, not all

Range = tuple[int, int]  # leaves lo <= i < hi, always one node of the tree it was asked of


def canonical_json(value: Any) -> bytes:
    """Return the one byte form of str, int, bool, None, list and dict: keys sorted, no spaces, UTF-8.

    With ASCII keys and integers below 2^53 this is RFC 8785. Raises TypeError for dates and other objects.
    """
    options = orjson.OPT_SORT_KEYS | orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
    return orjson.dumps(value, option=options)


def instant_text(instant: datetime) -> str:
    """Return an aware instant as RFC 3339 in UTC, always with six decimals: what PostgreSQL stores, without loss."""
    text = orjson.dumps(instant.astimezone(UTC), option=orjson.OPT_UTC_Z)[1:-1].decode("ascii")  # faster than isoformat
    return text if "." in text else f"{text[:-1]}.000000Z"


# ---------------------------------------------------------------------------------------------------------------------
# The tree


def leaf_hash(content: bytes) -> bytes:
    """Return the hash of a leaf, SHA-256(0x00 ‖ content)."""
    return sha256(b"\x00" + content).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, SHA-256(0x01 ‖ left ‖ right)."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """All nodes of the tree over some leaf hashes, for taking many proofs from one batch."""

    __slots__ = ("_levels", "size")

    def __init__(self, leaves: Iterable[bytes]) -> None:
        # A last node without a sibling moves up unchanged: exactly the shape that RFC 6962 defines by recursion.
        level = list(leaves)
        self.size = len(level)
        self._levels = [level]
        while len(level) > 1:
            level = _parents(level)
            self._levels.append(level)

    @property
    def root(self) -> bytes:
        """The Merkle tree hash of all leaves."""
        return self._levels[-1][0] if self.size else EMPTY_ROOT

    def inclusion_proof(self, index: int) -> list[bytes]:
        """Return the path that leads from leaf `index` to the root. Raises ValueError outside the tree."""
        return [self._node(lo, hi) for lo, hi in inclusion_ranges(index, self.size)]

    def consistency_proof(self, old_size: int) -> list[bytes]:
        """Return the proof that the first `old_size` leaves are unchanged. Raises ValueError outside the tree."""
        return [self._node(lo, hi) for lo, hi in consistency_ranges(old_size, self.size)]

    def _node(self, lo: int, hi: int) -> bytes:
        height = (hi - lo - 1).bit_length()
        return self._levels[height][lo >> height]


def _parents(level: list[bytes]) -> list[bytes]:
    above = [node_hash(level[at], level[at + 1]) for at in range(0, len(level) - 1, 2)]
    if len(level) % 2:
        above.append(level[-1])
    return above


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the Merkle tree hash over leaf hashes."""
    level = list(leaves)
    while len(level) > 1:
        level = _parents(level)
    return level[0] if level else EMPTY_ROOT


def inclusion_ranges(index: int, size: int) -> list[Range]:
    """Return the subtrees whose hashes prove leaf `index` in a tree of `size` (RFC 9162, 2.1.3.1), lowest first."""
    if not 0 <= index < size:
        raise ValueError("no such leaf")
    ranges: list[Range] = []
    lo, hi = 0, size
    while hi - lo > 1:
        middle = lo + _left_size(hi - lo)
        if index < middle:
            ranges.append((middle, hi))
            hi = middle
        else:
            ranges.append((lo, middle))
            lo = middle
    return ranges[::-1]


def consistency_ranges(old_size: int, size: int) -> list[Range]:
    """Return the subtrees whose hashes prove that a tree of `size` extends one of `old_size` (RFC 9162, 2.1.4.1)."""
    if not 0 <= old_size <= size:
        raise ValueError("no such tree")
    if old_size in (0, size):
        return []
    ranges: list[Range] = []
    lo, hi = 0, size
    while hi > old_size:
        middle = lo + _left_size(hi - lo)
        if old_size <= middle:
            ranges.append((middle, hi))
            hi = middle
        else:
            ranges.append((lo, middle))
            lo = middle
    if lo > 0:  # a verifier knows the old root, so it is sent only where it is not the whole left part
        ranges.append((lo, hi))
    return ranges[::-1]


def _left_size(size: int) -> int:
    return 1 << ((size - 1).bit_length() - 1)  # the largest power of two below size


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected_root: bytes) -> bool:
    """Tell whether `proof` leads from the leaf hash at `index` to the root of a tree of `size` (RFC 9162, 2.1.3.2)."""
    if not 0 <= index < size:
        return False
    node, last, computed = index, size - 1, leaf
    for step in proof:
        if last == 0:
            return False
        if node % 2 or node == last:
            computed = node_hash(step, computed)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, step)
        node, last = node >> 1, last >> 1
    return last == 0 and computed == expected_root


def verify_consistency(old_size: int, old_root: bytes, size: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Tell whether `proof` shows that the tree of `size` extends the tree of `old_size` (RFC 9162, 2.1.4.2)."""
    if not 0 <= old_size <= size:
        return False
    if old_size == size:
        return not proof and old_root == new_root
    if old_size == 0:
        return not proof and old_root == EMPTY_ROOT
    path = list(proof) if old_size & (old_size - 1) else [old_root, *proof]
    if not path:
        return False
    node, last = old_size - 1, size - 1
    while node % 2:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            return False
        if node % 2 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while node % 2 == 0 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    return last == 0 and old == old_root and new == new_root


@dataclass(frozen=True, slots=True)
class Subtree:
    """The hash of the complete subtree over leaves `index << height` up to `(index + 1) << height`."""

    height: int
    index: int
    hash: bytes


class Frontier:
    """The right edge of a growing tree: the roots of its complete subtrees, enough to append and to know the root."""

    __slots__ = ("_hashes", "size")

    def __init__(self) -> None:
        self.size = 0
        self._hashes: list[bytes] = []  # largest subtree first, one for each bit set in size

    def extend(self, leaves: Iterable[bytes]) -> list[Subtree]:
        """Append leaf hashes; return the subtrees that became complete and whose height is a multiple of 8."""
        completed = []
        hashes = self._hashes
        for leaf in leaves:
            node, height, rest = leaf, 0, self.size
            while rest % 2:
                node, height, rest = node_hash(hashes.pop(), node), height + 1, rest >> 1
                if height % TILE_HEIGHT == 0:
                    completed.append(Subtree(height, rest, node))
            hashes.append(node)
            self.size += 1
        return completed

    @property
    def root(self) -> bytes:
        """The Merkle tree hash of everything appended."""
        return fold_subtrees(self._hashes)

    def to_bytes(self) -> bytes:
        """Return size (8 bytes, big-endian) and hashes."""
        return self.size.to_bytes(8, "big") + b"".join(self._hashes)

    @classmethod
    def from_bytes(cls, encoded: bytes) -> Frontier:
        """Read what `to_bytes` wrote. Raises ValueError if the hashes do not fit the size."""
        frontier = cls()
        frontier.size = int.from_bytes(encoded[:8], "big")
        if len(encoded) != 8 + HASH_BYTES * frontier.size.bit_count():
            raise ValueError("not a frontier")
        frontier._hashes = [encoded[at : at + HASH_BYTES] for at in range(8, len(encoded), HASH_BYTES)]
        return frontier


def fold_subtrees(hashes: Sequence[bytes]) -> bytes:
    """Return the root over adjacent complete subtrees, largest first."""
    if not hashes:
        return EMPTY_ROOT
    folded = hashes[-1]
    for node in reversed(hashes[:-1]):
        folded = node_hash(node, folded)
    return folded


def complete_subtrees(lo: int, hi: int) -> list[tuple[int, int]]:
    """Return (height, index) of the complete subtrees that make up the node over leaves lo to hi, largest first."""
    parts = []
    while lo < hi:
        height = (hi - lo).bit_length() - 1
        parts.append((height, lo >> height))
        lo += 1 << height
    return parts


# ---------------------------------------------------------------------------------------------------------------------
# Signed notes (https://c2sp.org/signed-note) and checkpoints (https://c2sp.org/tlog-checkpoint)


class BadNote(Exception):
    """The note is malformed or is not signed by the key; the message says which."""


@dataclass(frozen=True, slots=True)
class NoteKey:
    """Who is believed: a key name without spaces and plus signs, and 32 bytes of an Ed25519 public key."""

    name: str
    public_key: bytes

    @property
    def key_id(self) -> bytes:
        """The first 4 bytes of SHA-256(name ‖ 0x0A ‖ 0x01 ‖ public key)."""
        return _key_id(self.name, self.public_key, ED25519)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The state of a tree: its origin (the log's name), size, root and any extension lines."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()


_NOTE_LIMIT = 65_536
_KEY_NAME = re.compile(r"[^\s+]+")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
_UNFIT = re.compile(r"[\x00-\x09\x0b-\x1f\ud800-\udfff]")
_SIGNATURE_LINE = re.compile(r"— ([^\s+]+) (\S+)")


def sign_note(text: str, key_name: str, key: SigningKey) -> str:
    """Return `text`, which ends in a newline, as a note signed by `key` under `key_name`."""
    if not text.endswith("\n") or _UNFIT.search(text):
        raise ValueError("a note ends in a newline and has no other control characters")
    if not _KEY_NAME.fullmatch(key_name):
        raise ValueError("a key name has no spaces and no plus signs")
    signature = NoteKey(key_name, key.public_key_bytes).key_id + key.sign(text.encode())
    return f"{text}\n— {key_name} {base64.b64encode(signature).decode('ascii')}\n"


def open_note(note: str, key: NoteKey) -> str:
    """Return the text of a note that `key` signed; signatures by other keys are ignored.

    Raises BadNote if the note is malformed, if `key` did not sign it, or if its signature does not verify.
    """
    text, signatures = _split_note(note)
    ours = [signature for name, signature in signatures if name == key.name and signature[:4] == key.key_id]
    if not ours:
        raise BadNote("not signed by this key")
    if not all(verify_signature(key.public_key, text.encode(), signature[4:]) for signature in ours):
        raise BadNote("the signature does not fit the text")
    return text


def _split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    if len(note) > _NOTE_LIMIT:
        raise BadNote(f"longer than {_NOTE_LIMIT} characters")
    if _UNFIT.search(note):
        raise BadNote("holds control characters or is not Unicode")
    body, separator, tail = note.rpartition("\n\n")
    if not separator or not tail.endswith("\n"):
        raise BadNote("not a signed note")
    signatures = []
    for line in tail[:-1].split("\n"):
        match = _SIGNATURE_LINE.fullmatch(line)
        signature = _decode(match[2]) if match else b""
        if match is None or len(signature) <= 4:
            raise BadNote("a signature line is malformed")
        signatures.append((match[1], signature))
    return body + "\n", signatures


# A verifier key (vkey) of the same specification, and the two kinds of signature that it can be for.
ED25519, COSIGNATURE = 0x01, 0x04
_VKEY = re.compile(r"([^\s+]+)\+([0-9a-f]{8})\+([A-Za-z0-9+/=]+)")
_COSIGNATURE_BYTES = 4 + 8 + 64


def write_vkey(name: str, public_key: bytes, kind: int = ED25519) -> str:
    """Return name and public key as one line of text, the form in which people hand keys to each other."""
    material = base64.b64encode(bytes([kind]) + public_key).decode("ascii")
    return f"{name}+{_key_id(name, public_key, kind).hex()}+{material}"


def read_vkey(text: str, kind: int = ED25519) -> NoteKey:
    """Read what `write_vkey` wrote. Raises BadNote if it is malformed or for another kind of signature."""
    match = _VKEY.fullmatch(text.strip())
    material = _decode(match[3]) if match else b""
    if match is None or len(material) != 33 or material[0] != kind:
        raise BadNote("not a verifier key of this kind")
    key = NoteKey(match[1], material[1:])
    if _key_id(key.name, key.public_key, kind).hex() != match[2]:
        raise BadNote("the verifier key was changed: its id does not fit")
    return key


def cosign(note: str, key_name: str, public_key: bytes, sign: Callable[[bytes], bytes], seconds: int) -> str:
    """Return the line by which a witness says of a checkpoint that at `seconds` (POSIX) it was the largest it knew of
    this log, and extends all it knew before (https://c2sp.org/tlog-cosignature, cosignature/v1)."""
    signature = sign(_cosigned(_split_note(note)[0], seconds))
    stamped = _key_id(key_name, public_key, COSIGNATURE) + seconds.to_bytes(8, "big") + signature
    return f"— {key_name} {base64.b64encode(stamped).decode('ascii')}\n"


def open_cosignature(note: str, line: str, key: NoteKey) -> datetime:
    """Return when the witness `key` cosigned the checkpoint in `note`. Raises BadNote if this line does not say so."""
    match = _SIGNATURE_LINE.fullmatch(line.removesuffix("\n"))
    stamped = _decode(match[2]) if match else b""
    if match is None or match[1] != key.name or len(stamped) != _COSIGNATURE_BYTES:
        raise BadNote("not a cosignature by this key")
    if stamped[:4] != _key_id(key.name, key.public_key, COSIGNATURE):
        raise BadNote("not a cosignature by this key")
    seconds = int.from_bytes(stamped[4:12], "big")
    if not verify_signature(key.public_key, _cosigned(_split_note(note)[0], seconds), stamped[12:]):
        raise BadNote("the cosignature does not fit the checkpoint")
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, ValueError, OSError):
        raise BadNote("the cosignature has an impossible time") from None


def _cosigned(text: str, seconds: int) -> bytes:
    return f"cosignature/v1\ntime {seconds}\n{text}".encode()


def _key_id(name: str, public_key: bytes, kind: int) -> bytes:
    return sha256(name.encode() + b"\n" + bytes([kind]) + public_key).digest()[:4]


def sign_checkpoint(checkpoint: Checkpoint, key_name: str, key: SigningKey) -> str:
    """Return the checkpoint as a note signed by `key`. Raises ValueError if a line is empty or holds a newline."""
    lines = [checkpoint.origin, str(checkpoint.size), base64.b64encode(checkpoint.root).decode("ascii")]
    lines += checkpoint.extensions
    if not all(lines) or any("\n" in line for line in lines):
        raise ValueError("a line of a checkpoint is empty or not one line")
    return sign_note("\n".join(lines) + "\n", key_name, key)


def open_checkpoint(note: str, key: NoteKey) -> Checkpoint:
    """Return the checkpoint in a note that `key` signed. Raises BadNote."""
    return _parse_checkpoint(open_note(note, key))


def read_checkpoint(note: str) -> Checkpoint:
    """Return the checkpoint in a note without believing it: for showing it, or for choosing the key to believe.

    Raises BadNote if the note is malformed.
    """
    return _parse_checkpoint(_split_note(note)[0])


def _parse_checkpoint(text: str) -> Checkpoint:
    lines = text[:-1].split("\n")
    if len(lines) < 3 or not all(lines) or not _SIZE.fullmatch(lines[1]):
        raise BadNote("not a checkpoint")
    tree_root = _decode(lines[2])
    if len(tree_root) != HASH_BYTES:
        raise BadNote("the root of the checkpoint is not 32 bytes")
    return Checkpoint(lines[0], int(lines[1]), tree_root, tuple(lines[3:]))


def _decode(text: str) -> bytes:
    try:
        decoded = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise BadNote("not base64") from None
    if base64.b64encode(decoded).decode("ascii") != text:
        raise BadNote("not canonical base64")
    return decoded
