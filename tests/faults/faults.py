"""What is done to a running system: a plan drawn from one seed, and the hands that carry it out.

Each kind is counted only when it really struck: a proxy's trouble when it met a connection, the simulator's when it
changed an answer, a signal when its process was there.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import aiohttp
import asyncpg

from connectors.population.simulator_faults import Fault as Armed
from connectors.population.simulator_faults import FaultKind, Operation
from tests.faults.environment import LINKS, Place, Site
from tests.faults.proxy import Trouble, TroubleKind

SPAN_SECONDS = 1.6
"""Faults begin within this time from the start of the load."""
LONGEST_SECONDS = 1.2
FAULTS = (2, 6)
"""How many faults a run has, at least and at most."""
ACTS = (50, 150)
"""How many acts are sent, at least and at most."""


class Kind(NamedTuple):
    """A kind of fault: which part of the system it is done to, and its name within that."""

    part: str
    name: str

    def __str__(self) -> str:
        return f"{self.part}_{self.name}"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of a plan. What `measure` means depends on the kind."""

    kind: Kind
    place: int
    at_seconds: float
    seconds: float
    measure: float
    seed: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that a seed says about a run but what is sent."""

    seed: int
    acts: int
    daemons: int
    faults: Sequence[Fault]

    @property
    def small(self) -> bool:
        """Whether the database has to lie on the small file system."""
        return any(fault.kind == DISK_FULL for fault in self.faults)

    @property
    def bound_seconds(self) -> float:
        """After the last fault, everything sent is answered and carried within this time, or the run fails as stuck.

        Only timeouts end what waits for a connection to the database that fell silent, and so long its locks stay: 20 s
        for a statement, 20 s for its cancelling, 5 s to give the connection back, and then the next one in the queue.
        """
        return 120.0 if any(fault.kind == DATABASE_SILENCE for fault in self.faults) else 30.0


DISK_FULL = Kind("database", "disk_full")
DATABASE_SILENCE = Kind("link_database", "silence")
"""Takes a minute to come to rest, so it is only drawn when it alone is asked for."""

_DAEMON = ("kill", "restart", "pause")
_POSTGRES = ("immediate_stop", "kill", "pause")
_DATABASE = ("sessions_ended", "read_only", "read_only_new_sessions")
_SIMULATOR = ("pause", "kill")
_STAY_COLUMNS = "stay_id, version, status, facility_code, item, verification"  # the digest is made of the item
_CLOCK = ("seconds_ahead", "hours_ahead", "seconds_behind")


def _answer_kinds() -> list[Kind]:
    """Every failure of the simulator that its own model allows: kind, operation, before or after the effect."""
    found = []
    for kind in FaultKind:
        for operation in Operation:
            for after_commit in (False, True):
                with suppress(ValueError):
                    Armed(kind=kind, on=operation, count=1, after_commit=after_commit)
                    late = "_after_commit" if after_commit else ""
                    found.append(Kind("answer", f"{kind}_{operation}{late}"))
    return found


PARTS: Mapping[str, Sequence[Kind]] = {
    "daemon": [Kind("daemon", name) for name in _DAEMON],
    "postgres": [Kind("postgres", name) for name in _POSTGRES],
    "database": [*(Kind("database", name) for name in _DATABASE), DISK_FULL],
    "simulator": [Kind("simulator", name) for name in _SIMULATOR],
    "population": [Kind("population", "restored_from_backup")],
    "clock": [Kind("clock", name) for name in _CLOCK],
    **{f"link_{link}": [Kind(f"link_{link}", trouble.value) for trouble in TroubleKind] for link in LINKS},
    "answer": _answer_kinds(),
}
"""Every kind of fault there is, by the part that suffers it. A plan draws the part first, then the kind."""
_STRIKES_FEW = {TroubleKind.TRUNCATE, TroubleKind.DROP_ANSWER, TroubleKind.SILENCE}
"""Troubles that would let nobody in while they last: they strike a few connections."""
_WEIGHTS = {"daemon": 3, "postgres": 2, "database": 3, "simulator": 1, "population": 2, "clock": 2, "answer": 5}
KINDS = tuple(kind for kinds in PARTS.values() for kind in kinds)


def make_plan(seed: int, *, may_fill_disk: bool, only: str | None = None) -> Plan:
    """The plan of a seed. `only` keeps it to kinds whose name begins so.

    A kind that is added to the catalogue takes the turns that it wins and changes no other: what a seed found, it finds
    again. So does a machine on which one kind is impossible.
    """
    dice = random.Random(f"{seed} plan")  # noqa: S311 - repeatable
    faults = [_draw(seed, number, only) for number in range(dice.randint(*FAULTS))]
    possible = [fault for fault in faults if may_fill_disk or fault.kind != DISK_FULL]
    possible.sort(key=lambda fault: fault.at_seconds)
    return Plan(seed, dice.randint(*ACTS), dice.choice((1, 2, 2)), possible)


def _draw(seed: int, number: int, only: str | None) -> Fault:
    dice = random.Random(f"{seed} fault {number}")  # noqa: S311 - repeatable

    def luck(name: str) -> float:
        return random.Random(f"{seed} fault {number} {name}").random()  # noqa: S311 - repeatable

    wanted: dict[str, list[Kind]] = {}
    for kind in KINDS:
        if str(kind).startswith(only or "") and (kind != DATABASE_SILENCE or only == str(kind)):
            wanted.setdefault(kind.part, []).append(kind)
    part = max(wanted, key=lambda part: luck(part) ** (1 / _WEIGHTS.get(part, 1)))
    return Fault(
        kind=max(wanted[part], key=lambda kind: luck(str(kind))),
        place=dice.randrange(2),
        at_seconds=dice.uniform(0.05, SPAN_SECONDS),
        seconds=dice.uniform(0.05, LONGEST_SECONDS),
        measure=dice.random(),
        seed=dice.getrandbits(32),
    )


async def carry_out(plan: Plan, site: Site) -> None:
    """Do everything that is planned, each at its time, and undo it; return when all is whole again."""
    async with asyncio.TaskGroup() as tasks:
        for fault in plan.faults:
            tasks.create_task(_do(fault, site))
    if site.lane.simulator is None or not site.lane.simulator.alive:
        await site.lane.start_simulator()
    await site.lane.admin("DELETE", "faults")
    site.healed_at = asyncio.get_running_loop().time()


async def _do(fault: Fault, site: Site) -> None:
    await asyncio.sleep(fault.at_seconds)
    place = site.places[fault.place % len(site.places)]
    struck = await _HANDS[fault.kind.part](fault, site, place)
    if struck:
        site.injected[str(fault.kind)] += 1


# -- the hands: each returns whether the fault struck ------------------------------------------------------------------


async def _daemon(fault: Fault, site: Site, place: Place) -> bool:
    process = place.process
    if process is None or not process.alive:
        return False
    match fault.kind.name:
        case "kill":
            place.asked_to_end = True
            process.signal(signal.SIGKILL)
        case "restart":
            place.asked_to_end = True
            process.signal(signal.SIGTERM)
        case "pause":  # beyond its lease in most cases: its lanes are taken over, and it comes back with late news
            process.signal(signal.SIGSTOP)
            await asyncio.sleep(fault.seconds + fault.measure)
            process.signal(signal.SIGCONT)
    return True


async def _postgres(fault: Fault, site: Site, _place: Place) -> bool:
    async with site.postgres_lock:
        if fault.kind.name != "pause":
            await site.lane.restart_postgres(fault.seconds / 2, kill=fault.kind.name == "kill")
            return True
        paused = site.lane.postgres_processes()
        for pid in paused:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        for pid in paused:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
        return True


async def _database(fault: Fault, site: Site, _place: Place) -> bool:
    async with site.postgres_lock:
        name = site.lane.database
        match fault.kind.name:
            case "sessions_ended":
                async with site.lane.superuser() as connection:
                    return bool(await _end_sessions(connection, name))
            case "read_only":  # for the sessions there are as well
                async with site.lane.superuser() as connection:
                    await connection.execute("ALTER SYSTEM SET default_transaction_read_only = on")
                    await connection.execute("SELECT pg_reload_conf()")
                    await asyncio.sleep(fault.seconds)
                    await connection.execute("ALTER SYSTEM RESET default_transaction_read_only")
                    await connection.execute("SELECT pg_reload_conf()")
            case "read_only_new_sessions":  # as after a fail-over to a stand-by behind the same address
                async with site.lane.superuser() as connection:
                    await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
                    await _end_sessions(connection, name)
                    await asyncio.sleep(fault.seconds)
                    await connection.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
            case "disk_full":
                return await _fill_disk(site, fault.seconds)
    return True


async def _end_sessions(connection: asyncpg.Connection, database: str) -> int:
    ended: int = await connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = $1", database
    )
    return ended


async def _fill_disk(site: Site, seconds: float) -> bool:
    """Fill it, and see for ourselves that the database notices."""
    full = False
    async with site.lane.superuser(site.lane.database) as connection:
        with site.lane.filled():
            try:
                await connection.execute("CREATE TABLE probe AS SELECT repeat('x', 700) FROM generate_series(1, 1000)")
            except asyncpg.DiskFullError:
                full = True
            await asyncio.sleep(seconds)
        await connection.execute("DROP TABLE IF EXISTS probe")
    return full


async def _simulator(fault: Fault, site: Site, _place: Place) -> bool:
    process = site.lane.simulator
    if process is None or not process.alive:
        return False
    if fault.kind.name == "pause":
        process.signal(signal.SIGSTOP)
        await asyncio.sleep(fault.seconds)
        process.signal(signal.SIGCONT)
        return True
    process.signal(signal.SIGKILL)
    await process.wait()
    await asyncio.sleep(fault.seconds)
    await site.lane.start_simulator()
    return True


async def _population(fault: Fault, site: Site, _place: Place) -> bool:
    """Set the population database back to what it held a moment ago: what it confirmed since is lost, or stale."""
    connection = await asyncpg.connect(
        site.lane.population_url, timeout=5, command_timeout=5, server_settings={"lock_timeout": "3s"}
    )
    try:
        async with connection.transaction():
            await connection.execute("LOCK stays, effects IN SHARE MODE")
            await connection.execute(
                f"CREATE TEMP TABLE old_stays AS SELECT {_STAY_COLUMNS} FROM stays;"
                "CREATE TEMP TABLE old_effects AS SELECT * FROM effects"
            )
        await asyncio.sleep(fault.seconds)
        async with connection.transaction():
            await connection.execute("LOCK stays, effects IN ACCESS EXCLUSIVE MODE")
            lost: int = await connection.fetchval(
                "SELECT count(*) FROM stays LEFT JOIN old_stays USING (stay_id, version) WHERE old_stays IS NULL"
            )
            await connection.execute(
                "TRUNCATE stays, effects;"
                f"INSERT INTO stays ({_STAY_COLUMNS}) SELECT * FROM old_stays;"
                "INSERT INTO effects OVERRIDING SYSTEM VALUE SELECT * FROM old_effects"
            )
    except (asyncpg.PostgresError, TimeoutError):  # the simulator was stopped in the middle of something
        return False
    finally:
        connection.terminate()
    return lost > 0


async def _clock(fault: Fault, site: Site, _place: Place) -> bool:
    offset = {
        "seconds_ahead": 1 + 29 * fault.measure,
        "hours_ahead": 3600 * (1 + 11 * fault.measure),
        "seconds_behind": -(1 + 29 * fault.measure),
    }[fault.kind.name]
    site.lane.clock.set(offset)
    await asyncio.sleep(fault.seconds)
    site.lane.clock.set(0.0)
    return True


async def _link(fault: Fault, _site: Site, place: Place) -> bool:
    link = place.links[fault.kind.part.removeprefix("link_")]
    kind = TroubleKind(fault.kind.name)
    dice = random.Random(fault.seed)  # noqa: S311 - repeatable
    few = dice.randint(1, 4)
    trouble = Trouble(
        kind,
        milliseconds=dice.randint(5, 60),
        after_bytes=dice.randint(0, 200),
        strikes=few if kind in _STRIKES_FEW else None,
    )
    before = link.struck[kind]
    with link.spoiled(trouble):
        await asyncio.sleep(fault.seconds)
    return link.struck[kind] > before


async def _answer(fault: Fault, site: Site, _place: Place) -> bool:
    """Arm the simulator. What struck is known from its own report."""
    name = fault.kind.name
    after_commit = name.endswith("_after_commit")
    kind, _, operation = name.removesuffix("_after_commit").rpartition("_")
    dice = random.Random(fault.seed)  # noqa: S311 - repeatable
    body: dict[str, Any] = {
        "kind": kind,
        "on": operation,
        "after_commit": after_commit,
        "milliseconds": dice.randint(50, 1500),
        "seed": fault.seed,
    }
    if kind == FaultKind.SERVER_ERROR:
        body["status"] = dice.choice((500, 502, 503, 504))
        body["retry_after_seconds"] = dice.choice((None, 0, 1))
    if dice.random() < 0.5:
        body["count"] = dice.randint(1, 5)
    else:
        body["probability"] = round(dice.uniform(0.2, 0.9), 3)
    armed = [body]
    if operation == Operation.STATUS:  # nobody asks unless something is unclear
        armed.append({"kind": "reset", "on": "batch", "count": 3, "after_commit": True})
    elif operation == Operation.TOKEN:  # nobody asks unless the token is void
        armed.append({"kind": "token_expired", "on": "batch", "count": 3})
    async with site.answers_lock:
        with suppress(aiohttp.ClientError, TimeoutError):  # it is paused or gone: then another fault has its turn
            before = await _struck(site)
            for one in armed:
                await site.lane.admin("POST", "faults", one)
            await asyncio.sleep(fault.seconds)
            struck = await _struck(site) - before
            await site.lane.admin("DELETE", "faults")
            if len(armed) == 2 and struck[armed[1]["kind"]]:
                late = "_after_commit" if armed[1].get("after_commit") else ""
                site.injected[f"answer_{armed[1]['kind']}_batch{late}"] += 1
            return bool(struck[kind])
    return False


async def _struck(site: Site) -> Counter[str]:
    """How many answers the simulator has spoiled since it started, by kind."""
    return Counter((await site.lane.admin("GET", "faults"))["struck"])


_HANDS: Mapping[str, Callable[[Fault, Site, Place], Awaitable[bool]]] = {
    "daemon": _daemon,
    "postgres": _postgres,
    "database": _database,
    "simulator": _simulator,
    "population": _population,
    "clock": _clock,
    **{f"link_{link}": _link for link in LINKS},
    "answer": _answer,
}
