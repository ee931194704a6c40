"""Files as jobs (tệp khai báo): sealed when they come, taken in slice by slice, reported row by row, then erased.

A job belongs to no process: whoever claims it goes on where the last slice was recorded. Rows whose slice was committed
but not recorded, because the process died in between, come out as on file already; they carry the job's own time of
receipt and are counted as what they are, accepted by this job.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from uuid import UUID, uuid4

import asyncpg
import orjson
import structlog
from uuid_utils.compat import uuid7

from asm_daemon import audit, imports
from asm_daemon.crypto import Keyring, RecordName, epoch_of
from asm_daemon.intake import Command, Intake, Outcome, row_result, unreadable_result
from asm_daemon.model import Facility, ImportJob, Principal, Scope
from asm_daemon.problems import Refused
from asm_daemon.store import LOST, facilities
from asm_daemon.store import imports as store
from schemas.act import Act, Unreadable
from schemas.imports import ImportReport, ImportState, ImportStates
from schemas.stay import RowResult
from schemas.violations import Violation

CLAIM_SECONDS = 60.0
"""How long a silent worker keeps its job: longer than a slice may take."""
KEEP_SECONDS = 20.0
"""How often a worker that waits for its document to be read says that it is still there."""
POLL_SECONDS = 1.0
ATTEMPTS_LIMIT = 5
"""How many workers may take a job up without getting on, perhaps dying of it, before it fails."""
WORKERS = 2
"""Jobs in hand at once in one process, so that a small file need not wait for a large one."""
PART_BYTES = 60_000
LISTED = 100
ERASED_AT_ONCE = 500
_NOT_NOW = frozenset({"unavailable", "overloaded", "key_exhausted", "outcome_unknown"})
_SCHEMA_VERSION = 1

log = structlog.get_logger()


class Importer:
    """Takes files in. `pool` connects as asm_intake; at most `slice_rows` rows are handed to intake at once, so that
    single declarations pass between two slices."""

    def __init__(
        self,
        pool: asyncpg.Pool,
        intake: Intake,
        keyring: Keyring,
        *,
        now: Callable[[], datetime],
        slice_rows: int,
    ) -> None:
        self._pool = pool
        self._intake = intake
        self._keyring = keyring
        self._now = now
        self._slice_rows = slice_rows
        self._came = asyncio.Event()
        self.is_stopping = False

    async def put(
        self, facility: Facility, connector: str, document: bytes, *, actor: str, received_at: datetime
    ) -> ImportJob:
        """Keep a file as a job. The same file again is the same job while it runs or if no row of it was refused;
        else its rows are tried again, which harms none of those on file.

        Raises `Refused` unavailable when this month has no key yet.
        """
        tag = self._keyring.content_tag(b"import|%d|%s|" % (facility.id, connector.encode()) + document)
        job_id = uuid7(nanoseconds=int(self._now().timestamp() * 1_000_000) * 1000)
        job = ImportJob(
            job_id, facility.id, connector, actor, "waiting", received_at, None, None, 0, None, 0, 0, 0, 0, 0, None,
            len(document), None,
        )  # fmt: skip
        parts = [
            self._keyring.seal(_part_name(job, number), document[at : at + PART_BYTES])
            for number, at in enumerate(range(0, len(document), PART_BYTES), 1)
        ]
        async with self._pool.acquire() as connection, connection.transaction():
            known = await store.find_content(connection, facility.id, tag)
            if known is not None and (known.state in ("waiting", "running") or _is_clean(known)):
                return known
            if known is not None:
                await store.erase_file(connection, facility.id, known.id, self._now())
            if not await store.insert_job(connection, job, tag):  # somebody else was quicker with the same file
                known = await store.find_content(connection, facility.id, tag)
                if known is None:
                    raise Refused("unavailable", retry_after_seconds=1)
                return known
            await store.insert_parts(connection, facility.id, job.id, parts)
        self._came.set()
        return job

    async def run(self, stop: asyncio.Event) -> None:
        """Work on jobs until `stop`; then each worker ends after the slice in hand and lets its job go."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(WORKERS):
                tasks.create_task(self._work(stop))
            await stop.wait()
            self.is_stopping = True  # nobody need wait here for the end of a job

    async def _work(self, stop: asyncio.Event) -> None:
        while not stop.is_set():
            try:
                worked = (await self.work_once(stop))["jobs"]
            except LOST as error:  # the claim runs out by itself, and somebody goes on
                log.warning("imports.database_away", exc_info=error)
                worked = 0
            except Exception:  # the top of a loop: a file must not end the daemon
                log.exception("imports.failed")
                worked = 0
            if not worked:
                await _first(stop, self._came, POLL_SECONDS)
                self._came.clear()

    async def work_once(self, stop: asyncio.Event | None = None) -> Mapping[str, int]:
        """Take the oldest waiting job and bring it to its end, or to `stop`; `jobs` is 0 if there was none."""
        owner, now = uuid4(), self._now()
        async with self._pool.acquire() as connection:
            job = await store.claim_job(connection, owner, now, self._until())
            if job is None:
                return {"jobs": 0, "rows": 0}
            parts = await store.read_parts(connection, job)
            facility = await facilities.facility_by_id(connection, job.facility_id)
        try:
            rows = await self._bring_in(job, owner, facility, parts, stop or asyncio.Event())
        except Refused as refusal:
            await self._end(job, owner, refusal)
            rows = 0
        finally:
            with suppress(*LOST):
                async with self._pool.acquire() as connection:
                    await store.release_job(connection, job, owner)
        return {"jobs": 1, "rows": rows}

    async def _bring_in(
        self, job: ImportJob, owner: UUID, facility: Facility | None, parts: Sequence[bytes], stop: asyncio.Event
    ) -> int:
        """Read the file and take in what is not recorded yet; returns the rows taken. Raises `Refused` if it cannot be
        taken at all."""
        if facility is None or job.file_erased_at is not None or job.attempts > ATTEMPTS_LIMIT:
            raise Refused("internal")
        document = open_file(self._keyring, job, parts)
        read = await self._read(job, owner, document, stop)
        if read is None or not await self._keep(job, owner, len(read)):
            return 0
        recorded = await self._recorded(job)
        seen = {(row.stay_id or "", row.version or 0) for row in recorded if row.stay_id}
        resumed = job.attempts > 1
        taken = 0
        for first in range(job.done, len(read), self._slice_rows):
            if stop.is_set():
                return taken
            rows = read[first : first + self._slice_rows]
            results = await self._take(job, owner, facility, rows, len(read), seen, stop, resumed=resumed)
            if results is None or not await self._record(job, owner, first, results):
                return taken
            taken += len(rows)
            resumed = False
        await self._end(job, owner, None)
        return taken

    async def _read(
        self, job: ImportJob, owner: UUID, document: bytes, stop: asyncio.Event
    ) -> list[Act | Unreadable] | None:
        """The rows of a file, however long others are read before it; None if the job is another's by then, or at
        `stop`. Raises `Refused` as `imports.read_rows` does."""
        reading = asyncio.create_task(imports.read_rows(job.connector, document))
        stopping = asyncio.create_task(stop.wait())
        try:
            while not reading.done():
                await asyncio.wait((reading, stopping), timeout=KEEP_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                if stopping.done() or (not reading.done() and not await self._keep(job, owner, None)):
                    return None
            return await reading
        finally:
            reading.cancel()
            stopping.cancel()
            await asyncio.gather(reading, stopping, return_exceptions=True)

    async def _take(
        self,
        job: ImportJob,
        owner: UUID,
        facility: Facility,
        rows: Sequence[Act | Unreadable],
        total: int,
        seen: set[tuple[str, int]],
        stop: asyncio.Event,
        *,
        resumed: bool,
    ) -> list[RowResult] | None:
        """Hand a slice to intake, as often as it says not now; None if the job is another's by then, or at `stop`."""
        commands = [Command(facility, act, job.received_at, job.actor) for act in rows if isinstance(act, Act)]
        while True:
            try:
                outcomes = await self._intake.submit(commands)
                not_now = next((each.refusal for each in outcomes if _is_not_now(each)), None)
            except Refused as failure:
                if failure.code not in _NOT_NOW:
                    raise
                outcomes, not_now = [], failure
            if not_now is None:
                break
            resumed = True  # a part of it may be on file
            if await _first(stop, None, not_now.retry_after_seconds or POLL_SECONDS) or not await self._keep(
                job, owner, total
            ):
                return None
        taken = iter(zip(commands, outcomes, strict=True))
        results = []
        for row in rows:
            if isinstance(row, Unreadable):
                results.append(unreadable_result(row))
                continue
            command, outcome = next(taken)
            result = row_result(command, outcome)
            stay = outcome.stay
            if stay is not None:
                key = (str(stay.id), stay.version)
                if (
                    resumed
                    and outcome.outcome == "duplicate"
                    and stay.received_at == job.received_at
                    and key not in seen
                ):
                    result = result.model_copy(update={"outcome": "accepted"})
                seen.add(key)
            results.append(_reported(result))
        return results

    def _until(self) -> datetime:
        return self._now() + timedelta(seconds=CLAIM_SECONDS)

    async def _keep(self, job: ImportJob, owner: UUID, rows: int | None) -> bool:
        async with self._pool.acquire() as connection:
            return await store.keep_claim(connection, job, owner, self._until(), rows)

    async def _recorded(self, job: ImportJob) -> list[RowResult]:
        async with self._pool.acquire() as connection:
            return _rows(await store.read_results(connection, job))

    async def _record(self, job: ImportJob, owner: UUID, first: int, results: Sequence[RowResult]) -> bool:
        found = Counter(result.outcome for result in results)
        body = orjson.dumps([result.model_dump(mode="json", exclude_defaults=True) for result in results])
        async with self._pool.acquire() as connection, connection.transaction():
            counts = (found["accepted"], found["duplicate"], found["expected"], found["refused"])
            if not await store.record_slice(connection, job, owner, self._until(), counts):
                return False
            await store.insert_results(connection, job, first, body)
        return True

    async def _end(self, job: ImportJob, owner: UUID, refusal: Refused | None) -> None:
        async with self._pool.acquire() as connection:
            await store.end_job(connection, job, owner, self._now(), None if refusal is None else _dumped(refusal))


# -- what its owner sees -----------------------------------------------------------------------------------------------


async def read_state(pool: asyncpg.Pool, principal: Principal, job_id: UUID, now: datetime) -> ImportState:
    """How far a job has come. Raises `Refused` not_found, also for a job of a facility that is not granted."""
    job, facility = await _job(pool, principal, job_id)
    return _state(job, facility, now)


async def list_states(pool: asyncpg.Pool, principal: Principal, now: datetime) -> ImportStates:
    """The newest jobs of all granted facilities."""
    granted = _granted(principal)
    async with pool.acquire() as connection:
        jobs = await store.list_jobs(connection, list(granted), LISTED)
    return ImportStates(imports=[_state(job, granted[job.facility_id], now) for job in jobs])


async def read_report(pool: asyncpg.Pool, principal: Principal, job_id: UUID, now: datetime) -> ImportReport:
    """What became of each row so far. Raises `Refused`: not_found, and what refused the file as a whole."""
    job, facility = await _job(pool, principal, job_id)
    return await _report(pool, job, facility, now)


async def facility_report(pool: asyncpg.Pool, facility: Facility, job_id: UUID, now: datetime) -> ImportReport:
    """The report of a job of this facility. Raises `Refused` as `read_report` does."""
    async with pool.acquire() as connection:
        job = await store.read_job(connection, [facility.id], job_id)
    if job is None:
        raise Refused("not_found")
    return await _report(pool, job, facility, now)


async def _report(pool: asyncpg.Pool, job: ImportJob, facility: Facility, now: datetime) -> ImportReport:
    if job.problem is not None:
        raise _loaded(job.problem)
    async with pool.acquire() as connection:
        rows = _rows(await store.read_results(connection, job))
    return ImportReport(
        received=job.done,
        accepted=job.accepted,
        duplicate=job.duplicate,
        expected=job.expected,
        refused=job.refused,
        results=rows,
        job=_state(job, facility, now),
    )


async def annotate(
    pool: asyncpg.Pool, keyring: Keyring, principal: Principal, job_id: UUID, now: datetime
) -> tuple[bytes, bool]:
    """The file of an ended job with a column of errors, and whether it is a workbook; then the file is erased here.

    The erasure and the audit entry of this read of personal data are one transaction, before the answer leaves.
    Raises `Refused`: not_found, scope_missing for who neither sent the file nor may read declared data,
    import_not_ended, file_erased, not_annotatable for a format without columns.
    """
    job, facility = await _job(pool, principal, job_id)
    if job.actor != str(principal.id) and Scope.READ not in principal.grants[facility.code][1]:
        raise Refused("scope_missing")
    if job.finished_at is None:
        raise Refused("import_not_ended", retry_after_seconds=1)
    async with pool.acquire() as connection:
        parts = await store.read_parts(connection, job)
        rows = _rows(await store.read_results(connection, job))
    if job.file_erased_at is not None:
        raise Refused("file_erased")
    if job.problem is not None:
        raise _loaded(job.problem)
    notes = {row.row: text for row in rows if (text := _note(row))}
    made = await imports.annotate_document(open_file(keyring, job, parts), notes, min(row.row for row in rows))
    if made is None:
        raise Refused("not_annotatable")
    async with pool.acquire() as connection, connection.transaction():
        if not await store.erase_file(connection, job.facility_id, job.id, now):
            raise Refused("file_erased")  # somebody else was quicker
        await audit.append(connection, _read_entry(principal, job, now))
    return made, made.startswith(b"PK")


def _read_entry(principal: Principal, job: ImportJob, now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now,
        actor_kind=principal.kind.value,
        actor=str(principal.id),
        organisation=principal.organisation,
        action="import.read",
        object=f"import/{job.id}",
        details={"facility_id": job.facility_id, "rows": job.done},
    )


async def erase_once(pool: asyncpg.Pool, now: datetime, *, file_hours: int, report_days: int) -> Mapping[str, int]:
    """Erase files that were kept long enough, and reports of long ago."""
    files = reports = 0
    async with pool.acquire() as connection:
        for facility_id, job_id in await store.find_files_over(
            connection, now - timedelta(hours=file_hours), ERASED_AT_ONCE
        ):
            files += await store.erase_file(connection, facility_id, job_id, now)
        reports = await store.delete_ended(connection, now - timedelta(days=report_days), ERASED_AT_ONCE)
    return {"files": files, "reports": reports}


def open_file(keyring: Keyring, job: ImportJob, parts: Sequence[bytes]) -> bytes:
    """The uploaded bytes. Raises `Tampered`, `UnknownEpoch`."""
    return b"".join(keyring.open(_part_name(job, number), part) for number, part in enumerate(parts, 1))


def _part_name(job: ImportJob, number: int) -> RecordName:
    return RecordName("import", epoch_of(job.id), job.facility_id, job.id, _SCHEMA_VERSION, number)


async def _job(pool: asyncpg.Pool, principal: Principal, job_id: UUID) -> tuple[ImportJob, Facility]:
    granted = _granted(principal)
    async with pool.acquire() as connection:
        job = await store.read_job(connection, list(granted), job_id)
    if job is None:
        raise Refused("not_found")
    return job, granted[job.facility_id]


def _granted(principal: Principal) -> dict[int, Facility]:
    return {facility.id: facility for facility, scopes in principal.grants.values() if Scope.DECLARE in scopes}


def _is_clean(job: ImportJob) -> bool:
    return job.state == "finished" and job.refused == 0


def _is_not_now(outcome: Outcome) -> bool:
    return outcome.refusal is not None and outcome.refusal.code in _NOT_NOW


def _state(job: ImportJob, facility: Facility, now: datetime) -> ImportState:
    seconds = ((job.finished_at or now) - job.started_at).total_seconds() if job.started_at else 0
    return ImportState(
        import_id=str(job.id),
        facility=facility.code,
        connector=job.connector,
        state=job.state,
        received_at=job.received_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        rows=job.rows,
        done=job.done,
        accepted=job.accepted,
        duplicate=job.duplicate,
        expected=job.expected,
        refused=job.refused,
        rows_per_second=round(job.done / seconds, 1) if seconds > 0 else None,
        has_file=job.file_erased_at is None,
    )


def _reported(result: RowResult) -> RowResult:
    """What is kept of a row's result: a name that the sender gave a stay may tell who it is about, and a receipt is
    rebuilt from the stay."""
    receipt = result.receipt
    short = {name: receipt[name] for name in ("code", "check_url") if name in receipt} if receipt else None
    problem = result.problem.model_copy(update={"receipt": None}) if result.problem else None
    return result.model_copy(update={"source_ref": None, "receipt": short, "problem": problem})


def _rows(slices: Sequence[bytes]) -> list[RowResult]:
    return [RowResult.model_validate(row) for part in slices for row in orjson.loads(part)]


def _note(row: RowResult) -> str:
    """What the column of errors says of a row: the Vietnamese text of every violation, with its place."""
    found = list(row.problem.errors or ()) if row.problem else []
    lines = [f"{each.place or each.pointer}: {each.message['vi']}" for each in found]
    if row.problem is not None and not found:
        lines = [row.problem.title]
    lines += [f"(lưu ý) {each.place or each.pointer}: {each.message['vi']}" for each in row.warnings]
    return "\n".join(lines)


def _dumped(refusal: Refused) -> bytes:
    listed = [[each.code, each.pointer, each.vi, each.en, each.place] for each in refusal.violations]
    return orjson.dumps({"code": refusal.code, "violations": listed})


def _loaded(problem: bytes) -> Refused:
    kept = orjson.loads(problem)
    return Refused(kept["code"], violations=[Violation(*each) for each in kept["violations"]])


async def _first(stop: asyncio.Event, other: asyncio.Event | None, seconds: float) -> bool:
    """Wait for one of the events or `seconds`; returns whether it is time to stop."""
    waits = [asyncio.create_task(each.wait()) for each in (stop, other) if each is not None]
    try:
        await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waits:
            each.cancel()
    return stop.is_set()
