"""Forward-only SQL migrations: one file a step, one transaction a file, a checksum kept for each.

The files are package resources `migrations/NNNN_name.sql`. Number 0001 makes the roles, so it runs as the login that
connected (one that may create roles); every later file runs as `asm_owner`, which then owns all objects.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import asyncpg

OWNER = "asm_owner"
ROLES_VERSION = 1
_LOCK = 0x41534D4D  # "ASMM"
_LOCK_POLL_SECONDS = 0.1
_FILE_NAME = re.compile(r"(\d{4})_([a-z0-9_]+)\.sql")


class MigrationError(Exception):
    """The migrations and the database do not fit together; nothing of the offending file was applied."""


@dataclass(frozen=True, slots=True)
class Migration:
    """One step. `checksum` is the SHA-256 (hex) of its text with line ends as `\\n`."""

    version: int
    name: str
    sql: str
    checksum: str


def load_migrations(folder: Traversable | None = None) -> tuple[Migration, ...]:
    """Read the steps in `folder` (None: the package `migrations`), in order.

    MigrationError on a wrong name or a number used twice.
    """
    steps: dict[int, Migration] = {}
    for entry in (folder or resources.files("migrations")).iterdir():
        if not entry.name.endswith(".sql"):
            continue
        matched = _FILE_NAME.fullmatch(entry.name)
        if matched is None:
            raise MigrationError(f"{entry.name} is not named NNNN_name.sql (digits, lower-case letters, underscores)")
        sql = entry.read_text("utf-8").replace("\r\n", "\n")
        step = Migration(int(matched[1]), matched[2], sql, hashlib.sha256(sql.encode()).hexdigest())
        if step.version in steps:
            raise MigrationError(f"two migrations carry the number {matched[1]}")
        steps[step.version] = step
    return tuple(steps[version] for version in sorted(steps))


async def pending(connection: asyncpg.Connection, migrations: Sequence[Migration]) -> list[Migration]:
    """The steps that this database still lacks, in order.

    Needs only the right to read `schema_migrations`, which every login has. A database that is ahead (a newer release
    ran first) lacks nothing. MigrationError if an applied file was changed, or a missing one is older than the newest
    applied.
    """
    applied = await _applied(connection)
    newest = max(applied, default=0)
    for step in migrations:
        known = applied.get(step.version)
        if known is None and step.version < newest:
            raise MigrationError(f"migration {step.version:04} is older than {newest:04}, which is already applied")
        if known is not None and known != step.checksum:
            raise MigrationError(f"migration {step.version:04} was changed after it was applied")
    return [step for step in migrations if step.version not in applied]


async def migrate(
    connection: asyncpg.Connection, migrations: Sequence[Migration], *, lock_wait_seconds: float = 60
) -> list[Migration]:
    """Apply what is pending and return it; several processes may call at once, one works and the others find nothing.

    `connection` is a session of its own (not through a transaction pooler: the lock belongs to the session).
    A failing file leaves its predecessors applied and raises PostgreSQL's error.
    """
    await _take_lock(connection, lock_wait_seconds)
    try:
        steps = await pending(connection, migrations)
        for step in steps:
            await _apply(connection, step)
        return steps
    finally:
        if not connection.is_closed():
            await connection.execute("SELECT pg_advisory_unlock($1)", _LOCK)


async def _take_lock(connection: asyncpg.Connection, wait_seconds: float) -> None:
    """Polls: a session blocked inside pg_advisory_lock holds a snapshot, on which other sessions' DDL can deadlock."""
    try:
        async with asyncio.timeout(wait_seconds):
            while not await connection.fetchval("SELECT pg_try_advisory_lock($1)", _LOCK):  # noqa: ASYNC110 (see above)
                await asyncio.sleep(_LOCK_POLL_SECONDS)
    except TimeoutError:
        raise MigrationError(f"another process has been migrating for {wait_seconds:g} s; look at it first") from None


async def _applied(connection: asyncpg.Connection) -> Mapping[int, str]:
    if await connection.fetchval("SELECT to_regclass('public.schema_migrations') IS NULL"):
        return {}
    rows = await connection.fetch("SELECT version, checksum FROM public.schema_migrations")
    return {row["version"]: row["checksum"] for row in rows}


async def _apply(connection: asyncpg.Connection, step: Migration) -> None:
    async with connection.transaction():
        # Waiting for a lock makes every later query of that table queue up behind us, so give up early.
        await connection.execute("SET LOCAL lock_timeout = '10s'; SET LOCAL statement_timeout = 0")
        if step.version > ROLES_VERSION:
            await connection.execute(f"SET LOCAL ROLE {OWNER}")
        await connection.execute(step.sql)
        if not connection.is_in_transaction():
            raise MigrationError(f"migration {step.version:04} ends its own transaction; the runner does that")
        await connection.execute(f"SET LOCAL ROLE {OWNER}")
        await connection.execute(
            "CREATE TABLE IF NOT EXISTS public.schema_migrations ("
            " version integer PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,"
            " applied_at timestamptz NOT NULL DEFAULT now());"
            # So that every login can tell whether its program and the database fit together.
            "GRANT SELECT ON public.schema_migrations TO PUBLIC"
        )
        await connection.execute(
            "INSERT INTO public.schema_migrations (version, name, checksum) VALUES ($1, $2, $3)",
            step.version,
            step.name,
            step.checksum,
        )
