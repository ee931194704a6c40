"""Who may be declared without a document: rules with dates for every kind of facility, and the age on the day."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from asm_daemon.problems import from_validation
from schemas import families
from schemas.codes import FacilityKind, Kinship, table
from schemas.families import MinorRule, age_on, minor_rule
from schemas.stay import ARRIVAL_BEHIND_LIMIT, DeclarationContext, Guest, Party

DOCS = Path(__file__).parents[2] / "docs"
DAY = date(2026, 11, 28)
GUARDIAN: dict[str, Any] = {
    "relationship": 2,
    "full_name": "TRẦN THỊ MẪU",
    "document": {"type": 1, "number": "000190000009"},
}


def faults(guest: dict[str, Any], kind: FacilityKind = FacilityKind.GUESTHOUSE) -> set[tuple[str, str]]:
    """What is wrong with a guest who arrives on `DAY`."""
    whole = {"full_name": "TRẦN BÉ MẪU", "birth_date": "2020-06-05", "nationality": "VNM", **guest}
    context = DeclarationContext(kind, datetime(2026, 11, 28, 9, tzinfo=UTC), DAY)
    try:
        Guest.model_validate_json(orjson.dumps(whole), context=context)
    except ValidationError as error:
        return {(found.pointer, found.code) for found in from_validation(error)}
    return set()


def test_neither_document_nor_guardian_is_refused_and_the_age_is_named() -> None:
    assert faults({}) == {("/document", "document_or_guardian_required")}
    assert faults({"document": None, "guardian": None}) == {("/document", "document_or_guardian_required")}
    context = DeclarationContext(FacilityKind.MEDICAL_FACILITY, datetime(2026, 11, 28, 9, tzinfo=UTC))
    with pytest.raises(ValidationError) as refused:
        Guest.model_validate_json(b'{"full_name":"A","birth_date":"2020","nationality":"VNM"}', context=context)
    [found] = from_validation(refused.value)
    assert "16" in found.vi
    assert "16" in found.en


@pytest.mark.parametrize("birth_date", ["1990-01-01", "2012-11-28", "2012-11", "2012"])
def test_a_guardian_does_not_replace_the_document_of_who_may_be_old_enough(birth_date: str) -> None:
    assert faults({"birth_date": birth_date, "guardian": GUARDIAN}) == {("/document", "document_required_from_age")}


@pytest.mark.parametrize("birth_date", ["2012-11-29", "2012-12", "2013", "2026-11-28"])
def test_who_is_certainly_below_the_age_is_taken_with_a_guardian(birth_date: str) -> None:
    assert faults({"birth_date": birth_date, "guardian": GUARDIAN}) == set()


def test_the_age_differs_by_kind_of_facility() -> None:
    of_fifteen = {"birth_date": "2011-06-05", "guardian": GUARDIAN}
    assert faults(of_fifteen, FacilityKind.MEDICAL_FACILITY) == set()
    assert faults(of_fifteen, FacilityKind.RENTAL_HOUSING) == {("/document", "document_required_from_age")}


def test_everything_wrong_with_a_family_is_told_at_once() -> None:
    assert faults(
        {"full_name": "1", "birth_date": "1990", "guardian": {"relationship": 9, "full_name": "", "x": 1}}
    ) == {
        ("/full_name", "wrong_name"),
        ("/guardian/relationship", "unknown_code"),
        ("/guardian/full_name", "blank_name"),
        ("/guardian/document", "guardian_reference_required"),
        ("/guardian/x", "unknown_field"),
        ("/document", "document_required_from_age"),
    }


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({"document": None}, {("/guardian/document", "guardian_reference_required")}),
        ({"document": {"type": 1, "number": "1"}}, {("/guardian/document/number", "wrong_document_number")}),
        ({"document": None, "source_ref": "a b"}, {("/guardian/source_ref", "wrong_source_ref")}),
        ({"document": None, "source_ref": "A-1"}, set()),
        ({"source_ref": "A-1"}, set()),
    ],
)
def test_a_guardian_is_named_by_a_document_or_a_stay(changes: dict[str, Any], found: set[tuple[str, str]]) -> None:
    assert faults({"guardian": {**GUARDIAN, **changes}}) == found


def test_a_guest_with_a_document_may_have_a_guardian_at_any_age() -> None:
    assert faults({"birth_date": "1990", "document": GUARDIAN["document"], "guardian": GUARDIAN}) == set()


@pytest.mark.parametrize("party", [{}, {"ref": "", "role": "head"}, {"ref": "Đoàn 1", "role": "leader"}, {"ref": "A"}])
def test_a_party_has_a_name_and_a_role(party: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        Party.model_validate_json(orjson.dumps(party))


def test_nobody_named_in_a_family_shows_in_a_repr() -> None:
    context = DeclarationContext(FacilityKind.GUESTHOUSE, datetime(2026, 11, 28, 9, tzinfo=UTC), DAY)
    whole = {"full_name": "TRẦN BÉ MẪU", "birth_date": "2020", "nationality": "VNM", "guardian": GUARDIAN}
    guest = Guest.model_validate_json(orjson.dumps(whole), context=context)
    assert "MẪU" not in f"{guest!r}{guest.guardian!r}{guest.guardian}"


def test_every_kind_has_a_rule_for_every_arrival_that_is_taken_and_each_says_where_it_comes_from() -> None:
    for kind in FacilityKind:
        assert minor_rule(kind, DAY - ARRIVAL_BEHIND_LIMIT) is not None
    assert all("the law asks for a number" in rule.source for rule in families.MINOR_RULES)


def test_a_rule_counts_from_its_day_and_the_newest_one_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = frozenset({FacilityKind.GUESTHOUSE})
    rules = [MinorRule(date(2026, month, 1), kinds, month, True, "") for month in (3, 9, 6)]
    monkeypatch.setattr(families, "MINOR_RULES", rules)
    days = [date(2026, 2, 28), date(2026, 3, 1), date(2026, 8, 31), date(2026, 9, 1)]
    found = [minor_rule(FacilityKind.GUESTHOUSE, day) for day in days]
    assert [rule and rule.below_age for rule in found] == [None, 3, 6, 9]
    assert minor_rule(FacilityKind.STATE_GUEST_HOUSE, date(2026, 9, 1)) is None


@pytest.mark.parametrize(
    ("birth_date", "day", "age"),
    [
        ("2012-11-28", date(2026, 11, 27), 13), ("2012-11-28", date(2026, 11, 28), 14),
        ("2012-11", date(2026, 11, 1), 14), ("2012-11", date(2026, 10, 31), 13), ("2012", date(2026, 1, 1), 14),
        ("2012-02-29", date(2026, 2, 28), 13), ("2012-02-29", date(2026, 3, 1), 14),
        ("2026-11-28", date(2026, 11, 28), 0),
    ],
)  # fmt: skip
def test_an_imprecise_birth_date_counts_as_its_first_day(birth_date: str, day: date, age: int) -> None:
    assert age_on(birth_date, day) == age


@given(born=st.dates(date(1900, 1, 1), DAY), day=st.dates(DAY, date(2100, 1, 1)))
def test_who_is_below_an_age_by_less_is_below_it_by_the_whole_date_too(born: date, day: date) -> None:
    ages = [age_on(text, day) for text in (f"{born:%Y}", f"{born:%Y-%m}", f"{born:%Y-%m-%d}")]
    assert ages == sorted(ages, reverse=True)
    assert ages[2] == day.year - born.year - (day < _birthday(born, day.year))


def _birthday(born: date, year: int) -> date:
    try:
        return born.replace(year=year)
    except ValueError:
        return date(year, 3, 1)


def test_the_kinships_are_a_code_table_in_both_languages() -> None:
    rows = table("kinship").rows
    assert [row.code for row in rows] == [int(kinship) for kinship in Kinship]
    assert (rows[0].vi, rows[1].vi, rows[4].vi, rows[5].en) == ("Cha", "Mẹ", "Người giám hộ", "Other")


def test_the_ages_in_force_are_those_that_the_guides_tell() -> None:
    told, guide = ((DOCS / name).read_text("utf-8") for name in ("api.md", "huong-dan-co-so.md"))
    for rule in {minor_rule(kind, DAY) for kind in FacilityKind}:
        assert rule is not None
        assert f" {rule.below_age} years |" in told
        assert f"dưới {rule.below_age} tuổi" in guide
