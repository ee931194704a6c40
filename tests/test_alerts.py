"""What the operator is alerted of: one row for each thing, until somebody deals with it."""

from __future__ import annotations

from datetime import timedelta

from asm_daemon.store import alerts
from asm_daemon.store.alerts import AlertKind
from tests.stack import Clock, Pools


async def test_nothing_is_closed_that_is_not_open(pools: Pools, clock: Clock) -> None:
    async with (await pools.get("asm_sync")).acquire() as connection:
        assert not await alerts.close_alert(connection, AlertKind.EXTRA_STAY, "none", "operator", clock())


async def test_what_is_found_again_is_counted_and_what_was_closed_is_raised_anew(pools: Pools, clock: Clock) -> None:
    first, later = clock(), clock() + timedelta(hours=1)
    async with (await pools.get("asm_sync")).acquire() as connection:
        raised = [
            await alerts.raise_alert(connection, AlertKind.POPULATION_DRIFT, "range", {"stays": 1}, first),
            await alerts.raise_alert(connection, AlertKind.POPULATION_DRIFT, "range", {"stays": 2}, later),
        ]
        (twice,) = await alerts.list_alerts(connection, closed=False, limit=10)
        closed = await alerts.close_alert(connection, AlertKind.POPULATION_DRIFT, "range", "operator", later)
        none_open = await alerts.list_alerts(connection, closed=False, limit=10)
        raised.append(await alerts.raise_alert(connection, AlertKind.POPULATION_DRIFT, "range", {"stays": 3}, later))
        (anew,) = await alerts.list_alerts(connection, closed=True, limit=10)
    assert raised == [True, False, True]
    assert (twice.raised_at, twice.last_at, twice.occurrences, twice.details) == (first, later, 2, {"stays": 2})
    assert closed
    assert none_open == []
    assert (anew.raised_at, anew.occurrences, anew.closed_at, anew.details) == (later, 1, None, {"stays": 3})


async def test_what_lasts_stays_closed_until_it_is_another_thing(pools: Pools, clock: Clock) -> None:
    kind, held = AlertKind.EXTRA_STAY, {"held_version": 2, "known_version": 1}
    async with (await pools.get("asm_sync")).acquire() as connection:
        await alerts.raise_alert(connection, kind, "stay", held, clock())
        await alerts.close_alert(connection, kind, "stay", "operator", clock())
        again = await alerts.raise_alert(connection, kind, "stay", held, clock() + timedelta(days=1))
        still = await alerts.list_alerts(connection, closed=False, limit=10)
        changed = await alerts.raise_alert(connection, kind, "stay", {**held, "held_version": 3}, clock())
        [opened] = await alerts.list_alerts(connection, closed=False, limit=10)
    assert (again, still) == (False, [])
    assert changed
    assert (opened.closed_by, opened.details["held_version"]) == (None, 3)
