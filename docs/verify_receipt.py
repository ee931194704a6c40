"""Verify a receipt (biên nhận) offline: python verify_receipt.py RECEIPT.json KEYS.pem [DECLARED.json]

Needs only Python and `cryptography`. RECEIPT.json is a receipt as the API gives it, KEYS.pem the output of `asm-daemon
keys public`, DECLARED.json the `declaration` of GET /v1/stays/{id}?view=full. docs/adr/0005 describes the format.
"""

import base64
import hashlib
import json
import re
import sys
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_pem_public_key

UNSIGNED = {"salt", "leaf_index", "proof", "checkpoint"}  # what leads from the signed members to the signature
NOTE = re.compile(r"((\S+/receipts(?:/trial)?)/[0-9a-f-]{36}\n([0-9]+)\n(\S+)\nsigned_at (\S+)\n)\n((?:— \S+ \S+\n)+)")


def require(holds, otherwise):
    if not holds:
        raise ValueError(otherwise)


def sha256(*parts):
    return hashlib.sha256(b"".join(parts)).digest()


def canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


def verify(receipt, key, declared=None, *others):
    """Return the name of the signer and the time of signing. Raises an exception if anything does not fit."""
    require(receipt["receipt_version"] == 1, "another version of the format")
    text, name, size, root, signed_at, lines = NOTE.fullmatch(receipt["checkpoint"]).groups()
    keys = {sha256(name.encode(), b"\n\x01", each.public_bytes_raw())[:4]: each for each in (key, *others)}
    signatures = map(base64.b64decode, re.findall(f"— {re.escape(name)} (\\S+)\n", lines))
    ours = [(keys[signature[:4]], signature[4:]) for signature in signatures if signature[:4] in keys]
    require(ours and all(signer.verify(each, text.encode()) is None for signer, each in ours), "signed by another key")
    node = sha256(b"\0", canonical({member: receipt[member] for member in receipt.keys() - UNSIGNED}))
    index, last = receipt["leaf_index"], int(size) - 1
    require(type(index) is int and 0 <= index <= last, "no such leaf")
    for step in map(bytes.fromhex, receipt["proof"]):
        while index % 2 == 0 and index == last > 0:  # a last node without a sibling moves up unchanged
            index, last = index // 2, last // 2
        node = sha256(b"\1", step, node) if index % 2 else sha256(b"\1", node, step)
        index, last = index // 2, last // 2
    require(last == 0 and node == base64.b64decode(root), "the content is not what was signed")
    digest = sha256(bytes.fromhex(receipt["salt"]), canonical(declared)).hex()
    require(declared is None or digest == receipt["declared_digest"], "other fields were declared")
    return name, signed_at


if __name__ == "__main__":
    receipt, pem, *declared = [Path(name).read_bytes() for name in sys.argv[1:]] if sys.argv[2:] else sys.exit(__doc__)
    key, *others = map(load_pem_public_key, re.findall(rb"-+BEGIN.+?-+END PUBLIC KEY-+", pem, re.DOTALL))
    shown, fields = json.loads(receipt), json.loads(declared[0]) if declared else None
    signer, signed_at = verify(shown.get("signed", shown), key, fields, *others)
    sys.stdout.write(f"Hợp lệ / valid: {signer}, {signed_at}\n")
