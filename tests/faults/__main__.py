"""`make faults`: run many seeds, and say in one JSON object, the last line, what became of them.

Lanes run side by side, each a process with a system of its own; the next seed goes to the lane that is free.
"""

from __future__ import annotations

import argparse
import asyncio
import shutil
import statistics
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import structlog

from tests.faults.environment import Lane
from tests.faults.faults import DATABASE_SILENCE, DISK_FULL, KINDS
from tests.faults.run import Result, run_seed

KEPT = Path(".faults")
"""Where the journal and the logs of failed runs stay."""
LOST = ("accepted_acts_exist",)
DUPLICATED = ("no_stay_twice_for_one_key", "no_guest_in_house_twice", "effects_happen_once")
"""The auditor's checks that find what was lost, and what was done twice."""
_LINE_BYTES = 1 << 20


# -- one lane, a process of its own ------------------------------------------------------------------------------------


async def _lane(only: str | None) -> int:
    """Run the seeds that come in, one a line; answer each with a line of JSON. The first line says what is left out."""
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())  # what we say is for the process above
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    with tempfile.TemporaryDirectory(prefix="asm-faults-", ignore_cleanup_errors=True) as folder:
        lane = Lane(Path(folder))
        await lane.start()
        try:
            _say({"left_out": [] if lane.small else [str(DISK_FULL)]})
            while line := await reader.readline():
                result = await run_seed(lane, int(line), KEPT / f"seed-{int(line)}", only=only)
                if not result.faults:
                    shutil.rmtree(result.folder)
                _say(result)
        finally:
            await lane.stop()
    return 0


def _say(content: Any) -> None:
    sys.stdout.buffer.write(orjson.dumps(content) + b"\n")
    sys.stdout.buffer.flush()


# -- all of them -------------------------------------------------------------------------------------------------------


class Campaign:
    """The seeds still to run, and what became of those that did."""

    def __init__(self, seeds: Iterable[int], minutes: float | None, only: str | None) -> None:
        self.results: list[Result] = []
        self.left_out: set[str] = set()
        self._waiting = deque(seeds)
        self._only = only
        self._until = None if minutes is None else time.monotonic() + minutes * 60

    async def run(self, parallel: int) -> None:
        """Run them all, so many side by side."""
        async with asyncio.TaskGroup() as tasks:
            for _ in range(parallel):
                tasks.create_task(self._drive())

    async def _drive(self) -> None:
        """One lane at work. When it dies under a seed, the seed has failed and a new lane takes its place."""
        while seed := self._next():
            command = [sys.executable, "-m", "tests.faults", "--lane"]
            command += ["--only", self._only] if self._only else []
            pipe = asyncio.subprocess.PIPE
            process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, limit=_LINE_BYTES)
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("a process without pipes")
            hello = await process.stdout.readline()
            if not hello:
                raise RuntimeError("a lane could not start")
            self.left_out.update(orjson.loads(hello)["left_out"])
            while seed is not None:
                process.stdin.write(f"{seed[0]}\n".encode())
                line = await process.stdout.readline()
                result = Result(**orjson.loads(line)) if line else Result(seed[0], ["the lane died"])
                self._enter(result)
                if not line:
                    break
                seed = self._next()
            process.stdin.close()
            with suppress(ProcessLookupError):
                await process.wait()

    def _next(self) -> tuple[int] | None:
        if not self._waiting or (self._until is not None and time.monotonic() > self._until):
            return None
        return (self._waiting.popleft(),)

    def _enter(self, result: Result) -> None:
        self.results.append(result)
        if result.faults:
            again = f"python -m tests.faults --first-seed {result.seed} --seeds 1"
            lines = [f"seed {result.seed} FAILED; again: {again}", *(f"  {fault}" for fault in result.faults)]
            lines.append(f"  journal and logs: {Path(result.folder).resolve()}")
        elif len(self.results) % 20 == 0:
            lines = [f"{len(self.results)} seeds, {sum(bool(one.faults) for one in self.results)} failed"]
        else:
            return
        sys.stdout.write("".join(f"{line}\n" for line in lines))
        sys.stdout.flush()


def totals(results: Sequence[Result], left_out: Iterable[str], elapsed_seconds: float) -> dict[str, Any]:
    """The totals of a campaign, as its last line shows them."""
    injected: Counter[str] = Counter()
    counts: Counter[str] = Counter()
    for result in results:
        injected.update(result.injected)
        counts.update(result.counts)
    found = Counter(fault.partition(":")[0] for result in results for fault in result.faults)
    converged = [result.converge_seconds for result in results if result.converge_seconds is not None]
    return {
        "seeds": len(results),
        "failed": sorted({result.seed for result in results if result.faults}),
        "faults_injected": sum(injected.values()),
        "faults_by_kind": dict(sorted(injected.items())),
        "never_struck": sorted(
            {str(kind) for kind in KINDS} - {str(DATABASE_SILENCE)} - injected.keys() - set(left_out)
        ),
        "left_out": sorted(left_out),
        "acts": counts["acts"],
        "accepted": counts["accepted"] + counts["duplicate"],
        "refused": counts["refused"],
        "unknown": counts["unknown"],
        "lost": sum(found[check] for check in LOST),
        "duplicated": sum(found[check] for check in DUPLICATED),
        "findings_by_check": dict(sorted(found.items())),
        "police_searches": counts["searches"],
        "repaired": sum(result.repaired for result in results),
        "converge_seconds": {
            "median": round(statistics.median(converged), 2) if converged else None,
            "worst": round(max(converged), 2) if converged else None,
        },
        "unasked_ends": sum(result.unasked_ends for result in results),
        "elapsed_seconds": round(elapsed_seconds, 1),
    }


async def _campaign(options: argparse.Namespace) -> int:
    started = time.monotonic()
    seeds = list(range(options.first_seed, options.first_seed + options.seeds))
    campaign = Campaign(seeds, options.minutes, options.only)
    await campaign.run(options.parallel)
    result = totals(campaign.results, campaign.left_out, time.monotonic() - started)
    sys.stdout.flush()
    _say(result)
    return 1 if result["failed"] else 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run (100)")
    parser.add_argument("--first-seed", type=int, default=1, help="the first of them (1)")
    parser.add_argument("--parallel", type=int, default=2, help="how many side by side (2)")
    parser.add_argument("--minutes", type=float, help="begin no seed after so many minutes")
    parser.add_argument("--only", help="only faults whose kind begins so, such as database_ or link_http")
    parser.add_argument("--lane", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    return asyncio.run(_lane(options.only) if options.lane else _campaign(options))


if __name__ == "__main__":
    sys.exit(main())
