"""Statements over the alerts of the police (cảnh báo cho công an): raised by the sync, worked off by officers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from datetime import datetime
from enum import StrEnum
from typing import Literal, NamedTuple
from uuid import UUID

import asyncpg

from asm_daemon.model import StayRow
from asm_daemon.store import Connection
from asm_daemon.store.facilities import facility
from asm_daemon.store.police import Hit

_STAY_COLUMNS = ", ".join(f"s.{field.name}" for field in fields(StayRow))
_OLD_COLUMNS = _STAY_COLUMNS.replace("s.id", "s.stay_id")
_STAY_WIDTH = len(fields(StayRow))
AlertState = Literal["open", "seen", "handled"]


class PoliceAlertKind(StrEnum):
    """Why the police are alerted."""

    DOCUMENT_REVOKED = "document_revoked"
    """The guest was declared with a document that is on the list of the revoked."""


class NewPoliceAlert(NamedTuple):
    """An alert to be raised. `alert_id` is a UUIDv7."""

    alert_id: UUID
    kind: PoliceAlertKind
    facility_id: int
    stay_id: UUID
    version: int
    raised_at: datetime


class PoliceAlertRow(NamedTuple):
    """An alert, where, and how the stay stands now. `arrived_at` and `status` are None when the stay is gone;
    `verification` is of `confirmed_version`, the newest that was confirmed."""

    alert_id: UUID
    kind: PoliceAlertKind
    stay_id: UUID
    version: int
    raised_at: datetime
    state: AlertState
    changed_at: datetime | None
    changed_by: UUID | None
    facility_code: str
    facility_name: str
    facility_commune: str
    facility_address: str
    facility_kind: str
    arrived_at: datetime | None
    status: str | None
    confirmed_version: int | None
    verification: str | None


async def insert_alerts(connection: Connection, alerts: Sequence[NewPoliceAlert]) -> None:
    """Raise alerts; a version of a stay that raised one before raises no other. Needs no right to read."""
    await connection.execute(
        """
        INSERT INTO police_alerts (id, kind, facility_id, stay_id, version, raised_at)
        SELECT * FROM unnest($1::uuid[], $2::text[], $3::int[], $4::uuid[], $5::int[], $6::timestamptz[])
        ON CONFLICT DO NOTHING
        """,
        *[list(column) for column in zip(*alerts, strict=True)] or [[] for _ in range(6)],
    )


async def list_alerts(
    connection: Connection, before: UUID, state: AlertState | None, limit: int
) -> list[PoliceAlertRow]:
    """At most `limit` alerts with ids below `before`, in this state or any, the newest first."""
    rows = await connection.fetch(
        f"SELECT {_ALERT} WHERE a.id < $1 AND ($2::text IS NULL OR a.state = $2) ORDER BY a.id DESC LIMIT $3",
        before,
        state,
        limit,
    )
    return [_alert(row) for row in rows]


async def find_alert(connection: Connection, alert_id: UUID) -> PoliceAlertRow | None:
    """One alert."""
    row = await connection.fetchrow(f"SELECT {_ALERT} WHERE a.id = $1", alert_id)
    return _alert(row) if row else None


async def change_state(
    connection: Connection, alert_id: UUID, state: Literal["seen", "handled"], officer: UUID, now: datetime
) -> bool:
    """Note how far somebody is with an alert; false if it is so far already, or further, or does not exist."""
    status = await connection.execute(
        """
        UPDATE police_alerts SET state = $2, changed_by = $3, changed_at = $4
        WHERE id = $1 AND (state = 'open' OR state = 'seen' AND $2 = 'handled')
        """,
        alert_id,
        state,
        officer,
        now,
    )
    return bool(status == "UPDATE 1")


async def hits_of_alert(connection: Connection, alert_id: UUID, oldest: UUID) -> list[Hit]:
    """The version of a stay that raised an alert with what was said of it, then the newest one if that is another.

    Empty if the stay was registered before the id `oldest`, or is gone.
    """
    rows = await connection.fetch(
        f"""
        SELECT {_STAY_COLUMNS}, l.verification,
               f.id AS f_id, f.code AS f_code, f.name AS f_name, f.kind AS f_kind, f.province AS f_province,
               f.commune AS f_commune, f.address AS f_address, f.zone AS f_zone, f.authority AS f_authority,
               f.capacity AS f_capacity, f.sandbox AS f_sandbox
        FROM police_alerts AS a
        CROSS JOIN LATERAL (
            SELECT {_STAY_COLUMNS} FROM stays AS s WHERE s.id = a.stay_id AND s.facility_id = a.facility_id
            UNION ALL
            SELECT {_OLD_COLUMNS} FROM stay_versions AS s
            WHERE s.facility_id = a.facility_id AND s.stay_id = a.stay_id AND s.version = a.version
        ) AS s
        JOIN facilities AS f ON f.id = a.facility_id
        LEFT JOIN LATERAL (
            SELECT verification FROM sync_log AS l
            WHERE l.facility_id = a.facility_id AND l.stay_id = a.stay_id
                AND l.version <= s.version ORDER BY l.version DESC LIMIT 1
        ) AS l ON true
        WHERE a.id = $1 AND a.stay_id >= $2
        ORDER BY s.version
        """,  # noqa: S608 - text of our own
        alert_id,
        oldest,
    )
    return [Hit(StayRow(*row[:_STAY_WIDTH]), facility(row, "f_"), row["verification"]) for row in rows]


_NEWEST = """
        LEFT JOIN LATERAL (
            SELECT l.version, l.verification FROM sync_log AS l
            WHERE l.facility_id = a.facility_id AND l.stay_id = a.stay_id ORDER BY l.version DESC LIMIT 1
        ) AS v ON true
"""
_ALERT = f"""
        a.id, a.kind, a.stay_id, a.version, a.raised_at, a.state, a.changed_at, a.changed_by,
        f.code, f.name, f.commune, f.address, f.kind AS facility_kind, s.arrived_at, s.status, v.version, v.verification
        FROM police_alerts AS a
        JOIN facilities AS f ON f.id = a.facility_id
        LEFT JOIN stays AS s ON s.id = a.stay_id AND s.facility_id = a.facility_id
        {_NEWEST}
"""


def _alert(row: asyncpg.Record) -> PoliceAlertRow:
    alert = PoliceAlertRow(*row)
    return alert._replace(kind=PoliceAlertKind(alert.kind))
