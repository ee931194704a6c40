"""Files as jobs: nothing of them is taken twice, whoever dies on the way, and nothing of them is kept too long."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest

from asm_daemon import import_jobs, imports
from asm_daemon.crypto import Keyring
from asm_daemon.import_jobs import ATTEMPTS_LIMIT, CLAIM_SECONDS, Importer
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.model import Facility, ImportJob
from asm_daemon.problems import Refused
from asm_daemon.rules import local_day
from asm_daemon.store import Connection
from asm_daemon.store import imports as store
from schemas.imports import ImportReport
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import Clock, Pools

HEADINGS = "Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Ngày đến;Ngày đi dự kiến;Phòng;Lý do"
ROWS = 7
SLICE = 3


def guest_list(clock: Clock, rows: int = ROWS, *, wrong: Sequence[int] = ()) -> bytes:
    """A CSV list whose rows stand in the lines 2 to `rows` + 1; those in `wrong` (from 1) have a date that is none."""
    day = f"{local_day(clock()):%d/%m/%Y}"
    lines = [HEADINGS]
    for number in range(1, rows + 1):
        who = person(number)
        year, month, date = who.birth_date.split("-")
        born = "31/02/1990" if number in wrong else f"{date}/{month}/{year}"
        lines.append(
            f"{who.full_name};{born};{who.gender};{who.nationality};{who.document_type};{who.document_number};"
            f"{day};{day} 23:59;10{number};1"
        )
    return "\r\n".join(lines).encode()


@pytest.fixture
async def idle(pools: Pools, intake: Intake, keyring: Keyring, clock: Clock) -> Importer:
    """An importer without workers: the test says when one looks."""
    return Importer(await pools.get("asm_intake"), intake, keyring, now=clock, slice_rows=SLICE)


async def put(importer: Importer, facility: Facility, clock: Clock, document: bytes) -> ImportJob:
    return await importer.put(facility, "spreadsheet", document, actor="owner-1", received_at=clock())


async def report(pools: Pools, facility: Facility, job: ImportJob, clock: Clock) -> ImportReport:
    return await import_jobs.facility_report(await pools.get("asm_intake"), facility, job.id, clock())


class DyingIntake(Intake):
    """An intake whose process dies after it has committed the slice `at` (from 1), before anybody was told."""

    def __init__(self, intake: Intake, at: int) -> None:
        self._intake = intake
        self._left = at

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        outcomes = await self._intake.submit(commands)
        self._left -= 1
        if self._left == 0:
            raise asyncio.CancelledError
        return outcomes


async def test_a_document_that_cannot_be_read_fails_with_its_reasons(
    idle: Importer, facility: Facility, clock: Clock, pools: Pools
) -> None:
    job = await put(idle, facility, clock, b"PK\x03\x04 no workbook")
    assert await idle.work_once() == {"jobs": 1, "rows": 0}
    with pytest.raises(Refused) as refused:
        await report(pools, facility, job, clock)
    assert (refused.value.code, [each.code for each in refused.value.violations]) == (
        "declaration_invalid",
        ["unreadable_file"],
    )


async def test_a_file_without_rows_is_no_success(
    idle: Importer, facility: Facility, clock: Clock, pools: Pools
) -> None:
    for document in (b"", HEADINGS.encode()):
        job = await put(idle, facility, clock, document)
        await idle.work_once()
        with pytest.raises(Refused) as refused:
            await report(pools, facility, job, clock)
        assert refused.value.code == "no_rows"


async def test_every_row_is_counted_once_and_named_by_its_place(
    idle: Importer, facility: Facility, clock: Clock, pools: Pools
) -> None:
    job = await put(idle, facility, clock, guest_list(clock, wrong=[2, 5]))
    assert await idle.work_once() == {"jobs": 1, "rows": ROWS}
    found = await report(pools, facility, job, clock)
    assert (found.received, found.accepted, found.duplicate, found.refused) == (ROWS, ROWS - 2, 0, 2)
    assert [row.row for row in found.results] == list(range(2, ROWS + 2))
    faults = [row.problem.errors for row in found.results if row.problem is not None]
    assert [[(each.code, each.place) for each in errors or ()] for errors in faults] == [
        [("wrong_date", "dòng 3, cột Ngày sinh")],
        [("wrong_date", "dòng 6, cột Ngày sinh")],
    ]
    assert found.job.state == "finished"


async def test_a_report_and_its_tables_hold_nothing_about_a_guest(
    idle: Importer, facility: Facility, clock: Clock, pools: Pools, database: Database
) -> None:
    job = await put(idle, facility, clock, guest_list(clock, wrong=[1]))
    await idle.work_once()
    shown = (await report(pools, facility, job, clock)).model_dump_json()
    superuser = await database.connect()
    kept = [
        bytes(value) if isinstance(value, bytes) else str(value).encode()
        for table in ("import_jobs", "import_files", "import_results")
        for row in await superuser.fetch(f"SELECT * FROM {table}")
        for value in row.values()
    ]
    for number in range(1, ROWS + 1):
        for text in (person(number).full_name, person(number).document_number):
            assert text not in shown
            assert not any(text.encode() in value for value in kept)


async def test_a_job_goes_on_where_a_dead_worker_recorded_last_and_counts_as_if_nothing_had_happened(
    idle: Importer, intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring, database: Database
) -> None:
    job = await put(idle, facility, clock, guest_list(clock, wrong=[5]))
    dying = Importer(
        await pools.get("asm_intake"),
        DyingIntake(intake, 2),
        keyring,
        now=clock,
        slice_rows=SLICE,
    )
    worker = asyncio.create_task(dying.work_once())
    with pytest.raises(asyncio.CancelledError):
        await worker
    superuser = await database.connect()
    assert await superuser.fetchval("SELECT done FROM import_jobs") == SLICE  # of the second slice nobody knows
    await superuser.execute("UPDATE import_jobs SET claimed_by = $1, claimed_until = $2", job.id, clock())
    assert (await idle.work_once())["jobs"] == 0  # its claim still holds
    clock.instant += timedelta(seconds=CLAIM_SECONDS + 1)
    await idle.work_once()
    found = await report(pools, facility, job, clock)
    assert (found.received, found.accepted, found.duplicate, found.refused) == (ROWS, ROWS - 1, 0, 1)
    assert await superuser.fetchval("SELECT count(*) FROM stays") == ROWS - 1


async def test_a_row_that_stands_twice_in_the_file_is_a_duplicate_after_a_resumption_too(
    idle: Importer, intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    await put(idle, facility, clock, guest_list(clock, 2))
    await idle.work_once()
    clock.instant += timedelta(seconds=1)
    job = await put(idle, facility, clock, guest_list(clock, 4))  # two of them are on file by another file
    dying = Importer(
        await pools.get("asm_intake"),
        DyingIntake(intake, 1),
        keyring,
        now=clock,
        slice_rows=SLICE,
    )
    worker = asyncio.create_task(dying.work_once())
    with pytest.raises(asyncio.CancelledError):
        await worker
    await idle.work_once()
    found = await report(pools, facility, job, clock)
    assert (found.accepted, found.duplicate) == (2, 2)


async def test_a_worker_whose_job_was_taken_over_records_nothing(
    idle: Importer, intake: Intake, facility: Facility, clock: Clock, pools: Pools, database: Database
) -> None:
    superuser = await database.connect()
    job = await put(idle, facility, clock, guest_list(clock))

    class TakenOver(DyingIntake):
        async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
            outcomes = await intake.submit(commands)
            await superuser.execute("UPDATE import_jobs SET claimed_by = $1", facility_owner)
            return outcomes

    facility_owner = job.id
    idle._intake = TakenOver(intake, 0)
    assert await idle.work_once() == {"jobs": 1, "rows": 0}
    assert await superuser.fetchval("SELECT done FROM import_jobs") == 0


async def test_a_job_that_kills_its_workers_fails_in_the_end(
    idle: Importer, facility: Facility, clock: Clock, pools: Pools, database: Database
) -> None:
    job = await put(idle, facility, clock, guest_list(clock))
    await (await database.connect()).execute("UPDATE import_jobs SET attempts = $1", ATTEMPTS_LIMIT)
    await idle.work_once()
    with pytest.raises(Refused) as refused:
        await report(pools, facility, job, clock)
    assert refused.value.code == "internal"


async def test_a_worker_that_waits_for_its_turn_to_read_keeps_its_job_and_stops_at_once(
    idle: Importer, facility: Facility, pools: Pools, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = await put(idle, facility, clock, guest_list(clock))
    stop, kept = asyncio.Event(), asyncio.Event()
    monkeypatch.setattr(imports, "_CHILDREN", asyncio.Semaphore(0))  # others are read and do not end
    monkeypatch.setattr(import_jobs, "KEEP_SECONDS", 0.01)
    keep_claim = store.keep_claim

    async def noted(connection: Connection, *given: Any) -> bool:
        kept.set()
        return await keep_claim(connection, *given)

    monkeypatch.setattr(store, "keep_claim", noted)
    working = asyncio.create_task(idle.work_once(stop))
    async with asyncio.timeout(10):
        await kept.wait()
        stop.set()
        assert await working == {"jobs": 1, "rows": 0}
    monkeypatch.undo()
    assert await idle.work_once() == {"jobs": 1, "rows": ROWS}
    assert (await report(pools, facility, job, clock)).accepted == ROWS


async def test_a_job_that_gets_on_survives_any_number_of_restarts(
    idle: Importer, facility: Facility, pools: Pools, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    count = (ATTEMPTS_LIMIT + 1) * SLICE
    job = await put(idle, facility, clock, guest_list(clock, count))
    record_slice = store.record_slice
    stops: list[asyncio.Event] = []

    async def recorded(connection: Connection, *given: Any) -> bool:
        stops[-1].set()  # asked to end after each slice
        return await record_slice(connection, *given)

    monkeypatch.setattr(store, "record_slice", recorded)
    for _ in range(ATTEMPTS_LIMIT + 1):
        stops.append(asyncio.Event())
        assert await idle.work_once(stops[-1]) == {"jobs": 1, "rows": SLICE}
    made = await report(pools, facility, job, clock)
    assert (made.job.state, made.accepted, made.refused) == ("finished", count, 0)


async def test_the_same_file_is_the_same_job_until_something_in_it_was_refused(
    idle: Importer, facility: Facility, clock: Clock
) -> None:
    sound, wrong = guest_list(clock), guest_list(clock, wrong=[1])
    first = await put(idle, facility, clock, sound)
    assert (await put(idle, facility, clock, sound)).id == first.id
    await idle.work_once()
    assert (await put(idle, facility, clock, sound)).id == first.id
    second = await put(idle, facility, clock, wrong)
    await idle.work_once()
    again = await put(idle, facility, clock, wrong)
    assert again.id != second.id
    assert again.state == "waiting"


async def test_files_go_after_their_hours_and_reports_after_their_days(
    idle: Importer, facility: Facility, clock: Clock, pools: Pools, database: Database
) -> None:
    pool, superuser = await pools.get("asm_intake"), await database.connect()
    await put(idle, facility, clock, guest_list(clock))
    clock.instant += timedelta(hours=25)
    assert await import_jobs.erase_once(pool, clock(), file_hours=24, report_days=30) == {"files": 0, "reports": 0}
    await idle.work_once()  # it was waiting all the time, and is not lost
    assert await import_jobs.erase_once(pool, clock(), file_hours=24, report_days=30) == {"files": 1, "reports": 0}
    assert await superuser.fetchval("SELECT count(*) FROM import_files") == 0
    assert await superuser.fetchval("SELECT count(*) FROM import_results") > 0
    clock.instant += timedelta(days=31)
    assert await import_jobs.erase_once(pool, clock(), file_hours=24, report_days=30) == {"files": 0, "reports": 1}
    assert await superuser.fetchval("SELECT count(*) FROM import_results") == 0
