"""Bad input gets its clear problem at once; nothing of it is stored, repeated in the answer, or logged."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
from typing import Any

import orjson
import pytest

from asm_daemon.model import Facility, PrincipalKind
from tests.conftest import Database
from tests.stack import declaration
from tests.web.conftest import MAX_BATCH_ROWS, MAX_BODY_BYTES, KeyMaker, Web

NAME, NUMBER, PHONE, ADDRESS = "TRẦN THỊ THỬ NGHIỆM", "000190123456", "0000000007", "Ngõ Bí Mật 7"
TABLES = ("stays", "stay_versions", "source_refs", "in_house", "receipt_batches", "sync_queue")


def secretive(**changes: Any) -> dict[str, Any]:
    """A declaration whose every personal value can be looked for."""
    guest = {
        "full_name": NAME,
        "birth_date": "1990-05-14",
        "gender": "F",
        "nationality": "VNM",
        "document": {"type": 1, "number": NUMBER},
        "phone": PHONE,
        "residence": {"kind": 1, "province": "109", "address": ADDRESS},
    }
    return {**declaration(1), "guest": {**guest, **changes.pop("guest", {})}, **changes}


async def assert_no_trace(database: Database, logged: io.BytesIO, *answers: bytes) -> None:
    connection = await database.connect()
    for table in TABLES:
        assert await connection.fetchval(f"SELECT count(*) FROM {table}") == 0, table
    for said in (*answers, logged.getvalue()):
        for secret in (NAME, NUMBER, NUMBER[:11], PHONE, ADDRESS):
            assert secret.encode() not in said
            assert json.dumps(secret)[1:-1].encode() not in said


DOCUMENT = {"type": 1, "number": NUMBER}
CONTENT: dict[str, tuple[dict[str, Any], list[tuple[str, str]]]] = {
    "unknown members": (
        {"colour": NAME, "guest": {"nickname": NAME}},
        [("unknown_field", "/guest/nickname"), ("unknown_field", "/colour")],
    ),
    "members that are named like a person": (
        {NAME: 1, NUMBER: 2, "TEST00001": 3},
        [("unknown_field", "/"), ("unknown_field", "/"), ("unknown_field", "/")],
    ),
    "a CCCD of 11 digits": (
        {"guest": {"document": {"type": 1, "number": NUMBER[:11]}}},
        [("wrong_document_number", "/guest/document/number")],
    ),
    "a name of only spaces": ({"guest": {"full_name": "   "}}, [("blank_name", "/guest/full_name")]),
    "wrong types": (
        {"guest": {"full_name": [NAME], "document": {"type": "1", "number": 1}}, "room": 203, "reason": "1"},
        [
            ("wrong_type", "/guest/full_name"),
            ("unknown_code", "/guest/document/type"),
            ("wrong_type", "/guest/document/number"),
            ("wrong_type", "/room"),
            ("unknown_code", "/reason"),
        ],
    ),
    "a date that does not exist": ({"guest": {"birth_date": "1990-02-30"}}, [("wrong_date", "/guest/birth_date")]),
    "an instant without its offset": ({"arrived_at": "2026-11-23T14:05:00"}, [("no_offset", "/arrived_at")]),
    "an instant as a number": ({"arrived_at": 1_800_000_000}, [("wrong_type", "/arrived_at")]),
    "a departure before the arrival": (
        {"planned_departure_at": "2026-01-01T00:00:00+07:00"},
        [("departure_before_arrival", "/planned_departure_at")],
    ),
    "an arrival in a month": (
        {"arrived_at": "2999-01-01T00:00:00+07:00", "planned_departure_at": "2999-01-02T00:00:00+07:00"},
        [("arrival_too_far_ahead", "/arrived_at")],
    ),
    "unknown codes": (
        {"reason": 21, "guest": {"nationality": "XXZ", "document": {"type": 10, "number": NUMBER}}},
        [
            ("unknown_code", "/guest/nationality"),
            ("unknown_code", "/guest/document/type"),
            ("unknown_code", "/reason"),
        ],
    ),
    "a reference that is none": ({"source_ref": f"{NAME} {NUMBER}"}, [("wrong_source_ref", "/source_ref")]),
}


async def test_wrong_content_is_refused_with_every_fault_at_once_and_no_value(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO
) -> None:
    answers = []
    for name, (changes, expected) in CONTENT.items():
        answer = await asm.ask("POST", "/v1/stays", owner_key, json=secretive(**changes))
        found = [(each["code"], each["pointer"]) for each in answer.json["errors"]]
        assert (name, answer.problem) == (name, (422, "declaration_invalid"))
        assert (name, sorted(found)) == (name, sorted(expected))
        assert all(each["message"]["vi"] and each["message"]["en"] for each in answer.json["errors"])
        answers.append(answer.body)
    await assert_no_trace(database, logged, *answers)


BODIES: dict[str, tuple[bytes, dict[str, str], int, str]] = {
    "truncated JSON": (orjson.dumps(secretive())[:-20], {}, 400, "not_json"),
    "no JSON": (f"full_name={NAME}".encode(), {}, 400, "not_json"),
    "nothing": (b"", {}, 400, "not_json"),
    "an array": (orjson.dumps([secretive()]), {}, 422, "request_invalid"),
    "half a character": (NAME.encode()[:-1], {}, 400, "not_json"),
    "60 kB of [": (b"[" * 60_000, {}, 400, "not_json"),
    "10 MB of [": (b"[" * 10_000_000, {}, 413, "body_too_large"),
    "a form": (b"a=b", {"Content-Type": "application/x-www-form-urlencoded"}, 415, "unsupported_media_type"),
    "no content type": (orjson.dumps(secretive()), {"Content-Type": ""}, 415, "unsupported_media_type"),
    "UTF-16": (b"{}", {"Content-Type": "application/json; charset=utf-16"}, 415, "unsupported_media_type"),
    "a compressed body": (gzip.compress(b"{}"), {"Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
}


async def test_a_body_that_is_no_declaration_gets_its_own_problem(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO
) -> None:
    answers = []
    for name, (body, headers, status, code) in BODIES.items():
        headers = {"Content-Type": "application/json", **headers}
        answer = await asm.ask("POST", "/v1/stays", owner_key, data=body, headers=headers)
        assert (name, answer.problem) == (name, (status, code))
        answers.append(answer.body)
    await assert_no_trace(database, logged, *answers)


async def test_facilities_of_others_and_unknown_ones_are_refused_alike(
    asm: Web, owner_key: str, other_facility: Facility, database: Database, logged: io.BytesIO
) -> None:
    told = set()
    for code in (other_facility.code, "HY-KS-9999", NAME[:20]):
        answer = await asm.ask("POST", "/v1/stays", owner_key, json=secretive(facility=code))
        assert answer.problem == (403, "facility_not_granted")
        told.add(tuple((name, value) for name, value in answer.json.items() if name != "request_id"))
    assert len(told) == 1
    await assert_no_trace(database, logged)


async def test_a_key_of_several_facilities_has_to_name_one(
    asm: Web, make_key: KeyMaker, facility: Facility, other_facility: Facility, database: Database, logged: io.BytesIO
) -> None:
    key = await make_key(PrincipalKind.VENDOR, facility, other_facility)
    answer = await asm.ask("POST", "/v1/stays", key, json=secretive())
    assert answer.problem == (422, "facility_required")
    await assert_no_trace(database, logged)


async def test_a_batch_of_only_bad_rows_is_no_success(
    asm: Web, owner_key: str, other_facility: Facility, database: Database, logged: io.BytesIO
) -> None:
    rows = [
        secretive(guest={"full_name": " "}),
        7,
        secretive(facility=other_facility.code),
        secretive(source_ref=f"{NUMBER} "),
    ]
    for path in ("/v1/stays:batch", "/v1/stays:validate"):
        answer = await asm.ask("POST", path, owner_key, json=rows)
        problem = answer.json
        assert answer.problem == (422, "all_rows_refused")
        assert (problem["received"], problem["accepted"], problem["duplicate"], problem["refused"]) == (4, 0, 0, 4)
        assert [row["row"] for row in problem["results"]] == [1, 2, 3, 4]
        assert [row["problem"]["code"] for row in problem["results"]] == [
            "declaration_invalid",
            "declaration_invalid",
            "facility_not_granted",
            "declaration_invalid",
        ]
        await assert_no_trace(database, logged, answer.body)


TOO_MANY = b"[" + b",".join([b"{}"] * (MAX_BATCH_ROWS + 1)) + b"]"
BATCHES: dict[str, tuple[bytes, str, str, int, str]] = {
    "no rows": (b"[]", "application/json", "", 422, "no_rows"),
    "no lines": (b"\n\n", "application/x-ndjson", "", 422, "no_rows"),
    "an object": (b"{}", "application/json", "", 422, "request_invalid"),
    "truncated": (orjson.dumps([secretive()])[:-5], "application/json", "", 400, "not_json"),
    "too many rows": (TOO_MANY, "application/json", "", 413, "too_many_rows"),
    "too many lines": (b"{}\n" * (MAX_BATCH_ROWS + 1), "application/x-ndjson", "", 413, "too_many_rows"),
    "fewer than expected": (
        orjson.dumps([secretive()]), "application/json", "?expected_count=2", 422, "count_mismatch",
    ),
    "a wrong parameter": (orjson.dumps([secretive()]), "application/json", "?expected=1", 422, "request_invalid"),
    "a parameter twice": (
        orjson.dumps([secretive()]), "application/json", "?expected_count=1&expected_count=1", 422, "request_invalid",
    ),
    "too large": (b"[" * (MAX_BODY_BYTES + 1), "application/json", "", 413, "body_too_large"),
}  # fmt: skip


async def test_a_batch_that_is_none_gets_its_own_problem(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO
) -> None:
    for name, (body, content_type, query, status, code) in BATCHES.items():
        answer = await asm.ask(
            "POST", f"/v1/stays:batch{query}", owner_key, data=body, headers={"Content-Type": content_type}
        )
        assert (name, answer.problem) == (name, (status, code))
        await assert_no_trace(database, logged, answer.body)


# -- bodies that never end ---------------------------------------------------------------------------------------------


async def exchange(asm: Web, head: str, *chunks: bytes) -> bytes:
    """Send raw bytes, then read until the daemon closes or is silent."""
    reader, writer = await asyncio.open_connection("127.0.0.1", asm.port)
    try:
        writer.write(head.replace("\n", "\r\n").encode() + b"\r\n")
        for chunk in chunks:
            writer.write(chunk)
        async with asyncio.timeout(5):
            return await reader.readuntil(b"}")
    finally:
        writer.close()


async def test_an_announced_size_is_refused_before_anything_is_read(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO
) -> None:
    head = (
        f"POST /v1/stays HTTP/1.1\nHost: asm\nAuthorization: Bearer {owner_key}\n"
        "Content-Type: application/json\nContent-Length: 10000000000\n"
    )
    answer = await exchange(asm, head, b"{")
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"body_too_large" in answer
    assert b"Connection: close" in answer
    await assert_no_trace(database, logged, answer)


async def test_an_endless_body_is_refused_when_it_has_passed_the_limit(asm: Web, owner_key: str) -> None:
    head = (
        f"POST /v1/stays HTTP/1.1\nHost: asm\nAuthorization: Bearer {owner_key}\n"
        "Content-Type: application/json\nTransfer-Encoding: chunked\n"
    )
    answer = await exchange(asm, head, *[b"4000\r\n" + b"[" * 0x4000 + b"\r\n"] * 5)
    assert answer.startswith(b"HTTP/1.1 413 ")


async def test_a_body_that_stops_coming_is_given_up(
    asm: Web, owner_key: str, monkeypatch: pytest.MonkeyPatch, database: Database, logged: io.BytesIO
) -> None:
    monkeypatch.setattr("asm_daemon.web.bodies.IDLE_SECONDS", 0.05)
    head = (
        f"POST /v1/stays HTTP/1.1\nHost: asm\nAuthorization: Bearer {owner_key}\n"
        "Content-Type: application/json\nContent-Length: 500\n"
    )
    answer = await exchange(asm, head, orjson.dumps(secretive())[:100])
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"request_timeout" in answer
    await assert_no_trace(database, logged, answer)


async def test_what_is_not_http_gets_a_problem_that_repeats_nothing(
    asm: Web, database: Database, logged: io.BytesIO
) -> None:
    answer = await exchange(asm, f"GET / HTTP/1.1\nHost: asm\nX-Guest: {NUMBER}\x01\n")
    assert answer.startswith(b"HTTP/1.0 400 ")
    assert b"application/problem+json" in answer
    assert b"bad_request" in answer
    await assert_no_trace(database, logged, answer)


async def test_a_connection_that_breaks_in_the_body_stores_nothing(
    asm: Web, owner_key: str, database: Database, logged: io.BytesIO
) -> None:
    head = (
        f"POST /v1/stays HTTP/1.1\r\nHost: asm\r\nAuthorization: Bearer {owner_key}\r\n"
        "Content-Type: application/json\r\nContent-Length: 5000\r\n\r\n"
    )
    _, writer = await asyncio.open_connection("127.0.0.1", asm.port)
    writer.write(head.encode() + orjson.dumps(secretive()))
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with asyncio.timeout(5):
        while b'"route":"/v1/stays"' not in logged.getvalue():
            await asyncio.sleep(0.01)
    await assert_no_trace(database, logged)
