"""Names of the past become the units of today by the table of what became what, or stay as they are written."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codes import COMMUNES, PROVINCES, table
from schemas.places import NamedCommune, NamedProvince, commune_named, province_coded, province_named

HUNG_YEN = province_coded("109")


def province(name: str) -> NamedProvince:
    found = province_named(name)
    assert found is not None
    return found


# -- names that nobody may guess at ------------------------------------------------------------------------------------


@pytest.mark.parametrize("written", ["", " ", "Atlantis", "Hưng", "Hưng Yên Thái Bình", "109", "33", "Hà Tây", "Tỉnh"])
def test_what_is_no_province_is_none(written: str) -> None:
    assert province_named(written) is None


def test_a_commune_that_nobody_knows_stays_as_it_is_written() -> None:
    assert commune_named("Xã Mẫu", "Huyện Mẫu", HUNG_YEN) == NamedCommune("Xã Mẫu, Huyện Mẫu")
    assert commune_named("Xã Mẫu", None, HUNG_YEN) == NamedCommune("Xã Mẫu")
    assert commune_named(None, None, HUNG_YEN) is None
    assert commune_named("", "", HUNG_YEN) is None


def test_a_commune_of_another_province_is_not_looked_for() -> None:
    assert commune_named("Phường Hiến Nam", "TP Hưng Yên", province("Hà Nội")) == NamedCommune(
        "Phường Hiến Nam, TP Hưng Yên"
    )


@pytest.mark.parametrize(
    ("commune", "district", "in_province"),
    [
        ("Phường 4", "Quận 3", "TP. Hồ Chí Minh"),  # divided between two wards
        ("Phường 1", None, "Hồ Chí Minh"),  # a name that many districts had
        (None, "Huyện Yên Mỹ", "Hưng Yên"),  # a district that became several communes
    ],
)
def test_a_former_unit_with_several_successors_stays_as_it_is_written(
    commune: str | None, district: str | None, in_province: str
) -> None:
    found = commune_named(commune, district, province(in_province))
    assert found == NamedCommune(", ".join(filter(None, (commune, district))), "former_unit_divided")


def test_a_ward_that_only_other_provinces_have_is_told_and_one_that_a_former_unit_explains_is_not() -> None:
    noted = NamedCommune("Phường Phố Hiến", "ward_of_another_province")
    assert commune_named("Phường Phố Hiến", None, province("Hà Nội")) == noted
    for unsure in ("Phố Hiến", "Phuong Pho Hien", "Phường Mẫu"):
        assert commune_named(unsure, None, province("Hà Nội")) == NamedCommune(unsure)
    assert commune_named("Phường Phố Hiến", None, HUNG_YEN) == NamedCommune("Phường Phố Hiến")


def test_a_bare_number_is_no_ward() -> None:
    assert commune_named("4", "Quận 3", province("HCM")) == NamedCommune("4, Quận 3")


def test_a_kind_of_unit_that_the_name_did_not_have_is_another_name() -> None:
    assert commune_named("Xã Hiến Nam", "Thành phố Hưng Yên", HUNG_YEN) == NamedCommune(
        "Xã Hiến Nam, Thành phố Hưng Yên"
    )


# -- provinces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("written", "code", "is_former"),
    [
        ("Hưng Yên", "109", False), ("tỉnh HƯNG YÊN", "109", False), ("Hung Yen", "109", False),
        ("Thái Bình", "109", True), ("Tỉnh Thái Bình", "109", True), ("Bà Rịa Vũng Tàu", "701", True),
        ("TP. Hồ Chí Minh", "701", False), ("TPHCM", "701", False), ("tp hcm", "701", False), ("HCM", "701", False),
        ("Huế", "411", False), ("Thừa Thiên - Huế", "411", False), ("Hoà Bình", "217", True), ("Bắc Cạn", "215", True),
    ],
)  # fmt: skip
def test_a_province_goes_by_its_present_and_by_its_former_names(written: str, code: str, is_former: bool) -> None:
    found = province(written)
    assert (found.code, found.is_former) == (code, is_former)


def test_every_province_past_and_present_is_found_by_its_name() -> None:
    for code, row in PROVINCES.items():
        assert province_named(row.vi) == province_coded(code)
    for row in table("former_provinces").rows:
        found = province(row.vi)
        assert (found.code,) == row.successors
        assert str(row.code) in found.former


# -- communes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commune", "district", "in_province"),
    [
        ("Phường Hiến Nam", "Thành phố Hưng Yên", "Hưng Yên"), ("P. Hiến Nam", "TP. Hưng Yên", "Hưng Yên"),
        ("hien nam", "hung yen", "hung yen"), ("Phường Hiến Nam, TP Hưng Yên", None, "Hưng Yên"),
        ("Phường Hiến Nam, TP Hưng Yên, tỉnh Hưng Yên", None, "Hưng Yên"), ("Hiến Nam", None, "Hưng Yên"),
    ],
)  # fmt: skip
def test_a_former_commune_becomes_its_one_successor(commune: str, district: str | None, in_province: str) -> None:
    assert commune_named(commune, district, province(in_province)) == NamedCommune("Phường Phố Hiến", "former_unit")


def test_a_district_without_communes_has_a_successor_of_its_own() -> None:
    found = commune_named(None, "Huyện Côn Đảo", province("Bà Rịa - Vũng Tàu"))
    assert found == NamedCommune("Đặc khu Côn Đảo", "former_unit")


@pytest.mark.parametrize("written", ["Phường Phố Hiến", "P. Phố Hiến", "pho hien"])
def test_a_name_in_force_counts_as_it_stands(written: str) -> None:
    assert commune_named(written, None, HUNG_YEN) == NamedCommune(written)


def test_a_name_in_force_with_the_province_of_the_past_stands_if_both_mean_one_unit() -> None:
    assert commune_named("Phường Trần Lãm", None, province("Thái Bình")) == NamedCommune("Phường Trần Lãm")


def test_marks_decide_between_names_that_differ_by_them_alone_and_without_marks_nothing_does() -> None:
    thanh_hoa = province("Thanh Hóa")
    assert commune_named("Xã Nga Thanh", "Huyện Nga Sơn", thanh_hoa) == NamedCommune("Xã Nga Sơn", "former_unit")
    assert commune_named("Xã Nga Thành", "Huyện Nga Sơn", thanh_hoa) == NamedCommune("Xã Hồ Vương", "former_unit")
    assert commune_named("Xa Nga Thanh", "Nga Son", thanh_hoa) == NamedCommune(
        "Xa Nga Thanh, Nga Son", "former_unit_divided"
    )


def test_the_place_of_the_tone_makes_no_difference() -> None:
    da_nang = province("Đà Nẵng")
    found = commune_named("Phường Hoà Xuân", "Quận Cẩm Lệ", da_nang)
    assert found == commune_named("Phường Hòa Xuân", "Quận Cẩm Lệ", da_nang)
    assert found is not None
    assert found.note == "former_unit"


def test_every_former_commune_is_found_in_its_district_with_all_its_successors() -> None:
    districts = {row.code: row for row in table("former_districts").rows}
    provinces = {row.code: province(row.vi) for row in table("former_provinces").rows}
    wrong = []
    for row in table("former_communes").rows:
        district = districts[row.parent or ""]
        found = commune_named(row.vi, district.vi, provinces[district.parent or ""])
        assert found is not None
        if len(row.successors) == 1:
            expected = NamedCommune(COMMUNES[row.successors[0]].vi, "former_unit")
        else:
            expected = NamedCommune(f"{row.vi}, {district.vi}", "former_unit_divided")
        if found != expected:
            wrong.append(row.vi)
    assert wrong == []


# -- anything at all ---------------------------------------------------------------------------------------------------

_NAMES = st.one_of(st.text(max_size=30), st.sampled_from(["Phường 4", "Q.3", "TP", "Xã", "Thị xã", ",", "Hưng Yên"]))


@given(_NAMES, _NAMES, _NAMES)
def test_any_names_give_what_was_written_or_a_unit_in_force(commune: str, district: str, named: str) -> None:
    found = commune_named(commune, district, province_named(named) or HUNG_YEN)
    written = ", ".join(filter(None, (commune, district)))
    in_force = {row.vi for row in COMMUNES.values()}
    assert found is None or found.name == written or (found.note == "former_unit" and found.name in in_force)
