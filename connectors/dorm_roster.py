"""The roster of a dormitory in an industrial zone (danh sách người ở khu nhà ở công nhân), CSV or XLSX, under headings.

`connectors.table_files` tells how headings, separators, charsets and dates are recognised, `connectors.guest_lines`
how a line becomes a declaration. Besides:

* The reason is 19 (Lao động) where none is given.
* The employee code (mã nhân viên) is the `guest_ref` of the act, and building, employer and shift are its `groups`: by
  them a roster is compared with who is in house. None of them is part of what is declared; the building is part of the
  room besides.
* Other columns are not read.
* A row with the document and the day of arrival of an earlier row is refused, naming that row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace

from connectors.cells import text
from connectors.guest_lines import DATE_COLUMNS, NUMBER_COLUMNS, guest_of, read_guest
from connectors.table_files import read_table
from connectors.tables import Line, results, vocabulary
from schemas.act import Act, Connector, Unreadable
from schemas.codes import Reason
from schemas.columns import HEADINGS

GROUPS = ("building", "employer", "shift")
"""The columns that say what a worker belongs to."""

_WORDS = vocabulary(
    {
        **HEADINGS,
        "employee_code": "Mã nhân viên | Mã NV | Mã số nhân viên | MSNV | Mã công nhân | Mã số | Employee code"
        " | Employee ID | Employee number | Employee no | Staff ID",
        "employer": "Công ty | Tên công ty | Đơn vị | Đơn vị công tác | Nơi làm việc | Nhà máy | Employer | Company",
        "shift": "Ca | Ca làm việc | Tổ | Shift | Shift group",
        "room": f"Phòng | {HEADINGS['room']}",
        "arrived": f"Ngày vào | {HEADINGS['arrived']}",
        "departs": f"Ngày ra dự kiến | {HEADINGS['departs']}",
    },
    required=[("full_name",), ("birth_date",), ("gender",), NUMBER_COLUMNS, ("arrived",)],
    dates=DATE_COLUMNS,
)


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield a declaration or an unreadable row for every line that is not empty (`schemas.act.Connector`).

    `row` is the number of the line as an editor counts, a place is "dòng 12, cột Ngày sinh", or the cell of a workbook.
    """
    table = read_table(document, _WORDS)
    if isinstance(table, Unreadable):
        yield table
    else:
        yield from results(table, _read_worker, _guest_and_day)


def _read_worker(line: Line) -> Act | Unreadable:
    groups = {column: line.look(column, "", text) for column in GROUPS}
    code = line.look("employee_code", "", text)
    act = read_guest(line, default_reason=int(Reason.LABOUR))
    if isinstance(act, Unreadable):
        return act
    return replace(act, guest_ref=code, groups={column: name for column, name in groups.items() if name})


def _guest_and_day(act: Act) -> tuple[Hashable, str]:
    return guest_of(act), act.fields["arrived_at"][:10]


connector = Connector(name="dorm_roster", suffixes=(), media_types=(), read=read)  # a list of guests looks the same
