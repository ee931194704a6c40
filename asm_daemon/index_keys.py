"""Asking the database by tags while an index key may be renewed.

Others tag with a new key seconds before this process knows it, so whoever must miss nothing looks at the keys again
after reading, and asks once more if they were too few.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TypeVar

import structlog

from asm_daemon.crypto import Keyring, KeyStoreError
from asm_daemon.problems import Refused

ROUNDS = 3
"""How often a reader asks because the index keys changed while it read: they do once in a great while."""
_Question = TypeVar("_Question")
_Answer = TypeVar("_Answer")

log = structlog.get_logger()


async def ask_by_every_key(
    keyring: Keyring, question: Callable[[], _Question], read: Callable[[_Question], Awaitable[_Answer]]
) -> _Answer:
    """What `read` finds by `question()`, which is made of the keyring and still the same after reading.

    Refused `unavailable` if the key store is away, or its keys change all the time.
    """
    asked = question()
    for _ in range(ROUNDS):
        found = await read(asked)
        before = asked
        await _look(keyring)
        asked = question()
        if asked == before:
            return found
    raise Refused("unavailable", retry_after_seconds=5)


async def _look(keyring: Keyring) -> None:
    try:
        await asyncio.to_thread(keyring.reload)  # a stat; of changed keys a token or a vault is asked, which takes time
    except KeyStoreError as error:
        log.warning("index_keys.store_away", exc_info=error)
        raise Refused("unavailable", retry_after_seconds=60) from None
