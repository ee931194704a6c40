"""Legal holds against whoever writes to the database: changed, planted, removed, or reported by entries of his own."""

from __future__ import annotations

from datetime import datetime, timedelta

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import audit, retention
from asm_daemon.crypto import (
    KeyPurpose,
    Keyring,
)
from asm_daemon.keystores import KeyStore
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store import alerts
from asm_daemon.store import retention as retention_store
from asm_daemon.store import told as told_store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.told import Holds, verify_told, watch_holds_once
from tests.house import (
    BY,
    WARRANT,
    House,
    RetentionJobs,
    readable,
    stays_left,
    told,
)
from tests.stack import DEPLOYMENT, Clock, Pools


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.mark.parametrize(
    "deed",
    [
        "DELETE FROM legal_holds",
        "UPDATE legal_holds SET lifted_at = now(), lifted_by = 'operator:test', lifted_reason = 'hết thời hạn'",
        "UPDATE legal_holds SET stay_id = gen_random_uuid()",
    ],
)
async def test_holds_that_are_not_what_the_audit_tells_are_counted_and_alerted(
    house: House, pools: Pools, clock: Clock, deed: str, keyring: Keyring
) -> None:
    lifted = await house.hold(stay_id=await house.guest(1))
    await house.hold(stay_id=await house.guest(2))
    pool, holds = await pools.get("asm_retention"), Holds(await pools.get("asm_audit"), keyring)
    assert await house.lift(lifted, clock())
    assert await watch_holds_once(pool, holds, clock()) == 0
    await (await pools.database.connect()).execute(deed)
    assert await watch_holds_once(pool, holds, clock()) > 0
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert alert.kind is AlertKind.HOLDS_CHANGED


async def test_a_hold_that_is_removed_by_hand_before_the_month_is_locked_still_keeps_its_stay(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The row of the round that began tells an attacker when; the holds were looked at before, and all was well."""
    held, _ = await house.guest(1), await house.guest(2)
    await house.hold(stay_id=held)
    superuser, lock = await pools.database.connect(), retention_store.lock_month

    async def removed_before(connection: asyncpg.Connection, month: int) -> bool:
        await superuser.execute("DELETE FROM legal_holds")
        return await lock(connection, month)

    monkeypatch.setattr(retention_store, "lock_month", removed_before)
    counts = await jobs.end_months(over)
    assert (counts["ended"], counts["waiting"]) == (0, 2)
    assert await readable(superuser, keyring) == (6, 6)
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert alert.kind is AlertKind.HOLDS_CHANGED
    assert (await jobs.end_months(over))["holds_changed"] == 1  # and from now on nothing begins


async def test_holds_that_were_changed_or_removed_by_hand_are_restored_as_the_audit_tells_them(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime
) -> None:
    held, window = await house.guest(1), (house.clock() - timedelta(days=1), house.clock() + timedelta(days=1))
    kept = [
        await house.hold(stay_id=held),
        await house.hold(stay_id=held),
        await house.hold(present_from=window[0], present_until=window[1]),
    ]
    await house.lift(kept[1], house.clock())
    superuser, (pool, auditors) = await pools.database.connect(), await jobs.logins()
    before = await superuser.fetch("SELECT * FROM legal_holds ORDER BY id")
    await superuser.execute("DELETE FROM legal_holds WHERE id = $1", kept[0])
    await superuser.execute("UPDATE legal_holds SET lifted_at = NULL, lifted_by = NULL, lifted_reason = NULL")
    await superuser.execute("UPDATE legal_holds SET present_until = present_from WHERE id = $1", kept[2])
    assert "holds_changed" in await jobs.end_months(over)
    done = await retention.restore_holds(pool, auditors, keyring, BY, over)
    assert (sorted(done.restored), done.untold) == (sorted(kept), [])
    assert await superuser.fetch("SELECT * FROM legal_holds ORDER BY id") == before
    [entry] = [body for body in await told(pools) if body["action"] == "hold.restore"]
    assert entry["details"] == {"holds": sorted(map(str, kept)), "count": 3}
    assert (await jobs.end_months(over))["waiting"] == 0
    assert await stays_left(pools.database) == {held}


@pytest.mark.parametrize("then", ["it stays there", "it is deleted"])
async def test_a_hold_that_somebody_put_into_the_database_is_lifted_and_then_months_end_again(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime, then: str
) -> None:
    await house.guest(1)
    superuser, (pool, auditors), planted = await pools.database.connect(), await jobs.logins(), uuid7()
    await superuser.execute(
        "INSERT INTO legal_holds (id, facility_id, stay_id, warrant_ref, reason, placed_at, placed_by)"
        " SELECT $1, facility_id, id, '1/2026', 'x', now(), 'x' FROM stays LIMIT 1",
        planted,
    )
    assert (await jobs.end_months(over))["holds_changed"] == 1
    assert await retention.restore_holds(pool, auditors, keyring, BY, over) == ([], [planted])
    assert await house.lift(planted, over)
    await superuser.execute("UPDATE legal_holds SET lifted_reason = 'y'")
    assert await retention.restore_holds(pool, auditors, keyring, BY, over) == ([planted], [])
    if then == "it is deleted":
        await superuser.execute("DELETE FROM legal_holds")
    assert (await jobs.end_months(over))["forgotten"] == 1
    logins = [await pools.get(login) for login in ("asm_retention", "asm_audit", "asm_feeds", "asm_auth")]
    assert (await verify_told(*logins, keyring=keyring))[1] == []


NONSENSE = (
    b'"hold.', b'["hold."]', b'{"id":[],"action":"hold.lift","details":7}',
    b'{"action":"hold.place","details":{"vouched":7},"id":"x"}',
    # What can be read and not be said again.
    b'{"action":"hold.place","details":{"a":' + b"[" * 300 + b"]" * 300 + b',"vouched":"00"},"id":"x"}',
)  # fmt: skip


async def all_faults(pools: Pools, keyring: Keyring) -> list[tuple[str, str]]:
    """What `keys verify --all` finds."""
    logins = [await pools.get(login) for login in ("asm_retention", "asm_audit", "asm_feeds", "asm_auth")]
    stays = await verify_stays(logins[0], logins[1], keyring, [], sample=None)
    return [*stays.faults, *(await verify_told(*logins, keyring=keyring))[1]]


async def test_entries_that_others_wrote_stop_nothing_and_lift_nothing_and_are_found(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime
) -> None:
    """Every login may append to the audit, and what it appended is signed with the rest."""
    held, _ = await house.guest(1), await house.guest(2)
    hold, former = await house.hold(stay_id=held), await house.hold(stay_id=held)
    await house.lift(former, over)
    intake, superuser = await pools.database.connect("asm_intake"), await pools.database.connect()
    lifted = {"warrant": WARRANT, "reason": "hết thời hạn", "vouched": "00" * 32}
    forged = [
        await audit.append(intake, audit.AuditEntry(over, "operator", "test", action, about, details=details))
        for action, about, details in (
            ("hold.place", f"hold/{uuid7()}", {}),
            ("hold.lift", f"hold/{hold}", lifted),
            ("retention.begin", "epoch/202001", {"round": 1}),
        )
    ]
    ours = next(body for body in await told(pools) if body["object"] == f"hold/{hold}" and body["actor"] == BY)
    under_our_id = {**ours, "action": "hold.lift", "details": lifted}
    for body in (*NONSENSE, orjson.dumps(under_our_id)):
        forged.append(uuid7())
        await intake.execute("INSERT INTO audit_pending (entry_id, at, body) VALUES ($1, now(), $2)", forged[-1], body)
    # Those of ours that place once more, also the hold that was lifted, under other ids: they tell nothing twice.
    await superuser.execute(
        "INSERT INTO audit_pending (entry_id, at, body) SELECT gen_random_uuid(), now(), body FROM audit_pending"
        " WHERE position('hold.place'::bytea IN body) > 0 AND position('vouched'::bytea IN body) > 0"
        " AND entry_id <> ALL($1)",
        forged,
    )
    counts = await jobs.end_months(over)
    assert (counts["ended"], counts["kept"], counts["forgotten"]) == (2, 1, 1)
    assert await stays_left(pools.database) == {held}
    # And some under the ids of entries of ours that rows name (what was forgotten, what was sealed anew), or of none.
    for body in (b"x", b"[]", b'{"action":"x"}', b'"stays.commit"', b'{"action":"stays.commit","object":"x"}'):
        await superuser.execute(
            "WITH ids AS (SELECT audit_entry_id AS id FROM forgotten_receipts"
            " UNION ALL SELECT audit_entry_id FROM reseals UNION ALL SELECT gen_random_uuid())"
            " INSERT INTO audit_pending (entry_id, at, body) SELECT id, now(), $1 FROM ids",
            body,
        )
    assert await all_faults(pools, keyring) == [
        ("not_vouched", f"audit/{entry_id}") for entry_id in sorted(forged, key=str)
    ]


async def test_the_audit_is_read_in_parts_of_which_each_takes_a_bounded_time(
    house: House, pools: Pools, keyring: Keyring, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(told_store, "PART_ENTRIES", 2)
    holds = [await house.hold(stay_id=await house.guest(index)) for index in (1, 2)]
    auditor = await pools.database.connect("asm_audit")
    await audit.seal_once(auditor, keyring.signing_key(KeyPurpose.CHECKPOINT), DEPLOYMENT, clock())
    await house.lift(holds[0], clock())  # an entry that still waits for its place
    size = await auditor.fetchval("SELECT count(*) FROM audit_log")
    parts = [part async for part in told_store.telling(auditor, 0, [b"hold."])]
    assert len(parts) == -(-size // 2) > 2
    assert parts[-1][1] == size
    pool, story = await pools.get("asm_retention"), Holds(await pools.get("asm_audit"), keyring)
    assert await watch_holds_once(pool, story, clock()) == 0
    # Nor does it matter where somebody puts one.
    superuser = await pools.database.connect()
    await superuser.execute(
        "INSERT INTO audit_log VALUES (9223372036854775807, $1, now(), 'x', $2)", uuid7(), bytes(32)
    )
    assert await watch_holds_once(pool, Holds(await pools.get("asm_audit"), keyring), clock()) == 0
    await superuser.execute("DELETE FROM legal_holds")
    assert await watch_holds_once(pool, story, clock()) == 2
