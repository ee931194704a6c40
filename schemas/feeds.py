"""What departments read: releases of extracts (bản trích xuất), numbers about groups of guests."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Literal
from uuid import UUID

from pydantic import Field

from schemas.limits import LIST_ROWS
from schemas.stay import Input, Output


class ReleasesQuery(Input):
    """Which releases to list: those published after one."""

    after: UUID | None = Field(
        default=None, description="Từ liên kết next, hoặc id bản đã đọc · The id of the last release that was read"
    )
    limit: Annotated[int, Field(ge=1, le=LIST_ROWS)] = 100


class ReleaseQuery(Input):
    """Which release of a period, and in which form."""

    release_no: Annotated[int, Field(ge=1)] | None = Field(
        default=None, description="Số bản; mặc định là mới nhất · The release; the newest one by default"
    )
    format: Literal["json", "csv"] = Field(
        default="json", description="csv: các ô số liệu, cũng theo Accept · the cells as a table, also by Accept"
    )


class ReleaseSummary(Output):
    """One published release. It never changes; a correction is a further release of the same period."""

    id: str
    template: str
    period: date
    release_no: int
    published_at: datetime
    sha256: str = Field(description="SHA-256 of the release's JSON, byte for byte; also its ETag")


class Releases(Output):
    """Releases of the own department in order of publication; the next page is the `next` link (RFC 8288)."""

    releases: list[ReleaseSummary]


class ReleaseCell(Output):
    """One number's place: a null coordinate is the total over it. A suppressed cell tells no numbers."""

    kind: str | None
    commune: str | None
    nationality_group: str | None
    suppressed: bool
    arrivals: int | None = None
    departures: int | None = None
    in_house: int | None = Field(default=None, description="At 24:00")
    guest_nights: int | None = None


class SupervisionRow(Output):
    """The duty to declare, by kind and commune: no number of guests, only a band of how many were on time."""

    kind: str
    commune: str
    facilities: int
    active: int
    on_time: Literal["all", "most", "half", "few"] | None


class SuppressionLimits(Output):
    """When a group is large enough to be told: persons, facilities, and one facility's greatest share."""

    persons: int
    facilities: int
    share_percent: int


class ReleaseBody(Output):
    """One release as it was published."""

    format: int
    department: str
    template: str
    period: date
    release_no: int
    published_at: datetime
    limits: SuppressionLimits
    cells: list[ReleaseCell]
    supervision: list[SupervisionRow]
