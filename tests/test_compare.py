"""Comparing both sides: what they lost is carried again, what is not ours is told, and nothing else is touched."""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from asm_daemon import compare, operating, sync
from asm_daemon.compare import ComparedPopulation, CompareLimits, compare_all, compare_once
from asm_daemon.crypto import Keyring, epoch_at, epoch_bounds
from asm_daemon.intake import Intake
from asm_daemon.model import Facility, lane_of
from asm_daemon.pacing import FIRST_STAY
from asm_daemon.store import alerts
from asm_daemon.store import compare as store
from asm_daemon.store import sync as sync_store
from asm_daemon.store.compare import ConfirmedStay, Found, Requeued
from asm_daemon.store.sync import Confirmation
from connectors.population.client import PopulationClient
from schemas.act import ActKind
from schemas.operating import RefusedQuery
from schemas.population import (
    HeldPage,
    HeldStay,
    IdRange,
    RangeDigest,
    Verification,
    range_digest,
)
from tests.population.conftest import Simulator, speaking_to
from tests.stack import Clock, FacilityMaker, Pools, command, declaration

LIMITS = CompareLimits(range_stays=4, part_stays=2, ranges=3)
NOTHING = {**Found()._asdict(), "failed_requests": 0}
DAY = 24.0
LATER = timedelta(hours=1)
ANSWER_SECONDS = 0.5


@dataclass
class Post:
    """The real client, with what is asked written down, and something that happens before a question leaves."""

    client: PopulationClient
    asked: list[str] = field(default_factory=list)
    before: dict[str, Callable[[], Awaitable[Any]]] = field(default_factory=dict)

    async def _note(self, name: str) -> None:
        self.asked.append(name)
        if name in self.before:
            await self.before.pop(name)()

    async def digests(self, ranges: Sequence[IdRange]) -> Mapping[IdRange, RangeDigest]:
        await self._note("digests")
        return await self.client.digests(ranges)

    async def held(self, wanted: IdRange) -> HeldPage:
        await self._note("held")
        return await self.client.held(wanted)


@dataclass(frozen=True)
class Stage:
    """Both sides, and what a test does with them."""

    pools: Pools
    keyring: Keyring
    clock: Clock
    intake: Intake
    facility: Facility
    simulator: Simulator
    post: Post

    async def pool(self) -> asyncpg.Pool:
        return await self.pools.get("asm_sync")

    async def declare(self, count: int = 1, *, first: int = 1, facility: Facility | None = None) -> list[UUID]:
        at = facility or self.facility
        acts = [command(at, ActKind.DECLARE, declaration(index), self.clock) for index in range(first, first + count)]
        outcomes = await self.intake.submit(acts)
        return sorted(outcome.stay.id for outcome in outcomes if outcome.stay is not None)

    async def correct(self, stay_id: UUID) -> int:
        [outcome] = await self.intake.submit(
            [command(self.facility, ActKind.CORRECT, {"room": "305"}, self.clock, stay_id=stay_id)]
        )
        assert outcome.stay is not None, outcome.refusal
        return outcome.stay.version

    async def push(self, client: sync.Population | None = None) -> sync.SyncCounts:
        self.clock.instant += LATER
        return await sync.push_once(await self.pool(), self.keyring, client or self.post.client, now=self.clock)

    async def confirmed(self, count: int = 1, *, first: int = 1) -> list[UUID]:
        """Stays that both sides hold."""
        declared = await self.declare(count, first=first)
        assert (await self.push()).confirmed == count
        return declared

    async def compare(self, population: ComparedPopulation | None = None) -> dict[str, int]:
        """Compare everything, or what is left of it. The conservation law holds afterwards."""
        counts = await compare_all(await self.pool(), population or self.post, self.clock(), limits=LIMITS)
        await self.law()
        return counts

    async def step(self, population: ComparedPopulation | None = None) -> dict[str, int]:
        """One activation."""
        return await compare_once(
            await self.pool(), population or self.post, self.clock(), every_hours=DAY, limits=LIMITS
        )

    async def law(self) -> sync_store.Conservation:
        found = await sync.conservation(await self.pool())
        assert found.misplaced == 0, found
        assert found.stays == found.confirmed + found.queued + found.waiting + found.refused
        return found

    async def repaired(self) -> None:
        """What was queued again is carried, and the next comparison finds nothing."""
        await self.push()
        assert (await self.law()).queued == 0
        counts = await self.compare()
        assert {name for name, count in counts.items() if count} <= {"ranges", "stays"}

    async def alerts(self) -> dict[tuple[str, str], Mapping[str, Any]]:
        async with (await self.pool()).acquire() as connection:
            found = await alerts.list_alerts(connection, closed=False, limit=100)
        return {(alert.kind.value, alert.subject): alert.details for alert in found}

    async def theirs(self, statement: str, *arguments: Any) -> None:
        """Tamper with what the population database holds."""
        assert (await self.simulator.pool.execute(statement, *arguments)) not in ("DELETE 0", "UPDATE 0", "INSERT 0 0")

    async def execute(self, statement: str, *arguments: Any) -> None:
        await (await self.pools.database.connect()).execute(statement, *arguments)


@pytest.fixture
async def post(simulator: Simulator) -> AsyncIterator[Post]:
    async with speaking_to(simulator.url, answer_seconds=ANSWER_SECONDS) as client:
        yield Post(client)


@pytest.fixture
async def stage(
    pools: Pools,
    keyring: Keyring,
    clock: Clock,
    intake: Intake,
    facility: Facility,
    simulator: Simulator,
    post: Post,
) -> Stage:
    return Stage(pools, keyring, clock, intake, facility, simulator, post)


# -- the other side does not answer, or not the truth ------------------------------------------------------------------


async def test_while_the_service_is_away_nothing_is_found_and_the_pass_stays_where_it_was(stage: Stage) -> None:
    await stage.confirmed(9)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with speaking_to(f"http://127.0.0.1:{unused.getsockname()[1]}") as nobody:
            assert await stage.compare(nobody) == NOTHING | {"failed_requests": 1}
    assert (await stage.law()).confirmed == 9
    assert await stage.compare() == NOTHING | {"ranges": 3, "stays": 9}


FAULTS: list[dict[str, Any]] = [
    {"kind": "server_error"},
    {"kind": "server_error", "status": 503, "retry_after_seconds": 30},
    {"kind": "html_page"},
    {"kind": "malformed_json"},
    {"kind": "no_answer"},
    {"kind": "reset"},
    {"kind": "partial"},
    {"kind": "zero_rows"},
    {"kind": "token_expired", "count": 2},
    {"kind": "slow_body", "milliseconds": 60_000},
    {"kind": "latency", "milliseconds": 60_000},
]


@pytest.mark.parametrize("operation", ["digests", "held"])
async def test_no_failure_of_an_answer_is_taken_for_a_loss(stage: Stage, operation: str) -> None:
    lost, *_ = await stage.confirmed(5)
    for fault in FAULTS:
        await stage.theirs("DELETE FROM stays WHERE stay_id = $1", lost)
        await stage.simulator.arm(**{"on": operation} | fault)
        assert (await stage.compare())["repaired"] in (0, 1), fault
        await stage.simulator.admin("DELETE", "faults")
        await stage.compare()
        assert (await stage.law()).queued == 1, fault
        await stage.repaired()
    effects = await stage.simulator.effects()
    assert effects.count((str(lost), 1)) == 1 + len(FAULTS)
    assert len(effects) == 5 + len(FAULTS)  # nothing else was carried twice


async def test_what_was_compared_before_an_answer_failed_is_not_compared_again(stage: Stage) -> None:
    *_, last = await stage.confirmed(9)
    await stage.theirs("DELETE FROM stays WHERE stay_id = $1", last)
    await stage.simulator.arm("reset", on="held")
    assert await stage.step() == NOTHING | {"ranges": 2, "stays": 8, "failed_requests": 1}
    assert await stage.step() == NOTHING | {"ranges": 1, "stays": 1, "missing": 1, "repaired": 1}


async def test_a_service_that_cannot_tell_digests_is_left_alone(stage: Stage) -> None:
    await stage.confirmed(2)
    await stage.simulator.admin("PUT", "mode", {"discard": True})
    assert await stage.compare() == NOTHING | {"failed_requests": 1}
    assert (await stage.simulator.violations())["sender"] == {}


@dataclass
class Silent:
    """The real client, but for one question that is never answered."""

    client: PopulationClient
    unanswered: str

    async def digests(self, ranges: Sequence[IdRange]) -> Mapping[IdRange, RangeDigest]:
        if self.unanswered == "digests":
            await asyncio.Event().wait()
        return await self.client.digests(ranges)

    async def held(self, wanted: IdRange) -> HeldPage:
        if self.unanswered == "held":
            await asyncio.Event().wait()
        return await self.client.held(wanted)


@pytest.mark.parametrize("operation", ["digests", "held"])
async def test_a_client_that_never_answers_does_not_hold_up_the_comparison(stage: Stage, operation: str) -> None:
    lost, *_ = await stage.confirmed(3)
    await stage.theirs("DELETE FROM stays WHERE stay_id = $1", lost)
    silent = Silent(stage.post.client, operation)
    async with asyncio.timeout(20):
        counts = await compare_all(
            await stage.pool(), silent, stage.clock(), limits=replace(LIMITS, answer_seconds=0.05)
        )
    assert counts == NOTHING | {"failed_requests": 1}
    assert (await stage.compare())["missing"] == 1


@dataclass
class Liar:
    """A service that says of everything what it is told to say."""

    stays: int = 1
    page: HeldPage = field(default_factory=lambda: HeldPage(results=[], count=0, complete=True))
    asked: list[IdRange] = field(default_factory=list)

    async def digests(self, ranges: Sequence[IdRange]) -> Mapping[IdRange, RangeDigest]:
        return {one: RangeDigest(start=one.start, end=one.end, stays=self.stays, digest="0" * 64) for one in ranges}

    async def held(self, wanted: IdRange) -> HeldPage:
        self.asked.append(wanted)
        return self.page


async def test_a_service_that_denies_everything_gets_everything_once_more_and_the_operator_is_told(
    stage: Stage,
) -> None:
    await stage.confirmed(9)
    counts = await stage.compare(Liar())
    assert (counts["missing"], counts["repaired"], counts["extra"]) == (9, 9, 0)
    assert ("population_drift", "population") in await stage.alerts()
    await stage.repaired()
    assert len(await stage.simulator.effects()) == 9  # it held them: nothing took effect twice


async def test_a_service_that_always_has_more_to_tell_is_not_listened_to_without_end(stage: Stage) -> None:
    await stage.confirmed(1)
    row = HeldStay(stay_id=UUID(int=2**128 - 1), version=1, digest="0" * 64)
    liar = Liar(page=HeldPage(results=[row], count=1, complete=False))
    assert (await stage.compare(liar))["failed_requests"] == 1
    assert len(liar.asked) == 1


async def test_far_too_many_stays_in_one_place_are_told_as_a_range(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compare, "PAGES_LIMIT", 2)
    kept, *_ = await stage.confirmed(1)
    statement = """
        INSERT INTO stays (stay_id, version, status, facility_code, item, verification)
        SELECT ('ffffffff-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid, 1, 'declared', 'X', 'x', 'unknown'
        FROM generate_series(1, 1200) AS n
    """
    await stage.theirs(statement)
    counts = await stage.compare()
    assert (counts["extra"], counts["missing"]) == (999, 0)
    [(kind, subject)] = await stage.alerts()
    assert kind == "extra_stay"
    first, end = subject.split("..")
    assert UUID(first) <= kept < UUID(end)


# -- what they lost ----------------------------------------------------------------------------------------------------


async def test_what_is_missing_there_is_carried_again(stage: Stage) -> None:
    declared = await stage.confirmed(9)
    for lost in (declared[0], declared[5]):
        await stage.theirs("DELETE FROM stays WHERE stay_id = $1", lost)
    assert await stage.compare() == NOTHING | {"ranges": 3, "stays": 9, "missing": 2, "repaired": 2}
    assert (await stage.law()).queued == 2
    assert await stage.alerts() == {
        ("population_drift", "population"): {"missing": 1, "stale": 0, "differing": 0}  # of the last range
    }
    await stage.repaired()
    assert sorted((await stage.simulator.effects())[9:]) == [(str(declared[0]), 1), (str(declared[5]), 1)]


async def test_what_is_stale_there_is_carried_again_as_it_is_now(stage: Stage) -> None:
    one, *_ = await stage.confirmed(2)
    [old] = await stage.simulator.pool.fetch("SELECT version, item FROM stays WHERE stay_id = $1", one)
    assert await stage.correct(one) == 2
    await stage.push()
    await stage.theirs("UPDATE stays SET version = $2, item = $3 WHERE stay_id = $1", one, old["version"], old["item"])
    assert await stage.compare() == NOTHING | {"ranges": 1, "stays": 2, "stale": 1, "repaired": 1}
    await stage.repaired()
    assert (await stage.simulator.admin("GET", f"stays/{one}"))["version"] == 2


async def test_other_content_under_the_same_version_is_theirs_to_refuse_and_ends_with_a_human(stage: Stage) -> None:
    one, *_ = await stage.confirmed(2)
    await stage.theirs("UPDATE stays SET item = item || ' ' WHERE stay_id = $1", one)
    counts = await stage.compare()
    assert (counts["differing"], counts["repaired"]) == (1, 1)
    await stage.push()
    [refused] = (await operating.list_refused(await stage.pool(), RefusedQuery(), stage.clock())).refused
    assert refused.code == "version_conflict"
    assert await stage.compare() == NOTHING | {"ranges": 1, "stays": 1}  # who waits for a human is not drift


async def test_of_what_was_confirmed_without_a_digest_theirs_is_kept_even_if_the_facility_has_moved_since(
    stage: Stage,
) -> None:
    lost, *_ = await stage.confirmed(3)
    await stage.execute("UPDATE sync_log SET digest = NULL")
    await stage.execute("UPDATE facilities SET commune = '11977'")
    await stage.theirs("DELETE FROM stays WHERE stay_id = $1", lost)
    counts = await stage.compare()
    assert (counts["missing"], counts["unrecorded"], counts["repaired"]) == (1, 2, 1)
    assert (await stage.law()).queued == 1
    await stage.repaired()
    assert (await stage.law()).refused == 0
    assert len(await stage.simulator.effects()) == 4


async def test_only_a_digest_that_is_lacking_is_kept_from_them(stage: Stage) -> None:
    [stay_id] = await stage.confirmed()
    async with (await stage.pool()).acquire() as connection:
        [before] = await store.confirmed_stays(connection, FIRST_STAY, compare.LAST_STAY)
        told = ConfirmedStay(stage.facility.id, stay_id, 1, "00" * 32)
        await store.keep_digests(connection, [told, told._replace(version=2)])
        assert await store.confirmed_stays(connection, FIRST_STAY, compare.LAST_STAY) == [before]


async def test_a_restored_backup_of_theirs_is_filled_up_again(stage: Stage) -> None:
    await stage.confirmed(30)
    await stage.theirs("DELETE FROM stays")
    assert (await stage.compare())["repaired"] == 30
    await stage.repaired()
    held = await stage.simulator.pool.fetchval("SELECT count(*) FROM stays")
    assert held == 30


# -- what is not ours --------------------------------------------------------------------------------------------------


EXTRA = """
    INSERT INTO stays (stay_id, version, status, facility_code, item, verification)
    SELECT $1, $2, status, facility_code, item, verification FROM stays LIMIT 1
"""


async def test_what_is_extra_there_is_told_to_the_operator_and_left_alone(stage: Stage) -> None:
    one, *_ = await stage.confirmed(5)
    unknown, future = UUID(int=one.int + 1), UUID("fffffffe-0000-7000-8000-000000000000")
    for stay_id in (unknown, future):
        await stage.theirs(EXTRA, stay_id, 1)
    counts = await stage.compare()
    assert (counts["extra"], counts["repaired"]) == (2, 0)
    details = {"held_version": 1, "known_version": 0}
    assert await stage.alerts() == {
        ("extra_stay", str(unknown)): details,
        ("extra_stay", str(future)): details,
    }
    assert await stage.simulator.pool.fetchval("SELECT count(*) FROM stays") == 7
    await stage.compare()
    async with (await stage.pool()).acquire() as connection:
        assert {alert.occurrences for alert in await alerts.list_alerts(connection, closed=False, limit=9)} == {2}


async def test_a_newer_version_than_ours_is_extra_too(stage: Stage) -> None:
    one, *_ = await stage.confirmed(2)
    await stage.theirs("UPDATE stays SET version = 7, item = item || ' ' WHERE stay_id = $1", one)
    counts = await stage.compare()
    assert (counts["extra"], counts["stale"], counts["repaired"]) == (1, 0, 0)
    assert await stage.alerts() == {("extra_stay", str(one)): {"held_version": 7, "known_version": 1}}


async def test_a_stay_of_the_sandbox_is_never_there(stage: Stage, make_facility: FacilityMaker) -> None:
    await stage.confirmed(2)
    [trial] = await stage.declare(facility=await make_facility("SANDBOX-1", sandbox=True), first=3)
    assert await stage.compare() == NOTHING | {"ranges": 1, "stays": 2}
    await stage.theirs(EXTRA, trial, 1)
    assert (await stage.compare())["extra"] == 1
    assert list(await stage.alerts()) == [("extra_stay", str(trial))]


async def test_what_they_keep_of_months_that_are_gone_here_is_not_compared(stage: Stage) -> None:
    await stage.confirmed(2)
    first_kept, _ = epoch_bounds(epoch_at(stage.clock()))
    await stage.theirs(EXTRA, UUID(int=first_kept.int - 1), 1)
    assert await stage.compare() == NOTHING | {"ranges": 1, "stays": 2}
    assert await stage.alerts() == {}


# -- what is on its way is no difference -------------------------------------------------------------------------------


async def test_what_is_queued_waiting_or_refused_is_no_difference(stage: Stage) -> None:
    queued, waiting, refused, corrected = await stage.confirmed(4)
    for one in (queued, waiting, refused):
        await stage.theirs("DELETE FROM stays WHERE stay_id = $1", one)
        await stage.execute("DELETE FROM sync_log WHERE stay_id = $1", one)
    row = (stage.facility.id, lane_of(stage.facility.id), stage.clock())
    await stage.execute("INSERT INTO sync_queue VALUES ($1, $3, 1, $2)", row[0], row[1], queued)
    await stage.execute("INSERT INTO sync_refused VALUES ($1, $4, 1, $2, 'invalid_item', $3)", *row, refused)
    await stage.execute(
        "INSERT INTO sync_wait VALUES ($1, $4, 1, $2, 1, $3, 'ambiguous', 'timeout', $3)", *row, waiting
    )
    await stage.correct(corrected)
    assert await stage.compare() == NOTHING | {"ranges": 1, "stays": 1}
    assert await stage.alerts() == {}


async def test_what_took_effect_there_and_is_not_confirmed_yet_is_no_difference(stage: Stage) -> None:
    one, *_ = await stage.confirmed(3)
    await stage.correct(one)
    await stage.declare(2, first=10)
    await stage.simulator.arm("no_answer", after_commit=True)
    await stage.push()
    assert (await stage.law()).waiting == 3
    counts = await stage.compare()
    assert counts == NOTHING | {"ranges": 2, "stays": 3}
    assert "held" in stage.post.asked  # it was looked at closely
    assert await stage.alerts() == {}


@pytest.mark.parametrize("operation", ["digests", "held"])
async def test_what_is_carried_while_we_compare_is_no_difference(stage: Stage, operation: str) -> None:
    one, *_ = await stage.confirmed(3)
    if operation == "held":  # so that it comes to a listing
        await stage.theirs(EXTRA, UUID(int=one.int + 1), 1)

    async def life_goes_on() -> None:
        await stage.correct(one)
        await stage.declare(3, first=10)
        assert (await stage.push()).confirmed == 4

    stage.post.before[operation] = life_goes_on
    counts = await stage.compare()
    assert not stage.post.before
    assert counts["extra"] == (operation == "held")
    assert (counts["missing"], counts["stale"], counts["differing"], counts["repaired"]) == (0, 0, 0, 0)


# -- passes ------------------------------------------------------------------------------------------------------------


async def test_where_everything_is_equal_a_pass_asks_once_for_many_stays(stage: Stage) -> None:
    await stage.confirmed(12)
    assert await stage.compare() == NOTHING | {"ranges": 3, "stays": 12}
    assert stage.post.asked == ["digests"]
    assert await stage.alerts() == {}


async def test_an_activation_compares_its_part_and_a_pass_goes_on_where_the_last_one_stopped(stage: Stage) -> None:
    declared = await stage.confirmed(30)
    await stage.theirs("DELETE FROM stays WHERE stay_id = $1", declared[-1])
    for _ in range(2):
        assert await stage.step() == NOTHING | {"ranges": 3, "stays": 12}
    assert await stage.step() == NOTHING | {"ranges": 2, "stays": 6, "missing": 1, "repaired": 1}
    assert await stage.step() == NOTHING  # the next pass is not due
    stage.clock.instant += timedelta(hours=DAY)
    assert (await stage.step())["ranges"] == 3


async def test_an_activation_that_finds_much_stops_behind_the_range_that_took_too_many_questions(stage: Stage) -> None:
    await stage.confirmed(12)
    await stage.theirs("DELETE FROM stays")
    limits = replace(LIMITS, requests=4)
    counts = await compare_once(await stage.pool(), stage.post, stage.clock(), every_hours=DAY, limits=limits)
    assert counts == NOTHING | {"ranges": 1, "stays": 4, "missing": 4, "repaired": 4}
    assert stage.post.asked == ["digests", "digests", "held", "held"]
    assert (await stage.compare())["repaired"] == 8


async def test_a_crash_in_the_middle_costs_the_range_in_hand(stage: Stage) -> None:
    declared = await stage.confirmed(30)
    for lost in (declared[5], declared[9]):
        await stage.theirs("DELETE FROM stays WHERE stay_id = $1", lost)
    reached = asyncio.Event()

    async def hang() -> None:
        async def hang_at_the_second() -> None:
            reached.set()
            await asyncio.Event().wait()

        stage.post.before["held"] = hang_at_the_second

    stage.post.before["held"] = hang
    dying = asyncio.create_task(stage.step())
    await asyncio.wait_for(reached.wait(), 20)
    dying.cancel()
    await asyncio.gather(dying, return_exceptions=True)
    assert (await stage.law()).queued == 1  # the first is recorded with all before it
    counts = await stage.compare()
    assert (counts["missing"], counts["repaired"], counts["stays"]) == (1, 1, 22)


async def test_two_that_compare_the_same_part_count_it_once(stage: Stage) -> None:
    lost, *_ = await stage.confirmed(5)
    await stage.theirs("DELETE FROM stays WHERE stay_id = $1", lost)
    first, second = await asyncio.gather(stage.step(), stage.step())
    assert first["repaired"] + second["repaired"] == 1
    assert first["ranges"] + second["ranges"] == 2
    connection = await stage.pools.database.connect()
    row = await connection.fetchrow("SELECT stays, missing, repaired, finished_at IS NOT NULL AS over FROM comparisons")
    assert row is not None
    assert dict(row) == {"stays": 5, "missing": 1, "repaired": 1, "over": True}


@pytest.mark.parametrize("seed", range(3))
async def test_whatever_is_lost_under_whatever_failures_both_sides_agree_in_the_end(stage: Stage, seed: int) -> None:
    dice = random.Random(seed)  # noqa: S311 - repeatable
    known = await stage.confirmed(30)
    schedule = {"seed": seed, "requests": 15, "share": 0.4, "longest_milliseconds": 700}
    await stage.simulator.admin("POST", "schedule", schedule)
    extra = set()
    for round_number in range(8):
        for stay_id in dice.sample(known, 3):
            await stage.simulator.pool.execute("DELETE FROM stays WHERE stay_id = $1", stay_id)
        for stay_id in dice.sample(known, 2):
            await stage.correct(stay_id)
        extra.add(UUID(int=dice.choice(known).int ^ (round_number + 1)))
        await stage.simulator.pool.execute(EXTRA + " ON CONFLICT DO NOTHING", max(extra), 1)
        known += await stage.declare(2, first=31 + 2 * round_number)
        await stage.compare()
        await stage.push()
    await stage.simulator.admin("DELETE", "schedule")
    for _ in range(4):
        await stage.compare()
        await stage.push()
    law = await stage.law()
    assert (law.confirmed, law.remains) == (len(known), 0)
    held = await stage.simulator.pool.fetch("SELECT stay_id, version FROM stays WHERE stay_id = ANY($1)", known)
    ours = await (await stage.pools.database.connect()).fetch("SELECT id, version FROM stays")
    assert sorted(map(tuple, held)) == sorted(map(tuple, ours))
    assert {name: count for name, count in (await stage.compare()).items() if count}.keys() <= {
        "ranges",
        "stays",
        "extra",
    }
    told = {UUID(subject) for kind, subject in await stage.alerts() if kind == "extra_stay"}
    there = await stage.simulator.pool.fetch("SELECT stay_id FROM stays WHERE stay_id <> ALL($1)", known)
    assert told == {row["stay_id"] for row in there}


# -- the law, when a repair meets an acknowledgement -------------------------------------------------------------------


async def test_a_repair_waits_for_an_acknowledgement_that_came_first(stage: Stage) -> None:
    [one] = await stage.confirmed(1)
    ack, repair = await _two_connections(stage)
    confirmation = Confirmation(stage.facility.id, one, 1, Verification.MATCHED, b"\0" * 32)
    transaction = ack.transaction()
    await transaction.start()
    await sync_store.acknowledge(ack, [confirmation], stage.clock())
    repairing = asyncio.create_task(store.requeue(repair, [_again(stage, one)], stage.clock()))
    await _blocked(stage, repair)
    await sync_store.clear_waiting(ack, [confirmation])
    await transaction.commit()
    assert await repairing == 1
    assert (await stage.law()).queued == 1


async def test_an_acknowledgement_that_waits_for_a_repair_takes_it_back(stage: Stage) -> None:
    [one] = await stage.confirmed(1)
    ack, repair = await _two_connections(stage)
    confirmation = Confirmation(stage.facility.id, one, 1, Verification.MATCHED, b"\0" * 32)
    transaction = repair.transaction()
    await transaction.start()
    assert await store.requeue(repair, [_again(stage, one)], stage.clock()) == 1

    async def acknowledge() -> None:
        async with ack.transaction():
            await sync_store.acknowledge(ack, [confirmation], stage.clock())
            await sync_store.clear_waiting(ack, [confirmation])

    acknowledging = asyncio.create_task(acknowledge())
    await _blocked(stage, ack)
    await transaction.commit()
    await acknowledging
    assert (await stage.law()).confirmed == 1


async def test_only_what_is_confirmed_and_current_is_queued_again(stage: Stage) -> None:
    corrected, waiting = await stage.confirmed(2)
    await stage.correct(corrected)
    await stage.execute("DELETE FROM sync_log WHERE stay_id = $1", waiting)
    await stage.execute(
        "INSERT INTO sync_wait VALUES ($1, $2, 1, $3, 1, $4, 'ambiguous', 'timeout', $4)",
        *(stage.facility.id, waiting, lane_of(stage.facility.id), stage.clock()),
    )
    async with (await stage.pool()).acquire() as connection:
        assert await store.requeue(connection, [_again(stage, corrected), _again(stage, waiting)], stage.clock()) == 0
    assert await stage.law() == sync_store.Conservation(2, 0, 1, 1, 0, 0, 0)


def _again(stage: Stage, stay_id: UUID) -> Requeued:
    return Requeued(stage.facility.id, stay_id, 1, lane_of(stage.facility.id))


async def _two_connections(stage: Stage) -> tuple[asyncpg.Connection, asyncpg.Connection]:
    return await stage.pools.database.connect("asm_sync"), await stage.pools.database.connect("asm_sync")


async def _blocked(stage: Stage, connection: asyncpg.Connection) -> None:
    """Wait until the connection's statement waits for another transaction."""
    watching = await stage.pools.database.connect()
    async with asyncio.timeout(20):
        while not await watching.fetchval("SELECT cardinality(pg_blocking_pids($1))", connection.get_server_pid()):
            await asyncio.sleep(0.01)


# -- digests -----------------------------------------------------------------------------------------------------------


async def test_what_is_recorded_and_what_they_hold_is_the_digest_of_the_item(stage: Stage) -> None:
    declared = await stage.confirmed(3)
    async with (await stage.pool()).acquire() as connection:
        resting = await store.confirmed_stays(connection, declared[0], compare.LAST_STAY)
        [ours] = await store.digest_ranges(connection, declared[0], compare.LAST_STAY, 10, 1)
    digests = [stay.digest for stay in resting if stay.digest is not None]
    assert ours.digest == range_digest(digests)
    asked = IdRange(start=ours.start, end=ours.end)
    told = await stage.post.digests([asked])
    assert (told[asked].stays, told[asked].digest) == (3, ours.digest)
    assert [row.digest for row in (await stage.post.held(asked)).results] == digests


async def test_ranges_have_no_gaps_wherever_they_begin_and_end(stage: Stage) -> None:
    declared = await stage.declare(7)
    async with (await stage.pool()).acquire() as connection:
        ranges = await store.digest_ranges(connection, declared[1], declared[6], 2, 100)
        two = await store.digest_ranges(connection, declared[1], declared[6], 2, 2)
        none = await store.digest_ranges(connection, FIRST_STAY, declared[0], 2, 2)
    assert [(one.start, one.end) for one in ranges] == [
        (declared[1], declared[3]),
        (declared[3], declared[5]),
        (declared[5], declared[6]),
    ]
    assert two == ranges[:2]
    assert none == [(FIRST_STAY, declared[0], 0, range_digest([]))]
