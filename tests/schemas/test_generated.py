"""The generated JSON Schemas are those of the models, and refuse what the models refuse in shape."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import jsonschema_rs
import orjson
import pytest
from pydantic import ValidationError

from schemas.codes import FacilityKind
from schemas.generate import DIRECTORY, files
from schemas.stay import DeclarationContext, StayDeclaration
from schemas.synthetic import person

CONTEXT = DeclarationContext(FacilityKind.HOTEL_4_STAR, datetime(2026, 11, 23, 8, tzinfo=UTC))


def sound() -> dict[str, Any]:
    who = person(1)
    return {
        "guest": {
            "full_name": who.full_name,
            "birth_date": who.birth_date,
            "gender": who.gender,
            "nationality": who.nationality,
            "document": {"type": who.document_type, "number": who.document_number},
        },
        "arrived_at": "2026-11-23T14:05:00+07:00",
        "planned_departure_at": "2026-11-25T12:00:00+07:00",
        "room": "203",
        "reason": 1,
    }


def taken_by_the_model(declaration: Any) -> bool:
    try:
        StayDeclaration.model_validate_json(orjson.dumps(declaration), context=CONTEXT)
    except ValidationError:
        return False
    return True


def test_the_files_are_those_of_the_models() -> None:
    written = {path.name: path.read_bytes() for path in DIRECTORY.glob("[A-Z]*.json")}
    assert written == dict(files()), "run: make schemas"


@pytest.mark.parametrize("name", sorted(name for name, _ in files()))
def test_a_file_is_a_json_schema_of_2020_12(name: str) -> None:
    assert jsonschema_rs.meta.is_valid(orjson.loads((DIRECTORY / name).read_bytes()))


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": "red"},
        {"reason": "1"},
        {"reason": 21},
        {"reason": None},
        {"room": 203},
        {"room": "x" * 101},
        {"source_ref": "a b"},
        {"source_ref": "x" * 129},
        {"arrived_at": 1_800_000_000},
        {"arrived_at": None},
        {"guest": None},
        {"guest": {**sound()["guest"], "full_name": 7}},
        {"guest": {**sound()["guest"], "gender": "X"}},
        {"guest": {**sound()["guest"], "birth_date": "14/05/1990"}},
        {"guest": {**sound()["guest"], "document": {"type": 0, "number": "1"}}},
        {"guest": {**sound()["guest"], "document": {"type": 1}}},
        {"note": ""},
        {"override": {"code": "because", "reason": "x"}},
    ],
)
def test_schema_and_model_refuse_the_same_shapes(changes: dict[str, Any]) -> None:
    schema = jsonschema_rs.validator_for(orjson.loads((DIRECTORY / "StayDeclaration.json").read_bytes()))
    assert schema.is_valid(sound())
    assert taken_by_the_model(sound())
    assert not schema.is_valid({**sound(), **changes})
    assert not taken_by_the_model({**sound(), **changes})
