"""What owners are told of (sự kiện): numbered, so that none is missed, pulled page by page, and erased in time.

What happened appends its event in its own transaction; `number_once` gives the committed ones their positions under one
row lock (docs/adr/0021). An event is thin: which stay, and what; whoever wants to know more asks with their key.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from urllib.parse import urlencode
from uuid import UUID

import asyncpg

from asm_daemon.crypto import Keyring, Tampered
from asm_daemon.model import Principal, Scope
from asm_daemon.problems import Refused
from asm_daemon.store import events as store
from asm_daemon.store.events import EventKind, NewEvent, event_id_of
from schemas.violations import violation
from schemas.webhooks import EventData, EventPage, EventsQuery, OwnerEvent

NUMBERED_LIMIT = 1000
"""How many events one transaction numbers, and how many guests one transaction tells of."""

ERASED_LIMIT = 10_000
"""How many events one transaction erases."""


async def number_once(pool: asyncpg.Pool, now: datetime) -> dict[str, int]:
    """Give every committed event its position, and queue it for the endpoints of those who may know of it.

    Any process may do this at any time; they take turns. `pool` connects as asm_sync. Returns the counts: events,
    deliveries.
    """
    counts = {"events": 0, "deliveries": 0}
    while True:
        # Read committed: what the turn before this one numbered must be seen once the lock is ours.
        async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            last = await store.lock_head(connection)
            taken, position, queued = await store.number_pending(connection, last, NUMBERED_LIMIT, now)
            if position > last:
                await store.update_head(connection, position)
        counts["events"] += position - last
        counts["deliveries"] += queued
        if taken < NUMBERED_LIMIT:
            return counts


async def erase_once(pool: asyncpg.Pool, kept_days: int, now: datetime) -> dict[str, int]:
    """Erase the events that were numbered `kept_days` days ago, page by page: numbering waits for one page at most.

    `pool` connects as asm_sync.
    """
    before, erased = now - timedelta(days=kept_days), 0
    while True:
        async with pool.acquire() as connection, connection.transaction(isolation="read_committed"):
            await store.lock_head(connection)
            gone = await store.erase_events(connection, before, ERASED_LIMIT)
        erased += gone
        if gone < ERASED_LIMIT:
            return {"events": erased}


async def tell_deadlines_once(pool: asyncpg.Pool, notice_minutes: int, now: datetime) -> dict[str, int]:
    """Tell, once for each deadline, of every guest in house whose declaration is due within `notice_minutes`, or was.

    `pool` connects as asm_intake.
    """
    told = 0
    while True:
        async with pool.acquire() as connection, connection.transaction():
            found = await store.tell_deadlines(connection, now + timedelta(minutes=notice_minutes), NUMBERED_LIMIT)
            kind = EventKind.DEADLINE_NEAR
            await store.append_events(
                connection,
                [
                    NewEvent(event_id_of(kind, expected_id, due.isoformat()), facility_id, kind, None, now, expected_id)
                    for facility_id, expected_id, due in found
                ],
            )
        told += len(found)
        if len(found) < NUMBERED_LIMIT:
            return {"events": told}


async def page(
    pool: asyncpg.Pool, keyring: Keyring, public_url: str, principal: Principal, query: EventsQuery
) -> tuple[EventPage, bool]:
    """Events of the facilities that the principal may see, oldest first, and whether there are more at once.

    Refused facility_not_granted, scope_missing, request_invalid (a cursor of somebody else), events_erased (some that
    come after the cursor are no longer kept).
    """
    facility_ids = _chosen(principal, query.facility)
    scope = f"events|{principal.id}"
    after = 0 if query.after is None else _position(keyring, scope, query.after)
    # One snapshot: every event up to the head's position is in it.
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        head = await store.read_head(connection)
        found = await store.list_events(connection, facility_ids, after, head.position, query.limit)
    if query.after is not None and after < head.erased:
        raise Refused("events_erased")
    more = len(found) == query.limit
    last = found[-1].position if more else max(after, head.position)
    events = [
        document(
            event.event_id, event.kind, event.at, event.facility_code, event.stay_id, event.expected_id, public_url
        )
        for event in found
    ]
    return EventPage(events=events, next=keyring.seal_cursor(scope, last.to_bytes(8, "big"))), more


def document(
    event_id: UUID,
    kind: EventKind,
    at: datetime,
    facility_code: str | None,
    stay_id: UUID | None,
    expected_id: UUID | None,
    public_url: str,
) -> OwnerEvent:
    """An event as everybody outside sees it, pulled or pushed."""
    link = None
    if stay_id is not None:
        link = f"{public_url}/v1/stays/{stay_id}"
    elif facility_code is not None:
        link = f"{public_url}/v1/expected?{urlencode({'facility': facility_code})}"
    return OwnerEvent(
        id=str(event_id),
        type=kind.value,
        timestamp=at,
        data=EventData(
            facility=facility_code,
            stay_id=None if stay_id is None else str(stay_id),
            expected_id=None if expected_id is None else str(expected_id),
            link=link,
        ),
    )


def _chosen(principal: Principal, facility_code: str | None) -> list[int]:
    if facility_code is None:
        return [facility.id for facility, scopes in principal.grants.values() if Scope.STATUS in scopes]
    if facility_code not in principal.grants:
        raise Refused("facility_not_granted")
    facility, scopes = principal.grants[facility_code]
    if Scope.STATUS not in scopes:
        raise Refused("scope_missing")
    return [facility.id]


def _position(keyring: Keyring, scope: str, cursor: str) -> int:
    try:
        return int.from_bytes(keyring.open_cursor(scope, cursor), "big")
    except Tampered:
        raise Refused("request_invalid", violations=[violation("wrong_cursor", "/after")]) from None
