"""The failures of a real portal, on demand: armed by count, or by probability and seed so that a run repeats itself."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, TypeVar

from aiohttp import web
from pydantic import BaseModel, ConfigDict, Field, model_validator

T = TypeVar("T")

SCHEDULE_LIMIT = 10_000
"""How many requests a schedule covers at most."""
_SLOW_BODY_PIECES = 20
_GONE_POLL_SECONDS = 0.01
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER on, 0 s: close() sends RST
HTML_PAGE = "<!DOCTYPE html><html><head><title>{0}</title></head><body><h1>{0}</h1><hr>nginx</body></html>"


class Operation(StrEnum):
    """Where a fault strikes."""

    BATCH = "batch"
    STATUS = "status"
    DIGESTS = "digests"
    HELD = "held"
    TOKEN = "token"  # noqa: S105 - a name


class FaultKind(StrEnum):
    """What goes wrong, as the client sees it. `takes_effect` says what has happened by then."""

    LATENCY = "latency"  # the right answer, `milliseconds` late
    SLOW_BODY = "slow_body"  # the right answer, its body dripping over `milliseconds`
    PARTIAL = "partial"  # 200 with the first half of the results
    ZERO_ROWS = "zero_rows"  # 200 with no result at all
    TOKEN_EXPIRED = "token_expired"  # noqa: S105 - every token is void, 401
    SERVER_ERROR = "server_error"  # `status` as a problem, with Retry-After if given
    HTML_PAGE = "html_page"  # `status` (default 502) as a gateway's HTML page
    MALFORMED_JSON = "malformed_json"  # 200, JSON cut off in the middle
    NO_ANSWER = "no_answer"  # silence until the client leaves, or `milliseconds`
    RESET = "reset"  # the connection is reset


_ON_RESULTS = frozenset({FaultKind.PARTIAL, FaultKind.ZERO_ROWS, FaultKind.TOKEN_EXPIRED})
_ALWAYS_WHOLE = frozenset({FaultKind.LATENCY, FaultKind.SLOW_BODY})


class Fault(BaseModel):
    """One armed fault: `POST /admin/faults`. It strikes `count` times, or with `probability`, or both."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    kind: Annotated[FaultKind, Field(strict=False)]
    on: Annotated[Operation, Field(strict=False)] = Operation.BATCH
    count: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    probability: Annotated[float, Field(gt=0, le=1)] | None = None
    seed: int = 0
    after_commit: bool = False
    milliseconds: Annotated[int, Field(ge=1, le=600_000)] = 30_000
    status: Annotated[int, Field(ge=500, le=599)] | None = None
    retry_after_seconds: Annotated[int, Field(ge=0, le=86_400)] | None = None

    @model_validator(mode="after")
    def _is_sensible(self) -> Fault:
        if self.count is None and self.probability is None:
            raise ValueError("count or probability is wanted")
        if self.after_commit and self.kind in _ALWAYS_WHOLE:
            raise ValueError("this fault always lets the request take effect")
        if self.on is Operation.TOKEN and (self.after_commit or self.kind in _ON_RESULTS):
            raise ValueError("a token request has no results and no effect")
        return self


class Schedule(BaseModel):
    """A seeded schedule: `POST /admin/schedule`. Of the next `requests` requests to each operation, a `share` is hit.

    Which, and by what, follows from these settings alone: not from time, nor from how operations take turns. `kinds`
    and `on` narrow it down; an operation gets only kinds that make sense for it.
    """

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    seed: Annotated[int, Field(ge=0, le=2**63 - 1)]
    requests: Annotated[int, Field(ge=1, le=SCHEDULE_LIMIT)]
    share: Annotated[float, Field(gt=0, le=1)]
    kinds: Annotated[list[Annotated[FaultKind, Field(strict=False)]], Field(min_length=1)] = list(FaultKind)
    on: Annotated[list[Annotated[Operation, Field(strict=False)]], Field(min_length=1)] = list(Operation)
    longest_milliseconds: Annotated[int, Field(ge=1, le=600_000)] = 2_000

    @model_validator(mode="after")
    def _hits_something(self) -> Schedule:
        if not any(_sensible(kind, operation) for kind in self.kinds for operation in self.on):
            raise ValueError("none of these kinds can strike any of these operations")
        return self


@dataclass(frozen=True, slots=True)
class Planned:
    """A fault of a schedule, and the request (1, 2, 3 … of its operation) that it will hit."""

    request: int
    fault: Fault


def plan(schedule: Schedule) -> dict[Operation, list[Planned]]:
    """Every fault of a schedule, by operation and in the order of the requests. Equal for equal schedules."""
    return {operation: list(_planned(schedule, operation)) for operation in Operation if operation in schedule.on}


def _planned(schedule: Schedule, operation: Operation) -> Iterator[Planned]:
    kinds = [kind for kind in FaultKind if kind in schedule.kinds and _sensible(kind, operation)]
    dice = random.Random(f"{schedule.seed}/{operation}")  # noqa: S311 - repeatable
    for request in range(1, schedule.requests + 1):
        if kinds and dice.random() < schedule.share:
            yield Planned(request, _thrown(dice, dice.choice(kinds), operation, schedule.longest_milliseconds))


def _thrown(dice: random.Random, kind: FaultKind, operation: Operation, longest_milliseconds: int) -> Fault:
    after_commit = dice.random() < 0.5
    milliseconds = dice.randint(1, longest_milliseconds)
    overloaded = dice.random() < 0.5
    return Fault(
        kind=kind,
        on=operation,
        count=1,
        after_commit=after_commit and operation is not Operation.TOKEN and kind not in _ALWAYS_WHOLE,
        milliseconds=milliseconds,
        status=503 if overloaded and kind is FaultKind.SERVER_ERROR else None,
        retry_after_seconds=1 if overloaded and kind is FaultKind.SERVER_ERROR else None,
    )


def _sensible(kind: FaultKind, operation: Operation) -> bool:
    return operation is not Operation.TOKEN or kind not in _ON_RESULTS


@dataclass(slots=True)
class Armed:
    """A fault with what is left of it. Its dice are thrown once per request to its operation, in order of arrival."""

    fault: Fault
    remaining: int | None
    struck: int = 0
    dice: random.Random = field(default_factory=random.Random)

    def strikes(self) -> bool:
        """Whether this request is hit."""
        if self.remaining == 0:
            return False
        return self.fault.probability is None or self.dice.random() < self.fault.probability


class FaultPlan:
    """The armed faults, and the schedule. At most one strikes a request: the one armed first of those whose turn it is.

    What the schedule has for a request strikes only where no armed fault does; else it is passed over.
    """

    def __init__(self) -> None:
        self._armed: list[Armed] = []
        self._struck: Counter[str] = Counter()
        self._schedule: Schedule | None = None
        self._plan: dict[Operation, list[Planned]] = {}
        self._requests: Counter[Operation] = Counter()
        self._hit: Counter[Operation] = Counter()

    def arm(self, fault: Fault) -> None:
        """Add a fault behind those that are armed."""
        self._armed.append(Armed(fault, fault.count, dice=random.Random(fault.seed)))  # noqa: S311 - repeatable

    def disarm(self) -> None:
        """Forget every fault; the counts of what struck stay."""
        self._armed.clear()

    def draw(self, operation: Operation) -> Fault | None:
        """The fault that strikes this request, if any."""
        # Every fault throws its dice, struck or not: a seed means the same sequence whatever else is armed.
        candidates = [armed for armed in self._armed if armed.fault.on is operation and armed.strikes()]
        scheduled = self._draw_scheduled(operation)
        if not candidates:
            if scheduled is not None:
                self._hit[operation] += 1
                self._struck[scheduled.kind.value] += 1
            return scheduled
        chosen = candidates[0]
        chosen.struck += 1
        if chosen.remaining is not None:
            chosen.remaining -= 1
            if not chosen.remaining:
                self._armed.remove(chosen)
        self._struck[chosen.fault.kind.value] += 1
        return chosen.fault

    def _draw_scheduled(self, operation: Operation) -> Fault | None:
        self._requests[operation] += 1
        left = self._plan.get(operation)
        if left and left[0].request == self._requests[operation]:
            return left.pop(0).fault
        return None

    def follow(self, schedule: Schedule) -> None:
        """Follow a schedule from the next request on, in place of the one there was."""
        self.unschedule()
        self._schedule, self._plan = schedule, plan(schedule)

    def unschedule(self) -> None:
        """Forget the schedule; the counts of what struck stay."""
        self._schedule, self._plan = None, {}
        self._requests.clear()
        self._hit.clear()

    def schedule_report(self) -> Mapping[str, Any]:
        """The schedule, and for each of its operations the requests seen, the faults that struck, and those to come."""
        if self._schedule is None:
            return {"schedule": None, "operations": {}}
        operations = {
            operation.value: {
                "requests": self._requests[operation],
                "struck": self._hit[operation],
                "to_come": [
                    {"request": one.request, "kind": one.fault.kind.value, "after_commit": one.fault.after_commit}
                    for one in left
                ],
            }
            for operation, left in self._plan.items()
        }
        return {"schedule": self._schedule.model_dump(mode="json"), "operations": operations}

    def report(self) -> Mapping[str, Any]:
        """What is armed, and how often each kind has struck since the start."""
        armed = [
            {"fault": armed.fault.model_dump(mode="json"), "remaining": armed.remaining, "struck": armed.struck}
            for armed in self._armed
        ]
        return {"armed": armed, "struck": dict(self._struck)}


def takes_effect(fault: Fault | None, asked: Sequence[T]) -> Sequence[T]:
    """The part of a request that is processed although `fault` strikes it."""
    if fault is None or fault.kind in _ALWAYS_WHOLE:
        return asked
    first_half = asked[: len(asked) // 2]
    if fault.kind is FaultKind.TOKEN_EXPIRED:  # in the middle of the batch, or before it
        return first_half if fault.after_commit else []
    if fault.kind is FaultKind.PARTIAL:
        return asked if fault.after_commit else first_half
    return asked if fault.after_commit else []


async def misbehave(request: web.Request, fault: Fault) -> web.StreamResponse:
    """Answer as `fault` says, for the kinds that give no results. Raises ValueError for the others."""
    match fault.kind:
        case FaultKind.SERVER_ERROR:
            headers = {} if fault.retry_after_seconds is None else {"Retry-After": str(fault.retry_after_seconds)}
            body = {"type": "about:blank", "title": "Fault", "status": fault.status or 500, "code": "internal_error"}
            return web.json_response(
                body, status=fault.status or 500, headers=headers, content_type="application/problem+json"
            )
        case FaultKind.HTML_PAGE:
            status = fault.status or 502
            return web.Response(status=status, text=HTML_PAGE.format(f"{status} Bad Gateway"), content_type="text/html")
        case FaultKind.MALFORMED_JSON:
            return web.Response(text='{"results":[{"stay_id":"0193', content_type="application/json")
        case FaultKind.NO_ANSWER:
            await _until_gone(request, fault.milliseconds / 1000)
            return _cut(request)
        case FaultKind.RESET:
            return _cut(request)
    raise ValueError(fault.kind)


async def _until_gone(request: web.Request, seconds: float) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            while request.transport is not None and not request.transport.is_closing():  # noqa: ASYNC110 - no event
                await asyncio.sleep(_GONE_POLL_SECONDS)


def _cut(request: web.Request) -> web.Response:
    """Reset the connection; the response returned goes nowhere."""
    if request.transport is not None:
        connection = request.transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        request.transport.abort()
    return web.Response()


async def drip(request: web.Request, body: bytes, seconds: float) -> web.StreamResponse:
    """Send a JSON body in small pieces over `seconds`."""
    response = web.StreamResponse(headers={"Content-Type": "application/json", "Content-Length": str(len(body))})
    size = max(1, -(-len(body) // _SLOW_BODY_PIECES))
    with suppress(ConnectionResetError):  # the client has lost patience
        await response.prepare(request)
        for start in range(0, len(body), size):
            await asyncio.sleep(seconds / _SLOW_BODY_PIECES)
            await response.write(body[start : start + size])
        await response.write_eof()
    return response
