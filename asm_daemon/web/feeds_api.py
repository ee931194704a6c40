"""What departments call: the releases of their own extracts. There is no way here to anything about a person."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable
from datetime import date, datetime
from functools import partial

import asyncpg
import orjson
from aiohttp import web

from asm_daemon import feeds
from asm_daemon.problems import Refused
from asm_daemon.web.bodies import NO_BODY
from asm_daemon.web.rendering import answer, entity_tag, matches_entity_tag, weight_of
from asm_daemon.web.route import DEPARTMENT, JSON, Call, Header, Route, Shown, Table
from schemas.codes import Department
from schemas.feeds import ReleaseBody, ReleaseCell, ReleaseQuery, Releases, ReleasesQuery, ReleaseSummary

Guard = Callable[[datetime], Awaitable[None]]
CSV = "text/csv"
_IF_NONE_MATCH = Header("If-None-Match", "ETag của lần đọc trước · The ETag of an earlier answer", '"9f86d081884c7d65"')
_OWN = "private, no-cache"


async def list_releases(pool: asyncpg.Pool, guard: Guard, call: Call[ReleasesQuery, None]) -> web.Response:
    """The releases of the caller's department, in order of publication."""
    await guard(call.received_at)
    query = call.query
    found = await feeds.list_releases(pool, _department(call), query.after, query.limit)
    shown = [
        ReleaseSummary(
            id=str(release.id),
            template=release.template,
            period=release.period,
            release_no=release.release_no,
            published_at=release.published_at,
            sha256=release.sha256.hex(),
        )
        for release in found
    ]
    headers = {}
    if len(found) == query.limit:
        headers["Link"] = f'</v1/feeds?after={found[-1].id}&limit={query.limit}>; rel="next"'
    return answer(Releases(releases=shown), headers=headers)


async def read_release(pool: asyncpg.Pool, guard: Guard, call: Call[ReleaseQuery, None]) -> web.Response:
    """One release, byte for byte as it was published; or its cells as a table."""
    await guard(call.received_at)
    if call.path["template"] != feeds.DAILY:
        raise Refused("not_found")
    release = await feeds.read_release(pool, _department(call), _day(call.path["period"]), call.query.release_no)
    if release is None:
        raise Refused("not_found")
    accept = call.headers.get("Accept", "")
    as_table = call.query.format == "csv" or weight_of(accept, CSV) > weight_of(accept, JSON)
    version = release.sha256.hex() + ("-csv" if as_table else "")
    headers = {"ETag": entity_tag(version), "Vary": "Accept"}
    if matches_entity_tag(call.headers.get("If-None-Match", ""), version):
        return web.Response(status=304, headers=headers)
    if as_table:
        return web.Response(text=_table(release.body), content_type=CSV, charset="utf-8", headers=headers)
    return web.Response(body=release.body, content_type=JSON, headers=headers)


def _department(call: Call[ReleasesQuery, None] | Call[ReleaseQuery, None]) -> Department:
    """Every department's principal has one; a key without reads nothing."""
    if call.principal.department is None:
        raise Refused("forbidden")
    return call.principal.department


def _day(period: str) -> date:
    try:
        return date.fromisoformat(period)
    except ValueError:
        raise Refused("not_found") from None


def _table(body: bytes) -> str:
    """The cells as CSV (RFC 4180) with a header; what is suppressed or a total is an empty field."""
    text = io.StringIO()
    writer = csv.DictWriter(text, list(ReleaseCell.model_fields))
    writer.writeheader()
    writer.writerows(orjson.loads(body)["cells"])
    return text.getvalue()


def feed_routes(pool: asyncpg.Pool, guard: Guard) -> Table:
    """The routes of departments. `pool` connects as asm_feeds, which reaches published releases and nothing else;
    `guard` raises Refused while nothing may be given out."""
    page = {200: Shown("Các bản trích xuất", Releases, headers={"Link": "Trang sau (rel=next) · The next page"})}
    release = {
        200: Shown("Một bản trích xuất", ReleaseBody, media=(JSON, CSV), headers={"ETag": "SHA-256"}),
        304: Shown("Không đổi · Unchanged", media=()),
    }
    return (
        Route("GET", "/v1/feeds", DEPARTMENT, partial(list_releases, pool, guard), ReleasesQuery, NO_BODY,
              page,
              "Các bản trích xuất của sở", "Releases of the own department",
              ("audit_not_witnessed", "audit_unavailable"), cache=_OWN),
        Route("GET", "/v1/feeds/{template}/{period:[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?}", DEPARTMENT,
              partial(read_release, pool, guard), ReleaseQuery, NO_BODY, release,
              "Đọc một bản trích xuất", "Read a release",
              ("not_found", "audit_not_witnessed", "audit_unavailable"), (_IF_NONE_MATCH,), cache=_OWN),
    )  # fmt: skip
