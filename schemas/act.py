"""What a connector yields: one act for everything a facility can say about one stay.

A connector is pure (bytes in, acts or unreadable rows out); `asm_daemon.intake` is the only reader of acts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from schemas.violations import Violation


class ActKind(StrEnum):
    """What happened to the stay (lượt lưu trú)."""

    DECLARE = "declare"
    CORRECT = "correct"
    CHECK_OUT = "check_out"
    UNDO_CHECK_OUT = "undo_check_out"
    EXTEND = "extend"
    CANCEL = "cancel"


@dataclass(frozen=True, slots=True)
class Act:
    """One act on one stay, as its document says it.

    `fields` has the JSON shape of the schema for `kind` (`StayDeclaration` for declare, `StayCorrection`, `CheckOut`,
    `Extension`, `Cancellation`) and is not validated: intake validates once, for every way in.
    `row` is the place in the document as its user counts: the sheet row, the line, the message number; from 1.
    `source_ref` names the stay within its facility (mã tham chiếu của hệ thống nguồn).
    `origin` maps JSON Pointers into `fields` to the user's own place ("H7", "PID-3"), so that an error names it.
    `warnings` are violations that do not refuse the act (a restored leading zero).
    """

    kind: ActKind
    fields: Mapping[str, Any]
    row: int
    source_ref: str | None = None
    origin: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[Violation, ...] = ()


@dataclass(frozen=True, slots=True)
class Unreadable:
    """A row or a whole document (`row` 0) that cannot become an act; every reason at once."""

    row: int
    violations: tuple[Violation, ...]


@dataclass(frozen=True, slots=True)
class Connector:
    """One document format, registered under the entry point group `asm_daemon.connectors`.

    `read` takes the whole document and yields a result per row in document order. It never raises for bad content;
    a document with no data row yields exactly one `Unreadable(0, no_rows)`.
    `suffixes` and `media_types` let the daemon choose a connector when the caller names none.
    """

    name: str
    suffixes: tuple[str, ...]
    media_types: tuple[str, ...]
    read: Callable[[bytes], Iterator[Act | Unreadable]]
