"""Provinces and communes by the names people write, those of the 63 provinces and their districts included.

On 1 July 2025 the 63 provinces became 34, the districts went, and 10,035 communes became 3,321 (`data/README.md`). A
former name is replaced by the table of what became what, or it stays as it is written: a unit that was divided, and a
name that several units bore, are for people to decide. Marks and the kind of unit ("Phường", "P.") may be left out
where the name then still means one unit.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Literal, NamedTuple

from schemas.codes import COMMUNES, PROVINCES, csv_rows
from schemas.folding import fold_text

Note = Literal["former_unit", "former_unit_divided", "ward_of_another_province"]


@dataclass(frozen=True, slots=True)
class NamedProvince:
    """A province in force by the Ministry's code, and the former provinces (statistics codes) that the name may mean.

    `is_former` says that the name is one of the past only: an address with it is an address of the past.
    """

    code: str
    former: frozenset[str]
    is_former: bool


@dataclass(frozen=True, slots=True)
class NamedCommune:
    """The commune as it should be declared, and what there is to say about it: a code of `schemas.violations`."""

    name: str
    note: Note | None = None


@lru_cache(maxsize=1_000)
def province_named(written: str) -> NamedProvince | None:
    """The province that a name means: `Hưng Yên`, `tỉnh Thái Bình`, `TP. HCM`; None if nobody knows it."""
    bare = _name(written, _PROVINCE_KINDS).bare
    known = _OTHER_PROVINCE_NAMES.get(" ".join(_plain(bare)), " ".join(bare))
    if present := _provinces().meant(known):
        return province_coded(min(present))
    if former := _former_provinces().meant(known):
        return NamedProvince(_successor_of_province()[min(former)], former, is_former=True)
    return None


def province_coded(code: str) -> NamedProvince:
    """The province in force with this code of the Ministry."""
    former = frozenset(old for old, new in _successor_of_province().items() if new == code)
    return NamedProvince(code, former, is_former=False)


@lru_cache(maxsize=10_000)
def commune_named(written: str | None, district: str | None, province: NamedProvince) -> NamedCommune | None:
    """The commune that a name means within a province; a name that is not known stays as it is written.

    A name in force counts as it stands, unless a district or a province of the past says that it is an old one. A
    former name with one successor becomes that one's name, with the note `former_unit`; with several it stays as it is
    written, the district after it, with the note `former_unit_divided`. So does a name that only communes of other
    provinces have, with the note `ward_of_another_province`. None if neither is given.
    """
    as_written = ", ".join(filter(None, (written, district)))
    if not as_written:
        return None
    if written and not district:
        written, district, *_ = [part.strip() for part in written.split(",")] + [""]
    present = _communes(province.code).meant(written) if written else frozenset()
    if present and not district and not province.is_former:
        return NamedCommune(as_written)
    codes = frozenset[str]().union(*(_successors(former, written, district) for former in province.former))
    if not district:
        codes |= present
    if not codes and written and not district and _is_of_another_province(written, province.code):
        return NamedCommune(as_written, "ward_of_another_province")
    if len(codes) != 1:
        return NamedCommune(as_written, "former_unit_divided" if codes else None)
    name = COMMUNES[min(codes)].vi
    same = _marked(_name(as_written, _COMMUNE_KINDS)[1]) == _marked(_name(name, _COMMUNE_KINDS)[1])
    return NamedCommune(as_written) if same else NamedCommune(name, "former_unit")


def _is_of_another_province(written: str, province: str) -> bool:
    """Whether a name, written with its marks and the kind of its unit, is that of communes in force elsewhere alone."""
    kind, _ = _name(written, _COMMUNE_KINDS)
    return (
        bool(kind)
        and not written.isascii()
        and any(_communes(other).has_marked(written) for other in PROVINCES if other != province)
    )


def _successors(province: str, commune: str | None, district: str | None) -> Iterator[str]:
    """What the communes of a former province became that may bear the name, in the districts that may bear theirs."""
    by_name, districts = _former_districts(province)
    for code in by_name.meant(district) if district else districts:
        yield from districts[code].communes.meant(commune) if commune else districts[code].became


# -- names -------------------------------------------------------------------------------------------------------------

_PROVINCE_KINDS = {"TINH": "TINH", "THANH PHO": "THANH PHO", "TP": "THANH PHO"}
_DISTRICT_KINDS = {
    "QUAN": "QUAN", "Q": "QUAN", "HUYEN": "HUYEN", "H": "HUYEN", "THI XA": "THI XA", "TX": "THI XA",
    "THANH PHO": "THANH PHO", "TP": "THANH PHO",
}  # fmt: skip
_COMMUNE_KINDS = {
    "PHUONG": "PHUONG", "P": "PHUONG", "XA": "XA", "X": "XA", "THI TRAN": "THI TRAN", "TT": "THI TRAN",
    "DAC KHU": "DAC KHU",
}  # fmt: skip
_OTHER_PROVINCE_NAMES = {
    "HCM": "Hồ Chí Minh",
    "TPHCM": "Hồ Chí Minh",
    "TP HCM": "Hồ Chí Minh",
    "THUA THIEN HUE": "Huế",  # its name until 2024
    "BAC CAN": "Bắc Kạn",
    "DAC LAC": "Đắk Lắk",
    "DAC NONG": "Đắk Nông",
}
_WORD = re.compile(r"[^\W\d_]+|\d+")
_APOSTROPHES = str.maketrans("", "", "'’‘ʼ`´")
_TONES = frozenset("\u0300\u0301\u0303\u0309\u0323")


class _Name(NamedTuple):
    """A name in words: the kind of unit ("" if it is left out), and what follows it."""

    kind: str
    bare: tuple[str, ...]


def _name(written: str, kinds: Mapping[str, str]) -> _Name:
    composed = unicodedata.normalize("NFC", written).translate(_APOSTROPHES)
    words = tuple(word.lstrip("0") or word for word in _WORD.findall(composed))
    for length in (2, 1):
        kind = kinds.get(" ".join(_plain(words[:length])))
        if kind and len(words) > length:
            return _Name(kind, words[length:])
    return _Name("", words)


def _plain(words: Iterable[str]) -> tuple[str, ...]:
    """Words without marks."""
    return tuple(map(fold_text, words))


def _marked(words: Iterable[str]) -> tuple[str, ...]:
    """Words with their marks, the tone at the end of its word: Hòa and Hoà are one."""
    return tuple(map(_with_tone_last, words))


def _with_tone_last(word: str) -> str:
    parts = unicodedata.normalize("NFD", word.upper())
    return "".join(part for part in parts if part not in _TONES) + "".join(part for part in parts if part in _TONES)


class _Index:
    """Codes by the names of their units. A name written with any mark is looked for with its marks first."""

    def __init__(self, units: Iterable[tuple[str, str]], kinds: Mapping[str, str]) -> None:
        """`units` are pairs of an official name and a code."""
        self._kinds = kinds
        self._by_marked: defaultdict[_Name, set[str]] = defaultdict(set)
        self._by_plain: defaultdict[_Name, set[str]] = defaultdict(set)
        for written, code in units:
            kind, bare = _name(written, kinds)
            numbered = all(word.isdigit() for word in bare)
            for each in (kind, "") if kind and not numbered else (kind,):  # a bare 4 is not yet a ward
                self._by_marked[_Name(each, _marked(bare))].add(code)
                self._by_plain[_Name(each, _plain(bare))].add(code)

    def meant(self, written: str) -> frozenset[str]:
        """The codes of all units that the name may mean."""
        kind, bare = _name(written, self._kinds)
        with_marks = () if written.isascii() else self._by_marked.get(_Name(kind, _marked(bare)), ())
        return frozenset(with_marks or self._by_plain.get(_Name(kind, _plain(bare)), ()))

    def has_marked(self, written: str) -> bool:
        """Whether a unit has this very name, with its marks."""
        kind, bare = _name(written, self._kinds)
        return _Name(kind, _marked(bare)) in self._by_marked


# -- tables ------------------------------------------------------------------------------------------------------------


@cache
def _provinces() -> _Index:
    """The provinces in force, by the Ministry's code."""
    return _Index(((row.vi, code) for code, row in PROVINCES.items()), _PROVINCE_KINDS)


@cache
def _former_provinces() -> _Index:
    return _Index(((row["name"], row["code"]) for row in csv_rows("former_provinces.csv")), _PROVINCE_KINDS)


@cache
def _successor_of_province() -> Mapping[str, str]:
    return {row["code"]: row["successor"] for row in csv_rows("former_provinces.csv")}


@cache
def _communes(province: str) -> _Index:
    """The communes in force of a province."""
    units = ((row.vi, code) for code, row in COMMUNES.items() if row.parent == province)
    return _Index(units, _COMMUNE_KINDS)


@dataclass(frozen=True, slots=True)
class _District:
    """A former district: its communes by what they became, and all that became of it."""

    communes: _Index
    became: frozenset[str]


@cache
def _former_districts(province: str) -> tuple[_Index, Mapping[str, _District]]:
    """The districts of a former province by name, and each by its code."""
    rows = [row for row in csv_rows("former_districts.csv") if row["province"] == province]
    communes = _communes_by_district()
    districts = {}
    for row in rows:
        units = communes.get(row["code"], [])
        became = frozenset(row["successor"].split()).union(*(successors.split() for _, successors in units))
        parts = [(name, code) for name, successors in units for code in successors.split()]
        districts[row["code"]] = _District(_Index(parts, _COMMUNE_KINDS), became)
    return _Index(((row["name"], row["code"]) for row in rows), _DISTRICT_KINDS), districts


@cache
def _communes_by_district() -> Mapping[str, list[tuple[str, str]]]:
    """Name and successors of the communes of every former district."""
    communes: dict[str, list[tuple[str, str]]] = {}
    for row in csv_rows("former_communes.csv"):
        communes.setdefault(row["district"], []).append((row["name"], row["successors"]))
    return communes
