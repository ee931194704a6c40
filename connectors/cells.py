"""What tabular documents and messages have in common: texts, codes, dates and document numbers, one cell at a time.

A reader takes a cell and returns what stands in it: None for an empty cell, `CellError` for one that cannot be taken.
`Row` runs readers, and keeps what they gave, where it stood and everything that was wrong, so that a user is told all
of it at once. Times without an offset mean Asia/Ho_Chi_Minh, +07:00 all year.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta, timezone
from functools import cache
from typing import Any, TypeAlias, TypedDict, Unpack

from schemas.act import Act, ActKind, Unreadable
from schemas.codes import DocumentType, Kinship, canonical_nationality, table
from schemas.folding import fold_tokens
from schemas.violations import Violation, violation

Cell: TypeAlias = str | int | float | bool | date | time | timedelta | None
"""A cell as the XLSX reader gives it; `datetime` is a `date`. Other formats have only text."""

VIETNAM = timezone(timedelta(hours=7))
DATE_FORM = "dd/MM/yyyy"
INSTANT_FORM = "dd/MM/yyyy HH:mm"
NOON = time(12)
LAST_MINUTE = time(23, 59)

WITH_PERSONAL_NUMBER = frozenset({DocumentType.CCCD, DocumentType.PERSONAL_NUMBER_NOTICE, DocumentType.CAN_CUOC})
"""Documents whose number is the personal number (số định danh cá nhân) of 12 digits."""


class CellError(Exception):
    """A cell that cannot be taken: a code of `schemas.violations` and its limits, never the value."""

    def __init__(self, code: str, **limits: object) -> None:
        super().__init__(code)
        self.code = code
        self.limits = limits


@dataclass(slots=True, repr=False)
class Row:
    """One row or message while it is read: the fields so far, their places, and everything that was wrong."""

    number: int
    fields: dict[str, Any] = field(default_factory=dict)
    origin: dict[str, str] = field(default_factory=dict)
    violations: list[Violation] = field(default_factory=list)
    warnings: list[Violation] = field(default_factory=list)

    def read(
        self,
        pointer: str,
        place: str,
        cell: Cell,
        reader: Callable[[Cell], Any],
        *,
        default: Any = None,
        required: bool = False,
    ) -> Any:
        """Put what `reader` makes of `cell`, or `default` if there is nothing, at `pointer`, and return it.

        Returns None if there is nothing or it is wrong, which is then among the violations.
        """
        self.origin[pointer] = place
        refused = len(self.violations)
        value = self.look(pointer, place, cell, reader)
        if len(self.violations) > refused:
            return None
        if value is None:
            value = default
        if value is not None:
            self.put(pointer, value)
        elif required:
            self.refuse("required", pointer, place)
        return value

    def look(self, pointer: str, place: str, cell: Cell, reader: Callable[[Cell], Any]) -> Any:
        """What `reader` makes of `cell`, put nowhere; None if there is nothing or it is wrong."""
        try:
            return None if cell is None or cell == "" else reader(cell)
        except CellError as error:
            self.refuse(error.code, pointer, place, **error.limits)
            return None

    def put(self, pointer: str, value: Any) -> None:
        """Set the member at `pointer`, making the objects on the way."""
        *parents, member = pointer.removeprefix("/").split("/")
        target = self.fields
        for parent in parents:
            target = target.setdefault(parent, {})
        target[member] = value

    def refuse(self, code: str, pointer: str, place: str, **limits: object) -> None:
        self.violations.append(violation(code, pointer, place, **limits))

    def warn(self, code: str, pointer: str, place: str, **limits: object) -> None:
        self.warnings.append(violation(code, pointer, place, **limits))

    def result(self, kind: ActKind, source_ref: str | None = None) -> Act | Unreadable:
        """The act, with what was wrong: intake adds what it finds itself, so that a row is told everything at once."""
        return Act(
            kind,
            self.fields,
            self.number,
            source_ref,
            self.origin,
            tuple(self.warnings),
            violations=tuple(self.violations),
        )


# -- texts and codes ---------------------------------------------------------------------------------------------------

NO_REASON = "Mẫu khai báo người nước ngoài không nêu lý do"
"""The reason in words (with code 20) of a foreigner's stay, whose forms have no reason: true, and not a guess. Both
forms say it alike, so that a guest who is declared by both is the same guest and not other content."""

_EXAMPLE = re.compile(r"\[\s*(?:EXAMPLE|VÍ DỤ)\s*\]", re.IGNORECASE)
_SPREADSHEET_ERROR = re.compile(r"#(?:N/A|DIV/0!|REF!|VALUE!|NAME\?|NUM!|NULL!|SPILL!|CALC!|FIELD!|GETTING_DATA)")
_CODE = re.compile(r"([0-9A-Za-z]{1,9})\s*(?:[-–—].*)?", re.DOTALL)
_LARGEST_EXACT_NUMBER = 10**15  # a spreadsheet keeps 15 digits of a number


def text(cell: Cell) -> str | None:
    """The cell as text: NFC, single spaces. A whole number is its digits; a date or a truth value is not a text."""
    if isinstance(cell, str):
        tidy = " ".join(unicodedata.normalize("NFC", cell).split())
        if tidy.startswith("#") and _SPREADSHEET_ERROR.fullmatch(tidy):
            raise CellError("cell_error")
        return tidy or None
    if cell is None:
        return None
    digits = whole_number(cell)
    if digits is None:
        raise CellError("wrong_type", expected="văn bản / text")
    return str(digits)


def is_example(cell: Cell) -> bool:
    """Whether a cell bears the mark of a form's example row, `[VÍ DỤ]` or `[EXAMPLE]`."""
    return isinstance(cell, str) and bool(_EXAMPLE.search(unicodedata.normalize("NFC", cell)))


def whole_number(cell: Cell) -> int | None:
    """The number in a number cell; None for anything else and for numbers a spreadsheet cannot hold exactly."""
    if isinstance(cell, bool) or not isinstance(cell, int | float):
        return None
    if not -_LARGEST_EXACT_NUMBER < cell < _LARGEST_EXACT_NUMBER or cell != int(cell):
        return None
    return int(cell)


def code(cell: Cell, *, name: str) -> str | None:
    """The code in front of the dash: `109 - Hưng Yên`, `109` and the number 109 are all "109".

    Raises CellError `unknown_code` of the table `name` for anything else, a name without its code for one.
    """
    written = text(cell)
    if written is None:
        return None
    match = _CODE.fullmatch(written)
    if not match:
        raise CellError("unknown_code", table=name)
    return match[1]


def number_code(cell: Cell, *, name: str) -> int | None:
    """The integer code of a row of the table `name`."""
    written = code(cell, name=name)
    if written is None:
        return None
    if not written.isascii() or not written.isdigit() or int(written) not in _codes(name):
        raise CellError("unknown_code", table=name)
    return int(written)


def named_code(cell: Cell, *, name: str) -> int | None:
    """Like `number_code`, but the Vietnamese or the English name alone will do, with or without marks."""
    written = text(cell)
    if written is None:
        return None
    by_name = _codes_by_name(name).get(" ".join(fold_tokens(written)))
    return number_code(cell, name=name) if by_name is None else by_name


@cache
def _codes(name: str) -> frozenset[int | str]:
    return frozenset(row.code for row in table(name).rows)


_OTHER_NAMES: dict[str, dict[Any, str]] = {
    "document_types": {
        DocumentType.CCCD: "CCCD | Căn cước công dân | Thẻ căn cước công dân",
        DocumentType.CMND: "CMND | CMT | Chứng minh nhân dân | Chứng minh thư",
        DocumentType.DRIVING_LICENCE: "GPLX | Bằng lái xe",
        DocumentType.PASSPORT: "HC",
        DocumentType.HEALTH_INSURANCE: "BHYT | Bảo hiểm y tế | Thẻ bảo hiểm y tế",
        DocumentType.PERSONAL_NUMBER_NOTICE: "Số định danh cá nhân",
        DocumentType.CAN_CUOC: "Căn cước | CC",
    },
    "kinship": {
        Kinship.FATHER: "Bố",  # without marks "ba" may be a grandmother, so it is asked back
        Kinship.MOTHER: "Má",
        Kinship.GRANDPARENT: "Ông | Ông nội | Bà nội | Ông ngoại | Bà ngoại | Grandmother | Grandfather",
        Kinship.SIBLING: "Anh | Chị | Em | Anh trai | Chị gái | Em trai | Em gái | Brother | Sister",
        Kinship.LEGAL_GUARDIAN: "Giám hộ | Guardian",
        Kinship.OTHER: "Cô | Dì | Chú | Bác | Cậu | Mợ | Thím | Họ hàng | Aunt | Uncle | Relative",
    },
}


@cache
def _codes_by_name(name: str) -> dict[str, int]:
    named = {each: int(row.code) for row in table(name).rows for each in (row.vi, row.en)}
    for value, names in _OTHER_NAMES.get(name, {}).items():
        named |= {each: int(value) for each in names.split("|")}
    return {" ".join(fold_tokens(each)): value for each, value in named.items()}


_GENDERS = {"M": "M", "F": "F", "NAM": "M", "NU": "F", "MALE": "M", "FEMALE": "F"}


def gender(cell: Cell) -> str | None:
    """M or F from `M - Nam`, `F`, `Nữ`, `Male`: two values, so a name alone leaves no doubt."""
    written = text(cell)
    if written is None:
        return None
    meant = {_GENDERS.get(word) for word in fold_tokens(written)}
    if len(meant) != 1 or None in meant:
        raise CellError("unknown_code", table="genders")
    return meant.pop()


def nationality(cell: Cell) -> str | None:
    """ISO 3166-1 alpha-3 from `VNM - Việt Nam`, `VNM`, and the codes of travel documents (`D`)."""
    written = code(cell, name="nationalities")
    if written is None:
        return None
    known = canonical_nationality(written)
    if known is None:
        raise CellError("unknown_code", table="nationalities")
    return known


def named_nationality(cell: Cell) -> str | None:
    """Like `nationality`, but the Vietnamese or the English name alone will do."""
    written = text(cell)
    if written is None:
        return None
    return _nationalities_by_name().get(" ".join(fold_tokens(written))) or nationality(cell)


@cache
def _nationalities_by_name() -> dict[str, str]:
    rows = table("nationalities").rows
    return {" ".join(fold_tokens(each)): str(row.code) for row in rows for each in (row.vi, row.en)}


_WARD_CODE = re.compile(r"(\d{9})\s*(?:[-–—].*)?", re.DOTALL)


def ward(cell: Cell) -> str | None:
    """The Ministry's nine digits from `109900001 - Phường …`; a name without a code stays as it is written."""
    written = text(cell)
    match = _WARD_CODE.fullmatch(written) if written else None
    return match[1] if match else written


def phone(cell: Cell) -> str | None:
    """A telephone number. In a number cell the trunk prefix 0 is lost: nine digits get it back."""
    digits = whole_number(cell)
    return f"0{digits}" if digits is not None and 10**8 <= digits < 10**9 else text(cell)


def document_number(cell: Cell) -> str | None:
    """The number of a document, in capitals and without the spaces that people group digits by."""
    written = text(cell)
    return written.replace(" ", "").upper() if written else None


def lost_zeros_restored(cell: Cell, document_type: int | None) -> str | None:
    """The personal number that a **number** cell of 9-11 digits must have been; None if nothing was lost.

    A number cell cannot hold leading zeros, so they are missing for certain. Digits typed as text are left alone: there
    a digit may be missing anywhere.
    """
    digits = whole_number(cell)
    if digits is None or document_type not in WITH_PERSONAL_NUMBER or not 10**8 <= digits < 10**11:
        return None
    return f"{digits:012d}"


# -- dates -------------------------------------------------------------------------------------------------------------

_DATE = r"(?:(?P<day>\d{1,2})[/.-](?P<month>\d{1,2})[/.-](?P<year>\d{4})|(?P<iso>\d{4}-\d{2}-\d{2}))"
_CLOCK = r"(?:[ T](?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2}))?)?"
_MOMENT = re.compile(_DATE + _CLOCK, re.ASCII)
_MONTH_OR_YEAR = re.compile(r"(?:0?0[/.-](?=\d+[/.-]))?(?:(?P<month>\d{1,2})[/.-])?(?P<year>\d{4})", re.ASCII)
_YEARS = range(1880, 2200)


class Dates(TypedDict, total=False):
    """How the dates of a document are written, as far as the document shows it; the arguments of `moment`."""

    month_first: bool
    believe_real: bool


def moment(
    cell: Cell, *, expected: str = INSTANT_FORM, month_first: bool = False, believe_real: bool = False
) -> tuple[date, time | None] | None:
    """The day, and the time of day if one is written.

    A text is dd/MM/yyyy by definition of the forms, or yyyy-MM-dd. A real date cell in a column that the forms define
    as text is refused as `ambiguous_date` when day and month could be swapped (day ≤ 12, not equal to the month): a
    spreadsheet set to English took the typed 05/06 for the 6th of May. With a day over 12 both readings agree.
    `believe_real` says that the document shows its real dates to be right. A text is refused likewise if `month_first`
    says that its document was seen to write the month first.
    """
    if isinstance(cell, date):
        clock = cell.time().replace(microsecond=0) if isinstance(cell, datetime) else None
        day = _plausible(date(cell.year, cell.month, cell.day), expected)
        return day if believe_real else _unambiguous(day), clock
    if not isinstance(cell, str | None):
        raise CellError("wrong_date", expected=expected)
    written = text(cell)
    if written is None:
        return None
    match = _MOMENT.fullmatch(written)
    if not match:
        raise CellError("wrong_date", expected=expected)
    day, clock = _parts(match, expected)
    return _unambiguous(day) if month_first and not match["iso"] else day, clock


def _parts(match: re.Match[str], expected: str) -> tuple[date, time | None]:
    try:
        if match["iso"]:
            day = date.fromisoformat(match["iso"])
        else:
            day = date(int(match["year"]), int(match["month"]), int(match["day"]))
        clock = time(int(match["hour"]), int(match["minute"]), int(match["second"] or 0)) if match["hour"] else None
    except ValueError:
        raise CellError("wrong_date", expected=expected) from None
    return _plausible(day, expected), clock


def _plausible(day: date, expected: str) -> date:
    if day.year not in _YEARS:
        raise CellError("wrong_date", expected=expected)
    return day


def _unambiguous(day: date) -> date:
    if day.day <= 12 and day.day != day.month:
        raise CellError("ambiguous_date")
    return day


def writes_month_first(cell: str) -> bool:
    """Whether a text can only be MM/dd/yyyy: proof that its document swaps day and month."""
    match = _MOMENT.fullmatch(cell.strip())
    return bool(match and match["month"] and int(match["month"]) > 12 and 1 <= int(match["day"]) <= 12)


def birth_date(cell: Cell, **dates: Unpack[Dates]) -> str | None:
    """ISO 8601 with the precision that is written: dd/MM/yyyy, MM/yyyy or yyyy, also as a number.

    Old documents write 00/00/yyyy for a year and 00/MM/yyyy for a month.
    """
    year = whole_number(cell)
    written = str(year) if year is not None else text(cell) if isinstance(cell, str) else None
    match = _MONTH_OR_YEAR.fullmatch(written) if written else None
    if not match:
        return day_alone(cell, **dates)
    month = int(match["month"] or 0)
    if int(match["year"]) not in _YEARS or month > 12:
        raise CellError("wrong_date", expected=DATE_FORM)
    return f"{match['year']}-{month:02d}" if month else match["year"]


def day_alone(cell: Cell, **dates: Unpack[Dates]) -> str | None:
    """A whole day in ISO 8601, from dd/MM/yyyy; a time beside it says nothing."""
    read = moment(cell, expected=DATE_FORM, **dates)
    return read[0].isoformat() if read else None


_TIME_OF_DAY = re.compile(
    r"(?P<hour>\d{1,2})\s*(?:[:hg]|giờ)\s*(?P<minute>\d{2})?(?::\d{2})?", re.ASCII | re.IGNORECASE
)


def time_of_day(cell: Cell) -> time | None:
    """A time in a column of its own: 14:05, 14h05, 14h, or a real time."""
    if isinstance(cell, time):
        return cell.replace(microsecond=0)
    written = text(cell) if isinstance(cell, str) else None
    match = _TIME_OF_DAY.fullmatch(written) if written else None
    if not match or not (match["minute"] or ":" not in match[0]):
        raise CellError("wrong_format", expected="HH:mm")
    try:
        return time(int(match["hour"]), int(match["minute"] or 0))
    except ValueError:
        raise CellError("wrong_format", expected="HH:mm") from None


def arrival(cell: Cell, *, at: time | None = None, **dates: Unpack[Dates]) -> str | None:
    """The instant of arrival. A day without a time begins at 00:00, so that its deadline is 23:00 of that day.

    `at` is the time of day from a column of its own.
    """
    read = moment(cell, **dates)
    return instant(read[0], _agreed(read[1], at) or time(0)) if read else None


def departure(cell: Cell, arrived_at: str | None, *, at: time | None = None, **dates: Unpack[Dates]) -> str | None:
    """The instant of departure. A day without a time means 12:00; 23:59 if the guest came later on that very day."""
    read = moment(cell, **dates)
    if read is None:
        return None
    day, clock = read[0], _agreed(read[1], at)
    if clock is None:
        noon = instant(day, NOON)
        came_later = arrived_at is not None and arrived_at[:10] == noon[:10] and arrived_at > noon
        clock = LAST_MINUTE if came_later else NOON
    return instant(day, clock)


def _agreed(written: time | None, at: time | None) -> time | None:
    """The one time of day that a date and the column beside it give; midnight is what a real date holds by itself."""
    if at is not None and written not in (None, time(0), at):
        raise CellError("contradicts", expected="giờ / time")
    return at or written


def instant(day: date, clock: time) -> str:
    """RFC 3339 with the offset of Viet Nam."""
    return datetime.combine(day, clock, VIETNAM).isoformat()


def room_of(*parts: str | None) -> str | None:
    """One name for where a guest sleeps, from the largest part to the smallest: A, 203, 2 → "A-203-2"."""
    return "-".join(part for part in parts if part) or None
