"""What police officers call. A search names purpose and case in its body, never in the URL, and is recorded first."""

from __future__ import annotations

from functools import partial

from aiohttp import web

from asm_daemon import police
from asm_daemon.police import Desk
from asm_daemon.web import examples
from asm_daemon.web.bodies import NO_BODY, model_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import OFFICER, Call, NoQuery, Route, Shown, Table
from schemas.answers import Purposes
from schemas.limits import DECLARATION_BYTES
from schemas.police import DocumentSearch, SearchResult


async def search_document(desk: Desk, call: Call[NoQuery, DocumentSearch]) -> web.Response:
    """Find the stays of one document number; the request is audited and sealed before anything is read."""
    return answer(await police.search(desk, call.principal, call.body, call.received_at))


async def list_purposes(desk: Desk, _call: Call[NoQuery, None]) -> web.Response:
    """The purposes under which an officer may search."""
    return answer(Purposes(purposes=await police.purposes(desk.pool)))


def police_routes(desk: Desk) -> Table:
    """The routes of the police."""
    search = model_body(DocumentSearch, DECLARATION_BYTES, examples.SEARCH)
    return (
        Route("POST", "/v1/police/searches", OFFICER, partial(search_document, desk), NoQuery, search,
              {200: Shown("Các lượt lưu trú tìm thấy; đã ghi nhật ký · What was found; it is on record", SearchResult)},
              "Tra cứu theo số giấy tờ", "Search by document number",
              ("not_json", "request_invalid", "purpose_not_allowed", "audit_unavailable")),
        Route("GET", "/v1/police/purposes", OFFICER, partial(list_purposes, desk), NoQuery, NO_BODY,
              {200: Shown("Các mục đích tra cứu", Purposes)}, "Các mục đích tra cứu", "Purposes of searches"),
    )  # fmt: skip
