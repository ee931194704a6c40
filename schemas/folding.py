"""How names and document numbers compare: one folding for what is written and what is searched.

`NORM` is the version of these rules; it is part of every blind index, so a change can never mix with the old.
"""

from __future__ import annotations

import re
import unicodedata

NORM = 1

# Đ and đ have no decomposition; Ð and ð (Icelandic eth) look the same and are typed by mistake.
_D_LOOKALIKES = str.maketrans({"Đ": "D", "đ": "D", "Ð": "D", "ð": "D"})
_NOT_DOCUMENT = re.compile(r"[^0-9A-Z]")
_NOT_LETTERS = re.compile(r"[^\w]|[\d_]")


def fold_tokens(name: str) -> list[str]:
    """The words of a name without marks, in capitals, in their written order: "Đỗ Thị Hoà" → DO THI HOA."""
    decomposed = unicodedata.normalize("NFD", name.translate(_D_LOOKALIKES))
    bare = "".join(character for character in decomposed if not unicodedata.combining(character))
    return _NOT_LETTERS.sub(" ", bare.translate(_D_LOOKALIKES)).upper().split()


def fold_name(name: str) -> str:
    """All words of a name, folded and sorted: word order, marks and case make no difference."""
    return " ".join(sorted(fold_tokens(name)))


def fold_document(number: str) -> str:
    """A document number as NFKC capitals and digits only: spaces, dashes and full-width forms make no difference."""
    return _NOT_DOCUMENT.sub("", unicodedata.normalize("NFKC", number).upper())
