"""A load generator that costs little: raw keep-alive HTTP over asyncio streams, every answer checked.

Run as a process of its own: `python -m tests.bench.http_load` reads one JSON line with the plan from standard input and
writes one with what happened. Requests are bounded in number and go to the loopback interface only.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass
class Tally:
    """What the answers said."""

    ok: int = 0
    failed: dict[str, int] = field(default_factory=dict)
    seconds: list[float] = field(default_factory=list)


async def _client(plan: dict[str, Any], bodies: list[bytes], tally: Tally) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", plan["port"])
    head = (
        f"POST {plan['path']} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {plan['key']}\r\n"
        "Content-Type: application/json\r\nContent-Length: "
    ).encode()
    while bodies:
        body = bodies.pop()
        started = time.perf_counter()
        writer.write(head + str(len(body)).encode() + b"\r\n\r\n" + body)
        answer = await reader.readuntil(b"\r\n\r\n")
        length = int(answer.lower().split(b"content-length:", 1)[1].split(b"\r\n", 1)[0])
        content = await reader.readexactly(length)
        tally.seconds.append(time.perf_counter() - started)
        status = answer[9:12].decode()
        if status == plan["expected"]:
            tally.ok += content.count(b'"outcome":"accepted"')
        else:
            tally.failed[status] = tally.failed.get(status, 0) + 1
    writer.close()


async def _run(plan: dict[str, Any]) -> dict[str, Any]:
    bodies = _bodies(plan)
    tally = Tally()
    started = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for _ in range(plan["connections"]):
            tasks.create_task(_client(plan, bodies, tally))
    seconds = time.perf_counter() - started
    latencies = sorted(tally.seconds)
    return {
        "rows": tally.ok,
        "failed": tally.failed,
        "rows_per_second": round(tally.ok / seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 1),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 1),
    }


def _bodies(plan: dict[str, Any]) -> list[bytes]:
    """Declarations of different people, made before the clock starts."""
    first, rows = plan["first"], plan["rows"]
    made = []
    for start in range(first, first + plan["requests"] * rows, rows):
        batch = [_declaration(plan, number) for number in range(start, start + rows)]
        made.append(orjson.dumps(batch[0] if plan["single"] else batch))
    return made


def _declaration(plan: dict[str, Any], number: int) -> dict[str, Any]:
    return {
        "source_ref": f"BENCH-{number}",
        "guest": {
            "full_name": "NGUYỄN VĂN THỬ",
            "birth_date": "1990-05-14",
            "gender": "M",
            "nationality": "VNM",
            "document": {"type": 1, "number": f"00009{number:07d}"},
        },
        "arrived_at": plan["arrived_at"],
        "planned_departure_at": plan["planned_departure_at"],
        "room": "203",
        "reason": 1,
    }


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(_run(orjson.loads(sys.stdin.buffer.readline())))))
