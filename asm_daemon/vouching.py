"""Which audit entries the daemon's own programs wrote: they carry a tag that only a holder of our keys can make.

Every login may append to the audit, and the tree signs whatever was appended. So an entry proves that it was written,
not by whom. Those that rows are held against (`told`) are vouched for; another that says the like counts for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from hmac import compare_digest
from typing import Any

import orjson

from asm_daemon.crypto import Keyring
from asm_daemon.ledger import canonical_json

MEMBER = "vouched"
"""The member of an entry's `details` that holds the tag over all else in the entry, in hexadecimal."""


def tag_of(keyring: Keyring, entry: Mapping[str, Any]) -> str:
    """The tag of an audit entry, given as the members of its body."""
    details = {name: value for name, value in entry["details"].items() if name != MEMBER}
    return keyring.entry_tag(canonical_json({**entry, "details": details})).hex()


def read_vouched(keyring: Keyring, body: bytes) -> dict[str, Any] | None:
    """The members of an audit entry's body if it is, as it stands, one that we wrote; None for whatever else it is."""
    try:
        entry: dict[str, Any] = orjson.loads(body)
        tag = entry["details"][MEMBER]
        return entry if compare_digest(tag.encode(), tag_of(keyring, entry).encode()) else None
    except (
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
    ):  # anybody may append anything, what cannot be said again too
        return None
