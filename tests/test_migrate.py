"""The migration runner: forward only, one transaction a file, one process at a time."""

from __future__ import annotations

import asyncio
from pathlib import Path

import asyncpg
import pytest

from asm_daemon.store.migrate import Migration, MigrationError, load_migrations, migrate, pending
from tests.conftest import Database


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three small steps after the real first one, which makes the roles."""
    (tmp_path / "0001_roles.sql").write_text(load_migrations()[0].sql)
    (tmp_path / "0002_rooms.sql").write_text("CREATE TABLE rooms (number text);\n")
    (tmp_path / "0003_beds.sql").write_text("CREATE TABLE beds (number text); INSERT INTO beds VALUES ('1');\n")
    return tmp_path


def versions(steps: list[Migration]) -> list[int]:
    return [step.version for step in steps]


@pytest.mark.parametrize("name", ["1_roles.sql", "0001-roles.sql", "0001_Roles.sql", "roles.sql"])
def test_a_file_with_a_wrong_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(MigrationError, match="is not named"):
        load_migrations(tmp_path)


def test_one_number_for_two_files_is_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_roles.sql").touch()
    (tmp_path / "0001_tables.sql").touch()
    with pytest.raises(MigrationError, match="number 0001"):
        load_migrations(tmp_path)


async def test_a_file_changed_after_it_was_applied_is_refused(folder: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    await migrate(connection, load_migrations(folder))
    (folder / "0002_rooms.sql").write_text("CREATE TABLE rooms (number integer);\n")
    with pytest.raises(MigrationError, match="0002 was changed"):
        await migrate(connection, load_migrations(folder))
    with pytest.raises(MigrationError, match="0002 was changed"):
        await pending(connection, load_migrations(folder))


async def test_a_file_older_than_the_newest_applied_is_refused(folder: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    (folder / "0002_rooms.sql").rename(folder / "later")
    await migrate(connection, load_migrations(folder))
    (folder / "later").rename(folder / "0002_rooms.sql")
    with pytest.raises(MigrationError, match="0002 is older than 0003"):
        await migrate(connection, load_migrations(folder))


async def test_a_failing_file_leaves_nothing_of_itself_and_all_before_it(
    folder: Path, empty_database: Database
) -> None:
    connection = await empty_database.connect()
    (folder / "0003_beds.sql").write_text("CREATE TABLE beds (number text); SELECT 1/0;\n")
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(connection, load_migrations(folder))
    assert await connection.fetchval("SELECT to_regclass('rooms') IS NOT NULL AND to_regclass('beds') IS NULL")
    assert versions(await pending(connection, load_migrations(folder))) == [3]


async def test_a_file_that_ends_the_transaction_is_refused(folder: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    (folder / "0003_beds.sql").write_text("CREATE TABLE beds (number text); COMMIT;\n")
    with pytest.raises(MigrationError, match="0003 ends its own transaction"):
        await migrate(connection, load_migrations(folder))


async def test_waiting_for_another_process_has_an_end(folder: Path, empty_database: Database) -> None:
    other = await empty_database.connect()
    await other.execute("SELECT pg_advisory_lock($1)", 0x41534D4D)
    connection = await empty_database.connect()
    with pytest.raises(MigrationError, match="another process"):
        await migrate(connection, load_migrations(folder), lock_wait_seconds=0.05)


async def test_of_several_processes_one_migrates_and_the_others_find_nothing(
    folder: Path, empty_database: Database
) -> None:
    connections = [await empty_database.connect() for _ in range(4)]
    steps = load_migrations(folder)
    done = await asyncio.gather(*(migrate(connection, steps) for connection in connections))
    assert sorted(versions(applied) for applied in done) == [[], [], [], [1, 2, 3]]


async def test_migrating_twice_changes_nothing(folder: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    assert versions(await pending(connection, load_migrations(folder))) == [1, 2, 3]
    assert versions(await migrate(connection, load_migrations(folder))) == [1, 2, 3]
    assert await migrate(connection, load_migrations(folder)) == []
    assert await pending(connection, load_migrations(folder)) == []


async def test_without_files_nothing_happens(tmp_path: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    assert await migrate(connection, load_migrations(tmp_path)) == []


async def test_line_ends_of_another_system_are_no_change(folder: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    await migrate(connection, load_migrations(folder))
    path = folder / "0003_beds.sql"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert await pending(connection, load_migrations(folder)) == []


async def test_a_database_ahead_of_the_program_lacks_nothing(folder: Path, empty_database: Database) -> None:
    connection = await empty_database.connect()
    await migrate(connection, load_migrations(folder))
    (folder / "0003_beds.sql").unlink()
    assert await pending(connection, load_migrations(folder)) == []


async def test_after_the_first_file_the_migrating_login_needs_no_superuser(
    folder: Path, empty_database: Database
) -> None:
    superuser = await empty_database.connect()
    await migrate(superuser, load_migrations(folder)[:1])
    connection = await empty_database.connect("asm_migrate")
    assert versions(await migrate(connection, load_migrations(folder))) == [2, 3]


async def test_every_object_belongs_to_the_owner_that_nobody_logs_in_as(database: Database) -> None:
    connection = await database.connect()
    owners = await connection.fetch(
        "SELECT DISTINCT relowner::regrole::text AS owner FROM pg_class WHERE relnamespace = 'public'::regnamespace"
        " UNION SELECT DISTINCT proowner::regrole::text FROM pg_proc WHERE pronamespace = 'public'::regnamespace"
    )
    assert [row["owner"] for row in owners] == ["asm_owner"]
    assert not await connection.fetchval("SELECT rolcanlogin FROM pg_roles WHERE rolname = 'asm_owner'")


async def test_every_login_can_tell_that_the_database_has_every_migration(database: Database) -> None:
    connection = await database.connect("asm_feeds")
    assert await pending(connection, load_migrations()) == []
