"""Re-encryption of a month: what must not pass into the new key, what stays provable, and that it ends."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import pytest

from asm_daemon import audit, crypto, keystores, resealing
from asm_daemon.crypto import (
    LOOK_SECONDS,
    KeyName,
    KeyPurpose,
    Keyring,
    RecordName,
    Tampered,
    epoch_bounds,
    next_epoch,
)
from asm_daemon.intake import Intake, Outcome
from asm_daemon.issuing import Issuer, leaf_of
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Facility, StayRow
from asm_daemon.problems import Refused
from asm_daemon.receipts import verify_receipt
from asm_daemon.resealing import SETTLE, reencrypt_once, watch_once
from asm_daemon.sealing import open_contents, open_message_header, seal_contents, seal_message_header
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store import alerts, hospital, sealed
from asm_daemon.store import stays as stays_store
from asm_daemon.store.alerts import AlertKind
from schemas.act import ActKind
from tests.stack import DEPLOYMENT, Clock, Pools, command, declaration

Run = Callable[..., Awaitable[dict[str, int]]]


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@dataclass
class Later:
    """The clock of the job, which runs ahead of the one that made the stays: their months must not change."""

    instant: datetime

    def __call__(self) -> datetime:
        return self.instant


@pytest.fixture
def later(clock: Clock) -> Later:
    return Later(clock())


@pytest.fixture
def run(pools: Pools, keyring: Keyring, store: KeyStore, later: Later) -> Run:
    """One activation of the job."""

    async def once(**limits: Any) -> dict[str, int]:
        keyring.reload()
        pool = await pools.get("asm_retention")
        return await reencrypt_once(pool, keyring, lambda name: store.retire(name, later()), later(), **limits)

    return once


@dataclass
class House:
    """A facility with stays that were declared, corrected and ended."""

    intake: Intake
    facility: Facility
    clock: Clock

    async def act(self, kind: ActKind, fields: dict[str, Any], **members: Any) -> Outcome:
        [outcome] = await self.intake.submit([command(self.facility, kind, fields, self.clock, **members)])
        assert outcome.outcome == "accepted", outcome
        return outcome

    async def fill(self, stays: int) -> list[Outcome]:
        """Declare guests, and correct every other one."""
        outcomes = []
        for index in range(1, stays + 1):
            outcome = await self.act(ActKind.DECLARE, declaration(index, source_ref=f"R-{index}"))
            outcomes.append(outcome)
            if index % 2:
                assert outcome.stay
                outcomes.append(await self.act(ActKind.CORRECT, {"room": "305"}, source_ref=f"R-{index}"))
        return outcomes


@pytest.fixture
async def house(intake: Intake, facility: Facility, clock: Clock) -> House:
    return House(intake, facility, clock)


async def versions(pools: Pools) -> list[StayRow]:
    """Every version of every stay."""
    connection = await pools.database.connect("asm_intake")
    places = [tuple(row) for row in await connection.fetch("SELECT facility_id, id FROM stays ORDER BY id")]
    columns = [list(column) for column in zip(*places, strict=True)]
    return await stays_store.read_stays(connection, *columns) + await stays_store.read_versions(connection, *columns)


async def retired(run: Run, later: Later) -> dict[str, int]:
    """Run until the old key is gone, as time passes."""
    total: dict[str, int] = {}
    for _ in range(4):
        counts = await run()
        total = {name: total.get(name, 0) + count for name, count in counts.items()}
        if counts["retired"]:
            return total
        later.instant += SETTLE
    raise AssertionError(total)


async def reissued(pools: Pools, issuer: Issuer, keyring: Keyring, facility: Facility, row: StayRow) -> dict[str, Any]:
    connection = await pools.database.connect("asm_intake")
    [batch] = (await stays_store.read_batches(connection, [row.receipt_batch_id])).values()
    return issuer.receipt(facility, row, open_contents(keyring, row), batch)


# -- what must not happen ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("left", [b"", b"\x01", bytes(40)])
async def test_a_blob_that_is_no_blob_any_more_is_alerted_and_stops_nothing(
    house: House, pools: Pools, store: KeyStore, later: Later, run: Run, epoch: int, left: bytes
) -> None:
    await house.fill(3)
    superuser = await pools.database.connect()
    broken = await superuser.fetchval("SELECT id FROM stays WHERE version = 1")
    await superuser.execute("UPDATE stays SET sealed = $2 WHERE id = $1", broken, left)
    store.renew_epoch(epoch, later())
    counts = await run()
    assert (counts["resealed"], counts["refused"]) == (4, 1)
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert (alert.kind, alert.subject) == (AlertKind.NOT_REENCRYPTED, f"stays/{broken}/1")


@pytest.mark.parametrize("leaf_too", [False, True], ids=["the record", "its leaf too"])
async def test_what_was_forged_with_the_old_key_does_not_pass_into_the_new_one(
    house: House, pools: Pools, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int, leaf_too: bool
) -> None:
    await house.fill(4)  # each in a batch of its own
    rows = [row for row in await versions(pools) if row.version == 1]
    forged, moved, whole = rows[0], rows[1], rows[2:]
    contents = open_contents(keyring, forged)
    declared = {**contents.declared, "room": "999"}
    other = type(contents)(**{**{name: getattr(contents, name) for name in contents.__slots__}, "declared": declared})
    blob = seal_contents(keyring, forged.facility_id, forged.id, forged.version, other)
    superuser = await pools.database.connect()
    if leaf_too:  # what the thief cannot do is sign it
        leaf = leaf_of(house.facility.code, replace(forged, sealed=blob), other).hash()
        await superuser.execute(
            "UPDATE receipt_batches SET leaves = overlay(leaves PLACING $2 FROM $3) WHERE id = $1",
            forged.receipt_batch_id,
            leaf,
            forged.receipt_index * 32 + 1,
        )
    for table, key in (("stays", "id"), ("stay_versions", "stay_id")):
        await superuser.execute(f"UPDATE {table} SET sealed = $2 WHERE {key} = $1 AND version = 1", forged.id, blob)
        await superuser.execute(  # a time beside the blob: signed as well
            f"UPDATE {table} SET received_at = received_at - interval '1 day' WHERE {key} = $1 AND version = 1",
            moved.id,
        )
    store.renew_epoch(epoch, later())
    counts = await run()
    assert counts["refused"] == 2
    by_id = {(row.id, row.version): row for row in await versions(pools)}
    assert by_id[forged.id, 1].sealed == blob
    assert by_id[moved.id, 1].sealed[5] == 1
    assert all(by_id[row.id, 1].sealed[5] == 2 for row in whole)
    connection = await pools.database.connect("asm_sync")
    found = await alerts.list_alerts(connection, closed=False, limit=10)
    assert {alert.kind for alert in found} == {AlertKind.NOT_REENCRYPTED}
    assert {alert.subject.split("/")[1] for alert in found} == {str(forged.id), str(moved.id)}
    for _ in range(3):  # and as long as somebody has to look, the old key stays
        later.instant += SETTLE
        assert (await run())["retired"] == 0
    assert [str(old) for old in keyring.superseded()] == [f"data/{epoch}/1", f"index/{epoch}/1"]


async def test_a_blob_of_the_old_key_opens_nowhere_once_it_is_retired(
    house: House, pools: Pools, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    await house.fill(2)
    before = await versions(pools)
    store.renew_epoch(epoch, later())
    await retired(run, later)
    keyring.reload()
    for row in before:
        with pytest.raises(Tampered, match="version"):
            open_contents(keyring, row)


async def test_a_late_write_under_the_old_key_keeps_it_until_it_was_found(
    house: House, pools: Pools, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    await house.fill(2)
    late = next(row for row in await versions(pools) if row.version == 1)
    store.renew_epoch(epoch, later())
    assert (await run())["resealed"] == 3
    superuser = await pools.database.connect()  # a process that had not noticed the new key commits what it had begun
    for table, key in (("stays", "id"), ("stay_versions", "stay_id")):
        await superuser.execute(
            f"UPDATE {table} SET sealed = $2 WHERE {key} = $1 AND version = 1", late.id, late.sealed
        )
    later.instant += SETTLE
    assert await run() == {"resealed": 1, "refused": 0, "retired": 0}
    later.instant += SETTLE - timedelta(seconds=1)
    assert await run() == {"resealed": 0, "refused": 0, "retired": 0}
    later.instant += timedelta(seconds=1)
    assert await run() == {"resealed": 0, "refused": 0, "retired": 2}


async def test_a_process_that_cannot_look_at_the_key_store_declares_nothing_under_a_key_that_may_be_gone(
    house: House, run: Run, later: Later, keyring: Keyring, store: KeyStore, epoch: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """As when the vault's token of one of two daemons has run out."""
    assert timedelta(seconds=LOOK_SECONDS) * 2 <= SETTLE
    await house.fill(1)
    (tmp_path / "keys").rename(tmp_path / "away")
    await house.act(ActKind.CORRECT, {"room": "306"}, source_ref="R-1")  # for a while nobody minds
    monkeypatch.setattr(crypto, "LOOK_SECONDS", -1)
    with pytest.raises(Refused) as refused:
        await house.act(ActKind.DECLARE, declaration(2, source_ref="R-2"))
    assert (refused.value.code, refused.value.retry_after_seconds) == ("unavailable", 60)
    (tmp_path / "away").rename(tmp_path / "keys")
    await house.act(ActKind.DECLARE, declaration(2, source_ref="R-2"))


async def test_a_month_without_keys_and_stays_that_were_changed_are_found_by_verification(
    house: House, pools: Pools, keyring: Keyring, epoch: int, clock: Clock, tmp_path: Path
) -> None:
    await house.fill(3)
    retention, auditors = await pools.get("asm_retention"), await pools.get("asm_audit")
    foreign = create_store(tmp_path / "other", [200001], clock()).keyring()
    verified = await verify_stays(retention, auditors, foreign, [], sample=5)
    assert verified.faults == [("no_key", f"epoch/{epoch}")]
    verified = await verify_stays(retention, auditors, foreign, [epoch], sample=5)
    assert verified.faults == [("stays_of_a_destroyed_month", f"epoch/{epoch}")]
    superuser = await pools.database.connect()
    first = await superuser.fetchval("SELECT id FROM stays ORDER BY id LIMIT 1")
    await superuser.execute("UPDATE stays SET late_minutes = 7 WHERE id = $1", first)
    verified = await verify_stays(retention, auditors, keyring, [], sample=5)
    assert [kind for kind, _ in verified.faults] == ["not_what_was_signed"]


async def test_a_list_of_hashes_that_the_audit_did_not_sign_is_found(
    house: House, pools: Pools, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    await house.fill(2)
    store.renew_epoch(epoch, later())
    await run()
    retention, auditors = await pools.get("asm_retention"), await pools.get("asm_audit")
    assert (await verify_stays(retention, auditors, keyring, [], sample=5)).faults == []
    superuser = await pools.database.connect()
    await superuser.execute(
        "UPDATE reseals SET pairs = pairs || pairs WHERE id = (SELECT min(id::text)::uuid FROM reseals)"
    )
    kinds = {kind for kind, _ in (await verify_stays(retention, auditors, keyring, [], sample=5)).faults}
    assert kinds == {"reencryption_not_signed", "reencryption_not_recorded"}


# -- what must happen --------------------------------------------------------------------------------------------------


async def test_the_secrets_of_webhooks_are_sealed_anew_under_their_month_whatever_their_id_says(
    pools: Pools, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    endpoint = UUID("01900000-0000-7000-8000-000000000000")  # made in another month than it was sealed in last
    name = RecordName("webhook", epoch, 0, endpoint, 1, 3)
    superuser = await pools.database.connect()
    await superuser.execute(
        "INSERT INTO webhook_endpoints"
        " (id, principal_id, place, host, kinds, sealed_epoch, version, sealed, created_at) "
        "VALUES ($1, $1, 1, 'pms.example', '{}', $2, 3, $3, now())",
        endpoint,
        epoch,
        keyring.seal(name, b"secret"),
    )
    store.renew_epoch(epoch, later())
    assert (await retired(run, later))["retired"] == 2
    blob = await superuser.fetchval("SELECT sealed FROM webhook_endpoints")
    assert blob[5] == 2
    assert keyring.open(name, blob) == b"secret"


async def test_every_record_is_sealed_anew_and_every_receipt_stays_the_same(
    house: House,
    pools: Pools,
    issuer: Issuer,
    keyring: Keyring,
    store: KeyStore,
    later: Later,
    run: Run,
    epoch: int,
) -> None:
    outcomes = await house.fill(5)
    receipts = {(each.stay.id, each.stay.version): each.receipt for each in outcomes if each.stay}
    public = keyring.signing_key(KeyPurpose.RECEIPT_TRIAL).public_key_bytes
    for round_no in (2, 3):  # twice: the receipt is still bound to the first blob
        store.renew_epoch(epoch, later())
        counts = await retired(run, later)
        assert (counts["resealed"], counts["refused"], counts["retired"]) == (8, 0, 2)
        rows = await versions(pools)
        assert len(rows) == 8
        for row in rows:
            assert row.sealed[5] == round_no
            receipt = await reissued(pools, issuer, keyring, house.facility, row)
            assert receipt == receipts[row.id, row.version]
            verified = verify_receipt(receipt["signed"], public)
            assert verified.proves(open_contents(keyring, row).declared)
    assert {(str(facts.name), facts.state) for facts in store.inventory() if facts.name.purpose is KeyPurpose.DATA} == {
        (f"data/{epoch}/1", "destroyed"), (f"data/{epoch}/2", "destroyed"), (f"data/{epoch}/3", "active"),
        (f"data/{next_epoch(epoch)}/1", "active"),
    }  # fmt: skip
    verified_stays = await verify_stays(
        await pools.get("asm_retention"), await pools.get("asm_audit"), keyring, [], sample=None
    )
    assert (verified_stays.faults, verified_stays.reencrypted, verified_stays.versions) == ([], 8, 8)
    assert verified_stays.batches == 8


async def test_a_new_version_of_a_stay_that_was_sealed_anew_has_a_receipt_of_its_own_blob(
    house: House, pools: Pools, issuer: Issuer, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    await house.fill(1)
    store.renew_epoch(epoch, later())
    await run()
    outcome = await house.act(ActKind.CORRECT, {"room": "401"}, source_ref="R-1")
    assert outcome.stay
    assert outcome.receipt
    assert outcome.receipt["signed"]["sealed_sha256"] == sha256(outcome.stay.sealed).hexdigest()
    public = keyring.signing_key(KeyPurpose.RECEIPT_TRIAL).public_key_bytes
    verify_receipt(outcome.receipt["signed"], public)
    for row in await versions(pools):
        verify_receipt((await reissued(pools, issuer, keyring, house.facility, row))["signed"], public)


async def test_a_run_is_bounded_and_goes_on_where_another_process_broke_off(
    house: House, pools: Pools, store: KeyStore, later: Later, run: Run, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.fill(6)
    store.renew_epoch(epoch, later())
    assert (await run(pages=1, rows=2))["resealed"] == 2

    async def die(*_: object) -> None:
        raise ConnectionError

    with monkeypatch.context() as patched:  # before its commit: nothing of that page happened
        patched.setattr(sealed, "keep_progress", die)
        with pytest.raises(ConnectionError):
            await run(pages=1, rows=2)
    assert sorted(row.sealed[5] for row in await versions(pools)) == [1] * 7 + [2] * 2
    resealed = 2
    for _ in range(20):
        resealed += (await run(pages=1, rows=2))["resealed"]
    assert resealed == 9
    assert {row.sealed[5] for row in await versions(pools)} == {2}
    assert (await run())["resealed"] == 0


async def test_a_key_that_was_not_retired_for_a_crash_is_retired_by_the_next_pass(
    house: House, pools: Pools, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    await house.fill(1)
    store.renew_epoch(epoch, later())

    def die(_: KeyName) -> None:
        raise ConnectionError

    pool = await pools.get("asm_retention")
    await run()
    later.instant += SETTLE
    with pytest.raises(ConnectionError):
        await reencrypt_once(pool, keyring, die, later())
    assert [old.version for old in keyring.superseded()] == [1, 1]
    assert (await retired(run, later))["retired"] == 2
    assert not keyring.reload() or keyring.superseded() == ()


async def test_what_became_of_each_blob_is_signed_by_the_audit(
    house: House, pools: Pools, keyring: Keyring, store: KeyStore, later: Later, run: Run, epoch: int
) -> None:
    await house.fill(2)
    before = {(row.id, row.version): row.sealed for row in await versions(pools)}
    store.renew_epoch(epoch, later())
    await run()
    after = {(row.id, row.version): row.sealed for row in await versions(pools)}
    expected = {sha256(before[key]).digest() + sha256(after[key]).digest() for key in before}
    connection = await pools.database.connect("asm_retention")
    reseals = await sealed.read_reseals(connection, epoch)
    pairs = [each.pairs[at : at + 64] for each in reseals for at in range(0, len(each.pairs), 64)]
    assert set(pairs) == expected
    async with (await pools.get("asm_audit")).acquire() as auditors:
        key = keyring.signing_key(KeyPurpose.CHECKPOINT)
        await audit.seal_once(auditors, key, DEPLOYMENT, later())
        bodies = await sealed.audited_bodies(auditors, [each.audit_entry_id for each in reseals])
    assert len(bodies) == len(reseals) == 2  # stays, and their older versions
    assert all(b"keys.reencrypt" in body for body in bodies)


async def test_every_table_that_holds_sealed_records_is_gone_through(
    house: House, pools: Pools, keyring: Keyring, later: Later, run: Run, store: KeyStore, epoch: int
) -> None:
    superuser = await pools.database.connect()
    columns = await superuser.fetch(
        """
        SELECT DISTINCT table_name, column_name FROM information_schema.columns
        WHERE table_schema = 'public' AND column_name ~ 'sealed$' AND data_type IN ('bytea', 'ARRAY')
            AND table_name !~ '_[0-9]{6}$'
        """
    )
    within_one_transaction = {"held_stays", "held_stay_versions"}
    assert {row["table_name"] for row in columns} - within_one_transaction == set(sealed.TABLES)
    outcome, *_ = await house.fill(1)
    assert outcome.stay
    place, month_id = house.facility.id, outcome.stay.id

    def blob(kind: str, facility_id: int, version: int = 1) -> bytes:
        return keyring.seal(RecordName(kind, epoch, facility_id, month_id, 1, version), b"{}")

    await superuser.execute(
        """
        INSERT INTO expected_stays
        VALUES ($1, $2, $3, 4, NULL, false, 'open', NULL, NULL, NULL, now(), now(), NULL, $4)
        """,
        place, bytes(16), month_id, blob("expected", place, 4),
    )  # fmt: skip
    await superuser.execute(
        "INSERT INTO temporary_residence VALUES ($1, $2, now(), $3, now())",
        place, month_id, blob("temporary_residence", place),
    )  # fmt: skip
    await superuser.execute("INSERT INTO roster_plans VALUES ($1, $2, now(), now(), $3)", month_id, place, bytes(32))
    for kind in ("plan", "result"):
        for number in (1, 2):
            await superuser.execute(
                "INSERT INTO roster_plan_parts VALUES ($1, $2, $3, $4)",
                month_id, kind, number, blob(f"roster_{kind}", place, number),
            )  # fmt: skip
    for number in (1, 2):
        await superuser.execute(
            "INSERT INTO import_files VALUES ($1, $2, $3, $4)", place, month_id, number, blob("import", place, number)
        )
    system = await superuser.fetchval(
        """
        INSERT INTO hotel_systems (facility_id, system, base_url, credentials_file, webhook_sha256, created_at)
        VALUES ($1, 'mews', 'https://pms.example', '/x', $2, now()) RETURNING id
        """,
        place,
        bytes(32),
    )
    await superuser.execute(
        "INSERT INTO hotel_pulls VALUES ($1, $2, $3, $4, now(), 1, now(), 0)",
        system, bytes(16), month_id, blob("hotel_pull", place),
    )  # fmt: skip
    await superuser.execute(
        "INSERT INTO releases VALUES ($1, 'tourism', 'daily', '2026-11-22', 1, now(), '', $2, $3)",
        month_id, bytes(32), [blob("release", 0, 1), blob("release", 0, 2)],
    )  # fmt: skip
    await superuser.execute(
        "INSERT INTO webhook_endpoints"
        " (id, principal_id, place, host, kinds, sealed_epoch, version, sealed, created_at) "
        "VALUES ($1, $1, 1, 'pms.example', '{}', $2, 3, $3, now())",
        month_id, epoch, blob("webhook", 0, 3),
    )  # fmt: skip
    names, arrived_at = ("HIS-MAU", "BV-MAU-01", "X1"), house.clock()
    header = seal_message_header(keyring, month_id.bytes, arrived_at, names)
    intake = await pools.database.connect("asm_intake")
    await hospital.put_answer(intake, month_id.bytes, "AR", "", header, ["not_hl7 MSH"], arrived_at)
    store.renew_epoch(epoch, later())
    assert (await run())["refused"] == 0
    await retired(run, later)
    keyring.reload()
    [message] = await hospital.list_refused(intake, 1)
    assert message.header_sealed is not None
    assert open_message_header(keyring, month_id.bytes, message.received_at, message.header_sealed) == names
    for table in sealed.TABLES:
        async with (await pools.get("asm_retention")).acquire() as connection:
            found = await sealed.page(connection, table, epoch_bounds(epoch), sealed.BEGINNING, 100, 0)
        assert found, table
        for record in found:
            assert record.sealed is not None
            assert record.sealed[5] == 2, table
            name = RecordName(record.kind, epoch, record.facility_id, record.place.id, 1, record.version)
            keyring.open(name, record.sealed)


async def test_a_key_near_its_limit_is_renewed_without_losing_a_declaration(
    house: House, store: KeyStore, keyring: Keyring, later: Later, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(keystores, "MESSAGE_LIMIT", 2)
    for index in (1, 2):
        await house.act(ActKind.DECLARE, declaration(index))
    with pytest.raises(Refused) as refused:
        await house.act(ActKind.DECLARE, declaration(3))
    assert (refused.value.code, refused.value.problem.status) == ("key_exhausted", 503)
    store.renew_epoch(epoch, later())
    keyring.reload()
    await house.act(ActKind.DECLARE, declaration(3))


async def test_the_operator_hears_of_a_key_long_before_its_limit(
    house: House, store: KeyStore, pools: Pools, later: Later, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = await pools.get("asm_retention")
    await house.act(ActKind.DECLARE, declaration(1))
    assert await watch_once(pool, store.inventory(), later()) == {"alerts": 0}
    monkeypatch.setattr(resealing, "MESSAGE_LIMIT", 2**21)  # a process sets half of that aside
    assert await watch_once(pool, store.inventory(), later()) == {"alerts": 1}
    connection = await pools.database.connect("asm_sync")
    [alert] = await alerts.list_alerts(connection, closed=False, limit=10)
    assert (alert.kind, alert.subject) == (AlertKind.KEY_NEARLY_SPENT, f"data/{epoch}/1")
    assert alert.details == {"messages": 2**20, "limit": 2**21}
    store.renew_epoch(epoch, later())
    assert await watch_once(pool, store.inventory(), later()) == {"alerts": 0}


async def test_the_login_of_the_job_changes_nothing_but_blobs_and_their_tags(house: House, pools: Pools) -> None:
    await house.fill(1)
    connection = await pools.database.connect("asm_retention")
    for statement in (
        "UPDATE stays SET late_minutes = 0",
        "UPDATE stays SET content_tag = ''",
        "UPDATE in_house SET document_tag = 0",
        "UPDATE receipt_batches SET checkpoint = ''",
        "UPDATE facilities SET code = 'X'",
        "UPDATE reseals SET pairs = ''",
        "DELETE FROM stays",
        "DELETE FROM reseals",
        "INSERT INTO stays SELECT * FROM stays",
        "SELECT body FROM releases",
        "SELECT credentials_file FROM hotel_systems",
        "SELECT base_url FROM hotel_systems",
        "SELECT reservation_tag FROM hotel_pulls",
        "DELETE FROM hotel_pulls",
        "SELECT arrives_at FROM expected_stays",
        "SELECT guest_tag FROM expected_stays",
        "UPDATE expected_stays SET state = 'ended'",
        "SELECT registered_on FROM temporary_residence",
        "SELECT decisions FROM roster_plans",
        "SELECT seen_on FROM roster_seen",
        "DELETE FROM roster_plan_parts",
        "DELETE FROM import_files",
        "SELECT document_tag FROM in_house",
        "UPDATE source_refs SET stay_id = gen_random_uuid()",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute(statement)
