"""Verify a receipt (biên nhận) offline: python verify_receipt.py RECEIPT.json KEY.pem [DECLARED.json]

KEY.pem is the published public key (Ed25519); needs only Python and `cryptography`. DECLARED.json, if given, holds the
declared fields, which must be those of the receipt. docs/adr/0005 describes the format.
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


def verify(receipt, key, declared=None):
    """Return the name of the signer and the time of signing. Raises an exception if anything does not fit."""
    require(receipt["receipt_version"] == 1, "another version of the format")
    text, name, size, root, signed_at, lines = NOTE.fullmatch(receipt["checkpoint"]).groups()
    key_id = sha256(name.encode(), b"\n\x01", key.public_bytes_raw())[:4]
    signatures = map(base64.b64decode, re.findall(f"— {re.escape(name)} (\\S+)\n", lines))
    ours = [signature[4:] for signature in signatures if signature[:4] == key_id]
    require(ours, "signed by another key")
    for signature in ours:
        key.verify(signature, text.encode())
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
    files = [Path(name).read_bytes() for name in sys.argv[1:]]
    receipt, *declared = (json.loads(content) for content in files[:1] + files[2:])
    sys.stdout.write("Hợp lệ / valid: {}, {}\n".format(*verify(receipt, load_pem_public_key(files[1]), *declared)))
