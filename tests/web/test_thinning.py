"""Photographs are taken out of a body in whatever pieces it arrives, and nothing else is changed."""

from __future__ import annotations

import base64
import os
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon.web.thinning import PIECE_BYTES_LIMIT, STAND_IN, Thinner
from schemas.stay import NAME_LIMIT, TEXT_LIMIT

STANDS = STAND_IN.decode()


def thinned(body: bytes, *cuts: int) -> bytes:
    """What is kept of a body that arrives in pieces."""
    keep = Thinner()
    places = [0, *sorted(cut % (len(body) + 1) for cut in cuts), len(body)]
    return b"".join(keep(body[begin:end]) for begin, end in pairwise(places))


def shortened(value: Any) -> Any:
    """What a value should become."""
    if isinstance(value, str):
        pieces = [
            STAND_IN + b"\\" * (piece.endswith(b"\\")) if len(piece) > PIECE_BYTES_LIMIT else piece
            for piece in orjson.dumps(value)[1:-1].split(b'"')
        ]
        return orjson.loads(b'"' + b'"'.join(pieces) + b'"')
    if isinstance(value, list):
        return [shortened(each) for each in value]
    if isinstance(value, dict):
        return {shortened(name): shortened(each) for name, each in value.items()}
    return value


@pytest.mark.parametrize("body", [b"", b'"', b'["a', b'["\\', b'"\\u00', b'[1, "x\\"]', b"[" * 50, b"\xff", b'"' * 3])
def test_what_is_not_json_does_not_become_json(body: bytes) -> None:
    with pytest.raises(orjson.JSONDecodeError):
        orjson.loads(thinned(body, *range(len(body))))


def test_a_text_that_was_cut_fits_no_field() -> None:
    assert len(STAND_IN) > max(TEXT_LIMIT, NAME_LIMIT)
    assert TEXT_LIMIT * len("\\ud83d\\ude00") < PIECE_BYTES_LIMIT  # every character escaped, and twice as long


LONG_TEXTS = [
    "x" * PIECE_BYTES_LIMIT,
    "x" * (PIECE_BYTES_LIMIT + 1),
    "ắ" * 3000,
    '"\\/' * 5000,
    "x" * 9000 + '"' + "y" * 9000 + '\\"',
    "\n" * 9000,
]
TEXTS = st.text(max_size=20) | st.sampled_from(
    ["x" * (PIECE_BYTES_LIMIT - 1), "x" * PIECE_BYTES_LIMIT, '"\\/' * 5000, "ắ" * 3000]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)


@given(JSON, st.lists(st.integers(0, 1 << 20), max_size=8))
def test_only_long_texts_are_replaced_wherever_the_pieces_begin(value: Any, cuts: list[int]) -> None:
    assert orjson.loads(thinned(orjson.dumps(value), *cuts)) == shortened(value)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=5))
def test_short_bytes_of_any_kind_pass_unchanged_up_to_an_unfinished_string(body: bytes, cuts: list[int]) -> None:
    kept = thinned(body, *cuts)
    assert body.startswith(kept)
    assert kept == thinned(body)


def pieces(body: bytes, size: int) -> Iterator[bytes]:
    return (body[at : at + size] for at in range(0, len(body), size))


@pytest.mark.parametrize("escaped", [False, True])
def test_a_large_photograph_is_never_held_as_a_whole(escaped: bool) -> None:
    photograph = base64.b64encode(os.urandom(3 << 20))
    if escaped:  # as PHP writes it
        photograph = photograph.replace(b"/", b"\\/")
    keep, held = Thinner(), 0
    kept = bytearray()
    for piece in pieces(b'[{"hoTen": "A", "anhTruocB64": "' + photograph + b'", "soPhong": "203"}]', 1 << 16):
        kept += keep(piece)
        held = max(held, len(keep._piece) + len(kept))
    assert orjson.loads(kept) == [{"hoTen": "A", "anhTruocB64": STANDS, "soPhong": "203"}]
    assert held < 4 * PIECE_BYTES_LIMIT
