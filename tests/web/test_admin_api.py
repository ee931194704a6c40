"""Operators over HTTP: the same functions as the command line, nothing personal, and who else tries is on record."""

from __future__ import annotations

import asyncio
import io
from uuid import UUID

import orjson
import pytest

from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.store import alerts
from asm_daemon.store.alerts import AlertKind
from asm_daemon.web import admin_api
from asm_daemon.web.admin_api import Measuring
from tests.backlog import put_off, refuse
from tests.stack import Clock, Pools, declaration
from tests.web.conftest import KeyMaker, Web


@pytest.fixture
async def operator_key(make_key: KeyMaker) -> str:
    return await make_key(PrincipalKind.OPERATOR)


@pytest.fixture
async def stays(asm: Web, owner_key: str, pools: Pools) -> list[str]:
    """Two that were refused and one that waits."""
    made = []
    for index in (1, 2, 3):
        answer = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(index))
        made.append(answer.json["stay_id"])
    root = await pools.database.connect()
    await refuse(root, UUID(made[0]))
    await refuse(root, UUID(made[1]), "version_conflict")
    await put_off(root, UUID(made[2]))
    return made


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/admin/sync:replay", {}),
        ("/v1/admin/sync:replay", {"stay_ids": []}),
        ("/v1/admin/sync:release", {"stay_ids": ["1"]}),
        ("/v1/admin/sync:replay", {"code": "x", "before": "2026-11-23T00:00:00"}),
        ("/v1/admin/sync:settle", {"code": "x"}),
        ("/v1/admin/sync:settle", {"code": "x", "reason": "because I say so"}),
        ("/v1/admin/alerts:close", {"kind": "extra_stay"}),
    ],
)
async def test_an_action_that_says_too_little_or_what_is_unknown_is_refused(
    asm: Web, operator_key: str, path: str, body: object
) -> None:
    assert (await asm.ask("POST", path, operator_key, json=body)).problem == (422, "request_invalid")


async def test_what_is_not_there_is_not_found(asm: Web, operator_key: str) -> None:
    nowhere = "/v1/admin/sync/stays/00000000-0000-7000-8000-000000000000"
    assert (await asm.ask("GET", nowhere, operator_key)).problem == (404, "not_found")
    closing = {"kind": "extra_stay", "subject": "x"}
    assert (await asm.ask("POST", "/v1/admin/alerts:close", operator_key, json=closing)).problem == (404, "not_found")


async def test_who_tries_what_only_operators_may_is_refused_on_record(
    asm: Web, owner_key: str, pools: Pools, stays: list[str]
) -> None:
    answer = await asm.ask("POST", "/v1/admin/sync:replay", owner_key, json={"code": "unknown_facility"})
    assert answer.problem == (403, "forbidden")
    rows = await (await pools.database.connect()).fetch("SELECT body FROM audit_pending")
    tried = [orjson.loads(row[0]) for row in rows if b"access.refuse" in row[0]]
    assert [(one["actor_kind"], one["details"]) for one in tried] == [
        ("owner", {"route": "POST /v1/admin/sync:replay", "times": 1})
    ]
    root = await pools.database.connect()
    assert await root.fetchval("SELECT count(*) FROM sync_refused") == 2


async def test_an_operator_looks_moves_and_settles(
    asm: Web, operator_key: str, stays: list[str], rings: list[None], logged: io.BytesIO
) -> None:
    listed = await asm.ask("GET", "/v1/admin/sync/refused?limit=1", operator_key)
    assert [row["stay_id"] for row in listed.json["refused"]] == [min(stays[:2])]
    path = listed.headers["Link"].partition("<")[2].partition(">")[0]
    rest = await asm.ask("GET", path, operator_key)
    assert [row["stay_id"] for row in rest.json["refused"]] == [max(stays[:2])]
    assert "Link" not in rest.headers
    waiting = await asm.ask("GET", "/v1/admin/sync/waiting?reason=unreachable", operator_key)
    assert [row["code"] for row in waiting.json["waiting"]] == ["no_connection"]

    counted = await asm.ask("POST", "/v1/admin/sync:replay", operator_key, json={"code": "x", "dry_run": True})
    assert (counted.status, counted.json["stays"], counted.json["dry_run"]) == (200, 0, True)
    rang = len(rings)
    done = await asm.ask("POST", "/v1/admin/sync:replay", operator_key, json={"stay_ids": [stays[0]]})
    assert done.json["stay_ids"] == [stays[0]]
    released = await asm.ask("POST", "/v1/admin/sync:release", operator_key, json={"stay_ids": [stays[2]]})
    assert released.json["stays"] == 1
    assert len(rings) == rang + 2
    body = {"code": "version_conflict", "reason": "owner_informed"}
    assert (await asm.ask("POST", "/v1/admin/sync:settle", operator_key, json=body)).json["stays"] == 1

    state = (await asm.ask("GET", "/v1/admin/sync", operator_key)).json
    assert {(each["place"], each["stays"]) for each in state["backlog"]} == {
        ("queued", 1),
        ("settled", 1),
        ("waiting", 1),
    }
    one = await asm.ask("GET", f"/v1/admin/sync/stays/{stays[0]}?ask=true", operator_key)
    assert (one.json["place"], one.json["population"]) == (
        "queued",
        {"version": None, "as_confirmed": None, "code": "no_connection"},
    )
    for answer in (listed, waiting, one):
        assert declaration(1)["guest"]["full_name"] not in answer.body.decode()
    assert stays[0].encode() not in logged.getvalue()


async def test_alerts_are_listed_and_closed(
    asm: Web, operator_key: str, pools: Pools, clock: Clock, facility: Facility
) -> None:
    async with (await pools.get("asm_sync")).acquire() as connection:
        await alerts.raise_alert(connection, AlertKind.DECLARE_AND_CANCEL, facility.code, {"stays": 9}, clock())
    [shown] = (await asm.ask("GET", "/v1/admin/alerts", operator_key)).json["alerts"]
    assert (shown["kind"], shown["subject"], shown["details"]) == ("declare_and_cancel", facility.code, {"stays": 9})
    closing = {"kind": shown["kind"], "subject": shown["subject"]}
    closed = await asm.ask("POST", "/v1/admin/alerts:close", operator_key, json=closing)
    assert (closed.status, closed.body) == (204, b"")
    assert (await asm.ask("GET", "/v1/admin/alerts", operator_key)).json["alerts"] == []
    [kept] = (await asm.ask("GET", "/v1/admin/alerts?closed=true", operator_key)).json["alerts"]
    assert kept["closed_by"] is not None


async def test_metrics_tell_of_the_backlog(asm: Web, operator_key: str, stays: list[str]) -> None:
    metrics = (await asm.ask("GET", "/metrics", operator_key)).body.decode()
    assert 'asm_sync_backlog{place="refused",reason=""} 2.0' in metrics
    assert 'asm_sync_backlog{place="waiting",reason="unreachable"} 1.0' in metrics
    assert not any(stay in metrics for stay in stays)


async def test_a_scrape_does_not_wait_for_a_database_that_hangs_nor_asks_it_twice(
    asm: Web, operator_key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(admin_api, "MEASURE_SECONDS", 0.01)
    asked: list[None] = []
    may_end = asyncio.Event()

    async def hang() -> None:
        asked.append(None)
        await may_end.wait()

    measuring = Measuring(hang)
    for _ in range(3):
        await measuring.refresh(0.01)
    assert len(asked) == 1
    may_end.set()
    await measuring.refresh(10)
    await measuring.refresh(10)
    assert len(asked) == 2
    assert (await asm.ask("GET", "/metrics", operator_key)).status == 200


async def test_figures_that_cannot_be_read_are_logged_and_the_scrape_is_answered(logged: io.BytesIO) -> None:
    async def fail() -> None:
        raise ConnectionError

    await Measuring(fail).refresh(10)
    await asyncio.sleep(0)
    assert b"not_measured" in logged.getvalue()
