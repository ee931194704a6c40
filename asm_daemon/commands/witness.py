"""The witness (nhân chứng), which runs elsewhere: it reads no setting of the daemon, only what is said here."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from asm_daemon import witness
from asm_daemon.commands.console import NO, UNREADY, Unready, group, note, print_json
from asm_daemon.commands.installation import notify_supervisor
from asm_daemon.daemon import until_signalled, utc_now
from asm_daemon.ledger import NoteKey, read_vkey
from asm_daemon.log import configure_logging
from asm_daemon.witness import LogMisbehaved, LogUnreachable, Store, WitnessError

witness_commands = group("The witness of an audit (nhân chứng), on another machine, of other people.")
_Folder = Annotated[Path, typer.Option("--folder", file_okay=False, help="where the witness keeps what it confirmed")]
_LogKey = Annotated[
    Path, typer.Option(exists=True, dir_okay=False, readable=True, help="what `asm-daemon audit key` printed")
]
_Url = Annotated[str, typer.Option(help="the daemon's public address (ASM_PUBLIC_URL)")]


@witness_commands.command("init")
def init_witness(
    folder: _Folder, name: Annotated[str, typer.Option(help="how it calls itself, such as witness.example/hungyen")]
) -> None:
    """Make a new witness, and print its verifier key for ASM_WITNESS_KEY_FILE (tạo nhân chứng)."""
    try:
        store = witness.create_store(folder, name)
    except WitnessError as error:
        raise Unready(str(error)) from None
    typer.echo((store.folder / witness.NAME_FILE).read_text("utf-8"), nl=False)


@witness_commands.command("once")
def witness_once(folder: _Folder, log_key: _LogKey, url: _Url) -> None:
    """Look at the log once and confirm it (xác nhận một lần).

    Ends with 1 if the log, or the store of the witness, went back or split; with 3 if it cannot be reached.
    """
    try:
        with witness.held(folder) as store:
            counts = asyncio.run(_once(store, _key(log_key), url))
    except WitnessError as error:
        raise Unready(str(error)) from None
    except LogUnreachable as error:
        note(f"Chưa đọc được nhật ký. · The log gave no answer that can be used: {error}")
        raise typer.Exit(UNREADY) from None
    except LogMisbehaved as error:
        raise _loudly(error) from None
    print_json(counts)


async def _once(store: Store, log_key: NoteKey, url: str) -> dict[str, int]:
    async with witness.open_log(url) as client:
        return await witness.witness_once(store, log_key, client, utc_now())


@witness_commands.command("run")
def run_witness(
    folder: _Folder,
    log_key: _LogKey,
    url: _Url,
    interval_seconds: Annotated[int, typer.Option(min=1, max=3600, help="how often it looks")] = 60,
) -> None:
    """Confirm the log again and again (chạy nhân chứng), until SIGTERM or SIGINT.

    Ends with 1, and does not start again, if the log or the store of the witness went back or split.
    """
    try:
        with witness.held(folder) as store:
            configure_logging("info", store.key.name)
            asyncio.run(_run(store, _key(log_key), url, interval_seconds))
    except WitnessError as error:
        raise Unready(str(error)) from None
    except LogMisbehaved as error:
        raise _loudly(error) from None


async def _run(store: Store, log_key: NoteKey, url: str, interval_seconds: int) -> None:
    stop = asyncio.Event()
    signalled = asyncio.create_task(until_signalled())
    signalled.add_done_callback(lambda _: stop.set())
    async with witness.open_log(url) as client:
        notify_supervisor(b"READY=1")
        try:
            await witness.run(store, log_key, client, interval_seconds=interval_seconds, now=utc_now, stop=stop)
        finally:
            signalled.cancel()


@witness_commands.command("resume")
def resume_witness(folder: _Folder) -> None:
    """Let the witness work again after people looked at its evidence, which is kept (tiếp tục).

    What it confirmed before is not forgotten: a log that does not extend that is refused again.
    """
    try:
        with witness.held(folder) as store:
            seen = store.resume()
    except WitnessError as error:
        raise Unready(str(error)) from None
    for path in seen:
        typer.echo(path)


def _key(path: Path) -> NoteKey:
    return read_vkey(path.read_text("utf-8"))


_NOT_EXTENDED = (
    "BÁO ĐỘNG: nhật ký kiểm toán không còn liền mạch. · ALARM: the audit does not extend what was confirmed."
)
_ALARMS = {
    "halted": "BÁO ĐỘNG: nhân chứng đã dừng; hãy xem chứng cứ. · ALARM: the witness has stopped; look at the evidence.",
    "store_rolled_back": (
        "BÁO ĐỘNG: thư mục của nhân chứng cũ hơn những gì đã xác nhận. · "
        "ALARM: the witness's own folder is older than what it has confirmed."
    ),
}


def _loudly(error: LogMisbehaved) -> typer.Exit:
    note(_ALARMS.get(error.kind, _NOT_EXTENDED))
    note(str(error))
    return typer.Exit(NO)
