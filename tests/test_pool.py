"""The pool against a real server: timeouts, the login, and a server that turns read-only."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

import asyncpg
import pytest

from asm_daemon.embedded import PORT, EmbeddedPostgres
from asm_daemon.store import pool as pool_module
from asm_daemon.store.pool import open_connection, open_pool
from tests.conftest import Database
from tests.faults.proxy import Proxy, Trouble, TroubleKind
from tests.silence import silent

PATIENCE_SECONDS = 10.0


async def test_a_url_without_a_place_for_the_login_is_refused() -> None:
    with pytest.raises(ValueError, match="no place for the login"):
        await open_pool("postgresql://someone@/asm", "asm_intake")


async def test_a_statement_that_takes_too_long_is_ended_by_the_server(database: Database) -> None:
    pool = await open_pool(database.url, "asm_intake", statement_timeout_seconds=0.3)
    try:
        with pytest.raises(asyncpg.QueryCanceledError):
            await pool.execute("SELECT pg_sleep(20)")
        assert await pool.fetchval("SELECT 1") == 1
    finally:
        await pool.close()


async def test_nobody_waits_without_end_for_a_connection(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_module, "ACQUIRE_SECONDS", 0.05)
    pool = await open_pool(database.url, "asm_intake", max_size=1)
    async with asyncio.timeout(PATIENCE_SECONDS):
        async with pool.acquire():
            with pytest.raises(TimeoutError):
                async with pool.acquire():
                    pass
            with pytest.raises(TimeoutError):
                await pool.execute("SELECT 1")
        assert await pool.fetchval("SELECT 1") == 1
        await pool.close()


async def test_a_pool_whose_connections_are_not_given_back_closes_all_the_same(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "CLOSE_SECONDS", 0.05)
    pool = await open_pool(database.url, "asm_intake")
    connection = await pool.acquire()
    async with asyncio.timeout(PATIENCE_SECONDS):
        await pool.close()
    with pytest.raises(asyncpg.InterfaceError):
        await connection.execute("SELECT 1")


async def test_nobody_waits_without_end_for_a_server_that_is_silent(
    database: Database, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("ACQUIRE_SECONDS", "RELEASE_SECONDS", "CLOSE_SECONDS"):
        monkeypatch.setattr(pool_module, limit, 0.1)
    pool = await open_pool(database.url, "asm_intake")
    silently_closed = await open_pool(database.url, "asm_intake")
    connection = await pool.acquire()
    with silent(server):
        async with asyncio.timeout(PATIENCE_SECONDS):
            with pytest.raises(TimeoutError):
                await connection.fetchval("SELECT 1", timeout=0.1)
            await pool.release(connection)
            with pytest.raises(TimeoutError):
                await pool.fetchval("SELECT 1")
            await silently_closed.close()
    assert await pool.fetchval("SELECT 1") == 1
    await pool.close()


async def test_a_transaction_is_given_up_at_once_when_the_server_is_silent(
    database: Database, server: EmbeddedPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ROLLBACK_SECONDS", 0.1)
    connection = await open_connection(database.url, "asm_intake")
    with ExitStack() as stack:

        async def lose_the_server() -> None:
            async with connection.transaction():
                stack.enter_context(silent(server))
                await connection.fetchval("SELECT 1", timeout=0.1)

        async with asyncio.timeout(PATIENCE_SECONDS):  # a statement alone would last 20 s
            with pytest.raises(TimeoutError):
                await lose_the_server()
        assert connection.is_closed()


async def test_a_transaction_that_fails_is_rolled_back_and_the_connection_is_of_use(database: Database) -> None:
    connection = await open_connection(database.url, "asm_intake")
    with pytest.raises(asyncpg.DivisionByZeroError):
        async with connection.transaction():
            await connection.execute("SELECT 1 / 0")
    assert not connection.is_in_transaction()
    assert await connection.fetchval("SELECT 1") == 1
    await connection.close()


async def test_a_session_that_forgets_its_transaction_is_ended_by_the_server(database: Database) -> None:
    connection = await open_connection(database.url, "asm_intake", idle_in_transaction_seconds=0.05)
    await connection.execute("BEGIN")
    async with asyncio.timeout(10):
        while not connection.is_closed():
            await asyncio.sleep(0.01)


async def test_a_connection_that_fell_silent_holds_up_neither_its_user_nor_the_end(
    server: EmbeddedPostgres, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "RELEASE_SECONDS", 0.3)
    monkeypatch.setattr(pool_module, "CLOSE_SECONDS", 0.3)
    link = Proxy("database", str(server.run_dir / f".s.PGSQL.{PORT}"))
    await link.open()
    url = f"postgresql://{{role}}@127.0.0.1:{link.port}/{database.name}?sslmode=disable"
    pool = await open_pool(url, "asm_intake", statement_timeout_seconds=60, max_size=1)
    try:
        async with asyncio.timeout(10):
            async with pool.acquire() as connection:
                assert await connection.fetchval("SELECT 1") == 1
                link.spoil(Trouble(TroubleKind.SILENCE))
            link.heal()
            assert await pool.fetchval("SELECT 2") == 2
            link.spoil(Trouble(TroubleKind.SILENCE))
            waiting = asyncio.create_task(pool.fetchval("SELECT 3"))
            while link.struck[TroubleKind.SILENCE] < 2:
                await asyncio.sleep(0.01)
            await pool.close()
            with pytest.raises((asyncpg.PostgresError, asyncpg.InterfaceError)):
                await waiting
    finally:
        pool.terminate()
        await link.close()


async def test_the_locks_of_a_session_that_waits_for_the_rest_of_a_statement_are_given_up(
    server: EmbeddedPostgres, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool_module, "ANSWER_MARGIN_SECONDS", 0.3)
    monkeypatch.setattr(pool_module, "ROLLBACK_SECONDS", 0.7)
    link = Proxy("database", str(server.run_dir / f".s.PGSQL.{PORT}"))
    await link.open()
    url = f"postgresql://{{role}}@127.0.0.1:{link.port}/{database.name}?sslmode=disable"
    pool = await open_pool(url, "asm_intake", statement_timeout_seconds=1)
    other = await open_connection(database.url, "asm_intake")
    try:
        async with pool.acquire() as connection:
            await connection.execute("BEGIN; SELECT pg_advisory_xact_lock(7)")
            # The server prepares the statement, and hears no more of it.
            link.spoil(Trouble(TroubleKind.DROP_ANSWER, milliseconds=60_000, strikes=1))
            with pytest.raises(TimeoutError):
                await connection.fetchval("SELECT $1::int", 1)
        assert link.struck[TroubleKind.DROP_ANSWER] == 1
        await other.execute("SELECT pg_advisory_lock(7)", timeout=10)
    finally:
        other.terminate()
        pool.terminate()
        await link.close()


async def test_a_connection_that_is_closed_can_be_ended_again(database: Database) -> None:
    connection = await open_connection(database.url, "asm_intake")
    connection.terminate()
    connection.terminate()
    assert connection.is_closed()


async def test_a_pool_logs_in_as_its_audience_and_says_so(database: Database) -> None:
    pool = await open_pool(database.url, "asm_police")
    try:
        row = await pool.fetchrow("SELECT current_user::text AS login, current_setting('application_name') AS program")
        assert row is not None
        assert dict(row) == {"login": "asm_police", "program": "asm-daemon asm_police"}
    finally:
        await pool.close()


async def test_connections_to_a_server_that_turned_read_only_leave_the_pool(
    database: Database, superuser: asyncpg.Connection
) -> None:
    pool = await open_pool(database.url, "asm_intake", min_size=2)
    try:
        before = await _backends(superuser, database.name)
        await superuser.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await superuser.execute("SELECT pg_reload_conf()")
        async with asyncio.timeout(10):
            while await _answers(pool):  # the server tells its sessions of the change in its own time
                pass
    finally:
        await superuser.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await superuser.execute("SELECT pg_reload_conf()")
    try:
        async with asyncio.timeout(10):
            while not await _answers(pool):
                pass
        after = await _backends(superuser, database.name)
        assert after
        assert not before & after
    finally:
        await pool.close()


async def _answers(pool: asyncpg.Pool) -> bool:
    try:
        return bool(await pool.fetchval("SELECT true"))
    except asyncpg.TargetServerAttributeNotMatched:
        return False


async def _backends(superuser: asyncpg.Connection, name: str) -> set[int]:
    rows = await superuser.fetch("SELECT pid FROM pg_stat_activity WHERE datname = $1", name)
    return {row["pid"] for row in rows}


async def test_every_statement_is_planned_for_the_sizes_of_now(database: Database) -> None:
    pool = await open_pool(database.url, "asm_intake")
    try:
        async with pool.acquire() as connection:
            assert await connection.fetchval("SHOW plan_cache_mode") == "force_custom_plan"
    finally:
        await pool.close()
