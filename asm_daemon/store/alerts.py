"""Statements over what the operator has to look at. One row for each thing wrong, however often it is found."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple

import orjson

from asm_daemon.store import Connection


class AlertKind(StrEnum):
    """What is wrong. The text of each for people is in docs/operations.md."""

    EXTRA_STAY = "extra_stay"
    """The population database holds a stay, or a version of one, that is not ours."""
    POPULATION_DRIFT = "population_drift"
    """The population database did not hold what it had confirmed; it was queued again."""
    KEY_NEARLY_SPENT = "key_nearly_spent"
    """A data key has sealed half of what one key may; at the limit nothing of its month can be sealed."""
    NOT_REENCRYPTED = "not_reencrypted"
    """A record under a replaced key is not what its receipt was signed over, and was left as it is."""
    MONTH_NOT_ENDED = "month_not_ended"
    """The retention of a month is over, and a record of it that has to be kept cannot be sealed anew."""
    HOLDS_CHANGED = "holds_changed"
    """Legal holds are not what the audit tells of them: somebody changed the database. No month is ended until then."""
    REGISTER_CHANGED = "register_changed"
    """The nightly verification found what is not what was signed or told: somebody changed the database."""
    ENTRY_NOT_OURS = "entry_not_ours"
    """Somebody wrote an audit entry that only our programs write; it counts for nothing, and stays there for good."""
    VALUES_LOGGED = "values_logged"
    """PostgreSQL is told to log values since the daemon started; `details` are settings and what they have to be."""
    KEY_BACKUP_TOO_OLD = "key_backup_too_old"
    """A backup of the key store still holds keys that were destroyed longer ago than a backup may be old."""
    DECLARE_AND_CANCEL = "declare_and_cancel"
    """A facility declares and cancels again, as one does who asks the population database about strangers."""
    WEBHOOK_DISABLED = "webhook_disabled"
    """An owner's endpoint failed for so long that nothing is sent to it any more."""
    WITNESS_SILENT = "witness_silent"
    """The witness has not confirmed the audit for so long that releases are not given out any more."""
    VERIFICATION_WITHHELD = "verification_withheld"
    """A facility had more guests verified in a day than its size explains; what was found is not told to it."""


class Alert(NamedTuple):
    """An alert (cảnh báo vận hành). `details` are counts and codes of its last occurrence; `closed_at`: dealt with."""

    kind: AlertKind
    subject: str
    raised_at: datetime
    last_at: datetime
    occurrences: int
    details: Mapping[str, int | str]
    closed_at: datetime | None
    closed_by: str | None


_LASTING = frozenset({AlertKind.EXTRA_STAY, AlertKind.ENTRY_NOT_OURS})
"""Alerts of what lasts until somebody else changes it, and is found again as long as it does."""


async def raise_alert(
    connection: Connection, kind: AlertKind, subject: str, details: Mapping[str, int | str], now: datetime
) -> bool:
    """Alert the operator; true if it is new or open again, false if it is one more occurrence.

    One that was closed is open again, but what lasts only if its details are others than those that were looked at.
    """
    is_new: bool = await connection.fetchval(
        """
        INSERT INTO operator_alerts AS held (kind, subject, raised_at, last_at, occurrences, details)
        VALUES ($1, $2, $4, $4, 1, $3::jsonb)
        ON CONFLICT (kind, subject) DO UPDATE
        SET (last_at, details, raised_at, occurrences, closed_at, closed_by) = (
            SELECT EXCLUDED.last_at, EXCLUDED.details,
                CASE WHEN again THEN EXCLUDED.raised_at ELSE held.raised_at END,
                CASE WHEN again THEN 1 ELSE held.occurrences + 1 END,
                CASE WHEN again THEN NULL ELSE held.closed_at END,
                CASE WHEN again THEN NULL ELSE held.closed_by END
            FROM (VALUES (held.closed_at IS NOT NULL AND NOT ($5 AND held.details = EXCLUDED.details))) AS c (again)
        )
        RETURNING occurrences = 1
        """,
        kind,
        subject,
        orjson.dumps(details).decode(),
        now,
        kind in _LASTING,
    )
    return is_new


async def list_alerts(connection: Connection, *, closed: bool, limit: int) -> list[Alert]:
    """At most `limit` alerts that are open, or all of them with `closed`; the newest occurrence first."""
    rows = await connection.fetch(
        """
        SELECT kind, subject, raised_at, last_at, occurrences, details, closed_at, closed_by FROM operator_alerts
        WHERE $1 OR closed_at IS NULL ORDER BY last_at DESC, kind, subject LIMIT $2
        """,
        closed,
        limit,
    )
    return [
        Alert(**{**row, "kind": AlertKind(row["kind"]), "details": orjson.loads(row["details"])})
        for row in map(dict, rows)
    ]


async def close_alert(connection: Connection, kind: AlertKind, subject: str, by: str, now: datetime) -> bool:
    """Note who dealt with an alert; false if there is no such open one."""
    status = await connection.execute(
        """
        UPDATE operator_alerts SET closed_at = $4, closed_by = $3
        WHERE kind = $1 AND subject = $2 AND closed_at IS NULL
        """,
        kind,
        subject,
        by,
        now,
    )
    return bool(status == "UPDATE 1")
