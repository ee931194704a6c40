"""Temporary residence (tạm trú): who stays 30 days and more, and who has registered, as the manager says.

Reminders come from who is in house; a mark ends them, and the guest stays in the in-house count. The registration
itself is the guest's, with the commune police: nothing is filed here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from asm_daemon import audit, rules
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch
from asm_daemon.model import Facility, Principal, Scope, StayRow
from asm_daemon.problems import Refused, problem_document
from asm_daemon.sealing import mark_name, open_contents
from asm_daemon.store import long_stays as store
from asm_daemon.store import stays as stays_store
from schemas.long_stays import (
    Reminder,
    Reminders,
    RemindersQuery,
    ResidenceMark,
    ResidenceMarks,
    StayTemporaryResidence,
)
from schemas.violations import violation

_START = (datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0))


async def mark(
    pool: asyncpg.Pool,
    keyring: Keyring,
    principal: Principal,
    given: Sequence[tuple[int, StayTemporaryResidence | Refused]],
    now: datetime,
) -> list[ResidenceMark | Refused]:
    """Mark stays as registered: (row, mark), or why the row is none; results in the same order.

    What is so already is a duplicate. The marks and an audit entry for each are one transaction. A stay is refused with
    not_found (also somebody else's), scope_missing, wrong_state if it is cancelled, request_invalid for a day to come.
    """
    facilities = {facility.id: (facility, scopes) for facility, scopes in principal.grants.values()}
    wanted = [each.stay_id for _, each in given if isinstance(each, StayTemporaryResidence)]
    async with pool.acquire() as connection, connection.transaction():
        await store.claim_marks(connection)
        rows = {row.id: row for row in await store.read_stays(connection, list(facilities), wanted)}
        await stays_store.lock_turns(connection, sorted({row.facility_id for row in rows.values()}))
        known = await store.read_marks(connection, list(rows))
        results: list[ResidenceMark | Refused] = []
        fresh: dict[UUID, store.Mark] = {}
        for number, each in given:
            try:
                row, asked = _markable(rows, facilities, each, now)
                _notice_new_keys(keyring, row)
            except Refused as refusal:
                results.append(refusal)
                continue
            made = _sealed(keyring, row, asked, now)
            is_known = row.id in known and _opened(keyring, known[row.id]) == _opened(keyring, made)
            if not is_known:
                known[row.id] = fresh[row.id] = made
            results.append(
                ResidenceMark(
                    row=number,
                    outcome="duplicate" if is_known else "accepted",
                    stay_id=str(row.id),
                    registered_on=made.registered_on,
                    notice_due=_rule(facilities[row.facility_id][0], now).notice_after,
                )
            )
        await store.put_marks(connection, list(fresh.values()))
        for stay_id in fresh:
            await audit.append(connection, _entry(principal, rows[stay_id], now))
    return results


def marks_result(given: Sequence[int], results: Sequence[ResidenceMark | Refused]) -> ResidenceMarks:
    """The answer to many marks: a result for each row (`given` are their numbers), and the counts."""
    shown = [
        ResidenceMark(row=number, outcome="refused", problem=problem_document(result))
        if isinstance(result, Refused)
        else result
        for number, result in zip(given, results, strict=True)
    ]
    counts = {name: sum(each.outcome == name for each in shown) for name in ("accepted", "duplicate", "refused")}
    return ResidenceMarks(received=len(shown), results=shown, **counts)


def _rule(facility: Facility, now: datetime) -> rules.ResidenceRule:
    return rules.residence_rule(facility.kind, rules.local_day(now))


def _markable(
    rows: Mapping[UUID, StayRow],
    facilities: Mapping[int, tuple[Facility, frozenset[Scope]]],
    each: StayTemporaryResidence | Refused,
    now: datetime,
) -> tuple[StayRow, StayTemporaryResidence]:
    if isinstance(each, Refused):
        raise each
    row = rows.get(each.stay_id)
    if row is None:
        raise Refused("not_found")
    if Scope.DECLARE not in facilities[row.facility_id][1]:
        raise Refused("scope_missing")
    if row.status == "cancelled":
        raise Refused("wrong_state")
    if each.registered_on > rules.local_day(now):
        raise Refused("request_invalid", violations=[violation("in_future", "/registered_on")])
    return row, each


def _notice_new_keys(keyring: Keyring, row: StayRow) -> None:
    """Open the stay: whoever has not noticed yet that its month was sealed anew would mark it under a key that goes."""
    try:
        open_contents(keyring, row)
    except (Tampered, UnknownEpoch):
        raise Refused("unavailable") from None


def _sealed(keyring: Keyring, row: StayRow, each: StayTemporaryResidence, now: datetime) -> store.Mark:
    sealed = keyring.seal(mark_name(row.facility_id, row.id), each.reference.encode())
    return store.Mark(row.facility_id, row.id, each.registered_on, sealed, now)


def _opened(keyring: Keyring, kept: store.Mark) -> tuple[object, ...] | None:
    with suppress(Tampered, UnknownEpoch):  # then the new mark takes its place
        return kept.registered_on, keyring.open(mark_name(kept.facility_id, kept.stay_id), kept.sealed)
    return None


def _entry(principal: Principal, row: StayRow, now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now,
        actor_kind=principal.kind.value,
        actor=str(principal.id),
        organisation=principal.organisation,
        action="stay.temporary_residence",
        object=f"stay/{row.id}",
        details={"version": row.version},
    )


async def reminders(
    pool: asyncpg.Pool, keyring: Keyring, principal: Principal, query: RemindersQuery, now: datetime
) -> Reminders:
    """Who stays 30 days and more, soon or already, and is not marked: Vietnamese citizens, at facilities whose rule
    says that they are reminded.

    Raises `Refused`: facility_not_granted, scope_missing, request_invalid (a cursor of another list).
    """
    facilities = _chosen(principal, query.facility, now)
    purpose = f"reminders|{principal.id}|{query.facility}|{query.within_days}"
    after = _position(keyring, purpose, query.cursor) if query.cursor is not None else _START
    until = rules.local_day(now) + timedelta(days=query.within_days + 2 - rules.TEMPORARY_RESIDENCE_DAYS)
    before, _ = rules.day_bounds(until)
    async with pool.acquire() as connection:
        rows = await store.list_unmarked(connection, list(facilities), before, now, after, query.limit + 1)
    page = rows[: query.limit]
    following = None
    if len(rows) > query.limit:
        micros = int(page[-1].arrived_at.timestamp() * 1_000_000)
        following = keyring.seal_cursor(purpose, micros.to_bytes(8, "big") + page[-1].id.bytes)
    shown = [_reminder(keyring, facilities[row.facility_id], row, now) for row in page]
    return Reminders(reminders=[each for each in shown if each is not None], next=following)


def _position(keyring: Keyring, purpose: str, cursor: str) -> tuple[datetime, UUID]:
    try:
        position = keyring.open_cursor(purpose, cursor)
    except Tampered:
        raise Refused("request_invalid", violations=[violation("wrong_cursor", "/cursor")]) from None
    micros = int.from_bytes(position[:8], "big")
    return _START[0] + timedelta(microseconds=micros), UUID(bytes=position[8:])


def _chosen(principal: Principal, facility_code: str | None, now: datetime) -> dict[int, Facility]:
    if facility_code is not None:
        if facility_code not in principal.grants:
            raise Refused("facility_not_granted")
        if Scope.STATUS not in principal.grants[facility_code][1]:
            raise Refused("scope_missing")
    return {
        facility.id: facility
        for facility, scopes in principal.grants.values()
        if Scope.STATUS in scopes and facility_code in (None, facility.code)
        and _rule(facility, now).is_reminded
    }  # fmt: skip


def _reminder(keyring: Keyring, facility: Facility, row: StayRow, now: datetime) -> Reminder | None:
    """None for a foreigner, whose temporary residence has a law of its own. One that cannot be opened is shown."""
    source_ref, day = None, rules.thirtieth_day(row.arrived_at)
    with suppress(Tampered, UnknownEpoch):
        contents = open_contents(keyring, row)
        if rules.is_foreigner(contents.declared["guest"]["nationality"]):
            return None
        source_ref = contents.source_ref
    return Reminder(
        stay_id=str(row.id),
        facility=facility.code,
        source_ref=source_ref,
        arrived_on=rules.local_day(row.arrived_at),
        day_30_on=day,
        days_left=(day - rules.local_day(now)).days,
    )
