"""Verify a receipt (biên nhận) offline: python verify_receipt.py RECEIPT.json KEYS.pem [DECLARED.json]
RECEIPT.json as the API gives it, KEYS.pem of `asm-daemon keys public`, DECLARED.json: GET /v1/stays/{id}?view=full.
"""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

CANONICAL = {"sort_keys": True, "separators": (",", ":"), "ensure_ascii": False}
KEYS = re.compile(rb"(-----BEGIN PUBLIC KEY-----[^-]+-----END PUBLIC KEY-----)")
NAMED = rb"\s*(?:\xef\xbb\xbf\s*)?(?:%s/\d+\s*)?"  # all that may stand before a key: a BOM, its name and version
NOTE = re.compile(r"((\S+/receipts(/trial)?)/[0-9a-f-]{36}\n([0-9]+)\n(\S+)\nsigned_at (\S+)\n)\n((?:— \S+ \S+\n)+)")


def require(holds, otherwise):
    if not holds:
        raise ValueError(otherwise)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def verify(receipt, pem, *declared):
    """Return all that is proven (docs/adr/0005 has the format). Raises an exception if anything does not fit."""
    text, name, trial, size, root, signed_at, lines = NOTE.fullmatch(receipt["checkpoint"]).groups()
    fits = re.compile(NAMED % (b"receipt_trial" if trial else b"receipt"))
    parts = iter(KEYS.split(pem))  # text, key, text, key, … text; a key after any other text signs no such receipt
    published = [load_pem_public_key(key) for before, key in zip(parts, parts, strict=False) if fits.fullmatch(before)]
    keys = {sha256(name.encode(), b"\n\x01", each.public_bytes_raw())[:4]: each for each in published}
    lines = map(base64.b64decode, re.findall(f"— {re.escape(name)} (\\S+)\n", lines))
    ours = [(keys[each[:4]], each[4:]) for each in lines if each[:4] in keys]
    sound = ours and all(signer.verify(each, text.encode()) is None for signer, each in ours)
    require(sound, "signed by another key, or the text before the key is not its name")
    signed = {member: receipt[member] for member in receipt.keys() - {"salt", "leaf_index", "proof", "checkpoint"}}
    node = sha256(b"\0", json.dumps(signed, **CANONICAL).encode())
    index, last = receipt["leaf_index"], int(size) - 1
    require(receipt["receipt_version"] == 1 and type(index) is int and 0 <= index <= last, "another format, or no leaf")
    for step in map(bytes.fromhex, receipt["proof"]):
        while index % 2 == 0 and index == last > 0:  # a last node without a sibling moves up unchanged
            index, last = index // 2, last // 2
        node = sha256(b"\1", step, node) if index % 2 else sha256(b"\1", node, step)
        index, last = index // 2, last // 2
    require(last == 0 and node == base64.b64decode(root), "the content is not what was signed")
    told = [sha256(bytes.fromhex(receipt["salt"]), json.dumps(one, **CANONICAL).encode()).hex() for one in declared]
    require(all(digest == receipt["declared_digest"] for digest in told), "other fields were declared")
    return {"signer": name, "signed_at": signed_at, **signed, **({"declared": "khớp / as given"} if declared else {})}


if __name__ == "__main__":
    sys.excepthook = lambda _kind, error, _: sys.stderr.write(f"Không chứng minh gì / proves nothing: {error!r}\n")
    files = [Path(name).read_bytes() for name in sys.argv[1:]] if sys.argv[2:] else sys.exit(__doc__)
    shown, *declared = map(json.loads, files[::2])
    proven = verify(shown.get("signed", shown), files[1], *(each.get("declaration", each) for each in declared))
    sys.stdout.writelines(["Hợp lệ / valid\n", *(f"{member}: {value}\n" for member, value in sorted(proven.items()))])
