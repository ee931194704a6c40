"""What police officers call. A search names purpose and case in its body, never in the URL, and is recorded first."""

from __future__ import annotations

from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

from aiohttp import web

from asm_daemon import police
from asm_daemon.police import Desk
from asm_daemon.web import examples
from asm_daemon.web.bodies import NO_BODY, model_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import OFFICER, STAY_ID, Call, NoQuery, Route, Shown, Table
from schemas.answers import Purposes
from schemas.limits import DECLARATION_BYTES
from schemas.police import (
    AlertAcknowledgement,
    AlertOpening,
    DocumentSearch,
    OpenedAlert,
    PoliceAlert,
    PoliceAlerts,
    SearchResult,
)
from schemas.queries import AlertsQuery

ALERT_ID = STAY_ID.replace("stay_id", "alert_id")
"""The path parameter of an alert, of the same form as a stay's."""


async def search_document(desk: Desk, call: Call[NoQuery, DocumentSearch]) -> web.Response:
    """Find the stays of one document number; the request is audited and sealed before anything is read."""
    return answer(await police.search(desk, call.principal, call.body, call.received_at))


async def list_purposes(desk: Desk, _call: Call[NoQuery, None]) -> web.Response:
    """The purposes under which an officer may search."""
    return answer(Purposes(purposes=await police.purposes(desk.pool)))


async def list_alerts(desk: Desk, call: Call[AlertsQuery, None]) -> web.Response:
    """The alerts of the police, without a word about a guest; the reading is on record."""
    shown = await police.list_alerts(desk, call.principal, call.query, call.received_at)
    headers = {}
    if shown.next is not None:
        following = call.query.model_copy(update={"cursor": shown.next})
        parameters = urlencode(following.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        headers["Link"] = f'</v1/police/alerts?{parameters}>; rel="next"'
    return answer(shown, headers=headers)


async def open_alert(desk: Desk, call: Call[NoQuery, AlertOpening]) -> web.Response:
    """The stay behind an alert; the request is audited and sealed before anything is read."""
    return answer(await police.open_alert(desk, call.principal, _alert_id(call), call.body, call.received_at))


async def acknowledge_alert(desk: Desk, call: Call[NoQuery, AlertAcknowledgement]) -> web.Response:
    """An officer has seen or handled an alert."""
    return answer(await police.acknowledge_alert(desk, call.principal, _alert_id(call), call.body, call.received_at))


def _alert_id(call: Call[Any, Any]) -> UUID:
    return UUID(call.path["alert_id"])


def police_routes(desk: Desk) -> Table:
    """The routes of the police."""
    search = model_body(DocumentSearch, DECLARATION_BYTES, examples.SEARCH)
    opening = model_body(AlertOpening, DECLARATION_BYTES, examples.ALERT_OPENING)
    acknowledgement = model_body(AlertAcknowledgement, DECLARATION_BYTES, examples.ALERT_ACKNOWLEDGEMENT)
    alert = f"/v1/police/alerts/{ALERT_ID}"
    return (
        Route("POST", "/v1/police/searches", OFFICER, partial(search_document, desk), NoQuery, search,
              {200: Shown("Các lượt lưu trú tìm thấy; đã ghi nhật ký · What was found; it is on record", SearchResult)},
              "Tra cứu theo số giấy tờ", "Search by document number",
              ("not_json", "request_invalid", "purpose_not_allowed", "audit_unavailable", "audit_not_witnessed")),
        Route("GET", "/v1/police/purposes", OFFICER, partial(list_purposes, desk), NoQuery, NO_BODY,
              {200: Shown("Các mục đích tra cứu", Purposes)}, "Các mục đích tra cứu", "Purposes of searches"),
        Route("GET", "/v1/police/alerts", OFFICER, partial(list_alerts, desk), AlertsQuery, NO_BODY,
              {200: Shown("Một trang cảnh báo, không có dữ liệu cá nhân; đã ghi nhật ký · Recorded", PoliceAlerts,
                          headers={"Link": "Trang sau (rel=next) · The next page"})},
              "Cảnh báo: giấy tờ đã bị thu hồi", "Alerts of revoked documents",
              ("request_invalid", "audit_unavailable", "audit_not_witnessed")),
        Route("POST", f"{alert}:open", OFFICER, partial(open_alert, desk), NoQuery, opening,
              {200: Shown("Lượt lưu trú của cảnh báo; đã ghi nhật ký · The stay; it is on record", OpenedAlert)},
              "Mở lượt lưu trú của một cảnh báo", "Open the stay of an alert",
              ("not_json", "request_invalid", "purpose_not_allowed", "audit_unavailable", "audit_not_witnessed",
               "not_found")),
        Route("POST", f"{alert}:acknowledge", OFFICER, partial(acknowledge_alert, desk), NoQuery, acknowledgement,
              {200: Shown("Cảnh báo với trạng thái mới · The alert in its new state", PoliceAlert)},
              "Ghi nhận đã xem, đã xử lý", "Note that an alert was seen or handled",
              ("not_json", "request_invalid", "audit_unavailable", "audit_not_witnessed", "not_found")),
    )  # fmt: skip
