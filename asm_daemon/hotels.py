"""Hotel software: what it pushes is taken in as guests who are expected; what it only rings about is fetched.

A webhook is a doorbell, never a letter: whatever it carries, a worker asks the system itself, at the one address that
an operator registered. A reservation says who is in its party now; guests who are no longer in it are cancelled as long
as nobody declared them. Nothing here files a guest by itself but what intake does with every act.
"""

from __future__ import annotations

import asyncio
import hashlib
import random
import secrets
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Protocol
from uuid import UUID

import asyncpg
import structlog
from prometheus_client import Counter as Metric
from uuid_utils.compat import uuid7

from asm_daemon import audit
from asm_daemon.crypto import Keyring, RecordName, Tampered, UnknownEpoch, epoch_of
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.model import ExpectedRow, Facility
from asm_daemon.problems import Refused
from asm_daemon.sealing import open_expected
from asm_daemon.store import Connection, facilities
from asm_daemon.store import expected as expected_store
from asm_daemon.store import hotels as store
from asm_daemon.store.hotels import Pull, Registered, Ring, SystemFacts
from schemas.act import Act, ActKind, Unreadable
from schemas.folding import fold_tokens
from schemas.hotel_systems import NewHotelSystem
from schemas.hotels import PARTY_LIMIT, Changed, HotelEvents, HotelSystem, NotFetched, reservation_of
from schemas.violations import violation

PULLS_LIMIT, PULLS_PER_SYSTEM = 200, 20
"""How many reservations one pass fetches, and how many of one system: a slow one must not take all the time."""
SYSTEMS_AT_ONCE = 4
PASS_SECONDS = 60.0
"""How long one pass goes on asking a system that answers, but slowly: the others wait for the end of the pass."""
BACKOFF_FIRST_SECONDS, BACKOFF_LONGEST_SECONDS = 5.0, 3600.0
RETRY_AFTER_LIMIT_SECONDS = 6 * 3600.0
"""The longest that a system may ask to be left alone."""
GIVEN_UP_AFTER = timedelta(days=3)
"""For so long a reservation is asked for; then the booking is erased here anyway, if its guest did not come."""
LEFT_LONG_AGO = timedelta(days=7)
"""A guest of whom nothing was known, and who left so long ago, is not announced by a late change of the invoice."""

EVENTS = Metric("asm_hotel_events", "Events of hotel software", ["system", "outcome"])
PULLS = Metric("asm_hotel_pulls", "Reservations asked for", ["system", "outcome"])

log = structlog.get_logger()
Read = Callable[[bytes], Iterator[Act | Unreadable]]


class Client(Protocol):
    """A connection to one system."""

    async def fetch(self, reservation_id: str) -> bytes | None:
        """The reservation as its connector reads it; None if the system knows none. Raises `NotFetched`."""


OpenClient = Callable[[Registered], AbstractAsyncContextManager[Client]]


# -- the directory -----------------------------------------------------------------------------------------------------


async def add_system(pool: asyncpg.Pool, actor: str, new: NewHotelSystem, now: datetime) -> str:
    """Register the system of a facility and return its webhook token, which nobody can show again.

    Registering again replaces address, credentials and token. Refused `request_invalid` for an unknown facility.
    """
    token = secrets.token_urlsafe(32)
    async with pool.acquire() as connection, connection.transaction():
        facility = await _known_facility(connection, new.facility)
        await store.upsert_system(
            connection, facility.id, new.system, new.base_url, new.token_url, new.property_id,
            new.credentials_file, _digest(token), now,
        )  # fmt: skip
        await _record(connection, actor, "hotel_system.add", facility, new.system, now)
    return token


async def remove_system(pool: asyncpg.Pool, actor: str, code: str, system: HotelSystem, now: datetime) -> bool:
    """Forget the system of a facility and what waits for it; False if there is none."""
    async with pool.acquire() as connection, connection.transaction():
        facility = await _known_facility(connection, code)
        removed = await store.delete_system(connection, facility.id, system)
        if removed:
            await _record(connection, actor, "hotel_system.remove", facility, system, now)
    return removed


async def list_systems(pool: asyncpg.Pool) -> list[SystemFacts]:
    """Every registered system, with what waits for it."""
    async with pool.acquire() as connection:
        return await store.list_systems(connection)


async def _known_facility(connection: Connection, code: str) -> Facility:
    facility = await facilities.facility_by_code(connection, code)
    if facility is None:
        raise Refused("request_invalid", violations=[violation("unknown_code", "/facility", table="facilities")])
    return facility


async def _record(
    connection: Connection, actor: str, action: str, facility: Facility, system: HotelSystem, now: datetime
) -> None:
    entry = audit.AuditEntry(
        at=now, actor_kind="operator", actor=actor, action=action, object=f"facility/{facility.code}",
        details={"system": system.value},
    )  # fmt: skip
    await audit.append(connection, entry)


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("ascii")).digest()


# -- the doorbell ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rung:
    """What became of the events of one call."""

    queued: int
    ignored: int


async def system_of_webhook(pool: asyncpg.Pool, system: HotelSystem, token: str) -> Registered | None:
    """The system that a webhook token belongs to."""
    async with pool.acquire() as connection:
        return await store.system_of_webhook(connection, system, _digest(token))


async def systems_at(pool: asyncpg.Pool, system: HotelSystem, at: Iterable[Facility]) -> list[Registered]:
    """The systems of this kind at these facilities."""
    async with pool.acquire() as connection:
        return await store.systems_at(connection, system, [facility.id for facility in at])


async def ring(
    pool: asyncpg.Pool, keyring: Keyring, system: HotelSystem, systems: Sequence[Registered], events: HotelEvents,
    now: datetime,
) -> Rung:  # fmt: skip
    """Remember which reservations are to be fetched; an event that belongs to none of `systems`, or might belong to
    several, is ignored and counted. Refused `unavailable` while this month has no key."""
    rings: dict[tuple[int, bytes], Ring] = {}
    strangers = 0
    for change in events.changed:
        meant = [each for each in systems if _is_of(each, change)]
        if len(meant) != 1:
            strangers += 1
            continue
        try:
            rung = _ring(keyring, meant[0], change.reservation_id, now)
        except UnknownEpoch:
            raise Refused("unavailable", retry_after_seconds=60) from None
        rings[rung.system_id, rung.reservation_tag] = rung
    if rings:
        async with pool.acquire() as connection:
            await store.ring(connection, [rings[key] for key in sorted(rings)], now)
    ignored = events.ignored + strangers
    EVENTS.labels(system.value, "queued").inc(len(rings))
    EVENTS.labels(system.value, "ignored").inc(ignored)
    return Rung(len(rings), ignored)


def _is_of(system: Registered, change: Changed) -> bool:
    return None in (system.property_id, change.property_id) or system.property_id == change.property_id


def _ring(keyring: Keyring, system: Registered, reservation_id: str, now: datetime) -> Ring:
    row_id = uuid7(nanoseconds=int(now.timestamp() * 1_000_000) * 1000)
    tag = keyring.reference_tag(system.facility.id, f"hotel|{system.system}|{reservation_id}")
    sealed = keyring.seal(_name(system.facility.id, row_id), reservation_id.encode())
    return Ring(system.id, tag, row_id, sealed)


def _name(facility_id: int, row_id: UUID) -> RecordName:
    return RecordName("hotel_pull", epoch_of(row_id), facility_id, row_id, 1, 1)


# -- the worker --------------------------------------------------------------------------------------------------------


def latest(now: datetime) -> datetime:
    """A reservation that waits beyond this was put off by a clock that was wrong."""
    return now + timedelta(seconds=max(RETRY_AFTER_LIMIT_SECONDS, BACKOFF_LONGEST_SECONDS))


async def pull_once(
    pool: asyncpg.Pool,
    intake: Intake,
    keyring: Keyring,
    open_client: OpenClient,
    readers: Mapping[HotelSystem, Read],
    now: Callable[[], datetime],
) -> dict[str, int]:
    """Fetch the reservations that are due and take them in. `pool` connects as asm_intake.

    No connection is held while another system is asked. What fails is tried again after a random time that doubles,
    or when the system says; a system that cannot be reached is asked once, not for each of its reservations. Returns
    the counts: fetched, gone (the system knows no such reservation), postponed, given_up.
    """
    async with pool.acquire() as connection:
        due = await store.due_pulls(connection, now(), latest(now()), PULLS_PER_SYSTEM, PULLS_LIMIT)
        systems = await store.systems_of(connection, sorted({pull.system_id for pull in due})) if due else []
    counts: Counter[str] = Counter(fetched=0, gone=0, postponed=0, given_up=0)
    turns = asyncio.Semaphore(SYSTEMS_AT_ONCE)

    async def work(system: Registered) -> None:
        async with turns:
            rows = [pull for pull in due if pull.system_id == system.id]
            worker = _Worker(pool, intake, keyring, readers[system.system], now, system)
            for outcome, number in (await worker.run(rows, open_client)).items():
                counts[outcome] += number
                PULLS.labels(system.system.value, outcome).inc(number)

    async with asyncio.TaskGroup() as tasks:
        for system in systems:
            tasks.create_task(work(system))
    return dict(counts)


@dataclass(frozen=True, slots=True)
class _Worker:
    """Fetches what is due of one system, one after the other."""

    pool: asyncpg.Pool
    intake: Intake
    keyring: Keyring
    read: Read
    now: Callable[[], datetime]
    system: Registered

    async def run(self, rows: Sequence[Pull], open_client: OpenClient) -> Counter[str]:
        counts: Counter[str] = Counter()
        failure: NotFetched | None = None
        loop = asyncio.get_running_loop()
        until = loop.time() + PASS_SECONDS
        try:
            async with open_client(self.system) as client:
                for row in rows:
                    if counts and loop.time() >= until:
                        break  # the rest stays due
                    try:
                        counts[await self._pull(client, row)] += 1
                    except _OnlyThis as this:
                        counts[await self._postpone(row, NotFetched(this.code))] += 1
        except NotFetched as caught:
            failure = caught
        if failure is not None:
            for row in rows[counts.total() :]:  # the one that failed, and those behind it
                counts[await self._postpone(row, failure)] += 1
        return counts

    async def _pull(self, client: Client, row: Pull) -> str:
        try:
            name = _name(self.system.facility.id, row.id)
            reservation_id = self.keyring.open(name, row.reservation_sealed).decode()
        except (Tampered, UnknownEpoch):  # its month's key is gone: nobody can tell any more what it was about
            return await self._end(row, "given_up")
        document = await client.fetch(reservation_id)
        if document is None:
            return await self._end(row, "gone")
        read = list(self.read(document))
        if any(isinstance(each, Unreadable) for each in read):
            raise _OnlyThis("unreadable")
        if not all(_is_about(each, self.system.system, reservation_id) for each in read):
            raise _OnlyThis("another_reservation")
        actor = f"hotel-system/{self.system.id}"
        try:
            await take(self.pool, self.intake, self.keyring, self.system.facility, read, self.now(), actor)
        except Refused as refused:  # overloaded, unavailable, outcome_unknown: of the whole, not of an act
            raise _OnlyThis(refused.code) from None
        return await self._end(row, "fetched")

    async def _end(self, row: Pull, outcome: str) -> str:
        async with self.pool.acquire() as connection:
            await store.finish_pull(connection, row)
        return outcome

    async def _postpone(self, row: Pull, failure: NotFetched) -> str:
        if self.now() - row.rung_at > GIVEN_UP_AFTER:
            log.warning("hotel.given_up", facility_id=self.system.facility.id, attempts=row.attempts)
            return await self._end(row, "given_up")
        doubled = min(BACKOFF_FIRST_SECONDS * 2 ** min(row.attempts, 16), BACKOFF_LONGEST_SECONDS)
        seconds = random.uniform(doubled / 2, doubled)  # noqa: S311 - not a secret
        if failure.retry_after_seconds is not None:
            seconds = max(seconds, min(failure.retry_after_seconds, RETRY_AFTER_LIMIT_SECONDS))
        async with self.pool.acquire() as connection:
            await store.postpone_pull(connection, row, self.now() + timedelta(seconds=seconds), failure.code)
        return "postponed"


class _OnlyThis(Exception):
    """One reservation failed, which says nothing about the others."""

    def __init__(self, code: str) -> None:
        super().__init__(code)
        self.code = code


def _is_about(read: Act | Unreadable, system: HotelSystem, reservation_id: str) -> bool:
    named = reservation_of(read.source_ref or "") if isinstance(read, Act) else None
    return named is not None and named[0] == f"{system}:{reservation_id}"


# -- taking in ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of one act; `outcome` is None where there was nothing to do."""

    act: Act
    outcome: Outcome | None


async def take(
    pool: asyncpg.Pool,
    intake: Intake,
    keyring: Keyring,
    facility: Facility,
    read: Iterable[Act | Unreadable],
    received_at: datetime,
    actor: str,
) -> list[Taken]:
    """Take in what reservations say, and cancel those of their parties who are in them no longer.

    Who is declared already is not announced again, and no booking cancels a declaration, or a guest who is in house:
    the desk does. Raises what `Intake.submit` raises.
    """
    acts = [each for each in read if isinstance(each, Act)]
    known = await _known(pool, keyring, facility, acts)
    long_gone = _long_gone(known, acts, received_at)
    todo = [None if act.source_ref in long_gone else _adapted(keyring, known, act) for act in acts]
    wanted = [act for act in (*todo, *_surplus(known, acts)) if act is not None]
    submitted = await intake.submit([Command(facility, act, received_at, actor) for act in wanted]) if wanted else []
    outcomes = iter(submitted)
    return [Taken(act, None if done is None else next(outcomes)) for act, done in zip(acts, todo, strict=True)]


@dataclass(frozen=True, slots=True, repr=False)
class _Known:
    """What is on file under the names of some reservations: who is expected, and who is declared."""

    expected: Mapping[str, ExpectedRow]
    declared: frozenset[str]


async def _known(pool: asyncpg.Pool, keyring: Keyring, facility: Facility, acts: Sequence[Act]) -> _Known:
    reservations = dict.fromkeys(named[0] for act in acts if (named := reservation_of(act.source_ref or "")))
    names = {
        keyring.reference_tag(facility.id, name): name
        for reservation in reservations
        for name in (f"{reservation}:{place}" for place in range(1, PARTY_LIMIT + 1))
    }
    if not names:
        return _Known({}, frozenset())
    async with pool.acquire() as connection:
        stays, rows = await expected_store.find_named(connection, [facility.id] * len(names), list(names))
    return _Known({names[row.ref_tag]: row for row in rows}, frozenset(names[tag] for _, tag in stays))


def _long_gone(known: _Known, acts: Iterable[Act], received_at: datetime) -> frozenset[str | None]:
    """The names of guests who left long ago and of whom nothing is on file."""
    departures = {act.source_ref: act.fields.get("departed_at") for act in acts if act.kind is ActKind.CHECK_OUT}
    return frozenset(
        name
        for name, departed_at in departures.items()
        if name not in known.expected and name not in known.declared
        and isinstance(departed_at, str)
        and datetime.fromisoformat(departed_at) < received_at - LEFT_LONG_AGO
    )  # fmt: skip


def _adapted(keyring: Keyring, known: _Known, act: Act) -> Act | None:
    """The act as it is to be taken in; None if there is nothing to do."""
    name = act.source_ref or ""
    expected = known.expected.get(name)
    if act.kind is ActKind.CANCEL:
        return act if expected is not None and expected.state == "open" and not expected.present else None
    if act.kind is not ActKind.EXPECT:
        return act
    if name in known.declared:
        return None
    if expected is None or not _is_another_person(keyring, expected, act):
        return act
    # Another guest has taken the place: what the desk knew of the first must not become theirs.
    before = open_expected(keyring, expected).known.get("guest", {})
    return replace(act, fields={**act.fields, "guest": {**dict.fromkeys(before), **act.fields["guest"]}})


def _is_another_person(keyring: Keyring, expected: ExpectedRow, act: Act) -> bool:
    try:
        before = open_expected(keyring, expected).known.get("guest")
    except (Tampered, UnknownEpoch):
        return False  # intake refuses it, and says why
    now = act.fields.get("guest")
    names = [guest.get("full_name") if isinstance(guest, Mapping) else None for guest in (before, now)]
    return all(names) and sorted(fold_tokens(str(names[0]))) != sorted(fold_tokens(str(names[1])))


def _surplus(known: _Known, acts: Sequence[Act]) -> Iterator[Act]:
    """Cancellations of those who are expected for these reservations and are in none of the acts."""
    told = {act.source_ref for act in acts}
    row = max((act.row for act in acts), default=0)
    for name, expected in known.expected.items():
        if name not in told and expected.state == "open" and not expected.present:
            yield Act(ActKind.CANCEL, {"reason": "guest_did_not_stay"}, row, name)
