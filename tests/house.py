"""A house with guests who come and leave, the jobs that end months and erase, and what is left to read afterwards."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
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

from asm_daemon import police, retention
from asm_daemon.certificates import finish_once
from asm_daemon.crypto import Keyring, Tampered, UnknownEpoch, epoch_at, next_epoch
from asm_daemon.erasing import Request, erase_stay
from asm_daemon.intake import Intake
from asm_daemon.keystores import KeyStore, create_store
from asm_daemon.model import Facility, Principal, PrincipalKind, StayRow
from asm_daemon.police import Desk
from asm_daemon.resealing import SETTLE, reencrypt_once
from asm_daemon.retention import Periods, end_epochs_once
from asm_daemon.sealing import open_contents
from asm_daemon.store.retention import Erasure, Hold
from schemas.act import ActKind
from schemas.codes import FacilityKind
from schemas.police import DocumentSearch, SearchResult
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import DEPLOYMENT, Clock, FacilityMaker, Pools, command, declaration

PERIODS = Periods(stay_days=1096, database_backup_days=35, key_backup_days=30)
SHORT = replace(PERIODS, stay_days_by_kind={FacilityKind.HOTEL_4_STAR: 366})
BY, WARRANT = "operator:test", "15/2026/HS-PC02"


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> KeyStore:
    """A key store of this test's own; its keyring is `keyring` where a module says so."""
    return create_store(tmp_path / "keys", [epoch_at(clock()), next_epoch(epoch_at(clock()))], clock())


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
    keyring: Keyring

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
        """Place a hold on `stay_id`, or on who was here from `present_from` to `present_until`."""
        given = {"stay_id": None, "present_from": None, "present_until": None, **members}
        hold = Hold(
            uuid7(), self.facility.id, warrant_ref=WARRANT, reason="điều tra", placed_at=self.clock(), placed_by=BY,
            **given,
        )  # fmt: skip
        assert await retention.place_hold(await self.pools.get("asm_retention"), self.keyring, hold) >= 1
        return hold.id

    async def lift(self, hold_id: UUID, now: datetime) -> bool:
        """Lift a hold; whether it was in force."""
        pool = await self.pools.get("asm_retention")
        return await retention.lift_hold(pool, self.keyring, hold_id, "hết thời hạn", BY, now)


@pytest.fixture
async def house(intake: Intake, facility: Facility, clock: Clock, pools: Pools, keyring: Keyring) -> House:
    return House(intake, facility, clock, pools, keyring)


@pytest.fixture
async def rental(intake: Intake, make_facility: FacilityMaker, clock: Clock, pools: Pools, keyring: Keyring) -> House:
    """A house of a kind whose stays are kept for as long as most."""
    return House(intake, await make_facility("HY-NT-0001", FacilityKind.BOARDING_HOUSE), clock, pools, keyring)


@dataclass(frozen=True)
class RetentionJobs:
    """What the daemon and the command line do in the end with stays. `keys` or `pool` may stand in for the real one."""

    pools: Pools
    keyring: Keyring
    keys: Any
    pool: Any = None

    async def end_months(self, now: datetime, periods: Periods = PERIODS) -> dict[str, int]:
        """End the months whose time has come."""
        pool, auditors = await self.logins()
        return await end_epochs_once(pool, auditors, self.keys, self.keyring, periods, now)

    async def erase(
        self, stay_id: UUID, now: datetime, periods: Periods = PERIODS, *, urgent: bool = False, changed: bool = False
    ) -> Erasure:
        """Erase a stay."""
        request = Request(stay_id, "yêu cầu", BY, urgent, changed)
        return await erase_stay(*await self.logins(), self.keys, request, periods, now)

    async def certify(
        self, now: datetime, backups: Sequence[datetime] | None = None, periods: Periods = PERIODS
    ) -> dict[str, int]:
        """Make certificates final whose day has come."""
        pool, _ = await self.logins()
        return await finish_once(pool, self.keys, self.keyring, periods, backups, now)

    async def logins(self) -> tuple[asyncpg.Pool, asyncpg.Pool]:
        """The pools of asm_retention and asm_audit."""
        return self.pool or await self.pools.get("asm_retention"), await self.pools.get("asm_audit")


@pytest.fixture
def jobs(pools: Pools, keyring: Keyring, store: KeyStore) -> RetentionJobs:
    return RetentionJobs(pools, keyring, store)


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


def dying_at(keys: KeyStore, name: str, *, after: bool = False) -> Any:
    """A key store of a process that dies whenever it is about to use this method, or right after it."""
    mortal = Mortal(keys, [0])

    def die(*arguments: Any, **members: Any) -> None:
        if after:
            getattr(keys, name)(*arguments, **members)
        raise Crashed

    setattr(mortal, name, die)
    return mortal


def wrapped(folder: Path) -> set[str]:
    """The names of the keys that a key store or one of its former generations holds, wrapped."""
    return {name for path in folder.glob("keys*.json") for name in orjson.loads(path.read_bytes())["keys"]}


async def stays_left(database: Database) -> set[UUID]:
    connection = await database.connect()
    return {row["id"] for row in await connection.fetch("SELECT id FROM stays")}


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
    return [found.stay_id for found in (await searched_by_police(pools, keyring, index, now)).stays]


async def searched_by_police(
    pools: Pools, keyring: Keyring, index: int, now: datetime, kept_days: Periods | None = None
) -> SearchResult:
    """What the police are told of a synthetic person, while stays are kept for `kept_days`."""
    days = {kind: kept_days.stay_days_of(kind) for kind in FacilityKind} if kept_days else {}
    pool, auditors = await pools.get("asm_police"), await pools.get("asm_audit")
    desk = Desk(pool, auditors, keyring, DEPLOYMENT, None, kept_days=days)
    officer = Principal(uuid7(), PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC02 (mẫu)", None, {})
    question = DocumentSearch(
        document_number=person(index).document_number, purpose="criminal_investigation", case_ref="15/2026/HS-PC02"
    )
    return await police.search(desk, officer, question, now)


async def reencrypt_until_retired(pool: asyncpg.Pool, store: KeyStore, now: datetime) -> bool:
    """Seal everything under the newest keys, until the old ones are gone; whether they are."""
    for run in range(4):
        keyring, at = store.keyring(), now + run * SETTLE
        await reencrypt_once(pool, keyring, lambda name: store.retire(name, at), at)  # noqa: B023
    return not store.keyring().superseded()


async def waits_or_is_done(superuser: asyncpg.Connection, task: asyncio.Task[Any]) -> None:
    """Until a task is done, or some statement waits for the lock of a table."""
    async with asyncio.timeout(10):
        while not task.done():
            if await superuser.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted AND relation IS NOT NULL"):
                return
            await asyncio.sleep(0.01)
