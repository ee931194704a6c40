"""What everybody may download: code tables, those of the past too, and blank lists to fill in."""

from __future__ import annotations

from datetime import timedelta

import pytest
from aiohttp import FormData

from asm_daemon.forms import blank_form
from asm_daemon.rules import day_bounds, local_day
from asm_daemon.samples import own_list_csv
from schemas.codes import TABLES, FacilityKind
from tests.stack import Clock
from tests.web.conftest import Web


@pytest.mark.parametrize(
    "path",
    ["/v1/codes/colours", "/v1/codes/former_colours", "/v1/templates/castle.xlsx", "/v1/templates/guesthouse.csv"],
)
async def test_what_there_is_not_is_not_found(asm: Web, path: str) -> None:
    assert (await asm.ask("GET", path)).problem == (404, "not_found")


async def test_the_tables_of_the_past_say_what_became_of_each_unit(asm: Web) -> None:
    listed = (await asm.ask("GET", "/v1/codes")).json["tables"]
    assert {each["name"]: each["rows"] for each in listed} == {name: len(each.rows) for name, each in TABLES.items()}
    answer = await asm.ask("GET", "/v1/codes/former_communes")
    rows = {row["code"]: row for row in answer.json["rows"]}
    assert len(rows) == 10_035
    assert rows["00001"] == {
        "code": "00001", "vi": "Phường Phúc Xá", "en": "Phuc Xa Ward", "parent": "001", "active": False,
        "valid_from": None, "valid_to": "2025-06-30", "statistics_code": "00001", "successors": ["00097"],
    }  # fmt: skip
    again = await asm.ask("GET", "/v1/codes/former_communes", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")


async def test_the_list_of_tables_tells_what_is_in_force_of_which_day_and_from_where(asm: Web) -> None:
    tables = {row["name"]: row for row in (await asm.ask("GET", "/v1/codes")).json["tables"]}
    counts = {name: (row["rows"], row["rows_in_force"], row["dated_on"]) for name, row in tables.items()}
    assert counts["communes"] == (3_321, 3_321, "2025-07-01")
    assert counts["provinces"] == (34, 34, "2025-07-01")
    assert counts["former_communes"] == (10_035, 0, "2025-06-30")
    assert "vietnamadminunits 1.0.4" in tables["communes"]["source"]
    assert all(row["source"] and row["version"].startswith(row["dated_on"]) for row in tables.values())


async def test_a_province_shows_both_codes(asm: Web) -> None:
    rows = (await asm.ask("GET", "/v1/codes/provinces")).json["rows"]
    [hung_yen] = [row for row in rows if row["code"] == "109"]
    assert (hung_yen["vi"], hung_yen["statistics_code"], hung_yen["active"]) == ("Hưng Yên", "33", True)


async def test_a_blank_list_is_downloaded_without_a_key_and_once(asm: Web) -> None:
    answer = await asm.ask("GET", "/v1/templates/medical_facility.xlsx")
    assert (answer.status, answer.body) == (200, blank_form(FacilityKind.MEDICAL_FACILITY).content)
    assert answer.headers["Content-Type"] == "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet"
    assert answer.headers["Content-Disposition"] == 'attachment; filename="khai-bao-luu-tru-medical_facility.xlsx"'
    assert answer.headers["Cache-Control"] == "public, max-age=300"
    unchanged = {"If-None-Match": answer.headers["ETag"]}
    again = await asm.ask("GET", "/v1/templates/medical_facility.xlsx", headers=unchanged)
    assert (again.status, again.body) == (304, b"")
    other = await asm.ask("GET", "/v1/templates/guesthouse.xlsx", headers=unchanged)
    assert other.status == 200


@pytest.mark.parametrize("suffix", ["csv", "CSV"])
async def test_a_list_with_headings_of_its_own_needs_no_name_of_a_reader(
    asm: Web, owner_key: str, clock: Clock, suffix: str
) -> None:
    day = local_day(clock())
    clock.instant = day_bounds(day)[0] + timedelta(hours=12)
    form = FormData()
    form.add_field("file", own_list_csv(day, 5, seed=6), filename=f"so-khach.{suffix}")
    answer = await asm.ask("POST", "/v1/imports", owner_key, data=form)
    assert (answer.status, answer.json["accepted"]) == (200, 5)
    warned = [[each["code"] for each in row["warnings"]] for row in answer.json["results"]]
    assert warned[0][:2] == ["unknown_columns", "former_unit"]
    assert not any("unknown_columns" in codes for codes in warned[1:])


async def test_a_blank_list_sent_as_it_is_declares_nobody_and_says_so(asm: Web, owner_key: str) -> None:
    form = FormData()
    form.add_field("file", blank_form(FacilityKind.HOTEL_4_STAR).content, filename="mau.xlsx")
    assert (await asm.ask("POST", "/v1/imports", owner_key, data=form)).problem == (422, "no_rows")
