"""The carrying of stays: whatever breaks, each arrives once, in its newest version, and none is ever out of sight."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import events, operating, sync
from asm_daemon.crypto import Key, KeyPurpose, Keyring, epoch_at
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import LANES, Contents, Facility, StayRow
from asm_daemon.pacing import Breaker, Cursor, Doorbell
from asm_daemon.problems import Refused
from asm_daemon.store import pool as pool_module
from asm_daemon.store import stays as stay_store
from asm_daemon.store import sync as store
from asm_daemon.store.sync import Confirmation, Conservation, Postponement, WaitReason
from asm_daemon.sync import Population, SyncCounts, SyncLimits, Worker
from connectors.population.client import PopulationClient
from schemas.act import ActKind
from schemas.operating import Acted, Move, RefusedQuery, Settlement
from schemas.population import (
    BatchAnswer,
    ItemStatus,
    Outcome,
    PopulationItem,
    PopulationResult,
    PopulationState,
    Unreachable,
    Verification,
    canonical,
)
from tests.conftest import Database
from tests.population.conftest import Simulator, speaking_to
from tests.population.items import guest, item
from tests.silence import silent
from tests.stack import Clock, FacilityMaker, Pools, command, declaration

LATER = timedelta(hours=1)  # longer than any backoff
ANSWER_SECONDS = 0.5
PATIENCE_SECONDS = 20.0
AT_REST = {
    "sender": {}, "repeated": 0, "out_of_order": 0, "revived": 0, "moved": 0, "unerased": 0, "unrecorded": 0
}  # fmt: skip


# -- the stage ---------------------------------------------------------------------------------------------------------


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[PopulationClient]:
    async with speaking_to(simulator.url, answer_seconds=ANSWER_SECONDS) as made:
        yield made


@dataclass
class Gate:
    """The real client, with everything that passes written down, and a gate before each request and each answer."""

    client: Population
    sent: list[list[tuple[UUID, int]]] = field(default_factory=list)
    asked: list[list[UUID]] = field(default_factory=list)
    may_leave: asyncio.Event = field(default_factory=asyncio.Event)
    may_return: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: int = 0
    answered: int = 0
    most_at_once: int = 0
    _passing: int = 0

    def open(self) -> None:
        self.may_leave.set()
        self.may_return.set()

    async def send(self, items: Sequence[PopulationItem]) -> BatchAnswer:
        self.sent.append([(one.stay_id, one.version) for one in items])
        self.waiting += 1
        await self.may_leave.wait()
        self.waiting -= 1
        self._passing += 1
        self.most_at_once = max(self.most_at_once, self._passing)
        try:
            return await self.client.send(items)
        finally:
            self._passing -= 1
            self.answered += 1
            await self.may_return.wait()

    async def status(self, stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        self.asked.append(list(stay_ids))
        return await self.client.status(stay_ids)


@pytest.fixture
async def gate(client: PopulationClient) -> Gate:
    """An open gate before the client."""
    made = Gate(client)
    made.open()
    return made


@dataclass(frozen=True)
class Stage:
    """What a test of the carrying needs at hand."""

    pools: Pools
    keyring: Keyring
    clock: Clock
    intake: Intake
    facility: Facility
    simulator: Simulator

    @property
    def database(self) -> Database:
        return self.pools.database

    async def pool(self) -> asyncpg.Pool:
        return await self.pools.get("asm_sync")

    async def declare(self, count: int = 1, *, first: int = 1, facility: Facility | None = None) -> list[UUID]:
        """Declare synthetic people; their stays in the order of the ids."""
        at = facility or self.facility
        commands = [
            command(at, ActKind.DECLARE, declaration(index), self.clock) for index in range(first, first + count)
        ]
        outcomes = await self.intake.submit(commands)
        assert {outcome.outcome for outcome in outcomes} == {"accepted"}, [outcome.refusal for outcome in outcomes]
        return sorted(outcome.stay.id for outcome in outcomes if outcome.stay is not None)

    async def change(self, stay_id: UUID, kind: ActKind, **fields: Any) -> int:
        """A later act on a stay; its new version."""
        made = command(self.facility, kind, fields, self.clock, stay_id=stay_id)
        [outcome] = await self.intake.submit([made])
        assert outcome.stay is not None, outcome.refusal
        return outcome.stay.version

    async def worker(self, population: Population, *, keyring: Keyring | None = None, **limits: Any) -> Worker:
        """A worker that holds no lane yet."""
        return Worker(
            await self.pool(), keyring or self.keyring, population, now=self.clock, limits=SyncLimits(**limits)
        )

    async def push(self, population: Population, *, keyring: Keyring | None = None, **limits: Any) -> SyncCounts:
        return await sync.push_once(
            await self.pool(), keyring or self.keyring, population, now=self.clock, limits=SyncLimits(**limits)
        )

    async def law(self) -> Conservation:
        """Where the stays are. The conservation law holds whenever a test looks."""
        found = await sync.conservation(await self.pool())
        assert found.misplaced == 0, found
        assert found.stays == found.confirmed + found.queued + found.waiting + found.refused
        return found

    async def converge(self, population: Population) -> None:
        """Push until every stay is confirmed, letting an hour pass each time; the simulator then has nothing to say."""
        for _ in range(8):
            found = await self.law()
            if found.confirmed == found.stays and found.remains == 0:
                break
            self.clock.instant += LATER
            await self.push(population)
        assert (found.confirmed, found.remains) == (found.stays, 0), found
        violations = await self.simulator.violations()
        assert {"sender": violations["sender"], **violations["effects"]} == AT_REST | {
            "recorded": violations["effects"]["recorded"]
        }

    async def waiting(self) -> list[tuple[str, str, int]]:
        """Reason, code and attempts of what waits."""
        connection = await self.database.connect("asm_sync")
        rows = await connection.fetch("SELECT reason, code, attempts FROM sync_wait ORDER BY stay_id")
        return [tuple(row) for row in rows]

    async def refused(self) -> dict[UUID, str]:
        connection = await self.database.connect("asm_sync")
        return {row[0]: row[1] for row in await connection.fetch("SELECT stay_id, code FROM sync_refused")}

    async def replay(self, **chosen: Any) -> Acted:
        """What an operator sends again."""
        return await operating.replay(await self.pool(), lambda: None, "operator", Move(**chosen), self.clock())

    async def lapse(self, worker: Worker) -> None:
        """The worker has given no sign of life for a whole lease."""
        superuser = await self.database.connect()
        await superuser.execute(
            "UPDATE leases SET expires_at = now() - interval '1 second' WHERE owner = $1", worker.id
        )
        await superuser.execute("UPDATE sync_workers SET seen_until = '-infinity' WHERE id = $1", worker.id)

    async def execute(self, statement: str, *arguments: Any) -> None:
        await (await self.database.connect()).execute(statement, *arguments)


@pytest.fixture
async def stage(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, facility: Facility, simulator: Simulator
) -> Stage:
    return Stage(pools, keyring, clock, intake, facility, simulator)


async def eventually(condition: Callable[[], Any]) -> None:
    """Wait until the condition holds, but not for ever."""
    async with asyncio.timeout(PATIENCE_SECONDS):
        while True:
            holds = condition()
            if await holds if asyncio.iscoroutine(holds) else holds:
                return
            await asyncio.sleep(0.005)


@asynccontextmanager
async def at_work(worker: Worker) -> AsyncIterator[asyncio.Event]:
    """A running worker; it is told to stop at the end, if the test has not done so."""
    stop = asyncio.Event()
    async with asyncio.timeout(PATIENCE_SECONDS), asyncio.TaskGroup() as tasks:
        tasks.create_task(worker.run(stop))
        try:
            yield stop
        finally:
            stop.set()


@asynccontextmanager
async def nobody_there() -> AsyncIterator[PopulationClient]:
    """A client of a port at which nobody listens."""
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        async with speaking_to(f"http://127.0.0.1:{unused.getsockname()[1]}") as client:
            yield client


# -- every failure of the other side ends in one confirmation and one effect -------------------------------------------


TRANSPORT: list[dict[str, Any]] = [
    {"kind": "server_error"},
    {"kind": "server_error", "status": 503, "retry_after_seconds": 30},
    {"kind": "html_page"},
    {"kind": "malformed_json"},
    {"kind": "no_answer"},
    {"kind": "reset"},
]
RESULTS: list[dict[str, Any]] = [{"kind": "partial"}, {"kind": "zero_rows"}, {"kind": "token_expired"}]
SLOW: list[dict[str, Any]] = [{"kind": "latency", "milliseconds": 20}, {"kind": "slow_body", "milliseconds": 40}]
AFTER_COMMIT: list[dict[str, Any]] = [{**fault, "after_commit": True} for fault in (*TRANSPORT, *RESULTS)]
WHILE_ASKING: list[dict[str, Any]] = [{**fault, "on": "status"} for fault in (*TRANSPORT, *RESULTS, *SLOW)]
FOR_A_TOKEN: list[dict[str, Any]] = [{**fault, "on": "token"} for fault in (*TRANSPORT, *SLOW)]


@pytest.mark.parametrize(
    "faults",
    [(*TRANSPORT, *RESULTS, *SLOW), AFTER_COMMIT],
    ids=["before_it_took_effect", "after_it_took_effect"],
)
async def test_every_fault_of_a_batch_converges(
    stage: Stage, client: PopulationClient, faults: Sequence[dict[str, Any]]
) -> None:
    for number, fault in enumerate(faults):
        declared = await stage.declare(4, first=1 + 4 * number)
        await stage.simulator.arm(**fault)
        await stage.push(client)
        await stage.converge(client)
        assert sorted((await stage.simulator.effects())[-4:]) == [(str(one), 1) for one in declared], fault
    assert len(await stage.simulator.effects()) == 4 * len(faults)


async def test_every_fault_of_a_question_converges(stage: Stage, client: PopulationClient) -> None:
    for number, fault in enumerate(WHILE_ASKING):
        await stage.declare(2, first=1 + 2 * number)
        await stage.simulator.arm("reset", after_commit=number % 2 == 0)
        await stage.simulator.arm(**fault)
        await stage.push(client)
        assert {reason for reason, *_ in await stage.waiting()} == {"ambiguous"}, fault
        await stage.converge(client)
    assert len(await stage.simulator.effects()) == 2 * len(WHILE_ASKING)


async def test_every_fault_of_a_token_converges(stage: Stage) -> None:
    for number, fault in enumerate(FOR_A_TOKEN):
        await stage.declare(2, first=1 + 2 * number)
        await stage.simulator.arm(**fault)
        async with speaking_to(stage.simulator.url, answer_seconds=ANSWER_SECONDS) as client:
            await stage.push(client)
            assert {reason for reason, *_ in await stage.waiting()} <= {"unreachable"}, fault  # nothing was sent
            await stage.converge(client)
    assert len(await stage.simulator.effects()) == 2 * len(FOR_A_TOKEN)


async def test_a_200_is_believed_only_for_the_items_it_names(stage: Stage, client: PopulationClient) -> None:
    await stage.declare(4)
    await stage.simulator.arm("partial", after_commit=True)
    assert await stage.push(client) == SyncCounts(confirmed=2, postponed=2, requests=1)
    assert await stage.waiting() == [("ambiguous", "no_result", 1)] * 2


async def test_what_took_effect_unseen_is_asked_for_in_one_request_and_not_sent_again(stage: Stage, gate: Gate) -> None:
    declared = await stage.declare(3)
    await stage.simulator.arm("no_answer", after_commit=True)
    assert await stage.push(gate) == SyncCounts(postponed=3, requests=1, failed_requests=1)
    assert await stage.waiting() == [("ambiguous", "timeout", 1)] * 3
    assert (await stage.push(gate)).requests == 0  # not before it is due

    stage.clock.instant += LATER
    assert await stage.push(gate) == SyncCounts(confirmed=3, requests=1)
    assert [sorted(asked) for asked in gate.asked] == [declared]
    assert len(gate.sent) == 1


async def test_what_did_not_take_effect_is_asked_for_and_then_sent(stage: Stage, gate: Gate) -> None:
    await stage.declare(3)
    await stage.simulator.arm("reset")
    await stage.push(gate)
    stage.clock.instant += LATER
    assert await stage.push(gate) == SyncCounts(confirmed=3, requests=2)
    assert (len(gate.asked), len(gate.sent)) == (1, 2)


async def test_a_wait_that_a_wrong_clock_made_long_ends_when_the_clock_is_right(stage: Stage, gate: Gate) -> None:
    await stage.declare(2)
    await stage.simulator.arm("reset")
    stage.clock.instant += LATER
    assert (await stage.push(gate)).postponed == 2
    stage.clock.instant -= LATER
    assert await stage.push(gate) == SyncCounts(confirmed=2, requests=2)


async def test_an_unclear_stay_stays_unclear_while_nobody_can_be_asked(stage: Stage, client: PopulationClient) -> None:
    await stage.declare()
    await stage.simulator.arm("no_answer", after_commit=True)
    await stage.push(client)
    stage.clock.instant += LATER
    async with nobody_there() as nobody:
        await stage.push(nobody)
    assert await stage.waiting() == [("ambiguous", "no_connection", 2)]
    await stage.converge(client)


async def test_a_client_that_never_returns_is_cut_off(stage: Stage, client: PopulationClient) -> None:
    await stage.declare()
    shut = Gate(client)
    assert (await stage.push(shut, answer_seconds=0.05)).postponed == 1
    assert await stage.waiting() == [("ambiguous", "timeout", 1)]
    await stage.converge(client)


async def test_what_was_refused_waits_for_a_human_who_sends_it_again(stage: Stage, client: PopulationClient) -> None:
    [first, second] = await stage.declare(2)
    somebody_else = item(version=1, stay_id=first, guest=guest(50))
    await client.send([somebody_else])
    assert await stage.push(client) == SyncCounts(confirmed=1, refused=1, requests=1)
    [found] = (await operating.list_refused(await stage.pool(), RefusedQuery(), stage.clock())).refused
    assert (found.stay_id, found.facility, found.code) == (str(first), stage.facility.code, "version_conflict")
    assert (found.refused_at, found.age_seconds, found.settled_at) == (stage.clock(), 0, None)
    after_it = RefusedQuery(after=first)
    assert (await operating.list_refused(await stage.pool(), after_it, stage.clock())).refused == []

    stage.clock.instant += LATER
    assert await stage.push(client) == SyncCounts()
    with pytest.raises(Refused) as nothing_chosen:
        await stage.replay()
    assert [each.code for each in nothing_chosen.value.violations] == ["none_chosen"]
    assert (await stage.replay(code="another_code")).stays == 0
    assert (await stage.replay(stay_ids=[second])).stays == 0
    await stage.simulator.pool.execute("DELETE FROM stays WHERE stay_id = $1", first)
    assert (await stage.replay(code="version_conflict")).stay_ids == [str(first)]
    assert (await stage.law()).queued == 1
    assert (await stage.push(client)).confirmed == 1


async def test_an_owner_hears_once_of_each_version_that_waits_for_a_human(
    stage: Stage, client: PopulationClient
) -> None:
    async def told() -> list[UUID]:
        await events.number_once(await stage.pool(), stage.clock())
        connection = await stage.database.connect("asm_sync")
        rows = await connection.fetch(
            "SELECT stay_id FROM owner_events WHERE kind = 'stay.refused' AND facility_id = $1", stage.facility.id
        )
        return [row["stay_id"] for row in rows]

    [stay_id, _] = await stage.declare(2)
    await client.send([item(version=7, stay_id=stay_id)])
    assert (await stage.push(client)).refused == 1
    assert await told() == [stay_id]
    assert (await stage.replay(stay_ids=[stay_id])).stays == 1
    assert (await stage.push(client)).refused == 1
    assert await told() == [stay_id], "that it was refused again is no news"
    assert await stage.change(stay_id, ActKind.CORRECT, room="404") == 2
    assert (await stage.push(client)).refused == 1
    assert await told() == [stay_id, stay_id], "a new version is another matter"


@dataclass
class Refusing:
    """A service that refuses everything with one code."""

    code: str

    async def send(self, items: Sequence[PopulationItem]) -> BatchAnswer:
        results = {
            one.stay_id: PopulationResult(
                stay_id=one.stay_id,
                version=one.version,
                outcome=Outcome.REFUSED,
                code=self.code,
                verification=Verification.NOT_CHECKED,
            )
            for one in items
        }
        return BatchAnswer(results=results, unanswered=frozenset())

    async def status(self, stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        nothing = {"version": None, "digest": None, "verification": None}
        return {stay_id: PopulationState.model_validate({"stay_id": stay_id} | nothing) for stay_id in stay_ids}


@pytest.mark.parametrize(("code", "heard"), [("person_is_wanted", 0), ("invalid_item", 1)])
async def test_the_owner_hears_of_no_refusal_whose_code_the_contract_does_not_name(
    stage: Stage, code: str, heard: int
) -> None:
    [stay_id] = await stage.declare()
    await (await stage.database.connect()).execute("DELETE FROM owner_events_pending")
    assert (await stage.push(Refusing(code))).refused == 1
    assert await stage.refused() == {stay_id: code}
    connection = await stage.database.connect("asm_sync")
    assert await connection.fetchval("SELECT count(event_id) FROM owner_events_pending") == heard


async def test_what_is_refused_again_after_it_was_settled_alarms_again(stage: Stage, client: PopulationClient) -> None:
    [stay_id] = await stage.declare()
    await client.send([item(version=1, stay_id=stay_id, guest=guest(50))])
    await stage.push(client)
    chosen = Settlement(stay_ids=[stay_id], reason="under_investigation")
    assert (await operating.settle(await stage.pool(), "operator", chosen, stage.clock())).stays == 1
    assert (await stage.law()).refused == 1
    assert (await stage.replay(stay_ids=[stay_id])).stays == 1
    assert (await stage.push(client)).refused == 1
    [found] = (await operating.list_refused(await stage.pool(), RefusedQuery(), stage.clock())).refused
    assert found.settled_at is None


async def test_a_newer_version_there_than_any_here_waits_for_a_human(stage: Stage, client: PopulationClient) -> None:
    [stay_id] = await stage.declare()
    await client.send([item(version=7, stay_id=stay_id)])
    assert (await stage.push(client)).refused == 1
    assert await stage.refused() == {stay_id: "stale"}
    assert (await stage.law()).refused == 1


async def test_an_unclear_stay_of_which_a_newer_version_is_there_waits_for_a_human(
    stage: Stage, client: PopulationClient
) -> None:
    [stay_id] = await stage.declare()
    await stage.simulator.arm("reset")
    await stage.push(client)
    await client.send([item(version=7, stay_id=stay_id)])
    stage.clock.instant += LATER
    await stage.push(client)
    assert await stage.refused() == {stay_id: "stale"}


async def test_the_operator_may_cut_the_waiting_short(stage: Stage, client: PopulationClient) -> None:
    await stage.declare(3)
    await stage.simulator.arm("no_answer")
    await stage.push(client)
    pool, everything = await stage.pool(), Move(facility=stage.facility.code)
    rings: list[None] = []
    for count in (3, 0):
        done = await operating.release(pool, lambda: rings.append(None), "operator", everything, stage.clock())
        assert done.stays == count
    assert rings
    assert await stage.push(client) == SyncCounts(confirmed=3, requests=2)


# -- what cannot be sent -----------------------------------------------------------------------------------------------


async def test_a_stay_that_was_tampered_with_holds_up_no_other(stage: Stage, client: PopulationClient) -> None:
    [first, _] = await stage.declare(2)
    await stage.execute(
        "UPDATE stays SET sealed = set_byte(sealed, 40, 255 - get_byte(sealed, 40)) WHERE id = $1", first
    )
    assert await stage.push(client) == SyncCounts(confirmed=1, refused=1, requests=1)
    assert await stage.refused() == {first: "tampered"}
    await stage.law()


async def test_a_stay_that_the_contract_has_no_form_for_holds_up_no_other(
    stage: Stage, client: PopulationClient, make_facility: FacilityMaker
) -> None:
    elsewhere = await make_facility("HY-KS-0002")
    [odd] = await stage.declare(facility=elsewhere)
    await stage.declare(first=2)
    await stage.execute("UPDATE facilities SET commune = 'Mẫu' WHERE id = $1", elsewhere.id)
    assert await stage.push(client) == SyncCounts(confirmed=1, refused=1, requests=1)
    assert await stage.refused() == {odd: "unsendable"}


async def test_a_stay_whose_month_is_gone_is_set_aside(stage: Stage, client: PopulationClient) -> None:
    [stay_id] = await stage.declare()
    await stage.execute("DELETE FROM stays")
    assert await stage.push(client) == SyncCounts(refused=1)
    assert await stage.refused() == {stay_id: "no_such_stay"}


async def test_without_its_key_a_stay_waits_and_the_key_store_is_read_once(
    stage: Stage, client: PopulationClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("other") / "keys"
    keys = create_store(folder, [epoch_at(stage.clock())], stage.clock()).read()
    reads = 0

    def without_data_keys() -> list[Key]:
        nonlocal reads
        reads += 1
        return [key for key in keys if key.name.purpose is not KeyPurpose.DATA]

    keyless = Keyring(without_data_keys)
    await stage.declare(5)
    reads = 0
    assert await stage.push(client, keyring=keyless) == SyncCounts(postponed=5)
    assert await stage.waiting() == [("no_key", "no_key", 1)] * 5
    assert reads == 1
    await stage.converge(client)


async def test_a_cancelled_stay_is_told_without_its_guest_and_without_opening_it(
    stage: Stage, client: PopulationClient, tmp_path_factory: pytest.TempPathFactory
) -> None:
    [stay_id] = await stage.declare()
    await stage.push(client)
    await stage.change(stay_id, ActKind.CANCEL, reason="entered_by_mistake")
    folder = tmp_path_factory.mktemp("foreign") / "keys"
    create_store(folder, [epoch_at(stage.clock())], stage.clock())
    foreign = Keyring(KeyStore(folder).read)
    assert (await stage.push(client, keyring=foreign)).confirmed == 1
    assert await stage.simulator.admin("GET", f"stays/{stay_id}") == {"version": 2, "status": "cancelled"}


def test_nothing_is_told_that_the_contract_does_not_name(clock: Clock) -> None:
    now = clock().replace(microsecond=0)
    stay_id, who = uuid7(), declaration(3)["guest"]
    row = StayRow(
        stay_id, 1, 4, "declared", "declare", now, now, now, None, None, now, 0, bytes(16), uuid7(), 0, b""
    )  # fmt: skip
    declared = declaration(3, note="a note", source_ref="PMS-1")
    declared["guest"] |= {"phone": "0000000001", "residence": {"kind": 1, "province": "109", "address": "Somewhere"}}
    contents = Contents(declared=declared, salt=bytes(16), source_ref="PMS-1", sender="owner-1")
    carried = store.CarriedStay(row, "HY-KS-0001", "hotel_4_star", "12112")
    assert orjson.loads(canonical(sync.population_item(carried, contents))) == {
        "stay_id": str(stay_id),
        "version": 4,
        "status": "declared",
        "facility": {"code": "HY-KS-0001", "kind": "hotel_4_star", "commune": "12112"},
        "guest": {key: who[key] for key in ("full_name", "birth_date", "gender", "nationality", "document")},
        "arrived_at": now.isoformat().replace("+00:00", "Z"),
        "planned_departure_at": None,
        "departed_at": None,
    }


# -- versions ----------------------------------------------------------------------------------------------------------


async def test_corrections_that_came_meanwhile_are_carried_as_one(stage: Stage, gate: Gate) -> None:
    [stay_id] = await stage.declare()
    for room in ("204", "205", "206"):
        version = await stage.change(stay_id, ActKind.CORRECT, room=room)
    assert (await stage.law()).remains == 3
    assert await stage.push(gate) == SyncCounts(confirmed=1, requests=1)
    assert gate.sent == [[(stay_id, version)]]
    assert (await stage.law()).remains == 0


async def test_a_correction_that_came_while_its_stay_was_in_flight_follows_it(stage: Stage, gate: Gate) -> None:
    [stay_id] = await stage.declare()
    gate.may_leave.clear()
    pushing = asyncio.create_task(stage.push(gate))
    await eventually(lambda: gate.waiting == 1)
    await stage.change(stay_id, ActKind.CORRECT, room="204")
    gate.open()
    assert (await pushing).confirmed == 1
    assert (await stage.law()).queued == 1
    await stage.converge(gate)
    assert await stage.simulator.effects() == [(str(stay_id), 1), (str(stay_id), 2)]


async def test_a_refusal_of_a_version_that_is_replaced_already_concerns_nobody(stage: Stage, gate: Gate) -> None:
    [stay_id] = await stage.declare()
    gate.may_leave.clear()
    pushing = asyncio.create_task(stage.push(gate))
    await eventually(lambda: gate.waiting == 1)
    await stage.change(stay_id, ActKind.CORRECT, room="204")
    await stage.simulator.pool.execute(
        "INSERT INTO stays (stay_id, version, status, facility_code, item, verification)"
        " VALUES ($1, 2, 'declared', $2, '', 'matched')",
        stay_id,
        stage.facility.code,
    )
    gate.open()
    assert await pushing == SyncCounts(overtaken=1, requests=1)
    found = await stage.law()
    assert (found.queued, found.refused, found.remains) == (1, 0, 1)


async def test_a_correction_takes_the_place_of_what_waited(stage: Stage, gate: Gate) -> None:
    [stay_id] = await stage.declare()
    await stage.simulator.arm("no_answer", after_commit=True)
    await stage.push(gate)
    await stage.change(stay_id, ActKind.CORRECT, room="204")
    found = await stage.law()
    assert (found.queued, found.waiting, found.remains) == (1, 0, 0)


async def test_a_departure_says_when(stage: Stage, client: PopulationClient) -> None:
    [stay_id] = await stage.declare()
    await stage.change(stay_id, ActKind.CHECK_OUT, departed_at=stage.clock().isoformat())
    await stage.converge(client)
    held = await stage.simulator.pool.fetchval("SELECT item FROM stays WHERE stay_id = $1", stay_id)
    told = PopulationItem.model_validate_json(held)
    assert (told.status, told.departed_at) == (ItemStatus.DEPARTED, stage.clock().replace(microsecond=0) - LATER)


async def test_a_version_that_commits_while_the_older_one_is_put_off_is_not_lost(
    stage: Stage, client: PopulationClient
) -> None:
    [stay_id] = await stage.declare()
    writer = await stage.database.connect("asm_intake")
    [row] = await stay_store.read_stays(writer, [stage.facility.id], [stay_id])
    transaction = writer.transaction()
    await transaction.start()
    await writer.execute("UPDATE stays SET version = 2 WHERE id = $1", stay_id)
    await stay_store.supersede_work(writer, [(stage.facility.id, stay_id)])
    await stay_store.enqueue(writer, [(stage.facility.id, stay_id, 2, 0)])
    async with nobody_there() as nobody:
        assert (await stage.push(nobody)).postponed == row.version == 1
    await transaction.commit()
    found = await stage.law()
    assert (found.queued, found.waiting, found.remains) == (1, 0, 1)
    connection = await stage.database.connect("asm_sync")
    newest = [Confirmation(stage.facility.id, stay_id, 2, Verification.MATCHED)]
    await store.acknowledge(connection, newest, stage.clock())
    await store.clear_waiting(connection, newest)
    assert await stage.law() == Conservation(1, 1, 0, 0, 0, 0, 0)


# -- several workers ---------------------------------------------------------------------------------------------------


async def test_a_dead_workers_lanes_are_taken_over_and_its_late_failure_is_fenced_off(
    stage: Stage, client: PopulationClient
) -> None:
    await stage.declare(3)
    slow = Gate(client)
    dead, heir = await stage.worker(slow), await stage.worker(client)
    await dead.beat()
    assert len(dead.lanes) == LANES
    late = asyncio.create_task(dead.push())
    await eventually(lambda: slow.waiting == 1)
    await heir.beat()
    assert len(heir.lanes) == 0  # not while the other lives
    await stage.lapse(dead)
    await heir.beat()
    assert len(heir.lanes) == LANES

    await stage.simulator.arm("server_error")
    slow.open()
    assert await late == SyncCounts(overtaken=3, requests=1, failed_requests=1)
    assert (await stage.law()).queued == 3  # and not waiting
    assert (await heir.push()).confirmed == 3


async def test_a_late_acknowledgement_does_no_harm(stage: Stage, client: PopulationClient) -> None:
    [stay_id] = await stage.declare()
    slow = Gate(client)
    slow.may_leave.set()
    dead, heir = await stage.worker(slow), await stage.worker(client)
    await dead.beat()
    late = asyncio.create_task(dead.push())
    await eventually(lambda: slow.answered == 1)  # and the answer is still on its way
    await stage.lapse(dead)
    await heir.beat()
    assert (await heir.push()).confirmed == 1
    await stage.change(stay_id, ActKind.CORRECT, room="204")
    slow.open()
    assert (await late).confirmed == 1
    assert (await stage.law()).queued == 1  # the correction is still to be carried
    assert (await heir.push()).confirmed == 1
    assert await stage.simulator.effects() == [(str(stay_id), 1), (str(stay_id), 2)]


async def test_an_older_version_that_arrives_late_is_stale_and_forgotten(
    stage: Stage, client: PopulationClient
) -> None:
    [stay_id] = await stage.declare()
    slow = Gate(client)
    dead, heir = await stage.worker(slow), await stage.worker(client)
    await dead.beat()
    late = asyncio.create_task(dead.push())
    await eventually(lambda: slow.waiting == 1)
    await stage.change(stay_id, ActKind.CORRECT, room="204")
    await stage.lapse(dead)
    await heir.beat()
    assert (await heir.push()).confirmed == 1
    slow.open()
    assert await late == SyncCounts(overtaken=1, requests=1)
    assert await stage.law() == Conservation(1, 1, 0, 0, 0, 0, 0)


async def test_an_acknowledgement_finds_what_is_being_put_off_at_the_same_moment(stage: Stage) -> None:
    """The former holder of a lane learns that the stay arrived, while the present one puts it off as unclear."""
    [stay_id] = await stage.declare()
    present, former = await stage.worker(Gate(None)), await stage.database.connect("asm_sync")  # type: ignore[arg-type]
    await present.take_free()
    holder = await stage.database.connect("asm_sync")
    [(lane, fence)] = await holder.fetch(
        "SELECT lane, fence FROM sync_queue JOIN leases ON name = 'lane/' || to_char(lane, 'FM000')"
    )
    moved = Postponement(
        stage.facility.id, stay_id, 1, lane, fence, 1, stage.clock(), WaitReason.AMBIGUOUS, "timeout"
    )  # fmt: skip
    arrived = [Confirmation(stage.facility.id, stay_id, 1, Verification.MATCHED)]

    async def acknowledge() -> None:
        async with former.transaction():
            await store.acknowledge(former, arrived, stage.clock())
            await store.clear_waiting(former, arrived)

    async with holder.transaction():
        assert await store.postpone(holder, present.id, [moved], stage.clock()) == 1
        acknowledging = asyncio.create_task(acknowledge())
        observer = await stage.database.connect()
        await eventually(
            lambda: observer.fetchval(
                "SELECT wait_event_type = 'Lock' FROM pg_stat_activity WHERE pid = $1", former.get_server_pid()
            )
        )
    await acknowledging
    assert await stage.law() == Conservation(1, 1, 0, 0, 0, 0, 0)
    assert await store.postpone(holder, present.id, [moved], stage.clock()) == 0  # and it does not come back
    assert await stage.law() == Conservation(1, 1, 0, 0, 0, 0, 0)


async def test_lanes_are_shared_out_as_workers_come_and_go(stage: Stage, client: PopulationClient) -> None:
    workers = [await stage.worker(client) for _ in range(3)]
    for _ in range(2):
        for worker in workers:
            await worker.beat()
    assert sorted(len(worker.lanes) for worker in workers) == [85, 85, 86]
    assert len(frozenset.union(*(worker.lanes for worker in workers))) == LANES
    await workers[0].leave()
    for worker in workers[1:]:
        await worker.beat()
    assert [len(worker.lanes) for worker in workers] == [0, 128, 128]
    await stage.lapse(workers[1])
    await workers[2].beat()
    assert len(workers[2].lanes) == LANES


async def test_a_lane_is_let_go_only_when_nothing_of_it_is_in_flight(
    stage: Stage, client: PopulationClient, make_facility: FacilityMaker
) -> None:
    facilities = [stage.facility, *[await make_facility(f"HY-KS-{number:04}") for number in range(2, 7)]]
    for number, each in enumerate(facilities, 1):
        await stage.declare(first=number, facility=each)
    slow = Gate(client)
    first, second = await stage.worker(slow), await stage.worker(client)
    await first.beat()
    pushing = asyncio.create_task(first.push())
    await eventually(lambda: slow.waiting == 1)
    connection = await stage.database.connect("asm_sync")
    busy = {row["lane"] for row in await connection.fetch("SELECT DISTINCT lane FROM sync_queue")}
    await second.beat()
    await first.beat()
    assert busy <= first.lanes
    slow.open()
    assert (await pushing).confirmed == len(facilities)
    await first.beat()
    await second.beat()
    assert (len(first.lanes), len(second.lanes)) == (128, 128)
    assert not first.lanes & second.lanes


async def test_a_worker_whose_lease_ran_out_unrenewed_reads_nothing(stage: Stage, gate: Gate) -> None:
    await stage.declare()
    worker = await stage.worker(gate, lease_seconds=0.2)
    await worker.beat()
    observer = await stage.database.connect("asm_sync")
    await eventually(lambda: observer.fetchval("SELECT max(expires_at) < clock_timestamp() FROM leases"))
    assert await worker.push() == SyncCounts()
    assert gate.sent == []


# -- running -----------------------------------------------------------------------------------------------------------


async def test_shutting_down_finishes_what_is_in_flight_and_lets_the_lanes_go_last(stage: Stage, gate: Gate) -> None:
    await stage.declare(3)
    gate.may_leave.clear()
    worker = await stage.worker(gate, lease_seconds=1.5)
    observer = await stage.database.connect("asm_sync")
    async with at_work(worker) as stop:
        await eventually(lambda: gate.waiting == 1)
        await stage.declare(first=10)
        stop.set()
        expires_at = await observer.fetchval("SELECT max(expires_at) FROM leases")
        await eventually(
            lambda: observer.fetchval("SELECT max(expires_at) > $1 FROM leases", expires_at)
        )  # it beats on
        assert len(worker.lanes) == LANES
        gate.open()
    assert worker.counts.confirmed >= 3
    assert await observer.fetchval("SELECT count(*) FROM leases WHERE owner IS NOT NULL") == 0
    assert await observer.fetchval("SELECT count(*) FROM sync_workers") == 0
    await stage.law()


async def test_shutting_down_does_not_wait_for_ever_and_nothing_is_lost(stage: Stage, client: PopulationClient) -> None:
    await stage.declare(3)
    shut = Gate(client)
    worker = await stage.worker(shut, shutdown_seconds=2.05)  # 2 s of it are for letting the lanes go
    async with at_work(worker) as stop:
        await eventually(lambda: shut.waiting == 1)
        stop.set()
    assert (await stage.law()).queued == 3
    assert (await stage.push(client)).confirmed == 3


async def test_shutting_down_keeps_its_time_also_while_our_own_database_is_silent(
    stage: Stage, gate: Gate, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "RELEASE_SECONDS", 0.1)
    worker = await stage.worker(gate, shutdown_seconds=2.05, poll_seconds=0.01)
    bell = asyncio.create_task(worker._doorbell.run(await stage.pool()))
    stop = asyncio.Event()
    running = asyncio.create_task(worker.run(stop))
    try:
        await eventually(lambda: len(worker.lanes) == LANES)
        with silent(server):
            await asyncio.sleep(0.05)  # so that it reads, or beats, and gets no answer
            stop.set()
            bell.cancel()
            done, _ = await asyncio.wait({running, bell}, timeout=10)  # a statement alone would last 20 s
            assert done == {running, bell}
    finally:
        running.cancel()
        await asyncio.gather(running, bell, return_exceptions=True)


async def test_intake_takes_in_while_nothing_can_be_carried(stage: Stage, gate: Gate) -> None:
    gate.may_leave.clear()
    await stage.declare(20)
    worker = await stage.worker(gate, batch_rows=3, requests=2)
    pool = await stage.pool()
    async with at_work(worker):
        await eventually(lambda: gate.waiting == 2)
        taken = [await pool.acquire() for _ in range(pool.get_max_size())]
        declared = await stage.declare(50, first=100)
        await stage.change(declared[0], ActKind.CORRECT, room="305")
        assert len(worker._in_flight) == 6  # however long the queue is
        for connection in taken:
            await pool.release(connection)
        gate.open()
        await eventually(lambda: worker.counts.confirmed >= 70)
    await stage.converge(gate)


async def test_what_fails_again_and_again_does_not_hold_up_what_is_new(stage: Stage, client: PopulationClient) -> None:
    await stage.declare(10)
    async with nobody_there() as dead:
        await stage.push(dead)
    stage.clock.instant += LATER
    await stage.execute("UPDATE sync_wait SET reason = 'unreachable', due_at = '-infinity'")
    await stage.declare(10, first=20)
    assert (await stage.push(client, batch_rows=4, requests=1)).confirmed == 4
    assert (await stage.law()).queued == 8


async def test_a_ring_from_another_process_wakes_a_worker(stage: Stage, gate: Gate) -> None:
    here, there = Doorbell(), Doorbell()
    worker = Worker(
        await stage.pool(),
        stage.keyring,
        gate,
        now=stage.clock,
        limits=SyncLimits(poll_seconds=3600, sweep_seconds=0),
        doorbell=here,
    )
    other_pool = await stage.pools.get("asm_intake")
    observer = await stage.database.connect()
    listening = "SELECT count(*) = 1 FROM pg_stat_activity WHERE query ILIKE 'LISTEN%' AND usename = 'asm_sync'"
    bells = [asyncio.create_task(here.run(await stage.pool())), asyncio.create_task(there.run(other_pool))]
    try:
        async with at_work(worker):
            await eventually(lambda: len(worker.lanes) == LANES)
            await eventually(lambda: observer.fetchval(listening))
            await stage.declare()
            there.ring()
            await eventually(lambda: worker.counts.confirmed == 1)
    finally:
        for bell in bells:
            bell.cancel()
        await asyncio.gather(*bells, return_exceptions=True)


async def test_a_lost_connection_to_our_own_database_costs_time_only(stage: Stage, gate: Gate) -> None:
    worker = await stage.worker(gate)
    async with at_work(worker):
        await stage.declare(5)
        gate.may_return.clear()
        await eventually(lambda: gate.answered >= 1)
        await stage.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'asm_sync'")
        gate.open()
        await eventually(lambda: worker.counts.confirmed >= 5)
    found = await stage.law()
    assert (found.stays, found.confirmed) == (5, 5)
    assert len(await stage.simulator.effects()) == 5


async def test_a_running_worker_outlives_an_outage(stage: Stage, gate: Gate) -> None:
    worker = await stage.worker(gate, breaker_failures=2, breaker_seconds=0.01)
    await stage.simulator.arm("server_error", count=6)

    def confirmed_after_another_hour() -> bool:
        stage.clock.instant += LATER
        return worker.counts.confirmed == 19

    async with at_work(worker):
        await stage.declare(19)
        await eventually(confirmed_after_another_hour)
    assert (worker.counts.failed_requests, worker.breaker.opened) == (6, 1)
    assert await stage.law() == Conservation(19, 19, 0, 0, 0, 0, 0)
    assert len(await stage.simulator.effects()) == 19


async def test_a_backlog_goes_in_bounded_batches_several_at_once(stage: Stage, gate: Gate) -> None:
    await stage.declare(10)
    gate.may_leave.clear()
    worker = await stage.worker(gate, batch_rows=3, requests=2)
    async with at_work(worker):
        await eventually(lambda: gate.waiting == 2)
        gate.may_leave.set()
        await eventually(lambda: worker.counts.confirmed == 10)
    assert max(len(sent) for sent in gate.sent) == 3
    assert gate.most_at_once == 2
    sent_stays = [stay_id for sent in gate.sent for stay_id, _ in sent]
    assert len(sent_stays) == len(set(sent_stays)) == 10


async def test_one_activation_is_bounded_and_disturbs_no_running_worker(stage: Stage, gate: Gate) -> None:
    await stage.declare(10)
    assert (await stage.push(gate, batch_rows=2, requests=2)).confirmed == 4
    worker = await stage.worker(gate)
    await worker.beat()
    assert await stage.push(gate) == SyncCounts()
    await worker.beat()
    assert len(worker.lanes) == LANES
    assert (await worker.push()).confirmed == 6


async def test_a_stay_that_commits_late_under_an_old_id_is_found_by_the_sweep(stage: Stage, gate: Gate) -> None:
    worker = await stage.worker(gate, sweep_seconds=3600)
    await worker.beat()
    [early] = await stage.declare()
    connection = await stage.database.connect("asm_sync")
    [kept] = await connection.fetch("DELETE FROM sync_queue RETURNING facility_id, stay_id, version, lane")
    stage.clock.instant += timedelta(seconds=10)
    await stage.declare(first=2)
    assert (await worker.push()).confirmed == 1
    await stay_store.enqueue(await stage.database.connect("asm_intake"), [tuple(kept)])
    assert (await worker.push()).confirmed == 0  # its place in the queue is behind the reader
    swept = await stage.worker(gate, sweep_seconds=0)
    await worker.leave()
    await swept.beat()
    assert (await swept.push()).confirmed == 1
    assert gate.sent[-1] == [(early, 1)]


# -- what the other side is spared -------------------------------------------------------------------------------------


async def test_a_side_that_does_not_answer_is_left_alone_and_then_probed_with_one_stay(stage: Stage) -> None:
    await stage.declare(20)
    async with nobody_there() as nobody:
        gate = Gate(nobody)
        gate.open()
        worker = await stage.worker(gate, batch_rows=2, requests=1, breaker_failures=3, breaker_seconds=3600)
        await worker.beat()
        for _ in range(5):
            await worker.push()
        assert [len(sent) for sent in gate.sent] == [2, 2, 2]
        assert worker.counts == SyncCounts(postponed=6, requests=3, failed_requests=3)
        worker.breaker.failed(asyncio.get_running_loop().time() - 7200)  # as if it had opened long ago
        await worker.push()
        assert len(gate.sent[-1]) == 1
    assert (await stage.law()).queued == 13


async def test_the_pause_that_the_other_side_asks_for_is_kept(stage: Stage, client: PopulationClient) -> None:
    await stage.declare(2)
    await stage.simulator.arm("server_error", status=503, retry_after_seconds=120)
    worker = await stage.worker(client)
    await worker.beat()
    await worker.push()
    clock = asyncio.get_running_loop().time()
    assert (worker.breaker.state(clock), worker.breaker.state(clock + 121)) == ("open", "half_open")
    connection = await stage.database.connect("asm_sync")
    assert await connection.fetchval("SELECT min(due_at) FROM sync_wait") >= stage.clock() + timedelta(seconds=120)
    assert {reason for reason, *_ in await stage.waiting()} == {"unreachable"}


async def test_an_older_request_that_ends_makes_no_room_for_a_second_probe(stage: Stage) -> None:
    class Held:
        """A population database whose every answer the test gives."""

        def __init__(self) -> None:
            self.answers: list[asyncio.Future[BatchAnswer]] = []

        async def send(self, items: Sequence[PopulationItem]) -> BatchAnswer:
            assert len(items) == 1
            self.answers.append(asyncio.get_running_loop().create_future())
            return await self.answers[-1]

        async def status(self, stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
            raise AssertionError(stay_ids)

    held = Held()
    await stage.declare(4)
    worker = await stage.worker(held, batch_rows=1, requests=2, breaker_failures=1, breaker_seconds=0.0)
    await worker.take_free()
    failing, straggler = [asyncio.create_task(worker._carry(batch)) for batch in await worker._read()]
    await eventually(lambda: len(held.answers) == 2)
    held.answers[0].set_exception(Unreachable("no_connection"))
    await failing
    [probe] = [asyncio.create_task(worker._carry(batch)) for batch in await worker._read()]
    await eventually(lambda: len(held.answers) == 3)
    held.answers[1].set_exception(Unreachable("no_connection"))
    await straggler
    assert await worker._read() == []
    held.answers[2].set_exception(Unreachable("no_connection"))
    await probe
    assert len(await worker._read()) == 1


def test_a_breaker_opens_probes_one_at_a_time_and_closes() -> None:
    breaker = Breaker(limit=2, open_seconds=10)
    breaker.failed(0)
    breaker.succeeded()
    breaker.failed(1)
    assert breaker.room(100, 1) == 100
    breaker.failed(2)
    assert (breaker.room(100, 3), breaker.state(3), breaker.opened) == (0, "open", 1)
    assert (breaker.room(100, 12), breaker.state(12)) == (1, "half_open")
    assert breaker.started()
    assert breaker.room(100, 12) == 0
    breaker.probe_ended()
    breaker.failed(13)
    assert (breaker.room(100, 22), breaker.opened) == (0, 1)
    assert breaker.room(100, 23) == 1
    breaker.succeeded()
    assert (breaker.room(100, 23), breaker.state(23)) == (100, "closed")
    assert not breaker.started()


def test_a_cursor_reads_back_a_little_and_starts_again_every_so_often() -> None:
    first = UUID(int=0)
    newest = uuid7()
    cursor = Cursor()
    assert cursor.start(0.0, 1.0) == first
    cursor.passed(newest)
    assert cursor.start(0.5, 1.0) == newest
    cursor.caught_up(2.0)
    assert newest.int - cursor.start(0.6, 1.0).int >> 80 == 2000
    assert cursor.start(1.1, 1.0) == first
    assert Cursor().after == first


# -- the law -----------------------------------------------------------------------------------------------------------


async def test_the_law_finds_work_that_was_lost_or_doubled(stage: Stage, client: PopulationClient) -> None:
    await stage.declare(2)
    await stage.execute("DELETE FROM sync_queue WHERE ctid = (SELECT min(ctid) FROM sync_queue)")
    assert (await sync.conservation(await stage.pool())).misplaced == 1
    await stage.push(client)
    await stage.execute("INSERT INTO sync_queue SELECT facility_id, stay_id, version, 0 FROM sync_log")
    assert (await sync.conservation(await stage.pool())).misplaced == 2


async def test_the_sandbox_never_reaches_the_queue_and_is_not_counted(
    stage: Stage, gate: Gate, make_facility: FacilityMaker
) -> None:
    await stage.declare(facility=await make_facility("SANDBOX-1", sandbox=True))
    assert await stage.push(gate) == SyncCounts()
    assert await stage.law() == Conservation(0, 0, 0, 0, 0, 0, 0)
