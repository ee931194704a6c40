"""Guests before they are declared, over HTTP: what a hotel's software announces and the desk completes."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.rules import deadline, local_day
from schemas.codes import FacilityKind
from schemas.synthetic import person
from tests.stack import Clock, FacilityMaker
from tests.test_expected import at_the_desk, booking
from tests.web.conftest import KeyMaker, Web


async def announced(asm: Web, key: str, index: int = 1, **changes: Any) -> dict[str, Any]:
    answer = await asm.ask("POST", "/v1/expected", key, json=booking(index, **{"source_ref": f"B-{index}", **changes}))
    assert answer.status == 202, answer.json
    result: dict[str, Any] = answer.json
    return result


async def test_an_announcement_without_a_name_is_refused(asm: Web, owner_key: str) -> None:
    answer = await asm.ask("POST", "/v1/expected", owner_key, json=booking())
    assert answer.problem == (422, "declaration_invalid")
    assert [(each["code"], each["pointer"]) for each in answer.json["errors"]] == [("required", "/source_ref")]
    answer = await asm.ask("POST", "/v1/expected", owner_key, json=booking(source_ref="with space"))
    assert [each["code"] for each in answer.json["errors"]] == ["wrong_source_ref"]


async def test_an_expected_guest_of_somebody_else_is_not_found(
    asm: Web, owner_key: str, make_key: KeyMaker, other_facility: Facility
) -> None:
    expected_id = (await announced(asm, owner_key))["expected_id"]
    stranger = await make_key(PrincipalKind.OWNER, other_facility)
    for verb, body in (("declare", at_the_desk()), ("cancel", {"reason": "other"})):
        answer = await asm.ask("POST", f"/v1/expected/{expected_id}:{verb}", stranger, json=body)
        assert answer.problem == (404, "not_found")
    assert (await asm.ask("GET", "/v1/expected", stranger)).json == {"expected": [], "next": None}


async def test_who_may_only_look_declares_nobody(
    asm: Web, owner_key: str, make_key: KeyMaker, facility: Facility, other_facility: Facility
) -> None:
    expected_id = (await announced(asm, owner_key))["expected_id"]
    key = await make_key(PrincipalKind.VENDOR, facility, scopes={Scope.STATUS})
    answer = await asm.ask("POST", f"/v1/expected/{expected_id}:declare", key, json=at_the_desk())
    assert answer.problem == (403, "scope_missing")


async def test_the_desk_is_told_all_that_is_missing_and_then_gets_the_receipt(asm: Web, owner_key: str) -> None:
    kept = await announced(asm, owner_key)
    assert (kept["outcome"], kept["stay_id"], kept["receipt"]) == ("expected", None, None)
    assert {each["pointer"] for each in kept["missing"]} == {"/guest/birth_date", "/guest/document"}
    address = f"/v1/expected/{kept['expected_id']}:declare"
    refused = await asm.ask("POST", address, owner_key, json={})
    assert refused.problem == (422, "declaration_invalid")
    assert {each["pointer"] for each in refused.json["errors"]} == {"/guest/birth_date", "/guest/document"}
    done = await asm.ask("POST", address, owner_key, json=at_the_desk())
    assert (done.status, done.json["outcome"], done.json["source_ref"]) == (201, "accepted", "B-1")
    assert (await asm.ask("GET", done.headers["Location"], owner_key)).json["status"] == "declared"
    assert (await asm.ask("POST", address, owner_key, json=at_the_desk())).problem == (404, "not_found")
    found = (await asm.ask("GET", "/v1/stays?source_ref=B-1", owner_key)).json["stays"]
    assert [each["stay_id"] for each in found] == [done.json["stay_id"]]


async def test_another_name_is_not_given_while_declaring(asm: Web, owner_key: str) -> None:
    expected_id = (await announced(asm, owner_key))["expected_id"]
    body = {**at_the_desk(), "source_ref": "OTHER"}
    answer = await asm.ask("POST", f"/v1/expected/{expected_id}:declare", owner_key, json=body)
    assert [(each["code"], each["pointer"]) for each in answer.json["errors"]] == [("not_correctable", "/source_ref")]


async def test_a_cancelled_booking_is_listed_no_more(asm: Web, owner_key: str) -> None:
    expected_id = (await announced(asm, owner_key))["expected_id"]
    address = f"/v1/expected/{expected_id}:cancel"
    for outcome in ("expected", "duplicate"):
        answer = await asm.ask("POST", address, owner_key, json={"reason": "guest_did_not_stay"})
        assert (answer.status, answer.json["outcome"]) == (200, outcome)
    assert (await asm.ask("GET", "/v1/expected", owner_key)).json["expected"] == []


async def test_a_batch_counts_whom_it_only_expects(asm: Web, owner_key: str) -> None:
    rows = [booking(1, source_ref="B-1"), booking(2), {**booking(3, source_ref="B-3"), "present": "yes"}]
    answer = await asm.ask("POST", "/v1/expected:batch", owner_key, json=rows)
    result = answer.json
    assert answer.status == 207
    assert (result["received"], result["accepted"], result["expected"], result["refused"]) == (3, 0, 2, 1)
    assert [each["pointer"] for each in result["results"][2]["warnings"]] == ["/present"]


async def test_the_list_says_who_is_missing_by_deadline_and_nothing_about_anybody(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock
) -> None:
    hospital = await make_facility("HY-YT-0001", FacilityKind.MEDICAL_FACILITY)
    key = await make_key(PrincipalKind.OWNER, hospital)
    late = clock() - timedelta(days=2)
    early = (clock() + timedelta(days=5)).isoformat()
    await announced(asm, key, 1, arrived_at=early, planned_departure_at=None)
    await announced(asm, key, 2, arrived_at=late.isoformat(), planned_departure_at=None, present=True)
    await announced(asm, key, 3, arrived_at=None, planned_departure_at=None)
    listed, path = [], "/v1/expected?limit=1"
    while path:
        answer = await asm.ask("GET", path, key)
        (one,) = answer.json["expected"]
        listed.append(one)
        assert all(person(index).full_name not in answer.body.decode() for index in (1, 2, 3))
        path = answer.headers["Link"].partition(">")[0].removeprefix("<") if "Link" in answer.headers else ""
    assert [each["source_ref"] for each in listed] == ["B-2", "B-1", "B-3"]
    assert [each["present"] for each in listed] == [True, False, False]
    assert (listed[0]["minutes_left"], listed[0]["late_minutes"] > 0) == (0, True)
    assert (listed[1]["minutes_left"] > 0, listed[1]["late_minutes"]) == (True, 0)
    assert (listed[2]["deadline_at"], listed[2]["minutes_left"]) == (None, None)
    due = await asm.ask("GET", "/v1/expected", key, params={"due_before": clock().isoformat()})
    assert [each["source_ref"] for each in due.json["expected"]] == ["B-2"]


async def test_a_cursor_of_another_list_is_refused(asm: Web, owner_key: str, clock: Clock) -> None:
    await announced(asm, owner_key, 1)
    await announced(asm, owner_key, 2)
    cursor = (await asm.ask("GET", "/v1/expected?limit=1", owner_key)).json["next"]
    parameters = {"cursor": cursor, "due_before": clock().isoformat()}
    answer = await asm.ask("GET", "/v1/expected", owner_key, params=parameters)
    assert answer.problem == (422, "request_invalid")


async def test_the_state_of_a_facility_counts_who_waits_for_a_declaration(
    asm: Web, owner_key: str, clock: Clock
) -> None:
    arrival = clock() - timedelta(days=1)
    await announced(asm, owner_key, 1, arrived_at=clock().isoformat())
    await announced(asm, owner_key, 2, arrived_at=arrival.isoformat(), present=True)
    tomorrow = (clock() + timedelta(days=1)).isoformat()
    later = (clock() + timedelta(days=3)).isoformat()
    await announced(asm, owner_key, 3, arrived_at=tomorrow, planned_departure_at=later)
    (state,) = (await asm.ask("GET", "/v1/facilities", owner_key)).json["facilities"]
    assert (state["expected_today"], state["identity_pending"], state["in_house"]) == (1, 1, 0)
    assert state["next_deadline_at"] == deadline(arrival).isoformat().replace("+00:00", "Z")
    assert state["declared_today"] == 0
    assert local_day(arrival) < local_day(clock())
