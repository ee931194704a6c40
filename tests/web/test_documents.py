"""A scanner at the desk: the answer holds what was read, and nothing of the scan is left anywhere else."""

from __future__ import annotations

import io
from typing import Any

import pytest

from asm_daemon.model import Facility, PrincipalKind, Scope
from asm_daemon.rules import local_day
from asm_daemon.web import examples
from schemas.codes import FacilityKind
from tests.conftest import Database
from tests.connectors.mrz import back_of_card, td3
from tests.stack import Clock, FacilityMaker, declaration
from tests.web.conftest import Answer, KeyMaker, Web
from tests.web.test_bad_input import assert_no_trace

QR = "000190123456||TRẦN THỊ THỬ NGHIỆM|14051990|Nữ|Ngõ Bí Mật 7|01022021"


async def scan(asm: Web, key: str | None, payload: str, **members: Any) -> Answer:
    return await asm.ask("POST", "/v1/documents:read", key, json={"payload": payload, **members})


# -- requests that are refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "pointer"),
    [
        ({}, "/payload"),
        ({"payload": ""}, "/payload"),
        ({"payload": None}, "/payload"),
        ({"payload": 190123456}, "/payload"),
        ({"payload": "<" * 4297}, "/payload"),
        ({"payload": QR, "kind": "qr"}, "/kind"),
        ({"payload": QR, "photo": "TRẦN"}, "/photo"),
    ],
)
async def test_a_request_that_is_none_is_refused_without_its_content(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO, body: dict[str, Any], pointer: str
) -> None:
    answer = await asm.ask("POST", "/v1/documents:read", owner_key, json=body)
    assert answer.problem == (422, "request_invalid")
    assert [each["pointer"] for each in answer.json["errors"]] == [pointer]
    await assert_no_trace(database, logged, answer.body)


@pytest.mark.parametrize("body", [b"", b"{", b'{"payload": "\xff"}', rb'{"payload": "\ud800"}', QR.encode()])
async def test_a_body_that_is_no_json_is_refused_without_its_content(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO, body: bytes
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await asm.ask("POST", "/v1/documents:read", owner_key, data=body, headers=headers)
    assert answer.problem == (400, "not_json")
    await assert_no_trace(database, logged, answer.body)


async def test_only_who_may_declare_may_have_documents_read(asm: Web, make_key: KeyMaker, facility: Facility) -> None:
    reader = await make_key(PrincipalKind.VENDOR, facility, scopes={Scope.STATUS})
    assert (await scan(asm, reader, QR)).problem == (403, "scope_missing")
    officer = await make_key(PrincipalKind.OFFICER)
    assert (await scan(asm, officer, QR)).problem == (403, "forbidden")
    assert (await scan(asm, None, QR)).problem == (401, "unauthenticated")


# -- scans -------------------------------------------------------------------------------------------------------------


async def test_a_scan_that_cannot_be_read_says_why_by_place_and_not_by_value(asm: Web, owner_key: str) -> None:
    damaged = td3().replace("740812", "74O812")
    answer = await scan(asm, owner_key, damaged)
    assert answer.status == 200
    [fault] = answer.json["violations"]
    assert (fault["code"], fault["pointer"], fault["place"]) == (
        "mrz_character",
        "/guest/birth_date",
        "dòng 2, ký tự 16",
    )
    assert fault["message"]["vi"]
    assert fault["message"]["en"]
    assert "birth_date" not in answer.json["fields"]["guest"]
    assert "74O812" not in answer.body.decode()


async def test_what_is_no_document_is_an_answer_with_a_reason(asm: Web, owner_key: str) -> None:
    answer = await scan(asm, owner_key, "8934567890123")
    assert (answer.status, answer.json["kind"], answer.json["fields"]) == (200, None, {})
    assert [each["code"] for each in answer.json["violations"]] == ["unknown_payload"]


@pytest.mark.parametrize("kind", [None, "cccd_qr"])
async def test_a_qr_code_gives_the_guest_of_a_declaration(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO, kind: str | None
) -> None:
    answer = await scan(asm, owner_key, QR, kind=kind)
    assert answer.json == {
        "kind": "cccd_qr",
        "fields": {
            "guest": {
                "full_name": "TRẦN THỊ THỬ NGHIỆM",
                "birth_date": "1990-05-14",
                "gender": "F",
                "nationality": "VNM",
                "document": {"type": 1, "number": "000190123456"},
                "residence": {"kind": 1, "address": "Ngõ Bí Mật 7"},
            }
        },
        "warnings": [],
        "violations": [],
    }
    assert answer.headers["Cache-Control"] == "no-store"
    await assert_no_trace(database, logged)


async def test_warnings_ask_for_what_the_card_does_not_say(asm: Web, owner_key: str) -> None:
    answer = await scan(asm, owner_key, back_of_card(), kind="mrz")
    assert [each["code"] for each in answer.json["warnings"]] == ["name_to_confirm", "document_type_open"]
    assert "type" not in answer.json["fields"]["guest"]["document"]


async def test_centuries_are_counted_from_the_day_in_viet_nam(asm: Web, owner_key: str, clock: Clock) -> None:
    clock.instant = clock.instant.replace(hour=17, minute=30)  # half past midnight of the next day
    tomorrow = local_day(clock.instant)
    answer = await scan(asm, owner_key, td3(birth=f"{tomorrow:%y%m%d}"))
    assert answer.json["fields"]["guest"]["birth_date"] == tomorrow.isoformat()


async def test_what_was_read_is_declared_with_what_the_desk_adds(
    asm: Web, make_key: KeyMaker, make_facility: FacilityMaker
) -> None:
    key = await make_key(PrincipalKind.OWNER, await make_facility("HY-NN-0001", FacilityKind.GUESTHOUSE))
    read = (await asm.ask("POST", "/v1/documents:read", key, json=examples.SCAN)).json
    guest = read["fields"]["guest"]
    guest["document"]["type"] = 8
    declared = await asm.ask("POST", "/v1/stays", key, json=declaration(1, guest=guest))
    assert (declared.status, declared.json["warnings"]) == (201, [])
