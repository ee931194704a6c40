"""The one place where what went wrong becomes an HTTP answer (RFC 9457), and where a page becomes one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any

import orjson
from aiohttp import web
from jinja2 import Environment, PackageLoader, StrictUndefined
from pydantic import BaseModel

from asm_daemon.issuing import timeliness
from asm_daemon.problems import Refused, problem_document
from asm_daemon.rules import HANOI
from asm_daemon.web.route import HTML, JSON, Language
from schemas.portal import PortalProblem, PortalRefused
from schemas.stay import BatchResult
from schemas.violations import Violation

PROBLEM = "application/problem+json"


def answer(model: BaseModel, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """A JSON answer."""
    body = model.model_dump_json(by_alias=True).encode()
    return web.Response(body=body, status=status, headers=headers, content_type=JSON)


def entity_tag(version: str | int) -> str:
    """A strong entity tag (RFC 9110, 8.8.3)."""
    return f'"{version}"'


def matches_entity_tag(if_none_match: str, version: str | int) -> bool:
    """Whether If-None-Match names this version; the comparison is weak, as the RFC says."""
    named = {each.strip().removeprefix("W/") for each in if_none_match.split(",")}
    return entity_tag(version) in named or "*" in named


# -- languages ---------------------------------------------------------------------------------------------------------


def language_of(accept_language: str) -> Language:
    """Vietnamese, unless English is asked for with more weight (RFC 9110, 12.5.4)."""
    weights = dict(_weighted(accept_language))
    return "en" if weights.get("en", 0.0) > weights.get("vi", weights.get("*", 0.0)) else "vi"


def prefers_html(accept: str) -> bool:
    """Whether a browser asks: HTML weighs more than JSON."""
    return weight_of(accept, HTML) > max(weight_of(accept, JSON), weight_of(accept, PROBLEM))


def weight_of(accept: str, media_type: str) -> float:
    """How much an Accept header asks for this very type (RFC 9110, 12.5.1); wildcards ask for nothing in particular."""
    return dict(_weighted(accept)).get(media_type, 0.0)


def _weighted(header: str) -> Iterable[tuple[str, float]]:
    for item in header[:500].lower().split(","):
        value, *parameters = (part.strip() for part in item.split(";"))
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        yield value.partition("-")[0] if "/" not in value else value, _number(weight)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0


# -- problems ----------------------------------------------------------------------------------------------------------


class AllRowsRefused(Refused):
    """A batch of which nothing is on file; the problem carries the result of every row as extension members."""

    def __init__(self, result: BatchResult) -> None:
        super().__init__("all_rows_refused")
        self.result = result


def problem_response(refused: Refused, language: Language, request_id: str) -> web.Response:
    """A refusal as problem+json."""
    document = problem_document(refused, language).model_copy(update={"request_id": request_id})
    members = document.model_dump(mode="json", exclude_none=True)
    if isinstance(refused, AllRowsRefused):
        members |= refused.result.model_dump(mode="json")
    response = web.Response(body=orjson.dumps(members), status=refused.problem.status, content_type=PROBLEM)
    response.headers["Content-Language"] = language
    response.headers["Vary"] = "Accept-Language"
    _add_advice(response, refused)
    return response


def _add_advice(response: web.Response, refused: Refused) -> None:
    if refused.problem.status == 401:
        response.headers["WWW-Authenticate"] = 'Bearer realm="asm"'
    if refused.retry_after_seconds is not None:
        response.headers["Retry-After"] = str(refused.retry_after_seconds)


# -- the national portal's form ----------------------------------------------------------------------------------------

_PORTAL_STATUSES = frozenset({401, 403, 404, 405})
_PORTAL_TITLES = {
    "unauthenticated": "Thiếu token hoặc token không còn hiệu lực: hãy lấy token mới.",
    "facility_not_granted": "Khoá không được cấp quyền khai báo cho cơ sở này.",
}


def portal_status(status: int) -> int:
    """The status that software written for the national portal understands: what it must correct is 400."""
    return status if status >= 500 or status in _PORTAL_STATUSES else 400


def portal_refusal(refused: Refused, request_id: str) -> web.Response:
    """A refusal of a whole request in the national portal's form; `data` has the problem."""
    status = portal_status(refused.problem.status)
    title = _PORTAL_TITLES.get(refused.code, refused.problem.title.vi)
    document = problem_document(refused).model_copy(update={"request_id": request_id})
    message = " ".join([title, *portal_reasons(refused.violations)])
    shown = PortalRefused(code=str(status), message=message, data=PortalProblem(problem=document))
    response = answer(shown, status)
    _add_advice(response, refused)
    return response


def portal_reasons(violations: Iterable[Violation]) -> list[str]:
    """Each violation as a sentence that names the member: "soGiayTo: …"."""
    return [f"{found.place}: {found.vi}" if found.place else found.vi for found in violations]


# -- pages -------------------------------------------------------------------------------------------------------------


def page(template: str, *, status: int = 200, **values: Any) -> web.Response:
    """An HTML page from `templates/`; a missing value is an error, every value is escaped."""
    text = _environment().get_template(template).render(values)
    return web.Response(text=text, status=status, content_type=HTML)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("asm_daemon.web"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["local"] = _local
    environment.filters["timeliness"] = timeliness
    return environment


def _local(instant: datetime | str) -> str:
    """An instant as people in Viet Nam read it: 23:05 05/11/2026."""
    if isinstance(instant, str):
        instant = datetime.fromisoformat(instant)
    return instant.astimezone(HANOI).strftime("%H:%M %d/%m/%Y")
