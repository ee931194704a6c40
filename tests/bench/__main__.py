"""`make bench`: what this machine can take, beside what its parts can take alone, measured in the same run.

    python -m tests.bench [intake] [sync]

Prints tables, and last one line of JSON; ends with 1 if anything was answered wrongly or lost.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import platform
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson

from tests.bench import intake, sync

BENCHES: Mapping[str, Callable[[Path], Awaitable[dict[str, Any]]]] = {"intake": intake.measure, "sync": sync.measure}


async def main(names: Sequence[str]) -> int:
    started = time.perf_counter()
    figures: dict[str, dict[str, Any]] = {}
    for name in names:
        with tempfile.TemporaryDirectory(prefix="asm-bench-") as folder:
            figures[name] = await BENCHES[name](Path(folder))
    machine = {"python": platform.python_version(), "processors": os.cpu_count(), "system": platform.platform()}
    result = {"machine": machine, "seconds": round(time.perf_counter() - started), **figures}
    sys.stdout.buffer.write(orjson.dumps(result) + b"\n")
    return 1 if any(each["failed"] for each in figures.values()) else 0


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="what this machine can take")
    parser.add_argument("names", nargs="*", choices=[*BENCHES, []], metavar="NAME", help=f"of {', '.join(BENCHES)}")
    raise SystemExit(asyncio.run(main(parser.parse_args().names or [*BENCHES])))
