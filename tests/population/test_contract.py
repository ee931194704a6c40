"""The contract by itself: what may be sent, and the one form in which both sides digest it."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any, TypeGuard, get_args

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from connectors.population.simulator_faults import FaultKind
from schemas.population import (
    ItemStatus,
    Outcome,
    PopulationGuest,
    PopulationItem,
    PopulationResult,
    PopulationState,
    Verification,
    canonical,
    digest,
)
from tests.population.items import ARRIVED_AT, guest, item, stay_id

HANOI = timezone(timedelta(hours=7))


def raw(**changes: Any) -> dict[str, Any]:
    """An item as JSON, with members of the item changed or added."""
    content: dict[str, Any] = orjson.loads(canonical(item()))
    return content | changes


def read(content: Any) -> PopulationItem:
    return PopulationItem.model_validate_json(orjson.dumps(content))


@pytest.mark.parametrize(
    "member", ["phone", "note", "room", "hospital_department", "companion", "reason", "source_ref"]
)
@pytest.mark.parametrize("at", ["", "facility", "guest", "guest/document"])
def test_a_field_outside_the_contract_is_refused_at_every_level(member: str, at: str) -> None:
    content = raw()
    place = content
    for step in filter(None, at.split("/")):
        place = place[step]
    place[member] = "x"
    with pytest.raises(ValidationError, match="extra_forbidden"):
        read(content)


@pytest.mark.parametrize("member", list(raw()))
def test_a_missing_member_is_refused_even_where_null_is_allowed(member: str) -> None:
    content = raw()
    del content[member]
    with pytest.raises(ValidationError):
        read(content)


def test_a_guest_without_a_document_is_told_as_null_and_nobody_stands_for_it() -> None:
    content = raw()
    content["guest"]["document"] = None
    assert read(content).guest == guest(document=None)
    del content["guest"]["document"]
    with pytest.raises(ValidationError, match="missing"):
        read(content)
    content["guest"] |= {"document": None, "guardian": {"full_name": "TRẦN THỊ MẪU"}}
    with pytest.raises(ValidationError, match="extra_forbidden"):
        read(content)


@pytest.mark.parametrize("instant", ["2026-11-23T14:05:00", "2026-11-23", "1700000000", 1700000000, "", None])
def test_an_instant_without_offset_or_not_in_words_is_refused(instant: Any) -> None:
    with pytest.raises(ValidationError):
        read(raw(arrived_at=instant))


@pytest.mark.parametrize(
    "birth_date", ["1990-02-30", "1990-13", "90", "14/05/1990", "1990-5-14", "0000", "", "１９９０"]
)
def test_a_birth_date_that_does_not_exist_is_refused(birth_date: str) -> None:
    with pytest.raises(ValidationError):
        guest(birth_date=birth_date)


@pytest.mark.parametrize("birth_date", ["1990-05-14", "1990-05", "1990", "2000-02-29"])
def test_a_birth_date_may_be_as_imprecise_as_the_document(birth_date: str) -> None:
    assert guest(birth_date=birth_date).birth_date == birth_date


@pytest.mark.parametrize(
    "changes",
    [
        {"status": "cancelled"},
        {"guest": None},
        {"status": "departed"},
        {"departed_at": "2026-11-24T00:00:00Z"},
        {"version": 0},
        {"version": "1"},
        {"version": True},
        {"version": 2**31},
        {"status": "checked_in"},
        {"stay_id": 7},
        {"facility": {"code": "hy ks", "kind": "guesthouse", "commune": "12103"}},
    ],
)
def test_content_that_contradicts_the_contract_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        read(raw(**changes))


def test_what_is_known_of_a_person_shows_neither_in_a_repr_nor_in_an_error() -> None:
    whole = item()
    assert repr(whole) == str(whole) == "<PopulationItem>"
    assert whole.guest is not None
    assert repr(whole.guest) == "<PopulationGuest>"
    with pytest.raises(ValidationError) as caught:
        PopulationGuest.model_validate({"full_name": "NGUYỄN VĂN THỬ", "birth_date": "14/05/1990"})
    assert "THỬ" not in str(caught.value)
    assert "14/05" not in str(caught.value)


def test_the_canonical_form_and_its_digest_never_change_because_both_sides_compare_them() -> None:
    assert canonical(item()).decode() == (
        '{"arrived_at":"2026-11-23T07:05:00Z","departed_at":null,'
        '"facility":{"code":"HY-KS-0001","commune":"12103","kind":"hotel_2_3_star"},'
        '"guest":{"birth_date":"1990-10-24","document":{"number":"000090000020","type":1},'
        '"full_name":"TRẦN MINH HÙNG","gender":"M","nationality":"VNM"},'
        '"planned_departure_at":"2026-11-25T07:05:00Z","status":"declared",'
        '"stay_id":"0193569f-0000-7000-8000-000000000001","version":1}'
    )
    assert digest(item()) == "dd128b98f187e56a9528b0c67323c2f38b26541367650a42aaeb9af5f5e7f136"
    assert canonical(item(status=ItemStatus.CANCELLED)).decode() == (
        '{"arrived_at":"2026-11-23T07:05:00Z","departed_at":null,'
        '"facility":{"code":"HY-KS-0001","commune":"12103","kind":"hotel_2_3_star"},"guest":null,'
        '"planned_departure_at":"2026-11-25T07:05:00Z","status":"cancelled",'
        '"stay_id":"0193569f-0000-7000-8000-000000000001","version":1}'
    )


def test_the_digest_does_not_depend_on_how_the_same_content_is_written() -> None:
    written = dict(reversed(raw(arrived_at="2026-11-23T14:05:00.987654+07:00").items()))
    assert digest(read(written)) == digest(item())
    assert digest(item(arrived_at=ARRIVED_AT.astimezone(HANOI))) == digest(item())


def test_the_digest_changes_with_every_field() -> None:
    later = ARRIVED_AT + timedelta(days=3)
    others = [
        item(2),
        item(version=2),
        item(status=ItemStatus.DEPARTED),
        item(arrived_at=ARRIVED_AT + timedelta(seconds=1)),
        item(planned_departure_at=None),
        item(status=ItemStatus.DEPARTED, departed_at=later),
        item(guest=guest(21)),
        *(item(guest=guest(**change)) for change in ({"gender": None}, {"nationality": "LAO"}, {"document_type": 8})),
    ]
    assert len({digest(one) for one in [item(), *others]}) == len(others) + 1


@given(
    version=st.integers(1, 2**31 - 1),
    arrived_at=st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.sampled_from([UTC, HANOI])),  # noqa: DTZ001
    planned=st.none() | st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(HANOI)),  # noqa: DTZ001
    name=st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=200),
)
def test_what_is_read_back_from_the_canonical_form_is_the_same_item(
    version: int, arrived_at: datetime, planned: datetime | None, name: str
) -> None:
    sent = item(version=version, arrived_at=arrived_at, planned_departure_at=planned, guest=guest(full_name=name))
    received = PopulationItem.model_validate_json(canonical(sent))
    assert received == sent
    assert digest(received) == digest(sent)


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": "ok"},
        {"outcome": "refused"},
        {"code": "version_conflict"},
        {"verification": "maybe"},
        {"outcome": "refused", "code": "Tên khách sai"},
    ],
)
def test_a_result_that_does_not_say_clearly_what_happened_is_no_result(changes: dict[str, Any]) -> None:
    content = {"stay_id": str(stay_id(1)), "version": 1, "outcome": "accepted", "code": None, "verification": "matched"}
    assert PopulationResult.model_validate_json(orjson.dumps(content | {"added_by_them_later": 1}))
    with pytest.raises(ValidationError):
        PopulationResult.model_validate_json(orjson.dumps(content | changes))


def test_a_state_is_whole_or_null() -> None:
    content = {"stay_id": str(stay_id(1)), "version": 1, "digest": None, "verification": "matched"}
    with pytest.raises(ValidationError):
        PopulationState.model_validate_json(orjson.dumps(content))


# -- the documentation -------------------------------------------------------------------------------------------------

CONTRACT = (Path(__file__).parents[2] / "docs" / "population-contract.md").read_text("utf-8")


def leaves(model: type[BaseModel], pointer: str = "") -> set[str]:
    """The JSON Pointers of every value that `model` can carry."""
    found: set[str] = set()
    for name, field in model.model_fields.items():
        inner = [part for part in (field.annotation, *get_args(field.annotation)) if is_model(part)]
        found |= leaves(inner[0], f"{pointer}/{name}") if inner else {f"{pointer}/{name}"}
    return found


def is_model(part: Any) -> TypeGuard[type[BaseModel]]:
    return isinstance(part, type) and issubclass(part, BaseModel)


def test_the_documented_fields_are_exactly_those_that_are_sent() -> None:
    assert set(re.findall(r"^\| `(/[a-z_/]+)` \|", CONTRACT, re.MULTILINE)) == leaves(PopulationItem)


def test_every_fault_outcome_and_verification_is_documented() -> None:
    documented = set(re.findall(r"^\| `([a-z_]+)` \|", CONTRACT, re.MULTILINE))
    for words in (FaultKind, Outcome, Verification):
        assert documented >= {word.value for word in words}
