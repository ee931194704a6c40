"""Long texts taken out of a JSON body while it arrives, so that photographs in base64 are never held as a whole.

A body is looked at as what stands between its quotation marks, because there a photograph is one long piece, and
because Python splits and counts such pieces a hundred times faster than it can look at characters.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

PIECE_BYTES_LIMIT = 8 << 10
"""The longest piece of a text that is kept: more than the longest text we take has, with every character escaped."""
STAND_IN = b"~" * 1000
"""What stands for a longer piece: itself longer than any text that is taken, so that nothing cut can pass for whole."""


class Thinner:
    """Takes the chunks of one JSON text as they come, and returns what is kept of them.

    What is kept is the same JSON, with `STAND_IN` in place of every piece of a string that has more than
    `PIECE_BYTES_LIMIT` bytes without a quotation mark (escaped or not). What is not JSON is not mended, unless its only
    fault lies in such a piece.
    """

    def __init__(self) -> None:
        self._inside = False  # a string
        self._piece = b""  # since the last quotation mark, as far as it has come
        self._is_long = False  # so long that nothing of it is kept but a backslash that may escape what follows

    def __call__(self, chunk: bytes) -> bytes:
        """What is kept so far of a further chunk; a piece of a string waits for its end."""
        first, *others = chunk.split(b'"')
        self._add(first)
        kept = []
        if others:
            *whole, last = others
            kept = [self._ended(), *self._whole(whole)]
            self._add(last)
        return b"".join(kept if self._inside else [*kept, self._taken()])

    def _whole(self, pieces: Sequence[bytes]) -> Iterator[bytes]:
        """Pieces of which each came with its quotation mark."""
        begin = 0
        if max(map(len, pieces), default=0) > PIECE_BYTES_LIMIT:
            for place in [each for each, piece in enumerate(pieces) if len(piece) > PIECE_BYTES_LIMIT]:
                yield self._short(pieces[begin:place])
                self._add(pieces[place])
                yield self._ended()
                begin = place + 1
        yield self._short(pieces[begin:])

    def _add(self, more: bytes) -> None:
        self._piece += more
        if self._inside and len(self._piece) > PIECE_BYTES_LIMIT:
            self._is_long = True
        if self._is_long:
            self._piece = b"\\" * _odd_backslash(self._piece)

    def _taken(self) -> bytes:
        piece, self._piece = self._piece, b""
        return piece

    def _ended(self) -> bytes:
        """The piece that has come to its quotation mark, with that."""
        escaped = self._inside and _odd_backslash(self._piece)
        stand_in, self._is_long = STAND_IN if self._is_long else b"", False
        self._inside = bool(escaped) or not self._inside
        return stand_in + self._taken() + b'"'

    def _short(self, pieces: Sequence[bytes]) -> bytes:
        """Whole pieces that are kept as they are, each with its quotation mark."""
        if not pieces:
            return b""
        text = b'"'.join(pieces) + b'"'
        self._inside ^= _unescaped_marks(text) % 2 == 1
        return text


def _odd_backslash(piece: bytes) -> int:
    """1 if a quotation mark behind this piece is escaped, else 0."""
    return (len(piece) - len(piece.rstrip(b"\\"))) % 2


def _unescaped_marks(text: bytes) -> int:
    """How many quotation marks begin or end a string, in a text that begins behind one."""
    if b"\\" in text:
        text = text.replace(b"\\\\", b"").replace(b'\\"', b"")
    return text.count(b'"')
