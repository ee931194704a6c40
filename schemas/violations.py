"""Every reason for which content is refused, in one catalogue: a stable code with a Vietnamese and an English text.

Texts name limits, never values: what a person wrote is not repeated in an error (Law 91/2025/QH15).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple


class Text(NamedTuple):
    """One message in the two languages of the system; `{name}` stands for a limit."""

    vi: str
    en: str


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing wrong at one place.

    `pointer` is an RFC 6901 JSON Pointer into the act's fields ("" = the whole), `place` the user's own place
    ("H7", "PID-5.1") where the document is not JSON.
    """

    code: str
    pointer: str
    vi: str
    en: str
    place: str | None = None


def violation(code: str, pointer: str = "", place: str | None = None, **limits: object) -> Violation:
    """Build the violation `code` of the catalogue; `limits` fill its text. Raises KeyError on an unknown code."""
    text = CATALOGUE[code]
    return Violation(code, pointer, text.vi.format(**limits), text.en.format(**limits), place)


_SHAPE = {
    "required": Text("Thiếu thông tin bắt buộc.", "This is required."),
    "unknown_field": Text("Trường này không có trong mẫu khai báo.", "This field is not part of the declaration."),
    "wrong_type": Text("Sai kiểu dữ liệu: cần {expected}.", "Wrong type: {expected} is wanted."),
    "not_json": Text("Nội dung không phải là JSON hợp lệ.", "The content is not valid JSON."),
    "too_long": Text("Dài quá {limit} ký tự.", "Longer than {limit} characters."),
    "too_short": Text("Ngắn hơn {limit} ký tự.", "Shorter than {limit} characters."),
    "out_of_range": Text("Giá trị ngoài khoảng cho phép: {expected}.", "Out of range: {expected}."),
    "wrong_format": Text("Sai định dạng: cần {expected}.", "Wrong format: {expected} is wanted."),
    "unknown_code": Text("Mã không có trong danh mục {table}.", "The code is not in the table {table}."),
    "wrong_date": Text("Ngày không hợp lệ: cần dạng {expected}.", "Not a valid date: {expected} is wanted."),
    "no_offset": Text(
        "Thời điểm phải kèm múi giờ, ví dụ +07:00.", "An instant must carry its offset, for example +07:00."
    ),
}

_DOCUMENT = {
    "unreadable_file": Text("Không đọc được tệp.", "The file cannot be read."),
    "file_too_large": Text("Tệp vượt quá giới hạn {limit}.", "The file is larger than {limit}."),
    "no_rows": Text("Tệp không có dòng dữ liệu nào: không có gì được khai báo.", "No data row: nothing was declared."),
    "missing_sheet": Text("Không tìm thấy trang tính {expected}.", "The sheet {expected} was not found."),
    "missing_column": Text("Thiếu cột {expected}.", "The column {expected} is missing."),
    "ambiguous_date": Text(
        "Ngày không rõ ràng (ngày và tháng có thể bị đảo): hãy nhập dạng chữ dd/MM/yyyy.",
        "Ambiguous date (day and month may be swapped): enter it as text, dd/MM/yyyy.",
    ),
    "undecodable": Text("Không giải mã được ký tự theo bảng mã {expected}.", "Not decodable as {expected}."),
}

CATALOGUE: dict[str, Text] = {**_SHAPE, **_DOCUMENT}
