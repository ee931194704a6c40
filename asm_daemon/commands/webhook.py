"""Webhooks of owners (địa chỉ nhận sự kiện): where events are sent, how that goes, and what to do (`webhooks`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, TypeVar
from uuid import UUID

import typer

from asm_daemon.commands.console import group, note, operator, pool, print_json, print_table, settings, validated
from asm_daemon.crypto import open_keyring
from asm_daemon.daemon import plain_http_webhooks, utc_now
from asm_daemon.webhooks import Actor, Endpoints
from schemas.webhooks import EventType, NewWebhook

webhook_commands = group("Webhooks (địa chỉ nhận sự kiện) of owners and vendors.")

_Result = TypeVar("_Result")
_Id = Annotated[UUID, typer.Argument(metavar="ID", help="the webhook (mã webhook)")]


def _with_endpoints(work: Callable[[Endpoints], Awaitable[_Result]]) -> _Result:
    chosen = settings()
    keyring = open_keyring(chosen.key_store)

    async def connected() -> _Result:
        async with pool(chosen.database_url, "asm_intake") as opened:
            return await work(Endpoints(opened, keyring, plain_http_webhooks(chosen)))

    return asyncio.run(connected())


@webhook_commands.command("add")
def add_webhook(
    principal: Annotated[UUID, typer.Option(metavar="ID", help="whose events (chủ thể)", show_default=False)],
    url: Annotated[str, typer.Option(metavar="TEXT", help="where they are sent, https", show_default=False)],
    event: Annotated[list[EventType] | None, typer.Option(help="only these (loại sự kiện); all by default")] = None,
) -> None:
    """Register a webhook for an owner or vendor and print its id and secret, which is shown only once."""
    checked = validated(NewWebhook, url=url)
    new = checked.model_copy(update={"events": event or None})
    made = _with_endpoints(lambda endpoints: endpoints.add(Actor.operator(operator()), principal, new, utc_now()))
    note(made.id)
    typer.echo(made.secret)


@webhook_commands.command("list")
def list_webhooks(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List webhooks, those that are disabled or fail first (danh sách); of the address only its host is shown."""
    found = _with_endpoints(lambda endpoints: endpoints.list_all())
    if as_json:
        print_json([each._asdict() for each in found])
    else:
        columns = ("id", "principal", "host", "created_at", "waiting", "failing_since", "disabled_at", "code")
        print_table(columns, found)


@webhook_commands.command("disable")
def disable_webhook(webhook: _Id) -> None:
    """Send no more to a webhook, and drop what waits for it (tắt)."""
    _with_endpoints(lambda endpoints: endpoints.disable(Actor.operator(operator()), webhook, utc_now()))


@webhook_commands.command("enable")
def enable_webhook(webhook: _Id) -> None:
    """Send to a disabled webhook again what happens from now on (bật lại)."""
    _with_endpoints(lambda endpoints: endpoints.enable(Actor.operator(operator()), webhook, utc_now()))


@webhook_commands.command("test")
def test_webhook(webhook: _Id) -> None:
    """Send a test event, and print its id (gửi thử)."""
    queued = _with_endpoints(lambda endpoints: endpoints.test(Actor.operator(operator()), webhook, utc_now()))
    typer.echo(queued.event_id)


@webhook_commands.command("remove")
def remove_webhook(webhook: _Id) -> None:
    """Forget a webhook and what waits for it (gỡ bỏ)."""
    _with_endpoints(lambda endpoints: endpoints.remove(Actor.operator(operator()), webhook, utc_now()))
