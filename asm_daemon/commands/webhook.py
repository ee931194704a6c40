"""Webhooks of owners (địa chỉ nhận sự kiện): where events are sent, how that goes, and what to do (`webhooks`)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Annotated, Any, TypeVar
from uuid import UUID

import typer
from pydantic import BeforeValidator

from asm_daemon.commands.console import group, note, operator, pool, print_json, print_table, settings, validated
from asm_daemon.daemon import plain_http_webhooks, utc_now
from asm_daemon.keystores import store_of
from asm_daemon.webhooks import Actor, Endpoints
from schemas.stay import Input
from schemas.webhooks import EventType, NewWebhook, known_events

webhook_commands = group("Webhooks (địa chỉ nhận sự kiện) of owners and vendors.")

_Result = TypeVar("_Result")
_EVENTS = ", ".join(EventType)


def _with_endpoints(work: Callable[[Endpoints], Awaitable[_Result]]) -> _Result:
    chosen = settings()
    keyring = store_of(chosen).keyring()

    async def connected() -> _Result:
        async with pool(chosen.database_url, "asm_intake") as opened:
            networks = chosen.webhook_networks or ()
            return await work(Endpoints(opened, keyring, plain_http_webhooks(chosen), networks))

    return asyncio.run(connected())


def _option(help_text: str) -> Any:
    return typer.Option(metavar="TEXT", help=help_text, show_default=False)


class EndpointOf(NewWebhook):
    """An endpoint of a principal; `events` with commas between."""

    principal: UUID
    events: Annotated[list[EventType] | None, BeforeValidator(known_events)] = None


class Endpoint(Input):
    """An endpoint by its id."""

    webhook: UUID


_Webhook = Annotated[str | None, _option("the webhook's id (mã webhook) [required]")]


@webhook_commands.command("add")
def add_webhook(
    principal: Annotated[str | None, _option("whose events (mã chủ thể) [required]")] = None,
    url: Annotated[str | None, _option("where they are sent, https [required]")] = None,
    events: Annotated[str | None, _option(f"which, with commas between, all by default: {_EVENTS}")] = None,
) -> None:
    """Register a webhook for an owner or vendor and print its secret (khoá bí mật), which is shown only once."""
    new = validated(EndpointOf, principal=principal, url=url, events=events)
    made = _with_endpoints(lambda endpoints: endpoints.add(Actor.operator(operator()), new.principal, new, utc_now()))
    note(made.id)
    typer.echo(made.secret)


@webhook_commands.command("list")
def list_webhooks(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List webhooks, those that are disabled or fail first (danh sách); of the address only its host is shown."""
    found = _with_endpoints(lambda endpoints: endpoints.list_all())
    if as_json:
        print_json([{**each._asdict(), "id": str(each.id), "principal_id": str(each.principal_id)} for each in found])
    else:
        columns = ("id", "principal", "host", "created_at", "waiting", "failing_since", "disabled_at", "code")
        print_table(columns, found)


@webhook_commands.command("disable")
def disable_webhook(webhook: _Webhook = None) -> None:
    """Send no more to a webhook, and drop what waits for it (tắt)."""
    chosen = validated(Endpoint, webhook=webhook).webhook
    _with_endpoints(lambda endpoints: endpoints.disable(Actor.operator(operator()), chosen, utc_now()))


@webhook_commands.command("enable")
def enable_webhook(webhook: _Webhook = None) -> None:
    """Send to a disabled webhook again what happens from now on (bật lại)."""
    chosen = validated(Endpoint, webhook=webhook).webhook
    _with_endpoints(lambda endpoints: endpoints.enable(Actor.operator(operator()), chosen, utc_now()))


@webhook_commands.command("test")
def try_webhook(webhook: _Webhook = None) -> None:
    """Send a test event, and print its id (gửi thử)."""
    chosen = validated(Endpoint, webhook=webhook).webhook
    queued = _with_endpoints(lambda endpoints: endpoints.test(Actor.operator(operator()), chosen, utc_now()))
    typer.echo(queued.event_id)


@webhook_commands.command("remove")
def remove_webhook(webhook: _Webhook = None) -> None:
    """Forget a webhook and what waits for it (gỡ bỏ)."""
    chosen = validated(Endpoint, webhook=webhook).webhook
    _with_endpoints(lambda endpoints: endpoints.remove(Actor.operator(operator()), chosen, utc_now()))
