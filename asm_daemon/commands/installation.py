"""The installation itself: its database, its keys, and the daemon that runs on them."""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from typing import Annotated

import structlog
import typer

from asm_daemon import daemon
from asm_daemon.commands.console import (
    NO,
    Unready,
    connect,
    note,
    require_database,
    settings,
)
from asm_daemon.daemon import Ports, open_daemon, until_signalled
from asm_daemon.database_settings import check_database_settings
from asm_daemon.log import configure_logging
from asm_daemon.settings import Settings
from asm_daemon.store.migrate import load_migrations, migrate, pending
from asm_daemon.store.pool import ROLE_PLACEHOLDER

MIGRATE_LOGIN = "asm_migrate"

log = structlog.get_logger()


# -- running -----------------------------------------------------------------------------------------------------------


def run_daemon() -> None:
    """Run the daemon (chạy dịch vụ).

    SIGTERM or SIGINT stops it: it answers what it accepted, and ends with 0.
    """
    asyncio.run(_run(settings()))


async def _run(given: Settings) -> None:
    stop = asyncio.Event()
    signalled = asyncio.create_task(until_signalled())
    signalled.add_done_callback(lambda _: stop.set())
    await require_database(given.database_url, *daemon.ROLES)
    told_to_log = await _settings_that_log_values(given)
    async with open_daemon(given) as opened:
        configure_logging(given.log_level, given.deployment)  # what failed before that is a line for an operator
        for name in told_to_log:
            log.warning("database_logs_values", problem=name)
        _collect_garbage_seldom()
        await daemon.run(opened, stop, _announce)


async def _settings_that_log_values(given: Settings) -> list[str]:
    """Settings by which PostgreSQL would log values of one of our logins. Raises Unready for any in production."""
    found: dict[str, str] = {}
    for role in daemon.ROLES:
        connection = await connect(given.database_url.replace(ROLE_PLACEHOLDER, role))
        try:
            found.update(await check_database_settings(connection))
        finally:
            await connection.close()
    if found and given.environment == "production":
        orders = " ".join(f"ALTER SYSTEM SET {name} = '{required}';" for name, required in found.items())
        raise Unready(
            "PostgreSQL đang được đặt để ghi giá trị vào nhật ký · "
            f"PostgreSQL is told to log values; as a superuser: {orders} SELECT pg_reload_conf();"
        )
    return sorted(found)


def _collect_garbage_seldom() -> None:
    """Spare the cyclic collector what lives as long as the process, and let it look only after many allocations.

    Batches are thousands of small objects that are freed without it; with Python's defaults it takes a third of the
    processor time of the sync. One collection looks at some 50,000 objects, in a few milliseconds.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


def _announce(ports: Ports) -> None:
    log.info("listening", listen="http", port=ports.http)
    if ports.mllp is not None:
        log.info("listening", listen="mllp", port=ports.mllp)
    notify_supervisor(b"READY=1")


def notify_supervisor(state: bytes) -> None:
    """Tell systemd (sd_notify(3), Type=notify), if it is what started us."""
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect(address.replace("@", "\0", 1) if address.startswith("@") else address)
            channel.send(state)


# -- the database ------------------------------------------------------------------------------------------------------


def migrate_database(
    url: Annotated[
        str | None,
        typer.Option(help=f"connect with this URL, the first time a superuser's; by default as {MIGRATE_LOGIN}"),
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="change nothing")] = False,
) -> None:
    """Bring the database to this release (cập nhật cấu trúc).

    Prints what was applied; with --check, what would be, and ends with 1 if that is anything.
    """
    url = url or settings().database_url.replace(ROLE_PLACEHOLDER, MIGRATE_LOGIN)
    names = asyncio.run(_migrate(url, check=check))
    for name in names:
        typer.echo(name)
    if not names:
        note("Không có gì phải cập nhật. · Nothing is pending.")
    if check and names:
        raise typer.Exit(NO)


async def _migrate(url: str, *, check: bool) -> list[str]:
    connection = await connect(url)
    try:
        steps = load_migrations()
        done = await (pending(connection, steps) if check else migrate(connection, steps))
    finally:
        await connection.close()
    return [f"{step.version:04}_{step.name}" for step in done]
