"""Every door of a running daemon, and guests whose every word is known who go through each of them.

Each scenario says which routes it opens by what it sends; `test_canary` holds the whole against the route table.
"""

from __future__ import annotations

import asyncio
import io
import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import orjson

from asm_daemon.mllp import END, START
from asm_daemon.samples_directory import DORM, GUESTHOUSE, HOSPITAL_SENDER, HOTEL, SampleKeys
from asm_daemon.web.contract import unbound_table
from asm_daemon.web.route import Route
from tests.canary.words import Words
from tests.connectors.workbooks import sheets, workbook
from tests.hotel_server import HotelServer
from tests.web.test_access import address, shape
from tests.web.test_old_client import citizen, foreigner, written
from tests.webhook_receiver import Receiver

JSON, XML, CSV = "application/json", "application/xml", "text/csv"
CASE = {"purpose": "criminal_investigation", "case_ref": "15/2026/HS-PC02"}
WAIT_SECONDS = 60.0
IMPORT_SECONDS = 30
"""How long a file's answer is waited for: a busy machine takes longer than most clients would wait."""


@dataclass(frozen=True)
class Said:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return orjson.loads(self.body)


@dataclass(frozen=True)
class Printed:
    """What a command wrote."""

    stdout: bytes
    stderr: bytes


async def command(environment: Mapping[str, str], *arguments: str, typed: str = "", expected: int = 0) -> Printed:
    """One `asm-daemon` command as an operator runs it; `typed` is its standard input. It must end with `expected`."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "asm_daemon", *arguments),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(WAIT_SECONDS):
            printed = Printed(*await process.communicate(typed.encode()))
    finally:
        if process.returncode is None:
            process.kill()
    assert process.returncode == expected, (arguments, process.returncode, printed)
    return printed


@dataclass
class Doors:
    """The daemon from outside. `taken` are the routes that took a body with a planted word in it, `refused` everything
    that was answered to what they would not take, `printed` what commands wrote. `environment` are the settings of the
    daemon; what operators type into files lies in `files`; `warrant` is by what they hold, kept in the clear."""

    http: aiohttp.ClientSession
    mllp: tuple[str, int]
    keys: SampleKeys
    words: Words
    hotel: HotelServer
    hotel_token: str
    inbox: Path
    receiver: Receiver
    environment: Mapping[str, str]
    files: Path
    warrant: str
    taken: set[str] = field(default_factory=set)
    attempts: int = 0
    refused: list[bytes] = field(default_factory=list)
    printed: list[Printed] = field(default_factory=list)
    routes: list[tuple[str, re.Pattern[str], str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        for route in unbound_table():
            name = shape(route)
            pattern = re.sub(r"\\{\w+\\}", "[^/:]+", re.escape(name.partition(" ")[2]))
            self.routes.append((route.method, re.compile(pattern), name))

    async def ask(self, method: str, path: str, key: str | None = None, **options: Any) -> Said:
        """One request. Its body counts as planted if a word of ours is in it, or if it is an archive."""
        headers = {**({"Authorization": f"Bearer {key}"} if key else {}), **options.pop("headers", {})}
        if "json" in options:
            options["data"] = orjson.dumps(options.pop("json"))
            headers.setdefault("Content-Type", JSON)
        body = options.get("data")
        if isinstance(body, bytes):
            options["data"] = io.BytesIO(body)
        async with self.http.request(method, path, headers=headers, allow_redirects=False, **options) as answer:
            said = Said(answer.status, dict(answer.headers), await answer.read())
        self.attempts += 1
        if said.status < 300 and isinstance(body, bytes) and self._planted(body):
            bare = path.partition("?")[0]
            self.taken |= {name for kind, pattern, name in self.routes if kind == method and pattern.fullmatch(bare)}
        if said.status >= 400:
            self.refused.append(repr(sorted(said.headers.items())).encode() + b"\n" + said.body)
        return said

    def _planted(self, body: bytes) -> bool:
        return body[:2] == b"PK" or any(word.encode() in body for word in self.words.said)

    async def send(self, method: str, path: str, key: str | None, expected: int, **options: Any) -> Said:
        """A request that must be answered so."""
        said = await self.ask(method, path, key, **options)
        assert said.status == expected, (method, path, said.status, said.body[:2000])
        return said

    async def run(self, *arguments: str, typed: str = "", expected: int = 0) -> None:
        """A command beside the running daemon."""
        self.printed.append(await command(self.environment, *arguments, typed=typed, expected=expected))

    @property
    def owner(self) -> str:
        return self.keys.owners[HOTEL]


def declaration(words: Words, door: str, **changes: Any) -> dict[str, Any]:
    """A guest of whom everything but dates and codes is a word of ours; `door` says where it went in."""
    now = datetime.now(UTC).replace(microsecond=0)
    return {
        "source_ref": f"PMS-{words.code(f'{door}: source_ref')}",
        "guest": {
            "full_name": f"NGUYỄN {words.word(f'{door}: middle name')} {words.word(f'{door}: given name')}",
            "birth_date": "1990-05-14",
            "gender": "F",
            "nationality": "VNM",
            "document": {"type": 1, "number": words.digits(f"{door}: document number")},
            "phone": words.digits(f"{door}: phone"),
            "residence": {
                "kind": 1,
                "province": "109",
                "ward": f"Xã {words.word(f'{door}: ward')}",
                "address": f"Ngõ {words.word(f'{door}: address')} 7",
            },
        },
        "arrived_at": (now - timedelta(minutes=30)).isoformat(),
        "planned_departure_at": (now + timedelta(days=2)).isoformat(),
        "room": f"P.{words.word(f'{door}: room')}",
        "reason": 20,
        "reason_text": f"Thăm {words.word(f'{door}: reason')}",
        "note": f"ghi chú {words.word(f'{door}: note')}",
        "party": {"ref": f"Đoàn {words.word(f'{door}: party')}", "role": "head"},
        **changes,
    }


def child(words: Words, door: str, **changes: Any) -> dict[str, Any]:
    """A child without a document, whose guardian is named by name and document."""
    made = declaration(words, door, **changes)
    guardian = {
        "relationship": 2,
        "full_name": f"TRẦN {words.word(f'{door}: guardian')}",
        "document": {"type": 9, "name": words.word(f"{door}: guardian's paper"),
                     "number": words.code(f"{door}: guardian's number")},
    }  # fmt: skip
    guest = {**made["guest"], "birth_date": f"{datetime.now(UTC).year - 4}-03-08", "guardian": guardian}
    del guest["document"]
    return {**made, "guest": guest}


# -- stays -------------------------------------------------------------------------------------------------------------


async def stays(at: Doors) -> None:
    """Declared, repeated, differing, doubled with an override, corrected, extended, left, undone, cancelled, marked."""
    words, key = at.words, at.owner
    first = declaration(words, "POST /v1/stays")
    stay = f"/v1/stays/{(await at.send('POST', '/v1/stays', key, 201, json=first)).json['stay_id']}"
    await at.send("POST", "/v1/stays", key, 200, json=first)
    again = {**first, "guest": {**first["guest"], "full_name": f"LÊ {words.word('409 content differs')}"}}
    await at.send("POST", "/v1/stays", key, 409, json=again)
    second = {**first, "source_ref": f"PMS-{words.code('409 already staying')}"}
    await at.send("POST", "/v1/stays", key, 409, json=second)
    second["override"] = {"code": "already_staying", "reason": f"lý do {words.word('override')}"}
    other = f"/v1/stays/{(await at.send('POST', '/v1/stays', key, 201, json=second)).json['stay_id']}"
    renamed = {"guest": {"full_name": f"PHẠM {words.word('PATCH: name')}"}, "room": words.word("PATCH: room")}
    await at.send("PATCH", stay, key, 412, json=renamed, headers={"If-Match": '"9"'})
    await at.send("PATCH", stay, key, 200, json=renamed, headers={"If-Match": '"1"'})
    await at.ask("GET", f"{stay}?view=full", key)
    later = (datetime.now(UTC) + timedelta(days=40)).replace(microsecond=0).isoformat()
    await at.send("POST", f"{stay}:extend", key, 200, json={"planned_departure_at": later})
    mark = {"registered_on": datetime.now(UTC).date().isoformat(), "reference": words.word("temporary residence")}
    await at.send("POST", f"{stay}:temporary-residence", key, 200, json=mark)
    marks = [{**mark, "stay_id": stay.rpartition("/")[2], "reference": words.word("temporary residence, in a batch")}]
    await at.send("POST", "/v1/temporary-residence:batch", key, 200, json=marks)
    await at.send("POST", f"{stay}:check-out", key, 200, json={"departed_at": datetime.now(UTC).isoformat()})
    await at.send("POST", f"{stay}:undo-check-out", key, 200, json={})
    reason = {"reason": "other", "note": f"huỷ vì {words.word('cancel: note')}"}
    await at.send("POST", f"{other}:cancel", key, 200, json=reason)
    rows = [declaration(words, "stays:batch"), {**declaration(words, "stays:batch, refused"), "reason": 99}]
    await at.send("POST", "/v1/stays:batch", key, 207, json=rows)
    lines = b"\n".join(orjson.dumps(declaration(words, f"NDJSON {number}")) for number in range(2))
    await at.send("POST", "/v1/stays:batch", key, 200, data=lines, headers={"Content-Type": "application/x-ndjson"})
    await at.send("POST", "/v1/stays:validate", key, 200, json=[declaration(words, "stays:validate")])
    guesthouse = at.keys.owners[GUESTHOUSE]
    await at.send("POST", "/v1/stays", guesthouse, 201, json=child(words, "a child"))
    await at.send("GET", f"/v1/stays?source_ref={first['source_ref']}", key, 200)
    await at.send("GET", f"{stay}/receipt?format=html", key, 200)
    sandboxed = declaration(words, "sandbox", source_ref="ERROR-internal")
    await at.ask("POST", "/v1/stays", at.keys.sandbox, json=sandboxed)


async def expected(at: Doors) -> None:
    """Guests who are expected: alone, in a batch, declared at the desk, cancelled."""
    words, key = at.words, at.owner
    one = await at.send("POST", "/v1/expected", key, 202, json=declaration(words, "POST /v1/expected"))
    shown = f"/v1/expected/{one.json['expected_id']}"
    desk = {"room": words.word("declared at the desk: room")}
    await at.send("POST", f"{shown}:declare", key, 201, json=desk)
    rows = [declaration(words, f"expected:batch {number}") for number in range(2)]
    batch = await at.send("POST", "/v1/expected:batch", key, 200, json=rows)
    cancelled = f"/v1/expected/{batch.json['results'][0]['expected_id']}:cancel"
    note = {"reason": "other", "note": words.word("cancel of an expected guest")}
    await at.send("POST", cancelled, key, 200, json=note)


async def documents(at: Doors) -> None:
    """A scanned card, sound and damaged."""
    words, key = at.words, at.owner
    fields = (words.digits("card: number"), "", f"LÝ {words.word('card: name')}", "14051990", "Nữ",
              f"Xã {words.word('card: address')}", "01022025")  # fmt: skip
    await at.send("POST", "/v1/documents:read", key, 200, json={"kind": "cccd_qr", "payload": "|".join(fields)})
    damaged = f"P<VNM{words.code('MRZ')}<<{words.word('MRZ')}"
    await at.send("POST", "/v1/documents:read", key, 200, json={"kind": "mrz", "payload": damaged})


# -- files -------------------------------------------------------------------------------------------------------------

_LIST = ("Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Ngày đến;Ngày đi dự kiến;Phòng;Lý do;"
         "Người giám hộ;Quan hệ;Số giấy tờ người giám hộ;Đoàn;Trưởng đoàn;Số điện thoại;Ghi chú")  # fmt: skip
_ROSTER = ("Họ tên;Ngày sinh;Giới tính;Quốc tịch;Loại giấy tờ;Số giấy tờ;Mã nhân viên;Công ty;Tòa nhà;Phòng;Giường;"
           "Ngày vào;Lý do")  # fmt: skip


def _today() -> str:
    return f"{datetime.now(UTC) + timedelta(hours=7):%d/%m/%Y}"


def _in_two_days() -> str:
    return f"{datetime.now(UTC) + timedelta(days=2, hours=7):%d/%m/%Y}"


def guest_list(words: Words, door: str) -> bytes:
    """An adult, a child with a guardian, and one whose row cannot be read."""

    def line(who: str, birth: str, number: str, guardian: str, arrival: str) -> str:
        about = f"{door}, {who}"
        guardians = [f"TRẦN {words.word(f'{about}: guardian')}", "Mẹ", words.digits(f"{about}: guardian's number")]
        return ";".join(
            [f"VŨ {words.word(f'{about}: name')}", birth, "Nữ", "Việt Nam", "1 - Thẻ CCCD" if number else "", number,
             arrival, _in_two_days(), words.word(f"{about}: room"), "Du lịch",
             *(guardians if guardian else ["", "", ""]), words.word(f"{about}: party"), "",
             words.digits(f"{about}: phone"), words.word(f"{about}: note")]
        )  # fmt: skip

    young = f"08/03/{datetime.now(UTC).year - 4}"
    lines = (
        line("adult", "14/05/1990", words.digits(f"{door}: number"), "", _today()),
        line("child", young, "", "x", _today()),
        line("refused", "31/02/1990", words.digits(f"{door}: refused number"), "", "hôm kia"),
    )
    return "\r\n".join([_LIST, *lines, ""]).encode("utf-8-sig")


def guest_workbook(words: Words, door: str) -> bytes:
    """The same list as a workbook."""
    lines = guest_list(words, door).decode("utf-8-sig").splitlines()
    return sheets({"Khách": [line.split(";") for line in lines]})


def official(words: Words, door: str, birth: str = "14/05/1990") -> bytes:
    """The Ministry's workbook with one guest."""
    return workbook({5: {
        "A": 1, "B": f"HỒ {words.word(f'{door}: name')}", "C": birth, "D": "F - Nữ", "E": "VNM - Việt Nam",
        "F": "1 - Thẻ CCCD", "H": words.digits(f"{door}: number"), "I": words.digits(f"{door}: phone"),
        "M": words.word(f"{door}: address"), "N": _today(), "O": _in_two_days(), "P": words.word(f"{door}: room"),
        "Q": "20 - Khác", "R": words.word(f"{door}: reason"), "S": words.word(f"{door}: note"),
    }})  # fmt: skip


def foreigners(words: Words, door: str) -> bytes:
    """The Ministry's XML with one guest whose row is sound and one whose row is not."""

    def guest(about: str, arrival: str) -> str:
        return (
            f"<THONG_TIN_KHACH><ho_ten>{words.word(f'{about}: name')} ANNA</ho_ten><ngay_sinh>11/02/1966</ngay_sinh>"
            f"<ngay_sinh_dung_den>D</ngay_sinh_dung_den><gioi_tinh>F</gioi_tinh><ma_quoc_tich>CHN</ma_quoc_tich>"
            f"<so_ho_chieu>{words.code(f'{about}: passport')}</so_ho_chieu><so_phong>{words.word(f'{about}: room')}"
            f"</so_phong><ngay_den>{arrival}</ngay_den><ngay_di_du_kien>{_in_two_days()}</ngay_di_du_kien>"
            f"<la>{words.word(f'{about}: unknown element')}</la></THONG_TIN_KHACH>"
        )

    rows = guest(door, _today()) + guest(f"{door}, refused", words.word(f"{door}: no date"))
    return f'<?xml version="1.0" encoding="UTF-8"?><KHAI_BAO_TAM_TRU>{rows}</KHAI_BAO_TAM_TRU>'.encode()


def roster(words: Words, door: str) -> bytes:
    """A dormitory's list of three, one of them without a birth date that exists."""

    def line(about: str, birth: str) -> str:
        return ";".join([f"ĐỖ {words.word(f'{about}: name')}", birth, "Nam", "Việt Nam", "Thẻ CCCD",
                         words.digits(f"{about}: number"), words.code(f"{about}: employee"),
                         f"Công ty {words.word(f'{about}: company')}", "B", words.word(f"{about}: room"), "2",
                         _today(), "Lao động"])  # fmt: skip

    lines = [line(f"{door} {number}", "30/10/2000" if number else "31/02/2000") for number in range(3)]
    return "\r\n".join([_ROSTER, *lines, ""]).encode("utf-8-sig")


def hl7(
    words: Words, door: str, event: str = "A01", sender: tuple[str, str] = HOSPITAL_SENDER, birth: str = "19460613"
) -> bytes:
    """One message about a patient, with next of kin, and more than we ask for."""
    now = f"{datetime.now(UTC) + timedelta(hours=7):%Y%m%d%H%M%S}"
    lines = (
        rf"MSH|^~\&|{sender[0]}|{sender[1]}|ASM|HY|{now}||ADT^{event}|{words.code(f'{door}: control id')}|P|2.5||||||"
        "UNICODE UTF-8",
        f"EVN||{now}",
        f"PID|||{words.digits(f'{door}: number')}^^^^NI~{words.code(f'{door}: record')}^^^^MR||"
        f"ĐOÀN^{words.word(f'{door}: given name')}^{words.word(f'{door}: middle name')}||{birth}|F|||"
        f"Phố {words.word(f'{door}: address')}^^^109^^VNM^P||{words.digits(f'{door}: phone')}|||||||||||||VNM",
        f"NK1|1|BÙI^{words.word(f'{door}: next of kin')}|MTH",
        f"PV1||I|KHOA {words.word(f'{door}: ward')}^101^1|||||||||||||||||{words.code(f'{door}: visit')}"
        + "|" * 25 + now,
    )  # fmt: skip
    return "".join(f"{line}\r" for line in lines).encode()


async def files(at: Doors) -> None:
    """Every format of a file, its report, and the file again with what is wrong in it."""
    words = at.words
    for name, owner, content, media, reader in (
        ("list", GUESTHOUSE, guest_list(words, "CSV"), CSV, "spreadsheet"),
        ("list as XLSX", GUESTHOUSE, guest_workbook(words, "XLSX"), "application/octet-stream", "spreadsheet"),
        ("official", HOTEL, official(words, "official XLSX"), "application/octet-stream", "official_xlsx"),
        ("official, refused", HOTEL, official(words, "XLSX, refused", "31/02/1990"),
         "application/octet-stream", "official_xlsx"),
        ("foreigners", HOTEL, foreigners(words, "XML"), XML, "foreigner_xml"),
        ("roster", DORM, roster(words, "roster as a file"), CSV, "dorm_roster"),
        ("hl7", "HY-YT-0001", hl7(words, "HL7 file"), "application/hl7-v2", "hl7_adt"),
        ("no workbook", HOTEL, b"PK\x03\x04" + words.word("damaged workbook").encode(),
         "application/octet-stream", "official_xlsx"),
        ("no XML", HOTEL, f"<KHAI_BAO_TAM_TRU><{words.word('damaged XML')}".encode(), XML, "foreigner_xml"),
        ("entities", HOTEL, f'<!DOCTYPE a [<!ENTITY x "{words.word("entity")}">]><a>&x;</a>'.encode(), XML,
         "foreigner_xml"),
    ):  # fmt: skip
        key = at.keys.owners[owner]
        headers = {"Content-Type": media}
        path = f"/v1/imports?connector={reader}&wait={IMPORT_SECONDS}"
        rehearsed = await at.ask("POST", f"{path}&rehearse=true", key, data=content, headers=headers)
        sent = await at.ask("POST", path, key, data=content, headers=headers)
        assert sent.status in (200, 207, 422), (name, sent.status, sent.body[:800], rehearsed.status)
        where = sent.headers.get("Location")
        if where is not None:
            await at.ask("GET", where, key)
            report = await at.ask("GET", f"{where}/report", key)
            at.refused.append(report.body)
            await at.ask("GET", f"{where}/annotated", key)
    form = aiohttp.FormData({"connector": "spreadsheet"})
    form.add_field("file", guest_list(words, "multipart"), filename=f"{words.word('file name')}.csv")
    await at.ask("POST", "/v1/imports", at.owner, data=form)
    await at.ask("GET", "/v1/imports", at.owner)


async def rosters(at: Doors) -> None:
    """A roster planned, looked at as a page, applied; and one that is none."""
    words, key = at.words, at.keys.owners[DORM]
    headers = {"Content-Type": CSV}
    plan = await at.send("POST", "/v1/rosters?scope=all", key, 201, data=roster(words, "roster"), headers=headers)
    path = f"/v1/rosters/{plan.json['plan_id']}"
    await at.send("GET", f"{path}?format=html", key, 200)
    rows = [{"row": 1, "decision": words.word("decision")}]
    await at.send("POST", f"{path}:apply", key, 422, json={"confirm_check_outs": 0, "decisions": rows})
    await at.ask("POST", f"{path}:apply", key, json={"confirm_check_outs": plan.json["counts"]["actions"]["check_out"]})
    await at.ask("POST", "/v1/rosters?scope=all", key, data=words.word("no roster").encode(), headers=headers)


async def watched_folder(at: Doors) -> None:
    """Files of which one is taken in and one rejected, until both have their report."""
    folder = at.inbox / GUESTHOUSE
    await asyncio.to_thread(folder.mkdir, parents=True)
    await asyncio.to_thread((folder / "khach.csv").write_bytes, guest_list(at.words, "inbox"))
    await asyncio.to_thread((folder / "hong.csv").write_bytes, at.words.word("rejected file").encode())
    reports = folder / "reports"
    async with asyncio.timeout(WAIT_SECONDS):
        while len(await asyncio.to_thread(lambda: list(reports.glob("*.json")))) < 2:
            await asyncio.sleep(0.1)


# -- other software ----------------------------------------------------------------------------------------------------


async def portal(at: Doors) -> None:
    """A program that speaks to the national portal: tokens, citizens, foreigners, departures."""
    words, now = at.words, datetime.now(UTC)
    _, key_id, secret = at.owner.split("_")
    form = f"username={key_id}&password={secret}&grant-type=api_cslt".encode()
    oauth = "/authorization-service/oauth"
    urlencoded = {"Content-Type": "application/x-www-form-urlencoded"}
    tokens = await at.send("POST", f"{oauth}/token", None, 200, data=form, headers=urlencoded)
    wrong = f"username={words.code('portal user')}&password={words.code('portal password')}&grant-type=x".encode()
    await at.ask("POST", f"{oauth}/token", None, data=wrong, headers=urlencoded)
    token = tokens.json["data"]["AccessToken"]
    number = words.digits("portal citizen: number")
    person = citizen(1, now)
    person |= {
        "hoTen": f"MAI {words.word('portal citizen: name')}", "soGiayTo": number, "loaiGiayTo": 1,
        "diaChi": words.word("portal citizen: address"), "soPhong": words.word("portal citizen: room"),
        "soDienThoai": words.digits("portal citizen: phone"), "ghiChu": words.word("portal citizen: note"),
        "lyDoChiTiet": words.word("portal citizen: reason"), "gioiTinh": "M", "ngayThangNamSinhStr": "1990-05-14",
    }  # fmt: skip
    citizens, others = "/client-service/kbtt-vn/kbtt-3th", "/client-service/kbtt/kbtt-3th"
    await at.send("POST", citizens, token, 200, json=[person])
    refused = person | {"soGiayTo": words.word("portal citizen: refused number")}
    await at.send("POST", citizens, token, 400, json=[refused])
    passport = words.code("portal foreigner: passport")
    guest = foreigner(now, hoTen=f"{words.word('portal foreigner: name')} ANNA", soHoChieu=passport,
                      soPhong=words.word("portal foreigner: room"))  # fmt: skip
    await at.send("POST", others, token, 200, json=[guest])
    leaves = {"loai": "GH", "soGiayTo": number, "loaiGiayTo": 1, "thoiGianStr": written(now + timedelta(days=3))}
    await at.send("POST", f"{citizens}/doi-ngay-tra-phong", token, 200, json=[leaves])
    leaves |= {"soGiayTo": passport, "loaiGiayTo": 4}
    await at.send("POST", f"{others}/doi-ngay-tra-phong", token, 200, json=[leaves])
    await at.ask("POST", f"{oauth}/refresh-token?refresh_token={words.code('portal: token in the address')}")


async def hospital(at: Doors) -> None:
    """HL7 over MLLP: admitted, changed, refused in every way, and what is no message."""
    words = at.words
    bare = "MSH|^~\\&|" + words.word("no message")
    for message, code in (
        (hl7(words, "A01"), b"AA"),
        (hl7(words, "A01, refused", birth="30 tháng 2"), b"AE"),
        (hl7(words, "A08 of nobody", "A08"), None),
        (hl7(words, "A99", "A99"), None),
        (hl7(words, "unknown sender", sender=(words.word("sender"), words.word("sender's place"))), b"AR"),
        (hl7(words, "no UTF-8").replace(b"ADT", b"ADT\xff"), None),
        (bare.encode(), None),
    ):
        answer = await _told(at, START + message + END + b"\r")
        assert code is None or b"MSA|" + code in answer, answer
        at.refused.append(_without_echo(answer))
    at.refused.append(await _told(at, words.word("no frame").encode() * 9))


def _without_echo(answer: bytes) -> bytes:
    """An acknowledgement repeats the names and the control id of what it acknowledges: the standard demands it."""
    return b"\r".join(line for line in answer.split(b"\r") if not line.lstrip(START).startswith((b"MSH", b"MSA")))


async def _told(at: Doors, sent: bytes) -> bytes:
    reader, writer = await asyncio.open_connection(*at.mllp)
    try:
        writer.write(sent)
        writer.write_eof()
        async with asyncio.timeout(WAIT_SECONDS):
            return await reader.read()
    finally:
        writer.close()


async def hotel_software(at: Doors) -> None:
    """Bookings pushed as OpenTravel, and others fetched when a webhook rings, by key and by token."""
    words, key = at.words, at.owner
    day, after = datetime.now(UTC).date() + timedelta(days=1), datetime.now(UTC).date() + timedelta(days=3)
    booking = f"""<OTA_HotelResNotifRQ xmlns="http://www.opentravel.org/OTA/2003/05" Version="1.0"><HotelReservations>
        <HotelReservation ResStatus="Commit"><UniqueID Type="14" ID="{words.code("OTA: booking")}"/><RoomStays>
        <RoomStay><RoomTypes><RoomType RoomID="{words.code("OTA: room")}"/></RoomTypes>
        <TimeSpan Start="{day}" End="{after}"/></RoomStay></RoomStays><ResGuests><ResGuest><Profiles><ProfileInfo>
        <Profile ProfileType="1"><Customer BirthDate="1990-05-06" Gender="Female"><PersonName>
        <GivenName>{words.word("OTA: given name")}</GivenName><Surname>{words.word("OTA: surname")}</Surname>
        </PersonName><Telephone PhoneNumber="{words.digits("OTA: phone")}"/><CitizenCountryName Code="DE"/>
        <Document DocID="{words.code("OTA: passport")}" DocType="2" DocIssueCountry="DE"/></Customer></Profile>
        </ProfileInfo></Profiles></ResGuest></ResGuests><ResGlobalInfo><Comments><Comment>
        <Text>{words.word("OTA: comment")}</Text></Comment></Comments></ResGlobalInfo></HotelReservation>
        </HotelReservations></OTA_HotelResNotifRQ>"""
    path = "/v1/hotel-events"
    await at.send("POST", f"{path}/opentravel", key, 200, data=booking.encode(), headers={"Content-Type": XML})
    wrong = f"<OTA_HotelResNotifRQ><{words.word('OTA: broken')}".encode()
    await at.send("POST", f"{path}/opentravel", key, 200, data=wrong, headers={"Content-Type": XML})
    for address_, holder in ((f"{path}/apaleo", key), (f"{path}/apaleo/{at.hotel_token}", None)):
        reference = words.code("hotel software: reservation")
        at.hotel.reservations[reference] = {
            "id": reference,
            "status": "Confirmed",
            "arrival": f"{day}T14:00:00+07:00",
            "departure": f"{after}T12:00:00+07:00",
            "adults": 1,
            "unit": {"name": words.code("hotel software: room")},
            "primaryGuest": {
                "firstName": words.word("hotel software: first name"),
                "lastName": words.word("hotel software: last name"),
                "nationalityCountryCode": "DE",
                "email": f"{words.code('hotel software: mail')}@example.org",
            },
        }
        event = {"topic": "Reservation", "type": "created", "propertyId": "MUC", "data": {"entityId": reference}}
        await at.send("POST", address_, holder, 202, json=event)
    async with asyncio.timeout(WAIT_SECONDS):
        while sum("/reservations/" in asked for asked in at.hotel.asked) < 2:
            await asyncio.sleep(0.05)


async def webhooks(at: Doors) -> None:
    """An address that an owner registers may name whom it likes; it is nobody's business. Another one takes what is
    sent: a test, and that a guest was declared late."""
    dead = f"http://127.0.0.1:9/{at.words.code('webhook address')}"
    for url in (dead, at.receiver.url):
        made = await at.send("POST", "/v1/webhooks", at.owner, 201, json={"url": url})
        await at.ask("POST", f"/v1/webhooks/{made.json['id']}:test", at.owner, json={})
    late = declaration(at.words, "late", arrived_at=(datetime.now(UTC) - timedelta(days=3)).isoformat())
    await at.send("POST", "/v1/stays", at.owner, 201, json=late)
    await at.ask("GET", "/v1/events", at.owner)
    async with asyncio.timeout(WAIT_SECONDS):
        while not {"webhook.test", "stay.declared_late"} <= {message.json["type"] for message in at.receiver.messages}:
            await asyncio.sleep(0.05)


async def police(at: Doors) -> None:
    """Searches that find, find nothing, and are refused: the term is the most personal of all."""
    words, officer = at.words, at.keys.officer
    known = declaration(words, "searched for")
    await at.send("POST", "/v1/stays", at.owner, 201, json=known)
    number = known["guest"]["document"]["number"]
    found = await at.send("POST", "/v1/police/searches", officer, 200, json={"document_number": number, **CASE})
    assert len(found.json["stays"]) == 1
    for term, purpose in (
        (words.digits("police: nobody's number"), CASE),
        (words.code("police: without a purpose"), CASE | {"purpose": "curiosity"}),
        (words.code("police: without a case"), CASE | {"case_ref": words.word("police: wrong case reference")}),
        (words.word("police: a name in place of a number"), CASE),
    ):
        await at.ask("POST", "/v1/police/searches", officer, json={"document_number": term, **purpose})
    await at.ask("POST", "/v1/police/searches", at.owner, json={"document_number": number, **CASE})
    await at.ask("GET", "/v1/police/alerts", officer)


# -- operators ---------------------------------------------------------------------------------------------------------


async def files_of_operators(at: Doors) -> None:
    """A list declared and a roster planned at the command line; each has a line that is refused."""
    words = at.words
    for name, content, arguments in (
        ("khach.csv", guest_list(words, "import FILE"), ("import", "--facility", GUESTHOUSE)),
        ("cong-nhan.csv", roster(words, "roster FILE"), ("roster", "--facility", DORM, "--scope", "building:B")),
    ):
        file = at.files / name
        await asyncio.to_thread(file.write_bytes, content)
        await at.run(*arguments, str(file), expected=1)


async def legal_holds(at: Doors) -> None:
    """Stays held by the number of a document: from a file, somebody's and one that is too long, and typed, nobody's."""
    words = at.words
    known = declaration(words, "held")
    await at.send("POST", "/v1/stays", at.owner, 201, json=known)
    hold = ("hold", "add", "--warrant", at.warrant, "--reason", "điều tra")
    for name, number, expected in (
        ("known", known["guest"]["document"]["number"], 0),
        ("refused", f"{words.word('hold: refused number')} " * 5, 2),
    ):
        file = at.files / name
        await asyncio.to_thread(file.write_text, f"{number}\n")
        await asyncio.to_thread(file.chmod, 0o600)
        await at.run(*hold, "--document-file", str(file), expected=expected)
    await at.run(*hold, "--document", typed=words.digits("hold: nobody's number"), expected=1)


# -- every route, wrongly ----------------------------------------------------------------------------------------------


async def wrong_requests(at: Doors) -> None:
    """To each route of the table, with the key it wants: words in the address, in the query, in headers, in bodies of
    every type it takes that are malformed, of another form, of another type, or too large."""
    keys = {"operator": at.keys.operator, "officer": at.keys.officer, "owner": at.owner, "portal": at.owner,
            "department": next(iter(at.keys.departments.values())), "public": None}  # fmt: skip
    for route in unbound_table():
        key = keys[route.who.name.partition(":")[0]]
        path = address(shape(route).partition(" ")[2])
        about = shape(route)
        for target, options in _wrong(at.words, route, path, about):
            said = await at.ask(route.method, target, key, **options)
            assert said.status != 500, (about, said.body)


def _wrong(words: Words, route: Route[Any, Any], path: str, about: str) -> list[tuple[str, dict[str, Any]]]:
    word, code = words.word(f"{about}: wrongly"), words.code(f"{about}: wrongly")
    headers = {"X-Guest": code, "If-Match": f'"{code}"', "Idempotency-Key": code, "Accept-Language": code}
    tries: list[tuple[str, dict[str, Any]]] = [
        (f"{path}?{word}={word}&cursor={code}", {}),
        (f"{path.rstrip('/')}/{word}", {"headers": headers}),
    ]
    if "{" in route.path:
        tries.append((re.sub(r"/[^/:{]*{[^/]*?}(?=[:/]|$)", f"/{code}", shape(route).partition(" ")[2]), {}))
    whole = orjson.dumps({word: word, "guest": {"full_name": word, "document": {"number": code}}, "note": word})
    others = (whole[:-3], b"[" + whole + b"]", word.encode("utf-16"), f"{word}={word}&username={code}".encode())
    for number, media in enumerate(route.body.contents):
        bodies = (whole, *others) if number == 0 else (whole,)
        tries += [(path, {"data": body, "headers": {**headers, "Content-Type": media}}) for body in bodies]
    tries.append((path, {"data": word.encode(), "headers": {"Content-Type": f"text/{code}"}}))
    if route.body.contents:
        media = next(iter(route.body.contents))
        large = b'["' + word.encode() + b"x" * (1 << 20) + b'"]'
        tries.append((path, {"data": large, "headers": {"Content-Type": media}}))
    return tries


async def broken_frames(at: Doors) -> None:
    """What is no HTTP, and a body that breaks off."""
    url = at.http._base_url
    assert url is not None
    word = at.words.word("broken request")
    for raw in (
        f"GET /{word} HTTP/1.1\r\nHost: asm\r\nX-{word}\x01: {word}\r\n\r\n".encode(),
        f"POST /v1/stays HTTP/1.1\r\nHost: asm\r\nAuthorization: Bearer {at.owner}\r\nContent-Type: {JSON}\r\n"
        f'Content-Length: 5000\r\n\r\n{{"note":"{word}"'.encode(),
    ):
        _, writer = await asyncio.open_connection(url.host, url.port)
        writer.write(raw)
        await writer.drain()
        writer.close()


SCENARIOS: tuple[Callable[[Doors], Coroutine[Any, Any, None]], ...] = (
    watched_folder, stays, expected, documents, files, rosters, portal, hospital, hotel_software, webhooks, police,
    files_of_operators, legal_holds, wrong_requests, broken_frames,
)  # fmt: skip
