"""Statements over what owners are told of (sự kiện): written with what happened, numbered and delivered later."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple
from uuid import UUID

from asm_daemon.store import Connection


class EventKind(StrEnum):
    """What an owner wants to hear of at once. An event says which stay, never anything about the guest."""

    DECLARED_LATE = "stay.declared_late"
    DEADLINE_NEAR = "stay.deadline_near"
    """A guest in house is not declared yet, and the deadline is near."""
    REFUSED = "stay.refused"
    """The population database refused a stay; the operator is looking at it."""
    CHECK_DOCUMENT = "stay.check_document"
    """The document should be looked at again. It is never said why."""


class NewEvent(NamedTuple):
    """An event to be told. `event_id` is a UUIDv7; `stay_id` is None of a guest who is not declared yet."""

    event_id: UUID
    facility_id: int
    kind: EventKind
    stay_id: UUID | None
    at: datetime


async def append_events(connection: Connection, events: Sequence[NewEvent]) -> None:
    """Add events, in the transaction of what they tell of. One whose id is there already is left as it is."""
    await connection.execute(
        """
        INSERT INTO owner_events_pending (event_id, facility_id, kind, stay_id, at)
        SELECT * FROM unnest($1::uuid[], $2::int[], $3::text[], $4::uuid[], $5::timestamptz[])
        ON CONFLICT DO NOTHING
        """,
        *[list(column) for column in zip(*events, strict=True)] or [[], [], [], [], []],
    )
