"""Guests before they are declared: announced by a hotel's software, or in house without an identity.

What is sent here is kept and not filed: 202 says so. The desk completes it, and then there is a receipt.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
from aiohttp import web

from asm_daemon import owners
from asm_daemon.crypto import Keyring
from asm_daemon.directory import authorise
from asm_daemon.intake import Command, Intake, row_result
from asm_daemon.model import Scope
from asm_daemon.web import examples
from asm_daemon.web.api import file_rows, source_ref_of
from asm_daemon.web.bodies import MERGE_PATCH, NO_BODY, Row, object_body, rows_body
from asm_daemon.web.rendering import answer, entity_tag
from asm_daemon.web.route import EXPECTED_ID, JSON, Call, NoQuery, Route, Shown, Table, owner
from schemas.act import Act, ActKind
from schemas.answers import ExpectedPage
from schemas.limits import DECLARATION_BYTES
from schemas.queries import BatchQuery, ExpectedQuery
from schemas.stay import BatchResult, Cancellation, ExpectedStay, RowResult, StayCorrection

_OK, _CREATED, _ACCEPTED = 200, 201, 202

Fields = Mapping[str, Any]


async def expect_guest(intake: Intake, call: Call[NoQuery, Fields]) -> web.Response:
    """Announce a guest: 202 kept and not filed; 201 declared, since a guest in house lacked nothing; 200 so already."""
    return await _take(intake, _announcement(call, 1, call.body), _ACCEPTED)


async def expect_guests(intake: Intake, call: Call[BatchQuery, list[Row]]) -> web.Response:
    """Announce many guests; what is wrong with one row is that row's result."""
    return await file_rows(intake.submit, call, _announcement)


async def list_expected(pool: asyncpg.Pool, keyring: Keyring, call: Call[ExpectedQuery, None]) -> web.Response:
    """Who waits for a declaration and what is missing, by deadline, without personal data."""
    shown = await owners.list_expected(pool, keyring, call.principal, call.query, call.received_at)
    headers = {}
    if shown.next is not None:
        following = call.query.model_copy(update={"cursor": shown.next})
        parameters = urlencode(following.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        headers["Link"] = f'</v1/expected?{parameters}>; rel="next"'
    return answer(shown, headers=headers)


async def declare_expected(intake: Intake, pool: asyncpg.Pool, call: Call[NoQuery, Fields]) -> web.Response:
    """The desk adds what was missing: 201 with the receipt, or 422 with all that is missing still."""
    return await _take(intake, await _addressed(pool, ActKind.DECLARE, call), _OK)


async def cancel_expected(intake: Intake, pool: asyncpg.Pool, call: Call[NoQuery, Fields]) -> web.Response:
    """The guest does not come."""
    return await _take(intake, await _addressed(pool, ActKind.CANCEL, call), _OK)


async def _take(intake: Intake, command: Command, kept_status: int) -> web.Response:
    (outcome,) = await intake.submit([command])
    if outcome.refusal is not None:
        raise outcome.refusal
    result = row_result(command, outcome)
    if outcome.stay is None:
        return answer(result, kept_status if outcome.outcome == "expected" else _OK)
    headers = {"Location": f"/v1/stays/{result.stay_id}", "ETag": entity_tag(result.version or 0)}
    return answer(result, _CREATED if outcome.outcome == "accepted" else _OK, headers)


def _announcement(call: Call[Any, Any], row: int, fields: Fields) -> Command:
    facility = fields.get("facility")
    return Command(
        facility=authorise(call.principal, facility if isinstance(facility, str) else None, Scope.DECLARE),
        act=Act(ActKind.EXPECT, fields, row, source_ref_of(fields)),
        received_at=call.received_at,
        actor=str(call.principal.id),
    )


async def _addressed(pool: asyncpg.Pool, kind: ActKind, call: Call[NoQuery, Fields]) -> Command:
    expected_id = UUID(call.path["expected_id"])
    return Command(
        facility=await owners.facility_expecting(pool, call.principal, expected_id),
        act=Act(kind, call.body, row=1),
        received_at=call.received_at,
        actor=str(call.principal.id),
        expected_id=expected_id,
    )


_DECLARE, _STATUS = owner(Scope.DECLARE), owner(Scope.STATUS)
_FILED = {"ETag": "Phiên bản · The version", "Location": "Lượt lưu trú · The stay"}
_KEPT = {
    202: Shown("Đã giữ lại, CHƯA khai báo; missing: phần còn thiếu · Kept, NOT filed; missing is what lacks",
               RowResult),
    201: Shown("Khách đang ở cơ sở, đủ nhân thân: đã khai báo · In house and complete: declared", RowResult,
               headers=_FILED),
    200: Shown("Không có gì mới · Nothing new", RowResult),
}  # fmt: skip
_BATCH = {
    200: Shown("Mọi dòng đã được giữ lại hoặc khai báo · Every row is kept or declared", BatchResult),
    207: Shown("Có dòng bị từ chối: xem results · Some rows were refused: see results", BatchResult),
}
_PAGE = {200: Shown("Một trang", ExpectedPage, headers={"Link": "Trang sau (rel=next) · The next page"})}
_DECLARED = {201: Shown("Đã khai báo; biên nhận kèm theo · Declared, with the receipt", RowResult, headers=_FILED)}
_CANCELLED = {200: Shown("Đã ghi nhận · Recorded", RowResult)}

_JSON = ("not_json", "request_invalid")
_TAKEN = ("declaration_invalid", "overloaded", "outcome_unknown")
_ADDRESSED_PROBLEMS = ("facility_not_granted", "facility_required")
_DECLARED_PROBLEMS = ("already_staying", "content_differs", "stay_cancelled")
_ROWS_PROBLEMS = ("no_rows", "all_rows_refused", "too_many_rows", "count_mismatch", "overloaded", "outcome_unknown")


def expected_routes(
    intake: Intake, pool: asyncpg.Pool, keyring: Keyring, max_body_bytes: int, max_batch_rows: int
) -> Table:
    """The routes for guests before they are declared. `pool` connects as asm_intake."""
    one = object_body(ExpectedStay, DECLARATION_BYTES, examples.EXPECTED)
    many = rows_body(ExpectedStay, max_body_bytes, max_batch_rows, [examples.EXPECTED])
    rest = object_body(StayCorrection, DECLARATION_BYTES, examples.AT_THE_DESK, media=(JSON, MERGE_PATCH))
    why = object_body(Cancellation, DECLARATION_BYTES, examples.CANCELLATION)
    each = f"/v1/expected/{EXPECTED_ID}"
    return (
        Route("POST", "/v1/expected", _DECLARE, partial(expect_guest, intake), NoQuery, one, _KEPT,
              "Báo trước một khách dự kiến", "Announce a guest",
              (*_JSON, *_TAKEN, *_ADDRESSED_PROBLEMS, *_DECLARED_PROBLEMS)),
        Route("POST", "/v1/expected:batch", _DECLARE, partial(expect_guests, intake), BatchQuery, many, _BATCH,
              "Báo trước nhiều khách", "Announce many guests", (*_JSON, *_ROWS_PROBLEMS)),
        Route("GET", "/v1/expected", _STATUS, partial(list_expected, pool, keyring), ExpectedQuery, NO_BODY, _PAGE,
              "Khách còn thiếu thông tin, theo hạn khai báo", "Who waits for a declaration, by deadline",
              ("facility_not_granted",)),
        Route("POST", f"{each}:declare", _DECLARE, partial(declare_expected, intake, pool), NoQuery, rest, _DECLARED,
              "Bổ sung giấy tờ và khai báo", "Add the document and declare",
              (*_JSON, *_TAKEN, "not_found", "already_staying")),
        Route("POST", f"{each}:cancel", _DECLARE, partial(cancel_expected, intake, pool), NoQuery, why, _CANCELLED,
              "Khách không đến", "The guest does not come", (*_JSON, *_TAKEN, "not_found")),
    )  # fmt: skip
