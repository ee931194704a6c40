"""Retention: what is forgotten is unreadable everywhere, what is held stays, and a certificate is final no sooner."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import document_holds, long_stays, retention
from asm_daemon.crypto import (
    Keyring,
    RecordName,
    Tampered,
    UnknownEpoch,
    epoch_at,
    epoch_bounds,
    generate_auditor_keys,
)
from asm_daemon.erasing import NotErasable
from asm_daemon.issuing import Issuer
from asm_daemon.key_backups import expire_backups, list_backups, make_backup
from asm_daemon.keystores import KeyStore
from asm_daemon.model import Principal, PrincipalKind, Scope, StayRow
from asm_daemon.police import Desk
from asm_daemon.problems import Refused
from asm_daemon.resealing import reencrypt_once
from asm_daemon.rules import local_day
from asm_daemon.sealing import mark_name, open_contents
from asm_daemon.stay_proofs import forgotten_root, verify_stays
from asm_daemon.store import alerts, sealed
from asm_daemon.store import retention as retention_store
from asm_daemon.store import stays as stays_store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.compare import forgotten
from asm_daemon.store.retention import Hold
from asm_daemon.told import Holds
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.long_stays import StayTemporaryResidence
from schemas.police import DocumentNumber
from schemas.synthetic import person
from tests.conftest import Database
from tests.house import (
    PERIODS,
    SHORT,
    Crashed,
    House,
    Mortal,
    RetentionJobs,
    dying_at,
    found_by_police,
    readable,
    searched_by_police,
    stays_left,
    told,
    waits_or_is_done,
)
from tests.stack import DEPLOYMENT, Clock, Pools


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


# -- what is not forgotten ---------------------------------------------------------------------------------------------


async def test_nothing_is_forgotten_before_its_time(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, clock: Clock
) -> None:
    await house.guest(1)
    counts = await jobs.end_months(clock() + timedelta(days=PERIODS.stay_days))
    assert counts == {"ended": 0, "forgotten": 0, "kept": 0, "waiting": 0}
    assert await readable(await pools.database.connect(), keyring) == (3, 3)


async def test_what_is_open_or_held_is_kept_readable_searchable_and_in_use_and_all_else_is_gone(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
    clock: Clock,
    over: datetime,
    epoch: int,
) -> None:
    gone, open_stay, held = await house.guest(1), await house.guest(2, leaves=False), await house.guest(3)
    await house.hold(stay_id=held)
    pool = await pools.get("asm_retention")
    assert (await jobs.end_months(over))["kept"] == 2
    assert await stays_left(pools.database) == {open_stay, held}
    assert await readable(await pools.database.connect(), keyring) == (5, 5)
    assert {str(key.name) for key in store.read() if key.name.epoch == epoch} == {f"data/{epoch}/2", f"index/{epoch}/2"}
    assert await found_by_police(pools, keyring, 3, clock()) == [str(held)]
    assert await found_by_police(pools, keyring, 1, clock()) == []
    verified = await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)
    assert verified.faults == []
    connection = await pools.database.connect()
    assert await connection.fetchval("SELECT count(*) FROM source_refs WHERE stay_id = $1", gone) == 0
    assert await forgotten(await pools.database.connect("asm_sync"), [gone]) == {gone}
    # A stay that has not ended can still be ended.
    await house.act(ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, stay_id=open_stay)


async def test_a_mark_of_temporary_residence_is_kept_with_its_stay_and_goes_with_it(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime, epoch: int
) -> None:
    kept, gone = await house.guest(1, leaves=False), await house.guest(2)
    superuser = await pools.database.connect()
    names = {each: RecordName("temporary_residence", epoch, house.facility.id, each, 1, 1) for each in (kept, gone)}
    for each, name in names.items():
        await superuser.execute(
            "INSERT INTO temporary_residence VALUES ($1, $2, current_date, $3, now())",
            house.facility.id,
            each,
            keyring.seal(name, b"TT-1"),
        )
    await jobs.end_months(over)
    [row] = await superuser.fetch("SELECT stay_id, sealed FROM temporary_residence")
    assert (row["stay_id"], keyring.open(names[kept], row["sealed"]), row["sealed"][5]) == (kept, b"TT-1", 2)


async def test_a_mark_that_does_not_open_stops_its_month_and_alerts_and_no_other_month_waits(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime
) -> None:
    kept = await house.guest(1, leaves=False)
    superuser = await pools.database.connect()
    await superuser.execute(
        "INSERT INTO temporary_residence VALUES ($1, $2, current_date, '\\x00', now())", house.facility.id, kept
    )
    await house.guest(2)
    counts = await jobs.end_months(over)
    assert (counts["ended"], counts["waiting"]) == (1, 1)  # the month of the other keys ends
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=9)
    assert alert.kind is AlertKind.MONTH_NOT_ENDED


@pytest.mark.parametrize("of", ["a stay that is kept", "a stay that goes"])
async def test_a_mark_made_while_its_month_is_parted_is_sealed_under_the_key_that_stays_or_not_made(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
    over: datetime,
    of: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By another process, which has not noticed the new key yet."""
    kept, gone, superuser = await house.guest(1, leaves=False), await house.guest(2), await pools.database.connect()
    theirs, intake_pool = store.keyring(), await pools.get("asm_intake")
    grants = {house.facility.code: (house.facility, frozenset({Scope.DECLARE}))}
    principal = Principal(uuid7(), PrincipalKind.OWNER, "Lễ tân", "Khách sạn Mẫu", None, grants)
    wanted = StayTemporaryResidence(
        stay_id=kept if of == "a stay that is kept" else gone, registered_on=local_day(house.clock()), reference="TT-1"
    )
    end_month, marking = retention_store.end_month, []

    async def marked_meanwhile(connection: asyncpg.Connection, *place: Any, **limits: Any) -> Any:
        monkeypatch.setattr(retention_store, "end_month", end_month)
        marking.append(
            asyncio.create_task(long_stays.mark(intake_pool, theirs, principal, [(1, wanted)], house.clock()))
        )
        await waits_or_is_done(superuser, marking[0])
        return await end_month(connection, *place, **limits)

    monkeypatch.setattr(retention_store, "end_month", marked_meanwhile)
    await jobs.end_months(over)
    [mark] = await marking[0]
    rows = await superuser.fetch("SELECT sealed FROM temporary_residence")
    if of == "a stay that goes":
        assert (isinstance(mark, Refused) and mark.code, rows) == ("not_found", [])
        return
    [row] = rows
    assert store.keyring().open(mark_name(house.facility.id, kept), row["sealed"]) == b"TT-1"


async def test_every_table_that_holds_sealed_records_is_gone_through_at_the_end_of_a_month(database: Database) -> None:
    [function] = await (await database.connect()).fetch("SELECT prosrc FROM pg_proc WHERE proname = 'end_stay_month'")
    unnamed = {table for table in sealed.TABLES if table not in function["prosrc"]}
    # Endpoints outlive their month (while one is sealed under it, it waits), and messages are gone long before its end.
    assert unnamed == {"webhook_endpoints", "hl7_messages"}


async def test_what_a_lifted_hold_kept_is_forgotten_at_the_next_round_with_its_keys(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    hold = await house.hold(stay_id=held)
    await jobs.end_months(over)
    assert await house.lift(hold, over)
    assert not await house.lift(hold, over)
    assert (await jobs.end_months(over + timedelta(days=29)))["ended"] == 0
    assert (await jobs.end_months(over + timedelta(days=30)))["forgotten"] == 1
    assert await stays_left(pools.database) == set()
    assert [key for key in store.read() if key.name.epoch == epoch] == []
    actions = [body["action"] for body in await told(pools) if body["object"] == f"epoch/{epoch}"]
    assert actions == ["retention.begin", "retention.part", "retention.end"] * 2


async def test_a_hold_on_a_facility_and_a_time_keeps_whoever_was_there_then(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime, clock: Clock
) -> None:
    there = await house.guest(1)
    await house.hold(present_from=clock() - timedelta(hours=1), present_until=clock() + timedelta(hours=1))
    await jobs.end_months(over)
    assert await stays_left(pools.database) == {there}
    with pytest.raises(NotErasable, match="hold"):
        await jobs.erase(there, over)


async def test_a_forged_record_that_is_held_stops_the_end_of_its_month_and_alerts(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    await house.hold(stay_id=held)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE stays SET received_at = received_at - interval '1 day' WHERE id = $1", held)
    counts = await jobs.end_months(over)
    assert counts["waiting"] == 1
    assert len(await stays_left(pools.database)) == 2
    assert await readable(superuser, keyring) == (6, 6)
    found = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert [(alert.kind, alert.subject) for alert in found] == [(AlertKind.MONTH_NOT_ENDED, f"epoch/{epoch}")]


@pytest.mark.parametrize(
    "deed",
    [
        "UPDATE stays SET departed_at = departed_at - interval '1 day' WHERE id = $1",
        "UPDATE stays SET status = 'cancelled' WHERE id = $1",
        "UPDATE stays SET arrived_at = arrived_at - interval '1 year' WHERE id = $1",
        "WITH x AS (SELECT $1::uuid) INSERT INTO forgotten_receipts"
        " SELECT receipt_batch_id, to_char(now() AT TIME ZONE 'UTC', 'YYYYMM')::int, ARRAY[7] FROM stays LIMIT 1",
    ],
)
async def test_a_month_of_which_somebody_changed_what_decides_is_not_forgotten_and_nothing_of_it_erased(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime, epoch: int, deed: str
) -> None:
    stay = await house.guest(1)
    await house.guest(2)
    await (await pools.database.connect()).execute(deed, stay)
    with pytest.raises(NotErasable, match="not what was signed"):
        await jobs.erase(stay, over)
    assert (await jobs.end_months(over))["waiting"] == 1
    assert len(await stays_left(pools.database)) == 2
    found = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert [(alert.kind, alert.subject) for alert in found] == [(AlertKind.MONTH_NOT_ENDED, f"epoch/{epoch}")]


async def test_a_changed_record_is_erased_by_who_says_so_and_then_its_month_ends(
    house: House, jobs: RetentionJobs, pools: Pools, keyring: Keyring, over: datetime
) -> None:
    stay = await house.guest(1)
    await (await pools.database.connect()).execute("UPDATE stays SET departed_at = arrived_at WHERE id = $1", stay)
    pool = await pools.get("asm_retention")
    assert (await jobs.end_months(over))["waiting"] == 1
    await jobs.erase(stay, over, changed=True)
    assert (await jobs.end_months(over))["waiting"] == 0
    [erased] = [body for body in await told(pools) if body["action"] == "erasure.erase"]
    assert erased["details"]["as_signed"] == 0
    verified = await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)
    assert verified.faults == []


async def test_a_departure_that_is_changed_by_hand_right_before_the_month_is_locked_stops_it(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All was as signed when it was looked at first."""
    kept, _ = await house.guest(1, leaves=False), await house.guest(2)
    superuser, lock = await pools.database.connect(), retention_store.lock_month

    async def changed_before(connection: asyncpg.Connection, month: int) -> bool:
        await superuser.execute("UPDATE stays SET status = 'departed', departed_at = arrived_at WHERE id = $1", kept)
        return await lock(connection, month)

    monkeypatch.setattr(retention_store, "lock_month", changed_before)
    assert (await jobs.end_months(over))["forgotten"] == 0
    assert kept in await stays_left(pools.database)
    assert AlertKind.MONTH_NOT_ENDED in {
        alert.kind
        for alert in await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    }


async def test_a_hold_that_comes_when_its_month_has_no_keys_any_more_makes_that_month_wait_alone(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, over: datetime, epoch: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    stay, lock = await house.guest(1), retention_store.lock_month
    store.destroy_epoch(epoch, "by hand", over)

    async def held_before(connection: asyncpg.Connection, month: int) -> bool:
        monkeypatch.setattr(retention_store, "lock_month", lock)
        await house.hold(stay_id=stay)
        return await lock(connection, month)

    monkeypatch.setattr(retention_store, "lock_month", held_before)
    counts = await jobs.end_months(over)
    assert (counts["ended"], counts["waiting"]) == (1, 1)
    assert await stays_left(pools.database) == {stay}


async def test_a_month_that_takes_too_long_waits_and_alerts_and_so_does_one_that_is_not_what_we_wrote(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime, epoch: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.guest(1)
    superuser = await pools.database.connect()
    source = await superuser.fetchval("SELECT pg_get_functiondef('end_stay_month'::regproc)")
    await superuser.execute(source.replace("BEGIN", "BEGIN PERFORM pg_sleep(30);", 1))
    monkeypatch.setattr(retention, "PART_SECONDS", 0.2)
    assert (await jobs.end_months(over))["waiting"] == 2
    await superuser.execute(source)
    await superuser.execute(
        "UPDATE retention_epochs SET state = 'parted', kept = 0, counts = 'x' WHERE epoch = $1", epoch
    )
    monkeypatch.undo()
    counts = await jobs.end_months(over)
    assert (counts["ended"], counts["waiting"]) == (1, 1)
    found = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert {(alert.kind, alert.subject) for alert in found} >= {(AlertKind.MONTH_NOT_ENDED, f"epoch/{epoch}")}


async def test_a_month_that_the_database_fails_for_waits_and_alerts_and_no_other_month_waits_with_it(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime, epoch: int
) -> None:
    await house.guest(1)
    superuser = await pools.database.connect()
    await superuser.execute(
        "INSERT INTO retention_epochs (epoch, round, state, cutoff_at, index_version, begun_at, cutoffs)"
        " VALUES ($1, 1, 'begun', $2, 1, $2, 'no JSON')",
        epoch,
        over,
    )
    counts = await jobs.end_months(over)
    assert (counts["ended"], counts["waiting"]) == (1, 1)
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert (alert.kind, alert.subject) == (AlertKind.MONTH_NOT_ENDED, f"epoch/{epoch}")


async def test_a_search_tells_from_when_on_all_is_kept_by_what_was_forgotten_though_periods_are_longer_now(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, keyring: Keyring, short_over: datetime
) -> None:
    await house.guest(1)
    begins, latest = house.clock(), house.clock() + timedelta(days=PERIODS.stay_days)  # their search begins this month
    for instant in (short_over, latest):
        store.create_epoch(epoch_at(instant), instant)
    keyring.reload()
    pool, gone = await pools.get("asm_retention"), {FacilityKind.HOTEL_4_STAR: short_over - timedelta(days=366)}
    due = await retention._due(pool, epoch_at(begins), None, 1, SHORT, short_over)
    assert due is not None
    await retention._begin(pool, store, keyring, due)
    assert (await searched_by_police(pools, keyring, 1, short_over, kept_days=PERIODS)).forgotten_before == {}
    assert (await jobs.end_months(short_over, SHORT))["forgotten"] == 1
    for instant in (short_over, latest):
        found = await searched_by_police(pools, keyring, 1, instant, kept_days=PERIODS)
        assert (found.stays, found.forgotten_before) == ([], gone)


async def test_a_certificate_names_the_root_over_what_was_forgotten(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime
) -> None:
    await house.guest(1)
    await jobs.end_months(over)
    parted, ended = [body for body in await told(pools) if body["action"] in {"retention.part", "retention.end"}][:2]
    rows = await retention_store.forgotten_receipts(await pools.database.connect("asm_retention"))
    assert parted["details"]["forgotten_root"] == ended["details"]["forgotten_root"] == forgotten_root(rows)
    assert {str(row.audit_entry_id) for row in rows} == {parted["id"]}


async def test_re_encryption_leaves_a_month_alone_that_is_being_ended(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    await house.guest(1)
    pool = await pools.get("asm_retention")
    await retention._begin(pool, store, keyring, retention._next_round(epoch, None, 1, PERIODS, over))
    store.renew_epoch(epoch, over, after=1)
    keyring.reload()
    counts = await reencrypt_once(pool, keyring, lambda name: store.retire(name, over), over)
    assert counts == {"resealed": 0, "refused": 0, "retired": 0}


async def test_somebody_who_uses_the_month_makes_its_end_wait(
    house: House, jobs: RetentionJobs, pools: Pools, over: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.guest(1)
    monkeypatch.setattr(retention, "LOCK_SECONDS", 0.02)
    monkeypatch.setattr(retention, "LOCK_ATTEMPTS", 2)
    reader = await pools.database.connect("asm_police")
    async with reader.transaction():
        await reader.fetch("SELECT id FROM stays")
        counts = await jobs.end_months(over)
        assert counts["waiting"] >= 1
    counts = await jobs.end_months(over)
    assert (counts["forgotten"], counts["waiting"]) == (1, 0)


# -- kinds of facility with a period of their own ---------------------------------------------------------------------


async def sealed_stays(connection: asyncpg.Connection) -> list[StayRow]:
    return [StayRow(*row) for row in await connection.fetch(f"SELECT {', '.join(StayRow.__slots__)} FROM stays")]


async def receipt(connection: asyncpg.Connection, issuer: Issuer, keyring: Keyring, house: House, stay: UUID) -> Any:
    """The receipt of a stay's newest version, made again from what is stored."""
    [row] = [each for each in await sealed_stays(connection) if each.id == stay]
    [batch] = (await stays_store.read_batches(connection, [row.receipt_batch_id])).values()
    return issuer.receipt(house.facility, row, open_contents(keyring, row), batch)


async def test_nothing_of_a_kind_is_forgotten_because_another_kind_is_over(
    house: House, rental: House, jobs: RetentionJobs, pools: Pools, short_over: datetime, over: datetime
) -> None:
    long = replace(PERIODS, stay_days_by_kind={FacilityKind.HOTEL_4_STAR: 1827})
    hotel = await house.guest(1)
    kept = await rental.guest(2)
    assert (await jobs.end_months(short_over))["ended"] == 0
    counts = await jobs.end_months(short_over - timedelta(days=71), SHORT)
    assert counts["forgotten"] == 0  # the day before its own period is over
    assert await stays_left(pools.database) == {hotel, kept}
    await jobs.end_months(over, long)
    assert await stays_left(pools.database) == {hotel}


async def test_a_kind_with_a_short_period_is_forgotten_and_the_rest_of_its_month_is_as_before(
    house: House,
    rental: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
    issuer: Issuer,
    clock: Clock,
    short_over: datetime,
    over: datetime,
    epoch: int,
) -> None:
    gone, held, kept = await house.guest(1), await house.guest(2), await rental.guest(3)
    hold = await house.hold(stay_id=held)
    pool, connection = await pools.get("asm_retention"), await pools.database.connect()
    backup = await sealed_stays(connection)
    receipts = [await receipt(connection, issuer, keyring, *each) for each in ((house, held), (rental, kept))]
    counts = await jobs.end_months(short_over, SHORT)
    assert (counts["forgotten"], counts["kept"]) == (1, 2)
    assert await stays_left(pools.database) == {held, kept}
    for each in backup:
        with pytest.raises((Tampered, UnknownEpoch)):
            open_contents(keyring, each)
    assert [await receipt(connection, issuer, keyring, *each) for each in ((house, held), (rental, kept))] == receipts
    assert await found_by_police(pools, keyring, 3, clock()) == [str(kept)]
    assert await found_by_police(pools, keyring, 1, clock()) == []
    assert await connection.fetchval("SELECT count(*) FROM source_refs WHERE stay_id = $1", gone) == 0
    [end] = [
        each for each in await told(pools) if (each["action"], each["object"]) == ("retention.end", f"epoch/{epoch}")
    ]
    assert orjson.loads(end["details"]["cutoffs"])["hotel_4_star"] > end["details"]["cutoff"]
    assert (end["details"]["stays"], end["details"]["kept_held"], end["details"]["kept_recent"]) == (1, 1, 1)
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []
    # Said again it finds nothing to do; then the others have their turn, and the hold wins until it is lifted.
    for later in (timedelta(0), timedelta(days=200)):
        assert (await jobs.end_months(short_over + later, SHORT))["ended"] == 0
    assert (await jobs.end_months(over, SHORT))["forgotten"] == 1
    assert await stays_left(pools.database) == {held}
    await house.lift(hold, over)
    assert (await jobs.end_months(over + retention.ROUND, SHORT))["forgotten"] == 1
    assert [key for key in store.read() if key.name.epoch == epoch] == []


async def test_the_kind_counts_that_a_facility_has_when_its_month_is_gone_through(
    house: House, rental: House, jobs: RetentionJobs, pools: Pools, short_over: datetime
) -> None:
    hotel = await house.guest(1)
    await rental.guest(2)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE facilities SET kind = 'guesthouse' WHERE id = $1", house.facility.id)
    await superuser.execute("UPDATE facilities SET kind = 'hotel_4_star' WHERE id = $1", rental.facility.id)
    await jobs.end_months(short_over, SHORT)
    assert await stays_left(pools.database) == {hotel}


async def test_a_round_that_was_begun_goes_on_by_the_periods_it_began_with(
    house: House,
    rental: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    keyring: Keyring,
    short_over: datetime,
    epoch: int,
) -> None:
    """The audit said what was about to be done; settings that change meanwhile are for the next round."""
    await house.guest(1)
    kept, pool = await rental.guest(2), await pools.get("asm_retention")
    found = await retention._due(pool, epoch, None, 1, SHORT, short_over)
    assert found is not None
    await retention._begin(pool, store, keyring, found)
    shorter = replace(PERIODS, stay_days=366)
    assert (await jobs.end_months(short_over, shorter))["forgotten"] == 1
    assert await stays_left(pools.database) == {kept}


@pytest.mark.parametrize(
    ("last_round", "days", "may_begin"),
    [
        (None, 365, False),
        (None, 366, True),
        (366, 395, False),  # each round drops tables and destroys keys
        (366, 396, False),  # who left late waits, since all of the other kinds would be sealed anew for them
        (366, 457, True),
        (366, 1095, True),
        (1080, 1096, False),  # the turn of the others, too soon after the last round
        (1080, 1110, True),
        (1096, 1125, False),
        (1096, 1126, True),  # no other kind waits any more
    ],
)
def test_a_month_is_gone_through_once_for_each_period_and_seldom_in_between(
    epoch: int, last_round: int | None, days: int, may_begin: bool
) -> None:
    end = retention._end_of(epoch)
    at = end + timedelta(days=last_round or 0)
    before = retention_store.Round(epoch, 1, "final", at, 1, at, "{}", 7, "{}", at, at) if last_round else None
    assert retention._may_begin(epoch, before, SHORT, end + timedelta(days=days)) is may_begin


# -- what happens while a month is parted ------------------------------------------------------------------------------


async def test_what_changes_before_the_month_is_locked_is_kept_or_forgotten_as_it_is_then(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    keyring: Keyring,
    over: datetime,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Until then nobody waits: a kept stay is corrected, one gets a hold, another loses it, one is ended."""
    corrected, ended = await house.guest(1, leaves=False), await house.guest(2, leaves=False)
    freed, caught, same = await house.guest(3), await house.guest(4), await house.guest(5, leaves=False)
    pool, hold = await pools.get("asm_retention"), await house.hold(stay_id=freed)
    lock = retention_store.lock_month

    async def changed_before(connection: asyncpg.Connection, month: int) -> bool:
        monkeypatch.setattr(retention_store, "lock_month", lock)
        await house.act(ActKind.CORRECT, {"room": "406"}, source_ref="R-1")
        await house.act(ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, stay_id=ended)
        await house.lift(hold, over)
        await house.hold(stay_id=caught)
        return await lock(connection, month)

    monkeypatch.setattr(retention_store, "lock_month", changed_before)
    counts = await jobs.end_months(over)
    assert (counts["forgotten"], counts["kept"]) == (2, 3)
    assert await stays_left(pools.database) == {corrected, caught, same}
    connection = await pools.database.connect()
    assert await readable(connection, keyring) == (8, 8)
    [room] = [
        open_contents(keyring, each).declared["room"] for each in await sealed_stays(connection) if each.id == corrected
    ]
    assert room == "406"
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []
    for table in ("held_stays", "held_stay_versions"):
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0


@pytest.mark.parametrize("by", ["end_month", "forget_stay"])
@pytest.mark.parametrize("order", ["stay", "document"])
async def test_a_hold_that_comes_while_its_stay_is_being_forgotten_waits_and_counts_what_is_left(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    keyring: Keyring,
    store: KeyStore,
    over: datetime,
    monkeypatch: pytest.MonkeyPatch,
    by: str,
    order: str,
) -> None:
    stay, pool, auditors = await house.guest(1), await pools.get("asm_retention"), await pools.get("asm_audit")
    desk = Desk(pool, auditors, keyring, DEPLOYMENT, generate_auditor_keys().public_key, terms_required=True)
    superuser = await pools.database.connect()
    store.create_epoch(epoch_at(over), over)
    keyring.reload()

    async def place() -> int:
        if order == "document":
            number = DocumentNumber(document_number=person(1).document_number)
            warrant = document_holds.Order("15/2026/HS-PC02", "điều tra", "operator:test")
            return len((await document_holds.hold_document(desk, warrant, number, over)).stays)
        hold = Hold(uuid7(), house.facility.id, stay, None, None, "15/2026/HS-PC02", "điều tra", over, "operator:test")
        return await retention.place_hold(pool, keyring, hold)

    forget, placing = getattr(retention_store, by), []

    async def held_meanwhile(connection: asyncpg.Connection, *place_of: Any, **limits: Any) -> Any:
        monkeypatch.setattr(retention_store, by, forget)
        placing.append(asyncio.create_task(place()))
        await waits_or_is_done(superuser, placing[0])
        return await forget(connection, *place_of, **limits)

    monkeypatch.setattr(retention_store, by, held_meanwhile)
    if by == "end_month":
        await jobs.end_months(over)
    else:
        await jobs.erase(stay, over)
    assert await placing[0] == len(await stays_left(pools.database)) == 0


@pytest.mark.parametrize("rows", [1, 2])
async def test_what_is_kept_is_sealed_anew_in_pages(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    keyring: Keyring,
    over: datetime,
    rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(retention, "PAGE_ROWS", rows)
    kept = {await house.guest(index, leaves=False) for index in (1, 2, 3)}
    await house.guest(4)
    pool = await pools.get("asm_retention")
    await jobs.end_months(over)
    assert await stays_left(pools.database) == kept
    assert await readable(await pools.database.connect(), keyring) == (6, 6)
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []


# -- crashes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", ["renew_epoch", "destroy_epoch"])
async def test_a_crash_right_after_keys_were_made_or_destroyed_is_made_good_by_the_next_run(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, over: datetime, epoch: int, effect: str
) -> None:
    await house.guest(1)
    held = await house.guest(2)
    await house.hold(stay_id=held)
    for _ in range(3):  # and when it dies there every time
        with pytest.raises(Crashed):
            await replace(jobs, keys=dying_at(store, effect, after=True), keyring=store.keyring()).end_months(over)
        assert held in await stays_left(pools.database)
    await jobs.end_months(over)
    assert await stays_left(pools.database) == {held}
    assert await readable(await pools.database.connect(), store.keyring()) == (3, 3)
    assert {str(key.name) for key in store.read() if key.name.epoch == epoch} == {f"data/{epoch}/2", f"index/{epoch}/2"}


@pytest.mark.parametrize("kept_by", ["hold", "the period of its kind"])
async def test_a_crash_between_any_two_steps_is_made_good_by_the_next_run(
    house: House,
    rental: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    over: datetime,
    short_over: datetime,
    epoch: int,
    kept_by: str,
) -> None:
    """Dies at every single use of database and key store, each time on the state that the death before it left."""
    await house.guest(1)
    periods, at = (PERIODS, over) if kept_by == "hold" else (SHORT, short_over)
    kept = await (house if kept_by == "hold" else rental).guest(2)
    if kept_by == "hold":
        await house.hold(stay_id=kept)
    pool, deaths = await pools.get("asm_retention"), 0
    states = set()
    while True:
        fuse = [deaths + 1]
        mortal = replace(jobs, keys=Mortal(store, fuse), pool=Mortal(pool, fuse), keyring=store.keyring())
        try:
            await mortal.end_months(at, periods)
            break
        except Crashed:
            deaths += 1
        async with pool.acquire() as connection:
            states |= {(each.epoch, each.state) for each in await retention_store.rounds(connection)}
        opened, records = await readable(await pools.database.connect(), store.keyring())
        assert kept in await stays_left(pools.database)
        assert opened in (3, records)
    assert {(epoch, "begun"), (epoch, "parted"), (epoch, "ended")} <= states
    assert await stays_left(pools.database) == {kept}
    assert await readable(await pools.database.connect(), store.keyring()) == (3, 3)
    actions = Counter(body["action"] for body in await told(pools) if body["object"] == f"epoch/{epoch}")
    assert actions == {"retention.begin": 1, "retention.part": 1, "retention.end": 1}
    assert {str(key.name) for key in store.read() if key.name.epoch == epoch} == {f"data/{epoch}/2", f"index/{epoch}/2"}


@pytest.mark.parametrize("operator_renews", [False, True])
async def test_a_crash_at_any_file_operation_of_the_key_store_is_made_good_by_the_next_run(
    house: House,
    jobs: RetentionJobs,
    pools: Pools,
    store: KeyStore,
    over: datetime,
    epoch: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    operator_renews: bool,
) -> None:
    """Dies before every rename, link and removal in the key store; once with an operator who renews keys after it."""
    await house.guest(1)
    kept, deaths = await house.guest(2), 0
    await house.hold(stay_id=kept)
    fuse = [0]

    def mortal(use: Callable[..., Any]) -> Callable[..., Any]:
        def once(*arguments: Any, **members: Any) -> Any:
            fuse[0] -= 1
            if fuse[0] == 0:
                raise Crashed
            return use(*arguments, **members)

        return once

    while True:
        fuse[0] = deaths + 1
        with monkeypatch.context() as patched:
            for owner, name in ((Path, "replace"), (Path, "unlink"), (os, "link")):
                patched.setattr(owner, name, mortal(getattr(owner, name)))
            try:
                await replace(jobs, keyring=store.keyring()).end_months(over)
                break
            except Crashed:
                deaths += 1
        if operator_renews and deaths < 4:
            store.renew_epoch(epoch, over)
        opened, records = await readable(await pools.database.connect(), store.keyring())
        assert kept in await stays_left(pools.database)
        assert opened in (3, records)
    assert deaths > 5
    assert await stays_left(pools.database) == {kept}
    assert await readable(await pools.database.connect(), store.keyring()) == (3, 3)
    for path in (tmp_path / "keys").glob("keys*.json*"):
        assert f"data/{epoch}/1" not in orjson.loads(path.read_bytes())["keys"], path.name


# -- keys that are renewed meanwhile, and their backups ----------------------------------------------------------------


async def test_keys_renewed_between_parting_a_month_and_destroying_its_old_keys_lose_nothing_that_is_kept(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    await house.hold(stay_id=held)
    with pytest.raises(Crashed):
        await replace(jobs, keys=dying_at(store, "destroy_epoch")).end_months(over)
    store.renew_epoch(epoch, over)  # by the operator, or for an urgent erasure
    await jobs.end_months(over)
    left = {str(key.name) for key in store.read() if key.name.epoch == epoch}
    assert left == {f"{kind}/{epoch}/{version}" for kind in ("data", "index") for version in (2, 3)}
    keyring.reload()
    assert await readable(await pools.database.connect(), keyring) == (3, 3)
    assert await found_by_police(pools, keyring, 1, house.clock()) == [str(held)]


async def test_what_is_kept_of_a_month_whose_keys_are_being_renewed_gets_keys_of_its_own(
    house: House, jobs: RetentionJobs, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    await house.hold(stay_id=held)
    pool, auditors = await jobs.logins()
    found = await retention._due(pool, epoch, None, 1, PERIODS, over)
    assert found is not None
    store.renew_epoch(epoch, over)  # after the month was found due
    keyring.reload()
    await retention._end(pool, store, keyring, Holds(auditors, keyring), found, PERIODS, over)
    left = {str(key.name) for key in store.read() if key.name.epoch == epoch}
    assert left == {f"data/{epoch}/3", f"index/{epoch}/3"}
    assert await readable(await pools.database.connect(), keyring) == (3, 3)
    assert await found_by_police(pools, keyring, 1, house.clock()) == [str(held)]


def test_backups_of_the_key_store_are_removed_when_they_are_too_old_and_only_they(
    store: KeyStore, tmp_path: Path, clock: Clock
) -> None:
    folder = tmp_path / "backups"
    for days in (40, 30, 1):
        make_backup(tmp_path / "keys", folder, clock() - timedelta(days=days))
    (folder / "of-somebody-else").mkdir()
    assert expire_backups(folder, 30, clock()) == 2
    assert sorted(path.name[:8] for path in folder.iterdir()) == ["asm-keys", "of-someb"]
    assert not (list_backups(folder)[0][0] / "root.key").exists()


def test_the_bounds_of_a_month_are_what_its_end_is_reckoned_from() -> None:
    assert retention._end_of(202612).isoformat() == "2027-01-01T00:00:00+00:00"
    assert epoch_bounds(202612)[1] == epoch_bounds(202701)[0]
