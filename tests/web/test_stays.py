"""What owners do with a stay over HTTP, from the declaration to the receipt."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

import orjson
import pytest
from aiohttp import FormData

from asm_daemon.crypto import KeyPurpose, Keyring
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.receipts import verify_receipt
from asm_daemon.rules import day_bounds, local_day
from asm_daemon.samples import dorm_roster_csv, official_xlsx
from schemas.codes import FacilityKind
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import Clock, FacilityMaker, declaration
from tests.web.conftest import Answer, KeyMaker, Web


async def declare(asm: Web, key: str, index: int = 1, **changes: Any) -> Answer:
    return await asm.ask("POST", "/v1/stays", key, json=declaration(index, **changes))


# -- one declaration ---------------------------------------------------------------------------------------------------


async def test_a_declaration_is_answered_with_its_receipt(asm: Web, owner_key: str, keyring: Keyring) -> None:
    answer = await declare(asm, owner_key, source_ref="A-1")
    assert answer.status == 201
    result = answer.json
    assert (result["outcome"], result["source_ref"], result["version"]) == ("accepted", "A-1", 1)
    assert answer.headers["Location"] == f"/v1/stays/{result['stay_id']}"
    assert answer.headers["ETag"] == '"1"'
    assert answer.headers["Cache-Control"] == "no-store"
    key = keyring.signing_key(KeyPurpose.RECEIPT_TRIAL)
    proven = verify_receipt(result["receipt"]["signed"], key.public_key_bytes)
    assert (str(proven.leaf.stay_id), proven.leaf.late_minutes) == (result["stay_id"], result["late_minutes"])


async def test_the_same_declaration_again_is_on_file_already(asm: Web, owner_key: str) -> None:
    sent = declaration(1, source_ref="A-1")
    first = await asm.ask("POST", "/v1/stays", owner_key, json=sent)
    again = await asm.ask("POST", "/v1/stays", owner_key, json=sent)
    assert (first.status, again.status, again.json["outcome"]) == (201, 200, "duplicate")
    assert again.json["receipt"] == first.json["receipt"]


async def test_other_content_under_the_same_reference_says_how_to_correct(asm: Web, owner_key: str) -> None:
    first = await declare(asm, owner_key, source_ref="A-1")
    other = await declare(asm, owner_key, source_ref="A-1", room="999")
    assert other.problem == (409, "content_differs")
    assert (other.json["stay_id"], other.json["receipt"]["code"]) == (
        first.json["stay_id"],
        first.json["receipt"]["code"],
    )


async def test_a_guest_in_house_under_another_reference_answers_with_the_first_stay(asm: Web, owner_key: str) -> None:
    first = await declare(asm, owner_key, source_ref="A-1")
    again = await declare(asm, owner_key, source_ref="A-2")
    assert again.problem == (409, "already_staying")
    assert again.json["stay_id"] == first.json["stay_id"]
    override = {"code": "already_staying", "reason": "Khách thuê thêm một phòng nữa"}
    assert (await declare(asm, owner_key, source_ref="A-2", override=override)).status == 201


async def test_an_idempotency_key_names_a_stay_without_a_reference(asm: Web, owner_key: str) -> None:
    sent = declaration(1)
    named = {"headers": {"Idempotency-Key": '"k-1"'}}
    assert (await asm.ask("POST", "/v1/stays", owner_key, json=sent, **named)).status == 201
    assert (await asm.ask("POST", "/v1/stays", owner_key, json=sent, **named)).status == 200
    changed = await asm.ask("POST", "/v1/stays", owner_key, json={**sent, "room": "9"}, **named)
    assert changed.problem == (409, "content_differs")


async def test_an_idempotency_key_that_is_too_long_is_refused(asm: Web, owner_key: str) -> None:
    headers = {"Idempotency-Key": "k" * 129}
    answer = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1), headers=headers)
    assert answer.problem == (422, "request_invalid")
    assert answer.json["errors"][0]["place"] == "Idempotency-Key"


async def test_lateness_counts_from_the_complete_body(asm: Web, owner_key: str, clock: Clock) -> None:
    sent = declaration(1, source_ref="A-1")
    clock.instant += timedelta(days=1, hours=1)
    answer = await asm.ask("POST", "/v1/stays", owner_key, json=sent)
    assert answer.status == 201
    assert answer.json["late_minutes"] > 0
    assert answer.json["receipt"]["signed"]["received_at"].startswith(f"{clock.instant:%Y-%m-%dT%H:%M}")


# -- batches -----------------------------------------------------------------------------------------------------------


async def test_a_batch_answers_every_row_in_the_order_it_came(asm: Web, owner_key: str) -> None:
    sent_before = declaration(2, source_ref="B-2")
    assert (await asm.ask("POST", "/v1/stays", owner_key, json=sent_before)).status == 201
    rows = [
        declaration(1, source_ref="B-1"),
        sent_before,
        declaration(3, source_ref="B-3", room=None),
        declaration(4, source_ref="B-4"),
    ]
    answer = await asm.ask("POST", "/v1/stays:batch?expected_count=4", owner_key, json=rows)
    result = answer.json
    assert answer.status == 207
    assert [row["row"] for row in result["results"]] == [1, 2, 3, 4]
    assert [row["source_ref"] for row in result["results"]] == ["B-1", "B-2", "B-3", "B-4"]
    assert (result["received"], result["accepted"], result["duplicate"], result["refused"]) == (4, 2, 1, 1)
    assert result["results"][2]["problem"]["errors"][0]["pointer"] == "/room"


async def test_a_batch_of_which_every_row_is_on_file_is_a_plain_success(asm: Web, owner_key: str) -> None:
    rows = [declaration(index, source_ref=f"B-{index}") for index in range(1, 4)]
    first = await asm.ask("POST", "/v1/stays:batch", owner_key, json=rows)
    again = await asm.ask("POST", "/v1/stays:batch", owner_key, json=rows)
    assert (first.status, first.json["accepted"]) == (200, 3)
    assert (again.status, again.json["duplicate"]) == (200, 3)


async def test_lines_of_ndjson_are_counted_as_their_sender_counts_them(asm: Web, owner_key: str) -> None:
    lines = [orjson.dumps(declaration(1, source_ref="N-1")), b"", b'{"guest": ', orjson.dumps(declaration(2))]
    answer = await asm.ask(
        "POST", "/v1/stays:batch", owner_key, data=b"\r\n".join(lines), headers={"Content-Type": "application/x-ndjson"}
    )
    assert answer.status == 207
    assert [(row["row"], row["outcome"]) for row in answer.json["results"]] == [
        (1, "accepted"),
        (3, "refused"),
        (4, "accepted"),
    ]


async def test_one_batch_may_serve_several_facilities(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility
) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility, other_facility)
    rows = [declaration(1, facility=facility.code), declaration(1, facility=other_facility.code)]
    answer = await asm.ask("POST", "/v1/stays:batch", key, json=rows)
    assert (answer.status, answer.json["accepted"]) == (200, 2)


async def test_a_rehearsal_decides_alike_and_stores_nothing(asm: Web, owner_key: str, database: Database) -> None:
    await declare(asm, owner_key, 1, source_ref="A-1")
    rows = [declaration(1, source_ref="A-9"), declaration(2, source_ref="A-2")]
    answer = await asm.ask("POST", "/v1/stays:validate", owner_key, json=rows)
    assert answer.status == 207
    assert [row["outcome"] for row in answer.json["results"]] == ["refused", "accepted"]
    assert answer.json["results"][0]["problem"]["code"] == "already_staying"
    assert answer.json["results"][1]["receipt"] is None
    assert await (await database.connect()).fetchval("SELECT count(*) FROM stays") == 1


# -- changing ----------------------------------------------------------------------------------------------------------


async def test_a_stay_goes_through_its_whole_life(asm: Web, owner_key: str, clock: Clock) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]

    async def change(action: str, body: Any = None) -> tuple[int, int, str]:
        options = {} if body is None else {"json": body}
        answer = await asm.ask("POST", f"{path}:{action}", owner_key, **options)
        state = (await asm.ask("GET", path, owner_key)).json
        return answer.status, state["version"], state["status"]

    moved = await asm.ask("PATCH", path, owner_key, json={"room": "7"}, headers={"If-Match": '"1"'})
    assert (moved.status, moved.headers["ETag"]) == (200, '"2"')
    until = (clock() + timedelta(days=5)).isoformat()
    assert await change("extend", {"planned_departure_at": until}) == (200, 3, "declared")
    left = {"departed_at": clock().isoformat()}
    assert await change("check-out", left) == (200, 4, "departed")
    assert await change("check-out", left) == (200, 4, "departed")
    assert await change("undo-check-out") == (200, 5, "declared")
    assert await change("cancel", {"reason": "guest_did_not_stay"}) == (200, 6, "cancelled")
    receipts = [await asm.ask("GET", f"{path}/receipt?version={version}", owner_key) for version in range(1, 8)]
    assert [receipt.status for receipt in receipts] == [200] * 6 + [404]
    assert [receipt.json["signed"]["event"] for receipt in receipts[:6]] == [
        "declare", "correct", "extend", "check_out", "undo_check_out", "cancel",
    ]  # fmt: skip


async def test_a_correction_says_which_version_it_knows(asm: Web, owner_key: str) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]
    blind = await asm.ask("PATCH", path, owner_key, json={"room": "7"})
    assert blind.problem == (428, "precondition_required")
    tags = {'"2"': (412, "version_conflict"), "*": (428, "precondition_required"), "one": (422, "request_invalid")}
    for tag, expected in tags.items():
        answer = await asm.ask("PATCH", path, owner_key, json={"room": "7"}, headers={"If-Match": tag})
        assert (tag, answer.problem) == (tag, expected)


async def test_two_corrections_of_one_version_do_not_overwrite_each_other(asm: Web, owner_key: str) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]
    answers = await asyncio.gather(
        *(asm.ask("PATCH", path, owner_key, json={"room": room}, headers={"If-Match": '"1"'}) for room in ("7", "8"))
    )
    assert sorted(answer.status for answer in answers) == [200, 412]


async def test_a_correction_that_makes_another_person_is_refused(asm: Web, owner_key: str) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]
    patch = {"guest": declaration(2)["guest"]}
    answer = await asm.ask(
        "PATCH",
        path,
        owner_key,
        data=orjson.dumps(patch),
        headers={"If-Match": '"1"', "Content-Type": "application/merge-patch+json"},
    )
    assert answer.problem == (422, "another_person")


async def test_an_act_without_its_content_is_refused(asm: Web, owner_key: str) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]
    for action in ("check-out", "extend", "cancel"):
        assert (await asm.ask("POST", f"{path}:{action}", owner_key)).problem == (415, "unsupported_media_type")
        answer = await asm.ask("POST", f"{path}:{action}", owner_key, json={})
        assert answer.problem == (422, "declaration_invalid")
        assert answer.json["errors"][0]["code"] == "required"


# -- asking ------------------------------------------------------------------------------------------------------------


async def test_a_reference_is_answered_with_authority_after_a_lost_answer(asm: Web, owner_key: str) -> None:
    stay_id = (await declare(asm, owner_key, source_ref="A-1")).json["stay_id"]
    found = await asm.ask("GET", "/v1/stays?source_ref=A-1", owner_key)
    never = await asm.ask("GET", "/v1/stays?source_ref=A-2", owner_key)
    assert [stay["stay_id"] for stay in found.json["stays"]] == [stay_id]
    assert (never.status, never.json["stays"]) == (200, [])


async def test_pages_are_linked_and_hold_no_personal_data(asm: Web, owner_key: str) -> None:
    rows = [declaration(index, source_ref=f"P-{index}") for index in range(1, 8)]
    filed = (await asm.ask("POST", "/v1/stays:batch", owner_key, json=rows)).json["results"]
    seen, path = [], "/v1/stays?limit=3&status=declared"
    while path:
        answer = await asm.ask("GET", path, owner_key)
        assert answer.status == 200
        assert b"guest" not in answer.body
        seen += [stay["stay_id"] for stay in answer.json["stays"]]
        link = answer.headers.get("Link", "")
        assert not link or link.endswith('>; rel="next"')
        path = link.partition(">")[0].removeprefix("<")
    assert seen == sorted(row["stay_id"] for row in filed)


@pytest.mark.parametrize(
    "query", ["limit=0", "limit=501", "limit=x", "since=2026-11-23", "status=lost", "page=2", "cursor=x"]
)
async def test_a_wrong_question_is_refused(asm: Web, owner_key: str, query: str) -> None:
    answer = await asm.ask("GET", f"/v1/stays?{query}", owner_key)
    assert answer.problem == (422, "request_invalid")
    assert answer.json["errors"][0]["pointer"] == "/" + query.partition("=")[0]


async def test_declared_data_is_shown_only_on_demand_and_to_whom_may_read(
    asm: Web, make_key: KeyMaker, facility: Facility, owner_key: str, database: Database
) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]
    state = await asm.ask("GET", path, owner_key)
    assert "declaration" not in state.json
    full = await asm.ask("GET", f"{path}?view=full", owner_key)
    assert full.json["declaration"]["guest"]["full_name"] == declaration(1)["guest"]["full_name"]
    assert full.headers["ETag"] == '"1"'
    vendor = await make_key(PrincipalKind.VENDOR, facility)
    assert (await asm.ask("GET", path, vendor)).status == 200
    assert (await asm.ask("GET", f"{path}?view=full", vendor)).problem == (403, "scope_missing")
    audited = "SELECT count(*) FROM audit_pending WHERE convert_from(body, 'UTF8') LIKE '%stay.read%'"
    assert await (await database.connect()).fetchval(audited) == 1


async def test_nothing_tells_a_stay_of_others_from_one_that_does_not_exist(
    asm: Web, owner_key: str, make_key: KeyMaker, other_facility: Facility
) -> None:
    path = (await declare(asm, owner_key, source_ref="A-1")).headers["Location"]
    stranger = await make_key(PrincipalKind.OWNER, other_facility)
    nowhere = "/v1/stays/" + "0" * 8 + "-0000-7000-8000-" + "0" * 12
    patch = {"json": {"room": "1"}, "headers": {"If-Match": '"1"'}}
    for where in (path, nowhere):
        for method, rest, options in (
            ("GET", "", {}),
            ("GET", "?view=full", {}),
            ("GET", "/receipt", {}),
            ("PATCH", "", patch),
            ("POST", ":cancel", {"json": {"reason": "other"}}),
        ):
            assert (await asm.ask(method, where + rest, stranger, **options)).problem == (404, "not_found")
    assert (await asm.ask("GET", "/v1/stays", stranger)).json["stays"] == []


async def test_an_id_that_is_none_is_not_found(asm: Web, owner_key: str) -> None:
    for stay_id in ("1", "x" * 36, "11111111-1111-4111-8111-111111111111", "%00"):
        assert (await asm.ask("GET", f"/v1/stays/{stay_id}", owner_key)).problem == (404, "not_found")


async def test_every_granted_facility_stands_in_one_answer(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility
) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility, other_facility)
    await declare(asm, key, 1, facility=other_facility.code)
    states = {state["code"]: state for state in (await asm.ask("GET", "/v1/facilities", key)).json["facilities"]}
    assert (states[facility.code]["declared_today"], states[facility.code]["last_declared_at"]) == (0, None)
    assert (states[other_facility.code]["declared_today"], states[other_facility.code]["in_house"]) == (1, 1)
    assert states[facility.code]["scopes"] == ["declare", "status"]


# -- files -------------------------------------------------------------------------------------------------------------


async def test_a_file_of_unknown_kind_is_refused(asm: Web, owner_key: str) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    for path in ("/v1/imports", "/v1/imports?connector=none"):
        answer = await asm.ask("POST", path, owner_key, data=b"1,2", headers=headers)
        assert answer.problem == (422, "unknown_connector")


async def test_a_file_is_declared_row_by_row_and_its_cells_are_named(
    asm: Web, owner_key: str, clock: Clock, database: Database
) -> None:
    day = local_day(clock())
    clock.instant = day_bounds(day)[0] + timedelta(hours=12)
    content = official_xlsx(day, 3, seed=1)
    for _ in range(2):
        form = FormData()
        form.add_field("file", content, filename="KHACH.XLSX", content_type="application/octet-stream")
        answer = await asm.ask("POST", "/v1/imports", owner_key, data=form)
        assert (answer.status, answer.json["received"], answer.json["refused"]) == (200, 3, 0)
    assert (answer.json["accepted"], answer.json["duplicate"]) == (3, 0)  # the same file is the same job
    assert [row["row"] for row in answer.json["results"]] == [5, 6, 7]
    assert await (await database.connect()).fetchval("SELECT count(*) FROM stays") == 3


async def test_a_file_as_the_body_names_the_place_of_a_fault(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock
) -> None:
    dorm = await make_facility("HY-KCN-001", FacilityKind.INDUSTRIAL_ZONE_HOUSING, zone="KCN Mẫu")
    key = await make_key(PrincipalKind.OWNER, dorm)
    content = dorm_roster_csv(local_day(clock()), 2, seed=2)
    number = person(2_001).document_number
    answer = await asm.ask(
        "POST",
        "/v1/imports?rehearse=true",
        key,
        data=content.replace(number.encode(), number[:-1].encode()),
        headers={"Content-Type": "text/csv"},
    )
    assert (answer.status, answer.json["received"], answer.json["refused"]) == (207, 2, 1)
    refused = next(row for row in answer.json["results"] if row["outcome"] == "refused")
    assert refused["problem"]["errors"][0]["place"]
    assert number[:-1].encode() not in answer.body


async def test_a_form_without_a_file_is_refused(asm: Web, owner_key: str) -> None:
    form = FormData({"connector": "dorm_roster"}, default_to_multipart=True)
    answer = await asm.ask("POST", "/v1/imports", owner_key, data=form)
    assert answer.problem == (422, "request_invalid")
    assert answer.json["errors"][0]["pointer"] == "/file"


async def test_a_file_of_nothing_is_no_success(asm: Web, owner_key: str) -> None:
    form = FormData()
    form.add_field("file", b"", filename="danh-sach.xlsx")
    answer = await asm.ask("POST", "/v1/imports", owner_key, data=form)
    assert answer.status == 422


async def test_a_key_without_the_scope_declares_nothing(asm: Web, make_key: KeyMaker, facility: Facility) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility, scopes={Scope.STATUS})
    assert (await declare(asm, key)).problem == (403, "scope_missing")


# -- the sandbox -------------------------------------------------------------------------------------------------------


async def test_the_sandbox_gives_every_error_that_it_promises(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker
) -> None:
    sandbox = await make_facility("HY-TEST-01", sandbox=True)
    key = await make_key(PrincipalKind.OWNER, sandbox)
    promised = (await asm.ask("GET", "/v1/sandbox")).json["errors"]
    assert len(promised) > 50
    for error in promised:
        answer = await declare(asm, key, source_ref=error["source_ref"])
        assert answer.problem[1] == error["code"], error
        if error["violation"]:
            assert [each["code"] for each in answer.json["errors"]] == [error["violation"]]


async def test_the_persons_of_the_sandbox_get_the_answer_that_is_promised(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker, database: Database
) -> None:
    sandbox = await make_facility("HY-TEST-01", sandbox=True, capacity=1)
    key = await make_key(PrincipalKind.OWNER, sandbox)
    told = []
    for entry in (await asm.ask("GET", "/v1/sandbox")).json["persons"]:
        answer = await declare(asm, key, guest=entry["guest"])
        assert answer.status == 201
        state = (await asm.ask("GET", answer.headers["Location"], key)).json
        assert state["confirmed_version"] == 1
        assert state["check_document"] == (entry["verification"] != "matched")
        assert state["verification_told"] is True
        assert answer.json["receipt"]["trial"] is True
        told += [state["stay_id"]] if state["check_document"] else []
    superuser = await database.connect()
    events = await superuser.fetch("SELECT stay_id FROM owner_events_pending WHERE kind = 'stay.check_document'")
    assert sorted(str(row["stay_id"]) for row in events) == sorted(told)
    assert await superuser.fetchval("SELECT count(*) FROM police_alerts") == 0


async def test_a_trial_that_is_cancelled_or_extended_asks_nothing_again(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker, database: Database, clock: Clock
) -> None:
    sandbox = await make_facility("HY-TEST-01", sandbox=True)
    key = await make_key(PrincipalKind.OWNER, sandbox)
    wrong = next(
        entry["guest"]
        for entry in (await asm.ask("GET", "/v1/sandbox")).json["persons"]
        if entry["verification"] == "mismatch"
    )
    stay = (await declare(asm, key, guest=wrong)).headers["Location"]
    until = {"planned_departure_at": (clock() + timedelta(days=3)).isoformat()}
    assert (await asm.ask("POST", f"{stay}:extend", key, json=until)).json["version"] == 2
    assert (await asm.ask("GET", stay, key)).json["check_document"] is True
    assert (await asm.ask("POST", f"{stay}:cancel", key, json={"reason": "entered_by_mistake"})).status == 200
    assert (await asm.ask("GET", stay, key)).json["check_document"] is False
    told = await (await database.connect()).fetch("SELECT FROM owner_events_pending WHERE kind = 'stay.check_document'")
    assert len(told) == 1
