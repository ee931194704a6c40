"""Words that stand nowhere else, all the ways of writing them, and a search for all of them at once."""

from __future__ import annotations

import base64
import html
import json
import os
import random
import re
import shutil
import subprocess
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

_CONSONANTS = "bcdghklmnpqrstvx"
_SHORT = "Đđ"


@dataclass
class Words:
    """Mints words and remembers what each was said about. Another run mints others, so what an earlier one left behind
    somewhere is not found for this one."""

    _salt: random.Random = field(default_factory=random.SystemRandom)
    said: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._letters = "".join(self._salt.choices(_CONSONANTS, k=5))
        self._digits = "".join(self._salt.choices("123456789", k=6))

    def word(self, about: str) -> str:
        """One word of Vietnamese letters, as a name may hold."""
        number = len(self.said)
        code = "".join(_CONSONANTS[number >> shift & 15] for shift in (8, 4, 0))
        return self._mint(f"Đưỡ{self._letters}ệ{code}ặng", about)

    def digits(self, about: str, length: int = 12) -> str:
        """A number of a document or a telephone; it begins with 0."""
        return self._mint(f"0{self._digits}{len(self.said):0{length - 7}}", about)

    def code(self, about: str) -> str:
        """Nine capitals and digits, as a passport's number or a reference."""
        number = len(self.said)
        code = "".join(_CONSONANTS[number >> shift & 15] for shift in (8, 4, 0))
        return self._mint(f"{self._letters[:3]}{self._digits[:3]}{code}".upper(), about)

    def _mint(self, text: str, about: str) -> str:
        self.said[text] = about
        return text


def written(word: str) -> Iterator[str]:
    """The word in capitals and not, composed and decomposed, and without its diacritics, as names are compared."""
    cases = {word, word.upper(), word.lower(), word.title()}
    for form in ("NFC", "NFD"):
        yield from {unicodedata.normalize(form, each) for each in cases}
    plain = unicodedata.normalize("NFD", word.translate(str.maketrans(_SHORT, "Dd")))
    plain = "".join(each for each in plain if not unicodedata.combining(each))
    yield from {plain, plain.upper(), plain.lower(), plain.title()}


def encoded(text: str) -> Iterator[bytes]:
    """The text in every encoding in which something may have kept it."""
    utf8 = text.encode()
    for content in (utf8, text.encode("utf-16-le"), text.encode("utf-16-be")):
        yield content
        yield content.hex().encode()
        yield content.hex().upper().encode()
        yield from _base64(content)
    escaped = json.dumps(text)[1:-1]
    yield escaped.encode()
    yield re.sub(r"(?<=\\u)[0-9a-f]{4}", lambda found: found[0].upper(), escaped).encode()
    yield quote(text, safe="").encode()
    yield re.sub(r"%[0-9A-F]{2}", lambda found: found[0].lower(), quote(text, safe="")).encode()
    yield repr(utf8)[2:-1].encode()
    yield "".join(chr(each) if each < 128 else f"\\{each:03o}" for each in utf8).encode()  # bytea_output = escape
    yield text.encode("ascii", "xmlcharrefreplace")
    yield "".join(each if each.isascii() else f"&#x{ord(each):x};" for each in text).encode()
    yield html.escape(text).encode()


def _base64(content: bytes) -> Iterator[bytes]:
    """What is sure to stand in base64 that holds the content, wherever it begins there."""
    for before in range(3):
        whole = base64.b64encode(b"\0" * before + content)
        sure = whole[-(-8 * before // 6) : 8 * (before + len(content)) // 6]
        yield sure
        yield sure.translate(bytes.maketrans(b"+/", b"-_"))


def patterns(words: Iterable[str]) -> dict[bytes, str]:
    """Everything to look for, and which word it is."""
    return {form: word for word in words for text in written(word) for form in encoded(text)}


class Hit(NamedTuple):
    """A word where it should not be."""

    place: str
    word: str


def search(wanted: Mapping[bytes, str], places: Mapping[str, Sequence[Path]]) -> set[Hit]:
    """Which words stand in which places: lists of files and folders. What vanishes meanwhile is no fault.

    All is gone through once. The patterns go through a pipe: on the disk they would be found.
    """
    grep = shutil.which("grep")
    assert grep is not None
    place_of = {str(path): place for place, paths in places.items() for path in paths if path.exists()}
    options = ("--recursive", "--text", "--only-matching", "--with-filename", "--null", "--no-messages")
    ran = subprocess.run(
        [grep, *options, "--fixed-strings", "--file=-", "--", *place_of],
        input=b"\n".join(wanted),
        stdout=subprocess.PIPE,
        env={"LC_ALL": "C"},
        timeout=120,
        check=False,
    )
    assert ran.returncode in (0, 1, 2), ran.returncode
    hits = set()
    for line in set(ran.stdout.split(b"\n")) - {b""}:
        path, _, form = line.partition(b"\0")
        hits.add(Hit(_place(os.fsdecode(path), place_of), wanted[form]))
    return hits


def _place(path: str, place_of: Mapping[str, str]) -> str:
    while path not in place_of:
        path = path.rpartition("/")[0]
    return place_of[path]
