"""What everybody may fetch of the audit (nhật ký kiểm toán): sizes, hashes and signatures; never an entry."""

from __future__ import annotations

from typing import Annotated
from uuid import UUID

from pydantic import Field

from schemas.stay import Input, Output

SIZE_LIMIT = 2**53 - 1
Size = Annotated[int, Field(ge=0, le=SIZE_LIMIT)]


class ConsistencyQuery(Input):
    """Between which sizes the audit is to be proven to have only grown."""

    old: Size = Field(description="Số bản ghi đã biết · The number of entries that is known")
    new: Size = Field(description="Số bản ghi của một điểm kiểm tra mới hơn · That of a newer checkpoint")


class Consistency(Output):
    """The proof (RFC 9162, 2.1.4): hashes in hexadecimal, at most 64."""

    old: int
    new: int
    proof: list[str]


class InclusionQuery(Input):
    """Which entry is to be proven to be in the audit."""

    entry: UUID = Field(
        description="Mã bản ghi, như `trace` của một lần tra cứu · The entry's id, as a search's `trace`"
    )


class Inclusion(Output):
    """The proof (RFC 9162, 2.1.3): the entry's place and leaf hash, the path to the root, the note that signs it."""

    position: int
    leaf: str
    proof: list[str]
    checkpoint: str


class Cosignature(Input):
    """A witness's confirmation of a checkpoint: the signature line of C2SP tlog-cosignature."""

    size: Size
    line: Annotated[str, Field(min_length=1, max_length=1024)]


class WitnessState(Output):
    """How far the witness (nhân chứng) confirmed the audit, and what its silence still allows."""

    name: str
    confirmed_size: int
    silent_seconds: int
    releases: bool
    police_reads: bool


class AuditState(Output):
    """The audit: its signed size, and its witness; null where none is set up, and then nothing stops for want of it."""

    size: int
    witness: WitnessState | None
