"""Work done now instead of by a door or by the clock: a document taken in, a job run once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import asdict
from datetime import date, datetime
from pathlib import Path
from typing import Annotated
from uuid import UUID

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task
from rich.text import Text

from asm_daemon import compare, directory, feeds, imports, rostering, sync
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
from asm_daemon.rosters import Caller
from asm_daemon.settings import Settings
from schemas.act import DOCUMENT_BYTES_LIMIT
from schemas.codes import FacilityKind
from schemas.roster import ABSENCE_NIGHTS_LIMIT, RosterConfirmation, RosterPlan, RosterResult
from schemas.stay import BatchResult, Problem, RowResult, Violated
from schemas.violations import violation

_FINDINGS = ("faults", "holds_changed")  # counts of jobs that verify
_DIRECTORY_LOGIN, _INTAKE_LOGINS = "asm_auth", ("asm_intake", "asm_retention")


# -- documents ---------------------------------------------------------------------------------------------------------


def import_file(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="a document that a connector reads"
        ),
    ],
    facility: Annotated[
        str | None,
        typer.Option(help="code of the facility that declares (mã cơ sở); a --dry-run without it needs no database"),
    ] = None,
    connector: Annotated[
        str | None, typer.Option(help="who reads it (bộ đọc); by default the one that claims the file's suffix")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="decide on every row and store nothing (thử)")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="print the result with its receipts as JSON")] = False,
    kind: Annotated[
        FacilityKind, typer.Option(help="kind of facility that a --dry-run without --facility supposes (loại cơ sở)")
    ] = FacilityKind.HOTEL_2_3_STAR,
) -> None:
    """Declare the guests in a file (khai báo từ tệp).

    With --dry-run and no --facility it only reads and checks the file, as a facility of that kind would send it: for
    whoever writes software that makes such files. Ends with 0 only if no row was refused.
    """
    if facility is None and not dry_run:
        raise typer.BadParameter(
            "chỉ --dry-run mới được bỏ qua · only a --dry-run can do without", param_hint="--facility"
        )
    if facility is None:
        result = asyncio.run(_try(file, connector, kind))
        note(
            "Chỉ kiểm tra nội dung tệp, không so với dữ liệu đã có của cơ sở. · "
            "The file alone was checked, without what the facility has on file."
        )
    else:
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
        columns = (BarColumn(), MofNCompleteColumn(), RowsPerSecond())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task("", total=None)
            return await imports.import_document(
                intake,
                chosen,
                document,
                facility=facility,
                actor=operator(),
                received_at=received_at,
                rehearse=rehearse,
                progress=lambda done, total: bar.update(task, completed=done, total=total),
            )


class RowsPerSecond(ProgressColumn):
    """How fast it goes."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:.0f} dòng/s · rows/s" if task.speed else "")


async def _try(file: Path, connector_name: str | None, kind: FacilityKind) -> BatchResult:
    chosen = imports.choose_connector(load_connectors(), name=connector_name, file_name=file.name, media_type=None)
    return await imports.try_document(chosen.name, await asyncio.to_thread(_read, file), kind, utc_now())


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


# -- rosters -----------------------------------------------------------------------------------------------------------


def apply_roster(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE", exists=True, dir_okay=False, readable=True, help="a full list of who is in house"
        ),
    ],
    facility: Annotated[str, typer.Option(help="code of the facility (mã cơ sở)")],
    scope: Annotated[
        str, typer.Option(help="what the list is complete for (phạm vi): all, building:A, employer:…, shift:…")
    ],
    connector: Annotated[str, typer.Option(help="who reads it (bộ đọc)")] = "dorm_roster",
    absence_nights: Annotated[
        int | None, typer.Option(min=0, max=ABSENCE_NIGHTS_LIMIT, help="fewer nights off the list are an absence")
    ] = None,
    execute: Annotated[bool, typer.Option("--apply", help="do what the plan says, at once (thực hiện)")] = False,
    confirm_check_outs: Annotated[
        int | None, typer.Option(min=0, help="the exact number of check-outs, where it is over the limit")
    ] = None,
    decide: Annotated[
        list[str] | None, typer.Option(metavar="ROW=DECISION", help="7=correct, 9=new_person, 12=move; may be repeated")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print the plan, or the result, as JSON")] = False,
) -> None:
    """Show what a full list would change, and with --apply change it (danh sách người ở).

    Ends with 0 only if no line was refused.
    """
    confirmation = _confirmation(confirm_check_outs, decide or [])
    plan, result = asyncio.run(
        _roster(settings(), file, facility, scope, connector, absence_nights, confirmation if execute else None)
    )
    if as_json:
        print_json((result or plan).model_dump(mode="json"))
    elif result is not None:
        print_table(("row", "action", "outcome", "stay", "message"), _result_lines(result))
        typer.echo(", ".join(f"{count} {outcome}" for outcome, count in result.counts.items()))
    else:
        print_table(("row", "action", "stay", "message"), _plan_lines(plan))
        typer.echo(f"{plan.summary['vi']} · {plan.summary['en']}")
        for limit in plan.limits_exceeded:
            note(f"{limit.message['vi']} · {limit.message['en']}")
        note("Chưa thay đổi gì: thêm --apply để thực hiện. · Nothing was changed: --apply does it.")
    if plan.counts.actions["refused"] or (result is not None and result.counts["refused"]):
        raise typer.Exit(NO)


def _confirmation(check_outs: int | None, decisions: list[str]) -> RosterConfirmation:
    given = [each.partition("=") for each in decisions]
    members = {
        "confirm_check_outs": check_outs,
        "decisions": [{"row": int(row) if row.isdigit() else row, "decision": name} for row, _, name in given],
    }
    try:
        return RosterConfirmation.model_validate(members)
    except ValidationError:
        raise typer.BadParameter("cần · wanted: ROW=correct, new_person, move or skip", param_hint="--decide") from None


async def _roster(
    given: Settings,
    file: Path,
    facility_code: str,
    scope: str,
    connector_name: str,
    absence_nights: int | None,
    confirmation: RosterConfirmation | None,
) -> tuple[RosterPlan, RosterResult | None]:
    wanted = rostering.read_scope(scope)
    if connector_name not in load_connectors():
        raise Refused("unknown_connector")
    document = await asyncio.to_thread(_read, file)
    now = utc_now()
    facility = await _facility(given, facility_code)
    await require_database(given.database_url, *_INTAKE_LOGINS)
    caller = Caller(operator(), "operator", None, reads=False)
    async with open_daemon(given) as opened, _taking_in(opened.intake):
        plan = await opened.rosters.plan(
            connector_name,
            document,
            facility=facility,
            scope=wanted,
            absence_nights=absence_nights,
            caller=caller,
            now=now,
        )
        if confirmation is None:
            return plan, None
        callers = {facility.id: (facility, caller)}
        return plan, await opened.rosters.apply(callers, UUID(plan.plan_id), confirmation, utc_now())


def _plan_lines(plan: RosterPlan) -> Iterator[tuple[object, ...]]:
    """A line for each row that is not unchanged."""
    for row in plan.rows:
        if row.action != "unchanged" or row.differs or row.warnings:
            told = [f"{row.nights_missing} đêm · nights"] if row.nights_missing is not None else []
            told += [", ".join(row.differs)] if row.differs else []
            told += [f"--decide {row.row}={' | '.join(row.choices)}"] if row.choices else []
            told += _problem_texts(row.problem)
            told += [f"{each.place or each.pointer}: {_both(each)}" for each in row.warnings]
            yield row.row, f"{row.label['vi']} · {row.label['en']}", row.stay_id, "; ".join(told)


def _result_lines(result: RosterResult) -> Iterator[tuple[object, ...]]:
    for row in result.results:
        code = [str(row.receipt["code"])] if row.receipt is not None else []
        yield row.row, row.action, row.outcome, row.stay_id, "; ".join([*code, *_problem_texts(row.problem)])


def _problem_texts(problem: Problem | None) -> list[str]:
    if problem is None:
        return []
    return [f"{each.place or each.pointer}: {_both(each)}" for each in problem.errors or ()] or [problem.title]


# -- jobs --------------------------------------------------------------------------------------------------------------


def run_once(
    job: Annotated[
        str,
        typer.Argument(
            metavar="JOB", help="seal-audit, read-inbox, pull-hotels, prepare-months, publish, compare, sync, erase-…"
        ),
    ],
    period: Annotated[
        datetime | None, typer.Option(formats=["%Y-%m-%d"], help="publish this day, instead of every day that is due")
    ] = None,
) -> None:
    """Do one job now (chạy một việc nền), and print its counts.

    Daemons that run need not be stopped. Ends with 1 if it looked for faults and found some.
    """
    if period is not None and job != "publish":
        raise typer.BadParameter("chỉ publish có kỳ · only publish has a period", param_hint="--period")
    counts = asyncio.run(_once(settings(), job, period.date() if period else None))
    print_json(counts)
    if any(counts.get(name) for name in _FINDINGS):
        raise typer.Exit(NO)


async def _once(given: Settings, name: str, period: date | None) -> Mapping[str, object]:
    await require_database(given.database_url, *ROLES)
    async with open_daemon(given) as opened, _taking_in(opened.intake):
        jobs = {job.name: job.once for job in job_table(opened)}
        jobs |= {"compare": _compare(opened), "sync": _sync(opened)}
        if period is not None:
            jobs["publish"] = _publish(opened, period)
        if name not in jobs:
            raise typer.BadParameter(f"one of {', '.join(jobs)} is wanted", param_hint="JOB")
        return dict(await jobs[name]())


def _sync(opened: Daemon) -> Callable[[], Awaitable[Mapping[str, int]]]:
    async def carry() -> Mapping[str, int]:
        limits = sync.SyncLimits(answers_percent=opened.settings.verification_answers_percent)
        counts = await sync.push_once(
            opened.pools["asm_sync"], opened.keyring, opened.population, now=opened.now, limits=limits
        )
        return asdict(counts)

    return carry


def _compare(opened: Daemon) -> Callable[[], Awaitable[Mapping[str, int]]]:
    async def compare_all() -> Mapping[str, int]:
        return await compare.compare_all(opened.pools["asm_sync"], opened.population, opened.now())

    return compare_all


def _publish(opened: Daemon, day: date) -> Callable[[], Awaitable[Mapping[str, int]]]:
    async def publish() -> Mapping[str, int]:
        return await feeds.publish_once(opened.pools["asm_publish"], opened.keyring, day, opened.now())

    return publish
