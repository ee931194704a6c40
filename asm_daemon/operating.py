"""What operators do about stays that are not carried, and what they see of the machinery (docs/adr/0025).

Three things can be done, each to one stay or to many, and recorded in its own transaction: *replay* queues what was
refused again, *release* lets what waits be tried at once, *settle* marks what was refused as looked at. None of them
can lose a stay or call it carried: it leaves the backlog only when the population database confirms it. Nothing here
reads what is sealed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Literal, NamedTuple, TypeAlias
from uuid import UUID

import asyncpg
from prometheus_client import Gauge

from asm_daemon import audit
from asm_daemon.audit import AuditEntry
from asm_daemon.model import LANES, lane_of
from asm_daemon.pacing import answering
from asm_daemon.problems import Refused
from asm_daemon.store import Connection, alerts
from asm_daemon.store import operating as store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.operating import Choice
from asm_daemon.store.sync import WaitReason
from schemas.operating import (
    ACTION_ROWS,
    NAMED_ROWS,
    Acted,
    AlertClosing,
    AlertState,
    AlertStates,
    BacklogPart,
    Move,
    OperatorAlertsQuery,
    PopulationSays,
    RefusedQuery,
    RefusedState,
    RefusedStates,
    Selection,
    Settlement,
    StayInspection,
    SyncState,
    VersionState,
    WaitingQuery,
    WaitingState,
    WaitingStates,
    WorkerState,
)
from schemas.population import Ambiguous, PopulationState, Unreachable
from schemas.violations import violation

ASK_SECONDS = 10.0
"""How long an operator waits for the population database's word on one stay."""
_FIRST_STAY = UUID(int=0)
_ONE_LIMIT = 1

Ask: TypeAlias = Callable[[Sequence[UUID]], Awaitable[Mapping[UUID, PopulationState]]]
"""Asks the population database which version it holds; raises Unreachable or Ambiguous."""
Place: TypeAlias = Literal["confirmed", "queued", "waiting", "refused", "none"]

BACKLOG = Gauge("asm_sync_backlog", "Stays that are not confirmed, by place and why they wait", ["place", "reason"])
OLDEST_QUEUED = Gauge("asm_sync_oldest_queued_seconds", "Age of the oldest queued version; 0 without any")
OLDEST_WAITING = Gauge(
    "asm_sync_oldest_waiting_seconds", "Since when the longest waits to be tried again; 0 without any"
)
OLDEST_REFUSED = Gauge("asm_sync_oldest_refused_seconds", "Age of the oldest refusal that nobody settled; 0 without")
WORKERS = Gauge("asm_sync_workers", "Sync workers alive")
LANES_HELD = Gauge("asm_sync_lanes_held", "Lanes that a worker holds, of 256")
ALERTS_OPEN = Gauge("asm_operator_alerts_open", "Open alerts", ["kind"])
EVENTS_PENDING = Gauge("asm_owner_events_pending", "Events of owners that have no position yet")
OLDEST_EVENT = Gauge("asm_owner_events_oldest_seconds", "Age of the oldest of them; 0 without any")
AUDIT_PENDING = Gauge("asm_audit_pending", "Audit entries that are not sealed yet")
OLDEST_AUDIT = Gauge("asm_audit_oldest_pending_seconds", "Age of the oldest of them; 0 without any")
CHECKPOINT_AGE = Gauge("asm_audit_checkpoint_age_seconds", "Since the last checkpoint was signed; 0 before the first")
COMPARED_AGE = Gauge(
    "asm_compare_finished_age_seconds", "Since a comparison finished, or the first began; 0 before the first"
)
MEASURED_AT = Gauge("asm_measured_timestamp_seconds", "When the figures of the database were read last")


# -- looking -----------------------------------------------------------------------------------------------------------


async def overview(pool: asyncpg.Pool) -> SyncState:
    """The backlog by place, reason and code, who holds which lanes, and open alerts by kind. `pool`: asm_sync."""
    async with pool.acquire() as connection:
        parts = await store.count_backlog(connection)
        oldest_queued_at = (await store.measure(connection)).oldest_queued_at
        holders = await store.list_holders(connection)
        open_alerts = await store.count_open_alerts(connection)
    return SyncState(
        backlog=[
            BacklogPart.model_validate(
                {**part._asdict(), "oldest_at": oldest_queued_at if part.place == "queued" else part.oldest_at}
            )
            for part in parts
        ],
        workers=[
            WorkerState(worker=str(each.worker), seen_until=each.seen_until, lanes=each.lanes) for each in holders
        ],
        free_lanes=LANES - sum(len(each.lanes) for each in holders),
        open_alerts=open_alerts,
    )


class _Page(NamedTuple):
    """Which stays a list is asked for. One more than `limit` is read, to know whether there are others."""

    choice: Choice
    after: UUID
    limit: int

    @classmethod
    def of(cls, query: RefusedQuery | WaitingQuery) -> _Page:
        return cls(Choice(None, query.code, query.facility, query.before), query.after or _FIRST_STAY, query.limit)

    def following(self, found: Sequence[store.Refused | store.Waiting]) -> str | None:
        """The stay after which the next page begins; None if `found` is all."""
        return str(found[self.limit - 1].stay_id) if len(found) > self.limit else None


async def list_refused(pool: asyncpg.Pool, query: RefusedQuery, now: datetime) -> RefusedStates:
    """A page of what waits for a human. `next` is the stay id after which the following page begins."""
    asked = _Page.of(query)
    async with pool.acquire() as connection:
        found = await store.list_refused(
            connection, asked.choice, settled=query.settled, after=asked.after, limit=asked.limit + 1
        )
    page = [_refused(each, now) for each in found[: asked.limit]]
    return RefusedStates(refused=page, next=asked.following(found))


async def list_waiting(pool: asyncpg.Pool, query: WaitingQuery, now: datetime) -> WaitingStates:
    """A page of what is tried again later. `next` is the stay id after which the following page begins."""
    asked = _Page.of(query)
    async with pool.acquire() as connection:
        found = await store.list_waiting(
            connection, asked.choice, reason=query.reason, after=asked.after, limit=asked.limit + 1
        )
    page = [_waiting(each, now) for each in found[: asked.limit]]
    return WaitingStates(waiting=page, next=asked.following(found))


async def inspect(pool: asyncpg.Pool, actor: str, stay_id: UUID, now: datetime, ask: Ask | None) -> StayInspection:
    """Where one stay stands, without what is declared of it; `ask` also asks the population database.

    The look is recorded. Refused `not_found`.
    """
    one = Choice(stay_ids=[stay_id])
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read"):
        stay = await store.find_stay(connection, stay_id)
        if stay is None:
            raise Refused("not_found")
        versions = await store.list_versions(connection, stay.facility_id, stay_id)
        waiting = await store.list_waiting(connection, one, reason=None, after=_FIRST_STAY, limit=_ONE_LIMIT)
        refused = await store.list_refused(connection, one, settled=None, after=_FIRST_STAY, limit=_ONE_LIMIT)
        lane = lane_of(stay.facility_id)
        holder = await store.lane_holder(connection, lane)
        confirmed = await store.confirmed_digests(connection, stay.facility_id, stay_id)
        await _record(connection, actor, "sync.inspect", f"stay/{stay_id}", now, asked=ask is not None)
    return StayInspection(
        stay_id=str(stay_id),
        facility=stay.facility_code,
        sandbox=stay.sandbox,
        place=_place(stay.version, versions, waiting, refused),
        versions=[VersionState.model_validate(each._asdict()) for each in versions],
        waiting=_waiting(waiting[0], now) if waiting else None,
        refused=_refused(refused[0], now) if refused else None,
        lane=lane,
        lane_holder=str(holder) if holder else None,
        population=await _population_says(ask, stay_id, confirmed) if ask is not None else None,
    )


def _place(
    current: int,
    versions: Sequence[store.Version],
    waiting: Sequence[store.Waiting],
    refused: Sequence[store.Refused],
) -> Place:
    """Decided by the current version alone, as the conservation law counts it."""
    newest = versions[0]
    if newest.confirmed_at is not None:
        return "confirmed"
    if newest.queued:
        return "queued"
    if any(each.version == current for each in waiting):
        return "waiting"
    return "refused" if any(each.version == current for each in refused) else "none"


async def _population_says(ask: Ask, stay_id: UUID, confirmed: Mapping[int, str]) -> PopulationSays:
    """Only which version is there, and whether it is the one confirmed to us: whether the guest's document is in order
    is no business of an operator."""
    try:
        async with answering(ASK_SECONDS):
            state = (await ask([stay_id])).get(stay_id)
    except (Unreachable, Ambiguous) as error:
        return PopulationSays(version=None, as_confirmed=None, code=error.code)
    if state is None:
        return PopulationSays(version=None, as_confirmed=None, code="no_result")
    digest = confirmed.get(state.version or 0)
    same = None if digest is None else digest == state.digest
    return PopulationSays(version=state.version, as_confirmed=same, code=None)


def _refused(found: store.Refused, now: datetime) -> RefusedState:
    return RefusedState(
        stay_id=str(found.stay_id),
        facility=found.facility_code,
        version=found.version,
        code=found.code,
        refused_at=found.refused_at,
        age_seconds=_age(found.refused_at, now),
        settled_at=found.settled_at,
        settled_by=found.settled_by,
        settled_reason=found.settled_reason,
    )


def _waiting(found: store.Waiting, now: datetime) -> WaitingState:
    return WaitingState(
        stay_id=str(found.stay_id),
        facility=found.facility_code,
        version=found.version,
        reason=found.reason,
        code=found.code,
        attempts=found.attempts,
        waiting_since=found.waiting_since,
        due_at=found.due_at,
        age_seconds=_age(found.waiting_since, now),
    )


def _age(since: datetime | None, now: datetime) -> int:
    return 0 if since is None else max(0, int((now - since).total_seconds()))


# -- acting ------------------------------------------------------------------------------------------------------------


async def replay(pool: asyncpg.Pool, ring: Callable[[], None], actor: str, selection: Move, now: datetime) -> Acted:
    """Queue refused stays again, settled ones too; at most 10,000. `ring` wakes the workers.

    Refused `request_invalid` when nothing says which stays.
    """

    async def change(connection: Connection, choice: Choice) -> list[UUID]:
        return await store.replay(connection, choice, ACTION_ROWS)

    return await _act(pool, ring, actor, "sync.replay", selection, now, change, reason=selection.reason)


async def release(pool: asyncpg.Pool, ring: Callable[[], None], actor: str, selection: Move, now: datetime) -> Acted:
    """Let waiting stays be tried at once; at most 10,000. Of the ambiguous ones is asked first, as always.

    Refused `request_invalid` when nothing says which stays.
    """

    async def change(connection: Connection, choice: Choice) -> list[UUID]:
        return await store.release(connection, choice, ACTION_ROWS, now)

    return await _act(pool, ring, actor, "sync.release", selection, now, change, reason=selection.reason)


async def settle(pool: asyncpg.Pool, actor: str, settlement: Settlement, now: datetime) -> Acted:
    """Mark refused stays as looked at, so that they alarm nobody; at most 10,000. They stay refused.

    Refused `request_invalid` when nothing says which stays.
    """

    async def change(connection: Connection, choice: Choice) -> list[UUID]:
        return await store.settle(connection, choice, ACTION_ROWS, settlement.reason, actor, now)

    details = {"reason": settlement.reason}
    return await _act(pool, lambda: None, actor, "sync.settle", settlement, now, change, **details)


class _OnlyCounted(Exception):
    """Undoes what a dry run did."""


async def _act(
    pool: asyncpg.Pool,
    ring: Callable[[], None],
    actor: str,
    action: str,
    selection: Selection,
    now: datetime,
    change: Callable[[Connection, Choice], Awaitable[list[UUID]]],
    **details: Any,
) -> Acted:
    """Change and record in one transaction. A dry run does the same and takes it back, so that it cannot differ."""
    choice = Choice(selection.stay_ids, selection.code, selection.facility, selection.before)
    if all(each is None for each in choice):
        raise Refused("request_invalid", violations=[violation("none_chosen", "")])
    moved: list[UUID] = []
    try:
        async with pool.acquire() as connection, connection.transaction():
            moved = await change(connection, choice)
            if selection.dry_run:
                raise _OnlyCounted  # noqa: TRY301 - it ends the transaction
            if moved:
                await _record(connection, actor, action, _object(moved), now, **_told(selection, moved), **details)
    except _OnlyCounted:
        pass
    else:
        ring()
    return Acted(
        stays=len(moved),
        dry_run=selection.dry_run,
        more=len(moved) == ACTION_ROWS,
        stay_ids=[str(each) for each in moved[:NAMED_ROWS]],
    )


def _object(moved: Sequence[UUID]) -> str | None:
    return f"stay/{moved[0]}" if len(moved) == 1 else None


def _told(selection: Selection, moved: Sequence[UUID]) -> dict[str, Any]:
    """How many, by what they were chosen, and between which ids they lie."""
    return {
        "stays": len(moved),
        "first": str(moved[0]),
        "last": str(moved[-1]),
        "named": len(selection.stay_ids or ()),
        "code": selection.code,
        "facility": selection.facility,
        "before": selection.before.isoformat() if selection.before else None,
    }


async def _record(
    connection: Connection, actor: str, action: str, object_: str | None, now: datetime, **details: Any
) -> None:
    await audit.append(connection, AuditEntry(now, "operator", actor, action, object_, details=details))


# -- alerts ------------------------------------------------------------------------------------------------------------


async def list_alerts(pool: asyncpg.Pool, query: OperatorAlertsQuery) -> AlertStates:
    """What has to be looked at, the newest occurrence first."""
    async with pool.acquire() as connection:
        found = await alerts.list_alerts(connection, closed=query.closed, limit=query.limit)
    return AlertStates(alerts=[AlertState.model_validate({**each._asdict(), "kind": str(each.kind)}) for each in found])


async def close_alert(pool: asyncpg.Pool, actor: str, closing: AlertClosing, now: datetime) -> None:
    """Note that an alert was dealt with; if it happens again it is open again. Refused `not_found`: none is open."""
    if closing.kind not in list(AlertKind):
        raise Refused("not_found")
    async with pool.acquire() as connection, connection.transaction():
        if not await alerts.close_alert(connection, AlertKind(closing.kind), closing.subject, actor, now):
            raise Refused("not_found")
        await _record(connection, actor, "alert.close", f"alert/{closing.kind}", now, subject=closing.subject)


# -- figures -----------------------------------------------------------------------------------------------------------


async def measure_once(pool: asyncpg.Pool, audit_pool: asyncpg.Pool, now: datetime) -> Mapping[str, int]:
    """Read what the metrics tell of the database, and return it in part. `pool`: asm_sync; `audit_pool`: asm_audit."""
    async with pool.acquire() as connection:
        parts = await store.count_backlog(connection)
        figures = await store.measure(connection)
        open_alerts = await store.count_open_alerts(connection)
    async with audit_pool.acquire() as connection:
        pending, oldest_pending_at, signed_at = await store.measure_audit(connection)
    places: Counter[tuple[str, str]] = Counter({(place, ""): 0 for place in ("queued", "refused", "settled")})
    places.update({("waiting", reason.value): 0 for reason in WaitReason})
    for part in parts:
        places[part.place, part.reason or ""] += part.stays
    for (place, reason), stays in places.items():
        BACKLOG.labels(place, reason).set(stays)
    OLDEST_QUEUED.set(_age(figures.oldest_queued_at, now))
    for place, gauge in (("waiting", OLDEST_WAITING), ("refused", OLDEST_REFUSED)):
        since = [part.oldest_at for part in parts if part.place == place and part.oldest_at is not None]
        gauge.set(_age(min(since, default=None), now))
    WORKERS.set(figures.workers)
    LANES_HELD.set(figures.lanes_held)
    for kind in AlertKind:
        ALERTS_OPEN.labels(kind.value).set(open_alerts.get(kind, 0))
    EVENTS_PENDING.set(figures.events_pending)
    OLDEST_EVENT.set(_age(figures.oldest_event_at, now))
    AUDIT_PENDING.set(pending)
    OLDEST_AUDIT.set(_age(oldest_pending_at, now))
    CHECKPOINT_AGE.set(_age(signed_at, now))
    COMPARED_AGE.set(_age(figures.compared_at, now))
    MEASURED_AT.set(now.timestamp())
    return {"backlog": sum(places.values()), "audit_pending": pending}
