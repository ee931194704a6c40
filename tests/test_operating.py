"""What operators do: nothing is lost by it, nothing is called carried, and all of it is on record."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import prometheus_client
import pytest
from pydantic import ValidationError
from uuid_utils.compat import uuid7

from asm_daemon import operating, sync
from asm_daemon.intake import Intake
from asm_daemon.model import LANES, Facility
from asm_daemon.problems import Refused
from asm_daemon.store import alerts, leases
from asm_daemon.store import operating as store
from asm_daemon.store.alerts import AlertKind
from schemas.act import ActKind
from schemas.operating import (
    Acted,
    AlertClosing,
    Move,
    OperatorAlertsQuery,
    RefusedQuery,
    Settlement,
    StayInspection,
    WaitingQuery,
)
from schemas.population import Ambiguous, PopulationState, Unreachable, Verification
from tests.backlog import put_off, refuse
from tests.stack import Clock, FacilityMaker, Pools, command, declaration

ME = "operator:me"


@dataclass
class Desk:
    """An operator with stays of one facility, and a connection that may do everything."""

    pools: Pools
    intake: Intake
    clock: Clock
    facility: Facility
    root: asyncpg.Connection
    rings: list[None] = field(default_factory=list)

    async def declare(self, count: int, *, first: int = 1, facility: Facility | None = None) -> list[UUID]:
        at = facility or self.facility
        acts = [command(at, ActKind.DECLARE, declaration(first + index), self.clock) for index in range(count)]
        return sorted(each.stay.id for each in await self.intake.submit(acts) if each.stay is not None)

    async def pool(self) -> asyncpg.Pool:
        return await self.pools.get("asm_sync")

    async def replay(self, **chosen: Any) -> Acted:
        return await operating.replay(await self.pool(), self.ring, ME, Move(**chosen), self.clock())

    async def release(self, **chosen: Any) -> Acted:
        return await operating.release(await self.pool(), self.ring, ME, Move(**chosen), self.clock())

    async def settle(self, **chosen: Any) -> Acted:
        return await operating.settle(
            await self.pool(), ME, Settlement(reason="owner_informed", **chosen), self.clock()
        )

    async def refused(self, **asked: Any) -> list[str]:
        page = await operating.list_refused(await self.pool(), RefusedQuery(**asked), self.clock())
        return [each.stay_id for each in page.refused]

    async def waiting(self, **asked: Any) -> list[str]:
        page = await operating.list_waiting(await self.pool(), WaitingQuery(**asked), self.clock())
        return [each.stay_id for each in page.waiting]

    async def inspect(self, stay_id: UUID, ask: operating.Ask | None = None) -> StayInspection:
        return await operating.inspect(await self.pool(), ME, stay_id, self.clock(), ask)

    async def places(self) -> tuple[int, int, int, int]:
        """Confirmed, queued, waiting, refused; the conservation law holds."""
        found = await sync.conservation(await self.pool())
        assert (found.misplaced, found.remains) == (0, 0)
        return found.confirmed, found.queued, found.waiting, found.refused

    async def recorded(self) -> list[tuple[str, str | None, dict[str, Any]]]:
        """What an operator did, as the audit tells it."""
        bodies = [orjson.loads(row[0]) for row in await self.root.fetch("SELECT body FROM audit_pending")]
        mine = [body for body in bodies if body["actor_kind"] == "operator" and body["actor"] == ME]
        return [(body["action"], body["object"], body["details"]) for body in mine]

    def ring(self) -> None:
        self.rings.append(None)


@pytest.fixture
async def desk(pools: Pools, intake: Intake, clock: Clock, facility: Facility) -> Desk:
    return Desk(pools, intake, clock, facility, await pools.database.connect())


# -- acting ------------------------------------------------------------------------------------------------------------


async def test_who_names_nothing_moves_nothing(desk: Desk) -> None:
    [stay] = await desk.declare(1)
    await refuse(desk.root, stay)
    for act in (desk.replay, desk.release, desk.settle):
        with pytest.raises(Refused) as refusal:
            await act(dry_run=True)
        assert [(each.code, each.pointer) for each in refusal.value.violations] == [("none_chosen", "")]
    assert await desk.places() == (0, 0, 0, 1)
    assert await desk.recorded() == []


async def test_a_dry_run_counts_and_changes_nothing(desk: Desk) -> None:
    first, second, third = await desk.declare(3)
    await refuse(desk.root, first)
    await refuse(desk.root, second)
    await put_off(desk.root, third)
    at = {"facility": desk.facility.code, "dry_run": True}
    assert [(await act(**at)).stays for act in (desk.replay, desk.release, desk.settle)] == [2, 1, 2]
    assert await desk.places() == (0, 0, 1, 2)
    assert await desk.refused() == [str(first), str(second)]
    assert (await desk.recorded(), desk.rings) == ([], [])


async def test_what_was_refused_is_sent_again_singly_and_in_bulk_on_record(desk: Desk) -> None:
    stays = await desk.declare(4)
    for stay in stays[:3]:
        await refuse(desk.root, stay)
    await refuse(desk.root, stays[3], "version_conflict")
    assert (await desk.replay(stay_ids=[stays[3]], code="unknown_facility")).stays == 0
    one = await desk.replay(stay_ids=[stays[0]])
    assert (one.stays, one.stay_ids, one.more, one.dry_run) == (1, [str(stays[0])], False, False)
    many = await desk.replay(code="unknown_facility")
    assert many.stay_ids == [str(stays[1]), str(stays[2])]
    assert await desk.places() == (0, 3, 0, 1)
    assert len(desk.rings) >= 2
    single, bulk = await desk.recorded()
    assert single[:2] == ("sync.replay", f"stay/{stays[0]}")
    assert bulk[:2] == ("sync.replay", None)
    assert (bulk[2]["stays"], bulk[2]["code"]) == (2, "unknown_facility")
    assert (bulk[2]["first"], bulk[2]["last"]) == (str(stays[1]), str(stays[2]))


async def test_actions_choose_by_facility_and_age(desk: Desk, make_facility: FacilityMaker) -> None:
    other = await make_facility("HY-KS-0002")
    [here] = await desk.declare(1)
    [there, lately] = await desk.declare(2, first=10, facility=other)
    await refuse(desk.root, here, hours=5)
    await refuse(desk.root, there, hours=5)
    await refuse(desk.root, lately, hours=1)
    before = desk.clock() - timedelta(hours=3)
    assert (await desk.replay(facility="HY-KS-0002", before=before)).stay_ids == [str(there)]
    assert await desk.refused(facility="HY-KS-0002") == [str(lately)]
    assert await desk.refused(before=before) == [str(here)]


async def test_what_waits_is_tried_at_once_and_stays_what_it_is(desk: Desk) -> None:
    first, second = await desk.declare(2)
    await put_off(desk.root, first, "ambiguous")
    await put_off(desk.root, second, "unreachable")
    assert (await desk.release(code="no_connection")).stays == 2
    assert (await desk.release(code="no_connection")).stays == 0
    rows = await desk.root.fetch("SELECT reason, attempts, due_at <= now() AS due FROM sync_wait ORDER BY stay_id")
    assert [tuple(row) for row in rows] == [("ambiguous", 3, True), ("unreachable", 3, True)]
    assert await desk.places() == (0, 0, 2, 0)


async def test_what_is_settled_stays_refused_and_is_not_listed_any_more(desk: Desk) -> None:
    first, second = await desk.declare(2)
    await refuse(desk.root, first)
    await refuse(desk.root, second)
    assert (await desk.settle(stay_ids=[first])).stays == 1
    assert (await desk.settle(stay_ids=[first])).stays == 0
    assert await desk.places() == (0, 0, 0, 2)
    assert (await desk.refused(), await desk.refused(settled=True)) == ([str(second)], [str(first)])
    page = await operating.list_refused(await desk.pool(), RefusedQuery(settled=True), desk.clock())
    [shown] = page.refused
    assert (shown.settled_by, shown.settled_reason) == (ME, "owner_informed")
    assert await desk.recorded() == [
        ("sync.settle", f"stay/{first}", {**(await desk.recorded())[0][2], "reason": "owner_informed", "stays": 1})
    ]
    assert (await desk.replay(stay_ids=[first])).stays == 1


async def test_a_correction_takes_a_settled_stay_back_onto_its_way(desk: Desk) -> None:
    [stay] = await desk.declare(1)
    await refuse(desk.root, stay)
    await desk.settle(stay_ids=[stay])
    await desk.intake.submit([command(desk.facility, ActKind.CORRECT, {"room": "305"}, desk.clock, stay_id=stay)])
    assert await desk.places() == (0, 1, 0, 0)
    assert await desk.refused(settled=True) == []


async def test_a_stay_that_changes_at_the_same_moment_is_left_alone(desk: Desk) -> None:
    first, second = await desk.declare(2)
    await refuse(desk.root, first)
    await refuse(desk.root, second)
    other = await desk.pools.database.connect("asm_sync")
    async with other.transaction():
        await other.execute("SELECT FROM sync_refused WHERE stay_id = $1 FOR UPDATE", first)
        async with asyncio.timeout(10):
            assert (await desk.replay(facility=desk.facility.code)).stay_ids == [str(second)]
    assert await desk.places() == (0, 1, 0, 1)


# -- looking -----------------------------------------------------------------------------------------------------------


async def test_lists_go_page_by_page(desk: Desk) -> None:
    stays = [str(stay) for stay in await desk.declare(6)]
    for stay in stays[:3]:
        await refuse(desk.root, UUID(stay))
    for stay in stays[3:]:
        await put_off(desk.root, UUID(stay))
    pool, now = await desk.pool(), desk.clock()
    first = await operating.list_refused(pool, RefusedQuery(limit=2), now)
    assert ([each.stay_id for each in first.refused], first.next) == (stays[:2], stays[1])
    rest = await operating.list_refused(pool, RefusedQuery(limit=2, after=UUID(first.next)), now)
    assert ([each.stay_id for each in rest.refused], rest.next) == (stays[2:3], None)
    waiting = await operating.list_waiting(pool, WaitingQuery(limit=2), now)
    assert ([each.stay_id for each in waiting.waiting], waiting.next) == (stays[3:5], stays[4])
    assert await desk.waiting(reason="ambiguous") == []
    assert await desk.waiting(reason="unreachable", code="no_connection", facility=desk.facility.code) == stays[3:]


async def test_an_unknown_stay_is_not_found(desk: Desk) -> None:
    with pytest.raises(Refused, match="not_found"):
        await desk.inspect(uuid7())


async def test_a_stay_whose_confirmation_was_lost_is_shown_where_the_conservation_law_counts_it(desk: Desk) -> None:
    queued, refused = await desk.declare(2)
    await desk.root.execute(
        "INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification, lost_at)"
        " SELECT facility_id, stay_id, version, now(), 'matched', now() FROM sync_queue"
    )
    await refuse(desk.root, refused)
    assert await desk.places() == (0, 1, 0, 1)
    shown = [await desk.inspect(stay) for stay in (queued, refused)]
    assert [each.place for each in shown] == ["queued", "refused"]
    assert [version.confirmed_at for each in shown for version in each.versions] == [None, None]


async def test_a_stay_is_shown_where_it_stands_and_never_what_is_declared_of_it(desk: Desk) -> None:
    first, second, third = await desk.declare(3)
    await desk.intake.submit([command(desk.facility, ActKind.CORRECT, {"room": "305"}, desk.clock, stay_id=first)])
    await refuse(desk.root, second)
    await put_off(desk.root, third, "ambiguous")
    await desk.root.execute(
        "INSERT INTO sync_log SELECT facility_id, stay_id, 1, now(), 'document_revoked' FROM sync_queue"
        " WHERE stay_id = $1 AND version = 1",
        first,
    )
    queued, refused, waiting = [await desk.inspect(stay) for stay in (first, second, third)]
    assert [each.place for each in (queued, refused, waiting)] == ["queued", "refused", "waiting"]
    assert [(each.version, each.event, each.queued) for each in queued.versions] == [
        (2, "correct", True),
        (1, "declare", True),
    ]
    assert [each.confirmed_at is None for each in queued.versions] == [True, False]
    assert refused.refused is not None
    assert waiting.waiting is not None
    assert (refused.refused.code, waiting.waiting.reason, waiting.waiting.attempts) == (
        "unknown_facility",
        "ambiguous",
        3,
    )
    for shown in (queued, refused, waiting):
        text = shown.model_dump_json()
        assert "document_revoked" not in text
        assert declaration(1)["guest"]["full_name"] not in text
    assert [entry[:2] for entry in await desk.recorded()] == [
        ("sync.inspect", f"stay/{stay}") for stay in (first, second, third)
    ]


async def test_content_that_is_not_what_was_confirmed_shows_by_its_digest(desk: Desk) -> None:
    [stay] = await desk.declare(1)
    kept = bytes(range(32))
    await desk.root.execute(
        "INSERT INTO sync_log (facility_id, stay_id, version, confirmed_at, verification, digest)"
        " VALUES ($1, $2, 1, now(), 'matched', $3)",
        desk.facility.id,
        stay,
        kept,
    )

    def holding(digest: str) -> operating.Ask:
        async def answers(stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
            one = PopulationState(stay_id=stay, version=1, digest=digest, verification=Verification.MATCHED)
            return dict.fromkeys(stay_ids, one)

        return answers

    for digest, same in ((kept.hex(), True), ("0" * 64, False)):
        found = await desk.inspect(stay, holding(digest))
        assert found.population is not None
        assert (found.population.version, found.population.as_confirmed) == (1, same)


async def test_why_stays_are_tried_again_is_in_the_audit_and_long_numbers_are_not(desk: Desk) -> None:
    [stay] = await desk.declare(1)
    await put_off(desk.root, stay)
    with pytest.raises(ValidationError):
        await desk.release(stay_ids=[stay], reason="khách 000190000001")
    assert (await desk.release(stay_ids=[stay], reason="bên kia đã sửa")).stays == 1
    [(action, about, details)] = await desk.recorded()
    assert (action, about, details["reason"]) == ("sync.release", f"stay/{stay}", "bên kia đã sửa")


async def test_the_age_of_what_is_queued_is_told(desk: Desk) -> None:
    await desk.declare(1)
    state = await operating.overview(await desk.pool())
    assert [(part.place, part.oldest_at) for part in state.backlog] == [("queued", desk.clock())]


async def test_the_population_database_is_asked_for_its_version_and_nothing_about_the_guest(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    [stay] = await desk.declare(1)

    async def holds_one(stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        return {
            each: PopulationState(stay_id=each, version=1, digest="0" * 64, verification=Verification.DOCUMENT_REVOKED)
            for each in stay_ids
        }

    async def silent(_stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        await asyncio.Event().wait()
        raise AssertionError

    async def away(_stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        raise Unreachable("no_connection")

    async def unclear(_stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        raise Ambiguous("html_page")

    async def empty(_stay_ids: Sequence[UUID]) -> Mapping[UUID, PopulationState]:
        return {}

    monkeypatch.setattr(operating, "ASK_SECONDS", 0.01)
    said = []
    for ask in (holds_one, silent, away, unclear, empty):
        found = await desk.inspect(stay, ask)
        assert found.population is not None
        said.append((found.population.version, found.population.code))
        assert found.population.as_confirmed is None  # nothing was confirmed, so there is no digest to compare with
        assert "document_revoked" not in found.model_dump_json()
    assert said == [(1, None), (None, "timeout"), (None, "no_connection"), (None, "html_page"), (None, "no_result")]


async def test_the_overview_tells_places_reasons_codes_and_holders(desk: Desk) -> None:
    stays = await desk.declare(4)
    await refuse(desk.root, stays[0], hours=2)
    await refuse(desk.root, stays[1], "version_conflict")
    await put_off(desk.root, stays[2], "ambiguous")
    await desk.settle(code="version_conflict")
    worker = uuid7()
    pool = await desk.pool()
    async with pool.acquire() as connection:
        await leases.announce_worker(connection, worker, 60)
        await leases.take_lanes(connection, worker, 3, 60)
        await leases.take_lanes(connection, uuid7(), 2, 60)
        await alerts.raise_alert(connection, AlertKind.EXTRA_STAY, "range", {"stays": 1}, desk.clock())
    state = await operating.overview(pool)
    assert [(each.place, each.reason, each.code, each.stays) for each in state.backlog] == [
        ("queued", None, None, 1),
        ("refused", None, "unknown_facility", 1),
        ("settled", None, "version_conflict", 1),
        ("waiting", "ambiguous", "no_connection", 1),
    ]
    mine = next(each for each in state.workers if each.worker == str(worker))
    assert (mine.lanes, mine.seen_until is not None) == ([0, 1, 2], True)
    assert (len(state.workers), state.free_lanes) == (2, LANES - 5)
    assert state.open_alerts == {"extra_stay": 1}


# -- alerts ------------------------------------------------------------------------------------------------------------


async def test_a_backlog_of_any_size_is_counted_in_bounded_time(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    connection = await desk.pools.database.connect()
    await connection.execute("INSERT INTO sync_queue SELECT 1, gen_random_uuid(), 1, 0 FROM generate_series(1, 5)")
    await connection.execute(
        "INSERT INTO sync_wait SELECT 1, gen_random_uuid(), 1, 0, 1, now(), 'unreachable', 'timeout', now()"
        " FROM generate_series(1, 5)"
    )
    await connection.execute(
        "INSERT INTO owner_events_pending (event_id, facility_id, kind, at)"
        " SELECT gen_random_uuid(), 1, 'stay.refused', now() FROM generate_series(1, 5)"
    )
    monkeypatch.setattr(store, "COUNTED_LIMIT", 3)
    assert {part.place: part.stays for part in await store.count_backlog(connection)} == {"queued": 3, "waiting": 3}
    assert (await store.measure(connection)).events_pending == 3


async def test_an_alert_is_closed_once_and_on_record(desk: Desk) -> None:
    pool = await desk.pool()
    async with pool.acquire() as connection:
        await alerts.raise_alert(connection, AlertKind.EXTRA_STAY, "range", {"stays": 1}, desk.clock())
    closing = AlertClosing(kind="extra_stay", subject="range")
    await operating.close_alert(pool, ME, closing, desk.clock())
    for wrong in (closing, AlertClosing(kind="extra_stay", subject="other"), AlertClosing(kind="none", subject="x")):
        with pytest.raises(Refused, match="not_found"):
            await operating.close_alert(pool, ME, wrong, desk.clock())
    assert (await operating.list_alerts(pool, OperatorAlertsQuery())).alerts == []
    [closed] = (await operating.list_alerts(pool, OperatorAlertsQuery(closed=True))).alerts
    assert (closed.kind, closed.details, closed.closed_by) == ("extra_stay", {"stays": 1}, ME)
    assert await desk.recorded() == [("alert.close", "alert/extra_stay", {"subject": "range"})]


# -- figures -----------------------------------------------------------------------------------------------------------


def figure(name: str, **labels: str) -> float | None:
    return prometheus_client.REGISTRY.get_sample_value(name, labels)


async def test_the_figures_tell_how_much_waits_and_for_how_long(desk: Desk) -> None:
    stays = await desk.declare(4)
    await refuse(desk.root, stays[0], hours=2)
    await refuse(desk.root, stays[1], hours=9)
    await desk.settle(stay_ids=[stays[1]])
    await put_off(desk.root, stays[2], "ambiguous", hours=1)
    desk.clock.instant += timedelta(minutes=5)
    pools = await desk.pool(), await desk.pools.get("asm_audit")
    await operating.measure_once(*pools, desk.clock())
    assert figure("asm_sync_backlog", place="queued", reason="") == 1
    assert figure("asm_sync_backlog", place="waiting", reason="ambiguous") == 1
    assert figure("asm_sync_backlog", place="waiting", reason="unreachable") == 0
    assert figure("asm_sync_backlog", place="refused", reason="") == 1
    assert figure("asm_sync_backlog", place="settled", reason="") == 1
    assert 300 <= (figure("asm_sync_oldest_queued_seconds") or 0) < 400
    assert 3600 <= (figure("asm_sync_oldest_waiting_seconds") or 0) < 4400
    assert 7200 <= (figure("asm_sync_oldest_refused_seconds") or 0) < 8000
    assert (figure("asm_audit_pending") or 0) > 0
    assert (figure("asm_sync_lanes_held"), figure("asm_operator_alerts_open", kind="extra_stay")) == (0, 0)
    assert figure("asm_compare_finished_age_seconds") == 0
    await desk.replay(facility=desk.facility.code)
    await operating.measure_once(*pools, desk.clock())
    assert figure("asm_sync_backlog", place="refused", reason="") == 0
    assert figure("asm_sync_oldest_refused_seconds") == 0


async def test_the_figures_tell_since_when_no_comparison_has_finished(desk: Desk) -> None:
    pools = await desk.pool(), await desk.pools.get("asm_audit")
    hours = """
        INSERT INTO comparisons (started_at, next_id, finished_at)
        SELECT $1::timestamptz - interval '1 hour' * $2, gen_random_uuid(), $1::timestamptz - interval '1 hour' * $3
    """
    await desk.root.execute(hours, desk.clock(), 9, None)
    await operating.measure_once(*pools, desk.clock())
    assert figure("asm_compare_finished_age_seconds") == 9 * 3600, "the first is under way"
    await desk.root.execute(hours, desk.clock(), 8, 7)
    await operating.measure_once(*pools, desk.clock())
    assert figure("asm_compare_finished_age_seconds") == 7 * 3600
