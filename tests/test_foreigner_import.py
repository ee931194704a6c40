"""Foreigners filed by the Ministry's XML: who has left is checked out of the very stay that was declared."""

from __future__ import annotations

from datetime import date, timedelta

import pytest

from asm_daemon import imports, samples
from asm_daemon.intake import Command, Intake
from asm_daemon.model import Facility
from asm_daemon.problems import Refused
from asm_daemon.rules import local_day
from connectors.foreigner_xml import connector
from connectors.kbtt_api import foreigner
from schemas.act import ActKind
from schemas.stay import BatchResult
from schemas.synthetic import person
from tests.connectors.test_foreigner_xml import document, guest
from tests.stack import Clock, Pools, command, declaration


def written(day: date) -> str:
    return f"{day:%d/%m/%Y}"


def filed(index: int, arrived_on: date, *, left_on: date | None = None, **changes: str) -> str:
    """A guest of the file who planned two nights."""
    who = person(index)
    return guest(
        ho_ten=who.full_name,
        ngay_sinh=written(date.fromisoformat(who.birth_date)),
        gioi_tinh=who.gender,
        ma_quoc_tich=who.nationality,
        so_ho_chieu=who.document_number,
        ngay_den=written(arrived_on),
        ngay_di_du_kien=written(arrived_on + timedelta(days=2)),
        ngay_tra_phong=written(left_on) if left_on else None,
        **{"thoi_han_tam_tru": None, **changes},
    )


@pytest.fixture
def today(clock: Clock) -> date:
    return local_day(clock())


async def take(intake: Intake, facility: Facility, clock: Clock, *guests: str, rehearse: bool = False) -> BatchResult:
    return await imports.import_document(
        intake,
        connector,
        document(*guests).encode(),
        facility=facility,
        actor="owner-1",
        received_at=clock(),
        rehearse=rehearse,
    )


def outcomes(result: BatchResult) -> list[tuple[int, str, str | None]]:
    return [(row.row, row.outcome, row.problem.code if row.problem else None) for row in result.results]


async def statuses(pools: Pools) -> list[str]:
    connection = await pools.database.connect()
    return [each["status"] for each in await connection.fetch("SELECT status FROM stays ORDER BY arrived_at")]


async def test_a_file_that_cannot_be_read_files_nobody(intake: Intake, facility: Facility, clock: Clock) -> None:
    for content, code in ((b"<!DOCTYPE a><a/>", "declaration_invalid"), (document().encode(), "no_rows")):
        with pytest.raises(Refused, match=code):
            await imports.import_document(
                intake, connector, content, facility=facility, actor="owner-1", received_at=clock()
            )


async def test_a_guest_who_has_left_is_on_file_as_departed(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, today: date
) -> None:
    came = today - timedelta(days=5)
    guests = filed(9, came, left_on=came + timedelta(days=1)), filed(19, today)
    result = await take(intake, facility, clock, *guests)
    assert outcomes(result) == [(1, "accepted", None), (1, "accepted", None), (2, "accepted", None)]
    assert result.results[0].late_minutes
    assert result.results[0].stay_id == result.results[1].stay_id
    assert await statuses(pools) == ["departed", "declared"]


async def test_the_same_file_again_changes_nothing_however_late(
    intake: Intake, facility: Facility, clock: Clock, today: date
) -> None:
    guests = filed(9, today - timedelta(days=5), left_on=today - timedelta(days=4)), filed(19, today)
    first = await take(intake, facility, clock, *guests)
    clock.instant += timedelta(days=3)
    again = await take(intake, facility, clock, *guests)
    assert (again.received, again.duplicate) == (3, 3)
    assert [row.stay_id for row in again.results] == [row.stay_id for row in first.results]


async def test_a_guest_who_is_declared_by_the_portals_contract_as_well_is_a_duplicate(
    intake: Intake, facility: Facility, clock: Clock, today: date
) -> None:
    who = person(9)
    until = today + timedelta(days=60)
    [first] = (await take(intake, facility, clock, filed(9, today, thoi_han_tam_tru=written(until)))).results
    row = {
        "hoTen": who.full_name,
        "quocTich": who.nationality,
        "soHoChieu": who.document_number,
        "gioiTinh": who.gender,
        "loaiNgayThangNamSinh": "D",
        "ngayThangNamSinhStr": who.birth_date,
        "ngayDenCsltStr": f"{today}",
        "ngayDiDuKienStr": f"{today + timedelta(days=2)}",
        "soPhong": "203",
        "thoiHanTamTruStr": f"{until}",
    }
    [again] = await intake.submit([Command(facility, foreigner(row, 1), clock(), "owner-1")])
    assert again.outcome == "duplicate"
    assert again.stay is not None
    assert str(again.stay.id) == first.stay_id


async def test_a_later_file_adds_the_departure_and_a_corrected_one_moves_it(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, today: date
) -> None:
    came = today - timedelta(days=5)
    await take(intake, facility, clock, filed(9, came))
    for days in (1, 2):
        result = await take(intake, facility, clock, filed(9, came, left_on=came + timedelta(days=days)))
        assert outcomes(result) == [(1, "duplicate", None), (1, "accepted", None)]
    assert await statuses(pools) == ["departed"]
    connection = await pools.database.connect()
    departed_at = await connection.fetchval("SELECT departed_at FROM stays")
    assert local_day(departed_at) == came + timedelta(days=2)


async def test_a_departure_is_that_of_the_stay_which_began_on_its_day(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, today: date
) -> None:
    came = today - timedelta(days=8)
    stays = filed(9, came, left_on=came + timedelta(days=2)), filed(9, today - timedelta(days=1))
    assert (await take(intake, facility, clock, *stays)).accepted == 3
    again = await take(intake, facility, clock, filed(9, came, left_on=came + timedelta(days=2)))
    assert outcomes(again) == [(1, "duplicate", None), (1, "duplicate", None)]
    assert await statuses(pools) == ["departed", "declared"]


async def test_a_stay_that_was_declared_under_a_name_is_checked_out_and_not_doubled(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, today: date
) -> None:
    came = clock() - timedelta(days=3)
    fields = declaration(
        9, source_ref="PMS-1", arrived_at=came.isoformat(), planned_departure_at=(came + timedelta(days=2)).isoformat()
    )
    await intake.submit([command(facility, ActKind.DECLARE, fields, clock)])
    result = await take(intake, facility, clock, filed(9, local_day(came), left_on=local_day(came) + timedelta(days=2)))
    assert outcomes(result) == [(1, "refused", "already_staying"), (1, "accepted", None)]
    assert await statuses(pools) == ["departed"]


async def test_a_departure_after_now_is_refused_and_its_guest_stays(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, today: date
) -> None:
    result = await take(intake, facility, clock, filed(9, today, left_on=today + timedelta(days=1)))
    assert outcomes(result) == [(1, "accepted", None), (1, "refused", "declaration_invalid")]
    problem = result.results[1].problem
    assert problem is not None
    assert problem.errors is not None
    [fault] = problem.errors
    assert (fault.code, fault.place) == ("departure_in_future", "THONG_TIN_KHACH[1]/ngay_tra_phong")
    assert await statuses(pools) == ["declared"]


async def test_a_rehearsal_decides_the_same_and_stores_nothing(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, today: date
) -> None:
    guests = filed(9, today - timedelta(days=5), left_on=today - timedelta(days=4)), filed(19, today, so_phong="")
    result = await take(intake, facility, clock, *guests, rehearse=True)
    assert outcomes(result) == [(1, "accepted", None), (1, "accepted", None), (2, "refused", "declaration_invalid")]
    assert await statuses(pools) == []


async def test_the_sample_is_taken_whole(intake: Intake, facility: Facility, clock: Clock, today: date) -> None:
    sample = samples.foreigner_xml(today, 6, seed=1)
    result = await imports.import_document(
        intake, connector, sample, facility=facility, actor="owner-1", received_at=clock()
    )
    assert (result.received, result.accepted) == (8, 8)
