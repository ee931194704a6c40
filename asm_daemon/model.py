"""Internal nouns, frozen and slotted. What a client sees is in `schemas`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from hashlib import sha256
from typing import Any, Literal, NamedTuple
from uuid import UUID

from schemas.codes import Department, FacilityKind
from schemas.hospital import HospitalProfile

LANES = 256


def lane_of(facility_id: int) -> int:
    """The sync lane of a facility: all its stays are carried by one worker at a time."""
    return sha256(str(facility_id).encode()).digest()[0]


@dataclass(frozen=True, slots=True)
class Facility:
    """Cơ sở lưu trú: a place that houses guests and must declare them. `authority` is the police that receives them."""

    id: int
    code: str
    name: str
    kind: FacilityKind
    province: str
    commune: str
    address: str
    zone: str | None
    authority: str
    capacity: int
    sandbox: bool


class Scope(StrEnum):
    """What a grant allows for one facility."""

    DECLARE = "declare"
    STATUS = "status"
    READ = "read"


class PrincipalKind(StrEnum):
    """Vai trò: who stands behind an API key."""

    OWNER = "owner"
    VENDOR = "vendor"
    OFFICER = "officer"
    DEPARTMENT = "department"
    OPERATOR = "operator"


@dataclass(frozen=True, slots=True)
class Principal:
    """Chủ thể: who is asking. `grants` maps facility codes to what may be done there."""

    id: UUID
    kind: PrincipalKind
    name: str = field(repr=False)
    organisation: str = field(repr=False)
    department: Department | None
    grants: Mapping[str, tuple[Facility, frozenset[Scope]]]


@dataclass(frozen=True, slots=True, repr=False)
class StayRow:
    """One version of a stay as it is stored. Times are UTC; `sealed` holds everything about the person."""

    id: UUID
    facility_id: int
    version: int
    status: Literal["declared", "departed", "cancelled"]
    event: str
    received_at: datetime
    declared_at: datetime
    arrived_at: datetime
    planned_departure_at: datetime | None
    departed_at: datetime | None
    deadline_at: datetime
    late_minutes: int
    content_tag: bytes
    receipt_batch_id: UUID
    receipt_index: int
    sealed: bytes

    def __repr__(self) -> str:
        return f"<StayRow {self.id} v{self.version}>"


class Presence(NamedTuple):
    """A guest who is in house now: what overlaps are found by."""

    facility_id: int
    stay_id: UUID
    document_tag: int
    arrived_at: datetime
    planned_departure_at: datetime | None
    guest_tag: int | None = None


@dataclass(frozen=True, slots=True, repr=False)
class ExpectedRow:
    """A guest who is expected, or here without an identity (khách dự kiến, khách chưa đủ nhân thân), as it is stored.

    `arrives_at` is when they are expected, or have come if `present`; `departed_at` when they left undeclared;
    `deadline_at` when the declaration is due, None while no arrival is known. `version` counts the changes.
    """

    facility_id: int
    ref_tag: bytes
    id: UUID
    version: int
    guest_tag: int | None
    present: bool
    state: Literal["open", "ended"]
    arrives_at: datetime | None
    departed_at: datetime | None
    deadline_at: datetime | None
    created_at: datetime
    changed_at: datetime
    ended_at: datetime | None
    sealed: bytes

    def __repr__(self) -> str:
        return f"<ExpectedRow {self.id} v{self.version}>"


class PartyHead(NamedTuple):
    """A guest in house who leads a party (trưởng đoàn)."""

    facility_id: int
    stay_id: UUID
    party_tag: int


@dataclass(frozen=True, slots=True)
class Sender:
    """An HL7 sender (hệ thống gửi): the facility it speaks for, how its messages are read, and the certificate (SHA-256
    of its DER form) that it has to show, if one is bound to it."""

    facility: Facility
    profile: HospitalProfile
    certificate_sha256: bytes | None


class Tags(NamedTuple):
    """The blind indexes of one stay's current version."""

    document: int
    person: int
    given_name: int


class ReceiptBatch(NamedTuple):
    """The receipts of one transaction, signed once: `leaves` are the concatenated 32-byte leaf hashes."""

    id: UUID
    signed_at: datetime
    leaves: bytes
    checkpoint: str


class Beside(NamedTuple):
    """What stands in clear beside a stay's blob, and in no receipt: sealed too, so that a changed column is found."""

    status: str
    departed_at: datetime | None
    declared_at: datetime


@dataclass(frozen=True, slots=True, repr=False)
class Contents:
    """What a stay's blob holds, once opened.

    `declared` is the canonical declaration (JSON-shaped, without `override`), `salt` makes the receipt's digest of it
    unguessable, `override` and `cancellation` are the owner's own statements, `sender` the principal that sent it.
    `guest_ref` and `groups` are those of the act (`schemas.act.Act`). `was_expected`: it completes an expectation.
    `signed_sha256` is set once the blob was sealed anew under another key: SHA-256 of the blob its receipt was signed
    over. `beside` is None in what was sealed before it was kept there.
    """

    declared: Mapping[str, Any]
    salt: bytes
    source_ref: str | None
    sender: str
    override: Mapping[str, Any] | None = None
    cancellation: Mapping[str, Any] | None = None
    guest_ref: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)
    was_expected: bool = False
    signed_sha256: bytes | None = None
    beside: Beside | None = None

    def __repr__(self) -> str:
        return "<Contents>"


@dataclass(frozen=True, slots=True, repr=False)
class ExpectedContents:
    """What is known of an expected guest, once opened: sound members of a declaration (`known`), and what it lacks.

    `missing` are (code, pointer, Vietnamese, English) of each violation; the rest is as in `Contents`.
    """

    known: Mapping[str, Any]
    missing: tuple[tuple[str, str, str, str], ...]
    source_ref: str
    sender: str
    guest_ref: str | None = None
    groups: Mapping[str, str] = field(default_factory=dict)

    def __repr__(self) -> str:
        return "<ExpectedContents>"


@dataclass(frozen=True, slots=True)
class ImportJob:
    """An uploaded file on its way in (tệp khai báo), and how far it has come. Nothing here is about a guest.

    `rows` is how many the file holds, None until it is read; `done` = accepted + duplicate + expected + refused.
    """

    id: UUID
    facility_id: int
    connector: str
    actor: str
    state: Literal["waiting", "running", "finished", "failed"]
    received_at: datetime
    started_at: datetime | None
    finished_at: datetime | None
    attempts: int
    rows: int | None
    done: int
    accepted: int
    duplicate: int
    expected: int
    refused: int
    problem: bytes | None = field(repr=False)
    file_bytes: int
    file_erased_at: datetime | None
