"""The processes of the fault suite, forked from one that has everything imported, so that a restart takes 20 ms.

A fork server (`python -m tests.faults.processes`) has no loop, no thread and no connection: each process that it forks
is one of its own, as if it had been started anew, and can be killed, paused and left for dead. All of them end with it.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import mmap
import os
import signal
import struct
import sys
import traceback
from collections.abc import Coroutine, Mapping
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson

_PR_SET_PDEATHSIG = 1
_POLL_SECONDS = 0.005


class SharedClock:
    """A clock that several processes share: the system's, plus an offset in a small file."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            path.write_bytes(struct.pack("d", 0.0))
        with path.open("r+b") as file:
            self._memory = mmap.mmap(file.fileno(), 8)

    def __call__(self) -> datetime:
        return datetime.now(UTC) + timedelta(seconds=struct.unpack("d", self._memory[:8])[0])

    def set(self, offset_seconds: float) -> None:
        """Put the clock that much before (or, negative, behind) the system's, for every process at once."""
        self._memory[:8] = struct.pack("d", offset_seconds)


# -- seen from outside -------------------------------------------------------------------------------------------------


class Process:
    """A forked process, which is not our child. Signals to one that is gone do nothing."""

    def __init__(self, pid: int, ready: Path) -> None:
        self.pid = pid
        self._ready = ready
        self._descriptor = os.pidfd_open(pid)
        self._gone = asyncio.Event()
        asyncio.get_running_loop().add_reader(self._descriptor, self._end)

    @property
    def alive(self) -> bool:
        return not self._gone.is_set()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        if self.alive:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, number)

    async def wait(self) -> None:
        """Return when it has ended."""
        await self._gone.wait()

    async def ready(self) -> Mapping[str, int] | None:
        """The ports on which it listens, once it does; None when it ends before."""
        while self.alive:
            with suppress(FileNotFoundError):
                ports: Mapping[str, int] = orjson.loads(self._ready.read_bytes())
                return ports
            await asyncio.sleep(_POLL_SECONDS)
        return None

    def _end(self) -> None:
        asyncio.get_running_loop().remove_reader(self._descriptor)
        os.close(self._descriptor)
        self._gone.set()


class Forker:
    """The fork server."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._server: asyncio.subprocess.Process | None = None
        self._count = 0
        self._asking = asyncio.Lock()

    async def start(self) -> None:
        """Start it; it takes a second to import everything."""
        self._server = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", __name__),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for whoever commands it
        )

    async def stop(self) -> None:
        """End it, and with it all that it forked."""
        if self._server is not None and self._server.returncode is None:
            self._server.kill()
            await self._server.wait()

    async def fork(self, kind: str, log: Path, **order: Any) -> Process:
        """A new `daemon` or `simulator`, whose output is appended to `log`."""
        server = self._server
        if server is None or server.stdin is None or server.stdout is None:
            raise RuntimeError("the fork server is not running")
        async with self._asking:
            self._count += 1
            ready = self._folder / f"ready-{self._count}"
            server.stdin.write(orjson.dumps({"kind": kind, "log": str(log), "ready": str(ready), **order}) + b"\n")
            answer = await server.stdout.readline()
        return Process(int(answer), ready)


# -- seen from inside --------------------------------------------------------------------------------------------------


async def _daemon(order: Mapping[str, Any]) -> None:
    """What `asm-daemon run` does, with a clock and limits of the suite."""
    from asm_daemon.daemon import open_daemon, run, until_signalled
    from asm_daemon.log import configure_logging
    from asm_daemon.settings import load_settings
    from asm_daemon.sync import SyncLimits

    settings = load_settings(order["environment"])
    configure_logging(settings.log_level, settings.deployment)
    stop = asyncio.Event()
    signalled = asyncio.create_task(until_signalled())
    signalled.add_done_callback(lambda _: stop.set())
    limits, clock = SyncLimits(**order["limits"]), SharedClock(Path(order["clock"]))
    async with open_daemon(settings, now=clock, sync_limits=limits) as opened:
        await run(opened, stop, lambda ports: _tell(order, http=ports.http, mllp=ports.mllp))


async def _simulator(order: Mapping[str, Any]) -> None:
    from connectors.population.simulator import serve

    def ready(port: int) -> None:
        _tell(order, http=port)

    await serve(order["database_url"], "127.0.0.1", order["port"], ready=ready, **order["credentials"])


def _tell(order: Mapping[str, Any], **ports: int | None) -> None:
    path = Path(order["ready"])
    making = path.with_suffix(".new")
    making.write_bytes(orjson.dumps(ports))
    making.rename(path)


_KINDS = {"daemon": _daemon, "simulator": _simulator}


def _become(order: Mapping[str, Any]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.setsid()
    log = os.open(order["log"], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    task: Coroutine[Any, Any, None] = _KINDS[order["kind"]](order)
    asyncio.run(task)


def _serve() -> None:
    import asm_daemon.daemon
    import connectors.population.simulator  # noqa: F401 - what its children need

    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them: they leave no zombies
    asm_daemon.daemon.load_connectors()
    gc.freeze()
    while line := sys.stdin.buffer.readline():
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                _become(orjson.loads(line))
                code = 0
            except BaseException:  # noqa: BLE001 - the top of a process
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(code)
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    _serve()
