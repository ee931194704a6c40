"""Results travel between processes as lines, and a line of somebody else is refused."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.act import Act, ActKind, Unreadable, from_json, to_json
from schemas.violations import CATALOGUE, violation

WARNING = violation("leading_zeros_restored", "/guest/document/number", "H7")
ACT = Act(ActKind.DECLARE, {"guest": {"full_name": "Nguyễn Văn Thử"}}, 7, "A-1", {"/guest/full_name": "B7"}, (WARNING,))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"not JSON",
        b"[]",
        b"{}",
        b'{"row": 1}',
        b'{"row": "1", "violations": []}',
        b'{"row": 1, "violations": [["code"]]}',
        b'{"row": 1, "violations": [], "more": 1}',
        to_json(ACT).replace(b'"declare"', b'"destroy"'),
        to_json(ACT).replace(b'"row":7', b'"row":7.5'),
        to_json(ACT).replace(b'"A-1"', b"1"),
        to_json(ACT).replace(b'"B7"', b"null"),
        orjson.dumps(orjson.loads(to_json(ACT)) | {"fields": []}),
        orjson.dumps(orjson.loads(to_json(ACT)) | {"warnings": [1]}),
        to_json(ACT)[:-1],
    ],
)
def test_a_line_that_is_no_result_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - orjson's own error is one, too
        from_json(line)


def test_fields_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(TypeError):
        to_json(Act(ActKind.DECLARE, {"arrived_at": object()}, 1))


def test_an_act_comes_back_equal() -> None:
    assert from_json(to_json(ACT)) == ACT
    assert b"\n" not in to_json(ACT)


_VALUES = st.none() | st.booleans() | st.text(max_size=5) | st.integers(-(2**53), 2**53) | st.lists(st.text(max_size=5))
_FIELDS = st.dictionaries(st.text(max_size=5), _VALUES, max_size=3)


_PLACES = st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3)


@given(st.sampled_from(ActKind), _FIELDS, st.integers(0, 2**53), st.none() | st.text(), _PLACES)
def test_any_act_comes_back_equal(
    kind: ActKind, fields: dict[str, object], row: int, source_ref: str | None, origin: dict[str, str]
) -> None:
    act = Act(kind, fields, row, source_ref, origin)
    assert from_json(to_json(act)) == act


def test_an_unreadable_row_comes_back_with_all_its_reasons() -> None:
    limits = {name: name for name in ("expected", "limit", "table", "first")}
    unreadable = Unreadable(3, tuple(violation(code, "/a", "B3", **limits) for code in CATALOGUE))
    assert from_json(to_json(unreadable)) == unreadable
    assert orjson.loads(to_json(unreadable))["row"] == 3


def test_the_repr_of_an_act_shows_nobody() -> None:
    act = Act(ActKind.CHECK_OUT, {}, 1, match={"document": {"type": 1, "number": "000190000001"}})
    assert "000190000001" not in repr(act)
