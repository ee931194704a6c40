"""The synthetic people hold to the rules that real documents hold to."""

from __future__ import annotations

import pytest

from schemas.synthetic import PERSONS, person


@pytest.mark.parametrize("index", [-1, PERSONS])
def test_an_index_outside_the_range_is_refused(index: int) -> None:
    with pytest.raises(ValueError, match="synthetic people"):
        person(index)


def test_a_person_never_changes_because_two_systems_are_seeded_with_them() -> None:
    assert person(20) == ("TRẦN MINH HÙNG", "1990-10-24", "M", "VNM", 1, "000090000020")
    assert person(PERSONS - 1).document_number == "TEST99999"


def test_no_two_people_share_a_document() -> None:
    assert len({person(index).document_number for index in range(5_000)}) == 5_000


def test_a_personal_number_agrees_with_sex_and_birth_year() -> None:
    for index in range(2_000):
        someone = person(index)
        if someone.nationality != "VNM":
            assert someone.document_type == 4
            assert len(someone.document_number) <= 10
            continue
        number = someone.document_number
        assert len(number) == 12
        assert number.startswith("000")
        century, female = divmod(int(number[3]), 2)
        assert female == (someone.gender == "F")
        assert f"{19 + century}{number[4:6]}" == someone.birth_date[:4]


def test_one_in_ten_is_a_foreigner_and_all_nationalities_occur() -> None:
    nationalities = [person(index).nationality for index in range(2_000)]
    assert nationalities.count("VNM") == 1_800
    assert len(set(nationalities)) == 13
