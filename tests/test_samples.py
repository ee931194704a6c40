"""The samples are about synthetic people, always the same, and their readers and the schema take all of them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from pathlib import Path

import orjson
import pytest

from asm_daemon import samples
from connectors import dorm_roster, hl7_adt, kbtt_api, official_xlsx, spreadsheet
from schemas.act import Act, ActKind, Unreadable
from schemas.codes import FacilityKind
from schemas.stay import CheckOut, DeclarationContext, Guest, StayDeclaration
from schemas.synthetic import PERSONS, person

FOLDER = Path(__file__).parents[1] / "deploy" / "samples"
WRITTEN_BY_HAND = {"hotel-opentravel.xml", "hotel-apaleo.json", "hotel-mews.json", "hotel-ohip.json"}
"""Reservations of hotel software: nobody is declared by them, so they need no day; `test_pms` reads them."""
DAY = date(2026, 11, 23)
JUST_ARRIVED = datetime(2026, 11, 22, 17, 45, tzinfo=UTC)  # 00:45 in Viet Nam


def validated(act: Act | Unreadable, kind: FacilityKind) -> StayDeclaration:
    assert isinstance(act, Act), act
    context = DeclarationContext(kind, JUST_ARRIVED, DAY)
    return StayDeclaration.model_validate_json(orjson.dumps(act.fields), context=context)


def number_of(guest: Guest) -> str | None:
    return guest.document.number if guest.document else None


@pytest.mark.parametrize("seed", [-1, PERSONS // samples.PEOPLE_OF_SEED])
def test_a_seed_without_people_is_refused(seed: int) -> None:
    with pytest.raises(ValueError, match="synthetic people"):
        samples.declaration(DAY, seed)


def test_the_files_are_what_is_made_for_their_day() -> None:
    made = samples.files()
    kept = {
        each.name: each.read_bytes()
        for each in FOLDER.iterdir()
        if each.name not in {"README.md", ".gitattributes", *WRITTEN_BY_HAND}
    }
    assert set(kept) == set(made)
    workbook = "hotel-official.xlsx"  # its bytes depend on the version of the library, what it says does not
    assert list(official_xlsx.read(kept.pop(workbook))) == list(official_xlsx.read(made.pop(workbook)))
    assert kept == made


def test_every_guest_of_the_workbook_is_taken_without_a_warning() -> None:
    acts = list(official_xlsx.read(samples.official_xlsx(DAY, 30, seed=1)))
    assert len(acts) == 30
    for act in acts:
        assert validated(act, FacilityKind.HOTEL_5_STAR).guest.nationality == "VNM"
        assert isinstance(act, Act)
        assert act.warnings == ()


def test_every_guest_of_a_list_with_headings_of_its_own_is_taken() -> None:
    acts = list(spreadsheet.read(samples.own_list_csv(DAY, 30, seed=6)))
    guests = [validated(act, FacilityKind.GUESTHOUSE).guest for act in acts]
    assert [number_of(guest) for guest in guests] == [person(6_000 + index).document_number for index in range(30)]
    assert {guest.residence.ward for guest in guests if guest.residence} == {"Phường Phố Hiến", "Xã Vũ Quý"}
    warned = [(act.row, fault.code) for act in acts if isinstance(act, Act) for fault in act.warnings]
    assert warned[0] == (4, "unknown_columns")
    assert {code for _, code in warned[1:]} == {"former_unit"}


def test_every_row_of_a_hotels_program_is_taken_and_some_are_foreigners() -> None:
    acts = list(kbtt_api.read(samples.portal_rows(DAY, 30, seed=7)))
    guests = [validated(act, FacilityKind.HOTEL_4_STAR).guest for act in acts]
    assert [number_of(guest) for guest in guests] == [person(7_000 + index).document_number for index in range(30)]
    assert sum(guest.nationality != "VNM" for guest in guests) == 3
    assert all(isinstance(act, Act) and not act.violations and not act.warnings for act in acts)


def test_every_worker_of_the_roster_is_taken_and_some_are_foreigners() -> None:
    acts = list(dorm_roster.read(samples.dorm_roster_csv(DAY, 30, seed=4)))
    guests = [validated(act, FacilityKind.INDUSTRIAL_ZONE_HOUSING).guest for act in acts]
    assert [number_of(guest) for guest in guests] == [person(4_000 + index).document_number for index in range(30)]
    assert sum(guest.nationality != "VNM" for guest in guests) == 3


def test_the_later_roster_moves_misses_mistypes_and_adds_one() -> None:
    first = {
        act.guest_ref: act for act in dorm_roster.read(samples.dorm_roster_csv(DAY, 15, seed=4)) if isinstance(act, Act)
    }
    later = {
        act.guest_ref: act
        for act in dorm_roster.read(samples.later_roster_csv(DAY, 15, seed=4))
        if isinstance(act, Act)
    }
    assert (first.keys() - later.keys(), later.keys() - first.keys()) == ({"NV0002"}, {"NV0016"})
    changed = {code for code in first.keys() & later.keys() if first[code].fields != later[code].fields}
    assert changed == {"NV0001", "NV0003"}
    assert not any(act.violations for act in later.values())


def test_every_declaration_is_valid_and_every_document_type_occurs() -> None:
    types = set()
    for index in range(40):
        fields = samples.declaration(DAY, seed=2, facility="HY-NN-0001", index=index)
        context = DeclarationContext(FacilityKind.GUESTHOUSE, JUST_ARRIVED)
        declaration = StayDeclaration.model_validate_json(orjson.dumps(fields), context=context)
        assert declaration.guest.document is not None
        types.add(int(declaration.guest.document.type))
    assert types == {1, 4, 8}


def test_the_children_of_the_family_have_a_guardian_in_both_forms() -> None:
    context = DeclarationContext(FacilityKind.GUESTHOUSE, JUST_ARRIVED, DAY)
    sent = [orjson.dumps(each) for each in samples.family(DAY, seed=8)]
    declared = [StayDeclaration.model_validate_json(each, context=context) for each in sent]
    listed = [validated(act, FacilityKind.GUESTHOUSE) for act in spreadsheet.read(samples.family_csv(DAY, seed=8))]
    for family in (declared, listed):
        assert [each.party.role if each.party else None for each in family] == ["head", "member", "member"]
        assert [each.guest.document is None for each in family] == [False, True, True]
        assert [each.guest.guardian is None for each in family] == [True, False, False]
    assert [each.guest.full_name for each in declared] == [each.guest.full_name for each in listed]


@pytest.mark.parametrize("index", [0, 9, 10])
def test_an_admission_and_its_discharge_are_about_the_same_stay(index: int) -> None:
    [admitted] = hl7_adt.read_message(samples.adt_a01(DAY, index, seed=5))
    [left] = hl7_adt.read_message(samples.adt_a03(DAY, index, seed=5, at=time(0, 40)))
    assert isinstance(admitted, Act)
    assert isinstance(left, Act)
    guest = validated(admitted, FacilityKind.MEDICAL_FACILITY).guest
    assert number_of(guest) == person(5_000 + index).document_number
    CheckOut.model_validate_json(orjson.dumps(left.fields))
    assert left.kind is ActKind.CHECK_OUT
    assert left.source_ref == admitted.source_ref
    assert left.fields["departed_at"] > admitted.fields["arrived_at"]


def test_the_events_of_a_ward_are_seven_acts_of_which_one_is_refused() -> None:
    acts = list(hl7_adt.read(samples.adt_events(DAY, seed=8)))
    assert [act.kind for act in acts if isinstance(act, Act)] == [
        "declare", "correct", "expect", "correct", "declare", "check_out", "undo_check_out",
    ]  # fmt: skip
    assert [[fault.code for fault in act.violations] for act in acts] == [[], [], [], [], ["wrong_date"], [], []]


def test_people_of_different_seeds_are_different() -> None:
    first = {each.document_number for each in samples.people(1, 1_000)}
    second = {each.document_number for each in samples.people(2, 1_000)}
    assert not first & second
