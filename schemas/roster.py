"""Rosters (danh sách người ở): a full list as the state of its scope, the plan that follows from it, its execution."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any, Literal

from pydantic import Field

from schemas.act import RESULTS_LIMIT
from schemas.answers import Texts
from schemas.stay import Code, Input, Output, Problem, Violated

SCOPE_LIMIT = 300
ABSENCE_NIGHTS_LIMIT = 60

RosterAction = Literal[
    "check_in",
    "return",
    "room_change",
    "renewal",
    "assignment",
    "unchanged",
    "check_out",
    "absent",
    "possible_typo",
    "elsewhere",
    "refused",
]
RosterDecisionName = Literal["correct", "new_person", "move", "skip"]


class RosterQuery(Input):
    """What a roster is a state of; fields of a multipart form have precedence."""

    facility: Code | None = Field(
        default=None, description="Mã cơ sở lưu trú; bỏ trống khi khoá chỉ dùng cho một cơ sở"
    )
    scope: Annotated[str, Field(min_length=1, max_length=SCOPE_LIMIT)] | None = Field(
        default=None,
        description="Bắt buộc. Danh sách này đầy đủ cho phần nào: all, building:A, employer:Tên công ty, shift:1; "
        "nhiều điều kiện cách nhau bằng dấu chấm phẩy · Required: what the list is complete for",
    )
    connector: Code | None = Field(default=None, description="Bộ đọc; mặc định dorm_roster · The reader")
    absence_nights: Annotated[int, Field(ge=0, le=ABSENCE_NIGHTS_LIMIT)] | None = Field(
        default=None,
        description="Vắng ít hơn số đêm này thì chưa trả phòng; mặc định theo cài đặt · Fewer nights off the list are "
        "an absence, no check-out",
    )


class RosterPlanQuery(Input):
    """How a plan is shown."""

    format: Literal["json", "html"] = Field(
        default="json", description="html: trang để in, cũng theo Accept · a page to print, also by Accept"
    )


class RosterDecision(Input):
    """What the manager decides about a row that is not settled without."""

    row: Annotated[int, Field(ge=1)]
    decision: RosterDecisionName = Field(
        description="correct: gõ nhầm số giấy tờ, đính chính; new_person: người khác, khai báo mới; "
        "move: chuyển từ nơi khác trong cơ sở sang; skip: để lại"
    )


class RosterConfirmation(Input):
    """That a plan shall be executed."""

    confirm_check_outs: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Đúng số người trả phòng, khi kế hoạch vượt giới hạn · The exact number, over the limit",
    )
    decisions: Annotated[list[RosterDecision], Field(max_length=RESULTS_LIMIT)] = Field(default=[])


# -- answers -----------------------------------------------------------------------------------------------------------


class RosterGuest(Output):
    """Whom a row is about, for keys that hold the scope read; showing it is audited."""

    full_name: str
    guest_ref: str | None = Field(description="The employee code (mã nhân viên)")
    room: str | None


class RosterRow(Output):
    """What one line of the roster, or one stay that is not on it, leads to."""

    row: int | None = Field(description="The line of the file; null for a stay that the roster does not list")
    action: RosterAction
    label: Texts
    stay_id: str | None = None
    changes: list[str] = Field(default=[], description="JSON Pointers of what the correction changes")
    differs: list[str] = Field(default=[], description="… of what differs and is not changed: correct the stay by hand")
    choices: list[RosterDecisionName] = Field(default=[], description="What can be decided; without a decision: skip")
    last_seen_on: date | None = None
    nights_missing: int | None = None
    guest: RosterGuest | None = None
    problem: Problem | None = None
    warnings: list[Violated] = Field(default=[])


class RosterCounts(Output):
    """How many rows and stays of each kind; everything in house in the scope is counted."""

    rows: int
    in_house: int = Field(description="Guests in house in the scope, before")
    in_house_after: int = Field(description="… afterwards, without what is undecided")
    outside: int = Field(description="Guests in house outside of the scope, who are not touched")
    actions: dict[RosterAction, int]


class RosterLimit(Output):
    """Something that keeps check-outs back, or wants to be confirmed."""

    code: Literal["check_outs", "roster_incomplete"]
    message: Texts
    confirm: int | None = Field(default=None, description="What `confirm_check_outs` has to say")


class RosterPlan(Output):
    """What a roster would change. Nothing is changed until it is applied."""

    plan_id: str
    facility: str
    scope: dict[str, str] = Field(description="Empty: the whole facility")
    state: Literal["planned", "applying", "applied"]
    created_at: datetime
    expires_at: datetime
    absence_nights: int
    plan_sha256: str
    summary: Texts
    counts: RosterCounts
    limits_exceeded: list[RosterLimit]
    rows: list[RosterRow]


class RosterOutcome(Output):
    """What became of one row of the plan."""

    row: int | None
    action: RosterAction
    decision: RosterDecisionName | None
    outcome: Literal["accepted", "duplicate", "refused", "undecided"]
    stay_id: str | None
    version: int | None
    late_minutes: int | None
    receipt: dict[str, Any] | None = Field(description="Its code and address; whole at /v1/stays/{id}/receipt")
    problem: Problem | None


class RosterResult(Output):
    """What applying a plan did: a result for each row that changes something, is refused, or is undecided."""

    plan_id: str
    facility: str
    state: Literal["applying", "applied"] = Field(description="applying: some could not be done now; apply again")
    applied_at: datetime
    counts: dict[Literal["accepted", "duplicate", "refused", "undecided"], int]
    results: list[RosterOutcome]
