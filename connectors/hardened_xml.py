"""XML from strangers, read by expat with everything refused that no form needs: DOCTYPE, entities, deep nesting.

The text is decoded before it is parsed: by its byte order mark, else by its declaration, in UTF-8, UTF-16, ISO-8859-1,
Windows-1252 or Windows-1258. A file of single bytes that calls itself UTF-16, as some tools write it, is read as the
UTF-8 it must be. Nothing is built up here: a `Listener` keeps what its form has, and the rest never exists.
"""

from __future__ import annotations

import codecs
import re
from collections.abc import Mapping
from typing import Protocol
from xml.parsers import expat

_ENCODING = re.compile(rb"<\?xml[^>]{0,100}?\sencoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_CHARSETS = {
    "utf-8": "utf-8",
    "utf8": "utf-8",
    "us-ascii": "utf-8",
    "ascii": "utf-8",
    "utf-16": "utf-8",
    "utf-16le": "utf-8",
    "utf-16be": "utf-8",
    "iso-8859-1": "latin-1",
    "windows-1252": "cp1252",
    "windows-1258": "cp1258",
}
"""What a file of single bytes means by its declaration: whatever it says, such a file is not UTF-16."""


class NotTaken(Exception):
    """The document is refused as a whole: a code of `schemas.violations`, its limits, and the place."""

    def __init__(self, code: str, place: str | None = None, **limits: object) -> None:
        super().__init__(code)
        self.code = code
        self.place = place
        self.limits = limits


class Listener(Protocol):
    """What is told of a document, with names as written, prefix included. It may raise `NotTaken`."""

    def start(self, name: str, attributes: Mapping[str, str]) -> None: ...
    def end(self, name: str) -> None: ...
    def characters(self, text: str) -> None: ...


def decoded(document: bytes) -> str:
    """The text without byte order mark and leading space. Raises `NotTaken` undecodable."""
    if document.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        charset = "utf-16"
    elif document[:2].count(b"\0") == 1:  # its first character, a "<" or a space, takes two bytes
        charset = "utf-16-le" if document[0] else "utf-16-be"
    elif document.startswith(codecs.BOM_UTF8):
        charset = "utf-8-sig"
    else:
        declared = _ENCODING.search(document[:200])
        named = declared[1].decode().lower() if declared else "utf-8"
        charset = _CHARSETS.get(named, "")
    try:
        return document.decode(charset).lstrip()
    except (LookupError, UnicodeDecodeError):
        expected = charset.upper() or "UTF-8, UTF-16, ISO-8859-1, Windows-1252, Windows-1258"
        raise NotTaken("undecodable", expected=expected) from None


def parse(written: str, parser: expat.XMLParserType, listener: Listener, *, depth_limit: int) -> None:
    """Tell `listener` what stands in `written`. `parser` is a new one (`expat.ParserCreate()`), for its line numbers.

    Raises `NotTaken`, then nothing of the document is taken.
    """
    if not written:
        raise NotTaken("no_rows")
    depth = 0

    def start(name: str, attributes: Mapping[str, str]) -> None:
        nonlocal depth
        if depth == depth_limit:
            raise NotTaken("too_deep", f"dòng {parser.CurrentLineNumber}", limit=depth_limit)
        depth += 1
        listener.start(name, attributes)

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1
        listener.end(name)

    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = _refuse_doctype
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = listener.characters
    try:
        parser.Parse(written, True)
    except expat.ExpatError as error:
        raise NotTaken("not_well_formed", f"dòng {error.lineno}") from None


def _refuse_doctype(*_: object) -> None:
    raise NotTaken("doctype_refused")
