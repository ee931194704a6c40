"""Work done now instead of by a door or by the clock: a document taken in, a job run once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Annotated

import typer

from asm_daemon import directory, feeds, imports, sync
from asm_daemon.commands.console import (
    NO,
    note,
    operator,
    pool,
    print_json,
    print_table,
    require_database,
    settings,
)
from asm_daemon.daemon import ROLES, Daemon, job_table, load_connectors, open_daemon, utc_now
from asm_daemon.intake import Intake
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from asm_daemon.settings import Settings
from schemas.act import DOCUMENT_BYTES_LIMIT
from schemas.stay import BatchResult, RowResult, Violated
from schemas.violations import violation

_DIRECTORY_LOGIN, _INTAKE_LOGINS = "asm_auth", ("asm_intake", "asm_retention")


# -- documents ---------------------------------------------------------------------------------------------------------


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="a document that a connector reads"
        ),
    ],
    facility: Annotated[str, typer.Option(help="code of the facility that declares (mã cơ sở)")],
    connector: Annotated[
        str | None, typer.Option(help="who reads it (bộ đọc); by default the one that claims the file's suffix")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="decide on every row and store nothing (thử)")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result with its receipts as JSON")] = False,
) -> None:
    """Declare the guests in a file (khai báo từ tệp).

    Ends with 0 only if no row was refused.
    """
    result = asyncio.run(_import(settings(), file, facility, connector, rehearse=dry_run))
    if as_json:
        print_json(result.model_dump(mode="json"))
    else:
        print_table(("row", "outcome", "code", "place", "message"), _lines(result))
        typer.echo(
            f"{result.received} dòng · rows: {result.accepted} đã nhận · accepted, "
            f"{result.duplicate} trùng · duplicate, {result.expected} dự kiến, chưa khai báo · expected, not filed, "
            f"{result.refused} bị từ chối · refused"
        )
    if dry_run:
        note("Chạy thử: không ghi nhận gì. · A rehearsal: nothing was stored.")
    if result.refused:
        raise typer.Exit(NO)


async def _import(
    given: Settings, file: Path, facility_code: str, connector_name: str | None, *, rehearse: bool
) -> BatchResult:
    chosen = imports.choose_connector(load_connectors(), name=connector_name, file_name=file.name, media_type=None)
    document = await asyncio.to_thread(_read, file)
    received_at = utc_now()
    facility = await _facility(given, facility_code)
    await require_database(given.database_url, *_INTAKE_LOGINS)
    async with open_daemon(given) as opened, _taking_in(opened.intake) as intake:
        return await imports.import_document(
            intake,
            chosen,
            document,
            facility=facility,
            actor=operator(),
            received_at=received_at,
            rehearse=rehearse,
        )


@asynccontextmanager
async def _taking_in(intake: Intake) -> AsyncIterator[Intake]:
    """Run the flusher as long as the block lasts. Who waits in the block is answered even if it dies."""
    flusher = asyncio.create_task(intake.run())
    try:
        yield intake
    finally:
        await intake.close()
        await flusher


def _read(file: Path) -> bytes:
    """The document; of one that is too large, enough to see that it is."""
    with file.open("rb") as opened:
        return opened.read(DOCUMENT_BYTES_LIMIT + 1)


async def _facility(given: Settings, code: str) -> Facility:
    async with pool(given.database_url, _DIRECTORY_LOGIN) as opened:
        found = await directory.facility_by_code(opened, code)
    if found is None:
        raise Refused("request_invalid", violations=[violation("unknown_facility", "/facility")])
    return found


def _lines(result: BatchResult) -> Iterator[tuple[object, ...]]:
    """A line for each thing to say about a row."""
    for row in result.results:
        yield from _problem_lines(row) if row.problem is not None else [_receipt_line(row)]
        for warning in row.warnings:
            yield row.row, "warning", warning.code, warning.place or warning.pointer, _both(warning)
        for lack in row.missing:
            yield row.row, "missing", lack.code, lack.place or lack.pointer, _both(lack)


def _problem_lines(row: RowResult) -> Iterator[tuple[object, ...]]:
    if row.problem is None:
        return
    for fault in row.problem.errors or ():
        yield row.row, row.outcome, fault.code, fault.place or fault.pointer, _both(fault)
    if not row.problem.errors:
        yield row.row, row.outcome, row.problem.code, None, row.problem.title


def _receipt_line(row: RowResult) -> tuple[object, ...]:
    if row.receipt is None:  # a rehearsal, or a guest who is only expected
        return row.row, row.outcome, None, None, None
    late = (
        f"muộn {row.late_minutes} phút · {row.late_minutes} minutes late" if row.late_minutes else "đúng hạn · on time"
    )
    return row.row, row.outcome, None, None, f"{row.receipt['code']} {late}"


def _both(found: Violated) -> str:
    return f"{found.message['vi']} · {found.message['en']}"


# -- jobs --------------------------------------------------------------------------------------------------------------


def run_once(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="seal-audit, prepare-months, erase-expected, erase-hl7-messages, publish or sync"
        ),
    ],
    period: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="publish this day, instead of every day that is due")
    ] = None,
) -> None:
    """Do one job now (chạy một việc nền), and print its counts.

    Daemons that run need not be stopped.
    """
    if period is not None and job != "publish":
        raise typer.BadParameter("only publish has a period", param_hint="--period")
    counts = asyncio.run(_once(settings(), job, period.date() if period else None))
    print_json(counts)


async def _once(given: Settings, name: str, period: date | None) -> Mapping[str, object]:
    await require_database(given.database_url, *ROLES)
    async with open_daemon(given) as opened:
        jobs = {job.name: job.once for job in job_table(opened)} | {"sync": _sync(opened)}
        if period is not None:
            jobs["publish"] = _publish(opened, period)
        if name not in jobs:
            raise typer.BadParameter(f"one of {', '.join(jobs)} is wanted", param_hint="JOB")
        return dict(await jobs[name]())


def _sync(opened: Daemon) -> Callable[[], Awaitable[Mapping[str, int]]]:
    async def carry() -> Mapping[str, int]:
        counts = await sync.push_once(opened.pools["asm_sync"], opened.keyring, opened.population, now=opened.now)
        return asdict(counts)

    return carry


def _publish(opened: Daemon, day: date) -> Callable[[], Awaitable[Mapping[str, int]]]:
    async def publish() -> Mapping[str, int]:
        return await feeds.publish_once(opened.pools["asm_publish"], opened.keyring, day, opened.now())

    return publish
