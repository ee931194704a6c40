"""A few seeds of the fault suite, every plan that found a bug, and proof that the suite sees what it is to see."""

from __future__ import annotations

import asyncio
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest

from tests.faults.__main__ import totals
from tests.faults.environment import Lane, Site
from tests.faults.faults import DATABASE_SILENCE, DISK_FULL, KINDS, Fault, Kind, Plan, make_plan
from tests.faults.proxy import Proxy, Trouble, TroubleKind
from tests.faults.run import Result, run_seed

SHORT = (5, 10, 13)
"""Together: daemons paused and restarted, PostgreSQL stopped and paused, a full disk, a wrong clock, bad links."""
A_CLOCK_THAT_JUMPED = Plan(
    seed=1058,
    acts=120,
    daemons=2,
    faults=(
        Fault(Kind("simulator", "kill"), place=0, at_seconds=0.4, seconds=1.5, measure=0.5, seed=1),
        Fault(Kind("clock", "hours_ahead"), place=0, at_seconds=0.5, seconds=1.0, measure=0.3, seed=2),
    ),
)
"""What seeds of an earlier drawing found, at its plainest: a stay that failed in that moment waited for hours."""
A_BACKUP_RESTORED = Plan(
    seed=3,
    acts=120,
    daemons=2,
    faults=(
        Fault(Kind("population", "restored_from_backup"), place=0, at_seconds=0.6, seconds=1.0, measure=0.5, seed=1),
        Fault(Kind("daemon", "kill"), place=0, at_seconds=1.2, seconds=0.5, measure=0.3, seed=2),
    ),
)
HARMLESS = "link_http_latency"


# -- the proxy ---------------------------------------------------------------------------------------------------------


@dataclass
class Echo:
    """A server that answers each line with `did LINE`, and remembers what it did."""

    port: int = 0
    did: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)


@asynccontextmanager
async def _echo() -> AsyncIterator[Echo]:
    echo = Echo()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            pending = b""
            while piece := await reader.read(1000):
                echo.sizes.append(len(piece))
                pending += piece
                while b"\n" in pending:
                    line, _, pending = pending.partition(b"\n")
                    echo.did.append(line)
                    writer.write(b"did " + line + b"\n")
                    await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    echo.port = server.sockets[0].getsockname()[1]
    yield echo
    server.close()
    await server.wait_closed()


@pytest.fixture
async def echo() -> AsyncIterator[Echo]:
    async with _echo() as made:
        yield made


@pytest.fixture
async def link(echo: Echo) -> AsyncIterator[Proxy]:
    """A proxy before the echo."""
    proxy = Proxy("test", ("127.0.0.1", echo.port))
    await proxy.open()
    yield proxy
    await proxy.close()


class Client:
    """A connection through the proxy."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, line: bytes) -> None:
        self.writer.write(line + b"\n")

    async def answer(self, seconds: float = 5.0) -> bytes:
        """The next line, or what there is of it when the connection ends."""
        async with asyncio.timeout(seconds):
            return await self.reader.readline()


@asynccontextmanager
async def _client(link: Proxy) -> AsyncIterator[Client]:
    reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
    try:
        yield Client(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


async def test_without_an_upstream_a_connection_is_reset(link: Proxy) -> None:
    link.upstream = None
    async with _client(link) as client:
        client.send(b"one")
        with pytest.raises(ConnectionError):
            await client.answer()


async def test_a_reset_strikes_connections_that_are_there_and_new_ones(link: Proxy, echo: Echo) -> None:
    async with _client(link) as old:
        old.send(b"one")
        assert await old.answer() == b"did one\n"
        with link.spoiled(Trouble(TroubleKind.RESET)):
            with pytest.raises(ConnectionError):
                await old.answer()
            async with _client(link) as new:
                with pytest.raises(ConnectionError):
                    await new.answer()
    assert link.struck[TroubleKind.RESET] == 2
    assert echo.did == [b"one"]


async def test_half_open_accepts_and_carries_nothing_until_it_is_healed_by_a_reset(link: Proxy, echo: Echo) -> None:
    link.spoil(Trouble(TroubleKind.HALF_OPEN))
    async with _client(link) as client:
        client.send(b"one")
        with pytest.raises(TimeoutError):
            await client.answer(0.1)
        link.heal()
        with pytest.raises(ConnectionError):
            await client.answer()
    assert echo.did == []


async def test_half_open_strikes_a_connection_that_worked(link: Proxy, echo: Echo) -> None:
    async with _client(link) as client:
        client.send(b"one")
        assert await client.answer() == b"did one\n"
        link.spoil(Trouble(TroubleKind.HALF_OPEN))
        client.send(b"two")
        with pytest.raises(TimeoutError):
            await client.answer(0.1)
        link.heal()
    assert echo.did == [b"one"]


async def test_silence_stays_when_all_else_is_healed(link: Proxy, echo: Echo) -> None:
    link.spoil(Trouble(TroubleKind.SILENCE, strikes=1))
    async with _client(link) as client, _client(link) as spared:
        client.send(b"one")
        with pytest.raises(TimeoutError):
            await client.answer(0.1)
        link.heal()
        spared.send(b"two")
        assert await spared.answer() == b"did two\n"
        with pytest.raises(TimeoutError):
            await client.answer(0.1)
    assert echo.did == [b"two"]


async def test_a_dropped_answer_is_of_a_request_that_took_effect(link: Proxy, echo: Echo) -> None:
    with link.spoiled(Trouble(TroubleKind.DROP_ANSWER, strikes=1)):
        async with _client(link) as client:
            client.send(b"one")
            with pytest.raises(ConnectionError):
                await client.answer()
        async with _client(link) as spared:
            spared.send(b"two")
            assert await spared.answer() == b"did two\n"
    assert echo.did == [b"one", b"two"]
    assert link.struck[TroubleKind.DROP_ANSWER] == 1


async def test_a_truncated_answer_ends_after_so_many_bytes(link: Proxy, echo: Echo) -> None:
    link.spoil(Trouble(TroubleKind.TRUNCATE, after_bytes=5))
    async with _client(link) as client:
        client.send(b"one")
        assert await client.answer() == b"did o"
        assert await client.answer() == b""
    assert echo.did == [b"one"]


async def test_one_byte_at_a_time_arrives_whole_and_in_order(link: Proxy, echo: Echo) -> None:
    link.spoil(Trouble(TroubleKind.ONE_BYTE))
    async with _client(link) as client:
        client.send(b"0123456789" * 10)
        assert await client.answer() == b"did " + b"0123456789" * 10 + b"\n"
    assert len(echo.sizes) > 20


async def test_latency_delays_both_ways_and_keeps_the_order(link: Proxy, echo: Echo) -> None:
    link.spoil(Trouble(TroubleKind.LATENCY, milliseconds=50))
    async with _client(link) as client:
        started = time.monotonic()
        client.send(b"one")
        client.send(b"two")
        assert [await client.answer(), await client.answer()] == [b"did one\n", b"did two\n"]
    assert time.monotonic() - started >= 0.1


# -- plans -------------------------------------------------------------------------------------------------------------


def test_a_seed_is_one_plan() -> None:
    assert make_plan(5, may_fill_disk=True) == make_plan(5, may_fill_disk=True)
    assert make_plan(5, may_fill_disk=True) != make_plan(6, may_fill_disk=True)


def test_every_kind_of_fault_has_its_turn() -> None:
    plans = [make_plan(seed, may_fill_disk=True) for seed in range(1000)]
    assert {fault.kind for plan in plans for fault in plan.faults} == set(KINDS) - {DATABASE_SILENCE}


def test_a_silent_database_connection_is_drawn_when_it_alone_is_asked_for() -> None:
    plan = make_plan(1, may_fill_disk=True, only="link_database_silence")
    assert {fault.kind for fault in plan.faults} == {DATABASE_SILENCE}
    assert plan.bound_seconds > make_plan(1, may_fill_disk=True).bound_seconds


def test_without_the_right_to_mount_only_the_full_disk_is_left_out() -> None:
    for seed in range(50):
        whole, allowed = (make_plan(seed, may_fill_disk=may).faults for may in (True, False))
        assert allowed == [fault for fault in whole if fault.kind != DISK_FULL]


def test_the_totals_name_what_was_left_out_and_what_never_struck() -> None:
    result = Result(7, ["accepted_acts_exist: act 1"])
    result.injected["daemon_kill"] = 2
    shown = totals([result, Result(8)], [str(DISK_FULL)], 12.34)
    assert (shown["seeds"], shown["failed"], shown["lost"], shown["faults_by_kind"]) == (2, [7], 1, {"daemon_kill": 2})
    assert shown["left_out"] == ["database_disk_full"]
    assert "daemon_pause" in shown["never_struck"]
    assert not {"daemon_kill", "database_disk_full"} & set(shown["never_struck"])


# -- runs --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
async def lane() -> AsyncIterator[Lane]:
    """What the runs of this file share; not below pytest's folder, which is closed to PostgreSQL's account."""
    with tempfile.TemporaryDirectory(prefix="asm-faults-", ignore_cleanup_errors=True) as folder:
        made = Lane(Path(folder))
        await made.start()
        yield made
        await made.stop()


@pytest.mark.parametrize("seed", SHORT)
async def test_nothing_is_lost_whatever_breaks(lane: Lane, tmp_path: Path, seed: int) -> None:
    result = await run_seed(lane, seed, tmp_path / "run")
    assert not result.faults, "\n".join([*result.faults, f"python -m tests.faults --first-seed {seed} --seeds 1"])
    assert result.counts["accepted"] > 0
    assert result.injected


async def test_a_clock_that_jumped_for_a_moment_makes_nothing_wait(lane: Lane, tmp_path: Path) -> None:
    result = await run_seed(lane, A_CLOCK_THAT_JUMPED.seed, tmp_path / "run", plan=A_CLOCK_THAT_JUMPED)
    assert not result.faults, result.faults


async def test_what_the_population_database_loses_is_found_by_comparing_and_carried_again(
    lane: Lane, tmp_path: Path
) -> None:
    result = await run_seed(lane, A_BACKUP_RESTORED.seed, tmp_path / "run", plan=A_BACKUP_RESTORED)
    assert not result.faults, result.faults
    assert result.injected["population_restored_from_backup"] == 1
    assert result.repaired > 0


async def test_a_stay_that_vanishes_is_found(lane: Lane, tmp_path: Path) -> None:
    async def spoil(site: Site) -> None:
        async with site.lane.superuser(site.lane.database) as connection:
            await connection.execute("DELETE FROM stays WHERE id = (SELECT id FROM stays LIMIT 1)")

    result = await run_seed(lane, 2, tmp_path / "run", only=HARMLESS, spoil=spoil)
    assert any(fault.startswith("accepted_acts_exist") for fault in result.faults), result.faults


async def test_work_that_vanishes_from_the_queue_is_found(lane: Lane, tmp_path: Path) -> None:
    async def meddle(site: Site) -> None:
        async with site.lane.superuser(site.lane.database) as connection:
            while True:  # one row might be of a version that is on its way already
                await connection.execute("DELETE FROM sync_queue")

    result = await run_seed(lane, 4, tmp_path / "run", only=HARMLESS, meddle=meddle, bound_seconds=4)
    assert any(fault.startswith("stuck") for fault in result.faults), result.faults
    assert any(fault.startswith("conservation_holds") for fault in result.faults), result.faults


async def test_an_effect_that_came_twice_is_found(lane: Lane, tmp_path: Path) -> None:
    async def spoil(site: Site) -> None:
        connection = await asyncpg.connect(site.lane.population_url)
        await connection.execute(
            "INSERT INTO effects (stay_id, version, status, digest) SELECT stay_id, version, status, digest "
            "FROM effects LIMIT 1"
        )
        await connection.close()

    result = await run_seed(lane, 5, tmp_path / "run", only=HARMLESS, spoil=spoil)
    assert any(fault.startswith("effects_happen_once") for fault in result.faults), result.faults
