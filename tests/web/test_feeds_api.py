"""Departments over HTTP: the own releases, byte for byte, and nothing of another department's."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable
from datetime import date, timedelta
from hashlib import sha256

import pytest

from asm_daemon.crypto import Keyring
from asm_daemon.feeds import publish_once
from asm_daemon.intake import Intake
from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.rules import local_day
from schemas.act import ActKind
from schemas.codes import Department
from schemas.feeds import ReleaseBody
from tests.stack import Clock, FacilityMaker, Pools, command, declaration
from tests.web.conftest import KeyMaker, Web

Publish = Callable[[], Awaitable[date]]


@pytest.fixture
async def tourism_key(make_key: KeyMaker) -> str:
    return await make_key(PrincipalKind.DEPARTMENT, department=Department.TOURISM)


@pytest.fixture
async def published(make_facility: FacilityMaker, intake: Intake, pools: Pools, keyring: Keyring, clock: Clock) -> date:
    """A day on which four hotels had four guests each, published for every department."""
    for number in range(4):
        hotel: Facility = await make_facility(f"HY-KS-100{number}")
        guests = [declaration(100 * number + index, source_ref=f"S-{index}") for index in range(4)]
        await intake.submit([command(hotel, ActKind.DECLARE, guest, clock) for guest in guests])
    day = local_day(clock() - timedelta(minutes=30))
    await publish_once(await pools.get("asm_publish"), keyring, day, clock())
    return day


@pytest.mark.parametrize("where", ["daily/2026-13-01", "daily/2026-11", "hourly/2026-11-01", "daily/1999-01-01"])
async def test_a_release_that_is_not_there_is_not_found(asm: Web, tourism_key: str, where: str) -> None:
    assert (await asm.ask("GET", f"/v1/feeds/{where}", tourism_key)).problem == (404, "not_found")


async def test_a_department_reads_its_own_release_byte_for_byte(
    asm: Web, make_key: KeyMaker, tourism_key: str, published: date
) -> None:
    (listed,) = (await asm.ask("GET", "/v1/feeds", tourism_key)).json["releases"]
    assert (listed["period"], listed["release_no"]) == (published.isoformat(), 1)
    answer = await asm.ask("GET", f"/v1/feeds/daily/{published}", tourism_key)
    assert sha256(answer.body).hexdigest() == listed["sha256"] == answer.headers["ETag"].strip('"')
    assert ReleaseBody.model_validate_json(answer.body).department == "tourism"
    health = await make_key(PrincipalKind.DEPARTMENT, department=Department.HEALTH)
    other = await asm.ask("GET", f"/v1/feeds/daily/{published}", health)
    assert other.json["department"] == "health"
    assert other.json["cells"] == []


async def test_a_release_is_sent_once(asm: Web, tourism_key: str, published: date) -> None:
    path = f"/v1/feeds/daily/{published}"
    tag = (await asm.ask("GET", path, tourism_key)).headers["ETag"]
    again = await asm.ask("GET", path, tourism_key, headers={"If-None-Match": tag})
    assert (again.status, again.body) == (304, b"")
    table = await asm.ask("GET", path, tourism_key, headers={"If-None-Match": tag, "Accept": "text/csv"})
    assert table.status == 200


async def test_a_release_may_be_read_as_a_table(asm: Web, tourism_key: str, published: date) -> None:
    path = f"/v1/feeds/daily/{published}"
    cells = (await asm.ask("GET", path, tourism_key)).json["cells"]
    for asked in ({"headers": {"Accept": "text/csv"}}, {"params": {"format": "csv"}}):
        answer = await asm.ask("GET", path, tourism_key, **asked)
        assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
        rows = list(csv.DictReader(io.StringIO(answer.body.decode())))
        assert [row["arrivals"] for row in rows] == [str(cell.get("arrivals", "")) for cell in cells]


async def test_the_list_goes_on_after_the_last_release_that_was_read(
    asm: Web, tourism_key: str, published: date, pools: Pools, keyring: Keyring, clock: Clock
) -> None:
    await publish_once(await pools.get("asm_publish"), keyring, published - timedelta(days=1), clock())
    first = await asm.ask("GET", "/v1/feeds?limit=1", tourism_key)
    second = await asm.ask("GET", first.headers["Link"].partition(">")[0].removeprefix("<"), tourism_key)
    periods = [answer.json["releases"][0]["period"] for answer in (first, second)]
    assert periods == [published.isoformat(), (published - timedelta(days=1)).isoformat()]
    end = await asm.ask("GET", f"/v1/feeds?after={second.json['releases'][0]['id']}", tourism_key)
    assert (end.json["releases"], end.headers.get("Link")) == ([], None)
