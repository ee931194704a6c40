"""What an operator sees and does: stays that are not carried yet, the lanes they travel in, and alerts.

Nothing here is about a guest: ids, codes, counts, and when something happened to a record.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import AwareDatetime, Field, field_validator

from schemas.limits import LIST_ROWS
from schemas.stay import Code, Input, Output, Tidy, refuse

ACTION_ROWS = 10_000
"""How many stays one action moves at most; the answer says when there are more."""
NAMED_ROWS = 500
"""How many stays one action may name, and how many its answer names."""
REASON_LIMIT = 300

Reason = Annotated[str, Field(pattern=r"^[a-z_]{1,32}$")]
FailureCode = Annotated[str, Field(max_length=64)]
WaitReasonName = Literal["unreachable", "ambiguous", "no_key"]
SettledReason = Literal["corrected_there", "owner_informed", "not_required", "under_investigation"]
"""Why a refused stay needs no more looking at: the population database's own staff mended it; the owner was told to
correct the declaration; it does not have to be there; somebody is working on it elsewhere."""


# -- questions ---------------------------------------------------------------------------------------------------------


class RefusedQuery(Input):
    """Which refused stays to list, by stay id."""

    code: FailureCode | None = Field(default=None, description="Mã từ chối · The code of the refusal")
    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    before: AwareDatetime | None = Field(default=None, description="Bị từ chối trước thời điểm này · Refused before")
    settled: bool = Field(default=False, description="true: những lượt đã xử lý xong · those that were settled")
    after: UUID | None = Field(default=None, description="Từ liên kết next · From the next link")
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class WaitingQuery(Input):
    """Which waiting stays to list, by stay id."""

    reason: WaitReasonName | None = Field(default=None, description="Lý do chờ · Why they wait")
    code: FailureCode | None = Field(default=None, description="Mã lỗi gần nhất · The code of the last failure")
    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    before: AwareDatetime | None = Field(default=None, description="Chờ từ trước thời điểm này · Waiting since before")
    after: UUID | None = Field(default=None, description="Từ liên kết next · From the next link")
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class InspectQuery(Input):
    """Whether the population database is asked as well."""

    ask: bool = Field(default=False, description="true: hỏi cả CSDL dân cư · also ask the population database")


class OperatorAlertsQuery(Input):
    """Which alerts to list, the newest occurrence first."""

    closed: bool = Field(default=False, description="true: kể cả những cảnh báo đã đóng · closed ones too")
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


# -- actions -----------------------------------------------------------------------------------------------------------


class Selection(Input):
    """The stays that an action is about: all that fit everything which is given. Something must be given."""

    stay_ids: Annotated[list[UUID], Field(min_length=1, max_length=NAMED_ROWS)] | None = None
    code: FailureCode | None = Field(default=None, description="Mã từ chối hoặc mã lỗi · The code of its failure")
    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    before: AwareDatetime | None = Field(
        default=None, description="Bị từ chối hoặc chờ từ trước thời điểm này · Refused, or waiting since, before this"
    )
    dry_run: bool = Field(default=False, description="true: chỉ đếm · only count, change nothing")


def holds_long_number(text: str) -> bool:
    """Whether a text that is kept for good holds what may be the number of a document."""
    return re.search(r"\d{8}", text) is not None


class Move(Selection):
    """Stays that are tried again, and why, if somebody wants to say it. The audit keeps it for good."""

    reason: Annotated[str, Tidy, Field(min_length=1, max_length=REASON_LIMIT)] | None = Field(
        default=None, description="Vì sao; không nói gì về khách · Why; nothing about a guest"
    )

    @field_validator("reason")
    @classmethod
    def _without_long_numbers(cls, text: str | None) -> str | None:
        if text is not None and holds_long_number(text):
            raise refuse("wrong_format", expected="không có dãy số dài · no long numbers")
        return text


class Settlement(Selection):
    """Refused stays that were looked at, and why they need no more of it."""

    reason: SettledReason = Field(description="Lý do · Why they need no more looking at")


class AlertClosing(Input):
    """The alert that was dealt with."""

    kind: Reason
    subject: Annotated[str, Field(min_length=1, max_length=200)]


# -- answers -----------------------------------------------------------------------------------------------------------


class RefusedState(Output):
    """A stay that waits for a human. It stays refused when it is settled: only nobody is alarmed any more."""

    stay_id: str
    facility: str
    version: int
    code: str
    refused_at: datetime
    age_seconds: int
    settled_at: datetime | None
    settled_by: str | None
    settled_reason: str | None


class RefusedStates(Output):
    """A page of refused stays; `next` is the path of the following one."""

    refused: list[RefusedState]
    next: str | None


class WaitingState(Output):
    """A stay that is tried again at `due_at`. Of an ambiguous one it is unknown whether it took effect."""

    stay_id: str
    facility: str
    version: int
    reason: str
    code: str
    attempts: int
    waiting_since: datetime
    due_at: datetime
    age_seconds: int


class WaitingStates(Output):
    """A page of waiting stays; `next` is the path of the following one."""

    waiting: list[WaitingState]
    next: str | None


class Acted(Output):
    """What an action did, or would do: how many stays, and the ids of the first 500."""

    stays: int
    dry_run: bool
    more: bool = Field(description="The limit of one action was reached: repeat it for what is left")
    stay_ids: list[str]


class BacklogPart(Output):
    """How many stays are in one place for one reason. A stay in none of them is confirmed."""

    place: Literal["queued", "waiting", "refused", "settled"]
    reason: str | None = Field(description="Why a stay waits")
    code: str | None = Field(description="The code of the last failure, or of the refusal")
    stays: int = Field(description="Of the queue: versions")
    oldest_at: datetime | None = Field(description="Since when the longest waits; of the queue, among 500 stays")


class WorkerState(Output):
    """A sync worker, and the lanes it holds."""

    worker: str
    seen_until: datetime | None = Field(description="Counted as alive until then; null: only holds lanes still")
    lanes: list[int]


class SyncState(Output):
    """How the carrying of stays is doing."""

    backlog: list[BacklogPart]
    workers: list[WorkerState]
    free_lanes: int = Field(description="Lanes that nobody holds: no stay of their facilities is carried")
    open_alerts: dict[str, int]


class VersionState(Output):
    """One version of a stay, without what stood in it."""

    version: int
    status: str
    event: str
    received_at: datetime
    confirmed_at: datetime | None = Field(description="When the population database confirmed it")
    queued: bool


class PopulationSays(Output):
    """What the population database answered; `code` says why there is no answer."""

    version: int | None = Field(description="The version it holds; null: none, or no answer")
    as_confirmed: bool | None = Field(
        description="Whether it holds what it confirmed to us of that version, by digest; null: nothing is held, or no "
        "digest was kept"
    )
    code: str | None


class StayInspection(Output):
    """Where one stay stands on its way. `place` is `none` of a sandbox's stay and of work that was lost."""

    stay_id: str
    facility: str
    sandbox: bool
    place: Literal["confirmed", "queued", "waiting", "refused", "none"]
    versions: list[VersionState] = Field(description="The newest first, at most 100")
    waiting: WaitingState | None
    refused: RefusedState | None
    lane: int
    lane_holder: str | None = Field(description="The worker that carries it")
    population: PopulationSays | None


class AlertState(Output):
    """Something that an operator has to look at. `details` are counts and codes of its last occurrence."""

    kind: str
    subject: str
    raised_at: datetime
    last_at: datetime
    occurrences: int
    details: dict[str, int | str]
    closed_at: datetime | None
    closed_by: str | None


class AlertStates(Output):
    """Alerts, the newest occurrence first."""

    alerts: list[AlertState]
