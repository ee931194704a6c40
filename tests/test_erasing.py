"""Erasure of single stays: what is gone at once, what copies still hold, and when a certificate is final."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from asm_daemon.crypto import IndexField, KeyPurpose, Keyring, Tampered, document_value, name_values
from asm_daemon.erasing import NotErasable
from asm_daemon.keystores import KeyStore
from asm_daemon.model import StayRow
from asm_daemon.resealing import SETTLE, reencrypt_once
from asm_daemon.sealing import open_contents
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store import alerts
from asm_daemon.store import retention as retention_store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.compare import forgotten
from schemas.act import ActKind
from schemas.synthetic import person
from tests.house import (
    PERIODS,
    Crashed,
    House,
    RetentionJobs,
    dying_at,
    readable,
    reencrypt_until_retired,
    stays_left,
    told,
    wrapped,
)
from tests.stack import Clock, Pools


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


TAG_COLUMNS = "document_index, person_index, given_name_index"


def guesses(store: KeyStore, epoch: int, index: int) -> set[int]:
    """The tags that everything a key store holds makes of a synthetic person who is known to the guesser."""
    guest, keyring = person(index), store.keyring()
    values = (document_value(guest.document_number), *name_values(guest.full_name, guest.birth_date))
    fields = (IndexField.DOCUMENT, IndexField.PERSON, IndexField.GIVEN_NAME)
    asked = zip(fields, values, strict=True)
    return {tag for field, value in asked for tag in keyring.blind_indexes(epoch, field, value)}


async def test_a_stay_that_has_not_ended_or_is_not_carried_is_not_erased(
    house: House, jobs: RetentionJobs, pools: Pools, clock: Clock
) -> None:
    stay = await house.guest(1, leaves=False)
    with pytest.raises(NotErasable, match="has not ended"):
        await jobs.erase(stay, clock())
    await house.act(ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, stay_id=stay)
    with pytest.raises(NotErasable, match="on its way"):
        await jobs.erase(stay, clock())
    with pytest.raises(NotErasable, match="no such stay"):
        await jobs.erase(uuid7(), clock())
    assert await stays_left(pools.database) == {stay}


async def test_an_erased_stay_is_gone_with_all_that_names_it_and_final_when_the_last_backup_is(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, clock: Clock
) -> None:
    stay, other = await house.guest(1), await house.guest(2)
    pool = await pools.get("asm_retention")
    erasure = await jobs.erase(stay, clock())
    assert await jobs.erase(stay, clock()) == erasure
    connection = await pools.database.connect()
    for table, key in (
        ("stays", "id"),
        ("stay_versions", "stay_id"),
        ("source_refs", "stay_id"),
        ("sync_log", "stay_id"),
    ):
        assert await connection.fetchval(f"SELECT count(*) FROM {table} WHERE {key} = $1", stay) == 0, table
    assert await stays_left(pools.database) == {other}
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []
    assert await forgotten(await pools.database.connect("asm_sync"), [stay, other]) == {stay}
    assert (await jobs.certify(clock() + timedelta(days=34)))["final"] == 0
    assert (await jobs.certify(clock() + timedelta(days=35)))["final"] == 1
    assert [body["action"] for body in await told(pools)] == ["erasure.erase", "erasure.final"]


async def test_an_urgent_erasure_makes_the_stay_unreadable_in_every_database_backup(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
    clock: Clock,
    epoch: int,
    tmp_path: Path,
) -> None:
    stay = await house.guest(1)
    for index in range(2, 6):
        await house.guest(index)
    connection = await pools.database.connect()
    columns = ", ".join(StayRow.__slots__)
    [row] = await connection.fetch(f"SELECT {columns} FROM stays WHERE id = $1", stay)
    backed_up = StayRow(*row)
    pool, now = await pools.get("asm_retention"), clock()
    [tagged] = await connection.fetch(f"SELECT {TAG_COLUMNS} FROM stays WHERE id = $1", stay)
    tags = set(tagged)
    assert tags == guesses(store, epoch, 1)  # as long as the key is there, the backup is open to them
    erasure = await jobs.erase(stay, now, urgent=True)
    assert (erasure.key_version, erasure.final_at) == (1, now + timedelta(days=PERIODS.database_backup_days))
    open_contents(keyring, backed_up)  # not yet: the month has to be sealed anew first
    assert (await jobs.certify(now, []))["waiting"] == 1
    assert await reencrypt_until_retired(pool, store, now)
    now += 4 * SETTLE
    assert {
        str(key.name) for key in store.read() if key.name.purpose is KeyPurpose.DATA and key.name.epoch == epoch
    } == {f"data/{epoch}/2"}
    keyring.reload()
    with pytest.raises(Tampered):
        open_contents(keyring, backed_up)
    assert not tags & guesses(store, epoch, 1)  # nor does what identifies the guest find the tags in the backup
    assert not {f"data/{epoch}/1", f"index/{epoch}/1"} & wrapped(tmp_path / "keys")
    assert await readable(connection, keyring) == (12, 12)
    assert (await jobs.certify(now, []))["keys_gone"] == 1
    assert (await jobs.certify(now + timedelta(days=29), [now]))["final"] == 0
    assert (await jobs.certify(now + timedelta(days=30), [now + timedelta(1)]))["final"] == 1
    certified = [body["details"]["keys"] for body in await told(pools) if body["action"] == "erasure.keys_gone"]
    assert certified == [[f"data/{epoch}/1", f"index/{epoch}/1"]]
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []


async def test_an_urgent_erasure_is_not_final_while_a_backup_from_before_its_keys_went_is_known_whatever_the_settings(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, clock: Clock
) -> None:
    stay, pool, now = await house.guest(1), await pools.get("asm_retention"), clock()
    shorter, longer = replace(PERIODS, key_backup_days=7), replace(PERIODS, key_backup_days=34)
    normal = await jobs.erase(stay, now, shorter)
    urgent = await jobs.erase(stay, now, shorter, urgent=True)
    assert urgent.final_at == normal.final_at  # sooner only once the keys are gone
    assert await reencrypt_until_retired(pool, store, now)
    made = now - timedelta(hours=1)
    gone = now + timedelta(hours=1)
    assert (await jobs.certify(gone, [made], shorter))["keys_gone"] == 1
    due = gone + timedelta(days=7)
    assert (await jobs.certify(due, [made], longer))["waiting"] == 1
    assert (await jobs.certify(due, [], longer))["final"] == 1


async def test_an_urgent_erasure_is_final_with_the_last_database_backup_though_its_keys_stay(
    house: House, jobs: RetentionJobs, pools: Pools, clock: Clock
) -> None:
    stay, now = await house.guest(1), clock()
    erasure = await jobs.erase(stay, now, urgent=True)
    assert (await jobs.certify(erasure.final_at - timedelta(seconds=1), []))["waiting"] == 1
    assert (await jobs.certify(erasure.final_at, []))["final"] == 1


async def test_a_crash_before_the_new_key_of_an_urgent_erasure_is_made_good_by_the_job(
    house: House, jobs: RetentionJobs, store: KeyStore, clock: Clock, epoch: int
) -> None:
    stay = await house.guest(1)
    with pytest.raises(Crashed):
        await replace(jobs, keys=dying_at(store, "renew_epoch")).erase(stay, clock(), urgent=True)
    await jobs.certify(clock())
    assert f"data/{epoch}/2" in {str(key.name) for key in store.read()}


async def test_an_urgent_erasure_ends_with_its_month_when_all_keys_of_that_are_destroyed(
    house: House, jobs: RetentionJobs, store: KeyStore, clock: Clock, epoch: int
) -> None:
    stay = await house.guest(1)
    await jobs.erase(stay, clock(), urgent=True)
    store.destroy_epoch(epoch, "test", clock())
    assert (await jobs.certify(clock()))["keys_gone"] == 1


async def test_an_urgent_erasure_destroys_the_key_too_under_which_its_stay_was_sealed_while_it_waited(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, clock: Clock, epoch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stay, pool = await house.guest(1), await pools.get("asm_retention")
    stop = retention_store.stop_holds

    async def sealed_anew_before(connection: asyncpg.Connection) -> None:
        monkeypatch.setattr(retention_store, "stop_holds", stop)
        store.renew_epoch(epoch, clock())
        assert (await reencrypt_once(pool, store.keyring(), lambda _: None, clock()))["resealed"]
        await stop(connection)

    monkeypatch.setattr(retention_store, "stop_holds", sealed_anew_before)
    assert (await jobs.erase(stay, clock(), urgent=True)).key_version == 2
    assert {key.name.version for key in store.read() if key.name.epoch == epoch} == {1, 2, 3}


async def test_a_hold_that_is_removed_by_hand_while_its_stay_is_being_erased_still_keeps_it(
    house: House, jobs: RetentionJobs, pools: Pools, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    stay = await house.guest(1)
    await house.hold(stay_id=stay)
    superuser, stop = await pools.database.connect(), retention_store.stop_holds

    async def removed_before(connection: asyncpg.Connection) -> None:
        await superuser.execute("DELETE FROM legal_holds")
        await stop(connection)

    monkeypatch.setattr(retention_store, "stop_holds", removed_before)
    with pytest.raises(NotErasable, match="holds are not what the audit tells"):
        await jobs.erase(stay, clock())
    assert stay in await stays_left(pools.database)
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert alert.kind is AlertKind.HOLDS_CHANGED
