"""The words of the route table: what a route is, who may call it, and what a handler receives.

Nothing happens here. `web.app` registers routes, `web.auth` reads `Who`, `web.openapi` writes the document of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial
from typing import Any, Generic, Literal, TypeAlias, TypeVar

from aiohttp import web
from pydantic import BaseModel

from asm_daemon.model import Facility, Principal, PrincipalKind, Scope
from asm_daemon.web.bodies import Body
from schemas.stay import Input

Q = TypeVar("Q", bound=BaseModel)
B = TypeVar("B")
Language: TypeAlias = Literal["vi", "en"]

STAY_ID = "{stay_id:[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}}"
"""The path parameter of a stay: a UUIDv7 as we write it; anything else names no stay and is not found."""
EXPECTED_ID = STAY_ID.replace("stay_id", "expected_id")
"""The path parameter of a guest who is expected, of the same form."""


@dataclass(frozen=True, slots=True)
class Who:
    """Who may call a route: principals of `kinds` (none: everybody, without a key).

    With a `scope` the principal must hold it at some facility; at which one is the handler's question, because the
    facility stands in the body or behind the stay's id. With a `session` they show the token of one in place of a key:
    it is for one facility, and the scope is held there. With `basic` the key may be the password of Basic
    authentication (RFC 7617), whatever the user: hotel software often knows nothing else.
    """

    name: str
    kinds: frozenset[PrincipalKind] = frozenset()
    scope: Scope | None = None
    session: bool = False
    basic: bool = False

    @property
    def is_public(self) -> bool:
        """Whether no key is asked for."""
        return not self.kinds


PUBLIC = Who("public")
OFFICER = Who("officer", frozenset({PrincipalKind.OFFICER}))
DEPARTMENT = Who("department", frozenset({PrincipalKind.DEPARTMENT}))
OPERATOR = Who("operator", frozenset({PrincipalKind.OPERATOR}))


def owner(scope: Scope, *, basic: bool = False) -> Who:
    """An owner of facilities, or a vendor with grants for some, holding `scope`."""
    return Who(f"owner:{scope}", frozenset({PrincipalKind.OWNER, PrincipalKind.VENDOR}), scope, basic=basic)


PORTAL = Who("portal", owner(Scope.DECLARE).kinds, Scope.DECLARE, session=True)
PORTAL_PREFIXES = ("/authorization-service/", "/client-service/", "/cms-backend/")
"""The addresses of the national portal's contract."""


def is_portal(path: str) -> bool:
    """Whether an address belongs to the national portal's contract: there every answer has the portal's form."""
    return path.startswith(PORTAL_PREFIXES)


@dataclass(frozen=True, slots=True, repr=False)
class Call(Generic[Q, B]):
    """One request, decoded and authorised as its route says.

    `path` holds the path parameters, `received_at` is when the body was complete (UTC, taken once; the `now` of
    everything the request causes), `language` the one the sender prefers. `caller` is None exactly on public routes,
    `session_facility` on all but those that ask for a session.
    """

    caller: Principal | None
    path: Mapping[str, str]
    query: Q
    body: B
    headers: Mapping[str, str]
    language: Language
    received_at: datetime
    session_facility: Facility | None = None

    @property
    def facility(self) -> Facility:
        """The facility that the session is for, on a route that asks for one."""
        if self.session_facility is None:
            raise LookupError("this route knows no session")
        return self.session_facility

    @property
    def principal(self) -> Principal:
        """Who is asking, on a route that is not public."""
        if self.caller is None:
            raise LookupError("a public route knows no principal")
        return self.caller


class NoQuery(Input):
    """No query parameters."""


class AnyQuery(BaseModel):
    """Whatever stands in the address of a page is ignored: those who pass links on like to add something."""


Handler: TypeAlias = Callable[[Call[Q, B]], Awaitable[web.StreamResponse]]
JSON = "application/json"
HTML = "text/html"


@dataclass(frozen=True, slots=True)
class Shown:
    """One answer of a route: what it means, its model (None: not JSON of ours) and its media types."""

    vi: str
    model: type[BaseModel] | None = None
    media: tuple[str, ...] = (JSON,)
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Header:
    """A request header that a route reads."""

    name: str
    description: str
    example: str
    required: bool = False


@dataclass(frozen=True, slots=True)
class Route(Generic[Q, B]):
    """One row of the table: the whole of what can be known about a request before its handler runs.

    `answers` maps statuses to what they carry; `problems` are codes of `PROBLEMS` besides those that follow from the
    row itself (`web.openapi`). `cache` is the Cache-Control of a good answer: personal data is never stored.
    """

    method: Literal["GET", "POST", "PATCH", "DELETE"]
    path: str
    who: Who
    handler: Handler[Q, B]
    query: type[Q]
    body: Body[B]
    answers: Mapping[int, Shown]
    vi: str
    en: str
    problems: tuple[str, ...] = ()
    headers: tuple[Header, ...] = ()
    description: str = ""
    cache: str = "no-store"
    listed: bool = True  # False: a page for people, not part of the API document

    @property
    def name(self) -> str:
        """The operation's name: unique in the table, because it is the handler's."""
        handler = self.handler.func if isinstance(self.handler, partial) else self.handler
        return handler.__name__


Table: TypeAlias = tuple[Route[Any, Any], ...]
