"""The OpenAPI 3.1 document of a route table: a pure function of the table, the same on every host."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import cache, lru_cache
from typing import Any

import orjson
from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from asm_daemon import __version__
from asm_daemon.problems import PROBLEMS
from asm_daemon.web.bodies import JSON, Content
from asm_daemon.web.rendering import PROBLEM
from asm_daemon.web.route import PUBLIC, Route, Shown, Table, is_portal
from schemas.stay import Problem
from schemas.webhooks import EVENT_TEXTS, EventType, OwnerEvent

Member = dict[str, Any]
Schemas = Mapping[tuple[Any, JsonSchemaMode], Member]

_REF = "#/components/schemas/{model}"
_PATH_PARAMETER = re.compile(r"\{(\w+)(?::((?:[^{}]|\{[^{}]*\})*))?\}")
_PATH_PARAMETERS = {
    "plan_id": "Mã kế hoạch theo danh sách · The plan's id",
    "alert_id": "Mã của cảnh báo · The alert",
    "stay_id": "Mã lượt lưu trú (UUIDv7) · The stay's id",
    "expected_id": "Mã khách dự kiến (UUIDv7) · The expected guest's id",
    "import_id": "Mã của lần gửi tệp · The id of the import",
    "webhook_id": "Mã webhook (UUIDv7) · The webhook's id",
    "table": "Tên danh mục · Name of the table",
    "facility_kind": "Loại cơ sở, mã trong danh mục facility_kinds · Kind of facility, a code of facility_kinds",
    "template": "Mẫu trích xuất · Name of the extract template",
    "period": "Kỳ: YYYY-MM-DD hoặc YYYY-MM · The period",
    "system": "Phần mềm khách sạn · The hotel software",
    "token": "Mã webhook, do người vận hành cấp · The webhook token, given by the operator",
    "code": "Mã · Code",
}
_TAGS = {
    "owner": "Chủ cơ sở lưu trú và phần mềm của họ · Owners of facilities, and their vendors",
    "officer": "Cán bộ công an: mọi tra cứu đều được ghi nhật ký · Police officers; every search is on record",
    "department": "Các sở: chỉ có số liệu tổng hợp · Departments; aggregates only",
    "portal": "Hợp đồng của cổng KBTT (REST v1.4) cho phần mềm cũ · The national portal's contract, for old software",
    "public": "Không cần khoá · No key needed",
}
_ABOUT = """\
API khai báo lưu trú (thông báo lưu trú theo Điều 30 Luật Cư trú): mỗi khai báo được nhận sẽ có biên nhận ngay.
API for accommodation declaration: every declaration that is taken in is answered with a receipt at once.

* **Lỗi · Errors** are RFC 9457 problem+json with a stable `code`; `errors` holds every violation at once, each with a
  JSON Pointer and a message in Vietnamese and English. `GET /v1/problems` lists all codes. `Accept-Language: en` gives
  English titles.
* **Gửi lại · Sending again** is always safe: `source_ref` names the stay within its facility. 201 accepted,
  200 the very same content was on file already (its receipt is in the answer).
* **Lô · Batches**: 200 every row is on file (accepted or duplicate), 207 some rows were refused, 422 none is on file.
  `received = accepted + duplicate + expected + refused`; results stand in input order.
* **Thời điểm · Instants** carry their offset (RFC 3339). Lateness is counted from when the request body was complete.
* **Dữ liệu cá nhân · Personal data** never belongs into a URL; answers that carry it are not to be cached.
"""


def document(table: Table) -> bytes:
    """The document of every listed route, as JSON with sorted members."""
    listed = [route for route in table if route.listed]
    schemas, definitions = _schemas(listed)
    paths: dict[str, Member] = {}
    for route in listed:
        path = _PATH_PARAMETER.sub(r"{\1}", route.path)
        paths.setdefault(path, {})[route.method.lower()] = _operation(route, schemas)
    whole = {
        "openapi": "3.1.1",
        "info": {
            "title": "ASM – Khai báo lưu trú · Accommodation declaration",
            "version": __version__,
            "description": _ABOUT,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": [{"name": name, "description": text} for name, text in _TAGS.items()],
        "paths": paths,
        "webhooks": {kind.value: _event(kind) for kind in EventType},
        "components": {
            "schemas": definitions,
            "responses": {code: _problem(code, schemas) for code in PROBLEMS},
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "Khoá API · API key: `asm_…`"},
                "session": {"type": "http", "scheme": "bearer", "description": "`AccessToken` · of a session"},
            },
        },
    }
    return orjson.dumps(whole, option=orjson.OPT_SORT_KEYS | orjson.OPT_INDENT_2)


def _schemas(listed: Iterable[Route[Any, Any]]) -> tuple[Schemas, Member]:
    wanted: set[tuple[type[BaseModel], JsonSchemaMode]] = {(Problem, "serialization")}
    for route in listed:
        wanted.add((route.query, "validation"))
        wanted.update((each.model, "validation") for each in route.body.contents.values() if each.model)
        wanted.update((each.model, "serialization") for each in route.answers.values() if each.model)
    schemas, definitions = _generated(tuple(sorted(wanted, key=lambda pair: (pair[0].__name__, pair[1]))))
    spelt_out = {route.query.__name__ for route in listed}  # a query is parameters and needs no component
    return schemas, {name: each for name, each in definitions.items() if name not in spelt_out}


@lru_cache(maxsize=1)  # a hundred milliseconds, and models do not change
def _generated(models: tuple[tuple[type[BaseModel], JsonSchemaMode], ...]) -> tuple[Schemas, Member]:
    schemas, whole = models_json_schema(models, ref_template=_REF)
    return schemas, whole.get("$defs", {})


def _event(kind: EventType) -> Member:
    """A request that we make, and the answer that is wanted (OpenAPI 3.1, Webhooks)."""
    names = {
        "webhook-id": "Mã sự kiện, không đổi khi gửi lại · The event's id, the same whenever it is sent again",
        "webhook-timestamp": "Giây Unix của lần gửi này · Unix seconds of this attempt",
        "webhook-signature": "v1,… HMAC-SHA256 của id.timestamp.body (Standard Webhooks); cách nhau bằng dấu cách",
    }
    header = {"in": "header", "required": True, "schema": {"type": "string"}}
    return {
        "post": {
            "operationId": kind.name.lower(),
            "summary": EVENT_TEXTS[kind],
            "tags": ["owner"],
            "parameters": [{"name": name, "description": text, **header} for name, text in names.items()],
            "requestBody": {
                "required": True,
                "content": {JSON: {"schema": {"$ref": _REF.format(model=OwnerEvent.__name__)}}},
            },
            "responses": {
                "2XX": {"description": "Đã nhận · Taken"},
                "410": {"description": "Đừng gửi nữa: webhook bị tắt · Send no more: the webhook is disabled"},
            },
        }
    }


# -- one operation -----------------------------------------------------------------------------------------------------


def _operation(route: Route[Any, Any], schemas: Schemas) -> Member:
    query: type[BaseModel] = route.query
    operation: Member = {
        "operationId": route.name,
        "summary": f"{route.vi} · {route.en}",
        "tags": [_tag(route)],
        "parameters": [*_path_parameters(route.path), *_query_parameters(query), *_headers(route)],
        "responses": {
            **{str(status): _shown(shown, schemas) for status, shown in route.answers.items()},
            **({} if is_portal(route.path) else _problems(route)),
        },
        "security": _security(route),
    }
    if route.description:
        operation["description"] = route.description
    if route.body.contents:
        content = {media: _content(each, schemas) for media, each in route.body.contents.items()}
        operation["requestBody"] = {"required": not route.body.optional, "content": content}
    return operation


def _security(route: Route[Any, Any]) -> list[Member]:
    if route.who.is_public:
        return []
    return [{"session": []}] if route.who.session else [{"key": [route.who.name]}]


def _tag(route: Route[Any, Any]) -> str:
    if is_portal(route.path):
        return "portal"
    return "public" if route.who is PUBLIC else route.who.name.partition(":")[0]


def _path_parameters(path: str) -> list[Member]:
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "description": _PATH_PARAMETERS[name],
            "schema": {"type": "string"} | ({"pattern": f"^{pattern}$"} if pattern else {}),
        }
        for name, pattern in _PATH_PARAMETER.findall(path)
    ]


@cache
def _query_parameters(query: type[BaseModel]) -> list[Member]:
    schema = query.model_json_schema(ref_template=_REF)
    required = schema.get("required", [])
    return [
        {"name": name, "in": "query", "required": name in required, "schema": member}
        for name, member in schema.get("properties", {}).items()
    ]


def _headers(route: Route[Any, Any]) -> list[Member]:
    return [
        {
            "name": header.name,
            "in": "header",
            "required": header.required,
            "description": header.description,
            "schema": {"type": "string"},
            "example": header.example,
        }
        for header in route.headers
    ]


def _content(content: Content, schemas: Schemas) -> Member:
    schema = schemas[content.model, "validation"] if content.model else dict(content.schema)
    shown: Member = {"schema": {"type": "array", "items": schema, "minItems": 1} if content.many else schema}
    if content.example is not None:
        shown["example"] = content.example
    return shown


def _shown(shown: Shown, schemas: Schemas) -> Member:
    response: Member = {"description": shown.vi}
    if shown.headers:
        response["headers"] = {
            name: {"description": text, "schema": {"type": "string"}} for name, text in shown.headers.items()
        }
    if shown.media:
        schema = schemas[shown.model, "serialization"] if shown.model else {}
        response["content"] = {media: {"schema": schema if media == JSON else {}} for media in shown.media}
    return response


# -- problems ----------------------------------------------------------------------------------------------------------


def _problems(route: Route[Any, Any]) -> Member:
    """The responses of a route for what can go wrong; several codes of one status are one response."""
    by_status: dict[int, list[str]] = {}
    for code in dict.fromkeys((*route.problems, *_implied(route))):
        by_status.setdefault(PROBLEMS[code].status, []).append(code)
    return {
        str(status): {"$ref": f"#/components/responses/{codes[0]}"} if len(codes) == 1 else _several(codes)
        for status, codes in sorted(by_status.items())
        if status not in route.answers
    }


def _implied(route: Route[Any, Any]) -> Iterable[str]:
    if not route.who.is_public:
        yield from ("unauthenticated", "forbidden", "unavailable")
    if route.who.scope is not None:
        yield "scope_missing"
    if route.query.model_fields:
        yield "request_invalid"
    if route.body.contents:
        if not route.who.is_public:
            yield "key_exhausted"
        yield from ("bad_request", "unsupported_media_type", "body_too_large", "request_timeout")
    yield "internal"


def _several(codes: Iterable[str]) -> Member:
    text = "\n".join(f"* `{code}`: {PROBLEMS[code].title.vi} · {PROBLEMS[code].title.en}" for code in codes)
    return {"description": text, "content": {PROBLEM: {"schema": {"$ref": _REF.format(model="Problem")}}}}


def _problem(code: str, schemas: Schemas) -> Member:
    kind = PROBLEMS[code]
    example = {"type": f"/problems/{code}", "title": kind.title.vi, "status": kind.status, "code": code}
    return {
        "description": f"`{code}`: {kind.title.vi} · {kind.title.en}",
        "content": {PROBLEM: {"schema": schemas[Problem, "serialization"], "example": example}},
    }
