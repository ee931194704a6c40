"""What PostgreSQL must not write down is checked for each login, and production does not start without it. What it says
to us holds no value either."""

from __future__ import annotations

import asyncio
import io
import traceback

import asyncpg
import pytest
import structlog

from asm_daemon.database_settings import PRIVATE_LOGGING, Fault, check_database_settings
from asm_daemon.log import configure_logging, describe_exception
from tests.conftest import Database

SECRET = "NGUYỄN VĂN BÍ MẬT"


async def test_a_server_that_keeps_values_to_itself_has_no_fault(database: Database) -> None:
    connection = await database.connect("asm_intake")
    assert await check_database_settings(connection) == []
    for name, value in PRIVATE_LOGGING.items():
        assert await connection.fetchval("SELECT current_setting($1)", name) == value


@pytest.mark.parametrize(
    ("changes", "faults"),
    [
        ({"log_parameter_max_length": "-1"}, [Fault("log_parameter_max_length", "0")]),
        ({"log_parameter_max_length_on_error": "64"}, [Fault("log_parameter_max_length_on_error", "0")]),
        ({"log_error_verbosity": "default"}, []),
        ({"log_min_messages": "error"}, []),
        ({"log_min_messages": "error", "log_error_verbosity": "default"}, [Fault("log_error_verbosity", "terse")]),
        ({"session_preload_libraries": "auto_explain"}, [Fault("auto_explain.log_parameter_max_length", "0")]),
        ({"log_statement": "all", "log_min_duration_statement": "0"}, []),
    ],
)
async def test_what_would_log_values_is_named_with_what_it_has_to_be(
    database: Database, changes: dict[str, str], faults: list[Fault]
) -> None:
    superuser = await database.connect()
    for name, value in changes.items():
        await superuser.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    assert await check_database_settings(await database.connect("asm_police")) == faults


async def test_a_setting_of_one_login_is_seen(database: Database) -> None:
    superuser = await database.connect()
    await superuser.execute(
        f"ALTER ROLE asm_police IN DATABASE {database.name} SET log_parameter_max_length_on_error = -1"
    )
    assert await check_database_settings(await database.connect("asm_police")) != []
    assert await check_database_settings(await database.connect("asm_intake")) == []


# -- what comes back ---------------------------------------------------------------------------------------------------


async def _fail(connection: asyncpg.Connection, how: str) -> None:
    """Let PostgreSQL refuse a statement that carries the secret as a parameter."""
    match how:
        case "unique violation":
            for _ in range(2):
                await connection.execute("INSERT INTO words VALUES ($1)", SECRET)
        case "check violation":
            await connection.execute("INSERT INTO words VALUES ($1)", f"{SECRET}!")
        case "wrong input":
            await connection.fetchval("SELECT $1::text::date", SECRET)
        case "copy":
            await connection.copy_records_to_table("words", records=[(f"{SECRET}!",)])
        case "wrong argument":
            await connection.fetchval("SELECT $1::int", SECRET)
        case "statement timeout":
            await connection.execute("SET statement_timeout = 50")
            await connection.fetchval("SELECT pg_sleep(5) FROM (SELECT $1::text) AS said", SECRET)
        case "client timeout":
            await connection.fetchval("SELECT pg_sleep(5) FROM (SELECT $1::text) AS said", SECRET, timeout=0.05)
        case "cancelled":
            asking = asyncio.create_task(connection.fetchval("SELECT pg_sleep(5) FROM (SELECT $1::text) AS s", SECRET))
            await asyncio.sleep(0)
            asking.cancel()
            await asking


@pytest.mark.parametrize(
    ("how", "kind"),
    [
        ("unique violation", asyncpg.UniqueViolationError),
        ("check violation", asyncpg.CheckViolationError),
        ("wrong input", asyncpg.InvalidDatetimeFormatError),
        ("copy", asyncpg.CheckViolationError),
        ("wrong argument", asyncpg.DataError),
        ("statement timeout", asyncpg.QueryCanceledError),
        ("client timeout", TimeoutError),
        ("cancelled", asyncio.CancelledError),
    ],
)
async def test_an_exception_with_a_value_in_it_is_logged_without(
    empty_database: Database, how: str, kind: type[BaseException]
) -> None:
    """PostgreSQL quotes rows and inputs in what it says to the client; nothing of that may go further."""
    connection = await empty_database.connect()
    await connection.execute("CREATE TABLE words (word text PRIMARY KEY CHECK (word NOT LIKE '%!'))")
    stream = io.BytesIO()
    configure_logging("debug", "asm.test.example", stream)
    with pytest.raises(kind) as caught:
        await _fail(connection, how)
    structlog.get_logger().error("request_failed", exc_info=caught.value)
    said = stream.getvalue().decode() + str(describe_exception(caught.value))
    assert kind.__name__.encode() in stream.getvalue()
    assert SECRET not in said
    quoted = "".join(traceback.format_exception(caught.value)) + str(getattr(caught.value, "detail", ""))
    assert (SECRET in quoted) == (how in _QUOTED), "whether the exception itself has to be kept from being printed"


_QUOTED = {"unique violation", "check violation", "wrong input", "copy", "wrong argument"}
