"""Tables under headings, once they are read: which column a heading means, and lines whose cells go by their column.

A heading is recognised without regard to marks, case, spaces, punctuation, and what stands in brackets or names a form
of dates: "Ngày sinh (dd/MM/yyyy) *" and "NGAYSINH" are one. Two languages in one cell are recognised if both mean one
column. `connectors.table_files` makes tables of CSV files and workbooks.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from connectors.cells import Cell, CellError, Dates, Row, is_example
from schemas.act import Act, Unreadable
from schemas.folding import fold_text
from schemas.violations import violation

RUNNING_NUMBER = "running_number"
"""The column that only counts the lines (STT): a line with nothing else is empty."""
TITLE_CHARACTERS_LIMIT = 60
"""How much of a title is shown with each fault under it."""

_WORDS = re.compile(r"[^\W_]+")
_BRACKETS = re.compile(r"\([^)]*\)?|\[[^\]]*\]?")
_BETWEEN_LANGUAGES = re.compile(r"[/|\r\n]+")
_FORMS_OF_DATES = frozenset({"DD", "MM", "YYYY", "HH"})
_UNDECODED = re.compile("[\ud800-\udfff]")
_FORCED_TEXT = re.compile(r"""="(.*)"|'(?=\d)(.*)""")  # how people keep a spreadsheet from eating zeros


# -- headings ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The headings that a connector understands; `vocabulary` makes one."""

    titles: Mapping[str, str]
    column_of_key: Mapping[str, str]
    required: tuple[tuple[str, ...], ...]
    dates: tuple[tuple[str, ...], ...]

    def column_of(self, title: str) -> str | None:
        """The column that a heading means; None if nobody knows."""
        if _UNDECODED.search(title):
            return None
        bare = _BRACKETS.sub(" ", title)
        if found := self.column_of_key.get(_key(bare)):
            return found
        meant = {self.column_of_key.get(_key(part)) for part in _BETWEEN_LANGUAGES.split(bare) if part.strip()}
        return meant.pop() if len(meant) == 1 else None

    def known(self, cells: Sequence[Cell]) -> int:
        """How many cells are headings."""
        return sum(isinstance(cell, str) and self.column_of(cell) is not None for cell in cells)


def vocabulary(
    headings: Mapping[str, str], required: Sequence[tuple[str, ...]], dates: Sequence[tuple[str, ...]]
) -> Vocabulary:
    """`headings` maps a column to its headings, `"Ngày sinh | Birth date"`, of which the first is the title we use.

    Of each group in `required` one column has to be there. `dates` are groups of columns that one hand fills alike, and
    that show how their dates are to be read.
    """
    listed = {column: [name.strip() for name in names.split("|")] for column, names in headings.items()}
    keys = {_key(name): column for column, names in listed.items() for name in names}
    return Vocabulary({column: names[0] for column, names in listed.items()}, keys, tuple(required), tuple(dates))


def _shown(title: str) -> str:
    bare = _BRACKETS.sub(lambda found: found[0] if _is_form_of_dates(found[0]) else " ", title)
    return " ".join(bare.split())[:TITLE_CHARACTERS_LIMIT]


def _is_form_of_dates(brackets: str) -> bool:
    return set(_WORDS.findall(fold_text(brackets))) <= _FORMS_OF_DATES


def _key(title: str) -> str:
    return "".join(word for word in _WORDS.findall(fold_text(title)) if word not in _FORMS_OF_DATES)


# -- tables ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, repr=False)
class Table:
    """The rows below a heading, each under the number its user sees; the cells are None where quotes do not match.

    `columns` holds the index of each known column. `charset` is None for a workbook. `unknown` are the places of
    headings that nobody knows, and of columns that hold something under no heading. `month_first` and `believed`, the
    columns whose real dates are shown to be right, say how dates are to be read (`connectors.cells.moment`).
    """

    vocabulary: Vocabulary
    titles: Sequence[str]
    columns: Mapping[str, int]
    rows: Sequence[tuple[int, Sequence[Cell] | None]]
    charset: str | None
    unknown: tuple[str, ...]
    month_first: bool
    believed: frozenset[str]

    def dates(self, column: str) -> Dates:
        """What the reader of a column with dates has to know."""
        return {"month_first": self.month_first, "believe_real": column in self.believed}

    def requires(self, column: str) -> bool:
        """Whether the list is not taken without this column."""
        return any(column in alternatives for alternatives in self.vocabulary.required)

    def place(self, column: str, number: int) -> str:
        """Where a user looks: the cell, or the line under the title as they wrote it; ours for a column not there.

        Of what stands in brackets only a form of dates is shown: the rest need not be the words of a heading.
        """
        index = self.columns.get(column)
        if index is None:
            return f"dòng {number}, cột {self.vocabulary.titles[column]}"
        return (
            f"{letters(index)}{number}" if self.charset is None else f"dòng {number}, cột {_shown(self.titles[index])}"
        )


@dataclass(slots=True, repr=False)
class Line:
    """One row of a table while it is read."""

    table: Table
    row: Row
    cells: Sequence[Cell]

    def raw(self, column: str) -> Cell:
        """What stands in a column, without the dress that protects digits from spreadsheets; None if nothing does."""
        index = self.table.columns.get(column, len(self.cells))
        cell = self.cells[index] if index < len(self.cells) else None
        return _undressed(cell) if isinstance(cell, str) else cell

    def place(self, column: str) -> str:
        """Where the user finds the cell."""
        return self.table.place(column, self.row.number)

    def take(self, column: str, pointer: str, reader: Callable[[Cell], Any], **otherwise: Any) -> Any:
        """Put what `reader` makes of the cell at `pointer` (`Row.read`)."""
        return self.row.read(pointer, self.place(column), self.raw(column), self._decoded(reader), **otherwise)

    def take_if_there(self, column: str, pointer: str, reader: Callable[[Cell], Any]) -> Any:
        """Like `take`, for what nobody misses where its column is not there."""
        return self.take(column, pointer, reader) if column in self.table.columns else None

    def look(self, column: str, pointer: str, reader: Callable[[Cell], Any]) -> Any:
        """What `reader` makes of the cell, put nowhere (`Row.look`)."""
        return self.row.look(pointer, self.place(column), self.raw(column), self._decoded(reader))

    def _decoded(self, reader: Callable[[Cell], Any]) -> Callable[[Cell], Any]:
        def read(cell: Cell) -> Any:
            if isinstance(cell, str) and _UNDECODED.search(cell):
                raise CellError("undecodable", expected=self.table.charset)
            return reader(cell)

        return read


def results(
    table: Table, read_line: Callable[[Line], Act | Unreadable], same: Callable[[Act], Hashable]
) -> Iterator[Act | Unreadable]:
    """Read every line that is not empty and not an example; a table without one gives `no_rows`.

    Of two acts for which `same` is equal the second is refused, naming the row of the first.
    """
    first_of: dict[Hashable, int] = {}
    empty = True
    for number, cells in table.rows:
        if cells is not None and _is_no_guest(cells, table):
            continue
        empty = False
        result = _read_line(table, number, cells, read_line)
        if isinstance(result, Act) and not result.violations:
            first = first_of.setdefault(same(result), number)
            if first != number:
                fault = violation("duplicate_row", place=f"dòng {number}", limit=first)
                result = Unreadable(number, (fault,))
        yield result
    if empty:
        yield Unreadable(0, (violation("no_rows"),))


def _read_line(
    table: Table, number: int, cells: Sequence[Cell] | None, read_line: Callable[[Line], Act | Unreadable]
) -> Act | Unreadable:
    if cells is None:
        return Unreadable(number, (violation("unreadable_row", place=f"dòng {number}"),))
    if table.charset is not None and any(map(is_filled, cells[len(table.titles) :])):
        fault = violation("too_many_cells", place=f"dòng {number}", limit=len(table.titles))
        return Unreadable(number, (fault,))
    return read_line(Line(table, Row(number), cells))


def _undressed(cell: str) -> str | None:
    bare = cell.strip()
    forced = _FORCED_TEXT.fullmatch(bare) if bare.startswith(("=", "'")) else None
    return (forced[1] or forced[2] if forced else bare) or None


def is_filled(cell: Cell) -> bool:
    """Whether anything stands in a cell."""
    return bool(cell.strip()) if isinstance(cell, str) else cell is not None


def _is_no_guest(cells: Sequence[Cell], table: Table) -> bool:
    """Whether a row holds nothing but its running number, or is the example of a template."""
    counted, name = (table.columns.get(column, len(cells)) for column in (RUNNING_NUMBER, "full_name"))
    if name < len(cells) and is_example(cells[name]):
        return True
    return not any(is_filled(cell) for index, cell in enumerate(cells) if index != counted)


def letters(index: int) -> str:
    """A column as spreadsheets call it: 0 is A, 26 is AA."""
    name = ""
    while index >= 0:
        index, letter = divmod(index, 26)
        name = chr(ord("A") + letter) + name
        index -= 1
    return name
