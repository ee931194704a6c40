"""The audit on a real PostgreSQL, each part as the login that does it, and the superuser as the adversary."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from uuid import UUID, uuid4

import asyncpg
import orjson
import pymerkle
import pytest

from asm_daemon import audit
from asm_daemon.audit import AuditBroken, AuditEntry, Fault, FaultKind, NotSealed
from asm_daemon.crypto import KeyPurpose, Keyring, SigningKey, WrongPurpose
from asm_daemon.keystores import create_store
from asm_daemon.ledger import BadNote, NoteKey, Tree, leaf_hash, open_checkpoint, verify_consistency, verify_inclusion
from tests.conftest import Database

NOW = datetime(2026, 11, 23, 8, 0, tzinfo=UTC)
DEPLOYMENT = "asm.test"


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    folder: Path = tmp_path_factory.mktemp("keys") / "store"
    return Keyring(create_store(folder, [202611], NOW).read)


@pytest.fixture(scope="module")
def key(keyring: Keyring) -> SigningKey:
    return keyring.signing_key(KeyPurpose.CHECKPOINT)


@pytest.fixture(scope="module")
def believed(key: SigningKey) -> NoteKey:
    return audit.note_key(DEPLOYMENT, key.public_key_bytes)


@pytest.fixture
async def sealer(database: Database) -> asyncpg.Connection:
    return await database.connect("asm_audit")


def entry(number: int = 0) -> AuditEntry:
    return AuditEntry(
        at=NOW + timedelta(seconds=number),
        actor_kind="owner",
        actor=str(uuid4()),
        action="stay.read",
        object=f"stay/{uuid4()}",
        details={"rows": number},
    )


async def fill(database: Database, sealer: asyncpg.Connection, key: SigningKey, *sizes: int) -> list[UUID]:
    """Append and seal batches of the given sizes; return the ids in order."""
    writer = await database.connect("asm_intake")
    ids = []
    for size in sizes:
        async with writer.transaction():
            ids += [await audit.append(writer, entry(number)) for number in range(size)]
        assert (await audit.seal_once(sealer, key, DEPLOYMENT, NOW)).entries == size
    return ids


# --- what is refused ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unfit", [1.5, {"name": "x"}, b"bytes", NOW, [1.5]])
def test_a_detail_that_is_not_an_id_a_count_or_a_hash_is_refused(unfit: object) -> None:
    with pytest.raises(TypeError):
        dataclasses.replace(entry(), details={"detail": unfit}).body()


def test_an_entry_too_long_to_be_ids_and_counts_is_refused() -> None:
    with pytest.raises(ValueError, match="detail is longer"):
        dataclasses.replace(entry(), details={"detail": "x" * 4097}).body()
    with pytest.raises(ValueError, match="entry is longer"):
        dataclasses.replace(entry(), details={"detail": ["x" * 4096] * 4}).body()


async def test_an_entry_of_a_transaction_that_was_rolled_back_never_happened(
    database: Database, sealer: asyncpg.Connection, key: SigningKey
) -> None:
    writer = await database.connect("asm_intake")
    transaction = writer.transaction()
    await transaction.start()
    entry_id = await audit.append(writer, entry())
    await transaction.rollback()
    with pytest.raises(NotSealed):
        await audit.seal_through(sealer, entry_id, key, DEPLOYMENT, NOW)


async def test_only_the_checkpoint_key_seals(sealer: asyncpg.Connection, keyring: Keyring) -> None:
    with pytest.raises(WrongPurpose):
        await audit.seal_once(sealer, keyring.signing_key(KeyPurpose.RECEIPT), DEPLOYMENT, NOW)


WRITERS = ["asm_auth", "asm_intake", "asm_sync", "asm_police", "asm_guest", "asm_publish", "asm_retention"]
TABLES = ["audit_pending", "audit_log", "audit_nodes", "audit_checkpoints", "audit_head"]
FORBIDDEN = {
    "asm_audit": [
        "UPDATE audit_log SET body = body",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "INSERT INTO audit_pending (entry_id, at, body) VALUES (gen_random_uuid(), now(), '')",
        "UPDATE audit_pending SET body = body",
        "UPDATE audit_checkpoints SET note = note",
        "DELETE FROM audit_checkpoints",
        "UPDATE audit_nodes SET hash = hash",
        "DELETE FROM audit_nodes",
        "DELETE FROM audit_head",
        "INSERT INTO audit_head (frontier) VALUES ('')",
        "SELECT * FROM stays",
    ],
    "asm_feeds": [
        "INSERT INTO audit_pending (entry_id, at, body) VALUES (gen_random_uuid(), now(), '')",
        *(f"SELECT * FROM {table}" for table in TABLES),
    ],
    **{
        login: [
            "SELECT * FROM audit_pending",
            "INSERT INTO audit_pending (entry_id, at, body) VALUES (gen_random_uuid(), now(), '') RETURNING body",
            "UPDATE audit_pending SET body = ''",
            "DELETE FROM audit_pending",
            "TRUNCATE audit_pending",
            *(f"SELECT * FROM {table}" for table in TABLES),
            *(f"DELETE FROM {table}" for table in TABLES),
        ]
        for login in WRITERS
    },
}


async def test_no_login_can_read_or_change_more_of_the_audit_than_its_part(database: Database) -> None:
    for login, statements in FORBIDDEN.items():
        connection = await database.connect(login)
        for statement in statements:
            with pytest.raises(asyncpg.InsufficientPrivilegeError):
                await connection.execute(statement)


async def test_every_login_that_writes_can_append(database: Database, sealer: asyncpg.Connection) -> None:
    for login in WRITERS:
        await audit.append(await database.connect(login), entry())
    assert await sealer.fetchval("SELECT count(*) FROM audit_pending") == len(WRITERS)


# --- sealing -----------------------------------------------------------------------------------------------------


async def test_with_nothing_waiting_nothing_is_signed(sealer: asyncpg.Connection, key: SigningKey) -> None:
    assert await audit.seal_once(sealer, key, DEPLOYMENT, NOW) == audit.SealCounts(0, 0)
    assert await sealer.fetchval("SELECT count(*) FROM audit_checkpoints") == 0


async def test_entries_get_positions_in_order_of_arrival_and_keep_their_bytes(
    database: Database, sealer: asyncpg.Connection, key: SigningKey
) -> None:
    writer = await database.connect("asm_police")
    entries = [entry(number) for number in range(5)]
    for made in entries:
        await audit.append(writer, made)
    assert await audit.seal_once(sealer, key, DEPLOYMENT, NOW) == audit.SealCounts(5, 5)
    rows = await sealer.fetch("SELECT * FROM audit_log ORDER BY position")
    assert [row["position"] for row in rows] == list(range(5))
    assert [row["body"] for row in rows] == [made.body() for made in entries]
    assert [row["leaf"] for row in rows] == [leaf_hash(made.body()) for made in entries]
    assert orjson.loads(rows[1]["body"])["at"] == "2026-11-23T08:00:01.000000Z"
    assert await sealer.fetchval("SELECT count(*) FROM audit_pending") == 0


async def test_every_seal_signs_the_tree_so_far(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    await fill(database, sealer, key, 3, 1, 7)
    leaves = [row["leaf"] for row in await sealer.fetch("SELECT leaf FROM audit_log ORDER BY position")]
    notes = await sealer.fetch("SELECT size, note FROM audit_checkpoints ORDER BY size")
    checkpoints = [open_checkpoint(row["note"], believed) for row in notes]
    assert [checkpoint.size for checkpoint in checkpoints] == [3, 4, 11]
    assert [checkpoint.root for checkpoint in checkpoints] == [Tree(leaves[:size]).root for size in (3, 4, 11)]
    assert {checkpoint.origin for checkpoint in checkpoints} == {"asm.test/audit"}


async def test_callers_at_the_same_time_share_one_seal(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    writer = await database.connect("asm_police")
    ids = [await audit.append(writer, entry(number)) for number in range(8)]
    sealers = [await database.connect("asm_audit") for _ in ids]
    positions = await asyncio.gather(
        *(
            audit.seal_through(connection, entry_id, key, DEPLOYMENT, NOW)
            for connection, entry_id in zip(sealers, ids, strict=True)
        )
    )
    assert positions == list(range(8))
    assert await sealer.fetchval("SELECT count(*) FROM audit_checkpoints") == 1
    assert (await audit.verify(sealer, believed)).faults == ()


async def test_sealing_while_others_write_loses_and_doubles_nothing(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    async def write(login: str) -> list[UUID]:
        connection = await database.connect(login)
        return [await audit.append(connection, entry(number)) for number in range(50)]

    writing = asyncio.gather(*(write(login) for login in WRITERS))
    sealers = [await database.connect("asm_audit") for _ in range(2)]
    while not writing.done():
        await asyncio.gather(*(audit.seal_once(connection, key, DEPLOYMENT, NOW) for connection in sealers))
    await audit.seal_once(sealer, key, DEPLOYMENT, NOW)
    appended = sorted(entry_id for ids in await writing for entry_id in ids)
    sealed = await sealer.fetch("SELECT entry_id FROM audit_log ORDER BY entry_id")
    assert [row["entry_id"] for row in sealed] == appended
    assert (await audit.verify(sealer, believed)).faults == ()


async def test_an_entry_already_sealed_keeps_its_position(
    database: Database, sealer: asyncpg.Connection, key: SigningKey
) -> None:
    ids = await fill(database, sealer, key, 3)
    assert await audit.seal_through(sealer, ids[1], key, DEPLOYMENT, NOW) == 1
    assert await sealer.fetchval("SELECT count(*) FROM audit_checkpoints") == 1


async def test_a_writer_that_repeats_an_id_or_writes_rubbish_cannot_stop_the_sealing(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    ids = await fill(database, sealer, key, 1)
    writer = await database.connect("asm_intake")
    await writer.execute("INSERT INTO audit_pending (entry_id, at, body) VALUES ($1, now(), 'rubbish')", ids[0])
    assert await audit.seal_once(sealer, key, DEPLOYMENT, NOW) == audit.SealCounts(1, 2)
    assert (await audit.verify(sealer, believed)).faults == (Fault(FaultKind.LABEL, 1),)


@pytest.mark.parametrize(
    "statement",
    [
        r"UPDATE audit_head SET frontier = '\x0000000000000000'",
        "UPDATE audit_head SET frontier = set_byte(frontier, 20, (get_byte(frontier, 20) + 1) % 256)",
        "DELETE FROM audit_checkpoints",
        "UPDATE audit_checkpoints SET note = replace(note, '5', '6')",
        "INSERT INTO audit_log SELECT 5, entry_id, at, body, leaf FROM audit_log WHERE position = 0",
    ],
)
async def test_a_tree_head_that_was_not_signed_is_never_built_upon(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, statement: str
) -> None:
    await fill(database, sealer, key, 5)
    await (await database.connect()).execute(statement)
    await audit.append(await database.connect("asm_intake"), entry())
    with pytest.raises(AuditBroken):
        await audit.seal_once(sealer, key, DEPLOYMENT, NOW)
    assert await sealer.fetchval("SELECT count(*) FROM audit_pending") == 1


# --- what a superuser does to a log of 12 entries with checkpoints at 4, 5 and 12, and what shows it -----------------


ATTACKS: dict[str, tuple[str, list[Fault]]] = {
    "edit": (
        "UPDATE audit_log SET body = body || ' '::bytea WHERE position = 6",
        [Fault(FaultKind.EDITED, 6)],
    ),
    "edit with its hash": (
        r"""
        UPDATE audit_log SET body = edited, leaf = sha256('\x00'::bytea || edited)
        FROM (SELECT replace(convert_from(body, 'UTF8'), 'stay.read', 'stay.list')::bytea AS edited
              FROM audit_log WHERE position = 2) AS old
        WHERE position = 2
        """,
        [Fault(FaultKind.REWRITTEN, 0)],
    ),
    "relabel": ("UPDATE audit_log SET at = at + interval '1 day' WHERE position = 3", [Fault(FaultKind.LABEL, 3)]),
    "delete": ("DELETE FROM audit_log WHERE position = 4", [Fault(FaultKind.MISSING, 4)]),
    "delete and close the gap": (
        """
        WITH gone AS (DELETE FROM audit_log WHERE position = 11 RETURNING entry_id, at, body, leaf)
        UPDATE audit_log SET entry_id = gone.entry_id, at = gone.at, body = gone.body, leaf = gone.leaf
        FROM gone WHERE position = 7
        """,
        [Fault(FaultKind.CUT_OFF, 11), Fault(FaultKind.UNSIGNED, 5), Fault(FaultKind.HEAD, 11)],
    ),
    "reorder": (
        """
        UPDATE audit_log SET entry_id = other.entry_id, at = other.at, body = other.body, leaf = other.leaf
        FROM audit_log other
        WHERE audit_log.position IN (6, 8) AND other.position IN (6, 8) AND other.position <> audit_log.position
        """,
        [Fault(FaultKind.REWRITTEN, 5)],
    ),
    "insert at the end": (
        "INSERT INTO audit_log SELECT 12, entry_id, at, body, leaf FROM audit_log WHERE position = 3",
        [Fault(FaultKind.UNSIGNED, 12), Fault(FaultKind.HEAD, 13)],
    ),
    "insert in the middle": (
        """
        UPDATE audit_log SET position = position + 100 WHERE position >= 2;
        UPDATE audit_log SET position = position - 99 WHERE position >= 100;
        INSERT INTO audit_log SELECT 2, entry_id, at, body, leaf FROM audit_log WHERE position = 0
        """,
        [Fault(FaultKind.REWRITTEN, 0)],
    ),
    "cut the end off": (
        "DELETE FROM audit_log WHERE position >= 9",
        [Fault(FaultKind.CUT_OFF, 9), Fault(FaultKind.UNSIGNED, 5), Fault(FaultKind.HEAD, 9)],
    ),
    "forge a checkpoint": (
        "UPDATE audit_checkpoints SET note = replace(note, 'asm.test/audit', 'asm.test/audio') WHERE size = 5",
        [Fault(FaultKind.SIGNATURE, 5)],
    ),
    "put a checkpoint where it does not belong": (
        "UPDATE audit_checkpoints SET note = (SELECT note FROM audit_checkpoints WHERE size = 4) WHERE size = 5",
        [Fault(FaultKind.SIGNATURE, 5)],
    ),
    "roll the tree head back": (
        r"UPDATE audit_head SET frontier = '\x0000000000000000'",
        [Fault(FaultKind.HEAD, 12)],
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
async def test_what_a_superuser_does_to_the_log_is_found(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey, attack: str
) -> None:
    await fill(database, sealer, key, 4, 1, 7)
    assert (await audit.verify(sealer, believed)).faults == ()
    statement, faults = ATTACKS[attack]
    await (await database.connect()).execute(statement)
    assert list((await audit.verify(sealer, believed)).faults) == faults


async def test_a_log_rolled_back_to_an_earlier_state_shows_only_against_a_checkpoint_kept_elsewhere(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    superuser = await database.connect()
    await fill(database, sealer, key, 4)
    head = await superuser.fetchval("SELECT frontier FROM audit_head")
    await fill(database, sealer, key, 3)
    kept = await sealer.fetchval("SELECT note FROM audit_checkpoints WHERE size = 7")
    await superuser.execute("DELETE FROM audit_log WHERE position >= 4")
    await superuser.execute("DELETE FROM audit_checkpoints WHERE size > 4")
    await superuser.execute("UPDATE audit_head SET frontier = $1", head)
    assert (await audit.verify(sealer, believed)).faults == ()
    assert (await audit.verify(sealer, believed, [kept])).faults == (Fault(FaultKind.CUT_OFF, 4),)
    await fill(database, sealer, key, 5)  # the log grows past the old size, with other entries
    assert (await audit.verify(sealer, believed, [kept])).faults == (Fault(FaultKind.REWRITTEN, 4),)


async def test_a_checkpoint_of_somebody_else_is_no_evidence(
    sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    with pytest.raises(BadNote):
        await audit.verify(sealer, believed, ["example.com/audit\n1\nAAAA\n\n— example.com/audit AAAAAAAA\n"])


async def test_a_log_signed_by_another_key_is_not_believed(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, keyring: Keyring
) -> None:
    await fill(database, sealer, key, 2)
    other = audit.note_key(DEPLOYMENT, keyring.signing_key(KeyPurpose.RECEIPT).public_key_bytes)
    assert Fault(FaultKind.SIGNATURE, 2) in (await audit.verify(sealer, other)).faults


async def test_verification_counts_what_it_read_and_survives_an_empty_log(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    assert await audit.verify(sealer, believed) == audit.AuditVerification(0, 0, Tree([]).root, ())
    await fill(database, sealer, key, 4, 1)
    seen = await audit.verify(sealer, believed)
    leaves = [row["leaf"] for row in await sealer.fetch("SELECT leaf FROM audit_log ORDER BY position")]
    assert seen == audit.AuditVerification(5, 2, Tree(leaves).root, ())


def test_every_fault_has_words() -> None:
    assert set(audit.FAULT_TEXTS) == set(FaultKind)


# --- proofs ------------------------------------------------------------------------------------------------------


async def test_an_entry_that_is_not_sealed_has_no_proof(
    database: Database, sealer: asyncpg.Connection, key: SigningKey
) -> None:
    with pytest.raises(NotSealed):
        await audit.inclusion_proof(sealer, 0)
    await fill(database, sealer, key, 1)
    for position in (-1, 1):
        with pytest.raises(NotSealed):
            await audit.inclusion_proof(sealer, position)


async def test_consistency_is_proved_to_signed_sizes_only_and_never_backwards(
    database: Database, sealer: asyncpg.Connection, key: SigningKey
) -> None:
    await fill(database, sealer, key, 4, 3)
    for old, new in ((5, 4), (-1, 4), (4, 5), (7, 8)):
        with pytest.raises(NotSealed):
            await audit.consistency_proof(sealer, old, new)


async def test_consistency_proofs_from_stored_hashes_are_those_of_an_independent_implementation(
    database: Database, sealer: asyncpg.Connection, key: SigningKey
) -> None:
    batches = (1, 1, 5, 57, 192, 1, 255, 1, 600, 1000)
    await fill(database, sealer, key, *batches)
    sizes = [sum(batches[: number + 1]) for number in range(len(batches))]
    bodies = [row["body"] for row in await sealer.fetch("SELECT body FROM audit_log ORDER BY position")]
    other = pymerkle.InmemoryTree.init_from_entries(bodies, "sha256")
    for new in sizes:
        for old in {*(size for size in sizes if size <= new), 1, new // 2, new - new // 3, new - 1} - {0}:
            proof = await audit.consistency_proof(sealer, old, new)
            roots = other.get_root(old), other.get_root(new)
            theirs = Tree([leaf_hash(body) for body in bodies[:new]]).consistency_proof(old)
            assert list(proof.path) == theirs
            assert verify_consistency(old, roots[0], new, roots[1], proof.path)
            pymerkle.verify_consistency(roots[0], roots[1], other.prove_consistency(old, new))
            for at in range(len(proof.path)):
                changed = [*proof.path[:at], sha256(proof.path[at]).digest(), *proof.path[at + 1 :]]
                assert not verify_consistency(old, roots[0], new, roots[1], changed)
                assert not verify_consistency(old, roots[0], new, roots[1], proof.path[:at] + proof.path[at + 1 :])


@pytest.mark.parametrize("statement", ["DELETE FROM audit_nodes", "UPDATE audit_nodes SET hash = sha256(hash)"])
async def test_kept_hashes_that_were_changed_give_no_proof_and_are_found(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey, statement: str
) -> None:
    await fill(database, sealer, key, 270, 30)
    await (await database.connect()).execute(statement)
    with pytest.raises(AuditBroken):
        await audit.inclusion_proof(sealer, 299)
    with pytest.raises(AuditBroken):
        await audit.consistency_proof(sealer, 270, 300)
    assert (await audit.verify(sealer, believed)).faults == (Fault(FaultKind.NODE, 0),)


async def test_ten_thousand_entries_are_sealed_and_verified_and_each_can_be_proved(
    database: Database, sealer: asyncpg.Connection, key: SigningKey, believed: NoteKey
) -> None:
    superuser = await database.connect()
    made = [entry(number) for number in range(10_001)]
    rows = [(one.id, one.at, one.body()) for one in made]
    await superuser.copy_records_to_table("audit_pending", records=rows, columns=["entry_id", "at", "body"])
    assert await audit.seal_once(sealer, key, DEPLOYMENT, NOW) == audit.SealCounts(10_000, 10_000)
    assert await audit.seal_through(sealer, made[-1].id, key, DEPLOYMENT, NOW) == 10_000
    seen = await audit.verify(sealer, believed)
    assert (seen.entries, seen.checkpoints, seen.faults) == (10_001, 2, ())
    for position in (0, 1, 255, 256, 4095, 8191, 8192, 9999, 10_000):
        proof = await audit.inclusion_proof(sealer, position)
        checkpoint = open_checkpoint(proof.note, believed)
        assert proof.leaf == leaf_hash(made[position].body())
        assert verify_inclusion(proof.leaf, position, checkpoint.size, proof.path, checkpoint.root)
