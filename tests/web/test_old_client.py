"""The conversation of software that was written for the national portal, and knows nothing of us but the address.

`OldClient` does what such programs do: it logs in once, renews its token from `Exp`, shows tokens where the portal's
document says so, sends one array per call, and reads `code` and `message`. It takes "200" for "all of it is filed".
"""

from __future__ import annotations

import base64
import io
import os
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from asm_daemon.model import PrincipalKind
from asm_daemon.rules import HANOI
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import Clock, FacilityMaker
from tests.web.conftest import KeyMaker, Web

BASIC = base64.b64encode(b"API_CSLT:whatever the program has built in").decode()
FORM = "application/x-www-form-urlencoded"


@dataclass
class OldClient:
    """A program for the portal's REST API v1.4."""

    web: Web
    username: str
    password: str
    clock: Clock
    said: list[tuple[str, str, int]] = field(default_factory=list)
    session: dict[str, Any] = field(default_factory=dict)

    async def ask(self, method: str, path: str, headers: dict[str, str], **options: Any) -> dict[str, Any]:
        answer = await self.web.ask(method, path, headers=headers, **options)
        self.said.append((method, path.partition("?")[0], answer.status))
        assert answer.headers["Content-Type"].startswith("application/json")
        told: dict[str, Any] = answer.json
        assert sorted(told) == ["code", "data", "message"]
        assert told["code"] == str(answer.status)
        return told

    async def token(self) -> str:
        if not self.session:
            fields = {"username": self.username, "password": self.password, "grant-type": "api_cslt"}
            told = await self.ask(
                "POST", "/authorization-service/oauth/token", {"Authorization": f"Basic {BASIC}"}, data=fields
            )
            self.keep(told)
        elif self.session["Exp"] - self.clock().timestamp() < 60:
            path = f"/authorization-service/oauth/refresh-token?refresh_token={self.session['RefreshToken']}"
            self.keep(await self.ask("POST", path, {"Authorization": f"Basic {BASIC}"}))
        return str(self.session["AccessToken"])

    def keep(self, told: dict[str, Any]) -> None:
        assert told["code"] == "200", told["message"]
        assert told["data"]["TokenType"] == "bearer"
        assert "kbtt:create-3th" in told["data"]["Authorities"]
        assert told["data"]["LoaiTK"] == "CSLT"
        assert all(told["data"][name].isdigit() for name in ("CsltId", "MaTTCuaCslt", "MaPxCuaCslt"))
        assert all(type(told["data"][name]) is int for name in ("Exp", "ClientId", "CsltKhuVuc", "CsltDonVi"))
        assert told["data"]["IsCsltChinh"] is True
        self.session = told["data"]

    async def send(self, path: str, *rows: dict[str, Any]) -> tuple[bool, str]:
        """Whether all of it is filed, and what the portal says."""
        headers = {"Authorization": f"Bearer {await self.token()}", "Content-Type": "application/json"}
        told = await self.ask("POST", path, headers, data=orjson.dumps(rows))
        return told["code"] == "200", told["message"]

    async def table(self, path: str) -> list[dict[str, Any]]:
        told = await self.ask("GET", path, {})
        assert (told["code"], told["message"]) == ("200", "Thành công")
        listed: list[dict[str, Any]] = told["data"]
        return listed

    async def log_out(self) -> None:
        path = f"/authorization-service/oauth/revoke?access_token={self.session['AccessToken']}"
        told = await self.ask("DELETE", path, {"Authorization": f"Basic {BASIC}"})
        assert (told["code"], told["message"], told["data"]) == ("200", "Thành công", None)
        self.session = {}


CITIZENS = "/client-service/kbtt-vn/kbtt-3th"
FOREIGNERS = "/client-service/kbtt/kbtt-3th"
DEPARTURES = f"{CITIZENS}/doi-ngay-tra-phong"
PHOTOGRAPH = base64.b64encode(os.urandom(300_000)).decode()


def written(instant: datetime) -> str:
    return instant.astimezone(HANOI).strftime("%Y-%m-%d %H:%M:%S")


def citizen(index: int, now: datetime, **changes: Any) -> dict[str, Any]:
    who = person(index)
    return {
        "hoTen": who.full_name,
        "gioiTinh": who.gender,
        "soDienThoai": "",
        "ngayThangNamSinhStr": who.birth_date,
        "ghiChu": "",
        "noiCuTru": 1,
        "maTT": "",
        "maPX": "",
        "diaChi": "Số 1 đường Thử Nghiệm",
        "ngayDenCsltStr": written(now - timedelta(minutes=30)),
        "ngayDiDuKienStr": written(now + timedelta(days=2)),
        "soPhong": "203",
        "lyDoCuTru": 1,
        "lyDoChiTiet": "",
        "loaiGiayTo": who.document_type,
        "soGiayTo": who.document_number,
        "anhTruocB64": PHOTOGRAPH,
        "anhSauB64": PHOTOGRAPH,
        **changes,
    }


def foreigner(now: datetime, **changes: Any) -> dict[str, Any]:
    return {
        "hoTen": "TEST GUEST",
        "quocTich": "D",
        "soHoChieu": "TEST00001",
        "gioiTinh": "F",
        "loaiNgayThangNamSinh": "Y",
        "ngayThangNamSinhStr": "1990-01-01",
        "ngayDenCsltStr": written(now - timedelta(hours=1)),
        "ngayDiDuKienStr": written(now + timedelta(days=3)),
        "soPhong": "305",
        "anhHoChieuB64": PHOTOGRAPH,
        "thoiHanTamTruStr": written(now + timedelta(days=60)),
        **changes,
    }


@pytest.fixture
async def client(asm: Web, owner_key: str, clock: Clock) -> OldClient:
    _, key_id, secret = owner_key.split("_")
    return OldClient(asm, key_id, secret, clock)


async def test_a_day_of_an_old_program_at_a_hotel(
    client: OldClient, clock: Clock, database: Database, logged: io.BytesIO
) -> None:
    # The evening's guests: a couple, and a guest from abroad. The photographs are as large as telephones make them.
    now = clock.instant
    assert await client.send(CITIZENS, citizen(1, now), citizen(2, now)) == (True, "Thành công")
    assert await client.send(FOREIGNERS, foreigner(now)) == (True, "Thành công")

    # The answer to the next one is lost, so it is sent again.
    for _ in range(2):
        assert await client.send(CITIZENS, citizen(3, now)) == (True, "Thành công")

    # One of two rows is wrong: that is not "all filed". The desk corrects it, and sends both again.
    wrong = citizen(5, now, soGiayTo="00019000001", hoTen=" ")
    filed, message = await client.send(CITIZENS, citizen(4, now), wrong)
    assert not filed
    assert message.startswith("Bản khai báo 2: ")
    assert "hoTen: " in message
    assert "soGiayTo: " in message
    assert "Bản khai báo 1" not in message
    assert message.endswith("1 bản còn lại đã được ghi nhận, không cần gửi lại.")
    assert await client.send(CITIZENS, citizen(4, now), citizen(5, now)) == (True, "Thành công")

    # Somebody stays longer, somebody leaves early, and the program repeats itself.
    longer = {**leaving(1), "loai": "GH", "thoiGianStr": written(now + timedelta(days=5))}
    for _ in range(2):
        assert await client.send(DEPARTURES, longer, leaving(2)) == (True, "Thành công")

    # An hour later the token is renewed, and at the end of the day the program logs out.
    clock.instant += timedelta(minutes=59, seconds=30)
    assert await client.send(CITIZENS, citizen(6, now)) == (True, "Thành công")
    last = client.session["AccessToken"]
    await client.log_out()
    answer = await client.web.ask("POST", CITIZENS, last, json=[citizen(7, now)])
    assert (answer.status, answer.json["code"]) == (401, "401")

    assert client.said == [
        ("POST", "/authorization-service/oauth/token", 200),
        ("POST", CITIZENS, 200),
        ("POST", FOREIGNERS, 200),
        ("POST", CITIZENS, 200),
        ("POST", CITIZENS, 200),
        ("POST", CITIZENS, 400),
        ("POST", CITIZENS, 200),
        ("POST", DEPARTURES, 200),
        ("POST", DEPARTURES, 200),
        ("POST", "/authorization-service/oauth/refresh-token", 200),
        ("POST", CITIZENS, 200),
        ("DELETE", "/authorization-service/oauth/revoke", 200),
    ]
    connection = await database.connect()
    states = await connection.fetch("SELECT status, count(*) FROM stays GROUP BY status ORDER BY status")
    assert [tuple(row) for row in states] == [("declared", 6), ("departed", 1)]
    assert await connection.fetchval("SELECT count(*) FROM portal_sessions") == 0
    for secret in (client.password, last, PHOTOGRAPH[:40], person(1).document_number, "TEST00001"):
        assert secret.encode() not in logged.getvalue()


def leaving(index: int) -> dict[str, Any]:
    who = person(index)
    return {"loai": "TS", "soGiayTo": who.document_number, "loaiGiayTo": who.document_type}


async def test_a_vendors_one_key_serves_the_program_at_every_hotel(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock, database: Database
) -> None:
    here, there = await make_facility("HY-KS-0001"), await make_facility("HY-KS-0002")
    _, key_id, secret = (await make_key(PrincipalKind.VENDOR, here, there)).split("_")
    for hotel, user_name in ((here, f"{key_id}@HY-KS-0001"), (there, f"{key_id}@hy-ks-0002")):
        program = OldClient(asm, user_name, secret, clock)
        assert await program.send(CITIZENS, citizen(1, clock())) == (True, "Thành công")
        assert (program.session["CsltId"], program.session["MaCslt"]) == (str(hotel.id), hotel.code)
    connection = await database.connect()
    filed = await connection.fetch("SELECT facility_id FROM stays ORDER BY facility_id")
    assert [row["facility_id"] for row in filed] == [here.id, there.id]


async def test_a_program_that_was_cut_off_for_days_is_late_and_not_turned_away(
    client: OldClient, clock: Clock, database: Database
) -> None:
    arrived, left = clock() - timedelta(days=5), clock() - timedelta(days=4)
    times = {"ngayDenCsltStr": written(arrived), "ngayDiDuKienStr": written(left)}
    assert await client.send(CITIZENS, citizen(1, clock(), **times)) == (True, "Thành công")
    connection = await database.connect()
    assert await connection.fetchval("SELECT late_minutes FROM stays") > 4 * 24 * 60 - 24 * 60


async def test_the_tables_of_a_program_are_filled_from_ours(client: OldClient) -> None:
    public = "/cms-backend/public"
    nationalities = await client.table(f"{public}/dm-qt/3th/get-all")
    assert {"maQT": "DEU", "tenQT": "Đức", "tenQTEn": "Germany"} in nationalities
    assert {"BRA", "BRN", "BGR"} <= {row["maQT"] for row in nationalities}  # the portal's own list lacks them
    provinces = await client.table(f"{public}/dm-tinh-tp/get-all")
    assert len(provinces) == 34
    assert {"maTT": "109", "tenTT": "Hưng Yên", "tenTTEn": "Hung Yen"} in provinces
    wards = await client.table(f"{public}/dm-phuong-xa?trucThuocTinh=109")
    assert len(wards) == 104
    assert all(row["trucThuocTinh"] == "109" and row["maPhuongXa"] and row["tenPhuongXa"] for row in wards)
    assert (await client.table(f"{public}/ly-do-cu-tru/get-all"))[0] == {"id": 1, "name": "Du lịch"}
    kinds = await client.table(f"{public}/loai-giay-to/get-all")
    assert [row["id"] for row in kinds] == [1, 2, 3, 4, 5, 6, 7, 8]
    residences = await client.table(f"{public}/noi-cu-tru/get-all")
    assert residences == [{"id": 1, "name": "Thường trú"}, {"id": 2, "name": "Tạm trú"}, {"id": 3, "name": "Khác"}]
