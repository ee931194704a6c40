"""Guests who are expected, or here without an identity (khách dự kiến, khách chưa đủ nhân thân), in memory.

What is known of them is kept as far as it is sound, and what a declaration lacks is told. Nothing here files anything:
`decisions.World` decides when an expectation has become a declaration.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from pydantic import TypeAdapter, ValidationError
from uuid_utils.compat import uuid7

from asm_daemon import rules
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch
from asm_daemon.model import ExpectedContents, ExpectedRow, Facility
from asm_daemon.problems import Refused, from_validation, invalid
from asm_daemon.sealing import open_expected, seal_expected
from schemas.codes import FacilityKind
from schemas.stay import DeclarationContext, Instant, StayDeclaration
from schemas.violations import Violation, violation

EXPECTED_AHEAD_LIMIT = timedelta(days=2 * 366)
"""How far ahead a guest may be expected."""
_ROUNDS = 8
"""How often wrong members are taken away before the rest is given up: one may hide another, seldom more."""
_LACKING = frozenset({"required", "document_name_required"})
_ELSEWHERE = ("source_ref", "facility", "present")
_INSTANT = TypeAdapter[datetime](Instant)


@dataclass(frozen=True, slots=True)
class Sifted:
    """What is sound of an incomplete declaration (`known`), what it lacks, and what was wrong and left out."""

    known: Mapping[str, Any] = field(repr=False)
    missing: tuple[Violation, ...]
    warnings: tuple[Violation, ...]


def merge_patch(target: Any, patch: Any) -> Any:
    """JSON Merge Patch (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(target) if isinstance(target, Mapping) else {}
    for name, value in patch.items():
        if value is None:
            result.pop(name, None)
        else:
            result[name] = merge_patch(result.get(name), value)
    return result


def sift(
    known: Mapping[str, Any],
    fields: Mapping[str, Any],
    kind: FacilityKind,
    received_at: datetime,
    origin: Mapping[str, str],
    said: Sifted | None = None,
) -> Sifted:
    """Lay `fields` over what is known, without the members that are wrong. `said` is what was sifted of them alone.

    Raises `Refused` for what is not JSON.
    """
    patch = {name: value for name, value in fields.items() if name not in _ELSEWHERE}
    if said is None:
        said = _sound(merge_patch({}, patch), kind, received_at, origin)
    if not known:
        return said
    merged = _sound(merge_patch(merge_patch(known, _withdrawn(patch)), said.known), kind, received_at, origin)
    return replace(merged, warnings=(*said.warnings, *merged.warnings))


def _withdrawn(patch: Mapping[str, Any]) -> dict[str, Any]:
    """What of a merge patch takes members away."""
    nulls = {name: None if value is None else _withdrawn(value) for name, value in patch.items()
             if value is None or isinstance(value, Mapping)}  # fmt: skip
    return {name: value for name, value in nulls.items() if value != {}}


def _sound(fields: dict[str, Any], kind: FacilityKind, received_at: datetime, origin: Mapping[str, str]) -> Sifted:
    """`fields` without what is wrong."""
    fields, warnings = _pruned(fields), list[Violation]()
    for _ in range(_ROUNDS):
        faults = _faults(fields, kind, received_at, origin)
        wrong = [(loc, fault) for loc, fault in faults if _is_wrong(fields, loc, fault)]
        if not wrong:
            return Sifted(fields, tuple(fault for _, fault in faults), tuple(warnings))
        fields = _without(fields, [loc for loc, _ in wrong])
        warnings += [fault for _, fault in wrong if fault.code != "required"]  # an empty member is an absent one
    return Sifted({}, tuple(fault for _, fault in _faults({}, kind, received_at, origin)), tuple(warnings))


def _faults(
    fields: Mapping[str, Any], kind: FacilityKind, received_at: datetime, origin: Mapping[str, str]
) -> list[tuple[tuple[int | str, ...], Violation]]:
    """What keeps these members from being a declaration on the day of the arrival: (where, what)."""
    arrives_at = arrival_of(fields)
    judged_at, arrives_on = received_at, rules.local_day(arrives_at) if arrives_at is not None else None
    if arrives_at is not None and arrives_at > received_at and arrives_at - received_at <= EXPECTED_AHEAD_LIMIT:
        judged_at = arrives_at
    told = {"guest": {}, **fields}  # of a guest of whom nothing is known, each member is told to be missing
    try:
        StayDeclaration.model_validate_json(orjson.dumps(told), context=DeclarationContext(kind, judged_at, arrives_on))
    except ValidationError as error:
        locations = [
            item["loc"] for item in error.errors(include_url=False, include_input=False, include_context=False)
        ]
        return list(zip(locations, map(_as_expected, from_validation(error, origin)), strict=True))
    except (TypeError, ValueError):  # orjson: a lone surrogate, an integer over 64 bits
        raise invalid("not_json") from None
    return []


def _as_expected(fault: Violation) -> Violation:
    if fault.code != "arrival_too_far_ahead":
        return fault
    hours = int(EXPECTED_AHEAD_LIMIT.total_seconds() // 3600)
    return violation(fault.code, fault.pointer, fault.place, limit=hours)


def _is_wrong(fields: Mapping[str, Any], loc: tuple[int | str, ...], fault: Violation) -> bool:
    """Whether the fault is of a member that stands there; else the member is what is missing."""
    member: Any = fields
    for part in loc:
        if not isinstance(member, Mapping) or part not in member:
            return False
        member = member[part]
    return bool(loc) and (fault.code not in _LACKING or not isinstance(member, Mapping))


def _pruned(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The members without objects that hold nothing."""
    inner = {name: _pruned(value) if isinstance(value, Mapping) else value for name, value in fields.items()}
    return {name: value for name, value in inner.items() if value != {}}


def _without(fields: Mapping[str, Any], locations: Iterable[tuple[int | str, ...]]) -> dict[str, Any]:
    """The members without those at `locations`, nor what is empty for lack of them."""
    inner: dict[str, list[tuple[int | str, ...]]] = {}
    for name, *deeper in locations:
        inner.setdefault(str(name), []).append(tuple(deeper))
    rest: dict[str, Any] = {}
    for name, value in fields.items():
        if name not in inner:
            rest[name] = value
        elif all(inner[name]) and isinstance(value, Mapping) and (left := _without(value, inner[name])):
            rest[name] = left
    return rest


def arrival_of(fields: Mapping[str, Any]) -> datetime | None:
    """The arrival, if it is a sound instant."""
    with suppress(ValidationError, TypeError, ValueError):
        return _INSTANT.validate_json(orjson.dumps(fields.get("arrived_at")))
    return None


def document_number_of(fields: Mapping[str, Any]) -> str | None:
    """The number of the guest's document, if the members have one."""
    guest = fields.get("guest")
    document = guest.get("document") if isinstance(guest, Mapping) else None
    number = document.get("number") if isinstance(document, Mapping) else None
    return number if isinstance(number, str) else None


class Expectations:
    """The expected guests that the acts of one batch are about, and what becomes of them."""

    def __init__(self, keyring: Keyring, now: datetime, rows: Iterable[ExpectedRow]) -> None:
        self._keyring = keyring
        self._now = now
        self._rows = {(row.facility_id, row.ref_tag): row for row in rows}
        self._opened: dict[tuple[UUID, int], ExpectedContents] = {}
        self.changed: dict[tuple[int, bytes], ExpectedRow] = {}
        self.removed: set[tuple[int, bytes]] = set()

    def named(self, facility_id: int, ref_tag: bytes) -> ExpectedRow | None:
        """The one of this reference."""
        return self._rows.get((facility_id, ref_tag))

    def of_id(self, facility_id: int, expected_id: UUID) -> ExpectedRow | None:
        """The one of this id."""
        return next(
            (row for (place, _), row in self._rows.items() if place == facility_id and row.id == expected_id), None
        )

    def of_guest(self, facility_id: int, guest_tag: int, guest_ref: str) -> list[ExpectedRow]:
        """Those of this guest who are still expected: tags collide, what is inside decides."""
        return [
            row
            for (place, _), row in self._rows.items()
            if place == facility_id and row.guest_tag == guest_tag and row.state == "open"
            and self.contents(row).guest_ref == guest_ref
        ]  # fmt: skip

    def contents(self, row: ExpectedRow) -> ExpectedContents:
        """What is known of one. Raises `Refused` record_unreadable."""
        key = (row.id, row.version)
        if key not in self._opened:
            try:
                self._opened[key] = open_expected(self._keyring, row)
            except (Tampered, UnknownEpoch):
                raise Refused("record_unreadable", stay_id=str(row.id)) from None
        return self._opened[key]

    def enter(
        self, facility: Facility, ref_tag: bytes, contents: ExpectedContents, *, present: bool, received_at: datetime
    ) -> ExpectedRow:
        """Take in a new one."""
        row = ExpectedRow(
            facility_id=facility.id,
            ref_tag=ref_tag,
            id=uuid7(nanoseconds=int(self._now.timestamp() * 1_000_000) * 1000),
            version=0,
            guest_tag=None,
            present=False,
            state="open",
            arrives_at=None,
            departed_at=None,
            deadline_at=None,
            created_at=received_at,
            changed_at=received_at,
            ended_at=None,
            sealed=b"",
        )
        return self._keep(row, contents, present=present, received_at=received_at)

    def change(
        self,
        row: ExpectedRow,
        contents: ExpectedContents,
        *,
        received_at: datetime,
        present: bool,
        ended: bool = False,
        departed_at: datetime | None = None,
    ) -> ExpectedRow | None:
        """Write what is known of one now; None if nothing of it is new."""
        before = self.contents(row)
        is_same = (
            (contents.known, contents.guest_ref, dict(contents.groups))
            == (before.known, before.guest_ref, dict(before.groups))
            and (present, departed_at, ended) == (row.present, row.departed_at, row.state == "ended")
        )  # fmt: skip
        if is_same:
            return None
        ended_at = (row.ended_at or received_at) if ended else None
        changed = replace(row, state="ended" if ended else "open", ended_at=ended_at, departed_at=departed_at)
        return self._keep(changed, contents, present=present, received_at=received_at)

    def remove(self, row: ExpectedRow) -> None:
        """It has been declared."""
        key = (row.facility_id, row.ref_tag)
        self._rows.pop(key, None)
        self.changed.pop(key, None)
        self.removed.add(key)

    def _keep(
        self, row: ExpectedRow, contents: ExpectedContents, *, present: bool, received_at: datetime
    ) -> ExpectedRow:
        arrives_at = arrival_of(contents.known)
        if arrives_at is None and present:  # they came at the latest now
            arrives_at = row.arrives_at if row.present else received_at
        guest_ref, version = contents.guest_ref, row.version + 1
        kept = replace(
            row,
            version=version,
            guest_tag=self._keyring.guest_tag(row.facility_id, guest_ref) if guest_ref else None,
            present=present,
            arrives_at=arrives_at,
            deadline_at=rules.deadline(arrives_at) if arrives_at is not None else None,
            changed_at=received_at,
            sealed=seal_expected(self._keyring, row.facility_id, row.id, version, contents),
        )
        key = (row.facility_id, row.ref_tag)
        self._rows[key] = self.changed[key] = kept
        self.removed.discard(key)
        self._opened[kept.id, version] = contents
        return kept
