"""A PostgreSQL that takes what is sent and says nothing: neither an error nor a closed connection."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from asm_daemon.embedded import EmbeddedPostgres


@contextmanager
def silent(server: EmbeddedPostgres) -> Iterator[None]:
    """Stop every process of the server (SIGSTOP), and let them go on after the block."""
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    stopped = [server.process.pid]
    os.kill(server.process.pid, signal.SIGSTOP)  # first, so that it makes no more of them
    stopped += map(int, children.read_text("ascii").split())
    try:
        for pid in stopped[1:]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in reversed(stopped):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)
