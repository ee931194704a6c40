"""The code tables: what every coded field may hold, in Vietnamese and English, with one access point, `table(name)`.

Document types, reasons, residence kinds, genders and provinces carry the codes of the Ministry's portal (API v1.4). The
codes of `kinship` are this system's own: the portal knows no guardian.
Nationalities are ISO 3166-1 alpha-3 and, for what ISO has no code for, ICAO Doc 9303 part 3. Communes carry the
statistics office's five-digit codes, **not** the Ministry's nine-digit ones: a guest's `residence.ward` is not checked
against them. The units until 30 June 2025 are tables of their own, because the statistics office gave their codes
again to other units. Sources, licences and dates stand in `data/README.md`.
"""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import date
from enum import IntEnum, StrEnum
from functools import partial
from importlib.resources import files
from types import MappingProxyType
from unicodedata import combining, normalize


class DocumentType(IntEnum):
    """Loại giấy tờ. The three generations of the identity card keep the names everybody calls them by."""

    CCCD = 1
    CMND = 2
    DRIVING_LICENCE = 3
    PASSPORT = 4
    BIRTH_CERTIFICATE = 5
    HEALTH_INSURANCE = 6
    PERSONAL_NUMBER_NOTICE = 7
    CAN_CUOC = 8
    OTHER = 9


class Reason(IntEnum):
    """Lý do lưu trú. `OTHER` needs the reason in words."""

    TOURISM = 1
    WORK_TRIP = 2
    STUDY = 3
    VISIT = 4
    CONFERENCE = 5
    FAMILY_VISIT = 6
    CHARITY = 7
    INTERNATIONAL_ORGANISATION = 8
    MARRIAGE = 9
    CONSULATE = 10
    AID = 11
    EMBASSY = 12
    SETTLEMENT = 13
    MARKETING = 14
    PRESS = 15
    TRADE = 16
    VISA_EXTENSION = 17
    MEDICAL_TREATMENT = 18
    LABOUR = 19
    OTHER = 20


class ResidenceKind(IntEnum):
    """Nơi cư trú: how the guest resides at the address given."""

    PERMANENT = 1
    TEMPORARY = 2
    OTHER = 3


class Gender(StrEnum):
    """Giới tính, as documents state it."""

    MALE = "M"
    FEMALE = "F"


class Kinship(IntEnum):
    """Quan hệ: what the guardian is to the guest."""

    FATHER = 1
    MOTHER = 2
    GRANDPARENT = 3
    SIBLING = 4
    LEGAL_GUARDIAN = 5
    OTHER = 6


class Department(StrEnum):
    """Who reads the extract of a model (Plan 134/KH-UBND)."""

    TOURISM = "tourism"
    ECONOMIC_ZONE = "economic_zone"
    HEALTH = "health"


class FacilityKind(StrEnum):
    """Loại cơ sở lưu trú: the ten kinds of Plan 134/KH-UBND, models 7, 8 and 9."""

    BOARDING_HOUSE = "boarding_house"
    GUESTHOUSE = "guesthouse"
    HOTEL_2_3_STAR = "hotel_2_3_star"
    HOTEL_4_STAR = "hotel_4_star"
    HOTEL_5_STAR = "hotel_5_star"
    STATE_GUEST_HOUSE = "state_guest_house"
    OFFICIAL_RESIDENCE = "official_residence"
    RENTAL_HOUSING = "rental_housing"
    INDUSTRIAL_ZONE_HOUSING = "industrial_zone_housing"
    MEDICAL_FACILITY = "medical_facility"

    @property
    def department(self) -> Department:
        """The department whose extract counts this kind."""
        return _DEPARTMENT_OF_KIND.get(self, Department.TOURISM)

    @property
    def model(self) -> int:
        """The number of the plan's model: 7, 8 or 9."""
        return _MODEL_OF_DEPARTMENT[self.department]


_DEPARTMENT_OF_KIND = {
    FacilityKind.RENTAL_HOUSING: Department.ECONOMIC_ZONE,
    FacilityKind.INDUSTRIAL_ZONE_HOUSING: Department.ECONOMIC_ZONE,
    FacilityKind.MEDICAL_FACILITY: Department.HEALTH,
}
_MODEL_OF_DEPARTMENT = {Department.TOURISM: 7, Department.ECONOMIC_ZONE: 8, Department.HEALTH: 9}


@dataclass(frozen=True, slots=True)
class Code:
    """One row of a table.

    `parent` is the code it belongs to in another table: a commune's province, a facility kind's department, a
    nationality's group. `valid_from` and `valid_to` are the first and the last day of validity; None is unbounded.
    `statistics_code` is the statistics office's code of a unit that has one, also where it is `code` itself.
    `successors` are the codes in force of what a former unit became, as a whole or in parts.
    """

    code: int | str
    vi: str
    en: str
    parent: str | None = None
    active: bool = True
    valid_from: date | None = None
    valid_to: date | None = None
    statistics_code: str | None = None
    successors: tuple[str, ...] = ()

    @property
    def written(self) -> str:
        """The code as the Ministry's forms write it: `109 - Hưng Yên`."""
        return f"{self.code} - {self.vi}"


@dataclass(frozen=True, slots=True)
class Table:
    """A code table. `version` is the date of its source and a digest of its rows: equal versions mean equal rows."""

    name: str
    version: str
    source: str
    rows: tuple[Code, ...]

    @property
    def dated_on(self) -> date:
        """The day of which its source speaks."""
        return date.fromisoformat(self.version.partition(".")[0])

    @property
    def rows_in_force(self) -> int:
        """How many codes may be used today: the others are kept for what was declared with them."""
        return sum(row.active for row in self.rows)


def table(name: str) -> Table:
    """Return the table `name`, one of `TABLES`; raise KeyError for another name."""
    return TABLES[name]


def written_code(name: str, code: int | str) -> str:
    """A code of the table `name` as the Ministry's forms write it. Raises KeyError for a code that is not in it."""
    for row in table(name).rows:
        if row.code == code:
            return row.written
    raise KeyError(code)


def nationality_group(alpha3: str) -> str:
    """Return the group a nationality is counted under in extracts, a code of the table `nationality_groups`."""
    return _GROUP_OF_NATIONALITY.get(alpha3, "other")


def canonical_nationality(code: str) -> str | None:
    """Return the stored code of a nationality as a travel document or the Ministry's portal writes it.

    ICAO Doc 9303 part 3 writes Germany `D` and divides British nationality; both become ISO 3166-1. Padding `<` is
    ignored. None if nobody knows the code.
    """
    plain = code.strip().rstrip("<").upper()
    plain = _OTHER_NATIONALITY_CODES.get(plain, plain)
    return plain if plain in NATIONALITIES else None


_OTHER_NATIONALITY_CODES = {
    "D": "DEU",
    "GBD": "GBR",  # British Overseas Territories citizen
    "GBN": "GBR",  # British National (Overseas)
    "GBO": "GBR",  # British Overseas citizen
    "GBP": "GBR",  # British protected person
    "GBS": "GBR",  # British subject
    "XKX": "RKS",
    "XKK": "RKS",
}


def _table(name: str, dated: str, source: str, rows: Iterable[Code]) -> Table:
    held = tuple(rows)
    digest = hashlib.sha256(repr(held).encode()).hexdigest()
    return Table(name, f"{dated}.{digest[:8]}", source, held)


def _enumerated(members: Iterable[int | str], names: str) -> Iterator[Code]:
    """Pair enum members with lines of `Vietnamese | English`, in order."""
    for member, line in zip(members, names.strip().splitlines(), strict=True):
        vi, en = line.split("|")
        # The plain value, so that a row compares and serialises as what travels, not as the enum.
        code = int(member) if isinstance(member, int) else str(member)
        yield Code(code, vi.strip(), en.strip())


def csv_rows(name: str) -> Iterator[dict[str, str]]:
    """The rows of a file of `schemas/data`, by the names of their columns."""
    yield from csv.DictReader(files("schemas").joinpath("data", name).read_text(encoding="utf-8").splitlines())


def _provinces() -> Iterator[Code]:
    for row in csv_rows("provinces.csv"):
        yield Code(
            row["code"],
            row["vi"],
            row["en"],
            valid_from=date.fromisoformat(row["valid_from"]),
            statistics_code=row["statistics_code"],
        )


def _without_marks(text: str) -> str:
    plain = "".join(character for character in normalize("NFD", text) if not combining(character))
    return plain.replace("đ", "d").replace("Đ", "D")


_COMMUNE_TYPES = {
    "ward": ("Phường ", " Ward"),
    "commune": ("Xã ", " Commune"),
    "special_zone": ("Đặc khu ", " Special Zone"),
}


def _communes() -> Iterator[Code]:
    for row in csv_rows("communes.csv"):
        prefix, suffix = _COMMUNE_TYPES[row["type"]]
        en = _without_marks(row["name"].removeprefix(prefix)) + suffix
        code, since = row["code"], date.fromisoformat(row["valid_from"])
        yield Code(code, row["name"], en, row["province"], valid_from=since, statistics_code=code)


_FORMER_TYPES = {
    "Tỉnh ": " Province",
    "Thành phố ": " City",
    "Quận ": " Urban District",
    "Huyện ": " District",
    "Thị xã ": " Town",
    "Thị trấn ": " Township",
    "Phường ": " Ward",
    "Xã ": " Commune",
}


def _former(file: str, parent: str | None, successors: str) -> Iterator[Code]:
    """Units that are gone; `parent` and `successors` are columns of the file."""
    for row in csv_rows(file):
        prefix = next(each for each in _FORMER_TYPES if row["name"].startswith(each))
        yield Code(
            row["code"],
            row["name"],
            _without_marks(row["name"].removeprefix(prefix)) + _FORMER_TYPES[prefix],
            row[parent] if parent else None,
            active=False,
            valid_to=date.fromisoformat(row["valid_to"]),
            statistics_code=row["code"],
            successors=tuple(row[successors].split()),
        )


def _nationalities() -> Iterator[Code]:
    for row in csv_rows("countries.csv"):
        yield Code(row["code"], row["vi"], row["en"], row["group"])


def _facility_kinds() -> Iterator[Code]:
    for kind, row in zip(FacilityKind, _enumerated(FacilityKind, _FACILITY_KIND_NAMES), strict=True):
        yield replace(row, parent=kind.department.value)


_DOCUMENT_TYPE_NAMES = """
Thẻ CCCD | Citizen identity card (CCCD)
Thẻ CMND | Old identity card (CMND)
Giấy phép lái xe | Driving licence
Hộ chiếu | Passport
Giấy khai sinh | Birth certificate
Thẻ BHYT | Health insurance card
Thông báo số định danh cá nhân | Notice of personal identification number
Thẻ Căn Cước | Identity card (law of 2023, in force 2024)
Giấy tờ khác | Other document
"""

_REASON_NAMES = """
Du lịch | Tourism
Công tác | Work trip
Học tập | Study
Thăm viếng | Visit
Hội nghị | Conference
Thăm thân | Visiting relatives
Từ thiện | Charity
Tổ chức quốc tế | International organisation
Kết hôn | Marriage
Lãnh sự quán | Consulate
Viện trợ | Aid
Đại sứ quán | Embassy
Định cư | Settlement
Tiếp thị | Marketing
Báo chí, phóng viên | Press, reporter
Thương mại | Trade
Gia hạn thị thực | Visa extension
Chữa bệnh | Medical treatment
Lao động | Labour
Mục đích khác | Other purpose
"""

_RESIDENCE_KIND_NAMES = """
Thường trú | Permanent residence
Tạm trú | Temporary residence
Khác | Other
"""

_GENDER_NAMES = """
Nam | Male
Nữ | Female
"""

_KINSHIP_NAMES = """
Cha | Father
Mẹ | Mother
Ông, bà | Grandparent
Anh, chị, em | Brother or sister
Người giám hộ | Legal guardian
Khác | Other
"""

_DEPARTMENT_NAMES = """
Sở Văn hóa, Thể thao và Du lịch | Department of Culture, Sports and Tourism
Ban Quản lý Khu kinh tế và các khu công nghiệp | Management Board of the Economic Zone and Industrial Zones
Sở Y tế | Department of Health
"""

_FACILITY_KIND_NAMES = """
Nhà trọ | Boarding house
Nhà nghỉ | Guesthouse
Khách sạn 2-3 sao | Hotel, 2-3 stars
Khách sạn 4 sao | Hotel, 4 stars
Khách sạn 5 sao | Hotel, 5 stars
Nhà khách | State guest house
Nhà công vụ | Official residence
Nhà cho thuê | Rental housing
Nhà ở trong khu công nghiệp | Housing in an industrial zone
Cơ sở khám bệnh, chữa bệnh | Medical facility
"""

_NATIONALITY_GROUP_NAMES = """
Việt Nam | Viet Nam
Đông Á | Eastern Asia
Đông Nam Á (ngoài Việt Nam) | South-eastern Asia (other than Viet Nam)
Châu Âu | Europe
Châu Mỹ | Americas
Khác | Other
"""

NATIONALITY_GROUPS = ("vietnam", "east_asia", "southeast_asia", "europe", "americas", "other")


class _Tables(Mapping[str, Table]):
    """The tables by name, each made when it is first asked for: the former units take longer than a small command."""

    def __init__(self, sources: Mapping[str, tuple[str, str, Callable[[], Iterable[Code]]]]) -> None:
        self._sources = sources
        self._made: dict[str, Table] = {}

    def __getitem__(self, name: str) -> Table:
        if name not in self._made:
            dated, source, rows = self._sources[name]
            self._made[name] = _table(name, dated, source, rows())
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sources)

    def __len__(self) -> int:
        return len(self._sources)


_PORTAL = "portal of the Ministry of Public Security (KBTT), REST API v1.4"
_PLAN = "Plan 134/KH-UBND of Thái Bình (October 2023); departments as named since 1 July 2025"
_UNITS = "vietnamadminunits 1.0.4, by the statistics office's codes"
_COUNTRIES = "ISO 3166-1 by CLDR 47, and ICAO Doc 9303 part 3"
_OURS = "groups of the extracts, our own"
_RELATIVES = "relatives and guardians of minors, our own"

TABLES: Mapping[str, Table] = _Tables(
    {
        "document_types": ("2026-08-01", _PORTAL, partial(_enumerated, DocumentType, _DOCUMENT_TYPE_NAMES)),
        "reasons": ("2026-08-01", _PORTAL, partial(_enumerated, Reason, _REASON_NAMES)),
        "residence_kinds": ("2026-08-01", _PORTAL, partial(_enumerated, ResidenceKind, _RESIDENCE_KIND_NAMES)),
        "genders": ("2026-08-01", _PORTAL, partial(_enumerated, Gender, _GENDER_NAMES)),
        "kinship": ("2026-11-28", _RELATIVES, partial(_enumerated, Kinship, _KINSHIP_NAMES)),
        "departments": ("2025-07-01", _PLAN, partial(_enumerated, Department, _DEPARTMENT_NAMES)),
        "facility_kinds": ("2023-10-01", _PLAN, _facility_kinds),
        "provinces": ("2025-07-01", _PORTAL, _provinces),
        "communes": ("2025-07-01", _UNITS, _communes),
        "former_provinces": ("2025-06-30", _UNITS, partial(_former, "former_provinces.csv", None, "successor")),
        "former_districts": ("2025-06-30", _UNITS, partial(_former, "former_districts.csv", "province", "successor")),
        "former_communes": ("2025-06-30", _UNITS, partial(_former, "former_communes.csv", "district", "successors")),
        "nationalities": ("2025-04-01", _COUNTRIES, _nationalities),
        "nationality_groups": ("2025-04-01", _OURS, partial(_enumerated, NATIONALITY_GROUPS, _NATIONALITY_GROUP_NAMES)),
    }
)


def _by_code(name: str) -> Mapping[str, Code]:
    return MappingProxyType({str(row.code): row for row in TABLES[name].rows})


PROVINCES = _by_code("provinces")
COMMUNES = _by_code("communes")
NATIONALITIES = _by_code("nationalities")
_GROUP_OF_NATIONALITY = {code: row.parent or "other" for code, row in NATIONALITIES.items()}
