"""Vietnamese in the charset of old Windows programs."""

from __future__ import annotations

import unicodedata


def cp1258(text: str) -> bytes:
    """Vietnamese as Windows-1258 writes it: letters with their own code, tone marks after them."""
    marks = dict.fromkeys(map(ord, "\u0300\u0301\u0303\u0309\u0323"))
    written = []
    for character in text:
        parts = unicodedata.normalize("NFD", character)
        tone = "".join(part for part in parts if ord(part) in marks)
        written.append(unicodedata.normalize("NFC", parts.translate(marks)) + tone)
    return "".join(written).encode("cp1258")
