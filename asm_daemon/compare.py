"""Comparing what was confirmed with what the population database holds (đối soát), and queueing again what it lacks.

A pass goes over all ids in ranges, a part at each activation. Where a range's digests agree, nothing more is asked;
where not, its parts are compared, and at last the stays (docs/adr/0023). The hope is that a pass finds nothing.

What is on its way is no difference. Our side is read before theirs is asked: what was confirmed then must be held now,
in that version or a newer one. And what they hold is looked for here after they have told: all that was ever sent has
been committed before. So neither needs a clock, nor the work to stand still.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple, Protocol
from uuid import UUID

import asyncpg
import structlog

from asm_daemon.crypto import epoch_bounds
from asm_daemon.model import lane_of
from asm_daemon.pacing import FIRST_STAY, answering
from asm_daemon.store import Connection, alerts
from asm_daemon.store import compare as store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.compare import ConfirmedStay, Found, OurRange, Pass, Requeued
from schemas.population import BATCH_LIMIT, Ambiguous, HeldPage, HeldStay, IdRange, RangeDigest, Unreachable

LAST_STAY = UUID(int=2**128 - 1)
"""Sorts behind every stay: the last range is open, so that ids of the future are seen too."""
EXTRA_ALERTS = 10
"""How many extra stays of one range are named to the operator each; of more, the range is."""
PAGES_LIMIT = 40
"""How many pages are read of one range. Who holds more than these, where we have a few hundred stays, is wrong."""

log = structlog.get_logger()


class ComparedPopulation(Protocol):
    """The client of the population database, as far as a comparison needs it (`connectors.population.client`)."""

    async def digests(self, ranges: Sequence[IdRange]) -> Mapping[IdRange, RangeDigest]:
        """Ask for the digests of 1-500 ranges in order. Raises Unreachable or Ambiguous."""

    async def held(self, wanted: IdRange) -> HeldPage:
        """Ask for the first stays held of a range. Raises Unreachable or Ambiguous."""


@dataclass(frozen=True, slots=True)
class CompareLimits:
    """How finely is compared: stays of a range, of its parts, and how many ranges one activation compares.

    A part is listed, so it should not exceed what one page tells. An activation ends early, behind a range that
    differs, once it took `requests`: what a service has lost altogether is not queued again all at once. An answer that
    takes longer than `answer_seconds` does not come.
    """

    range_stays: int = 4096
    part_stays: int = 128
    ranges: int = 64
    requests: int = 500
    answer_seconds: float = 45.0


class _Overtaken(Exception):
    """Another process has compared this part already."""


class _Extra(NamedTuple):
    """What they hold and we do not know. `known` is our newest version, 0 if there is none."""

    stay_id: UUID
    version: int
    known: int


@dataclass(slots=True)
class _Differences:
    """What one range turned out to hold: stays in one of the lists, or none at all."""

    missing: list[ConfirmedStay] = field(default_factory=list)
    stale: list[ConfirmedStay] = field(default_factory=list)
    differing: list[ConfirmedStay] = field(default_factory=list)
    unrecorded: list[ConfirmedStay] = field(default_factory=list)  # with the digest that they hold
    extra: list[_Extra] = field(default_factory=list)
    requests: int = 0

    def judge(self, ours: ConfirmedStay, held: HeldStay | None) -> None:
        """Whether they hold what they confirmed. A newer version is judged with the extra ones."""
        if held is None:
            self.missing.append(ours)
        elif held.version < ours.version:
            self.stale.append(ours)
        elif held.version == ours.version and ours.digest is None:
            self.unrecorded.append(ours._replace(digest=held.digest))
        elif held.version == ours.version and held.digest != ours.digest:
            self.differing.append(ours)

    def drift(self) -> dict[str, int]:
        """How many stays they had confirmed and do not hold so. Those of which no digest was kept are no drift."""
        return {"missing": len(self.missing), "stale": len(self.stale), "differing": len(self.differing)}

    def counted(self, one: OurRange, repaired: int) -> Found:
        """The counts of a range in which these were found."""
        return Found(
            ranges=1,
            stays=one.stays,
            **self.drift(),
            unrecorded=len(self.unrecorded),
            extra=len(self.extra),
            repaired=repaired,
        )

    def repairs(self) -> list[Requeued]:
        """What is to be carried again. Other content of the same version is for them to accept or refuse."""
        return [
            Requeued(stay.facility_id, stay.stay_id, stay.version, lane_of(stay.facility_id))
            for stay in (*self.missing, *self.stale, *self.differing)
        ]


async def compare_once(
    pool: asyncpg.Pool,
    population: ComparedPopulation,
    now: datetime,
    *,
    every_hours: float,
    limits: CompareLimits | None = None,
) -> dict[str, int]:
    """Compare the next part of the pass under way, or begin one if the last began `every_hours` ago. Returns counts.

    `pool` connects as asm_sync. What was compared is recorded range by range, so a crash or an answer that does not
    come (`failed_requests`) costs the range in hand. Raises asyncpg's errors when our own database is away.
    """
    current = await _pass_under_way(pool, now, every_hours)
    if current is None:
        return _counts(Found(), 0)
    return (await _compare_part(pool, population, current, now, limits or CompareLimits()))[0]


async def compare_all(
    pool: asyncpg.Pool, population: ComparedPopulation, now: datetime, *, limits: CompareLimits | None = None
) -> dict[str, int]:
    """Compare everything that the pass under way has left, or all in a new one, and return the counts of it.

    Stops at the first answer that does not come; the pass goes on at the next call. Raises as `compare_once` does.
    """
    totals = _counts(Found(), 0)
    current = await _pass_under_way(pool, now, 0.0)
    while current is not None:
        counts, current = await _compare_part(pool, population, current, now, limits or CompareLimits())
        totals = {name: totals[name] + count for name, count in counts.items()}
    return totals


async def _pass_under_way(pool: asyncpg.Pool, now: datetime, every_hours: float) -> Pass | None:
    async with pool.acquire() as connection:
        newest = await store.newest_pass(connection)
        if newest is not None and newest.finished_at is None:
            return newest
        if newest is not None and now < newest.started_at + timedelta(hours=every_hours):
            return None
        await store.begin_pass(connection, FIRST_STAY, now)
        begun = await store.newest_pass(connection)
        return begun if begun is not None and begun.finished_at is None else None


async def _compare_part(
    pool: asyncpg.Pool, population: ComparedPopulation, current: Pass, now: datetime, limits: CompareLimits
) -> tuple[dict[str, int], Pass | None]:
    """Compare the next ranges; the counts, and the pass to go on with, None when it is over or cannot go on now."""
    async with pool.acquire() as connection:
        start = max(current.next_id, await _first_kept(connection))
        ours = await store.digest_ranges(connection, start, LAST_STAY, limits.range_stays, limits.ranges)
    progress, failed = _Progress(pool, current, now), 0
    try:
        try:
            theirs = await _ask(population, ours, limits)
            for one in ours:
                if _agree(one, theirs):
                    progress.agree(one)
                else:
                    await progress.settle(one, await _differences(pool, population, one, limits))
                    if progress.requests >= limits.requests:
                        break
        except (Unreachable, Ambiguous) as error:
            log.warning("compare.unanswered", outcome=error.code)
            failed = 1
        await progress.record()
    except _Overtaken:
        return _counts(progress.found, failed), None
    over = failed or progress.place.finished_at is not None
    return _counts(progress.found, failed), None if over else progress.place


@dataclass(slots=True)
class _Progress:
    """How far a pass has come. What agrees is recorded with the next difference, or at the end of the part."""

    pool: asyncpg.Pool
    place: Pass
    now: datetime
    found: Found = field(default_factory=Found)
    requests: int = 1
    _agreed: Found = field(default_factory=Found)
    _agreed_until: UUID = FIRST_STAY

    def agree(self, one: OurRange) -> None:
        """Both sides hold the same of this range."""
        self._agreed = _sum(self._agreed, Found(ranges=1, stays=one.stays))
        self._agreed_until = one.end

    async def settle(self, one: OurRange, differences: _Differences) -> None:
        """Queue again what they lack, tell the operator, and come past the range: together or not at all.

        A digest that was never kept here is taken from them: built anew of what the facility is today, the item could
        be another than the one they confirmed.
        """
        async with self.pool.acquire() as connection, connection.transaction():
            repaired = await store.requeue(connection, differences.repairs(), self.now)
            await store.keep_digests(connection, differences.unrecorded)
            await _alert(connection, one, differences, self.now)
            await self._advance(connection, one.end, differences.counted(one, repaired))
        self.requests += differences.requests

    async def record(self) -> None:
        """Come past what agreed."""
        if self._agreed.ranges:
            async with self.pool.acquire() as connection, connection.transaction():
                await self._advance(connection, self._agreed_until, Found())

    async def _advance(self, connection: Connection, end: UUID, found: Found) -> None:
        found = _sum(found, self._agreed)
        finished_at = self.now if end == LAST_STAY else None
        if not await store.advance_pass(connection, self.place, end, found, finished_at):
            raise _Overtaken
        self.place = self.place._replace(next_id=end, finished_at=finished_at)
        self.found = _sum(self.found, found)
        self._agreed = Found()


async def _differences(
    pool: asyncpg.Pool, population: ComparedPopulation, one: OurRange, limits: CompareLimits
) -> _Differences:
    """What differs in a range whose digests did, looked for in its parts only. Raises Unreachable or Ambiguous."""
    async with pool.acquire() as connection:
        parts = await store.digest_ranges(connection, one.start, one.end, limits.part_stays, BATCH_LIMIT)
    theirs = await _ask(population, parts, limits)
    differences = _Differences(requests=1)
    for part in parts:
        if not _agree(part, theirs):
            await _list(pool, population, _bounds(part), differences, limits)
    return differences


async def _ask(
    population: ComparedPopulation, ours: Sequence[OurRange], limits: CompareLimits
) -> Mapping[IdRange, RangeDigest]:
    async with answering(limits.answer_seconds):
        return await population.digests([_bounds(one) for one in ours])


async def _list(
    pool: asyncpg.Pool, population: ComparedPopulation, part: IdRange, differences: _Differences, limits: CompareLimits
) -> None:
    """Compare a part stay by stay: first what rests here, then what they hold, then what is known here of the rest."""
    async with pool.acquire() as connection:
        ours = await store.confirmed_stays(connection, part.start, part.end)
    held, told_until = await _held(population, part, limits)
    differences.requests += 1
    resting = {stay.stay_id: stay.version for stay in ours}
    for stay in ours:
        if stay.stay_id < told_until:
            differences.judge(stay, held.get(stay.stay_id))
    newer = [row for row in held.values() if row.version > resting.get(row.stay_id, 0)]
    async with pool.acquire() as connection:
        known = await store.known_versions(connection, [row.stay_id for row in newer])
        unknown = [row.stay_id for row in newer if row.stay_id not in known]
        forgotten = await store.forgotten(connection, unknown) if unknown else set()
    for row in newer:
        version = known.get(row.stay_id, 0)
        if row.version > version and row.stay_id not in forgotten:
            differences.extra.append(_Extra(row.stay_id, row.version, version))


async def _held(
    population: ComparedPopulation, part: IdRange, limits: CompareLimits
) -> tuple[dict[UUID, HeldStay], UUID]:
    """What they hold of a part, and up to which id they told it: its end, unless they hold far too much."""
    rows: dict[UUID, HeldStay] = {}
    start = part.start
    for _ in range(PAGES_LIMIT):
        async with answering(limits.answer_seconds):
            page = await population.held(IdRange(start=start, end=part.end))
        rows.update((row.stay_id, row) for row in page.results)
        if page.complete:
            return rows, part.end
        following = page.results[-1].stay_id.int + 1
        if following >= part.end.int:
            raise Ambiguous("unbelievable_page")
        start = UUID(int=following)
    return rows, start


async def _alert(connection: Connection, one: OurRange, differences: _Differences, now: datetime) -> None:
    """Tell the operator what was found in a range. Nothing extra is ever deleted: a human finds out whose it is."""
    extra = differences.extra
    if len(extra) > EXTRA_ALERTS:
        subject = f"{one.start}..{one.end}"
        await alerts.raise_alert(connection, AlertKind.EXTRA_STAY, subject, {"stays": len(extra)}, now)
    else:
        for stay in extra:
            details = {"held_version": stay.version, "known_version": stay.known}
            await alerts.raise_alert(connection, AlertKind.EXTRA_STAY, str(stay.stay_id), details, now)
    drift = differences.drift()
    if any(drift.values()):
        await alerts.raise_alert(connection, AlertKind.POPULATION_DRIFT, "population", drift, now)


async def _first_kept(connection: Connection) -> UUID:
    """The first id of the oldest month that is still here: what they keep of older ones is not ours to compare."""
    month = await store.oldest_month(connection)
    return FIRST_STAY if month is None else epoch_bounds(month)[0]


def _bounds(one: OurRange) -> IdRange:
    return IdRange(start=one.start, end=one.end)


def _agree(one: OurRange, theirs: Mapping[IdRange, RangeDigest]) -> bool:
    told = theirs.get(_bounds(one))
    if told is None:
        raise Ambiguous("no_results")
    return (told.stays, told.digest) == (one.stays, one.digest)


def _sum(one: Found, other: Found) -> Found:
    return Found(*map(sum, zip(one, other, strict=True)))


def _counts(found: Found, failed: int) -> dict[str, int]:
    return {**found._asdict(), "failed_requests": failed}
