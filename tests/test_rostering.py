"""What a roster means, without a database: what must not happen first, then the difference as a whole."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon.problems import Refused, problem_document
from asm_daemon.rostering import Decision, Plan, Resident, Step, faults_of, plan, read_scope, scoped, seen_by, settled
from schemas.act import Act, ActKind
from schemas.synthetic import person

NOW = datetime(2026, 11, 23, 5, tzinfo=UTC)
A = {"building": "A"}
NO_PROBLEM: Mapping[int, Any] = {}


def guest(index: int, **changes: Any) -> dict[str, Any]:
    who = person(index)
    return {
        "full_name": who.full_name,
        "birth_date": who.birth_date,
        "document": {"type": who.document_type, "number": who.document_number},
        **changes,
    }


def fields(index: int, room: str = "101", **changes: Any) -> dict[str, Any]:
    return {"guest": guest(index), "room": room, "arrived_at": "2026-11-01T00:00:00+07:00", "reason": 19, **changes}


def line(row: int, index: int, room: str = "101", *, code: str | None = None, **changes: Any) -> Act:
    return Act(ActKind.DECLARE, fields(index, room, **changes), row, guest_ref=code)


def resident(
    index: int,
    room: str = "101",
    building: str | None = "A",
    *,
    code: str | None = None,
    seen: int | None = 0,
    **more: Any,
) -> Resident:
    """Somebody in house who stood on a roster `seen` days ago (None: never)."""
    return Resident(
        stay_id=UUID(int=(0x019A << 112) + index),
        version=1,
        arrived_at=datetime(2026, 10, 31, 17, tzinfo=UTC),
        declared=fields(index, room, **more),
        guest_ref=code,
        groups={"building": building} if building else {},
        last_seen_on=None if seen is None else (NOW - timedelta(days=seen)).date(),
    )


def made(lines: list[Act], residents: list[Resident], scope: Mapping[str, str] = A, **options: Any) -> Plan:
    given_options = {"absence_nights": 3, "now": NOW, **options}
    back = given_options.pop("departed", lambda _line: False)
    refused = given_options.pop("refused", NO_PROBLEM)
    return plan([scoped(each, scope) for each in lines], refused, residents, back, scope, **given_options)


def actions(found: Plan) -> list[tuple[int | None, str]]:
    return [(step.row, step.action) for step in found.steps]


# -- scopes and lines that are refused ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", [None, "", "A", "building", "building:", ":A", "room:1", "building:A;building:B", "all;building:A", ";"]
)
def test_a_scope_that_is_not_clear_is_refused(text: str | None) -> None:
    with pytest.raises(Refused) as refusal:
        read_scope(text)
    assert [each.pointer for each in refusal.value.violations] == ["/scope"]


def test_a_scope_is_the_whole_facility_or_one_or_more_of_its_parts() -> None:
    assert read_scope(" ALL ") == {}
    assert read_scope("employer: Công ty Mẫu ; shift:1") == {"employer": "Công ty Mẫu", "shift": "1"}


def test_a_line_of_another_building_or_of_somebody_listed_before_is_refused() -> None:
    other = replace(line(3, 2), groups={"building": "B"})
    twice = line(4, 1, arrived_at="2026-11-02T00:00:00+07:00")
    same = replace(line(5, 3), groups={"building": "a"})
    faults = faults_of([line(2, 1), other, twice, same], A)
    assert {row: [each.code for each in found] for row, found in faults.items()} == {
        3: ["outside_scope"],
        4: ["listed_twice"],
    }


def test_an_act_that_is_no_declaration_is_no_line() -> None:
    gone = Act(ActKind.CHECK_OUT, {"departed_at": NOW.isoformat()}, 7, match={})
    assert [each.code for each in faults_of([gone], {})[7]] == ["not_a_guest_line"]


# -- nobody is checked out by mistake ----------------------------------------------------------------------------------


def test_a_list_with_a_refused_line_checks_nobody_out() -> None:
    refused = {9: problem_document(Refused("declaration_invalid"))}
    found = made([line(2, 1)], [resident(1), resident(2, seen=30)], refused=refused)
    assert actions(found) == [(2, "unchanged"), (9, "refused"), (None, "absent")]
    assert found.is_incomplete


def test_people_of_other_buildings_and_of_no_known_building_are_not_touched() -> None:
    found = made([], [resident(1, building="B", seen=30), resident(2, building=None, seen=30)])
    assert (actions(found), found.in_house, found.outside) == ([], 0, 2)


def test_somebody_missing_for_fewer_nights_than_the_limit_is_away_and_not_gone() -> None:
    staying = [resident(1, seen=0), resident(2, seen=2), resident(3, seen=3), resident(4, seen=None)]
    found = made([], staying)
    assert [(step.action, step.nights_missing) for step in found.steps] == [
        ("absent", 0),
        ("absent", 2),
        ("check_out", 3),
        ("check_out", 22),
    ]


@pytest.mark.parametrize(("staying", "limit"), [(0, 5), (24, 5), (25, 5), (40, 8), (800, 160)])
def test_a_fifth_of_the_scope_or_five_may_leave_unconfirmed(staying: int, limit: int) -> None:
    assert made([], [resident(each, seen=9) for each in range(staying)]).check_out_limit == limit


def test_who_is_in_house_in_another_building_moves_only_by_a_decision() -> None:
    mover = line(2, 1, "A-1")
    [step] = made([mover], [resident(1, "B-1", "B")]).steps
    assert (step.action, step.choices) == ("elsewhere", (Decision.MOVE, Decision.SKIP))
    assert settled(step, {2: mover}, {}) is None
    assert settled(step, {2: mover}, {2: Decision.MOVE}) == step


def test_another_number_under_the_same_code_is_shown_and_neither_applied_nor_taken_for_a_departure() -> None:
    new = line(2, 2, code="NV7")
    found = made([new], [resident(1, code="nv7", seen=30)])
    [step] = found.steps
    assert (step.action, step.choices) == ("possible_typo", (Decision.CORRECT, Decision.NEW_PERSON, Decision.SKIP))
    assert step.differs == ("/guest/full_name", "/guest/birth_date")
    assert settled(step, {2: new}, {}) is None
    as_new = settled(step, {2: new}, {2: Decision.NEW_PERSON})
    assert as_new is not None
    assert (as_new.kind, as_new.stay_id, as_new.fields) == (ActKind.DECLARE, None, new.fields)


def test_without_codes_name_and_birth_date_show_a_mistyped_number() -> None:
    mistyped = guest(1, document={"type": 1, "number": "000090000099"})
    [step] = made([line(2, 1, guest=mistyped)], [resident(1)]).steps
    assert step.action == "possible_typo"
    assert step.fields == {"guest": {"document": {"type": 1, "number": "000090000099"}}}


def test_the_same_code_of_another_employer_means_nobody() -> None:
    staying = replace(resident(1, code="7"), groups={"employer": "Công ty Mẫu", "building": "A"})
    other = replace(line(2, 2, code="7"), groups={"employer": "Công ty Khác"})
    own = replace(line(2, 2, code="7"), groups={"employer": "CÔNG TY MẪU"})
    assert actions(made([other], [staying])) == [(2, "check_in"), (None, "absent")]
    assert actions(made([own], [staying])) == [(2, "possible_typo")]


def test_the_document_counts_before_the_code() -> None:
    staying = [resident(1, code="NV2"), resident(2, code="NV1")]
    found = made([line(2, 1, code="NV1"), line(3, 2, code="NV2")], staying)
    assert [(step.row, step.action, step.stay_id) for step in found.steps] == [
        (2, "assignment", staying[0].stay_id),
        (3, "assignment", staying[1].stay_id),
    ]


def test_a_child_without_a_document_is_known_by_name_and_birth_date_if_none_was_declared_either() -> None:
    nothing = {name: value for name, value in guest(1).items() if name != "document"}
    assert actions(made([line(2, 1, guest=nothing)], [resident(1, guest=nothing)])) == [(2, "unchanged")]
    assert actions(made([line(2, 1, guest=nothing)], [resident(1)])) == [(2, "possible_typo")]


# -- what follows ------------------------------------------------------------------------------------------------------


def test_check_ins_room_changes_renewals_and_departures_come_of_one_list() -> None:
    until = "2026-12-31T12:00:00+07:00"
    found = made(
        [
            line(2, 1),
            line(3, 2, "102"),
            line(4, 3, planned_departure_at=until),
            line(5, 4, code="NV4"),
            line(6, 5),
            line(7, 6),
        ],
        [resident(1), resident(2), resident(3), resident(4), resident(7, seen=5)],
        departed=lambda each: each.row == 7,
    )
    assert actions(found) == [
        (2, "unchanged"),
        (3, "room_change"),
        (4, "renewal"),
        (5, "assignment"),
        (6, "check_in"),
        (7, "return"),
        (None, "check_out"),
    ]
    steps = {step.row: step for step in found.steps}
    assert (steps[3].kind, steps[3].fields) == (ActKind.CORRECT, {"room": "102"})
    assert (steps[4].kind, steps[4].fields) == (ActKind.EXTEND, {"planned_departure_at": until})
    assert (steps[5].kind, steps[5].fields, steps[5].guest_ref) == (ActKind.CORRECT, {}, "NV4")
    assert steps[7].fields["arrived_at"] == NOW.isoformat()
    assert (found.in_house, found.in_house_after) == (5, 6)


def test_the_month_of_a_landlords_list_renews_and_is_no_second_stay() -> None:
    month = {"arrived_at": "2026-12-01T00:00:00+07:00", "planned_departure_at": "2026-12-31T12:00:00+07:00"}
    old = resident(1, building=None, planned_departure_at="2026-11-30T12:00:00+07:00")
    [step] = made([line(2, 1, **month)], [old], {}).steps
    assert (step.action, step.kind, step.differs) == ("renewal", ActKind.EXTEND, ())


def test_an_earlier_arrival_another_name_and_another_birth_date_are_shown_and_left_alone() -> None:
    other = guest(1, full_name="TRẦN THỊ KHÁC", birth_date="1999-01-01")
    [step] = made([line(2, 1, guest=other, arrived_at="2026-10-01T00:00:00+07:00")], [resident(1)]).steps
    assert (step.action, step.differs) == ("unchanged", ("/guest/full_name", "/guest/birth_date", "/arrived_at"))


def test_who_belonged_nowhere_joins_the_scope_of_the_list() -> None:
    found = made([line(2, 1)], [resident(1, building=None)])
    assert actions(found) == [(2, "assignment")]
    assert found.steps[0].groups == A
    assert (found.in_house, found.in_house_after) == (0, 1)


def test_who_is_seen_is_whoever_a_line_means_unless_it_is_another_person_or_lives_elsewhere() -> None:
    house = [resident(1), resident(2, code="NV2"), resident(3, building="B"), resident(4)]
    refused = {5: problem_document(Refused("declaration_invalid"))}
    found = made([line(2, 1), line(3, 9, code="NV2"), line(4, 3), line(5, 4)], house, refused=refused)
    ids = [each.stay_id for each in house]
    assert set(seen_by(found, {})) == {ids[0], ids[1], ids[3]}
    assert set(seen_by(found, {3: Decision.NEW_PERSON, 4: Decision.MOVE})) == {ids[0], ids[2], ids[3]}


def test_another_spelling_of_a_building_or_a_code_is_no_change() -> None:
    found = made([line(2, 1, code="nv1")], [resident(1, code="NV1")], {"building": " a"})
    assert actions(found) == [(2, "unchanged")]


def test_shared_rooms_and_beds_are_nothing_special() -> None:
    assert actions(made([line(2, 1, "9-1"), line(3, 2, "9-1")], [])) == [(2, "check_in"), (3, "check_in")]


def test_two_plans_of_the_same_house_do_the_same_and_one_of_another_version_does_not() -> None:
    lines, house = [line(2, 1, "102"), line(3, 2)], [resident(1), resident(3, seen=9)]
    first, second = made(lines, house), made(lines, house)
    assert [step.essence() for step in first.steps] == [step.essence() for step in second.steps]
    later = made(lines, [replace(house[0], version=2), house[1]])
    assert [step.essence() for step in first.steps] != [step.essence() for step in later.steps]


# -- the law of a roster -----------------------------------------------------------------------------------------------


def applied(found: Plan, residents: list[Resident]) -> Iterator[tuple[str, str, str | None]]:
    """Who is in house afterwards: document, room, building."""
    gone = {step.stay_id for step in found.steps if step.kind is ActKind.CHECK_OUT}
    by_stay: dict[UUID | None, Step] = {step.stay_id: step for step in found.steps if step.kind is ActKind.CORRECT}
    for each in residents:
        if each.stay_id not in gone:
            step = by_stay.get(each.stay_id)
            room = (step.fields if step else {}).get("room", each.declared["room"])
            building = {**each.groups, **(step.groups if step else {})}.get("building")
            yield each.declared["guest"]["document"]["number"], room, building
    for step in found.steps:
        if step.kind is ActKind.DECLARE:
            yield step.fields["guest"]["document"]["number"], step.fields["room"], step.groups.get("building")


_HOUSE = st.dictionaries(
    st.integers(0, 25), st.tuples(st.sampled_from(["101", "102"]), st.sampled_from(["A", "B", None])), max_size=15
)
_LIST = st.dictionaries(st.integers(0, 25), st.sampled_from(["101", "102", "103"]), max_size=15)


@given(_HOUSE, _LIST)
def test_after_a_plan_the_scope_is_the_list_and_everybody_else_is_as_before(
    house: dict[int, tuple[str, str | None]], listed: dict[int, str]
) -> None:
    listed = {index: room for index, room in listed.items() if house.get(index, ("", "A"))[1] != "B"}
    residents = [resident(index, room, building, seen=9) for index, (room, building) in house.items()]
    lines = [line(row, index, room) for row, (index, room) in enumerate(listed.items(), 2)]
    after = sorted(applied(made(lines, residents), residents), key=str)
    here = [(person(index).document_number, room, "A") for index, room in listed.items()]
    elsewhere = [
        (person(index).document_number, room, building)
        for index, (room, building) in house.items()
        if building != "A" and index not in listed
    ]
    assert after == sorted(here + elsewhere, key=str)
