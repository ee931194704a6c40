"""Sample documents of the five kinds of facility, for the demo and the tests, about synthetic people only.

Everything is a pure function of its arguments: the same day, count and seed make the same bytes. A seed selects a block
of 1,000 synthetic people (`schemas.synthetic.person`), so documents of different seeds are about different people and
the population simulator knows them all if it is seeded with at least `PEOPLE_OF_SEED * (seed + 1)` persons.

Arrivals fall on `day`, at 00:00 or shortly after: a document made for today never lies in the future, and is on time
until 23:00.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from functools import partial
from io import BytesIO
from itertools import islice
from typing import Any

import orjson
import xlsxwriter

from schemas.codes import DocumentType, Kinship, Reason, table, written_code
from schemas.synthetic import PERSONS, Person, person

PEOPLE_OF_SEED = 1_000
SAMPLE_DAY = date(2026, 11, 23)
"""The day of the documents in `deploy/samples`."""
VIETNAM = timezone(timedelta(hours=7))
JUST_AFTER_MIDNIGHT = time(0, 5)


def people(seed: int, count: int, *, citizens_only: bool = False) -> Iterator[Person]:
    """The first `count` people from the block `seed` on; more than a block holds run on into the next ones."""
    everyone = (_person(seed, index) for index in range(PERSONS - seed * PEOPLE_OF_SEED))
    return islice((each for each in everyone if each.nationality == "VNM" or not citizens_only), count)


def _person(seed: int, index: int) -> Person:
    return person(seed * PEOPLE_OF_SEED + index)


def declaration(
    day: date, seed: int, *, facility: str | None = None, index: int = 0, at: time = JUST_AFTER_MIDNIGHT
) -> dict[str, Any]:
    """A declaration as `POST /v1/stays` takes it: person `index` of the block, arrived on `day` at `at`."""
    guest = _person(seed, index)
    nights = 1 + index % 4
    return {
        "source_ref": f"SAMPLE-{day:%Y%m%d}-{seed}-{index}",
        "facility": facility,
        "guest": {
            "full_name": guest.full_name,
            "birth_date": guest.birth_date,
            "gender": guest.gender,
            "nationality": guest.nationality,
            "document": {"type": guest.document_type, "number": guest.document_number, "name": None},
            "phone": "0000000001",
            "residence": _residence(guest, index),
            "permitted_stay_until": None if guest.nationality == "VNM" else (day + timedelta(days=60)).isoformat(),
        },
        "arrived_at": datetime.combine(day, at, VIETNAM).isoformat(),
        "planned_departure_at": datetime.combine(day + timedelta(days=nights), time(12), VIETNAM).isoformat(),
        "room": _room(index),
        "reason": int(Reason.TOURISM if index % 3 else Reason.WORK_TRIP),
        "reason_text": None,
        "note": None,
    }


# -- a guesthouse: a family with small children ------------------------------------------------------------------------


def family(day: date, seed: int) -> list[dict[str, Any]]:
    """A parent and two children without documents who arrive on `day`, as `POST /v1/stays:batch` takes them.

    The elder child names the parent's stay, the younger the parent's document.
    """
    head = declaration(day, seed, index=next(filter(partial(_may_be_parent, day, seed), range(PEOPLE_OF_SEED))))
    parent = head["guest"]
    relationship = Kinship.FATHER if parent["gender"] == "M" else Kinship.MOTHER
    guardian = {"relationship": int(relationship), "full_name": parent["full_name"]}
    ties = ({"source_ref": head["source_ref"]}, {"document": parent["document"]})
    party = f"SAMPLE-FAMILY-{seed}"
    children = [
        {
            **head,
            "source_ref": f"{head['source_ref']}-{number}",
            "guest": {**child, "nationality": parent["nationality"], "guardian": {**guardian, **tie}},
            "party": {"ref": party, "role": "member"},
        }
        for number, (child, tie) in enumerate(zip(_children(parent, day), ties, strict=True), 1)
    ]
    return [{**head, "party": {"ref": party, "role": "head"}}, *children]


def family_csv(day: date, seed: int) -> bytes:
    """The same family in a list of the guesthouse's own."""
    head, *_ = family(day, seed)
    parent = head["guest"]
    kinship = "Cha" if parent["gender"] == "M" else "Mẹ"
    number = parent["document"]["number"]
    kind = written_code("document_types", parent["document"]["type"])
    lines = [_family_line(head, parent, day, [kind, number], ["", "", ""], "x")]
    guardian = [parent["full_name"], kinship, number]
    lines += [_family_line(head, child, day, ["", ""], guardian, "") for child in _children(parent, day)]
    return "\r\n".join([_FAMILY, *lines, ""]).encode("utf-8-sig")


def _family_line(
    head: Mapping[str, Any], guest: Mapping[str, Any], day: date, document: list[str], guardian: list[str], leads: str
) -> str:
    person_cells = [
        guest["full_name"],
        _written(date.fromisoformat(guest["birth_date"])),
        "Nam" if guest["gender"] == "M" else "Nữ",
        "Việt Nam",
    ]
    stay_cells = [_written(day), _written(day + timedelta(days=1)), head["room"], "Du lịch"]
    return ";".join([*person_cells, *document, *stay_cells, *guardian, "Gia đình mẫu", leads])


_FAMILY = (
    "Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Ngày đến;Ngày đi dự kiến;Phòng;Lý do;Người giám hộ;"
    "Quan hệ;Số giấy tờ người giám hộ;Đoàn;Trưởng đoàn"
)


def _may_be_parent(day: date, seed: int, index: int) -> bool:
    someone = _person(seed, index)
    return someone.nationality == "VNM" and 30 <= day.year - int(someone.birth_date[:4]) < 45


def _children(parent: Mapping[str, Any], day: date) -> list[dict[str, Any]]:
    surname = parent["full_name"].split()[0]
    return [
        {"full_name": f"{surname} ANH MẪU", "birth_date": f"{day.year - 9}-03-08", "gender": "M"},
        {"full_name": f"{surname} BÉ MẪU", "birth_date": f"{day.year - 2}-10-20", "gender": "F"},
    ]


def _residence(guest: Person, index: int) -> dict[str, Any] | None:
    if guest.nationality != "VNM":
        return None
    return {"kind": 1, "province": "109", "ward": None, "address": f"Số {index + 1}, phố Mẫu"}


def _room(index: int) -> str:
    return f"{1 + index // 20 % 9}{1 + index % 20:02d}"


# -- a hotel: the Ministry's workbook ----------------------------------------------------------------------------------

_SHEET = "DS_KHACH_VIET_NAM_LUU_TRU"
_TITLES = (
    "STT", "HỌ TÊN*", "NGÀY SINH*", "GIỚI TÍNH*", "QUỐC TỊCH*", "LOẠI GIẤY TỜ*", "TÊN GIẤY TỜ", "SỐ GIẤY TỜ*",
    "SỐ ĐIỆN THOẠI", "NƠI CƯ TRÚ HIỆN NAY", "TỈNH/ THÀNH PHỐ", "PHƯỜNG/ XÃ/ ĐẶC KHU", "ĐỊA CHỈ CHI TIẾT", "NGÀY ĐẾN*",
    "NGÀY ĐI DỰ KIẾN*", "SỐ PHÒNG/ KHOA", "LÝ DO CƯ TRÚ*", "NHẬP LÝ DO", "GHI CHÚ",
)  # fmt: skip


def official_xlsx(day: date, count: int, seed: int) -> bytes:
    """The Ministry's workbook with `count` Vietnamese guests who arrive on `day`, in rows 5 and following."""
    output = BytesIO()
    workbook = xlsxwriter.Workbook(
        output, {"in_memory": True, "strings_to_formulas": False, "strings_to_urls": False, "strings_to_numbers": False}
    )
    workbook.set_properties({"created": datetime.combine(day, time())})  # else the bytes would tell the time of writing
    sheet = workbook.add_worksheet(_SHEET)
    bold, as_text = workbook.add_format({"bold": True}), workbook.add_format({"num_format": "@"})
    sheet.write_string(0, 0, "DANH SÁCH KHÁCH VIỆT NAM LƯU TRÚ (DỮ LIỆU MẪU)", bold)
    sheet.write_row(1, 0, _TITLES, bold)
    sheet.write_row(2, 0, ["", "Chữ in hoa, có dấu", "dd/MM/yyyy", *[""] * 10, "dd/MM/yyyy", "dd/MM/yyyy"])
    example = Person("[EXAMPLE] NGUYỄN VĂN MẪU", "1990-01-01", "M", "VNM", 1, "000090999999")
    for number, guest in enumerate([example, *people(seed, count, citizens_only=True)]):
        sheet.write_number(3 + number, 0, number)
        sheet.write_row(3 + number, 1, _official_cells(guest, day, number), as_text)
    sheet.set_column(1, len(_TITLES) - 1, 18)
    sheet.freeze_panes(2, 0)
    workbook.close()
    return output.getvalue()


def _official_cells(guest: Person, day: date, number: int) -> list[str]:
    leaves = day + timedelta(days=1 + number % 4)
    return [
        guest.full_name,
        _written(date.fromisoformat(guest.birth_date)),
        "M - Nam" if guest.gender == "M" else "F - Nữ",
        "VNM - Việt Nam",
        written_code("document_types", guest.document_type),
        "",
        guest.document_number,
        "0000000001",
        written_code("residence_kinds", 1),
        written_code("provinces", "109"),
        "",
        f"Số {number}, phố Mẫu",
        _written(day),
        _written(leaves),
        _room(number),
        written_code("reasons", Reason.TOURISM),
        "",
        "",
    ]


def _written(day: date) -> str:
    return f"{day:%d/%m/%Y}"


# -- a hotel: the Ministry's XML for foreigners ------------------------------------------------------------------------


def foreigner_xml(day: date, count: int, seed: int) -> bytes:
    """The Ministry's XML file with `count` foreigners who arrive on `day`; every third came and left before it."""
    foreigners = (each for each in people(seed, PEOPLE_OF_SEED) if each.nationality != "VNM")
    guests = [_foreigner(guest, day, number) for number, guest in enumerate(islice(foreigners, count), 1)]
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<KHAI_BAO_TAM_TRU>", *guests, "</KHAI_BAO_TAM_TRU>", ""]
    return "\n".join(lines).encode()


def _foreigner(guest: Person, day: date, number: int) -> str:
    arrives = day - timedelta(days=3) if number % 3 == 0 else day
    values = {
        "so_thu_tu": str(number),
        "ho_ten": guest.full_name,
        "ngay_sinh": _written(date.fromisoformat(guest.birth_date)),
        "ngay_sinh_dung_den": "D",
        "gioi_tinh": guest.gender,
        "ma_quoc_tich": "D" if guest.nationality == "DEU" else guest.nationality,  # as travel documents write it
        "so_ho_chieu": guest.document_number,
        "so_phong": _room(number),
        "ngay_den": _written(arrives),
        "ngay_di_du_kien": _written(arrives + timedelta(days=2)),
        "ngay_tra_phong": _written(arrives + timedelta(days=2)) if arrives < day else None,
        "thoi_han_tam_tru": _written(day + timedelta(days=60)),
    }
    elements = [f"        <{name}>{value}</{name}>" for name, value in values.items() if value is not None]
    return "\n".join(["    <THONG_TIN_KHACH>", *elements, "    </THONG_TIN_KHACH>"])


# -- a guesthouse: a list of its own -----------------------------------------------------------------------------------

_OWN = (
    "STT;Họ và tên / Full name;Ngày sinh (dd/MM/yyyy);Phái;Quốc tịch;Loại giấy tờ;CCCD/Hộ chiếu;Tỉnh;Huyện;Xã;"
    "Ngày nhận phòng;Giờ đến;Ngày trả phòng;Phòng;Mục đích;Tiền phòng"
)
_HOMES = (
    ("Hưng Yên", "", "Phường Phố Hiến"),
    ("Thái Bình", "Huyện Kiến Xương", "Xã Vũ Quý"),  # as identity cards issued before July 2025 have it
    ("Hưng Yên", "TP. Hưng Yên", "P. Hiến Nam"),
)


def own_list_csv(day: date, count: int, seed: int) -> bytes:
    """A guesthouse's own list of `count` guests who arrive on `day`, with addresses of today and of the past."""
    rows = [";".join(_own_cells(guest, day, number)) for number, guest in enumerate(people(seed, count), 1)]
    return "\r\n".join(["Nhà nghỉ Mẫu – sổ khách (DỮ LIỆU MẪU)", "", _OWN, *rows, ""]).encode("utf-8-sig")


def _own_cells(guest: Person, day: date, number: int) -> list[str]:
    home = _HOMES[number % len(_HOMES)] if guest.nationality == "VNM" else ("", "", "")
    return [
        str(number),
        guest.full_name,
        _written(date.fromisoformat(guest.birth_date)),
        "Nam" if guest.gender == "M" else "Nữ",
        "" if guest.nationality == "VNM" else guest.nationality,
        written_code("document_types", guest.document_type),
        guest.document_number,
        *home,
        _written(day),
        f"0h{number % 60:02}",
        _written(day + timedelta(days=1 + number % 3)),
        _room(number),
        "Du lịch",
        "300000",
    ]


# -- a hotel: its software, as it speaks to the national portal --------------------------------------------------------


def portal_rows(day: date, count: int, seed: int) -> bytes:
    """What a hotel's program sends for `count` guests who arrived on `day`: an array of citizens and foreigners."""
    rows = [_portal_row(guest, day, number) for number, guest in enumerate(people(seed, count))]
    return orjson.dumps(rows, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)


def _portal_row(guest: Person, day: date, number: int) -> dict[str, Any]:
    leaves = day + timedelta(days=1 + number % 4)
    row = {
        "hoTen": guest.full_name,
        "gioiTinh": guest.gender,
        "ngayThangNamSinhStr": guest.birth_date,
        "ngayDenCsltStr": f"{day} {JUST_AFTER_MIDNIGHT}",
        "ngayDiDuKienStr": f"{leaves} 12:00:00",
        "soPhong": _room(number),
    }
    if guest.nationality != "VNM":
        stay = {"thoiHanTamTruStr": f"{day + timedelta(days=60)} 23:59:59", "anhHoChieuB64": ""}
        passport = {"quocTich": guest.nationality, "soHoChieu": guest.document_number, "loaiNgayThangNamSinh": "D"}
        return {**row, **passport, **stay}
    document = {"loaiGiayTo": guest.document_type, "soGiayTo": guest.document_number, "lyDoCuTru": 1}
    home = {"noiCuTru": 1, "maTT": "109", "maPX": "", "diaChi": f"Số {number + 1}, phố Mẫu"}
    return {**row, **document, **home, "anhTruocB64": "", "anhSauB64": ""}


# -- a dormitory: its roster -------------------------------------------------------------------------------------------

_ROSTER_HEADING = (
    "STT;Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Mã nhân viên;Công ty;Ca;Tòa nhà;Phòng;Giường;"
    "Ngày vào;Ngày ra dự kiến;Lý do"
)


def dorm_roster_csv(day: date, count: int, seed: int) -> bytes:
    """The roster of a dormitory with `count` workers, foreigners among them, who move in on `day` without an end."""
    return _roster(_roster_cells(guest, day, number) for number, guest in enumerate(people(seed, count), 1))


def later_roster_csv(day: date, count: int, seed: int) -> bytes:
    """The same roster on the next day: the first worker in another room, the second missing, the third with a mistyped
    document, and one more who moves in."""
    first, _, third, *others, new = (
        _roster_cells(guest, day, number) for number, guest in enumerate(people(seed, count + 1), 1)
    )
    first[_ROOM], new[_ARRIVED] = "115", _written(day + timedelta(days=1))
    third[_NUMBER] = f"{third[_NUMBER][:-1]}{(int(third[_NUMBER][-1]) + 1) % 10}"
    return _roster([first, third, *others, new])


_NUMBER, _ROOM, _ARRIVED = 6, 11, 13


def _roster(rows: Iterable[list[str]]) -> bytes:
    lines = ["DANH SÁCH NGƯỜI Ở KHU NHÀ Ở CÔNG NHÂN (DỮ LIỆU MẪU)", _ROSTER_HEADING, *map(";".join, rows), ""]
    return "\r\n".join(lines).encode("utf-8-sig")


def _roster_cells(guest: Person, day: date, number: int) -> list[str]:
    return [
        str(number),
        guest.full_name,
        _written(date.fromisoformat(guest.birth_date)),
        "Nam" if guest.gender == "M" else "Nữ",
        next(row.vi for row in table("nationalities").rows if row.code == guest.nationality),
        next(row.vi for row in table("document_types").rows if row.code == guest.document_type),
        guest.document_number,
        f"NV{number:04d}",
        "Công ty May Mẫu" if number % 3 else "Công ty Điện tử Mẫu",
        str(1 + number % 3),
        "AB"[number % 2],
        f"{1 + number // 40 % 9}{1 + number // 4 % 10:02d}",
        str(1 + number % 4),
        _written(day),
        "",
        "Lao động",
    ]


# -- a hospital: HL7 v2 ADT --------------------------------------------------------------------------------------------

_HL7_TYPES = {DocumentType.CCCD: "NI", DocumentType.CAN_CUOC: "CC", DocumentType.PASSPORT: "PPN"}


def adt_a01(day: date, index: int, *, seed: int = 0, at: time = JUST_AFTER_MIDNIGHT) -> bytes:
    """The message by which a hospital admits person `index` of the block on `day` at `at`, without its MLLP frame."""
    admitted = f"{day:%Y%m%d}{at:%H%M%S}"
    guest = _person(seed, index)
    return _message(
        _header("A01", admitted, f"A01-{day:%Y%m%d}-{seed}-{index}"),
        {0: "EVN", 2: admitted},
        _patient(guest, seed * PEOPLE_OF_SEED + index),
        _visit(day, index, seed) | {44: admitted},
        {0: "PV2", 9: f"{day + timedelta(days=2 + index % 5):%Y%m%d}"},
    )


def adt_a03(day: date, index: int, *, seed: int = 0, at: time = time(0, 30), admitted_on: date | None = None) -> bytes:
    """The discharge on `day` at `at` of whom `adt_a01` admitted on `admitted_on` (the same day if None)."""
    left = f"{day:%Y%m%d}{at:%H%M%S}"
    guest = _person(seed, index)
    return _message(
        _header("A03", left, f"A03-{day:%Y%m%d}-{seed}-{index}"),
        {0: "EVN", 2: left},
        _patient(guest, seed * PEOPLE_OF_SEED + index),
        _visit(admitted_on or day, index, seed) | {45: left},
    )


def adt_events(day: date, *, seed: int = 0) -> bytes:
    """A ward's morning, one message after the other: an admission, a transfer, a patient without identity and how it is
    completed, a message that is refused (its birth date is none), a discharge, and its cancellation."""
    first, unknown, wrong = (_person(seed, index) for index in range(3))
    places = [seed * PEOPLE_OF_SEED + index for index in range(3)]
    at = [f"{day:%Y%m%d}{hour:02d}0000" for hour in range(8)]

    def message(order: int, event: str, patient: Mapping[int, str], visit: Mapping[int, str]) -> bytes:
        control_id = f"EV{order}-{day:%Y%m%d}-{seed}"
        return _message(_header(event, at[order], control_id), {0: "EVN", 2: at[order]}, patient, visit)

    nobody = {0: "PID", 3: f"BN{places[1]:06d}^^^^MR"}
    moved = _visit(day, 0, seed) | {3: "HỒI SỨC^1^1", 44: at[1]}
    return b"".join(
        (
            message(1, "A01", _patient(first, places[0]), _visit(day, 0, seed) | {44: at[1]}),
            message(2, "A02", _patient(first, places[0]), moved),
            message(3, "A01", nobody, _visit(day, 1, seed) | {44: at[3]}),
            message(4, "A08", _patient(unknown, places[1]), _visit(day, 1, seed) | {44: at[3]}),
            message(5, "A01", _patient(wrong, places[2]) | {7: "19901414"}, _visit(day, 2, seed) | {44: at[5]}),
            message(6, "A03", _patient(first, places[0]), moved | {45: at[6]}),
            message(7, "A13", _patient(first, places[0]), moved),
        )
    )


def _header(event: str, at: str, control_id: str) -> dict[int, str]:
    """MSH, whose first field is its own separator: the numbers are one lower than in the standard."""
    names = {1: "^~\\&", 2: "HIS-MAU", 3: "BV-MAU-01", 4: "ASM", 5: "HY"}
    return {0: "MSH", **names, 6: at, 8: f"ADT^{event}", 9: control_id, 10: "P", 11: "2.5", 17: "UNICODE UTF-8"}


def _patient(guest: Person, number: int) -> dict[int, str]:
    family, *middle, given = guest.full_name.split()
    identifiers = f"{guest.document_number}^^^^{_HL7_TYPES[DocumentType(guest.document_type)]}~BN{number:06d}^^^^MR"
    return {
        0: "PID",
        3: identifiers,
        5: f"{family}^{given}^{' '.join(middle)}",
        7: guest.birth_date.replace("-", ""),
        8: guest.gender,
        11: "Phố Mẫu^^^109^^VNM^P" if guest.nationality == "VNM" else "",
        26: guest.nationality,
    }


def _visit(admitted_on: date, index: int, seed: int) -> dict[int, str]:
    location = f"KHOA MẪU^{_room(index)}^{1 + index % 3}"
    return {0: "PV1", 2: "I", 3: location, 19: f"VS-{admitted_on:%Y%m%d}-{seed}-{index}"}


def _message(*segments: Mapping[int, str]) -> bytes:
    """Segments given as field number → text."""
    lines = ["|".join(fields.get(number, "") for number in range(max(fields) + 1)) for fields in segments]
    return "".join(f"{line}\r" for line in lines).encode()


# -- the files of deploy/samples ---------------------------------------------------------------------------------------


def files(day: date = SAMPLE_DAY) -> dict[str, bytes]:
    """One document of each kind of facility, by file name."""
    return {
        "hotel-official.xlsx": official_xlsx(day, 12, seed=1),
        "hotel-foreigners.xml": foreigner_xml(day, 6, seed=1),
        "guesthouse-list.csv": own_list_csv(day, 12, seed=6),
        "hotel-portal.json": portal_rows(day, 12, seed=7),
        "guesthouse.json": _indented(declaration(day, seed=2)),
        "guesthouse-family.json": _indented(family(day, seed=8)),
        "guesthouse-family.csv": family_csv(day, seed=8),
        "rental-housing.json": _indented(declaration(day, seed=3)),
        "dorm-roster.csv": dorm_roster_csv(day, 15, seed=4),
        "dorm-roster-later.csv": later_roster_csv(day, 15, seed=4),
        "hospital-admit.hl7": adt_a01(day, 0, seed=5),
        "hospital-discharge.hl7": adt_a03(day, 0, seed=5),
        "hospital-events.hl7": adt_events(day, seed=8),
    }


def _indented(fields: Mapping[str, Any] | list[dict[str, Any]]) -> bytes:
    return orjson.dumps(fields, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
