"""The national portal's contract, rule by rule over real HTTP: what is refused and how, then what is taken."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest

from asm_daemon import directory
from asm_daemon.intake import Intake
from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.problems import Refused
from schemas.codes import FacilityKind
from tests.conftest import Database
from tests.stack import TESTER, Clock, FacilityMaker, Pools
from tests.web.conftest import MAX_BATCH_ROWS, MAX_BODY_BYTES, Answer, KeyMaker, Web
from tests.web.test_bad_input import ADDRESS, NAME, NUMBER, PHONE, assert_no_trace
from tests.web.test_old_client import CITIZENS, DEPARTURES, FOREIGNERS, citizen, foreigner, leaving, written

TOKEN = "/authorization-service/oauth/token"
REFRESH = "/authorization-service/oauth/refresh-token"
REVOKE = "/authorization-service/oauth/revoke"
UNKNOWN = "0" * 64

Opener = Callable[..., Awaitable[dict[str, Any]]]


def told(answer: Answer) -> tuple[int, str]:
    """Status and message; fails for anything that has not the portal's form."""
    assert answer.headers["Content-Type"] == "application/json"
    assert sorted(answer.json) == ["code", "data", "message"]
    assert answer.json["code"] == str(answer.status)
    message: str = answer.json["message"]
    assert (answer.status == 200) == (message == "Thành công")
    return answer.status, message


def problem(answer: Answer) -> tuple[int, str]:
    """Status and problem code of a request that was refused as a whole."""
    told(answer)
    return answer.status, answer.json["data"]["problem"]["code"]


def faults(answer: Answer) -> list[tuple[str, str]]:
    """Code and place of each violation of a refused request."""
    problem(answer)
    return [(each["code"], each["place"]) for each in answer.json["data"]["problem"]["errors"]]


def row_faults(answer: Answer, row: int = 1) -> list[tuple[str, str]]:
    """Code and member of each violation of a refused row."""
    assert told(answer)[0] == 400
    result = answer.json["data"]["results"][row - 1]
    assert result["outcome"] == "refused"
    return sorted((each["code"], each["place"]) for each in result["errors"] or [])


def credentials(key: str, at: str = "") -> dict[str, str]:
    _, key_id, secret = key.split("_")
    return {"username": key_id + at, "password": secret, "grant-type": "api_cslt"}


@pytest.fixture
def log_in(asm: Web) -> Opener:
    """`await log_in(key, "@HY-KS-0001")` opens a session and returns what was told of it."""

    async def opened(key: str, at: str = "") -> dict[str, Any]:
        answer = await asm.ask("POST", TOKEN, data=credentials(key, at))
        assert told(answer) == (200, "Thành công")
        session: dict[str, Any] = answer.json["data"]
        return session

    return opened


@pytest.fixture
async def token(log_in: Opener, owner_key: str) -> str:
    """The access token of a session at `facility`."""
    access: str = (await log_in(owner_key))["AccessToken"]
    return access


async def send(asm: Web, token: str | None, path: str, *rows: Any, **options: Any) -> Answer:
    headers = {"Content-Type": "application/json"}
    return await asm.ask("POST", path, token, data=orjson.dumps(rows), headers=headers, **options)


async def count(database: Database, table: str) -> int:
    connection = await database.connect()
    found: int = await connection.fetchval(f"SELECT count(*) FROM {table}")
    return found


# -- sessions that are not opened --------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"password": UNKNOWN}, {"password": "Demo@123"}, {"username": "0" * 16},
                                    {"username": "demo"}, {"username": "Nguyễn"}, {"password": "ắ"}])  # fmt: skip
async def test_wrong_credentials_are_refused_alike_and_repeated_nowhere(
    asm: Web, owner_key: str, change: dict[str, str], database: Database, logged: io.BytesIO
) -> None:
    answer = await asm.ask("POST", TOKEN, data={**credentials(owner_key), **change})
    assert problem(answer) == (401, "wrong_credentials")
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")
    for value in change.values():
        assert value.encode() not in answer.body + logged.getvalue()
    assert await count(database, "portal_sessions") == 0


async def test_every_field_that_is_missing_is_named_at_once(asm: Web, owner_key: str) -> None:
    answer = await asm.ask("POST", TOKEN, data={"username": "", "other": "1"})
    assert problem(answer) == (400, "request_invalid")
    assert faults(answer) == [("required", "username"), ("required", "password"), ("required", "grant-type")]
    answer = await asm.ask("POST", TOKEN, data={**credentials(owner_key), "grant-type": "password"})
    assert faults(answer) == [("out_of_range", "grant-type")]
    assert "api_cslt" in told(answer)[1]


async def test_a_log_in_that_is_no_form_is_refused_in_the_portals_form(asm: Web, owner_key: str) -> None:
    assert problem(await asm.ask("POST", TOKEN, json=credentials(owner_key))) == (400, "unsupported_media_type")
    assert problem(await asm.ask("POST", TOKEN)) == (400, "unsupported_media_type")
    for body, code in (
        (b"&".join([b"a=1"] * 17), "bad_request"),
        ("a=ắ".encode(), "bad_request"),
        (b"a=" + b"1" * 2000, "body_too_large"),
    ):
        answer = await asm.ask("POST", TOKEN, data=body, headers={"Content-Type": FORM})
        assert problem(answer) == (400, code)


FORM = "application/x-www-form-urlencoded"


async def test_a_key_of_several_facilities_is_told_how_to_name_one(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility
) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility, other_facility)
    answer = await asm.ask("POST", TOKEN, data=credentials(key))
    assert problem(answer) == (400, "facility_required")
    assert faults(answer) == [("facility_in_user_name", "username")]


async def test_no_session_is_opened_where_the_key_may_not_declare(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility
) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility)
    for at in ("@HY-KS-0002", "@HY-KS-9999"):
        assert problem(await asm.ask("POST", TOKEN, data=credentials(key, at))) == (403, "facility_not_granted")
    reader = await make_key(PrincipalKind.VENDOR, facility, scopes={Scope.STATUS})
    assert problem(await asm.ask("POST", TOKEN, data=credentials(reader))) == (403, "scope_missing")
    for kind in (PrincipalKind.OFFICER, PrincipalKind.OPERATOR):
        other = await make_key(kind)
        assert problem(await asm.ask("POST", TOKEN, data=credentials(other))) == (403, "forbidden")
    nothing = await make_key(PrincipalKind.OWNER)
    assert problem(await asm.ask("POST", TOKEN, data=credentials(nothing))) == (403, "facility_not_granted")


# -- sessions that have ended ------------------------------------------------------------------------------------------


async def test_without_a_good_token_nothing_is_taken(
    asm: Web, owner_key: str, clock: Clock, database: Database, logged: io.BytesIO
) -> None:
    for path in (CITIZENS, FOREIGNERS, DEPARTURES, f"{FOREIGNERS}/doi-ngay-tra-phong"):
        for shown in (None, UNKNOWN, "x", owner_key):
            answer = await send(asm, shown, path, secretive(clock()))
            assert problem(answer) == (401, "unauthenticated")
            assert "token" in told(answer)[1]
    assert problem(await send(asm, None, f"{CITIZENS}?access_token={UNKNOWN}", {})) == (401, "unauthenticated")
    await assert_no_trace(database, logged, answer.body)


async def test_a_token_is_good_for_an_hour_and_its_renewal_for_a_day(
    asm: Web, log_in: Opener, owner_key: str, clock: Clock
) -> None:
    session = await log_in(owner_key)
    assert session["Exp"] == int((clock() + timedelta(hours=1)).timestamp())
    clock.instant += timedelta(minutes=59)
    assert problem(await send(asm, session["AccessToken"], CITIZENS)) == (400, "no_rows")
    clock.instant += timedelta(minutes=1)
    assert problem(await send(asm, session["AccessToken"], CITIZENS)) == (401, "unauthenticated")
    clock.instant += timedelta(hours=23)
    answer = await asm.ask("POST", f"{REFRESH}?refresh_token={session['RefreshToken']}")
    assert problem(answer) == (401, "unauthenticated")


async def test_a_renewal_replaces_both_tokens_and_works_once(asm: Web, log_in: Opener, owner_key: str) -> None:
    first = await log_in(owner_key)
    renewed = (await asm.ask("POST", f"{REFRESH}?refresh_token={first['RefreshToken']}")).json["data"]
    assert len({first["AccessToken"], first["RefreshToken"], renewed["AccessToken"], renewed["RefreshToken"]}) == 4
    assert renewed["MaCslt"] == first["MaCslt"]
    assert problem(await send(asm, first["AccessToken"], CITIZENS)) == (401, "unauthenticated")
    assert problem(await send(asm, renewed["AccessToken"], CITIZENS)) == (400, "no_rows")
    again = await asm.ask("POST", REFRESH, data={"refresh_token": first["RefreshToken"]})
    assert problem(again) == (401, "unauthenticated")


async def test_a_renewal_takes_its_token_from_the_form_and_whatever_body_old_programs_send(
    asm: Web, log_in: Opener, owner_key: str
) -> None:
    session = await log_in(owner_key)

    async def renew(address: str = "", **options: Any) -> None:
        answer = await asm.ask("POST", REFRESH + address, **options)
        assert told(answer) == (200, "Thành công")
        session.update(answer.json["data"])

    await renew(data={"refresh_token": session["RefreshToken"]})
    await renew(json={"refresh_token": session["RefreshToken"]})
    await renew(f"?refresh_token={session['RefreshToken']}")
    await renew(f"?refresh_token={session['RefreshToken']}", json={})
    await renew(f"?refresh_token={session['RefreshToken']}", headers={"Content-Type": FORM})
    assert faults(await asm.ask("POST", REFRESH)) == [("required", "refresh_token")]
    assert problem(await asm.ask("POST", REFRESH, data={"refresh_token": "ắ"})) == (401, "unauthenticated")


async def test_a_session_that_is_closed_is_closed_whatever_token_is_shown_next(
    asm: Web, log_in: Opener, owner_key: str
) -> None:
    session = await log_in(owner_key)
    assert told(await asm.ask("DELETE", REVOKE, session["AccessToken"])) == (200, "Thành công")
    assert problem(await send(asm, session["AccessToken"], CITIZENS)) == (401, "unauthenticated")
    answer = await asm.ask("POST", REFRESH, data={"refresh_token": session["RefreshToken"]})
    assert problem(answer) == (401, "unauthenticated")
    for again in (session["AccessToken"], UNKNOWN, "x"):
        assert told(await asm.ask("DELETE", f"{REVOKE}?access_token={again}")) == (200, "Thành công")
    assert faults(await asm.ask("DELETE", REVOKE)) == [("required", "access_token")]


async def test_a_session_ends_with_its_key_and_with_the_grant_it_was_opened_for(
    asm: Web, log_in: Opener, make_key: KeyMaker, facility: Facility, pools: Pools, clock: Clock, database: Database
) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility)
    shown = (await log_in(key))["AccessToken"]
    connection = await database.connect()
    principal = await connection.fetchval("SELECT principal_id FROM api_keys WHERE id = $1", key.split("_")[1])
    await directory.revoke_grant(await pools.get("asm_auth"), TESTER, principal, facility.code, clock())
    assert problem(await send(asm, shown, CITIZENS, {})) == (403, "facility_not_granted")
    await directory.revoke_key(await pools.get("asm_auth"), TESTER, key.split("_")[1], clock())
    assert problem(await send(asm, shown, CITIZENS, {})) == (401, "unauthenticated")


async def test_the_database_keeps_nothing_from_which_a_token_could_be_made(
    log_in: Opener, owner_key: str, database: Database
) -> None:
    session = await log_in(owner_key)
    connection = await database.connect()
    kept: str = await connection.fetchval("SELECT row_to_json(portal_sessions)::text FROM portal_sessions")
    for secret in (session["AccessToken"], session["RefreshToken"]):
        assert secret not in kept


async def test_sessions_that_have_ended_and_those_beyond_a_keys_limit_are_forgotten(
    asm: Web, log_in: Opener, owner_key: str, clock: Clock, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(directory, "SESSIONS_LIMIT", 2)
    oldest = await log_in(owner_key)
    for _ in range(2):
        clock.instant += timedelta(seconds=1)
        await log_in(owner_key)
    assert await count(database, "portal_sessions") == 2
    assert problem(await send(asm, oldest["AccessToken"], CITIZENS)) == (401, "unauthenticated")
    clock.instant += timedelta(days=2)
    await log_in(owner_key)
    assert await count(database, "portal_sessions") == 1


async def test_tokens_in_addresses_are_taken_and_never_logged(
    asm: Web, log_in: Opener, owner_key: str, clock: Clock, logged: io.BytesIO
) -> None:
    session = await log_in(owner_key)
    access, refresh = session["AccessToken"], session["RefreshToken"]
    assert told(await send(asm, None, f"{CITIZENS}?access_token={access}", citizen(1, clock())))[0] == 200
    answers = [
        await send(asm, None, f"{CITIZENS}?access_token={access}", {}),
        await send(asm, None, f"{CITIZENS}?access_token={access}&access_token={access}", {}),
        await send(asm, None, f"{CITIZENS}?{access}=1&token={access}"),
        await asm.ask("GET", f"{CITIZENS}/{access}?access_token={access}"),
        await asm.ask("PATCH", f"{CITIZENS}?access_token={access}"),
        await asm.ask("GET", f"/client-service/?access_token={access}", headers={"Accept": "text/html"}),
        await asm.ask("POST", f"{REFRESH}?refresh_token={refresh}&refresh_token={refresh}"),
        await asm.ask("DELETE", f"{REVOKE}?access_token={access}x"),
        await asm.ask("POST", f"{REFRESH}?refresh_token={refresh}x"),
    ]
    assert [told(answer)[0] for answer in answers] == [400, 400, 401, 404, 405, 404, 400, 200, 401]
    for said in (logged.getvalue(), *(answer.body for answer in answers)):
        for secret in (access, refresh):
            assert secret.encode() not in said
    events = [orjson.loads(line) for line in logged.getvalue().splitlines()]
    routes = {each["route"] for each in events if each["event"] == "request"}
    assert routes == {TOKEN, REFRESH, REVOKE, CITIZENS, "unknown"}


# -- bodies ------------------------------------------------------------------------------------------------------------


def secretive(now: datetime, **changes: Any) -> dict[str, Any]:
    """A citizen whose every personal value can be looked for."""
    secrets = {"hoTen": NAME, "soGiayTo": NUMBER, "soDienThoai": PHONE, "diaChi": ADDRESS, "loaiGiayTo": 1}
    return {**citizen(1, now), **secrets, **changes}


BODIES: dict[str, tuple[bytes, str, int, str]] = {
    "an empty array": (b"[]", "application/json", 400, "no_rows"),
    "an object": (b'{"hoTen": "x"}', "application/json", 400, "request_invalid"),
    "a text": (b'"x"', "application/json", 400, "request_invalid"),
    "nothing": (b"", "application/json", 400, "not_json"),
    "no JSON": (f"hoTen={NAME}".encode(), "application/json", 400, "not_json"),
    "truncated": (f'[{{"hoTen": "{NAME}"'.encode(), "application/json", 400, "not_json"),
    "half a character": (f'["{NAME}'.encode()[:-2] + b'"]', "application/json", 400, "not_json"),
    "60 kB of [": (b"[" * 60_000, "application/json", 400, "not_json"),
    "lines": (b"{}\n{}", "application/x-ndjson", 400, "unsupported_media_type"),
    "a form": (b"a=b", FORM, 400, "unsupported_media_type"),
    "too many rows": (b"[" + b"{}," * MAX_BATCH_ROWS + b"{}]", "application/json", 400, "too_many_rows"),
    "too large without photographs": (b"[" + b"1," * MAX_BODY_BYTES, "application/json", 400, "body_too_large"),
}  # fmt: skip


async def test_a_body_that_is_no_array_of_rows_is_refused_in_the_portals_form(
    asm: Web, token: str, database: Database, logged: io.BytesIO
) -> None:
    for path in (CITIZENS, FOREIGNERS, DEPARTURES):
        for name, (body, content_type, status, code) in BODIES.items():
            answer = await asm.ask("POST", path, token, data=body, headers={"Content-Type": content_type})
            assert (name, problem(answer)) == (name, (status, code))
            assert answer.json["data"]["problem"]["request_id"] == answer.headers["X-Request-Id"]
            await assert_no_trace(database, logged, answer.body)
    assert "không có gì được khai báo" in told(await send(asm, token, CITIZENS))[1]


async def test_an_announced_size_beyond_the_limit_is_refused_before_anything_is_read(asm: Web, token: str) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", asm.port)
    head = (
        f"POST {CITIZENS} HTTP/1.1\r\nHost: asm\r\nAuthorization: Bearer {token}\r\n"
        "Content-Type: application/json\r\nContent-Length: 10000000000\r\n\r\n["
    )
    writer.write(head.encode())
    async with asyncio.timeout(5):
        answer = await reader.readuntil(b"}}}")
    writer.close()
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b'"code":"400"' in answer
    assert b"body_too_large" in answer
    assert b"Connection: close" in answer


async def test_rows_that_are_no_objects_are_refused_by_number(
    asm: Web, token: str, clock: Clock, database: Database
) -> None:
    answer = await send(asm, token, CITIZENS, 7, citizen(1, clock()), None)
    status, message = told(answer)
    assert status == 400
    assert message.startswith("Bản khai báo 1: Sai kiểu dữ liệu")
    assert "Bản khai báo 3: " in message
    assert [each["outcome"] for each in answer.json["data"]["results"]] == ["refused", "accepted", "refused"]
    assert await count(database, "stays") == 1


# -- rows that are refused ---------------------------------------------------------------------------------------------

WRONG_ROWS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "nothing but spaces": ({"hoTen": "  "}, [("required", "hoTen")]),
    "a name of digits": ({"hoTen": "0123"}, [("wrong_name", "hoTen")]),
    "another gender": ({"gioiTinh": "X"}, [("unknown_code", "gioiTinh")]),
    "a birth date of the wrong form": ({"ngayThangNamSinhStr": "14/05/1990"}, [("wrong_date", "ngayThangNamSinhStr")]),
    "a birth date in the future": (
        {"ngayThangNamSinhStr": "2999-01-01"}, [("birth_date_out_of_range", "ngayThangNamSinhStr")],
    ),
    "a CCCD of 11 digits": ({"loaiGiayTo": 1, "soGiayTo": "00019000001"}, [("wrong_document_number", "soGiayTo")]),
    "a Căn cước of 9 digits": ({"loaiGiayTo": 8, "soGiayTo": "000190000"}, [("wrong_document_number", "soGiayTo")]),
    "a CMND of 10 digits": ({"loaiGiayTo": 2, "soGiayTo": "0001900001"}, [("wrong_document_number", "soGiayTo")]),
    "a passport of 11 characters": (
        {"loaiGiayTo": 4, "soGiayTo": "TEST0000001"}, [("wrong_document_number", "soGiayTo")],
    ),
    "a licence of 21 characters": ({"loaiGiayTo": 3, "soGiayTo": "0" * 21}, [("wrong_document_number", "soGiayTo")]),
    "an insurance card with a sign": ({"loaiGiayTo": 6, "soGiayTo": "HS-4"}, [("wrong_document_number", "soGiayTo")]),
    "a type of document that is none": ({"loaiGiayTo": 10}, [("unknown_code", "loaiGiayTo")]),
    "a document that is for files only": ({"loaiGiayTo": 9}, [("out_of_range", "loaiGiayTo")]),
    "a day that does not exist": ({"ngayDenCsltStr": "2026-02-30 10:00:00"}, [("wrong_date", "ngayDenCsltStr")]),
    "a time with an offset": ({"ngayDenCsltStr": "2026-11-23T10:00:00+07:00"}, [("wrong_date", "ngayDenCsltStr")]),
    "an arrival in a month": (
        {"ngayDenCsltStr": "2150-01-01 00:00:00", "ngayDiDuKienStr": "2150-01-02 00:00:00"},
        [("arrival_too_far_ahead", "ngayDenCsltStr")],
    ),
    "a departure before the arrival": (
        {"ngayDiDuKienStr": "2026-01-01 00:00:00"}, [("departure_before_arrival", "ngayDiDuKienStr")],
    ),
    "no room at a hotel": ({"soPhong": ""}, [("required", "soPhong")]),
    "no reason": ({"lyDoCuTru": None}, [("required", "lyDoCuTru")]),
    "an unknown reason": ({"lyDoCuTru": 21}, [("unknown_code", "lyDoCuTru")]),
    "another reason without words": ({"lyDoCuTru": 20, "lyDoChiTiet": ""}, [("required", "lyDoChiTiet")]),
    "an unknown residence": ({"noiCuTru": 4, "maTT": "999"}, [("unknown_code", "maTT"), ("unknown_code", "noiCuTru")]),
    "wrong types": (
        {"hoTen": ["x"], "soGiayTo": {}, "loaiGiayTo": True, "ngayDenCsltStr": 1.5, "soPhong": [1]},
        [
            ("wrong_type", "hoTen"),
            ("wrong_type", "loaiGiayTo"),
            ("wrong_type", "ngayDenCsltStr"),
            ("wrong_type", "soGiayTo"),
            ("wrong_type", "soPhong"),
        ],
    ),
    "a note as long as a photograph": ({"ghiChu": "x" * 100_000}, [("too_long", "ghiChu")]),
    "half a character": ({"ghiChu": "\ud800"}, [("not_json", "")]),
    "everything at once": (
        {"hoTen": "", "gioiTinh": "", "ngayThangNamSinhStr": "1990", "soGiayTo": "1", "loaiGiayTo": 1, "lyDoCuTru": 0,
         "ngayDenCsltStr": "today", "ngayDiDuKienStr": "", "soPhong": ""},
        [
            ("required", "gioiTinh"),
            ("required", "hoTen"),
            ("required", "ngayDiDuKienStr"),
            ("required", "soPhong"),
            ("unknown_code", "lyDoCuTru"),
            ("wrong_date", "ngayDenCsltStr"),
            ("wrong_document_number", "soGiayTo"),
        ],
    ),
}  # fmt: skip


async def test_every_fault_of_a_citizens_row_is_named_by_the_portals_member(
    asm: Web, token: str, clock: Clock, database: Database, logged: io.BytesIO
) -> None:
    for name, (changes, expected) in WRONG_ROWS.items():
        row = secretive(clock(), **changes)
        body = b"[" + dumped(row) + b"]"
        answer = await asm.ask("POST", CITIZENS, token, data=body, headers={"Content-Type": "application/json"})
        if name == "half a character":
            assert problem(answer) == (400, "not_json")
            continue
        assert (name, row_faults(answer)) == (name, expected)
        message = told(answer)[1]
        assert message.startswith("Bản khai báo 1: ")
        assert message.endswith(". Không có bản nào được ghi nhận.")
        for _, place in expected:
            assert f"{place}: " in message
        await assert_no_trace(database, logged, answer.body)


def dumped(row: dict[str, Any]) -> bytes:
    """JSON even of what is half a character."""
    try:
        return orjson.dumps(row)
    except TypeError:
        return orjson.dumps({**row, "ghiChu": "HALF"}).replace(b"HALF", b"\\ud800")


FOREIGN_ROWS: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "no nationality": ({"quocTich": ""}, [("required", "quocTich")]),
    "an unknown nationality": ({"quocTich": "XXZ"}, [("unknown_code", "quocTich")]),
    "a passport of 11 characters": ({"soHoChieu": "TEST0000001"}, [("wrong_document_number", "soHoChieu")]),
    "no precision": ({"loaiNgayThangNamSinh": None}, [("required", "loaiNgayThangNamSinh")]),
    "an unknown precision": ({"loaiNgayThangNamSinh": "M"}, [("out_of_range", "loaiNgayThangNamSinh")]),
    "a year with a day": ({"ngayThangNamSinhStr": "1990-05-14"}, [("wrong_date", "ngayThangNamSinhStr")]),
    "no permitted stay": ({"thoiHanTamTruStr": ""}, [("required", "thoiHanTamTruStr")]),
    "a permitted stay of the wrong form": ({"thoiHanTamTruStr": "31/01/2027"}, [("wrong_date", "thoiHanTamTruStr")]),
    "everything": (
        dict.fromkeys(("hoTen", "gioiTinh", "soHoChieu", "ngayThangNamSinhStr", "ngayDenCsltStr", "ngayDiDuKienStr")),
        [
            ("required", "gioiTinh"),
            ("required", "hoTen"),
            ("required", "ngayDenCsltStr"),
            ("required", "ngayDiDuKienStr"),
            ("required", "ngayThangNamSinhStr"),
            ("required", "soHoChieu"),
        ],
    ),
}


async def test_every_fault_of_a_foreigners_row_is_named_by_the_portals_member(
    asm: Web, token: str, clock: Clock, database: Database
) -> None:
    for name, (changes, expected) in FOREIGN_ROWS.items():
        answer = await send(asm, token, FOREIGNERS, foreigner(clock(), **changes))
        assert (name, row_faults(answer)) == (name, expected)
    assert await count(database, "stays") == 0


CHANGES: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "nothing": (
        {"loai": "", "soGiayTo": None, "loaiGiayTo": ""},
        [("required", "loai"), ("required", "loaiGiayTo"), ("required", "soGiayTo")],
    ),
    "an unknown change": ({"loai": "XX"}, [("out_of_range", "loai")]),
    "no CCCD": ({"soGiayTo": "1", "loaiGiayTo": 1}, [("wrong_document_number", "soGiayTo")]),
    "an extension without its time": ({"loai": "GH"}, [("required", "thoiGianStr")]),
    "an extension to no time": ({"loai": "GH", "thoiGianStr": "mai"}, [("wrong_date", "thoiGianStr")]),
    "an extension to an earlier time": (
        {"loai": "GH", "thoiGianStr": "2026-01-01 00:00:00"}, [("departure_before_arrival", "thoiGianStr")],
    ),
    "a departure in the future": (
        {"loai": "TS", "thoiGianStr": "2150-01-01 00:00:00"}, [("departure_in_future", "thoiGianStr")],
    ),
}  # fmt: skip


async def test_every_fault_of_a_change_is_named_by_the_portals_member(asm: Web, token: str, clock: Clock) -> None:
    await send(asm, token, CITIZENS, citizen(1, clock()))
    for name, (changes, expected) in CHANGES.items():
        answer = await send(asm, token, DEPARTURES, {**leaving(1), **changes})
        assert (name, row_faults(answer)) == (name, expected)
        assert told(answer)[1].startswith("Bản ghi 1: ")


async def test_an_extension_goes_later_and_at_most_30_days_from_the_arrival(asm: Web, token: str, clock: Clock) -> None:
    now = clock()
    await send(asm, token, CITIZENS, citizen(1, now, ngayDiDuKienStr=written(now + timedelta(days=5))))
    extension = {**leaving(1), "loai": "GH"}
    for until, expected in (
        (now + timedelta(days=4), [("departure_not_later", "thoiGianStr")]),
        (now + timedelta(days=32), [("stay_too_long", "thoiGianStr")]),
    ):
        answer = await send(asm, token, DEPARTURES, {**extension, "thoiGianStr": written(until)})
        assert row_faults(answer) == expected
    last = {**extension, "thoiGianStr": written(now + timedelta(days=29))}
    assert told(await send(asm, token, DEPARTURES, last))[0] == 200


async def test_nobody_leaves_who_is_not_in_house_here(
    asm: Web, log_in: Opener, make_key: KeyMaker, token: str, other_facility: Facility, clock: Clock
) -> None:
    elsewhere = (await log_in(await make_key(PrincipalKind.OWNER, other_facility)))["AccessToken"]
    await send(asm, elsewhere, CITIZENS, citizen(1, clock()))
    answer = await send(asm, token, DEPARTURES, leaving(1))
    assert told(answer) == (
        400,
        "Bản ghi 1: Không có khách nào mang giấy tờ này đang lưu trú tại cơ sở. Không có bản nào được ghi nhận.",
    )
    assert answer.json["data"]["results"][0]["code"] == "not_in_house"


async def test_a_guest_who_is_in_house_is_refused_with_the_receipt_of_that_stay(
    asm: Web, token: str, clock: Clock
) -> None:
    first = (await send(asm, token, CITIZENS, citizen(1, clock()))).json["data"]["results"][0]
    another_day = written(clock() - timedelta(days=2))  # whatever the hour: shortly after midnight one came yesterday
    answer = await send(asm, token, CITIZENS, citizen(1, clock(), ngayDenCsltStr=another_day))
    (result,) = answer.json["data"]["results"]
    assert (result["code"], result["stay_id"], result["receipt"]) == (
        "already_staying",
        first["stay_id"],
        first["receipt"],
    )
    assert first["receipt"]["code"] in told(answer)[1]
    changed = await send(asm, token, CITIZENS, citizen(1, clock(), soPhong="999"))
    assert changed.json["data"]["results"][0]["code"] == "content_differs"
    assert first["receipt"]["code"] in told(changed)[1]


async def test_what_cannot_be_recorded_now_is_an_answer_that_asks_to_come_again(
    asm: Web, token: str, clock: Clock, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def overloaded(_commands: object) -> None:
        raise Refused("overloaded", retry_after_seconds=1)

    monkeypatch.setattr(intake, "submit", overloaded)
    answer = await send(asm, token, CITIZENS, citizen(1, clock()))
    assert problem(answer) == (503, "overloaded")
    assert answer.headers["Retry-After"] == "1"


async def test_a_batch_of_which_a_part_could_not_be_recorded_is_to_be_sent_again(
    asm: Web, token: str, clock: Clock, database: Database, intake: Intake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "_flush_rows", 1)
    connection = await database.connect()
    await connection.execute(
        """
        CREATE FUNCTION full_disk() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
            BEGIN IF (SELECT count(*) FROM stays) > 1 THEN RAISE EXCEPTION USING ERRCODE = 'disk_full'; END IF;
            RETURN NULL; END $$;
        CREATE TRIGGER full_disk AFTER INSERT ON stays EXECUTE FUNCTION full_disk()
        """
    )
    answer = await send(asm, token, CITIZENS, citizen(1, clock()), citizen(2, clock()))
    assert told(answer)[0] == 503
    assert answer.headers["Retry-After"]
    assert [each["outcome"] for each in answer.json["data"]["results"]] == ["accepted", "refused"]
    await connection.execute("DROP TRIGGER full_disk ON stays")
    again = await send(asm, token, CITIZENS, citizen(1, clock()), citizen(2, clock()))
    assert told(again)[0] == 200
    assert [each["outcome"] for each in again.json["data"]["results"]] == ["duplicate", "accepted"]


# -- rows that are taken -----------------------------------------------------------------------------------------------


async def test_data_tells_what_became_of_every_row(asm: Web, token: str, clock: Clock) -> None:
    await send(asm, token, CITIZENS, citizen(1, clock()))
    answer = await send(asm, token, CITIZENS, citizen(1, clock()), citizen(2, clock()), {}, citizen(3, clock()))
    data = answer.json["data"]
    assert (data["received"], data["accepted"], data["duplicate"], data["refused"]) == (4, 2, 1, 1)
    assert [each["row"] for each in data["results"]] == [1, 2, 3, 4]
    assert [each["outcome"] for each in data["results"]] == ["duplicate", "accepted", "refused", "accepted"]
    for each in data["results"]:
        filed = each["outcome"] != "refused"
        assert bool(each["stay_id"] and each["receipt"]["code"] if filed else each["errors"])
        assert (each["version"], each["late_minutes"], each["code"]) == (
            (1, 0, None) if filed else (None, None, "declaration_invalid")
        )
        if filed:
            assert each["receipt"]["check_url"].endswith(each["receipt"]["code"])
    assert told(answer)[1].endswith("3 bản còn lại đã được ghi nhận, không cần gửi lại.")


async def test_the_receipt_of_a_row_is_the_one_that_the_keys_holder_can_fetch(
    asm: Web, token: str, owner_key: str, clock: Clock
) -> None:
    (row,) = (await send(asm, token, CITIZENS, citizen(1, clock()))).json["data"]["results"]
    receipt = (await asm.ask("GET", f"/v1/stays/{row['stay_id']}/receipt", owner_key)).json
    assert row["receipt"] == {name: receipt[name] for name in ("code", "check_url", "trial")}
    stay = (await asm.ask("GET", f"/v1/stays/{row['stay_id']}?view=full", owner_key)).json
    assert stay["declaration"]["guest"]["full_name"] == citizen(1, clock())["hoTen"]


async def test_a_whole_busload_is_answered_within_what_old_programs_read(asm: Web, token: str, clock: Clock) -> None:
    answer = await send(asm, token, CITIZENS, *(citizen(index, clock()) for index in range(1, 46)))
    assert told(answer)[0] == 200
    assert len(answer.body) < 45 * 500


async def test_photographs_are_dropped_while_they_arrive(
    asm: Web, token: str, clock: Clock, database: Database, owner_key: str
) -> None:
    photograph = "/9j/" + "QUJD" * 1_000_000
    row = citizen(1, clock(), anhTruocB64=photograph, anhSauB64=photograph)
    assert told(await send(asm, token, CITIZENS, row, citizen(2, clock(), anhTruocB64=photograph)))[0] == 200
    other = citizen(1, clock(), anhTruocB64="QUJD", anhSauB64=None)
    again = await send(asm, token, CITIZENS, other)
    assert again.json["data"]["results"][0]["outcome"] == "duplicate"  # another photograph is no other content
    stay = again.json["data"]["results"][0]["stay_id"]
    declared = (await asm.ask("GET", f"/v1/stays/{stay}?view=full", owner_key)).body
    assert b"QUJD" not in declared
    connection = await database.connect()
    assert await connection.fetchval("SELECT max(length(sealed)) FROM stays") < 2_000


async def test_members_that_the_contract_does_not_have_change_nothing(asm: Web, token: str, clock: Clock) -> None:
    row = {**citizen(1, clock()), "maCSLT": "1000227", "source_ref": "sandbox:overloaded", "facility": "HY-KS-0002"}
    assert told(await send(asm, token, CITIZENS, row))[0] == 200
    again = await send(asm, token, CITIZENS, citizen(1, clock()))
    assert again.json["data"]["results"][0]["outcome"] == "duplicate"


async def test_a_foreigner_is_declared_as_the_form_says_and_no_more(
    asm: Web, token: str, owner_key: str, clock: Clock
) -> None:
    (row,) = (await send(asm, token, FOREIGNERS, foreigner(clock()))).json["data"]["results"]
    assert [each["code"] for each in row["warnings"]] == ["foreigner_duty"]
    declared = (await asm.ask("GET", f"/v1/stays/{row['stay_id']}?view=full", owner_key)).json["declaration"]
    assert declared["guest"]["nationality"] == "DEU"
    assert declared["guest"]["birth_date"] == "1990"
    assert declared["guest"]["document"] == {"type": 4, "number": "TEST00001"}
    assert declared["guest"]["permitted_stay_until"] == foreigner(clock())["thoiHanTamTruStr"][:10]
    assert (declared["reason"], declared["reason_text"]) == (20, "Mẫu khai báo người nước ngoài không nêu lý do")


async def test_a_foreigner_leaves_too_at_either_address(asm: Web, token: str, clock: Clock) -> None:
    await send(asm, token, FOREIGNERS, foreigner(clock()))
    gone = {"loai": "TS", "soGiayTo": "TEST00001", "loaiGiayTo": 4}
    answer = await send(asm, token, f"{FOREIGNERS}/doi-ngay-tra-phong", gone)
    assert answer.json["data"]["results"][0]["outcome"] == "accepted"
    answer = await send(asm, token, DEPARTURES, gone)
    assert answer.json["data"]["results"][0]["outcome"] == "duplicate"


async def test_a_guest_who_has_left_may_come_back_on_the_same_day(asm: Web, token: str, clock: Clock) -> None:
    await send(asm, token, CITIZENS, citizen(1, clock()))
    assert told(await send(asm, token, DEPARTURES, leaving(1)))[0] == 200
    clock.instant += timedelta(minutes=40)
    answer = await send(asm, token, CITIZENS, citizen(1, clock()))
    assert answer.json["data"]["results"][0]["outcome"] == "accepted"


async def test_where_rooms_and_departures_are_optional_the_portal_still_wants_a_departure(
    asm: Web, log_in: Opener, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock
) -> None:
    house = await make_facility("HY-NT-0001", FacilityKind.RENTAL_HOUSING)
    shown = (await log_in(await make_key(PrincipalKind.OWNER, house)))["AccessToken"]
    answer = await send(asm, shown, CITIZENS, citizen(1, clock(), soPhong="", ngayDiDuKienStr=None))
    assert row_faults(answer) == [("required", "ngayDiDuKienStr")]
    assert told(await send(asm, shown, CITIZENS, citizen(1, clock(), soPhong=None)))[0] == 200


async def test_at_a_sandbox_facility_nothing_is_carried_on(
    asm: Web, log_in: Opener, make_key: KeyMaker, make_facility: FacilityMaker, clock: Clock, database: Database
) -> None:
    sandbox = await make_facility("HY-TT-0001", sandbox=True)
    shown = (await log_in(await make_key(PrincipalKind.OWNER, sandbox)))["AccessToken"]
    assert told(await send(asm, shown, CITIZENS, citizen(1, clock())))[0] == 200
    assert await count(database, "sync_queue") == 0


async def test_wards_are_listed_for_a_province_that_there_is(asm: Web) -> None:
    for address in ("", "?trucThuocTinh=", "?trucThuocTinh=115", f"?trucThuocTinh={NAME}"):
        answer = await asm.ask("GET", f"/cms-backend/public/dm-phuong-xa{address}")
        assert faults(answer) == [("unknown_code", "trucThuocTinh")]
        assert NAME.encode() not in answer.body
