"""The demo's directory: every kind, every role, and safe to load again."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime, timedelta

import pytest

from asm_daemon import directory, samples_directory
from asm_daemon.crypto import Keyring
from asm_daemon.directory import Gate, authorise
from asm_daemon.model import PrincipalKind, Scope
from asm_daemon.problems import Refused
from asm_daemon.samples_directory import HOSPITAL, HOSPITAL_SENDER, OWNED, SAMPLE_FACILITIES, SANDBOX, VENDOR_SERVES
from asm_daemon.store.pool import open_pool
from schemas.codes import Department, FacilityKind
from tests.conftest import Database

NOW = datetime(2026, 11, 23, 2, 0, tzinfo=UTC)


def test_the_samples_cover_the_ten_kinds_of_the_plan() -> None:
    assert {each.kind for each in SAMPLE_FACILITIES} == set(FacilityKind)
    assert len({each.code for each in SAMPLE_FACILITIES}) == len(SAMPLE_FACILITIES) == 42
    assert {*OWNED, *VENDOR_SERVES, SANDBOX} <= {each.code for each in SAMPLE_FACILITIES}
    assert [each.code for each in SAMPLE_FACILITIES if each.sandbox] == [SANDBOX]


@pytest.mark.parametrize("department", Department)
def test_each_department_has_cells_that_can_be_published_and_cells_that_cannot(department: Department) -> None:
    real = [each for each in SAMPLE_FACILITIES if not each.sandbox and each.kind.department is department]
    cells = Counter((each.kind, each.commune, each.zone) for each in real)
    assert max(cells.values()) >= 3
    assert min(cells.values()) < 3


async def test_loading_twice_keeps_the_directory_and_replaces_the_keys(database: Database, keyring: Keyring) -> None:
    pool = await open_pool(database.url, "asm_auth", min_size=1, max_size=2)
    try:
        first = await samples_directory.load(pool, keyring, NOW)
        before = [each.id for each in await directory.list_facilities(pool)]
        second = await samples_directory.load(pool, keyring, NOW + timedelta(hours=1))
        assert [each.id for each in await directory.list_facilities(pool)] == before
        assert await pool.fetchval("SELECT count(*) FROM principals") == 12
        gate = Gate(pool, 30)
        with pytest.raises(Refused, match="unauthenticated"):
            await gate.authenticate(first.officer, NOW)

        for code, key in second.owners.items():
            assert authorise(await gate.authenticate(key, NOW), None, Scope.READ).code == code
        assert set(second.owners) == set(OWNED)
        assert set((await gate.authenticate(second.vendor, NOW)).grants) == set(VENDOR_SERVES)
        assert authorise(await gate.authenticate(second.sandbox, NOW), None, Scope.DECLARE).sandbox
        assert (await gate.authenticate(second.officer, NOW)).kind is PrincipalKind.OFFICER
        assert (await gate.authenticate(second.operator, NOW)).kind is PrincipalKind.OPERATOR
        for department, key in second.departments.items():
            assert (await gate.authenticate(key, NOW)).department is department
        hospital = await gate.find_sender(*HOSPITAL_SENDER)
        assert hospital is not None
        assert hospital.facility.code == HOSPITAL
    finally:
        await pool.close()
