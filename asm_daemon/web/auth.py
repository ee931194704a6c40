"""Who is asking: the bearer key or token of a request, held against what its route demands."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from asm_daemon.directory import Gate, authorise, facilities_within
from asm_daemon.model import Facility, Principal
from asm_daemon.problems import Refused
from asm_daemon.web.route import Who


class WrongKind(Refused):
    """A valid key, and a route for principals of other kinds."""

    def __init__(self, principal: Principal) -> None:
        super().__init__("forbidden")
        self.principal = principal


class Caller(NamedTuple):
    """Who is behind a request, and for which facility where a session says so; nobody on a public route."""

    principal: Principal | None = None
    facility: Facility | None = None


async def identify(gate: Gate, who: Who, headers: Mapping[str, str], query: Mapping[str, str], now: datetime) -> Caller:
    """Who is behind the request, allowed on this route; nobody on a public one, whatever key is sent.

    Refused `unauthenticated` (no bearer key or token, or not a valid one), `forbidden` (the route is for others),
    `scope_missing`, `facility_not_granted` (of a session, whose key may have lost its grant since), `unavailable`.
    """
    if who.is_public:
        return Caller()
    if who.session:
        token = bearer(headers) or query.get("access_token", "")
        principal, code = await gate.authenticate_session(token, now)
    else:
        token = bearer(headers) or (password(headers) if who.basic else "")
        principal, code = await gate.authenticate(token, now), None
    if principal.kind not in who.kinds:
        raise WrongKind(principal)
    if who.scope is not None and code is not None:
        return Caller(principal, authorise(principal, code, who.scope))
    if who.scope is not None and not facilities_within(principal, who.scope):
        raise Refused("scope_missing")
    return Caller(principal)


def bearer(headers: Mapping[str, str]) -> str:
    """The bearer token of the header Authorization (RFC 6750, 2.1), or nothing."""
    scheme, _, token = headers.get("Authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else ""


def password(headers: Mapping[str, str]) -> str:
    """The password of Basic authentication (RFC 7617), or nothing; the user is of no interest."""
    scheme, _, encoded = headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return ""
    try:
        return base64.b64decode(encoded.strip(), validate=True).decode("ascii").partition(":")[2]
    except ValueError:
        return ""
