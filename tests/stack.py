"""Fixtures of the parts below the daemon: keys, facilities, intake. Real ones, on a database of the test's own."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest

from asm_daemon import directory
from asm_daemon.crypto import Key, KeyName, Keyring, epoch_at, epoch_bounds, next_epoch
from asm_daemon.directory import Actor
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.import_jobs import Importer
from asm_daemon.intake import Command, Intake
from asm_daemon.issuing import Issuer
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import Facility
from asm_daemon.store import stays as store
from asm_daemon.store.pool import open_connection, open_pool
from schemas.act import Act, ActKind
from schemas.codes import FacilityKind
from schemas.directory import NewFacility
from schemas.synthetic import person
from tests.population.conftest import Simulator, holding_nothing, seeded

if TYPE_CHECKING:
    from tests.conftest import Database

DEPLOYMENT = "asm.test.example"
KNOWN_AT = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)


def known_keys() -> list[Key]:
    """Keys that never change, for golden values."""
    names = ["data/202611/1", "data/202611/2", "index/202611/1", "data/202612/1", "index/202612/1"]
    names += ["presence/1", "reference/1", "content/1", "cursor/1", "receipt/1", "receipt_trial/1", "checkpoint/1"]
    return [Key(KeyName.parse(name), KNOWN_AT, sha256(name.encode()).digest()) for name in names]


TESTER = Actor("test", Keyring(known_keys))
"""Who enters what a test needs in the directory, where nobody asks the audit for it."""


@dataclass
class Clock:
    """The time of a test; it stands still unless the test moves it."""

    instant: datetime = field(default_factory=lambda: datetime.now(UTC))

    def __call__(self) -> datetime:
        return self.instant


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="session")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Keys for this month and the next; made once, since every test has its own database."""
    now = datetime.now(UTC)
    folder = tmp_path_factory.mktemp("keys") / "store"
    create_store(folder, [epoch_at(now), next_epoch(epoch_at(now))], now)
    return open_keyring(folder)


@pytest.fixture
def issuer(keyring: Keyring) -> Issuer:
    return Issuer(DEPLOYMENT, "http://asm.test", production=False, keyring=keyring)


@dataclass(frozen=True)
class Pools:
    """Pools of one test, opened when first asked for and closed after it."""

    database: Database
    _stack: AsyncExitStack
    _opened: dict[str, asyncpg.Pool] = field(default_factory=dict)

    async def get(self, role: str) -> asyncpg.Pool:
        if role not in self._opened:
            pool = await open_pool(self.database.url, role, min_size=0, max_size=4)
            self._stack.push_async_callback(pool.close)
            self._opened[role] = pool
        return self._opened[role]


@pytest.fixture
async def pools(database: Database) -> AsyncIterator[Pools]:
    async with AsyncExitStack() as stack:
        yield Pools(database, stack)


@pytest.fixture
async def partitions(database: Database, keyring: Keyring) -> None:
    connection = await database.connect("asm_retention")
    for epoch in keyring.epochs():
        await store.create_partitions(connection, epoch, *epoch_bounds(epoch))


FacilityMaker = Callable[..., Any]


@pytest.fixture
async def make_facility(pools: Pools, clock: Clock, keyring: Keyring, partitions: None) -> FacilityMaker:
    """`await make_facility(code, kind, sandbox=False)` adds a facility."""

    async def make(
        code: str = "HY-KS-0001",
        kind: FacilityKind = FacilityKind.HOTEL_4_STAR,
        *,
        sandbox: bool = False,
        **members: Any,
    ) -> Facility:
        new = NewFacility(
            **{
                "code": code,
                "name": f"Cơ sở mẫu {code}",
                "kind": kind,
                "province": "109",
                "commune": "11953",
                "address": "1 Đường Mẫu",
                "zone": None,
                "authority": "Công an phường Mẫu",
                "capacity": 50,
                "sandbox": sandbox,
                **members,
            }
        )
        return await directory.add_facility(await pools.get("asm_auth"), Actor("test", keyring), new, clock())

    return make


@pytest.fixture
async def facility(make_facility: FacilityMaker) -> Facility:
    made: Facility = await make_facility()
    return made


@pytest.fixture
async def rings() -> list[None]:
    """Grows by one whenever intake rings for the sync workers."""
    return []


@pytest.fixture
async def intake(
    pools: Pools, keyring: Keyring, issuer: Issuer, clock: Clock, rings: list[None]
) -> AsyncIterator[Intake]:
    """A running intake."""
    made = Intake(
        await pools.get("asm_intake"),
        lambda: open_connection(pools.database.url, "asm_intake"),
        keyring,
        issuer,
        now=clock,
        ring=lambda: rings.append(None),
        flush_rows=500,
        queue_rows=5000,
    )
    async with asyncio.timeout(60):
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(made.run())
            yield made
            await made.close()


@pytest.fixture
async def importer(pools: Pools, intake: Intake, keyring: Keyring, clock: Clock) -> AsyncIterator[Importer]:
    """Running workers for files."""
    made = Importer(await pools.get("asm_intake"), intake, keyring, now=clock, slice_rows=100)
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(made.run(stop))
        yield made
        stop.set()


@pytest.fixture(scope="session")
async def simulator_database(server: EmbeddedPostgres, superuser: asyncpg.Connection) -> str:
    """The URL of a simulator's database with 100 people, apart from the one of the simulator's own tests."""
    return await seeded(server, superuser, "population_of_the_stack", 100)


@pytest.fixture
async def simulator(simulator_database: str) -> AsyncIterator[Simulator]:
    """A running simulator that holds no stays."""
    async with holding_nothing(simulator_database) as made:
        yield made


def declaration(index: int = 1, **changes: Any) -> dict[str, Any]:
    """A sound declaration of a synthetic person who arrives today and stays two nights; `changes` replace members."""
    who = person(index)
    now = datetime.now(UTC).replace(microsecond=0)
    return {
        "guest": {
            "full_name": who.full_name,
            "birth_date": who.birth_date,
            "gender": who.gender,
            "nationality": who.nationality,
            "document": {"type": who.document_type, "number": who.document_number},
        },
        "arrived_at": (now - timedelta(minutes=30)).isoformat(),
        "planned_departure_at": (now + timedelta(days=2)).isoformat(),
        "room": "203",
        "reason": 1,
        **changes,
    }


def command(facility: Facility, kind: ActKind, fields: dict[str, Any], clock: Clock, **members: Any) -> Command:
    """An act of the facility's owner, received now."""
    source_ref = members.pop("source_ref", fields.get("source_ref"))
    act = Act(kind, fields, row=members.pop("row", 1), source_ref=source_ref)
    return Command(facility, act, members.pop("received_at", clock()), actor="owner-1", **members)
