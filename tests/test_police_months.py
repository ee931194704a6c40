"""Searches over many months: each month's stays lie under that month's keys, in that month's partition."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from asm_daemon import police
from asm_daemon.crypto import IndexField, Keyring, document_value, epoch_at, epoch_of, next_epoch
from asm_daemon.keystores import create_store, open_keyring
from asm_daemon.model import Contents, Facility, Principal, PrincipalKind, StayRow, Tags
from asm_daemon.police import Desk
from asm_daemon.sealing import seal_contents
from asm_daemon.store import stays as store
from schemas.police import DocumentSearch
from schemas.synthetic import person
from tests.stack import DEPLOYMENT, Clock, Pools, declaration

GUEST = 1


class Past:
    """Stays of earlier months, put where intake, which only knows today, cannot put them."""

    def __init__(self, pools: Pools, keyring: Keyring, facility: Facility) -> None:
        self._pools, self._keyring, self._facility = pools, keyring, facility

    async def add(self, registered_at: datetime, index: int = GUEST) -> str:
        at = int(registered_at.timestamp() * 1000)
        stay_id = UUID(int=at << 80 | 7 << 76 | 0b10 << 62 | index)
        contents = Contents(declaration(index), bytes(16), None, "owner-1")
        number = contents.declared["guest"]["document"]["number"]
        tag = self._keyring.blind_index(epoch_of(stay_id), 1, IndexField.DOCUMENT, document_value(number))
        row = StayRow(
            id=stay_id,
            facility_id=self._facility.id,
            version=1,
            status="declared",
            event="declare",
            received_at=registered_at,
            declared_at=registered_at,
            arrived_at=registered_at,
            planned_departure_at=None,
            departed_at=None,
            deadline_at=registered_at,
            late_minutes=0,
            content_tag=bytes(16),
            receipt_batch_id=uuid7(),
            receipt_index=0,
            sealed=seal_contents(self._keyring, self._facility.id, stay_id, 1, contents),
        )
        connection = await self._pools.database.connect("asm_intake")
        await store.insert_declared(connection, [(row, Tags(tag, 0, 0))], [], [], [])
        return str(stay_id)


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Keyring:
    """Keys from fourteen months ago to the next month."""
    now = datetime.now(UTC)
    epochs, epoch = [], epoch_at(now - timedelta(days=430))
    while epoch <= next_epoch(epoch_at(now)):
        epochs.append(epoch)
        epoch = next_epoch(epoch)
    folder = tmp_path_factory.mktemp("keys") / "store"
    create_store(folder, epochs, now)
    return open_keyring(folder)


@pytest.fixture
async def past(pools: Pools, keyring: Keyring, facility: Facility) -> Past:
    return Past(pools, keyring, facility)


@pytest.fixture
async def desk(pools: Pools, keyring: Keyring) -> Desk:
    return Desk(await pools.get("asm_police"), await pools.get("asm_audit"), keyring, DEPLOYMENT, None)


async def search(desk: Desk, now: datetime, purpose: str = "criminal_investigation") -> list[str]:
    officer = Principal(uuid7(), PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC02 (mẫu)", None, {})
    question = DocumentSearch(
        document_number=person(GUEST).document_number, purpose=purpose, case_ref="15/2026/HS-PC02"
    )
    return [found.stay_id for found in (await police.search(desk, officer, question, now)).stays]


async def test_what_was_registered_before_the_purposes_window_is_not_read(desk: Desk, past: Past, clock: Clock) -> None:
    await past.add(clock() - timedelta(days=366, seconds=1))
    inside = await past.add(clock() - timedelta(days=366) + timedelta(seconds=1))
    assert await search(desk, clock(), "wanted_person") == [inside]


async def test_every_month_of_the_window_is_searched_under_its_own_key(desk: Desk, past: Past, clock: Clock) -> None:
    declared = [await past.add(clock() - timedelta(days=days)) for days in (1, 40, 100, 200, 400)]
    assert await search(desk, clock()) == declared


async def test_a_search_probes_each_month_once_and_not_every_month_for_every_key(
    desk: Desk, past: Past, clock: Clock, pools: Pools
) -> None:
    stay = await past.add(clock() - timedelta(days=100))
    superuser = await pools.database.connect()
    scans = """
        SELECT sum(coalesce(idx_scan, 0) + coalesce(seq_scan, 0)) FROM pg_stat_user_tables
        WHERE relname ~ '^stays_[0-9]{6}$'
    """
    before = await superuser.fetchval(scans)
    assert await search(desk, clock()) == [stay]
    await desk.pool.close()  # a session reports its scans at the latest when it ends
    async with asyncio.timeout(10):
        while (after := await superuser.fetchval(scans)) == before:
            await asyncio.sleep(0.01)
    months = [epoch for epoch in desk.keyring.epochs() if epoch <= epoch_at(clock())]
    assert after - before == len(months)
