"""Legal holds by document (lệnh giữ theo số giấy tờ): find every stay of a number, and hold each under one warrant.

It reads about a person, so it goes as a police search does, in two phases that fail closed; the operator learns which
stays are held, never who the guest is.
"""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

from uuid_utils.compat import uuid7

from asm_daemon import audit, police, retention
from asm_daemon.audit import AuditEntry
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch, document_value
from asm_daemon.index_keys import ask_by_every_key
from asm_daemon.model import StayRow
from asm_daemon.police import UNREADABLE_NAMED, Desk
from asm_daemon.problems import Refused
from asm_daemon.store import Connection
from asm_daemon.store import retention as store
from asm_daemon.store.police import Span
from asm_daemon.store.retention import Hold
from asm_daemon.told import Holds
from schemas.police import DocumentNumber, QueryKind

STAYS_LIMIT = 10_000
"""How many stays may carry a number's tag. More would mean that somebody plants them, and nothing is held."""
_BEGINNING = datetime.fromtimestamp(0, UTC)


class Order(NamedTuple):
    """By what a hold is ordered, and who places it."""

    warrant: str
    reason: str
    by: str

    def __repr__(self) -> str:
        return "<Order>"


class Held(NamedTuple):
    """What a hold by document did: `stays` are all that are under the warrant now, `placed` of them since now.

    `unreadable` carry the number's tag, but do not open: it is unknown whose they are, and they are not held.
    """

    trace: UUID
    placed: int
    stays: list[UUID]
    unreadable: list[UUID]


async def hold_document(desk: Desk, order: Order, wanted: DocumentNumber, now: datetime) -> Held:
    """Hold every stay of a document's number that is here, of all months; said again, those that came since.

    The pool of `desk` connects as asm_retention. Refused as `police.search` is: `audit_unavailable`,
    `audit_not_witnessed`, `unavailable`. Then it is to be said again: nothing is held, or all but what carries the tags
    of a key that was renewed meanwhile.
    """
    intent = _intent(desk, order, wanted, now)
    await police.begin(desk, intent, lambda: None)
    number, placed = document_value(wanted.document_number), 0
    holds = Holds(desk.audit_pool, desk.keyring)

    async def place(searched: list[Span]) -> Held:
        nonlocal placed
        async with police.reading(desk.pool) as connection:
            await holds.read()  # all of the audit, before anybody has to wait
            async with connection.transaction():
                await store.use_holds(connection)
                await holds.read()
                rows = await store.stays_by_document(connection, searched, STAYS_LIMIT + 1)
                held = await _hold(connection, desk.keyring, holds, number, rows, order, intent)
                held = held._replace(placed=placed + held.placed)
                await audit.append(connection, police.outcome(intent, _summary(held)))
        placed = held.placed
        return held

    try:
        return await ask_by_every_key(desk.keyring, lambda: police.spans(desk.keyring, number, _BEGINNING, now), place)
    except Refused as failure:
        await police.record(desk, police.outcome(intent, {"problem": failure.code}))
        raise


def _intent(desk: Desk, order: Order, wanted: DocumentNumber, now: datetime) -> AuditEntry:
    entry = AuditEntry(at=now, actor_kind="operator", actor=order.by, action="hold.search", object=None)
    details = {
        "kind": QueryKind.DOCUMENT.value,
        "warrant": order.warrant,
        "reason": order.reason,
        "terms_sealed": police.sealed_terms(desk, entry.id, wanted),
    }
    return replace(entry, details=details)


async def _hold(
    connection: Connection,
    keyring: Keyring,
    holds: Holds,
    number: str,
    rows: list[StayRow],
    order: Order,
    intent: AuditEntry,
) -> Held:
    if len(rows) > STAYS_LIMIT:
        raise Refused("unavailable")  # an incomplete hold would look like a complete one
    found, unreadable = _sorted_out(keyring, rows, number)
    held = await store.held_by_warrant(connection, order.warrant, [row.id for row in found])
    before = {stay_id for hold_id, stay_id in held if holds.tells(hold_id)}
    for row in found:
        if row.id not in before:
            hold = Hold(uuid7(), row.facility_id, row.id, None, None, order.warrant, order.reason, intent.at, order.by)
            await retention.insert_hold(connection, keyring, hold)
    stays = [row.id for row in found]
    return Held(intent.id, len(stays) - len(before), stays, unreadable)


def _sorted_out(keyring: Keyring, rows: list[StayRow], number: str) -> tuple[list[StayRow], list[UUID]]:
    """(the stays of the number, those that do not open): equal tags are a hint, the opened number decides."""
    found, unreadable = [], []
    for row in rows:
        try:
            if police.open_if_of(keyring, row, number) is not None:
                found.append(row)
        except (Tampered, UnknownEpoch):
            unreadable.append(row.id)
    return found, unreadable


def _summary(held: Held) -> dict[str, Any]:
    return {
        "count": len(held.stays),
        "placed": held.placed,
        "returned_sha256": police.digest_of_ids(held.stays),
        "unreadable_count": len(held.unreadable),
        "unreadable": [str(stay_id) for stay_id in held.unreadable[:UNREADABLE_NAMED]],
    }
