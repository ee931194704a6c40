"""The alerts of the police over HTTP: named by stay and place, opened under a purpose, and nothing without a record."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import verification
from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.store.sync import Confirmation
from schemas.population import Verification
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import Clock, Pools, declaration
from tests.web.conftest import Answer, KeyMaker, Web

ALERTS = "/v1/police/alerts"
REASONS = {"purpose": "criminal_investigation", "case_ref": "15/2026/HS-PC02"}
NOWHERE = "00000000-0000-7000-8000-000000000000"
Raise = Callable[..., Awaitable[UUID]]


@pytest.fixture
async def officer_key(make_key: KeyMaker) -> str:
    return await make_key(PrincipalKind.OFFICER)


@pytest.fixture
def verified(pools: Pools, facility: Facility, clock: Clock) -> Callable[..., Awaitable[None]]:
    """`await verified(stay_id, found, version)`: the population database has answered."""

    async def recorded(stay_id: UUID, found: Verification, version: int = 1) -> None:
        one = Confirmation(facility.id, stay_id, version, found, question=version.to_bytes(16))
        async with (await pools.get("asm_sync")).acquire() as connection, connection.transaction():
            await verification.record(connection, [one], clock())

    return recorded


@pytest.fixture
def raise_alert(asm: Web, owner_key: str, verified: Callable[..., Awaitable[None]]) -> Raise:
    """`await raise_alert(index)` declares a synthetic person whose document is revoked; returns the stay."""

    async def made(index: int = 1) -> UUID:
        filed = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(index))
        stay_id = UUID(filed.json["stay_id"])
        await verified(stay_id, Verification.DOCUMENT_REVOKED)
        return stay_id

    return made


async def only_alert(asm: Web, key: str) -> dict[str, Any]:
    [alert] = (await asm.ask("GET", ALERTS, key)).json["alerts"]
    shown: dict[str, Any] = alert
    return shown


async def recorded(database: Database) -> list[dict[str, Any]]:
    """The police's audit entries, in the order in which they came."""
    superuser: asyncpg.Connection = await database.connect()
    sealed = await superuser.fetch("SELECT body FROM audit_log ORDER BY position")
    waiting = await superuser.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    bodies = [orjson.loads(row["body"]) for row in (*sealed, *waiting)]
    return [body for body in bodies if body["action"].startswith("police.")]


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [PrincipalKind.OWNER, PrincipalKind.VENDOR])
async def test_the_facility_neither_sees_nor_changes_an_alert(
    asm: Web, make_key: KeyMaker, facility: Facility, raise_alert: Raise, officer_key: str, kind: PrincipalKind
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    key = await make_key(kind, facility)
    assert (await asm.ask("GET", ALERTS, key)).problem == (403, "forbidden")
    for act, body in (("open", REASONS), ("acknowledge", {"state": "seen"})):
        answer = await asm.ask("POST", f"{ALERTS}/{alert_id}:{act}", key, json=body)
        assert answer.problem == (403, "forbidden")


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({}, (422, "request_invalid")),
        ({**REASONS, "purpose": "curiosity"}, (422, "request_invalid")),
        ({**REASONS, "case_ref": "000190000001"}, (422, "request_invalid")),
        ({**REASONS, "name": "x"}, (422, "request_invalid")),
    ],
)
async def test_a_stay_is_not_opened_without_its_reasons(
    asm: Web, officer_key: str, raise_alert: Raise, body: dict[str, str], problem: tuple[int, str]
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    answer = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=body)
    assert answer.problem == problem


async def test_a_purpose_that_does_not_allow_to_look_at_a_stay_opens_none_and_the_refusal_is_on_record(
    asm: Web, officer_key: str, raise_alert: Raise, database: Database
) -> None:
    await raise_alert()
    await (await database.connect()).execute("UPDATE police_purposes SET query_kinds = '{document}'")
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    answer = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=REASONS)
    assert answer.problem == (403, "purpose_not_allowed")
    last = (await recorded(database))[-1]
    assert (last["action"], last["object"]) == ("police.search.refuse", f"police_alert/{alert_id}")
    assert last["details"]["problem"] == "purpose_not_allowed"


async def test_an_alert_that_does_not_exist_is_not_found_and_the_question_is_on_record(
    asm: Web, officer_key: str, database: Database
) -> None:
    opened = await asm.ask("POST", f"{ALERTS}/{NOWHERE}:open", officer_key, json=REASONS)
    assert opened.problem == (404, "not_found")
    entries = await recorded(database)
    assert [entry["action"] for entry in entries] == ["police.search", "police.search.outcome"]
    assert entries[1]["details"] == {"problem": "not_found"}
    changed = await asm.ask("POST", f"{ALERTS}/{NOWHERE}:acknowledge", officer_key, json={"state": "seen"})
    assert changed.problem == (404, "not_found")
    assert (await asm.ask("POST", f"{ALERTS}/1:open", officer_key, json=REASONS)).problem == (404, "not_found")


@pytest.mark.parametrize("body", [{}, {"state": "open"}, {"state": "seen", "note": "x"}])
async def test_an_alert_goes_only_to_a_state_there_is(
    asm: Web, officer_key: str, raise_alert: Raise, body: dict[str, str]
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    answer = await asm.ask("POST", f"{ALERTS}/{alert_id}:acknowledge", officer_key, json=body)
    assert answer.problem == (422, "request_invalid")
    assert (await only_alert(asm, officer_key))["state"] == "open"


async def test_without_a_record_no_alert_is_listed_opened_or_changed(
    asm: Web, officer_key: str, raise_alert: Raise, database: Database
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    superuser = await database.connect()
    await superuser.execute("REVOKE INSERT ON audit_pending FROM asm_police")
    assert (await asm.ask("GET", ALERTS, officer_key)).problem == (503, "audit_unavailable")
    opened = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=REASONS)
    assert opened.problem == (503, "audit_unavailable")
    changed = await asm.ask("POST", f"{ALERTS}/{alert_id}:acknowledge", officer_key, json={"state": "seen"})
    assert changed.status == 503
    assert await superuser.fetchval("SELECT state FROM police_alerts") == "open"


async def test_the_question_is_sealed_before_an_alert_is_read(
    asm: Web, officer_key: str, raise_alert: Raise, database: Database
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    superuser = await database.connect()
    sealed_before = await superuser.fetchval("SELECT count(*) FROM audit_log")
    await superuser.execute("REVOKE SELECT ON police_alerts FROM asm_police")
    assert (await asm.ask("GET", ALERTS, officer_key)).problem == (503, "unavailable")
    opened = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=REASONS)
    assert opened.problem == (503, "unavailable")
    bodies = await superuser.fetch("SELECT body FROM audit_log WHERE position >= $1 ORDER BY position", sealed_before)
    sealed = [orjson.loads(row["body"])["action"] for row in bodies]
    assert [action for action in sealed if not action.endswith(".outcome")] == ["police.alerts.list", "police.search"]


async def test_a_cursor_opens_only_in_the_list_it_is_from(asm: Web, officer_key: str, raise_alert: Raise) -> None:
    for index in (1, 2):
        await raise_alert(index)
    following = (await asm.ask("GET", f"{ALERTS}?limit=1", officer_key)).json["next"]
    wrong = await asm.ask("GET", f"{ALERTS}?state=open&cursor={following}", officer_key)
    assert wrong.problem == (422, "request_invalid")
    assert (await asm.ask("GET", f"{ALERTS}?state=gone", officer_key)).problem == (422, "request_invalid")


# -- what is shown -----------------------------------------------------------------------------------------------------


async def test_the_list_says_where_and_why_and_never_who_and_is_on_record(
    asm: Web, officer_key: str, raise_alert: Raise, facility: Facility, database: Database, clock: Clock
) -> None:
    stay_id = await raise_alert()
    answer = await asm.ask("GET", ALERTS, officer_key)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    [alert] = answer.json["alerts"]
    assert (alert["kind"], alert["stay_id"], alert["version"]) == ("document_revoked", str(stay_id), 1)
    assert (alert["facility"]["code"], alert["status"], alert["state"]) == (facility.code, "declared", "open")
    assert (alert["verification"], alert["confirmed_version"]) == ("document_revoked", 1)
    assert datetime.fromisoformat(alert["raised_at"]) == clock()
    who = person(1)
    for word in (who.document_number, who.full_name, who.birth_date):
        assert word not in answer.body.decode()
    intent, outcome = await recorded(database)
    assert (intent["action"], outcome["action"]) == ("police.alerts.list", "police.alerts.list.outcome")
    assert intent["id"] == answer.json["trace"]
    assert outcome["details"]["count"] == 1


async def test_the_list_goes_from_the_newest_in_pages(asm: Web, officer_key: str, raise_alert: Raise) -> None:
    raised = [str(await raise_alert(index)) for index in (1, 2, 3)]
    seen: list[str] = []
    path: str | None = f"{ALERTS}?limit=2&state=open"
    while path:
        answer = await asm.ask("GET", path, officer_key)
        seen += [alert["stay_id"] for alert in answer.json["alerts"]]
        link: Answer | str = answer.headers.get("Link", "")
        path = str(link).removeprefix("<").partition(">")[0] or None
    assert sorted(seen) == sorted(raised)
    assert seen[2] == raised[0]


async def test_the_stay_of_an_alert_is_opened_under_a_purpose_and_on_record(
    asm: Web, officer_key: str, raise_alert: Raise, database: Database
) -> None:
    stay_id = await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    opened = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=REASONS)
    assert opened.status == 200
    assert opened.json["stay"]["stay_id"] == str(stay_id)
    assert opened.json["stay"]["guest"]["document"]["number"] == person(1).document_number
    assert opened.json["alert"]["alert_id"] == alert_id
    assert opened.json["changed_to"] is None
    intent, outcome = (await recorded(database))[-2:]
    assert (intent["action"], intent["purpose"], intent["case_ref"]) == ("police.search", *REASONS.values())
    assert (intent["object"], intent["details"]["kind"]) == (f"police_alert/{alert_id}", "stay")
    assert (outcome["object"], outcome["details"]["count"]) == (f"audit/{intent['id']}", 1)


async def test_an_alert_opens_the_guest_it_was_raised_for_whoever_was_declared_in_their_place_since(
    asm: Web,
    officer_key: str,
    owner_key: str,
    raise_alert: Raise,
    verified: Callable[..., Awaitable[None]],
    database: Database,
) -> None:
    stay_id = await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    innocent = person(2).document_number
    for version, patch in ((1, {"guest": {"document": {"number": innocent}}}), (2, {"room": "909"})):
        etag = {"If-Match": f'"{version}"'}
        changed = await asm.ask("PATCH", f"/v1/stays/{stay_id}", owner_key, json=patch, headers=etag)
        assert changed.json["version"] == version + 1
    await verified(stay_id, Verification.MATCHED, version=3)
    opened = (await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=REASONS)).json
    alerted, newest = opened["stay"], opened["changed_to"]
    assert (alerted["version"], alerted["verification"]) == (1, "document_revoked")
    assert alerted["guest"]["document"]["number"] == person(1).document_number
    assert (newest["version"], newest["verification"], newest["room"]) == (3, "matched", "909")
    assert newest["guest"]["document"]["number"] == innocent
    assert (await recorded(database))[-1]["details"]["versions"] == [1, 3]


async def test_what_was_registered_before_the_purposes_window_is_not_opened(
    asm: Web, officer_key: str, raise_alert: Raise, clock: Clock
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    clock.instant += timedelta(days=32)
    rescue = {**REASONS, "purpose": "rescue"}
    opened = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=rescue)
    assert (opened.status, opened.json["stay"]) == (200, None)


async def test_a_stay_whose_seal_is_broken_is_not_shown_and_the_failure_is_on_record(
    asm: Web, officer_key: str, raise_alert: Raise, database: Database
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    await (await database.connect()).execute("UPDATE stays SET sealed = sealed || '\\x00'")
    opened = await asm.ask("POST", f"{ALERTS}/{alert_id}:open", officer_key, json=REASONS)
    assert opened.problem[1] == "record_unreadable"
    assert (await recorded(database))[-1]["details"] == {"problem": "record_unreadable"}


async def test_an_alert_is_seen_then_handled_and_never_goes_back(
    asm: Web, officer_key: str, make_key: KeyMaker, raise_alert: Raise, database: Database
) -> None:
    await raise_alert()
    alert_id = (await only_alert(asm, officer_key))["alert_id"]
    colleague = await make_key(PrincipalKind.OFFICER)
    states = []
    for key, state in ((officer_key, "seen"), (colleague, "handled"), (colleague, "handled"), (officer_key, "seen")):
        answer = await asm.ask("POST", f"{ALERTS}/{alert_id}:acknowledge", key, json={"state": state})
        states.append((answer.json["state"], answer.json["changed_by"]))
    assert [state for state, _ in states] == ["seen", "handled", "handled", "handled"]
    assert len({by for _, by in states}) == 2
    assert states[1:] == [states[1]] * 3
    told = [
        (entry["action"].removeprefix("police.alert.acknowledge"), entry["details"])
        for entry in await recorded(database)
        if entry["action"].startswith("police.alert.acknowledge")
    ]
    assert told == [
        each
        for state, changed in (("seen", True), ("handled", True), ("handled", False), ("seen", False))
        for each in (("", {"state": state}), (".outcome", {"changed": changed}))
    ], "what changes nothing shows the alert too"
    assert (await asm.ask("GET", f"{ALERTS}?state=open", officer_key)).json["alerts"] == []


async def test_an_alert_shows_when_the_guest_was_corrected_to_a_document_that_matches(
    asm: Web,
    officer_key: str,
    owner_key: str,
    raise_alert: Raise,
    verified: Callable[..., Awaitable[None]],
) -> None:
    stay_id = await raise_alert()
    patch = {"guest": {"document": {"number": person(1).document_number[:-1] + "7"}}}
    corrected = await asm.ask("PATCH", f"/v1/stays/{stay_id}", owner_key, json=patch, headers={"If-Match": '"1"'})
    assert corrected.json["version"] == 2
    await verified(stay_id, Verification.MATCHED, version=2)
    alert = await only_alert(asm, officer_key)
    assert (alert["version"], alert["confirmed_version"], alert["verification"]) == (1, 2, "matched")
    assert alert["state"] == "open"  # it is for an officer to say that this is all


async def test_nothing_that_the_owner_sees_tells_a_revoked_document_from_a_mistyped_one(
    asm: Web, owner_key: str, verified: Callable[..., Awaitable[None]], database: Database
) -> None:
    views, times = [], declaration(1)
    same = {name: times[name] for name in ("arrived_at", "planned_departure_at")}
    for index, found in ((1, Verification.DOCUMENT_REVOKED), (2, Verification.MISMATCH), (3, Verification.UNKNOWN)):
        filed = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(index, **same))
        stay_id = UUID(filed.json["stay_id"])
        await verified(stay_id, found)
        state = (await asm.ask("GET", f"/v1/stays/{stay_id}", owner_key)).json
        views.append({name: value for name, value in state.items() if name not in ("stay_id", "source_ref")})
        assert (state["check_document"], state["verification_told"]) == (True, True)
    assert views[0] == views[1] == views[2]
    rows = await (await database.connect()).fetch("SELECT kind FROM owner_events_pending")
    assert {row["kind"] for row in rows} == {"stay.check_document"}
    assert len(rows) == 3
    [house] = (await asm.ask("GET", "/v1/facilities", owner_key)).json["facilities"]
    assert (house["check_document"], house["verification_not_told"]) == (3, 0)


async def test_an_alert_of_a_stay_that_is_gone_says_so(
    asm: Web, officer_key: str, pools: Pools, facility: Facility
) -> None:
    connection = await pools.database.connect()
    await connection.execute(
        "INSERT INTO police_alerts (id, kind, facility_id, stay_id, version, raised_at)"
        " VALUES ($1, 'document_revoked', $2, $3, 1, now())",
        uuid7(),
        facility.id,
        uuid7(),
    )
    alert = await only_alert(asm, officer_key)
    assert (alert["arrived_at"], alert["status"], alert["verification"]) == (None, None, None)
