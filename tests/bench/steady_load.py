"""Owners who declare at a fixed rate, whatever the answers take: an open loop, so that a slow answer delays no other's
due time and none goes unmeasured (coordinated omission).

Run as a process of its own: `python -m tests.bench.steady_load` reads one JSON line with the plan from standard input
and writes one with what happened. Requests are bounded in number and go to the loopback interface only.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import orjson

from schemas.synthetic import person


@dataclass
class Tally:
    """What the answers said. Times are in seconds; `accepted_at` is the clock's when the answer was here."""

    accepted_at: dict[str, float] = field(default_factory=dict)
    failed: int = 0
    answered: list[float] = field(default_factory=list)  # from when the request was due
    late: list[float] = field(default_factory=list)  # from when it was due until it was sent


async def _client(plan: dict[str, Any], bodies: list[bytes], turns: Iterator[int], start: float, tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan["port"])
    path = "/v1/stays" if plan["rows"] == 1 else "/v1/stays:batch"
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {plan['key']}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    for turn in turns:
        due = start + turn * plan["rows"] / plan["rate"]
        await asyncio.sleep(max(0.0, due - time.perf_counter()))
        sent = time.perf_counter()
        body = bodies[turn]
        writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        content = orjson.loads(await reader.readexactly(length))
        now = time.time()
        tally.answered.append(time.perf_counter() - due)
        tally.late.append(sent - due)
        results = content.get("results", [content])
        accepted = [result["stay_id"] for result in results if result.get("outcome") == "accepted"]
        tally.accepted_at.update(dict.fromkeys(accepted, now))
        tally.failed += plan["rows"] - len(accepted)
    writer.close()


async def _run(plan: dict[str, Any]) -> dict[str, Any]:
    count = plan["rate"] * plan["seconds"] // plan["rows"]
    bodies = [_body(plan, plan["first"] + turn * plan["rows"]) for turn in range(count)]
    tally = Tally()
    turns = iter(range(count))
    start = time.perf_counter() + 0.1
    async with asyncio.TaskGroup() as tasks:
        for _ in range(min(plan["connections"], count)):
            tasks.create_task(_client(plan, bodies, turns, start, tally))
    seconds = time.perf_counter() - start
    used = os.times()
    return {
        "accepted_at": tally.accepted_at,
        "failed": tally.failed,
        "stays_per_second": round(len(tally.accepted_at) / seconds),
        "answered": tally.answered,
        "late": tally.late,
        "processor_seconds": used.user + used.system,
    }


def _body(plan: dict[str, Any], first: int) -> bytes:
    made = [_declaration(plan, number) for number in range(first, first + plan["rows"])]
    return orjson.dumps(made[0] if plan["rows"] == 1 else made)


def _declaration(plan: dict[str, Any], number: int) -> dict[str, Any]:
    guest = person(number)
    members: dict[str, Any] = {
        "source_ref": f"STEADY-{number}",
        "guest": {
            "full_name": guest.full_name,
            "birth_date": guest.birth_date,
            "gender": guest.gender,
            "nationality": guest.nationality,
            "document": {"type": guest.document_type, "number": guest.document_number},
        },
        "arrived_at": plan["arrived_at"],
        "planned_departure_at": plan["planned_departure_at"],
        "room": "203",
        "reason": 1,
    }
    return members


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(_run(orjson.loads(sys.stdin.buffer.readline())))))
