"""What owners are told of without asking (sự kiện), and where it is sent (webhook). Nothing here is about a guest."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field, field_validator

from schemas.limits import LIST_ROWS
from schemas.queries import CURSOR_LIMIT
from schemas.stay import Code, Input, Output, refuse

URL_LIMIT = 1000
ENDPOINTS_LIMIT = 10
"""Endpoints of one key holder."""


class NotDelivered(Exception):
    """An attempt that was not taken: `code` says how it failed, `retry_after_seconds` when the receiver is to be tried
    again, if it said so. Holds nothing of address or answer."""

    def __init__(self, code: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.retry_after_seconds = retry_after_seconds


class EventType(StrEnum):
    """What can be told of."""

    DECLARED_LATE = "stay.declared_late"
    DEADLINE_NEAR = "stay.deadline_near"
    REFUSED = "stay.refused"
    CHECK_DOCUMENT = "stay.check_document"


def known_events(value: object) -> object:
    """The types named with commas between, for pydantic."""
    try:
        return [EventType(each.strip()) for each in value.split(",")] if isinstance(value, str) else value
    except ValueError:
        raise refuse("out_of_range", expected=", ".join(EventType)) from None


EVENT_TEXTS = {
    EventType.DECLARED_LATE: "Đã khai báo nhưng trễ hạn · A stay was declared late",
    EventType.DEADLINE_NEAR: "Khách đang ở chưa khai báo, sắp hết hạn · A guest in house is not declared, and is due",
    EventType.REFUSED: "Chưa chuyển được lên CSDL dân cư, người vận hành đang xử lý · A stay was refused by the "
    "population database; the operator is looking at it",
    EventType.CHECK_DOCUMENT: "Nên xem lại giấy tờ của khách · The document should be looked at again",
}


class EventData(Output):
    """What an event is about."""

    facility: str | None = Field(description="Mã cơ sở lưu trú; null khi thử webhook · null of a test")
    stay_id: str | None = Field(description="null: chưa có lượt lưu trú nào được khai báo · not declared yet")
    expected_id: str | None = Field(description="Khách ở GET /v1/expected, khi chưa khai báo · where not declared yet")
    link: str | None = Field(description="Nơi xem tiếp, bằng khoá API · where to look, with the API key")


class OwnerEvent(Output):
    """One event: the body of a webhook, and an element of `GET /v1/events`."""

    id: str = Field(description="Không đổi khi gửi lại: bỏ qua mã đã nhận · the same whenever it is sent again")
    type: str
    timestamp: datetime = Field(description="Khi việc xảy ra · when it happened")
    data: EventData


class EventPage(Output):
    """Events in the order of their positions."""

    events: list[OwnerEvent]
    next: str = Field(description="after của lần hỏi sau, cả khi trang này rỗng · for the next request, always")


class EventsQuery(Input):
    """Which events to list. Without a facility: those of every facility that the key may see."""

    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    after: Annotated[str, Field(max_length=CURSOR_LIMIT)] | None = Field(
        default=None,
        description="next của lần trước; bỏ trống: từ sự kiện cũ nhất còn giữ · "
        "next of the last answer; without it from the oldest event that is kept",
    )
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class NewWebhook(Input):
    """An address of the caller's own that events are sent to."""

    url: Annotated[str, Field(max_length=URL_LIMIT)] = Field(description="https://…")
    events: list[EventType] | None = Field(
        default=None, min_length=1, max_length=len(EventType), description="Mặc định: tất cả · all by default"
    )

    @field_validator("url")
    @classmethod
    def _url_is_plain(cls, url: str) -> str:
        try:
            parts = urlsplit(url)
            plain = parts.scheme in ("https", "http") and bool(parts.hostname) and parts.port != 0
        except ValueError:
            plain = False
        if not plain or "@" in parts.netloc or "#" in url or not url.isascii() or not url.isprintable() or " " in url:
            raise refuse("wrong_format", expected="https://…")
        return url


class WebhookOrder(Input):
    """What is done with a webhook needs no members."""


class WebhookFailure(Output):
    """How deliveries failed lately."""

    code: str
    failures: int
    last_at: datetime


class Webhook(Output):
    """An endpoint as its owner sees it."""

    id: str
    url: str | None = Field(description="null: không mở được, hãy đăng ký lại · unreadable here, register it anew")
    events: list[EventType]
    created_at: datetime
    waiting: int = Field(description="Số lần gửi còn chờ · deliveries that wait")
    failing_since: datetime | None = Field(description="Lỗi liên tục từ khi nào · failing without a success since")
    disabled_at: datetime | None = Field(description="Đã dừng gửi: dùng :enable · nothing is sent, until :enable")
    disabled_code: str | None
    failures: list[WebhookFailure]


class Webhooks(Output):
    """The caller's endpoints, the oldest first."""

    webhooks: list[Webhook]


class WebhookSecret(Output):
    """The secret of an endpoint: shown now and never again."""

    id: str
    secret: str = Field(description="whsec_…")
    previous_valid_until: datetime | None = Field(
        default=None, description="Đến lúc đó, khoá cũ vẫn ký · until then the previous secret signs as well"
    )


class WebhookTest(Output):
    """A test that will be sent."""

    event_id: str
