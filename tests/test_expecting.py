"""What is kept of an incomplete declaration: only what is sound, and never a crash."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon.expecting import merge_patch, sift
from asm_daemon.problems import Refused
from schemas.codes import FacilityKind
from tests.stack import declaration

NOW = datetime.now(UTC)
HOTEL = FacilityKind.HOTEL_4_STAR
_NAMES = (
    "guest", "full_name", "birth_date", "nationality", "document", "type", "number", "name", "phone", "residence",
    "province", "arrived_at", "planned_departure_at", "room", "reason", "reason_text", "override", "code", "",
)  # fmt: skip
_SOUND = ("Nguyễn Văn Thử", "1990-01-02", "VNM", "000090000001", "2026-11-23T14:05:00+07:00", "109", 1, 9, 20)
_LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.sampled_from(_SOUND)
_JSON = st.recursive(
    _LEAVES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=3), inner),
    max_leaves=12,
)
_MEMBERS = st.dictionaries(st.sampled_from(_NAMES) | st.text(max_size=3), _JSON)


@given(_MEMBERS, _MEMBERS)
def test_of_whatever_is_sent_only_what_is_sound_is_kept(first: dict[str, Any], second: dict[str, Any]) -> None:
    try:
        known = sift({}, first, HOTEL, NOW, {}).known
        after = sift(known, second, HOTEL, NOW, {}).known
    except Refused:  # what is no JSON at all
        return
    again = sift({}, after, HOTEL, NOW, {})
    assert (again.known, again.warnings) == (after, ())


@given(st.sets(st.sampled_from(["guest", "arrived_at", "planned_departure_at", "room", "reason"])))
def test_what_is_left_out_of_a_sound_declaration_is_what_is_missing(left_out: set[str]) -> None:
    whole = declaration(1)
    found = sift({}, {name: value for name, value in whole.items() if name not in left_out}, HOTEL, NOW, {})
    of_guest = {"/guest/full_name", "/guest/birth_date", "/guest/nationality", "/guest/document"}
    wanted = {f"/{name}" for name in left_out - {"guest"}} | (of_guest if "guest" in left_out else set())
    assert {fault.pointer for fault in found.missing} == wanted
    assert found.warnings == ()
    completed = sift(found.known, {name: whole[name] for name in left_out}, HOTEL, NOW, {})
    assert (completed.known, completed.missing) == (whole, ())


@pytest.mark.parametrize("value", ["\ud800", 2**70])
def test_what_is_no_json_is_refused_as_a_whole(value: object) -> None:
    with pytest.raises(Refused) as refused:
        sift({}, {"guest": {"full_name": value}}, HOTEL, NOW, {})
    assert [fault.code for fault in refused.value.violations] == ["not_json"]


def test_a_departure_before_the_arrival_is_left_out_though_each_was_sound() -> None:
    known = {"arrived_at": "2026-11-23T14:05:00+07:00"}
    found = sift(known, {"planned_departure_at": "2026-11-22T14:05:00+07:00"}, HOTEL, NOW, {})
    assert (found.known, [fault.code for fault in found.warnings]) == (known, ["departure_before_arrival"])


def test_null_takes_a_member_away_and_an_empty_one_is_an_absent_one() -> None:
    known = sift({}, {"room": "9", "note": "early", "guest": {"phone": "0000000001"}}, HOTEL, NOW, {}).known
    after = sift(known, {"room": None, "note": "", "guest": {"phone": None}}, HOTEL, NOW, {})
    assert after.known == {"note": "early"}


def test_a_merge_patch_does_what_the_standard_says() -> None:
    assert merge_patch({"a": {"b": 1, "c": 2}}, {"a": {"b": None}, "d": 3}) == {"a": {"c": 2}, "d": 3}
    assert merge_patch({"a": 1}, ["x"]) == ["x"]


def test_of_a_guest_of_whom_nothing_is_known_every_member_is_told_to_be_missing() -> None:
    for fields in ({"room": "9"}, {"room": "9", "guest": {}}):
        missing = {fault.pointer for fault in sift({}, fields, HOTEL, NOW, {}).missing}
        assert {"/guest/full_name", "/guest/birth_date", "/guest/nationality", "/guest/document"} <= missing
        assert "/guest" not in missing
