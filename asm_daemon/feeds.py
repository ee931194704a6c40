"""What departments learn (luồng chia sẻ): numbers about groups of guests, published once and never about a person.

A day is folded inside the daemon from sealed stays into counts; small groups and everything that would reveal them are
held back (`suppression`); what remains becomes an immutable release. Readers reach releases and nothing else.
"""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any, NamedTuple
from uuid import UUID

import asyncpg
import orjson
import structlog
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.audit import AuditEntry
from asm_daemon.crypto import Keyring, RecordName, Tampered, UnknownEpoch, epoch_of
from asm_daemon.ledger import canonical_json, instant_text
from asm_daemon.model import StayRow
from asm_daemon.rules import day_bounds
from asm_daemon.sealing import open_contents
from asm_daemon.store import Connection
from asm_daemon.store import extracts as store
from asm_daemon.store.extracts import Place, Release
from asm_daemon.suppression import Cell, Equation, Limits, Node, Suppression, project, shapes, suppress
from asm_daemon.suppression import audit as find_leaks
from schemas.codes import Department, nationality_group

DAILY = "daily"
DIMENSIONS = ("kind", "commune", "nationality_group")
"""Published are kind × commune, kind × group, each alone, and the total. Of kind × commune × group nearly every number
would have to be held back, and half of the totals with it."""

LIMITS = Limits()
ON_TIME_BANDS = ((100, "all"), (90, "most"), (50, "half"), (0, "few"))
PAGE_ROWS = 2_000
_WITHHELD_PART_BYTES = 60_000  # of what the keyring seals at once
_NO_ID = UUID(int=0)

log = structlog.get_logger()


class Leaking(Exception):
    """An extract would tell what it must not: it is not published. The message tells no number and no place."""


class Count(NamedTuple):
    """Guests of one facility and one nationality group on one day. In house at 24:00 = persons - departures."""

    persons: int
    arrivals: int
    departures: int

    def plus(self, persons: int, arrivals: int, departures: int) -> Count:
        """These guests and others."""
        return Count(self.persons + persons, self.arrivals + arrivals, self.departures + departures)


_NOBODY = Count(0, 0, 0)
Counts = Mapping[tuple[int, str], Count]


@dataclass(frozen=True, slots=True, repr=False)
class Fold:
    """One day of every facility: counts by (facility, nationality group); arrivals, and those declared on time."""

    counts: Counts
    arrivals: Mapping[int, int]
    on_time: Mapping[int, int]
    unreadable: int


@dataclass(frozen=True, slots=True, repr=False)
class Withheld:
    """What a release did not tell, kept sealed so that later ones can be checked against it."""

    own: frozenset[Node]
    counts: Counts


@dataclass(frozen=True, slots=True, repr=False)
class Earlier:
    """A release that is out. `content` is its body without what only names it."""

    release: Release
    content: Mapping[str, Any]
    withheld: Withheld

    def numbers(self) -> dict[Node, Mapping[str, Any]]:
        """The published cells, by node."""
        return {_node(cell): cell for cell in self.content["cells"] if not cell["suppressed"]}

    def hidden(self) -> frozenset[Node]:
        """The cells held back."""
        return frozenset(_node(cell) for cell in self.content["cells"] if cell["suppressed"])


@dataclass(frozen=True, slots=True, repr=False)
class Draft:
    """What is to be published."""

    content: Mapping[str, Any]
    withheld: Withheld
    exposed: int


# ----------------------------------------------------------------------------------------------------------------------
# Publishing


async def unpublished(pool: asyncpg.Pool, days: Sequence[date]) -> list[date]:
    """Which of these days some department has no release of, oldest first; `pool` as asm_publish."""
    async with pool.acquire() as connection:
        released = await store.released_days(connection, DAILY, days, len(Department))
    return sorted(set(days) - released)


async def publish_once(pool: asyncpg.Pool, keyring: Keyring, day: date, now: datetime) -> dict[str, int]:
    """Publish one Vietnamese day for every department, as asm_publish; a further release only where numbers changed.

    Counts: releases `published`; corrections `deferred` because what changed is itself too small to be told; `exposed`
    numbers that earlier releases tell, `unreadable` stays (counted under the nationality group `other`). Raises Leaking
    if the audit of a first release finds something, when the other departments have theirs, and if the day has a
    release, or one beside it, of which is not kept any more what it withheld; UnknownEpoch if this month has no keys.
    """
    start, end = day_bounds(day)
    async with pool.acquire() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
        places = await store.places(connection, end)
        fold = await _fold(connection, keyring, start, end)
        around = await store.latest_releases(connection, DAILY, [day + timedelta(days=step) for step in (-1, 0, 1)])
    if not all(sealed for _, sealed in around):
        raise Leaking("what its releases or those of the days beside it withheld is not kept any more to check it by")
    earlier = {(each.department, each.period): _read_back(keyring, each, sealed) for each, sealed in around}
    counts = {"published": 0, "deferred": 0, "exposed": 0, "unreadable": fold.unreadable}
    leaking = None
    for department in Department:
        yesterday, same, tomorrow = (earlier.get((department, day + timedelta(days=step))) for step in (-1, 0, 1))
        own_places = [place for place in places if place.kind.department is department]
        try:
            draft = await asyncio.to_thread(draft_day, own_places, fold, yesterday, same, tomorrow)
        except Deferred:
            counts["deferred"] += 1
            continue
        except Leaking as found:
            leaking = found
            continue
        if draft is not None and await _publish(pool, keyring, department, day, same, draft, now):
            counts["published"] += 1
            counts["exposed"] += draft.exposed
    if leaking is not None:
        raise leaking
    return counts


async def _publish(
    pool: asyncpg.Pool,
    keyring: Keyring,
    department: Department,
    day: date,
    same: Earlier | None,
    draft: Draft,
    now: datetime,
) -> bool:
    """Store a release and its audit entry together; false if another process was first."""
    release_id, release_no = uuid7(), same.release.release_no + 1 if same else 1
    head = {
        "format": 1,
        "department": department.value,
        "template": DAILY,
        "period": day.isoformat(),
        "release_no": release_no,
        "published_at": instant_text(now),
    }
    body = canonical_json({**head, **draft.content})
    release = Release(release_id, department, DAILY, day, release_no, now, body, sha256(body).digest())
    entry = AuditEntry(
        at=now,
        actor_kind="system",
        actor="publish",
        action="extract.publish",
        object=f"release/{release_id}",
        organisation=department.value,
        details={
            "template": DAILY,
            "period": day.isoformat(),
            "release_no": release_no,
            "sha256": release.sha256.hex(),
            "exposed": draft.exposed,
        },
    )
    async with pool.acquire() as connection, connection.transaction():
        if not await store.insert_release(connection, release, _seal_withheld(keyring, release_id, draft.withheld)):
            return False
        await audit.append_vouched(connection, keyring, entry)
    return True


# ----------------------------------------------------------------------------------------------------------------------
# Folding


async def _fold(connection: Connection, keyring: Keyring, start: datetime, end: datetime) -> Fold:
    """Count everybody who was there between two midnights, page by page; blobs are opened outside the event loop."""
    counts: dict[tuple[int, str], Count] = defaultdict(lambda: _NOBODY)
    arrivals: Counter[int] = Counter()
    on_time: Counter[int] = Counter()
    unreadable, after = 0, _NO_ID
    while page := await store.stays_between(connection, start, end, after, PAGE_ROWS):
        after = page[-1].id
        for row, group in zip(page, await asyncio.to_thread(_groups, keyring, page), strict=True):
            leaves_at = row.departed_at or row.planned_departure_at
            arrived = row.arrived_at >= start
            departed = leaves_at is not None and leaves_at < end
            key = row.facility_id, group or nationality_group("")
            counts[key] = counts[key].plus(1, arrived, departed)
            arrivals[row.facility_id] += arrived
            on_time[row.facility_id] += arrived and row.late_minutes == 0
            unreadable += group is None
    return Fold(dict(counts), arrivals, on_time, unreadable)


def _groups(keyring: Keyring, rows: Sequence[StayRow]) -> list[str | None]:
    """The nationality group of each stay; None where the record cannot be opened."""
    return [_group(keyring, row) for row in rows]


def _group(keyring: Keyring, row: StayRow) -> str | None:
    try:
        return nationality_group(open_contents(keyring, row).declared["guest"]["nationality"])
    except (Tampered, UnknownEpoch):
        log.exception("feeds.stay_unreadable", stay_id=str(row.id))
        return None


# ----------------------------------------------------------------------------------------------------------------------
# Deciding


class Deferred(Exception):
    """A correction waits: telling it now would tell about the few whom it concerns."""


def draft_day(
    places: Sequence[Place], fold: Fold, yesterday: Earlier | None, same: Earlier | None, tomorrow: Earlier | None
) -> Draft | None:
    """Decide what one department is told about a day; None if it would hear nothing new.

    `yesterday`, `same` and `tomorrow` are the newest releases of the day before, of the day itself and of the day
    after. In house yesterday = in house today - arrivals + departures, so what was held back yesterday for its own sake
    is held back today too. Raises Deferred and Leaking.
    """
    by_id = {place.facility_id: place for place in places}
    counts = {key: count for key, count in fold.counts.items() if key[0] in by_id}
    supervision = _supervision(places, fold)
    if same is not None and counts == same.withheld.counts:
        content = {**same.content, "supervision": supervision}
        return None if content == same.content else Draft(content, same.withheld, 0)
    cells = list(_cells(by_id, counts))
    keep = (yesterday.withheld.own if yesterday else frozenset()) | (same.hidden() if same else frozenset())
    numbers = _numbers(cells)
    known = _already_known(numbers, same, tomorrow)
    chosen = suppress(cells, LIMITS, keep, known)
    content = {"limits": _limits(), "cells": _rows(numbers, chosen), "supervision": supervision}
    leaks = [leak for leak in find_leaks(cells, LIMITS, chosen.own) if leak.node not in chosen.exposed]
    if leaks and not known:
        raise Leaking(f"{len(leaks)} findings, the first: {leaks[0].why}")
    if leaks or (same is not None and _tells_too_little_changed(by_id, counts, same, chosen)):
        raise Deferred
    own = chosen.own | (same.withheld.own if same else frozenset())
    return Draft(content, Withheld(own, counts), len(chosen.exposed))


def _cells(by_id: Mapping[int, Place], counts: Counts) -> Iterator[Cell]:
    """Counts by kind, commune and nationality group, with the persons of each facility."""
    facilities: dict[Node, dict[int, int]] = defaultdict(dict)
    totals: dict[Node, Count] = defaultdict(lambda: _NOBODY)
    for (facility_id, group), count in sorted(counts.items()):
        place = by_id[facility_id]
        at: Node = (place.kind.value, place.commune, group)
        facilities[at][facility_id] = count.persons
        totals[at] = totals[at].plus(*count)
    for at, count in totals.items():
        measures = (count.arrivals, count.departures, count.persons - count.departures)
        yield Cell(at, measures, tuple(facilities[at].items()))


def _numbers(cells: Iterable[Cell]) -> dict[Node, tuple[int, ...]]:
    """Arrivals, departures and in house of every node that is not zero."""
    numbers: dict[Node, tuple[int, ...]] = {}
    for cell in cells:
        for shape in shapes(len(DIMENSIONS)):
            node = project(cell.at, shape)
            before = numbers.get(node, (0, 0, 0))
            numbers[node] = tuple(a + b for a, b in zip(before, cell.measures, strict=True))
    return numbers


def _already_known(
    numbers: Mapping[Node, tuple[int, ...]], same: Earlier | None, tomorrow: Earlier | None
) -> list[Equation]:
    """What releases that are out tell about this day: their unchanged numbers, and what tomorrow began with."""
    known = set(tomorrow.numbers()) if tomorrow else set()
    if same:
        known |= {node for node, cell in same.numbers().items() if cell == _row(node, numbers.get(node, (0, 0, 0)))}
    return [frozenset({node}) for node in sorted(known, key=_order)]


def _tells_too_little_changed(by_id: Mapping[int, Place], counts: Counts, same: Earlier, chosen: Suppression) -> bool:
    """Whether comparing a correction with the release before it shows a group that is too small to be shown."""
    changed: dict[Node, dict[int, int]] = defaultdict(dict)
    before = same.withheld.counts
    for key in sorted({*counts, *before}):
        new, old = counts.get(key, _NOBODY), before.get(key, _NOBODY)
        in_house = abs(new.persons - new.departures - old.persons + old.departures)
        difference = max(in_house, *(abs(a - b) for a, b in zip(new, old, strict=True)))
        place = by_id.get(key[0])
        if difference and place is not None:
            changed[place.kind.value, place.commune, key[1]][key[0]] = difference
    cells = [Cell(at, (), tuple(facilities.items())) for at, facilities in changed.items()]
    return any(leak.why != "determined" for leak in find_leaks(cells, LIMITS, chosen.hidden))


# ----------------------------------------------------------------------------------------------------------------------
# What a release says


def _rows(numbers: Mapping[Node, tuple[int, ...]], chosen: Suppression) -> list[dict[str, Any]]:
    """Every node that is not zero or is held back, totals first. Nothing tells why one is held back."""
    nodes = sorted({*numbers, *chosen.hidden}, key=_order)
    return [_hidden_row(node) if node in chosen.hidden else _row(node, numbers[node]) for node in nodes]


def _row(node: Node, measures: tuple[int, ...]) -> dict[str, Any]:
    arrivals, departures, in_house = measures
    return {
        **dict(zip(DIMENSIONS, node, strict=True)),
        "suppressed": False,
        "arrivals": arrivals,
        "departures": departures,
        "in_house": in_house,
        "guest_nights": in_house,  # of one day: who is in house at 24:00 spends the night
    }


def _hidden_row(node: Node) -> dict[str, Any]:
    return {**dict(zip(DIMENSIONS, node, strict=True)), "suppressed": True}


def _supervision(places: Sequence[Place], fold: Fold) -> list[dict[str, Any]]:
    """The duty to declare by kind and commune: facilities, those with guests, and a band of how many were on time."""
    active = {facility_id for facility_id, _group in fold.counts}
    rows: dict[tuple[str, str], Counter[str]] = defaultdict(Counter)
    for place in places:
        if place.registered or place.facility_id in active:
            rows[place.kind.value, place.commune].update(
                facilities=1,
                active=place.facility_id in active,
                arrivals=fold.arrivals.get(place.facility_id, 0),
                on_time=fold.on_time.get(place.facility_id, 0),
            )
    return [
        {
            "kind": kind,
            "commune": commune,
            "facilities": row["facilities"],
            "active": row["active"],
            "on_time": _band(row["on_time"], row["arrivals"]),
        }
        for (kind, commune), row in sorted(rows.items())
    ]


def _band(on_time: int, arrivals: int) -> str | None:
    """A share as a word: the share itself would tell the number of guests behind it."""
    if not arrivals:
        return None
    return next(word for percent, word in ON_TIME_BANDS if on_time * 100 >= percent * arrivals)


def _limits() -> dict[str, int]:
    return {"persons": LIMITS.persons, "facilities": LIMITS.facilities, "share_percent": LIMITS.share_percent}


def _node(cell: Mapping[str, Any]) -> Node:
    return tuple(cell[name] for name in DIMENSIONS)


def _order(node: Node) -> tuple[str, ...]:
    return tuple(coordinate or "" for coordinate in node)


# ----------------------------------------------------------------------------------------------------------------------
# What a release does not say


def _seal_withheld(keyring: Keyring, release_id: UUID, withheld: Withheld) -> list[bytes]:
    plain = canonical_json(
        {
            "own": [list(node) for node in sorted(withheld.own, key=_order)],
            "counts": [[*key, *count] for key, count in sorted(withheld.counts.items())],
        }
    )
    parts = [plain[at : at + _WITHHELD_PART_BYTES] for at in range(0, len(plain), _WITHHELD_PART_BYTES)]
    return [keyring.seal(_record(release_id, number), part) for number, part in enumerate(parts, 1)]


def _read_back(keyring: Keyring, release: Release, sealed: Sequence[bytes]) -> Earlier:
    """A release as later ones need it. Raises Tampered, UnknownEpoch."""
    members = orjson.loads(release.body)
    content = {name: members[name] for name in ("limits", "cells", "supervision")}
    plain = b"".join(keyring.open(_record(release.id, number), part) for number, part in enumerate(sealed, 1))
    withheld = orjson.loads(plain)
    own = frozenset(tuple(node) for node in withheld["own"])
    counts = {(facility, group): Count(*count) for facility, group, *count in withheld["counts"]}
    return Earlier(release, content, Withheld(own, counts))


def _record(release_id: UUID, part: int) -> RecordName:
    return RecordName("release", epoch_of(release_id), 0, release_id, 1, part)


# ----------------------------------------------------------------------------------------------------------------------
# Reading


async def read_release(
    pool: asyncpg.Pool, department: Department, day: date, release_no: int | None = None
) -> Release | None:
    """A department's release of one day, the newest if no number is given; `pool` as asm_feeds."""
    async with pool.acquire() as connection:
        return await store.read_release(connection, department, DAILY, day, release_no)


async def list_releases(
    pool: asyncpg.Pool, department: Department, after: UUID | None = None, limit: int = 100
) -> list[Release]:
    """At most `limit` releases of a department, oldest first, after the one with the id `after`."""
    async with pool.acquire() as connection:
        return await store.list_releases(connection, department, DAILY, after or _NO_ID, limit)
