"""What a sender has to know beforehand: how much, how far, how long. Served at `/v1/limits`, enforced everywhere."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from schemas.codes import FacilityKind
from schemas.stay import Output

DECLARATION_BYTES = 64 << 10
"""Bytes of one declaration, correction or other act: twenty times what the longest allowed texts fill."""
FORM_BYTES = 1 << 10
"""Bytes of a small form on a page, and of a text field beside a file."""
PORTAL_BODY_BYTES = 64 << 20
"""Bytes of a body of the national portal's contract, photographs included. They are dropped as they arrive, so that no
more than the limit of other bodies is ever held."""
LIST_ROWS = 500
"""Rows of one page of a list."""
IDEMPOTENCY_KEY_LIMIT = 128
"""Characters of an Idempotency-Key."""


class MinorLimit(Output):
    """Below which age a guest needs no document where there is a guardian: the rules in force now."""

    facility_kinds: list[FacilityKind]
    below_age: int = Field(description="Completed years on the day of arrival; at this age a document is needed")
    guardian_in_house: bool = Field(description="true: a warning tells if the guardian does not stay there too")
    source: str


class Limits(Output):
    """The limits of this deployment, and its clock."""

    environment: Literal["trial", "production"] = Field(description="trial: nothing declared here has legal effect")
    now: datetime = Field(description="The daemon's clock: compare it with yours, lateness is counted on this one")
    time_zone: Literal["Asia/Ho_Chi_Minh"] = "Asia/Ho_Chi_Minh"
    declaration_bytes: int = Field(description="Bytes of the body of a single act")
    body_bytes: int = Field(description="Bytes of the body of a batch, and of a file")
    portal_body_bytes: int = Field(
        description="Bytes of a body of the national portal's contract, photographs included"
    )
    batch_rows: int = Field(description="Rows of a batch or a file")
    list_rows: int = Field(description="Rows of one page of a list")
    idempotency_key_characters: int
    source_ref_characters: int
    name_characters: int
    text_characters: int
    arrival_ahead_hours: int = Field(description="How far in the future an arrival may lie")
    arrival_behind_days: int = Field(description="How far in the past an arrival may lie; late ones are accepted")
    stay_days: int = Field(description="How long one stay may be")
    declare_before: Literal["23:00"] = Field(
        default="23:00", description="Deadline on the day of arrival, local time (Art. 30, Law on Residence)"
    )
    declare_before_next_day: Literal["08:00"] = Field(
        default="08:00", description="Deadline on the next day for an arrival at 23:00 or later"
    )
    minors: list[MinorLimit]
    connectors: list[str] = Field(description="Names of the readers for files")
