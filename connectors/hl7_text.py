"""HL7 v2 as text: finding the messages of a file, decoding, and what stands at segment, field and component.

The charset is that of MSH-18, else the sender's; bytes that do not fit refuse the message and are never replaced. The
parser comes from the package `hl7`, its unescaping does not: that one writes what it cannot unescape, a patient's data,
to the log. Line ends may be CR, LF or both, and a byte order mark before the first segment is passed over.

The parser makes an object of every part, so the parts are counted before it sees any: limits far above real messages
refuse the others at the cost of counting. It sees only the segments that are needed.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import hl7
from hl7.exceptions import HL7Exception

from connectors.cells import CellError
from schemas.hospital import CHARSETS, DEFAULT_CHARSET

_BOM = b"\xef\xbb\xbf"
_SEPARATORS = re.compile(rb"[!-/:-@\[-`{-~]{5}")
_PARSER_FAULTS = (HL7Exception, AssertionError, AttributeError, LookupError, TypeError, ValueError)
SEGMENTS_LIMIT = 1000
"""Segments of one message, of whatever kind."""
PARTS_LIMIT = 10_000
"""Separators in all needed segments of one message together."""
FIELDS_LIMIT, REPETITIONS_LIMIT, COMPONENTS_LIMIT = 200, 100, 100
"""Of a needed segment, of one of its fields, of one repetition (subcomponents counted along)."""
NEEDED = frozenset({"MSH", "EVN", "PID", "PV1", "PV2", "NK1", "MRG"})
"""Segments that are read; others are dropped unparsed."""
_LINE = re.compile(rb"[^\r\n]+")
_BATCH_HEADERS, _BATCH_TRAILERS = (b"FHS", b"BHS"), (b"BTS", b"FTS")


class Part:
    """One segment of a message, or one that is not there: then it holds nothing."""

    def __init__(self, segment: Any, separators: str, name: str) -> None:
        self._segment = segment
        self._separators = separators
        self.name = name

    def __bool__(self) -> bool:
        return self._segment is not None

    def repetitions(self, field: int) -> int:
        """How often a field stands there."""
        held = self._segment
        return len(held[field]) if held is not None and field < len(held) else 0

    def at(self, field: int, repetition: int = 0, component: int = 0) -> str | None:
        """The text of a field, repetitions and components from 0; None if absent, empty or the null `""`."""
        node = self._segment
        for index in (field, repetition, component, 0):
            if isinstance(node, list):
                node = node[index] if index < len(node) else None
            elif index:
                return None
        if not isinstance(node, str) or node == '""':
            return None
        return " ".join(unicodedata.normalize("NFC", self._unescaped(node)).split()) or None

    def place(self, field: int) -> str:
        """How people call this field: PID-5."""
        return f"{self.name}-{field}"

    def _unescaped(self, value: str) -> str:
        """HL7 v2.5.1, 2.7: separators come back; highlighting, line breaks, bytes of other charsets become a space."""
        field, component, repetition, escape, subcomponent = tuple(self._separators)
        if escape not in value:
            return value
        meant = {"F": field, "R": repetition, "S": component, "T": subcomponent, "E": escape}
        return re.sub(
            f"{re.escape(escape)}([^{re.escape(escape)}]*){re.escape(escape)}", lambda m: meant.get(m[1], " "), value
        )


class Message:
    """A parsed message: its segments by name, in their order."""

    def __init__(self, parsed: hl7.Message, separators: str) -> None:
        self._separators = separators
        self._segments = [(str(segment[0]), segment) for segment in parsed]

    def part(self, name: str) -> Part:
        """The first segment of this name."""
        return Part(next((held for known, held in self._segments if known == name), None), self._separators, name)

    def parts(self, *names: str) -> list[Part]:
        """All segments of these names."""
        return [Part(held, self._separators, known) for known, held in self._segments if known in names]

    def first(self, *places: tuple[str, int]) -> tuple[str, str | None]:
        """The first place that holds something, and what it holds; the first place if none does."""
        for name, field in places:
            part = self.part(name)
            held = part.at(field)
            if held is not None:
                return part.place(field), held
        return f"{places[0][0]}-{places[0][1]}", None


def parse(message: bytes, charset: str = DEFAULT_CHARSET) -> Message:
    """Decode and parse; `charset` is the name of the one for messages without MSH-18.

    Raises CellError `not_hl7`, `undecodable` or `message_too_large`; see the limits above.
    """
    lines = list(islice(_lines(message), SEGMENTS_LIMIT + 1))
    header = lines[0] if lines else b""
    separators = header[3:8]
    if not header.startswith(b"MSH") or len(set(separators)) != 5 or not _SEPARATORS.fullmatch(separators):
        raise CellError("not_hl7")
    fields = header.split(separators[:1], 18)
    if len(lines) > SEGMENTS_LIMIT:
        raise CellError("message_too_large", limit=SEGMENTS_LIMIT)
    named = fields[17].split(separators[2:3])[0].strip().upper() if len(fields) > 17 else b""
    codec = CHARSETS.get(named.decode("ascii", "replace") or charset)
    try:
        if codec is None:
            raise CellError("undecodable", expected=", ".join(CHARSETS))
        needed = _needed(b"\r".join(lines).decode(codec).split("\r"), separators.decode("ascii"))
        return Message(hl7.parse("\r".join(needed)), separators.decode("ascii"))
    except UnicodeDecodeError:
        raise CellError("undecodable", expected=codec) from None
    except _PARSER_FAULTS:
        raise CellError("not_hl7") from None


def _needed(segments: Sequence[str], separators: str) -> list[str]:
    """The segments to parse. Raises CellError `message_too_large` where they have more parts than any real one."""
    field, component, repetition, _, subcomponent = tuple(separators)
    needed = [each for each in segments if each.partition(field)[0] in NEEDED]
    if sum(each.count(mark) for each in needed for mark in (field, component, repetition, subcomponent)) > PARTS_LIMIT:
        raise CellError("message_too_large", limit=PARTS_LIMIT)
    for segment in needed:
        if segment.count(field) > FIELDS_LIMIT:
            raise CellError("message_too_large", limit=FIELDS_LIMIT)
        for value in segment.split(field):
            if value.count(repetition) >= REPETITIONS_LIMIT:
                raise CellError("message_too_large", limit=REPETITIONS_LIMIT)
            if any(
                each.count(component) + each.count(subcomponent) >= COMPONENTS_LIMIT for each in value.split(repetition)
            ):
                raise CellError("message_too_large", limit=COMPONENTS_LIMIT)
    return needed


def messages(document: bytes) -> Iterator[bytes | None]:
    """The messages of a file in their order; None for one that is cut off.

    They are framed as over MLLP, or follow each other, each beginning with a line MSH. Headers and trailers of files
    and batches are passed over. Raises CellError `batch_incomplete` for a batch without its end, or of another number
    of messages than its end says.
    """
    if b"\x0b" in document:
        before, *frames = document.split(b"\x0b")
        if before.strip():
            yield before
        for frame in frames:
            message, end, _ = frame.partition(b"\x1c")
            if end and message.removeprefix(_BOM).lstrip().startswith(_BATCH_HEADERS):
                yield from batch(message)
            else:
                yield message if end else None
        return
    yield from batch(document)


def batch(document: bytes) -> list[bytes]:
    """The messages of an unframed file or batch (HL7 v2.5.1, 2.10.3). Raises CellError `batch_incomplete`."""
    found: list[list[bytes]] = []
    open_batch, before = False, 0
    for line in _lines(document):
        if line.startswith(b"BHS"):
            if open_batch:
                raise CellError("batch_incomplete")
            open_batch, before = True, len(found)
        elif line.startswith(b"BTS"):
            announced = line[4:].split(line[3:4] or b"|")[0].strip()
            if not open_batch or (announced and announced != b"%d" % (len(found) - before)):
                raise CellError("batch_incomplete")
            open_batch = False
        elif line.startswith(b"MSH") or (not found and not line.startswith((*_BATCH_HEADERS, *_BATCH_TRAILERS))):
            found.append([line])
        elif not line.startswith((*_BATCH_HEADERS, *_BATCH_TRAILERS)) and len(found[-1]) <= SEGMENTS_LIMIT:
            # one more than the limit is as good as all of them
            found[-1].append(line)
    if open_batch:
        raise CellError("batch_incomplete")
    return [b"\r".join(lines) for lines in found]


def is_batch(document: bytes) -> bool:
    """Whether this is a batch of messages rather than one."""
    return document.removeprefix(_BOM).lstrip().startswith(_BATCH_HEADERS)


def _lines(document: bytes) -> Iterator[bytes]:
    return (match[0] for match in _LINE.finditer(document.removeprefix(_BOM)) if match[0].strip())
