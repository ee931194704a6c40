"""Temporary residence: marks that are refused first, then who is reminded, until when, and what is kept of it."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from asm_daemon.intake import Intake
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.rules import HANOI, RESIDENCE_RULES, local_day, residence_rule, thirtieth_day
from schemas.act import ActKind
from schemas.codes import FacilityKind
from tests.at_rest import found_in, tables
from tests.conftest import Database
from tests.stack import Clock, FacilityMaker, command, declaration
from tests.web.conftest import Answer, KeyMaker, Web
from tests.web.test_openapi import fits

NOWHERE = "00000000-0000-7000-8000-000000000000"


@pytest.fixture
async def rental(make_facility: FacilityMaker) -> Facility:
    made: Facility = await make_facility("HY-NCT-0001", FacilityKind.RENTAL_HOUSING)
    return made


@pytest.fixture
async def key(make_key: KeyMaker, rental: Facility) -> str:
    return await make_key(PrincipalKind.OWNER, rental)


async def tenant(asm: Web, key: str, clock: Clock, index: int, days_ago: int, **changes: Any) -> str:
    """The id of a stay that began so many days ago, without an end."""
    members = {
        "arrived_at": (clock() - timedelta(days=days_ago)).isoformat(),
        "planned_departure_at": None,
        "source_ref": f"P-{index}",
        **changes,
    }
    filed = await asm.ask("POST", "/v1/stays", key, json=declaration(index, **members))
    stay_id: str = filed.json["stay_id"]
    return stay_id


async def mark(asm: Web, key: str, stay_id: str, registered_on: object, reference: object = "TT-1") -> Answer:
    body = {"registered_on": str(registered_on), "reference": reference}
    return await asm.ask("POST", f"/v1/stays/{stay_id}:temporary-residence", key, json=body)


async def reminded(asm: Web, key: str, parameters: str = "") -> list[tuple[str, int]]:
    answer = await asm.ask("GET", f"/v1/reminders{parameters}", key)
    return [(each["source_ref"], each["days_left"]) for each in answer.json["reminders"]]


# -- marks that are refused --------------------------------------------------------------------------------------------


async def test_everything_wrong_with_a_mark_is_told_at_once(asm: Web, key: str, clock: Clock) -> None:
    stay = await tenant(asm, key, clock, 1, 40)
    wrong = await mark(asm, key, stay, "20/11/2026", "")
    assert wrong.problem == (422, "request_invalid")
    assert [each["pointer"] for each in wrong.json["errors"]] == ["/registered_on", "/reference"]
    tomorrow = await mark(asm, key, stay, local_day(clock()) + timedelta(days=1))
    assert tomorrow.problem == (422, "request_invalid")
    assert [(each["code"], each["pointer"]) for each in tomorrow.json["errors"]] == [("in_future", "/registered_on")]


async def test_only_ones_own_stays_that_stand_can_be_marked(
    asm: Web, key: str, clock: Clock, make_key: KeyMaker, other_facility: Facility, rental: Facility
) -> None:
    stay, today = await tenant(asm, key, clock, 1, 40), local_day(clock())
    assert (await mark(asm, key, NOWHERE, today)).problem == (404, "not_found")
    stranger = await make_key(PrincipalKind.OWNER, other_facility)
    assert (await mark(asm, stranger, stay, today)).problem == (404, "not_found")
    await asm.ask("POST", f"/v1/stays/{stay}:cancel", key, json={"reason": "entered_by_mistake"})
    assert (await mark(asm, key, stay, today)).problem == (409, "wrong_state")
    reader = await make_key(PrincipalKind.VENDOR, rental, scopes={Scope.STATUS})
    assert (await mark(asm, reader, stay, today)).problem == (403, "scope_missing")


async def test_a_batch_takes_what_it_can_and_tells_the_rest_by_row(asm: Web, key: str, clock: Clock) -> None:
    stay, today = await tenant(asm, key, clock, 1, 40), str(local_day(clock()))
    good = {"stay_id": stay, "registered_on": today, "reference": "TT-1"}
    rows = [good, good, {**good, "stay_id": NOWHERE}, {**good, "stay_id": "x", "note": "?"}, 7]
    answer = await asm.ask("POST", "/v1/temporary-residence:batch", key, json=rows)
    assert answer.status == 207
    assert fits("/v1/temporary-residence:batch", "post", 207, answer.json)
    assert fits("/v1/reminders", "get", 200, (await asm.ask("GET", "/v1/reminders", key)).json)
    assert {name: answer.json[name] for name in ("received", "accepted", "duplicate", "refused")} == {
        "received": 5, "accepted": 1, "duplicate": 1, "refused": 3,
    }  # fmt: skip
    assert [(each["row"], each["outcome"]) for each in answer.json["results"]] == [
        (1, "accepted"), (2, "duplicate"), (3, "refused"), (4, "refused"), (5, "refused"),
    ]  # fmt: skip
    assert (await asm.ask("POST", "/v1/temporary-residence:batch", key, json=[good])).status == 200
    assert (await asm.ask("POST", "/v1/temporary-residence:batch", key, json=[])).problem == (422, "no_rows")


# -- reminders ---------------------------------------------------------------------------------------------------------


async def test_nobody_is_reminded_of_short_stays_foreigners_patients_and_those_who_have_left(
    asm: Web, key: str, clock: Clock, make_facility: FacilityMaker, make_key: KeyMaker
) -> None:
    await tenant(asm, key, clock, 1, 5)
    await tenant(asm, key, clock, 9, 40)  # a foreigner
    await tenant(asm, key, clock, 2, 25, planned_departure_at=(clock() + timedelta(days=2)).isoformat())
    left = await tenant(asm, key, clock, 3, 40)
    await asm.ask("POST", f"/v1/stays/{left}:check-out", key, json={"departed_at": clock().isoformat()})
    assert await reminded(asm, key) == []
    hospital = await make_facility("HY-BV-0001", FacilityKind.MEDICAL_FACILITY)
    ward = await make_key(PrincipalKind.OWNER, hospital)
    await tenant(asm, ward, clock, 4, 40)
    assert await reminded(asm, ward) == []


async def test_who_stays_thirty_days_is_reminded_of_a_week_before_and_ever_after(
    asm: Web, key: str, clock: Clock
) -> None:
    for index, days in ((1, 21), (2, 22), (3, 29), (4, 60)):
        await tenant(asm, key, clock, index, days)
    assert await reminded(asm, key) == [("P-4", -31), ("P-3", 0), ("P-2", 7)]
    assert await reminded(asm, key, "?within_days=0") == [("P-4", -31), ("P-3", 0)]
    assert await reminded(asm, key, "?within_days=8&facility=HY-NCT-0001") == [
        ("P-4", -31), ("P-3", 0), ("P-2", 7), ("P-1", 8),
    ]  # fmt: skip
    assert (await asm.ask("GET", "/v1/reminders?facility=HY-KS-9999", key)).problem == (403, "facility_not_granted")


async def test_a_stay_that_outlasts_its_planned_end_is_reminded_of(asm: Web, key: str, clock: Clock) -> None:
    await tenant(asm, key, clock, 1, 40, planned_departure_at=(clock() - timedelta(days=20)).isoformat())
    assert await reminded(asm, key) == [("P-1", -11)]


async def test_reminders_go_on_where_the_last_page_ended(asm: Web, key: str, clock: Clock) -> None:
    for index in range(1, 6):
        await tenant(asm, key, clock, index, 40 + index)
    shown, path = [], "/v1/reminders?limit=2"
    while path:
        answer = await asm.ask("GET", path, key)
        shown += [each["source_ref"] for each in answer.json["reminders"]]
        path = answer.headers["Link"].split(">")[0][1:] if "Link" in answer.headers else ""
    assert shown == ["P-5", "P-4", "P-3", "P-2", "P-1"]
    cursor = (await asm.ask("GET", "/v1/reminders?limit=2", key)).json["next"]
    other = await asm.ask("GET", f"/v1/reminders?within_days=9&cursor={cursor}", key)
    assert [each["code"] for each in other.json["errors"]] == ["wrong_cursor"]


async def test_a_mark_ends_the_reminder_and_the_guest_stays_in_house(
    asm: Web, key: str, clock: Clock, database: Database
) -> None:
    stay, today = await tenant(asm, key, clock, 1, 40), local_day(clock())
    marked = await mark(asm, key, stay, today, "HS-CANARI")
    assert (marked.status, marked.json["outcome"], marked.json["notice_due"]) == (200, "accepted", False)
    assert await reminded(asm, key) == []
    [state] = (await asm.ask("GET", "/v1/facilities", key)).json["facilities"]
    assert (state["in_house"], state["temporary_residence"]) == (1, 1)
    assert (await mark(asm, key, stay, today, "HS-CANARI")).json["outcome"] == "duplicate"
    assert (await mark(asm, key, stay, today, "HS-CANARI-2")).json["outcome"] == "accepted"
    connection = await database.connect()
    bodies = [bytes(row[0]) for row in await connection.fetch("SELECT body FROM audit_pending")]
    assert sum(b'"stay.temporary_residence"' in body for body in bodies) == 2
    assert found_in(await tables(connection), "canari") == set()


# -- the law -----------------------------------------------------------------------------------------------------------


def test_every_kind_of_facility_has_one_rule_at_every_time_since_the_law() -> None:
    for kind in FacilityKind:
        for day in (date(2021, 7, 1), date(2026, 11, 28)):
            assert residence_rule(kind, day).source
    days = [rule.valid_from for rule in RESIDENCE_RULES]
    assert min(days) == date(2021, 7, 1)


def test_the_day_of_arrival_is_the_first_of_thirty(clock: Clock) -> None:
    arrived = clock.instant.astimezone(HANOI).replace(month=11, day=1, hour=23, minute=59)
    assert thirtieth_day(arrived) == arrived.date().replace(day=30)


async def test_a_guest_of_rental_housing_may_stay_for_years_and_without_an_end(
    intake: Intake, rental: Facility, clock: Clock
) -> None:
    fields = declaration(1, planned_departure_at=None)
    [first] = await intake.submit([command(rental, ActKind.DECLARE, fields, clock, source_ref="P-1")])
    until = {"planned_departure_at": (clock() + timedelta(days=400)).isoformat()}
    [renewed] = await intake.submit([command(rental, ActKind.EXTEND, until, clock, source_ref="P-1")])
    assert (first.outcome, renewed.outcome) == ("accepted", "accepted")
