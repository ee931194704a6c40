"""Keys, sealed records, blind indexes and signatures: everything that is done with keys, wherever they are kept.

Every key has one purpose (QCVN 15:2023/BQP), which its name carries and the code checks. Records are sealed with
AES-256-GCM under the data key of the month in which the stay was registered; when that key is destroyed, every copy of
the record is unreadable, backups included.
"""

from __future__ import annotations

import base64
import os
import re
import struct
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from functools import lru_cache
from hashlib import sha256
from itertools import repeat
from threading import Lock
from typing import TypeVar
from uuid import UUID

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives import hpke, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.mlkem import MLKEM768PrivateKey, MLKEM768PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from schemas.folding import NORM, fold_document, fold_tokens


class Tampered(Exception):
    """The sealed bytes do not belong to this record, or were changed."""


class UnknownEpoch(Exception):
    """The key store has no key for this month: not made yet, or destroyed."""

    def __init__(self, epoch: int) -> None:
        super().__init__(f"no key for epoch {epoch}")
        self.epoch = epoch


class WrongPurpose(Exception):
    """A key was about to be used for something it was not made for."""


class KeyExhausted(Exception):
    """A data key has sealed as much as one key may; the epoch needs a further version of it."""

    def __init__(self, name: KeyName) -> None:
        super().__init__(f"{name} has sealed as much as one key may")
        self.name = name


class KeyStoreError(Exception):
    """The key store cannot be used; the message says what an operator has to look at."""


class KeyStoreForeign(KeyStoreError):
    """The key store is of another database: what is in this one was signed by other keys."""


class KeyStoreMissing(KeyStoreError):
    """There is no key store in this directory."""


class KeyStoreExists(KeyStoreError):
    """There is a key store, or part of one, in this directory already."""


class KeyStoreExposed(KeyStoreError):
    """Somebody else than the daemon's user could read or replace the keys."""


class KeyStoreDamaged(KeyStoreError):
    """The key store is incomplete or was changed; restore it, never create it anew over sealed data."""


class KeyStoreBusy(KeyStoreError):
    """Another process kept the key store locked for too long."""


class KeyStoreUnreachable(KeyStoreError):
    """The token or vault that holds the root key does not answer, or refuses."""


# ---------------------------------------------------------------------------------------------------------------------
# Epochs: the UTC month in a stay id


def epoch_at(instant: datetime) -> int:
    """Return the epoch (UTC month as `yyyymm`) of an aware instant."""
    utc = instant.astimezone(UTC)
    return utc.year * 100 + utc.month


def next_epoch(epoch: int) -> int:
    """Return the month after `epoch`."""
    return epoch + 1 if epoch % 100 < 12 else epoch + 89


def epoch_of(stay_id: UUID) -> int:
    """Return the epoch of a UUIDv7 (RFC 9562, 5.7). Raises ValueError for any other kind of UUID."""
    bits = stay_id.int
    if (bits >> 76) & 0xF != 7 or (bits >> 62) & 0b11 != 0b10:
        raise ValueError("not a UUIDv7")
    return _epoch_of_day((bits >> 80) // 86_400_000)


def epoch_bounds(epoch: int) -> tuple[UUID, UUID]:
    """Return `(lo, hi)` such that the UUIDv7 `id` was made in `epoch` exactly when `lo <= id < hi`."""
    return _first_id(epoch), _first_id(next_epoch(epoch))


@lru_cache(maxsize=4096)
def _epoch_of_day(day: int) -> int:
    return epoch_at(datetime.fromtimestamp(day * 86_400, UTC))


def _first_id(epoch: int) -> UUID:
    year, month = divmod(epoch, 100)
    return UUID(int=int(datetime(year, month, 1, tzinfo=UTC).timestamp()) * 1000 << 80)


# ---------------------------------------------------------------------------------------------------------------------
# Keys and their names


class KeyPurpose(StrEnum):
    """What a key is for. One key, one purpose; the value is the first part of the key's name."""

    DATA = "data"  # seals records, one per epoch
    INDEX = "index"  # blind indexes, one per epoch
    PRESENCE = "presence"  # tags of in_house
    REFERENCE = "reference"  # tags of source_refs
    CONTENT = "content"  # tags that recognise what is repeated: a declaration, a question about its guest
    CURSOR = "cursor"  # seals list cursors
    RECEIPT = "receipt"  # signs receipts
    RECEIPT_TRIAL = "receipt_trial"  # signs receipts of trial declarations, which prove nothing
    CHECKPOINT = "checkpoint"  # signs audit checkpoints


PER_EPOCH = frozenset({KeyPurpose.DATA, KeyPurpose.INDEX})
STANDING = tuple(purpose for purpose in KeyPurpose if purpose not in PER_EPOCH)
ALGORITHMS: Mapping[KeyPurpose, str] = {
    KeyPurpose.DATA: "AES-256-GCM",
    KeyPurpose.CURSOR: "AES-256-GCM",
    KeyPurpose.INDEX: "HMAC-SHA-256",
    KeyPurpose.PRESENCE: "HMAC-SHA-256",
    KeyPurpose.REFERENCE: "HMAC-SHA-256",
    KeyPurpose.CONTENT: "HMAC-SHA-256",
    KeyPurpose.RECEIPT: "Ed25519",
    KeyPurpose.RECEIPT_TRIAL: "Ed25519",
    KeyPurpose.CHECKPOINT: "Ed25519",
}
_NAME = re.compile(r"([a-z_]+)(?:/(\d{4}(?:0[1-9]|1[0-2])))?/([1-9]\d{0,2})")


@dataclass(frozen=True, slots=True)
class KeyName:
    """The name of one key: `data/202611/1` for an epoch's, `presence/1` for a standing one. Version is 1 to 255."""

    purpose: KeyPurpose
    epoch: int | None
    version: int

    def __str__(self) -> str:
        middle = "" if self.epoch is None else f"/{self.epoch}"
        return f"{self.purpose}{middle}/{self.version}"

    @classmethod
    def parse(cls, text: str) -> KeyName:
        """Read a name. Raises ValueError if it is not exactly one that `str` would write."""
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError("not a key name")
        name = cls(KeyPurpose(match[1]), int(match[2]) if match[2] else None, int(match[3]))
        if (name.epoch is not None) != (name.purpose in PER_EPOCH) or name.version > 255:
            raise ValueError("not a key name")
        return name


def goes_with(index_versions: Iterable[int], data_version: int) -> int:
    """Return the version of the index key that tags what a version of the data key seals: its own, or the last before.

    Both are renewed together, so a blob's header names both; once a data key was renewed alone. 0 if there is none.
    """
    return max((version for version in index_versions if version <= data_version), default=0)


def key_version_of(sealed: bytes) -> int:
    """Return the key version that the header of a sealed record names."""
    _, _, version = _HEADER.unpack_from(sealed)
    return int(version)


@dataclass(frozen=True, slots=True)
class Key:
    """One unwrapped key: 32 random bytes, never printed."""

    name: KeyName
    created_at: datetime
    material: bytes = field(repr=False)


def _require(key: Key, algorithm: str) -> Key:
    if ALGORITHMS[key.name.purpose] != algorithm:
        raise WrongPurpose(f"{key.name} is not made for {algorithm}")
    return key


# ---------------------------------------------------------------------------------------------------------------------
# Blind indexes: what they are made over


class IndexField(StrEnum):
    """What a blind index is over. There is no index over a name alone: Nguyễn and Trần would stand out."""

    DOCUMENT = "document"
    PERSON = "person"
    GIVEN_NAME = "given_name"


def document_value(number: str) -> str:
    """Return what `IndexField.DOCUMENT` and the presence tag are made over."""
    return fold_document(number)


def name_values(full_name: str, birth_date: str) -> tuple[str, str]:
    """Return what `IndexField.PERSON` and `IndexField.GIVEN_NAME` are made over: all words, and the last as written.

    Both carry `birth_date`, which is ISO 8601 and perhaps only a month or a year.
    """
    words = fold_tokens(full_name)
    return f"{' '.join(sorted(words))}|{birth_date}", f"{words[-1] if words else ''}|{birth_date}"


# ---------------------------------------------------------------------------------------------------------------------
# The keyring: everything done with secret keys


@dataclass(frozen=True, slots=True)
class RecordName:
    """Which record a sealed blob is: its associated data, so that a blob opens in no other place.

    `kind` names the sort of record ("stay"); `epoch` is the month in `stay_id`; `version` the row's version, from 1.
    """

    kind: str
    epoch: int
    facility_id: int
    stay_id: UUID
    schema_version: int
    version: int


@dataclass(frozen=True, slots=True)
class SigningKey:
    """An Ed25519 key (RFC 8032). `public_key_bytes` are the 32 bytes of the standard; `key_id` is the key's name."""

    purpose: KeyPurpose
    key_id: str
    public_key_bytes: bytes
    _private: Ed25519PrivateKey = field(repr=False)

    def sign(self, message: bytes) -> bytes:
        """Return the signature, 64 bytes; the same message always gives the same signature."""
        return self._private.sign(message)

    @property
    def public_key_pem(self) -> str:
        """The public key as a PEM SubjectPublicKeyInfo (RFC 8410), the form to publish."""
        encoding, form = serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        return self._private.public_key().public_bytes(encoding, form).decode("ascii")


_Tagger = Callable[[bytes], bytes]
_Kind = TypeVar("_Kind")
MESSAGES_AT_ONCE = 2**20
"""How many messages of a data key a keyring sets aside at once: few writes, and a process that ends wastes little."""


LOOK_SECONDS = 300
"""For how long a keyring seals without having looked at its store: half of what a replaced key is kept for
(`resealing.SETTLE`). A record sealed under a retired key would be accepted, receipted, and lost."""


class _Sealer:
    """The newest data key of an epoch. `headers` yields the header of each record it may still seal (no counting in
    the way of a record: one iterator that ends), and is filled again from what the store grants."""

    __slots__ = ("cipher", "header", "headers", "name")

    def __init__(self, name: KeyName, header: bytes, cipher: AESGCM) -> None:
        self.name, self.header, self.cipher = name, header, cipher
        self.headers: Iterator[bytes] = iter(())

    def __repr__(self) -> str:
        return f"<_Sealer {self.name}>"


@dataclass(frozen=True, slots=True, repr=False)
class _Keys:
    """The keys in the form in which they are used; replaced as a whole when the store is read again."""

    ciphers: Mapping[tuple[int, int], AESGCM]  # by epoch and key version
    sealing: Mapping[int, _Sealer]  # by epoch: the newest key version
    indexes: Mapping[int, Mapping[int, _Tagger]]  # by epoch, then by key version, the newest first
    tags: Mapping[KeyPurpose, _Tagger]
    signers: Mapping[KeyPurpose, SigningKey]
    cursor: AESGCM
    source: Iterable[Key] = ()  # what all this was made of

    def sealing_key(self, epoch: int) -> _Sealer:
        return _found(self.sealing.get(epoch), epoch)

    def cipher(self, epoch: int, version: int) -> AESGCM:
        if epoch in self.sealing and (epoch, version) not in self.ciphers:
            raise Tampered("sealed record names a key version that does not exist")
        return _found(self.ciphers.get((epoch, version)), epoch)

    def index(self, epoch: int) -> Mapping[int, _Tagger]:
        return _found(self.indexes.get(epoch), epoch)

    def tagger(self, epoch: int, version: int) -> _Tagger:
        self.cipher(epoch, version)  # where that is unknown, its index key is
        index = self.index(epoch)
        return _found(index.get(goes_with(index, version)), epoch)


_FORMAT = 1
_HEADER = struct.Struct(">BIB")  # format, epoch, key version
_NONCE_BYTES = 12
_BODY_AT = _HEADER.size + _NONCE_BYTES
_PLACE = struct.Struct(">Q16sHI")  # facility, stay, schema version, row version
_LENGTH = struct.Struct(">H")
_PAD_BYTES = 64
_INDEX_PREFIX = {name: f"{NORM}|{name}|".encode() for name in IndexField}
_SIGNED_64 = struct.Struct(">q")


class Keyring:
    """The keys of the store, in memory, ready for use. Safe to share between threads."""

    def __init__(
        self, read: Callable[[], Iterable[Key]], reserve: Callable[[KeyName, int], int] = lambda _, messages: messages
    ) -> None:
        """Take the keys from `read` (`KeyStore.read`), now and whenever an epoch is unknown; its errors pass.

        `reserve` (`KeyStore.reserve`) grants how many messages a data key may still seal.
        """
        self._read, self._reserve = read, reserve
        self._looked_at = time.monotonic()
        self._keys = _prepare(read())
        self._filling, self._reading = Lock(), Lock()

    def reload(self) -> bool:
        """Read the store again; return whether anything had changed. Cheap while it has not."""
        with self._reading:  # or the slower of two threads would put back keys that were renewed or destroyed meanwhile
            at, keys = time.monotonic(), self._read()
            self._looked_at = at
            if keys is self._keys.source:
                return False
            self._keys = _prepare(keys, self._keys)
            return True

    def epochs(self) -> tuple[int, ...]:
        """Return the epochs that have keys, in order."""
        return tuple(sorted(self._keys.sealing))

    def superseded(self) -> tuple[KeyName, ...]:
        """Return each data key that only opens any more, and each index key that only finds, by epoch."""
        keys = self._keys
        data = [KeyName(KeyPurpose.DATA, epoch, version) for epoch, version in sorted(keys.ciphers)]
        index = [
            KeyName(KeyPurpose.INDEX, epoch, version)
            for epoch, versions in sorted(keys.indexes.items())
            for version in sorted(versions)
        ]
        newest = {(name.purpose, name.epoch): name for name in data + index}
        return tuple(name for name in data + index if newest[name.purpose, name.epoch] != name)

    def sealing_version(self, epoch: int) -> int:
        """Return the version of the data key that seals in `epoch`. Raises UnknownEpoch."""
        return self._keys.sealing_key(epoch).name.version

    def index_version(self, epoch: int) -> int:
        """Return the version of the newest index key of `epoch`. Raises UnknownEpoch."""
        return max(self._keys.index(epoch))

    def seal(self, record: RecordName, plaintext: bytes) -> bytes:
        """Return `plaintext` (at most 65,535 bytes) sealed as `record`.

        The result is 0x01, epoch (4 bytes), key version (1), nonce (12, random), AES-256-GCM of the padded plaintext,
        tag (16): always a multiple of 64 plus 34 bytes. Raises UnknownEpoch, KeyExhausted at the key's limit, and
        KeyStoreError if the store could not be looked at for `LOOK_SECONDS`: the key may have been retired.
        """
        if time.monotonic() - self._looked_at > LOOK_SECONDS:
            self.reload()
        sealer = self._keys.sealing.get(record.epoch) or self._reloaded().sealing_key(record.epoch)
        header = next(sealer.headers, None) or self._next_header(sealer)
        nonce = os.urandom(_NONCE_BYTES)  # random, never counted: a restored database would repeat a counter
        return header + nonce + sealer.cipher.encrypt(nonce, _pad(plaintext), _context(header, record))

    def open(self, record: RecordName, sealed: bytes) -> bytes:
        """Return what was sealed as exactly this record. Raises Tampered; UnknownEpoch when its key is gone."""
        if len(sealed) < _BODY_AT:
            raise Tampered("sealed record is cut short")
        header = sealed[: _HEADER.size]
        form, epoch, version = _HEADER.unpack(header)
        if form != _FORMAT or epoch != record.epoch:
            raise Tampered("sealed record is of another format or epoch")
        cipher = self._keys.ciphers.get((epoch, version)) or self._reloaded().cipher(epoch, version)
        try:
            padded = cipher.decrypt(sealed[_HEADER.size : _BODY_AT], sealed[_BODY_AT:], _context(header, record))
        except InvalidTag:
            raise Tampered("sealed record does not belong here or was changed") from None
        return _unpad(padded)

    def blind_index(self, epoch: int, version: int, field: IndexField, value: str) -> int:
        """Return the tag of `value` (from `document_value` or `name_values`) beside a blob of `epoch` whose header
        names this key `version`: a process may read the store again between a blob and its tags.

        The first 8 bytes of HMAC-SHA-256 as a signed integer, PostgreSQL's bigint. They collide: every hit is opened
        and compared. Raises UnknownEpoch, and Tampered if there is no such version.
        """
        keys = self._keys if (epoch, version) in self._keys.ciphers else self._reloaded()
        return _integer(keys.tagger(epoch, version)(_INDEX_PREFIX[field] + value.encode()))

    def blind_indexes(self, epoch: int, field: IndexField, value: str) -> tuple[int, ...]:
        """Return the tags of `value` under every index key of `epoch`, the newest first: it has two while records are
        sealed anew, or the month is parted into what is kept and what is forgotten.

        Others tag with a new key at once, and this process notices it within seconds: whoever must miss nothing looks
        (`reload`) after asking whether these are still all. Raises UnknownEpoch.
        """
        taggers = self._keys.indexes.get(epoch) or self._reloaded().index(epoch)
        return tuple(_integer(tagger(_INDEX_PREFIX[field] + value.encode())) for tagger in taggers.values())

    def presence_tag(self, value: str) -> int:
        """Return the tag of a `document_value` for questions about now, the same in every facility and month."""
        return _integer(self._keys.tags[KeyPurpose.PRESENCE](f"{NORM}|presence|{value}".encode()))

    def reference_tag(self, facility_id: int, source_ref: str) -> bytes:
        """Return the 16-byte tag of a source reference within its facility, compared exactly."""
        return self._keys.tags[KeyPurpose.REFERENCE](f"1|reference|{facility_id}|{source_ref}".encode())[:16]

    def guest_tag(self, facility_id: int, guest_ref: str) -> int:
        """Return the tag of the sender's own name of a guest within its facility, compared exactly."""
        return _integer(self._keys.tags[KeyPurpose.REFERENCE](f"1|guest|{facility_id}|{guest_ref}".encode()))

    def content_tag(self, canonical: bytes) -> bytes:
        """Return the 16-byte tag by which a repeated declaration (its canonical JSON) is recognised."""
        return self._keys.tags[KeyPurpose.CONTENT](b"1|content|" + canonical)[:16]

    def question_tag(self, stay_id: UUID, question: bytes) -> bytes:
        """Return the 16-byte tag by which a question about the guest of a stay is recognised, within that stay only."""
        return self._keys.tags[KeyPurpose.CONTENT](b"1|question|" + stay_id.bytes + question)[:16]

    def entry_tag(self, canonical: bytes) -> bytes:
        """Return the tag by which an audit entry (its canonical JSON) shows that whoever wrote it held our keys."""
        return self._keys.tags[KeyPurpose.CONTENT](b"1|entry|" + canonical)

    def seal_cursor(self, scope: str, position: bytes) -> str:
        """Return an opaque URL-safe cursor; it opens only in the same `scope` (the list and whose it is)."""
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._keys.cursor.encrypt(nonce, position, f"1|cursor|{scope}".encode())
        return base64.urlsafe_b64encode(nonce + sealed).decode("ascii").rstrip("=")

    def open_cursor(self, scope: str, cursor: str) -> bytes:
        """Return the position in a cursor of this `scope`. Raises Tampered for anything else."""
        try:
            sealed = base64.urlsafe_b64decode(cursor.encode("ascii") + b"=" * (-len(cursor) % 4))
            return self._keys.cursor.decrypt(sealed[:_NONCE_BYTES], sealed[_NONCE_BYTES:], f"1|cursor|{scope}".encode())
        except (InvalidTag, ValueError):
            raise Tampered("not a cursor of this list") from None

    def signing_key(self, purpose: KeyPurpose) -> SigningKey:
        """Return the newest signing key for `purpose`. Raises WrongPurpose if keys of that purpose do not sign."""
        signer = self._keys.signers.get(purpose)
        if signer is None:
            raise WrongPurpose(f"{purpose} keys do not sign")
        return signer

    def _next_header(self, sealer: _Sealer) -> bytes:
        with self._filling:
            header = next(sealer.headers, None)  # another thread may have been here first
            if header is None:
                sealer.headers = repeat(sealer.header, self._reserve(sealer.name, MESSAGES_AT_ONCE))
                header = next(sealer.headers, None)
        if header is None:
            raise KeyExhausted(sealer.name)
        return header

    def _reloaded(self) -> _Keys:
        self.reload()
        return self._keys


def _prepare(keys: Iterable[Key], former: _Keys | None = None) -> _Keys:
    """Make the keys usable. What sealed before and still does is taken over, with what was set aside for it."""
    ordered = sorted(keys, key=lambda key: key.name.version)  # so that the newest comes last and wins
    data = {(key.name.epoch or 0, key.name.version): key for key in ordered if key.name.purpose is KeyPurpose.DATA}
    standing = {key.name.purpose: key for key in ordered if key.name.epoch is None}
    hmac = {purpose: key for purpose, key in standing.items() if ALGORITHMS[purpose] == "HMAC-SHA-256"}
    signing = {purpose: key for purpose, key in standing.items() if ALGORITHMS[purpose] == "Ed25519"}
    ciphers = {place: _cipher_of(key) for place, key in data.items()}
    sealing = {}
    for (epoch, version), key in data.items():
        known = former.sealing.get(epoch) if former else None
        fresh = _Sealer(key.name, _HEADER.pack(_FORMAT, epoch, version), ciphers[epoch, version])
        sealing[epoch] = known if known is not None and known.name == key.name else fresh
    indexes: dict[int, dict[int, _Tagger]] = {}
    for key in reversed(ordered):
        if key.name.purpose is KeyPurpose.INDEX:
            indexes.setdefault(key.name.epoch or 0, {})[key.name.version] = _tagger_of(key)
    return _Keys(
        ciphers=ciphers,
        sealing=sealing,
        indexes=indexes,
        tags={purpose: _tagger_of(key) for purpose, key in hmac.items()},
        signers={purpose: _signer_of(key) for purpose, key in signing.items()},
        cursor=_cipher_of(standing[KeyPurpose.CURSOR]),
        source=keys,
    )


def _found(key: _Kind | None, epoch: int) -> _Kind:
    if key is None:
        raise UnknownEpoch(epoch)
    return key


def _cipher_of(key: Key) -> AESGCM:
    return AESGCM(_require(key, "AES-256-GCM").material)


def _signer_of(key: Key) -> SigningKey:
    private = Ed25519PrivateKey.from_private_bytes(_require(key, "Ed25519").material)
    return SigningKey(key.name.purpose, str(key.name), private.public_key().public_bytes_raw(), private)


_INNER_PAD = bytes(value ^ 0x36 for value in range(256))
_OUTER_PAD = bytes(value ^ 0x5C for value in range(256))


def _tagger_of(key: Key) -> _Tagger:
    """Return HMAC-SHA-256 under `key` (RFC 2104) with both pads hashed in advance: half the time of `hmac.digest`."""
    block = _require(key, "HMAC-SHA-256").material.ljust(64, b"\0")
    inner, outer = sha256(block.translate(_INNER_PAD)), sha256(block.translate(_OUTER_PAD))

    def tag(message: bytes) -> bytes:
        first, second = inner.copy(), outer.copy()
        first.update(message)
        second.update(first.digest())
        return second.digest()

    return tag


def _integer(tag: bytes) -> int:
    value: int = _SIGNED_64.unpack_from(tag)[0]
    return value


def _context(header: bytes, record: RecordName) -> bytes:
    place = _PLACE.pack(record.facility_id, record.stay_id.bytes, record.schema_version, record.version)
    return header + place + record.kind.encode()  # the only part of varying length comes last


def _pad(plaintext: bytes) -> bytes:
    size = _LENGTH.size + len(plaintext)
    if size > 0xFFFF + _LENGTH.size:
        raise ValueError("more than 65,535 bytes cannot be sealed in one record")
    return (_LENGTH.pack(len(plaintext)) + plaintext).ljust(size + -size % _PAD_BYTES, b"\0")


def _unpad(padded: bytes) -> bytes:
    end = _LENGTH.size + int(_LENGTH.unpack_from(padded)[0])
    return padded[_LENGTH.size : end]


def verify_signature(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` is the Ed25519 signature of `message` by the key with these 32 public bytes."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


# ---------------------------------------------------------------------------------------------------------------------
# Sealing to the auditor: what the daemon writes and cannot read back


@dataclass(frozen=True, slots=True)
class AuditorKeys:
    """A key pair of the auditor. The private half (96 bytes) never comes near the daemon."""

    public_key: bytes = field(repr=False)
    private_key: bytes = field(repr=False)


# HPKE (RFC 9180) with ML-KEM-768 and X25519 together: the audit is kept for years, longer than X25519 alone may last.
_SUITE = hpke.Suite(hpke.KEM.MLKEM768_X25519, hpke.KDF.HKDF_SHA256, hpke.AEAD.AES_256_GCM)
_KEM_PUBLIC_BYTES, _KEM_SEED_BYTES, _X25519_BYTES = 1184, 64, 32


def generate_auditor_keys() -> AuditorKeys:
    """Make a key pair for the auditor, who does this offline and hands over the public half."""
    kem, curve = MLKEM768PrivateKey.generate(), X25519PrivateKey.generate()
    public = kem.public_key().public_bytes_raw() + curve.public_key().public_bytes_raw()
    return AuditorKeys(public, kem.private_bytes_raw() + curve.private_bytes_raw())


def seal_to_auditor(public_key: bytes, info: bytes, plaintext: bytes) -> bytes:
    """Seal `plaintext` (at most 65,535 bytes, padded) so that only the auditor opens it.

    `info` binds the place it belongs to (the audit entry) and must be given again to open. Raises ValueError for
    what is no public key of `generate_auditor_keys`.
    """
    return _SUITE.encrypt(_pad(plaintext), _auditor_public_key(public_key), info=info)


def open_as_auditor(private_key: bytes, info: bytes, sealed: bytes) -> bytes:
    """Return what was sealed to the auditor with this `info`. Raises Tampered."""
    if len(private_key) != _KEM_SEED_BYTES + _X25519_BYTES:
        raise ValueError("not an auditor's private key")
    kem = MLKEM768PrivateKey.from_seed_bytes(private_key[:_KEM_SEED_BYTES])
    curve = X25519PrivateKey.from_private_bytes(private_key[_KEM_SEED_BYTES:])
    try:
        padded = _SUITE.decrypt(sealed, hpke.MLKEM768X25519PrivateKey(kem, curve), info=info)
    except (InvalidTag, ValueError):
        raise Tampered("not sealed to this auditor for this place") from None
    return _unpad(padded)


@lru_cache(maxsize=4)
def _auditor_public_key(public_key: bytes) -> hpke.MLKEM768X25519PublicKey:
    if len(public_key) != _KEM_PUBLIC_BYTES + _X25519_BYTES:
        raise ValueError("not an auditor's public key")
    kem = MLKEM768PublicKey.from_public_bytes(public_key[:_KEM_PUBLIC_BYTES])
    return hpke.MLKEM768X25519PublicKey(kem, X25519PublicKey.from_public_bytes(public_key[_KEM_PUBLIC_BYTES:]))
