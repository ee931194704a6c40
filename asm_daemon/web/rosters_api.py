"""Full lists: what a roster would change, and that it shall; who has registered temporary residence, and who should."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import orjson
from aiohttp import web
from pydantic import ValidationError

from asm_daemon import long_stays, rostering
from asm_daemon.crypto import Keyring
from asm_daemon.directory import authorise
from asm_daemon.model import Facility, Scope
from asm_daemon.problems import Refused, from_validation
from asm_daemon.rosters import Caller, Rosters
from asm_daemon.web import examples
from asm_daemon.web.bodies import NO_BODY, Document, Row, document_body, model_body, rows_body
from asm_daemon.web.rendering import answer, page, prefers_html
from asm_daemon.web.route import HTML, JSON, STAY_ID, Call, NoQuery, Route, Shown, Table, owner
from schemas.act import Connector
from schemas.limits import DECLARATION_BYTES
from schemas.long_stays import (
    Reminders,
    RemindersQuery,
    ResidenceMark,
    ResidenceMarks,
    StayTemporaryResidence,
    TemporaryResidence,
)
from schemas.roster import RosterConfirmation, RosterPlan, RosterPlanQuery, RosterQuery, RosterResult

PLAN_ID = STAY_ID.replace("stay_id", "plan_id")
_READER = "dorm_roster"
_FIELDS = ("facility", "scope", "connector", "absence_nights")


# -- rosters -----------------------------------------------------------------------------------------------------------


async def plan_roster(
    rosters: Rosters, connectors: Mapping[str, Connector], call: Call[RosterQuery, Document]
) -> web.Response:
    """Compare a full list with who is in house; nothing is changed."""
    asked = _asked(call)
    facility = authorise(call.principal, asked.facility, Scope.DECLARE)
    reader = asked.connector or _READER
    if reader not in connectors:
        raise Refused("unknown_connector")
    planned = await rosters.plan(
        reader,
        call.body.content,
        facility=facility,
        scope=rostering.read_scope(asked.scope),
        absence_nights=asked.absence_nights,
        caller=Caller.of(call.principal, facility),
        now=call.received_at,
    )
    return answer(planned, 201, {"Location": f"/v1/rosters/{planned.plan_id}"})


def _asked(call: Call[RosterQuery, Document]) -> RosterQuery:
    """The parameters, over which the fields of the form lie."""
    given = {**call.query.model_dump(exclude_none=True), **call.body.fields}
    try:
        return RosterQuery.model_validate_strings({name: str(value) for name, value in given.items()})
    except ValidationError as error:
        raise Refused("request_invalid", violations=from_validation(error)) from None


async def read_roster_plan(rosters: Rosters, trial: bool, call: Call[RosterPlanQuery, None]) -> web.Response:
    """A plan again; for people, a page to print."""
    shown = await rosters.read(_callers(call), _plan_id(call), call.received_at)
    if call.query.format == "html" or prefers_html(call.headers.get("Accept", "")):
        return page("roster.html", trial=trial, plan=shown)
    response = answer(shown)
    response.headers["Vary"] = "Accept"
    return response


async def apply_roster_plan(rosters: Rosters, call: Call[NoQuery, RosterConfirmation]) -> web.Response:
    """Do exactly what the plan says; the same answer again where it is done."""
    return answer(await rosters.apply(_callers(call), _plan_id(call), call.body, call.received_at))


def _callers(call: Call[Any, Any]) -> dict[int, tuple[Facility, Caller]]:
    return {
        facility.id: (facility, Caller.of(call.principal, facility))
        for facility, scopes in call.principal.grants.values()
        if Scope.DECLARE in scopes
    }


def _plan_id(call: Call[Any, Any]) -> UUID:
    return UUID(call.path["plan_id"])


# -- temporary residence -----------------------------------------------------------------------------------------------


async def mark_temporary_residence(
    pool: asyncpg.Pool, keyring: Keyring, call: Call[NoQuery, TemporaryResidence]
) -> web.Response:
    """The guest has registered temporary residence."""
    given = StayTemporaryResidence(**call.body.model_dump(), stay_id=UUID(call.path["stay_id"]))
    [result] = await long_stays.mark(pool, keyring, call.principal, [(1, given)], call.received_at)
    if isinstance(result, Refused):
        raise result
    return answer(result)


async def mark_temporary_residences(
    pool: asyncpg.Pool, keyring: Keyring, call: Call[NoQuery, list[Row]]
) -> web.Response:
    """Many of them; what is wrong with one row is that row's result."""
    given = [(row.number, _read_mark(row)) for row in call.body]
    results = await long_stays.mark(pool, keyring, call.principal, given, call.received_at)
    marks = long_stays.marks_result([row.number for row in call.body], results)
    return answer(marks, 207 if marks.refused else 200)


def _read_mark(row: Row) -> StayTemporaryResidence | Refused:
    if row.refusal is not None:
        return row.refusal
    try:
        return StayTemporaryResidence.model_validate_json(orjson.dumps(row.fields))
    except ValidationError as error:
        return Refused("request_invalid", violations=from_validation(error))
    except (TypeError, ValueError):  # orjson: a lone surrogate, an integer over 64 bits
        return Refused("not_json")


async def list_reminders(pool: asyncpg.Pool, keyring: Keyring, call: Call[RemindersQuery, None]) -> web.Response:
    """Who stays 30 days and more and is not marked as registered, without personal data."""
    shown = await long_stays.reminders(pool, keyring, call.principal, call.query, call.received_at)
    headers = {}
    if shown.next is not None:
        following = call.query.model_copy(update={"cursor": shown.next})
        parameters = urlencode(following.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        headers["Link"] = f'</v1/reminders?{parameters}>; rel="next"'
    return answer(shown, headers=headers)


# -- the table ---------------------------------------------------------------------------------------------------------

_DECLARE, _STATUS = owner(Scope.DECLARE), owner(Scope.STATUS)
_ADDRESSED = ("facility_not_granted", "facility_required")
_PLAN_PROBLEMS = (
    "request_invalid",
    "no_rows",
    "declaration_invalid",
    "unknown_connector",
    "too_many_rows",
    *_ADDRESSED,
)
_APPLY_PROBLEMS = ("not_json", "request_invalid", "not_found", "roster_outdated", "roster_unconfirmed", "overloaded",
                   "outcome_unknown")  # fmt: skip


def roster_routes(
    rosters: Rosters,
    pool: asyncpg.Pool,
    keyring: Keyring,
    connectors: Mapping[str, Connector],
    max_body_bytes: int,
    max_batch_rows: int,
    trial: bool,
) -> Table:
    """The routes for full lists and long stays. `pool` connects as asm_intake; `connectors` read files, by name."""
    media = tuple(dict.fromkeys(each for connector in connectors.values() for each in connector.media_types))
    file = document_body(media, max_body_bytes, _FIELDS)
    confirmed = model_body(RosterConfirmation, max_body_bytes, examples.ROSTER_CONFIRMATION)
    registered = model_body(TemporaryResidence, DECLARATION_BYTES, examples.TEMPORARY_RESIDENCE)
    many = rows_body(StayTemporaryResidence, max_body_bytes, max_batch_rows, [examples.STAY_TEMPORARY_RESIDENCE])
    location = {"Location": "Kế hoạch · The plan"}
    following = {"Link": "Trang sau (rel=next) · The next page"}
    return (
        Route("POST", "/v1/rosters", _DECLARE, partial(plan_roster, rosters, connectors), RosterQuery, file,
              {201: Shown("Kế hoạch; chưa thay đổi gì · The plan; nothing is changed", RosterPlan, headers=location)},
              "Lập kế hoạch từ danh sách đầy đủ", "Plan what a full list would change", _PLAN_PROBLEMS),
        Route("GET", f"/v1/rosters/{PLAN_ID}", _DECLARE, partial(read_roster_plan, rosters, trial), RosterPlanQuery,
              NO_BODY, {200: Shown("Kế hoạch · The plan", RosterPlan, media=(JSON, HTML))},
              "Xem kế hoạch, hoặc in ra", "Read a plan, or print it", ("not_found",)),
        Route("POST", f"/v1/rosters/{PLAN_ID}:apply", _DECLARE, partial(apply_roster_plan, rosters), NoQuery, confirmed,
              {200: Shown("Kết quả từng dòng · The result of each row", RosterResult)},
              "Thực hiện đúng kế hoạch", "Do what the plan says", _APPLY_PROBLEMS),
        Route("POST", f"/v1/stays/{STAY_ID}:temporary-residence", _DECLARE,
              partial(mark_temporary_residence, pool, keyring), NoQuery, registered,
              {200: Shown("Đã ghi nhận, hoặc đã đúng như vậy · Recorded, or so already", ResidenceMark)},
              "Khách đã đăng ký tạm trú", "The guest has registered temporary residence",
              ("not_json", "request_invalid", "not_found", "wrong_state")),
        Route("POST", "/v1/temporary-residence:batch", _DECLARE, partial(mark_temporary_residences, pool, keyring),
              NoQuery, many,
              {200: Shown("Mọi dòng đã được ghi nhận · Every row is recorded", ResidenceMarks),
               207: Shown("Có dòng bị từ chối: xem results · Some rows were refused: see results", ResidenceMarks)},
              "Nhiều khách đã đăng ký tạm trú", "Many guests have registered temporary residence",
              ("not_json", "request_invalid", "no_rows", "too_many_rows")),
        Route("GET", "/v1/reminders", _STATUS, partial(list_reminders, pool, keyring), RemindersQuery, NO_BODY,
              {200: Shown("Một trang", Reminders, headers=following)},
              "Khách ở từ 30 ngày chưa đăng ký tạm trú", "Guests of 30 days and more who are not registered",
              ("facility_not_granted", "request_invalid")),
    )  # fmt: skip
