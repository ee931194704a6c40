"""What a connector yields: one act for everything a facility can say about one stay.

A connector is pure (bytes in, acts or unreadable rows out); `asm_daemon.intake` is the only reader of acts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from sys import intern
from typing import Any

import orjson

from schemas.violations import Violation

DOCUMENT_BYTES_LIMIT = 20 << 20
"""The largest document that is read."""
RESULTS_LIMIT = 20_000
"""How many acts and unreadable rows one document may yield; a longer one is refused as a whole."""


class ActKind(StrEnum):
    """What happened to the stay (lượt lưu trú)."""

    DECLARE = "declare"
    CORRECT = "correct"
    CHECK_OUT = "check_out"
    UNDO_CHECK_OUT = "undo_check_out"
    EXTEND = "extend"
    CANCEL = "cancel"
    EXPECT = "expect"


@dataclass(frozen=True, slots=True)
class Act:
    """One act on one stay, as its document says it.

    `fields` has the JSON shape of the schema for `kind` (`StayDeclaration` for declare, `StayCorrection`, `CheckOut`,
    `Extension`, `Cancellation`; for expect any part of a `StayDeclaration`) and is not validated: intake validates
    once, for every way in.
    `row` is the place in the document as its user counts: the sheet row, the line, the message number; from 1.
    `source_ref` names the stay within its facility (mã tham chiếu của hệ thống nguồn). A transition whose sender keeps
    no such names may have a `match` instead, of the shape of `StayMatch`: a guest in house, by document.
    `guest_ref` is the sender's own name of the guest across stays: a medical record number, an employee code. `groups`
    are what the guest belongs to at the facility, by which a roster says whom it lists: building, employer, shift
    (toà nhà, đơn vị, ca). Both are sealed with the stay and are no part of what is declared.
    `origin` maps JSON Pointers into `fields` to the user's own place ("H7", "PID-3"), so that an error names it.
    `warnings` are violations that do not refuse the act (a restored leading zero). `violations` do: what the document
    already shows to be wrong, for which `fields` hold nothing. Intake adds all it finds itself, so that the sender is
    told everything at once.
    """

    kind: ActKind
    fields: Mapping[str, Any] = field(repr=False)
    row: int
    source_ref: str | None = field(default=None, repr=False)
    origin: Mapping[str, str] = field(default_factory=dict, repr=False)
    warnings: tuple[Violation, ...] = ()
    match: Mapping[str, Any] | None = field(default=None, repr=False)
    violations: tuple[Violation, ...] = ()
    guest_ref: str | None = field(default=None, repr=False)
    groups: Mapping[str, str] = field(default_factory=dict, repr=False)


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


def to_json(result: Act | Unreadable) -> bytes:
    """One line of JSON without its line end, from which `from_json` makes an equal result.

    An act is `{"kind", "fields", "row", "source_ref", "origin", "warnings", "match", "violations", "guest_ref",
    "groups"}`, an unreadable row is `{"row", "violations"}`, a violation is the list `[code, pointer, vi, en, place]`.
    Raises TypeError if `fields` or `match` holds what JSON does not.
    """
    if isinstance(result, Unreadable):
        return orjson.dumps({"row": result.row, "violations": [_listed(each) for each in result.violations]})
    return orjson.dumps(
        {
            "kind": result.kind,
            "fields": result.fields,
            "row": result.row,
            "source_ref": result.source_ref,
            "origin": result.origin,
            "warnings": [_listed(each) for each in result.warnings],
            "match": result.match,
            "violations": [_listed(each) for each in result.violations],
            "guest_ref": result.guest_ref,
            "groups": result.groups,
        }
    )


def from_json(line: bytes) -> Act | Unreadable:
    """Undo `to_json`. Raises ValueError on anything else: the line comes from a process that read hostile bytes."""
    match orjson.loads(line):
        case {"row": int(row), "violations": [*violations], **rest} if not rest:
            return Unreadable(row, tuple(_violation(each) for each in violations))
        case {
            "kind": str(kind),
            "fields": dict(fields),
            "row": int(row),
            "source_ref": (str() | None) as source_ref,
            "origin": dict(origin),
            "warnings": [*warnings],
            "match": (dict() | None) as match,
            "violations": [*violations],
            "guest_ref": (str() | None) as guest_ref,
            "groups": dict(groups),
            **rest,
        } if not rest and all(isinstance(text, str) for text in (*origin.values(), *groups.values())):
            doubts, faults = (tuple(map(_violation, listed)) for listed in (warnings, violations))
            return Act(ActKind(kind), fields, row, source_ref, origin, doubts, match, faults, guest_ref, groups)
    raise ValueError("neither an act nor an unreadable row")


def _listed(fault: Violation) -> list[str | None]:
    return [fault.code, fault.pointer, fault.vi, fault.en, fault.place]


def _violation(listed: Any) -> Violation:
    match listed:
        case [str(code), str(pointer), str(vi), str(en), (str() | None) as place]:
            return Violation(intern(code), intern(pointer), intern(vi), intern(en), place)  # a few texts, many rows
    raise ValueError("not a violation")
