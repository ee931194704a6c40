"""Fixtures: one throw-away PostgreSQL a session, one clone of the migrated database a test.

`ASM_TEST_POSTGRES_BIN` names the programs of another server version, e.g. /usr/lib/postgresql/15/bin.
"""

from __future__ import annotations

import logging
import os
import secrets
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import asyncpg
import pytest
import structlog

from asm_daemon import embedded
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.store.migrate import load_migrations, migrate

pytest_plugins = ["tests.stack", "tests.house", "tests.webhook_receiver"]

TEMPLATE = "asm_template"
# What a server of the tests may take of /dev/shm: three times what it was seen to take. A clone is 550 files, which
# ext4 makes in 140 ms and memory in 10.
MEMORY_BYTES = 512 << 20


@dataclass(frozen=True, slots=True)
class Database:
    """A database of this test's own. `url` carries the placeholder `{role}`, as the setting `database_url` does."""

    name: str
    url: str
    _opened: list[asyncpg.Connection] = field(default_factory=list, repr=False)

    async def connect(self, role: str = "postgres") -> asyncpg.Connection:
        """A connection of one login (`asm_intake`, …; without a name the superuser), closed after the test."""
        connection = await asyncpg.connect(self.url.replace("{role}", role))
        self._opened.append(connection)
        return connection

    async def close(self) -> None:
        """End the connections that `connect` opened."""
        for connection in self._opened:
            connection.terminate()


@pytest.fixture(scope="session")
async def server() -> AsyncIterator[EmbeddedPostgres]:
    """A throw-away PostgreSQL for the whole session (one per xdist worker)."""
    binaries = os.environ.get("ASM_TEST_POSTGRES_BIN")
    servers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    running = await embedded.start(binaries=Path(binaries) if binaries else None, memory_bytes=MEMORY_BYTES * servers)
    yield running
    await running.stop()


@pytest.fixture(scope="session")
async def superuser(server: EmbeddedPostgres) -> AsyncIterator[asyncpg.Connection]:
    """The connection that makes and drops databases."""
    connection = await asyncpg.connect(server.dsn())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def template(server: EmbeddedPostgres, superuser: asyncpg.Connection) -> str:
    """The migrated database that every test gets a clone of."""
    await superuser.execute(f"CREATE DATABASE {TEMPLATE}")
    connection = await asyncpg.connect(server.dsn(database=TEMPLATE))
    await migrate(connection, load_migrations())
    await connection.close()
    return TEMPLATE


@asynccontextmanager
async def cloned(
    server: EmbeddedPostgres, superuser: asyncpg.Connection, template: str, name: str
) -> AsyncIterator[Database]:
    """A clone of `template` called `name`, dropped after the block."""
    await superuser.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
    # The rights on a database are not part of its clone.
    await superuser.execute(
        "UPDATE pg_database SET datacl = (SELECT datacl FROM pg_database WHERE datname = $1) WHERE datname = $2",
        template,
        name,
    )
    made = Database(name, server.dsn("{role}", name))
    yield made
    await made.close()
    await superuser.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(server: EmbeddedPostgres, superuser: asyncpg.Connection, template: str) -> AsyncIterator[Database]:
    """A fresh clone of the migrated database."""
    async with cloned(server, superuser, template, f"t_{secrets.token_hex(6)}") as made:
        yield made


@pytest.fixture
async def empty_database(server: EmbeddedPostgres, superuser: asyncpg.Connection) -> AsyncIterator[Database]:
    """A database in which nothing has been migrated."""
    async with cloned(server, superuser, "template0", f"e_{secrets.token_hex(6)}") as made:
        yield made


@pytest.fixture(autouse=True)
def logging_stays_with_its_test() -> Iterator[None]:
    """What a test configures for the whole process (a command does, a page in debug) must not reach the next one."""
    root, hooks = logging.getLogger(), (sys.excepthook, sys.unraisablehook, threading.excepthook)
    level, known = root.level, list(root.handlers)
    yield
    for handler in set(root.handlers) - set(known):
        if type(handler).__module__.startswith("asm_daemon"):  # the others are pytest's own
            root.removeHandler(handler)
    root.setLevel(level)
    sys.excepthook, sys.unraisablehook, threading.excepthook = hooks
    structlog.reset_defaults()
