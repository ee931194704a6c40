"""The national portal's contract (Cổng KBTT/TBLT của Bộ Công an, REST API v1.4) in models: names and shapes are theirs.

What `data` carries beyond the portal's own (row results, stay ids, receipts) stands where software written for it does
not look. The request models only describe: rows are read by `connectors.kbtt_api` and validated by intake.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.stay import Output, Problem, Violated

_INSTANT = "YYYY-MM-DD HH:mm:ss, giờ Việt Nam"


class _Row(BaseModel):
    """A row of the portal; members that it does not have are ignored."""

    model_config = ConfigDict(hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class _Stay(_Row):
    full_name: str = Field(alias="hoTen", description="Họ và tên đầy đủ")
    gender: Literal["M", "F"] = Field(alias="gioiTinh", description="M nam, F nữ")
    birth_date: str = Field(alias="ngayThangNamSinhStr", description="YYYY-MM-DD")
    arrived_at: str = Field(
        alias="ngayDenCsltStr", description=f"Thời điểm đến: {_INSTANT}. Ngày đã qua vẫn nhận, đánh dấu trễ hạn"
    )
    planned_departure_at: str = Field(alias="ngayDiDuKienStr", description=f"Dự kiến đi: {_INSTANT}")
    room: str | None = Field(default=None, alias="soPhong", description="Số phòng; bắt buộc trừ nhà cho thuê")


class PortalCitizen(_Stay):
    """A citizen's stay (thông báo lưu trú)."""

    phone: str | None = Field(default=None, alias="soDienThoai")
    note: str | None = Field(default=None, alias="ghiChu")
    residence_kind: int | None = Field(default=None, alias="noiCuTru", description="1 thường trú, 2 tạm trú, 3 khác")
    province: str | None = Field(default=None, alias="maTT", description="Mã tỉnh của Bộ Công an")
    ward: str | None = Field(default=None, alias="maPX", description="Mã phường, xã: ghi nhận như đã gửi")
    address: str | None = Field(default=None, alias="diaChi")
    reason: int = Field(alias="lyDoCuTru", description="1-20")
    reason_text: str | None = Field(default=None, alias="lyDoChiTiet", description="Bắt buộc khi lyDoCuTru = 20")
    document_type: int = Field(alias="loaiGiayTo", description="1-8")
    document_number: str = Field(alias="soGiayTo")
    front: str | None = Field(default=None, alias="anhTruocB64", description="Ảnh: nhận rồi bỏ ngay, không lưu")
    back: str | None = Field(default=None, alias="anhSauB64", description="Ảnh: nhận rồi bỏ ngay, không lưu")


class PortalForeigner(_Stay):
    """A foreigner's stay (khai báo tạm trú người nước ngoài)."""

    nationality: str = Field(alias="quocTich", description="ISO 3166-1 alpha-3, hoặc mã của cổng: D, GBD, RKS…")
    passport: str = Field(alias="soHoChieu", description="≤ 10 chữ và số")
    precision: Literal["D", "Y"] = Field(
        alias="loaiNgayThangNamSinh", description="D: đủ ngày tháng năm; Y: chỉ có năm, gửi YYYY-01-01"
    )
    permitted_stay_until: str = Field(alias="thoiHanTamTruStr", description=f"Thời hạn tạm trú được phép: {_INSTANT}")
    photograph: str | None = Field(default=None, alias="anhHoChieuB64", description="Ảnh: nhận rồi bỏ ngay, không lưu")


class PortalDeparture(_Row):
    """A change of departure (đổi ngày trả phòng) of a guest in house."""

    change: Literal["TS", "GH"] = Field(alias="loai", description="TS trả sớm, GH gia hạn")
    document_number: str = Field(alias="soGiayTo")
    document_type: int = Field(alias="loaiGiayTo", description="1-8")
    at: str | None = Field(
        default=None,
        alias="thoiGianStr",
        description=f"GH: thời điểm đi mới, {_INSTANT}, không quá 30 ngày từ ngày đến. TS: lúc khách đi, nếu có",
    )


# -- answers -----------------------------------------------------------------------------------------------------------


class PortalReceipt(Output):
    """Biên nhận: its code for the public check page. The signed receipt is at `/v1/stays/{stay_id}/receipt`."""

    code: str
    check_url: str
    trial: bool


class PortalRow(Output):
    """What became of one row, in input order."""

    row: int
    outcome: Literal["accepted", "duplicate", "refused"]
    stay_id: str | None = Field(default=None, description="The stay; of a refused row the one that is in its way")
    version: int | None = None
    late_minutes: int | None = None
    receipt: PortalReceipt | None = None
    code: str | None = Field(default=None, description="Why the row is refused, a code of /v1/problems")
    message: str | None = Field(default=None, description="The reasons in words, as in the message of the whole")
    errors: list[Violated] | None = None
    warnings: list[Violated] = Field(default_factory=list)


class PortalRows(Output):
    """received = accepted + duplicate + refused, always."""

    received: int
    accepted: int
    duplicate: int
    refused: int
    results: list[PortalRow]


class PortalFiled(Output):
    """Every row is on file. Software for the portal takes it so, and it means just that."""

    code: Literal["200"] = "200"
    message: Literal["Thành công"] = "Thành công"
    data: PortalRows


class PortalProblem(Output):
    """The problem behind a refusal of the whole request."""

    problem: Problem


class PortalRefused(Output):
    """Not everything is on file: rows of `data` are refused, or the whole request is and nothing was recorded.

    `message` names each refused row with its reasons, and says what became of the others.
    """

    code: str
    message: str
    data: PortalRows | PortalProblem


class PortalDone(Output):
    """Done; there is nothing to say about it."""

    code: Literal["200"] = "200"
    message: Literal["Thành công"] = "Thành công"
    data: None = None


class PortalTokens(Output):
    """The tokens of a session, and the facility that it is for."""

    access_token: str = Field(serialization_alias="AccessToken")
    refresh_token: str = Field(serialization_alias="RefreshToken")
    token_type: Literal["bearer"] = Field(default="bearer", serialization_alias="TokenType")
    expires_at: int = Field(
        serialization_alias="Exp", description="Until when AccessToken is good: Unix time in seconds"
    )
    authorities: list[str] = Field(default=["kbtt:create-3th", "CLIENT_API_CSLT"], serialization_alias="Authorities")
    client_id: int = Field(default=0, serialization_alias="ClientId")
    account_kind: Literal["CSLT"] = Field(default="CSLT", serialization_alias="LoaiTK")
    facility_id: str = Field(
        serialization_alias="CsltId", description="Digits, as on the portal; the public code is MaCslt"
    )
    region: int = Field(default=0, serialization_alias="CsltKhuVuc")
    unit: int = Field(default=0, serialization_alias="CsltDonVi")
    province: str = Field(serialization_alias="MaTTCuaCslt", description="The facility's province")
    commune: str = Field(
        serialization_alias="MaPxCuaCslt", description="The facility's commune, by the statistics office's code"
    )
    is_main: bool = Field(default=True, serialization_alias="IsCsltChinh")
    facility: str = Field(serialization_alias="MaCslt", description="The facility's public code (ours)")


class PortalSession(Output):
    """A session has been opened or renewed."""

    code: Literal["200"] = "200"
    message: Literal["Thành công"] = "Thành công"
    data: PortalTokens


class PortalNationality(Output):
    """One nationality, by ISO 3166-1 alpha-3 or ICAO Doc 9303."""

    code: str = Field(serialization_alias="maQT")
    vi: str = Field(serialization_alias="tenQT")
    en: str = Field(serialization_alias="tenQTEn")


class PortalProvince(Output):
    """One province."""

    code: str = Field(serialization_alias="maTT")
    vi: str = Field(serialization_alias="tenTT")
    en: str = Field(serialization_alias="tenTTEn")


class PortalWard(Output):
    """One ward, commune or special zone, by the statistics office's code."""

    code: str = Field(serialization_alias="maPhuongXa")
    vi: str = Field(serialization_alias="tenPhuongXa")
    en: str = Field(serialization_alias="tenPhuongXaEn")
    province: str = Field(serialization_alias="trucThuocTinh")


class PortalCode(Output):
    """One code of a short table."""

    id: int
    name: str


class PortalTable(Output):
    """A code table in the portal's form."""

    code: Literal["200"] = "200"
    message: Literal["Thành công"] = "Thành công"
    data: list[PortalNationality] | list[PortalProvince] | list[PortalWard] | list[PortalCode]
