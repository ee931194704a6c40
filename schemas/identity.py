"""What a scanner read from an identity document (giấy tờ tuỳ thân), and the members of a declaration it gives."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.stay import Input, Output, Violated
from schemas.violations import Violation

PAYLOAD_CHARACTERS_LIMIT = 4296
"""The most characters that a QR code can hold (ISO/IEC 18004)."""

PayloadKind = Literal["cccd_qr", "mrz"]


@dataclass(frozen=True, slots=True, repr=False)
class Reading:
    """What the reader of identity documents yields: `fields` are members of a declaration, to which pointers lead.

    A member that a violation names is left out; a warning asks a person to look again.
    """

    kind: PayloadKind | None
    fields: Mapping[str, Any]
    warnings: tuple[Violation, ...] = ()
    violations: tuple[Violation, ...] = ()


class ScannedDocument(Input):
    """What a scanner typed. It is read, answered and forgotten: nothing of it is stored or logged."""

    kind: PayloadKind | None = Field(
        default=None, description="cccd_qr: mã QR thẻ căn cước; mrz: vùng máy đọc; bỏ trống thì tự nhận biết"
    )
    payload: Annotated[str, Field(min_length=1, max_length=PAYLOAD_CHARACTERS_LIMIT)] = Field(
        description="Nguyên văn máy quét gửi; MRZ có thể xuống dòng hoặc viết liền"
    )


class DocumentReading(Output):
    """What the document says, for a person to confirm.

    A member that a violation points to is left out of `fields`; a warning asks to look again. The pointers lead into
    `fields`, which has the shape of a declaration with nothing but what the document carries.
    """

    kind: PayloadKind | None = Field(description="What the payload was read as; null if it is neither")
    fields: dict[str, Any] = Field(description="Members of a declaration: guest")
    warnings: list[Violated]
    violations: list[Violated]
