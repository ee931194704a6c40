"""The auditor finds nothing after a clean run, and finds each kind of loss that is planted: by that check, no other."""

from __future__ import annotations

import asyncio
import copy
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, fields, replace
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon.crypto import epoch_at
from asm_daemon.daemon import Ports, open_daemon, run
from asm_daemon.embedded import EmbeddedPostgres
from asm_daemon.issuing import tree_of
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import StayRow
from asm_daemon.sealing import seal_contents
from asm_daemon.settings import load_settings
from connectors.population import simulator
from schemas.act import ActKind
from schemas.synthetic import person
from tests.conftest import cloned
from tests.faults import auditor
from tests.faults.auditor import (
    CHECKS,
    Databases,
    Evidence,
    audit_run,
    await_convergence,
    examine,
    read_evidence,
)
from tests.faults.journal import Attempt, Journal, Read, SentAct
from tests.faults.load import prepare, run_load
from tests.stack import TESTER

CLIENT, SECRET, ADMIN = "asm-test", "test-secret", "test-admin"
SEED, ACTS = 4, 200


@dataclass(frozen=True)
class CleanRun:
    """A run without faults, after its daemon has ended: the databases, by name, and everything that was sent."""

    database: str
    population: str
    databases: Databases
    keys: Path
    journal: Journal
    log: Path


@pytest.fixture(scope="module")
async def clean(
    server: EmbeddedPostgres, superuser: asyncpg.Connection, template: str, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[CleanRun]:
    folder = tmp_path_factory.mktemp("clean")
    async with (
        cloned(server, superuser, template, "t_clean_run") as ours,
        cloned(server, superuser, "template0", "t_clean_population") as theirs,
    ):
        databases = Databases(ours.url, theirs.url.replace("{role}", "postgres"))
        journal = Journal(SEED)
        keys = await prepare(ours.url, TESTER.keyring)
        async with at_work(databases, folder) as ports:
            doors = keys.doors([f"http://127.0.0.1:{ports.http}"], [("127.0.0.1", ports.mllp or 0)])
            async with asyncio.timeout(60):
                await run_load(SEED, doors, journal, acts=ACTS)
            rest = await await_convergence(databases, 30)
            assert not rest.stuck, rest
        yield CleanRun(ours.name, theirs.name, databases, folder / "keys", journal, folder / "log")


@asynccontextmanager
async def at_work(databases: Databases, folder: Path) -> AsyncIterator[Ports]:
    """A daemon and a simulator in this process."""
    now, loop = datetime.now(UTC), asyncio.get_running_loop()
    create_store(folder / "keys", [epoch_at(now)], now)
    (folder / "secret").write_text(SECRET)
    listening: asyncio.Future[int] = loop.create_future()
    other_side = asyncio.create_task(
        simulator.serve(
            databases.population_url,
            "127.0.0.1",
            0,
            client_id=CLIENT,
            client_secret=SECRET,
            admin_token=ADMIN,
            ready=listening.set_result,
        )
    )
    settings = load_settings(
        {
            "ASM_ENVIRONMENT": "trial",
            "ASM_DEPLOYMENT": "asm.test.example",
            "ASM_DATABASE_URL": databases.daemon_url,
            "ASM_KEY_STORE": str(folder / "keys"),
            "ASM_LISTEN": "127.0.0.1:0",
            "ASM_PUBLIC_URL": "http://127.0.0.1",
            "ASM_MLLP_LISTEN": "127.0.0.1:0",
            "ASM_POPULATION_URL": f"http://127.0.0.1:{await listening}",
            "ASM_POPULATION_CLIENT_ID": CLIENT,
            "ASM_POPULATION_CLIENT_SECRET_FILE": str(folder / "secret"),
            "ASM_SHUTDOWN_SECONDS": "20",
        }
    )
    async with open_daemon(settings) as daemon:
        stop, ready = asyncio.Event(), loop.create_future()
        task = asyncio.create_task(run(daemon, stop, ready.set_result))
        await asyncio.wait([task, ready], return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        yield ready.result()
        stop.set()
        await task
    other_side.cancel()
    await asyncio.gather(other_side, return_exceptions=True)


# -- a clean run -------------------------------------------------------------------------------------------------------


async def test_a_clean_run_has_nothing_to_find(clean: CleanRun) -> None:
    findings = await audit_run(clean.databases, clean.keys, clean.journal)
    assert findings.faults == []
    assert findings.counts["confirmed"] > 20


def test_the_load_knocks_at_every_door_and_is_refused_as_it_should_be(clean: CleanRun) -> None:
    acts = clean.journal.acts
    assert {act.door for act in acts} == {"single", "batch", "mllp"}
    over_http, over_mllp = ({act.kind for act in acts if (act.door == "mllp") == mllp} for mllp in (False, True))
    assert over_http == set(ActKind) - {ActKind.EXPECT}
    assert over_mllp == {ActKind.DECLARE, ActKind.CORRECT, ActKind.CHECK_OUT, ActKind.CANCEL}
    assert {act.code for act in acts if act.outcome == "refused"} == {
        "already_staying",
        "content_differs",
        "declaration_invalid",
        "version_conflict",
    }
    assert not clean.journal.unknown()
    assert clean.journal.reads
    assert clean.journal.searches


def test_the_journal_holds_nobody(clean: CleanRun, tmp_path: Path) -> None:
    clean.journal.dump(tmp_path / "journal")
    text = (tmp_path / "journal").read_text()
    for act in clean.journal.acts:
        assert person(act.content.person).document_number not in text
        assert person(act.content.person).full_name not in text


# -- what is planted ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Crime:
    """Where something is planted: the two databases as superuser, the journal, and what was there before."""

    ours: asyncpg.Connection
    theirs: asyncpg.Connection
    journal: Journal
    before: Evidence

    def stay(
        self,
        status: str = "declared",
        versions: range = range(1, 2),
        among: Iterable[UUID] | None = None,
        *,
        sought: bool = True,
    ) -> UUID:
        """A stay that is carried, has a name, was declared over HTTP, and was not read (nor `sought` by an officer)."""
        looked_at = {read.stay_id for read in self.journal.reads}
        if not sought:
            looked_at |= {stay_id for search in self.journal.searches for stay_id in search.found}
        for stay_id, row in self.before.current.items():
            if (
                row.status == status
                and row.version in versions
                and (among is None or stay_id in among)
                and stay_id not in looked_at
                and not self.before.facilities[row.facility_id].sandbox
                and all(act.door != "mllp" for act in self.before.acts_of[stay_id])
                and self.before.contents[stay_id, row.version].source_ref is not None
            ):
                return stay_id
        raise LookupError(status)

    def act(self, kind: ActKind = ActKind.DECLARE, outcome: str = "accepted") -> SentAct:
        """An act over HTTP that was answered so."""
        return next(
            act for act in self.journal.acts if act.kind is kind and act.outcome == outcome and act.door != "mllp"
        )

    async def reseal(self, stay_id: UUID, **declared: object) -> None:
        """Keep something else as what was declared, under the right keys."""
        row = self.before.current[stay_id]
        contents = self.before.contents[stay_id, row.version]
        other = replace(contents, declared={**contents.declared, **declared})
        sealed = seal_contents(self.before.keyring, row.facility_id, stay_id, row.version, other)
        await self.ours.execute("UPDATE stays SET sealed = $2 WHERE id = $1", stay_id, sealed)


CHANGED = range(2, 100)
Plant = Callable[[Crime], Awaitable[None]]
PLANTS: dict[str, tuple[Plant, set[str]]] = {}


def planted(*checks: Callable[[Evidence], object]) -> Callable[[Plant], Plant]:
    """What is planted, and exactly the checks that have to find it."""

    def keep(plant: Plant) -> Plant:
        PLANTS[plant.__name__] = (plant, {check.__name__ for check in checks})
        return plant

    return keep


@pytest.fixture
async def crime(clean: CleanRun) -> AsyncIterator[Crime]:
    """What is planted is seen in this test's transactions only."""
    keyring = open_keyring(clean.keys)
    ours = await asyncpg.connect(clean.databases.daemon_url.replace("{role}", "postgres"))
    theirs = await asyncpg.connect(clean.databases.population_url)
    inner, outer = (one.transaction(isolation="repeatable_read") for one in (ours, theirs))
    await inner.start()
    await outer.start()
    journal = copy.deepcopy(clean.journal)
    yield Crime(ours, theirs, journal, await read_evidence(ours, theirs, keyring, journal))
    ours.terminate()
    theirs.terminate()


@planted(
    auditor.accepted_acts_exist,
    auditor.in_house_agrees_with_stays,
    auditor.references_lead_to_stays,
    auditor.population_holds_the_newest,
    auditor.stored_batches_verify,
)
async def a_stay_is_lost(crime: Crime) -> None:
    await crime.ours.execute("DELETE FROM stays WHERE id = $1", crime.stay(sought=False))


@planted(
    auditor.accepted_acts_exist,
    auditor.versions_have_no_gap,
    auditor.every_version_was_sent_once,
    auditor.stored_batches_verify,
)
async def a_former_version_is_lost(crime: Crime) -> None:
    await crime.ours.execute(
        "DELETE FROM stay_versions WHERE stay_id = $1 AND version = 1", crime.stay(versions=CHANGED)
    )


@planted(auditor.accepted_acts_exist, auditor.every_version_was_sent_once, auditor.stored_batches_verify)
async def something_else_is_kept(crime: Crime) -> None:
    await crime.reseal(crime.stay(), room="another")


@planted(
    auditor.accepted_acts_exist,
    auditor.every_version_was_sent_once,
    auditor.stored_batches_verify,
    auditor.versions_have_no_gap,
    auditor.population_holds_the_newest,
)
async def a_record_does_not_open(crime: Crime) -> None:
    row = crime.before.current[crime.stay(sought=False)]
    broken = row.sealed[:-1] + bytes([row.sealed[-1] ^ 1])
    await crime.ours.execute("UPDATE stays SET sealed = $2 WHERE id = $1", row.id, broken)


@planted(auditor.accepted_acts_exist, auditor.population_holds_the_newest, auditor.stored_batches_verify)
async def a_stay_is_put_back_to_what_it_was(crime: Crime) -> None:
    before = await crime.ours.fetch(
        "SELECT stay_id FROM sync_log JOIN stay_versions USING (stay_id, version) JOIN stays ON stays.id = stay_id"
        " WHERE stays.version = sync_log.version + 1 AND stay_versions.status = stays.status"
        " AND stays.event = 'correct'"
    )
    stay_id = crime.stay(versions=CHANGED, among={row[0] for row in before})
    version = crime.before.current[stay_id].version - 1
    columns = ", ".join(one.name for one in fields(StayRow) if one.name != "id")
    await crime.ours.execute(
        f"UPDATE stays SET ({columns}) = (SELECT {columns} FROM stay_versions WHERE stay_id = $1 AND version = $2)"
        " WHERE id = $1",
        stay_id,
        version,
    )
    await crime.ours.execute("DELETE FROM stay_versions WHERE stay_id = $1 AND version = $2", stay_id, version)


@planted(
    auditor.no_stay_twice_for_one_key,
    auditor.every_version_was_sent_once,
    auditor.in_house_agrees_with_stays,
    auditor.references_lead_to_stays,
    auditor.conservation_holds,
    auditor.population_holds_the_newest,
    auditor.stored_batches_verify,
)
async def there_is_a_second_stay_of_one_name(crime: Crime) -> None:
    row, twin = crime.before.current[crime.stay()], uuid7()
    sealed = seal_contents(
        crime.before.keyring, row.facility_id, twin, row.version, crime.before.contents[row.id, row.version]
    )
    columns = [
        name
        for (name,) in await crime.ours.fetch(
            "SELECT column_name FROM information_schema.columns WHERE table_name = 'stays' ORDER BY ordinal_position"
        )
        if name not in ("id", "sealed")
    ]
    names = ", ".join(columns)
    await crime.ours.execute(
        f"INSERT INTO stays (id, sealed, {names}) SELECT $2, $3, {names} FROM stays WHERE id = $1", row.id, twin, sealed
    )


@planted(auditor.every_version_was_sent_once)
async def nobody_sent_a_version(crime: Crime) -> None:
    crime.journal.acts.remove(crime.act(ActKind.CORRECT))


@planted(auditor.every_version_was_sent_once)
async def what_was_refused_for_the_moment_was_done(crime: Crime) -> None:
    """The sender was told that nothing was recorded."""
    act = crime.act(ActKind.CORRECT)
    act.outcome, act.version, act.attempts = None, None, [Attempt(crime.journal.began, 503, "unavailable")]


@planted(auditor.accepted_acts_exist)
async def what_was_accepted_is_not_there(crime: Crime) -> None:
    act = crime.act()
    lost = crime.journal.enter(act.facility, "mllp", replace(act.content, person=999_999), source_ref="lost")
    lost.outcome = "accepted"


@planted(auditor.accepted_acts_exist)
async def what_was_acknowledged_is_not_there(crime: Crime) -> None:
    act = next(act for act in crime.journal.acts if act.door == "mllp" and act.kind is ActKind.CORRECT)
    lost = crime.journal.enter(
        act.facility, "mllp", replace(act.content, seed=act.content.seed + 1), source_ref=act.source_ref
    )
    lost.outcome = "accepted"


@planted(auditor.no_version_is_told_to_two)
async def two_were_told_the_same_version(crime: Crime) -> None:
    act = crime.act(ActKind.CORRECT)
    crime.journal.acts.append(replace(act, number=len(crime.journal.acts) + 1))


@planted(auditor.refusals_are_right)
async def somebody_was_refused(crime: Crime) -> None:
    refused = crime.act(ActKind.CORRECT, "refused")
    refused.code = "forbidden"


@planted(auditor.refusals_are_right)
async def what_had_to_be_refused_was_taken(crime: Crime) -> None:
    crime.act().may_succeed = False


@planted(auditor.in_house_agrees_with_stays)
async def a_guest_is_missing_from_the_house(crime: Crime) -> None:
    await crime.ours.execute("DELETE FROM in_house WHERE stay_id = $1", crime.stay())


@planted(auditor.in_house_agrees_with_stays)
async def a_guest_is_in_house_as_somebody_else(crime: Crime) -> None:
    await crime.ours.execute("UPDATE in_house SET document_tag = document_tag + 1 WHERE stay_id = $1", crime.stay())


@planted(auditor.in_house_agrees_with_stays)
async def who_has_left_is_in_house(crime: Crime) -> None:
    row = crime.before.current[crime.stay("departed", CHANGED)]
    await crime.ours.execute(
        "INSERT INTO in_house (facility_id, stay_id, document_tag, arrived_at) VALUES ($1, $2, 1, now())",
        row.facility_id,
        row.id,
    )


@planted(auditor.no_guest_in_house_twice, auditor.in_house_agrees_with_stays)
async def a_guest_is_in_house_twice(crime: Crime) -> None:
    await crime.ours.execute(
        "INSERT INTO in_house (facility_id, stay_id, document_tag, arrived_at)"
        " SELECT facility_id, $2, document_tag, arrived_at FROM in_house WHERE stay_id = $1",
        crime.stay(),
        uuid7(),
    )


@planted(auditor.references_lead_to_stays)
async def a_name_is_forgotten(crime: Crime) -> None:
    await crime.ours.execute("DELETE FROM source_refs WHERE stay_id = $1", crime.stay())


@planted(auditor.references_lead_to_stays)
async def a_name_leads_nowhere(crime: Crime) -> None:
    facility_id = crime.before.current[crime.stay()].facility_id
    await crime.ours.execute("INSERT INTO source_refs VALUES ($1, $2, $3)", facility_id, bytes(16), uuid7())


@planted(auditor.conservation_holds)
async def work_is_lost(crime: Crime) -> None:
    await crime.ours.execute("DELETE FROM sync_log WHERE stay_id = $1", crime.stay())


@planted(auditor.conservation_holds)
async def work_is_left_over(crime: Crime) -> None:
    row = crime.before.current[crime.stay()]
    await crime.ours.execute("INSERT INTO sync_queue VALUES ($1, $2, $3, 0)", row.facility_id, row.id, row.version)


@planted(auditor.conservation_holds)
async def a_stay_waits_for_ever(crime: Crime) -> None:
    row = crime.before.current[crime.stay()]
    await crime.ours.execute("DELETE FROM sync_log WHERE stay_id = $1 AND version = $2", row.id, row.version)
    await crime.ours.execute(
        "INSERT INTO sync_wait VALUES ($1, $2, $3, 0, 1, now(), 'unreachable', 'timeout', now())",
        row.facility_id,
        row.id,
        row.version,
    )


@planted(auditor.refused_stays_are_explained)
async def a_stay_is_refused_without_reason(crime: Crime) -> None:
    row = crime.before.current[crime.stay()]
    await crime.ours.execute("DELETE FROM sync_log WHERE stay_id = $1 AND version = $2", row.id, row.version)
    await crime.ours.execute(
        "INSERT INTO sync_refused VALUES ($1, $2, $3, 0, 'stale', now())", row.facility_id, row.id, row.version
    )


@planted(auditor.population_holds_the_newest, auditor.effects_are_what_is_held)
async def a_stay_is_missing_there(crime: Crime) -> None:
    await crime.theirs.execute("DELETE FROM stays WHERE stay_id = $1", crime.stay())


@planted(auditor.population_holds_the_newest, auditor.effects_are_what_is_held)
async def a_stay_is_extra_there(crime: Crime) -> None:
    await crime.theirs.execute(
        "INSERT INTO stays VALUES ($1, 1, 'declared', 'HY-KS-0001', '{}', 'not_checked')", uuid7()
    )


@planted(auditor.population_holds_the_newest, auditor.effects_are_what_is_held)
async def a_stay_is_old_there(crime: Crime) -> None:
    await crime.theirs.execute(
        "UPDATE stays SET version = version - 1 WHERE stay_id = $1", crime.stay(versions=CHANGED)
    )


@planted(auditor.population_holds_the_newest)
async def a_stay_has_another_content_there(crime: Crime) -> None:
    await crime.theirs.execute("UPDATE stays SET item = item || ' ' WHERE stay_id = $1", crime.stay())


@planted(auditor.effects_happen_once)
async def a_version_takes_effect_twice(crime: Crime) -> None:
    await crime.theirs.execute(
        "INSERT INTO effects (stay_id, version, status, digest)"
        " SELECT stay_id, version, status, digest FROM stays WHERE stay_id = $1",
        crime.stay(),
    )


@planted(auditor.effects_come_in_order, auditor.effects_are_what_is_held)
async def an_older_version_comes_after_a_newer_one(crime: Crime) -> None:
    stay_id = crime.stay(versions=CHANGED)
    await crime.theirs.execute("DELETE FROM effects WHERE stay_id = $1 AND version = 1", stay_id)
    await crime.theirs.execute(
        "INSERT INTO effects (stay_id, version, status, digest) VALUES ($1, 1, 'declared', '')", stay_id
    )


@planted(auditor.the_contract_was_kept)
async def the_other_side_complains(crime: Crime) -> None:
    await crime.theirs.execute("INSERT INTO sender_violations VALUES ('unknown_member', 1)")


@planted(auditor.receipts_verify)
async def a_receipt_is_changed(crime: Crime) -> None:
    key, [text] = next(iter(crime.journal.receipts.items()))
    receipt = orjson.loads(text)
    receipt["signed"]["late_minutes"] += 1
    crime.journal.receipts[key] = {orjson.dumps(receipt)}


@planted(auditor.receipts_verify)
async def a_receipt_is_of_another_stay(crime: Crime) -> None:
    first, second = list(crime.journal.receipts)[:2]
    crime.journal.receipts[first] = crime.journal.receipts[second]


@planted(auditor.receipts_are_the_same_bytes)
async def a_receipt_is_worded_anew(crime: Crime) -> None:
    key, [text] = next(iter(crime.journal.receipts.items()))
    receipt = orjson.loads(text)
    receipt["statement"]["en"] += "."
    crime.journal.receipts[key].add(orjson.dumps(receipt))


@planted(auditor.every_acceptance_had_its_receipt)
async def a_receipt_is_not_given(crime: Crime) -> None:
    del crime.journal.receipts[next(iter(crime.journal.receipts))]


@planted(auditor.stored_batches_verify, auditor.every_batch_is_in_the_audit)
async def a_batch_of_receipts_is_lost(crime: Crime) -> None:
    await crime.ours.execute("DELETE FROM receipt_batches WHERE id = $1", next(iter(crime.before.batches)))


@planted(auditor.stored_batches_verify)
async def a_batch_is_cut(crime: Crime) -> None:
    batch = next(batch for batch in crime.before.batches.values() if tree_of(batch).size == 1)
    await crime.ours.execute("UPDATE receipt_batches SET leaves = sha256(leaves) WHERE id = $1", batch.id)


@planted(auditor.audit_verifies, auditor.every_batch_is_in_the_audit)
async def a_batch_has_no_audit_entry(crime: Crime) -> None:
    position = next(entry.position for entry in crime.before.entries if entry.body["action"] == "stays.commit")
    await crime.ours.execute("DELETE FROM audit_log WHERE position = $1", position)


@planted(auditor.audit_verifies)
async def the_audit_is_edited(crime: Crime) -> None:
    await crime.ours.execute("UPDATE audit_log SET at = at + interval '1 second' WHERE position = 0")


@planted(auditor.audit_verifies, auditor.every_search_is_in_the_audit)
async def a_search_has_no_outcome(crime: Crime) -> None:
    position = max(entry.position for entry in crime.before.entries if entry.body["action"] == "police.search.outcome")
    await crime.ours.execute("DELETE FROM audit_log WHERE position = $1", position)


@planted(auditor.every_search_is_in_the_audit)
async def a_search_is_answered_without_an_intent(crime: Crime) -> None:
    crime.journal.searches[0].trace = str(uuid7())


@planted(auditor.every_search_is_in_the_audit)
async def an_intent_is_sealed_with_its_outcome(crime: Crime) -> None:
    entries = {entry.body["id"]: entry.position for entry in crime.before.entries}
    outcomes = {entry.body["object"]: entry.position for entry in crime.before.entries}
    trace = crime.journal.searches[0].trace
    await crime.ours.execute(
        "DELETE FROM audit_checkpoints WHERE size > $1 AND size <= $2",
        entries[str(trace)],
        outcomes[f"audit/{trace}"],
    )


@planted(auditor.every_search_is_in_the_audit)
async def somebody_searches_whom_nobody_sent(crime: Crime) -> None:
    crime.journal.searches.pop()


@planted(auditor.every_search_is_in_the_audit)
async def a_search_shows_more_than_is_on_record(crime: Crime) -> None:
    search = next(search for search in crime.journal.searches if search.found)
    search.found += search.found


@planted(auditor.searches_find_what_is_on_file)
async def a_search_does_not_find(crime: Crime) -> None:
    crime.journal.searches[0].expected |= {uuid7()}


@planted(auditor.searches_find_what_is_on_file)
async def a_search_finds_somebody_else(crime: Crime) -> None:
    search = next(search for search in crime.journal.searches if search.found)
    search.person = next(act.content.person for act in crime.journal.acts if act.content.person != search.person)


@planted(auditor.every_read_is_in_the_audit)
async def a_read_is_not_in_the_audit(crime: Crime) -> None:
    row = crime.before.current[crime.stay()]
    declared = crime.before.contents[row.id, row.version].declared
    crime.journal.reads.append(Read(row.id, crime.journal.began, row.version, declared))


@planted(auditor.every_read_is_in_the_audit)
async def a_read_shows_something_else(crime: Crime) -> None:
    read = next(read for read in crime.journal.reads if read.version is not None)
    read.declaration = {**read.declaration, "room": "another"}


@pytest.mark.parametrize("name", PLANTS)
async def test_what_is_planted_is_found(name: str, crime: Crime) -> None:
    plant, checks = PLANTS[name]
    await plant(crime)
    findings = examine(await read_evidence(crime.ours, crime.theirs, crime.before.keyring, crime.journal))
    assert findings.checks == checks, findings.faults


async def test_a_name_in_a_log_is_found(clean: CleanRun, tmp_path: Path) -> None:
    who = person(clean.journal.acts[0].content.person)
    silent, talking, escaped = (tmp_path / name for name in ("silent", "talking", "escaped"))
    silent.write_text('{"event":"request"}\n')
    talking.write_text(f'{{"event":"{who.document_number}"}}\n')
    escaped.write_text(ascii(who.full_name))
    findings = await audit_run(clean.databases, clean.keys, clean.journal, logs=[silent, talking, escaped])
    assert findings.checks == {"logs_hold_nobody"}
    assert [fault.split()[1] for fault in findings.faults] == ["talking", "escaped"]


def test_no_check_is_there_that_has_never_found_anything() -> None:
    found = {check for _, checks in PLANTS.values() for check in checks}
    assert {check.__name__ for check in CHECKS} - found == {"logs_hold_nobody"}  # which has a test of its own


# -- coming to rest ----------------------------------------------------------------------------------------------------


async def test_what_does_not_come_to_rest_is_told(clean: CleanRun) -> None:
    connection = await asyncpg.connect(clean.databases.daemon_url.replace("{role}", "postgres"))
    await connection.execute(
        "INSERT INTO sync_wait VALUES (1, $1, 1, 0, 1, now(), 'unreachable', 'timeout', now())", uuid7()
    )
    rest = await await_convergence(clean.databases, 0.1)
    await connection.execute("DELETE FROM sync_wait")
    await connection.close()
    assert rest.stuck == ("1 of former versions", "1 waiting: unreachable timeout")


async def test_a_database_that_stays_away_is_told(clean: CleanRun) -> None:
    nowhere = replace(clean.databases, daemon_url=clean.databases.daemon_url.replace(clean.database, "t_nowhere"))
    rest = await await_convergence(nowhere, 0.1)
    assert rest.stuck == ("the database is away: InvalidCatalogNameError",)


# -- a careful vendor behind a bad network -----------------------------------------------------------------------------


@asynccontextmanager
async def losing_answers(port: int) -> AsyncIterator[int]:
    """A door before another in which every fourth answer is lost, and its connection with it."""
    answers = itertools.count(1)
    carried: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onwards, back = await asyncio.open_connection("127.0.0.1", port)
        ways = {
            asyncio.create_task(_pass_on(reader, back, lambda: False)),
            asyncio.create_task(_pass_on(onwards, writer, lambda: next(answers) % 4 == 0)),
        }
        carried.update(ways)
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        carried.difference_update(ways)
        writer.close()
        back.close()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()
    for way in carried:
        way.cancel()


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, loses: Callable[[], bool]) -> None:
    with suppress(ConnectionError):
        while (data := await reader.read(65536)) and not loses():
            writer.write(data)
            await writer.drain()


async def test_a_vendor_whose_answers_are_lost_declares_everything_once(
    server: EmbeddedPostgres, superuser: asyncpg.Connection, template: str, tmp_path: Path
) -> None:
    journal = Journal(7)
    async with AsyncExitStack() as stack:
        ours = await stack.enter_async_context(cloned(server, superuser, template, "t_lost_answers"))
        theirs = await stack.enter_async_context(cloned(server, superuser, "template0", "t_lost_answers_population"))
        databases = Databases(ours.url, theirs.url.replace("{role}", "postgres"))
        keys = await prepare(ours.url, TESTER.keyring)
        ports = await stack.enter_async_context(at_work(databases, tmp_path))
        http = await stack.enter_async_context(losing_answers(ports.http))
        mllp = await stack.enter_async_context(losing_answers(ports.mllp or 0))
        async with asyncio.timeout(60):
            doors = keys.doors([f"http://127.0.0.1:{http}"], [("127.0.0.1", mllp)])
            await run_load(journal.seed, doors, journal, acts=60)
        rest = await await_convergence(databases, 30)
        assert not rest.stuck, rest
        findings = await audit_run(databases, tmp_path / "keys", journal)
    assert findings.faults == []
    outcomes = Counter(act.outcome for act in journal.acts if len(act.attempts) > 1)
    assert outcomes["duplicate"] > 0  # the first attempt had been taken, and nobody was told
    assert not journal.unknown()


async def test_the_load_ends_soon_after_it_is_told_to_stop(clean: CleanRun) -> None:
    """Nobody is there: what was sent stays without an answer."""
    journal, stop = Journal(3), asyncio.Event()
    keys = await prepare(clean.databases.daemon_url, TESTER.keyring)
    doors = keys.doors(["http://127.0.0.1:1"], [("127.0.0.1", 1)])
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(run_load(3, doors, journal, acts=40, stop=stop))
        while sum(len(act.attempts) for act in journal.acts) < 30:
            await asyncio.sleep(0.01)
        stop.set()
    assert len(journal.unknown()) == len(journal.acts) > 0
    assert journal.accepted() == []
