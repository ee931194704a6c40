"""A family over HTTP: refused with every reason, taken as a whole, completed by a correction."""

from __future__ import annotations

from asm_daemon import samples
from asm_daemon.rules import local_day
from tests.stack import Clock
from tests.web.conftest import Web


async def test_an_adult_cannot_hide_behind_a_guardian_and_the_row_names_the_age(
    asm: Web, owner_key: str, clock: Clock
) -> None:
    _, child, _ = samples.family(local_day(clock()), seed=8)
    grown = {**child, "room": None, "guest": {**child["guest"], "birth_date": "1990"}}
    refused = await asm.ask("POST", "/v1/stays", owner_key, json=grown)
    rehearsed = await asm.ask("POST", "/v1/stays:validate", owner_key, json=[grown])
    for problem in (refused.json, rehearsed.json["results"][0]["problem"]):
        errors = problem["errors"]
        assert {(each["pointer"], each["code"]) for each in errors} == {
            ("/guest/document", "document_required_from_age"),
            ("/room", "required"),
        }
        assert any("14" in each["message"]["vi"] and "14" in each["message"]["en"] for each in errors)


async def test_a_family_is_taken_at_once_and_the_childs_number_is_added_later(
    asm: Web, owner_key: str, clock: Clock
) -> None:
    family = samples.family(local_day(clock()), seed=8)
    answer = await asm.ask("POST", "/v1/stays:batch", owner_key, json=family[::-1])  # the children first
    results = answer.json["results"]
    assert answer.json["accepted"] == 3
    assert [[each["code"] for each in result["warnings"]] for result in results] == [
        ["document_missing_minor"],
        ["document_missing_minor"],
        [],
    ]
    stay = f"/v1/stays/{results[0]['stay_id']}"
    patch = {"guest": {"document": {"type": 7, "number": "000324000001"}}}
    corrected = await asm.ask("PATCH", stay, owner_key, json=patch, headers={"If-Match": '"1"'})
    assert (corrected.status, corrected.json["version"]) == (200, 2)
    again = await asm.ask("POST", "/v1/stays:batch", owner_key, json=family)
    assert again.json["duplicate"] == 3


async def test_a_family_in_a_file_is_read_with_its_guardians(asm: Web, owner_key: str, clock: Clock) -> None:
    document = samples.family_csv(local_day(clock()), seed=8)
    answer = await asm.ask("POST", "/v1/imports", owner_key, data=document, headers={"Content-Type": "text/csv"})
    assert (answer.json["received"], answer.json["accepted"]) == (3, 3)
    missing = [(each["code"], each["place"]) for each in answer.json["results"][2]["warnings"]]
    assert missing == [("document_missing_minor", "dòng 4, cột Số giấy tờ")]


async def test_the_kinships_are_served_with_their_version(asm: Web) -> None:
    answer = await asm.ask("GET", "/v1/codes/kinship")
    assert [row["vi"] for row in answer.json["rows"]][:2] == ["Cha", "Mẹ"]
    again = await asm.ask("GET", "/v1/codes/kinship", headers={"If-None-Match": answer.headers["ETag"]})
    assert (again.status, again.body) == (304, b"")
