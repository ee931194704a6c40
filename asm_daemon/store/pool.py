"""Connections to PostgreSQL: one login, hence one pool, per audience; a limit and a timeout on everything."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import asyncpg

ROLE_PLACEHOLDER = "{role}"
_CONNECT_SECONDS = 10
_IDLE_CONNECTION_SECONDS = 300
_QUERIES = 50_000
# PostgreSQL ends a slow statement itself and says so; the client gives up only when the server no longer answers.
_ANSWER_MARGIN_SECONDS = 5
# A connection that fell silent is not given back in order but cut off, and a pool does not wait for it when it closes.
_RELEASE_SECONDS = 5
_CLOSE_SECONDS = 1

# A plan that was made and kept while this month's partition was empty would read all of it when it is full, until
# PostgreSQL analyses it. Planning anew costs a fraction of a millisecond and sees the true sizes.
_PLANNING = {"plan_cache_mode": "force_custom_plan"}

# A server that fell back to read-only (a stand-by behind the same address, a full disk) still answers, and would keep
# its connections in the pool for ever.
_FIND_READ_ONLY = """
DO $$ BEGIN
    IF current_setting('transaction_read_only')::boolean THEN
        RAISE EXCEPTION USING ERRCODE = 'read_only_sql_transaction';
    END IF;
END $$
"""


if TYPE_CHECKING:
    _AnyPool = asyncpg.Pool[asyncpg.Record]
else:
    _AnyPool = asyncpg.Pool


class _Pool(_AnyPool):
    """A pool that waits for no server for ever, which asyncpg's does as it takes a connection back and as it closes."""

    async def release(
        self,
        connection: asyncpg.pool.PoolConnectionProxy[asyncpg.Record],
        *,
        timeout: float | None = None,  # noqa: ASYNC109 - asyncpg's
    ) -> None:
        with suppress(TimeoutError):  # it is cut off then; what was done with it is done
            await super().release(connection, timeout=_RELEASE_SECONDS if timeout is None else timeout)

    async def close(self) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(_CLOSE_SECONDS):
                await super().close()


async def open_pool(
    database_url: str,
    role: str,
    *,
    min_size: int = 1,
    max_size: int = 8,
    statement_timeout_seconds: float = 15,
    idle_in_transaction_seconds: float = 10,
) -> asyncpg.Pool:
    """Open the pool of one login; `database_url` carries `{role}` where the login's name belongs.

    Connections lead to a server that takes writes. When one of them turns out to be read-only as it comes back, all
    are replaced before their next use. A session that says nothing within a transaction is ended by the server, and its
    locks with it. Raises what asyncpg raises when the server cannot be reached.
    """

    async def reset(connection: asyncpg.Connection) -> None:
        try:
            await connection.execute(connection.get_reset_query() + _FIND_READ_ONLY)
        except asyncpg.ReadOnlySQLTransactionError:
            await pool.expire_connections()

    pool = await _Pool(
        min_size=min_size,
        max_size=max_size,
        max_queries=_QUERIES,
        max_inactive_connection_lifetime=_IDLE_CONNECTION_SECONDS,
        reset=reset,
        loop=None,
        connection_class=asyncpg.Connection,
        record_class=asyncpg.Record,
        **_arguments(database_url, role, statement_timeout_seconds, idle_in_transaction_seconds),
    )
    return pool


async def open_connection(
    database_url: str,
    role: str,
    *,
    statement_timeout_seconds: float = 15,
    idle_in_transaction_seconds: float = 10,
) -> asyncpg.Connection:
    """Open a connection outside any pool, for prepared statements, LISTEN and session locks. The caller closes it."""
    return await asyncpg.connect(
        **_arguments(database_url, role, statement_timeout_seconds, idle_in_transaction_seconds)
    )


def _arguments(
    database_url: str, role: str, statement_seconds: float, idle_in_transaction_seconds: float
) -> dict[str, Any]:
    if ROLE_PLACEHOLDER not in database_url:
        raise ValueError("the database URL has no place for the login: {role}")
    return {
        "dsn": database_url.replace(ROLE_PLACEHOLDER, role),
        "timeout": _CONNECT_SECONDS,
        "command_timeout": statement_seconds + _ANSWER_MARGIN_SECONDS,
        "target_session_attrs": "read-write",
        "server_settings": {
            "application_name": f"asm-daemon {role}",
            "timezone": "UTC",
            "statement_timeout": f"{round(statement_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{round(idle_in_transaction_seconds * 1000)}",
            **_PLANNING,
        },
    }
