"""The code tables are complete, agree with each other, and keep their versions honest."""

from __future__ import annotations

from collections import Counter
from datetime import date

import pytest

from schemas.codes import (
    COMMUNES,
    NATIONALITIES,
    NATIONALITY_GROUPS,
    PROVINCES,
    TABLES,
    Department,
    DocumentType,
    FacilityKind,
    Reason,
    canonical_nationality,
    nationality_group,
    table,
)


def test_an_unknown_table_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        table("colours")


def test_a_code_nobody_knows_is_no_nationality() -> None:
    assert canonical_nationality("QQQ") is None
    assert canonical_nationality("") is None
    assert canonical_nationality("UTO") is None  # the specimen state of ICAO Doc 9303


@pytest.mark.parametrize("name", sorted(TABLES))
def test_no_table_repeats_a_code_or_leaves_a_name_empty(name: str) -> None:
    rows = table(name).rows
    assert len({row.code for row in rows}) == len(rows) > 0
    for row in rows:
        assert row.vi == row.vi.strip() != ""
        assert row.en == row.en.strip() != ""
        assert type(row.code) in (int, str)  # never an enum member: it is what travels


@pytest.mark.parametrize("name", sorted(TABLES))
def test_a_version_names_its_date_and_its_content(name: str) -> None:
    dated, digest = table(name).version.split(".")
    assert date.fromisoformat(dated) <= date(2026, 12, 31)
    assert len(digest) == 8


def test_versions_of_different_tables_differ() -> None:
    assert len({each.version for each in TABLES.values()}) == len(TABLES)


def test_the_official_integer_codes_stand_as_they_are() -> None:
    assert [member.value for member in DocumentType] == list(range(1, 10))
    assert [member.value for member in Reason] == list(range(1, 21))
    assert table("reasons").rows[0].vi == "Du lịch"
    assert table("reasons").rows[17].vi == "Chữa bệnh"
    assert table("document_types").rows[7].vi == "Thẻ Căn Cước"


def test_there_are_34_provinces_under_the_ministrys_codes() -> None:
    assert len(PROVINCES) == 34
    assert PROVINCES["109"].vi == "Hưng Yên"
    assert PROVINCES["109"].valid_from == date(2025, 7, 1)
    assert "033" not in PROVINCES  # a prefix of personal numbers, not a province code


def test_every_commune_belongs_to_a_province_and_every_province_has_one() -> None:
    assert len(COMMUNES) == 3321
    assert {row.parent for row in COMMUNES.values()} == set(PROVINCES)


def test_hung_yen_has_eleven_wards_and_ninety_three_communes() -> None:
    names = [row.vi for row in COMMUNES.values() if row.parent == "109"]
    assert sum(name.startswith("Phường ") for name in names) == 11
    assert sum(name.startswith("Xã ") for name in names) == 93


def test_a_commune_is_named_in_both_languages() -> None:
    assert (COMMUNES["11953"].vi, COMMUNES["11953"].en) == ("Phường Phố Hiến", "Pho Hien Ward")


def test_a_unit_shows_the_codes_that_its_sources_have() -> None:
    assert PROVINCES["109"].statistics_code == "33"
    assert {row.statistics_code for row in PROVINCES.values()} <= {row.code for row in table("former_provinces").rows}
    assert all(row.statistics_code == row.code for row in COMMUNES.values())


def test_the_units_of_the_past_are_complete_and_over() -> None:
    provinces, districts, communes = (table(f"former_{units}").rows for units in ("provinces", "districts", "communes"))
    assert (len(provinces), len(districts), len(communes)) == (63, 696, 10_035)
    assert {row.parent for row in districts} == {row.code for row in provinces}
    assert {row.parent for row in communes} == {row.code for row in districts if not row.successors}
    for row in (*provinces, *districts, *communes):
        assert (row.active, row.valid_to) == (False, date(2025, 6, 30))


def test_every_unit_of_the_past_has_successors_in_force_and_every_unit_in_force_a_past() -> None:
    assert all(len(row.successors) == 1 for row in table("former_provinces").rows)
    assert {code for row in table("former_provinces").rows for code in row.successors} == set(PROVINCES)
    became = [row for name in ("former_communes", "former_districts") for row in table(name).rows]
    assert {code for row in became for code in row.successors} == set(COMMUNES)
    counts = Counter(len(row.successors) for row in table("former_communes").rows)
    assert counts == {1: 9_542, 2: 419, 3: 58, 4: 15, 5: 1}


def test_what_became_of_a_commune_lies_in_what_became_of_its_province() -> None:
    province_of = {row.code: row.successors[0] for row in table("former_provinces").rows}
    district_in = {row.code: province_of[row.parent or ""] for row in table("former_districts").rows}
    for row in table("former_communes").rows:
        assert {COMMUNES[code].parent for code in row.successors} == {district_in[row.parent or ""]}


def test_all_of_iso_3166_is_there_and_what_the_portals_list_misses() -> None:
    assert {"VNM", "DEU", "BRA", "BRN", "BGR", "TWN", "PSE"} <= set(NATIONALITIES)
    assert {"XXA", "XXB", "XXC", "XXX", "UNO", "RKS"} <= set(NATIONALITIES)
    assert all(len(code) == 3 and code.isascii() and code.isupper() for code in NATIONALITIES)
    assert len(NATIONALITIES) == 249 + 20


@pytest.mark.parametrize(
    ("written", "stored"),
    [("D", "DEU"), ("D<<", "DEU"), ("d", "DEU"), ("GBD", "GBR"), ("RKS", "RKS"), ("UNO", "UNO"), (" vnm ", "VNM")],
)
def test_a_nationality_as_documents_write_it_becomes_the_stored_code(written: str, stored: str) -> None:
    assert canonical_nationality(written) == stored


def test_every_nationality_is_counted_under_one_of_six_groups() -> None:
    assert {nationality_group(code) for code in NATIONALITIES} == set(NATIONALITY_GROUPS)
    assert nationality_group("VNM") == "vietnam"
    assert nationality_group("KOR") == "east_asia"
    assert nationality_group("LAO") == "southeast_asia"
    assert nationality_group("XXA") == "other"
    assert nationality_group("QQQ") == "other"


def test_the_ten_kinds_of_the_plan_report_to_their_department() -> None:
    kinds: dict[Department, int] = {}
    for kind in FacilityKind:
        kinds[kind.department] = kinds.get(kind.department, 0) + 1
    assert kinds == {Department.TOURISM: 7, Department.ECONOMIC_ZONE: 2, Department.HEALTH: 1}
    assert FacilityKind.OFFICIAL_RESIDENCE.model == 7
    assert FacilityKind.INDUSTRIAL_ZONE_HOUSING.model == 8
    assert FacilityKind.MEDICAL_FACILITY.model == 9
    assert {row.code: row.parent for row in table("facility_kinds").rows} == {
        kind.value: kind.department.value for kind in FacilityKind
    }
