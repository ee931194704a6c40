"""Two job queues on PostgreSQL that many would take for such work, draining jobs that do nothing.

Run as a process of its own: `python -m tests.bench.queues` reads one JSON line with the plan from standard input
(engine, database_url, jobs, seconds) and writes one with what happened. They are not dependencies of the daemon:
`make bench` installs them, and without them the answer is `{"missing": …}`.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import sys
import time
from typing import Any

import asyncpg
import orjson

PGQUEUER_BATCH = 500  # of 10, 100 and 500 the fastest; its default is 10
PROCRASTINATE_CONCURRENCY = 10  # it takes one job per statement; more at once hardly help
ENQUEUED_AT_ONCE = 5_000


async def _pgqueuer(plan: dict[str, Any]) -> dict[str, Any]:
    """As its own benchmark does it: the asyncpg driver, and `drain` mode, which ends when the queue is empty."""
    drivers = importlib.import_module("pgqueuer.db")
    core = importlib.import_module("pgqueuer")
    connection = await asyncpg.connect(plan["database_url"])
    driver = drivers.AsyncpgDriver(connection)
    queries = importlib.import_module("pgqueuer.queries").Queries(driver)
    await queries.install()
    started = time.perf_counter()
    for start in range(0, plan["jobs"], ENQUEUED_AT_ONCE):
        count = min(ENQUEUED_AT_ONCE, plan["jobs"] - start)
        await queries.enqueue(["nothing"] * count, [None] * count, [0] * count)
    enqueued = time.perf_counter()
    await connection.execute("VACUUM ANALYZE")
    manager = core.QueueManager(queries)
    done = 0

    async def nothing(_job: Any) -> None:
        nonlocal done
        done += 1

    manager.entrypoint("nothing")(nothing)
    mode = importlib.import_module("pgqueuer.types").QueueExecutionMode.drain
    begun = time.perf_counter()
    running = asyncio.create_task(manager.run(batch_size=PGQUEUER_BATCH, mode=mode))
    await asyncio.wait([running], timeout=plan["seconds"])
    seconds = time.perf_counter() - begun
    finished = done
    if running.done():
        running.result()
    else:
        manager.shutdown.set()
        await running
    return _result(plan, finished, seconds, enqueued - started)


async def _procrastinate(plan: dict[str, Any]) -> dict[str, Any]:
    """One worker with its own connection pool; finished jobs are kept, which is its default."""
    procrastinate = importlib.import_module("procrastinate")
    app = procrastinate.App(connector=procrastinate.PsycopgConnector(conninfo=plan["database_url"]))
    done = 0

    async def nothing() -> None:
        nonlocal done
        done += 1

    task = app.task(name="nothing")(nothing)
    async with app.open_async():
        await app.schema_manager.apply_schema_async()
        started = time.perf_counter()
        for start in range(0, plan["jobs"], ENQUEUED_AT_ONCE):
            await task.batch_defer_async(*({} for _ in range(min(ENQUEUED_AT_ONCE, plan["jobs"] - start))))
        enqueued = time.perf_counter()
        connection = await asyncpg.connect(plan["database_url"])
        await connection.execute("VACUUM ANALYZE")
        await connection.close()
        begun = time.perf_counter()
        worker = app.run_worker_async(concurrency=PROCRASTINATE_CONCURRENCY, wait=False, install_signal_handlers=False)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(plan["seconds"]):
                await worker
        seconds = time.perf_counter() - begun
    return _result(plan, done, seconds, enqueued - started)


def _result(plan: dict[str, Any], done: int, seconds: float, enqueuing: float) -> dict[str, Any]:
    used = os.times()
    return {
        "jobs": done,
        "of": plan["jobs"],
        "seconds": round(seconds, 1),
        "jobs_per_second": round(done / seconds),
        "enqueued_per_second": round(plan["jobs"] / enqueuing),
        "processor_seconds": round(used.user + used.system, 1),
    }


async def _run(plan: dict[str, Any]) -> dict[str, Any]:
    logging.disable(logging.ERROR)
    return await {"pgqueuer": _pgqueuer, "procrastinate": _procrastinate}[plan["engine"]](plan)


def main() -> dict[str, Any]:
    plan = orjson.loads(sys.stdin.buffer.readline())
    try:
        importlib.import_module(plan["engine"])
        loop = importlib.import_module("uvloop")  # faster than the loop of the standard library, to their advantage
    except ModuleNotFoundError as error:
        return {"missing": error.name}
    with asyncio.Runner(loop_factory=loop.new_event_loop) as runner:
        return runner.run(_run(plan))


if __name__ == "__main__":
    sys.stdout.buffer.write(orjson.dumps(main()))
