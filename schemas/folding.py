"""How names and document numbers compare: one folding for what is written and what is searched.

`NORM` is the version of these rules; it is part of every blind index, so a change can never mix with the old.
"""

from __future__ import annotations

import re
import unicodedata

NORM = 1

_BARE = {
    **dict.fromkeys(range(0x0300, 0x0370)),  # the marks that NFD takes off Latin letters
    **dict.fromkeys(map(ord, "'’‘ʼ`´")),  # as in a machine readable zone (ICAO 9303-3, 4.6): O'Brien is OBRIEN there
    **dict.fromkeys(map(ord, "ĐđÐð"), "D"),  # Đ does not decompose; Icelandic eth looks the same and is typed for it
}
_NOT_DOCUMENT = re.compile(r"[^0-9A-Z]")
_WORD = re.compile(r"[^\W\d_]+")


def fold_text(text: str) -> str:
    """A text without marks, in capitals; digits, spaces and punctuation stay: "Phường 4, Đà Lạt" → PHUONG 4, DA LAT."""
    return unicodedata.normalize("NFD", text).translate(_BARE).upper()


def fold_tokens(name: str) -> list[str]:
    """The words of a name without marks, in capitals, in their written order: "Đỗ Thị Hoà" → DO THI HOA."""
    return _WORD.findall(fold_text(name))


def fold_name(name: str) -> str:
    """All words of a name, folded and sorted: word order, marks and case make no difference."""
    return " ".join(sorted(fold_tokens(name)))


def fold_document(number: str) -> str:
    """A document number as NFKC capitals and digits only: spaces, dashes and full-width forms make no difference."""
    return _NOT_DOCUMENT.sub("", unicodedata.normalize("NFKC", number).upper())
