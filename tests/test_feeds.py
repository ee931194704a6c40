"""Departments get numbers about groups and reach nothing else: tested on a real database, through the real intake."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon.crypto import Keyring
from asm_daemon.feeds import (
    Count,
    Deferred,
    Draft,
    Earlier,
    Fold,
    Leaking,
    draft_day,
    list_releases,
    publish_once,
    read_release,
    unpublished,
)
from asm_daemon.intake import Intake
from asm_daemon.model import Facility
from asm_daemon.rules import day_bounds, local_day
from asm_daemon.store.extracts import Place, Release
from asm_daemon.suppression import Cell, Leak, shapes
from schemas.act import ActKind
from schemas.codes import Department, FacilityKind
from tests.stack import Clock, FacilityMaker, Pools, command, declaration

if TYPE_CHECKING:
    from tests.conftest import Database

PHO_HIEN, THAI_BINH, MY_HAO = "11953", "13225", "12103"
HOTEL, GUESTHOUSE = FacilityKind.HOTEL_4_STAR, FacilityKind.GUESTHOUSE


async def house(
    intake: Intake, clock: Clock, facility: Facility, count: int, first: int, **changes: Any
) -> list[Mapping[str, Any]]:
    """Declare `count` people from index `first` on at a facility, half an hour ago; return their receipts."""
    commands = [
        command(
            facility,
            ActKind.DECLARE,
            declaration(index, source_ref=f"S-{index}", **{**_at(clock), **changes}),
            clock,
        )
        for index in range(first, first + count)
    ]
    outcomes = await intake.submit(commands)
    assert [outcome.outcome for outcome in outcomes] == ["accepted"] * count
    return [outcome.receipt for outcome in outcomes if outcome.receipt is not None]


def _at(clock: Clock) -> dict[str, str]:
    return {
        "arrived_at": (clock() - timedelta(minutes=30)).replace(microsecond=0).isoformat(),
        "planned_departure_at": (clock() + timedelta(days=2)).replace(microsecond=0).isoformat(),
    }


@pytest.fixture
def today(clock: Clock) -> date:
    """The Vietnamese day on which the guests of these tests arrived."""
    return local_day(clock() - timedelta(minutes=30))


@pytest.fixture
async def town(make_facility: FacilityMaker, intake: Intake, clock: Clock) -> dict[str, Facility]:
    """Four hotels in one commune with nine guests each, and a lone guesthouse with three."""
    facilities = {}
    for number in range(4):
        hotel = await make_facility(f"HY-KS-000{number}", HOTEL, commune=PHO_HIEN)
        await house(intake, clock, hotel, 9, 100 * number)
        facilities[hotel.code] = hotel
    guesthouse = await make_facility("HY-NN-0001", GUESTHOUSE, commune=THAI_BINH)
    await house(intake, clock, guesthouse, 3, 900)
    return {**facilities, guesthouse.code: guesthouse}


async def published(pools: Pools, department: Department, day: date) -> dict[str, Any]:
    """What a department reads of a day, as its own login."""
    release = await read_release(await pools.get("asm_feeds"), department, day)
    assert release is not None
    body: dict[str, Any] = orjson.loads(release.body)
    return body


def row(body: Mapping[str, Any], **where: str) -> dict[str, Any] | None:
    """The row of a node: dimensions that are not named are totals."""
    wanted = {"kind": None, "commune": None, "nationality_group": None, **where}
    return next((cell for cell in body["cells"] if wanted.items() <= cell.items()), None)


# --- who may reach what -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM stays",
        "SELECT * FROM stay_versions",
        "SELECT * FROM facilities",
        "SELECT * FROM audit_log",
        "SELECT withheld_sealed FROM releases",
        "SELECT * FROM releases",
        "INSERT INTO releases (id) VALUES (gen_random_uuid())",
        "UPDATE releases SET body = ''",
        "DELETE FROM releases",
    ],
)
async def test_a_department_reaches_nothing_but_released_numbers(database: Database, statement: str) -> None:
    connection = await database.connect("asm_feeds")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


@pytest.mark.parametrize(
    "statement",
    ["UPDATE releases SET body = ''", "DELETE FROM releases", "UPDATE stays SET version = 2", "SELECT * FROM in_house"],
)
async def test_the_publisher_changes_nothing(database: Database, statement: str) -> None:
    connection = await database.connect("asm_publish")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await connection.execute(statement)


async def test_a_day_that_was_not_published_cannot_be_read(pools: Pools) -> None:
    assert await read_release(await pools.get("asm_feeds"), Department.HEALTH, date(2026, 1, 1)) is None


# --- publishing -------------------------------------------------------------------------------------------------------


async def test_large_groups_are_published_and_small_ones_are_not(
    pools: Pools, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    counts = await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    assert counts == {"published": 3, "deferred": 0, "exposed": 0, "unreadable": 0}
    body = await published(pools, Department.TOURISM, today)
    total = row(body)
    assert total == {
        "kind": None,
        "commune": None,
        "nationality_group": None,
        "suppressed": False,
        "arrivals": 39,
        "departures": 0,
        "in_house": 39,
        "guest_nights": 39,
    }
    assert row(body, kind=GUESTHOUSE.value) == {
        "kind": "guesthouse",
        "commune": None,
        "nationality_group": None,
        "suppressed": True,
    }
    assert row(body, kind=GUESTHOUSE.value, commune=THAI_BINH) == {
        "kind": "guesthouse",
        "commune": THAI_BINH,
        "nationality_group": None,
        "suppressed": True,
    }


async def test_a_release_names_itself_and_holds_nothing_about_a_person(
    pools: Pools, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    body = await published(pools, Department.TOURISM, today)
    assert (body["department"], body["template"], body["release_no"]) == ("tourism", "daily", 1)
    assert body["period"] == today.isoformat()
    allowed = {
        "kind",
        "commune",
        "nationality_group",
        "suppressed",
        "arrivals",
        "departures",
        "in_house",
        "guest_nights",
    }
    assert {name for cell in body["cells"] for name in cell} <= allowed
    text = orjson.dumps(body).decode()
    assert not any(code in text for code in town)
    assert "NGUYỄN" not in text


async def test_the_ten_kinds_of_the_plan_are_each_counted_for_their_department(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, make_facility: FacilityMaker, today: date
) -> None:
    for number, kind in enumerate(FacilityKind):
        for copy in range(3):
            zone = "KCN Mẫu" if kind is FacilityKind.INDUSTRIAL_ZONE_HOUSING else None
            facility = await make_facility(f"HY-{number}-{copy}", kind, commune=MY_HAO, zone=zone)
            await house(intake, clock, facility, 5, 1000 * number + 100 * copy)
    await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    for department in Department:
        body = await published(pools, department, today)
        kinds = {kind.value for kind in FacilityKind if kind.department is department}
        assert {cell["kind"] for cell in body["cells"]} - {None} == kinds
        assert row(body)["in_house"] == 15 * len(kinds)  # type: ignore[index]  # an absent row fails just as well
        assert {line["kind"] for line in body["supervision"]} == kinds


async def test_health_is_told_nothing_finer_than_a_commune(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, make_facility: FacilityMaker, today: date
) -> None:
    for copy in range(4):
        hospital = await make_facility(f"HY-YT-{copy}", FacilityKind.MEDICAL_FACILITY)
        await house(intake, clock, hospital, 6, 100 * copy, room="Khoa Ung bướu", reason=18)
    await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    release = await read_release(await pools.get("asm_feeds"), Department.HEALTH, today)
    assert release is not None
    assert "Khoa" not in release.body.decode()


async def test_sandboxes_and_cancelled_stays_are_not_counted(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, make_facility: FacilityMaker, today: date
) -> None:
    trial = await make_facility("HY-TN-0001", HOTEL, sandbox=True)
    await house(intake, clock, trial, 30, 5000)
    hotels = [await make_facility(f"HY-KS-000{number}", HOTEL) for number in range(4)]
    for number, hotel in enumerate(hotels):
        await house(intake, clock, hotel, 10, 100 * number)
    withdrawal = command(hotels[0], ActKind.CANCEL, {"reason": "entered_by_mistake"}, clock, source_ref="S-0")
    [cancelled] = await intake.submit([withdrawal])
    assert cancelled.outcome == "accepted"
    await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    body = await published(pools, Department.TOURISM, today)
    assert row(body)["in_house"] == 39  # type: ignore[index]
    assert sum(line["facilities"] for line in body["supervision"]) == 4


async def test_a_guest_who_left_is_a_departure_and_spends_no_night(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, town: dict[str, Facility], today: date
) -> None:
    leaving = [
        command(town["HY-KS-0000"], ActKind.CHECK_OUT, {"departed_at": _now(clock)}, clock, source_ref=f"S-{index}")
        for index in range(4)
    ]
    assert {outcome.outcome for outcome in await intake.submit(leaving)} == {"accepted"}
    await publish_once(await pools.get("asm_publish"), keyring, local_day(clock()), clock())
    body = await published(pools, Department.TOURISM, local_day(clock()))
    total = row(body)
    assert total is not None
    assert (total["departures"], total["in_house"], total["guest_nights"]) == (4, 35, 35)


def _now(clock: Clock) -> str:
    return clock().replace(microsecond=0).isoformat()


async def test_an_arrival_is_counted_on_its_day_and_the_nights_until_the_planned_departure(
    pools: Pools, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    pool = await pools.get("asm_publish")
    seen = []
    for step in range(-1, 4):
        day = today + timedelta(days=step)
        await publish_once(pool, keyring, day, clock())
        total = row(await published(pools, Department.TOURISM, day))
        seen.append(None if total is None else (total["arrivals"], total["departures"], total["in_house"]))
    leaves = local_day(clock() + timedelta(days=2)) - today  # two days on, or three when it is past midnight now
    expected: list[tuple[int, int, int] | None] = [None, (39, 0, 39)]
    expected += [(0, 0, 39)] * (leaves.days - 1) + [(0, 39, 0)] + [None]
    assert seen == expected[:5]


async def test_publishing_leaves_one_audit_entry_a_release(
    pools: Pools, database: Database, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    connection = await database.connect()
    entries = [orjson.loads(body) for (body,) in await connection.fetch("SELECT body FROM audit_pending")]
    published_entries = [entry for entry in entries if entry["action"] == "extract.publish"]
    assert {entry["organisation"] for entry in published_entries} == {"tourism", "economic_zone", "health"}
    digests = {digest.hex() for (digest,) in await connection.fetch("SELECT sha256 FROM releases")}
    assert {entry["details"]["sha256"] for entry in published_entries} == digests


async def test_two_publishers_at_once_make_one_release(
    pools: Pools, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    pool = await pools.get("asm_publish")
    both = await asyncio.gather(*(publish_once(pool, keyring, today, clock()) for _ in range(2)))
    assert sum(counts["published"] for counts in both) == 3
    releases = await list_releases(await pools.get("asm_feeds"), Department.TOURISM)
    assert [release.release_no for release in releases] == [1]


async def test_a_day_that_one_department_still_waits_for_is_not_published(
    pools: Pools, database: Database, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    pool = await pools.get("asm_publish")
    await publish_once(pool, keyring, today, clock())
    assert await unpublished(pool, [today]) == []
    connection = await database.connect()  # as if the process had ended between two departments
    await connection.execute("DELETE FROM releases WHERE department = 'health'")
    assert await unpublished(pool, [today]) == [today]
    assert (await publish_once(pool, keyring, today, clock()))["published"] == 1


async def test_a_department_that_must_not_be_told_keeps_nothing_from_the_others(
    pools: Pools,
    keyring: Keyring,
    clock: Clock,
    town: dict[str, Facility],
    today: date,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def leaks(cells: Sequence[Cell], *_: object) -> list[Leak]:
        return [Leak(cell.at, "determined") for cell in cells[:1]]

    # No table is known that leaks, so one has to be pretended; only the tourism department has guests.
    monkeypatch.setattr("asm_daemon.feeds.find_leaks", leaks)
    pool = await pools.get("asm_publish")
    with pytest.raises(Leaking):
        await publish_once(pool, keyring, today, clock())
    assert await read_release(pool, Department.TOURISM, today) is None
    assert await read_release(pool, Department.HEALTH, today) is not None


@pytest.mark.parametrize("days", [0, 1, -1])
async def test_a_day_is_not_published_again_when_what_it_or_its_neighbour_withheld_is_not_kept_any_more(
    pools: Pools, database: Database, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date, days: int
) -> None:
    pool, superuser = await pools.get("asm_publish"), await database.connect()
    await publish_once(pool, keyring, today, clock())
    await superuser.execute("UPDATE releases SET withheld_sealed = '{}'")
    with pytest.raises(Leaking, match="not kept any more"):
        await publish_once(pool, keyring, today + timedelta(days=days), clock())
    assert await superuser.fetchval("SELECT count(*) FROM releases") == len(Department)


async def test_publishing_again_says_nothing_new(
    pools: Pools, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    pool = await pools.get("asm_publish")
    await publish_once(pool, keyring, today, clock())
    assert (await publish_once(pool, keyring, today, clock()))["published"] == 0


async def test_a_correction_about_many_is_a_further_release_and_the_first_one_stays(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, town: dict[str, Facility], today: date
) -> None:
    pool, reader = await pools.get("asm_publish"), await pools.get("asm_feeds")
    await publish_once(pool, keyring, today, clock())
    for number in range(4):
        await house(intake, clock, town[f"HY-KS-000{number}"], 9, 2000 + 100 * number)
    assert (await publish_once(pool, keyring, today, clock()))["published"] == 1
    first, second = await list_releases(reader, Department.TOURISM)
    assert (first.release_no, second.release_no) == (1, 2)
    assert row(orjson.loads(first.body))["in_house"] == 39  # type: ignore[index]
    assert row(orjson.loads(second.body))["in_house"] == 75  # type: ignore[index]
    assert await read_release(reader, Department.TOURISM, today) == second
    assert await read_release(reader, Department.TOURISM, today, 1) == first
    assert await list_releases(reader, Department.TOURISM, first.id) == [second]


async def test_a_correction_about_one_guest_waits(
    pools: Pools, keyring: Keyring, clock: Clock, intake: Intake, town: dict[str, Facility], today: date
) -> None:
    pool = await pools.get("asm_publish")
    await publish_once(pool, keyring, today, clock())
    await house(intake, clock, town["HY-KS-0000"], 1, 3000)
    counts = await publish_once(pool, keyring, today, clock())
    assert (counts["published"], counts["deferred"]) == (0, 1)


async def test_a_record_that_does_not_open_is_counted_and_reported(
    pools: Pools, database: Database, keyring: Keyring, clock: Clock, town: dict[str, Facility], today: date
) -> None:
    connection = await database.connect()
    await connection.execute(
        "UPDATE stays SET sealed = set_byte(sealed, 40, get_byte(sealed, 40) # 1) "
        "WHERE id = (SELECT id FROM stays ORDER BY id LIMIT 1)"
    )
    counts = await publish_once(await pools.get("asm_publish"), keyring, today, clock())
    assert counts["unreadable"] == 1
    assert row(await published(pools, Department.TOURISM, today))["in_house"] == 39  # type: ignore[index]


# --- deciding ---------------------------------------------------------------------------------------------------------

DAY = date(2026, 11, 20)


def _places(kinds: Mapping[str, Sequence[FacilityKind]]) -> list[Place]:
    """Facilities numbered from 1, by commune."""
    numbered = [(commune, kind) for commune, each in kinds.items() for kind in each]
    return [Place(number, kind, commune, True) for number, (commune, kind) in enumerate(numbered, 1)]


PLACES = _places({"a": [HOTEL] * 3, "b": [HOTEL] * 3, "c": [HOTEL] * 3})


def _fold(persons: Sequence[int], departures: Sequence[int] = (), arrivals: Sequence[int] = ()) -> Fold:
    """Vietnamese guests of facilities 1, 2 …"""
    counts = {}
    for number, count in enumerate(persons, 1):
        if count:
            left = departures[number - 1] if departures else 0
            came = arrivals[number - 1] if arrivals else 0
            counts[number, "vietnam"] = Count(count, came, left)
    return Fold(counts, {}, {}, 0)


def _released(draft: Draft | None, day: date = DAY) -> Earlier:
    assert draft is not None
    release = Release(uuid7(), "tourism", "daily", day, 1, datetime(2026, 11, 21, 2, tzinfo=UTC), b"{}", bytes(32))
    return Earlier(release, draft.content, draft.withheld)


def _suppressed(draft: Draft | None) -> set[tuple[str | None, ...]]:
    assert draft is not None
    return {
        (cell["kind"], cell["commune"], cell["nationality_group"])
        for cell in draft.content["cells"]
        if cell["suppressed"]
    }


def test_what_was_held_back_yesterday_for_its_own_sake_is_held_back_one_day_more() -> None:
    # In house yesterday = in house today - arrivals + departures: publishing all three would tell yesterday's number.
    small = draft_day(PLACES, _fold([1, 1, 1, 9, 9, 9, 9, 9, 9]), None, None, None)
    assert ("hotel_4_star", "a", None) in _suppressed(small)
    grown = _fold([9] * 9, arrivals=[8, 8, 8, 0, 0, 0, 0, 0, 0])
    assert _suppressed(draft_day(PLACES, grown, None, None, None)) == set()
    second = draft_day(PLACES, grown, _released(small), None, None)
    assert _suppressed(second) == _suppressed(small)
    third = draft_day(PLACES, _fold([9] * 9), _released(second), None, None)
    assert _suppressed(third) == set()


def test_what_was_held_back_yesterday_is_not_told_to_be_zero_today() -> None:
    small = draft_day(PLACES, _fold([1, 1, 1, 9, 9, 9, 9, 9, 9]), None, None, None)
    empty = draft_day(PLACES, _fold([0, 0, 0, 9, 9, 9, 9, 9, 9]), _released(small), None, None)
    assert ("hotel_4_star", "a", None) in _suppressed(empty)


def test_a_correction_hides_what_the_first_release_hid() -> None:
    first = draft_day(PLACES, _fold([1, 1, 1, 9, 9, 9, 9, 9, 9]), None, None, None)
    second = draft_day(PLACES, _fold([9, 9, 9, 9, 9, 9, 9, 9, 9]), None, _released(first), None)
    assert _suppressed(second) >= _suppressed(first)


def test_a_correction_at_one_facility_is_never_told_however_large() -> None:
    first = draft_day(PLACES, _fold([9] * 9), None, None, None)
    with pytest.raises(Deferred):
        draft_day(PLACES, _fold([90, *[9] * 8]), None, _released(first), None)


def test_a_correction_that_only_moves_guests_from_in_house_to_departed_is_held_to_the_same_rule() -> None:
    first = draft_day(PLACES, _fold([9] * 9), None, None, None)
    with pytest.raises(Deferred):
        draft_day(PLACES, _fold([9] * 9, departures=[1, 1, 1, *[0] * 6]), None, _released(first), None)
    told = draft_day(PLACES, _fold([9] * 9, departures=[4, 4, 4, *[0] * 6]), None, _released(first), None)
    assert told is not None


def test_a_correction_that_hides_a_number_tomorrow_tells_is_counted_as_exposed_or_waits() -> None:
    first = draft_day(PLACES, _fold([9] * 9), None, None, None)
    tomorrow = _released(draft_day(PLACES, _fold([9] * 9), None, None, None), DAY + timedelta(days=1))
    shrunk = _fold([1, 1, 1, *[9] * 6])
    try:
        draft = draft_day(PLACES, shrunk, None, _released(first), tomorrow)
    except Deferred:
        return
    assert draft is not None
    assert draft.exposed > 0


def test_supervision_tells_a_band_and_never_how_many_guests_there_were() -> None:
    places = _places({"a": [HOTEL, HOTEL, GUESTHOUSE], "b": [HOTEL]})
    fold = Fold({(1, "vietnam"): Count(3, 3, 0), (3, "vietnam"): Count(2, 2, 0)}, {1: 3, 3: 2}, {1: 3, 3: 1}, 0)
    draft = draft_day(places, fold, None, None, None)
    assert draft is not None
    assert draft.content["supervision"] == [
        {"kind": "guesthouse", "commune": "a", "facilities": 1, "active": 1, "on_time": "half"},
        {"kind": "hotel_4_star", "commune": "a", "facilities": 2, "active": 1, "on_time": "all"},
        {"kind": "hotel_4_star", "commune": "b", "facilities": 1, "active": 0, "on_time": None},
    ]


def test_every_published_table_adds_up_to_the_next_coarser_one() -> None:
    draft = draft_day(PLACES, _fold([9] * 9, arrivals=[1] * 9, departures=[2] * 9), None, None, None)
    assert draft is not None
    sums: dict[tuple[bool, ...], int] = dict.fromkeys(shapes(3), 0)
    for cell in draft.content["cells"]:
        node = (cell["kind"], cell["commune"], cell["nationality_group"])
        sums[tuple(coordinate is not None for coordinate in node)] += cell["in_house"]
    assert set(sums.values()) == {63}


def test_a_day_in_viet_nam_begins_at_17_hours_utc() -> None:
    assert day_bounds(DAY) == (datetime(2026, 11, 19, 17, tzinfo=UTC), datetime(2026, 11, 20, 17, tzinfo=UTC))
