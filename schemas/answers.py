"""What the API answers besides stays: facilities, codes, problems, the sandbox, health."""

from __future__ import annotations

from datetime import date, datetime
from typing import Any, Literal

from pydantic import Field

from schemas.police import Purpose
from schemas.stay import Output, Violated

Texts = dict[Literal["vi", "en"], str]


class FacilityState(Output):
    """One granted facility (cơ sở lưu trú) today, by the calendar of Viet Nam. Counts, nothing about a guest."""

    code: str
    name: str
    kind: str
    authority: str = Field(description="The commune police that receives its declarations (cơ quan tiếp nhận)")
    sandbox: bool
    scopes: list[Literal["declare", "status", "read"]]
    declared_today: int = Field(description="Stays declared today")
    late_today: int = Field(description="… of which declared late")
    in_house: int = Field(description="Guests declared and not departed")
    check_document: int = Field(description="… whose document should be checked again (kiểm tra lại giấy tờ)")
    verification_not_told: int = Field(
        description="… không báo kết quả đối chiếu, vì hôm đó đã báo đủ số khách theo quy mô cơ sở · of whose check "
        "nothing is told, because the facility was told of enough guests on that day"
    )
    temporary_residence: int = Field(description="… who are marked as registered (đã đăng ký tạm trú)")
    last_declared_at: datetime | None = Field(description="When the newest stay was declared")
    expected_today: int = Field(description="Guests expected today and not declared (khách dự kiến)")
    identity_pending: int = Field(description="Guests in house, or gone, without a declaration (chưa đủ nhân thân)")
    next_deadline_at: datetime | None = Field(description="… the nearest deadline among both; past ones included")


class ExpectedState(Output):
    """A guest who is expected, or here without an identity (khách dự kiến, chưa đủ nhân thân). Not filed; no personal
    data."""

    expected_id: str
    facility: str
    source_ref: str | None = Field(description="The sender's own name of the stay")
    present: bool = Field(description="In house already: the deadline runs")
    arrives_at: datetime | None = Field(description="When the guest is expected, or has come if present")
    departed_at: datetime | None = Field(description="When the guest left undeclared")
    deadline_at: datetime | None = Field(description="When the declaration is due; null while no arrival is known")
    minutes_left: int | None = Field(description="Whole minutes until then, 0 when it is past")
    late_minutes: int = Field(description="Minutes by which it would be late now, begun ones counted whole")
    missing: list[Violated] = Field(description="What it lacks to be a declaration, by pointer")
    created_at: datetime
    changed_at: datetime


class ExpectedPage(Output):
    """One page of those who wait for their declaration, by deadline; the next page is the `next` link of the Link
    header (RFC 8288)."""

    expected: list[ExpectedState]
    next: str | None


class EventsTaken(Output):
    """What became of the events of a webhook call."""

    queued: int = Field(description="Số đặt phòng sẽ hỏi lại · Reservations that will be fetched")
    ignored: int = Field(description="Số sự kiện không liên quan · Events about something else, or of another hotel")


class FacilityStates(Output):
    """Every facility for which the key holds `status`, by code."""

    facilities: list[FacilityState]


class TableSummary(Output):
    """One code table, where it is from, and of which day. Equal versions mean equal rows."""

    name: str
    version: str
    rows: int
    rows_in_force: int = Field(description="Codes that may be used today · số mã còn hiệu lực")
    dated_on: date = Field(description="The day of which the source speaks · ngày của nguồn")
    source: str


class Tables(Output):
    """The code tables."""

    tables: list[TableSummary]


class CodeRow(Output):
    """One code. `parent` is the code it belongs to in another table; the dates are its first and last day."""

    code: int | str
    vi: str
    en: str
    parent: str | None
    active: bool
    valid_from: date | None
    valid_to: date | None
    statistics_code: str | None = Field(description="The statistics office's code, where it gives one")
    successors: list[str] = Field(description="What a former unit became: codes of provinces or communes in force")


class CodeTable(Output):
    """A code table with its rows."""

    name: str
    version: str
    rows: list[CodeRow]


class ProblemKind(Output):
    """One kind of problem, by its stable code."""

    code: str
    status: int
    title: Texts


class ViolationKind(Output):
    """One reason for which content is refused or questioned; `{name}` in a text stands for a limit."""

    code: str
    message: Texts


class ProblemCatalogue(Output):
    """Everything that can go wrong."""

    problems: list[ProblemKind]
    violations: list[ViolationKind]


class SandboxPerson(Output):
    """A synthetic person, and what the population check says of them in the sandbox."""

    guest: dict[str, Any] = Field(description="The guest of a declaration")
    verification: str


class SandboxError(Output):
    """A `source_ref` that provokes a problem at a sandbox facility."""

    source_ref: str
    code: str
    violation: str | None


class Sandbox(Output):
    """How to try everything at a sandbox facility, where nothing has legal effect."""

    explanation: Texts
    persons: list[SandboxPerson]
    errors: list[SandboxError]


class Health(Output):
    """The process answers."""

    status: Literal["ok"] = "ok"
    version: str


class Readiness(Output):
    """Whether declarations can be taken in now, check by check."""

    ready: bool
    checks: dict[str, Literal["ok", "failed"]]


class Purposes(Output):
    """The purposes in force, by code."""

    purposes: list[Purpose]


class ReceiptFacility(Output):
    """The facility (cơ sở lưu trú) that declared."""

    code: str
    name: str
    address: str


class SignedReceipt(Output):
    """What verifies offline with the public key alone: a leaf, its path, and the signed checkpoint of its batch."""

    receipt_version: int
    stay_id: str
    version: int
    facility: str
    event: str
    received_at: str
    deadline_at: str
    late_minutes: int
    sealed_sha256: str
    declared_digest: str
    salt: str
    leaf_index: int
    proof: list[str]
    checkpoint: str


class Receipt(Output):
    """Biên nhận: proof that a facility declared a stay, and when. A trial's has no legal effect."""

    code: str = Field(description="The short code for the check page")
    check_url: str
    trial: bool
    facility: ReceiptFacility
    authority: str = Field(description="The commune police that received the declaration (cơ quan tiếp nhận)")
    source_ref: str | None = Field(description="The sender's own name of the stay; not signed")
    statement: Texts = Field(description="What the receipt proves, in words")
    signed: SignedReceipt
