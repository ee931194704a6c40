"""A transition that names its guest by document: who is meant, who is not, and what a repetition does."""

from __future__ import annotations

from datetime import datetime, time, timedelta
from typing import Any

import pytest

from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.model import Facility
from asm_daemon.rules import HANOI, local_day
from schemas.act import Act, ActKind
from schemas.synthetic import person
from schemas.violations import violation
from tests.stack import Clock, FacilityMaker, Pools, command, declaration

ORIGIN = {"/document/type": "loaiGiayTo", "/document/number": "soGiayTo", "/planned_departure_at": "thoiGianStr"}


def document(index: int = 1, **changes: Any) -> dict[str, Any]:
    who = person(index)
    return {"document": {"type": who.document_type, "number": who.document_number, **changes}}


def leaving(match: dict[str, Any], departed_at: datetime) -> Act:
    return Act(ActKind.CHECK_OUT, {"departed_at": departed_at.isoformat()}, 1, match=match, origin=ORIGIN)


def extending(match: dict[str, Any], until: datetime) -> Act:
    return Act(ActKind.EXTEND, {"planned_departure_at": until.isoformat()}, 1, match=match, origin=ORIGIN)


async def take(intake: Intake, facility: Facility, clock: Clock, act: Act, **members: Any) -> Outcome:
    [outcome] = await intake.submit([Command(facility, act, clock(), "owner-1", **members)])
    return outcome


async def declare(intake: Intake, facility: Facility, clock: Clock, index: int = 1, **changes: Any) -> Outcome:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(index, **changes), clock)])
    assert outcome.outcome == "accepted"
    return outcome


def code_of(outcome: Outcome) -> str:
    assert outcome.refusal is not None, outcome.outcome
    return outcome.refusal.code


def faults_of(outcome: Outcome) -> list[tuple[str, str, str | None]]:
    assert outcome.refusal is not None, outcome.outcome
    return [(found.code, found.pointer, found.place) for found in outcome.refusal.violations]


async def changed(pools: Pools) -> int:
    connection = await pools.database.connect()
    found: int = await connection.fetchval("SELECT count(*) FROM stays WHERE version > 1")
    return found


# -- refusals ----------------------------------------------------------------------------------------------------------


async def test_what_the_document_shows_to_be_wrong_is_told_with_everything_else(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    fields = declaration(1, reason=99, room=None)
    del fields["arrived_at"]
    known = (violation("wrong_date", "/arrived_at", "ngayDenCsltStr", expected="YYYY-MM-DD"),)
    outcome = await take(intake, facility, clock, Act(ActKind.DECLARE, fields, 1, violations=known))
    assert faults_of(outcome) == [
        ("wrong_date", "/arrived_at", "ngayDenCsltStr"),
        ("required", "/room", None),
        ("unknown_code", "/reason", None),
    ]


async def test_a_document_that_cannot_be_one_is_refused_with_what_else_is_wrong(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    act = Act(ActKind.EXTEND, {}, 1, match=document(type=1, number="00009000001"), origin=ORIGIN)
    assert faults_of(await take(intake, facility, clock, act)) == [
        ("required", "/planned_departure_at", "thoiGianStr"),
        ("wrong_document_number", "/document/number", "soGiayTo"),
    ]


async def test_nobody_is_meant_by_a_document_that_is_not_in_house(
    intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools
) -> None:
    here, there = await make_facility("HY-KS-0001"), await make_facility("HY-KS-0002")
    await declare(intake, there, clock, 1)
    await declare(intake, here, clock, 2)
    for act in (leaving(document(1), clock()), extending(document(1), clock() + timedelta(days=3))):
        assert code_of(await take(intake, here, clock, act)) == "not_in_house"
    assert await changed(pools) == 0


async def test_the_same_number_on_another_kind_of_document_is_somebody_else(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    guest = {**declaration(1)["guest"], "document": {"type": 2, "number": "000000001"}}
    await declare(intake, facility, clock, guest=guest)
    match = {"document": {"type": 4, "number": "000000001"}}
    assert code_of(await take(intake, facility, clock, leaving(match, clock()))) == "not_in_house"


async def test_an_extension_in_the_strict_sense_goes_later_and_not_beyond_its_days(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    stay = (await declare(intake, facility, clock)).stay
    assert stay is not None
    assert stay.planned_departure_at is not None
    for until, code in (
        (stay.planned_departure_at - timedelta(hours=1), "departure_not_later"),
        (stay.arrived_at + timedelta(days=32), "stay_too_long"),
    ):
        outcome = await take(intake, facility, clock, extending(document(), until), extends_within_days=30)
        assert faults_of(outcome) == [(code, "/planned_departure_at", "thoiGianStr")]
    until = stay.arrived_at + timedelta(days=32)
    assert (await take(intake, facility, clock, extending(document(), until))).outcome == "accepted"


async def test_the_day_of_arrival_counts_and_not_its_hour(intake: Intake, facility: Facility, clock: Clock) -> None:
    arrived_on = local_day(clock()) - timedelta(days=2)

    def at(days: int, clock_time: time) -> datetime:
        return datetime.combine(arrived_on + timedelta(days=days), clock_time, HANOI)

    times = {"arrived_at": at(0, time(14)).isoformat(), "planned_departure_at": at(3, time(12)).isoformat()}
    await declare(intake, facility, clock, 1, **times)
    last = extending(document(), at(30, time(23, 59)))
    assert (await take(intake, facility, clock, last, extends_within_days=30)).outcome == "accepted"
    beyond = extending(document(), at(31, time(0)))
    outcome = await take(intake, facility, clock, beyond, extends_within_days=30)
    assert faults_of(outcome) == [("stay_too_long", "/planned_departure_at", "thoiGianStr")]


async def test_a_departure_that_was_long_ago_cannot_be_repeated(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock)
    await take(intake, facility, clock, leaving(document(), clock()))
    clock.instant += timedelta(hours=25)
    assert code_of(await take(intake, facility, clock, leaving(document(), clock()))) == "not_in_house"


async def test_an_extension_of_a_stay_that_is_over_finds_nobody(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock)
    await take(intake, facility, clock, leaving(document(), clock()))
    outcome = await take(intake, facility, clock, extending(document(), clock() + timedelta(days=5)))
    assert code_of(outcome) == "not_in_house"


async def test_a_cancelled_stay_is_nobody_in_house(intake: Intake, facility: Facility, clock: Clock) -> None:
    stay = (await declare(intake, facility, clock)).stay
    assert stay is not None
    await take(intake, facility, clock, Act(ActKind.CANCEL, {"reason": "duplicate"}, 1), stay_id=stay.id)
    assert code_of(await take(intake, facility, clock, leaving(document(), clock()))) == "not_in_house"


# -- who is meant ------------------------------------------------------------------------------------------------------


async def test_a_guest_leaves_and_the_repetition_gets_the_same_receipt(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    declared = await declare(intake, facility, clock)
    first = await take(intake, facility, clock, leaving(document(), clock()))
    assert first.outcome == "accepted"
    assert first.stay is not None
    assert declared.stay is not None
    assert (first.stay.id, first.stay.status) == (declared.stay.id, "departed")
    clock.instant += timedelta(hours=23)
    again = await take(intake, facility, clock, leaving(document(), clock()))
    assert (again.outcome, again.receipt) == ("duplicate", first.receipt)


async def test_a_departure_that_stands_twice_in_one_batch_is_one(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock)
    acts = [leaving(document(), clock()), leaving(document(), clock())]
    outcomes = await intake.submit([Command(facility, act, clock(), "owner-1") for act in acts])
    assert [outcome.outcome for outcome in outcomes] == ["accepted", "duplicate"]


async def test_a_guest_who_came_back_leaves_the_stay_they_are_in(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    await declare(intake, facility, clock)
    first = await take(intake, facility, clock, leaving(document(), clock()))
    times = {
        "arrived_at": (clock() + timedelta(minutes=5)).isoformat(),
        "planned_departure_at": (clock() + timedelta(days=1)).isoformat(),
    }
    back = await declare(intake, facility, clock, 1, **times)
    clock.instant += timedelta(hours=1)
    second = await take(intake, facility, clock, leaving(document(), clock()))
    again = await take(intake, facility, clock, leaving(document(), clock()))
    assert [each.stay.id for each in (second, again) if each.stay] == [back.stay.id] * 2  # type: ignore[union-attr]
    assert (second.outcome, again.outcome) == ("accepted", "duplicate")
    assert first.stay is not None
    assert again.receipt == second.receipt != first.receipt


async def test_of_two_stays_the_one_that_has_begun_is_meant(intake: Intake, facility: Facility, clock: Clock) -> None:
    now = clock()

    def between(begin: float, end: float) -> dict[str, str]:
        return {
            "arrived_at": (now + timedelta(hours=begin)).isoformat(),
            "planned_departure_at": (now + timedelta(hours=end)).isoformat(),
        }

    await declare(intake, facility, clock, 1, source_ref="over", **between(-72, -48))
    current = await declare(intake, facility, clock, 1, source_ref="now", **between(-24, 1))
    await declare(intake, facility, clock, 1, source_ref="next", **between(2, 30))
    outcome = await take(intake, facility, clock, leaving(document(), clock()))
    assert outcome.stay is not None
    assert current.stay is not None
    assert outcome.stay.id == current.stay.id


@pytest.mark.parametrize("kind", [1, 2, 7, 8])
async def test_the_cards_that_bear_the_personal_number_are_taken_for_each_other(
    intake: Intake, facility: Facility, clock: Clock, kind: int
) -> None:
    guest = {**declaration(1)["guest"], "document": {"type": 1, "number": "000190000001"}}
    await declare(intake, facility, clock, guest=guest)
    match = {"document": {"type": kind, "number": "000190000001"}}
    assert (await take(intake, facility, clock, leaving(match, clock()))).outcome == "accepted"


async def test_a_rehearsed_departure_ends_nothing(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await declare(intake, facility, clock)
    command = Command(facility, leaving(document(), clock()), clock(), "owner-1")
    [outcome] = await intake.rehearse([command])
    assert outcome.outcome == "accepted"
    assert await changed(pools) == 0


async def test_with_the_day_of_arrival_the_stay_that_began_then_is_meant(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    first_day = clock() - timedelta(days=9)
    stays = []
    for start in (first_day, clock() - timedelta(days=1)):
        times = {"arrived_at": start.isoformat(), "planned_departure_at": (start + timedelta(days=3)).isoformat()}
        stays.append((await declare(intake, facility, clock, 1, **times)).stay)
    match = {**document(), "arrived_on": local_day(first_day).isoformat()}
    left = await take(intake, facility, clock, leaving(match, first_day + timedelta(days=3)))
    assert left.outcome == "accepted"
    assert left.stay is not None
    assert stays[0] is not None
    assert left.stay.id == stays[0].id
    again = await take(intake, facility, clock, leaving(match, first_day + timedelta(days=3)))
    assert again.outcome == "duplicate"


async def test_with_another_day_of_arrival_nobody_is_meant(intake: Intake, facility: Facility, clock: Clock) -> None:
    stay = (await declare(intake, facility, clock, source_ref="A-1")).stay
    assert stay is not None
    yesterday = local_day(stay.arrived_at) - timedelta(days=1)
    match = {**document(), "arrived_on": yesterday.isoformat()}
    assert code_of(await take(intake, facility, clock, leaving(match, clock()))) == "not_in_house"
