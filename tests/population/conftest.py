"""A running simulator on a database of its own, and a client that speaks to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
import asyncpg
import pytest
from aiohttp.test_utils import TestServer

from asm_daemon.embedded import EmbeddedPostgres
from connectors.population.client import PopulationClient
from connectors.population.simulator import Credentials, create_application, migrate, seed_persons

CREDENTIALS = Credentials("asm", "client secret: ~%", "admin-token")
PERSONS = 1_000


@dataclass(frozen=True, slots=True)
class Simulator:
    """The simulator under test. `pool` looks into its database; `admin` calls its admin operations."""

    url: str
    pool: asyncpg.Pool
    session: aiohttp.ClientSession

    async def admin(self, method: str, path: str, content: Any = None) -> Any:
        """The JSON of an admin call that must succeed."""
        headers = {"Authorization": f"Bearer {CREDENTIALS.admin_token}"}
        async with self.session.request(method, f"{self.url}/admin/{path}", json=content, headers=headers) as response:
            assert response.status in (200, 201), await response.text()
            return await response.json()

    async def arm(self, kind: str, **settings: Any) -> None:
        """Arm a fault, by default once and for a batch."""
        await self.admin("POST", "faults", {"kind": kind, "count": 1} | settings)

    async def violations(self) -> Mapping[str, Any]:
        """What the simulator holds against its senders and itself."""
        found: Mapping[str, Any] = await self.admin("GET", "violations")
        return found

    async def effects(self) -> list[tuple[str, int]]:
        """Every (stay, version) that took effect, in order."""
        rows = await self.pool.fetch("SELECT stay_id, version FROM effects ORDER BY position")
        return [(str(row["stay_id"]), row["version"]) for row in rows]


@asynccontextmanager
async def serving_from(pool: asyncpg.Pool, credentials: Credentials = CREDENTIALS) -> AsyncIterator[Simulator]:
    """The simulator on a pool of its migrated database, until the block ends."""
    async with TestServer(create_application(pool, credentials)) as server, aiohttp.ClientSession() as session:
        yield Simulator(str(server.make_url("")).rstrip("/"), pool, session)


@asynccontextmanager
async def running(url: str, credentials: Credentials = CREDENTIALS) -> AsyncIterator[Simulator]:
    """The simulator on the migrated database `url`, until the block ends."""
    async with asyncpg.create_pool(url, min_size=1, max_size=8) as pool, serving_from(pool, credentials) as simulator:
        yield simulator


@asynccontextmanager
async def speaking_to(url: str, **settings: Any) -> AsyncIterator[PopulationClient]:
    """An open client of the service at `url`."""
    client = PopulationClient(url, CREDENTIALS.client_id, CREDENTIALS.client_secret, **settings)
    await client.open()
    try:
        yield client
    finally:
        await client.close()


async def seeded(server: EmbeddedPostgres, superuser: asyncpg.Connection, name: str, persons: int) -> str:
    """Make a simulator's database called `name` with so many people, and return its URL."""
    await superuser.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
    url = server.dsn(database=name)
    await migrate(url)
    connection = await asyncpg.connect(url)
    await seed_persons(connection, 0, persons)
    await connection.close()
    return url


@asynccontextmanager
async def holding_nothing(url: str) -> AsyncIterator[Simulator]:
    """A running simulator on the database `url`, which many tests share, without what the test before left there."""
    async with running(url) as made:
        await made.pool.execute("TRUNCATE stays, effects, sender_violations")
        yield made


@pytest.fixture(scope="session")
async def seeded_database(server: EmbeddedPostgres, superuser: asyncpg.Connection) -> str:
    """The URL of a migrated simulator database with 1,000 people."""
    return await seeded(server, superuser, "population_seeded", PERSONS)


@pytest.fixture(scope="session")
async def seeded_pool(seeded_database: str) -> AsyncIterator[asyncpg.Pool]:
    """Connections to it, for the whole session."""
    async with asyncpg.create_pool(seeded_database, min_size=1, max_size=8) as pool:
        yield pool


@pytest.fixture
async def population_pool(seeded_pool: asyncpg.Pool) -> asyncpg.Pool:
    """The same with no stays: emptying three tables takes less than a clone, and people do not change."""
    await seeded_pool.execute("DELETE FROM stays; DELETE FROM effects; DELETE FROM sender_violations")
    return seeded_pool


@pytest.fixture
async def simulator(population_pool: asyncpg.Pool) -> AsyncIterator[Simulator]:
    """A running simulator with 1,000 people."""
    async with serving_from(population_pool) as simulator:
        yield simulator


@pytest.fixture
async def client(simulator: Simulator) -> AsyncIterator[PopulationClient]:
    """A client that is patient enough for everything but silence."""
    async with speaking_to(simulator.url, answer_seconds=5.0) as client:
        yield client
