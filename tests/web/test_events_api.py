"""Events over the API: pulled page by page, and webhooks managed by those whose they are, and by nobody else."""

from __future__ import annotations

import io
from datetime import UTC, datetime, timedelta

import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import events
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.store import events as store
from asm_daemon.store.events import EventKind, NewEvent
from tests.stack import Clock, Pools, declaration
from tests.web.conftest import Answer, KeyMaker, Web

HOOK = {"url": "https://pms.example/hook/t0ken"}
NOWHERE = "00000000-0000-7000-8000-000000000000"


async def happen(pools: Pools, clock: Clock, facility: Facility, count: int = 1) -> list[str]:
    made = [NewEvent(uuid7(), facility.id, EventKind.REFUSED, uuid7(), clock()) for _ in range(count)]
    pool = await pools.get("asm_sync")
    async with pool.acquire() as connection:
        await store.append_events(connection, made)
    await events.number_once(pool, clock())
    return [str(each.event_id) for each in sorted(made)]


def ids(answer: Answer) -> list[str]:
    return [each["id"] for each in answer.json["events"]]


# -- pulling -----------------------------------------------------------------------------------------------------------


async def test_a_wrong_question_is_refused(
    asm: Web, owner_key: str, other_facility: Facility, make_key: KeyMaker
) -> None:
    wrong = await asm.ask("GET", "/v1/events?after=x&limit=501&what=1", owner_key)
    assert wrong.problem == (422, "request_invalid")
    assert {each["pointer"] for each in wrong.json["errors"]} == {"/limit", "/what"}
    assert (await asm.ask("GET", "/v1/events?after=x", owner_key)).problem == (422, "request_invalid")
    elsewhere = await asm.ask("GET", f"/v1/events?facility={other_facility.code}", owner_key)
    assert elsewhere.problem == (403, "facility_not_granted")
    stranger = await make_key(PrincipalKind.OWNER, other_facility)
    cursor = (await asm.ask("GET", "/v1/events", stranger)).json["next"]
    assert (await asm.ask("GET", f"/v1/events?after={cursor}", owner_key)).problem == (422, "request_invalid")


async def test_pages_lead_on_to_the_end_and_further_when_something_happens(
    asm: Web, owner_key: str, facility: Facility, other_facility: Facility, pools: Pools, clock: Clock
) -> None:
    await happen(pools, clock, other_facility, 3)
    made = await happen(pools, clock, facility, 5)
    first = await asm.ask("GET", "/v1/events?limit=3", owner_key)
    link = first.headers["Link"]
    assert link.startswith("</v1/events?")
    assert link.endswith('>; rel="next"')
    second = await asm.ask("GET", link[1 : link.index(">")], owner_key)
    assert ids(first) + ids(second) == made
    assert "Link" not in second.headers
    assert second.headers["Cache-Control"] == "no-store"
    following = f"/v1/events?after={second.json['next']}"
    assert ids(await asm.ask("GET", following, owner_key)) == []
    [news] = await happen(pools, clock, facility)
    assert ids(await asm.ask("GET", following, owner_key)) == [news]


async def test_a_late_declaration_through_the_door_is_told_and_its_link_opens(
    asm: Web, owner_key: str, pools: Pools, clock: Clock
) -> None:
    arrived_at = (datetime.now(UTC) - timedelta(days=2)).replace(microsecond=0)
    late = declaration(1, arrived_at=arrived_at.isoformat())
    declared = await asm.ask("POST", "/v1/stays", owner_key, json=late)
    assert declared.status == 201
    await events.number_once(await pools.get("asm_sync"), clock())
    [event] = (await asm.ask("GET", "/v1/events", owner_key)).json["events"]
    assert (event["type"], event["data"]["stay_id"]) == ("stay.declared_late", declared.json["stay_id"])
    assert event["data"]["link"].startswith("http://asm.test/v1/stays/")
    followed = await asm.ask("GET", event["data"]["link"].removeprefix("http://asm.test"), owner_key)
    assert followed.json["late_minutes"] > 0
    said = orjson.dumps(event).decode()
    for secret in (late["guest"]["full_name"], late["guest"]["document"]["number"], late["guest"]["birth_date"]):
        assert secret not in said


async def test_erased_events_are_told_of(
    asm: Web, owner_key: str, facility: Facility, pools: Pools, clock: Clock
) -> None:
    cursor = (await asm.ask("GET", "/v1/events", owner_key)).json["next"]
    await happen(pools, clock, facility)
    await events.erase_once(await pools.get("asm_sync"), 4, clock() + timedelta(days=5))
    assert (await asm.ask("GET", f"/v1/events?after={cursor}", owner_key)).problem == (410, "events_erased")


# -- webhooks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    ["http://pms.example/", "ftp://pms.example/", "pms.example", "https://", "https://u:p@pms.example/",
     "https://pms.example/#x", "https://pms.example/a b", "https://[::1", "https://pms.example:99999/",
     "https://khách.example/", "https://pms.example/" + "x" * 1000],
)  # fmt: skip
async def test_an_address_that_is_none_is_refused(asm: Web, owner_key: str, url: str) -> None:
    answer = await asm.ask("POST", "/v1/webhooks", owner_key, json={"url": url})
    assert answer.problem == (422, "request_invalid")
    assert [each["pointer"] for each in answer.json["errors"]] == ["/url"]
    assert "pms" not in answer.body.decode()


async def test_an_unknown_event_or_member_is_refused(asm: Web, owner_key: str) -> None:
    for body, pointer in (
        ({**HOOK, "events": ["stay.nothing"]}, "/events/0"),
        ({**HOOK, "events": ["webhook.test"]}, "/events/0"),
        ({**HOOK, "events": []}, "/events"),
        ({**HOOK, "secret": "x"}, "/secret"),
        ({}, "/url"),
    ):
        answer = await asm.ask("POST", "/v1/webhooks", owner_key, json=body)
        assert answer.problem == (422, "request_invalid")
        assert [each["pointer"] for each in answer.json["errors"]] == [pointer]


async def test_a_webhook_is_its_owners_alone(
    asm: Web, owner_key: str, facility: Facility, make_key: KeyMaker, logged: io.BytesIO
) -> None:
    made = await asm.ask("POST", "/v1/webhooks", owner_key, json={**HOOK, "events": ["stay.refused"]})
    assert made.status == 201
    assert made.json["secret"].startswith("whsec_")
    path = f"/v1/webhooks/{made.json['id']}"
    stranger = await make_key(PrincipalKind.VENDOR, facility)
    assert (await asm.ask("GET", "/v1/webhooks", stranger)).json == {"webhooks": []}
    for method, what in (("DELETE", ""), ("POST", ":rotate"), ("POST", ":enable"), ("POST", ":test")):
        assert (await asm.ask(method, path + what, stranger)).problem == (404, "not_found")
        assert (await asm.ask(method, f"/v1/webhooks/{NOWHERE}{what}", owner_key)).problem == (404, "not_found")
    [shown] = (await asm.ask("GET", "/v1/webhooks", owner_key)).json["webhooks"]
    assert (shown["id"], shown["url"], shown["events"]) == (made.json["id"], HOOK["url"], ["stay.refused"])
    assert made.json["secret"] not in orjson.dumps(shown).decode()
    assert (await asm.ask("DELETE", path, owner_key)).status == 204
    assert (await asm.ask("GET", "/v1/webhooks", owner_key)).json == {"webhooks": []}
    for secret in (made.json["secret"], "t0ken"):
        assert secret.encode() not in logged.getvalue()


async def test_a_webhook_is_rotated_tested_and_enabled(asm: Web, owner_key: str, pools: Pools) -> None:
    made = (await asm.ask("POST", "/v1/webhooks", owner_key, json=HOOK)).json
    path = f"/v1/webhooks/{made['id']}"
    rotated = await asm.ask("POST", f"{path}:rotate", owner_key)
    assert rotated.status == 200
    assert rotated.json["secret"] != made["secret"]
    assert rotated.json["previous_valid_until"] is not None
    tested = await asm.ask("POST", f"{path}:test", owner_key)
    assert tested.status == 202
    assert (await asm.ask("POST", f"{path}:enable", owner_key)).problem == (409, "webhook_state")
    connection = await pools.database.connect()
    waiting = await connection.fetchval("SELECT event_id FROM webhook_deliveries")
    assert str(waiting) == tested.json["event_id"]
    await connection.execute("UPDATE webhook_endpoints SET disabled_at = now(), disabled_code = 'failing'")
    await connection.execute("INSERT INTO webhook_failures SELECT id, 'timeout', 3, now() FROM webhook_endpoints")
    [shown] = (await asm.ask("GET", "/v1/webhooks", owner_key)).json["webhooks"]
    assert (shown["disabled_code"], shown["waiting"]) == ("failing", 1)
    assert [(each["code"], each["failures"]) for each in shown["failures"]] == [("timeout", 3)]
    assert (await asm.ask("POST", f"{path}:test", owner_key)).problem == (409, "webhook_state")
    assert (await asm.ask("POST", f"{path}:enable", owner_key)).status == 204
    actions = await connection.fetch("SELECT convert_from(body, 'UTF8')::json->>'action' AS a FROM audit_pending")
    assert [row["a"] for row in actions if row["a"].startswith("webhook")] == [
        "webhook.add", "webhook.rotate", "webhook.test", "webhook.enable",
    ]  # fmt: skip


async def test_a_key_that_may_only_declare_hears_of_nothing(asm: Web, make_key: KeyMaker, facility: Facility) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility, scopes={Scope.DECLARE})
    assert (await asm.ask("GET", "/v1/events", key)).problem == (403, "scope_missing")
    assert (await asm.ask("POST", "/v1/webhooks", key, json=HOOK)).problem == (403, "scope_missing")
