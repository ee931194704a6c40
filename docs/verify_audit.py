"""Verify an exported audit offline: python verify_audit.py FOLDER KEYS.pem [CHECKPOINT.txt …]

Needs only Python and `cryptography`. FOLDER is what `asm-daemon audit export` wrote (C2SP tlog-tiles), KEYS.pem the
output of `asm-daemon keys public`; checkpoints that were kept elsewhere show whether the log ever lost or changed one.
"""

import base64
import hashlib
import re
import sys
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.serialization import load_pem_public_key

KEYS = re.compile(rb"(-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----)")
# All that may stand before a key that signs checkpoints: a BOM, its name and version.
NAMED = re.compile(rb"\s*(?:\xef\xbb\xbf\s*)?(?:checkpoint/\d+\s*)?")
NOTE = re.compile(r"((\S+)\n([0-9]+)\n(\S+)\n(?:.+\n)*)\n((?:— \S+ \S+\n)+)")


def require(holds, otherwise):
    if not holds:
        sys.exit(f"Không hợp lệ / not valid: {otherwise}")


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def open_checkpoint(path, keys):
    """Return origin, size and root of a checkpoint that one of the keys signed."""
    note = NOTE.fullmatch(path.read_text("utf-8"))
    require(note, f"{path} is no checkpoint")
    text, name, size, root, lines = note.groups()
    signatures = [base64.b64decode(line) for line in re.findall(f"— {re.escape(name)} (\\S+)\n", lines)]
    known = {sha256(name.encode(), b"\n\x01", key.public_bytes_raw())[:4]: key for key in keys}
    ours = [(known[each[:4]], each[4:]) for each in signatures if each[:4] in known]
    require(ours, f"{path} is signed by another key, or the text before the key is not its name")
    try:
        for key, signature in ours:
            key.verify(signature, text.encode())
    except InvalidSignature:
        require(False, f"{path} was changed")
    return name, int(size), base64.b64decode(root)


def tile(folder, level, number, width):
    """Return a tile, or a bundle of entries for the level "entries"."""
    digits = f"{number:0{-(-len(str(number)) // 3) * 3}}"
    parts = [digits[at : at + 3] for at in range(0, len(digits), 3)]
    path = "/".join([*(f"x{part}" for part in parts[:-1]), parts[-1]]) + (f".p/{width}" if width < 256 else "")
    return (folder / "tile" / str(level) / path).read_bytes()


def entries(bundle):
    at = 0
    while at < len(bundle):
        length = int.from_bytes(bundle[at : at + 2], "big")
        yield bundle[at + 2 : at + 2 + length]
        at += 2 + length


def add(frontier, size, leaf):
    """Append a leaf to the roots of the complete subtrees, largest first."""
    while size % 2:
        leaf, size = sha256(b"\1", frontier.pop(), leaf), size // 2
    frontier.append(leaf)


def root_of(frontier):
    node = frontier[-1] if frontier else sha256()
    for left in reversed(frontier[:-1]):
        node = sha256(b"\1", left, node)
    return node


def main(folder, pem, *others):
    parts = iter(KEYS.split(pem))  # text, key, text, key, … text
    keys = [load_pem_public_key(key) for before, key in zip(parts, parts, strict=False) if NAMED.fullmatch(before)]
    name, size, root = open_checkpoint(folder / "checkpoint", keys)
    kept = [(path, *open_checkpoint(path, keys)) for path in others]
    roots, frontier, count = {0: sha256()}, [], 0
    wanted = {each[2] for each in kept}
    for number in range(-(-size // 256)):
        width = min(256, size - number * 256)
        leaves = [sha256(b"\0", entry) for entry in entries(tile(folder, "entries", number, width))]
        require(len(leaves) == width, f"bundle {number} does not hold {width} entries")
        require(b"".join(leaves) == tile(folder, 0, number, width), f"entries of tile {number} are not what was hashed")
        for leaf in leaves:
            add(frontier, count, leaf)
            count += 1
            if count in wanted:
                roots[count] = root_of(frontier)
    require(root_of(frontier) == root, "the entries are not those that were signed")
    for path, other, old, signed in kept:
        require(other == name, f"{path} is of another log")
        require(old <= size, f"{path} is of a larger log: the end is missing")
        require(roots[old] == signed, f"the log was changed since {path}")
    sys.stdout.write(f"Hợp lệ / valid: {name}, {size} entries, {len(kept)} earlier checkpoints\n")


if __name__ == "__main__":
    sys.excepthook = lambda _kind, error, _: sys.stderr.write(f"Không đọc được / cannot be read: {error!r}\n")
    paths = [Path(each) for each in sys.argv[1:]]
    main(paths[0], paths[1].read_bytes(), *paths[2:]) if paths[1:] else sys.exit(__doc__)
