"""The columns of a guest list and the headings they are known by: what a template says and a spreadsheet may say.

A column maps to its headings, separated by `|`; the first is the one that we write. Marks, case, spaces, punctuation
and the form of a date make no difference (`connectors.tables`), so each heading stands here once.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

ERRORS_TITLE = "Lỗi · Errors"
"""The column that a file has when it is given back; whoever sends such a file again need not remove it."""

HEADINGS: Mapping[str, str] = MappingProxyType(
    {
        "running_number": "STT | Số thứ tự | TT | No | Number",
        "source_ref": "Mã tham chiếu | Source ref | Source reference",
        "full_name": "Họ tên | Họ và tên | Tên khách | Họ tên khách | Full name | Name | Guest name | Guest",
        "birth_date": "Ngày sinh | Ngày tháng năm sinh | Năm sinh | Birth date | Date of birth | Birthday | DOB",
        "gender": "Giới tính | Phái | Gender | Sex",
        "nationality": "Quốc tịch | Nationality | Citizenship",
        "document_type": "Loại giấy tờ | Loại giấy tờ tùy thân | Document type | Type of document | ID type",
        "document_number": "Số giấy tờ | Số giấy tờ tùy thân | Giấy tờ tùy thân | CMND CCCD"
        " | CCCD CMND | CCCD Hộ chiếu | CMND Hộ chiếu | CMND CCCD Hộ chiếu | CCCD CMND Hộ chiếu | Căn cước Hộ chiếu"
        " | Số CMND CCCD | Số CCCD CMND | Số CCCD Hộ chiếu | Số CMND CCCD Hộ chiếu | Số CCCD CMND Hộ chiếu"
        " | Số căn cước Hộ chiếu | CCCD Passport | Document number | Document no | ID number | ID no | ID Passport",
        "personal_number": "Số CCCD | CCCD | Số căn cước | Căn cước | Số căn cước công dân | Căn cước công dân"
        " | Số định danh | Số định danh cá nhân | Personal number | Citizen ID",
        "old_card_number": "Số CMND | CMND | Số CMT | Chứng minh nhân dân | Số chứng minh nhân dân",
        "passport_number": "Số hộ chiếu | Hộ chiếu | Passport | Passport number | Passport no",
        "document_name": "Tên giấy tờ | Document name",
        "phone": "Số điện thoại | Điện thoại | SĐT | ĐT | Phone | Phone number | Mobile | Telephone | Tel",
        "residence_kind": "Nơi cư trú hiện nay | Loại cư trú | Residence kind | Type of residence",
        "province": "Tỉnh/ Thành phố | Tỉnh | Tỉnh/ TP | Thành phố | Province | City | Province/ City",
        "district": "Quận/ Huyện | Huyện/ Quận | Quận | Huyện | Quận/ Huyện/ Thị xã | District",
        "ward": "Phường/ Xã/ Đặc khu | Phường/ Xã | Xã/ Phường | Phường | Xã | Phường/ Xã/ Thị trấn"
        " | Xã/ Phường/ Thị trấn | Ward | Commune | Ward/ Commune",
        "address": "Địa chỉ chi tiết | Địa chỉ | Nơi cư trú | Địa chỉ thường trú | Nơi thường trú | Hộ khẩu thường trú"
        " | Address",
        "building": "Tòa nhà | Tòa | Dãy | Dãy nhà | Khu | Khu nhà | Building | Block",
        "room": "Số phòng | Phòng | Số phòng/ Khoa | Khoa/ Phòng | Khoa | Buồng | Room | Room number | Room no",
        "bed": "Giường | Số giường | Bed | Bed number",
        "arrived": "Ngày đến | Ngày vào | Ngày vào ở | Ngày nhận phòng | Ngày giờ đến | Thời điểm đến | Ngày check in"
        " | Thời gian đến | Ngày nhập viện | Ngày vào viện | Từ ngày | Arrival | Arrival date | Arrived | Check in"
        " | Check in date | Move in date",
        "arrived_time": "Giờ đến | Giờ vào | Giờ nhận phòng | Giờ check in | Arrival time | Check in time",
        "departs": "Ngày đi dự kiến | Ngày dự kiến đi | Dự kiến đi | Ngày đi | Ngày ra dự kiến | Ngày ra"
        " | Ngày trả phòng | Ngày trả phòng dự kiến | Ngày check out | Đến ngày | Planned departure | Departure"
        " | Departure date | Check out | Check out date | Move out date",
        "departs_time": "Giờ đi dự kiến | Giờ đi | Giờ ra | Giờ trả phòng | Giờ check out | Departure time"
        " | Check out time",
        "reason": "Lý do | Lý do cư trú | Lý do lưu trú | Lí do | Lí do cư trú | Lí do lưu trú | Mục đích | Reason"
        " | Reason for stay | Purpose",
        "reason_text": "Lý do chi tiết | Lí do chi tiết | Nhập lý do | Nhập lí do | Reason detail",
        "permitted_stay_until": "Thời hạn tạm trú | Hạn tạm trú | Tạm trú đến ngày | Permitted stay until",
        "guardian": "Người giám hộ | Họ tên người giám hộ | Tên người giám hộ | Guardian | Guardian name",
        "relationship": "Quan hệ | Quan hệ với người giám hộ | Relationship | Kinship",
        "guardian_number": "Số giấy tờ người giám hộ | Giấy tờ người giám hộ | CCCD người giám hộ"
        " | Số CCCD người giám hộ | Guardian document | Guardian document number | Guardian ID",
        "party": "Đoàn | Mã đoàn | Tên đoàn | Party | Travel party",
        "party_head": "Trưởng đoàn | Là trưởng đoàn | Head of party | Party head",
        "note": "Ghi chú | Note | Notes | Remark | Remarks",
    }
)


def title(column: str) -> str:
    """The heading that we write for a column."""
    return HEADINGS[column].split("|")[0].strip()
