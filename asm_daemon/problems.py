"""Every failure as an RFC 9457 problem type: a stable code, a status and a title in two languages.

Raised where it is known (`raise Refused("already_staying", …)`), rendered in one place per protocol.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import ValidationError

from schemas.stay import Problem, Violated
from schemas.violations import Text, Violation, violation


@dataclass(frozen=True, slots=True)
class ProblemType:
    """One kind of failure. `status` is the HTTP status it is answered with."""

    code: str
    status: int
    title: Text


def _table(*rows: tuple[str, int, str, str]) -> Mapping[str, ProblemType]:
    return {code: ProblemType(code, status, Text(vi, en)) for code, status, vi, en in rows}


PROBLEMS = _table(
    ("declaration_invalid", 422, "Nội dung khai báo có lỗi.", "The declaration has errors."),
    ("request_invalid", 422, "Yêu cầu có lỗi.", "The request has errors."),
    ("not_json", 400, "Nội dung gửi lên không phải JSON hợp lệ.", "The body is not valid JSON."),
    ("bad_request", 400, "Yêu cầu không hợp lệ.", "The request cannot be understood."),
    (
        "unauthenticated",
        401,
        "Thiếu khoá API hoặc khoá không còn hiệu lực.",
        "No API key, or it is not valid (any more).",
    ),
    (
        "wrong_credentials",
        401,
        "Tên đăng nhập hoặc mật khẩu không đúng: dùng mã khoá API và phần bí mật của khoá.",
        "Wrong user name or password: they are the id and the secret of an API key.",
    ),
    ("forbidden", 403, "Khoá này không có quyền dùng chức năng này.", "This key may not do this."),
    (
        "scope_missing",
        403,
        "Khoá này không được cấp quyền cần thiết tại cơ sở.",
        "The key's grant lacks the needed scope.",
    ),
    (
        "facility_not_granted",
        403,
        "Khoá này không được cấp quyền cho mã cơ sở đã nêu (hoặc mã không tồn tại).",
        "The key holds no grant for the named facility (or it does not exist).",
    ),
    (
        "facility_required",
        422,
        "Khoá này dùng cho nhiều cơ sở: hãy nêu mã cơ sở (facility).",
        "The key serves several facilities: name one (facility).",
    ),
    ("not_found", 404, "Không tìm thấy.", "Not found."),
    (
        "not_in_house",
        404,
        "Không có khách nào mang giấy tờ này đang lưu trú tại cơ sở.",
        "No guest with this document is in house at the facility.",
    ),
    ("method_not_allowed", 405, "Phương thức không được hỗ trợ.", "The method is not allowed here."),
    ("not_acceptable", 406, "Không có dạng trả lời được yêu cầu.", "No such representation."),
    (
        "already_staying",
        409,
        "Khách có cùng giấy tờ đang lưu trú hoặc trùng thời gian tại cơ sở này; biên nhận của lượt đó được gửi kèm. "
        "Đổi phòng: đính chính lượt đó. Nếu thật sự là lượt khác: gửi lại kèm "
        '"override": {"code": "already_staying", "reason": "lý do"}.'
        "",
        "A guest with this document is already staying, or overlaps, here; that stay's receipt is enclosed. "
        "A room move is a correction of that stay. If this really is another stay, send it again with an override.",
    ),
    (
        "content_differs",
        409,
        "Lượt lưu trú này đã được khai báo với nội dung khác. Để sửa: PATCH /v1/stays/{id} kèm If-Match.",
        "This stay was declared before with other content. To change it: PATCH /v1/stays/{id} with If-Match.",
    ),
    (
        "version_conflict",
        412,
        "Lượt lưu trú đã thay đổi: hãy đọc lại phiên bản mới.",
        "The stay has changed: read it again.",
    ),
    (
        "precondition_required",
        428,
        "Đính chính phải kèm If-Match với số phiên bản hiện tại.",
        "A correction needs If-Match with the current version.",
    ),
    (
        "another_person",
        422,
        "Đính chính thay cả giấy tờ, họ tên và ngày sinh: đó là người khác. Hãy huỷ và khai báo lại.",
        "The correction replaces document, name and birth date: that is another person. Cancel and declare again.",
    ),
    (
        "wrong_state",
        409,
        "Trạng thái của lượt lưu trú không cho phép việc này.",
        "The stay's state does not allow this.",
    ),
    (
        "webhook_state",
        409,
        "Webhook đang ở trạng thái khác: webhook đã tắt thì bật lại trước, đang bật thì không cần bật.",
        "The webhook's state does not allow this: enable a disabled one first.",
    ),
    (
        "stay_cancelled",
        409,
        "Lượt lưu trú này đã bị huỷ. Nếu khách thật sự lưu trú: khai báo lại với mã tham chiếu mới.",
        "This stay was cancelled. If the guest does stay, declare again under a new source_ref.",
    ),
    (
        "import_not_ended",
        409,
        "Tệp chưa được đọc xong. Hãy thử lại sau giây lát.",
        "The file is still being taken in. Try again in a moment.",
    ),
    (
        "file_erased",
        410,
        "Tệp đã được xoá sau khi trả lại hoặc hết thời hạn. Kết quả từng dòng vẫn xem được trong báo cáo.",
        "The file was erased after it had been given back, or its time was over. The report still has every row.",
    ),
    (
        "not_annotatable",
        409,
        "Định dạng tệp này không có cột để ghi lỗi. Hãy xem lỗi trong báo cáo.",
        "A file of this format has no columns to write errors into. The report tells them.",
    ),
    (
        "events_erased",
        410,
        "Có sự kiện sau con trỏ này đã quá hạn lưu và bị xoá. Hãy bắt đầu lại không kèm after, và đối chiếu danh sách.",
        "Some events after this cursor are no longer kept. Begin again without after, and look through the lists.",
    ),
    ("no_rows", 422, "Không có dòng nào: không có gì được khai báo.", "No rows: nothing was declared."),
    (
        "all_rows_refused",
        422,
        "Mọi dòng đều bị từ chối: không có gì được khai báo; kết quả từng dòng được gửi kèm.",
        "Every row was refused: nothing was declared; the result of each row is enclosed.",
    ),
    (
        "count_mismatch",
        422,
        "Số dòng khác với expected_count: không nhận dòng nào.",
        "The rows do not match expected_count: none was taken.",
    ),
    (
        "body_too_large",
        413,
        "Nội dung gửi lên vượt giới hạn (xem /v1/limits).",
        "The body exceeds the limit (see /v1/limits).",
    ),
    (
        "request_timeout",
        408,
        "Nội dung gửi lên không đến đủ trong thời gian cho phép; chưa có gì được ghi nhận.",
        "The body did not arrive in time; nothing was recorded.",
    ),
    (
        "too_many_rows",
        413,
        "Quá số dòng cho phép trong một lần gửi (xem /v1/limits).",
        "Too many rows in one request (see /v1/limits).",
    ),
    ("unsupported_media_type", 415, "Kiểu nội dung không được hỗ trợ.", "The content type is not supported."),
    (
        "unknown_connector",
        422,
        "Không nhận ra dạng tệp: hãy nêu tên bộ đọc (connector).",
        "Unknown kind of file: name a connector.",
    ),
    ("rate_limited", 429, "Quá nhiều yêu cầu: hãy thử lại sau.", "Too many requests: try again later."),
    (
        "overloaded",
        503,
        "Hệ thống đang quá tải: hãy gửi lại sau giây lát.",
        "The daemon is overloaded: send again shortly.",
    ),
    (
        "unavailable",
        503,
        "Lúc này chưa thực hiện được; nếu là khai báo thì chưa có gì được ghi nhận. Hãy thử lại.",
        "Not possible right now; if this was a declaration, nothing was recorded. Try again.",
    ),
    (
        "key_exhausted",
        503,
        "Khoá niêm phong của tháng đã dùng hết hạn mức: chưa có gì được ghi nhận, cần người vận hành thay khoá.",
        "The month's key has sealed as much as one key may: nothing was recorded, an operator has to renew it.",
    ),
    (
        "outcome_unknown",
        503,
        "Không rõ đã ghi nhận hay chưa: hãy gửi lại cùng source_ref, sẽ không bị trùng.",
        "It is not known whether this was recorded: send it again with the same source_ref, nothing is doubled.",
    ),
    (
        "roster_outdated",
        409,
        "Từ khi lập kế hoạch, tình hình ở cơ sở đã thay đổi: hãy gửi lại danh sách để có kế hoạch mới.",
        "The house has changed since the plan was made: send the roster again for a new plan.",
    ),
    (
        "roster_unconfirmed",
        409,
        "Kế hoạch trả phòng cho nhiều người hơn giới hạn: nếu đúng, gửi lại kèm confirm_check_outs bằng đúng số người.",
        "The plan checks out more guests than the limit: if it is right, confirm_check_outs says the exact number.",
    ),
    (
        "purpose_not_allowed",
        403,
        "Mục đích tra cứu này không cho phép loại tra cứu đã nêu.",
        "This purpose does not allow this kind of search.",
    ),
    (
        "record_unreadable",
        500,
        "Bản ghi đã lưu không mở được; hãy báo cho người vận hành kèm mã lượt lưu trú.",
        "The stored record cannot be opened; tell the operator the stay's id.",
    ),
    (
        "audit_unavailable",
        503,
        "Không ghi được nhật ký kiểm toán nên không thể trả lời.",
        "The audit cannot be written, so there is no answer.",
    ),
    (
        "audit_not_witnessed",
        503,
        "Nhân chứng bên ngoài chưa xác nhận nhật ký kiểm toán trong thời hạn nên tạm dừng cung cấp dữ liệu.",
        "The outside witness has not confirmed the audit in time, so no data is given out for now.",
    ),
    (
        "cosignature_refused",
        422,
        "Chữ ký không phải của nhân chứng đã khai báo cho điểm kiểm tra này.",
        "This is no cosignature of that checkpoint by the witness that is believed.",
    ),
    ("internal", 500, "Lỗi của hệ thống; sự cố đã được ghi lại.", "An error of ours; it has been recorded."),
)


class Refused(Exception):
    """A request that is answered with a problem; `code` is its type, `violations` everything that is wrong at once.

    `stay_id` and `receipt` name the stay that is meant, `retry_after_seconds` when to come again. Holds no personal
    data and repeats no value.
    """

    def __init__(
        self,
        code: str,
        *,
        violations: Iterable[Violation] = (),
        stay_id: str | None = None,
        receipt: Mapping[str, Any] | None = None,
        retry_after_seconds: int | None = None,
    ) -> None:
        super().__init__(code)
        self.problem = PROBLEMS[code]
        self.violations = tuple(violations)
        self.stay_id = stay_id
        self.receipt = receipt
        self.retry_after_seconds = retry_after_seconds

    @property
    def code(self) -> str:
        return self.problem.code


def invalid(code: str, pointer: str = "", **limits: object) -> Refused:
    """A declaration refused for one violation that is known after validation."""
    return Refused("declaration_invalid", violations=[violation(code, pointer, None, **limits)])


def violated(found: Violation) -> Violated:
    """A violation as clients see it: both languages."""
    return Violated(code=found.code, pointer=found.pointer, place=found.place, message={"vi": found.vi, "en": found.en})


def problem_document(refusal: Refused, language: Literal["vi", "en"] = "vi") -> Problem:
    """The RFC 9457 document of a refusal; the title is in one language, every violation in both."""
    return Problem(
        type=f"/problems/{refusal.code}",
        title=getattr(refusal.problem.title, language),
        status=refusal.problem.status,
        code=refusal.code,
        errors=[violated(found) for found in refusal.violations] or None,
        stay_id=refusal.stay_id,
        receipt=dict(refusal.receipt) if refusal.receipt is not None else None,
    )


_FROM_PYDANTIC: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "missing": ("required", {}),
    "extra_forbidden": ("unknown_field", {}),
    "json_invalid": ("not_json", {}),
    "timezone_aware": ("no_offset", {}),
    "date_from_datetime_parsing": ("wrong_date", {"expected": "YYYY-MM-DD"}),
    "date_parsing": ("wrong_date", {"expected": "YYYY-MM-DD"}),
    "date_from_datetime_inexact": ("wrong_date", {"expected": "YYYY-MM-DD"}),
    "date_type": ("wrong_type", {"expected": "YYYY-MM-DD"}),
    "datetime_parsing": ("wrong_date", {"expected": "YYYY-MM-DDThh:mm:ss+07:00"}),
    "datetime_from_date_parsing": ("wrong_date", {"expected": "YYYY-MM-DDThh:mm:ss+07:00"}),
    "datetime_type": ("wrong_type", {"expected": "YYYY-MM-DDThh:mm:ss+07:00"}),
    "string_type": ("wrong_type", {"expected": "string"}),
    "int_type": ("wrong_type", {"expected": "integer"}),
    "int_parsing": ("wrong_type", {"expected": "integer"}),
    "int_parsing_size": ("wrong_type", {"expected": "integer"}),
    "bool_type": ("wrong_type", {"expected": "boolean"}),
    "model_type": ("wrong_type", {"expected": "object"}),
    "model_attributes_type": ("wrong_type", {"expected": "object"}),
    "dict_type": ("wrong_type", {"expected": "object"}),
    "list_type": ("wrong_type", {"expected": "array"}),
    "uuid_parsing": ("wrong_format", {"expected": "UUID"}),
    "uuid_type": ("wrong_format", {"expected": "UUID"}),
    "string_unicode": ("not_json", {}),
}
_SIGNS = {"greater_than_equal": "≥", "greater_than": ">", "less_than_equal": "≤", "less_than": "<"}
_TABLE_OF_FIELD = {
    "type": "document_types",
    "reason": "reasons",
    "kind": "residence_kinds",
    "gender": "genders",
    "relationship": "kinship",
}


# A member's name comes from the sender: one with a digit or a capital at its start may be a person's data in the wrong
# place, and then the pointer ends in an empty name.
_PLAIN_NAME = re.compile(r"[a-z][A-Za-z_]{0,39}")


def from_validation(error: ValidationError, places: Mapping[str, str] | None = None) -> list[Violation]:
    """Translate pydantic's errors into our violations: same order, JSON Pointers, never a value.

    `places` maps pointers to the sender's own places (`Act.origin`).
    """
    places = places or {}
    found = []
    for item in error.errors(include_url=False, include_input=False):
        pointer = "".join(f"/{_told(part)}" for part in item["loc"])
        context = item.get("ctx", {})
        code, limits = _code_and_limits(item["type"], pointer, context)
        found.append(violation(code, pointer, _nearest_place(pointer, places), **limits))
    return found


def _told(part: int | str) -> int | str:
    return part if isinstance(part, int) or _PLAIN_NAME.fullmatch(part) else ""


def _code_and_limits(kind: str, pointer: str, context: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    if kind == "violation":
        return context["code"], context["limits"]
    if kind in _FROM_PYDANTIC:
        return _FROM_PYDANTIC[kind]
    if kind in ("string_too_long", "too_long"):  # without "string_" where a validator runs before the length is checked
        return "too_long", {"limit": context["max_length"]}
    if kind in ("string_too_short", "too_short"):
        return ("required", {}) if context["min_length"] == 1 else ("too_short", {"limit": context["min_length"]})
    if kind in ("enum", "literal_error"):
        field = pointer.rsplit("/", 1)[-1] if kind == "enum" or pointer.endswith("/gender") else ""
        return (
            ("unknown_code", {"table": _TABLE_OF_FIELD[field]})
            if field in _TABLE_OF_FIELD
            else ("out_of_range", {"expected": context["expected"]})
        )
    if kind == "string_pattern_mismatch":
        return "wrong_format", {"expected": context["pattern"]}
    if kind in _SIGNS:
        return "out_of_range", {"expected": f"{_SIGNS[kind]} {next(iter(context.values()))}"}
    return "wrong_format", {"expected": kind}


def located(violations: Iterable[Violation], places: Mapping[str, str]) -> tuple[Violation, ...]:
    """The violations, each with the sender's own place of its pointer where it has none yet."""
    return tuple(
        found if found.place is not None else replace(found, place=_nearest_place(found.pointer, places))
        for found in violations
    )


def _nearest_place(pointer: str, places: Mapping[str, str]) -> str | None:
    """The place of the pointer, or of what it is part of: a fault in /guest/document/number may be known as PID-3."""
    while pointer:
        if pointer in places:
            return places[pointer]
        pointer = pointer.rpartition("/")[0]
    return places.get("")
