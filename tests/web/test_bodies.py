"""Decoding bodies: whatever comes, the outcome is content or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asm_daemon.problems import Refused
from asm_daemon.web.bodies import document_body, form_body, model_body, object_body, rows_body
from schemas.police import DocumentSearch
from schemas.stay import StayDeclaration

FILE = document_body(("text/csv",), 1 << 20, ("facility", "connector"))
ROWS = rows_body(StayDeclaration, 1 << 20, 10)
MULTIPART = "multipart/form-data; boundary=X"


def part(head: str, content: str = "", end: str = "\r\n") -> str:
    return f"--X\r\n{head}\r\n\r\n{content}{end}"


def form(*parts: str) -> bytes:
    return ("".join(parts) + "--X--\r\n").encode()


def refusal(decode: Callable[[bytes, str], Any], content: bytes, content_type: str) -> str:
    with pytest.raises(Refused) as refused:
        decode(content, content_type)
    return refused.value.code


def test_a_form_is_read_whatever_its_file_contains() -> None:
    file = part(
        'Content-Disposition: form-data; name="file"; filename="khách.csv"\r\nContent-Type: text/csv',
        "a\r\n--Y\r\n\r\n",
    )
    field = part("content-disposition:form-data;name=facility", " HY-KS-0001 ")
    for content_type in (MULTIPART, 'multipart/form-data; charset=utf-8; boundary="X"'):
        read = FILE.decode(form(field, file), content_type)
        assert (read.content, read.filename, read.media_type) == (b"a\r\n--Y\r\n\r\n", "khách.csv", "text/csv")
        assert read.fields == {"facility": "HY-KS-0001"}


def test_a_preamble_and_padding_are_allowed() -> None:
    content = b'hello\r\n--X \t\r\nContent-Disposition: form-data; name="file"\r\n\r\n1\r\n--X--  \r\nbye'
    assert FILE.decode(content, MULTIPART).content == b"1"


@pytest.mark.parametrize(
    ("content", "content_type", "code"),
    [
        (b"", MULTIPART, "bad_request"),
        (b"--X--", "multipart/form-data", "bad_request"),
        (b"--X--", "multipart/form-data; boundary=" + "X" * 71, "bad_request"),
        (b"--X\r\nContent-Disposition: form-data; name=\"file\"\r\n\r\n1", MULTIPART, "bad_request"),
        (b"--X\r\nno blank line\r\n--X--", MULTIPART, "bad_request"),
        (b"--XY\r\n\r\n1\r\n--X--", MULTIPART, "bad_request"),
        (form(*[part('Content-Disposition: form-data; name="file"')] * 9), MULTIPART, "bad_request"),
        (form(part("X: " + "y" * 3000)), MULTIPART, "bad_request"),
        (b"--X--", MULTIPART, "request_invalid"),
        (form(part("X: y", "1")), MULTIPART, "request_invalid"),
        (form(part('Content-Disposition: form-data; name="other"', "1")), MULTIPART, "request_invalid"),
        (form(*[part('Content-Disposition: form-data; name="file"')] * 2), MULTIPART, "request_invalid"),
        (form(part('Content-Disposition: form-data; name="facility"', "1" * 2000)), MULTIPART, "request_invalid"),
    ],
)  # fmt: skip
def test_a_form_that_is_none_is_refused(content: bytes, content_type: str, code: str) -> None:
    assert refusal(FILE.decode, content, content_type) == code


def test_deep_nesting_is_refused_and_not_followed() -> None:
    for opening in (b"[", b'{"a":'):
        assert refusal(ROWS.decode, opening * 100_000, "application/json") == "not_json"
        assert ROWS.decode(opening * 100_000, "application/x-ndjson")[0].refusal is not None


def test_a_row_knows_its_place() -> None:
    rows = ROWS.decode(b'\n{"a":1}\n\n[]\n{"b":', "application/x-ndjson; charset=utf-8")
    assert [(row.number, row.fields, row.refusal and row.refusal.code) for row in rows] == [
        (2, {"a": 1}, None),
        (4, None, "declaration_invalid"),
        (5, None, "declaration_invalid"),
    ]


def test_nothing_is_an_empty_object_only_where_it_may_be() -> None:
    assert object_body(StayDeclaration, 10, optional=True).decode(b"", "") == {}
    assert refusal(object_body(StayDeclaration, 10).decode, b"", "application/json") == "not_json"


@given(content=st.binary(max_size=200) | st.text(alphabet='-X\r\n;:= "namefile', max_size=200).map(str.encode))
def test_no_bytes_make_a_decoder_fail_otherwise(content: bytes) -> None:
    for body, content_type in (
        (FILE, MULTIPART),
        (ROWS, "application/json"),
        (ROWS, "application/x-ndjson"),
        (object_body(StayDeclaration, 10), "application/json"),
        (model_body(DocumentSearch, 10), "application/json"),
        (form_body("code"), "application/x-www-form-urlencoded"),
    ):
        try:
            body.decode(content, content_type)
        except Refused:
            continue
