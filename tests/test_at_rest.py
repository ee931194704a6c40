"""What lies in tables, files and logs of the database says nothing about a guest: a word is planted and looked for."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import asyncpg

from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.intake import Intake
from asm_daemon.model import Facility
from schemas.act import ActKind
from tests.conftest import Database
from tests.stack import Clock, command, declaration

PLANTED, CONTROL = "canari", "kontrola"  # two words: the log of the server is shared by all tests


def forms(word: str) -> Iterator[bytes]:
    """The word as text in two encodings, in hexadecimal, and in base64 wherever it may begin."""
    for written in (word.upper(), word.title(), word):
        plain = written.encode()
        yield from (plain, written.encode("utf-16-le"), plain.hex().encode(), plain.hex().upper().encode())
        for before in range(3):
            yield base64.b64encode(b"\0" * before + plain)[4 if before else 0 : -4]


def found_in(content: bytes, word: str) -> set[bytes]:
    return {form for form in forms(word) if form in content}


async def tables(connection: asyncpg.Connection) -> bytes:
    """Every row of every table, as text; bytes are shown in hexadecimal."""
    names = await connection.fetch("SELECT oid::regclass::text FROM pg_class WHERE relkind = 'r' AND oid >= 16384")
    rows: list[str] = []
    for (name,) in names:
        rows += [text for (text,) in await connection.fetch(f"SELECT t::text FROM {name} AS t")]
    return "\n".join(rows).encode()


async def wal_file(connection: asyncpg.Connection) -> str:
    """The file of the write-ahead log that is written now; their names are in order."""
    name: str = await connection.fetchval("SELECT pg_walfile_name(pg_current_wal_lsn())")
    return name


async def files(connection: asyncpg.Connection, first_wal_file: str) -> bytes:
    """The data files of this database, and the write-ahead log from one file on, after everything was written out."""
    await connection.execute("CHECKPOINT")
    directory = Path(await connection.fetchval("SHOW data_directory"))
    oid = await connection.fetchval("SELECT oid FROM pg_database WHERE datname = current_database()")
    wal = [path for path in (directory / "pg_wal").glob("0*") if path.name >= first_wal_file]
    found = [*(directory / "base" / str(oid)).iterdir(), *wal]
    return await asyncio.to_thread(lambda: b"".join(path.read_bytes() for path in found))


def guest() -> dict[str, Any]:
    return {
        "full_name": "NGUYỄN VĂN CANARI",
        "birth_date": "1990-05-14",
        "gender": "M",
        "nationality": "DEU",
        "document": {"type": 4, "number": "TESTCANARI"},
        "residence": {"kind": 3, "address": "Ngõ Canari"},
    }


async def live(intake: Intake, facility: Facility, clock: Clock) -> None:
    """Two stays of one guest: declared, repeated, refused, corrected, doubled, cancelled, left, undone; and one who is
    only expected."""
    planted = declaration(1, guest=guest(), source_ref="CANARI-1", note="ghi chú canari")
    other = {**planted, "source_ref": "CANARI-2", "override": {"code": "already_staying", "reason": "lý do Canari"}}
    renamed = {"guest": {"full_name": "TRẦN VĂN CANARI"}}
    for kind, fields in (
        (ActKind.DECLARE, planted),
        (ActKind.DECLARE, planted),
        (ActKind.DECLARE, {**planted, "reason": 99}),
        (ActKind.DECLARE, {**planted, "source_ref": "CANARI-3"}),
        (ActKind.CORRECT, renamed),
        (ActKind.DECLARE, other),
        (ActKind.CANCEL, {"reason": "other", "note": "huỷ vì canari"}),
        (ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}),
        (ActKind.UNDO_CHECK_OUT, {}),
        (ActKind.EXPECT, {**planted, "source_ref": "CANARI-4"}),
    ):
        ref = fields.get("source_ref", "CANARI-1" if kind is not ActKind.CANCEL else "CANARI-2")
        await intake.submit([command(facility, kind, fields, clock, source_ref=ref)])


async def test_a_word_that_is_kept_in_clear_would_be_found(database: Database) -> None:
    connection = await database.connect()
    since = await wal_file(connection)
    encoded = CONTROL.encode("utf-16-le"), base64.b64encode(f"1{CONTROL}1".encode()).decode()
    await connection.execute("CREATE TABLE control (word text, bytes bytea, base64 text)")
    await connection.execute("INSERT INTO control VALUES ($1, $2, $3)", CONTROL, *encoded)
    in_tables, in_files = found_in(await tables(connection), CONTROL), found_in(await files(connection, since), CONTROL)
    assert CONTROL.encode() in in_tables
    assert {CONTROL.encode(), encoded[0]} < in_files
    assert any(form in encoded[1].encode() for form in in_files)


async def test_no_table_no_data_file_and_no_log_holds_a_word_about_the_guest(
    intake: Intake, facility: Facility, clock: Clock, database: Database, server: EmbeddedPostgres
) -> None:
    connection = await database.connect()
    since = await wal_file(connection)
    await live(intake, facility, clock)
    assert await connection.fetchval("SELECT count(*) FROM stays") == 2
    assert await connection.fetchval("SELECT count(*) FROM stay_versions") == 4
    assert await connection.fetchval("SELECT count(*) FROM expected_stays") == 1
    assert found_in(await tables(connection), PLANTED) == set()
    assert found_in(await files(connection, since), PLANTED) == set()
    assert found_in(server.log.read_bytes(), PLANTED) == set()
