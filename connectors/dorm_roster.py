"""The roster of a dormitory in an industrial zone (danh sách người ở khu nhà ở công nhân), CSV or XLSX, under headings.

`connectors.table_files` tells how headings, separators, charsets and dates are recognised, `connectors.guest_lines`
how a line becomes a declaration. Besides:

* The reason is 19 (Lao động) where none is given.
* The employee code (mã nhân viên) and other columns of the employer are not part of a declaration and are not kept.
* A row with the document and the day of arrival of an earlier row is refused, naming that row.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import partial

from connectors.guest_lines import DATE_COLUMNS, NUMBER_COLUMNS, guest_of, read_guest
from connectors.table_files import read_table
from connectors.tables import results, vocabulary
from schemas.act import Act, Connector, Unreadable
from schemas.codes import Reason
from schemas.columns import HEADINGS

_WORDS = vocabulary(
    {
        **HEADINGS,
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
        yield from results(table, partial(read_guest, default_reason=int(Reason.LABOUR)), _guest_and_day)


def _guest_and_day(act: Act) -> tuple[Hashable, str]:
    return guest_of(act), act.fields["arrived_at"][:10]


connector = Connector(name="dorm_roster", suffixes=(), media_types=(), read=read)  # a list of guests looks the same
