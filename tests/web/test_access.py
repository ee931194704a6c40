"""Who may call what. The table below is written by hand: it is what a reviewer of the route table signs."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest

from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.web.contract import unbound_table
from asm_daemon.web.route import Route
from schemas.codes import Department
from tests.stack import Clock, declaration
from tests.web.conftest import KeyMaker, Web

WHO = {
    "DELETE /authorization-service/oauth/revoke": "public",
    "GET /": "public",
    "GET /check": "public",
    "GET /check/{code}": "public",
    "GET /cms-backend/public/dm-phuong-xa": "public",
    "GET /cms-backend/public/dm-qt/3th/get-all": "public",
    "GET /cms-backend/public/dm-tinh-tp/get-all": "public",
    "GET /cms-backend/public/loai-giay-to/get-all": "public",
    "GET /cms-backend/public/ly-do-cu-tru/get-all": "public",
    "GET /cms-backend/public/noi-cu-tru/get-all": "public",
    "GET /docs": "public",
    "GET /healthz": "public",
    "GET /metrics": "operator",
    "GET /v1/admin/alerts": "operator",
    "GET /v1/admin/audit": "operator",
    "GET /v1/admin/sync": "operator",
    "GET /v1/admin/sync/refused": "operator",
    "GET /v1/admin/sync/stays/{stay_id}": "operator",
    "GET /v1/admin/sync/waiting": "operator",
    "POST /v1/admin/alerts:close": "operator",
    "POST /v1/admin/sync:release": "operator",
    "POST /v1/admin/sync:replay": "operator",
    "POST /v1/admin/sync:settle": "operator",
    "GET /problems/{code}": "public",
    "GET /readyz": "public",
    "GET /v1/audit/checkpoint": "public",
    "GET /v1/audit/consistency": "public",
    "GET /v1/audit/cosigned-checkpoint": "public",
    "GET /v1/audit/inclusion": "public",
    "POST /v1/audit/cosignatures": "public",
    "GET /v1/codes": "public",
    "GET /v1/codes/{table}": "public",
    "DELETE /v1/webhooks/{webhook_id}": "owner:status",
    "GET /v1/events": "owner:status",
    "GET /v1/expected": "owner:status",
    "GET /v1/facilities": "owner:status",
    "GET /v1/feeds": "department",
    "GET /v1/feeds/{template}/{period}": "department",
    "GET /v1/limits": "public",
    "GET /v1/police/alerts": "officer",
    "GET /v1/police/purposes": "officer",
    "GET /v1/problems": "public",
    "GET /v1/reminders": "owner:status",
    "GET /v1/rosters/{plan_id}": "owner:declare",
    "GET /v1/sandbox": "public",
    "GET /v1/templates/{facility_kind}.xlsx": "public",
    "GET /v1/stays": "owner:status",
    "GET /v1/stays/{stay_id}": "owner:status",
    "GET /v1/stays/{stay_id}/receipt": "owner:status",
    "PATCH /v1/stays/{stay_id}": "owner:declare",
    "GET /v1/webhooks": "owner:status",
    "POST /authorization-service/oauth/refresh-token": "public",
    "POST /authorization-service/oauth/token": "public",
    "POST /check": "public",
    "POST /client-service/kbtt-vn/kbtt-3th": "portal",
    "POST /client-service/kbtt-vn/kbtt-3th/doi-ngay-tra-phong": "portal",
    "POST /client-service/kbtt/kbtt-3th": "portal",
    "POST /client-service/kbtt/kbtt-3th/doi-ngay-tra-phong": "portal",
    "POST /v1/documents:read": "owner:declare",
    "POST /v1/expected": "owner:declare",
    "POST /v1/expected/{expected_id}:cancel": "owner:declare",
    "POST /v1/expected/{expected_id}:declare": "owner:declare",
    "POST /v1/expected:batch": "owner:declare",
    "POST /v1/hotel-events/opentravel": "owner:declare",
    "POST /v1/hotel-events/{system}": "owner:declare",
    "POST /v1/hotel-events/{system}/{token}": "public",
    "POST /v1/imports": "owner:declare",
    "GET /v1/imports": "owner:declare",
    "GET /v1/imports/{import_id}": "owner:declare",
    "GET /v1/imports/{import_id}/annotated": "owner:declare",
    "GET /v1/imports/{import_id}/report": "owner:declare",
    "POST /v1/police/alerts/{alert_id}:acknowledge": "officer",
    "POST /v1/police/alerts/{alert_id}:open": "officer",
    "POST /v1/police/searches": "officer",
    "POST /v1/rosters": "owner:declare",
    "POST /v1/rosters/{plan_id}:apply": "owner:declare",
    "POST /v1/stays": "owner:declare",
    "POST /v1/stays/{stay_id}:cancel": "owner:declare",
    "POST /v1/stays/{stay_id}:check-out": "owner:declare",
    "POST /v1/stays/{stay_id}:extend": "owner:declare",
    "POST /v1/stays/{stay_id}:temporary-residence": "owner:declare",
    "POST /v1/stays/{stay_id}:undo-check-out": "owner:declare",
    "POST /v1/stays:batch": "owner:declare",
    "POST /v1/stays:validate": "owner:declare",
    "POST /v1/temporary-residence:batch": "owner:declare",
    "POST /v1/webhooks": "owner:status",
    "POST /v1/webhooks/{webhook_id}:enable": "owner:status",
    "POST /v1/webhooks/{webhook_id}:rotate": "owner:status",
    "POST /v1/webhooks/{webhook_id}:test": "owner:status",
}
NOWHERE = "00000000-0000-7000-8000-000000000000"


def shape(route: Route) -> str:  # type: ignore[type-arg]  # any route
    return f"{route.method} {re.sub(r':[^{}]*(?:{[^{}]*}[^{}]*)*}', '}', route.path)}"


def address(pattern: str) -> str:
    """An address that the pattern matches."""
    parameters = {
        "stay_id": NOWHERE,
        "alert_id": NOWHERE,
        "expected_id": NOWHERE,
        "import_id": NOWHERE,
        "plan_id": NOWHERE,
        "webhook_id": NOWHERE,
        "code": "0",
        "period": "2026-11",
        "system": "mews",
        "token": "x" * 43,
    }
    for name in re.findall(r"{(\w+)", pattern):
        pattern = pattern.replace(f"{{{name}}}", parameters.get(name, "x"))
    return pattern


def test_the_table_is_the_one_that_was_reviewed() -> None:
    assert {shape(route): route.who.name for route in unbound_table()} == WHO


def test_names_of_operations_are_unique() -> None:
    names = [route.name for route in unbound_table()]
    assert len(names) == len(set(names))


async def test_without_a_valid_key_only_the_public_routes_answer(asm: Web) -> None:
    wrong = "asm_" + "0" * 16 + "_" + "0" * 64
    headers: tuple[dict[str, str], ...] = (
        {},
        {"Authorization": "Bearer"},
        {"Authorization": f"Basic {wrong}"},
        {"Authorization": f"Bearer {wrong}"},
    )
    for row, who in WHO.items():
        method, pattern = row.split()
        for sent in headers if who != "public" else headers[:1]:
            answer = await asm.ask(method, address(pattern), headers=sent)
            assert (row, answer.status == 401) == (row, who != "public")
            if who != "public":
                document = answer.json["data"]["problem"] if who == "portal" else answer.json
                assert document["code"] == "unauthenticated"
                assert answer.headers["WWW-Authenticate"].startswith("Bearer")


@pytest.mark.parametrize("kind", list(PrincipalKind))
async def test_a_key_opens_only_the_routes_of_its_kind(
    asm: Web, make_key: KeyMaker, facility: Facility, kind: PrincipalKind
) -> None:
    owns = kind in (PrincipalKind.OWNER, PrincipalKind.VENDOR)
    department = Department.TOURISM if kind is PrincipalKind.DEPARTMENT else None
    key = await make_key(kind, *([facility] if owns else []), department=department)
    for row, who in WHO.items():
        role = who.partition(":")[0]
        if role == "public":
            continue
        method, pattern = row.split()
        answer = await asm.ask(method, address(pattern), key)
        if role == "portal":  # a key is not shown there, it opens a session
            assert (row, answer.status) == (row, 401)
            continue
        allowed = kind == role or (role == "owner" and owns)
        assert (row, answer.status == 403) == (row, not allowed)
        if not allowed:
            assert answer.problem == (403, "forbidden")


async def test_a_key_that_holds_no_grant_any_more_may_do_nothing(asm: Web, make_key: KeyMaker) -> None:
    key = await make_key(PrincipalKind.OWNER)
    assert (await asm.ask("GET", "/v1/stays", key)).problem == (403, "scope_missing")
    assert (await asm.ask("POST", "/v1/stays", key, json=declaration(1))).problem == (403, "scope_missing")


async def test_each_scope_opens_only_its_own_routes(asm: Web, make_key: KeyMaker, facility: Facility) -> None:
    for scope in (Scope.DECLARE, Scope.STATUS):
        key = await make_key(PrincipalKind.VENDOR, facility, scopes={scope})
        for row, who in WHO.items():
            if not who.startswith("owner:"):
                continue
            method, pattern = row.split()
            answer = await asm.ask(method, address(pattern), key)
            assert (row, answer.status == 403) == (row, who != f"owner:{scope}")


async def test_an_expired_key_is_no_key(asm: Web, owner_key: str, clock: Clock) -> None:
    assert (await asm.ask("GET", "/v1/stays", owner_key)).status == 200
    clock.instant += timedelta(days=367)
    assert (await asm.ask("GET", "/v1/stays", owner_key)).problem == (401, "unauthenticated")
