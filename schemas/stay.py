"""What an owner sends about a stay (lượt lưu trú), and what they get back.

Input models are strict and forbid unknown members, so that a typing mistake is an error and not a silent loss. Every
check that needs only the declaration itself is here; a check that needs the facility or the clock reads them from the
validation context (`DeclarationContext`), so that one validation reports every violation at once.
"""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    RootModel,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import PydanticCustomError

from schemas.codes import NATIONALITIES, PROVINCES, DocumentType, FacilityKind, Kinship, Reason, ResidenceKind
from schemas.families import age_on, minor_rule

SOURCE_REF_LIMIT = 128
NAME_LIMIT = 100
TEXT_LIMIT = 500
ARRIVAL_AHEAD_LIMIT = timedelta(hours=24)
ARRIVAL_BEHIND_LIMIT = timedelta(days=5 * 366)
STAY_LIMIT = timedelta(days=5 * 366)


@dataclass(frozen=True, slots=True)
class DeclarationContext:
    """What a declaration is checked against besides itself: the facility's kind, and when it was received (UTC).

    `arrived_on` is the day of arrival in Viet Nam, for the part about the guest: the age on that day decides whether a
    guardian may stand for a document. Whoever validates a declaration without a document gives it; without it the age
    is not looked at.
    """

    facility_kind: FacilityKind
    received_at: datetime
    arrived_on: date | None = None


def refuse(code: str, **limits: object) -> PydanticCustomError:
    """The exception that carries a code of `schemas.violations` through pydantic."""
    return PydanticCustomError("violation", "{code}", {"code": code, "limits": limits})


def vietnam_day(instant: datetime) -> date:
    """The calendar day in Viet Nam (UTC+7, no summer time) of an aware instant."""
    return (instant.astimezone(UTC) + timedelta(hours=7)).date()


def _tidy(value: object) -> object:
    """NFC, no control characters' neighbours, single spaces: what a person sees is what is kept."""
    return " ".join(unicodedata.normalize("NFC", value).split()) if isinstance(value, str) else value


def _in_words(value: object) -> object:
    """Even strict, pydantic reads "1700000000" as an instant; hence it is told what an instant looks like."""
    if not isinstance(value, str | datetime):
        raise refuse("wrong_type", expected=_INSTANT_FORM)
    if isinstance(value, str) and "T" not in value:
        raise refuse("wrong_date", expected=_INSTANT_FORM)
    return value


def _in_utc(instant: datetime) -> datetime:
    try:
        found = instant.astimezone(UTC)
        _ = found + _CALENDAR_MARGIN, found - _CALENDAR_MARGIN
    except OverflowError:  # near the first or the last instant there is: nobody could tell its local day or deadline
        raise refuse("wrong_date", expected=_INSTANT_FORM) from None
    return found


_CALENDAR_MARGIN = timedelta(days=2)
_INSTANT_FORM = "YYYY-MM-DDThh:mm:ss+07:00"
Tidy = BeforeValidator(_tidy)
# What a validator has looked at counts as Python's own, in which strict would refuse every text.
Instant = Annotated[AwareDatetime, Field(strict=False), BeforeValidator(_in_words), AfterValidator(_in_utc)]
Text = Annotated[str, Tidy, Field(min_length=1, max_length=TEXT_LIMIT)]
Code = Annotated[str, Field(max_length=32)]


class Input(BaseModel):
    """Base of everything that is sent to us: strict types, unknown members refused, immutable, values never in repr."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class Document(Input):
    """Identity document (giấy tờ). `number` has no spaces; its form depends on `type` (codes table document_types)."""

    type: DocumentType = Field(description="Loại giấy tờ: mã trong danh mục document_types")
    number: Annotated[str, Tidy, Field(min_length=1, max_length=32)] = Field(description="Số giấy tờ")
    name: Annotated[str, Tidy, Field(min_length=1, max_length=NAME_LIMIT)] | None = Field(
        default=None, description="Tên giấy tờ, bắt buộc khi type = 9"
    )

    @field_validator("number")
    @classmethod
    def _number_fits_its_type(cls, number: str, info: ValidationInfo) -> str:
        number = number.replace(" ", "").upper()
        kind = info.data.get("type")
        if kind is not None and not _DOCUMENT_FORMS[kind][0].fullmatch(number):
            raise refuse("wrong_document_number", expected=_DOCUMENT_FORMS[kind][1])
        return number

    @model_validator(mode="after")
    def _other_documents_are_named(self) -> Document:
        if self.type is DocumentType.OTHER and self.name is None:
            raise refuse("document_name_required")
        return self


_ALNUM20 = (re.compile(r"[A-Z0-9]{1,20}"), "≤ 20 A-Z 0-9")
_DOCUMENT_FORMS: dict[DocumentType, tuple[re.Pattern[str], str]] = {
    DocumentType.CCCD: (re.compile(r"[0-9]{12}"), "12 × 0-9"),
    DocumentType.CMND: (re.compile(r"[0-9]{9}|[0-9]{12}"), "9 / 12 × 0-9"),
    DocumentType.DRIVING_LICENCE: _ALNUM20,
    DocumentType.PASSPORT: (re.compile(r"[A-Z0-9]{1,10}"), "≤ 10 A-Z 0-9"),
    DocumentType.BIRTH_CERTIFICATE: (re.compile(r"[A-Z0-9/.-]{1,32}"), "≤ 32 A-Z 0-9 / . -"),
    DocumentType.HEALTH_INSURANCE: _ALNUM20,
    DocumentType.PERSONAL_NUMBER_NOTICE: (re.compile(r"[0-9]{12}"), "12 × 0-9"),
    DocumentType.CAN_CUOC: (re.compile(r"[0-9]{12}"), "12 × 0-9"),
    DocumentType.OTHER: (re.compile(r"[A-Z0-9/.-]{1,32}"), "≤ 32 A-Z 0-9 / . -"),
}


class Residence(Input):
    """Where the guest lives (nơi cư trú)."""

    kind: ResidenceKind | None = Field(default=None, description="1 thường trú, 2 tạm trú, 3 khác")
    province: Code | None = Field(default=None, description="Mã tỉnh của Bộ Công an (3 chữ số)")
    ward: Annotated[str, Tidy, Field(min_length=1, max_length=NAME_LIMIT)] | None = None
    address: Text | None = None

    @field_validator("province")
    @classmethod
    def _province_is_known(cls, province: str | None) -> str | None:
        if province is not None and province not in PROVINCES:
            raise refuse("unknown_code", table="provinces")
        return province


_BIRTH_DATE = re.compile(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?")
_PHONE = re.compile(r"^\+?[0-9](?:[ .-]?[0-9]){5,14}$")
_NAME_LETTERS = re.compile(r"[^\W\d_](?:[^\W\d_]|[\u0300-\u036f .,'’`-])*")


def _whole_name(name: str) -> str:
    if not name:
        raise refuse("blank_name")
    if len(name) > NAME_LIMIT:
        raise refuse("too_long", limit=NAME_LIMIT)
    if not _NAME_LETTERS.fullmatch(name):
        raise refuse("wrong_name")
    return name


def _plain_source_ref(source_ref: str | None) -> str | None:
    if source_ref is not None and not _SOURCE_REF.fullmatch(source_ref):
        raise refuse("wrong_source_ref")
    return source_ref


_SOURCE_REF = re.compile(r"^[\x21-\x7e]+$")
FullName = Annotated[str, Tidy, AfterValidator(_whole_name)]
SourceRef = Annotated[str, Field(max_length=SOURCE_REF_LIMIT)]


class Guardian(Input):
    """Who stands for a minor without a document (người giám hộ): by name, kinship, and document or own stay."""

    relationship: Kinship = Field(description="Quan hệ với khách: mã trong danh mục kinship")
    full_name: FullName = Field(description="Họ và tên đầy đủ", json_schema_extra={"maxLength": NAME_LIMIT})
    source_ref: SourceRef | None = Field(
        default=None,
        json_schema_extra={"pattern": _SOURCE_REF.pattern},
        description="Mã tham chiếu lượt lưu trú của người giám hộ tại cơ sở này",
    )
    document: Document | None = Field(
        default=None, validate_default=True, description="Giấy tờ của người giám hộ; bắt buộc nếu không có source_ref"
    )

    @field_validator("source_ref")
    @classmethod
    def _source_ref_is_plain(cls, source_ref: str | None) -> str | None:
        return _plain_source_ref(source_ref)

    @field_validator("document")
    @classmethod
    def _can_be_found(cls, document: Document | None, info: ValidationInfo) -> Document | None:
        if document is None and info.data.get("source_ref", "") is None:
            raise refuse("guardian_reference_required")
        return document


class Party(Input):
    """The group that a guest came with (đoàn), by the sender's own name of it, and the guest's place in it."""

    ref: Annotated[str, Tidy, Field(min_length=1, max_length=NAME_LIMIT)] = Field(
        description="Tên hoặc mã đoàn tại hệ thống nguồn"
    )
    role: Literal["head", "member"] = Field(description="head trưởng đoàn, member thành viên")


class Guest(Input):
    """A guest (khách lưu trú).

    `document` may be absent where the guest is a minor with a `guardian`: below which age, and at which kinds of
    facility, stands in `schemas.families.MINOR_RULES`.
    """

    full_name: FullName = Field(description="Họ và tên đầy đủ", json_schema_extra={"maxLength": NAME_LIMIT})
    birth_date: str = Field(
        description="Ngày sinh: YYYY-MM-DD; YYYY-MM hoặc YYYY khi giấy tờ không ghi đủ (ISO 8601)",
        json_schema_extra={"pattern": r"^\d{4}(-\d{2}(-\d{2})?)?$"},
    )
    gender: Literal["M", "F"] | None = Field(default=None, description="M nam, F nữ")
    nationality: Code = Field(description="Quốc tịch: ISO 3166-1 alpha-3")
    guardian: Guardian | None = Field(
        default=None, description="Người giám hộ, thay cho giấy tờ của trẻ em theo quy tắc của loại cơ sở"
    )
    document: Document | None = Field(
        default=None, validate_default=True, description="Giấy tờ; chỉ trẻ em có người giám hộ (guardian) được để trống"
    )
    phone: Annotated[str, Tidy] | None = Field(default=None, json_schema_extra={"pattern": _PHONE.pattern})
    residence: Residence | None = None
    permitted_stay_until: date | None = Field(
        default=None, description="Thời hạn tạm trú được phép của người nước ngoài"
    )

    @field_validator("birth_date")
    @classmethod
    def _birth_date_exists(cls, text: str, info: ValidationInfo) -> str:
        match = _BIRTH_DATE.fullmatch(text)
        if not match:
            raise refuse("wrong_date", expected="YYYY-MM-DD / YYYY-MM / YYYY")
        try:
            earliest = date(int(match[1]), int(match[2] or 1), int(match[3] or 1))
        except ValueError:
            raise refuse("wrong_date", expected="YYYY-MM-DD / YYYY-MM / YYYY") from None
        received_at = _context(info).received_at if info.context else datetime.now(UTC)
        if not date(1880, 1, 1) <= earliest <= vietnam_day(received_at):
            raise refuse("birth_date_out_of_range")
        return text

    @field_validator("document")
    @classmethod
    def _only_a_minor_lacks_it(cls, document: Document | None, info: ValidationInfo) -> Document | None:
        if document is not None:
            return document
        context = _context(info)
        rule = minor_rule(context.facility_kind, context.arrived_on or vietnam_day(context.received_at))
        if rule is None:
            raise refuse("required")
        if info.data.get("guardian", ...) is None:
            raise refuse("document_or_guardian_required", limit=rule.below_age)
        born = info.data.get("birth_date")
        if born and context.arrived_on and age_on(born, context.arrived_on) >= rule.below_age:
            raise refuse("document_required_from_age", limit=rule.below_age)
        return None

    @field_validator("phone")
    @classmethod
    def _phone_has_digits(cls, phone: str | None) -> str | None:
        if phone is not None and not _PHONE.fullmatch(phone):
            raise refuse("wrong_format", expected="+84…, 6-15 × 0-9")
        return phone

    @field_validator("nationality")
    @classmethod
    def _nationality_is_known(cls, nationality: str) -> str:
        if nationality not in NATIONALITIES:
            raise refuse("unknown_code", table="nationalities")
        return nationality


class Override(Input):
    """An explicit statement that a protection does not apply here, with the reason in the owner's words."""

    code: Literal["already_staying"]
    reason: Text


def _context(info: ValidationInfo) -> DeclarationContext:
    if not isinstance(info.context, DeclarationContext):
        raise TypeError("a declaration is validated with a DeclarationContext")
    return info.context


ROOM_REQUIRED = frozenset(kind for kind in FacilityKind if kind is not FacilityKind.RENTAL_HOUSING)
DEPARTURE_OPTIONAL = frozenset(
    {FacilityKind.RENTAL_HOUSING, FacilityKind.INDUSTRIAL_ZONE_HOUSING, FacilityKind.MEDICAL_FACILITY}
)


def is_source_ref(text: str) -> bool:
    """Whether this can be a `source_ref`."""
    return len(text) <= SOURCE_REF_LIMIT and _SOURCE_REF.fullmatch(text) is not None


class StayDeclaration(Input):
    """One declaration (thông báo lưu trú): the content of Article 30, Law on Residence, as of Law 118/2025/QH15.

    Instants carry their offset. `source_ref` is the client's own name of the stay: sending it again is harmless.
    """

    source_ref: SourceRef | None = Field(
        default=None,
        json_schema_extra={"pattern": _SOURCE_REF.pattern},
        description="Mã tham chiếu của hệ thống nguồn; gửi lại cùng mã không tạo bản trùng",
    )
    facility: Code | None = Field(
        default=None, description="Mã cơ sở lưu trú; bỏ trống khi khoá chỉ dùng cho một cơ sở"
    )
    guest: Guest
    arrived_at: Instant = Field(description="Thời điểm đến, kèm múi giờ")
    planned_departure_at: Instant | None = Field(
        default=None,
        validate_default=True,
        description="Dự kiến đi; tuỳ chọn với nhà cho thuê, nhà ở KCN, cơ sở y tế",
    )
    room: Annotated[str, Tidy, Field(max_length=NAME_LIMIT)] | None = Field(
        default=None, validate_default=True, description="Số phòng / khoa; bắt buộc trừ nhà cho thuê"
    )
    reason: Reason = Field(description="Lý do cư trú: mã trong danh mục reasons")
    reason_text: Text | None = Field(default=None, validate_default=True, description="Bắt buộc khi reason = 20")
    party: Party | None = Field(default=None, description="Đoàn mà khách đi cùng")
    note: Text | None = None
    override: Override | None = None

    @field_validator("source_ref")
    @classmethod
    def _source_ref_is_plain(cls, source_ref: str | None) -> str | None:
        return _plain_source_ref(source_ref)

    @field_validator("arrived_at")
    @classmethod
    def _arrival_is_plausible(cls, arrived_at: datetime, info: ValidationInfo) -> datetime:
        ahead = arrived_at - _context(info).received_at
        if ahead > ARRIVAL_AHEAD_LIMIT:
            raise refuse("arrival_too_far_ahead", limit=int(ARRIVAL_AHEAD_LIMIT.total_seconds() // 3600))
        if -ahead > ARRIVAL_BEHIND_LIMIT:
            raise refuse("arrival_too_long_ago", limit=ARRIVAL_BEHIND_LIMIT.days)
        return arrived_at

    @field_validator("planned_departure_at")
    @classmethod
    def _departure_follows_arrival(cls, planned: datetime | None, info: ValidationInfo) -> datetime | None:
        if planned is None:
            if _context(info).facility_kind not in DEPARTURE_OPTIONAL:
                raise refuse("required")
            return None
        arrived_at = info.data.get("arrived_at")
        if arrived_at is not None and planned < arrived_at:
            raise refuse("departure_before_arrival")
        if arrived_at is not None and planned - arrived_at > STAY_LIMIT:
            raise refuse("stay_too_long", limit=STAY_LIMIT.days)
        return planned

    @field_validator("room")
    @classmethod
    def _room_is_named_where_it_must_be(cls, room: str | None, info: ValidationInfo) -> str | None:
        if not room and _context(info).facility_kind in ROOM_REQUIRED:
            raise refuse("required")
        return room or None

    @field_validator("reason_text")
    @classmethod
    def _other_reason_is_explained(cls, text: str | None, info: ValidationInfo) -> str | None:
        if text is None and info.data.get("reason") is Reason.OTHER:
            raise refuse("required")
        return text


class StayMatch(Input):
    """Names a stay by its guest, among those in house at the facility (khách đang lưu trú): by document, or by the
    sender's own name of the guest (`guest_ref`), which also names a guest who is only expected.

    With `arrived_on`, the local day of arrival, a document names the stay that began on that day, in house or not.
    """

    guest_ref: Annotated[str, Field(min_length=1, max_length=SOURCE_REF_LIMIT)] | None = None
    document: Document | None = Field(default=None, validate_default=True)
    arrived_on: date | None = None

    @field_validator("document")
    @classmethod
    def _guest_is_named_once(cls, document: Document | None, info: ValidationInfo) -> Document | None:
        if document is not None and info.data.get("guest_ref") is not None:
            raise refuse("contradicts", expected="guest_ref")
        if document is None and info.data.get("guest_ref", "") is None:
            raise refuse("required")
        return document

    @field_validator("arrived_on")
    @classmethod
    def _day_is_of_a_document(cls, arrived_on: date | None, info: ValidationInfo) -> date | None:
        if arrived_on is not None and info.data.get("guest_ref") is not None:
            raise refuse("contradicts", expected="guest_ref")
        return arrived_on


class CheckOut(Input):
    """The guest has left (trả phòng)."""

    departed_at: Instant


class UndoCheckOut(Input):
    """The guest had not left after all."""


class Extension(Input):
    """The guest stays longer or leaves earlier than planned (gia hạn)."""

    planned_departure_at: Instant


class Cancellation(Input):
    """The declaration should not stand (huỷ). The stay remains visible with its reason."""

    reason: Literal["entered_by_mistake", "guest_did_not_stay", "duplicate", "other"]
    note: Text | None = None


def _without_required(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_required(value) for key, value in schema.items() if key != "required"}
    return [_without_required(item) for item in schema] if isinstance(schema, list) else schema


class StayCorrection(RootModel[dict[str, Any]]):
    """A correction (đính chính): a JSON Merge Patch (RFC 7396) of the declaration, validated as a whole."""

    model_config = ConfigDict(strict=True)

    def __repr__(self) -> str:
        return "<StayCorrection>"

    __str__ = __repr__

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        del core_schema, handler
        schema: dict[str, Any] = _without_required(StayDeclaration.model_json_schema())
        definitions = schema.pop("$defs", {})
        schema["title"] = "StayCorrection"
        schema["description"] = cls.__doc__
        inlined: dict[str, Any] = _inline(schema, definitions)
        return inlined


class ExpectedStay(RootModel[dict[str, Any]]):
    """A guest who is expected, or here without an identity (khách dự kiến, khách chưa đủ nhân thân): any part of a
    declaration. `present`: in house already, so that the deadline runs."""

    model_config = ConfigDict(strict=True)

    def __repr__(self) -> str:
        return "<ExpectedStay>"

    __str__ = __repr__

    @classmethod
    def __get_pydantic_json_schema__(cls, core_schema: Any, handler: Any) -> dict[str, Any]:
        del core_schema, handler
        schema: dict[str, Any] = _without_required(StayDeclaration.model_json_schema())
        definitions = schema.pop("$defs", {})
        schema["properties"]["present"] = {
            "type": "boolean",
            "default": False,
            "description": "true: khách đã ở cơ sở, hạn khai báo đang tính · in house already, the deadline runs",
        }
        schema |= {"title": "ExpectedStay", "description": cls.__doc__, "required": ["source_ref"]}
        inlined: dict[str, Any] = _inline(schema, definitions)
        return inlined


def _inline(schema: Any, definitions: dict[str, Any]) -> Any:
    """Resolve local references, since a merge patch shares no component with the declaration."""
    if isinstance(schema, dict):
        if "$ref" in schema:
            return _inline(definitions[schema["$ref"].rsplit("/", 1)[1]], definitions)
        return {key: _inline(value, definitions) for key, value in schema.items()}
    return [_inline(item, definitions) for item in schema] if isinstance(schema, list) else schema


# -- answers -----------------------------------------------------------------------------------------------------------


class Output(BaseModel):
    """Base of everything we answer: immutable, values never in repr."""

    model_config = ConfigDict(frozen=True, ser_json_temporal="iso8601")

    def __repr__(self) -> str:
        return f"<{type(self).__name__}>"

    __str__ = __repr__


class Violated(Output):
    """One thing wrong at one place: the code is stable, the message is for people, the value is never repeated."""

    code: str
    pointer: str = Field(description="RFC 6901 JSON Pointer into the declaration; empty for the whole")
    place: str | None = Field(default=None, description="Where it stands in the sender's own document: H7, PID-5")
    message: dict[Literal["vi", "en"], str]


class Problem(Output):
    """RFC 9457 problem details. `errors` holds every violation at once."""

    type: str
    title: str
    status: int
    code: str
    detail: str | None = None
    errors: list[Violated] | None = None
    stay_id: str | None = Field(default=None, description="The stay that is meant, where there is one")
    receipt: dict[str, Any] | None = Field(default=None, description="Its receipt, where the problem is that it exists")
    request_id: str | None = Field(default=None, description="What to quote when asking for help; also X-Request-Id")


class StayState(Output):
    """A stay without personal data: what the `status` scope may see."""

    stay_id: str
    facility: str
    source_ref: str | None = Field(description="The sender's own name of the stay, if it gave one")
    version: int
    status: Literal["declared", "departed", "cancelled"]
    event: str
    received_at: datetime
    declared_at: datetime
    arrived_at: datetime
    planned_departure_at: datetime | None
    departed_at: datetime | None
    deadline_at: datetime
    late_minutes: int
    confirmed_version: int | None = Field(description="Newest version the population database has confirmed")
    check_document: bool = Field(description="true: please check the guest's document again (kiểm tra lại giấy tờ)")
    verification_told: bool = Field(
        description="false: chưa báo kết quả đối chiếu, check_document chưa có nghĩa · the result of the check is not "
        "there yet, or is not told; check_document then says nothing"
    )


class StayView(StayState):
    """A stay with the declared data: what the `read` scope may see. The read is audited."""

    declaration: dict[str, Any]


class StayPage(Output):
    """One page of a list ordered by id; the next page is the `next` link of the Link header (RFC 8288)."""

    stays: list[StayState]
    next: str | None


class RowResult(Output):
    """What became of one row, in input order."""

    row: int
    outcome: Literal["accepted", "duplicate", "expected", "refused"]
    source_ref: str | None = None
    stay_id: str | None = None
    expected_id: str | None = Field(default=None, description="expected: kept, but not filed; waits under this id")
    version: int | None = None
    late_minutes: int | None = None
    receipt: dict[str, Any] | None = None
    problem: Problem | None = None
    warnings: list[Violated] = []
    missing: list[Violated] = Field(default=[], description="expected: what it lacks to be a declaration")


class BatchResult(Output):
    """received = accepted + duplicate + expected + refused, always. What is only expected is not filed."""

    received: int
    accepted: int
    duplicate: int
    expected: int
    refused: int
    results: list[RowResult]
