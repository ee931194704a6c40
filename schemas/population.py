"""The contract with the population database (Cơ sở dữ liệu quốc gia về dân cư): what is sent, and what is believed.

Every field that leaves is here, with nothing beside it: docs/population-contract.md states its purpose and legal basis.
What we send is strict and refuses unknown members; of what comes back, unknown members are ignored, so that the other
side may add one without stopping us. Both sides use `canonical` and `digest`.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Any
from uuid import UUID

import orjson
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)

from schemas.codes import DocumentType, FacilityKind, Gender

BATCH_LIMIT = 500
"""How many stays one request may carry, or ask for; likewise how many ranges."""
DIGEST_LIMIT = 100_000
"""How many stays of a range are digested at most. Of a range with more no digest is told."""

_BIRTH_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", re.ASCII)


class ItemStatus(StrEnum):
    """Where the stay is in its life. Cancelled is final: no later version brings the stay back."""

    DECLARED = "declared"
    DEPARTED = "departed"
    CANCELLED = "cancelled"


class Outcome(StrEnum):
    """What became of one item. Only `refused` needs a human; `stale` means that a newer version is already held."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    STALE = "stale"
    REFUSED = "refused"


class Verification(StrEnum):
    """Whether the guest is who the document says (kết quả đối chiếu với Cơ sở dữ liệu quốc gia về dân cư)."""

    MATCHED = "matched"
    MISMATCH = "mismatch"
    UNKNOWN = "unknown"
    DOCUMENT_REVOKED = "document_revoked"
    NOT_CHECKED = "not_checked"


def _only_in_words(value: object) -> object:
    """Even strict, pydantic reads "1700000000" as an instant; hence it is told what an instant looks like."""
    if isinstance(value, datetime) or (isinstance(value, str) and "T" in value):
        return value
    raise ValueError("an RFC 3339 date and time is wanted")


def _to_utc_seconds(instant: datetime) -> datetime:
    return instant.astimezone(UTC).replace(microsecond=0)


Instant = Annotated[
    AwareDatetime, Field(strict=False), BeforeValidator(_only_in_words), AfterValidator(_to_utc_seconds)
]
"""An instant with an offset. It is carried in UTC and in whole seconds; anything finer is cut off."""

Version = Annotated[int, Field(ge=1, le=2**31 - 1)]
FORM_CODES = frozenset({"version_conflict", "facility_changed", "stay_cancelled", "unknown_field", "invalid_item"})
"""Why an item is refused, as docs/population-contract.md names it: all about what was sent, none about the guest."""
RefusalCode = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")]


class _Sent(BaseModel):
    """What we send: strict, nothing unknown, immutable, values never in repr or errors."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class _Received(BaseModel):
    """What comes back: strict types, members that we do not know are ignored."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True, hide_input_in_errors=True)


class PopulationDocument(_Sent):
    """Giấy tờ of the guest: official type code and number. No issue date, no image."""

    type: DocumentType
    number: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=32)]


class PopulationGuest(_Sent):
    """Khách lưu trú, as far as it takes to find the person. `birth_date` is YYYY-MM-DD, YYYY-MM or YYYY.

    `document` is null for a minor who was declared with a guardian instead; the guardian is not sent.
    """

    full_name: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=200)]
    birth_date: str
    gender: Gender | None
    nationality: Annotated[str, Field(pattern=r"^[A-Z]{3}$")]
    document: PopulationDocument | None

    @field_validator("birth_date")
    @classmethod
    def _birth_date_exists(cls, text: str) -> str:
        match = _BIRTH_DATE.fullmatch(text)
        if not match:
            raise ValueError("YYYY-MM-DD, YYYY-MM or YYYY is wanted")
        date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
        return text


class PopulationFacility(_Sent):
    """Cơ sở lưu trú: public code, kind, and the commune (statistics office's code) whose police are competent."""

    code: Annotated[str, Field(pattern=r"^[A-Z0-9][A-Z0-9-]{1,31}$")]
    kind: FacilityKind
    commune: Annotated[str, Field(pattern=r"^[0-9]{5,9}$")]


class PopulationItem(_Sent):
    """One version of one stay (lượt lưu trú): the unit of the contract, idempotent by (`stay_id`, `version`).

    A cancelled stay carries no guest and no departure: its item is a tombstone. A departed stay carries `departed_at`,
    a declared one does not. `planned_departure_at` is null where the guest has not said it.
    """

    stay_id: UUID
    version: Version
    status: ItemStatus
    facility: PopulationFacility
    guest: PopulationGuest | None
    arrived_at: Instant
    planned_departure_at: Instant | None
    departed_at: Instant | None

    @model_validator(mode="after")
    def _content_fits_the_status(self) -> PopulationItem:
        if (self.status is ItemStatus.CANCELLED) != (self.guest is None):
            raise ValueError("a cancelled stay has no guest, any other has one")
        if (self.status is ItemStatus.DEPARTED) != (self.departed_at is not None):
            raise ValueError("a departed stay has departed_at, no other has it")
        return self


class BatchRequest(_Sent):
    """`POST /v1/stays:batch`. Each item is validated by itself as `PopulationItem`: one bad item holds up no other."""

    items: Annotated[list[Any], Field(min_length=1, max_length=BATCH_LIMIT)]


class StatusRequest(_Sent):
    """`POST /v1/stays:status`: which version of these stays is held?"""

    stay_ids: Annotated[list[UUID], Field(min_length=1, max_length=BATCH_LIMIT)]


class IdRange(_Sent):
    """The stays with `start` ≤ id < `end`, by the 128-bit number that an id is."""

    start: UUID
    end: UUID

    @model_validator(mode="after")
    def _holds_something(self) -> IdRange:
        if self.start >= self.end:
            raise ValueError("start must be before end")
        return self


class DigestsRequest(_Sent):
    """`POST /v1/stays:digests`: what is held in these ranges? They are in order, and no two share an id."""

    ranges: Annotated[list[IdRange], Field(min_length=1, max_length=BATCH_LIMIT)]

    @model_validator(mode="after")
    def _ranges_are_apart(self) -> DigestsRequest:
        if any(one.end > next_one.start for one, next_one in pairwise(self.ranges)):
            raise ValueError("ranges must be in order and apart")
        return self


class HeldRequest(IdRange):
    """`POST /v1/stays:held`: which stays of this range are held, in which version, with which content?"""


class PopulationResult(_Received):
    """What became of one item. `code` says why it was refused and is null otherwise."""

    stay_id: UUID
    version: Version
    outcome: Outcome
    code: RefusalCode | None
    verification: Verification

    @model_validator(mode="after")
    def _a_refusal_has_its_code(self) -> PopulationResult:
        if (self.outcome is Outcome.REFUSED) != (self.code is not None):
            raise ValueError("a refusal has a code, nothing else has one")
        return self


class PopulationState(_Received):
    """What is held of one stay: all null when the stay is unknown there, else the newest version that took effect.

    `digest` is `digest(item)` of that version. `verification` is its result, for a sender whose answer was lost.
    """

    stay_id: UUID
    version: Version | None
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None
    verification: Verification | None

    @model_validator(mode="after")
    def _all_or_nothing(self) -> PopulationState:
        if len({self.version is None, self.digest is None, self.verification is None}) != 1:
            raise ValueError("version, digest and verification are null together")
        return self


class RangeDigest(_Received):
    """How many stays of a range are held, and `range_digest` of their digests in the order of the ids.

    Both are null of a range that holds more than `DIGEST_LIMIT` stays.
    """

    start: UUID
    end: UUID
    stays: Annotated[int, Field(ge=0)] | None
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None

    @model_validator(mode="after")
    def _both_or_neither(self) -> RangeDigest:
        if (self.stays is None) != (self.digest is None):
            raise ValueError("stays and digest are null together")
        return self


class HeldStay(_Received):
    """A stay that is held: its newest version that took effect, and `digest(item)` of that."""

    stay_id: UUID
    version: Version
    digest: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class HeldPage(_Received):
    """The first stays held of a range, by id, at most `BATCH_LIMIT`; `complete`: they are all of the range.

    `count` says again how many these are. Nothing of a page is believed unless all of it fits: a row that was left out
    would look like a stay that is not held.
    """

    results: Annotated[list[HeldStay], Field(max_length=BATCH_LIMIT)]
    count: Annotated[int, Field(ge=0, le=BATCH_LIMIT)]
    complete: bool

    @model_validator(mode="after")
    def _is_whole_and_in_order(self) -> HeldPage:
        if self.count != len(self.results):
            raise ValueError("rows are missing")
        if any(one.stay_id >= next_one.stay_id for one, next_one in pairwise(self.results)):
            raise ValueError("rows must be in order, and no stay twice")
        if not self.complete and not self.results:
            raise ValueError("an incomplete page has rows")
        return self


def canonical(item: PopulationItem) -> bytes:
    """The one JSON form of an item: UTF-8, members sorted, no spaces, every member present, instants as …Z."""
    return orjson.dumps(item.model_dump(mode="json"), option=orjson.OPT_SORT_KEYS)


def digest(item: PopulationItem) -> str:
    """SHA-256 of the canonical item, 64 hexadecimal digits in lower case."""
    return hashlib.sha256(canonical(item)).hexdigest()


def range_digest(digests: Iterable[str]) -> str:
    """SHA-256 over the digests of the stays of a range, 32 bytes each, in the order of their ids; of none, of nothing.

    The digests name stay and version, for these are part of the item.
    """
    return hashlib.sha256(b"".join(map(bytes.fromhex, digests))).hexdigest()


# -- what a sender may conclude ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class BatchAnswer:
    """A believed answer to a batch: at least one result, each for a (stay, version) that was sent.

    `unanswered` are the stays sent for which no believable result came: whether they took effect is unknown.
    """

    results: Mapping[UUID, PopulationResult]
    unanswered: frozenset[UUID]


class Unreachable(Exception):
    """The population database took nothing in: it could not be reached, or refused the request as a whole.

    `code` is a stable word without personal data; `retry_after_seconds` is what the other side asked for, if it did.
    """

    def __init__(self, code: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class Ambiguous(Exception):
    """The request may or may not have taken effect: ask for the status before sending again.

    `code` is a stable word without personal data.
    """

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code
