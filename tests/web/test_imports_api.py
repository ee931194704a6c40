"""Files over HTTP: followed while they are read, and given back once with what is wrong."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date, timedelta

import pytest
from aiohttp import FormData
from openpyxl import load_workbook

from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.rules import day_bounds, local_day
from asm_daemon.samples import adt_a01, official_xlsx
from tests.conftest import Database
from tests.stack import Clock, FacilityMaker
from tests.test_import_jobs import guest_list
from tests.web.conftest import Answer, KeyMaker, Web

NOBODYS = "/v1/imports/019ac000-0000-7000-8000-000000000000"


async def send(asm: Web, key: str, content: bytes, name: str = "list.csv", query: str = "") -> Answer:
    form = FormData()
    form.add_field("file", content, filename=name, content_type="application/octet-stream")
    return await asm.ask("POST", f"/v1/imports{query}", key, data=form)


def rows_of(answer: Answer) -> Sequence[Sequence[str]]:
    return list(csv.reader(io.StringIO(answer.body.decode("utf-8-sig")), delimiter=";"))


async def test_a_file_of_another_owner_is_not_found(
    asm: Web, owner_key: str, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock
) -> None:
    where = (await send(asm, owner_key, guest_list(clock))).headers["Location"]
    other = await make_key(PrincipalKind.OWNER, await make_facility("HY-KS-0002"))
    for path in (where, f"{where}/report", f"{where}/annotated", NOBODYS):
        assert (await asm.ask("GET", path, other)).problem == (404, "not_found")
    assert (await asm.ask("GET", "/v1/imports", other)).json == {"imports": []}


@pytest.mark.parametrize("seconds", ["-1", "31", "x"])
async def test_nobody_waits_for_ever(asm: Web, owner_key: str, clock: Clock, seconds: str) -> None:
    assert (await send(asm, owner_key, guest_list(clock), query=f"?wait={seconds}")).problem == (422, "request_invalid")


async def test_who_does_not_wait_follows_the_job(asm: Web, owner_key: str, clock: Clock) -> None:
    answer = await send(asm, owner_key, guest_list(clock, wrong=[2]), query="?wait=0")
    assert answer.status == 202
    assert answer.json["state"] in ("waiting", "running")
    where = answer.headers["Location"]
    waited = await send(asm, owner_key, guest_list(clock, wrong=[2]))  # the same file while it runs: the same job
    assert waited.status == 207
    state = (await asm.ask("GET", where, owner_key)).json
    assert (state["state"], state["rows"], state["done"], state["accepted"], state["refused"]) == (
        "finished",
        7,
        7,
        6,
        1,
    )
    report = (await asm.ask("GET", f"{where}/report", owner_key)).json
    assert [row["outcome"] for row in report["results"]].count("refused") == 1
    assert (await asm.ask("GET", "/v1/imports", owner_key)).json["imports"][-1]["import_id"] == state["import_id"]


async def test_a_csv_comes_back_once_with_its_errors_and_is_read_again_as_it_is(
    asm: Web, owner_key: str, clock: Clock, database: Database
) -> None:
    sent = guest_list(clock, wrong=[2])
    where = (await send(asm, owner_key, sent)).headers["Location"]
    answer = await asm.ask("GET", f"{where}/annotated", owner_key)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/csv; charset=utf-8")
    given, back = list(csv.reader(io.StringIO(sent.decode()), delimiter=";")), rows_of(answer)
    assert [list(row[:-1]) for row in back] == given
    assert back[0][-1] == "Lỗi · Errors"
    assert [bool(row[-1]) for row in back[1:]] == [False, True, False, False, False, False, False]
    assert back[2][-1].startswith("dòng 3, cột Ngày sinh: ")
    assert (await asm.ask("GET", f"{where}/annotated", owner_key)).problem == (410, "file_erased")
    assert await (await database.connect()).fetchval("SELECT count(*) FROM import_files") == 0
    mended = answer.body.replace(b"31/02/1990", b"28/02/1990")
    again = await send(asm, owner_key, mended)
    assert (again.status, again.json["accepted"], again.json["duplicate"]) == (200, 1, 6)
    codes = {warning["code"] for row in again.json["results"] for warning in row["warnings"]}
    assert "unknown_columns" not in codes


async def test_who_neither_sent_a_file_nor_may_read_gets_no_file_and_who_gets_it_is_on_record(
    asm: Web, owner_key: str, make_key: KeyMaker, facility: Facility, clock: Clock, database: Database
) -> None:
    where = (await send(asm, owner_key, guest_list(clock, wrong=[2]))).headers["Location"]
    clerk = await make_key(PrincipalKind.OWNER, facility, scopes={Scope.DECLARE})
    assert (await asm.ask("GET", f"{where}/annotated", clerk)).problem == (403, "scope_missing")
    connection = await database.connect()
    entries = """
        SELECT convert_from(body, 'UTF8')::jsonb ->> 'object' FROM audit_pending
        WHERE convert_from(body, 'UTF8')::jsonb ->> 'action' = 'import.read'
    """
    assert await connection.fetch(entries) == []
    assert (await asm.ask("GET", f"{where}/annotated", owner_key)).status == 200
    assert (await asm.ask("GET", f"{where}/annotated", owner_key)).problem == (410, "file_erased")
    found = [row[0] for row in await connection.fetch(entries)]
    assert found == [where.replace("/v1/imports/", "import/")]


async def test_who_may_only_declare_gets_back_what_they_sent(
    asm: Web, make_key: KeyMaker, facility: Facility, clock: Clock
) -> None:
    clerk = await make_key(PrincipalKind.OWNER, facility, scopes={Scope.DECLARE})
    where = (await send(asm, clerk, guest_list(clock, wrong=[2]))).headers["Location"]
    assert (await asm.ask("GET", f"{where}/annotated", clerk)).status == 200


async def test_the_ministrys_workbook_comes_back_with_its_dates_and_zeros(
    asm: Web, owner_key: str, clock: Clock, facility: Facility
) -> None:
    day = local_day(clock())
    clock.instant = day_bounds(day)[0] + timedelta(hours=12)
    book = load_workbook(io.BytesIO(official_xlsx(day, 3, seed=1)))
    sheet = book.worksheets[0]
    sheet["C6"] = "31/02/1990"
    sheet["C7"] = date(1990, 12, 31)
    made = io.BytesIO()
    book.save(made)
    first = await send(asm, owner_key, made.getvalue(), "khach.xlsx")
    assert (first.status, first.json["accepted"], first.json["refused"]) == (207, 2, 1)
    answer = await asm.ask("GET", f"{first.headers['Location']}/annotated", owner_key)
    back = load_workbook(io.BytesIO(answer.body)).worksheets[0]
    for row in range(1, 8):
        for column in range(1, 20):
            was, now = sheet.cell(row, column).value, back.cell(row, column).value
            assert str(now)[:10] == str(was)[:10], (row, column)
    assert [back[f"T{row}"].value for row in range(1, 5)].count("Lỗi · Errors") == 1
    assert back["T6"].value.startswith("C6: ")
    assert back["T5"].value is None
    back["C6"] = "28/02/1990"
    mended = io.BytesIO()
    back.parent.save(mended)
    again = await send(asm, owner_key, mended.getvalue(), "khach.xlsx")
    assert (again.status, again.json["accepted"], again.json["duplicate"]) == (200, 1, 2)


async def test_messages_have_no_column_for_errors(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock
) -> None:
    ward = await make_facility("HY-BV-0001", "medical_facility")
    key = await make_key(PrincipalKind.OWNER, ward)
    answer = await send(asm, key, adt_a01(local_day(clock()), 1, seed=3), "adt.hl7")
    where = answer.headers["Location"]
    assert (await asm.ask("GET", f"{where}/annotated", key)).problem == (409, "not_annotatable")
