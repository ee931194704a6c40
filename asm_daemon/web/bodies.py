"""Request bodies: read within a limit and a time, then decoded. Nothing is decompressed, nothing is read twice."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Generic, NamedTuple, TypeAlias, TypeVar
from urllib.parse import parse_qsl

import orjson
from aiohttp import web
from pydantic import BaseModel, ValidationError

from asm_daemon.problems import Refused, from_validation
from asm_daemon.web.thinning import Thinner
from schemas.limits import FORM_BYTES
from schemas.violations import violation

B = TypeVar("B")
M = TypeVar("M", bound=BaseModel)

IDLE_SECONDS = 20.0
"""How long the sender of a body may be silent."""
BODY_SECONDS = 300.0
"""How long a body may take in all: 8 MiB over 256 kbit/s."""
_PARTS_LIMIT = 8
_PART_HEAD_BYTES = 2048
_BOUNDARY = re.compile(r';\s*boundary=(?:"([^"]{1,70})"|([^;\s]{1,70}))', re.IGNORECASE)
_DISPOSITION = re.compile(r';\s*(name|filename)=(?:"([^"]*)"|([^;\s]*))', re.IGNORECASE)

NDJSON = "application/x-ndjson"
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"
FORM = "application/x-www-form-urlencoded"
MULTIPART = "multipart/form-data"
BINARY = "application/octet-stream"


class Row(NamedTuple):
    """One row of a batch. `number` is its place as its sender counts: the element or the line, from 1."""

    number: int
    fields: Mapping[str, Any] | None
    refusal: Refused | None = None

    def __repr__(self) -> str:
        return "<Row>"


@dataclass(frozen=True, slots=True, repr=False)
class Document:
    """A file as it was sent. `filename` serves to choose a connector; it is neither kept nor logged."""

    content: bytes
    filename: str | None
    media_type: str
    fields: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Content:
    """One media type in the API document: a model, or a schema of its own; `many` is an array of the model."""

    model: type[BaseModel] | None = None
    schema: Mapping[str, Any] = field(default_factory=dict)
    many: bool = False
    example: Any = None


@dataclass(frozen=True, slots=True)
class Body(Generic[B]):
    """How a route's body is read: what may be sent, how much of it, and `decode(content, content_type)`.

    With `optional` an absent body needs no content type. With `kept_bytes` it is JSON that may hold
    photographs: they are dropped as they arrive, and of the rest at most so many bytes are kept (`web.thinning`).
    """

    decode: Callable[[bytes, str], B]
    contents: Mapping[str, Content]
    limit_bytes: int = 0
    optional: bool = False
    kept_bytes: int | None = None


# -- reading -----------------------------------------------------------------------------------------------------------


async def read(request: web.Request, body: Body[Any]) -> bytes:
    """Read the body that `body` describes.

    Refused `unsupported_media_type` (also for a compressed body), `body_too_large` before the rest is read,
    `request_timeout`, `bad_request` if the connection breaks off.
    """
    if not body.contents:
        return b""
    _check_type(request, body)
    if (request.content_length or 0) > body.limit_bytes:
        raise Refused("body_too_large")
    try:
        if request.content.is_eof() and body.kept_bytes is None:  # it came with its head, as most do: no timers needed
            content = await request.content.read()
        else:
            async with asyncio.timeout(BODY_SECONDS):
                content = await _gather(request, body)
    except TimeoutError:
        raise Refused("request_timeout") from None
    except (web.RequestPayloadError, ConnectionError):
        raise Refused("bad_request") from None
    if len(content) > body.limit_bytes:
        raise Refused("body_too_large")
    return content


async def _gather(request: web.Request, body: Body[Any]) -> bytes:
    """The whole body, or what is kept of it. Refused `body_too_large` as soon as it is."""
    keep = bytes if body.kept_bytes is None else Thinner()
    kept_limit = body.limit_bytes if body.kept_bytes is None else body.kept_bytes
    received, content = 0, bytearray()
    while chunk := await _next_chunk(request):
        received += len(chunk)
        content += keep(chunk)
        if received > body.limit_bytes or len(content) > kept_limit:
            raise Refused("body_too_large")
    return bytes(content)


async def _next_chunk(request: web.Request) -> bytes:
    async with asyncio.timeout(IDLE_SECONDS):
        return await request.content.readany()


def _check_type(request: web.Request, body: Body[Any]) -> None:
    if request.headers.get("Content-Encoding", "identity").lower() != "identity":
        raise Refused("unsupported_media_type")
    if body.optional and not request.body_exists:
        return
    charset = request.charset or "utf-8"
    if request.content_type not in body.contents or charset.lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Refused("unsupported_media_type")


# -- decoding ----------------------------------------------------------------------------------------------------------


def _nothing(_content: bytes, _content_type: str) -> None:
    return None


NO_BODY: Body[None] = Body(_nothing, {})


def model_body(model: type[M], limit_bytes: int, example: Any = None) -> Body[M]:
    """A JSON object that `model` validates. Refused `not_json`, `request_invalid` with every violation."""

    def decode(content: bytes, _content_type: str) -> M:
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            found = from_validation(error)
        if [each.code for each in found] == ["not_json"]:
            raise Refused("not_json")
        raise Refused("request_invalid", violations=found)

    return Body(decode, {JSON: Content(model, example=example)}, limit_bytes)


def object_body(
    model: type[BaseModel],
    limit_bytes: int,
    example: Any = None,
    *,
    media: tuple[str, ...] = (JSON,),
    optional: bool = False,
) -> Body[Mapping[str, Any]]:
    """A JSON object of the shape of `model`, not validated: intake does that for every way in.

    Refused `not_json`, `request_invalid` if it is no object. With `optional`, no body is an empty object.
    """

    def decode(content: bytes, _content_type: str) -> Mapping[str, Any]:
        value = _loads(content) if content or not optional else {}
        if not isinstance(value, dict):
            raise Refused("request_invalid", violations=[violation("wrong_type", "", expected="object")])
        return value

    return Body(decode, {each: Content(model, example=example) for each in media}, limit_bytes, optional)


def rows_body(
    model: type[BaseModel],
    limit_bytes: int,
    limit_rows: int,
    example: Any = None,
    *,
    with_lines: bool = True,
    kept_bytes: int | None = None,
) -> Body[list[Row]]:
    """Many JSON objects of the shape of `model`: an array, or (`with_lines`) NDJSON with one on each line.

    Refused `not_json` for an array that is none, `no_rows`, `too_many_rows`. What is wrong with one row alone, even
    that it is not JSON, is that row's refusal.
    """

    def decode(content: bytes, content_type: str) -> list[Row]:
        if parse_media_type(content_type) == NDJSON:
            rows = list(_lines(content, limit_rows))
        else:
            rows = [_row(number, value) for number, value in enumerate(_array(content), 1)]
        if not rows:
            raise Refused("no_rows")
        if len(rows) > limit_rows:
            raise Refused("too_many_rows")
        return rows

    line = {"type": "string", "description": "One JSON object of this shape on each line; empty lines are skipped."}
    contents = {JSON: Content(model, many=True, example=example)}
    return Body(
        decode, contents | ({NDJSON: Content(schema=line)} if with_lines else {}), limit_bytes, kept_bytes=kept_bytes
    )


def _array(content: bytes) -> list[Any]:
    value = _loads(content)
    if not isinstance(value, list):
        raise Refused("request_invalid", violations=[violation("wrong_type", "", expected="array")])
    return value


def _lines(content: bytes, limit_rows: int) -> Iterator[Row]:
    taken = 0
    for number, line in enumerate(content.split(b"\n"), 1):
        if not line.strip():
            continue
        taken += 1
        if taken > limit_rows:
            raise Refused("too_many_rows")
        try:
            yield _row(number, _loads(line))
        except Refused:
            yield Row(number, None, Refused("declaration_invalid", violations=[violation("not_json")]))


def _row(number: int, value: Any) -> Row:
    if isinstance(value, dict):
        return Row(number, value)
    wrong = violation("wrong_type", "", expected="object")
    return Row(number, None, Refused("declaration_invalid", violations=[wrong]))


def _loads(content: bytes) -> Any:
    try:
        return orjson.loads(content.removeprefix(b"\xef\xbb\xbf"))  # the mark that Windows programs put first
    except orjson.JSONDecodeError:  # its message quotes the place, and so perhaps a person
        raise Refused("not_json") from None


Form: TypeAlias = Mapping[str, str]


def form_body(*names: str) -> Body[Form]:
    """The fields `names` of an HTML form (application/x-www-form-urlencoded); others are refused."""

    def decode(content: bytes, _content_type: str) -> Form:
        try:
            pairs = parse_qsl(content.decode("ascii"), max_num_fields=len(names), errors="strict")
        except ValueError:
            raise Refused("bad_request") from None
        if any(name not in names for name, _ in pairs):
            raise Refused("bad_request")
        return dict(pairs)

    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}}
    return Body(decode, {FORM: Content(schema=schema)}, FORM_BYTES)


def document_body(media: tuple[str, ...], limit_bytes: int, field_names: tuple[str, ...]) -> Body[Document]:
    """A file: as the body itself in one of `media`, or as the part `file` of a multipart form with text fields.

    Refused `bad_request` for a form that is none, `request_invalid` if it has no file or an unknown field.
    """

    def decode(content: bytes, content_type: str) -> Document:
        kind = parse_media_type(content_type)
        if kind != MULTIPART:
            return Document(content, None, kind, {})
        boundary = _BOUNDARY.search(content_type)
        return _document(content, (boundary[1] or boundary[2]) if boundary else "", field_names)

    text = {name: {"type": "string"} for name in field_names}
    properties = {"file": {"type": "string", "format": "binary"}, **text}
    form = {"type": "object", "properties": properties, "required": ["file"]}
    contents = {each: Content() for each in dict.fromkeys((*media, BINARY))}
    return Body(decode, {MULTIPART: Content(schema=form), **contents}, limit_bytes)


def parse_media_type(content_type: str) -> str:
    """`type/subtype` of a Content-Type, lower-case."""
    return content_type.partition(";")[0].strip().lower()


def _document(content: bytes, boundary: str, field_names: tuple[str, ...]) -> Document:
    file: Document | None = None
    fields: dict[str, str] = {}
    for disposition, media_type, value in _parts(content, boundary):
        name = disposition.get("name", "")
        if name == "file" and file is None:
            file = Document(value, disposition.get("filename"), media_type, fields)
        elif name in field_names and name not in fields and len(value) <= FORM_BYTES:
            fields[name] = value.decode("utf-8", "replace").strip()
        else:
            raise Refused("request_invalid", violations=[violation("unknown_field")])
    if file is None:
        raise Refused("request_invalid", violations=[violation("required", "/file")])
    return file


def _parts(content: bytes, boundary: str) -> Iterator[tuple[Mapping[str, str], str, bytes]]:
    """The parts of a multipart body (RFC 2046, 5.1.1): disposition parameters, media type and content of each."""
    sections = (b"\r\n" + content).split(b"\r\n--" + boundary.encode("latin-1", "replace"), _PARTS_LIMIT + 1)
    if not boundary or len(sections) < 2 or not sections[-1].startswith(b"--"):
        raise Refused("bad_request")  # no end: broken off, or more parts than anybody needs
    for section in sections[1:-1]:
        head, separator, value = section.partition(b"\r\n\r\n")
        if not separator or len(head) > _PART_HEAD_BYTES or head.lstrip(b" \t")[:2] not in (b"\r\n", b""):
            raise Refused("bad_request")
        lines = head.decode("utf-8", "replace").split("\r\n")[1:]
        headers = {name.strip().lower(): text for name, _, text in (line.partition(":") for line in lines)}
        disposition = {
            name: quoted or plain
            for name, quoted, plain in _DISPOSITION.findall(headers.get("content-disposition", ""))
        }
        yield disposition, parse_media_type(headers.get("content-type", "text/plain")), value
