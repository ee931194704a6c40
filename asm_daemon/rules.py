"""The law as pure functions: deadlines, lateness, what may be corrected, what deserves a warning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from typing import Any

from schemas.codes import DocumentType, FacilityKind
from schemas.folding import fold_document, fold_name
from schemas.personal_number import disagreements
from schemas.stay import Document, StayDeclaration
from schemas.violations import Violation, violation

# Viet Nam has had one offset and no summer time since 1975; a fixed offset keeps the rules free of the tz database.
HANOI = timezone(timedelta(hours=7), "Asia/Ho_Chi_Minh")
EVENING_LIMIT = time(23, 0)
MORNING_LIMIT = time(8, 0)

PERSONAL_NUMBER_DOCUMENTS = frozenset({DocumentType.CCCD, DocumentType.PERSONAL_NUMBER_NOTICE, DocumentType.CAN_CUOC})


def deadline(arrived_at: datetime) -> datetime:
    """When the declaration of an arrival is due, in UTC.

    Article 30, Law on Residence 68/2020/QH14 as replaced by Law 118/2025/QH15: before 23:00 of the day the stay begins;
    for an arrival after 23:00, before 08:00 of the next day. The words leave 23:00:00 itself open; it counts as after.
    """
    local = arrived_at.astimezone(HANOI)
    if local.time() < EVENING_LIMIT:
        due = datetime.combine(local.date(), EVENING_LIMIT, HANOI)
    else:
        due = datetime.combine(local.date() + timedelta(days=1), MORNING_LIMIT, HANOI)
    return due.astimezone(UTC)


def late_minutes(received_at: datetime, deadline_at: datetime) -> int:
    """Minutes by which a declaration is late, begun minutes counted whole; 0 = on time ("before" the deadline)."""
    if received_at < deadline_at:
        return 0
    return int((received_at - deadline_at).total_seconds() // 60) + 1


def local_day(instant: datetime) -> date:
    """The calendar day in Viet Nam."""
    return instant.astimezone(HANOI).date()


def day_bounds(day: date) -> tuple[datetime, datetime]:
    """First instant of a Vietnamese calendar day and of the next, in UTC."""
    start = datetime.combine(day, time(), HANOI)
    return start.astimezone(UTC), (start + timedelta(days=1)).astimezone(UTC)


def is_foreigner(nationality: str) -> bool:
    """Whether the separate duty for foreigners applies (form NA17)."""
    return nationality != "VNM"


TEMPORARY_RESIDENCE_DAYS = 30
"""From how many days at one place on a citizen registers temporary residence (Article 27, Law on Residence)."""


def thirtieth_day(arrived_at: datetime) -> date:
    """The day on which a stay is one of 30 days; the day of arrival is the first."""
    return local_day(arrived_at) + timedelta(days=TEMPORARY_RESIDENCE_DAYS - 1)


@dataclass(frozen=True, slots=True)
class ResidenceRule:
    """What follows from a long stay at facilities of these kinds, from `valid_from` on.

    `is_reminded`: whether the facility is reminded of guests who stay 30 days. `notice_after`: whether a guest who has
    registered temporary residence there is still to be declared under Article 30.
    """

    kinds: frozenset[FacilityKind]
    valid_from: date
    is_reminded: bool
    notice_after: bool
    source: str


_HOUSING = frozenset(
    {FacilityKind.RENTAL_HOUSING, FacilityKind.INDUSTRIAL_ZONE_HOUSING, FacilityKind.OFFICIAL_RESIDENCE}
)
_MEDICAL = frozenset({FacilityKind.MEDICAL_FACILITY})
# A later row of a kind replaces an earlier one from its day on. Where the words of the law leave it open, the notice
# stays due: a notice too many costs nothing, one too few is fined.
RESIDENCE_RULES = (
    ResidenceRule(_HOUSING, date(2021, 7, 1), True, False,
                  "Luật Cư trú 68/2020/QH14, Điều 2: lưu trú là ở nơi không phải nơi thường trú, nơi tạm trú; Điều 27"),
    ResidenceRule(_MEDICAL, date(2021, 7, 1), False, True,
                  "Luật Cư trú 68/2020/QH14, Điều 30: nằm viện không là nơi ở để đăng ký tạm trú (chưa có hướng dẫn)"),
    ResidenceRule(frozenset(FacilityKind) - _HOUSING - _MEDICAL, date(2021, 7, 1), True, True,
                  "Luật Cư trú 68/2020/QH14, Điều 27, Điều 30: chưa có hướng dẫn cho cơ sở lưu trú du lịch"),
)  # fmt: skip


def residence_rule(kind: FacilityKind, day: date) -> ResidenceRule:
    """The rule in force for a kind of facility on a day."""
    found = [rule for rule in RESIDENCE_RULES if kind in rule.kinds and rule.valid_from <= day]
    return max(found, key=lambda rule: rule.valid_from)


def guest_value(guest: Mapping[str, Any]) -> str:
    """What tells one guest from another in a house, of the `guest` of declared data: what presence tags, document
    indexes and derived names are made over.

    It is the folded document number; for a minor without a document name, birth date and guardian's name. The latter
    begins with a bar, which no folded number holds, so that no question for a document ever finds it.
    """
    document = guest.get("document")
    if document is not None:
        return fold_document(document["number"])
    guardian = (guest.get("guardian") or {}).get("full_name", "")
    return f"|{fold_name(guest['full_name'])}|{guest['birth_date']}|{fold_name(guardian)}"


def derived_ref(facility_id: int, value: str, arrived_on: date) -> str:
    """The name of a stay whose sender gave none: facility, guest (`guest_value`) and local day of arrival."""
    return f"\x00{facility_id}\x00{value}\x00{arrived_on.isoformat()}"


def overlaps(
    arrived_at: datetime, leaves_at: datetime | None, other_arrived_at: datetime, other_leaves_at: datetime | None
) -> bool:
    """Whether two stays share time. An open departure lasts for ever; leaving as the other begins is no overlap."""
    if arrived_at == other_arrived_at:
        return True  # even where one of them is planned to end at once
    return (other_leaves_at is None or arrived_at < other_leaves_at) and (
        leaves_at is None or other_arrived_at < leaves_at
    )


def is_same_document(one: Document, other: Document) -> bool:
    """Whether two statements name one document: the same number, and types that may bear it.

    The cards of three generations and the notice bear one personal number, and desks take them for each other.
    """
    alike = one.type == other.type or {one.type, other.type} <= PERSONAL_NUMBER_DOCUMENTS | {DocumentType.CMND}
    return alike and fold_document(one.number) == fold_document(other.number)


def is_another_person(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """Whether a correction replaces the document and the name and the birth date: that is no correction.

    Both are the `guest` of declared data; what is stored is not held against today's code tables again. Where one of
    them has no document, name and birth date have to tell: a minor's document may be added later.
    """
    numbers = [
        fold_document(guest["document"]["number"]) if guest.get("document") else None for guest in (before, after)
    ]
    return (
        (numbers[0] is None or numbers[0] != numbers[1])
        and fold_name(before["full_name"]) != fold_name(after["full_name"])
        and before["birth_date"] != after["birth_date"]
    )


def warnings_for(declaration: StayDeclaration) -> Iterator[Violation]:
    """What deserves a second look but is never a reason to refuse."""
    guest = declaration.guest
    if guest.document is None:
        yield violation("document_missing_minor", "/guest/document")
    elif guest.document.type in PERSONAL_NUMBER_DOCUMENTS:
        number, pointer = guest.document.number, "/guest/document/number"
        yield from disagreements(number, guest.gender, guest.birth_date, pointer)
    if is_foreigner(guest.nationality):
        yield violation("foreigner_duty", "/guest/nationality")
