"""What operators call: how the carrying of stays is doing, setting it in motion, alerts, metrics. Nothing personal."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
import prometheus_client
import structlog
from aiohttp import web
from pydantic import BaseModel

from asm_daemon import operating
from asm_daemon.operating import Ask
from asm_daemon.web import examples
from asm_daemon.web.bodies import NO_BODY, model_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import OPERATOR, STAY_ID, Call, NoQuery, Route, Shown, Table
from schemas.limits import DECLARATION_BYTES
from schemas.operating import (
    Acted,
    AlertClosing,
    AlertStates,
    InspectQuery,
    Move,
    OperatorAlertsQuery,
    RefusedQuery,
    RefusedStates,
    Settlement,
    StayInspection,
    SyncState,
    WaitingQuery,
    WaitingStates,
)

MEASURE_SECONDS = 3.0
"""How long a scrape waits for the figures of the database; after that it is answered with those of before."""
_TEXT = "text/plain"
Ring = Callable[[], None]

log = structlog.get_logger()


async def read_sync(pool: asyncpg.Pool, _call: Call[NoQuery, None]) -> web.Response:
    """The backlog by place, reason and code; the workers and their lanes; open alerts."""
    return answer(await operating.overview(pool))


async def list_refused_stays(pool: asyncpg.Pool, call: Call[RefusedQuery, None]) -> web.Response:
    """What waits for a human, with code and age."""
    shown = await operating.list_refused(pool, call.query, call.received_at)
    return _page(shown, "/v1/admin/sync/refused", call.query, shown.next)


async def list_waiting_stays(pool: asyncpg.Pool, call: Call[WaitingQuery, None]) -> web.Response:
    """What is tried again later: why, how often, and when."""
    shown = await operating.list_waiting(pool, call.query, call.received_at)
    return _page(shown, "/v1/admin/sync/waiting", call.query, shown.next)


def _page(shown: BaseModel, path: str, query: BaseModel, following: str | None) -> web.Response:
    headers = {}
    if following is not None:
        given = query.model_dump(mode="json", exclude_none=True, exclude_defaults=True)
        headers["Link"] = f'<{path}?{urlencode({**given, "after": following})}>; rel="next"'
    return answer(shown, headers=headers)


async def inspect_stay(pool: asyncpg.Pool, ask: Ask, call: Call[InspectQuery, None]) -> web.Response:
    """Where one stay stands on its way, without what is declared of it; the look is recorded."""
    stay_id, actor = UUID(call.path["stay_id"]), str(call.principal.id)
    wanted = ask if call.query.ask else None
    return answer(await operating.inspect(pool, actor, stay_id, call.received_at, wanted))


async def replay_stays(pool: asyncpg.Pool, ring: Ring, call: Call[NoQuery, Move]) -> web.Response:
    """Queue refused stays again."""
    return answer(await operating.replay(pool, ring, str(call.principal.id), call.body, call.received_at))


async def release_stays(pool: asyncpg.Pool, ring: Ring, call: Call[NoQuery, Move]) -> web.Response:
    """Let waiting stays be tried at once."""
    return answer(await operating.release(pool, ring, str(call.principal.id), call.body, call.received_at))


async def settle_stays(pool: asyncpg.Pool, call: Call[NoQuery, Settlement]) -> web.Response:
    """Mark refused stays as looked at; they stay refused."""
    return answer(await operating.settle(pool, str(call.principal.id), call.body, call.received_at))


async def list_operator_alerts(pool: asyncpg.Pool, call: Call[OperatorAlertsQuery, None]) -> web.Response:
    """What has to be looked at."""
    return answer(await operating.list_alerts(pool, call.query))


async def close_operator_alert(pool: asyncpg.Pool, call: Call[NoQuery, AlertClosing]) -> web.Response:
    """Note that an alert was dealt with."""
    await operating.close_alert(pool, str(call.principal.id), call.body, call.received_at)
    return web.Response(status=204)


# -- metrics -----------------------------------------------------------------------------------------------------------


class Measuring:
    """Reads figures for the metrics, one reading at a time: a database that hangs is asked once, however often it is
    scraped."""

    def __init__(self, measure: Callable[[], Awaitable[object]]) -> None:
        self._measure = measure
        self._task: asyncio.Future[object] | None = None

    async def refresh(self, seconds: float) -> None:
        """Read the figures anew, and wait for them at most `seconds`. What fails is logged; its age is a metric."""
        if self._task is None:
            self._task = asyncio.ensure_future(self._measure())
            self._task.add_done_callback(self._ended)
        # Not asyncio.timeout: a database that hangs would hold up the cancellation too, and with it the answer.
        await asyncio.wait({self._task}, timeout=seconds)

    def _ended(self, task: asyncio.Future[object]) -> None:
        self._task = None
        if not task.cancelled() and (error := task.exception()):
            log.warning("not_measured", exc_info=error)


async def read_metrics(measuring: Measuring, _call: Call[NoQuery, None]) -> web.Response:
    """Prometheus metrics: counts and times of the daemon, with nothing about a facility or a guest."""
    await measuring.refresh(MEASURE_SECONDS)
    headers = {"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
    return web.Response(body=prometheus_client.generate_latest(), headers=headers)


# -- the table ---------------------------------------------------------------------------------------------------------


def admin_routes(pool: asyncpg.Pool, ring: Ring, ask: Ask, measure: Callable[[], Awaitable[object]]) -> Table:
    """The routes of operators. `pool` connects as asm_sync; `ring` wakes the sync workers, `ask` asks the population
    database, `measure` reads the figures for a scrape."""
    selection = model_body(Move, DECLARATION_BYTES, examples.REPLAY)
    settlement = model_body(Settlement, DECLARATION_BYTES, examples.SETTLEMENT)
    closing = model_body(AlertClosing, DECLARATION_BYTES, examples.ALERT_CLOSING)
    acted = {200: Shown("Số lượt đã (hoặc sẽ) xử lý · How many, or how many it would be", Acted)}
    wrong = ("not_json", "request_invalid")
    read = partial(read_metrics, Measuring(measure))
    return (
        Route("GET", "/metrics", OPERATOR, read, NoQuery, NO_BODY,
              {200: Shown("Số đo (Prometheus)", media=(_TEXT,))}, "Số đo vận hành", "Metrics"),
        Route("GET", "/v1/admin/sync", OPERATOR, partial(read_sync, pool), NoQuery, NO_BODY,
              {200: Shown("Tình trạng đồng bộ", SyncState)}, "Tình trạng đồng bộ", "How the sync is doing"),
        Route("GET", "/v1/admin/sync/refused", OPERATOR, partial(list_refused_stays, pool), RefusedQuery, NO_BODY,
              {200: Shown("Các lượt bị từ chối", RefusedStates)}, "Các lượt bị từ chối", "What waits for a human"),
        Route("GET", "/v1/admin/sync/waiting", OPERATOR, partial(list_waiting_stays, pool), WaitingQuery, NO_BODY,
              {200: Shown("Các lượt đang chờ gửi lại", WaitingStates)}, "Các lượt đang chờ", "What is tried again"),
        Route("GET", f"/v1/admin/sync/stays/{STAY_ID}", OPERATOR, partial(inspect_stay, pool, ask), InspectQuery,
              NO_BODY, {200: Shown("Lượt này đang ở đâu, không có dữ liệu cá nhân", StayInspection)},
              "Một lượt đang ở đâu", "Where one stay stands", ("not_found",)),
        Route("POST", "/v1/admin/sync:replay", OPERATOR, partial(replay_stays, pool, ring), NoQuery, selection, acted,
              "Gửi lại những lượt bị từ chối", "Send what was refused again", wrong),
        Route("POST", "/v1/admin/sync:release", OPERATOR, partial(release_stays, pool, ring), NoQuery, selection, acted,
              "Thử ngay những lượt đang chờ", "Try what waits at once", wrong),
        Route("POST", "/v1/admin/sync:settle", OPERATOR, partial(settle_stays, pool), NoQuery, settlement, acted,
              "Đánh dấu đã xử lý những lượt bị từ chối", "Mark what was refused as looked at", wrong),
        Route("GET", "/v1/admin/alerts", OPERATOR, partial(list_operator_alerts, pool), OperatorAlertsQuery, NO_BODY,
              {200: Shown("Các cảnh báo vận hành", AlertStates)}, "Các cảnh báo vận hành", "Operators' alerts"),
        Route("POST", "/v1/admin/alerts:close", OPERATOR, partial(close_operator_alert, pool), NoQuery, closing,
              {204: Shown("Đã đóng · Closed", media=())}, "Đóng một cảnh báo", "Close an alert",
              (*wrong, "not_found")),
    )  # fmt: skip
