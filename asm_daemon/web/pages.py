"""Pages for people, Vietnamese first: what this is, the check of a receipt, the problems, the API documentation."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

import asyncpg
import segno
from aiohttp import web

from asm_daemon import owners
from asm_daemon.problems import PROBLEMS, Refused
from asm_daemon.web.bodies import NO_BODY, Form, form_body
from asm_daemon.web.rendering import page
from asm_daemon.web.route import HTML, PUBLIC, AnyQuery, Call, Route, Shown, Table

_NOT_IN_A_CODE = re.compile(r"[^0-9A-Za-z-]")
_PAGE = Shown("Trang web", media=(HTML,))


async def show_home(trial: bool, _call: Call[AnyQuery, None]) -> web.Response:
    """What this is, and for whom."""
    return page("home.html", trial=trial)


async def show_docs(trial: bool, _call: Call[AnyQuery, None]) -> web.Response:
    """Swagger UI over `/openapi.json`, from our own files."""
    return page("docs.html", trial=trial)


async def show_check(trial: bool, _call: Call[AnyQuery, None]) -> web.Response:
    """The form that asks for a code."""
    return page("check.html", trial=trial, check=None, code=None)


async def submit_check(call: Call[AnyQuery, Form]) -> web.Response:
    """Lead from the form to the page of the code."""
    code = _NOT_IN_A_CODE.sub("", call.body.get("code", ""))[:24].upper()
    return web.Response(status=303, headers={"Location": f"/check/{code}" if code else "/check"})


async def show_checked(pool: asyncpg.Pool, trial: bool, call: Call[AnyQuery, None]) -> web.Response:
    """What a receipt's code stands for: facility, time and state, never the guest. 404 when it stands for nothing."""
    check = await owners.check_code(pool, call.path["code"])
    status = 200 if check is not None else 404
    return page("check.html", status=status, trial=trial, check=check, code=call.path["code"])


async def show_problem(trial: bool, call: Call[AnyQuery, None]) -> web.Response:
    """What a problem's `type` leads to."""
    problem = PROBLEMS.get(call.path["code"])
    if problem is None:
        raise Refused("not_found")
    return page("problem.html", trial=trial, problem=problem, request_id=None)


def receipt_page(receipt: Mapping[str, Any]) -> web.Response:
    """A receipt to print; a trial's says so across the page, whatever the deployment is."""
    qr = segno.make(receipt["check_url"], error="m", micro=False).svg_data_uri(border=2, dark="#000", light="#fff")
    return page("receipt.html", trial=receipt["trial"], receipt=receipt, qr=qr)


def page_routes(pool: asyncpg.Pool, trial: bool) -> Table:
    """The pages. `pool` finds stays by their code."""
    code = form_body("code")
    shown, checked, form = partial(show_check, trial), partial(show_checked, pool, trial), {303: _PAGE}
    return (
        Route("GET", "/", PUBLIC, partial(show_home, trial), AnyQuery, NO_BODY, {200: _PAGE},
              "Trang đầu", "Home", listed=False),
        Route("GET", "/docs", PUBLIC, partial(show_docs, trial), AnyQuery, NO_BODY, {200: _PAGE},
              "Tài liệu API", "API documentation", listed=False),
        Route("GET", "/check", PUBLIC, shown, AnyQuery, NO_BODY, {200: _PAGE},
              "Kiểm tra biên nhận", "Check a receipt", listed=False),
        Route("POST", "/check", PUBLIC, submit_check, AnyQuery, code, form,
              "Kiểm tra biên nhận", "Check a receipt", listed=False),
        Route("GET", "/check/{code:[0-9A-Za-z-]{1,24}}", PUBLIC, checked, AnyQuery, NO_BODY, {200: _PAGE},
              "Kết quả kiểm tra", "What a code stands for", listed=False),
        Route("GET", "/problems/{code:[a-z_]{1,40}}", PUBLIC, partial(show_problem, trial), AnyQuery, NO_BODY,
              {200: _PAGE}, "Giải thích lỗi", "What a problem means", listed=False),
    )  # fmt: skip
