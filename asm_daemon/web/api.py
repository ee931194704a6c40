"""What owners and their vendors call: declare, ask, change, and fetch the receipt.

Every handler decodes, makes one call into the core, and encodes. Which facility an act is for is settled here, row by
row, because a vendor's batch may serve several.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
from aiohttp import web

from asm_daemon import owners
from asm_daemon.crypto import Keyring
from asm_daemon.directory import authorise
from asm_daemon.intake import Command, Intake, Outcome, batch_result, row_result
from asm_daemon.issuing import Issuer
from asm_daemon.model import Scope
from asm_daemon.problems import Refused, problem_document
from asm_daemon.web import examples
from asm_daemon.web.bodies import MERGE_PATCH, NO_BODY, Row, object_body, rows_body
from asm_daemon.web.pages import receipt_page
from asm_daemon.web.rendering import AllRowsRefused, answer, entity_tag, prefers_html
from asm_daemon.web.route import HTML, JSON, STAY_ID, Call, Header, NoQuery, Route, Shown, Table, owner
from schemas.act import Act, ActKind
from schemas.answers import FacilityStates, Receipt
from schemas.limits import DECLARATION_BYTES, IDEMPOTENCY_KEY_LIMIT
from schemas.queries import BatchQuery, ReceiptQuery, StaysQuery, StayViewQuery
from schemas.stay import (
    BatchResult,
    Cancellation,
    CheckOut,
    Extension,
    RowResult,
    StayCorrection,
    StayDeclaration,
    StayPage,
    StayView,
    UndoCheckOut,
)
from schemas.violations import violation

_SOURCE_REF = re.compile(r"[\x21-\x7e]{1,128}")
_IDEMPOTENCY_KEY = re.compile(rf'"?([\x21\x23-\x7e]{{1,{IDEMPOTENCY_KEY_LIMIT}}})"?')
_VERSION_TAG = re.compile(r'"?([1-9][0-9]{0,8})"?')
_CREATED, _MULTI = 201, 207

Fields = Mapping[str, Any]
Submit = Callable[[Sequence[Command]], Awaitable[list[Outcome]]]
CommandOf = Callable[[Call[Any, Any], int, Fields], Command]


# -- declaring ---------------------------------------------------------------------------------------------------------


async def declare_stay(intake: Intake, call: Call[NoQuery, Fields]) -> web.Response:
    """Declare one stay: 201, or 200 if exactly this was declared before."""
    return await _file(intake, _declaration(call, 1, call.body), _CREATED)


async def declare_stays(intake: Intake, call: Call[BatchQuery, list[Row]]) -> web.Response:
    """Declare many stays; what is wrong with one row is that row's result."""
    return await file_rows(intake.submit, call, _declaration)


async def rehearse_stays(intake: Intake, call: Call[BatchQuery, list[Row]]) -> web.Response:
    """Answer as `declare_stays` would, and store nothing."""
    return await file_rows(intake.rehearse, call, _declaration)


async def _file(intake: Intake, command: Command, accepted_status: int) -> web.Response:
    (outcome,) = await intake.submit([command])
    if outcome.refusal is not None:
        raise outcome.refusal
    result = row_result(command, outcome)
    headers = {"Location": f"/v1/stays/{result.stay_id}", "ETag": entity_tag(result.version or 0)}
    return answer(result, accepted_status if outcome.outcome == "accepted" else 200, headers)


async def file_rows(submit: Submit, call: Call[BatchQuery, list[Row]], command_of: CommandOf) -> web.Response:
    """Take in rows, each as the act that `command_of` makes of it; what is wrong with one is that row's result."""
    expected = call.query.expected_count
    if expected is not None and expected != len(call.body):
        raise Refused("count_mismatch")
    results: list[RowResult | None] = []
    commands: list[Command] = []
    for row in call.body:
        addressed = _addressed(call, row, command_of)
        if isinstance(addressed, Command):
            commands.append(addressed)
        results.append(None if isinstance(addressed, Command) else addressed)
    outcomes = iter(zip(commands, await submit(commands), strict=True))
    return batch_answer(batch_result([result or row_result(*next(outcomes)) for result in results]))


def _addressed(call: Call[BatchQuery, list[Row]], row: Row, command_of: CommandOf) -> Command | RowResult:
    try:
        if row.refusal is not None:
            raise row.refusal
        return command_of(call, row.number, row.fields or {})
    except Refused as refusal:
        ref = source_ref_of(row.fields or {})
        return RowResult(row=row.number, outcome="refused", source_ref=ref, problem=problem_document(refusal))


def batch_answer(result: BatchResult) -> web.Response:
    """200: every row is on file, or kept as expected. 207: some were refused. 422: none is, and that is no success."""
    if result.refused == result.received:
        raise AllRowsRefused(result)
    return answer(result, _MULTI if result.refused else 200)


def _declaration(call: Call[Any, Any], row: int, fields: Fields) -> Command:
    facility = fields.get("facility")
    return Command(
        facility=authorise(call.principal, facility if isinstance(facility, str) else None, Scope.DECLARE),
        act=Act(ActKind.DECLARE, fields, row, source_ref_of(fields)),
        received_at=call.received_at,
        actor=str(call.principal.id),
        idempotency_key=_idempotency_key(call.headers, row),
    )


def source_ref_of(fields: Fields) -> str | None:
    """The reference, if it has the form of one: what has not may be anything, and is not repeated in the answer."""
    ref = fields.get("source_ref")
    return ref if isinstance(ref, str) and _SOURCE_REF.fullmatch(ref) else None


def _idempotency_key(headers: Mapping[str, str], row: int) -> str | None:
    """The name that a row without `source_ref` gets; the spaces keep it apart from every `source_ref`."""
    given = headers.get("Idempotency-Key")
    if given is None:
        return None
    match = _IDEMPOTENCY_KEY.fullmatch(given)
    if match is None:
        wanted = f"1-{IDEMPOTENCY_KEY_LIMIT} × 0x21-0x7E"
        raise Refused("request_invalid", violations=[violation("wrong_format", "", "Idempotency-Key", expected=wanted)])
    return f"Idempotency-Key {match[1]} {row}"


# -- asking ------------------------------------------------------------------------------------------------------------


async def list_stays(pool: asyncpg.Pool, keyring: Keyring, call: Call[StaysQuery, None]) -> web.Response:
    """The stays of one or all granted facilities, without personal data, in the order of their registration."""
    shown = await owners.list_stays(pool, keyring, call.principal, call.query)
    headers = {}
    if shown.next is not None:
        following = call.query.model_copy(update={"cursor": shown.next})
        parameters = urlencode(following.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        headers["Link"] = f'</v1/stays?{parameters}>; rel="next"'
    return answer(shown, headers=headers)


async def read_stay(pool: asyncpg.Pool, keyring: Keyring, call: Call[StayViewQuery, None]) -> web.Response:
    """One stay: its state, or with `view=full` and the scope `read` also what was declared, which is audited."""
    full = call.query.view == "full"
    stay = await owners.read_stay(pool, keyring, call.principal, _stay_id(call), call.received_at, personal=full)
    if full and not isinstance(stay, StayView):
        raise Refused("scope_missing")
    return answer(stay, headers={"ETag": entity_tag(stay.version)})


async def read_receipt(
    pool: asyncpg.Pool, keyring: Keyring, issuer: Issuer, call: Call[ReceiptQuery, None]
) -> web.Response:
    """The receipt of a stay's newest version, or of the one asked for; for people, a page to print."""
    receipt = await owners.read_receipt(pool, keyring, issuer, call.principal, _stay_id(call), call.query.version)
    if call.query.format == "html" or prefers_html(call.headers.get("Accept", "")):
        return receipt_page(receipt)
    response = answer(Receipt.model_validate(receipt))
    response.headers["Vary"] = "Accept"
    return response


async def list_facilities(pool: asyncpg.Pool, call: Call[NoQuery, None]) -> web.Response:
    """How every granted facility stands today, in one answer."""
    return answer(await owners.list_facilities(pool, call.principal, call.received_at))


def _stay_id(call: Call[Any, Any]) -> UUID:
    return UUID(call.path["stay_id"])


# -- changing ----------------------------------------------------------------------------------------------------------


Change = Callable[[ActKind, Call[NoQuery, Fields], int | None], Awaitable[web.Response]]


async def correct_stay(change: Change, call: Call[NoQuery, Fields]) -> web.Response:
    """Change what was declared; the sender says which version it knows."""
    version = _expected_version(call.headers)
    if version is None:
        raise Refused("precondition_required")
    return await change(ActKind.CORRECT, call, version)


async def check_out(change: Change, call: Call[NoQuery, Fields]) -> web.Response:
    """The guest has left."""
    return await change(ActKind.CHECK_OUT, call, _expected_version(call.headers))


async def undo_check_out(change: Change, call: Call[NoQuery, Fields]) -> web.Response:
    """The guest had not left after all."""
    return await change(ActKind.UNDO_CHECK_OUT, call, _expected_version(call.headers))


async def extend_stay(change: Change, call: Call[NoQuery, Fields]) -> web.Response:
    """The guest stays longer, or leaves earlier, than planned."""
    return await change(ActKind.EXTEND, call, _expected_version(call.headers))


async def cancel_stay(change: Change, call: Call[NoQuery, Fields]) -> web.Response:
    """The declaration should not stand."""
    return await change(ActKind.CANCEL, call, _expected_version(call.headers))


async def _change(
    intake: Intake, pool: asyncpg.Pool, kind: ActKind, call: Call[NoQuery, Fields], version: int | None
) -> web.Response:
    stay_id = _stay_id(call)
    command = Command(
        facility=await owners.facility_of(pool, call.principal, stay_id),
        act=Act(kind, call.body, row=1),
        received_at=call.received_at,
        actor=str(call.principal.id),
        stay_id=stay_id,
        expected_version=version,
    )
    return await _file(intake, command, 200)


def _expected_version(headers: Mapping[str, str]) -> int | None:
    """The version that If-Match names; one is enough, and `*` names none."""
    given = headers.get("If-Match")
    if given is None or given.strip() == "*":
        return None
    match = _VERSION_TAG.fullmatch(given.strip())
    if match is None:
        raise Refused("request_invalid", violations=[violation("wrong_format", "", "If-Match", expected='"1"')])
    return int(match[1])


# -- the table ---------------------------------------------------------------------------------------------------------

_DECLARE, _STATUS = owner(Scope.DECLARE), owner(Scope.STATUS)
_IDEMPOTENCY = Header("Idempotency-Key", "Tên của lượt khi không có source_ref · Names a stay without one", "3f1c-7")
_IF_MATCH = Header("If-Match", "Phiên bản đã biết · The version that the sender knows", '"1"')
_VERSION = {"ETag": "Phiên bản · The version"}
_FILED = {**_VERSION, "Location": "Lượt lưu trú · The stay"}

_DECLARED = {
    201: Shown("Đã nhận; biên nhận kèm theo · Accepted, with its receipt", RowResult, headers=_FILED),
    200: Shown("Đã có từ trước đúng nội dung này · On file already, just so", RowResult, headers=_FILED),
}
_BATCH = {
    200: Shown("Mọi dòng đã được ghi nhận (mới hoặc trùng) · Every row is on file", BatchResult),
    207: Shown("Có dòng bị từ chối: xem results · Some rows were refused: see results", BatchResult),
}
_CHANGED = {200: Shown("Đã ghi nhận, hoặc đã đúng như vậy · Recorded, or so already", RowResult, headers=_FILED)}
_PAGE = {200: Shown("Một trang", StayPage, headers={"Link": "Trang sau (rel=next) · The next page"})}
_STAY = {200: Shown("Lượt lưu trú; declaration chỉ có với view=full", StayView, headers=_VERSION)}
_RECEIPT = {200: Shown("Biên nhận", Receipt, media=(JSON, HTML))}
_FACILITIES = {200: Shown("Các cơ sở", FacilityStates)}

_ADDRESSED = ("facility_not_granted", "facility_required")
_JSON = ("not_json", "request_invalid")
_TAKEN = ("declaration_invalid", "already_staying", "overloaded", "outcome_unknown")
_DECLARE_PROBLEMS = (*_JSON, *_ADDRESSED, *_TAKEN, "content_differs", "stay_cancelled")
_CHANGE_PROBLEMS = (*_JSON, *_TAKEN, "not_found", "wrong_state", "version_conflict")
_ROWS_PROBLEMS = ("request_invalid", "no_rows", "all_rows_refused", "too_many_rows", "overloaded", "outcome_unknown")
_BATCH_PROBLEMS = ("not_json", "count_mismatch", *_ROWS_PROBLEMS)


def owner_routes(
    intake: Intake,
    pool: asyncpg.Pool,
    keyring: Keyring,
    issuer: Issuer,
    max_body_bytes: int,
    max_batch_rows: int,
) -> Table:
    """The routes of owners and vendors. `pool` connects as asm_intake."""
    change = partial(_change, intake, pool)
    one = object_body(StayDeclaration, DECLARATION_BYTES, examples.DECLARATION)
    many = rows_body(StayDeclaration, max_body_bytes, max_batch_rows, [examples.DECLARATION])
    patch = object_body(StayCorrection, DECLARATION_BYTES, examples.CORRECTION, media=(MERGE_PATCH, JSON))
    left = object_body(CheckOut, DECLARATION_BYTES, examples.CHECK_OUT)
    nothing = object_body(UndoCheckOut, DECLARATION_BYTES, {}, optional=True)
    until = object_body(Extension, DECLARATION_BYTES, examples.EXTENSION)
    why = object_body(Cancellation, DECLARATION_BYTES, examples.CANCELLATION)
    stay = f"/v1/stays/{STAY_ID}"
    return (
        Route("POST", "/v1/stays", _DECLARE, partial(declare_stay, intake), NoQuery, one, _DECLARED,
              "Khai báo một lượt lưu trú", "Declare a stay", _DECLARE_PROBLEMS, (_IDEMPOTENCY,)),
        Route("POST", "/v1/stays:batch", _DECLARE, partial(declare_stays, intake), BatchQuery, many, _BATCH,
              "Khai báo nhiều lượt", "Declare many stays", _BATCH_PROBLEMS, (_IDEMPOTENCY,)),
        Route("POST", "/v1/stays:validate", _DECLARE, partial(rehearse_stays, intake), BatchQuery, many, _BATCH,
              "Kiểm tra thử, không ghi nhận gì", "Rehearse; nothing is stored", _BATCH_PROBLEMS, (_IDEMPOTENCY,)),
        Route("GET", "/v1/stays", _STATUS, partial(list_stays, pool, keyring), StaysQuery, NO_BODY, _PAGE,
              "Danh sách, không có dữ liệu cá nhân", "List stays, without personal data", ("facility_not_granted",)),
        Route("GET", stay, _STATUS, partial(read_stay, pool, keyring), StayViewQuery, NO_BODY, _STAY,
              "Xem một lượt", "Read a stay", ("not_found",)),
        Route("PATCH", stay, _DECLARE, partial(correct_stay, change), NoQuery, patch, _CHANGED,
              "Đính chính", "Correct a stay",
              (*_CHANGE_PROBLEMS, "precondition_required", "another_person"), (replace(_IF_MATCH, required=True),)),
        Route("POST", f"{stay}:check-out", _DECLARE, partial(check_out, change), NoQuery, left, _CHANGED,
              "Khách rời đi", "The guest has left", _CHANGE_PROBLEMS, (_IF_MATCH,)),
        Route("POST", f"{stay}:undo-check-out", _DECLARE, partial(undo_check_out, change), NoQuery, nothing, _CHANGED,
              "Huỷ ghi nhận rời đi", "The guest had not left", _CHANGE_PROBLEMS, (_IF_MATCH,)),
        Route("POST", f"{stay}:extend", _DECLARE, partial(extend_stay, change), NoQuery, until, _CHANGED,
              "Đổi ngày dự kiến đi", "Change the planned departure", _CHANGE_PROBLEMS, (_IF_MATCH,)),
        Route("POST", f"{stay}:cancel", _DECLARE, partial(cancel_stay, change), NoQuery, why, _CHANGED,
              "Huỷ khai báo", "Cancel a declaration", _CHANGE_PROBLEMS, (_IF_MATCH,)),
        Route("GET", f"{stay}/receipt", _STATUS, partial(read_receipt, pool, keyring, issuer), ReceiptQuery, NO_BODY,
              _RECEIPT, "Biên nhận", "The receipt of a stay", ("not_found",)),
        Route("GET", "/v1/facilities", _STATUS, partial(list_facilities, pool), NoQuery, NO_BODY, _FACILITIES,
              "Tình hình mọi cơ sở hôm nay", "How every facility stands today"),
    )  # fmt: skip
