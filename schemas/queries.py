"""Query parameters. They never carry personal data: addresses are logged by everyone they pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from schemas.limits import LIST_ROWS
from schemas.stay import SOURCE_REF_LIMIT, Code, Input

CURSOR_LIMIT = 512
WAIT_SECONDS = 30


class StaysQuery(Input):
    """Which stays to list. Without a facility: those of every facility that the key may see."""

    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    since: AwareDatetime | None = Field(default=None, description="Đăng ký từ thời điểm này · Registered at or after")
    until: AwareDatetime | None = Field(default=None, description="Đăng ký trước thời điểm này · Registered before")
    status: Literal["declared", "departed", "cancelled"] | None = None
    source_ref: Annotated[str, Field(pattern=r"^[\x21-\x7e]+$", max_length=SOURCE_REF_LIMIT)] | None = Field(
        default=None,
        description="Mã tham chiếu: câu trả lời chắc chắn sau khi mất kết nối · "
        "The authoritative answer after a timeout",
    )
    cursor: Annotated[str, Field(max_length=CURSOR_LIMIT)] | None = Field(
        default=None, description="Từ liên kết next · From the next link"
    )
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class ExpectedQuery(Input):
    """Which expected guests to list. Without a facility: those of every facility that the key may see."""

    facility: Code | None = Field(default=None, description="Mã cơ sở lưu trú")
    due_before: AwareDatetime | None = Field(
        default=None, description="Hạn khai báo trước thời điểm này · Due before this instant"
    )
    cursor: Annotated[str, Field(max_length=CURSOR_LIMIT)] | None = Field(
        default=None, description="Từ liên kết next · From the next link"
    )
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class AlertsQuery(Input):
    """Which alerts of the police to list, the newest first."""

    state: Literal["open", "seen", "handled"] | None = Field(
        default=None, description="Trạng thái; bỏ trống: tất cả · The state; absent: any"
    )
    cursor: Annotated[str, Field(max_length=CURSOR_LIMIT)] | None = Field(
        default=None, description="Từ liên kết next · From the next link"
    )
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class BatchQuery(Input):
    """How a batch is checked as a whole."""

    expected_count: Annotated[int, Field(ge=0)] | None = Field(
        default=None, description="Số dòng đã gửi; khác đi thì không nhận dòng nào · Rows sent; else none is taken"
    )


class ImportQuery(Input):
    """What a file is, where its form does not say it; fields of a multipart form have precedence."""

    facility: Code | None = Field(
        default=None, description="Mã cơ sở lưu trú; bỏ trống khi khoá chỉ dùng cho một cơ sở"
    )
    connector: Code | None = Field(
        default=None, description="Bộ đọc (xem /v1/limits); mặc định theo tệp · The reader; by default that of the file"
    )
    rehearse: bool = Field(default=False, description="true: chỉ kiểm tra thử · only rehearse, nothing is stored")
    wait: Annotated[int, Field(ge=0, le=WAIT_SECONDS)] = Field(
        default=10,
        description="Số giây chờ kết quả; lâu hơn thì trả lời 202 và đọc tiếp · "
        "Seconds to wait for the result; after them the answer is 202 and the reading goes on",
    )


class HotelQuery(Input):
    """For which facility hotel software speaks."""

    facility: Code | None = Field(
        default=None, description="Mã cơ sở lưu trú; bỏ trống khi khoá chỉ dùng cho một cơ sở"
    )


class ReceiptQuery(Input):
    """Which receipt of a stay."""

    version: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Phiên bản; mặc định là mới nhất · The version; the newest one by default"
    )
    format: Literal["json", "html"] = Field(
        default="json", description="html: trang để in, cũng theo Accept · a page to print, also by Accept"
    )


class StayViewQuery(Input):
    """How much of a stay to show."""

    view: Literal["state", "full"] = Field(
        default="state",
        description="full: kèm dữ liệu đã khai, cần quyền read, việc đọc được ghi nhật ký · "
        "with the declared data; the key needs the scope read, and the read is audited",
    )


class PortalQuery(BaseModel):
    """What stands in the addresses of the national portal's contract. Whatever else stands there is ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class SessionQuery(PortalQuery):
    """The token of a session, for software that shows it in the address."""

    access_token: str | None = Field(
        default=None,
        description="Chỉ cho phần mềm cũ: địa chỉ hay bị ghi lại, hãy dùng tiêu đề Authorization · "
        "Only for old software: addresses are logged by everyone they pass, use the header Authorization",
        json_schema_extra={"deprecated": True},
    )


class RenewalQuery(PortalQuery):
    """The token that renews a session, where the contract has it; a form field of this name does as well."""

    refresh_token: str | None = Field(
        default=None,
        description="Chỉ cho phần mềm cũ; nên gửi trong nội dung form · Only for old software; better in the form",
        json_schema_extra={"deprecated": True},
    )


class WardQuery(PortalQuery):
    """Whose wards to list."""

    province: str | None = Field(default=None, alias="trucThuocTinh", description="Mã tỉnh · The province's code")
