"""Admissions over one MLLP connection, one after the other or many sent ahead; every acknowledgement is checked.

Run as a process of its own: `python -m tests.bench.mllp_load` reads one JSON line with the plan from standard input and
writes one with what happened. Messages are bounded in number and go to the loopback interface only.
"""

from __future__ import annotations

import asyncio
import sys
import time
from typing import Any

import orjson

from asm_daemon.samples_directory import HOSPITAL_SENDER
from schemas.codes import DocumentType
from schemas.synthetic import person

_START, _END = b"\x0b", b"\x1c\r"


def _frame(index: int, admitted: str) -> bytes:
    guest = person(index)
    family, *middle, given = guest.full_name.split()
    sender = "|".join(HOSPITAL_SENDER)
    kind = "PPN" if guest.document_type == DocumentType.PASSPORT else "NI"
    lines = (
        rf"MSH|^~\&|{sender}|ASM|HY|{admitted}||ADT^A01|BENCH-{index}|P|2.5||||||UNICODE UTF-8",
        f"EVN||{admitted}",
        f"PID|1||{guest.document_number}^^^^{kind}~BN{index}^^^^MR||{family}^{given}^{' '.join(middle)}||"
        f"{guest.birth_date.replace('-', '')}|{guest.gender}" + "|" * 18 + guest.nationality,
        f"PV1|1|I|KHOA^1^1||||||||||||||||BENCH-{index}|||||||||||||||||||||||||{admitted}",
    )
    return _START + "\r".join(lines).encode() + _END


async def _run(plan: dict[str, Any]) -> dict[str, Any]:
    frames = [_frame(plan["first"] + index, plan["admitted"]) for index in range(plan["messages"])]
    reader, writer = await asyncio.open_connection("127.0.0.1", plan["port"])
    ahead = asyncio.Semaphore(plan["ahead"])
    sent: list[float] = []
    latencies, accepted, failed = [], 0, dict[str, int]()

    async def send() -> None:
        for frame in frames:
            await ahead.acquire()
            sent.append(time.perf_counter())
            writer.write(frame)
            await writer.drain()

    started = time.perf_counter()
    sending = asyncio.create_task(send())
    for place in range(len(frames)):
        answer = await reader.readuntil(_END)
        latencies.append(time.perf_counter() - sent[place])
        ahead.release()
        code = answer.split(b"MSA|", 1)[1][:2].decode()
        if code == "AA":
            accepted += 1
        else:
            failed[code] = failed.get(code, 0) + 1
    seconds = time.perf_counter() - started
    await sending
    writer.close()
    latencies.sort()
    return {
        "messages": accepted,
        "failed": failed,
        "messages_per_second": round(accepted / seconds),
        "p50_ms": round(latencies[len(latencies) // 2] * 1000, 1),
        "p99_ms": round(latencies[len(latencies) * 99 // 100] * 1000, 1),
    }


def main() -> None:
    """Carry out the plan of standard input."""
    plan = orjson.loads(sys.stdin.buffer.readline())
    sys.stdout.buffer.write(orjson.dumps(asyncio.run(_run(plan))) + b"\n")


if __name__ == "__main__":
    main()
