"""The watched folder: whole files are taken in and go, a report stays, and nothing strange is followed."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from asm_daemon import inbox
from asm_daemon.daemon import load_connectors
from asm_daemon.import_jobs import Importer
from asm_daemon.model import Facility
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import Clock, Pools
from tests.test_import_jobs import ROWS, guest_list


@pytest.fixture
def place(tmp_path: Path, facility: Facility) -> Path:
    made = tmp_path / "inbox" / facility.code
    made.mkdir(parents=True)
    return made


def put(file: Path, content: bytes, *, seconds_ago: float = 60) -> None:
    file.write_bytes(content)
    written = (datetime.now(UTC) - timedelta(seconds=seconds_ago)).timestamp()
    os.utime(file, (written, written), follow_symlinks=False)


async def read(place: Path, importer: Importer, pools: Pools, clock: Clock) -> Mapping[str, int]:
    pool = await pools.get("asm_intake")
    return await inbox.read_once(place.parent, importer, pool, load_connectors(), clock(), 1 << 20)


async def test_what_is_not_whole_or_not_a_file_is_left_alone(
    place: Path, importer: Importer, pools: Pools, clock: Clock, tmp_path: Path
) -> None:
    outside = tmp_path / "outside.csv"
    put(outside, guest_list(clock))
    (place / "link.csv").symlink_to(outside)
    put(place / "new.csv", guest_list(clock), seconds_ago=1)
    for name in (".hidden.csv", "half.csv.part", "half.csv.tmp"):
        put(place / name, guest_list(clock))
    (place.parent / "HY-KS-9999").mkdir()
    put(place.parent / "HY-KS-9999" / "list.csv", guest_list(clock))
    before = sorted(place.rglob("*"))
    assert await read(place, importer, pools, clock) == {"taken": 0, "rejected": 0}
    assert sorted(place.rglob("*")) == before


async def test_what_cannot_be_taken_is_put_aside_with_its_reasons(
    place: Path, importer: Importer, pools: Pools, clock: Clock
) -> None:
    put(place / "notes.doc", b"no list")
    put(place / "large.csv", b"x" * ((1 << 20) + 1))
    put(place / "broken.xlsx", b"PK no workbook")
    assert await read(place, importer, pools, clock) == {"taken": 0, "rejected": 3}
    codes = {
        name: orjson.loads((place / "reports" / f"{name}.json").read_bytes())["code"]
        for name in ("notes.doc", "large.csv", "broken.xlsx")
    }
    assert codes == {
        "notes.doc": "unknown_connector",
        "large.csv": "body_too_large",
        "broken.xlsx": "declaration_invalid",
    }
    assert sorted(each.name for each in (place / "rejected").iterdir()) == ["broken.xlsx", "large.csv", "notes.doc"]
    assert await read(place, importer, pools, clock) == {"taken": 0, "rejected": 0}


async def test_what_cannot_be_read_or_put_away_holds_up_no_other_file(
    place: Path, importer: Importer, pools: Pools, clock: Clock, database: Database
) -> None:
    (place / "reports" / ".blocked.csv.tmp").mkdir(parents=True)  # in the way of its report
    put(place / "blocked.csv", guest_list(clock))
    put(place / "later.csv", guest_list(clock, wrong=[3]))
    assert await read(place, importer, pools, clock) == {"taken": 1, "rejected": 0}
    assert [each.name for each in place.glob("*.csv")] == ["blocked.csv"]
    (place / "reports" / ".blocked.csv.tmp").rmdir()
    assert await read(place, importer, pools, clock) == {"taken": 1, "rejected": 0}
    assert await (await database.connect()).fetchval("SELECT count(*) FROM stays") == ROWS


async def test_who_may_use_a_folder_may_read_the_reports_in_it_whatever_the_umask(
    place: Path, importer: Importer, pools: Pools, clock: Clock
) -> None:
    place.chmod(0o770)
    put(place / "notes.doc", b"no list")
    before = os.umask(0o077)
    try:
        assert await read(place, importer, pools, clock) == {"taken": 0, "rejected": 1}
    finally:
        os.umask(before)
    modes = {
        name: stat.S_IMODE((place / name).stat().st_mode) for name in ("reports", "reports/notes.doc.json", "rejected")
    }
    assert modes == {"reports": 0o770, "reports/notes.doc.json": 0o660, "rejected": 0o770}


async def test_a_list_is_taken_in_and_deleted_and_its_report_tells_every_row(
    place: Path, importer: Importer, pools: Pools, clock: Clock, database: Database
) -> None:
    put(place / "khách ngày.csv", guest_list(clock, wrong=[3]))
    assert await read(place, importer, pools, clock) == {"taken": 1, "rejected": 0}
    assert not (place / "khách ngày.csv").exists()
    written = (place / "reports" / "khách ngày.csv.json").read_text()
    report = orjson.loads(written)
    assert (report["received"], report["accepted"], report["refused"]) == (ROWS, ROWS - 1, 1)
    assert not any(person(number).full_name in written for number in range(1, ROWS + 1))
    assert await (await database.connect()).fetchval("SELECT count(*) FROM stays") == ROWS - 1
