"""When to look for work, where to go on reading, and when to leave a side alone that does not answer.

Nothing here touches the work itself: each part can be wrong about the world and only time is lost.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import UUID

import asyncpg
import structlog

from schemas.population import Ambiguous

CHANNEL = "asm_sync"
DATABASE_AWAY = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what asyncpg calls a session that the server ended while it was idle
    OSError,
    TimeoutError,
)
"""What our own database raises when it is gone, going, read-only or too slow: try again a moment later."""
DATABASE_RETRY_SECONDS = 1.0
_SILENCE_SECONDS = 1.0
FIRST_STAY = UUID(int=0)
"""Sorts before every stay."""

log = structlog.get_logger()


@asynccontextmanager
async def answering(seconds: float) -> AsyncIterator[None]:
    """An answer that does not come in time is an ambiguous one, should the client's own timeouts fail."""
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError:
        raise Ambiguous("timeout") from None


class Doorbell:
    """Says that there may be work, to this process at once and to others soon; it carries no message.

    Nothing depends on it: a worker that misses a ring looks a moment later anyway.
    """

    def __init__(self) -> None:
        self._here = asyncio.Event()
        self._elsewhere = asyncio.Event()

    def ring(self) -> None:
        """There is new work, for whoever holds its lane."""
        self._here.set()
        self._elsewhere.set()

    def wake(self) -> None:
        """Let the worker of this process look again."""
        self._here.set()

    async def wait(self, seconds: float) -> None:
        """Return when it rang since the last wait, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._here.wait()
        self._here.clear()

    async def run(self, pool: asyncpg.Pool, *, debounce_seconds: float = 0.01) -> None:
        """Carry rings between processes, over one connection of `pool`, until cancelled.

        A NOTIFY inside a writer's transaction would make all writers commit one after another; here it stands alone,
        and many rings become one.
        """
        while True:
            try:
                async with pool.acquire() as connection:
                    await self._exchange(connection, debounce_seconds)
            except DATABASE_AWAY as error:
                log.warning("sync.doorbell_lost", exc_info=error)
                await asyncio.sleep(DATABASE_RETRY_SECONDS)

    async def _exchange(self, connection: asyncpg.pool.PoolConnectionProxy, debounce_seconds: float) -> None:
        own = connection.get_server_pid()

        def heard(_connection: object, pid: int, _channel: object, _payload: object) -> None:
            if pid != own:
                self._here.set()

        def lost(_connection: object) -> None:
            self._elsewhere.set()

        connection.add_termination_listener(lost)
        await connection.add_listener(CHANNEL, heard)
        try:
            while True:
                await self._elsewhere.wait()
                self._elsewhere.clear()
                await connection.execute(f"NOTIFY {CHANNEL}")
                await asyncio.sleep(debounce_seconds)
        finally:
            connection.remove_termination_listener(lost)
            with suppress(*DATABASE_AWAY):  # the pool makes the connection clean, or ends it
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await connection.remove_listener(CHANNEL, heard)


@dataclass(slots=True)
class Breaker:
    """Leaves a side alone that does not answer: closed, after `limit` failures in a row open, then one probe at a time.

    `clock` readings are seconds of one monotonic clock.
    """

    limit: int
    open_seconds: float
    failures: int = 0
    opened: int = 0
    _until: float | None = None
    _probing: bool = False

    def state(self, clock: float) -> str:
        """`closed`, `open` or `half_open`."""
        if self._until is None:
            return "closed"
        return "open" if clock < self._until else "half_open"

    def room(self, wanted: int, clock: float) -> int:
        """How many of `wanted` stays may be sent: all, none, or one as a probe."""
        match self.state(clock):
            case "closed":
                return wanted
            case "half_open" if not self._probing:
                return min(wanted, 1)
        return 0

    def started(self) -> bool:
        """A batch is on its way; whether it is the probe."""
        self._probing = self._until is not None
        return self._probing

    def probe_ended(self) -> None:
        """The probe is done with, whether or not it came to a request."""
        self._probing = False

    def succeeded(self) -> None:
        """The other side answered."""
        self.failures = 0
        self._until = None

    def failed(self, clock: float, pause_seconds: float | None = None) -> None:
        """A request failed; `pause_seconds` is how long the other side asked to be left alone, if it did."""
        self.failures += 1
        if pause_seconds is None and self.failures < self.limit:
            return
        if self._until is None:
            self.opened += 1
        self._until = clock + max(self.open_seconds, pause_seconds or 0.0)


@dataclass(slots=True)
class Cursor:
    """Where reading the queue goes on.

    Ids come in the order of time, but only nearly: some commit late, and corrections are of old stays. So reading goes
    back a little behind the newest id, and every so often starts again from the first.
    """

    after: UUID = FIRST_STAY
    newest: UUID = FIRST_STAY
    swept_at: float = float("-inf")

    def start(self, clock: float, sweep_seconds: float) -> UUID:
        """The id after which to read now."""
        if clock - self.swept_at >= sweep_seconds:
            self.sweep()
            self.swept_at = clock
        return self.after

    def sweep(self) -> None:
        """Start again from the first id."""
        self.after = FIRST_STAY
        self.swept_at = float("-inf")

    def passed(self, stay_id: UUID) -> None:
        """This stay was looked at."""
        self.after = stay_id
        self.newest = max(self.newest, stay_id)

    def caught_up(self, read_back_seconds: float) -> None:
        """There was nothing behind the last stay that was looked at."""
        milliseconds = (self.newest.int >> 80) - round(read_back_seconds * 1000)
        self.after = UUID(int=max(0, milliseconds) << 80)
