"""What owners are told: events to pull, and the webhooks that they are sent to."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any
from urllib.parse import urlencode
from uuid import UUID

import asyncpg
from aiohttp import web

from asm_daemon import events
from asm_daemon.crypto import Keyring
from asm_daemon.model import Scope
from asm_daemon.web import examples
from asm_daemon.web.bodies import NO_BODY, model_body, object_body
from asm_daemon.web.rendering import answer
from asm_daemon.web.route import STAY_ID, Call, NoQuery, Route, Shown, Table, owner
from asm_daemon.webhooks import Actor, Endpoints
from schemas.limits import DECLARATION_BYTES, FORM_BYTES
from schemas.webhooks import EventPage, EventsQuery, NewWebhook, WebhookOrder, Webhooks, WebhookSecret, WebhookTest

WEBHOOK_ID = STAY_ID.replace("stay_id", "webhook_id")
Fields = Mapping[str, Any]


async def list_events(
    pool: asyncpg.Pool, keyring: Keyring, public_url: str, call: Call[EventsQuery, None]
) -> web.Response:
    """Events after a cursor, oldest first."""
    page, more = await events.page(pool, keyring, public_url, call.principal, call.query)
    headers = {}
    if more:
        following = call.query.model_copy(update={"after": page.next})
        parameters = urlencode(following.model_dump(mode="json", exclude_none=True, exclude_defaults=True))
        headers["Link"] = f'</v1/events?{parameters}>; rel="next"'
    return answer(page, headers=headers)


async def register_webhook(endpoints: Endpoints, call: Call[NoQuery, NewWebhook]) -> web.Response:
    """Send the caller's events to an address."""
    principal = call.principal
    return answer(await endpoints.add(Actor.of(principal), principal.id, call.body, call.received_at), 201)


async def list_webhooks(endpoints: Endpoints, call: Call[NoQuery, None]) -> web.Response:
    """The caller's endpoints, and how they do."""
    return answer(await endpoints.list_own(call.principal.id))


async def delete_webhook(endpoints: Endpoints, call: Call[NoQuery, None]) -> web.Response:
    """Send no more to an endpoint, and forget it."""
    await endpoints.remove(Actor.of(call.principal), _id(call), call.received_at)
    return web.Response(status=204)


async def rotate_webhook(endpoints: Endpoints, call: Call[NoQuery, Fields]) -> web.Response:
    """A new secret; the old one signs as well for a while."""
    return answer(await endpoints.rotate(Actor.of(call.principal), _id(call), call.received_at))


async def enable_webhook(endpoints: Endpoints, call: Call[NoQuery, Fields]) -> web.Response:
    """Send to a disabled endpoint again."""
    await endpoints.enable(Actor.of(call.principal), _id(call), call.received_at)
    return web.Response(status=204)


async def send_test_event(endpoints: Endpoints, call: Call[NoQuery, Fields]) -> web.Response:
    """Send an event that tells of nothing."""
    return answer(await endpoints.test(Actor.of(call.principal), _id(call), call.received_at), 202)


def _id(call: Call[NoQuery, Any]) -> UUID:
    return UUID(call.path["webhook_id"])


# -- the table ---------------------------------------------------------------------------------------------------------

_STATUS = owner(Scope.STATUS)


def event_routes(pool: asyncpg.Pool, keyring: Keyring, public_url: str, endpoints: Endpoints) -> Table:
    """The routes for events. `pool` connects as asm_intake."""
    new = model_body(NewWebhook, DECLARATION_BYTES, examples.WEBHOOK)
    order = object_body(WebhookOrder, FORM_BYTES, {}, optional=True)
    one = f"/v1/webhooks/{WEBHOOK_ID}"
    following = {"Link": "Trang sau (rel=next), khi còn · The next page, if there is one already"}
    nothing = Shown("Xong · Done", media=())
    return (
        Route("GET", "/v1/events", _STATUS, partial(list_events, pool, keyring, public_url), EventsQuery, NO_BODY,
              {200: Shown("Một trang", EventPage, headers=following)},
              "Sự kiện từ con trỏ, cũ trước", "Events after a cursor, oldest first",
              ("facility_not_granted", "events_erased")),
        Route("POST", "/v1/webhooks", _STATUS, partial(register_webhook, endpoints), NoQuery, new,
              {201: Shown("Khoá bí mật, chỉ hiện một lần · The secret, shown only once", WebhookSecret)},
              "Đăng ký webhook", "Register a webhook", ("not_json", "request_invalid")),
        Route("GET", "/v1/webhooks", _STATUS, partial(list_webhooks, endpoints), NoQuery, NO_BODY,
              {200: Shown("Các webhook, và lỗi gần đây theo mã · The webhooks, and how they failed lately", Webhooks)},
              "Danh sách webhook và lỗi gần đây", "List webhooks, and how they failed lately"),
        Route("DELETE", one, _STATUS, partial(delete_webhook, endpoints), NoQuery, NO_BODY, {204: nothing},
              "Xoá webhook", "Delete a webhook", ("not_found",)),
        Route("POST", f"{one}:rotate", _STATUS, partial(rotate_webhook, endpoints), NoQuery, order,
              {200: Shown("Khoá mới; khoá cũ còn ký thêm một ngày · The new secret; the old one signs for a day more",
                          WebhookSecret)},
              "Đổi khoá bí mật", "Rotate the secret", ("not_found",)),
        Route("POST", f"{one}:enable", _STATUS, partial(enable_webhook, endpoints), NoQuery, order, {204: nothing},
              "Gửi lại cho webhook đã tắt", "Enable a disabled webhook", ("not_found", "wrong_state")),
        Route("POST", f"{one}:test", _STATUS, partial(send_test_event, endpoints), NoQuery, order,
              {202: Shown("Sẽ gửi; kết quả ở danh sách · It will be sent; the list tells how it went", WebhookTest)},
              "Gửi thử một sự kiện", "Send a test event", ("not_found", "wrong_state")),
    )  # fmt: skip
