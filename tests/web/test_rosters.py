"""Rosters over HTTP, on real intake: what is refused first, then the plan, its execution, and its repetition."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest
from aiohttp import FormData

from asm_daemon import rosters
from asm_daemon.crypto import Keyring
from asm_daemon.intake import Intake
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.rules import local_day
from asm_daemon.sealing import open_contents
from asm_daemon.store import rosters as store
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.synthetic import person
from tests.at_rest import found_in, tables
from tests.conftest import Database
from tests.stack import Clock, FacilityMaker, Pools, command
from tests.web.conftest import Answer, KeyMaker, Web
from tests.web.test_openapi import fits

HEADING = "Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Mã nhân viên;Tòa nhà;Phòng;Ngày vào"
Worker = tuple[int, str, str]
"""Index of the person, building, room."""


@pytest.fixture
async def dorm(make_facility: FacilityMaker) -> Facility:
    made: Facility = await make_facility("HY-KCN-0001", FacilityKind.INDUSTRIAL_ZONE_HOUSING, zone="KCN Mẫu")
    return made


@pytest.fixture
async def key(make_key: KeyMaker, dorm: Facility) -> str:
    return await make_key(PrincipalKind.OWNER, dorm)


def cells(clock: Clock, worker: Worker, *, number: str | None = None, code: str | None = None) -> str:
    index, building, room = worker
    who = person(index)
    born = "/".join(reversed(who.birth_date.split("-")))
    return ";".join(
        (
            who.full_name, born, "Nam" if who.gender == "M" else "Nữ", who.nationality, str(who.document_type),
            number or who.document_number, code or f"NV{index:04d}", building, room,
            local_day(clock.instant - timedelta(days=10)).strftime("%d/%m/%Y"),
        )
    )  # fmt: skip


def roster(clock: Clock, *workers: Worker | str) -> bytes:
    lines = [each if isinstance(each, str) else cells(clock, each) for each in workers]
    return "\n".join((HEADING, *lines)).encode()


Plan = Callable[..., Awaitable[Answer]]


@pytest.fixture
def plan(asm: Web, key: str) -> Plan:
    """`await plan(document, scope)` sends a roster."""

    async def send(document: bytes, scope: str | None = "building:A", **fields: str) -> Answer:
        form = FormData({**({"scope": scope} if scope else {}), **fields}, default_to_multipart=True)
        form.add_field("file", document, filename="danh-sach.csv")
        return await asm.ask("POST", "/v1/rosters", fields.get("key", key), data=form)

    return send


@pytest.fixture
def apply(asm: Web, key: str) -> Plan:
    """`await apply(planned, …)` executes a plan."""

    async def send(planned: Answer, **members: Any) -> Answer:
        return await asm.ask("POST", f"/v1/rosters/{planned.json['plan_id']}:apply", key, json=members)

    return send


def counted(answer: Answer) -> dict[str, int]:
    assert answer.status == 201, answer.body
    return {action: count for action, count in answer.json["counts"]["actions"].items() if count}


async def house(pools: Pools, keyring: Keyring, dorm: Facility) -> list[tuple[str, str, str | None]]:
    """Who is in house: document, room, building."""
    async with (await pools.get("asm_intake")).acquire() as connection:
        rows = await store.list_house(connection, dorm.id, 10_000)
    opened = [open_contents(keyring, row) for row in rows]
    return sorted(
        (each.declared["guest"]["document"]["number"], each.declared["room"], each.groups.get("building"))
        for each in opened
    )


# -- refused as a whole ------------------------------------------------------------------------------------------------


async def test_a_roster_without_scope_reader_or_rows_is_refused(plan: Plan, clock: Clock) -> None:
    document = roster(clock, (1, "A", "101"))
    assert (await plan(document, None)).problem == (422, "request_invalid")
    assert (await plan(document, "tầng 1")).problem == (422, "request_invalid")
    assert (await plan(document, absence_nights="x")).problem == (422, "request_invalid")
    assert (await plan(document, connector="none")).problem == (422, "unknown_connector")
    assert (await plan(document, facility="HY-KS-9999")).problem == (403, "facility_not_granted")
    assert (await plan(HEADING.encode())).problem == (422, "no_rows")
    assert (await plan(b"")).problem == (422, "no_rows")


async def test_a_plan_is_found_only_by_who_may_declare_there_and_until_it_expires(
    asm: Web, plan: Plan, apply: Plan, make_key: KeyMaker, other_facility: Facility, clock: Clock, pools: Pools
) -> None:
    planned = await plan(roster(clock, (1, "A", "101")))
    path = planned.headers["Location"]
    stranger = await make_key(PrincipalKind.OWNER, other_facility)
    assert (await asm.ask("GET", path, stranger)).problem == (404, "not_found")
    assert (await asm.ask("POST", f"{path}:apply", stranger, json={})).problem == (404, "not_found")
    pool = await pools.get("asm_intake")
    assert await rosters.erase_once(pool, clock()) == {"plans": 0, "seen": 0}
    clock.instant += timedelta(hours=24)
    assert (await apply(planned)).problem == (404, "not_found")
    assert await rosters.erase_once(pool, clock()) == {"plans": 1, "seen": 0}
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT count(*) FROM roster_plan_parts") == 0


# -- the plan changes nothing, and is what is done ---------------------------------------------------------------------


async def test_a_plan_changes_nothing_until_it_is_applied_and_then_only_once(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    planned = await plan(roster(clock, (1, "A", "101"), (2, "A", "101")))
    assert counted(planned) == {"check_in": 2}
    assert fits("/v1/rosters", "post", 201, planned.json)
    assert await house(pools, keyring, dorm) == []
    first = await apply(planned)
    assert (first.status, first.json["state"]) == (200, "applied")
    assert first.json["counts"] == {"accepted": 2, "duplicate": 0, "refused": 0, "undecided": 0}
    assert all(each["receipt"]["code"] and each["late_minutes"] > 0 for each in first.json["results"])
    assert fits("/v1/rosters/{plan_id}:apply", "post", 200, first.json)
    assert len(await house(pools, keyring, dorm)) == 2
    clock.instant += timedelta(hours=1)
    assert (await apply(planned)).json == first.json
    assert len(await house(pools, keyring, dorm)) == 2


async def test_an_execution_that_broke_off_is_finished_by_repeating_it(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility, asm: Web, key: str
) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"), (2, "A", "101"))))
    planned = await plan(roster(clock, (1, "A", "102"), (3, "A", "103")), absence_nights="0")
    await apply(planned)
    after = await house(pools, keyring, dorm)
    async with (await pools.get("asm_intake")).acquire() as connection:  # as if it had died before its last commit
        await connection.execute("UPDATE roster_plans SET finished_at = NULL")
        await connection.execute("DELETE FROM roster_plan_parts WHERE kind = 'result'")
    assert (await asm.ask("GET", planned.headers["Location"], key)).json["state"] == "applying"
    again = await apply(planned)
    assert again.json["counts"] == {"accepted": 0, "duplicate": 3, "refused": 0, "undecided": 0}
    assert await house(pools, keyring, dorm) == after


async def test_a_file_may_be_the_body_and_the_rest_parameters(asm: Web, key: str, clock: Clock, dorm: Facility) -> None:
    path = f"/v1/rosters?scope=building:A&facility={dorm.code}&absence_nights=0"
    csv = {"Content-Type": "text/csv"}
    answer = await asm.ask("POST", path, key, data=roster(clock, (1, "A", "101")), headers=csv)
    assert (counted(answer), answer.json["scope"], answer.json["absence_nights"]) == (
        {"check_in": 1},
        {"building": "A"},
        0,
    )


async def test_two_who_apply_at_once_do_it_once(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    planned = await plan(roster(clock, *((index, "A", "101") for index in range(20))))
    done = await asyncio.gather(*(apply(planned) for _ in range(4)))
    assert [each.status for each in done] == [200] * 4
    for each in done:
        assert each.json["counts"]["accepted"] + each.json["counts"]["duplicate"] == 20
    assert len(await house(pools, keyring, dorm)) == 20


# asm_retention seals blobs anew and sees nothing else: tests/test_resealing.py
@pytest.mark.parametrize("role", ["auth", "sync", "police", "guest", "feeds", "publish", "audit"])
async def test_no_other_login_reads_plans_or_marks(database: Database, role: str) -> None:
    connection = await database.connect(f"asm_{role}")
    for name in ("roster_plans", "roster_plan_parts", "roster_seen", "temporary_residence"):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(f"SELECT FROM {name}")


async def test_a_plan_is_refused_when_the_house_has_changed_since_in_a_way_that_matters(
    plan: Plan, apply: Plan, clock: Clock, intake: Intake, dorm: Facility, pools: Pools, keyring: Keyring
) -> None:
    first = await apply(await plan(roster(clock, (1, "A", "101"), (2, "A", "101"))))
    planned = await plan(roster(clock, (1, "A", "102"), (2, "A", "101")))
    harmless = await plan(roster(clock, (1, "A", "101"), (2, "A", "101")), "shift:1")
    left = command(
        dorm,
        ActKind.CHECK_OUT,
        {"departed_at": clock().isoformat()},
        clock,
        stay_id=UUID(first.json["results"][1]["stay_id"]),
    )
    [outcome] = await intake.submit([left])
    assert outcome.outcome == "accepted"
    assert (await apply(planned)).problem == (409, "roster_outdated")
    assert (await apply(harmless)).problem == (409, "roster_outdated")
    assert [room for _, room, _ in await house(pools, keyring, dorm)] == ["A-101"]
    again = await plan(roster(clock, (1, "A", "102"), (2, "A", "101")))
    assert counted(again) == {"room_change": 1, "return": 1}
    assert (await apply(again)).json["counts"]["accepted"] == 2


async def test_who_has_left_is_back_with_a_document_whose_number_has_a_slash(
    plan: Plan, apply: Plan, clock: Clock, intake: Intake, dorm: Facility
) -> None:
    line = cells(clock, (9, "A", "101"), number="00/2020").replace(";4;", ";5;")  # a birth certificate
    first = await apply(await plan(roster(clock, line)))
    stay_id = UUID(first.json["results"][0]["stay_id"])
    left = command(dorm, ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, clock, stay_id=stay_id)
    [outcome] = await intake.submit([left])
    assert outcome.outcome == "accepted"
    assert counted(await plan(roster(clock, line))) == {"return": 1}


async def test_what_happens_elsewhere_in_the_house_does_not_outdate_a_plan(
    plan: Plan, apply: Plan, clock: Clock
) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"))))
    planned = await plan(roster(clock, (1, "A", "102")))
    assert (await apply(await plan(roster(clock, (5, "B", "101")), "building:B"))).status == 200
    assert (await apply(planned)).json["counts"]["accepted"] == 1


# -- nobody is checked out by mistake ----------------------------------------------------------------------------------


async def test_a_half_empty_file_checks_nobody_out_without_the_exact_number(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    everybody: list[Worker] = [(index, "A", f"{index}") for index in range(40)]
    await apply(await plan(roster(clock, *everybody)))
    clock.instant += timedelta(hours=25)  # another day of the same month, mostly; nights are overridden
    half = await plan(roster(clock, *everybody[:20]), absence_nights="0")
    assert counted(half) == {"unchanged": 20, "check_out": 20}
    [limit] = half.json["limits_exceeded"]
    assert (limit["code"], limit["confirm"]) == ("check_outs", 20)
    assert (await apply(half)).problem == (409, "roster_unconfirmed")
    assert (await apply(half, confirm_check_outs=19)).problem == (409, "roster_unconfirmed")
    assert len(await house(pools, keyring, dorm)) == 40
    assert (await apply(half, confirm_check_outs=20)).json["counts"]["accepted"] == 20
    assert len(await house(pools, keyring, dorm)) == 20


async def test_a_line_that_cannot_be_taken_keeps_everybody_in_house(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"), (2, "A", "101"))))
    broken = cells(clock, (3, "A", "101")).replace("/", "?")
    wrong = cells(clock, (9, "A", "101"), number="TEST-TOO-LONG-FOR-A-PASSPORT")
    planned = await plan(roster(clock, (4, "A", "104"), broken, wrong, (6, "B", "1")), absence_nights="0")
    assert counted(planned) == {"check_in": 1, "refused": 3, "absent": 2}
    assert [each["code"] for each in planned.json["limits_exceeded"]] == ["roster_incomplete"]
    codes = [row["problem"]["errors"][0]["code"] for row in planned.json["rows"] if row["problem"]]
    assert codes == ["wrong_date", "wrong_document_number", "outside_scope"]
    done = await apply(planned)
    assert done.json["counts"] == {"accepted": 1, "duplicate": 0, "refused": 3, "undecided": 0}
    assert len(await house(pools, keyring, dorm)) == 3


async def test_an_absence_is_counted_from_the_last_list_that_was_applied(plan: Plan, apply: Plan, clock: Clock) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"), (2, "A", "101"))))
    document = roster(clock, (1, "A", "101"))
    for day in (1, 2):
        clock.instant += timedelta(days=1)
        planned = await plan(document)
        assert counted(planned) == {"unchanged": 1, "absent": 1}
        assert planned.json["rows"][-1]["nights_missing"] == day
        await apply(planned)
    clock.instant += timedelta(days=1)
    gone = await plan(document)
    assert counted(gone) == {"unchanged": 1, "check_out": 1}
    assert (await apply(gone)).json["results"][0]["outcome"] == "accepted"


# -- typing mistakes, moves --------------------------------------------------------------------------------------------


async def test_a_mistyped_number_is_corrected_or_another_person_only_as_the_manager_decides(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"), (2, "A", "102"))))
    digits = person(1).document_number[:-1] + "9"
    mistyped = cells(clock, (1, "A", "101"), number=digits)
    other = cells(clock, (3, "A", "102"), code="NV0002")
    document = roster(clock, mistyped, other)
    undecided = await plan(document)
    assert counted(undecided) == {"possible_typo": 2}
    assert (await apply(undecided)).json["counts"]["undecided"] == 2
    assert len(await house(pools, keyring, dorm)) == 2
    planned = await plan(document)
    wrong = await apply(planned, decisions=[{"row": 2, "decision": "move"}, {"row": 99, "decision": "skip"}])
    assert [each["code"] for each in wrong.json["errors"]] == ["no_such_decision"] * 2
    decisions = [{"row": 2, "decision": "correct"}, {"row": 3, "decision": "new_person"}]
    done = await apply(planned, decisions=decisions)
    assert [each["outcome"] for each in done.json["results"]] == ["accepted", "accepted"]
    assert {number for number, _, _ in await house(pools, keyring, dorm)} == {
        digits, person(2).document_number, person(3).document_number,
    }  # fmt: skip


async def test_two_lines_that_may_be_one_person_mistyped_are_two_questions(
    plan: Plan, apply: Plan, clock: Clock
) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"))))
    one, other = (cells(clock, (1, "A", "101"), number=person(1).document_number[:-1] + last) for last in "89")
    planned = await plan(roster(clock, one, other))
    assert counted(planned) == {"possible_typo": 2}
    decisions = [{"row": row, "decision": "correct"} for row in (2, 3)]
    done = await apply(planned, decisions=decisions)
    assert [each["outcome"] for each in done.json["results"]] == ["accepted", "refused"]
    assert done.json["results"][1]["problem"]["code"] == "version_conflict"


async def test_a_corrected_number_leaves_the_name_as_it_was_declared(plan: Plan, apply: Plan, clock: Clock) -> None:
    await apply(await plan(roster(clock, (1, "A", "101"))))
    planned = await plan(roster(clock, cells(clock, (3, "A", "101"), code="NV0001")))
    [row] = planned.json["rows"]
    assert row["differs"] == ["/guest/full_name", "/guest/birth_date"]
    done = await apply(planned, decisions=[{"row": 2, "decision": "correct"}])
    assert done.json["results"][0]["outcome"] == "accepted"


async def test_who_lives_in_another_building_moves_by_decision_and_takes_the_new_building(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    await apply(await plan(roster(clock, (1, "B", "101"), (2, "B", "102")), "building:B"))
    document = roster(clock, (1, "A", "301"))
    assert counted(await plan(document)) == {"elsewhere": 1}
    done = await apply(await plan(document), decisions=[{"row": 2, "decision": "move"}])
    assert done.json["counts"]["accepted"] == 1
    assert await house(pools, keyring, dorm) == sorted(
        [(person(1).document_number, "A-301", "A"), (person(2).document_number, "B-102", "B")]
    )
    assert counted(await plan(document)) == {"unchanged": 1}


# -- the law of a roster, on the real thing ----------------------------------------------------------------------------


async def test_after_each_of_many_lists_the_scope_is_the_list_and_the_rest_is_untouched(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    dice = random.Random(16)  # noqa: S311 - the same lists every time
    homes: Mapping[str, list[int]] = {"A": list(range(12)), "B": list(range(20, 32))}
    state: dict[str, dict[int, str]] = {"A": {}, "B": {}}
    for _ in range(10):
        building = dice.choice("AB")
        listed = {index: f"{dice.randrange(3)}" for index in dice.sample(homes[building], dice.randrange(1, 12))}
        document = roster(clock, *((index, building, room) for index, room in listed.items()))
        planned = await plan(document, f"building:{building}", absence_nights="0")
        if state[building] and not set(listed) & set(state[building]):
            assert counted(planned)["check_out"] == len(state[building])
        leaving = planned.json["counts"]["actions"]["check_out"]
        done = await apply(planned, confirm_check_outs=leaving)
        assert done.json["counts"]["refused"] == done.json["counts"]["undecided"] == 0
        state[building] = listed
        expected = sorted(
            (person(index).document_number, f"{name}-{room}", name)
            for name, rooms in state.items()
            for index, room in rooms.items()
        )
        assert await house(pools, keyring, dorm) == expected
        assert planned.json["counts"]["in_house_after"] == len(listed)
        assert set(counted(await plan(document, f"building:{building}", absence_nights="0"))) == {"unchanged"}
        clock.instant += timedelta(minutes=5)


async def test_a_landlords_monthly_list_renews_the_tenants_who_are_still_there(
    asm: Web, make_facility: FacilityMaker, make_key: KeyMaker, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    house_of_rooms = await make_facility("HY-NCT-0001", FacilityKind.RENTAL_HOUSING)
    key = await make_key(PrincipalKind.OWNER, house_of_rooms)
    today = local_day(clock())

    async def month(arrived: int, departs: int) -> Answer:
        who, start, end = person(1), today + timedelta(days=arrived), today + timedelta(days=departs)
        document = (
            "Họ tên;Ngày sinh;Giới tính;Số CCCD;Từ ngày;Đến ngày\n"
            f"{who.full_name};{'/'.join(reversed(who.birth_date.split('-')))};{'Nam' if who.gender == 'M' else 'Nữ'};"
            f"{who.document_number};{start:%d/%m/%Y};{end:%d/%m/%Y}"
        )
        form = FormData({"scope": "all"}, default_to_multipart=True)
        form.add_field("file", document.encode(), filename="thang.csv")
        planned = await asm.ask("POST", "/v1/rosters", key, data=form)
        done = await asm.ask("POST", f"{planned.headers['Location']}:apply", key, json={})
        assert done.json["counts"]["accepted"] == 1
        return planned

    assert counted(await month(-31, -1)) == {"check_in": 1}
    assert counted(await month(0, 30)) == {"renewal": 1}
    async with (await pools.get("asm_intake")).acquire() as connection:
        [row] = await store.list_house(connection, house_of_rooms.id, 10)
    assert (row.version, row.event, local_day(row.arrived_at)) == (2, "extend", today - timedelta(days=31))


# -- what is shown, what is kept ---------------------------------------------------------------------------------------


async def test_names_are_shown_only_with_the_scope_read_and_that_is_audited(
    asm: Web, plan: Plan, dorm: Facility, make_key: KeyMaker, clock: Clock, key: str, database: Database
) -> None:
    planned = await plan(roster(clock, (1, "A", "101")))
    assert planned.json["rows"][0]["guest"]["full_name"] == person(1).full_name
    vendor = await make_key(PrincipalKind.VENDOR, dorm, scopes={Scope.DECLARE})
    assert (await asm.ask("GET", planned.headers["Location"], vendor)).json["rows"][0]["guest"] is None
    shown = await asm.ask("GET", planned.headers["Location"], key, headers={"Accept": "text/html"})
    assert shown.headers["Content-Type"].startswith("text/html")
    assert person(1).full_name in shown.body.decode()
    assert "Vào ở" in shown.body.decode()
    connection = await database.connect()
    bodies = [bytes(row[0]) for row in await connection.fetch("SELECT body FROM audit_pending ORDER BY at")]
    assert sum(b'"roster.plan"' in body for body in bodies) == 1
    assert sum(b'"roster.read"' in body for body in bodies) == 1


async def test_no_table_holds_a_word_of_a_plan_or_its_result(
    plan: Plan, apply: Plan, clock: Clock, database: Database, logged: Any
) -> None:
    planted = cells(clock, (1, "A", "101"), code="MACANARI").replace(person(1).full_name, "NGUYỄN VĂN CANARI")
    await apply(await plan(roster(clock, planted)))
    assert found_in(await tables(await database.connect()), "canari") == set()
    assert b"canari" not in logged.getvalue().lower()


async def test_eight_hundred_workers_are_planned_and_applied_within_a_minute(
    plan: Plan, apply: Plan, clock: Clock, pools: Pools, keyring: Keyring, dorm: Facility
) -> None:
    workers: list[Worker] = [(index, "A", f"{index // 8}") for index in range(800)]
    started = time.perf_counter()
    assert (await apply(await plan(roster(clock, *workers)))).json["counts"]["accepted"] == 800
    moved = [(index, "A", f"{index // 4}") for index, _, _ in workers[10:]]
    planned = await plan(roster(clock, *moved), absence_nights="0")
    assert counted(planned)["check_out"] == 10
    assert (await apply(planned)).json["counts"]["refused"] == 0
    assert len(await house(pools, keyring, dorm)) == 790
    assert time.perf_counter() - started < 60
