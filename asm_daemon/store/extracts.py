"""SQL of the departments' extracts: what is counted for them, and the releases they read."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime
from typing import NamedTuple
from uuid import UUID

from asm_daemon.model import StayRow
from asm_daemon.store import Connection
from schemas.codes import FacilityKind

_STAY_COLUMNS = ", ".join(f"s.{name}" for name in StayRow.__slots__)
_RELEASE_COLUMNS = "id, department, template, period, release_no, published_at, body, sha256"


class Place(NamedTuple):
    """Where a facility is counted. `registered`: it was in the directory, and open, on the day asked for."""

    facility_id: int
    kind: FacilityKind
    commune: str
    registered: bool


@dataclass(frozen=True, slots=True)
class Release:
    """One published extract; `body` is its canonical JSON and `sha256` that of the body."""

    id: UUID
    department: str
    template: str
    period: date
    release_no: int
    published_at: datetime
    body: bytes = field(repr=False)
    sha256: bytes = field(repr=False)


async def places(connection: Connection, until: datetime) -> list[Place]:
    """Every facility that is not a sandbox; registered if it is open and was entered before `until`."""
    rows = await connection.fetch(
        """
        SELECT id, kind, commune, active AND created_at < $1 AS registered
        FROM facilities WHERE NOT sandbox ORDER BY id
        """,
        until,
    )
    return [Place(row["id"], FacilityKind(row["kind"]), row["commune"], row["registered"]) for row in rows]


async def stays_between(
    connection: Connection, start: datetime, end: datetime, after: UUID, limit: int
) -> list[StayRow]:
    """At most `limit` stays with ids above `after`, by id, whose guests were there at some time of [start, end).

    A guest leaves at the departure, until that is declared at the planned one; whoever leaves at `start` itself is
    still counted, as in house at the end of the period before. Cancelled stays and sandboxes are left out.
    """
    rows = await connection.fetch(
        f"""
        SELECT {_STAY_COLUMNS}
        FROM stays s JOIN facilities f ON f.id = s.facility_id AND NOT f.sandbox
        WHERE s.id > $3 AND s.status <> 'cancelled' AND s.arrived_at < $2
          AND (coalesce(s.departed_at, s.planned_departure_at) >= $1
               OR coalesce(s.departed_at, s.planned_departure_at) IS NULL)
        ORDER BY s.id LIMIT $4
        """,  # noqa: S608 - column names of our own
        start,
        end,
        after,
        limit,
    )
    return [StayRow(*row) for row in rows]


async def latest_releases(
    connection: Connection, template: str, periods: Sequence[date]
) -> list[tuple[Release, list[bytes]]]:
    """The newest release of each department for each of the periods, with what it withheld."""
    rows = await connection.fetch(
        f"""
        SELECT DISTINCT ON (department, period) {_RELEASE_COLUMNS}, withheld_sealed
        FROM releases WHERE template = $1 AND period = ANY($2::date[])
        ORDER BY department, period, release_no DESC
        """,  # noqa: S608 - column names of our own
        template,
        periods,
    )
    return [(Release(*tuple(row)[:-1]), row["withheld_sealed"]) for row in rows]


async def released_days(connection: Connection, template: str, periods: Sequence[date], departments: int) -> set[date]:
    """The periods of which so many departments have a release."""
    rows = await connection.fetch(
        """
        SELECT period FROM releases WHERE template = $1 AND period = ANY($2::date[])
        GROUP BY period HAVING count(DISTINCT department) >= $3
        """,
        template,
        periods,
        departments,
    )
    return {row["period"] for row in rows}


async def insert_release(connection: Connection, release: Release, withheld_sealed: Sequence[bytes]) -> bool:
    """Publish; false if somebody else has published a release of this number meanwhile."""
    status: str = await connection.execute(
        """
        INSERT INTO releases
            (id, department, template, period, release_no, published_at, body, sha256, withheld_sealed)
        VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        ON CONFLICT (department, template, period, release_no) DO NOTHING
        """,
        release.id,
        release.department,
        release.template,
        release.period,
        release.release_no,
        release.published_at,
        release.body,
        release.sha256,
        withheld_sealed,
    )
    return status.endswith(" 1")


async def read_release(
    connection: Connection, department: str, template: str, period: date, release_no: int | None
) -> Release | None:
    """One release of a department, the newest of its period if no number is given."""
    row = await connection.fetchrow(
        f"""
        SELECT {_RELEASE_COLUMNS} FROM releases
        WHERE department = $1 AND template = $2 AND period = $3 AND ($4::int IS NULL OR release_no = $4)
        ORDER BY release_no DESC LIMIT 1
        """,  # noqa: S608 - column names of our own
        department,
        template,
        period,
        release_no,
    )
    return None if row is None else Release(*row)


async def list_releases(
    connection: Connection, department: str, template: str, after: UUID, limit: int
) -> list[Release]:
    """At most `limit` releases of a department published after the release `after`, in order of publication."""
    rows = await connection.fetch(
        f"""
        SELECT {_RELEASE_COLUMNS} FROM releases
        WHERE department = $1 AND template = $2 AND id > $3
        ORDER BY id LIMIT $4
        """,  # noqa: S608 - column names of our own
        department,
        template,
        after,
        limit,
    )
    return [Release(*row) for row in rows]
