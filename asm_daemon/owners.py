"""What an owner may see: the states of their stays, their receipts, and the declared data where the grant allows it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import asyncpg

from asm_daemon import audit, rules
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch
from asm_daemon.issuing import Issuer, code_of, read_code
from asm_daemon.model import Contents, ExpectedRow, Facility, Principal, Scope, StayRow
from asm_daemon.problems import Refused, invalid, violated
from asm_daemon.sealing import open_contents, open_expected
from asm_daemon.store import Connection, owned
from asm_daemon.store import expected as expected_store
from asm_daemon.store import long_stays as long_stays_store
from asm_daemon.store import stays as stays_store
from schemas.answers import ExpectedPage, ExpectedState, FacilityState, FacilityStates
from schemas.queries import ExpectedQuery, StaysQuery
from schemas.stay import StayPage, StayState, StayView
from schemas.violations import Violation, violation

CODE_CANDIDATES = 1_000
_LAST_ID = UUID(int=(1 << 128) - 1)
_FIRST_ID = UUID(int=0)


async def read_stay(
    pool: asyncpg.Pool, keyring: Keyring, principal: Principal, stay_id: UUID, now: datetime, *, personal: bool
) -> StayView | StayState:
    """One stay: with the declared data if `personal` and the grant allows it, else its state.

    A read of personal data and its audit entry are one transaction. Raises `Refused` not_found, also for a stay of
    somebody else.
    """
    facilities = _granted(principal)
    async with pool.acquire() as connection, connection.transaction():
        row = await owned.read_owned(connection, list(facilities), stay_id)
        if row is None:
            raise Refused("not_found")
        facility = facilities[row.facility_id]
        confirmed = await owned.confirmations(connection, [row.facility_id], [row.id])
        state = _state(facility, row, confirmed, _source_ref(keyring, row))
        if not personal or Scope.READ not in principal.grants[facility.code][1]:
            return state
        declared = _opened(keyring, row).declared
        await audit.append(connection, _read_entry(principal, row, now))
    return StayView(**state.model_dump(), declaration=dict(declared))


async def facility_of(pool: asyncpg.Pool, principal: Principal, stay_id: UUID) -> Facility:
    """The facility of a stay that the principal may change. Raises `Refused` not_found, scope_missing."""
    async with pool.acquire() as connection:
        row = await owned.read_owned(connection, _all_granted(principal), stay_id)
    return _declaring(principal, row)


async def facility_expecting(pool: asyncpg.Pool, principal: Principal, expected_id: UUID) -> Facility:
    """The facility of an expected guest whom the principal may declare. Raises `Refused` not_found, scope_missing."""
    async with pool.acquire() as connection:
        row = await expected_store.find_owned(connection, _all_granted(principal), expected_id)
    return _declaring(principal, row)


def _all_granted(principal: Principal) -> list[int]:
    return [facility.id for facility, _ in principal.grants.values()]


def _declaring(principal: Principal, row: StayRow | ExpectedRow | None) -> Facility:
    if row is None:
        raise Refused("not_found")
    facility, scopes = next(each for each in principal.grants.values() if each[0].id == row.facility_id)
    if Scope.DECLARE not in scopes:
        raise Refused("scope_missing")
    return facility


async def list_expected(
    pool: asyncpg.Pool, keyring: Keyring, principal: Principal, query: ExpectedQuery, now: datetime
) -> ExpectedPage:
    """A page of those who wait for their declaration at one granted facility or all of them, by deadline.

    Raises `Refused`: facility_not_granted, scope_missing, request_invalid (a cursor of another list).
    """
    facilities = _chosen(principal, query.facility)
    scope = f"expected|{principal.id}|{query.facility}|{query.due_before}"
    async with pool.acquire() as connection:
        rows = await expected_store.list_owned(
            connection, list(facilities), query.due_before, _position(keyring, scope, query.cursor), query.limit + 1
        )
    page, following = rows[: query.limit], None
    if len(rows) > query.limit:
        due = page[-1].deadline_at.isoformat() if page[-1].deadline_at else ""
        following = keyring.seal_cursor(scope, page[-1].id.bytes + due.encode())
    return ExpectedPage(
        expected=[_awaited(keyring, facilities[row.facility_id], row, now) for row in page], next=following
    )


def _position(keyring: Keyring, scope: str, cursor: str | None) -> tuple[datetime | None, UUID] | None:
    if cursor is None:
        return None
    try:
        position = keyring.open_cursor(scope, cursor)
    except Tampered:
        raise Refused("request_invalid", violations=[violation("wrong_cursor", "/cursor")]) from None
    due = position[16:].decode()
    return datetime.fromisoformat(due) if due else None, UUID(bytes=position[:16])


def _awaited(keyring: Keyring, facility: Facility, row: ExpectedRow, now: datetime) -> ExpectedState:
    source_ref: str | None = None
    missing: tuple[tuple[str, str, str, str], ...] = ()
    with suppress(Tampered, UnknownEpoch):  # one bad record must not hide the others
        contents = open_expected(keyring, row)
        source_ref, missing = contents.source_ref, contents.missing
    due = row.deadline_at
    return ExpectedState(
        expected_id=str(row.id),
        facility=facility.code,
        source_ref=source_ref,
        present=row.present,
        arrives_at=row.arrives_at,
        departed_at=row.departed_at,
        deadline_at=due,
        minutes_left=max(0, int((due - now).total_seconds() // 60)) if due else None,
        late_minutes=rules.late_minutes(now, due) if due else 0,
        missing=[violated(Violation(*each)) for each in missing],
        created_at=row.created_at,
        changed_at=row.changed_at,
    )


def _opened(keyring: Keyring, row: StayRow) -> Contents:
    try:
        return open_contents(keyring, row)
    except (Tampered, UnknownEpoch):
        raise Refused("record_unreadable", stay_id=str(row.id)) from None


def _read_entry(principal: Principal, row: StayRow, now: datetime) -> audit.AuditEntry:
    return audit.AuditEntry(
        at=now,
        actor_kind=principal.kind.value,
        actor=str(principal.id),
        organisation=principal.organisation,
        action="stay.read",
        object=f"stay/{row.id}",
        details={"version": row.version},
    )


async def list_stays(pool: asyncpg.Pool, keyring: Keyring, principal: Principal, query: StaysQuery) -> StayPage:
    """A page of states, ordered by id, over one granted facility or all of them.

    With a `source_ref` the page holds the stay of that name, or none: the authoritative answer after a timeout.
    Raises `Refused`: facility_not_granted, scope_missing, request_invalid (a cursor of another list).
    """
    facilities = _chosen(principal, query.facility)
    async with pool.acquire() as connection:
        if query.source_ref is not None:
            rows, following = await _named(connection, keyring, facilities, query.source_ref), None
        else:
            rows, following = await _page(connection, keyring, principal, facilities, query)
        confirmed = await owned.confirmations(connection, [row.facility_id for row in rows], [row.id for row in rows])
    stays = [_state(facilities[row.facility_id], row, confirmed, _source_ref(keyring, row)) for row in rows]
    return StayPage(stays=stays, next=following)


async def _named(
    connection: Connection, keyring: Keyring, facilities: Mapping[int, Facility], source_ref: str
) -> list[StayRow]:
    tags = [keyring.reference_tag(facility_id, source_ref) for facility_id in facilities]
    found = await stays_store.find_refs(connection, list(facilities), tags)
    return await stays_store.read_stays(connection, [key[0] for key in found], list(found.values()))


async def _page(
    connection: Connection,
    keyring: Keyring,
    principal: Principal,
    facilities: Mapping[int, Facility],
    query: StaysQuery,
) -> tuple[list[StayRow], str | None]:
    scope = f"stays|{principal.id}|{query.facility}|{query.since}|{query.until}|{query.status}"
    after = _id_at(query.since) if query.since else _FIRST_ID
    if query.cursor is not None:
        try:
            after = UUID(bytes=keyring.open_cursor(scope, query.cursor))
        except Tampered:
            raise Refused("request_invalid", violations=[violation("wrong_cursor", "/cursor")]) from None
    before = _id_at(query.until) if query.until else _LAST_ID
    rows = await owned.list_owned(connection, list(facilities), after, before, query.status, query.limit + 1)
    page = rows[: query.limit]
    return page, keyring.seal_cursor(scope, page[-1].id.bytes) if len(rows) > query.limit else None


async def read_receipt(
    pool: asyncpg.Pool,
    keyring: Keyring,
    issuer: Issuer,
    principal: Principal,
    stay_id: UUID,
    version: int | None,
) -> Mapping[str, Any]:
    """The receipt of a version (the current one for None), the same bytes as when it was issued.

    Raises `Refused` not_found, also for a stay of somebody else.
    """
    facilities = _granted(principal)
    async with pool.acquire() as connection:
        row = await owned.read_owned(connection, list(facilities), stay_id)
        if row is not None and version not in (None, row.version):
            row = await owned.read_version(connection, row.facility_id, stay_id, version or 0)
        if row is None:
            raise Refused("not_found")
        batch = (await stays_store.read_batches(connection, [row.receipt_batch_id]))[row.receipt_batch_id]
    contents = _opened(keyring, row)
    return issuer.receipt(facilities[row.facility_id], row, contents, batch)


async def list_facilities(pool: asyncpg.Pool, principal: Principal, now: datetime) -> FacilityStates:
    """How every facility that the principal may see stands today, by code."""
    facilities = _granted(principal)
    midnight, next_midnight = rules.day_bounds(rules.local_day(now))
    ids = list(facilities)
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        today = await owned.today(connection, ids, _id_at(midnight))
        house = await owned.presence(connection, ids, now)
        newest = await owned.last_declared(connection, ids)
        awaited = await expected_store.waiting(connection, ids, midnight, next_midnight)
        registered = await long_stays_store.count_marked(connection, ids)
    nothing, nobody, none = owned.Today(0, 0), owned.House(0, 0, 0), expected_store.Waiting(0, 0, None)
    return FacilityStates(
        facilities=[
            FacilityState(
                code=facility.code,
                name=facility.name,
                kind=facility.kind.value,
                authority=facility.authority,
                sandbox=facility.sandbox,
                scopes=sorted(scope.value for scope in principal.grants[facility.code][1]),
                declared_today=today.get(facility.id, nothing).declared,
                late_today=today.get(facility.id, nothing).late,
                in_house=house.get(facility.id, nobody).guests,
                check_document=house.get(facility.id, nobody).check_document,
                verification_not_told=house.get(facility.id, nobody).not_told,
                temporary_residence=registered.get(facility.id, 0),
                last_declared_at=newest.get(facility.id),
                expected_today=awaited.get(facility.id, none).expected_today,
                identity_pending=awaited.get(facility.id, none).present,
                next_deadline_at=awaited.get(facility.id, none).next_deadline_at,
            )
            for facility in sorted(facilities.values(), key=lambda facility: facility.code)
        ]
    )


@dataclass(frozen=True, slots=True)
class ReceiptCheck:
    """What the public check page shows for a code: facility, times and state, never the guest.

    `trial` is true for a sandbox facility, whose receipts have no legal effect anywhere.
    """

    code: str
    facility: str
    facility_name: str
    authority: str
    arrived_at: datetime
    declared_at: datetime
    deadline_at: datetime
    late_minutes: int
    status: str
    version: int
    trial: bool
    arrival_corrected: bool


async def check_code(pool: asyncpg.Pool, code: str) -> ReceiptCheck | None:
    """The stay of a short code; None when there is none. Forgives case, dashes and the letters O, I and L."""
    wanted = read_code(code)
    if wanted is None:
        return None
    async with pool.acquire() as connection:
        rows = await owned.read_range(connection, wanted.lo, wanted.hi, CODE_CANDIDATES)
        row = next((row for row in rows if wanted.matches(row.id)), None)
        if row is None:
            return None
        facility, name, authority, sandbox = await owned.facility_facts(connection, row.facility_id)
    return ReceiptCheck(
        code=code_of(row.id),
        facility=facility,
        facility_name=name,
        authority=authority,
        arrived_at=row.arrived_at,
        declared_at=row.declared_at,
        deadline_at=row.deadline_at,
        late_minutes=row.late_minutes,
        status=row.status,
        version=row.version,
        trial=sandbox,
        arrival_corrected=rules.deadline(row.arrived_at) != row.deadline_at,
    )


def _granted(principal: Principal) -> dict[int, Facility]:
    return {facility.id: facility for facility, scopes in principal.grants.values() if Scope.STATUS in scopes}


def _chosen(principal: Principal, facility_code: str | None) -> dict[int, Facility]:
    if facility_code is None:
        return _granted(principal)
    if facility_code not in principal.grants:
        raise Refused("facility_not_granted")
    facility, scopes = principal.grants[facility_code]
    if Scope.STATUS not in scopes:
        raise Refused("scope_missing")
    return {facility.id: facility}


def _id_at(instant: datetime) -> UUID:
    """The lowest UUIDv7 of an instant."""
    try:
        return UUID(int=int(instant.astimezone(UTC).timestamp() * 1000) << 80)
    except (ValueError, OverflowError):
        raise invalid("out_of_range", "/since", expected="1970 – 9999") from None


def _source_ref(keyring: Keyring, row: StayRow) -> str | None:
    """The sender's own name of a stay. It lies in the blob, since it may hold anything; a state shows nothing else."""
    with suppress(Tampered, UnknownEpoch):
        return open_contents(keyring, row).source_ref
    return None


def _state(
    facility: Facility, row: StayRow, confirmed: Mapping[UUID, owned.Confirmation], source_ref: str | None
) -> StayState:
    confirmation = confirmed.get(row.id)
    return StayState(
        stay_id=str(row.id),
        facility=facility.code,
        source_ref=source_ref,
        version=row.version,
        status=row.status,
        event=row.event,
        received_at=row.received_at,
        declared_at=row.declared_at,
        arrived_at=row.arrived_at,
        planned_departure_at=row.planned_departure_at,
        departed_at=row.departed_at,
        deadline_at=row.deadline_at,
        late_minutes=row.late_minutes,
        confirmed_version=confirmation.version if confirmation else None,
        check_document=bool(confirmation and confirmation.check_document),
        verification_told=confirmation is not None and confirmation.check_document is not None,
    )
