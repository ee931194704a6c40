"""The rows of the national portal's interface (Cổng KBTT/TBLT của Bộ Công an, REST API v1.4).

| member of a citizen | field of the declaration |
|---|---|
| `hoTen`, `gioiTinh`, `ngayThangNamSinhStr` | full name; gender, mandatory here; birth date |
| `loaiGiayTo`, `soGiayTo` | type and number of the document |
| `soDienThoai`; `noiCuTru`, `maTT`, `maPX`, `diaChi` | telephone; residence: kind, province, ward, address |
| `ngayDenCsltStr`, `ngayDiDuKienStr` | arrival and planned departure, both mandatory here |
| `soPhong`, `lyDoCuTru`, `lyDoChiTiet`, `ghiChu` | room, reason, reason in words, note |

A foreigner has `quocTich`, in ISO 3166-1 or the portal's own codes (`D`, `GBD`, `RKS`), and `soHoChieu`, the number of
a passport (type 4). With `loaiNgayThangNamSinh` `Y` only the year of `ngayThangNamSinhStr` (`YYYY-01-01`) counts.
`thoiHanTamTruStr` is the permitted stay. The form has no reason: it is 20 with the words of `NO_REASON`, unless the row
has `lyDoCuTru` like a citizen's.

A change of departure names its guest by `loaiGiayTo` and `soGiayTo`. `loai` `TS` is a check-out at `thoiGianStr` or, as
software for the portal sends it, without: then at the time it was received. `GH` is an extension to `thoiGianStr`.

Times are `YYYY-MM-DD HH:mm:ss` and mean Asia/Ho_Chi_Minh; seconds may be missing. A day alone is 00:00 for an arrival,
12:00 for a departure. A number in place of a text is taken (`soPhong`: 203), and so are digits in place of a number; a
personal number that lost its zeros as a JSON number gets them back, with a warning. Photographs (`anhTruocB64`,
`anhSauB64`, `anhHoChieuB64`) and members that the interface does not have are not looked at.

What is wrong with a row stands in its act beside what is sound, so that intake can tell everything at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time
from functools import partial
from typing import Any

import orjson

from connectors.cells import (
    LAST_MINUTE,
    NO_REASON,
    NOON,
    Cell,
    CellError,
    Row,
    gender,
    instant,
    lost_zeros_restored,
    moment,
    nationality,
    number_code,
    phone,
    text,
)
from connectors.places import read_places
from schemas.act import Act, ActKind, Connector, Unreadable
from schemas.codes import DocumentType, Reason
from schemas.violations import violation

INSTANT_FORM = "YYYY-MM-DD HH:mm:ss"
_INSTANT = re.compile(r"(\d{4}-\d{2}-\d{2})(?:[ T](\d{2}:\d{2}(?::\d{2})?))?", re.ASCII)
_YEAR_ONLY = re.compile(r"(\d{4})(?:-01-01)?", re.ASCII)
_OTHER_NATIONALITIES = {"VN": "VNM"}  # the portal's own list has it so

Members = Mapping[str, Any]


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield an act for every row of a JSON array, in order (`schemas.act.Connector`); `row` is its place from 1.

    Citizens, foreigners and changes of departure may stand in one file: `loai` marks a change, `quocTich` or
    `soHoChieu` a foreigner. A check-out needs its `thoiGianStr` here, because nobody knows when a file was written.
    """
    try:
        rows = orjson.loads(document)
    except orjson.JSONDecodeError:
        yield Unreadable(0, (violation("not_json"),))
        return
    if not isinstance(rows, list):
        yield Unreadable(0, (violation("wrong_type", expected="array"),))
    elif not rows:
        yield Unreadable(0, (violation("no_rows"),))
    else:
        for number, members in enumerate(rows, 1):
            yield _read_row(members, number)


def _read_row(members: Any, number: int) -> Act | Unreadable:
    if not isinstance(members, dict):
        return Unreadable(number, (violation("wrong_type", expected="object"),))
    if "loai" in members:
        return departure(members, number, None)
    is_foreign = "quocTich" in members or "soHoChieu" in members
    return foreigner(members, number) if is_foreign else citizen(members, number)


def citizen(members: Members, number: int) -> Act:
    """The declaration of a citizen (thông báo lưu trú), row `number` from 1."""
    row = Row(number)
    _person(row, members, text)
    _document(row, members, "/guest/document")
    row.put("/guest/nationality", "VNM")
    _take(row, members, "/guest/phone", "soDienThoai", phone)
    _take(row, members, "/guest/residence/kind", "noiCuTru", partial(number_code, name="residence_kinds"))
    read_places(row, (members.get("maTT"), "maTT"), (None, "maPX"), (members.get("maPX"), "maPX"))
    _take(row, members, "/guest/residence/address", "diaChi", text)
    _stay(row, members)
    _reason(row, members)
    _take(row, members, "/note", "ghiChu", text)
    return _act(row, ActKind.DECLARE)


def foreigner(members: Members, number: int) -> Act:
    """The declaration of a foreigner (khai báo tạm trú người nước ngoài), row `number` from 1."""
    row = Row(number)
    precision = _said(row, members, "loaiNgayThangNamSinh", "D", "Y")
    _person(row, members, _year if precision == "Y" else text)
    _take(row, members, "/guest/nationality", "quocTich", _nationality, required=True)
    row.put("/guest/document/type", int(DocumentType.PASSPORT))
    _take(row, members, "/guest/document/number", "soHoChieu", text, required=True)
    _take(row, members, "/guest/permitted_stay_until", "thoiHanTamTruStr", _day, required=True)
    _stay(row, members)
    if members.get("lyDoCuTru") in (None, ""):
        row.put("/reason", int(Reason.OTHER))
        row.put("/reason_text", NO_REASON)
    else:
        _reason(row, members)
    return _act(row, ActKind.DECLARE)


def departure(members: Members, number: int, received_at: datetime | None) -> Act:
    """A change of departure (đổi ngày trả phòng), row `number` from 1.

    `received_at` is when a guest has left of whom no time is given; None for a document that tells no such time.
    """
    row = Row(number)
    change = _said(row, members, "loai", "TS", "GH")
    _document(row, members, "/document")
    match = {"document": row.fields.pop("document")}
    if change == "GH":
        _take(row, members, "/planned_departure_at", "thoiGianStr", _leaves, required=True)
        return _act(row, ActKind.EXTEND, match)
    now = received_at.replace(microsecond=0).isoformat() if received_at else None
    row.read("/departed_at", "thoiGianStr", members.get("thoiGianStr"), _leaves, default=now, required=True)
    return _act(row, ActKind.CHECK_OUT, match)


def _act(row: Row, kind: ActKind, match: Members | None = None) -> Act:
    faults = tuple(row.violations)
    return Act(kind, row.fields, row.number, None, row.origin, tuple(row.warnings), match, faults)


# -- groups of members -------------------------------------------------------------------------------------------------


def _take(
    row: Row, members: Members, pointer: str, name: str, reader: Callable[[Cell], Any], *, required: bool = False
) -> Any:
    return row.read(pointer, name, members.get(name), reader, required=required)


def _person(row: Row, members: Members, birth_date: Callable[[Cell], Any]) -> None:
    _take(row, members, "/guest/full_name", "hoTen", text, required=True)
    _take(row, members, "/guest/gender", "gioiTinh", gender, required=True)
    _take(row, members, "/guest/birth_date", "ngayThangNamSinhStr", birth_date, required=True)


def _document(row: Row, members: Members, pointer: str) -> None:
    row.put(pointer, {})
    kind = _take(row, members, f"{pointer}/type", "loaiGiayTo", _document_type, required=True)
    given = members.get("soGiayTo")
    restored = lost_zeros_restored(given, kind)
    if restored:
        row.warn("leading_zeros_restored", f"{pointer}/number", "soGiayTo")
    row.read(f"{pointer}/number", "soGiayTo", restored or given, text, required=True)


def _stay(row: Row, members: Members) -> None:
    arrived_at = _take(row, members, "/arrived_at", "ngayDenCsltStr", _arrives, required=True)
    leaves = partial(_leaves, arrived_at=arrived_at)
    _take(row, members, "/planned_departure_at", "ngayDiDuKienStr", leaves, required=True)
    _take(row, members, "/room", "soPhong", text)


def _reason(row: Row, members: Members) -> None:
    _take(row, members, "/reason", "lyDoCuTru", partial(number_code, name="reasons"), required=True)
    _take(row, members, "/reason_text", "lyDoChiTiet", text)


# -- single members ----------------------------------------------------------------------------------------------------


def _said(row: Row, members: Members, name: str, *words: str) -> str | None:
    """Which of `words` a member says that is no field of its own; None, as a fault of the row, for anything else."""
    given = members.get(name)
    if given in words:
        return str(given)
    if given in (None, ""):
        row.refuse("required", "", name)
    else:
        row.refuse("out_of_range", "", name, expected=" / ".join(words))
    return None


def _document_type(cell: Cell) -> int | None:
    """1-8: type 9 needs a name, for which a row has no member."""
    kind = number_code(cell, name="document_types")
    if kind == DocumentType.OTHER:
        raise CellError("out_of_range", expected="1-8")
    return kind


def _nationality(cell: Cell) -> str | None:
    return nationality(_OTHER_NATIONALITIES.get(cell, cell) if isinstance(cell, str) else cell)


def _year(cell: Cell) -> str | None:
    written = text(cell)
    match = _YEAR_ONLY.fullmatch(written) if written else None
    if not match:
        raise CellError("wrong_date", expected="YYYY-01-01")
    return match[1]


def _moment(cell: Cell) -> tuple[date, time | None] | None:
    written = text(cell)
    if written is not None and not _INSTANT.fullmatch(written):
        raise CellError("wrong_date", expected=INSTANT_FORM)
    return moment(written, expected=INSTANT_FORM)


def _day(cell: Cell) -> str | None:
    read = _moment(cell)
    return read[0].isoformat() if read else None


def _arrives(cell: Cell) -> str | None:
    read = _moment(cell)
    return instant(read[0], read[1] or time(0)) if read else None


def _leaves(cell: Cell, arrived_at: str | None = None) -> str | None:
    read = _moment(cell)
    if read is None:
        return None
    noon = instant(read[0], NOON)
    came_later = arrived_at is not None and arrived_at[:10] == noon[:10] and arrived_at > noon
    return instant(read[0], read[1] or (LAST_MINUTE if came_later else NOON))


connector = Connector(name="kbtt_api", suffixes=(), media_types=(), read=read)
