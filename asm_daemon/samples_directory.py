"""The demo's directory: invented facilities in Hưng Yên of all ten kinds of the plan, and somebody for every role.

The counts are chosen so that each department's extract shows both: cells with three facilities or more of one kind in
one commune, which can be published, and cells with one or two, which are suppressed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import cycle
from uuid import UUID, uuid5

import asyncpg

from asm_daemon import directory
from asm_daemon.crypto import Keyring
from asm_daemon.directory import Actor
from asm_daemon.model import PrincipalKind
from schemas.codes import COMMUNES, Department, FacilityKind, table
from schemas.directory import NewFacility

_NAME = "demo"
KEY_VALID_DAYS = 30

HOTEL, GUESTHOUSE, RENTAL, DORM, HOSPITAL = "HY-KS-0001", "HY-NN-0001", "HY-CT-0001", "HY-KCN-0001", "HY-YT-0001"
OWNED = (HOTEL, GUESTHOUSE, RENTAL, DORM, HOSPITAL)
"""The facilities that the demo declares for, each through its own kind of document."""
VENDOR_SERVES = (HOTEL, "HY-KS-0002", "HY-KS-0005", GUESTHOUSE, "HY-NN-0002")
SANDBOX = "HY-TN-0001"
HOSPITAL_SENDER = ("HIS-MAU", "BV-MAU-01")
"""How the sample hospital's HL7 messages call themselves (MSH-3, MSH-4)."""

_PRINCIPALS = UUID("b8f0a6de-5d5c-5a51-9a3e-0c7d2f1e4a96")  # so that a second run finds the principals of the first

_PHO_HIEN, _THAI_BINH, _MY_HAO = "11953", "13225", "12103"
_VAN_GIANG, _NHU_QUYNH, _YEN_MY, _TIEN_HAI, _DONG_CHAU = "12019", "12004", "12073", "12970", "13003"
_ZONE_MY_HAO, _ZONE_YEN_MY = "KCN Mẫu Mỹ Hào", "KCN Mẫu Yên Mỹ"


@dataclass(frozen=True, slots=True)
class _Row:
    """`count` like facilities in one commune; `letters` begin their codes, `word` their names."""

    letters: str
    kind: FacilityKind
    word: str
    commune: str
    count: int
    capacity: int
    zone: str | None = None


_ROWS = (
    _Row("KS", FacilityKind.HOTEL_2_3_STAR, "Khách sạn", _PHO_HIEN, 4, 60),
    _Row("KS", FacilityKind.HOTEL_2_3_STAR, "Khách sạn", _THAI_BINH, 3, 50),
    _Row("KS", FacilityKind.HOTEL_2_3_STAR, "Khách sạn", _DONG_CHAU, 1, 40),
    _Row("KS", FacilityKind.HOTEL_4_STAR, "Khách sạn", _PHO_HIEN, 1, 150),
    _Row("KS", FacilityKind.HOTEL_4_STAR, "Khách sạn", _VAN_GIANG, 1, 180),
    _Row("KS", FacilityKind.HOTEL_5_STAR, "Khách sạn", _VAN_GIANG, 1, 300),
    _Row("NN", FacilityKind.GUESTHOUSE, "Nhà nghỉ", _THAI_BINH, 4, 20),
    _Row("NN", FacilityKind.GUESTHOUSE, "Nhà nghỉ", _DONG_CHAU, 3, 25),
    _Row("NN", FacilityKind.GUESTHOUSE, "Nhà nghỉ", _PHO_HIEN, 1, 15),
    _Row("NT", FacilityKind.BOARDING_HOUSE, "Nhà trọ", _MY_HAO, 3, 30),
    _Row("NT", FacilityKind.BOARDING_HOUSE, "Nhà trọ", _THAI_BINH, 1, 30),
    _Row("NK", FacilityKind.STATE_GUEST_HOUSE, "Nhà khách", _PHO_HIEN, 1, 80),
    _Row("CV", FacilityKind.OFFICIAL_RESIDENCE, "Nhà công vụ", _THAI_BINH, 1, 24),
    _Row("CT", FacilityKind.RENTAL_HOUSING, "Nhà cho thuê", _MY_HAO, 4, 40),
    _Row("CT", FacilityKind.RENTAL_HOUSING, "Nhà cho thuê", _NHU_QUYNH, 2, 40),
    _Row("KCN", FacilityKind.INDUSTRIAL_ZONE_HOUSING, "Nhà ở công nhân", _MY_HAO, 3, 600, _ZONE_MY_HAO),
    _Row("KCN", FacilityKind.INDUSTRIAL_ZONE_HOUSING, "Nhà ở công nhân", _YEN_MY, 1, 400, _ZONE_YEN_MY),
    _Row("YT", FacilityKind.MEDICAL_FACILITY, "Bệnh viện", _THAI_BINH, 4, 500),
    _Row("YT", FacilityKind.MEDICAL_FACILITY, "Trung tâm y tế", _PHO_HIEN, 1, 200),
    _Row("YT", FacilityKind.MEDICAL_FACILITY, "Trung tâm y tế", _TIEN_HAI, 1, 150),
)
_NAMES = ("Sen", "Nhãn", "Cúc", "Lúa", "Mây", "Tre", "Trúc", "Mai", "Đào", "Lan", "Sóng", "Gió", "Nắng", "Trăng")


def _sample_facilities() -> Iterator[NewFacility]:
    counts: dict[str, int] = {}
    names = cycle(_NAMES)
    for row in _ROWS:
        for _ in range(row.count):
            number = counts[row.letters] = counts.get(row.letters, 0) + 1
            yield _facility(f"HY-{row.letters}-{number:04}", f"{row.word} Mẫu {next(names)} {number:02}", row, number)
    trial = _Row("TN", FacilityKind.HOTEL_2_3_STAR, "Khách sạn", _PHO_HIEN, 1, 100)
    yield _facility(SANDBOX, "Khách sạn Thử Nghiệm", trial, 1, sandbox=True)


def _facility(code: str, name: str, row: _Row, number: int, *, sandbox: bool = False) -> NewFacility:
    commune = COMMUNES[row.commune].vi
    return NewFacility(
        code=code,
        name=name,
        kind=row.kind,
        province="109",
        commune=row.commune,
        address=f"Số {number}, đường Mẫu, {commune}, tỉnh Hưng Yên",
        zone=row.zone,
        authority=f"Công an {commune}, tỉnh Hưng Yên",
        capacity=row.capacity,
        sandbox=sandbox,
    )


SAMPLE_FACILITIES = tuple(_sample_facilities())


@dataclass(frozen=True, slots=True, repr=False)
class SampleKeys:
    """The keys of one run of the demo: `owners` by facility code, `departments` by department."""

    owners: Mapping[str, str]
    vendor: str
    officer: str
    departments: Mapping[Department, str]
    operator: str
    sandbox: str


async def load(pool: asyncpg.Pool, keyring: Keyring, now: datetime) -> SampleKeys:
    """Enter the sample directory and return new keys; what is there already stays, its old keys are revoked.

    `pool` is of the login asm_auth. A key cannot be shown twice, so every run issues new ones.
    """
    actor = Actor(_NAME, keyring)
    for new in SAMPLE_FACILITIES:
        if await directory.facility_by_code(pool, new.code) is None:
            await directory.add_facility(pool, actor, new, now)
    await directory.assign_sender(pool, actor, *HOSPITAL_SENDER, HOSPITAL, now)
    names = {new.code: new.name for new in SAMPLE_FACILITIES}
    owners = {
        code: await _holder(pool, actor, PrincipalKind.OWNER, f"Chủ cơ sở {code}", names[code], now, serves=(code,))
        for code in OWNED
    }
    boards = {row.code: row.vi for row in table("departments").rows}
    departments = {
        each: await _holder(
            pool, actor, PrincipalKind.DEPARTMENT, "Chuyên viên Mẫu", boards[each], now, department=each
        )
        for each in Department
    }
    return SampleKeys(
        owners=owners,
        vendor=await _holder(
            pool, actor, PrincipalKind.VENDOR, "Phần mềm quản lý Mẫu", "Công ty Phần mềm Mẫu", now, serves=VENDOR_SERVES
        ),
        officer=await _holder(pool, actor, PrincipalKind.OFFICER, "Cán bộ Mẫu", "Phòng PC06 (mẫu)", now),
        departments=departments,
        operator=await _holder(pool, actor, PrincipalKind.OPERATOR, "Quản trị Mẫu", "Trung tâm vận hành (mẫu)", now),
        sandbox=await _holder(
            pool, actor, PrincipalKind.OWNER, "Người dùng thử", names[SANDBOX], now, serves=(SANDBOX,)
        ),
    )


async def _holder(
    pool: asyncpg.Pool,
    actor: Actor,
    kind: PrincipalKind,
    name: str,
    organisation: str,
    now: datetime,
    department: Department | None = None,
    serves: tuple[str, ...] = (),
) -> str:
    """A principal with its grants and one new key, which is returned."""
    principal_id = await directory.add_principal(
        pool,
        actor,
        kind,
        name,
        organisation,
        now,
        department=department,
        principal_id=uuid5(_PRINCIPALS, f"{kind}|{name}|{organisation}"),
    )
    for code in serves:
        await directory.grant(pool, actor, principal_id, code, now)
    await directory.revoke_keys_of(pool, actor, principal_id, now)
    return await directory.create_key(pool, actor, principal_id, now, valid_days=KEY_VALID_DAYS)
