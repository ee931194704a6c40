"""Index keys renewed within a month: what a stolen one still finds, and that nobody misses a stay meanwhile."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import police
from asm_daemon.crypto import (
    IndexField,
    Keyring,
    document_value,
    epoch_at,
    generate_auditor_keys,
    key_version_of,
    name_values,
)
from asm_daemon.decisions import tags_of
from asm_daemon.document_holds import Order, hold_document
from asm_daemon.intake import Command, Intake, Outcome
from asm_daemon.issuing import Issuer
from asm_daemon.keystores import KeyStore
from asm_daemon.model import Facility, Principal, PrincipalKind, StayRow
from asm_daemon.police import Desk
from asm_daemon.resealing import SETTLE, reencrypt_once
from asm_daemon.sealing import open_contents
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store import sealed
from asm_daemon.store.pool import open_connection
from asm_daemon.store.stays import read_stays
from schemas.act import Act, ActKind
from schemas.police import DocumentNumber, DocumentSearch
from schemas.synthetic import person
from tests.stack import DEPLOYMENT, Clock, Pools, command, declaration

GUESTS = 5


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.fixture
def epoch(clock: Clock) -> int:
    return epoch_at(clock())


@dataclass
class Daemon:
    """One process: it looks at the key store when it has to, and by the clock; here no clock runs."""

    keyring: Keyring
    intake: Intake
    desk: Desk
    facility: Facility
    clock: Clock

    async def declare(self, index: int, fields: dict[str, Any] | None = None) -> Outcome:
        said = fields or declaration(index)
        [outcome] = await self.intake.submit([command(self.facility, ActKind.DECLARE, said, self.clock)])
        return outcome

    async def check_out(self, index: int) -> Outcome:
        """The guest leaves, named by document, as hotel systems do."""
        who = person(index)
        match = {"document": {"type": who.document_type, "number": who.document_number}}
        act = Act(ActKind.CHECK_OUT, {"departed_at": self.clock().isoformat()}, 1, match=match)
        [outcome] = await self.intake.submit([Command(self.facility, act, self.clock(), "owner-1")])
        return outcome

    async def search(self, index: int) -> list[str]:
        """The stays of a guest that an officer is shown."""
        officer = Principal(uuid7(), PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC02 (mẫu)", None, {})
        number = person(index).document_number
        question = DocumentSearch(
            document_number=number, purpose="criminal_investigation", case_ref="15/2026/HS-PC02"
        )  # fmt: skip
        return [found.stay_id for found in (await police.search(self.desk, officer, question, self.clock())).stays]


@pytest.fixture
async def daemons(pools: Pools, store: KeyStore, make_facility: object, clock: Clock) -> AsyncIterator[list[Daemon]]:
    """Two processes over one database and one key store."""
    place: Facility = await make_facility(sandbox=False)  # type: ignore[operator]
    async with AsyncExitStack() as stack:
        yield [await stack.enter_async_context(daemon(pools, store.keyring(), place, clock)) for _ in range(2)]


@asynccontextmanager
async def daemon(pools: Pools, keyring: Keyring, place: Facility, clock: Clock) -> AsyncIterator[Daemon]:
    intake = Intake(
        await pools.get("asm_intake"),
        lambda: open_connection(pools.database.url, "asm_intake"),
        keyring,
        Issuer(DEPLOYMENT, "http://asm.test", production=False, keyring=keyring),
        now=clock,
        ring=lambda: None,
        flush_rows=500,
        queue_rows=5000,
    )
    desk = Desk(await pools.get("asm_police"), await pools.get("asm_audit"), keyring, DEPLOYMENT, None)
    async with asyncio.timeout(120), asyncio.TaskGroup() as tasks:
        tasks.create_task(intake.run())
        yield Daemon(keyring, intake, desk, place, clock)
        await intake.close()


class Job:
    """The job `reencrypt` of a process of its own."""

    def __init__(self, pools: Pools, store: KeyStore, now: datetime) -> None:
        self._pools, self._store, self._keyring, self._now = pools, store, store.keyring(), now

    async def run(self, **limits: Any) -> dict[str, int]:
        self._keyring.reload()
        pool = await self._pools.get("asm_retention")
        return await reencrypt_once(
            pool, self._keyring, lambda name: self._store.retire(name, self._now), self._now, **limits
        )  # fmt: skip

    async def finish(self) -> None:
        """Until the old keys are gone."""
        for _ in range(5):
            if (await self.run())["retired"]:
                return
            self._now += SETTLE
        raise AssertionError("the old keys are still there")


@pytest.fixture
def job(pools: Pools, store: KeyStore, clock: Clock) -> Job:
    return Job(pools, store, clock())


def thief(store: KeyStore) -> Keyring:
    """A copy of what the key store holds now."""
    keys = store.read()
    return Keyring(lambda: keys)


def guesses(keyring: Keyring, epoch: int, indexes: Sequence[int] = range(1, GUESTS + 1)) -> set[int]:
    """The tags that a keyring makes of the true numbers and names of guests: what a thief would look for."""
    tags = set()
    for who in map(person, indexes):
        whole, given_name = name_values(who.full_name, who.birth_date)
        for field, value in (
            (IndexField.DOCUMENT, document_value(who.document_number)),
            (IndexField.PERSON, whole),
            (IndexField.GIVEN_NAME, given_name),
        ):
            tags |= set(keyring.blind_indexes(epoch, field, value))
    return tags


async def tags_in(pools: Pools) -> set[int]:
    """Every search tag in the database."""
    connection = await pools.database.connect()
    rows = await connection.fetch("SELECT document_index, person_index, given_name_index FROM stays")
    return {tag for row in rows for tag in row}


async def faults(pools: Pools, store: KeyStore) -> list[tuple[str, str]]:
    """What `keys verify --all` finds."""
    verified = await verify_stays(
        await pools.get("asm_retention"), await pools.get("asm_audit"), store.keyring(), [], sample=None
    )
    return verified.faults


async def row_of(pools: Pools, place: Facility, stay_id: str | UUID) -> StayRow:
    connection = await pools.database.connect("asm_intake")
    [row] = await read_stays(connection, [place.id], [UUID(str(stay_id))])
    return row


# -- what must not happen ----------------------------------------------------------------------------------------------


async def test_a_stolen_index_key_finds_nothing_by_the_true_numbers_once_the_month_was_renewed(
    daemons: list[Daemon], pools: Pools, store: KeyStore, job: Job, epoch: int
) -> None:
    stolen = thief(store)
    for index in range(1, GUESTS + 1):
        await daemons[0].declare(index)
    assert await tags_in(pools) <= guesses(stolen, epoch)  # the theft is one
    store.renew_epoch(epoch, daemons[0].clock())
    await job.finish()
    assert not await tags_in(pools) & guesses(stolen, epoch)
    assert await tags_in(pools) <= guesses(store.keyring(), epoch)
    assert [key.name.version for key in store.read() if key.name.epoch == epoch] == [2, 2]


async def test_tags_changed_by_hand_are_made_right_and_the_audit_names_the_stay(
    daemons: list[Daemon], pools: Pools, store: KeyStore, job: Job, epoch: int
) -> None:
    hidden, other = [await daemons[0].declare(index) for index in (1, 2)]
    assert hidden.stay
    assert other.stay
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE stays SET document_index = 7 WHERE id = $1", hidden.stay.id)
    assert await daemons[0].search(1) == []
    store.renew_epoch(epoch, daemons[0].clock())
    await job.run()
    assert await daemons[0].search(1) == [str(hidden.stay.id)]
    bodies = [
        row["body"]
        for row in await superuser.fetch("SELECT body FROM audit_pending UNION ALL SELECT body FROM audit_log")
    ]
    said = [entry["details"] for entry in map(orjson.loads, bodies) if entry["action"] == "keys.reencrypt"]
    assert [details.get("tags_changed") for details in said] == [[str(hidden.stay.id)]]


async def test_a_row_that_somebody_holds_keeps_both_blob_and_tags_and_is_found_by_the_next_pass(
    daemons: list[Daemon], pools: Pools, store: KeyStore, job: Job, epoch: int
) -> None:
    outcome = await daemons[0].declare(1)
    assert outcome.stay
    store.renew_epoch(epoch, daemons[0].clock())
    holder = await pools.database.connect()
    async with holder.transaction():
        await holder.execute("SELECT FROM stays FOR UPDATE")
        await job.run()
    row = await row_of(pools, daemons[0].facility, outcome.stay.id)
    assert key_version_of(row.sealed) == 1
    assert await faults(pools, store) == []
    await job.finish()
    assert await faults(pools, store) == []
    assert await daemons[0].search(1) == [str(outcome.stay.id)]


async def test_a_keyring_that_reads_the_store_between_a_blob_and_its_tags_tags_for_the_blob(
    daemons: list[Daemon], pools: Pools, store: KeyStore, epoch: int
) -> None:
    outcome = await daemons[0].declare(1)
    assert outcome.stay
    keyring = daemons[0].keyring
    row = await row_of(pools, daemons[0].facility, outcome.stay.id)
    contents = open_contents(keyring, row)
    before = tags_of(keyring, row, contents)
    store.renew_epoch(epoch, daemons[0].clock())
    assert keyring.reload()
    assert tags_of(keyring, row, contents) == before


# -- nobody misses a stay ----------------------------------------------------------------------------------------------


async def test_police_find_every_stay_at_every_page_and_after_a_crash_in_one(
    daemons: list[Daemon], pools: Pools, store: KeyStore, job: Job, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    knows, late = daemons
    stays = {index: await knows.declare(index) for index in range(1, GUESTS + 1)}

    async def all_are_found(by: Daemon) -> None:
        for index, outcome in stays.items():
            assert outcome.stay
            assert await by.search(index) == [str(outcome.stay.id)], index

    store.renew_epoch(epoch, knows.clock())
    knows.keyring.reload()
    await all_are_found(knows)

    async def die(*_: object) -> None:
        raise ConnectionError

    for page in range(GUESTS):
        with monkeypatch.context() as patched:  # before the commit of a page
            patched.setattr(sealed, "keep_progress", die)
            with pytest.raises(ConnectionError):
                await job.run(pages=1, rows=1)
        await job.run(pages=1, rows=1)
        await all_are_found(knows)
        assert await faults(pools, store) == [], page
    await all_are_found(late)  # who has not looked at the store since, and finds new tags only
    await job.finish()
    await all_are_found(knows)


async def test_police_find_what_was_tagged_with_a_key_that_their_process_has_not_noticed(
    daemons: list[Daemon], store: KeyStore, epoch: int
) -> None:
    knows, late = daemons
    store.renew_epoch(epoch, knows.clock())
    knows.keyring.reload()
    outcome = await knows.declare(1)
    assert outcome.stay
    assert key_version_of(outcome.stay.sealed) == 2
    assert late.keyring.index_version(epoch) == 1
    assert await late.search(1) == [str(outcome.stay.id)]


async def test_what_a_process_writes_that_has_not_noticed_the_new_keys_is_found_and_tagged_anew_later(
    daemons: list[Daemon], pools: Pools, store: KeyStore, job: Job, epoch: int
) -> None:
    knows, late = daemons
    stolen = thief(store)
    await knows.declare(1)
    store.renew_epoch(epoch, knows.clock())
    knows.keyring.reload()
    assert (await job.run())["resealed"] == 1
    outcome = await late.declare(2)
    assert outcome.stay
    assert key_version_of(outcome.stay.sealed) == 1
    assert await knows.search(2) == [str(outcome.stay.id)]
    await job.finish()
    assert key_version_of((await row_of(pools, knows.facility, outcome.stay.id)).sealed) == 2
    assert not await tags_in(pools) & guesses(stolen, epoch)
    assert await late.search(2) == [str(outcome.stay.id)]


@pytest.mark.parametrize("when", ["renewed", "sealed anew", "retired"])
@pytest.mark.parametrize("again", [0, 1], ids=["known", "unnoticed"])
async def test_what_was_said_before_is_a_repetition_at_every_moment(
    daemons: list[Daemon], store: KeyStore, job: Job, epoch: int, when: str, again: int
) -> None:
    knows, said = daemons[0], declaration(1)
    here, left = await knows.declare(1, said), await knows.declare(2)
    assert (await knows.check_out(2)).outcome == "accepted"
    store.renew_epoch(epoch, knows.clock())
    knows.keyring.reload()
    if when == "sealed anew":
        await job.run()
    elif when == "retired":
        await job.finish()
    repeated, departed = await daemons[again].declare(1, said), await daemons[again].check_out(2)
    assert here.stay
    assert left.stay
    assert (repeated.outcome, repeated.stay and repeated.stay.id) == ("duplicate", here.stay.id)
    assert (departed.outcome, departed.stay and departed.stay.id) == ("duplicate", left.stay.id)


async def test_what_was_said_with_the_new_key_is_a_repetition_for_who_has_not_noticed_it(
    daemons: list[Daemon], store: KeyStore, epoch: int
) -> None:
    knows, late = daemons
    store.renew_epoch(epoch, knows.clock())
    knows.keyring.reload()
    await knows.declare(2)
    assert (await knows.check_out(2)).outcome == "accepted"
    assert late.keyring.index_version(epoch) == 1
    assert (await late.check_out(2)).outcome == "duplicate"


async def test_a_hold_by_document_holds_what_another_process_tagged_with_a_key_that_this_one_has_not_noticed(
    daemons: list[Daemon], pools: Pools, store: KeyStore, epoch: int
) -> None:
    late, knows = daemons
    store.renew_epoch(epoch, knows.clock())
    knows.keyring.reload()
    declared = await knows.declare(1)
    assert declared.stay is not None
    assert late.keyring.index_version(epoch) == 1
    desk = replace(
        late.desk, pool=await pools.get("asm_retention"), auditor_public_key=generate_auditor_keys().public_key
    )
    number = DocumentNumber(document_number=person(1).document_number)
    held = await hold_document(desk, Order("15/2026/HS-PC02", "điều tra", "operator:test"), number, late.clock())
    assert held.stays == [declared.stay.id]
