"""Inputs made from sound ones by a few steps of damage; the same numbers make the same inputs."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from io import BytesIO
from random import Random
from typing import Any

import orjson

TOKENS: Sequence[bytes] = (
    b"\0", b"\r", b"\n", b"\t", b"\x0b", b"\x1c", b"\x1c\r", b"\x7f", b"\xff", b"\xed\xa0\x80", b"\xc3\x28",
    b"\xef\xbb\xbf", b"\xff\xfe", b"\xfe\xff", b"\\ud800", b"\\u0000", b'"', b"'", b"\\", b"{", b"[", b"]", b"}", b",",
    b";", b"|", b"^", b"~", b"&", b"<", b">", b"=", b"%", b"[" * 2000, b'{"a":' * 1500, b"<a>" * 40, b"A" * 70_000,
    b"9" * 30, b"9" * 5000, b"-1", b"-0", b"0", b"00", b"1e999", b"1e-999", b"NaN", b"Infinity", b"null", b"true",
    b"1.5", b"18446744073709551616", b"9223372036854775808", b"99/99/9999", b"00/00/0000", b"29/02/2023",
    b"31/12/9999 23:59", b"01/01/0001", b"0000-00-00", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&#0;", b"&b;", b"&#xD800;",
    b"<![CDATA[", b"]]>", b"<!--", b"#REF!", b"=1+1", b'=HYPERLINK("x")', b"[EXAMPLE]",
    *(each.encode() for each in ("İ", "ı", "ß", "ﬁ", "\u202e", "\u2028", "\u0085", "\u00a0", "\u200b", "１２", "٣٤",
                                 "²", "Ⅷ", "Đ", "Ð", "e\u0323\u0302", "\u0301" * 200, "😀", "\U0010ffff", "[VÍ DỤ]")),
)  # fmt: skip
"""What readers stumble over, whatever the format."""

_BYTES_LIMIT = 1 << 18
_DIGITS = re.compile(rb"\d+")
_CELL = re.compile(rb' r="[A-Z]+\d+"')
_BOUNDS = re.compile(rb"[|^~&;,\t\r\n<>\"']+")

_Step = Callable[[Random, bytes, Sequence[bytes], Sequence[bytes]], bytes]


def mutants(
    seed: int, count: int, corpus: Sequence[bytes], dictionary: Sequence[bytes] = (), *, archives: bool = False
) -> Iterator[bytes]:
    """`count` inputs from a corpus; of `archives` mostly a part is damaged, and the file stays whole."""
    random = Random(seed)  # noqa: S311 - wanted to be the same every time
    for _ in range(count):
        chosen = random.choice(corpus)
        damage = _damaged_archive if archives and random.random() < 0.8 else damaged
        yield damage(random, chosen, corpus, dictionary)


def damaged(random: Random, data: bytes, corpus: Sequence[bytes], dictionary: Sequence[bytes]) -> bytes:
    """A few steps of damage."""
    for _ in range(random.choice((1, 1, 1, 2, 3, 6))):
        data = random.choice(_STEPS)(random, data, corpus, dictionary)[:_BYTES_LIMIT]
    return data


def _damaged_archive(random: Random, data: bytes, corpus: Sequence[bytes], dictionary: Sequence[bytes]) -> bytes:
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            parts = {name: archive.read(name) for name in archive.namelist()}
    except (zipfile.BadZipFile, NotImplementedError, OSError, ValueError):
        return damaged(random, data, corpus, dictionary)
    largest = max(parts, key=lambda name: len(parts[name]))  # the sheet, mostly
    chosen = random.choice((largest, random.choice(sorted(parts))))
    parts[chosen] = damaged(random, parts[chosen], list(parts.values()), dictionary)
    if random.random() < 0.2:
        far = random.choice((b"XFD1", b"A1048576", b"XFD1048576", b"ZZ999", b"XFE1048577", b"A0", b"1", b"AAAAAAA1"))
        parts[chosen] = _CELL.sub(b' r="%s"' % far, parts[chosen], count=random.choice((1, 2)))
    output = BytesIO()
    with zipfile.ZipFile(output, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return output.getvalue()


# -- steps of damage ---------------------------------------------------------------------------------------------------


def _span(random: Random, data: bytes) -> tuple[int, int]:
    start = random.randrange(len(data) + 1)
    return start, min(len(data), start + random.choice((1, 2, 4, 16, 64, 1024)))


def _flip(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    changed = bytearray(data)
    if changed:
        changed[random.randrange(len(changed))] = random.randrange(256)
    return bytes(changed)


def _delete(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    start, end = _span(random, data)
    return data[:start] + data[end:]


def _repeat(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    start, end = _span(random, data)
    return data[:end] + data[start:end] * random.choice((1, 2, 10, 300)) + data[end:]


def _insert(random: Random, data: bytes, _corpus: Sequence[bytes], dictionary: Sequence[bytes]) -> bytes:
    at = random.randrange(len(data) + 1)
    return data[:at] + random.choice((*TOKENS, *dictionary)) + data[at:]


def _replace_value(random: Random, data: bytes, _corpus: Sequence[bytes], dictionary: Sequence[bytes]) -> bytes:
    """Another text between two of the bytes that bound values in most formats."""
    bounds = list(_BOUNDS.finditer(data))
    if len(bounds) < 2:
        return data
    at = random.randrange(len(bounds) - 1)
    start, end = bounds[at].end(), bounds[at + 1].start()
    other = random.randrange(len(bounds) - 1)
    held = data[bounds[other].end() : bounds[other + 1].start()]
    return data[:start] + random.choice((held, b"", random.choice((*TOKENS, *dictionary)))) + data[end:]


_VALUES: Sequence[Any] = (
    None, True, 0, -1, 1, 2**63, -(2**63), 1.5, 1e308, "", " ", "0", "VNM", "2026-11-23T14:05:00+07:00", "2026-11-23",
    "0001-01-01T00:00:00Z", "9999-12-31T23:59:59-23:59", "2026-02-30", [], {}, [None], [[]], {"": None}, "\0",
    "İ" * 300,
)  # fmt: skip


def _replace_member(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    """Another value, or another name, somewhere in a JSON text; the text stays JSON."""
    try:
        whole = orjson.loads(data)
    except orjson.JSONDecodeError:
        return data
    places = [(holder, key) for holder in _holders(whole) for key in _keys(holder)]
    if not places:
        return data
    holder, key = random.choice(places)
    other_holder, other_key = random.choice(places)
    if isinstance(holder, dict) and random.random() < 0.2:
        holder[random.choice(("", "x", "source_ref", "guest", "loai", "quocTich", str(other_key)))] = holder.pop(key)
    else:
        holder[key] = random.choice((*_VALUES, orjson.loads(orjson.dumps(other_holder[other_key]))))
    return orjson.dumps(whole)


def _holders(value: Any) -> Iterator[Any]:
    if isinstance(value, dict | list):
        yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _holders(inner)


def _keys(holder: Any) -> Iterable[Any]:
    return list(holder) if isinstance(holder, dict) else range(len(holder))


def _replace_number(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    found = list(_DIGITS.finditer(data))
    if not found:
        return data
    chosen = random.choice(found)
    number = random.choice((b"0", b"1", b"12", b"13", b"31", b"32", b"99", b"1900", b"9999", b"0" * 12, b"9" * 40))
    return data[: chosen.start()] + number + data[chosen.end() :]


def _splice(random: Random, data: bytes, corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    other = random.choice(corpus)
    return data[: random.randrange(len(data) + 1)] + other[random.randrange(len(other) + 1) :]


def _swap_lines(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    lines = re.split(rb"(?<=[\r\n>}])", data)
    one, other = random.randrange(len(lines)), random.randrange(len(lines))
    lines[one], lines[other] = lines[other], lines[one]
    return b"".join(lines)


def _cut(random: Random, data: bytes, _corpus: Sequence[bytes], _dictionary: Sequence[bytes]) -> bytes:
    return data[: random.randrange(len(data) + 1)]


_STEPS: Sequence[_Step] = (
    _replace_member, _replace_member, _replace_member, _flip, _delete, _repeat, _insert, _insert, _replace_value,
    _replace_value, _replace_value, _replace_number, _splice, _swap_lines, _cut,
)  # fmt: skip
