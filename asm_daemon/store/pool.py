"""Connections to PostgreSQL: one login, hence one pool, per audience; a limit and a timeout on everything."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Any, ClassVar

import asyncpg

from asm_daemon.store import LOST

ACQUIRE_SECONDS = 10.0
"""How long a caller waits for a connection, unless it says otherwise: then all are taken, or the server is silent."""
RELEASE_SECONDS = 1.0
"""How long a connection may take to become clean again; one that takes longer is ended."""
ROLLBACK_SECONDS = 1.0
"""How long a transaction may take to be given up; what a silent server is to forget, it forgets with the connection."""
CLOSE_SECONDS = 1.0
"""How long a pool waits for its connections to be given back and to say goodbye, before it ends them."""
END_SESSION_SECONDS = 5.0
"""How long each attempt may take to have the server end a session that fell silent; there are `_END_ATTEMPTS`."""
ANSWER_MARGIN_SECONDS = 5
"""PostgreSQL ends a slow statement itself and says so; the client waits so much longer, for a server that is silent."""

ROLE_PLACEHOLDER = "{role}"
_CONNECT_SECONDS = 10
_IDLE_CONNECTION_SECONDS = 300
_QUERIES_LIMIT = 50_000  # of one connection, then it is replaced
_END_ATTEMPTS = 3

# A firewall that forgot a connection tells nobody. The server's own defaults notice after two hours, and so long the
# locks of a daemon that is gone would be held. Ignored on a unix socket.
_KEEPALIVE = {
    "tcp_keepalives_idle": "5",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "20000",
}

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


# Only one that is at something, and has been at the same thing for a moment: after a fail-over the same number may be
# that of another session of ours.
_END_SESSION = """
SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
WHERE pid = $1 AND usename = current_user AND state <> 'idle' AND state_change < clock_timestamp() - interval '0.5 s'
"""
_ending: set[asyncio.Task[None]] = set()


class _Connection(asyncpg.Connection):
    """A connection that gives a transaction up at once: asyncpg's own would wait for a silent server once more.

    A session that is given up is ended over another connection as well. If it fell silent while its server waits for
    the rest of a statement (asyncpg prepares with a Flush, not a Sync), PostgreSQL holds it for active: it heeds
    neither a cancel request nor a timeout of statements or idle transactions, and would keep its locks for good.
    """

    __slots__ = ()
    dsn: ClassVar[str]

    def terminate(self) -> None:
        """As asyncpg's."""
        # A connection that is closed has no protocol any more, and may be ended again.
        if not self.is_closed() and (
            self.is_in_transaction() or self._protocol._is_cancelling()  # type: ignore[attr-defined]  # asyncpg's pool asks so, too
        ):
            task = asyncio.get_running_loop().create_task(_end_session(self.dsn, self.get_server_pid()))
            _ending.add(task)
            task.add_done_callback(_ending.discard)
        super().terminate()

    async def execute(self, query: str, *args: object, timeout: float | None = None) -> str:  # noqa: ASYNC109 - theirs
        """As asyncpg's; what asyncpg itself sends to roll back ends with the connection if it takes too long."""
        if not query.startswith("ROLLBACK"):
            return await super().execute(query, *args, timeout=timeout)
        try:
            return await super().execute(query, timeout=ROLLBACK_SECONDS)
        except TimeoutError:
            self.terminate()
            return query


async def _end_session(dsn: str, pid: int) -> None:
    for _ in range(_END_ATTEMPTS):
        with suppress(asyncpg.PostgresError, *LOST):
            async with asyncio.timeout(END_SESSION_SECONDS):
                connection = await asyncpg.connect(dsn, timeout=END_SESSION_SECONDS)
                try:
                    await connection.fetchval(_END_SESSION, pid)
                finally:
                    connection.terminate()
            return


class _Pool(asyncpg.Pool):
    """A pool that waits for nothing without end; asyncpg's own does, wherever no timeout is given."""

    __slots__ = ()

    def acquire(self, *, timeout: float | None = None) -> Any:
        """A connection within `timeout` seconds, by default `ACQUIRE_SECONDS`, else TimeoutError."""
        return super().acquire(timeout=ACQUIRE_SECONDS if timeout is None else timeout)

    async def release(self, connection: Any, *, timeout: float | None = None) -> None:  # noqa: ASYNC109 - asyncpg's own
        """Take a connection back. What was done with it stands, whether or not it comes back sound."""
        with suppress(*LOST):
            await super().release(connection, timeout=RELEASE_SECONDS if timeout is None else timeout)

    async def close(self) -> None:
        """Close all connections; those that are not given back, or whose server is silent, are ended."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
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

    Nothing that is asked of it waits without end. Connections lead to a server that takes writes. When one of them
    turns out to be read-only as it comes back, all are replaced before their next use. A session that says nothing
    within a transaction is ended by the server, and its locks with it; one that does not answer, by us. Raises what
    asyncpg raises when the server cannot be reached.
    """

    async def reset(connection: asyncpg.Connection) -> None:
        try:
            await connection.execute(connection.get_reset_query() + _FIND_READ_ONLY)
        except asyncpg.ReadOnlySQLTransactionError:
            await pool.expire_connections()

    pool = _Pool(
        min_size=min_size,
        max_size=max_size,
        max_queries=_QUERIES_LIMIT,
        max_inactive_connection_lifetime=_IDLE_CONNECTION_SECONDS,
        reset=reset,
        loop=None,
        record_class=asyncpg.Record,
        **_arguments(database_url, role, statement_timeout_seconds, idle_in_transaction_seconds),
    )
    return await pool


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
    address = database_url.replace(ROLE_PLACEHOLDER, role)

    class Connection(_Connection):
        __slots__ = ()
        dsn = address

    return {
        "dsn": address,
        "connection_class": Connection,
        "timeout": _CONNECT_SECONDS,
        "command_timeout": statement_seconds + ANSWER_MARGIN_SECONDS,
        "target_session_attrs": "read-write",
        "server_settings": {
            "application_name": f"asm-daemon {role}",
            "timezone": "UTC",
            "statement_timeout": f"{round(statement_seconds * 1000)}",
            "idle_in_transaction_session_timeout": f"{round(idle_in_transaction_seconds * 1000)}",
            **_KEEPALIVE,
            **_PLANNING,
        },
    }
