"""Documents taken in: every row is told everything that is wrong with it, whoever finds it."""

from __future__ import annotations

from asm_daemon import imports
from asm_daemon.intake import Intake
from asm_daemon.model import Facility
from asm_daemon.rules import local_day
from connectors.spreadsheet import connector
from tests.stack import Clock

HEADINGS = "Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Ngày đến;Ngày đi dự kiến;Phòng;Lý do"


async def test_faults_of_the_cells_and_of_the_declaration_are_told_at_once(
    intake: Intake, facility: Facility, clock: Clock
) -> None:
    day = f"{local_day(clock()):%d/%m/%Y}"
    row = f"NGUYỄN VĂN THỬ;31/02/1990;M - Nam;VNM;1;00009000001X;{day};{day};;1"
    result = await imports.import_document(
        intake,
        connector,
        f"{HEADINGS}\r\n{row}\r\n".encode(),
        facility=facility,
        actor="owner-1",
        received_at=clock(),
    )
    [told] = result.results
    assert (result.received, result.refused) == (1, 1)
    assert told.problem is not None
    found = {(fault.pointer, fault.code) for fault in told.problem.errors or ()}
    assert found == {
        ("/guest/birth_date", "wrong_date"),
        ("/guest/document/number", "wrong_document_number"),
        ("/room", "required"),
    }
