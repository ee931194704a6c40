"""A guest list of the owner's own (bảng kê khách của cơ sở), CSV or XLSX, under Vietnamese or English headings.

`connectors.table_files` tells how headings, separators, charsets and dates are recognised, `schemas.columns` which
headings are, `connectors.guest_lines` how a line becomes a declaration. Besides:

* Name, birth date, document number, day of arrival and reason have to have a column. Whether a room and a departure
  must be told is the facility's question, and intake's.
* Columns that nobody knows are told once, as a warning of the first row that is taken; what they hold is not read.
* A row whose name is marked `[VÍ DỤ]` or `[EXAMPLE]` is the example of a template, and skipped.
* A row with the document and the very arrival of an earlier row is refused, naming that row; of a minor without a
  document name, birth date and guardian count.
* A workbook with the Ministry's sheet is in the Ministry's form, and read by its rules (`connectors.official_xlsx`).
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import replace
from itertools import islice

from connectors import official_xlsx
from connectors.guest_lines import DATE_COLUMNS, NUMBER_COLUMNS, guest_of, read_guest
from connectors.table_files import is_workbook, open_workbook, table_of_text, table_of_workbook
from connectors.tables import results, vocabulary
from schemas.act import Act, Connector, Unreadable
from schemas.columns import HEADINGS
from schemas.violations import violation

ROWS_AWAITED = 1_000
"""Among how many leading rows the one is looked for that carries the warning about columns."""
COLUMNS_SHOWN = 20
"""How many columns a warning names; it counts them all."""

_WORDS = vocabulary(
    HEADINGS,
    required=[("full_name",), ("birth_date",), NUMBER_COLUMNS, ("arrived",), ("reason",)],
    dates=DATE_COLUMNS,
)


def read(document: bytes) -> Iterator[Act | Unreadable]:
    """Yield a declaration or an unreadable row for every line that is not empty (`schemas.act.Connector`).

    `row` is the number of the row as Excel counts, or of the line as an editor counts. A place is the cell ("C7"), or
    "dòng 7, cột Ngày sinh".
    """
    if is_workbook(document):
        workbook = open_workbook(document)
        if isinstance(workbook, Unreadable):
            yield workbook
            return
        if official_xlsx.has_sheet(workbook):
            yield from official_xlsx.read(document)
            return
        table = table_of_workbook(workbook, _WORDS)
    else:
        table = table_of_text(document, _WORDS)
    if isinstance(table, Unreadable):
        yield table
        return
    yield from _telling_unknown_columns(results(table, read_guest, _guest_and_arrival), table.unknown)


def _guest_and_arrival(act: Act) -> tuple[Hashable, str]:
    return guest_of(act), act.fields["arrived_at"]


def _telling_unknown_columns(found: Iterator[Act | Unreadable], unknown: tuple[str, ...]) -> Iterator[Act | Unreadable]:
    """The results with the warning on the first act, since a document has no results but its rows.

    If nothing is taken it stands among the reasons of the first row: a column that is missing may be one of these.
    """
    if not unknown:
        yield from found
        return
    shown = (*unknown[:COLUMNS_SHOWN], *(("…",) if len(unknown) > COLUMNS_SHOWN else ()))
    warning = violation("unknown_columns", place=", ".join(shown), limit=len(unknown))
    leading: list[Act | Unreadable] = []
    for result in islice(found, ROWS_AWAITED):
        leading.append(result)
        if isinstance(result, Act) and not result.violations:
            leading[-1] = replace(result, warnings=(warning, *result.warnings))
            break
    else:
        if (first := leading[0]).row:
            leading[0] = replace(first, violations=(*first.violations, warning))
    yield from leading
    yield from found


connector = Connector(
    name="spreadsheet",
    suffixes=(".xlsx", ".xls", ".csv", ".tsv"),  # an .xls is told what to do about it
    media_types=(
        "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet",
        "application/vnd.ms-excel",  # of an .xls, and what Windows with Excel says of a CSV file
        "text/csv",
        "text/tab-separated-values",
    ),
    read=read,
)
