"""Retention: what is forgotten is unreadable everywhere, what is held stays, and a certificate is final no sooner."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import asyncpg
import orjson
import pytest
from uuid_utils.compat import uuid7

from asm_daemon import document_holds, long_stays, police, retention
from asm_daemon.crypto import (
    IndexField,
    KeyPurpose,
    Keyring,
    RecordName,
    Tampered,
    UnknownEpoch,
    document_value,
    epoch_at,
    epoch_bounds,
    generate_auditor_keys,
    name_values,
    next_epoch,
)
from asm_daemon.intake import Intake
from asm_daemon.issuing import Issuer
from asm_daemon.key_backups import expire_backups, list_backups, make_backup
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Facility, Principal, PrincipalKind, Scope, StayRow
from asm_daemon.police import Desk
from asm_daemon.problems import Refused
from asm_daemon.resealing import SETTLE, reencrypt_once
from asm_daemon.retention import NotErasable, Periods, end_epochs_once, erase_stay, finish_once
from asm_daemon.rules import local_day
from asm_daemon.sealing import mark_name, open_contents
from asm_daemon.stay_proofs import forgotten_root, verify_stays
from asm_daemon.store import alerts, sealed
from asm_daemon.store import retention as retention_store
from asm_daemon.store import stays as stays_store
from asm_daemon.store.alerts import AlertKind
from asm_daemon.store.compare import forgotten
from asm_daemon.store.retention import Hold
from asm_daemon.told import watch_holds_once
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.long_stays import StayTemporaryResidence
from schemas.police import DocumentNumber, DocumentSearch
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

PERIODS = Periods(stay_days=1096, database_backup_days=35, key_backup_days=30)
SHORT = replace(PERIODS, stay_days_by_kind={FacilityKind.HOTEL_4_STAR: 366})


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    return create_store(tmp_path / "keys", [epoch_at(clock()), next_epoch(epoch_at(clock()))], clock())


@pytest.fixture
def keyring(store: KeyStore) -> Keyring:
    return store.keyring()


@pytest.fixture
def epoch(clock: Clock) -> int:
    return epoch_at(clock())


@pytest.fixture
def over(clock: Clock) -> datetime:
    """When the retention of this month's stays is over; the month after it has its turn too."""
    return clock() + timedelta(days=PERIODS.stay_days + 70)


@pytest.fixture
def short_over(clock: Clock) -> datetime:
    """When the retention of this month's stays is over for the kind that has a short one, and for no other."""
    return clock() + timedelta(days=366 + 70)


@dataclass
class House:
    """A facility whose guests come, and leave at once."""

    intake: Intake
    facility: Facility
    clock: Clock
    pools: Pools

    async def act(self, kind: ActKind, fields: dict[str, Any], **members: Any) -> UUID:
        [outcome] = await self.intake.submit([command(self.facility, kind, fields, self.clock, **members)])
        assert outcome.outcome == "accepted", outcome
        assert outcome.stay
        return outcome.stay.id

    async def guest(self, index: int, *, leaves: bool = True) -> UUID:
        """Declare a guest, correct the room, and check them out; return the stay."""
        stay_id = await self.act(ActKind.DECLARE, declaration(index, source_ref=f"R-{index}"))
        await self.act(ActKind.CORRECT, {"room": "305"}, source_ref=f"R-{index}")
        if leaves:
            await self.act(ActKind.CHECK_OUT, {"departed_at": self.clock().isoformat()}, stay_id=stay_id)
        superuser = await self.pools.database.connect()
        await superuser.execute("DELETE FROM sync_queue")  # as if it were carried
        return stay_id

    async def hold(self, **members: Any) -> UUID:
        given = {"stay_id": None, "present_from": None, "present_until": None, **members}
        hold = Hold(
            uuid7(), self.facility.id, warrant_ref="15/2026/HS-PC02", reason="điều tra", placed_at=self.clock(),
            placed_by="operator:test", **given,
        )  # fmt: skip
        assert await retention.place_hold(await self.pools.get("asm_retention"), hold) >= 1
        return hold.id


@pytest.fixture
async def house(intake: Intake, facility: Facility, clock: Clock, pools: Pools) -> House:
    return House(intake, facility, clock, pools)


@pytest.fixture
async def rental(intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools) -> House:
    """A house of a kind whose stays are kept for as long as most."""
    return House(intake, await make_facility("HY-NT-0001", FacilityKind.BOARDING_HOUSE), clock, pools)


async def stays_left(database: Database) -> set[UUID]:
    connection = await database.connect()
    return {row["id"] for row in await connection.fetch("SELECT id FROM stays")}


TAG_COLUMNS = "document_index, person_index, given_name_index"


def guesses(store: KeyStore, epoch: int, index: int) -> set[int]:
    """The tags that everything a key store holds makes of a synthetic person who is known to the guesser."""
    guest, keyring = person(index), store.keyring()
    values = (document_value(guest.document_number), *name_values(guest.full_name, guest.birth_date))
    fields = (IndexField.DOCUMENT, IndexField.PERSON, IndexField.GIVEN_NAME)
    asked = zip(fields, values, strict=True)
    return {tag for field, value in asked for tag in keyring.blind_indexes(epoch, field, value)}


async def told(pools: Pools) -> list[dict[str, Any]]:
    """What the audit says of retention, oldest first."""
    connection = await pools.database.connect("asm_audit")
    rows = await connection.fetch("SELECT body FROM audit_log ORDER BY position")
    rows += await connection.fetch("SELECT body FROM audit_pending ORDER BY arrival")
    bodies = [orjson.loads(row["body"]) for row in rows]
    return [body for body in bodies if body["action"].startswith(("retention.", "erasure.", "hold."))]


async def readable(connection: asyncpg.Connection, keyring: Keyring) -> tuple[int, int]:
    """(records that open, records) of a database, by everything that a key store holds."""
    columns = ", ".join(StayRow.__slots__)
    rows = await connection.fetch(f"SELECT {columns} FROM stays")
    rows += await connection.fetch(f"SELECT {columns.replace('id,', 'stay_id AS id,', 1)} FROM stay_versions")
    opened = 0
    for row in rows:
        try:
            open_contents(keyring, StayRow(*row))
            opened += 1
        except (Tampered, UnknownEpoch):
            pass
    return opened, len(rows)


async def found_by_police(pools: Pools, keyring: Keyring, index: int, now: datetime) -> list[str]:
    desk = Desk(await pools.get("asm_police"), await pools.get("asm_audit"), keyring, DEPLOYMENT, None)
    officer = Principal(uuid7(), PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC02 (mẫu)", None, {})
    question = DocumentSearch(
        document_number=person(index).document_number, purpose="criminal_investigation", case_ref="15/2026/HS-PC02"
    )
    return [found.stay_id for found in (await police.search(desk, officer, question, now)).stays]


# -- what is not forgotten ---------------------------------------------------------------------------------------------


async def test_nothing_is_forgotten_before_its_time(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    await house.guest(1)
    pool = await pools.get("asm_retention")
    counts = await end_epochs_once(pool, store, keyring, PERIODS, clock() + timedelta(days=PERIODS.stay_days))
    assert counts == {"ended": 0, "forgotten": 0, "kept": 0, "waiting": 0}
    assert await readable(await pools.database.connect(), keyring) == (3, 3)


async def test_what_is_open_or_held_is_kept_readable_searchable_and_in_use_and_all_else_is_gone(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, clock: Clock, over: datetime, epoch: int
) -> None:
    gone, open_stay, held = await house.guest(1), await house.guest(2, leaves=False), await house.guest(3)
    await house.hold(stay_id=held)
    pool = await pools.get("asm_retention")
    assert (await end_epochs_once(pool, store, keyring, PERIODS, over))["kept"] == 2
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
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
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
    await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
    [row] = await superuser.fetch("SELECT stay_id, sealed FROM temporary_residence")
    assert (row["stay_id"], keyring.open(names[kept], row["sealed"]), row["sealed"][5]) == (kept, b"TT-1", 2)


async def test_a_mark_that_does_not_open_stops_its_month_and_alerts_and_no_other_month_waits(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime
) -> None:
    kept = await house.guest(1, leaves=False)
    superuser = await pools.database.connect()
    await superuser.execute(
        "INSERT INTO temporary_residence VALUES ($1, $2, current_date, '\\x00', now())", house.facility.id, kept
    )
    await house.guest(2)
    counts = await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
    assert (counts["ended"], counts["waiting"]) == (1, 1)  # the month of the other keys ends
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=9)
    assert alert.kind is AlertKind.MONTH_NOT_ENDED


@pytest.mark.parametrize("of", ["a stay that is kept", "a stay that goes"])
async def test_a_mark_made_while_its_month_is_parted_is_sealed_under_the_key_that_stays_or_not_made(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, of: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """By another process, which has not noticed the new key yet."""
    kept, gone, superuser = await house.guest(1, leaves=False), await house.guest(2), await pools.database.connect()
    theirs, intake_pool = store.keyring(), await pools.get("asm_intake")
    grants = {house.facility.code: (house.facility, frozenset({Scope.DECLARE}))}
    principal = Principal(uuid7(), PrincipalKind.OWNER, "Lễ tân", "Khách sạn Mẫu", None, grants)
    wanted = StayTemporaryResidence(
        stay_id=kept if of == "a stay that is kept" else gone, registered_on=local_day(house.clock()), reference="TT-1"
    )
    end_month, marking = retention_store.end_month, []

    async def marked_meanwhile(connection: asyncpg.Connection, *place: Any) -> Any:
        monkeypatch.setattr(retention_store, "end_month", end_month)
        marking.append(
            asyncio.create_task(long_stays.mark(intake_pool, theirs, principal, [(1, wanted)], house.clock()))
        )
        await waits_or_is_done(superuser, marking[0])
        return await end_month(connection, *place)

    monkeypatch.setattr(retention_store, "end_month", marked_meanwhile)
    await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
    [mark] = await marking[0]
    rows = await superuser.fetch("SELECT sealed FROM temporary_residence")
    if of == "a stay that goes":
        assert (isinstance(mark, Refused) and mark.code, rows) == ("not_found", [])
        return
    [row] = rows
    assert store.keyring().open(mark_name(house.facility.id, kept), row["sealed"]) == b"TT-1"


async def waits_or_is_done(superuser: asyncpg.Connection, task: asyncio.Task[Any]) -> None:
    """Until a task is done, or some statement waits for the lock of a table."""
    async with asyncio.timeout(10):
        while not task.done():
            if await superuser.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"):
                return
            await asyncio.sleep(0.01)


async def test_every_table_that_holds_sealed_records_is_gone_through_at_the_end_of_a_month(database: Database) -> None:
    [function] = await (await database.connect()).fetch("SELECT prosrc FROM pg_proc WHERE proname = 'end_stay_month'")
    unnamed = {table for table in sealed.TABLES if table not in function["prosrc"]}
    assert unnamed == {"webhook_endpoints"}  # they outlive their month: while one is sealed under it, it waits


async def test_what_a_lifted_hold_kept_is_forgotten_at_the_next_round_with_its_keys(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int, clock: Clock
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    hold = await house.hold(stay_id=held)
    pool = await pools.get("asm_retention")
    await end_epochs_once(pool, store, keyring, PERIODS, over)
    assert await retention.lift_hold(pool, hold, "hết thời hạn", "operator:test", over)
    assert not await retention.lift_hold(pool, hold, "hết thời hạn", "operator:test", over)
    assert (await end_epochs_once(pool, store, keyring, PERIODS, over + timedelta(days=29)))["ended"] == 0
    assert (await end_epochs_once(pool, store, keyring, PERIODS, over + timedelta(days=30)))["forgotten"] == 1
    assert await stays_left(pools.database) == set()
    assert [key for key in store.read() if key.name.epoch == epoch] == []
    actions = [body["action"] for body in await told(pools) if body["object"] == f"epoch/{epoch}"]
    assert actions == ["retention.begin", "retention.part", "retention.end"] * 2


async def test_a_hold_on_a_facility_and_a_time_keeps_whoever_was_there_then(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, clock: Clock
) -> None:
    there = await house.guest(1)
    await house.hold(present_from=clock() - timedelta(hours=1), present_until=clock() + timedelta(hours=1))
    pool = await pools.get("asm_retention")
    await end_epochs_once(pool, store, keyring, PERIODS, over)
    assert await stays_left(pools.database) == {there}
    with pytest.raises(NotErasable, match="hold"):
        await erase_stay(pool, store, there, "yêu cầu", "operator:test", PERIODS, over, urgent=False)


async def test_a_forged_record_that_is_held_stops_the_end_of_its_month_and_alerts(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    await house.hold(stay_id=held)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE stays SET received_at = received_at - interval '1 day' WHERE id = $1", held)
    counts = await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
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
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int, deed: str
) -> None:
    stay = await house.guest(1)
    await house.guest(2)
    await (await pools.database.connect()).execute(deed, stay)
    pool = await pools.get("asm_retention")
    with pytest.raises(NotErasable, match="not what was signed"):
        await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, over, urgent=False)
    assert (await end_epochs_once(pool, store, keyring, PERIODS, over))["waiting"] == 1
    assert len(await stays_left(pools.database)) == 2
    found = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert [(alert.kind, alert.subject) for alert in found] == [(AlertKind.MONTH_NOT_ENDED, f"epoch/{epoch}")]


async def test_a_changed_record_is_erased_by_who_says_so_and_then_its_month_ends(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime
) -> None:
    stay = await house.guest(1)
    await (await pools.database.connect()).execute("UPDATE stays SET departed_at = arrived_at WHERE id = $1", stay)
    pool = await pools.get("asm_retention")
    assert (await end_epochs_once(pool, store, keyring, PERIODS, over))["waiting"] == 1
    await erase_stay(pool, store, stay, "biên bản 3", "operator:test", PERIODS, over, urgent=False, changed=True)
    assert (await end_epochs_once(pool, store, keyring, PERIODS, over))["waiting"] == 0
    [erased] = [body for body in await told(pools) if body["action"] == "erasure.erase"]
    assert erased["details"]["as_signed"] == 0
    verified = await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)
    assert verified.faults == []


@pytest.mark.parametrize(
    "deed",
    [
        "DELETE FROM legal_holds",
        "UPDATE legal_holds SET lifted_at = now(), lifted_by = 'operator:test', lifted_reason = 'hết thời hạn'",
        "UPDATE legal_holds SET stay_id = gen_random_uuid()",
    ],
)
async def test_holds_that_are_not_what_the_audit_tells_are_counted_and_alerted(
    house: House, pools: Pools, clock: Clock, deed: str
) -> None:
    lifted = await house.hold(stay_id=await house.guest(1))
    await house.hold(stay_id=await house.guest(2))
    pool, auditors = await pools.get("asm_retention"), await pools.get("asm_audit")
    assert await retention.lift_hold(pool, lifted, "hết thời hạn", "operator:test", clock())
    assert await watch_holds_once(pool, auditors, clock()) == 0
    await (await pools.database.connect()).execute(deed)
    assert await watch_holds_once(pool, auditors, clock()) > 0
    [alert] = await alerts.list_alerts(await pools.database.connect("asm_sync"), closed=False, limit=10)
    assert alert.kind is AlertKind.HOLDS_CHANGED


async def test_a_certificate_names_the_root_over_what_was_forgotten(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    await house.guest(1)
    await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
    parted, ended = [body for body in await told(pools) if body["action"] in {"retention.part", "retention.end"}][:2]
    rows = await retention_store.forgotten_receipts(await pools.database.connect("asm_retention"))
    assert parted["details"]["forgotten_root"] == ended["details"]["forgotten_root"] == forgotten_root(rows)
    assert {str(row.audit_entry_id) for row in rows} == {parted["id"]}


async def test_re_encryption_leaves_a_month_alone_that_is_being_ended(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    await house.guest(1)
    pool = await pools.get("asm_retention")
    found = retention_store.Round(epoch, 1, "new", over, 1, over, None, None, None, None)
    await retention._begin(pool, store, found)
    store.renew_epoch(epoch, over, after=1)
    keyring.reload()
    counts = await reencrypt_once(pool, keyring, lambda name: store.retire(name, over), over)
    assert counts == {"resealed": 0, "refused": 0, "retired": 0}


async def test_somebody_who_uses_the_month_makes_its_end_wait(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    await house.guest(1)
    monkeypatch.setattr(retention, "LOCK_MILLISECONDS", 20)
    monkeypatch.setattr(retention, "LOCK_ATTEMPTS", 2)
    reader = await pools.database.connect("asm_police")
    async with reader.transaction():
        await reader.fetch("SELECT id FROM stays")
        counts = await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
        assert counts["waiting"] >= 1
    counts = await end_epochs_once(await pools.get("asm_retention"), store, keyring, PERIODS, over)
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
    house: House, rental: House, pools: Pools, store: KeyStore, keyring: Keyring, short_over: datetime, over: datetime
) -> None:
    long = replace(PERIODS, stay_days_by_kind={FacilityKind.HOTEL_4_STAR: 1827})
    hotel, pool = await house.guest(1), await pools.get("asm_retention")
    kept = await rental.guest(2)
    assert (await end_epochs_once(pool, store, keyring, PERIODS, short_over))["ended"] == 0
    counts = await end_epochs_once(pool, store, keyring, SHORT, short_over - timedelta(days=71))
    assert counts["forgotten"] == 0  # the day before its own period is over
    assert await stays_left(pools.database) == {hotel, kept}
    await end_epochs_once(pool, store, keyring, long, over)
    assert await stays_left(pools.database) == {hotel}


async def test_a_kind_with_a_short_period_is_forgotten_and_the_rest_of_its_month_is_as_before(
    house: House, rental: House, pools: Pools, store: KeyStore, keyring: Keyring, issuer: Issuer, clock: Clock,
    short_over: datetime, over: datetime, epoch: int,
) -> None:  # fmt: skip
    gone, held, kept = await house.guest(1), await house.guest(2), await rental.guest(3)
    hold = await house.hold(stay_id=held)
    pool, connection = await pools.get("asm_retention"), await pools.database.connect()
    backup = await sealed_stays(connection)
    receipts = [await receipt(connection, issuer, keyring, *each) for each in ((house, held), (rental, kept))]
    counts = await end_epochs_once(pool, store, keyring, SHORT, short_over)
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
        assert (await end_epochs_once(pool, store, keyring, SHORT, short_over + later))["ended"] == 0
    assert (await end_epochs_once(pool, store, keyring, SHORT, over))["forgotten"] == 1
    assert await stays_left(pools.database) == {held}
    await retention.lift_hold(pool, hold, "hết thời hạn", "operator:test", over)
    assert (await end_epochs_once(pool, store, keyring, SHORT, over + retention.ROUND))["forgotten"] == 1
    assert [key for key in store.read() if key.name.epoch == epoch] == []


async def test_the_kind_counts_that_a_facility_has_when_its_month_is_gone_through(
    house: House, rental: House, pools: Pools, store: KeyStore, keyring: Keyring, short_over: datetime
) -> None:
    hotel = await house.guest(1)
    await rental.guest(2)
    superuser = await pools.database.connect()
    await superuser.execute("UPDATE facilities SET kind = 'guesthouse' WHERE id = $1", house.facility.id)
    await superuser.execute("UPDATE facilities SET kind = 'hotel_4_star' WHERE id = $1", rental.facility.id)
    await end_epochs_once(await pools.get("asm_retention"), store, keyring, SHORT, short_over)
    assert await stays_left(pools.database) == {hotel}


async def test_a_round_that_was_begun_goes_on_by_the_periods_it_began_with(
    house: House, rental: House, pools: Pools, store: KeyStore, keyring: Keyring, short_over: datetime, epoch: int
) -> None:
    """The audit said what was about to be done; settings that change meanwhile are for the next round."""
    await house.guest(1)
    kept, pool = await rental.guest(2), await pools.get("asm_retention")
    [found, *_] = await retention._due(pool, store, SHORT, short_over)
    assert found.epoch == epoch
    await retention._begin(pool, store, found)
    shorter = replace(PERIODS, stay_days=366)
    assert (await end_epochs_once(pool, store, keyring, shorter, short_over))["forgotten"] == 1
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
    before = retention_store.Round(epoch, 1, "final", at, 1, at, 7, "{}", at, at) if last_round else None
    assert retention._may_begin(epoch, before, SHORT, end + timedelta(days=days)) is may_begin


# -- what happens while a month is parted ------------------------------------------------------------------------------


async def test_what_changes_before_the_month_is_locked_is_kept_or_forgotten_as_it_is_then(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Until then nobody waits: a kept stay is corrected, one gets a hold, another loses it, one is ended."""
    corrected, ended = await house.guest(1, leaves=False), await house.guest(2, leaves=False)
    freed, caught, same = await house.guest(3), await house.guest(4), await house.guest(5, leaves=False)
    pool, hold = await pools.get("asm_retention"), await house.hold(stay_id=freed)
    lock = retention_store.lock_month

    async def changed_before(connection: asyncpg.Connection, month: int) -> bool:
        monkeypatch.setattr(retention_store, "lock_month", lock)
        await house.act(ActKind.CORRECT, {"room": "406"}, source_ref="R-1")
        await house.act(ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, stay_id=ended)
        await retention.lift_hold(pool, hold, "hết thời hạn", "operator:test", over)
        await house.hold(stay_id=caught)
        return await lock(connection, month)

    monkeypatch.setattr(retention_store, "lock_month", changed_before)
    counts = await end_epochs_once(pool, store, keyring, PERIODS, over)
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
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, monkeypatch: pytest.MonkeyPatch,
    by: str, order: str,
) -> None:  # fmt: skip
    stay, pool, auditors = await house.guest(1), await pools.get("asm_retention"), await pools.get("asm_audit")
    desk = Desk(pool, auditors, keyring, DEPLOYMENT, generate_auditor_keys().public_key, terms_required=True)
    superuser = await pools.database.connect()

    async def place() -> int:
        if order == "document":
            number = DocumentNumber(document_number=person(1).document_number)
            warrant = document_holds.Order("15/2026/HS-PC02", "điều tra", "operator:test")
            return len((await document_holds.hold_document(desk, warrant, number, house.clock())).stays)
        hold = Hold(uuid7(), house.facility.id, stay, None, None, "15/2026/HS-PC02", "điều tra", over, "operator:test")
        return await retention.place_hold(pool, hold)

    forget, placing = getattr(retention_store, by), []

    async def held_meanwhile(connection: asyncpg.Connection, *place_of: Any) -> Any:
        monkeypatch.setattr(retention_store, by, forget)
        placing.append(asyncio.create_task(place()))
        await waits_or_is_done(superuser, placing[0])
        return await forget(connection, *place_of)

    monkeypatch.setattr(retention_store, by, held_meanwhile)
    if by == "end_month":
        await end_epochs_once(pool, store, keyring, PERIODS, over)
    else:
        await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, over, urgent=False)
    assert await placing[0] == len(await stays_left(pools.database)) == 0


@pytest.mark.parametrize("rows", [1, 2])
async def test_what_is_kept_is_sealed_anew_in_pages(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, rows: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(retention, "PAGE_ROWS", rows)
    kept = {await house.guest(index, leaves=False) for index in (1, 2, 3)}
    await house.guest(4)
    pool = await pools.get("asm_retention")
    await end_epochs_once(pool, store, keyring, PERIODS, over)
    assert await stays_left(pools.database) == kept
    assert await readable(await pools.database.connect(), keyring) == (6, 6)
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []


# -- crashes -----------------------------------------------------------------------------------------------------------


class Crashed(Exception):
    """The process died here."""


class Mortal:
    """A pool or a key store of a process that dies at its n-th use of either, before it or after it."""

    def __init__(self, inner: Any, fuse: list[int]) -> None:
        self._inner, self._fuse = inner, fuse

    def _burn(self) -> None:
        self._fuse[0] -= 1
        if self._fuse[0] == 0:
            raise Crashed

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[Any]:
        self._burn()
        async with self._inner.acquire() as connection:
            yield connection
        self._burn()

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def use(*arguments: Any, **members: Any) -> Any:
            self._burn()
            result = getattr(self._inner, name)(*arguments, **members)
            self._burn()
            return result

        return use


@pytest.mark.parametrize("effect", ["renew_epoch", "destroy_epoch"])
async def test_a_crash_right_after_keys_were_made_or_destroyed_is_made_good_by_the_next_run(
    house: House, pools: Pools, store: KeyStore, over: datetime, epoch: int, effect: str
) -> None:
    await house.guest(1)
    held = await house.guest(2)
    await house.hold(stay_id=held)
    pool, fuse = await pools.get("asm_retention"), [0]
    mortal = Mortal(store, fuse)

    def die_after(*arguments: Any, **members: Any) -> None:
        getattr(store, effect)(*arguments, **members)
        raise Crashed

    setattr(mortal, effect, die_after)
    for _ in range(3):  # and when it dies there every time
        with pytest.raises(Crashed):
            await end_epochs_once(pool, mortal, store.keyring(), PERIODS, over)  # type: ignore[arg-type]
        assert held in await stays_left(pools.database)
    await end_epochs_once(pool, store, store.keyring(), PERIODS, over)
    assert await stays_left(pools.database) == {held}
    assert await readable(await pools.database.connect(), store.keyring()) == (3, 3)
    assert {str(key.name) for key in store.read() if key.name.epoch == epoch} == {f"data/{epoch}/2", f"index/{epoch}/2"}


@pytest.mark.parametrize("kept_by", ["hold", "the period of its kind"])
async def test_a_crash_between_any_two_steps_is_made_good_by_the_next_run(
    house: House, rental: House, pools: Pools, store: KeyStore, over: datetime, short_over: datetime, epoch: int,
    kept_by: str,
) -> None:  # fmt: skip
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
        mortal_pool: Any = Mortal(pool, fuse)
        mortal_store: Any = Mortal(store, fuse)
        try:
            await end_epochs_once(mortal_pool, mortal_store, store.keyring(), periods, at)
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
    house: House, pools: Pools, store: KeyStore, over: datetime, epoch: int, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, operator_renews: bool,
) -> None:  # fmt: skip
    """Dies before every rename, link and removal in the key store; once with an operator who renews keys after it."""
    await house.guest(1)
    kept, pool, deaths = await house.guest(2), await pools.get("asm_retention"), 0
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
                await end_epochs_once(pool, store, store.keyring(), PERIODS, over)
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


# -- erasure of single stays -------------------------------------------------------------------------------------------


async def test_a_stay_that_has_not_ended_or_is_not_carried_is_not_erased(
    house: House, pools: Pools, store: KeyStore, clock: Clock
) -> None:
    stay, pool = await house.guest(1, leaves=False), await pools.get("asm_retention")
    with pytest.raises(NotErasable, match="has not ended"):
        await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, clock(), urgent=False)
    await house.act(ActKind.CHECK_OUT, {"departed_at": clock().isoformat()}, stay_id=stay)
    with pytest.raises(NotErasable, match="on its way"):
        await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, clock(), urgent=False)
    with pytest.raises(NotErasable, match="no such stay"):
        await erase_stay(pool, store, uuid7(), "yêu cầu", "operator:test", PERIODS, clock(), urgent=False)
    assert await stays_left(pools.database) == {stay}


async def test_an_erased_stay_is_gone_with_all_that_names_it_and_final_when_the_last_backup_is(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, clock: Clock
) -> None:
    stay, other = await house.guest(1), await house.guest(2)
    pool = await pools.get("asm_retention")
    erasure = await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, clock(), urgent=False)
    assert await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, clock(), urgent=False) == erasure
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
    assert (await finish_once(pool, store, PERIODS, None, clock() + timedelta(days=34)))["final"] == 0
    assert (await finish_once(pool, store, PERIODS, None, clock() + timedelta(days=35)))["final"] == 1
    assert [body["action"] for body in await told(pools)] == ["erasure.erase", "erasure.final"]


async def reencrypt_until_retired(pool: asyncpg.Pool, store: KeyStore, now: datetime) -> bool:
    """Seal everything under the newest keys, until the old ones are gone; whether they are."""
    for run in range(4):
        keyring, at = store.keyring(), now + run * SETTLE
        await reencrypt_once(pool, keyring, lambda name: store.retire(name, at), at)  # noqa: B023
    return not store.keyring().superseded()


async def test_an_urgent_erasure_makes_the_stay_unreadable_in_every_database_backup(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, clock: Clock, epoch: int, tmp_path: Path
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
    erasure = await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, now, urgent=True)
    assert (erasure.key_version, erasure.final_at) == (1, now + timedelta(days=PERIODS.database_backup_days))
    open_contents(keyring, backed_up)  # not yet: the month has to be sealed anew first
    assert (await finish_once(pool, store, PERIODS, [], now))["waiting"] == 1
    for _ in range(4):
        keyring.reload()
        await reencrypt_once(pool, keyring, lambda name: store.retire(name, now), now)  # noqa: B023
        now += SETTLE
    assert {
        str(key.name) for key in store.read() if key.name.purpose is KeyPurpose.DATA and key.name.epoch == epoch
    } == {f"data/{epoch}/2"}
    keyring.reload()
    with pytest.raises(Tampered):
        open_contents(keyring, backed_up)
    assert not tags & guesses(store, epoch, 1)  # nor does what identifies the guest find the tags in the backup
    assert all(f"{epoch}/1" not in path.read_text() for path in (tmp_path / "keys").glob("keys*.json"))
    assert await readable(connection, keyring) == (12, 12)
    assert (await finish_once(pool, store, PERIODS, [], now))["keys_gone"] == 1
    assert (await finish_once(pool, store, PERIODS, [now], now + timedelta(days=29)))["final"] == 0
    assert (await finish_once(pool, store, PERIODS, [now + timedelta(1)], now + timedelta(days=30)))["final"] == 1
    certified = [body["details"]["keys"] for body in await told(pools) if body["action"] == "erasure.keys_gone"]
    assert certified == [[f"data/{epoch}/1", f"index/{epoch}/1"]]
    assert (await verify_stays(pool, await pools.get("asm_audit"), keyring, [], sample=None)).faults == []


async def test_an_urgent_erasure_is_not_final_while_a_backup_from_before_its_keys_went_is_known_whatever_the_settings(
    house: House, pools: Pools, store: KeyStore, clock: Clock, epoch: int
) -> None:
    stay, pool, now = await house.guest(1), await pools.get("asm_retention"), clock()
    shorter, longer = replace(PERIODS, key_backup_days=7), replace(PERIODS, key_backup_days=34)
    normal = await erase_stay(pool, store, stay, "yêu cầu", "operator:test", shorter, now, urgent=False)
    urgent = await erase_stay(pool, store, stay, "yêu cầu", "operator:test", shorter, now, urgent=True)
    assert urgent.final_at == normal.final_at  # sooner only once the keys are gone
    assert await reencrypt_until_retired(pool, store, now)
    made = now - timedelta(hours=1)
    gone = now + timedelta(hours=1)
    assert (await finish_once(pool, store, shorter, [made], gone))["keys_gone"] == 1
    due = gone + timedelta(days=7)
    assert (await finish_once(pool, store, longer, [made], due))["waiting"] == 1
    assert (await finish_once(pool, store, longer, [], due))["final"] == 1


async def test_an_urgent_erasure_is_final_with_the_last_database_backup_though_its_keys_stay(
    house: House, pools: Pools, store: KeyStore, clock: Clock
) -> None:
    stay, pool, now = await house.guest(1), await pools.get("asm_retention"), clock()
    erasure = await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, now, urgent=True)
    assert (await finish_once(pool, store, PERIODS, [], erasure.final_at - timedelta(seconds=1)))["waiting"] == 1
    assert (await finish_once(pool, store, PERIODS, [], erasure.final_at))["final"] == 1


async def test_a_crash_before_the_new_key_of_an_urgent_erasure_is_made_good_by_the_job(
    house: House, pools: Pools, store: KeyStore, clock: Clock, epoch: int
) -> None:
    stay, pool = await house.guest(1), await pools.get("asm_retention")
    fuse = [0]
    mortal = Mortal(store, fuse)

    def die(*_: Any, **__: Any) -> None:
        raise Crashed

    mortal.renew_epoch = die  # type: ignore[attr-defined]
    with pytest.raises(Crashed):
        await erase_stay(pool, mortal, stay, "yêu cầu", "operator:test", PERIODS, clock(), urgent=True)  # type: ignore[arg-type]
    await finish_once(pool, store, PERIODS, None, clock())
    assert f"data/{epoch}/2" in {str(key.name) for key in store.read()}


async def test_an_urgent_erasure_ends_with_its_month_when_all_keys_of_that_are_destroyed(
    house: House, pools: Pools, store: KeyStore, clock: Clock, epoch: int
) -> None:
    stay, pool = await house.guest(1), await pools.get("asm_retention")
    await erase_stay(pool, store, stay, "yêu cầu", "operator:test", PERIODS, clock(), urgent=True)
    store.destroy_epoch(epoch, "test", clock())
    assert (await finish_once(pool, store, PERIODS, None, clock()))["keys_gone"] == 1


async def test_keys_renewed_between_parting_a_month_and_destroying_its_old_keys_lose_nothing_that_is_kept(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    await house.hold(stay_id=held)
    pool = await pools.get("asm_retention")
    mortal = Mortal(store, [0])

    def die(*_: Any, **__: Any) -> None:
        raise Crashed

    mortal.destroy_epoch = die  # type: ignore[attr-defined]
    with pytest.raises(Crashed):
        await end_epochs_once(pool, mortal, keyring, PERIODS, over)  # type: ignore[arg-type]
    store.renew_epoch(epoch, over)  # by the operator, or for an urgent erasure
    await end_epochs_once(pool, store, keyring, PERIODS, over)
    left = {str(key.name) for key in store.read() if key.name.epoch == epoch}
    assert left == {f"{kind}/{epoch}/{version}" for kind in ("data", "index") for version in (2, 3)}
    keyring.reload()
    assert await readable(await pools.database.connect(), keyring) == (3, 3)
    assert await found_by_police(pools, keyring, 1, house.clock()) == [str(held)]


async def test_what_is_kept_of_a_month_whose_keys_are_being_renewed_gets_keys_of_its_own(
    house: House, pools: Pools, store: KeyStore, keyring: Keyring, over: datetime, epoch: int
) -> None:
    held = await house.guest(1)
    await house.guest(2)
    await house.hold(stay_id=held)
    pool = await pools.get("asm_retention")
    [found, *_] = await retention._due(pool, store, PERIODS, over)
    store.renew_epoch(epoch, over)  # after the month was found due
    keyring.reload()
    await retention._end(pool, store, keyring, found, PERIODS, over)
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
