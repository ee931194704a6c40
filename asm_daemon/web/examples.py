"""Requests as examples in the API document; every person in them is synthetic."""

from __future__ import annotations

from datetime import date
from typing import Any

from schemas.synthetic import person

_GUEST = person(1)

DECLARATION: dict[str, Any] = {
    "source_ref": "PMS-123-1",
    "facility": "HY-KS-0001",
    "guest": {
        "full_name": _GUEST.full_name,
        "birth_date": _GUEST.birth_date,
        "gender": _GUEST.gender,
        "nationality": _GUEST.nationality,
        "document": {"type": _GUEST.document_type, "number": _GUEST.document_number},
        "phone": "0000000001",
        "residence": {"kind": 1, "province": "109", "address": "Số 1 đường Thử Nghiệm"},
    },
    "arrived_at": "2026-11-23T14:05:00+07:00",
    "planned_departure_at": "2026-11-25T12:00:00+07:00",
    "room": "203",
    "reason": 1,
}
COSIGNATURE: dict[str, Any] = {
    "size": 20852163,
    "line": "— witness.example.com/w1 jWbPPwAAAABkGFDLEZMHwSRaJNiIDoe9DYn/zXcrtPHeolMI5OWXEhZCB9dlrDJsX3b2oyin1nPZqhf5n"
    "No0xUe+mbIUBkBIfZ+qnA==",
}
EXPECTED: dict[str, Any] = {
    "source_ref": "PMS-123-1",
    "facility": "HY-KS-0001",
    "guest": {"full_name": _GUEST.full_name, "nationality": _GUEST.nationality, "phone": "0000000001"},
    "arrived_at": "2026-12-23T14:00:00+07:00",
    "planned_departure_at": "2026-12-25T12:00:00+07:00",
    "reason": 1,
}
AT_THE_DESK: dict[str, Any] = {
    "guest": {
        "birth_date": _GUEST.birth_date,
        "document": {"type": _GUEST.document_type, "number": _GUEST.document_number},
    },
    "arrived_at": "2026-12-23T14:05:00+07:00",
    "room": "203",
}
CORRECTION: dict[str, Any] = {"room": "305", "guest": {"phone": None}}
CHECK_OUT: dict[str, Any] = {"departed_at": "2026-11-25T11:40:00+07:00"}
EXTENSION: dict[str, Any] = {"planned_departure_at": "2026-11-27T12:00:00+07:00"}
CANCELLATION: dict[str, Any] = {"reason": "entered_by_mistake"}
ROSTER_CONFIRMATION: dict[str, Any] = {"confirm_check_outs": 12, "decisions": [{"row": 7, "decision": "correct"}]}
TEMPORARY_RESIDENCE: dict[str, Any] = {"registered_on": "2026-11-20", "reference": "TT-2026-000001"}
STAY_TEMPORARY_RESIDENCE: dict[str, Any] = {"stay_id": "019ac000-0000-7000-8000-000000000001", **TEMPORARY_RESIDENCE}
SEARCH: dict[str, Any] = {
    "document_number": _GUEST.document_number,
    "purpose": "criminal_investigation",
    "case_ref": "15/2026/HS-PC02",
}
ALERT_OPENING: dict[str, Any] = {"purpose": "criminal_investigation", "case_ref": "15/2026/HS-PC02"}
ALERT_ACKNOWLEDGEMENT: dict[str, Any] = {"state": "seen"}
REPLAY: dict[str, Any] = {"code": "unknown_facility", "before": "2026-11-23T00:00:00+07:00", "dry_run": True}
SETTLEMENT: dict[str, Any] = {"stay_ids": ["019ac000-0000-7000-8000-000000000001"], "reason": "owner_informed"}
ALERT_CLOSING: dict[str, Any] = {"kind": "declare_and_cancel", "subject": "HY-KS-0001"}
SCAN: dict[str, Any] = {
    "kind": "cccd_qr",
    "payload": "|".join(
        (
            _GUEST.document_number,
            "",
            _GUEST.full_name,
            f"{date.fromisoformat(_GUEST.birth_date):%d%m%Y}",
            "Nam" if _GUEST.gender == "M" else "Nữ",
            "Số 1 đường Thử Nghiệm",
            "01022025",
        )
    ),
}
PORTAL_CITIZEN: dict[str, Any] = {
    "hoTen": _GUEST.full_name,
    "gioiTinh": _GUEST.gender,
    "soDienThoai": "0000000001",
    "ngayThangNamSinhStr": _GUEST.birth_date,
    "noiCuTru": 1,
    "maTT": "109",
    "maPX": "",
    "diaChi": "Số 1 đường Thử Nghiệm",
    "ngayDenCsltStr": "2026-11-23 14:05:00",
    "ngayDiDuKienStr": "2026-11-25 12:00:00",
    "soPhong": "203",
    "lyDoCuTru": 1,
    "loaiGiayTo": _GUEST.document_type,
    "soGiayTo": _GUEST.document_number,
}
PORTAL_FOREIGNER: dict[str, Any] = {
    "hoTen": "TEST GUEST",
    "quocTich": "D",
    "soHoChieu": "TEST00001",
    "gioiTinh": "F",
    "loaiNgayThangNamSinh": "Y",
    "ngayThangNamSinhStr": "1990-01-01",
    "ngayDenCsltStr": "2026-11-23 21:30:00",
    "ngayDiDuKienStr": "2026-11-26 12:00:00",
    "soPhong": "305",
    "thoiHanTamTruStr": "2027-01-31 23:59:59",
}
PORTAL_DEPARTURE: dict[str, Any] = {
    "loai": "GH",
    "soGiayTo": _GUEST.document_number,
    "loaiGiayTo": _GUEST.document_type,
    "thoiGianStr": "2026-11-27 12:00:00",
}
WEBHOOK: dict[str, Any] = {
    "url": "https://pms.example/asm-events",
    "events": ["stay.deadline_near", "stay.check_document"],
}
