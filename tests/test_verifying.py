"""What the daemon verifies by itself: what somebody changed past it, and what PostgreSQL is told to log."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import prometheus_client
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import audit, retention, verifying
from asm_daemon.crypto import Keyring, epoch_at, epoch_bounds
from asm_daemon.intake import Intake
from asm_daemon.model import Facility
from asm_daemon.stay_proofs import verify_stays
from asm_daemon.store import alerts, sealed
from asm_daemon.store.alerts import Alert, AlertKind
from asm_daemon.store.retention import Hold
from asm_daemon.verifying import verification_owed, verify_once, watch_settings_once
from schemas.act import ActKind
from tests.stack import Clock, Pools, command, declaration

LOGINS = ("asm_retention", "asm_audit", "asm_feeds", "asm_auth")


async def declare(intake: Intake, facility: Facility, clock: Clock) -> UUID:
    [outcome] = await intake.submit([command(facility, ActKind.DECLARE, declaration(1), clock)])
    assert outcome.stay
    return outcome.stay.id


async def verified(pools: Pools, keyring: Keyring, clock: Clock) -> tuple[dict[str, int], list[Alert]]:
    counts = await verify_once({login: await pools.get(login) for login in LOGINS}, keyring, [], clock())
    return counts, await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=9)


def verified_at() -> float | None:
    return prometheus_client.REGISTRY.get_sample_value("asm_verified_timestamp_seconds")


async def test_a_verification_that_breaks_off_is_none(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    await verified(pools, keyring, clock)
    completed_at = clock.instant.timestamp()
    clock.instant += timedelta(days=1)
    await (await pools.database.connect()).execute("ALTER TABLE audit_log RENAME TO audit_gone")
    with pytest.raises(asyncpg.UndefinedTableError):
        await verified(pools, keyring, clock)
    assert verified_at() == completed_at


@pytest.mark.parametrize(
    ("last", "now", "owed"),
    [
        (None, "2026-11-29T12:00", True),  # a daemon that has just come to lead
        ("2026-11-28T04:20", "2026-11-29T03:59", False),
        ("2026-11-28T04:20", "2026-11-29T04:20", True),
        ("2026-11-28T04:20", "2026-11-29T05:20", True),  # the night's failed
        ("2026-11-28T23:20", "2026-11-29T04:20", True),
        ("2026-11-29T04:20", "2026-11-29T05:20", False),
        ("2026-11-29T05:20", "2026-11-30T03:20", False),
    ],
)
def test_a_verification_is_owed_from_four_in_the_morning_until_it_is_done(
    last: str | None, now: str, owed: bool
) -> None:
    last_at = datetime.fromisoformat(f"{last}+07:00") if last else None
    assert verification_owed(last_at, datetime.fromisoformat(f"{now}+07:00").astimezone(UTC)) is owed


async def test_a_record_that_was_changed_is_alerted_by_kind_and_place(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    stay = await declare(intake, facility, clock)
    await (await pools.database.connect()).execute("UPDATE stays SET late_minutes = 0, deadline_at = now()")
    counts, [alert] = await verified(pools, keyring, clock)
    assert (counts["versions"], counts["faults"]) == (1, 1)
    assert (alert.kind, alert.subject) == (AlertKind.REGISTER_CHANGED, f"stays/{stay}/1")
    assert alert.details == {"kind": "not_what_was_signed"}


async def test_a_hold_that_was_removed_by_hand_is_alerted(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    stay = await declare(intake, facility, clock)
    hold = Hold(uuid7(), facility.id, stay, None, None, "15/2026/HS-PC02", "điều tra", clock(), "operator:test")
    await retention.place_hold(await pools.get("asm_retention"), keyring, hold)
    await (await pools.database.connect()).execute("DELETE FROM legal_holds")
    _, [alert] = await verified(pools, keyring, clock)
    assert (alert.details["kind"], alert.subject) == ("told_and_gone", f"hold/{hold.id}")


async def test_each_fault_is_an_alert_of_its_own_and_one_that_was_looked_at_hides_no_other(
    facility: Facility, clock: Clock, pools: Pools, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An entry that somebody else wrote stays in the audit for good, and is found each night."""
    intake, auditors = await pools.database.connect("asm_intake"), await pools.database.connect("asm_sync")
    forged = await audit.append(intake, audit.AuditEntry(clock(), "operator", "test", "key.revoke", "key/x"))
    _, [alert] = await verified(pools, keyring, clock)
    assert (alert.kind, alert.subject) == (AlertKind.ENTRY_NOT_OURS, f"audit/{forged}")
    await alerts.close_alert(auditors, alert.kind, alert.subject, "operator:test", clock())
    assert (await verified(pools, keyring, clock))[1] == []
    await (await pools.database.connect()).execute("UPDATE facilities SET capacity = 9999")
    for _ in range(2):  # what is not put right comes again, though somebody closed its alert
        counts, [alert] = await verified(pools, keyring, clock)
        assert (counts["faults"], alert.subject) == (2, f"facility/{facility.code}")
        await alerts.close_alert(auditors, alert.kind, alert.subject, "operator:test", clock())
    monkeypatch.setattr(verifying, "ALERTS", 1)
    _, found = await verified(pools, keyring, clock)
    assert {each.subject: each.details for each in found} == {
        f"facility/{facility.code}": {"kind": "told_otherwise"}, "register": {"faults": 2}
    }  # fmt: skip


async def test_of_a_month_with_few_stays_every_one_is_looked_at(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    for index in range(1, 21):
        await intake.submit([command(facility, ActKind.DECLARE, declaration(index), clock)])
    counts, _ = await verified(pools, keyring, clock)
    assert counts["versions"] == 20


async def test_of_a_month_with_many_stays_as_many_are_looked_at_as_was_asked_and_others_each_time(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    """However they lie: a file with a hundred guests makes a hundred stays within a moment, and then come none."""
    acts = [command(facility, ActKind.DECLARE, declaration(index), clock) for index in range(1, 121)]
    await intake.submit(acts)
    pool, auditors, month = await pools.get("asm_retention"), await pools.get("asm_audit"), epoch_at(clock())
    async with pool.acquire() as connection:
        draws = [await sealed.sampled(connection, month, *epoch_bounds(month), 100, blocks=100) for _ in range(2)]
        blocks = await connection.fetchval(f"SELECT pg_relation_size('stays_{month}') / 8192")
    assert [len(set(each)) for each in draws] == [100, 100]
    assert set(draws[0]) != set(draws[1])
    assert blocks > 6
    # Nor if nearly all of the table is of the past: then more of it is read.
    await (await pools.database.connect()).execute(
        "DELETE FROM stays WHERE id NOT IN (SELECT id FROM stays ORDER BY id DESC LIMIT 4)"
    )
    for _ in range(20):
        found = await verify_stays(pool, auditors, keyring, [], sample=3)
        assert found.versions == 3


async def test_what_nobody_touched_alerts_nobody(
    intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring
) -> None:
    await declare(intake, facility, clock)
    counts, found = await verified(pools, keyring, clock)
    assert (counts["versions"], counts["faults"], found) == (1, 0, [])
    assert verified_at() == clock.instant.timestamp()
    assert counts["rows"] >= 1  # the facility


@pytest.mark.parametrize("login", LOGINS)
async def test_a_setting_that_would_log_values_is_alerted_whichever_login_has_it(pools: Pools, login: str) -> None:
    superuser, now = await pools.database.connect(), datetime.now(UTC)
    await superuser.execute(f"ALTER ROLE {login} IN DATABASE {pools.database.name} SET log_parameter_max_length = -1")
    opened = {each: await pools.get(each) for each in LOGINS}
    assert await watch_settings_once(opened, now) == {"faults": 1}
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=9)
    assert (alert.kind, alert.details) == (AlertKind.VALUES_LOGGED, {"log_parameter_max_length": "0"})
    await superuser.execute(f"ALTER ROLE {login} IN DATABASE {pools.database.name} RESET log_parameter_max_length")
    for pool in opened.values():
        await pool.expire_connections()
    assert await watch_settings_once(opened, now) == {"faults": 0}
