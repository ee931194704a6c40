"""Statements over the endpoints that events are sent to (địa chỉ webhook), and what is still to be delivered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

import asyncpg

from asm_daemon.store import Connection
from asm_daemon.store.events import EventKind


@dataclass(frozen=True, slots=True, repr=False)
class EndpointRow:
    """An endpoint as it is stored. `sealed` holds the address and the secrets; `version` counts its sealings."""

    id: UUID
    principal_id: UUID
    host: str
    kinds: tuple[str, ...]
    sealed_epoch: int
    version: int
    sealed: bytes
    previous_until: datetime | None
    created_at: datetime
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_code: str | None

    def __repr__(self) -> str:
        return f"<EndpointRow {self.id}>"


class EndpointFacts(NamedTuple):
    """What an operator sees of an endpoint: no address but its host, and no secret."""

    id: UUID
    principal_id: UUID
    host: str
    created_at: datetime
    waiting: int
    failing_since: datetime | None
    disabled_at: datetime | None
    disabled_code: str | None


class FailureCount(NamedTuple):
    """How often an endpoint failed in one way."""

    endpoint_id: UUID
    code: str
    failures: int
    last_at: datetime


class Failing(NamedTuple):
    """Since when an endpoint has been failing, and how often since."""

    since: datetime
    attempts: int


class Busy(NamedTuple):
    """How many deliveries to an endpoint are in hand, and whose it is."""

    endpoint_id: UUID
    principal_id: UUID
    in_hand: int


class Room(NamedTuple):
    """How much may be claimed: at most so many in hand of one endpoint, and of one principal; and so many more now,
    of them `beside` to endpoints that have one in hand already."""

    per_endpoint: int
    per_principal: int
    beside: int
    places: int


class Delivery(NamedTuple):
    """A claimed delivery: `attempts` counts this one. `granted`: its receiver may (still) know of it."""

    endpoint_id: UUID
    event_id: UUID
    facility_code: str | None
    kind: EventKind
    stay_id: UUID | None
    expected_id: UUID | None
    at: datetime
    queued_at: datetime
    attempts: int
    granted: bool


_COLUMNS = (
    "id, principal_id, host, kinds, sealed_epoch, version, sealed, previous_until, created_at, failing_since,"
    " disabled_at, disabled_code"
)


# -- endpoints ---------------------------------------------------------------------------------------------------------


async def may_own_endpoints(connection: Connection, principal_id: UUID) -> bool:
    """Whether there is such a principal, and it is one that declares."""
    found: bool = await connection.fetchval(
        "SELECT EXISTS (SELECT FROM principals WHERE id = $1 AND active AND kind IN ('owner', 'vendor'))", principal_id
    )
    return found


async def free_place(connection: Connection, principal_id: UUID, limit: int) -> int | None:
    """The lowest place from 1 to `limit` that none of a principal's endpoints has."""
    place: int | None = await connection.fetchval(
        """
        SELECT min(place) FROM generate_series(1, $2::int) AS place
        WHERE place NOT IN (SELECT place FROM webhook_endpoints WHERE principal_id = $1)
        """,
        principal_id,
        limit,
    )
    return place


async def insert_endpoint(connection: Connection, row: EndpointRow, place: int) -> bool:
    """Add an endpoint in this place; false if somebody took it since."""
    added = await connection.fetchval(
        """
        INSERT INTO webhook_endpoints
            (id, principal_id, host, kinds, sealed_epoch, version, sealed, created_at, place)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (principal_id, place) DO NOTHING
        RETURNING id
        """,
        row.id,
        row.principal_id,
        row.host,
        list(row.kinds),
        row.sealed_epoch,
        row.version,
        row.sealed,
        row.created_at,
        place,
    )
    return added is not None


async def list_endpoints(connection: Connection, principal_id: UUID) -> list[EndpointRow]:
    """A principal's endpoints, the oldest first."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE principal_id = $1 ORDER BY created_at, id",  # noqa: S608 - ours
        principal_id,
    )
    return [_endpoint(row) for row in rows]


async def lock_endpoint(connection: Connection, endpoint_id: UUID, principal_id: UUID | None) -> EndpointRow | None:
    """An endpoint, of this principal unless None, locked until the transaction ends."""
    row = await connection.fetchrow(
        f"""
        SELECT {_COLUMNS} FROM webhook_endpoints
        WHERE id = $1 AND ($2::uuid IS NULL OR principal_id = $2) FOR UPDATE
        """,  # noqa: S608 - column names of our own
        endpoint_id,
        principal_id,
    )
    return None if row is None else _endpoint(row)


async def read_endpoints(connection: Connection, endpoint_ids: Sequence[UUID]) -> list[EndpointRow]:
    """These endpoints, as far as they exist."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE id = ANY($1::uuid[])",  # noqa: S608 - column names of our own
        list(endpoint_ids),
    )
    return [_endpoint(row) for row in rows]


async def list_all(connection: Connection, limit: int) -> list[EndpointFacts]:
    """At most `limit` endpoints for an operator: the disabled first, then those that fail, then the newest."""
    rows = await connection.fetch(
        """
        SELECT e.id, principal_id, host, created_at,
            (SELECT count(*) FROM webhook_deliveries AS d WHERE d.endpoint_id = e.id) AS waiting,
            failing_since, disabled_at, disabled_code
        FROM webhook_endpoints AS e
        ORDER BY disabled_at NULLS LAST, failing_since NULLS LAST, created_at DESC LIMIT $1
        """,
        limit,
    )
    return [EndpointFacts(*row) for row in rows]


async def count_waiting(connection: Connection, endpoint_ids: Sequence[UUID]) -> dict[UUID, int]:
    """How many deliveries wait for each of these endpoints; none of what is missing."""
    rows = await connection.fetch(
        "SELECT endpoint_id, count(*) FROM webhook_deliveries WHERE endpoint_id = ANY($1::uuid[]) GROUP BY 1",
        list(endpoint_ids),
    )
    return {row["endpoint_id"]: row["count"] for row in rows}


async def list_failures(connection: Connection, endpoint_ids: Sequence[UUID]) -> list[FailureCount]:
    """How these endpoints failed lately, the last failure first."""
    rows = await connection.fetch(
        """
        SELECT endpoint_id, code, failures, last_at FROM webhook_failures
        WHERE endpoint_id = ANY($1::uuid[]) ORDER BY last_at DESC, code
        """,
        list(endpoint_ids),
    )
    return [FailureCount(*row) for row in rows]


async def reseal_endpoint(
    connection: Connection, endpoint_id: UUID, epoch: int, version: int, sealed: bytes, previous_until: datetime | None
) -> bool:
    """Replace what is sealed of an endpoint; false if somebody did so since version - 1."""
    status = await connection.execute(
        """
        UPDATE webhook_endpoints SET sealed_epoch = $2, version = $3, sealed = $4, previous_until = $5
        WHERE id = $1 AND version = $3 - 1
        """,
        endpoint_id,
        epoch,
        version,
        sealed,
        previous_until,
    )
    return bool(status == "UPDATE 1")


async def list_sealed_before(connection: Connection, epoch: int, limit: int) -> list[EndpointRow]:
    """At most `limit` endpoints that are sealed under the key of an earlier month."""
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM webhook_endpoints WHERE sealed_epoch < $1 ORDER BY id LIMIT $2",  # noqa: S608 - ours
        epoch,
        limit,
    )
    return [_endpoint(row) for row in rows]


async def delete_endpoint(connection: Connection, endpoint_id: UUID) -> None:
    """Forget an endpoint, what waits for it and how it failed.

    It needs the lock of `lock_endpoint`, and a snapshot taken after it: nothing is queued for the endpoint any more.
    """
    await connection.execute(
        """
        WITH undelivered AS (
            DELETE FROM webhook_deliveries WHERE endpoint_id = $1
        ), forgotten AS (
            DELETE FROM webhook_failures WHERE endpoint_id = $1
        )
        DELETE FROM webhook_endpoints WHERE id = $1
        """,
        endpoint_id,
    )


async def enable_endpoint(connection: Connection, endpoint_id: UUID) -> bool:
    """Send to an endpoint again what happens from now on; false if it was not disabled."""
    status = await connection.execute(
        """
        UPDATE webhook_endpoints
        SET disabled_at = NULL, disabled_code = NULL, failing_since = NULL, failed_attempts = 0, rest_until = NULL
        WHERE id = $1 AND disabled_at IS NOT NULL
        """,
        endpoint_id,
    )
    return bool(status == "UPDATE 1")


async def disable_endpoint(connection: Connection, endpoint_id: UUID, code: str, now: datetime) -> bool:
    """Send no more to an endpoint, and drop what waits; false if it was disabled before.

    It needs a lock of the endpoint, and a snapshot taken after it: nothing is queued for it meanwhile.
    """
    disabled = await connection.fetchval(
        """
        WITH disabled AS (
            UPDATE webhook_endpoints SET disabled_at = $3, disabled_code = $2
            WHERE id = $1 AND disabled_at IS NULL RETURNING id
        ), dropped AS (
            DELETE FROM webhook_deliveries USING disabled WHERE endpoint_id = disabled.id
        )
        SELECT id FROM disabled
        """,
        endpoint_id,
        code,
        now,
    )
    return disabled is not None


# -- deliveries --------------------------------------------------------------------------------------------------------


async def queue_test(connection: Connection, endpoint_id: UUID, event_id: UUID, now: datetime) -> UUID:
    """Queue a test, unless one waits already; the id of the one that waits then."""
    queued: UUID = await connection.fetchval(
        """
        WITH waiting AS (
            SELECT event_id FROM webhook_deliveries WHERE endpoint_id = $1 AND kind = $3 LIMIT 1
        ), queued AS (
            INSERT INTO webhook_deliveries (endpoint_id, event_id, kind, at, queued_at, due_at, attempts)
            SELECT $1, $2, $3, $4, $4, $4, 0 WHERE NOT EXISTS (SELECT FROM waiting)
            RETURNING event_id
        )
        SELECT event_id FROM waiting UNION ALL SELECT event_id FROM queued
        """,
        endpoint_id,
        event_id,
        EventKind.TEST,
        now,
    )
    return queued


async def claim_deliveries(
    connection: Connection, now: datetime, lease_until: datetime, busy: Sequence[Busy], room: Room
) -> list[Delivery]:
    """Claim deliveries that are due, until `lease_until`, as far as there is room beside what is in hand (`busy`).

    First come endpoints that do not fail, and of them those with the fewest in hand, then what was due first.
    """
    rows = await connection.fetch(
        """
        WITH busy AS (
            SELECT * FROM unnest($3::uuid[], $4::uuid[], $5::int[]) AS b (endpoint_id, principal_id, in_hand)
        ), open AS (
            SELECT e.id, e.principal_id, e.failing_since IS NOT NULL AS failing, coalesce(b.in_hand, 0) AS in_hand,
                coalesce((SELECT sum(in_hand) FROM busy WHERE busy.principal_id = e.principal_id), 0) AS of_principal
            FROM webhook_endpoints AS e LEFT JOIN busy AS b ON b.endpoint_id = e.id
            WHERE e.disabled_at IS NULL AND (e.rest_until IS NULL OR e.rest_until <= $1)
        ), offered AS (
            SELECT open.*, d.event_id, d.due_at,
                in_hand + row_number() OVER (PARTITION BY open.id ORDER BY d.due_at) AS nth
            FROM open CROSS JOIN LATERAL (
                SELECT event_id, due_at FROM webhook_deliveries
                WHERE endpoint_id = open.id AND due_at <= $1
                ORDER BY due_at LIMIT greatest(CASE WHEN open.failing THEN 1 ELSE $6 END - open.in_hand, 0)
                FOR UPDATE SKIP LOCKED
            ) AS d
        ), shared AS (
            SELECT *,
                of_principal + row_number() OVER (PARTITION BY principal_id ORDER BY failing, nth, due_at) AS share
            FROM offered
        ), ranked AS (
            SELECT *, row_number() OVER (PARTITION BY nth = 1 ORDER BY failing, nth, due_at) AS rank
            FROM shared WHERE share <= $7
        ), chosen AS (
            SELECT id AS endpoint_id, event_id FROM ranked WHERE nth = 1 OR rank <= $8
            ORDER BY failing, nth, due_at LIMIT $9
        ), claimed AS (
            UPDATE webhook_deliveries AS d SET due_at = $2, attempts = attempts + 1
            FROM chosen WHERE d.endpoint_id = chosen.endpoint_id AND d.event_id = chosen.event_id
            RETURNING d.*
        )
        SELECT c.endpoint_id, c.event_id, f.code, c.kind, c.stay_id, c.expected_id, c.at, c.queued_at, c.attempts,
            p.active AND (c.facility_id IS NULL OR EXISTS (
                SELECT FROM grants AS g WHERE g.principal_id = e.principal_id AND g.facility_id = c.facility_id
                    AND g.revoked_at IS NULL AND 'status' = ANY(g.scopes))) AS granted
        FROM claimed AS c
        JOIN webhook_endpoints AS e ON e.id = c.endpoint_id
        JOIN principals AS p ON p.id = e.principal_id
        LEFT JOIN facilities AS f ON f.id = c.facility_id
        """,
        now,
        lease_until,
        *[list(column) for column in zip(*busy, strict=True)] or [[] for _ in Busy._fields],
        *room,
    )
    return [Delivery(*row)._replace(kind=EventKind(row["kind"])) for row in rows]


async def finish_delivery(connection: Connection, delivery: Delivery) -> None:
    """A delivery has come to its end. It asks not whose claim it is: what was delivered is delivered."""
    await connection.execute(
        "DELETE FROM webhook_deliveries WHERE endpoint_id = $1 AND event_id = $2",
        delivery.endpoint_id,
        delivery.event_id,
    )


async def note_success(connection: Connection, endpoint_id: UUID) -> None:
    """The endpoint answers (again)."""
    await connection.execute(
        """
        UPDATE webhook_endpoints SET failing_since = NULL, failed_attempts = 0, rest_until = NULL
        WHERE id = $1 AND failing_since IS NOT NULL
        """,
        endpoint_id,
    )


async def postpone_delivery(connection: Connection, delivery: Delivery, due_at: datetime, code: str) -> bool:
    """Let a delivery be due later; false if somebody else has claimed or ended it since."""
    status = await connection.execute(
        """
        UPDATE webhook_deliveries SET due_at = $4, last_code = $5
        WHERE endpoint_id = $1 AND event_id = $2 AND attempts = $3
        """,
        delivery.endpoint_id,
        delivery.event_id,
        delivery.attempts,
        due_at,
        code,
    )
    return bool(status == "UPDATE 1")


async def note_failure(connection: Connection, endpoint_id: UUID, code: str, now: datetime) -> Failing | None:
    """Count a failure of an endpoint, and return how long it has been failing; None if there is none any more."""
    row = await connection.fetchrow(
        """
        WITH failing AS (
            UPDATE webhook_endpoints
            SET failing_since = coalesce(failing_since, $3), failed_attempts = failed_attempts + 1
            WHERE id = $1
            RETURNING id, failing_since, failed_attempts
        ), counted AS (
            INSERT INTO webhook_failures AS held (endpoint_id, code, failures, last_at)
            SELECT id, $2, 1, $3 FROM failing
            ON CONFLICT (endpoint_id, code)
            DO UPDATE SET failures = held.failures + 1, last_at = greatest(held.last_at, EXCLUDED.last_at)
        )
        SELECT failing_since, failed_attempts FROM failing
        """,
        endpoint_id,
        code,
        now,
    )
    return None if row is None else Failing(*row)


async def rest_endpoint(connection: Connection, endpoint_id: UUID, until: datetime) -> None:
    """Send nothing to an endpoint until then."""
    await connection.execute("UPDATE webhook_endpoints SET rest_until = $2 WHERE id = $1", endpoint_id, until)


async def shorten_rest(connection: Connection, endpoint_id: UUID, until: datetime) -> bool:
    """Let an endpoint rest until then at the longest; false if it rests no longer anyway."""
    status = await connection.execute(
        "UPDATE webhook_endpoints SET rest_until = $2 WHERE id = $1 AND rest_until > $2", endpoint_id, until
    )
    return bool(status == "UPDATE 1")


async def erase_failures(connection: Connection, before: datetime) -> int:
    """Forget how endpoints failed that have not failed so since this instant; returns how many rows."""
    status = await connection.execute("DELETE FROM webhook_failures WHERE last_at < $1", before)
    return int(status.removeprefix("DELETE "))


def _endpoint(row: asyncpg.Record) -> EndpointRow:
    return EndpointRow(**{**row, "kinds": tuple(row["kinds"])})
