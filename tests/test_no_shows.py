"""Erasing who was expected and never came, and nobody else."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest

from asm_daemon import rules
from asm_daemon.intake import Intake
from asm_daemon.model import Facility
from asm_daemon.no_shows import erase_expected_once
from schemas.act import ActKind
from tests.stack import Clock, Pools
from tests.test_expected import act, booking

KEPT_DAYS = 3


async def refs_left(pools: Pools) -> int:
    connection = await pools.database.connect()
    found: int = await connection.fetchval("SELECT count(*) FROM expected_stays")
    return found


async def erased(pools: Pools, now: datetime) -> tuple[int, int]:
    counts = await erase_expected_once(await pools.get("asm_intake"), KEPT_DAYS, now)
    return counts["ended"], counts["no_shows"]


def until(day: datetime) -> dict[str, Any]:
    return {"arrived_at": day.isoformat(), "planned_departure_at": (day + timedelta(days=9)).isoformat()}


@pytest.fixture
async def arrival(intake: Intake, facility: Facility, clock: Clock) -> datetime:
    """When a guest was expected."""
    day = clock() + timedelta(days=1)
    await act(intake, facility, clock, ActKind.EXPECT, booking(**until(day)))
    return day


async def test_a_guest_in_house_is_never_a_no_show(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking(present=True))
    assert await erased(pools, clock() + timedelta(days=365)) == (0, 0)
    assert await refs_left(pools) == 1


async def test_a_no_show_is_erased_when_its_days_are_over(arrival: datetime, pools: Pools) -> None:
    _, day_over = rules.day_bounds(rules.local_day(arrival))
    last = day_over + timedelta(days=KEPT_DAYS)
    assert await erased(pools, last - timedelta(seconds=1)) == (0, 0)
    assert await erased(pools, last) == (0, 1)
    assert await erased(pools, last) == (0, 0)
    assert await refs_left(pools) == 0
    connection = await pools.database.connect()
    details = await connection.fetch(
        "SELECT body FROM audit_pending WHERE convert_from(body, 'UTF8') LIKE '%expected.erase%'"
    )
    assert len(details) == 1


async def test_a_booking_that_is_moved_to_a_later_day_is_kept(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, arrival: datetime
) -> None:
    await act(intake, facility, clock, ActKind.CORRECT, until(arrival + timedelta(days=30)))
    assert await erased(pools, arrival + timedelta(days=KEPT_DAYS + 2)) == (0, 0)


async def test_a_booking_without_a_day_is_kept_from_its_last_change(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking(arrived_at=None))
    assert await erased(pools, clock() + timedelta(days=KEPT_DAYS - 1)) == (0, 0)
    assert await erased(pools, clock() + timedelta(days=KEPT_DAYS + 1)) == (0, 1)


async def test_what_was_cancelled_is_erased_days_after_the_end_also_of_a_guest_who_was_here(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools
) -> None:
    await act(intake, facility, clock, ActKind.EXPECT, booking(present=True))
    await act(intake, facility, clock, ActKind.CANCEL, {"reason": "entered_by_mistake"})
    assert await erased(pools, clock() + timedelta(days=KEPT_DAYS)) == (0, 0)
    assert await erased(pools, clock() + timedelta(days=KEPT_DAYS, seconds=1)) == (1, 0)
