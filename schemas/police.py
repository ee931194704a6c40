"""What a police officer (cán bộ) asks about stays, and what is answered. Each question is recorded first."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from schemas.codes import FacilityKind
from schemas.folding import fold_document
from schemas.stay import Input, Output, Tidy, refuse


class QueryKind(StrEnum):
    """Loại tra cứu: by what is searched. A purpose allows some of them."""

    DOCUMENT = "document"
    PERSON = "person"
    FACILITY_WINDOW = "facility_window"
    STAY = "stay"


class DocumentNumber(Input):
    """A document's number by itself (số giấy tờ). Spaces, dashes and case in it make no difference."""

    document_number: Annotated[str, Tidy, Field(min_length=1, max_length=64)] = Field(description="Số giấy tờ")

    @field_validator("document_number")
    @classmethod
    def _something_is_searched(cls, number: str) -> str:
        if not fold_document(number):
            raise refuse("required")
        return number


class DocumentSearch(DocumentNumber):
    """An exact search by document number (tra cứu theo số giấy tờ).

    Spaces, dashes and case in the number make no difference. `case_ref` is the file in which the search is justified,
    as `number/year/symbol` of the unit that keeps it: 15/2026/HS-PC02. Purpose and case reference are checked by the
    search itself, so that a refusal is recorded too.
    """

    purpose: Annotated[str, Field(max_length=40)] = Field(description="Mục đích: mã trong /v1/police/purposes")
    case_ref: Annotated[str, Tidy, Field(max_length=40)] = Field(description="Số hồ sơ, ví dụ 15/2026/HS-PC02")


class Purpose(Output):
    """Mục đích tra cứu: on what legal basis officers search, by what, how far back, and when the guest learns of it."""

    code: str
    title: dict[Literal["vi", "en"], str]
    legal_basis: str
    query_kinds: list[QueryKind]
    window_days: int = Field(description="How many days back registrations are searched")
    max_rows: int = Field(description="How many stays one answer holds at most")
    release_rule: Literal["at_once", "after_days", "by_decision"] = Field(
        description="When the guest may see that this search was made: at once, after release_after_days, or when the "
        "authority decides"
    )
    release_after_days: int | None


class AlertOpening(Input):
    """Under which purpose and for which case an officer opens the stay of an alert (mở hồ sơ lượt lưu trú)."""

    purpose: Annotated[str, Field(max_length=40)] = Field(description="Mục đích: mã trong /v1/police/purposes")
    case_ref: Annotated[str, Tidy, Field(max_length=40)] = Field(description="Số hồ sơ, ví dụ 15/2026/HS-PC02")


class AlertAcknowledgement(Input):
    """How far an officer is with an alert. It goes forward only: open, seen, handled."""

    state: Literal["seen", "handled"] = Field(description="seen: đã xem · handled: đã xử lý")


class FoundFacility(Output):
    """Where the guest stays."""

    code: str
    name: str
    kind: str
    commune: str
    address: str


class FoundStay(Output):
    """One stay that was found, as its newest version says (of an alert: see there). `status` cancelled means: declared,
    then withdrawn."""

    stay_id: str
    version: int
    status: Literal["declared", "departed", "cancelled"]
    cancellation: dict[str, Any] | None = Field(description="The owner's reason, when the stay was cancelled")
    facility: FoundFacility
    guest: dict[str, Any] = Field(description="The guest as declared, a minor's guardian among it")
    party: dict[str, Any] | None = Field(description="The party the guest came with, and the role in it")
    room: str | None
    reason: int
    reason_text: str | None
    arrived_at: datetime
    planned_departure_at: datetime | None
    departed_at: datetime | None
    declared_at: datetime
    late_minutes: int
    verification: Literal["matched", "mismatch", "unknown", "document_revoked", "not_checked"] | None = Field(
        description="What the population database said of the newest version it confirmed; null: none confirmed yet"
    )


class SearchResult(Output):
    """The answer to one search, newest registration first."""

    trace: str = Field(description="The audit entry under which this search is recorded, for the case file")
    searched_from: datetime = Field(description="Registrations since then were searched")
    forgotten_before: dict[FacilityKind, datetime] = Field(
        description="Kinds of facility whose stays are kept for less than the purpose's window: of those that ended "
        "before, some or all are forgotten, and that none was found means nothing (quá thời hạn lưu giữ). Empty: all "
        "that was registered since searched_from is kept"
    )
    stays: list[FoundStay]
    more: bool = Field(description="true: there are more than the purpose lets one answer hold")
    unreadable: int = Field(description="Stays that carry this number's tag but whose seal is broken; reported")


class PoliceAlert(Output):
    """An alert of the police (cảnh báo): which stay, where, and why. Who the guest is stands in the stay, which is
    opened under a purpose and on record."""

    alert_id: str
    kind: Literal["document_revoked"] = Field(
        description="document_revoked: declared with a document that the population database lists as revoked"
    )
    raised_at: datetime
    facility: FoundFacility
    stay_id: str
    version: int = Field(description="The version of the stay that raised it")
    arrived_at: datetime | None = Field(description="null: the stay is past its retention")
    status: Literal["declared", "departed", "cancelled"] | None
    confirmed_version: int | None = Field(description="The newest version that the population database has confirmed")
    verification: Literal["matched", "mismatch", "unknown", "document_revoked", "not_checked"] | None = Field(
        description="What it said of that one: matched after a correction means that the document was mistyped"
    )
    state: Literal["open", "seen", "handled"]
    changed_at: datetime | None = Field(description="When an officer saw or handled it")
    changed_by: str | None = Field(description="That officer's principal id")


class PoliceAlerts(Output):
    """One page of alerts, the newest first; the next page is the `next` link of the Link header (RFC 8288)."""

    trace: str = Field(description="The audit entry under which this reading is recorded")
    alerts: list[PoliceAlert]
    next: str | None


class OpenedAlert(Output):
    """The stay of an alert, as it was when it raised it, and as it is."""

    trace: str = Field(description="The audit entry under which this is recorded, for the case file")
    alert: PoliceAlert
    stay: FoundStay | None = Field(
        description="The version that raised it, and what was said of that one; null: it was registered before the "
        "purpose's window, or is past its retention"
    )
    changed_to: FoundStay | None = Field(
        description="The newest version, if there is one since: after a correction it may name another person than the "
        "alert is about; null: there is none"
    )
