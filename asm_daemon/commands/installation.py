"""The installation itself: its database, its keys, and the daemon that runs on them."""

from __future__ import annotations

import asyncio
import os
import socket
from enum import StrEnum
from typing import Annotated

import structlog
import typer

from asm_daemon import daemon
from asm_daemon.commands.console import (
    NO,
    connect,
    group,
    note,
    print_json,
    print_table,
    require_database,
    settings,
)
from asm_daemon.crypto import KeyPurpose, epoch_at, next_epoch
from asm_daemon.daemon import Ports, open_daemon, until_signalled, utc_now
from asm_daemon.keystores import KeyStore, create_store, open_keyring
from asm_daemon.log import configure_logging
from asm_daemon.settings import Settings
from asm_daemon.store.migrate import load_migrations, migrate, pending
from asm_daemon.store.pool import ROLE_PLACEHOLDER

key_store_commands = group("The key store (kho khoá), outside the database.")
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
    async with open_daemon(given) as opened:
        configure_logging(given.log_level, given.deployment)  # what failed before that is a line for an operator
        await daemon.run(opened, stop, _announce)


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


# -- the keys ----------------------------------------------------------------------------------------------------------


class PublishedKey(StrEnum):
    """The keys whose public halves are for everybody."""

    RECEIPT = KeyPurpose.RECEIPT.value
    RECEIPT_TRIAL = KeyPurpose.RECEIPT_TRIAL.value
    CHECKPOINT = KeyPurpose.CHECKPOINT.value


@key_store_commands.command("init")
def init_keys() -> None:
    """Make the key store (tạo kho khoá).

    It gets the keys of this month and the next. A store that exists is never touched.
    """
    directory, now = settings().key_store, utc_now()
    this_month = epoch_at(now)
    create_store(directory, [this_month, next_epoch(this_month)], now)
    typer.echo(directory)
    note(
        "Hãy sao lưu kho khoá ngay, tách riêng khỏi cơ sở dữ liệu: mất kho khoá là mất mọi dữ liệu đã niêm phong.\n"
        "Back the key store up now, apart from the database: without it nothing sealed can ever be read again."
    )


@key_store_commands.command("list")
def list_keys(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the keys (danh mục khoá mật mã), never what they are."""
    found = [
        {"name": str(key.name), "algorithm": key.algorithm, "created_at": key.created_at.isoformat(timespec="seconds")}
        for key in KeyStore(settings().key_store).inventory()
    ]
    if as_json:
        print_json(found)
    else:
        print_table(("name", "algorithm", "created at"), [tuple(key.values()) for key in found])


@key_store_commands.command("public")
def print_public_keys(
    purpose: Annotated[PublishedKey | None, typer.Argument(help="only this one, for a file of its own")] = None,
) -> None:
    """Print the public keys (khoá công khai) to publish, as PEM.

    With them anybody verifies receipts and audit checkpoints.
    """
    keyring = open_keyring(settings().key_store)
    for each in PublishedKey if purpose is None else (purpose,):
        key = keyring.signing_key(KeyPurpose(each.value))
        typer.echo(f"{key.key_id}\n{key.public_key_pem}", nl=False)  # text before a key is allowed: RFC 7468, 2
