"""Where a guest lives, from cells for the province, the former district and the commune (`schemas.places`)."""

from __future__ import annotations

import re
from typing import TypeAlias

from connectors.cells import Cell, CellError, Row, text, ward
from schemas.codes import PROVINCES
from schemas.places import NamedProvince, commune_named, province_coded, province_named

Placed: TypeAlias = tuple[Cell, str]
"""A cell and the place where its user finds it."""

_PROVINCE, _WARD = "/guest/residence/province", "/guest/residence/ward"
_NUMBERED = re.compile(r"(\d{1,9})(?:\s*[-–—]\s*(.*))?", re.DOTALL | re.ASCII)
_WARD_CODE = re.compile(r"\d{9}", re.ASCII)


def province(cell: Cell) -> NamedProvince | None:
    """The province from `109 - Hưng Yên`, `109` or a name; the name counts where the number is not the Ministry's.

    Raises CellError `unknown_code` for what is neither a code nor a name, past or present.
    """
    written = text(cell)
    if written is None:
        return None
    numbered = _NUMBERED.fullmatch(written)
    if numbered and numbered[1] in PROVINCES:
        return province_coded(numbered[1])
    found = province_named((numbered[2] or "") if numbered else written)
    if found is None:
        raise CellError("unknown_code", table="provinces")
    return found


def read_places(row: Row, province_at: Placed, district_at: Placed, ward_at: Placed) -> None:
    """Put the province's code and the commune of the residence, with a warning where a former name was written.

    A commune that is not named by the Ministry's nine digits is looked up only within a province, else it stays as it
    is written, like its district.
    """
    row.origin[_PROVINCE], row.origin[_WARD] = province_at[1], ward_at[1]
    named = row.look(_PROVINCE, province_at[1], province_at[0], province)
    if named:
        row.put(_PROVINCE, named.code)
        if named.is_former:
            row.warn("former_unit", _PROVINCE, province_at[1])
    commune = row.look(_WARD, ward_at[1], ward_at[0], ward)
    district = row.look(_WARD, district_at[1], district_at[0], text)
    if commune is not None and _WARD_CODE.fullmatch(commune):
        row.put(_WARD, commune)
        if named and not commune.startswith(named.code):  # the Ministry's nine digits begin with those of the province
            row.warn("ward_of_another_province", _WARD, ward_at[1])
    elif commune or district:
        found = commune_named(commune, district, named) if named else None
        row.put(_WARD, found.name if found else ", ".join(filter(None, (commune, district))))
        if found and found.note:
            row.warn(found.note, _WARD, (ward_at if commune else district_at)[1])
