"""Carrying stays (lượt lưu trú) to the population database, until both hold the same (docs/adr/0006).

A worker takes no orders: it looks at what is queued or due in the lanes it holds, sends the *current* version of those
stays, and records what the other side confirmed, item by item. A notification only makes it look sooner. Whatever
breaks, the work stays where it was or waits; nothing here can lose it, and sending twice does no harm.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, field
from datetime import datetime, timedelta
from typing import Any, NamedTuple, Protocol
from uuid import UUID, uuid4

import asyncpg
import structlog
from prometheus_client import Counter, Gauge, Histogram

from asm_daemon import verification
from asm_daemon.crypto import Keyring, KeyStoreError, Tampered, UnknownEpoch, epoch_of
from asm_daemon.model import LANES, Contents, StayRow
from asm_daemon.pacing import DATABASE_AWAY, DATABASE_RETRY_SECONDS, Breaker, Cursor, Doorbell, answering
from asm_daemon.sealing import open_contents
from asm_daemon.store import leases
from asm_daemon.store import sync as store
from asm_daemon.store.events import EventKind, NewEvent, append_events, event_id_of
from asm_daemon.store.sync import (
    CarriedStay,
    Confirmation,
    Conservation,
    Postponement,
    Refusal,
    RefusedVersion,
    WaitReason,
    Work,
)
from schemas.codes import DocumentType, FacilityKind, Gender
from schemas.population import (
    BATCH_LIMIT,
    FORM_CODES,
    Ambiguous,
    BatchAnswer,
    ItemStatus,
    Outcome,
    PopulationDocument,
    PopulationFacility,
    PopulationGuest,
    PopulationItem,
    PopulationState,
    Unreachable,
    Verification,
    digest,
)

LAG = Histogram(
    "asm_sync_lag_seconds",
    "From taking a version in to its confirmation",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800, 7200, 43200, 86400),
)
STAYS = Counter("asm_sync_stays", "What became of stays that this process carried", ["outcome"])
REQUESTS = Counter("asm_sync_requests", "Requests to the population database", ["outcome"])
BREAKER = Gauge("asm_sync_breaker", "1 for the state of this process's breaker, 0 for the others", ["state"])

_TOLD_CODES = FORM_CODES | {Outcome.STALE, "no_such_stay", "tampered", "unsendable"}
_ITEMS_PER_TURN = 50  # opened and built before other tasks get a turn of the event loop
_LEAVE_SECONDS = 2.0
_LONGEST_EXPONENT = 16

log = structlog.get_logger()


class Population(Protocol):
    """The client of the population database, as far as a worker needs it (`connectors.population.client`)."""

    async def send(self, items: Sequence[PopulationItem]) -> BatchAnswer:
        """Send 1-500 items, no stay twice. Raises Unreachable or Ambiguous."""

    async def status(self, stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        """Ask which version is held of 1-500 stays. Raises Unreachable or Ambiguous."""


@dataclass(frozen=True, slots=True)
class SyncLimits:
    """The bounds of a worker. The pool needs `requests` + 3 connections.

    A lane is taken over `lease_seconds` after its holder's last sign of life. A failed stay waits a random time up to
    `backoff_first_seconds`, doubled with each attempt up to `backoff_longest_seconds`. After `breaker_failures` failed
    requests in a row nothing is sent for `breaker_seconds`, then one stay to see. `answers_percent` of its capacity is
    how many verifications a facility is told a day.
    """

    batch_rows: int = BATCH_LIMIT
    requests: int = 4
    answer_seconds: float = 45.0
    lease_seconds: float = 15.0
    poll_seconds: float = 0.25
    sweep_seconds: float = 1.0
    read_back_seconds: float = 2.0
    backoff_first_seconds: float = 1.0
    backoff_longest_seconds: float = 300.0
    breaker_failures: int = 5
    breaker_seconds: float = 5.0
    shutdown_seconds: float = 20.0
    answers_percent: int = verification.ANSWERS_PERCENT

    def __post_init__(self) -> None:
        if not 1 <= self.batch_rows <= BATCH_LIMIT:
            raise ValueError(f"batch_rows must be in 1 … {BATCH_LIMIT}")


@dataclass(frozen=True, slots=True)
class SyncCounts:
    """What one activation did, or a worker since its start: stays, and for the last two, requests.

    `overtaken` failures were not recorded: the lane had a new holder, or the stay a newer version or a confirmation.
    """

    confirmed: int = 0
    postponed: int = 0
    refused: int = 0
    overtaken: int = 0
    requests: int = 0
    failed_requests: int = 0

    def __add__(self, other: SyncCounts) -> SyncCounts:
        return SyncCounts(*map(sum, zip(astuple(self), astuple(other), strict=True)))


# -- what is sent ------------------------------------------------------------------------------------------------------


def population_item(stay: CarriedStay, contents: Contents | None) -> PopulationItem:
    """What the population database is told of a stay: the fields of docs/population-contract.md and no other.

    A cancelled stay is told without its guest; `contents` may be None then. Raises ValueError, TypeError or KeyError
    when the stay cannot be told.
    """
    row = stay.row
    status = ItemStatus(row.status)
    return PopulationItem(
        stay_id=row.id,
        version=row.version,
        status=status,
        facility=PopulationFacility(
            code=stay.facility_code, kind=FacilityKind(stay.facility_kind), commune=stay.commune
        ),
        guest=None if status is ItemStatus.CANCELLED or contents is None else _guest(contents.declared["guest"]),
        arrived_at=row.arrived_at,
        planned_departure_at=row.planned_departure_at,
        departed_at=row.departed_at if status is ItemStatus.DEPARTED else None,
    )


def _guest(declared: Mapping[str, Any]) -> PopulationGuest:
    gender = declared.get("gender")
    document = declared.get("document")
    return PopulationGuest(
        full_name=declared["full_name"],
        birth_date=declared["birth_date"],
        gender=None if gender is None else Gender(gender),
        nationality=declared["nationality"],
        document=document and PopulationDocument(type=DocumentType(document["type"]), number=document["number"]),
    )


class _Task(NamedTuple):
    """Work with the fence that its lane had when it was read."""

    work: Work
    fence: int


class _Letter(NamedTuple):
    """A task and the item to be sent for it. `item.version` may be newer than what was queued.

    `received_at` is when that version was taken in, `question` the tag of what is asked about the guest.
    """

    task: _Task
    item: PopulationItem
    received_at: datetime
    question: bytes | None


@dataclass(slots=True)
class _Findings:
    """What became of the stays of one batch: each is in one of the lists."""

    confirmed: list[Confirmation] = field(default_factory=list)
    postponed: list[Postponement] = field(default_factory=list)
    refused: list[Refusal] = field(default_factory=list)
    taken_in: list[datetime] = field(default_factory=list)  # of the confirmed
    keyless_epochs: set[int] = field(default_factory=set)
    requests: int = 0
    failed_requests: int = 0

    def confirm(self, letter: _Letter, found: Verification) -> None:
        work, item = letter.task.work, letter.item
        self.confirmed.append(
            Confirmation(
                work.facility_id,
                work.stay_id,
                item.version,
                found,
                digest=bytes.fromhex(digest(item)),
                question=letter.question,
                withdrawn=item.status is ItemStatus.CANCELLED,
            )
        )
        self.taken_in.append(letter.received_at)

    def refuse(self, task: _Task, version: int, code: str) -> None:
        work = task.work
        self.refused.append(Refusal(work.facility_id, work.stay_id, version, work.lane, task.fence, code))


# -- the worker --------------------------------------------------------------------------------------------------------


class Worker:
    """One process's part in the carrying: the lanes it holds, what it has in flight, and how the other side is doing.

    `pool` connects as asm_sync; `now` reads the clock by which waiting stays are due.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        keyring: Keyring,
        population: Population,
        *,
        now: Callable[[], datetime],
        limits: SyncLimits | None = None,
        doorbell: Doorbell | None = None,
    ) -> None:
        self.id = uuid4()
        self.limits = limits or SyncLimits()
        self.counts = SyncCounts()
        self.breaker = Breaker(self.limits.breaker_failures, self.limits.breaker_seconds)
        self._pool = pool
        self._keyring = keyring
        self._population = population
        self._now = now
        self._doorbell = doorbell or Doorbell()
        self._fences: dict[int, int] = {}  # of the lanes held
        self._leaving: frozenset[int] = frozenset()  # held, but not read any more: another worker is to have them
        self._held_until = float("-inf")
        self._upkeep = asyncio.Lock()
        self._cursor = Cursor()
        self._in_flight: dict[UUID, int] = {}  # stay → lane
        self._batches = 0
        self._probe: list[_Task] | None = None
        self._closing = False
        self._left = False
        self._pause_until = float("-inf")

    @property
    def lanes(self) -> frozenset[int]:
        """The lanes held, as far as this worker knows."""
        return frozenset(self._fences)

    # -- lanes

    async def take_free(self) -> None:
        """Take every lane that nobody holds, for one lease, without being counted among the workers."""
        started = _clock()
        async with self._upkeep, self._pool.acquire() as connection:
            taken = await leases.take_lanes(connection, self.id, LANES, self.limits.lease_seconds)
            self._adopt({**self._fences, **taken}, started)

    async def beat(self) -> None:
        """Show a sign of life: keep the lanes held, let go of those beyond a fair share, take those missing to it."""
        lease_seconds = self.limits.lease_seconds
        async with self._upkeep, self._pool.acquire(timeout=lease_seconds / 3) as connection:
            if self._left:
                return
            started = _clock()
            rank, workers = await leases.announce_worker(connection, self.id, lease_seconds)
            held = await leases.renew_lanes(connection, self.id, lease_seconds)
            share = LANES // workers + (rank < LANES % workers)
            self._leaving = frozenset(sorted(held)[share:])
            if len(held) < share and not self._closing:
                held |= await leases.take_lanes(connection, self.id, share - len(held), lease_seconds)
            idle = self._leaving.difference(self._in_flight.values())
            if idle:
                await leases.release_lanes(connection, self.id, idle)
            before = self.lanes
            self._adopt({lane: fence for lane, fence in held.items() if lane not in idle}, started)
        if self.lanes != before:
            log.info("sync.lanes", lanes=len(self.lanes))

    async def leave(self) -> None:
        """Let all lanes go, for others to take at once. If the database is away, they lapse with the lease."""
        if self._left:
            return
        self._left = True
        with suppress(*DATABASE_AWAY):
            async with asyncio.timeout(_LEAVE_SECONDS), self._upkeep, self._pool.acquire() as connection:
                lanes, self._fences = self.lanes, {}
                await leases.release_lanes(connection, self.id, lanes)
                await leases.dismiss_worker(connection, self.id)

    def _adopt(self, held: dict[int, int], started: float) -> None:
        if held.items() - self._fences.items():  # what the former holder left behind lies anywhere
            self._cursor.sweep()
            self._doorbell.wake()
        self._fences = held
        self._held_until = started + self.limits.lease_seconds

    async def _keep_lanes(self) -> None:
        while True:
            try:
                async with asyncio.timeout(self.limits.lease_seconds):  # not for ever for a connection that is dead
                    await self.beat()
                await asyncio.sleep(self.limits.lease_seconds / 3)
            except DATABASE_AWAY as error:
                log.warning("sync.heartbeat_failed", exc_info=error)
                await asyncio.sleep(min(DATABASE_RETRY_SECONDS, self.limits.lease_seconds / 3))

    # -- the two ways to be active

    async def push(self) -> SyncCounts:
        """Carry one page of what is queued or due in the lanes held, and return what became of it.

        Raises an ExceptionGroup of asyncpg's errors when our own database is away.
        """
        async with asyncio.TaskGroup() as requests:
            running = [requests.create_task(self._carry(batch)) for batch in await self._read()]
        counts = sum((task.result() for task in running), SyncCounts())
        self.counts += counts
        return counts

    async def run(self, stop: asyncio.Event) -> None:
        """Carry until `stop` is set.

        Then, within `shutdown_seconds`: read no more, finish what is in flight, record it, let the lanes go, and only
        then end the heartbeat; else others would take over what is still being sent.
        """
        try:
            async with asyncio.TaskGroup() as upkeep:
                heartbeat = upkeep.create_task(self._keep_lanes())
                await self._carry_until(stop)
                await self.leave()
                heartbeat.cancel()
        finally:
            await self.leave()  # has nothing left to do after an orderly end

    async def _carry_until(self, stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(None) as deadline, asyncio.TaskGroup() as requests:
                requests.create_task(self._end_in_time(stop, deadline))
                while not stop.is_set():
                    batches = await self._read_if_possible()
                    for batch in batches:
                        requests.create_task(self._attend(batch))
                    if not batches:
                        await self._doorbell.wait(self.limits.poll_seconds)
        except TimeoutError:
            log.warning("sync.cut_short", count=len(self._in_flight))

    async def _end_in_time(self, stop: asyncio.Event, deadline: asyncio.Timeout) -> None:
        """Its time begins when it is told to stop: the reading of just then may hang as well."""
        await stop.wait()
        self._closing = True
        deadline.reschedule(_clock() + self.limits.shutdown_seconds - _LEAVE_SECONDS)
        self._doorbell.wake()

    async def _read_if_possible(self) -> list[list[_Task]]:
        if _clock() < self._pause_until:
            return []
        try:
            return await self._read()
        except DATABASE_AWAY as error:
            self._pause(error)
            return []

    async def _attend(self, batch: list[_Task]) -> None:
        try:
            counts = await self._carry(batch)
            self.counts += counts  # not in one line: that would add to what was counted before the wait
        except DATABASE_AWAY as error:
            self._pause(error)

    def _pause(self, error: BaseException) -> None:
        """Without our own database nothing can be recorded, so nothing more is sent for a moment."""
        log.warning("sync.database_away", exc_info=error)
        self._pause_until = _clock() + DATABASE_RETRY_SECONDS

    # -- one batch, from reading to recording

    async def _read(self) -> list[list[_Task]]:
        """The next batches, as many as there is room for; their stays count as in flight until `_carry` is done."""
        limits, clock = self.limits, _clock()
        lanes = self._fences.keys() - self._leaving
        room = self.breaker.room(limits.batch_rows * (limits.requests - self._batches), clock)
        if not lanes or room <= 0 or clock >= self._held_until:
            return []
        busy = frozenset(self._in_flight)  # what ends while we read is still in what we read
        after = self._cursor.start(clock, limits.sweep_seconds)
        limit = room + sum(stay_id > after for stay_id in busy)
        now = self._now()
        latest = now + timedelta(seconds=2 * limits.backoff_longest_seconds)  # the backoff and a pause asked for
        async with self._pool.acquire() as connection:
            due = await store.read_due(connection, lanes, now, latest, room + len(busy))
            queued = await store.read_queue(connection, lanes, after, limit)
        chosen = self._choose(due, queued, room, busy, more=len(queued) == limit)
        self._in_flight.update((stay_id, task.work.lane) for stay_id, task in chosen.items())
        tasks = list(chosen.values())
        batches = [tasks[start : start + limits.batch_rows] for start in range(0, len(tasks), limits.batch_rows)]
        self._batches += len(batches)
        if batches and self.breaker.started():
            [self._probe] = batches
        return batches

    def _choose(
        self, due: list[Work], queued: list[Work], room: int, busy: frozenset[UUID], *, more: bool
    ) -> dict[UUID, _Task]:
        """At most `room` stays that are not `busy`. The highest version of each stands for all of them."""
        chosen: dict[UUID, _Task] = {}
        kept_free = min(len(queued), (room + 1) // 2)  # what fails again and again must not hold up what is new
        for work in due:
            self._add(chosen, work, room - kept_free, busy)
        for work in queued:
            if not self._add(chosen, work, room, busy):
                return chosen
            self._cursor.passed(work.stay_id)
        for work in due:
            self._add(chosen, work, room, busy)
        if not more:
            self._cursor.caught_up(self.limits.read_back_seconds)
        return chosen

    def _add(self, chosen: dict[UUID, _Task], work: Work, room: int, busy: frozenset[UUID]) -> bool:
        """Choose one more stay, unless it is busy or its lane was lost; false when there is no room for it."""
        known = chosen.get(work.stay_id)
        if known is None and len(chosen) >= room:
            return False
        fence = self._fences.get(work.lane)
        if fence is not None and work.stay_id not in busy:
            best = work if known is None else known.work._replace(version=max(known.work.version, work.version))
            chosen[work.stay_id] = _Task(best, fence)
        return True

    async def _carry(self, batch: list[_Task]) -> SyncCounts:
        """Open, send, record. No transaction and no connection is held while the other side is asked."""
        findings = _Findings()
        try:
            letters = await self._write_letters(batch, findings)
            letters = await self._ask(letters, findings)
            await self._send(letters, findings)
            return await self._record(findings)
        finally:
            for task in batch:
                del self._in_flight[task.work.stay_id]
            self._batches -= 1
            if batch is self._probe:  # not one that was under way before, and may take its time
                self._probe = None
                self.breaker.probe_ended()
            self._doorbell.wake()

    async def _write_letters(self, batch: list[_Task], findings: _Findings) -> list[_Letter]:
        async with self._pool.acquire() as connection:
            stays = await store.read_current(connection, [(task.work.facility_id, task.work.stay_id) for task in batch])
        letters = []
        for place, task in enumerate(batch, 1):
            stay = stays.get(task.work.stay_id)
            if stay is None:  # its month was dropped while it waited
                findings.refuse(task, task.work.version, "no_such_stay")
            elif letter := self._write_letter(task, stay, findings):
                letters.append(letter)
            if place % _ITEMS_PER_TURN == 0:
                await asyncio.sleep(0)
        return letters

    def _write_letter(self, task: _Task, stay: CarriedStay, findings: _Findings) -> _Letter | None:
        row = stay.row
        try:
            contents = None if row.status == "cancelled" else self._open(row, findings.keyless_epochs)
            item = population_item(stay, contents)
            return _Letter(task, item, row.received_at, verification.question_of(self._keyring, item))
        except (UnknownEpoch, KeyStoreError):
            findings.keyless_epochs.add(epoch_of(row.id))
            self._postpone(findings, task, row.version, WaitReason.NO_KEY, "no_key")
        except Tampered:
            findings.refuse(task, row.version, "tampered")
        except (ValueError, TypeError, KeyError):
            findings.refuse(task, row.version, "unsendable")
        return None

    def _open(self, row: StayRow, keyless_epochs: set[int]) -> Contents:
        if epoch_of(row.id) in keyless_epochs:  # asking again would read the key store once for every stay
            raise UnknownEpoch(epoch_of(row.id))
        return open_contents(self._keyring, row)

    async def _ask(self, letters: list[_Letter], findings: _Findings) -> list[_Letter]:
        """Ask for what may have taken effect already, and return what is still to be sent."""
        unclear = [letter for letter in letters if letter.task.work.reason is WaitReason.AMBIGUOUS]
        if not unclear:
            return letters
        try:
            findings.requests += 1
            async with answering(self.limits.answer_seconds):
                states = await self._population.status([letter.item.stay_id for letter in unclear])
        except (Unreachable, Ambiguous) as error:
            self._request_failed(letters, findings, error, WaitReason.UNREACHABLE)  # asking changes nothing
            return []
        settled = {letter.item.stay_id for letter in unclear if self._settle(letter, states, findings)}
        unsent = [letter for letter in letters if letter.item.stay_id not in settled]
        if not unsent:  # else what counts is whether they can be sent
            self.breaker.succeeded()
        return unsent

    def _settle(self, letter: _Letter, states: Mapping[UUID, PopulationState], findings: _Findings) -> bool:
        """Whether the answer settles an unclear stay. If only the digest differs, the other side is to judge."""
        state = states.get(letter.item.stay_id)
        if state is None:
            self._postpone(findings, letter.task, letter.item.version, WaitReason.AMBIGUOUS, "no_result")
        elif state.version is None or state.verification is None or state.version < letter.item.version:
            return False
        elif state.version > letter.item.version:
            findings.refuse(letter.task, letter.item.version, Outcome.STALE)
        elif state.digest != digest(letter.item):
            return False
        else:
            findings.confirm(letter, state.verification)
        return True

    async def _send(self, letters: list[_Letter], findings: _Findings) -> None:
        if not letters:
            return
        try:
            findings.requests += 1
            async with answering(self.limits.answer_seconds):
                answer = await self._population.send([letter.item for letter in letters])
        except Unreachable as error:
            self._request_failed(letters, findings, error, WaitReason.UNREACHABLE)
            return
        except Ambiguous as error:
            self._request_failed(letters, findings, error, WaitReason.AMBIGUOUS)
            return
        self.breaker.succeeded()
        for letter in letters:
            result = answer.results.get(letter.item.stay_id)
            if result is None:
                self._postpone(findings, letter.task, letter.item.version, WaitReason.AMBIGUOUS, "no_result")
            elif result.outcome in (Outcome.ACCEPTED, Outcome.DUPLICATE):
                findings.confirm(letter, result.verification)
            else:
                # Stale: if the newer version is ours, it is queued or confirmed here and `store.refuse` does nothing.
                # Else the other side knows more than we do, as after a restored backup, and a human has to look.
                findings.refuse(letter.task, letter.item.version, result.code or Outcome.STALE)

    def _request_failed(
        self, letters: list[_Letter], findings: _Findings, error: Unreachable | Ambiguous, reason: WaitReason
    ) -> None:
        pause_seconds = error.retry_after_seconds if isinstance(error, Unreachable) else None
        if pause_seconds is not None:
            pause_seconds = min(pause_seconds, self.limits.backoff_longest_seconds)
        opened = self.breaker.opened
        self.breaker.failed(_clock(), pause_seconds)
        if self.breaker.opened > opened:
            pause_ms = round(1000 * max(self.breaker.open_seconds, pause_seconds or 0.0))
            log.warning("sync.breaker", state="open", attempts=self.breaker.failures, retry_in_ms=pause_ms)
        findings.failed_requests += 1
        for letter in letters:
            unclear = letter.task.work.reason is WaitReason.AMBIGUOUS  # and it stays so until it was asked for
            kept = WaitReason.AMBIGUOUS if unclear else reason
            self._postpone(findings, letter.task, letter.item.version, kept, error.code, pause_seconds)

    def _postpone(
        self,
        findings: _Findings,
        task: _Task,
        version: int,
        reason: WaitReason,
        code: str,
        pause_seconds: float | None = None,
    ) -> None:
        """Full jitter: a random part of a time that doubles, so that what failed together does not return together."""
        limits, work = self.limits, task.work
        doubled = limits.backoff_first_seconds * 2 ** min(work.attempts, _LONGEST_EXPONENT)
        delay = random.uniform(0, min(doubled, limits.backoff_longest_seconds))  # noqa: S311 - not a secret
        due_at = self._now() + timedelta(seconds=delay + (pause_seconds or 0.0))
        findings.postponed.append(
            Postponement(
                work.facility_id,
                work.stay_id,
                version,
                work.lane,
                task.fence,
                work.attempts + 1,
                due_at,
                reason,
                code,
            )
        )

    async def _record(self, findings: _Findings) -> SyncCounts:
        now = self._now()
        confirmed = sorted(findings.confirmed)  # rows are locked in one order, whoever else records the same stays
        put_off = set_aside = 0
        async with self._pool.acquire() as connection:
            if confirmed:
                async with connection.transaction():
                    await verification.record(connection, confirmed, now, self.limits.answers_percent)
            if findings.postponed:
                put_off = await store.postpone(connection, self.id, sorted(findings.postponed), now)
            if findings.refused:
                async with connection.transaction():
                    refused = await store.refuse(connection, self.id, sorted(findings.refused), now)
                    await append_events(connection, _told_refused(refused, now))
                set_aside = len(refused)
        counts = SyncCounts(
            confirmed=len(confirmed),
            postponed=put_off,
            refused=set_aside,
            overtaken=len(findings.postponed) + len(findings.refused) - put_off - set_aside,
            requests=findings.requests,
            failed_requests=findings.failed_requests,
        )
        _tell(counts, [(now - taken_in).total_seconds() for taken_in in findings.taken_in])
        return counts


def _tell(counts: SyncCounts, lags_seconds: Sequence[float]) -> None:
    """Add what became of a batch to the metrics."""
    for outcome in ("confirmed", "postponed", "refused", "overtaken"):
        STAYS.labels(outcome).inc(getattr(counts, outcome))
    REQUESTS.labels("failed").inc(counts.failed_requests)
    REQUESTS.labels("answered").inc(counts.requests - counts.failed_requests)
    for lag in lags_seconds:
        LAG.observe(lag)


def tell_breaker(breaker: Breaker) -> None:
    """Say in the metrics which state the breaker is in now."""
    now = breaker.state(_clock())
    for state in ("closed", "open", "half_open"):
        BREAKER.labels(state).set(state == now)


def _told_refused(refused: Iterable[RefusedVersion], now: datetime) -> list[NewEvent]:
    """Owners hear of a version that waits for a human, once: that it was sent again in vain is no news to them.

    Not of one refused with a code that the contract does not name: it may be about the guest, and then the events would
    tell of strangers what `asm_daemon.verification` bounds. The operator sees it.
    """
    kind = EventKind.REFUSED
    return [
        NewEvent(event_id_of(kind, one.stay_id, one.version), one.facility_id, kind, one.stay_id, now)
        for one in refused
        if one.code in _TOLD_CODES
    ]


def _clock() -> float:
    return asyncio.get_running_loop().time()


# -- for the command line and tests ------------------------------------------------------------------------------------


async def push_once(
    pool: asyncpg.Pool,
    keyring: Keyring,
    population: Population,
    *,
    now: Callable[[], datetime],
    limits: SyncLimits | None = None,
) -> SyncCounts:
    """Carry one page of what is queued or due in lanes that nobody holds. Running workers are not disturbed.

    Raises asyncpg's errors when our own database is away.
    """
    worker = Worker(pool, keyring, population, now=now, limits=limits)
    try:
        await worker.take_free()
        return await worker.push()
    finally:
        await worker.leave()


async def conservation(pool: asyncpg.Pool) -> Conservation:
    """Count every stay in its place, in one snapshot: each is confirmed, queued, waiting or refused, and only one."""
    async with pool.acquire() as connection:
        return await store.conservation(connection)
