"""Who is asking: the bearer key of a request, held against what its route demands."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

from asm_daemon.directory import Gate, facilities_within
from asm_daemon.model import Principal
from asm_daemon.problems import Refused
from asm_daemon.web.route import Who


async def identify(gate: Gate, who: Who, headers: Mapping[str, str], now: datetime) -> Principal | None:
    """The principal behind the request, allowed on this route; None on a public one, whatever key is sent.

    Refused `unauthenticated` (no bearer key, or not a valid one), `forbidden` (the route is for others),
    `scope_missing` (the key holds the needed scope nowhere), `unavailable`.
    """
    if who.is_public:
        return None
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer":
        raise Refused("unauthenticated")
    principal = await gate.authenticate(token.strip(), now)
    if principal.kind not in who.kinds:
        raise Refused("forbidden")
    if who.scope is not None and not facilities_within(principal, who.scope):
        raise Refused("scope_missing")
    return principal
