"""Taking acts in: everything that enters, enters here, whatever its format and however many rows it has.

One flusher per process commits what is waiting as one transaction: the stays, their receipts, the work to carry them on
and the audit entry, or nothing. While one batch commits, the next one gathers; nobody waits for a timer.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal
from uuid import UUID

import asyncpg
import structlog

from asm_daemon import audit
from asm_daemon.crypto import (
    IndexField,
    KeyExhausted,
    Keyring,
    KeyStoreError,
    Tampered,
    UnknownEpoch,
    document_value,
    epoch_bounds,
)
from asm_daemon.decisions import (
    REPEATED_WITHIN,
    AlreadyStaying,
    Change,
    Command,
    Decision,
    Prepared,
    World,
    guests_after,
    guests_over,
    prepare,
)
from asm_daemon.families import party_led
from asm_daemon.index_keys import ask_by_every_key
from asm_daemon.issuing import Draft, Issuer
from asm_daemon.model import ExpectedRow, PartyHead, Presence, StayRow, lane_of
from asm_daemon.problems import Refused, problem_document, violated
from asm_daemon.sealing import open_contents, open_expected
from asm_daemon.store import LOST, Connection
from asm_daemon.store import expected as expected_store
from asm_daemon.store import stays as store
from asm_daemon.store.events import EventKind, NewEvent, append_events, event_id_of
from asm_daemon.verification import CHECK_AGAIN
from schemas.act import ActKind, Unreadable
from schemas.sandbox import verification_of
from schemas.stay import BatchResult, RowResult
from schemas.violations import Violation

__all__ = ["Command", "Intake", "Outcome", "batch_result", "rehearse_alone", "row_result", "unreadable_result"]

RETRIES = 3
RECONNECT_SECONDS = 0.2
_NOTHING_RECORDED = frozenset({"overloaded", "unavailable"})
ROWS_PER_TURN = 100
"""Rows validated before other requests get a turn of the event loop."""
_OUTCOMES: tuple[Literal["accepted", "duplicate", "expected", "refused"], ...] = (
    "accepted",
    "duplicate",
    "expected",
    "refused",
)
_MAY_ASK = frozenset({"declare", "correct"})  # after other events the question about the guest is the same
_SHOWS_THE_STAY = frozenset({"already_staying", "content_differs", "stay_cancelled"})

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one act. `stay` is the version that resulted or exists; a rehearsal has neither id nor receipt.

    `expected` is the guest who is kept without being declared, `missing` what such a guest lacks.
    """

    outcome: Literal["accepted", "duplicate", "expected", "refused"]
    stay: StayRow | None = None
    receipt: Mapping[str, Any] | None = field(default=None, repr=False)
    refusal: Refused | None = None
    warnings: tuple[Violation, ...] = ()
    expected: ExpectedRow | None = None
    missing: tuple[Violation, ...] = ()


@dataclass(slots=True)
class _Waiting:
    prepared: Prepared
    done: asyncio.Future[Outcome] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class Intake:
    """The one way in.

    `pool` and `connect` lead to the database as asm_intake: the flusher keeps a connection of its own, because taking
    one from a pool for every batch costs a third of the throughput. `now` reads the clock; `ring` tells the sync
    workers that there is work (a doorbell: nothing depends on it). At most `flush_rows` acts commit together and
    `queue_rows` wait.
    """

    def __init__(
        self,
        pool: asyncpg.Pool,
        connect: Callable[[], Awaitable[asyncpg.Connection]],
        keyring: Keyring,
        issuer: Issuer,
        *,
        now: Callable[[], datetime],
        ring: Callable[[], None],
        flush_rows: int,
        queue_rows: int,
    ) -> None:
        self._pool = pool
        self._connect = connect
        self._keyring = keyring
        self._issuer = issuer
        self._now = now
        self._ring = ring
        self._flush_rows = flush_rows
        self._queue_rows = queue_rows
        self._queue: deque[_Waiting] = deque()
        self._arrived = asyncio.Event()
        self._closing = False

    async def submit(self, commands: Sequence[Command]) -> list[Outcome]:
        """Take in acts; outcomes in input order, after the commit.

        Raises `Refused` when every act that was sound failed: overloaded, unavailable (nothing of them was recorded),
        outcome_unknown (the answer to a commit was lost: sending the same again settles it). Acts beyond `flush_rows`
        are committed later than the first; where only some of them fail so, it is the outcome of each.
        """
        outcomes, waiting = await self._prepare(commands)
        if self._closing:
            raise Refused("unavailable", retry_after_seconds=5)
        if waiting and len(self._queue) + len(waiting) > self._queue_rows and self._queue:
            raise Refused("overloaded", retry_after_seconds=1)
        self._queue.extend(waiting.values())
        self._arrived.set()
        failures = []
        for place, entry in waiting.items():
            try:
                outcomes[place] = await entry.done
            except Refused as failure:
                failures.append(failure)
                outcomes[place] = Outcome("refused", refusal=failure, warnings=entry.prepared.warnings)
        if failures and len(failures) == len(waiting):
            raise next((failure for failure in failures if failure.code not in _NOTHING_RECORDED), failures[0])
        return [outcome for outcome in outcomes if outcome is not None]

    async def rehearse(self, commands: Sequence[Command]) -> list[Outcome]:
        """Decide as `submit` would, on the same data, and store nothing."""
        outcomes, waiting = await self._prepare(commands)
        if waiting:
            acts = [entry.prepared for entry in waiting.values()]
            async with (
                self._pool.acquire() as connection,
                connection.transaction(isolation="repeatable_read", readonly=True),
            ):
                world = await self._load(connection, acts, Draft(self._issuer))
            for place, outcome in zip(waiting, _rehearsed(world, acts), strict=True):
                outcomes[place] = outcome
        return [outcome for outcome in outcomes if outcome is not None]

    async def run(self) -> None:
        """The flusher: commit what waits. Returns after `close`, when everything that was waiting is answered."""
        try:
            await self._flush_until_closed()
        finally:  # whatever ended it, nobody is left waiting for an answer that will not come
            self._closing = True
            _answer_all(self._queue, Refused("unavailable", retry_after_seconds=5))

    async def _flush_until_closed(self) -> None:
        away = False
        while not (self._closing and not self._queue):
            try:
                connection = await self._connect()
            except LOST as error:
                if not away:
                    log.warning("intake.database_away", exc_info=error)
                away = True
                _answer_all(self._queue, Refused("unavailable", retry_after_seconds=5))
                self._queue.clear()
                await asyncio.sleep(RECONNECT_SECONDS)
            else:
                if away:
                    log.warning("intake.database_back")
                away = False
                try:
                    await self._flush_while_healthy(connection)
                finally:
                    connection.terminate()

    async def close(self) -> None:
        """Take nothing more in; `run` returns when the last waiting act is answered."""
        self._closing = True
        self._arrived.set()

    async def _prepare(self, commands: Sequence[Command]) -> tuple[list[Outcome | None], dict[int, _Waiting]]:
        outcomes: list[Outcome | None] = [None] * len(commands)
        waiting = {}
        for place, command in enumerate(commands):
            try:
                waiting[place] = _Waiting(prepare(self._keyring, command))
            except Refused as refusal:
                outcomes[place] = Outcome("refused", refusal=refusal, warnings=command.act.warnings)
            if place % ROWS_PER_TURN == ROWS_PER_TURN - 1:
                await asyncio.sleep(0)
        return outcomes, waiting

    async def _flush_while_healthy(self, connection: asyncpg.Connection) -> None:
        while True:
            while not self._queue:
                if self._closing:
                    return
                self._arrived.clear()
                await self._arrived.wait()
            if connection.is_closed():  # lost while nobody was waiting: nobody has to hear of it
                return
            batch = [self._queue.popleft() for _ in range(min(self._flush_rows, len(self._queue)))]
            await self._flush(connection, batch)

    async def _flush(self, connection: asyncpg.Connection, batch: list[_Waiting]) -> None:
        """Commit a batch, and answer everyone in it whatever happens."""
        try:
            outcomes = await self._commit_with_retries(connection, [entry.prepared for entry in batch])
        except Refused as refusal:
            _answer_all(batch, refusal)
        except UnknownEpoch as error:
            log.warning("intake.month_missing", exc_info=error)
            _answer_all(batch, Refused("unavailable", retry_after_seconds=60))
        except KeyStoreError as error:
            log.warning("intake.keys_away", exc_info=error)
            _answer_all(batch, Refused("unavailable", retry_after_seconds=60))
        except Exception as error:  # the top of the loop: what somebody sent must not end everybody's intake
            log.exception("intake.batch_failed", rows=len(batch))
            if len(batch) == 1:
                _answer_all(batch, _refusal_of(error))
            else:  # one bad row must not take the others with it
                middle = len(batch) // 2
                await self._flush(connection, batch[:middle])
                await self._flush(connection, batch[middle:])
        except BaseException:
            _answer_all(batch, Refused("outcome_unknown"))
            raise
        else:
            for entry, outcome in zip(batch, outcomes, strict=True):
                if not entry.done.done():
                    entry.done.set_result(outcome)
            self._ring()

    async def _commit_with_retries(self, connection: asyncpg.Connection, acts: list[Prepared]) -> list[Outcome]:
        for attempt in range(RETRIES):
            try:
                return await self._commit(connection, acts)
            except asyncpg.TransactionRollbackError:
                if attempt == RETRIES - 1:
                    raise
        raise AssertionError

    async def _commit(self, connection: asyncpg.Connection, acts: list[Prepared]) -> list[Outcome]:
        committing = False
        try:
            async with connection.transaction():
                outcomes = await self._decide_and_write(connection, acts)
                committing = True
        except LOST as error:
            connection.terminate()
            log.warning("intake.connection_lost", exc_info=error, state="committing" if committing else "deciding")
            raise Refused("outcome_unknown" if committing else "unavailable", retry_after_seconds=1) from None
        return outcomes

    async def _decide_and_write(self, connection: Connection, acts: list[Prepared]) -> list[Outcome]:
        await store.lock_turns(connection, sorted({act.command.facility.id for act in acts}))
        draft = Draft(self._issuer)
        world = await self._load(connection, acts, draft)
        decisions = [world.decide(act) for act in acts]
        now = self._now()
        batches = draft.sign(now)
        await _write(connection, self._keyring, world, now)
        for batch in batches:
            await store.insert_batch(connection, batch)
            await audit.append_vouched(
                connection,
                self._keyring,
                audit.AuditEntry(
                    at=now,
                    actor_kind="daemon",
                    actor="intake",
                    action="stays.commit",
                    object=str(batch.id),
                    details={"rows": len(batch.leaves) // 32, "checkpoint": batch.checkpoint.split("\n", 3)[2]},
                ),
            )
        if world.expectations.changed or world.expectations.removed:
            await audit.append(connection, _expected_entry(world, now))
        await _remember_earlier_batches(connection, draft, decisions, {batch.id for batch in batches})
        return [_outcome(world, draft, act, decision) for act, decision in zip(acts, decisions, strict=True)]

    async def _load(self, connection: Connection, acts: Sequence[Prepared], draft: Draft) -> World:
        """Read what the acts are about. Under the facilities' turns nothing of it can change before we write."""
        named = [(act.command.facility.id, act.ref_tag) for act in acts if act.ref_tag is not None]
        families = [(act.command.facility.id, act.ties) for act in acts if act.ties is not None]
        named += [(place, tag) for place, ties in families if (tag := ties.guardian_ref_tag) is not None]
        refs, expected = await expected_store.find_named(connection, *_columns(named)) if named else ({}, [])
        expected += await self._expected(connection, acts)
        tags = [(act.command.facility.id, act.document_tag) for act in acts if act.document_tag is not None]
        tags += [(place, seen) for place, ties in families if (seen := ties.guardian_tag) is not None]
        tags += self._tags_of(expected, acts)
        present = await store.find_present(connection, *_columns(tags)) if tags else []
        guests = [(act.command.facility.id, act.guest_tag) for act in acts if act.guest_tag is not None]
        if guests:
            present += await store.find_present_guests(connection, *_columns(guests))
        parties = [(place, led) for place, ties in families if (led := ties.party_tag) is not None]
        heads = await store.find_party_heads(connection, *_columns(parties)) if parties else []
        wanted = {(facility_id, stay_id) for (facility_id, _), stay_id in refs.items()}
        wanted |= {(entry.facility_id, entry.stay_id) for entry in present}
        wanted |= {(act.command.facility.id, act.command.stay_id) for act in acts if act.command.stay_id is not None}
        rows = await store.read_stays(connection, *_columns(wanted)) if wanted else []
        moved = _moved(acts, refs, present)
        moving = [row for row in rows if (row.facility_id, row.id) in moved]
        if moving:  # they may meet another stay of the same document, and that is in the blob
            present += await self._present_beside(connection, moving, moved)
            known = {(row.facility_id, row.id) for row in rows}
            more = {(entry.facility_id, entry.stay_id) for entry in present} - known
            rows += await store.read_stays(connection, *_columns(more)) if more else []
        left = await self._ended_lately(connection, acts, present)
        rows += [row for row, _ in left]
        changed = {(row.facility_id, row.id) for row in rows if row.version > 1}
        earlier = await store.read_versions(connection, *_columns(changed)) if changed else []
        return World(self._keyring, self._now(), refs, present, rows, earlier, left, draft, heads, expected)

    async def _expected(self, connection: Connection, acts: Sequence[Prepared]) -> list[ExpectedRow]:
        """The expected guests whom acts name otherwise than by reference."""
        rows = []
        ids = [
            (act.command.facility.id, act.command.expected_id) for act in acts if act.command.expected_id is not None
        ]
        if ids:
            rows += await expected_store.read_expected(connection, *_columns(ids))
        guests = [(act.command.facility.id, act.guest_tag) for act in acts if act.guest_tag is not None]
        if guests:
            rows += await expected_store.find_guests(connection, *_columns(guests))
        return rows

    def _tags_of(self, rows: Sequence[ExpectedRow], acts: Sequence[Prepared]) -> list[tuple[int, int]]:
        """The presence tags of expected guests as they are and as these acts make them, one after the other: declared,
        they may meet another stay of the same guest."""
        named: dict[tuple[int, object], list[ExpectedRow]] = {}
        patches: dict[tuple[int, bytes], list[Mapping[str, Any]]] = {}
        for row in rows:
            for name in (row.ref_tag, row.id, row.guest_tag):
                named.setdefault((row.facility_id, name), []).append(row)
        awaited = {(row.facility_id, row.ref_tag) for row in rows}
        awaited |= {(act.command.facility.id, act.ref_tag) for act in acts if act.sifted is not None and act.ref_tag}
        if not awaited:  # as nearly always
            return []
        for act in acts:
            if act.command.act.kind not in _TELLS:
                continue
            place = act.command.facility.id
            keys = {(place, act.ref_tag)} & awaited if act.ref_tag is not None else set()
            for name in (act.command.expected_id, act.guest_tag):
                keys |= {(place, row.ref_tag) for row in named.get((place, name), ()) if name is not None}
            for key in keys:
                patches.setdefault(key, []).append(act.command.act.fields)
        known: dict[tuple[int, bytes], Mapping[str, Any]] = {key: {} for key in patches}
        for row in rows:
            with suppress(Tampered, UnknownEpoch):  # deciding will say so
                known[row.facility_id, row.ref_tag] = open_expected(self._keyring, row).known
        return [
            (key[0], self._keyring.presence_tag(guest))
            for key, fields in known.items()
            for guest in guests_over(fields.get("guest", {}), patches.get(key, ()))
        ]

    async def _ended_lately(
        self, connection: Connection, acts: Iterable[Prepared], present: Iterable[Presence]
    ) -> list[tuple[StayRow, int]]:
        """What departures may be about that name a guest who is not in house (any more), each with that guest's tag."""
        in_house = {(entry.facility_id, entry.document_tag) for entry in present}
        absent = {
            (act.command.facility.id, act.document_tag): document_value(act.match.number)
            for act in acts
            if act.match is not None and act.document_tag is not None and act.command.act.kind is ActKind.CHECK_OUT
            and act.arrived_on is None
            and (act.command.facility.id, act.document_tag) not in in_house
        }  # fmt: skip
        if not absent:
            return []
        since = self._now() - REPEATED_WITHIN
        return await ask_by_every_key(
            self._keyring,
            lambda: self._probes(absent),
            lambda probes: store.find_departed(connection, probes, since),
        )

    def _probes(self, guests: Mapping[tuple[int, int], str]) -> list[tuple[int, int, UUID, UUID, int]]:
        """What `find_departed` takes, for (facility, presence tag) → document: one probe for each index key."""
        months = [(epoch, *epoch_bounds(epoch)) for epoch in self._keyring.epochs()]
        return [
            (facility_id, mark, lo, hi, tag)
            for (facility_id, mark), value in guests.items()
            for epoch, lo, hi in months
            for tag in self._keyring.blind_indexes(epoch, IndexField.DOCUMENT, value)
        ]

    async def _present_beside(
        self,
        connection: Connection,
        rows: Iterable[StayRow],
        patches: Mapping[tuple[int, UUID], list[Mapping[str, Any]]],
    ) -> list[Presence]:
        """Who is in house under the documents of these stays, and under those that corrections would give them."""
        tags: list[tuple[int, int]] = []
        for row in rows:
            with suppress(Tampered, UnknownEpoch):  # deciding will say so
                contents = open_contents(self._keyring, row)
                guests = guests_after(contents, patches.get((row.facility_id, row.id), ()))
                tags += [(row.facility_id, self._keyring.presence_tag(guest)) for guest in guests]
        return await store.find_present(connection, *_columns(tags))


def rehearse_alone(keyring: Keyring, issuer: Issuer, commands: Sequence[Command], now: datetime) -> list[Outcome]:
    """Decide as for a house in which nobody has ever been declared, without a database: what a document says of itself.

    What only the facility's own stays can tell, repetitions and overlaps with them, is not found.
    """
    prepared: dict[int, Prepared] = {}
    outcomes: dict[int, Outcome] = {}
    for place, command in enumerate(commands):
        try:
            prepared[place] = prepare(keyring, command)
        except Refused as refusal:
            outcomes[place] = Outcome("refused", refusal=refusal, warnings=command.act.warnings)
    acts = list(prepared.values())
    world = World(keyring, now, {}, (), (), (), (), Draft(issuer))
    outcomes |= zip(prepared, _rehearsed(world, acts), strict=True)
    return [outcomes[place] for place in range(len(commands))]


def _rehearsed(world: World, acts: Sequence[Prepared]) -> list[Outcome]:
    """What would become of acts; a stay or an expectation that is only imagined has no id to show."""
    try:
        decisions = [world.decide(act) for act in acts]
    except UnknownEpoch:
        raise Refused("unavailable", retry_after_seconds=60) from None
    except KeyExhausted as error:
        raise _refusal_of(error) from None
    outcomes = []
    for act, decision in zip(acts, decisions, strict=True):
        row = _shown(decision) if decision.outcome != "accepted" else None
        if decision.refusal is not None and row is not None:
            decision.refusal.stay_id = str(row.id)
        outcomes.append(
            Outcome(
                decision.outcome,
                row,
                None,
                decision.refusal,
                (*act.warnings, *decision.warnings, *world.doubts(act, decision)),
                decision.expected if decision.outcome == "duplicate" else None,
                decision.missing,
            )
        )
    return outcomes


_TELLS = frozenset({ActKind.EXPECT, ActKind.CORRECT, ActKind.DECLARE})
_MOVES = frozenset({ActKind.CORRECT, ActKind.EXTEND, ActKind.UNDO_CHECK_OUT})


def _moved(
    acts: Sequence[Prepared], refs: Mapping[tuple[int, bytes], UUID], present: Sequence[Presence]
) -> dict[tuple[int, UUID], list[Mapping[str, Any]]]:
    """The stays that these acts may bring to another time, or make another guest's: (facility, stay) → corrections."""
    moved: dict[tuple[int, UUID], list[Mapping[str, Any]]] = {}
    for act in acts:
        facility_id, stay_id = act.command.facility.id, act.command.stay_id
        if stay_id is None and act.ref_tag is not None:
            stay_id = refs.get((facility_id, act.ref_tag))
        named = [] if stay_id is None else [stay_id]
        if act.guest_tag is not None:
            wanted = (facility_id, act.guest_tag)
            named += [each.stay_id for each in present if (each.facility_id, each.guest_tag) == wanted]
        for each_id in named if act.command.act.kind in _MOVES else ():
            patches = moved.setdefault((facility_id, each_id), [])
            if act.command.act.kind is ActKind.CORRECT:
                patches.append(act.command.act.fields)
    return moved


def _columns(pairs: Iterable[tuple[Any, Any]]) -> tuple[list[Any], list[Any]]:
    ordered = list(pairs)
    return [first for first, _ in ordered], [second for _, second in ordered]


async def _write(connection: Connection, keyring: Keyring, world: World, now: datetime) -> None:
    """Write the end state of every stay that changed, and the work that follows from it."""
    fresh = [change for change in world.changes.values() if change.is_new]
    changed = [change for change in world.changes.values() if not change.is_new]
    if world.freed_refs:
        await store.delete_refs(connection, world.freed_refs)
    if fresh:
        names = [(*key, stay_id) for key, stay_id in world.new_refs.items()]
        rows = [(change.row, change.tags) for change in fresh]
        await store.insert_declared(connection, rows, names, _present(fresh), _work(fresh))
        heads = _heads(keyring, fresh)
        if heads:
            await store.insert_party_heads(connection, heads)
    if changed:
        await _write_changed(connection, keyring, changed)
    if world.superseded:
        await store.insert_versions(connection, world.superseded)
    expectations = world.expectations
    if expectations.removed:
        await expected_store.delete_expected(connection, *_columns(expectations.removed))
    if expectations.changed:
        await expected_store.put_expected(connection, list(expectations.changed.values()))
    late = _told_late(fresh, now)
    if late:
        await append_events(connection, late)
    trials = [change for change in world.changes.values() if change.facility.sandbox]
    if trials:
        await _answer_trials(connection, trials, now)


async def _answer_trials(connection: Connection, trials: Sequence[Change], now: datetime) -> None:
    """The sandbox answers at once, and whatever the number of questions: nobody real is asked about."""
    rows, told = [], []
    for change in trials:
        row = change.row
        document = None if row.status == "cancelled" else change.contents.declared["guest"].get("document")
        found = verification_of(document)
        rows.append((change.facility.id, row.id, row.version, now, found, found in CHECK_AGAIN))
        if found in CHECK_AGAIN and row.event in _MAY_ASK:
            told.append(
                NewEvent(
                    event_id_of(EventKind.CHECK_DOCUMENT, row.id, row.version),
                    change.facility.id,
                    EventKind.CHECK_DOCUMENT,
                    row.id,
                    now,
                )
            )
    await store.confirm_sandbox(connection, rows)
    if told:
        await append_events(connection, told)


def _told_late(fresh: Iterable[Change], now: datetime) -> list[NewEvent]:
    """Owners hear of every stay that is declared late."""
    kind = EventKind.DECLARED_LATE
    return [
        NewEvent(event_id_of(kind, change.row.id), change.facility.id, kind, change.row.id, now)
        for change in fresh
        if change.row.late_minutes
    ]


def _expected_entry(world: World, now: datetime) -> audit.AuditEntry:
    """No receipt speaks of an expected guest; that they came and went is recorded all the same."""
    expectations = world.expectations
    return audit.AuditEntry(
        at=now,
        actor_kind="daemon",
        actor="intake",
        action="expected.commit",
        object="expected_stays",
        details={"kept": len(expectations.changed), "declared": len(expectations.removed)},
    )


async def _write_changed(connection: Connection, keyring: Keyring, changed: list[Change]) -> None:
    await store.update_stays(connection, [(change.row, change.tags) for change in changed])
    await store.remove_present(
        connection, [(change.facility.id, change.row.id) for change in changed if change.presence is None]
    )
    await store.put_present(connection, _present(changed))
    await store.remove_party_heads(connection, [(change.facility.id, change.row.id) for change in changed])
    heads = _heads(keyring, changed)
    if heads:
        await store.insert_party_heads(connection, heads)
    await store.supersede_work(connection, [(change.facility.id, change.row.id) for change in changed])
    await store.enqueue(connection, _work(changed))


def _present(changes: Iterable[Change]) -> list[Presence]:
    return [change.presence for change in changes if change.presence is not None]


def _heads(keyring: Keyring, changes: Iterable[Change]) -> list[PartyHead]:
    """Those in house who lead a party."""
    leading = ((change, party_led(keyring, change.contents.declared)) for change in changes if change.presence)
    return [PartyHead(change.facility.id, change.row.id, led) for change, led in leading if led is not None]


def _work(changes: Iterable[Change]) -> list[tuple[int, UUID, int, int]]:
    """What is to be carried to the population database; a sandbox reaches nobody."""
    return [
        (change.facility.id, change.row.id, change.row.version, lane_of(change.facility.id))
        for change in changes
        if not change.facility.sandbox
    ]


async def _remember_earlier_batches(
    connection: Connection, draft: Draft, decisions: Sequence[Decision], own: set[Any]
) -> None:
    wanted = {row.receipt_batch_id for decision in decisions if (row := _shown(decision)) is not None} - own
    if wanted:
        for batch in (await store.read_batches(connection, list(wanted))).values():
            draft.remember(batch)


def _shown(decision: Decision) -> StayRow | None:
    """The version whose receipt belongs into the answer."""
    refusal = decision.refusal
    if isinstance(refusal, AlreadyStaying):
        return refusal.row
    if refusal is None or refusal.code in _SHOWS_THE_STAY:
        return decision.row
    return None


def _outcome(world: World, draft: Draft, act: Prepared, decision: Decision) -> Outcome:
    row = _shown(decision)
    try:
        receipt = draft.receipt(act.command.facility, row, world.contents(row)) if row is not None else None
        warnings = (*act.warnings, *decision.warnings, *world.doubts(act, decision))
    except Refused as unreadable:
        return Outcome("refused", None, None, unreadable, act.warnings)
    if decision.refusal is None:
        return Outcome(decision.outcome, row, receipt, None, warnings, decision.expected, decision.missing)
    decision.refusal.stay_id = str(row.id) if row is not None else None
    decision.refusal.receipt = receipt
    return Outcome("refused", None, None, decision.refusal, act.warnings)


def _refusal_of(error: Exception) -> Refused:
    """How one act is answered that alone makes its commit fail."""
    if isinstance(error, KeyExhausted):
        return Refused("key_exhausted", retry_after_seconds=600)
    if isinstance(error, asyncpg.PostgresError):
        return Refused("unavailable", retry_after_seconds=60)
    return Refused("internal")


def _answer_all(batch: Iterable[_Waiting], refusal: Refused) -> None:
    for entry in batch:
        if not entry.done.done():
            entry.done.set_exception(refusal)


# -- results for the sender --------------------------------------------------------------------------------------------


def row_result(command: Command, outcome: Outcome) -> RowResult:
    """What the sender of a row is told."""
    stay = outcome.stay
    return RowResult(
        row=command.act.row,
        outcome=outcome.outcome,
        expected_id=str(outcome.expected.id) if outcome.expected else None,
        source_ref=command.act.source_ref or (outcome.receipt or {}).get("source_ref"),
        stay_id=str(stay.id) if stay else None,
        version=stay.version if stay else None,
        late_minutes=stay.late_minutes if stay else None,
        receipt=dict(outcome.receipt) if outcome.receipt is not None else None,
        problem=problem_document(outcome.refusal) if outcome.refusal else None,
        warnings=[violated(found) for found in outcome.warnings],
        missing=[violated(found) for found in outcome.missing],
    )


def unreadable_result(row: Unreadable) -> RowResult:
    """What the sender of a row that could not be read is told."""
    refusal = Refused("declaration_invalid", violations=row.violations)
    return RowResult(row=row.row, outcome="refused", problem=problem_document(refusal))


def batch_result(results: Sequence[RowResult]) -> BatchResult:
    """The counts over all rows: received = accepted + duplicate + expected + refused."""
    outcomes = Counter(result.outcome for result in results)
    counts = {name: outcomes[name] for name in _OUTCOMES}
    return BatchResult(received=len(results), results=list(results), **counts)
