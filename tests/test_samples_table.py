"""The table of the readers in its short form: whoever is installed answers every document, and knows its samples."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from schemas.act import Unreadable
from tests.samples_table import EXHAUSTING, Line, examine, hostile, installed, is_taken, mutations, read, workbooks


def test_a_child_that_does_not_answer_is_a_crash_unless_its_document_was_made_for_that() -> None:
    line = Line("nobody")
    results = read("no-such-connector", b"x")
    line.count("a sample", results)
    line.count(EXHAUSTING + "a bomb", results)
    assert (line.documents, line.rows, line.killed, line.crashed) == (2, 0, 1, ["a sample"])


def test_a_refusal_without_a_reason_is_an_error() -> None:
    with pytest.raises(AssertionError, match="without a reason"):
        is_taken(Unreadable(1, ()))


def test_there_are_at_least_twenty_variants_of_every_format() -> None:
    for documents in (hostile(), mutations("text", "tên;ngày\r\n".encode() * 9), workbooks()):
        names = [name for name, _ in documents]
        assert len(set(names)) == len(names) >= 20


@pytest.mark.parametrize("connector", installed())
def test_no_document_ends_the_child_of_a_reader(connector: str) -> None:
    with ThreadPoolExecutor(max_workers=2) as pool:
        line = examine(connector, pool, is_short=True)
    assert line.crashed == []
    assert line.documents > 10
    assert line.refused > 0
