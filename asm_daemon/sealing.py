"""The one blob in which everything about a person is sealed, per version of a stay or of an expected one."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import datetime
from hashlib import sha256
from typing import Any
from uuid import UUID

import orjson

from asm_daemon.crypto import Keyring, RecordName, epoch_at, epoch_of
from asm_daemon.model import Beside, Contents, ExpectedContents, ExpectedRow, StayRow
from asm_daemon.receipts import SALT_BYTES

SCHEMA_VERSION = 1


def new_salt() -> bytes:
    """Random bytes that keep a receipt's digest of the declared fields from being guessed."""
    return os.urandom(SALT_BYTES)


def record_name(facility_id: int, stay_id: UUID, version: int) -> RecordName:
    """The name a version of a stay is sealed under. All versions lie in the epoch of the stay's id."""
    return RecordName("stay", epoch_of(stay_id), facility_id, stay_id, SCHEMA_VERSION, version)


def mark_name(facility_id: int, stay_id: UUID) -> RecordName:
    """Which record the sealed mark of temporary residence of a stay is."""
    return RecordName("temporary_residence", epoch_of(stay_id), facility_id, stay_id, 1, 1)


def seal_contents(keyring: Keyring, facility_id: int, stay_id: UUID, version: int, contents: Contents) -> bytes:
    """Seal the contents of one version. Raises `UnknownEpoch`."""
    return keyring.seal(record_name(facility_id, stay_id, version), _encode(contents))


def open_contents(keyring: Keyring, row: StayRow) -> Contents:
    """Open one version. Raises `Tampered` when the blob is not this row's, `UnknownEpoch` when its key is gone."""
    return _decode(keyring.open(record_name(row.facility_id, row.id, row.version), row.sealed))


def seal_message_header(keyring: Keyring, message_tag: bytes, received_at: datetime, header: tuple[str, ...]) -> bytes:
    """Seal what an HL7 message called itself, in the month in which it was received. Raises `UnknownEpoch`."""
    return keyring.seal(_message_name(message_tag, received_at), orjson.dumps(header))


def open_message_header(keyring: Keyring, message_tag: bytes, received_at: datetime, sealed: bytes) -> tuple[str, ...]:
    """Open it. Raises `Tampered` when it is not of this message, `UnknownEpoch` when its key is gone."""
    return tuple(orjson.loads(keyring.open(_message_name(message_tag, received_at), sealed)))


def _message_name(message_tag: bytes, received_at: datetime) -> RecordName:
    return RecordName("hl7_message", epoch_at(received_at), 0, UUID(bytes=message_tag), SCHEMA_VERSION, 1)


def reseal_contents(keyring: Keyring, row: StayRow, contents: Contents) -> bytes:
    """Seal one version anew under the newest key of its epoch, with the hash that its receipt was signed over.

    Raises `UnknownEpoch`, `KeyExhausted`.
    """
    signed = contents.signed_sha256 or sha256(row.sealed).digest()
    return seal_contents(keyring, row.facility_id, row.id, row.version, replace(contents, signed_sha256=signed))


def _encode(contents: Contents) -> bytes:
    later: dict[str, Any] = {}  # members that older blobs do not have
    if contents.signed_sha256 is not None:
        later["signed_sha256"] = contents.signed_sha256.hex()
    if contents.beside is not None:
        later["beside"] = tuple(contents.beside)
    return orjson.dumps(
        {
            **later,
            "declared": contents.declared,
            "salt": contents.salt.hex(),
            "source_ref": contents.source_ref,
            "sender": contents.sender,
            "override": contents.override,
            "cancellation": contents.cancellation,
            "guest_ref": contents.guest_ref,
            "groups": contents.groups,
            "was_expected": contents.was_expected,
        },
        option=orjson.OPT_SORT_KEYS,
    )


def _decode(plaintext: bytes) -> Contents:
    members: dict[str, Any] = orjson.loads(plaintext)
    signed = members.pop("signed_sha256", None)
    members["signed_sha256"] = bytes.fromhex(signed) if signed else None
    if (beside := members.get("beside")) is not None:
        status, departed_at, declared_at = beside
        members["beside"] = Beside(
            status, datetime.fromisoformat(departed_at) if departed_at else None, datetime.fromisoformat(declared_at)
        )
    return Contents(**{**members, "salt": bytes.fromhex(members["salt"])})


def seal_expected(keyring: Keyring, facility_id: int, row_id: UUID, version: int, contents: ExpectedContents) -> bytes:
    """Seal what is known of an expected guest. Raises `UnknownEpoch`."""
    members = {name: getattr(contents, name) for name in ExpectedContents.__slots__}
    return keyring.seal(_expected_name(facility_id, row_id, version), orjson.dumps(members))


def open_expected(keyring: Keyring, row: ExpectedRow) -> ExpectedContents:
    """Open what is known of an expected guest. Raises `Tampered`, `UnknownEpoch`."""
    members = orjson.loads(keyring.open(_expected_name(row.facility_id, row.id, row.version), row.sealed))
    return ExpectedContents(**{**members, "missing": tuple(map(tuple, members["missing"]))})


def _expected_name(facility_id: int, row_id: UUID, version: int) -> RecordName:
    return RecordName("expected", epoch_of(row_id), facility_id, row_id, SCHEMA_VERSION, version)
