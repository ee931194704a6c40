"""The police over HTTP: purpose and case in the body, nothing in the address, and no answer without a record."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest

from asm_daemon.model import PrincipalKind
from schemas.synthetic import person
from tests.conftest import Database
from tests.stack import declaration
from tests.web.conftest import KeyMaker, Web

NUMBER = person(1).document_number
QUESTION = {"document_number": NUMBER, "purpose": "criminal_investigation", "case_ref": "15/2026/HS-PC02"}


@pytest.fixture
async def officer_key(make_key: KeyMaker) -> str:
    return await make_key(PrincipalKind.OFFICER)


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        ({}, (422, "request_invalid")),
        ({**QUESTION, "document_number": " "}, (422, "request_invalid")),
        ({**QUESTION, "purpose": "curiosity"}, (422, "request_invalid")),
        ({**QUESTION, "case_ref": NUMBER}, (422, "request_invalid")),
        ({**QUESTION, NUMBER: 1}, (422, "request_invalid")),
        ([QUESTION], (422, "request_invalid")),
    ],
)
async def test_a_question_without_its_reasons_is_refused_and_not_repeated(
    asm: Web, officer_key: str, logged: io.BytesIO, question: Any, problem: tuple[int, str]
) -> None:
    answer = await asm.ask("POST", "/v1/police/searches", officer_key, json=question)
    assert answer.problem == problem
    assert NUMBER.encode() not in answer.body
    assert NUMBER.encode() not in logged.getvalue()


async def test_what_is_no_json_is_refused(asm: Web, officer_key: str) -> None:
    headers = {"Content-Type": "application/json"}
    answer = await asm.ask("POST", "/v1/police/searches", officer_key, data=b'{"document', headers=headers)
    assert answer.problem == (400, "not_json")


async def test_a_search_that_cannot_be_recorded_is_not_answered(
    asm: Web, officer_key: str, owner_key: str, database: Database
) -> None:
    await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1))
    await (await database.connect()).execute("REVOKE INSERT ON audit_pending FROM asm_police")
    answer = await asm.ask("POST", "/v1/police/searches", officer_key, json=QUESTION)
    assert answer.problem == (503, "audit_unavailable")
    assert b"stays" not in answer.body


async def test_a_search_finds_the_stay_and_names_its_record(
    asm: Web, officer_key: str, owner_key: str, database: Database, logged: io.BytesIO
) -> None:
    stay_id = (await asm.ask("POST", "/v1/stays", owner_key, json=declaration(1))).json["stay_id"]
    purposes = (await asm.ask("GET", "/v1/police/purposes", officer_key)).json["purposes"]
    assert QUESTION["purpose"] in [purpose["code"] for purpose in purposes]
    answer = await asm.ask("POST", "/v1/police/searches", officer_key, json=QUESTION)
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "no-store")
    assert [stay["stay_id"] for stay in answer.json["stays"]] == [stay_id]
    sealed = await (await database.connect()).fetch("SELECT body FROM audit_log")
    assert answer.json["trace"].removeprefix("audit/") in [orjson.loads(row["body"])["id"] for row in sealed]
    assert NUMBER.encode() not in logged.getvalue()
