"""The witness against the daemon's real routes: everything it must refuse first, then what its silence stops."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import uuid4

import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import audit, witness, witnessing
from asm_daemon.audit import AuditEntry
from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey
from asm_daemon.ledger import (
    Checkpoint,
    NoteKey,
    cosign,
    leaf_hash,
    open_checkpoint,
    open_cosignature,
    root,
    sign_checkpoint,
    verify_inclusion,
)
from asm_daemon.model import Facility, PrincipalKind
from asm_daemon.police import purposes
from asm_daemon.problems import Refused
from asm_daemon.store import alerts
from asm_daemon.store import audit as audit_store
from asm_daemon.web.police_api import ALERT_ID
from asm_daemon.web.route import DEPARTMENT, OFFICER, Route, Table
from asm_daemon.witness import LogClient, LogMisbehaved, LogUnreachable, Store, WitnessError
from asm_daemon.witnessing import Watch, Witness
from schemas.codes import Department
from schemas.synthetic import person
from tests.stack import DEPLOYMENT, Clock, Pools, declaration
from tests.web.conftest import KeyMaker, Web

SEARCH = {
    "document_number": person(1).document_number,
    "purpose": "criminal_investigation",
    "case_ref": "15/2026/HS-PC02",
}
RELEASE_HOURS, READ_HOURS = 1, 24


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return witness.create_store(tmp_path / "witness", "witness.test/w1")


@pytest.fixture
def believed_witness(store: Store) -> Witness:
    return Witness(store.key, RELEASE_HOURS, READ_HOURS)


@pytest.fixture
def signer(keyring: Keyring) -> SigningKey:
    return keyring.signing_key(KeyPurpose.CHECKPOINT)


@pytest.fixture
def log_key(signer: SigningKey) -> NoteKey:
    return audit.note_key(DEPLOYMENT, signer.public_key_bytes)


@pytest.fixture
async def client(asm: Web) -> AsyncIterator[LogClient]:
    async with witness.open_log(f"http://127.0.0.1:{asm.port}/") as opened:
        yield opened


async def grow(pools: Pools, signer: SigningKey, clock: Clock, entries: int = 3) -> None:
    async with (await pools.get("asm_intake")).acquire() as writer:
        for _ in range(entries):
            await audit.append(writer, AuditEntry(clock(), "system", "test", "test.done", f"thing/{uuid4()}"))
    async with (await pools.get("asm_audit")).acquire() as sealer:
        await audit.seal_once(sealer, signer, DEPLOYMENT, clock())


async def put_back(pools: Pools, superuser_head: bytes, size: int) -> None:
    """What a database administrator does who wants the end of the log away."""
    superuser = await pools.database.connect()
    await superuser.execute("DELETE FROM audit_log WHERE position >= $1", size)
    await superuser.execute("DELETE FROM audit_checkpoints WHERE size > $1", size)
    await superuser.execute("UPDATE audit_head SET frontier = $1", superuser_head)


async def head(pools: Pools) -> bytes:
    found: bytes = await (await pools.database.connect()).fetchval("SELECT frontier FROM audit_head")
    return found


def found(error: pytest.ExceptionInfo[LogMisbehaved]) -> dict[str, str]:
    evidence: dict[str, str] = orjson.loads(error.value.evidence.read_bytes())
    return evidence


# -- what the witness refuses ------------------------------------------------------------------------------------------


async def test_a_log_put_back_is_refused_and_both_signed_checkpoints_are_kept(
    store: Store, log_key: NoteKey, client: LogClient, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    earlier = await head(pools)
    await grow(pools, signer, clock)
    assert await witness.witness_once(store, log_key, client, clock()) == {"size": 6, "grown": 6}
    await put_back(pools, earlier, 3)
    with pytest.raises(LogMisbehaved) as error:
        await witness.witness_once(store, log_key, client, clock())
    evidence = found(error)
    assert evidence["kind"] == "rolled_back"
    assert open_checkpoint(evidence["confirmed"], log_key).size == 6
    assert open_checkpoint(evidence["shown"], log_key).size == 3


@pytest.mark.parametrize(("others", "kind"), [(3, "forked"), (5, "unproven")])
async def test_another_branch_is_refused_also_after_a_restart_until_a_human_looked_and_then_again(
    store: Store,
    log_key: NoteKey,
    client: LogClient,
    pools: Pools,
    signer: SigningKey,
    clock: Clock,
    others: int,
    kind: str,
) -> None:
    await grow(pools, signer, clock)
    earlier = await head(pools)
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    await put_back(pools, earlier, 3)
    await grow(pools, signer, clock, others)  # the daemon's own key signs it: the database cannot tell
    with pytest.raises(LogMisbehaved) as error:
        await witness.witness_once(store, log_key, client, clock())
    evidence = found(error)
    assert evidence["kind"] == kind
    assert open_checkpoint(evidence["confirmed"], log_key).size == 6
    assert open_checkpoint(evidence["shown"], log_key).size == 3 + others
    again = witness.open_store(store.folder)
    with pytest.raises(LogMisbehaved, match="halted"):
        await witness.witness_once(again, log_key, client, clock())
    assert [path.name.startswith("seen-evidence-") for path in again.resume()] == [True]
    clock.instant += timedelta(seconds=1)
    with pytest.raises(LogMisbehaved, match=kind):
        await witness.witness_once(again, log_key, client, clock())


async def test_a_split_view_of_the_same_key_is_refused(
    store: Store, log_key: NoteKey, client: LogClient, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    other = sign_checkpoint(Checkpoint(log_key.name, 9, root([bytes(32)] * 9)), log_key.name, signer)
    await (await pools.database.connect()).execute(
        "INSERT INTO audit_checkpoints (size, signed_at, note) VALUES (9, now(), $1)", other
    )
    with pytest.raises(LogUnreachable, match="503"):  # the daemon itself cannot prove it
        await witness.witness_once(store, log_key, client, clock())
    assert open_checkpoint(store.newest() or "", log_key).size == 3


async def test_a_confirmation_by_its_own_key_of_another_log_of_the_same_size_stops_the_witness(
    store: Store, log_key: NoteKey, client: LogClient, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    other = sign_checkpoint(Checkpoint(log_key.name, 3, root([bytes(32)] * 3)), log_key.name, signer)
    line = cosign(other, store.key.name, store.key.public_key, store.sign, int(clock().timestamp()))
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE audit_checkpoints SET note = $1 WHERE size = 3", other)
    await superuser.execute("UPDATE audit_cosignatures SET line = $1", line)
    with pytest.raises(LogMisbehaved, match="forked"):
        await witness.witness_once(store, log_key, client, clock())


async def test_a_witness_whose_store_was_put_back_says_so(
    store: Store, log_key: NoteKey, client: LogClient, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    backup = (store.folder / witness.CHECKPOINTS_FILE).read_bytes()
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    for older in (backup, b""):
        (store.folder / witness.CHECKPOINTS_FILE).write_bytes(older)
        clock.instant += timedelta(seconds=1)
        with pytest.raises(LogMisbehaved, match="store_rolled_back"):
            await witness.witness_once(witness.open_store(store.folder), log_key, client, clock())
        store.resume()


async def test_a_checkpoint_of_another_key_or_log_is_not_believed_and_accuses_nobody(
    store: Store, log_key: NoteKey, client: LogClient, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    for other in (replace(log_key, public_key=bytes(32)), replace(log_key, name="other.test/audit")):
        with pytest.raises(LogUnreachable):
            await witness.witness_once(store, other, client, clock())
    assert store.newest() is None
    assert store.evidence() == []


async def test_a_log_that_is_away_is_asked_again_and_nothing_is_confirmed(
    store: Store, log_key: NoteKey, clock: Clock
) -> None:
    async with witness.open_log("http://127.0.0.1:1") as nobody:
        with pytest.raises(LogUnreachable):
            await witness.witness_once(store, log_key, nobody, clock())
    assert store.newest() is None


# -- what the witness keeps --------------------------------------------------------------------------------------------


def test_a_folder_that_exists_never_becomes_a_new_witness(store: Store) -> None:
    with pytest.raises(WitnessError, match="forgets"):
        witness.create_store(store.folder, "witness.test/w1")


@pytest.mark.parametrize("missing", [witness.KEY_FILE, witness.NAME_FILE, witness.CHECKPOINTS_FILE])
def test_a_folder_of_which_a_part_is_missing_is_refused(store: Store, missing: str) -> None:
    (store.folder / missing).unlink()
    with pytest.raises(WitnessError, match="not the whole folder"):
        witness.open_store(store.folder)


def test_another_key_in_the_folder_is_refused(store: Store) -> None:
    (store.folder / witness.KEY_FILE).write_text("00" * 32)
    with pytest.raises(WitnessError, match="do not belong together"):
        witness.open_store(store.folder)


def test_only_one_process_works_in_a_folder(store: Store) -> None:
    path = store.folder / witness.CHECKPOINTS_FILE
    with witness.held(store.folder):
        path.write_bytes(b"half of a li")  # the first one is writing
        with pytest.raises(WitnessError, match="another witness"), witness.held(store.folder):
            pass
        assert path.read_bytes() == b"half of a li"
    with pytest.raises(WitnessError, match="not the whole folder"), witness.held(store.folder / "nowhere"):
        pass


async def test_a_line_torn_by_a_crash_was_never_confirmed_and_is_written_again(
    store: Store, log_key: NoteKey, client: LogClient, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    path = store.folder / witness.CHECKPOINTS_FILE
    whole = path.read_bytes()
    with path.open("ab") as opened:
        opened.write(whole[:50])
    again = witness.open_store(store.folder)
    assert path.read_bytes() == whole
    assert open_checkpoint(again.newest() or "", log_key).size == 3
    assert path.stat().st_mode & 0o077 == 0


async def test_every_growth_is_kept_whole_and_an_unchanged_log_is_confirmed_anew(
    store: Store,
    log_key: NoteKey,
    client: LogClient,
    pools: Pools,
    signer: SigningKey,
    clock: Clock,
    asm: Web,
) -> None:
    assert await witness.witness_once(store, log_key, client, clock()) == {"size": 0, "grown": 0}
    sizes = []
    for entries in (1, 300, 2):
        await grow(pools, signer, clock, entries)
        sizes.append((await witness.witness_once(store, log_key, client, clock()))["size"])
    lines = (store.folder / witness.CHECKPOINTS_FILE).read_bytes().splitlines()
    kept = [open_checkpoint(orjson.loads(line)["note"], log_key).size for line in lines]
    assert kept == sizes == [1, 301, 303]
    clock.instant += timedelta(minutes=10)
    assert await witness.witness_once(store, log_key, client, clock()) == {"size": 303, "grown": 0}
    note = (await asm.ask("GET", "/v1/audit/cosigned-checkpoint")).body.decode()
    assert open_checkpoint(note, log_key).size == 303
    assert open_cosignature(note, note.splitlines()[-1], store.key) == clock().replace(microsecond=0)


async def test_a_running_witness_confirms_until_it_is_stopped(
    store: Store,
    log_key: NoteKey,
    client: LogClient,
    pools: Pools,
    signer: SigningKey,
    clock: Clock,
    watched: Watch,
) -> None:
    await grow(pools, signer, clock)
    stop = asyncio.Event()
    running = asyncio.create_task(
        witness.run(store, log_key, client, interval_seconds=0.01, now=clock, stop=stop),
    )
    async with asyncio.timeout(10):
        while await witnessing.cosigned_checkpoint(watched) is None:
            await asyncio.sleep(0.01)
    stop.set()
    await asyncio.wait_for(running, 10)


# -- what the daemon takes ---------------------------------------------------------------------------------------------


async def test_only_the_witness_of_the_settings_is_believed_and_not_for_tomorrow(
    asm: Web, store: Store, pools: Pools, signer: SigningKey, clock: Clock, tmp_path: Path
) -> None:
    await grow(pools, signer, clock)
    note = (await asm.ask("GET", "/v1/audit/checkpoint")).body.decode()
    stranger = witness.create_store(tmp_path / "stranger", store.key.name)
    seconds = int(clock().timestamp())

    async def offer(by: Store, size: int, at: int, over: str = note) -> int:
        line = cosign(over, by.key.name, by.key.public_key, by.sign, at)
        return (await asm.ask("POST", "/v1/audit/cosignatures", json={"size": size, "line": line})).status

    assert await offer(stranger, 3, seconds) == 422
    assert await offer(store, 3, seconds + 3600) == 422
    assert await offer(store, 3, seconds, note.replace("\n3\n", "\n4\n")) == 422
    assert await offer(store, 4, seconds) == 404
    assert (await asm.ask("POST", "/v1/audit/cosignatures", json={"size": 3, "line": "— x"})).status == 422
    assert (await asm.ask("GET", "/v1/audit/cosigned-checkpoint")).status == 404
    assert await offer(store, 3, seconds) == 204
    assert await offer(store, 3, seconds - 100) == 204  # late, and changes nothing
    note = (await asm.ask("GET", "/v1/audit/cosigned-checkpoint")).body.decode()
    assert open_cosignature(note, note.splitlines()[-1], store.key).timestamp() == seconds


async def test_an_entry_is_proven_to_be_in_the_audit_by_its_hash_alone(
    asm: Web, pools: Pools, signer: SigningKey, clock: Clock, log_key: NoteKey
) -> None:
    await grow(pools, signer, clock, 5)
    connection = await pools.database.connect("asm_audit")
    for position, entry_id, body in await connection.fetch("SELECT position, entry_id, body FROM audit_log"):
        told = await asm.ask("GET", f"/v1/audit/inclusion?entry={entry_id}")
        proof = told.json
        checkpoint = open_checkpoint(proof["checkpoint"], log_key)
        path = [bytes.fromhex(each) for each in proof["proof"]]
        assert (proof["position"], proof["leaf"]) == (position, leaf_hash(body).hex())
        assert verify_inclusion(leaf_hash(body), position, checkpoint.size, path, checkpoint.root)
    assert (await asm.ask("GET", f"/v1/audit/inclusion?entry={uuid7()}")).problem == (404, "not_found")
    assert (await asm.ask("GET", "/v1/audit/inclusion?entry=7")).problem == (422, "request_invalid")


async def test_proofs_are_given_for_signed_sizes_only(asm: Web, pools: Pools, signer: SigningKey, clock: Clock) -> None:
    await grow(pools, signer, clock, 5)
    assert (await asm.ask("GET", "/v1/audit/consistency?old=3&new=5")).status == 200
    assert (await asm.ask("GET", "/v1/audit/consistency?old=3&new=4")).problem == (404, "not_found")
    assert (await asm.ask("GET", "/v1/audit/consistency?old=6&new=5")).problem == (404, "not_found")
    assert (await asm.ask("GET", "/v1/audit/consistency?old=-1&new=5")).problem == (422, "request_invalid")
    assert (await asm.ask("GET", f"/v1/audit/consistency?old=1&new={2**63}")).problem == (422, "request_invalid")


# -- what stops when it is silent --------------------------------------------------------------------------------------


async def test_a_silent_witness_stops_releases_first_then_the_police_and_never_declarations(
    asm: Web,
    store: Store,
    log_key: NoteKey,
    client: LogClient,
    pools: Pools,
    signer: SigningKey,
    clock: Clock,
    watched: Watch,
    make_key: KeyMaker,
    owner_key: str,
    facility: Facility,
) -> None:
    officer = await make_key(PrincipalKind.OFFICER)
    department = await make_key(PrincipalKind.DEPARTMENT, department=next(iter(Department)))
    operator = await make_key(PrincipalKind.OPERATOR)
    assert await purposes(await pools.get("asm_police"))
    await grow(pools, signer, clock)
    size = (await witness.witness_once(store, log_key, client, clock()))["size"]
    started = clock()

    async def answers(index: int) -> tuple[int, int, int]:
        search = await asm.ask("POST", "/v1/police/searches", officer, json=SEARCH)
        feeds = await asm.ask("GET", "/v1/feeds", department)
        stay = await asm.ask("POST", "/v1/stays", owner_key, json=declaration(index, source_ref=f"PMS-{index}"))
        return search.status, feeds.status, stay.status

    assert await answers(1) == (200, 200, 201)
    assert await witnessing.watch_once(watched, clock()) == {"silent_seconds": 0}
    clock.instant = started + timedelta(hours=RELEASE_HOURS, minutes=1)
    assert await answers(2) == (200, 503, 201)
    assert (await asm.ask("GET", "/v1/feeds", department)).problem == (503, "audit_not_witnessed")
    await witnessing.watch_once(watched, clock())
    async with (await pools.get("asm_audit")).acquire() as connection:
        [alert] = await alerts.list_alerts(connection, closed=False, limit=10)
    assert (alert.kind, alert.subject, alert.details["confirmed"]) == ("witness_silent", "witness.test/w1", size)
    clock.instant = started + timedelta(hours=READ_HOURS, minutes=1)
    assert await answers(3) == (503, 503, 201)
    refused = await asm.ask("POST", "/v1/police/searches", officer, json=SEARCH)
    assert refused.problem == (503, "audit_not_witnessed")
    state = (await asm.ask("GET", "/v1/admin/audit", operator)).json["witness"]
    assert (state["releases"], state["police_reads"], state["confirmed_size"]) == (False, False, size)
    assert (
        f"asm_audit_witness_age_seconds {state['silent_seconds']}.".encode()
        in (await asm.ask("GET", "/metrics", operator)).body
    )
    await seal(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    assert await answers(4) == (200, 200, 201)
    bodies = await (await pools.database.connect()).fetch("SELECT body FROM audit_log ORDER BY position")
    outcomes = [orjson.loads(row["body"]) for row in bodies]
    said = [each["details"].get("problem") for each in outcomes if each["action"] == "police.search.outcome"]
    assert said.count("audit_not_witnessed") == 2  # the refused question is on record, with its end


LEAVES = {
    ("GET", "/v1/feeds"): "releases",
    ("GET", "/v1/feeds/{template}/{period:[0-9]{4}-[0-9]{2}(?:-[0-9]{2})?}"): "releases",
    ("POST", "/v1/police/searches"): "reads",
    ("GET", "/v1/police/alerts"): "reads",
    ("POST", f"/v1/police/alerts/{ALERT_ID}:open"): "reads",
    ("POST", f"/v1/police/alerts/{ALERT_ID}:acknowledge"): "reads",
    ("GET", "/v1/police/purposes"): "goes on",  # no word about anybody
}
"""Everything that departments and officers may call, and what of it a silent witness stops."""


async def test_all_that_departments_and_officers_may_call_stops_or_is_said_to_go_on(
    asm: Web, table: Table, make_key: KeyMaker, pools: Pools, signer: SigningKey, clock: Clock
) -> None:
    guarded: dict[tuple[str, str], Route[Any, Any]] = {
        (route.method, route.path): route for route in table if route.who in (OFFICER, DEPARTMENT)
    }
    assert guarded.keys() == LEAVES.keys()
    keys = {
        OFFICER: await make_key(PrincipalKind.OFFICER),
        DEPARTMENT: await make_key(PrincipalKind.DEPARTMENT, department=next(iter(Department))),
    }
    bodies = {"/v1/police/searches": SEARCH, ":open": {name: SEARCH[name] for name in ("purpose", "case_ref")}}
    await grow(pools, signer, clock)
    started = clock()
    for hours, stopped in ((RELEASE_HOURS, {"releases"}), (READ_HOURS, {"releases", "reads"})):
        clock.instant = started + timedelta(hours=hours, minutes=1)
        for (method, path), kind in LEAVES.items():
            asked = path.replace(ALERT_ID, "00000000-0000-7000-8000-000000000000").partition("{template}")[0]
            asked += "commune-daily/2026-11-22" if "{template}" in path else ""
            body = next((each for end, each in bodies.items() if asked.endswith(end)), {"state": "seen"})
            sent = {} if method == "GET" else {"json": body}
            answer = await asm.ask(method, asked, keys[guarded[method, path].who], **sent)
            refused = answer.status == 503 and answer.problem == (503, "audit_not_witnessed")
            assert refused == (kind in stopped), (path, hours, answer.status)


async def seal(pools: Pools, signer: SigningKey, clock: Clock) -> None:
    async with (await pools.get("asm_audit")).acquire() as sealer:
        await audit.seal_once(sealer, signer, DEPLOYMENT, clock())


async def test_a_witness_that_is_shown_yesterdays_log_again_and_again_counts_as_silent(
    asm: Web, store: Store, pools: Pools, signer: SigningKey, clock: Clock, watched: Watch
) -> None:
    await grow(pools, signer, clock)
    old = (await asm.ask("GET", "/v1/audit/checkpoint")).body.decode()
    await grow(pools, signer, clock)
    clock.instant += timedelta(hours=3)
    line = cosign(old, store.key.name, store.key.public_key, store.sign, int(clock().timestamp()))
    await witnessing.take_cosignature(watched, 3, line, clock())
    state = await witnessing.state(watched, clock())
    assert state.witness is not None
    assert not state.witness.releases


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_cosignatures SET cosigned_at = now() + interval '1 year'",
        "UPDATE audit_cosignatures SET line = replace(line, 'A', 'B')",
        "UPDATE audit_cosignatures SET size = 9007199254740991",
        "DELETE FROM audit_cosignatures",
        "DELETE FROM audit_cosignatures; UPDATE audit_checkpoints SET signed_at = now() + interval '1 year'",
        "DELETE FROM audit_cosignatures; UPDATE audit_log SET at = now() + interval '1 year'",
        "DELETE FROM audit_cosignatures; UPDATE audit_log SET leaf = sha256('\\x00' || body), body = replace("
        "convert_from(body, 'utf8'), '\"at\":\"2', '\"at\":\"3')::bytea",
        "DELETE FROM audit_cosignatures; UPDATE audit_log SET position = position + 1000",
        "DELETE FROM audit_cosignatures; DELETE FROM audit_checkpoints",
    ],
)
async def test_nobody_who_writes_to_the_database_makes_a_silent_witness_speak(
    store: Store,
    log_key: NoteKey,
    client: LogClient,
    pools: Pools,
    signer: SigningKey,
    clock: Clock,
    watched: Watch,
    statement: str,
) -> None:
    await grow(pools, signer, clock)
    await witness.witness_once(store, log_key, client, clock())
    clock.instant += timedelta(hours=2)
    await (await pools.database.connect()).execute(statement)
    state = await witnessing.state(watched, clock())
    assert state.witness is not None
    assert not state.witness.releases


async def test_without_a_witness_nothing_stops_and_the_state_says_that_there_is_none(
    pools: Pools, log_key: NoteKey, signer: SigningKey, clock: Clock
) -> None:
    await grow(pools, signer, clock)
    clock.instant += timedelta(days=30)
    alone = Watch(await pools.get("asm_audit"), log_key, None)
    await alone.require_releases(clock())
    await alone.require_reads(clock())
    state = await witnessing.state(alone, clock())
    assert (state.size, state.witness) == (3, None)
    assert await witnessing.watch_once(alone, clock()) == {}
    assert await witnessing.cosigned_checkpoint(alone) is None


async def test_a_database_that_is_away_stops_what_leaves(pools: Pools, watched: Watch, clock: Clock) -> None:
    await (await pools.database.connect()).execute("REVOKE SELECT ON audit_cosignatures FROM asm_audit")
    for guard in (watched.require_releases, watched.require_reads):
        with pytest.raises(Refused, match="audit_unavailable"):
            await guard(clock())


async def test_the_statement_reads_one_row_also_before_there_is_anything(pools: Pools) -> None:
    async with (await pools.get("asm_audit")).acquire() as connection:
        assert await audit_store.read_cosignature(connection, "nobody") == (None, None, None, 0)
