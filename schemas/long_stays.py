"""Temporary residence (tạm trú): what a manager says of guests who stay 30 days and more, and the reminders until then.

Law on Residence 68/2020/QH14, Article 27. The guest registers, with the commune police; we remind, and file nothing.
"""

from __future__ import annotations

from datetime import date
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from schemas.limits import LIST_ROWS
from schemas.queries import CURSOR_LIMIT
from schemas.stay import Code, Input, Output, Problem, Tidy

REFERENCE_LIMIT = 100


class TemporaryResidence(Input):
    """The guest has registered temporary residence (đã đăng ký tạm trú). Another mark replaces it."""

    registered_on: Annotated[date, Field(strict=False)] = Field(description="Ngày đăng ký: YYYY-MM-DD")
    reference: Annotated[str, Tidy, Field(min_length=1, max_length=REFERENCE_LIMIT)] = Field(
        description="Số, mã hồ sơ đăng ký tạm trú · The reference of the registration"
    )


class StayTemporaryResidence(TemporaryResidence):
    """A mark in a batch, with the stay it is for."""

    stay_id: Annotated[UUID, Field(strict=False)]


class ResidenceMark(Output):
    """What became of a mark."""

    row: int
    outcome: Literal["accepted", "duplicate", "refused"]
    stay_id: str | None = None
    registered_on: date | None = None
    notice_due: bool | None = Field(
        default=None, description="Whether the stay is still to be declared after the registration, by today's rule"
    )
    problem: Problem | None = None


class ResidenceMarks(Output):
    """received = accepted + duplicate + refused, always."""

    received: int
    accepted: int
    duplicate: int
    refused: int
    results: list[ResidenceMark]


class RemindersQuery(Input):
    """Which reminders to list. Without a facility: those of every facility that the key may see."""

    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    within_days: Annotated[int, Field(ge=0, le=365)] = Field(
        default=7, description="Còn chừng này ngày hoặc ít hơn · So many days left, or fewer"
    )
    cursor: Annotated[str, Field(max_length=CURSOR_LIMIT)] | None = Field(
        default=None, description="Từ liên kết next · From the next link"
    )
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class Reminder(Output):
    """A guest who stays 30 days and more and is not marked as registered. Nothing about the guest."""

    stay_id: str
    facility: str
    source_ref: str | None = Field(description="The sender's own name of the stay, if it gave one")
    arrived_on: date
    day_30_on: date = Field(description="The thirtieth day; the day of arrival is the first")
    days_left: int = Field(description="Until then; negative: so many days over")


class Reminders(Output):
    """One page, longest stays first; the next page is the `next` link."""

    reminders: list[Reminder]
    next: str | None
