"""The national portal's contract (Cổng KBTT/TBLT của Bộ Công an, REST API v1.4), for software that was written for it.

Such software changes its base URL and its credentials, and reads `code` and `message`: 200 means that every row is on
file, and nothing else does. What it does not look at, `data`, carries the result of every row. The user name is the id
of an API key, alone or with `@` and the code of a facility; the password is the key's secret. So a session is for one
facility, like an account of the portal, and a vendor's one key serves an unchanged program at every hotel.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, TypeAlias
from urllib.parse import parse_qsl

import asyncpg
import orjson
from aiohttp import web
from pydantic import BaseModel

from asm_daemon import directory
from asm_daemon.directory import Gate, Tokens, authorise
from asm_daemon.intake import ROWS_PER_TURN, Command, Intake, Outcome
from asm_daemon.model import Facility, Principal, Scope
from asm_daemon.problems import Refused, violated
from asm_daemon.web import examples
from asm_daemon.web.auth import bearer
from asm_daemon.web.bodies import FORM, JSON, NO_BODY, Body, Content, Form, Row, parse_media_type, rows_body
from asm_daemon.web.rendering import answer, portal_reasons
from asm_daemon.web.route import PORTAL, PUBLIC, Call, Route, Shown, Table
from schemas.act import Act
from schemas.codes import PROVINCES, DocumentType, table
from schemas.limits import FORM_BYTES, PORTAL_BODY_BYTES
from schemas.portal import (
    PortalCitizen,
    PortalCode,
    PortalDeparture,
    PortalDone,
    PortalFiled,
    PortalForeigner,
    PortalNationality,
    PortalProvince,
    PortalReceipt,
    PortalRefused,
    PortalRow,
    PortalRows,
    PortalSession,
    PortalTable,
    PortalTokens,
    PortalWard,
)
from schemas.queries import PortalQuery, RenewalQuery, SessionQuery, WardQuery
from schemas.violations import violation

EXTENDS_WITHIN_DAYS = 30
"""How long after the day of arrival an extended stay may end: the portal's rule, and that of Article 27 of the Law on
Residence, by which a guest of 30 days and more registers temporary residence."""
_USER_NAME = re.compile(r"(?:asm_)?(?P<key>[0-9a-f]{16})(?:@(?P<facility>[A-Za-z0-9-]{2,32}))?")
_FORM_FIELDS_LIMIT = 16

Members: TypeAlias = Mapping[str, Any]


class Readers(NamedTuple):
    """What translates rows of the portal: members and row number, and for a departure when it was received."""

    citizen: Callable[[Members, int], Act]
    foreigner: Callable[[Members, int], Act]
    departure: Callable[[Members, int, datetime], Act]


# -- sessions ----------------------------------------------------------------------------------------------------------


async def open_session(gate: Gate, pool: asyncpg.Pool, call: Call[PortalQuery, Form]) -> web.Response:
    """Open a session with the id and the secret of an API key."""
    form = call.body
    missing = [name for name in ("username", "password", "grant-type") if not form.get(name)]
    faults = [violation("required", "", name) for name in missing]
    if form.get("grant-type", "api_cslt") not in ("", "api_cslt"):
        faults.append(violation("out_of_range", "", "grant-type", expected="api_cslt"))
    if faults:
        raise Refused("request_invalid", violations=faults)
    name = _USER_NAME.fullmatch(form["username"].strip())
    try:
        key = f"asm_{name['key']}_{form['password'].strip()}" if name else ""
        principal = await gate.authenticate(key, call.received_at)
    except Refused as refused:
        raise Refused("wrong_credentials") if refused.code == "unauthenticated" else refused from None
    if name is None or principal.kind not in PORTAL.kinds:
        raise Refused("forbidden")
    facility = _facility_of(principal, name["facility"])
    return _session(await directory.open_session(pool, name["key"], facility, call.received_at), facility)


async def renew_session(gate: Gate, pool: asyncpg.Pool, call: Call[RenewalQuery, Form]) -> web.Response:
    """New tokens in place of both old ones."""
    refresh_token = call.body.get("refresh_token") or call.query.refresh_token
    if not refresh_token:
        raise Refused("request_invalid", violations=[violation("required", "", "refresh_token")])
    tokens = await directory.renew_session(pool, refresh_token, call.received_at)
    principal, code = await gate.authenticate_session(tokens.access, call.received_at)
    return _session(tokens, authorise(principal, code, Scope.DECLARE))


async def close_session(pool: asyncpg.Pool, call: Call[SessionQuery, None]) -> web.Response:
    """End a session; one that is not there has ended (RFC 7009, 2.2)."""
    access_token = bearer(call.headers) or call.query.access_token
    if not access_token:
        raise Refused("request_invalid", violations=[violation("required", "", "access_token")])
    await directory.close_session(pool, access_token)
    return answer(PortalDone())


def _facility_of(principal: Principal, code: str | None) -> Facility:
    """The facility that the user name names, or the only one there is."""
    if code is None and len(principal.grants) > 1:
        raise Refused("facility_required", violations=[violation("facility_in_user_name", "", "username")])
    return authorise(principal, code.upper() if code else next(iter(principal.grants), ""), Scope.DECLARE)


def _session(tokens: Tokens, facility: Facility) -> web.Response:
    shown = PortalTokens(
        access_token=tokens.access,
        refresh_token=tokens.refresh,
        expires_at=int(tokens.expires_at.timestamp()),
        facility_id=str(facility.id),
        province=facility.province,
        commune=facility.commune,
        facility=facility.code,
    )
    return answer(PortalSession(data=shown))


# -- declaring ---------------------------------------------------------------------------------------------------------


async def declare_citizens(intake: Intake, read: Readers, call: Call[SessionQuery, list[Row]]) -> web.Response:
    """Declare citizens."""
    return await _file(intake, call, read.citizen, "Bản khai báo")


async def declare_foreigners(intake: Intake, read: Readers, call: Call[SessionQuery, list[Row]]) -> web.Response:
    """Declare foreigners."""
    return await _file(intake, call, read.foreigner, "Bản khai báo")


async def change_departures(intake: Intake, read: Readers, call: Call[SessionQuery, list[Row]]) -> web.Response:
    """Let guests in house leave early, or stay longer."""
    return await _change(intake, read, call)


async def change_departures_of_foreigners(
    intake: Intake, read: Readers, call: Call[SessionQuery, list[Row]]
) -> web.Response:
    """The same at the address that the portal's own example has."""
    return await _change(intake, read, call)


async def _change(intake: Intake, read: Readers, call: Call[SessionQuery, list[Row]]) -> web.Response:
    return await _file(intake, call, partial(_departure, read, call.received_at), "Bản ghi")


def _departure(read: Readers, received_at: datetime, members: Members, number: int) -> Act:
    return read.departure(members, number, received_at)


async def _file(
    intake: Intake, call: Call[SessionQuery, list[Row]], read: Callable[[Members, int], Act], noun: str
) -> web.Response:
    """Take the rows in, and answer 200 only if every one of them is on file."""
    commands = []
    for place, row in enumerate(call.body, 1):
        if row.fields is not None:
            commands.append(_command(call, read(row.fields, row.number)))
        if place % ROWS_PER_TURN == 0:  # reading is work: other requests get their turn
            await asyncio.sleep(0)
    outcomes = iter(await intake.submit(commands))
    results = [
        _result(row.number, Outcome("refused", refusal=row.refusal) if row.fields is None else next(outcomes))
        for row in call.body
    ]
    rows = _counted(results)
    if not rows.refused:
        return answer(PortalFiled(data=rows))
    passing = any(result.code in _PASSING for result in results)
    shown = PortalRefused(code="503" if passing else "400", message=_message(rows, noun), data=rows)
    return answer(shown, int(shown.code), {"Retry-After": "5"} if passing else None)


_PASSING = frozenset({"overloaded", "unavailable", "key_exhausted", "outcome_unknown"})
"""Refusals that are nobody's fault: the same request will do later, and nothing of it is doubled."""


def _command(call: Call[SessionQuery, list[Row]], act: Act) -> Command:
    return Command(
        facility=call.facility,
        act=act,
        received_at=call.received_at,
        actor=str(call.principal.id),
        extends_within_days=EXTENDS_WITHIN_DAYS,
    )


def _counted(results: list[PortalRow]) -> PortalRows:
    counts = {name: sum(result.outcome == name for result in results) for name in ("accepted", "duplicate", "refused")}
    return PortalRows(received=len(results), results=results, **counts)


def _result(number: int, outcome: Outcome) -> PortalRow:
    if outcome.outcome == "expected":
        raise TypeError("a row of the portal's contract names nobody who is only expected")
    refusal, stay = outcome.refusal, outcome.stay
    receipt = outcome.receipt if refusal is None else refusal.receipt
    return PortalRow(
        row=number,
        outcome=outcome.outcome,
        stay_id=str(stay.id) if stay else refusal.stay_id if refusal else None,
        version=stay.version if stay else None,
        late_minutes=stay.late_minutes if stay else None,
        receipt=PortalReceipt.model_validate(dict(receipt)) if receipt else None,
        code=refusal.code if refusal else None,
        message=_reasons(refusal) if refusal else None,
        errors=[violated(found) for found in refusal.violations] or None if refusal else None,
        warnings=[violated(found) for found in outcome.warnings],
    )


_TITLES = {
    "already_staying": "Khách có cùng giấy tờ đang lưu trú hoặc trùng thời gian tại cơ sở này",
    "content_differs": "Khách này đã được khai báo cho ngày đến này với nội dung khác; bản đã ghi nhận được giữ nguyên",
    "stay_cancelled": "Lượt lưu trú này đã bị huỷ",
}
"""For those who read them at a desk: the titles of problems speak of calls that the portal's contract does not have."""


def _reasons(refusal: Refused) -> str:
    """Why a row is refused, without its last full stop; never a value."""
    reasons = portal_reasons(refusal.violations) or [_TITLES.get(refusal.code, refusal.problem.title.vi)]
    receipt = f" (biên nhận {refusal.receipt['code']})" if refusal.receipt else ""
    return "; ".join(reason.rstrip(".") for reason in reasons) + receipt


def _message(rows: PortalRows, noun: str) -> str:
    """Every refused row with its reasons, in the portal's words, and what became of the others."""
    refused = ", ".join(f"{noun} {each.row}: {each.message}" for each in rows.results if each.outcome == "refused")
    kept = rows.received - rows.refused
    others = f"{kept} bản còn lại đã được ghi nhận, không cần gửi lại" if kept else "Không có bản nào được ghi nhận"
    return f"{refused}. {others}."


# -- code tables -------------------------------------------------------------------------------------------------------

_Asked = Call[PortalQuery, None]


async def list_portal_nationalities(_call: _Asked) -> web.Response:
    """Nationalities."""
    rows = table("nationalities").rows
    return answer(PortalTable(data=[PortalNationality(code=str(row.code), vi=row.vi, en=row.en) for row in rows]))


async def list_portal_provinces(_call: _Asked) -> web.Response:
    """Provinces."""
    rows = table("provinces").rows
    return answer(PortalTable(data=[PortalProvince(code=str(row.code), vi=row.vi, en=row.en) for row in rows]))


async def list_portal_wards(call: Call[WardQuery, None]) -> web.Response:
    """The wards of a province."""
    province = call.query.province or ""
    if province not in PROVINCES:
        fault = violation("unknown_code", "", "trucThuocTinh", table="provinces")
        raise Refused("request_invalid", violations=[fault])
    rows = [row for row in table("communes").rows if row.parent == province and row.active]
    wards = [PortalWard(code=str(row.code), vi=row.vi, en=row.en, province=province) for row in rows]
    return answer(PortalTable(data=wards))


async def list_portal_reasons(_call: _Asked) -> web.Response:
    """Reasons for a stay."""
    return _codes("reasons")


async def list_portal_document_types(_call: _Asked) -> web.Response:
    """Document types of citizens; type 9 is for files only."""
    return _codes("document_types", without=DocumentType.OTHER)


async def list_portal_residence_kinds(_call: _Asked) -> web.Response:
    """Kinds of residence."""
    return _codes("residence_kinds")


def _codes(name: str, without: int | None = None) -> web.Response:
    rows = [row for row in table(name).rows if row.code != without]
    return answer(PortalTable(data=[PortalCode(id=int(row.code), name=row.vi) for row in rows]))


# -- bodies ------------------------------------------------------------------------------------------------------------


def _form_body(*names: str, optional: bool = False, or_json: bool = False) -> Body[Form]:
    """The fields `names` of a form; whatever else it has is ignored. An old client may send JSON where it has nothing
    to say."""

    def decode(content: bytes, content_type: str) -> Form:
        try:
            if content and parse_media_type(content_type) == JSON:
                given = orjson.loads(content)
                pairs = list(given.items()) if isinstance(given, dict) else []
            else:
                pairs = parse_qsl(content.decode("ascii"), max_num_fields=_FORM_FIELDS_LIMIT, errors="strict")
        except ValueError:
            raise Refused("bad_request") from None
        return {name: value for name, value in pairs if name in names and isinstance(value, str)}

    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    contents = {FORM: Content(schema=schema)} | ({JSON: Content(schema=schema)} if or_json else {})
    return Body(decode, contents, FORM_BYTES, optional)


# -- the table ---------------------------------------------------------------------------------------------------------

_OAUTH = "/authorization-service/oauth"
_CITIZENS = "/client-service/kbtt-vn/kbtt-3th"
_FOREIGNERS = "/client-service/kbtt/kbtt-3th"
_TABLES = "/cms-backend/public"
_SHARED = "public, max-age=300"


def _refusals(*statuses: int) -> dict[int, Shown]:
    return {status: Shown(_MEANINGS[status], PortalRefused) for status in statuses}


_MEANINGS = {
    400: "Có bản bị từ chối (data có kết quả từng bản), hoặc nội dung gửi lên có lỗi · "
    "Rows are refused (data has every row's result), or the request is wrong",
    401: "Sai tên đăng nhập, mật khẩu, hoặc token không còn hiệu lực · Wrong credentials, or a token that is not valid",
    403: "Khoá không có quyền tại cơ sở này · The key may not do this at this facility",
    500: "Lỗi của hệ thống · An error of ours",
    503: "Tạm thời chưa ghi nhận được, hãy gửi lại y như cũ · Not now: send the same again, nothing is doubled",
}


def kbtt_routes(
    intake: Intake, gate: Gate, pool: asyncpg.Pool, read: Readers, max_body_bytes: int, max_batch_rows: int
) -> Table:
    """The routes of the national portal's contract. `pool` connects as asm_auth."""

    def rows(model: type[BaseModel], example: Members) -> Body[list[Row]]:
        limits = (PORTAL_BODY_BYTES, max_batch_rows)
        return rows_body(model, *limits, [example], with_lines=False, kept_bytes=max_body_bytes)

    opened = {200: Shown("Phiên đã mở · The session is open", PortalSession), **_refusals(400, 401, 403, 500, 503)}
    closed = {200: Shown("Phiên đã đóng · The session is closed", PortalDone), **_refusals(400, 500, 503)}
    filed = {
        200: Shown("Mọi bản đã được ghi nhận · Every row is on file", PortalFiled),
        **_refusals(400, 401, 403, 500, 503),
    }
    listed = {200: Shown("Danh mục · The table", PortalTable), **_refusals(400, 500)}
    log_in = _form_body("username", "password", "grant-type")
    token = _form_body("refresh_token", optional=True, or_json=True)
    departures = rows(PortalDeparture, examples.PORTAL_DEPARTURE)
    change, change_foreign = (
        partial(change_departures, intake, read),
        partial(change_departures_of_foreigners, intake, read),
    )
    return (
        Route("POST", f"{_OAUTH}/token", PUBLIC, partial(open_session, gate, pool), PortalQuery, log_in, opened,
              "Lấy token", "Open a session"),
        Route("POST", f"{_OAUTH}/refresh-token", PUBLIC, partial(renew_session, gate, pool), RenewalQuery, token,
              opened, "Làm mới token", "Renew a session"),
        Route("DELETE", f"{_OAUTH}/revoke", PUBLIC, partial(close_session, pool), SessionQuery, NO_BODY, closed,
              "Xoá phiên", "Close a session"),
        Route("POST", _CITIZENS, PORTAL, partial(declare_citizens, intake, read), SessionQuery,
              rows(PortalCitizen, examples.PORTAL_CITIZEN), filed,
              "Khai báo công dân Việt Nam", "Declare citizens"),
        Route("POST", _FOREIGNERS, PORTAL, partial(declare_foreigners, intake, read), SessionQuery,
              rows(PortalForeigner, examples.PORTAL_FOREIGNER), filed,
              "Khai báo người nước ngoài", "Declare foreigners"),
        Route("POST", f"{_CITIZENS}/doi-ngay-tra-phong", PORTAL, change, SessionQuery, departures, filed,
              "Đổi ngày trả phòng", "Change departures"),
        Route("POST", f"{_FOREIGNERS}/doi-ngay-tra-phong", PORTAL, change_foreign, SessionQuery, departures, filed,
              "Đổi ngày trả phòng (địa chỉ thứ hai)", "Change departures, the other address"),
        Route("GET", f"{_TABLES}/dm-qt/3th/get-all", PUBLIC, list_portal_nationalities, PortalQuery, NO_BODY, listed,
              "Danh mục quốc tịch", "Nationalities", cache=_SHARED),
        Route("GET", f"{_TABLES}/dm-tinh-tp/get-all", PUBLIC, list_portal_provinces, PortalQuery, NO_BODY, listed,
              "Danh mục tỉnh, thành phố", "Provinces", cache=_SHARED),
        Route("GET", f"{_TABLES}/dm-phuong-xa", PUBLIC, list_portal_wards, WardQuery, NO_BODY, listed,
              "Danh mục phường, xã của một tỉnh", "Wards of a province", cache=_SHARED),
        Route("GET", f"{_TABLES}/ly-do-cu-tru/get-all", PUBLIC, list_portal_reasons, PortalQuery, NO_BODY, listed,
              "Danh mục lý do cư trú", "Reasons", cache=_SHARED),
        Route("GET", f"{_TABLES}/loai-giay-to/get-all", PUBLIC, list_portal_document_types, PortalQuery, NO_BODY,
              listed, "Danh mục loại giấy tờ", "Document types", cache=_SHARED),
        Route("GET", f"{_TABLES}/noi-cu-tru/get-all", PUBLIC, list_portal_residence_kinds, PortalQuery, NO_BODY, listed,
              "Danh mục nơi cư trú", "Kinds of residence", cache=_SHARED),
    )  # fmt: skip
